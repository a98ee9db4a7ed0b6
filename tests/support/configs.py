"""Configuration files for tests: a valid one, in which tests break one key at a time."""

from __future__ import annotations

import re
from pathlib import Path

MANUAL = Path(__file__).parents[2] / "docs" / "configuration.md"

HOST = """\
[host]
name = "hosta"
listen = "127.0.0.1:16515"
control = "control.sock"
"""
TLS = """\
[tls]
ca = "ca.pem"
cert = "hosta.pem"
key = "hosta.key"
"""
PEER = """\
[[peer]]
name = "hostb"
address = "192.0.2.2:16515"
egress = ["tcp:127.0.0.1:49152-49215", "unix:/run/qemu/*"]
"""
INGRESS = """\
[[ingress]]
peer = "hostb"
listen = "redirect:127.0.1.2:49152-49215"
users = ["root"]
"""
WHOLE = HOST + TLS + PEER + INGRESS


def manual_example() -> str:
    """Return the complete example of docs/configuration.md."""
    (block,) = re.findall(r"```toml\n(.*?)```", MANUAL.read_text(), re.DOTALL)
    return str(block)


def write_config(directory: Path, *parts: str) -> Path:
    """Write a file of these parts (default: a complete one) into ``directory``."""
    path = directory / "mtunnel.toml"
    path.write_text("\n".join(parts) or WHOLE)
    return path
