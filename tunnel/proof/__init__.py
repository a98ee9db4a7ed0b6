"""Verification that a guest arrived unchanged: a guest with known memory contents, compared page by page.

``pattern_guest`` is a small kernel that fills its memory with a pattern (guest.asm), ``pattern`` and
``verify`` compare every page, ``verified_pair`` runs a verified migration between two QEMUs (``qemu``,
``accelerator``). ``free_port`` finds ports for those that listen,
``config_text`` writes configurations of daemons,
``cpu_time`` reads what processes used.

Only demonstrations, benchmarks and tests need this package.
"""
