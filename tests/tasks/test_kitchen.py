import math

import pytest
import torch

from metarl import tasks
from metarl.tasks import appliances, chores
from metarl.tasks.appliances import MECHANISMS
from metarl.tasks.batched_env import BatchedEnv

TASK = tasks.make("kitchen")
ENGINES = ("mujoco", "pybullet")
RIGHT = dict(zip(MECHANISMS, chores.OPENINGS, strict=True))


@pytest.fixture
def kitchens():
    """kitchens(rows, engine="mujoco"): an environment with a kitchen for each row."""
    made = []

    def make(rows, engine="mujoco"):
        env = BatchedEnv(TASK, len(rows), simulator=engine, num_threads=1)
        made.append(env)
        env.set_tasks(TASK.custom(rows))
        env.reset()
        return env

    yield make
    for env in made:
        env.close()


def do(env, *names):
    """One decision, the same in all kitchens or one for each."""
    chosen = [TASK.action_names.index(n) for n in (names * env.num_tasks if len(names) == 1 else names)]
    return env.step(torch.eye(len(TASK.action_names))[chosen].unsqueeze(1))


# ---- mechanisms ---------------------------------------------------------------------------------------------------------------


def test_a_door_opens_by_its_own_motion_and_by_no_other(kitchens):
    pairs = [(kind, motion) for kind in MECHANISMS for motion in chores.OPENINGS]
    env = kitchens([{"mechanism": kind} for kind, _ in pairs])
    do(env, *(motion for _, motion in pairs))
    opened = {pair for pair, flag in zip(pairs, env.readings["opened"][:, 0].tolist(), strict=True) if flag}
    assert opened == set(RIGHT.items())


def test_doors_in_pybullet(kitchens):
    kinds = [*MECHANISMS, "hinge_left", "drawer"]
    env = kitchens([{"mechanism": kind} for kind in kinds], "pybullet")
    do(env, *RIGHT.values(), "swing_right", "shift_left")
    assert env.readings["opened"][:, 0].tolist() == [1.0] * 6 + [0.0] * 2
    hinge, slide = env.readings["door_qpos"].unbind(-1)
    assert -1.6 < hinge[1] < -1.4  # the hand went 1.5 rad
    assert 1.4 < hinge[2] < 1.6
    assert 0.3 < slide[0] < 0.35  # the hand went 0.34 m
    assert slide[3] < -appliances.OPEN_PRESSED


def test_a_stiffer_drawer_comes_out_less_far(kitchens):
    env = kitchens([{"breakaway": 2.0}, {"breakaway": 45.0}])
    do(env, "pull")
    easy, hard = env.readings["door_qpos"][:, 1].tolist()
    assert 0.01 < easy - hard < 0.1  # the arm gives way by its stiffness of some 1000 N/m
    assert hard > appliances.OPEN_SHIFTED


@pytest.mark.parametrize("engine", ENGINES)
def test_knobs_turn_one_way_and_the_hand_loses_some_of_it_to_friction(kitchens, engine):
    env = kitchens([{"knob_friction": 0.1}, {"knob_friction": 1.0}, {"sense": "right"}], engine)
    do(env, "turn_2_left")
    easy, hard, other_way = env.readings["knob_turn"][:, 1].tolist()
    assert 2.1 < easy < chores.TURN + 0.1
    assert 1.5 < hard < easy - 0.1
    assert abs(other_way) < 0.25
    assert env.readings["knob_turn"][:, [0, 2, 3]].abs().max() < 1e-3
    do(env, "turn_2_right")
    first, _, other_way = env.readings["knob_turn"][:, 1].tolist()
    assert abs(first) < appliances.TURNED * 0.06
    assert -2.5 < other_way < -1.8


def test_the_pot_leaves_an_open_cupboard_only(kitchens):
    env = kitchens([{"mechanism": "drawer", "burner": "3"}, {"mechanism": "press", "burner": "3"}])
    assert env.readings["pot_at"].tolist() == [[1, 0, 0]] * 2
    do(env, "pull")
    step = do(env, "cook")
    assert env.readings["pot_at"].tolist() == [[0, 1, 0], [1, 0, 0]]
    assert step.reward[:, 0].tolist() == pytest.approx([0.99, -0.01])
    # layout I, order cst: the stove is at the origin, burner 3 at (0.74, 0.14, 0.12) from a shoulder 0.4 m high
    assert env.readings["pot_pos"][0].tolist() == pytest.approx([0.74, 0.14, 0.52])
    do(env, "serve")
    assert env.readings["pot_at"].tolist() == [[0, 0, 1], [1, 0, 0]]


def test_the_robot_gets_everywhere_in_every_kitchen(kitchens):
    rows = [{"layout": layout, "order": order} for layout in appliances.LAYOUTS for order in appliances.ORDERS]
    env = kitchens(rows)
    for motion, place in (("pull", 0), ("cook", 1), ("turn_1_left", 1), ("serve", 2)):
        do(env, motion)
        assert env.readings["pot_at"][:, place].all() or motion != "cook", motion
    assert env.readings["pot_at"][:, 2].all()
    assert (env.readings["knob_turn"][:, 0] > 2.0).all()


# ---- rules --------------------------------------------------------------------------------------------------------------------


