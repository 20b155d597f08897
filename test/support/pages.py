"""README and docs as text, for tests of what they say."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from dust3r_ros.config import MapperConfig, NodeConfig, rows

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
ROWS = {row.name: row for row in (*rows(MapperConfig), *rows(NodeConfig))}
OUTSIDE = {
    "localhost", "github.com", "arxiv.org", "creativecommons.org", "docs.ros.org", "ros.org", "www.apache.org",
    "ui.perfetto.dev",
    # Who gives out data sets.
    "cs.nyu.edu", "cvg.cit.tum.de", "google.github.io", "kaldir.vc.in.tum.de", "lmb.informatik.uni-freiburg.de",
    "projects.asl.ethz.ch", "roboimagedata.compute.dtu.dk", "waymo.com", "www.cs.cornell.edu", "www.cvlibs.net",
    "www.doc.ic.ac.uk", "www.ipb.uni-bonn.de", "www.microsoft.com", "www.repository.cam.ac.uk", "www.scan-net.org",
}  # fmt: skip
CODE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def commands(program: str) -> Iterator[tuple[str, list[str]]]:
    """(page, words) of every call of ``program`` in blocks and in lines of code."""
    for name in NAMES:
        text = text_of(name)
        blocks = [line for language, block in CODE.findall(text) if language == "bash" for line in block.splitlines()]
        inline = re.findall(r"`([^`\n]+)`", CODE.sub("", text))
        for line in (*blocks, *inline):
            words = shlex.split(line)
            if len(words) > 1 and words[0].removeprefix(".venv/bin/") == program:
                yield name, words[1:]
