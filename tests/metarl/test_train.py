import csv
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from metarl import algos, meta_parameters, train
from metarl.algos.rl2 import RL2
from metarl.log import CSV_NAME, TrainingLog, cut_csv
from metarl.presets import config_for
from metarl.train import STATE_NAME, Run, choose_device, meta_train

ROOT = Path(__file__).resolve().parents[2]
SILENT = Console(quiet=True)


@pytest.fixture
def run(small_config, tmp_path):
    return Run("rl2", "point_navigation", small_config("rl2", iterations=6), tmp_path / "run", seed=3, command="metarl train rl2 point_navigation")


def rows(folder):
    """The CSV without the column that no two runs share."""
    with open(folder / CSV_NAME, newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def assert_same_outcome(one, other):
    assert rows(one) == rows(other)
    states = [meta_parameters.load_state(folder / STATE_NAME) for folder in (one, other)]
    for part in ("algorithm", "env", "torch_rng"):
        assert_equal(states[0][part], states[1][part])
    files = [folder / "meta_parameters.safetensors" for folder in (one, other)]
    assert_equal(meta_parameters.read(files[0])[1], meta_parameters.read(files[1])[1])


def assert_equal(left, right):
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_equal(left[key], right[key])
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    else:
        assert left == right


@pytest.fixture
def interrupt_after(monkeypatch):
    """interrupt_after(n): the (n + 1)th meta_update is left in the middle, as Ctrl-C would."""
    original, calls = RL2.meta_update, []

    def at(number, error=KeyboardInterrupt):
        def update(self, rollout):
            logs = original(self, rollout)
            calls.append(1)
            if len(calls) == number + 1:
                raise error
            return logs

        monkeypatch.setattr(RL2, "meta_update", update)

    yield at
    monkeypatch.setattr(RL2, "meta_update", original)


@pytest.mark.usefixtures("short_episodes")
def test_what_a_training_leaves(run):
    result = meta_train(run, console=SILENT)
    assert result == run.out / "meta_parameters.safetensors"
    about = meta_parameters.read(result)[0]
    assert about.command == "metarl train rl2 point_navigation"
    assert about.seed == 3
    table = rows(run.out)
    assert [row["iteration"] for row in table] == ["0", "1", "2", "3", "4", "5"]
    steps = [int(row["env_steps"]) for row in table]
    assert 48 < steps[0] <= 3 * 2 * 2 * 8  # tasks, robots, episodes, decisions; some episodes end early
    assert steps == sorted(steps)
    assert steps[-1] == about.env_steps
    assert {"return_episode_0", "return_episode_1", "error_episode_0", "error_episode_1", "success_episode_1", "policy_loss"} <= set(table[0])
    assert list((run.out / "tensorboard").glob("events*"))
    assert meta_parameters.load(result).adapter(1).act(torch.zeros(1, 1, 2)).shape == (1, 1, 2)


@pytest.mark.usefixtures("short_episodes")
def test_logged_errors_are_those_at_the_end_of_each_episode(run, monkeypatch):

    seen = []
    original = train.collect

    def collect(env, adapter, explore, on_step):
        rollout = original(env, adapter, explore=explore, on_step=on_step)
        seen.append((rollout, env.tasks))
        return rollout

    monkeypatch.setattr(train, "collect", collect)
    meta_train(run, console=SILENT)
    rollout, batch = seen[2]
    assert batch.ids[0] == "point_navigation/v1:train:3:6"  # third iteration of three tasks
    goal = torch.tensor(batch.values, dtype=torch.float32)[:, None]
    assert int(rows(run.out)[2]["env_steps"]) == sum(r.env_steps for r, _ in seen[:3])
    for k in range(2):
        error = (rollout.next_obs[:, :, k, -1] - goal).norm(dim=-1).mean()
        assert float(rows(run.out)[2][f"error_episode_{k}"]) == pytest.approx(float(error), abs=1e-6)
        assert float(rows(run.out)[2][f"return_episode_{k}"]) == pytest.approx(float(rollout.reward[:, :, k].sum(-1).mean()), abs=1e-5)


@pytest.mark.usefixtures("short_episodes")
def test_ctrl_c_saves_the_last_complete_iteration_and_resume_equals_uninterrupted(run, interrupt_after, small_config, monkeypatch):
    whole = Run("rl2", "point_navigation", run.config, run.out.parent / "whole", seed=3)
    meta_train(whole, console=SILENT)
    interrupt_after(4)
    with pytest.raises(KeyboardInterrupt, match=r"4 of 6 iterations are saved in .*run, --resume continues"):
        meta_train(run, checkpoint_every=3, console=SILENT)
    state = meta_parameters.load_state(run.out / STATE_NAME)
    assert state["progress"]["iteration"] == 4
    assert state["algorithm"]["iteration"] == 4  # not the five updates that the algorithm had made
    saved = meta_parameters.read(run.result)[1]
    assert_equal(saved, {k: v for k, v in state["algorithm"]["network"].items() if k in saved})
    torch.manual_seed(0)
    meta_train(run, resume=True, console=SILENT)
    assert_same_outcome(run.out, whole.out)


@pytest.mark.usefixtures("short_episodes")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_an_iteration_ends_it_and_one_while_writing_waits(run, sent, monkeypatch):
    update, write = RL2.meta_update, TrainingLog.write

    def signalled_update(self, rollout):
        os.kill(os.getpid(), sent)
        return update(self, rollout)

    def signalled_write(self, row):
        os.kill(os.getpid(), sent)
        write(self, row)

    before = signal.getsignal(sent)
    for done, (kind, name, patch) in enumerate(((RL2, "meta_update", signalled_update), (TrainingLog, "write", signalled_write))):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt, match=f"stopped; {done} of 6 iterations"):
            patched.setattr(kind, name, patch)
            meta_train(run, resume=done > 0 or (run.out / STATE_NAME).exists(), console=SILENT)
        assert meta_parameters.load_state(run.out / STATE_NAME)["progress"]["iteration"] == len(rows(run.out)) == done
    assert signal.getsignal(sent) is before
    meta_train(run, resume=True, console=SILENT)
    assert len(rows(run.out)) == 6


