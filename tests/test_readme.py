"""Every command and every piece of Python in the README runs, the long ones at a small size. Blocks marked `console` need an installed ROS."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from metarl import cli, meta_parameters, tasks

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = {  # what is added to a command to make it small
    "metarl train": "--config.iterations 1 --config.num-tasks 4 --config.hidden-size 8 --config.minibatches 1",
    "metarl evaluate": "--num-tasks 2 --threads 1",
    "metarl view": "--num-tasks 1 --out view.png",
}
SLOW = ("metarl benchmark", "python -m metarl.ros_nodes.demo")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[str]:
    return [line for line in block.splitlines() if line.strip()]


BASH = blocks("bash")
SLOW_COMMANDS = [line for block in BASH for line in commands(block) if line.startswith(SLOW)]
LEFT = sorted({name for block in BASH for name in re.findall(r"--(?:plot|video|json|markdown) (\S+)", block)})


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone")
def test_what_commands_leave_behind_is_no_part_of_the_repository():
    ignored = subprocess.run(["git", "check-ignore", *LEFT], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert LEFT
    assert ignored == LEFT


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in, and metarl's tasks as they were."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tasks, "__path__", list(tasks.__path__))
    return tmp_path


def write_files(folder: Path) -> None:
    """Put the Python that begins with the name of a file where it says."""
    for block in blocks("python"):
        name = re.match(r"# (\S+/\S+\.py)\n", block)
        if name:
            file = folder / name[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block)


def run(line: str) -> None:
    words = shlex.split(line, comments=True)
    small = next((shlex.split(extra) for start, extra in SMALL.items() if line.startswith(start)), [])
    if line.startswith("metarl view"):  # MuJoCo reads how to draw when it is imported, which these tests have done
        subprocess.run([sys.executable, "-m", "metarl.cli", *words[1:], *small], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    elif words[0] == "metarl":
        again = ["--config.iterations", "2"] if "--resume" in words else []
        cli.main([*words[1:], *small, *again])
    elif words[:2] == ["pip", "install"]:
        dry = ["--dry-run", "--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([sys.executable, "-m", *words[:2], *dry, *words[2:]], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr  # an extra that does not exist is a warning
    elif words[0] == "make":
        subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True)  # really run by the continuous integration
    elif words[0] == "export" and words[1].startswith("METARL_TASKS="):
        tasks.add_folder(words[1].partition("=")[2])
    elif words[0] == "python":
        subprocess.run([sys.executable, *words[1:]], check=True)
    else:
        pytest.fail(f"this test does not know how to run {line!r}")


def test_the_two_commands_are_there():
    assert [commands(block) for block in BASH[:2]] == [["make demo"], ["make test"]]


@pytest.mark.parametrize("block", BASH, ids=[block.splitlines()[0] for block in BASH])
def test_commands(block, here):
    write_files(here)
    for line in commands(block):
        if line not in SLOW_COMMANDS:
            run(line)


@pytest.mark.learn
@pytest.mark.parametrize("line", SLOW_COMMANDS)
def test_slow_commands(line, here):
    if "ros_nodes" in line and importlib.util.find_spec("rclpy") is None:
        pytest.skip("rclpy is not installed")
    run(line)


@pytest.mark.parametrize("block", blocks("python"), ids=[block.splitlines()[0] for block in blocks("python")])
def test_python(block, here, capsys):
    exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
    for said in re.findall(r"^print\(.*\)  # (\S+:\S+)$", block, re.MULTILINE):
        assert said in capsys.readouterr().out


def test_links_lead_somewhere():
    for file in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / file).read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), f"{file} links to {target}"


def test_files_and_names_that_the_documents_mention_exist():
    for file in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"):
        text = (ROOT / file).read_text(encoding="utf-8")
        for path in re.findall(r"`((?:robots|tasks|metarl|ros_nodes|launch|tests)/[\w/.]+\.(?:py|yaml))`", text):
            assert (ROOT / path).exists(), f"{file} speaks of {path}"
        for entry in re.findall(r"zoo:([\w/]+)", text):
            assert f"zoo:{entry}" in meta_parameters.zoo(), f"{file} speaks of zoo:{entry}"
