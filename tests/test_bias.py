"""The bias of scores and ceilings, for simulated cells with known rates."""

import pytest

from benchmarks import bias


@pytest.mark.parametrize("noise", bias.NOISES)
@pytest.mark.parametrize("trials", [2, 5, 20])
def test_scores_and_ceilings_of_simulated_cells_are_unbiased(noise: str, trials: int) -> None:
    row = bias.biases(20, trials, noise, n_cells=60)
    assert row.keys() == bias.COLUMNS.keys()
    assert row["SP / true"] == pytest.approx(1, abs=0.1)
    assert row["CCmax"] == pytest.approx(0, abs=0.02)
    assert row["CCnorm"] == pytest.approx(1, abs=0.02)
    assert row["r_ceiling"] == pytest.approx(1, abs=0.02)
    assert row["r²_ER"] == pytest.approx(0.5, abs=0.03)
    assert row["r²"] < 0.45  # noise lowers it


@pytest.mark.parametrize("rate", [0.5, 20])
@pytest.mark.parametrize("trials", [2, 5, 20])
def test_r2_er_is_unbiased_at_any_rate_and_number_of_trials(rate: float, trials: int) -> None:
    relative = bias.r2_er_of_all_cells(rate, trials, "Poisson", n_cells=200 if rate < 1 else 10)
    # Two trials of so few spikes say little, even of 2,000 cells.
    assert relative == pytest.approx(1, abs=0.3 if rate < 1 and trials == 2 else 0.1)


def test_the_table_has_a_row_for_each_combination(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bias, "RATES", (0.5, 5))
    monkeypatch.setattr(bias, "TRIALS", (5, 10, 20))
    lines = list(bias.table(n_cells=2))
    assert len(lines) == 2 + len(bias.NOISES) * 2 * 3
    assert len({line.count("|") for line in lines}) == 1
