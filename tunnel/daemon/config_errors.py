"""Conversion of pydantic's validation errors to messages for the operator, each with its key."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any, TypeAlias

from pydantic import ValidationError
from pydantic_core import ErrorDetails

REMOVED = {"lane_threads": "use `workers` to run on several CPUs"}
"""Keys of earlier releases, and their replacements."""

Problem: TypeAlias = tuple[str, str]
"""A key as written in the file, and its problem."""

_SHAPES = {
    "missing": "is missing",
    "model_type": "must be a table",
    "tuple_type": "must be a list in square brackets",
    "frozen_set_type": "must be a list in square brackets",
    "too_short": "must not be empty: no user could connect",
    "int_type": "must be an integer",
    "bool_type": "must be true or false, without quotes",
}


def problems_of(
    error: ValidationError, tables: Mapping[str, Any], known: Mapping[str, Collection[str]]
) -> list[Problem]:
    """Turn ``error`` into problems. ``tables`` is the file as read, ``known`` each section's keys."""
    return [
        (_key(each["loc"]), _explain(each, known) + _whose(each["loc"], tables)) for each in error.errors()
    ]


def _key(location: tuple[int | str, ...]) -> str:
    """``("peer", 0, "egress", 1)`` is ``peer[0].egress[1]``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def _explain(error: ErrorDetails, known: Mapping[str, Collection[str]]) -> str:
    if error["type"] == "extra_forbidden":
        return _unknown(error["loc"], known)
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return _SHAPES.get(error["type"]) or error["msg"].replace("Input should be", "must be")


def _unknown(location: tuple[int | str, ...], known: Mapping[str, Collection[str]]) -> str:
    if removed := REMOVED.get(str(location[-1])):
        return f"is no longer supported: {removed}"
    keys = known[str(location[0]) if len(location) > 1 else ""]
    nearest = get_close_matches(str(location[-1]), keys, n=1)
    return (
        f"unknown key: did you mean {nearest[0]!r}?"
        if nearest
        else f"unknown key: expected one of {', '.join(keys)}"
    )


def _whose(location: tuple[int | str, ...], tables: Mapping[str, Any]) -> str:
    """Return the peer of an entry as a suffix, so that the operator need not count tables."""
    match location:
        case ("peer", int(index), str(key), *_) if key != "name":
            name = _entry(tables, "peer", index).get("name")
        case ("ingress", int(index), str(key), *_) if key != "peer":
            name = _entry(tables, "ingress", index).get("peer")
        case _:
            return ""
    return f" (peer {name})" if isinstance(name, str) else ""


def _entry(tables: Mapping[str, Any], section: str, index: int) -> Mapping[str, Any]:
    entry = tables[section][index]
    return entry if isinstance(entry, Mapping) else {}
