"""TLS 1.3 records of userspace lanes, from the secrets of a handshake on.

``key_schedule`` makes keys, also for kernel lanes; ``record_layer`` is both directions of a connection, with
``record_sealer``, ``record_opener`` and ``tls_messages`` (alerts, handshake messages), all without I/O;
``record_io`` moves records between a lane's queue and its socket. ``compiled_records`` and ``compiled_io``
are the same over the compiled engine. ``slabs`` is memory for payload, used again last in, first out.

Handshakes, certificates and frames do not belong here.
"""
