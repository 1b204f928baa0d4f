"""A gated recurrent unit over whole trials, several times faster on the CPU than torch's: training spends most of its updates here.

Torch multiplies, adds and records some forty small operations at each time step, forwards and backwards. The gradient by the hidden state is linear in
the one of the step after it, with factors that are known for all steps at once; so one step backwards needs three operations, and the gradients of the
weights are one product over all steps at the end.

    r, z = sigmoid(W_rz h + x_rz)      n = tanh(x_n + r * (W_n h + b_n))      h' = (1 - z) * n + z * h        (torch.nn.GRU's equations)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def unroll(gru: nn.GRU, x: Tensor) -> Tensor:
    """Hidden states (N, T + 1, L): the empty memory, and what it is after each of the inputs (N, T, I).

    Args:
        gru: of one layer and one direction, with biases and `batch_first`.
        x: the inputs.
    """
    return ours(gru, x) if x.device.type == "cpu" else torchs(gru, x)


def torchs(gru: nn.GRU, x: Tensor) -> Tensor:
    """The same by torch's own module: one kernel on a GPU."""
    after: Tensor = gru(x)[0]
    return torch.cat([after.new_zeros(len(x), 1, gru.hidden_size), after], 1)


def ours(gru: nn.GRU, x: Tensor) -> Tensor:
    """The same by `_Unrolled`."""
    weight_ih, weight_hh, bias_ih, bias_hh = gru.parameters()
    states: Tensor = _Unrolled.apply(nn.functional.linear(x.transpose(0, 1), weight_ih, bias_ih), weight_hh, bias_hh)  # type: ignore[no-untyped-call]
    return states.transpose(0, 1)


@torch.no_grad()
def keep_for(gru: nn.GRU, span: int) -> None:
    """Let each unit keep what it holds for a time of its own, drawn from 2 to `span` steps: chrono initialisation (Tallec & Ollivier 2018).

    A unit whose update gate is z forgets over 1 / (1 - z) steps; with z = sigmoid(b), that is 1 + exp(b). As torch makes them, all gates are about a half:
    what was seen ten steps ago counts a thousandth, and so does the gradient that would change that.

    Args:
        gru: of one layer.
        span: at least 2.
    """
    size = gru.hidden_size
    _, _, of_input, of_state = gru.all_weights[0]
    of_input[size : 2 * size] = (1 + torch.rand(size) * (span - 2)).log()
    of_state[size : 2 * size] = 0


class _Unrolled(torch.autograd.Function):
    """States (T + 1, N, L) from what the inputs add to the three gates (T, N, 3 L), and the recurrent weights (3 L, L) and biases (3 L,)."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        steps, batch, size = inputs.shape[0], inputs.shape[1], weight.shape[1]
        weight_rz, weight_n = weight[: 2 * size].t().contiguous(), weight[2 * size :].t().contiguous()
        rz, x_n, bias_n = inputs[..., : 2 * size] + bias[: 2 * size], inputs[..., 2 * size :].contiguous(), bias[2 * size :]
        states = inputs.new_zeros(steps + 1, batch, size)  # the state before each step, and the last
        h_n, n = inputs.new_empty(steps, batch, size), inputs.new_empty(steps, batch, size)
        rows = zip(*(x.unbind() for x in (rz, rz[..., :size], rz[..., size:], x_n, h_n, n, states[:-1], states[1:])), strict=True)
        for gates, reset, update, x, recurrent, new, before, after in rows:
            gates.addmm_(before, weight_rz).sigmoid_()
            torch.addmm(bias_n, before, weight_n, out=recurrent)
            torch.addcmul(x, reset, recurrent, out=new).tanh_()
            torch.lerp(new, before, update, out=after)
        ctx.save_for_backward(states, rz, h_n, n, weight)
        return states

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states, rz, h_n, n, weight = ctx.saved_tensors
        steps, batch, size = n.shape
        reset, update = rz[..., :size], rz[..., size:]
        to_new = (1 - update) * (1 - n * n)  # d n's argument / d h'
        to_update = (states[:-1] - n) * update * (1 - update)
        to_reset = to_new * h_n * reset * (1 - reset)
        factors = torch.stack([to_reset, to_update, to_new * reset], 2)  # d recurrent part of the gates / d h'
        by_gates = torch.empty_like(factors)
        by_state = grad[1:].clone(memory_format=torch.contiguous_format)  # grows into the whole gradient by h'
        flat = by_gates.view(steps, batch, 3 * size)
        by_states = by_state.unbind()
        for t in range(steps - 1, -1, -1):
            torch.mul(by_states[t].unsqueeze(1), factors[t], out=by_gates[t])
            if t > 0:
                by_states[t - 1].addcmul_(by_states[t], update[t]).addmm_(flat[t], weight)
        by_weight = flat.flatten(0, 1).t() @ states[:-1].flatten(0, 1)
        by_bias = flat.sum((0, 1))
        by_inputs = torch.cat([flat[..., : 2 * size], by_state * to_new], -1)
        return by_inputs, by_weight, by_bias
