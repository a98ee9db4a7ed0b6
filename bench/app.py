"""The ``bench`` command: its options and its output."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console

from tunnel.bench.lab import requirements
from tunnel.bench.measure import abuse as abuse_bench
from tunnel.bench.measure import beside, floor, guest_options, idle_peers, stacks
from tunnel.bench.measure import cuts as cuts_bench
from tunnel.bench.measure import guest_moves as migrate_bench
from tunnel.bench.measure import idle as idle_bench
from tunnel.bench.measure import memory as memory_bench
from tunnel.bench.measure import netns as networks
from tunnel.bench.measure import perf_profile as profiles
from tunnel.bench.measure import relay as relay_bench
from tunnel.bench.measure import rotate as rotate_bench
from tunnel.bench.measure import scale as scale_bench
from tunnel.bench.measure.contestants import Contestant, choose
from tunnel.bench.measure.latency import SAMPLES
from tunnel.bench.measure.measurement import OURS
from tunnel.bench.measure.netns import Network
from tunnel.bench.measure.relay_commands import LANES
from tunnel.bench.measure.results import Record, Results, named
from tunnel.bench.report import contents as reports
from tunnel.bench.report import goals as goals_bench
from tunnel.bench.report import origin, readme, summary, summary_migrate, terminal
from tunnel.bench.report.result_file import ResultFile, read_all
from tunnel.daemon.config_types import MAX_WORKERS
from tunnel.errors import UsageError
from tunnel.units import parse_duration, parse_size

_MOST_STREAMS = 256

app = typer.Typer(
    help="Benchmarks: contestants side by side in one run, as ratios.",
    no_args_is_help=True,
    add_completion=False,
)


def _size(text: str) -> int:
    try:
        size = parse_size(text)
    except ValueError as error:
        raise UsageError(f"--size: {error}") from error
    if not size:
        raise UsageError("--size must be above zero")
    return size


Size = Annotated[str, typer.Option(help="Bytes to transfer, for example 512MiB.")]


def _kinds(text: str) -> tuple[rotate_bench.Kinds, ...]:
    pairs = tuple(tuple(word.split("-")) for word in text.split(","))
    if not all(len(pair) == 2 and set(pair) <= set(LANES) for pair in pairs):
        raise UsageError(
            f"--kinds must be a list of pairs of {', '.join(LANES)}, such as kernel-userspace, not {text!r}"
        )
    return cast("tuple[rotate_bench.Kinds, ...]", pairs)


def _streams(text: str) -> tuple[int, ...]:
    return _counts("--streams", text, _MOST_STREAMS, "1,4,16,64")


def _counts(option: str, text: str, most: int, example: str) -> tuple[int, ...]:
    wrong = UsageError(f"{option} must be a list of numbers from 1 to {most}, like {example}, not {text!r}")
    try:
        counts = tuple(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError as error:
        raise wrong from error
    if not all(1 <= count <= most for count in counts):
        raise wrong
    return counts


def _legs(text: str) -> tuple[str, ...]:
    legs = tuple(dict.fromkeys(_names(text)))
    if not legs or not set(legs) <= {"tcp", "unix"}:
        raise UsageError(f"--legs must be tcp, unix or tcp,unix, not {text!r}")
    return legs


def _directions(text: str) -> tuple[str, ...]:
    directions = tuple(dict.fromkeys(_names(text)))
    if not directions or not set(directions) <= set(idle_bench.DIRECTIONS):
        raise UsageError(f"--directions must be accepted, dialed or accepted,dialed, not {text!r}")
    return directions


def _durations(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(dict.fromkeys(parse_duration(word) for word in _names(text)))
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


Stall = Annotated[float, typer.Option(min=1, help="Seconds with a stalled reader.")]
Samples = Annotated[int, typer.Option(min=0, help="Round trips per latency measurement; 0: none.")]
Links = Annotated[int, typer.Option(min=1, max=idle_peers.MOST, help="Peers, with one idle link each.")]
Idle = Annotated[float, typer.Option(min=1, help="Seconds to measure idle links, once all are up.")]
Rounds = Annotated[int, typer.Option(min=1, help="Rounds.")]
Only = Annotated[str, typer.Option(help="Contestants, comma-separated; default: all.")]
Congestion = Annotated[str, typer.Option(help="TCP congestion control of every socket (needs root).")]
Directory = Annotated[Path, typer.Option("--results", help="Directory of the result files.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result file instead of a table.")]


@app.command()
def relay(
    size: Size = "4GiB",
    rounds: Rounds = 5,
    only: Only = "",
    streams: Annotated[
        str, typer.Option(help="Connections that share the bytes; a list such as 1,64.")
    ] = "1",
    legs: Annotated[str, typer.Option(help="Local connections: tcp, unix, or tcp,unix.")] = "tcp",
    samples: Samples = SAMPLES,
    congestion: Congestion = "cubic",
    results: Directory = Path("bench/data"),
    json: AsJson = False,
) -> None:
    """Transfer bulk data through every relay: GiB/s, and CPU seconds per GiB."""
    chosen = choose(_names(only))
    options = relay_bench.RelayOptions(_size(size), rounds, _streams(streams), _legs(legs), samples)
    session = _Session("relay", asdict(options), congestion, results, json=json)
    _relay(session, chosen, options)
    _close(session)


def _relay(session: _Session, chosen: Sequence[Contestant], options: relay_bench.RelayOptions) -> None:
    present = session.announce(chosen)
    if any(contestant.name == floor.HOPS for contestant in present):
        session.results.announce_crypto()
    found = relay_bench.run(present, options, session.network, session.results, session.progress)
    for entry in summary.summarise(found):
        session.results.add("summary", **entry.as_record())
    for growth in summary.growths(found):
        session.results.add("growth", **growth.as_record())


@app.command()
def memory(
    size: Size = "4GiB",
    stall: Stall = 60.0,
    only: Only = "mtunnel",
    congestion: Congestion = "cubic",
    results: Directory = Path("bench/data"),
    json: AsJson = False,
) -> None:
    """Resident memory of a relay: idle, under a bulk stream, and with a reader of one byte a second."""
    chosen = choose(_names(only))
    bare = [contestant.name for contestant in chosen if contestant.sides is None]
    if bare:
        raise UsageError(f"{', '.join(bare)} is not a relay: there is no relay process to measure")
    count = _size(size)
    session = _Session("memory", {"size": count, "stall_seconds": stall}, congestion, results, json=json)
    _memory(session, chosen, count, stall)
    _close(session)


def _memory(session: _Session, chosen: Sequence[Contestant], size: int, stall: float) -> None:
    present = session.announce(chosen)
    memory_bench.run(present, size, stall, session.network, session.results, session.progress)


@app.command()
def migrate(
    memory: Annotated[str, typer.Option(help="Guest memory; a list such as 1GiB,4GiB.")] = "1GiB",
    dirty_rate: Annotated[
        str, typer.Option(help="Dirty rates of guests per second; a list such as 0,64MiB.")
    ] = "0",
    only: Annotated[str, typer.Option(help="Migration modes, comma-separated; default: all.")] = "",
    rounds: Rounds = 3,
    link: Annotated[
        str, typer.Option(help="Bandwidth between the hosts; a list such as none,1Gbit.")
    ] = "none",
    downtime: Annotated[str, typer.Option(help="Downtime limit of QEMU.")] = "300ms",
    converge: Annotated[
        bool, typer.Option("--converge", help="Search for the highest dirty rate that converges.")
    ] = False,
    highest: Annotated[str, typer.Option(help="Highest rate of that search, in bytes per second.")] = "1GiB",
    steps: Annotated[int, typer.Option(min=1, max=4096, help="Number of rates up to it.")] = 32,
    patience: Annotated[
        str, typer.Option(help="Abort a migration after this time; 0: the time of five slow passes.")
    ] = "0",
    passes: Annotated[
        int, typer.Option(min=1, help="Abort a migration after more passes over the memory.")
    ] = 20,
    congestion: Congestion = "cubic",
    results: Directory = Path("bench/data"),
    output: Annotated[
        Path | None, typer.Option(help="Path of the result file, instead of --results.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Migrate real guests between two hosts in every mode: MiB/s, downtime, CPU time, convergence (root)."""
    options = guest_options.parse(
        memory=memory,
        dirty_rate=dirty_rate,
        modes=only,
        link=link,
        rounds=rounds,
        downtime=downtime,
        converge=converge,
        highest=highest,
        steps=steps,
        patience=patience,
        passes=passes,
    )
    requirements.check()
    options.check_machine()
    session = _Session("migrate", options.as_record(), congestion, results, json=json, output=output)
    _migrate(session, options)
    _close(session)


