"""The device decoders, compiled for the host, against ggml's C output and gguf-py: bit for bit.

Everything runs under the address and undefined-behaviour sanitizers where the compiler has them, so a read outside a
block or a misaligned one fails too.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mmvq_cli.engine.cuda.source import format_defines, render
from mmvq_cli.op.formats import FORMATS, Format

ZOO = Path(__file__).parents[1] / "data" / "models" / "format-zoo.npz"
SHIM = (Path(__file__).parent / "host_shim.cpp").read_text(encoding="utf-8")
FLAGS = ["-std=c++17", "-O1", "-ffp-contract=off", "-fno-fast-math"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
COMPILER = shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler on this machine")


@pytest.fixture(scope="session")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The compiler's flags: with the sanitizers unless it lacks their run-time libraries."""
    probe = tmp_path_factory.mktemp("probe")
    (probe / "main.cpp").write_text("int main() { return 0; }\n")
    command = [COMPILER, *FLAGS, *SANITIZE, str(probe / "main.cpp"), "-o", str(probe / "main")]
    works = (
        subprocess.run(command, capture_output=True).returncode == 0
        and subprocess.run([probe / "main"]).returncode == 0
    )
    return FLAGS + SANITIZE if works else FLAGS


@pytest.fixture(scope="session")
def programs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for compiled programs that outlives the run, so that only changed sources are compiled again."""
    cache = getattr(request.config, "cache", None)  # absent under -p no:cacheprovider
    return cache.mkdir("host-formats") if cache else tmp_path_factory.mktemp("host-formats")


@pytest.fixture(scope="session")
def decode(programs: Path, flags: list[str]):
    """decode(format, packed u8 [rows, row_bytes], n_cols) -> float32 [rows, n_cols]; programs are named by hash."""

    def run(format: Format, packed: np.ndarray, n_cols: int) -> np.ndarray:
        source = render("format.cuh", {**format_defines(format), "MMVQ_HOST": 1}).text + SHIM
        key = hashlib.sha256(repr((COMPILER, flags, source)).encode()).hexdigest()
        program = programs / f"{format.name}-{key[:16]}"
        if not program.exists():
            build(source, program)
        command = [program, str(n_cols), str(packed.nbytes)]
        result = subprocess.run(command, input=packed.tobytes(), capture_output=True)
        assert result.returncode == 0, f"exit {result.returncode} (see host_shim.cpp) {result.stderr.decode()}"
        return np.frombuffer(result.stdout, dtype=np.float32).reshape(len(packed), n_cols)

    def build(source: str, program: Path) -> None:
        fresh = program.with_name(f"{program.name}.{os.getpid()}")  # test processes may share the folder
        command = [COMPILER, *flags, "-x", "c++", "-", "-o", str(fresh)]
        result = subprocess.run(command, input=source, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        fresh.replace(program)

    return run


def reference(format: Format, packed: np.ndarray) -> np.ndarray:
    """What gguf-py says; it has no Q8_K, which is d * q (float32 d, then int8 q)."""
    from gguf import quants

    with np.errstate(invalid="ignore", over="ignore"):
        if format.name == "Q8_K":
            blocks = packed.reshape(-1, format.type_size)
            d, q = blocks[:, :4].copy().view(np.float32), blocks[:, 4:260].copy().view(np.int8)
            return (d * q.astype(np.float32)).reshape(len(packed), -1)
        return quants.dequantize(packed, format.type).astype(np.float32)


def assert_same_bits(actual: np.ndarray, expected: np.ndarray) -> None:
    """Equal bit patterns, signs of zeros included; any NaN equals any other."""
    same = (actual.view(np.uint32) == expected.view(np.uint32)) | (np.isnan(actual) & np.isnan(expected))
    where = np.argwhere(~same)
    assert same.all(), f"{len(where)} differ, first at {where[0]}: {actual[~same][0]!r} is not {expected[~same][0]!r}"


def random_blocks(format: Format, n_blocks: int, seed: int) -> np.ndarray:
    """Uniformly random bytes [n_blocks, type_size]: every scale code, infinite and NaN ones included."""
    return np.random.default_rng(seed).integers(0, 256, (n_blocks, format.type_size), dtype=np.uint8)


BLOCK_FORMATS = [format for format in FORMATS.values() if not format.is_float]
ZOO_FORMATS = [format for format in BLOCK_FORMATS if format.name != "Q8_K"]


@pytest.mark.parametrize("format", ZOO_FORMATS, ids=str)
def test_matches_the_c_dequantizer_of_ggml(format, decode):
    with np.load(ZOO) as zoo:
        packed, expected = zoo[f"{format}.blocks"], zoo[f"{format}.f32"]
    rows = packed.reshape(-1, packed.shape[-1])
    assert_same_bits(decode(format, rows, expected.shape[-1]), expected.reshape(len(rows), -1))


@pytest.mark.parametrize("format", BLOCK_FORMATS, ids=str)
def test_matches_gguf_on_random_bytes(format, decode):
    blocks = random_blocks(format, 2000, seed=format.id)
    assert_same_bits(decode(format, blocks, format.block_size), reference(format, blocks))


@pytest.mark.parametrize("format", [format for format in BLOCK_FORMATS if format.scales], ids=str)
def test_matches_gguf_with_tiny_and_special_scales(format, decode):
    """Every scale field takes zeros, subnormals, the largest values, infinities and NaN in turn."""
    codes = {
        "f16": np.array([0, 1, 0x3FF, 0x400, 0x7BFF, 0x7C00, 0x7E00, 0x8000, 0x8001, 0x83FF, 0xFC00], "<u2"),
        "f32": np.array([0, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000, 0x7FC00000, 1 << 31, 1 | 1 << 31], "<u4"),
        "e8m0": np.arange(256, dtype="u1"),
        "ue4m3": np.arange(256, dtype="u1"),
        "iq1m": np.array([0, 1, 0x3FF, 0x400, 0x7BFF, 0x7C00, 0x8001], "<u2"),
    }
    blocks = random_blocks(format, 256, seed=1)
    for number, (kind, offset) in enumerate(format.scales):
        values = np.roll(np.resize(codes[kind], 256), number)
        if kind == "iq1m":
            for i in range(4):  # nibble i of the fp16 is the top nibble of scale word i
                byte = blocks[:, offset + 2 * i + 1]
                byte[:] = byte & 0x0F | (values >> 4 * i & 15).astype(np.uint8) << 4
        else:
            blocks[:, offset : offset + values.itemsize] = values.view(np.uint8).reshape(256, -1)
    assert_same_bits(decode(format, blocks, format.block_size), reference(format, blocks))


def test_every_half_scale_is_exact(decode):
    format = FORMATS["Q8_0"]
    blocks = random_blocks(format, 1 << 16, seed=2)
    blocks[:, :2] = np.arange(1 << 16, dtype="<u2").view(np.uint8).reshape(-1, 2)
    assert_same_bits(decode(format, blocks, 32), reference(format, blocks))


@pytest.mark.parametrize("n_cols", [1, 7, 8, 50, 96])
@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_plain_rows_of_any_length(name, n_cols, decode):
    """The shim also checks that weights past the end of the row are 0."""
    format = FORMATS[name]
    packed = np.random.default_rng(n_cols).integers(0, 256, (40, n_cols * format.type_size), dtype=np.uint8)
    assert_same_bits(decode(format, packed, n_cols), reference(format, packed))


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_every_16_bit_float(name, decode):
    packed = np.arange(1 << 16, dtype="<u2").view(np.uint8).reshape(-1, 128)
    assert_same_bits(decode(FORMATS[name], packed, 64), reference(FORMATS[name], packed))
