"""Adaptation on copies: what is accepted, what is refused, and when everything goes back to the meta-parameters."""

from dataclasses import replace

import pytest
import torch

from metarl import algos, meta_parameters, tasks
from metarl.rollout import collect
from metarl.ros_nodes.adaptation import Mode, SafeAdapter, duplicate
from metarl.tasks.batched_env import BatchedEnv, Step

NAN = float("nan")


class Learner:
    """Acts its number; every decision adds what was paid to it, every episode what `at_end` says."""

    def __init__(self, at_end=0.0):
        self.at_end, self.noise = at_end, torch.Generator().manual_seed(0)
        self.reset()

    def reset(self):
        self.number, self.heard = torch.zeros(1), []

    def act(self, obs, explore=True):
        return self.number.reshape(1, 1, 1).clone()

    def observe(self, step):
        if bool(step.valid.all()):
            self.number += step.reward.reshape(1)  # in place: the hardest case for copies
            self.heard.append(step.obs)
        if self.number > 900:
            raise RuntimeError("the learner itself fails")

    def adapt(self):
        self.number = self.number + self.at_end

    def distance(self, prior):
        return float((self.number - prior.number).abs())


def step(reward, valid=True):
    flag = torch.zeros(1, 1, dtype=torch.bool)
    return Step(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), torch.full((1, 1), reward), torch.zeros(1, 1, 1), flag, flag, flag | valid)


def acts(safe):
    return safe.act(torch.zeros(1, 1, 1)).item()


def episode(safe, *rewards, sequence=0, valid=True):
    for i, reward in enumerate(rewards):
        safe.note(1, sequence + i)
        safe.observe(step(reward, valid))
    safe.adapt()


def test_it_learns_as_the_adapter_inside_does():
    safe = SafeAdapter(Learner(at_end=0.25), (0.0, 1.0))
    assert safe.version == (-1, -1)
    safe.note(7, 3)
    safe.observe(step(0.5))
    assert acts(safe) == 0.5
    assert safe.version == (7, 3)
    safe.adapt()
    assert acts(safe) == 0.75
    assert safe.counts["accepted"] == 2
    assert safe.distance == 0.75
    safe.reset()
    assert acts(safe) == 0.0
    assert safe.version == (-1, -1)


def test_frozen_it_acts_on_what_it_knows_and_learns_nothing():
    safe = SafeAdapter(Learner(at_end=0.25), (0.0, 1.0))
    episode(safe, 0.5)
    safe.enable(False)
    episode(safe, 0.5)
    assert acts(safe) == 0.75
    safe.enable(True)
    safe.note(1, 9)
    safe.observe(step(0.5))
    safe.adapt()
    assert acts(safe) == 0.75  # the adapter inside has not learned from the beginning of this episode
    episode(safe, 0.5)
    assert acts(safe) == 1.5


@pytest.mark.parametrize("why", ["frozen", "disabled", "over_budget", "rollback_loop"])
def test_where_nothing_is_learned_a_memory_lives_for_an_episode(why):
    safe = SafeAdapter(Learner(at_end=0.25), (0.0, 1.0))
    episode(safe, 0.25)
    known = (acts(safe), safe.version, safe.distance, safe.counts["accepted"])
    if why == "frozen":
        safe.bounds.mode = Mode.FROZEN
    elif why == "disabled":
        safe.enable(False)
    else:
        safe.off = why
    for _ in range(2):
        safe.note(1, 9)
        safe.observe(step(0.25))
        safe.observe(step(0.5, valid=False))
        safe.observe(step(0.25))
        assert acts(safe) == 1.0
        assert safe.experience()[:3] == (1, 0, False)  # of what it acts by within an episode nothing is kept
        safe.adapt()
        assert (acts(safe), safe.version, safe.distance, safe.counts["accepted"]) == known == (0.5, (1, 0), 0.5, 2)


def test_in_shadow_a_newcomer_acts_whose_memory_lives_for_an_episode():
    safe = SafeAdapter(Learner(at_end=0.25), (0.0, 1.0))
    safe.bounds.mode = Mode.SHADOW
    for given_up in (False, True):
        assert acts(safe) == 0.0
        safe.observe(step(0.25))
        assert acts(safe) == 0.25
        safe.observe(step(0.25, valid=False))
        if given_up:
            safe.roll_back("by_hand")  # what was learned, which does not act
        assert acts(safe) == 0.25
        safe.observe(step(0.25))
        assert acts(safe) == 0.5
        safe.adapt()
    safe.reset()
    assert acts(safe) == 0.0


