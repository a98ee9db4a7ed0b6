"""Whom a host believes: the authorities in ``tls.ca``, and what ``tls.crl`` says about certificates.

The rule, in handshakes and whenever a chain is judged again:

- Trust ends at any certificate in ``tls.ca``, be it self-signed or an intermediate, as with GnuTLS, and so
  with libvirt and QEMU. All certificates of the chain must be valid, that one included.
- With a ``tls.crl``, the host's own certificate is looked up in the CRL of its issuer, which must be there.
  So is each intermediate, where the file has a CRL of its issuer; where it has none, the intermediate counts
  as not revoked: an authority that publishes no CRL for its intermediates must not lock all hosts out.
- Of several CRLs of one issuer the newest counts, also once it has ended: an older one says less.
- A CRL is not followed by an older one, nor by none while its authority is believed: that would bring back
  what was revoked since.
- A certificate in ``tls.ca`` that a CRL in ``tls.crl`` revokes counts as absent.

OpenSSL does the judging. Its own rule for whole chains (X509_V_FLAG_CRL_CHECK_ALL) wants a CRL of everybody,
so ``tolerates`` says which of its complaints are none.
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
"""A verified chain: the host's own certificate first, the certificate of ``tls.ca`` that it leads to last."""

_PARTIAL_CHAIN = crypto.X509StoreFlags.PARTIAL_CHAIN
_CRL_CHECK = crypto.X509StoreFlags.CRL_CHECK
_CRL_CHECK_ALL = crypto.X509StoreFlags.CRL_CHECK_ALL
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, openssl/x509_vfy.h

