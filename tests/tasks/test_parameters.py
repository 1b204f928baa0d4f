import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from gymnasium import registry
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from metarl import tasks
from metarl.describe import describe
from metarl.tasks import gymnasium, parameters
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.parameters import SPLITS, Param, TaskBatch
from metarl.tasks.task import EnvSpec

MASS = Param("mass", "kg", "weighs {:.2f} kg", nominal=0.2, train=(0.1, 0.4), scale="log", ood_near=((0.4, 0.5),), ood_far=((0.05, 0.08), (0.5, 0.8)))
TURN = Param("turn", "rad", "turned by {:+.1f} rad", nominal=0.0, train=(-1.0, 3.0))
SHAPE = Param("shape", "", "a {}", nominal="box", choices=("box", "cylinder"), ood_far=("ball",))
PARAMS = (MASS, TURN, SHAPE)


def batch(values) -> TaskBatch:
    return TaskBatch("toy", PARAMS, np.array(values, dtype=float), tuple(f"id{i}" for i in range(len(values))))


def draw(count: int, split: str, seed: int = 0, start: int = 0) -> TaskBatch:
    return parameters.sample("toy", 1, PARAMS, range(start, start + count), split, seed)


def inside(param: Param, value: float, options) -> bool:
    if param.choices:
        return param.decode(value) in options
    return any(low <= value <= high for low, high in options)


@settings(max_examples=40, deadline=None)
@given(split=st.sampled_from(SPLITS), seed=st.integers(0, 2**40), start=st.integers(0, 2**40))
def test_each_split_is_where_it_promises_to_be(split, seed, start):
    drawn = draw(20, split, seed, start)
    for row in drawn.values:
        at_home = [inside(p, v, p.options("train")) for p, v in zip(PARAMS, row, strict=True)]
        away = [inside(p, v, p.options(split)) for p, v in zip(PARAMS, row, strict=True)]
        assert all(h or a for h, a in zip(at_home, away, strict=True))
        if split in ("train", "iid"):
            assert all(at_home)
        else:
            assert not all(at_home)
            assert at_home[1]  # `turn` has no range out of distribution


def test_each_parameter_leaves_its_range_in_about_half_of_the_tasks():
    far = draw(2000, "ood_far")
    heavy_or_light = (far.column("mass") < 0.1) | (far.column("mass") > 0.4)
    ball = far.column("shape") == 2
    assert (heavy_or_light | ball).all()
    # two of three tasks: both have left 1/4, one of them 1/2, none 1/4 -> then one at random
    assert 0.59 < heavy_or_light.mean() < 0.66
    assert 0.59 < ball.mean() < 0.66
    light = far.column("mass")[heavy_or_light] < 0.1
    assert 0.45 < light.mean() < 0.55  # each of the two intervals equally often


def test_scales():
    drawn = draw(4000, "train")
    # half of the tasks lie under the geometric mean of a log range, and under the middle of a linear one
    assert abs((drawn.column("mass") < 0.2).mean() - 0.5) < 0.03
    assert abs((drawn.column("turn") < 1.0).mean() - 0.5) < 0.03
    assert abs((drawn.column("shape") == 0).mean() - 0.5) < 0.03
    assert set(drawn.column("shape")) == {0.0, 1.0}
    assert drawn.column("mass").min() < 0.101
    assert drawn.column("mass").max() > 0.396
    columns = np.corrcoef(drawn.values.T)
    assert np.abs(columns - np.eye(3)).max() < 0.06


def test_a_task_depends_neither_on_how_many_are_drawn_nor_on_the_order():
    many = draw(50, "iid", seed=3)
    few = parameters.sample("toy", 1, PARAMS, [17, 4, 49], "iid", 3)
    np.testing.assert_array_equal(few.values, many.values[[17, 4, 49]])
    assert few.ids == ("toy/v1:iid:3:17", "toy/v1:iid:3:4", "toy/v1:iid:3:49")


