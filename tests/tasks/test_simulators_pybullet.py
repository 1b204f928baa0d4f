"""What is PyBullet's own: frictions as products, processes, pictures, and what it refuses."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch

from metarl.tasks import simulators
from metarl.tasks.arm_reach import ArmReach
from metarl.tasks.arm_slide import ArmSlide
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.simulators.bullet_scene import read_scene, split_friction
from metarl.tasks.simulators.bullet_worlds import RemoteWorlds
from metarl.tasks.simulators.mujoco import compile_scene

FLOOR, THING, PEG = (0, "world"), (2, "object"), (1, "peg")


def environment(task, num, num_threads=1):
    env = BatchedEnv(task, num, simulator="pybullet", num_threads=num_threads, seed=2)
    env.set_tasks(task.sample(num))
    env.reset()
    return env


def test_bullet_has_the_friction_of_each_pair_that_the_task_asked_for():
    env = environment(ArmSlide(), 3)
    for found, wanted in zip(env.simulator.frictions(), env.tasks.column("friction"), strict=True):
        assert found[FLOOR] * found[THING] == pytest.approx(wanted, rel=1e-6)
        assert found[PEG] * found[THING] == pytest.approx(wanted, rel=1e-6)
    env.close()


def test_only_the_pairs_of_the_model_touch():
    scene = read_scene(compile_scene(ArmSlide()), ArmSlide().robot)
    assert {frozenset(pair) for pair in scene.touching} == {frozenset((FLOOR, THING)), frozenset((PEG, THING))}
    assert read_scene(compile_scene(ArmReach()), ArmReach().robot).touching == ()


def test_frictions_of_pairs_split_into_products():
    a, b, c, d = ((i, name) for i, name in enumerate("abcd"))
    pairs = {(a, b): 0.5, (b, c): 0.2, (a, c): 1.0, (c, d): 0.3}
    single = split_friction(pairs)
    for (one, other), friction in pairs.items():
        assert single[one] * single[other] == pytest.approx(friction)
    assert split_friction({}) == {}
    ring = {(a, b): 0.1, (b, c): 0.9, (c, d): 0.1, (d, a): 0.9}  # ab * cd would have to be bc * da
    with pytest.raises(ValueError, match=r"friction .* between .* cannot be had in PyBullet, which multiplies"):
        split_friction(ring)


@pytest.mark.parametrize(("priority", "expected"), [((0, 0), 0.8), ((0, 1), 0.3), ((2, 1), 0.8)])
def test_friction_of_a_pair_follows_mujocos_rule(priority, expected):
    spec = ArmReach().build()
    for name, friction, rank in (("one", 0.8, priority[0]), ("other", 0.3, priority[1])):
        body = spec.worldbody.add_body(name=name)
        body.add_freejoint()
        geom = body.add_geom(size=[0.1, 0, 0], priority=rank)
        geom.friction = [friction, 0.0, 0.0]
    single = read_scene(spec.compile(), ArmReach().robot).friction
    (one,), (other,) = ([f for (_, name), f in single.items() if name == wanted] for wanted in ("one", "other"))
    assert one * other == pytest.approx(expected)


def add_sensor(spec):
    spec.add_sensor(name="shake", type=mujoco.mjtSensor.mjSENS_GYRO, objtype=mujoco.mjtObj.mjOBJ_SITE, objname="tool")


def add_relative_sensor(spec):
    tool, base = mujoco.mjtObj.mjOBJ_SITE, mujoco.mjtObj.mjOBJ_BODY
    spec.add_sensor(name="apart", type=mujoco.mjtSensor.mjSENS_FRAMEPOS, objtype=tool, objname="tool", reftype=base, refname="panda_link1")


def add_torsion(spec):
    for name in ("one", "other"):
        body = spec.worldbody.add_body(name=name)
        body.add_freejoint()
        body.add_geom(name=name, size=[0.1, 0, 0], condim=4)


def add_lossy_tendon(spec):
    tendon = spec.add_tendon(name="band", damping=[1.0, 0, 0])
    tendon.wrap_joint("panda_finger_joint1", 1.0)


def add_mixture(spec):
    body = spec.worldbody.add_body(name="mixture")
    body.add_freejoint()
    for mask in (1, 2):
        body.add_geom(size=[0.1, 0, 0], contype=mask, conaffinity=mask)
    spec.worldbody.add_body(name="wall").add_geom(size=[0.1, 0, 0], contype=1, conaffinity=1)


def add_vehicle(spec):
    body = spec.worldbody.add_body(name="vehicle")
    body.add_freejoint()
    body.add_geom(size=[0.1, 0, 0])
    wheel = body.add_body(name="wheel")
    wheel.add_joint(name="axle")
    wheel.add_geom(size=[0.1, 0, 0])


def add_equality(spec):
    spec.add_equality(type=mujoco.mjtEq.mjEQ_WELD, objtype=mujoco.mjtObj.mjOBJ_BODY, name1="panda_link1", name2="panda_hand")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_sensor, "sensor 'shake' is a gyro .*PyBullet measures jointpos, jointvel, framepos"),
        (add_relative_sensor, "sensor 'apart' is a framepos"),
        (add_torsion, "geom 'one' has condim 4"),
        (add_lossy_tendon, "tendon 'band' is more than a spring between joints"),
        (add_mixture, "shapes of 'wall' and 'mixture' touch in different ways|shapes of 'mixture' and 'wall' touch in different ways"),
        (add_vehicle, "body 'vehicle' floats and has joints"),
        (add_equality, "the model has 1 equality constraints"),
        (lambda s: setattr(s.joint("panda_joint3"), "armature", 0.1), "joint 'panda_joint3' has armature"),
        (lambda s: setattr(s.actuator("panda_joint2"), "dyntype", mujoco.mjtDyn.mjDYN_INTEGRATOR), "actuator 'panda_joint2' is not a linear motor"),
        (lambda s: setattr(s.option, "density", 1.2), "the model has a fluid"),
    ],
)
def test_what_bullet_cannot_do_is_refused_by_name_before_anything_runs(change, message):
    class Changed(ArmReach):
        def build(self):
            spec = super().build()
            change(spec)
            return spec

    with pytest.raises(ValueError, match=message):
        simulators.make("pybullet", Changed(), 1)


def test_springs_dry_friction_and_gears_act_as_in_mujoco():
    class Changed(ArmReach):
        def build(self):
            spec = super().build()
            spec.joint("panda_joint1").stiffness = [40.0, 0, 0]
            spec.joint("panda_joint1").springref = 0.5
            spec.actuator("panda_joint2").gear = [1.5, *[0.0] * 5]
            spec.actuator("panda_joint4").ctrlrange, spec.actuator("panda_joint4").ctrllimited = [-2.3, 0.0], True
            spec.joint("panda_joint6").frictionloss = 1.0
            return spec

    ends = []
    for engine in simulators.NAMES[:2]:
        task = Changed()
        env = BatchedEnv(task, 1, simulator=engine, num_threads=1, seed=2)
        env.set_tasks(task.custom([{}]))
        env.reset()
        for _ in range(50):
            env.step(torch.full((1, 1, 7), 0.05))
        ends.append(env.readings["qpos"][0])
    torch.testing.assert_close(*ends, atol=5e-4, rtol=0)
    plain = BatchedEnv(ArmReach(), 1, simulator="pybullet", num_threads=1, seed=2)
    plain.set_tasks(ArmReach().custom([{}]))
    plain.reset()
    for _ in range(50):
        plain.step(torch.full((1, 1, 7), 0.05))
    assert ((plain.readings["qpos"][0] - ends[1])[[0, 1, 3, 5]].abs() > 2e-3).all(), "each of the four changes matters"


def test_pictures_show_the_goal_where_it_is():
    env = environment(ArmReach(), 2)
    pictures = [env.simulator.render(sim, 160, 120).astype(int) for sim in range(2)]
    assert pictures[0].shape == (120, 160, 3)
    green = [np.argwhere((p[..., 1] > 1.5 * p[..., 0]) & (p[..., 1] > 1.5 * p[..., 2])) for p in pictures]
    assert all(len(g) > 3 for g in green)
    assert np.linalg.norm(green[0].mean(0) - green[1].mean(0)) > 5, "the goals of the two simulations differ"


def test_several_processes_give_exactly_what_one_gives():
    runs = []
    for num_threads in (1, 2):
        env = environment(ArmSlide(), 4, num_threads)
        step = env.step(torch.full((4, 1, 3), 0.3))
        runs.append((step, env.readings, env.simulator.render(3, 40, 30), env.simulator.frictions()))
        env.close()
    (one, readings, picture, frictions), (many, theirs, same_picture, same_frictions) = runs
    torch.testing.assert_close(one.next_obs, many.next_obs, rtol=0, atol=0)
    for name in readings:
        torch.testing.assert_close(readings[name], theirs[name], rtol=0, atol=0)
    np.testing.assert_array_equal(picture, same_picture)
    assert frictions == same_frictions


def test_errors_in_another_process_arrive_here():
    worlds = RemoteWorlds()
    worlds.ask("render", 5, 10, 10)
    with pytest.raises(IndexError):
        worlds.answer()
    worlds.ask("frictions")
    assert worlds.answer() == []  # it is still there
    worlds.process.kill()
    with pytest.raises(RuntimeError, match=r"a PyBullet process ended by itself \(exit code -9\)"):
        worlds.ask("frictions")
        worlds.answer()
    worlds.close()


def test_without_pybullet_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pybullet", None)
    for name in ("bullet_world", "bullet_worlds", "pybullet"):
        monkeypatch.delitem(sys.modules, f"metarl.tasks.simulators.{name}", raising=False)
    with pytest.raises(ImportError, match=r"PyBullet is not installed: pip install 'metarl\[sim\]'"):
        simulators.make("pybullet", ArmReach(), 1)


def gone(process: int) -> bool:
    status = Path(f"/proc/{process}/status")
    return not status.exists() or "State:\tZ" in status.read_text()


def test_processes_end_with_the_one_that_made_them_even_if_it_is_killed():
    code = """
import sys, time
from metarl.tasks.simulators.bullet_worlds import RemoteWorlds
worlds = [RemoteWorlds(), RemoteWorlds()]
for w in worlds:
    w.ask("frictions")
    w.answer()
print(*[w.process.pid for w in worlds], flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    line = next(line for line in parent.stdout if line.replace(" ", "").strip().isdigit())
    children = [int(pid) for pid in line.split()]
    assert len(children) == 2
    assert not any(gone(child) for child in children)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    for _ in range(200):
        if all(gone(child) for child in children):
            return
        time.sleep(0.1)
    pytest.fail(f"processes {children} outlived their parent")
