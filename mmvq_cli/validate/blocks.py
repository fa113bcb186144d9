"""The blocks layer: every block of every expert tensor, judged against the rules of its type and against siblings."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.model import ExpertTensor
from mmvq_cli.op.formats import FORMATS
from mmvq_cli.validate.facts import Gather, facts_of, odd_exponents
from mmvq_cli.validate.findings import Findings, Place
from mmvq_cli.validate.robust import LEAST_RATIO, outliers
from mmvq_cli.validate.scales import Bytes, Scales, scales_of
from mmvq_cli.validate.scan import Run, Scan, decode, plan_runs, scan
from mmvq_cli.validate.twins import digest, find_twins

Progress = Callable[[int], None]
_Key = tuple[int, ...]  # bytes of a tensor and the fingerprints of its experts
_WORKERS = os.cpu_count() or 1
_RUNS_AHEAD = 8
_HUGE_RATIO = 2.0**12
_LEAST_DISTANCE = 0.05  # between code histograms, half the sum of absolute differences
_MOST_DECODED = 64
_NOT_READ = "{name}: {format} blocks, a type whose layout is not known here"


@dataclass(frozen=True, slots=True)
class Tally:
    """How much the blocks layer read."""

    n_bytes: int = 0
    n_blocks: int = 0


def check_blocks(
    tensors: Iterable[ExpertTensor], findings: Findings, progress: Progress, gather: Gather = facts_of
) -> Tally:
    """Check all blocks of `tensors` on all cores; layer -1 marks those that are no experts.

    `gather` looks at the scales, here or on a GPU. Raises `OpenError` when a file cannot be read.
    """
    known = []
    for tensor in tensors:
        if tensor.format_name in FORMATS:
            known.append(tensor)
        else:
            findings.leave_out(_NOT_READ.format(name=tensor.name, format=tensor.format_name))
    keys: dict[ExpertTensor, _Key] = {}
    for tensor, scans in _scan_all(known, gather, progress):
        _judge(tensor, scans, findings)
        if tensor.layer >= 0 and any(part.facts.is_any.any() for part in scans):
            keys[tensor] = (tensor.n_bytes, *_fingerprints(scans))
    _compare_tensors(keys, findings)
    n_blocks = sum(tensor.n_bytes // tensor.format.type_size for tensor in known)
    return Tally(sum(tensor.n_bytes for tensor in known), n_blocks)


def _scan_all(
    tensors: list[ExpertTensor], gather: Gather, progress: Progress
) -> Iterator[tuple[ExpertTensor, list[Scan]]]:
    """Scan in parallel; yields each tensor with all its scans, in order."""
    pool = ThreadPoolExecutor(_WORKERS)
    scans: list[Scan] = []
    try:
        for tensor, part in _in_order(pool, tensors, gather):
            progress(part.n_bytes)
            scans.append(part)
            if part.first + len(part.fingerprints) == tensor.n_experts:
                yield tensor, scans
                scans = []
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(
    pool: ThreadPoolExecutor, tensors: list[ExpertTensor], gather: Gather
) -> Iterator[tuple[ExpertTensor, Scan]]:
    """Scan ahead by a few runs only: a file may have any number of tensors."""
    waiting: deque[tuple[ExpertTensor, Future[Scan]]] = deque()
    for tensor in tensors:
        for run in plan_runs(tensor):
            waiting.append((tensor, pool.submit(scan, run, gather)))
            if len(waiting) > _RUNS_AHEAD * _WORKERS:
                first, future = waiting.popleft()
                yield first, future.result()
    for first, future in waiting:
        yield first, future.result()


def _judge(tensor: ExpertTensor, scans: list[Scan], findings: Findings) -> None:
    _check_scales(tensor, scans, findings)
    if tensor.layer < 0:
        return
    is_zero = ~np.concatenate([part.facts.is_any for part in scans])
    _check_zero(tensor, is_zero, findings)
    _check_twins(tensor, scans, is_zero, findings)
    _check_outliers(tensor, scans, findings)
    _check_codes(tensor, scans, is_zero, findings)


def place_of(tensor: ExpertTensor, expert: int, block: int | None = None) -> Place:
    """Where an expert, or block number `block` of it, lies in its file."""
    own = len(tensor.extents) > 1
    extent = tensor.extents[expert if own else 0]
    offset = extent.offset + (0 if own else expert * tensor.expert_bytes)
    shown = expert if tensor.layer >= 0 else None
    if block is None:
        return Place(extent.path, offset, tensor.name, shown)
    weight_format = tensor.format
    row, column = divmod(block, tensor.cols // weight_format.block_size)
    return Place(extent.path, offset + block * weight_format.type_size, tensor.name, shown, row, column)


def _check_scales(tensor: ExpertTensor, scans: list[Scan], findings: Findings) -> None:
    """Find the experts with wrong scales by their extremes, then read those again for the places."""
    fields = scales_of(tensor.format)
    limits = _limits(scans, len(fields))
    for part in scans:
        for number, scales in enumerate(fields):
            field = part.facts.fields[number]
            wrong = field.largest >= scales.encoding.not_finite
            if scales.encoding.sign and (scales.never_negative or scales.stored == "ue4m3"):
                wrong |= field.is_negative
            if not tensor.format.is_float:
                finite = np.minimum(field.largest, scales.encoding.not_finite - 1)
                wrong |= scales.values(finite.astype(scales.dtype)) > limits[number]
            for index in np.flatnonzero(wrong):
                _locate_scales(tensor, part.first + int(index), scales, limits[number], findings)
        for index in np.flatnonzero(part.facts.has_odd_exponent):
            _locate_exponents(tensor, part.first + int(index), findings)


def _limits(scans: list[Scan], n_fields: int) -> list[float]:
    """The largest sane scale of each field: 2^12 times the median over experts, of this field or the first."""
    medians = []
    for number in range(n_fields):
        values = np.concatenate([part.medians[number] for part in scans])
        usable = values[np.isfinite(values)]
        medians.append(float(np.median(usable)) if len(usable) else np.inf)
    return [_HUGE_RATIO * max(median, medians[0]) for median in medians]


def _locate_scales(tensor: ExpertTensor, expert: int, scales: Scales, limit: float, findings: Findings) -> None:
    """Read one expert again and report the first block of each fault, with the number of such blocks."""
    not_finite = "blocks.value-not-finite" if tensor.format.is_float else "blocks.scale-not-finite"
    faults: dict[str, _Fault] = {}
    first_block = 0
    for blocks in Run(tensor, expert, 1).pieces():
        bits = scales.read(blocks)[0]
        magnitudes = scales.magnitudes(bits)
        finite = magnitudes < scales.encoding.not_finite
        masks = {not_finite: ~finite}
        if not tensor.format.is_float:
            masks["blocks.scale-huge"] = finite & (scales.values(magnitudes) > limit)
        if scales.stored == "ue4m3":
            masks["blocks.nvfp4-sign"] = bits >= scales.encoding.sign
        elif scales.never_negative:
            masks["blocks.scale-sign"] = finite & (bits > scales.encoding.sign)
        for check, mask in masks.items():
            found = np.flatnonzero(mask)
            if len(found):
                fault = faults.setdefault(check, _Fault(int(found[0]) // scales.encoding.lanes + first_block))
                fault.show(_shown(scales, bits[found[0]]))
                fault.count += len(found)
        _check_overflow(tensor, expert, blocks[0], masks.get("blocks.scale-huge"), scales, first_block, findings)
        first_block += blocks.shape[1]
    for check, fault in faults.items():
        what = "weights" if tensor.format.is_float else "scales"
        total = tensor.rows * tensor.cols // tensor.format.block_size * scales.encoding.lanes
        message = f"{_WORDS[check]}: {fault.value} ({fault.count} of {total} {what} of the expert)"
        findings.add(check, message, place_of(tensor, expert, fault.block), fault.value, fault.count)


_WORDS = {
    "blocks.value-not-finite": "not a finite weight",
    "blocks.scale-not-finite": "not a finite scale",
    "blocks.scale-huge": "scale far above those of all experts",
    "blocks.scale-sign": "negative scale",
    "blocks.nvfp4-sign": "scale byte with its top bit set",
    "blocks.exponent-range": "exponent code outside the range of real weights",
}


class _Fault:
    """The first block with a fault, its value, and how many there are."""

    def __init__(self, block: int) -> None:
        self.block, self.count, self.value = block, 0, ""

    def show(self, value: str) -> None:
        """Keep the first value."""
        self.value = self.value or value


def _shown(scales: Scales, bits: np.unsignedinteger[Any]) -> str:
    """The value and its bits."""
    word = np.array([bits])
    value = float(scales.values(scales.magnitudes(word))[0])
    sign = "-" if scales.encoding.sign and int(bits) & scales.encoding.sign else ""
    return f"{sign}{value:g} (0x{int(bits):0{2 * word.dtype.itemsize}X})"


def _check_overflow(
    tensor: ExpertTensor,
    expert: int,
    blocks: Bytes,
    huge: NDArray[np.bool_] | None,
    scales: Scales,
    first_block: int,
    findings: Findings,
) -> None:
    """Decode blocks with huge scales; a scale that is finite may still give infinite weights."""
    if huge is None or not huge.any():
        return
    numbers = np.unique(np.flatnonzero(huge)[:_MOST_DECODED] // scales.encoding.lanes)
    wrong = ~np.isfinite(decode(blocks[numbers], tensor.format)).all(axis=1)
    if wrong.any():
        block = int(numbers[wrong][0]) + first_block
        message = "a finite scale, but the weights overflow float32"
        findings.add("blocks.value-overflow", message, place_of(tensor, expert, block), count=int(wrong.sum()))


def _locate_exponents(tensor: ExpertTensor, expert: int, findings: Findings) -> None:
    first_block, count, place, value = 0, 0, None, 0
    for blocks in Run(tensor, expert, 1).pieces():
        found = np.flatnonzero(odd_exponents(blocks)[0] & (blocks[0, :, 0] != 0xFF))
        if len(found) and place is None:
            place, value = place_of(tensor, expert, int(found[0]) + first_block), int(blocks[0, found[0], 0])
        count += len(found)
        first_block += blocks.shape[1]
    if place is not None:
        message = f"{_WORDS['blocks.exponent-range']}: {value} ({count} blocks of the expert)"
        findings.add("blocks.exponent-range", message, place, value, count)


def _check_zero(tensor: ExpertTensor, is_zero: NDArray[np.bool_], findings: Findings) -> None:
    if is_zero.all():
        message = f"all weights of all {tensor.n_experts} experts are zero"
        findings.add("blocks.dead-layer", message, place_of(tensor, 0), 0)
        return
    for expert in map(int, np.flatnonzero(is_zero)):
        findings.add("blocks.dead-expert", "all weights of this expert are zero", place_of(tensor, expert), 0)


def _check_twins(tensor: ExpertTensor, scans: list[Scan], is_zero: NDArray[np.bool_], findings: Findings) -> None:
    live = {expert: key for expert, key in enumerate(_fingerprints(scans)) if not is_zero[expert]}
    for expert, twin in find_twins(live, live.values(), lambda expert: digest(tensor, expert, 1)):
        message = f"is identical to expert {twin}, byte for byte"
        findings.add("blocks.duplicate-expert", message, place_of(tensor, expert))


def _compare_tensors(keys: dict[ExpertTensor, _Key], findings: Findings) -> None:
    for tensor, twin in find_twins(keys, keys.values(), lambda tensor: digest(tensor, 0, tensor.n_experts)):
        findings.add("blocks.duplicate-tensor", f"is identical to {twin.name}, byte for byte", place_of(tensor, 0))


def _fingerprints(scans: list[Scan]) -> tuple[int, ...]:
    return tuple(fingerprint for part in scans for fingerprint in part.fingerprints)


def _check_outliers(tensor: ExpertTensor, scans: list[Scan], findings: Findings) -> None:
    if not tensor.format.is_float:
        scales = np.concatenate([part.rms[0] for part in scans])
        for expert, ratio in outliers(scales):
            message = f"the scales are {ratio:.3g} times the median of the {tensor.n_experts} experts"
            findings.add("blocks.scale-outlier", message, place_of(tensor, expert), f"{scales[expert]:.4g}")
    norms = np.concatenate([part.sample_rms for part in scans])
    for expert, ratio in outliers(norms):
        message = f"the weights are {ratio:.3g} times the median of the {tensor.n_experts} experts (a sample of blocks)"
        findings.add("blocks.norm-outlier", message, place_of(tensor, expert), f"{norms[expert]:.4g}")


def _check_codes(tensor: ExpertTensor, scans: list[Scan], is_zero: NDArray[np.bool_], findings: Findings) -> None:
    for part in scans:
        for index in np.flatnonzero(part.holds_minus_128):
            message = "holds the code -128, which the quantizer of Q8_0 never writes"
            findings.add("blocks.code-histogram", message, place_of(tensor, part.first + int(index)), -128)
    histogram = np.concatenate([part.histogram for part in scans])
    if is_zero.all() or tensor.format.is_float:
        return
    typical = np.median(histogram[~is_zero], axis=0)
    distances = np.abs(histogram - typical).sum(axis=1) / 4  # two histograms, half the sum of each
    distances[is_zero] = np.nan
    usual = float(np.nanmedian(distances))
    for expert in map(int, np.flatnonzero(distances > max(_LEAST_DISTANCE, LEAST_RATIO * usual))):
        seen = f"distance {distances[expert]:.3f}, usually {usual:.3f}"
        message = f"the codes are distributed unlike those of its siblings ({seen})"
        findings.add("blocks.code-histogram", message, place_of(tensor, expert), f"{distances[expert]:.3f}")
