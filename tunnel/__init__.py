"""mtunnel: moves running virtual machines between hypervisors, encrypted, over one port.

Each host runs one daemon. Its main terms:

- a *stream* is one relayed connection of a hypervisor (RAM, a multifd channel, an NBD disk, libvirt's RPC);
- a *session* is the protocol state of all streams between two hosts, without I/O;
- a *lane* is one TLS connection that carries frames of a session; a session has one or more;
- a *link* is all that a host has with one peer: a session, its lanes, and a pump for each stream;
- a *pump* owns the local socket of one stream: it reads when the session allows it, and writes what arrived.

An ingress accepts local connections for a peer, an egress connects to local targets for it. Packages, lowest
first: ``wire`` (protocol), ``net``, ``records``, ``tls`` and ``lanes`` (sockets to lanes), ``relay`` (links
and pumps), beside it ``virt`` (libvirt, QEMU), then ``daemon``, then ``cli``; ``certs`` and ``bench`` beside
them. Imports point downward only. This package itself has ``errors.py``, the tree of exceptions,
``distribution.py``, the package as installed by pip, and no code of a layer.
docs/architecture.md is the map: packages, the path of a byte, ownership, and where decisions are made.
"""
