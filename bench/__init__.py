"""Benchmarks that anyone can run, ``tunnel.bench`` once installed: contestants side by side, as ratios.

``app`` has the commands. ``relay``, ``latency``, ``memory`` and ``profile`` measure ``contestants`` (started
as ``recipes`` says) with ``load`` as source and sink, in a ``rig``; ``migrate`` moves guests in the ``lab``
by ``modes``, each measured by a ``crossing``. ``results`` writes result files (JSON lines in bench/results),
``resultfile`` reads them, ``summary`` and ``summary_migrate`` draw conclusions, and ``report`` with its parts
makes a ``document``, which ``page`` and ``markdown`` render.

Nothing that the daemon needs may enter, and the product does not import it. A figure is compared within one
run only, and counts only when the bytes, or the guest's pages, were checked.
"""
