"""The changelog in the form that ROS's release tools read."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from scripts import script

changelog = pytest.importorskip("catkin_pkg.changelog", reason="needs catkin_pkg")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return script(ROOT / "tools" / "changelog.py", "changelog_tool")


SAMPLE = """# Changelog

About it.

## [1.1.0] - unreleased

### Added

- A thing with `code_` in it, on
  two lines ([page](docs/page.md)).

## [1.0.0] - 2026-11-22

### Changed

- Another, as [REP 132](https://ros.org/reps/rep-0132.html) has it.
"""


def test_versions_and_their_changes_are_found(tool: ModuleType) -> None:
    dated = tool.restructured(SAMPLE.replace("unreleased", "2027-01-31"))
    found = changelog.populate_changelog_from_rst(changelog.Changelog("dust3r_ros"), dated)
    versions = {
        version: (date.date().isoformat(), "\n".join(item.as_txt() for item in content))
        for version, date, content in found.foreach_version()
    }
    assert {version: date for version, (date, _) in versions.items()} == {"1.0.0": "2026-11-22", "1.1.0": "2027-01-31"}
    (_, new), (_, old) = versions["1.1.0"], versions["1.0.0"]
    assert "Added" in new and "code_" in new and "two lines" in new and "page.md" not in new
    assert "Changed" in old and "REP 132" in old


def test_what_is_unreleased_is_forthcoming(tool: ModuleType) -> None:
    """catkin_prepare_release puts version and date in its place."""
    from catkin_pkg.package_version import get_forthcoming_label

    assert get_forthcoming_label(tool.restructured(SAMPLE)) == "Forthcoming"


def test_ours_is_read_without_a_complaint(tool: ModuleType) -> None:
    docutils = pytest.importorskip("docutils.core", reason="needs docutils")
    markdown = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    rst = tool.restructured(markdown)
    docutils.publish_doctree(rst, settings_overrides={"halt_level": 2, "report_level": 5})
    assert sum(line.startswith("  * ") for line in rst.splitlines()) == sum(
        line.startswith("- ") for line in markdown.splitlines()
    )


def test_a_version_of_another_form_is_named(tool: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"'## 1\.0' must be"):
        tool.restructured("# Changelog\n\n## 1.0\n")
