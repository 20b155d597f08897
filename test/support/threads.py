"""How many threads the libraries under NumPy take in tests: one, so that processes do not wait for each other's."""

from __future__ import annotations

import os

_LIMITED = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",  # where a test asks for more: threads that spin take other tests' time
}


def limit() -> None:
    """One in this process, if NumPy is not loaded yet, and in all that it starts.

    The matrices of tests are small: threads for them cost about twice the time of one, and a core another test needs.
    """
    for name, value in _LIMITED.items():
        os.environ.setdefault(name, value)


def unlimited() -> dict[str, str]:
    """Environment variables of a process that takes as many as it does at a user's."""
    return {name: value for name, value in os.environ.items() if name not in _LIMITED}
