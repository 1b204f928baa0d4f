"""Scripted controllers that are told the task: what the vehicles' tasks can be done with, and what knowing the wrong task costs.

They read the true state, gusts included, and take the task's parameters as they are told. They are references: nothing of them runs on a robot.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.robots import car, quadrotor
from metarl.robots.kinematics import rotation_from_wxyz
from metarl.tasks import track, wind
from metarl.tasks.car_track import PATCH_HALF
from metarl.tasks.quadrotor_track import TURBULENCE
from metarl.tasks.task import Readings, Values

GRAVITY = 9.81  # m/s²


def fly(readings: Readings, told: Values) -> Tensor:
    """(N, 4) actions of quadrotor_track: acceleration towards the target, the wind's force and the rotors' torque compensated."""
    position_gain, velocity_gain, attitude_gain = 16.0, 7.0, 10.0  # 1/s², 1/s, 1/s
    target, rate = readings["target_pos"], told["target_rate"].unsqueeze(-1)
    ahead = -(rate**2) * torch.stack([target[:, 0], 4 * target[:, 1], 0 * target[:, 0]], -1)  # of the figure of eight
    wanted = ahead + position_gain * (target - readings["pos"]) + velocity_gain * (readings["target_linvel"] - readings["linvel"])
    wanted[:, 2] += GRAVITY
    blowing = wind.gusty(wind.mean_wind(told["wind_speed"], told["wind_angle"]), readings["gust"], TURBULENCE)
    mass = quadrotor.MASS + told["payload"].unsqueeze(-1)
    force = mass * wanted - wind.drag(blowing, readings["linvel"], told["drag_area"].unsqueeze(-1))

    turned = rotation_from_wxyz(readings["quat"])
    inward = turned.transpose(-1, -2)
    lift = (inward @ force.unsqueeze(-1)).squeeze(-1)  # in the frame
    efficiency = torch.stack([told[f"rotor_{i + 1}"] for i in range(4)], -1)
    thrust = (lift[:, 2] / efficiency.mean(-1)).clamp(0.0, quadrotor.MAX_THRUST)
    upward = lift / lift.norm(dim=-1, keepdim=True)
    place = force.new_tensor(quadrotor.ROTORS)
    lever = torch.stack([(efficiency * place[:, axis]).mean(-1) - efficiency.mean(-1) * told[f"com_{'xy'[axis]}"] for axis in range(2)], -1)
    torque = thrust.unsqueeze(-1) * torch.stack([lever[:, 1], -lever[:, 0]], -1)
    gain = force.new_tensor(quadrotor.RATE_GAIN[:2])
    rates = attitude_gain * torch.stack([-upward[:, 1], upward[:, 0]], -1) - torque / gain
    spin = -2.0 * torch.atan2(turned[:, 1, 0], turned[:, 0, 0])
    action = torch.cat([((thrust - quadrotor.HOVER) / (quadrotor.MAX_THRUST - quadrotor.HOVER)).unsqueeze(-1), rates / 1.0, spin.unsqueeze(-1)], -1)
    return torch.cat([action[:, :1], action[:, 1:] / force.new_tensor(quadrotor.MAX_RATE)], -1).clamp(-1.0, 1.0)


def drive(readings: Readings, told: Values) -> Tensor:
    """(N, 2) actions of car_track: the fastest speed that the bends ahead allow, and pursuit of a point of the centre line."""
    grip_used, braking_used, horizon, spacing = 0.75, 0.5, 3.0, 0.2  # parts of friction; m
    course, pos = readings["track"], readings["car_pos"]
    turned = rotation_from_wxyz(readings["car_quat"])
    yaw = torch.atan2(turned[:, 1, 0], turned[:, 0, 0])
    speed = readings["car_linvel"][:, :2].norm(dim=-1)
    angle = track.angle_of(pos)

    distances = tuple(spacing * (i + 1) for i in range(round(horizon / spacing)))
    ahead = torch.cat([angle.unsqueeze(-1), track.ahead(course, angle, distances)], -1)
    grip = GRAVITY * _friction(course, ahead, told)
    allowed = grip_used * grip / track.curvature(course, ahead).abs().clamp(min=1e-3)
    run = torch.tensor((0.0, *distances))
    slowest = (allowed + 2 * braking_used * grip.amin(-1, keepdim=True) * (run - speed.unsqueeze(-1) * told["delay"].unsqueeze(-1)).clamp(min=0.0)).amin(-1)
    wanted = slowest.sqrt() / told["motor_gain"]

    reach = 0.25 + 0.2 * speed
    goal = track.position(course, angle + reach / track.metres_per_radian(course, angle))
    point = track.into_frame(goal.unsqueeze(-2), pos, yaw)[:, 0] + pos.new_tensor([0.5 * car.WHEELBASE, 0.0])  # from the rear axle
    steer = torch.atan(2 * car.WHEELBASE * point[:, 1] / (point**2).sum(-1)) - told["steering_bias"]
    return torch.stack([2 * wanted / car.MAX_SPEED - 1, steer / car.MAX_STEER], -1).clamp(-1.0, 1.0)


def _friction(course: Tensor, ahead: Tensor, told: Values) -> Tensor:
    """(N, W) at angles (N, W) of the track: that of a patch on it and a bit before it, else that of the road."""
    friction = told["friction"].unsqueeze(-1).expand_as(ahead)
    points = track.position(course, ahead)
    for side in range(2):
        centre = track.position(course, told["patch_angle"] + torch.pi * side)
        on_patch = (points - centre.unsqueeze(-2)).norm(dim=-1) < PATCH_HALF[0] + 0.15
        friction = torch.where(on_patch, torch.minimum(friction, told["patch_friction"].unsqueeze(-1)), friction)
    return friction
