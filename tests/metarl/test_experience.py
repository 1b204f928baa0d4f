"""What was understood on one day, in a file, and begun with on another: of every algorithm."""

import pytest
import torch

from metarl import algos, cli, meta_parameters, tasks
from metarl.evaluate import evaluate
from metarl.experience import Experience, adapter_of, state_of
from metarl.rollout import collect
from metarl.tasks.batched_env import BatchedEnv, Step

NAMES = [n for n in algos.names() if n not in ("oracle", "robust")]


@pytest.fixture(autouse=True)
def short(short_episodes):
    pass


def steps(algorithm, count, seed):
    """Decisions of one robot that anybody could have taken, the last one the end of an episode."""
    rng, spec = torch.Generator().manual_seed(seed), algorithm.spec
    flag = torch.zeros(1, 1, dtype=torch.bool)
    for t in range(count):
        obs, action, then = (torch.randn(1, 1, n, generator=rng) for n in (spec.obs_size, spec.action_size, spec.obs_size))
        yield Step(obs, action.clamp(-1, 1), torch.randn(1, 1, generator=rng), then, flag, flag | (t == spec.horizon - 1), ~flag)


def live(adapter, algorithm, seed, count=None):
    """An episode, or the beginning of one."""
    for step in steps(algorithm, count or algorithm.spec.horizon, seed):
        adapter.observe(step)
    if count is None:
        adapter.adapt()


def says(adapter, algorithm):
    return adapter.act(torch.linspace(-1, 1, algorithm.spec.obs_size).view(1, 1, -1), explore=False)


def numbers(node):
    """All floating-point numbers of a state, one after another."""
    if isinstance(node, torch.Tensor):
        return node.flatten().tolist() if node.is_floating_point() else []
    parts = node.values() if isinstance(node, dict) else node if isinstance(node, tuple | list) else ()
    return [x for part in parts for x in numbers(part)]


@pytest.fixture(params=NAMES)
def files(request, tmp_path, small_algorithm):
    """A meta-parameters file that nothing has trained, and where a copy with experience goes."""
    meta_parameters.save(tmp_path / "meta.safetensors", small_algorithm(request.param), request.param, 0)
    return tmp_path / "meta.safetensors", tmp_path / "adapted.safetensors"


def saved(adapter, files, is_open=False):
    """The algorithm that a file with this adapter's experience gives."""
    meta_parameters.save_experience(files[1], files[0], Experience(7, 3, is_open, state_of(adapter)))
    return meta_parameters.load(files[1])


def test_who_begins_with_a_file_goes_on_as_who_wrote_it(files):
    algorithm = meta_parameters.load(files[0])
    adapter, fresh = algorithm.adapter(1), algorithm.adapter(1)
    for episode in range(2):
        live(adapter, algorithm, episode)
    other = saved(adapter, files)
    again = adapter_of(other, 1)
    assert torch.equal(says(again, other), says(adapter, algorithm))
    kept = numbers(state_of(again.rows[0][0]))
    assert kept == numbers(state_of(adapter))
    assert kept != numbers(state_of(fresh))
    for a, its in ((adapter, algorithm), (again, other)):
        live(a, its, 5)
    torch.testing.assert_close(says(again, other), says(adapter, algorithm), rtol=0, atol=0)
    again.reset()  # another trial begins with the same experience
    assert torch.equal(says(again, other), says(adapter_of(other, 1), other))


def test_an_episode_that_was_under_way_counts_as_ended(files):
    algorithm = meta_parameters.load(files[0])
    adapter = algorithm.adapter(1)
    live(adapter, algorithm, 0)
    live(adapter, algorithm, 1, count=3)
    other = saved(adapter, files, is_open=True)
    adapter.adapt()
    again = adapter_of(other, 1)
    torch.testing.assert_close(says(again, other), says(adapter, algorithm), rtol=0, atol=1e-6)
    live(again, other, 2)  # a whole episode fits


def test_many_begin_alike_and_then_learn_each_for_itself(files):
    algorithm = meta_parameters.load(files[0])
    adapter = algorithm.adapter(1)
    live(adapter, algorithm, 0)
    other = saved(adapter, files)
    env = BatchedEnv(tasks.make(other.spec.task), 2, 2, num_threads=1)
    env.set_tasks(env.task.sample(2))
    many, one = adapter_of(other, 2, 2), says(adapter_of(other, 1), other)
    obs = torch.linspace(-1, 1, other.spec.obs_size).expand(2, 2, -1)
    torch.testing.assert_close(many.act(obs, explore=False), one.expand(2, 2, -1), rtol=0, atol=0)
    rollout = collect(env, many, 2, explore=True)
    assert rollout.action.shape[:3] == (2, 2, 2)
    kept = [tuple(numbers(state_of(adapter))) for row in many.rows for adapter in row]
    assert len(set(kept)) == 4


def test_the_file_still_holds_its_meta_parameters(files):
    algorithm = meta_parameters.load(files[0])
    adapter = algorithm.adapter(1)
    other = saved(adapter, files)
    assert meta_parameters.read(files[1])[0] == meta_parameters.read(files[0])[0]
    for name, tensor in algorithm.meta_parameters().items():
        assert torch.equal(other.meta_parameters()[name], tensor), name
    assert meta_parameters.describe(files[1])["experience"] == "of event 3 of trial 7"
    assert algorithm.experience is None
    first = files[1].read_bytes()
    for _ in range(4):
        saved(adapter, files)
        assert files[1].read_bytes() == first


def test_a_damaged_experience_is_refused(files):
    saved(meta_parameters.load(files[0]).adapter(1), files)
    data = bytearray(files[1].read_bytes())
    data[-1] ^= 0x80
    files[1].write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        meta_parameters.load(files[1])


def test_metarl_evaluate_takes_it(tmp_path, small_algorithm, capsys):
    files = tmp_path / "meta.safetensors", tmp_path / "adapted.safetensors"
    meta_parameters.save(files[0], small_algorithm("rl2"), "rl2", 0)
    algorithm = meta_parameters.load(files[0])
    adapter = algorithm.adapter(1)
    live(adapter, algorithm, 0)
    saved(adapter, files)
    bare, experienced = (evaluate([file], num_tasks=2).outcomes["rl2"].returns_by_task for file in files)
    assert bare.shape == experienced.shape
    assert (bare[..., 0] != experienced[..., 0]).all()  # it does not begin at the prior
    cli.main(["evaluate", str(files[1]), "--num-tasks", "2", "--threads", "1"])
    assert "point_navigation" in capsys.readouterr().out


def test_what_was_of_another_kind_is_refused(tmp_path, small_algorithm):
    rl2, maml = small_algorithm("rl2"), small_algorithm("maml")
    meta_parameters.save(tmp_path / "meta.safetensors", rl2, "rl2", 0)
    other = saved(maml.adapter(1), (tmp_path / "meta.safetensors", tmp_path / "adapted.safetensors"))
    with pytest.raises(ValueError, match="the adapter has hidden, shape, task, but there were episode, episodes"):
        adapter_of(other, 1)
