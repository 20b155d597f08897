"""How many threads the BLAS under NumPy and SciPy takes: its sums differ with them in the last digits."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# What OpenBLAS calls its functions, by who built it.
_NAMES = ("openblas_{}", "openblas_{}64_", "scipy_openblas_{}", "scipy_openblas_{}64_")


def blas_threads() -> int:
    """The number, 0 where it is not known: another library than OpenBLAS, another system than Linux."""
    return max([function() for function in _functions("get_num_threads")], default=0)


def use_blas_threads(count: int) -> bool:
    """From now on take ``count`` threads in this process; returns whether that is so."""
    for name in _VARIABLES:  # of a library that is loaded later
        os.environ[name] = str(count)
    for function in _functions("set_num_threads"):
        function(ctypes.c_int(count))
    return blas_threads() == count


def _functions(name: str) -> Iterator[ctypes._NamedFuncPointer]:
    """The function of every OpenBLAS that is loaded."""
    maps = ""
    with suppress(OSError):
        maps = Path("/proc/self/maps").read_text()
    for path in sorted(set(re.findall(r"(/.*blas[^/]*\.so[^/]*)$", maps, re.MULTILINE))):
        with suppress(OSError):
            library = ctypes.CDLL(path)
            for form in _NAMES:
                with suppress(AttributeError):
                    yield getattr(library, form.format(name))
