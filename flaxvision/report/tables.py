"""The results as CSV, Markdown, LaTeX and in the terminal."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING

from flaxvision.report.display import Entry, Table, display_tables
from flaxvision.sweep.results import TABLE_METRICS, Cell, SweepResult

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table as RichTable

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "±": r"$\pm$", "−": "$-$", "–": "--", "†": r"\textsuperscript{\dag}",
    "…": r"\ldots{}", "×": r"$\times$", "→": r"$\rightarrow$",
}  # fmt: skip
_VERDICT_STYLES = {"within": "green", "outside": "bold red", "missing": "yellow"}


def results_csv(result: SweepResult) -> str:
    """One row a cell, for programs: every digit, fractions, an empty field where there is no number."""
    final = any(cell.stage == "final" for cell in result.cells)
    metrics = [f"{metric}_{what}" for metric in TABLE_METRICS for what in ("mean", "std")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = [*result.keys, *(["stage"] if final else []), "n", "diverged", "parameters", *metrics]
    writer.writerow([*header, "best_epoch", "converged_epoch", "seconds"])
    for cell in result.cells:
        where = [cell.where.get(key, "") for key in result.keys] + ([cell.stage] if final else [])
        counts = [cell.n, cell.diverged, cell.outcomes[0].parameters if cell.outcomes else None]
        writer.writerow([*where, *counts, *_numbers(cell)])
    return text.getvalue()


def _numbers(cell: Cell) -> list[str]:
    pairs = [value for metric in TABLE_METRICS for value in (cell.mean(metric), cell.std(metric))]
    epochs = [cell.mean(name) for name in ("best_epoch", "converged_epoch", "seconds")]
    return ["" if value is None else repr(value) for value in pairs + epochs]


def results_markdown(result: SweepResult) -> str:
    """The tables as GitHub-flavoured Markdown."""
    return f"# {_markdown(result.title)}\n\n" + "\n".join(_markdown_table(table) for table in display_tables(result))


def _markdown_table(table: Table) -> str:
    header = [_markdown(name) for name in table.header]
    if table.across:
        header[0] += f" / {_markdown(table.across)}"
    rule = ["---"] * table.labels + ["---:"] * (len(header) - table.labels)
    rows = [[f"**{_markdown(e.text)}**" if e.best else _markdown(e.text) for e in row] for row in table.rows]
    lines = [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]
    notes = "\n".join(f"- {_markdown(note)}" for note in table.notes)
    return f"{_markdown(table.caption)}\n\n{chr(10).join(lines)}\n\n{notes}\n"


def _markdown(text: str) -> str:
    """Text that Markdown shows as it is; an underscore inside a word is safe."""
    return re.sub(r"([\\`*<>|\[\]]|\b_|_\b)", r"\\\1", " ".join(text.split()))


def results_latex(result: SweepResult) -> str:
    """The tables as LaTeX; the document needs `\\usepackage{booktabs}`, nothing else."""
    tables = display_tables(result)
    return "% needs \\usepackage{booktabs}\n" + "\n".join(
        _latex_table(table, f"tab:{re.sub(r'[^A-Za-z0-9-]+', '-', result.name)}{'-cells' if i else ''}")
        for i, table in enumerate(tables)
    )


def _latex_table(table: Table, label: str) -> str:
    columns = len(table.header)
    size = r"\small" if columns <= 6 else r"\footnotesize" if columns <= 8 else r"\scriptsize"
    lines = [
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{latex_text(table.caption)}.}}",
        rf"\label{{{label}}}",
        size if columns <= 8 else rf"{size}\setlength{{\tabcolsep}}{{3pt}}",
        rf"\begin{{tabular}}{{{'l' * table.labels}{'r' * (columns - table.labels)}}}",
        r"\toprule",
    ]
    if table.across:
        lines.append(rf" & \multicolumn{{{columns - 1}}}{{c}}{{{latex_text(table.across)}}} \\")
        lines.append(rf"\cmidrule(lr){{2-{columns}}}")
    lines.append(f"{' & '.join(latex_text(name) for name in table.header)} \\\\")
    lines.append(r"\midrule")
    lines.extend(f"{' & '.join(_latex_entry(entry) for entry in row)} \\\\" for row in table.rows)
    lines.extend([r"\bottomrule", r"\end{tabular}"])
    lines.extend([r"\par\smallskip", r"\parbox{\linewidth}{\footnotesize " + latex_text(" ".join(table.notes)) + "}"])
    return "\n".join([*lines, r"\end{table}", ""])


def _latex_entry(entry: Entry) -> str:
    text = latex_text(entry.text)
    return rf"\textbf{{{text.replace(r'$\pm$', chr(92) + 'boldmath$' + chr(92) + 'pm$')}}}" if entry.best else text


def latex_text(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def terminal_table(result: SweepResult) -> Group:
    """The same tables for `rich.print`."""
    from rich.console import Group

    return Group(*(_rich_table(table) for table in display_tables(result)))


def _rich_table(table: Table) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(
        title=Text(table.caption, style="bold"),
        caption=Text("\n".join(table.notes), style="dim"),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for i, name in enumerate(table.header):
        heading = f"{name} / {table.across}" if table.across and i == 0 else name
        shown.add_column(Text(heading), justify="left" if i < table.labels else "right")
    for row in table.rows:
        shown.add_row(*(Text(e.text, style="bold" if e.best else _VERDICT_STYLES.get(e.verdict, "")) for e in row))
    return shown
