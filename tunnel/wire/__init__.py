"""The protocol without I/O: frames, sessions, streams, flow control, scheduling. SPEC.md is its full text.

``session`` holds all streams of two hosts. A link feeds it what lanes received and asks it what a lane is to
send next. Below it, ``stream`` is one stream: three state machines (tables in ``states``), two windows
(``window``), reassembly (``reassembly``), and what is kept for replay. ``scheduler`` picks the stream that
sends next, ``control_channel`` numbers and repeats control frames, ``probes`` asks about targets. One lane is
a ``lane_protocol``: its state, PING, PONG and GOAWAY. ``decoder`` cuts its bytes into frames, which
``frames`` describes, ``keepalive`` says when to PING. ``negotiation`` agrees on version and features.
``events`` are what a session reports.

No socket, event loop, clock, random number or logger may enter: ids and times are arguments. Payload is
opaque (``payload``): its length is used, parts of it, and a copy of what came early; it may be a pipe.
"""
