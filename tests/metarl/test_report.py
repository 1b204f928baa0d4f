import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from metarl import algos, report
from metarl.evaluate import REFERENCES, Evaluation, Outcome
from metarl.statistics import Estimate


def outcome(start, scored=True, error=True, horizon=1, episodes=3):
    def curve(scale):
        return [Estimate(scale * (start + k), scale * (start + k - 1), scale * (start + k + 1)) for k in range(episodes)]

    steps = np.zeros((episodes, horizon, 3))
    steps[:, 0] = np.nan
    tasks = np.zeros((1, 4, episodes))
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


def test_more_algorithms_than_colours_are_drawn_too(evaluation, tmp_path):
    evaluation.outcomes.update({f"learner{i}": outcome(2) for i in range(len(report.COLOURS) + 2)})
    report.plot(evaluation, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").exists()


def test_algorithms_have_colours_and_references_have_none(evaluation):
    greys = [tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c, _ in report.GREY.values()]
    assert all(r == g == b for r, g, b in greys)
    assert len(set(report.COLOURS)) == len(report.COLOURS) >= 6


def test_an_algorithm_looks_the_same_in_every_picture_and_like_no_other():
    names = [*algos.names(), "random", "somebody's", "nobody's"]
    together = report.styles(names)
    assert len({tuple(style.items()) for style in together.values()}) == len(names)
    assert all(report.styles([name])[name] == together[name] for name in [*algos.names(), *REFERENCES])


@pytest.mark.parametrize("names", [["pearl"], [f"an_algorithm_{i}" for i in range(15)]])
def test_legends_stay_within_the_picture_and_off_the_axes(evaluation, names):
    evaluation.outcomes.clear()
    evaluation.outcomes.update({name: outcome(i, horizon=20, episodes=20) for i, name in enumerate(["random", *names])})
    figure = report.draw(evaluation)
    figure.draw_without_rendering()
    boxes = [legend.get_window_extent() for legend in [*figure.legends, *(a.legend_ for a in figure.axes if a.legend_)]]
    assert len(boxes) == 2
    for box in boxes:
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(axes.bbox) for axes in figure.axes)
    assert all(axes.bbox.height > 0.5 * figure.bbox.height for axes in figure.axes)


@pytest.mark.parametrize("episodes", [1, 100])
def test_ticks_are_whole_episodes_with_room_for_their_labels(evaluation, episodes):
    evaluation.outcomes["rl2"] = outcome(2, episodes=episodes)
    ticks = report.draw(evaluation).axes[0].get_xticks()
    assert 1 <= len(ticks) <= 12
    assert all(tick == round(tick) for tick in ticks)


def test_the_steps_are_those_of_the_algorithm_with_the_best_last_episode(evaluation):
    evaluation.outcomes.clear()
    evaluation.outcomes.update({name: outcome(start, horizon=5) for name, start in (("amago", 1), ("rl2", 5), ("snail", 3), ("oracle", 9))})
    assert report.draw(evaluation).axes[-1].get_xlabel() == "decision within an episode of rl2"


def test_a_long_trial_shows_some_of_its_episodes():
    assert report.shown(5, 7) == [0, 1, 2, 3, 4]
    assert report.shown(10, 7) == [0, 1, 2, 5, 9]
    assert report.shown(20) == list(range(20))
    assert report.shown(100) == [0, 1, 2, 5, 10, 20, 50, 99]
