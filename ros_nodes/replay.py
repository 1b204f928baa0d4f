"""A bag's adaptation made again: the same readings, rewards and ends through the same control loop give the same actions, bit for bit. No ROS."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl import robots
from metarl.ros_nodes.adaptation import Mode, SafeAdapter
from metarl.ros_nodes.control_loop import ControlLoop, Decision, load
from metarl.ros_nodes.events import Event, EventOrder
from metarl.ros_nodes.labels import Used, labels_of, to_event, to_used
from metarl.ros_nodes.rejection import Rejected

_EVENTS, _USED, _ACTION, _ADAPTATION = "/task/events", "/adapter/used", "/adapter/action", "/adapter/adaptation"
_BOUNDS = ("trust_radius", "collapse", "interventions", "budget")
_MODES = tuple(Mode)
_EXCLUDED = ("", "stale_state", "intervention", "clock_set_ahead")  # why the adapter node has a decision left out; their places here are what bags hold


@dataclass(frozen=True)
class Bag:
    """What a replay needs of a recorded run.

    Attributes:
        about: what was chosen, e.g. "policy" and "task".
        policy: the file of meta-parameters that was used: its copy in the bag, or its name.
        sha256: of that file; "" where it was not recorded.
        events: of the task, in their order.
        used: what the adapter went by, by (epoch, sequence) of the event that it answers.
        actions: what it decided, by the same.
        learned: s that learning took at the end of an episode, by the same.
        duration: s.
    """

    about: dict[str, Any]
    policy: str
    sha256: str
    events: tuple[Event, ...]
    used: dict[tuple[int, int], Used]
    actions: dict[tuple[int, int], Tensor]
    learned: dict[tuple[int, int], float]
    duration: float


class Replayed(NamedTuple):
    """How a replay went.

    Attributes:
        decisions: that were compared.
        episodes: that ended.
        difference: the first one, in words; "" where there is none.
    """

    decisions: int
    episodes: int
    difference: str


def messages_of(folder: Path, *endings: str) -> Iterator[tuple[str, int, Any]]:
    """Messages of a bag: topic, ns when it came, and the message; of topics that end so, or all.

    Raises:
        FileNotFoundError, ValueError: there is no bag, or it cannot be read.
    """
    from rosbags.rosbag2 import Reader, ReaderError
    from rosbags.typesys import Stores, get_typestore

    types = get_typestore(Stores.ROS2_JAZZY)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no bag {str(folder)!r}")
    try:
        with Reader(folder) as reader:
            wanted = [c for c in reader.connections if not endings or c.topic.endswith(endings)]
            for connection, stamp, data in reader.messages(wanted) if wanted else ():
                yield connection.topic, stamp, types.deserialize_cdr(data, connection.msgtype)
    except ReaderError as error:
        raise ValueError(f"the bag {folder} cannot be read: {error}") from error


def metadata(folder: Path) -> dict[str, Any]:
    """What the bag says of itself: its own texts, and `duration` in s."""
    from rosbags.rosbag2 import Reader, ReaderError

    if not folder.is_dir():
        raise FileNotFoundError(f"there is no bag {str(folder)!r}")
    try:
        with Reader(folder) as reader:
            return {**(reader.storage.metadata.custom or {}), "duration": reader.duration * 1e-9}
    except ReaderError as error:
        raise ValueError(f"the bag {folder} cannot be read: {error}") from error


def read(folder: Path) -> Bag:
    """The parts of a bag that a replay needs.

    Raises:
        FileNotFoundError, ValueError: there is no bag, it cannot be read, or something is missing.
    """
    said = metadata(folder)
    events: list[Event] = []
    used: dict[tuple[int, int], Used] = {}
    actions: dict[tuple[int, int], Tensor] = {}
    learned: dict[tuple[int, int], float] = {}
    order = EventOrder()
    for topic, _, message in messages_of(folder, _EVENTS, _USED, _ACTION, _ADAPTATION):
        if topic.endswith(_EVENTS):
            event = to_event(message)
            try:
                order.accept(event)
            except Rejected:
                continue  # a second copy, e.g. of somebody who listened late
            events.append(event)
        elif topic.endswith(_USED):
            found = to_used(message)
            used[found.epoch, found.sequence] = found
            continue
        values = dict(zip(labels_of(message), (float(v) for v in message.data), strict=True))
        answered = int(values["epoch"]), int(values["sequence"])
        if topic.endswith(_ADAPTATION):
            learned[answered] = 1e-3 * values["milliseconds"]
        elif topic.endswith(_ACTION):
            actions[answered] = torch.tensor([float(v) for v in message.data[2:]], dtype=torch.float32)
    if not events or not used:
        raise ValueError(f"the bag {folder} has {len(events)} events of a task and {len(used)} answers of an adapter: nothing to replay")
    about = json.loads(said.get("about", "{}"))
    copy = folder / "policy.safetensors"
    policy = str(copy) if copy.exists() else about.get("policy", "")
    return Bag(about, policy, said.get("policy_sha256", ""), tuple(events), used, actions, learned, said["duration"])


def loop_of(bag: Bag, policy: str = "") -> ControlLoop:
    """The control loop that was recorded, as it was when its node started.

    Args:
        bag: of a run.
        policy: other meta-parameters than the ones that were used.

    Raises:
        FileNotFoundError, ValueError: the file is missing, was changed since, or does not fit.
    """
    from metarl import meta_parameters, tasks

    file = policy or bag.policy
    if not file:
        raise ValueError("the bag does not say which meta-parameters were used: name them")
    found = hashlib.sha256(meta_parameters.resolve(file).read_bytes()).hexdigest()
    if not policy and bag.sha256 and found != bag.sha256:
        raise ValueError(f"{file} is not the file that was recorded: its SHA-256 begins with {found[:12]}, recorded was {bag.sha256[:12]}")
    return load(file, robots.load(tasks.make(meta_parameters.read(file)[0].spec.task).robot_name))


def decisions(loop: ControlLoop, bag: Bag) -> Iterator[tuple[Event, Decision | None]]:
    """Every event of the bag with what the loop decides on it, None at the end of an episode.

    Raises:
        ValueError: an answer of the adapter is missing, or the bag is too old to say why a decision was left out.
    """
    for event in bag.events:
        if event.sequence == 0:
            loop.begin_trial()
        if (event.epoch, event.sequence) not in bag.used:
            if event is bag.events[-1]:
                return  # the recording ended before the adapter had answered
            raise ValueError(f"the bag lacks what the adapter went by at event {event.sequence} of trial {event.epoch}")
        used = bag.used[event.epoch, event.sequence]
        excluded = _restore(loop, used.circumstances, bag.learned.get((event.epoch, event.sequence), 0.0))
        assert isinstance(loop.adapter, SafeAdapter)
        loop.adapter.note(event.epoch, event.sequence, event.begins)
        if event.begins or not (loop.deciding or event.ends):  # an adapter that was started anew joined here
            yield event, loop.begin_episode(used.seen)
            continue
        if not loop.deciding:
            continue
        decision = loop.take_result(event.reward, event.terminated, event.truncated, used.seen, used.executed, excluded)
        if decision is None:
            loop.end_episode()
        yield event, decision


def circumstances(loop: ControlLoop, excluded: str) -> dict[str, float]:
    """What a decision depends on besides events and readings: settings that anybody may change, what was asked for by hand, and why it is left out."""
    safe = loop.adapter
    assert isinstance(safe, SafeAdapter)
    bounds = {name: float(getattr(safe.bounds, name)) for name in _BOUNDS}
    hand = {"off": float(bool(safe.off)), "disabled": float(not safe.enabled), "by_hand": float(safe.counts["by_hand"])}
    hand["rolled_back"] = float(safe.rolled_back)  # since learning was switched on, which need not have been off
    return {
        "excluded": float(_EXCLUDED.index(excluded)),
        "mode": float(_MODES.index(safe.bounds.mode)),
        **bounds,
        "max_step": loop.max_step,
        "ramp": float(loop.ramp),
        **hand,
    }


def _restore(loop: ControlLoop, was: Mapping[str, float], learned: float) -> str:
    """Make circumstances what they were; why the decision is not to be learned from."""
    safe = loop.adapter
    assert isinstance(safe, SafeAdapter)
    ticks = iter((0.0, learned))
    safe.clock = lambda: next(ticks)
    if not was:
        return ""
    for name in _BOUNDS:
        setattr(safe.bounds, name, was[name])
    while was["by_hand"] > safe.counts["by_hand"]:
        safe.roll_back("by_hand")
    if safe.off and not was["off"]:
        safe.enable(True)
    safe.rolled_back = int(was.get("rolled_back", safe.rolled_back))
    safe.bounds.mode, safe.enabled = _MODES[int(was["mode"])], not was.get("disabled", 0.0)
    loop.max_step, loop.ramp = was["max_step"], int(was["ramp"])
    if was.get("stale", 0.0):
        raise ValueError("the bag tells that a decision was left out, but not whether for stale state or an intervention: it was recorded before that was kept")
    return _EXCLUDED[int(was.get("excluded", 0.0))]


def replay(loop: ControlLoop, bag: Bag) -> Replayed:
    """Make the adaptation again and compare every action with the recorded one, bit for bit."""
    compared = episodes = 0
    for event, decision in decisions(loop, bag):
        if decision is None:
            episodes += 1
            continue
        was = bag.actions.get((event.epoch, event.sequence))
        if was is None:
            continue
        compared += 1
        if not torch.equal(was, decision.action):
            text = f"at event {event.sequence} of trial {event.epoch} the action was {was.tolist()}, and is {decision.action.tolist()}"
            return Replayed(compared, episodes, text)
    return Replayed(compared, episodes, "" if compared else "there is no action to compare")
