"""Metrics of the anti-aliasing literature: how stable a network is when its input shifts.

==================================  ==============================================================
:func:`shift_consistency`           how often one image, shifted twice, gets the same class
:class:`ShiftConsistency`           the same, batch by batch: ``update``, ``compute``, ``reset``
:func:`stability_curve`             the probability of the right class along a diagonal of shifts
:func:`feature_similarity`          similarity of an object's features over positions on a canvas
:func:`shift_equivariance`          distance of a strided 1-D layer from shift equivariance
==================================  ==============================================================

Each runs a model in eval mode without gradients and restores its mode. Each returns a frozen
dataclass with the result, the values of each image, a readable ``str()`` and ``plot(ax=None)``.
Only ``plot`` needs matplotlib (the extra ``plot``).
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
