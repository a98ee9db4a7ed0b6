"""Check whether side B of a relay serves a TLS client: one transfer of one byte, acknowledged."""

from __future__ import annotations

import ssl

from tunnel.bench.measure.site import Site


def client_context(site: Site, *, certificate: bool = True) -> ssl.SSLContext:
    """Return a context for a client with host A's certificate, or with none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if certificate:
        context.load_cert_chain(site.pair_a.cert, site.pair_a.key)
    return context


def is_served(site: Site, context: ssl.SSLContext) -> bool:
    """Return whether a transfer of one byte over the link is acknowledged."""
    context.load_verify_locations(site.ca)
    try:
        with site.link.connect() as raw, context.wrap_socket(raw, server_hostname="hostb") as connection:
            connection.sendall(b"\0" * 7 + b"\1x")
            return connection.recv(1) == b"\x06"
    except (ssl.SSLError, ConnectionError):  # asyncio refuses with an alert, a close or a reset
        return False
