"""What is outside the file: certificates, directories, ports; all of it in one report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import pytest

from tests.support.configs import HOST, PEER, TLS, write_config
from tests.support.pki import Pki
from tunnel.daemon import preflight as module
from tunnel.daemon.config import Config, load
from tunnel.daemon.preflight import preflight
from tunnel.engine.binding import Provider
from tunnel.engine.choice import Choice
from tunnel.errors import ConfigError
from tunnel.host import nftables
from tunnel.net import peer_credentials
from tunnel.tls.contexts import TlsContexts
from tunnel.tls.lane_kinds import KernelTlsSupport, LaneCosts, LaneKind

INGRESS = '[[ingress]]\npeer = "hostb"\nusers = ["root"]\nlisten = '


def configured(directory: Path, listen: str = "") -> Config:
    return load(write_config(directory, HOST, TLS, PEER, INGRESS + f'"{listen}"' if listen else ""))


def problems(config: Config, source: Path = Path("mtunnel.toml")) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        preflight(config, str(source))
    return dict(caught.value.problems)


@pytest.fixture
def directory(tmp: Path) -> Path:
    """A directory with certificates for hosta."""
    Pki(tmp).host("hosta", dns=["hosta.example"])
    return tmp


def test_when_all_is_well_the_certificates_come_back(directory: Path) -> None:
    contexts = preflight(configured(directory), "mtunnel.toml")
    assert isinstance(contexts, TlsContexts)
    assert contexts.names == ("hosta", "hosta.example")


def test_every_file_that_cannot_be_read_is_named(tmp: Path) -> None:
    (tmp / "hosta.key").mkdir()
    assert problems(configured(tmp)) == {
        "tls.ca": f"{tmp}/ca.pem cannot be read: No such file or directory",
        "tls.cert": f"{tmp}/hosta.pem cannot be read: No such file or directory",
        "tls.key": f"{tmp}/hosta.key cannot be read: Is a directory",
    }


def test_a_bad_certificate_is_reported_with_the_rest(directory: Path) -> None:
    (directory / "hosta.pem").write_text("nonsense")
    (directory / "file").touch()
    found = problems(configured(directory, f"unix:{directory}/file"))
    assert "holds no PEM block" in found["tls"]
    assert found["ingress[0].listen"] == f"{directory}/file exists and is not a socket: remove it"


def test_the_certificate_must_name_this_host(directory: Path) -> None:
    config = load(write_config(directory, HOST.replace("hosta", "hostz"), TLS))
    assert problems(config) == {
        "host.name": f"hostz is not a DNS name of {directory}/hosta.pem: that is hosta, hosta.example"
    }


@pytest.mark.root
@pytest.mark.parametrize("name", ["mtunnel.toml", "ca.pem", "hosta.pem", "hosta.key"])
def test_file_that_others_may_change_is_named(directory: Path, name: str) -> None:
    """Whoever writes it decides whom this host trusts, or who it is."""
    path = write_config(directory, HOST, TLS)
    config, file = load(path), directory / name
    key = {"mtunnel.toml": "", "ca.pem": "tls.ca", "hosta.pem": "tls.cert", "hosta.key": "tls.key"}[name]
    safe = file.stat().st_mode & 0o777
    file.chmod(safe | 0o002)
    assert problems(config, source=path) == {
        key: f"every user can write to the file {file} (mode {safe | 0o002:04o}): chmod go-w it,"
        " or take another place"
    }
    file.chmod(safe)
    os.chown(file, 65534, 0)
    assert problems(config, source=path) == {
        key: f"the file {file} belongs to nobody: chown root it, or take another place"
    }
    os.chown(file, 0, 0)
    preflight(config, str(path))


@pytest.mark.root
def test_directory_of_a_file_counts_as_well(directory: Path) -> None:
    config = load(write_config(directory, HOST, TLS))
    directory.chmod(0o777)
    assert problems(config).keys() == {"tls.ca", "tls.cert", "tls.key", "host.control"}


def test_what_this_version_cannot_do_is_refused_not_left_out(directory: Path) -> None:
    host = HOST + 'metrics = "127.0.0.1:9516"\n[transport]\nlanes = 2\nrotate_records = 1024\n'
    config = load(write_config(directory, host, TLS, PEER))
    assert problems(config) == {
        "host.metrics": "this version has no metrics endpoint: leave it out",
    }


NO_MODULE = KernelTlsSupport((), "module tls not loaded")
NO_KERNEL = KernelTlsSupport((), "the self-test failed: spliced bytes are not what they were")
KERNEL = KernelTlsSupport(("TLS_AES_128_GCM_SHA256",), "the self-test passed")


def wanting(directory: Path, lane: str) -> Config:
    return load(write_config(directory, HOST, TLS, PEER, f'[transport]\nlane = "{lane}"\n'))


def measured(monkeypatch: pytest.MonkeyPatch, found: KernelTlsSupport, costs: LaneCosts) -> list[object]:
    """Let the kernel do what ``found`` says, and measuring find ``costs``; what is asked to be measured."""
    asked: list[object] = []

    def measure(suite: str, provider: object) -> LaneCosts:
        asked.extend((suite, provider))
        return costs

    monkeypatch.setattr(module, "examine", lambda files: found)
    monkeypatch.setattr(module, "measure", measure)
    return asked


SLOW = "only 12 KiB went through in 0.25 s"
UNMEASURED = f"; kernel lanes were not measured: {SLOW}"
NO_MATTER = LaneCosts(0.1, 9.9)


@pytest.mark.parametrize(
    ("costs", "kind", "reason"),
    [
        (LaneCosts(0.61, 0.74), LaneKind.KERNEL, "the self-test passed"),
        (LaneCosts(0.74, 0.61), LaneKind.USERSPACE, "kernel lanes work here, and cost no less"),
        (LaneCosts(SLOW, 0.61), LaneKind.USERSPACE, f"the self-test passed{UNMEASURED}"),
        (
            LaneCosts(0.61, SLOW),
            LaneKind.KERNEL,
            f"the self-test passed; userspace lanes were not measured: {SLOW}",
        ),
        (
            LaneCosts(SLOW, SLOW),
            LaneKind.USERSPACE,
            f"the self-test passed{UNMEASURED}; userspace lanes were not measured: {SLOW}",
        ),
    ],
    ids=["kernel", "userspace", "kernel unknown", "userspace unknown", "both unknown"],
)
def test_auto_takes_what_costs_less(
    directory: Path, monkeypatch: pytest.MonkeyPatch, costs: LaneCosts, kind: LaneKind, reason: str
) -> None:
    engine = Choice(cast("Provider", object()), "an engine")
    asked = measured(monkeypatch, KERNEL, costs)
    contexts = preflight(wanting(directory, "auto"), "mtunnel.toml", engine)
    assert asked == ["TLS_AES_128_GCM_SHA256", engine.provider]
    assert contexts.lane is kind
    assert contexts.kernel == KernelTlsSupport(
        KERNEL.suites if kind is LaneKind.KERNEL else (), reason, costs
    )


def test_who_insists_on_kernel_lanes_has_nothing_measured(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = measured(monkeypatch, KERNEL, NO_MATTER)
    contexts = preflight(wanting(directory, "kernel"), "mtunnel.toml")
    assert contexts.lane is LaneKind.KERNEL
    assert contexts.kernel is KERNEL
    assert asked == []


@pytest.mark.parametrize(
    ("found", "reason"), [(NO_KERNEL, NO_KERNEL.reason), (NO_MODULE, "module tls not loaded; optional")]
)
def test_auto_falls_back_and_knows_why(
    directory: Path, monkeypatch: pytest.MonkeyPatch, found: KernelTlsSupport, reason: str
) -> None:
    asked = measured(monkeypatch, found, NO_MATTER)
    contexts = preflight(wanting(directory, "auto"), "mtunnel.toml")
    assert contexts.lane is LaneKind.USERSPACE
    assert contexts.kernel == KernelTlsSupport((), reason)
    assert asked == [], "there is nothing to choose from"


@pytest.mark.parametrize(
    ("found", "reason"),
    [(NO_KERNEL, NO_KERNEL.reason), (NO_MODULE, "module tls not loaded (modprobe tls)")],
)
def test_whoever_wants_kernel_lanes_gets_no_others(
    directory: Path, monkeypatch: pytest.MonkeyPatch, found: KernelTlsSupport, reason: str
) -> None:
    monkeypatch.setattr(module, "examine", lambda files: found)
    problem = f"no kernel lanes here: {reason}; or use auto or userspace"
    assert problems(wanting(directory, "kernel")) == {"transport.lane": problem}


def test_userspace_switches_kernel_lanes_off(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = measured(monkeypatch, KERNEL, NO_MATTER)
    contexts = preflight(wanting(directory, "userspace"), "mtunnel.toml")
    assert contexts.lane is LaneKind.USERSPACE
    assert contexts.kernel.reason == "the configuration says so"
    assert asked == []


def test_every_redirect_that_cannot_be_is_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listens = ("redirect:127.0.1.2:49152-49215", "tcp:127.0.1.3:49152", "redirect:127.0.1.4:49152-49215")
    ingresses = [INGRESS + f'"{listen}"' for listen in listens]
    config = load(write_config(directory, HOST, TLS, PEER, *ingresses))
    monkeypatch.setattr(nftables, "unavailable_reason", lambda: "there is no firewall here")
    assert problems(config) == {
        "ingress[0].listen": "there is no firewall here",
        "ingress[2].listen": "there is no firewall here",
    }
    monkeypatch.setattr(nftables, "unavailable_reason", lambda: None)
    preflight(config, "mtunnel.toml")


def test_without_a_redirect_nobody_asks_for_a_firewall(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nftables, "unavailable_reason", lambda: "there is no firewall here")
    preflight(configured(directory, "tcp:127.0.1.3:49152"), "mtunnel.toml")


def test_every_ingress_whose_callers_cannot_be_known_is_named(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listens = ("tcp:127.0.1.3:49152", f"unix:{directory}/guests", "redirect:127.0.1.4:49152-49215")
    ingresses = [INGRESS + f'"{listen}"' for listen in listens]
    config = load(write_config(directory, HOST, TLS, PEER, *ingresses))
    monkeypatch.setattr(nftables, "unavailable_reason", lambda: None)
    monkeypatch.setattr(peer_credentials, "unavailable_reason", lambda: "this kernel tells nothing")
    assert problems(config) == {
        "ingress[0].listen": "this kernel tells nothing",
        "ingress[2].listen": "this kernel tells nothing",
    }


def test_without_an_ingress_on_tcp_nobody_asks_who_calls(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_credentials, "unavailable_reason", lambda: "this kernel tells nothing")
    preflight(configured(directory, f"unix:{directory}/guests"), "mtunnel.toml")
