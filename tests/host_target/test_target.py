"""The host target itself: each kind of defect, put into a small kernel, is reported, with kernel, block and thread."""

from __future__ import annotations

import ctypes
import re

import numpy as np
import pytest

from mmvq_cli.engine.cuda.source import render
from mmvq_cli.engine.elements import narrow, widen
from mmvq_cli.op import Dtype
from tests.host_target.driver import Array, HostError, HostLaunch, find_compiler, library, pointer_to, run_job

pytestmark = pytest.mark.skipif(bool(find_compiler().missing), reason=find_compiler().missing)

THREADS = 64


def run_kernel(body, n_blocks=1, n_threads=THREADS, seed=0, preempt=0, n_values=64, dynamic_bytes=0):
    """Run `KERNEL probe(const int32_t* in, int32_t* out, int32_t* scratch)`, arrays of `n_values`; returns `out`.

    The first line of the body is line 2 of kernels/probe.cu.
    """
    head = render("ptx.cuh", {"MMVQ_HOST": 1}).text + '#line 1 "kernels/probe.cu"\n'
    text = f"{head}KERNEL probe(const int32_t* in, int32_t* out, int32_t* scratch) {{\n{body}\n(void)scratch;}}\n"
    values = np.arange(n_values, dtype=np.int32)
    arrays = [
        Array("in", values, values.nbytes),
        Array("out", np.zeros_like(values), values.nbytes, writes=True),
        Array("scratch", None, values.nbytes),
    ]
    pointers = tuple(ctypes.c_void_p(pointer_to(index)) for index in range(3))
    launch = HostLaunch(library(text, "probe"), "probe", n_blocks, n_threads, pointers, dynamic_bytes)
    return np.frombuffer(run_job(arrays, [launch], seed, preempt)[0], np.int32)


ROTATE = """
SHARED int32_t values[64];
values[thread_index()] = in[thread_index()];
{barrier}
out[thread_index()] = values[(thread_index() + 33) % 64];
"""


def test_threads_meet_at_a_barrier():
    for seed in range(5):
        assert run_kernel(ROTATE.format(barrier="block_barrier();"), seed=seed).tolist() == [*range(33, 64), *range(33)]


@pytest.mark.parametrize("preempt", [0, 300])
def test_a_missing_barrier_is_a_race_or_an_uninitialized_read(preempt):
    """Whichever thread comes first, under every seed."""
    for seed in range(5):
        with pytest.raises(HostError, match=r"(race|uninitialized): byte \d+ of shared memory is (read|written) at .*"):
            run_kernel(ROTATE.format(barrier=""), seed=seed, preempt=preempt)


COUNTER = """
SHARED int32_t counter, values[64];
if (thread_index() == 0) publish(&counter, 0);
block_barrier();
if (thread_index() == 0) {{ values[in[5]] = 7; publish(&counter, 1); publish(&counter, 3); }}
if (thread_index() == 40) {{ {wait} out[0] = values[in[5]]; }}
"""


def test_what_was_done_before_a_counter_was_raised_is_seen():
    for seed in range(5):
        assert run_kernel(COUNTER.format(wait="out[1] = await(&counter, 2);"), seed=seed)[:2].tolist() == [7, 3]


def test_without_a_look_at_the_counter_it_is_a_race():
    for seed in range(5):
        with pytest.raises(HostError, match=r"(race|uninitialized): byte \d+ of shared memory is (read|written) at .*"):
            run_kernel(COUNTER.format(wait=""), seed=seed)


def test_the_report_names_kernel_block_thread_and_line():
    with pytest.raises(HostError) as error:
        run_kernel("if (block_index() == 2 && thread_index() == 40) out[64] = in[0];", n_blocks=4)
    text = str(error.value)
    assert "heap-buffer-overflow" in text
    assert "WRITE of size 4" in text
    assert re.search(r"in kernel probe, block 2 of 4, thread 40 of 64", text)
    assert re.search(r"kernels/probe\.cu:2", text)


