"""CSV, Markdown, LaTeX and the terminal, against numbers computed here with NumPy."""

from __future__ import annotations

import csv
import dataclasses
import doctest
import io
import re
from pathlib import Path

import numpy as np
import pytest
import report_examples as examples
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from flaxvision.errors import UserError
from flaxvision.report import formats, results_csv, results_latex, results_markdown, tables, terminal_table
from flaxvision.sweep._differences import differences
from flaxvision.sweep.results import TABLE_METRICS, Verdict

HERE = Path("unused")
ONE = {"train_loss": np.array([0.5, 0.25]), "train_top1": np.array([0.75, 0.875])}


def small(values=("0.10", "a,b"), losses=((0.25, 0.75), (np.nan, np.nan)), **changes):
    """Cells with exact binary fractions."""
    cells = []
    for value, pair in zip(values, losses, strict=True):
        where = {"rate": value}
        outcomes = [
            examples.outcome(where, seed, arrays, parameters=7, threshold=None if seed else 2, seconds=1.5)
            for seed, loss in enumerate(pair)
            for arrays in [{"train_loss": np.array([1.0, loss]), "test_top1": np.array([0.5, 0.5 + seed / 4])}]
        ]
        cells.append(examples.cell(where, outcomes))
    return examples.result(HERE, cells, ["rate"], **changes)


def test_csv_is_exact():
    header = "rate,n,diverged,failed,parameters," + ",".join(f"{m}_mean,{m}_std" for m in TABLE_METRICS)
    std, top_std = repr(float(np.std([0.25, 0.75], ddof=1))), repr(float(np.std([0.5, 0.75], ddof=1)))
    scored = {"test_top1": f"0.625,{top_std}"}
    first, second = (
        ",".join(numbers.get(metric, ",") for metric in TABLE_METRICS)
        for numbers in ({**scored, "train_loss": f"0.5,{std}"}, scored)
    )
    cells = small().cells
    bound = float(stats.t.isf(0.025, 1)) * np.sqrt(0.25**2 / 6 / 2)  # equal pairs; accuracies are multiples of 0.25
    found = differences(cells, "test_top1").others[cells[1]]
    assert (found.low, found.high) == pytest.approx((-bound, bound))
    between = f"0.0,{found.low!r},{found.high!r},no"
    assert results_csv(small()) == (
        f"{header},difference,difference_low,difference_high,distinguishable,best_epoch,converged_epoch,seconds\n"
        f'0.10,2,0,0,7,{first},,,,,2,2,2.0\n"a,b",2,2,0,7,{second},{between},2,2,2.0\n'
    )


def test_csv_without_keys_and_with_a_final_stage():
    lines = results_csv(examples.single(HERE)).splitlines()
    assert lines[0].startswith("n,diverged,failed,parameters,train_loss_mean,train_loss_std,")
    assert lines[1].startswith("1,0,0,337674,")
    rows = list(csv.DictReader(io.StringIO(results_csv(examples.holdout(HERE)))))
    assert list(rows[0])[:5] == ["hidden", "optimizer", "encoder", "stage", "n"]
    assert [row["stage"] for row in rows] == ["sweep"] * 12 + ["final"]
    assert rows[-1]["n"] == "5"
    assert rows[-1]["val_loss_mean"] == ""


def test_seconds_are_the_last_column():
    result = examples.learning_rates(HERE)
    slower = [
        dataclasses.replace(c, outcomes=tuple(dataclasses.replace(o, seconds=99 * o.seconds) for o in c.outcomes))
        for c in result.cells
    ]
    slow = results_csv(dataclasses.replace(result, cells=tuple(slower)))
    assert slow != results_csv(result)
    assert [line.rpartition(",")[0] for line in slow.splitlines()] == [
        line.rpartition(",")[0] for line in results_csv(result).splitlines()
    ]


