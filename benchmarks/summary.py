"""One table of all alignment targets from the benchmarks' results, printed and written into docs/alignment.md.

    python benchmarks/summary.py [--results results] [--page docs/alignment.md] [--pictures docs/pictures]

Runs no benchmark. One whose JSON file is missing or cannot be read becomes a row "not run". The table
goes between two markers in the page; the page's plots are copied beside it at reduced size.
"""

from __future__ import annotations

import argparse
import json
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from targets import errors_said, shown  # noqa: E402

from dust3r_ros.io.files import make_folder, replace_between, write_bytes  # noqa: E402

BENCHMARKS = {
    "alignment": "Complete graphs: `moments` beside `gradient`",
    "incremental": "A long run, keyframe by keyframe",
    "tracking": "Tracking between keyframes",
}
BEGIN, END = "<!-- table: begin, made by benchmarks/summary.py -->", "<!-- table: end -->"
PICTURES = {"alignment": "alignment.png", "incremental": "incremental.png"}
WIDEST = 1000  # pixels of a picture in the docs
_VERDICTS = {True: "met", False: "**missed**", None: "–"}


def read(folder: Path) -> dict[str, dict[str, Any] | None]:
    """The results of each benchmark; None where it was not run or its file cannot be used."""
    found: dict[str, dict[str, Any] | None] = {}
    for name in BENCHMARKS:
        try:
            report = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            usable = isinstance(report["targets"], list) and all(_is_row(row) for row in report["targets"])
        except (OSError, ValueError, KeyError, TypeError):
            usable, report = False, None
        found[name] = report if usable else None
    return found


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and {"name", "measured", "target", "met"} <= set(row)


def table(found: dict[str, dict[str, Any] | None]) -> str:
    """Markdown: a block of rows for every benchmark, and below them the machine."""
    lines = ["| | measured | target | | note |", "| --- | ---: | ---: | --- | --- |"]
    for name, title in BENCHMARKS.items():
        lines.append(f"| **{title}** | | | | |")
        report = found[name]
        if report is None:
            lines.append(f"| `benchmarks/{name}.py` | | | not run | |")
            continue
        for row in report["targets"]:
            cells = (row["name"], shown(row["measured"]), row["target"], _VERDICTS[row["met"]], row.get("note", ""))
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, "", _where(found)]) + "\n"


def _where(found: dict[str, dict[str, Any] | None]) -> str:
    """The machine, and its load from other programs during each benchmark."""
    about = {name: report["about"] for name, report in found.items() if report is not None and "about" in report}
    if not about:
        return "The machine is not known."
    machines = dict.fromkeys(
        f"dust3r_ros {facts['version']}, {facts['cores']} cores ({facts['machine']}), Python {facts['python']}"
        for facts in about.values()
    )
    load = [
        f"{name} {facts['others_cores']:.1f}" for name, facts in about.items() if facts.get("others_cores") is not None
    ]
    others = f" Cores used by other programs meanwhile: {', '.join(load)}." if load else ""
    return f"{'; '.join(machines)}.{others}"


def verdict(found: dict[str, dict[str, Any] | None]) -> str:
    """How many targets are met, in one line."""
    judged = [row["met"] for report in found.values() if report is not None for row in report["targets"]]
    absent = [name for name, report in found.items() if report is None]
    line = f"{judged.count(True)} of {len(judged)} targets met, {judged.count(False)} missed"
    line += f", {judged.count(None)} not judged" if None in judged else ""
    return line + (f"; not run: {', '.join(absent)}" if absent else "")


def into_page(page: Path, text: str) -> None:
    """Replace the text between the markers; raises ``OutputError`` for a page without them."""
    replace_between(page, BEGIN, END, text)


def copy_pictures(results: Path, folder: Path) -> None:
    """Copy the page's plots, at most ``WIDEST`` pixels wide and with 128 colours."""
    from PIL import Image

    for name, picture in PICTURES.items():
        if not (results / f"{name}.png").is_file():
            continue
        with Image.open(results / f"{name}.png") as image:
            plot = image.convert("RGB")
        if plot.width > WIDEST:
            plot = plot.resize((WIDEST, round(plot.height * WIDEST / plot.width)), Image.Resampling.LANCZOS)
        data = BytesIO()
        plot.quantize(128).save(data, "PNG", optimize=True)
        write_bytes(make_folder(folder) / picture, data.getvalue())


@errors_said("summary", OSError, code=2)
def main() -> int:
    """Exit code: 0 when every target is met, 1 when one is missed or not measured, 2 when nothing can be written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of the benchmarks' JSON files")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/alignment.md", help="page that holds the table")
    parser.add_argument("--pictures", type=Path, default=ROOT / "docs/pictures", help="folder of the page's pictures")
    options = parser.parse_args()
    found = read(options.results)
    text = table(found)
    print(f"{text}\n{verdict(found)}")
    into_page(options.page, text)
    copy_pictures(options.results, options.pictures)
    print(f"written: {options.page}")
    met = [row["met"] for report in found.values() if report is not None for row in report["targets"]]
    return int(None in found.values() or not all(met))


if __name__ == "__main__":
    sys.exit(main())
