"""How long a command takes through the ROS 2 graph, what its nodes cost, and whether they last. All beside a bare graph in the same run.

python benchmarks/ros.py                    # latency and processor time, about three minutes; the machine should have nothing else to do
python benchmarks/ros.py --soak 30          # so many minutes of random faults

Both write their part of docs/ros_figures.md. The robot is simulated in real time; every node is a process of its own, and they are connected over DDS
as on a robot. What is timed is the way from a published reading to the arrival of the command that was computed from it:
sim -> task -> adapter -> safety -> sim; and how many readings no command was computed from, because the one before was still under way, or between
two episodes. The bare graph has the same messages and hops, through nodes that pass on what they get (`chain.py`).
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from std_srvs.srv import SetBool

sys.path.insert(0, str(Path(__file__).resolve().parent))
from soak import Soak, soak

from metarl import algos, meta_parameters, tasks
from metarl.measuring import Figure
from metarl.ros_nodes.graph import Choice, Domain, Graph, NodeSpec, graph
from metarl.ros_nodes.operating import Operator
from metarl.ros_nodes.wires import ArmWire, wire

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "ros_figures.md"
SOAKED, POLICY = "arm_reach", "zoo:arm_reach/rl2"  # a memory: adaptation takes place with every decision
RATES = (100, 500)  # Hz
WARM_UP, SPELL = 3.0, 5.0  # s that do not count; s with adaptation on, and then as many with it off
PATIENCE = 120.0  # s that a graph has to come up
ON, OFF, FIRST, BARE = "adaptation on", "adaptation off", "first of an episode", "bare graph"
COLOURS = {BARE: "#999999", OFF: "#0072B2", ON: "#D55E00"}
TASK = '''
from metarl.tasks.arm_reach import ArmReach


class Reach(ArmReach):
    """arm_reach at another rate."""

    name = "{name}"
    decision_dt = 1 / {rate}
    physics_dt = 0.002
    horizon = 2 * {rate}
'''


# ---- numbers ----------------------------------------------------------------------------------------------------------------


class Distribution(NamedTuple):
    """Of n values."""

    median: float
    p90: float
    p99: float
    longest: float
    count: int

    @staticmethod
    def of(values: NDArray[np.float64]) -> Distribution:
        """Of values (n,)."""
        median, p90, p99 = np.quantile(values, [0.5, 0.9, 0.99])
        return Distribution(float(median), float(p90), float(p99), float(values.max()), len(values))


class Measured(NamedTuple):
    """What came out of one graph.

    Attributes:
        latency: name of a part of the commands -> (n,) ms of each.
        processor: node -> part of one core.
        came: name of a spell -> (n,) of each reading in it, while time passed, whether a command came that was computed from it.
    """

    latency: Mapping[str, NDArray[np.float64]]
    processor: Mapping[str, float]
    came: Mapping[str, NDArray[np.bool_]]


def processor_seconds(pid: int) -> float:
    """S of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def within(when: NDArray[np.float64], spells: Sequence[tuple[float, float]]) -> NDArray[np.bool_]:
    """(n,) which of the moments (n,) lie in one of the spells."""
    return np.array([any(begin <= t < end for begin, end in spells) for t in when], dtype=bool)


# ---- graphs -----------------------------------------------------------------------------------------------------------------


class Role(NodeSpec):
    """A process of `chain.py`."""

    @property
    def command(self) -> list[str]:
        python, _, _, *rest = super().command
        return [python, str(ROOT / "benchmarks" / "chain.py"), self.executable, *rest]


def bare(rate: int, times: Path) -> tuple[NodeSpec, ...]:
    """Nodes that pass on what they get; `times` is the file of the stopwatch."""
    source = Role("sim", "source", {"rate": float(rate), "times": str(times)})
    return source, Role("safety", "gate"), Role("adapter", "decider"), Role("task", "judge")


def real(task: str, policy: str | Path, times: Path | None) -> tuple[NodeSpec, ...]:
    """The graph as `metarl.ros_nodes.graph` defines it, with a stopwatch in the simulated robot where `times` is given."""
    nodes = graph(Choice(policy=str(policy), task=task, simulator="mujoco", pace="realtime", episodes=1_000_000))
    if times is None:
        return nodes
    return tuple(Role(n.name, "sim", {**n.parameters, "times": str(times)}, n.remappings) if n.name == "sim" else n for n in nodes)


