"""Try CuPy step by step and print a JSON line after each; `engine.discovery` runs this file as a child process.

Steps: `import`, `nvrtc`, `headers`, `device`, `launched`. A line names the step that comes next, so that even a crash
leaves behind how far the installation worked.
"""

from __future__ import annotations

import json
from typing import Any

MARK = "mmvq-probe:"

_ANSWER = 42.0
_SOURCE = """
#include <cuda_fp16.h>
#include <cuda_bf16.h>
extern "C" __global__ void answer(float* out) {
    out[0] = __half2float(__float2half(40.0f)) + __bfloat162float(__float2bfloat16(2.0f));
}
"""


def main() -> None:
    """Take the steps in order; the first that fails is reported as `error` and ends the probe."""
    report: dict[str, Any] = {"step": "import"}

    def reach(step: str, **facts: Any) -> None:
        report.update(facts, step=step)
        _print(report)

    try:
        import cupy

        reach("nvrtc", cupy_version=cupy.__version__)
        from cupy_backends.cuda.libs import nvrtc

        reach("headers", nvrtc_version=".".join(map(str, nvrtc.getVersion())))
        folder = _compile_with_headers(nvrtc)
        reach("device", header_folder=folder)
        reach("launched", device_count=_launch_everywhere(cupy, folder))
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        _print(report | {"error": f"{type(error).__name__}: {first_line}"})


def _print(report: dict[str, Any]) -> None:
    print(MARK + json.dumps(report), flush=True)


def _compile_with_headers(nvrtc: Any) -> str:
    """Compile for sm_80, which needs no GPU; returns the folder of the CUDA headers."""
    from cuda.pathfinder import find_nvidia_header_directory

    folder = find_nvidia_header_directory("cudart")
    if folder is None:
        raise FileNotFoundError("the CUDA headers (cuda_fp16.h) are in no known place")
    program = nvrtc.createProgram(_SOURCE, "answer.cu", (), ())
    try:
        nvrtc.compileProgram(program, ("--gpu-architecture=sm_80", f"-I{folder}"))
    except Exception as error:
        raise RuntimeError(nvrtc.getProgramLog(program) or error) from error
    return str(folder)


def _launch_everywhere(cupy: Any, folder: str) -> int:
    """Run the kernel once on each visible GPU; returns their number."""
    count = int(cupy.cuda.runtime.getDeviceCount())
    for index in range(count):
        with cupy.cuda.Device(index):
            out = cupy.zeros(1, dtype=cupy.float32)
            cupy.RawKernel(_SOURCE, "answer", options=(f"-I{folder}",))((1,), (1,), (out,))
            if float(out[0]) != _ANSWER:
                raise RuntimeError(f"GPU {index} computed {float(out[0])}, not {_ANSWER}")
    return count


if __name__ == "__main__":
    main()
