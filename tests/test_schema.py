"""Variables that follow the schema."""

import numpy as np
import pytest

from nat4xr.schema import variable


def test_values_get_the_dtype_of_the_schema_or_a_wider_one() -> None:
    assert variable("n_reps", np.array([[20]])).dtype == np.int8
    assert variable("n_reps", np.array([[200]])).dtype == np.int32
    assert variable("psth", np.zeros((1, 1, 1))).dtype == np.float32


def test_numbers_are_not_cut_to_integers() -> None:
    with pytest.raises(TypeError):
        variable("n_reps", [[1.5]])
