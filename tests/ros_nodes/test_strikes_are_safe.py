"""What arm_slide plans, and what trained policies of fast control loops want, the safety node lets through: the same limits are meant on both sides."""

import collections
import types

import numpy as np
import pytest
import torch

import metarl
from metarl import tasks
from metarl.robots.spec import Controls
from metarl.ros_nodes.base_guard import State
from metarl.ros_nodes.control_loop import load
from metarl.ros_nodes.guard import Guard
from metarl.ros_nodes.limits import Command, Limits, check_trajectory
from metarl.ros_nodes.readings import size
from metarl.ros_nodes.referee import Referee
from metarl.ros_nodes.rejection import Rejected
from metarl.ros_nodes.vehicle_guard import VehicleGuard
from metarl.ros_nodes.world import World
from metarl.tasks.batched_env import Step

TASK = tasks.make("arm_slide")
NUM = 500


def refused(action):
    """How many of NUM strikes at training tasks are refused, and why."""
    generator = torch.Generator().manual_seed(0)
    values = {k: torch.as_tensor(v, dtype=torch.float32) for k, v in TASK.sample(NUM).named().items()}
    start, goals = TASK.start(values, generator), TASK.goals(values, generator)
    sensed = TASK.sense({"qpos": start["qpos"], "object_pos": start["object"][:, :3], **goals}, values)
    command, limits, reasons = TASK.command(action, sensed), Limits.of(TASK.robot), []
    time = command.dt * np.arange(1, command.qpos.shape[1] + 1)
    for before, qpos, qvel in zip(start["qpos"].double().numpy(), command.qpos.double().numpy(), command.qvel.double().numpy(), strict=True):
        try:
            check_trajectory(limits, Command(1, time, qpos, qvel), before)
        except Rejected as rejected:
            reasons.append(str(rejected))
    return reasons


def test_strikes_inside_the_range_of_actions():
    assert refused(2 * torch.rand(NUM, 3, generator=torch.Generator().manual_seed(1)) - 1) == []


def test_strikes_at_the_corners_of_the_range_of_actions():
    assert refused((2 * torch.rand(NUM, 3, generator=torch.Generator().manual_seed(1)) - 1).sign()) == []


def driven(name, fault=None):
    """An episode of a trained policy of an arm, in a control loop with a guard: what was counted, the guard, and the error in the end.

    `fault` is what happens to the robot halfway: hidden parameters and their values, or "bias", rad that are added to what all encoders say.
    """
    loop = load(f"{metarl.__path__[0]}/zoo/{name}.safetensors", tasks.make(name.removesuffix("_rl2")).robot)
    task, counts, bias = loop.task, collections.Counter(), torch.zeros(1)
    world, referee, guard = World(task, task.sample(1, "iid"), "mujoco", 3, lambda *_: None), Referee(task, 1), Guard(Limits.of(task.robot))
    stamp, now = 10**9, 0.0
    of = lambda found, needs: {k: v[0] + bias if k == "qpos" else v[0] for k, v in found.items() if k in needs}  # noqa: E731

    def measure():
        guard.measure(stamp, (world.true["qpos"][0] + bias).double().numpy(), world.true["qvel"][0].double().numpy(), now)

    measure()
    loop.begin_trial()
    referee.begin_episode(of(world.true, referee.needs), stamp)
    decision = loop.begin_episode(of(world.seen, loop.needs))
    while decision is not None:
        if fault and counts["decided"] == task.horizon // 2:
            bias = bias + fault.get("bias", 0.0)
            assert world.engine.adjust({**world.hidden.named(), **{k: np.array([v]) for k, v in fault.items() if k != "bias"}})
        dt, held = decision.command.dt, ""
        planned = Command(stamp, np.array([dt]), decision.command.qpos.double().numpy(), decision.command.qvel.double().numpy())
        try:
            sent = guard.judge(planned, now)
            counts["cut"] += sent is not planned
        except Rejected:
            sent, held = guard.hold(stamp, now), "intervention"
        executed = torch.from_numpy(sent.qpos).float()
        world.execute(decision.command._replace(qpos=executed[None], qvel=torch.zeros(1, 1, 7)))
        stamp, now = stamp + round(dt * 1e9), now + dt
        measure()
        event = referee.judge(decision.action, executed[0], of(world.true, referee.needs), stamp)
        decision = loop.take_result(event.reward, event.terminated, event.truncated, of(world.seen, loop.needs), executed[0], held)
        counts["decided"], counts["refused"] = counts["decided"] + 1, counts["refused"] + bool(held)
        counts["excluded"] += bool(loop.excluded)
    world.close()
    assert counts["decided"] == task.horizon
    return counts, guard, event.error


