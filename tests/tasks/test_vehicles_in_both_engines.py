"""The same commands in MuJoCo and PyBullet. `benchmarks/parity.py` measures more; on ice, where wheels spin and slide, the engines part."""

import math

import torch

from metarl import tasks
from metarl.tasks.batched_env import BatchedEnv


def ends(name, rows, actions):
    """Last readings of each engine after actions (H, N, A)."""
    found = []
    for engine in ("mujoco", "pybullet"):
        task = tasks.make(name)
        task.terminated = lambda readings: torch.zeros(len(rows), dtype=torch.bool)  # wherever it goes
        env = BatchedEnv(task, len(rows), simulator=engine, num_threads=1)
        env.set_tasks(task.custom(rows) if rows[0] is not None else task.sample(len(rows), "iid"))
        env.reset()
        for action in actions:
            env.step(action.unsqueeze(1))
        env.close()
        found.append(env.readings)
    return found


def test_flight_in_wind_differs_by_less_than_two_millimetres_after_a_second():
    actions = 0.3 * torch.randn(50, 6, 4, generator=torch.Generator().manual_seed(0))
    one, other = ends("quadrotor_track", [None] * 6, actions)
    assert (one["pos"] - other["pos"]).norm(dim=-1).max() < 2e-3
    assert (one["quat"] * other["quat"]).sum(-1).abs().min() > math.cos(0.5 * 2e-3), "2 mrad"


def test_a_slalom_with_grip_differs_by_less_than_a_tenth_of_the_way():
    course = {"patch_friction": 0.4, "patch_angle": 2.9, "wind_speed": 0.0, "wave_2": 0.0, "wave_3": 0.0, "wave_4": 0.0}
    time = 0.04 * torch.arange(50)
    action = torch.stack([torch.full_like(time, -0.4), 0.32 + 0.4 * torch.sin(math.pi * time)], -1)
    one, other = ends("car_track", [{**course, "friction": mu} for mu in (0.4, 0.6, 0.9)], action.unsqueeze(1).expand(-1, 3, -1))
    driven = one["driven"][:, 0]
    assert driven.min() > 1.5
    assert ((one["car_pos"] - other["car_pos"]).norm(dim=-1) < 0.1 * driven).all()
    torch.testing.assert_close(one["driven"], other["driven"], atol=0.1, rtol=0)