@pytest.mark.parametrize("change", [{"task": "toy2"}, {"version": 2}, {"split": "iid"}, {"seed": 1}])
def test_name_version_split_and_seed_give_other_tasks(change):
    base = {"task": "toy", "version": 1, "params": PARAMS, "indices": range(200), "split": "train", "seed": 0}
    first, other = parameters.sample(**base), parameters.sample(**{**base, **change})
    assert not set(first.column("mass")) & set(other.column("mass"))
    assert not set(first.ids) & set(other.ids)


def test_unknown_split_and_split_without_a_range():
    with pytest.raises(ValueError, match=r"no split is called 'odd_near': did you mean ood_near"):
        draw(1, "odd_near")
    with pytest.raises(ValueError, match=r"toy has no split 'ood_near': no parameter has a range for it; it has train, iid$"):
        parameters.sample("toy", 1, (TURN,), range(1), "ood_near", 0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"mass": 0.9}, r"mass = 0.9 kg: allowed is 0.05 to 0.8 kg"),
        ({"mass": math.nan}, r"mass = nan kg: allowed is 0.05 to 0.8 kg"),
        ({"mass": math.inf}, r"mass = inf kg: allowed is 0.05 to 0.8 kg"),
        ({"turn": 3.1}, r"turn = 3.1 rad: allowed is -1 to 3 rad"),
        ({"mass": None}, r"^mass = None is no number: allowed is 0.05 to 0.8 kg$"),
        ({"mass": "heavy"}, r"^mass = 'heavy' is no number: allowed is 0.05 to 0.8 kg$"),
        ({"shape": "bull"}, r"no shape is called 'bull': did you mean ball.* known are box, cylinder, ball"),
        ({"weight": 0.2}, r"no parameter is called 'weight': .*known are mass, shape, turn"),
    ],
)
def test_custom_values_that_are_refused(row, message):
    with pytest.raises(ValueError, match=message):
        parameters.custom("toy", 1, PARAMS, [{}, row])


def test_custom_tasks():
    made = parameters.custom("toy", 1, PARAMS, [{"mass": 0.8, "shape": "ball"}, {"turn": 2}, {"turn": 2.0}])
    np.testing.assert_array_equal(made.values, [[0.8, 0.0, 2.0], [0.2, 2.0, 0.0], [0.2, 2.0, 0.0]])
    assert made.ids[0].startswith("toy/v1:custom:")
    assert made.ids[0] != made.ids[1] == made.ids[2]


def test_limits_allow_more_than_the_splits():
    wide = Param("mass", "kg", "{}", nominal=1.0, train=(0.5, 2.0), limits=(0.01, 10.0))
    assert wide.encode(10.0) == 10.0
    with pytest.raises(ValueError, match=r"allowed is 0.01 to 10 kg"):
        wide.encode(11.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give either an interval `train` or `choices`"),
        ({"train": (0.0, 1.0), "choices": ("a",)}, "give either an interval `train` or `choices`"),
        ({"train": (0.0, 1.0), "scale": "cubic"}, "scale is 'cubic', expected 'linear' or 'log'"),
        ({"train": (0.0, 1.0), "scale": "log"}, "a log scale needs a positive range"),
        ({"train": (0.1, 1.0), "scale": "log", "ood_near": ((-1.0, 0.1),)}, r"range \(-1.0, 0.1\) of `ood_near` does not fit: a log scale needs"),
        ({"train": (1.0, 0.0)}, r"the range \(1.0, 0.0\) of `train` is empty"),
        ({"train": (0.0, 1.0), "ood_far": ((0.2, 0.9),)}, r"range \(0.2, 0.9\) of `ood_far` overlaps that of `train`, \(0.0, 1.0\): expected one beside it"),
        ({"train": (0.0, 1.0), "ood_near": ((0.9, 1.2),)}, r"range \(0.9, 1.2\) of `ood_near` overlaps"),
        ({"train": (0.1, 1.0), "limits": (0.2, 0.5)}, r"range \(0.1, 1.0\) of `train` is not within `limits` = \(0.2, 0.5\)"),
        ({"train": (0.1, 1.0), "ood_far": ((1.0, 3.0),), "limits": (0.0, 2.0)}, r"range \(1.0, 3.0\) of `ood_far` is not within"),
        ({"train": (0.0, 1.0), "nominal": 5.0}, "its nominal value is none: x = 5: allowed is 0 to 1"),
        ({"choices": ("a", "b"), "nominal": "z"}, "its nominal value is none: no x is called 'z': known are a, b"),
        ({"choices": ("a", "b", "a"), "nominal": "a"}, "`choices` is a, b, a, expected each choice once"),
        ({"choices": ("a", "b"), "ood_far": ("c", "b"), "nominal": "a"}, "`ood_far` is c, b, expected choices that training has not: a, b"),
    ],
)
def test_parameters_that_make_no_sense(fields, message):
    with pytest.raises(ValueError, match=f"parameter x: .*{message}"):
        Param("x", "", "{}", **{"nominal": 0.5, **fields})