def test_a_newcomer_that_takes_over_in_mid_episode_has_seen_its_beginning():
    safe = SafeAdapter(Learner(), (0.0, 1.0))
    episode(safe, 0.5)
    safe.observe(step(0.25))
    safe.observe(step(0.25))
    assert acts(safe) == 1.0
    for mode, acting in ((Mode.SHADOW, 0.5), (Mode.ADAPT, 1.0), (Mode.FROZEN, 1.0), (Mode.SHADOW, 0.5)):
        safe.bounds.mode = mode
        assert acts(safe) == acting


def test_a_newcomers_memory_is_bounded_as_well():
    safe = SafeAdapter(Learner(), (-1e4, 1e4))
    safe.bounds.mode = Mode.SHADOW
    for reward, reason in ((0.5, ""), (2.0, "shadow_trust_radius"), (NAN, "shadow_non_finite"), (1000.0, "shadow_failed")):
        safe.observe(step(reward))
        assert acts(safe) == 0.5
        assert not reason or safe.counts[reason] == 1


def test_a_newcomer_whose_action_is_no_number_begins_anew():
    class Odd(Learner):
        def act(self, obs, explore=True):
            return self.number.reshape(1, 1, 1) / (self.number != 0.5)

    safe = SafeAdapter(Odd(), (0.0, 1.0))
    safe.bounds.mode = Mode.SHADOW
    safe.observe(step(0.5))
    assert acts(safe) == 0.0
    assert dict(safe.counts) == {"excluded": 0, "accepted": 1, "shadow_non_finite": 1}  # nothing that was learned is given up for it


@pytest.mark.parametrize("mode", list(Mode))
def test_an_episode_whose_end_nobody_told_is_forgotten(mode):
    safe = SafeAdapter(Learner(), (0.0, 1.0))
    episode(safe, 0.5)
    safe.bounds.mode = mode
    before = acts(safe)
    safe.note(1, 3, begins=True)
    assert safe.counts["unfinished"] == 0
    safe.observe(step(0.25))
    assert acts(safe) == before + 0.25
    safe.note(1, 9, begins=True)
    assert (acts(safe), safe.counts["unfinished"]) == (before, 1)


def test_in_shadow_it_learns_but_the_meta_parameters_act():
    safe = SafeAdapter(Learner(), (0.0, 1.0))
    safe.bounds.mode = Mode.SHADOW
    episode(safe, 0.5)
    assert acts(safe) == 0.0
    safe.bounds.mode = Mode.ADAPT
    assert acts(safe) == 0.5


def test_switching_learning_off_and_on_never_changes_who_acts():
    """In shadow nothing that was learned, and nobody has looked at yet, may reach the robot."""
    safe = SafeAdapter(Learner(), (0.0, 1.0))
    safe.bounds.mode = Mode.SHADOW
    episode(safe, 0.5)
    for on in (False, True):
        safe.enable(on)
        assert acts(safe) == 0.0
        assert safe.bounds.mode is Mode.SHADOW
    safe.enable(False)
    episode(safe, 0.5)
    assert safe.distance == 0.5  # of the first episode alone
    safe.bounds.mode = Mode.ADAPT
    assert acts(safe) == 0.5


def test_what_the_robot_did_not_do_is_not_learned_from():
    safe = SafeAdapter(Learner(at_end=0.25), (0.0, 1.0))
    episode(safe, 0.5, 0.5, valid=False)
    assert acts(safe) == 0.0  # nothing was left to learn from, so the end of the episode teaches nothing either
    assert safe.counts["excluded"] == 2
    safe.note(1, 3)
    safe.observe(step(0.5, valid=False))
    safe.observe(step(0.25))
    safe.adapt()
    assert acts(safe) == 0.5


