"""The unrolled GRU is torch's GRU, and so are its gradients."""

import pytest
import torch
from torch import nn

from metarl.gru import keep_for, ours, torchs, unroll


def both(steps: int):
    torch.manual_seed(steps)
    gru = nn.GRU(5, 4, batch_first=True).double()
    x = torch.randn(3, steps, 5, dtype=torch.double, requires_grad=True)
    return gru, x


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_states_and_gradients_are_torchs(steps):
    gru, x = both(steps)
    states, expected = unroll(gru, x), gru(x)[0]
    assert states.shape == (3, steps + 1, 4)
    assert not states[:, 0].any()
    torch.testing.assert_close(states[:, 1:], expected)
    weight = torch.randn_like(states)
    leaves = [x, *gru.parameters()]
    ours = torch.autograd.grad((states * weight).sum(), leaves)
    theirs = torch.autograd.grad((expected * weight[:, 1:]).sum(), leaves)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_a_gpu_gets_the_same_states_from_torchs_own_kernel():
    gru, x = both(3)
    torch.testing.assert_close(torchs(gru, x), ours(gru, x))
    assert unroll(gru.to("meta"), x.to("meta")).shape == (3, 4, 4)


def test_no_inputs_leave_the_memory_empty():
    gru, x = both(3)
    states = unroll(gru, x[:, :0])
    assert states.shape == (3, 1, 4)
    assert not states.any()


def test_gradients_agree_with_finite_differences():
    gru, x = both(3)
    assert torch.autograd.gradcheck(lambda x: unroll(gru, x), x)
    assert torch.autograd.gradcheck(lambda w: torch.func.functional_call(_Unroll(gru), {"gru.weight_hh_l0": w}, x), gru.weight_hh_l0)


class _Unroll(nn.Module):
    def __init__(self, gru: nn.GRU) -> None:
        super().__init__()
        self.gru = gru

    def forward(self, x):
        return unroll(self.gru, x)


def test_no_graph_is_kept_of_what_needs_no_gradient():
    gru, x = both(3)
    with torch.no_grad():
        assert not unroll(gru, x).requires_grad


def test_units_forget_over_as_many_steps_as_they_are_given():
    torch.manual_seed(0)
    gru = nn.GRU(3, 2000, batch_first=True)
    keep_for(gru, 100)
    gate = (gru.bias_ih_l0 + gru.bias_hh_l0).detach()[2000:4000].sigmoid()
    steps = 1 / (1 - gate)
    assert steps.min() >= 2
    assert steps.max() <= 100
    assert steps.mean() == pytest.approx(50.5, abs=2)


def test_what_was_seen_long_ago_is_remembered_from_the_beginning():
    def trace(span: int) -> float:
        torch.manual_seed(1)
        gru = nn.GRU(4, 64, batch_first=True)
        if span:
            keep_for(gru, span)
        x = torch.zeros(2, 60, 4)
        x[0, 0], x[1, 0] = 2.0, -2.0
        after = gru(x)[0].detach()
        return float((after[0, -1] - after[1, -1]).norm() / (after[0, 0] - after[1, 0]).norm())

    assert trace(0) < 1e-4
    assert trace(100) > 0.05
