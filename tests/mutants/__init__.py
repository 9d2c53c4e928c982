"""Seeded defects of the Python layer and of the CPU kernels: proof that the tests can fail.

``python -m tests.mutants`` tries each on a copy of the tree, and prints which test caught it.
"""