@pytest.mark.parametrize("name", ["pearl", "varibad"])
def test_what_is_believed_is_told(name, small_algorithm):
    """The latent's mean and standard deviation; a learner without a latent tells none."""
    safe = SafeAdapter(small_algorithm(name).adapter(1), (-1e3, 1e3))
    told = lambda: [number for label, number in safe.numbers().items() if label.startswith("belief_")]  # noqa: E731
    prior, size = told(), safe._adapter.algorithm.config.latent_size
    assert list(safe.numbers())[-2 * size :] == [f"belief_{i}" for i in range(2 * size)]
    safe.observe(Step(*(torch.ones(1, 1, 2) for _ in range(2)), torch.ones(1, 1), torch.ones(1, 1, 2), *(torch.zeros(1, 1) > i for i in (0, 0, -1))))
    after = told()
    assert safe.counts["accepted"] == 1
    if name == "pearl":
        mean, var = safe._adapter.evidence.posterior()
    else:
        mean, var = safe._adapter.belief.mean, safe._adapter.belief.log_var.exp()
    assert prior == [0.0] * size + [1.0] * size  # as nothing was trained, VariBAD's too
    assert after == pytest.approx([*mean.flatten().tolist(), *var.sqrt().flatten().tolist()])
    assert all(a != b for a, b in zip(after, prior, strict=True))
    assert not any(label.startswith("belief") for label in SafeAdapter(Learner(), (0.0, 1.0)).numbers())


def test_outside_of_the_trust_radius_nothing_is_accepted():
    safe = SafeAdapter(Learner(at_end=3.0), (0.0, 1.0))
    safe.bounds.trust_radius = 1.0
    safe.note(1, 1)
    safe.observe(step(0.75))
    safe.observe(step(0.75))
    assert acts(safe) == 0.75  # the second would have gone to 1.5
    assert safe.counts["trust_radius"] == 1
    safe.adapt()
    assert acts(safe) == 0.0  # as before the episode: half an episode is no state to go on from
    assert safe.counts["rollbacks"] == 0


@pytest.mark.parametrize(("reward", "reason"), [(NAN, "non_finite"), (float("-inf"), "non_finite"), (1000.0, "failed")])
def test_what_explodes_is_rolled_back(reward, reason):
    safe = SafeAdapter(Learner(), (-1e4, 1e4))
    safe.bounds.trust_radius = 1e9
    safe.note(1, 1)
    safe.observe(step(0.5))
    safe.observe(step(reward))
    assert acts(safe) == 0.0
    assert safe.counts[reason] == safe.counts["rollbacks"] == 1
    safe.observe(step(0.25))
    assert acts(safe) == 0.25  # it goes on from the meta-parameters


def test_an_adapted_policy_that_acts_no_number_gives_way_to_the_meta_parameters():
    learner = Learner()
    learner.act = lambda obs, explore=True: learner.number.reshape(1, 1, 1) / 0 * 0
    safe = SafeAdapter(learner, (0.0, 1.0))
    assert acts(safe) != acts(safe)  # where these give none, whoever asked must refuse it
    assert safe.counts["non_finite"] == 2


def test_too_many_rollbacks_switch_learning_off_until_somebody_switches_it_on():
    safe = SafeAdapter(Learner(), (0.0, 1.0))
    safe.note(1, 1)
    for _ in range(3):
        safe.observe(step(NAN))
    assert safe.off == "rollback_loop"
    episode(safe, 0.5)
    episode(safe, 0.5)
    assert acts(safe) == 0.0
    safe.enable(True)
    safe.adapt()
    episode(safe, 0.5)
    assert acts(safe) == 0.5


def test_a_collapse_of_rewards_is_rolled_back_and_then_counted_anew():
    safe = SafeAdapter(Learner(), (0.0, 1.0))
    for paid in (0.9, 0.9, 0.9, 0.0):
        episode(safe, paid)
    assert safe.counts["collapse"] == 0
    episode(safe, 0.0)
    assert safe.counts["collapse"] == safe.counts["rollbacks"] == 1
    assert acts(safe) == 0.0
    episode(safe, 0.0)
    assert safe.counts["collapse"] == 1
    episode(safe, 0.0)
    assert safe.counts["collapse"] == 2


