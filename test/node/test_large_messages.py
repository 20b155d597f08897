"""What a process asks of allocator and middleware before ROS starts."""

import os
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from dust3r_ros.node import large_messages


@pytest.fixture(autouse=True)
def plain(monkeypatch, tmp_path):
    for name in large_messages._OF_USER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_the_allocator_keeps_memory():
    assert large_messages.keep_memory()


@pytest.mark.parametrize(
    ("largest", "settings"),
    [("212992", large_messages.PROFILES), ("4194304", large_messages.SOCKETS), ("", large_messages.PROFILES)],
    ids=["as Linux comes", "large sockets", "not Linux"],
)
def test_fast_dds_gets_our_profiles(monkeypatch, tmp_path, largest, settings):
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "")  # monkeypatch takes back what is set meanwhile
    del os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"]
    monkeypatch.setattr(large_messages, "_LARGEST", tmp_path / "rmem_max")
    if largest:
        (tmp_path / "rmem_max").write_text(largest + "\n")
    assert large_messages.use_profiles()
    assert os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] == str(settings)


def test_both_profiles_send_by_a_segment_that_holds_images():
    shared, sockets = (ElementTree.parse(path) for path in (large_messages.PROFILES, large_messages.SOCKETS))
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


@pytest.mark.parametrize("name", large_messages._OF_USER)
def test_settings_of_the_user_are_left_alone(monkeypatch, name):
    monkeypatch.setenv(name, "LARGE_DATA")
    assert not large_messages.use_profiles()
    assert {key: os.environ[key] for key in large_messages._OF_USER if key in os.environ} == {name: "LARGE_DATA"}


def test_a_file_of_the_user_is_left_alone(tmp_path):
    (tmp_path / "DEFAULT_FASTRTPS_PROFILES.xml").write_text("<dds/>")
    assert not large_messages.use_profiles()
