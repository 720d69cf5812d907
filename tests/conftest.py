"""The fixtures that several files of tests use.

TEST_EFFORT=10 in the environment makes every search (generated examples, fuzzing) ten times as
long.
"""

import os
import signal

import hypothesis
import pytest
from helpers import EFFORT
from helpers.flat_files import write_flat_files
from helpers.markets import MARKET, SAMPLE_MARKET, rows_by_day
from helpers.scripts import build_table

pytest_plugins = ["helpers.browser"]

# A shell has its background processes ignore Ctrl-C, and the scripts would then ignore it too.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile(
    "suite",
    max_examples=40 * EFFORT,
    deadline=None,
    database=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("suite")


def pytest_configure(config):
    # A user would see such a warning, of a number that is too large for example, on stderr.
    for category in ("RuntimeWarning", "UserWarning", "FutureWarning"):
        config.addinivalue_line("filterwarnings", f"error::{category}")


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """An empty folder, which is also the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def market_folder(empty_folder):
    """aggregates_day in the current folder, with the six flat files of MARKET."""
    return write_flat_files(empty_folder / "aggregates_day", rows_by_day(MARKET))


@pytest.fixture(scope="session")
def market_table(tmp_path_factory):
    """The table of MARKET. Not to be written to."""
    folder = tmp_path_factory.mktemp("market")
    data_dir = write_flat_files(folder / "aggregates_day", rows_by_day(MARKET))
    return build_table(data_dir, folder / "lookup_table.pkl")


@pytest.fixture(scope="session")
def sample_table(tmp_path_factory):
    """The table of the sample market. Not to be written to."""
    return build_table(SAMPLE_MARKET, tmp_path_factory.mktemp("sample") / "lookup_table.pkl")
