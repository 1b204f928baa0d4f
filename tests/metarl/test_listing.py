import subprocess
import sys

from metarl import tasks
from metarl.listing import listing


def test_names_are_read_as_the_tasks_themselves_say():
    assert tasks.names() == sorted(name for module in tasks._modules() for name in tasks._variants(module))
    assert {kind: len(names) > 2 for kind, names in listing().items()} == dict.fromkeys(("tasks", "robots", "algorithms", "zoo"), True)


def test_a_name_that_is_computed_is_found_by_importing(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "__path__", list(tasks.__path__))
    (tmp_path / "curved_line.py").write_text(
        "from metarl.tasks.point_navigation import PointNavigation\n\nclass Curved(PointNavigation):\n    name = '_'.join(('curved', 'line'))\n"
    )
    tasks.add_folder(tmp_path)
    assert "curved_line" in tasks.names()


def test_names_need_no_torch():
    """Which would take most of a second."""
    code = "import sys; from metarl.listing import listing; print(len(listing()['tasks']), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{len(tasks.names())} False\n"
