"""What can go wrong around the scripts: signals, disks, neighbours, clocks and chance bytes.

Fuzzing takes some ten seconds, and tries the same bytes each time. TEST_EFFORT=60 makes it ten
minutes.
"""

import contextlib
import csv
import errno
import fcntl
import io
import itertools
import json
import math
import os
import pickle
import pickletools
import random
import re
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import zlib
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes.made_up_table import ANOMALY_DAY, DATES, PARTS, made_up_table
from helpers import EFFORT
from helpers.flat_files import flat_text, write_file, write_flat_files
from helpers.forks import default_signals, ending, fork, run_build_in_fork, start_build
from helpers.markets import LAST_DAY, MARKET, SAMPLE_MARKET, USUAL, rows_by_day
from helpers.scripts import (
    ANOMALY_FIELDS,
    assert_refused,
    build,
    builder,
    call,
    command,
    load_table,
    querier,
    query,
    run,
    strict_json,
    wait_until,
    warnings_on_stderr,
)
from tools.verify_numbers import EXTENT, FOOTER, INDEX_DAY, INDEX_HEADER, MAGIC, PAGE_COLUMNS

pytestmark = pytest.mark.usefixtures("empty_folder")

BUILDER, QUERIER = "build-lookup-table.py", "query-lookup-table.py"
TABLE = Path("lookup_table.pkl")
OLD = b"the old table"
OTHER_MARKET = {**MARKET, "NA": ([*USUAL, 1000], [2, 2, 2, 2, 2, 5])}


def assert_files(*names):
    """The current folder holds these, and nothing else."""
    assert sorted(os.listdir()) == sorted(map(str, names))


@pytest.fixture
def new_table(market_folder, market_table):
    """The bytes of the table that a build of aggregates_day, in the current folder, writes."""
    return market_table.read_bytes()


# Signals


def killed_at_call(number):
    """To prepare a build: SIGKILL comes at one of the calls that count_calls counts."""

    def die(count):
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda: count_calls(die)


def count_calls(then):
    """While the builder writes, call then(1), then(2), ... at each start and end of a call.

    Only calls in the builder's own code count.
    """
    replacing, counter = builder.replacing, itertools.count(1)

    def profile(frame, event, _):
        caller = frame if event.startswith("c_") else frame.f_back
        if caller and caller.f_code.co_filename == builder.__file__:
            then(next(counter))

    @contextlib.contextmanager
    def profiled(path):
        sys.setprofile(profile)
        with replacing(path) as file:
            yield file
        sys.setprofile(None)

    builder.replacing = profiled


