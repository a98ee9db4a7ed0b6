"""The TLS 1.3 record layer of userspace lanes, starting from the secrets of a handshake.

``key_schedule`` derives keys, also for kernel lanes; ``record_io`` moves records between a lane's queue and
its socket; ``record_sealer`` and ``record_opener`` encrypt and decrypt; ``record_layer`` processes what is
not data, with ``tls_messages`` (alerts, handshake messages). ``compiled_records`` and ``compiled_io``
are the same on the compiled engine. ``slabs`` pools payload buffers, last in, first out.

Handshakes, certificates and frames do not belong here.
"""
