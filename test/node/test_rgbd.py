"""The node as an RGB-D camera: image, depth and pinhole of a keyframe fit together."""

from __future__ import annotations

import numpy as np
import pytest
from messages import points_of
from sensor_msgs.msg import CameraInfo, Image

from dust3r_ros.node.interface import OUTPUTS, qos_profile


@pytest.mark.parametrize("bench", [{"map_stride": 1, "min_confidence": 1.0, "working_size": 160}], indirect=True)
def test_the_node_is_an_rgbd_camera(bench, sequence):
    """As depth_image_proc and RTAB-Map take them."""
    recorder, heard = bench.recorder, {"depth": [], "depth_info": [], "keyframe_image": []}
    for (key, took), kind in zip(heard.items(), (Image, CameraInfo, Image), strict=True):
        row = OUTPUTS[key]
        name = row.name.replace("~", "/dust3r")
        recorder.node.create_subscription(kind, name, took.append, qos_profile(row.quality))
    bench.play(sequence, last=16)
    keyframes = bench.handled(16).keyframes
    recorder.wait(
        lambda: {*map(len, heard.values()), recorder.counts["keyframe_cloud"]} == {keyframes},
        60,
        f"each of {keyframes} keyframes is published",
    )
    stamps = [[(m.header.stamp.sec, m.header.stamp.nanosec) for m in took] for took in heard.values()]
    assert stamps[0] == stamps[1] == stamps[2] and len(set(stamps[0])) == keyframes, "each is published once"
    depth, info, image = (took[-1] for took in heard.values())
    assert depth.header == info.header == image.header
    sizes = {(message.width, message.height) for message in (depth, info, image)}
    assert len(sizes) == 1 and image.encoding == "rgb8" and depth.encoding == "32FC1"
    assert info.k[0] == info.k[4] == info.p[0] and not any(info.d)
    # By the pinhole, depth becomes the cloud of the keyframe.
    z = np.frombuffer(depth.data, "<f4").reshape(depth.height, depth.width)
    v, u = np.nonzero(np.isfinite(z))
    points = np.stack([(u - info.k[2]) / info.k[0] * z[v, u], (v - info.k[5]) / info.k[4] * z[v, u], z[v, u]], 1)
    colors = np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, 3)[v, u]
    cloud, cloud_colors = points_of(recorder.last["keyframe_cloud"])[:2]
    assert recorder.last["keyframe_cloud"].header.stamp == depth.header.stamp
    # The cloud is in the map frame, in the same order: what no pose changes are distances.
    assert np.array_equal(cloud_colors, colors)
    far, own = (np.linalg.norm(part - part[0], axis=1) for part in (cloud, points))
    np.testing.assert_allclose(far, own, atol=1e-3 * own.max())
