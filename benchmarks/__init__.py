"""What fastblur costs, and what others cost, measured side by side.

``pytest benchmarks/`` times and weighs, ``python -m benchmarks.report`` shows what it found,
``python -m benchmarks.instruction_counts`` guards the instructions that the CPU kernels take, and
``python benchmarks/gpu/run.py`` checks and times one NVIDIA GPU within minutes.
"""
