"""Interfaces to the kernel and file system of this host: privileges, permissions, ports, redirects.

``nftables`` manages the daemon's own table, ``guard_route`` keeps other programs off the addresses of peers,
``reserved_ports`` off ports; ``landlock`` and ``privileges`` drop rights, ``permissions`` checks who can
write a file; ``descriptors`` and ``malloc`` tune this process; ``users`` maps uids to names.

Independent of the configuration, links and lanes.
"""
