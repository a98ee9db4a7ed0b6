"""``mtunnel migrate``: moves a guest to a peer, with checks before and after.

``command`` has the options, ``order`` what was asked for, ``run`` does it. ``readiness`` holds the checks
before, ``output`` the lines for people and programs, ``link_monitor`` the daemon's view of the link
meanwhile.

What other commands need does not belong here, nor calls to hypervisors.
"""
