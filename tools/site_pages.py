"""Hooks of mkdocs.yml: README, CONTRIBUTING and CHANGELOG become pages; links out of docs/ lead to the repository."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Pages outside docs/, by their names on the site.
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
_LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages from outside docs/."""
    from mkdocs.structure.files import File

    for name, source in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Rewrites links for the site."""
    source = page.file.src_uri
    folder = posixpath.dirname(PAGES.get(source) or f"docs/{source}")
    depth = posixpath.dirname(source)

    def led(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[2]))
        anchor = match[3] or ""
        name = next((name for name, path in PAGES.items() if path == target), None)
        if name is None and target.startswith("docs/") and (ROOT / target).is_file():
            name = target.removeprefix("docs/")
        if name is None:
            kind = "tree" if (ROOT / target).is_dir() else "blob"
            return f"{match[1]}{config['repo_url']}/{kind}/main/{target}{anchor}{match[4]}"
        return f"{match[1]}{posixpath.relpath(name, depth or '.')}{anchor}{match[4]}"

    return _LINK.sub(led, markdown)
