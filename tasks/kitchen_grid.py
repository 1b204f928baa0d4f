"""The robotic chef without physics: a kitchen of 5 x 3 cells whose stove must be understood before its recipe can be cooked well.

What is cooked and how is kitchen_rules.py, which a kitchen with physics shares. Three episodes in the same kitchen, each with another burner in
the recipe: what was found out of the knobs in one makes the next ones faster.
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
    "L": ("12T..", "34...", "ABCDP"),
    "U": ("AB.P.", "12..T", "34CD."),
    "galley": ("1234.", "..P.T", "ABCD."),
    "island": ("T.A.P", "B12C.", ".3D4."),
}
WIDTH, HEIGHT = 5, 3
_MOVES = torch.tensor([[0.0, -1.0], [0.0, 1.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
_HAND, _UP, _DOWN = 4, 5, 6


def _places(letters: str) -> Tensor:
    """(layouts, 2 n) column and row of each letter in each layout."""
    cells = [{c: (x, y) for y, row in enumerate(rows) for x, c in enumerate(row)} for rows in LAYOUTS.values()]
    return torch.tensor([[float(v) for letter in letters for v in found[letter]] for found in cells])


_BURNERS, _KNOBS, _COUNTER, _TABLE = (_places(letters) for letters in ("1234", "ABCD", "P", "T"))


def _at(pos: Tensor, places: Tensor) -> Tensor:
    """(..., n) bool, which of the places (..., 2 n) is pos (..., 2)."""
    return (places.unflatten(-1, (-1, 2)) == pos.unsqueeze(-2)).all(-1)


class KitchenGrid(Task):
    """Find the pot, put it on the burner of the recipe, cook with a knob that must first be found, switch off, serve: 30 decisions of 10 s.

    Hidden are which knob drives which burner, what the turn of a knob means, the burners' power, and how fast the food warms and cools. A burner
    shows how hot it is, a knob how far it is turned (in three clicks), and the food its temperature. A
    burner that is lit without a pot on it turns the whole stove off and locks it for three decisions: wrong knobs cost the time to serve. 1 for
    each of the six subgoals in their order, -0.5 for burning the food, which ends the episode, -0.01 for each decision.
    """

    name = "kitchen_grid"
    params = (
        Param("layout", "", "a kitchen of shape {}", nominal="I", choices=("I", "L", "U"), ood_near=("galley",), ood_far=("island",), hidden=False),
        Param("control_map", "", "whose knobs drive burners {}", nominal="1234", choices=rules.SEEN_MAPS, ood_near=rules.UNSEEN_MAPS, ood_far=rules.UNSEEN_MAPS),
        Param("control_law", "", "by a {} law", nominal="rising", choices=("rising", "falling", "dead_band"), ood_far=("late_falling",)),
        Param("power", "W", "with {:.0f} W", nominal=2100.0, train=(1800.0, 2400.0), ood_near=((1500.0, 1800.0), (2400.0, 2700.0)), ood_far=((1200.0, 1500.0), (2700.0, 3000.0))),
        Param("capacity", "J/K", "food of {:.0f} J/K", nominal=1100.0, train=(900.0, 1300.0), ood_near=((1300.0, 1500.0),), ood_far=((1500.0, 1700.0),)),
        Param("loss", "W/K", "that loses {:.1f} W/K", nominal=5.0, train=(3.0, 7.0), ood_near=((7.0, 9.0),), ood_far=((9.0, 11.0),)),
    )  # fmt: skip
    simulators = ("analytic",)
    horizon = 30
    episodes_per_trial = 3
    decision_dt = 10.0
    observed = {
        "pos": 2, "to_pot": 2, "to_burner": 2, "to_table": 2, "to_knobs": 8, "held": 1,
        "turn": 4, "heat": 4, "locked": 1, "asked": 4, "temperature": 1, "cooked": 1, "stage": 6,
    }  # fmt: skip
    discrete = True
    action_names = ("north", "south", "east", "west", "hand", "turn_up", "turn_down")
    reward_range = (-0.51, 5.99)
    error_unit = "subgoals"
    cost = 0.01

    # ---- the world --------------------------------------------------------------------------------------------------------

    def start(self, values: Values, rng: torch.Generator) -> Readings:
        layout = values["layout"].long()
        one = torch.ones(len(layout), 1)
        asked = torch.randint(rules.BURNERS, (len(layout),), generator=rng)
        begin = torch.tensor([2.0, 2.0]).expand(len(layout), -1)
        state = {"pos": begin, "pot_pos": _COUNTER[layout], "held": 0 * one, "turn": torch.zeros(len(layout), 4), "heat": torch.zeros(len(layout), 4)}
        food = {"temperature": rules.AIR * one, "cooked": 0 * one, "stage": 0 * one, "burnt": 0 * one, "locked": 0 * one}
        places = {"burner_pos": _BURNERS[layout], "knob_pos": _KNOBS[layout], "counter_pos": _COUNTER[layout], "table_pos": _TABLE[layout]}
        return {**state, **food, **places, "asked": one_hot(asked, rules.BURNERS).float()}

    def dynamics(self, readings: Readings, action: Tensor, values: Values, rng: torch.Generator) -> Readings:
        r = readings
        pos = (r["pos"] + action @ _MOVES).clamp(min=torch.zeros(2), max=torch.tensor([WIDTH - 1.0, HEIGHT - 1.0]))
        hand, held = action[:, _HAND : _HAND + 1] > 0, r["held"] > 0
        surfaces = torch.cat([r["burner_pos"], r["counter_pos"], r["table_pos"]], -1)
        put = hand & held & _at(pos, surfaces).any(-1, keepdim=True)
        take = hand & ~held & _at(pos, r["pot_pos"])
        held = (held | take) & ~put
        pot = torch.where(held, pos, r["pot_pos"])
        click = (action[:, _UP] - action[:, _DOWN]).unsqueeze(-1) * _at(pos, r["knob_pos"]) * (r["locked"] == 0)
        turn = ((3 * r["turn"] + click).round() / 3).clamp(0, 1)
        on_burner = _at(pot, r["burner_pos"]) & ~held
        return {**r, "pos": pos, "pot_pos": pot, "held": held.float(), **self._cooking(r, turn, on_burner, pot, held, values)}

    def _cooking(self, r: Readings, turn: Tensor, on_burner: Tensor, pot: Tensor, held: Tensor, values: Values) -> Readings:
        """What the knobs do to burners, food and recipe in one decision."""
        heat = rules.burners_of_knobs(rules.heat_of_turn(turn, values["control_law"]), self._driven(values))
        cut = rules.cut_out(r["heat"], heat, on_burner)
        turn = turn * ~cut.unsqueeze(-1)  # the heat is still seen for this decision: what glowed is what was lit
        locked = torch.where(cut, rules.LOCK_TIME, (r["locked"][:, 0] - self.decision_dt).clamp(min=0))
        power = values["power"] * (heat * on_burner).sum(-1) * ~cut
        temperature = rules.warmed(r["temperature"][:, 0], power, values["capacity"], values["loss"], self.decision_dt)
        cooked = r["cooked"][:, 0] + self.decision_dt * (temperature >= rules.HOT)
        burnt = temperature > rules.BURNT
        on_table = (_at(pot, r["table_pos"]) & ~held)[:, 0]
        met = rules.subgoals_met(on_burner, r["asked"], temperature, cooked, heat, on_table)
        stage = torch.where(burnt, r["stage"][:, 0], rules.advance(r["stage"][:, 0], met))
        numbers = {"temperature": temperature, "cooked": cooked, "stage": stage, "burnt": burnt.float(), "locked": locked}
        return {"turn": turn, "heat": heat} | {name: x.unsqueeze(-1) for name, x in numbers.items()}

    def _driven(self, values: Values) -> Tensor:
        return rules.driven_burners(values["control_map"], self.params[1].all_choices)

    # ---- what is asked ----------------------------------------------------------------------------------------------------

    def observation(self, readings: Readings) -> Tensor:
        r = readings
        pos = r["pos"]
        asked_pos = (r["burner_pos"].unflatten(-1, (-1, 2)) * r["asked"].unsqueeze(-1)).sum(-2)
        to_knobs = (r["knob_pos"].unflatten(-1, (-1, 2)) - pos.unsqueeze(-2)).flatten(-2)
        ways = [pos, r["pot_pos"] - pos, asked_pos - pos, r["table_pos"] - pos, to_knobs]
        food = [r["temperature"] / 100, r["cooked"] / rules.COOKING_TIME, rules.stage_one_hot(r["stage"][..., 0])]
        return torch.cat([*ways, r["held"], r["turn"], r["heat"], r["locked"] / rules.LOCK_TIME, r["asked"], *food], -1)

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        before, after = (x["stage"][..., 0] for x in (readings, next_readings))
        return rules.reward(before, after, next_readings["burnt"][..., 0], self.cost)

    def terminated(self, readings: Readings) -> Tensor:
        return self.success(readings) | (readings["burnt"][..., 0] > 0)

    def success(self, readings: Readings) -> Tensor:
        return readings["stage"][..., 0] == len(rules.SUBGOALS)

    def error(self, readings: Readings) -> Tensor:
        return len(rules.SUBGOALS) - readings["stage"][..., 0]

    # ---- one who knows the kitchen ----------------------------------------------------------------------------------------

    def expert(self, readings: Readings, values: Values) -> Tensor:
        """(N, A) the decisions of one who is told the kitchen's parameters, right or wrong."""
        r, stage = readings, readings["stage"][:, 0]
        asked = r["asked"].argmax(-1)
        knob = rules.knob_for(asked, self._driven(values))
        rows = torch.arange(len(knob))
        burner_pos, knob_pos = (r[name].unflatten(-1, (-1, 2)) for name in ("burner_pos", "knob_pos"))
        held, at_stove = r["held"] > 0, ((stage >= 1) & (stage <= 4)).unsqueeze(-1)
        carried_to = torch.where((stage < 1).unsqueeze(-1), burner_pos[rows, asked], r["table_pos"])
        goal = torch.where(at_stove, knob_pos[rows, knob], torch.where(held, carried_to, r["pot_pos"]))
        way = goal - r["pos"]
        sideways, down = way[:, 0] != 0, way[:, 1] > 0
        move = torch.where(sideways, torch.where(way[:, 0] > 0, 2, 3), torch.where(down, 1, 0))
        work = torch.where(at_stove[:, 0], self._click(r, r["turn"][rows, knob], values), _HAND)
        chosen = torch.where((way == 0).all(-1), work, move)
        return one_hot(chosen, len(self.action_names)).float()

    def _click(self, r: Readings, turn: Tensor, values: Values) -> Tensor:
        """(N,) how to turn the knob at `turn`: towards 90 °C, never further than from where one can switch off in time; off when cooked."""
        best = torch.full_like(turn, torch.inf)
        choice = torch.full_like(turn, _DOWN, dtype=torch.long)
        for action, click in ((_DOWN, -1), (_HAND, 0), (_UP, 1)):
            position, further = (((3 * turn + times * click).round() / 3).clamp(0, 1) for times in (1, 2))
            hottest = after = self._foreseen(r["temperature"][:, 0], position, values)
            temperature = self._foreseen(after, further, values)  # two decisions ahead: the first click may do nothing
            for k in (1, 2, 3):
                after = self._foreseen(after, (position - k / 3).clamp(min=0), values)
                hottest = torch.maximum(hottest, after)
            badness = (temperature - 90.0).abs() + 1000.0 * (hottest > rules.BURNT - 5.0)
            choice = torch.where(badness < best - 1e-4, action, choice)
            best = torch.minimum(best, badness)
        return torch.where(r["stage"][:, 0] == 4, _DOWN, choice)

    def _foreseen(self, temperature: Tensor, turn: Tensor, values: Values) -> Tensor:
        heat = rules.heat_of_turn(turn.unsqueeze(-1), values["control_law"])[:, 0]
        return rules.warmed(temperature, values["power"] * heat, values["capacity"], values["loss"], self.decision_dt)
