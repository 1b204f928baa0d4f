"""Task: all that a task file must say.

Observation and reward are pure functions of Readings, the named measurements that MuJoCo, PyBullet, an analytic model and a real
robot all fill. Nothing of a task is ever written a second time for deployment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from metarl import robots
from metarl.robots.spec import ArmSpec, Controls, JointTrajectory, RobotSpec, Vec
from metarl.tasks import parameters
from metarl.tasks.parameters import Param, TaskBatch
from metarl.tasks.sensing import Lidar

if TYPE_CHECKING:
    import mujoco
    import mujoco.batch

Readings = dict[str, Tensor]
"""Sensor name -> (..., n) float32, SI units, base frame, quaternions wxyz: what can be measured.

Besides the sensors of the model there are `last_action` (..., A), the previous action of the episode or zeros, `command_qpos`
(..., J), the joint pose that was last commanded, or `command_ctrl` (..., U) where motors are driven, and what `Task.goals` gives.
"""
Values = dict[str, Tensor]
"""Parameter name -> (N,) float32: the true task of each of N simulations."""


@dataclass(frozen=True)
class EnvSpec:
    """What meta-parameters fit: saved with them, and compared by name before they are used.

    Attributes:
        task, task_version: the task distribution.
        robot, joint_names: the body, or "" and () for a task without one.
        obs_names, obs_sizes: the parts of the observation in their order.
        action_names: A actions, each in [-1, 1]; or, where `discrete`, A choices, of which an action is a one-hot row.
        horizon: H, decisions of an episode.
        episodes_per_trial: K.
        control_dt: s between two decisions.
        discrete: whether an action is a choice: the environment takes the one with the largest entry.
    """

    task: str
    task_version: int
    robot: str
    joint_names: tuple[str, ...]
    obs_names: tuple[str, ...]
    obs_sizes: tuple[int, ...]
    action_names: tuple[str, ...]
    horizon: int
    episodes_per_trial: int
    control_dt: float
    discrete: bool = False  # with a default, so that files from before there were discrete actions can be read

    @property
    def obs_size(self) -> int:
        """O."""
        return sum(self.obs_sizes)

    @property
    def action_size(self) -> int:
        """A."""
        return len(self.action_names)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> EnvSpec:
        """The EnvSpec that `to_dict` wrote, also after JSON turned its tuples into lists."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return EnvSpec(**plain)

    def differences(self, other: EnvSpec) -> list[str]:
        """One line for each field in which `self` (found) differs from `other` (expected)."""
        mine, theirs = self.to_dict(), other.to_dict()
        return [f"{k}: found {mine[k]!r}, expected {theirs[k]!r}" for k in mine if mine[k] != theirs[k]]


