import math

import pytest
import torch
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from metarl import sac, tasks
from metarl.algos.amago import AMAGO, AMAGOConfig, Judged, log_prob
from metarl.networks import PopArt
from metarl.rollout import collect
from metarl.tasks.batched_env import BatchedEnv, Step
from metarl.tasks.point_navigation import PointNavigation
from metarl.trials import Trials, trials, valid_first


class EndsNearby(PointNavigation):
    """Short episodes that end within 0.15 of the goal, so that random walks get there."""

    horizon = 20

    def terminated(self, readings):
        return self.error(readings) < 0.15


def small(task=None, **overrides):
    task = task or EndsNearby()
    few = {"num_tasks": 3, "num_robots": 2, "layers": (8,), "width": 16, "heads": 2, "buffer_trials": 8, "updates": 1, "batch_trials": 4}
    return AMAGO(task.spec, task.params, AMAGOConfig(**(few | overrides)), seed=1)


def said(reward, valid=None, obs_size=2, action_size=2):
    """Trials of nothing but rewards (N, T)."""
    reward = torch.as_tensor(reward)
    no = torch.zeros(reward.shape, dtype=torch.bool)
    obs = torch.zeros(*reward.shape, obs_size)
    return Trials(obs, torch.zeros(*reward.shape, action_size), reward, obs.clone(), no, no, ~no if valid is None else torch.as_tensor(valid), reward)


def judged(**parts):
    """What was not given is zero everywhere: (E, N, T, G) or (N, T, G)."""
    shape = next(iter(parts.values())).shape[-3:]
    return Judged(**{name: parts.get(name, torch.zeros(shape)) for name in Judged._fields})


# ---- the memory -------------------------------------------------------------------------------------------------------------


def test_cached_inference_equals_the_whole_trial_at_once_also_with_early_ends(monkeypatch):
    algorithm = small()
    task, env = EndsNearby(), BatchedEnv(EndsNearby(), 3, 2, seed=5)
    env.set_tasks(task.custom([{"goal_x": 0.2, "goal_y": 0.2}, {"goal_x": 0.5, "goal_y": -0.5}, {"goal_x": -0.3, "goal_y": 0.0}]))
    adapter = algorithm.adapter(3, 2, training=True)
    cached, act = [], adapter.act

    def remember(obs, explore=True):
        cached.append(adapter.cache.known)
        return act(obs, explore)

    monkeypatch.setattr(adapter, "act", remember)
    rollout = collect(env, adapter, explore=True)
    sequences = trials(rollout, valid_first(rollout))
    assert not bool(sequences.valid.all()), "no episode ended early: the test would show nothing"
    whole = algorithm.network.memory(algorithm.network.experience(sequences)[:, :-1])
    valid = rollout.valid.flatten(2).flatten(0, 1)
    for n, known in enumerate(torch.stack(cached, 1)):
        torch.testing.assert_close(whole[n, : int(valid[n].sum())], known[valid[n][: len(known)]], rtol=1e-4, atol=1e-5)


def test_the_memory_depends_on_all_of_the_past_and_on_none_of_the_future():
    memory = small().network.memory
    x = torch.randn(1, 12, memory.embed.in_features, requires_grad=True)
    memory(x)[0, 7].square().sum().backward()  # what is known after seven of them
    depends = x.grad.abs().sum(-1)[0] > 0
    assert depends.tolist() == [True] * 7 + [False] * 5


def test_order_matters_even_to_attention():
    memory = small().network.memory
    x = torch.randn(1, 3, memory.embed.in_features)
    assert not torch.allclose(memory(x)[0, -1], memory(x[:, [1, 0, 2]])[0, -1], atol=1e-4)


