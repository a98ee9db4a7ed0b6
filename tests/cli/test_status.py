"""``mtunnel status``: text output, JSON output, ``--check``, and no daemon."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.configs import HOST, PEER, TLS, write_config
from tunnel.cli import status as module
from tunnel.cli.main import main
from tunnel.relay.status_schema import CertificateStatus, DaemonStatus

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
CRL = "the CRL of CN=root in /etc/mtunnel/crl.pem"
CIPHER = "TLS_AES_256_GCM_SHA384"
LINK: dict[str, Any] = {
    "peer": "hostb",
    "state": "up",
    "since": "2026-01-01T00:00:03.000+00:00",
    "initiator": True,
    "round_trip": 0.001,
    "kept": 0,
    "resumes": 1,
    "rotation": {
        "records": 4194304,
        "after": 86400.0,
        "rotations": 3,
        "most_records": 4194711,
        "last": {
            "at": "2026-01-01T00:00:09.000+00:00",
            "lane": 1,
            "reason": "4194304 records with one key",
        },
    },
    "streams_opened": 2,
    "lanes": [
        {
            "epoch": 2,
            "kind": "userspace",
            "cipher": CIPHER,
            "local": "192.0.2.1:40000",
            "remote": "192.0.2.2:16515",
            "age": 5.0,
            "bytes_sent": 5_000_000,
            "bytes_received": 700,
            "records_sent": 310,
            "records_received": 12,
        }
    ],
    "streams": [
        {
            "stream": 3,
            "target": "tcp:127.0.0.1:49152",
            "local": "127.0.0.1:50000",
            "bytes_from_local": 4_000_000,
            "bytes_to_local": 10,
            "backlog": 0,
        }
    ],
    "incidents": [
        {
            "at": f"2026-01-01T00:00:0{number}.000+00:00",
            "since": "2026-01-01T00:00:00.000+00:00",
            "count": 345 if number == 4 else 1,
            "what": "lane lost",
            "reason": f"cause {number}",
            "code": "",
        }
        for number in range(5)
    ],
}
REDIRECT: dict[str, Any] = {
    "listen": "redirect:127.0.1.2:49152-49215",
    "peer": "hostb",
    "port": 40121,
    "target": None,
    "redirect": {"works": True, "reason": None},
    "displaced": False,
    "accepted": 0,
    "refused": 0,
}
WARNING = f"warning: {CRL} is valid until …: renew it"
FACTS: dict[str, Any] = {
    "host": "hosta",
    "version": "0.1.0",
    "pid": 1,
    "uptime": 61.2,
    "draining": False,
    "listen": "192.0.2.1:16515",
    "listen_configured": True,
    "rejected": 0,
    "certificate": {
        "names": ["hosta"],
        "not_after": "2027-01-01T00:00:00+00:00",
        "ends_first": CRL,
        "days_left": 31,
        "warnings": [f"{CRL} is valid until …: renew it"],
        "problem": None,
    },
    "lane": {"kind": "userspace", "reason": "set in the configuration"},
    "links": [LINK],
    "ingresses": [
        {
            "listen": "tcp:127.0.1.2:49152",
            "peer": "hostb",
            "port": 49152,
            "target": "tcp:127.0.0.1:49152",
            "redirect": None,
            "displaced": False,
            "accepted": 2,
            "refused": 1,
        },
        REDIRECT,
    ],
}


def status(path: Path, *options: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["status", "--config", str(path), *options])
    return int(caught.value.code or 0)


@pytest.fixture
def config(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration whose daemon replies with FACTS."""

    def answer(path: Path) -> dict[str, Any]:
        assert path == tmp / "control.sock"
        return FACTS

    monkeypatch.setattr(module, "ask_status", answer)
    monkeypatch.setattr(module, "_now", lambda: NOW)
    return write_config(tmp, HOST, TLS, PEER)


