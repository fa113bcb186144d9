"""The device facts a plan depends on: a pure value, so that a plan can be made for a GPU that is not here."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from mmvq_cli.errors import UsageError
from mmvq_cli.op.tuning import Tuning
from mmvq_cli.resources import resource_root

OLDEST_COMPUTE_CAPABILITY = (8, 0)  # that kernels run on: barriers that asynchronous copies arrive at


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One processor. `backend` is "cuda" or "cpu"; `compute_capability` is (0, 0) for a CPU."""

    name: str
    backend: str
    index: int = 0
    compute_capability: tuple[int, int] = (0, 0)
    sm_count: int = 0
    l2_bytes: int = 0
    memory_bytes: int = 0
    bandwidth_gb_s: float = 0.0  # by the vendor's datasheet, 1 GB = 1e9 bytes; 0 when unknown
    tuning: Tuning | None = field(default=None, compare=False, repr=False)  # what was measured on it

    @property
    def has_bulk_copies(self) -> bool:
        """Whether an instruction copies any number of bytes, or a box, to shared memory, and launches may overlap."""
        return self.compute_capability >= (9, 0)

    @property
    def has_warpgroups(self) -> bool:
        """Whether four warps multiply with a matrix in shared memory (wgmma): no older and no newer GPU does."""
        return self.compute_capability == (9, 0)

    @property
    def architecture(self) -> str:
        """`sm_90` style target name, or `cpu`."""
        major, minor = self.compute_capability
        return f"sm_{major}{minor}" if self.backend == "cuda" else "cpu"


CPU = Device(name="cpu", backend="cpu")


def known_devices() -> Mapping[str, Device]:
    """Devices that `mmvq plan --device` knows by name, from configs/devices.toml; keys are lower case."""
    table = tomllib.loads((resource_root("configs") / "devices.toml").read_text(encoding="utf-8"))
    devices = {
        row["name"].lower(): Device(
            name=row["name"],
            backend="cuda",
            compute_capability=(row["compute_capability"][0], row["compute_capability"][1]),
            sm_count=row["sm_count"],
            l2_bytes=row["l2_mib"] * 2**20,
            memory_bytes=row["memory_gib"] * 2**30,
            bandwidth_gb_s=row["bandwidth_gb_s"],
        )
        for row in table["device"]
    }
    return {**devices, "cpu": CPU}


def find_device(name: str) -> Device:
    """The known device called `name` (case is ignored).

    Raises `UsageError` with the closest names.
    """
    devices = known_devices()
    if name.lower() not in devices:
        close = get_close_matches(name.lower(), devices, n=3, cutoff=0.4) or sorted(devices)
        raise UsageError(f"no device is called {name!r}", f"known: {', '.join(close)}")
    return devices[name.lower()]