TEXT = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), max_size=20)
LOSS = st.one_of(st.floats(1e-30, 1e30), st.just(float("nan")))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(TEXT, st.lists(LOSS, min_size=1, max_size=4)), min_size=1, max_size=4))
def test_csv_reads_back_exactly(rows):
    result = small([name for name, _ in rows], [losses for _, losses in rows])
    read = list(csv.DictReader(io.StringIO(results_csv(result), newline="")))
    for row, (name, losses) in zip(read, rows, strict=True):
        formula = name.startswith(tuple("=+-@"))  # before which an apostrophe stands
        assert (row["rate"].removeprefix("'") if formula else row["rate"]) == name
        finite = [loss for loss in losses if np.isfinite(loss)]
        assert row["diverged"] == str(len(losses) - len(finite))
        assert row["train_loss_mean"] == (repr(float(np.mean(finite))) if finite else "")
        assert row["train_loss_std"] == (repr(float(np.std(finite, ddof=1))) if len(finite) > 1 else "")
    for text in (results_markdown(result), results_latex(result)):  # and nothing there breaks on such names
        assert "test top-1" in text


def cells_of(line: str) -> list[str]:
    return [part.strip() for part in line.strip().strip("|").split(" | ")]


def markdown_tables(text: str) -> list[list[list[str]]]:
    tables, table = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            table.append(cells_of(line))
        elif table:
            tables.append(table)
            table = []
    return tables


def percent(values) -> str:
    values = 100 * np.asarray(values)
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"


def test_one_key_has_a_row_a_cell_with_the_published_number_beside_ours():
    result = examples.learning_rates(HERE)
    text = results_markdown(result)
    [[header, rule, *rows]] = markdown_tables(text)
    assert header == ["learning_rate", "n", "test top-1 (%)", "published", "verdict", "to the best", "test loss",
                      "train loss", "converged at", "seconds"]  # fmt: skip
    assert rule == ["---"] + ["---:"] * 9
    assert [row[0] for row in rows] == ["1", "0.1", "0.01", "0.001"]
    assert [row[1] for row in rows] == ["3†", "3", "3", "3"]
    ours = [percent([o.history["test_top1"][-1] for o in cell.outcomes]) for cell in result.cells]
    best = int(np.argmax([float(text.split()[0]) for text in ours]))
    assert [row[2] for row in rows] == [f"**{text}**" if i == best else text for i, text in enumerate(ours)]
    assert [row[3] for row in rows] == ["10", "87", "83.5", "71.9"]
    for row, cell in zip(rows, result.cells, strict=True):
        gap = 100 * (np.mean([o.history["test_top1"][-1] for o in cell.outcomes]) - cell.verdicts[0].published)
        assert row[4] == f"{cell.verdicts[0].verdict} ({gap:+.2f})".replace("-", "−")
    scores = np.array([[o.history["test_top1"][-1] for o in cell.outcomes] for cell in result.cells])
    for i, row in enumerate(rows):
        gap = f"{100 * (scores[i] - scores[best]).mean():+.2f}".replace("-", "−")
        assert row[5].partition(" (")[0] == ("best" if i == best else gap)
    assert rows[0][6] == "diverged"
    assert rows[0][8] == "9.0"
    assert "† Seeds with a loss or weight that is not finite (1: 3 of 3)" in text
    assert "tolerance ±1 to ±1.5 points" in text
    assert "over n = 3 seeds" in text


def test_two_keys_make_a_two_way_table():
    result = examples.grid(HERE)
    two_way, rows = markdown_tables(results_markdown(result))
    assert two_way[0] == ["learning_rate / width", "32", "64", "128", "256"]
    assert [row[0] for row in two_way[2:]] == ["0.1", "0.01", "0.001"]
    for i, row in enumerate(two_way[2:]):
        for j, text in enumerate(row[1:]):
            values = [o.history["test_top1"][-1] for o in result.cells[4 * i + j].outcomes]
            assert text.strip("*†≈ ") == percent(values)
    assert two_way[2][1].endswith("†")
    assert sum(text.startswith("**") for row in two_way[2:] for text in row) == 1
    assert len(rows) == 2 + 12
    assert "parameters" in rows[0]