@pytest.mark.parametrize(
    ("costs", "line"),
    [
        ({"kernel": 0.61, "userspace": 0.74}, "kernel lanes (0.61 CPU s/GiB; in the daemon 0.74): tried"),
        (
            {"kernel": 0.61, "userspace": None},
            "kernel lanes (0.61 CPU s/GiB; in the daemon not measured): tried",
        ),
        (None, "kernel lanes: tried"),
    ],
)
def test_text_has_the_lane_costs(
    config: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    costs: dict[str, float | None] | None,
    line: str,
) -> None:
    monkeypatch.setitem(FACTS, "lane", {"kind": "kernel", "reason": "tried", "cpu_seconds_per_gib": costs})
    assert status(config) == 0
    assert line in capsys.readouterr().out.splitlines()


def test_text_summary(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(config) == 0
    assert capsys.readouterr().out.splitlines() == [
        "host hosta on 192.0.2.1:16515, up 61 s",
        f"certificate valid until 2027-01-01, 31 days left ({CRL})",
        f"  warning: {CRL} is valid until …: renew it",
        "userspace lanes: set in the configuration",
        "link hostb: up since 2026-01-01T00:00:03.000+00:00",
        (
            f"  lane 2: userspace, {CIPHER}, 192.0.2.1:40000 - 192.0.2.2:16515, "
            "5.0 MB out, 700 bytes in, 310 out and 12 in of 4194304 records"
        ),
        ("  lanes replaced: 3, last: lane 1 at 2026-01-01T00:00:09.000+00:00: 4194304 records with one key"),
        "  stream 3: tcp:127.0.0.1:49152, 4.0 MB sent, 10 bytes received",
        "  2026-01-01T00:00:03.000+00:00 lane lost: cause 3",
        "  2026-01-01T00:00:04.000+00:00 lane lost: cause 4 (345 times since 2026-01-01T00:00:00.000+00:00)",
        "  earlier:",
        "    2026-01-01T00:00:00.000+00:00 lane lost: cause 0",
        "    2026-01-01T00:00:01.000+00:00 lane lost: cause 1",
        "    2026-01-01T00:00:02.000+00:00 lane lost: cause 2",
        "ingress tcp:127.0.1.2:49152 -> hostb tcp:127.0.0.1:49152: 2 accepted, 1 refused",
        "ingress redirect:127.0.1.2:49152-49215 (port 40121) -> hostb same port: 0 accepted, 0 refused",
    ]


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("2026-12-02T11:00:00+00:00", "certificate valid until 2026-12-02, 1 day left"),
        ("2026-12-01T11:00:00+00:00", "certificate valid until 2026-12-01, 0 days left"),
        ("2026-11-30T12:00:00+00:00", "certificate expired on 2026-11-30"),
    ],
)
def test_certificate_has_its_days(end: str, words: str) -> None:
    assert (
        module._certificate(cast("CertificateStatus", {"not_after": end, "ends_first": CRL}), NOW)
        == f"{words} ({CRL})"
    )


def test_link_that_is_not_up_shows_its_incidents(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LINK, "state", "down")
    assert status(config) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "link hostb: down since 2026-01-01T00:00:03.000+00:00" in lines
    assert "  earlier:" not in lines
    assert "  2026-01-01T00:00:02.000+00:00 lane lost: cause 2" in lines


# For monitoring.


def test_check_of_a_daemon_whose_links_are_up_is_0(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert status(config, "--check") == 0
    assert capsys.readouterr().out.splitlines() == ["all links are up: hostb", WARNING]
    monkeypatch.setitem(FACTS, "links", [])
    assert status(config, "--check") == 0
    assert capsys.readouterr().out.splitlines() == ["there are no links", WARNING]


@pytest.mark.parametrize("state", ["down", "resuming"])
def test_check_of_a_link_that_is_not_up_is_1(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    other = {**LINK, "peer": "hostc", "state": state, "incidents": []}
    monkeypatch.setitem(FACTS, "links", [{**LINK, "state": state}, other, {**LINK, "peer": "hostd"}])
    assert status(config, "--check") == 1
    since = "since 2026-01-01T00:00:03.000+00:00"
    assert capsys.readouterr().out.splitlines() == [
        f"link hostb is {state} {since}: lane lost: cause 4",
        f"link hostc is {state} {since}",
        WARNING,
    ]
    assert status(config, "--check", "--json") == 1
    assert json.loads(capsys.readouterr().out) == FACTS
    assert status(config) == 0, "only --check fails"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("draining", True, "the daemon is stopping"),
        (
            "certificate",
            FACTS["certificate"] | {"not_after": "2026-11-29T00:00:00+00:00"},
            f"certificate expired on 2026-11-29 ({CRL})",
        ),
        (
            "certificate",
            FACTS["certificate"] | {"problem": "ca.pem is damaged"},
            "unusable certificate files: ca.pem is damaged",
        ),
        (
            "ingresses",
            [REDIRECT | {"redirect": {"works": False, "reason": "the table is gone"}}],
            "ingress redirect:127.0.1.2:49152-49215 is not redirected: the table is gone",
        ),
        (
            "ingresses",
            [REDIRECT | {"listen": "unix:/run/s", "redirect": None, "displaced": True}],
            "ingress unix:/run/s: its socket was removed or replaced: restart the daemon",
        ),
    ],
)
def test_check_of_a_daemon_with_another_problem_is_1(
    config: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    value: object,
    words: str,
) -> None:
    monkeypatch.setitem(FACTS, key, value)
    assert status(config, "--check") == 1
    assert capsys.readouterr().out.splitlines() == [words, WARNING]