def test_killed_at_any_call_it_leaves_the_old_table_or_the_new_one(new_table, monkeypatch):
    calls = []
    with monkeypatch.context() as patched:
        patched.setattr(builder, "replacing", builder.replacing)  # to be restored
        count_calls(calls.append)
        write_file(TABLE, OLD)
        build("aggregates_day", TABLE)
    # The old table is replaced at the end, so each of the last 25 calls is tried.
    end = len(calls) - 25
    is_new = []
    for call_number in [*range(1, end, end // (10 * EFFORT)), *range(end, len(calls) + 1)]:
        write_file(TABLE, OLD)
        child = start_build(prepare=killed_at_call(call_number))
        assert ending(child) == -signal.SIGKILL
        is_new.append({OLD: False, new_table: True}[TABLE.read_bytes()])
        # A build that finds what another one left makes more calls.
        for leftover in set(os.listdir()) - {"aggregates_day", str(TABLE)}:
            os.remove(leftover)
    assert is_new == sorted(is_new)
    assert (is_new[0], is_new[-1]) == (False, True)

    assert build("aggregates_day", TABLE).returncode == 0
    assert TABLE.read_bytes() == new_table
    assert_files(TABLE, "aggregates_day")


@pytest.mark.parametrize("step", ["write_lookup_table", "fsync", "replace"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_kill_9_around_each_step_leaves_the_old_table_or_the_new_one(new_table, step, before):
    def prepare():
        owner = builder if step == "write_lookup_table" else os
        function = getattr(owner, step)

        def dying(*args):
            if not before:
                function(*args)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(owner, step, dying)

    write_file(TABLE, OLD)
    child = start_build(prepare=prepare)
    assert ending(child) == -signal.SIGKILL
    assert TABLE.read_bytes() == (new_table if (step, before) == ("replace", False) else OLD)


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
EACH_SIGNAL = pytest.mark.parametrize(
    ("signal_number", "status"), SIGNALS, ids=["INT", "TERM", "HUP"]
)

SIGNALLED = """
import os, signal
fsync = os.fsync
def signalled(descriptor):
    os.kill(os.getpid(), signal.{})
    fsync(descriptor)
os.fsync = signalled
"""


@EACH_SIGNAL
def test_told_to_stop_the_script_ends_quietly_and_tidies_up(market_folder, signal_number, status):
    write_file(TABLE, OLD)
    lines = SIGNALLED.format(signal_number.name)
    result = run_after(lines, BUILDER, preexec_fn=default_signals)
    assert (result.returncode, result.stderr) == (status, "")
    assert result.stdout.splitlines()[-1] == "Lookup table built successfully."
    assert TABLE.read_bytes() == OLD
    assert_files(TABLE, "aggregates_day")


STEPS = ["find_flat_files", "add_facts", "write_pickle", "write_day_pages", "write_directory"]


def signalled_after(step, *signal_numbers, handler=signal.SIG_DFL):
    """To prepare a build: once the builder's function called step has ended, it gets signals."""

    def prepare():
        for number in signal_numbers:
            if number not in (signal.SIGKILL, signal.SIGSTOP):
                signal.signal(number, handler)
        function = getattr(builder, step)

        def then_signalled(*args):
            result = function(*args)
            for number in signal_numbers:
                os.kill(os.getpid(), number)
            return result

        setattr(builder, step, then_signalled)

    return prepare


@pytest.mark.parametrize("step", STEPS)
@EACH_SIGNAL
def test_told_to_stop_after_each_step_it_leaves_no_unfinished_file(
    market_folder, signal_number, status, step
):
    write_file(TABLE, OLD)
    prepare = signalled_after(step, signal_number)
    result = run_build_in_fork(prepare=prepare)
    assert (result.returncode, result.stderr) == (status, "")
    assert TABLE.read_bytes() == OLD
    assert_files(TABLE, "aggregates_day")


def test_told_to_stop_twice_it_leaves_no_unfinished_file(market_folder):
    def prepare():
        signalled_after("write_day_pages", signal.SIGTERM)()
        unlink = Path.unlink

        def signalled_before(path):
            os.kill(os.getpid(), signal.SIGHUP)
            unlink(path)

        Path.unlink = signalled_before

    write_file(TABLE, OLD)
    result = run_build_in_fork(prepare=prepare)
    assert (result.returncode, result.stderr) == (143, "")
    assert_files(TABLE, "aggregates_day")


@EACH_SIGNAL
def test_a_signal_that_is_ignored_stays_ignored(new_table, signal_number, status):
    # nohup starts a process with SIGHUP ignored, a shell's background job with SIGINT.
    prepare = signalled_after("write_day_pages", signal_number, handler=signal.SIG_IGN)
    result = run_build_in_fork(prepare=prepare)
    assert result.returncode == 0
    assert TABLE.read_bytes() == new_table


@pytest.fixture
def reading(monkeypatch):
    """The builder's reading of flat files: begun holds the paths of those that it begins to read.

    From the third file on, a read first calls meanwhile. Then it waits until the builder has
    cancelled the reads that have not begun.
    """
    reading = SimpleNamespace(begun=[], meanwhile=lambda: None)
    monkeypatch.setattr(builder, "THREADS", 4)
    read_flat_file, closing = builder.read_flat_file, builder.closing
    is_open, is_closed = threading.Event(), threading.Event()

    @contextlib.contextmanager
    def observed(files):
        try:
            with closing(files):
                is_open.set()
                yield files
        finally:
            is_closed.set()

    def held(path):
        reading.begun.append(path)
        if len(reading.begun) > 2:
            assert is_open.wait(5)
            reading.meanwhile()
            assert is_closed.wait(5)
        return read_flat_file(path)

    monkeypatch.setattr(builder, "read_flat_file", held)
    monkeypatch.setattr(builder, "closing", observed)
    return reading


def test_ctrl_c_while_a_file_is_read_cancels_the_reads_that_wait(reading):
    reading.meanwhile = lambda: os.kill(os.getpid(), signal.SIGINT)
    write_file(TABLE, OLD)
    result = build(SAMPLE_MARKET, TABLE)
    assert (result.returncode, result.stderr) == (130, "")
    assert TABLE.read_bytes() == OLD
    assert_files(TABLE)
    assert len(reading.begun) <= 2 + builder.THREADS


def test_ctrl_c_between_two_files_cancels_the_reads_that_wait(monkeypatch, reading):
    def interrupted_after_two(items, *_):
        yield from items[:2]
        raise KeyboardInterrupt

    monkeypatch.setattr(builder, "with_progress", interrupted_after_two)
    result = build(SAMPLE_MARKET, TABLE)
    assert (result.returncode, result.stderr) == (130, "")
    assert os.listdir() == []
    assert len(reading.begun) <= 2 + builder.THREADS


def test_ctrl_c_while_pandas_is_imported_is_quiet():
    write_file(Path("pandas.py"), "import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    result = run(
        BUILDER,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        preexec_fn=default_signals,
    )
    assert (result.returncode, result.stdout, result.stderr) == (-signal.SIGINT, "", "")


def test_ctrl_c_while_a_table_is_read_is_quiet(market_table, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(querier.LookupTable, "read_day_page", interrupt)
    result = query(market_table)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


# Disks


def limit_files(size, buffering):
    """To be run in a new process: its files cannot grow beyond size, as on a full disk."""
    open_file = Path.open
    Path.open = lambda path, mode, **_: open_file(path, mode, buffering=buffering)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


# With a small buffer the disk is full while the table is written, with a large one at the end.
@pytest.mark.parametrize("buffering", [512, 2**24])
@pytest.mark.parametrize("share", [0, 0.5, 0.999])
def test_on_a_full_disk_the_old_table_stays(new_table, share, buffering):
    write_file(TABLE, OLD)
    result = run_build_in_fork(prepare=partial(limit_files, int(share * len(new_table)), buffering))
    assert_refused(result, f"{TABLE} not written: {os.strerror(errno.EFBIG)}")
    assert TABLE.read_bytes() == OLD
    assert_files(TABLE, "aggregates_day")


def test_where_there_is_room_for_the_table_but_not_for_its_json_the_old_ones_stay(sample_table):
    write_file(TABLE, OLD)
    write_file(Path("lookup_table.json"), OLD)
    prepare = partial(limit_files, sample_table.stat().st_size, 512)
    result = run_build_in_fork("--data-dir", SAMPLE_MARKET, "--json", prepare=prepare)
    assert_refused(result, f"lookup_table.json not written: {os.strerror(errno.EFBIG)}")
    assert [TABLE.read_bytes(), Path("lookup_table.json").read_bytes()] == [OLD, OLD]
    assert_files(TABLE, "lookup_table.json")


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_an_error_of_the_disk_at_the_end_is_told_in_one_line(
    market_folder, monkeypatch, step, error
):
    def fail(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, step, fail)
    write_file(TABLE, OLD)
    assert_refused(build(market_folder, TABLE), f"{TABLE} not written: {os.strerror(error)}")
    assert TABLE.read_bytes() == OLD
    assert_files(TABLE, "aggregates_day")


def test_a_single_write_that_fails_leaves_the_old_table(market_folder, monkeypatch):
    # The builder writes in another thread, and the writes that follow succeed.
    write_lookup_table, written = builder.write_lookup_table, []

    def write(content):
        written.append(content)
        if len(written) == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def write_and_fail_once(_, *args):
        written.clear()
        write_lookup_table(SimpleNamespace(write=write), *args)

    failing = None
    monkeypatch.setattr(builder, "write_lookup_table", write_and_fail_once)
    assert build(market_folder, "other.pkl").returncode == 0
    write_file(TABLE, OLD)
    for number in range(1, len(written) + 1):
        failing = number
        assert_refused(build(market_folder, TABLE), f"{TABLE} not written: Input/output error")
        assert TABLE.read_bytes() == OLD


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("no/such/folder/table.pkl", "No such file or directory"),
        ("aggregates_day/2024-08-01.csv/table.pkl", "Not a directory"),
        ("/proc/self/table.pkl", "no permission to write into its folder"),
        ("/dev/null/table.pkl", "Not a directory"),
    ],
)
def test_where_nothing_can_be_written_one_line_says_so(market_folder, output, reason):
    assert_refused(build(market_folder, output), f"{output} not written: {reason}")
    assert os.listdir() == ["aggregates_day"]
    assert len(os.listdir("aggregates_day")) == len(rows_by_day(MARKET))


def contents():
    """{path: (mode, bytes, link)} of everything below the current folder."""
    found = {}
    for folder, folders, names in os.walk("."):
        for name in folders + names:
            path = Path(folder, name)
            mode = path.lstat().st_mode
            content = path.read_bytes() if stat.S_ISREG(mode) else None
            found[str(path)] = mode, content, os.readlink(path) if path.is_symlink() else None
    return found


@pytest.fixture
def busy_folder(market_folder):
    """The current folder: flat files, and everything that an output must not replace."""
    write_file(Path("disk/2024-08-09.csv"), flat_text([("A", 1, 1)], "2024-08-09"))
    Path("empty disk").mkdir()
    os.symlink("../disk", market_folder / "august")
    os.symlink("../empty disk", market_folder / "september")
    os.symlink("aggregates_day/2024-08-01.csv", "link")
    os.mkfifo("pipe.pkl")
    os.symlink("pipe.pkl", "link to a pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
    write_file(Path("l.pkl"), OLD)
    os.symlink("l.pkl", "l.json")
    write_file(Path("m.pkl"), OLD)
    os.symlink("aggregates_day/2024-08-01.csv", "m.json")
    write_file(Path("n.pkl"), OLD)
    os.mkfifo("n.json")
    write_file(Path("o.pkl"), OLD)
    Path("o.json").mkdir()
    return market_folder


FLAT_FILE = "would be read as a flat file: name another --output"
NEEDED = "would replace a file of this build: name another --output"
NOT_REGULAR = "is no regular file: name another --output"
A_FOLDER = "is a folder: name a file with --output"


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("aggregates_day/2024-08-01.csv", FLAT_FILE),
        ("link", FLAT_FILE),
        ("aggregates_day/august/2024-08-09.csv", FLAT_FILE),
        ("disk/2024-08-09.csv", FLAT_FILE),
        ("aggregates_day/new.csv", FLAT_FILE),
        ("aggregates_day/new.csv.gz", FLAT_FILE),
        ("disk/new.csv", FLAT_FILE),
        ("aggregates_day/september/new.csv", FLAT_FILE),
        ("pipe.pkl", NOT_REGULAR),
        ("link to a pipe", NOT_REGULAR),
        ("socket", NOT_REGULAR),
        ("/dev/null", NOT_REGULAR),
        ("/dev/full", NOT_REGULAR),
        ("aggregates_day", A_FOLDER),
        (".", A_FOLDER),
        ("..", A_FOLDER),
        ("/", A_FOLDER),
    ],
)
def test_an_output_that_would_do_harm_is_refused_and_nothing_touched(busy_folder, output, reason):
    before = contents()
    result = build(busy_folder, output)
    assert (result.returncode, result.stderr) == (1, f"{output} {reason}\n")
    assert contents() == before
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize(
    ("name", "reason"), [("l", NEEDED), ("m", FLAT_FILE), ("n", NOT_REGULAR), ("o", A_FOLDER)]
)
def test_a_json_that_would_do_harm_is_refused_and_nothing_touched(busy_folder, name, reason):
    before = contents()
    result = build(busy_folder, f"{name}.pkl", "--json")
    assert (result.returncode, result.stderr) == (1, f"{name}.json {reason}\n")
    assert contents() == before


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444])
def test_a_new_table_keeps_the_permissions_of_the_old_one(market_folder, mode):
    for name in ("lookup_table.pkl", "lookup_table.json"):
        write_file(Path(name), OLD).chmod(mode)
    assert build(market_folder, TABLE, "--json").returncode == 0
    for name in ("lookup_table.pkl", "lookup_table.json"):
        assert Path(name).read_bytes() != OLD
        assert stat.S_IMODE(os.stat(name).st_mode) == mode


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_first_table_has_the_permissions_that_umask_leaves(market_folder, mask, mode):
    assert ending(start_build(prepare=lambda: os.umask(mask))) == 0
    assert stat.S_IMODE(TABLE.stat().st_mode) == mode


