import inspect
import math

import pytest
import torch

from metarl import tasks
from metarl.robots import arm7
from metarl.robots.spec import interpolate
from metarl.tasks import appliances, chores
from metarl.tasks.appliances import MECHANISMS
from metarl.tasks.batched_env import BatchedEnv

TASK, HANDLES = tasks.make("kitchen"), tasks.make("kitchen_handles")
ENGINES = ("mujoco", "pybullet")
RIGHT = dict(zip(MECHANISMS, chores.OPENINGS, strict=True))


@pytest.fixture
def kitchens():
    """kitchens(rows, engine="mujoco", task=TASK): an environment with a kitchen for each row."""
    made = []

    def make(rows, engine="mujoco", task=TASK):
        env = BatchedEnv(task, len(rows), simulator=engine, num_threads=1)
        made.append(env)
        env.set_tasks(task.custom(rows))
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


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("handle", ["ring", "bar"])
def test_a_door_opens_by_its_own_motion_and_by_no_other(kitchens, handle, engine):
    pairs = [(kind, motion) for kind in MECHANISMS for motion in chores.OPENINGS]
    env = kitchens([{"mechanism": kind, "handle": handle} for kind, _ in pairs], engine)
    do(env, *(motion for _, motion in pairs))
    opened = {pair for pair, flag in zip(pairs, env.readings["opened"][:, 0].tolist(), strict=True) if flag}
    assert opened == set(RIGHT.items())


@pytest.mark.parametrize("handle", HANDLES.params[3].all_choices)
def test_so_it_does_with_any_handle(kitchens, handle):
    pairs = [(kind, motion) for kind in MECHANISMS for motion in chores.OPENINGS]
    env = kitchens([{"mechanism": kind, "handle": handle} for kind, _ in pairs], task=HANDLES)
    do(env, *(motion for _, motion in pairs))
    opened = {pair for pair, flag in zip(pairs, env.readings["opened"][:, 0].tolist(), strict=True) if flag}
    assert opened == set(RIGHT.items())


def test_all_handles_serve_in_pybullet(kitchens):
    pairs = [(kind, handle) for kind in MECHANISMS for handle in HANDLES.params[3].all_choices]
    env = kitchens([{"mechanism": kind, "handle": handle} for kind, handle in pairs], "pybullet", HANDLES)
    do(env, *(RIGHT[kind] for kind, _ in pairs))
    assert [pair for pair, flag in zip(pairs, env.readings["opened"][:, 0].tolist(), strict=True) if not flag] == []


def test_the_kind_of_a_handle_is_seen(kitchens):
    kinds = HANDLES.params[3].all_choices
    env = kitchens([{"handle": kind} for kind in kinds], task=HANDLES)
    handle = env.obs.split(HANDLES.spec.obs_sizes, -1)[HANDLES.spec.obs_names.index("handle")]
    torch.testing.assert_close(handle[:, 2:], torch.eye(6))


def test_doors_go_as_far_as_the_hand(kitchens):
    env = kitchens([{"mechanism": kind} for kind in MECHANISMS])
    do(env, *RIGHT.values())
    went = dict(zip(MECHANISMS, env.readings["door_qpos"].abs().amax(-1).tolist(), strict=True))
    hand = {"drawer": chores.PULL, "slide_left": chores.SHIFT, "slide_right": chores.SHIFT}
    assert {kind: went[kind] for kind in hand} == pytest.approx(hand, abs=0.03)  # m
    hand = {"hinge_left": chores.SWING, "hinge_right": chores.SWING, "rotary": chores.SPIN}
    assert {kind: went[kind] for kind in hand} == pytest.approx(hand, abs=0.1)  # rad
    assert went["press"] == pytest.approx(appliances.PRESSED, abs=0.005)
    assert 0.8 < went["drop_down"] < chores.DROP  # its handle tilts away from the hand


@pytest.mark.parametrize("engine", ENGINES)
def test_the_hand_has_play_in_a_bar(kitchens, engine):
    env = kitchens([{"mechanism": "slide_left", "handle": handle} for handle in ("ring", "bar")], engine)
    before = env.readings["handle_pos"].clone()
    env.simulator.step(moved_aside(env, 0.02), torch.ones(2, dtype=torch.bool))
    ring, bar = (env.simulator.read()["handle_pos"] - before)[:, 1].tolist()
    assert ring > 0.008  # 2 cm, less the play of 7 mm, and what the arm gives way
    assert abs(bar) < 0.001


