"""Programs accept every command that README and docs show; a test runs it, or the reason is given here."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.support.command_parsers import path_of
from tests.support.shown_commands import Shown, WrongCommandError, shown_in

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]

README = "e2e/lab/test_readme_typed_in.py"
"""Executes README's blocks as they are."""
OPTIONS = "e2e/lab/test_virshs_options_behave_as_without_us.py"
LAB = "bench/lab/test_lab_app.py"
RUN_BY = {
    "./run bench goals": "bench/report/test_goals.py",
    "./run bench memory": "bench/test_main.py",
    "./run bench relay": "bench/test_app.py",
    "./run bench report": "bench/test_app.py",
    "./run demo": "e2e/test_demo_moves_a_verified_guest.py",
    "./run lab down": LAB,
    "./run lab shell": LAB,
    "./run lab up": LAB,
    "mtunnel certs init": README,
    "mtunnel certs issue": README,
    "mtunnel check": README,
    "mtunnel demo": "e2e/test_demo_moves_a_verified_guest.py",
    "mtunnel guard": "e2e/test_redirect_cannot_be_taken_over.py",
    "mtunnel migrate": README,
    "mtunnel serve": README,
    "mtunnel status": README,
    "mtunnel uri": README,
    "virsh destroy": "e2e/lab/test_a_destination_that_fails_leaves_the_guest.py",
    "virsh domjobabort": OPTIONS,
    "virsh domstate": "e2e/lab/test_post_copy_crosses_and_recovers.py",
    "virsh list": "e2e/lab/test_libvirts_calls_cross_only_if_allowed.py",
    "virsh migrate": README,
    "virsh migrate-postcopy": "e2e/lab/test_post_copy_crosses_and_recovers.py",
    "virsh qemu-monitor-command": OPTIONS,
    "virsh start": "e2e/lab/test_a_destination_that_fails_leaves_the_guest.py",
}
"""The test that runs each command with the arguments of some page, or others."""
ONLY_PARSED = {
    "./run bench abuse": "half an hour; bench/measure/test_abuse.py runs what it measures, on a small scale",
    "./run bench cuts": "minutes; bench/measure/test_cuts.py, likewise",
    "./run bench migrate": "minutes; bench/measure/test_guest_moves.py, likewise",
    "./run bench profile": "needs perf; bench/measure/test_perf_profile.py, likewise",
    "./run bench idle": "minutes; bench/measure/test_idle.py runs it with few links",
    "./run bench readme": "changes README; bench/report/test_readme.py checks what it would write",
    "./run bench rotate": "minutes; bench/measure/test_rotate.py, likewise",
    "./run bench scale": "needs perf; bench/measure/test_scale.py, likewise",
    "./run check": "runs the tests, this one too",
    "./run fuzz": "ten minutes; engine/test_fuzz.py has it with fewer rounds",
    "./run lock": "replaces the locked versions",
    "./run setup": "installs packages of the system",
    "./run test": "runs this test",
}
"""Why no test runs a command."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_programs_accept_what_a_page_shows(page: Path) -> None:
    wrong = {}
    for shown in shown_in(page.read_text()):
        try:
            path_of(shown)
        except WrongCommandError as error:
            wrong[str(shown)] = str(error)
    assert not wrong


def test_each_command_is_run_by_a_test_or_has_a_reason() -> None:
    paths = {path_of(shown) for page in PAGES for shown in shown_in(page.read_text())}
    groups = {path.rpartition(" ")[0] for path in paths} | {"virsh"}
    assert paths - groups == RUN_BY.keys() | ONLY_PARSED.keys()
    assert not RUN_BY.keys() & ONLY_PARSED.keys()


def test_those_tests_name_the_commands() -> None:
    for path, test in RUN_BY.items():
        text = (ROOT / "tests" / test).read_text()
        if test == README:
            text += (ROOT / "README.md").read_text()
        assert re.search(rf"\b{re.escape(path.split()[-1])}\b", text), path
    named = {name for reason in ONLY_PARSED.values() for name in re.findall(r"\S+\.py", reason)}
    assert not [name for name in named if not (ROOT / "tests" / name).exists()]


@pytest.mark.parametrize(
    "line",
    [
        "mtunnel serv",
        "mtunnel serve --fast",
        "mtunnel serve --log-format xml",
        "mtunnel certs issue pki",
        "mtunnel uri",
        "mtunnel uri web1 hostb",
        "mtunnel migrate hostb web1",
        "mtunnel migrate web1 hostb --timeout soon",
        "mtunnel migrate web1 hostb --qmp",
        "./run dance",
        "./run demo --mode tunnelled",
        "./run test tests/no_such_folder",
        "./run bench race",
        "./run bench relay --round 3",
        "./run bench cuts --cuts many",
        "./run bench relay --only telnet",
        "./run bench migrate --only telnet",
        "./run bench abuse --only telnet",
        "./run lab shell",
        "virsh migrat web1",
        "virsh migrate --live web1",
        "virsh migrate --live $B web1",
        "virsh migrate --live web1 $B --migrate-uri tcp://127.0.1.2",
    ],
)
def test_a_wrong_command_is_refused(line: str) -> None:
    with pytest.raises(WrongCommandError):
        path_of(Shown(tuple(shlex.split(line)), whole=True))


def test_commands_are_found_wherever_a_page_may_show_them() -> None:
    page = """\
Type `MTUNNEL_ENGINE=python mtunnel
check`, or `mtunnel migrate --qmp …`; `$B` is no command.

    ./run bench relay --rounds 3      # three
    ./run bench cuts        resets
    ExecStart=/usr/local/bin/mtunnel serve
    enter sh -c 'cd mtunnel && ./run bench goals'
    ln -s /opt/mtunnel/bin/mtunnel /usr/local/bin/

```sh
mtunnel uri PEER [GUEST]
```

| way | after `virsh migrate --live web1 "$B"` |
|---|---|
| multifd | `--parallel`, see `--parallel-connections 4` |
"""
    found = [str(shown) for shown in shown_in(page) if shown.whole]
    assert found == [
        "./run bench relay --rounds 3",
        "./run bench cuts",
        "mtunnel serve",
        "./run bench goals",
        "mtunnel uri PEER GUEST",
        "virsh migrate --live web1 '$B' --parallel",
        "virsh migrate --live web1 '$B' --parallel-connections 4",
    ]
    assert [str(shown) for shown in shown_in(page) if not shown.whole] == [
        "mtunnel check",
        "mtunnel migrate --qmp",
        "virsh migrate --live web1 '$B'",
    ]
