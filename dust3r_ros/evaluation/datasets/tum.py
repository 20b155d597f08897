"""TUM RGB-D (Sturm et al., IROS 2012): rgb.txt, depth.txt, groundtruth.txt; depth is registered to colour.

In the same layout, BONN RGB-D Dynamic (Palazzolo et al., IROS 2019), with poses of a marker on the camera; in one made
to be compatible, ICL-NUIM (Handa et al., ICRA 2014), rendered with y up, so that K has fy < 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets.recording import Dataset, Recording, Track, View, nearest, nominal
from dust3r_ros.layouts import reading
from dust3r_ros.types import Array, Calibration

TOLERANCE_NS = 20_000_000  # of the data set's own tool, associate.py
PER_METRE = 5000.0
SIZE = (640, 480)

# fx, fy, cx, cy and k1, k2, p1, p2, k3 of the colour cameras as the data set's page lists them; the images of
# freiburg3 are already undistorted.
_FREIBURG = {
    "1": ((517.3, 516.5, 318.6, 255.3), (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)),
    "2": ((520.9, 521.0, 325.1, 249.7), (0.2312, -0.7849, -0.0033, -0.0001, 0.9172)),
    "3": ((535.4, 539.2, 320.1, 247.6), ()),
}
# As that data set's page lists them.
_BONN = Calibration(
    *SIZE,
    542.822841,
    542.576870,
    315.593520,
    237.756098,
    "plumb_bob",
    (0.039903, -0.099343, -0.000730, -0.000144, 0.0),
)
# The page's two matrices: a pose T of groundtruth.txt places points of the camera at ros^-1 T ros marker_T_c in the
# world. marker_T_c was fitted with a scale, which is left out here: see ``bonn_pose``.
_ROS = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
_MARKER = np.array(
    [
        [1.0157, 0.1828, -0.2389, 0.0113],
        [0.0009, -0.8431, -0.6413, -0.0098],
        [-0.3009, 0.6147, -0.8085, 0.0111],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


def read(path: Path) -> Iterator[Recording]:
    """Sequences: ``path`` itself or the folders in it that hold an rgb.txt."""
    for folder in reading.folders(path, "rgb.txt"):
        yield Recording(folder.name, TUM.name, listed(folder, _camera(folder)), scene=folder.name)


def listed(
    folder: Path, calibration: Calibration | None, camera_pose: Callable[[Array], Array] = lambda T: T
) -> tuple[View, ...]:
    """Views of a folder with rgb.txt, depth.txt and groundtruth.txt.

    ``camera_pose`` turns a written pose into ``w_T_c``. Depth is the nearest in time within 20 ms, the pose
    interpolated between neighbours that are each within 20 ms.
    """
    truth = Track(poses(folder / "groundtruth.txt", camera_pose))
    depths = listing(folder / "depth.txt") if (folder / "depth.txt").is_file() else []
    stamps = [stamp for stamp, _ in depths]
    K = None if calibration is None else matrix_of(calibration)
    views = []
    for stamp, file in listing(folder / "rgb.txt"):
        match = nearest(stamps, stamp, TOLERANCE_NS)
        depth = None if match is None else reading.depth_reader(depths[match][1], PER_METRE)
        name = f"{folder.name}/{file.relative_to(folder).as_posix()}"
        pose = truth.at(stamp, TOLERANCE_NS)
        views.append(View(stamp, "camera", K, pose, reading.image_reader(file), depth, calibration, name))
    return tuple(views)


def listing(path: Path) -> list[tuple[int, Path]]:
    """(stamp in ns, file) of a listing ``seconds file``, by stamp. Raises ``InputError``, also for a missing file."""
    return sorted(
        (reading.stamp(path, stamp), reading.existing(path.parent / file, f"'{path}' lists"))
        for stamp, file in reading.rows(path, 2, "seconds file")
    )


def poses(path: Path, camera_pose: Callable[[Array], Array] = lambda T: T) -> list[tuple[int, Array]]:
    """(stamp in ns, (4, 4)) of a file ``t tx ty tz qx qy qz qw``. Raises ``InputError`` naming file and line."""
    found = []
    for fields in reading.rows(path, 8, "t tx ty tz qx qy qz qw"):
        numbers = reading.floats(path, fields[1:])
        pose = reading.quaternion_pose(path, numbers[:3], numbers[3:])
        found.append((reading.stamp(path, fields[0]), camera_pose(pose)))
    if not found:
        raise InputError(f"'{path}' holds no pose")
    return found


def matrix_of(calibration: Calibration) -> Array:
    """K (3, 3) of a calibration."""
    return np.array([[calibration.fx, 0, calibration.cx], [0, calibration.fy, calibration.cy], [0, 0, 1.0]])


def _camera(folder: Path) -> Calibration | None:
    found = re.search(r"(?:freiburg|fr)([123])", folder.resolve().name)
    if found is None:
        return None  # a renamed folder: the camera is unknown
    pinhole, lens = _FREIBURG[found.group(1)]
    return Calibration(*SIZE, *pinhole, "plumb_bob", lens)


def bonn_pose(T: Array) -> Array:
    """``w_T_c`` of a pose of groundtruth.txt, in the motion capture's unit of length.

    By the page's matrix, lengths in the depth images are 1.059 times too short in comparison.
    """
    marker_T_c = _MARKER.copy()
    U, _, Vt = np.linalg.svd(_MARKER[:3, :3])
    marker_T_c[:3, :3] = U @ Vt
    return _ROS.T @ T @ _ROS @ marker_T_c


def read_bonn(path: Path) -> Iterator[Recording]:
    """Sequences of BONN, found as those of TUM."""
    for folder in reading.folders(path, "rgb.txt"):
        yield Recording(folder.name, BONN.name, listed(folder, _BONN, bonn_pose), scene=folder.name)


TUM = Dataset(
    name="tum",
    title="TUM RGB-D",
    source="Technical University of Munich, https://cvg.cit.tum.de/data/datasets/rgbd-dataset/download",
    fetch="the sequences' .tgz, unpacked",
    licence="CC BY 4.0",
    layout="""
