"""Runs the commands that make the environment."""

import shutil
import subprocess
import sys
import time

from preflight import Problem


class Runner(object):
    """Runs commands in ``folder`` with their output in the log; a terminal shows the newest line of it.

    The commands inherit the lock, so that it is held until the last of them ends.
    """

    def __init__(self, folder, log, lock):
        self._folder = folder
        self._log = log
        self._lock = lock
        log.write_text("")

    def call(self, command, environ):
        """Exit code of ``command`` and the lines it printed."""
        started, lines = time.time(), []
        with self._log.open("a", encoding="utf-8") as log:
            log.write("$ {}\n".format(" ".join(command)))
            process = subprocess.Popen(
                command,
                env=environ,
                cwd=str(self._folder),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[self._lock],
            )
            for line in process.stdout:
                lines.append(line.decode(errors="replace").strip())
                text = "{:6.1f} s  {}".format(time.time() - started, lines[-1])
                log.write(text + "\n")
                log.flush()
                if sys.stdout.isatty():
                    columns = shutil.get_terminal_size().columns
                    print("\r\033[K" + text[: columns - 1], end="", flush=True)
        if sys.stdout.isatty():
            print("\r\033[K", end="", flush=True)
        return process.wait(), lines

    def run(self, title, command, environ):
        """Runs ``command``; on failure raises ``Problem`` with the reason from its output."""
        code, lines = self.call(command, environ)
        if code != 0:
            raise Problem("{} failed: {}; its output is in {}".format(title, reason(lines), self._log))


OFFLINE = ("connection broken", "connection error", "new connection", "name resolution", "timed out", "unreachable")


def reason(lines):
    """The cause of a failure from lines of output, in words if it is a common one."""
    text = "\n".join(lines)
    if "No space left on device" in text:
        return "the disk is full, make room and run again"
    if is_offline(lines):
        return "the package index cannot be reached, check the network (or pip's proxy settings) and run again"
    pip = [line for line in lines if line.startswith("ERROR: ")]
    errors = [" ".join(lines[i : i + 3]) for i, line in enumerate(lines) if "error" in line.lower()]
    return ((pip or errors[:1] or [line for line in lines if line] or ["no output"])[-1])[:300]


def is_offline(lines):
    """Whether pip's output says that it could not reach its index."""
    warnings = [line.lower() for line in lines if line.startswith(("WARNING: ", "ERROR: "))]
    return any(sign in line for line in warnings for sign in OFFLINE)
