"""The first section: three sentences and three charts, or what no file has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.bench import samples
from tunnel.bench.report.answer import section
from tunnel.bench.report.charts import Chart
from tunnel.bench.report.document import Claim
from tunnel.bench.report.result_file import ResultFile, read, read_all


def _claims(files: Sequence[ResultFile]) -> list[Claim]:
    return [block for block in section(files).blocks if isinstance(block, Claim)]


def _charts(files: Sequence[ResultFile]) -> list[Chart]:
    return [block for block in section(files).blocks if isinstance(block, Chart)]


def _migrate(directory: Path, release: str, day: str) -> ResultFile:
    (file,) = read(samples.migrate(directory))
    run = json.loads(json.dumps(file.run))
    run["started"], run["machine"]["system"] = f"{day}T03:04:05+00:00", f"Debian GNU/Linux {release}"
    return ResultFile(file.path, [run, *file.records[1:]])


def _without(file: ResultFile, mode: str) -> ResultFile:
    return ResultFile(file.path, [r for r in file.records if r.get("mode") != mode])


def test_ours_are_compared_with_the_best_rival(tmp: Path) -> None:
    files = [_migrate(tmp, "13 (trixie)", "2026-01-01")]
    assert _claims(files) == [
        Claim(
            "Throughput",
            "mtunnel wins on Debian 13 with 1.47 (1.45-1.48) times that of the fastest rival "
            "(QEMU's TLS, one channel).",
            "good",
        ),
        Claim(
            "CPU time per GiB",
            "mtunnel wins on Debian 13 with 0.75 (0.75-0.75) times that of the cheapest rival "
            "(QEMU's TLS, one channel).",
            "good",
        ),
        Claim(
            "Highest dirty rate",
            "mtunnel wins on Debian 13 with 1.17 (1.17-1.17) times that of the best rival "
            "(QEMU's TLS, one channel).",
            "good",
        ),
    ]
    assert [chart.title for chart in _charts(files)] == [
        *("Throughput", "CPU time", "Highest dirty rate, 4 GiB, link of 10 Gbit/s"),
    ]
    assert str(section(files).blocks[-1]).startswith("Throughput and CPU time: 4 GiB guest, idle")


def test_a_loss_on_one_release_is_a_loss(tmp: Path) -> None:
    new = _without(_migrate(tmp / "a", "13 (trixie)", "2026-01-01"), "mtunnel")
    old = _migrate(tmp / "b", "12 (bookworm)", "2026-01-02")
    throughput = _claims([new, old])[0]
    assert throughput.tone == "bad"
    assert throughput.text.startswith("mtunnel loses on Debian 13 with 0.51")
    assert ", and wins on Debian 12 with 1.47" in throughput.text
    first, second, third = _charts([new, old])
    assert first.series == second.bars == third.series == ("Debian 13", "Debian 12")


def test_of_a_release_the_newest_run_counts(tmp: Path) -> None:
    older = _without(_migrate(tmp / "a", "13 (trixie)", "2026-01-01"), "mtunnel")
    newer = _migrate(tmp / "b", "13 (trixie)", "2026-01-02")
    assert _claims([newer, older]) == _claims([newer])
    unusable = ResultFile(newer.path, [newer.run])
    assert _claims([unusable, older]) == _claims([older])


def test_what_no_file_has_is_named(tmp: Path) -> None:
    throughput, cpu, rate = _claims(read_all([samples.memory(tmp)]))
    assert {throughput.tone, cpu.tone, rate.tone} == {"unclear"}
    assert throughput.text.startswith("not measured: no file of this report has a migration of an idle guest")
    assert rate.text.endswith("(./run bench migrate --converge).")
    assert len(section([]).blocks) == 3


def test_without_a_search_there_are_two_charts(tmp: Path) -> None:
    (file,) = read(samples.migrate(tmp))
    files = [ResultFile(file.path, [r for r in file.records if r["kind"] != "convergence"])]
    assert [chart.title for chart in _charts(files)] == ["Throughput", "CPU time"]
    assert [claim.tone for claim in _claims(files)] == ["good", "good", "unclear"]
