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


def test_fast_dds_gets_our_profiles(monkeypatch):
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "")  # monkeypatch takes back what is set meanwhile
    del os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"]
    assert large_messages.use_profiles()
    path = os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"]
    (size,) = ElementTree.parse(path).iter("{http://www.eprosima.com}segment_size")
    assert int(size.text) >= 1 << 24, "several images of 1280 x 720"


@pytest.mark.parametrize("name", large_messages._OF_USER)
def test_settings_of_the_user_are_left_alone(monkeypatch, name):
    monkeypatch.setenv(name, "LARGE_DATA")
    assert not large_messages.use_profiles()
    assert {key: os.environ[key] for key in large_messages._OF_USER if key in os.environ} == {name: "LARGE_DATA"}


def test_a_file_of_the_user_is_left_alone(tmp_path):
    (tmp_path / "DEFAULT_FASTRTPS_PROFILES.xml").write_text("<dds/>")
    assert not large_messages.use_profiles()
