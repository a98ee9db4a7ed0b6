"""Run code that irrevocably drops privileges, in a separate process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]


def run(code: str, *arguments: str | Path) -> str:
    """Run ``code``, whose ``sys.argv[1:]`` are the arguments; return its output."""
    done = subprocess.run(
        [sys.executable, "-c", dedent(code), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