def test_what_was_not_done_as_it_was_meant_says_nothing_about_a_collapse():
    safe = SafeAdapter(Learner(), (0.0, 1.0))
    for _ in range(3):
        episode(safe, 0.45)
    episode(safe, 0.0)
    for _ in range(5):
        episode(safe, 0.0, valid=False)
    assert safe.counts["collapse"] == 0
    episode(safe, 0.0)
    assert safe.counts["collapse"] == 1


def test_what_is_saved_says_that_an_episode_was_under_way_also_where_nothing_of_it_was_learned():
    safe = SafeAdapter(Learner(), (0.0, 1.0))
    safe.observe(step(0.5, valid=False))
    assert safe.experience()[2]


def test_interventions_roll_back_what_was_learned():
    safe = SafeAdapter(Learner(), (0.0, 1.0))
    episode(safe, *[0.1] * 9)
    assert acts(safe) == pytest.approx(0.9)
    episode(safe, *[0.1] * 9, sequence=9, valid=False)
    assert safe.counts["interventions"] == 0  # half of them
    episode(safe, *[0.1] * 2, sequence=18, valid=False)
    assert safe.counts["interventions"] == 1
    assert acts(safe) == 0.0
    episode(safe, *[0.1] * 2, sequence=20)
    assert safe.counts["interventions"] == 1  # those of before say nothing about what is learned from then on
    assert acts(safe) == pytest.approx(0.2)


def test_what_is_not_learned_from_is_not_accepted_and_counts_against_nothing_that_was_learned():
    """Forty decisions that the robot did not carry out: rolled back once, and nothing is left that a second time could roll back."""
    safe = SafeAdapter(Learner(), (0.0, 1.0))
    episode(safe, 0.5)
    accepted, version = safe.counts["accepted"], safe.version
    for i in range(8):
        safe.note(1, 10 + i)
        safe.observe(step(0.5, valid=False))
    assert (safe.counts["accepted"], safe.version) == (accepted, version)
    for i in range(32):
        safe.note(1, 20 + i)
        safe.observe(step(0.5, valid=False))
    assert (safe.counts["rollbacks"], safe.off) == (1, "")


@pytest.mark.parametrize("excluded", ["stale_state", "reward_range", "warm_up"])
def test_only_the_safety_nodes_interventions_are_held_against_what_was_learned(excluded):
    safe = SafeAdapter(Learner(), (0.0, 1.0))
    episode(safe, 0.5)
    for _ in range(40):
        safe.observe(step(0.5, valid=False), excluded)
    assert safe.counts["rollbacks"] == 0
    assert acts(safe) == 0.5


def test_learning_that_takes_too_long_is_the_last_of_its_trial():
    now = iter([0.0, 0.5, 10.0, 12.5])
    safe = SafeAdapter(Learner(at_end=0.25), (0.0, 1.0), clock=lambda: next(now))
    episode(safe, 0.5)
    assert (safe.off, safe.milliseconds) == ("", 500.0)
    episode(safe, 0.5)
    assert (safe.off, safe.milliseconds) == ("over_budget", 2500.0)
    assert acts(safe) == 1.5  # what was learned holds
    safe.reset()
    safe.observe(step(0.5))
    assert acts(safe) == 0.5


def test_what_was_learned_of_an_earlier_event_does_not_take_over():
    safe = SafeAdapter(Learner(), (0.0, 1.0))
    for event, learned in (((5, 3), 0.5), ((5, 2), 0.5), ((4, 9), 0.5), ((5, 4), 1.0), ((6, 0), 1.5)):
        safe.note(*event)
        safe.observe(step(0.5))
        assert acts(safe) == learned
    assert safe.counts["old_event"] == 2
    assert safe.version == (6, 0)


def test_a_trial_begins_with_the_experience_and_a_roll_back_leaves_it():
    old = SafeAdapter(Learner(), (0.0, 1.0))
    episode(old, 0.5, sequence=4)
    old.note(1, 9)
    old.observe(step(0.25))
    found = old.experience()
    assert found[:3] == (1, 9, True)
    assert found.state["number"].item() == 0.75
    safe = SafeAdapter(Learner(at_end=0.125), (0.0, 1.0), experience=found)
    assert (acts(safe), safe.version, safe.distance) == (0.75, (1, 9), 0.75)
    episode(safe, 0.5, sequence=-1)  # by a clock that was set back since
    assert acts(safe) == 1.25
    safe.roll_back("by_hand")
    assert (acts(safe), safe.version) == (0.0, (-1, -1))
    safe.reset()
    assert acts(safe) == 0.75
    safe.bounds.mode = Mode.SHADOW
    assert acts(safe) == 0.0  # the meta-parameters act as they are


