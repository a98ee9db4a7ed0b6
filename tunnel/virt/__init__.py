"""Hypervisors: migration of a guest through libvirt or QEMU's monitor.

``move`` runs one migration with either backend: progress, timeout, abort, the guest's location. It drives
``libvirt_move`` (with ``libvirt``, the only module that imports the library) or ``qmp_move`` (with ``qmp``);
``move_options``, which ``libvirt_request`` and ``qmp_request`` translate, and ``progress`` are common to
both. ``process``, ``threads`` and ``polling`` are helpers.

Nothing here depends on links, lanes or the configuration: a migration gets URIs and addresses. The daemon
does not use this package.
"""