def fast_task(rate: int, folder: Path) -> tuple[str, Path]:
    """arm_reach at `rate` Hz, written to `folder`: its name, and a file with what the zoo has learned at 50 Hz."""
    name = f"arm_reach_at_{rate}_hz"
    (folder / f"{name}.py").write_text(TASK.format(name=name, rate=rate))
    tasks.add_folder(folder)
    task, learned = tasks.make(name), meta_parameters.load(POLICY)
    algorithm = algos.load("rl2")(task.spec, task.params, learned.config, 0)
    algorithm.load_meta_parameters(learned.meta_parameters())
    meta_parameters.save(folder / f"{name}.safetensors", algorithm, "rl2", 0)
    return name, folder / f"{name}.safetensors"


@contextmanager
def awake() -> Iterator[bool]:
    """Processors that never sleep while this lasts, as `cyclictest` and whoever tunes a robot's computer have it; False where the kernel does not let us.

    The kernel's documentation, admin-guide/pm/cpuidle: /dev/cpu_dma_latency.
    """
    try:
        request = os.open("/dev/cpu_dma_latency", os.O_WRONLY)
    except OSError:
        yield False
        return
    try:
        os.write(request, bytes(4))  # us, as an int of 32 bits; it holds as long as the file is open
        yield True
    finally:
        os.close(request)


@contextmanager
def running(nodes: Sequence[NodeSpec]) -> Iterator[Operator]:
    """Somebody at a graph whose nodes are all ready."""
    with ExitStack() as stack:
        domain = stack.enter_context(Domain())
        started = stack.enter_context(Graph(tuple(nodes), domain))
        operator = stack.enter_context(Operator(domain, started, [n.name for n in nodes], PATIENCE))
        for name in operator.said:
            operator.until(lambda name=name: started.finished(name) or operator.said[name].get("ready") == "true", f"{name} to be ready")  # type: ignore[misc]
        yield operator


def measure(nodes: Sequence[NodeSpec], times: Path, seconds: float, switch: bool) -> Measured:
    """Let a graph run for a while.

    Args:
        nodes: of it.
        times: the file that the stopwatch writes when the graph ends.
        seconds: that count.
        switch: adaptation is on and off in turns, so that both meet the same machine.
    """
    spells: dict[str, list[tuple[float, float]]] = {ON: [], OFF: []}
    with running(nodes) as operator:
        operator.wait(WARM_UP)
        pids = operator.graph.pids()
        began, before = time.monotonic(), {name: processor_seconds(pid) for name, pid in pids.items()}
        while (left := began + seconds - time.monotonic()) > 0:
            name = ON if len(spells[ON]) == len(spells[OFF]) or not switch else OFF
            if switch:
                operator.ask(SetBool, "adapter/enable_adaptation", data=name == ON)
                operator.wait(SPELL / 2)  # it holds from the next episode on
            since = time.monotonic()
            time.sleep(min(SPELL, left))
            spells[name].append((since, time.monotonic()))
        taken = time.monotonic() - began
        used = {name: (processor_seconds(pid) - before[name]) / taken for name, pid in pids.items()}
    found = np.load(times)
    when, latency, first = found["published"] / 1e9, found["latency"] / 1e6, found["first"]
    during = {name: within(when, parts) for name, parts in spells.items()}
    came = {name: found["came"][within(found["asked"] / 1e9, spell)] for name, spell in spells.items()}
    if not switch:
        return Measured({BARE: latency[during[ON]]}, used, {BARE: came[ON]})
    parts = {**{name: mask & ~first for name, mask in during.items()}, FIRST: first & (when > began)}
    return Measured({name: latency[mask] for name, mask in parts.items()}, used, came)


# ---- what is said of it -----------------------------------------------------------------------------------------------------


