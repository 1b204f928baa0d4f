"""car_track: drive fast in the middle of a narrow track that fog half hides, on a road that may be dry or icy, 25 times a second.

Command: speed and steering angle. Hidden in each task: the road's friction and that of two slippery patches, the wind and its gusts, how far
one can see, the payload, how far off the steering is, how strong the motor, and how late the commands. How fast a bend can be
taken is the square root of friction and wind: who does not know them crawls or flies off the track. A steering that is off leaves the car beside
the middle, and the later its commands the less can be done about that: who sees only what is now, and not what was commanded, cannot know it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from metarl.robots import car
from metarl.robots.kinematics import rotation_from_wxyz, yaw_of
from metarl.robots.spec import Controls
from metarl.tasks import track, wind
from metarl.tasks.parameters import Param
from metarl.tasks.sensing import through_fog
from metarl.tasks.task import Readings, Task, Values

if TYPE_CHECKING:
    import mujoco
    import mujoco.batch

TOP_SPEED = 3.5  # m/s along the centre line that a reward of 1 a step stands for
SHARPNESS = 10.0  # 1/m, of the reward for being in the middle: half of it is left 5 cm beside
LOOK_AHEAD = (0.5, 1.0, 1.6, 2.4)  # m along the centre line, points that the car looks for
SIGHT_NOISE = 0.01  # m, deviation of such a point's place in clear air
GUST_TIME, TURBULENCE = 1.5, 0.3  # s; deviation of a gust over the mean wind
DRAG_AREA = 0.2  # m², a box with a sail: 7 m/s push the car with 0.15 of its weight
PATCH_HALF = (0.6, 0.7, 0.005)  # m, of a slippery patch along and across the track, and its height
PATCH_RISE = 0.001  # m, of a patch above the road
MARKS = 36  # of the centre line, for pictures
LOAD_HEIGHT = 0.05  # m above the wheels' axles
GRAVITY = 9.81  # m/s²
CAR_MASS = car.CHASSIS_MASS + 4 * car.WHEEL_MASS + 2 * car.KNUCKLE_MASS  # kg
DRIVE_FORCE = 4 * car.DRIVE_TORQUE / car.WHEEL_RADIUS  # N


def _wave(number: int, size: float) -> Param:
    near, far = ((size, 1.2 * size),), ((1.2 * size, 1.4 * size),)
    return Param(f"wave_{number}", "", "", nominal=0.5 * size, train=(0.0, size), ood_near=near, ood_far=far, hidden=False)


def _phase(number: int) -> Param:
    return Param(f"phase_{number}", "rad", "", nominal=0.0, train=(-3.0, 3.0), hidden=False)


class CarTrack(Task):
    """Reward per step: metres along the centre line over those at 3.5 m/s, times 1 - tanh 10d, d the distance from the line in m; -1 and the end
    of the episode off the track.

    Worth knowing are the road's grip (its friction and where the patches are together), the steering's bias and the motor's gain. To believe in another
    wind, payload or delay costs an expert little, since he sees where the car goes: these are nuisances, and so is the visibility, of which he makes no
    use; they stay so that what was learnt holds in any weather.
    """

    half_width = 0.4  # m, beyond it the car is off the track
    name = "car_track"
    version = 2  # 1 counted metres alone, on a wide track: what is hidden could be done without
    robot_name = "car"
    # Friction of tyres: dry asphalt and concrete 0.7-0.9, wet 0.45-0.6, wet dirt and packed snow 0.15-0.35, ice 0.05-0.15
    # (tyre tables; Bosch Automotive Handbook): a range that wide, because between wet and dry asphalt there is little to know.
    # Bias and gain of small cars with hobby servos that nobody has trimmed; delays of a radio link and a camera.
    params: ClassVar[tuple[Param, ...]] = (
        Param("friction", "", "a road of friction {:.2f}", nominal=0.6, train=(0.25, 0.9), scale="log", ood_near=((0.2, 0.25),), ood_far=((0.08, 0.2),)),
        Param("patch_friction", "", "patches of {:.2f}", nominal=0.2, train=(0.1, 0.4), scale="log", ood_near=((0.075, 0.1),), ood_far=((0.05, 0.075),)),
        Param("patch_angle", "rad", "at {:.2f} rad and opposite", nominal=0.3, train=(0.1, 3.0)),
        Param("wind_speed", "m/s", "wind of {:.1f} m/s", nominal=4.0, train=(0.0, 7.0), ood_near=((7.0, 8.75),), ood_far=((8.75, 12.0),)),
        Param("wind_angle", "rad", "towards {:+.2f} rad", nominal=0.0, train=(-3.0, 3.0)),
        Param("visibility", "m", "one can see {:.1f} m", nominal=15.0, train=(5.0, 30.0), scale="log", ood_near=((4.0, 5.0),), ood_far=((2.0, 4.0),)),
        Param("payload", "kg", "carries {:.2f} kg", nominal=0.0, train=(0.0, 2.0), ood_near=((2.0, 2.5),), ood_far=((2.5, 3.5),)),
        Param("steering_bias", "rad", "steers {:+.3f} rad off", nominal=0.0, train=(-0.14, 0.14), ood_near=((-0.175, -0.14), (0.14, 0.175)), ood_far=((-0.22, -0.175), (0.175, 0.22))),
        Param("motor_gain", "", "motors at {:.2f} of their speed", nominal=1.0, train=(0.6, 1.4), ood_near=((0.5, 0.6), (1.4, 1.5)), ood_far=((0.4, 0.5), (1.5, 1.7))),
        Param("delay", "s", "commands {:.3f} s late", nominal=0.0, train=(0.0, 0.12), ood_near=((0.12, 0.15),), ood_far=((0.15, 0.24),)),
        Param("track_radius", "m", "a track of radius {:.2f} m", nominal=2.5, train=(2.2, 2.8), ood_near=((2.0, 2.2),), ood_far=((1.8, 2.0),), hidden=False),
        _wave(2, 0.12), _phase(2), _wave(3, 0.07), _phase(3), _wave(4, 0.03), _phase(4),
    )  # fmt: skip
    horizon = 100
    physics_dt = 0.005
    episodes_per_trial = 2
    decision_dt = 0.04
    observed = {"waypoints": 2 * len(LOOK_AHEAD), "lane": 3, "velocity": 3, "wheel_speed": 1, "heading": 2}
    action_names = ("speed", "steer")
    reward_range = (-1.0, 1.0)

    def build(self) -> mujoco.MjSpec:
        import mujoco

        spec = self.robot.build()
        floor = spec.worldbody.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[6, 6, 0.1], rgba=[0.55, 0.57, 0.55, 1])
        grounds = [floor]
        for number in range(2):
            patch = spec.worldbody.add_body(name=f"patch_{number}", pos=[2.5 * (1 - 2 * number), 0, PATCH_RISE - PATCH_HALF[2]])
            grounds.append(patch.add_geom(name=f"patch_{number}", type=mujoco.mjtGeom.mjGEOM_BOX, size=PATCH_HALF, rgba=[0.7, 0.85, 0.95, 1]))
        for ground in grounds:  # the ground's friction rules its contacts, else the larger of the pair would
            ground.contype, ground.conaffinity, ground.condim = 1, 2, 3
            ground.priority, ground.friction, ground.solref = 1, [0.7, 0, 0], [0.01, 1.0]
        for number in range(MARKS):
            mark = spec.worldbody.add_geom(name=f"mark_{number}", size=[0.03, 0, 0], contype=0, conaffinity=0, rgba=[0.95, 0.85, 0.2, 1])
            mark.pos = [2.5, 0, 0.02]
        spec.worldbody.add_light(type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, pos=[0, 0, 6], dir=[0.2, 0.3, -1], castshadow=False)
        spec.worldbody.add_camera(name="above", pos=[0, -5.0, 7.8], xyaxes=[1, 0, 0, 0, 0.866, 0.5])
        return spec

    def solver(self, option: mujoco.MjOption) -> None:
        super().solver(option)
        option.impratio = 1.0  # tyres that slide anyway creep no less for it, and the solver is done sooner

    def apply(self, batch: mujoco.batch.Batch, values: Mapping[str, Any]) -> None:
        model, num = batch.model, len(values["payload"])
        self._apply_load(batch, values["payload"])
        friction = batch.expand("geom_friction")
        friction[:] = model.geom_friction
        friction[:, model.geom("floor").id, 0] = values["friction"]
        course = self._track({name: torch.as_tensor(v) for name, v in values.items()})
        place = batch.expand("geom_pos")
        place[:] = model.geom_pos
        angles = torch.arange(MARKS, dtype=torch.float64) * (2 * np.pi / MARKS)
        first = model.geom("mark_0").id
        place[:, first : first + MARKS, :2] = track.position(course, angles.expand(num, -1)).numpy()
        for number in range(2):
            angle = torch.as_tensor(values["patch_angle"]) + np.pi * number
            pos, turn = track.position(course, angle).numpy(), 0.5 * track.direction(course, angle).numpy()
            body = batch.body(f"patch_{number}")
            body.pos = np.concatenate([pos, np.full((num, 1), PATCH_RISE - PATCH_HALF[2])], 1)
            body.quat = np.stack([np.cos(turn), 0 * turn, 0 * turn, np.sin(turn)], -1)
            friction[:, model.geom(f"patch_{number}").id, 0] = values["patch_friction"]
        gain, bias = batch.expand("actuator_gainprm"), batch.expand("actuator_biasprm")
        gain[:], bias[:] = model.actuator_gainprm, model.actuator_biasprm
        gain[:, 2:, 0] *= values["motor_gain"][:, None]
        bias[:, :2, 0] = (car.STEER_STIFFNESS * values["steering_bias"])[:, None]

    def _apply_load(self, batch: mujoco.batch.Batch, load: Any) -> None:
        """The payload as a part of the chassis: a point above its middle."""
        model = batch.model
        chassis = model.body("car")
        bare, before = float(chassis.mass[0]), np.array(chassis.ipos)
        place = np.array([0.0, 0.0, LOAD_HEIGHT])
        mass = bare + load
        body = batch.body("car")
        body.mass = mass[:, None]
        body.ipos = before + (load / mass)[:, None] * (place - before)
        body.inertia = np.array(chassis.inertia) + (load * bare / mass)[:, None] * (place - before)[2] ** 2 * np.array([1.0, 1.0, 0.0])

    def _track(self, values: Mapping[str, Tensor]) -> Tensor:
        waves, phases = (torch.stack([values[f"{kind}_{k}"] for k in (2, 3, 4)], -1) for kind in ("wave", "phase"))
        return track.shape(values["track_radius"], waves, phases)

    def start(self, values: Values, rng: torch.Generator) -> Readings:
        course, num = self._track(values), len(values["payload"])
        angle, aside = torch.zeros(num), 0.1 * (2 * torch.rand(num, generator=rng) - 1)
        heading = track.direction(course, angle)
        pos = track.position(course, angle) + aside.unsqueeze(-1) * torch.stack([-heading.sin(), heading.cos()], -1)
        yaw = heading + 0.1 * (2 * torch.rand(num, generator=rng) - 1)
        return {"car_x": pos[:, :1], "car_y": pos[:, 1:], "car_yaw": yaw.unsqueeze(-1)}

    def goals(self, values: Values, rng: torch.Generator) -> Readings:
        return {"track": self._track(values)}

    def memory(self, values: Values, rng: torch.Generator) -> Readings:
        num = len(values["payload"])
        return {"gust": wind.first_gust(num, rng), "driven": torch.zeros(num, 1), **self._look(num, rng)}

    def remember(self, readings: Readings, action: Tensor, next_readings: Readings, values: Values, rng: torch.Generator) -> Readings:
        gust = wind.next_gust(readings["gust"], self.decision_dt, GUST_TIME, rng)
        step = track.progress(readings["track"], readings["car_pos"], next_readings["car_pos"])
        return {"gust": gust, "driven": readings["driven"] + step.unsqueeze(-1), **self._look(len(gust), rng)}

    def _look(self, num: int, rng: torch.Generator) -> Readings:
        """What decides whether and how well the points ahead are seen this time."""
        points = len(LOOK_AHEAD)
        return {"chance": torch.rand(num, points, generator=rng), "noise": torch.randn(num, 2 * points, generator=rng)}

    def forces(self, readings: Readings, values: Values) -> Readings:
        blowing = wind.gusty(wind.mean_wind(values["wind_speed"], values["wind_angle"]), readings["gust"], TURBULENCE)
        return {"car": wind.as_wrench(wind.drag(blowing, readings["car_linvel"], DRAG_AREA))}

    def command_delay(self, values: Values) -> Tensor:
        return values["delay"]

    def sense(self, readings: Readings, values: Values) -> Readings:
        course, pos = readings["track"], readings["car_pos"]
        turned = rotation_from_wxyz(readings["car_quat"])
        yaw = yaw_of(turned)
        heading = sine_and_cosine(yaw)
        way, beside, ahead = track.lane(course, pos, LOOK_AHEAD)
        points = track.into_frame(ahead, pos, heading)
        seen = through_fog(points, values["visibility"], readings["chance"], readings["noise"].unflatten(-1, (-1, 2)), SIGHT_NOISE)
        slant = yaw - way
        velocity = (turned.transpose(-1, -2) @ readings["car_linvel"].unsqueeze(-1)).squeeze(-1)
        return {
            **readings,
            "waypoints": seen.flatten(-2),
            "lane": torch.stack([beside, slant.sin(), slant.cos()], -1),
            "heading": heading,
            "velocity": torch.cat([velocity[..., :2], readings["car_angvel"][..., 2:]], -1),
            "wheel_speed": car.WHEEL_RADIUS * readings["wheel_speed"].mean(-1, keepdim=True),
        }

    def command(self, action: Tensor, readings: Readings) -> Controls:
        speed = 0.5 * car.MAX_SPEED * (1 + action[..., 0])
        return Controls(car.controls(speed, car.MAX_STEER * action[..., 1]))

    def action_of(self, executed: Tensor, readings: Readings) -> Tensor:
        speed, steer = car.command_of(executed).unbind(-1)
        return torch.stack([2 * speed / car.MAX_SPEED - 1, steer / car.MAX_STEER], -1)

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        step = track.progress(next_readings["track"], readings["car_pos"], next_readings["car_pos"])
        aside = self.error(next_readings)
        reward = (step / (TOP_SPEED * self.decision_dt)).clamp(-1.0, 1.0) * (1.0 - torch.tanh(SHARPNESS * aside))
        return torch.where(aside > self.half_width, -1.0, reward)

    def terminated(self, readings: Readings) -> Tensor:
        return track.offset(readings["track"], readings["car_pos"]).abs() > self.half_width

    def success(self, readings: Readings) -> Tensor:
        return self.error(readings) < 0.1

    def error(self, readings: Readings) -> Tensor:
        return track.offset(readings["track"], readings["car_pos"]).abs()

    def expert(self, readings: Readings, told: Values) -> Tensor:
        """(N, 2) actions that take bends as fast as friction and wind allow, gusts included."""
        return drive(readings, told)


def sine_and_cosine(angle: Tensor) -> Tensor:
    """(..., 2) of angles (...)."""
    return torch.stack([angle.sin(), angle.cos()], -1)


# ---- one who knows how ------------------------------------------------------------------------------------------------------


def drive(readings: Readings, told: Values, grip_used: float = 0.7, aside: Tensor | float = 0.0, return_rate: float = 4.0) -> Tensor:
    """(N, 2) actions: the fastest speed at which bends ahead and the wind take `grip_used` of the friction, `aside` (N,) m of the middle.

    It returns to where it should be at `return_rate`, rad/s: a late car that is in a hurry to do that swings.
    """
    braking_used, horizon, spacing = 0.5, 3.0, 0.2  # part of the friction; m
    course, turning = readings["track"], readings["car_angvel"][:, 2]
    # where it will be when this command acts
    late = told["delay"]
    turned = rotation_from_wxyz(readings["car_quat"])
    now = yaw_of(turned)
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
    blowing = wind.gusty(wind.mean_wind(told["wind_speed"], told["wind_angle"]), readings["gust"], TURBULENCE)
    mass = CAR_MASS + told["payload"]
    push = wind.drag(blowing, readings["car_linvel"], DRAG_AREA) / mass.unsqueeze(-1)
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
    moving = torch.atan2(velocity[:, 1], velocity[:, 0]) + late * turning  # not where the car heads: tyres slip, on ice by a lot
    heading = torch.where(speed > 0.5, moving, yaw + 0.5 * car.WHEELBASE * bend[:, 0])
    offset, slant = track.offset(course, pos) - aside, heading - way[:, 0]
    slant = torch.atan2(slant.sin(), slant.cos())
    back = (return_rate / speed.clamp(min=0.7)).clamp(max=4.0)
    curve = bend[:, 0] - back**2 * offset - 1.6 * back * slant
    steer = torch.atan(car.WHEELBASE * curve) - told["steering_bias"]
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
