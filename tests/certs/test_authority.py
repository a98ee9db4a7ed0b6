"""A CA in a directory: created, loaded, and issuing certificates."""

from __future__ import annotations

import stat
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.support.pki import SERVER_ONLY, expired, rsa_key
from tests.support.signers import Signer
from tunnel.certs.authority import Authority, key_pem, pem
from tunnel.certs.profile import HOST_USAGES, Validity, ca_certificate, new_key
from tunnel.errors import CertificateError, UsageError
from tunnel.tls.contexts import TlsFiles, load


@pytest.fixture
def authority(tmp: Path) -> Authority:
    return Authority.create(tmp / "pki")


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_create_makes_a_private_directory_with_a_ca(authority: Authority, tmp: Path) -> None:
    assert stat.S_IMODE((tmp / "pki").stat().st_mode) == 0o700
    assert {path.name for path in (tmp / "pki").iterdir()} == {"ca.pem", "ca.key"}
    assert certificate(tmp / "pki" / "ca.pem") == authority.certificate


def test_a_ca_lasts_ten_years_and_a_host_one(authority: Authority) -> None:
    ca, host = authority.certificate, certificate(authority.issue("hosta").cert)
    assert (ca.not_valid_after_utc - ca.not_valid_before_utc).days == 3650
    assert (host.not_valid_after_utc - host.not_valid_before_utc).days == 365


def test_create_does_not_replace_a_ca(authority: Authority, tmp: Path) -> None:
    with pytest.raises(CertificateError, match="already exists"):
        Authority.create(tmp / "pki")
    assert Authority.load(tmp / "pki").certificate == authority.certificate


def test_create_with_force_replaces_a_ca(authority: Authority, tmp: Path) -> None:
    successor = Authority.create(tmp / "pki", force=True)
    assert successor.certificate != authority.certificate
    assert Authority.load(tmp / "pki").certificate == successor.certificate


def test_create_reports_why_a_directory_cannot_be_created(tmp: Path) -> None:
    (tmp / "file").touch()
    with pytest.raises(CertificateError, match="cannot create the directory"):
        Authority.create(tmp / "file")


def test_issue_writes_a_pair_that_belongs_together(authority: Authority) -> None:
    pair = authority.issue("HostA", dns=["hosta.example", "hosta"], ips=[ip_address("192.0.2.1")])
    assert (pair.cert.name, pair.key.name) == ("hosta.pem", "hosta.key")
    host = certificate(pair.cert)
    host.verify_directly_issued_by(authority.certificate)
    sans = host.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert sans.get_values_for_type(x509.DNSName) == ["hosta", "hosta.example"]
    key = serialization.load_pem_private_key(pair.key.read_bytes(), password=None)
    assert key.public_key() == host.public_key()


def test_a_loaded_authority_issues_too(authority: Authority, tmp: Path) -> None:
    pair = Authority.load(tmp / "pki").issue("hosta")
    certificate(pair.cert).verify_directly_issued_by(authority.certificate)


def test_issue_takes_other_usages_and_dates(authority: Authority) -> None:
    validity = expired()
    host = certificate(authority.issue("hosta", validity=validity, usages=SERVER_ONLY).cert)
    assert tuple(host.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == SERVER_ONLY
    assert host.not_valid_after_utc == validity.not_after.replace(microsecond=0)


def test_issue_does_not_replace_a_host(authority: Authority) -> None:
    before = authority.issue("hosta").cert.read_bytes()
    with pytest.raises(CertificateError, match="already exists"):
        authority.issue("hosta")
    pair = authority.issue("hosta", force=True)
    assert pair.cert.read_bytes() != before


@pytest.mark.parametrize("name", ["ca", "CA"])
def test_no_host_can_have_the_name_of_the_ca(authority: Authority, name: str) -> None:
    with pytest.raises(UsageError, match="'ca': the name is reserved for the CA"):
        authority.issue(name, force=True)


@pytest.mark.parametrize("name", ["../hosta", "*.example", "192.0.2.1"])
def test_issue_refuses_an_invalid_host_name(authority: Authority, name: str) -> None:
    with pytest.raises(UsageError, match="not a host name"):
        authority.issue(name)


def test_no_certificate_outlives_its_authority(tmp: Path) -> None:
    short = Authority.create(tmp, validity=Validity.lasting(30))
    with pytest.raises(CertificateError, match="use --days 29 or less"):
        short.issue("hosta")
    assert not (tmp / "hosta.pem").exists()


def test_an_expired_authority_issues_nothing(tmp: Path) -> None:
    with pytest.raises(CertificateError, match="create a new CA"):
        Authority.create(tmp, validity=expired()).issue("hosta", validity=Validity.lasting(1))


def test_load_names_the_command_that_creates_a_ca(tmp: Path) -> None:
    with pytest.raises(CertificateError, match=f"mtunnel certs init {tmp}"):
        Authority.load(tmp)


def test_load_refuses_a_host_certificate(authority: Authority, tmp: Path) -> None:
    pair = authority.issue("hosta")
    pair.cert.replace(tmp / "pki" / "ca.pem")
    with pytest.raises(CertificateError, match="is not a CA certificate: basicConstraints lacks CA:TRUE"):
        Authority.load(tmp / "pki")


def sign_only(*, certificates: bool) -> x509.KeyUsage:
    """A key usage with cRLSign, and keyCertSign if ``certificates``."""
    return x509.KeyUsage(True, False, False, False, False, certificates, True, False, False)


@pytest.mark.parametrize(
    ("extension", "words"),
    [
        (sign_only(certificates=False), "keyUsage lacks keyCertSign"),
        (x509.ExtendedKeyUsage(SERVER_ONLY), "extendedKeyUsage lacks clientAuth"),
    ],
    ids=["key usage", "extended key usage"],
)
def test_load_refuses_a_ca_whose_certificates_would_be_rejected(
    authority: Authority, extension: x509.ExtensionType, words: str
) -> None:
    authority.files.cert.write_bytes(pem(with_extension(authority, extension)))
    with pytest.raises(CertificateError, match=words):
        Authority.load(authority.files.cert.parent)


@pytest.mark.parametrize(
    "extension",
    [
        sign_only(certificates=True),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]),
        x509.ExtendedKeyUsage(HOST_USAGES),
    ],
    ids=["key usage", "any use", "both uses"],
)
def test_load_accepts_a_ca_with_sufficient_key_usages(
    authority: Authority, extension: x509.ExtensionType
) -> None:
    authority.files.cert.write_bytes(pem(with_extension(authority, extension)))
    Authority.load(authority.files.cert.parent).issue("hosta")


