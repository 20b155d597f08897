"""What is counted of the house, on a small one and on ours."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType

import pytest

from scripts import script

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return script(ROOT / "tools" / "house.py", "house_tool")


@pytest.mark.parametrize(
    ("body", "ways"),
    [
        ("pass", 1),
        ("if a and b or c:\n  pass\n elif d:\n  pass", 5),
        ("try:\n  pass\n except ValueError:\n  assert a", 3),
        ("while a: b = [c for c in d if e if f]", 5),
        ("def inner():\n  if a: pass\n return inner if b else None", 2),
    ],
)
def test_ways_through_a_function(tool: ModuleType, body: str, ways: int) -> None:
    (function,) = ast.parse(f"def f():\n {body}\n").body
    assert tool.complexity(function) == ways


def test_a_small_house(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "rooms").mkdir()
    (tmp_path / "rooms/__init__.py").write_text("")
    (tmp_path / "rooms/attic.py").write_text("def long():\n" + "    pass\n" * 41)
    methods = "".join(f"    def m{k}(self): ...\n" for k in range(21))
    (tmp_path / "cellar.py").write_text(f"class Large:\n{methods}\n" + "_X, Y = 1, 2\n" + "\n" * 38 + "_X = 3\n")
    modules, small, functions, branching, large, twice = (figure.found for figure in tool.figures(tmp_path))
    assert [place for _, place in modules] == ["cellar.py", "rooms/__init__.py", "rooms/attic.py"]
    assert small == [(42, "rooms/attic.py")] and functions == [(42, "rooms/attic.py long")]
    assert branching == [] and large == [(21, "cellar.py Large")]
    assert twice == [(2, "cellar.py _X")]


def test_our_house_is_in_order(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main([]) == 0, capsys.readouterr().out
