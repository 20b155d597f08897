"""dust3r_ros: uncalibrated cameras in, dense map, intrinsics and poses out.

Importing this package costs nothing: no ROS, no torch, no OpenCV. ``Mapper`` and its ``MapperConfig``, the way in
from Python, are imported when they are first asked for.
"""

from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dust3r_ros.config import MapperConfig
    from dust3r_ros.mapping.mapper import Mapper

__all__ = ["Mapper", "MapperConfig"]

# The generated messages (dust3r_ros.msg, dust3r_ros.srv) are installed into a package of this very
# name. When this code runs from the source tree they lie elsewhere on the path; this finds them.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"

_HOMES = {"Mapper": "mapping.mapper", "MapperConfig": "config"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
