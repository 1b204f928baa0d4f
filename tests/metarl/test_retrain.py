"""benchmarks/retrain.py: the zoo's commands are those of a training that can begin anew."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from metarl import cli, meta_parameters

SPEC = importlib.util.spec_from_file_location("retrain", Path(__file__).parents[2] / "benchmarks" / "retrain.py")
retrain = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(retrain)

NEUTRAL = {"memory_span": 1, "max_gradient_norm": 1e9}  # what files mean that are older than a setting


@pytest.mark.parametrize("entry", meta_parameters.zoo())
def test_every_entry_can_be_trained_anew(entry, tmp_path):
    arguments = retrain.arguments(entry, tmp_path / "again")
    command, about = cli.parse(arguments), meta_parameters.describe(meta_parameters.resolve(entry))
    assert (command.algorithm, command.seed, command.resume, Path(command.out)) == (about["algorithm"], about["seed"], False, tmp_path / "again")
    assert command.task == entry.removeprefix("zoo:").partition("/")[0]
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(command.config).items()}
    assert {**{name: settings[name] for name in NEUTRAL if settings.get(name) == NEUTRAL[name]}, **about["config"]} == settings


def test_the_last_settings_of_a_training_that_was_continued(monkeypatch, tmp_path):
    said = "metarl train rl2 arm_slide --seed 3 --out runs/x && metarl train rl2 arm_slide --seed 3 --out runs/x --resume --config.iterations 90"
    monkeypatch.setattr(meta_parameters, "describe", lambda file: {"command": said})
    wanted = ["train", "rl2", "arm_slide", "--seed", "3", "--config.iterations", "90", "--out", str(tmp_path)]
    assert retrain.arguments("zoo:arm_slide/rl2", tmp_path) == wanted
