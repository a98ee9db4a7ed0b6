"""The kernel lane: kernel TLS (tls(7)) on a non-blocking socket; payload is spliced through pipes.

Sending: a pump's pipe → ``splice`` into the socket, where the kernel encrypts it, behind a header sent with
MSG_MORE. Receiving: exactly one header is read → ``splice`` moves its payload, record by record, into the
lane's pipe → the pump splices it on. Normally this process reads only headers and control frames; payload
enters it when it is out of order because of another lane, when a stalled hypervisor's pipe is full, and when
there are no descriptors for pipes. The bytes on the wire are the same as those of a userspace lane.

Payload in memory can be sent too: a pump without a pipe reads into memory.
"""

from __future__ import annotations

import socket
import time

from tunnel.lanes import kernel_payload, kernel_tls
from tunnel.lanes.base_lane import BaseLane
from tunnel.lanes.kernel_payload import Pipe, PipeSegment, PipeSlice
from tunnel.records.tls_messages import ALERT, CLOSE_NOTIFY, DATA, RECORD, explain_record
from tunnel.tls.lane_kinds import LaneKind
from tunnel.units import KIB, MIB
from tunnel.wire.codec import data_header, parse_header
from tunnel.wire.payload import Memory, Outgoing, in_memory
from tunnel.wire.states import LaneState

BATCH = MIB
"""Maximum bytes read from the lane in one loop iteration."""

PASSED_ON = 256 * KIB
"""Payload bytes after which a batch is passed on, to be still in a CPU cache when QEMU reads them."""

MOST_RECORDS = 16
"""Maximum non-data records that a peer may send on a lane: OpenSSL sends two, with session tickets."""


class _MemoryChunk:
    """Unsent bytes in memory."""

    __slots__ = ("_rest",)

    def __init__(self, data: Memory) -> None:
        self._rest = data

    @property
    def left(self) -> int:
        return len(self._rest)

    def send(self, sock: socket.socket, *, more: bool) -> int:
        """Send them; return how many the socket took. Raises OSError."""
        count = sock.send(self._rest, socket.MSG_MORE if more else 0)
        self._rest = memoryview(self._rest)[count:]
        return count


class _PipeChunk:
    """Unsent bytes in a pipe."""

    __slots__ = ("_pipe", "left")

    def __init__(self, pipe: Pipe, left: int) -> None:
        self._pipe = pipe
        self.left = left

    def send(self, sock: socket.socket, *, more: bool) -> int:
        """See ``_MemoryChunk.send``."""
        count = self._pipe.empty(sock.fileno(), self.left, more=more)
        self.left -= count
        if not self.left:
            kernel_payload.give_back_pipe(self._pipe)
        return count