def moved_aside(env, distance):
    """The motion of a hand that goes into the handle and a bit to the left."""
    r = env.readings
    stands = r["stands"].unflatten(-1, (3, 3))[:, 0]
    handle = appliances.into_station(r["handle_pos"], stands)
    path = handle.unsqueeze(1) + torch.linspace(0, distance, chores.WORK + 1).view(1, -1, 1) * torch.tensor([0.0, 1.0, 0.0])
    return chores.plan(r["command_qpos"], stands, stands, chores.worked(path), torch.zeros(len(handle), dtype=torch.bool))


@pytest.mark.parametrize("engine", ENGINES)
def test_knobs_turn_one_way(kitchens, engine):
    env = kitchens([{}, {"sense": "right"}], engine)
    do(env, "turn_2_left")
    right_way, other_way = env.readings["knob_turn"][:, 1].tolist()
    assert 2.1 < right_way < chores.TURN + 0.1
    assert abs(other_way) < 0.4  # the stop gives a bit
    assert env.readings["heat"][:, 1].tolist() == [pytest.approx(right_way / appliances.TURNED, abs=1e-5), 0.0]
    assert env.readings["knob_turn"][:, [0, 2, 3]].abs().max() < 1e-3
    do(env, "turn_2_right")
    right_way, other_way = env.readings["knob_turn"][:, 1].tolist()
    assert abs(right_way) < appliances.TURNED * 0.06
    assert -2.5 < other_way < -1.8


def test_no_command_leaves_the_arms_limits(kitchens):
    """Whatever was done before: at each of a thousand moments of the motions, for any chore."""
    env = BatchedEnv(TASK, 38, num_threads=1)
    env.set_tasks(TASK.sample(38))
    env.reset()
    chance, arm = torch.Generator().manual_seed(0), arm7.SPEC
    low, high = torch.tensor(arm.qpos_limits).T
    for _ in range(6):
        action = torch.eye(19)[torch.randint(19, (38,), generator=chance)]
        motion = TASK.command(action, env.readings)
        assert motion.qpos.shape[1] * motion.dt == pytest.approx(chores.DURATION)
        qpos, qvel = (x[..., 3:] for x in interpolate(motion, env.readings["command_qpos"], 5))
        acceleration = torch.diff(qvel, dim=1, prepend=0 * qvel[:, :1]) / (chores.DT / 5)
        assert ((qpos >= low) & (qpos <= high)).all()
        assert (qvel.abs().amax((0, 1)) / torch.tensor(arm.qvel_limits)).max() <= 1.0
        assert (acceleration.abs().amax((0, 1)) / torch.tensor(arm.qacc_limits)).max() <= 1.0
        env.step(action.unsqueeze(1))
    env.close()


def test_the_docstring_says_how_long_a_motion_takes():
    assert f"motions of a decision take {chores.DURATION:.0f} s" in inspect.getdoc(type(TASK))


def test_who_waits_moves_nothing_and_food_warms_all_the_same(kitchens):
    env = kitchens([{}, {}])
    do(env, "pull")
    do(env, "cook")
    do(env, "turn_1_left")
    before = {k: v.clone() for k, v in env.readings.items()}
    do(env, "wait", "turn_1_left")
    for name in ("qpos", "knob_turn"):
        torch.testing.assert_close(env.readings[name][0], before[name][0], rtol=0, atol=0)
    assert (env.readings["temperature"] > before["temperature"] + 5).all()
    assert env.readings["knob_turn"][1, 0] > 4.0


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
    hot = after({"burner": "2", "control_map": "3142", "capacity": 1000.0}, [0, 0, 0, 1.0])  # knob 4 drives burner 2
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
    assert TASK.reward(before, torch.zeros(1, 19), then).item() == pytest.approx(2.99)
    assert TASK.reward(then, torch.zeros(1, 19), {**then, "burnt": torch.tensor([[1.0]])}).item() == pytest.approx(-0.51)


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
    for name in ("mechanism", "control_map", "sense"):  # the law costs less in the mean, and nearly everything where a falling one is taken for a rising one
        assert returns(env, batch, {name: other[name]}).mean() < 0.8 * right, name
    assert returns(env, batch, other).mean() < 0.5 * right
