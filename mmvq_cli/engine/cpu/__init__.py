"""The CPU engine: gguf dequantizers and BLAS."""

from mmvq_cli.engine.cpu.engine import CpuEngine, execute

__all__ = ["CpuEngine", "execute"]
