"""What a machine needs before an environment can be made; what is missing is named in one sentence.

Runs on any Python 3, so that an old one gets a message and not a syntax error.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys

SUPPORTED = ((3, 10), (3, 13))
NEEDED_GB = {"demo": 2, "test": 5}

_PROBE = """
import importlib.util as u, json, os, sys, sysconfig
print(json.dumps({
    "executable": os.path.realpath(sys.executable), "version": sys.version_info[:3], "base": sys.base_prefix,
    "venv": all(u.find_spec(name) for name in ("venv", "ensurepip")),
    "headers": os.path.isfile(os.path.join(sysconfig.get_paths()["include"], "Python.h")),
    "rclpy": bool(u.find_spec("rclpy")),
}))
"""


class Problem(Exception):
    """Why there is no environment; the message says what to do."""


class Python(object):
    """One interpreter and its capabilities; ``command`` starts it, ``executable`` is its path."""

    def __init__(self, command, facts):
        self.command = command
        self.executable = facts["executable"]
        self.version = tuple(facts["version"])
        self.has_venv = facts["venv"]
        self.has_headers = facts["headers"]
        self.has_rclpy = facts["rclpy"]

    @property
    def supported(self):
        return SUPPORTED[0] <= self.version[:2] <= SUPPORTED[1]

    def __str__(self):
        return "Python {}.{}.{} ({})".format(*self.version, self.command)


def probe(command):
    """``Python`` for a command, or None where it does not run (a shim without an interpreter, say)."""
    try:
        out = subprocess.run(
            [command, "-c", _PROBE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30, check=True
        ).stdout
        return Python(command, json.loads(out.decode()))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def sourced_ros(environ):
    """Name of the ROS 2 release sourced in this shell, or an empty string."""
    return environ.get("ROS_DISTRO", "") if environ.get("ROS_VERSION", "2") == "2" else ""


def find_python(ros):
    """The interpreter to build on: ROS's own if it is sourced, else the first suitable one."""
    if ros:
        return _python_of_ros(ros)
    names = [sys.executable, "python3"] + ["python3.{}".format(minor) for minor in (13, 12, 11, 10)]
    found = []
    for name in names:
        python = probe(name)
        if python and python.supported:
            return python
        if python:
            found.append(str(python))
    raise Problem(
        "no Python 3.10 to 3.13 found (found: {}): install one, or name it with 'make PYTHON=/path/to/python3'".format(
            ", ".join(sorted(set(found))) or "none"
        )
    )


def _python_of_ros(ros):
    python = probe(sys.executable)
    if python and python.supported and python.has_rclpy:
        return python
    raise Problem(
        "ROS_DISTRO is '{0}', but {1} cannot import rclpy or is not 3.10 to 3.13: source /opt/ros/{0}/setup.bash in"
        " this shell, name ROS's Python with 'make PYTHON=/usr/bin/python3', or unset ROS_DISTRO to do without"
        " ROS".format(ros, python or sys.executable)
    )


def check_machine(ros):
    """Raises ``Problem`` where there are no ROS wheels."""
    system, machine = platform.system(), platform.machine()
    if not ros and (system, machine) != ("Linux", "x86_64"):
        raise Problem(
            "there are no ROS wheels for {} {}, only for Linux x86_64: install ROS 2 Jazzy and source its"
            " setup.bash first".format(system, machine)
        )


def check_disk(folder, level):
    """Raises ``Problem`` when the disk of ``folder`` has too little space for the environment."""
    free = shutil.disk_usage(folder).free / 1e9
    if free < NEEDED_GB[level]:
        raise Problem(
            "{:.1f} GB free where {} lies, the {} environment takes up to {} GB: make room and run again".format(
                free, folder, level, NEEDED_GB[level]
            )
        )


def check_python(python):
    """Raises ``Problem`` when ``python`` cannot make a virtual environment or compile an extension."""
    name = "python{}.{}".format(*python.version[:2])
    if not python.has_venv:
        raise Problem(
            "{} comes without venv: install it, on Debian and Ubuntu the package {}-venv".format(python, name)
        )
    if not python.has_headers:
        raise Problem(
            "{} comes without its C headers, which message generation needs: install them, on Debian and Ubuntu the"
            " package {}-dev".format(python, name)
        )


def check_compilers():
    """Raises ``Problem`` when a compiler, CMake or make is missing or too old."""
    for variable, names, package in (("CC", ("cc", "gcc", "clang"), "C"), ("CXX", ("c++", "g++", "clang++"), "C++")):
        chosen = os.environ.get(variable, "").split()
        if not any(shutil.which(name) for name in (chosen[:1] or names)):
            raise Problem(
                "no {} compiler found ({}): install one, on Debian and Ubuntu the package build-essential".format(
                    package, "${} is '{}'".format(variable, chosen[0]) if chosen else ", ".join(names)
                )
            )
    cmake = shutil.which("cmake")
    if not cmake:
        raise Problem("no cmake found: install CMake 3.19 or newer, on Debian and Ubuntu the package cmake")
    out = subprocess.run([cmake, "--version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False).stdout
    match = re.search(r"(\d+)\.(\d+)", out.decode(errors="replace"))
    if not match or tuple(map(int, match.groups())) < (3, 19):
        raise Problem(
            "{} is version {}, 3.19 or newer is needed: install a newer CMake".format(
                cmake, match.group() if match else "unknown"
            )
        )
