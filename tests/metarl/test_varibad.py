import pytest
import torch
from torch.distributions import Normal, kl_divergence

from metarl import tasks
from metarl.algos.varibad import Belief, Decoder, VariBAD, VariBADConfig, choose, kl_to_previous
from metarl.rollout import Rollout, collect
from metarl.tasks.batched_env import BatchedEnv, Step
from metarl.tasks.point_navigation import PointNavigation
from metarl.trials import Trials, trials, valid_first

SURE = -60.0  # log variance of a belief without doubt


class EndsNearby(PointNavigation):
    """Short episodes that end within 0.15 of the goal, so that random walks get there."""

    horizon = 20

    def terminated(self, readings):
        return self.error(readings) < 0.15


def small(task=None, **overrides):
    task = task or EndsNearby()
    few = {
        "num_tasks": 3,
        "num_robots": 2,
        "hidden_size": 8,
        "layers": (8,),
        "epochs": 1,
        "minibatches": 1,
        "vae_updates": 2,
        "vae_trials": 4,
        "buffer_trials": 8,
    }
    return VariBAD(task.spec, task.params, VariBADConfig(**(few | overrides)), seed=1)


def rollout_of(algorithm, adapter=None):
    """A trial in which some episodes end early, at different times."""
    task = EndsNearby()
    env = BatchedEnv(task, 3, 2, seed=5)
    env.set_tasks(task.custom([{"goal_x": 0.2, "goal_y": 0.2}, {"goal_x": 0.5, "goal_y": -0.5}, {"goal_x": -0.3, "goal_y": 0.0}]))
    return collect(env, adapter or algorithm.adapter(3, 2, training=True), explore=True)


def said(reward, valid=None, obs_size=2, action_size=2):
    """Trials of nothing but rewards (N, T)."""
    n, steps = reward.shape
    no = torch.zeros(n, steps, dtype=torch.bool)
    obs = torch.zeros(n, steps, obs_size)
    return Trials(obs, torch.zeros(n, steps, action_size), reward, obs.clone(), no, no, ~no if valid is None else valid, reward)


def believing(algorithm, mean, log_var):
    """Its beliefs are these (N, T + 1), for all of the trials that it is shown; its decoder foretells m, whatever the decision."""
    algorithm.encoder.beliefs = lambda transition: Belief(mean.unsqueeze(-1), log_var.unsqueeze(-1))
    algorithm.reward_decoder = lambda latent, decision: latent.unsqueeze(2).expand(-1, -1, decision.shape[1], -1)
    return algorithm


# ---- the objective ----------------------------------------------------------------------------------------------------------


def test_kl_is_to_the_previous_belief_and_at_first_to_the_unit_gaussian():
    mean = torch.tensor([[[0.5, 0.0], [1.0, -1.0], [1.0, -1.0]]])
    std = torch.tensor([[[1.0, 2.0], [0.5, 0.5], [0.5, 0.5]]])
    found = kl_to_previous(Belief(mean, 2 * std.log()))
    first = kl_divergence(Normal(mean[:, 0], std[:, 0]), Normal(0.0, 1.0)).sum(-1)
    second = kl_divergence(Normal(mean[:, 1], std[:, 1]), Normal(mean[:, 0], std[:, 0])).sum(-1)
    torch.testing.assert_close(found, torch.stack([first, second, torch.zeros(1)], 1))


def test_elbo_by_hand_past_and_future():
    reward = torch.tensor([[1.0, 2.0]])
    algorithm = believing(small(), torch.tensor([[0.0, 1.0, 3.0]]), torch.full((1, 3), SURE))
    likelihood, _ = algorithm.elbo(said(reward))
    # before anything: -(1 + 4) / 2. After one decision, with the other still to come: -(0 + 1) / 2. After both: -(4 + 1) / 2
    assert likelihood.item() == pytest.approx((-2.5 - 0.5 - 2.5) / 3, abs=1e-5)
    algorithm = believing(small(), torch.tensor([[0.0, 1.0, 3.0]]), torch.zeros(1, 3))
    _, kl = algorithm.elbo(said(reward))
    assert kl.item() == pytest.approx((0 + 0.5 * 1 + 0.5 * 4) / 3, abs=1e-6)  # to N(0, I) the last would be 4.5


def test_one_kl_weighs_beta_against_the_sum_over_all_decisions():
    algorithm = believing(small(kl_weight=0.3), torch.tensor([[0.0, 1.0, 3.0]]), torch.zeros(1, 3))
    algorithm.reward_decoder = lambda latent, decision: torch.zeros(*latent.shape[:2], decision.shape[1], 1)
    loss, _ = algorithm.inference_loss(said(torch.tensor([[1.0, 2.0]])))
    # log p is -(1 + 4) / 2 for each belief, KL (0 + 0.5 + 2) / 3 on average; both per decision
    assert loss.item() == pytest.approx((0.3 * 2.5 / 3 + 2.5) / 2, abs=1e-6)


