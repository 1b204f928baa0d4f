"""What tasks write into the batched model, against models made one by one from the values, by hand: the same numbers, and the same motion."""

import math

import mujoco
import numpy as np
import pytest
import torch

from metarl import tasks
from metarl.robots import car, quadrotor
from metarl.tasks import appliances, track
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.pushing import HEIGHT
from metarl.tasks.simulators.mujoco import compile_scene

STEPS = 20
PICTURES = ("rgba", "cam_", "light_", "mat_", "tex_")
BOUNDS = "bvh_aabb"  # of all geoms of a body together, where contacts are looked for first


def arm(model, values):
    if "payload" in values:
        mass = values["payload"] + 1e-6  # a ball of 3 cm
        model.body("payload").mass, model.body("payload").inertia = mass, 0.4 * 0.03**2 * mass
        model.actuator_gainprm *= values["actuator_gain"]
        model.actuator_biasprm *= values["actuator_gain"]
        model.dof_damping *= values["damping"]
        return
    half, mass, geom, body = values["half_size"], values["mass"], model.geom("object"), model.body("object")
    wide, high = half**2, HEIGHT**2
    kind, size, across, about = {
        "box": (mujoco.mjtGeom.mjGEOM_BOX, (half, half, HEIGHT), (wide + high) / 3, 2 * wide / 3),
        "cylinder": (mujoco.mjtGeom.mjGEOM_CYLINDER, (half, HEIGHT, 0), wide / 4 + high / 3, wide / 2),
        "ellipsoid": (mujoco.mjtGeom.mjGEOM_ELLIPSOID, (half, half, HEIGHT), (wide + high) / 5, 2 * wide / 5),
    }[values["shape"]]
    geom.type, geom.size, geom.friction[0] = kind, size, values["friction"]
    body.mass, body.inertia = mass, (mass * across, mass * across, mass * about)
    body.ipos = (half * values["com_along"], half * values["com_aside"], 0)


def drive(model, values):
    load, box, height = values["payload"], car.CHASSIS_MASS, 0.05  # m over the axles
    bare = model.body("car").ipos[2]
    middle = (box * bare + load * height) / (box + load)
    steiner = box * (middle - bare) ** 2 + load * (height - middle) ** 2
    model.body("car").mass, model.body("car").ipos[2] = box + load, middle
    model.body("car").inertia[:2] += steiner
    model.geom("floor").friction[0] = values["friction"]
    waves, phases = (torch.tensor([values[f"{kind}_{k}"] for k in (2, 3, 4)], dtype=torch.float64) for kind in ("wave", "phase"))
    course = track.shape(torch.tensor(values["track_radius"], dtype=torch.float64), waves, phases)

    def on_track(angle):
        angle = torch.tensor(angle, dtype=torch.float64)
        return track.position(course, angle).numpy(), float(track.direction(course, angle))

    for number in range(36):
        model.geom(f"mark_{number}").pos[:2] = on_track(2 * math.pi * number / 36)[0]
    for number in range(2):
        place, way = on_track(values["patch_angle"] + number * math.pi)
        model.geom(f"patch_{number}").friction[0] = values["patch_friction"]
        patch = model.body(f"patch_{number}")
        patch.pos[:2], patch.quat = place, (math.cos(way / 2), 0, 0, math.sin(way / 2))
    for number in range(4 if "post_0_angle" in values else 0):
        place, way = on_track(values[f"post_{number}_angle"])
        model.body(f"post_{number}").pos[:2] = place + values[f"post_{number}_aside"] * np.array([-math.sin(way), math.cos(way)])
    for wheel in car.WHEELS:
        model.actuator(f"{wheel}_wheel").gainprm[0] = car.DRIVE_GAIN * values["motor_gain"]
    for wheel in car.WHEELS[:2]:
        model.actuator(f"{wheel}_steer").biasprm[0] = car.STEER_STIFFNESS * values["steering_bias"]


def fly(model, values):
    load, bare, below = values["payload"], quadrotor.MASS, 0.04  # m, the load under the frame's middle
    middle = below * load / (bare + load)
    steiner = bare * middle**2 + load * (below - middle) ** 2
    body = model.body("quadrotor")
    body.mass, body.ipos = bare + load, (values["com_x"], values["com_y"], -middle)
    body.inertia = quadrotor.INERTIA
    body.inertia[:2] += steiner
    lifts = [np.array([0, 0, values[f"rotor_{number}"] / 4]) for number in range(1, 5)]  # of one newton asked for
    model.actuator("thrust").gear[:3] = sum(lifts)
    model.actuator("thrust").gear[3:] = sum(np.cross((*place, 0), lift) for place, lift in zip(quadrotor.ROTORS, lifts, strict=True))
    model.actuator_dynprm[:, 0] = values["motor_lag"]


