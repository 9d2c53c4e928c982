"""The judge, the oracle, the cases: what tests/ and benchmarks/ share.

Not installed. It imports neither of them.
"""
