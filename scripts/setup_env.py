"""Make `.venv` with locked versions: `python -m scripts.setup_env bench|test`, from the top folder.

`bench` installs what the driver of this machine can run (`requirements/cuda13.txt`, `cuda12.txt` or `cpu.txt`);
`test` installs `dev.txt` and a CUDA set, because NVRTC compiles kernels without a GPU. A stamp in `.venv` records what
was installed from which lock files, so that a second run does nothing. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import venv
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mmvq_cli.driver import CUDA_EXTRAS, Driver, query_driver

ROOT = Path(__file__).resolve().parents[1]
CUDA_SETS = frozenset(extra for extra, _ in CUDA_EXTRAS)
NEWEST_CUDA_SET = CUDA_EXTRAS[0][0]


class SetupError(Exception):
    """A step of the set-up that failed, in words for the user."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a `.venv` holds: its Python, the digest of all lock files and pyproject.toml, and the sets installed."""

    python: str = ""
    digest: str = ""
    sets: tuple[str, ...] = ()


def choose_sets(purpose: str, driver: Driver) -> tuple[str, ...]:
    """Name the lock files (by stem) that `purpose` (`bench` or `test`) needs beside this driver."""
    if purpose == "test":
        return "dev", driver.extra or NEWEST_CUDA_SET
    return (driver.extra or "cpu",)


def is_satisfied(wanted: Stamp, found: Stamp) -> bool:
    """Whether a `.venv` already holds all of `wanted`; every set contains the set `cpu`."""
    if (wanted.python, wanted.digest) != (found.python, found.digest):
        return False
    return {*wanted.sets} <= {*found.sets, "cpu"}


def must_start_over(wanted: Stamp, found: Stamp) -> bool:
    """Whether `.venv` has to be emptied first: another Python, or CuPy for another CUDA: two break each other."""
    if not found.python:
        return False
    return wanted.python != found.python or len(CUDA_SETS & {*wanted.sets, *found.sets}) > 1


def set_up(purpose: str, root: Path, driver: Driver) -> None:
    """Bring `root/.venv` to the locked versions for `purpose`; prints one line when there is something to do."""
    environment = root / ".venv"
    python = environment / "bin" / "python"
    stamp_file = environment / "mmvq-setup.json"
    wanted = Stamp(sys.version.split()[0], digest_locks(root), choose_sets(purpose, driver))
    found = read_stamp(stamp_file)
    if is_satisfied(wanted, found) and python.exists():
        return
    print(f"setting up .venv: {' and '.join(wanted.sets)} for Python {wanted.python} ({driver})", flush=True)
    clear = must_start_over(wanted, found)
    stamp_file.unlink(missing_ok=True)
    _make_environment(environment, clear=clear)
    _install(python, root, wanted.sets)
    kept = found.sets if found.digest == wanted.digest and not clear else ()
    stamp_file.write_text(json.dumps(asdict(replace(wanted, sets=tuple(sorted({*kept, *wanted.sets}))))) + "\n")


def digest_locks(root: Path) -> str:
    """Hash pyproject.toml and every lock file: a change in any of them installs again."""
    paths = [root / "pyproject.toml", *sorted((root / "requirements").glob("*.txt"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def read_stamp(path: Path) -> Stamp:
    """Read the stamp of a `.venv`; an empty one when there is none or it is damaged."""
    try:
        facts = json.loads(path.read_text())
        return Stamp(facts["python"], facts["digest"], tuple(facts["sets"]))
    except (OSError, ValueError, TypeError, KeyError):
        return Stamp()


def _make_environment(environment: Path, *, clear: bool) -> None:
    try:
        venv.create(environment, with_pip=True, clear=clear, symlinks=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(
            f"{sys.executable} cannot make a virtual environment: {error}\n"
            "hint: Debian and Ubuntu have venv in a package of its own: apt install python3-venv"
        ) from error


def _install(python: Path, root: Path, sets: tuple[str, ...]) -> None:
    """Install the lock files, then the checkout itself; with uv where it is there and works, else with pip."""
    locks = [option for name in sets for option in ("-r", str(root / "requirements" / f"{name}.txt"))]
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    uv = shutil.which("uv")
    by_uv = uv is not None and _succeeds(
        [uv, "pip", "install", "-q", "--python", str(python), "--require-hashes", *locks]
    )
    if not by_uv and not _succeeds([*pip, "--require-hashes", *locks]):
        raise SetupError(f"could not install {' and '.join(sets)}\nhint: is the package registry reachable?")
    if not _succeeds([*pip, "--no-deps", "--no-build-isolation", "--editable", str(root)]):
        raise SetupError("could not install the checkout itself")


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    try:
        set_up(sys.argv[1], ROOT, query_driver())
    except SetupError as error:
        sys.exit(f"error: {error}")
