"""Bags: written as the messages come, closed before the disk is full, and replayed bit for bit."""

import errno
import itertools
import json
import resource
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch

pytest.importorskip("rclpy", reason="ROS 2 is not installed: pip install 'metarl[ros]'")
pytest.importorskip("rosbags", reason="rosbags is not installed: pip install 'metarl[ros]'")

from rclpy.serialization import serialize_message
from rosbags.serde.errors import SerdeError
from rosbags.typesys import Stores, get_typestore
from std_msgs.msg import String

from metarl import meta_parameters, tasks
from metarl.ros_nodes import film, messages
from metarl.ros_nodes.adaptation import Mode
from metarl.ros_nodes.channels import channels
from metarl.ros_nodes.control_loop import ControlLoop, load
from metarl.ros_nodes.recording import Recording, RecordingEnded
from metarl.ros_nodes.referee import Referee
from metarl.ros_nodes.replay import circumstances, loop_of, messages_of, metadata, read, replay
from metarl.ros_nodes.wires import wire
from metarl.ros_nodes.world import World

# ROS's message packages import a parser that imports what Python has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")

ROOT = Path(__file__).resolve().parents[2]
KIND = "std_msgs/msg/String"


def said(text):
    return serialize_message(String(data=text))


def test_what_is_written_can_be_read(tmp_path):
    recording = Recording(tmp_path / "bag", {"about": "{}"})
    for i in range(5):
        recording.write("/left/x", KIND, said(f"number {i}"), stamp=100 + i)
    recording.close()
    found = list(messages_of(tmp_path / "bag"))
    assert [(topic, stamp, message.data) for topic, stamp, message in found] == [("/left/x", 100 + i, f"number {i}") for i in range(5)]
    assert metadata(tmp_path / "bag")["about"] == "{}"
    assert [p.suffix for p in sorted((tmp_path / "bag").iterdir())] == [".mcap", ".yaml"]
    assert (tmp_path / "bag/bag.mcap").read_bytes().startswith(b"\x89MCAP")
    with pytest.raises(RecordingEnded, match="closed"):
        recording.write("/left/x", KIND, said("late"))


def test_no_bag_is_written_over_another(tmp_path):
    Recording(tmp_path / "bag", {}).close()
    with pytest.raises(FileExistsError, match="exists already"):
        Recording(tmp_path / "bag", {})


def test_a_disk_without_room_is_refused_by_name(tmp_path):
    with pytest.raises(RecordingEnded, match="disk_full: 1 MB are left") as refused:
        Recording(tmp_path / "bag", {}, min_free=5_000_000, free=lambda place: 1_000_000)
    assert refused.value.reason == "disk_full"
    assert not (tmp_path / "bag").exists()


def test_a_bag_is_closed_before_the_disk_is_full_and_can_be_read(tmp_path):
    left = iter([10_000_000, 9_000_000, 8_000_000, 1_000_000])
    recording = Recording(tmp_path / "bag", {}, min_free=5_000_000, free=lambda place: next(left))
    with pytest.raises(RecordingEnded, match="disk_full"):
        for i in range(1000):
            recording.write("/x", KIND, said(str(i)))
    assert [int(m.data) for _, _, m in messages_of(tmp_path / "bag")] == list(range(300))


def test_a_file_system_that_refuses_is_told_by_name(tmp_path):
    """The kernel's own refusal, at a size that this process may not exceed."""
    code = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from metarl.ros_nodes.recording import Recording, RecordingEnded
recording = Recording(Path({str(tmp_path / "bag")!r}), {{}})
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    for _ in range(100):
        recording.write("/x", "std_msgs/msg/String", bytes(100_000))
except RecordingEnded as ended:
    print(ended.reason)
    recording.close()
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert found.stdout == "disk_full\n", found.stderr
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY  # here nothing changed


@pytest.mark.parametrize(("number", "reason"), [(errno.ENOSPC, "disk_full"), (errno.EDQUOT, "disk_full"), (errno.EIO, "write_failed")])
def test_errors_have_names(tmp_path, monkeypatch, number, reason):
    recording = Recording(tmp_path / "bag", {})

    def fail(*_):
        raise OSError(number, "no")

    monkeypatch.setattr(recording._writer, "write", fail)
    with pytest.raises(RecordingEnded) as ended:
        recording.write("/x", KIND, said("a"))
    assert ended.value.reason == reason


# ---- replay -----------------------------------------------------------------------------------------------------------------


