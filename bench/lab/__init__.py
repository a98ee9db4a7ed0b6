"""The two-host lab: two hypervisor hosts on this machine, to migrate guests between.

``lab`` manages both hosts; ``host`` is one of them, in its ``namespaces``, with files laid out by
``layout`` as ``host_plan`` says, certificates from ``pki``, and a ``firewall``. On it run ``libvirtd``,
``daemons`` (mtunnel's, with ``configs``), ``programs`` and ``guests`` (``domain``, ``disks``). ``wires``
creates the links between them, ``background`` keeps a lab up after its command, ``lab_app`` is the command.
End-to-end tests and ``bench migrate`` use it; it contains no measurements and no reports, and the product
does not import it.

Each host has network, mount, UTS and PID namespaces of its own, and in them a libvirtd with its own
``host_uuid``, /etc, /run and certificates, and a firewall that leaves TCP port 16515 open and nothing else.
Everything ends with the process that made the lab, even when that is killed; only a directory remains, which
the next lab there removes. It needs root, and the packages that ``./run`` installs (``requirements.py``)::

    from tunnel.bench.lab.configs import Ingress
    from tunnel.bench.lab.disks import Disk
    from tunnel.bench.lab.lab import Lab

    with Lab(Path("/tmp/lab"), congestion="cubic") as lab:           # a short absolute path
        guest = lab.start_guest("web1", memory=256 * MIB, disks=[Disk(16 * MIB), Disk(16 * MIB, "qcow2")])

        # Natively, with additional ports open in the firewall.
        lab.b.firewall.open(16509, "49152-49215")                    # libvirt's RPC, and QEMU's ports
        guest.prepare_disks(lab.b)
        lab.a.virsh("migrate", "--live", "--copy-storage-all", "web1", "qemu+tcp://hostb.lab/system")
        assert lab.states("web1") == ("shut off", "running")         # on A, on B; or "absent", "paused", ...
        guest.verify(lab.b)                                          # every page, every disk, the heartbeat
        lab.reset()                                                  # no guests, no daemons, firewall closed

        # Through mtunnel, with the firewall unchanged.
        guest = lab.start_guest("web1", persistent=False)
        lab.start_daemons([Ingress("hostb", "tcp:127.0.1.2:49152")]) # both, linked
        uri = f"qemu+unix:///system?socket={lab.b.libvirt_socket}"   # B's libvirtd, not over the network
        lab.a.virsh("migrate", "--live", "web1", uri, "--migrateuri", "tcp://127.0.1.2:49152",
                    "--listen-address", "127.0.0.1")
        guest.verify(lab.b)
        assert not lab.b.firewall.refused()                          # {port: packets dropped}

Further methods:

- ``lab.runner("web1")`` returns the one host that runs it, or raises LabError.
- ``lab.allow_postcopy()`` must precede the start of a guest that is to migrate in post-copy mode.
- ``host.run``, ``host.virsh`` and ``host.start`` run programs in a host; ``start`` does not wait, and returns
  an object with ``wait``, ``signal``, ``stop``, ``kill``, ``running``, ``output()`` and ``pid``.
- ``host.libvirtd`` can be stopped, killed, restarted and reconfigured; ``host.kill_qemu("web1")``.
- ``host.start_daemon(config)`` takes a ``configs.LabConfig``, or text, and returns a ``daemons.Daemon`` with
  ``status``, ``link``, ``wait_linked``, ``signal``, ``stop``, ``kill``, ``restart`` and ``log``.
- ``host.firewall`` opens and closes ports, drops all traffic, and counts refused connections.
- ``host.state("web1")``, ``host.job("web1")`` and ``host.guests()`` query its libvirtd.
- ``lab.shape(10**9)`` limits eth0 to 1 Gbit/s each way; ``lab.end_guest("web1")`` frees its name.
- ``host.plan`` has names and addresses; ``host.plan.outside("/run/…")`` is the path outside of the host.

Create a lab, and call its methods, in the main thread and outside of coroutines: its hosts end with the
thread that started them, and ``LabGuest`` runs its own event loop.
"""
