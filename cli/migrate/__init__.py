"""``mtunnel migrate``: migrate a guest to a peer, with checks before and after.

``command`` defines the options, ``order`` holds their values, ``run`` executes the migration. ``readiness``
contains the checks before it, ``output`` the text and JSON output, ``link_monitor`` the state of the link as
the daemon reports it meanwhile.

Code that other commands need does not belong here, nor calls to hypervisors.
"""
