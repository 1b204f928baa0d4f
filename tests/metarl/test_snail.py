import pytest
import torch

from metarl.algos.snail import SNAIL, DenseBlocks, Snail, SNAILConfig, gate
from metarl.rollout import collect
from metarl.tasks.batched_env import BatchedEnv, Step
from metarl.tasks.point_navigation import PointNavigation


class EndsNearby(PointNavigation):
    """Short episodes that end within 0.15 of the goal, so that random walks get there."""

    horizon = 20

    def terminated(self, readings):
        return self.error(readings) < 0.15


def small(**overrides):
    task = EndsNearby()
    few = {"num_tasks": 3, "num_robots": 2, "layers": (8,), "embedding_size": 4, "filters": 2, "attention_size": 4, "epochs": 1, "minibatches": 1}
    return SNAIL(task.spec, task.params, SNAILConfig(**(few | overrides)), seed=1)


def test_cached_inference_equals_the_whole_trial_at_once_also_with_early_ends(monkeypatch):
    algorithm = small()
    task, env = EndsNearby(), BatchedEnv(EndsNearby(), 3, 2, seed=5)
    env.set_tasks(task.custom([{"goal_x": 0.2, "goal_y": 0.2}, {"goal_x": 0.5, "goal_y": -0.5}, {"goal_x": -0.3, "goal_y": 0.0}]))
    adapter = algorithm.adapter(3, 2, training=True)
    cached, act = [], adapter.act

    def remember(obs, explore=True):
        cached.append(adapter.known().flatten(0, 1))
        return act(obs, explore)

    monkeypatch.setattr(adapter, "act", remember)
    rollout = collect(env, adapter, explore=True)
    batch = algorithm.batch(rollout)
    assert not bool(batch.valid.all()), "no episode ended early: the test would show nothing"
    whole = algorithm.memory(batch.transition[:, :-1])
    valid = rollout.valid.flatten(2).flatten(0, 1)
    for n, known in enumerate(torch.stack(cached, 1)):
        steps = int(valid[n].sum())
        torch.testing.assert_close(whole[n, :steps], known[valid[n][: len(known)]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [2, 7, 16, 41])
def test_one_tc_block_reaches_over_the_whole_trial_and_the_future_is_not_seen(length):
    memory = Snail(3, length, SNAILConfig(embedding_size=4, filters=2, attention_size=4))
    half = len(memory.dilations) // 2
    memory.dilations, memory.dense = memory.dilations[:half], memory.dense[:half]
    memory.query, memory.key, memory.value = (torch.nn.Linear(memory.sizes[half], 4) for _ in range(3))
    x = torch.randn(1, length - 1, 3, requires_grad=True)
    found = memory(x)[0, :, : memory.sizes[half]]  # without what the attention read
    found[-1].sum().backward()
    assert bool((x.grad.abs().sum(-1) > 0).all()), "the last token depends on every transition"
    assert 2**half >= length, "and on the empty token"
    x.grad = None
    memory(x)[0, 1].sum().backward()
    assert bool(x.grad[0, 0].any())
    assert not bool(x.grad[0, 1:].any())


def test_the_tc_blocks_are_made_for_the_whole_trial():
    algorithm, spec = small(), EndsNearby().spec
    assert sum(algorithm.memory.dilations) // 2 >= spec.horizon * spec.episodes_per_trial  # one of the two blocks, from the last token to the first


def test_gate_and_attention_by_hand():
    memory = Snail(1, 2, SNAILConfig(embedding_size=1, filters=1, attention_size=1))
    assert memory.dilations == [1, 1]
    with torch.no_grad():
        for p in memory.parameters():
            p.zero_()
        memory.embed.weight.fill_(1.0)
        memory.dense[0].weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))  # what came before, gated by what is now
        memory.query.bias.fill_(1.0)
        memory.key.weight[0, 0] = memory.value.weight[0, 0] = 1.0
    found = memory(torch.tensor([[[0.5], [-1.0]]]))[0]
    blocks = torch.tensor([0.0, 0.0, torch.tanh(torch.tensor(0.5)) * torch.sigmoid(torch.tensor(-1.0))])
    torch.testing.assert_close(found[:, 0], torch.tensor([0.0, 0.5, -1.0]))
    torch.testing.assert_close(found[:, 1], blocks)
    torch.testing.assert_close(found[:, 2], torch.zeros(3))
    reads = [torch.tensor([0.0, 0.5, -1.0])[: t + 1] for t in range(3)]
    torch.testing.assert_close(found[:, 3], torch.stack([(r.softmax(0) * r).sum() for r in reads]))


def test_dense_blocks_and_their_gradients_are_those_of_the_formula():
    """Also in a trial that is shorter than a dilation; gradients against finite differences."""
    rng, filters, dilations = torch.Generator().manual_seed(0), 2, [1, 2, 8]
    sizes = [3 + filters * i for i in range(len(dilations))]
    shapes = [(3, 5, 3), *(shape for size in sizes for shape in ((2 * filters, 2 * size), (2 * filters,)))]
    given, *parameters = (torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_() for shape in shapes)
    x = given
    for dilation, weight, bias in zip(dilations, parameters[::2], parameters[1::2], strict=True):
        past = torch.nn.functional.pad(x, (0, 0, dilation, 0))[:, :5]
        x = torch.cat([x, gate(torch.cat([x, past], -1) @ weight.t() + bias)], -1)
    torch.testing.assert_close(DenseBlocks.apply(given, dilations, *parameters), x)
    assert torch.autograd.gradcheck(lambda given, *parameters: DenseBlocks.apply(given, dilations, *parameters), (given, *parameters))


def test_trials_may_be_longer_than_those_of_training():
    algorithm = small()
    adapter, steps = algorithm.adapter(1), 2 * EndsNearby.horizon + 9
    no, yes = torch.zeros(1, 1, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)
    obs, generator = torch.zeros(1, 1, 2), torch.Generator().manual_seed(0)
    said = [Step(obs, torch.zeros(1, 1, 2), torch.randn(1, 1, generator=generator), obs, no, no, yes) for _ in range(steps)]
    for step in said:
        adapter.observe(step)
    transition = torch.stack([algorithm.network.transition(s, adapter.task)[0, 0] for s in said])
    torch.testing.assert_close(adapter.known()[0, 0], algorithm.memory(transition.unsqueeze(0))[0, -1], rtol=1e-4, atol=1e-5)


def test_memory_lives_through_the_trial_and_not_beyond():
    adapter = small().adapter(1)
    first = adapter.known()
    no, yes = torch.zeros(1, 1, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)
    adapter.observe(Step(torch.ones(1, 1, 2), torch.ones(1, 1, 2), torch.ones(1, 1), torch.ones(1, 1, 2), no, yes, yes))
    after = adapter.known()
    assert not torch.equal(after, first)
    adapter.adapt()
    assert torch.equal(adapter.known(), after), "an episode's end forgets nothing"
    adapter.reset()
    assert torch.equal(adapter.known(), first)
