"""mtunnel: moves running virtual machines between hypervisors, encrypted, over one port.

Each host runs one daemon. Five nouns name what it is made of:

- a *stream* is one relayed connection of a hypervisor (RAM, a multifd channel, an NBD disk, libvirt's RPC);
- a *session* is the protocol's state for all streams between two hosts, without I/O;
- a *lane* is one TLS connection that carries frames of a session; a session has one or several;
- a *link* is all that a host has with one peer: a session, its lanes, and a pump for each stream;
- a *pump* owns the local socket of one stream: it reads when the session says so, and writes what arrived.

An ingress accepts local connections for a peer, an egress connects to local targets for it. Packages, lowest
first: ``wire`` (protocol), ``transport`` (sockets, TLS, lanes), ``relay`` (links and pumps), beside it
``virt`` (libvirt, QEMU), then ``daemon``, then ``cli``; ``certs`` and ``bench`` stand beside them. Imports
point downward only. This package itself holds ``errors.py``, the tree of exceptions, ``distribution.py``, the
package as pip knows it, and no code of a layer.
docs/architecture.md is the map: packages, the way of a byte, who owns what, where things are decided.
"""
