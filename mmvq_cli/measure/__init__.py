"""Times that can be trusted: cold rotation, timers, sampling, statistics, canaries and the state of the machine."""

from mmvq_cli.measure.bound import Bound, bound_of
from mmvq_cli.measure.canary import Canary, CanaryBench
from mmvq_cli.measure.cpu_canary import CpuCanary, last_level_cache_bytes
from mmvq_cli.measure.cuda_canary import CudaCanary
from mmvq_cli.measure.cuda_timer import FlushTimer, GraphTimer
from mmvq_cli.measure.flush import CpuFlush, CudaFlush
from mmvq_cli.measure.lock import device_lock
from mmvq_cli.measure.measurement import Measurement, measure
from mmvq_cli.measure.nvml import THROTTLED, Conditions, DeviceState, Nvml, Watch, open_nvml
from mmvq_cli.measure.rotation import (
    CacheMode,
    Rotation,
    Step,
    Weights,
    cold_rotation,
    flush_rotation,
    hot_rotation,
)
from mmvq_cli.measure.slowdown import with_extra_launches, with_idle_time
from mmvq_cli.measure.statistics import MedianInterval, Summary, median_interval, summarize
from mmvq_cli.measure.stopping import Samples, SamplingSettings, StopReason, sample_until
from mmvq_cli.measure.timer import Overheads, Timer
from mmvq_cli.measure.validity import MAX_DRIFT, drift, least_stream_gb_s, stream_problems
from mmvq_cli.measure.wall_timer import WallTimer

__all__ = [
    "MAX_DRIFT",
    "THROTTLED",
    "Bound",
    "CacheMode",
    "Canary",
    "CanaryBench",
    "Conditions",
    "CpuCanary",
    "CpuFlush",
    "CudaCanary",
    "CudaFlush",
    "DeviceState",
    "FlushTimer",
    "GraphTimer",
    "Measurement",
    "MedianInterval",
    "Nvml",
    "Overheads",
    "Rotation",
    "Samples",
    "SamplingSettings",
    "Step",
    "StopReason",
    "Summary",
    "Timer",
    "WallTimer",
    "Watch",
    "Weights",
    "bound_of",
    "cold_rotation",
    "device_lock",
    "drift",
    "flush_rotation",
    "hot_rotation",
    "last_level_cache_bytes",
    "least_stream_gb_s",
    "measure",
    "median_interval",
    "open_nvml",
    "sample_until",
    "stream_problems",
    "summarize",
    "with_extra_launches",
    "with_idle_time",
]
