"""Wall-clock times of an engine whose launches end when they return (the CPU engine)."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle

from mmvq_cli.measure.timer import Overheads


class WallTimer:
    """Times one `enqueue(i)` a sample, with i running through 0..n_launches-1 again and again.

    `before_launch` is called before each, outside the time: it may flush the caches.
    """

    launches_per_sample = 1

    def __init__(
        self,
        enqueue: Callable[[int], None],
        n_launches: int,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
        before_launch: Callable[[], None] | None = None,
    ) -> None:
        self._enqueue = enqueue
        self._before_launch = before_launch
        self._steps = cycle(range(n_launches))
        self._clock_ns = clock_ns

    def sample(self) -> float:
        """Run the next launch; ns from call to return."""
        step = next(self._steps)
        if self._before_launch:
            self._before_launch()
        start_ns = self._clock_ns()
        self._enqueue(step)
        return float(self._clock_ns() - start_ns)

    def overheads(self, time_ns: float) -> Overheads:
        """Nothing to tell apart: the call is the launch."""
        return Overheads()
