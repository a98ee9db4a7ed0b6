"""``mtunnel demo``: migrate a real guest through two daemons on this machine, and verify that it arrived.

``demonstration`` defines the options, ``rehearsal`` runs the migration, ``two_daemons`` starts the daemons,
``display`` shows progress.

Code that other commands need does not belong here.
"""