def test_doubt_costs_likelihood_as_it_should():
    """With m ~ N(1, 1), r = 2 has E log p = -(variance + bias²) / 2 = -1: the latent is drawn, and not its mean taken."""
    n = 20_000
    algorithm = believing(small(), torch.ones(n, 2), torch.zeros(n, 2))
    assert algorithm.elbo(said(torch.full((n, 1), 2.0)))[0].item() == pytest.approx(-1.0, abs=0.03)


@pytest.mark.parametrize("held", [0.0, 100.0])
def test_held_steps_are_not_foretold_and_what_follows_them_is_no_belief(held):
    reward, valid = torch.tensor([[1.0, 2.0, held]]), torch.tensor([[True, True, False]])
    algorithm = believing(small(), torch.tensor([[0.0, 1.0, 3.0, held]]), torch.tensor([[SURE] * 3 + [0.0]]))
    likelihood, kl = algorithm.elbo(said(reward, valid))
    assert likelihood.item() == pytest.approx(-5.5 / 3, abs=1e-5)
    shorter = believing(small(), torch.tensor([[0.0, 1.0, 3.0]]), torch.full((1, 3), SURE)).elbo(said(reward[:, :2]))[1]
    torch.testing.assert_close(kl, shorter)


def test_a_sample_of_the_terms_has_the_mean_of_all():
    n = 20_000
    mean, reward = torch.tensor([0.0, 1.0, 3.0, 0.5, -1.0]), torch.tensor([1.0, 2.0, -1.0, 0.5])
    everything = believing(small(), mean.unsqueeze(0), torch.full((1, 5), SURE)).elbo(said(reward.unsqueeze(0)))
    sampled = small(num_beliefs=2, num_decoded=1)
    part = believing(sampled, mean.expand(n, -1), torch.full((n, 5), SURE)).elbo(said(reward.expand(n, -1)))
    assert part[0].item() == pytest.approx(everything[0].item(), rel=0.03)
    torch.testing.assert_close(part[1], everything[1])  # KL is taken everywhere


def test_choice_is_among_candidates_without_repetition_and_fair():
    candidates = torch.tensor([[True, True, False, True], [False, False, True, False]]).repeat(3000, 1)
    index, chosen = choose(candidates, 2, torch.Generator().manual_seed(0))
    assert index.shape == chosen.shape == (6000, 2)
    assert bool(candidates.gather(1, index)[chosen].all())
    assert chosen[::2].all()
    assert chosen[1::2].sum(1).unique().tolist() == [1], "one candidate is chosen once"
    assert bool((index[::2, 0] != index[::2, 1]).all())
    often = index[::2].flatten().bincount(minlength=4) / 3000
    torch.testing.assert_close(often, torch.tensor([2 / 3, 2 / 3, 0.0, 2 / 3]), atol=0.03, rtol=0)


def test_one_running_normaliser_serves_encoder_and_decoder():
    algorithm = believing(small(), torch.zeros(1, 3), torch.full((1, 3), SURE))
    normalizer = algorithm.network.reward_normalizer
    normalizer.mean.fill_(2.0)
    normalizer.var.fill_(9.0)
    trial = said(torch.tensor([[5.0, 8.0]]))
    assert algorithm.elbo(trial)[0].item() == pytest.approx(-(1 + 4) / 2, abs=1e-4)  # whose normalised rewards are 1 and 2
    assert algorithm.network.transition(trial, trial.obs[..., :0])[0, :, 4].tolist() == pytest.approx([1.0, 2.0])


def test_states_are_decoded_from_what_came_before_them():
    algorithm = believing(small(state_weight=2.0, reward_weight=0.0), torch.zeros(1, 2), torch.full((1, 2), SURE))
    seen = []

    def decoder(latent, decision):
        seen.append(decision)
        return torch.zeros(*latent.shape[:2], decision.shape[1], 2)

    algorithm.state_decoder = decoder
    trial = said(torch.zeros(1, 1))
    trial.obs[:], trial.action[:], trial.next_obs[:] = torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.4]), torch.tensor([3.0, 1.0])
    assert algorithm.elbo(trial)[0].item() == pytest.approx(2 * -(9 + 1) / 2, abs=1e-4)
    torch.testing.assert_close(seen[0], torch.tensor([[[0.1, 0.2, 0.3, 0.4]]]))


