import math

import pytest
import torch

from metarl.tasks import kitchen_rules as rules


def test_maps_are_all_permutations_and_training_meets_two_thirds_of_them():
    assert len(set(rules.CONTROL_MAPS)) == math.factorial(4)
    assert (len(rules.SEEN_MAPS), len(rules.UNSEEN_MAPS)) == (16, 8)
    assert not set(rules.SEEN_MAPS) & set(rules.UNSEEN_MAPS)
    for names in (rules.SEEN_MAPS, rules.UNSEEN_MAPS):  # either way every knob can drive every burner
        assert all({name[k] for name in names} == set("1234") for k in range(4))


def test_knobs_drive_the_burners_of_their_map():
    driven = rules.driven_burners(torch.tensor([0, 1]), ("1234", "3142"))
    assert driven.tolist() == [[0, 1, 2, 3], [2, 0, 3, 1]]
    heat = torch.tensor([[0.1, 0.2, 0.3, 0.4]] * 2)
    torch.testing.assert_close(rules.burners_of_knobs(heat, driven), torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.2, 0.4, 0.1, 0.3]]))
    assert [rules.knob_for(torch.full((2,), b), driven).tolist() for b in range(4)] == [[0, 1], [1, 3], [2, 0], [3, 2]]


@pytest.mark.parametrize(
    ("law", "expected"),
    [
        ("rising", [0, 1 / 6, 1 / 3, 2 / 3, 1]),
        ("falling", [0, 0.5, 1, 2 / 3, 1 / 3]),
        ("dead_band", [0, 0, 0, 0.5, 1]),
        ("late_falling", [0, 0, 0, 1, 0.5]),
    ],
)
def test_laws_at_the_clicks_and_between(law, expected):
    turn = torch.tensor([[0.0, 1 / 6, 1 / 3, 2 / 3, 1.0]])
    heat = rules.heat_of_turn(turn, torch.tensor([list(rules.LAWS).index(law)]))
    torch.testing.assert_close(heat, torch.tensor([expected]))


def test_food_warms_by_the_exact_solution():
    temperature, power, capacity, loss = (torch.tensor([x]) for x in (20.0, 1500.0, 1500.0, 5.0))
    # settles at 20 + 1500 / 5 = 320 °C with a time constant of 300 s
    assert rules.warmed(temperature, power, capacity, loss, 300.0).item() == pytest.approx(320 - 300 / math.e, rel=1e-5)
    # two steps of 5 s are one of 10 s, and without power it cools towards the air
    twice = rules.warmed(rules.warmed(temperature, power, capacity, loss, 5.0), power, capacity, loss, 5.0)
    assert twice.item() == pytest.approx(rules.warmed(temperature, power, capacity, loss, 10.0).item(), rel=1e-5)
    assert rules.warmed(torch.tensor([100.0]), 0 * power, capacity, loss, 300.0).item() == pytest.approx(20 + 80 / math.e, rel=1e-5)


def met(asked=1, stands_on=1, temperature=20.0, cooked=0.0, heat=(0.0, 0.0, 0.0, 0.0), on_table=False):
    on_burner = torch.zeros(4, dtype=torch.bool)
    if stands_on is not None:
        on_burner[stands_on] = True
    given = (on_burner, torch.eye(4)[asked], torch.tensor(temperature), torch.tensor(cooked), torch.tensor(heat), torch.tensor(on_table))
    return rules.subgoals_met(*given)


def test_subgoals():
    assert met().tolist() == [True, False, False, False, True, False]
    assert met(stands_on=2, temperature=99.0).tolist() == [False, False, False, False, True, False]  # hot on the wrong burner
    assert met(heat=(0.3, 0.0, 0.0, 0.0)).tolist() == [True, False, False, False, False, False]  # the wrong one is lit
    assert met(temperature=80.0, cooked=30.0, heat=(0.0, 0.3, 0.0, 0.0)).tolist() == [True, True, True, True, False, False]
    assert met(stands_on=None, cooked=40.0, on_table=True).tolist() == [False, False, False, True, True, True]


def test_subgoals_count_in_their_order():
    def advanced(stage, *done):
        return rules.advance(torch.tensor(float(stage)), torch.tensor([s in done for s in range(6)])).item()

    assert advanced(0, 1, 2, 3, 4, 5) == 0
    assert advanced(0, 0) == 1
    assert advanced(0, 0, 4) == 1
    assert advanced(3, 3, 4) == 5  # one after another in one decision
    assert advanced(6, 0) == 6


def test_lighting_an_empty_burner_switches_the_stove_off():
    on_burner = torch.tensor([False, True, False, False])

    def cut(before, after):
        return rules.cut_out(torch.tensor(before), torch.tensor(after), on_burner).item()

    assert not cut([0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0])  # with the pot on it
    assert cut([0.0, 0.5, 0.0, 0.0], [0.3, 0.5, 0.0, 0.0])
    assert not cut([0.3, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0])  # it burnt already, when the pot was taken from it


def test_reward_by_hand():
    stage, after, burnt = (torch.tensor(x) for x in (1.0, 3.0, 1.0))
    assert rules.reward(stage, after, burnt, 0.01).item() == pytest.approx(2 - 0.5 - 0.01)


def test_the_recipe_in_english():
    assert rules.recipe(2).startswith("Put the pot on burner 2, light it, heat the food to 80 °C and keep it there for 30 s")
