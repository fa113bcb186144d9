"""Importance matrices: which experts the calibration never reached (llama.cpp's GGUF imatrix, `NAME.counts`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmvq_cli.errors import ModelError
from mmvq_cli.model import ExpertTensor, read_header
from mmvq_cli.validate.blocks import place_of
from mmvq_cli.validate.findings import Findings
from mmvq_cli.validate.layers import list_tensors, read_values

_COUNTS = ".counts"


def check_imatrix(tensors: tuple[ExpertTensor, ...], path: Path, findings: Findings) -> None:
    """Report experts of `tensors` that no calibration token was routed to.

    Raises `OpenError` and `ModelError` when the file cannot be read or has no counts.
    """
    counts = {t.name.removesuffix(_COUNTS): t for t in list_tensors([read_header(path)]) if t.name.endswith(_COUNTS)}
    if not counts:
        raise ModelError(f"{path} has no tensors called *{_COUNTS}", "--imatrix needs a GGUF file of llama-imatrix")
    for tensor in tensors:
        found = counts.get(tensor.name)
        values = None if found is None else read_values(found)
        if values is None or values.size != tensor.n_experts:
            what = "no counts" if values is None else f"{values.size} counts"
            message = f"{path.name} has {what} for its {tensor.n_experts} experts"
            findings.add("imatrix.mismatch", message, place_of(tensor, 0))
            continue
        for expert in map(int, np.flatnonzero(~(values.ravel() > 0))):
            findings.add("imatrix.never-routed", "no calibration token was routed to it", place_of(tensor, expert), 0)