class Task(ABC):
    """A distribution of tasks: a body, what differs, what is sensed, what is asked.

    A task is either simulated (`build`, `apply`, `start`, `command`) or analytic (`start`, `dynamics`). N is any number of simulations.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1  # raised whenever a value that the task's results depend on changes
    arguments: ClassVar[Mapping[str, tuple[int, int]]] = {}  # numbers that stand in the name, as letter -> least and largest; see `variant`
    published: ClassVar[Mapping[str, tuple[tuple[float, ...], ...]]] = {}  # split -> all its tasks, where a publication drew them once and for all
    robot_name: ClassVar[str] = ""
    params: ClassVar[tuple[Param, ...]] = ()
    simulators: ClassVar[tuple[str, ...]] = ("mujoco", "pybullet")
    horizon: ClassVar[int]
    episodes_per_trial: ClassVar[int]
    decision_dt: ClassVar[float]  # s that one decision lasts
    observed: ClassVar[Mapping[str, int]]  # parts of the observation and their sizes; by default readings of that name
    sensed: ClassVar[Mapping[str, int]] = {}  # sizes of further readings that `observation` or `command` wants, where they are no body's pose or velocity
    lidar: ClassVar[Lidar | None] = None  # behind the reading of that name
    action_names: ClassVar[tuple[str, ...]]
    discrete: ClassVar[bool] = False  # an action is a choice between `action_names`
    reward_range: ClassVar[tuple[float, float]]
    error_unit: ClassVar[str] = "m"  # of `error`
    goal_box: ClassVar[tuple[Vec, Vec] | None] = None  # m, corners of where the goal `target_pos` of an episode may be put; None where a task sets it
    physics_dt: ClassVar[float] = 0.004  # s
    warm_up: ClassVar[float] = 0.0  # s of physics between the start and the first observation
    rests: ClassVar[bool] = False  # everything is at rest between commands: for a robot that is told to stay where it is no physics is run
    settle_time: ClassVar[float] = 0.0  # s, longest wait after a decision's motion, until `at_rest`
    data_fields: ClassVar[tuple[str, ...]] = ()  # of MuJoCo's data, readings of these names as well (N, n); for tasks that run in MuJoCo alone

    # ---- the distribution -------------------------------------------------------------------------------------------------

    @classmethod
    def variant(cls, **numbers: int) -> dict[str, Any]:
        """The class attributes that are different where other numbers stand in the name, by name."""
        raise NotImplementedError(f"{cls.name} has no numbers in its name")

    def sample(self, num_tasks: int, split: str = "train", seed: int = 0, start: int = 0) -> TaskBatch:
        """Tasks start ... start + num_tasks - 1 of a split.

        Raises:
            ValueError: the split is unknown, it is a published set of tasks that has fewer, or `num_tasks` is negative.
        """
        if num_tasks < 0:
            raise ValueError(f"num_tasks is {num_tasks}, expected at least 0")
        indices = range(start, start + num_tasks)
        if self.published:
            return parameters.listed(self.name, self.version, self.params, self.published, indices, split)
        return parameters.sample(self.name, self.version, self.params, indices, split, seed)

    def practice(self, num_tasks: int, seed: int, iteration: int, pool: int = 0) -> TaskBatch:
        """What a training iteration is about: new tasks each time, or those of a published set, over and over.

        Args:
            num_tasks: M.
            seed: of the tasks.
            iteration: of the training.
            pool: where it is not 0, so many tasks are all that there are: the training comes back to them.
        """
        start = iteration * num_tasks
        if self.published:
            size = len(self.published["train"])
            return self.sample(size)[[i % size for i in range(start, start + num_tasks)]]
        if not pool:
            return self.sample(num_tasks, "train", seed, start)
        return self.sample(pool, "train", seed)[[i % pool for i in range(start, start + num_tasks)]]

    def custom(self, rows: Iterable[Mapping[str, float | str]]) -> TaskBatch:
        """Tasks with values given by hand; parameters not named take their nominal value."""
        return parameters.custom(self.name, self.version, self.params, rows)

    def from_json(self, text: str) -> TaskBatch:
        """The tasks that `TaskBatch.to_json` wrote."""
        return parameters.from_json(text, self.name, self.params)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that it has tasks in."""
        return tuple(self.published) or parameters.splits(self.params)

    @property
    def robot(self) -> RobotSpec:
        """The body."""
        return robots.load(self.robot_name)

    @property
    def arm(self) -> ArmSpec:
        """The body, where it is an arm that follows joint trajectories."""
        return robots.load_arm(self.robot_name)

    @property
    def spec(self) -> EnvSpec:
        """What meta-parameters for this task must fit."""
        joints = self.robot.joint_names if self.robot_name else ()
        sizes = tuple(self.observed.values())
        return EnvSpec(
            self.name, self.version, self.robot_name, joints, tuple(self.observed), sizes,
            self.action_names, self.horizon, self.episodes_per_trial, self.decision_dt, self.discrete,
        )  # fmt: skip

    # ---- the world, simulated ---------------------------------------------------------------------------------------------

    def build(self) -> mujoco.MjSpec:
        """The scene, once, for every consumer. Sensors named `reading` or `reading/part` make up the Readings."""
        raise NotImplementedError(f"{self.name} has no simulated scene")

    def solver(self, option: mujoco.MjOption) -> None:
        """Set how the physics is solved. Tasks whose results others published override this, to keep what their model says."""
        import mujoco

        option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
        option.impratio = 10.0  # friction that holds as long as it should

    def apply(self, batch: mujoco.batch.Batch, values: Mapping[str, Any]) -> None:
        """Write the parameters (name -> (N,) float64 array) into the per-simulation fields of the model.

        Always from the nominal model `batch.model`, so that applying twice equals applying once.
        """

    @abstractmethod
    def start(self, values: Values, rng: torch.Generator) -> Readings:
        """Where an episode of N simulations begins.

        An analytic task gives its whole state as readings. A simulated one gives what differs from rest in the model's own pose:
        `qpos` (N, J) and `qvel` (N, J) of the robot's joints, or of all joints of the model where the robot has none; the name of a
        joint or of a free body -> (N, 1) position or (N, 7) position and quaternion wxyz, and `qvel/NAME` -> its velocity (N, 1) or
        (N, 6), linear in the world and angular in the body's own frame; `ctrl` (N, U), which the motors get until the first command.
        """

    def goals(self, values: Values, rng: torch.Generator) -> Readings:
        """What an episode asks for, as readings that stay constant through it, e.g. `target_pos` (N, 3).

        A mocap body of the scene named like the reading without `_pos` is put there, for pictures.
        """
        return {}

    def memory(self, values: Values, rng: torch.Generator) -> Readings:
        """What changes through an episode besides the physics (gusts, wear, heat, where a moving target is), as readings, at its beginning.

        What is called like a mocap body of the scene, with `_pos` behind it, is shown there in pictures.
        """
        return {}

    def remember(self, readings: Readings, action: Tensor, next_readings: Readings, values: Values, rng: torch.Generator) -> Readings:
        """The same after a decision.

        Args:
            readings: before it, what `memory` or this function gave last included.
            action: (N, A) that was taken.
            next_readings: what is measured after it, and the goals.
            values: the true tasks.
            rng: for what chance decides, drawn for all N at once.
        """
        return {}

    def forces(self, readings: Readings, values: Values) -> Readings:
        """What pushes bodies besides their motors and contacts (the wind) during the next decision, from true readings.

        Returns:
            Name of a body -> (N, 6) force in N and torque in N·m at its centre of mass, in the world's frame; held until the next decision.
        """
        return {}

    def dynamics(self, readings: Readings, action: Tensor, values: Values, rng: torch.Generator) -> Readings:
        """Next state of an analytic task; a pure function but for what chance decides, which is drawn from `rng` for all N at once."""
        raise NotImplementedError(f"{self.name} has no `dynamics`")

    def sense(self, readings: Readings, values: Values) -> Readings:
        """What the robot's imperfect sensors make of the true readings. In simulation only: on a robot the world does it."""
        return readings

    def command_delay(self, values: Values) -> Tensor | None:
        """(N,) s by which commands reach the motors late, or None."""
        return None

    # ---- what is asked: the same functions in every simulator and on the robot ----------------------------------------------

    def observation(self, readings: Readings) -> Tensor:
        """(..., O) from what is sensed; by default the readings named in `observed`, one after another."""
        try:
            return torch.cat([readings[name] for name in self.observed], -1)
        except KeyError as missing:
            raise ValueError(f"{self.name} observes {missing}: there is no reading of that name, but {', '.join(readings)}") from None

    def command(self, action: Tensor, readings: Readings) -> JointTrajectory | Controls | Tensor:
        """The motion that an action (..., A) in [-1, 1] stands for, planned from what is sensed; an analytic task takes the action itself."""
        return action

    def action_of(self, executed: Tensor, readings: Readings) -> Tensor | None:
        """The action (..., A) that would have led to the set-point (..., J) or motor command (..., U) `executed` from the same readings, where a robot
        executed another one than it was commanded; None where the task cannot say. Whoever asks looks whether `command` agrees.
        """
        return None

    def told_by(self, command: JointTrajectory | Controls) -> Tensor:
        """(N, A) the action behind a command, as far as `sense` and `remember` need it and the command shows it; 0 where it does not.

        For whoever hears commands alone, as a simulated robot behind ROS does.
        """
        some = command.ctrl if isinstance(command, Controls) else command.qpos
        return some.new_zeros(len(some), len(self.action_names))

    @abstractmethod
    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        """(...) from true readings before and after the action, inside `reward_range`."""

    def training_reward(self, readings: Readings) -> Tensor:
        """(...) what a learner may be told in simulation in place of `reward`, from true readings after a decision.

        Either a publication did so, or it has the same expectation up to a constant, and less of chance in it. It is never what is judged, nor what an
        adapter sees. Told it are PPO over trials, the outer steps after policy gradients, and the critics of PEARL and AMAGO. MetaGenRL is not: its agents
        learn in training as they will on a robot, by critics who know the reward alone.
        """
        raise NotImplementedError(f"{self.name} tells nothing but its reward")

    @property
    def has_training_reward(self) -> bool:
        """Whether the task tells training something else than its reward."""
        return type(self).training_reward is not Task.training_reward

    def terminated(self, readings: Readings) -> Tensor:
        """(...) bool: the episode ended by itself. Time is `truncated`, and BatchedEnv's business."""
        some = next(iter(readings.values()))
        return torch.zeros(some.shape[:-1], dtype=torch.bool, device=some.device)

    @property
    def has_end(self) -> bool:
        """Whether an episode may end by itself."""
        return type(self).terminated is not Task.terminated

    @abstractmethod
    def success(self, readings: Readings) -> Tensor:
        """(...) bool: what was asked is done, at these true readings."""

    def error(self, readings: Readings) -> Tensor:
        """(...) how far from done, in `error_unit`."""
        raise NotImplementedError(f"{self.name} has no error in a unit")

    @property
    def has_error(self) -> bool:
        """Whether the task says how far from done it is."""
        return type(self).error is not Task.error

    def at_rest(self, readings: Readings) -> Tensor:
        """(...) bool: nothing moves any more, so the wait of `settle_time` may end."""
        some = next(iter(readings.values()))
        return torch.ones(some.shape[:-1], dtype=torch.bool, device=some.device)

    # ---- one who knows how --------------------------------------------------------------------------------------------------

    def expert(self, readings: Readings, told: Values) -> Tensor:
        """(N, A) actions of one who knows how it is done, by what is sensed and by what it is told, rightly or wrongly, of the tasks.

        A reference, which shows that the task can be done and what knowing its parameters is worth. It may read in simulation what no robot senses.
        """
        raise NotImplementedError(f"{self.name} has no expert")

    @property
    def has_expert(self) -> bool:
        """Whether someone knows how it is done."""
        return type(self).expert is not Task.expert
