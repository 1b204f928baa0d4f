"""car_track: physics by hand in both engines, what the car sees, and when an episode ends."""

import math

import pytest
import torch

from metarl import tasks
from metarl.robots import car
from metarl.tasks import track
from metarl.tasks.batched_env import BatchedEnv

ENGINES = pytest.mark.parametrize("engine", ["mujoco", "pybullet"])
CIRCLE = {"wave_2": 0.0, "wave_3": 0.0, "wave_4": 0.0, "track_radius": 2.8, "wind_speed": 0.0, "patch_angle": 2.0}


def drive(engine, rows, action, decisions):
    """Readings after some decisions of the same action, on a circle without wind, begun in its middle along its way."""
    task = tasks.make("car_track")
    place = {"car_x": 2.8, "car_y": 0.0, "car_yaw": math.pi / 2}
    task.start = lambda values, rng: {name: torch.full((len(rows), 1), value) for name, value in place.items()}
    env = BatchedEnv(task, len(rows), simulator=engine, num_threads=1)
    env.set_tasks(task.custom([{**CIRCLE, **row} for row in rows]))
    env.reset()
    for _ in range(decisions):
        step = env.step(torch.tensor(action).expand(len(rows), 1, 2))
    env.close()
    return env, step


def steer_for(radius):
    """Action that drives the middle of the rear axle on a circle."""
    return math.atan(car.WHEELBASE / radius) / car.MAX_STEER


@ENGINES
def test_friction_limits_how_fast_it_gets_away(engine):
    env, _ = drive(engine, [{"friction": 0.2}, {"friction": 0.4}, {"friction": 0.4, "payload": 1.0}], [1.0, 0.0], 10)
    speed = env.readings["car_linvel"][:, 1]
    torch.testing.assert_close(speed, 9.81 * 0.4 * torch.tensor([0.2, 0.4, 0.4]), rtol=0.06, atol=0)  # mu g t, whatever it carries


@ENGINES
def test_motor_gain_and_steering_bias_act_on_speed_and_path(engine):
    env, _ = drive(engine, [{}, {"motor_gain": 1.3}, {"steering_bias": 0.05}], [-0.6, 0.0], 25)  # 0.8 m/s straight on
    speed = env.readings["car_linvel"].norm(dim=-1)
    torch.testing.assert_close(speed, torch.tensor([0.8, 1.04, 0.8]), rtol=0.02, atol=0)
    turning = env.readings["car_angvel"][:, 2]
    torch.testing.assert_close(turning, torch.tensor([0.0, 0.0, 0.8 * math.tan(0.05) / car.WHEELBASE]), rtol=0.03, atol=0.005)


def test_it_counts_what_it_has_driven_and_stays_on_a_circle():
    env, step = drive("mujoco", [{}], [-0.25, steer_for(2.8)], 75)  # 1.5 m/s for three seconds
    driven, lane = env.readings["driven"][0, 0], env.sensed["lane"][0]
    assert driven == pytest.approx(4.3, abs=0.15), "the start takes a third of a second"
    assert lane[0].abs() < 0.2
    assert lane[2] > 0.99
    beside = lane[0].abs().item()
    assert env.task.error(env.readings)[0] == pytest.approx(beside)
    faster = 1.5 / 3.5 * 2.8 / (2.8 - lane[0].item())  # on the inside the way is shorter
    assert step.reward[0, 0] == pytest.approx(faster * (1 - math.tanh(10 * beside)), rel=0.02)
    torch.testing.assert_close(env.sensed["velocity"][0], torch.tensor([1.5, 0.0, 1.5 / 2.8]), atol=0.12, rtol=0)
    assert env.sensed["wheel_speed"][0, 0] == pytest.approx(1.5, rel=0.05)


def test_off_the_track_the_episode_ends():
    env, step = drive("mujoco", [{}, {}], [0.5, 0.0], 40)  # straight on, off a circle
    assert not step.valid.any()
    assert track.offset(env.readings["track"], env.readings["car_pos"]).abs().min() > 0.4
    task = env.task
    assert task.terminated(env.readings).all()
    assert task.reward(env.readings, torch.zeros(2, 2), env.readings).tolist() == [-1.0, -1.0]


def test_a_slippery_patch_is_where_the_task_puts_it():
    # braking from 2 m/s on a dry road: the car with the patch in its way slides on
    speeds = []
    for angle in (0.45, 2.0):
        task = tasks.make("car_track")
        env = BatchedEnv(task, 1, num_threads=1, seed=3)
        env.set_tasks(task.custom([{**CIRCLE, "friction": 0.8, "patch_friction": 0.1, "patch_angle": angle}]))
        env.reset()
        for _ in range(14):
            env.step(torch.tensor([[[0.0, steer_for(2.8)]]]))
        for _ in range(6):
            env.step(torch.tensor([[[-1.0, steer_for(2.8)]]]))
        speeds.append(env.readings["car_linvel"][0].norm().item())
        env.close()
    assert speeds[0] > speeds[1] + 0.5


def test_fog_hides_what_is_far():
    seen = []
    for visibility in (2.0, 30.0):
        env, _ = drive("mujoco", [{"visibility": visibility}] * 64, [-1.0, 0.0], 1)
        points = env.sensed["waypoints"].unflatten(-1, (-1, 2))
        seen.append((points.abs().sum(-1) > 0).float().mean(0))
    # Koschmieder: 2.4 m away, exp(-3.912 * 2.4 / 2) = 1 % and exp(-3.912 * 2.4 / 30) = 73 %
    assert seen[0][-1] < 0.1
    assert seen[1][-1] == pytest.approx(0.73, abs=0.2)
    assert seen[1][0] > 0.8


def test_ackermann():
    """On a circle of radius r all wheels turn about one centre: tan of the inner wheel's angle is L / (r - b / 2)."""
    steer = torch.tensor(math.atan(car.WHEELBASE / 1.0))
    left, right, *wheels = car.controls(torch.tensor(1.0), steer).tolist()
    assert math.tan(left) == pytest.approx(0.32 / (1 - 0.12), rel=1e-5)
    assert math.tan(right) == pytest.approx(0.32 / (1 + 0.12), rel=1e-5)
    ways = [math.hypot(0.32, 0.88), math.hypot(0.32, 1.12), 0.88, 1.12]  # m, of each wheel from the centre, at 1 rad/s
    assert wheels == pytest.approx([w / car.WHEEL_RADIUS for w in ways], rel=1e-5)
