"""Forces from outside, motors on floating bodies, and what a task remembers: in both engines, against numbers computed by hand."""

import math

import mujoco
import pytest
import torch

from metarl.robots.spec import Controls
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.parameters import Param
from metarl.tasks.task import Task

MASS, INERTIA, LAG = 2.0, 0.5, 0.2
FORCE, TORQUE = (0.4, -1.2, 2.0), (0.0, 0.0, 0.3)
ENGINES = pytest.mark.parametrize("engine", ["mujoco", "pybullet"])


class Pushed(Task):
    """A body floats in empty space; its centre of mass lies beside its frame; it has a jet along its z and a spin motor with damping."""

    name = "pushed"
    params = (Param("part", "", "pushed with {:.1f} of the force", nominal=1.0, train=(0.0, 1.0)),)
    horizon, episodes_per_trial, decision_dt = 50, 2, 0.02
    observed = {"pos": 3}
    action_names = ("jet", "spin")
    reward_range = (0.0, 1.0)
    limit = math.inf

    def build(self):
        spec = mujoco.MjSpec()
        spec.option.gravity = [0, 0, 0]
        body = spec.worldbody.add_body(name="body")
        body.add_freejoint(name="body")
        body.explicitinertial, body.mass, body.ipos, body.inertia, body.simple = True, MASS, [0.1, 0, 0], [INERTIA] * 3, 0
        body.add_geom(size=[0.05, 0, 0], contype=0, conaffinity=0)
        body.add_site(name="com", pos=[0.1, 0, 0])
        for name, axis, gain, damping in (("jet", 2, 1.0, 0.0), ("spin", 5, 0.8, -0.8)):
            gear = [0.0] * 6
            gear[axis] = 1.0
            spec.add_actuator(
                name=name, target="com", trntype=mujoco.mjtTrn.mjTRN_SITE, gear=gear, gaintype=mujoco.mjtGain.mjGAIN_FIXED, gainprm=[gain] + [0] * 9,
                biastype=mujoco.mjtBias.mjBIAS_AFFINE, biasprm=[0, 0, damping] + [0] * 7, dyntype=mujoco.mjtDyn.mjDYN_FILTEREXACT, dynprm=[LAG] + [0] * 9,
            )  # fmt: skip
        for name, kind in (("pos", "FRAMEPOS"), ("quat", "FRAMEQUAT"), ("linvel", "FRAMELINVEL"), ("angvel", "FRAMEANGVEL")):
            spec.add_sensor(name=name, type=getattr(mujoco.mjtSensor, f"mjSENS_{kind}"), objtype=mujoco.mjtObj.mjOBJ_SITE, objname="com")
        return spec

    def start(self, values, rng):
        return {}

    def memory(self, values, rng):
        return {"count": torch.zeros(len(values["part"]), 1)}

    def remember(self, readings, action, next_readings, values, rng):
        assert "count" in readings, "what was remembered is a reading"
        assert "count" not in next_readings
        return {"count": readings["count"] + 1}

    def forces(self, readings, values):
        return {"body": values["part"].unsqueeze(-1) * torch.tensor([*FORCE, *TORQUE])}

    def command(self, action, readings):
        return Controls(action)

    def reward(self, readings, action, next_readings):
        return torch.zeros(len(action))

    def terminated(self, readings):
        return readings["pos"][:, 2] > self.limit

    def success(self, readings):
        return torch.zeros(len(readings["pos"]), dtype=torch.bool)


def env_of(task, engine, rows):
    env = BatchedEnv(task, len(rows), simulator=engine, num_threads=1)
    env.set_tasks(task.custom(rows))
    env.reset()
    return env


def run(env, action, decisions):
    for _ in range(decisions):
        env.step(torch.tensor(action).expand(env.num_tasks, 1, -1))
    return env.readings


