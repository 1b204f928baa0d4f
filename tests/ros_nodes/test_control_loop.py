"""The control loop does exactly what BatchedEnv and collect do, and refuses what cannot be used."""

import pytest
import torch

from metarl import meta_parameters, robots, tasks
from metarl.robots.spec import RobotSpec
from metarl.rollout import collect
from metarl.ros_nodes.control_loop import ControlLoop, load
from metarl.ros_nodes.referee import Referee
from metarl.ros_nodes.rejection import Rejected, RejectedAction
from metarl.ros_nodes.world import World
from metarl.tasks.arm_reach import ArmReach
from metarl.tasks.batched_env import BatchedEnv


class Learner:
    """Acts on the observation, on what it has been paid, and with noise; adds to its memory at the end of episodes."""

    def __init__(self, spec):
        self.weights = torch.randn(spec.obs_size, spec.action_size, generator=torch.Generator().manual_seed(1)) / spec.obs_size
        self.calls, self.valid = [], []
        self.reset()

    def reset(self):
        self.rng = torch.Generator().manual_seed(2)
        self.paid = self.episodes = 0.0

    def act(self, obs, explore=True):
        self.calls.append("act")
        noise = 0.3 * torch.randn(*obs.shape[:-1], self.weights.shape[1], generator=self.rng) if explore else 0.0
        return 1.5 * torch.tanh(obs @ self.weights + 0.2 * self.paid + self.episodes + noise)  # some are beyond 1 and are cut

    def observe(self, step):
        self.calls.append("observe")
        self.valid.append(bool(step.valid.all()))
        self.paid = 0.5 * self.paid + float(step.reward) + float(step.next_obs.sum()) / 100 + float(step.truncated)

    def adapt(self):
        self.calls.append("adapt")
        self.episodes += 0.1


def run_trial(task, hidden, simulator, loop, seed):
    """A trial without ROS: world, control loop and referee, as the nodes join them. Actions, rewards and errors of all decisions."""
    world = World(task, hidden, simulator, seed, lambda qpos, qvel: None)
    referee = Referee(task, epoch=1)
    flat = lambda found: {k: v[0] for k, v in found.items() if k in ("qpos", "qvel") or k.startswith(("object", "target"))}  # noqa: E731
    stamp, log = 0, []
    loop.begin_trial()
    while not referee.trial_ended:
        world.begin_episode()
        referee.begin_episode(flat(world.true), stamp)
        decision = loop.begin_episode(flat(world.seen))
        while decision is not None:
            world.execute(type(decision.command)(*(x[None] for x in decision.command[:2]), decision.command.dt))
            motion = decision.command.dt * len(decision.command.qpos)
            stamp += round((motion + (0 if world.at_rest else task.settle_time)) * 1e9)
            assert referee.over(flat(world.true), stamp, motion)
            event = referee.judge(decision.action, decision.command.qpos[-1], flat(world.true), stamp)
            log.append((decision.action, event.reward, event.error, event.truncated))
            decision = loop.take_result(event.reward, event.terminated, event.truncated, flat(world.seen))
        loop.end_episode()
    world.close()
    return log


@pytest.mark.parametrize("simulator", ["mujoco", "pybullet"])
@pytest.mark.parametrize("explore", [True, False])
def test_strikes_are_exactly_those_of_collect(simulator, explore):
    if simulator == "pybullet":
        pytest.importorskip("pybullet", reason="PyBullet is not installed")
    task = tasks.make("arm_slide")
    hidden = task.sample(1, "iid", start=5)
    env = BatchedEnv(task, 1, 1, simulator, 1, seed=3)
    env.set_tasks(hidden)
    here, there = Learner(task.spec), Learner(task.spec)
    rollout = collect(env, here, explore=explore)
    env.close()
    log = run_trial(task, hidden, simulator, ControlLoop(task, there, explore), seed=3)
    assert there.calls == here.calls == ["act", "observe", "adapt"] * 5
    assert all(there.valid)
    assert torch.equal(torch.stack([action for action, *_ in log]), rollout.action.view(5, 3))
    assert torch.equal(torch.tensor([reward for _, reward, *_ in log]), rollout.reward.view(5))
    assert rollout.reward.unique().numel() == 5  # five different shots were compared


def test_a_fast_control_loop_is_that_of_collect(monkeypatch):
    """50 Hz, with late commands, the last action and the last command in play; the tool's pose comes from the joints instead of the simulator."""
    monkeypatch.setattr(ArmReach, "horizon", 15)
    monkeypatch.setattr(ArmReach, "episodes_per_trial", 2)
    task = tasks.make("arm_reach")
    hidden = task.custom([{"payload": 0.8, "delay": 0.033, "camera_x": 0.05}])
    env = BatchedEnv(task, 1, 1, "mujoco", 1, seed=3)
    env.set_tasks(hidden)
    rollout = collect(env, Learner(task.spec))
    log = run_trial(task, hidden, "mujoco", ControlLoop(task, Learner(task.spec), False), seed=3)
    assert [truncated for *_, truncated in log] == ([False] * 14 + [True]) * 2
    torch.testing.assert_close(torch.stack([action for action, *_ in log]), rollout.action.view(30, 7), rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.tensor([reward for _, reward, *_ in log]), rollout.reward.view(30), rtol=0, atol=1e-5)


