"""Whether a relay's far side serves a client over TLS: one transfer of one byte, acknowledged."""

from __future__ import annotations

import ssl

from tunnel.bench.measure.testbed import Testbed


def client_context(site: Testbed, *, certificate: bool = True) -> ssl.SSLContext:
    """Return a context for a client that has host A's certificate, or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if certificate:
        context.load_cert_chain(site.pair_a.cert, site.pair_a.key)
    return context


def is_served(site: Testbed, context: ssl.SSLContext) -> bool:
    """Whether a transfer of one byte over the link is acknowledged."""
    context.load_verify_locations(site.ca)
    try:
        with site.link.connect() as raw, context.wrap_socket(raw, server_hostname="hostb") as connection:
            connection.sendall(b"\0" * 7 + b"\1x")
            return connection.recv(1) == b"\x06"
    except (ssl.SSLError, ConnectionError):  # asyncio says no with an alert, an end or a reset
        return False
