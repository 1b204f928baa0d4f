import dataclasses
import json
import os
import pickle

import pytest
import safetensors.torch
import torch

from metarl import meta_parameters, robots, tasks
from metarl.ros_nodes import control_loop
from metarl.tasks.arm_reach import ArmReach


@pytest.fixture
def saved(small_algorithm, tmp_path):
    path = tmp_path / "folder" / "file.safetensors"
    meta_parameters.save(path, small_algorithm("rl2"), "rl2", env_steps=1234, command="metarl train rl2 point_navigation")
    return path


def rewrite(path, change_tensors=lambda t: None, change_data=lambda d: None):
    """The same file with something changed."""
    about, tensors = meta_parameters.read(path)
    data = {**dataclasses.asdict(about), "spec": about.spec.to_dict()}
    change_tensors(tensors)
    change_data(data)
    path.write_bytes(safetensors.torch.save(tensors, {meta_parameters.KEY: json.dumps(data)}))


def test_the_file_says_what_it_is(saved, small_algorithm):
    said = meta_parameters.describe(saved)
    assert (said["algorithm"], said["seed"], said["env_steps"], said["format"]) == ("rl2", 1, 1234, 1)
    assert said["command"] == "metarl train rl2 point_navigation"
    assert said["config"]["hidden_size"] == 8
    assert said["spec"]["action_names"] == ("x", "y")
    assert said["commit"] == "unknown" or len(said["commit"].removesuffix("-dirty")) == 40
    expected = small_algorithm("rl2").meta_parameters()
    assert said["tensors"] == len(expected)
    assert said["numbers"] == sum(t.numel() for t in expected.values())


def test_equal_contents_are_equal_bytes_and_nothing_else_is_left(saved, small_algorithm):
    first = saved.read_bytes()
    meta_parameters.save(saved, small_algorithm("rl2"), "rl2", env_steps=1234, command="metarl train rl2 point_navigation")
    assert saved.read_bytes() == first
    assert os.listdir(saved.parent) == [saved.name]


def test_missing_file_lists_the_zoo(monkeypatch):
    monkeypatch.setattr(meta_parameters, "zoo", lambda: ["zoo:arm_reach/rl2", "zoo:arm_slide/maml", "zoo:arm_slide/rl2", "zoo:kitchen/snail"])
    with pytest.raises(FileNotFoundError, match=r"no meta-parameters file 'zoo:arm_slid/rl2'; in the zoo there are zoo:arm_slide/rl2"):
        meta_parameters.load("zoo:arm_slid/rl2")
    with pytest.raises(FileNotFoundError, match=r"no meta-parameters file 'nowhere.safetensors'"):
        meta_parameters.load("nowhere.safetensors")


