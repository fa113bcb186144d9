"""A known slowdown, to prove that a gate sees it: launches that take longer by a given share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def with_extra_launches(
    enqueue: Callable[[int, Any], None], n_launches: int, share: float
) -> Callable[[int, Any], None]:
    """Let every so many launches of a sequence bring along a launch of its other half, as cold as its own.

    The sequence takes longer by `share`, rounded to whole launches, at least one.
    """
    n_extra = max(1, round(share * n_launches))

    def slowed(i: int, stream: Any) -> None:
        enqueue(i, stream)
        for _ in range((i + 1) * n_extra // n_launches - i * n_extra // n_launches):
            enqueue((i + n_launches // 2) % n_launches, stream)

    return slowed


def with_idle_time(
    enqueue: Callable[[int], None], share: float, clock_ns: Callable[[], int] = time.perf_counter_ns
) -> Callable[[int], None]:
    """Let every launch be followed by waiting for `share` of the time that it took."""

    def slowed(i: int) -> None:
        start_ns = clock_ns()
        enqueue(i)
        end_ns = clock_ns()
        while clock_ns() < end_ns + share * (end_ns - start_ns):
            pass

    return slowed
