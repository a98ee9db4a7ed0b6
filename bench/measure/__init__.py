"""Measurements: programs side by side on one machine, each run verified and written to a result file.

``relay``, ``latency``, ``memory``, ``scale`` and ``perf_profile`` measure ``contestants`` (started by
``relay_commands``) with ``load`` as source and sink, in a ``rig``; ``guest_moves`` migrates guests in the
lab by ``migration_modes``, each measured by a ``crossing``; ``abuse``, ``cuts`` and ``rotate`` measure
mtunnel under abuse, lane resets and lane rotation. ``results`` writes the file.

Nothing here reads or renders result files.
"""