def test_an_operator_may_go_back_as_often_as_they_like():
    safe = SafeAdapter(Learner(), (0.0, 1.0))
    for _ in range(5):
        safe.roll_back("by_hand")
    assert (safe.off, safe.counts["rollbacks"]) == ("", 5)
    for _ in range(3):
        assert safe.off == ""
        safe.roll_back("non_finite")
    assert safe.off == "rollback_loop"


def test_by_hand():
    safe = SafeAdapter(Learner(), (0.0, 1.0))
    episode(safe, 0.5)
    assert safe.experience().state["number"].item() == 0.5
    safe.roll_back("by_hand")
    assert acts(safe) == 0.0
    assert safe.numbers()["rollbacks"] == 1.0


def test_copies_share_nothing_that_learning_changes():
    learner = Learner()
    other = duplicate(learner)
    learner.observe(step(0.5))
    assert other.number.item() == 0.0
    assert other.heard == []
    assert other.noise is learner.noise  # one stream of chance
    assert learner.number.item() == 0.5


TRIED = [name for name in algos.names() if not algos.load(name).privileged]


def made_up(spec, rng, reward, valid):
    obs, action = torch.randn(1, 1, spec.obs_size, generator=rng), torch.rand(1, 1, spec.action_size, generator=rng)
    flag = torch.ones(1, 1, dtype=torch.bool)
    return Step(obs, action, torch.full((1, 1), reward), obs, ~flag, ~flag, flag & valid)


@pytest.mark.parametrize("name", TRIED)
def test_every_algorithm_acts_as_without(name, small_algorithm, short_episodes):
    """Decision for decision the same numbers, so that what is measured in evaluation is what runs on a robot; and nothing is refused."""
    plain, safe = small_algorithm(name).adapter(1), SafeAdapter(small_algorithm(name).adapter(1), (-15.0, 0.0))
    spec, rng = tasks.make("point_navigation").spec, torch.Generator().manual_seed(3)
    for adapter in (plain, safe):
        adapter.reset()
    for k in range(3):
        for _ in range(spec.horizon):
            given = made_up(spec, rng, -1.0 - k, True)
            assert torch.equal(plain.act(given.obs), safe.act(given.obs))
            for adapter in (plain, safe):
                adapter.observe(given)
            assert torch.equal(plain.act(given.obs, False), safe.act(given.obs, False)), (k, safe.counts, safe.distance)
        for adapter in (plain, safe):
            adapter.adapt()
    assert safe.counts["accepted"] == 3 * (spec.horizon + 1)
    assert safe.counts["rollbacks"] == safe.counts["trust_radius"] == 0


@pytest.mark.parametrize("mode", [Mode.SHADOW, Mode.FROZEN])
@pytest.mark.parametrize("name", TRIED)
def test_every_algorithm_that_learns_nothing_acts_every_episode_as_training_had_it_act_one(name, mode, small_algorithm, short_episodes):
    """In shadow as the first episode of a trial, also while it learns; frozen as the one after what it knew. An episode that is not learned from is none."""
    algorithm = small_algorithm(name)
    known = 0 if mode is Mode.SHADOW else 2  # episodes that who acts has learned from
    safe, spec, rng = SafeAdapter(algorithm.adapter(1), (-15.0, 0.0)), tasks.make("point_navigation").spec, torch.Generator().manual_seed(3)
    learned = [[made_up(spec, rng, -1.0 - k, True) for _ in range(spec.horizon)] for k in range(2)]
    for given in learned[:known]:
        for s in given:
            safe.observe(s)
        safe.adapt()
    begins = duplicate(safe._adapter)
    safe.bounds.mode = mode
    for k in range(2):
        plain = duplicate(begins)
        for i in range(spec.horizon):
            given = made_up(spec, rng, -1.0 - k, i % 3 != 1)
            assert torch.equal(safe.act(given.obs, False), plain.act(given.obs, False)), (k, i, safe.counts)
            plain.observe(given)
            safe.observe(given)
        safe.adapt()
    assert torch.equal(safe.act(given.obs, False), begins.act(given.obs, False))
    assert safe.counts["rollbacks"] == 0


