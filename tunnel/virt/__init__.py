"""Hypervisors: migrating a guest through libvirt or QEMU's monitor, and proving that it arrived unchanged.

``move`` runs one migration, whoever performs it: progress, timeout, abort, on which host the guest runs. It
drives ``libvirtmove`` (with ``libvirt``, the only module that imports the library, and ``request``) or
``qmpmove`` (with ``qmp`` and ``migration``); ``progress`` is their common record. The proof: ``guest`` is a
small kernel that fills its memory with a pattern (guest.asm), ``pattern`` and ``verify`` compare every page,
``trial`` does all of it with two QEMUs (``qemu``, ``accelerator``). ``process``, ``threads`` and ``polling``
are helpers.

Nothing here knows links, lanes or the configuration: a migration gets URIs and addresses. The daemon does not
need this package.
"""