def _migrate(session: _Session, options: guest_options.MigrateOptions) -> None:
    migrate_bench.announce(options, session.results)
    found = migrate_bench.run(options, session.network.congestion, session.results, session.progress)
    for comparison in summary_migrate.compare(found.migrations, session.results.records):
        session.results.add("comparison", **comparison.as_record())


@app.command()
def goals(
    rounds: Rounds = 3,
    size: Size = "4GiB",
    samples: Samples = SAMPLES,
    stall: Stall = 60.0,
    links: Links = 1000,
    seconds: Idle = 60.0,
    memory: Annotated[str, typer.Option(help="Guest memory.")] = "8GiB",
    congestion: Congestion = "cubic",
    results: Directory = Path("bench/data"),
    json: AsJson = False,
) -> None:
    """Measure every goal of mtunnel, into one file, and print the verdicts (root)."""
    carried = relay_bench.RelayOptions(_size(size), rounds, goals_bench.STREAMS, samples=samples)
    guests = guest_options.parse(memory=memory, modes=",".join(goals_bench.MODES), rounds=rounds)
    many = idle_bench.IdleOptions(links, seconds, rounds)
    requirements.check()
    guests.check_machine()
    many.check_machine()
    output = results / named("goals", datetime.now(UTC))
    relays = _Session("relay", asdict(carried), congestion, results, json=json, output=output)
    _relay(relays, choose(goals_bench.RELAYS), carried)
    kept: Record = {"size": carried.size, "stall_seconds": stall}
    daemons = _Session("memory", kept, congestion, results, json=json, behind=relays.results)
    _memory(daemons, choose([OURS]), carried.size, stall)
    several = scale_bench.ScaleOptions(carried.size, goals_bench.WORKERS, goals_bench.WORKERS_STREAMS, rounds)
    workers = _Session("scale", asdict(several), congestion, results, json=json, behind=daemons.results)
    scale_bench.run(several, workers.network, workers.results, workers.progress)
    quiet = _Session("idle", asdict(many), congestion, results, json=json, behind=workers.results)
    idle_bench.run(many, quiet.network, quiet.results, quiet.progress)
    hosts = _Session("migrate", guests.as_record(), congestion, results, json=json, behind=quiet.results)
    _migrate(hosts, guests)
    _close(relays, daemons, workers, quiet, hosts, goals=True)


