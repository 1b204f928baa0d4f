"""MetaGenRL: the gradient through a step, what the objective may see, what trains new agents, and a population that lives on."""

import dataclasses

import pytest
import torch

from metarl import meta_parameters, tasks
from metarl.algos.metagenrl import AgentAdapter, MetaGenRL, MetaGenRLConfig
from metarl.objective import BOUND, NUM_FACTS, Objective
from metarl.population import Agents, Segments
from metarl.presets import config_for
from metarl.rollout import collect
from metarl.statistics import interval
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.point_navigation import PointNavigation

SMALL = {
    "num_tasks": 3,
    "num_robots": 2,
    "hidden_size": 8,
    "layers": (8,),
    "updates": 4,
    "batch_size": 4,
    "segment": 6,
    "lifetime": 4,
    "warm_up": 2,
    "head_start": 1,
}


class EndsNearby(PointNavigation):
    """Short episodes that end within 0.3 of the goal, so that random walks get there."""

    horizon = 12

    def terminated(self, readings):
        return self.error(readings) < 0.3


def small(seed=1, **overrides):
    task = EndsNearby()
    return MetaGenRL(task.spec, task.params, MetaGenRLConfig(**(SMALL | overrides)), seed)


def rollout_of(algorithm, adapter=None, start=0):
    """Trials in which some episodes end early, by themselves, and others because their time is up."""
    task = EndsNearby()
    env = BatchedEnv(task, 3, 2, seed=5)
    env.set_tasks(task.custom([{"goal_x": 0.3, "goal_y": 0.3}, {"goal_x": 0.5, "goal_y": -0.5}, {"goal_x": -0.3, "goal_y": 0.1}]))
    return collect(env, adapter or algorithm.adapter(3, 2, training=True), explore=True)


def grown(algorithm):
    """An algorithm whose population has done something, in double precision, with segments to learn from."""
    rollout = rollout_of(algorithm)
    assert rollout.terminated.any()
    assert rollout.truncated.any()
    algorithm.meta_update(rollout)
    algorithm.network.double()
    algorithm.population.double()
    algorithm.optimizer = torch.optim.Adam(algorithm.objective.parameters(), 1e-3)
    said = algorithm.seen(algorithm.population.episodes.draw(6, 6, torch.Generator().manual_seed(3)))
    target = algorithm.population.target(said, torch.zeros(6, 6, 2, dtype=torch.double), 0.9)
    return algorithm, algorithm.population, said, target


def copied(tensors):
    return {name: x.clone() for name, x in tensors.items()}


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


# ---- the meta-gradient ------------------------------------------------------------------------------------------------------


def value_after_a_step(algorithm, agents, said, target):
    """Written down once more, plainly: agents take one step by the objective, then critics say what their policies are worth."""
    policy = agents.policy.clone().requires_grad_()
    chosen = agents.act(policy, said.obs)
    away = (((said.action - chosen.detach()) ** 2).mean(-1) * said.valid).sum((1, 2)) / said.valid.sum((1, 2))
    scale = away.sqrt().view(-1, 1, 1, 1).expand(-1, said.valid.shape[1], 1, 1)
    parts = (said.action, chosen, scale, algorithm.facts(agents, said, chosen.detach()), said.valid)
    by_decision = algorithm.objective(*(x.flatten(0, 1) for x in parts)).view_as(said.valid)
    loss = (by_decision * said.valid).sum((1, 2)) / said.valid.sum((1, 2))
    gradient = torch.autograd.grad(loss.sum(), policy, create_graph=True)[0]
    after = policy - algorithm.config.inner_lr * gradient / gradient.norm(dim=-1, keepdim=True)
    q = agents.judge(agents.first_critic, said.obs, agents.act(after, said.obs))[0]
    count = said.valid.sum((1, 2))
    mean = (target * said.valid).sum((1, 2)) / count
    spread = (((target - mean[:, None, None]) ** 2 * said.valid).sum((1, 2)) / count).sqrt()
    return ((q * said.valid).sum((1, 2)) / count / spread).mean()


def meta_gradient(algorithm, agents, said, target):
    """The algorithm's own, by the name of the parameter."""
    algorithm.config = dataclasses.replace(algorithm.config, max_gradient_norm=1e9)
    lesson = algorithm.teach(agents, said, create_graph=True)
    algorithm.learn(agents, lesson, said, target, torch.tensor([True] * 3))
    return {name: p.grad.clone() for name, p in algorithm.objective.named_parameters()}


