"""The tables as text: CSV for programs, Markdown, LaTeX, a terminal's, and HTML of sections that others add."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from flaxvision.errors import unknown
from flaxvision.report.display import Choice, Column, Entry, Table, display_tables, fitting
from flaxvision.report.formats import TIED
from flaxvision.report.remarks import cautions, data_used
from flaxvision.sweep._differences import Difference, differences
from flaxvision.sweep.results import TABLE_METRICS, SweepResult

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table as RichTable
    from rich.text import Text

_NUMERIC = re.compile(r"([-+±≥≤]? ?[\d.,]+(e[-+]\d+)?( %)?( ± [\d.,]+| to [\d.,]+)?)?")  # one or two, or nothing
_UPRIGHT = re.compile(r"(?<!\\)\|")
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "±": r"$\pm$", "−": "$-$", "–": "--", "†": r"$^\dagger$", "‡": r"$^\ddagger$",
    "[": "{[}", "]": "{]}", "*": "{*}",  # which \\ and \midrule would take for their own at a row's beginning
    "…": r"\ldots{}", "\u200b": "{}", "×": r"$\times$", "→": r"$\rightarrow$", "≈": r"$\approx$",
}  # fmt: skip
WIDTH = 345.0  # points of a line in LaTeX's `article`
_SIZES = {r"\small": 4.9, r"\footnotesize": 4.3, r"\scriptsize": 3.7}  # points of a character, about
_VERDICT_STYLES = {"within": "green", "outside": "bold red", "missing": "yellow", "": ""}
_DIFFERENCE = ("difference", "difference_low", "difference_high", "distinguishable")  # of the objective, to the best
_GAP = 2  # spaces between two columns: rich's divider and one of padding


def results_csv(result: SweepResult) -> str:
    """One row a cell, for programs: every digit, fractions, an empty field where there is no number."""
    final = any(cell.stage == "final" for cell in result.cells)
    metrics = [f"{metric}_{what}" for metric in TABLE_METRICS for what in ("mean", "std")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = [*map(_csv, result.keys), *(["stage"] if final else []), "n", "diverged", "failed", "parameters", *metrics]
    writer.writerow([*header, *_DIFFERENCE, "best_epoch", "converged_epoch", "seconds"])
    found = differences(result.cells, result.objective)
    for cell in result.cells:
        where = [_csv(cell.where.get(key, "")) for key in result.keys] + ([cell.stage] if final else [])
        counts = [cell.n, cell.diverged, cell.failed, cell.parameters]
        scores = [value for metric in TABLE_METRICS for value in (cell.mean(metric), cell.std(metric))]
        means = [cell.mean(name) for name in ("best_epoch", "converged_epoch")]
        epochs = [int(mean) if mean is not None and mean.is_integer() else mean for mean in means]
        row = [*where, *counts, *scores, *_difference(found.others.get(cell)), *epochs, cell.mean("seconds")]
        writer.writerow(row)
    return text.getvalue()


def _difference(found: Difference | None) -> list[float | str]:
    """What the columns of `_DIFFERENCE` hold; of the best cell, and where there is one seed, no more than is known."""
    if found is None:
        return ["", "", "", ""]
    if found.seeds < 2:
        return [found.mean, "", "", ""]
    return [found.mean, found.low, found.high, "yes" if found.real else "no"]


def _csv(label: str) -> str:
    """A label as spreadsheets show it: one that is no number and would be a formula begins with an apostrophe."""
    try:
        float(label)
    except ValueError:
        return f"'{label}" if label.startswith(("=", "+", "-", "@")) else label
    return label


def results_markdown(result: SweepResult) -> str:
    """The tables as GitHub-flavoured Markdown."""
    head = [f"# {markdown_text(result.title)}\n", *(f"{markdown_text(text)}\n" for text in cautions(result))]
    lines = [
        line
        for used in data_used(result)
        for line in (f"- {markdown_text(used.line)}\n", *(f"  - {markdown_text(note)}\n" for note in used.notes))
    ]
    tail = ["## The data\n", "".join(lines)] if lines else []
    return "\n".join([*head, *map(_markdown_table, display_tables(result)), *tail])


def _markdown_table(table: Table) -> str:
    header = [markdown_text(name) for name in table.header]
    rows = [[_markdown_entry(entry) for entry in row] for row in table.rows]
    notes = "\n".join(f"- {markdown_text(note)}" for note in table.notes)
    return f"{markdown_text(table.caption)}\n\n{markdown_table(header, rows, table.labels)}\n\n{notes}\n"


def _markdown_entry(entry: Entry) -> str:
    text = markdown_text(entry.text)
    return f"**{text}**" if entry.best else f"{text} {TIED}" if entry.tied else text


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]], labels: int | None = None) -> str:
    """A table in GitHub-flavoured Markdown.

    Args:
        header: The headings, in Markdown.
        rows: The entries, in Markdown; only their upright lines are escaped here.
        labels: How many leading columns stand to the left, the others to the right. None: columns of numbers stand to
            the right.

    >>> print(markdown_table(["cell", "top-1"], [["a|b", 0.5]]))
    | cell | top-1 |
    | --- | ---: |
    | a\\|b | 0.5 |
    """
    cells = [[_UPRIGHT.sub(r"\\|", str(cell)) for cell in row] for row in rows]
    rule = []
    for i in range(len(header)):
        column = [row[i] for row in cells]
        numeric = any(column) and all(map(_NUMERIC.fullmatch, column))
        rule.append("---:" if (numeric if labels is None else i >= labels) else "---")
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *cells))


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is; an underscore inside a word is safe."""
    return re.sub(r"([\\`*<>|\[\]]|\b_|_\b)", r"\\\1", " ".join(text.split()))


