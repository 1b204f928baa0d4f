"""The commands of `metarl`, each a dataclass of its options; `cli.py` makes them from what was typed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.markup import escape
from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from metarl.evaluate import Evaluation

DEMO_FILE, DEMO_SIMULATOR = "zoo:arm_slide/rl2", "mujoco"

OptionalFile = Annotated[Path | None, arg(metavar="FILE")]
Files = Annotated[tuple[str, ...], arg(metavar="FILE ...")]
OptionalFolder = Annotated[Path | None, arg(metavar="FOLDER")]


@dataclass(frozen=True, kw_only=True)
class Command:
    """What all commands share."""

    debug: bool = False
    """Show the traceback of an error."""

    def run(self, line: str) -> None:
        """Do it; `line` is the command as it was typed."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class List(Command):
    """List all tasks, robots, algorithms and trained files."""

    json: OptionalFile = None
    """Write the same into this file."""

    def run(self, line: str) -> None:
        from rich.table import Table

        from metarl import tasks
        from metarl.listing import families, listing

        console, found = plain_console(), listing()
        rows = {f"tasks: {family}": names for family, names in families(found["tasks"]).items()} | {k: v for k, v in found.items() if k != "tasks"}
        table = Table.grid(padding=(0, 2))
        for kind, names in rows.items():
            table.add_row(f"[bold]{kind}[/bold]", ", ".join(names) or "none yet")
        console.print(table)
        console.print("\n`metarl describe NAME` tells more of each.")
        for problem in tasks.unreadable():
            print(f"metarl: {problem}", file=sys.stderr)
        write_json(self.json, found)


@dataclass(frozen=True, kw_only=True)
class Describe(Command):
    """Describe a task, a robot, an algorithm, or a meta-parameters file.

    Examples: `metarl describe arm_slide`, `metarl describe rl2`, `metarl describe runs/x/meta_parameters.safetensors`
    """

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """Of a task, a robot, an algorithm or an entry of the zoo, or a meta-parameters file."""
    json: OptionalFile = None
    """Write the same into this file."""

    def run(self, line: str) -> None:
        from metarl.describe import describe

        write_json(self.json, describe(self.name, plain_console()))


@dataclass(frozen=True, kw_only=True)
class Train(Command):
    """Meta-train an algorithm on a task.

    `metarl train ALGORITHM TASK --help` shows the settings of the algorithm, with the values that suit the task.

    Examples: `metarl train rl2 arm_slide --seed 1`, `metarl train maml point_navigation --config.iterations 50 --out runs/x`.
    Stop it with Ctrl-C at any time; the same command with --resume continues where it was.
    """

    algorithm: Annotated[Positional[str], arg(metavar="ALGORITHM")]
    """See `metarl list`."""
    task: Annotated[Positional[str], arg(metavar="TASK")]
    """See `metarl list`."""
    seed: int = 0
    """Of tasks, environment and algorithm."""
    out: OptionalFolder = None
    """Folder of meta-parameters, checkpoint and logs; by default runs/ALGORITHM_TASK_SEED."""
    resume: bool = False
    """Continue the training in that folder."""
    simulator: str = ""
    """By default the first one of the task."""
    threads: int = 1
    """Of the physics, and of torch in the outer step; a training that is resumed on another number is equal up to rounding."""
    device: str = "cpu"
    """cpu, cuda, or auto for a GPU where there is one."""
    checkpoint_every: int = 25
    """Iterations."""

    def run(self, line: str) -> None:
        from metarl.presets import config_for
        from metarl.train import Run, meta_train

        config = getattr(self, "config", None) or config_for(self.algorithm, self.task)
        out = self.out or Path("runs") / f"{self.algorithm}_{self.task}_{self.seed}"
        run = Run(self.algorithm, self.task, config, out, self.seed, self.simulator, line)
        result = meta_train(run, self.resume, self.threads, self.device, self.checkpoint_every)
        print(f"{result}\nevaluate it with `metarl evaluate {result}`")


@dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """Measure how well meta-parameters adapt: score and error after 0, 1, 2 ... episodes in tasks never met before.

    Several files of one algorithm are pooled as seeds. References come from the zoo unless they are given.

    Examples: `metarl evaluate zoo:arm_slide/rl2 --plot rl2.png --video rl2.mp4`,
    `metarl evaluate runs/*/meta_parameters.safetensors --split ood_near --simulator pybullet --json scores.json`
    """

    files: Annotated[Positional[tuple[str, ...]], arg(metavar="FILE ...")]
    """Meta-parameters files, or names of the zoo."""
    robust: Files = ()
    """Files of the memoryless reference."""
    oracle: Files = ()
    """Files of the reference that is told the task; without one there are returns, but no scores."""
    split: str = "iid"
    """train, iid, ood_near or ood_far."""
    simulator: str = ""
    """mujoco, pybullet or analytic; by default the first one of the task."""
    num_tasks: Annotated[int | None, arg(metavar="INT")] = None
    """Tasks; by default 64, or all of a published set that has fewer."""
    num_robots: Annotated[int | None, arg(metavar="INT")] = None
    """Copies of each task; by default one, or as many as a gradient-based algorithm was trained to learn from together."""
    episodes: Annotated[int | None, arg(metavar="INT")] = None
    """Of a trial; by default the task's."""
    seed: int = 0
    """Of tasks, start poses and random actions."""
    threads: int = 0
    """Of the physics; 0 takes all cores."""
    plot: OptionalFile = None
    """Draw a picture (PNG)."""
    video: OptionalFile = None
    """Film the first task (MP4)."""
    json: OptionalFile = None
    """Write all figures into this file."""

    def run(self, line: str) -> None:
        console = plain_console()
        for path in (self.plot, self.video, self.json):
            check_writable(path)
        if self.video:
            prepare_video()
            from metarl.video import check_can_film

            check_can_film(self.files[0])
        evaluation = evaluate_files(
            self.files, self.robust, self.oracle, self.split, self.simulator, self.num_tasks, self.num_robots, self.episodes, self.seed, self.threads
        )
        report(evaluation, console, self.plot, self.json)
        if self.video:
            from metarl.video import film

            film(self.files[0], self.video, self.split, 0, self.simulator, self.episodes, self.seed, say=console.print)
            console.print(f"film: {self.video}")


@dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """See a robot arm adapt to objects it has never met: in simulation, then over ROS 2 where rclpy is installed."""

    out: Path = Path("runs/demo")
    """Folder of picture, film and figures."""
    num_tasks: int = 64
    """Objects."""
    film: bool = True
    """Make a film; without a GPU the slowest part."""
    ros: bool = True
    """Show the same over ROS 2."""
    json: OptionalFile = None
    """Write all figures into this file, besides OUT/scores.json."""

    def run(self, line: str) -> None:
        console = plain_console()
        check_writable(self.out / "scores.json")
        check_writable(self.json)
        if self.film:
            prepare_video()
        console.rule("MuJoCo: five strikes at objects that the arm has never met")
        evaluation = evaluate_files((DEMO_FILE,), (), (), "iid", DEMO_SIMULATOR, self.num_tasks, None, None, 0, 0)
        report(evaluation, console, self.out / "adaptation.png", self.out / "scores.json")
        write_text(self.json, evaluation.to_json())
        if self.film:
            from metarl.video import film

            film(DEMO_FILE, self.out / "adaptation.mp4", "iid", simulator=DEMO_SIMULATOR, size=(480, 368), say=console.print)
            console.print(f"film: {self.out / 'adaptation.mp4'}")
        if self.ros:
            run_ros_demo(console)


@dataclass(frozen=True, kw_only=True)
class View(Command):
    """See what a task looks like: four of them side by side, each with its sentence; without a name, a contact sheet of all families of tasks.

    Where there is a screen, one task is shown live in MuJoCo's window; elsewhere, or with --out, a film (MP4) or a picture (PNG) is made.

    Examples: `metarl view arm_slide`, `metarl view arm_reach --split ood_far --out reach.png`,
    `metarl view arm_slide --values mass 0.3 shape cylinder`, `metarl view --out all.png`
    """

    task: Annotated[Positional[str], arg(metavar="TASK")] = ""
    """See `metarl list`; by default all."""
    out: OptionalFile = None
    """The film (.mp4) or the picture (.png); by default in runs/view."""
    split: str = "iid"
    """train, iid, ood_near or ood_far."""
    index: int = 0
    """Number of the first task in its split."""
    num_tasks: int = 4
    """How many."""
    values: Annotated[dict[str, str], arg(metavar="NAME VALUE ...")] = field(default_factory=dict)
    """Show one task with these values of its parameters instead, and nominal ones of the others."""
    simulator: str = ""
    """mujoco or pybullet; by default the first one of the task."""
    file: str = "auto"
    """Meta-parameters that act; "auto": of the zoo, if it has them; "": random actions."""
    episodes: int = 1
    """How many are filmed."""
    seed: int = 0
    """Of tasks, start poses and random actions."""

    def run(self, line: str) -> None:
        from metarl import tasks

        console = plain_console()
        task = tasks.make(self.task) if self.task else None
        filmed = task is not None and "analytic" not in task.simulators
        out = self.out or Path("runs/view") / f"{self.task or 'all'}{'.mp4' if filmed else '.png'}"
        if out.suffix not in (".mp4", ".png") or (out.suffix == ".mp4" and not filmed):
            raise ValueError(f"{out} cannot be made: expected a name that ends in .png{' or .mp4' if filmed else ''}")
        check_writable(out)
        shows_live = filmed and self.out is None and bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
        if not shows_live:
            prepare_video()
        from metarl import view

        if task is None:
            with console.status("drawing") as status:
                view.contact_sheet(tasks.names(), out, status.update)
        else:
            number = 1 if shows_live else self.num_tasks
            batch = task.custom([self.values]) if self.values else task.sample(number, self.split, self.seed, self.index)
            with console.status(f"drawing {self.task}"):
                view.show(task, batch, out, self.simulator, self.file, self.episodes, self.seed, shows_live, console.print)
        if not shows_live:
            console.print(f"{'film' if out.suffix == '.mp4' else 'picture'}: {out}")


