#!/bin/bash
# Runs a command with ROS and this package sourced.
set -e
# shellcheck source=/dev/null
source "${DUST3R_ROS_PREFIX:-/opt/dust3r_ros}/setup.bash"
exec "$@"
