"""How far MuJoCo and PyBullet are apart under the same commands, in one task of each robot and kind that runs in both.

python benchmarks/parity.py             # a few minutes on one core; writes docs/parity.md
python benchmarks/parity.py --tasks 8   # a quick look, which writes nothing
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from metarl import tasks
from metarl.tasks import Task, simulators
from metarl.tasks.appliances import MECHANISMS
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.simulators.mujoco import MujocoSimulator
from metarl.tasks.simulators.simulator import RobotSimulator
from metarl.tasks.task import Readings

DOCUMENT = Path(__file__).parents[1] / "docs" / "parity.md"
ENGINES = ("mujoco", "pybullet")
NUM_TASKS = 48  # held-out tasks of each distribution
GRAVITY = 9.81
SLIDE_SPEED = 0.7  # m/s


@dataclass(frozen=True)
class Gap:
    """How far the engines are apart in something.

    Attributes:
        of: what is compared.
        unit: of the values.
        values: (N,) in each task.
        at_most: what the largest may be; None where contact decides, which is reported and promised nowhere.
    """

    of: str
    unit: str
    values: Tensor
    at_most: float | None = None

    @property
    def kept(self) -> bool:
        """Nothing is farther apart than it may be."""
        return self.at_most is None or self.values.max().item() <= self.at_most


@dataclass(frozen=True)
class Each:
    """What comes out in each engine by itself, a mean or median over the tasks."""

    of: str
    mujoco: float
    pybullet: float


Found = tuple[list[Gap], list[Each]]


@dataclass(frozen=True)
class Case:
    """A task, what the robot does in it, and what is measured: a function of the task's name and of how many tasks there are."""

    task: str
    does: str
    measure: Callable[[str, int], Found]


# ---- what is free of contact --------------------------------------------------------------------------------------------------


def free_motion(name: str, num: int) -> Found:
    """One second of random actions, none of which meets anything; the largest gaps on the way."""
    task = tasks.make(name)
    rng = torch.Generator().manual_seed(0)
    paths = played(name, 2 * torch.rand(50, num, 1, len(task.action_names), generator=rng) - 1)
    joint = torch.stack([(one["qpos"] - other["qpos"]).abs().amax(-1) for one, other in paths]).amax(0)
    tool = torch.stack([_apart(one, other, "tool_pos") for one, other in paths]).amax(0)
    return [Gap("joints", "mrad", 1e3 * joint, 0.05), Gap("tool", "mm", 1e3 * tool, 0.05)], []


def flight(name: str, num: int) -> Found:
    """A second in wind with random commands."""
    one, other = played(name, 0.3 * torch.randn(50, num, 1, 4, generator=torch.Generator().manual_seed(0)))[-1]
    return [Gap("place", "mm", 1e3 * _apart(one, other, "pos"), 2.0), Gap("attitude", "mrad", 1e3 * _turn(one["quat"], other["quat"]), 2.0)], []


# ---- wheels -------------------------------------------------------------------------------------------------------------------


def slalom(name: str, num: int) -> Found:
    """Three seconds on roads from ice to asphalt with the same steering."""
    time = 0.04 * torch.arange(75)
    steer = 0.5 * torch.sin(2 * torch.pi * 0.5 * time)  # of the largest angle, once to both sides in two seconds
    return _driven(name, torch.stack([torch.full_like(time, -0.2), steer], -1)[:, None, None].expand(-1, num, 1, -1))


def between_posts(name: str, num: int) -> Found:
    """Three seconds of the expert's driving."""
    return _driven(name, experts(name, num, 75))


def _driven(name: str, actions: Tensor) -> Found:
    one, other = played(name, actions)[-1]
    gaps = [Gap("place", "cm", 100 * _apart(one, other, "car_pos")), Gap("heading", "mrad", 1e3 * _turn(one["car_quat"], other["car_quat"]))]
    return gaps, [Each("metres driven", *(end["driven"].median().item() for end in (one, other)))]


