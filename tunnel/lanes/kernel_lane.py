"""The kernel lane: kernel TLS on a non-blocking socket that the loop watches; payload passes by in pipes.

How a byte leaves: a pump's pipe → ``splice`` into the socket, where the kernel encrypts it, behind a header
that waits for it (MSG_MORE). How it arrives: a header is read, no byte more → ``splice`` takes the payload
that it announces, record by record, into the lane's pipe → the pump splices it on. In the ordinary case
headers and control frames are all that this process sees; payload enters it when it overtook other payload on
another lane, when a stalled hypervisor's pipe is full, and where there are no descriptors for pipes. What is
on the wire is what a userspace lane would send, and understand.

Payload in memory is sent just as well: a pump that could have no pipe reads it so.
"""

from __future__ import annotations

import socket
import time

from tunnel.lanes import kernel_tls
from tunnel.lanes.base_lane import BaseLane
from tunnel.lanes.kernel_payload import PipeSegment, PipeSlice
from tunnel.net import pipes
from tunnel.net.pipes import Pipe
from tunnel.records.tls_messages import ALERT, CLOSE_NOTIFY, DATA, RECORD, explain_record
from tunnel.tls.lane_kinds import LaneKind
from tunnel.units import KIB, MIB
from tunnel.wire.codec import data_header, parse_header
from tunnel.wire.payload import Memory, Outgoing, in_memory
from tunnel.wire.states import LaneState

BATCH = MIB
"""Bytes that are taken from the lane in one turn of the loop."""

PASSED_ON = 256 * KIB
"""Payload bytes after which a batch is passed on: they should still be in a cache when QEMU reads them."""

MOST_RECORDS = 16
"""Records other than payload that a peer may send on a lane: OpenSSL sends two, with session tickets."""


class _MemoryChunk:
    """Bytes of this process that wait to be sent."""

    __slots__ = ("_rest",)

    def __init__(self, data: Memory) -> None:
        self._rest = data

    @property
    def left(self) -> int:
        return len(self._rest)

    def send(self, sock: socket.socket, *, more: bool) -> int:
        """Offer them to the socket; how many it took. Raises OSError."""
        count = sock.send(self._rest, socket.MSG_MORE if more else 0)
        self._rest = memoryview(self._rest)[count:]
        return count


class _PipeChunk:
    """Bytes in a pipe that wait to be sent."""

    __slots__ = ("_pipe", "left")

    def __init__(self, pipe: Pipe, left: int) -> None:
        self._pipe = pipe
        self.left = left

    def send(self, sock: socket.socket, *, more: bool) -> int:
        """See ``_MemoryChunk``."""
        count = self._pipe.empty(sock.fileno(), self.left, more=more)
        self.left -= count
        if not self.left:
            pipes.give_back(self._pipe)
        return count


class KernelLane(BaseLane[_MemoryChunk | _PipeChunk]):
    """See the contract in ``lane``. ``sock`` encrypts already: see ``ktls.enable``."""

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
        self._records = 0  # other than payload
        # Records of data under the keys, at most: each call to the socket begins one. The kernel is asked for
        # its own number only when one of these reaches a mark.
        self._made = 0
        self._taken = 0

    @property
    def cipher(self) -> str:
        """The TLS cipher suite."""
        return self._cipher

    @property
    def records_sent(self) -> int:
        """TLS records that the kernel made."""
        return self._counted(kernel_tls.SEND, self._made)

    @property
    def records_received(self) -> int:
        """TLS records that the kernel took apart."""
        return self._counted(kernel_tls.RECEIVE, self._taken)

    def _counted(self, direction: int, most: int) -> int:
        try:
            return kernel_tls.record_number(self._sock, self._cipher, direction)
        except OSError:  # the socket is closed, or the kernel is older than 5.8: it does not tell of RECEIVE
            return most

    def send_control(self, frames: bytes) -> None:
        """Queue whole control frames; they leave with the next ``send`` or ``flush``."""
        if not (self.ended or self._unsendable):
            self._unsent.append(_MemoryChunk(frames))

    def send(self, outgoing: Outgoing) -> None:
        """Send a DATA frame behind everything queued before it."""
        if self._handler is None or self._unsendable:
            return
        try:
            header, load = _loaded(outgoing)  # first of all: a header must have its payload behind it
        except Exception as error:
            self.fail(error)
            raise
        if load.left:
            self._unsent.append(_MemoryChunk(header))
            self._unsent.append(load)
        self.flush()

    def _push(self) -> bool:
        """Offer what is queued to the socket; whether it took all. Until the last, it sends full segments."""
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
        """Take up to a batch, or as many frames as a turn allows; whether there may be more."""
        left = BATCH
        while left > 0 and not (self._leftover or self.ended):
            self._lent.drop()  # what nobody wanted of the last batch
            try:
                taken = self._take()
            except BlockingIOError:
                return False
            except OSError as error:
                self._take_control(error)
                continue
            if not taken:
                self._lost(self._unsendable or "it was closed without GOAWAY")
                return False
            self._heard(len(taken))
            left -= len(taken)
            self._received(taken)
        return True

    def _take(self) -> memoryview | PipeSlice:
        """Take what is missing of a header or a control frame, or else payload. Raises OSError."""
        if not self._decoder.payload_left:
            self._taken += 1
            return memoryview(self._sock.recv(self._decoder.wanted))
        self._lent = PipeSlice(self._pipe, self._fill(min(self._decoder.payload_left, PASSED_ON)))
        return self._lent

    def _fill(self, most: int) -> int:
        """Splice payload into the pipe, a record a call. Raises OSError if there is none at all."""
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
            ):  # that comes again with the next call; a reset is told only once
                self._break_off(kernel_tls.describe(error))
        return filled

    def _take_control(self, error: OSError) -> None:
        """Reading failed: take the record that is none of data, or give the lane up."""
        reason = self._unsendable or kernel_tls.describe(error)
        if kernel_tls.is_control(error):
            try:
                reason = self._judge(*kernel_tls.receive_record(self._sock))
            except OSError as other:
                reason = kernel_tls.describe(other)
        if reason:
            self._lost(reason)

    def _judge(self, kind: int, content: bytes) -> str:
        """Why the lane is of no more use after a record that ``splice`` refused; "" if it is."""
        self._records += 1
        if kind == DATA:  # it is taken by now, and missing in the stream of frames
            return f"the kernel did not splice {len(content)} bytes that are payload"
        if self._records > MOST_RECORDS:
            return f"the peer broke TLS: more than {MOST_RECORDS} records beside its payload"
        return explain_record(kind, content)

    # The end.

    def _say_goodbye(self) -> None:
        """Everything is sent: close_notify, and no more from our side."""
        try:
            kernel_tls.send_record(self._sock, ALERT, CLOSE_NOTIFY)
        except BlockingIOError:
            self._wait_for_room()
            return
        except OSError:
            pass  # the connection is broken already
        self._shut()

    def _discard(self) -> None:
        """Read what still comes, and is of no use, until the peer has closed: a record a turn, see LINGER."""
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
    """A frame's header, and its payload in memory or in a pipe. What the peer has by now is left out."""
    header, piece = outgoing.header, outgoing.piece
    if not isinstance(piece.payload, PipeSegment):
        return header, _MemoryChunk(in_memory(piece.content))
    begin, load = piece.payload.take(piece.start, piece.stop)
    size = piece.stop - begin
    if begin > piece.start:
        whole = parse_header(header)
        header = data_header(whole.stream, whole.offset + begin - piece.start, size)
    return header, _MemoryChunk(load) if isinstance(load, bytes) else _PipeChunk(load, size)
