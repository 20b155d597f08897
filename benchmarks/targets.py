"""What every benchmark of alignment leaves for the common table: targets, and where and beside what it ran."""

from __future__ import annotations

from typing import Any

from dust3r_ros import __version__
from dust3r_ros.evaluation.report import run_file


def target(
    name: str, measured: float | str | None, limit: str, met: bool | None, note: str = "", unit: str = ""
) -> dict[str, Any]:
    """A row of the table: what, its value (None: not measured), what it should be, whether it is.

    ``met`` None: could not be judged; ``note`` says why, or what the figure leaves out.
    """
    shown = "not measured" if measured is None else f"{measured:.3g}" if isinstance(measured, float) else str(measured)
    return {"name": name, "measured": f"{shown} {unit}".strip(), "target": limit, "met": met, "note": note}


class Machine(run_file.Machine):
    """The machine, and how much of it others used since this was made."""

    def about(self) -> dict[str, Any]:
        """What the evaluation says of it, and our version."""
        return {"version": __version__, **super().about()}
