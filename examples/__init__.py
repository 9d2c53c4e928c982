"""Example scripts; `examples.figures` is the only one that runs with `python -m`."""
