"""One validation from beginning to end: headers, tensors, blocks, comparisons, report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmvq_cli.errors import ModelError
from mmvq_cli.model import ExpertTensor, Header
from mmvq_cli.op.formats import FORMATS, unsupported_reason
from mmvq_cli.validate.checks import LAYERS, choose
from mmvq_cli.validate.findings import Findings, Place, Report, TensorError
from mmvq_cli.validate.layers import Layer, as_matrix, expert_tensors, group_layers, list_tensors
from mmvq_cli.validate.structure import check_structure, read_headers

# What is being done, bytes done, bytes in all.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Request:
    """What to validate and how; `checks` and `skip` are ids or layers."""

    model: Path
    checks: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    all_tensors: bool = False
    against: Path | None = None
    manifest: Path | None = None
    write_manifest: Path | None = None
    imatrix: Path | None = None
    kernels: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """The layers of checks that options ask for."""
        asked = {"against": self.against, "manifest": self.manifest, "imatrix": self.imatrix, "kernels": self.kernels}
        return tuple(name for name, value in asked.items() if value)


def validate(request: Request, progress: Progress = lambda what, done, total: None) -> Report:
    """Run the chosen checks; a malformed model is a finding.

    Raises `OpenError` when a file cannot be opened, `UsageError` for an unknown check, `ModelError` when the model of
    `--against`, the manifest or the importance matrix is malformed.
    """
    start = time.monotonic()
    severities = choose(request.checks, request.skip, request.options)
    findings = Findings(severities)
    headers = read_headers(request.model, findings)
    work = _Work(request, headers, findings, progress)
    if headers:
        work.run()
    else:
        findings.leave_out("everything behind the header, which cannot be read")
    return Report(
        files=tuple(str(header.path) for header in headers) or (str(request.model),),
        architecture=work.architecture,
        n_tensors=len(work.tensors),
        n_expert_tensors=len(work.experts),
        file_bytes=sum(header.file_size for header in headers) or request.model.stat().st_size,
        checked_bytes=work.checked_bytes,
        checked_blocks=work.checked_blocks,
        seconds=time.monotonic() - start,
        checks=tuple(severities),
        findings=findings.sorted(),
        not_checked=findings.not_checked,
        errors_against=work.errors_against,
        kernels=work.kernels,
    )


class _Work:
    """The steps of one validation, on headers that could be read."""

    def __init__(self, request: Request, headers: tuple[Header, ...], findings: Findings, progress: Progress) -> None:
        self._request, self._headers, self._findings, self._progress = request, headers, findings, progress
        self.tensors = list_tensors(headers)
        self._layers: tuple[Layer, ...] = group_layers(self.tensors)
        self.experts: tuple[ExpertTensor, ...] = expert_tensors(self._layers)
        self.architecture: str | None = None
        self.checked_bytes = self.checked_blocks = 0
        self.errors_against: tuple[TensorError, ...] = ()
        self.kernels: dict[str, str] = {}

    def run(self) -> None:
        """Run the layers in order, the cheap ones first."""
        check_structure(self._headers, self._findings)
        self._check_moe()
        self._check_blocks()
        self._compare()
        for layer in LAYERS:
            if not self._findings.wants(*_ids(layer)):
                self._findings.leave_out(f"layer {layer}: not chosen")
        self._name_limits()

    def _check_moe(self) -> None:
        from mmvq_cli.validate.moe import check_metadata, describe
        from mmvq_cli.validate.moe_layers import check_layers

        moe = describe(self._headers, self._layers, self._findings)
        self.architecture = moe.hyper.architecture or None
        if self._findings.wants(*_ids("moe")):
            check_metadata(moe)
            check_layers(moe)

    def _check_blocks(self) -> None:
        if not self._findings.wants(*_ids("blocks")):
            return
        from mmvq_cli.validate.blocks import check_blocks

        chosen = list(self.experts)
        if self._request.all_tensors:
            names = {extent.offset for tensor in self.experts for extent in tensor.extents}
            chosen += [as_matrix(tensor) for tensor in self.tensors if tensor.extent.offset not in names]
        total = sum(tensor.n_bytes for tensor in chosen)
        tally = check_blocks(chosen, self._findings, self._counter("blocks", total))
        self.checked_bytes, self.checked_blocks = tally.n_bytes, tally.n_blocks

    def _compare(self) -> None:
        request, total = self._request, sum(tensor.n_bytes for tensor in self.experts)
        if request.against:
            from mmvq_cli.validate.against import compare_with

            counter = self._counter("against", total)
            self.errors_against = compare_with(self.experts, request.against, self._findings, counter)
        if request.manifest or request.write_manifest:
            self._use_manifest()
        if request.imatrix:
            from mmvq_cli.validate.imatrix import check_imatrix

            check_imatrix(self.experts, request.imatrix, self._findings)
        if request.kernels:
            self._list_kernels()

    def _use_manifest(self) -> None:
        from mmvq_cli.validate.manifest import compare_with_manifest, hash_tensors, read_manifest, write_manifest

        expected = read_manifest(self._request.manifest) if self._request.manifest else None
        total = sum(tensor.n_bytes for tensor in self.tensors)
        seen = hash_tensors(self.tensors, self.experts, self._counter("sha256", total))
        if expected is not None:
            compare_with_manifest(self.tensors, seen, expected, self._findings)
        if self._request.write_manifest:
            if self._request.write_manifest.resolve() in {header.path.resolve() for header in self._headers}:
                raise ModelError("the manifest would overwrite the model", "give --write-manifest another path")
            write_manifest(self._request.write_manifest, seen)

    def _list_kernels(self) -> None:
        """Say which types have a kernel here; nothing is run."""
        for name, count in Counter(tensor.format_name for tensor in self.experts).items():
            has = name in FORMATS
            self.kernels[name] = "yes" if has else f"no: {unsupported_reason(name)}"
            if not has:
                message = f"{count} expert tensors are {name}: {unsupported_reason(name)}"
                self._findings.add("kernels.missing", message, Place(self._headers[0].path), name, count)
        self._findings.leave_out("kernels against the oracle: that is `mmvq check MODEL.gguf`")

    def _name_limits(self) -> None:
        """What no run on these files could show."""
        request, findings = self._request, self._findings
        if self._layers and len(self.experts) < sum(len(layer.stacks) for layer in self._layers):
            findings.leave_out("blocks of expert tensors whose dimensions contradict each other")
        if not request.all_tensors:
            others = len(self.tensors) - sum(len(tensor.extents) for tensor in self.experts)
            findings.leave_out(f"blocks of the {others} tensors that hold no experts (--all-tensors)")
        if not request.against and not request.manifest:
            findings.leave_out(
                "swapped gate and up, a transposed square down, single damaged blocks with sane scales "
                "(--against, --manifest)"
            )
        findings.leave_out("tokenizer and chat template")

    def _counter(self, what: str, total: int) -> Callable[[int], None]:
        done = 0

        def add(n_bytes: int) -> None:
            nonlocal done
            done += n_bytes
            self._progress(what, done, total)

        return add


def _ids(layer: str) -> tuple[str, ...]:
    return tuple(choose((layer,), ()))
