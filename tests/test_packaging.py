"""The wheel holds the kernels and configs of the checkout, nothing at top level but `mmvq_cli`, and works elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from mmvq_cli import __version__
from mmvq_cli.resources import resource_root

ROOT = Path(__file__).resolve().parents[1]


def build(target, folder):
    """Build without isolation and without a network; returns the one archive made."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (archive,) = folder.iterdir()
    return archive


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build("wheel", tmp_path_factory.mktemp("wheel"))


def files_below(folder):
    """Paths relative to `folder` of everything that belongs to the project."""
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in paths}


@pytest.mark.parametrize("name", ["kernels", "configs"])
def test_the_wheel_carries_every_file_of(wheel, name):
    prefix = f"mmvq_cli/{name}/"
    packed = {entry.removeprefix(prefix) for entry in zipfile.ZipFile(wheel).namelist() if entry.startswith(prefix)}
    assert packed == files_below(ROOT / name)
    assert packed


def test_the_wheel_carries_every_module_and_nothing_else_at_top_level(wheel):
    entries = zipfile.ZipFile(wheel).namelist()
    modules = {entry for entry in entries if entry.endswith(".py")}
    assert modules == {f"mmvq_cli/{path}" for path in files_below(ROOT / "mmvq_cli") if path.endswith(".py")}
    assert {entry.split("/")[0] for entry in entries} == {"mmvq_cli", f"mmvq-{__version__}.dist-info"}
    assert not [entry for entry in entries if entry.startswith(("mmvq_cli/tests/", "tests/", "kernels/"))]


def test_the_wheel_carries_the_licences_and_the_command(wheel):
    archive = zipfile.ZipFile(wheel)
    info = f"mmvq-{__version__}.dist-info"
    assert {f"{info}/licenses/LICENSE", f"{info}/licenses/THIRD_PARTY.md"} <= set(archive.namelist())
    assert "mmvq = mmvq_cli.cli:main" in archive.read(f"{info}/entry_points.txt").decode()
    metadata = archive.read(f"{info}/METADATA").decode()
    assert "License-Expression: MIT" in metadata
    assert {"cuda12", "cuda13", "fast", "dev"} == {
        line.removeprefix("Provides-Extra: ") for line in metadata.splitlines() if line.startswith("Provides-Extra")
    }


@pytest.mark.parametrize("name", ["kernels", "configs"])
def test_the_wheel_finds_its_own_files_outside_the_checkout(wheel, tmp_path, name):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = f"from mmvq_cli.resources import resource_root; print(resource_root({name!r}))"
    environment = os.environ | {"PYTHONPATH": str(site)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert Path(result.stdout.strip()) == (site / "mmvq_cli" / name).resolve()


@pytest.mark.parametrize("name", ["kernels", "configs"])
def test_a_checkout_uses_its_live_folder(name):
    assert resource_root(name) == ROOT / name


def test_the_source_archive_builds_and_holds_what_a_wheel_needs(tmp_path):
    with tarfile.open(build("sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {f"{folder}/{path}" for folder in ("kernels", "configs") for path in files_below(ROOT / folder)}
    assert needed | {"pyproject.toml", "README.md", "LICENSE", "THIRD_PARTY.md", "mmvq_cli/resources.py"} <= names
    assert not [name for name in names if name.startswith((".venv", "results/local"))]
