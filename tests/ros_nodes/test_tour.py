"""`make demo-ros`: what it runs, records, replays and plots, and what its exit status says."""

import json

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: pip install 'metarl[ros]'")
pytest.importorskip("rosbags", reason="rosbags is not installed: pip install 'metarl[ros]'")

from metarl import tasks
from metarl.ros_nodes import tour
from metarl.ros_nodes.replay import Replayed, read

# ROS's message packages import a parser that imports what Python has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")


@pytest.fixture(autouse=True)
def same_process(monkeypatch):
    """A tour chooses how to draw, and how its process ends; these tests go on."""
    monkeypatch.setattr("metarl.video.choose_backend", lambda: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)


def test_a_tour_of_the_arm(tmp_path, capsys):
    """Real nodes, in PyBullet: recorded, replayed bit for bit, and plotted."""
    pytest.importorskip("pybullet", reason="PyBullet is not installed")
    assert tour.main(["--vehicle", "none", "--no-film", "--out", str(tmp_path / "out"), "--index", "2"]) == 0
    said = capsys.readouterr().out
    (folder,) = (tmp_path / "out").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == ["arm.png", "arm_rl2", "results.json"]
    results = json.loads((folder / "results.json").read_text())["arm_rl2"]
    bag, task = read(folder / "arm_rl2"), tasks.make("arm_slide")
    assert bag.about["index"] == 2
    assert results["replay"] == {"decisions": len(bag.actions), "episodes": task.episodes_per_trial, "difference": ""}
    assert results["returns"] == pytest.approx([sum(e.reward for e in bag.events if e.episode == k) for k in range(task.episodes_per_trial)])
    assert said.count("shot ") >= task.episodes_per_trial
    assert f"its replay gives the same {len(bag.actions)} actions, bit for bit" in " ".join(said.split())


@pytest.mark.parametrize(("difference", "status"), [("", 0), ("at event 3", 1)])
def test_a_replay_that_differs_is_an_error(difference, status, monkeypatch):
    monkeypatch.setattr(tour, "show", lambda *_: {"arm": {"replay": {"difference": ""}}, "car": {"replay": {"difference": difference}}})
    assert tour.main([]) == status


@pytest.mark.parametrize("vehicle", ["quadrotor", "car"])
def test_a_vehicle_goes_out_without_a_memory_and_then_with_one(vehicle, tmp_path, monkeypatch, capsys):
    asked = []

    def run(choice, console):
        asked.append(choice)
        if len(asked) == 2:
            raise TimeoutError("that is enough")
        return []

    monkeypatch.setattr(tour, "run", run)
    monkeypatch.setattr("metarl.ros_nodes.replay.read", lambda bag: None)
    monkeypatch.setattr("metarl.ros_nodes.replay.loop_of", lambda bag: None)
    monkeypatch.setattr("metarl.ros_nodes.replay.replay", lambda loop, bag: Replayed(1, 1, ""))
    assert tour.main(["--no-arm", "--no-film", "--vehicle", vehicle, "--out", str(tmp_path), "--index", "4"]) == 1
    assert [c.policy.rpartition("/")[2] for c in asked] == ["robust", "rl2"]
    assert {(c.task, c.split, c.index, c.pace, c.record) for c in asked} == {(f"{vehicle}_track", "ood_near", 4, "lockstep", True)}
    assert len({c.bag for c in asked}) == 2
    assert "that is enough" in capsys.readouterr().err