def test_an_incomplete_grid_has_gaps():
    result = examples.grid(HERE, seeds=1)
    result = dataclasses.replace(result, cells=result.cells[:5])
    [_, _, first, second], _ = markdown_tables(results_markdown(result))
    assert second[2:] == ["–", "–", "–"]
    assert "±" not in "".join(first)
    assert "one seed a cell" in results_markdown(result)


def test_losses_have_four_digits_and_the_lowest_of_a_cell_without_diverged_seeds_is_best():
    [[header, _, *rows]] = markdown_tables(results_markdown(examples.autoencoder(HERE)))
    assert header == ["optimizer", "n", "test loss", "published", "verdict", "to the best", "train loss", "seconds"]
    cell = examples.autoencoder(HERE).cells[0]
    values = [o.history["test_loss"][-1] for o in cell.outcomes]
    assert rows[0][2] == f"**{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}**"
    assert rows[2][1] == "3†"
    assert rows[2][2] == f"{examples.autoencoder(HERE).cells[2].outcomes[0].history['test_loss'][-1]:.2f}"


def test_missing_verdict():
    result = small()
    cell = dataclasses.replace(result.cells[0], verdicts=(Verdict("test_top3", 0.96, 0.01, "D", None, "missing"),))
    other = dataclasses.replace(result.cells[1], verdicts=(Verdict("train_loss", 0.5, 0.01, "D", None, "missing"),))
    text = results_markdown(dataclasses.replace(result, cells=(cell, other)))
    [[header, _, *rows]] = markdown_tables(text)
    assert rows[1][header.index("verdict")] == "missing"
    assert "test top-3" not in header  # nobody has it, so there is no column; the note still names it
    assert "Published test top-3: D" in text


def test_markdown_escapes():
    result = small(["a|b", "*<script>_x"], title="50 % of `a|b`")
    text = results_markdown(result)
    assert text.startswith("# 50 % of \\`a\\|b\\`\n")
    assert "| a\\|b |" in text
    assert "\\*\\<script\\>" in text
    assert {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")} == {7}


def test_latex_structure_and_escapes():
    result = small(["50%_#1", "{a}&$b$~^\\"], title="Rates & 100 % of #1_a")
    text = results_latex(result)
    assert r"\caption{Rates \& 100 \% of \#1\_a. Mean" in text
    assert r"50\%\_\#1 & 2 &" in text
    assert r"\{a\}\&\$b\$\textasciitilde{}\textasciicircum{}\textbackslash{} & 2$^\dagger$" in text
    assert r"\textbf{62.50 $\pm$ 17.68}" in text
    assert [text.count(rf"\{rule}") for rule in ("toprule", "midrule", "bottomrule")] == [1, 1, 1]
    columns = text.partition(r"\begin{tabular}{")[2].partition("}")[0]
    body = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0].strip().splitlines()
    assert {line.replace(r"\&", "").count("&") + 1 for line in body} == {len(columns)}
    assert all(line.endswith(r"\\") for line in body)
    text.encode("ascii")


def test_latex_rows_begin_with_no_argument():
    r"""`\\` and `\midrule` would take "[32]" for a length, and a star for their own."""
    result = small(["[32]", "*", "[[8], [9]]"], losses=[(0.25, 0.75), (0.5, 0.5), (0.5, 1.0)])
    body = results_latex(result).partition(r"\midrule")[2].partition(r"\bottomrule")[0].strip().splitlines()
    starts = [line.removeprefix(r"\textbf{").partition(" &")[0] for line in body]
    assert starts == ["{[}32{]}", "{*}", "{[}{[}8{]}, {[}9{]}{]}"]


def test_latex_two_way():
    text = results_latex(examples.grid(HERE))
    assert r"& \multicolumn{4}{c}{width} \\" in text
    assert r"\cmidrule(lr){2-5}" in text
    assert r"learning\_rate & 32 & 64 & 128 & 256 \\" in text
    assert r"\label{tab:grid}" in text
    assert r"\label{tab:grid-cells}" in text


