"""Trust of a host: the authorities in ``tls.ca`` and the CRLs in ``tls.crl``.

The rules, in handshakes and whenever a chain is verified again:

- Any certificate in ``tls.ca`` is a trust anchor, be it self-signed or an intermediate, as with GnuTLS, and
  so with libvirt and QEMU. All certificates of the chain must be valid, that one included.
- With a ``tls.crl``, the host's own certificate is looked up in the CRL of its issuer, which must exist. So
  is each intermediate, if the file has a CRL of its issuer; otherwise the intermediate counts as not revoked:
  an authority that publishes no CRL for its intermediates must not lock out all hosts.
- Of several CRLs of one issuer the newest counts, even if it has expired: an older one revokes less.
- A CRL is not replaced by an older one, nor removed while its authority is trusted: that would accept again
  what was revoked since.
- A certificate in ``tls.ca`` that a CRL in ``tls.crl`` revokes counts as absent.

OpenSSL verifies. Its own rule for whole chains (X509_V_FLAG_CRL_CHECK_ALL) requires a CRL of every issuer, so
``tolerates`` decides which of its errors to ignore.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes
from OpenSSL import crypto

from tunnel.errors import CertificateError
from tunnel.tls.expiry import Expiry
from tunnel.tls.openssl import CertificateRejectedError, set_purpose
from tunnel.tls.rejections import Verify, at, name_of
from tunnel.tls.tls_files import TlsFiles, read_authorities, read_crls

Chain = tuple[x509.Certificate, ...]
"""A verified chain: the host's own certificate first, its trust anchor in ``tls.ca`` last."""

_PARTIAL_CHAIN = crypto.X509StoreFlags.PARTIAL_CHAIN
_CRL_CHECK = crypto.X509StoreFlags.CRL_CHECK
_CRL_CHECK_ALL = crypto.X509StoreFlags.CRL_CHECK_ALL
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, openssl/x509_vfy.h

_NEAREST = ("tls.cert", "tls.ca", "tls.crl")  # the order of equal expiry dates

_ABOUT_CRLS = {
    Verify.UNABLE_TO_GET_CRL,
    Verify.CRL_SIGNATURE_FAILURE,
    Verify.CRL_NOT_YET_VALID,
    Verify.CRL_HAS_EXPIRED,
    Verify.UNABLE_TO_GET_CRL_ISSUER,
    Verify.KEYUSAGE_NO_CRL_SIGN,
    Verify.UNHANDLED_CRITICAL_CRL_EXTENSION,
    Verify.DIFFERENT_CRL_SCOPE,
    Verify.CRL_PATH_VALIDATION_ERROR,
}


