"""What cameras, drivers and bags do wrong: counted, told, survived."""

from array import array

import cv2
import numpy as np
import pytest
from messages import image_message
from sensor_msgs.msg import CompressedImage
from std_srvs.srv import Trigger

from dust3r_ros.node.conversions import stamp_to_ns


def as_message(image, stamp_ns, encoding, pad=0):
    """RGB (H, W, 3) in another encoding, with ``pad`` bytes behind each row that are no pixels."""
    pixels = {
        "rgb8": lambda: image,
        "bgr8": lambda: image[..., ::-1],
        "mono8": lambda: cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None],
        "bgra8": lambda: cv2.cvtColor(image, cv2.COLOR_RGB2BGRA),
    }[encoding]()
    height = image.shape[0]
    rows = np.hstack([pixels.reshape(height, -1), np.full((height, pad), 255, np.uint8)])
    message = image_message(image, stamp_ns)
    message.encoding, message.step, message.data = encoding, rows.shape[1], array("B", rows.tobytes())
    return message


def test_compressed_images_are_mapped(start_node, sequence):
    bench = start_node(image_topic="/camera/image_raw/compressed", dense=False, focal=sequence.focal)
    for index, image in enumerate(sequence.images[:6]):
        raw = image_message(image, int(sequence.stamps_ns[index]))
        data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
        bench.send(CompressedImage(header=raw.header, format="rgb8; jpeg compressed bgr8", data=array("B", data)))
    status = bench.handled(6)
    assert (status.cameras[0].name, status.cameras[0].width) == ("camera", sequence.width)
    broken = CompressedImage(header=raw.header, format="jpeg", data=array("B", data[: len(data) // 2]))
    bench.send(broken)
    assert "truncated" in bench.handled(6, rejected=1).message


def test_a_stamp_that_jumps_back_can_be_ignored(start_node, sequence):
    bench = start_node(on_time_jump="ignore", dense=False, focal=sequence.focal)
    bench.play(sequence, last=10)
    bench.handled(10)
    bench.play(sequence, last=5)
    status = bench.handled(10, rejected=5)
    assert stamp_to_ns(status.header.stamp) == int(sequence.stamps_ns[9])
    bench.play(sequence, first=10, last=12)
    bench.handled(12, rejected=5)
    assert bench.recorder.call(Trigger, "reset", Trigger.Request()).success
    bench.play(sequence, last=5)
    assert bench.handled(5).message == ""


def test_a_full_queue_drops_images_and_counts_them(start_node, sequence):
    """Thirty images at once and room for one: some are dropped, none is unaccounted for, the newest is mapped."""
    bench = start_node(queue_size=1, keyframe_motion_young=0.01)
    bench.play(sequence)
    status = bench.status(
        lambda status: status.frames + status.dropped + status.rejected == len(sequence) and status.waiting == 0,
        "all images are accounted for",
        150,
    )
    assert status.dropped > 0
    assert status.frames >= 1
    assert stamp_to_ns(status.header.stamp) == int(sequence.stamps_ns[-1])
    assert "dropped" in bench.node.log


def test_a_calibration_that_comes_late_is_reported_and_counts_after_a_reset(start_node, sequence):
    bench = start_node(dense=False)
    bench.play(sequence, last=12)
    before = bench.handled(12)
    assert before.keyframes > 1
    bench.calibrate(sequence.width, sequence.height, 321.0)
    bench.node.wait_for_log("from the next reset on")
    assert bench.recorder.call(Trigger, "reset", Trigger.Request()).success
    bench.play(sequence, last=3)
    status = bench.status(lambda status: status.frames == 3, "the new map begins")
    assert [(camera.fixed, camera.focal) for camera in status.cameras] == [(True, 321.0)]


# From here on tests share a node. It begins when the first of them does: a node that waits costs time, too.


@pytest.fixture(scope="module")
def shared_bench(start_shared):
    return start_shared(dense=False)


@pytest.fixture
def bench(shared_bench):
    """A node that may have mapped for other tests, and begins again."""
    shared_bench.begin_again()
    return shared_bench


def test_every_encoding_and_stride_of_one_camera_maps_alike(bench, sequence):
    """The same camera changing its encoding with every frame is tracked as if nothing had happened."""
    kinds = [("rgb8", 0), ("bgr8", 0), ("mono8", 0), ("mono8", 13), ("bgr8", 7), ("bgra8", 1)]
    for index, image in enumerate(sequence.images[:18]):
        encoding, pad = kinds[index % len(kinds)]
        bench.send(as_message(image, int(sequence.stamps_ns[index]), encoding, pad))
    status = bench.handled(18)
    assert status.state == "tracking"
    assert status.lost == 0
    assert status.cameras[0].focal == pytest.approx(sequence.focal, rel=0.15)  # of seven keyframes of 200 pixels


def test_images_that_cannot_be_used_are_counted_and_told(bench, sequence):
    """Unsupported encoding, no pixels, too few data, another size, a stamp twice, none; then mapping goes on."""
    step = int(sequence.stamps_ns[1] - sequence.stamps_ns[0])
    bench.play(sequence, last=8)
    bench.handled(8)
    stamp = int(sequence.stamps_ns[7])
    image = sequence.images[8]

    strange = image_message(image, stamp + step)
    strange.encoding = "64FC7"
    empty = image_message(image, stamp + step)
    empty.height = empty.width = empty.step = 0
    empty.data = array("B")
    short = image_message(image, stamp + step)
    short.data = short.data[: len(short.data) // 2]
    smaller = image_message(image[::2, ::2], stamp + step)
    again = image_message(image, stamp)
    expected = [
        (strange, "64FC7"),
        (empty, "empty"),
        (short, "bytes"),
        (smaller, f"{image.shape[1] // 2}"),
        (again, "stamp"),
        (image_message(image, 0), "stamp is 0"),
    ]
    for count, (message, reason) in enumerate(expected, start=1):
        bench.send(message)
        assert reason in bench.handled(8, rejected=count).message
    assert "image refused" in bench.node.log
    assert bench.node.log.count("image refused") <= 2  # rate limited

    bench.play(sequence, first=8, last=12)
    assert bench.handled(12, rejected=len(expected)).state in ("tracking", "initialising")
    assert "Traceback" not in bench.node.log


def test_a_stamp_that_jumps_back_starts_a_new_map(bench, sequence):
    bench.play(sequence, last=10)
    bench.handled(10)
    bench.play(sequence, last=5)  # the bag starts again
    status = bench.handled(5)
    assert stamp_to_ns(status.header.stamp) == int(sequence.stamps_ns[4])
    assert "jump back" in bench.node.log


def test_single_wrong_stamps_are_refused_and_the_map_stays(start_node, sequence):
    """A day ahead, an hour back: neither starts a new map, and poses go on."""
    bench = start_node(dense=False, focal=sequence.focal)
    bench.play(sequence, last=14)
    for index, seconds in ((14, 86400), (18, -3600)):
        bench.send(image_message(sequence.images[index], int(sequence.stamps_ns[index]) + seconds * 10**9))
        bench.play(sequence, first=index + 1, last=index + 4)
    status = bench.handled(20, rejected=2)
    assert (status.resets, status.state) == (0, "tracking")
    # A slow machine maps the last images when none has come for a while, and then says that.
    assert any("must come from one clock" in said.message for said in bench.recorder.all["status"])
    newest = max(stamp_to_ns(message.header.stamp) for message in bench.recorder.all["pose"])
    assert newest == int(sequence.stamps_ns[21])


def test_poses_go_on_when_a_bag_starts_again_while_images_of_the_last_round_wait(start_node, sequence):
    """Their results come later, with stamps that are ahead of all that follow."""
    bench = start_node(dense=False, focal=sequence.focal)
    bench.play(sequence)
    bench.play(sequence, last=20)

    def of_the_second_round() -> int:
        stamps = [stamp_to_ns(message.header.stamp) for message in bench.recorder.all["pose"]]
        begins = [k for k in range(1, len(stamps)) if stamps[k] < stamps[k - 1]]
        return len(stamps) - begins[-1] if begins else 0

    bench.recorder.wait(lambda: of_the_second_round() >= 3, 150, "poses of the second round come")


def test_pause_resume_and_reset(bench, sequence):
    def trigger(name):
        answer = bench.recorder.call(Trigger, name, Trigger.Request())
        assert answer.success, answer.message

    bench.play(sequence, last=6)
    bench.handled(6)
    trigger("pause")
    bench.status(lambda status: status.state == "paused", "the node pauses")
    bench.play(sequence, first=6, last=9)
    bench.recorder.clear()
    bench.status(lambda status: status.frames == 6, "paused images are ignored")
    trigger("resume")
    bench.play(sequence, first=9, last=14)
    bench.handled(11)
    trigger("reset")
    status = bench.status(lambda status: status.frames == 0, "the reset map is empty")
    assert (status.keyframes, status.tracked, status.state) == (0, 0, "initialising")
    bench.play(sequence, last=5)  # older stamps than before: fine after a reset
    bench.handled(5)


def test_images_lost_on_the_way_are_in_status_and_diagnostics(bench):
    """Every third of 120 images never leaves; the node tells that from the stamps of the others."""
    plain = np.full((48, 64, 3), 90, np.uint8)
    kept = [k for k in range(120) if k % 3]
    for sent, k in enumerate(kept, 1):
        bench.send(image_message(plain, 10**18 + k * 33_000_000))
        if sent % 40 == 0:  # no more than fit any queue
            bench.handled(sent)
    status = bench.status(lambda status: status.lost_in_transport >= 25, "losses are counted")
    assert status.lost_in_transport <= 40 and status.dropped == 0
    recorder = bench.recorder

    def shown():
        items = [item for item in recorder.last["diagnostics"].status if item.name.endswith("inputs")]
        return {value.key: value.value for item in items for value in item.values}

    key = "/camera/image_raw lost in transport"
    recorder.wait(lambda: int(shown().get(key, 0)) >= 25, 10, "diagnostics tell it, too")
    assert bench.node.log.count("Images that get lost") == 1
    assert bench.recorder.call(Trigger, "reset", Trigger.Request()).success
    bench.status(lambda status: status.lost_in_transport == 0, "a reset forgets them")
