"""``python -m tunnel.bench.lab``: the lab as a separate command."""

from __future__ import annotations

import sys

from tunnel.bench.lab.lab_app import app
from tunnel.errors import TunnelError


def main() -> None:
    """Run the command; print a TunnelError as one message and exit with its code."""
    try:
        app(prog_name="lab")
    except TunnelError as error:
        print(f"lab: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
