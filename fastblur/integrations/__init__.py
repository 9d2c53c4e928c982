"""Layers of other packages, fused: change the import and nothing else.

One module per package, imported only when it is used.
"""
