"""Startup checks: certificates, directories, ports; all problems in one report."""

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


def test_without_problems_the_certificates_are_returned(directory: Path) -> None:
    contexts = preflight(configured(directory), "mtunnel.toml")
    assert isinstance(contexts, TlsContexts)
    assert contexts.names == ("hosta", "hosta.example")


def test_every_unreadable_file_is_reported(tmp: Path) -> None:
    (tmp / "hosta.key").mkdir()
    assert problems(configured(tmp)) == {
        "tls.ca": f"{tmp}/ca.pem cannot be read: No such file or directory",
        "tls.cert": f"{tmp}/hosta.pem cannot be read: No such file or directory",
        "tls.key": f"{tmp}/hosta.key cannot be read: Is a directory",
    }


def test_a_damaged_certificate_is_reported_with_other_problems(directory: Path) -> None:
    (directory / "hosta.pem").write_text("nonsense")
    (directory / "file").touch()
    found = problems(configured(directory, f"unix:{directory}/file"))
    assert "holds no PEM block" in found["tls"]
    assert found["ingress[0].listen"] == f"{directory}/file exists and is not a socket: remove it"


def test_the_certificate_must_name_this_host(directory: Path) -> None:
    config = load(write_config(directory, HOST.replace("hosta", "hostz"), TLS))
    assert problems(config) == {
        "host.name": f"hostz is not a DNS name in {directory}/hosta.pem, which names hosta, hosta.example"
    }


@pytest.mark.root
@pytest.mark.parametrize("name", ["mtunnel.toml", "ca.pem", "hosta.pem", "hosta.key"])
def test_file_that_others_may_change_is_reported(directory: Path, name: str) -> None:
    """Write access to it is control over the trust or the identity of this host."""
    path = write_config(directory, HOST, TLS)
    config, file = load(path), directory / name
    key = {"mtunnel.toml": "", "ca.pem": "tls.ca", "hosta.pem": "tls.cert", "hosta.key": "tls.key"}[name]
    safe = file.stat().st_mode & 0o777
    file.chmod(safe | 0o002)
    assert problems(config, source=path) == {
        key: f"every user can write to the file {file} (mode {safe | 0o002:04o}): run chmod go-w on it,"
        " or use another path"
    }
    file.chmod(safe)
    os.chown(file, 65534, 0)
    assert problems(config, source=path) == {
        key: f"the file {file} is owned by nobody: chown it to root, or use another path"
    }
    os.chown(file, 0, 0)
    preflight(config, str(path))


@pytest.mark.root
def test_directory_of_a_file_is_checked_as_well(directory: Path) -> None:
    config = load(write_config(directory, HOST, TLS))
    directory.chmod(0o777)
    assert problems(config).keys() == {"tls.ca", "tls.cert", "tls.key", "host.control"}


def test_key_that_is_not_implemented_is_refused_not_ignored(directory: Path) -> None:
    host = HOST + 'metrics = "127.0.0.1:9516"\n[transport]\nlanes = 2\nrotate_records = 1024\n'
    config = load(write_config(directory, host, TLS, PEER))
    assert problems(config) == {
        "host.metrics": "this version has no metrics endpoint: remove the key",
    }


NO_MODULE = KernelTlsSupport((), "module tls not loaded", no_module=True)
NO_KERNEL = KernelTlsSupport((), "the self-test failed: spliced bytes differ from those sent")
KERNEL = KernelTlsSupport(("TLS_AES_128_GCM_SHA256",), "the self-test passed")


def wanting(directory: Path, lane: str) -> Config:
    return load(write_config(directory, HOST, TLS, PEER, f'[transport]\nlane = "{lane}"\n'))


def measured(monkeypatch: pytest.MonkeyPatch, found: KernelTlsSupport, costs: LaneCosts) -> list[object]:
    """Simulate the self-test and the measurement; return the arguments of the measurement."""
    asked: list[object] = []

    def measure(suite: str, provider: object) -> LaneCosts:
        asked.extend((suite, provider))
        return costs

    monkeypatch.setattr(module, "run_selftest", lambda files: found)
    monkeypatch.setattr(module, "measure", measure)
    return asked


