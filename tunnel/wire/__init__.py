"""The protocol without I/O: frames, sessions, streams, flow control, scheduling. SPEC.md is its full text.

``session`` holds all streams of two hosts. A link feeds it what lanes received and asks it what a lane is to
send next. Below it, ``stream`` is one stream: three state machines (tables in ``states``), two windows
(``window``), reassembly (``assembly``), and what is kept for replay. ``scheduler`` picks the stream that
sends next, ``control`` numbers and repeats control frames, ``probes`` asks about targets. ``frames`` reads
and writes frames, ``decoder`` cuts a lane's bytes into them, ``negotiation`` agrees on version and features,
``keepalive`` says when to PING. ``events`` are what a session reports.

No socket, event loop, clock, random number or logger may enter: ids and times are arguments. Payload is
opaque: only its length is used, since on kernel lanes it is a pipe and not bytes.
"""
