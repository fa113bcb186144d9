"""Outliers among siblings, by medians, so that the outliers themselves do not move the scale."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_MADS = 8.0
LEAST_RATIO = 4.0
_LEAST_SIBLINGS = 4
_SCALE = 1.4826  # a normal distribution's standard deviation in MADs
_LEAST_MAD = 1e-3  # siblings that are equal to the last bit are still not infinitely precise


def outliers(values: NDArray[np.floating[Any]], both: bool = True) -> Iterator[tuple[int, float]]:
    """Yield (index, ratio to the median) of values more than 8 scaled MADs of logarithms and a factor 4 off.

    Values that are not positive and finite, and sets of fewer than 4, take no part. `both`: also those too small.
    """
    usable = np.flatnonzero(np.isfinite(values) & (values > 0))
    if len(usable) < _LEAST_SIBLINGS:
        return
    logs = np.log(values[usable].astype(np.float64))
    median = np.median(logs)
    distance = logs - median
    spread = max(_SCALE * float(np.median(np.abs(distance))), _LEAST_MAD)
    size = np.abs(distance) if both else distance
    for index in np.flatnonzero((size > MOST_MADS * spread) & (size >= np.log(LEAST_RATIO))):
        yield int(usable[index]), float(np.exp(distance[index]))
