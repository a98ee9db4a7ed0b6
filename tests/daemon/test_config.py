"""The configuration file: typed values if it is valid, otherwise all problems in one error."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from tests.support import configs
from tests.support.configs import HOST, INGRESS, PEER, TLS, write_config
from tunnel.daemon import config_types
from tunnel.daemon.config import Config, HostConfig, IngressConfig, PeerConfig, Tls, Transport, load
from tunnel.errors import ConfigError
from tunnel.relay.address import Endpoint, RedirectAddress, TcpAddress, UnixAddress, parse_target

TEN_MISTAKES = """\
[host]
listen = "hosta:16515"
contorl = "control.sock"
name = "hosta"
[tls]
ca = "ca.pem"
cert = "hosta.pem"
[transport]
memory = "1MiB"
[[peer]]
name = "hosta"
address = "192.0.2.2:16515"
egress = ["tcp:127.0.0.1:49152-49215", "udp:127.0.0.1:1"]
[[ingress]]
peer = "hostc"
listen = "redirect:127.0.1.2:49152-49215"
users = ["root", "nobody-of-this-name"]
[[ingress]]
peer = "hosta"
listen = "tcp:127.0.1.2:49200"
target = "tcp:hostb:49200"
"""


@pytest.fixture
def manual_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The example of docs/configuration.md, loaded."""
    (tmp_path / "available").write_text("reno cubic\n")
    monkeypatch.setattr(config_types, "CONGESTION_CONTROLS", tmp_path / "available")
    return load(write_config(tmp_path, configs.manual_example()))


def problems(path: Path) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return dict(caught.value.problems)


def test_the_manuals_example_is_valid(manual_example: Config, tmp_path: Path) -> None:
    assert manual_example.tls.crl == tmp_path / "crl.pem"
    assert manual_example.peers[0].egress.allows(parse_target("unix:/run/qemu/web1.sock"))
    assert not manual_example.peers[0].egress.allows(parse_target("tcp:127.0.0.1:16509"))
    assert [ingress.target for ingress in manual_example.ingresses] == [
        None,
        TcpAddress("127.0.0.1", 16509),
        UnixAddress("/run/qemu/web1.sock"),
    ]


def test_the_manuals_defaults_are_the_real_ones(manual_example: Config) -> None:
    fields = Transport.model_fields
    hosts_own = {"congestion"}  # its default depends on the machine
    shown = manual_example.transport.model_fields_set
    assert shown == fields.keys()
    written = {key: value for key, value in manual_example.transport if key in shown - hosts_own}
    assert written == {key: fields[key].default for key in written}
    assert manual_example.host.control == HostConfig.model_fields["control"].default


@pytest.mark.parametrize("table", [HostConfig, Tls, Transport, PeerConfig, IngressConfig])
def test_the_manual_explains_every_key(table: type[BaseModel]) -> None:
    rows = set(re.findall(r"^\| `([a-z_]+)` \|", configs.MANUAL.read_text(), re.MULTILINE))
    assert {field.alias or name for name, field in table.model_fields.items()} <= rows


def test_all_values_are_typed(tmp_path: Path) -> None:
    config = load(write_config(tmp_path))
    assert config.host.name == "hosta"
    assert config.host.control == tmp_path / "control.sock"
    assert config.host.listen == Endpoint("127.0.0.1", 16515)
    assert config.tls.ca == tmp_path / "ca.pem"
    assert config.tls.crl is None
    assert config.transport == Transport()
    assert config.peers[0].address == Endpoint("192.0.2.2", 16515)
    assert config.peers[0].egress.allows(TcpAddress("127.0.0.1", 49152))
    (ingress,) = config.ingresses
    assert ingress.listen == RedirectAddress("127.0.1.2", 49152, 49215)
    assert ingress.uids == {0}