def test_what_is_no_file_of_meta_parameters_is_told_as_what_it_is(saved, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").write_text("# Notes, longer than a header's eight bytes\n")
    with pytest.raises(FileNotFoundError, match=rf"'{saved.parent}' is a folder, expected a meta-parameters file .*: it holds {saved}$"):
        meta_parameters.load(saved.parent)
    with pytest.raises(FileNotFoundError, match=r"empty' is a folder, .*: it holds none"):
        meta_parameters.load(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"notes\.md is no meta-parameters file, which `metarl train` writes as NAME\.safetensors"):
        meta_parameters.load(tmp_path / "notes.md")


def test_every_entry_of_the_zoo_loads():
    for name in meta_parameters.zoo():
        algorithm = meta_parameters.load(name)
        assert name == f"zoo:{algorithm.spec.task}/{meta_parameters.read(name)[0].algorithm}"


@pytest.mark.parametrize("keep", [0, 4, 100, -8])
def test_truncated_file(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(ValueError, match="not a readable safetensors file: truncated"):
        meta_parameters.load(saved)


def flip_signs(path, count=100):
    """Of so many float32 in the middle of the file."""
    data = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(data[:8], "little")
    middle = begin + (len(data) - begin) // 8 * 4 - 2 * count
    for last in range(middle + 3, middle + 3 + 4 * count, 4):
        data[last] ^= 0x80
    path.write_bytes(data)


def test_a_damaged_file_is_refused(saved, tmp_path):
    state, damaged = tmp_path / "state", r" is damaged: its contents have SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}, which"
    meta_parameters.save_state(state, {"replay": torch.ones(1000)})
    for path, read in ((saved, meta_parameters.load), (state, meta_parameters.load_state)):
        read(path)
        flip_signs(path)
        with pytest.raises(ValueError, match=f"{path}{damaged}"):
            read(path)
    with pytest.raises(ValueError, match=f"{saved}{damaged}"):  # as the adapter node loads it
        control_loop.load(str(saved), robots.load("arm7"))
    meta_parameters.save_state(state, {"speed": 0.25})
    state.write_bytes(state.read_bytes().replace(b"0.25", b"0.75"))
    with pytest.raises(ValueError, match=f"{state}{damaged}"):
        meta_parameters.load_state(state)


def test_a_file_without_a_digest_loads_as_before(saved):
    expected = meta_parameters.load(saved).meta_parameters()
    rewrite(saved)
    assert meta_parameters.DIGEST_KEY.encode() not in saved.read_bytes()
    assert all(torch.equal(t, expected[name]) for name, t in meta_parameters.load(saved).meta_parameters().items())


def test_pickles_are_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the pickle ran",))

    for name, write in (("a", lambda p: torch.save({"x": Trap()}, p)), ("b", lambda p: p.write_bytes(pickle.dumps(Trap())))):
        write(tmp_path / name)
        with pytest.raises(ValueError, match="looks like a pickle"):
            meta_parameters.load(tmp_path / name)


def test_foreign_safetensors_and_training_states(saved, tmp_path):
    foreign = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(2)}, foreign)
    with pytest.raises(ValueError, match="not of metarl meta-parameters: its metadata has no entry 'metarl'"):
        meta_parameters.load(foreign)
    meta_parameters.save_state(foreign, {"x": 1})
    with pytest.raises(ValueError, match="not of metarl meta-parameters"):
        meta_parameters.load(foreign)
    with pytest.raises(ValueError, match="not a training state"):
        meta_parameters.load_state(saved)


def test_another_format_and_missing_metadata(saved):
    rewrite(saved, change_data=lambda d: d.update(format=2))
    with pytest.raises(ValueError, match=r"has format 2, this metarl .* reads format 1"):
        meta_parameters.load(saved)
    rewrite_raw = {meta_parameters.KEY: json.dumps({"format": 1, "algorithm": "rl2"})}
    saved.write_bytes(safetensors.torch.save({}, rewrite_raw))
    with pytest.raises(ValueError, match="lacks command, commit, config, env_steps, seed, spec, version"):
        meta_parameters.load(saved)


@pytest.mark.parametrize(
    ("field", "value", "message"), [("algorithm", "rl3", "no algorithm is called 'rl3': did you mean rl2"), ("task", "point_navigatio", "no task is called")]
)
def test_unknown_algorithm_and_task(saved, field, value, message):
    rewrite(saved, change_data=lambda d: (d if field in d else d["spec"]).update({field: value}))
    with pytest.raises(ValueError, match=message):
        meta_parameters.load(saved)


def test_another_robot_is_refused_by_name(small_algorithm, tmp_path, monkeypatch):
    path = tmp_path / "reach.safetensors"
    meta_parameters.save(path, small_algorithm("rl2", task="arm_reach"), "rl2", env_steps=1)
    rewrite(path, change_data=lambda d: d["spec"].update(robot="arm6", joint_names=["joint1", "joint2"]))
    with pytest.raises(ValueError, match=r"robot: found 'arm6', expected 'arm7'\n  joint_names: found \('joint1', 'joint2'\), expected \('panda_joint1'"):
        meta_parameters.load(path)
    meta_parameters.save(path, small_algorithm("rl2", task="arm_reach"), "rl2", env_steps=1)
    monkeypatch.setattr(ArmReach, "decision_dt", 0.05)
    monkeypatch.setattr(ArmReach, "observed", {"qpos": 7})
    with pytest.raises(ValueError, match=r"does not fit the task 'arm_reach':\n  obs_names: .*\n  obs_sizes: .*\n  control_dt: found 0.02, expected 0.05"):
        meta_parameters.load(path)


def test_tensors_that_do_not_fit_are_named(saved):
    def change(tensors):
        tensors["policy.extra"] = torch.zeros(1)
        tensors["policy.log_std"] = torch.zeros(3)
        tensors["normalizer.var"] = tensors["normalizer.var"].double()
        del tensors["normalizer.mean"]

    rewrite(saved, change_tensors=change)
    with pytest.raises(ValueError, match="do not fit") as caught:
        meta_parameters.load(saved)
    assert str(caught.value).split("\n  ")[1:] == [
        "normalizer.mean: missing",
        "normalizer.var: found float64 [2], expected float32 [2]",
        "policy.extra: unknown",
        "policy.log_std: found float32 [3], expected float32 [2]",
    ]


