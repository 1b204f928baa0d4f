"""MAML's outer step against automatic differentiation and exact expectations, and its adapter against its own replay."""

import dataclasses

import numpy as np
import pytest
import torch

from metarl import tasks
from metarl.algos.fomaml import FOMAML
from metarl.algos.maml import MAML, MAMLConfig, OuterProblem
from metarl.gradient_adaptation import Episodes
from metarl.inner_steps import BatchedGaussian, Segment, adapt, constant, inner_gradient, kl_divergence, leaf, log_prob_objective, ratio_objective
from metarl.rollout import collect
from metarl.tasks.batched_env import BatchedEnv, Step
from metarl.tasks.point_navigation import PointNavigation

OBJECTIVES = {"curvature": ratio_objective, "returns": log_prob_objective}
NET = BatchedGaussian((2, 3, 1), 0.7, 0.05, 0.6)
SMALL = MAMLConfig(num_tasks=4, num_robots=3, layers=(8,), fisher_stride=1)

# ---- the outer problem ------------------------------------------------------------------------------------------------------


def random_segment(rng, total=1.0):
    obs, action, advantage = (torch.randn(3, 6, n, generator=rng, dtype=torch.float64) for n in (2, 1, 1))
    weight = torch.rand(3, 6, generator=rng, dtype=torch.float64)
    weight[0, :2] = 0
    return Segment(obs, action, advantage.squeeze(-1), total * weight / weight.sum(1, keepdim=True))


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(5)


@pytest.fixture(params=["curvature", "returns"])
def case(request, rng):
    """Two inner steps with a learned alpha: the problem, its meta-vector, and the adapted parameters as one differentiable function of that."""
    config = dataclasses.replace(SMALL, credit=request.param, learn_inner_lr=True)
    theta = NET.initial(rng).double()
    alpha = torch.full_like(theta, 0.03)
    inner = [random_segment(rng) for _ in range(2)]
    outer = [random_segment(rng, total=1 / 2) for _ in range(2)] if config.credit == "curvature" else [random_segment(rng, total=1 / 3) for _ in range(3)]
    vector = torch.cat([theta, alpha.log()])

    def adapted(vector):
        thetas = [vector[: len(theta)].expand(3, -1)]
        for segment in inner:
            objective = OBJECTIVES[config.credit](NET.log_prob(thetas[-1], segment), segment).sum()
            thetas.append(thetas[-1] + vector[len(theta) :].exp() * torch.autograd.grad(objective, thetas[-1], create_graph=True)[0])
        return thetas[-len(outer) :]

    return OuterProblem(NET, OBJECTIVES[config.credit], config, vector, alpha, inner, outer, False), vector, adapted


def test_gradient_equals_automatic_differentiation_through_all_inner_steps(case):
    problem, vector, adapted = case
    start = leaf(vector)
    loss = -sum(ratio_objective(NET.log_prob(theta, segment), segment).sum() for theta, segment in zip(adapted(start), problem.outer, strict=True)) / 3
    torch.testing.assert_close(problem.loss, loss.detach())
    torch.testing.assert_close(problem.gradient, torch.autograd.grad(loss, start)[0])


def test_fisher_product_equals_the_hessian_of_the_kl_divergence(case):
    problem, vector, adapted = case
    old = [constant(NET(theta, s.obs)) for theta, s in zip(adapted(leaf(vector)), problem.outer, strict=True)]

    def divergence(vector):
        thetas = adapted(vector)
        return sum((kl_divergence(o, NET(theta, s.obs)) * s.weight).sum() for o, theta, s in zip(old, thetas, problem.outer, strict=True)) / 3

    hessian = torch.autograd.functional.hessian(divergence, vector)
    product = problem.fisher()
    torch.testing.assert_close(torch.stack([product(unit) for unit in torch.eye(len(vector), dtype=torch.float64)]), hessian, rtol=1e-6, atol=1e-9)


def test_loss_and_kl_divergence_at_other_meta_vectors(case, rng):
    problem, vector, _ = case
    loss, kl = problem.evaluate(vector)
    torch.testing.assert_close(loss, problem.loss)
    assert abs(kl.item()) < 1e-15
    direction = torch.randn(len(vector), generator=rng, dtype=torch.float64)
    loss, kl = problem.evaluate(vector + 1e-5 * direction)
    assert (loss - problem.loss).item() == pytest.approx(1e-5 * (problem.gradient @ direction).item(), rel=1e-2)
    assert kl.item() == pytest.approx(0.5e-10 * (direction @ problem.fisher()(direction)).item(), rel=1e-2)


