import pytest
import torch
from torch.distributions import Normal, kl_divergence

from metarl import tasks
from metarl.algos.pearl import PEARL, Evidence, PEARLConfig, Posterior
from metarl.presets import config_for
from metarl.replay import Decisions
from metarl.rollout import collect
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.point_navigation import PointNavigation
from metarl.tasks.sparse_point import SparsePointPearl

FEW = {
    "num_tasks": 3,
    "pool_tasks": 4,
    "updates": 2,
    "meta_batch": 4,
    "batch_size": 16,
    "context_size": 64,
    "memory": 500,
    "layers": (16,),
    "encoder_layers": (16,),
}


class Short(PointNavigation):
    horizon = 6
    episodes_per_trial = 3


class EndsNearby(Short):
    """Ends within 0.3 of the goal, so that random walks get there."""

    def terminated(self, readings):
        return self.error(readings) < 0.3


def small(task=None, **overrides):
    task = task or Short()
    return PEARL(task.spec, task.params, PEARLConfig(**(FEW | overrides)), seed=1)


def rollout_of(algorithm, task=None, iteration=0, on_step=None):
    task = task or Short()
    env = BatchedEnv(task, 3, 1, seed=5)
    env.set_tasks(task.practice(3, 0, iteration, algorithm.pool_tasks))
    adapter = algorithm.adapter(3, 1, training=True)
    return collect(env, adapter, explore=True, on_step=None if on_step is None else lambda k, h, step: on_step(k, h, step, adapter)), adapter


# ---- the posterior ----------------------------------------------------------------------------------------------------------


def test_product_of_gaussians_by_hand():
    mean, std = torch.tensor([[1.0], [4.0]]), torch.tensor([[1.0], [0.5]])
    found = Evidence.of(mean, std**-2, torch.ones(2)).posterior()
    assert found.var.item() == pytest.approx(1 / (1 + 4))  # with the prior as a factor it would be 1 / 6
    assert found.mean.item() == pytest.approx((1 * 1 + 4 * 4) / 5)
    twice = Evidence.of(mean, std**-2, torch.tensor([1.0, 2.0])).posterior()
    assert (twice.mean.item(), twice.var.item()) == pytest.approx((33 / 9, 1 / 9))


def test_product_is_the_normalised_product_of_densities():
    rng = torch.Generator().manual_seed(0)
    mean, std = torch.randn(5, 1, generator=rng), 0.5 + torch.rand(5, 1, generator=rng)
    grid = torch.linspace(-3, 3, 2001)
    product = Normal(mean, std).log_prob(grid).sum(0).softmax(0)
    found = Evidence.of(mean, std**-2, torch.ones(5)).posterior()
    expected = (product * grid).sum()
    assert found.mean.item() == pytest.approx(expected.item(), abs=1e-3)
    assert found.var.item() == pytest.approx((product * (grid - expected) ** 2).sum().item(), abs=1e-3)


def test_nothing_seen_is_the_prior():
    nothing = torch.zeros(2, 3)
    posterior = Evidence(nothing, nothing).posterior()
    assert posterior.mean.tolist() == nothing.tolist()
    assert posterior.var.unique().tolist() == [1.0]


