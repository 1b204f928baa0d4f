import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from metarl import algos, cli, commands, meta_parameters, presets, robots, tasks
from metarl.describe import field_docs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def file(small_algorithm, tmp_path):
    path = tmp_path / "rl2.safetensors"
    meta_parameters.save(path, small_algorithm("rl2"), "rl2", env_steps=7, command="metarl train")
    return path


def refused(capsys, *args):
    """What `metarl ARGS` says when it refuses."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(args))
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return printed.err


def test_list_names_everything(capsys, tmp_path):
    cli.main(["list", "--json", str(tmp_path / "list.json")])
    said = capsys.readouterr().out
    written = json.loads((tmp_path / "list.json").read_text())
    assert written == {"tasks": tasks.names(), "robots": robots.names(), "algorithms": algos.names(), "zoo": meta_parameters.zoo()}
    assert all(name in said for names in written.values() for name in names)
    assert re.search(r"^tasks: vehicle +car_track, car_track_obstacles, quadrotor_track *$", said, re.MULTILINE)


def test_describe_task(capsys, tmp_path):
    cli.main(["describe", "arm_slide", "--json", str(tmp_path / "x.json")])
    said = capsys.readouterr().out
    assert said.startswith("arm_slide\nStrike an unknown object ")
    assert said.count("arm_slide") == said.count("Task arm_slide/v1") + 1, "the heading, once"
    assert "Task arm_slide/v1:train:0:0: the object's shape is box" in said  # a colon and a name are not an emoji
    mass = next(p for p in tasks.make("arm_slide").params if p.name == "mass")
    assert f"{mass.train[0]:g} … {mass.train[1]:g} log" in said
    written = json.loads((tmp_path / "x.json").read_text())
    row = next(p for p in written["parameters"] if p["name"] == "mass")
    assert (row["unit"], row["train"], row["ood_far"], row["hidden"]) == ("kg", [list(mass.train)], [list(mass.ood_far[0])], True)
    assert set(written["samples"]) == {"train", "iid", "ood_near", "ood_far"}


@pytest.fixture
def measured(file):
    """The JSON that lies beside a file of the zoo, here without an oracle in one of two measurements."""
    common = {"split": "iid", "num_tasks": 64, "seeds_pooled": 1, "errors": [], "error_unit": "m", "returns": [[1.0, 0.5, 1.5], [2.25, 2.0, 2.5]]}
    first = {**common, "simulator": "mujoco", "scores": [], "headroom": None}
    second = {**common, "simulator": "pybullet", "scores": [[0.125, 0.0, 0.5], [0.75, 0.5, 1.0]], "headroom": [0.4, 0.31, 0.52]}
    file.with_suffix(".json").write_text(json.dumps({"seed": 0, "scores": [first, second]}))
    return file


def test_describe_knows_what_was_measured(measured, capsys, monkeypatch):
    monkeypatch.setattr(meta_parameters, "zoo", lambda: ["zoo:arm_reach/rl2", "zoo:arm_slide/rl2"])
    monkeypatch.setattr(meta_parameters, "resolve", lambda name: measured if str(name) in ("zoo:arm_reach/rl2", str(measured)) else Path("nowhere"))
    cli.main(["describe", "arm_reach"])
    assert "headroom: 0.40 [0.31, 0.52] of a trained oracle above a trained policy without memory, measured on 64 tasks of split iid" in capsys.readouterr().out
    cli.main(["describe", "arm_slide"])
    assert re.search(
        r"headroom: 0\.\d\d \[.*\] of the best who knows the task above the best who does not, measured on \d+ tasks of split iid", capsys.readouterr().out
    )
    cli.main(["describe", "half_cheetah_vel"])
    assert "of an ideal body that is told above one that is not" in capsys.readouterr().out
    cli.main(["describe", "bandit_n7_k3"])
    assert "headroom: not known" in capsys.readouterr().out
    cli.main(["describe", str(measured)])
    said = capsys.readouterr().out
    assert "returns: 1.00 2.25 after 0, 1 … episodes, split iid in mujoco" in said
    assert "scores: 0.12 0.75 after 0, 1 … episodes, split iid in pybullet" in said


@pytest.mark.parametrize("name", tasks.names() + algos.names() + ["arm7"])
def test_every_name_can_be_described(name, capsys, tmp_path):
    cli.main(["describe", name, "--json", str(tmp_path / "x.json")])
    assert name in capsys.readouterr().out
    assert json.loads((tmp_path / "x.json").read_text())["kind"] in ("task", "algorithm", "robot")


@pytest.mark.parametrize("name", algos.names())
def test_every_setting_of_every_algorithm_has_its_doc_line(name):
    config = algos.load(name).Config
    docs = field_docs(config)
    assert set(config.__dataclass_fields__) == set(docs)
    assert all(len(text) >= 4 for text in docs.values()), docs


def test_describe_a_task_of_any_numbers(capsys):
    cli.main(["describe", "bandit_n7_k3"])
    assert "bandit_n7_k3" in (said := capsys.readouterr().out)
    assert "p2" in said
    assert "p3" not in said


def test_describe_says_in_what_held_out_tasks_are_others(capsys):
    cli.main(["describe", "grid_navi"])
    assert "held out: nothing: iid draws from the same 21 tasks as train" in capsys.readouterr().out
    cli.main(["describe", "kitchen_grid"])
    assert "held out: of iid, all numbers; the 1536 combinations of choices are those of train" in capsys.readouterr().out
    cli.main(["describe", "point_navigation"])
    assert "held out" not in capsys.readouterr().out


def test_describe_file(file, capsys):
    cli.main(["describe", str(file)])
    said = capsys.readouterr().out
    assert "algorithm: rl2" in said
    assert "env_steps: 7" in said
    assert "hidden_size: 8" in said


def test_help_teaches(capsys):
    for args, words in (
        (["--help"], ["metarl demo", "train", "benchmark"]),
        (["train", "--help"], ["usage: metarl train [-h] [OPTIONS] ALGORITHM TASK", "metarl train rl2 arm_slide --seed 1", "--resume"]),
        (["train", "rl2", "arm_slide", "--help"], ["usage: metarl train [-h] ", "--config.iterations", "Passes over a rollout"]),
        (["evaluate", "--help"], ["--video", "Several files of one algorithm are pooled"]),
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.main(args)
        assert stopped.value.code == 0
        said = capsys.readouterr().out
        assert all(word in said for word in words), (args, said)


@pytest.mark.usefixtures("short_episodes")
def test_train_then_evaluate(capsys, tmp_path):
    out = tmp_path / "run"
    args = ["train", "rl2", "point_navigation", "--seed", "2", "--out", str(out), "--config.num-tasks", "3", "--config.iterations", "2", "--config.layers", "8"]
    cli.main(args)
    result = out / "meta_parameters.safetensors"
    assert str(result) in capsys.readouterr().out
    about = meta_parameters.read(result)[0]
    assert about.command == " ".join(["metarl", *args])
    assert (about.seed, about.config["num_tasks"], about.config["layers"]) == (2, 3, [8])
    figures, picture = tmp_path / "scores.json", tmp_path / "plot.png"
    cli.main(["evaluate", str(result), "--oracle", str(result), "--robust", str(result), "--num-tasks", "4", "--json", str(figures), "--plot", str(picture)])
    printed = capsys.readouterr()
    assert "4 tasks of split iid in analytic" in printed.out
    runs = ("random actions", f"rl2 from {result}")
    assert printed.err.splitlines() == [f"{n} of 2: {who} in analytic, 4 tasks of split iid" for n, who in enumerate(runs, 1)]
    assert json.loads(figures.read_text())["num_tasks"] == 4
    assert picture.stat().st_size > 10_000
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", "rl3", "arm_slide"], "metarl: no algorithm is called 'rl3': did you mean rl2"),
        (["train", "rl2", "arm_slid"], "metarl: no task is called 'arm_slid': did you mean arm_slide"),
        (["describe", "arm_slidr"], "metarl: no task, robot, algorithm or file is called 'arm_slidr': did you mean arm_slide"),
        (["evaluate", "nowhere.safetensors"], "metarl: there is no meta-parameters file 'nowhere.safetensors'"),
        (["evaluate"], "metarl: expected meta-parameters of one task: none was given"),
        (["train", "rl2", "point_navigation", "--out", "/proc/x"], "metarl: cannot write to the folder /proc/x"),
        (
            ["train", "rl2", "point_navigation", "--simulator", "pybulet", "--out", "runs/never"],
            "metarl: no simulator is called 'pybulet': did you mean pybullet",
        ),
        (["train", "rl2", "point_navigation", "--simulator", "mujoco", "--out", "runs/never"], "does not run in 'mujoco'; it runs in analytic"),
        (["benchmark", "nothing"], "metarl: no benchmark is called 'nothing'"),
        (["evaluate", "x", "--json", "/proc/x/y.json"], "metarl: cannot write to the folder /proc/x"),
    ],
)
def test_what_cannot_be_done_is_one_message(args, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *args)


def test_bad_files_and_splits(file, capsys, tmp_path):
    assert "no split is called 'iidd': did you mean iid" in refused(capsys, "evaluate", str(file), "--split", "iidd")
    assert "point_navigation does not run in 'mujoco'" in refused(capsys, "evaluate", str(file), "--simulator", "mujoco")
    assert "point_navigation is computed" in refused(capsys, "evaluate", str(file), "--num-tasks", "2", "--video", str(tmp_path / "x.mp4"))
    file.write_bytes(file.read_bytes()[:500])
    assert "not a readable safetensors file" in refused(capsys, "describe", str(file))


def test_unknown_commands_and_options_are_refused_by_the_parser(capsys):
    for args in (["trian"], ["list", "--nothing"], ["train", "rl2"], ["train", "rl2", "point_navigation", "--config.speed", "3"], []):
        with pytest.raises(SystemExit) as stopped:
            cli.main(args)
        assert stopped.value.code == 2, args


def test_a_wrong_setting_points_to_the_help_that_has_the_settings(capsys):
    for option in (["--config.speed", "3"], ["--config.iterations", "many"]):
        assert "metarl train rl2 point_navigation --help" in refused(capsys, "train", "rl2", "point_navigation", *option)
    assert "metarl train --help" in refused(capsys, "train", "rl2")


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="no task, robot, algorithm or file"):
        cli.main(["describe", "nothing", "--debug"])


def test_demo_says_how_to_get_ros(capsys, monkeypatch, file, tmp_path):
    monkeypatch.setattr(commands, "DEMO_FILE", str(file))
    monkeypatch.setattr(commands, "DEMO_SIMULATOR", "analytic")
    monkeypatch.setattr(commands.importlib.util, "find_spec", lambda name: None)
    cli.main(["demo", "--out", str(tmp_path / "demo"), "--no-film", "--num-tasks", "3"])
    assert "pip install 'metarl[ros,sim]'" in capsys.readouterr().out
    assert json.loads((tmp_path / "demo" / "scores.json").read_text())["num_tasks"] == 3
    assert (tmp_path / "demo" / "adaptation.png").exists()


def test_demo_runs_the_ros_graph_in_another_process(capsys, monkeypatch):
    calls = []

    def run(command, check):
        calls.append(command)
        return subprocess.CompletedProcess(command, returncode=3)

    monkeypatch.setattr(commands.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(commands.subprocess, "run", run)
    with pytest.raises(RuntimeError, match="ended with code 3"):
        commands.run_ros_demo(commands.plain_console())
    assert calls[0][:3] == [sys.executable, "-m", "metarl.ros_nodes.demo"]


def test_presets_name_settings_that_exist():
    for algorithm, task in presets.PRESETS:
        assert tasks.make(task).name == task
        presets.config_for(algorithm, task)  # a setting that does not exist raises
    assert presets.config_for("rl2", "bandit_n50_k3") == presets.config_for("rl2", "bandit_n10_k5"), "what differs in numbers alone"
    assert presets.config_for("rl2", "no preset").num_tasks == algos.load("rl2").Config().num_tasks


def test_a_reader_that_goes_away_is_no_error():
    """`metarl describe rl2 | head -1`"""
    script = f"{sys.executable} -m metarl.cli describe rl2 | head -n 1"
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert ended.stdout == "rl2\n"
    assert ended.stderr == ""
