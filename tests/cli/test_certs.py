"""``mtunnel certs``: text output, JSON output, errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.support.pki import Pki, expired, not_yet_valid
from tunnel.certs.facts import read
from tunnel.cli.certs import app
from tunnel.errors import CertificateError, UsageError
from tunnel.tls.contexts import TlsFiles, load


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def output(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_init_prints_files_and_the_next_step(tmp: Path) -> None:
    text = output("init", tmp / "pki")
    assert f"{tmp}/pki/ca.pem  mode 0644" in text
    assert f"{tmp}/pki/ca.key  mode 0600" in text
    assert f"mtunnel certs issue {tmp}/pki NAME" in text


def test_issue_prints_which_files_to_copy(tmp: Path) -> None:
    output("init", tmp)
    text = output("issue", tmp, "HostA", "--san", "hosta.example", "--san", "192.0.2.1")
    assert f"{tmp}/hosta.key  mode 0600" in text
    assert "copy these three files to hosta" in text
    assert f"{tmp}/ca.pem {tmp}/hosta.pem {tmp}/hosta.key\n" in text
    assert 'cert = "hosta.pem"' in text
    (facts,) = read(tmp / "hosta.pem")
    assert facts.dns_names == ("hosta", "hosta.example")
    assert facts.ip_addresses == ("192.0.2.1",)


def test_created_files_are_accepted_by_a_lane(tmp: Path) -> None:
    output("init", tmp)
    output("issue", tmp, "hosta")
    assert load(TlsFiles(tmp / "ca.pem", tmp / "hosta.pem", tmp / "hosta.key")).names == ("hosta",)


def test_days_set_the_validity(tmp: Path) -> None:
    output("init", tmp, "--days", "40")
    output("issue", tmp, "hosta", "--days", "20")
    assert [read(tmp / name)[0].days_left() for name in ("ca.pem", "hosta.pem")] == [39, 19]


@pytest.mark.parametrize("days", ["0", "-1", "36501", "soon"])
def test_impossible_days_are_a_usage_error(tmp: Path, days: str) -> None:
    assert run("init", tmp, "--days", days).exit_code == 2
    assert not (tmp / "ca.pem").exists()


def test_force_is_needed_to_replace(tmp: Path) -> None:
    output("init", tmp)
    output("issue", tmp, "hosta")
    assert isinstance(run("issue", tmp, "hosta").exception, CertificateError)
    output("issue", tmp, "hosta", "--force")
    assert isinstance(run("init", tmp).exception, CertificateError)
    output("init", tmp, "--force")


def test_issue_without_an_authority_suggests_init(tmp: Path) -> None:
    error = run("issue", tmp, "hosta").exception
    assert isinstance(error, CertificateError)
    assert "mtunnel certs init" in str(error)


@pytest.mark.parametrize("arguments", [["host-"], ["hosta", "--san", "*.example"]], ids=["name", "san"])
def test_issue_refuses_bad_names(tmp: Path, arguments: list[str]) -> None:
    output("init", tmp)
    assert isinstance(run("issue", tmp, *arguments).exception, UsageError)


def test_show_describes_each_file(tmp: Path) -> None:
    pki = Pki(tmp)
    host = pki.host("hosta", dns=["hosta.example"])
    text = output("show", host.cert, host.ca)
    assert "names    hosta, hosta.example" in text
    assert "used for serverAuth, clientAuth" in text
    assert f"{host.key} matches" in text
    assert "days left" in text
    assert "signing certificates" in text


def test_show_marks_unusable_certificates(tmp: Path) -> None:
    pki = Pki(tmp)
    old, early, good = (
        pki.host("old", validity=expired()),
        pki.host("early", validity=not_yet_valid()),
        pki.host("good"),
    )
    good.key.write_bytes(old.key.read_bytes())
    assert "EXPIRED 1 days ago" in output("show", old.cert)
    assert "NOT VALID YET" in output("show", early.cert)
    assert f"{good.key} does NOT match this certificate" in output("show", good.cert)


def test_show_prints_json(tmp: Path) -> None:
    host = Pki(tmp).host("hosta")
    answer = json.loads(output("show", "--json", host.cert, host.ca))
    assert [facts["file"] for facts in answer] == [str(host.cert), str(host.ca)]
    assert [facts["is_ca"] for facts in answer] == [False, True]


def test_show_of_a_bad_file_prints_only_the_error(tmp: Path) -> None:
    host = Pki(tmp).host("hosta")
    result = run("show", host.cert, tmp / "absent.pem")
    assert isinstance(result.exception, CertificateError)
    assert result.output == ""


def test_the_module_does_not_import_cryptography() -> None:
    script = "import sys, tunnel.cli.certs; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=30, check=False).returncode == 0