DEFECTS = {
    "read past the end": ("out[thread_index()] = in[thread_index() + 1];", "heap-buffer-overflow"),
    "read before the start": ("out[thread_index()] = in[thread_index() - 1];", "heap-buffer-overflow"),
    "past shared memory": (
        "SHARED int32_t first[16], second[16]; if (thread_index() == 15) first[thread_index() + 1] = second[0] = 0;",
        "global-buffer-overflow|out of bounds",
    ),
    "past a local array": (
        "int32_t a[4] = {}; int32_t* volatile p = a; p[4] = 1; out[thread_index()] = a[0];",
        "stack-buffer-overflow",
    ),
    "uninitialized shared memory": (
        "SHARED int32_t a[64]; out[thread_index()] = a[thread_index()];",
        r"uninitialized: byte \d+ of shared memory is read at kernels/probe\.cu:2",
    ),
    "uninitialized workspace": (
        "out[thread_index()] = scratch[thread_index()];",
        r"uninitialized: byte \d+ of scratch is read at kernels/probe\.cu:2",
    ),
    "write to an input": ("const_cast<int32_t*>(in)[3] = 1;", "in, an input, is written at kernels/probe.cu:2"),
    "threads of a block write one place": ("out[0] = thread_index();", "race: byte 0 of out is written"),
    "blocks write one place": (
        "if (thread_index() == 0) out[0] = block_index();",
        r"race: .* block \d, thread 0 wrote it at kernels/probe\.cu:2",
    ),
    "a sum without atomics": ("out[0] += in[thread_index()];", "race: byte 0 of out"),
    "a plain read of an atomic sum": ("atomic_add(out, 1); out[1 + thread_index() % 8] = *out;", "race: "),
    "a shuffle orders no memory": (
        "out[thread_index()] = 1; shuffle_xor(0, 1); out[thread_index() ^ 1] = 2;",
        "race: ",
    ),
    "half the block at a barrier": ("if (thread_index() < 32) block_barrier();", "divergence: .*block_barrier"),
    "two barriers": (
        "if (thread_index() < 32)\nblock_barrier();\nelse\nblock_barrier();",
        r"divergence: .* block_barrier, kernels/probe\.cu:[35].* block_barrier, kernels/probe\.cu:[35]",
    ),
    "half a warp sums": ("if (lane_index() < 16) out[0] = warp_sum(1);", "divergence: .*warp exchange"),
    "lanes sum at different lines": (
        "int32_t sum;\nif (lane_index() < 16) sum = warp_sum(1);\nelse sum = warp_sum(2);\nout[thread_index()] = sum;",
        r"divergence: .*kernels/probe\.cu:[34].*kernels/probe\.cu:[34]",
    ),
    "a warp waits for a block": (
        "if (warp_index() == 0 && lane_index() == 0) block_barrier(); else warp_sum(1);\nblock_barrier();",
        r"deadlock: no thread of the block can go on\n.*block_barrier.*\n.*warp exchange|divergence",
    ),
    "a counter that nobody raises": (
        "SHARED int32_t n; if (thread_index() == 0) publish(&n, 1); block_barrier(); await(&n, 2);",
        r"deadlock: no thread of the block can go on\n.*64 threads.* wait at await, kernels/probe\.cu:2",
    ),
    "a counter that was not set": (
        "SHARED int32_t n; await(&n, 0);",
        "uninitialized: nothing was published .*probe.cu:2",
    ),
    "a misaligned vector": (
        "out[0] = static_cast<int32_t>(load_streaming(reinterpret_cast<const uint4*>(in + 1)).x);",
        "misaligned address",
    ),
    "signed overflow": ("out[thread_index()] = 2147483600 + in[thread_index()];", "signed integer overflow"),
    "a shift too far": ("out[thread_index()] = in[1] << (in[thread_index()] + 1);", "shift exponent"),
    "an endless loop": ("while (in[0] == 0) warp_sum(1);", "out of time"),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_reported(name, monkeypatch):
    body, message = DEFECTS[name]
    monkeypatch.setattr("tests.host_target.driver.TIMEOUT_S", 1 if "endless" in name else 60)
    with pytest.raises(HostError) as error:
        run_kernel(body, n_blocks=2 if "blocks" in name else 1)
    assert re.search(message, str(error.value)), error.value
    assert re.search(r"in kernel probe, block \d of \d", str(error.value)), error.value


def test_floats_are_rounded_to_16_bits_as_numpy_does():
    """Every sign, exponent and three bits of the mantissa, with the other bits clear, set and at random."""
    words = "const uint32_t low[4] = {0, 1, 0xFFFFFu, i * 2654435761u >> 12};"
    value = "const float x = bits_to_float(i << 20 | low[k]);"
    result = (
        "out[4 * i + k] = static_cast<int32_t>(float_to_half(x) | static_cast<uint32_t>(float_to_bfloat(x)) << 16);"
    )
    loop = f"for (int k = 0; k < 4; ++k) {{ {value} {result} }}"
    found = run_kernel(f"for (uint32_t i = thread_index(); i < 4096; i += 64) {{ {words} {loop} }}", n_values=4 * 4096)
    i = np.arange(4096, dtype=np.uint32)
    low = np.stack([0 * i, 0 * i + 1, 0 * i + 0xFFFFF, i * np.uint32(2654435761) >> 12], axis=1)
    values = (i[:, None] << 20 | low).reshape(-1).view(np.float32)
    for dtype, bits in ((Dtype.F16, found & 0xFFFF), (Dtype.BF16, found >> 16 & 0xFFFF)):
        expected = widen(narrow(values, dtype), dtype)
        np.testing.assert_array_equal(widen(bits.astype(np.uint16).view(narrow(values, dtype).dtype), dtype), expected)


def test_atomic_sums_are_no_race():
    body = "atomic_add(out, in[thread_index()]); atomic_compare_and_swap(out + 1, 0, 5);"
    assert run_kernel(body, n_blocks=3, preempt=300)[:2].tolist() == [3 * 63 * 32, 5]


def test_the_schedule_depends_on_the_seed_alone():
    body = "out[atomic_add(scratch, 0)] = 0; block_barrier();"
    order = "SHARED int32_t turn; if (thread_index() == 0) turn = 0; block_barrier();"
    order += "out[atomic_add(&turn, 1)] = thread_index();"
    orders = [tuple(run_kernel(order, seed=seed)) for seed in (1, 1, 2, 3)]
    assert orders[0] == orders[1]
    assert len(set(orders)) == 3
    assert sorted(orders[0]) == list(range(64))
    with pytest.raises(HostError, match="uninitialized"):
        run_kernel(body)


def test_more_threads_than_a_block_has_are_no_matter():
    """The largest block, twice, so that stacks are used again."""
    body = "SHARED int32_t n; if (thread_index() == 0) n = 0; block_barrier(); atomic_add(&n, 1); block_barrier();"
    body += "if (thread_index() == 0) out[block_index()] = n;"
    assert run_kernel(body, n_blocks=2, n_threads=1024)[:2].tolist() == [1024, 1024]


def test_a_source_that_does_not_compile_says_why():
    with pytest.raises(HostError, match=r"kernels/probe\.cu:2.*error"):
        run_kernel("oops;")
