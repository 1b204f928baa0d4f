import itertools
import re

import numpy as np
import pytest
import torch

from metarl import tasks
from metarl.tasks.arm_reach import ArmReach
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.parameters import Param
from metarl.tasks.point_navigation import PointNavigation
from metarl.tasks.task import Task


class Countdown(Task):
    """Each step takes the action from what is left; done at zero. The start is random, what is left at first is hidden."""

    name = "countdown"
    params = (Param("left", "", "{:g} left", nominal=2.0, train=(1.0, 5.0)),)
    simulators = ("analytic",)
    horizon = 4
    episodes_per_trial = 2
    decision_dt = 0.1
    observed = {"left": 1, "noise": 1, "last_action": 1}
    action_names = ("take",)
    reward_range = (-1.0, 2.0)

    def start(self, values, rng):
        left = values["left"].unsqueeze(-1)
        return {"left": left, "noise": torch.rand(left.shape, generator=rng)}

    def dynamics(self, readings, action, values, rng):
        return {"left": readings["left"] - action, "noise": readings["noise"]}

    def reward(self, readings, action, next_readings):
        return 1.0 + action[..., 0]

    def terminated(self, readings):
        return readings["left"][..., 0] <= 0

    def success(self, readings):
        return self.terminated(readings)


class StillReach(ArmReach):
    """arm_reach with nothing random within an episode."""

    name = "still_reach"

    def start(self, values, rng):
        return {"qpos": torch.tensor(self.robot.home_qpos).expand(len(values["payload"]), -1)}

    def goals(self, values, rng):
        return {"target_pos": torch.tensor([0.5, 0.1, 0.3]).expand(len(values["payload"]), -1)}


def countdown(lefts, robots=1, seed=0) -> BatchedEnv:
    env = BatchedEnv(Countdown(), len(lefts), robots, seed=seed)
    env.set_tasks(env.task.custom([{"left": left} for left in lefts]))
    return env


def test_an_ended_episode_is_held_until_all_have_ended():
    env = countdown([1.0, 2.0, 5.0])
    first = env.reset()
    assert first[:, 0, 0].tolist() == [1.0, 2.0, 5.0]
    action = torch.tensor([[1.0, 0.75, 1.0], [0.1, 0.75, 1.0], [0.2, 0.75, 1.0], [0.3, 0.4, 1.0]])
    steps = [env.step(a.view(3, 1, 1)) for a in action]

    def column(name):
        return torch.stack([getattr(s, name)[:, 0] for s in steps]).T.tolist()

    # task 0 ends after step 1; task 1 (2 - 3 * 0.75 < 0) after step 3; task 2 has 1 left when its time is up
    assert column("terminated") == [[True, False, False, False], [False, False, True, False], [False, False, False, False]]
    assert column("truncated") == [[False] * 4, [False] * 4, [False, False, False, True]]
    assert column("valid") == [[True, False, False, False], [True, True, True, False], [True, True, True, True]]
    assert column("reward") == [[2.0, 0.0, 0.0, 0.0], [1.75, 1.75, 1.75, 0.0], [2.0, 2.0, 2.0, 2.0]]
    assert [s.next_obs[0, 0, 0].item() for s in steps] == [0.0] * 4
    assert [s.next_obs[1, 0, 0].item() for s in steps] == [1.25, 0.5, -0.25, -0.25]
    assert [s.next_obs[2, 0, 0].item() for s in steps] == [4.0, 3.0, 2.0, 1.0]
    assert all(torch.equal(s.next_obs[0], steps[0].next_obs[0]) for s in steps)  # whatever is done to a robot that is held
    for before, after in itertools.pairwise(steps):
        torch.testing.assert_close(after.obs, before.next_obs, rtol=0, atol=0)
    assert env.all_ended


def test_an_episode_that_ends_by_itself_when_its_time_is_up_is_terminated_alone():
    env = countdown([4.0])
    env.reset()
    steps = [env.step(torch.ones(1, 1, 1)) for _ in range(4)]
    assert [s.terminated.item() for s in steps] == [False, False, False, True]
    assert not any(s.truncated.item() for s in steps)


def test_all_ended_before_the_horizon_and_the_next_episode():
    env = countdown([1.0, 2.0])
    assert not env.all_ended
    env.reset()
    ended = []
    for _ in range(2):
        env.step(torch.ones(2, 1, 1))
        ended.append(env.all_ended)
    assert ended == [False, True]
    again = env.reset()
    assert again[:, 0, 0].tolist() == [1.0, 2.0]
    assert again[:, 0, 2].tolist() == [0.0, 0.0]  # the last action is of the last episode
    assert env.step(torch.zeros(2, 1, 1)).valid.all()


def test_actions_are_cut_but_reported_as_given():
    env = countdown([5.0])
    env.reset()
    step = env.step(torch.tensor([[[3.0]]]))
    assert step.action.item() == 3.0
    assert step.next_obs[0, 0, [0, 2]].tolist() == [4.0, 1.0]


