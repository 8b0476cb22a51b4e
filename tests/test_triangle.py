"""Half of a symmetric matrix is enough."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from taco.moments.triangle import from_lower_triangle, lower_triangle


@settings(max_examples=25, deadline=None)
@given(groups=st.integers(1, 5), cols=st.integers(1, 40), single=st.booleans())
def test_a_symmetric_matrix_comes_back_bit_for_bit(groups: int, cols: int, single: bool) -> None:
    X = np.random.default_rng(cols).standard_normal((groups, cols, cols))
    H = (X + X.transpose(0, 2, 1)).astype(np.float32 if single else np.float64)
    packed = lower_triangle(H)
    assert packed.shape == (groups, cols * (cols + 1) // 2)
    assert packed.dtype == H.dtype
    assert np.array_equal(from_lower_triangle(packed, cols), H)
