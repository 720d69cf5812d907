"""The GUI's server, started as its user starts it."""

import os
import signal
import subprocess
import tempfile
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from helpers.scripts import command

KEYS = ("POLYGON_API_KEY", "MASSIVE_API_KEY")


def environment(**variables):
    """This process's environment with these variables, and without other keys for Polygon."""
    others = {name: value for name, value in os.environ.items() if name not in KEYS}
    return {**others, **variables}


class RunningGui:
    """A GUI's process, what it printed first and its url, and how it should end."""

    def __init__(self, process):
        self.process, self.printed = process, process.stdout.readline()
        self.url = f"http://127.0.0.1:{self.printed.strip().rpartition(':')[2]}"
        self.signal, self.expected_status = signal.SIGINT, 130  # Ctrl-C

    def get(self, path, timeout=10):
        with urllib.request.urlopen(self.url + path, timeout=timeout) as response:
            return response.read()

    def memory(self, field):
        """Its memory in MB: VmRSS is what it has now, VmHWM the most that it has had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split(f"{field}:")[1].split()[0]) / 1024


@contextmanager
def running_gui(table, api_url, *options, **variables):
    """A RunningGui, with these options, and these variables in its environment.

    Raises RuntimeError if it ends with another status than the one expected, or if it prints more
    than the line with its URL.
    """
    options = ["--table", table, "--port", 0, "--api-url", api_url, *options]
    line = command("gui-lookup-table.py", *options)
    # An inherited pipe for stderr would block the server as soon as it is full.
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as stderr:
        pipes = {"stdout": subprocess.PIPE, "stderr": stderr, "encoding": "utf-8"}
        with subprocess.Popen(line, cwd=folder, env=environment(**variables), **pipes) as process:
            try:
                gui = RunningGui(process)
                if gui.printed:
                    yield gui
                    process.send_signal(gui.signal)
                    process.wait(10)
            finally:
                process.kill()
            more = process.stdout.read()
        stderr.seek(0)
        more += stderr.read()
    if more or not gui.printed or process.returncode != gui.expected_status:
        raise RuntimeError(f"it ended with status {process.returncode} and printed: {more}")
