"""car: a 1/10 scale car with Ackermann steering and a motor at each wheel, driven by speed and steering angle.

Wheels are spheres: MuJoCo and PyBullet agree on where a sphere touches the ground, and much less so for a cylinder on its edge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from metarl.robots.spec import WXYZ, Twist, Vec, VehicleSpec, clamp, constant

if TYPE_CHECKING:
    import mujoco
    from torch import Tensor

# Size and weight of a 1/10 touring car; 4 kg with battery, computer and lidar (as in the F1TENTH and MuSHR platforms)
WHEELBASE, TRACK = 0.32, 0.24  # m, between axles; between left and right wheels
WHEEL_RADIUS = 0.055  # m
CHASSIS_MASS, WHEEL_MASS, KNUCKLE_MASS = 3.2, 0.15, 0.1  # kg
CHASSIS_HALF = (0.2, 0.08, 0.03)  # m
CHASSIS_HEIGHT = 0.07  # m, of its centre of mass above the ground
MAX_SPEED, MAX_STEER = 4.0, 0.4  # m/s, rad: what the command can ask for
BRAKING = 4.0  # m/s², of a stop: what tyres hold on a wet road
CREEP = 1e-3  # m/s, under which nothing moves: a twist at speed 0 could not say the steering angle
# Drive: torque = kv (wanted - wheel speed), cut at the motor's limit: four wheels push with 25 N, 6.4 m/s²
DRIVE_GAIN, DRIVE_TORQUE = 0.05, 0.35  # N·m·s/rad, N·m
# What motors at their limit give to the bare car; how far ahead of the wheels a wanted speed is that asks for all of it. A command that runs ahead by as much
# in a period, and by what the car gains meanwhile, makes the motors do all that they can: what changes faster is a mistake, or of no use. At their limit alone,
# 6.4 m/s², 43 of 100 commands of zoo:car_track/rl2 would be cut and its returns be 3 in 100 less; at this one it is 8 of 100, and 2 in 100.
ACCELERATION = 4 * DRIVE_TORQUE / WHEEL_RADIUS / (CHASSIS_MASS + 4 * WHEEL_MASS + 2 * KNUCKLE_MASS)  # m/s²
CATCH_UP = DRIVE_TORQUE / DRIVE_GAIN * WHEEL_RADIUS  # m/s
# Steering servo, which turns by torque over damping, 12.5 rad/s, at the fastest:
# a hobby servo of 1.5 N·m, critically damped with the knuckle's inertia and the wheel's
STEER_STIFFNESS, STEER_DAMPING, STEER_TORQUE = 4.0, 0.12, 1.5  # N·m/rad, N·m·s/rad, N·m

ROOT_JOINTS = ("car_x", "car_y", "car_z", "car_yaw", "car_pitch", "car_roll")
WHEELS = ("front_left", "front_right", "rear_left", "rear_right")
STEERS = tuple(f"{wheel}_steer" for wheel in WHEELS[:2])
DRIVES = tuple(f"{wheel}_wheel" for wheel in WHEELS)


def build() -> mujoco.MjSpec:
    """The car on its wheels above the world's origin, heading along x. Moves by three slides and three hinges, the same freedom as a
    free joint while it does not turn over, which PyBullet computes with like with any other joints.
    """
    import mujoco

    spec = mujoco.MjSpec()
    spec.modelname = "car"
    spec.compiler.degree = False
    car = spec.worldbody.add_body(name="car", pos=[0, 0, WHEEL_RADIUS])
    for name, axis in zip(ROOT_JOINTS, ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 1), (0, 1, 0), (1, 0, 0)), strict=True):
        kind = mujoco.mjtJoint.mjJNT_HINGE if name in ROOT_JOINTS[3:] else mujoco.mjtJoint.mjJNT_SLIDE
        car.add_joint(name=name, type=kind, axis=axis)
    up = CHASSIS_HEIGHT - WHEEL_RADIUS
    car.add_geom(
        name="chassis",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=CHASSIS_HALF,
        pos=[0, 0, up],
        mass=CHASSIS_MASS,
        contype=0,
        conaffinity=0,
        rgba=[0.1, 0.35, 0.75, 1],
    )
    car.add_geom(
        name="cabin",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[0.08, 0.07, 0.025],
        pos=[-0.03, 0, up + 0.055],
        mass=0,
        contype=0,
        conaffinity=0,
        rgba=[0.1, 0.15, 0.2, 1],
    )
    car.add_site(name="car", pos=[0, 0, 0], size=[0.01, 0, 0])
    for number, wheel in enumerate(WHEELS):
        place = [0.5 * WHEELBASE * (1 if number < 2 else -1), 0.5 * TRACK * (1 if number % 2 == 0 else -1), 0.0]
        _add_wheel(spec, car, wheel, place, steers=number < 2)
    for name in STEERS:
        _add_motor(spec, name, STEER_STIFFNESS, (0.0, -STEER_STIFFNESS, -STEER_DAMPING), STEER_TORQUE)
    for name in DRIVES:
        _add_motor(spec, name, DRIVE_GAIN, (0.0, 0.0, -DRIVE_GAIN), DRIVE_TORQUE)
    _add_sensors(spec)
    return spec


def _add_wheel(spec: mujoco.MjSpec, car: mujoco.MjsBody, name: str, pos: list[float], steers: bool) -> None:
    import mujoco

    hub = car
    if steers:
        hub = car.add_body(name=f"{name}_knuckle", pos=pos)
        hub.add_joint(name=f"{name}_steer", type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 0, 1], range=[-0.7, 0.7], limited=True)
        hub.add_geom(
            name=f"{name}_knuckle",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[0.04, 0.01, 0.04],
            mass=KNUCKLE_MASS,
            contype=0,
            conaffinity=0,
            rgba=[0.3, 0.3, 0.3, 1],
        )
        pos = [0.0, 0.0, 0.0]
    wheel = hub.add_body(name=f"{name}_wheel", pos=pos)
    wheel.add_joint(name=f"{name}_wheel", type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 1, 0])
    # friction is that of the ground, which rules the contact by its priority
    wheel.add_geom(name=f"{name}_wheel", size=[WHEEL_RADIUS, 0, 0], mass=WHEEL_MASS, contype=2, conaffinity=1, friction=[1, 0, 0], rgba=[0.15, 0.15, 0.15, 1])


def _add_motor(spec: mujoco.MjSpec, joint: str, gain: float, bias: tuple[float, float, float], torque: float) -> None:
    import mujoco

    spec.add_actuator(
        name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT, gaintype=mujoco.mjtGain.mjGAIN_FIXED, biastype=mujoco.mjtBias.mjBIAS_AFFINE,
        gainprm=[gain] + [0] * 9, biasprm=[*bias] + [0] * 7, forcerange=[-torque, torque], forcelimited=True,
    )  # fmt: skip


def _add_sensors(spec: mujoco.MjSpec) -> None:
    import mujoco

    kind = mujoco.mjtSensor
    for name, sensor in (
        ("pos", kind.mjSENS_FRAMEPOS),
        ("quat", kind.mjSENS_FRAMEQUAT),
        ("linvel", kind.mjSENS_FRAMELINVEL),
        ("angvel", kind.mjSENS_FRAMEANGVEL),
    ):
        spec.add_sensor(name=f"car_{name}", type=sensor, objtype=mujoco.mjtObj.mjOBJ_SITE, objname="car")
    for joint in DRIVES:
        spec.add_sensor(name=f"wheel_speed/{joint}", type=kind.mjSENS_JOINTVEL, objtype=mujoco.mjtObj.mjOBJ_JOINT, objname=joint)


def controls(speed: Tensor, steer: Tensor) -> Tensor:
    """Commands (..., 6) of the two steering servos (rad) and the four wheel motors (rad/s).

    Args:
        speed: (...) m/s, of the middle of the rear axle.
        steer: (...) rad, of a wheel in the middle between the front wheels; positive turns left.
    """
    import torch  # here, because the process that guards the motors needs this file and nothing of torch

    bend = torch.tan(steer) / WHEELBASE  # 1/m, of the path of the rear axle's middle
    side = constant((0.5 * TRACK, -0.5 * TRACK), bend.dtype, bend.device)  # left, right
    nearer = 1 - bend.unsqueeze(-1) * side  # Ackermann: a wheel's distance from the centre of the turn, over that of the middle
    angles = torch.atan(WHEELBASE * bend.unsqueeze(-1) / nearer)
    rear = speed.unsqueeze(-1) * nearer / WHEEL_RADIUS
    return torch.cat([angles, rear / angles.cos(), rear], -1)


def command_of(ctrl: Tensor) -> Tensor:
    """Speed (m/s) and steering angle (rad) (..., 2) that `controls` made motor commands (..., 6) of."""
    import torch  # here, because the process that guards the motors needs this file and nothing of torch

    left = torch.tan(ctrl[..., 0])
    bend = left / (WHEELBASE + 0.5 * TRACK * left)
    return torch.stack([WHEEL_RADIUS * ctrl[..., 4:].mean(-1), torch.atan(WHEELBASE * bend)], -1)


def ctrl_of(command: Tensor) -> Tensor:
    """Commands (..., 6) of all motors from speed and steering angle (..., 2)."""
    return controls(command[..., 0], command[..., 1])


def twist_of(command: Sequence[float]) -> Twist:
    """Speed and yaw rate of the rear axle's middle, as Nav2 and ros2_control's Ackermann controller take it; a standing car creeps, so that it can steer."""
    speed, steer = max(float(command[0]), CREEP), float(command[1])
    return speed, 0.0, 0.0, 0.0, 0.0, speed * math.tan(steer) / WHEELBASE


def of_twist(twist: Twist, before: Sequence[float]) -> Vec:
    """Speed and steering angle of a twist; where it stands still, the angle before."""
    speed, yaw_rate = twist[0], twist[5]
    if abs(speed) < 0.5 * CREEP:
        return 0.0, float(before[1])
    return (0.0 if abs(speed) <= CREEP else speed), math.atan(yaw_rate * WHEELBASE / speed)


def safe(before: Sequence[float], attitude: WXYZ | None, vertical_speed: float, elapsed: float) -> Vec:
    """Brake evenly and keep the steering angle: a wheel turned straight leaves the road, one that locks does not steer."""
    speed = float(before[0])
    return speed - clamp(speed, -BRAKING * elapsed, BRAKING * elapsed), float(before[1])


SPEC = VehicleSpec(
    name="car",
    joint_names=(*STEERS, *DRIVES),
    control_dt=0.04,
    physics_dt=0.004,
    build=build,
    command_names=("speed", "steer"),
    command_limits=((0.0, MAX_SPEED), (-MAX_STEER, MAX_STEER)),
    slew_limits=(CATCH_UP / 0.04 + ACCELERATION, STEER_TORQUE / STEER_DAMPING),  # 16 m/s² and 12.5 rad/s
    ctrl_of=ctrl_of,
    command_of=command_of,
    twist_of=twist_of,
    of_twist=of_twist,
    safe=safe,
    prefix="car_",
)
