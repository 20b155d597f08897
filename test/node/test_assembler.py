"""When images leave the assembler, and in which order."""

import pytest

from dust3r_ros.node.assembler import REORDER_S, SILENT_S, Assembler

MS = 1_000_000


def single(wait_s=0.1, asked=None, **more):
    return Assembler({"a": ["mask", "depth"]}, asked or {}, wait_s, **more)


def shown(items):
    return [(item.camera, item.stamp_ns // MS) for item in items]


def test_without_companions_every_image_goes_at_once():
    assembler = single()
    assert shown(assembler.image("a", 7 * MS, "i", 0.0)) == [("a", 7)]
    assert not assembler.incomplete


def test_a_source_that_was_heard_is_waited_for_and_then_gone_without():
    assembler = single()
    assembler.image("a", 0, "i", 0.0)
    assert assembler.companion("mask", "a", 0, 0.001) == []  # its image has gone
    assert assembler.image("a", 100 * MS, "i", 0.1) == []
    assert shown(assembler.companion("mask", "a", 101 * MS, 0.15)) == [("a", 100)]
    assert assembler.image("a", 200 * MS, "i", 0.2) == []
    assert assembler.tick(0.299) == []
    assert shown(assembler.tick(0.301)) == [("a", 200)]
    assert assembler.incomplete == {"mask": 1}


def test_a_companion_that_came_first_is_there():
    assembler = single()
    assembler.companion("depth", "a", 50 * MS, 0.0)
    assert shown(assembler.image("a", 50 * MS, "i", 0.01)) == [("a", 50)]


def test_depth_that_comes_more_rarely_than_images_is_not_waited_for():
    """Depth at 5 Hz, images at 20 Hz, depth a little after its image: three of four go at once."""
    assembler, waits = single(wait_s=0.04), []
    for k in range(40):
        now = k * 0.05
        out = assembler.image("a", k * 50 * MS, "i", now)
        waits.append(not out)
        if k % 4 == 0:
            out += assembler.companion("depth", "a", k * 50 * MS, now + 0.01)
        out += assembler.tick(now + 0.045)
        assert shown(out) == [("a", k * 50)]
    assert [k for k in range(8, 40) if waits[k]] == list(range(8, 40, 4))
    assert assembler.incomplete["depth"] <= 3  # while it was new


def test_odometry_is_waited_for_once_it_was_there():
    known = [0]
    assembler = single(asked={"odometry": lambda held: held.stamp_ns <= known[0]})
    assert shown(assembler.image("a", 10 * MS, "i", 0.0)) == [("a", 10)], "it was never there"
    known[0] = 20 * MS
    assert shown(assembler.image("a", 20 * MS, "i", 0.1)) == [("a", 20)]
    assert assembler.image("a", 30 * MS, "i", 0.2) == []
    known[0] = 40 * MS
    assert shown(assembler.tick(0.22)) == [("a", 30)]
    assert assembler.image("a", 50 * MS, "i", 0.3) == []
    assert shown(assembler.tick(0.41)) == [("a", 50)]
    assert assembler.incomplete == {"odometry": 1}


def test_what_will_never_come_is_not_waited_for():
    answers = iter([True, None])
    assembler = single(asked={"odometry": lambda held: next(answers)})
    assembler.image("a", 10 * MS, "i", 0.0)
    assert shown(assembler.image("a", 20 * MS, "i", 0.1)) == [("a", 20)]


def pair(**more):
    return Assembler({"a": [], "b": []}, {}, 0.1, **more)


def test_images_of_two_cameras_leave_by_stamp():
    assembler = pair()
    assembler.image("a", 0, "i", 0.0)
    assert shown(assembler.image("b", 10 * MS, "i", 0.01)) == []
    assert shown(assembler.image("a", 5 * MS, "i", 0.02)) == [("a", 5)]
    assert shown(assembler.image("a", 30 * MS, "i", 0.03)) == [("b", 10)]
    assert shown(assembler.image("b", 30 * MS, "i", 0.04)) == [("a", 30), ("b", 30)]


def test_live_no_camera_waits_for_another():
    assembler = pair(in_order=False)
    assert not assembler.may_wait
    assert shown(assembler.image("a", 20 * MS, "i", 0.0)) == [("a", 20)]
    assert shown(assembler.image("b", 10 * MS, "i", 0.0)) == [("b", 10)]


def test_live_no_camera_waits_for_the_companions_of_another():
    assembler = Assembler({"a": ["mask"], "b": []}, {}, 0.1, in_order=False)
    assembler.companion("mask", "a", 0, 0.0)
    assert assembler.image("a", 100 * MS, "i", 0.1) == []
    assert shown(assembler.image("b", 110 * MS, "i", 0.11)) == [("b", 110)]
    assert assembler.waiting == 1
    assert shown(assembler.companion("mask", "a", 100 * MS, 0.15)) == [("a", 100)]


def test_a_camera_that_is_late_or_gone_holds_nobody_up_for_long():
    assembler = pair()
    assembler.image("a", 0, "i", 0.0)
    assembler.image("b", 0, "i", 0.0)
    assert assembler.image("a", 100 * MS, "i", 0.1) == []
    assert shown(assembler.tick(0.1 + REORDER_S)) == [("a", 100)]
    assert shown(assembler.image("a", 2000 * MS, "i", SILENT_S + 0.5)) == [("a", 2000)], "b was unplugged"


def test_a_bag_that_starts_again_lets_everything_go_and_starts_again():
    assembler = single()
    assembler.companion("mask", "a", 0, 0.0)
    assert assembler.image("a", 9000 * MS, "i", 9.0) == []
    assert shown(assembler.image("a", 100 * MS, "i", 9.01)) == [("a", 9000)]
    assert shown(assembler.companion("mask", "a", 100 * MS, 9.02)) == [("a", 100)]


def test_memory_is_bounded():
    assembler = single(wait_s=1e9, size=5)
    assembler.companion("mask", "a", 0, 0.0)
    gone = []
    for k in range(1, 100):
        gone += assembler.image("a", k * 100 * MS, "i", 0.0)
    assert assembler.waiting == 5
    assert [item.stamp_ns for item in gone] == [k * 100 * MS for k in range(1, 95)]
    assert assembler.incomplete["mask"] == 94
    assert len(assembler.flush()) == 5
    assert assembler.waiting == 0


@pytest.mark.parametrize("order", [[0, 20, 10, 30], [0, 30, 20, 10]])
def test_images_of_one_camera_that_overtook_each_other_leave_all(order):
    """The session refuses what is older; here nothing gets lost."""
    assembler = single()
    out = [item.stamp_ns // MS for stamp in order for item in assembler.image("a", stamp * MS, "i", 0.0)]
    assert sorted(out) == sorted(order)
