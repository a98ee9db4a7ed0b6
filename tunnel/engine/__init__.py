"""The compiled engine: C that makes and opens TLS 1.3 records in batches, for userspace lanes; optional.

``choice`` says which engine a daemon uses, and why: this one, or the Python of ``transport`` where it was
not built, or where its libraries would be slower. ``build`` compiles ``ciphers.c``, ``records.c`` and
``transfer.c`` when mtunnel is installed; ``binding`` declares their functions to Python, by cffi;
``selftest`` compares them with ``cryptography`` before they are used. ``compiled`` makes records in memory,
``transfer`` on a socket.

Nothing here knows handshakes, alerts beyond their numbers, frames, streams or the event loop: keys come in,
bytes and reasons come out. It is imported by ``transport`` and imports nothing of mtunnel but its errors.
"""
