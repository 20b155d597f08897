"""Reads images, videos and bags; writes trajectories, cameras and manifests. No ROS needed."""
