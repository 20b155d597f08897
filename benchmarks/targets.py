"""What every alignment benchmark writes for the common table: targets, the machine and its load."""

from __future__ import annotations

from typing import Any

from dust3r_ros import __version__
from dust3r_ros.evaluation.report import run_file


def target(
    name: str, measured: float | str | None, limit: str, met: bool | None, note: str = "", unit: str = ""
) -> dict[str, Any]:
    """A row of the table: name, value (None: not measured), target, and whether it is met.

    ``met`` None: could not be judged; ``note`` says why, or what the figure does not cover.
    """
    shown = "not measured" if measured is None else f"{measured:.3g}" if isinstance(measured, float) else str(measured)
    return {"name": name, "measured": f"{shown} {unit}".strip(), "target": limit, "met": met, "note": note}


class Machine(run_file.Machine):
    """The machine, and how much of it other programs used since this object was made."""

    def about(self) -> dict[str, Any]:
        """The evaluation's description of it, and our version."""
        return {"version": __version__, **super().about()}
