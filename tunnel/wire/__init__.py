"""The protocol without I/O: frames, sessions, streams, flow control, scheduling. Specified in SPEC.md.

``session`` holds all streams of two hosts (``stream_registry``). A link feeds it what lanes received, and
takes from it what a lane sends next. ``membership`` are the rules for its lanes: which of two connections
makes the session, which lanes join, replace another or are given up; ``rotation`` replaces lanes that are up,
``recovery`` sends again what a lost lane carried. A ``stream`` has three state machines (tables in
``states``), two windows (``window``), a reassembly buffer, and the payload kept for replay. ``scheduler``
selects the stream that sends next, and bounds what is in flight; ``control_channel`` numbers and repeats
control frames, ``probes`` asks whether targets are allowed. A ``lane_protocol`` is one lane: it splits its
bytes into frames, which ``frames`` defines, and has its state, PING, PONG and GOAWAY; ``keepalive`` schedules
PING. ``negotiation`` selects version and features. ``events`` are what a session reports.

No socket, event loop, clock, random number or logger is used here: ids and times are arguments. Payload is
opaque (``payload``): only its length, parts of it, and a copy of early data are used; it may be in a pipe.
"""
