"""arm_lift_place: what a squeeze does by hand, and that knowing the object is what the task takes."""

import math

import pytest
import torch

from metarl import tasks
from metarl.robots.kinematics import tool_pose
from metarl.tasks.arm_lift_place import FORCES, LIFT, OBJECT, PLACE, holding_force, ready_qpos, squeeze
from metarl.tasks.batched_env import BatchedEnv

TASK = tasks.make("arm_lift_place")
NUM = 48


def attempt(env, action):
    """Rewards (2, N) of one attempt that asks for the same action (N, A) twice."""
    env.reset()
    return torch.stack([env.step(action.unsqueeze(1)).reward[:, 0] for _ in range(2)])


def squeezing(force):
    action = 2 * math.log(force / FORCES[0]) / math.log(FORCES[1] / FORCES[0]) - 1
    return torch.tensor([action, 0.0])


def test_actions_are_forces_on_a_log_scale():
    assert squeeze(torch.tensor([-1.0, 0.0])).item() == pytest.approx(FORCES[0])
    assert squeeze(torch.tensor([1.0, 0.0])).item() == pytest.approx(FORCES[1], rel=1e-5)
    assert squeeze(squeezing(6.0)).item() == pytest.approx(6.0, rel=1e-5)


def test_holding_force_is_half_the_weight_over_friction():
    values = {"mass": torch.tensor([0.4]), "friction": torch.tensor([0.5])}
    assert holding_force(values).item() == pytest.approx(0.4 * 9.81 / 2 / 0.5)


def test_the_ready_pose_has_the_tool_over_the_object_square_to_the_base():
    pos, turned = tool_pose(TASK.arm, torch.tensor(ready_qpos("arm7"), dtype=torch.float64))
    torch.testing.assert_close(pos[:2], torch.tensor(OBJECT, dtype=torch.float64), rtol=0, atol=1e-3)
    torch.testing.assert_close(turned[:, 0], torch.tensor([1.0, 0, 0], dtype=torch.float64), rtol=0, atol=1e-3)
    assert turned[2, 2] < -0.9999


@pytest.mark.parametrize("simulator", TASK.simulators)
def test_too_little_slips_enough_holds_too_much_crushes(simulator):
    """A box of 0.3 kg and friction 0.5 is held by 2.94 N at rest, and crushed by 3 times that."""
    env = BatchedEnv(TASK, 3, simulator=simulator, num_threads=1)
    env.set_tasks(TASK.custom([{"mass": 0.3, "friction": 0.5, "bears": 3.0}] * 3))
    env.reset()
    step = env.step(torch.stack([squeezing(2.94 * k) for k in (0.8, 1.8, 3.1)]).unsqueeze(1))
    rise = (step.next_obs[:, 0, 2] - step.next_obs[1, 0, 2]) * 0.05  # relative to the tool, against the one that is held
    assert rise[0] < -0.9 * LIFT
    assert step.next_obs[:, 0, -2].tolist() == [0.0, 0.0, 1.0]  # crushed
    assert step.next_obs[:, 0, -1].tolist() == [0.0, 1.0, 1.0]  # carrying
    assert step.terminated[:, 0].tolist() == [True, False, True]
    assert step.reward[0, 0] < 0.01
    assert step.reward[1, 0] > 0.45
    assert step.reward[2, 0] == 0.0


def test_a_placed_object_lies_at_its_place_and_the_fingers_have_let_go():
    env = BatchedEnv(TASK, 1, num_threads=1)
    env.set_tasks(TASK.custom([{}]))
    attempt(env, TASK.expert({}, env.values))
    assert TASK.success(env.readings).all()
    torch.testing.assert_close(env.readings["object_pos"][0, :2], torch.tensor(PLACE), rtol=0, atol=0.02)
    assert env.readings["object_pos"][0, 2].item() == pytest.approx(0.025, abs=2e-3)
    assert env.readings["finger_pos"].item() > 0.03


def test_error_of_a_crushed_object_is_that_of_one_left_behind():
    place = {"object_pos": torch.tensor([[*PLACE, 0.02]] * 2), "target_pos": torch.tensor([[*PLACE, 0.0]] * 2), "tool_pos": torch.tensor([[*PLACE, 0.02]] * 2)}
    place |= {"finger_pos": torch.full((2, 1), 0.04), "last_action": torch.stack([squeezing(5.0)] * 2), "crushing_force": torch.tensor([[6.0], [4.0]])}
    torch.testing.assert_close(TASK.error(place), torch.tensor([0.0, math.dist(OBJECT, PLACE)]))
    assert TASK.success(place).tolist() == [True, False]


@pytest.fixture(scope="module")
def scores():
    """Return per task of the expert told the truth, told other tasks' values altogether or one by one, and of constant squeezes."""
    env = BatchedEnv(TASK, NUM, num_threads=2)
    env.set_tasks(TASK.sample(NUM, "iid"))
    values = env.values
    other = {name: v.roll(7) for name, v in values.items()}
    told = {"truth": values, "wrong": other, **{name: {**values, name: other[name]} for name in ("mass", "friction", "com_along")}}
    found = {name: attempt(env, TASK.expert({}, v)).sum(0) for name, v in told.items()}
    constant = [attempt(env, squeezing(force).expand(NUM, -1)).sum(0) for force in (3.0, 5.0, 8.0)]
    return {**found, "constant": max(constant, key=lambda r: float(r.mean()))}


def test_knowing_the_object_is_enough(scores):
    assert scores["truth"].mean() > 0.9  # of 1


@pytest.mark.parametrize("name", ["wrong", "mass", "friction", "com_along"])
def test_believing_another_object_costs_a_fifth(scores, name):
    assert scores[name].mean() < 0.81 * scores["truth"].mean()


def test_no_single_squeeze_does(scores):
    assert scores["constant"].mean() < scores["truth"].mean() - 0.4


def test_the_expert_does_as_well_in_pybullet():
    env = BatchedEnv(TASK, 12, simulator="pybullet", num_threads=1)
    env.set_tasks(TASK.sample(12, "iid"))
    assert attempt(env, TASK.expert({}, env.values)).sum(0).mean() > 0.8
