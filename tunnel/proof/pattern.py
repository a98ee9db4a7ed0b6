"""The expected contents of the pattern guest's filled pages, and the search for pages that differ.

Memory is compared in 64 KiB blocks. All words of a block share their upper six bytes, so one template serves
the whole memory: advancing it to another block changes one byte column, rarely two.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from tunnel.proof.pattern_guest import PAGE, GuestState

_BLOCK = 1 << 16
_WORDS = struct.Struct(f"<{PAGE // 8}Q")


@dataclass(frozen=True, slots=True)
class BadPage:
    """A page with wrong contents: its first wrong word, ``offset`` bytes into the page."""

    address: int
    offset: int
    expected: int
    found: int

    def __str__(self) -> str:
        if self.offset == 0:
            return f"page {self.address:#x}: counter is {self.found}, expected {self.expected}"
        return (
            f"page {self.address:#x}: word at +{self.offset:#x} is {self.found:#018x}, "
            f"expected {self.expected:#018x}"
        )


class Pattern:
    """The expected memory contents for a guest state. Not thread-safe."""

    def __init__(self, state: GuestState) -> None:
        self._state = state
        self._template = bytearray(_BLOCK)
        self._words = memoryview(self._template).cast("Q")
        for index in range(len(self._words)):
            self._words[index] = index * 8
        self._upper = bytes(6)

    def bad_pages(self, address: int, content: memoryview) -> list[BadPage]:
        """Return the wrong pages in ``content``, read from the physical ``address``, both page-aligned.

        The whole range must lie within one of the state's regions.
        """
        bad = list[BadPage]()
        index = self._index(address)
        done = 0
        while done < len(content):
            inside = (address + done) % _BLOCK
            length = min(_BLOCK - inside, len(content) - done)
            expected = self._block(address + done - inside, inside, length, index)
            found = content[done : done + length]
            # A bytearray compares with any buffer by memcmp; two memoryviews compare item by item.
            if expected != found:
                bad += self._compare_pages(address + done, expected, found, index)
            done += length
            index += length // PAGE
        return bad

    def _index(self, address: int) -> int:
        index = 0
        for region in self._state.regions:
            if region.start <= address < region.end:
                return index + (address - region.start) // PAGE
            index += (region.end - region.start) // PAGE
        raise ValueError(f"{address:#x} is in no region of the guest")

    def _block(self, base: int, inside: int, length: int, index: int) -> bytearray:
        """Return the expected bytes at ``base + inside``, where page number ``index`` starts."""
        upper = (self._state.tag + base).to_bytes(8, "little")[2:]
        for column, (old, new) in enumerate(zip(self._upper, upper, strict=True), start=2):
            if old != new:
                self._template[column::8] = bytes([new]) * (_BLOCK // 8)
        self._upper = upper
        counters = array("Q", [self._counter(index + page) for page in range(length // PAGE)])
        self._words[inside // 8 : (inside + length) // 8 : PAGE // 8] = memoryview(counters)
        if length == _BLOCK:
            return self._template
        return self._template[inside : inside + length]

    def _counter(self, index: int) -> int:
        state = self._state
        if index >= state.working_set:
            return 0
        return state.passes + (index < state.cursor)

    def _compare_pages(
        self, address: int, expected: bytearray, found: memoryview, index: int
    ) -> Iterator[BadPage]:
        for page, at in enumerate(range(0, len(found), PAGE)):
            want = list(_WORDS.unpack_from(expected, at))
            have = list(_WORDS.unpack_from(found, at))
            in_flight = self._state.working_set > 0 and index + page == self._state.cursor
            if in_flight and have[0] == want[0] + 1:
                want[0] += 1
            for word, (expected_word, found_word) in enumerate(zip(want, have, strict=True)):
                if expected_word != found_word:
                    yield BadPage(address + at, word * 8, expected_word, found_word)
                    break
