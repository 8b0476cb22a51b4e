"""Benchmarks: each prints a ratio against a baseline from one interleaved run, never an absolute limit."""