def test_first_order_takes_the_adapted_parameters_to_move_with_the_meta_parameters(rng):
    theta, inner, outer = NET.initial(rng).double(), [random_segment(rng)], [random_segment(rng)]
    alpha = torch.full_like(theta, 0.3)
    second, first = (OuterProblem(NET, ratio_objective, SMALL, theta, alpha, inner, outer, flag) for flag in (False, True))
    by_adapted, _ = inner_gradient(ratio_objective, NET, first.adaptation.thetas[1], outer[0])
    torch.testing.assert_close(first.gradient, -by_adapted.sum(0) / 3)
    torch.testing.assert_close(first.loss, second.loss)
    assert float((first.gradient - second.gradient).norm() / second.gradient.norm()) > 0.05


def test_returns_credit_is_the_exact_gradient_of_a_trial_of_single_decisions():
    """Two episodes of one decision, one robot: expectations over both actions by Gauss-Hermite quadrature, each pair of actions a task of its own.

    Against the derivative of the same expectation along reparametrised actions.
    """
    policy, alpha, goal, num = BatchedGaussian((1, 1), 1.0, 0.05), 0.2, 0.7, 24
    nodes, weights = np.polynomial.hermite.hermgauss(num)
    x, w = torch.from_numpy(nodes * 2**0.5), torch.from_numpy(weights / np.pi**0.5)
    first, second = (z.flatten() for z in torch.meshgrid(x, x, indexing="ij"))  # (num², )
    probability = torch.outer(w, w).flatten()
    zero = torch.zeros(num**2, 1, 1, dtype=torch.float64)
    theta = torch.tensor([0.3, 0.2, -0.5], dtype=torch.float64)

    def reward(action):
        return torch.exp(-0.5 * (action - goal) ** 2)

    def trial(theta, detach):
        """Both actions."""
        keep = (lambda z: z.detach()) if detach else (lambda z: z)
        mean, std = theta[1], 0.05 + theta[2].exp()
        a = keep(mean + std * first)
        score = ((a - mean) / std**2, ((a - mean) ** 2 / std**3 - 1 / std) * theta[2].exp())  # by mean and s
        adapted = [theta[i + 1] + alpha * reward(a) * score[i] for i in range(2)]
        return a, keep(adapted[0] + (0.05 + adapted[1].exp()) * second)

    start = leaf(theta)
    a, b = trial(start, detach=False)
    exact = torch.autograd.grad((probability * (reward(a) + reward(b))).sum(), start)[0]

    a, b = trial(theta, detach=True)
    inner = Segment(zero, a.reshape(-1, 1, 1), reward(a).unsqueeze(-1), torch.ones_like(zero[..., 0]))
    rest = (reward(a) + reward(b), reward(b))
    outer = [Segment(zero, z.reshape(-1, 1, 1), r.unsqueeze(-1), num**2 * probability.unsqueeze(-1)) for z, r in zip((a, b), rest, strict=True)]
    problem = OuterProblem(policy, log_prob_objective, SMALL, theta, torch.full_like(theta, alpha), [inner], outer, False)
    torch.testing.assert_close(problem.gradient, -exact, rtol=1e-6, atol=1e-8)
    # without the credit of the first action for the second, it is another gradient
    outer[0] = outer[0]._replace(advantage=reward(a).unsqueeze(-1))
    blind = OuterProblem(policy, log_prob_objective, SMALL, theta, torch.full_like(theta, alpha), [inner], outer, False)
    assert float((blind.gradient + exact).norm() / exact.norm()) > 0.02


# ---- the algorithm ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def make(monkeypatch):
    """make(horizon=, episodes=, **config): a MAML and a rollout that its training adapter made."""

    def build(horizon=6, episodes=4, **config):
        monkeypatch.setattr(PointNavigation, "horizon", horizon)
        monkeypatch.setattr(PointNavigation, "episodes_per_trial", episodes)
        task = tasks.make("point_navigation")
        algorithm = MAML(task.spec, task.params, dataclasses.replace(SMALL, **config), seed=2)
        env = BatchedEnv(task, algorithm.config.num_tasks, algorithm.config.num_robots, seed=3)
        env.set_tasks(task.sample(algorithm.config.num_tasks))
        return algorithm, env

    return build


SETTINGS = pytest.mark.parametrize(
    "settings",
    [{}, {"episodes_per_step": 2}, {"credit": "returns", "horizon": 1, "num_robots": 1, "normalise_obs": True, "learn_inner_lr": True}],
    ids=["curvature", "two episodes a step", "single decisions"],
)


def recorded(algorithm, env):
    """A rollout, and the adapter's parameters in each of its episodes."""
    adapter, thetas = algorithm.adapter(env.num_tasks, env.num_robots, training=True), []
    rollout = collect(env, adapter, explore=True, on_step=lambda k, h, step: thetas.append(adapter.theta.clone()) if h == 0 else None)
    return rollout, thetas


