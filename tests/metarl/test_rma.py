"""RMA: what the teacher is told, when the student takes over, and what each of the two phases leaves alone."""

import pytest
import torch

from metarl.algos.rma import StudentAdapter, TeacherAdapter


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


def test_the_student_learns_the_teachers_numbers(algorithm, small_rollout):
    """A task's numbers can be memorised from its own trials."""
    algorithm.iteration = 3
    rollout = small_rollout(algorithm)
    batch = algorithm.batch(rollout)
    losses = [algorithm.learn_from_teacher(batch)["student_loss"] for _ in range(150)]
    assert losses[-1] < 0.2 * losses[0]


def test_the_teacher_stays_at_home(algorithm):
    assert not any("teacher" in name or name.startswith("value") for name in algorithm.meta_parameters())