def test_in_shadow_whoever_begins_a_trial_with_a_draw_draws_anew_in_each_episode(small_algorithm):
    """PEARL takes its task to be something else each time; else it would go to the same place for ever."""
    algorithm = small_algorithm("pearl")
    safe, obs = SafeAdapter(algorithm.adapter(1), (-15.0, 0.0)), torch.ones(1, 1, tasks.make("point_navigation").spec.obs_size)
    safe.bounds.mode = Mode.SHADOW
    first = safe.act(obs, True)
    assert torch.equal(safe.act(obs, True), first)
    safe.adapt()
    assert not torch.equal(safe.act(obs, True), first)


@pytest.mark.parametrize("mode", [Mode.SHADOW, Mode.FROZEN])
def test_a_car_whose_adapter_learns_nothing_drives_every_episode_as_well_as_a_first_one(mode):
    """Held still, the memory of these files drives off the road."""
    algorithm = meta_parameters.load("zoo:car_track/rl2")
    task = tasks.make("car_track")
    env = BatchedEnv(task, 1, 1, num_threads=1, seed=0)
    returns = {}
    for learning in (True, False):
        env.set_tasks(task.sample(1, "iid"))
        safe = SafeAdapter(algorithm.adapter(1), task.reward_range)
        safe.bounds.mode = Mode.ADAPT if learning else mode
        returns[learning] = collect(env, safe, 1 if learning else 2, explore=False).returns.flatten().tolist()
    env.close()
    assert returns[False][0] == pytest.approx(returns[True][0], rel=0.2)
    assert returns[False][1] == pytest.approx(returns[True][0], rel=0.2)


def test_who_cannot_say_how_far_it_has_gone_does_not_learn_on_a_robot():
    with pytest.raises(TypeError, match="object cannot say how far it has gone from its meta-parameters: to learn on a robot it needs `distance`"):
        SafeAdapter(object(), (0.0, 1.0))


# one file of each algorithm, of tasks that are soon simulated
FILES = [f"point_navigation/{name}" for name in ("maml", "fomaml", "promp", "metagenrl", "pearl", "varibad", "rl2", "rma", "snail")]
FILES += ["grid_navi/amago", "grid_navi/hypernetwork", "quadrotor_track/rl2"]


@pytest.mark.parametrize("file", FILES)
def test_what_is_learned_in_a_trial_lies_well_inside_of_the_trust_radius(file):
    algorithm = meta_parameters.load(f"zoo:{file}")
    task = tasks.make(algorithm.spec.task)
    env = BatchedEnv(task, 1, 1, num_threads=1, seed=0)
    env.set_tasks(task.sample(1, "iid"))
    safe, distances = SafeAdapter(algorithm.adapter(1), task.reward_range), []
    collect(env, safe, explore=algorithm.noise_to_adapt, on_step=lambda *_: distances.append(safe.distance))
    env.close()
    assert safe.counts["accepted"] > 0
    assert safe.counts["trust_radius"] == 0
    assert 0.02 < max(*distances, safe.distance) < 0.7 * safe.bounds.trust_radius


def explode(adapter, what, times=1e3):
    """Make one part of what an adapter has understood larger than it can be; finite."""
    where, _, name = what.rpartition(".")
    holder = getattr(adapter, where) if where else adapter
    new = times * (1 + getattr(holder, name).abs())
    if isinstance(holder, tuple):
        setattr(adapter, where, holder._replace(**{name: new}))
    else:
        setattr(holder, name, new)


STATES = {
    "maml": ("theta",), "fomaml": ("theta",), "promp": ("theta",), "metagenrl": ("agents.policy",), "rl2": ("hidden",), "robust": ("hidden",),
    "hypernetwork": ("hidden",), "rma": ("hidden",), "varibad": ("hidden", "belief.mean", "belief.log_var"), "snail": ("found",), "amago": ("cache.known",),
    "pearl": ("evidence.weighted_mean", "mean", "latent"),
}  # fmt: skip


def test_every_algorithm_has_a_state_that_may_explode():
    assert set(STATES) == set(TRIED)


