"""GPU times of replayed CUDA graphs, by events on a stream that is kept busy."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from statistics import median
from typing import Any

from mmvq_cli.measure.timer import Overheads

_MAX_LEAD_REPLAYS = 64
_OVERHEAD_SAMPLES = 20
_EAGER_TURNS = 5
_EAGER_LAUNCHES = 256


class GraphTimer:
    """Times a fixed sequence of launches as one CUDA graph on the current device.

    `enqueue(i, stream)` enqueues launch i of 0..launches_per_sample-1 on a CuPy stream, without allocating or
    synchronizing. It is called once per launch before the capture, so that lazy loading stays out of the graph. Build
    the kernels and inputs first and keep the arrays alive and unchanged: the graph holds their addresses.
    Raises `LaunchError` when the device reports a failure.
    """

    def __init__(self, enqueue: Callable[[int, Any], None], launches_per_sample: int) -> None:
        from mmvq_cli.engine.cuda.device import import_cupy  # here: importing this module must not need CuPy

        cupy = import_cupy()
        self.launches_per_sample = launches_per_sample
        self._enqueue = enqueue
        self._clock_ns = time.perf_counter_ns
        with _launch_errors():
            # A non-blocking stream does not wait for the default one, where the inputs were made.
            cupy.cuda.runtime.deviceSynchronize()
            self._stream = cupy.cuda.Stream(non_blocking=True)
            self._start, self._stop = cupy.cuda.Event(), cupy.cuda.Event()
            self._elapsed_ms = cupy.cuda.get_elapsed_time
            self._run_eagerly(launches_per_sample)
            self._graph = self._captured(self._enqueue_all)
        self._lead_replays = 1

    def sample(self) -> float:
        """Replay the graph once; GPU ns per launch."""
        elapsed_ns, self._lead_replays = self._behind_work(self._enqueue_replay, self._lead_replays)
        return elapsed_ns / self.launches_per_sample

    def overheads(self, time_ns: float) -> Overheads:
        """Medians of the isolated latency, of an empty event pair, and of the eager cost above `time_ns`."""
        return Overheads(
            isolated_latency_ns=self.isolated_latency_ns(),
            event_overhead_ns=self.event_overhead_ns(),
            launch_overhead_ns=self.launch_overhead_ns(time_ns),
        )

    def isolated_latency_ns(self, n_samples: int = _OVERHEAD_SAMPLES) -> float:
        """Median GPU ns of launch 0 alone, from event to event.

        Launch 0 follows a whole turn of the sequence there, as in the samples, so it is as cold as they are.
        """
        return self._median_behind_work(lambda: self._enqueue(0, self._stream), n_samples)

    def event_overhead_ns(self, n_samples: int = _OVERHEAD_SAMPLES) -> float:
        """Median GPU ns between two events with nothing between them."""
        return self._median_behind_work(lambda: None, n_samples)

    def launch_overhead_ns(self, time_ns: float) -> float:
        """Median wall ns per launch when enqueued one by one, less `time_ns` per launch of the graph."""
        n_launches = min(self.launches_per_sample, _EAGER_LAUNCHES)
        turns_ns = []
        for _ in range(_EAGER_TURNS):
            start_ns = self._clock_ns()
            with _launch_errors():
                self._run_eagerly(n_launches)
            turns_ns.append(self._clock_ns() - start_ns)
        return median(turns_ns) / n_launches - time_ns

    def replay(self) -> None:
        """Run the whole sequence once and wait for its end."""
        with _launch_errors():
            self._enqueue_replay()
            self._stream.synchronize()

    def _enqueue_replay(self) -> None:
        self._graph.launch(self._stream)

    def _enqueue_lead(self) -> None:
        """Enqueue what the GPU does before a measured time."""
        self._enqueue_replay()

    def _enqueue_all(self) -> None:
        for i in range(self.launches_per_sample):
            self._enqueue(i, self._stream)

    def _run_eagerly(self, n_launches: int) -> None:
        for i in range(n_launches):
            self._enqueue(i, self._stream)
        self._stream.synchronize()

    def _captured(self, body: Callable[[], None]) -> Any:
        """A graph of what `body` enqueues, ready to be launched."""
        self._stream.begin_capture()
        try:
            body()
        except BaseException:
            with suppress(Exception):  # an open capture would break every later call; its own error says less
                self._stream.end_capture()
            raise
        graph = self._stream.end_capture()
        graph.upload(self._stream)
        return graph

    def _median_behind_work(self, body: Callable[[], None], n_samples: int) -> float:
        samples_ns = []
        lead_replays = 1
        for _ in range(n_samples):
            elapsed_ns, lead_replays = self._behind_work(body, lead_replays)
            samples_ns.append(elapsed_ns)
        return median(samples_ns)

    def _behind_work(self, body: Callable[[], None], lead_replays: int) -> tuple[float, int]:
        """GPU ns of what `body` enqueues, and how many leads (replays) had to run before it.

        They keep the GPU busy until everything is queued; else the time would contain the CPU's enqueueing. The
        start event proves it: when it has happened before the CPU is done, the try is repeated behind more work.
        """
        with _launch_errors():
            while True:
                for _ in range(lead_replays):
                    self._enqueue_lead()
                self._start.record(self._stream)
                body()
                self._stop.record(self._stream)
                was_late = self._start.done
                self._stop.synchronize()
                if not was_late or lead_replays >= _MAX_LEAD_REPLAYS:
                    return self._elapsed_ms(self._start, self._stop) * 1e6, lead_replays
                lead_replays *= 2


class FlushTimer(GraphTimer):
    """Times each launch by itself, after a flush of the cache; a sample is the mean over the launches.

    `flush(stream)` enqueues the flush, `before_sample()` is called on the idle device before each sample. The rest is
    as in `GraphTimer`. A sample holds the overhead of a pair of events.
    """

    def __init__(
        self,
        enqueue: Callable[[int, Any], None],
        launches_per_sample: int,
        flush: Callable[[Any], None],
        before_sample: Callable[[], None],
    ) -> None:
        super().__init__(enqueue, launches_per_sample)
        self._before_sample = before_sample
        with _launch_errors():
            self._flush = self._captured(lambda: flush(self._stream))
            self._launches = [self._captured(partial(enqueue, i, self._stream)) for i in range(launches_per_sample)]

    def sample(self) -> float:
        """Flush and launch, each launch once; GPU ns per launch."""
        self._before_sample()
        total_ns = 0.0
        for launch in self._launches:
            elapsed_ns, self._lead_replays = self._behind_work(partial(launch.launch, self._stream), self._lead_replays)
            total_ns += elapsed_ns
        return total_ns / self.launches_per_sample

    def _enqueue_lead(self) -> None:
        self._flush.launch(self._stream)


def _launch_errors() -> AbstractContextManager[None]:
    from mmvq_cli.engine.cuda.launch import launch_errors

    return launch_errors("in the timed sequence")
