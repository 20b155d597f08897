"""dust3r_ros: uncalibrated cameras in, dense map, intrinsics and poses out.

Importing this package costs nothing: no ROS, no torch, no OpenCV.
"""

from pkgutil import extend_path

# The generated messages (dust3r_ros.msg, dust3r_ros.srv) are installed into a package of this very
# name. When this code runs from the source tree they lie elsewhere on the path; this finds them.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
