"""Corners without what they drifted by. Images without a pose are kept, and found from those beside them."""

from __future__ import annotations

import numpy as np

from dust3r_ros.config import MapperConfig
from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.mapping.camera_stream import CameraStream
from dust3r_ros.mapping.frames import CameraFrame, Drift, LostImages, TrackedImage, without_drift
from dust3r_ros.tracking import Tracks

IDS = np.array([3, 5, 9])


def drift(stamp_ns: int, x: float) -> Drift:
    """Corner 3 is off by so much, of 5 nobody knows, 9 is another spot; 7 is not asked for."""
    return Drift(stamp_ns, np.array([9, 7, 5, 3]), np.array([[50.0, 0.0], [9.0, 9.0], [np.nan, np.nan], [x, -x]]))


def corrected(stamp_ns: int, anchored_ns: int) -> float:
    """By how much corner 3 is moved between keyframes of 100 and 200 in which it is off by 1 and 2."""
    pixels = np.array([[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]])
    tracks = without_drift(TrackedImage(stamp_ns, Tracks(IDS, pixels), anchored_ns), [drift(100, 1.0), drift(200, 2.0)])
    moved = tracks.pixels - pixels
    assert np.array_equal(tracks.ids, IDS) and not moved[1:].any() and moved[0, 0] == -moved[0, 1]
    return float(moved[0, 0])


def test_corners_are_off_as_in_the_last_keyframe_till_they_are_refreshed() -> None:
    assert corrected(150, 50) == corrected(250, 99) + 1.0 == -1.0
    assert corrected(150, 100) == -1.0, "half of what it will be off by in the next keyframe"
    assert corrected(125, 100) == -0.5
    assert corrected(175, 150) == -1.0, "refreshed in between: half of the way since"
    assert corrected(150, 150) == corrected(150, 200) == corrected(200, 250) == 0.0, "refreshed there, or later"


def test_what_no_keyframe_tells_stays() -> None:
    assert corrected(50, 0) == corrected(100, 0) == 0.0, "before the first"
    assert corrected(250, 200) == 0.0, "after the last"


def frame(stamp_ns: int, stream: CameraStream) -> CameraFrame:
    image = np.full((stream.height, stream.width, 3), stamp_ns, np.uint8)
    return CameraFrame(stamp_ns, stream, image, stream.gray(image), None)


class Locator:
    """Finds images beside those that it found before, and counts how often it is asked for each."""

    def __init__(self, *found: int) -> None:
        self.found, self.asked = set(found), list[int]()

    def __call__(self, frame: CameraFrame) -> bool:
        self.asked.append(frame.stamp_ns)
        found = bool(self.found & {frame.stamp_ns - 1, frame.stamp_ns + 1})
        self.found |= {frame.stamp_ns} if found else set()
        return found


def test_lost_images_lead_to_each_other_forth_and_back() -> None:
    stream = CameraStream("camera", 0, 64, 48, MapperConfig())
    lost = LostImages(np.copy)
    for stamp_ns in (3, 1, 2, 4, 6, 7, 8, 12):
        lost.keep(frame(stamp_ns, stream), sure=True)
    find = Locator(5)
    lost.find(find)
    assert find.found == {1, 2, 3, 4, 5, 6, 7, 8}
    assert max(find.asked.count(stamp_ns) for stamp_ns in find.asked) <= 3, "only again where a neighbour was found"
    again = Locator()
    lost.find(again)
    assert again.asked == [12], "those that were found are not kept"
    lost.clear()
    lost.find(again)
    assert again.asked == [12]


def test_images_of_a_map_that_is_given_up_before_it_is_sure_are_lost_with_it() -> None:
    stream, lost = CameraStream("camera", 0, 64, 48, MapperConfig()), LostImages(np.copy)

    def keep(stamp_ns: int, sure: bool, keyframe: int | None = None) -> None:
        posed = frame(stamp_ns, stream)
        posed.found = PnpResult(np.eye(4), np.ones(0, bool), np.eye(6), 0.0, 50.0)
        posed.keyframe = keyframe
        lost.keep(posed, sure)

    def asked() -> list[int]:
        find = Locator()
        lost.find(find)
        return sorted(set(find.asked))

    keep(1, sure=False)
    keep(2, sure=True)
    lost.keep_all(())
    assert asked() == [], "the map had become sure"
    keep(3, sure=False)
    keep(4, sure=False, keyframe=0)
    assert asked() == [], "it has a pose"
    lost.keep_all(())
    assert asked() == [3], "its keyframes are given by the map"


def test_the_working_image_of_a_frame_is_that_of_its_native_one() -> None:
    stream = CameraStream("camera", 0, 640, 480, MapperConfig())
    whole = frame(7, stream)
    small = CameraFrame(7, stream, whole.working, whole.gray, None)
    assert whole.working.shape[1] == stream.resize.width < stream.width
    assert np.array_equal(small.working, whole.working)