# ---- objects ------------------------------------------------------------------------------------------------------------------


def slide(name: str, num: int) -> Found:
    """Boxes and cylinders launched over the table, against v² / (2 friction g); `num` of them at most."""
    rows: list[dict[str, float | str]] = [
        {"shape": shape, "half_size": half, "friction": mu} for shape in ("box", "cylinder") for half in (0.02, 0.035) for mu in (0.06, 0.1, 0.15)
    ][:num]  # fmt: skip
    theory = torch.tensor([SLIDE_SPEED**2 / (2 * float(row["friction"]) * GRAVITY) for row in rows])
    moved = [_launched(tasks.make(name), engine, rows) for engine in ENGINES]
    return [Gap("way", "cm", 100 * (moved[0] - moved[1]).abs())], [Each("way, % above theory", *(100 * (way / theory - 1).median().item() for way in moved))]


def _launched(task: Task, engine: str, rows: list[dict[str, float | str]]) -> Tensor:
    """(N,) m that objects slide by themselves."""
    batch = task.custom(rows)
    simulator = simulators.make(engine, task, len(rows), 1)
    assert isinstance(simulator, RobotSimulator)
    simulator.set_tasks(batch.named())
    values = {name: torch.as_tensor(v, dtype=torch.float32) for name, v in batch.named().items()}
    start = task.start(values, torch.Generator().manual_seed(0))
    before = simulator.reset(start, {})
    linvel = np.tile([0.0, SLIDE_SPEED, 0.0], (len(rows), 1))
    if isinstance(simulator, MujocoSimulator):
        dof = simulator.model.joint("object").dofadr[0]
        simulator.batch.bind("qvel")[:, dof : dof + 3] = linvel
    else:
        simulator.launch("object", linvel)  # type: ignore[attr-defined]
    simulator.advance(simulator.ctrl_of(start["qpos"]), round(3.0 / task.physics_dt), None)
    after = simulator.read()
    simulator.close()
    return (before["object_pos"] - after["object_pos"])[:, :2].norm(dim=-1)


def strike(name: str, num: int) -> Found:
    """One shot with the same random action; who bounces has an object that is quicker than the tool ever was."""
    action = 2 * torch.rand(num, 1, 3, generator=torch.Generator().manual_seed(1)) - 1
    ends, ratios = [], []
    for engine in ENGINES:
        env = environment(tasks.make(name), engine, num)
        fastest = _watched(env)
        env.step(action)
        ends.append(env.readings)
        ratios.append((fastest[1] / fastest[0]).median().item())
        env.close()
    return _object_gaps(*ends, joints_at_most=5.0), [Each("speed of the object over the tool's", *ratios)]


def _watched(env: BatchedEnv) -> Tensor:
    """(2, N) m/s, largest speeds of the tool and of the object, which grow while motions are carried out."""
    fastest, simulator = torch.zeros(2, env.num_sims), env.simulator
    assert isinstance(simulator, RobotSimulator)
    follow = simulator.follow

    def followed(targets: Tensor, active: Tensor | None) -> None:
        for s in range(targets.shape[1]):
            follow(targets[:, s : s + 1], active)
            readings = simulator.read()
            speeds = torch.stack([readings[thing].norm(dim=-1) for thing in ("tool_linvel", "object_linvel")])
            torch.maximum(fastest, speeds, out=fastest)

    simulator.follow = followed  # type: ignore[method-assign]
    return fastest


def push(name: str, num: int) -> Found:
    """An episode of the expert's pushing."""
    return _handled(name, num, 5.0, "median miss of the target, cm", lambda task, end: 100 * task.error(end).median())


def lift(name: str, num: int) -> Found:
    """The expert's grasp, lift and place; an object that is lost in one engine alone leaves the hands in different places."""
    return _handled(name, num, None, "part of the objects that are put down in their place", lambda task, end: task.success(end).float().mean())


