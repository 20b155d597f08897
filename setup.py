"""The pip path; everything is in pyproject.toml. Under ROS, CMakeLists.txt builds and installs."""

from setuptools import setup

setup()