PATH/rgbd_dataset_freiburg1_desk/
  rgb.txt  rgb/*.png
  depth.txt  depth/*.png
  groundtruth.txt
""",
    notes=(
        "K and lens follow from freiburg1, 2 or 3 in the folder's name; without it K is unknown. Depth: 5000 per\n"
        "metre."
    ),
    read=read,
)

BONN = Dataset(
    name="bonn",
    title="BONN RGB-D Dynamic",
    source="University of Bonn, https://www.ipb.uni-bonn.de/data/rgbd-dynamic-dataset/",
    fetch="the sequences' .zip, unpacked",
    licence="none stated (research; cite the paper)",
    layout="""
PATH/rgbd_bonn_balloon/
  rgb.txt  rgb/*.png
  depth.txt  depth/*.png
  groundtruth.txt
""",
    notes=(
        "Depth: 5000 per metre. The file has the poses of a marker, which the two matrices on the set's page convert\n"
        "to the camera's. The scales of poses and depth differ by a factor of 1.059, as given on that page; neither\n"
        "is changed."
    ),
    read=read_bonn,
)


# ICL-NUIM's page has fy = -480: its cameras have y up and its world is left-handed. Both are flipped in y here: the
# images stay the same, the world becomes right-handed and the camera an optical frame with fy = 480.
ICL_K = reading.intrinsics(481.20, 480.00, 319.50, 239.50)
_ICL_MIRROR = np.diag([1.0, -1.0, 1.0, 1.0])


def read_icl(path: Path) -> Iterator[Recording]:
    """Sequences: ``path`` itself or the folders in it that hold an associations.txt."""
    for folder in reading.folders(path, "associations.txt"):
        yield Recording(folder.name, ICL_NUIM.name, _icl_views(folder), scene=folder.name)


def _icl_views(folder: Path) -> tuple[View, ...]:
    poses = _icl_poses(folder)
    views = []
    path = folder / "associations.txt"
    for depth_number, depth, number, image in reading.rows(path, 4, "number depth-file number image-file"):
        if depth_number != number:
            raise InputError(f"'{path}' pairs depth {depth_number!r} with image {number!r}; the numbers must be equal")
        index = reading.whole(path, number)
        views.append(
            View(
                nominal(index),
                "camera",
                ICL_K,
                poses.get(index),
                reading.image_reader(folder / image),
                reading.depth_reader(folder / depth, PER_METRE),
                name=f"{folder.name}/{image}",
            )
        )
    return tuple(views)


def _icl_poses(folder: Path) -> dict[int, Array]:
    files = sorted(folder.glob("*.gt.freiburg"))
    if len(files) != 1:
        raise InputError(f"'{folder}' holds {len(files)} files *.gt.freiburg; it must hold one, that of its trajectory")
    poses = {}
    for fields in reading.rows(files[0], 8, "number tx ty tz qx qy qz qw"):
        numbers = reading.floats(files[0], fields[1:])
        pose = reading.quaternion_pose(files[0], numbers[:3], numbers[3:])
        poses[reading.whole(files[0], fields[0])] = _ICL_MIRROR @ pose @ _ICL_MIRROR
    return poses


ICL_NUIM = Dataset(
    name="icl-nuim",
    title="ICL-NUIM",
    source="Imperial College London, https://www.doc.ic.ac.uk/~ahanda/VaFRIC/iclnuim.html",
    fetch="the TUM-compatible PNGs (*_frei_png.tar.gz), and beside them the trajectory's *.gt.freiburg",
    licence="CC BY 3.0",
    layout="""
PATH/living_room_traj0_frei_png/
  associations.txt
  livingRoom0.gt.freiburg
  rgb/0.png ...
  depth/0.png ...
""",
    notes=(
        "Stamps are nominal (30 Hz). The files' left-handed world is mirrored in y, so that fy is +480. An image\n"
        "without a line in the *.gt.freiburg has no pose. Depth: 5000 per metre."
    ),
    read=read_icl,
)
