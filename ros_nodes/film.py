"""What a bag shows: a film of the robot as it was measured, and a plot of how far from done it was. Needs a simulator to draw, and no ROS.

Nothing is simulated again: the scene of the task is put, picture by picture, where the messages say that everything was. A bag of a real robot does as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from metarl import tasks, video
from metarl.report import styles, unit_and_scale
from metarl.robots.spec import VehicleSpec
from metarl.ros_nodes.events import Event
from metarl.ros_nodes.labels import SECOND, to_event
from metarl.ros_nodes.replay import messages_of, metadata
from metarl.tasks.simulators.simulator import RobotSimulator
from metarl.tasks.task import Readings, Task

_PLACES = ("/measured/", "/shown/")
RESULT = 0.6  # s that the end of an episode stays in the picture


@dataclass
class Moment:
    """Where everything was.

    Attributes:
        stamp: ns, of the robot's own clock.
        places: name of a body -> its position and quaternion wxyz (7,); of the robot's joints -> their positions (J,).
        episode: number of the episode; -1 before the first.
        reward: of the episode so far.
        error: in the task's unit, at the last event.
        ended: the episode ended here.
    """

    stamp: int
    places: dict[str, Tensor] = field(default_factory=dict)
    episode: int = -1
    reward: float = 0.0
    error: float = math.nan
    ended: bool = False


def moments(folder: Path, task: Task) -> Iterator[Moment]:
    """Everything that was measured, message by message."""
    robot, now = task.robot, Moment(0)
    own = "/measured/odom" if isinstance(robot, VehicleSpec) else "/joint_states"
    for topic, _, message in messages_of(folder):
        if topic.endswith("/task/events"):
            event = to_event(message)
            reward = event.reward + (0.0 if event.begins else now.reward)
            now = Moment(now.stamp, now.places, event.episode, reward, event.error)
            if event.ends:
                yield replace(now, ended=True)
        elif topic.endswith(own):
            place = _pose(message.pose.pose) if isinstance(robot, VehicleSpec) else torch.tensor(message.position, dtype=torch.float32)
            now = replace(now, stamp=_stamp(message), places={**now.places, robot.name: place})
            yield now
        elif any(kind in topic for kind in _PLACES) and message.__msgtype__ == "geometry_msgs/msg/PoseStamped":
            now = replace(now, places={**now.places, topic.rpartition("/")[2]: _pose(message.pose)})


def film(folder: Path, out: Path, fps: float = 12.5, size: tuple[int, int] = (480, 352), simulator: str = "", title: str = "") -> int:
    """Make an MP4 of a bag; how many pictures it has.

    Args:
        folder: of the bag.
        out: where the film goes.
        fps: pictures per second of the robot's own time.
        size: width and height in pixels, multiples of 16.
        simulator: that draws; "" takes the task's first, or PyBullet where that cannot.
        title: in each picture.

    Raises:
        FileNotFoundError, ValueError: there is no bag, it does not say which task it is of, or nothing draws it.
    """
    task, hidden = task_of(folder)
    env, _ = video.env_that_draws(task, simulator, hidden, 0, size, lambda text: None)
    font = ImageFont.load_default(size[1] // 24)
    unit, scale = unit_and_scale(task.error_unit)
    engine, drawn, due = env.simulator, 0, 0
    assert isinstance(engine, RobotSimulator)
    try:
        with video.film_file(out) as write:
            for now in moments(folder, task):
                if now.episode < 0 or not (due <= now.stamp or now.ended):
                    continue
                due = now.stamp + round(SECOND / fps)
                engine.reset(*_start(engine, task, now, env))
                said = [title, f"episode {now.episode + 1}", f"return {now.reward:.2f}"]
                said += [f"{scale * now.error:.1f} {unit}"] if math.isfinite(now.error) else []
                picture = _with_text(engine.render(0, *size), [line for line in said if line], font)
                for _ in range(round(video.FRAMES_PER_SECOND * (RESULT if now.ended else 1 / fps))):
                    write(picture)
                drawn += 1
    finally:
        env.close()
    return drawn


def task_of(folder: Path) -> tuple[Task, Any]:
    """The task that a bag is of, and the hidden one that was drawn.

    Raises:
        ValueError: the bag does not say.
    """
    import json

    about = json.loads(metadata(folder).get("about", "{}"))
    if "task" not in about:
        raise ValueError(f"the bag {folder} does not say which task it is of")
    task = tasks.make(about["task"])
    return task, task.sample(1, about.get("split", "iid"), start=about.get("index", 0))


def _start(engine: RobotSimulator, task: Task, now: Moment, env: Any) -> tuple[Readings, Readings]:
    """What puts the scene where everything was: joints and free bodies, and mocap bodies."""
    start: Readings = dict(task.start(env.values, torch.Generator()))
    joints = {engine.model.joint(j).name for j in range(engine.model.njnt)}
    robot, shown = task.robot, {}
    for name, place in now.places.items():
        if name == robot.name and not isinstance(robot, VehicleSpec):
            start["qpos"] = place.unsqueeze(0)
        elif name in joints:
            start[name] = place.unsqueeze(0)
        elif name == robot.name:  # moves by slides and hinges
            x, y, _, w, qx, qy, z = place.tolist()
            yaw = math.atan2(2 * (w * z + qx * qy), 1 - 2 * (qy * qy + z * z))
            start |= {f"{name}_{axis}": torch.tensor([[v]]) for axis, v in (("x", x), ("y", y), ("yaw", yaw))}
        else:
            shown[f"{name}_pos"] = place[:3].unsqueeze(0)
    return start, shown


def plot(runs: Sequence[tuple[str, Sequence[Event]]], task: Task, out: Path) -> None:
    """Returns by episode, and how far from done over the time of each episode.

    Args:
        runs: name and events of each.
        task: whose.
        out: where the picture goes.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    unit, scale = unit_and_scale(task.error_unit)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    style = styles(name for name, _ in runs)
    for number, (name, events) in enumerate(runs):
        returns, colour = returns_of(events), style[name]["color"]
        left.bar(np.arange(1, len(returns) + 1) + 0.35 * (number - 0.5 * (len(runs) - 1)), returns, 0.33, color=colour, label=name)
        for episode in range(len(returns)):
            mine = [e for e in events if e.episode == episode]
            seconds = [(e.stamp - mine[0].stamp) / SECOND for e in mine]
            shade = 0.35 + 0.65 * (episode + 1) / len(returns)
            right.plot(seconds, [scale * e.error for e in mine], color=colour, alpha=shade, marker="o" if task.horizon < 5 else "")
    left.set_xlabel("episode")
    left.set_xticks(range(1, max(len(returns_of(e)) for _, e in runs) + 1))
    left.set_ylabel("return")
    right.set_xlabel("time in the episode, s")
    right.set_ylabel(f"how far from done, {unit}")
    left.legend()
    figure.suptitle(f"{task.name} over ROS 2; later episodes are darker")
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    pyplot.close(figure)


def returns_of(events: Sequence[Event]) -> list[float]:
    """Return of each episode."""
    found: dict[int, float] = {}
    for event in events:
        found[event.episode] = found.get(event.episode, 0.0) + event.reward
    return [found[k] for k in sorted(found)]


def _stamp(message: Any) -> int:
    return int(message.header.stamp.sec) * SECOND + int(message.header.stamp.nanosec)


def _pose(pose: Any) -> Tensor:
    point, turn = pose.position, pose.orientation
    return torch.tensor([point.x, point.y, point.z, turn.w, turn.x, turn.y, turn.z], dtype=torch.float32)


def _with_text(picture: Any, lines: Sequence[str], font: Any) -> Any:
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image, "RGBA")
    box = draw.multiline_textbbox((12, 10), "\n".join(lines), font)
    draw.rectangle((box[0] - 6, box[1] - 6, box[2] + 6, box[3] + 6), fill=(255, 255, 255, 190))
    draw.multiline_text((12, 10), "\n".join(lines), (20, 20, 20), font)
    return np.asarray(image)
