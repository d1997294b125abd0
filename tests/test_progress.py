"""Progress in a terminal and in a log."""

from __future__ import annotations

import pytest

import itm.core.progress
from itm.core.progress import show_progress


def test_bar_tells_total_and_speed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with show_progress("resnet18, flowers", 64) as advance:
        advance(32)
        advance(32)
    captured = capsys.readouterr()
    assert "resnet18, flowers" in captured.err
    assert "64/64" in captured.err
    assert "images/s" in captured.err
    assert not captured.out


@pytest.mark.parametrize("show", [True, False])
def test_log_tells_where_no_bar_is_drawn(
    show: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(itm.core.progress, "_LOG_EVERY", 0.0)
    caplog.set_level("INFO", logger="itm")
    with show_progress("resnet18, flowers", 64, show) as advance:
        advance(32)
    assert caplog.messages == ["resnet18, flowers: 32 of 64 images"]
    assert not capsys.readouterr().err
