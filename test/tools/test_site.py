"""The docs as a site: every page is in it, links lead to pages or to the repository."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from scripts import script

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    return script(ROOT / "tools" / "site_pages.py", "site_pages")


def _leaves(tree: Any) -> list[str]:
    if isinstance(tree, str):
        return [tree]
    return [leaf for part in (tree.values() if isinstance(tree, dict) else tree) for leaf in _leaves(part)]


def test_every_page_is_in_the_navigation_once(config: dict[str, Any], hooks: ModuleType) -> None:
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")} | set(hooks.PAGES)
    named = _leaves(config["nav"])
    assert sorted(named) == sorted(pages)
    assert all((ROOT / source).is_file() for source in hooks.PAGES.values())


@pytest.mark.parametrize(
    "page, link, expected",
    [
        ("index.md", "docs/live.md#where", "live.md#where"),
        ("index.md", "LICENSE", "REPO/blob/main/LICENSE"),
        ("index.md", "CHANGELOG.md", "changelog.md"),
        ("my-bag.md", "pictures/demo.png", "pictures/demo.png"),
        ("my-bag.md", "../README.md", "index.md"),
        ("parameters.md", "../config/dust3r.yaml", "REPO/blob/main/config/dust3r.yaml"),
        ("how-it-works.md", "../test", "REPO/tree/main/test"),
        ("my-bag.md", "#options", "#options"),
        ("my-bag.md", "https://arxiv.org/abs/1", "https://arxiv.org/abs/1"),
    ],
)
def test_links_are_those_of_the_site(hooks: ModuleType, page: str, link: str, expected: str) -> None:
    made = hooks.on_page_markdown(
        f"see [x]({link})", SimpleNamespace(file=SimpleNamespace(src_uri=page)), {"repo_url": "REPO"}, None
    )
    assert made == f"see [x]({expected})"
