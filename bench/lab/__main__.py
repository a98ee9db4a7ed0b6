"""``python -m tunnel.bench.lab``: the lab without the rest of the command line."""

from __future__ import annotations

import sys

from tunnel.bench.lab.lab_app import app
from tunnel.errors import TunnelError


def main() -> None:
    """Run the command. An error on purpose becomes one message and its exit code."""
    try:
        app(prog_name="lab")
    except TunnelError as error:
        print(f"lab: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
