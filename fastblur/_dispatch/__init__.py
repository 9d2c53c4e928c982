"""The way from a layer to the kernels of a backend.

``direct.py`` is the short way of a plain call. All others go through ``operators.py``, whose
derivatives are in ``autograd.py``. ``plain.py`` tells the two apart.
"""
