"""Runs timm's own scripts with fused models, unedited.

``python -m fastblur.integrations.timm_script`` goes in front of the name of the training or the
validation script. With several processes it is
``torchrun --nproc-per-node=4 -m fastblur.integrations.timm_script``.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import runpy
import sys
from collections.abc import Sequence
from typing import Any

from ._convert import Converter


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a script in which ``timm.create_model`` returns fused models."""
    parser = argparse.ArgumentParser(
        prog="python -m fastblur.integrations.timm_script",
        description="Runs a script in which timm.create_model returns fused models.",
    )
    parser.add_argument("--antialias", action="store_true", help="run antialias_ before fuse_")
    parser.add_argument("script", help="timm's train.py or validate.py, or your own")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the script")
    args = parser.parse_args(arguments)
    convert = Converter(args.antialias, {})
    # What Python does for a script that it runs itself.
    sys.argv = [args.script, *args.arguments]
    sys.path.insert(0, os.path.dirname(os.path.abspath(args.script)))

    import timm

    with contextlib.suppress(ImportError):  # an older timm
        import timm.task  # a teacher stays as it is: timm.task keeps timm's function

    create = timm.models.create_model

    @functools.wraps(create)
    def create_model(*args: Any, **kwargs: Any) -> Any:
        model = create(*args, **kwargs)
        convert(model)
        return model

    timm.create_model = timm.models.create_model = create_model
    runpy.run_path(args.script, run_name="__main__")


if __name__ == "__main__":
    main()
