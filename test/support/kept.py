"""What takes long to make and several tests read: made once for all processes of a run, by the first that asks."""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import pickle
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

folder: Path | None = None  # of this run, set when it begins
_Args = ParamSpec("_Args")
_Made = TypeVar("_Made")


def kept(make: Callable[_Args, _Made]) -> Callable[_Args, _Made]:
    """``make`` for the first that calls it with these arguments; the others wait, and read what it returned."""
    signature = inspect.signature(make)

    @wraps(make)
    def found(*args: _Args.args, **kwargs: _Args.kwargs) -> _Made:
        if folder is None:
            return make(*args, **kwargs)
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        name = repr((make.__module__, make.__qualname__, call.arguments))
        path = folder / hashlib.sha256(name.encode()).hexdigest()
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                written = path.with_suffix(".new")
                written.write_bytes(pickle.dumps(make(*args, **kwargs)))
                written.rename(path)
        return pickle.loads(path.read_bytes())

    return found
