"""Sockets: options, accept, connect, and the credentials of local clients.

``sockets`` sets options and closes; ``listener`` accepts, ``connect`` dials a name, ``unix_path`` a unix
socket; ``peer_credentials`` (with ``conntrack`` and ``netlink``) finds the uid of a client; ``hangup``
detects hangups and errors; ``token_bucket`` and ``iterations`` limit work.

Independent of TLS, frames, peers and the configuration.
"""
