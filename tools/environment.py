"""Makes the environment of the checkout in .venv, then runs a command in it.

    python3 tools/environment.py LEVEL [-- COMMAND ...]

LEVEL is demo (what the demo needs) or test (everything). The environment uses a sourced ROS 2, or
else the ROS wheels. A second run compares fingerprints of the environment's inputs and, if they
match, starts the command at once. Runs on any Python 3, see preflight.py.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import preflight
from preflight import Problem
from runner import Runner, is_offline

REPOSITORY = Path(__file__).resolve().parents[1]
VENV = REPOSITORY / ".venv"
STATE = VENV / "state.json"
BUILD = REPOSITORY / "build" / "environment"
LOG = BUILD / "log.txt"
WHEELS = REPOSITORY / "tools" / "ros_wheels"
EXTRAS = {"demo": [], "test": ["network", "eval", "viewer", "fleet", "onnx", "test", "dev"], "docs": ["docs"]}
# The builds of torch to try: first one without CUDA, then whatever the index has.
TORCH = ("torch==2.13.0+cpu", "torch==2.13.0")


def say(text):
    """Prints a line for the user who waits."""
    print("environment: " + text, flush=True)


def fingerprint(*parts):
    """Hash of strings and of the contents of files and folders."""
    digest = hashlib.sha256()
    for part in parts:
        paths = sorted(part.rglob("*")) if isinstance(part, Path) and part.is_dir() else [part]
        for path in paths:
            if not isinstance(path, Path):
                digest.update(str(path).encode())
            elif path.is_file():
                digest.update(str(path.relative_to(REPOSITORY)).encode() + path.read_bytes())
            digest.update(b"\0")
    return digest.hexdigest()


class Environment(object):
    """The wanted environment; ``state`` holds the fingerprints of the existing one."""

    def __init__(self, level):
        self.level = level
        self.ros = preflight.sourced_ros(os.environ)
        self.base = preflight.find_python(self.ros)
        self.python = VENV / "bin" / "python"
        site = "lib/python{}.{}/site-packages".format(*self.base.version[:2])
        self.messages = VENV / site / "dust3r_ros"
        project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8").split("\n[tool.pytest")[0]
        package = REPOSITORY / "package.xml"
        venv = fingerprint(self.base.executable, self.base.version, self.ros, str(REPOSITORY))
        interfaces = [REPOSITORY / name for name in ("CMakeLists.txt", "msg", "srv")]
        interfaces += sorted((REPOSITORY / "dust3r_ros").rglob("*.[ch]"))
        self.wanted = {
            "venv": venv,
            "packages": fingerprint(venv, project, package, TORCH),
            "messages": fingerprint(venv, package, WHEELS, *interfaces),
        }
        self.state = self._read_state()

    def _read_state(self):
        try:
            state = json.loads(STATE.read_text())
            return state if isinstance(state, dict) else {}
        except (OSError, ValueError):
            return {}

    def _write_state(self):
        temporary = STATE.with_suffix(".new")
        temporary.write_text(json.dumps(self.state))
        os.replace(str(temporary), str(STATE))

    def _fits(self, stage):
        return self.state.get(stage) == self.wanted[stage]

    def is_ready(self):
        """Whether nothing is left to do."""
        stages = self._fits("venv") and self._has_packages() and self._fits("messages")
        return stages and not self.state.get("busy") and self.python.exists()

    def _has_packages(self):
        return self._fits("packages") and set(EXTRAS[self.level]) <= set(self.state.get("extras", []))

    def make(self, lock):
        """Brings .venv to the wanted state; an interrupted stage starts from scratch."""
        preflight.check_machine(self.ros)
        preflight.check_python(self.base)
        preflight.check_compilers()
        BUILD.mkdir(parents=True, exist_ok=True)
        self.runner = Runner(REPOSITORY, LOG, lock)
        start = time.time()
        if not self._has_packages():
            preflight.check_disk(str(REPOSITORY), self.level)
        say("{}, {}".format(self.base, "ROS 2 " + self.ros if self.ros else "no ROS sourced, using its wheels"))
        if self.state.get("busy") or not self._fits("venv") or not self.python.exists():
            self._stage("venv", self._make_venv)
        if not self._has_packages():
            self._stage("packages", self._install_packages)
        if not self._fits("messages"):
            self._stage("messages", self._build_messages)
        say("ready after {:.0f} s".format(time.time() - start))

    def _stage(self, name, work):
        """Runs one stage. If it is killed, its mark stays, so that the next run starts from scratch."""
        before = dict(self.state)
        if name == "venv":
            shutil.rmtree(str(VENV), ignore_errors=True)
            VENV.mkdir()
            self.state = {}
        self.state.pop(name, None)
        self.state["busy"] = name
        self._write_state()
        try:
            work()
        except Problem:
            # pip installs all or nothing: the previous packages still work, also offline.
            if name == "packages":
                self.state = before
            self._end_stage()
            raise
        self.state[name] = self.wanted[name]
        self._end_stage()

    def _end_stage(self):
        self.state.pop("busy", None)
        self._write_state()

    def _make_venv(self):
        say("making {}".format(VENV))
        options = ["--system-site-packages"] if self.ros else []
        self.runner.run("venv", [self.base.command, "-m", "venv", *options, str(VENV)], self.environ())

    def _install_packages(self):
        extras = sorted({*self.state.get("extras", []), *EXTRAS[self.level]})
        pip = [str(self.python), "-m", "pip", "--disable-pip-version-check"]
        environ = self.environ()
        say("installing Python packages{}".format(" with " + ", ".join(extras) if extras else ""))
        chosen = extras + ([] if self.ros else ["ros"])
        requirements = ["--editable", ".[{}]".format(",".join(chosen)) if chosen else "."]
        if "network" in extras:
            requirements.append(self._choose_torch(pip, environ))
        constraints = self._constraints()
        # The compat mode puts the checkout itself on the path; the other modes' import hook would
        # come after the folder of the generated messages and never be asked.
        options = ["--config-settings", "editable_mode=compat"]
        self.runner.run("pip", [*pip, "install", *options, *requirements, *constraints], environ)
        if not self.ros:
            self.runner.run("pip", [*pip, "check"], environ)
        self.state["extras"] = extras

    def _choose_torch(self, pip, environ):
        probe = [*pip, "install", "--dry-run", "--quiet", "--no-deps", TORCH[0]]
        code, lines = self.runner.call(probe, environ)
        if code == 0:
            return TORCH[0]
        if not is_offline(lines):
            say(
                "no torch without CUDA on pip's index, taking the usual one of several GB (PIP_EXTRA_INDEX_URL can"
                " name PyTorch's index of CPU builds)"
            )
        return TORCH[1]

    def _constraints(self):
        """Under ROS, NumPy stays at the version that ROS's compiled messages were built with."""
        if not self.ros:
            return []
        code = "import numpy; print('numpy==' + numpy.__version__)"
        out = subprocess.run([str(self.python), "-c", code], stdout=subprocess.PIPE, check=False).stdout.decode()
        path = BUILD / "constraints.txt"
        path.write_text(out)
        return ["--constraint", str(path)]

    def _build_messages(self):
        say("generating the messages and compiling (about half a minute)")
        packages = (
            [("dust3r_ros", REPOSITORY)]
            if self.ros
            else [
                ("tf2_msgs", WHEELS / "tf2_msgs"),
                ("dust3r_ros", REPOSITORY),
            ]
        )
        for name, source in packages:
            build = BUILD / name
            shutil.rmtree(str(build), ignore_errors=True)
            options = {
                "CMAKE_INSTALL_PREFIX": VENV,
                "BUILD_TESTING": "OFF",
                "DUST3R_ROS_MESSAGES_ONLY": "ON",
                "Python3_EXECUTABLE": self.python,
                "PYTHON_EXECUTABLE": self.python,
            }
            if not self.ros:
                options["CMAKE_PROJECT_{}_INCLUDE".format(name)] = WHEELS / "existing_includes.cmake"
            configure = ["cmake", "-S", str(source), "-B", str(build)]
            configure += ["-D{}={}".format(*item) for item in sorted(options.items())]
            self.runner.run("CMake", configure, self.environ())
            compile_ = ["cmake", "--build", str(build), "--target", "install", "--parallel", str(os.cpu_count() or 1)]
            self.runner.run("the compiler", compile_, self.environ())
        # Without this empty file the folder is only a part of the package in the checkout, which
        # finds it by extend_path, instead of hiding it. The metadata is pip's to write.
        marker = self.messages / "__init__.py"
        if marker.exists():
            marker.unlink()
        for path in self.messages.parent.glob("dust3r_ros-*-py*.egg-info"):
            shutil.rmtree(str(path))

    def environ(self):
        """Environment variables for commands in .venv."""
        environ = dict(os.environ, VIRTUAL_ENV=str(VENV))
        environ.pop("PYTHONHOME", None)
        # Set by the wheels of another environment, it would keep ours from finding their libraries.
        environ.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)

        def put_first(name, value):
            environ[name] = os.pathsep.join([str(value)] + [v for v in [environ.get(name)] if v])

        put_first("PATH", VENV / "bin")
        if self.ros:
            put_first("LD_LIBRARY_PATH", VENV / "lib")
        else:
            for name in ("AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH", "COLCON_PREFIX_PATH", "PYTHONPATH"):
                environ.pop(name, None)
        put_first("AMENT_PREFIX_PATH", VENV)
        put_first("CMAKE_PREFIX_PATH", VENV)
        return environ


def main(arguments):
    """Returns 2 if the machine lacks something, else the exit code of the command."""
    if not arguments or arguments[0] not in EXTRAS or (len(arguments) > 1 and arguments[1] != "--"):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    try:
        lock = os.open(str(REPOSITORY), os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("waiting for another run that makes the environment")
            fcntl.flock(lock, fcntl.LOCK_EX)
        environment = Environment(arguments[0])
        if not environment.is_ready():
            environment.make(lock)
        os.close(lock)
    except Problem as problem:
        print("environment: {}".format(problem), file=sys.stderr)
        return 2
    except OSError as error:
        print("environment: {}".format(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("environment: interrupted; the next run starts over", file=sys.stderr)
        return 130
    command = arguments[2:]
    if not command:
        return 0
    environ = environment.environ()
    found = shutil.which(command[0], path=environ["PATH"])
    if not found:
        print("environment: no command '{}' in {}".format(command[0], VENV), file=sys.stderr)
        return 127
    os.chdir(str(REPOSITORY))
    os.execve(found, command, environ)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
