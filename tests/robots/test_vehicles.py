"""Commands of vehicles: to the motors and back, as a twist and back, and on the way to a standstill."""

import math
import subprocess
import sys

import pytest
import torch

from metarl import robots
from metarl.robots import car, quadrotor
from metarl.robots.kinematics import rotation_from_wxyz
from metarl.robots.spec import VehicleSpec

VEHICLES = [robots.load(name) for name in robots.names() if isinstance(robots.load(name), VehicleSpec)]


@pytest.fixture(params=VEHICLES, ids=lambda v: v.name)
def vehicle(request):
    return request.param


def commands(vehicle, count):
    low, high = torch.tensor(vehicle.command_limits, dtype=torch.float64).T
    return low + (high - low) * torch.rand(count, len(low), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_vehicles_are_there():
    assert {v.name for v in VEHICLES} == {"car", "quadrotor"}


def test_numbers_fit_together(vehicle):
    assert len(vehicle.command_names) == len(vehicle.command_limits) == len(vehicle.slew_limits) == len(vehicle.rest)
    assert all(low <= rest <= high for rest, (low, high) in zip(vehicle.rest, vehicle.command_limits, strict=True))
    for topic in (vehicle.command_topic, vehicle.state_topic, vehicle.imu_topic):
        assert topic
        assert not topic.startswith("/"), "a relative topic can be moved into a namespace"


def test_the_motors_say_which_command_it_was(vehicle):
    given = commands(vehicle, 50)
    torch.testing.assert_close(vehicle.command_of(vehicle.ctrl_of(given)), given, rtol=0, atol=1e-12)


def test_a_twist_says_which_command_it_was(vehicle):
    for given in commands(vehicle, 50).tolist():
        assert vehicle.of_twist(vehicle.twist_of(given), vehicle.rest) == pytest.approx(given, abs=1e-12)


def test_a_car_turns_by_v_tan_steer_over_the_wheelbase():
    speed, _, _, _, _, yaw_rate = car.twist_of((2.0, 0.3))
    assert (speed, yaw_rate) == (2.0, pytest.approx(2.0 * math.tan(0.3) / 0.32))


def test_a_standing_car_keeps_its_steering_angle():
    assert car.of_twist(car.twist_of((0.0, 0.25)), (1.0, 0.0)) == (0.0, pytest.approx(0.25))  # our own: it creeps
    assert car.of_twist((0.0,) * 6, (1.0, -0.1)) == (0.0, -0.1)  # somebody else's stop


def test_a_car_brakes_evenly_and_keeps_its_steering_angle():
    speeds, command = [], (2.0, 0.3)
    for _ in range(20):
        command = car.safe(command, None, 0.0, 0.04)
        speeds.append(command[0])
        assert command[1] == 0.3
    assert speeds[:2] == pytest.approx([1.84, 1.68])  # 4 m/s²
    assert speeds[-1] == 0.0


@pytest.mark.parametrize("tilt", [(0.5, 0.0), (-0.5, 0.0), (0.0, 0.7), (0.3, -0.6)])
def test_a_quadrotor_turns_level(tilt):
    """Followed by an ideal rate loop for a second."""
    axis = torch.tensor([*tilt, 0.0], dtype=torch.float64)
    angle = axis.norm()
    quat = torch.cat([(0.5 * angle).cos()[None], (0.5 * angle).sin() * axis / angle])
    for _ in range(100):
        thrust, *rates = quadrotor.safe(quadrotor.SPEC.rest, tuple(quat.tolist()), 0.0, 0.01)
        assert quadrotor.HOVER - 1e-9 <= thrust <= quadrotor.MAX_THRUST
        spin = torch.tensor([0.0, *rates], dtype=torch.float64)
        quat = quat + 0.005 * product(quat, spin)
        quat = quat / quat.norm()
    assert rotation_from_wxyz(quat)[2, 2] > 0.999


def product(p, q):
    w, v = p[0] * q[0] - p[1:] @ q[1:], p[0] * q[1:] + q[0] * p[1:] + torch.linalg.cross(p[1:], q[1:])
    return torch.cat([w[None], v])


def test_a_quadrotor_that_sinks_pushes_harder_and_one_that_knows_nothing_hovers():
    assert quadrotor.safe(quadrotor.SPEC.rest, (1.0, 0.0, 0.0, 0.0), -0.5, 0.02)[0] > quadrotor.HOVER
    assert quadrotor.safe((0.0, 1.0, 1.0, 1.0), None, 0.0, 0.02) == quadrotor.SPEC.rest


def test_what_guards_the_motors_needs_no_torch():
    code = (
        "import sys\nfor name in ('torch', 'mujoco'): sys.modules[name] = None\nfrom metarl import robots\n"
        "for name in ('car', 'quadrotor'):\n    r = robots.load(name)\n    print(r.of_twist(r.twist_of(r.rest), r.rest) == r.rest)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert found.stdout == "True\nTrue\n", found.stderr
