"""Times of matrix products: positive, of what was asked, and longer for more work."""

from __future__ import annotations

import pytest

from objectives.matmul_timing import times_us


def test_a_product_of_a_hundred_times_the_work_takes_longer_and_thin_ones_less() -> None:
    done: list[float] = []
    large, small, thin = times_us([(512, 512), (51, 51), (512, 16)], 64, "cpu", 0.2, done.append)
    assert large > small > 0 and large > thin > 0
    assert done == sorted(done) and done[-1] == 1.0


@pytest.mark.parametrize(("sizes", "tokens"), [([(0, 4)], 1), ([(4, 4)], 0)])
def test_nothing_cannot_be_timed(sizes: list[tuple[int, int]], tokens: int) -> None:
    with pytest.raises(ValueError, match="must be 1 or more"):
        times_us(sizes, tokens, "cpu", 0.1)
