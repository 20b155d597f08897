"""Messages with arrays between two ends, in their order, also when shared memory is full."""

import os
from multiprocessing import Pipe

import numpy as np
import pytest

from dust3r_ros.mapping import channel as module
from dust3r_ros.mapping.channel import Channel, shared_file


@pytest.fixture
def ends(monkeypatch):
    monkeypatch.setattr(module, "RING_BYTES", 2**16)
    ours, theirs = Pipe()
    files = shared_file(), shared_file()
    yield Channel(ours, *files), Channel(theirs, *files[::-1])
    for descriptor in files:
        os.close(descriptor)


def test_arrays_arrive_as_they_were_sent_round_and_round_the_ring(ends):
    generator = np.random.default_rng(0)
    for turn in range(200):
        sent = [generator.integers(0, 255, int(size), np.uint8) for size in generator.integers(1, 20000, 3)]
        ends[turn % 2].send({"turn": turn, "arrays": sent})
        got = ends[1 - turn % 2].receive()
        assert got["turn"] == turn
        for a, b in zip(sent, got["arrays"], strict=True):
            np.testing.assert_array_equal(a, b)
            assert b.flags.writeable


def test_messages_that_are_not_fetched_yet_are_not_written_over(ends):
    sent = [np.full(15_000, value, np.uint8) for value in range(8)]  # twice what there is room for
    for array in sent:
        ends[0].send(array)
    for array in sent:
        np.testing.assert_array_equal(ends[1].receive(), array)
    assert not ends[1].waits(0)


def test_an_array_that_is_larger_than_the_ring_goes_with_the_message(ends):
    sent = np.arange(20_000, dtype=np.float64).reshape(100, 200)
    ends[0].send((sent[:, :7], sent.T[:3], None, "text"))
    a, b, none, text = ends[1].receive()
    np.testing.assert_array_equal(a, sent[:, :7])
    np.testing.assert_array_equal(b, sent.T[:3])
    assert none is None and text == "text"


def test_the_end_of_the_other_end_is_reported(ends):
    ends[0].close()
    with pytest.raises((EOFError, OSError)):
        ends[1].receive()
