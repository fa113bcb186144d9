"""gguf's type enum, block-size table, key and tensor names, loaded without the rest of the package.

`import gguf` runs its `__init__`, which pulls in numpy, yaml and requests (0.35 s measured); `gguf/constants.py`
alone takes 0.03 s, and commands that only read headers need nothing else. The module is registered under its own
name, so a later `import gguf` finds it and there is only ever one enum.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gguf.constants import GGML_QUANT_SIZES as GGML_QUANT_SIZES
    from gguf.constants import MODEL_TENSOR as MODEL_TENSOR
    from gguf.constants import TENSOR_NAMES as TENSOR_NAMES
    from gguf.constants import GGMLQuantizationType as GGML
    from gguf.constants import GGUFValueType as GGUFValueType
    from gguf.constants import Keys as Keys
else:

    def _load_constants() -> ModuleType:
        name = "gguf.constants"
        if name in sys.modules:
            return sys.modules[name]
        package = importlib.util.find_spec("gguf")
        path = Path(package.submodule_search_locations[0]) / "constants.py"
        spec = importlib.util.spec_from_file_location(name, path)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    _constants = _load_constants()
    GGML_QUANT_SIZES = _constants.GGML_QUANT_SIZES
    MODEL_TENSOR = _constants.MODEL_TENSOR
    TENSOR_NAMES = _constants.TENSOR_NAMES
    GGML = _constants.GGMLQuantizationType
    GGUFValueType = _constants.GGUFValueType
    Keys = _constants.Keys

__all__ = ["GGML", "GGML_QUANT_SIZES", "MODEL_TENSOR", "TENSOR_NAMES", "GGUFValueType", "Keys"]
