"""Verification that a guest arrived unchanged: a guest with known memory contents, compared page by page.

``pattern_guest`` is a small kernel that fills its memory with a pattern (guest.asm), ``pattern`` and
``verify`` compare every page, ``verified_pair`` runs a verified migration between two QEMUs (``qemu``,
``accelerator``). ``free_port``, ``config_text``, ``local_daemon`` and ``cpu_time`` are for those who start
daemons and other programs on this machine: ports, configurations, status, CPU time.

Only demonstrations, benchmarks and tests need this package.
"""
