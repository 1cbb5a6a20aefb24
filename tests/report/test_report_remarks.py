"""What stands beside the numbers: how the winner was chosen, what the data were, which rows are equal."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import report_examples as examples
from rich.console import Console

from flaxvision.errors import UserError
from flaxvision.report import report_html, results_csv, results_latex, results_markdown, terminal_table
from flaxvision.report.remarks import cautions, data_used, equal_cells
from flaxvision.report.tables import latex_text

HERE = Path()
CHOSEN = "chosen on the test set, so its test top-1 is optimistic: --set validation=0.1 objective=val_top1 "

SOURCE = {
    "images:pets": {
        "kind": "folder", "checksum": "ab", "note": "a fifth of the images is the test split",
        "notes": ["left out: 2 files of unknown suffix, such as cats/<a>.xcf", "3 images were rotated as EXIF says"],
        "counts": {"train": 4000, "test": 1000},
    }
}  # fmt: skip


def with_config(result, **config):
    cells = tuple(
        dataclasses.replace(
            c, outcomes=tuple(dataclasses.replace(o, config={**o.config, **config}) for o in c.outcomes)
        )
        for c in result.cells
    )
    return dataclasses.replace(result, cells=cells)


def printed(result) -> str:
    console = Console(file=io.StringIO(), width=400)
    console.print(terminal_table(result))
    return console.file.getvalue()


def test_a_winner_of_the_test_set_is_said_to_be_one_everywhere():
    result = examples.learning_rates(HERE)
    page = report_html(result, files={})
    assert CHOSEN in page.partition("</header>")[0]  # under the headline, before any table
    assert CHOSEN in results_markdown(result).partition("|")[0]
    assert CHOSEN in printed(result)
    assert latex_text(CHOSEN) in results_latex(result)


@pytest.mark.parametrize(
    ("result", "config", "expected"),
    [
        (examples.single(HERE), {}, []),  # nothing was chosen
        (examples.holdout(HERE), {}, []),  # by validation
        (
            dataclasses.replace(examples.holdout(HERE), objective="test_loss"),
            {},
            ["so its test loss is optimistic: --set objective=val_loss chooses"],  # there is a validation split
        ),
        (
            examples.single(HERE),
            {"select": "best"},
            ["(the best test loss)", "--set validation=0.1 select_on=val_loss"],
        ),
        (examples.single(HERE), {"early_stopping": 3}, ["--set validation=0.1 select_on=val_loss"]),
        (examples.single(HERE), {"select": "best", "select_on": "test_top1"}, ["(the best test top-1)"]),
        (examples.single(HERE), {"select": "last", "early_stopping": 0}, []),
        (
            dataclasses.replace(examples.learning_rates(HERE), objective="test_balanced"),
            {},
            ["so its test balanced is optimistic: --set validation=0.1 objective=val_balanced"],
        ),
    ],
)
def test_cautions(result, config, expected):
    said = cautions(with_config(result, **config) if config else result)
    assert len(said) == bool(expected)
    for text in expected:
        assert text in said[0]


def test_the_data_are_described(tmp_path):
    result = examples.result(
        tmp_path, examples.single(HERE).cells, [], provenance={"data sets": SOURCE}, name="pets", title="Pets"
    )
    (data,) = data_used(result)
    paths = {f"images:/home/{who}/pets": SOURCE["images:pets"] for who in ("me", "you")}
    of_paths = dataclasses.replace(result, provenance={"data sets": paths})
    assert [each.line for each in data_used(of_paths)] == [data.line, data.line.replace("pets:", "pets (2):")]
    assert "/home/" not in report_html(of_paths, files={})
    assert data.line == "images:pets: train 4,000, test 1,000; a fifth of the images is the test split"
    page = report_html(result, files={})
    section = page.partition("<h2>The data</h2>")[2].partition("</section>")[0]
    assert "<b>images:pets</b>: train 4,000, test 1,000; a fifth of the images is the test split" in section
    assert "<li>left out: 2 files of unknown suffix, such as cats/&lt;a&gt;.xcf</li>" in section
    assert "<li>3 images were rotated as EXIF says</li>" in section
    lines = results_markdown(result).partition("## The data\n\n")[2].splitlines()
    assert lines == [
        "- images:pets: train 4,000, test 1,000; a fifth of the images is the test split",
        r"  - left out: 2 files of unknown suffix, such as cats/\<a\>.xcf",
        "  - 3 images were rotated as EXIF says",
    ]


def test_without_data_sets_there_is_no_section(tmp_path):
    result = examples.result(tmp_path, examples.single(HERE).cells, [], provenance={})
    assert "The data" not in report_html(result, files={}) + results_markdown(result)


def test_equal_rows_are_said_to_be_equal():
    arrays = [examples.history(np.random.default_rng(seed), 3, 0.4, 0.1, 10) for seed in (0, 1)]
    other = examples.history(np.random.default_rng(5), 3, 0.4, 0.1, 10)

    def cell(value, histories):
        where = {"conv": value}
        return examples.cell(where, [examples.outcome(where, seed, rows) for seed, rows in enumerate(histories)])

    result = examples.result(HERE, [cell("auto", arrays), cell("native", arrays), cell("x", [other, other])], ["conv"])
    assert [[cell.where["conv"] for cell in group] for group in equal_cells(result)] == [["auto", "native"]]
    note = "Equal in every number, so what differs had no effect: auto = native."
    assert note in report_html(result, files={})
    assert note in results_markdown(result)
    assert not equal_cells(examples.learning_rates(HERE))  # nor trials that diverged alike


class Gone(Mapping):
    """A history whose file is gone."""

    def __getitem__(self, name):
        raise UserError("cannot read it")

    def __iter__(self):
        raise UserError("cannot read it")

    def __len__(self):
        raise UserError("cannot read it")


def without_histories(result):
    cells = tuple(
        dataclasses.replace(c, outcomes=tuple(dataclasses.replace(o, history=Gone()) for o in c.outcomes))
        for c in result.cells
    )
    return dataclasses.replace(result, cells=cells)


def test_tables_need_no_histories():
    result = examples.learning_rates(HERE)
    assert results_markdown(without_histories(result)) == results_markdown(result)
    for example in (examples.single, examples.holdout):
        chosen = with_config(example(HERE), select="best")
        assert cautions(without_histories(chosen)) == cautions(chosen)


def test_what_cannot_be_read_is_not_known_to_be_equal():
    histories = [examples.history(np.random.default_rng(0), 3, 0.4, 0.1, 10) for _ in "abc"]
    histories[1]["test_loss"][0] += 1  # an epoch that no record has
    cells = [
        examples.cell({"conv": name}, [examples.outcome({"conv": name}, 0, rows)])
        for name, rows in zip("abc", histories, strict=True)
    ]
    assert [
        [cell.where["conv"] for cell in group] for group in equal_cells(examples.result(HERE, cells, ["conv"]))
    ] == [["a", "c"]]
    assert equal_cells(without_histories(examples.result(HERE, cells, ["conv"]))) == []


def imbalanced(balanced: float):
    """95 % of the examples are of one class; `balanced` is the mean accuracy over both."""
    where = {"rate": "1"}
    rows = {"train_loss": np.array([0.2]), "test_loss": np.array([0.2]), "test_top1": np.array([0.95])}
    outcome = examples.outcome(where, 0, {**rows, "test_top3": np.array([1.0])})
    final = {**outcome.final, "val_balanced": balanced - 0.1, "test_balanced": balanced}
    outcome = dataclasses.replace(outcome, final=final)
    return examples.result(HERE, [examples.cell(where, [outcome])], ["rate"], classes=("many", "few"))


def test_mean_accuracy_over_classes_stands_where_it_differs():
    result = imbalanced(0.5)
    assert "test_balanced_mean" in results_csv(result).splitlines()[0]
    assert "| test balanced (%) |" in results_markdown(result)
    assert "| val balanced (%) |" in results_markdown(result)
    assert "| 50.00 |" in results_markdown(result)
    assert "<td>40.00</td>" in report_html(result, files={}).partition("<summary>All")[2]
    assert "Balanced: the mean accuracy over classes" in results_markdown(result)
    assert "test balanced" not in results_markdown(imbalanced(0.949))
    chosen = dataclasses.replace(imbalanced(0.949), objective="test_balanced")
    assert "| rate | n | test balanced (%) |" in results_markdown(chosen)
    assert "Winner, chosen by test balanced" in report_html(chosen, files={})


def test_hyphens_of_options_stay_apart_in_latex():
    assert latex_text("--set a--b") == "-{}-set a-{}-b"
