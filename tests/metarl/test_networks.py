import math

import pytest
import torch

from metarl import ppo
from metarl.networks import (
    Categorical,
    CategoricalPolicy,
    Gaussian,
    GaussianPolicy,
    Normalizer,
    gaussian_entropy,
    gaussian_log_prob,
    relative_change,
    root_mean_square,
)
from metarl.returns import masked_mean, normalise


def test_normalizer_has_the_mean_and_variance_of_all_it_was_shown():
    torch.manual_seed(0)
    x = torch.randn(50, 7, 3) * torch.tensor([1.0, 5.0, 0.1]) + torch.tensor([0.0, -3.0, 2.0])
    valid = torch.rand(50, 7) < 0.7
    normalizer = Normalizer(3)
    for part, mask in zip(x.split(10), valid.split(10), strict=True):
        normalizer.update(part, mask)
    seen = x[valid]
    torch.testing.assert_close(normalizer.mean, seen.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(normalizer.var, seen.var(0, unbiased=False), rtol=1e-4, atol=1e-5)
    assert float(normalizer.count) == int(valid.sum())
    torch.testing.assert_close(normalizer.invert(normalizer(x[:3])), x[:3], rtol=1e-4, atol=1e-5)


def test_normalizer_cuts_outliers_and_ignores_an_empty_batch():
    normalizer = Normalizer(1)
    normalizer.update(torch.ones(4, 1), torch.zeros(4, dtype=torch.bool))
    assert float(normalizer.mean) == 0.0 and float(normalizer.var) == 1.0
    assert float(normalizer(torch.tensor([1e9]))) == 10.0


def test_log_prob_is_summed_over_the_action():
    # standard normal at 0 in each of two dimensions: 2 * log(1 / sqrt(2 pi))
    value = gaussian_log_prob(torch.zeros(2), torch.zeros(2), torch.zeros(2))
    assert float(value) == pytest.approx(-math.log(2 * math.pi))
    # N(1, 2²) at 3: one standard deviation away
    value = gaussian_log_prob(torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([2.0]).log())
    assert float(value) == pytest.approx(-0.5 - math.log(2) - 0.5 * math.log(2 * math.pi))


def test_entropy_of_a_unit_gaussian():
    assert float(gaussian_entropy(torch.zeros(3))) == pytest.approx(1.5 * math.log(2 * math.pi * math.e))


def test_policy_keeps_its_smallest_deviation():
    policy = GaussianPolicy(2, (4,), 3, std=0.5, min_std=0.1)
    with torch.no_grad():
        policy.log_std.fill_(-20.0)
    assert policy(torch.zeros(5, 2)).log_std.exp().tolist() == pytest.approx([0.1] * 3)


def test_a_gaussian_draws_with_its_mean_and_deviation():
    policy = Gaussian(torch.tensor([1.0, -2.0]).expand(20000, 2), torch.tensor([0.5, 2.0]).log())
    drawn = policy.sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(0), torch.tensor([1.0, -2.0]), rtol=0, atol=0.05)
    torch.testing.assert_close(drawn.std(0), torch.tensor([0.5, 2.0]), rtol=0.03, atol=0)
    assert policy.entropy().shape == (20000,)
    assert policy.mode()[0].tolist() == [1.0, -2.0]


def test_a_choice_is_drawn_as_often_as_its_probability_says():
    policy = Categorical(torch.tensor([0.5, 0.3, 0.2]).log().expand(20000, 3))
    drawn = policy.sample(torch.Generator().manual_seed(0))
    assert sorted(drawn.unique().tolist()) == [0.0, 1.0]
    assert drawn.sum(-1).unique().tolist() == [1.0]
    torch.testing.assert_close(drawn.mean(0), torch.tensor([0.5, 0.3, 0.2]), rtol=0, atol=0.015)


def test_log_probability_and_entropy_of_choices_by_hand():
    policy = Categorical(torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]]).clamp(min=1e-30).log())
    assert policy.log_prob(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])).exp().tolist() == pytest.approx([0.5, 0.5])
    # 2 * 0.5 log 2, and 2 * 0.25 log 4 + 0.5 log 2 = 1.5 log 2
    assert policy.entropy().tolist() == pytest.approx([math.log(2), 1.5 * math.log(2)])
    assert policy.mode().tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]


def test_no_choice_is_made_from_what_is_not_a_number():
    policy = CategoricalPolicy(2, (4,), 3)
    features = torch.tensor([[0.0, 1.0], [torch.nan, 1.0]])
    for action in (policy(features).mode(), policy(features).sample(torch.Generator())):
        assert action[0].sum() == 1.0
        assert not bool(action[1].isfinite().all())


def test_clipped_surrogate_by_hand():
    # ratios 2, 0.5, 1 with clip 0.2; advantages 1, 1, -1 -> min(2, 1.2), min(0.5, 0.8), -1; mean 0.7 / 3
    log_prob = torch.tensor([2.0, 0.5, 1.0]).log()
    loss = ppo.clipped_surrogate(log_prob, torch.zeros(3), torch.tensor([1.0, 1.0, -1.0]), torch.ones(3), 0.2)
    assert float(loss) == pytest.approx(-(1.2 + 0.5 - 1.0) / 3)


def test_clipping_never_hides_a_loss():
    # a bad action that became twice as likely counts in full
    loss = ppo.clipped_surrogate(torch.tensor([2.0]).log(), torch.zeros(1), torch.tensor([-1.0]), torch.ones(1), 0.2)
    assert float(loss) == pytest.approx(2.0)


def test_masked_entries_do_not_count():
    mask = torch.tensor([1.0, 1.0, 0.0])
    advantage = normalise(torch.tensor([1.0, 3.0, 1e6]), mask)
    torch.testing.assert_close(advantage, torch.tensor([-1.0, 1.0, 0.0]))
    assert float(masked_mean(torch.tensor([1.0, 3.0, 7.0]), mask)) == 2.0


def test_approximate_kl_is_zero_only_at_the_old_policy():
    assert float(ppo.approximate_kl(torch.tensor([-1.0]), torch.tensor([-1.0]), torch.ones(1))) == 0.0
    assert float(ppo.approximate_kl(torch.tensor([-1.2]), torch.tensor([-1.0]), torch.ones(1))) > 0.0


def test_relative_change_is_that_of_the_layer_which_changes_most():
    """Two layers of 3 inputs and 2 outputs, 2 inputs and 1 output, and a number behind them: 8 and 4 parameters."""
    shapes = [(3, 2), (1, 2), (2, 1), (1, 1)]
    old = torch.tensor([[0.5] * 8 + [2.0] * 4]).repeat(2, 1)
    new = old.clone()
    new[1, 0] += 1.0  # root mean square of the change: 1 / sqrt(8)
    assert relative_change(new, old, shapes) == pytest.approx(2 / math.sqrt(8))
    new[0, 11] += 16.0  # what stands behind the layers counts with the last one: 16 / sqrt(4)
    assert relative_change(new, old, shapes) == pytest.approx(4.0)
    old[:, 8:], new[:, 8:] = 0.0, 1.0  # a layer of nothing is taken for one of numbers within 1 / sqrt(2)
    assert relative_change(new, old, shapes) == pytest.approx(math.sqrt(6))


def test_root_mean_square_is_that_of_the_row_where_it_is_largest():
    assert root_mean_square(torch.tensor([[[3.0, 0.0], [2.0, 2.0]]])) == pytest.approx(3 / math.sqrt(2))
