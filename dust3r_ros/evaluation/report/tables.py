"""A table of texts, as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Table:
    """``head`` and ``rows`` of texts under a ``title``; the first ``texts`` columns are words, the others figures.

    ``lead`` says before it what it is, ``notes`` stand below it.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    lead: str = ""
    notes: Sequence[str] = ()
    texts: int = 1

    def markdown(self, level: int = 2) -> str:
        """With a heading of ``level``; nothing of it breaks a table."""
        lines = [f"{'#' * level} {self.title}", ""]
        if self.lead:
            lines += [self.lead, ""]
        if self.rows:
            rules = ["---" if column < self.texts else "---:" for column in range(len(self.head))]
            lines += [_line(self.head), _line(rules), *(_line(row) for row in self.rows), ""]
        lines += [*(f"- {note}" for note in self.notes), *([""] if self.notes else [])]
        return "\n".join(lines)

    def html(self) -> str:
        """With a heading; every text is escaped."""
        parts = [f"<h2>{escape(self.title)}</h2>", f"<p>{escape(self.lead)}</p>" if self.lead else ""]
        if self.rows:
            head = "".join(f"<th{self._kind(column)}>{escape(name)}</th>" for column, name in enumerate(self.head))
            parts.append(f'<div class="wide"><table><tr>{head}</tr>')
            for row in self.rows:
                cells = (f"<td{self._kind(column)}>{escape(str(cell))}</td>" for column, cell in enumerate(row))
                parts.append(f"<tr>{''.join(cells)}</tr>")
            parts.append("</table></div>")
        if self.notes:
            parts.append("<ul>" + "".join(f"<li>{escape(note)}</li>" for note in self.notes) + "</ul>")
        return "\n".join(part for part in parts if part)

    def _kind(self, column: int) -> str:
        return "" if column < self.texts else ' class="number"'


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(str(cell).replace("|", "\\|").split()) for cell in cells) + " |"
