"""Every fault of a certificate, key, CA or CRL file is reported in one line."""

from __future__ import annotations

import codecs
import re
import ssl
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa, x25519

from tests.support.pki import LIBVIRT, QEMU, Layout, Pki, expired, rsa_key
from tunnel.certs.authority import key_pem, pem
from tunnel.certs.profile import PrivateKey, Validity, ca_certificate, new_key
from tunnel.errors import CertificateError
from tunnel.tls.contexts import load
from tunnel.tls.tls_files import (
    TlsFiles,
    load_authorities,
    load_crl,
    load_pair,
    read_authorities,
    read_crls,
    read_pair,
)

JUNK_CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
JUNK_KEY = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
JUNK_CRL = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"


@pytest.fixture
def pki(tmp: Path) -> Pki:
    return Pki(tmp / "pki")


@pytest.fixture
def host(pki: Pki) -> TlsFiles:
    return pki.host("hosta")


def fresh() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def refuses(message: str) -> pytest.RaisesExc[CertificateError]:
    """Expect a one-line error that contains ``message``."""
    return pytest.raises(CertificateError, match=rf"\A.*{message}.*\Z")


def test_a_good_pair_is_loaded(host: TlsFiles) -> None:
    load_pair(fresh(), host.cert, host.key)


@pytest.mark.parametrize("missing", ["cert", "key"])
def test_a_missing_file_is_named(host: TlsFiles, missing: str) -> None:
    path: Path = getattr(host, missing)
    path.unlink()
    with refuses(f"{re.escape(str(path))}: No such file or directory"):
        load_pair(fresh(), host.cert, host.key)


def test_an_unreadable_file_is_named(host: TlsFiles) -> None:
    host.key.unlink()
    host.key.mkdir()
    with refuses(r"cannot read the private key .*hosta\.key: Is a directory"):
        load_pair(fresh(), host.cert, host.key)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("hosta.pem", "junk", r"the certificate .*hosta\.pem holds no PEM block CERTIFICATE"),
        ("hosta.key", "junk", r"the private key .*hosta\.key holds no PEM block PRIVATE KEY"),
        ("hosta.pem", JUNK_CERTIFICATE, r"the certificate .*hosta\.pem is damaged"),
        ("hosta.key", JUNK_KEY, r"the private key .*hosta\.key is damaged"),
    ],
    ids=["no certificate", "no key", "damaged certificate", "damaged key"],
)
def test_invalid_pem_is_reported(host: TlsFiles, name: str, content: str, message: str) -> None:
    host.cert.with_name(name).write_text(content)
    with refuses(message):
        load_pair(fresh(), host.cert, host.key)


def test_a_key_of_another_format_or_type_is_not_reported_as_damaged(host: TlsFiles) -> None:
    form, none = serialization.PrivateFormat, serialization.NoEncryption()
    host.key.write_bytes(new_key().private_bytes(serialization.Encoding.PEM, form.OpenSSH, none))
    with refuses(r"is in OpenSSH format: convert it \(ssh-keygen"):
        load_pair(fresh(), host.cert, host.key)
    exchange = x25519.X25519PrivateKey.generate()
    host.key.write_bytes(exchange.private_bytes(serialization.Encoding.PEM, form.PKCS8, none))
    with refuses(r"is of a type that certificates do not use \(X25519\)"):
        load_pair(fresh(), host.cert, host.key)


def test_of_several_keys_in_a_file_the_first_is_used(host: TlsFiles) -> None:
    host.key.write_bytes(key_pem(new_key()) + host.key.read_bytes())
    with refuses(r"the private key .*hosta\.key \(the first of several\) does not match the certificate"):
        load_pair(fresh(), host.cert, host.key)


@pytest.mark.parametrize(
    "form", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL]
)
def test_an_encrypted_key_is_refused_without_asking_for_a_passphrase(
    host: TlsFiles, form: serialization.PrivateFormat
) -> None:
    protection = serialization.BestAvailableEncryption(b"secret")
    host.key.write_bytes(new_key().private_bytes(serialization.Encoding.PEM, form, protection))
    with refuses("is encrypted"):
        load_pair(fresh(), host.cert, host.key)