def figures(rate: int, distributions: Mapping[str, Distribution], processor: Mapping[str, float]) -> list[Figure]:
    """What was promised, and what it is."""
    on, off = distributions[ON], distributions[OFF]
    found = [Figure(f"p99 at {rate} Hz", on.p99, "ms", "<= 2")]
    if rate != RATES[0]:
        return found
    cost = 100 * (processor["adapter"] + processor["safety"])
    return [
        Figure(f"median at {rate} Hz", on.median, "ms", "<= 1"), *found, Figure("p99 with adaptation on / off", on.p99 / off.p99, "", "<= 1.25"),
        Figure(f"processor of adapter and safety at {rate} Hz", cost, "% of a core", "<= 15"),
    ]  # fmt: skip


LEAK = 5.0  # MiB an hour that a node may grow by: over a day of work, what it needs to start
REMARK = """A reading has no command where the one before was still under way, or between two episodes. A bare graph of rclpy, which passes messages on and
computes nothing, is the floor of any of these numbers on this machine, and it misses the median and the 99 % itself. Of what comes on top, less than a
third is computing (policy, reward, limits, timed alone); and where a bare node takes and sends one message a decision, the adapter takes four and sends
three: joint states, what is seen, the event and what was executed; command, action and record."""
MISSED = ("readings", "of them without a command", "commands per reading")


def missed(came: NDArray[np.bool_] | None) -> list[str]:
    """Cells of MISSED, of readings (n,) for each of which a command came or not; empty where there were none."""
    return ["", "", ""] if came is None or not len(came) else [str(len(came)), str(int((~came).sum())), f"{came.mean():.3f}"]


def machine(sleepless: bool = False) -> str:
    """What this was measured on, and what else ran there."""
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    urgent = ", all nodes at real-time priority" if os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR) else ""
    here = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores ({model}), shared with other work{urgent}"
    here += ", none of which sleeps" if sleepless else ""
    return f"{here}; Linux {platform.release()}, Python {platform.python_version()}; mean load of the last 1, 5, 15 minutes: {load}"


