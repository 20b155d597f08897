"""The parameters of the mapper."""

from __future__ import annotations

from dataclasses import dataclass

from dust3r_ros.config.rows import row


@dataclass(frozen=True)
class MapperConfig:
    """Parameters of the mapper, the same live and offline."""

    backend: str = row(
        "two_view",
        "What turns image pairs into pointmaps: two_view needs no weights, dust3r runs the network, both is two_view"
        " with the network's depth where geometry knows less.",
        choices=("two_view", "dust3r", "both"),
    )
    checkpoint: str = row(
        "",
        "Weights of the backends dust3r and both: the name of shipped ones, a .pth file, or a folder with config.json"
        " and model.safetensors.",
        path=True,
    )
    device: str = row(
        "auto", "Where the network runs; auto takes CUDA when there is one.", choices=("auto", "cpu", "cuda")
    )
    precision: str = row(
        "float32",
        "Numbers in which the network computes; the shorter ones are faster on GPUs, bfloat16 also on processors that"
        " multiply it, and points differ by about a percent.",
        choices=("float32", "bfloat16", "float16"),
    )
    mode: str = row(
        "mapping",
        "mapping: the map grows; localization: it stays as it is, and cameras are found in it.",
        choices=("mapping", "localization"),
        live=True,
    )
    seed: int = row(0, "Seed of every random choice.", low=0, high=2**31 - 1)
    working_size: int = row(320, "Long edge in pixels of the images that become pointmaps.", low=64, high=1024)
    tracking_size: int = row(640, "Long edge in pixels of the images in which corners are tracked.", low=64, high=2048)
    focal: float = row(0.0, "Known focal length in pixels at native resolution; 0 estimates it.", low=0.0, high=1e5)
    calibration: str = row(
        "fixed",
        "A CameraInfo with K[0] > 0 is held (fixed), refined (prior), or only compared with the estimate (ignore).",
        choices=("fixed", "prior", "ignore"),
    )
    calibration_std: float = row(
        0.02, "Relative standard deviation of the focal length of a CameraInfo.", low=1e-4, high=0.5
    )
    keyframe_motion: float = row(
        0.045,
        "Median motion since the last keyframe, as a part of the long edge, that makes a keyframe.",
        low=0.005,
        high=0.5,
    )
    keyframe_motion_young: float = row(
        0.01, "The same while the map has fewer than 18 keyframes: calibration is sure sooner.", low=0.005, high=0.5
    )
    keyframe_overlap: float = row(
        0.7, "A keyframe is made when less than this part of the corners is still tracked.", low=0.1, high=0.99
    )
    track_corners: int = row(500, "Corners kept per keyframe.", low=50, high=5000)
    track_min_inliers: int = row(
        8, "Fewer corners than this that agree on a pose: the camera is lost.", low=6, high=500
    )
    lost_patience_s: float = row(
        5.0,
        "A camera lost for so many seconds begins a new map; an old one of 19 keyframes waits to be seen again.",
        low=0.0,
        high=1e6,
    )
    pair_neighbours: int = row(3, "A keyframe is paired with this many before it.", low=1, high=20)
    pair_lookalikes: int = row(2, "And with at most this many older ones that look alike.", low=0, high=20)
    lookalike_score: float = row(
        0.75, "How alike an older keyframe must look, as a part of how alike neighbours look.", low=0.0, high=1.0
    )
    min_parallax_deg: float = row(
        1.0, "Pairs whose rays meet at less than this angle give no depth.", low=0.05, high=20.0
    )
    dense: bool = row(True, "Depth for keyframes; false maps poses, calibration and landmarks only (backend two_view).")
    depth_pairs: int = row(
        2,
        "Pairs of a new keyframe that give depth: with those of the window that promise most (not dust3r).",
        low=1,
        high=20,
    )
    window: int = row(8, "Keyframes whose poses are refined together when one is added.", low=2, high=100)
    fusion: bool = row(
        False, "Take out of the clouds what other keyframes see through or contradict; the written one is thinned too."
    )
    moving_objects: bool = row(True, "Leave what moves, or was taken away, out of poses and cloud (not dust3r).")
    min_confidence: float = row(
        1.5, "Points of lower confidence stay out of the map cloud (1 = nothing known).", low=1.0, high=1e3, live=True
    )
