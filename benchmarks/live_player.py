"""Plays a bag's images over DDS as a camera's driver would, in its own process: the package's player, with a clock.

    python benchmarks/live_player.py BAG [--log FILE] [--rate 1] [--passes 1] [--reliability reliable]

Messages are sent as they are in the bag, but with current stamps.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dust3r_ros.node.tools.player import main

if __name__ == "__main__":
    sys.exit(main(clock=time.time_ns))
