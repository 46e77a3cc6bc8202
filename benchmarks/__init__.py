"""Micro-benchmarks: `python -m benchmarks.bench_<what>`. A result is checked before it is timed."""
