"""An object that lives in a process of its own in tests."""

import os

from dust3r_ros.errors import InputError


class Sums:
    """Adds; tells what it did while nobody asked."""

    def __init__(self, report, start):
        if start < 0:
            raise InputError(f"start is {start}; it must not be negative")
        self.report, self.total, self.left = report, start, 3

    def work(self, idle):
        if not idle or not self.left:
            return False
        self.left -= 1
        self.report("worked", self.left)
        return True

    def add(self, array):
        self.total += float(array.sum())
        return self.total

    def fail(self, error):
        raise error

    def facts(self):
        return os.getpid(), os.nice(0)

    def unreadable(self):
        return Unreadable()


class Unreadable:
    """Leaves its process; nobody can take it in."""

    def __reduce__(self):
        return _unread, ("only here",)


def _unread(why):
    raise RuntimeError(why)
