import pytest
import torch

from metarl import tasks
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.grid_navi import GOALS

TASK = tasks.make("grid_navi")
STAY, UP, RIGHT, DOWN, LEFT = torch.eye(5)


def walk(env, *actions):
    return [env.step(a.expand(env.num_tasks, 1, -1)) for a in actions]


def test_goals_are_all_cells_but_the_corner():
    assert len(GOALS) == 21
    assert not {(0, 0), (0, 1), (1, 0), (1, 1)} & set(GOALS)
    assert {TASK.custom([{"goal": f"x={x} y={y}"}]).describe(0).split(": ")[1] for x, y in ((2, 0), (4, 3))} == {
        "the goal is cell x=2 y=0.",
        "the goal is cell x=4 y=3.",
    }
    with pytest.raises(ValueError, match="goal"):
        TASK.custom([{"goal": "x=1 y=1"}])


def test_moves_stop_at_the_walls():
    env = BatchedEnv(TASK, 1)
    env.set_tasks(TASK.custom([{"goal": "x=4 y=4"}]))
    assert env.reset().tolist() == [[[0.0, 0.0]]]
    seen = [s.next_obs[0, 0].tolist() for s in walk(env, LEFT, DOWN, UP, RIGHT, STAY, *[RIGHT] * 4, DOWN, DOWN)]
    assert seen == [[0, 0], [0, 0], [0, 1], [1, 1], [1, 1], [2, 1], [3, 1], [4, 1], [4, 1], [4, 0], [4, 0]]


def test_one_for_every_decision_on_the_goal():
    env = BatchedEnv(TASK, 1)
    env.set_tasks(TASK.custom([{"goal": "x=2 y=1"}]))
    env.reset()
    steps = walk(env, RIGHT, RIGHT, UP, STAY, STAY, LEFT, *[RIGHT] * 1, *[STAY] * 8)
    assert [round(s.reward.item(), 3) for s in steps] == [-0.1, -0.1, 1, 1, 1, -0.1, 1] + [1] * 8
    assert not any(s.terminated.any() for s in steps)
    assert [s.truncated.item() for s in steps] == [False] * 14 + [True]


def test_who_knows_the_goal_makes_the_published_return():
    """11.07 an episode, mean over the goals."""
    env = BatchedEnv(TASK, 21)
    env.set_tasks(TASK.custom([{"goal": f"x={x} y={y}"} for x, y in GOALS]))
    env.reset()
    total = torch.zeros(21)
    for _ in range(15):
        way = env.readings["goal_pos"] - env.readings["pos"]
        chosen = torch.where(way[:, 0] > 0, 2, torch.where(way[:, 1] > 0, 1, 0))
        total += env.step(torch.eye(5)[chosen].unsqueeze(1)).reward[:, 0]
    assert total.mean().item() == pytest.approx(11.07, abs=0.005)