def with_extension(authority: Authority, extension: x509.ExtensionType) -> x509.Certificate:
    """The CA's certificate with basicConstraints and ``extension`` as its only extensions."""
    own = authority.certificate
    builder = x509.CertificateBuilder(
        own.subject,
        own.subject,
        own.public_key(),
        own.serial_number,
        own.not_valid_before_utc,
        own.not_valid_after_utc,
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.add_extension(extension, critical=True).sign(authority.key, hashes.SHA256())


def test_load_refuses_another_key(authority: Authority, tmp: Path) -> None:
    authority.issue("hosta").key.replace(tmp / "pki" / "ca.key")
    with pytest.raises(CertificateError, match=r"the private key .* does not match"):
        Authority.load(tmp / "pki")


def encrypted() -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return new_key().private_bytes(
        serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(b"secret")
    )


def ed25519_key() -> bytes:
    return ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"junk", "is not a usable private key"),
        (encrypted(), "is not a usable private key"),
        (ed25519_key(), "neither an EC nor an RSA key"),
    ],
    ids=["junk", "encrypted", "ed25519"],
)
def test_load_refuses_other_keys(authority: Authority, content: bytes, message: str) -> None:
    authority.files.key.write_bytes(content)
    with pytest.raises(CertificateError, match=message):
        Authority.load(authority.files.key.parent)


def test_load_refuses_a_file_that_is_no_certificate(authority: Authority) -> None:
    authority.files.cert.write_bytes(b"junk")
    with pytest.raises(CertificateError, match="is not a CA certificate"):
        Authority.load(authority.files.cert.parent)


def test_load_reports_why_a_file_cannot_be_read(authority: Authority) -> None:
    authority.files.key.unlink()
    authority.files.key.mkdir()
    with pytest.raises(CertificateError, match=r"cannot read .*ca\.key: Is a directory"):
        Authority.load(authority.files.cert.parent)


def as_authority(directory: Path, signer: Signer) -> Authority:
    """A CA made by another program, under our file names."""
    (directory / "ca.pem").write_bytes(pem(signer.certificate))
    (directory / "ca.key").write_bytes(key_pem(signer.key))
    return Authority.load(directory)


@pytest.mark.parametrize(
    "signer",
    [Signer("root", until=400), Signer("inter", Signer("root", until=400), until=400)],
    ids=["without a name for its key", "intermediate"],
)
def test_certificates_of_a_foreign_ca_are_accepted(tmp: Path, signer: Signer) -> None:
    authority = as_authority(tmp, signer)
    pair = authority.issue("hosta")
    assert load(TlsFiles(authority.files.cert, pair.cert, pair.key)).names == ("hosta",)


def test_certificate_that_would_be_rejected_is_not_issued(authority: Authority) -> None:
    """For example one with a name outside the CA's name constraints."""
    only = x509.NameConstraints([x509.DNSName("example")], None)
    authority.files.cert.write_bytes(pem(with_extension(authority, only)))
    limited = Authority.load(authority.files.cert.parent)
    limited.issue("hosta.example")
    with pytest.raises(
        CertificateError, match=r"signed by .*ca\.pem would be rejected by every host: permitted subtree"
    ):
        limited.issue("hosta")
    assert not (authority.files.cert.parent / "hosta.pem").exists()


def test_a_foreign_rsa_ca_can_issue(tmp: Path) -> None:
    (tmp / "ca.pem").write_bytes(pem(ca_certificate(rsa_key(), Validity.lasting(400))))
    (tmp / "ca.key").write_bytes(key_pem(rsa_key()))
    authority = Authority.load(tmp)
    certificate(authority.issue("hosta").cert).verify_directly_issued_by(authority.certificate)
