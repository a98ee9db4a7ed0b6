"""Settings of a link: the defaults are those of docs/configuration.md."""

from __future__ import annotations

import pytest

from tunnel.daemon.config import Transport
from tunnel.relay.link_plan import LinkPlan, LinkState
from tunnel.wire.rotation import KEY_LIMIT


def test_defaults_are_those_of_the_configuration() -> None:
    plan, transport = LinkPlan("hosta", "hostb"), Transport()
    assert (plan.resume_window, plan.settings.memory) == (transport.resume_window, transport.memory)
    assert plan.rotation.records == transport.rotate_records
    assert plan.rotation.after == transport.rotate_after


def test_a_lane_is_replaced_long_before_it_would_be_lost() -> None:
    assert 4 * LinkPlan("hosta", "hostb").rotation.records < KEY_LIMIT < 2**24.5


@pytest.mark.parametrize("state", LinkState)
def test_states_are_stable_strings(state: LinkState) -> None:
    assert state.value == state.name.lower()
