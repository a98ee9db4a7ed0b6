"""The original source and destination of a redirected connection, also when NAT changed its source port."""

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
    """A listener to which ports 49152 and 49153 of the alias are redirected."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        table = RedirectTable("hosta")
        table.install([Redirect(ALIAS, 49152, 49153, listener.getsockname()[1])])
        yield listener


@contextmanager
def called(
    listener: socket.socket, address: tuple[str, int], source: int = 0
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client, perhaps from a given port, and the accepted end."""
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
def test_both_original_addresses_are_returned() -> None:
    with redirected() as listener, called(listener, (ALIAS, 49153)) as (caller, accepted):
        assert accepted.getsockname() == listener.getsockname()
        assert original_destination(accepted) == caller.getpeername() == (ALIAS, 49153)
        assert original_source(accepted) == caller.getsockname()
        assert caller_uid(accepted, (ALIAS, 49153)) == 0


@pytest.mark.root
@pytest.mark.usefixtures("network")
def test_a_source_port_that_nat_changed_does_not_identify_another_client() -> None:
    """One source port to two ports of the range: after the redirect both tuples would be equal."""
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
        # A client of root's from the port that NAT gave to the other.
        with called(listener, (ALIAS, 49153), changed) as (_, third):
            assert caller_uid(second, (ALIAS, 49153)) == NOBODY
            assert caller_uid(third, (ALIAS, 49153)) == 0


@pytest.mark.root
@pytest.mark.usefixtures("network")
def test_a_client_that_disconnected_is_refused() -> None:
    with redirected() as listener, called(listener, (ALIAS, 49152)) as (caller, accepted):
        caller.close()
        with pytest.raises(RefusedError, match="the client disconnected before it could be identified"):
            caller_uid(accepted, (ALIAS, 49152))


@pytest.mark.root
@pytest.mark.usefixtures("network")
def test_a_direct_connection_keeps_its_destination() -> None:
    with redirected() as listener, called(listener, listener.getsockname()) as (_, accepted):
        assert original_destination(accepted) in {listener.getsockname(), None}


@pytest.mark.root
@pytest.mark.usefixtures("network")
def test_an_untracked_connection_has_no_original_addresses() -> None:
    nft("add table ip other; add chain ip other out { type filter hook output priority raw; }")
    nft("add rule ip other out notrack")
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        called(listener, listener.getsockname()) as (_, accepted),
    ):
        assert original_destination(accepted) is None
        with pytest.raises(RefusedError, match="no connection tracking entry for this redirected connection"):
            original_source(accepted)


@pytest.mark.root
@pytest.mark.usefixtures("network")
def test_a_query_without_permission_is_refused() -> None:
    with (
        redirected() as listener,
        called(listener, (ALIAS, 49152)) as (_, accepted),
        acting_as(NOBODY),
        pytest.raises(RefusedError, match=r"cannot query connection tracking: Operation not permitted"),
    ):
        original_source(accepted)