def on_the_wire(message, kind):
    """As DDS sends it: rclpy's own function leaves bytes behind it that mean nothing."""
    data, types = serialize_message(message), get_typestore(Stores.ROS2_JAZZY)
    while True:
        try:
            types.deserialize_cdr(data, kind)
            return data
        except SerdeError:
            data = data[:-4]
            assert data


def record_trial(folder, file, name, episodes=2, simulator="mujoco", meanwhile=None):
    """A trial as the nodes run it, in this process, with what they publish in a bag."""
    task = tasks.make(name)
    hung, loop = wire(task.robot_name), load(file, tasks.make(name).robot)
    world, referee = World(task, task.sample(1, "iid", start=2), simulator, 3, lambda *_: None), Referee(task, epoch=7, episodes=episodes)
    seen, measured = (channels(hung, task, needs, source) for source, needs in (("seen", loop.needs), ("measured", referee.needs)))
    numbers = "std_msgs/msg/Float64MultiArray"
    recording = Recording(folder, {"about": json.dumps({"policy": file, "task": name})})

    def heard(found, made):
        return {k: v for channel in made for k, v in channel.hear(channel.say(found, 0)).items()}

    def note(topic, message):
        recording.write(topic, numbers, serialize_message(message))

    def answer(event, executed):
        excluded = "" if meanwhile is None else meanwhile(event, loop)
        found = heard(world.seen, seen)
        for channel in measured:
            kind = f"{channel.kind.__module__.split('.')[0]}/msg/{channel.kind.__name__}"
            recording.write(f"/left/{channel.topic}", kind, on_the_wire(channel.say(world.true, event.stamp), kind))
        note("/left/task/events", messages.event_message(event))
        note("/left/adapter/used", messages.used_message(event, loop.needs, found, executed, circumstances(loop, excluded)))
        loop.adapter.note(event.epoch, event.sequence)
        result = (event.reward, event.terminated, event.truncated, found, executed, excluded)
        decision = loop.begin_episode(found) if event.begins else loop.take_result(*result)
        if decision is not None:
            labels = ("epoch", "sequence", *task.action_names)
            note("/left/adapter/action", messages.numbers(labels, [event.epoch, event.sequence, *decision.action.tolist()]))
        return decision

    stamp = 0
    loop.begin_trial()
    while not referee.trial_ended:
        world.begin_episode()
        decision = answer(referee.begin_episode(heard(world.true, measured), stamp), torch.empty(0))
        while decision is not None:
            command = hung.planned(decision.command, stamp)
            world.execute(hung.executable(command))
            stamp += round(float(command.time[-1]) * 1e9)
            decision = answer(referee.judge(decision.action, hung.last(command), heard(world.true, measured), stamp), hung.last(command))
        loop.end_episode()
        told = {"epoch": referee.event.epoch, "sequence": referee.event.sequence, **loop.adapter.numbers()}
        note("/left/adapter/adaptation", messages.numbers(tuple(told), list(told.values())))
    world.close()
    recording.close()


@pytest.fixture
def file(tmp_path, small_algorithm, monkeypatch):
    """file(algorithm, task): meta-parameters that nothing has trained, for episodes of 12 decisions."""

    def make(algorithm, name):
        task = tasks.make(name)
        monkeypatch.setattr(type(task), "horizon", min(task.horizon, 12))
        path = tmp_path / f"{algorithm}.safetensors"
        meta_parameters.save(path, small_algorithm(algorithm, name), algorithm, 0)
        return str(path)

    return make


@pytest.mark.parametrize(("algorithm", "name"), [("rl2", "quadrotor_track"), ("maml", "car_track"), ("varibad", "quadrotor_track"), ("rl2", "arm_slide")])
def test_a_replay_makes_the_adaptation_again_bit_for_bit(tmp_path, file, algorithm, name):
    record_trial(tmp_path / "bag", file(algorithm, name), name)
    bag = read(tmp_path / "bag")
    assert bag.about["task"] == name
    torch.manual_seed(123)  # whatever the process has drawn before
    found = replay(loop_of(bag), bag)
    assert found.difference == ""
    assert found.episodes == 2
    assert found.decisions == len(bag.actions) == sum(not e.ends for e in bag.events)


