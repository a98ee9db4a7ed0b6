"""Benchmarks that anyone can run: contestants side by side, as ratios."""