def test_the_defaults_are_those_of_the_design(tmp_path: Path) -> None:
    host = '[host]\nname = "hosta"\nlisten = "0.0.0.0"'
    peer = '[[peer]]\nname = "hostb"\naddress = "hostb.example"'
    ingress = '[[ingress]]\npeer = "hostb"\nlisten = "tcp:127.0.1.2:49152"'
    config = load(write_config(tmp_path, host, TLS, peer, ingress))
    assert config.host.listen == Endpoint("0.0.0.0", 16515)
    assert config.host.control == Path("/run/mtunnel/control.sock")
    assert (config.host.metrics, config.host.drain_timeout) == (None, 0.0)
    transport = config.transport
    assert (transport.lane, transport.lanes, transport.congestion) == (config_types.LaneChoice.AUTO, 1, None)
    assert transport.workers is None
    assert (transport.memory, transport.resume_window) == (2**28, 30.0)
    assert (transport.rotate_records, transport.rotate_after) == (4194304, 86400.0)
    assert config.peers[0].address == Endpoint("hostb.example", 16515)
    assert not config.peers[0].egress.rules
    assert config.ingresses[0].target == TcpAddress("127.0.0.1", 49152)
    assert config.ingresses[0].uids == config_types.default_uids()


def test_a_host_may_have_no_peers_yet(tmp_path: Path) -> None:
    assert load(write_config(tmp_path, HOST, TLS)).peers == ()


def test_a_configuration_is_immutable(tmp_path: Path) -> None:
    config = load(write_config(tmp_path))
    with pytest.raises(ValidationError, match="frozen"):
        config.transport.lanes = 4  # type: ignore[misc]  # the tested operation


def test_relative_paths_do_not_depend_on_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path)
    monkeypatch.chdir(tmp_path)
    config = load(Path("mtunnel.toml"))
    monkeypatch.chdir("/")
    assert config.tls.ca == tmp_path / "ca.pem"


def test_ten_mistakes_are_reported_together(tmp_path: Path) -> None:
    path = write_config(tmp_path, TEN_MISTAKES)
    with pytest.raises(ConfigError) as caught:
        load(path)
    first, *lines = str(caught.value).splitlines()
    assert first == f"{path}: 10 problems"
    assert [line.split(": ")[0].strip() for line in lines] == [
        "host.listen",
        "host.contorl",
        "tls.key",
        "transport.memory",
        "peer[0].egress[1]",
        "ingress[0].users[1]",
        "ingress[1].target",
        "peer[0].name",
        "ingress[0].peer",
        "ingress[1].listen",
    ]


def test_one_wrong_value_does_not_hide_a_contradiction(tmp_path: Path) -> None:
    found = problems(
        write_config(tmp_path, HOST, TLS, PEER.replace("49152", "0"), INGRESS.replace("hostb", "hostc"))
    )
    assert list(found) == ["peer[0].egress[0]", "ingress[0].peer"]


def test_a_contradiction_alone_is_enough(tmp_path: Path) -> None:
    assert list(problems(write_config(tmp_path, HOST, TLS, PEER, INGRESS, INGRESS))) == ["ingress[1].listen"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"[host]\na = 1\na = 2\n", "is not valid TOML: line 3: duplicate key a"),
        (b'[host]\nname = "\xff"', "is not valid TOML: line 2: byte 0xff is not UTF-8"),
        (b"a = " + b"[" * 100_000, "is not valid TOML: brackets are nested too deeply"),
    ],
)
def test_invalid_toml_is_reported_with_its_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "mtunnel.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=complaint):
        load(path)


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    plain = load(path)
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert load(path) == plain


def test_an_unreadable_file_is_reported_with_the_reason(tmp_path: Path) -> None:
    assert problems(tmp_path / "none.toml") == {"": "does not exist; use --config FILE for another file"}
    assert problems(tmp_path) == {"": "cannot be read: Is a directory"}
    assert problems(Path("/dev/zero")) == {"": "cannot be read: it is a device, not a regular file"}


def test_wrong_brackets_are_one_mistake_and_hide_no_other(tmp_path: Path) -> None:
    found = problems(
        write_config(tmp_path, HOST, TLS, PEER.replace("[[peer]]", "[peer]"), INGRESS + "x = 1\n")
    )
    assert list(found) == ["ingress[0].x", "peer"]
    assert found["peer"].endswith("[peer] should be [[peer]]: there can be several")