@pytest.mark.parametrize("key", [new_key(), rsa_key()], ids=["same kind", "other kind"])
def test_a_key_of_another_certificate_is_refused(host: TlsFiles, key: PrivateKey) -> None:
    host.key.write_bytes(key_pem(key))
    with refuses(r"hosta\.key does not match the certificate .*hosta\.pem"):
        load_pair(fresh(), host.cert, host.key)


@pytest.mark.parametrize("make_key", [new_key, rsa_key], ids=["same kind", "other kind"])
def test_issuers_before_the_host_certificate_are_reported(
    pki: Pki, host: TlsFiles, make_key: Callable[[], PrivateKey]
) -> None:
    issuer = pem(ca_certificate(make_key(), Validity.lasting(1)))
    host.cert.write_bytes(issuer + host.cert.read_bytes())
    with refuses(r"belongs to certificate 2 in .*hosta\.pem, CN=hosta: put that first"):
        load_pair(fresh(), host.cert, host.key)


def test_a_weak_key_is_refused(pki: Pki, host: TlsFiles) -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    host.cert.write_bytes(pki.certificate(weak, "hosta"))
    host.key.write_bytes(key_pem(weak))
    with refuses(r"hosta\.pem is too weak"):
        load_pair(fresh(), host.cert, host.key)


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """A directory that every user can search; the usual temporary one is not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def in_public(host: TlsFiles, directory: Path, mode: int) -> Path:
    key = directory / "hosta.key"
    key.write_bytes(host.key.read_bytes())
    key.chmod(mode)
    return key


def test_a_key_that_everyone_can_read_is_refused(host: TlsFiles, public_directory: Path) -> None:
    key = in_public(host, public_directory, 0o644)
    with refuses("can be read by every local user: chmod 600"):
        load_pair(fresh(), host.cert, key)


def test_a_link_does_not_hide_a_key_that_everyone_can_read(host: TlsFiles, public_directory: Path) -> None:
    key = in_public(host, public_directory, 0o644)
    host.key.unlink()
    host.key.symlink_to(key)
    with refuses("can be read by every local user"):
        load_pair(fresh(), host.cert, host.key)


def test_a_key_may_be_open_to_a_group(host: TlsFiles, public_directory: Path) -> None:
    load_pair(fresh(), host.cert, in_public(host, public_directory, 0o640))


def test_a_key_may_have_an_open_mode_in_a_closed_directory(host: TlsFiles, public_directory: Path) -> None:
    public_directory.chmod(0o750)
    load_pair(fresh(), host.cert, in_public(host, public_directory, 0o644))


def test_authorities_may_be_several(pki: Pki, tmp: Path) -> None:
    successor = Pki(tmp / "successor")
    bundle = tmp / "bundle.pem"
    bundle.write_bytes(pem(pki.authority.certificate) + pem(successor.authority.certificate))
    context = fresh()
    load_authorities(context, bundle)
    assert context.cert_store_stats()["x509_ca"] == 2


def test_an_expired_authority_is_allowed_with_its_successor(pki: Pki, tmp: Path) -> None:
    old = Pki(tmp / "old", validity=expired())
    bundle = tmp / "bundle.pem"
    bundle.write_bytes(pem(old.authority.certificate) + pem(pki.authority.certificate))
    load_authorities(fresh(), bundle)


def test_an_expired_authority_alone_is_refused(tmp: Path) -> None:
    old = Pki(tmp / "old", validity=expired())
    with refuses(r"ca\.pem expired on \d{4}-\d\d-\d\d \d\d:\d\d UTC"):
        load_authorities(fresh(), old.authority.files.cert)


def test_a_host_certificate_is_no_authority(host: TlsFiles) -> None:
    with refuses(r"hosta\.pem holds no CA certificate"):
        load_authorities(fresh(), host.cert)


def test_a_host_certificate_among_the_authorities_is_refused(host: TlsFiles) -> None:
    host.ca.write_bytes(host.ca.read_bytes() + host.cert.read_bytes())
    with refuses("also holds certificates that are not CA certificates"):
        load_authorities(fresh(), host.ca)


def test_a_crl_among_the_authorities_is_not_ignored(pki: Pki, host: TlsFiles) -> None:
    host.ca.write_bytes(host.ca.read_bytes() + pki.revoke().read_bytes())
    with refuses("also holds a CRL"):
        load_authorities(fresh(), host.ca)


@pytest.mark.parametrize(
    ("content", "message"),
    [("junk", "holds no PEM block CERTIFICATE"), (JUNK_CERTIFICATE, "is damaged")],
    ids=["junk", "damaged"],
)
def test_a_ca_file_with_invalid_pem_is_reported(host: TlsFiles, content: str, message: str) -> None:
    host.ca.write_text(content)
    with refuses(rf"the CA file .*ca\.pem {message}"):
        load_authorities(fresh(), host.ca)


def test_crls_may_be_several(pki: Pki, tmp: Path) -> None:
    crl = pki.revoke()
    crl.write_bytes(crl.read_bytes() + Pki(tmp / "other").revoke().read_bytes())
    issuers = {each.issuer for each in read_crls(crl)}
    assert len(issuers) == 2
    assert pki.authority.certificate.subject in issuers


@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE], ids=["utf-8", "utf-16"])
@pytest.mark.parametrize("name", ["ca", "cert", "key"])
def test_a_byte_order_mark_is_reported(host: TlsFiles, name: str, mark: bytes) -> None:
    """Windows editors add one; OpenSSL then does not find the first certificate."""
    path: Path = getattr(host, name)
    path.write_bytes(mark + path.read_bytes())
    with refuses(rf"{re.escape(str(path))} begins with a byte order mark"):
        load(host)


def test_authorities_and_pairs_are_read_completely(pki: Pki, host: TlsFiles) -> None:
    host.cert.write_bytes(host.cert.read_bytes() + host.ca.read_bytes())
    pair = read_pair(host.cert, host.key)
    assert read_authorities(host.ca) == (pki.authority.certificate,) == pair.chain[1:]
    assert pair.file == host.cert


def test_what_only_one_openssl_reads_is_reported(host: TlsFiles) -> None:
    """Python's OpenSSL accepts a PEM line of any length; ``cryptography`` parses the file afterwards."""
    host.cert.write_bytes(host.cert.read_bytes() + JUNK_CERTIFICATE.encode())
    with refuses(r"hosta\.pem (is damaged|cannot be decoded)"):
        read_pair(host.cert, host.key)


