"""Launch files as a launch system executes them: play_launch from PyPI, in a virtual environment of Python 3.10 that METARL_PLAY_LAUNCH names.

    python3.10 -m venv /tmp/play_launch && /tmp/play_launch/bin/pip install play_launch==0.16.0 numpy pyyaml
    METARL_PLAY_LAUNCH=/tmp/play_launch pytest tests/ros_nodes/test_play_launch.py

It wants libpython3.10 and libz3.so.4 (Debian: libz3-4), a C compiler for a stub of two libraries that no registry has, and the libraries of the ROS wheels.
"""

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from metarl.ros_nodes.graph import Arm, Car, Kitchen, Quadrotor, graph, replay

ROOT = Path(__file__).resolve().parents[2]
VENV = os.environ.get("METARL_PLAY_LAUNCH", "")
WHY = "play_launch has NOT looked at the launch files: METARL_PLAY_LAUNCH names no virtual environment with it (see tests/ros_nodes/test_play_launch.py)"


@pytest.fixture(scope="module")
def resolve(tmp_path_factory):
    """resolve(name, **arguments): what play_launch makes of a launch file."""
    yaml = pytest.importorskip("yaml")
    if not VENV or not shutil.which("cc"):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn(WHY, stacklevel=1)
        pytest.skip(WHY)
    folder = tmp_path_factory.mktemp("play_launch")
    site = Path(VENV) / "lib/python3.10/site-packages"
    home, ours = site / "play_launch", Path(sys.prefix)
    packages = ours / f"lib/python3.{sys.version_info.minor}/site-packages"
    symbols = subprocess.run(["nm", "-D", "--undefined-only", home / "bin/play_launch"], capture_output=True, text=True, check=True).stdout.split()
    source = "".join(f"void* {s}(void){{return 0;}}\n" for s in sorted({s for s in symbols if "composition_interfaces" in s}))
    (folder / "stub.c").write_text(source)
    for name in ("rosidl_typesupport_c", "rosidl_generator_c"):
        library = folder / f"libcomposition_interfaces__{name}.so"
        subprocess.run(["cc", "-w", "-shared", "-fPIC", "-o", library, folder / "stub.c"], check=True)
    for name in ("ament_index_python", "lifecycle_msgs"):
        (folder / name).symlink_to(packages / name)
    python = Path(os.path.realpath(Path(VENV) / "bin/python")).parent.parent
    libraries = [home / "lib", ours / "lib", *sorted(packages.glob("ros_*.libs")), folder, python / "lib"]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "AMENT_PREFIX_PATH": f"{home}:{ours}",
        "PYTHONPATH": ":".join(map(str, (ROOT / "tests/ros_nodes/play_launch_shim", folder, site, ROOT))),
    }

    def run(name, **arguments):
        given = [f"{k}:={v}" for k, v in arguments.items()]
        out = folder / f"{name}.yaml"
        command = [home / "bin/play_launch", "resolve", ROOT / f"launch/{name}.launch.py", *given, "-o", out]
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=environment, timeout=300, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        return yaml.safe_load(out.read_text())["structure"]["nodes"]

    return run


def plain(values):
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def as_resolved(specs, namespace):
    return {f"/{namespace}/{s.name}": (s.executable, plain(s.parameters), dict(s.remappings)) for s in specs}


def told(nodes):
    return {name: (n["exec"], n.get("params", {}), {r["from"]: r["to"] for r in n.get("remaps", [])}) for name, n in nodes.items()}


@pytest.mark.parametrize(("name", "kind"), [("arm", Arm), ("car", Car), ("quadrotor", Quadrotor), ("kitchen", Kitchen)])
def test_play_launch_finds_the_nodes_of_the_graph(resolve, name, kind):
    assert told(resolve(name, namespace="left")) == as_resolved(graph(kind()), "left")


def test_arguments_arrive(resolve):
    found = resolve("quadrotor", namespace="left", record="true", mode="shadow", index="7", robot="hardware")
    assert told(found) == as_resolved(graph(Quadrotor(record=True, mode="shadow", index=7, robot="hardware")), "left")


def test_the_replay(resolve):
    assert told(resolve("replay", namespace="left", bag="runs/x", rate="2.0")) == as_resolved(replay("runs/x", rate=2.0), "left")
