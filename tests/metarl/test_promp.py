"""ProMP's outer objective against one differentiable function written out, and its outer steps against their settings. In float64 where it can be."""

import dataclasses

import pytest
import torch

from metarl import tasks
from metarl.algos.maml import MAML
from metarl.algos.promp import OuterObjective, ProMP, ProMPConfig
from metarl.inner_steps import BatchedCategorical, BatchedGaussian, Segment, adapt, kl_divergence, leaf, log_prob_objective, ratio_objective
from metarl.rollout import collect
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.point_navigation import PointNavigation

SMALL = ProMPConfig(num_tasks=4, num_robots=3, layers=(8,))
POLICIES = pytest.mark.parametrize("policy", [BatchedGaussian((2, 3, 2), 0.7, 0.05, 0.6), BatchedCategorical((2, 3, 2))], ids=["gaussian", "categorical"])

# ---- the outer objective ----------------------------------------------------------------------------------------------------


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(5)


def random_segment(rng, policy, total=1.0):
    obs, action = (torch.randn(3, 6, 2, generator=rng, dtype=torch.float64) for _ in range(2))
    if isinstance(policy, BatchedCategorical):
        action = torch.nn.functional.one_hot(action.argmax(-1), 2).double()
    weight = torch.rand(3, 6, generator=rng, dtype=torch.float64)
    weight[0, :2] = 0
    return Segment(obs, action, torch.randn(3, 6, generator=rng, dtype=torch.float64), total * weight / weight.sum(1, keepdim=True))


@POLICIES
def test_loss_and_gradient_equal_the_paper_s_equations_written_out(policy, rng):
    """Two inner steps with a learned alpha, at a meta-vector away from the one that sampled: ratios inside and outside, KL before each inner step."""
    config = dataclasses.replace(SMALL, learn_inner_lr=True, kl_penalty=0.7, clip=0.1)
    theta = policy.initial(rng).double()
    old = torch.cat([theta, torch.full_like(theta, 0.02).log()])
    new = old + 0.05 * torch.randn(len(old), generator=rng, dtype=torch.float64)
    parts = [random_segment(rng, policy, 1 / 2) for _ in range(3)]
    inner = [s._replace(weight=2 * s.weight) for s in parts[:2]]

    def steps(vector, sampled):
        """theta_0, theta_1, theta_2."""
        thetas = [vector[: len(theta)].expand(3, -1)]
        for s, segment in enumerate(inner):
            log_prob = policy.log_prob(thetas[-1], segment)
            ratio = (log_prob - (log_prob.detach() if sampled is None else sampled[s])).exp()
            gradient = torch.autograd.grad((ratio * segment.advantage * segment.weight).sum(), thetas[-1], create_graph=True)[0]
            thetas.append(thetas[-1] + vector[len(theta) :].exp() * gradient)
        return thetas

    played = [x.detach() for x in steps(leaf(old), None)]
    sampled = [policy.log_prob(x, segment).detach() for x, segment in zip(played, parts, strict=True)]
    start = leaf(new)
    surrogate, divergence, clipped = 0.0, 0.0, 0.0
    for s, (x, segment) in enumerate(zip(steps(start, sampled), parts, strict=True)):
        if s > 0:
            ratio = (policy.log_prob(x, segment) - sampled[s]).exp()
            surrogate = surrogate + (torch.min(ratio * segment.advantage, ratio.clamp(0.9, 1.1) * segment.advantage) * segment.weight).sum() / 3
            clipped = clipped + (((ratio < 0.9) | (ratio > 1.1)) * segment.weight).sum() / 3
        if s < 2:
            before, after = policy(played[s], segment.obs), policy(x, segment.obs)
            divergence = divergence + (kl_divergence(before, after) * inner[s].weight).sum() / 3 / 2
    right = torch.autograd.grad(-surrogate + 0.7 * divergence, start)[0]

    problem = OuterObjective(policy, ratio_objective, config, old, torch.zeros_like(theta), inner, parts[1:])
    gradient, logs = problem.gradient(new)
    for name, expected in (("surrogate", surrogate), ("inner_kl", divergence), ("clipped", clipped)):
        torch.testing.assert_close(logs[name].detach(), expected.detach())
    assert 0.02 < float(clipped) < 0.98
    torch.testing.assert_close(gradient, right, rtol=1e-8, atol=1e-11)


