"""quadrotor: four rotors, 0.8 kg, commanded by collective thrust and body rates; the rate loop is part of the model.

Motors act on the frame at the middle of the rotors: thrust follows its command with the motors' lag, and each rate loop gives a torque
proportional to the error of its rate, whose command has the same lag.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from metarl.robots.spec import WXYZ, Twist, Vec, VehicleSpec, clamp

if TYPE_CHECKING:
    import mujoco
    from torch import Tensor

GRAVITY = 9.81  # m/s²
MASS = 0.8  # kg, the class of Neural-Fly's and of most research quadrotors between a Crazyflie and a delivery drone
INERTIA = (6e-3, 7e-3, 11e-3)  # kg·m²
ARM = 0.17  # m, from the middle to a rotor
HOVER = MASS * GRAVITY  # N
MAX_THRUST = 2.2 * HOVER  # N, of all rotors
MAX_RATE = (4.0, 4.0, 2.0)  # rad/s
RATE_GAIN = (0.15, 0.175, 0.11)  # N·m·s/rad: time constants of 40, 40 and 100 ms
MAX_TORQUE = (0.9, 0.9, 0.15)  # N·m: a third of the thrust to one side; yaw has only the rotors' drag
MOTOR_LAG = 0.04  # s
LEAST_THRUST = 0.3 * HOVER  # N, of a stop: whoever falls turns over, and what is measured may be wrong
LEVELLING, SINKING = 4.0, 4.0  # 1/s: how fast a stop turns a tilted frame level, and ends its climbing or sinking
# places of the rotors in the frame: front left, rear left, rear right, front right
ROTORS = tuple((ARM * math.cos(a), ARM * math.sin(a)) for a in (math.pi / 4, 3 * math.pi / 4, -3 * math.pi / 4, -math.pi / 4))
MOTORS = ("thrust", "roll_rate", "pitch_rate", "yaw_rate")


def build() -> mujoco.MjSpec:
    """The quadrotor as a free body at the world's origin; its frame is at the middle of the rotors, x forward, z up."""
    import mujoco

    spec = mujoco.MjSpec()
    spec.modelname = "quadrotor"
    spec.compiler.degree = False
    body = spec.worldbody.add_body(name="quadrotor")
    body.add_freejoint(name="quadrotor")
    body.explicitinertial, body.mass, body.ipos, body.inertia = True, MASS, [0, 0, 0], INERTIA
    body.simple = 0  # its centre of mass moves away from its frame
    shape = {"contype": 0, "conaffinity": 0, "mass": 0}
    body.add_geom(name="hull", type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.06, 0.04, 0.02], rgba=[0.2, 0.2, 0.25, 1], **shape)
    for number, (x, y) in enumerate(ROTORS):
        colour = [0.85, 0.3, 0.15, 1] if number in (0, 3) else [0.8, 0.8, 0.82, 1]  # the front is red
        body.add_geom(
            name=f"arm_{number}", type=mujoco.mjtGeom.mjGEOM_CAPSULE, fromto=[0, 0, 0, x, y, 0.01], size=[0.008, 0, 0], rgba=[0.3, 0.3, 0.3, 1], **shape
        )
        body.add_geom(name=f"rotor_{number}", type=mujoco.mjtGeom.mjGEOM_CYLINDER, pos=[x, y, 0.02], size=[0.075, 0.003, 0], rgba=colour, **shape)
    body.add_site(name="quadrotor", size=[0.01, 0, 0])
    _add_motor(spec, "thrust", (0, 0, 1, 0, 0, 0), 1.0, 0.0, (0.0, MAX_THRUST))
    for axis, name in enumerate(MOTORS[1:]):
        gear = [0.0] * 6
        gear[3 + axis] = 1.0
        _add_motor(spec, name, tuple(gear), RATE_GAIN[axis], -RATE_GAIN[axis], (-MAX_TORQUE[axis], MAX_TORQUE[axis]))
    kind = mujoco.mjtSensor
    for reading, sensor in (
        ("pos", kind.mjSENS_FRAMEPOS),
        ("quat", kind.mjSENS_FRAMEQUAT),
        ("linvel", kind.mjSENS_FRAMELINVEL),
        ("angvel", kind.mjSENS_FRAMEANGVEL),
    ):
        spec.add_sensor(name=reading, type=sensor, objtype=mujoco.mjtObj.mjOBJ_SITE, objname="quadrotor")
    return spec