def test_order_does_not_matter_and_decisions_add_up():
    algorithm = small(task=EndsNearby())
    rollout, adapter = rollout_of(algorithm, EndsNearby())
    assert not bool(rollout.valid.all()), "no episode ended early: the test would show nothing"
    flat = [x.flatten(1, 3) for x in (rollout.obs, rollout.action, rollout.next_obs, rollout.reward.unsqueeze(-1))]
    order = torch.randperm(18, generator=torch.Generator().manual_seed(0))
    weight = rollout.valid.flatten(1).float()
    for rows in (torch.arange(18), order):
        obs, action, next_obs, reward = (x[:, rows] for x in flat)
        found = algorithm.infer(Decisions(obs, action, next_obs, reward, reward, reward), weight[:, rows])
        acted = adapter.evidence.posterior()  # one by one, while acting
        torch.testing.assert_close(found.mean, acted.mean.squeeze(1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.var, acted.var.squeeze(1), rtol=1e-4, atol=1e-6)


def test_kl_to_the_prior():
    posterior = Posterior(torch.tensor([[0.5, -1.0]]), torch.tensor([[0.25, 2.0]]))
    expected = kl_divergence(Normal(posterior.mean, posterior.var.sqrt()), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(posterior.kl_to_prior(), expected)


# ---- acting -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior_episodes", [1, 2])
def test_z_is_drawn_for_each_episode_and_kept_to_its_end(prior_episodes):
    algorithm, latents, means = small(prior_episodes=prior_episodes), [], []

    def on_step(k, h, step, adapter):
        latents.append(adapter.latent.clone())
        means.append(adapter.mean.clone())

    rollout_of(algorithm, on_step=on_step)
    by_episode = torch.stack(latents).unflatten(0, (3, 6))
    assert bool((by_episode == by_episode[:, :1]).all()), "z is drawn for a trajectory, not for a decision"
    drawn = by_episode[:, 0]
    assert len(drawn.unique(dim=0)) == 3
    assert len(drawn[0].flatten(0, 1).unique(dim=0)) == 3, "learners explore each in a way of its own"
    posterior = [bool(means[6 * k].abs().max() > 0) for k in range(3)]
    assert posterior == [k >= prior_episodes for k in range(3)]


def test_z_is_distributed_as_the_posterior_says():
    algorithm = small()
    adapter = algorithm.adapter(4000, 1)
    assert float(adapter.latent.mean()) == pytest.approx(0.0, abs=0.03)
    assert float(adapter.latent.std()) == pytest.approx(1.0, abs=0.03)
    precision = torch.full_like(adapter.latent, 16.0)
    adapter.evidence = Evidence(precision, 2.0 * precision)
    adapter.adapt()
    assert float(adapter.latent.mean()) == pytest.approx(2.0, abs=0.03)
    assert float(adapter.latent.std()) == pytest.approx(0.25, abs=0.02)
    assert adapter.mean.unique().tolist() == [2.0]


def test_actions_are_drawn_in_training_only_but_z_always():
    algorithm = small()
    obs = torch.zeros(5, 2, 2)
    with torch.no_grad():
        algorithm.network.policy.body[-1].weight.mul_(300)
    acting, training = algorithm.adapter(5, 2), algorithm.adapter(5, 2, training=True)
    assert torch.equal(acting.act(obs), acting.act(obs))
    assert len(acting.act(obs).flatten(0, 1).unique(dim=0)) == 10, "exploration is by z"
    assert len(acting.act(obs, explore=False).flatten(0, 1).unique(dim=0)) == 1, "without exploration z is the prior's mean"
    assert not torch.equal(training.act(obs), training.act(obs))
    assert algorithm.noise_to_adapt, "an evaluation that acts by the posterior's mean finds no sparse reward"


@pytest.mark.parametrize("kept", [0.0, 0.9])
def test_noise_of_successive_actions_is_correlated_as_asked_and_begins_anew_with_each_episode(kept):
    algorithm = small(noise_correlation=kept)
    adapter, obs = algorithm.adapter(3000, 1, training=True), torch.zeros(3000, 1, 2)
    by_episode = []
    for _ in range(2):
        by_episode.append(torch.stack([adapter.act(obs).atanh().flatten() for _ in range(3)]))
        adapter.adapt()
    one, other = by_episode
    found = torch.corrcoef(torch.cat([one, other[:1]]))
    expected = torch.tensor([[1, kept, kept**2, 0], [kept, 1, kept, 0], [kept**2, kept, 1, 0], [0, 0, 0, 1]])
    torch.testing.assert_close(found, expected, atol=0.06, rtol=0)
    torch.testing.assert_close(one.std(1), one[0].std().expand(3), rtol=0.05, atol=0)  # each is distributed as the policy says


# ---- learning ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def learning():
    """An algorithm that has seen something, and a batch whose latents hang on the encoder."""
    algorithm = small()
    algorithm.meta_update(rollout_of(algorithm)[0])
    chosen = torch.tensor([0, 1, 2, 0])
    posterior = algorithm.infer(*algorithm.replay.draw_context(chosen, 1, 64, algorithm.generator))
    latent = posterior.sample(algorithm.noise(4, 5))
    return algorithm, algorithm.batch(algorithm.replay.draw(chosen, 16, algorithm.generator), latent), posterior


def gradients(loss, module):
    found = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True, retain_graph=True)
    return sum(float(g.abs().sum()) for g in found if g is not None)


def test_the_encoder_learns_from_the_critic_and_from_kl_and_never_from_the_actor(learning):
    algorithm, batch, posterior = learning
    net = algorithm.network
    critic = algorithm.critic_loss(batch)
    assert gradients(critic, net.encoder) > 0
    assert gradients(posterior.kl_to_prior().mean(), net.encoder) > 0
    actor, _ = algorithm.actor_loss(batch)
    assert gradients(actor, net.encoder) == 0
    assert gradients(actor, net.critics) == 0
    assert gradients(actor, net.policy) > 0
    assert gradients(critic, net.policy) == gradients(critic, net.targets) == 0


def test_a_step_moves_all_that_learns_and_targets_only_a_little():
    algorithm = small(target_rate=0.01)
    algorithm.replay.add(rollout_of(algorithm)[0])
    net = algorithm.network
    before = {k: v.clone() for k, v in net.state_dict().items()}
    algorithm.improve(torch.tensor([0, 1]))
    moved = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {k for k in before if "normalizer" not in k}
    for target, old, new in zip(
        net.targets.parameters(), (before[f"targets.{n}"] for n, _ in net.targets.named_parameters()), net.critics.parameters(), strict=True
    ):
        torch.testing.assert_close(target, old + 0.01 * (new - old))


def test_rl_learns_from_old_trials_too_and_the_encoder_from_the_last_alone(monkeypatch):
    algorithm = small(memory=100)
    for iteration in (0, 4, 8):  # the same three tasks in a pool of four: 0 1 2, 0 1 2, 0 1 2
        algorithm.meta_update(rollout_of(algorithm, iteration=iteration)[0])
    assert algorithm.replay.num_tasks == 3
    assert algorithm.replay.written.tolist() == [54, 54, 54, 0]
    last = {round(x, 5) for x in algorithm.replay.trial[..., 6].flatten().tolist()}
    seen = []
    monkeypatch.setattr(algorithm, "infer", lambda context, weight: seen.append((context, weight)) or PEARL.infer(algorithm, context, weight))
    algorithm.improve(algorithm.replay.draw_tasks(64, algorithm.generator))
    context, weight = seen[0]
    assert {round(x, 5) for x in context.reward[weight > 0].flatten().tolist()} <= last


def test_actor_and_critic_are_told_a_draw_and_never_the_mean(learning, monkeypatch):
    algorithm, _, posterior = learning
    posterior = Posterior(posterior.mean.detach(), posterior.var.detach())
    assert float(posterior.var.min()) > 0
    latents = []
    monkeypatch.setattr(algorithm, "batch", lambda said, latent: latents.append(latent) or PEARL.batch(algorithm, said, latent))
    monkeypatch.setattr(algorithm, "infer", lambda context, weight: posterior)
    for _ in range(2):
        algorithm.improve(torch.tensor([0, 1, 2, 0]))
    assert not torch.equal(latents[0], latents[1])
    assert not torch.equal(latents[0], posterior.mean)


def test_beta_weighs_kl_in_the_unit_of_rewards_whatever_their_scale(monkeypatch):
    weights = []
    for scale in (1.0, 0.1):
        algorithm = small(reward_scale=scale, kl_weight=0.3)
        algorithm.replay.add(rollout_of(algorithm)[0])
        losses = {}
        monkeypatch.setattr(algorithm, "_step", lambda name, loss, losses=losses: losses.setdefault(name, loss.item()))
        logs = algorithm.improve(torch.tensor([0, 1, 2]))
        weights.append((losses["critic"] - logs["critic_loss"].item()) / logs["kl"].item())
    assert weights == pytest.approx([0.3, 0.003], rel=1e-3)


def test_time_that_is_up_ends_no_return(learning):
    batch = learning[1]
    assert not batch.terminated.any(), "episodes of Short are cut off by time alone"
    other = small(task=EndsNearby())
    other.replay.add(rollout_of(other, EndsNearby())[0])
    said = other.replay.draw(torch.tensor([0, 1, 2]), 500, other.generator)
    assert 0 < float(said.terminated.mean()) < 0.5


def test_critics_are_told_the_training_reward_and_the_encoder_what_the_world_says():
    task = SparsePointPearl()
    algorithm = small(task, reward_scale=0.5)
    env = BatchedEnv(task, 3, 1, seed=5)
    env.set_tasks(task.sample(3))
    rollout = collect(env, algorithm.adapter(3, training=True), explore=True)
    goal = torch.stack([torch.tensor(env.tasks.values[:, 0]).cos(), torch.tensor(env.tasks.values[:, 0]).sin()], -1).float()
    distance = (rollout.next_obs - goal.view(3, 1, 1, 1, 2)).norm(dim=-1)
    torch.testing.assert_close(rollout.told_reward, -distance)
    torch.testing.assert_close(rollout.reward, torch.where(distance <= 0.2, 1 - distance, 0.0))
    algorithm.replay.add(rollout)
    batch = algorithm.batch(algorithm.replay.draw(torch.tensor([1]), 50, algorithm.generator), torch.zeros(1, 5))
    assert float(batch.reward.max()) < 0
    context, _ = algorithm.replay.draw_context(torch.tensor([1]), 1, 400, algorithm.generator)
    assert float(context.reward.min()) >= 0
    assert rollout.to("cpu").training_reward is not None


@pytest.mark.parametrize("longest", [1e-3, 1e6])
def test_no_gradient_is_longer_than_the_setting(longest):
    algorithm = small(max_gradient_norm=longest)
    algorithm.meta_update(rollout_of(algorithm)[0])
    for name in ("critic", "actor"):
        length = float(torch.cat([p.grad.flatten() for p in algorithm.optimizers[name].param_groups[0]["params"]]).norm())
        assert (length < 1.001e-3) == (longest == 1e-3), name


def test_more_tasks_than_it_comes_back_to_are_refused():
    with pytest.raises(ValueError, match="num_tasks is 3, expected at most pool_tasks, 2"):
        small(pool_tasks=2)


def test_z_learns_to_tell_tasks_apart():
    """Two goals: after training on the same memory the critic knows z, and posteriors of the two lie apart by more than their doubt."""
    task = Short()
    algorithm = small(num_tasks=2, kl_weight=0.01, learning_rate=3e-3, reward_scale=1.0, updates=150, latent_size=2)
    env = BatchedEnv(task, 2, 1, seed=5)
    env.set_tasks(task.custom([{"goal_x": 0.5, "goal_y": 0.5}, {"goal_x": -0.1, "goal_y": 0.0}]))
    for _ in range(3):
        algorithm.meta_update(collect(env, algorithm.adapter(2, training=True), explore=True))
    with torch.no_grad():
        found = algorithm.infer(*algorithm.replay.draw_context(torch.tensor([0, 1]), 1, 64, algorithm.generator))
    apart = (found.mean[0] - found.mean[1]).abs() / (found.var[0] + found.var[1]).sqrt()
    assert float(apart.max()) > 1.5


@pytest.mark.learn
def test_it_adapts_on_the_plane():
    task = tasks.make("point_navigation")
    config = config_for("pearl", "point_navigation")
    algorithm = PEARL(task.spec, task.params, config, seed=0)
    env, held_out = BatchedEnv(task, config.num_tasks, seed=0), BatchedEnv(task, 50, seed=1)
    for i in range(config.iterations):
        env.set_tasks(task.practice(config.num_tasks, 0, i, algorithm.pool_tasks))
        algorithm.meta_update(collect(env, algorithm.adapter(config.num_tasks, training=True), explore=True))
    held_out.set_tasks(task.sample(50, "iid"))
    before, after = collect(held_out, algorithm.adapter(50), explore=True).returns.mean((0, 1)).tolist()
    assert after > 0.75 * before
