"""Reloading, expiry and revocation of the certificates in use, for the lifetime of the lanes.

Certificates are verified not only in the handshake. When the files change, or a certificate or CRL expires,
every lane is verified again with ``tunnel.tls.trust``: the chains of both hosts, as presented in the
handshake. On failure the link is closed, with the same reason on both hosts.

Files are checked before each new lane, every LOOK seconds, and on SIGHUP. Unusable files (damaged, or a key
that does not match) leave the ones in use in place, and are logged once. Files are often written one after
the other, so links are verified against new files only after two checks in a row found the same; a new lane
uses them immediately. A CRL that revokes this host takes effect even when no other file is usable.

Failures are checked again: a file may have been inaccessible or not valid yet, the clock may have been wrong.
Lanes on which this host presented another certificate than the one in use are replaced, including those whose
handshake was in progress when it was renewed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from weakref import WeakKeyDictionary

import structlog

from tunnel.errors import CertificateError
from tunnel.lanes.lane import Lane
from tunnel.relay.link import Link
from tunnel.relay.status_schema import CertificateStatus
from tunnel.tls.contexts import TlsContexts, load
from tunnel.tls.expiry import LEVELS, Expiry, warnings
from tunnel.tls.openssl import CertificateRejectedError
from tunnel.tls.rejections import Clock, Verify, explain_rejection, now
from tunnel.tls.tls_files import TlsFiles
from tunnel.tls.trust import Trust
from tunnel.tls.verified_chains import VerifiedChains
from tunnel.wire.codes import Code

LOOK = 1.0
"""Seconds between two checks of the files and the clock."""

TRY_AGAIN = 10.0
"""Seconds after which unusable files are read again, changed or not."""

LATE = timedelta(seconds=30)
"""How long after a CRL expires lanes are verified because of it: a handshake may have been in progress."""

_NEVER = datetime.max.replace(tzinfo=UTC)

Stamp = tuple[tuple[int, ...], ...]
"""Identifies a version of the files."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Found:
    """The files on disk: contexts; or the problem, and the CAs and CRLs if these are usable."""

    contexts: TlsContexts | None
    trust: Trust | None = None
    problem: str = ""


