"""Lanes and sessions of two hosts under arbitrary network faults, in simulated time.

A schedule has events for the lanes between two hosts, for the hosts, and for the programs that communicate
through them. The model (``simworld``) has the invariants after each step, and that a minute after the last
fault both hosts have one session, with all its lanes, and no others.
"""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.simhosts import Connection, Network, Shape, Trap, installed
from tests.support.simloop import simulated
from tests.support.simworld import GRACE, HOSTS, NOTICE, World
from tunnel.wire import negotiation, scheduler
from tunnel.wire.codes import FEATURES, Feature, FrameType
from tunnel.wire.frames import Limits
from tunnel.wire.keepalive import INTERVAL
from tunnel.wire.session import Settings

pytestmark = pytest.mark.timeout(600)  # for shrinking an example, and on a busy machine

SEEDS = 150
MORE_SEEDS = 3000
OUTAGES = 40
KEEP_FLOOR = 3000
"""Instead of half a MiB, so that few bytes fill what a host keeps for replay."""

WEIGHTS = {
    "call": 12,
    "stall": 6,
    "go_on": 6,
    "cut": 14,
    "hold": 12,
    "trap": 20,
    "outage": 6,
    "rotate": 12,
    "restart": 2,
    "intrude": 2,
}
EACH_KIND = [kind for kind, weight in WEIGHTS.items() for _ in range(weight)]
WAITS = [0.0, 0.0, 0.0005, 0.001, 0.002, 0.003, 0.01, 0.01, 0.05, 0.3, 1.0, 5.0, 10.0, 11.0, 16.0, 36.0]
HELD = [0.0005, 0.002, 0.05, 1.0, 4.0, 9.998, 10.0, 10.004, 14.999, 15.0, 15.1, 20.0, 29.0, 36.0]
SIZES = [0, 1, 300, 300, 2000, 4000]
TRAPS = [
    FrameType.HELLO,
    FrameType.WELCOME,
    FrameType.RESUME,
    FrameType.RESUME,
    FrameType.RESUMED,
    FrameType.RESUMED,
    FrameType.REPLACE,
    FrameType.REPLACE,
    FrameType.RETIRE,
    FrameType.RETIRED,
    FrameType.ROTATE,
    FrameType.GOAWAY,
    FrameType.PING,
    FrameType.PONG,
    FrameType.CREDIT,
]


@dataclass(frozen=True)
class Step:
    """An event, ``wait`` seconds after the one before; the other fields select its object."""

    kind: str
    wait: float
    first: bool
    pick: int
    held: float
    which: int  # 1 to 3
    mode: int  # 0 to 3


@dataclass(frozen=True)
class Scene:
    """Parameters of two hosts and the network between them."""

    lanes: tuple[int, int]
    dials: tuple[bool, bool]
    window: tuple[float, float]
    rotate_after: float
    memory: int
    grants: int
    control: int
    capacity: int
    delay: float
    lossy: bool
    features: Feature
    jitter: bool


