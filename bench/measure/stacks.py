"""Where a process spends its time: stacks of functions, counted in the output of ``perf script``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

Stack = tuple[str, ...]
"""Functions from the outermost to the innermost, each ``name [file]``."""


def fold(script: str) -> Counter[Stack]:
    """Count the stacks in the output of ``perf script -F comm,ip,sym,dso``."""
    found: Counter[Stack] = Counter()
    for block in script.split("\n\n"):
        frames = [_frame(line) for line in block.splitlines()[1:] if line.strip()]
        if frames:
            found[tuple(reversed(frames))] += 1
    return found


def _frame(line: str) -> str:
    """``  ffff8100 tcp_sendmsg+0x12 ([kernel.kallsyms])`` → ``tcp_sendmsg [kernel]``."""
    _, _, rest = line.strip().partition(" ")
    name, _, source = rest.rpartition(" (")
    source = source.rstrip(")")
    file = "kernel" if source.startswith("[kernel") else PurePath(source).name
    return f"{name.partition('+0x')[0] or '[unknown]'} [{file}]"


def text(stacks: Counter[Stack]) -> str:
    """Return folded stacks: on each line the functions, separated by semicolons, and the number of samples.

    This is what flamegraph.pl, inferno and speedscope read.
    """
    lines = (
        f"{';'.join(name.replace(';', ':') for name in stack)} {count}" for stack, count in stacks.items()
    )
    return "".join(f"{line}\n" for line in sorted(lines))


def _is_tls(name: str) -> bool:
    file = name.rpartition(" [")[2]
    return file.startswith(("_rust", "libcrypto", "libssl", "libIPSec_MB", "engine-"))


@dataclass(frozen=True)
class Cost:
    """One kind of work, and its share of the time from 0 to 1."""

    what: str
    share: float


_RECEIVE = {"ksys_read [kernel]", "__sys_recvfrom [kernel]", "__sys_recvmsg [kernel]"}
_SEND = {"ksys_write [kernel]", "__sys_sendto [kernel]", "__sys_sendmsg [kernel]"}
_WAYS = {
    "a": ("kernel: receive from the hypervisor", "kernel: send on the lane"),
    "b": ("kernel: receive on the lane", "kernel: send to the hypervisor"),
}
"""Bulk flows from A to B only, so the system calls of a side identify the parts of the data path."""


def costs(stacks: Counter[Stack], side: str) -> list[Cost]:
    """Return the samples of a ``side``, a or b, by kind of work, the largest first."""
    found: Counter[str] = Counter()
    for stack, count in stacks.items():
        found[_kind(stack, side)] += count
    total = found.total()
    return [Cost(what, count / total) for what, count in found.most_common()]


def _kind(stack: Iterable[str], side: str) -> str:
    names = tuple(stack)
    for what, calls in zip(_WAYS[side], (_RECEIVE, _SEND), strict=True):
        if not calls.isdisjoint(names):
            return what
    last = names[-1]
    if last.endswith("[kernel]"):
        return "kernel: the rest (polling, scheduling, page faults)"
    if _is_tls(last):
        return "TLS: AES-GCM and records"
    return "Python, its loop and libraries"
