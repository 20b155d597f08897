"""Writes CHANGELOG.rst, which catkin_prepare_release and bloom read, from CHANGELOG.md: python tools/changelog.py.

Part of a release, before its tag. Format: REP 132.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_TITLE = "Changelog for package dust3r_ros"
_VERSION = re.compile(r"## \[(\d+\.\d+\.\d+)\] - (\S+)")


def restructured(markdown: str) -> str:
    """Convert a changelog from Keep a Changelog's format to REP 132's; a version without a date is Forthcoming.

    Raises ``ValueError`` for a version heading of another form.
    """
    lines = ["^" * len(_TITLE), _TITLE, "^" * len(_TITLE)]
    inside = False
    for line in _inline(markdown).splitlines():
        if line.startswith("## "):
            found = _VERSION.match(line)
            if found is None:
                raise ValueError(f"'{line}' must be '## [1.2.3] - 2030-12-31' or '## [1.2.3] - unreleased'")
            title = "Forthcoming" if found[2] == "unreleased" else f"{found[1]} ({found[2]})"
            lines += ["", title, "-" * len(title)]
            inside = True
        elif line.startswith("### "):
            lines += ["", f"* {line[4:]}", ""]
        elif inside and line.strip():
            lines.append(f"  * {line[2:]}" if line.startswith("- ") else f"  {line}")
    return "\n".join(lines) + "\n"


def _inline(text: str) -> str:
    """Code and links; a link into the repository would be dead in a package, so it becomes plain text."""
    text = re.sub(r"`([^`]+)`", r"``\1``", text)
    return re.sub(r"\[([^\]]+)\]\(([^)]+)\)", lambda m: f"`{m[1]} <{m[2]}>`__" if "://" in m[2] else m[1], text)


def main() -> None:
    """Writes the file beside CHANGELOG.md."""
    text = restructured((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    (ROOT / "CHANGELOG.rst").write_text(text, encoding="utf-8")
    print("written: CHANGELOG.rst")


if __name__ == "__main__":
    main()