class Trust:
    """The trusted authorities and CRLs, with the rules above. Immutable: read anew when the files change."""

    def __init__(
        self,
        files: TlsFiles,
        authorities: tuple[x509.Certificate, ...],
        crls: tuple[x509.CertificateRevocationList, ...] = (),
    ) -> None:
        self.files = files
        self.crls = _newest(crls)
        self.authorities = tuple(each for each in authorities if not _revoked(each, authorities, crls))

    @classmethod
    def read(cls, files: TlsFiles) -> Trust:
        """Read ``tls.ca`` and ``tls.crl``. Raises ``CertificateError`` for any fault of them."""
        return cls(files, read_authorities(files.ca), read_crls(files.crl) if files.crl else ())

    def check_successor(self, new: Trust) -> None:
        """Raise ``CertificateError`` if ``new`` has an older CRL than ours, or has lost one."""
        for ours in self.crls:
            if ours.issuer in {each.subject for each in new.authorities} - {crl.issuer for crl in new.crls}:
                raise CertificateError(
                    f"{new.files.crl} no longer has a CRL of {name_of(ours.issuer)}: certificates that it "
                    "revoked would be accepted again; restore it, or restart the daemon if this is intended"
                )
            issued = [crl.last_update_utc for crl in new.crls if _scope(crl) == _scope(ours)]
            if issued and max(issued) < ours.last_update_utc:
                raise CertificateError(
                    f"the CRL of {name_of(ours.issuer)} in {new.files.crl} is older (this update "
                    f"{at(max(issued))}) than the one in use ({at(ours.last_update_utc)}): certificates "
                    "revoked since would be accepted again; install the newest, or restart the daemon if "
                    "this is intended"
                )

    def fill(self, store: crypto.X509Store) -> None:
        """Fill the ``store`` of a handshake context; ``tolerates`` has to filter its errors."""
        for authority in self.authorities:
            store.add_cert(crypto.X509.from_cryptography(authority))
        for crl in self.crls:
            store.add_crl(crl)
        store.set_flags(_PARTIAL_CHAIN | (_CRL_CHECK | _CRL_CHECK_ALL if self.crls else 0))

    def tolerates(self, code: int, depth: int, certificate: x509.Certificate) -> bool:
        """Whether our rules ignore an error of OpenSSL about the certificate at ``depth``."""
        if depth == 0 or code not in _ABOUT_CRLS:
            return False
        if certificate in self.authorities:
            return True
        return code == Verify.UNABLE_TO_GET_CRL and not self.has_crl_for(certificate)

    def has_crl_for(self, certificate: x509.Certificate) -> bool:
        """Whether there is a CRL of the issuer of ``certificate``."""
        return any(crl.issuer == certificate.issuer for crl in self.crls)

    def fault(self, code: int, depth: int, certificate: x509.Certificate | None) -> CertificateRejectedError:
        """Return the error with details of ``certificate``, which is None if it cannot be parsed."""
        if certificate is None:
            return CertificateRejectedError(code, depth)
        crls = [crl for crl in self.crls if crl.issuer == certificate.issuer]
        newest = max(crls, key=lambda crl: crl.last_update_utc, default=None)
        trusted = certificate in self.authorities
        return CertificateRejectedError(code, depth, certificate, trusted=trusted, crl=newest)

    # Verifying again.

    def judge(self, chain: Chain, moment: datetime, *, dialing: bool) -> None:
        """Verify a chain again. Raises CertificateRejectedError.

        ``dialing``: whether it is the chain of the dialing side.
        """
        for depth, certificate in enumerate(chain):
            self._judge_dates(certificate, depth, moment)
        self._judge_path(chain, dialing=dialing)
        if self.crls:
            for depth, certificate in enumerate(chain):
                if depth == 0 or certificate not in self.authorities:
                    self._judge_revocation(chain[depth:], depth, moment)

    def _judge_dates(self, certificate: x509.Certificate, depth: int, moment: datetime) -> None:
        if moment < certificate.not_valid_before_utc:
            raise self.fault(Verify.CERT_NOT_YET_VALID, depth, certificate)
        if moment >= certificate.not_valid_after_utc:
            raise self.fault(Verify.CERT_HAS_EXPIRED, depth, certificate)

    def _judge_path(self, chain: Chain, *, dialing: bool) -> None:
        self._verify(self._stores[dialing], chain)

    def _judge_revocation(self, chain: Chain, depth: int, moment: datetime) -> None:
        """Look up the first certificate of ``chain`` in the CRL of its issuer."""
        try:
            self._verify(self._store_with_crls, chain, depth)
            ends = [crl.next_update_utc for crl in self.crls if crl.issuer == chain[0].issuer]
            if ends and all(end is not None and end <= moment for end in ends):
                raise self.fault(Verify.CRL_HAS_EXPIRED, depth, chain[0])
        except CertificateRejectedError as error:
            if error.certificate is None or not self.tolerates(error.code, depth, error.certificate):
                raise

    def _verify(self, store: crypto.X509Store, chain: Chain, depth: int = 0) -> None:
        """Let OpenSSL verify ``chain``, whose first certificate is at ``depth`` of a longer one."""
        first, *others = map(crypto.X509.from_cryptography, chain)
        try:
            crypto.X509StoreContext(store, first, others).verify_certificate()
        except crypto.X509StoreContextError as error:
            code, at, _ = error.errors
            raise self.fault(code, depth + at, error.certificate.to_cryptography()) from None

    @cached_property
    def _stores(self) -> dict[bool, crypto.X509Store]:
        """Stores for paths, by ``dialing``. They ignore dates, which ``_judge_dates`` checks by its clock."""
        stores = {dialing: self._store(0) for dialing in (False, True)}
        for dialing, store in stores.items():
            set_purpose(store, client=dialing)
        return stores

    @cached_property
    def _store_with_crls(self) -> crypto.X509Store:
        store = self._store(_CRL_CHECK)
        for crl in self.crls:
            store.add_crl(crl)
        return store

    def _store(self, flags: int) -> crypto.X509Store:
        store = crypto.X509Store()
        for authority in self.authorities:
            store.add_cert(crypto.X509.from_cryptography(authority))
        store.set_flags(_PARTIAL_CHAIN | _NO_CHECK_TIME | flags)
        return store

    @cached_property
    def ends_of_crls(self) -> tuple[datetime, ...]:
        """The expiry dates of the CRLs, of each issuer the last."""
        return tuple(expiry.ends for expiry in _ends_of_crls(self.crls, self.files.crl))

    # For the operator.

    def gaps(self, *chains: Chain) -> Iterator[tuple[str, str]]:
        """Yield (key, warning) for intermediates of ``chains`` whose revocation could not be detected."""
        above = {each for chain in chains for each in chain[1:] if each not in self.authorities}
        for certificate in sorted(above, key=lambda each: each.serial_number):
            if self.crls and not self.has_crl_for(certificate):
                issuer, name = name_of(certificate.issuer), name_of(certificate.subject)
                yield (
                    "tls.crl",
                    f"it has no CRL of {issuer}: revocation of the intermediate {name} would go undetected",
                )

    def expiries(self, moment: datetime, *own: tuple[Chain, Path]) -> tuple[Expiry, ...]:
        """Return the expiry dates of ``own`` chains with their files, CAs and CRLs, earliest first.

        An authority that has expired at ``moment`` is left out if there are others.
        """
        authorities = [each for each in self.authorities if each.not_valid_after_utc > moment]
        found = {
            *_ends_of_chains(own, self.authorities),
            *(_end_of_authority(each, self.files.ca) for each in authorities or self.authorities),
            *_ends_of_crls(self.crls, self.files.crl),
        }
        return tuple(sorted(found, key=lambda each: (each.ends, _NEAREST.index(each.key), each.what)))


