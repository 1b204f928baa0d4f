"""MuJoCo and PyBullet under the same commands: where they must agree, how nearly, and what each promises by itself."""

import functools

import mujoco
import mujoco.batch
import numpy as np
import pytest
import torch

from metarl import tasks
from metarl.robots.kinematics import jacobian
from metarl.robots.spec import JointTrajectory
from metarl.tasks import simulators
from metarl.tasks.arm_reach import ArmReach
from metarl.tasks.arm_slide import ArmSlide
from metarl.tasks.simulators.mujoco import compile_scene
from metarl.tasks.simulators.simulator import RobotSimulator

ENGINES = ("mujoco", "pybullet")
GRAVITY = 9.81
every_engine = pytest.mark.parametrize("engine", ENGINES)
OBJECTS = [  # of arm_slide
    {"shape": "box", "half_size": 0.02, "mass": 0.1, "friction": 0.1, "com_along": 0.2},
    {"shape": "cylinder", "half_size": 0.03, "mass": 0.5, "friction": 0.08, "com_aside": -0.25},
    {"shape": "ellipsoid", "half_size": 0.035, "mass": 0.2, "friction": 0.15},
    {"shape": "box", "half_size": 0.035, "mass": 0.05, "friction": 0.06, "com_aside": 0.1},
]


class Bench:
    """Simulations of given tasks, all beginning in the same pose, without noise."""

    def __init__(self, task, engine, rows, num_threads=1):
        self.task, self.num = task, len(rows)
        self.simulator = simulators.make(engine, task, self.num, num_threads)
        self.values = task.custom(rows).named()
        self.simulator.set_tasks(self.values)
        self.reset()

    def reset(self):
        values = {k: torch.as_tensor(v, dtype=torch.float32) for k, v in self.values.items()}
        start = {k: v[:1].expand(self.num, -1).clone() for k, v in self.task.start(values, torch.Generator().manual_seed(3)).items()}
        if "object" in start:
            start["object"][:, 2] = values["half_size"] + 1e-4
        self.qpos = start["qpos"]
        return self.simulator.reset(start, {})

    def step(self, command, active=None):
        return self.simulator.step(command, active)

    def strike(self, active=None, speed=0.5):
        place = {"object_pos": torch.tensor([0.55, 0.05, 0.0]).expand(self.num, -1), "target_pos": torch.tensor([0.5, 0.65, 0.0]).expand(self.num, -1)}
        action = torch.tensor([speed, 0.3, 0.2]).expand(self.num, -1)
        return self.step(self.task.command(action, {**place, "qpos": self.qpos}), active)

    def wiggle(self, steps=50, size=0.1):
        """One second of waving every joint, 50 commands; readings after each."""
        phase = torch.arange(7.0)
        result = []
        for k in range(1, steps + 1):
            command = (self.qpos + size * ((phase + 0.1 * k).sin() - phase.sin())).unsqueeze(1)
            result.append(self.step(JointTrajectory(command, torch.zeros_like(command), 0.02)))
        return result


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0, msg=lambda m, name=name: f"{name}: {m}")


# ---- the same world in both engines -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["arm_reach", "arm_slide"])
def test_both_engines_give_the_same_readings_in_number_shape_and_type(name):
    readings = [Bench(tasks.make(name), engine, [{}, {}]).reset() for engine in ENGINES]
    assert list(readings[0]) == list(readings[1])
    for key, value in readings[0].items():
        assert value.dtype == readings[1][key].dtype == torch.float32
        torch.testing.assert_close(value, readings[1][key], atol=1e-5, rtol=0)


def test_free_motion_agrees_for_every_load_gain_and_damping():
    rows = [
        {},
        {"payload": 2.0},
        {"payload": 1.0, "actuator_gain": 0.6, "damping": 3.5},
        {"actuator_gain": 1.5, "damping": 0.5},
        {"actuator_gain": 1.5, "damping": 3.5, "payload": 0.5},
    ]
    mine, theirs = (Bench(ArmReach(), engine, rows).wiggle() for engine in ENGINES)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one["qpos"], other["qpos"], atol=3e-5, rtol=0)
        torch.testing.assert_close(one["tool_pos"], other["tool_pos"], atol=1e-5, rtol=0)
    travelled = torch.stack([r["qpos"] for r in mine])
    assert (travelled.amax(0) - travelled.amin(0)).min() > 0.02, "every joint moves a thousand times farther than the engines differ"