def test_what_people_changed_meanwhile_is_replayed_as_well(tmp_path, file):
    """Modes, a rollback by hand, a stricter trust radius, an activation: each at another decision."""

    def meanwhile(event, loop):
        safe = loop.adapter
        if event.sequence == 3:
            safe.bounds.mode = Mode.SHADOW
        elif event.sequence == 5:
            safe.bounds.mode = Mode.ADAPT
        elif event.sequence == 6:
            safe.enable(False)
        elif event.sequence == 7:
            safe.enable(True)
            safe.roll_back("by_hand")
            safe.roll_back("by_hand")
        elif event.sequence == 9:
            safe.bounds.trust_radius = 0.01
        elif event.sequence == 16:
            loop.resume()
        return ""

    path = file("rl2", "arm_reach")
    record_trial(tmp_path / "bag", path, "arm_reach", meanwhile=meanwhile)
    bag = read(tmp_path / "bag")
    found = replay(loop_of(bag), bag)
    assert found.difference == ""
    assert found.decisions == 24
    forgotten = {k: u._replace(circumstances=bag.used[7, 0].circumstances) for k, u in bag.used.items()}
    assert replay(loop_of(bag), type(bag)(**{**vars(bag), "used": forgotten})).difference


@pytest.mark.parametrize("mode", ["shadow", "frozen", "disabled"])
def test_every_mode_is_replayed(tmp_path, file, mode):
    """From the second episode on, after one that was learned from; in its middle back for a while, and into shadow for the rest."""
    live = {}

    def meanwhile(event, loop):
        live["counts"] = loop.adapter.counts
        if event.sequence == 13:
            loop.adapter.enable(mode != "disabled")
            loop.adapter.bounds.mode = Mode.ADAPT if mode == "disabled" else Mode(mode)
        elif event.sequence == 19:
            loop.adapter.bounds.mode = Mode.ADAPT
        elif event.sequence == 22:
            loop.adapter.bounds.mode = Mode.SHADOW
        return "stale_state" if event.sequence in (4, 17) else ""

    path = file("rl2", "arm_reach")
    record_trial(tmp_path / "bag", path, "arm_reach", meanwhile=meanwhile)
    bag = read(tmp_path / "bag")
    loop = loop_of(bag)
    assert replay(loop, bag).difference == ""
    assert loop.adapter.counts == live["counts"]


def test_what_happened_since_learning_was_switched_on_again_is_replayed(tmp_path, file):
    """Two collapses, learning is switched on although it was not off, and another collapse: not the third of a row."""
    live = {}

    def meanwhile(event, loop):
        live["adapter"] = loop.adapter
        loop.adapter.bounds.collapse = -1.0  # every episode is a collapse
        if event.sequence == 26:
            loop.adapter.enable(True)
        return ""

    path = file("rl2", "arm_reach")
    record_trial(tmp_path / "bag", path, "arm_reach", episodes=3, meanwhile=meanwhile)
    bag = read(tmp_path / "bag")
    loop = loop_of(bag)
    assert replay(loop, bag).difference == ""
    assert (loop.adapter.off, loop.adapter.counts) == ("", live["adapter"].counts)
    assert loop.adapter.counts["collapse"] == 3


def test_learning_that_took_too_long_is_the_last_of_its_trial_in_a_replay_too(tmp_path, file):
    live = {}

    def meanwhile(event, loop):
        seconds = itertools.count(step=3.0)
        live["adapter"], loop.adapter.clock = loop.adapter, lambda: next(seconds)
        return ""

    record_trial(tmp_path / "bag", file("rl2", "arm_reach"), "arm_reach", meanwhile=meanwhile)
    bag = read(tmp_path / "bag")
    loop = loop_of(bag)
    assert replay(loop, bag).difference == ""
    assert loop.adapter.off == live["adapter"].off == "over_budget"
    assert loop.adapter.counts == live["adapter"].counts


def test_an_episode_whose_end_was_lost_is_no_part_of_the_next_one_in_a_replay_either(tmp_path, file):
    record_trial(tmp_path / "bag", file("rl2", "arm_reach"), "arm_reach")
    bag = read(tmp_path / "bag")
    lost, loop = next(e for e in bag.events if e.ends), loop_of(bag)
    replay(loop, type(bag)(**{**vars(bag), "events": tuple(e for e in bag.events if e is not lost)}))
    assert loop.adapter.counts["unfinished"] == 1