class Stage:
    """Performs steps; one that does not apply changes nothing."""

    def __init__(self, world: World) -> None:
        self.network = world.network
        self.world = world

    async def do(self, step: Step) -> None:
        await getattr(self, step.kind)(step)

    def _host(self, step: Step) -> str:
        return HOSTS[not step.first]

    async def call(self, step: Step) -> None:
        if len(self.world.talks) < 6:
            self.world.call(self._host(step), (SIZES[step.pick % 6], SIZES[(step.pick // 6 + step.mode) % 6]))

    async def stall(self, step: Step, stalled: bool = True) -> None:
        ends = [end for talk in self.world.talks for end in talk.ends.values() if not end.outcome]
        if ends:
            ends[step.pick % len(ends)].stall(stalled)

    async def go_on(self, step: Step) -> None:
        await self.stall(step, False)

    async def cut(self, step: Step) -> None:
        if living := self.network.living():
            self._cut(living[step.pick % len(living)], step)

    def _cut(self, connection: Connection, step: Step) -> None:
        self.world.trouble()
        connection.cut(step.which, errno.ECONNRESET)

    async def hold(self, step: Step) -> None:
        if living := self.network.living():
            self._hold(living[step.pick % len(living)], step)

    def _hold(self, connection: Connection, step: Step) -> None:
        self.world.trouble(step.held)
        self.network.hold(connection, step.which, step.held)

    async def outage(self, step: Step) -> None:
        self.world.outage(step.which, step.held)

    async def trap(self, step: Step) -> None:
        """Apply a fault to a lane at the moment at which a host sends on it."""

        def spring(connection: Connection) -> None:
            match step.mode:
                case 0:  # what is sent is lost with the lane
                    self._cut(connection, step)
                case 1:  # it arrives, and the answer does not
                    self.network.loop.call_later(self.network.delay, self._cut, connection, step)
                case 2:
                    self._hold(connection, step)
                case 3:
                    self.world.outage(step.which, step.held)

        kind = TRAPS[step.pick % len(TRAPS)]
        self.network.traps.append(Trap(self._host(step), kind, spring))

    async def rotate(self, step: Step) -> None:
        self.world.daemons[self._host(step)].link.rotation.rotate("scheduled")

    async def restart(self, step: Step) -> None:
        self.world.restart(self._host(step), [None, errno.ECONNRESET, errno.ECONNRESET, 0][step.mode])

    async def intrude(self, step: Step) -> None:
        self.world.intrude(self._host(step), step.held)


Plot = Callable[[World], Coroutine[None, None, None]]


def perform(scene: Scene, plot: Plot) -> float:
    """Run a plot to its end. Return the seconds until everything had recovered.

    Raises AssertionError when an invariant is violated.
    """

    async def main() -> float:
        world = World(network, shapes(scene), scene.features)
        await plot(world)
        network.traps.clear()
        await world.calm()
        took = await world.settle()
        await world.finish()
        return took

    network = Network(scene.delay, scene.capacity, scene.lossy)
    with (
        installed(network),
        simulated() as loop,
        patch.object(negotiation, "FEATURES", scene.features),
        patch.object(scheduler, "KEEP_FLOOR", KEEP_FLOOR),
        patch("random.uniform", random.Random(1).uniform if scene.jitter else lambda a, b: b),
    ):
        network.loop = loop
        return loop.run_until_complete(main())


def play(scene: Scene, schedule: Sequence[Step]) -> float:
    """``perform`` a schedule."""

    async def plot(world: World) -> None:
        stage = Stage(world)
        for step in schedule:
            await asyncio.sleep(step.wait)
            await stage.do(step)
            world.check()

    return perform(scene, plot)


def shapes(scene: Scene) -> dict[str, Shape]:
    found = {}
    for i, host in enumerate(HOSTS):
        limits = Limits(4, scene.control, scene.lanes[i])
        made = Settings(limits, scene.memory, scene.grants)
        window = scene.window[i] if Feature.RESUME in scene.features else 0.0
        found[host] = Shape(scene.dials[i], made, window, scene.rotate_after)
    return found


def a_scene(chance: random.Random) -> Scene:
    choice = chance.choice
    window = choice([30.0, 30.0, 30.0, 20.0, 6.0, 0.0])
    return Scene(
        lanes=choice([(1, 1), (1, 1), (2, 2), (2, 3), (3, 3)]),
        dials=choice([(True, True), (True, False), (False, True)]),
        window=choice([(window, window), (window, window), (window, 30.0)]),
        rotate_after=choice([0.0, 0.0, 12.0]),
        memory=choice([0, 4000]),
        grants=choice([100, 300, 2000, 20_000]),
        control=choice([1, 2, 6, 64]),
        capacity=choice([300, 3000, 1 << 16]),
        delay=choice([0.0, 0.001, 0.001, 0.05]),
        lossy=choice([False, True]),
        features=choice([FEATURES] * 7 + [FEATURES & ~Feature.ROTATE] * 4 + [FEATURES & ~Feature.RESUME]),
        jitter=choice([False, True]),
    )


def a_step(chance: random.Random) -> Step:
    return Step(
        chance.choice(EACH_KIND),
        chance.choice(WAITS),
        chance.random() < 0.5,
        chance.randrange(60),
        chance.choice(HELD),
        chance.randint(1, 3),
        chance.randrange(4),
    )


def drawn(chance: random.Random) -> tuple[Scene, list[Step]]:
    return a_scene(chance), [a_step(chance) for _ in range(chance.randint(4, 30))]


@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param(range(SEEDS), id="some"),
        pytest.param(
            range(SEEDS, MORE_SEEDS), id="more", marks=[pytest.mark.soak, pytest.mark.timeout(1800)]
        ),
    ],
)
def test_any_schedule_ends_with_one_session_and_all_lanes(seeds: range) -> None:
    for seed in seeds:
        try:
            play(*drawn(random.Random(seed)))
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


@settings(
    max_examples=15,
    derandomize=True,
    deadline=None,
    phases=set(Phase) - {Phase.explain},
    suppress_health_check=list(HealthCheck),
)
@given(st.randoms(use_true_random=False))
def test_hypothesis_finds_no_failing_schedule(chance: random.Random) -> None:
    """The same with hypothesis, which is slower, but shrinks what it finds."""
    play(*drawn(chance))


# The resume window.

WINDOWS = [4.0, 20.0, 30.0]
SURE = 3.0
"""Seconds for a pause of the dialer, and data in flight."""


@dataclass(frozen=True)
class Outage:
    """One outage: ``which`` as in ``Network.outage``. With ``cut`` all lanes end, else they deliver nothing.

    It takes ``share`` of the time after which the session may have ended, or exceeds the time after which it
    has (``beyond``).
    """

    window: float
    which: int
    cut: bool
    beyond: bool
    share: float

    @property
    def seconds(self) -> float:
        if self.beyond:
            return (0.0 if self.cut else NOTICE) + self.window + GRACE + SURE + 20 * self.share
        return max(0.1, self.share * (self.window + (0.0 if self.cut else NOTICE - INTERVAL) - SURE))


def suffer(scene: Scene, outage: Outage, before: float) -> None:
    """A session survives an outage that is shorter than its window; a longer one ends it."""

    async def plot(world: World) -> None:
        await world.settle()
        await asyncio.sleep(before)
        sessions = [world.daemons[host].link.session for host in HOSTS]
        for size in (0, 4000):
            world.call(HOSTS[size > 0], (size, 300))
        await asyncio.sleep(0.1)
        world.outage(outage.which, outage.seconds)
        if outage.cut:
            for connection in world.network.living():
                connection.cut(3, errno.ECONNRESET)
        await world.calm()
        await world.settle()
        same = [
            world.daemons[host].link.session is session for host, session in zip(HOSTS, sessions, strict=True)
        ]
        assert same == [not outage.beyond] * 2
        await asyncio.sleep(1)
        for talk in world.talks:
            assert {end.outcome for end in talk.ends.values()} <= {"end", "reset" if outage.beyond else "end"}

    perform(replace(scene, window=(outage.window, outage.window), features=FEATURES), plot)


def an_outage(chance: random.Random) -> Outage:
    return Outage(
        chance.choice(WINDOWS),
        chance.randint(1, 3),
        chance.random() < 0.5,
        chance.random() < 0.5,
        chance.choice([0.0, 0.5, 0.9, 1.0, 1.0]),
    )


def test_session_outlives_its_lanes_by_the_resume_window() -> None:
    for seed in range(OUTAGES):
        chance = random.Random(seed)
        scene, outage = replace(a_scene(chance), rotate_after=0.0), an_outage(chance)
        try:
            suffer(scene, outage, chance.choice([0.0, 1.0, 4.9, 7.0]))
        except Exception as error:
            error.add_note(f"seed {seed}: {scene}, {outage}")
            raise


def lose(scene: Scene, answer: bool) -> None:
    """The acceptor has a lane, with ``answer`` also its replacement, whose loss it cannot notice."""

    async def plot(world: World) -> None:
        await world.settle()
        world.trouble()
        if answer:
            for host in HOSTS:
                trap = Trap(host, FrameType.RESUMED, lambda connection: connection.cut(1, errno.ECONNRESET))
                world.network.traps.append(trap)
        world.network.living()[0].cut(1, errno.ECONNRESET)
        await asyncio.sleep(0.001)
        assert await world.settle() <= SURE

    perform(scene, plot)


@pytest.mark.parametrize("answer", [False, True], ids=["a lane", "and the answer"])
def test_loss_noticed_only_by_the_initiator_is_resumed_immediately(answer: bool) -> None:
    for seed in range(OUTAGES // 4):
        scene = replace(
            a_scene(random.Random(seed)), rotate_after=0.0, window=(30.0, 30.0), features=FEATURES
        )
        lose(scene, answer)
