"""Host names: one rule, for certificates and for configuration.

A name is letters, digits, hyphens and underscores between dots, at most 63 to a label and 253 in total, and
no label begins or ends with a hyphen: RFC 1123 section 2.1, and the underscore as well, since such hosts
exist and their certificates compare well. The last label is no number, so that no name looks like an address.
Case is not significant; the final dot of an absolute name (RFC 1034 section 3.1) is not either, and is
dropped.
"""

from __future__ import annotations

import ipaddress
import re

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_LONGEST = 253


def folded(name: str) -> str:
    """Return ``name`` in the form that is compared: in lower case, without a final dot."""
    return name.lower().removesuffix(".")


def host_name(text: str) -> str:
    """Return ``text`` as a host name, folded. Raises ValueError with a message for the operator."""
    if fault := fault_of(text):
        raise ValueError(f"{text!r} is not a host name: {fault}")
    return folded(text)


def fault_of(text: str) -> str:
    """Return why ``text`` cannot be a host name, "" if it can."""
    if _is_address(text):
        return "it is an IP address"
    if "*" in text:
        return "it has a wildcard; use the exact name of the host"
    name = folded(text)
    labels = name.split(".")
    # Letters beyond ASCII may become ASCII ones in lower case: check the text before folding.
    if not text.isascii() or len(name) > _LONGEST or not all(map(_LABEL.fullmatch, labels)):
        return (
            "a name is letters, digits, inner hyphens and underscores, at most 63 between dots "
            f"and {_LONGEST} in total"
        )
    return "it ends in a number" if labels[-1].isdigit() else ""


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
