import numpy as np
import pytest

from metarl.statistics import interval, iqm, resample


def test_iqm_of_eight_is_the_mean_of_the_middle_four():
    # sorted: 1 2 | 3 4 5 6 | 7 100; (3 + 4 + 5 + 6) / 4
    assert iqm(np.array([100.0, 2, 3, 1, 5, 6, 7, 4])) == 4.5


def test_iqm_counts_edge_values_in_part():
    # n = 5: the middle half is 1.25 ... 3.75, so 0.75 of the 2nd, all of the 3rd, 0.75 of the 4th, over 2.5
    assert iqm(np.array([0.0, 1, 5, 10, 99])) == pytest.approx((0.75 * 1 + 5 + 0.75 * 10) / 2.5)
    assert iqm(np.array([7.0])) == 7.0
    assert iqm(np.array([2.0, 4.0])) == 3.0


def test_iqm_along_an_axis():
    x = np.array([[1.0, 10], [2, 20], [3, 30], [4, 40]])  # of four the middle two
    np.testing.assert_allclose(iqm(x, 0), [2.5, 25])
    np.testing.assert_allclose(iqm(x.T), [2.5, 25])


def test_resampling_draws_seeds_and_the_same_tasks_for_each():
    rows = resample(2, 3, num=500, seed=0)
    assert rows.shape == (500, 6)
    assert set(rows.ravel()) == set(range(6))
    tasks, seeds = rows.reshape(500, 2, 3) % 3, rows.reshape(500, 2, 3) // 3
    assert (tasks[:, 0] == tasks[:, 1]).all()
    assert (seeds == seeds[:, :, :1]).all()
    assert {tuple(s) for s in seeds[:, :, 0]} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert (resample(2, 3, 500, seed=0) == rows).all()
    assert (resample(2, 3, 500, seed=1) != rows).any()
    counts = np.bincount(tasks[:, 0].ravel())  # 1500 draws of 3: 500 each, standard deviation 18
    assert abs(counts - 500).max() < 80


def mean(x):
    return x.mean(1)


def test_interval_of_a_mean_has_the_width_of_theory():
    # 400 normal values: standard error of the mean 1 / sqrt(400) = 0.05, so the interval is about +- 1.96 * 0.05
    values = np.random.default_rng(0).normal(size=(400, 1))
    values = (values - values.mean()) / values.std()
    (estimate,) = interval(mean, [values], num=4000)
    assert estimate.value == pytest.approx(0.0, abs=1e-9)
    assert estimate.low == pytest.approx(-0.098, abs=0.008)
    assert estimate.high == pytest.approx(0.098, abs=0.008)


def test_more_seeds_in_the_same_tasks_are_not_more_tasks():
    # three seeds that do exactly the same leave the interval of one: what varies are the tasks
    values = np.random.default_rng(0).normal(size=(100, 1))
    (one,), (three,) = interval(mean, [values], num=4000), interval(mean, [values] * 3, num=4000)
    assert three.high - three.low == pytest.approx(one.high - one.low, rel=0.05)


def test_seeds_that_differ_widen_the_interval():
    # two seeds, in all tasks 0 and 10: a sample holds one of them twice or both, so its mean is 0, 5 or 10
    (estimate,) = interval(mean, [np.zeros((4, 1)), np.full((4, 1), 10.0)])
    assert estimate == (5.0, 0.0, 10.0)


def test_columns_are_drawn_together():
    # second column is the first plus one: their difference is one in every sample
    column = np.random.default_rng(0).normal(size=(20, 1))
    (estimate,) = interval(lambda x: mean(x)[:, 1:] - mean(x)[:, :1], [np.hstack([column, column + 1])])
    assert estimate == pytest.approx((1.0, 1.0, 1.0))


def test_same_seed_same_interval_also_in_chunks():
    values = np.random.default_rng(0).normal(size=(64, 300))  # 2000 samples of it are drawn in several chunks
    first, second = interval(mean, [values]), interval(mean, [values])
    assert first == second
    assert interval(mean, [values[:, :1]])[0] == pytest.approx(first[0])