def as_nobody():
    """To be run in a new process: from then on it is not root, to whom every folder is open."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


@pytest.fixture
def open_folder(monkeypatch):
    """A folder that everybody may enter and write into, which is also the current one."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o777)
        monkeypatch.chdir(folder)
        write_flat_files(Path("aggregates_day"), rows_by_day(MARKET))
        yield Path(folder)
        for locked in Path(folder).rglob("*"):
            if locked.is_dir():
                locked.chmod(0o700)


def nobodys_build(*args):
    """A finished build that anyone but root runs."""
    return run_build_in_fork(*args, prepare=as_nobody)


@pytest.mark.parametrize("mode", [0o000, 0o644, 0o311])
def test_a_data_folder_that_cannot_be_searched_is_named(open_folder, mode):
    Path("aggregates_day").chmod(mode)
    assert_refused(nobodys_build(), "aggregates_day", "Permission denied")


def test_a_data_folder_behind_one_that_cannot_be_searched_is_named(open_folder):
    Path("locked/market").mkdir(parents=True)
    Path("locked").chmod(0o600)
    assert_refused(nobodys_build("--data-dir", "locked/market"), "locked", "Permission denied")


def test_a_month_folder_that_cannot_be_read_is_named(open_folder):
    Path("aggregates_day/09").mkdir(mode=0o311)
    assert_refused(nobodys_build(), "aggregates_day/09: Permission denied")


def test_a_flat_file_that_cannot_be_read_is_named(open_folder):
    Path("aggregates_day/2024-08-06.csv").chmod(0o200)
    assert_refused(nobodys_build(), "aggregates_day/2024-08-06.csv: Permission denied")


@pytest.mark.parametrize("mode", [0o000, 0o555, 0o666])
def test_a_folder_that_may_not_be_written_to_is_told_in_one_line(open_folder, mode):
    Path("tables").mkdir()
    Path("tables").chmod(mode)
    result = nobodys_build("--output", "tables/table.pkl")
    assert_refused(result, "tables/table.pkl not written: no permission to write into its folder")
    Path("tables").chmod(0o700)  # so that this process may look into it
    assert os.listdir("tables") == []


def test_a_name_that_is_too_long_is_told_and_nothing_is_written(market_folder):
    result = build(market_folder, "x" * 300)
    assert_refused(result, "xxx not written: File name too long")
    assert_refused(build("x" * 300, TABLE), "xxx: File name too long")
    assert os.listdir() == ["aggregates_day"]


def test_a_working_folder_that_is_gone_is_told_and_nothing_is_written(market_folder, monkeypatch):
    Path("gone").mkdir()
    monkeypatch.chdir("gone")
    os.rmdir("../gone")
    result = build(market_folder, TABLE)
    assert_refused(result, "lookup_table.pkl not written: No such file or directory")
    assert_refused(
        build("aggregates_day", market_folder.parent / TABLE), "no folder aggregates_day"
    )
    assert os.listdir(market_folder.parent) == ["aggregates_day"]


def test_a_file_that_vanishes_after_it_was_listed_is_named(market_folder, monkeypatch):
    find_flat_files = builder.find_flat_files

    def find_and_lose(data_dir):
        paths = find_flat_files(data_dir)
        paths[3].unlink()
        return paths

    monkeypatch.setattr(builder, "find_flat_files", find_and_lose)
    write_file(TABLE, OLD)
    assert_refused(build(market_folder, TABLE), "2024-08-06.csv is gone, or no regular file")
    assert TABLE.read_bytes() == OLD


