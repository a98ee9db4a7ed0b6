"""The compiled engine: C that seals and opens TLS 1.3 records in batches, for userspace lanes; optional.

``choice`` selects the engine of a daemon: this one, or the Python of ``records`` where it was not built, or
where its libraries would be slower. ``build`` compiles the C files when mtunnel is installed; ``binding``
declares their functions to Python, by cffi; ``selftest`` compares them with ``cryptography`` before use.
``compiled`` seals and opens records in memory, ``transfer`` on a socket.

Independent of handshakes, alerts beyond their numbers, streams and the event loop: keys are its input, bytes
and reasons its output. Imports nothing of mtunnel but ``errors``.
"""
