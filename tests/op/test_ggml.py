"""gguf's constants without gguf: cheap, and the same objects as a later `import gguf` gives."""

import subprocess
import sys

import pytest

SAME = "assert GGML is gguf.GGMLQuantizationType and sizes is gguf.GGML_QUANT_SIZES and Keys is gguf.Keys"
OURS = "from mmvq_cli.op.ggml import GGML, GGML_QUANT_SIZES as sizes, Keys"


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("order", [(OURS, "import gguf"), ("import gguf", OURS)])
def test_there_is_only_one_enum_whoever_comes_first(order):
    result = run("\n".join((*order, SAME, "from gguf.quants import dequantize")))
    assert result.returncode == 0, result.stderr


def test_the_package_itself_is_not_imported():
    result = run(f"{OURS}\nimport sys\nassert not {{'gguf', 'numpy', 'requests'}} & set(sys.modules)")
    assert result.returncode == 0, result.stderr