def test_without_memory_one_line_says_so(market_folder, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(builder, "add_facts", fail)
    write_file(TABLE, OLD)
    assert_refused(build(market_folder, TABLE), f"{TABLE} not written: not enough memory\n")
    assert TABLE.read_bytes() == OLD
    assert_files(TABLE, "aggregates_day")


# Neighbours


def test_builders_at_once_leave_one_whole_table_whatever_their_process_ids(new_table):
    def prepare():  # as in two containers that share a folder
        os.getpid = lambda: 7

    other = write_flat_files(Path("other"), rows_by_day(OTHER_MARKET))
    build(other, "other.pkl")
    tables = {new_table, Path("other.pkl").read_bytes()}
    for _ in range(5 * EFFORT):
        children = [
            start_build("--data-dir", folder, prepare=prepare)
            for folder in ("aggregates_day", other, "aggregates_day", other)
        ]
        assert [ending(child) for child in children] == [0, 0, 0, 0]
        assert TABLE.read_bytes() in tables
        assert_files(TABLE, "aggregates_day", "other", "other.pkl")


LEFTOVER = Path("lookup_table.pkl.0123456789abcdef.tmp")


@pytest.mark.parametrize("step", ["write_pickle", "write_directory"])
def test_what_a_killed_build_left_is_removed_by_a_later_one(market_folder, step):
    child = start_build(prepare=signalled_after(step, signal.SIGKILL))
    assert ending(child) == -signal.SIGKILL
    (left,) = set(os.listdir()) - {"aggregates_day"}
    assert re.fullmatch(r"lookup_table\.pkl\.[0-9a-f]{16}\.tmp", left)
    assert build(market_folder, TABLE).returncode == 0
    assert_files(TABLE, "aggregates_day")


def test_the_unfinished_file_of_a_running_build_is_not_removed(new_table):
    other = write_flat_files(Path("other"), rows_by_day(OTHER_MARKET))
    child = start_build(prepare=signalled_after("write_pickle", signal.SIGSTOP))
    os.waitpid(child, os.WUNTRACED)
    before = os.listdir()
    result = build(other, TABLE)
    during, is_new = sorted(os.listdir()), TABLE.read_bytes() == new_table
    os.kill(child, signal.SIGCONT)
    assert ending(child) == 0
    assert (result.returncode, is_new) == (0, False)
    assert len(before) == 3  # the two folders and the unfinished file
    assert during == sorted([*before, str(TABLE)])
    assert TABLE.read_bytes() == new_table
    assert_files(TABLE, "aggregates_day", "other")


def test_a_build_goes_on_if_its_file_is_removed_before_it_has_locked_it(
    market_folder, market_table, monkeypatch
):
    try_to_lock, removed = builder.try_to_lock, []

    def neighbour_comes_first(file):
        if not removed:
            removed.append(file.name)
            os.unlink(file.name)
        return try_to_lock(file)

    monkeypatch.setattr(builder, "try_to_lock", neighbour_comes_first)
    result = build(market_folder, TABLE)
    assert (result.returncode, len(removed)) == (0, 1)
    assert TABLE.read_bytes() == market_table.read_bytes()
    assert_files(TABLE, "aggregates_day")


def test_where_files_cannot_be_locked_none_is_taken_for_a_leftover(market_folder, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)
    write_file(LEFTOVER, "perhaps a running build's")
    assert build(market_folder, TABLE).returncode == 0
    assert_files(TABLE, "aggregates_day", LEFTOVER)


def test_no_file_of_another_name_is_taken_for_a_leftover(market_folder):
    names = [
        "other.pkl.0123456789abcdef.tmp",
        "lookup_table.pkl.tmp",
        "lookup_table.pkl.0123456789abcdef",
        "lookup_table.pkl.0123456789ABCDEF.tmp",
        "lookup_tableXpkl.0123456789abcdef.tmp",
        "lookup_table.pkl.backup.tmp",
    ]
    for name in [*names, LEFTOVER]:
        write_file(Path(name), "whose is it?")
    assert build(market_folder, TABLE).returncode == 0
    assert_files(TABLE, "aggregates_day", *names)


def test_a_query_during_builds_answers_from_one_table_or_the_other(market_folder):
    write_flat_files(Path("other"), rows_by_day(OTHER_MARKET))
    answers = []
    for folder in ("other", market_folder):
        assert build(folder, TABLE).returncode == 0
        answers.append(query(TABLE).stdout)
    assert answers[0] != answers[1]

    def build_in_turn():
        for folder in itertools.cycle(["other", market_folder]):
            assert build(folder, TABLE).returncode == 0

    given = []

    def answer_has_changed_four_times():
        result = query(TABLE)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout in answers
        assert not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        given.append(result.stdout)
        return sum(one != other for one, other in zip(given, given[1:])) == 4

    child = fork(build_in_turn)
    try:
        wait_until(answer_has_changed_four_times, 60)
    finally:
        os.kill(child, signal.SIGKILL)
        assert ending(child) == -signal.SIGKILL


# Damaged tables


# Each way of asking for the one anomaly of the made-up table.
QUESTIONS = {
    "day": [ANOMALY_DAY],
    "wide": [ANOMALY_DAY, "--format", "wide"],
    "csv": [ANOMALY_DAY, "--format", "csv"],
    "range": [DATES[0], DATES[-1], "--format", "json"],
    "ticker": ["--ticker", "A", "--format", "json"],
    "aftermath": ["--aftermath"],
}


def ask(content, question):
    """What the querier says of a table's bytes. Options are parsed once: that takes longest."""
    write_file(TABLE, content)
    stdout, stderr = io.StringIO(), io.StringIO()
    redirections = contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr)
    with redirections[0], redirections[1], warnings_on_stderr():
        status = querier.print_answer(options_of(question))
    return subprocess.CompletedProcess(question, status, stdout.getvalue(), stderr.getvalue())


@lru_cache(maxsize=None)
def options_of(question):
    return querier.parse_arguments(["--table", str(TABLE), *QUESTIONS[question]])


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """{question: what the sound table answers}."""
    path = write_file(tmp_path_factory.mktemp("sound") / "table.pkl", made_up_table())
    answers = {}
    for question, arguments in QUESTIONS.items():
        result = call(querier, "--table", path, *arguments)
        assert (result.returncode, result.stderr) == (0, "")
        answers[question] = result.stdout
    return answers


def assert_right_or_refused(content, answers, refused=()):
    """Each question gets the right answer or one line, and those of refused get one line.

    Returns the questions that are answered.
    """
    answered = []
    for question, answer in answers.items():
        result = ask(content, question)
        if result.returncode == 0:
            assert (result.stdout, result.stderr) == (answer, "")
            assert question not in refused
            answered.append(question)
        else:
            assert_refused(result, TABLE, "run build-lookup-table.py")
            assert result.stdout == ""
    return answered


