"""The groups of a record: what was run, how, and what came out (on what: `environment.py`; times: `timing.py`).

Integers are in base units and floats are finite or null, never rounded; a field's unit is the end of its name. The
text under each field is its documentation: `results/README.md` is made from it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, model_validator

from mmvq_cli.op import Accumulate, Dtype, OutputMode, Rows


class Group(BaseModel):
    """A frozen part of a record; also made from any object with the same attributes by `model_validate`."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        from_attributes=True,
        # `model_copy(update=...)` checks nothing: the record that takes the copy does.
        revalidate_instances="always",
        use_attribute_docstrings=True,
    )


class Status(StrEnum):
    """How a case ended; only PASSED ever has a time."""

    PASSED = "PASSED"
    WRONG_RESULT = "WRONG_RESULT"
    BUILD_ERROR = "BUILD_ERROR"
    LAUNCH_ERROR = "LAUNCH_ERROR"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    TIMEOUT = "TIMEOUT"
    SKIPPED = "SKIPPED"
    UNSUPPORTED = "UNSUPPORTED"


class KernelIdentity(Group):
    """Which kernel the row is about."""

    name: str
    """Name of the kernel, as in the plan's SKU; for a case without a kernel the engine's name."""
    version: str
    """Version of mmvq, or of the plug-in."""
    source_sha256: str | None = None
    """Hash of the final source, includes inlined."""
    cubin_sha256: str | None = None
    """Hash of the machine code."""
    plugin: str | None = None
    """Where a kernel from outside comes from."""


class Git(Group):
    """State of the checkout that ran."""

    rev: str
    """Commit."""
    dirty: bool
    """Whether tracked files differed from it."""


class Ids(Group):
    """Which row of which run."""

    run_id: str
    """Run, also the name of its file."""
    row_id: str
    """Hash of kernel name, axes and protocol as asked for: equal in every run of the same row."""
    case_id: str
    """Readable name of the case, also the filter."""
    suite: str
    """Suite of the run, or the model's name."""
    kernel: KernelIdentity
    git: Git | None = None
    time_utc: AwareDatetime
    """When the case ended."""


class RoutingSummary(Group):
    """Realised routing of the first draw, the one that was checked: made from a `RoutingStatistics`."""

    m_total: int
    """Dispatches."""
    touched_experts: int
    """Experts with a dispatch."""
    dispatches_per_touched_expert_mean: float
    """Dispatches per touched expert."""
    dispatches_per_touched_expert_max: int
    """Dispatches of the busiest expert."""
    imbalance: float
    """Dispatches of the busiest expert over the mean of all experts."""
    uniform_imbalance: float
    """Imbalance expected of uniform routing: only what lies above it is skew."""
    histogram: dict[int, int]
    """Number of dispatches -> how many experts have it."""


class Axes(Group):
    """The problem."""

    ggml_type: str
    """Weight format."""
    rows_m: int
    """Rows of one expert."""
    cols_k: int
    """Columns of one expert."""
    n_experts: int
    """Experts in the tensor."""
    top_k: int
    """Experts per token."""
    n_tokens: int
    """Tokens in the step."""
    dtype: Dtype
    """Activation and output type."""
    activation_rows: Rows = Rows.TOKEN
    """What an activation row belongs to."""
    output_rows: Rows = Rows.TOKEN
    """What an output row belongs to."""
    output_mode: OutputMode = OutputMode.OVERWRITE
    """Whether old output values count."""
    accumulate: Accumulate = Accumulate.ORDERED
    """How a token's dispatches are summed."""
    routing: str
    """Generator with parameters, or the trace."""
    routing_seed: int
    """Seed of the draws."""
    routing_provenance: Literal["measured", "counts-derived", "synthetic"] | None = None
    """What a replayed trace is; null for a generator."""
    trace_sha256: str | None = None
    """Hash of the trace's file; of the ids for a `twin:`."""
    unique_experts: tuple[int, ...] = ()
    """Touched experts of each draw."""
    routing_statistics: RoutingSummary | None = None
    scope: Literal["kernel", "op", "layer"] = "op"
    """What one launch covers."""
    model: str | None = None
    """File name of the model, or the preset."""
    model_file_sha256: str | None = None
    """Hash of the model file, where it was computed."""
    tensor_name: str | None = None
    """Tensor, or the role within a preset."""


