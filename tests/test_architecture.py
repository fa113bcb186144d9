"""The rooms of the house: imports point one way, heavy packages stay in their rooms, doors and docstrings are whole."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import namedtuple
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mmvq_cli"

# A room may import rooms of a lower rank, itself, and EVERYWHERE; a new room or top module gets its row here.
RANK = {
    "mmvq_cli": 0,
    "errors": 1,
    "resources": 2,
    "driver": 2,
    "op": 3,
    "model": 4,
    "routing": 5,
    "engine": 6,
    "check": 7,
    "measure": 7,
    "record": 8,
    "validate": 8,
    "compare": 9,
    "suite": 9,
    "tuning": 9,
    "edges": 10,
    "recording": 10,
    "session": 10,
    "run": 11,
    "worker": 12,
    "runner": 13,
    "paired": 13,
    "report": 14,
    "cli": 15,
    "__main__": 16,
}
EVERYWHERE = ("mmvq_cli.errors", "mmvq_cli.op.formats")

# Which folders or modules may import a package; one that is not named here may be imported by all.
HOMES = {
    "typer": ("mmvq_cli.cli",),
    "click": ("mmvq_cli.cli",),
    "rich": ("mmvq_cli.cli", "mmvq_cli.report"),
    "cupy": ("mmvq_cli.engine.cuda", "mmvq_cli.measure"),
    "cupy_backends": ("mmvq_cli.engine.cuda", "mmvq_cli.measure"),
    "cupyx": ("mmvq_cli.engine.cuda", "mmvq_cli.measure"),
    "pynvml": ("mmvq_cli.engine.cuda", "mmvq_cli.measure"),
    "pandas": ("mmvq_cli.report", "mmvq_cli.record"),
    "libgguf": ("mmvq_cli.engine.cpu",),
}

Import = namedtuple("Import", "module line")


def name_of(path):
    """The dotted name of a module file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(tree):
    """Every import of a module, also those inside functions; `from package import name` counts as `package.name`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield from (Import(f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def room_of(module):
    """The first part below the package; the package itself for its own names, such as __version__."""
    _, *below = module.split(".")
    if below and ((PACKAGE / below[0]).is_dir() or (PACKAGE / f"{below[0]}.py").is_file()):
        return below[0]
    return "mmvq_cli"


def is_below(module, homes):
    return any(module == home or module.startswith(home + ".") for home in homes)


def wrong_imports(name, tree):
    """The imports of module `name` that break a rule, each as one line."""
    room = room_of(name)
    for module, line in imports_of(tree):
        package = module.split(".")[0]
        if package == "mmvq_cli":
            target = room_of(module)
            if target != room and RANK[target] >= RANK[room] and not is_below(module, EVERYWHERE):
                yield f"{name}:{line} imports {module}: {room} is not above {target}"
        elif package in HOMES and not is_below(name, HOMES[package]):
            yield f"{name}:{line} imports {package}, which belongs to {' and '.join(HOMES[package])}"


def undocumented(name, tree):
    """The module, public classes, functions and methods without a docstring."""

    def visit(node, path):
        if ast.get_docstring(node) is None:
            yield path
        for child in ast.iter_child_nodes(node):
            is_scope = isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            if is_scope and not child.name.startswith("_") and not isinstance(node, ast.FunctionDef):
                yield from visit(child, f"{path}.{child.name}")

    overloads = {"overload", "typing.overload"}
    tree.body = [
        node
        for node in tree.body
        if not overloads & {ast.unparse(decorator) for decorator in getattr(node, "decorator_list", ())}
    ]
    yield from visit(tree, name)


def door_key(name):
    """The order of ruff's RUF022: CONSTANTS, then Classes, then functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def door_faults(tree):
    """What a room's `__init__.py` holds beyond its docstring, its imports and a sorted, complete `__all__`."""
    exported, imported = [], set()
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.ImportFrom):
            if node.module != "__future__":
                imported |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            exported = ast.literal_eval(node.value)
        else:
            yield f"line {node.lineno}: {ast.unparse(node).splitlines()[0]}"
    if set(exported) != imported:
        yield f"__all__ and the imports differ: {sorted(set(exported) ^ imported)}"
    if exported != sorted(exported, key=door_key):
        yield "__all__ is not sorted"


# The distribution of a module whose name is another.
DISTRIBUTIONS = {
    "cupy": "cupy-cuda13x",
    "cupy_backends": "cupy-cuda13x",
    "cuda": "cupy-cuda13x",
    "pynvml": "nvidia-ml-py",
}


def declared():
    """The packages that pyproject.toml names, without those of development."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requirements = project["dependencies"] + extras["cuda13"] + extras["fast"]
    return {re.match(r"[a-z0-9-]+", requirement).group() for requirement in requirements}


MODULES = {name_of(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
DOORS = {name_of(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.glob("*/**/__init__.py"))}


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way_and_heavy_packages_stay_home(name):
    assert room_of(name) in RANK, f"give {name} a row in RANK"
    assert list(wrong_imports(name, MODULES[name])) == []


def test_every_package_that_is_imported_is_declared():
    roots = {module.split(".")[0] for tree in MODULES.values() for module, _ in imports_of(tree)}
    used = {DISTRIBUTIONS.get(root, root) for root in roots - set(sys.stdlib_module_names) - {"mmvq_cli"}}
    assert used - declared() == set()


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_a_docstring(name):
    assert list(undocumented(name, MODULES[name])) == []


@pytest.mark.parametrize("name", DOORS)
def test_a_door_exports_its_public_names_and_nothing_else(name):
    assert list(door_faults(DOORS[name])) == []


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("mmvq_cli.op.plan", "from mmvq_cli.engine import Engine", "op is not above engine"),
        ("mmvq_cli.model.reader", "from mmvq_cli.routing import Routing", "model is not above routing"),
        ("mmvq_cli.engine.cpu.engine", "def f():\n    import cupy", "imports cupy"),
        ("mmvq_cli.measure.timer", "import rich.table", "imports rich"),
        ("mmvq_cli.report.table", "import typer", "imports typer"),
    ],
)
def test_a_wrong_import_is_seen(name, source, words):
    (fault,) = wrong_imports(name, ast.parse(source))
    assert words in fault


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("mmvq_cli.resources", "from mmvq_cli.op.formats import FORMATS"),
        ("mmvq_cli.errors", "from mmvq_cli import __version__"),
        ("mmvq_cli.engine.cuda.launch", "import cupy"),
        ("mmvq_cli.cli.bench", "from mmvq_cli.run import run_case\nimport typer"),
    ],
)
def test_a_right_import_passes(name, source):
    assert list(wrong_imports(name, ast.parse(source))) == []


def test_missing_docstrings_and_bad_doors_are_seen():
    source = '"""Doc."""\nclass A:\n    """Doc."""\n    def b(self): ...\n    def _c(self): ...\ndef d(): ...\n'
    assert list(undocumented("m", ast.parse(source))) == ["m.A.b", "m.d"]
    door = '"""Doc."""\nfrom m.a import A, b\nx = 1\n__all__ = ["b", "A", "C"]\n'
    assert list(door_faults(ast.parse(door))) == [
        "line 3: x = 1",
        "__all__ and the imports differ: ['C']",
        "__all__ is not sorted",
    ]


def test_the_command_line_starts_without_heavy_packages():
    heavy = {"cupy", "gguf", "numpy", "pandas", "requests"}
    code = f"import sys, mmvq_cli.cli; print(sorted({heavy!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
