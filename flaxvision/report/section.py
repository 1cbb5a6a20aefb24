"""A section that others add to the page: a table and what is to be said of it."""

from __future__ import annotations

import dataclasses
from html import escape


@dataclasses.dataclass(frozen=True, slots=True)
class Section:
    """A table as text, under a heading of its own."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()  # paragraphs before the table

    def html(self) -> str:
        """What stands under the heading, as an HTML fragment.

        >>> Section("Sizes", ("file",), (("a & b",),)).html()
        '<table><thead><tr><th>file</th></tr></thead><tbody><tr><td>a &amp; b</td></tr></tbody></table>'
        """
        notes = "".join(f"<p>{escape(note, quote=False)}</p>" for note in self.notes)
        head, *rows = (
            "".join(f"<{tag}>{escape(text, quote=False)}</{tag}>" for text in texts)
            for tag, texts in (("th", self.header), *(("td", row) for row in self.rows))
        )
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"{notes}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