def test_a_table_put_together_from_the_documented_layout_is_read(answers):
    line = f"{'A':<10}{'9':>10}{'3.00':>15}{'1.41':>10}{'4.24':>10}{'1.50':>12}{'50.00':>12}"
    assert line in answers["day"].splitlines()
    for question in ("range", "ticker"):
        (anomaly,) = json.loads(answers[question])
        assert (anomaly["trades"], anomaly["z_score"]) == (9, 6 / math.sqrt(2))
        assert (anomaly["record"], anomaly["earlier_rows"], anomaly["baseline_days"]) == (2, 2, 2)
        assert (anomaly["gap"], anomaly["after_1"], anomaly["after_5"]) == (25, 100, None)
        assert (anomaly["ticker"], anomaly["date"]) == ("A", ANOMALY_DAY)


def test_each_byte_changed_leaves_the_right_answer_or_one_line(answers):
    table = made_up_table()
    answers = {question: answers[question] for question in ("day", "ticker")}
    right = 0
    for i in range(len(table)):
        changed = table[:i] + bytes([table[i] ^ (1 << i % 8)]) + table[i + 1 :]
        right += "day" in assert_right_or_refused(changed, answers)
    # A day is answered from its page, the index and the footer; nothing else is looked at.
    page = 2 * struct.calcsize("<i5d3H") + len("A\nB")
    index = INDEX_HEADER.size + len(DATES) * INDEX_DAY.size
    assert right == len(table) - page - index - FOOTER.size


def test_a_table_cut_short_or_with_a_byte_too_many_is_refused():
    table = made_up_table()
    shorter = [table[:length] for length in range(len(table))]
    for content in [*shorter, table + b"\0", table + table[-1:], b"x" + table]:
        assert_refused(ask(content, "day"), TABLE, "run build-lookup-table.py")


