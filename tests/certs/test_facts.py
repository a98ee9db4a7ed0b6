"""The facts that ``show`` reports of certificate files."""

from __future__ import annotations

import hashlib
import json
import ssl
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from tests.support.pki import LIBVIRT, QEMU, SERVER_ONLY, Layout, Pki, rsa_key
from tunnel.certs.authority import key_pem
from tunnel.certs.facts import KeyState, read
from tunnel.certs.profile import new_key
from tunnel.errors import CertificateError


@pytest.fixture
def pki(tmp: Path) -> Pki:
    return Pki(tmp)


def test_facts_of_a_host_certificate(pki: Pki) -> None:
    pair = pki.authority.issue("hosta", dns=["hosta.example"], ips=[ip_address("2001:db8::1")])
    (facts,) = read(pair.cert)
    assert facts.subject == "CN=hosta"
    assert facts.issuer == pki.authority.certificate.subject.rfc4514_string()
    assert facts.dns_names == ("hosta", "hosta.example")
    assert facts.ip_addresses == ("2001:db8::1",)
    assert facts.usages == ("serverAuth", "clientAuth")
    assert facts.key_type == "EC secp256r1"
    assert not facts.is_ca
    assert (facts.key, facts.key_file) == (KeyState.MATCHES, pair.key)


def test_fingerprint_is_over_the_der(pki: Pki) -> None:
    host = pki.host("hosta")
    der = ssl.PEM_cert_to_DER_cert(host.cert.read_text())
    (facts,) = read(host.cert)
    assert facts.sha256.replace(":", "").lower() == hashlib.sha256(der).hexdigest()


def test_facts_of_a_ca(pki: Pki) -> None:
    (facts,) = read(pki.authority.files.cert)
    assert facts.is_ca
    assert facts.usages == facts.dns_names == ()
    assert facts.key is KeyState.MATCHES


def test_days_left_count_down_through_zero(pki: Pki) -> None:
    (facts,) = read(pki.host("hosta").cert)
    assert facts.days_left() in {364, 365}
    assert facts.days_left(facts.not_after - timedelta(hours=1)) == 0
    assert facts.days_left(facts.not_after + timedelta(hours=1)) == -1


def test_facts_of_each_certificate_in_a_chain(pki: Pki) -> None:
    host = pki.host("hosta")
    host.cert.write_bytes(host.cert.read_bytes() + host.ca.read_bytes())
    leaf, issuer = read(host.cert)
    assert (leaf.is_ca, leaf.key) == (False, KeyState.MATCHES)
    assert (issuer.is_ca, issuer.key) == (True, KeyState.MISSING)


def test_key_of_another_certificate_of_the_file_is_reported(pki: Pki) -> None:
    host = pki.host("hosta")
    host.cert.write_bytes(host.ca.read_bytes() + host.cert.read_bytes())
    issuer, leaf = read(host.cert)
    assert (issuer.key, issuer.key_file, leaf.key) == (KeyState.OF_ANOTHER, host.key, KeyState.MISSING)


def test_facts_of_an_rsa_certificate_without_a_key(pki: Pki, tmp: Path) -> None:
    path = tmp / "alone.pem"
    path.write_bytes(pki.certificate(rsa_key(), "hosta", SERVER_ONLY))
    (facts,) = read(path)
    assert facts.key_type == "RSA 2048"
    assert facts.usages == ("serverAuth",)
    assert (facts.key, facts.key_file) == (KeyState.MISSING, None)


@pytest.mark.parametrize("layout", [LIBVIRT, QEMU], ids=["libvirt", "qemu"])
def test_key_is_found_in_other_layouts(pki: Pki, tmp: Path, layout: Layout) -> None:
    host = pki.layout(layout, tmp, "hosta")
    (facts,) = read(host.cert)
    assert (facts.key, facts.key_file) == (KeyState.MATCHES, host.key)
    (client,) = read(tmp / layout.client_cert)
    assert (client.key, client.key_file) == (KeyState.MATCHES, tmp / layout.client_key)


def encrypted_key() -> bytes:
    protection = serialization.BestAvailableEncryption(b"secret")
    return new_key().private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)


@pytest.mark.parametrize(
    ("content", "state"),
    [
        (key_pem(new_key()), KeyState.MISMATCH),
        (encrypted_key(), KeyState.ENCRYPTED),
        (b"junk", KeyState.UNREADABLE),
    ],
    ids=lambda value: str(value) if isinstance(value, KeyState) else "",
)
def test_an_unusable_key_is_reported(pki: Pki, content: bytes, state: KeyState) -> None:
    host = pki.host("hosta")
    host.key.write_bytes(content)
    assert read(host.cert)[0].key is state


def test_json_has_the_stable_keys(pki: Pki) -> None:
    host = pki.host("hosta")
    (facts,) = read(host.cert)
    assert json.loads(json.dumps(facts.as_json())) == {
        "file": str(host.cert),
        "subject": "CN=hosta",
        "issuer": facts.issuer,
        "serial": facts.serial,
        "dns_names": ["hosta"],
        "ip_addresses": [],
        "not_before": facts.not_before.isoformat(),
        "not_after": facts.not_after.isoformat(),
        "days_left": facts.days_left(),
        "usages": ["serverAuth", "clientAuth"],
        "key_type": "EC secp256r1",
        "sha256": facts.sha256,
        "is_ca": False,
        "key": "matches",
        "key_file": str(host.key),
    }


def test_a_missing_file_is_named(tmp: Path) -> None:
    with pytest.raises(CertificateError, match=r"cannot read the certificate .*absent\.pem: No such file"):
        read(tmp / "absent.pem")


def test_a_file_without_a_certificate_is_named(tmp: Path) -> None:
    (tmp / "junk.pem").write_text("junk")
    with pytest.raises(CertificateError, match=r"junk\.pem contains no PEM certificate"):
        read(tmp / "junk.pem")
