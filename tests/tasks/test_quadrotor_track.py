"""quadrotor_track: physics by hand in both engines, and what its expert can do."""

import math

import pytest
import torch

from metarl import tasks
from metarl.robots import quadrotor
from metarl.tasks.batched_env import BatchedEnv

ENGINES = pytest.mark.parametrize("engine", ["mujoco", "pybullet"])
STILL = {"wind_speed": 0.0, "target_radius": 0.0}
HOVER = [0.0, 0.0, 0.0, 0.0]


def fly(engine, rows, action, decisions):
    """Readings before and after some decisions of the same action, in tasks without wind unless they say so."""
    task = tasks.make("quadrotor_track")
    env = BatchedEnv(task, len(rows), simulator=engine, num_threads=1)
    env.set_tasks(task.custom([{**STILL, **row} for row in rows]))
    env.reset()
    before = env.readings
    for _ in range(decisions):
        env.step(torch.tensor(action).expand(len(rows), 1, 4))
    env.close()
    return before, env.readings


@ENGINES
def test_it_hovers_without_a_load_and_falls_with_one(engine):
    before, after = fly(engine, [{}, {"payload": 0.2}, {**{f"rotor_{i}": 0.8 for i in (1, 2, 3, 4)}}], HOVER, 25)
    fallen = (after["pos"] - before["pos"])[:, 2]
    # half a second: thrust 0.8 g against 1.0 g, and 0.64 g against 0.8 g: both fall with 0.2 g, 0.245 m
    torch.testing.assert_close(fallen, torch.tensor([0.0, -0.245, -0.245]), atol=0.004, rtol=0)


@ENGINES
def test_a_weak_rotor_and_a_load_aside_turn_it(engine):
    _, after = fly(engine, [{"rotor_1": 0.8}, {"com_x": 0.01}], HOVER, 15)
    # the front left rotor lacks 0.2 * HOVER / 4 at its place; the rate loop lets a torque through as a rate: torque / gain
    lacking = 0.2 * quadrotor.HOVER / 4 * 0.17 * math.sqrt(0.5)
    torch.testing.assert_close(after["angvel"][0, :2], torch.tensor([-lacking / 0.15, lacking / 0.175]), rtol=0.02, atol=0.005)
    # thrust behind the centre of mass lowers the nose: it turns about +y, with HOVER * 0.01 m
    torch.testing.assert_close(after["angvel"][1, :2], torch.tensor([0.0, quadrotor.HOVER * 0.01 / 0.175]), rtol=0.02, atol=0.005)


@ENGINES
def test_the_wind_carries_it_away(engine):
    calm, gusts = {"wind_speed": 5.0, "drag_area": 0.04, "wind_angle": math.pi / 2}, 0.25 * 5.0
    _, after = fly(engine, [calm] * 32, HOVER, 10)
    expected = 0.5 * 1.225 * 0.04 * 25 / 0.8 * 0.2  # m/s after 0.2 s in the mean wind; gusts differ from one to the next
    assert after["linvel"][:, 1].mean() == pytest.approx(expected, rel=3 * 2 * (gusts / 5.0) / math.sqrt(32))
    assert after["linvel"][:, 1].std() == pytest.approx(expected * 2 * gusts / 5.0, rel=0.4)
    assert after["linvel"][:, 0].mean().abs() < 0.1 * expected


def test_the_target_flies_a_figure_of_eight():
    task = tasks.make("quadrotor_track")
    env = BatchedEnv(task, 1, num_threads=1)
    env.set_tasks(task.custom([{"target_radius": 0.5, "target_rate": 1.0, "wind_speed": 0.0}]))
    env.reset()
    assert env.readings["target_pos"][0].tolist() == pytest.approx([0.0, 0.0, 2.0])
    for _ in range(25):
        before, step = env.readings, env.step(torch.zeros(1, 1, 4))
    assert env.readings["target_pos"][0].tolist() == pytest.approx([0.5 * math.sin(0.5), 0.25 * math.sin(1.0), 2.0], abs=1e-5)
    moved = (env.readings["target_pos"] - before["target_pos"]) / 0.02
    torch.testing.assert_close(moved, 0.5 * (env.readings["target_linvel"] + before["target_linvel"]), atol=1e-3, rtol=0)
    torch.testing.assert_close(step.next_obs[0, 0, :3], (env.readings["target_pos"] - env.readings["pos"])[0])


def test_reward_and_end():
    task = tasks.make("quadrotor_track")
    distance = torch.tensor([0.0, 0.1, 2.9, 3.1])
    readings = {"pos": torch.stack([distance, 0 * distance, 0 * distance], -1), "target_pos": torch.zeros(4, 3)}
    expected = [1 - (math.tanh(d) + 2 * math.tanh(20 * d)) / 3 for d in distance.tolist()]
    assert task.reward(readings, torch.zeros(4, 4), readings).tolist() == pytest.approx(expected, abs=1e-6)
    assert task.terminated(readings).tolist() == [False, False, False, True]
    assert task.success(readings).tolist() == [True, False, False, False]
