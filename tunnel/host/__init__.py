"""What this host's kernel and file system offer a daemon: privileges, permissions, ports, redirects.

``nftables`` is the daemon's own table, ``guard_route`` keeps other programs off the addresses of peers,
``reserved_ports`` off ports; ``landlock`` and ``privileges`` give up what is not needed, ``permissions``
judges who may write a file; ``descriptors`` and ``malloc`` set limits of this process; ``users`` names uids.

Nothing here knows the configuration, links or lanes.
"""
