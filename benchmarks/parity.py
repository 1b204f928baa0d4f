"""How far MuJoCo and PyBullet are apart under the same commands, and how fast each is. Run: python benchmarks/parity.py"""

from __future__ import annotations

import time
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

ENGINES = ("mujoco", "pybullet")
GRAVITY = 9.81
SLIDE_SPEED = 0.7  # m/s


def parity(num_tasks: int = 48, num_threads: int = 1) -> dict[str, Any]:
    """Measured gaps between the engines.

    Args:
        num_tasks: held-out tasks of each distribution.
        num_threads: threads (MuJoCo) or processes (PyBullet).

    Returns:
        free_motion: largest and median gap of a joint [mrad] and of the tool [mm] in one second of arm_reach with random actions.
        slide: of a box launched over the table, median error against v² / (2 mu g) of each engine, and their gap [cm].
        strike: of one shot of arm_slide with the same random action, gap of the resting places [cm], of the joints [mrad], the largest
            speed of the object over that of the tool, and shots per second.
        flight: of a quadrotor in wind with random commands, gap of the place [mm] and of the attitude [mrad] after one second.
        slalom: of a car on roads from ice to asphalt with the same steering, gap of the place [cm] and of the heading [mrad] after three
            seconds, and the way driven [m].
        chores: of a kitchen after its cupboard was opened by the right motion and a knob turned, gap of swinging doors [mrad], of sliding ones [mm],
            of the knob [mrad] and of the hand [mm], and the part of the cupboards that are open in each engine.
    """
    return {
        "free_motion": _free_motion(num_tasks, num_threads), "slide": _slide(num_threads), "strike": _strike(num_tasks, num_threads),
        "flight": _flight(num_tasks, num_threads), "slalom": _slalom(num_tasks, num_threads), "chores": _chores(num_tasks, num_threads),
    }  # fmt: skip


def _flight(num_tasks: int, num_threads: int) -> dict[str, float]:
    rng = torch.Generator().manual_seed(0)
    actions = 0.3 * torch.randn(50, num_tasks, 1, 4, generator=rng)
    ends = _ends("quadrotor_track", actions, num_threads)
    place = 1e3 * _gap(ends["mujoco"]["pos"], ends["pybullet"]["pos"])
    turn = 1e3 * _turn(ends["mujoco"]["quat"], ends["pybullet"]["quat"])
    return {"place_mm_median": place.median().item(), "place_mm_max": place.max().item(), "attitude_mrad_max": turn.max().item()}


def _slalom(num_tasks: int, num_threads: int) -> dict[str, float]:
    time = 0.04 * torch.arange(75)
    steer = 0.5 * torch.sin(2 * torch.pi * 0.5 * time)  # of the largest angle, once to both sides in two seconds
    actions = torch.stack([torch.full_like(time, -0.2), steer], -1)[:, None, None].expand(-1, num_tasks, 1, -1)
    ends = _ends("car_track", actions, num_threads)
    place = 100 * _gap(ends["mujoco"]["car_pos"], ends["pybullet"]["car_pos"])
    turn = 1e3 * _turn(ends["mujoco"]["car_quat"], ends["pybullet"]["car_quat"])
    return {
        "place_cm_median": place.median().item(), "place_cm_p90": place.quantile(0.9).item(), "heading_mrad_median": turn.median().item(),
        "driven_m_median": ends["mujoco"]["driven"].median().item(),
    }  # fmt: skip


def _chores(num_tasks: int, num_threads: int) -> dict[str, float]:
    task = tasks.make("kitchen")
    batch = task.sample(num_tasks, "iid")
    opening, turning = batch.column("mechanism"), task.action_names.index("turn_2_left") + batch.column("sense")
    actions = one_hot(torch.as_tensor(np.stack([opening, turning])).long(), len(task.action_names)).float().unsqueeze(2)
    ends = _ends("kitchen", actions, num_threads)
    swings = torch.tensor([kind == "hinge" for kind, *_ in MECHANISMS.values()])[opening.astype(int)]
    hinge, slide = (1e3 * (ends["mujoco"]["door_qpos"] - ends["pybullet"]["door_qpos"]).abs()).unbind(-1)
    knob = 1e3 * (ends["mujoco"]["knob_turn"] - ends["pybullet"]["knob_turn"])[:, 1].abs()
    hand = 1e3 * _gap(ends["mujoco"]["tool_pos"], ends["pybullet"]["tool_pos"])
    return {
        "swinging_door_mrad_median": hinge[swings].median().item(), "sliding_door_mm_median": slide[~swings].median().item(),
        "knob_mrad_median": knob.median().item(), "knob_mrad_max": knob.max().item(), "hand_mm_max": hand.max().item(),
        **{f"{engine}_open": ends[engine]["opened"].mean().item() for engine in ENGINES},
    }  # fmt: skip


def _ends(name: str, actions: Tensor, num_threads: int) -> dict[str, Readings]:
    """Last readings of each engine after actions (H, M, 1, A), in the same held-out tasks; no episode ends before."""
    ends = {}
    for engine in ENGINES:
        task = tasks.make(name)
        task.terminated = lambda readings: torch.zeros(len(readings["last_action"]), dtype=torch.bool)  # type: ignore[method-assign]
        env = _environment(task, engine, actions.shape[1], num_threads)
        for action in actions:
            env.step(action)
        ends[engine] = env.readings
        env.close()
    return ends