class Certificates:
    """Certificates, CAs and CRLs of this host: reloads them, and closes links that they no longer allow.

    ``host`` is the name that this host's certificate must contain.
    """

    def __init__(
        self,
        contexts: TlsContexts,
        host: str,
        links: Iterable[Link],
        *,
        clock: Clock = now,
    ) -> None:
        self.current = contexts
        self.problem = ""
        """Why the files on disk are not in use; empty if they are."""
        self._host = host
        self._links = links
        self._clock = clock
        self._taken = self._seen = _stamp(contexts.files)
        self._unfit = ""  # why no lane can be opened: the problem of our own certificate
        self._fit_until = _NEVER  # when to verify it again
        self._approved: WeakKeyDictionary[Lane, Trust] = WeakKeyDictionary()
        self._judged = clock()
        self._asked = asyncio.Event()
        self._said_problem = ""
        self._try_again_at = 0.0  # of time.monotonic
        self._said: dict[str, tuple[int, datetime]] = {}  # logged warnings: level and expiry
        self._warn_at = clock()
        self._judge_own()

    def for_next_lane(self) -> TlsContexts:
        """Return the contexts for a new lane, from the current files if they are usable.

        Raises ``CertificateError`` when this host's own certificate is no longer valid.
        """
        self._refresh()
        self._judge_own_again()
        if self._unfit:
            raise CertificateError(self._unfit)
        return self.current

    def as_known(self) -> TlsContexts:
        """Return the same as ``for_next_lane`` without a check of the files. Thread-safe."""
        if self._unfit:
            raise CertificateError(self._unfit)
        return self.current

    async def run(self) -> None:
        """Check every LOOK seconds, and immediately after ``reload``. Never returns."""
        while True:
            asked = self._asked.is_set()
            self._asked.clear()
            try:
                await self.look(asked=asked)
            except Exception:  # a bug must not end the daemon and abort every migration
                log.exception("certificates could not be judged")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), LOOK)

    def reload(self) -> None:
        """Read the files now, changed or not, and verify everything against them."""
        self._asked.set()

    async def look(self, *, asked: bool = False) -> None:
        """Load new files once they are stable, close links that fail verification, warn of expiry.

        ``asked``: an explicit reload, which loads the files immediately.
        """
        stamp, taken = _stamp(self.current.files), self._taken
        settled, self._seen = asked or stamp == self._seen, stamp
        again = bool(self.problem) and time.monotonic() >= self._try_again_at
        if asked or (settled and (again or stamp != taken)):
            # On a thread, as CRLs may be large.
            found = await asyncio.to_thread(_read, self.current)
            if self._taken is taken:  # else a new lane has loaded them meanwhile
                self._apply(stamp, found)
        if settled:
            self._say_problem(again=asked)
        if asked and not self.problem:
            log.info("certificates and CRLs were read again", file=str(self.current.files.cert))
        self._heed_clock()
        self._judge_own_again()
        self._judge_lanes(settled=settled)
        self._warn()

    def facts(self) -> CertificateStatus:
        """Return the part of ``status`` on certificates."""
        moment = self._clock()
        ends = self.current.expiries(moment)
        return {
            "names": list(self.current.names),
            "not_after": ends[0].ends.isoformat(),
            "ends_first": ends[0].what,
            "days_left": ends[0].days_left(moment),
            "warnings": [words for _, words in warnings((*ends, *self._ends_of_peers()), moment)],
            "problem": self.problem or self._unfit or None,
        }

    def _ends_of_peers(self) -> list[Expiry]:
        """Return the expiries of the peers' certificates, which the logs of their own hosts warn of."""
        proofs = [lane.proof for link in self._links for lane in list(link.lanes.values()) if lane.proof]
        found = {expiry for proof in proofs for expiry in proof.expiries()}
        return sorted(found, key=lambda expiry: (expiry.ends, expiry.what))

    # Files.

    def _refresh(self) -> None:
        """Load the files if they have changed and are usable."""
        if (stamp := _stamp(self.current.files)) != self._taken:
            self._apply(stamp, _read(self.current))

    def _apply(self, stamp: Stamp, found: _Found) -> None:
        self._taken, self.problem = stamp, found.problem
        self._try_again_at = time.monotonic() + TRY_AGAIN
        if found.contexts is not None:
            self._take(found.contexts)
        elif found.trust is not None:
            self._believe(found.trust)
        self._judge_own()
        self._warn_at = self._clock()

    def _take(self, new: TlsContexts) -> None:
        if self._host not in new.names:
            names = f"{self._host} is not a DNS name in {new.files.cert}, which names {', '.join(new.names)}"
            self.problem = f"host.name: {names}"
            self._believe(new.trust)
            return
        old, self.current = self.current, new
        if (new.accepted, new.dialed) != (old.accepted, old.dialed):
            log.info("this host's certificate was renewed", file=str(new.files.cert))

    def _believe(self, trust: Trust) -> None:
        """Use CAs and CRLs of files that are otherwise unusable, unless they reject our own certificate.

        If they do not contain its CA they are taken to be for another certificate; if they revoke it they
        are used all the same.
        """
        fault = self._fault_of_own(trust)
        if fault is None or fault[0].code == Verify.CERT_REVOKED:
            self.current = self.current.believing(trust)

    def _say_problem(self, *, again: bool) -> None:
        if self.problem and (again or self.problem != self._said_problem):
            log.warning("new certificate files cannot be used, the old ones stay", reason=self.problem)
        self._said_problem = self.problem

    # Verification.

    def _judge_own(self) -> None:
        """Determine whether lanes can be opened, and until when that is valid."""
        moment = self._clock()
        fault = self._fault_of_own(self.current.trust)
        self._unfit = ""
        if fault is not None:
            error, dialing = fault
            self._unfit = explain_rejection(error, self.current.files, "", dialing=dialing, clock=self._clock)
        ends = [expiry.ends for expiry in self.current.expiries(moment)]
        self._fit_until = min((end for end in ends if end > moment), default=_NEVER)

    def _judge_own_again(self) -> None:
        """Verify our own certificate again if it failed, or if something has expired since."""
        if self._unfit or self._clock() >= self._fit_until:
            self._judge_own()

    def _heed_clock(self) -> None:
        """When the clock was set back, check again now: deadlines were computed with the wrong time."""
        if (moment := self._clock()) < self._judged:
            self._fit_until = self._warn_at = moment

    def _fault_of_own(self, trust: Trust) -> tuple[CertificateRejectedError, bool] | None:
        """Return why ``trust`` rejects our own certificates, and whether it is the one to dial with."""
        for dialing in (False, True):
            try:
                trust.judge(self.current.own_chain(dialing=dialing), self._clock(), dialing=dialing)
            except CertificateRejectedError as error:
                return error, dialing
        return None

    def _judge_lanes(self, *, settled: bool) -> None:
        """Close every link that has a lane whose verification fails; rotate lanes with outdated certificates.

        These are lanes on which this host presented another certificate than the one in use.
        """
        moment, trust = self._clock(), self.current.trust
        own = {dialing: self.current.own_chain(dialing=dialing) for dialing in (False, True)}
        crl_ended = any(self._judged - LATE < end <= moment for end in trust.ends_of_crls)
        for link in self._links:
            outdated = []
            for lane in list(link.lanes.values()):  # in one step: another thread may change them
                proof = lane.proof
                if proof is None:
                    continue
                if crl_ended or proof.ends <= moment or (settled and self._is_new(lane, proof)):
                    if reason := proof.objection(trust, moment, self._host):
                        link.post(link.end, Code.CREDENTIALS, reason)
                        break
                    self._approved[lane] = trust
                if proof.ours != own[proof.dialing]:
                    outdated.append(lane)
            else:
                if outdated:
                    link.post(link.rotation.rotate, "certificates renewed", outdated)
        self._judged = moment

    def _is_new(self, lane: Lane, proof: VerifiedChains) -> bool:
        """Whether the lane has not been verified against the current trust yet."""
        trust = self.current.trust
        return proof.trust is not trust and self._approved.get(lane) is not trust

    # Warnings.

    def _warn(self) -> None:
        """Warn of what expires within 30, 7 or 1 days: once for each level, and at the start."""
        moment = self._clock()
        if moment < self._warn_at:
            return
        expiries = self.current.expiries(moment)
        known, self._said = self._said, {}
        for expiry in expiries:
            level = expiry.level(moment)
            if level is None:
                continue
            self._said[expiry.what] = (level, expiry.ends)
            before, end = known.get(expiry.what, (max(LEVELS) + 1, expiry.ends))
            if level < before and expiry.ends <= end:  # not what was just renewed, however short its validity
                log.warning("certificates end", key=expiry.key, reason=expiry.warning(moment))
        steps = [e.ends - timedelta(days=level) for e in expiries for level in (*LEVELS, 0)]
        self._warn_at = min((step for step in steps if step > moment), default=_NEVER)


def _read(current: TlsContexts) -> _Found:
    """Read the files of ``current`` again, for the same kind of lanes."""
    try:
        contexts = load(current.files, current.kernel)
        current.trust.check_successor(contexts.trust)
    except CertificateError as error:
        return _Found(None, _read_trust(current), str(error))
    return _Found(contexts)


def _read_trust(current: TlsContexts) -> Trust | None:
    try:
        trust = Trust.read(current.files)
        current.trust.check_successor(trust)
    except CertificateError:
        return None
    return trust


def _stamp(files: TlsFiles) -> Stamp:
    """Return inode, size and times of every file; an empty tuple for a missing one."""
    paths = {files.ca, files.cert, files.key, files.crl or files.ca, *files.dialing()}
    return tuple(map(_stamp_of, sorted(paths)))


def _stamp_of(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