@POLICIES
def test_penalty_is_the_divergence_from_the_policy_that_sampled_at_what_it_met_before_the_inner_step(policy, rng):
    old = policy.initial(rng).double()
    new = old + 0.3 * torch.randn(len(old), generator=rng, dtype=torch.float64)
    inner, outer = random_segment(rng, policy), random_segment(rng, policy)
    problem = OuterObjective(policy, ratio_objective, SMALL, old, torch.full_like(old, 0.1), [inner], [outer])
    found = float(problem.gradient(new)[1]["inner_kl"].detach())
    before, after = (policy(x.expand(3, -1), inner.obs) for x in (old, new))
    kinds = {"right": (before, after), "reversed": (after, before)}
    divergence = {name: float((kl_divergence(*pair) * inner.weight).sum() / 3) for name, pair in kinds.items()}
    assert found == pytest.approx(divergence["right"])
    assert found != pytest.approx(divergence["reversed"], rel=0.01)
    # nothing of it depends on what was met after the inner step
    elsewhere = OuterObjective(policy, ratio_objective, SMALL, old, torch.full_like(old, 0.1), [inner], [outer._replace(obs=outer.obs + 1)])
    assert float(elsewhere.gradient(new)[1]["inner_kl"].detach()) == found


def test_actions_that_gained_more_than_the_clip_pull_no_further():
    """One decision after the step, mean 0 when it sampled a = 1: with sigma 1 and mean b the ratio is exp(b - b²/2)."""
    policy = BatchedGaussian((1, 1), 1.0, 0.05)
    zero, one = torch.zeros(1, 2, 1, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    inner = Segment(zero, zero, 0 * one, one / 2)  # no advantage: the inner step stays where it is
    old = torch.tensor([0.0, 0.0, 0.0], dtype=torch.float64)
    old[2] = torch.tensor(0.95, dtype=torch.float64).log()
    for advantage, b, expected in (
        (1.0, 0.1, -(0.9 * torch.tensor(0.1 - 0.005).exp().item())),  # ratio 1.1: -d/db exp(b - b²/2)
        (1.0, 0.5, 0.0),  # ratio 1.45 > 1.3, in its favour
        (-1.0, 0.5, 0.5 * torch.tensor(0.5 - 0.125).exp().item()),  # not in its favour: pulled back
        (-1.0, -0.5, 0.0),  # ratio 0.54 < 0.7
    ):
        outer = Segment(zero, zero + 1, advantage * one, one / 2)
        config = dataclasses.replace(SMALL, kl_penalty=0.0)
        problem = OuterObjective(policy, ratio_objective, config, old, torch.full_like(old, 0.1), [inner], [outer])
        gradient, _ = problem.gradient(old + torch.tensor([0.0, b, 0.0], dtype=torch.float64))
        assert float(gradient[1]) == pytest.approx(expected, abs=1e-6)


# ---- the algorithm ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def make(monkeypatch):
    """make(kind, horizon=, episodes=, **config): an algorithm and an environment for it."""

    def build(kind=ProMP, horizon=6, episodes=3, **config):
        monkeypatch.setattr(PointNavigation, "horizon", horizon)
        monkeypatch.setattr(PointNavigation, "episodes_per_trial", episodes)
        task = tasks.make("point_navigation")
        settings = kind.Config(**{"num_tasks": 4, "num_robots": 3, "layers": (8,), **config})
        algorithm = kind(task.spec, task.params, settings, seed=2)
        env = BatchedEnv(task, settings.num_tasks, settings.num_robots, seed=3)
        env.set_tasks(task.sample(settings.num_tasks))
        return algorithm, env

    return build


def recorded(algorithm, env):
    """A rollout, and the adapter's parameters in each of its episodes."""
    adapter, thetas = algorithm.adapter(env.num_tasks, env.num_robots, training=True), []
    rollout = collect(env, adapter, explore=True, on_step=lambda k, h, step: thetas.append(adapter.theta.clone()) if h == 0 else None)
    return rollout, thetas


def test_old_probabilities_are_those_of_the_policies_that_acted(make):
    algorithm, env = make()
    rollout, thetas = recorded(algorithm, env)
    inner, outer = algorithm.segments(rollout)
    network = algorithm.network
    problem = OuterObjective(network.policy, algorithm.objective, algorithm.config, algorithm.meta_vector, network.alpha, inner, outer)
    acted = [network.policy.log_prob(theta, segment) for theta, segment in zip(thetas, [inner[0], *outer], strict=True)]
    torch.testing.assert_close(problem.old_log_prob, torch.cat(acted[1:], 1), rtol=1e-4, atol=1e-4)
    for segment, log_prob in zip(problem.inner, acted, strict=False):
        torch.testing.assert_close(segment.sampled, log_prob, rtol=1e-4, atol=1e-4)


def test_one_rollout_is_good_for_as_many_steps_of_adam_as_there_are_epochs(make):
    algorithm, env = make(epochs=1, learning_rate=0.01)
    before = algorithm.meta_vector
    logs = algorithm.meta_update(recorded(algorithm, env)[0])
    moved = (algorithm.meta_vector - before).abs()
    assert float(moved.max()) == pytest.approx(0.01, rel=1e-3)  # the first step of Adam is the learning rate
    assert logs["kl"] == pytest.approx(0, abs=1e-6)  # nothing had moved when the only gradient was taken
    assert logs["clipped"] == 0
    several, env = make(epochs=5, learning_rate=0.01)
    logs = several.meta_update(recorded(several, env)[0])
    assert 0.015 < float((several.meta_vector - before).abs().max()) < 0.051
    assert logs["kl"] > 1e-4
    assert logs["inner_kl"] > 1e-5


def test_a_large_penalty_holds_the_policy_before_the_inner_step(make):
    divergence = {}
    for penalty in (0.0, 100.0):
        algorithm, env = make(kl_penalty=penalty, epochs=20, learning_rate=0.01)
        divergence[penalty] = algorithm.meta_update(recorded(algorithm, env)[0])["inner_kl"]
    assert divergence[100.0] < 0.1 * divergence[0.0]


def test_learned_step_sizes_move_and_stay_positive(make):
    algorithm, env = make(learn_inner_lr=True)
    before = algorithm.network.alpha.clone()
    algorithm.meta_update(recorded(algorithm, env)[0])
    assert bool((algorithm.network.alpha != before).any())
    assert bool((algorithm.network.alpha > 0).all())


def test_single_decisions_are_credited_by_the_rest_of_the_trial(make):
    algorithm, env = make(horizon=1, credit="returns", num_robots=1)
    before = algorithm.meta_vector
    inner, outer = algorithm.segments(recorded(algorithm, env)[0])
    assert (len(inner), len(outer)) == (2, 3)  # the first episode is in the outer objective as well
    logs = algorithm.meta_update(recorded(algorithm, env)[0])
    assert bool(algorithm.meta_vector.isfinite().all())
    assert not torch.equal(algorithm.meta_vector, before)
    assert logs["kl"] > 0


@pytest.mark.parametrize(("credit", "objective"), [("curvature", ratio_objective), ("returns", log_prob_objective)])
@pytest.mark.parametrize("kind", [MAML, ProMP])
def test_the_outer_step_goes_through_inner_steps_on_the_objective_that_the_credit_asks_for(make, kind, credit, objective, monkeypatch):
    algorithm, env = make(kind, credit=credit)
    climbed = []
    for module in ("maml", "promp"):
        monkeypatch.setattr(f"metarl.algos.{module}.adapt", lambda objective, *rest: (climbed.append(objective), adapt(objective, *rest))[1])
    algorithm.meta_update(recorded(algorithm, env)[0])
    assert set(climbed) == {objective}


def test_inner_steps_adapt_sigma_and_never_below_its_floor(make):
    algorithm, env = make(inner_lr=50.0)
    _, thetas = recorded(algorithm, env)
    policy = algorithm.network.policy
    sigmas = [policy(theta, torch.zeros(4, 1, 2)).log_std.exp() for theta in thetas]
    assert not torch.allclose(sigmas[0], sigmas[1])
    assert float(torch.stack(sigmas).min()) >= 0.5 * 0.05 - 1e-7


@pytest.mark.learn
def test_one_inner_step_helps_after_meta_training():
    task = tasks.make("point_navigation")
    algorithm = ProMP(task.spec, task.params, ProMPConfig(num_robots=8, learning_rate=3e-3), seed=0)
    env = BatchedEnv(task, 20, 8, num_threads=1)
    for iteration in range(40):
        env.set_tasks(task.sample(20, start=20 * iteration))
        algorithm.meta_update(collect(env, algorithm.adapter(20, 8, training=True), explore=True))
    held_out = BatchedEnv(task, 64, 8, num_threads=1)
    held_out.set_tasks(task.sample(64, "iid"))
    before, after = collect(held_out, algorithm.adapter(64, 8), explore=True).returns.mean((0, 1)).tolist()
    assert after > before + 15
