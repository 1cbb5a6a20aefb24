"""The results as LaTeX tables for a paper."""

from __future__ import annotations

import dataclasses
import re

from flaxvision.report.display import Entry, Table, display_tables, narrow
from flaxvision.report.remarks import cautions
from flaxvision.sweep.results import SweepResult

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "±": r"$\pm$", "−": "$-$", "–": "--", "†": r"$^\dagger$", "‡": r"$^\ddagger$",
    "…": r"\ldots{}", "\u200b": "{}", "×": r"$\times$", "→": r"$\rightarrow$",
}  # fmt: skip
WIDTH = 345.0  # points of a line in LaTeX's `article`
_SIZES = {r"\small": 4.9, r"\footnotesize": 4.3, r"\scriptsize": 3.7}  # points of a character, about


def results_latex(result: SweepResult) -> str:
    """The tables as LaTeX; the document needs `\\usepackage{booktabs}`, nothing else."""
    first, *others = display_tables(result)
    tables = [dataclasses.replace(first, notes=(*first.notes, *cautions(result))), *others]
    return "% needs \\usepackage{booktabs}\n" + "\n".join(
        _latex_table(result.title, table, f"tab:{re.sub(r'[^A-Za-z0-9-]+', '-', result.name)}{'-cells' if i else ''}")
        for i, table in enumerate(tables)
    )


def _latex_table(title: str, table: Table, label: str) -> str:
    table, left_out = narrow(table, WIDTH, lambda table: _width(table, _SIZES[r"\scriptsize"]))
    columns = len(table.columns)
    size = next((name for name, points in _SIZES.items() if _width(table, points) <= WIDTH), r"\scriptsize")
    across = latex_text(table.across)
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
        rf"{' & '.join(map(latex_text, table.header))} \\",
        r"\midrule",
        *(rf"{' & '.join(map(_latex_entry, row))} \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip",
        rf"\parbox{{\linewidth}}{{\footnotesize {latex_text(' '.join(table.notes))}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _width(table: Table, character: float) -> float:
    """About how wide the table will be, in points."""
    return sum(character * max(len(text) + 2 * text.count("±") for text in c.texts) + 6 for c in table.columns)


def _latex_entry(entry: Entry) -> str:
    text = latex_text(entry.text)
    return rf"\textbf{{{text}}}" if entry.best else text


def latex_text(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    apart = " ".join(text.split()).replace("--", "-\u200b-")  # or LaTeX makes a dash of an option's hyphens
    return "".join(_LATEX.get(character, character) for character in apart)
