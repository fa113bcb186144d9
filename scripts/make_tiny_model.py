"""Write `configs/models/tiny-moe.gguf`, the packaged model of the smoke suite.

One layer, eight experts, top-2, random Gaussian weights; gate and up in Q4_K, down in Q6_K, quantized by libgguf. The
output is a pure function of this file and of the versions of gguf and libgguf.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import libgguf
import numpy as np

N_EMBD, N_FF, N_EXPERTS, TOP_K = 256, 256, 8, 2
TARGET = Path(__file__).resolve().parents[1] / "configs" / "models" / "tiny-moe.gguf"


def main() -> None:
    """Write the file."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(TARGET, "qwen3moe")
    writer.add_name("tiny-moe")
    writer.add_block_count(1)
    writer.add_embedding_length(N_EMBD)
    writer.add_expert_count(N_EXPERTS)
    writer.add_expert_used_count(TOP_K)
    writer.add_expert_feed_forward_length(N_FF)
    writer.add_tensor("blk.0.ffn_gate_inp.weight", rng.standard_normal((N_EXPERTS, N_EMBD), dtype=np.float32))
    for role, type_ in (("gate", "Q4_K"), ("up", "Q4_K"), ("down", "Q6_K")):
        shape = (N_EXPERTS, N_EMBD, N_FF) if role == "down" else (N_EXPERTS, N_FF, N_EMBD)
        weights = 0.05 * rng.standard_normal(shape, dtype=np.float32)
        kind = gguf.GGMLQuantizationType[type_]
        packed = libgguf.quantize_rows(weights.reshape(-1, shape[-1]), kind)
        packed = np.asarray(packed).reshape(*shape[:2], -1)
        writer.add_tensor(f"blk.0.ffn_{role}_exps.weight", packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
