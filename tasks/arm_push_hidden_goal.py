"""arm_push_hidden_goal: push an unknown object with a rake to a place that only the reward tells of.

The place is the same in all episodes of a trial. Rewards along the way tell how far off it is, so that the first episode finds it and the
next go there straight. The object is in view all the time: what it is made of shows, and is corrected, within an episode.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.tasks.parameters import Param
from metarl.tasks.pushing import OBJECT, Pushing, object_params, rake_to, turned
from metarl.tasks.task import Readings, Values


class ArmPushHiddenGoal(Pushing):
    """Reward per decision: exp(-d / 0.06 m), d the distance of the object from the hidden target.

    Worth knowing is the target. The object, which is in view, is a nuisance, which stays so that what was learnt holds for other objects.
    """

    name = "arm_push_hidden_goal"
    params = (
        *object_params(),
        Param("target_distance", "m", "the hidden target lies {:.2f} m away", nominal=0.16, train=(0.10, 0.22), ood_near=((0.22, 0.245),), ood_far=((0.245, 0.28),)),
        Param("target_angle", "rad", "at {:+.2f} rad", nominal=0.0, train=(-1.0, 1.0), ood_near=((-1.15, -1.0), (1.0, 1.15)), ood_far=((-1.4, -1.15), (1.15, 1.4))),
    )  # fmt: skip
    horizon = 15
    episodes_per_trial = 3
    observed = {"tool": 2, "object": 2, "object_from_tool": 2, "object_turn": 2, "last_action": 2}
    reward_range = (0.0, 1.0)

    def observation(self, readings: Readings) -> Tensor:
        tool, thing = readings["tool_pos"][..., :2], readings["object_pos"][..., :2]
        middle = tool.new_tensor(OBJECT)
        return torch.cat([tool - middle, thing - middle, thing - tool, turned(readings["object_quat"]), readings["last_action"]], -1)

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        return torch.exp(self.error(next_readings) / -0.06)

    def success(self, readings: Readings) -> Tensor:
        return self.error(readings) < 0.02

    def expert(self, readings: Readings, told: Values) -> Tensor:
        """(N, 2) actions of one who is told the object's size and the target."""
        target = self.goals(told, torch.Generator())["target_pos"]
        return rake_to(readings["object_pos"], readings["tool_pos"], target, told["half_size"]) / (self.speed * self.decision_dt)
