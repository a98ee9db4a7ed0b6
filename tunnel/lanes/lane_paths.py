"""The data path of either kind of lane, reduced to the system calls of a bulk stream, for ``lane_meter``.

From one unix socket, as a hypervisor's, over a loopback connection to another: what ``pump`` and
``record_io``, or ``spliced_pump`` and ``kernel_lane``, do, both ends in one process, without session and
event loop, which cost the same on either kind. The keys are random.
"""

from __future__ import annotations

import os
import select
import socket
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress

from tunnel.engine.binding import Provider
from tunnel.errors import LaneError
from tunnel.lanes import kernel_lane, kernel_tls
from tunnel.lanes.kernel_payload import Pipe, RetransmitPipe
from tunnel.net import sockets
from tunnel.records.compiled_io import CompiledRecordIo
from tunnel.records.key_schedule import SUITES, Direction, Keys
from tunnel.records.record_io import BATCH, PythonRecordIo, RecordIo
from tunnel.records.record_layer import RecordLayer
from tunnel.records.record_sealer import Content
from tunnel.records.tls_messages import CLOSED
from tunnel.tls.lane_kinds import LaneKind
from tunnel.units import KIB, MIB
from tunnel.wire.codec import data_header, parse_header
from tunnel.wire.codes import HEADER_SIZE

FRAME = 256 * KIB
"""Maximum payload of a frame: about what one read of a hypervisor's socket returns."""

KEPT = 2 * MIB
"""Size of the ring buffer that a stream's payload is read into."""

_CONNECTING = 1.0  # seconds


class LanePath(ABC):
    """``source`` is the sending hypervisor's socket, ``sink`` the receiving one's; both are non-blocking.

    Raises OSError or LaneError if this host does not support it.
    """

    kind: LaneKind

    def __init__(self, suite: str) -> None:
        self.taken = 0  # payload bytes read from the source
        self.delivered = 0  # payload bytes written to the sink's socket
        self._sockets: list[socket.socket] = []
        try:
            self.source, self._near = self._own(*socket.socketpair())
            self._far, self.sink = self._own(*socket.socketpair())
            for sock in self._sockets:
                sockets.tune_local(sock)
            self._out, self._in = self._own(*sockets.loopback_pair(_CONNECTING))
            for sock, keys in zip((self._out, self._in), made_up_keys(suite), strict=True):
                sockets.tune_lane(sock, None)
                with suppress(OSError):  # some systems pace even on loopback, which must not be measured
                    name = sockets.LOCAL_CONGESTION.encode()
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
                self._encrypt(sock, keys)
                sockets.bound_unread(sock)
        except BaseException:
            self.close()
            raise

    def _own(self, one: socket.socket, other: socket.socket) -> tuple[socket.socket, socket.socket]:
        self._sockets += (one, other)
        return one, other

    @abstractmethod
    def _encrypt(self, sock: socket.socket, keys: Keys) -> None:
        """Set up encryption of one end: called for the sending end first, then for the receiving one."""

    def close(self) -> None:
        """Close all sockets."""
        for sock in self._sockets:
            sock.close()

    @abstractmethod
    def send(self) -> bool:
        """Do one iteration of the sending end; return whether anything moved."""

    @abstractmethod
    def receive(self) -> bool:
        """Do one iteration of the receiving end; return whether anything moved."""

    def wait(self, patience: float) -> bool:
        """Wait up to ``patience`` seconds for input; return whether there is any."""
        poll = select.poll()
        poll.register(self._in, select.POLLIN)
        return bool(poll.poll(patience * 1000))


def made_up_keys(suite: str) -> tuple[Keys, Keys]:
    """Return random keys for both ends of a connection, without a handshake."""
    size = SUITES[suite].hash.digest_size
    one, other = (Direction(os.urandom(size), 0) for _ in range(2))
    return Keys(suite, one, other), Keys(suite, other, one)


