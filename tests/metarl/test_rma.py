"""RMA: what the teacher is told, when the student takes over, and what each of the two phases leaves alone."""

import dataclasses

import pytest
import torch

from metarl import tasks
from metarl.algos.rma import StudentAdapter, TeacherAdapter
from metarl.rollout import collect
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.point_navigation import PointNavigation
from metarl.trials import valid_first


@pytest.fixture
def algorithm(small_algorithm, short_episodes):
    made = small_algorithm("rma")
    assert made.config.iterations == 4
    assert made.config.teacher_part == pytest.approx(0.7)
    return made


def moved(before, after):
    """Names of what differs."""
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_the_teacher_comes_first_and_only_in_training(algorithm):
    kinds = []
    for iteration in range(4):
        algorithm.iteration = iteration
        kinds.append(type(algorithm.adapter(3, 2, training=True)))
        assert type(algorithm.adapter(3, 2)) is StudentAdapter
    assert kinds == [TeacherAdapter, TeacherAdapter, TeacherAdapter, StudentAdapter]
    assert not hasattr(algorithm.adapter(3, 2), "tell"), "nobody tells a robot its task"


def test_the_teacher_acts_by_what_it_is_told_and_not_by_what_happened(algorithm, small_rollout):
    rollout = small_rollout(algorithm)
    adapter = algorithm.adapter(3, 2, training=True)
    adapter.tell(rollout.values)
    first = adapter.known()
    torch.testing.assert_close(first[1, 0], algorithm.network.teacher(rollout.values)[1])
    adapter.remember(torch.ones(6, 1), torch.ones(6, dtype=torch.bool))
    assert torch.equal(adapter.known(), first)
    adapter.tell(rollout.values.flip(0))
    torch.testing.assert_close(adapter.known(), first.flip(0))


def test_what_is_trained_when(algorithm, small_rollout):
    def state():
        return {name: x.detach().clone() for name, x in algorithm.network.state_dict().items()}

    before = state()
    algorithm.meta_update(small_rollout(algorithm))
    after = state()
    changed = moved(before, after)
    assert not any(name.startswith("memory.") for name in changed)
    assert {name.split(".")[0] for name in changed} >= {"teacher", "policy", "value", "normalizer"}
    algorithm.iteration = 3
    algorithm.meta_update(small_rollout(algorithm))
    assert {name.split(".")[0] for name in moved(after, state())} == {"memory"}, "the policy must stay what the student's numbers mean something to"


def test_a_training_that_is_continued_for_longer_stays_the_students(algorithm, small_config):
    algorithm.iteration = 4
    longer = type(algorithm)(algorithm.spec, algorithm.params, dataclasses.replace(algorithm.config, iterations=20), seed=1)
    assert longer.teaching
    longer.load_state_dict(algorithm.state_dict())
    assert not longer.teaching


def test_recomputed_guesses_are_those_of_acting_also_with_early_ends(algorithm):
    class EndsNearby(PointNavigation):
        def terminated(self, readings):
            return self.error(readings) < 0.15

    env = BatchedEnv(EndsNearby(), 3, 2, seed=5)
    env.set_tasks(tasks.make("point_navigation").custom([{"goal_x": 0.2, "goal_y": 0.2}, {"goal_x": 0.5, "goal_y": -0.5}, {"goal_x": -0.3, "goal_y": 0.0}]))
    algorithm.iteration = 3
    adapter, known = algorithm.adapter(3, 2, training=True), []
    act = adapter.act
    adapter.act = lambda obs, explore=True: (known.append(adapter.known().flatten(0, 1)), act(obs, explore))[1]
    rollout = collect(env, adapter, explore=True)
    assert not bool(rollout.valid.all()), "no episode ended early: the test would show nothing"
    batch = algorithm.batch(rollout)
    guesses = algorithm.student.guesses(batch.transition[:, :-1])
    acted = torch.stack(known, 1)  # by decision of the trial, held ones too
    order = valid_first(rollout)
    expected = acted.gather(1, order.unsqueeze(-1).expand(*order.shape, acted.shape[-1]))
    torch.testing.assert_close(guesses[batch.valid], expected[batch.valid], rtol=1e-4, atol=1e-5)


def test_the_student_learns_the_teachers_numbers(algorithm, small_rollout):
    """A task's numbers can be memorised from its own trials."""
    algorithm.iteration = 3
    rollout = small_rollout(algorithm)
    batch = algorithm.batch(rollout)
    losses = [algorithm.learn_from_teacher(batch)["student_loss"] for _ in range(150)]
    assert losses[-1] < 0.2 * losses[0]


def test_the_teacher_stays_at_home(algorithm):
    assert not any("teacher" in name or name.startswith("value") for name in algorithm.meta_parameters())
