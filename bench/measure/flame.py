"""Flame graphs: where a process spends its time, drawn from the output of ``perf script``.

A box is a function, as wide as its share of the samples; its callees are on top of it. Boxes are sorted by
name: the x axis is not time. (Gregg: The Flame Graph, CACM 59(6), 2016.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import PurePath

Stack = tuple[str, ...]
"""Functions from the outermost to the innermost, each ``name [file]``."""

WIDTH = 1200
_ROW = 17
_LEAST = 0.4  # minimum width of a box in pixels
_LETTER = 6.6


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


@dataclass
class _Box:
    """A function on a stack: its number of samples, and its callees."""

    count: int = 0
    called: dict[str, _Box] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        return 1 + max((box.depth for box in self.called.values()), default=0)


def _grow(stacks: Counter[Stack]) -> _Box:
    root = _Box()
    for stack, count in stacks.items():
        box = root
        box.count += count
        for name in stack:
            box = box.called.setdefault(name, _Box())
            box.count += count
    return root


def svg(stacks: Counter[Stack], title: str) -> str:
    """Return a flame graph as a standalone SVG file. Raises ValueError when there are no samples."""
    root = _grow(stacks)
    if not root.count:
        raise ValueError("no samples to draw")
    height = (root.depth + 2) * _ROW
    boxes = "\n".join(_draw("all", root, 0.0, float(WIDTH), height - _ROW, root.count))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="monospace" font-size="11">\n<rect width="100%" height="100%" fill="#fff"/>\n'
        f'<text x="4" y="13" font-size="13">{escape(title)}</text>\n{boxes}\n</svg>\n'
    )


def _draw(name: str, box: _Box, left: float, width: float, top: int, total: int) -> Iterator[str]:
    if width < _LEAST:
        return
    share = f"{box.count / total:.1%}"
    label = escape(name[: int(width / _LETTER)]) if width > 3 * _LETTER else ""
    place = f'x="{left:.1f}" y="{top}" width="{width:.1f}" height="{_ROW - 1}"'
    yield (
        f'<g><title>{escape(name)}: {share}</title><rect {place} fill="{_colour(name)}"/>'
        f'<text x="{left + 2:.1f}" y="{top + 12}">{label}</text></g>'
    )
    for called, inner in sorted(box.called.items()):
        part = width * inner.count / box.count
        yield from _draw(called, inner, left, part, top - _ROW, total)
        left += part


def _colour(name: str) -> str:
    """Return the colour: the kernel is orange, Python blue, TLS green, the rest grey."""
    if name.endswith("[kernel]"):
        return "#f2a65a"
    if _is_tls(name):
        return "#8fc98b"
    return "#9ab8e0" if "python" in name.lower() else "#cfcfcf"


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
