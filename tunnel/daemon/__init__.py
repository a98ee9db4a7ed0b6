"""The daemon of one host: its configuration, the checks before its start, its lifetime, its control socket.

``config`` reads the file: ``config_types`` each value, ``cross_checks`` what contradicts what, ``units``
sizes and durations, ``config_errors`` the messages. ``preflight`` checks certificates, sockets, ports and the
kernel. ``service`` makes links, ingresses, dialers and the lane acceptor, and ends them in order;
``redirects`` keeps the firewall rules, ``control_socket`` answers ``mtunnel status``, ``logs`` sets up
logging. ``uris`` and ``targets`` derive from a configuration what libvirt and QEMU have to be told, and what
a migration will ask of the peer; only commands use them.

Payload does not pass here, and nothing here calls a hypervisor. Output for people belongs to ``cli``.
"""
