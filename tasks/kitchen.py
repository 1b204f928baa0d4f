"""The robotic chef: a mobile arm in a kitchen whose cupboard and stove it must first understand.

A decision is a chore of the hand and the base, carried out by the physics: whether a door opens or a knob turns is up to their joints. What is
cooked and how is kitchen_rules.py, as in kitchen_grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from metarl.robots.spec import JointTrajectory
from metarl.tasks import appliances, chores
from metarl.tasks import kitchen_rules as rules
from metarl.tasks.appliances import BURNERS, HANDLE, MECHANISMS, ORDERS, SHELF, SPOT, TURNED, into_station, into_world
from metarl.tasks.parameters import Param
from metarl.tasks.task import Readings, Task, Values

if TYPE_CHECKING:
    import mujoco
    import mujoco.batch

_CUPBOARD, _STOVE, _TABLE = range(3)  # stations, and where the pot is
OFF = 0.06  # part of a knob's turn up to which it counts as off
REACHED = 0.05  # m, of the hand from where the pot shall be, in the plane
WARM = 97.0  # °C that the expert aims at
PLAY = 0.15  # rad, by how much less than the hand a knob turns, for the expert
_SENSES = ("left", "right")
_TURNS = tuple(f"turn_{knob}_{way}" for knob in range(1, 5) for way in _SENSES)
_TURN = len(chores.OPENINGS)
_COOK, _SERVE, _WAIT = (_TURN + len(_TURNS) + i for i in range(3))


class Kitchen(Task):
    """Open the cupboard, put the pot on the burner of the recipe, cook with a knob that must first be found, switch off, serve: 12 decisions of 10 s.

    Hidden are the mechanism behind the cupboard's front, which knob drives which burner, which way knobs turn on, what their turn means, and how
    fast the food warms. Seen are handle and knobs, how hot the burners are, and the food's temperature. A burner that is lit without a pot on
    it trips: it stays off until its knob is turned back, and the whole stove for four decisions. Ten decisions are enough for one who
    knows the kitchen. 1 for the open cupboard and for each of the six subgoals of kitchen_rules in their order, -0.5 for burning the food,
    which ends the episode, -0.01 for each decision. The burner is the same in all episodes of a trial.

    The motions of a decision take 4 s and are simulated; nothing moves in the rest of its 10 s. They keep the arm's limits of velocity and
    acceleration; the base reaches 1.9 m/s and 4 rad/s. The pot has no weight. Forces that start doors and knobs (2-25 N, 0.1-1 N·m) were hidden
    parameters once: the arm overcomes all of them, and nothing that it could know of them paid. How fast the food warms pays little,
    its temperature being seen; it stays for tasks to differ in a number, so that held-out tasks are others than those of training.

    Handles are a ring and a wide bar. The hand is a peg, which acts alike in every engine, where the friction of a grip would not: what differs for it is
    how much play a handle leaves. `kitchen_handles` has six of them.
    """

    name = "kitchen"
    version = 2
    robot_name = "chef"
    params: ClassVar[tuple[Param, ...]] = (
        Param("layout", "", "a kitchen of shape {}", nominal="I", choices=("I", "L", "U"), ood_near=("galley",), ood_far=("island",), hidden=False),
        Param("order", "", "with its stations in the order {}", nominal="cst", choices=ORDERS, hidden=False),
        Param("burner", "", "the pot belongs on burner {}", nominal="1", choices=("1", "2", "3", "4"), hidden=False),
        Param("handle", "", "the cupboard has a {} for a handle", nominal="ring", choices=("ring", "bar"), hidden=False),
        Param("mechanism", "", "its mechanism is {}", nominal="drawer", choices=tuple(MECHANISMS)),
        Param("control_map", "", "the knobs drive burners {}", nominal="1234", choices=rules.SEEN_MAPS, ood_near=rules.UNSEEN_MAPS, ood_far=rules.UNSEEN_MAPS),
        Param("control_law", "", "by a {} law", nominal="rising", choices=("rising", "falling", "dead_band"), ood_far=("late_falling",)),
        Param("sense", "", "they turn on to the {}", nominal="left", choices=_SENSES),
        Param("capacity", "J/K", "food of {:.0f} J/K", nominal=850.0, train=(700.0, 1000.0), ood_near=((600.0, 700.0), (1000.0, 1150.0)), ood_far=((1150.0, 1300.0),)),
    )  # fmt: skip
    horizon = 12
    episodes_per_trial = 3
    decision_dt = 10.0
    physics_dt = 0.02
    rests = True
    observed = {
        "base": 4, "stands": 9, "handle": 3, "turn": 4, "heat": 4, "locked": 1, "asked": 4,
        "pot_at": 3, "temperature": 1, "cooked": 1, "opened": 1, "stage": 6,
    }  # fmt: skip
    sensed = {"knob_turn": 4, "cranks": 12}
    discrete = True
    action_names = (*chores.OPENINGS, *_TURNS, "cook", "serve", "wait")
    reward_range = (-0.51, 6.99)
    error_unit = "subgoals"
    cost = 0.01

    # ---- the world --------------------------------------------------------------------------------------------------------

    def build(self) -> mujoco.MjSpec:
        import mujoco

        spec = self.robot.build()
        appliances.build(spec)
        floor = spec.worldbody.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[3, 3, 0.1], rgba=[0.8, 0.8, 0.78, 1])
        floor.contype, floor.conaffinity = 0, 0
        spec.worldbody.add_light(type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, pos=[0, 0, 4], dir=[0.3, 0.2, -1], castshadow=False)
        spec.worldbody.add_camera(name="above", pos=[-1.1, -0.95, 3.65], xyaxes=[0.619, -0.785, 0, 0.72, 0.568, 0.399])
        return spec

    def apply(self, batch: mujoco.batch.Batch, values: Mapping[str, Any]) -> None:
        appliances.arrange(batch, self._stands({name: torch.as_tensor(v) for name, v in values.items()}).numpy())
        kinds, handles = ([str(self._param(name).decode(v)) for v in values[name]] for name in ("mechanism", "handle"))
        appliances.hang_door(batch, kinds, handles)
        appliances.fit_knobs(batch, values["sense"] == 0)

    def _param(self, name: str) -> Param:
        return next(p for p in self.params if p.name == name)

    def _stands(self, values: Values) -> Tensor:
        return appliances.stands(values["layout"], values["order"])

    def start(self, values: Values, rng: torch.Generator) -> Readings:
        num = len(values["layout"])
        base = torch.tensor([-0.3, 0.0, 0.0]) + 0.1 * (2 * torch.rand(num, 3, generator=rng) - 1)
        return {"qpos": torch.cat([base, torch.tensor(chores.ready_qpos()).expand(num, -1)], -1)}

    def goals(self, values: Values, rng: torch.Generator) -> Readings:
        asked = one_hot(values["burner"].long(), rules.BURNERS).float()
        return {"stands": self._stands(values).flatten(-2), "asked": asked, "handle_kind": self._handle_kind(values)}

    def _handle_kind(self, values: Values) -> Tensor:
        """(N, ...) what is seen of the handle's kind."""
        return values["handle"].unsqueeze(-1)

    def memory(self, values: Values, rng: torch.Generator) -> Readings:
        one, four = torch.ones(len(values["layout"]), 1), torch.zeros(len(values["layout"]), 4)
        food = dict.fromkeys(("cooked", "stage", "burnt", "locked", "opened"), 0 * one)
        pot_at = one_hot(torch.full((len(one),), _CUPBOARD), 3).float()
        goals = self.goals(values, rng)
        return {"temperature": rules.AIR * one, **food, "heat": four, "tripped": four, "pot_at": pot_at, "pot_pos": self._pot_pos(goals, pot_at)}

    def remember(self, readings: Readings, action: Tensor, next_readings: Readings, values: Values, rng: torch.Generator) -> Readings:
        r, after = readings, next_readings
        opened = torch.maximum(r["opened"], appliances.is_open(after["door_qpos"], values["mechanism"]).float().unsqueeze(-1))
        pot_at = self._pot_at(r, after)
        on_burner = (r["asked"] > 0) & (pot_at[:, _STOVE : _STOVE + 1] > 0)
        driven = rules.driven_burners(values["control_map"], self._param("control_map").all_choices)
        onward = 1 - 2 * values["sense"].unsqueeze(-1)
        turn = (onward * after["knob_turn"] / TURNED).clamp(0.0, 1.0)  # the other way there is only the stop, which gives a bit
        wanted = rules.burners_of_knobs(rules.heat_of_turn(turn * (turn > OFF), values["control_law"]), driven)
        heat = wanted * (r["tripped"] == 0) * (r["locked"] == 0)
        cut = rules.cut_out(r["heat"], heat, on_burner)
        tripped = ((r["tripped"] > 0) | cut.unsqueeze(-1)) & (wanted > 0)
        locked = torch.where(cut, rules.LOCK_TIME, (r["locked"][:, 0] - self.decision_dt).clamp(min=0))
        food = self._food(r, heat, on_burner, pot_at, rules.POWER * ~cut, values["capacity"])
        plain = {"heat": heat, "tripped": tripped.float(), "locked": locked.unsqueeze(-1), "opened": opened}
        return {**food, **plain, "pot_at": pot_at, "pot_pos": self._pot_pos(r, pot_at)}

    def _pot_at(self, r: Readings, after: Readings) -> Tensor:
        """(N, 3) where the pot is after a decision: with the hand, if that is where a pot goes and the cupboard was open. No other chore ends there."""
        places = torch.stack([self._pot_place(r, station) for station in (_STOVE, _TABLE)], -2)
        arrived = (after["tool_pos"].unsqueeze(-2) - places)[..., :2].norm(dim=-1) < REACHED
        carried = (arrived & (r["opened"] > 0)).float()
        moved = torch.cat([0 * carried[:, :1], carried], -1)
        return torch.where(carried.any(-1, keepdim=True), moved, r["pot_at"])

    def _food(self, r: Readings, heat: Tensor, on_burner: Tensor, pot_at: Tensor, power: Tensor, capacity: Tensor) -> Readings:
        loss = torch.full_like(capacity, rules.LOSS)
        temperature = rules.warmed(r["temperature"][:, 0], power * (heat * on_burner).sum(-1), capacity, loss, self.decision_dt)
        cooked = r["cooked"][:, 0] + self.decision_dt * (temperature >= rules.HOT)
        burnt = temperature > rules.BURNT
        met = rules.subgoals_met(on_burner, r["asked"], temperature, cooked, heat, pot_at[:, _TABLE] > 0)
        stage = torch.where(burnt, r["stage"][:, 0], rules.advance(r["stage"][:, 0], met))
        numbers = {"temperature": temperature, "cooked": cooked, "burnt": burnt.float(), "stage": stage}
        return {name: x.unsqueeze(-1) for name, x in numbers.items()}

    # ---- where things are ---------------------------------------------------------------------------------------------------

    def _spot(self, r: Readings, station: int) -> Tensor:
        """(N, 3) the pot's place at a station, in its frame: of the stove, the burner of the recipe."""
        fixed = r["asked"].new_tensor((SHELF, (0.0, 0.0, 0.0), SPOT))[station]
        return r["asked"] @ r["asked"].new_tensor(BURNERS) if station == _STOVE else fixed.expand(*r["asked"].shape[:-1], 3)

    def _pot_place(self, r: Readings, station: int) -> Tensor:
        """(N, 3) the same in the world."""
        return into_world(self._spot(r, station), r["stands"].unflatten(-1, (3, 3))[..., station, :])

    def _pot_pos(self, r: Readings, pot_at: Tensor) -> Tensor:
        places = torch.stack([self._pot_place(r, station) for station in range(3)], -2)
        return (places * pot_at.unsqueeze(-1)).sum(-2)

    # ---- what is asked ----------------------------------------------------------------------------------------------------

    def observation(self, readings: Readings) -> Tensor:
        r = readings
        x, y, yaw = r["qpos"][..., :3].unbind(-1)
        stands = r["stands"].unflatten(-1, (3, 3))
        handle = into_station(r["handle_pos"], stands[..., _CUPBOARD, :]) - r["stands"].new_tensor(HANDLE)
        stove = [r["knob_turn"] / TURNED, r["heat"], r["locked"] / rules.LOCK_TIME, r["asked"]]
        food = [r["pot_at"], r["temperature"] / 100, r["cooked"] / rules.COOKING_TIME, r["opened"], rules.stage_one_hot(r["stage"][..., 0])]
        return torch.cat([torch.stack([x, y, yaw.cos(), yaw.sin()], -1), r["stands"], 4 * handle[..., :2], r["handle_kind"], *stove, *food], -1)

    def command(self, action: Tensor, readings: Readings) -> JointTrajectory:
        r, chosen = readings, action.argmax(-1)
        stands, rows = r["stands"].unflatten(-1, (3, 3)), torch.arange(len(chosen))
        turning, carrying, waiting = (chosen >= _TURN) & (chosen < _COOK), (chosen == _COOK) | (chosen == _SERVE), chosen == _WAIT
        knob = ((chosen - _TURN) // 2).clamp(0, 3)
        begin = torch.where(carrying, r["pot_at"].argmax(-1), torch.where(turning, _STOVE, _CUPBOARD))
        end = torch.where(carrying, torch.where(chosen == _COOK, _STOVE, _TABLE), begin)
        handle = into_station(r["handle_pos"], stands[:, _CUPBOARD])
        crank = into_station(r["cranks"].unflatten(-1, (4, 3))[rows, knob], stands[:, _STOVE])
        spots = torch.stack([self._spot(r, station) for station in range(3)], 1)
        paths = torch.stack([
            chores.worked(chores.open_path(handle, chosen.clamp(max=_TURN - 1))),
            chores.worked(chores.turn_path(crank, knob, 1.0 - 2.0 * ((chosen - _TURN) % 2))),
            chores.carried(spots[rows, begin], spots[rows, end]),
        ])  # fmt: skip
        path = paths[turning.long() + 2 * carrying.long(), rows]
        return chores.plan(r["command_qpos"], stands[rows, begin], stands[rows, end], path, waiting)

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        before, after = (x["stage"][..., 0] + x["opened"][..., 0] for x in (readings, next_readings))
        return rules.reward(before, after, next_readings["burnt"][..., 0], self.cost)

    def terminated(self, readings: Readings) -> Tensor:
        return self.success(readings) | (readings["burnt"][..., 0] > 0)

    def success(self, readings: Readings) -> Tensor:
        return self.error(readings) == 0

    def error(self, readings: Readings) -> Tensor:
        return len(rules.SUBGOALS) + 1 - readings["stage"][..., 0] - readings["opened"][..., 0]

    # ---- one who knows the kitchen ----------------------------------------------------------------------------------------

    def expert(self, readings: Readings, told: Values) -> Tensor:
        """(N, A) the decisions of one who is told the kitchen's parameters, right or wrong."""
        r, stage = readings, readings["stage"][:, 0]
        driven = rules.driven_burners(told["control_map"], self._param("control_map").all_choices)
        knob = rules.knob_for(r["asked"].argmax(-1), driven)
        turned = (r["knob_turn"].gather(-1, knob.unsqueeze(-1))[:, 0].abs() / TURNED).clamp(max=1.0)
        click = self._click(r, turned * (turned > OFF), told)
        more = _TURN + 2 * knob + told["sense"].long()
        less = _TURN + 2 * knob + 1 - told["sense"].long()
        chosen = torch.where(click > 0, more, torch.where(click < 0, less, _WAIT))
        chosen = torch.where(r["pot_at"][:, _STOVE] > 0, chosen, _COOK)
        chosen = torch.where(stage == 5, _SERVE, chosen)
        chosen = torch.where(r["opened"][:, 0] > 0, chosen, told["mechanism"].long())
        return one_hot(chosen, len(self.action_names)).float()

    def _click(self, r: Readings, turn: Tensor, values: Values) -> Tensor:
        """(N,) 1, 0 or -1, how to turn the knob that is at `turn`: towards WARM, never further than from where one can switch off in time."""
        step = (chores.TURN - PLAY) / TURNED
        best, choice = torch.full_like(turn, torch.inf), torch.full_like(turn, -1.0)
        for click in (-1, 0, 1):
            position, further, back = ((turn + times * step).clamp(0, 1) for times in (click, 2 * click, click - 1))
            first = self._foreseen(r["temperature"][:, 0], position, values)
            second = self._foreseen(first, further, values)
            after = self._foreseen(first, back, values)
            hottest = torch.stack([first, after, self._foreseen(after, (back - step).clamp(min=0), values)]).amax(0)
            badness = (second - WARM).abs() + 1000.0 * (hottest > rules.BURNT - 4.0)
            choice = torch.where(badness < best - 1e-4, float(click), choice)
            best = torch.minimum(best, badness)
        return torch.where(r["stage"][:, 0] == 4, -1.0, choice)

    def _foreseen(self, temperature: Tensor, turn: Tensor, values: Values) -> Tensor:
        heat = rules.heat_of_turn((turn * (turn > OFF)).unsqueeze(-1), values["control_law"])[:, 0]
        return rules.warmed(temperature, rules.POWER * heat, values["capacity"], torch.full_like(heat, rules.LOSS), self.decision_dt)
