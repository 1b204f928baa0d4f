"""Bodies driven by motors, in both engines: where they begin, what their motors get, and when."""

import mujoco
import numpy as np
import pytest
import torch

from metarl.robots.spec import Controls
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.parameters import Param
from metarl.tasks.task import Task

ENGINES = ("mujoco", "pybullet")
every_engine = pytest.mark.parametrize("engine", ENGINES)
DT = 0.002


class Pusher(Task):
    """A sledge of 2 kg on a rail, pushed by a motor of 3 N, a pendulum beside it and a ball that floats, all without gravity."""

    name = "pusher"
    params = (Param("late", "s", "{:.2f} s late", nominal=0.0, train=(0.0, 0.1)),)
    horizon = 10
    episodes_per_trial = 2
    decision_dt = 0.02
    physics_dt = DT
    observed = {"sledge": 1}
    action_names = ("push",)
    reward_range = (-1.0, 1.0)
    placed: dict[str, list[float]] = {}

    def build(self):
        spec = mujoco.MjSpec()
        spec.option.gravity = [0, 0, 0]
        sledge = spec.worldbody.add_body(name="sledge_body")
        sledge.add_joint(name="rail", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[1, 0, 0])
        sledge.add_geom(size=[0.1, 0, 0], mass=2.0, contype=0, conaffinity=0)
        arm = spec.worldbody.add_body(name="pendulum", pos=[0, 2, 0])
        arm.add_joint(name="pivot", type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 0, 1])
        arm.add_geom(size=[0.1, 0, 0], pos=[0.5, 0, 0], mass=1.0, contype=0, conaffinity=0)
        ball = spec.worldbody.add_body(name="ball", pos=[0, 0, 3])
        ball.add_joint(name="ball", type=mujoco.mjtJoint.mjJNT_FREE)
        ball.add_geom(size=[0.1, 0, 0], pos=[0, 0.2, 0], mass=1.0, contype=0, conaffinity=0)
        spec.add_actuator(name="motor", target="rail", trntype=mujoco.mjtTrn.mjTRN_JOINT, gear=[3, 0, 0, 0, 0, 0])
        kinds, joint, body = mujoco.mjtSensor, mujoco.mjtObj.mjOBJ_JOINT, mujoco.mjtObj.mjOBJ_XBODY
        for name, kind, of, target in (
            ("sledge", kinds.mjSENS_JOINTPOS, joint, "rail"), ("sledge_vel", kinds.mjSENS_JOINTVEL, joint, "rail"),
            ("angle", kinds.mjSENS_JOINTPOS, joint, "pivot"), ("angle_vel", kinds.mjSENS_JOINTVEL, joint, "pivot"),
            ("ball_pos", kinds.mjSENS_FRAMEPOS, body, "ball"), ("ball_quat", kinds.mjSENS_FRAMEQUAT, body, "ball"),
            ("ball_linvel", kinds.mjSENS_FRAMELINVEL, body, "ball"), ("ball_angvel", kinds.mjSENS_FRAMEANGVEL, body, "ball"),
        ):  # fmt: skip
            spec.add_sensor(name=name, type=kind, objtype=of, objname=target)
        return spec

    def start(self, values, rng):
        num = len(values["late"])
        return {name: torch.tensor(value).expand(num, -1) for name, value in self.placed.items()}

    def command_delay(self, values):
        return values["late"]

    def command(self, action, readings):
        return Controls(action)

    def reward(self, readings, action, next_readings):
        return 0.0 * action[..., 0]

    def success(self, readings):
        return readings["sledge"][..., 0] > 1.0


def environment(engine, placed, rows=({},)):
    task = Pusher()
    task.placed = placed
    env = BatchedEnv(task, len(rows), simulator=engine, num_threads=1)
    env.set_tasks(task.custom(rows))
    env.reset()
    return env


