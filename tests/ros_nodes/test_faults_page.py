"""docs/faults.md names only tests that exist."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PAGE = (TESTS.parent / "docs" / "faults.md").read_text(encoding="utf-8")


def test_every_test_on_the_page_of_faults_exists_and_every_fault_has_one():
    named = re.findall(r"`(test_\w+)::(\w+)`", PAGE)
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| fault |")]
    assert len(rows) > 40
    assert [row for row in rows if "::" not in row] == []
    files = {name: next(TESTS.glob(f"*/{name}.py")).read_text(encoding="utf-8") for name, _ in named}
    assert [(file, name) for file, name in named if f"\ndef {name}(" not in files[file]] == []