# ---- what is refused --------------------------------------------------------------------------------------------------------


SLIDE = tasks.make("arm_slide")


def seen(**changes):
    good = {"qpos": torch.tensor(SLIDE.robot.home_qpos), "object_pos": torch.tensor([0.55, 0.05, 0.03]), "target_pos": torch.tensor([0.5, 0.6, 0.0])}
    return {k: v for k, v in (good | changes).items() if v is not None}


@pytest.mark.parametrize(
    ("changes", "reason", "text"),
    [
        ({"qpos": torch.full((7,), float("nan"))}, "not_finite", "reading qpos"),
        ({"object_pos": torch.tensor([0.5, float("inf"), 0.0])}, "not_finite", "object_pos"),
        ({"object_pos": torch.tensor([0.5, 0.0])}, "wrong_shape", r"object_pos has shape \(2,\), expected \(3,\)"),
        ({"target_pos": None}, "missing_reading", "target_pos not among"),
    ],
)
def test_bad_readings_are_refused_and_change_nothing(changes, reason, text):
    learner = Learner(SLIDE.spec)
    loop = ControlLoop(SLIDE, learner, True)
    with pytest.raises(Rejected, match=text) as refused:
        loop.begin_episode(seen(**changes))
    assert refused.value.reason == reason
    assert learner.calls == []
    loop.begin_episode(seen())
    with pytest.raises(Rejected, match=text):
        loop.take_result(0.5, False, True, seen(**changes))
    assert learner.calls == ["act"]
    assert loop.take_result(0.5, False, True, seen()) is None  # the decision is still open
    assert learner.calls == ["act", "observe"]


def test_a_result_without_decision_and_a_reward_that_is_no_number_are_refused():
    loop = ControlLoop(SLIDE, Learner(SLIDE.spec), True)
    with pytest.raises(Rejected, match="no_decision"):
        loop.take_result(0.5, False, True, seen())
    loop.begin_episode(seen())
    with pytest.raises(Rejected, match="the reward is nan"):
        loop.take_result(float("nan"), False, True, seen())
    loop.take_result(0.5, False, True, seen())
    with pytest.raises(Rejected, match="no_decision"):
        loop.take_result(0.5, False, True, seen())


@pytest.mark.parametrize(
    ("action", "reason"), [(torch.tensor([[[0.1, float("nan"), 0.0]]]), "not_finite"), (torch.zeros(1, 1, 4), "wrong_shape"), (torch.zeros(3), "wrong_shape")]
)
def test_bad_actions_are_refused(action, reason):
    learner = Learner(SLIDE.spec)
    learner.act = lambda obs, explore: action
    with pytest.raises(RejectedAction) as refused:
        ControlLoop(SLIDE, learner, True).begin_episode(seen())
    assert refused.value.reason == reason


def test_what_was_executed_counts_for_the_next_command():
    """The safety node held the robot: the next set-point starts from there, not from what was asked for."""
    task = tasks.make("arm_reach")
    learner = Learner(task.spec)
    learner.act = lambda obs, explore: torch.zeros(1, 1, 7)
    loop = ControlLoop(task, learner, True)
    here = {"qpos": torch.tensor(task.robot.home_qpos), "qvel": torch.zeros(7), "target_pos": torch.tensor([0.4, 0.1, 0.3])}
    assert torch.equal(loop.begin_episode(here).command.qpos[0], here["qpos"])
    held = here["qpos"] + 0.1
    assert torch.equal(loop.take_result(0.0, False, False, here, held).command.qpos[0], held)
    assert learner.valid == [False]  # and what came of it says nothing about what was decided
    assert loop.excluded == "intervention"
    loop.take_result(0.0, False, False, here, held)
    assert learner.valid == [False, True]
    loop.take_result(1.7, False, False, here, held)  # rewards are between 0 and 1
    assert loop.excluded == "reward_range"
    loop.take_result(0.5, False, False, here, held, excluded="stale_state")
    assert learner.valid == [False, True, False, False]


@pytest.mark.parametrize(("name", "part", "learned"), [("arm_reach", 0.25, True), ("arm_reach", -1.2, False), ("arm_push", 0.25, False)])
def test_a_set_point_that_was_cut_is_learned_from_as_the_action_that_it_stands_for(name, part, learned):
    """Decided: full speed. Executed: a part of it, where an action says so; else nothing is learned."""
    task = tasks.make(name)
    learner, given = Learner(task.spec), []
    learner.act = lambda obs, explore: torch.ones(1, 1, task.spec.action_size)
    learner.observe = given.append
    loop = ControlLoop(task, learner, True)
    here = {name: torch.zeros(n) for name, n in {"target_pos": 3, "object_pos": 3}.items() if name in loop.needs}
    home = torch.tensor(task.robot.home_qpos)
    here |= {"qpos": home} | ({"qvel": torch.zeros(7)} if "qvel" in loop.needs else {})
    decision = loop.begin_episode(here)
    executed = home + part * (decision.command.qpos[0] - home)
    loop.take_result(0.5, False, False, here, executed)
    assert bool(given[0].valid) is learned
    assert loop.excluded == ("" if learned else "intervention")
    torch.testing.assert_close(given[0].action[0, 0], torch.full((task.spec.action_size,), part if learned else 1.0), rtol=0, atol=1e-4)
    if learned:
        torch.testing.assert_close(loop._obs[0, -7:], torch.full((7,), part), rtol=0, atol=1e-4)  # the last action, as it is observed


