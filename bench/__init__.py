"""Benchmarks, installed as ``tunnel.bench``: contestants side by side, compared as ratios.

``app`` has the commands. ``measure`` runs contestants and writes result files (JSON lines in bench/data),
``report`` reads them and makes tables, charts and pages; ``lab`` is two hypervisor hosts on this machine.

The daemon must not need anything in here, and the product does not import it. Figures are compared within one
run only, and count only when the bytes, or the guest's pages, were verified.
"""
