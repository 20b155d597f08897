"""Files: images, videos, bags in; clouds, trajectories, cameras and saved maps out. No ROS needed."""
