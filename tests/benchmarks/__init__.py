"""Benchmarks of the suite: what a machine makes of it, in figures."""
