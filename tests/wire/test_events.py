"""Events: each kind occurs in an exchange, and has the stream, if any, and what its owner needs."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import get_args

import pytest

from tests.support.wire import Network
from tests.support.wire_host import Host
from tunnel.wire.events import Event, StreamRefused, StreamRequested, StreamReset, TargetJudged, TargetProbed
from tunnel.wire.session import Settings

OF_STREAMS = [kind for kind in get_args(Event) if kind not in {TargetProbed, TargetJudged}]


def exchange(network: Network, speaker: Host) -> None:
    speaker.transmit(1)
    network.carry_all()


def test_each_kind_of_event_happens() -> None:
    settings = Settings(window=400)  # CREDIT is due for a quarter of it
    network = Network(settings, settings)
    network.initiator.open(100)
    doomed, unwanted, half = (network.initiator.open(0) for _ in range(3))
    exchange(network, network.initiator)
    network.acceptor.accept(doomed, 0)
    network.acceptor.accept(half, 0)
    exchange(network, network.acceptor)
    network.initiator.finish(half)
    exchange(network, network.initiator)
    exchange(network, network.acceptor)
    network.acceptor.reset(doomed)
    network.acceptor.refuse(unwanted)
    network.settle()
    seen = {kind for host in network.hosts for local in host.locals.values() for kind in local.events}
    assert seen == set(OF_STREAMS)


@pytest.mark.parametrize("kind", OF_STREAMS)
def test_an_event_names_its_stream_first(kind: type[Event]) -> None:
    assert fields(kind)[0].name == "stream"


@pytest.mark.parametrize("kind", [StreamRefused, StreamReset])
def test_an_abnormal_end_has_a_code_and_a_reason(kind: type[StreamRefused | StreamReset]) -> None:
    assert [field.name for field in fields(kind)] == ["stream", "code", "reason"]


def test_an_event_is_immutable() -> None:
    event = StreamRequested(1, "tcp:127.0.0.1:49152")
    with pytest.raises(FrozenInstanceError):
        event.target = "unix:/run/libvirt/libvirt-sock"  # type: ignore[misc]  # that is what must fail
