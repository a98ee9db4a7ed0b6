"""Where a redirected connection came from and meant to go, also when its source port had to change."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.namespace import nft
from tests.support.users import NOBODY, acting_as
from tunnel.errors import RefusedError
from tunnel.host.nftables import Redirect, RedirectTable
from tunnel.net.conntrack import original_destination, original_source
from tunnel.net.peer_credentials import caller_uid

ALIAS = "127.0.1.2"
CLAIMED = 45_000


@contextmanager
def redirected() -> Iterator[socket.socket]:
    """A listener to which ports 49152 and 49153 of the alias lead."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        table = RedirectTable("hosta")
        table.install([Redirect(ALIAS, 49152, 49153, listener.getsockname()[1])])
        yield listener


@contextmanager
def called(
    listener: socket.socket, address: tuple[str, int], source: int = 0
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A caller, perhaps from a certain port, and the accepted end."""
    with socket.socket() as caller:
        caller.settimeout(60)
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        caller.bind(("127.0.0.1", source))
        caller.connect(address)
        accepted, _ = listener.accept()
        with accepted:
            yield caller, accepted


@pytest.mark.root
@pytest.mark.usefixtures("network")
def test_both_ends_are_known_by_their_own_names() -> None:
    with redirected() as listener, called(listener, (ALIAS, 49153)) as (caller, accepted):
        assert accepted.getsockname() == listener.getsockname()
        assert original_destination(accepted) == caller.getpeername() == (ALIAS, 49153)
        assert original_source(accepted) == caller.getsockname()
        assert caller_uid(accepted, (ALIAS, 49153)) == 0


@pytest.mark.root
@pytest.mark.usefixtures("network")
def test_a_source_port_that_the_kernel_changed_vouches_for_nobody_else() -> None:
    """One port towards two ports of the range: after the redirect these would be one connection."""
    with (
        redirected() as listener,
        called(listener, (ALIAS, 49152), CLAIMED) as (_, first),
        acting_as(NOBODY),
        called(listener, (ALIAS, 49153), CLAIMED) as (_, second),
        acting_as(0),
    ):
        changed = second.getpeername()[1]
        assert changed != CLAIMED
        assert original_source(second) == ("127.0.0.1", CLAIMED)
        assert caller_uid(first, (ALIAS, 49152)) == 0
        # A caller of root's that has the very port that the kernel gave to the other.
        with called(listener, (ALIAS, 49153), changed) as (_, third):
            assert caller_uid(second, (ALIAS, 49153)) == NOBODY
            assert caller_uid(third, (ALIAS, 49153)) == 0


@pytest.mark.root
@pytest.mark.usefixtures("network")
def test_a_caller_that_hung_up_is_nobody() -> None:
    with redirected() as listener, called(listener, (ALIAS, 49152)) as (caller, accepted):
        caller.close()
        with pytest.raises(RefusedError, match="hung up before it could be identified"):
            caller_uid(accepted, (ALIAS, 49152))


@pytest.mark.root
@pytest.mark.usefixtures("network")
def test_a_direct_connection_keeps_its_destination() -> None:
    with redirected() as listener, called(listener, listener.getsockname()) as (_, accepted):
        assert original_destination(accepted) in {listener.getsockname(), None}


@pytest.mark.root
@pytest.mark.usefixtures("network")
def test_what_the_kernel_does_not_track_has_no_original() -> None:
    nft("add table ip other; add chain ip other out { type filter hook output priority raw; }")
    nft("add rule ip other out notrack")
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        called(listener, listener.getsockname()) as (_, accepted),
    ):
        assert original_destination(accepted) is None
        with pytest.raises(RefusedError, match="the kernel knows nothing of this redirected connection"):
            original_source(accepted)


@pytest.mark.root
@pytest.mark.usefixtures("network")
def test_who_may_not_ask_is_told_so() -> None:
    with (
        redirected() as listener,
        called(listener, (ALIAS, 49152)) as (_, accepted),
        acting_as(NOBODY),
        pytest.raises(RefusedError, match=r"cannot ask the kernel .*: Operation not permitted"),
    ):
        original_source(accepted)
