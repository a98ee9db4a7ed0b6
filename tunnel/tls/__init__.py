"""Who is who: certificates, the authorities that a host trusts, and TLS 1.3 handshakes of lanes.

``contexts`` is what a host needs for all its lanes, out of files that ``tls_files`` reads; ``handshake``
makes the keys of a lane with ``openssl`` in memory; ``trust`` judges chains, ``rejections`` explains a
refusal, ``verified_chains`` keeps what both ends proved, ``expiry`` says what ends when. ``lane_kinds``: who
may encrypt after the handshake, and what that costs here.

What happens on a connection after its handshake does not belong here, nor who may do what.
"""