@every_engine
def test_joints_and_free_bodies_begin_where_they_are_placed_and_as_fast_as_told(engine):
    turned = [np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)]  # a quarter turn about z
    placed = {
        "rail": [0.4], "qvel/rail": [1.5], "qvel/pivot": [-2.0],
        "ball": [1.0, 2.0, 3.0, *turned], "qvel/ball": [0.1, 0.2, 0.3, 2.0, 0.0, 0.0],
    }  # fmt: skip
    env = environment(engine, placed)
    now = {name: value[0].tolist() for name, value in env.readings.items()}
    assert now["sledge"] == pytest.approx([0.4])
    assert now["sledge_vel"] == pytest.approx([1.5])
    assert (now["angle"], now["angle_vel"]) == (pytest.approx([0.0]), pytest.approx([-2.0]))
    assert now["ball_pos"] == pytest.approx([1.0, 2.0, 3.0], abs=1e-6)
    assert now["ball_quat"] == pytest.approx(turned, abs=1e-6)
    assert now["ball_linvel"] == pytest.approx([0.1, 0.2, 0.3], abs=1e-5)
    assert now["ball_angvel"] == pytest.approx([0.0, 2.0, 0.0], abs=1e-5)  # about its own x, which is the world's y
    env.step(torch.zeros(1, 1, 1))
    assert env.readings["sledge"].item() == pytest.approx(0.4 + 1.5 * 0.02, abs=1e-5)
    env.reset()
    assert env.readings["sledge"].item() == pytest.approx(0.4)
    env.close()


@every_engine
def test_the_whole_state_of_a_body_that_is_no_robot(engine):
    state = [0.2, -0.3, 0.0, 0.0, 3.0, 1.0, 0.0, 0.0, 0.0]
    env = environment(engine, {"qpos": state, "qvel": [0.5, *[0.0] * 7]})
    assert env.readings["sledge"].item() == pytest.approx(0.2)
    assert env.readings["angle"].item() == pytest.approx(-0.3)
    assert env.readings["sledge_vel"].item() == pytest.approx(0.5)
    env.close()


@every_engine
def test_motors_get_the_command_for_the_whole_decision(engine):
    """3 N on 2 kg for 0.02 s, then the other way at a third, symplectic Euler: v = 1.5 k dt, x = dt * the sum of v."""
    env = environment(engine, {})
    env.step(torch.ones(1, 1, 1))
    assert env.readings["command_ctrl"].tolist() == [[1.0]]
    assert env.readings["sledge_vel"].item() == pytest.approx(0.03, abs=1e-6)
    assert env.readings["sledge"].item() == pytest.approx(1.5 * DT**2 * 55, abs=1e-6)
    env.step(torch.full((1, 1, 1), -1 / 3))
    assert env.readings["sledge_vel"].item() == pytest.approx(0.02, abs=1e-6)
    env.close()


def test_the_motors_run_at_once_where_the_start_says_so_and_late_where_the_task_is():
    """0.03 s late is a decision and a half: half of the command before last and half of the one before that."""
    env = environment("mujoco", {"ctrl": [0.5]}, [{}, {"late": 0.03}])
    assert env.readings["command_ctrl"].flatten().tolist() == [0.5, 0.5]
    ctrl = env.simulator.batch.bind("ctrl")
    assert ctrl.flatten().tolist() == [0.5, 0.5]
    seen = []
    for push in (1.0, 0.0, -1.0, 0.0):
        env.step(torch.full((2, 1, 1), push))
        seen.append(ctrl.flatten().tolist())
    np.testing.assert_allclose(np.array(seen)[:, 0], [1.0, 0.0, -1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(np.array(seen)[:, 1], [0.5, 0.75, 0.5, -0.5], atol=1e-6)


@every_engine
def test_a_joint_that_there_is_not(engine):
    with pytest.raises(ValueError, match="start of pusher places 'wheel': the model has no joint of that name; it has rail, pivot, ball"):
        environment(engine, {"wheel": [0.1]})


def test_physics_before_the_first_observation(monkeypatch):
    monkeypatch.setattr(Pusher, "warm_up", 0.1)
    env = environment("mujoco", {"qvel/rail": [2.0]})
    assert env.readings["sledge"].item() == pytest.approx(0.2, abs=1e-6)


def test_solver_settings_are_the_tasks(monkeypatch):
    assert environment("mujoco", {}).simulator.model.opt.integrator == mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    monkeypatch.setattr(Pusher, "solver", lambda self, option: None)
    model = environment("mujoco", {}).simulator.model
    assert (model.opt.integrator, model.opt.timestep) == (mujoco.mjtIntegrator.mjINT_EULER, DT)
