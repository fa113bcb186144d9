"""Where the files beside the Python code are: kernels and configs, in a wheel, an editable install or a checkout."""

from __future__ import annotations

from pathlib import Path

from mmvq_cli.errors import EnvironmentInvalid

# A known file in each folder: `site-packages/kernels` may belong to another project.
_MARKERS = {"kernels": "format.cuh", "configs": "suites/smoke.toml"}


def resource_root(name: str) -> Path:
    """The folder `kernels` or `configs`: beside this module in a wheel, beside the package in a checkout.

    Raises `EnvironmentInvalid` when neither place has it.
    """
    here = Path(__file__).resolve().parent
    for root in (here / name, here.parent / name):
        if (root / _MARKERS[name]).is_file():
            return root
    raise EnvironmentInvalid(
        f"the folder {name}/ is missing from this installation ({here})",
        "reinstall: pip install --force-reinstall . in a complete checkout",
    )
