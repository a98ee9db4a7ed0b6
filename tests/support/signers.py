"""Authorities, intermediate authorities and their certificates: valid and invalid chains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from tunnel.certs.authority import key_pem, pem
from tunnel.certs.profile import HOST_USAGES, new_key
from tunnel.tls.tls_files import TlsFiles

NOW = datetime.now(UTC).replace(microsecond=0)


def day(number: float) -> datetime:
    """Return the time ``number`` days from now."""
    return NOW + timedelta(days=number)


class Signer:
    """A certificate with its key. Without an ``issuer`` it signs itself."""

    def __init__(
        self,
        name: str,
        issuer: Signer | None = None,
        *,
        ca: bool = True,
        dns: Iterable[str] = (),
        usages: Sequence[x509.ObjectIdentifier] = (),
        until: float = 300,
    ) -> None:
        self.key = new_key()
        self.issuer = issuer or self
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(self.issuer.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(day(min(-2, until - 2)))
            .not_valid_after(day(until))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
        )
        if usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if names := [x509.DNSName(each) for each in dns]:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        self.certificate = builder.sign(self.issuer.key, hashes.SHA256())

    def host(self, name: str, *, until: float = 300) -> Signer:
        """Return a host's certificate, valid for both roles."""
        return Signer(name, self, ca=False, dns=[name], usages=HOST_USAGES, until=until)

    def crl(self, *revoked: Signer, until: float = 5, since: float = -1) -> bytes:
        """Return a CRL in PEM."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(day(min(since, until - 1)))
            .next_update(day(until))
        )
        for each in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(each.certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(day(-1)).build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def files(
        self, directory: Path, *chain: Signer, ca: Sequence[Signer], crls: Sequence[bytes] = ()
    ) -> TlsFiles:
        """Write the files of a host with this certificate, followed by ``chain``."""
        directory.mkdir(parents=True, exist_ok=True)
        crl = directory / "crl.pem" if crls else None
        files = TlsFiles(directory / "ca.pem", directory / "host.pem", directory / "host.key", crl)
        files.ca.write_bytes(joined(*ca))
        files.cert.write_bytes(joined(self, *chain))
        files.key.touch(mode=0o600)
        files.key.write_bytes(key_pem(self.key))
        if crl is not None:
            crl.write_bytes(b"".join(crls))
        return files


def joined(*signers: Signer) -> bytes:
    """Return certificates as one PEM file."""
    return b"".join(pem(each.certificate) for each in signers)
