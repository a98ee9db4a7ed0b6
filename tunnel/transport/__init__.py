"""Sockets and TLS: from a TCP connection to a lane that carries frames, and what this host's kernel offers.

``lane`` is the contract of all lanes: read it first. ``baselane`` is what they share (a queue,
turns of reading, the end), over ``wire.laneprotocol``; ``userspace`` and ``kernel`` are the two kinds,
``lanes`` makes them, ``pace`` sizes their batches. TLS: ``tls`` (contexts, identity),
``keyfiles``, ``openssl`` (its handshake in memory), ``handshake``, and behind that ``key_schedule``,
``tls_messages``; for userspace lanes ``record_layer``, ``record_sealer``, ``record_opener``, ``slabs``; for
kernel lanes ``ktls``, ``capability`` (self-test), ``pipes``, ``parcels``; which kind costs less:
``lanecosts``, ``lanemeter``, ``lanepaths``. The rest: ``sockets`` (options), ``listener``;
``credentials``, ``conntrack``, ``netlink`` (which user connects); ``nftables`` (redirect rules); ``heap``
(malloc).

Nothing here holds streams or sessions, reads the configuration file, or decides who may do what: a lane
passes frames and payload to its handler.
"""
