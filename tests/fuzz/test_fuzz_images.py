from __future__ import annotations

import pytest
from fuzz_images import cases, check


@pytest.mark.slow
def test_damaged_images_end_in_a_picture_or_one_line() -> None:
    counts, failures = check(cases(150, seed=1))
    assert not failures
    assert min(counts["image"], counts["refused"]) > 20
