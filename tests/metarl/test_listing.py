import subprocess
import sys

import pytest

from metarl import tasks
from metarl.listing import families, listing


def test_names_are_read_as_the_tasks_themselves_say():
    assert tasks.names() == sorted(name for module in tasks.files() for name in tasks._variants(module))
    assert {kind: len(names) > 2 for kind, names in listing().items()} == dict.fromkeys(("tasks", "robots", "algorithms", "zoo"), True)


@pytest.mark.parametrize("line", ["name = 'curved_line'", "name: str = 'curved_line'", "name = '_'.join(('curved', 'line'))"])
def test_a_name_is_found_however_it_is_written(line, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "__path__", list(tasks.__path__))
    monkeypatch.delitem(sys.modules, "metarl.tasks.curved_line", raising=False)
    (tmp_path / "curved_line.py").write_text(f"from metarl.tasks.point_navigation import PointNavigation\n\nclass Curved(PointNavigation):\n    {line}\n")
    tasks.add_folder(tmp_path)
    assert "curved_line" in tasks.names()


def test_every_task_of_ours_has_a_family():
    found = families(["my_own", *tasks.names()])
    assert list(found) == ["arm", "vehicle", "kitchen", "point and grid", "locomotion", "dm_control", "other"]
    assert sorted(name for names in found.values() for name in names) == sorted(["my_own", *tasks.names()])
    assert found["other"] == ["my_own"]
    assert found["vehicle"] == ["car_track", "car_track_obstacles", "quadrotor_track"]
    assert "other" not in families(["arm_reach"])


def test_names_need_no_torch():
    """Which would take most of a second."""
    code = "import sys; from metarl.listing import listing; print(len(listing()['tasks']), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{len(tasks.names())} False\n"