def test_decoder_of_pairs_equals_one_of_what_is_put_together():
    decoder = Decoder(3, 4, (8, 6), 2)
    latent, decision = torch.randn(2, 5, 3), torch.randn(2, 7, 4)
    weight = torch.cat([decoder.of_latent.weight, decoder.of_decision.weight], 1)
    for n, e, d in ((0, 0, 0), (1, 4, 6), (0, 2, 5)):
        together = torch.nn.functional.linear(torch.cat([latent[n, e], decision[n, d]]), weight, decoder.of_decision.bias)
        torch.testing.assert_close(decoder(latent, decision)[n, e, d], decoder.rest(together))


def test_beliefs_learn_to_foretell():
    """Each task pays 1 or -1 in all of its decisions: nobody knows before the first, everybody after it."""
    algorithm = small(kl_weight=0.01, vae_learning_rate=1e-2, vae_updates=80, vae_trials=32, buffer_trials=64)
    pays = torch.randint(2, (64, 1), generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    steps = 2 * EndsNearby.horizon
    trial = said(pays.expand(-1, steps).clone())
    algorithm.buffer.add(trial)
    algorithm.improve_beliefs()
    belief = algorithm.encoder.beliefs(algorithm.network.transition(trial, trial.obs[..., :0]))
    last = torch.full((64, 1), steps - 1)
    foretold = algorithm.log_likelihood(belief.mean, trial, last)[..., 0].mean(0)  # of the last decision, by each belief
    assert foretold[0].item() == pytest.approx(-0.5, abs=0.1), "without knowledge the best guess is 0"
    assert foretold[1].item() > -0.05
    assert foretold[-1].item() > -0.05


# ---- who trains what --------------------------------------------------------------------------------------------------------


def test_no_gradient_of_the_policy_reaches_the_encoder_and_none_of_the_beliefs_the_policy():
    algorithm = small()
    rollout = rollout_of(algorithm)
    batch = algorithm.batch(rollout)
    log_prob, value, _ = algorithm.evaluate(batch)
    algorithm.loss(batch, log_prob.detach() - 0.1, torch.ones_like(value), value.detach() + 1)[0].backward()
    acting = [*algorithm.network.policy.parameters(), *algorithm.network.value.parameters()]
    assert all(p.grad is not None for p in acting)
    assert all(p.grad is None for p in algorithm.inference)
    for p in acting:
        p.grad = None
    algorithm.buffer.add(trials(rollout, valid_first(rollout)))
    likelihood, kl = algorithm.elbo(algorithm.buffer.draw(4, algorithm.generator))
    (kl - likelihood).backward()
    assert all(p.grad is None for p in acting)
    assert all(p.grad is not None and bool(p.grad.any()) for p in [*algorithm.encoder.parameters(), *algorithm.reward_decoder.parameters()])
    assert all(p.grad is None for p in algorithm.state_decoder.parameters()), "its weight is 0"


def test_each_optimiser_moves_its_own_part_and_together_they_move_all():
    def parts(algorithm):
        return {
            "acting": torch.cat([p.detach().flatten() for p in (*algorithm.network.policy.parameters(), *algorithm.network.value.parameters())]),
            "believing": torch.cat([p.detach().flatten() for p in (*algorithm.encoder.parameters(), *algorithm.reward_decoder.parameters())]),
        }

    for overrides, moved in (({"vae_updates": 0}, {"acting"}), ({"epochs": 0}, {"believing"})):
        algorithm = small(**overrides)
        before = parts(algorithm)
        algorithm.meta_update(rollout_of(algorithm))
        assert {name for name, x in parts(algorithm).items() if not torch.equal(x, before[name])} == moved
    algorithm = small()
    owned = {id(p) for optimizer in (algorithm.optimizer, algorithm.vae_optimizer) for group in optimizer.param_groups for p in group["params"]}
    assert owned >= {id(p) for p in algorithm.network.parameters()}


def test_meta_parameters_hold_encoder_policy_and_normalisers_only():
    names = set(small().meta_parameters())
    assert {name.split(".")[0] for name in names} == {"normalizer", "reward_normalizer", "memory", "policy"}
    assert {"memory.gru.weight_hh_l0", "memory.head.weight", "memory.normalizer.mean", "policy.log_std"} <= names


# ---- the belief that acts ---------------------------------------------------------------------------------------------------


def test_recomputed_beliefs_are_those_that_acted_also_with_early_ends(monkeypatch):
    algorithm = small()
    algorithm.encoder.normalizer.var.fill_(0.01)
    adapter = algorithm.adapter(3, 2, training=True)
    acted, act = [], adapter.act

    def remember(obs, explore=True):
        acted.append(adapter.known().flatten(0, 1))
        return act(obs, explore)

    monkeypatch.setattr(adapter, "act", remember)
    rollout = rollout_of(algorithm, adapter)
    batch = algorithm.batch(rollout)
    assert not bool(batch.valid.all()), "no episode ended early: the test would show nothing"
    valid = rollout.valid.flatten(2).flatten(0, 1)
    for n, known in enumerate(torch.stack(acted, 1)):
        steps = int(valid[n].sum())
        torch.testing.assert_close(batch.known[n, :steps], known[valid[n][: len(known)]], rtol=1e-4, atol=1e-5)
    assert float(batch.known[:, 5].std()) > 0.01


def test_belief_begins_with_the_prior_and_lives_through_the_trial():
    algorithm = small()
    with torch.no_grad():
        algorithm.encoder.head.bias.copy_(torch.arange(10.0))
    adapter = algorithm.adapter(3, 2)
    assert adapter.belief.mean.tolist() == [[0.0, 1.0, 2.0, 3.0, 4.0]] * 6
    assert adapter.belief.log_var.tolist() == [[5.0, 6.0, 7.0, 8.0, 9.0]] * 6
    flags = torch.zeros(3, 2, dtype=torch.bool)
    valid = ~flags
    valid[0] = False
    prior = adapter.known()
    adapter.observe(Step(torch.ones(3, 2, 2), torch.ones(3, 2, 2), torch.ones(3, 2), torch.ones(3, 2, 2), flags, flags, valid))
    after = adapter.known()
    assert torch.equal(after[0], prior[0])
    assert bool((after[1:] != prior[1:]).all())
    adapter.adapt()
    assert torch.equal(adapter.known(), after), "an episode's end forgets nothing"
    adapter.reset()
    assert torch.equal(adapter.known(), prior)


def test_the_encoder_is_told_how_episodes_end():
    algorithm = small()
    yes, no = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.bool)
    beliefs = []
    for terminated, truncated in ((no, no), (yes, no), (no, yes)):
        adapter = algorithm.adapter(1)
        adapter.observe(Step(torch.ones(1, 1, 2), torch.ones(1, 1, 2), torch.ones(1, 1), torch.ones(1, 1, 2), terminated, truncated, yes))
        beliefs.append(adapter.known())
    assert not torch.equal(beliefs[0], beliefs[1])
    assert not torch.equal(beliefs[0], beliefs[2])
    assert not torch.equal(beliefs[1], beliefs[2])


