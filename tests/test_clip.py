"""A face of any shape in the model's square."""

from __future__ import annotations

import numpy as np
import pytest

from svfap_edge.clip import fit_face


@pytest.mark.parametrize("shape", [(8, 8), (5, 3), (12, 9), (40, 20), (20, 40), (6, 20)])
def test_a_face_of_any_shape_fills_the_square(shape: tuple[int, int]) -> None:
    """Every row and column shows another part of it; none is padding."""
    down, right = (np.linspace(0, 120, side) for side in shape)
    face = np.repeat((down[:, None] + right)[..., None], 3, axis=2).astype(np.uint8)
    place = np.full((8, 8, 3), 7, np.uint8)
    fit_face(face, place)
    assert (np.diff(place.astype(int), axis=0) > 0).all()
    assert (np.diff(place.astype(int), axis=1) > 0).all()
    if shape == (8, 8):
        assert np.array_equal(face, place)
