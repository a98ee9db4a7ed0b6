"""Configuration files of mtunnel, as demonstrations, benchmarks and tests write them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping

Values = Mapping[str, object]
"""The keys of a section: strings, numbers, lists of them, or objects written as ``str()``; None: omitted."""


def config_text(
    host: Values,
    tls: Values,
    transport: Values | None = None,
    peers: Iterable[Values] = (),
    ingresses: Iterable[Values] = (),
) -> str:
    """Return a configuration file, or its first part, to which further sections may be added."""
    several = [("[[peer]]", peer) for peer in peers] + [("[[ingress]]", ingress) for ingress in ingresses]
    one = [("[host]", host), ("[tls]", tls), ("[transport]", transport or {})]
    return "".join(section(head, values) for head, values in (*one, *several))


def section(head: str, values: Values) -> str:
    """Return one section; ``head`` is ``[host]``, ``[[peer]]`` or another."""
    # JSON strings, numbers and lists of strings are valid TOML.
    lines = [
        f"{key} = {json.dumps(value, default=str)}" for key, value in values.items() if value is not None
    ]
    return "\n".join([head, *lines, "", ""])


def own_user() -> list[str]:
    """Return the ``users`` of an ingress for the current user alone."""
    return [str(os.geteuid())]
