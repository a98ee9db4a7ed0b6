"""Stacks: the output of ``perf script`` is counted, written as folded stacks and classified."""

from __future__ import annotations

from collections import Counter

import pytest

from tunnel.bench.measure.stacks import Cost, Stack, costs, fold, text

SCRIPT = """python3
\tffffffff81a1 copy_user_enhanced_fast_string+0x1a ([kernel.kallsyms])
\tffffffff81a2 tcp_sendmsg+0x21 ([kernel.kallsyms])
\tffffffff81a3 ksys_write+0x67 ([kernel.kallsyms])
\t    7f000001 __write+0x4f (/lib/x86_64-linux-gnu/libc.so.6)

python3
\t    7f000002 aes_gcm_enc_update+0x40 (/venv/cryptography/hazmat/bindings/_rust.abi3.so)
\t    7f000003 [unknown] ([unknown])

python3
\t    7f000004 _PyEval_EvalFrameDefault+0x1234 (/usr/bin/python3.11)

python3
\tffffffff81a4 ep_poll+0x21 ([kernel.kallsyms])
\t    7f000005 operator new(unsigned long)+0x18 (/lib/libstdc++.so.6)
"""

SENT = (
    "__write [libc.so.6]",
    "ksys_write [kernel]",
    "tcp_sendmsg [kernel]",
    "copy_user_enhanced_fast_string [kernel]",
)


def test_stacks_are_counted_from_the_outermost_inwards() -> None:
    stacks = fold(SCRIPT + "\n" + SCRIPT)
    assert stacks[SENT] == 2
    assert stacks.total() == 8
    assert ("[unknown] [[unknown]]", "aes_gcm_enc_update [_rust.abi3.so]") in stacks
    assert ("operator new(unsigned long) [libstdc++.so.6]", "ep_poll [kernel]") in stacks


def test_empty_output_has_no_stacks() -> None:
    assert fold("") == Counter()


@pytest.mark.parametrize(
    ("side", "sending"), [("a", "kernel: send on the lane"), ("b", "kernel: send to the hypervisor")]
)
def test_time_is_classified_by_system_call_and_library(side: str, sending: str) -> None:
    assert sorted(costs(fold(SCRIPT), side), key=lambda cost: cost.what) == [
        Cost("Python, its loop and libraries", 0.25),
        Cost("TLS: AES-GCM and records", 0.25),
        Cost(sending, 0.25),
        Cost("kernel: the rest (polling, scheduling, page faults)", 0.25),
    ]


@pytest.mark.parametrize("library", ["libcrypto.so.3", "libIPSec_MB.so.1.3.0", "engine-4b0c.so.1"])
def test_every_cipher_library_is_tls(library: str) -> None:
    stacks = fold(f"python3\n\t    7f000002 seal+0x40 (/usr/lib/{library})\n")
    assert costs(stacks, "a") == [Cost("TLS: AES-GCM and records", 1.0)]


def test_receiving_is_classified_by_the_direction_of_bulk() -> None:
    received = fold(SCRIPT.replace("ksys_write", "__sys_recvfrom"))
    assert Cost("kernel: receive from the hypervisor", 0.25) in costs(received, "a")
    assert Cost("kernel: receive on the lane", 0.25) in costs(received, "b")


def test_folded_stacks_have_a_line_for_each_stack() -> None:
    stacks: Counter[Stack] = Counter({("main", "b;c [x]"): 1, ("main", "a(int, long)"): 3})
    assert text(stacks) == "main;a(int, long) 3\nmain;b:c [x] 1\n"