def test_two_parameters_of_one_name_are_refused():
    for make in (lambda params: parameters.sample("toy", 1, params, range(3), "train", 0), lambda params: parameters.custom("toy", 1, params, [{}])):
        with pytest.raises(ValueError, match=r"^toy has several parameters called mass: expected names that differ$"):
            make((MASS, TURN, MASS))


def test_normalised_puts_the_training_range_on_minus_one_to_one():
    values = [[0.1, -1.0, 0], [0.4, 3.0, 2], [0.2, 1.0, 1]]  # 0.2 is the geometric mean of 0.1 and 0.4
    expected = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(batch(values).normalised(), expected, atol=1e-6, rtol=0)
    assert parameters.sample("none", 1, (), range(3), "train", 0).normalised().shape == (3, 0)


def test_task_batch_takes_rows_columns_and_repeats():
    three = batch([[0.1, 0, 0], [0.2, 1, 1], [0.3, 2, 2]])
    assert len(three) == 3
    assert (three[1].ids, three[1:].ids, three[[2, 0]].ids) == (("id1",), ("id1", "id2"), ("id2", "id0"))
    assert three[np.array([True, False, True])].ids == ("id0", "id2")
    np.testing.assert_array_equal(three[[2, 0]].column("mass"), [0.3, 0.1])
    np.testing.assert_array_equal(three.named(2)["turn"], [0, 0, 1, 1, 2, 2])
    joined = TaskBatch.concatenate([three[:1], three[2]])
    assert joined.ids == ("id0", "id2")
    np.testing.assert_array_equal(joined.values, three.values[[0, 2]])


def test_sentence():
    assert batch([[0.123, 2.0, 2]]).describe(0) == "Task id0: weighs 0.12 kg, turned by +2.0 rad, a ball."
    assert parameters.sample("none", 1, (), range(1), "train", 0).describe(0) == "Task none/v1:train:0:0."


@settings(max_examples=20, deadline=None)
@given(split=st.sampled_from(SPLITS), seed=st.integers(0, 2**40))
def test_json_gives_the_same_batch_back_exactly(split, seed):
    drawn = draw(7, split, seed)
    again = parameters.from_json(drawn.to_json(), "toy", PARAMS)
    np.testing.assert_array_equal(again.values, drawn.values)
    assert (again.task, again.params, again.ids) == (drawn.task, drawn.params, drawn.ids)


def test_json_of_no_tasks():
    none = parameters.from_json(draw(0, "train").to_json(), "toy", PARAMS)
    assert none.values.shape == (0, 3)


@pytest.mark.parametrize(
    "text", ["[]", '{"task": "toy"}', '{"task": "toy", "tasks": 3}', '{"task": "toy", "tasks": [{"id": "x"}]}', '{"tasks": [{"values": {}}]}']
)
def test_json_of_something_else(text):
    with pytest.raises(ValueError, match=r'^no tasks are in .*: expected {"task": NAME, "tasks": '):
        parameters.from_json(text, "toy", PARAMS)


