"""Arguments against the descriptor: every rule, in the contract's order; no device memory is read."""

import numpy as np
import pytest

from mmvq_cli.errors import InvalidProblem
from mmvq_cli.op import CPU, FORMATS, Args, Device, Dtype, Rows
from mmvq_cli.op.args import bind
from tests.op.problems import make_args, make_descriptor

GPU = Device(name="gpu", backend="cuda", compute_capability=(9, 0))
D = make_descriptor(activation_rows=Rows.DISPATCH, m_total=7)  # rows: 7 activations, 4 outputs
F32, I32 = np.float32, np.int32


class OnGpu:
    """An array of somebody's CUDA library: its facts, and an address that nobody may read."""

    def __init__(self, shape, typestr, pointer=0x7F0000000000, index=0, strides=None, device=True):
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": typestr,
            "data": (pointer, False),
            "strides": strides,
            "version": 3,
        }
        if device:
            self.device = type("Gpu", (), {"id": index})()


def gpu_args(d=D, **changes):
    arrays = {
        "weights": OnGpu((d.weight_bytes,), "|u1"),
        "activations": OnGpu((d.activation_row_count, d.n_cols), "<f4"),
        "sorted_token_ids": OnGpu((d.m_total,), "<i4"),
        "expert_offsets": OnGpu((d.n_experts + 1,), "<i4"),
        "topk_weights": OnGpu((d.m_total,), "<f4"),
        "output": OnGpu((d.output_row_count, d.n_rows_per_expert), "<f4"),
    }
    return Args(**(arrays | changes))


# One way to break each rule, in the contract's order: (array changes, words of the message).
RULES = [
    ({"activations": np.zeros((4, 64), F32)}, ("activations has 4 rows", "m_total is 7")),
    ({"output": np.zeros((7, 5), F32)}, ("output has 7 rows", "m_tokens is 4")),
    ({"activations": np.zeros((7, 32), F32)}, ("activations have 32 columns", "n_cols is 64")),
    ({"output": np.zeros((4, 6), F32)}, ("output has 6 columns", "n_rows_per_expert is 5")),
    ({"sorted_token_ids": np.zeros(8, I32)}, ("sorted_token_ids has shape (8,)", "(7,)", "m_total")),
    ({"expert_offsets": np.zeros(3, I32)}, ("expert_offsets has shape (3,)", "(4,)", "n_experts + 1")),
    ({"topk_weights": np.zeros(6, F32)}, ("topk_weights has shape (6,)", "(7,)", "m_total")),
    ({"topk_weights": np.zeros(7, np.float64)}, ("topk_weights has dtype f64", "f32")),
    ({"activations": np.zeros((7, 128), F32)[:, ::2]}, ("activations is not C-contiguous",)),
    ({"expert_offsets": OnGpu((4,), "<i4")}, ("expert_offsets is on cuda 0", "cpu")),
    ({"weights": np.zeros(3 * 5 * 68 - 1, np.uint8)}, ("weights have 1019 bytes", "need 1020", "3 experts of 5 x 64")),
]


def cpu_args(**changes):
    return make_args(D, weighted=True, **changes)


def message_of(args, device=CPU, descriptor=D):
    with pytest.raises(InvalidProblem) as caught:
        bind(args, descriptor, device)
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize(("changes", "words"), RULES)
def test_a_broken_rule_names_value_rule_and_way_out(changes, words):
    message = message_of(cpu_args(**changes))
    assert all(word in message for word in words)


@pytest.mark.parametrize("first", range(len(RULES)))
def test_of_many_broken_rules_the_first_is_reported(first):
    broken = {}
    for changes, _ in reversed(RULES[first:]):
        broken |= changes
    assert RULES[first][1][0] in message_of(cpu_args(**broken))


def test_right_arguments_pass_also_longer_weights_and_no_topk_weights():
    views = bind(cpu_args(), D, CPU)
    assert views.weights.n_bytes == D.weight_bytes
    longer = bind(cpu_args(weights=np.zeros(2 * D.weight_bytes, np.uint8), topk_weights=None), D, CPU)
    assert longer.topk_weights is None


def test_something_that_is_no_array_is_named():
    assert "sorted_token_ids is a list" in message_of(cpu_args(sorted_token_ids=[0] * 7))


def test_a_vector_is_no_matrix():
    assert "output has 1 dimensions" in message_of(cpu_args(output=np.zeros(20, F32)))


def test_a_read_only_output_is_refused_but_read_only_inputs_are_fine():
    args = cpu_args()
    args.output.flags.writeable = False
    assert "output is read-only" in message_of(args)
    args = cpu_args()
    args.weights.flags.writeable = False
    bind(args, D, CPU)


@pytest.mark.parametrize(
    ("format", "numpy_dtype", "fits"),
    [("F32", F32, True), ("F16", np.float16, True), ("BF16", np.uint16, True), ("F16", F32, False)],
)
def test_dense_weights_are_accepted_as_such_and_as_bytes(format, numpy_dtype, fits):
    d = make_descriptor(format=FORMATS[format])
    weights = np.zeros((3, 5, 64), numpy_dtype)
    if fits:
        bind(make_args(d, weights=weights), d, CPU)
        bind(make_args(d, weights=weights.view(np.uint8)), d, CPU)
    else:
        assert "weights has dtype f32" in message_of(make_args(d, weights=weights), descriptor=d)


def test_quantized_weights_are_bytes_only():
    assert "weights has dtype f32, it must be u8" in message_of(cpu_args(weights=np.zeros(2000, F32)))


@pytest.mark.parametrize("dtype", [Dtype.F16, Dtype.BF16])
def test_activations_and_output_have_the_descriptors_dtype(dtype):
    d = make_descriptor(dtype=dtype)
    bind(make_args(d), d, CPU)
    wrong = make_args(d, activations=np.zeros((4, 64), F32))
    assert "activations has dtype f32" in message_of(wrong, descriptor=d)


def test_arrays_on_a_gpu_are_bound_without_being_read():
    views = bind(gpu_args(), D, GPU)
    assert views.output.backend == "cuda"
    bind(gpu_args(weights=OnGpu((2000,), "|u1", device=False)), D, GPU)  # an index that is not told cannot be wrong


def test_the_wrong_gpu_and_the_wrong_side_are_named():
    assert "output is on cuda 1" in message_of(gpu_args(output=OnGpu((4, 5), "<f4", index=1)), GPU)
    host = np.zeros(7, F32)
    assert "topk_weights is on cpu 0, the plan is for cuda 0" in message_of(gpu_args(topk_weights=host), GPU)


def test_cuda_weights_are_aligned_to_vector_loads():
    odd = OnGpu((D.weight_bytes,), "|u1", pointer=0x7F0000000008)
    message = message_of(gpu_args(weights=odd), GPU)
    assert "0x7f0000000008" in message
    assert "multiple of 16" in message
    shifted = np.zeros(D.weight_bytes + 1, np.uint8)[1:]
    bind(cpu_args(weights=shifted), D, CPU)  # the CPU reads any address


def test_0_size_arrays_fit_an_empty_problem():
    d = make_descriptor(m_total=0, m_tokens=0)
    assert bind(make_args(d), d, CPU).output.n_bytes == 0