@pytest.mark.parametrize("inner_lr", [1e-3, 0.5])
def test_meta_gradient_is_that_of_the_critic_through_the_step(inner_lr):
    algorithm, agents, said, target = grown(small(inner_lr=inner_lr))
    loss = -value_after_a_step(algorithm, agents, said, target)
    expected = torch.autograd.grad(loss, list(algorithm.objective.parameters()))
    assert max(float(x.abs().max()) for x in expected) > 0
    found = meta_gradient(algorithm, agents, said, target)
    for (name, mine), theirs in zip(found.items(), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-12 * inner_lr, msg=lambda text, name=name: f"{name}: {text}")


def test_meta_gradient_equals_finite_differences():
    algorithm, agents, said, target = grown(small(inner_lr=0.5))
    vector = torch.nn.utils.parameters_to_vector(algorithm.objective.parameters()).detach()
    direction = torch.sin(torch.arange(len(vector)).double())

    def value(step):
        torch.nn.utils.vector_to_parameters(vector + step * direction, algorithm.objective.parameters())
        return float(value_after_a_step(algorithm, agents, said, target).detach())

    expected = -(value(1e-5) - value(-1e-5)) / 2e-5
    value(0.0)
    found = torch.cat([x.flatten() for x in meta_gradient(algorithm, agents, said, target).values()])
    assert float(found @ direction) == pytest.approx(expected, rel=1e-5)


def test_without_the_second_order_nothing_would_be_learned():
    """The objective's value for what was done is no part of the loss: only what its gradient does to the policy."""
    algorithm, agents, said, _ = grown(small())
    lesson = algorithm.teach(agents, said, create_graph=True)
    detached = lesson._replace(by_action=lesson.by_action.detach())
    assert not algorithm.along(agents, detached, torch.ones_like(agents.policy)).requires_grad


def test_the_objective_learns_and_leaves_agents_alone_and_the_other_way_round():
    algorithm, agents, said, target = grown(small())
    before, alpha = copied(agents.state_dict()), copied(algorithm.objective.state_dict())
    algorithm.learn(agents, algorithm.teach(agents, said, create_graph=True), said, target, torch.tensor([True] * 3))
    assert moved(before, agents.state_dict()) == set()
    assert moved(alpha, algorithm.objective.state_dict()) == set(alpha)
    alpha = copied(algorithm.objective.state_dict())
    algorithm.practise(agents, 0, torch.Generator().manual_seed(0))
    assert moved(alpha, algorithm.objective.state_dict()) == set()
    assert moved(before, agents.state_dict()) >= {"policy", "critic", "policy_target", "critic_target"}


# ---- the objective ----------------------------------------------------------------------------------------------------------


def inputs(n=2, steps=5, actions=3):
    torch.manual_seed(0)
    return torch.randn(n, steps, actions), torch.randn(n, steps, actions), torch.rand(n, 1, 1) + 0.5, torch.randn(n, steps, NUM_FACTS), torch.ones(n, steps)


def test_the_objective_reads_backwards():
    torch.manual_seed(1)
    objective = Objective(8)
    action, chosen, scale, facts, valid = inputs()
    base = objective(action, chosen, scale, facts, valid)
    changed = facts.clone()
    changed[:, 2] += 1.0
    differs = (objective(action, chosen, scale, changed, valid) != base).all(0).tolist()
    assert differs == [True, True, True, False, False], "what comes later is known at a decision, what came before it is not"


@pytest.mark.parametrize("held", [0.0, 7.0])
def test_a_segment_that_reaches_over_the_end_is_read_from_the_end(held):
    """The code of the paper reverses the padding to the front and reads that in place of the real decisions."""
    torch.manual_seed(1)
    objective = Objective(8)
    action, chosen, scale, facts, valid = inputs()
    short = objective(action[:, 1:3], chosen[:, 1:3], scale, facts[:, 1:3], valid[:, 1:3])
    valid[:, 0], valid[:, 3:] = 0.0, 0.0
    for x in (action, chosen, facts):
        x[:, 3:], x[:, 0] = held, held
    torch.testing.assert_close(objective(action, chosen, scale, facts, valid)[:, 1:3], short)


