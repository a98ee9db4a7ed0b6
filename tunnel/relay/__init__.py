"""Relay byte streams between local sockets and a peer: links, their pumps, and how streams and lanes start.

``link`` moves the bytes of a session between its lanes (from ``lanes``) and local sockets, by the rules of
``wire``, and keeps the timers. ``stream_table`` is its table of pumps, ``stream_io`` moves their payload;
``pump`` and ``spliced_pump`` each own one local socket. ``ingress`` accepts local connections and checks
their users, ``egress`` connects to local targets that the peer may reach. ``dialer`` makes outgoing lanes,
``lane_acceptor`` accepts incoming ones. ``target_check`` asks what a peer would accept, ``link_status``
reports status, ``address`` defines addresses, ``allow_list`` rules for targets.

Not allowed here: configuration files (plans such as ``LinkPlan`` come from ``daemon``), TLS records, and any
knowledge of QEMU or libvirt: a stream is bytes in two directions.
"""