class Work(Group):
    """Bytes and operations of one launch, and the speeds they give; speeds are null unless PASSED."""

    bytes_unique: int
    """Bytes of the weights of touched experts, each once."""
    bytes_requested: int
    """Bytes of weights counted once per dispatch."""
    flops: int
    """Floating-point operations, two per weight and dispatch."""
    gbps_unique: float | None = None
    """bytes_unique over the median time, in GB/s."""
    canary_ns: float | None = None
    """Time of the streaming read of as many bytes as bytes_unique."""
    sol_pct_measured: float | None = None
    """canary_ns over the median time, in percent."""
    sol_pct_datasheet: float | None = None
    """gbps_unique over the data sheet's bandwidth, in percent."""
    ns_per_token: float | None = None
    """Median time over tokens."""
    bound: Literal["mem", "launch", "compute"] | None = None
    """What holds the case: bytes at the stream's speed, launches that do nothing, or the kernel's instructions."""


class Precision(Group):
    """What the plan guarantees: made from a `PrecisionGuarantee`."""

    math: str
    """Arithmetic of the products."""
    accumulator: str
    """Type of the sums."""
    error_constant: float
    """c of the error bound."""
    deterministic: bool
    """Whether repeated launches give the same bits."""
    bit_stable_on_same_hardware: bool
    """Whether every device of this kind gives the same bits."""
    batch_invariant: bool
    """Whether a token alone gives the bits it gives in a batch."""


class Kernel(Group):
    """What the plan chose; null when there is no kernel."""

    engine: Literal["cuda", "cpu"]
    """Engine that ran it."""
    sku: str
    """Name of the plan's SKU."""
    precision: Precision
    dequantizer: str | None = None
    """Package that dequantizes on the CPU engine, with its version."""
    grid: tuple[int, ...] = ()
    """Blocks of the main kernel."""
    block: tuple[int, ...] = ()
    """Threads per block of the main kernel."""
    regs: int | None = None
    """Registers per thread."""
    smem_bytes: int | None = None
    """Shared memory per block."""
    local_bytes: int | None = None
    """Local memory per thread: more than 0 is a spill."""
    max_blocks_per_sm: int | None = None
    """Blocks that fit on a multiprocessor."""
    occupancy_pct: float | None = None
    """Resident warps over the most possible."""
    waves: float | None = None
    """Blocks of the grid over blocks that fit on the device."""


class Correctness(Group):
    """Verdict and errors against the float64 oracle."""

    status: Status
    """How the case ended."""
    oracle: str | None = None
    """Dequantizer behind the exact answer, with its version."""
    reason: str | None = None
    """Why it is not PASSED, in words."""
    needed_bytes: int | None = None
    """Device memory that an OUT_OF_MEMORY case needs."""
    bound_used_pct: float | None = None
    """Largest error over its own bound, in percent: above 100 is wrong."""
    worst_index: tuple[int, ...] | None = None
    """Output row and column of that error."""
    nmse: float | None = None
    """Squared error over squared reference, whole output."""
    nmse_worst_token: float | None = None
    """The same of the worst output row."""
    worst_token: int | None = None
    """That output row."""
    nmse_worst_tile: float | None = None
    """The same of the worst tile of 64 rows of one expert."""
    worst_tile: tuple[int, ...] | None = None
    """Expert and first row of that tile."""
    max_abs: float | None = None
    """Largest absolute error."""
    max_rel: float | None = None
    """Largest relative error where the reference exceeds 1e-3 of its row's root mean square."""
    exact_mismatches: int | None = None
    """Elements that differ in bits where equality is demanded."""
    bitwise_repeat: bool | None = None
    """Whether repeated launches gave the same bits."""
    batch_invariant: bool | None = None
    """Whether a token alone gave the bits it gave in the batch."""
    guard_ok: bool | None = None
    """Whether every element was written and nothing around the output."""
    inputs_intact: bool | None = None
    """Whether the inputs still have their checksums."""
    verified_after_timing: bool | None = None
    """Whether the output was right after the last timed launch too."""

    @property
    def needed_gib(self) -> float | None:
        """Device memory that an OUT_OF_MEMORY case needs, in GiB."""
        return None if self.needed_bytes is None else self.needed_bytes / 2**30

    @model_validator(mode="after")
    def _explain_what_did_not_pass(self) -> Correctness:
        if self.status is not Status.PASSED and not self.reason:
            raise ValueError(f"a case with status {self.status} needs a reason")
        if self.status is Status.OUT_OF_MEMORY and self.needed_bytes is None:
            raise ValueError("a case with status OUT_OF_MEMORY needs needed_bytes")
        return self
