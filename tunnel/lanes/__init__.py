"""Lanes: TLS connections that carry frames, of two kinds.

``lane`` is the interface of all lanes: read it first. ``base_lane`` is their common part (send queue, read
quantum, close), over ``wire.lane_protocol``; ``userspace_lane`` and ``kernel_lane`` are the two kinds,
``lane_factory`` makes them, ``quanta`` sizes their batches. For kernel lanes: ``kernel_tls``,
``kernel_tls_selftest``, ``kernel_payload`` (in pipes). Which kind costs less: ``lane_meter``, ``lane_paths``.

Nothing here holds streams or sessions, reads the configuration file, or authorizes anything: a lane passes
frames and payload to its handler.
"""