def _handled(name: str, num: int, joints_at_most: float | None, of: str, outcome: Callable[[Task, Readings], Tensor]) -> Found:
    task = tasks.make(name)
    ends = played(name, experts(name, num, task.horizon))[-1]
    return _object_gaps(*ends, joints_at_most=joints_at_most), [Each(of, *(outcome(task, end).item() for end in ends))]


def _object_gaps(one: Readings, other: Readings, joints_at_most: float | None) -> list[Gap]:
    place, joint = (one["object_pos"] - other["object_pos"])[:, :2].norm(dim=-1), (one["qpos"] - other["qpos"]).abs().amax(-1)
    return [Gap("object", "cm", 100 * place), Gap("joints", "mrad", 1e3 * joint, joints_at_most)]


def chores(name: str, num: int) -> Found:
    """The cupboard is opened by the right motion, and a knob turned."""
    task = tasks.make(name)
    batch = task.sample(num, "iid")
    opening, turning = batch.column("mechanism"), task.action_names.index("turn_2_left") + batch.column("sense")
    one, other = played(name, one_hot(torch.as_tensor(np.stack([opening, turning])).long(), len(task.action_names)).float().unsqueeze(2))[-1]
    swings = torch.tensor([kind == "hinge" for kind, *_ in MECHANISMS.values()])[opening.astype(int)]
    hinge, slide = (one["door_qpos"] - other["door_qpos"]).abs().unbind(-1)
    gaps = [
        Gap("swinging door", "mrad", 1e3 * hinge[swings]), Gap("sliding door", "mm", 1e3 * slide[~swings]),
        Gap("knob", "mrad", 1e3 * (one["knob_turn"] - other["knob_turn"])[:, 1].abs()), Gap("hand", "mm", 1e3 * _apart(one, other, "tool_pos"), 0.1),
    ]  # fmt: skip
    gaps = [gap for gap in gaps if len(gap.values)]  # of a few tasks none may swing, or none slide
    return gaps, [Each("part of the cupboards that are open", *(end["opened"].mean().item() for end in (one, other)))]


# ---- how it is done -----------------------------------------------------------------------------------------------------------


def environment(task: Task, engine: str, num: int) -> BatchedEnv:
    """Held-out tasks, at the beginning of an episode that does not end before its time."""
    task.terminated = lambda readings: torch.zeros(len(readings["last_action"]), dtype=torch.bool)  # type: ignore[method-assign]
    env = BatchedEnv(task, num, simulator=engine, num_threads=1, seed=0)
    env.set_tasks(task.sample(num, "iid"))
    env.reset()
    return env


def played(name: str, actions: Tensor) -> list[tuple[Readings, Readings]]:
    """Readings of both engines after each of some actions (H, M, 1, A), in the same tasks and from the same starts."""
    paths: list[list[Readings]] = []
    for engine in ENGINES:
        env, path = environment(tasks.make(name), engine, actions.shape[1]), []
        for action in actions:
            env.step(action)
            path.append(env.readings)
        env.close()
        paths.append(path)
    return list(zip(*paths, strict=True))


def experts(name: str, num: int, decisions: int) -> Tensor:
    """(H, M, 1, A) what the expert, who is told the tasks, does in MuJoCo: PyBullet is given the same, whatever comes of it."""
    env, actions = environment(tasks.make(name), "mujoco", num), []
    for _ in range(decisions):
        actions.append(env.task.expert(env.sensed, env.values).unsqueeze(1))
        env.step(actions[-1])
    env.close()
    return torch.stack(actions)


def _apart(one: Readings, other: Readings, name: str) -> Tensor:
    """(N,) m between two places."""
    return (one[name] - other[name]).norm(dim=-1)


