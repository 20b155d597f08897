"""What summary.json holds of a run, for tests of the report."""

from __future__ import annotations

from typing import Any


def summary(**changes: Any) -> dict[str, Any]:
    """A run with two cameras, with ``changes``."""
    values = {
        "source": "kitchen.mcap",
        "frames": 1234,
        "tracked": 1200,
        "lost": 7,
        "keyframes": 33,
        "pairs": 99,
        "points": 456789,
        "focal": {"camera": 523.25},
        "cameras": {
            "camera": {
                "width": 640, "height": 480, "focal": 523.25, "focal_std": 1.5, "support": 42, "fixed": False,
                "principal_point": [321.25, 240.0], "distortion_model": "plumb_bob",
                "distortion": [0.0512, -0.003, 0.0, 0.0, 0.0], "readout": [0.0, 0.0305],
            },
            "rear": {
                "width": 64, "height": 48, "focal": 50.0, "focal_std": None, "support": 0, "fixed": True,
                "principal_point": [31.5, 23.5], "distortion_model": "plumb_bob", "distortion": [],
                "readout": [0.0, 0.0],
            },
        },
        "seconds": 12.34,
        "frames_per_second": 100.0,
        "stages": {
            "track": {"count": 1234, "p50_ms": 2.0, "p95_ms": 5.0, "max_ms": 9.0},
            "align": {"count": 33, "p50_ms": 10.0, "p95_ms": 20.0, "max_ms": 31.5},
        },
        "peak_memory_mb": 345.6,
        "scale": {"metres_per_unit": 1.0, "relative_std": 0.004},
        "version": "0.1.0",
        "seed": 0,
        "configuration": {"backend": "two_view", "working_size": 320},
    }  # fmt: skip
    return {**values, **changes}
