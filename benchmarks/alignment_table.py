"""Output of `benchmarks/alignment.py`: ratios with their targets as a table, as a plot, and for the summary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from targets import target

_LARGE = "x"  # memory is judged only for large images: a small problem's is that of any program


@dataclass(frozen=True)
class Target:
    """A column: the ratio of ``moments`` to ``gradient``, and its target."""

    name: str
    limit: float
    at_least: bool = False
    digits: int = 2

    def met(self, ratio: float) -> bool:
        """Whether a ratio, rounded to the digits of its target, meets it."""
        shown = round(ratio, self.digits)
        return shown >= self.limit if self.at_least else shown <= self.limit

    @property
    def text(self) -> str:
        """The target in words."""
        return f"{'>=' if self.at_least else '<='} {self.limit:g}"


TARGETS = {
    "speed": Target("times faster", 300, at_least=True, digits=0),
    "objective": Target("objective", 1.00),
    "ate": Target("ATE", 1.02),
    "depth": Target("depth error", 1.02),
    "focal": Target("focal error", 1.02),
    "memory": Target("memory", 0.1),
}


def met(row: dict[str, Any], name: str) -> bool:
    """Whether a row meets a target."""
    if name == "memory" and _LARGE not in row["size"]:
        return True
    return TARGETS[name].met(row["ratio"][name])


def shown(ratio: float, name: str) -> str:
    """A ratio, formatted."""
    return f"{ratio:.{0 if name == 'speed' else 4}f}"


def table(rows: list[dict[str, Any]]) -> str:
    """Lines of ratios with their targets; a miss is marked."""
    lines = [
        f"{'size':8s} {'moments':>10s} {'gradient':>10s}"
        + "".join(f" {f'{limit.name} {limit.text}':>18s}" for limit in TARGETS.values())
    ]
    for row in rows:
        line = f"{row['size']:8s} {row['moments']['seconds']:8.3f} s {row['gradient']['seconds']:8.1f} s"
        for name in TARGETS:
            line += f" {shown(row['ratio'][name], name) + ('  ' if met(row, name) else ' !'):>18s}"
        lines.append(line)
        lines.append(
            f"  in processor time: {row['moments']['cpu_seconds']:.3f} s and {row['gradient']['cpu_seconds']:.1f} s, "
            f"{row['cpu_speed']:.0f} times less"
        )
        if "original" in row:
            against = row["ratio_to_original"]
            lines.append(
                f"  against the stored result of the original program ({row['original']['seconds']:.0f} s): "
                + ", ".join(f"{name} {value:.4g}" for name, value in against.items())
            )
    return "\n".join([*lines, "! misses its target"])


def targets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry per target and row, for the summary: name, measured, target, met and note."""
    found = []
    for row in rows:
        seconds = f"{row['moments']['seconds']:.3f} s against {row['gradient']['seconds']:.1f} s"
        cpu, title = f"{row['cpu_speed']:.0f} times in processor time", f"alignment, {_title(row['size'])}"
        for name, limit in TARGETS.items():
            if name == "memory" and _LARGE not in row["size"]:
                continue
            note = f"{seconds}; {cpu}" if name == "speed" else "moments over gradient"
            what = f"{title}: {limit.name}"
            found.append(target(what, shown(row["ratio"][name], name), limit.text, met(row, name), note))
        for name, value in row.get("ratio_to_original", {}).items():
            limit, what = TARGETS[name], f"{title}: {TARGETS[name].name}, against the original program"
            note = "stored result of another run" + (", its time on another machine" * (name == "speed"))
            found.append(target(what, shown(value, name), limit.text, limit.met(value), note))
    return found


def _title(size: str) -> str:
    """A size in words."""
    if size == "dev":
        return "8 images (fixture)"
    images, _, width = size.partition("x")
    return f"{images} images of {width or 160} px"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds per problem, and the ratios, as an image."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    names, at = [row["size"] for row in rows], np.arange(len(rows))
    for shift, method in ((-0.2, "gradient"), (0.2, "moments")):
        left.bar(at + shift, [row[method]["seconds"] for row in rows], 0.4, label=method)
    stored = [(place, row["original"]["seconds"]) for place, row in enumerate(rows) if "original" in row]
    if stored:
        left.plot(*zip(*stored, strict=True), "k_", markersize=18, label="original program, stored")
    limit = TARGETS["speed"].limit
    left.step(
        np.append(at, len(rows)) - 0.5,
        [row["gradient"]["seconds"] / limit for row in [*rows, rows[-1]]],
        "k:",
        where="post",
        label=f"target: gradient / {limit:g}",
    )
    left.set(yscale="log", ylabel="seconds", xlabel="images (x width)", title="Time")
    for name, ratio in TARGETS.items():
        if not ratio.at_least:
            right.plot(at, [row["ratio"][name] for row in rows], "o-", label=f"{ratio.name} ({ratio.text})")
    right.axhline(1.0, color="black", linewidth=0.8)
    right.set(ylabel="moments / gradient", xlabel="images (x width)", title="Quality and memory")
    for axes in (left, right):
        axes.set_xticks(at, names)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
