"""The pushing tasks: what the rake does by hand, what the camera sees, and that knowing the task is what they take."""

import math

import pytest
import torch

from metarl import tasks
from metarl.robots.kinematics import tool_pose
from metarl.tasks.arm_push import HIDES
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.pushing import CLEARANCE, COAST, GENTLY, HIGH, INSIDE, LOW, OBJECT, READY, ROD, WING, corner_to, rake_to, ready_qpos
from metarl.tasks.sensing import hand_eye, undo_hand_eye

PUSH, GOAL = tasks.make("arm_push"), tasks.make("arm_push_hidden_goal")
NUM = 48
both = pytest.mark.parametrize("task", [PUSH, GOAL], ids=["arm_push", "arm_push_hidden_goal"])
both_simulators = pytest.mark.parametrize("simulator", PUSH.simulators)


def action(x, y=0.0, num=1):
    return torch.tensor([x, y]).expand(num, 1, 2)


def started(task, rows, simulator="mujoco"):
    env = BatchedEnv(task, len(rows), simulator=simulator, num_threads=1)
    env.set_tasks(task.custom(rows))
    env.reset()
    return env


# ---- motion -----------------------------------------------------------------------------------------------------------------


def test_the_ready_pose_has_the_rake_before_the_object_level_and_square():
    pos, turned = tool_pose(PUSH.arm, torch.tensor(ready_qpos("arm7"), dtype=torch.float64))
    torch.testing.assert_close(pos, torch.tensor(READY, dtype=torch.float64), rtol=0, atol=1e-3)
    torch.testing.assert_close(turned, torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)), rtol=0, atol=1e-3)


@both
def test_a_command_moves_the_rake_level_by_speed_times_time(task):
    qpos = torch.tensor(ready_qpos("arm7")).expand(3, -1)
    actions = torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.3, 0.6]])
    pos, turned = tool_pose(task.arm, task.command(actions, {"command_qpos": qpos}).qpos[:, 0])
    torch.testing.assert_close(pos[:, :2], torch.tensor(READY[:2]) + 0.04 * actions, rtol=0, atol=1e-3)
    torch.testing.assert_close(pos[:, 2], torch.full((3,), READY[2]), rtol=0, atol=1e-3)
    assert turned[:, 0, 0].min() > 0.999


def test_the_rake_stays_where_the_arm_reaches():
    qpos = torch.tensor(ready_qpos("arm7")).expand(4, -1)
    corners = torch.tensor([[x, y] for x in (-1.0, 1.0) for y in (-1.0, 1.0)])
    for _ in range(20):
        qpos = PUSH.command(corners, {"command_qpos": qpos}).qpos[:, 0]
    pos, turned = tool_pose(PUSH.arm, qpos)
    expected = torch.tensor([[x, y, READY[2]] for x in (LOW[0], HIGH[0]) for y in (LOW[1], HIGH[1])])
    torch.testing.assert_close(pos, expected, rtol=0, atol=3e-3)
    assert turned[:, 2, 2].max() < -0.999


@both_simulators
@pytest.mark.parametrize("shape", ["box", "cylinder"])
def test_the_rod_pushes_forward_and_a_wing_aside(simulator, shape):
    env = started(GOAL, [{"shape": shape}], simulator)
    for x, y in [(0.7, 0.0)] * 4 + [(0.0, 0.0)]:
        env.step(action(x, y))
    thing, tool = (env.readings[name][0, :2] for name in ("object_pos", "tool_pos"))
    assert tool[0].item() == pytest.approx(READY[0] + 4 * 0.7 * 0.04, abs=3e-3)
    assert thing[0].item() == pytest.approx(tool[0].item() + ROD + 0.026, abs=4e-3)  # it touches the rod
    for x, y in [(0.0, 0.7)] * 4 + [(0.0, 0.0)]:
        env.step(action(x, y))
    moved, tool = (env.readings[name][0, :2] for name in ("object_pos", "tool_pos"))
    assert moved[1].item() > thing[1].item() + 0.05
    assert (moved - tool)[1].item() >= -(INSIDE - 0.026) - 4e-3  # not beyond the wing


# ---- sight ------------------------------------------------------------------------------------------------------------------


