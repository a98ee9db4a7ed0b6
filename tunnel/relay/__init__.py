"""Moving bytes between local sockets and a peer: links, their pumps, and how streams and lanes come to them.

``link`` joins a session (from ``wire``) and its lanes (from ``lanes``): who sends when, lost lanes, resuming.
``stream_table`` is its table of pumps; ``pump`` and ``spliced_pump`` own one local socket each. ``ingress``
accepts local connections and checks their users, ``egress`` connects to local targets that the peer may
reach. ``dialer`` makes outgoing lanes, ``lane_acceptor`` takes incoming ones. ``target_check`` asks what a
peer would accept, ``link_status`` writes status, ``address`` has the addresses and allow rules of all of
these.

No configuration file (plans such as ``LinkPlan`` come from ``daemon``), no TLS record, and no knowledge of
QEMU or libvirt may enter: a stream is bytes in two directions.
"""