def test_motion_at_the_torque_limits_agrees():
    benches = [Bench(ArmReach(), engine, [{}, {"payload": 1.0}]) for engine in ENGINES]
    results = []
    for bench in benches:
        far = (bench.qpos + torch.tensor([0.8, 0.5, -0.8, 0.6, 1.0, -0.7, 1.0])).unsqueeze(1)
        command = JointTrajectory(far, torch.zeros_like(far), 0.02)
        results.append([bench.step(command)["qpos"] for _ in range(25)])
    robot = benches[0].task.robot
    asked = (far[:, 0] - benches[0].qpos) * torch.tensor(robot.kp)
    assert (asked.abs() > torch.tensor(robot.effort_limits)).all(1).any(), "all motors are at their limits at first"
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0)


@every_engine
def test_the_payload_pulls_the_arm_down_by_its_weight_and_the_arm_itself_does_not(engine):
    bench = Bench(ArmReach(), engine, [{}, {"payload": 1.0}])
    hold = bench.qpos.unsqueeze(1)
    for _ in range(150):
        end = bench.step(JointTrajectory(hold, torch.zeros_like(hold), 0.02))
    robot = bench.task.robot
    effort = torch.tensor(robot.kp) * (bench.qpos - end["qpos"])
    assert effort[0].abs().max() < 1e-3, "N·m that the empty arm needs to stay where it is told"
    lever = jacobian(robot, end["qpos"][1:].double())[1][0, 2]  # how the tool rises with each joint
    torch.testing.assert_close(effort[1].double(), GRAVITY * lever, atol=0.02, rtol=0)
    assert effort[1].abs().max() > 3.0


@pytest.mark.parametrize(("engine", "tolerance"), [("mujoco", 0.06), ("pybullet", 0.02)])
def test_objects_slide_as_far_as_friction_says(engine, tolerance):
    rows = [
        {"shape": shape, "half_size": half, "friction": mu, "mass": 0.2, "com_along": com}
        for shape in ("box", "cylinder") for half in (0.02, 0.035) for mu in (0.06, 0.18) for com in (0.0, 0.25)
    ]  # fmt: skip
    bench, speed = Bench(ArmSlide(), engine, rows), 0.7
    linvel = np.tile([0.0, speed, 0.0], (len(rows), 1))
    begin = bench.simulator.read()["object_pos"]
    if engine == "mujoco":
        bench.simulator.batch.bind("qvel")[:, -6:-3] = linvel
    else:
        bench.simulator.launch("object", linvel)
    bench.simulator.advance(bench.simulator.ctrl_of(bench.qpos), 600, None)
    moved = (bench.simulator.read()["object_pos"] - begin)[:, :2].norm(dim=-1)
    expected = torch.tensor([speed**2 / (2 * row["friction"] * GRAVITY) for row in rows])
    torch.testing.assert_close(moved, expected, rtol=tolerance, atol=0)


def test_a_strike_has_about_the_same_outcome():
    ends = [Bench(ArmSlide(), engine, OBJECTS[:2]).strike() for engine in ENGINES]
    torch.testing.assert_close(ends[0]["qpos"], ends[1]["qpos"], atol=5e-3, rtol=0)
    assert (ends[0]["object_pos"][:, 1] > 0.25).all()
    assert (ends[1]["object_pos"][:, 1] > 0.25).all()
    torch.testing.assert_close(ends[0]["object_pos"][:, :2], ends[1]["object_pos"][:, :2], atol=0.3, rtol=0)


