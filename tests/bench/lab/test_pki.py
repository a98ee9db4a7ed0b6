"""Each host has a certificate of one authority, in the paths of mtunnel, libvirt and QEMU."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from tunnel.bench.lab import pki
from tunnel.bench.lab.host_plan import LabHostPlan
from tunnel.bench.lab.lab import Lab
from tunnel.certs.authority import Authority
from tunnel.tls.contexts import TlsFiles, load


@pytest.fixture
def etc(plans: tuple[LabHostPlan, LabHostPlan], tmp: Path) -> Path:
    """The /etc of host A with its certificates."""
    pki.lay_out(Authority.create(tmp / "ca"), plans[0])
    return plans[0].outside("/etc")


@pytest.mark.parametrize(
    ("cert", "key", "usage"),
    [
        ("libvirt/servercert.pem", "libvirt/private/serverkey.pem", ExtendedKeyUsageOID.SERVER_AUTH),
        ("libvirt/clientcert.pem", "libvirt/private/clientkey.pem", ExtendedKeyUsageOID.CLIENT_AUTH),
        ("qemu/server-cert.pem", "qemu/server-key.pem", ExtendedKeyUsageOID.SERVER_AUTH),
        ("qemu/client-cert.pem", "qemu/client-key.pem", ExtendedKeyUsageOID.CLIENT_AUTH),
    ],
)
def test_libvirt_and_qemu_find_valid_certificates(
    etc: Path, cert: str, key: str, usage: x509.ObjectIdentifier
) -> None:
    found = x509.load_pem_x509_certificate((etc / "pki" / cert).read_bytes())
    ca = x509.load_pem_x509_certificate((etc / "pki/CA/cacert.pem").read_bytes())
    found.verify_directly_issued_by(ca)
    extensions = found.extensions
    assert usage in extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["hosta", "hosta.lab"]
    assert "192.0.2.1" in map(str, names.get_values_for_type(x509.IPAddress))
    assert extensions.get_extension_for_class(x509.KeyUsage).value.key_encipherment
    ssl.create_default_context().load_cert_chain(etc / "pki" / cert, etc / "pki" / key)


def test_mtunnel_accepts_its_own(etc: Path) -> None:
    own = etc / "mtunnel"
    contexts = load(TlsFiles(own / "ca.pem", own / "hosta.pem", own / "hosta.key", None))
    assert set(contexts.names) == {"hosta", "hosta.lab"}
    assert (own / "hosta.key").stat().st_mode & 0o077 == 0


def test_the_authoritys_key_is_not_copied(etc: Path) -> None:
    assert not [path for path in etc.rglob("*") if path.name == "ca.key"]


@pytest.mark.root
def test_libvirts_tls_works_by_name(lab: Lab) -> None:
    lab.b.firewall.open(16514)
    done = lab.a.virsh("-c", "qemu+tls://hostb.lab/system", "hostname")
    assert done.stdout.strip() == "hostb.lab"