SLOW = "only 12 KiB transferred in 0.25 s"
UNMEASURED = f"; kernel lanes were not measured: {SLOW}"
NO_MATTER = LaneCosts(0.1, 9.9)


@pytest.mark.parametrize(
    ("costs", "kind", "reason"),
    [
        (LaneCosts(0.61, 0.74), LaneKind.KERNEL, "the self-test passed"),
        (LaneCosts(0.74, 0.61), LaneKind.USERSPACE, "kernel lanes work on this host, but use no less CPU"),
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
def test_auto_chooses_the_cheaper_lanes(
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


def test_required_kernel_lanes_are_not_measured(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = measured(monkeypatch, KERNEL, NO_MATTER)
    contexts = preflight(wanting(directory, "kernel"), "mtunnel.toml")
    assert contexts.lane is LaneKind.KERNEL
    assert contexts.kernel is KERNEL
    assert asked == []


@pytest.mark.parametrize(
    ("found", "reason"), [(NO_KERNEL, NO_KERNEL.reason), (NO_MODULE, "module tls not loaded; optional")]
)
def test_auto_falls_back_with_the_reason(
    directory: Path, monkeypatch: pytest.MonkeyPatch, found: KernelTlsSupport, reason: str
) -> None:
    asked = measured(monkeypatch, found, NO_MATTER)
    contexts = preflight(wanting(directory, "auto"), "mtunnel.toml")
    assert contexts.lane is LaneKind.USERSPACE
    assert contexts.kernel == KernelTlsSupport((), reason)
    assert asked == [], "there is no choice"


@pytest.mark.parametrize(
    ("found", "reason"),
    [(NO_KERNEL, NO_KERNEL.reason), (NO_MODULE, "module tls not loaded (modprobe tls)")],
)
def test_required_kernel_lanes_do_not_fall_back(
    directory: Path, monkeypatch: pytest.MonkeyPatch, found: KernelTlsSupport, reason: str
) -> None:
    monkeypatch.setattr(module, "run_selftest", lambda files: found)
    problem = f"kernel lanes are not available: {reason}; or use auto or userspace"
    assert problems(wanting(directory, "kernel")) == {"transport.lane": problem}


def test_userspace_disables_kernel_lanes(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = measured(monkeypatch, KERNEL, NO_MATTER)
    contexts = preflight(wanting(directory, "userspace"), "mtunnel.toml")
    assert contexts.lane is LaneKind.USERSPACE
    assert contexts.kernel.reason == "set in the configuration"
    assert asked == []


def test_every_unsupported_redirect_is_reported(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_without_a_redirect_no_firewall_is_required(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nftables, "unavailable_reason", lambda: "there is no firewall here")
    preflight(configured(directory, "tcp:127.0.1.3:49152"), "mtunnel.toml")


def test_every_ingress_whose_callers_cannot_be_identified_is_reported(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listens = ("tcp:127.0.1.3:49152", f"unix:{directory}/guests", "redirect:127.0.1.4:49152-49215")
    ingresses = [INGRESS + f'"{listen}"' for listen in listens]
    config = load(write_config(directory, HOST, TLS, PEER, *ingresses))
    monkeypatch.setattr(nftables, "unavailable_reason", lambda: None)
    monkeypatch.setattr(peer_credentials, "unavailable_reason", lambda: "not supported by this kernel")
    assert problems(config) == {
        "ingress[0].listen": "not supported by this kernel",
        "ingress[2].listen": "not supported by this kernel",
    }


def test_without_a_tcp_ingress_callers_need_not_be_identified(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_credentials, "unavailable_reason", lambda: "not supported by this kernel")
    preflight(configured(directory, f"unix:{directory}/guests"), "mtunnel.toml")
