import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from metarl import report
from metarl.evaluate import Evaluation, Outcome
from metarl.statistics import Estimate


def outcome(start, scored=True, error=True, horizon=1):
    def curve(scale):
        return [Estimate(scale * (start + k), scale * (start + k - 1), scale * (start + k + 1)) for k in range(3)]

    steps = np.zeros((3, horizon, 3))
    steps[:, 0] = np.nan
    tasks = np.zeros((1, 4, 3))
    return Outcome(
        (), curve(1.0), curve(0.01) if error else [], curve(0.1), curve(0.5) if scored else [], curve(0.25), [], steps, steps if error else None, tasks, tasks
    )


@pytest.fixture
def evaluation():
    outcomes = {"random": outcome(0), "rl2": outcome(2), "oracle": outcome(8)}
    return Evaluation("arm_slide", "iid", "mujoco", 4, 1, 3, 0, "m", outcomes, Estimate(0.456, 0.4, 0.5))


def printed(evaluation, width=100):
    console = Console(record=True, width=width, file=io.StringIO())
    report.show(evaluation, console)
    return console.export_text()


def test_table_shows_scores_and_errors_in_centimetres_with_references_last(evaluation):
    said = printed(evaluation)
    rows = [line.split("│")[1:-1] for line in said.splitlines() if "│" in line]
    names = [row[0].strip() for row in rows if row[0].strip()]
    assert names == ["rl2", "oracle", "random", "rl2", "rl2", "oracle", "random"]
    assert [cell.strip() for cell in rows[0][1:]] == ["1.00", "1.50", "2.00"]
    assert [cell.strip() for cell in rows[1][1:]] == ["0.50…1.50", "1.00…2.00", "1.50…2.50"]
    assert [cell.strip() for cell in rows[6][1:]] == ["0.50", "0.75", "1.00"]
    assert [cell.strip() for cell in rows[8][1:]] == ["2.00", "3.00", "4.00"]
    assert "error at the end of an episode, in cm" in said
    assert "4 tasks of split iid in mujoco" in said
    assert "headroom (oracle - robust) / (oracle - random): 0.456 [0.4, 0.5]" in said


def test_table_of_five_episodes_fits_eighty_columns(evaluation):
    evaluation.outcomes["rl2"].scores[:] = [Estimate(-0.26, -0.35, 10.55)] * 5
    assert "-0.35…10.6" in printed(evaluation, width=80)


def test_without_oracle_there_are_returns_and_without_error_no_second_table(evaluation):
    evaluation.outcomes.clear()
    evaluation.outcomes["rl2"] = outcome(2, scored=False, error=False)
    said = printed(evaluation)
    assert "return" in said
    assert "score" not in said
    assert "error" not in said


@pytest.mark.parametrize(("horizon", "panels"), [(1, 2), (5, 3)])
def test_plot_is_a_picture_with_a_panel_for_each_question(evaluation, horizon, panels, tmp_path):
    evaluation.outcomes["rl2"] = outcome(2, horizon=horizon)
    for name in ("random", "oracle"):
        evaluation.outcomes[name] = outcome(1, horizon=horizon)
    path = tmp_path / "folder" / "plot.png"
    report.plot(evaluation, path)
    with Image.open(path) as picture:
        assert picture.width == round(4.6 * panels * 150)
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 50


def test_algorithms_have_colours_and_references_have_none(evaluation):
    greys = [tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in report.GREY.values()]
    assert all(r == g == b for r, g, b in greys)
    assert len(set(report.COLOURS)) == len(report.COLOURS) >= 6


def test_a_long_trial_shows_some_of_its_episodes():
    assert report.shown(5, 7) == [0, 1, 2, 3, 4]
    assert report.shown(10, 7) == [0, 1, 2, 5, 9]
    assert report.shown(20) == list(range(20))
    assert report.shown(100) == [0, 1, 2, 5, 10, 20, 50, 99]
