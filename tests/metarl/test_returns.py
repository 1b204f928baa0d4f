"""Returns and masked statistics against values computed by hand."""

import torch

from metarl.returns import discounted_returns, gae, masked_mean, normalise


def test_gae_by_hand():
    reward, value, next_value = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 2.0]), torch.tensor([1.0, 2.0, 4.0])
    never = torch.zeros(3, dtype=torch.bool)
    # deltas with discount 0.5: 1 + 0.5 - 0.5 = 1, 2 + 1 - 1 = 2, 3 + 2 - 2 = 3; weight of the next one 0.5 * 0.5
    # 3, 2 + 0.25 * 3 = 2.75, 1 + 0.25 * 2.75 = 1.6875
    torch.testing.assert_close(gae(reward, value, next_value, never, never, 0.5, 0.5), torch.tensor([1.6875, 2.75, 3.0]))


def test_gae_keeps_terminated_and_ended_apart():
    reward, value, next_value = torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3), torch.tensor([10.0, 10.0, 10.0])
    cut = torch.tensor([False, True, False])
    never = torch.zeros(3, dtype=torch.bool)
    # truncated after the second decision: its next value counts, the third decision does not
    torch.testing.assert_close(gae(reward, value, next_value, never, cut, 0.5, 1.0), torch.tensor([1 + 5 + 0.5 * 7, 7.0, 8.0]))
    # terminated there: its next value does not count either
    torch.testing.assert_close(gae(reward, value, next_value, cut, cut, 0.5, 1.0), torch.tensor([1 + 5 + 0.5 * 2, 2.0, 8.0]))


def test_gae_leads_with_any_axes():
    torch.manual_seed(0)
    reward, value, next_value = (torch.rand(2, 3, 4, 5) for _ in range(3))
    ended = torch.rand(2, 3, 4, 5) < 0.3
    together = gae(reward, value, next_value, ended, ended, 0.9, 0.8)
    one = gae(reward[1, 2, 3], value[1, 2, 3], next_value[1, 2, 3], ended[1, 2, 3], ended[1, 2, 3], 0.9, 0.8)
    torch.testing.assert_close(together[1, 2, 3], one)


def test_discounted_returns_end_with_the_episode():
    reward = torch.tensor([1.0, 2.0, 4.0, 8.0])
    ended = torch.tensor([False, True, False, True])
    torch.testing.assert_close(discounted_returns(reward, ended, 0.5), torch.tensor([2.0, 2.0, 8.0, 8.0]))


def test_masked_mean_and_normalise_by_hand():
    x = torch.tensor([[1.0, 3.0, 100.0], [7.0, 7.0, 7.0]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    torch.testing.assert_close(masked_mean(x, mask, (1,)), torch.tensor([[2.0], [0.0]]))
    torch.testing.assert_close(normalise(x, mask, (1,)), torch.tensor([[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    # over both axes the empty row does not count
    torch.testing.assert_close(normalise(x, mask, (0, 1)), torch.tensor([[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
