import copy

import pytest
import torch

from metarl import meta_parameters, tasks
from metarl.replay import Replay, TaskIndex
from metarl.rollout import Rollout
from metarl.tasks.point_navigation import PointNavigation

SPEC = PointNavigation().spec


class Short(PointNavigation):
    horizon = 3


SPEC = Short().spec  # 2 episodes of 3 decisions


def rollout_of(ids, reward, valid=None):
    """Rewards (M, R, 2, 3) say which decision it is; all else is made of them."""
    reward = torch.as_tensor(reward, dtype=torch.float32)
    two = reward.unsqueeze(-1) * torch.tensor([1.0, 10.0])
    no = torch.zeros(reward.shape, dtype=torch.bool)
    return Rollout(two, two + 1, reward, two + 2, no, no, ~no if valid is None else valid, torch.zeros(len(ids), 2), tuple(ids), reward + 100)


def numbered(tasks, robots=1, first=0):
    return torch.arange(first, first + tasks * robots * 6.0).view(tasks, robots, 2, 3)


def remembered(replay, slot):
    return sorted(replay.rows[slot, : int(replay.written[slot].clamp(max=replay.rows.shape[1])), 6].tolist())


def test_all_decisions_are_remembered_by_task_whole():
    replay = Replay(SPEC, 4, 2, 50)
    replay.add(rollout_of("ab", numbered(2, 2)))
    replay.add(rollout_of("bc", numbered(2, 2, first=100)))
    assert replay.num_tasks == 3
    assert remembered(replay, 0) == list(range(12))
    assert remembered(replay, 1) == [*range(12, 24), *range(100, 112)]
    assert remembered(replay, 2) == list(range(112, 124))
    said = replay.draw(torch.tensor([1, 2, 1]), 200, torch.Generator().manual_seed(0))
    assert said.obs.shape == (3, 200, 2)
    assert sorted(set(said.reward[0].flatten().tolist())) == remembered(replay, 1)
    assert set(said.reward[1].flatten().tolist()) == set(remembered(replay, 2))
    torch.testing.assert_close(said.obs, said.reward * torch.tensor([1.0, 10.0]))
    torch.testing.assert_close(said.action, said.obs + 1)
    torch.testing.assert_close(said.next_obs, said.obs + 2)
    torch.testing.assert_close(said.training_reward, said.reward + 100)


def test_each_decision_is_as_likely_as_the_others():
    replay = Replay(SPEC, 2, 1, 50)
    replay.add(rollout_of("ab", numbered(2)))
    drawn = replay.draw(torch.tensor([1]), 60_000, torch.Generator().manual_seed(0)).reward.long().flatten().bincount()[6:]
    torch.testing.assert_close(drawn / 60_000, torch.full((6,), 1 / 6), atol=0.006, rtol=0)
    chosen = replay.draw_tasks(10_000, torch.Generator().manual_seed(0)).bincount(minlength=2)
    torch.testing.assert_close(chosen / 10_000, torch.full((2,), 0.5), atol=0.02, rtol=0)


def test_the_oldest_decisions_of_a_task_make_room_and_held_ones_take_none():
    replay = Replay(SPEC, 2, 1, 8)
    valid = torch.ones(2, 1, 2, 3, dtype=torch.bool)
    valid[0, 0, 0, 2] = valid[1, 0, 1, 0:] = False
    replay.add(rollout_of("ab", numbered(2), valid))
    assert remembered(replay, 0) == [0, 1, 3, 4, 5]
    assert remembered(replay, 1) == [6, 7, 8]
    replay.add(rollout_of("ab", numbered(2, first=20)))
    assert remembered(replay, 0) == [4, 5, *range(20, 26)]
    assert remembered(replay, 1) == [7, 8, *range(26, 32)]


def test_of_more_decisions_than_fit_the_last_are_kept():
    replay = Replay(SPEC, 2, 2, 5)
    replay.add(rollout_of("a", numbered(1, 2)))
    assert remembered(replay, 0) == [7, 8, 9, 10, 11]
    replay.add(rollout_of("aa", numbered(2, 2, first=50)))  # the same task twice in a rollout
    assert remembered(replay, 0) == [69, 70, 71, 72, 73]


def test_the_task_visited_longest_ago_makes_room_and_leaves_nothing_behind():
    replay = Replay(SPEC, 2, 1, 20)
    replay.add(rollout_of("ab", numbered(2)))
    replay.add(rollout_of("a", numbered(1, first=20)))
    replay.add(rollout_of("c", numbered(1, first=40)))
    assert list(replay.index.slots) == ["a", "c"]
    assert remembered(replay, replay.index.slots["c"]) == list(range(40, 46))
    assert remembered(replay, replay.index.slots["a"]) == [*range(6), *range(20, 26)]
    index = TaskIndex(2)
    index.place("ab")
    assert index.place("bc") == ([1, 0], [0])  # b is visited in this very rollout, so a goes
    with pytest.raises(ValueError, match="3 tasks was given to a memory with room for 2"):
        index.place("xyz")


