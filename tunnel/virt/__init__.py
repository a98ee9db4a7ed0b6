"""Hypervisors: migration of a guest through libvirt or QEMU's monitor.

``move`` runs one migration with either backend: progress, timeout, abort, the guest's location. It drives
``libvirt_move`` (with ``libvirt``, the only module that imports the library, and ``libvirt_request``) or
``qmp_move`` (with ``qmp`` and ``qmp_migration``); ``progress`` is their common record. ``process``,
``threads`` and ``polling`` are helpers.

Nothing here depends on links, lanes or the configuration: a migration gets URIs and addresses. The daemon
does not use this package.
"""
