"""The parameters of the mapper."""

from __future__ import annotations

from dataclasses import dataclass

from dust3r_ros.config.rows import Checked, row


@dataclass(frozen=True)
class MapperConfig(Checked):
    """Parameters of the mapper, the same live and offline."""

    backend: str = row(
        "two_view",
        "Predicts pointmaps from image pairs: two_view by geometry, without weights; dust3r by the network; both "
        "by geometry, with the network's depth where geometry knows less; mono the same with a network for single "
        "images.",
        choices=("two_view", "dust3r", "both", "mono"),
    )
    checkpoint: str = row(
        "",
        "Weights for the backends dust3r and both: the name of shipped weights, a .pth file, or a folder with "
        "config.json and model.safetensors. For mono: the .onnx file of MoGe-2 or Depth Anything V2.",
        path=True,
    )
    device: str = row(
        "auto", "Device that runs the network; auto uses CUDA if available.", choices=("auto", "cpu", "cuda")
    )
    precision: str = row(
        "auto",
        "Number format of the network's matrix products; auto: bfloat16 where the device multiplies it faster, which "
        "changes points by a few tenths of a percent, else float32.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    compile_network: bool = row(
        False, "Compile the network on a GPU: faster, after up to a minute at its first image; later starts reuse it."
    )
    mode: str = row(
        "mapping",
        "mapping: the map grows; localization: the map is left unchanged, and cameras are only localized in it.",
        choices=("mapping", "localization"),
        live=True,
    )
    seed: int = row(0, "Seed of all random choices.", low=0, high=2**31 - 1)
    working_size: int = row(
        0,
        "Long edge, in pixels, of the images that pointmaps are computed for, 64 or more; 0: with the backend dust3r "
        "that of the images its weights were trained on, otherwise 320.",
        low=0,
        high=1024,
    )
    tracking_size: int = row(
        640,
        "Long edge, in pixels, of the images that corners are tracked in; images of at most half that are doubled.",
        low=64,
        high=2048,
    )
    focal: float = row(
        0.0,
        "Known focal length in pixels at native resolution, which is held; the lens is estimated. 0: estimate both.",
        low=0.0,
        high=1e5,
    )
    calibration: str = row(
        "fixed",
        "What to do with a CameraInfo that has K[0] > 0: keep it (fixed), refine it (prior), or only compare it "
        "with the estimate (ignore).",
        choices=("fixed", "prior", "ignore"),
    )
    calibration_std: float = row(
        0.02, "Relative standard deviation assumed for the focal length of a CameraInfo.", low=1e-4, high=0.5
    )
    keyframe_motion: float = row(
        0.045,
        "Median image motion since the last keyframe that triggers a new one, as a fraction of the long edge.",
        low=0.005,
        high=0.5,
    )
    keyframe_motion_young: float = row(
        0.01,
        "keyframe_motion while the map has fewer than 18 keyframes; smaller steps calibrate sooner.",
        low=0.005,
        high=0.5,
    )
    keyframe_overlap: float = row(
        0.7,
        "A new keyframe is made when less than this fraction of the last one's corners is still tracked.",
        low=0.1,
        high=0.99,
    )
    track_corners: int = row(500, "Corners tracked per keyframe.", low=50, high=5000)
    track_min_inliers: int = row(
        8, "The camera counts as lost when fewer corners than this agree on a pose.", low=6, high=500
    )
    lost_patience_s: float = row(
        5.0,
        "Seconds after which a lost camera starts a new map; an old map of 19 keyframes or more is kept and joined "
        "when it is seen again. Offline: at most three images, and every old map is kept.",
        low=0.0,
        high=1e6,
    )
    pair_neighbours: int = row(3, "Number of preceding keyframes that each keyframe is paired with.", low=1, high=20)
    pair_lookalikes: int = row(
        2, "Maximum number of older, similar-looking keyframes that each keyframe is paired with.", low=0, high=20
    )
    lookalike_score: float = row(
        0.75,
        "Minimum similarity of such a look-alike keyframe, relative to that of neighbouring keyframes.",
        low=0.0,
        high=1.0,
    )
    min_parallax_deg: float = row(
        1.0, "Pairs whose rays meet at less than this angle, in degrees, give no depth.", low=0.05, high=20.0
    )
    dense: bool = row(
        True, "Compute depth for keyframes; false maps poses, calibration and landmarks only (backend two_view)."
    )
    depth_at_end: bool = row(
        True,
        "Compute depth once, at the end, with previews until then; false takes twice as long. Nodes never wait for it.",
    )
    depth_pairs: int = row(
        2,
        "Pairs used for the depth of each new keyframe, the most promising of the window (not dust3r).",
        low=1,
        high=20,
    )
    window: int = row(8, "Number of keyframes refined together when one is added.", low=2, high=100)
    memory_mb: float = row(
        512.0,
        "Memory for images, features and depth of keyframes, in MiB; what does not fit goes to a temporary file in "
        "$TMPDIR or /var/tmp.",
        low=0.0,
        high=1e6,
    )
    fusion: bool = row(
        False, "Remove points that other keyframes see through or contradict, and thin the exported cloud."
    )
    moving_objects: bool = row(True, "Exclude whatever moves, or was taken away, from poses and cloud (not dust3r).")
    min_confidence: float = row(
        1.5, "Minimum confidence of points in the map cloud; 1 means nothing is known.", low=1.0, high=1e3, live=True
    )

    @property
    def long_edge(self) -> int:
        """``working_size``, or 320 where that is left to the weights."""
        return self.working_size or 320