def start_and_wait_for_rows(run, number):
    """A training in a process of its own, when `number` iterations are in its CSV."""
    preset = dataclasses.asdict(config_for(run.algorithm, run.task))
    settings = {name: value for name, value in dataclasses.asdict(run.config).items() if value != preset[name]}
    words = [word for k, v in settings.items() for word in (f"--config.{k.replace('_', '-')}", *map(str, v if isinstance(v, tuple) else (v,)))]
    command = ["train", run.algorithm, run.task, "--seed=3", f"--out={run.out}", "--checkpoint-every=5", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-m", "metarl.cli", *command], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not ((run.out / CSV_NAME).exists() and len(rows(run.out)) >= number):
        time.sleep(0.01)
    return process


@pytest.fixture
def long_run(small_config, tmp_path):
    """Long enough that a signal finds it at work."""
    return Run("rl2", "point_navigation", small_config("rl2", num_robots=1, iterations=14), tmp_path / "run", seed=3)


def test_killed_training_resumes_bit_for_bit(long_run):
    process = start_and_wait_for_rows(long_run, 6)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was over before it was killed: the test showed nothing"
    done = meta_parameters.load_state(long_run.out / STATE_NAME)["progress"]["iteration"]
    assert done % 5 == 0
    assert len(rows(long_run.out)) > done, "nothing was lost by the kill: the test showed nothing"
    torch.manual_seed(0)
    meta_train(long_run, resume=True, console=SILENT)
    whole = Run("rl2", "point_navigation", long_run.config, long_run.out.parent / "whole", seed=3)
    meta_train(whole, console=SILENT)
    assert_same_outcome(long_run.out, whole.out)


def test_ctrl_c_in_a_terminal_is_one_message_and_a_checkpoint(long_run):
    process = start_and_wait_for_rows(long_run, 4)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    done = meta_parameters.load_state(long_run.out / STATE_NAME)["progress"]["iteration"]
    assert f"metarl: stopped; {done} of 14 iterations are saved in {long_run.out}, --resume continues there" in said
    assert "Traceback" not in said
    assert done >= 4
    meta_parameters.load(long_run.result)
    assert not [f for f in os.listdir(long_run.out) if f.startswith(".")]


@pytest.mark.usefixtures("short_episodes")
def test_metrics_that_are_not_finite_stop_the_training_and_keep_the_checkpoint(run, monkeypatch):
    original = RL2.meta_update
    monkeypatch.setattr(RL2, "meta_update", lambda self, rollout: original(self, rollout) | ({"value_loss": float("nan")} if self.iteration == 5 else {}))
    with pytest.raises(FloatingPointError, match=r"diverged in iteration 4: value_loss is nan. The last good checkpoint is kept in"):
        meta_train(run, checkpoint_every=2, console=SILENT)
    assert meta_parameters.load_state(run.out / STATE_NAME)["progress"]["iteration"] == 4
    meta_parameters.load(run.result)


@pytest.mark.usefixtures("short_episodes")
def test_a_folder_with_a_training_is_never_overwritten_and_never_continued_with_other_settings(run, small_config, tmp_path):
    meta_train(run, console=SILENT)
    before = (run.out / STATE_NAME).read_bytes()
    with pytest.raises(ValueError, match=r"already holds a checkpoint\.safetensors: continue that training with --resume"):
        meta_train(run, console=SILENT)
    other = Run("rl2", "point_navigation", small_config("rl2", clip=0.1, iterations=8), run.out, seed=4)
    with pytest.raises(ValueError, match=r"another one:\n  seed: found 3, expected 4\n  config.clip: found 0.2, expected 0.1$"):
        meta_train(other, resume=True, console=SILENT)
    assert (run.out / STATE_NAME).read_bytes() == before
    longer = Run("rl2", "point_navigation", small_config("rl2", iterations=8), run.out, seed=3)
    meta_train(longer, resume=True, console=SILENT)
    assert [row["iteration"] for row in rows(run.out)] == [str(i) for i in range(8)]
    other = tmp_path / "foreign"
    other.mkdir()
    (other / CSV_NAME).write_text("mine")
    with pytest.raises(ValueError, match=r"already holds a progress\.csv"):
        meta_train(Run("rl2", "point_navigation", run.config, other), console=SILENT)
    assert (other / CSV_NAME).read_text() == "mine"


TASKS = {"rl2": "arm_slide", "robust": "sparse_point_varibad", "pearl": "sparse_point_pearl"}  # point_navigation for the others


@pytest.mark.usefixtures("short_episodes")
@pytest.mark.parametrize("algorithm", algos.names())
def test_every_training_resumes_bit_for_bit(algorithm, small_config, tmp_path, monkeypatch):
    """Stopped before its last iteration, which for RMA is the first of its second phase."""
    config = small_config(algorithm, iterations=4, num_robots=1)
    whole, run = (
        Run(algorithm, TASKS.get(algorithm, "point_navigation"), config, tmp_path / name, seed=2, command="metarl train") for name in ("whole", "run")
    )
    meta_train(whole, console=SILENT)
    collect, calls = train.collect, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return collect(*args, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt, match="stopped; 3 of 4"):
        patched.setattr(train, "collect", interrupted)
        meta_train(run, console=SILENT)
    torch.manual_seed(0)
    meta_train(run, resume=True, console=SILENT)
    assert_same_outcome(run.out, whole.out)


@pytest.mark.usefixtures("short_episodes")
def test_a_file_names_all_the_commands_that_made_it(run, small_config):
    meta_train(run, console=SILENT)
    again = dataclasses.replace(run, command=f"{run.command} --resume")
    meta_train(again, resume=True, console=SILENT)
    assert meta_parameters.read(run.result)[0].command == run.command
    longer = dataclasses.replace(again, config=small_config("rl2", iterations=7), command=f"{again.command} --config.iterations 7")
    meta_train(longer, resume=True, console=SILENT)
    assert meta_parameters.read(run.result)[0].command == f"{run.command} && {run.command} --resume --config.iterations 7"


def test_nothing_to_resume_and_nowhere_to_write(run, small_config):
    with pytest.raises(FileNotFoundError, match=r"nothing to resume: there is no .*checkpoint"):
        meta_train(run, resume=True, console=SILENT)
    with pytest.raises(OSError, match="cannot write to the folder /proc/run"):
        meta_train(Run("rl2", "point_navigation", run.config, Path("/proc/run")), console=SILENT)


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    with pytest.raises(ValueError, match=r"device 'cuda' was asked for, but torch .* sees no GPU"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == "cuda"


def test_csv_is_cut_back_to_the_checkpoint(tmp_path):
    path = tmp_path / CSV_NAME
    assert cut_csv(path, 0) == []
    path.write_text("iteration,loss\r\n0,0.5\r\n1,0.25\r\n2,0.125\r\n3,")
    assert cut_csv(path, 4) == ["iteration", "loss"]
    assert path.read_text().splitlines()[-1] == "3,"  # whole by its number of columns, and asked for
    path.write_text("iteration,loss\r\n0,0.5\r\n1,0.25\r\n2")  # the last row was cut off
    assert cut_csv(path, 4) == ["iteration", "loss"]
    assert path.read_text().splitlines() == ["iteration,loss", "0,0.5", "1,0.25"]
    assert cut_csv(path, 1) == ["iteration", "loss"]
    assert path.read_text().splitlines() == ["iteration,loss", "0,0.5"]
    assert cut_csv(path, 0) == []
    assert not path.exists()


def test_a_second_phase_may_log_other_numbers(tmp_path):
    with TrainingLog(tmp_path, "training", 0, 3, SILENT) as log:
        log.write({"iteration": 0, "seconds": 1.0, "return_episode_0": 2.0, "kl": 0.5})
        log.write({"iteration": 1, "seconds": 2.0, "return_episode_0": 3.0, "student_loss": 0.25})
        log.write({"iteration": 2, "seconds": 3.0, "return_episode_0": 4.0, "kl": 0.125})
    lines = (tmp_path / CSV_NAME).read_text().splitlines()
    assert lines == ["iteration,seconds,return_episode_0,kl,student_loss", "0,1.0,2.0,0.5,", "1,2.0,3.0,,0.25", "2,3.0,4.0,0.125,"]


@pytest.mark.usefixtures("short_episodes")
def test_bad_settings_are_refused_before_anything_is_made(run, small_config):
    bad = {"iterations": -5, "num_tasks": 0, "discount": 2.0, "clip": 0.0, "learning_rate": float("nan"), "layers": (8, 0)}
    with pytest.raises(ValueError, match=r"^RL2Config: ") as found:
        meta_train(dataclasses.replace(run, config=small_config("rl2", **bad)), console=SILENT)
    said = set(str(found.value).removeprefix("RL2Config: ").split("; "))
    assert said == {
        "iterations is -5, expected at least 1", "num_tasks is 0, expected at least 1", "discount is 2.0, expected at most 1",
        "clip is 0.0, expected a number above 0",
        "learning_rate is nan, expected a finite number that is not negative", "layers is (8, 0), expected whole numbers of at least 1",
    }  # fmt: skip
    for settings, message in (({"threads": 0}, "threads is 0, expected at least 1"), ({"device": "gpu"}, "no device is called 'gpu'")):
        with pytest.raises(ValueError, match=message):
            meta_train(run, console=SILENT, **settings)
    with pytest.raises(ValueError, match="seed is -1"):
        meta_train(dataclasses.replace(run, seed=-1), console=SILENT)
    assert not run.out.exists()


@pytest.mark.usefixtures("short_episodes")
def test_two_trainings_at_once_do_not_share_a_folder(run):
    run.out.mkdir()
    with train.alone_in(run.out), pytest.raises(ValueError, match="another training is writing to"):
        meta_train(run, console=SILENT)
    assert not list(run.out.iterdir())
    meta_train(run, console=SILENT)
