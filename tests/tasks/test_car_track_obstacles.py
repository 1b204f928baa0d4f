"""car_track_obstacles: the lidar against geometry by hand, posts that stop a car in both engines, and a driver who is told where they are."""

import math

import pytest
import torch

from metarl import tasks
from metarl.robots import car
from metarl.tasks import track
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.car_track_obstacles import BEAMS, FIELD, POSTS, RADIUS, RANGE, nearest_echo

ENGINES = pytest.mark.parametrize("engine", ["mujoco", "pybullet"])
CIRCLE = {"wave_2": 0.0, "wave_3": 0.0, "wave_4": 0.0, "track_radius": 2.8, "wind_speed": 0.0, "patch_angle": 2.0}


def environment(rows, engine="mujoco"):
    """An environment with cars in the middle of circles, along their way, before any step."""
    task = tasks.make("car_track_obstacles")
    place = {"car_x": 2.8, "car_y": 0.0, "car_yaw": math.pi / 2}
    task.start = lambda values, rng: {name: torch.full((len(rows), 1), value) for name, value in place.items()}
    env = BatchedEnv(task, len(rows), simulator=engine, num_threads=1)
    env.set_tasks(task.custom([{**CIRCLE, **row} for row in rows]))
    env.reset()
    return env


def straight_on(env, action, decisions):
    """The same action again and again, along the circle."""
    steer = math.atan(car.WHEELBASE / 2.8) / car.MAX_STEER
    for _ in range(decisions):
        step = env.step(torch.tensor([action, steer]).expand(env.num_tasks, 1, 2))
    return step


def test_a_sector_tells_its_nearest_echo():
    width = FIELD / BEAMS
    ahead = BEAMS // 2  # the first sector to the left of straight on
    echo = nearest_echo(torch.tensor([[2.0, 0.0], [3.0, 0.01], [-1.0, 0.0]]), 0.12)
    assert echo[[ahead - 1, ahead]].tolist() == pytest.approx([1.88, 1.88]), "the nearer of two, seen from both sides of the middle"
    assert echo[:2].isinf().all(), "what is behind is not seen"
    # a post beside a sector: a ray at its edge grazes it
    aside = torch.tensor([[1.0 * math.cos(0.1), 1.0 * math.sin(0.1)]])
    off = width - 0.1
    assert nearest_echo(aside, 0.12)[ahead + 1].item() == pytest.approx(math.cos(off) - math.sqrt(0.12**2 - math.sin(off) ** 2), rel=1e-4)
    assert nearest_echo(aside, 0.05)[ahead + 1].isinf()


def test_fog_hides_posts():
    clear, foggy = environment([{"visibility": 30.0, "post_0_angle": 0.8}, {"visibility": 2.0, "post_0_angle": 0.8}]).sensed["lidar"]
    away = 2 * 2.8 * math.sin(0.4)  # m, on a circle
    assert clear.min() == pytest.approx(away - RADIUS, abs=0.15)
    assert foggy.min() == RANGE, "there and back it keeps 0.1 thousandths of its light"


@ENGINES
def test_a_post_stops_a_car_and_ends_the_episode(engine):
    rows = [{"post_0_aside": 0.0, "post_0_angle": 0.7}, {"post_0_aside": 0.3, "post_0_angle": 0.7}]
    env = environment(rows, engine)
    step = straight_on(env, -0.25, 60)  # 1.5 m/s
    assert step.valid[:, 0].tolist()[0] is False
    hit = env.readings["posts"][0, :2] - env.readings["car_pos"][0, :2]
    assert hit.norm() < RADIUS + car.CHASSIS_HALF[0] + 0.05
    reward = env.task.reward(env.readings, torch.zeros(2, 2), env.readings)
    assert reward[0] == -1.0
    env.close()

    env = environment(rows[:1], engine)
    env.task.terminated = lambda readings: torch.zeros(1, dtype=torch.bool)  # what physics alone makes of it
    straight_on(env, -0.25, 70)
    assert env.readings["car_linvel"].norm() < 0.7, "it stands, or turns aside with two wheels at the post"
    env.close()


def test_posts_stay_for_the_trial_and_differ_between_tasks():
    task = tasks.make("car_track_obstacles")
    env = BatchedEnv(task, 3, num_threads=1)
    env.set_tasks(task.sample(3))
    env.reset()
    first = env.readings["posts"]
    env.reset()
    assert torch.equal(env.readings["posts"], first)
    assert (first[0] - first[1]).abs().max() > 0.01
    course = env.readings["track"]
    for number, place in enumerate(first.unflatten(-1, (POSTS, 2)).unbind(1)):
        torch.testing.assert_close(track.offset(course, place), env.values[f"post_{number}_aside"], atol=0.03, rtol=0)


@ENGINES
def test_who_is_told_the_posts_passes_them(engine):
    num = 24 if engine == "mujoco" else 4
    task = tasks.make("car_track_obstacles")
    env = BatchedEnv(task, num, simulator=engine, num_threads=1)
    env.set_tasks(task.sample(num, "iid"))
    blind = {**env.values, **{f"post_{i}_aside": -env.values[f"post_{i}_aside"] for i in range(POSTS)}}
    passed = []
    for told in (env.values, blind):
        env.rng.manual_seed(0)
        env.reset()
        for _ in range(task.horizon):
            step = env.step(task.expert(env.readings, told).unsqueeze(1))
        passed.append(step.valid.float().mean())
    env.close()
    assert passed[0] > 0.8
    assert passed[0] > passed[1] + 0.4
