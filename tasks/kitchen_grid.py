"""The robotic chef without physics: a kitchen of 5 x 3 cells whose stove must be understood before its recipe can be cooked in time.

What is cooked and how is kitchen_rules.py, which a kitchen with physics shares. Three episodes in the same kitchen with the same recipe: there is
time to cook for one who knows the stove, and none to find it out in.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from metarl.tasks import kitchen_rules as rules
from metarl.tasks.parameters import Param
from metarl.tasks.task import Readings, Task, Values

# 1234 burners, ABCD their knobs in the order of the control map, P counter where the pot is found, T table; everything can be walked on
LAYOUTS = {
    "I": ("12ABT", "34CDP", "....."),
    "I_mirrored": ("TBA21", "PDC43", "....."),
    "L": ("12T..", "34...", "ABCDP"),
    "L_mirrored": ("..T21", "...43", "PDCBA"),
    "U": ("AB.P.", "12..T", "34CD."),
    "U_mirrored": (".P.BA", "T..21", ".DC43"),
    "G": ("PAB12", ".CD34", ".T..."),
    "row": (".1234", ".ABCD", "P.T.."),
    "galley": ("1234.", "..P.T", "ABCD."),
    "galley_mirrored": (".4321", "T.P..", ".DCBA"),
    "island": ("T.A.P", "B12C.", ".3D4."),
    "corners": ("A1.3C", "P...T", "B2.4D"),
}
WALK, WORK = 1.0, 8.0  # s for a cell, and for what the hands do there
CLOSING_TIME = 150.0  # s, when an episode is over
_COOK, _SERVE, _WAIT = 8, 9, 10
_ON_COUNTER, _ON_STOVE, _ON_TABLE = range(3)  # where the pot is


def _places(letters: str) -> Tensor:
    """(layouts, n, 2) column and row of each letter in each layout."""
    cells = [{c: (x, y) for y, row in enumerate(rows) for x, c in enumerate(row)} for rows in LAYOUTS.values()]
    return torch.tensor([[[float(v) for v in found[letter]] for letter in letters] for found in cells])


_BURNERS, _KNOBS, _COUNTER, _TABLE = (_places(letters) for letters in ("1234", "ABCD", "P", "T"))


def _walk(here: Tensor, there: Tensor) -> Tensor:
    """(...) s to walk from (..., 2) to (..., 2)."""
    return WALK * (here - there).abs().sum(-1)


class KitchenGrid(Task):
    """Put the pot on the burner of the recipe, cook with a knob that must first be found, switch off, serve: 150 s, decisions of 8 s and the way to it.

    Hidden are which knob drives which burner, what the turn of a knob means, and how much food is in the pot. A burner shows how hot it is, a
    knob how far it is turned (in three clicks), and the food its temperature. A burner that is lit without a pot on it turns the whole stove off
    and locks it for 40 s: the recipe takes some 110 s of the 150, so that a wrong knob costs the time to serve. 1 for each of the six
    subgoals in their order, -0.5 for burning the food, which ends the episode, -0.01 for each decision. The burner is the same in all
    episodes of a trial. How much food there is matters little to one who sees its temperature: it stays for tasks to differ in a number, so
    that held-out tasks are others than those of training.
    """

    name = "kitchen_grid"
    version = 2
    params = (
        Param("layout", "", "a kitchen of shape {}", nominal="I", choices=tuple(LAYOUTS)[:8], ood_near=("galley", "galley_mirrored"), ood_far=("island", "corners"), hidden=False),
        Param("burner", "", "the pot belongs on burner {}", nominal="1", choices=("1", "2", "3", "4"), hidden=False),
        Param("control_map", "", "its knobs drive burners {}", nominal="1234", choices=rules.SEEN_MAPS, ood_near=rules.UNSEEN_MAPS, ood_far=rules.UNSEEN_MAPS),
        Param("control_law", "", "by a {} law", nominal="rising", choices=("rising", "falling", "dead_band"), ood_far=("late_falling",)),
        Param("capacity", "J/K", "food of {:.0f} J/K", nominal=1000.0, train=(600.0, 1600.0), scale="log", ood_near=((500.0, 600.0), (1600.0, 1800.0)), ood_far=((1800.0, 2200.0),)),
    )  # fmt: skip
    simulators = ("analytic",)
    horizon = 18
    episodes_per_trial = 3
    decision_dt = WORK
    observed = {
        "ways": 7, "pot_at": 3, "turn": 4, "heat": 4, "locked": 1, "asked": 4, "time_left": 1, "temperature": 1, "cooked": 1, "stage": 6,
    }  # fmt: skip
    discrete = True
    action_names = (*(f"turn_{knob}_{way}" for knob in "ABCD" for way in ("up", "down")), "cook", "serve", "wait")
    reward_range = (-0.51, 5.99)
    error_unit = "subgoals"
    cost = 0.01

    # ---- the world --------------------------------------------------------------------------------------------------------

    def start(self, values: Values, rng: torch.Generator) -> Readings:
        layout = values["layout"].long()
        one, four = torch.ones(len(layout), 1), torch.zeros(len(layout), 4)
        begin = torch.stack([torch.randint(size, (len(layout),), generator=rng) for size in (5, 3)], -1).float()
        state = {"pos": begin, "pot_at": one_hot(torch.full((len(layout),), _ON_COUNTER), 3).float(), "turn": four, "heat": four}
        food = {"temperature": rules.AIR * one, "cooked": 0 * one, "stage": 0 * one, "burnt": 0 * one, "locked": 0 * one, "time": 0 * one}
        spots = torch.stack([_COUNTER[layout, 0], _BURNERS[layout, values["burner"].long()], _TABLE[layout, 0]], 1)
        places = {"spots": spots.flatten(1), "knobs": _KNOBS[layout].flatten(1)}
        return {**state, **food, **places, "asked": one_hot(values["burner"].long(), rules.BURNERS).float()}

    def dynamics(self, readings: Readings, action: Tensor, values: Values, rng: torch.Generator) -> Readings:
        r, rows = readings, torch.arange(len(action))
        spots, knobs = r["spots"].unflatten(-1, (3, 2)), r["knobs"].unflatten(-1, (4, 2))
        chosen = action.argmax(-1)
        turning, carrying = chosen < _COOK, (chosen == _COOK) | (chosen == _SERVE)
        goal = torch.where(chosen == _COOK, _ON_STOVE, _ON_TABLE)
        here, pot, knob = r["pos"], spots[rows, r["pot_at"].argmax(-1)], (chosen // 2).clamp(max=3)
        there = torch.where(turning.unsqueeze(-1), knobs[rows, knob], torch.where(carrying.unsqueeze(-1), spots[rows, goal], here))
        way = torch.where(carrying, _walk(here, pot) + _walk(pot, there), _walk(here, there))
        pot_at = torch.where(carrying.unsqueeze(-1), one_hot(goal, 3).float(), r["pot_at"])
        click = one_hot(knob, 4) * (turning * (1 - 2 * (chosen % 2))).unsqueeze(-1) * (r["locked"] <= way.unsqueeze(-1))
        turn = ((3 * r["turn"] + click).round() / 3).clamp(0, 1)
        return {**r, "pos": there, "pot_at": pot_at, **self._cooking(r, turn, pot_at, way, values)}

    def _cooking(self, r: Readings, turn: Tensor, pot_at: Tensor, way: Tensor, values: Values) -> Readings:
        """What the knobs do to burners, food and recipe: first all is as it was for the time of the way, then as the hands made it."""
        before, after = ((r["asked"] > 0) & (x[:, _ON_STOVE : _ON_STOVE + 1] > 0) for x in (r["pot_at"], pot_at))
        heat = rules.burners_of_knobs(rules.heat_of_turn(turn, values["control_law"]), self._driven(values))
        cut = rules.cut_out(r["heat"], heat, after)
        turn = turn * ~cut.unsqueeze(-1)  # the heat is still seen for this decision: what glowed is what was lit
        locked = torch.where(cut, rules.LOCK_TIME, (r["locked"][:, 0] - way - WORK).clamp(min=0))
        loss, temperature, cooked = torch.full_like(way, rules.LOSS), r["temperature"][:, 0], r["cooked"][:, 0]
        lit = r["heat"] * (r["locked"] < rules.LOCK_TIME)  # what glowed when the stove was cut out
        for time, power in ((way, (lit * before).sum(-1)), (WORK * torch.ones_like(way), (heat * after).sum(-1) * ~cut)):
            temperature = rules.warmed(temperature, rules.POWER * power, values["capacity"], loss, time)
            cooked = cooked + time * (temperature >= rules.HOT)
        burnt = temperature > rules.BURNT
        met = rules.subgoals_met(after, r["asked"], temperature, cooked, heat, pot_at[:, _ON_TABLE] > 0)
        stage = torch.where(burnt, r["stage"][:, 0], rules.advance(r["stage"][:, 0], met))
        time_now = r["time"][:, 0] + way + WORK
        numbers = {"temperature": temperature, "cooked": cooked, "stage": stage, "burnt": burnt.float(), "locked": locked, "time": time_now}
        return {"turn": turn, "heat": heat} | {name: x.unsqueeze(-1) for name, x in numbers.items()}

    def _param(self, name: str) -> Param:
        return next(p for p in self.params if p.name == name)

    def _driven(self, values: Values) -> Tensor:
        return rules.driven_burners(values["control_map"], self._param("control_map").all_choices)

    # ---- what is asked ----------------------------------------------------------------------------------------------------

    def observation(self, readings: Readings) -> Tensor:
        r = readings
        targets = torch.cat([r["spots"], r["knobs"]], -1).unflatten(-1, (7, 2))
        ways = _walk(r["pos"].unsqueeze(-2), targets) / WORK
        food = [r["temperature"] / 100, r["cooked"] / rules.COOKING_TIME, rules.stage_one_hot(r["stage"][..., 0])]
        time_left = 1 - r["time"] / CLOSING_TIME
        return torch.cat([ways, r["pot_at"], r["turn"], r["heat"], r["locked"] / rules.LOCK_TIME, r["asked"], time_left, *food], -1)

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        before, after = (x["stage"][..., 0] for x in (readings, next_readings))
        return rules.reward(before, after, next_readings["burnt"][..., 0], self.cost)

    def terminated(self, readings: Readings) -> Tensor:
        return self.success(readings) | (readings["burnt"][..., 0] > 0) | (readings["time"][..., 0] >= CLOSING_TIME)

    def success(self, readings: Readings) -> Tensor:
        return readings["stage"][..., 0] == len(rules.SUBGOALS)

    def error(self, readings: Readings) -> Tensor:
        return len(rules.SUBGOALS) - readings["stage"][..., 0]

    # ---- one who knows the kitchen ----------------------------------------------------------------------------------------

    def expert(self, readings: Readings, told: Values) -> Tensor:
        """(N, A) the decisions of one who is told the kitchen's parameters, right or wrong."""
        r, stage = readings, readings["stage"][:, 0]
        knob = rules.knob_for(r["asked"].argmax(-1), self._driven(told))
        click = self._click(r, r["turn"][torch.arange(len(knob)), knob], told)
        chosen = torch.where(click > 0, 2 * knob, torch.where(click < 0, 2 * knob + 1, _WAIT))
        chosen = torch.where(stage < 1, _COOK, torch.where(stage == 5, _SERVE, chosen))
        return one_hot(chosen, len(self.action_names)).float()

    def _click(self, r: Readings, turn: Tensor, values: Values) -> Tensor:
        """(N,) how to turn the knob at `turn`: towards 100 °C, never further than from where one can switch off in time; off when cooked."""
        best, choice = torch.full_like(turn, torch.inf), torch.full_like(turn, -1.0)
        for click in (-1, 0, 1):
            position, further = (((3 * turn + times * click).round() / 3).clamp(0, 1) for times in (1, 2))
            hottest = after = self._foreseen(r["temperature"][:, 0], position, values)
            temperature = self._foreseen(after, further, values)  # two decisions ahead: the first click may do nothing
            for k in (1, 2, 3):
                after = self._foreseen(after, (position - k / 3).clamp(min=0), values)
                hottest = torch.maximum(hottest, after)
            badness = (temperature - 100.0).abs() + 1000.0 * (hottest > rules.BURNT - 4.0)
            choice = torch.where(badness < best - 1e-4, float(click), choice)
            best = torch.minimum(best, badness)
        return torch.where(r["stage"][:, 0] == 4, -1.0, choice)

    def _foreseen(self, temperature: Tensor, turn: Tensor, values: Values) -> Tensor:
        heat = rules.heat_of_turn(turn.unsqueeze(-1), values["control_law"])[:, 0]
        return rules.warmed(temperature, rules.POWER * heat, values["capacity"], torch.full_like(heat, rules.LOSS), WORK)