@app.command()
def rotate(
    size: Size = "10GiB",
    streams: Annotated[int, typer.Option(min=1, max=_MOST_STREAMS, help="Connections.")] = 8,
    lanes: Annotated[str, typer.Option(help="TLS connections of the link; a list such as 1,2.")] = "1,2",
    kinds: Annotated[
        str, typer.Option(help="Lane kinds of both sides: a list of pairs of userspace, kernel.")
    ] = "userspace-userspace",
    records: Annotated[
        int, typer.Option(min=1024, max=rotate_bench.LASTING, help="Limit of records per key.")
    ] = 1024,
    rounds: Rounds = 1,
    compare: Annotated[bool, typer.Option(help="Also measure without key rotation.")] = True,
    congestion: Congestion = "cubic",
    results: Directory = Path("bench/data"),
    json: AsJson = False,
) -> None:
    """Replace lanes under bulk in both directions: gaps in the streams, every byte verified."""
    options = rotate_bench.RotateOptions(
        _size(size), streams, _streams(lanes), records, rounds, compare, _kinds(kinds)
    )
    session = _Session("rotate", asdict(options), congestion, results, json=json)
    rotate_bench.run(options, session.network, session.results, session.progress)
    _close(session)


@app.command()
def scale(
    size: Size = "4GiB",
    workers: Annotated[str, typer.Option(help="Workers of both daemons; a list.")] = "1,2,4,8",
    streams: Annotated[str, typer.Option(help="Connections; a list.")] = "1,2,4,8,16",
    rounds: Rounds = 1,
    congestion: Congestion = "cubic",
    results: Directory = Path("bench/data"),
    json: AsJson = False,
) -> None:
    """Several workers under several bulk streams: CPU per thread, limits of a host (root, perf)."""
    several = _counts("--workers", workers, MAX_WORKERS, "1,2,4,8")
    options = scale_bench.ScaleOptions(_size(size), several, _streams(streams), rounds)
    session = _Session("scale", asdict(options), congestion, results, json=json)
    scale_bench.run(options, session.network, session.results, session.progress)
    _close(session)


@app.command()
def idle(
    links: Links = 1000,
    seconds: Idle = 60.0,
    directions: Annotated[
        str, typer.Option(help="Who dials: accepted, dialed (by the daemon), or both.")
    ] = ",".join(idle_bench.DIRECTIONS),
    skew: Annotated[
        float, typer.Option(min=0, help="Seconds over which the peers' clocks are spread.")
    ] = 0.0,
    rounds: Rounds = 3,
    congestion: Congestion = "cubic",
    results: Directory = Path("bench/data"),
    json: AsJson = False,
) -> None:
    """A daemon with many links and no stream: its CPU time and resident memory."""
    options = idle_bench.IdleOptions(links, seconds, rounds, _directions(directions), skew)
    options.check_machine()
    session = _Session("idle", asdict(options), congestion, results, json=json)
    idle_bench.run(options, session.network, session.results, session.progress)
    _close(session)


