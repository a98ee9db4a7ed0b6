"""Hypervisors: QEMU's monitor, migration phases, and the pattern guest that proves a move."""