def test_after_an_activation_set_points_begin_at_the_measured_pose():
    """The robot was moved by hand in between: 0.5 rad from where it was commanded to."""
    task = tasks.make("arm_reach")
    learner = Learner(task.spec)
    learner.act = lambda obs, explore: torch.ones(1, 1, 7)
    loop = ControlLoop(task, learner, True)
    loop.max_step = 0.01
    home = torch.tensor(task.robot.home_qpos)
    here = {"qpos": home, "qvel": torch.zeros(7), "target_pos": torch.tensor([0.4, 0.1, 0.3])}
    decision = loop.begin_episode(here)
    step = decision.command.qpos[0] - home
    assert step[0].item() == pytest.approx(0.02175)  # half of 2.175 rad/s for 20 ms
    loop.resume()
    moved = here | {"qpos": home - 0.1}
    decision = loop.take_result(0.0, False, False, moved, decision.command.qpos[0])
    torch.testing.assert_close(decision.command.qpos[0], home - 0.1 + 0.01)
    decision = loop.take_result(0.0, False, False, moved, decision.command.qpos[0])
    torch.testing.assert_close(decision.command.qpos[0], home - 0.1 + 0.02)
    assert loop.excluded == "warm_up"  # 0.01 rad came of an action that stands for more
    for _ in range(6):
        decision = loop.take_result(0.0, False, False, moved | {"qpos": decision.command.qpos[0]}, decision.command.qpos[0])
    assert (loop.excluded, learner.valid[0], learner.valid[-1]) == ("", True, True)


def test_after_an_activation_the_loop_goes_on_from_the_measured_pose_and_not_from_its_old_command():
    """It decides to stay: where the robot was moved to by hand, and not as near to the old command as it may come."""
    task = tasks.make("arm_reach")
    learner = Learner(task.spec)
    learner.act = lambda obs, explore: torch.zeros(1, 1, 7)
    loop = ControlLoop(task, learner, True)
    here = {"qpos": torch.tensor(task.robot.home_qpos), "qvel": torch.zeros(7), "target_pos": torch.tensor([0.4, 0.1, 0.3])}
    decided = loop.begin_episode(here).command.qpos[0]
    moved = here | {"qpos": here["qpos"] - 0.1}
    loop.resume()
    assert torch.equal(loop.take_result(0.0, False, False, moved, decided).command.qpos[0], moved["qpos"])


def test_a_dry_run_changes_nothing_and_finds_what_no_robot_may_do(small_algorithm):
    algorithm = small_algorithm("rl2", "arm_slide")
    loop = ControlLoop(SLIDE, algorithm.adapter(1), True)
    before = algorithm.generator.get_state()
    loop.dry_run()
    assert torch.equal(algorithm.generator.get_state(), before)
    with pytest.raises(Rejected, match="no_decision"):
        loop.take_result(0.5, False, True, seen())
    loop.adapter.act = lambda obs, explore: torch.full((1, 1, 3), float("nan"))
    with pytest.raises(RejectedAction, match="not_finite"):
        loop.dry_run()


# ---- files ------------------------------------------------------------------------------------------------------------------


def test_files_for_another_robot_other_joints_or_no_robot_are_refused_by_name(tmp_path, small_algorithm):
    slide, point = tmp_path / "slide.safetensors", tmp_path / "point.safetensors"
    meta_parameters.save(slide, small_algorithm("rl2", "arm_slide"), "rl2", 0)
    meta_parameters.save(point, small_algorithm("rl2", "point_navigation"), "rl2", 0)
    arm7 = robots.load("arm7")
    assert load(str(slide), arm7).task.name == "arm_slide"
    fields = {name: getattr(arm7, name) for name in RobotSpec.__dataclass_fields__}
    with pytest.raises(ValueError, match="is for the robot 'arm7', this one is 'ur5'"):
        load(str(slide), RobotSpec(**{**fields, "name": "ur5"}))
    with pytest.raises(ValueError, match=r"is for the joints panda_joint1, .*; arm7 has elbow, panda_joint2"):
        load(str(slide), RobotSpec(**{**fields, "joint_names": ("elbow", *arm7.joint_names[1:])}))
    with pytest.raises(ValueError, match="is for the robot 'none', this one is 'arm7'"):
        load(str(point), arm7)


def test_an_oracle_never_runs_on_a_robot(tmp_path, small_algorithm):
    file = tmp_path / "oracle.safetensors"
    meta_parameters.save(file, small_algorithm("oracle", "arm_slide"), "oracle", 0)
    with pytest.raises(ValueError, match="must be told the task's parameters"):
        load(str(file), robots.load("arm7"))