@pytest.mark.parametrize(
    ("content", "message"),
    [("junk", "holds no PEM block X509 CRL"), (JUNK_CRL, "is damaged")],
    ids=["junk", "damaged"],
)
def test_a_crl_with_invalid_pem_is_reported(tmp: Path, content: str, message: str) -> None:
    (tmp / "crl.pem").write_text(content)
    with refuses(rf"the CRL .*crl\.pem {message}"):
        load_crl(fresh(), tmp / "crl.pem")


def test_a_crl_adds_no_trust(pki: Pki, tmp: Path) -> None:
    crl = pki.revoke()
    stranger = ca_certificate(new_key(), Validity.lasting(1))
    crl.write_bytes(crl.read_bytes() + pem(stranger))
    with refuses("also holds certificates: remove them"):
        load_crl(fresh(), crl)


@pytest.mark.parametrize("layout", [LIBVIRT, QEMU], ids=["libvirt", "qemu"])
def test_layouts_with_two_pairs_dial_with_the_client_pair(pki: Pki, tmp: Path, layout: Layout) -> None:
    host = pki.layout(layout, tmp, "hosta")
    assert host.client_sibling() == tmp / layout.client_cert
    assert host.dialing() == (tmp / layout.client_cert, tmp / layout.client_key)


def test_layouts_without_a_client_pair_dial_with_the_server_pair(pki: Pki, tmp: Path) -> None:
    host = pki.layout(QEMU, tmp, "hosta")
    (tmp / QEMU.client_cert).unlink()
    assert host.dialing() == (host.cert, host.key)


def test_our_own_layout_has_one_pair(pki: Pki, host: TlsFiles) -> None:
    host.cert.with_name("client-cert.pem").touch()
    assert host.client_sibling() is None
    assert host.dialing() == (host.cert, host.key)
