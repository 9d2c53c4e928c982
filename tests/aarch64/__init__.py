"""The CPU kernels for 64-bit Arm, compiled by a cross compiler and run by an emulator.

build.py compiles, program.py runs one call, run.py the case list; ``python -m tests.aarch64`` all.
"""
