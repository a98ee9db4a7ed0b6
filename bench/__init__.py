"""Benchmarks that anyone can run, ``tunnel.bench`` once installed: contestants side by side, as ratios.

``app`` has the commands. ``measure`` runs contestants and writes result files (JSON lines in bench/results),
``report`` reads them and makes tables, charts and pages; ``lab`` is two hypervisor hosts on this machine.

Nothing that the daemon needs may enter, and the product does not import it. A figure is compared within one
run only, and counts only when the bytes, or the guest's pages, were checked.
"""
