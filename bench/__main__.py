"""``python -m tunnel.bench``: the benchmarks without the rest of the command line."""

from __future__ import annotations

import signal
import sys

from tunnel.bench.app import app
from tunnel.errors import TunnelError


def main() -> None:
    """Run the command. An error on purpose becomes one message and its exit code."""
    # The rig stops its programs while the stack unwinds, so a polite kill must unwind it.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        app(prog_name="bench")
    except TunnelError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
