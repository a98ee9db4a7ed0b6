"""The daemon of one host: configuration, startup checks, lifecycle, control socket.

``config`` reads the file: ``config_types`` parses the values, ``cross_checks`` finds contradictions,
``units`` parses sizes and durations, ``config_errors`` formats messages. ``preflight`` checks certificates,
sockets, ports and the kernel. ``service`` creates links, ingresses, dialers and the lane acceptor, and shuts
them down in order; ``redirects`` maintains the firewall rules, ``control_socket`` serves ``mtunnel status``,
``logs`` sets up logging. ``uris`` and ``targets`` derive from a configuration the URIs for libvirt and QEMU,
and the targets that a migration will request from the peer; only commands use them.

This package does not handle payload and calls no hypervisor. Human-readable output belongs to ``cli``.
"""
