"""Hypervisors: migrating a guest through libvirt or QEMU's monitor.

``move`` runs one migration, whoever performs it: progress, timeout, abort, on which host the guest runs. It
drives ``libvirt_move`` (with ``libvirt``, the only module that imports the library, and ``libvirt_request``)
or ``qmp_move`` (with ``qmp`` and ``qmp_migration``); ``progress`` is their common record. ``process``,
``threads`` and ``polling`` are helpers.

Nothing here knows links, lanes or the configuration: a migration gets URIs and addresses. The daemon does not
need this package.
"""
