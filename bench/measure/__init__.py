"""Measuring: programs side by side on one machine, each run checked, written to a result file.

``relay``, ``latency``, ``memory``, ``scale`` and ``perf_profile`` measure ``contestants`` (started as
``relay_commands`` says) with ``load`` as source and sink, in a ``rig``; ``guest_moves`` moves guests in the
lab by ``migration_modes``, each measured by a ``crossing``; ``abuse``, ``cuts`` and ``rotate`` measure
mtunnel while something goes on. ``results`` writes the file.

Nothing here reads result files or formats them for people.
"""