def results_latex(
    result: SweepResult,
    *,
    columns: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
    digits: Mapping[str, int] | None = None,
) -> str:
    """The tables as LaTeX; the document needs `\\usepackage{booktabs}`, nothing else.

    Args:
        result: What to print.
        columns: Which columns stand beside those that name the rows, in order: "n", metrics as results.csv has them
            ("test_top1"), "difference" (to the best), "published", "verdict", "parameters", "best_epoch", "seconds".
            Without any, those that tell something and have room.
        names: Headings in LaTeX by the keys of columns, also of those that name the rows.
        digits: Decimals by metric, percent being two by default.

    Raises:
        UserError: For a column or metric that the result does not have.

    >>> results_latex(result, columns=["test_top1", "difference"], digits={"test_top1": 1},
    ...               names={"learning_rate": r"$\\eta$"})  # doctest: +SKIP
    """
    tables = display_tables(result, Choice(tuple(columns), digits or {}))
    for name in names or {}:
        known = [column.key for table in tables for column in table.columns] + list(result.keys)
        if name not in known:
            raise unknown("column", name, dict.fromkeys(known))
    (first, left_out), *others = fitting(tables, WIDTH, lambda table: _points(table, _SIZES[r"\scriptsize"]))
    fitted = [(dataclasses.replace(first, notes=(*first.notes, *cautions(result))), left_out), *others]
    label = f"tab:{re.sub(r'[^A-Za-z0-9-]+', '-', result.name)}"
    cells = label if len(tables) == 1 else f"{label}-cells"
    return "% needs \\usepackage{booktabs}\n" + "\n".join(
        _latex_table(result.title, table, left_out, label if table.across else cells, names or {})
        for table, left_out in fitted
    )


