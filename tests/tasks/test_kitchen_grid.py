import pytest
import torch

from metarl import tasks
from metarl.tasks import kitchen_rules as rules
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.kitchen_grid import LAYOUTS
from metarl.tasks.kitchen_rules import SUBGOALS

TASK = tasks.make("kitchen_grid")
PARTS = dict(zip(TASK.spec.obs_names, torch.arange(TASK.spec.obs_size).split(TASK.spec.obs_sizes), strict=True))


def kitchen(begin=(2.0, 2.0), **values):
    env = BatchedEnv(TASK, 1)
    env.set_tasks(TASK.custom([values]))
    env.reset()
    env.readings["pos"].copy_(torch.tensor([begin]))
    return env


def do(env, *names):
    choices = torch.eye(len(TASK.action_names))
    return [env.step(choices[TASK.action_names.index(name)].view(1, 1, -1)) for name in names]


def rewards(steps):
    return [round(s.reward.item(), 3) for s in steps]


def seen(steps, part):
    return [s.next_obs[0, 0, PARTS[part]].tolist() for s in steps]


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


def test_every_layout_has_every_place_once():
    for rows in LAYOUTS.values():
        assert [len(row) for row in rows] == [5, 5, 5]
        assert sorted(c for row in rows for c in row if c != ".") == sorted("1234ABCDPT")


def test_a_dish_by_hand():
    """Layout I: 12ABT / 34CDP / ....., start in the middle of the last row; burner 4, whose knob is B with map 1432."""
    env = kitchen(layout="I", burner="4", control_map="1432", capacity=1000.0)
    steps = do(env, "cook")  # 3 cells to the counter, 3 to burner 4 in the second column
    assert rewards(steps) == [0.99]
    assert env.readings["time"].item() == 8 + 6
    steps += do(env, "turn_B_up")  # 2 + 1 cells to knob B; first click: a third of 2000 W
    assert env.readings["time"].item() == 14 + 8 + 3
    assert env.readings["heat"].tolist() == [[0.0, 0.0, 0.0, pytest.approx(1 / 3)]]
    # settles at 20 + 667 / 5 = 153.3 °C, time constant 200 s: 20 + 133.3 (1 - exp(-8 / 200)) = 25.23 °C
    assert env.readings["temperature"].item() == pytest.approx(25.23, abs=0.01)
    steps += do(env, "turn_B_up", "turn_B_up", "wait", "wait", "wait", "turn_B_down", "turn_B_down", "turn_B_down")
    assert 80 < env.readings["temperature"].item() < 120
    assert env.readings["cooked"].item() >= 30
    assert sum(rewards(steps)) == pytest.approx(5 - 0.11, abs=0.011)  # placed, lit, hot, cooked and off
    served = do(env, "serve")
    assert rewards(served) == [0.99]
    assert served[-1].terminated.item()
    assert TASK.success(env.readings).item()


def test_food_goes_on_cooking_while_the_cook_walks():
    env = kitchen(layout="I", burner="1", capacity=1000.0)  # knob A drives burner 1
    do(env, "cook", "turn_A_up")
    before = env.readings["temperature"].item()
    do(env, "turn_D_down")  # 2 cells away: 2 s and 8 s with a third of 2000 W
    settled = 20 + rules.POWER / 3 / rules.LOSS
    assert env.readings["temperature"].item() == pytest.approx(settled + (before - settled) * torch.tensor(-10 / 200).exp().item(), abs=1e-3)


def test_a_wrong_knob_lights_an_empty_burner_and_locks_the_stove():
    env = kitchen(begin=(2.0, 0.0), layout="I", burner="1", control_map="2134")
    steps = do(env, *["turn_A_up"] * 8)  # knob A drives burner 2, and the pot still stands on the counter
    assert rewards(steps) == [-0.01] * 8
    assert seen(steps, "turn") == [[0.0] * 4] * 8  # always turned back
    glows = [0.0, pytest.approx(1 / 3), 0.0, 0.0]
    assert seen(steps, "heat") == [glows, *[[0.0] * 4] * 5, glows, [0.0] * 4]  # but seen to glow
    assert [locked for (locked,) in seen(steps, "locked")] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0, 1, 0.8])


def test_burnt_food_ends_the_episode():
    env = kitchen(layout="I", burner="1", control_law="falling", capacity=600.0)
    steps = do(env, "cook", "turn_A_up", *["wait"] * 6)
    assert [s.terminated.item() for s in steps].count(True) == 1
    last = next(s for s in steps if s.terminated.item())
    assert last.reward.item() == pytest.approx(-0.51)
    assert not TASK.success(env.readings).item()


def test_the_kitchen_closes():
    env = kitchen(begin=(3.0, 1.0), layout="I")
    steps = do(env, *["turn_D_down"] * 18)  # 150 s are 18 decisions of 8 s and 6 s more
    assert [s.truncated.item() for s in steps] == [False] * 17 + [True]
    env = kitchen(begin=(0.0, 0.0), layout="I")
    steps = do(env, *["turn_D_down", "turn_A_down"] * 8)
    assert [s.terminated.item() for s in steps] == [False] * 14 + [True, False]
    assert env.readings["time"].item() == 4 + 14 * 2 + 15 * 8  # 4 cells to D, then 2 between them


