"""One timed run at a time on each GPU: a file lock, which the system gives back when its process ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmvq_cli.engine.discovery import kernel_cache_dir


def lock_folder() -> Path:
    """The folder of the locks: `mmvq` in XDG_RUNTIME_DIR, else the folder of compiled kernels."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "mmvq" if runtime and Path(runtime).is_absolute() else kernel_cache_dir()


@contextmanager
def device_lock(uuid: str, announce: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a GPU; waits for another timed run of this user, and announces it.

    Where there are no file locks or the folder cannot be written, it announces that and goes on without.
    """
    try:
        import fcntl

        lock_folder().mkdir(parents=True, exist_ok=True)
        file = (lock_folder() / f"{uuid}.lock").open("a+b", buffering=0)
    except (ImportError, OSError) as error:
        announce(f"this run does not keep others from the GPU: {error}")
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().decode(errors="replace").strip() or "unknown"
            announce(f"waiting for another timed run on this GPU (process {holder})")
            fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(OSError):  # the number only helps to announce: a full disk must not keep a run from its lock
            file.truncate(0)
            file.write(f"{os.getpid()}\n".encode())
        yield
