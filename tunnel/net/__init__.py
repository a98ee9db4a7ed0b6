"""Sockets: options, accepting, connecting, pipes, and who is at the other end of a local connection.

``sockets`` has the options and the ways to close; ``listener`` accepts, ``connect`` dials a name,
``unix_path`` a unix socket; ``pipes`` are for splice; ``peer_credentials`` (with ``conntrack`` and
``netlink``) finds the uid of a caller; ``hangup`` notices that a socket is dead, ``token_bucket`` and
``iterations`` bound work.

Nothing here knows TLS, frames, peers or the configuration.
"""
