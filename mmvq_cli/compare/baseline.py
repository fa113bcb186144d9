"""Named baselines: folders of sessions, in the project or in the user's data folder."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmvq_cli.errors import OpenError, UsageError
from mmvq_cli.record import Record, write_whole

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def project_baselines(folder: Path | None = None) -> Path:
    """The project's folder of baselines: `.mmvq/baselines` here or in the nearest folder above that has one."""
    here = (folder or Path.cwd()).resolve()
    return next(
        (found for parent in (here, *here.parents) if (found := parent / ".mmvq" / "baselines").is_dir()),
        here / ".mmvq" / "baselines",
    )


def user_baselines() -> Path:
    """The user's folder of baselines: `mmvq/baselines` in XDG_DATA_HOME, else in ~/.local/share."""
    home = os.environ.get("XDG_DATA_HOME")
    root = Path(home) if home and Path(home).is_absolute() else Path.home() / ".local" / "share"
    return root / "mmvq" / "baselines"


@dataclass(frozen=True, slots=True)
class BaselineStore:
    """Baselines of a project, with those of the user behind them; new ones go to `folders[0]`.

    A baseline is a folder that holds one record file for each session.
    """

    folders: tuple[Path, ...]

    def names(self) -> dict[str, Path]:
        """Name -> folder; the project's hides the user's of the same name."""
        found = {path.name: path for folder in reversed(self.folders) for path in _folders_in(folder)}
        return dict(sorted(found.items()))

    def find(self, name: str) -> Path | None:
        """The folder of a baseline, or None."""
        return self.names().get(name)

    def require(self, name: str) -> Path:
        """The folder of a baseline.

        Raises `OpenError` when there is none of this name.
        """
        folder = self.find(name)
        if folder is None:
            known = ", ".join(self.names()) or "none"
            raise OpenError(
                f"there is no baseline {name!r} (known: {known})", "`mmvq baseline save NAME RUN` makes one"
            )
        return folder

    def save(self, name: str, records: Iterable[Record]) -> Path:
        """Add the sessions of these records; a session that is there already is replaced.

        Raises `UsageError` for a name that cannot be a folder's, `OpenError` when writing fails.
        """
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} cannot be the name of a baseline", "use letters, digits, dots, dashes")
        folder = self.find(name) or self.folders[0] / name
        sessions: dict[str, list[Record]] = {}
        for record in records:
            sessions.setdefault(record.ids.run_id, []).append(record)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OpenError(f"cannot make {folder}: {error.strerror}", "check the path and its permissions") from error
        for run_id, rows in sessions.items():
            write_whole(folder / f"{_file_name(run_id)}.jsonl", "".join(f"{row.to_json()}\n" for row in rows))
        return folder

    def remove(self, name: str) -> Path:
        """Delete a baseline with its sessions.

        Raises `OpenError` when there is none of this name or it cannot be deleted.
        """
        folder = self.require(name)
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise OpenError(f"cannot remove {folder}: {error.strerror}", "check its permissions") from error
        return folder


def default_store(*, user: bool = False) -> BaselineStore:
    """The project's baselines before the user's, or the other way round."""
    folders = (project_baselines(), user_baselines())
    return BaselineStore(folders[::-1] if user else folders)


def _folders_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def _file_name(run_id: str) -> str:
    """A run id is a file name already, unless somebody edited it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", run_id).lstrip(".") or "session"
