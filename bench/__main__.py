"""``python -m tunnel.bench``: the benchmarks as a separate command."""

from __future__ import annotations

import signal
import sys

from tunnel.bench.app import app
from tunnel.errors import TunnelError


def main() -> None:
    """Run the command; print a TunnelError as one message and exit with its code."""
    # The rig stops its programs while the stack unwinds, so SIGTERM must unwind it.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        app(prog_name="bench")
    except TunnelError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
