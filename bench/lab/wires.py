"""The links between the hosts: two veth pairs, eth0 (IPv4 and IPv6) and eth1 (IPv4)."""

from __future__ import annotations

import ipaddress
import subprocess

from tunnel.bench.lab.host_plan import LabHostPlan
from tunnel.bench.lab.tools import path_of
from tunnel.bench.lab.waiting import PATIENCE, LabError

INTERFACES = ("eth0", "eth1")
_LEAST_BURST = 128 * 1024  # two GSO packets of the interface, which are up to 64 KiB


def connect(pids: tuple[int, int]) -> None:
    """Create both veth pairs between the network namespaces of these two processes."""
    a, b = pids
    batch("".join(f"link add {name} netns {a} type veth peer name {name} netns {b}\n" for name in INTERFACES))


def addresses(host: LabHostPlan) -> str:
    """Return the commands, for ``ip -batch``, that configure the addresses of ``host``."""
    return f"""\
addr add {host.address}/24 dev eth0
addr add {host.address6}/64 dev eth0 nodad
addr add {host.second_address}/24 dev eth1
link set eth0 up
link set eth1 up
"""


def routes(host: LabHostPlan, congestion: str) -> str:
    """Return the commands that make every socket of ``host`` use a congestion control.

    The default of a network namespace must be an unrestricted algorithm; that of a route can be any.
    """
    local = f"dev lo table local proto kernel scope host src 127.0.0.1 congctl {congestion}"
    lines = [f"route replace local 127.0.0.0/8 {local}", f"route replace local 127.0.0.1 {local}"]
    for name, address in zip(INTERFACES, (host.address, host.second_address), strict=True):
        kernel = f"dev {name} proto kernel src {address} congctl {congestion}"
        lines.append(f"route replace {ipaddress.ip_interface(address + '/24').network} {kernel} scope link")
        lines.append(f"route replace local {address} {kernel} scope host table local")
    subnet = ipaddress.ip_interface(host.address6 + "/64").network
    lines.append(f"route replace {subnet} dev eth0 proto kernel metric 256 congctl {congestion}")
    return "".join(f"{line}\n" for line in lines)


def shaping(bits_per_s: int | None) -> list[str]:
    """Return the ``tc`` command that limits the rate of a host's first interface, or removes the limit.

    A bucket of 4 ms covers timer ticks; a queue of 20 ms is typical of a switch.
    """
    change = ["tc", "qdisc", "replace", "dev", INTERFACES[0], "root"]
    if bits_per_s is None:
        return [*change, "noqueue"]
    burst = max(bits_per_s // 8 // 250, _LEAST_BURST)
    return [*change, "tbf", "rate", f"{bits_per_s}bit", "burst", f"{burst}b", "latency", "20ms"]


def batch(commands: str, enter: tuple[str, ...] = ()) -> None:
    """Run ``ip`` commands, one per line, with the prefix ``enter``. Raises LabError with ip's error text."""
    done = subprocess.run(
        [*enter, path_of("ip"), "-batch", "-"],
        input=commands,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(f"ip failed: {done.stderr.strip()}\n{commands}")