@pytest.mark.parametrize(("name", "what"), [(name, what) for name, parts in STATES.items() for what in parts])
def test_an_exploding_state_of_every_kind_does_not_take_over(name, what, small_algorithm, monkeypatch):
    adapter = small_algorithm(name).adapter(1)
    learn = type(adapter).observe
    monkeypatch.setattr(type(adapter), "observe", lambda self, step: (learn(self, step), explode(self, what)))
    safe = SafeAdapter(adapter, (-15.0, 0.0))
    spec, rng = tasks.make("point_navigation").spec, torch.Generator().manual_seed(3)
    given = made_up(spec, rng, -1.0, True)
    before = safe.act(given.obs, False)
    safe.observe(given)
    assert dict(safe.counts) == {"excluded": 0, "trust_radius": 1}
    assert torch.equal(safe.act(given.obs, False), before)


@pytest.mark.parametrize(("name", "what"), [("amago", "cache.keys"), ("metagenrl", "agents.critic"), ("pearl", "evidence.precision"), ("snail", "values")])
def test_a_number_that_is_none_is_found_wherever_it_is_kept(name, what, small_algorithm, monkeypatch):
    adapter = small_algorithm(name).adapter(1)
    learn = type(adapter).observe
    monkeypatch.setattr(type(adapter), "observe", lambda self, step: (learn(self, step), explode(self, what, NAN)))
    safe = SafeAdapter(adapter, (-15.0, 0.0))
    safe.observe(made_up(tasks.make("point_navigation").spec, torch.Generator().manual_seed(3), -1.0, True))
    assert safe.counts["non_finite"] == safe.counts["rollbacks"] == 1


@pytest.mark.parametrize("name", ["maml", "fomaml", "promp"])
@pytest.mark.parametrize(("faster", "worse"), [(1.0, 0), (1e5, 1)])
def test_an_inner_step_that_is_too_long_does_not_take_over(name, faster, worse, small_algorithm, short_episodes):
    """An exploding loss whose numbers are still finite, inside of a trust radius that somebody has opened wide."""
    algorithm = small_algorithm(name)
    algorithm.network.log_alpha += torch.tensor(faster).log()
    safe = SafeAdapter(algorithm.adapter(1), (-15.0, 0.0))
    safe.bounds.trust_radius = 1e30
    spec, rng = tasks.make("point_navigation").spec, torch.Generator().manual_seed(3)
    obs = torch.randn(1, 1, spec.obs_size, generator=rng)
    before = safe.act(obs, False)
    for i in range(spec.horizon):
        given = made_up(spec, rng, -float(i % 3), True)
        safe.observe(replace(given, action=safe.act(given.obs)))
    safe.adapt()
    assert (safe.counts["worse"], safe.counts["rollbacks"]) == (worse, 0)
    assert torch.equal(safe.act(obs, False), before) is bool(worse)


class Judged(Learner):
    """Finds its own steps at the end of an episode worse, or cannot tell."""

    def __init__(self, error=None):
        super().__init__(at_end=0.25)
        self.error = error

    def progress(self, before):
        if self.error is not None:
            raise self.error
        return -1.0


def test_after_a_refusal_version_and_distance_are_those_of_the_state_that_acts():
    safe = SafeAdapter(Judged(), (0.0, 1.0))
    episode(safe, 0.5, 0.5, 0.5)
    assert safe.counts["worse"] == 1
    assert (acts(safe), safe.version, safe.distance) == (0.0, (-1, -1), 0.0)
    safe.observe(step(0.5))
    safe.enable(False)
    assert safe.experience()[:3] == (-1, -1, False)  # of half an episode nothing is kept
    assert safe.experience().state["number"].item() == 0.0


@pytest.mark.parametrize("error", [RuntimeError("a solver"), TypeError("a shape"), KeyError("a name"), AssertionError()])
def test_whatever_an_algorithm_raises_is_a_step_that_failed(error):
    safe = SafeAdapter(Judged(error), (0.0, 1.0))
    episode(safe, 0.5)
    assert safe.counts["failed"] == safe.counts["rollbacks"] == 1
    assert (acts(safe), safe.version) == (0.0, (-1, -1))


