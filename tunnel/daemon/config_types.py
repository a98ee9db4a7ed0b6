"""Parsers for the values of the configuration file.

Each type is that of the parsed value, annotated with its parser. Parsers raise ValueError with a message for
the operator; pydantic adds the key.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, PlainValidator, StrictInt, ValidationInfo

from tunnel.host.users import uid_of
from tunnel.relay import address, allow_list
from tunnel.relay.address import DEFAULT_PORT, MAX_UNIX_PATH_BYTES
from tunnel.units import format_duration, format_size, parse_duration, parse_size
from tunnel.wire.codec import MAX_STREAMS

QEMU_USERS = ("libvirt-qemu", "qemu")
"""The default user of QEMU under libvirt (``user`` in qemu.conf): on Debian; on Fedora, RHEL and SUSE."""

DEFAULT_USERS = ("root", *QEMU_USERS)
MAX_WORKERS = 64
MIN_MEMORY = 64 * 2**20
MAX_MEMORY = 2**40
MAX_RESUME_WINDOW = 3600.0
MIN_ROTATE_AFTER = 60.0
MAX_ROTATE_AFTER = 30 * 24 * 3600.0
_UID = re.compile(r"[0-9]{1,10}")
CONGESTION_CONTROLS = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


class LaneChoice(StrEnum):
    """Where TLS records are encrypted: in this process, in the kernel, or automatic (self-test and cost)."""

    AUTO = "auto"
    USERSPACE = "userspace"
    KERNEL = "kernel"


def default_uids() -> frozenset[int]:
    """Return the default users of an ingress: those of ``DEFAULT_USERS`` that exist on this host."""
    uids = set()
    for user in DEFAULT_USERS:
        with suppress(ValueError):
            uids.add(_uid(user))
    return frozenset(uids)


def _text(parse: Callable[[str], object]) -> PlainValidator:
    """Return a validator that applies ``parse`` to a string."""

    def read(value: object) -> object:
        if not isinstance(value, str):
            raise ValueError(f"must be a quoted string, not {value!r}")  # noqa: TRY004  pydantic lets others through
        return parse(value)

    return PlainValidator(read)


def _path(value: object, info: ValidationInfo) -> Path:
    """Resolve a path relative to the file, whose directory is in the validation context."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"must be a quoted path, not {value!r}")
    if "\0" in value:
        raise ValueError(f"{value!r} contains a NUL character")
    directory: Path = info.context["directory"] if info.context else Path.cwd()
    return directory / value


def _socket_path(path: Path) -> Path:
    if not path.name or path.name == "..":
        raise ValueError(f"the socket path {path} has no file name")
    size = len(os.fsencode(path))
    if size > MAX_UNIX_PATH_BYTES:
        raise ValueError(f"the socket path {path} has {size} bytes, the limit is {MAX_UNIX_PATH_BYTES}")
    return path


def _peer_endpoint(text: str) -> address.Endpoint:
    endpoint = address.parse_endpoint(text, DEFAULT_PORT)
    if endpoint.host in {"0.0.0.0", "::"}:  # noqa: S104  nothing is bound
        raise ValueError(f"{endpoint.host} is a wildcard address: write an address of the peer")
    return endpoint


def _own_endpoint(text: str, default_port: int | None = None) -> address.Endpoint:
    endpoint = address.parse_endpoint(text, default_port)
    try:
        ipaddress.ip_address(endpoint.host)
    except ValueError:
        raise ValueError(
            f"{endpoint.host!r} is not an IP address: write one of this host, or 0.0.0.0 for all"
        ) from None
    return endpoint


def _uid(user: str) -> int:
    if _UID.fullmatch(user) and int(user) < 2**32 - 1:
        return int(user)
    try:
        return uid_of(user)
    except (KeyError, ValueError):
        raise ValueError(f"there is no user {user!r} on this host") from None


def _lane(text: str) -> LaneChoice:
    try:
        return LaneChoice(text)
    except ValueError:
        raise ValueError(f"must be one of {', '.join(LaneChoice)}, not {text!r}") from None


def _workers(value: object) -> int | None:
    if value == "auto":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_WORKERS:
        return value
    raise ValueError(f'must be "auto" or a number from 1 to {MAX_WORKERS}, not {value!r}')


def _congestion(name: str) -> str:
    try:
        available = CONGESTION_CONTROLS.read_text(encoding="ascii").split()
    except OSError:
        return name
    if name not in available:
        raise ValueError(f"{name!r} is not available: this host has {', '.join(available)}")
    return name


def _memory(value: object) -> int:
    size = parse_size(value)
    if size < MIN_MEMORY:
        raise ValueError(f"{value!r} is too small: a link needs at least {format_size(MIN_MEMORY)}")
    if size > MAX_MEMORY:
        raise ValueError(f"{value!r} is too large: at most {format_size(MAX_MEMORY)}")
    return size


def _resume_window(value: object) -> float:
    seconds = parse_duration(value)
    if seconds > MAX_RESUME_WINDOW:
        raise ValueError(
            f"{value!r} is too long: at most {format_duration(MAX_RESUME_WINDOW)}, or 0s to disable"
        )
    return seconds


def _rotate_after(value: object) -> float:
    seconds = parse_duration(value)
    if seconds and not MIN_ROTATE_AFTER <= seconds <= MAX_ROTATE_AFTER:
        least, most = f"{MIN_ROTATE_AFTER:g}s", f"{MAX_ROTATE_AFTER / 3600:g}h"
        raise ValueError(f"{value!r} is out of range: {least} to {most}, or 0s to disable")
    return seconds


HostName = Annotated[str, _text(address.parse_name)]
PeerEndpoint = Annotated[address.Endpoint, _text(_peer_endpoint)]
LinkEndpoint = Annotated[address.Endpoint, _text(lambda text: _own_endpoint(text, DEFAULT_PORT))]
MetricsEndpoint = Annotated[address.Endpoint, _text(_own_endpoint)]
Listen = Annotated[address.ListenAddress, _text(address.parse_listen)]
Target = Annotated[address.TargetAddress, _text(address.parse_target)]
Rule = Annotated[allow_list.AllowRule, _text(allow_list.parse_rule)]
FilePath = Annotated[Path, PlainValidator(_path)]
SocketPath = Annotated[Path, PlainValidator(_path), AfterValidator(_socket_path)]
Uid = Annotated[int, _text(_uid)]
Lane = Annotated[LaneChoice, _text(_lane)]
Lanes = Annotated[StrictInt, Field(ge=1, le=16)]
WorkerCount = Annotated[int | None, PlainValidator(_workers)]
Streams = Annotated[StrictInt, Field(ge=16, le=MAX_STREAMS)]
Congestion = Annotated[str, _text(_congestion)]
Memory = Annotated[int, PlainValidator(_memory)]
Duration = Annotated[float, PlainValidator(parse_duration)]
ResumeWindow = Annotated[float, PlainValidator(_resume_window)]
RotateAfter = Annotated[float, PlainValidator(_rotate_after)]
Records = Annotated[StrictInt, Field(ge=1024, le=2**24)]