@app.command()
def cuts(
    count: Annotated[int, typer.Option("--cuts", min=2, help="Lane resets in each case.")] = 100,
    lanes: Annotated[str, typer.Option(help="TLS connections of the link; a list such as 1,2.")] = "1,2",
    round_trips: Annotated[str, typer.Option(help="Round trips of the link; a list.")] = "0ms,20ms",
    rounds: Rounds = 1,
    congestion: Congestion = "cubic",
    results: Directory = Path("bench/data"),
    json: AsJson = False,
) -> None:
    """Reset lanes under a steady stream: how long it stalls, every byte verified (root)."""
    distances = _durations("--round-trips", round_trips)
    options = cuts_bench.CutsOptions(count, _streams(lanes), distances, rounds)
    session = _Session("cuts", asdict(options), congestion, results, json=json)
    cuts_bench.run(options, session.network, session.results, session.progress)
    _close(session)


@app.command()
def abuse(
    size: Size = "2GiB",
    rounds: Rounds = 5,
    only: Annotated[
        str,
        typer.Option(
            help="Kinds of abuse, comma-separated: strangers, users, peers, streams, or single ones."
        ),
    ] = "",
    congestion: Congestion = "cubic",
    results: Directory = Path("bench/data"),
    json: AsJson = False,
) -> None:
    """Flood the daemons as strangers, local users and a hostile peer: effect on bulk and cut lanes (root)."""
    chosen, cases = beside.choose(_names(only))
    if os.geteuid() != 0:
        raise UsageError(
            "bench abuse needs root: it runs as other users, and has the kernel reset connections"
        )
    options = abuse_bench.AbuseOptions(_size(size), rounds)
    session = _Session("abuse", asdict(options), congestion, results, json=json)
    run = (session.network, session.results, session.progress)
    abuse_bench.run(chosen, options, *run)
    beside.run(cases, options.size, rounds, *run)
    _close(session)


@app.command()
def profile(
    size: Size = "4GiB",
    only: Annotated[str, typer.Option(help="The relay to profile.")] = "mtunnel",
    congestion: Congestion = "cubic",
    results: Directory = Path("bench/data"),
    json: AsJson = False,
) -> None:
    """Folded stacks of both sides under a bulk stream, and their CPU time by kind (root, perf)."""
    [contestant] = choose([only])
    if contestant.sides is None:
        raise UsageError(f"{only} is not a relay: there is no relay process to profile")
    count = _size(size)
    session = _Session("profile", {"size": count}, congestion, results, json=json)
    session.announce([contestant])
    for found in profiles.measure(contestant, count, session.network):
        path = session.results.path.with_suffix(f".{found.side}.folded")
        path.write_text(stacks.text(found.stacks))
        session.results.add("profile", **found.as_record())
        session.progress(f"folded stacks of side {found.side.upper()}: {path}")
    _close(session)


@app.command()
def report(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Result files; default: the newest runs of each benchmark.")
    ] = None,
    results: Directory = Path("bench/data"),
    output: Annotated[
        Path | None, typer.Option(help="Directory to write to; default: that of --results.")
    ] = None,
) -> None:
    """Write report.html, with charts, and report.md from result files."""
    chosen = read_all(files) if files else origin.newest(results)
    for path in reports.write(chosen, output or results):
        typer.echo(path)


@app.command("readme")
def write_readme() -> None:
    """Regenerate the figures of README.md and its chart, from the files that report/readme.py names."""
    for path in readme.write(readme.ROOT):
        typer.echo(path)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


class _Session:
    """One run: its network, its result file, and its messages on the terminal."""

    def __init__(
        self,
        benchmark: str,
        options: Record,
        congestion: str,
        directory: Path,
        *,
        json: bool,
        output: Path | None = None,
        behind: Results | None = None,
    ) -> None:
        self.json = json
        self._notes = Console(stderr=True, quiet=json)
        self.results = Results(directory, benchmark, path=output, behind=behind)
        self.network = networks.enter(congestion)
        self.results.open_run(options, self.network)
        self._explain(self.network)

    def announce(self, contestants: Sequence[Contestant]) -> list[Contestant]:
        """Record the contestants; return those that can run here."""
        return self.results.announce(contestants)

    def progress(self, text: str) -> None:
        """Print a progress message."""
        self._notes.print(text, style="dim", highlight=False)

    def _explain(self, network: Network) -> None:
        if network.pinned:
            self.progress(f"congestion control: {network.congestion}, in a separate network namespace")
        else:
            warning = f"not root: using the system's congestion control, {network.congestion}, not pinned"
            self._notes.print(warning, style="yellow", highlight=False)


def _close(*sessions: _Session, goals: bool = False) -> None:
    """Print the findings; exit with status 1 when a contestant failed."""
    last = sessions[-1]
    if last.json:
        for session in sessions:
            typer.echo(session.results.dump())
    else:
        runs = [ResultFile(session.results.path, session.results.records) for session in sessions]
        Console().print(terminal.render(reports.findings(runs, goals=goals)))
        last.progress(f"written to {last.results.path}")
    if any(session.results.of_kind("failure") for session in sessions):
        raise typer.Exit(1)