def test_numbers_that_are_not_finite_are_refused_in_both_directions(saved, small_algorithm):
    rewrite(saved, change_tensors=lambda t: t["policy.log_std"].fill_(torch.nan))
    with pytest.raises(ValueError, match=r"not finite in .*: policy.log_std"):
        meta_parameters.load(saved)
    algorithm, before = small_algorithm("rl2"), saved.read_bytes()
    algorithm.network.policy.log_std.data.fill_(torch.inf)
    with pytest.raises(ValueError, match=r"not finite in the meta-parameters to be saved: policy.log_std"):
        meta_parameters.save(saved, algorithm, "rl2", env_steps=1)
    assert saved.read_bytes() == before


def test_settings_that_the_algorithm_does_not_have(saved):
    rewrite(saved, change_data=lambda d: d["config"].update(hidden=3, speed=9))
    with pytest.raises(ValueError, match=r"the configuration has hidden, speed, expected are .*hidden_size"):
        meta_parameters.load(saved)


def test_unwritable_places_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=f"cannot write to the folder {tmp_path}/file"):
        meta_parameters.check_writable(tmp_path / "file" / "x.safetensors")
    with pytest.raises(OSError, match="cannot write to the folder /proc"):
        meta_parameters.check_writable("/proc/x.safetensors")
    meta_parameters.check_writable(tmp_path / "new" / "x.safetensors")
    assert os.listdir(tmp_path / "new") == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x"
    meta_parameters.write_atomically(path, b"old")

    def fail(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        meta_parameters.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_training_state_round_trip_is_exact(tmp_path):
    shared = torch.arange(6.0)
    state = {
        "tensors": {
            "double": torch.tensor([0.1, torch.inf], dtype=torch.float64),
            "rng": torch.get_rng_state(),
            "flag": torch.tensor(True),
            "none": torch.zeros(0, 3),
        },
        "views": [shared[:3], shared[3:], shared.reshape(2, 3).T],
        "numbers": {"third": 1 / 3, "tiny": 5e-324, "big": 2**70, "minus": -0.0, "nan": float("nan"), "yes": True},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}, 11: {}}, "betas": (0.9, 0.999), "params": [0, 11]},
        "text": "a/b \u00fc\n",
        "nothing": None,
        "empty": [(), [], {}],
    }
    meta_parameters.save_state(tmp_path / "s", state)
    back = meta_parameters.load_state(tmp_path / "s")
    assert list(back) == list(state)
    for key, tensor in state["tensors"].items():
        assert back["tensors"][key].dtype == tensor.dtype
        assert torch.equal(back["tensors"][key], tensor)
    assert all(torch.equal(a, b) for a, b in zip(back["views"], state["views"], strict=True))
    assert repr(back["numbers"]) == repr(state["numbers"])
    assert back["optimizer"]["betas"] == (0.9, 0.999)
    assert list(back["optimizer"]["state"]) == [0, 11]
    assert torch.equal(back["optimizer"]["state"][0]["step"], torch.tensor(3.0))
    assert (back["text"], back["nothing"], back["empty"]) == (state["text"], None, [(), [], {}])


def test_what_a_training_state_cannot_hold_is_named(tmp_path):
    with pytest.raises(TypeError, match="cannot hold /a/1, which is a set"):
        meta_parameters.save_state(tmp_path / "s", {"a": [1, {2}]})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("entry", meta_parameters.zoo())
def test_the_zoo_can_be_trained_again_on_any_machine(entry):
    """The command stands in the file, names what exists, and no folder of the machine that ran it."""
    about = meta_parameters.describe(meta_parameters.resolve(entry))
    assert " /" not in about["command"]
    program, verb, algorithm, task, *options = about["command"].partition(" && ")[0].split()
    assert (program, verb, algorithm) == ("metarl", "train", about["algorithm"])
    assert tasks.make(task).name == entry.removeprefix("zoo:").partition("/")[0]
    assert f"--seed {about['seed']}" in " ".join(options) or about["seed"] == 0