ALL_QUESTIONS = set(QUESTIONS)
# {part: the questions that need it}
NEEDED_BY = {
    "index": ALL_QUESTIONS,
    "page": ALL_QUESTIONS - {"ticker"},
    "directory": {"range", "ticker", "aftermath"},
    "rows": {"ticker"},
    "gaps": {"ticker"},
}
FAR = 2**64 - 1
LYING_EXTENTS = {
    "both as large as can be": (FAR, FAR),
    "an offset as large as can be": (FAR, 8),
    "a length as large as can be": (0, FAR),
    "a sum of 2**64": (1, FAR),
    "a length of a terabyte": (0, 2**40),
    "a length of 64 MB": (0, 2**26),
    "the whole file and a byte": (0, len(made_up_table()) + 1),
    "an offset at the end": (len(made_up_table()), 1),
    "nothing": (0, 0),
    "another part": (0, 40),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("what", LYING_EXTENTS)
def test_an_extent_that_lies_is_refused(answers, part, what):
    table = made_up_table(lies={part: LYING_EXTENTS[what]})
    assert_right_or_refused(table, answers, NEEDED_BY[part])


def replaced(old, new):
    def change(content):
        assert content.count(old) == 1
        return content.replace(old, new)

    return change


def packed_over(layout, offset, *numbers):
    """A change: numbers, packed by a struct layout, stand at offset."""

    def change(content):
        packed = struct.pack(layout, *numbers)
        return content[:offset] + packed + content[offset + len(packed) :]

    return change


def with_all_days(days):
    """A change: the index has the first of its days so many times."""

    def change(index):
        first_day = index[INDEX_HEADER.size :][: INDEX_DAY.size]
        return index[: INDEX_HEADER.size] + first_day * days

    return change


def swapped(size, one, other):
    """A change: of pieces of size bytes, two have changed places."""

    def change(content):
        pieces = [content[i : i + size] for i in range(0, len(content), size)]
        pieces[one], pieces[other] = pieces[other], pieces[one]
        return b"".join(pieces)

    return change


def date_as(text):
    return "index", replaced(ANOMALY_DAY.encode(), text)


def names_as(part, names):
    return part, lambda content: content[: -len(b"A\nB")] + names


def wrong_bytes_and_names(part, name):
    """The wrong contents of a part that ends with the names of the tickers A and B."""
    return {
        f"no {name}": (part, lambda content: b""),
        f"a {name} that lacks its first byte": (part, lambda content: content[1:]),
        f"a {name} that lacks its last byte": (part, lambda content: content[:-1]),
        f"a {name} that lacks its last name": names_as(part, b"A"),
        f"a {name} with a name too many": names_as(part, b"A\nB\nC"),
        f"a {name} that ends with a line feed": names_as(part, b"A\nB\n"),
        f"a {name} of names that are no UTF-8": names_as(part, b"A\n\xff"),
        f"a {name} of a cut character": names_as(part, b"A\n\xc3"),
    }


DAY_OFFSET = INDEX_HEADER.size + DATES.index(ANOMALY_DAY) * INDEX_DAY.size
ROWS_OFFSET = DAY_OFFSET + 10 + EXTENT.size
# The lengths of a pickled row without a baseline, as the first two are, and of one with a baseline.
SHORT_ROW, LONG_ROW = 43, 59
FOURTH_ROW = 2 * SHORT_ROW + LONG_ROW
WRONG_CONTENTS = {
    "no index": ("index", lambda index: b""),
    "an index without days": ("index", lambda index: index[: INDEX_HEADER.size]),
    "an index that lacks a byte": ("index", lambda index: index[:-1]),
    "an index with a byte too many": ("index", lambda index: index + b"\0"),
    "an index of more days than there are": ("index", with_all_days(40_178)),
    "an index of one day, four times": ("index", with_all_days(4)),
    "a window of 0": ("index", packed_over("<I", 0, 0)),
    "a window of 1": ("index", packed_over("<I", 0, 1)),
    "no tickers": ("index", packed_over("<I", 4, 0)),
    "more tickers than there can be": ("index", packed_over("<I", 4, 2**32 - 1)),
    "a count of rows of 0": ("index", packed_over("<I", ROWS_OFFSET, 0)),
    "a count of rows one too low": ("index", packed_over("<I", ROWS_OFFSET, 1)),
    "a count of rows one too high": ("index", packed_over("<I", ROWS_OFFSET, 3)),
    "a count of rows as large as can be": ("index", packed_over("<I", ROWS_OFFSET, 2**32 - 1)),
    "a 30th of February": date_as(b"2024-02-30"),
    "a date of zeros": date_as(b"0000-00-00"),
    "a date in words": date_as(b"yesterday!"),
    "a date without hyphens": date_as(b"20240805\0\0"),
    "a date by its week": date_as(b"2024-W32-1"),
    "a date that is no ASCII": date_as(b"\xff" * 10),
    "a date twice": date_as(DATES[1].encode()),
    "dates out of order": date_as(b"2023-08-05"),
    **wrong_bytes_and_names("page", "day page"),
    **wrong_bytes_and_names("directory", "directory"),
    "a directory with a name twice": names_as("directory", b"A\nA"),
    "pickled rows and gaps that changed places": ("directory", swapped(EXTENT.size, 0, 1)),
    "no pickled rows": ("rows", lambda rows: b""),
    "pickled rows that lack a byte": ("rows", lambda rows: rows[:-1]),
    "a pickled row too few": ("rows", lambda rows: rows[:-LONG_ROW]),
    "a pickled row too many": ("rows", lambda rows: rows + rows[-LONG_ROW:]),
    "pickled rows out of order": ("rows", swapped(SHORT_ROW, 0, 1)),
    "a pickled row twice": (
        "rows",
        lambda rows: rows[:SHORT_ROW] * 2 + rows[2 * SHORT_ROW :],
    ),
    "a slot that is no date's": ("rows", packed_over("<I", 1, 4)),
    "a slot of one date too many": ("rows", packed_over("<I", FOURTH_ROW + 1, 9)),
    "a slot as large as can be": ("rows", packed_over("<I", FOURTH_ROW + 1, 2**32 - 1)),
    "no gaps": ("gaps", lambda gaps: b""),
    "a gap too few": ("gaps", lambda gaps: gaps[:-8]),
    "a gap too many": ("gaps", lambda gaps: gaps + bytes(8)),
    "gaps that lack a byte": ("gaps", lambda gaps: gaps[:-1]),
}
# What a question does not look at cannot be refused.
NOT_REFUSED = {
    "dates out of order": {"day", "csv"},  # found by bisection
    "pickled rows and gaps that changed places": {"range", "aftermath"},
    **{what: {"ticker"} for what in WRONG_CONTENTS if "count of rows" in what},
}


@pytest.mark.parametrize("what", WRONG_CONTENTS)
def test_wrong_contents_with_right_checksums_are_refused(answers, what):
    part, change = WRONG_CONTENTS[what]
    refused = NEEDED_BY[part] - NOT_REFUSED.get(what, set())
    assert_right_or_refused(made_up_table({part: change}), answers, refused)


@pytest.mark.parametrize("column", PAGE_COLUMNS)
def test_whatever_numbers_a_day_page_holds_csv_and_json_can_be_parsed(
    column,
):
    code = PAGE_COLUMNS[column]
    codes_before = list(PAGE_COLUMNS.values())[: list(PAGE_COLUMNS).index(column)]
    offset = sum(2 * struct.calcsize(before) for before in codes_before)
    odd = {
        "i": [-(2**31), -1, 0, 2**31 - 1],
        "H": [0, 1, 2**16 - 1],
        "d": [math.nan, math.inf, -math.inf, -0.0, 0.0, 5e-324, -1.0, 1.7e308, -1.7e308],
    }[code]
    # Each number of the day page's two rows stands beside itself, and beside each of two others.
    pairs = [(odd[i], odd[i - distance]) for distance in range(3) for i in range(len(odd))]
    for pair in pairs:
        content = made_up_table({"page": packed_over(f"<2{code}", offset, *pair)})
        for question in ("wide", "csv", "range", "aftermath"):
            result = ask(content, question)
            assert (result.returncode, result.stderr) == (0, ""), (pair, question)
            if question == "range":
                strict_json(result.stdout)
            if question == "csv":
                rows = csv.DictReader(io.StringIO(result.stdout), strict=True)
                assert rows.fieldnames == ANOMALY_FIELDS
                assert all(None not in [*row, *row.values()] for row in rows)


@pytest.mark.parametrize("part", PARTS)
def test_an_extent_longer_than_the_file_costs_no_memory(part):
    tracemalloc.start()
    try:
        for offset, length in LYING_EXTENTS.values():
            if length > len(made_up_table()):
                for question in QUESTIONS:
                    ask(made_up_table(lies={part: (offset, length)}), question)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 10 * 2**20


def test_a_sparse_file_of_six_gigabytes_is_refused_in_10_mb_and_5_seconds():
    index_extent = EXTENT.pack(0, 6 * 2**30, 0)
    for begins in (b"", made_up_table()[:28]):
        with TABLE.open("wb") as file:
            file.write(begins)
            file.seek(6 * 2**30)
            file.write(FOOTER.pack(index_extent, MAGIC))
        tracemalloc.start()
        started = time.monotonic()
        try:
            result = query(TABLE)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert_refused(result, TABLE, "run build-lookup-table.py")
        assert most < 10 * 2**20
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("begins", [b"", made_up_table()[:28]], ids=["any", "signature"])
def test_a_table_of_the_first_version_is_refused_and_to_be_built_anew(begins):
    old_footer = struct.pack("<QQI12s", 28, 4, zlib.crc32(b"N..."), b"lookup-table")
    write_file(TABLE, begins + b"N..." + old_footer)
    assert_refused(
        query(TABLE), f"{TABLE} is of an older version: run build-lookup-table.py again\n"
    )


WITHOUT_PICKLE = """
import runpy, sys
for name in ("pickle", "_pickle", "resource"):
    sys.modules[name] = None
script, *sys.argv[1:] = sys.argv[1:]
runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.parametrize("question", ["day", "wide", "csv", "ticker"])
def test_what_reads_a_table_of_ours_imports_no_pickle(answers, question):
    write_file(TABLE, made_up_table())
    script = command("query-lookup-table.py")[1]
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_PICKLE, script, *QUESTIONS[question]],
        capture_output=True,
        encoding="utf-8",
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == answers[question]


@pytest.mark.parametrize("question", ["range", "aftermath"])
def test_what_needs_numpy_unpickles_nothing_either(answers, monkeypatch, question):
    # numpy imports pickle for itself, so that its absence proves nothing here.
    for name in ("Unpickler", "load", "loads"):
        monkeypatch.setattr(pickle, name, None)
    monkeypatch.setattr(querier, "load_plain_pickle", None)
    assert ask(made_up_table(), question).stdout == answers[question]


# Streams

QUERIER_ARGUMENTS = ["--table", "no table", LAST_DAY]
TRACES = ("Traceback", "Exception ignored", "BrokenPipe")


def redirected(redirection, script, *args, interpreter=(sys.executable,)):
    """The script as a process of its own, its streams redirected as a shell does it."""
    words = [*interpreter, *command(script, *args)[1:]]
    line = f'exec "$@" {redirection}'
    result = subprocess.run(
        ["sh", "-c", line, "sh", *words],
        capture_output=True,
        encoding="utf-8",
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )
    assert [word for word in TRACES if word in result.stdout + result.stderr] == []
    return result


@pytest.fixture
def no_reader():
    """A shell's redirection into a pipe that nobody reads any more, as behind `| true`."""
    reader, writer = os.pipe()
    os.close(reader)
    os.set_inheritable(writer, True)
    yield f">/proc/{os.getpid()}/fd/{writer}"
    os.close(writer)


@pytest.mark.parametrize("script", [BUILDER, QUERIER])
def test_help_into_a_full_disk_ends_with_status_1(script):
    result = redirected(">/dev/full", script, "--help")
    assert (result.returncode, result.stderr) == (1, "")


@pytest.mark.parametrize("script", [builder, querier])
def test_help_that_argparse_fails_to_print_ends_with_status_1(script, monkeypatch):
    # So it is before Python 3.11 if stdout has no buffer.
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("argparse.ArgumentParser.print_help", fail)
    result = call(script, "--help")
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "")


