"""Trains a classifier on a folder of images, or on digits; see docs/training.md."""

from __future__ import annotations

import os
import sys

# Set before torch starts CUDA; only --deterministic needs it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

try:
    from training.options import make_parser, parse
    from training.trainer import main
except ImportError as error:
    sys.exit(f'Training needs {error.name}, which is missing: pip install "fastblur[train]"')

if __name__ == "__main__":
    parser = make_parser()
    sys.exit(main(parse(parser), parser.error))
