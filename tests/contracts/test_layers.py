"""Imports point one way: robots <- tasks <- metarl <- ros_nodes; and only ros_nodes/ and launch/ know ROS."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ["robots", "tasks", "metarl", "ros_nodes"]
ROS = {"rclpy", "launch", "launch_ros", "ament_index_python", "rosidl_runtime_py"}
SIMULATORS = {"mujoco", "pybullet", "mujoco_warp", "dm_control", "gymnasium"}
NO_SIMULATOR = ["adapter_node.py", "task_node.py", "safety_node.py"]


def python_files(folder):
    """Real files only: metarl/robots and its like are links to the folders at the top."""
    return [p for p in sorted((ROOT / folder).rglob("*.py")) if not any(parent.is_symlink() for parent in p.parents)]


def imported(path):
    """Dotted names that a file imports anywhere, except for type checking alone."""
    names = []
    tree = ast.parse(path.read_text())
    typing_only = {
        id(n) for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" for b in node.body for n in ast.walk(b)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports would break where folders are linked"
            names += [f"{node.module}.{a.name}" for a in node.names]
    return names


def layer_of(name):
    """Which layer a dotted name belongs to, or None for a foreign one."""
    parts = name.split(".")
    if parts[0] != "metarl":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else "metarl"


def is_ros(name):
    return name.split(".")[0] in ROS or name.split(".")[0].endswith(("_msgs", "_srvs"))


@pytest.mark.parametrize("folder", LAYERS)
def test_a_layer_imports_only_those_below_it(folder):
    files = python_files(folder)
    assert files
    for path in files:
        for name in imported(path):
            found = layer_of(name)
            assert found is None or LAYERS.index(found) <= LAYERS.index(folder), f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("folder", ["robots", "tasks", "metarl"])
def test_only_ros_nodes_and_launch_know_ros(folder):
    for path in python_files(folder):
        assert not [n for n in imported(path) if is_ros(n)], path


@pytest.mark.parametrize("file", NO_SIMULATOR)
def test_nodes_of_the_robot_need_no_simulator(file):
    """Also not by way of the modules of this project that they import at once."""
    seen, todo = set(), [ROOT / "ros_nodes" / file]
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in top_level_imports(path):
            assert name.split(".")[0] not in SIMULATORS, f"{file} reaches {name} through {path.relative_to(ROOT)}"
            todo += module_files(name)


def top_level_imports(path):
    """What is imported when the file is imported: not in functions, not for type checking."""
    names = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{a.name}" for a in node.names]
    return names


def module_files(name):
    """Files of this project that importing a dotted name runs."""
    parts = name.split(".")
    if parts[0] != "metarl":
        return []
    base = ROOT if len(parts) > 1 and parts[1] in LAYERS else ROOT / "metarl"
    found = [ROOT / "metarl" / "__init__.py"]
    for depth in range(2, len(parts) + 1):
        place = base.joinpath(*parts[1:depth])
        found += [f for f in (place.with_suffix(".py"), place / "__init__.py") if f.exists()]
    return found


def test_the_check_itself_sees_what_it_must_see(tmp_path):
    file = tmp_path / "x.py"
    file.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mujoco\ndef f():\n    from metarl.ros_nodes import graph\n    import sensor_msgs.msg\n"
    )
    assert imported(file) == ["typing.TYPE_CHECKING", "metarl.ros_nodes.graph", "sensor_msgs.msg"]
    assert [layer_of(n) for n in imported(file)] == [None, "ros_nodes", None]
    assert [is_ros(n) for n in imported(file)] == [False, False, True]
    assert module_files("metarl.tasks.task.Task") == [ROOT / "metarl/__init__.py", ROOT / "tasks/__init__.py", ROOT / "tasks/task.py"]