def test_what_the_safety_node_held_and_what_was_stale_is_replayed_as_such(tmp_path, file):
    """Too many interventions roll back what was learned; as many stale states do not."""
    reasons, live = {"intervention": range(2, 10), "stale_state": range(14, 22)}, []

    def meanwhile(event, loop):
        live[:] = [loop.adapter.counts]
        return next((reason for reason, when in reasons.items() if event.sequence in when), "")

    path = file("rl2", "arm_reach")
    record_trial(tmp_path / "bag", path, "arm_reach", meanwhile=meanwhile)
    bag = read(tmp_path / "bag")
    loop = loop_of(bag)
    assert replay(loop, bag).difference == ""
    assert live[0]["interventions"] > 0
    assert loop.adapter.counts == live[0]


@pytest.mark.parametrize(("stale", "told"), [(0.0, ""), (1.0, "not whether for stale state or an intervention")])
def test_a_bag_from_before_reasons_were_kept_is_replayed_or_refused(tmp_path, file, stale, told):
    record_trial(tmp_path / "bag", file("rl2", "arm_reach"), "arm_reach", episodes=1)
    bag = read(tmp_path / "bag")
    old = {k: u._replace(circumstances={k: v for k, v in u.circumstances.items() if k != "excluded"} | {"stale": stale}) for k, u in bag.used.items()}
    bag = type(bag)(**{**vars(bag), "used": old})
    if told:
        with pytest.raises(ValueError, match=told):
            replay(loop_of(bag), bag)
    else:
        assert replay(loop_of(bag), bag).difference == ""


def test_another_adaptation_is_told_apart(tmp_path, file, monkeypatch):
    """A reward that was different, readings that differ in their last bit: the replay says where."""
    record_trial(tmp_path / "bag", file("rl2", "quadrotor_track"), "quadrotor_track")
    bag = read(tmp_path / "bag")
    k = next(i for i, e in enumerate(bag.events) if e.step == 3)
    events = list(bag.events)
    events[k] = events[k]._replace(reward=events[k].reward + 0.1)
    spoilt = type(bag)(**{**vars(bag), "events": tuple(events)})
    assert f"at event {bag.events[k].sequence} of trial 7" in replay(loop_of(spoilt), spoilt).difference


@pytest.mark.parametrize("name", ["quadrotor_track", "car_track", "arm_slide"])
def test_a_bag_is_filmed_and_plotted(tmp_path, file, name, monkeypatch):
    """In PyBullet, whose pictures need no OpenGL."""
    pytest.importorskip("pybullet", reason="PyBullet is not installed")

    def render(*_):
        raise RuntimeError("no OpenGL")

    monkeypatch.setattr("metarl.tasks.simulators.mujoco.MujocoSimulator.render", render)
    record_trial(tmp_path / "bag", file("rl2", name), name)
    bag = read(tmp_path / "bag")
    drawn = film.film(tmp_path / "bag", tmp_path / "film.mp4", fps=12.5, size=(64, 48))
    assert drawn >= 2
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(tmp_path / "film.mp4"), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    pictures = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, dtype=np.uint8).reshape(-1, 48, 64, 3)
    assert len(pictures) >= 2 * round(25 * film.RESULT)  # the ends of two episodes among them
    assert any((a != pictures[0]).any() for a in pictures)
    film.plot([("rl2", bag.events), ("again", bag.events)], tasks.make(name), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert film.returns_of(bag.events) == pytest.approx([sum(e.reward for e in bag.events if e.episode == k) for k in range(2)])


def test_a_file_that_was_changed_since_is_refused(tmp_path, file, small_algorithm):
    path = file("rl2", "quadrotor_track")
    record_trial(tmp_path / "bag", path, "quadrotor_track", episodes=1)
    bag = read(tmp_path / "bag")
    bag = type(bag)(**{**vars(bag), "sha256": "0" * 64})
    with pytest.raises(ValueError, match=r"is not the file that was recorded: its SHA-256 begins with .*, recorded was 000000000000"):
        loop_of(bag)
    assert isinstance(loop_of(bag, path), ControlLoop)  # unless it is asked for


def test_a_bag_without_an_adaptation_is_refused(tmp_path):
    recording = Recording(tmp_path / "bag", {})
    recording.write("/x", KIND, said("a"))
    recording.close()
    with pytest.raises(ValueError, match="0 events of a task and 0 answers of an adapter"):
        read(tmp_path / "bag")
    with pytest.raises(FileNotFoundError, match="there is no bag"):
        read(tmp_path / "nowhere")


def test_replay_needs_no_ros():
    code = "import sys\nfor name in ('rclpy', 'std_msgs', 'mujoco', 'pybullet'): sys.modules[name] = None\nfrom metarl.ros_nodes import replay, recording"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
