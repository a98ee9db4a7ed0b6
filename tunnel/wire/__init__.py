"""The protocol without I/O: no sockets, clock, randomness or logging; SPEC.md here is its full text."""
