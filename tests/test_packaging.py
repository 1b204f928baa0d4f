import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import pytest

import metarl

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("robots", "tasks", "ros_nodes")  # folders of the top level that are imported as metarl.<folder>
LEFT_OUT = shutil.ignore_patterns(".*", "build", "dist", "install", "log", "runs", "*.egg-info", "__pycache__")

ROS_MESSAGES = ("diagnostic_msgs", "geometry_msgs", "nav_msgs", "sensor_msgs", "std_msgs", "std_srvs", "trajectory_msgs")
INSTALLED_BY = {
    "PIL": "pillow",
    "dm_env": "dm-env",
    "rclpy": "ros-rclpy",
    **dict.fromkeys(("builtin_interfaces", "lifecycle_msgs", "rcl_interfaces", "rosgraph_msgs"), "ros-rclpy"),
    **dict.fromkeys(ROS_MESSAGES, "ros-common-interfaces"),
}
ROS_ALONE = {"launch", "launch_ros", "tf2_msgs"}  # come with an installation of ROS, and are done without where there is none

build = "from setuptools import build_meta; import sys; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def run(*command, cwd, **env) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, env={**os.environ, **env})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def make(kind: str, source: Path, into: Path) -> Path:
    into.mkdir()
    return into / run(sys.executable, "-c", build, f"build_{kind}", into, cwd=source).splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT, folder / "source", symlinks=True, ignore=LEFT_OUT)
    with zipfile.ZipFile(make("wheel", folder / "source", folder / "wheel")) as file:
        yield file


def of_the_package(names) -> set[str]:
    return {n for n in names if n.startswith("metarl/")}


def test_wheel_holds_every_module_and_data_file(wheel):
    expected = {f"metarl/{p.relative_to(ROOT / 'metarl')}" for p in (ROOT / "metarl").rglob("*.py")}
    expected |= {f"metarl/{p.relative_to(ROOT)}" for folder in LINKED for p in (ROOT / folder).rglob("*.py")}
    expected |= {f"metarl/zoo/{p.name}" for p in (ROOT / "metarl" / "zoo").iterdir() if p.is_file()}
    expected |= {"metarl/py.typed", "metarl/ros_nodes/loopback.xml"}
    assert {"metarl/robots/arm7.py", "metarl/tasks/simulators/mujoco.py", "metarl/ros_nodes/adapter_node.py", "metarl/algos/rl2.py"} <= expected
    assert of_the_package(wheel.namelist()) == expected


def test_wheel_holds_nothing_else(wheel):
    others = {n.split("/")[0] for n in wheel.namelist()} - {"metarl"}
    assert others == {f"metarl-{metarl.__version__}.data", f"metarl-{metarl.__version__}.dist-info"}


def test_wheel_holds_what_ros_looks_for(wheel):
    share = f"metarl-{metarl.__version__}.data/data/share/"
    names = set(wheel.namelist())
    assert share + "ament_index/resource_index/packages/metarl" in names
    assert share + "metarl/package.xml" in names
    launch_files = {f"{share}metarl/launch/{p.name}" for p in (ROOT / "launch").glob("*.launch.py")}
    assert launch_files
    assert launch_files <= names
    assert {f"{share}metarl/launch/config/{p.name}" for p in (ROOT / "launch" / "config").glob("*.yaml")} <= names


def test_wheel_gives_console_commands_that_exist(wheel):
    text = wheel.read(f"metarl-{metarl.__version__}.dist-info/entry_points.txt").decode()
    commands = dict(line.split(" = ") for line in text.splitlines() if " = " in line)
    assert commands["metarl"] == "metarl.cli:main"
    nodes = {p.stem for p in (ROOT / "ros_nodes").glob("*_node.py")}
    assert set(commands) == nodes | {"metarl"}
    for place in commands.values():
        module, function = place.split(":")
        tree = ast.parse(wheel.read(module.replace(".", "/") + ".py"))
        assert function in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, place


def test_source_distribution_builds_the_same_wheel(wheel, tmp_path):
    shutil.copytree(ROOT, tmp_path / "source", symlinks=True, ignore=LEFT_OUT)
    with tarfile.open(make("sdist", tmp_path / "source", tmp_path / "sdist")) as file:
        file.extractall(tmp_path / "unpacked", filter="data")
    unpacked = tmp_path / "unpacked" / f"metarl-{metarl.__version__}"
    with zipfile.ZipFile(make("wheel", unpacked, tmp_path / "wheel")) as again:
        assert set(again.namelist()) == set(wheel.namelist())