def cook(model, values):
    for station in appliances.STATIONS:
        x, y, turn = appliances.LAYOUTS[values["layout"]][values["order"].index(station[0])]
        model.body(station).pos[:2], model.body(station).quat = (x, y), (math.cos(turn / 2), 0, 0, math.sin(turn / 2))
    kind, axis, pivot, limits, _ = appliances.MECHANISMS[values["mechanism"]]
    door, other = (model.joint(f"door_{name}") for name in ((kind, "slide" if kind == "hinge" else "hinge")))
    model.joint("door_hinge").pos, door.axis, door.range, other.range = pivot, axis, limits, (-0.1, 0.1)
    lever = {"hinge_left": 0.25, "hinge_right": 0.25, "drop_down": 0.25, "rotary": 0.13}.get(values["mechanism"], 1.0)  # m
    door.damping[0], other.damping[0] = 15.0 * lever**2, 1e5
    aside, along = appliances.HANDLES[values["handle"]]  # walls of 14 mm around it
    for side in (-1, 1):
        front, flank = (model.geom(f"handle/{axis}{side}") for axis in "xy")
        front.pos[0], front.size[1] = side * (along + 0.007), aside + 0.014
        flank.pos[1], flank.size[0] = side * (aside + 0.007), along + 0.014
    for number in range(1, 5):
        model.joint(f"knob_{number}").range = (0, 4.2) if values["sense"] == "left" else (-4.2, 0)


CASES = {
    **dict.fromkeys(("arm_reach", "arm_push", "arm_push_hidden_goal"), arm), **dict.fromkeys(("car_track", "car_track_obstacles"), drive),
    "quadrotor_track": fly, "kitchen": cook, "kitchen_handles": cook,
}  # fmt: skip


def compiled_apart(task, values):
    model = compile_scene(task)
    CASES[task.name](model, values)
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


@pytest.mark.parametrize("name", CASES)
def test_batched_physics_is_that_of_separately_compiled_models(name):
    task = tasks.make(name)
    tasks_of_all = task.sample(0).concatenate([task.sample(3, split) for split in task.splits])
    env = BatchedEnv(task, len(tasks_of_all), num_threads=1)
    env.set_tasks(tasks_of_all)
    env.reset()
    batch = env.simulator.batch
    start = {field: batch.bind(field).copy() for field in ("qpos", "qvel", "act", "qacc_warmstart") if batch.bind(field).size}
    commands = motion(env)
    env.simulator.follow(commands, None)
    for i in range(len(tasks_of_all)):
        model = compiled_apart(task, {p.name: p.decode(tasks_of_all.column(p.name)[i]) for p in task.params})
        assert_same_numbers(batch.get_model(i), model)
        data = mujoco.MjData(model)
        for field, values in start.items():
            getattr(data, field)[:] = values[i]
        for ctrl in commands[i].numpy():
            data.ctrl[:] = ctrl
            mujoco.mj_step(model, data)
        np.testing.assert_allclose(batch.bind("qpos")[i], data.qpos, rtol=0, atol=1e-7)
        assert np.abs(data.qpos - start["qpos"][i]).max() > 1e-4, "it moves a thousand times farther than the two may differ"


def motion(env):
    """(N, S, U) commands that all that is hidden tells on: the way to the cupboard and the opening of it, else a few steps at random."""
    if env.task.has_expert and env.task.discrete:
        return env.simulator.curve(env.task.command(env.task.expert(env.sensed, env.values), env.sensed))[1].double()
    now = env.simulator.batch.bind("ctrl")[:, None]
    return torch.as_tensor(now + np.random.default_rng(0).uniform(-0.2, 0.2, (len(now), STEPS, now.shape[-1])))


def assert_same_numbers(found, expected):
    for field in dir(expected):
        wanted = getattr(expected, field)
        if isinstance(wanted, np.ndarray) and wanted.dtype.kind == "f" and not field.startswith((*PICTURES, BOUNDS)) and "rgba" not in field:
            np.testing.assert_allclose(getattr(found, field), wanted, rtol=1e-5, atol=1e-12, err_msg=field)  # float32 places and turns things
