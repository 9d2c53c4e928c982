"""Counts the operations of the layers as those of the convolution that they replace.

``torch.utils.flop_counter`` knows the operators, in whatever order it and fastblur are imported.
fvcore has no table that a package can add to, so :func:`fvcore_handles` returns what its analysis
takes.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._dispatch.operators import Operators

__all__ = ["fvcore_handles"]

_COUNTER = "torch.utils.flop_counter"
# Where an operator of each kind has its taps among its arguments; see _dispatch/operators.py.
_TAPS = {"forward": 4, "backward": 6, "apply": 5}


def fvcore_handles() -> dict[str, Callable[[list[Any], list[Any]], int]]:
    """What ``fvcore.nn.FlopCountAnalysis`` needs to count the layers.

    Returns:
        For the name of each operator in a model's forward a handle. fvcore counts multiply-adds, so
        a handle returns ``numel(y) * f_h * f_w``, as fvcore's own does for the depthwise
        convolution; of an upsampling, ``y`` is the input, as for a transposed convolution.

    Example:
        >>> from fastblur.flops import fvcore_handles
        >>> sorted(fvcore_handles())
        ['fastblur::blur_upsample', 'fastblur::max_blur_pool_forward',
         'fastblur::triton_blur_upsample', 'fastblur::triton_max_blur_pool_forward']

        ``FlopCountAnalysis(model, x).set_op_handle(**fvcore_handles())``
    """
    return {
        f"fastblur::{family}{name}": handle
        for family in ("", "triton_")
        for name, handle in (
            ("max_blur_pool_forward", _fvcore_forward),
            ("blur_upsample", _fvcore_upsample),
        )
    }


def _fvcore_forward(inputs: list[Any], outputs: list[Any]) -> int:
    return _fvcore(outputs[0], inputs[_TAPS["forward"] :])


def _fvcore_upsample(inputs: list[Any], outputs: list[Any]) -> int:
    return _fvcore(inputs[0], inputs[_TAPS["forward"] :])


def _fvcore(y: Any, taps: list[Any]) -> int:
    # A list in a graph is a node with an input for each entry.
    taps_h, taps_w = (list(value.node().inputs()) for value in taps[:2])
    return _multiply_adds(y.type().sizes(), taps_h, taps_w)


def register(operators: Operators) -> None:
    """Tells ``torch.utils.flop_counter`` what the operators of a family count as.

    A multiply-add is two operations there. Max, padding and ReLU count as nothing, so a fused model
    counts as the unfused one does.
    """

    def tell(counter: Any) -> None:
        # This runs inside a user's import of the counter, which must not fail because of fastblur.
        with contextlib.suppress(Exception):
            for name, first in _TAPS.items():
                counter.register_flop_formula(operators.named(name))(_formula(name, first))

    _when_imported(_COUNTER, tell)


def _when_imported(name: str, tell: Callable[[Any], None]) -> None:
    """Calls ``tell`` with the module once it is imported.

    It does not import the module itself, because torch's counter imports Triton.
    """
    if name in sys.modules:
        tell(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Importer(name, tell))


class _Importer(MetaPathFinder):
    """Finds one module through the other finders, and calls ``tell`` after its code has run."""

    def __init__(self, name: str, tell: Callable[[Any], None]) -> None:
        self._name, self._tell = name, tell
        self._searching = False  # whether the other finders are being asked

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != self._name or self._searching:
            return None
        self._searching = True
        try:
            spec = find_spec(name)
        finally:
            self._searching = False
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_tell(module: Any) -> None:
                run(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                self._tell(module)

            spec.loader.exec_module = run_and_tell  # type: ignore[method-assign]
        return spec


def _formula(name: str, first: int) -> Callable[..., int]:
    def formula(*arguments: Any, out_shape: Any = None, **_: Any) -> int:
        # The size of y. Forward returns (y, codes); backward's first argument is y's gradient.
        size = {"forward": out_shape and out_shape[0], "backward": arguments[0]}
        return 2 * _multiply_adds(size.get(name, out_shape), *arguments[first : first + 2])

    return formula


def _multiply_adds(size: Sequence[int], taps_h: Sequence[Any], taps_w: Sequence[Any]) -> int:
    return prod(size) * len(taps_h) * len(taps_w)