def test_trials_may_be_longer_than_those_of_training():
    algorithm = small()
    adapter, steps = algorithm.adapter(1), 2 * EndsNearby.horizon + 9
    no, yes = torch.zeros(1, 1, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)
    obs, generator = torch.zeros(1, 1, 2), torch.Generator().manual_seed(0)
    steps = [Step(obs, torch.zeros(1, 1, 2), torch.randn(1, 1, generator=generator), obs, no, no, yes) for _ in range(steps)]
    for step in steps:
        adapter.observe(step)
    transition = torch.stack([algorithm.network.experience(s)[0, 0] for s in steps])
    torch.testing.assert_close(adapter.cache.known[0], algorithm.network.memory(transition.unsqueeze(0))[0, -1], rtol=1e-4, atol=1e-5)


# ---- the targets ------------------------------------------------------------------------------------------------------------


def test_targets_by_hand_for_two_discounts_and_nothing_after_the_last_decision():
    algorithm = small(lookahead=(2, 10), critics=2, trusted_critics=2)
    algorithm.network.popart.mean.copy_(torch.tensor([1.0, 0.0]))
    algorithm.network.popart.square.copy_(torch.tensor([5.0, 1.0]))  # standard deviations 2 and 1
    trusting = torch.tensor([[[7.0, 7.0], [1.0, 1.0], [2.0, 2.0]]])
    doubting = torch.tensor([[[7.0, 7.0], [0.5, 0.5], [9.0, 9.0]]])
    found = algorithm.targets(said([[1.0, 2.0, 3.0]]), judged(target_value=torch.stack([trusting, doubting])))
    by_hand = [[1 + 0.5 * (0.5 * 2 + 1), 1 + 0.9 * 0.5], [2 + 0.5 * (2 * 2 + 1), 2 + 0.9 * 2], [3.0, 3.0]]
    torch.testing.assert_close(found, torch.tensor([by_hand]))
    short = said([[1.0, 2.0, 9.0]], [[True, True, False]])
    found = algorithm.targets(short, judged(target_value=torch.stack([trusting, doubting])))
    torch.testing.assert_close(found[0, 1], torch.tensor([2.0, 2.0]))


def test_critics_are_told_the_training_reward_and_the_memory_takes_in_what_was_paid():
    task = tasks.make("bandit_n10_k5")
    algorithm = small(task)
    env = BatchedEnv(task, 3, 2, seed=5)
    env.set_tasks(task.sample(3))
    rollout = collect(env, algorithm.adapter(3, 2, training=True), explore=True)
    algorithm.buffer.add(trials(rollout, valid_first(rollout)))
    drawn = algorithm.buffer.draw(4, algorithm.generator)
    assert not torch.equal(drawn.reward, drawn.told_reward)
    assert float(drawn.told_reward.max()) <= 0
    assert bool(((drawn.reward == 0) | (drawn.reward == 1)).all())
    size = len(algorithm.config.lookahead)
    nothing = judged(target_value=torch.zeros(algorithm.config.critics, *drawn.reward.shape, size))
    torch.testing.assert_close(algorithm.targets(drawn, nothing)[..., 0], drawn.told_reward)


def test_only_a_random_part_of_the_critics_is_trusted():
    algorithm = small(critics=4, trusted_critics=2, lookahead=(2,))
    value = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 2, 1)
    least = {float(2 * algorithm.targets(said([[0.0, 0.0]]), judged(target_value=value))[0, 0, 0]) for _ in range(60)}
    assert {round(x, 4) for x in least} == {0.0, 1.0, 2.0}  # the least of two, and never the largest of all


def test_popart_follows_the_targets_and_changes_no_value():
    stack, popart = sac.StackedMLP(3, [4, 8, 6], last_scale=1.0), PopArt(2, rate=0.1)  # three actions, two discounts
    x = torch.randn(5, 4)

    def values():
        return stack(x).unflatten(-1, (3, 2)) * popart.std + popart.mean

    before = values()
    target = torch.tensor([[[2.0, 10.0], [4.0, 30.0], [500.0, 500.0]]])
    popart.update(target, torch.tensor([[True, True, False]]), (stack.weights[-1], stack.biases[-1]))
    torch.testing.assert_close(popart.mean, torch.tensor([3.0, 20.0]))
    torch.testing.assert_close(popart.std, torch.tensor([1.0, 10.0]))
    torch.testing.assert_close(values(), before, rtol=1e-4, atol=1e-5)
    popart.update(target + 100, torch.tensor([[True, True, False]]), (stack.weights[-1], stack.biases[-1]))  # the second half of a mean of two
    torch.testing.assert_close(popart.mean, torch.tensor([53.0, 70.0]))
    torch.testing.assert_close(values(), before, rtol=1e-3, atol=1e-3)