def test_a_two_way_table_that_is_too_wide_is_turned():
    result = examples.grid(HERE, rows=2, columns=8)
    two_way = results_latex(result).partition(r"\end{table}")[0]
    assert "no room" not in two_way
    assert r" & \multicolumn{2}{c}{learning\_rate} \\" in two_way
    assert r"width & 0.1 & 0.01 \\" in two_way
    console = Console(width=70, record=True, file=io.StringIO())
    console.print(terminal_table(result))
    shown = console.export_text().partition("Bold")[0]
    assert "width / learning_rate" in shown
    for cell in result.cells[1:]:  # the seeds of the first diverged
        values = [o.history["test_top1"][-1] for o in cell.outcomes]
        text = f"{100 * np.mean(values):.2f} ± {100 * np.std(values, ddof=1):.2f}"
        column = 1 + ["0.1", "0.01"].index(cell.where["learning_rate"])
        assert text in shown
        (row,) = [line for line in two_way.splitlines() if line.startswith(f"{cell.where['width']} & ")]
        assert text.replace("±", r"$\pm$") in row.split(" & ")[column]


def test_one_that_is_too_wide_either_way_is_left_out_and_said_to_be():
    result = examples.grid(HERE, rows=7, columns=7)
    text = results_latex(result)
    assert text.count(r"\begin{table}") == 1
    assert r"\multicolumn" not in text
    assert "% no room for the table of learning_rate by width" in text
    assert r"\label{tab:grid-cells}" in text
    assert "is chosen on the test set" in text
    console = Console(width=90, record=True, file=io.StringIO())
    console.print(terminal_table(result))
    assert "No room for the table of learning_rate by width" in " ".join(console.export_text().split())
    assert len(markdown_tables(results_markdown(result))) == 2


def test_latex_of_chosen_columns():
    result = examples.learning_rates(HERE)
    text = results_latex(
        result,
        columns=["test_top1", "difference", "parameters"],
        names={"learning_rate": r"$\eta$", "test_top1": r"accuracy (\%)"},
        digits={"test_top1": 1},
    )
    assert r"\begin{tabular}{lrrr}" in text
    assert r"$\eta$ & accuracy (\%) & to the best & parameters \\" in text
    values = 100 * np.array([o.history["test_top1"][-1] for o in result.cells[1].outcomes])
    assert rf"0.1 & \textbf{{{values.mean():.1f} $\pm$ {values.std(ddof=1):.1f}}}" in text
    with pytest.raises(UserError, match="unknown column 'test_top5': did you mean 'test_top3'"):
        results_latex(result, columns=["test_top5"])
    with pytest.raises(UserError, match="unknown column 'lr': did you mean 'learning_rate'"):
        results_latex(result, names={"lr": "x"})
    with pytest.raises(UserError, match="unknown metric 'val_top1'"):
        results_latex(result, digits={"val_top1": 1})


def test_a_table_too_wide_for_the_page_keeps_what_matters():
    text = results_latex(examples.holdout(HERE))
    head = text.partition(r"\toprule")[2].partition(r"\midrule")[0]
    assert head.strip() == (
        r"hidden & optimizer & encoder & stage & val loss & published & test top-1 (\%) & published \\"
    )
    assert "% no room for seconds, train loss" in text


@pytest.mark.parametrize("width", [60, 100, 200])
def test_terminal(width):
    result = examples.learning_rates(HERE)
    console = Console(width=width, record=True, file=io.StringIO(), force_terminal=True)
    console.print(terminal_table(result))
    text = console.export_text(clear=False)
    ours = percent([o.history["test_top1"][-1] for o in result.cells[1].outcomes])
    assert ours in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert ("No room for seconds" in text) == (width < 200)
    if width == 200:
        styled = console.export_text(styles=True)
        assert re.search(r"\x1b\[32m *within", styled)
        assert re.search(r"\x1b\[1;31m *outside", styled)


def test_terminal_shows_markup_as_it_is():
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(terminal_table(small(["[red]x[/red]", "[/]"], title="[bold]")))
    assert "[red]x[/red]" in console.export_text(clear=False)


@pytest.mark.parametrize("module", [formats, tables])
def test_doctests(module):
    assert doctest.testmod(module).failed == 0