@pytest.mark.parametrize(("name", "most_cut"), [("arm_push_rl2", 0.0), ("arm_reach_rl2", 0.4)])
def test_an_episode_of_a_trained_policy(name, most_cut):
    """In a control loop with a guard. arm_reach begins at full speed at once, which the joints cannot: it is cut, and learned from as it was executed."""
    counts, _, _ = driven(name)
    assert counts["cut"] <= most_cut * counts["decided"]
    assert (counts["cut"] > 0) is (most_cut > 0)
    assert counts["refused"] == counts["excluded"] <= 0.05 * counts["decided"]


@pytest.mark.parametrize("fault", [{"actuator_gain": 0.5}, {"damping": 3.0}, {"payload": 2.0}, {"bias": 0.05}], ids=str)
def test_a_robot_that_changes_in_the_middle_of_an_episode_is_driven_on(fault):
    """Half of the motors' gain, three times the friction, 2 kg more, or encoders that are 0.05 rad wrong: nothing is refused, nothing stops, and it arrives."""
    counts, guard, error = driven("arm_reach_rl2", fault)
    print(dict(counts), error)
    assert counts["refused"] == counts["excluded"] == 0
    assert guard.state is State.TRACKING
    assert error < 0.1


@pytest.mark.parametrize(("name", "most_cut"), [("car_track", 0.2), ("quadrotor_track", 0.1)])
def test_an_episode_of_a_trained_policy_of_a_vehicle(name, most_cut):
    """What changes faster than the motors can is cut, and learned from as it was executed; nothing is refused."""
    robot = tasks.make(name).robot
    loop = load(f"{metarl.__path__[0]}/zoo/{name}_rl2.safetensors", robot)
    world, referee = World(loop.task, loop.task.sample(1, "iid"), "mujoco", 3, lambda *_: None), Referee(loop.task, 1)
    guard, counts, of = VehicleGuard(robot), collections.Counter(), lambda found, needs: {k: v[0] for k, v in found.items() if k in needs}
    stamp, now = 10**9, 0.0
    loop.begin_trial()
    referee.begin_episode(of(world.true, referee.needs), stamp)
    decision = loop.begin_episode(of(world.seen, loop.needs))
    while decision is not None:
        pose, twist = (torch.cat([world.true[robot.prefix + part][0] for part in parts]).double().numpy() for parts in (("pos", "quat"), ("linvel", "angvel")))
        guard.measure(stamp, pose, twist, now)
        wanted = robot.command_of(decision.command.ctrl.double()).numpy()
        sent = guard.judge(Command(stamp, np.array([robot.control_dt]), wanted[None], np.zeros_like(wanted)[None]), now)
        counts["cut"] += bool(guard.cut)
        executed = robot.ctrl_of(torch.from_numpy(sent.qpos)).float()
        world.execute(Controls(executed))
        stamp, now = stamp + round(robot.control_dt * 1e9), now + robot.control_dt
        event = referee.judge(decision.action, executed[0], of(world.true, referee.needs), stamp)
        decision = loop.take_result(event.reward, event.terminated, event.truncated, of(world.seen, loop.needs), executed[0])
        counts["decided"], counts["excluded"] = counts["decided"] + 1, counts["excluded"] + bool(loop.excluded)
    world.close()
    assert counts["decided"] == loop.task.horizon
    assert 0 < counts["cut"] <= most_cut * loop.task.horizon
    assert counts["excluded"] == 0


def test_a_vehicle_that_braked_by_itself_has_done_nothing_to_learn_from():
    """Decided: full speed and full steering. Cut, that is what is left of it; anything else is an intervention."""
    task = tasks.make("car_track")
    given: list[Step] = []
    loop = load(f"{metarl.__path__[0]}/zoo/car_track_rl2.safetensors", task.robot)
    loop.adapter = types.SimpleNamespace(act=lambda obs, explore: torch.ones(1, 1, 2), observe=given.append)
    seen = {name: torch.zeros(size(task, name)) for name in loop.needs}
    for executed, excluded in (((0.639545, 0.4), ""), ((0.3, 0.4), "intervention"), ((0.0, 0.0), "intervention")):
        loop.begin_episode(seen)
        loop.take_result(0.1, False, True, seen, task.robot.ctrl_of(torch.tensor([executed]))[0])
        assert loop.excluded == excluded
    torch.testing.assert_close(given[0].action[0, 0], torch.tensor([0.639545 / 2 - 1, 1.0]), rtol=0, atol=1e-4)
