"""Scripted controllers that are told the task: what the vehicles' tasks can be done with, and what knowing the wrong task costs.

They read the true state, gusts included, and take the task's parameters as they are told. They are references: nothing of them runs on a robot.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.robots import car, quadrotor
from metarl.robots.kinematics import rotation_from_wxyz
from metarl.tasks import car_track, track, wind
from metarl.tasks.quadrotor_track import TURBULENCE
from metarl.tasks.task import Readings, Values

GRAVITY = 9.81  # m/s²
CAR_MASS = car.CHASSIS_MASS + 4 * car.WHEEL_MASS + 2 * car.KNUCKLE_MASS  # kg
DRIVE_FORCE = 4 * car.DRIVE_TORQUE / car.WHEEL_RADIUS  # N
SERVO_LAG = 0.04  # s, of the steering and of half a decision
RETURN_RATE = 6.0  # rad/s, of the car to the middle of the track
MAX_PULL = 6.0  # m/s², towards the target
POSITION_PART, POSITION_DAMPING = 0.18, 1.7  # of the quadrotor's position loop: its speed over that of the tilt; twice its damping ratio


def fly(readings: Readings, told: Values) -> Tensor:
    """(N, 4) actions of quadrotor_track: acceleration towards the target, the wind's force and the rotors' torque compensated."""
    # Tilt follows its command through the rate loop and the motors' lag: three equal poles are as fast as that goes without a swing.
    lag, loop = told["motor_lag"].unsqueeze(-1), quadrotor.INERTIA[0] / quadrotor.RATE_GAIN[0]
    pole = (1 / lag + 1 / loop) / 3
    attitude_gain, damping = pole**3 * lag * loop, 3 * pole**2 * lag * loop - 1
    slow = POSITION_PART * pole
    position_gain, velocity_gain = slow**2, POSITION_DAMPING * slow
    radius, rate = told["target_radius"].unsqueeze(-1), told["target_rate"].unsqueeze(-1)
    phase = readings["phase"] + rate * (1 + damping) / attitude_gain  # the tilt comes late: it is that for the target's path by then
    ahead = -(rate**2) * radius * torch.cat([phase.sin(), 2 * (2 * phase).sin(), 0 * phase], -1)
    error, error_rate = readings["target_pos"] - readings["pos"], readings["target_linvel"] - readings["linvel"]
    wanted = ahead + (position_gain * error + velocity_gain * error_rate).clamp(-MAX_PULL, MAX_PULL)
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
    spinning = (inward @ readings["angvel"].unsqueeze(-1)).squeeze(-1)[:, :2]
    rates = attitude_gain * torch.stack([-upward[:, 1], upward[:, 0]], -1) - damping * spinning - torque / gain
    spin = -2.0 * torch.atan2(turned[:, 1, 0], turned[:, 0, 0])
    more = (thrust - quadrotor.HOVER) / (quadrotor.MAX_THRUST - quadrotor.HOVER)
    return torch.cat([more.unsqueeze(-1), torch.cat([rates, spin.unsqueeze(-1)], -1) / force.new_tensor(quadrotor.MAX_RATE)], -1).clamp(-1.0, 1.0)


def drive(readings: Readings, told: Values, grip_used: float = 0.75, aside: Tensor | float = 0.0) -> Tensor:
    """(N, 2) actions of car_track: the fastest speed at which bends ahead and the wind take `grip_used` of the friction, `aside` (N,) m of the middle."""
    braking_used, horizon, spacing = 0.5, 3.0, 0.2  # part of the friction; m
    course, turning = readings["track"], readings["car_angvel"][:, 2]
    # where it will be when this command acts
    late = told["delay"] + SERVO_LAG
    turned = rotation_from_wxyz(readings["car_quat"])
    now = torch.atan2(turned[:, 1, 0], turned[:, 0, 0])
    velocity = readings["car_linvel"][:, :2]
    half = 0.5 * late * turning  # the arc's chord
    cos, sin = half.cos(), half.sin()
    step = torch.stack([cos * velocity[:, 0] - sin * velocity[:, 1], sin * velocity[:, 0] + cos * velocity[:, 1]], -1)
    pos, yaw = readings["car_pos"][:, :2] + late.unsqueeze(-1) * step, now + late * turning
    speed = velocity.norm(dim=-1)
    angle = track.angle_of(pos)

    distances = tuple(spacing * (i + 1) for i in range(round(horizon / spacing)))
    ahead = torch.cat([angle.unsqueeze(-1), track.ahead(course, angle, distances)], -1)
    bend, way = track.curvature(course, ahead), track.direction(course, ahead)
    blowing = wind.gusty(wind.mean_wind(told["wind_speed"], told["wind_angle"]), readings["gust"], car_track.TURBULENCE)
    mass = CAR_MASS + told["payload"]
    push = wind.drag(blowing, readings["car_linvel"], car_track.DRAG_AREA) / mass.unsqueeze(-1)
    leftward = push[:, 1:2] * way.cos() - push[:, :1] * way.sin()  # m/s²
    grip = GRAVITY * _friction(course, ahead, told)
    allowed = (grip_used * grip + leftward * bend.sign()).clamp(min=0.05) / bend.abs().clamp(min=1e-3)
    run = torch.tensor((0.0, *distances))
    braking = braking_used * grip.clamp(max=DRIVE_FORCE / mass.unsqueeze(-1))
    slowest = (allowed + 2 * braking.amin(-1, keepdim=True) * run).amin(-1)
    forward = (push[:, :2] * torch.stack([yaw.cos(), yaw.sin()], -1)).sum(-1) * mass
    slip = forward * car.WHEEL_RADIUS**2 / (4 * car.DRIVE_GAIN)  # m/s, what the wind adds
    wanted = (slowest.sqrt() - slip) / told["motor_gain"]

    # the path's curvature, and a critically damped return to its middle
    offset, slant = track.offset(course, pos) - aside, yaw - way[:, 0] + 0.5 * car.WHEELBASE * bend[:, 0]
    slant = torch.atan2(slant.sin(), slant.cos())
    back = (RETURN_RATE / speed.clamp(min=0.7)).clamp(max=4.0)
    curve = bend[:, 0] - back**2 * offset - 1.6 * back * slant
    steer = torch.atan(car.WHEELBASE * curve) - told["steering_bias"]
    return torch.stack([2 * wanted / car.MAX_SPEED - 1, steer / car.MAX_STEER], -1).clamp(-1.0, 1.0)


def _friction(course: Tensor, ahead: Tensor, told: Values) -> Tensor:
    """(N, W) at angles (N, W) of the track: that of a patch on it and a bit before it, else that of the road."""
    friction = told["friction"].unsqueeze(-1).expand_as(ahead)
    points = track.position(course, ahead)
    for side in range(2):
        centre = track.position(course, told["patch_angle"] + torch.pi * side)
        on_patch = (points - centre.unsqueeze(-2)).norm(dim=-1) < car_track.PATCH_HALF[0] + 0.15
        friction = torch.where(on_patch, torch.minimum(friction, told["patch_friction"].unsqueeze(-1)), friction)
    return friction
