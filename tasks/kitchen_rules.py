"""What cooking is, whatever cooks: which knob drives which burner, what a turn of it means, how food warms, and what a recipe asks in which order.

Pure functions of tensors with free leading axes, for kitchens with and without physics. Temperatures in °C, times in s, powers in W; four knobs
and four burners, counted from 1 in names and from 0 in tensors.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn.functional import one_hot

BURNERS = 4
AIR, HOT, BURNT = 20.0, 80.0, 120.0  # °C around the food, from which it cooks, above which it is lost
COOKING_TIME = 30.0  # s that food must be hot
BURNT_FOOD = 0.5  # what burnt food costs, where a subgoal is worth 1
LOCK_TIME = 40.0  # s that the stove stays off and locked after a burner was lit without a pot; see `cut_out`
POWER, LOSS = 2000.0, 5.0  # W of a burner at its full, W/K that pot and food lose to the air

# ---- knobs and burners ------------------------------------------------------------------------------------------------------

CONTROL_MAPS = tuple("".join(p) for p in itertools.permutations("1234"))
"""All ways in which knobs can drive burners: in "2143" knob 1 drives burner 2, knob 2 burner 1, and so on."""
UNSEEN_MAPS = tuple(word[i:] + word[:i] for word in ("1243", "1324") for i in range(4))
"""Eight of them that training never meets, among which every knob drives every burner twice."""
SEEN_MAPS = tuple(m for m in CONTROL_MAPS if m not in UNSEEN_MAPS)
LAWS = {
    "rising": (0.0, 1 / 3, 2 / 3, 1.0),  # electric: the further the hotter
    "falling": (0.0, 1.0, 2 / 3, 1 / 3),  # gas: full flame first
    "dead_band": (0.0, 0.0, 0.5, 1.0),  # nothing in the first third
    "late_falling": (0.0, 0.0, 1.0, 0.5),
}
"""Control law -> part of the full power at 0, 1/3, 2/3 and all of a knob's turn, straight lines between them."""


def heat_of_turn(turn: Tensor, law: Tensor) -> Tensor:
    """(..., n) parts of the full power at turns (..., n) in [0, 1] of knobs with laws (...), as indices into LAWS."""
    table = torch.tensor(tuple(LAWS.values()), device=turn.device)[law.long()]
    position = 3 * turn.clamp(0, 1)
    below = position.round(decimals=4).floor().clamp(max=2)
    low, high = table.gather(-1, below.long()), table.gather(-1, below.long() + 1)
    return low + (position - below) * (high - low)


def burners_of_knobs(heat: Tensor, driven: Tensor) -> Tensor:
    """(..., 4) heat of the burners, from that of the knobs (..., 4) and the burner that each of them drives (..., 4), see `driven_burners`."""
    return torch.zeros_like(heat).scatter(-1, driven, heat)


def driven_burners(control_map: Tensor, names: tuple[str, ...]) -> Tensor:
    """(..., 4) burner that each knob drives, for maps (...) given as indices into `names`."""
    return torch.tensor([[int(digit) - 1 for digit in name] for name in names], device=control_map.device)[control_map.long()]


def knob_for(burner: Tensor, driven: Tensor) -> Tensor:
    """(...) the knob that drives a burner (...)."""
    return (driven == burner.long().unsqueeze(-1)).float().argmax(-1)


# ---- food -------------------------------------------------------------------------------------------------------------------


def warmed(temperature: Tensor, power: Tensor, capacity: Tensor, loss: Tensor, dt: float | Tensor) -> Tensor:
    """(...) °C after `dt` s at constant power: the exact solution of C dT/dt = P - h (T - AIR).

    Args:
        temperature: (...) °C before.
        power: (...) W that reach the food.
        capacity: (...) C, J/K of pot and food.
        loss: (...) h, W/K to the air.
        dt: s, for all or (...).
    """
    settled = AIR + power / loss
    return settled + (temperature - settled) * (-loss / capacity * dt).exp()


# ---- the recipe -------------------------------------------------------------------------------------------------------------

SUBGOALS = ("placed", "lit", "hot", "cooked", "off", "served")


def recipe(burner: int) -> str:
    """The recipe in English; burners are counted from 1."""
    return (
        f"Put the pot on burner {burner}, light it, heat the food to {HOT:.0f} °C and keep it there for {COOKING_TIME:.0f} s without exceeding {BURNT:.0f} °C, "
        "switch all burners off, and bring the pot to the table."
    )


def subgoals_met(on_burner: Tensor, asked: Tensor, temperature: Tensor, cooked: Tensor, heat: Tensor, on_table: Tensor) -> Tensor:
    """(..., 6) bool, which of SUBGOALS the state of things would fulfil, whatever came before.

    Args:
        on_burner: (..., 4) bool, the pot stands there.
        asked: (..., 4) one-hot, the burner of the recipe.
        temperature: (...) °C of the food.
        cooked: (...) s that it was hot.
        heat: (..., 4) of the burners.
        on_table: (...) bool, the pot stands on the table.
    """
    placed = (on_burner & (asked > 0)).any(-1)
    lit = placed & (heat * asked > 0).any(-1)
    return torch.stack([placed, lit, placed & (temperature >= HOT), cooked >= COOKING_TIME, (heat == 0).all(-1), on_table], -1)


def advance(stage: Tensor, met: Tensor) -> Tensor:
    """(...) number of subgoals done, in their order, from that before (...) and what is met now (..., 6); several may follow at once."""
    for s in range(len(SUBGOALS)):
        stage = torch.where((stage == s) & met[..., s], stage + 1, stage)
    return stage


def cut_out(before: Tensor, after: Tensor, on_burner: Tensor) -> Tensor:
    """(...) bool: the safety switch turns all knobs back and locks them, as a burner was just lit without a pot, by heats (..., 4) before and after.

    A wrong burner costs time and nothing else: where it cost reward, learners left all knobs alone before they had ever lit the right one.
    """
    return ((before == 0) & (after > 0) & ~on_burner).any(-1)


def reward(stage: Tensor, next_stage: Tensor, burnt: Tensor, cost: float) -> Tensor:
    """(...) 1 for each new subgoal, less something for burning the food, and the cost of a decision."""
    return next_stage - stage - BURNT_FOOD * burnt - cost


def stage_one_hot(stage: Tensor) -> Tensor:
    """(..., 6) the subgoal that is next, from the number done (...); zeros at the end."""
    return one_hot(stage.long(), len(SUBGOALS) + 1)[..., :-1].float()
