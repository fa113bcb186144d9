"""Where the files beside the Python code are: kernels and configs, in a wheel, an editable install or a checkout."""

from __future__ import annotations

import os
from pathlib import Path

from mmvq_cli.errors import EnvironmentInvalid

# A known file in each folder: `site-packages/kernels` may belong to another project.
_MARKERS = {"kernels": "format.cuh", "configs": "suites/smoke.toml"}

# Names a folder of other kernels: `mmvq gate --base` measures those of another revision.
KERNELS_VARIABLE = "MMVQ_KERNELS"


def resource_root(name: str) -> Path:
    """The folder `kernels` or `configs`: beside this module in a wheel, beside the package in a checkout.

    `MMVQ_KERNELS` names another folder of kernels. Raises `EnvironmentInvalid` when there is none.
    """
    here = Path(__file__).resolve().parent
    other = os.environ.get(KERNELS_VARIABLE) if name == "kernels" else None
    if other:
        if (Path(other) / _MARKERS[name]).is_file():
            return Path(other)
        raise EnvironmentInvalid(
            f"{KERNELS_VARIABLE} is {other!r}, which has no {_MARKERS[name]}", f"unset {KERNELS_VARIABLE}"
        )
    for root in (here / name, here.parent / name):
        if (root / _MARKERS[name]).is_file():
            return root
    raise EnvironmentInvalid(
        f"the folder {name}/ is missing from this installation ({here})",
        "reinstall: pip install --force-reinstall . in a complete checkout",
    )
