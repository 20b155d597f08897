"""What a published data set is, from whom, and how it must lie: text for a terminal and for the documentation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Description:
    """A data set. ``layout`` are lines of a tree, ``notes`` what to know of its conventions."""

    name: str
    title: str
    source: str
    fetch: str
    licence: str
    layout: str
    notes: str

    def where(self) -> str:
        """What to fetch, from whom, under which licence, and how it must lie."""
        layout = "\n".join(f"  {line}" for line in self.layout.strip("\n").splitlines())
        return (
            f"{self.title} ({self.name})\n\nFrom     {self.source}\nFetch    {self.fetch}\nLicence  {self.licence}\n\n"
            f"It must lie so:\n\n{layout}\n\n{self.notes}\n"
        )