def _add_motor(spec: mujoco.MjSpec, name: str, gear: tuple[float, ...], gain: float, damping: float, limits: tuple[float, float]) -> None:
    """Force along `gear` in the frame = gain * lagged command + damping * velocity along `gear`."""
    import mujoco

    spec.add_actuator(
        name=name, target="quadrotor", trntype=mujoco.mjtTrn.mjTRN_SITE, gear=gear, gaintype=mujoco.mjtGain.mjGAIN_FIXED, gainprm=[gain] + [0] * 9,
        biastype=mujoco.mjtBias.mjBIAS_AFFINE, biasprm=[0, 0, damping] + [0] * 7, dyntype=mujoco.mjtDyn.mjDYN_FILTEREXACT, dynprm=[MOTOR_LAG] + [0] * 9,
        forcerange=limits, forcelimited=True,
    )  # fmt: skip


def same(command: Tensor) -> Tensor:
    """Motors take thrust and body rates as they are."""
    return command


def twist_of(command: Sequence[float]) -> Twist:
    """Body rates as the angular part, and the collective thrust in N as linear z: a twist has no other place for it."""
    thrust, roll, pitch, yaw = (float(v) for v in command)
    return 0.0, 0.0, thrust, roll, pitch, yaw


def of_twist(twist: Twist, before: Sequence[float]) -> Vec:
    """Thrust and body rates."""
    return twist[2], twist[3], twist[4], twist[5]


def safe(before: Sequence[float], attitude: WXYZ | None, vertical_speed: float, elapsed: float) -> Vec:
    """Turn level and end climbing or sinking; without a known attitude, stop turning and hover.

    The thrust is proportional to `vertical_speed` around the hover of a body without a load: whoever calls it adds what has summed up of it, or one that is
    heavier, or has weaker rotors, sinks for ever.
    """
    thrust = HOVER - SINKING * MASS * vertical_speed
    if attitude is None:
        return clamp(thrust, LEAST_THRUST, MAX_THRUST), 0.0, 0.0, 0.0
    w, x, y, z = attitude
    up = (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y))  # the world's, in the frame
    roll, pitch = (clamp(LEVELLING * v, -m, m) for v, m in zip((-up[1], up[0]), MAX_RATE[:2], strict=True))
    return clamp(thrust / max(up[2], 0.5), LEAST_THRUST, MAX_THRUST), roll, pitch, 0.0


SPEC = VehicleSpec(
    name="quadrotor",
    joint_names=(),
    control_dt=0.02,
    physics_dt=0.004,
    build=build,
    command_names=MOTORS,
    command_limits=((0.0, MAX_THRUST), *((-m, m) for m in MAX_RATE)),
    # the most that lagging motors make of a step in thrust, 432 N/s, and the torques of the rotors: 150, 129 and 13.6 rad/s². Of the commands of
    # zoo:quadrotor_track/rl2, 3 in 100 are cut in yaw and 6 in 1000 in pitch; its returns are the same within 0.5 in 100.
    slew_limits=(MAX_THRUST / MOTOR_LAG, *(torque / inertia for torque, inertia in zip(MAX_TORQUE, INERTIA, strict=True))),
    ctrl_of=same,
    command_of=same,
    twist_of=twist_of,
    of_twist=of_twist,
    safe=safe,
    prefix="",
    command_topic="rates_thrust",  # never cmd_vel: whoever listens there reads newtons as m/s upwards
)