def test_the_hand_hides_the_object():
    env = started(PUSH, [{}])
    first = env.sensed["object_pos"].clone()
    torch.testing.assert_close(first, env.readings["object_pos"])
    for _ in range(6):
        env.step(action(0.8))
    assert (env.readings["object_pos"] - env.readings["tool_pos"])[:, :2].norm() < HIDES
    assert (env.readings["object_pos"] - first)[0, 0] > 0.05
    last_seen = env.sensed["object_pos"].clone()
    assert (last_seen - first).norm() < 0.01
    for _ in range(5):
        env.step(action(-0.8))
    torch.testing.assert_close(env.sensed["object_pos"], env.readings["object_pos"])  # back in view


def test_an_object_is_in_view_when_an_episode_begins():
    env = BatchedEnv(PUSH, 64, num_threads=1, seed=3)
    env.set_tasks(PUSH.sample(64, "ood_far"))
    for _ in range(3):
        env.reset()
        assert (env.readings["object_pos"] - env.readings["tool_pos"])[:, :2].norm(dim=-1).min() > HIDES


def test_the_camera_errs_about_object_and_target_alike():
    env = started(PUSH, [{"camera_x": 0.02, "camera_y": -0.01, "camera_yaw": 0.2, "target_distance": 0.2}])
    expected = torch.tensor([[OBJECT[0] + 0.2 * math.cos(0.2) + 0.02, 0.2 * math.sin(0.2) - 0.01, 0.0]])
    torch.testing.assert_close(env.sensed["target_pos"], expected)
    assert (env.sensed["object_pos"] - env.readings["object_pos"]).norm() > 0.015


def test_a_known_error_of_the_camera_can_be_undone():
    pos, yaw, shift = torch.rand(5, 3), torch.rand(5), torch.rand(5, 3)
    torch.testing.assert_close(undo_hand_eye(hand_eye(pos, yaw, shift, (0.4, 0.1, 0.0)), yaw, shift, (0.4, 0.1, 0.0)), pos)


def test_the_hidden_target_is_not_observed():
    assert "target_pos" in BatchedEnv(GOAL, 1, num_threads=1).task.goals({"target_distance": torch.ones(1), "target_angle": torch.zeros(1)}, torch.Generator())
    assert not any("target" in name for name in GOAL.observed)


# ---- reward -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("miss", "push", "goal"), [(0.0, 1.0, 1.0), (0.06, 0.5 * math.exp(-0.6) + 0.5 * math.exp(-2.4), math.exp(-1)), (0.3, 0.025, 0.0067)])
def test_reward_is_of_the_place_of_the_object(miss, push, goal):
    end = {"object_pos": torch.tensor([0.5, 0.1 + miss, 0.03]), "target_pos": torch.tensor([0.5, 0.1, 0.0])}
    for task, reward in ((PUSH, push), (GOAL, goal)):
        assert task.reward({}, torch.zeros(2), end).item() == pytest.approx(reward, abs=1e-3)
        assert task.error(end).item() == pytest.approx(miss, abs=1e-6)
        assert task.success(end).item() is (miss < 0.02)


# ---- the expert -------------------------------------------------------------------------------------------------------------


def test_who_sees_the_object_lets_it_in_then_pushes_both_ways_at_once():
    half, target, thing = torch.tensor([0.026]), torch.tensor([[0.6, 0.08]]), torch.tensor([[0.45, 0.01]])
    way = rake_to(thing, torch.tensor([[0.345, 0.0]]), target, half)
    torch.testing.assert_close(way, torch.tensor([[0.105 - 0.026 - ROD - 0.4 * WING, 0.01]]))
    way = rake_to(thing, torch.tensor([[0.4, 0.01]]), target, half)
    torch.testing.assert_close(way, torch.tensor([[0.05 - 0.026 - ROD + 0.15, 0.07 + INSIDE - 0.026]]))


def test_who_does_not_see_it_catches_it_in_a_corner_then_pushes_both_ways_at_once():
    half, target = torch.tensor([0.026]), torch.tensor([[0.6, 0.08]])
    thing, corner = torch.tensor([[0.45, 0.01]]), INSIDE - 0.026
    outside = corner_to(thing, torch.tensor([[0.345, 0.0]]), target, half)
    torch.testing.assert_close(outside[:, 1], torch.tensor([0.01 + corner - CLEARANCE]))
    assert outside[0, 0] > 0.04  # and forward as fast as it goes
    end = torch.tensor([[0.6 - ROD - 0.026 - COAST[0], 0.08 + corner - COAST[1]]])
    inside = torch.tensor([[0.42, 0.02]])
    torch.testing.assert_close(corner_to(thing, inside, target, half), GENTLY * (end - inside))
    right = target * torch.tensor([1.0, -1.0])
    mirrored = corner_to(thing * torch.tensor([1.0, -1.0]), inside * torch.tensor([1.0, -1.0]), right, half)
    torch.testing.assert_close(mirrored, GENTLY * (end - inside) * torch.tensor([1.0, -1.0]))


