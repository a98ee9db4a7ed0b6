"""The bare network with iperf3: its own load and its own figures, through libiperf.

A contestant without a relay, to check our own load (``direct``): when the two differ much, the load is being
measured. Two processes of this module are its client and its server, so that the rig counts their CPU time
like that of other contestants. The client waits for a line on its standard input before it starts.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import sys

import iperf3

from tunnel.bench.measure.endpoint import ProgramAddress
from tunnel.bench.measure.measurement import Case, Measurement
from tunnel.bench.measure.program import BenchError
from tunnel.bench.measure.rig import Rig, Source

NAME = "iperf3"
_BLOCK = 1 << 20  # as our own source sends
_PIPE = 1 << 20  # libiperf prints the result into a pipe that is read afterwards: it must hold all of it


def serve(endpoint: ProgramAddress) -> None:
    """Serve one test."""
    server = iperf3.Server()
    server.bind_address = endpoint.host
    server.port = endpoint.port
    server.json_output = False
    server.verbose = False
    server.run()


def send(endpoint: ProgramAddress, streams: int, count: int) -> dict[str, object]:
    """Send ``count`` bytes in all over ``streams`` connections; return bytes and seconds, or the error."""
    client = iperf3.Client()
    client.server_hostname = endpoint.host
    client.port = endpoint.port
    client.num_streams = streams
    client.blksize = _BLOCK
    client.duration = 0
    # The binding supports only a duration; the library also supports a number of bytes.
    test = ctypes.c_void_p(client._test)  # noqa: SLF001  the handle for the library's functions
    client.lib.iperf_set_test_bytes(test, ctypes.c_uint64(count))
    fcntl.fcntl(client._pipe_in, fcntl.F_SETPIPE_SZ, _PIPE)  # noqa: SLF001  see _PIPE
    result = client.run()
    if result.error:
        return {"error": result.error}
    received = result.json["end"]["sum_received"]
    return {"bytes": received["bytes"], "seconds": received["seconds"]}


def measure(rig: Rig, endpoint: ProgramAddress, number: int, case: Case, count: int) -> Measurement:
    """Run one test of ``count`` bytes. Raises BenchError when it fails."""
    command = [sys.executable, "-m", "tunnel.bench.measure.iperf"]
    sink = rig.start("sink", [*command, "server", str(endpoint)])
    sink.wait_listening(endpoint)
    options = [f"--streams={case.streams}", f"--bytes={count}"]
    source = Source(rig.start("source", [*command, "client", str(endpoint), *options], talks=True))
    source.hear(timeout=20)
    programs = {"source": source.program, "sink": sink}
    before = {role: program.cpu_seconds() for role, program in programs.items()}
    source.say({})
    answer = source.hear(timeout=60 + count / (20 << 20))
    if "error" in answer:
        raise BenchError(f"iperf3: {answer['error']}")
    return Measurement(
        contestant=NAME,
        round=number,
        case=case,
        bytes=int(answer["bytes"]),
        seconds=answer["seconds"],
        cpu_seconds={role: program.cpu_seconds() - before[role] for role, program in programs.items()},
        rss_peak={role: program.memory().peak for role, program in programs.items()},
    )


def main() -> None:
    """Run the client or the server, as selected on the command line."""
    parser = argparse.ArgumentParser(prog="tunnel.bench.measure.iperf", description=__doc__)
    parser.add_argument("role", choices=["client", "server"])
    parser.add_argument("endpoint", type=ProgramAddress.parse)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--bytes", type=int, default=1 << 20)
    arguments = parser.parse_args()
    if arguments.role == "server":
        while True:  # until killed: the rig reads CPU time and memory after the test
            serve(arguments.endpoint)
    print(json.dumps({"ready": 1}), flush=True)
    sys.stdin.readline()
    print(json.dumps(send(arguments.endpoint, arguments.streams, arguments.bytes)), flush=True)
    sys.stdin.readline()  # until the rig has read CPU time and memory


if __name__ == "__main__":
    main()