def test_context_comes_from_the_last_trial_alone_and_never_from_all_that_is_remembered():
    replay = Replay(SPEC, 2, 1, 50)
    for first in (0, 20, 40):
        replay.add(rollout_of("ab", numbered(2, first=first)))
    rng = torch.Generator().manual_seed(0)
    context, weight = replay.draw_context(torch.tensor([0, 1, 1]), 1, 100, rng)
    for row, expected in enumerate(([40, 41, 42], [46, 47, 48], [46, 47, 48])):  # its first episode: the last one is never seen before acting
        assert sorted(context.reward[row][weight[row] > 0].flatten().tolist()) == expected
    assert weight.unique().tolist() == [0.0, 1.0]
    assert len(set(replay.draw(torch.tensor([0]), 500, rng).reward.flatten().tolist())) == 18, "actor and critic learn from all of them"


class Long(Short):
    episodes_per_trial = 4


def test_context_is_what_was_seen_after_some_episodes_and_weighs_as_much():
    replay = Replay(Long().spec, 1, 2, 50)
    reward = torch.arange(24.0).view(1, 2, 4, 3)
    valid = torch.ones_like(reward, dtype=torch.bool)
    valid[0, :, 0, 2] = False
    replay.add(rollout_of("a", reward, valid))
    said, weight = replay.draw_context(torch.zeros(3000, dtype=torch.long), 2, 4, torch.Generator().manual_seed(0))
    assert said.obs.shape == (3000, 4, 2)
    seen = said.reward.squeeze(-1)
    robot = seen[:, 0] >= 12
    assert bool(((seen >= 12) == robot.unsqueeze(1)).all()), "what two robots saw is never mixed"
    assert 0.45 < robot.float().mean() < 0.55
    assert not {2.0, 9.0, 10.0, 11.0, 14.0, 21.0, 22.0, 23.0} & set(seen.flatten().tolist()), "held decisions, or the last episode"
    assert all(len(set(row)) == 4 for row in seen[:50].tolist())
    # after two episodes there are 5 decisions, after three 8
    total = weight.sum(1)
    torch.testing.assert_close(total.unique(), torch.tensor([5.0, 8.0]))
    assert 0.45 < (total == 5).float().mean() < 0.55


def test_a_sum_over_drawn_decisions_has_the_mean_of_the_sum_over_all():
    replay = Replay(SPEC, 1, 1, 50)
    replay.add(rollout_of("a", torch.tensor([1.0, 5.0, 0.0, 7.0, 7.0, 7.0]).view(1, 1, 2, 3)))
    said, weight = replay.draw_context(torch.zeros(20_000, dtype=torch.long), 1, 2, torch.Generator().manual_seed(0))
    assert float((said.reward.squeeze(-1) * weight).sum(1).mean()) == pytest.approx(6.0, abs=0.1)


def test_a_saved_memory_draws_the_same(tmp_path):
    replay = Replay(SPEC, 5, 1, 7)
    replay.add(rollout_of("abc", numbered(3)))
    replay.add(rollout_of("cd", numbered(2, first=40)))
    meta_parameters.save_state(tmp_path / "state", {"replay": copy.deepcopy(replay.get_extra_state())})
    other = Replay(SPEC, 5, 1, 7)
    other.add(rollout_of("xyzuv", numbered(5, first=900)))
    other.set_extra_state(meta_parameters.load_state(tmp_path / "state")["replay"])
    more = rollout_of("da", numbered(2, first=200))
    for memory in (replay, other):
        memory.add(more)
    assert replay.index.slots == other.index.slots
    slots = torch.tensor([0, 1, 2, 3])
    for draw in (lambda m, rng: m.draw(slots, 30, rng), lambda m, rng: m.draw_context(slots, 1, 4, rng)[0]):
        one, two = (draw(memory, torch.Generator().manual_seed(0)) for memory in (replay, other))
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_tasks_that_a_training_comes_back_to():
    task = tasks.make("point_navigation")
    ids = [task.practice(3, 5, i, pool=5).ids for i in range(5)]
    assert [name for rollout in ids for name in rollout] == list(task.sample(5, "train", 5).ids) * 3
    assert task.practice(3, 5, 2).ids == task.sample(3, "train", 5, 6).ids
