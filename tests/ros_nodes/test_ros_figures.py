"""The parts of benchmarks/ros.py: numbers worked out by hand, and a short run of the bare graph."""
# ruff: noqa: E402 - what needs ROS is imported after the look whether it is there

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: pip install 'metarl[ros]'")

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import chain
import ros
import soak

from metarl import robots
from metarl.ros_nodes import messages
from metarl.ros_nodes.limits import Command

sys.path.remove(str(ROOT / "benchmarks"))

# ROS's message packages import a parser that imports what Python has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")


def test_distribution():
    assert ros.Distribution.of(np.arange(101.0)) == (50.0, 90.0, 99.0, 100.0, 101)


def test_moments_lie_in_spells_from_their_beginning_to_before_their_end():
    assert ros.within(np.array([0.0, 1.0, 1.9, 2.0, 5.5]), [(1.0, 2.0), (5.0, 6.0)]).tolist() == [False, True, True, False, True]


def test_each_command_answers_the_reading_whose_contents_were_executed():
    """Two commands of the same content come in order; one is lost on its way; one stamp is answered twice, as a stop is; one arrival is nobody's."""
    arrived = [(b"a", 1), (b"b", 2), (b"a", 3), (b"d", 4), (b"e", 5), (b"x", 6)]
    executed = [(b"a", 10), (b"b", 20), (b"a", 30), (b"c", 40), (b"d", 50), (b"e", 50)]
    assert chain.answers(arrived, executed) == [(10, 1), (20, 2), (30, 3), (50, 4)]


class Hears:
    """A node's subscriptions, that nobody speaks to."""

    def create_subscription(self, kind, topic, callback, quality):
        self.callback = callback

    def declare_parameter(self, name, default):
        return SimpleNamespace(value=self.file)


def test_readings_that_got_no_command_are_counted(tmp_path):
    """Of five readings while time passes one is answered twice, one by a command that was lost and one by nobody; a sixth came while nothing moved."""
    node = Hears()
    node.file = str(tmp_path / "times.npz")
    watch = chain.Stopwatch(node)
    for stamp in range(6):
        watch.publishes(stamp, due=stamp != 5)
    for stamp, content, arrives in ((0, 1.0, True), (1, 2.0, True), (1, 3.0, True), (2, 4.0, False), (4, 5.0, True), (5, 6.0, True)):
        message = messages.command_message(Command(stamp, np.array([0.01]), np.full((1, 7), content), np.zeros((1, 7))), robots.load("arm7").joint_names)
        if arrives:
            watch.arrives(message)
        node.callback(message)
    watch.write()
    found = np.load(node.file)
    assert found["came"].tolist() == [True, True, False, False, True]
    assert len(found["latency"]) == 4
    assert ros.missed(found["came"]) == ["5", "2", "0.600"]
    assert ros.missed(np.array([], dtype=bool)) == ros.missed(None) == ["", "", ""]


def test_slope_of_series_with_levels_of_their_own():
    """By hand: of (0, 0), (1, 2), (2, 1) the slope is 1/2, and residuals are -1/2, 1, -1/2; a second life on another level repeats it."""
    x, y = np.array([0.0, 1.0, 2.0]), np.array([0.0, 2.0, 1.0])
    error = np.sqrt(1.5 / 1 / 2)  # residual squares / (3 - 1 - 1) / squares of x
    assert soak.slope([(x, y)]) == pytest.approx((0.5, 0.5 - 2 * error, 0.5 + 2 * error))
    error = np.sqrt(3.0 / 3 / 4)
    assert soak.slope([(x, y), (x + 7, y + 100)]) == pytest.approx((0.5, 0.5 - 2 * error, 0.5 + 2 * error))
    with pytest.raises(ValueError, match="says nothing of a slope"):
        soak.slope([(x[:2], y[:2])])


def test_blocks_leave_out_what_is_not_full():
    when, values = soak.blocks(np.array([3.0, 4.0, 5.0, 6.0, 7.0]), np.array([1.0, 3.0, 5.0, 7.0, 9.0]), 2.0)
    assert when.tolist() == [3.5, 5.5] and values.tolist() == [2.0, 6.0]


def test_processor_time_grows_with_work_and_not_with_sleep():
    process = subprocess.Popen(
        [sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ntime.sleep(60)"], stdout=subprocess.PIPE
    )
    try:
        process.stdout.readline()
        assert 0.45 < ros.processor_seconds(process.pid) < 0.8
        before = ros.processor_seconds(process.pid)
        time.sleep(0.3)
        assert ros.processor_seconds(process.pid) - before < 0.05
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_sections_of_the_document_take_the_place_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(ros, "DOCUMENT", tmp_path / "figures.md")
    ros.write("Latency", ["fast"])
    ros.write("Soak", ["long"])
    ros.write("Latency", ["faster"])
    text = ros.DOCUMENT.read_text()
    assert text.startswith("# Figures of the ROS 2 graph\n")
    assert text.count("\n## Latency\n\nfaster\n") == text.count("\n## Soak\n\nlong\n") == 1
    assert "fast\n" not in text.replace("faster\n", "")


def test_the_bare_graph_answers_its_readings(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(ros, "WARM_UP", 1.0)
    times = tmp_path / "times.npz"
    began = time.monotonic()
    found = ros.measure(ros.bare(50, times), times, 4.0, False)
    most = 50 * (time.monotonic() - began) + 10  # 200 readings, more where this process was held up meanwhile
    latency = found.latency[ros.BARE]
    assert 20 < len(latency) <= most
    assert (latency > 0.0).all()
    assert set(found.processor) == {"sim", "safety", "adapter", "task"}
    assert all(0.0 < part < 1.0 for part in found.processor.values())
    came = found.came[ros.BARE]
    assert 20 < len(came) <= most
    assert came.mean() > 0.5