def _turn(one: Tensor, other: Tensor) -> Tensor:
    """(...) rad between attitudes (..., 4), wxyz; exact for small ones too, where the arc cosine of a float32 is not."""
    sign = torch.where((one * other).sum(-1, keepdim=True) < 0, -1.0, 1.0)  # a quaternion and its negative are the same
    return 4 * torch.asin((0.5 * (one - sign * other).norm(dim=-1)).clamp(max=1.0))


CASES = (
    *(Case(name, "a second of random actions in the air", free_motion) for name in ("arm_reach", "arm_reach_ur5e", "arm_reach_jaco")),
    Case("quadrotor_track", "a second of random commands in wind", flight),
    Case("car_track", "three seconds of slalom, from ice to asphalt", slalom),
    Case("car_track_obstacles", "three seconds of the expert's driving", between_posts),
    Case("arm_slide", "an object launched over the table at 0.7 m/s", slide),
    *(Case(name, "a strike with a random action", strike) for name in ("arm_slide", "arm_slide_jaco")),
    Case("arm_push", "an episode of the expert's actions", push),
    Case("arm_lift_place", "an attempt of the expert's", lift),
    *(Case(name, "the cupboard opened, a knob turned", chores) for name in ("kitchen", "kitchen_handles")),
)


# ---- what is written ----------------------------------------------------------------------------------------------------------


def gap_row(case: Case, gap: Gap) -> str:
    """One line of the first table."""
    numbers = (gap.values.median(), gap.values.quantile(0.9), gap.values.max())
    said = [f"{np.format_float_positional(n.item(), precision=2, fractional=False, trim='-')} {gap.unit}" for n in numbers]
    promised = "" if gap.at_most is None else f"{gap.at_most:g} {gap.unit}: {'kept' if gap.kept else 'broken'}"
    return f"| {case.task} | {case.does} | {gap.of} | {' | '.join(said)} | {promised} |"


def document(found: list[tuple[Case, Found]], num: int) -> str:
    """The whole of docs/parity.md."""
    gaps = [gap_row(case, gap) for case, (gaps, _) in found for gap in gaps]
    each = [f"| {case.task} | {case.does} | {e.of} | {e.mujoco:.3g} | {e.pybullet:.3g} |" for case, (_, eachs) in found for e in eachs]
    return "\n".join([HEAD.format(num=num), *gaps, "", BY_ITSELF, *each, ""])


HEAD = """# MuJoCo and PyBullet under the same commands

Made by `python benchmarks/parity.py`: the same robot, the same actions and the same {num} held-out tasks in both engines (12 objects where one is launched),
without feedback between the engines. PyBullet loads the URDF that is generated from MuJoCo's model.

In the air both engines solve the same equations, and what they may differ by is promised; so is where the arm is that strikes, pushes and opens doors.
What it meets is another matter: MuJoCo's contact is soft and PyBullet's hard, so that an impact is passed on otherwise, a wheel or an object that slides
goes on sliding elsewhere, and small gaps grow, the more so under actions that do not look where the object or the car is. This is reported
and promised nowhere; it is what a second opinion is for. Medians are what to expect. The largest gaps are single tasks, where an object was missed or
lost, or a post met, in one engine alone.

## Gaps

| task | what both do | gap of | median | 9 of 10 below | largest | may be at most |
|---|---|---|---|---|---|---|"""
BY_ITSELF = """## What comes out in each

| task | what both do | what | MuJoCo | PyBullet |
|---|---|---|---|---|"""


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description="How far MuJoCo and PyBullet are apart.")
    parser.add_argument(
        "--tasks", type=int, default=NUM_TASKS, metavar="N", help="how many held-out tasks of each; the document is written of the usual number alone"
    )
    num = parser.parse_args().tasks
    torch.set_num_threads(1)
    found: list[tuple[Case, Any]] = []
    for case in CASES:
        found.append((case, case.measure(case.task, num)))
        print("\n".join(gap_row(case, gap) for gap in found[-1][1][0]), flush=True)
    text = document(found, num)
    print(text[text.index(BY_ITSELF) :])
    if num == NUM_TASKS:
        DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
