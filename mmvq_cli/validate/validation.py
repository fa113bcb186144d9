"""One validation from beginning to end: headers, tensors, blocks, comparisons, report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmvq_cli.errors import ModelError
from mmvq_cli.model import ExpertTensor, Header
from mmvq_cli.validate.checks import LAYERS
from mmvq_cli.validate.findings import Findings, Report, TensorError
from mmvq_cli.validate.layers import MOST_EXPERTS, Layer, as_matrix, expert_tensors, group_layers, list_tensors
from mmvq_cli.validate.selection import choose
from mmvq_cli.validate.structure import check_structure, read_headers

# What is being done, bytes done, bytes in all.
Progress = Callable[[str, int, int], None]

AUTO_BYTES = 4 * 2**30  # of blocks, from which on starting CUDA is worth its second


@dataclass(frozen=True, slots=True)
class Request:
    """What to validate and how; `checks` and `skip` are ids or layers.

    `engine` is `cpu`, `cuda`, or `auto`: the GPU where there is one and, for the blocks, where they are many.
    """

    model: Path
    checks: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    all_tensors: bool = False
    against: Path | None = None
    manifest: Path | None = None
    write_manifest: Path | None = None
    imatrix: Path | None = None
    kernels: bool = False
    kernel_rows: int = 16
    engine: str = "cpu"
    device_index: int = 0

    @property
    def options(self) -> tuple[str, ...]:
        """The layers of checks that options ask for."""
        asked = {"against": self.against, "manifest": self.manifest, "imatrix": self.imatrix, "kernels": self.kernels}
        return tuple(name for name, value in asked.items() if value)


def validate(request: Request, progress: Progress = lambda what, done, total: None) -> Report:
    """Run the chosen checks; a malformed model is a finding.

    Raises `OpenError` when a file cannot be opened, `UsageError` for an unknown check, `ModelError` when the model of
    `--against`, the manifest or the importance matrix is malformed, `EnvironmentInvalid` when the engine cannot run.
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
        blocks_engine=work.blocks_engine,
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
        self.blocks_engine: str | None = None
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
        from mmvq_cli.validate.facts import cuda_gather, facts_of

        chosen = list(self.experts)
        if self._request.all_tensors:
            names = {extent.offset for tensor in self.experts for extent in tensor.extents}
            chosen += [as_matrix(tensor) for tensor in self.tensors if tensor.extent.offset not in names]
        total = sum(tensor.n_bytes for tensor in chosen)
        self.blocks_engine = self._engine(total >= AUTO_BYTES)
        gather = cuda_gather(self._request.device_index) if self.blocks_engine == "cuda" else facts_of
        tally = check_blocks(chosen, self._findings, self._counter("blocks", total), gather)
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
            self._check_kernels(total)

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

    def _check_kernels(self, total: int) -> None:
        from mmvq_cli.validate.kernels import check_kernels, open_engine

        engine = open_engine(self._engine(is_worthwhile=True), self._request.device_index)
        counter, n_rows = self._counter("kernels", total), self._request.kernel_rows
        self.kernels = check_kernels(self.experts, engine, n_rows, self._findings, counter)
        self._findings.leave_out(f"kernels on more than {n_rows} rows of 4 experts: that is `mmvq check MODEL.gguf`")

    def _engine(self, is_worthwhile: bool) -> str:
        """`cuda` or `cpu`; `auto` takes the GPU where there is one and it is worthwhile."""
        wanted = self._request.engine
        if wanted != "auto":
            return wanted
        from mmvq_cli.engine.discovery import cuda_available

        return "cuda" if is_worthwhile and cuda_available()[0] else "cpu"

    def _name_limits(self) -> None:
        """What no run on these files could show."""
        request, findings = self._request, self._findings
        if self._layers and len(self.experts) < sum(len(layer.stacks) for layer in self._layers):
            findings.leave_out(
                f"blocks of stacks whose dimensions contradict each other, or of more than {MOST_EXPERTS} experts"
            )
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
