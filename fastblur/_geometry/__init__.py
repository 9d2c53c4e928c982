"""What a call computes, apart from its input: sizes, paddings and taps, checked.

``geometry.py`` has pooling in two dimensions, ``volume.py`` in three, ``upsampling.py`` the blur's
transpose, ``filters.py`` the filters that have names, and ``checks.py`` what their arguments have
in common.
"""

from .checks import (
    DTYPES,
    FILTER_SIZE,
    MAX_POOL,
    MAX_TAPS,
    PADDING_MODES,
    BlurPadding,
    IntOrPair,
    PaddingMode,
    Pair,
    Taps,
    TapsArgument,
    binomial_taps,
    check_not_empty,
    check_scalar,
    check_stride,
    is_integer,
    is_sequence,
    tap_row,
)
from .geometry import FIELDS, Geometry

__all__ = [
    "DTYPES",
    "FIELDS",
    "FILTER_SIZE",
    "MAX_POOL",
    "MAX_TAPS",
    "PADDING_MODES",
    "BlurPadding",
    "Geometry",
    "IntOrPair",
    "PaddingMode",
    "Pair",
    "Taps",
    "TapsArgument",
    "binomial_taps",
    "check_not_empty",
    "check_scalar",
    "check_stride",
    "is_integer",
    "is_sequence",
    "tap_row",
]
