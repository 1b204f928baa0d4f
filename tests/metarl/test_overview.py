"""RESULTS.md and the README say what the JSON files beside the zoo's say."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("overview", ROOT / "benchmarks" / "overview.py")
overview = importlib.util.module_from_spec(SPEC)
sys.modules["overview"] = overview  # its dataclass asks for it
SPEC.loader.exec_module(overview)


def test_results_are_those_that_were_measured():
    assert (ROOT / "RESULTS.md").read_text(encoding="utf-8") == overview.document(), "run `python benchmarks/overview.py`"


def test_the_readme_has_the_same_numbers_against_the_papers():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [line for line in overview.against_papers().splitlines() if line.startswith("|")]
    assert len(rows) > 2
    assert [row for row in rows if row not in readme] == []
