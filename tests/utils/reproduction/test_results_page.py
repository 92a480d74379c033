"""docs/results.md and docs/results/NAME.md are what the lines of docs/results give, to the last digit."""

from __future__ import annotations

import statistics

import pytest
from synthetic_experiment import write_experiment

from utils.common.errors import UserError
from utils.reproduction.experiment_file import known_experiments
from utils.reproduction.experiment_summary import summarise
from utils.reproduction.experiment_table import as_csv, existing_plots, page
from utils.reproduction.result_lines import read
from utils.reproduction.results_page import BLOCKS, PAGE, PLOTS, RESULTS, compose, planned, recorded

REMAKE = "python -m utils.reproduction.results_page"


def block(kind, name="trial", on=""):
    return f"Words.\n\n<!-- results: {kind} {name}{on} -->\nREPLACED\n<!-- end -->\n\nMore words.\n"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs") / "results"
    folder.mkdir()
    write_experiment(folder, "trial", {"none": 0, "dpconv": 3}, divisions=2, lists=("val", "test"))
    return folder


def test_the_page_is_what_the_lines_give():
    text = PAGE.read_text(encoding="utf-8")
    assert compose(text) == text, REMAKE
    assert text.count("<!-- results: ") == text.count("<!-- end -->") > 0


@pytest.mark.parametrize("name", recorded())
def test_each_experiment_s_tables_are_what_its_lines_give(name):
    lines = read(RESULTS / f"{name}.jsonl")
    summary = summarise(name, lines, RESULTS, planned(name))
    assert (RESULTS / f"{name}.md").read_text(encoding="utf-8") == page(summary, existing_plots(name, RESULTS)), REMAKE
    assert (RESULTS / f"{name}.csv").read_text(encoding="utf-8") == as_csv(summary), REMAKE
    for (on, figure, arm, rule), cell in summary.cells.items():  # by other means than the table's
        divisions: dict[int, list[float]] = {}
        for line in lines:
            value = line["figures"].get(on, {}).get(rule, {}).get(figure)
            if line["arm"] == arm and value is not None:
                divisions.setdefault(line["division"], []).append(value)
        mean = statistics.fmean(map(statistics.fmean, divisions.values())) if divisions else None
        assert (cell.spread and cell.spread.mean) == (mean and pytest.approx(mean, rel=1e-12))


def test_a_figure_that_was_changed_by_hand_is_found(results):
    made = compose(block("iou"), results)
    assert made.startswith("Words.\n\n<!-- results: iou trial -->\n\n| arm ") and made.endswith(
        "<!-- end -->\n\nMore words.\n"
    )
    assert "`python reproduce.py --experiment trial`" in made and "results/trial.md" in made
    assert compose(made, results) == made
    digit = made.index("±") - 2
    changed = f"{made[:digit]}{(int(made[digit]) + 1) % 10}{made[digit + 1 :]}"
    assert compose(changed, results) == made != changed


@pytest.mark.parametrize("kind", [*BLOCKS, PLOTS])
def test_every_kind_of_block(kind, results):
    made = compose(block(kind), results)
    assert (
        "REPLACED" not in made and "reproduce.py --experiment trial" in made and "NaN" not in made and "nan" not in made
    )


def test_a_block_is_of_the_test_list_unless_it_names_another(results):
    assert compose(block("iou"), results) != compose(block("iou", on=" val"), results)
    assert (
        compose(block("iou", on=" test"), results).partition("-->")[2]
        == compose(block("iou"), results).partition("-->")[2]
    )


def test_experiments_without_lines_and_unknown_words(results):
    name = known_experiments()[0]
    made = compose(block("iou", name) + block("code", name) + block("iou"), results)
    assert made.count(f"No run of {name} is finished") == 1 and compose(made, results) == made
    assert f"<!-- results: code {name} -->\n<!-- end -->" in made and "REPLACED" not in made and "| arm " in made
    with pytest.raises(UserError, match=r"the experiment tial; known are .*trial"):
        compose(block("iou", "tial"), results)
    with pytest.raises(UserError, match=r"unknown block of results: ious trial .* Known are settings, iou"):
        compose(block("ious"), results)
    with pytest.raises(UserError, match="of val or test"):
        compose(block("iou", on=" train"), results)
