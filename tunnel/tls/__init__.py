"""Authentication: certificates, trusted authorities, and the TLS 1.3 handshakes of lanes.

``contexts`` builds the TLS contexts of a host from files that ``tls_files`` reads; ``handshake`` derives the
keys of a lane, with ``openssl`` in memory; ``trust`` verifies chains, ``rejections`` explains refusals,
``verified_chains`` keeps the chains of both ends, ``expiry`` warns of expiry. ``lane_kinds``: userspace or
kernel encryption, and what each costs on this host.

What happens on a connection after its handshake does not belong here, nor does authorization.
"""
