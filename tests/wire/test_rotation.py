"""Rotation without I/O: which lane is due, and frames that the peer must not send now."""

from __future__ import annotations

import pytest

from tests.support.wire import Network
from tunnel.errors import ProtocolError
from tunnel.wire.codes import Code, Feature
from tunnel.wire.frames import Limits, Retire, Retired, Rotate, RotationFrame
from tunnel.wire.rotation import ASKED_RECORDS, PATIENCE
from tunnel.wire.session import Settings

SETTINGS = Settings(Limits(4, 64, lanes=2))


@pytest.fixture
def network() -> Network:
    """Two hosts with a session of two lanes."""
    made = Network(SETTINGS, SETTINGS)
    made.settle()
    return made


def test_lanes_are_replaced_one_by_one(network: Network) -> None:
    rotation = network.initiator.members.rotation
    assert rotation.next_due() == 0
    rotation.rotate("certificates renewed")
    assert rotation.next_due() == 1
    network.settle()
    for host in network.hosts:
        assert sorted(host.members.lanes) == [3, 4]
        assert host.members.rotation.others == []
    assert rotation.next_due() == 0


def test_acceptor_requests_what_the_initiator_replaces(network: Network) -> None:
    first = network.initiator.members.lanes[1]
    first.records_sent = ASKED_RECORDS
    network.acceptor.members.rotation.rotate("certificates renewed", [network.acceptor.members.lanes[1]])
    assert network.acceptor.members.rotation.next_due() == 0, "the acceptor does not dial"
    network.settle()
    assert sorted(network.initiator.members.lanes) == [2, 3]


def test_a_new_lane_is_not_replaced_on_request(network: Network) -> None:
    network.acceptor.members.rotation.rotate("certificates renewed")
    network.settle()
    assert sorted(network.initiator.members.lanes) == [1, 2]


def test_a_lane_that_does_not_retire_in_time_is_given_up(network: Network) -> None:
    rotation = network.initiator.members.rotation
    network.rotate(1)
    while not rotation.others:
        for number in list(network.initiator.ends):
            network.carry(number, from_initiator=True)
        network.carry(3, from_initiator=False)
    [retiring] = rotation.others
    for network.now, given_up in ((PATIENCE - 1, False), (PATIENCE, True)):
        rotation.tick(network.initiator.members.lanes[3])
        assert retiring.ended is given_up
    assert rotation.others == []
    network.settle()


@pytest.mark.parametrize("frame", [Rotate(), Retire(), Retired()], ids=lambda frame: type(frame).__name__)
def test_none_of_its_frames_without_the_feature(network: Network, frame: RotationFrame) -> None:
    for host in network.hosts:
        host.members.features = Feature.RESUME
        assert fault(network, host.initiator, frame) is Code.PROTOCOL


@pytest.mark.parametrize(
    ("initiator", "frame"), [(False, Rotate()), (True, Retire()), (False, Retire()), (True, Retired())]
)
def test_frames_out_of_turn(network: Network, initiator: bool, frame: RotationFrame) -> None:
    """ROTATE comes from the acceptor, RETIRE for a lane that was replaced, RETIRED after RETIRE."""
    if isinstance(frame, Retire) and not initiator:
        network.acceptor.members.lanes.pop(1)
    assert fault(network, initiator, frame) is Code.PROTOCOL


def fault(network: Network, initiator: bool, frame: RotationFrame) -> Code:
    host = network.initiator if initiator else network.acceptor
    lane = next(each for each in host.ends.values() if each.epoch == 1)
    with pytest.raises(ProtocolError) as caught:
        host.members.rotation.on_frame(lane, frame)
    return caught.value.code