def after(values, turns, pot_at=1, opened=1.0, **before):
    """What is remembered after waiting, with knobs turned by parts of their range."""
    told = {p.name: torch.tensor([p.encode(values.get(p.name, p.nominal))], dtype=torch.float32) for p in TASK.params}
    rng = torch.Generator()
    readings = {**TASK.goals(told, rng), **TASK.memory(told, rng)}
    readings |= {"pot_at": torch.eye(3)[[pot_at]], "opened": torch.tensor([[opened]]), **{k: torch.tensor([v]) for k, v in before.items()}}
    action = torch.eye(len(TASK.action_names))[[-1]]
    next_readings = {"door_qpos": torch.zeros(1, 2), "knob_turn": appliances.TURNED * torch.tensor([turns]), "tool_pos": torch.zeros(1, 3)}
    return TASK.remember(readings, action, next_readings, told, rng)


def test_food_warms_by_the_knob_that_drives_its_burner():
    hot = after({"burner": "2", "control_map": "3142", "power": 2000.0, "capacity": 1000.0}, [0, 0, 0, 1.0])  # knob 4 drives burner 2
    assert hot["heat"].tolist() == [[0, 1, 0, 0]]
    # settles at 20 + 2000 / 5 = 420 °C, time constant 200 s: 420 - 400 exp(-10 / 200)
    assert hot["temperature"].item() == pytest.approx(420 - 400 * math.exp(-0.05), abs=1e-3)
    assert hot["stage"].item() == 2  # placed and lit
    half = after({"burner": "2", "control_map": "3142", "control_law": "dead_band"}, [0, 0, 0, 0.5])
    assert half["heat"][0, 1].item() == pytest.approx(0.25)  # half way between 0 and half of the power
    assert after({"burner": "2"}, [0, 0.05, 0, 0])["heat"].sum() == 0  # that little counts as off


def test_a_burner_lit_without_a_pot_trips_until_its_knob_is_turned_back():
    first = after({"burner": "2"}, [1.0, 0, 0, 0])
    assert (first["locked"].item(), first["tripped"].tolist(), first["heat"].tolist()) == (40.0, [[1, 0, 0, 0]], [[1, 0, 0, 0]])
    assert first["temperature"].item() == pytest.approx(20.0)
    state = {name: first[name][0].tolist() for name in ("locked", "tripped", "heat")}
    both = after({"burner": "2"}, [1.0, 1.0, 0, 0], **state)
    assert both["locked"].item() == 30.0
    assert both["heat"].sum() == 0
    later = after({"burner": "2"}, [1.0, 1.0, 0, 0], **{**state, "locked": [0.0], "heat": [0.0] * 4})
    assert later["heat"].tolist() == [[0, 1, 0, 0]]
    assert later["tripped"].tolist() == [[1, 0, 0, 0]]
    assert after({"burner": "2"}, [0.0, 0, 0, 0], **state)["tripped"].sum() == 0


def test_reward_counts_the_open_cupboard_and_the_subgoals():
    before, then = (
        {"stage": torch.tensor([[s]]), "opened": torch.tensor([[o]]), "burnt": torch.tensor([[b]])} for s, o, b in ((0.0, 0.0, 0.0), (2.0, 1.0, 0.0))
    )
    assert TASK.reward(before, torch.zeros(1, 17), then).item() == pytest.approx(2.99)
    assert TASK.reward(then, torch.zeros(1, 17), {**then, "burnt": torch.tensor([[1.0]])}).item() == pytest.approx(-0.51)


def test_a_point_of_a_station_in_the_world_and_back():
    stand = torch.tensor([1.0, 2.0, 0.5 * math.pi])
    point = appliances.into_world(torch.tensor([0.6, 0.1, 0.12]), stand)
    assert point.tolist() == pytest.approx([0.9, 2.6, 0.52], abs=1e-6)  # ahead is +y, left is -x
    assert appliances.into_station(point, stand).tolist() == pytest.approx([0.6, 0.1, 0.12], abs=1e-6)


# ---- one who knows the kitchen --------------------------------------------------------------------------------------------------


def returns(env, batch, told=None):
    """(M,) of an episode of the expert, told the truth or other values."""
    env.set_tasks(batch)
    env.rng.manual_seed(0)
    env.reset()
    total = torch.zeros(env.num_tasks)
    while not env.all_ended:
        total += env.step(TASK.expert(env.readings, {**env.values, **(told or {})}).unsqueeze(1)).reward[:, 0]
    return total


@pytest.mark.parametrize("split", ["iid", "ood_near"])
def test_one_who_knows_the_kitchen_cooks_almost_all_that_is_possible(split):
    env = BatchedEnv(TASK, 24, num_threads=1)
    assert returns(env, TASK.sample(24, split)).mean() > 0.9 * 7
    assert TASK.success(env.readings).float().mean() > 0.8


def test_one_who_takes_it_for_another_kitchen_loses():
    batch, env = TASK.sample(16, "iid"), BatchedEnv(TASK, 16, num_threads=1)
    right = returns(env, batch).mean()
    other = {p.name: env.values[p.name].roll(1) for p in TASK.params if p.hidden}
    for name in ("mechanism", "control_map", "sense"):
        assert returns(env, batch, {name: other[name]}).mean() < 0.8 * right, name
    assert returns(env, batch, other).mean() < 0.5 * right