def play(env, told=None):
    """(H, N) rewards of one episode of the expert, told what it is told; None acts at random."""
    env.rng.manual_seed(0)
    env.reset()
    chance, rewards = torch.Generator().manual_seed(0), []
    for _ in range(env.spec.horizon):
        chosen = env.task.expert(env.sensed, told) if told is not None else 2 * torch.rand(env.num_sims, 2, generator=chance) - 1
        rewards.append(env.step(chosen.unsqueeze(1)).reward[:, 0])
    return torch.stack(rewards)


def others(values, names):
    """The same tasks with some values of their neighbours."""
    return {name: v.roll(7) if name in names else v for name, v in values.items()}


def untold(task, values):
    """Hidden values in the middle of what training draws."""
    middle = {p.name: sum(p.train) / 2 for p in task.params if p.hidden and p.train}
    return {name: torch.full_like(v, middle[name]) if name in middle else v for name, v in values.items()}


@pytest.fixture(scope="module")
def scores():
    """scores(task): returns of the expert told the truth, nothing, or wrong values; and what it ends with."""
    found = {}

    def of(task):
        if task.name not in found:
            env = BatchedEnv(task, NUM, num_threads=1)
            env.set_tasks(task.sample(NUM, "iid"))
            hidden = {p.name for p in task.params if p.hidden}
            told = {"truth": env.values, "untold": untold(task, env.values), "wrong": others(env.values, hidden), "random": None}
            for name in ("camera_yaw", "camera_x", "target_distance", "target_angle"):
                if name in hidden:
                    told[name] = others(env.values, {name})
            rewards = {name: play(env, v) for name, v in told.items()}
            found[task.name] = {name: r.sum(0).mean() for name, r in rewards.items()} | {"end": rewards["truth"][-1].mean()}
            print(task.name, {name: round(float(v), 2) for name, v in found[task.name].items()})
        return found[task.name]

    return of


@both
def test_knowing_the_task_is_enough(scores, task):
    possible = float(task.reward({}, torch.zeros(2), {"object_pos": torch.tensor([0.008, 0.0, 0.0]), "target_pos": torch.zeros(3)}))  # 8 mm beside
    assert scores(task)["end"] > 0.9 * possible


def most(env):
    """(N,) return if the object went no faster than the rake may, as soon as that can be at it, and stopped at once."""
    env.rng.manual_seed(0)
    env.reset()
    r, step = env.readings, env.task.speed * env.task.decision_dt
    way = (r["target_pos"] - r["object_pos"])[:, :2].abs()
    gap = (r["object_pos"] - r["tool_pos"])[:, 0] - env.values["half_size"] - ROD
    gone = step * (1 + torch.arange(env.task.horizon)).unsqueeze(-1) - env.task.speed * env.task.command_delay(env.values)
    left = (way - torch.stack([gone - gap, gone], -1).clamp(min=0)).clamp(min=0)
    place = torch.cat([left, torch.zeros_like(left[..., :1])], -1)
    return env.task.reward({}, torch.zeros(2), {"object_pos": place, "target_pos": torch.zeros(3)}).sum(0)


def test_the_expert_earns_nearly_what_the_rakes_speed_allows():
    env = BatchedEnv(PUSH, NUM, num_threads=1)
    env.set_tasks(PUSH.sample(NUM, "iid", seed=1))
    told, random, possible = play(env, env.values).sum(0).mean(), play(env).sum(0).mean(), most(env).mean()
    print(f"told {told:.2f}, random {random:.2f}, possible {possible:.2f}")
    assert told - random > 0.9 * (possible - random)


@both
def test_there_is_something_to_adapt_to(scores, task):
    found = scores(task)
    assert (found["truth"] - found["untold"]) / (found["truth"] - found["random"]) > 0.2


@both
def test_believing_another_task_costs_a_fifth(scores, task):
    found = scores(task)
    wrong = {name: r for name, r in found.items() if name not in ("truth", "untold", "random", "end")}
    cost = {name: float((found["truth"] - r) / (found["truth"] - found["random"])) for name, r in wrong.items()}
    assert min(cost.values()) > 0.2, cost


@both
def test_the_expert_does_as_well_in_pybullet(task):
    env = BatchedEnv(task, 12, simulator="pybullet", num_threads=1)
    env.set_tasks(task.sample(12, "iid"))
    assert play(env, env.values)[-1].mean() > 0.7
