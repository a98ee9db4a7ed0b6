"""Proof that a guest arrived unchanged: a guest whose memory is known, and the comparison of every page.

``pattern_guest`` is a small kernel that fills its memory with a pattern (guest.asm), ``pattern`` and
``verify`` compare every page, ``verified_pair`` does all of it with two QEMUs (``qemu``, ``accelerator``).

Only demonstrations, benchmarks and tests need this package.
"""