# What -OO does to a script; to compile pandas in that way too would take twenty seconds.
WITHOUT_DOC_STRINGS = """
import sys
script, *sys.argv[1:] = sys.argv[1:]
with open(script, encoding="utf-8") as file:
    program = compile(file.read(), script, "exec", optimize=2)
exec(program, {"__name__": "__main__", "__file__": script})
"""
STRIPPED = (sys.executable, "-c", WITHOUT_DOC_STRINGS)


@pytest.mark.parametrize("script", [BUILDER, QUERIER])
def test_without_doc_strings_there_is_help(script):
    result = redirected("", script, "--help", interpreter=STRIPPED)
    assert (result.returncode, result.stderr) == (0, "")
    assert "usage: " in result.stdout


def test_without_doc_strings_and_assertions_both_scripts_work(market_folder, market_table):
    assert redirected("", BUILDER, interpreter=STRIPPED).returncode == 0
    assert TABLE.read_bytes() == market_table.read_bytes()
    for interpreter in (STRIPPED, (sys.executable, "-OO")):
        answer = redirected("", QUERIER, LAST_DAY, interpreter=interpreter)
        assert (answer.returncode, answer.stdout) == (0, query(market_table).stdout)


@pytest.mark.parametrize("redirection", [">&-", "2>/dev/full", "2>&-"])
@pytest.mark.parametrize(
    ("script", "arguments"), [(BUILDER, []), (QUERIER, QUERIER_ARGUMENTS)], ids=["build", "query"]
)
def test_a_refusal_ends_with_status_1_wherever_its_streams_lead(script, arguments, redirection):
    result = redirected(redirection, script, *arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("\n") == (0 if "2>" in redirection else 1)


def test_a_refused_build_whose_reader_is_gone_ends_with_status_1(no_reader):
    write_file(Path("aggregates_day/2024-08-01.csv"), "")
    result = redirected(no_reader, BUILDER)
    assert_refused(result, "aggregates_day/2024-08-01.csv")
    assert os.listdir() == ["aggregates_day"]


@pytest.mark.parametrize("redirection", ["2>/dev/full", ">&- 2>&-"])
def test_a_good_build_ends_with_status_0_and_a_whole_table_without_a_stream(
    market_folder, market_table, redirection
):
    result = redirected(redirection, BUILDER)
    assert result.returncode == 0
    assert TABLE.read_bytes() == market_table.read_bytes()
    assert len(result.stdout.splitlines()) == (11 if redirection == "2>/dev/full" else 0)
    assert_files(TABLE, "aggregates_day")


@pytest.mark.parametrize("descriptor", ["", "2"])
def test_a_build_whose_reader_is_gone_ends_with_status_0_and_a_whole_table(
    market_folder, market_table, no_reader, descriptor
):
    assert redirected(descriptor + no_reader, BUILDER).returncode == 0
    assert TABLE.read_bytes() == market_table.read_bytes()
    assert_files(TABLE, "aggregates_day")


def test_a_build_whose_output_cannot_be_written_says_that_the_table_is(market_folder, market_table):
    result = redirected(">/dev/full", BUILDER)
    assert TABLE.read_bytes() == market_table.read_bytes()
    assert result.returncode == 1
    *_, last = result.stderr.splitlines()
    assert last == f"{TABLE} is written, but stdout failed: {os.strerror(errno.ENOSPC)}"


# What other systems lack


def run_after(lines, script, *args, **options):
    """The script in a process in which lines were run before."""
    program = f"{lines}\nimport runpy, sys\nscript, *sys.argv[1:] = sys.argv[1:]\n"
    program += "runpy.run_path(script, run_name='__main__')"
    _, path, *words = command(script, *args)
    started = [sys.executable, "-c", program, path, *words]
    return subprocess.run(started, capture_output=True, encoding="utf-8", **options)


@pytest.mark.parametrize("name", ["numpy", "pandas"])
def test_without_a_package_one_line_says_how_to_get_it(market_folder, name):
    result = run_after(f"import sys; sys.modules[{name!r}] = None", BUILDER)
    assert_refused(result, f"{name} is missing: pip install -r requirements.txt")
    assert result.stdout == ""
    assert os.listdir() == ["aggregates_day"]


# Windows and macOS lack some of these.
TAKEN_AWAY = """
import builtins, os, signal, sys
for module in ("fcntl", "resource"):
    sys.modules[module] = None
for module, name in ((signal, "SIGHUP"), (os, "O_NONBLOCK")):
    delattr(module, name)
open_file = builtins.open
def open_but_proc(file, *args, **kwargs):
    if str(file).startswith("/proc"):
        raise FileNotFoundError(2, "No such file or directory", file)
    return open_file(file, *args, **kwargs)
builtins.open = open_but_proc
"""


def test_where_signals_locks_and_limits_are_missing_both_scripts_work(market_folder, market_table):
    result = run_after(TAKEN_AWAY, BUILDER)
    assert (result.returncode, result.stderr.count("\n")) == (0, 1)
    assert TABLE.read_bytes() == market_table.read_bytes()
    answer = run_after(TAKEN_AWAY, QUERIER, LAST_DAY)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout == query(market_table).stdout
    write_file(TABLE, pickle.dumps(load_table()))
    plain = run_after(TAKEN_AWAY, QUERIER, LAST_DAY)
    assert (plain.returncode, plain.stdout) == (0, answer.stdout)


# Clocks


@pytest.mark.parametrize("zone", ["America/New_York", "Pacific/Kiritimati"])
def test_in_every_time_zone_the_table_is_the_same(market_folder, market_table, monkeypatch, zone):
    answer = query(market_table).stdout
    with contextlib.ExitStack() as stack:
        stack.callback(time.tzset)
        stack.enter_context(monkeypatch.context()).setenv("TZ", zone)
        time.tzset()
        assert build(market_folder, TABLE).returncode == 0
        assert TABLE.read_bytes() == market_table.read_bytes()
        assert query(TABLE).stdout == answer


@pytest.mark.parametrize("now", [0, 2**31, 10**11, -(10**9)])
def test_whatever_the_clock_says_the_table_is_the_same(
    market_folder, market_table, monkeypatch, now
):
    for name in ("time", "monotonic", "perf_counter"):
        monkeypatch.setattr(time, name, lambda: now)
    for path in market_folder.iterdir():
        os.utime(path, (max(now, 0) % 2**31,) * 2)
    assert build(market_folder, TABLE).returncode == 0
    assert TABLE.read_bytes() == market_table.read_bytes()


# Chance


def mutated(rng, content, alphabet):
    """content, bytes, with one to three changes to it, and now and then cut short."""
    for _ in range(rng.randint(1, 3)):
        start, other = rng.randrange(len(content) + 1), rng.randrange(len(content) + 1)
        end = start + rng.choice([0, 1, 1, 2, 5, 20])
        pieces = [
            b"",
            bytes(rng.choice(alphabet) for _ in range(rng.randint(1, 4))),
            content[start:end] * 2,
            content[other : other + 8],
        ]
        content = content[:start] + rng.choice(pieces) + content[end:]
    return content[: rng.randrange(len(content) + 1)] if rng.random() < 0.1 else content


def exact_number(text):
    number = Decimal(text)
    if not (text.isascii() and "_" not in text and number.is_finite() and number >= 0):
        raise ValueError(text)
    return number


def strictly_parsed(content):
    """{ticker: {date: (trades, close)}} of a flat file's bytes. ValueError if they are not one."""
    header, *rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
    tickers = {}
    for fields in rows:
        if not fields or (len(fields) == 1 and not fields[0].strip()):
            continue
        row = dict(zip(header, fields))
        if not len(fields) == len(header) == len(row):
            raise ValueError(fields)
        trades, close = exact_number(row["transactions"]), exact_number(row["close"])
        date = datetime(1970, 1, 1) + timedelta(
            days=int(exact_number(row["window_start"]) // (24 * 3600 * 10**9))
        )
        if not (row["ticker"] and trades == int(trades) < 2**31 and 1990 <= date.year < 2100):
            raise ValueError(row)
        days = tickers.setdefault(row["ticker"], {})
        days[str(date.date())] = int(trades), float(close)
    return tickers


def test_a_chance_csv_gives_the_very_rows_it_holds_or_one_line():
    rng = random.Random(2024)
    first_day = flat_text([("A", 36394, 142.86), ("AAp", 12, 25.5)], "2024-08-01")
    second_day = flat_text([("A", 7, 453.44914276561076), ("NA", 0, 0.1)], "2024-08-02")
    base = (first_day + second_day.partition("\n")[2]).encode()
    alphabet = b',,,\n\n\r""\' .-+eE0123456789NaT_\0\t\xff\xef\xbb\xbf\xc3\xa9'
    accepted = 0
    rounds = 200 * EFFORT
    for _ in range(rounds):
        content = mutated(rng, base, alphabet)
        path = write_file(Path("flat/market.csv"), content)
        write_file(TABLE, OLD)
        result = build("flat", TABLE)
        if result.returncode:
            assert_refused(result, str(path))
            assert TABLE.read_bytes() == OLD
            continue
        table = load_table()
        rows = {
            ticker: {date: (stats["trades"], stats["close_price"]) for date, stats in days.items()}
            for ticker, days in table.items()
        }
        assert rows == strictly_parsed(content), content
        assert list(rows) == list(strictly_parsed(content))
        has_day = any("2024-08-01" in days for days in table.values())
        assert query(TABLE, "2024-08-01").returncode == (0 if has_day else 1)
        accepted += 1
    assert 0.1 < accepted / rounds < 0.9


def is_answered(result):
    """Whether there is an answer. If there is none, one line must say why."""
    if result.returncode:
        assert_refused(result)
        assert result.stdout == ""
        return False
    assert result.stderr == ""
    assert result.stdout.startswith(f"\nAnomalies Found for {LAST_DAY}:\n\nTicker ")
    return True


def test_a_table_damaged_by_chance_gives_the_right_answer_or_one_line(market_table):
    rng = random.Random(8)
    table, answer = market_table.read_bytes(), query(market_table).stdout
    given, rounds = [], 500 * EFFORT
    for _ in range(rounds):
        write_file(TABLE, mutated(rng, table, range(256)))
        result = query(TABLE)
        if is_answered(result):
            given.append(result.stdout)
    assert set(given) == {answer}
    assert len(given) < rounds


def test_two_tables_spliced_give_the_answer_of_one_of_them_or_one_line(market_table):
    build(write_flat_files(Path("other"), rows_by_day(OTHER_MARKET)), "other.pkl")
    tables = {query(path).stdout: path.read_bytes() for path in (market_table, Path("other.pkl"))}
    rng = random.Random(9)
    given, rounds = [], 200 * EFFORT
    for _ in range(rounds):
        one, other = rng.sample(sorted(tables.values()), 2)
        cut = rng.randrange(len(one))
        write_file(TABLE, one[:cut] + other[cut:])
        result = query(TABLE)
        if is_answered(result):
            given.append(result.stdout)
    assert set(given) == set(tables)
    assert len(given) < rounds


def query_pickle():
    """query(TABLE) without what Python itself says when it has no room for a large bytearray."""
    result = query(TABLE)
    complaint = "SystemError: deallocated bytearray object has exported buffers\n"
    result.stderr = result.stderr.replace(complaint, "")
    return result


def chance_pickle(rng):
    """Opcodes one after the other, each with what may be its argument."""
    names = [b"os\nsystem\n", b"builtins\ndict\n", b"numpy\ndtype\n", b"\2\0\0\0f8", b"\2f8"]
    arguments = [b"", b"", b"\0", b"\1", bytes(4), bytes(8), b"5\n", b"'A'\n", *names]
    opcodes = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
    pieces = [rng.choice(opcodes) + rng.choice(arguments) for _ in range(rng.randint(1, 30))]
    return b"\x80\4" + b"".join(pieces) + b"."


def test_a_chance_pickle_is_refused_in_one_line():
    rng = random.Random(10)
    for _ in range(500 * EFFORT):
        write_file(TABLE, chance_pickle(rng))
        assert_refused(query_pickle(), str(TABLE), "run build-lookup-table.py")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_plain_table_damaged_by_chance_gives_an_answer_or_one_line(market_table, protocol):
    rng = random.Random(protocol)
    table = pickle.dumps(load_table(market_table), protocol)
    answered = [0, 0]
    for _ in range(200 * EFFORT):
        write_file(TABLE, mutated(rng, table, range(256)))
        answered[is_answered(query_pickle())] += 1
    assert all(answered)


@pytest.mark.parametrize("part", PARTS)
def test_chance_bytes_with_right_checksums_give_an_answer_or_one_line(part):
    rng = random.Random(part)
    questions = sorted(NEEDED_BY[part])
    answered = [0, 0]
    for _ in range(200 * EFFORT):
        table = made_up_table({part: lambda content: mutated(rng, content, range(256))})
        result = ask(table, rng.choice(questions))
        if result.returncode:
            assert_refused(result, TABLE)
        else:
            assert result.stderr == ""
        answered[result.returncode == 0] += 1
    assert all(answered)