class Wanderer(Learner):
    """Takes noise for what it should do; a memory that wanders off, paid the less the farther it is."""

    def observe(self, step):
        self.number = self.number + step.obs.reshape(1)

    @property
    def paid(self):
        return float(torch.exp(-self.number.square()))


def test_what_noisy_labels_taught_is_given_up_when_it_is_paid_less():
    """Every episode teaches a step in a random direction: without a way back, all of it is lost soon; with it, learning ends at the meta-parameters."""
    rng = torch.Generator().manual_seed(0)
    safe, bare = SafeAdapter(Wanderer(), (0.0, 1.0)), Wanderer()
    paid = {"safe": [], "bare": []}
    for k in range(80):
        label = 0.7 * torch.randn(1, 1, 1, generator=rng)
        for name, adapter, inside in (("safe", safe, safe._adapter), ("bare", bare, bare)):
            paid[name].append(inside.paid)
            safe.note(1, k)
            adapter.observe(replace(step(inside.paid), obs=label))
            adapter.adapt()
    assert safe.counts["collapse"] == safe.counts["rollbacks"] == 3
    assert safe.off == "rollback_loop"
    assert acts(safe) == 0.0
    assert sum(paid["safe"][-10:]) == pytest.approx(10.0)
    assert sum(paid["bare"][-10:]) < 5.0


@pytest.mark.parametrize("name", TRIED)
def test_noisy_labels_end_every_algorithm_inside_of_its_bounds(name, small_algorithm, short_episodes):
    """Rewards that are mere chance: whatever was accepted is finite and inside of the trust radius, and what was paid far less was given up."""
    safe = SafeAdapter(small_algorithm(name).adapter(1), (-15.0, 0.0))
    spec, rng = tasks.make("point_navigation").spec, torch.Generator().manual_seed(3)
    for k in range(5):
        for i in range(spec.horizon):
            safe.note(1, k * spec.horizon + i)
            given = made_up(spec, rng, -15.0 * float(torch.rand((), generator=rng)) if k < 2 else -15.0, True)
            safe.observe(replace(given, action=safe.act(given.obs)))
        safe.adapt()
        assert bool(safe.act(given.obs, False).isfinite().all())
        assert safe.distance <= safe.bounds.trust_radius
    assert safe.counts["collapse"] == 1  # the last three episodes were paid nothing
    assert safe.distance == 0.0


@pytest.mark.parametrize("name", TRIED)
def test_every_algorithm_stands_an_episode_that_nothing_is_learned_from(name, small_algorithm, short_episodes):
    safe = SafeAdapter(small_algorithm(name).adapter(1), (-15.0, 0.0))
    spec, rng = tasks.make("point_navigation").spec, torch.Generator().manual_seed(3)
    obs = torch.ones(1, 1, spec.obs_size)
    before = safe.act(obs, False)
    for _ in range(2):
        for _ in range(spec.horizon):
            safe.observe(made_up(spec, rng, -1.0, False))
        safe.adapt()
    assert torch.equal(safe.act(obs, False), before)
    assert safe.counts["rollbacks"] == 0


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", TRIED)
def test_every_algorithm_keeps_what_it_knew_where_learning_is_switched_off_in_mid_episode(name, frozen, small_algorithm, short_episodes):
    """Half an episode is forgotten: the next one that is learned from is neither joined to it nor longer than the horizon."""
    plain, safe = small_algorithm(name).adapter(1), SafeAdapter(small_algorithm(name).adapter(1), (-15.0, 0.0))
    spec, rng = tasks.make("point_navigation").spec, torch.Generator().manual_seed(3)
    plain.reset()
    for k in range(3):
        learning = (plain, safe) if k != 1 else (safe,)
        for i in range(spec.horizon):
            if k == 1:  # off at the second decision, and on again at the last but one, which holds from the next episode on
                off = 1 <= i < spec.horizon - 2
                safe.enable(not off or frozen)
                safe.bounds.mode = Mode.FROZEN if off and frozen else Mode.ADAPT
            given = made_up(spec, rng, -1.0, True)
            for adapter in learning:
                adapter.observe(given)
        for adapter in learning:
            adapter.adapt()
    torch.testing.assert_close(safe.act(given.obs, False), plain.act(given.obs, False))
    assert (safe.counts["failed"], safe.counts["rollbacks"]) == (0, 0)
