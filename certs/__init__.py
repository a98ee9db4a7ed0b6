"""A private certificate authority and host certificates, ``tunnel.certs`` once installed.

``authority`` is a CA in a directory: it creates itself and issues certificate and key pairs. ``profile``
defines the contents of these certificates, ``pair_files`` writes a pair (both files or neither, the key
readable by the owner only), ``subject_names`` checks host names and addresses, ``facts`` reads certificates
for ``mtunnel certs show``.

Only commands, benchmarks and tests use it. The daemon reads PEM files with ``tunnel.tls.contexts`` and must
not import this package; certificates from another CA work as well.
"""
