"""Any chunking, any interleaving, any number of lanes cut anywhere: the same bytes, and every stream ends.

Hypothesis draws a schedule of what both hosts do to their streams and of what happens to the lanes between
them. The invariants of ``Network.check`` hold after each step. At the end everything that can still continue
does, and must come to a proper end. (A schedule rather than hypothesis' own state machine: that one leaves
out some kinds of steps in each run, and failures here need all of them.)
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.support.ends import Local
from tests.support.wire import Network
from tests.support.wire_host import Host
from tunnel.wire.frames import Limits
from tunnel.wire.session import Settings

MOST_LANES = 3
SEEDS = 200
WEIGHTS = {
    "open": 30,
    "accept": 40,
    "refuse": 3,
    "write": 60,
    "finish": 10,
    "reset": 1,
    "probe": 10,
    "judge": 10,
    "deliver": 100,
    "wait": 10,
    "transmit": 120,
    "carry": 120,
    "cut": 10,
    "notice": 2,
    "dial": 30,
    "rotate": 30,
}
EACH_KIND = [kind for kind, weight in WEIGHTS.items() for _ in range(weight)]
SIZES = [1, 7, 30, 200, 200, 1000, 5000, 5000, 5000, 5000]  # headers and payload get cut anywhere
MEMORIES = [0, 4000]
WINDOWS = [20, 50, 300, 2000]


@dataclass(frozen=True)
class Step:
    """One step. ``pick`` selects among the candidates; ``size`` is bytes, or a yes or no."""

    kind: str
    initiator: bool
    pick: int
    size: int


each_step = st.builds(
    Step, st.sampled_from(EACH_KIND), st.booleans(), st.integers(0, 11), st.sampled_from(SIZES)
)
each_schedule = st.integers(5, 150).flatmap(
    lambda length: st.lists(each_step, min_size=length, max_size=length)
)
each_settings = st.builds(
    Settings,
    limits=st.builds(
        Limits, streams=st.integers(1, 4), control=st.integers(1, 6), lanes=st.integers(1, MOST_LANES)
    ),
    memory=st.sampled_from(MEMORIES),
    window=st.sampled_from(WINDOWS),
)


class Play:
    """Performs steps; one that is not possible at the moment changes nothing."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def do(self, step: Step) -> None:
        host = self.network.initiator if step.initiator else self.network.acceptor
        getattr(self, step.kind)(host, step)

    def local(self, host: Host, step: Step) -> Local | None:
        living = [local for local in host.locals.values() if not local.gone]
        return living[step.pick % len(living)] if living else None

    def lane(self, host: Host, step: Step) -> int:
        numbers = list(host.ends)
        return numbers[step.pick % len(numbers)] if numbers else 0

    def open(self, host: Host, step: Step) -> None:
        if host.session.places.vacant:
            host.open(step.size % 1000)

    def accept(self, host: Host, step: Step) -> None:
        for number in host.requests[step.pick % 3 :][:1]:
            host.accept(number, step.size % 1000)

    def refuse(self, host: Host, step: Step) -> None:
        for number in host.requests[step.pick % 3 :][:1]:
            host.refuse(number)

    def write(self, host: Host, step: Step) -> None:
        local = self.local(host, step)
        if local and not local.finished:
            host.write(local.number, min(step.size, 500))

    def finish(self, host: Host, step: Step) -> None:
        local = self.local(host, step)
        if local and local.opened and not local.finished:
            host.finish(local.number)

    def reset(self, host: Host, step: Step) -> None:
        if local := self.local(host, step):
            host.reset(local.number)

    def probe(self, host: Host, step: Step) -> None:
        host.questions.ask(host.session)

    def judge(self, host: Host, step: Step) -> None:
        host.questions.judge(host.session, most=step.pick)

    def deliver(self, host: Host, step: Step) -> None:
        if local := self.local(host, step):
            host.deliver(local.number, step.size)

    def wait(self, host: Host, step: Step) -> None:
        self.network.wait(step.size % 400 + 1)

    def transmit(self, host: Host, step: Step) -> None:
        for _ in range(step.pick // 2 + 1):
            if number := self.lane(host, step):
                host.transmit(number, step.size)

    def carry(self, host: Host, step: Step) -> None:
        if number := self.lane(host, step):
            self.network.carry(number, host.initiator, step.size)

    def cut(self, host: Host, step: Step) -> None:
        if number := self.lane(self.network.initiator, step):
            self.network.cut(number, noticed=step.size % 2 == 0)

    def notice(self, host: Host, step: Step) -> None:
        self.network.notice()

    def dial(self, host: Host, step: Step) -> None:
        self.network.dial()

    def rotate(self, host: Host, step: Step) -> None:
        if numbers := self.network.initiator.carrying():
            self.network.rotate(numbers[step.pick % len(numbers)])


def play(initiator: Settings, acceptor: Settings, schedule: list[Step]) -> None:
    network = Network(initiator, acceptor)
    stage = Play(network)
    for step in schedule:
        stage.do(step)
        network.check()
    network.settle()
    network.check()
    network.check_finished()


@pytest.mark.timeout(600)  # for the search of a smaller example, if it fails
@settings(max_examples=60, phases=set(Phase) - {Phase.explain})
@given(initiator=each_settings, acceptor=each_settings, schedule=each_schedule)
def test_any_schedule_ends_with_the_same_bytes(
    initiator: Settings, acceptor: Settings, schedule: list[Step]
) -> None:
    play(initiator, acceptor, schedule)


def test_long_schedules_end_with_the_same_bytes() -> None:
    """Drawn without hypothesis, which takes ten times as long to draw a schedule as this takes to run it."""
    for seed in range(SEEDS):
        chance = random.Random(seed)
        schedule = [_step(chance) for _ in range(chance.randint(50, 400))]
        try:
            play(_settings(chance), _settings(chance), schedule)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


def _step(chance: random.Random) -> Step:
    return Step(chance.choice(EACH_KIND), chance.random() < 0.5, chance.randrange(12), chance.choice(SIZES))


def _settings(chance: random.Random) -> Settings:
    limits = Limits(
        streams=chance.randint(1, 4), control=chance.randint(1, 6), lanes=chance.randint(2, MOST_LANES)
    )
    return Settings(limits, chance.choice(MEMORIES), chance.choice(WINDOWS))
