"""Plans: pictures of tasks that are computed and have no camera, with what is hidden in them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.font_manager import findfont
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from metarl.tasks.bandit import Bandit
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.kitchen_grid import LAYOUTS, KitchenGrid
from metarl.tasks.kitchen_rules import LAWS
from metarl.tasks.tabular_mdp import ACTIONS, STATES, TabularMDP
from metarl.tasks.task import Task

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
Colour = tuple[int, int, int]
Numbers = Mapping[str, NDArray[np.float32]]
Told = Mapping[str, float | str]
INK, PAPER, GROUND = (20, 20, 20), (255, 255, 255), (236, 236, 232)
_GOAL, _ROBOT, _BAR, _CELL = (26, 150, 60), (180, 40, 40), (150, 160, 180), (205, 205, 198)
_OF_BURNER = {"1": (214, 96, 40), "2": (52, 116, 190), "3": (130, 80, 170), "4": (190, 155, 20)}


def plan(env: BatchedEnv, sim: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(height, width, 3) plan of one simulation; `size` is width and height in pixels."""
    assert env.tasks is not None
    image = Image.new("RGB", size, GROUND)
    readings = {name: value[sim].numpy() for name, value in env.readings.items()}
    told = {p.name: p.decode(v) for p, v in zip(env.tasks.params, env.tasks.values[sim], strict=True)}
    _draw(env.task, ImageDraw.Draw(image), size, readings, told)
    return np.asarray(image)


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """One that knows more than ASCII; it comes with matplotlib."""
    return ImageFont.truetype(findfont("DejaVu Sans"), size)


@functools.singledispatch
def _draw(task: Task, draw: ImageDraw.ImageDraw, size: tuple[int, int], readings: Numbers, told: Told) -> None:
    """Of a task that says nothing else: the goal in the plane, or a sheet of its readings."""
    pos, goal = (readings.get(name) for name in ("pos", "goal_pos"))
    if pos is not None and goal is not None and len(pos) == len(goal) == 2:
        scale = 0.4 * size[1] / max(1.0, float(np.abs(goal).max()))
        for point, colour in ((goal, _GOAL), (pos, _ROBOT)):
            _dot(draw, (size[0] / 2 + scale * float(point[0]), size[1] / 2 - scale * float(point[1])), 7, colour)
    else:
        lines = [f"{name} = {', '.join(f'{x:.2f}' for x in value.flatten()[:5])}" for name, value in readings.items()]
        draw.multiline_text((12, 12), "\n".join(lines[:10]), INK, font(13))


@_draw.register
def _kitchen(task: KitchenGrid, draw: ImageDraw.ImageDraw, size: tuple[int, int], readings: Numbers, told: Told) -> None:
    """Burners 1-4, that of the recipe ringed; knobs A-D, each with a line to the burner that it drives and in its colour; below, what clicks of a knob mean."""
    rows = LAYOUTS[str(told["layout"])]
    side = min(size[0] / len(rows[0]), 0.78 * size[1] / len(rows))
    left = (size[0] - side * len(rows[0])) / 2
    places = {letter: (left + (x + 0.5) * side, (y + 0.5) * side) for y, row in enumerate(rows) for x, letter in enumerate(row)}
    for y, row in enumerate(rows):
        for x, letter in enumerate(row):
            corner = left + x * side, y * side
            draw.rectangle((*corner, corner[0] + side, corner[1] + side), GROUND if letter == "." else _CELL, PAPER)
    driven = dict(zip("ABCD", str(told["control_map"]), strict=True))
    for knob, burner in driven.items():
        draw.line((*places[knob], *places[burner]), _OF_BURNER[burner], max(2, round(side / 30)))
    _dot(draw, places[str(told["burner"])], 0.44 * side, _GOAL)
    for knob, burner in driven.items():
        for letter, radius in ((burner, 0.34), (knob, 0.2)):
            _dot(draw, places[letter], radius * side, _OF_BURNER[burner])
            draw.text(places[letter], letter, PAPER, font(round(radius * side)), "mm")
    for letter, name in (("P", "pot"), ("T", "table")):
        draw.text(places[letter], name, INK, font(round(0.2 * side)), "mm")
    column, row_number = readings["pos"]
    _dot(draw, (left + (float(column) + 0.86) * side, (float(row_number) + 0.14) * side), 0.1 * side, _ROBOT)
    law, top = str(told["control_law"]), len(rows) * side
    draw.text((left + 8, (top + size[1]) / 2), f"heat by clicks, {law.replace('_', ' ')}:", INK, font(round(0.17 * side)), "lm")
    _bars(draw, (0.6 * size[0], top + 8, size[0] - left - 8, size[1] - 4), LAWS[law], "0123", 4 * [_BAR])