# ---- the losses -------------------------------------------------------------------------------------------------------------


def test_only_what_was_better_than_the_actor_is_imitated():
    algorithm = small(critic_weight=0.0, imitation=1.0, entropy_bonus=0.0, lookahead=(2,))
    log_probs = torch.tensor([[[-1.0], [-2.0], [-4.0]]], requires_grad=True)
    done, own = torch.tensor([[[[0.2], [0.1], [9.0]]]]), torch.tensor([[[[0.1], [0.2], [0.0]]]])
    heard = judged(action_value=done, value=own, log_prob=log_probs)
    loss, _ = algorithm.loss(said([[0.0, 0.0, 0.0]], [[True, True, False]]), heard, torch.zeros(1, 3, 1))
    loss.backward()
    assert log_probs.grad.flatten().tolist() == [-0.5, 0.0, 0.0]


@pytest.mark.parametrize("task", ["point_navigation", "bandit_n10_k5"])
def test_the_actors_gradient_does_not_move_the_critics(task):
    made = tasks.make(task)
    algorithm = small(made)
    spec = made.spec
    state, action = torch.randn(2, 3, spec.obs_size + 16, requires_grad=True), torch.zeros(2, 3, spec.action_size)
    action[..., 0] = 1.0
    algorithm.network.actor.requires_grad_(False)
    if spec.discrete:
        assert not algorithm.network.judge(state.detach(), action, algorithm.generator).value.requires_grad
        return
    heard = algorithm.network.judge(state.detach(), action, algorithm.generator)
    assert not heard.value.requires_grad
    assert heard.action_value.requires_grad


def test_each_discount_judges_the_action_of_its_own_actor():
    algorithm = small(lookahead=(2, 10), critics=1, trusted_critics=1)
    network = algorithm.network
    seen = []

    def critics(x, frozen=False):
        """Discount g says 10 g, and the first coordinate of the action that it is shown."""
        seen.append(frozen)
        return (x[:, -2:-1] + torch.tensor([0.0, 10.0])).unsqueeze(0)

    network.critics.forward = critics
    network.say = lambda state: torch.tensor([[0.3, 0.0, -9.0, -9.0], [-0.6, 0.0, -9.0, -9.0]]).expand(*state.shape[:2], 2, 4)
    heard = network.judge(torch.zeros(1, 3, 18), torch.full((1, 3, 2), 0.5), algorithm.generator)
    expected = torch.tensor([math.tanh(0.3), math.tanh(-0.6) + 10.0]).expand(1, 1, 3, 2)
    torch.testing.assert_close(heard.value, expected, rtol=0, atol=2e-3)
    torch.testing.assert_close(heard.action_value, torch.tensor([0.5, 10.5]).expand(1, 1, 3, 2))
    assert sorted(seen) == [False, True]