def test_robots_of_a_task_lie_side_by_side():
    env = countdown([2.0, 3.0], robots=2)
    obs = env.reset()
    assert obs.shape == (2, 2, 3)
    assert obs[..., 0].tolist() == [[2.0, 2.0], [3.0, 3.0]]
    step = env.step(torch.tensor([[[0.1], [0.2]], [[0.3], [0.4]]]))
    torch.testing.assert_close(step.next_obs[..., 0], torch.tensor([[1.9, 1.8], [2.7, 2.6]]))


def test_the_seed_rules_what_is_random_and_state_dict_continues_it():
    env, same, other = countdown([1.0, 1.0]), countdown([1.0, 1.0]), countdown([1.0, 1.0], seed=1)
    first = env.reset()
    torch.testing.assert_close(first, same.reset(), rtol=0, atol=0)
    assert not torch.equal(first, other.reset())
    assert not torch.equal(first[0], first[1])
    other.load_state_dict(env.state_dict())
    second = env.reset()
    assert not torch.equal(first, second)
    torch.testing.assert_close(second, other.reset(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (torch.zeros(2, 1), r"action has shape (2, 1), expected (tasks, robots, actions) = (2, 1, 1)"),
        (torch.zeros(2, 1, 2), r"action has shape (2, 1, 2), expected"),
        (torch.tensor([[[0.0]], [[torch.nan]]]), "action of robot 1 is not finite: [nan]"),
        (torch.tensor([[[torch.inf]], [[0.0]]]), "action of robot 0 is not finite: [inf]"),
    ],
)
def test_actions_that_are_refused(action, message):
    env = countdown([1.0, 2.0])
    env.reset()
    with pytest.raises(ValueError, match=re.escape(message)):
        env.step(action)
    assert env.step(torch.zeros(2, 1, 1)).next_obs[:, 0, 0].tolist() == [1.0, 2.0]  # nothing had happened


def test_order_of_calls():
    env = BatchedEnv(Countdown(), 1)
    with pytest.raises(RuntimeError, match="set_tasks must come before reset"):
        env.reset()
    env.set_tasks(env.task.sample(1))
    with pytest.raises(RuntimeError, match="reset must come before step"):
        env.step(torch.zeros(1, 1, 1))
    env.reset()
    env.set_tasks(env.task.sample(1, start=1))
    with pytest.raises(RuntimeError, match="reset must come before step"):
        env.step(torch.zeros(1, 1, 1))


def test_tasks_that_do_not_fit():
    env = BatchedEnv(Countdown(), 2)
    with pytest.raises(ValueError, match="3 tasks were given, this environment has room for 2"):
        env.set_tasks(env.task.sample(3))
    with pytest.raises(ValueError, match="these tasks are of 'point_navigation', this environment runs 'countdown'"):
        env.set_tasks(tasks.make("point_navigation").sample(2))


def test_simulators_that_do_not_fit():
    with pytest.raises(ValueError, match=r"no simulator is called 'mojoco': did you mean mujoco"):
        BatchedEnv(Countdown(), 1, simulator="mojoco")
    with pytest.raises(ValueError, match="countdown does not run in 'mujoco'; it runs in analytic"):
        BatchedEnv(Countdown(), 1, simulator="mujoco")


def test_a_simulation_that_blows_up_names_the_task(monkeypatch):
    env = countdown([2.0, 3.0])
    env.reset()
    monkeypatch.setattr(Countdown, "dynamics", lambda self, r, a, v, rng: {**r, "left": torch.where(r["left"] == 3.0, torch.nan, r["left"])})
    with pytest.raises(RuntimeError, match=r"the simulation blew up at step 1: Task countdown/v1:custom:\w+: 3 left"):
        env.step(torch.zeros(2, 1, 1))


def test_a_reward_that_is_no_number_is_not_blamed_on_the_simulation(monkeypatch):
    env = countdown([2.0, 3.0])
    env.reset()
    monkeypatch.setattr(Countdown, "reward", lambda self, r, a, after: torch.tensor([torch.nan, 0.0]))
    with pytest.raises(RuntimeError, match=r"Countdown.reward gave nan at step 1: Task countdown/v1:custom:\w+: 2 left"):
        env.step(torch.zeros(2, 1, 1))


def run(env: BatchedEnv, batch, actions) -> torch.Tensor:
    """(M, R, steps + 1, O) observations under actions (steps, M, R, A)."""
    env.set_tasks(batch)
    return torch.stack([env.reset(), *(env.step(a).next_obs for a in actions)], 2)


@pytest.mark.parametrize("reward", [2.5, -1.25])
def test_a_reward_outside_of_its_range_is_told_once(monkeypatch, reward):
    env = countdown([5.0, 5.0])
    env.reset()
    action = torch.zeros(2, 1, 1)
    env.step(action)
    monkeypatch.setattr(Countdown, "reward", lambda self, r, a, after: torch.tensor([2.00001, reward]))
    with pytest.warns(UserWarning, match=rf"^Countdown\.reward gave {reward} at step 2, outside of reward_range -1 to 2: "):
        env.step(action)
    env.step(action)  # a second warning would be an error


