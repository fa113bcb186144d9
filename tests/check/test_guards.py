"""Poison and guard bands."""

import numpy as np
import pytest

from mmvq_cli.check.guards import GUARD_BYTES, GuardedOutput, checksum
from mmvq_cli.engine.cpu import CpuEngine
from mmvq_cli.engine.elements import narrow, widen
from mmvq_cli.op import Dtype


def guarded(dtype=Dtype.F32, shape=(6, 7)):
    return GuardedOutput.allocate(CpuEngine(), shape, dtype)


@pytest.mark.parametrize("dtype", list(Dtype))
def test_poison_is_nan_in_every_element_and_the_bands_are_4_kib(dtype):
    output = guarded(dtype)
    assert output.array.shape == (6, 7)
    assert np.isnan(widen(output.array, dtype)).all()
    assert output.unwritten(output.array.copy()) == 42
    assert output.damaged() == 0
    assert output.allocation.nbytes == output.array.nbytes + 2 * 4096


@pytest.mark.parametrize("dtype", list(Dtype))
def test_one_element_that_was_not_written_is_found(dtype):
    output = guarded(dtype)
    kept = output.array[3, 4].copy()
    output.array[...] = narrow(np.ones((6, 7), np.float32), dtype)
    assert output.unwritten(output.array) == 0
    output.array[3, 4] = kept
    if dtype is Dtype.F32:
        output.array.view(np.uint32)[3, 4] = 0x7FC0DEAD  # a copy through a float register may change a payload
    assert output.unwritten(output.array) == 1


@pytest.mark.parametrize("dtype", list(Dtype))
def test_a_nan_that_arithmetic_makes_counts_as_written(dtype):
    output = guarded(dtype)
    output.array[...] = narrow(np.full((6, 7), np.nan, np.float32), dtype)
    assert output.unwritten(output.array) == 0


@pytest.mark.parametrize("position", [0, GUARD_BYTES - 1, -GUARD_BYTES, -1])
def test_one_byte_beside_the_output_is_found(position):
    output = guarded()
    output.allocation[position] ^= 1
    assert output.damaged() == 1
    output.poison()
    assert output.damaged() == 0


def test_an_empty_output_has_bands_too():
    output = guarded(shape=(0, 7))
    assert output.unwritten(output.array) == 0
    output.allocation[GUARD_BYTES] = 0
    assert output.damaged() == 1


@pytest.mark.parametrize("n_bytes", [1, 3, 4, 5, 1000, 1027])
def test_a_checksum_sees_any_changed_byte(n_bytes):
    data = np.random.default_rng(0).integers(0, 256, n_bytes, dtype=np.uint8)
    before = checksum(data)
    assert checksum(data.copy()) == before
    for position in (0, n_bytes // 2, n_bytes - 1):
        data[position] ^= 0x10
        assert checksum(data) != before
        data[position] ^= 0x10


def test_a_checksum_takes_any_dtype():
    assert checksum(np.ones((3, 5), np.float16)) == checksum(np.ones(15, np.float16).view(np.uint8))
    assert checksum(np.empty(0, np.int32)) == 0
