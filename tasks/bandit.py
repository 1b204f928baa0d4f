"""Bandits: which of k arms pays best? The first task of RL² (Duan et al. 2016, section 3.1) and of SNAIL (Mishra et al. 2018, section 4.1).

`bandit_n10_k5` means n = 10 pulls of k = 5 arms, in the papers' letters; any n and k can be asked for by name. Published total rewards of a
trial: n = 10, k = 5: random 5.0, Gittins index 6.6, RL² 6.7, SNAIL 6.6; n = 100, k = 5: 49.9, 78.3, 78.7, 79.1.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from metarl.tasks.parameters import Param
from metarl.tasks.task import Readings, Task, Values


def _arms(k: int) -> tuple[Param, ...]:
    return tuple(Param(f"p{i}", "", f"arm {i} pays with probability {{:.2f}}", nominal=0.5, train=(0.0, 1.0)) for i in range(k))


class Bandit(Task):
    """n pulls of k arms; arm i pays 1 with probability p_i ~ U(0, 1), else 0. An episode is one pull, a trial is n of them."""

    name = "bandit_n10_k5"
    arguments = {"n": (2, 10_000), "k": (2, 100)}
    params: ClassVar[tuple[Param, ...]] = _arms(5)
    simulators = ("analytic",)
    horizon = 1
    episodes_per_trial = 10
    decision_dt = 1.0
    observed = {"paid": 1}  # 0 before the pull: the papers' bandit shows nothing but the reward
    discrete = True
    action_names: ClassVar[tuple[str, ...]] = tuple(f"arm_{i}" for i in range(5))
    reward_range = (0.0, 1.0)
    error_unit = ""

    @classmethod
    def variant(cls, **numbers: int) -> dict[str, Any]:
        """What is different with n pulls of k arms."""
        n, k = numbers["n"], numbers["k"]
        return {"params": _arms(k), "episodes_per_trial": n, "action_names": tuple(f"arm_{i}" for i in range(k))}

    def start(self, values: Values, rng: torch.Generator) -> Readings:
        nothing = torch.zeros(len(values["p0"]), 1)
        return {"paid": nothing, "chance": nothing}

    def goals(self, values: Values, rng: torch.Generator) -> Readings:
        return {"pays": torch.stack([values[p.name] for p in self.params], -1)}

    def dynamics(self, readings: Readings, action: Tensor, values: Values, rng: torch.Generator) -> Readings:
        chance = (action * torch.stack([values[p.name] for p in self.params], -1)).sum(-1, keepdim=True)
        return {"paid": (torch.rand(chance.shape, generator=rng) < chance).float(), "chance": chance}

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        return next_readings["paid"][..., 0]

    def training_reward(self, readings: Readings) -> Tensor:
        """The expected reward, less that of the best arm: what chance pays teaches nothing."""
        return -self.error(readings)

    def success(self, readings: Readings) -> Tensor:
        return self.error(readings) == 0

    def error(self, readings: Readings) -> Tensor:
        """By how much the best arm is more likely to pay than the one that was pulled."""
        return readings["pays"].amax(-1) - readings["chance"][..., 0]

    def expert(self, readings: Readings, told: Values) -> Tensor:
        """(N, k) the arm that is most likely to pay."""
        return one_hot(torch.stack([told[p.name] for p in self.params], -1).argmax(-1), len(self.params)).float()
