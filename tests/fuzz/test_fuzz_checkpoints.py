from __future__ import annotations

import pytest
from fuzz_checkpoints import check


@pytest.mark.slow
def test_odd_checkpoints_end_in_a_backbone_or_one_line() -> None:
    counts, failures = check(60, seed=1)
    assert not failures
    assert min(counts["loaded"], counts["refused"]) > 2