@_draw.register
def _bandit(task: Bandit, draw: ImageDraw.ImageDraw, size: tuple[int, int], readings: Numbers, told: Told) -> None:
    """A bar for each arm: how likely it pays; the best one in green."""
    pays = [float(told[p.name]) for p in task.params]
    room = size[0] / len(pays)
    names = [f"arm {i}: {p:.2f}" if room > 80 else f"{p:.2f}" if room > 36 else "" for i, p in enumerate(pays)]
    _bars(draw, (12, 12, size[0] - 12, size[1] - 8), pays, names, [_GOAL if p == max(pays) else _BAR for p in pays])


@_draw.register
def _mdp(task: TabularMDP, draw: ImageDraw.ImageDraw, size: tuple[int, int], readings: Numbers, told: Told) -> None:
    """A table of what each action pays on average in each state, and where it most likely leads; the more it pays, the greener."""
    means = readings["means"].reshape(STATES, ACTIONS)
    likeliest = readings["probabilities"].reshape(STATES, ACTIONS, STATES).argmax(-1)
    height, letters = size[1] / (STATES + 2), font(size[1] // 30)
    width = size[0] / (ACTIONS + 0.6)
    draw.text((8, height / 2), "mean reward → likeliest next state", INK, letters, "lm")
    for a in range(ACTIONS):
        draw.text(((a + 1.1) * width, 1.5 * height), f"action {a}", INK, letters, "mm")
    for s in range(STATES):
        y = (s + 2) * height
        draw.text((0.3 * width, y + height / 2), f"state {s}", INK, font(size[1] // 36), "mm")
        for a in range(ACTIONS):
            x = (a + 0.6) * width
            draw.rectangle((x, y, x + width, y + height), _between(GROUND, _GOAL, (float(means[s, a]) + 1.0) / 4.0), PAPER)  # m ~ N(1, 1)
            draw.text((x + width / 2, y + height / 2), f"{means[s, a]:.1f} → {likeliest[s, a]}", INK, letters, "mm")


def _bars(draw: ImageDraw.ImageDraw, box: Box, heights: Sequence[float], names: Sequence[str], colours: Sequence[Colour]) -> None:
    """Bars for numbers between 0 and 1, with names below them."""
    left, top, right, bottom = box
    width, letters = (right - left) / len(heights), font(12 if bottom - top > 100 else 10)
    foot = bottom - 16
    draw.line((left, foot, right, foot), INK)
    for i, (value, name, colour) in enumerate(zip(heights, names, colours, strict=True)):
        x = left + i * width
        draw.rectangle((x + 0.15 * width, foot - value * (foot - top), x + 0.85 * width, foot), colour)
        draw.text((x + width / 2, bottom), name, INK, letters, "mb")


def _dot(draw: ImageDraw.ImageDraw, middle: tuple[float, float], radius: float, colour: Colour) -> None:
    x, y = middle
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)


def _between(low: Colour, high: Colour, part: float) -> Colour:
    r, g, b = (round(x + min(max(part, 0.0), 1.0) * (y - x)) for x, y in zip(low, high, strict=True))
    return r, g, b
