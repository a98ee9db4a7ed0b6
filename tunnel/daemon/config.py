"""The configuration file: ``load`` parses and validates it once; all values are typed from then on.

The models mirror the tables of the file; docs/configuration.md explains every key. ``config_types`` parses
the values, ``cross_checks`` compares them with each other, and ``load`` reports the problems of both in one
error. ``preflight`` checks what is outside the file (certificates, directories, ports).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from tunnel.daemon import toml_text
from tunnel.daemon.config_errors import Problem, problems_of
from tunnel.daemon.config_types import (
    Congestion,
    Duration,
    FilePath,
    HostName,
    Lane,
    LaneChoice,
    Lanes,
    LinkEndpoint,
    Listen,
    Memory,
    MetricsEndpoint,
    PeerEndpoint,
    Records,
    ResumeWindow,
    RotateAfter,
    Rule,
    SocketPath,
    Streams,
    Target,
    Uid,
    WorkerCount,
    default_uids,
)
from tunnel.daemon.cross_checks import contradictions
from tunnel.errors import ConfigError
from tunnel.files import read_regular
from tunnel.relay.address import TargetAddress, default_target
from tunnel.relay.allow_list import AllowList
from tunnel.wire.session import DEFAULT_LIMITS

DEFAULT_CONTROL = Path("/run/mtunnel/control.sock")


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HostConfig(_Table):
    """``[host]``: this host. ``drain_timeout`` is in seconds (0: none)."""

    name: HostName
    listen: LinkEndpoint
    control: SocketPath = DEFAULT_CONTROL
    metrics: MetricsEndpoint | None = None
    drain_timeout: Duration = 0.0
    confine: StrictBool = True


class Tls(_Table):
    """``[tls]``: absolute paths of the certificate files."""

    ca: FilePath
    cert: FilePath
    key: FilePath
    crl: FilePath | None = None


class Transport(_Table):
    """``[transport]``: parameters of links. ``memory`` is in bytes, durations are in seconds (0: off).

    ``streams`` is the limit of open streams per peer. ``workers`` None: chosen for this host.
    """

    lane: Lane = LaneChoice.AUTO
    lanes: Lanes = 1
    workers: WorkerCount = None
    congestion: Congestion | None = None
    streams: Streams = DEFAULT_LIMITS.streams
    memory: Memory = 256 * 2**20
    resume_window: ResumeWindow = 30.0
    rotate_records: Records = 2**22
    rotate_after: RotateAfter = 24 * 3600.0


class PeerConfig(_Table):
    """``[[peer]]``: another host, and what it may reach on this one."""

    name: HostName
    address: PeerEndpoint
    rules: tuple[Rule, ...] = Field((), alias="egress")

    @property
    def egress(self) -> AllowList:
        """The targets that this peer may reach here."""
        return AllowList(self.rules)


class IngressConfig(_Table):
    """``[[ingress]]``: a local address that leads to a peer, and who may use it."""

    peer: HostName
    listen: Listen
    uids: frozenset[Uid] = Field(default_factory=default_uids, alias="users", min_length=1)
    given_target: Target | None = Field(None, alias="target")

    @property
    def target(self) -> TargetAddress | None:
        """The target to request. None: 127.0.0.1 and the caller's destination port (``redirect``)."""
        return self.given_target or default_target(self.listen)


class Config(_Table):
    """A valid configuration file."""

    host: HostConfig
    tls: Tls
    transport: Transport = Transport()
    peers: tuple[PeerConfig, ...] = Field((), alias="peer")
    ingresses: tuple[IngressConfig, ...] = Field((), alias="ingress")


def load(path: Path) -> Config:
    """Read the configuration file ``path``. Raises ConfigError with every problem in it."""
    content = _content(path)
    try:
        written = toml_text.parse(content)
    except ValueError as error:
        raise ConfigError(str(path), [("", f"is not valid TOML: {error}")]) from None
    tables = toml_text.straightened(written)
    problems = [*toml_text.misplaced(content, written), *contradictions(tables, str(DEFAULT_CONTROL))]
    try:
        config = Config.model_validate(tables, context={"directory": path.absolute().parent})
    except ValidationError as error:
        raise ConfigError(str(path), [*_explained(error, tables), *problems]) from None
    if problems:
        raise ConfigError(str(path), problems)
    return config


def _content(path: Path) -> bytes:
    try:
        return read_regular(path, pipes=True)
    except FileNotFoundError:
        raise ConfigError(str(path), [("", "does not exist; use --config FILE for another file")]) from None
    except OSError as error:
        raise ConfigError(str(path), [("", f"cannot be read: {error.strerror}")]) from None


def _explained(error: ValidationError, tables: dict[str, Any]) -> list[Problem]:
    models: dict[str, type[BaseModel]] = {
        "": Config,
        "host": HostConfig,
        "tls": Tls,
        "transport": Transport,
        "peer": PeerConfig,
        "ingress": IngressConfig,
    }
    known = {
        section: [field.alias or name for name, field in model.model_fields.items()]
        for section, model in models.items()
    }
    return problems_of(error, tables, known)
