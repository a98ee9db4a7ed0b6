"""The TLS 1.3 record layer of userspace lanes, starting from the secrets of a handshake.

``key_schedule`` derives keys, also for kernel lanes; ``record_layer`` is both directions of a connection,
with ``record_sealer``, ``record_opener`` and ``tls_messages`` (alerts, handshake messages), all without I/O;
``record_io`` moves records between a lane's queue and its socket. ``compiled_records`` and ``compiled_io``
are the same on the compiled engine. ``slabs`` pools payload buffers, last in, first out.

Handshakes, certificates and frames do not belong here.
"""
