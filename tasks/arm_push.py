"""arm_push: push an unknown object with a rake onto a target in view, by a camera that is wrongly calibrated and that the hand hides the object from.

Whoever sees object and target steers by the difference of the two, whatever the camera's error. Here the object is out of sight as soon as
the hand is near it, so that the last way is gone by the hand's own measure: the camera's error, the size of the object, where in the rake
it lies and how late commands come all show in where it ends. The target is the same in all episodes of a trial.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.robots.kinematics import tool_pose
from metarl.tasks.parameters import Param
from metarl.tasks.pushing import OBJECT, Pushing, corner_to, object_params
from metarl.tasks.sensing import hand_eye, undo_hand_eye
from metarl.tasks.task import Readings, Values

HIDES = 0.08  # m, an object nearer to the tool is hidden from the camera by the hand


class ArmPush(Pushing):
    """Reward per decision: exp(-d / 0.1 m) / 2 + exp(-d / 0.025 m) / 2, d the true distance of the object from the target.

    Worth knowing is the camera's error: it costs an expert who steers by dead reckoning half of what he earns. The object's size costs little, and of
    its shape, mass, friction, centre of mass and of the delay he makes no use, since the rake carries what it has caught: these are nuisances, which
    stay so that what was learnt holds for other objects.
    """

    name = "arm_push"
    params = (
        *object_params(),
        Param("delay", "s", "commands {:.3f} s late", nominal=0.0, train=(0.0, 0.2), ood_near=((0.2, 0.25),), ood_far=((0.25, 0.35),)),
        Param("camera_yaw", "rad", "the camera is turned by {:+.3f} rad", nominal=0.0, train=(-0.25, 0.25), ood_near=((-0.3, -0.25), (0.25, 0.3)), ood_far=((-0.4, -0.3), (0.3, 0.4))),
        Param("camera_x", "m", "shifted by x {:+.3f} m", nominal=0.0, train=(-0.03, 0.03), ood_near=((-0.037, -0.03), (0.03, 0.037)), ood_far=((-0.05, -0.037), (0.037, 0.05))),
        Param("camera_y", "m", "y {:+.3f} m", nominal=0.0, train=(-0.03, 0.03), ood_near=((-0.037, -0.03), (0.03, 0.037)), ood_far=((-0.05, -0.037), (0.037, 0.05))),
        Param("target_distance", "m", "the target lies {:.2f} m away", nominal=0.16, train=(0.12, 0.20), hidden=False),
        Param("target_angle", "rad", "at {:+.2f} rad", nominal=0.0, train=(-0.7, 0.7), hidden=False),
    )  # fmt: skip
    horizon = 15
    episodes_per_trial = 4
    observed = {"tool": 2, "target": 2, "target_from_tool": 2, "object_from_tool": 2, "target_from_object": 2, "last_action": 2}
    reward_range = (0.0, 1.0)
    scatter = 0.02

    def memory(self, values: Values, rng: torch.Generator) -> Readings:
        return {"last_seen": torch.zeros(len(values["mass"]), 3)}  # in view at the start

    def remember(self, readings: Readings, action: Tensor, next_readings: Readings, values: Values, rng: torch.Generator) -> Readings:
        before = self._last_seen(readings, readings["last_seen"])
        return {"last_seen": self._last_seen(next_readings, before)}

    def _last_seen(self, readings: Readings, before: Tensor) -> Tensor:
        thing = readings["object_pos"]
        in_view = (thing - readings["tool_pos"])[..., :2].norm(dim=-1, keepdim=True) > HIDES
        return torch.where(in_view, thing, before)

    def sense(self, readings: Readings, values: Values) -> Readings:
        shift = torch.stack([values["camera_x"], values["camera_y"], torch.zeros_like(values["camera_x"])], -1)
        seen = {"object_pos": self._last_seen(readings, readings["last_seen"]), "target_pos": readings["target_pos"]}
        return {**readings, **{name: hand_eye(pos, values["camera_yaw"], shift, (*OBJECT, 0.0)) for name, pos in seen.items()}}

    def command_delay(self, values: Values) -> Tensor:
        return values["delay"]

    def observation(self, readings: Readings) -> Tensor:
        tool, thing, target = (readings[f"{name}_pos"][..., :2] for name in ("tool", "object", "target"))
        middle = tool.new_tensor(OBJECT)
        return torch.cat([tool - middle, target - middle, target - tool, thing - tool, target - thing, readings["last_action"]], -1)

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        distance = self.error(next_readings)
        return 0.5 * torch.exp(distance / -0.1) + 0.5 * torch.exp(distance / -0.025)

    def success(self, readings: Readings) -> Tensor:
        return self.error(readings) < 0.02

    def expert(self, readings: Readings, told: Values) -> Tensor:
        """(N, 2) actions from what is sensed, of one who is told the camera's error and the object's size: by dead reckoning."""
        shift = torch.stack([told["camera_x"], told["camera_y"], torch.zeros_like(told["camera_x"])], -1)
        thing, target = (undo_hand_eye(readings[name], told["camera_yaw"], shift, (*OBJECT, 0.0)) for name in ("object_pos", "target_pos"))
        rake = tool_pose(self.arm, readings["command_qpos"])[0]  # where it will be, however late
        return corner_to(thing, rake, target, told["half_size"]) / (self.speed * self.decision_dt)