def test_the_objective_does_not_know_how_many_actions_a_body_has_nor_their_order():
    torch.manual_seed(1)
    objective = Objective(8)
    action, chosen, scale, facts, valid = inputs()
    base = objective(action, chosen, scale, facts, valid)
    torch.testing.assert_close(objective(action.flip(-1), chosen.flip(-1), scale, facts, valid), base)
    torch.testing.assert_close(objective(action.repeat(1, 1, 2), chosen.repeat(1, 1, 2), scale, facts, valid), base)


def test_the_objective_is_bounded():
    torch.manual_seed(1)
    objective = Objective(8)
    with torch.no_grad():
        objective.last.weight *= 1e9
    assert float(objective(*inputs()).detach().abs().max()) == pytest.approx(BOUND)


def test_what_the_objective_is_told():
    algorithm, agents, said, _ = grown(small(discount=0.9))
    chosen = agents.act(agents.policy, said.obs)
    value = agents.judge(agents.first_critic, said.obs, chosen)[0]
    after = agents.judge(agents.first_critic, said.next_obs, agents.act(agents.policy, said.next_obs))[0] * (1 - said.terminated)
    facts = algorithm.facts(agents, said, chosen)
    valid = said.valid[1].bool()
    assert bool((facts[1][~valid] == 0).all())

    def standard(x, y=None):
        y = x if y is None else y
        return (x - y.mean()) / (y.std(unbiased=False) + 1e-6)

    v, w, r = (x[1][valid] for x in (value, after, said.reward))
    both = torch.cat([v, w])
    time = (torch.arange(6) / 6).expand(6, 6)[valid].double()
    expected = torch.stack([standard(r), standard(v, both), standard(w, both), standard(r + 0.9 * w - v), time, said.terminated[1][valid]], -1)
    torch.testing.assert_close(facts[1][valid], expected)


# ---- critics ----------------------------------------------------------------------------------------------------------------


def one_agent(reward, terminated, valid=1.0):
    """Segments of one agent of two, with the same numbers everywhere."""
    shape = (2, 1, 1)
    obs = torch.ones(*shape, 2)
    return Segments(obs, 0 * obs, 2 * obs, torch.full(shape, reward), torch.full(shape, terminated), torch.full(shape, valid))


def test_the_end_is_worth_nothing_and_time_that_is_up_is_no_end():
    """`ray_workers.py:191` adds +d to the target: there, an agent is paid for ending its episode."""
    agents = Agents(EndsNearby().spec, 2, (8,), 100, 1.0).born(torch.arange(2), torch.Generator().manual_seed(0))
    noise = torch.zeros(1, 1, 2)
    assert agents.target(one_agent(3.0, 1.0), noise, 0.9).flatten().tolist() == [3.0, 3.0]
    said = one_agent(3.0, 0.0)
    action = agents.act(agents.policy_target, said.next_obs)
    later = agents.judge(agents.critic_target, said.next_obs, action)
    assert later.shape == (2, 2, 1, 1)
    torch.testing.assert_close(agents.target(said, noise, 0.9), 3 + 0.9 * torch.minimum(later[0], later[1]))


def test_truncated_episodes_are_stored_as_going_on():
    algorithm = small()
    rollout = rollout_of(algorithm)
    algorithm.meta_update(rollout)
    kept = algorithm.population.episodes
    ends = kept.rows[..., -1].sum(-1)[:, : rollout.valid[0].flatten(0, 1).shape[0]]
    torch.testing.assert_close(ends, rollout.terminated.flatten(1, 2).any(-1).float())


def test_noise_on_the_next_action_is_cut_with_the_action():
    agents = Agents(EndsNearby().spec, 2, (8,), 100, 1.0).born(torch.arange(2), torch.Generator().manual_seed(0))
    said = one_agent(0.0, 0.0)
    wanted = agents.judge(agents.critic_target, said.next_obs, torch.ones(2, 1, 1, 2)).amin(0)
    torch.testing.assert_close(agents.target(said, torch.full((1, 1, 2), 9.0), 1.0), wanted)


# ---- new agents -------------------------------------------------------------------------------------------------------------


def test_new_agents_are_trained_by_the_frozen_objective_alone():
    """An objective that says nothing leaves the policy as it was born, whatever the critics have learned."""
    algorithm = small()
    rollout = rollout_of(algorithm)
    with torch.no_grad():
        algorithm.objective.last.weight.zero_()
    algorithm.iteration = 0  # the critics would still have a say in the population
    adapter = algorithm.adapter(3, 2)
    born = copied(adapter.agents.state_dict())
    alpha = algorithm.meta_parameters()
    rollout_of(algorithm, adapter)
    assert moved(alpha, algorithm.meta_parameters()) == set(), "frozen"
    changed = moved(born, adapter.agents.state_dict())
    assert "policy" not in changed
    assert {"critic", "critic_target", "critic_adam.mean"} <= changed
    assert rollout.env_steps > 0


