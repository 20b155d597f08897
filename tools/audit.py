"""Looks the installed packages up among known vulnerabilities, by pip-audit; part of make lint.

    python tools/audit.py

Exit code 1 where a package has a known vulnerability that a newer version mends. Where pip-audit is not installed, or
its service does not answer in time, one line says so and the exit code is 0.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

LIMIT_S = 60.0  # for everything
_ANSWER_S = 5  # for one answer of the service


def main() -> int:
    """Exit code as above."""
    if importlib.util.find_spec("pip_audit") is None:
        print("audit: skipped, pip-audit is not installed (pip install pip-audit)")
        return 0
    found = known_vulnerabilities([sys.executable, "-m", "pip_audit"])
    if found is None:
        print("audit: skipped, the service that pip-audit asks does not answer")
        return 0
    mended = [line for line, fixed in found if fixed]
    for line, _ in found:
        print(f"audit: {line}")
    print(f"audit: {len(found)} known vulnerabilities, {len(mended)} of them mended by a newer version")
    return int(bool(mended))


def known_vulnerabilities(program: list[str], limit_s: float = LIMIT_S) -> list[tuple[str, bool]] | None:
    """A line for each, and whether a newer version mends it; None if ``program`` gets no answer within ``limit_s``."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "audit.json"
        options = ["--local", "--skip-editable", "--progress-spinner", "off", "--timeout", str(_ANSWER_S)]
        try:
            subprocess.run(
                [*program, *options, "--format", "json", "--output", str(out)],
                capture_output=True,
                timeout=limit_s,
                check=False,
            )
            packages = json.loads(out.read_text(encoding="utf-8"))["dependencies"]
        except (OSError, subprocess.TimeoutExpired, ValueError, KeyError):
            return None  # pip-audit writes the file last
    return [_line(package, known) for package in packages for known in package.get("vulns", ())]


def _line(package: dict[str, Any], known: dict[str, Any]) -> tuple[str, bool]:
    fixed = known.get("fix_versions") or []
    advice = f"mended in {', '.join(fixed)}" if fixed else "no version mends it yet"
    return f"{package['name']} {package['version']} has {known['id']}: {advice}", bool(fixed)


if __name__ == "__main__":
    sys.exit(main())
