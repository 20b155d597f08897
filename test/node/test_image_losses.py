"""What a process asks of allocator and middleware before ROS starts."""

from __future__ import annotations

import os
import random
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from dust3r_ros.node import image_losses
from dust3r_ros.node.image_losses import WINDOW, StampLosses, period

MS = 1_000_000


def counted(stamps):
    losses = StampLosses()
    for stamp in stamps:
        losses.stamped(stamp)
    return losses.lost


def row(count, period_ns=33 * MS, begin=10**18):
    return [begin + k * period_ns for k in range(count)]


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2])
@pytest.mark.parametrize("jitter", [0, 3 * MS])
def test_images_lost_at_random_are_counted(share, jitter):
    rng = random.Random(3)
    kept = [k for k in range(2000) if rng.random() < share]
    stamps = [10**18 + k * 33 * MS + rng.randint(-jitter, jitter) for k in kept]
    settled = kept[-1 - WINDOW] - kept[0] + 1 - (len(kept) - WINDOW)  # what comes last is not judged yet
    assert counted(stamps) == pytest.approx(settled, rel=0.1)


def test_a_gap_is_counted_whole():
    stamps = row(200)
    assert counted(stamps[:100] + stamps[112:]) == 12


def test_at_one_image_per_second():
    stamps = row(100, 1000 * MS)
    assert counted(stamps[:50] + stamps[51:]) == 1


@pytest.mark.parametrize(("before", "after"), [(33, 66), (66, 33), (33, 50), (100, 1000)])
def test_another_rate_is_no_loss(before, after):
    first = row(100, before * MS)
    assert counted(first + row(100, after * MS, first[-1] + after * MS)) == 0


def test_a_pause_is_no_loss():
    first = row(100)
    assert counted(first + row(100, begin=first[-1] + 5000 * MS)) == 0


def test_stamps_that_jump_back_or_repeat_are_no_loss():
    stamps = row(100)
    assert counted(stamps + stamps) == 0
    assert counted([stamp for stamp in stamps for _ in range(2)]) == 0


def test_what_was_lost_before_a_restart_still_counts():
    losses, stamps = StampLosses(), row(200)
    for stamp in stamps[:50] + stamps[55:100]:
        losses.stamped(stamp)
    losses.restart()
    for stamp in stamps[120:]:
        losses.stamped(stamp)
    assert losses.lost == 5


def test_the_period_is_reported_by_the_short_steps():
    assert period([100, 33, 67, 34, 200, 1]) == pytest.approx(33.5)
    assert period([40]) == 40


@pytest.fixture(autouse=True)
def plain(monkeypatch, tmp_path):
    for name in image_losses._OF_USER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_the_allocator_keeps_memory():
    assert image_losses.keep_memory()


@pytest.mark.parametrize(
    ("largest", "settings"),
    [("212992", image_losses.PROFILES), ("4194304", image_losses.SOCKETS), ("", image_losses.PROFILES)],
    ids=["as Linux comes", "large sockets", "not Linux"],
)
def test_fast_dds_gets_our_profiles(monkeypatch, tmp_path, largest, settings):
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "")  # monkeypatch takes back what is set meanwhile
    del os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"]
    monkeypatch.setattr(image_losses, "_LARGEST", tmp_path / "rmem_max")
    if largest:
        (tmp_path / "rmem_max").write_text(largest + "\n")
    assert image_losses.use_profiles()
    assert os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] == str(settings)


def test_both_profiles_send_by_a_segment_that_holds_images():
    shared, sockets = (ElementTree.parse(path) for path in (image_losses.PROFILES, image_losses.SOCKETS))
    assert int(_only(shared, "segment_size").text) >= 1 << 24, "several images of 1280 x 720"
    for extra, parent in (("receiveBufferSize", "transport_descriptor"), ("defaultUnicastLocatorList", "rtps")):
        added = _only(sockets, extra)
        next(above for above in sockets.iter(_SPACE + parent) if added in list(above)).remove(added)
    assert _words(sockets) == _words(shared)


_SPACE = "{http://www.eprosima.com}"


def _only(tree, name):
    (found,) = tree.iter(_SPACE + name)
    return found


def _words(tree):
    return [(part.tag, (part.text or "").strip()) for part in tree.iter()]


@pytest.mark.parametrize("name", image_losses._OF_USER)
def test_settings_of_the_user_are_left_alone(monkeypatch, name):
    monkeypatch.setenv(name, "LARGE_DATA")
    assert not image_losses.use_profiles()
    assert {key: os.environ[key] for key in image_losses._OF_USER if key in os.environ} == {name: "LARGE_DATA"}


def test_a_file_of_the_user_is_left_alone(tmp_path):
    (tmp_path / "DEFAULT_FASTRTPS_PROFILES.xml").write_text("<dds/>")
    assert not image_losses.use_profiles()
