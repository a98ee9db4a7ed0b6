"""The comparison detects and names every kind of damage, and accepts correct memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.guests import filled_memory, filled_state
from tunnel.proof.pattern import BadPage, Pattern
from tunnel.proof.pattern_guest import PAGE, Region
from tunnel.units import MIB

LOW = Region(2 * MIB, 3 * MIB - 3 * PAGE)  # not a multiple of a block
HIGH = Region((1 << 32) + 5 * PAGE, (1 << 32) + MIB)
STATE = filled_state(LOW, HIGH, working_set=300, dirtied=3 * 300 + 270)  # the cursor is in HIGH
LOW_MEMORY = bytes(filled_memory(STATE, LOW))


def bad_pages(memory: bytearray, region: Region = LOW) -> list[BadPage]:
    return Pattern(STATE).bad_pages(region.start, memoryview(memory))


def page(memory: bytearray, number: int) -> bytes:
    return bytes(memory[number * PAGE : (number + 1) * PAGE])


@pytest.mark.parametrize("region", [LOW, HIGH])
def test_correct_memory_has_no_bad_page(region: Region) -> None:
    assert bad_pages(filled_memory(STATE, region), region) == []


def test_one_pattern_checks_slices_in_any_order() -> None:
    pattern = Pattern(STATE)
    for region in (HIGH, LOW, HIGH):
        memory = memoryview(filled_memory(STATE, region))
        assert pattern.bad_pages(region.start, memory) == []
        assert pattern.bad_pages(region.start + 7 * PAGE, memory[7 * PAGE : 30 * PAGE]) == []


def test_lost_page_is_found() -> None:
    memory = bytearray(LOW_MEMORY)
    memory[20 * PAGE : 21 * PAGE] = bytes(PAGE)
    assert bad_pages(memory) == [BadPage(LOW.start + 20 * PAGE, 0, 4, 0)]


def test_stale_counter_is_found_and_named() -> None:
    memory = bytearray(LOW_MEMORY)
    memory[20 * PAGE] -= 1
    (bad,) = bad_pages(memory)
    assert str(bad) == f"page {LOW.start + 20 * PAGE:#x}: counter is 3, expected 4"


def test_counter_that_is_ahead_is_found() -> None:
    memory = bytearray(LOW_MEMORY)
    memory[20 * PAGE] += 1
    assert len(bad_pages(memory)) == 1


def test_swapped_pages_are_both_found() -> None:
    memory = bytearray(LOW_MEMORY)
    first, second = page(memory, 3), page(memory, 90)
    memory[3 * PAGE : 4 * PAGE] = second
    memory[90 * PAGE : 91 * PAGE] = first
    found = bad_pages(memory)
    assert [bad.address for bad in found] == [LOW.start + 3 * PAGE, LOW.start + 90 * PAGE]
    assert found[0].found == STATE.tag + LOW.start + 90 * PAGE + 8


def test_duplicated_page_is_found() -> None:
    memory = bytearray(LOW_MEMORY)
    memory[4 * PAGE : 5 * PAGE] = page(memory, 3)
    assert [bad.address for bad in bad_pages(memory)] == [LOW.start + 4 * PAGE]


def test_shifted_words_are_found_and_named() -> None:
    memory = bytearray(LOW_MEMORY)
    memory[3 * PAGE + 16 : 4 * PAGE - 8] = page(memory, 3)[24:]
    expected = STATE.tag + LOW.start + 3 * PAGE + 16
    (bad,) = bad_pages(memory)
    assert (bad.offset, bad.expected, bad.found) == (16, expected, expected + 8)
    assert "word at +0x10" in str(bad)


def test_bytes_shifted_across_pages_are_found_on_every_page() -> None:
    memory = bytearray(LOW_MEMORY)
    memory[8:] = memory[:-8]
    assert len(bad_pages(memory)) == len(memory) // PAGE


@given(at=st.integers(0, LOW.end - LOW.start - 1), flip=st.integers(1, 255))
def test_any_single_byte_is_found(at: int, flip: int) -> None:
    memory = bytearray(LOW_MEMORY)
    memory[at] ^= flip
    (bad,) = bad_pages(memory)
    assert bad.address == LOW.start + at // PAGE * PAGE
    assert bad.offset == at % PAGE // 8 * 8


def test_only_the_page_under_the_cursor_may_be_one_ahead() -> None:
    memory = filled_memory(STATE, HIGH)
    under_cursor = STATE.cursor - (LOW.end - LOW.start) // PAGE
    memory[under_cursor * PAGE] += 1
    assert bad_pages(memory, HIGH) == []
    memory[under_cursor * PAGE] += 1
    assert [bad.found - bad.expected for bad in bad_pages(memory, HIGH)] == [2]


def test_page_beyond_the_working_set_is_never_counted() -> None:
    state = filled_state(LOW, working_set=10, dirtied=25)
    memory = filled_memory(state, LOW)
    memory[10 * PAGE] = 1
    (bad,) = Pattern(state).bad_pages(LOW.start, memoryview(memory))
    assert (bad.address, bad.expected, bad.found) == (LOW.start + 10 * PAGE, 0, 1)


def test_address_outside_every_region_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="in no region"):
        Pattern(STATE).bad_pages(LOW.end, memoryview(bytes(PAGE)))