def _turn(one: Tensor, other: Tensor) -> Tensor:
    """(...) rad between attitudes (..., 4)."""
    return 2 * torch.acos((one * other).sum(-1).abs().clamp(max=1.0))


def _free_motion(num_tasks: int, num_threads: int) -> dict[str, float]:
    ends = {}
    for engine in ENGINES:
        env = _environment(tasks.make("arm_reach"), engine, num_tasks, num_threads)
        generator = torch.Generator().manual_seed(0)
        path = []
        for _ in range(50):
            env.step(2 * torch.rand(num_tasks, 1, env.spec.action_size, generator=generator) - 1)
            path.append(env.readings)
        ends[engine] = {name: torch.stack([readings[name] for readings in path]) for name in ("qpos", "tool_pos")}
        env.close()
    joint, tool = (1e3 * _gap(ends["mujoco"][name], ends["pybullet"][name]).amax(0) for name in ("qpos", "tool_pos"))
    return {
        "joint_mrad_median": joint.median().item(), "joint_mrad_max": joint.max().item(),
        "tool_mm_median": tool.median().item(), "tool_mm_max": tool.max().item(),
    }  # fmt: skip


def _slide(num_threads: int) -> dict[str, float]:
    task = tasks.make("arm_slide")
    rows: list[dict[str, float | str]] = [
        {"shape": shape, "half_size": half, "friction": mu} for shape in ("box", "cylinder") for half in (0.02, 0.035) for mu in (0.06, 0.1, 0.15)
    ]
    theory = torch.tensor([SLIDE_SPEED**2 / (2 * float(row["friction"]) * GRAVITY) for row in rows])
    moved = {engine: _launched(task, engine, rows, num_threads) for engine in ENGINES}
    return {
        **{f"{engine}_error_percent": 100 * ((moved[engine] / theory) - 1).median().item() for engine in ENGINES},
        "gap_cm_median": 100 * (moved["mujoco"] - moved["pybullet"]).abs().median().item(),
        "gap_cm_max": 100 * (moved["mujoco"] - moved["pybullet"]).abs().max().item(),
    }


def _launched(task: Task, engine: str, rows: list[dict[str, float | str]], num_threads: int) -> Tensor:
    """(N,) m that objects slide by themselves."""
    batch = task.custom(rows)
    simulator = simulators.make(engine, task, len(rows), num_threads)
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
    simulator.advance(start["qpos"], round(3.0 / task.physics_dt), None)
    after = simulator.read()
    simulator.close()
    return _gap(before["object_pos"][:, :2], after["object_pos"][:, :2])


def _strike(num_tasks: int, num_threads: int) -> dict[str, float]:
    ends: dict[str, Readings] = {}
    result = {}
    for engine in ENGINES:
        env = _environment(tasks.make("arm_slide"), engine, num_tasks, num_threads)
        action = 2 * torch.rand(num_tasks, 1, env.spec.action_size, generator=torch.Generator().manual_seed(1)) - 1
        began = time.perf_counter()
        env.step(action)
        result[f"{engine}_shots_per_second"] = num_tasks / (time.perf_counter() - began)
        ends[engine] = env.readings
        result[f"{engine}_speed_ratio_median"] = _speed_ratio(env, action).median().item()
        env.close()
    gap = 100 * _gap(ends["mujoco"]["object_pos"][:, :2], ends["pybullet"]["object_pos"][:, :2])
    return {
        "gap_cm_median": gap.median().item(), "gap_cm_p90": gap.quantile(0.9).item(),
        "joint_mrad_max": 1e3 * (ends["mujoco"]["qpos"] - ends["pybullet"]["qpos"]).abs().max().item(), **result,
    }  # fmt: skip


def _speed_ratio(env: BatchedEnv, action: Tensor) -> Tensor:
    """(N,) largest speed of the object over that of the tool: 1 where the impact does not bounce."""
    fastest = torch.zeros(2, env.num_sims)

    def watch(simulator: Any) -> None:
        readings = simulator.read()
        speeds = torch.stack([readings[name].norm(dim=-1) for name in ("tool_linvel", "object_linvel")])
        torch.maximum(fastest, speeds, out=fastest)

    simulator = env.simulator
    assert isinstance(simulator, RobotSimulator)
    env.reset()
    follow = simulator.follow

    def followed(targets: Tensor, active: Tensor | None) -> None:
        for s in range(targets.shape[1]):
            follow(targets[:, s : s + 1], active)
            watch(simulator)

    simulator.follow = followed  # type: ignore[method-assign]
    env.step(action)
    return fastest[1] / fastest[0]


def _environment(task: Task, engine: str, num_tasks: int, num_threads: int) -> BatchedEnv:
    env = BatchedEnv(task, num_tasks, simulator=engine, num_threads=num_threads, seed=0)
    env.set_tasks(task.sample(num_tasks, "iid"))
    env.reset()
    return env


def _gap(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).norm(dim=-1)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    for case, figures in parity().items():
        print(case)
        for name, value in figures.items():
            print(f"  {name:28s} {value:10.4g}")


if __name__ == "__main__":
    main()
