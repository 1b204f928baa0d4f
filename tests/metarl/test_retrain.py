"""benchmarks/retrain.py: the zoo's commands are those of a training that can begin anew."""

import importlib.util
from pathlib import Path

import pytest

from metarl import cli, meta_parameters

SPEC = importlib.util.spec_from_file_location("retrain", Path(__file__).parents[2] / "benchmarks" / "retrain.py")
retrain = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(retrain)


@pytest.mark.parametrize("entry", meta_parameters.zoo())
def test_every_entry_can_be_trained_anew(entry, tmp_path):
    arguments = retrain.arguments(entry, tmp_path / "again")
    command, about = cli.parse(arguments), meta_parameters.describe(meta_parameters.resolve(entry))
    assert (command.algorithm, command.seed, command.resume, Path(command.out)) == (about["algorithm"], about["seed"], False, tmp_path / "again")
    assert command.task == entry.removeprefix("zoo:").partition("/")[0]


def test_the_last_settings_of_a_training_that_was_continued(monkeypatch, tmp_path):
    said = "metarl train rl2 arm_slide --seed 3 --out runs/x && metarl train rl2 arm_slide --seed 3 --out runs/x --resume --config.iterations 90"
    monkeypatch.setattr(meta_parameters, "describe", lambda file: {"command": said})
    wanted = ["train", "rl2", "arm_slide", "--seed", "3", "--config.iterations", "90", "--out", str(tmp_path)]
    assert retrain.arguments("zoo:arm_slide/rl2", tmp_path) == wanted
