"""``mtunnel demo``: moves a real guest through two daemons on this machine, and verifies that it arrived.

``demonstration`` has the command's options, ``rehearsal`` does it, ``two_daemons`` starts the hosts,
``display`` shows progress.

What other commands need does not belong here.
"""