def _newest(
    crls: tuple[x509.CertificateRevocationList, ...],
) -> tuple[x509.CertificateRevocationList, ...]:
    """Drop CRLs that a later one of the same issuer, key and scope has replaced.

    OpenSSL would prefer an older CRL that is still valid to a newer one that has expired, and trust a
    certificate that the newer one revokes.
    """
    newest: dict[object, datetime] = {}
    for crl in crls:
        newest[_scope(crl)] = max(crl.last_update_utc, newest.get(_scope(crl), crl.last_update_utc))
    return tuple(crl for crl in crls if crl.last_update_utc == newest[_scope(crl)])


def _scope(crl: x509.CertificateRevocationList) -> object:
    about = (x509.AuthorityKeyIdentifier, x509.IssuingDistributionPoint, x509.DeltaCRLIndicator)
    try:
        return crl.issuer, frozenset(each.value for each in crl.extensions if isinstance(each.value, about))
    except (ValueError, x509.DuplicateExtension):  # OpenSSL may still parse it
        return crl.fingerprint(hashes.SHA256())


def _ends_of_chains(
    own: tuple[tuple[Chain, Path], ...], authorities: tuple[x509.Certificate, ...]
) -> Iterator[Expiry]:
    for chain, file in own:
        for depth, certificate in enumerate(chain):
            if certificate not in authorities:
                what = f"the intermediate {name_of(certificate.subject)} in" if depth else "the certificate"
                ends, leaf = certificate.not_valid_after_utc, None if depth else file
                yield Expiry("tls.cert", f"{what} {file}", ends, leaf)


def _end_of_authority(authority: x509.Certificate, file: Path) -> Expiry:
    what = f"the authority {name_of(authority.subject)} in {file}"
    return Expiry("tls.ca", what, authority.not_valid_after_utc)


def _ends_of_crls(crls: tuple[x509.CertificateRevocationList, ...], file: Path | None) -> Iterator[Expiry]:
    """Yield the latest expiry of each issuer's CRLs; none if one of them never expires."""
    for issuer in {crl.issuer for crl in crls}:
        ends = [crl.next_update_utc for crl in crls if crl.issuer == issuer]
        known = [end for end in ends if end is not None]
        if len(known) == len(ends):
            yield Expiry("tls.crl", f"the CRL of {name_of(issuer)} in {file}", max(known))


def _revoked(
    certificate: x509.Certificate,
    authorities: tuple[x509.Certificate, ...],
    crls: tuple[x509.CertificateRevocationList, ...],
) -> bool:
    """Whether a CRL revokes ``certificate``. If the CRL's issuer is known, its signature must be valid.

    OpenSSL checks the revocation of an authority only if the chain continues behind it.
    """
    signers = [each for each in authorities if each.subject == certificate.issuer]
    return any(
        crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
        for crl in crls
        if crl.issuer == certificate.issuer
        and (not signers or any(crl.is_signature_valid(_key_of(each)) for each in signers))
    )


def _key_of(authority: x509.Certificate) -> CertificateIssuerPublicKeyTypes:
    return cast("CertificateIssuerPublicKeyTypes", authority.public_key())