def _latex_table(title: str, table: Table, left_out: Sequence[str], label: str, names: Mapping[str, str]) -> str:
    columns = len(table.columns)
    size = next((name for name, points in _SIZES.items() if _points(table, points) <= WIDTH), r"\scriptsize")
    across = names.get(table.across, latex_text(table.across))
    heads = [
        latex_text(c.heading) if table.across and i else names.get(c.key, latex_text(c.heading))
        for i, c in enumerate(table.columns)
    ]
    lines = [
        *([f"% no room for {', '.join(left_out)}: see results.csv"] if left_out else []),
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{latex_text(f'{title}. {table.caption}.')}}}",
        rf"\label{{{label}}}",
        r"\smallskip",
        rf"{size}\setlength{{\tabcolsep}}{{3pt}}",
        rf"\begin{{tabular}}{{{'l' * table.labels}{'r' * (columns - table.labels)}}}",
        r"\toprule",
        *(
            [rf" & \multicolumn{{{columns - 1}}}{{c}}{{{across}}} \\", rf"\cmidrule(lr){{2-{columns}}}"]
            if across
            else []
        ),
        rf"{' & '.join(heads)} \\",
        r"\midrule",
        *(rf"{' & '.join(map(_latex_entry, row, table.columns))} \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip",
        rf"\parbox{{\linewidth}}{{\footnotesize {latex_text(' '.join(table.notes))}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _points(table: Table, character: float) -> float:
    """About how wide the table will be, in points."""
    return sum(character * max(len(text) + 2 * text.count("±") for text in c.texts) + 6 for c in table.columns)


def _latex_entry(entry: Entry, column: Column) -> str:
    text = latex_text(entry.text)
    if entry.best:
        text = rf"\textbf{{{text}}}"
    mark = latex_text(f" {TIED}")
    return text + (mark if entry.tied else rf"\phantom{{{mark}}}" if column.marked else "")


def latex_text(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    apart = " ".join(text.split()).replace("--", "-\u200b-")  # or LaTeX makes a dash of an option's hyphens
    return "".join(_LATEX.get(character, character) for character in apart)


@dataclasses.dataclass(frozen=True, slots=True)
class TerminalTables:
    """What rich prints: the tables, without the columns for which the terminal has no room."""

    title: str
    tables: tuple[Table, ...]
    cautions: tuple[str, ...] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        for shown, left_out in fitting(self.tables, options.max_width, _width):
            room = [f"No room for {', '.join(left_out)}: see results.md."] if left_out else []
            yield _rich_table(f"{self.title}. {shown.caption}", shown, [*shown.notes, *room])
        yield from map(Text, self.cautions)


def terminal_table(result: SweepResult) -> TerminalTables:
    """The tables for `rich.print`."""
    return TerminalTables(result.title, display_tables(result), tuple(cautions(result)))


def _width(table: Table) -> int:
    from rich.cells import cell_len  # a Chinese sign takes two places

    columns = zip(table.header, table.columns, strict=True)
    return sum(max(map(cell_len, (heading, *column.texts))) + _GAP for heading, column in columns)


def _rich_table(title: str, table: Table, notes: Sequence[str]) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(
        title=Text(title, style="bold"),
        caption=Text("\n".join(notes), style="dim"),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, _GAP - 1, 0, 0),
        show_edge=False,
    )
    for i, name in enumerate(table.header):
        shown.add_column(Text(name), justify="left" if i < table.labels else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*(_rich_entry(entry, column) for entry, column in zip(row, table.columns, strict=True)))
    return shown


def _rich_entry(entry: Entry, column: Column) -> Text:
    from rich.text import Text

    mark = f" {TIED}" if entry.tied else "  " if column.marked else ""
    return Text(f"{entry.text}{mark}", style="bold" if entry.best else _VERDICT_STYLES[entry.verdict])


@dataclasses.dataclass(frozen=True, slots=True)
class Section:
    """A table as text, under a heading of its own."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()  # paragraphs before the table

    def html(self) -> str:
        """What stands under the heading, as an HTML fragment.

        >>> Section("Sizes", ("file",), (("a & b",),), ("Two <b>",)).html().partition("<div")[0]
        '<p>Two &lt;b&gt;</p>'
        """
        notes = "".join(f"<p>{escape(note, quote=False)}</p>" for note in self.notes)
        head, *rows = (
            "".join(f"<{tag}>{escape(text, quote=False)}</{tag}>" for text in texts)
            for tag, texts in (("th", self.header), *(("td", row) for row in self.rows))
        )
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f'{notes}<div class="scroll" tabindex="0">{table}</div>'
