"""CPU time of processes, children included, which is kept when a process exits, and of threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import psutil
import pytest

from tunnel.bench.lab.waiting import until
from tunnel.proof.cpu_time import CpuMeter, CpuTimes, spent, thread_times, used_by_threads

BURN = """
import sys, time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
sys.stdin.readline()
if "child" in sys.argv:
    import subprocess
    subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.3: pass"], check=True)
else:
    burn(0.3)
print("done", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("who", ["itself", "child"])
def test_time_used_between_two_readings_is_counted(who: str) -> None:
    meter = CpuMeter()
    command = [sys.executable, "-c", BURN, who]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        meter.watch("a", "qemu", process.pid)
        before = meter.read()
        print(file=process.stdin, flush=True)
        assert process.stdout.readline() == "done\n"
        used = spent(before, meter.read())
        print(file=process.stdin, flush=True)
    assert list(used) == ["a"]
    assert 0.25 <= used["a"]["qemu"] <= 1.5  # the rest is the start of the interpreter


def test_an_exited_process_keeps_its_last_reading() -> None:
    meter = CpuMeter()
    command = [sys.executable, "-c", BURN]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        meter.watch("b", "mtunnel", process.pid)
        assert meter.watches("b", "mtunnel")
        assert not meter.watches("a", "mtunnel")
        print(file=process.stdin, flush=True)
        process.stdout.readline()
        last = meter.read()
        print(file=process.stdin, flush=True)
    assert not psutil.pid_exists(process.pid)
    assert meter.read() == last
    assert last["b", "mtunnel"] >= 0.25


def test_an_exited_process_is_not_watched() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    meter = CpuMeter()
    meter.watch("a", "qemu", process.pid)
    assert meter.read() == {}


def test_a_process_watched_later_counts_from_zero() -> None:
    assert spent({("a", "qemu"): 1.5}, {("a", "qemu"): 2.0, ("b", "qemu"): 0.25}) == {
        "a": {"qemu": 0.5},
        "b": {"qemu": 0.25},
    }


def test_threads_are_measured_separately() -> None:
    stop, busy = threading.Event(), list[int]()

    def work() -> None:
        busy.append(threading.get_native_id())
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=work)
    before = thread_times(os.getpid())
    thread.start()
    until(lambda: busy and thread_times(os.getpid()).get(busy[0], CpuTimes(0, 0)).user >= 0.2, "for its time")
    after = thread_times(os.getpid())
    stop.set()
    thread.join()
    first = used_by_threads(before, after)[0]
    assert first == after[busy[0]]
    assert first.user >= 0.2
    assert threading.get_native_id() in after


def test_the_time_used_is_the_difference() -> None:
    before = {1: CpuTimes(1.0, 2.0), 2: CpuTimes(5.0, 5.0)}
    after = {1: CpuTimes(1.5, 4.0), 2: CpuTimes(5.0, 5.5), 3: CpuTimes(1.0, 0.0)}
    found = used_by_threads(before, after)
    assert found == [CpuTimes(0.5, 2.0), CpuTimes(1.0, 0.0), CpuTimes(0.0, 0.5)]
    assert found[0].total == 2.5


def test_only_existing_threads_are_read() -> None:
    assert os.getpid() in thread_times(os.getpid())
