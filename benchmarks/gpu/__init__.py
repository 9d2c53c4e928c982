"""Checks and timings on one NVIDIA GPU: ``python benchmarks/gpu/run.py --help``."""
