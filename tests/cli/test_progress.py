"""What a run says on stderr while it goes on."""

from __future__ import annotations

import pytest

from mmvq_cli.cli.progress import ProgressObserver


@pytest.mark.parametrize("quiet", [False, True])
def test_building_is_one_line_without_a_terminal(capsys, quiet):
    with ProgressObserver(4, quiet) as observer:
        for done in range(3):
            observer.building(done, 2)
    assert capsys.readouterr() == ("", "" if quiet else "building 2 kernels that are not in the cache\n")


def test_a_terminal_shows_how_many_are_built(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with ProgressObserver(4, quiet=False) as observer:
        observer.building(1, 2)
        observer._bar.refresh()
    assert "building kernels, 1 of 2" in capsys.readouterr().err