def show(headings: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> list[str]:
    """A table, printed; and the same as Markdown."""
    table = Table(*headings)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    return ["| " + " | ".join(row) + " |" for row in (headings, ["---"] * len(headings), *rows)]


def write(title: str, lines: Sequence[str]) -> None:
    """Put a section of the document in the place of the one with that title, or at its end."""
    text = (
        DOCUMENT.read_text() if DOCUMENT.exists() else "# Figures of the ROS 2 graph\n\nWritten by `benchmarks/ros.py`, which says what is measured and how.\n"
    )
    parts = text.split("\n## ")
    place = next((i for i, part in enumerate(parts) if part.startswith(title)), len(parts))
    parts[place : place + 1] = ["\n".join([title, "", *lines, ""])]
    DOCUMENT.write_text("\n## ".join(parts))


def picture(latencies: Mapping[int, Mapping[str, NDArray[np.float64]]], path: Path) -> None:
    """Histograms of the latencies."""
    drawn = Picture(figsize=(7.0, 2.6), layout="constrained")
    bins = np.geomspace(0.1, 20.0, 80)
    for axes, (rate, parts) in zip(drawn.subplots(1, len(latencies), squeeze=False)[0], latencies.items(), strict=True):
        for name, colour in COLOURS.items():
            axes.hist(parts[name], bins, density=True, histtype="step", color=colour, label=name)
        axes.axvline(2.0, color="black", linewidth=0.5, linestyle="--")
        axes.set_xscale("log")
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_xlabel("ms from reading to command")
        axes.set_title(f"{rate} Hz", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    drawn.savefig(path, dpi=150)


def latency(seconds: float, folder: Path, console: Console, sleepless: bool) -> None:
    """Measure at all rates, and write; `sleepless` is said of the machine."""
    rows, promised, latencies = list[list[str]](), list[Figure](), dict[int, dict[str, NDArray[np.float64]]]()
    costs = list[list[str]]()
    about = machine(sleepless)
    for rate in RATES:
        name, policy = fast_task(rate, folder)
        times = folder / "times.npz"
        passing, working = measure(bare(rate, times), times, seconds / 2, False), measure(real(name, policy, times), times, seconds, True)
        latencies[rate] = {**passing.latency, **working.latency}
        found = {part: Distribution.of(values) for part, values in latencies[rate].items() if len(values)}
        ground = found[BARE]
        for part, d in found.items():
            ratios = [f"{d.median / ground.median:.2f}", f"{d.p99 / ground.p99:.2f}"]
            rows.append([str(rate), part, *(f"{x:.2f}" for x in d[:4]), str(d.count), *ratios, *missed({**passing.came, **working.came}.get(part))])
        promised += figures(rate, found, working.processor)
        for node, part in working.processor.items():
            there = f"{100 * passing.processor[node]:.1f}" if node in passing.processor else ""
            costs.append([str(rate), node, f"{100 * part:.1f}", there])
    lines = [f"`python benchmarks/ros.py --seconds {seconds:g}`, {POLICY} on {about}.", ""]
    lines += show(["Hz", "commands", "median ms", "p90", "p99", "max", "count", "median / bare", "p99 / bare", *MISSED], rows, console)
    lines += ["", "![latencies](ros_figures.png)", ""]
    lines += show(["Hz", "node", "% of a core", "bare"], costs, console)
    reached = [[f.name, f"{f.value:.3g} {f.unit}", f.goal, "yes" if f.reached else "no"] for f in promised]
    lines += ["", *show(["figure", "measured", "goal", "reached"], reached, console)]
    lines += ["", REMARK]
    picture(latencies, DOCUMENT.with_suffix(".png"))
    write("Latency", lines)


def endurance(minutes: float, seed: int, console: Console) -> bool:
    """Soak, and write; whether the graph came back from every fault and no memory leaks."""
    with running(real(SOAKED, POLICY, None)) as operator:
        arm = wire(tasks.make(SOAKED).robot_name)
        assert isinstance(arm, ArmWire)
        result: Soak = soak(operator, arm, minutes, seed, lambda text: console.print(text, highlight=False))
    rate = round(1 / tasks.make(SOAKED).decision_dt)
    lines = [f"`python benchmarks/ros.py --soak {minutes:g}`, {POLICY} at {rate} Hz on {machine()}.", ""]
    lines += [
        f"{sum(map(len, result.back.values()))} faults in {result.minutes:.1f} minutes. Back means that commands flow again and all nodes are active.",
        "",
    ]
    rows = [[fault, str(len(s)), f"{np.median(s):.2f}", f"{max(s):.2f}"] for fault, s in sorted(result.back.items())]
    lines += show(["fault", "times", "back after s, median", "longest"], rows, console)
    memory = [[n, f"{end:.0f}", f"{s.value:+.2f} [{s.low:+.2f}, {s.high:+.2f}]" if s else "unknown"] for n, (end, s) in result.memory.items()]
    lines += ["", *show(["node", "MiB at the end", "growth in MiB per hour, ± 2 standard errors"], memory, console), ""]
    lines += [f"Learning had switched itself off {result.adaptation_off} times, and was switched on again.", ""]
    leaks = [name for name, (_, s) in result.memory.items() if s and s.low > LEAK]
    lines += ["Not one fault left the graph stuck." if not result.stuck else "Stuck: " + "; ".join(result.stuck), ""]
    lines += [f"Memory that surely grows by more than {LEAK:g} MiB an hour: {', '.join(leaks) or 'none'}."]
    console.print("\n".join(lines[-3:]))
    write("Soak", lines)
    return not result.stuck and not leaks


@dataclass
class Main:
    """How fast the ROS 2 graph is, and how long it lasts."""

    seconds: float = 40.0
    """That each graph is timed for."""
    soak: float | None = None
    """Minutes of random faults, instead of timing."""
    seed: int = 0
    """Of the faults."""


def main() -> int:
    """Measure, print and write; the exit status."""
    asked, console = tyro.cli(Main), Console(width=140)
    with tempfile.TemporaryDirectory() as where:
        # for the processes of the nodes
        os.environ.update({"METARL_TASKS": where, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])})
        if asked.soak is None:
            with awake() as sleepless:
                latency(asked.seconds, Path(where), console, sleepless)
            return 0
        return 0 if endurance(asked.soak, asked.seed, console) else 1


if __name__ == "__main__":
    sys.exit(main())
