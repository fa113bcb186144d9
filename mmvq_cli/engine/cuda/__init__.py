"""The CUDA engine: kernel sources to cubins, plans to launches, device facts, the oracle on the device."""

from mmvq_cli.engine.cuda.ahead import build_ahead
from mmvq_cli.engine.cuda.build import Cubin, Resources, build_cubin, nvrtc_version
from mmvq_cli.engine.cuda.device import DeviceFacts, current_device, device_facts
from mmvq_cli.engine.cuda.engine import CudaEngine
from mmvq_cli.engine.cuda.launch import Kernel, LaunchFacts, execute, load_kernel, prepare
from mmvq_cli.engine.cuda.scan import ScaleField, scan_scales

__all__ = [
    "Cubin",
    "CudaEngine",
    "DeviceFacts",
    "Kernel",
    "LaunchFacts",
    "Resources",
    "ScaleField",
    "build_ahead",
    "build_cubin",
    "current_device",
    "device_facts",
    "execute",
    "load_kernel",
    "nvrtc_version",
    "prepare",
    "scan_scales",
]
