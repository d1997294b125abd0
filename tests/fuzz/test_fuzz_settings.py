"""A short part of the fuzzing of settings; ``fuzz_settings.py`` runs more by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_odd_settings_end_in_a_result_or_one_line():
    # a process of its own: forks of a test process would carry its threads
    script = Path(__file__).with_name("fuzz_settings.py")
    done = subprocess.run(
        [sys.executable, str(script), "--count", "40", "--seed", "1"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "40 settings, seed 1: 0 findings" in done.stdout
