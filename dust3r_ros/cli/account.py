"""What a run of dust3r-map says in the end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dust3r_ros.io.frames import FrameSource
    from dust3r_ros.session.replay import Replay
    from dust3r_ros.session.session import Session


def unusable(name: str, replay: Replay, items: Any, skipped: int) -> str:
    """Why nothing of the input ``name`` was mapped."""
    reason = replay.reason or getattr(items, "reason", "")
    if reason:
        return f"no frame of '{name}' can be used: {reason}"
    return f"no frame of '{name}' can be read ({skipped} unreadable); --debug names them"


def shortfalls(replay: Replay, items: Any, source: FrameSource, session: Session) -> list[str]:
    """What of the input is not in the map, and what could not be written, a sentence each."""
    missing = getattr(items, "missing", 0)
    counted = (
        (source.skipped, "could not be read (--debug names them)"),
        (replay.refused, f"could not be used ({replay.reason})"),
        (source.incomplete, f"lacked something that the bag should tell ({source.lacking})"),
        (missing, f"of the manifest could not be found, so the map is another ({getattr(items, 'reason', '')})"),
    )
    told = [f"{count} frame{'s' * (count > 1)} {why}" for count, why in counted if count]
    if replay.undone:
        told.append(f"{replay.undone} of the manifest's events cannot be, so the map is another ({replay.reason})")
    return [*told, *session.keeper.problems]


def say(quiet: bool, words: str) -> None:
    """A line on stdout."""
    if not quiet:
        print(words, flush=True)


def warn(command: str, words: str) -> None:
    """A line on stderr."""
    print(f"{command}: warning: {words}", file=sys.stderr)


def report(quiet: bool, directory: Path, summary: dict[str, Any]) -> None:
    """A short account of a map that was made."""
    rate = summary["frames_per_second"]
    say(
        quiet,
        f"{summary['frames']} frames, {summary['tracked']} tracked; {summary['keyframes']} keyframes, "
        f"{summary['pairs']} pairs, {summary['points']:,} points in {summary['seconds']:.1f} s ({rate:.1f} frames/s)",
    )
    for name, camera in summary["cameras"].items():
        how = "given" if camera["fixed"] else f"estimated from {camera['support']} pairs"
        size = f"{camera['width']} x {camera['height']}"
        say(quiet, f"{name}: focal length {camera['focal']:.1f} px at {size}, {how}")
    say(quiet, f"picture: {directory / 'preview.png'}   report: {directory / 'report.html'}")