def test_critics_lead_policies_in_the_beginning_of_meta_training_and_then_never_again():
    for iteration, follows in ((0, True), (2, False)):
        algorithm = small(meta_learning_rate=1e-12)
        algorithm.iteration = iteration
        with torch.no_grad():
            algorithm.objective.last.weight.zero_()
        before = algorithm.population.policy.clone()
        algorithm.objective.last.weight.requires_grad_(False)
        rollout = rollout_of(algorithm)
        algorithm._bury = lambda ids: None
        algorithm.meta_update(rollout)
        assert (float((algorithm.population.policy - before).abs().max()) > 1e-6) == follows


def test_critics_never_reach_the_policy_but_through_what_the_objective_is_told():
    algorithm, agents, said, _ = grown(small())
    told = algorithm.facts(agents, said, agents.act(agents.policy, said.obs))
    algorithm.facts = lambda *args: told
    before = algorithm.teach(agents, said).gradient
    agents.critic.mul_(-3.0)
    torch.testing.assert_close(algorithm.teach(agents, said).gradient, before, rtol=0, atol=0)


def test_birth_decides_who_is_born(tmp_path):
    algorithm = small()
    first, again = (algorithm.adapter(3, 2).agents.policy for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(first[0], first[2]), "a learner among others is the learner alone"
    algorithm.network.birth.fill_(7)
    assert not torch.equal(first, algorithm.adapter(3, 2).agents.policy)
    path = tmp_path / "file.safetensors"
    made = MetaGenRL(tasks.make("point_navigation").spec, PointNavigation.params, MetaGenRLConfig(**SMALL), 1)
    made.network.birth.fill_(7)
    meta_parameters.save(path, made, "metagenrl", env_steps=0)
    loaded = meta_parameters.load(path)
    assert int(loaded.network.birth) == 7
    assert torch.equal(loaded.adapter(1).agents.policy, made.adapter(1).agents.policy)


def test_all_that_crosses_to_the_robot_is_small():
    names = {name.split(".")[0] for name in small().meta_parameters()}
    assert names == {"objective", "normalizer", "birth"}, "no agent, no critic"


def test_too_long_an_episode_is_refused():
    algorithm = small()
    adapter = algorithm.adapter(3, 2)
    task = EndsNearby()
    env = BatchedEnv(task, 3, 2)
    env.set_tasks(task.sample(3))
    step = env.step(adapter.act(env.reset()))
    for _ in range(12):
        adapter.observe(step)
    with pytest.raises(RuntimeError, match="more than 12 decisions"):
        adapter.observe(step)


# ---- the population ---------------------------------------------------------------------------------------------------------


def test_one_agent_is_no_population():
    with pytest.raises(ValueError, match="expected a population"):
        small(num_tasks=1)


def test_agents_of_the_population_differ_and_act_as_they_are():
    algorithm = small()
    assert not torch.equal(algorithm.population.policy[0], algorithm.population.policy[1])
    adapter = algorithm.adapter(3, 2, training=True)
    assert type(adapter) is AgentAdapter
    obs = torch.randn(3, 2, 2)
    by_hand = algorithm.population.act(algorithm.population.policy, algorithm.network.normalizer(obs))
    torch.testing.assert_close(adapter.act(obs, explore=False), by_hand)
    with pytest.raises(ValueError, match="3 agents, 2 tasks"):
        algorithm.adapter(2, 2, training=True)


def test_training_comes_back_to_the_tasks_of_the_population():
    algorithm, task = small(), EndsNearby()
    assert algorithm.pool_tasks == 3
    assert task.practice(3, 0, 0, algorithm.pool_tasks).ids == task.practice(3, 0, 5, algorithm.pool_tasks).ids


def test_agents_die_in_turn_and_are_born_with_nothing():
    algorithm = small(num_tasks=4, lifetime=2)
    ids = ("a", "b", "c", "d")
    died = []
    for iteration in range(4):
        algorithm.iteration = iteration
        agents = algorithm.population
        for x in (agents.episodes.length, agents.episodes.written, agents.policy_adam.steps, agents.critic_adam.steps):
            x.fill_(1)
        before = agents.policy.clone()
        algorithm._bury(ids)
        new = (agents.policy != before).any(1)
        died.append(new.tolist())
        assert (agents.episodes.length.sum(1) == 0).tolist() == new.tolist()
        assert (agents.critic_adam.steps.view(2, 4) == 0).all(0).tolist() == new.tolist()
        assert torch.equal(agents.policy[new], agents.policy_target[new])
    assert died == [[False] * 4, [False, False, True, True], [True, True, False, False], [False, False, True, True]]


def test_the_outer_step_first_makes_room_for_new_agents():
    algorithm = small()
    rollout = rollout_of(algorithm)
    algorithm.meta_update(rollout)
    algorithm.iteration = algorithm.config.lifetime
    algorithm.meta_update(rollout)
    episodes = rollout.valid[0, ..., 0].numel()
    assert algorithm.population.episodes.written.tolist() == [episodes, 2 * episodes, 2 * episodes], "the first one's time has come"


def test_an_agent_whose_task_is_no_more_dies():
    algorithm = small()
    algorithm._bury(("a", "b", "c"))
    before = algorithm.population.policy.clone()
    algorithm._bury(("a", "x", "c"))
    assert (algorithm.population.policy != before).any(1).tolist() == [False, True, False]


def test_an_agent_learns_as_it_would_alone():
    """Also what it draws, and how its gradients are clipped, is not a matter of the others."""
    algorithm = small()
    rollout = rollout_of(algorithm)
    rows = torch.cat([rollout.obs, rollout.action, rollout.next_obs, rollout.reward.unsqueeze(-1), rollout.terminated.unsqueeze(-1).float()], -1)
    together, alone = (algorithm.new_agents(n).born(torch.arange(n), torch.Generator().manual_seed(0), alike=True) for n in (3, 1))
    for agents, part in ((together, slice(None)), (alone, slice(1, 2))):
        agents.episodes.add((rows * rollout.valid.unsqueeze(-1))[part].flatten(1, 2), rollout.valid[part].flatten(1, 2))
        generator = torch.Generator().manual_seed(0)
        for update in range(6):
            algorithm.practise(agents, update, generator)
    torch.testing.assert_close(together.policy[1:2], alone.policy, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(together.critic.view(2, 3, -1)[:, 1:2], alone.critic.view(2, 1, -1), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(together.policy[0], together.policy[1], atol=1e-4), "they have lived in different tasks"


# ---- learning ---------------------------------------------------------------------------------------------------------------


def lives(algorithm, tasks_of, birth, episodes=20):
    """(tasks, 2) returns of new agents who were born from a seed: as they were born, and at the end."""
    env = BatchedEnv(tasks.make("point_navigation"), len(tasks_of), num_threads=1, seed=birth)
    env.set_tasks(tasks_of)
    algorithm.network.birth.fill_(birth)
    algorithm.generator.manual_seed(birth)
    paid = collect(env, algorithm.adapter(len(tasks_of)), episodes, explore=True).returns.mean(1)
    return torch.stack([paid[:, :2].mean(1), paid[:, -3:].mean(1)], -1).numpy()  # nobody moves before the second episode is over


@pytest.mark.learn
def test_the_learned_objective_trains_new_agents_in_new_tasks():
    """Five agents that the objective never met: 95 % intervals over agents and tasks of what it is better than, both paired."""
    task = tasks.make("point_navigation")
    config = config_for("metagenrl", "point_navigation")
    algorithm, untrained = (MetaGenRL(task.spec, task.params, config, seed=0) for _ in range(2))
    env = BatchedEnv(task, config.num_tasks, num_threads=1)
    for iteration in range(40):
        env.set_tasks(task.practice(config.num_tasks, 0, iteration, algorithm.pool_tasks))
        algorithm.meta_update(collect(env, algorithm.adapter(config.num_tasks, training=True), explore=True))
    held_out, births = task.sample(12, "iid"), range(1000, 1005)
    trained, not_trained = ([lives(learner, held_out, birth) for birth in births] for learner in (algorithm, untrained))
    than_born = interval(lambda x: x.mean(1), [x[:, 1:] - x[:, :1] for x in trained])[0]
    than_untrained = interval(lambda x: x.mean(1), [x[:, 1:] - y[:, 1:] for x, y in zip(trained, not_trained, strict=True)])[0]
    assert than_born.low > 0, than_born
    assert than_untrained.low > 0, than_untrained