@ENGINES
def test_a_free_body_under_a_constant_wrench(engine):
    """One second: F t² / 2m along the force, and turned by T t² / 2I. The centre of mass feels the force, so the body turns by the torque alone."""
    env = env_of(Pushed(), engine, [{"part": 1.0}, {"part": 0.5}, {"part": 0.0}])
    readings = run(env, [0.0, 0.0], 50)
    for row, part in enumerate((1.0, 0.5, 0.0)):
        moved = torch.tensor([0.1, 0.0, 0.0]) + part * torch.tensor(FORCE) / (2 * MASS)
        # the spin motor damps with 0.8 N·m·s/rad: the rate approaches T / 0.8 with time constant I / 0.8
        tau = INERTIA / 0.8
        rate = part * TORQUE[2] / 0.8 * (1 - math.exp(-1 / tau))
        angle = part * TORQUE[2] / 0.8 * (1 - tau * (1 - math.exp(-1 / tau)))
        torch.testing.assert_close(readings["pos"][row], moved, rtol=0.005, atol=1e-6)
        torch.testing.assert_close(readings["angvel"][row], torch.tensor([0.0, 0.0, rate]), rtol=0.005, atol=1e-6)
        assert 2 * math.atan2(readings["quat"][row, 3], readings["quat"][row, 0]) == pytest.approx(angle, rel=0.006, abs=1e-6)
    env.reset()
    assert env.readings["linvel"].abs().max() < 1e-6
    env.task.forces = lambda readings, values: {}
    assert run(env, [0.0, 0.0], 5)["linvel"].abs().max() < 1e-6, "a reset ends what pushed before"
    env.close()


@ENGINES
def test_motors_on_a_body_follow_their_commands_with_their_lag(engine):
    env = env_of(Pushed(), engine, [{"part": 0.0}])
    time, decay = 1.0, math.exp(-1.0 / LAG)
    readings = run(env, [1.0, 0.0], 50)
    # acceleration (1 - exp(-t / lag)) / m: velocity (t - lag (1 - decay)) / m
    assert readings["linvel"][0, 2] == pytest.approx((time - LAG * (1 - decay)) / MASS, rel=0.01)
    env.reset()
    spun = run(env, [0.0, 1.0], 50)["angvel"][0, 2]
    tau = INERTIA / 0.8  # rate: command 1 through two first orders, lag and tau
    expected = 1 - (tau * math.exp(-1 / tau) - LAG * decay) / (tau - LAG)
    assert spun == pytest.approx(expected, rel=0.01)
    env.close()


def test_both_engines_agree_while_it_tumbles():
    ends = []
    for engine in ("mujoco", "pybullet"):
        env = env_of(Pushed(), engine, [{"part": 1.0}])
        ends.append(run(env, [0.9, 0.6], 50))
        env.close()
    for name in ("pos", "quat", "linvel", "angvel"):
        torch.testing.assert_close(ends[0][name], ends[1][name], atol=2e-4, rtol=0)


def test_what_is_remembered_advances_once_a_decision_and_stops_with_the_episode():
    task = Pushed()
    task.limit = 0.05  # z = 2 t² / 4: reached after 0.32 s, 16 decisions
    env = env_of(task, "mujoco", [{"part": 1.0}, {"part": 0.0}])
    assert env.readings["count"].flatten().tolist() == [0, 0]
    run(env, [0.0, 0.0], 20)
    assert env.readings["count"].flatten().tolist() == [16, 20]
    env.reset()
    assert env.readings["count"].flatten().tolist() == [0, 0]
    env.close()


@ENGINES
def test_pushing_a_body_that_is_not_there_is_an_error(engine):
    task = Pushed()
    task.forces = lambda readings, values: {"bird": torch.zeros(1, 6)}
    env = env_of(task, engine, [{}])
    with pytest.raises(ValueError, match="pushed pushes 'bird': its scene has no body of that name; it has body"):
        run(env, [0.0, 0.0], 1)
    env.close()
