"""How stable a network is when its input moves: the measures of the anti-aliasing literature.

==================================  ==============================================================
:func:`shift_consistency`           how often one image, shifted twice, is given the same class
:class:`ShiftConsistency`           the same, batch by batch: ``update``, ``compute``, ``reset``
:func:`stability_curve`             the probability of the right class along a diagonal of shifts
:func:`feature_similarity`          features of an object anywhere on a canvas, against one place
:func:`shift_equivariance`          what a strided 1-D layer does to a signal as it is shifted
==================================  ==============================================================

Each runs a model without gradients and in eval mode, leaves it as it was, and returns a frozen
dataclass with the figure, the values for each image, a ``str()`` for people and ``plot(ax=None)``,
which alone needs matplotlib (``pip install "fastblur[plot]"``).
"""

from .equivariance import ShiftEquivariance, shift_equivariance
from .shift import Consistency, ShiftConsistency, shift_consistency
from .similarity import FeatureSimilarity, feature_similarity
from .stability import StabilityCurve, stability_curve

__all__ = [
    "Consistency",
    "FeatureSimilarity",
    "ShiftConsistency",
    "ShiftEquivariance",
    "StabilityCurve",
    "feature_similarity",
    "shift_consistency",
    "shift_equivariance",
    "stability_curve",
]
