"""The one table of checks: id, layer, severity and what it means. Ids are stable; `--explain ID` prints a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mmvq_cli.validate.findings import Severity

LAYERS = ("structure", "moe", "blocks")
ERROR, WARNING, INFO = Severity


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is looked at; `id` is `layer.name`. Layers beyond `LAYERS` run when their option is given."""

    id: str
    severity: Severity
    explanation: str

    @property
    def layer(self) -> str:
        """The part of the id before the dot."""
        return self.id.split(".")[0]


_ROWS = (
    Check(
        "structure.header",
        ERROR,
        "The bytes before the tensors break a rule of GGUF: magic, version, counts, key or value types, string and "
        "array lengths, dimensions or types. Readers that trust such numbers crash, hang or read other memory. "
        "Reading stops at the first fault, so a repaired file may show another.",
    ),
    Check(
        "structure.duplicate",
        ERROR,
        "A key or a tensor name is there twice, in one file or in two files of a split set. Readers disagree on which "
        "one counts, so the model is not the same model everywhere.",
    ),
    Check(
        "structure.alignment",
        ERROR,
        "general.alignment must be a UINT32 and a power of two from 32 to 65536. The format allows 8, but ggml's own "
        "backend aborts below 32.",
    ),
    Check(
        "structure.layout",
        ERROR,
        "Tensors follow each other in order, each padded to the alignment, without overlap, gap or unaligned start. "
        "llama.cpp refuses anything else; others read the wrong bytes as weights.",
    ),
    Check(
        "structure.extent",
        ERROR,
        "The data of a tensor ends beyond the end of the file: a download that stopped early, or an offset that lies.",
    ),
    Check(
        "structure.trailing",
        WARNING,
        "Bytes follow the last tensor. Nothing reads them; they may be another file appended by mistake or on purpose.",
    ),
    Check(
        "structure.padding",
        WARNING,
        "The bytes between two tensors are not zero. Writers pad with zeros, so something wrote over them, perhaps "
        "over the weights beside them too.",
    ),
    Check(
        "structure.split",
        ERROR,
        "The files of a split set do not belong together: split.no, split.count or split.tensors.count differ from "
        "what is there, or a key has two values. llama.cpp checks only the first file's counts and would load a "
        "foreign shard.",
    ),
    Check(
        "moe.expert-count",
        ERROR,
        "expert_count must be 1 to 1024 and equal the third dimension of every stacked expert tensor and the second of "
        "the router. Engines that take the stride from one and the count from the other read out of bounds.",
    ),
    Check(
        "moe.used-count",
        ERROR,
        "expert_used_count must be there and lie between 1 and expert_count (0 in a dense layer when it is an array). "
        "llama.cpp aborts on anything else.",
    ),
    Check(
        "moe.block-count",
        ERROR,
        "block_count must be 1 to 512 and one more than the highest blk.N of the tensors, MTP layers included.",
    ),
    Check(
        "moe.groups",
        ERROR,
        "Expert groups must divide the experts evenly, and fewer groups must be used than there are. llama.cpp aborts.",
    ),
    Check(
        "moe.norm-epsilon",
        ERROR,
        "The epsilon of the normalization must be a finite number of at least 0: NaN makes every logit NaN.",
    ),
    Check(
        "moe.per-layer-array",
        ERROR,
        "A hyperparameter given as an array must have one number for each layer.",
    ),
    Check(
        "moe.gating",
        ERROR,
        "expert_gating_func must be one of 1 softmax, 2 sigmoid, 3 softmax over the chosen, 4 sqrt-softplus, and be "
        "there for architectures that have no default.",
    ),
    Check(
        "moe.missing-tensor",
        ERROR,
        "A layer that must have experts lacks gate, up, down, the router or a bias that its architecture needs. "
        "llama.cpp stops at the first; all are listed here.",
    ),
    Check(
        "moe.extra-tensor",
        ERROR,
        "A layer that must be dense by the metadata (leading dense layers, interleave step, used count 0) has expert "
        "tensors, or a tensor that the architecture does not have. llama.cpp refuses tensors that it did not expect.",
    ),
    Check(
        "moe.dimensions",
        ERROR,
        "Gate and up must be [n_embd, n_ff, experts], down [n_ff, n_embd, experts], with the widths of the metadata. A "
        "square down tensor that is transposed cannot be seen by shape: compare with --against or --manifest.",
    ),
    Check(
        "moe.fused",
        ERROR,
        "ffn_gate_up_exps holds gate and up (gate rows first), so it must have an even number of rows, and the layer "
        "may not have either of the two by itself.",
    ),
    Check(
        "moe.mixed-types",
        INFO,
        "Gate and up of one layer have different quantization types. It is legal, but kernels that fuse the two need "
        "one type and fall back to a slower path.",
    ),
    Check(
        "moe.legacy-experts",
        ERROR,
        "One tensor per expert (blk.N.ffn_gate.E.weight) must be numbered 0 to n - 1 and share one shape and type.",
    ),
    Check(
        "moe.legacy-layout",
        INFO,
        "The model stores one tensor per expert, the layout of early Mixtral files. llama.cpp no longer loads it; "
        "llama-quantize still accepts it.",
    ),
    Check(
        "moe.shared-expert",
        ERROR,
        "Shared experts must have the width that expert_shared_feed_forward_length or expert_shared_count says, be "
        "there when the metadata says so, and their gate must be [n_embd].",
    ),
    Check(
        "moe.router-type",
        WARNING,
        "The router is not F32. llama-quantize never quantizes it, because small errors choose other experts.",
    ),
    Check(
        "moe.router-values",
        ERROR,
        "The router is all zero or holds NaN or Inf, so the choice of experts is meaningless. Engines load it without "
        "a word.",
    ),
    Check(
        "moe.selection-bias",
        ERROR,
        "exp_probs_b must be [experts] and finite: one NaN there makes an expert win or lose always.",
    ),
    Check(
        "moe.selection-bias-range",
        WARNING,
        "The selection biases of a layer are far larger than those of its siblings, so the same experts always win.",
    ),
    Check(
        "moe.expert-bias",
        ERROR,
        "Expert biases must be [rows, experts], finite, and there for every role or for none.",
    ),
    Check(
        "moe.expert-scale",
        WARNING,
        "The scales beside expert tensors (.scale, .input_scale) must be [experts], finite and not 0, and there for "
        "all NVFP4 expert tensors or for none.",
    ),
    Check(
        "moe.no-expert-scale",
        INFO,
        "No NVFP4 expert tensor has a .scale beside it. Loaders accept that; a model whose second scale level was lost "
        "in conversion looks the same.",
    ),
    Check(
        "moe.file-type",
        INFO,
        "No expert tensor has the type that general.file_type names (types that rows of this length fall back to are "
        "accepted), so the name of the file may lie about its size and quality.",
    ),
    Check(
        "moe.unknown-architecture",
        INFO,
        "There is no row for this architecture, so only the rules that hold for all of them were applied.",
    ),
    Check("moe.no-experts", INFO, "The model has no expert tensors: nothing of the moe layer applies to it."),
    Check(
        "blocks.scale-not-finite",
        ERROR,
        "A block scale is NaN or Inf (MXFP4: code 255; NVFP4: 0x7F). All weights of the block are lost. Engines load "
        "it, and some answer with finite but wrong numbers; rarely routed experts hide it.",
    ),
    Check(
        "blocks.value-not-finite",
        ERROR,
        "A weight of a plain floating-point tensor is NaN or Inf.",
    ),
    Check(
        "blocks.scale-huge",
        ERROR,
        "A finite block scale is more than 4096 times the median of its tensor's experts, such as fp16's largest "
        "65504. ggml's own validation accepts it; logits become NaN or noise.",
    ),
    Check(
        "blocks.value-overflow",
        ERROR,
        "A block with a finite scale dequantizes to Inf or NaN in float32, such as MXFP4 with exponent code 254.",
    ),
    Check(
        "blocks.scale-sign",
        WARNING,
        "The scale is negative in a type whose quantizer never writes that (Q8_0, Q2_K, Q4_K, Q5_K, Q4_1, Q5_1, "
        "ternary, IQ2, IQ3). A foreign quantizer may; damage is more likely.",
    ),
    Check(
        "blocks.nvfp4-sign",
        ERROR,
        "An NVFP4 scale byte has its top bit set. The CPU of ggml reads it as positive, its CUDA code as negative, so "
        "two machines compute two models.",
    ),
    Check(
        "blocks.exponent-range",
        WARNING,
        "An MXFP4 exponent code above 160, or below 64 in a block that is not zero, is outside anything that a "
        "quantizer writes for real weights.",
    ),
    Check(
        "blocks.dead-expert",
        ERROR,
        "All weights of one expert are zero while its siblings are not: the expert answers 0 whenever it is chosen.",
    ),
    Check(
        "blocks.dead-layer",
        WARNING,
        "All experts of a tensor are zero. Some models are pruned so; an unfinished conversion looks the same.",
    ),
    Check(
        "blocks.duplicate-expert",
        WARNING,
        "Two experts of a tensor are identical byte for byte. Training does not make twins; a wrong loop does.",
    ),
    Check(
        "blocks.duplicate-tensor",
        INFO,
        "Two expert tensors are identical byte for byte, as when one layer was written twice or gate was copied to up.",
    ),
    Check(
        "blocks.scale-outlier",
        WARNING,
        "The root mean square of an expert's block scales lies more than 8 scaled MADs (of logarithms) and a factor 4 "
        "from the median of its siblings. Every block counts. Subnormal scales are normal and not flagged.",
    ),
    Check(
        "blocks.norm-outlier",
        WARNING,
        "The root mean square of an expert's weights, measured on a sample of its blocks, lies more than 8 scaled MADs "
        "(of logarithms) and a factor 4 from the median of its siblings.",
    ),
    Check(
        "blocks.code-histogram",
        WARNING,
        "The codes of an expert, on a sample of its blocks, are distributed unlike those of its siblings, or hold what "
        "the quantizer never writes (Q8_0: -128). Random or shifted bytes behind sane scales look so.",
    ),
    Check(
        "against.structure",
        ERROR,
        "A tensor is in one file only, or has other dimensions there: the two are not the same model.",
    ),
    Check(
        "against.error",
        ERROR,
        "An expert differs from the other file by more than 0.9 of its own norm. The worst quantization stays near "
        "0.5; swapped gate and up, transposed or foreign weights are near 1.4.",
    ),
    Check(
        "against.block",
        ERROR,
        "Single blocks differ from the other file by more than 0.9 of their norm (and of their expert's), while the "
        "expert as a whole does not.",
    ),
    Check(
        "against.outlier",
        WARNING,
        "An expert's error is more than 8 scaled MADs and a factor 4 above the median of its siblings.",
    ),
    Check("manifest.missing", ERROR, "A tensor of the manifest is not in the model, or has another type or shape."),
    Check("manifest.extra", WARNING, "A tensor of the model is not in the manifest."),
    Check(
        "manifest.changed",
        ERROR,
        "The bytes of a tensor or expert are not those of the manifest. When they are those of another entry, it is "
        "named: that is how swapped tensors show.",
    ),
    Check(
        "imatrix.never-routed",
        INFO,
        "The importance matrix saw no token for this expert, so it was quantized without guidance. That is common for "
        "a few experts; many mean that the calibration text was too narrow.",
    ),
    Check("imatrix.mismatch", WARNING, "The importance matrix has no counts for an expert tensor, or other counts."),
    Check("kernels.missing", INFO, "No kernel here multiplies this type: bench and check skip the tensor."),
    Check(
        "kernels.wrong",
        ERROR,
        "On some rows of this tensor the kernel of this machine decodes other weights than ggml, or its products are "
        "beyond their error bound from the float64 oracle. The file is not at fault.",
    ),
)

CHECKS: Mapping[str, Check] = MappingProxyType({row.id: row for row in _ROWS})