@dataclass(frozen=True, kw_only=True)
class Benchmark(Command):
    """Measure how fast metarl is, each figure against the bare work that it cannot avoid."""

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME ...")] = ()
    """Which ones; by default all."""
    json: OptionalFile = None
    """Write all figures into this file."""
    markdown: OptionalFile = None
    """Write them into this file as a page with tables."""

    def run(self, line: str) -> None:
        from metarl.benchmark import as_markdown, run_benchmarks

        for path in (self.json, self.markdown):
            check_writable(path)
        measured = run_benchmarks(self.names, plain_console())
        write_json(self.json, measured)
        write_text(self.markdown, as_markdown(measured))


def plain_console() -> Console:
    """A console that prints names and numbers as they are."""
    return Console(emoji=False)


# ---- what the commands share ------------------------------------------------------------------------------------------------


def evaluate_files(
    files: Sequence[str], robust: Sequence[str], oracle: Sequence[str], split: str, simulator: str, num_tasks: int | None, num_robots: int | None,
    episodes: int | None, seed: int, threads: int,
) -> Evaluation:  # fmt: skip
    """The protocol, with references from the zoo where none are given; what is being run is said on stderr."""
    import torch

    from metarl.evaluate import evaluate, zoo_references

    torch.set_num_threads(1)  # small batches: a second thread would only wait for the physics
    robust, oracle = robust or zoo_references(files, "robust"), oracle or zoo_references(files, "oracle")
    console = Console(stderr=True, emoji=False)
    with console.status("loading") as status:

        def say(text: str) -> None:
            if console.is_terminal:
                status.update(escape(text))
            else:
                console.print(text, markup=False, highlight=False, soft_wrap=True)

        return evaluate(files, robust, oracle, split, simulator, num_tasks, num_robots, episodes, seed, threads, say)


def report(evaluation: Evaluation, console: Console, plot: Path | None, file: Path | None) -> None:
    """Print the tables, and write picture and figures where they are wanted."""
    from metarl.report import plot as draw
    from metarl.report import show

    show(evaluation, console)
    if file:
        write_text(file, evaluation.to_json())
        console.print(f"figures: {file}")
    if plot:
        draw(evaluation, plot)
        console.print(f"picture: {plot}")


def prepare_video() -> None:
    """Choose how MuJoCo draws; it reads this when it is imported."""
    from metarl.video import choose_backend

    choose_backend()


def run_ros_demo(console: Console) -> None:
    """The same adapter behind ROS topics, in processes of their own."""
    console.rule("ROS 2: the same file behind topics, the robot in PyBullet")
    if importlib.util.find_spec("rclpy") is None:
        console.print("rclpy is not installed: `pip install 'metarl[ros,sim]'` brings it for Linux on x86-64 with Python 3.11 or 3.12", markup=False)
        return
    ended = subprocess.run([sys.executable, "-m", "metarl.ros_nodes.demo", "--meta-parameters", DEMO_FILE], check=False)
    if ended.returncode:
        raise RuntimeError(f"the ROS 2 demo ended with code {ended.returncode}")


def check_writable(path: Path | None) -> None:
    """Refuse a place that cannot be written before the work begins, not after it."""
    if path is not None:
        from metarl import meta_parameters

        meta_parameters.check_writable(path)


def write_json(path: Path | None, value: Any) -> None:
    """Write figures where they are wanted."""
    write_text(path, json.dumps(value, indent=1))


def write_text(path: Path | None, text: str) -> None:
    """Write a file where one is wanted."""
    if path is not None:
        from metarl.meta_parameters import write_atomically

        write_atomically(path, text.encode())