def test_sensors_of_frames_agree():
    class Measured(ArmReach):
        def build(self):
            spec, kinds, things = super().build(), mujoco.mjtSensor, mujoco.mjtObj
            measured = [
                (kinds.mjSENS_FRAMEPOS, things.mjOBJ_BODY, "panda_link4"), (kinds.mjSENS_FRAMEPOS, things.mjOBJ_XBODY, "panda_link4"),
                (kinds.mjSENS_FRAMEPOS, things.mjOBJ_GEOM, "payload"), (kinds.mjSENS_FRAMEQUAT, things.mjOBJ_SITE, "tool"),
                (kinds.mjSENS_FRAMEQUAT, things.mjOBJ_BODY, "panda_link2"), (kinds.mjSENS_FRAMELINVEL, things.mjOBJ_GEOM, "hand"),
                (kinds.mjSENS_FRAMELINVEL, things.mjOBJ_XBODY, "panda_link6"), (kinds.mjSENS_FRAMEANGVEL, things.mjOBJ_XBODY, "panda_link5"),
            ]  # fmt: skip
            for i, (kind, thing, name) in enumerate(measured):
                spec.add_sensor(name=f"extra{i}", type=kind, objtype=thing, objname=name)
            return spec

    one, other = (Bench(Measured(), engine, [{"payload": 0.5}]).wiggle(20)[-1] for engine in ENGINES)
    for name, value in one.items():
        sign = torch.sign((value * other[name]).sum()) if value.shape[-1] == 4 else 1.0  # a quaternion and its negative are the same
        torch.testing.assert_close(sign * value, other[name], atol=2e-4, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
        assert value.abs().max() > 0.02 or name == "target", name


# ---- what every engine promises ---------------------------------------------------------------------------------------------


@every_engine
def test_a_simulation_does_not_depend_on_the_others_in_the_batch(engine):
    task = ArmSlide()
    together = Bench(task, engine, OBJECTS).strike()
    for i in (1, 3):
        alone = Bench(task, engine, OBJECTS[i : i + 1]).strike()
        assert_equal({k: v[i : i + 1] for k, v in together.items()}, alone)


@every_engine
def test_nothing_of_an_episode_is_left_after_a_reset(engine):
    bench = Bench(ArmSlide(), engine, OBJECTS)
    fresh = bench.reset()
    first = bench.strike()
    assert not torch.equal(first["object_pos"], fresh["object_pos"])
    assert_equal(bench.reset(), fresh)
    assert_equal(bench.strike(), first)


@every_engine
def test_setting_tasks_twice_is_setting_them_once(engine):
    bench = Bench(ArmSlide(), engine, OBJECTS)
    once = bench.strike()
    other = bench.task.custom(list(reversed(OBJECTS))).named()
    bench.simulator.set_tasks(other)
    bench.simulator.set_tasks(bench.values)
    bench.reset()
    assert_equal(bench.strike(), once)


@every_engine
def test_robots_that_are_not_active_stand_still(engine):
    bench = Bench(ArmSlide(), engine, OBJECTS)
    before, together = bench.reset(), bench.strike()
    bench.reset()
    after = bench.strike(active=torch.tensor([True, False, True, False]))
    assert_equal({k: v[1::2] for k, v in after.items()}, {k: v[1::2] for k, v in before.items()})
    assert_equal({k: v[::2] for k, v in after.items()}, {k: v[::2] for k, v in together.items()})


@every_engine
def test_readings_do_not_change_afterwards(engine):
    bench = Bench(ArmReach(), engine, [{}])
    first = bench.reset()
    kept = {k: v.clone() for k, v in first.items()}
    bench.wiggle(3)
    assert_equal(first, kept)


@every_engine
def test_frames_of_a_film_come_25_times_a_second(engine):
    bench, frames = Bench(ArmReach(), engine, [{}]), []
    bench.simulator.on_frame = frames.append
    bench.wiggle(50)
    assert len(frames) == 25
    assert frames[0] is bench.simulator
    slide, frames = Bench(ArmSlide(), engine, OBJECTS[:1]), []
    unwatched = slide.strike()
    slide.reset()
    slide.simulator.on_frame = frames.append
    assert_equal(slide.strike(), unwatched)
    assert len(frames) > 25


# ---- MuJoCo -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("active", [None, torch.tensor([True, False, True, False])])
def test_a_motion_carried_out_at_once_ends_where_it_does_step_by_step(active):
    at_once, step_by_step = (Bench(ArmSlide(), "mujoco", OBJECTS) for _ in range(2))
    step_by_step.simulator.follow = functools.partial(RobotSimulator.follow, step_by_step.simulator)
    before = at_once.simulator.read()
    ends = [bench.strike(active) for bench in (at_once, step_by_step)]
    assert_equal(*ends)
    assert_equal(*({"effort": bench.simulator.effort()} for bench in (at_once, step_by_step)))
    moved = (ends[0]["qpos"] != before["qpos"]).any(-1)
    assert moved.tolist() == [True, active is None, True, active is None]


def single_steps(model, bench, commands):
    """What mj_step alone makes of a model under motor commands, from the state in which the bench was reset."""
    data = mujoco.MjData(model)
    for command in commands:
        data.ctrl[:7] = command
        if data.time == 0:
            data.qpos[:7] = bench.qpos[0]
            if model.nq > 9:
                data.joint("object").qpos[:] = bench.simulator.batch.bind("qpos")[0, -7:]
        mujoco.mj_step(model, data)
    return data


@pytest.mark.parametrize(("task", "row"), [(ArmReach(), {"payload": 0.7, "actuator_gain": 1.1, "damping": 0.6}), (ArmSlide(), OBJECTS[1])])
def test_batched_parameters_are_bit_exact(task, row):
    bench = Bench(task, "mujoco", [row, {}])
    model = bench.simulator.batch.get_model(0)
    pushed = bench.qpos[0].double().numpy() + np.array([0.3, 0.2, -0.2, 0.1, 0.3, -0.1, 0.2])
    alone = single_steps(model, bench, [pushed] * 200)
    bench.simulator.advance(bench.simulator.ctrl_of(torch.as_tensor(pushed).expand(2, -1)), 200, None)
    batch = bench.simulator.batch
    np.testing.assert_array_equal(batch.bind("qpos")[0], alone.qpos)
    np.testing.assert_array_equal(batch.bind("qvel")[0], alone.qvel)
    assert not np.array_equal(batch.bind("qpos")[0], batch.bind("qpos")[1]), "the parameters matter"


@pytest.mark.parametrize("row", OBJECTS)
def test_objects_equal_those_that_the_compiler_would_make(row):
    task = ArmSlide()
    batch = mujoco.batch.Batch(compile_scene(task), 1, 1)
    task.apply(batch, task.custom([row]).named())
    batch.set_const()
    found = batch.get_model(0)
    spec, half = task.build(), row["half_size"]
    geom = spec.geom("object")
    geom.type = {"box": mujoco.mjtGeom.mjGEOM_BOX, "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER, "ellipsoid": mujoco.mjtGeom.mjGEOM_ELLIPSOID}[row["shape"]]
    geom.size, geom.mass = [half, half, half], row["mass"]
    geom.friction = [row["friction"], *geom.friction[1:]]
    wanted = spec.compile()
    # the compiler puts the centre of mass into the middle; the task moves it, and the inertia about it with it
    offset = [row.get("com_aside", 0.0) * half, row.get("com_along", 0.0) * half, 0.0]
    thing, shape = wanted.body("object").id, wanted.geom("object").id
    np.testing.assert_allclose(found.body_ipos[thing], offset, atol=1e-15)
    np.testing.assert_allclose(found.body_inertia[thing], wanted.body_inertia[thing], rtol=1e-12)
    np.testing.assert_allclose(found.body_mass, wanted.body_mass, rtol=1e-12)
    for field in ("geom_type", "geom_friction", "geom_priority", "geom_rbound"):
        np.testing.assert_allclose(getattr(found, field)[shape], getattr(wanted, field)[shape], rtol=1e-12, err_msg=field)
    used = 2 if row["shape"] == "cylinder" else 3  # a cylinder has a radius and a half height
    np.testing.assert_allclose(found.geom_size[shape, :used], wanted.geom_size[shape, :used])
    np.testing.assert_allclose(found.geom_aabb[shape], wanted.geom_aabb[shape], rtol=1e-12, atol=1e-15)


def test_the_payload_is_a_ball_of_its_mass():
    payload = Bench(ArmReach(), "mujoco", [{"payload": 2.0}]).simulator.batch.get_model(0).body("payload")
    assert payload.mass[0] == pytest.approx(2.0, rel=1e-5)
    np.testing.assert_allclose(payload.inertia, 0.4 * 2.0 * 0.03**2, rtol=1e-5)
