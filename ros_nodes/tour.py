"""`make demo-ros`: a PyBullet arm meets an object it does not know, then a quadrotor a wind it has never met; each recorded, replayed, plotted, filmed.

`python -m metarl.ros_nodes.tour --help`. Everything runs as real nodes over DDS on this machine.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console

from metarl import meta_parameters, tasks
from metarl.ros_nodes.demo import Board, Listener, ended, needs_ros
from metarl.ros_nodes.events import Event
from metarl.ros_nodes.graph import Arm, Car, Choice, Domain, Graph, Quadrotor, graph

PATIENCE = 900.0  # s, for a whole trial; a busy machine takes its time to start processes
VEHICLES: dict[str, type[Choice]] = {"quadrotor": Quadrotor, "car": Car}


@dataclass(frozen=True)
class Tour:
    """An arm, then a vehicle, adapt over ROS 2 to what they have never met."""

    out: Path = Path("runs/demo-ros")
    """Folder of bags, plots and films; each run makes a folder of its own in it."""
    vehicle: Literal["quadrotor", "car", "none"] = "quadrotor"
    """What goes out into the wind."""
    pace: Literal["lockstep", "realtime"] = "lockstep"
    """Of the vehicle's simulation: lockstep shows the same on every machine, realtime waits for nobody."""
    arm: bool = True
    """Begin with the arm."""
    film: bool = True
    """Make films of the bags."""
    index: int = 0
    """Which hidden tasks, of those outside of the range of training for the vehicle."""


def run(choice: Choice, console: Console) -> list[Event]:
    """One trial; its events."""
    task = tasks.make(choice.task)
    events: list[Event] = []
    with Board(task, console) as board, Domain() as domain:

        def hear(event: Event) -> None:
            events.append(event)
            board.hear(event)

        with Listener(domain, hear) as listener, Graph(graph(choice, observers=1), domain) as running:
            running.wait_until(lambda: listener.heard_all() and running.finished("task"), PATIENCE, "the trial to end")
            listener.heard_all()
    return events


def show(tour: Tour, console: Console) -> dict[str, Any]:
    """All of it; what was seen, as plain values."""
    from metarl.ros_nodes import film
    from metarl.ros_nodes.replay import loop_of, read, replay

    folder = tour.out / time.strftime("%Y-%m-%d_%H-%M-%S")
    folder.mkdir(parents=True)
    parts: list[tuple[str, list[Choice]]] = []
    if tour.arm:
        parts.append(("arm", [Arm(index=tour.index, record=True)]))
    if tour.vehicle != "none":
        adapts = VEHICLES[tour.vehicle](split="ood_near", index=tour.index, pace=tour.pace, record=True)
        robust = replace(adapts, policy=f"zoo:{adapts.task}/robust")
        parts.append((tour.vehicle, [robust, adapts] if robust.policy in meta_parameters.zoo() else [adapts]))
    results: dict[str, Any] = {}
    for name, choices in parts:
        task = tasks.make(choices[0].task)
        console.rule(f"{name}: {task.name}, {choices[0].simulator}, {choices[0].split}")
        console.print("What the robot is not told: " + task.sample(1, choices[0].split, start=choices[0].index).describe(0), highlight=False)
        runs = []
        for choice in choices:
            label = choice.policy.rpartition("/")[2]
            bag = folder / f"{name}_{label}"
            console.print(f"[bold]{choice.policy}[/bold]" + (": no memory, so it cannot adapt" if label == "robust" else ""), highlight=False)
            events = run(replace(choice, bag=str(bag)), console)
            found = read(bag)
            replayed = replay(loop_of(found), found)
            runs.append((label, events))
            said = replayed.difference or f"its replay gives the same {replayed.decisions} actions, bit for bit"
            console.print(f"bag: {bag}; {said}", highlight=False)
            results[f"{name}_{label}"] = {"returns": film.returns_of(events), "replay": replayed._asdict(), "bag": str(bag)}
        film.plot(runs, task, folder / f"{name}.png")
        console.print(f"plot: {folder / name}.png")
        if tour.film:
            film.film(bag, folder / f"{name}.mp4", title=f"{choices[-1].policy}, {choices[-1].simulator} over ROS 2")
            console.print(f"film: {folder / name}.mp4")
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the exit status."""
    from metarl.video import choose_backend

    tour = tyro.cli(Tour, args=arguments, prog="python -m metarl.ros_nodes.tour")
    choose_backend()

    def work() -> int:
        needs_ros()
        results = show(tour, Console())
        return 0 if all(not r["replay"]["difference"] for r in results.values()) else 1

    return ended(work)


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main())
