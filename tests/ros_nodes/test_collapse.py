"""Which falls of what episodes are paid are a collapse, and which are noise."""

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarl.ros_nodes.adaptation import Bounds
from metarl.ros_nodes.collapse import LEAST, Collapse

MOST = Bounds.collapse
LOWS = (-15.0, -15e6, -math.inf)  # which no policy comes near to


def collapses(episodes, low=0.0):
    """After how many episodes, each its mean reward or its rewards, it is a collapse; None where it is none."""
    judge = Collapse(low)
    for number, paid in enumerate(episodes, 1):
        if judge.take(paid if isinstance(paid, list) else [paid]) > MOST:
            return number
    return None


def drawn(means, spread=0.3, decisions=20, seed=0):
    """Episodes of so many noisy rewards each."""
    rng = random.Random(seed)
    return [[rng.gauss(mean, spread) for _ in range(decisions)] for mean in means]


@pytest.mark.parametrize(
    ("before", "fallen", "episodes"),
    [
        ([0.9] * 5, [0.0], 2),
        ([0.9] * 5, [0.25], 3),  # less than three quarters are lost, but for ever
        ([0.9], [0.25], 5),  # the one before may have been luck
        ([0.9] * 5, [0.0, 0.9], 5),  # every other one
        ([0.2, 0.6, 0.9, 0.9, 0.9], [0.25], 4),  # to what it had been paid before it learned
    ],
)
def test_a_fall_is_seen_after_so_many_episodes(before, fallen, episodes):
    assert collapses([*before, *itertools.islice(itertools.cycle(fallen), 30)]) == len(before) + episodes


@pytest.mark.parametrize("low", LOWS)
@pytest.mark.parametrize(("fallen", "episodes"), [([-4.0], 2), ([-4.0, -1.0], 5), ([-2.2], 5)])
def test_a_fall_is_measured_by_what_this_policy_is_paid_where_the_worst_is_far_away(low, fallen, episodes):
    means = [-1.0] * 5 + list(itertools.islice(itertools.cycle(fallen), 30))
    assert collapses(drawn(means), low) == 5 + episodes
    assert collapses(drawn([-1.0] * 35), low) is None


def test_a_decline_in_small_steps_does_not_take_along_what_it_is_measured_by():
    """A tenth less each episode."""
    assert collapses([0.9 * 0.9**k for k in range(30)]) == 15


@pytest.mark.parametrize("paid", [[0.9, 0.2, 0.7, 0.1], [0.9, 0.2] + [0.7] * 30, [0.4, 0.5, 0.3] * 10, [0.2, 0.4, 0.6, 0.8] + [0.6] * 30])
def test_noise_is_no_collapse(paid):
    assert collapses(paid) is None


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=60), st.integers(-10, 10))
def test_the_unit_of_rewards_does_not_matter(paid, power):
    one, other = Collapse(-0.5), Collapse(-0.5 * 2.0**power)
    for reward in paid:
        assert one.take([reward]) == pytest.approx(other.take([reward * 2.0**power]))


@given(st.lists(st.floats(0.61, 1.0), min_size=1, max_size=LEAST))
def test_what_keeps_near_to_what_is_usual_never_collapses(paid):
    """Wherever in (0.61, 1) their mean is, the fall from there is less than what is allowed."""
    assert collapses(paid) is None


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40))
def test_whatever_was_paid_before_one_episode_is_no_collapse_and_three_that_are_paid_the_worst_are(paid):
    judge = Collapse(-0.1)
    for reward in paid:
        judge.take([reward])
    judge.fallen = 0.0
    found = [judge.take([-0.1]) > MOST for _ in range(3)]
    assert found[0] is False
    assert found[2] is True


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=LEAST - 1), st.sampled_from((-math.inf, -1e12)))
def test_where_neither_the_worst_nor_the_spread_is_known_nothing_is_judged(paid, low):
    assert collapses(paid, low) is None
