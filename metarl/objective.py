"""An objective function that is learned: a network that reads a piece of an episode from its end, and says of each decision how much it is to be avoided.

What trains it, and what it is told, is in `metarl.algos.metagenrl`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BOUND = 1e3  # of what is said of one decision: tanh(x / BOUND) BOUND
NUM_FACTS = 6


def mixed(x: Tensor) -> Tensor:
    """Half of the units through relu, half squared: products of what agents did and what it was worth are squares of sums."""
    ramp, square = x.chunk(2, -1)
    return torch.cat([ramp.relu(), square**2], -1)


class Objective(nn.Module):
    """L_alpha; nothing in it depends on the number of actions or on the task."""

    def __init__(self, size: int) -> None:
        super().__init__()
        size += size % 2
        self.of_pair, self.of_facts = nn.Linear(3, size), nn.Linear(NUM_FACTS, size)
        self.gate, self.candidate = nn.Linear(3 * size, size), nn.Linear(3 * size, size)
        self.head, self.last = nn.Linear(size, size), nn.Linear(size, 1)

    def forward(self, action: Tensor, chosen: Tensor, scale: Tensor, facts: Tensor, valid: Tensor) -> Tensor:
        """(N, T) of segments.

        Args:
            action: (N, T, A) what was done.
            chosen: (N, T, A) what the policy would do now; gradients go here.
            scale: (N, 1, 1) how much the two differ, all in all, in an agent's segments.
            facts: (N, T, F).
            valid: (N, T) 1.0 or 0.0.
        """
        pair = mixed(self.of_pair(torch.stack([action, chosen, (action - chosen) / scale], -1))).mean(-2)
        worth = self.of_facts(facts).tanh()
        x = torch.cat([pair, worth, pair * worth], -1)
        hidden = backwards(self.candidate(x).tanh(), self.gate(x).sigmoid(), valid)
        said = self.last(mixed(self.head(hidden))).squeeze(-1)
        return BOUND * (said / BOUND).tanh()


def backwards(candidate: Tensor, update: Tensor, valid: Tensor) -> Tensor:
    """(N, T, L) what is known at each decision of itself and of all that came after; what is not valid leaves nothing behind."""
    weight = valid.unsqueeze(-1)
    new, kept = (weight * (1 - update) * candidate).unbind(1), (weight * update).unbind(1)
    states = [new[-1]]
    for t in range(len(new) - 2, -1, -1):
        states.append(torch.addcmul(new[t], kept[t], states[-1]))
    return torch.stack(states[::-1], 1)
