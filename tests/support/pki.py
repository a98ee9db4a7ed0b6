"""Certificates for tests: one authority, as many hosts as a test needs, valid and invalid ones.

Everything is created by ``tunnel.certs`` in a directory of the test; a host takes a few milliseconds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from tunnel.certs.authority import Authority, key_pem, pem
from tunnel.certs.profile import HOST_USAGES, PrivateKey, Validity, host_certificate, new_key
from tunnel.tls.contexts import TlsFiles

SERVER_ONLY = (ExtendedKeyUsageOID.SERVER_AUTH,)
CLIENT_ONLY = (ExtendedKeyUsageOID.CLIENT_AUTH,)


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of a program's certificates below ``/etc/pki``."""

    ca: str
    server_cert: str
    server_key: str
    client_cert: str
    client_key: str


LIBVIRT = Layout(
    "CA/cacert.pem",
    "libvirt/servercert.pem",
    "libvirt/private/serverkey.pem",
    "libvirt/clientcert.pem",
    "libvirt/private/clientkey.pem",
)
QEMU = Layout(
    "qemu/ca-cert.pem",
    "qemu/server-cert.pem",
    "qemu/server-key.pem",
    "qemu/client-cert.pem",
    "qemu/client-key.pem",
)


def expired() -> Validity:
    """Return a validity that ended yesterday."""
    now = datetime.now(UTC)
    return Validity(now - timedelta(days=2), now - timedelta(days=1))


def not_yet_valid() -> Validity:
    """Return a validity that begins tomorrow."""
    now = datetime.now(UTC)
    return Validity(now + timedelta(days=1), now + timedelta(days=2))


@functools.cache
def rsa_key(number: int = 0) -> rsa.RSAPrivateKey:
    """Return an RSA key, cached by ``number``, because they are slow to generate."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Pki:
    """An authority in ``directory``. Two of them, in two directories, do not trust each other's hosts."""

    def __init__(self, directory: Path, *, validity: Validity | None = None) -> None:
        self.directory = directory
        self.authority = Authority.create(directory, validity=validity)

    def host(
        self,
        name: str,
        *,
        dns: Iterable[str] = (),
        validity: Validity | None = None,
        usages: Sequence[x509.ObjectIdentifier] = HOST_USAGES,
        crl: Path | None = None,
    ) -> TlsFiles:
        """Create the files of one host, like ``mtunnel certs issue``."""
        pair = self.authority.issue(name, dns=dns, validity=validity, usages=usages)
        return TlsFiles(self.authority.files.cert, pair.cert, pair.key, crl)

    def layout(
        self,
        layout: Layout,
        root: Path,
        name: str,
        *,
        client: str | None = None,
        make_key: Callable[[], PrivateKey] = new_key,
    ) -> TlsFiles:
        """Create the files of one host below ``root``; ``client``: its name as a client, if different."""
        files = TlsFiles(root / layout.ca, root / layout.server_cert, root / layout.server_key)
        for path in (files.ca, files.cert, files.key):
            path.parent.mkdir(parents=True, exist_ok=True)
        files.ca.write_bytes(pem(self.authority.certificate))
        self._write(files.cert, files.key, make_key(), name, SERVER_ONLY)
        client_files = root / layout.client_cert, root / layout.client_key
        self._write(*client_files, make_key(), client or name, CLIENT_ONLY)
        return files

    def revoke(self, *hosts: TlsFiles, lasting: timedelta = timedelta(days=1)) -> Path:
        """Write a CRL that revokes these hosts' certificates; with a negative ``lasting`` it has expired."""
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.authority.certificate.subject)
            .last_update(now - timedelta(days=2))
            .next_update(now + lasting)
        )
        for host in hosts:
            serial = x509.load_pem_x509_certificate(host.cert.read_bytes()).serial_number
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(revoked)
        crl = self.directory / "crl.pem"
        crl.write_bytes(
            builder.sign(self.authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )
        return crl

    def certificate(
        self, key: PrivateKey, name: str, usages: Sequence[x509.ObjectIdentifier] = HOST_USAGES
    ) -> bytes:
        """Sign a certificate for a key of any kind; return it in PEM."""
        certificate = host_certificate(
            key.public_key(),
            issuer=self.authority.certificate,
            issuer_key=self.authority.key,
            names=[name],
            validity=Validity.lasting(1),
            usages=usages,
        )
        return pem(certificate)

    def _write(
        self, cert: Path, key_file: Path, key: PrivateKey, name: str, usages: Sequence[x509.ObjectIdentifier]
    ) -> None:
        cert.write_bytes(self.certificate(key, name, usages))
        key_file.touch(mode=0o600)
        key_file.write_bytes(key_pem(key))
