"""Filters with names for ``taps``: wavelets, windows and windowed sincs, which sum to 1.

Wavelets have the names of PyWavelets, windows those of ``scipy.signal``; the number after a window
is its number of taps. ``docs/filters.md`` has the sources and ``tests/layers/test_filters.py``
compares every filter with theirs.
"""

from __future__ import annotations

Row = tuple[float, ...]


def _odd(*half: float) -> Row:
    """The symmetric row of odd length that begins with this half; the last is the middle."""
    return (*half, *half[-2::-1])


def _even(*half: float) -> Row:
    """The symmetric row of even length that begins with this half."""
    return (*half, *half[::-1])


# Wavelets: pywt.Wavelet(name).rec_lo without its outer zeros, divided by the square root of 2.
# Left out zeros change nothing: "same" padding then begins at the same element.
FILTERS: dict[str, Row] = {
    "haar": (0.5, 0.5),
    "db2": (0.3415063509461096, 0.5915063509461096, 0.15849364905389035, -0.09150635094610966),
    "db3": (
        *(0.23523360389208187, 0.5705584579157218, 0.3251825002631163),
        *(-0.09546720778416369, -0.06041610415519811, 0.024908749868441868),
    ),
    "db4": (
        *(0.16290171402564918, 0.5054728575459144, 0.4461000691233798, -0.01978751311782232),
        *(-0.13225358368451987, 0.021808150237088625, 0.023251800535490877),
        -0.007493494665180735,
    ),
    "db5": (
        *(0.11320949129177918, 0.42697177135251413, 0.5121634721295986, 0.09788348067390468),
        *(-0.17132835769146743, -0.022800565941773647, 0.05485132932106682),
        *(-0.004413400054179127, -0.008895935050977095, 0.0023587139695339355),
    ),
    "db6": (
        *(0.07887121600145072, 0.3497519070376178, 0.5311318799408691, 0.2229156614650178),
        *(-0.15999329944606142, -0.09175903203014758, 0.0689440464873723),
        *(0.019461604854164663, -0.022331874165094537, 0.0003916255761485779),
        *(0.003378031181463938, -0.0007617669028012533),
    ),
    "bior2.2": _odd(0.25, 0.5),
    "bior3.3": _even(0.125, 0.375),
    "bior4.4": _odd(
        *(-0.04563588155695436, -0.02877176311397122, 0.29563588155670434, 0.5575435262284425)
    ),
    "bior5.5": _odd(
        *(0.009515330511, -0.001905629356, -0.096666153049),
        *(-0.066117805605, 0.337150822538, 0.636046869922),
    ),
    "rbio2.2": _odd(-0.125, 0.25, 0.75),
    "rbio3.3": _even(0.046875, -0.140625, -0.109375, 0.703125),
    "rbio4.4": _odd(
        *(0.026748757411, -0.016864118443, -0.078223266529, 0.266864118443, 0.602949018236)
    ),
    "rbio5.5": _odd(
        *(0.028063009296, 0.005620161515, -0.038511714155, 0.244379838485, 0.520897409718)
    ),
    # scipy.signal.windows, divided by their sums.
    "boxcar2": _even(1 / 2),
    "boxcar3": _odd(1 / 3, 1 / 3),
    "boxcar4": _even(1 / 4, 1 / 4),
    "triang3": _odd(1 / 4, 2 / 4),
    "triang4": _even(1 / 8, 3 / 8),
    "triang5": _odd(1 / 9, 2 / 9, 3 / 9),
    # scipy.signal.firwin(n, 0.5, window=("kaiser", beta)).
    "kaiser6": _even(-0.05748202448956992, 0.12654425519333481, 0.4309377692962351),
    "kaiser12": _even(
        *(0.0020289664498962428, 0.00938946394406788, -0.025543464065294664),
        *(-0.05765737547536496, 0.12857260908132878, 0.44320980006536675),
    ),
}


def named(name: str, value: str) -> Row:
    """The filter of this name; ``name`` is the argument that an error names.

    Raises:
        ValueError: no filter has this name.
    """
    if value not in FILTERS:
        known = ", ".join(map(repr, FILTERS))
        raise ValueError(f"{name} must be numbers or one of {known}, got {value!r}")
    return FILTERS[value]
