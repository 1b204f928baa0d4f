"""car_track_obstacles: the same road, wider, with four posts on it that only a lidar sees, and that through the fog.

The posts stand where they stand for the whole trial: who has met them once need not see them in time again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from metarl.robots import car
from metarl.robots.kinematics import rotation_from_wxyz, yaw_of
from metarl.robots.spec import constant
from metarl.tasks import track
from metarl.tasks.car_track import TOP_SPEED, CarTrack, drive, sine_and_cosine
from metarl.tasks.parameters import Param
from metarl.tasks.sensing import Lidar, transmission
from metarl.tasks.task import Readings, Values

if TYPE_CHECKING:
    import mujoco
    import mujoco.batch

POSTS, RADIUS, HEIGHT = 4, 0.12, 0.2  # m
FIRST, SPACING, SHIFT = 0.8, 0.9, 0.15  # rad along the track, of the posts: a slalom that can be driven, 1.3 m between two at the least
BEAMS, FIELD = 24, 4.0  # sectors of the lidar, rad that they cover together; each tells its nearest echo
_WIDTH = FIELD / BEAMS  # rad, of a sector
_MIDDLES = _WIDTH * (torch.arange(BEAMS) + 0.5) - FIELD / 2  # rad, where they are
RANGE = 6.0  # m, of a small scanning lidar
FAINTEST = 0.05  # of its light that an echo must keep on the way there and back
RANGE_NOISE = 0.01  # m
BODY = (car.CHASSIS_HALF[0], 0.5 * car.TRACK)  # m, half length and half width of what must not touch a post
COURSE = 6.0  # m that shall be driven in an episode: 1.5 m/s from a standing start
BERTH = 0.4  # m, of the expert's car from the middle of a post


def _post(number: int) -> tuple[Param, Param]:
    at = FIRST + number * SPACING
    return (
        Param(f"post_{number}_angle", "rad", "a post at {:.2f} rad", nominal=at, train=(at - SHIFT, at + SHIFT)),
        Param(
            f"post_{number}_aside", "m", "{:+.2f} m to the left", nominal=0.1, train=(-0.3, 0.3),
            ood_near=((-0.36, -0.3), (0.3, 0.36)), ood_far=((-0.42, -0.36), (0.36, 0.42)),
        ),
    )  # fmt: skip


class CarTrackObstacles(CarTrack):
    """Reward per step: metres along the centre line over those at 3.5 m/s; -1 and the end of the episode off the track or at a post.

    Worth knowing is where the posts stand; all the rest, which the wider road forgives, is a nuisance.
    """

    name = "car_track_obstacles"
    version = 1
    half_width = 0.7
    params = (*CarTrack.params, *(param for number in range(POSTS) for param in _post(number)))
    observed = {**CarTrack.observed, "lidar": BEAMS}
    lidar = Lidar(BEAMS, FIELD, RANGE)

    def build(self) -> mujoco.MjSpec:
        import mujoco

        spec = super().build()
        for number in range(POSTS):
            angle = FIRST + number * SPACING
            body = spec.worldbody.add_body(name=f"post_{number}", pos=[2.5 * np.cos(angle), 2.5 * np.sin(angle), HEIGHT / 2])
            body.add_geom(
                name=f"post_{number}", type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[RADIUS, HEIGHT / 2, 0], contype=1, conaffinity=2, condim=3,
                priority=1, friction=[0.5, 0, 0], solref=[0.01, 1.0], rgba=[0.9, 0.45, 0.1, 1],
            )  # fmt: skip
        return spec

    def apply(self, batch: mujoco.batch.Batch, values: Mapping[str, Any]) -> None:
        super().apply(batch, values)
        places = self._posts({name: torch.as_tensor(v) for name, v in values.items()}).numpy()
        for number in range(POSTS):
            batch.body(f"post_{number}").pos = np.concatenate([places[:, number], np.full((len(places), 1), HEIGHT / 2)], 1)

    def _posts(self, values: Mapping[str, Tensor]) -> Tensor:
        """(N, POSTS, 2) m, where the posts stand."""
        angle, aside = (torch.stack([values[f"post_{i}_{what}"] for i in range(POSTS)], -1) for what in ("angle", "aside"))
        course = self._track(values)
        way = track.direction(course, angle)
        return track.position(course, angle) + aside.unsqueeze(-1) * torch.stack([-way.sin(), way.cos()], -1)

    def goals(self, values: Values, rng: torch.Generator) -> Readings:
        return {**super().goals(values, rng), "posts": self._posts(values).flatten(-2)}

    def _look(self, num: int, rng: torch.Generator) -> Readings:
        return {**super()._look(num, rng), "lidar_noise": torch.randn(num, BEAMS, generator=rng)}

    def sense(self, readings: Readings, values: Values) -> Readings:
        sensed = super().sense(readings, values)
        distance = nearest_echo(_seen_from_the_car(readings, sensed["heading"]), RADIUS)
        kept = transmission(2 * distance.clamp(max=RANGE), values["visibility"].unsqueeze(-1).expand_as(distance))
        heard = (distance < RANGE) & (kept > FAINTEST)
        noisy = (distance + RANGE_NOISE * readings["lidar_noise"]).clamp(0.0, RANGE)
        return {**sensed, "lidar": torch.where(heard, noisy, RANGE)}

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        step = track.progress(next_readings["track"], readings["car_pos"], next_readings["car_pos"])
        reward = (step / (TOP_SPEED * self.decision_dt)).clamp(-1.0, 1.0)
        return torch.where(self.terminated(next_readings), -1.0, reward)

    def terminated(self, readings: Readings) -> Tensor:
        heading = sine_and_cosine(yaw_of(rotation_from_wxyz(readings["car_quat"])))
        posts = _seen_from_the_car(readings, heading)
        beyond = (posts.abs() - constant(BODY, posts.dtype, posts.device)).clamp(min=0.0)  # of the rectangle that the car covers
        return super().terminated(readings) | (torch.linalg.vector_norm(beyond, dim=-1) < RADIUS).any(-1)

    def success(self, readings: Readings) -> Tensor:
        return self.error(readings) == 0.0

    def error(self, readings: Readings) -> Tensor:
        return (COURSE - readings["driven"][..., 0]).clamp(min=0.0)

    def expert(self, readings: Readings, told: Values) -> Tensor:
        """(N, 2) actions that pass each post on its wider side; told the task."""
        course, pos = readings["track"], readings["car_pos"]
        angle = track.angle_of(pos)
        there, aside = (torch.stack([told[f"post_{i}_{what}"] for i in range(POSTS)], -1) for what in ("angle", "aside"))
        way = torch.remainder(there - angle.unsqueeze(-1) + torch.pi, 2 * torch.pi) - torch.pi
        metres = way * track.metres_per_radian(course, angle).unsqueeze(-1)
        passing = aside - BERTH * torch.where(aside >= 0, 1.0, -1.0)
        near = torch.exp(-(((metres - 0.45) / 0.85) ** 4))
        target = (near * passing).sum(-1) / near.sum(-1).clamp(min=1.0)
        speed, steer = drive(readings, told, 0.8, target, 6.0).unbind(-1)
        shift = (target - track.offset(course, pos)).abs()
        slower = 1.0 - 0.6 * (shift / 0.3).clamp(max=1.0)
        return torch.stack([(1.0 + speed) * slower - 1.0, steer], -1)


def nearest_echo(posts: Tensor, radius: float) -> Tensor:
    """(..., BEAMS) m to the nearest post in each sector of a planar lidar, infinite where there is none.

    Args:
        posts: (..., K, 2) m, in the lidar's frame, x forward.
        radius: m, of the posts.
    """
    away, bearing = torch.linalg.vector_norm(posts, dim=-1).unsqueeze(-1), torch.atan2(posts[..., 1], posts[..., 0]).unsqueeze(-1)
    turn = torch.remainder(bearing - _MIDDLES + torch.pi, 2 * torch.pi) - torch.pi
    off = (turn.abs() - 0.5 * _WIDTH).clamp(min=0.0)  # of the sector's ray that comes nearest to the post's middle
    inside = radius**2 - (away * off.sin()) ** 2
    hit = (inside > 0) & (off < 0.5 * torch.pi)
    echo = away * off.cos() - inside.clamp(min=0.0).sqrt()
    return torch.where(hit, echo.clamp(min=0.0), torch.inf).amin(-2)


def _seen_from_the_car(readings: Readings, heading: Tensor) -> Tensor:
    """(..., POSTS, 2) m, of the posts in the frame of a car whose heading has this sine and cosine (..., 2)."""
    return track.into_frame(readings["posts"].unflatten(-1, (POSTS, 2)), readings["car_pos"], heading)