def test_a_negative_number_of_tasks():
    with pytest.raises(ValueError, match=r"^num_tasks is -3, expected at least 0$"):
        tasks.make("arm_reach").sample(-3)


def test_json_that_is_refused():
    good = json.loads(draw(1, "train").to_json())
    with pytest.raises(ValueError, match=r"these tasks are of 'toy', expected 'other'"):
        parameters.from_json(json.dumps(good), "other", PARAMS)
    for change, message in (
        ({"mass": 7.0}, "mass = 7 kg: allowed is"),
        ({"mess": 0.2}, "no parameter is called 'mess': did you mean mass"),
    ):
        bad = {"task": "toy", "tasks": [{"id": "x", "values": {**good["tasks"][0]["values"], **change}}]}
        with pytest.raises(ValueError, match=message):
            parameters.from_json(json.dumps(bad), "toy", PARAMS)
    del good["tasks"][0]["values"]["turn"]
    with pytest.raises(ValueError, match="missing parameters: turn"):
        parameters.from_json(json.dumps(good), "toy", PARAMS)


@pytest.mark.parametrize("name", tasks.names())
def test_env_spec_survives_json(name):
    spec = tasks.make(name).spec
    assert EnvSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert spec.differences(spec) == []


def test_env_spec_says_what_differs():
    reach, slide = tasks.make("arm_reach").spec, tasks.make("arm_slide").spec
    lines = slide.differences(reach)
    assert "task: found 'arm_slide', expected 'arm_reach'" in lines
    assert "horizon: found 1, expected 100" in lines
    assert not any(line.startswith("robot") for line in lines)


def test_unknown_tasks_list_the_near_ones():
    with pytest.raises(ValueError, match=r"no task is called 'arm_reech': did you mean arm_reach"):
        tasks.make("arm_reech")


OWN_TASK = """
from metarl.tasks.point_navigation import PointNavigation

class Straight(PointNavigation):
    name = "straight_line"
    horizon = 7
"""


def test_task_files_in_a_folder_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "__path__", list(tasks.__path__))
    (tmp_path / "straight_line.py").write_text(OWN_TASK)
    assert "straight_line" not in tasks.names()
    tasks.add_folder(tmp_path)
    assert "straight_line" in tasks.names()
    assert tasks.make("straight_line").spec.horizon == 7
    with pytest.raises(ValueError, match=r"no folder of task files .*absent"):
        tasks.add_folder(tmp_path / "absent")
    tasks.add_folder(tmp_path)  # once more: nothing changes
    assert tasks.names().count("straight_line") == 1
    shutil.copytree(tmp_path, tmp_path / "other")
    with pytest.raises(ValueError, match=r"holds straight_line: a task file of that name is known already"):
        tasks.add_folder(tmp_path / "other")
    (tmp_path / "broken_line.py").write_text("def (")
    with pytest.raises(ImportError, match=rf"the task file {tmp_path}/broken_line.py cannot be read: SyntaxError: .*line 1"):
        tasks.make("broken_line")


@pytest.mark.parametrize("content", [b"def (", b"raise RuntimeError", b"\xff", b"\0"])
def test_a_broken_task_file_stands_in_the_way_of_no_other(content, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "__path__", list(tasks.__path__))
    known, said = tasks.names(), f"the task file {tmp_path}/point.py cannot be read: "
    for name in ("point", "straight"):  # another task's name begins like it
        (tmp_path / f"{name}.py").write_bytes(content)
        (tmp_path / f"{name}_line.py").write_text(OWN_TASK.replace("straight_line", f"{name}_line"))
    tasks.add_folder(tmp_path)
    assert tasks.names() == sorted([*known, "point_line", "straight_line"])
    assert tasks.make("point_line").spec.horizon == 7
    assert [line.startswith(said) for line in tasks.unreadable()] == [True, False]
    describe("point_line", Console())
    with pytest.raises(ImportError, match=f"^{said}"):
        tasks.make("point")
    (tmp_path / "half.py").write_text('class Half:\n    name = "half_way"\n\nraise RuntimeError\n')
    with pytest.raises(ImportError, match=rf"{tmp_path}/half\.py cannot be read: RuntimeError"):
        tasks.make("half_way")
    assert tasks.make("half_cheetah_dir").name == "half_cheetah_dir"
    with pytest.warns(UserWarning, match=rf"{tmp_path}/half\.py cannot be read"):
        gymnasium.register_all(["half_way", "point_line"])
    assert registry.pop(gymnasium.env_id(tasks.make("point_line"))).kwargs == {"task": "point_line"}
    for ask in (tasks.make, lambda name: describe(name, Console())):
        with pytest.raises(ValueError, match=f"called 'nonsense': .*; {said}"):  # it could be in there
            ask("nonsense")


