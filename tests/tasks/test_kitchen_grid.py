import pytest
import torch

from metarl import tasks
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.kitchen_grid import LAYOUTS
from metarl.tasks.kitchen_rules import SUBGOALS

TASK = tasks.make("kitchen_grid")
N, S, E, W, HAND, UP, DOWN = torch.eye(7)


def kitchen(asked=None, **values):
    env = BatchedEnv(TASK, 1)
    env.set_tasks(TASK.custom([values]))
    env.reset()
    if asked is not None:
        env.readings["asked"].copy_(torch.eye(4)[asked - 1])
    return env


def do(env, *actions):
    return [env.step(a.view(1, 1, -1)) for a in actions]


def rewards(steps):
    return [round(s.reward.item(), 3) for s in steps]


def expert_returns(batch, values=None):
    """(M,) return of an expert's episode, told the truth or other values."""
    env = BatchedEnv(TASK, len(batch))
    env.set_tasks(batch)
    env.reset()
    told = env.values if values is None else values
    total = torch.zeros(len(batch))
    while not env.all_ended:
        total += env.step(TASK.expert(env.readings, told).unsqueeze(1)).reward[:, 0]
    return total, TASK.success(env.readings)


def test_every_layout_has_every_place_once_and_room_for_the_cook():
    for rows in LAYOUTS.values():
        assert [len(row) for row in rows] == [5, 5, 5]
        assert sorted(c for row in rows for c in row if c != ".") == sorted("1234ABCDPT")
        assert rows[2][2] in ".CD"  # where the cook begins: not at the pot


def test_a_dish_by_hand():
    """Layout I: 12ABT / 34CDP / ....., start in the middle of the last row; burner 4, whose knob is B with map 1432."""
    env = kitchen(asked=4, layout="I", control_map="1432", power=2000.0, capacity=1500.0, loss=4.0)
    steps = do(env, E, E, N, HAND)  # to the counter, take the pot
    assert env.readings["held"].item() == 1
    steps += do(env, W, W, W, HAND)  # to burner 4 in the second column
    assert rewards(steps) == [-0.01] * 7 + [0.99]
    steps += do(env, N, E, E, UP)  # knob B in the fourth column of the first row, first click: a third of 2000 W
    assert env.readings["heat"].tolist() == [[0.0, 0.0, 0.0, pytest.approx(1 / 3)]]
    # settles at 20 + 667 / 4 = 186.7 °C, time constant 375 s: 20 + 166.7 (1 - exp(-10 / 375)) = 24.4 °C
    assert env.readings["temperature"].item() == pytest.approx(24.39, abs=0.01)
    steps += do(env, UP, UP, HAND, HAND, HAND, DOWN, DOWN, DOWN)
    assert 80 < env.readings["temperature"].item() < 120
    assert env.readings["cooked"].item() >= 30
    assert sum(rewards(steps)) == pytest.approx(5 - 0.2)  # placed, lit, hot, cooked and off
    served = do(env, W, W, S, HAND, E, E, E, N, HAND)
    assert rewards(served) == [-0.01] * 8 + [0.99]
    assert served[-1].terminated.item()
    assert TASK.success(env.readings).item()


def test_a_wrong_knob_lights_an_empty_burner_and_locks_the_stove():
    env = kitchen(asked=1, layout="I", control_map="2134")
    turns, heats, locked = [], [], []
    for step in do(env, N, N, UP, UP, UP, UP, UP):  # knob A drives burner 2, and the pot still stands on the counter
        assert step.reward.item() == pytest.approx(-0.01)
        turns.append(step.next_obs[0, 0, 17:21].tolist())
        heats.append(step.next_obs[0, 0, 21:25].tolist())
        locked.append(step.next_obs[0, 0, 25].item())
    seen = [0.0, pytest.approx(1 / 3), 0.0, 0.0]
    assert turns == [[0.0] * 4] * 7  # always turned back
    assert heats == [[0.0] * 4] * 2 + [seen] + [[0.0] * 4] * 3 + [seen]  # but seen to glow
    assert locked == pytest.approx([0, 0, 1, 2 / 3, 1 / 3, 0, 1])


def test_burnt_food_ends_the_episode():
    env = kitchen(asked=1, layout="I", control_law="falling", power=2400.0, capacity=1000.0)
    do(env, E, E, N, HAND, W, W, W, W, N, HAND, E, E, UP)  # pot on burner 1, knob A at full flame
    steps = do(env, *[HAND] * 4)
    assert [s.terminated.item() for s in steps].count(True) == 1
    last = next(s for s in steps if s.terminated.item())
    assert last.reward.item() == pytest.approx(-0.51)
    assert not TASK.success(env.readings).item()


def test_the_pot_stays_where_it_is_put_and_only_on_surfaces():
    env = kitchen(layout="I")
    do(env, E, E, N, HAND, S, HAND)  # on the floor one cannot put it down
    assert env.readings["held"].item() == 1
    do(env, W, N, HAND)  # nor on a knob
    assert env.readings["held"].item() == 1
    do(env, E, HAND, W)
    assert (env.readings["held"].item(), env.readings["pot_pos"].tolist()) == (0.0, [[4.0, 1.0]])


def test_hidden_laws_and_maps_show_only_when_a_knob_is_turned():
    env = BatchedEnv(TASK, 2)
    env.set_tasks(TASK.custom([{"control_map": "1234", "control_law": "rising"}, {"control_map": "4321", "control_law": "falling"}]))
    env.reset()
    asked = env.readings["asked"][:1].expand(2, -1)
    env.readings["asked"].copy_(asked.clone())
    for action in (N, E, S, E, N, HAND, W, W, N):
        step = env.step(action.expand(2, 1, -1))
        torch.testing.assert_close(step.next_obs[0], step.next_obs[1], rtol=0, atol=0)
    step = env.step(UP.expand(2, 1, -1))
    assert not torch.equal(step.next_obs[0], step.next_obs[1])


@pytest.mark.parametrize("split", ["iid", "ood_near"])
def test_one_who_knows_the_kitchen_cooks_almost_all_that_is_possible(split):
    returns, success = expert_returns(TASK.sample(200, split))
    assert returns.mean() > 0.9 * len(SUBGOALS)
    assert returns.min() > 4.5  # the largest kitchens leave no time to serve
    assert success.float().mean() > 0.8


def test_one_who_takes_it_for_another_kitchen_loses():
    batch = TASK.sample(200, "iid")
    right = expert_returns(batch)[0].mean()
    values = {name: torch.as_tensor(v, dtype=torch.float32) for name, v in batch.named().items()}
    other = {name: v.roll(1) for name, v in values.items()}
    wrong = {name: expert_returns(batch, {**values, name: other[name]})[0].mean() for name in ("control_map", "control_law")}
    assert wrong["control_map"] < 0.5 * right
    assert wrong["control_law"] < 0.9 * right
    assert expert_returns(batch, {**other, "layout": values["layout"]})[0].mean() < 0.5 * right