@SETTINGS
def test_the_outer_step_replays_exactly_what_the_adapter_did(make, settings):
    algorithm, env = make(**settings)
    algorithm.meta_update(recorded(algorithm, env)[0])  # so that baseline and normaliser are no longer empty
    rollout, thetas = recorded(algorithm, env)
    inner, _ = algorithm.segments(rollout)
    replayed = adapt(ratio_objective, algorithm.network.policy, algorithm.network.theta, algorithm.network.alpha, inner, create_graph=False).thetas
    every = algorithm.config.episodes_per_step
    assert len(replayed) == 4 // every
    for episode, theta in enumerate(thetas):
        torch.testing.assert_close(theta, replayed[episode // every].detach(), rtol=1e-5, atol=1e-6)
    assert not torch.equal(thetas[0], thetas[every])
    if every > 1:
        assert torch.equal(thetas[0], thetas[1])


@SETTINGS
def test_outer_weights_of_a_task_sum_to_one_and_skip_what_is_not_valid(make, settings):
    algorithm, env = make(**settings)
    rollout, _ = recorded(algorithm, env)
    rollout.valid[0, :, 2, -1] = False
    _, outer = algorithm.segments(rollout)
    torch.testing.assert_close(sum(s.weight.sum(1) for s in outer), torch.ones(4))
    used = sum(int((s.weight > 0).sum()) for s in outer)
    skipped = algorithm.config.episodes_per_step if algorithm.config.credit == "curvature" else 0
    assert used == int(rollout.valid[:, :, skipped:].sum())


@pytest.mark.parametrize("credit", ["curvature", "returns"])
def test_inner_steps_are_made_from_the_reward_and_the_outer_step_from_what_training_is_told(credit):
    task = tasks.make("bandit_n10_k5")
    algorithm = MAML(task.spec, task.params, dataclasses.replace(SMALL, num_robots=5, episodes_per_step=2, credit=credit), seed=2)
    env = BatchedEnv(task, algorithm.config.num_tasks, 5, seed=3)
    env.set_tasks(task.sample(algorithm.config.num_tasks))
    rollout, thetas = recorded(algorithm, env)
    assert not torch.equal(rollout.reward, rollout.told_reward)
    inner, outer = algorithm.segments(rollout)
    paid, told = (dataclasses.replace(rollout, reward=x, training_reward=None) for x in (rollout.reward, rollout.training_reward))
    for segments, alone in ((inner, algorithm.segments(paid)[0]), (outer, algorithm.segments(told)[1])):
        for found, expected in zip(segments, alone, strict=True):
            torch.testing.assert_close(found.advantage, expected.advantage)
    assert not torch.equal(outer[0].advantage, algorithm.segments(paid)[1][0].advantage)
    replayed = adapt(algorithm.objective, algorithm.network.policy, algorithm.network.theta, algorithm.network.alpha, inner, create_graph=False).thetas
    torch.testing.assert_close(thetas[-1], replayed[-1].detach(), rtol=1e-5, atol=1e-6)


def test_rewards_from_a_potential_that_the_baseline_can_say_change_no_advantage(make):
    """They add the potential of an observation to its return (potential-based shaping, Ng et al. 1999), and this one is linear in o and o²."""
    algorithm, env = make(num_robots=6)
    rollout, _ = recorded(algorithm, env)
    assert bool(rollout.valid.all())
    obs = torch.randn(4, 6, 1, 6, 2, generator=torch.Generator().manual_seed(0))  # the ridge is nothing beside features of this size
    episodes = Episodes.of(rollout, 0, 1)._replace(obs=obs)
    potential = 3 * obs[..., 0] - 2 * obs[..., 1] ** 2
    after = torch.nn.functional.pad(potential[..., 1:], (0, 1))
    shaped = episodes._replace(reward=episodes.reward + potential - algorithm.config.discount * after)
    found, expected = (algorithm.inner_segment(x, 0).advantage for x in (shaped, episodes))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_fomaml_moves_otherwise_than_maml(make):
    algorithm, env = make()
    first_order = FOMAML(algorithm.spec, algorithm.params, algorithm.config, seed=2)
    rollout, _ = recorded(algorithm, env)
    for learner in (algorithm, first_order):
        assert learner.meta_update(rollout)["accepted"]
    assert not torch.equal(algorithm.network.theta, first_order.network.theta)


def test_a_gradient_step_raises_the_surrogate_it_is_made_from(make):
    algorithm, env = make(horizon=20)
    rollout, thetas = recorded(algorithm, env)
    (inner, *_), _ = algorithm.segments(rollout)
    before = algorithm.network.policy.log_prob(thetas[0], inner)
    after = algorithm.network.policy.log_prob(thetas[1], inner)
    gain = ((after - before) * inner.advantage * inner.weight).sum(1)
    assert bool((gain > 0).all())


def test_mean_action_and_log_prob_of_a_recomputed_action(make):
    algorithm, _ = make()
    adapter = algorithm.adapter(4, 3)
    obs = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    mean = adapter.act(obs, explore=False)
    state = algorithm.generator.get_state()
    action = adapter.act(obs)
    algorithm.generator.set_state(state)
    noise = torch.randn(4, 3, 2, generator=algorithm.generator)
    torch.testing.assert_close(action, mean + 0.5 * noise)  # action_scale * initial_std
    segment = Segment(obs, action, torch.zeros(4, 3), torch.ones(4, 3))
    expected = torch.distributions.Normal(mean, 0.5).log_prob(action).sum(-1)
    torch.testing.assert_close(algorithm.network.policy.log_prob(adapter.theta, segment), expected)


def test_rest_of_a_trial_counts_later_episodes_of_all_robots_after_the_next_step(make):
    algorithm, env = make(horizon=2, episodes=5, episodes_per_step=2, credit="returns", discount=0.5, num_robots=2, num_tasks=1)
    rollout, _ = recorded(algorithm, env)
    rollout.reward[:] = torch.arange(20.0).reshape(1, 2, 5, 2)
    rollout.valid[:] = True
    rollout.terminated[:] = False
    own = rollout.reward[..., 0] + 0.5 * rollout.reward[..., 1]  # (1, R, K)
    rest = algorithm._rest_of_trial(rollout)
    assert rest[0, 0, 1, 0].item() == pytest.approx(float(own[0, 0, 1] + own[0, :, 2:].sum()))  # steps after episodes 1 and 3
    assert rest[0, 1, 2, 1].item() == pytest.approx(float(rollout.reward[0, 1, 2, 1] + own[0, :, 4].sum()))
    assert rest[0, 1, 4, 1].item() == pytest.approx(float(rollout.reward[0, 1, 4, 1]))


@pytest.mark.parametrize("credit", ["curvature", "returns"])
def test_an_outer_step_stays_inside_its_trust_region_and_gains(make, credit):
    algorithm, env = make(horizon=10, credit=credit)
    metrics = [algorithm.meta_update(recorded(algorithm, env)[0]) for _ in range(3)]
    for logged in metrics:
        assert logged["accepted"] == 1.0
        assert 0 < logged["kl"] < algorithm.config.max_kl
        assert logged["gain"] > 0


def test_learned_step_sizes_move_and_stay_positive(make):
    algorithm, env = make(learn_inner_lr=True)
    before = algorithm.network.alpha.clone()
    algorithm.meta_update(recorded(algorithm, env)[0])
    assert bool((algorithm.network.alpha != before).any())
    assert bool((algorithm.network.alpha > 0).all())


def test_bad_input(make):
    with pytest.raises(ValueError, match=r"a trial has 2 episodes.*from 2"):
        make(episodes=2, episodes_per_step=2)
    single, _ = make(horizon=1)
    with pytest.raises(ValueError, match="single decision"):
        single.adapter(4, 1)
    algorithm, env = make(horizon=2)
    adapter = algorithm.adapter(4, 3)
    obs = env.reset()
    step = env.step(adapter.act(obs))
    for _ in range(2):
        adapter.observe(step)
    with pytest.raises(RuntimeError, match="more than 2 decisions in episode 0"):
        adapter.observe(step)


def test_episodes_of_a_rollout_carry_every_field_they_name(make):
    algorithm, env = make()
    rollout, _ = recorded(algorithm, env)
    part = Episodes.of(rollout, 1, 3)
    assert set(Episodes._fields) < {f.name for f in dataclasses.fields(Step)}
    for name, value in part._asdict().items():
        assert torch.equal(value, getattr(rollout, name)[:, :, 1:3])


@pytest.mark.learn
@pytest.mark.parametrize("kind", [MAML, FOMAML])
def test_one_inner_step_helps_after_meta_training(kind):
    task = tasks.make("point_navigation")
    config = MAMLConfig(num_tasks=20, num_robots=8)
    algorithm = kind(task.spec, task.params, config, seed=0)
    env = BatchedEnv(task, 20, 8, num_threads=1)
    for iteration in range(40):
        env.set_tasks(task.sample(20, start=20 * iteration))
        algorithm.meta_update(collect(env, algorithm.adapter(20, 8, training=True), explore=True))
    held_out = BatchedEnv(task, 64, 8, num_threads=1)
    held_out.set_tasks(task.sample(64, "iid"))
    before, after = collect(held_out, algorithm.adapter(64, 8), explore=True).returns.mean((0, 1)).tolist()
    assert after > before + 15