def test_a_task_file_that_is_called_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "__path__", list(tasks.__path__))
    (tmp_path / "my_file.py").write_text(OWN_TASK.replace("straight_line", "bent_line"))
    tasks.add_folder(tmp_path)
    assert tasks.make("bent_line").spec.task == "bent_line"
    with pytest.raises(ValueError, match=r"^no task is called 'my_file': my_file\.py holds bent_line$"):
        tasks.make("my_file")
    with pytest.raises(ValueError, match=r"^no task is called 'my_file'"):
        describe("my_file", Console())


OF_ITS_OWN = """
import torch
from metarl.tasks.task import Task

class Bare(Task):
    name = "bare"
    simulators = ("analytic",)
    horizon = 3
    episodes_per_trial = 2
    decision_dt = 1.0
    observed = {"pos": 1}
    action_names = ("speed",)
    reward_range = (0.0, 1.0)

    def start(self, values, rng):
        return {"pos": torch.zeros(1, 1)}

    def dynamics(self, readings, action, values, rng):
        return {"pos": readings["pos"] + action}

    def reward(self, readings, action, next_readings):
        return 0 * action[:, 0]

    def success(self, readings):
        return readings["pos"][:, 0] > 0
"""


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (("horizon = 3", ""), "`horizon`"),
        (("reward_range = (0.0, 1.0)", ""), "`reward_range`"),
        (("dynamics", "dynamic"), "`dynamics`"),
        (('("analytic",)', '("mujoco",)'), "`build`"),
        (("def success", "def succeeded"), "`success`"),
        (("observed", "observes"), "`observed`"),
    ],
)
def test_what_a_task_forgets_to_say_is_named(change, missing, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "__path__", list(tasks.__path__))
    file = tmp_path / f"bare_{missing.strip('`')}.py"
    file.write_text(OF_ITS_OWN.replace(*change))
    with pytest.warns(UserWarning, match=f"the task bare in {file} has no {missing}"):  # by Gymnasium's face
        tasks.add_folder(tmp_path)
    for ask in (tasks.make, lambda name: describe(name, Console())):
        with pytest.raises(ValueError, match=rf"^the task bare in {file} has no {missing}: see metarl.tasks.Task for what it must have$"):
            ask("bare")


def test_a_reading_that_there_is_not_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "__path__", list(tasks.__path__))
    (tmp_path / "bare.py").write_text(OF_ITS_OWN.replace('{"pos": 1}', '{"pos": 1, "vel": 1}'))
    tasks.add_folder(tmp_path)
    env = BatchedEnv(tasks.make("bare"), 1)
    env.set_tasks(env.task.custom([{}]))
    with pytest.raises(ValueError, match=r"^bare observes 'vel': there is no reading of that name, but pos, last_action$"):
        env.reset()


def test_folders_named_by_the_environment(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").write_text(OWN_TASK.replace("straight_line", name))
    folders = os.pathsep.join(str(tmp_path / name) for name in ("one", "two"))
    code = "from metarl import tasks; print(sorted(set(tasks.names()) & {'one', 'two'}), tasks.make('two').spec.task)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "METARL_TASKS": folders})
    assert done.stdout == "['one', 'two'] two\n"
