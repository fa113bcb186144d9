"""What cuTensorMapEncodeTiled is asked for, and where its answer goes."""

from __future__ import annotations

import ctypes

import pytest

from mmvq_cli.engine.cuda.tensor_map import tensor_map
from mmvq_cli.errors import LaunchError
from mmvq_cli.op.boxes import Boxes

BOXES = Boxes(width=144, height=98304, box_width=146, box_height=32)
ADDRESS = 0x7F00_0000_0000


@pytest.fixture(autouse=True)
def _forget():
    tensor_map.cache_clear()
    yield
    tensor_map.cache_clear()


def test_the_driver_is_asked_once_for_the_rows_and_the_boxes_of_a_tensor(cuda):
    first, again = tensor_map(BOXES, ADDRESS, "stream"), tensor_map(BOXES, ADDRESS, "stream")
    assert first is again
    (asked,) = cuda.tensor_maps
    assert asked == {
        "type": 4,  # CU_TENSOR_MAP_DATA_TYPE_UINT64
        "rank": 2,
        "address": ADDRESS,
        "dimensions": [144, 98304],
        "strides": [1152],
        "box": [146, 32],
        "element_strides": [1, 1],
        "interleave": 0,
        "swizzle": 0,
        "l2_promotion": 2,
        "fill": 0,
    }
    assert ctypes.sizeof(first) == 128
    assert bytes(first) == cuda.tensor_map_bytes


def test_without_boxes_nobody_is_asked(cuda):
    assert bytes(tensor_map(None, ADDRESS, "stream")) == bytes(128)
    assert cuda.tensor_maps == []


def test_a_refusal_names_the_status_and_the_kernel(cuda):
    cuda.refuses_tensor_maps = True
    with pytest.raises(LaunchError, match="CUDA_ERROR_INVALID_VALUE") as caught:
        tensor_map(BOXES, ADDRESS, "stream")
    assert "stream" in str(caught.value.message)
