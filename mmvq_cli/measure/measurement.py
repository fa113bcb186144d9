"""One measured case: its samples, what they say, and what they stand against."""

from __future__ import annotations

from dataclasses import dataclass

from mmvq_cli.measure.canary import Canary
from mmvq_cli.measure.nvml import Conditions, Watch
from mmvq_cli.measure.rotation import Rotation
from mmvq_cli.measure.statistics import MedianInterval, Summary, median_interval, summarize
from mmvq_cli.measure.stopping import Samples, SamplingSettings, StopReason, sample_until
from mmvq_cli.measure.timer import Overheads, Timer


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The time of one case; exists only for a result that was checked and is right.

    Times are ns per launch. `rotation` says which launches a sample replays and proves how cold they are; canaries are
    None where none was run, `conditions` where nobody watched the device.
    """

    samples: Samples
    summary: Summary
    interval: MedianInterval
    launches_per_sample: int
    overheads: Overheads
    rotation: Rotation
    stream_canary: Canary | None
    matched_canary: Canary | None
    conditions: Conditions | None

    @property
    def time_ns(self) -> float:
        """The reported time: median ns per launch."""
        return self.summary.median

    @property
    def stop_reason(self) -> StopReason:
        """Which rule ended the sampling."""
        return self.samples.stop_reason

    @property
    def reuse_distance_x_l2(self) -> float:
        """Distinct weight bytes touched before one is read again, in units of the L2 size; 0 when hot."""
        return self.rotation.reuse_distance_x_l2

    @property
    def bytes_unique(self) -> int:
        """Distinct weight bytes that one launch touches, the mean over the draws."""
        return self.rotation.touched_bytes

    @property
    def gb_s_unique(self) -> float:
        """Bandwidth on `bytes_unique`, in 1e9 bytes per second."""
        return self.bytes_unique / self.time_ns

    @property
    def percent_of_canary(self) -> float | None:
        """`gb_s_unique` in percent of the size-matched canary; None without a canary that read what was written."""
        if self.matched_canary is None or not self.matched_canary.checksum_ok:
            return None
        return 100 * self.gb_s_unique / self.matched_canary.gb_s


def measure(
    timer: Timer,
    rotation: Rotation,
    settings: SamplingSettings,
    *,
    stream_canary: Canary | None = None,
    matched_canary: Canary | None = None,
    watch: Watch | None = None,
) -> Measurement:
    """Warm up, sample, and measure the overheads of the launches that `rotation` planned and `timer` replays.

    `watch` looks at the device between the samples. Raises `LaunchError` when the device fails meanwhile.
    """
    samples = sample_until(watch.between(timer.sample) if watch else timer.sample, settings)
    conditions = watch.conditions() if watch else None
    summary = summarize(samples.samples_ns)
    return Measurement(
        samples=samples,
        summary=summary,
        interval=median_interval(samples.samples_ns),
        launches_per_sample=timer.launches_per_sample,
        overheads=timer.overheads(summary.median),
        rotation=rotation,
        stream_canary=stream_canary,
        matched_canary=matched_canary,
        conditions=conditions,
    )
