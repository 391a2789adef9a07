"""Several images of one person as one."""

import numpy as np
import pytest

from federation.recognition.fusing import fused, fused_groups


def test_the_mean_of_unit_vectors_has_unit_norm_and_their_common_direction() -> None:
    rows = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])

    assert fused(rows).tolist() == pytest.approx([np.sqrt(0.5), np.sqrt(0.5), 0])


def test_rows_that_cancel_out_have_no_direction() -> None:
    assert not fused(np.array([[1.0, 0.0], [-1.0, 0.0]])).any()


@pytest.mark.parametrize(
    ("rows", "size", "groups"), [(1, 1, 1), (5, 1, 5), (5, 2, 2), (6, 2, 3), (1, 2, 1), (2, 3, 1), (7, 3, 2)]
)
def test_every_row_is_in_one_group_and_all_are_one_where_there_are_too_few(rows: int, size: int, groups: int) -> None:
    embeddings = np.eye(8)[:rows]

    found = fused_groups(embeddings, size)

    used = np.minimum(rows, groups * size)
    assert found.shape == (groups, 8)
    assert (np.count_nonzero(found, axis=1) == min(size, rows)).all()
    assert np.count_nonzero(found.sum(axis=0)) == used