def test_what_an_ended_episode_would_be_paid_is_no_reward(monkeypatch):
    env = countdown([1.0, 5.0])
    env.reset()
    env.step(torch.ones(2, 1, 1))
    monkeypatch.setattr(Countdown, "reward", lambda self, r, a, after: torch.tensor([99.0, 1.0]))
    assert env.step(torch.zeros(2, 1, 1)).reward.tolist() == [[0.0], [1.0]]


def test_tasks_and_robots_do_not_touch_each_other():
    task = StillReach()
    batch = task.sample(3)
    actions = 2 * torch.rand(20, 3, 2, 7, generator=torch.Generator().manual_seed(0)) - 1
    together = run(BatchedEnv(task, 3, 2, num_threads=2), batch, actions)
    flat = run(BatchedEnv(task, 6, num_threads=1), batch[[0, 0, 1, 1, 2, 2]], actions.reshape(20, 6, 1, 7))
    torch.testing.assert_close(together.flatten(0, 1), flat[:, 0], rtol=0, atol=0)
    for i in range(6):
        alone = run(BatchedEnv(task, 1, num_threads=1), batch[i // 2], actions[:, i // 2, i % 2].reshape(20, 1, 1, 7))
        torch.testing.assert_close(alone[0, 0], flat[i, 0], rtol=0, atol=1e-6)


def test_commands_come_late():
    """What reaches the motors is worked out by hand: the joint command is the start plus the sum of all actions so far, 2.175 * 0.5 * 0.02 rad each."""
    task, delays = StillReach(), [0.0, 0.02, 0.04, 0.03, 0.005]
    env = BatchedEnv(task, len(delays), num_threads=1)
    env.set_tasks(task.custom([{"delay": d} for d in delays]))
    sent, step_simulator = [], env.simulator.step
    env.simulator.step = lambda command, active: sent.append(command.qpos[:, 0, 0]) or step_simulator(command, active)
    env.reset()
    pushes = torch.tensor([1.0, 0.5, -1.0, 0.25, 0.0, 1.0])
    for push in pushes:
        action = torch.zeros(len(delays), 1, 7)
        action[..., 0] = push
        env.step(action)
    wanted = torch.cat([torch.zeros(3), pushes.cumsum(0) * 2.175 * 0.5 * 0.02])  # joint 1 rests at 0 before the first command
    now, one, two = wanted[3:], wanted[2:-1], wanted[1:-2]  # 0, 1 and 2 ticks late
    expected = [now, one, two, 0.5 * one + 0.5 * two, 0.75 * now + 0.25 * one]
    torch.testing.assert_close(torch.stack(sent).T, torch.stack(expected), rtol=0, atol=1e-6)
    # the robot knows what it commanded, not when it arrives
    torch.testing.assert_close(env.readings["command_qpos"][:, 0], wanted[-1].expand(len(delays)))


def test_a_new_episode_forgets_the_late_commands():
    task = StillReach()
    env = BatchedEnv(task, 1, num_threads=1)
    env.set_tasks(task.custom([{"delay": 0.04}]))
    ends = []
    for _ in range(2):
        env.reset()
        for _ in range(5):
            step = env.step(torch.ones(1, 1, 7))
        ends.append(step.next_obs)
    torch.testing.assert_close(*ends, rtol=0, atol=0)


def test_step_moves_between_devices_as_one():
    env = countdown([1.0])
    env.reset()
    step = env.step(torch.zeros(1, 1, 1)).to("meta")
    assert {part.device.type for part in vars(step).values()} == {"meta"}


@pytest.mark.parametrize(("method", "wrong", "said"), [
    ("reward", lambda self, readings, action, after: torch.tensor(1.0), r"Wrong.reward gave shape \(\), expected \(4,\) for 4 simulations"),
    ("observation", lambda self, readings: readings["pos"][:, :1], r"Wrong.observation gave shape \(4, 1\), expected \(4, 2\)"),
    ("terminated", lambda self, readings: torch.zeros(4, 1, dtype=torch.bool), r"Wrong.terminated gave shape \(4, 1\), expected \(4,\)"),
])  # fmt: skip
def test_a_task_that_gives_the_wrong_shape_is_named(method, wrong, said):
    task = type("Wrong", (PointNavigation,), {method: wrong})()
    env = BatchedEnv(task, 2, 2)
    env.set_tasks(task.sample(2))
    with pytest.raises(ValueError, match=said):
        env.reset()
        env.step(torch.zeros(2, 2, 2))


def test_actions_that_are_no_tensors():
    env = countdown([1.0, 2.0])
    env.reset()
    for action, kind in ((np.zeros((2, 1, 1)), "numpy.ndarray"), ([[[0.0]], [[0.0]]], "builtins.list")):
        with pytest.raises(TypeError, match=re.escape(f"action is a {kind}, expected a torch.Tensor (tasks, robots, actions) = (2, 1, 1)")):
            env.step(action)


def test_fewer_threads_than_none():
    with pytest.raises(ValueError, match=r"^num_threads is -1, expected at least 0$"):
        BatchedEnv(PointNavigation(), 1, num_threads=-1)


def test_no_tasks_are_no_environment():
    with pytest.raises(ValueError, match="num_tasks is 0, expected at least 1"):
        BatchedEnv(PointNavigation(), 0)