def test_hidden_laws_and_maps_show_only_when_a_knob_is_turned():
    env = BatchedEnv(TASK, 2)
    env.set_tasks(TASK.custom([{"control_map": "1234", "control_law": "rising"}, {"control_map": "4321", "control_law": "falling"}]))
    env.reset()
    env.readings["pos"].copy_(torch.zeros(2, 2))
    choices = torch.eye(len(TASK.action_names))
    for name in ("cook", "wait", "serve", "cook", "turn_A_down", "turn_C_down"):
        step = env.step(choices[TASK.action_names.index(name)].expand(2, 1, -1))
        torch.testing.assert_close(step.next_obs[0], step.next_obs[1], rtol=0, atol=0)
    step = env.step(choices[0].expand(2, 1, -1))
    assert not torch.equal(step.next_obs[0], step.next_obs[1])


@pytest.mark.parametrize("split", ["iid", "ood_near", "ood_far"])
def test_one_who_knows_the_kitchen_cooks_almost_all_that_is_possible(split):
    returns, success = expert_returns(TASK.sample(200, split))
    assert returns.mean() > 0.95 * len(SUBGOALS)
    assert success.all()


def test_one_who_takes_it_for_another_kitchen_loses():
    batch = TASK.sample(200, "iid")
    right = expert_returns(batch)[0].mean()
    values = {name: torch.as_tensor(v, dtype=torch.float32) for name, v in batch.named().items()}
    other = {name: v.roll(1) for name, v in values.items()}
    wrong = {name: expert_returns(batch, {**values, name: other[name]})[0].mean() for name in ("control_map", "control_law")}
    assert wrong["control_map"] < 0.5 * right
    assert wrong["control_law"] < 0.8 * right
    assert expert_returns(batch, {**other, "layout": values["layout"]})[0].mean() < 0.5 * right


def test_finding_out_costs_the_time_to_serve():
    """One who knows all but the map, and tries one knob after another with the pot in its place."""
    batch = TASK.sample(200, "iid")
    env = BatchedEnv(TASK, len(batch))
    env.set_tasks(batch)
    names, rows = TASK.params[2].all_choices, torch.arange(len(batch))
    knob = torch.zeros(len(batch), dtype=torch.long)
    burner = env.values["burner"].long()
    with_knob = torch.tensor([[next(i for i, name in enumerate(names) if name[k] == str(b + 1)) for k in range(4)] for b in range(4)])
    totals = []
    for _ in range(3):
        env.reset()
        total = torch.zeros(len(batch))
        while not env.all_ended:
            r, cut = env.readings, env.readings["locked"][:, 0]
            action = TASK.expert(r, {**env.values, "control_map": with_knob[burner, knob].float()})
            at_stove = (r["stage"][:, 0] > 0) & (r["stage"][:, 0] < 5)
            action[at_stove & (cut > 0)] = torch.eye(len(TASK.action_names))[-1]
            total += env.step(action.unsqueeze(1)).reward[:, 0]
            knob = torch.where((env.readings["locked"][:, 0] > cut) & (env.readings["heat"][rows, burner] == 0), (knob + 1) % 4, knob)
        totals.append(total.mean().item())
    assert totals[0] < 4.2
    assert totals[1] > 5.7
    assert totals[2] > 5.8


def fewest_decisions(env, row):
    """Of all sequences of what can be done with the right knob, the shortest that serves the dish: breadth first."""
    values = {name: v[row : row + 1] for name, v in env.values.items()}
    choices, rng = torch.eye(len(TASK.action_names)), torch.Generator()
    knob = rules.knob_for(values["burner"], TASK._driven(values)).item()

    def after(states, actions):
        num = len(states["time"])
        repeated = {name: x.repeat_interleave(len(actions), 0) for name, x in states.items()}
        told = {name: v.expand(num * len(actions)) for name, v in values.items()}
        return TASK.dynamics(repeated, choices[actions].repeat(num, 1), told, rng)

    states = after({name: x[row : row + 1] for name, x in env.readings.items() if name != "last_action"}, [8])
    for done in range(2, TASK.horizon + 1):
        if TASK.success(after(states, [9])).any():
            return done
        states = after(states, [2 * knob, 2 * knob + 1, 10])
        going = ~TASK.terminated(states)
        seen = torch.cat([states[name][going] for name in ("turn", "temperature", "cooked", "time")], -1)
        _, first = seen.round(decimals=3).unique(dim=0, return_inverse=True)
        keep = torch.zeros(int(first.max()) + 1, dtype=torch.long).scatter_(0, first, torch.arange(len(first)))
        states = {name: x[going][keep] for name, x in states.items()}
    return None


def test_the_expert_is_within_two_decisions_of_the_optimum():
    batch = TASK.sample(12, "iid")
    env = BatchedEnv(TASK, len(batch))
    env.set_tasks(batch)
    env.reset()
    optimum = torch.tensor([6 - 0.01 * fewest_decisions(env, row) for row in range(len(batch))])
    returns = expert_returns(batch)[0]  # from other places in the kitchen, which cost no decision
    print(f"optimum {optimum.mean():.3f}, expert {returns.mean():.3f}")
    assert (returns <= optimum + 1e-5).all()
    assert (returns >= optimum - 0.021).all()
