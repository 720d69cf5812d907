"""What the tests share: the scripts as modules and as commands, and markets to run them on.

TEST_EFFORT=10 in the environment makes every search (generated examples, fuzzing) ten times as
long.
"""

import contextlib
import gzip
import importlib.util
import io
import os
import signal
import subprocess
import sys
import warnings
from datetime import date
from pathlib import Path

import hypothesis
import pytest

TOP = Path(__file__).resolve().parent.parent
SAMPLE_MARKET = TOP / "tests" / "sample_market"
HEADER = "ticker,volume,open,close,high,low,window_start,transactions"
EFFORT = int(os.environ.get("TEST_EFFORT", "1"))

# Mean 100; the differences from it are -20, -20, 0, 20 and 20, their squares add up to 1600, and
# the square root of 1600 / 4 is 20.
USUAL = [80, 80, 100, 120, 120]
DAYS = ["2024-08-01", "2024-08-02", "2024-08-05", "2024-08-06", "2024-08-07", "2024-08-08"]
LAST_DAY = DAYS[-1]
# Ticker: its trades and its closes on DAYS, None where it has no row.
MARKET = {
    "ZZZ": ([*USUAL, 200], [10, 10, 10, 10, 10, 12.5]),
    "NA": ([8, 8, 10, 12, 12, 30], [2, 2, 2, 2, 2, 1]),
    "AAP": ([*USUAL, 160], [7, 7, 7, 7, 7, 7]),
    "AAp": ([*USUAL, 200], [4, 4, 4, 4, 4, 5]),
    "TRUE": ([*USUAL, 161], [50, 50, 50, 50, 50, 50]),
    "FLAT": ([50, 50, 50, 50, 50, 5000], [1, 1, 1, 1, 1, 1]),
    "ZERO": ([*USUAL, 170], [0, 0, 0, 0, 0, 0]),
    "BRK.B": ([*USUAL, 20], [440, 440, 440, 440, 440, 440]),
    "GONE": ([10, 10, 10, 10, 10, None], [3, 3, 3, 3, 3, None]),
    "NEW": ([None, None, None, None, 90, 90000], [None, None, None, None, 20, 25]),
}

# A shell has its background processes ignore Ctrl-C, and the scripts would then ignore it too.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile(
    "here",
    max_examples=40 * EFFORT,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "ci", hypothesis.settings.get_profile("here"), derandomize=True
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")


def load_script(name):
    """The script called name as a module."""
    module_name = name[: -len(".py")].replace("-", "_")
    spec = importlib.util.spec_from_file_location(module_name, TOP / name)
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


builder = load_script("build-lookup-table.py")
querier = load_script("query-lookup-table.py")


def command(script, *args):
    return [sys.executable, str(TOP / script), *map(str, args)]


def run(script, *args, **options):
    """The script as a process of its own, finished: stdout, stderr and returncode."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    return subprocess.run(command(script, *args), timeout=120, **{**pipes, **options})


LAUNCHER = """
import os, sys
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
with open("usage", "w") as file:
    file.write(f"{code} {usage.ru_maxrss}")
"""


def run_measured(script, *args):
    """The script as a finished process of its own: (status, stderr, peak memory in MB).

    Linux counts the memory of the process that starts another towards the peak of the started one,
    and the tests' own process is large: a small one stands between. It writes the file usage.
    """
    launching = [sys.executable, "-I", "-S", "-c", LAUNCHER, *command(script, *args)]
    done = subprocess.run(
        launching, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8", timeout=120
    )
    status, peak = map(int, Path("usage").read_text().split())
    return status, done.stderr, peak / (2**20 if sys.platform == "darwin" else 2**10)


@contextlib.contextmanager
def warnings_on_stderr():
    """Python warnings are shown as a process of its own would show them."""

    def show(message, category, filename, line_number, file=None, line=None):
        print(
            warnings.formatwarning(message, category, filename, line_number, line), file=sys.stderr
        )

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        for category in (DeprecationWarning, PendingDeprecationWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        warnings.showwarning = show
        yield


def call(script, *args):
    """The same within this process, in a fraction of the time; script is a module."""
    stdout, stderr = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        redirections = contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr)
        with redirections[0], redirections[1], warnings_on_stderr():
            status = script.main([str(arg) for arg in args])
    except SystemExit as end:
        status = end.code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return subprocess.CompletedProcess(args, status, stdout.getvalue(), stderr.getvalue())


def build(data_dir, output, *options):
    return call(builder, "--data-dir", data_dir, "--output", output, *options)


def query(table, date=LAST_DAY, *options):
    return call(querier, date, "--table", table, *options)


def assert_refused(result, *parts):
    """result ended with status 1 and one line on stderr, in which parts occur."""
    assert result.returncode == 1, result
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.endswith("\n") and len(result.stderr) > 1
    assert [part for part in map(str, parts) if part not in result.stderr] == [], result.stderr


def window_start(day):
    """Midnight of day in New York in summer, in nanoseconds."""
    return ((date.fromisoformat(day) - date(1970, 1, 1)).days * 24 + 4) * 3600 * 10**9


def flat_row(ticker, trades, close, day=LAST_DAY):
    return f"{ticker},1000,{close},{close},{close},{close},{window_start(day)},{trades}"


def flat_text(rows, day=LAST_DAY):
    """The text of a flat file; rows are (ticker, trades, close)."""
    return "".join(f"{line}\n" for line in [HEADER, *(flat_row(*row, day) for row in rows)])


def write_bytes(path, content):
    """path, with content (text or bytes) in it, packed where it ends in .gz."""
    content = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def write_market(folder, days):
    """folder, with a flat file for each of days, {day: rows}."""
    for day, rows in days.items():
        write_bytes(folder / f"{day}.csv", flat_text(rows, day))
    return folder


def write_market_with_opens(folder, market):
    """folder, with a flat file for each day of {day: [(ticker, trades, open or None, close)]}."""
    for day, rows in market.items():
        lines = [HEADER]
        for ticker, trades, open_price, close in rows:
            opened = "" if open_price is None else open_price
            lines.append(f"{ticker},1,{opened},{close},9,0,{window_start(day)},{trades}")
        write_bytes(folder / f"{day}.csv", "\n".join([*lines, ""]))
    return folder


def rows_by_day(market):
    """{day: rows} for write_market from a market that is laid out as MARKET."""
    return {
        day: [
            (ticker, trades[i], closes[i])
            for ticker, (trades, closes) in market.items()
            if trades[i] is not None
        ]
        for i, day in enumerate(DAYS)
    }


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """An empty folder, which is also the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def market_folder(empty_folder):
    """aggregates_day in the current folder, with the six flat files of MARKET."""
    return write_market(empty_folder / "aggregates_day", rows_by_day(MARKET))


@pytest.fixture(scope="session")
def market_table(tmp_path_factory):
    """The table of MARKET. Not to be written to."""
    folder = tmp_path_factory.mktemp("market")
    data_dir = write_market(folder / "aggregates_day", rows_by_day(MARKET))
    assert build(data_dir, folder / "lookup_table.pkl").returncode == 0
    return folder / "lookup_table.pkl"


@pytest.fixture(scope="session")
def sample_table(tmp_path_factory):
    """The table of the sample market. Not to be written to."""
    path = tmp_path_factory.mktemp("sample") / "lookup_table.pkl"
    assert build(SAMPLE_MARKET, path).returncode == 0
    return path