@pytest.mark.parametrize("options", [("--check",), ("--check", "--json"), ()])
def test_check_without_a_daemon_is_4(tmp: Path, options: tuple[str, ...]) -> None:
    assert status(write_config(tmp, HOST, TLS), *options) == 4


def test_check_with_a_bad_configuration_is_2(tmp: Path) -> None:
    assert status(write_config(tmp, HOST), "--check") == 2


def test_unusable_files_are_reported(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FACTS, "certificate", FACTS["certificate"] | {"problem": "ca.pem is damaged"})
    assert status(config) == 0
    assert "  unusable certificate files: ca.pem is damaged" in capsys.readouterr().out.splitlines()


def test_a_draining_daemon_is_reported(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FACTS, "draining", True)
    assert status(config) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("up 61 s, draining")


def test_json_has_everything(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(config, "--json") == 0
    assert json.loads(capsys.readouterr().out) == FACTS


def test_no_daemon_is_4(tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(write_config(tmp, HOST, TLS)) == 4
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == (
        f"error: cannot reach the daemon at {tmp}/control.sock: No such file or directory;"
        " is the daemon running?\n"
    )


def test_bad_configuration_is_2(tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(write_config(tmp, HOST)) == 2
    assert "tls: is missing" in capsys.readouterr().err


def test_unassigned_address_and_broken_redirect_are_reported(
    monkeypatch: pytest.MonkeyPatch, tmp: Path
) -> None:
    broken = {**FACTS["ingresses"][1], "redirect": {"works": False, "reason": "Connection refused"}}
    facts = cast("DaemonStatus", {**FACTS, "listen_configured": False, "ingresses": [broken]})
    lines = list(module._describe(facts))
    assert lines[0].startswith("host hosta on 192.0.2.1:16515 (not on any interface), up ")
    assert lines[-1].endswith("0 refused; NOT REDIRECTED: Connection refused")
    problems = list(module._problems(facts, datetime(2026, 1, 1, tzinfo=UTC)))
    where = "redirect:127.0.1.2:49152-49215"
    assert f"ingress {where} is not redirected: Connection refused" in problems


def test_several_workers_are_reported(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {"worker": 0, "state": "serving", "sessions": 2, "streams": 1}
    second = {"worker": 1, "state": "ended", "sessions": 0, "streams": 0}
    lane, stream = LINK["lanes"][0], LINK["streams"][0]
    link = LINK | {"lanes": [lane | {"session": "ours 1"}], "streams": [stream | {"session": "theirs 2"}]}
    monkeypatch.setitem(FACTS, "links", [link])
    monkeypatch.setitem(FACTS, "workers", [first])
    assert status(config) == 0
    assert "worker" not in capsys.readouterr().out
    monkeypatch.setitem(FACTS, "workers", [first, second])
    assert status(config) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "worker 0: serving, 2 sessions, 1 stream" in lines
    assert "worker 1: ended, 0 sessions, 0 streams" in lines
    assert any(line.startswith("  lane 2 (ours 1): ") for line in lines)
    assert any(line.startswith("  stream 3 (theirs 2): ") for line in lines)
    assert status(config, "--check") == 1
    assert "worker 1: ended; restart the daemon" in capsys.readouterr().out