def test_discrete_values_are_expectations():
    made = tasks.make("bandit_n10_k5")
    algorithm = small(made, lookahead=(2, 10), critics=1, trusted_critics=1)
    network = algorithm.network
    logits = torch.tensor([[0.2, 0.3, 0.5, 1e-9, 1e-9], [0.9, 0.1, 1e-9, 1e-9, 1e-9]]).log()
    network.say = lambda state: logits.expand(*state.shape[:2], 2, 5)
    values = torch.arange(10.0).view(5, 2)  # action a by discount g: 2 a + g
    network.critics.forward = lambda x: values.flatten().expand(1, len(x), 10)
    network.targets.forward = lambda x: -values.flatten().expand(1, len(x), 10)
    action = torch.nn.functional.one_hot(torch.tensor([[3]]), 5).float()
    heard = network.judge(torch.zeros(1, 1, 17), action, algorithm.generator)
    assert heard.action_value.flatten().tolist() == [6.0, 7.0]
    torch.testing.assert_close(heard.value.flatten(), torch.tensor([0.3 * 2 + 0.5 * 4, 1 + 0.1 * 2]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(heard.target_value, -heard.value)
    torch.testing.assert_close(heard.entropy.flatten()[1], torch.tensor(-0.9 * math.log(0.9) - 0.1 * math.log(0.1)), rtol=1e-4, atol=1e-4)


def test_log_densities_are_those_of_a_squashed_gaussian():
    mean, log_std, action = torch.randn(4, 3, 2), torch.randn(4, 3, 2) * 0.3, torch.rand(4, 2) * 1.8 - 0.9
    reference = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform()).log_prob(action.unsqueeze(1)).sum(-1)
    torch.testing.assert_close(log_prob(sac.SquashedGaussian(mean, log_std), action), reference, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"width": 18}, "width is 18, expected a multiple of 2 heads, 4"),
        ({"critics": 2, "trusted_critics": 3}, "trusted_critics is 3, expected at most critics, 2"),
        ({"blind": 1.5}, "blind is 1.5, expected at most 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        small(**wrong)


def test_in_each_step_target_critics_follow_and_popart_learns_the_targets_scale():
    algorithm, env = small(target_rate=0.25), BatchedEnv(EndsNearby(), 3, 2)
    env.set_tasks(env.task.sample(3))
    net, before = algorithm.network, algorithm.network.targets.weights[0].clone()
    with torch.no_grad():
        net.critics.weights[0].add_(1.0)
    algorithm.meta_update(collect(env, algorithm.adapter(3, 2, training=True), explore=True))
    torch.testing.assert_close(net.targets.weights[0], before.lerp(net.critics.weights[0], 0.25))
    assert bool((net.popart.mean != 0).all())


# ---- noise, and learning ----------------------------------------------------------------------------------------------------


def test_blind_actions_are_for_training_and_come_to_an_end():
    algorithm = small(tasks.make("bandit_n10_k5"), blind=1.0, blind_until=0.5, iterations=4)
    with torch.no_grad():
        algorithm.network.actor[-1].bias[-5:] = torch.tensor([50.0, 0.0, 0.0, 0.0, 0.0])  # it pulls the first arm
    parts = []
    for iteration in range(3):
        algorithm.iteration = iteration
        action = algorithm.adapter(2000, 1, training=True).act(torch.zeros(2000, 1, 1))
        parts.append(1 - float(action[..., 0].mean()))
    # a learner's part is uniform below the limit of 1, 0.5 and 0, and a uniform action is another arm in 4 of 5
    assert parts == [pytest.approx(0.4, abs=0.05), pytest.approx(0.2, abs=0.04), 0.0]
    algorithm.iteration = 0
    assert float(algorithm.adapter(2000).act(torch.zeros(2000, 1, 1))[..., 0].mean()) == 1.0


@pytest.mark.learn
def test_a_bandit_is_learned():
    task = tasks.make("bandit_n10_k5")
    config = AMAGOConfig(num_tasks=64, iterations=40, updates=10, batch_trials=128, width=32, heads=2, blocks=1, layers=(32,), learning_rate=3e-3)
    algorithm, env = AMAGO(task.spec, task.params, config, seed=0), BatchedEnv(task, 64, seed=0)
    for iteration in range(config.iterations):
        env.set_tasks(task.practice(64, 0, iteration))
        algorithm.meta_update(collect(env, algorithm.adapter(64, training=True), explore=True))
    env = BatchedEnv(task, 1024, seed=1)
    env.set_tasks(task.sample(1024, "iid"))
    assert float(collect(env, algorithm.adapter(1024)).returns.sum(-1).mean()) > 5.6, "random play makes 5.0, the best 6.7"
