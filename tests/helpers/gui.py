"""The page's server, started as its user starts it."""

import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from contextlib import contextmanager

from helpers.scripts import command

KEYS = ("POLYGON_API_KEY", "MASSIVE_API_KEY")
KEY = "sEcReT-kEy-0123456789"


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def gui_command(table, *options):
    return command("gui-lookup-table.py", "--table", table, *options)


def environment(**keys):
    """This process's environment, with these keys for Polygon and no others."""
    others = {name: value for name, value in os.environ.items() if name not in KEYS}
    return {**others, **keys}


class RunningGui:
    """A GUI's url and process."""

    def __init__(self, url, process):
        self.url, self.process = url, process

    def get(self, path, timeout=10):
        with urllib.request.urlopen(self.url + path, timeout=timeout) as response:
            return response.read()


@contextmanager
def running_gui(table, api_url, **keys):
    """A RunningGui as its user starts it, with these keys for Polygon in its environment.

    Raises RuntimeError if it prints one of them or a traceback.
    """
    port = free_port()
    started = gui_command(table, "--port", port, "--api-url", api_url)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            started, cwd=folder, env=environment(**keys), stdout=output, stderr=subprocess.STDOUT
        )
        try:
            wait_until(lambda: process.poll() is not None or answers(port))
            yield RunningGui(f"http://127.0.0.1:{port}", process)
            process.send_signal(signal.SIGINT)
            process.wait(10)
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        printed = output.read()
    if any(text in printed for text in ["Traceback", *keys.values()]):
        raise RuntimeError(f"it printed: {printed}")


def answers(port, host="127.0.0.1"):
    """Whether something listens on the port."""
    with socket.socket() as connection:
        connection.settimeout(1)
        return connection.connect_ex((host, port)) == 0


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.01)
