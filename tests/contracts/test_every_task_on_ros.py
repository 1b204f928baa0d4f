"""What holds for every task of a robot on the ROS graph, without DDS: World, ControlLoop and Referee, joined by the messages that the nodes exchange."""

import contextlib
import itertools

import pytest
import torch

pytest.importorskip("rclpy", reason="ROS 2 is not installed: pip install 'metarl[ros]'")

from metarl import tasks
from metarl.robots.spec import ServoSpec
from metarl.rollout import collect
from metarl.ros_nodes.channels import channels
from metarl.ros_nodes.control_loop import ControlLoop
from metarl.ros_nodes.graph import Choice, graph
from metarl.ros_nodes.guard import Guard
from metarl.ros_nodes.limits import Limits
from metarl.ros_nodes.referee import Referee
from metarl.ros_nodes.rejection import Rejected
from metarl.ros_nodes.wires import wire
from metarl.ros_nodes.world import World
from metarl.tasks.batched_env import BatchedEnv

NAMES = tasks.names()
ROBOTS = {name: tasks.make(name).robot_name for name in NAMES}
ON_ROS = [name for name in NAMES if ROBOTS[name]]
PLANNED = [name for name in ON_ROS if tasks.make(name).decision_dt > 1.0]  # a decision is a motion that is planned from beginning to end
HORIZON, EPISODES, SEED = 5, 2, 3


def short(name, monkeypatch):
    """The task, with few and short episodes."""
    task = tasks.make(name)
    monkeypatch.setattr(type(task), "horizon", min(task.horizon, HORIZON))
    monkeypatch.setattr(type(task), "episodes_per_trial", EPISODES)
    return task


def play(task, hidden, judge, pilot):
    """A trial through messages; `judge(command, world)` is what passes of a command. Rows of action and reward."""
    hung = wire(task.robot_name)
    world, referee, loop = World(task, hidden, "mujoco", SEED, lambda *_: None), Referee(task, 1), ControlLoop(task, pilot(task.spec), True)
    seen, measured = (channels(hung, task, needs, source) for source, needs in (("seen", loop.needs), ("measured", referee.needs)))
    heard = lambda found, made, stamp: {k: v for c in made for k, v in c.hear(c.say(found, stamp)).items()}  # noqa: E731
    stamp, log = 0, []
    loop.begin_trial()
    while not referee.trial_ended:
        world.begin_episode()
        referee.begin_episode(heard(world.true, measured, stamp), stamp)
        decision = loop.begin_episode(heard(world.seen, seen, stamp))
        while decision is not None:
            command = hung.command(hung.message(judge(hung.command(hung.message(hung.planned(decision.command, stamp))), world)))
            world.execute(hung.executable(command))
            motion = float(command.time[-1])
            stamp += round((max(motion, task.decision_dt if task.rests else 0.0) + (0.0 if world.at_rest else task.settle_time)) * 1e9)
            true = heard(world.true, measured, stamp)
            assert referee.over(true, stamp, motion)
            event = referee.judge(decision.action, hung.last(command), true, stamp)
            log.append([*decision.action.tolist(), event.reward])
            decision = loop.take_result(event.reward, event.terminated, event.truncated, heard(world.seen, seen, stamp), hung.last(command))
            assert loop.excluded == ""
        loop.end_episode()
    world.close()
    return torch.tensor(log)


def simulated(task, hidden, pilot):
    """The same trial without ROS."""
    env = BatchedEnv(task, 1, 1, "mujoco", 1, SEED)
    env.set_tasks(hidden)
    rollout = collect(env, pilot(task.spec))
    env.close()
    valid = rollout.valid.flatten()
    return torch.cat([rollout.action.flatten(0, -2), rollout.reward.flatten().unsqueeze(-1)], -1)[valid]


@pytest.mark.parametrize("name", ON_ROS)
def test_a_trial_through_messages_is_that_of_collect(name, monkeypatch, as_slow_as_a_robot, pilot):
    task = short(name, monkeypatch)
    hidden = task.sample(1, "iid", start=5)
    found = play(task, hidden, lambda command, world: command, pilot)
    expected = simulated(as_slow_as_a_robot(task) if name in PLANNED else task, hidden, pilot)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    assert len(found) >= EPISODES


@pytest.mark.parametrize("name", [name for name in NAMES if not ROBOTS[name]])
def test_a_task_without_a_robot_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"{name} has no robot, so there is nothing to drive over ROS"):
        graph(Choice(task=name))


@pytest.mark.parametrize("name", PLANNED)
def test_planned_motions_pass_the_guard_unchanged(name, monkeypatch, pilot):
    task = short(name, monkeypatch)
    limits = Limits.of(task.robot)
    assert isinstance(task.robot, ServoSpec)

    guard, clock = Guard(limits, may_jump=True), itertools.count()

    def judge(command, world):
        now = 20.0 * next(clock)
        with contextlib.suppress(Rejected):  # a new episode begins elsewhere
            guard.measure(command.stamp, world.true["qpos"][0].double().numpy(), world.true["qvel"][0].double().numpy(), now)
        return guard.judge(command, now)

    assert len(play(task, task.sample(1, "iid", start=5), judge, pilot)) >= EPISODES
