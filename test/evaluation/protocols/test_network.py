"""The network in the place of the backend: every runner of pairs gives its row, also from weights that know nothing."""

from __future__ import annotations

import json

import pytest
from recorded import recorded, split

torch = pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.backends.dust3r import Dust3rBackend  # noqa: E402
from dust3r_ros.evaluation.protocols.cost import run_speed  # noqa: E402
from dust3r_ros.evaluation.protocols.depth import run_monocular_depth, run_multi_view_depth  # noqa: E402
from dust3r_ros.evaluation.protocols.localisation import run_localisation  # noqa: E402
from dust3r_ros.evaluation.protocols.reconstruction import run_reconstruction  # noqa: E402
from dust3r_ros.evaluation.protocols.relative_pose import run_relative_pose  # noqa: E402
from dust3r_ros.network import Dust3r, Dust3rConfig  # noqa: E402
from dust3r_ros.scenes.sequence import render_sequence  # noqa: E402

CONFIG = Dust3rConfig(
    head_type="linear", enc_embed_dim=32, enc_depth=2, enc_num_heads=2, dec_embed_dim=24, dec_depth=2, dec_num_heads=2
)


def test_an_untrained_network_gets_rows_and_no_praise() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    backend = Dust3rBackend(Dust3r(CONFIG).eval(), "cpu")
    recording = recorded(render_sequence("orbit", 5, 96, 64, laps=0.2, supersample=1))
    rows = [
        *run_monocular_depth([recording], backend, every=3, size=96),
        *run_multi_view_depth([recording], backend, sources=2, step=1, size=96),
        *run_multi_view_depth([recording], backend, sources=2, step=1, size=96, known_poses=True),
        *run_relative_pose([recording], backend, method="pnp", views=3, size=96),
        *run_relative_pose([recording], backend, method="alignment", views=3, size=96),
        *run_localisation([split(recording, 3)], backend, retrieved=2, size=96),
        *run_localisation([split(recording, 3)], backend, by="pointmaps", retrieved=2, size=96),
        *run_reconstruction([recording], backend, views=3, size=96),
        *run_speed([recording], backend, pairs=4, size=96),
    ]
    assert [row["system"] for row in rows] == ["dust3r"] * 9
    json.dumps(rows, allow_nan=False)
    poses = [row for row in rows if row["protocol"].startswith("multiview_pose")]
    assert len(poses) == 2 and all(row["pairs"] == 3 and row["maa_30"] < 60 for row in poses)
    places = [row for row in rows if row["protocol"].startswith("localisation")]
    assert all(row["queries"] == 2 and row["recall_5cm_5deg"] == 0 for row in places)
    assert rows[-1]["pairs_per_second"] > 0
