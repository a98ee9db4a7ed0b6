"""Certificates of the lab, laid out as mtunnel, libvirt and QEMU look for them.

mtunnel's own certificates are made as ``mtunnel certs issue`` makes them. libvirt 9 does not start with such
a certificate, because its key usage does not permit key encipherment (TLS 1.3 has no use for it, but libvirt
checks), so libvirt's are signed here, by the same authority, and QEMU gets the same ones.
"""

from __future__ import annotations

import ipaddress
import shutil
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tunnel.bench.lab.plan import Plan
from tunnel.certs.authority import Authority, key_pem, pem
from tunnel.certs.files import Pair, write_pair
from tunnel.certs.profile import HOST_DAYS, Validity, new_key

_SERVER, _CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


def lay_out(authority: Authority, host: Plan) -> None:
    """Write the certificates of ``host`` into its /etc: /etc/pki/{CA,libvirt,qemu} and /etc/mtunnel."""
    etc = host.outside("/etc")
    server = _sign(authority, host, "server", _SERVER)
    client = _sign(authority, host, "client", _CLIENT)
    own = authority.issue(host.name, dns=[host.fqdn], ips=_addresses(host))
    ca = authority.files.cert
    _copy(ca, etc / "pki/CA/cacert.pem")
    for pair, kind in ((server, "server"), (client, "client")):
        _copy(pair.cert, etc / f"pki/libvirt/{kind}cert.pem")
        _copy(pair.key, etc / f"pki/libvirt/private/{kind}key.pem")
        # QEMU reads these itself, and is not root.
        _copy(pair.cert, etc / f"pki/qemu/{kind}-cert.pem")
        _copy(pair.key, etc / f"pki/qemu/{kind}-key.pem", mode=0o644)
    _copy(ca, etc / "pki/qemu/ca-cert.pem")
    _copy(ca, etc / "mtunnel/ca.pem")
    _copy(own.cert, etc / f"mtunnel/{host.name}.pem")
    _copy(own.key, etc / f"mtunnel/{host.name}.key")


def _copy(source: Path, target: Path, mode: int | None = None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    if mode is not None:
        target.chmod(mode)


def _addresses(host: Plan) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    return [ipaddress.ip_address(text) for text in (host.address, host.second_address, host.address6)]


def _sign(authority: Authority, host: Plan, kind: str, usage: x509.ObjectIdentifier) -> Pair:
    """Make a certificate that libvirt accepts, beside the authority's files."""
    key, validity = new_key(), Validity.lasting(HOST_DAYS)
    names = [x509.DNSName(host.fqdn), x509.DNSName(host.name), *map(x509.IPAddress, _addresses(host))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host.fqdn)]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity.not_before)
        .not_valid_after(validity.not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_KEY_USAGE, critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    pair = Pair.named(authority.files.cert.parent, f"{host.name}-{kind}")
    write_pair(pair, pem(builder.sign(authority.key, hashes.SHA256())), key_pem(key), force=True)
    return pair


_KEY_USAGE = x509.KeyUsage(
    digital_signature=True,
    key_encipherment=True,
    content_commitment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