# ---- the buffer -------------------------------------------------------------------------------------------------------------


def test_buffer_keeps_the_most_recent_trials_as_the_world_said_them():
    buffer = small(buffer_trials=4).buffer
    steps = buffer.reward.shape[1]
    for values in ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]):
        buffer.add(said(torch.tensor(values).unsqueeze(1).expand(-1, steps)))
    assert sorted(buffer.reward[:, 0].tolist()) == [3.0, 4.0, 5.0, 6.0]
    buffer.add(said(torch.arange(10.0, 19.0).unsqueeze(1).expand(-1, steps)))
    assert sorted(buffer.reward[:, 0].tolist()) == [15.0, 16.0, 17.0, 18.0]
    drawn = buffer.draw(4000, torch.Generator().manual_seed(0)).reward[:, 0]
    assert bool(((drawn.long() - 15).bincount(minlength=4) > 900).all())


def test_buffer_that_is_not_full_gives_only_what_is_in_it():
    algorithm = small(buffer_trials=64)
    algorithm.network.reward_normalizer.mean.fill_(7.0)
    rollout = rollout_of(algorithm)
    algorithm.meta_update(rollout)
    drawn = algorithm.buffer.draw(200, algorithm.generator)
    assert bool(drawn.valid.any(1).all())
    known = {round(x, 4) for x in rollout.returns.sum(-1).flatten().tolist()}
    assert {round(x, 4) for x in drawn.reward.sum(1).tolist()} == known


def test_one_update_raises_the_probability_of_what_paid_with_discrete_actions():
    task = tasks.make("bandit_n10_k5")
    algorithm = small(task, epochs=10, entropy_bonus=0.0, max_kl=10.0)
    shape = (64, 1, 10, 1)
    action = torch.eye(5)[torch.randint(5, shape, generator=torch.Generator().manual_seed(0))]
    ends, obs = torch.ones(shape, dtype=torch.bool), torch.zeros(*shape, 1)
    rollout = Rollout(obs, action, action[..., 2], obs, ~ends, ends, ends, torch.zeros(64, len(task.params)), ("x",) * 64)
    for _ in range(5):
        algorithm.meta_update(rollout)
    assert algorithm.adapter(3).act(torch.zeros(3, 1, 1), explore=False)[..., 2].tolist() == [[1.0]] * 3


def test_the_encoder_learns_more_slowly_towards_the_end_as_the_policy_does():
    algorithm = small(iterations=10, learning_rate=1e-2, vae_learning_rate=2e-2)
    algorithm.iteration = 5
    algorithm.meta_update(rollout_of(algorithm))
    assert [o.param_groups[0]["lr"] for o in (algorithm.optimizer, algorithm.vae_optimizer)] == [pytest.approx(0.55e-2), pytest.approx(1.1e-2)]