class UserspacePath(LanePath):
    """The path of userspace lanes: this process encrypts, by ``provider`` or, without one, in Python."""

    kind = LaneKind.USERSPACE

    def __init__(self, suite: str, provider: Provider | None = None) -> None:
        self._provider = provider
        self._ios: list[RecordIo] = []  # of the sending and the receiving end
        self._kept, self._place = memoryview(bytearray(KEPT + FRAME)), 0
        self._unsent: deque[Content] = deque()
        self._plain = memoryview(bytearray(BATCH))
        self._header = b""  # of the frame being received, perhaps incomplete
        self._expected = 0  # payload bytes missing of that frame
        self._waiting: list[memoryview] = []
        super().__init__(suite)

    def _encrypt(self, sock: socket.socket, keys: Keys) -> None:
        layer = RecordLayer(keys, self._provider)
        if self._provider is None:
            self._ios.append(PythonRecordIo(sock, layer))
        else:
            self._ios.append(CompiledRecordIo(sock, layer, self._provider))

    def send(self) -> bool:
        """See the base class."""
        io = self._ios[0]
        if not (self._unsent or io.full):
            payload = self._kept[self._place : self._place + FRAME]
            try:
                count = self._near.recv_into(payload)
            except BlockingIOError:
                return False
            self._unsent += (data_header(1, self.taken, count), payload[:count])
            self._place = (self._place + FRAME) % KEPT
            self.taken += count
        return bool(io.send(self._unsent))

    def receive(self) -> bool:
        """See the base class."""
        moved = False
        if not self._waiting:
            count, over, cut = self._ios[1].receive(self._plain)
            if over is not None or (cut and not count):
                raise LaneError(over.reason if over else cut)
            self._sort(self._plain[:count])
            moved = bool(count)
        with suppress(BlockingIOError):
            while self._waiting:
                self._written(self._far.sendmsg(self._waiting))
                moved = True
        return moved

    def _sort(self, plain: memoryview) -> None:
        """Separate headers from payload, which may continue in the next call."""
        while plain:
            if self._expected:
                self._waiting.append(plain[: self._expected])
                self._expected -= len(self._waiting[-1])
                plain = plain[len(self._waiting[-1]) :]
                continue
            missing = HEADER_SIZE - len(self._header)
            self._header += plain[:missing]
            plain = plain[missing:]
            if len(self._header) == HEADER_SIZE:
                self._expected, self._header = parse_header(self._header).length, b""

    def _written(self, count: int) -> None:
        self.delivered += count
        while count:
            first = self._waiting[0]
            self._waiting[0] = first[count:]
            count -= min(count, len(first))
            if not self._waiting[0]:
                del self._waiting[0]


class KernelPath(LanePath):
    """The path of kernel lanes: spliced from socket to socket through pipes; the kernel encrypts."""

    kind = LaneKind.KERNEL

    def __init__(self, suite: str) -> None:
        self._intake, self._keeper, self._pipe = Pipe(), RetransmitPipe(), Pipe()
        self._ahead = 0  # bytes in the intake
        self._left = 0  # of these, bytes of the frame being sent
        self._words = b""  # unsent part of its header
        self._header = b""  # of the frame being received, perhaps incomplete
        self._expected = 0  # payload bytes missing of that frame
        self._lent = 0  # bytes in the lane's pipe
        super().__init__(suite)

    def _encrypt(self, sock: socket.socket, keys: Keys) -> None:
        kernel_tls.enable(sock, keys)

    def send(self) -> bool:
        """See the base class."""
        try:
            return self._send_frame()
        except BlockingIOError:
            return False

    def _send_frame(self) -> bool:
        out = self._out
        if not self._left:
            if not self._ahead:
                self._ahead = self._intake.fill(self._near.fileno(), FRAME)
            self._left = self._keeper.keep(self._intake, self._ahead)
            self._words = data_header(1, self.taken, self._left) if self._left else b""
            self.taken += self._left
        before = self._ahead
        out.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        try:
            if self._words:
                self._words = self._words[out.send(self._words, socket.MSG_MORE) :]
            while self._left:
                count = self._intake.empty(out.fileno(), self._left)
                self._left -= count
                self._ahead -= count
        finally:
            out.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        return self._ahead < before

    def receive(self) -> bool:
        """See the base class."""
        moved = False
        try:
            for _ in range(kernel_lane.BATCH // FRAME):
                self._pass_on()
                self._take()
                moved = True
        except BlockingIOError:
            pass
        except OSError as error:
            raise LaneError(kernel_tls.describe(error)) from error
        return moved

    def _take(self) -> None:
        """Read a header, or splice available payload. BlockingIOError if there is none."""
        if not self._expected:
            if not (received := self._in.recv(HEADER_SIZE - len(self._header))):
                raise LaneError(CLOSED)
            self._header += received
            if len(self._header) == HEADER_SIZE:
                self._expected, self._header = parse_header(self._header).length, b""
            return
        most = min(self._expected, kernel_lane.PASSED_ON)
        filled = 0
        try:
            while filled < most:
                if not (count := self._pipe.fill(self._in.fileno(), most - filled)):
                    raise LaneError(CLOSED)
                filled += count
        except BlockingIOError:
            if not filled:
                raise
        self._lent += filled
        self._expected -= filled
        self._pass_on()

    def _pass_on(self) -> None:
        """Splice received payload to the sink. BlockingIOError if that is full."""
        while self._lent:
            count = self._pipe.empty(self._far.fileno(), self._lent)
            self._lent -= count
            self.delivered += count
        self._keeper.release(self.delivered)