def test_one_version_everywhere(wheel):
    assert f"Version: {metarl.__version__}\n" in wheel.read(f"metarl-{metarl.__version__}.dist-info/METADATA").decode()
    assert ElementTree.parse(ROOT / "package.xml").findtext("version") == metarl.__version__
    assert f"## [{metarl.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def requirements(wheel) -> set[str]:
    names = re.findall(r"^Requires-Dist: ([\w.-]+)", wheel.read(f"metarl-{metarl.__version__}.dist-info/METADATA").decode(), re.MULTILINE)
    return {name.lower().replace("_", "-") for name in names}


def test_every_requirement_is_pinned(wheel):
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert pins["torch"] == "2.13.0"
    assert requirements(wheel) <= set(pins)


def test_every_import_is_required(wheel):
    imported = set()
    for name in wheel.namelist():
        if name.endswith(".py"):
            for node in ast.walk(ast.parse(wheel.read(name))):
                modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                imported |= {m.split(".")[0] for m in modules}
    foreign = imported - set(sys.stdlib_module_names) - {"metarl"} - ROS_ALONE
    assert {"torch", "PIL", "rclpy", "pybullet"} <= foreign
    assert {INSTALLED_BY.get(module, module).lower() for module in foreign} <= requirements(wheel)


SHOW = "import metarl, metarl.robots, metarl.ros_nodes, metarl.tasks; print(metarl.__file__, 'arm_slide' in metarl.tasks.names())"


def test_editable_install_runs_the_files_of_the_source(tmp_path):
    shutil.copytree(ROOT, tmp_path / "source", symlinks=True, ignore=LEFT_OUT)
    venv.create(tmp_path / "venv", system_site_packages=False, with_pip=False)
    python = tmp_path / "venv/bin/python"
    site = next((tmp_path / "venv/lib").glob("python*")) / "site-packages"
    (site / "dependencies.pth").write_text("\n".join(p for p in sys.path if p.endswith("site-packages")) + "\n")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")
    run(python, "-m", "pip", "install", *options, "-e", tmp_path / "source", cwd=tmp_path)
    said = run(python, "-c", SHOW, cwd=tmp_path, PYTHONPATH="")
    assert said.split() == [str(tmp_path / "source/metarl/__init__.py"), "True"]
    assert run(tmp_path / "venv/bin/metarl", "list", cwd=tmp_path, PYTHONPATH="").startswith("tasks")


@pytest.mark.parametrize("mode", [(), ("--symlink-install",)], ids=["copied", "linked"])
def test_colcon_builds_and_tests_a_workspace_whose_nodes_ros_finds(mode, tmp_path):
    shutil.copytree(ROOT, tmp_path / "src/metarl", symlinks=True, ignore=LEFT_OUT)
    run(sys.executable, "-m", "colcon", "--log-base", "log", "build", *mode, cwd=tmp_path)
    prefix = tmp_path / "install/metarl"
    assert {"adapter_node", "safety_node", "sim_node", "task_node"} <= {p.name for p in (prefix / "lib/metarl").iterdir()}
    assert (prefix / "share/metarl/launch/arm.launch.py").exists()
    sourced = f'. install/local_setup.bash && echo "$AMENT_PREFIX_PATH" && cd / && {sys.executable} -c "{SHOW}"'
    ament_prefix, file, found = run("bash", "-c", sourced, cwd=tmp_path, PYTHONPATH="", AMENT_PREFIX_PATH="").split()
    assert ament_prefix.rstrip(":") == str(prefix)
    assert file.startswith(str(tmp_path))
    assert found == "True"
    few = ("--pytest-args", "tests/robots/test_spec.py")
    run(sys.executable, "-m", "colcon", "--log-base", "log", "test", *few, cwd=tmp_path)
    result = run(sys.executable, "-m", "colcon", "--log-base", "log", "test-result", "--all", cwd=tmp_path)
    assert re.search(r"metarl/pytest.xml: [1-9]\d* tests, 0 errors, 0 failures, 0 skipped", result), result


def test_folders_of_ones_own_called_tasks_and_robots_do_not_collide(tmp_path):
    for folder in ("tasks", "robots"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text(f"MINE = 'my {folder}'\n")
    (tmp_path / "script.py").write_text(
        "import tasks, robots\n"
        "from metarl import robots as their_robots, tasks as their_tasks\n"
        "print(tasks.MINE, robots.MINE, their_tasks.make('arm_reach').robot.name, 'arm7' in their_robots.names())\n"
    )
    said = run(sys.executable, "script.py", cwd=tmp_path, PYTHONPATH=str(Path(metarl.__file__).parent.parent))
    assert said == "my tasks my robots arm7 True\n"


def test_top_level_folders_are_links_inside_the_package():
    for folder in LINKED:
        link = ROOT / "metarl" / folder
        assert link.is_symlink()
        assert os.readlink(link) == f"../{folder}"
    assert not (ROOT / "launch" / "__init__.py").exists()  # it would shadow ROS's own `launch`
