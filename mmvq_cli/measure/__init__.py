"""Times that can be trusted: cold rotation, timers, sampling, statistics and the machine's own canary."""

from mmvq_cli.measure.canary import Canary, CanaryBench
from mmvq_cli.measure.cpu_canary import CpuCanary, last_level_cache_bytes
from mmvq_cli.measure.cuda_canary import CudaCanary
from mmvq_cli.measure.cuda_timer import GraphTimer
from mmvq_cli.measure.measurement import Measurement, measure
from mmvq_cli.measure.rotation import CacheMode, Rotation, Step, Weights, cold_rotation, hot_rotation
from mmvq_cli.measure.statistics import MedianInterval, Summary, median_interval, summarize
from mmvq_cli.measure.stopping import Samples, SamplingSettings, StopReason, sample_until
from mmvq_cli.measure.timer import Overheads, Timer
from mmvq_cli.measure.wall_timer import WallTimer

__all__ = [
    "CacheMode",
    "Canary",
    "CanaryBench",
    "CpuCanary",
    "CudaCanary",
    "GraphTimer",
    "Measurement",
    "MedianInterval",
    "Overheads",
    "Rotation",
    "Samples",
    "SamplingSettings",
    "Step",
    "StopReason",
    "Summary",
    "Timer",
    "WallTimer",
    "Weights",
    "cold_rotation",
    "hot_rotation",
    "last_level_cache_bytes",
    "measure",
    "median_interval",
    "sample_until",
    "summarize",
]