class KernelLane(BaseLane[_MemoryChunk | _PipeChunk]):
    """A lane over kernel TLS. ``sock`` must have kernel TLS enabled: see ``kernel_tls.enable``."""

    kind = LaneKind.KERNEL

    def __init__(
        self,
        sock: socket.socket,
        cipher: str,
        peer: str,
        state: LaneState,
    ) -> None:
        super().__init__(sock, peer, state)
        self._cipher = cipher
        self._pipe = Pipe()
        self._lent = PipeSlice(self._pipe, 0)
        self._records = 0  # non-data records received
        # Upper bounds of data records protected with the keys: each call starts one. The kernel's exact count
        # is read only when one of these reaches a mark.
        self._made = 0
        self._taken = 0

    @property
    def cipher(self) -> str:
        """The TLS cipher suite."""
        return self._cipher

    @property
    def records_sent(self) -> int:
        """TLS records that the kernel has sealed."""
        return self._counted(kernel_tls.SEND, self._made)

    @property
    def records_received(self) -> int:
        """TLS records that the kernel has opened."""
        return self._counted(kernel_tls.RECEIVE, self._taken)

    def _counted(self, direction: int, most: int) -> int:
        try:
            return kernel_tls.record_number(self._sock, self._cipher, direction)
        except OSError:  # the socket is closed, or the kernel is older than 5.8 and does not report RECEIVE
            return most

    def send_control(self, frames: bytes) -> None:
        """Queue complete control frames for the next ``send`` or ``flush``."""
        if not (self.ended or self._unsendable):
            self._unsent.append(_MemoryChunk(frames))

    def send(self, outgoing: Outgoing) -> None:
        """Send a DATA frame behind everything queued."""
        if self._handler is None or self._unsendable:
            return
        try:
            header, load = _loaded(outgoing)  # before the header is queued, which must not be sent alone
        except Exception as error:
            self.fail(error)
            raise
        if load.left:
            self._unsent.append(_MemoryChunk(header))
            self._unsent.append(load)
        self.flush()

    def _push(self) -> bool:
        """Send the queue; return whether all was sent. All segments but the last are full."""
        unsent, sock, sent, calls = self._unsent, self._sock, 0, 0
        if corked := len(unsent) > 1:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        try:
            while unsent:
                calls += 1
                sent += unsent[0].send(sock, more=len(unsent) > 1)
                if not unsent[0].left:
                    unsent.popleft()
        except BlockingIOError:
            pass
        except OSError as error:
            self._break_off(kernel_tls.describe(error))
            return True
        if corked:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        self._bytes_sent += sent
        self._full = bool(unsent)
        self._pace.sent(sent, time.monotonic(), congested=self._full)
        self._made += calls + sent // RECORD
        if self._made >= self._mark:
            self._made = self.records_sent
            if self._made >= self._mark:
                self._used(self._made)
        return not self._full

    # Reading.

    def _read(self) -> bool:
        more = self._take_turn()
        if self._taken >= self._mark:
            self._taken = self.records_received
            if self._taken >= self._mark:
                self._used(self._taken)
        return more

    def _take_turn(self) -> bool:
        """Read up to a batch or the read quantum; return whether there may be more."""
        left = BATCH
        while left > 0 and not (self._leftover or self.ended):
            self._lent.drop()  # the untaken rest of the last batch
            try:
                taken = self._take()
            except BlockingIOError:
                return False
            except OSError as error:
                self._take_control(error)
                continue
            if not taken:
                self._lost(self._unsendable or "closed without GOAWAY")
                return False
            self._heard(len(taken))
            left -= len(taken)
            self._received(taken)
        return True

    def _take(self) -> memoryview | PipeSlice:
        """Read the rest of a header or a control frame, or splice payload. Raises OSError."""
        if not self._decoder.payload_left:
            self._taken += 1
            return memoryview(self._sock.recv(self._decoder.wanted))
        self._lent = PipeSlice(self._pipe, self._fill(min(self._decoder.payload_left, PASSED_ON)))
        return self._lent

    def _fill(self, most: int) -> int:
        """Splice payload into the pipe, one record per call. Raises OSError if there is none."""
        pipe, descriptor = self._pipe, self._sock.fileno()
        filled = count = pipe.fill(descriptor, most)
        self._taken += 1
        try:
            while count and filled < most:
                count = pipe.fill(descriptor, most - filled)
                filled += count
                self._taken += 1
        except BlockingIOError:
            pass
        except OSError as error:
            if not kernel_tls.is_control(
                error
            ):  # which the next call reports again; a reset is reported only once
                self._break_off(kernel_tls.describe(error))
        return filled

    def _take_control(self, error: OSError) -> None:
        """Handle a failed read: read the non-data record that caused it, or drop the lane."""
        reason = self._unsendable or kernel_tls.describe(error)
        if kernel_tls.is_control(error):
            try:
                reason = self._judge(*kernel_tls.receive_record(self._sock))
            except OSError as other:
                reason = kernel_tls.describe(other)
        if reason:
            self._lost(reason)

    def _judge(self, kind: int, content: bytes) -> str:
        """Return why a record that ``splice`` refused makes the lane unusable; "" if it does not."""
        self._records += 1
        if kind == DATA:  # it has been read now and is missing in the stream of frames
            return f"the kernel did not splice {len(content)} bytes of payload"
        if self._records > MOST_RECORDS:
            return f"the peer violated the TLS protocol: more than {MOST_RECORDS} non-data records"
        return explain_record(kind, content)

    # Closing.

    def _say_goodbye(self) -> None:
        """Send close_notify, after everything else, and shut down our direction."""
        try:
            kernel_tls.send_record(self._sock, ALERT, CLOSE_NOTIFY)
        except BlockingIOError:
            self._wait_for_room()
            return
        except OSError:
            pass  # the connection is already lost
        self._shut()

    def _discard(self) -> None:
        """Read and discard input until the peer has closed: one record per loop iteration, see LINGER."""
        try:
            if kernel_tls.receive_record(self._sock)[1]:
                self._read_on()
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._release()


def _loaded(outgoing: Outgoing) -> tuple[bytes, _MemoryChunk | _PipeChunk]:
    """Return the header of a frame, and its payload in memory or in a pipe, without what is delivered."""
    header, piece = outgoing.header, outgoing.piece
    if not isinstance(piece.payload, PipeSegment):
        return header, _MemoryChunk(in_memory(piece.content))
    begin, load = piece.payload.take(piece.start, piece.stop)
    size = piece.stop - begin
    if begin > piece.start:
        whole = parse_header(header)
        header = data_header(whole.stream, whole.offset + begin - piece.start, size)
    return header, _MemoryChunk(load) if isinstance(load, bytes) else _PipeChunk(load, size)
