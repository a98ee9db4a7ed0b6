"""Every kind of abuse has a goal, and the arguments that match its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunnel.bench.measure.abusers import ABUSERS, NOBODY, STRANGE_ADDRESS
from tunnel.bench.measure.exposed import Exposed, expose

COMMANDS = {each.name: each for each in ABUSERS}


@pytest.fixture
def exposed(tmp: Path) -> Exposed:
    return expose(tmp, "cubic")


def test_names_are_unique_and_peers_may_cost_more() -> None:
    assert len(COMMANDS) == len(ABUSERS)
    assert {each.goal for each in ABUSERS if each.group == "peers"} == {0.8}
    assert {each.goal for each in ABUSERS if each.group != "peers"} == {0.9}


def test_strangers_come_from_one_address_to_the_port(exposed: Exposed) -> None:
    silent, near = COMMANDS["silent"], COMMANDS["hello-as-peer"]
    assert str(exposed.site.link) in silent.command(exposed)
    assert f"--source={STRANGE_ADDRESS}" in silent.command(exposed)
    assert "--source=127.0.0.2" in near.command(exposed)
    assert "--says=hello" in near.command(exposed)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_users_are_nobody_and_have_a_plain_listener_of_the_same_kind(exposed: Exposed, kind: str) -> None:
    user = COMMANDS[f"user-{kind}-endless"]
    assert user.plain is not None
    attack, plain = user.command(exposed), user.plain(exposed)
    targets = {
        "tcp": (exposed.forbidden, exposed.plain),
        "unix": (exposed.forbidden_unix, exposed.plain_unix),
    }
    assert [str(each) in command for each, command in zip(targets[kind], (attack, plain), strict=True)]
    assert attack[5:] == plain[5:]
    assert {f"--uid={NOBODY}", "--per-second=0"} <= set(attack)


def test_a_hostile_peer_has_the_third_hosts_certificate(exposed: Exposed) -> None:
    command = COMMANDS["peer-ping"].command(exposed)
    assert f"--cert={exposed.pair_c.cert}" in command
    assert f"--target=unix:{exposed.held}" in command
