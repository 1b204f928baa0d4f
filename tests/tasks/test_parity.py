"""benchmarks/parity.py: every case can be measured, what is promised is kept in a few tasks, and the document says no other."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from metarl import tasks

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("parity", ROOT / "benchmarks" / "parity.py")
parity = sys.modules["parity"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(parity)


@pytest.mark.parametrize("case", parity.CASES, ids=lambda case: f"{case.task}-{case.measure.__name__}")
def test_what_is_promised_is_kept(case):
    gaps, each = case.measure(case.task, 2)
    assert gaps
    for gap in gaps:
        assert gap.values.isfinite().all(), gap.of
        assert gap.kept, parity.gap_row(case, gap)
    for outcome in each:
        assert torch.tensor([outcome.mujoco, outcome.pybullet]).isfinite().all(), outcome.of


def test_every_robot_that_both_engines_have_is_compared():
    both = {tasks.make(name).robot_name for name in tasks.names() if set(parity.ENGINES) <= set(tasks.make(name).simulators)}
    assert {tasks.make(case.task).robot_name for case in parity.CASES} == both


def test_gaps_between_attitudes_by_hand():
    half = torch.tensor([0.5e-4]), torch.tensor([0.7])
    for angle in half:
        one, other = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.cat([angle.cos(), torch.zeros(2), angle.sin()])
        assert parity._turn(one, other).item() == pytest.approx(2 * angle.item(), rel=1e-3)
        assert parity._turn(one, -other).item() == pytest.approx(2 * angle.item(), rel=1e-3)


def test_the_document_has_all_cases_and_no_broken_promise():
    written = (ROOT / "docs" / "parity.md").read_text(encoding="utf-8")
    rows = [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in written.splitlines() if line.startswith("| ")]
    assert {(case.task, case.does) for case in parity.CASES} == set(rows) - {("task", "what both do")}, "run `python benchmarks/parity.py`"
    assert ": kept" in written
    assert "broken" not in written
