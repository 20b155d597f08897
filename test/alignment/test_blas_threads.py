"""Threads of BLAS, in processes of their own: tests themselves take one."""

import subprocess
import sys

from threads import unlimited

CODE = """
import numpy as np, scipy.linalg
from dust3r_ros.alignment.blas_threads import blas_threads, use_blas_threads
print(blas_threads())
for count in (1, 3, 2):
    assert use_blas_threads(count), count
    print(blas_threads())
"""


def counts(environment):
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_the_number_is_that_of_the_environment_until_another_is_set():
    assert counts({**unlimited(), "OMP_NUM_THREADS": "2"}) == [2, 1, 3, 2]
    assert counts({**unlimited(), "OMP_NUM_THREADS": "1"}) == [1, 1, 3, 2]
