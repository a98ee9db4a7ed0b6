"""A private certificate authority and host certificates, ``tunnel.certs`` once installed.

``authority`` is a CA in a directory: it makes itself and issues pairs of certificate and key. ``profile``
says what such certificates contain, ``pair_files`` writes a pair (both or neither, the key unreadable for
others), ``subject_names`` checks host names and addresses, ``facts`` reads certificates for ``mtunnel certs
show``.

Only commands, benchmarks and tests use it. The daemon reads PEM files with ``tunnel.tls.contexts`` and must
not import this package; certificates of another CA serve as well.
"""
