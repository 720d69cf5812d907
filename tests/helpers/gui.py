"""The GUI's server, started as its user starts it."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from helpers.scripts import command

KEYS = ("POLYGON_API_KEY", "MASSIVE_API_KEY")


def free_port():
    """A port that was free a moment ago. Port 0 is better where the URL that is printed is read."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def environment(**variables):
    """This process's environment with these variables, and without other keys for Polygon."""
    others = {name: value for name, value in os.environ.items() if name not in KEYS}
    return {**others, **variables}


class RunningGui:
    """A GUI's url and process, and the status with which it should end: 130 after Ctrl-C."""

    def __init__(self, process):
        self.url, self.process, self.expected_status = None, process, 130

    def get(self, path, timeout=10):
        with urllib.request.urlopen(self.url + path, timeout=timeout) as response:
            return response.read()

    def memory(self, field):
        """Its memory in MB: VmRSS is what it has now, VmHWM the most that it has had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split(f"{field}:")[1].split()[0]) / 1024


@contextmanager
def running_gui(table, api_url, **variables):
    """A RunningGui, with these variables in its environment. It ends by Ctrl-C.

    Raises RuntimeError if it does not start, ends with another status than the one expected, or
    prints a traceback or one of the variables' values.
    """
    line = command("gui-lookup-table.py", "--table", table, "--port", 0, "--api-url", api_url)
    # An inherited pipe for stderr would block the server as soon as it is full.
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as stderr:
        pipes = {"stdout": subprocess.PIPE, "stderr": stderr, "encoding": "utf-8"}
        with subprocess.Popen(line, cwd=folder, env=environment(**variables), **pipes) as process:
            gui = RunningGui(process)
            try:
                printed = process.stdout.readline()
                if printed:
                    port = printed.strip().rpartition(":")[2]
                    gui.url = f"http://127.0.0.1:{port}"
                    yield gui
                    process.send_signal(signal.SIGINT)
                    process.wait(10)
            finally:
                process.kill()
            printed += process.stdout.read()
        stderr.seek(0)
        printed += stderr.read()
    unwanted = ["Traceback", *variables.values()]
    is_wrong = "http" not in printed or any(text in printed for text in unwanted)
    if is_wrong or process.returncode != gui.expected_status:
        raise RuntimeError(f"it ended with status {process.returncode} and printed: {printed}")


def is_listening(port, host="127.0.0.1"):
    """Whether something listens on the port."""
    with socket.socket() as connection:
        connection.settimeout(1)
        return connection.connect_ex((host, port)) == 0


def replace_table(table, new):
    """Put a copy of new in place of table, in one step, as the builder does."""
    os.replace(shutil.copy(new, f"{table}.new"), table)
