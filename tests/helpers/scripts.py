"""The scripts: as modules, as calls within this process, and as processes of their own."""

import contextlib
import importlib
import io
import json
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from helpers.markets import LAST_DAY

TOP = Path(__file__).resolve().parent.parent.parent
sys.path.append(str(TOP))


def load_script(name):
    """The script called name as a module."""
    return importlib.import_module(name.removesuffix(".py"))


# The fields of the querier's csv and json, in order.
ANOMALY_FIELDS = ["ticker", "date", "trades", "avg_trades", "std_trades", "z_score", "close_price"]
ANOMALY_FIELDS += ["price_diff", "record", "earlier_rows", "baseline_days", "gap", "long_z"]
ANOMALY_FIELDS += ["dollar_volume", "after_1", "after_5", "after_20", "split_after", "marks"]
ANOMALY_FIELDS += ["type", "name"]
# A key for Polygon. It must not be shown anywhere.
KEY = "sEcReT-kEy-0123456789"

builder = load_script("build-lookup-table.py")
querier = load_script("query-lookup-table.py")


def command(script, *args):
    return [sys.executable, str(TOP / script), *map(str, args)]


def run(script, *args, **options):
    """The script as a process of its own, finished: stdout, stderr and returncode."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    return subprocess.run(command(script, *args), timeout=120, **{**pipes, **options})


class Measured(NamedTuple):
    """A finished process: its status, what it printed, its wall time, and its peak memory."""

    status: int
    stdout: str
    stderr: str
    seconds: float
    mb: float  # of 2**20 bytes


LAUNCHER = """
import os, sys, time
started = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
print(f"\\n{os.waitstatus_to_exitcode(status)} {time.perf_counter() - started} {usage.ru_maxrss}")
"""


def measure(words, timeout=None):
    """The command words as a finished process of its own, Measured.

    On Linux, a process starts with the peak memory of the process that starts it. So a small one
    (LAUNCHER) starts the command, and prints its figures after what the command prints.
    """
    launching = [sys.executable, "-I", "-S", "-c", LAUNCHER, *map(str, words)]
    done = subprocess.run(launching, capture_output=True, encoding="utf-8", timeout=timeout)
    stdout, _, figures = done.stdout.removesuffix("\n").rpartition("\n")
    status, seconds, peak = figures.split()
    mb = int(peak) / (2**20 if sys.platform == "darwin" else 2**10)
    return Measured(int(status), stdout, done.stderr, float(seconds), mb)


def run_measured(script, *args):
    """The script as a finished process of its own: (status, stderr, peak memory in MB)."""
    done = measure(command(script, *args), timeout=120)
    return done.status, done.stderr, done.mb


def call(script, *args):
    """What run gives, within this process and in a fraction of the time; script is a module."""
    stdout, stderr = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            status = script.main([str(arg) for arg in args])
    except SystemExit as end:
        status = end.code
    return subprocess.CompletedProcess(args, status, stdout.getvalue(), stderr.getvalue())


def build(data_dir, output, *options):
    return call(builder, "--data-dir", data_dir, "--output", output, *options)


def build_table(data_dir, output, *options):
    """output, a table of data_dir in whose building nothing went wrong."""
    result = build(data_dir, output, *options)
    assert result.returncode == 0, result.stderr
    return output


class NoImports(pickle.Unpickler):
    def find_class(self, module, name):
        raise AssertionError(f"the table needs {module}.{name}")


def load_table(path="lookup_table.pkl"):
    """The dict of the table in the file at path, which must need no import."""
    with open(path, "rb") as file:
        return NoImports(file).load()


def query(table, date=LAST_DAY, *options):
    return call(querier, date, "--table", table, *options)


def strict_json(text):
    """The value of a JSON text. NaN and Infinity, which Python would accept, are errors."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.01)


def assert_refused(result, *parts):
    """result ended with status 1 and one line on stderr, in which parts occur."""
    assert result.returncode == 1, result
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.endswith("\n") and len(result.stderr) > 1
    assert [part for part in map(str, parts) if part not in result.stderr] == [], result.stderr
