"""tools/audit.py: what pip-audit finds is said; where it cannot look, lint goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from scripts import script

TOOL = Path(__file__).resolve().parents[2] / "tools/audit.py"
MENDED = {"id": "PYSEC-1", "fix_versions": ["2.0"]}
OPEN = {"id": "PYSEC-2", "fix_versions": []}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return script(TOOL, "audit_tool")


def stand_in(folder: Path, *vulns: object, before: str = "") -> list[str]:
    """A program that answers as pip-audit does, after ``before``."""
    answer = json.dumps(
        {"dependencies": [{"name": "a", "skip_reason": "local"}, {"name": "b", "version": "1.0", "vulns": vulns}]}
    )
    path = folder / "stand_in.py"
    path.write_text(
        f"import sys, time\n{before}\nopen(sys.argv[sys.argv.index('--output') + 1], 'w').write({answer!r})\n"
        f"sys.exit({int(bool(vulns))})\n"
    )
    return [sys.executable, str(path)]


def test_what_is_known_is_said(tool: ModuleType, tmp_path: Path) -> None:
    assert tool.known_vulnerabilities(stand_in(tmp_path)) == []
    found = tool.known_vulnerabilities(stand_in(tmp_path, MENDED, OPEN))
    assert found == [
        ("b 1.0 has PYSEC-1: mended in 2.0", True),
        ("b 1.0 has PYSEC-2: no version mends it yet", False),
    ]


@pytest.mark.parametrize("before", ["sys.exit('no connection')", "time.sleep(30)"])
def test_without_an_answer_there_is_none(before: str, tool: ModuleType, tmp_path: Path) -> None:
    assert tool.known_vulnerabilities(stand_in(tmp_path, MENDED, before=before), limit_s=1.0) is None


@pytest.mark.parametrize(
    ("found", "code", "text"),
    [
        (None, 0, "skipped, the service"),
        ([], 0, "0 known"),
        ([("x", False)], 0, "1 known vulnerabilities, 0 of them"),
        ([("x", True)], 1, "audit: x"),
    ],
)
def test_only_what_can_be_mended_fails(
    found: object,
    code: int,
    text: str,
    tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tool.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(tool, "known_vulnerabilities", lambda program: found)
    assert tool.main() == code
    assert text in capsys.readouterr().out
    monkeypatch.setattr(tool.importlib.util, "find_spec", lambda name: None)
    assert tool.main() == 0
    assert "not installed" in capsys.readouterr().out
