"""Random Markov decision processes, the second task of RL² (Duan et al. 2016, section 3.2) and of SNAIL (Mishra et al. 2018, section 4.2).

`tabular_mdp_n10` means n = 10 episodes; any n can be asked for by name. Published total rewards of a trial with n = 10: random 100.1,
posterior sampling 138.1, UCRL2 146.6, RL² 156.2, SNAIL 159.1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from metarl.tasks.parameters import Param
from metarl.tasks.task import Readings, Task, Values

STATES, ACTIONS = 10, 5
_REWARDS = tuple(Param(f"reward_{s}_{a}", "", "", nominal=0.5, train=(0.0, 1.0)) for s in range(STATES) for a in range(ACTIONS))
_MOVES = tuple(Param(f"move_{s}_{a}_{after}", "", "", nominal=0.5, train=(0.0, 1.0)) for s in range(STATES) for a in range(ACTIONS) for after in range(STATES))


class TabularMDP(Task):
    """10 states, 5 actions, 10 decisions an episode that begins in state 0.

    In state s action a pays N(m, 1) with m ~ N(1, 1) of its own, and leads to a state drawn from probabilities that are Dirichlet(1, ..., 1).
    Both are drawn by inversion: the parameters are the uniform numbers that the distributions are made from, quantiles of m, and of exponential
    variables which divided by their sum are the probabilities.
    """

    name = "tabular_mdp_n10"
    arguments = {"n": (2, 1000)}
    params = _REWARDS + _MOVES
    simulators = ("analytic",)
    horizon = 10
    episodes_per_trial = 10
    decision_dt = 1.0
    observed = {"state": STATES}  # one-hot
    discrete = True
    action_names = tuple(f"action_{a}" for a in range(ACTIONS))
    reward_range = (-11.0, 13.0)  # 4.8 deviations of the mean and 7 of the reward: never left in practice
    error_unit = ""
    _solved: tuple[Values, Readings] | None = None  # `values` themselves, not their id, which another object could get

    @classmethod
    def variant(cls, **numbers: int) -> dict[str, Any]:
        """What is different with n episodes."""
        return {"episodes_per_trial": numbers["n"]}

    def means(self, values: Values) -> Tensor:
        """(N, S, A) mean reward of each action in each state."""
        quantile = torch.stack([values[p.name] for p in _REWARDS], -1).clamp(1e-6, 1 - 1e-6)
        return (1.0 + torch.special.ndtri(quantile)).unflatten(-1, (STATES, ACTIONS))

    def probabilities(self, values: Values) -> Tensor:
        """(N, S, A, S) of the next state."""
        quantile = torch.stack([values[p.name] for p in _MOVES], -1).clamp(1e-6, 1 - 1e-6)
        weight = -(1.0 - quantile).log().unflatten(-1, (STATES, ACTIONS, STATES))
        return weight / weight.sum(-1, keepdim=True)

    def advantages(self, means: Tensor, probabilities: Tensor) -> Tensor:
        """(N, H, S, A) what each action is worth less than the best one to who knows the MDP and does the best afterwards, by backward induction."""
        after, found = means.new_zeros(len(means), STATES), []
        for _ in range(self.horizon):
            worth = means + (probabilities * after[:, None, None]).sum(-1)
            after = worth.amax(-1)
            found.append(worth - after.unsqueeze(-1))
        return torch.stack(found[::-1], 1)

    def solved(self, values: Values) -> Readings:
        """(N, ...) `means`, `probabilities` and `advantages`, a row each; those of the last `values` are kept, as every episode of a trial begins with them."""
        if self._solved is None or self._solved[0] is not values:
            means, probabilities = self.means(values), self.probabilities(values)
            made = {"means": means, "probabilities": probabilities, "advantages": self.advantages(means, probabilities)}
            self._solved = values, {name: value.flatten(1) for name, value in made.items()}
        return dict(self._solved[1])

    def start(self, values: Values, rng: torch.Generator) -> Readings:
        ones = torch.ones(len(values["reward_0_0"]), 1)
        said = {"paid": 0 * ones, "regret": ones, "advantage": 0 * ones, "time": 0 * ones}
        return {"state": torch.eye(STATES)[:1].expand(len(ones), -1), **said, **self.solved(values)}

    def dynamics(self, readings: Readings, action: Tensor, values: Values, rng: torch.Generator) -> Readings:
        state, chosen = readings["state"], action.unsqueeze(-1)
        means = (readings["means"].unflatten(-1, (STATES, ACTIONS)) * state.unsqueeze(-1)).sum(-2)  # (N, A) here
        mean = (means * action).sum(-1, keepdim=True)
        moves = (readings["probabilities"].unflatten(-1, (STATES, ACTIONS, STATES)) * state[..., None, None]).sum(-3)
        reached = (moves * chosen).sum(-2).cumsum(-1)
        uniform = torch.rand(mean.shape, generator=rng)
        after = one_hot((uniform >= reached).sum(-1).clamp(max=STATES - 1), STATES).float()
        paid = mean + torch.randn(mean.shape, generator=rng)
        regret = means.amax(-1, keepdim=True) - mean
        said = {"state": after, "paid": paid, "regret": regret, "advantage": self._advantage(readings, action), "time": readings["time"] + 1}
        return {**readings, **said}

    def _advantage(self, readings: Readings, action: Tensor) -> Tensor:
        """(N, 1) of what is done now."""
        of_time = readings["advantages"].unflatten(-1, (self.horizon, STATES * ACTIONS))
        now = readings["time"].long().clamp(max=self.horizon - 1).unsqueeze(-1).expand(-1, 1, STATES * ACTIONS)
        of_state = of_time.gather(1, now).squeeze(1).unflatten(-1, (STATES, ACTIONS))
        return (of_state * readings["state"].unsqueeze(-1) * action.unsqueeze(-2)).sum((-2, -1)).unsqueeze(-1)

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        return next_readings["paid"][..., 0]

    def training_reward(self, readings: Readings) -> Tensor:
        """The advantage of the last action under the best policy of who knows the MDP.

        Its sum over an episode has the expectation of the return, less a constant, whatever the policy (the performance difference lemma of Kakade & Langford
        2002), but neither the noise of rewards nor the luck of where an action leads is in it.
        """
        return readings["advantage"][..., 0]

    def success(self, readings: Readings) -> Tensor:
        """The last action was the one that pays best in its state, on average; what it leads to counts for nothing here."""
        return self.error(readings) == 0

    def error(self, readings: Readings) -> Tensor:
        """How much less the last action pays on average than the best one in its state."""
        return readings["regret"][..., 0]

    def expert(self, readings: Readings, told: Values) -> Tensor:
        """(N, A) the best action for all that is left of the episode."""
        worth = self.solved(told)["advantages"].unflatten(-1, (self.horizon, STATES, ACTIONS))
        rows, now = torch.arange(len(worth)), readings["time"][:, 0].long().clamp(max=self.horizon - 1)
        return one_hot(worth[rows, now, readings["state"].argmax(-1)].argmax(-1), ACTIONS).float()