_NEAREST = ("tls.cert", "tls.ca", "tls.crl")  # of things that end together, the first is told of

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
    """See the module. Does not change; a new one is read when the files do."""

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
        """Read ``tls.ca`` and ``tls.crl``. Raises ``CertificateError`` for whatever is wrong with them."""
        return cls(files, read_authorities(files.ca), read_crls(files.crl) if files.crl else ())

    def check_successor(self, new: Trust) -> None:
        """Raise ``CertificateError`` if ``new`` has an older CRL in the place of one of ours, or none."""
        for ours in self.crls:
            if ours.issuer in {each.subject for each in new.authorities} - {crl.issuer for crl in new.crls}:
                raise CertificateError(
                    f"{new.files.crl} has no CRL of {name_of(ours.issuer)} any more: what it revoked would "
                    "be accepted again; put it back, or restart the daemon if it is meant"
                )
            issued = [crl.last_update_utc for crl in new.crls if _scope(crl) == _scope(ours)]
            if issued and max(issued) < ours.last_update_utc:
                raise CertificateError(
                    f"the CRL of {name_of(ours.issuer)} in {new.files.crl} is older (this update "
                    f"{at(max(issued))}) than the one in use ({at(ours.last_update_utc)}): what was revoked "
                    "since would be accepted again; bring the newest, or restart the daemon if it is meant"
                )

    def fill(self, store: crypto.X509Store) -> None:
        """Let ``store``, of a context for handshakes, judge by this; ask ``tolerates`` when it complains."""
        for authority in self.authorities:
            store.add_cert(crypto.X509.from_cryptography(authority))
        for crl in self.crls:
            store.add_crl(crl)
        store.set_flags(_PARTIAL_CHAIN | (_CRL_CHECK | _CRL_CHECK_ALL if self.crls else 0))

    def tolerates(self, code: int, depth: int, certificate: x509.Certificate) -> bool:
        """Whether a complaint of OpenSSL's about the certificate at ``depth`` is none by our rule."""
        if depth == 0 or code not in _ABOUT_CRLS:
            return False
        if certificate in self.authorities:
            return True
        return code == Verify.UNABLE_TO_GET_CRL and not self.has_crl_for(certificate)

    def has_crl_for(self, certificate: x509.Certificate) -> bool:
        """Whether the file of CRLs has one of the issuer of ``certificate``."""
        return any(crl.issuer == certificate.issuer for crl in self.crls)

    def fault(self, code: int, depth: int, certificate: x509.Certificate | None) -> CertificateRejectedError:
        """Return what is wrong, with what this knows of ``certificate``; None for one that is unreadable."""
        if certificate is None:
            return CertificateRejectedError(code, depth)
        crls = [crl for crl in self.crls if crl.issuer == certificate.issuer]
        newest = max(crls, key=lambda crl: crl.last_update_utc, default=None)
        trusted = certificate in self.authorities
        return CertificateRejectedError(code, depth, certificate, trusted=trusted, crl=newest)

    # Judging again.

    def judge(self, chain: Chain, moment: datetime, *, dialing: bool) -> None:
        """Judge a chain that was verified before. Raises VerificationError.

        ``dialing`` says that it is the chain of the side that dialled.
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
        """Look the first of ``chain`` up in the CRL of its issuer."""
        try:
            self._verify(self._store_with_crls, chain, depth)
            ends = [crl.next_update_utc for crl in self.crls if crl.issuer == chain[0].issuer]
            if ends and all(end is not None and end <= moment for end in ends):
                raise self.fault(Verify.CRL_HAS_EXPIRED, depth, chain[0])
        except CertificateRejectedError as error:
            if error.certificate is None or not self.tolerates(error.code, depth, error.certificate):
                raise

    def _verify(self, store: crypto.X509Store, chain: Chain, depth: int = 0) -> None:
        """Let OpenSSL verify ``chain``, of which the first stands at ``depth`` of a longer one."""
        first, *others = map(crypto.X509.from_cryptography, chain)
        try:
            crypto.X509StoreContext(store, first, others).verify_certificate()
        except crypto.X509StoreContextError as error:
            code, at, _ = error.errors
            raise self.fault(code, depth + at, error.certificate.to_cryptography()) from None

    @cached_property
    def _stores(self) -> dict[bool, crypto.X509Store]:
        """For paths, by whether the host dialled. Dates are compared here: by a clock that is passed in."""
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
        """When the CRLs end, the last one of each issuer."""
        return tuple(expiry.ends for expiry in _ends_of_crls(self.crls, self.files.crl))

    # What an operator should know.

    def gaps(self, *chains: Chain) -> Iterator[tuple[str, str]]:
        """Which intermediates of ``chains`` nobody could revoke: the key of the file, and the words."""
        above = {each for chain in chains for each in chain[1:] if each not in self.authorities}
        for certificate in sorted(above, key=lambda each: each.serial_number):
            if self.crls and not self.has_crl_for(certificate):
                issuer, name = name_of(certificate.issuer), name_of(certificate.subject)
                yield (
                    "tls.crl",
                    f"it has no CRL of {issuer}: the intermediate {name} would not be known to be revoked",
                )

    def expiries(self, moment: datetime, *own: tuple[Chain, Path]) -> tuple[Expiry, ...]:
        """Everything that ends, the first to end first: of ``own`` chains with their files, CAs and CRLs.

        An authority that had ended at ``moment`` is left out where others follow it.
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
    """Without those that a later one of the same issuer, key and scope has replaced.

    OpenSSL would take an older CRL that is still valid instead of a newer one that has ended, and believe a
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
    except (ValueError, x509.DuplicateExtension):  # OpenSSL may still read it
        return crl.fingerprint(hashes.SHA256())


def _ends_of_chains(
    own: tuple[tuple[Chain, Path], ...], authorities: tuple[x509.Certificate, ...]
) -> Iterator[Expiry]:
    for chain, file in own:
        for depth, certificate in enumerate(chain):
            if certificate not in authorities:
                what = f"the intermediate {name_of(certificate.subject)} in" if depth else "the certificate"
                yield Expiry("tls.cert", f"{what} {file}", certificate.not_valid_after_utc)


def _end_of_authority(authority: x509.Certificate, file: Path) -> Expiry:
    what = f"the authority {name_of(authority.subject)} in {file}"
    return Expiry("tls.ca", what, authority.not_valid_after_utc)


def _ends_of_crls(crls: tuple[x509.CertificateRevocationList, ...], file: Path | None) -> Iterator[Expiry]:
    """Of several CRLs of one issuer the last counts; one without an end has none."""
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
    """Whether a CRL lists ``certificate``. One whose signer is at hand must be signed by it.

    OpenSSL looks an authority up only where the chain goes on behind it.
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
