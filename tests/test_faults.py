"""What can go wrong around the scripts: signals, disks, neighbours, clocks and chance bytes.

Fuzzing takes some ten seconds and the same bytes each time; TEST_EFFORT=60 makes it ten minutes.
"""

import csv
import errno
import io
import os
import pickle
import pickletools
import random
import resource
import signal
import struct
import subprocess
import sys
import time
import zlib
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from conftest import (
    EFFORT,
    LAST_DAY,
    MARKET,
    SAMPLE_MARKET,
    USUAL,
    assert_refused,
    build,
    builder,
    command,
    flat_text,
    querier,
    query,
    rows_by_day,
    run,
    write_bytes,
    write_market,
)

pytestmark = pytest.mark.usefixtures("empty_folder")

TABLE = Path("lookup_table.pkl")
OLD = b"the old table"
OTHER_MARKET = {**MARKET, "NA": ([*USUAL, 1000], [2, 2, 2, 2, 2, 5])}


def fork(work):
    """The process id of a copy of this process that does work, whose result is its status."""
    child = os.fork()
    if child:
        return child
    status = 99
    try:
        with open(os.devnull, "w") as sys.stdout:
            status = work()
    finally:
        os._exit(status)


def fork_build(*args, prepare=None):
    """The process id of a builder, which starts at once because pandas is imported already."""

    def work():
        if prepare:
            prepare()
        return builder.main([str(arg) for arg in args])

    return fork(work)


def ending(child):
    """The status that child ends with, as subprocess gives it."""
    _, status = os.waitpid(child, 0)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)


def assert_only_the_table(*others):
    assert sorted(os.listdir()) == sorted([str(TABLE), *others])


@pytest.fixture
def new(sample_table):
    """The bytes of the sample market's table. They are the same in every build."""
    return sample_table.read_bytes()


# Signals


def test_kill_9_at_any_moment_leaves_the_old_table_or_the_new_one(new):
    arguments = "--data-dir", SAMPLE_MARKET, "--output", TABLE
    started = time.monotonic()
    assert ending(fork_build(*arguments)) == 0
    duration = time.monotonic() - started
    assert TABLE.read_bytes() == new

    killed = []
    moments = 40
    for moment in range(moments):
        write_bytes(TABLE, OLD)
        child = fork_build(*arguments)
        time.sleep(duration * moment / moments)
        os.kill(child, signal.SIGKILL)
        killed.append(ending(child) == -signal.SIGKILL)
        assert TABLE.read_bytes() in (OLD, new)
    assert sum(killed) > moments / 4

    assert build(SAMPLE_MARKET, TABLE).returncode == 0
    assert TABLE.read_bytes() == new


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_kill_9_around_each_step_of_writing_leaves_the_old_table_or_the_new_one(new, step, before):
    def die_around(name):
        function = getattr(os, name)

        def dying(*args):
            if not before:
                function(*args)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(os, name, dying)

    def prepare():
        if step == "write":
            write = builder.write_lookup_table

            def dying(file, *args):
                if not before:
                    write(file, *args)
                    file.flush()
                os.kill(os.getpid(), signal.SIGKILL)

            builder.write_lookup_table = dying
        else:
            die_around(step)

    write_bytes(TABLE, OLD)
    child = fork_build("--data-dir", SAMPLE_MARKET, "--output", TABLE, prepare=prepare)
    assert ending(child) == -signal.SIGKILL
    assert TABLE.read_bytes() == (new if (step, before) == ("replace", False) else OLD)


def heed_ctrl_c():
    """To be run in a new process: a shell may have started the tests with Ctrl-C switched off."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupted(signal_number, line, delay=0.0):
    """The builder, sent a signal delay seconds after it printed line: (status, stderr)."""
    process = subprocess.Popen(
        command("build-lookup-table.py", "--data-dir", SAMPLE_MARKET),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=heed_ctrl_c,
    )
    while not process.stdout.readline().startswith(line):
        assert process.poll() is None, process.stderr.read()
    time.sleep(delay)
    process.send_signal(signal_number)
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr


LINES = ["Starting", "Processing 2024-08-02", "Processing 2024-10-18", "Finished", "Building"]


@pytest.mark.parametrize("delay", [0, 0.01])
@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize(
    ("signal_number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_told_to_stop_at_any_moment_it_stops_quietly_and_tidies_up(
    new, signal_number, status, line, delay
):
    write_bytes(TABLE, OLD)
    ended, stderr = interrupted(signal_number, line, delay)
    assert_only_the_table()
    if TABLE.read_bytes() == OLD:
        assert (ended, stderr) == (status, "")
    else:
        assert TABLE.read_bytes() == new


def slowly(function, log):
    """function as it would be on a slow disk, leaving a line in log each time."""

    def slow(*args):
        with open(log, "a") as file:
            file.write("called\n")
        time.sleep(0.1)
        return function(*args)

    return slow


def test_ctrl_c_while_files_are_read_ends_with_status_130_and_soon():
    def prepare():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        builder.read_flat_file = slowly(builder.read_flat_file, "log")

    write_bytes(TABLE, OLD)
    child = fork_build("--data-dir", SAMPLE_MARKET, "--output", TABLE, prepare=prepare)
    for _ in range(1000):
        if not os.path.exists("log"):
            time.sleep(0.01)
    os.kill(child, signal.SIGINT)
    assert ending(child) == 130
    assert TABLE.read_bytes() == OLD
    assert_only_the_table("log")
    assert Path("log").read_text().count("\n") < 30


def test_ctrl_c_between_two_files_ends_with_status_130_and_soon(monkeypatch):
    def interrupted_after_two(items, *_):
        yield from items[:2]
        raise KeyboardInterrupt

    monkeypatch.setattr(builder, "progress_bar", interrupted_after_two)
    monkeypatch.setattr(builder, "read_flat_file", slowly(builder.read_flat_file, "log"))
    result = build(SAMPLE_MARKET, TABLE)
    assert (result.returncode, result.stderr) == (130, "")
    assert os.listdir() == ["log"]
    assert Path("log").read_text().count("\n") < 30


def test_ctrl_c_while_pandas_is_imported_is_as_quiet():
    ctrl_c = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(9)"
    write_bytes(Path("pandas.py"), ctrl_c)
    result = run(
        "build-lookup-table.py",
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        preexec_fn=heed_ctrl_c,
    )
    assert result.returncode in (130, -signal.SIGINT)
    assert (result.stdout, result.stderr) == ("", "")


def test_ctrl_c_while_a_table_is_read_is_quiet(market_table, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(querier, "read_day", interrupt)
    result = query(market_table)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


# Disks


@pytest.mark.parametrize("room", [0, 1, 4096, 100_000, 0.5, 0.99])
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["", "json"])
def test_on_a_full_disk_the_old_table_stays(new, room, options):
    most = int(room * len(new)) if isinstance(room, float) else room
    write_bytes(TABLE, OLD)
    result = run(
        *("build-lookup-table.py", "--data-dir", SAMPLE_MARKET, *options),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
        restore_signals=False,
    )
    assert_refused(result, str(TABLE), os.strerror(errno.EFBIG))
    assert TABLE.read_bytes() == OLD
    assert_only_the_table()


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_an_error_of_the_disk_at_the_end_is_told_in_one_line(
    market_folder, monkeypatch, step, error
):
    def fail(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, step, fail)
    write_bytes(TABLE, OLD)
    assert_refused(build(market_folder, TABLE), str(TABLE), os.strerror(error))
    assert TABLE.read_bytes() == OLD
    assert_only_the_table("aggregates_day")


@pytest.mark.parametrize(
    "output",
    [
        "no/such/folder/table.pkl",
        "aggregates_day/2024-08-01.csv/table.pkl",
        "aggregates_day",
        "/proc/self/table.pkl",
        "/dev/null/table.pkl",
        "x" * 300,
    ],
)
def test_where_nothing_can_be_written_one_line_says_so(market_folder, output):
    assert_refused(build(market_folder, output), output)
    assert os.listdir() == ["aggregates_day"]
    assert len(os.listdir("aggregates_day")) == len(rows_by_day(MARKET))


def test_a_folder_that_may_not_be_written_to_is_told_in_one_line(market_folder, monkeypatch):
    # To root every folder is open: so it is the kernel's answer that is given here.
    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    assert_refused(build(market_folder, TABLE), str(TABLE), "Permission denied")


def test_a_file_that_vanishes_after_it_was_listed_is_named(market_folder, monkeypatch):
    find_flat_files = builder.find_flat_files

    def find_and_lose(data_dir):
        paths = find_flat_files(data_dir)
        paths[3].unlink()
        return paths

    monkeypatch.setattr(builder, "find_flat_files", find_and_lose)
    write_bytes(TABLE, OLD)
    assert_refused(build(market_folder, TABLE), "2024-08-06.csv", "No such file")
    assert TABLE.read_bytes() == OLD


def test_without_memory_one_line_says_so(market_folder, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(builder, "add_baselines", fail)
    write_bytes(TABLE, OLD)
    assert_refused(build(market_folder, TABLE), str(TABLE), "memory")
    assert TABLE.read_bytes() == OLD
    assert_only_the_table("aggregates_day")


# Neighbours


def test_builders_at_once_leave_one_whole_table(new):
    other = write_market(Path("other"), rows_by_day(OTHER_MARKET))
    build(other, "other.pkl")
    tables = {new, Path("other.pkl").read_bytes()}
    for _ in range(8):
        children = [
            fork_build("--data-dir", folder, "--output", TABLE)
            for folder in (SAMPLE_MARKET, other, SAMPLE_MARKET)
        ]
        assert [ending(child) for child in children] == [0, 0, 0]
        assert TABLE.read_bytes() in tables
        assert_only_the_table("other", "other.pkl")


def test_a_query_during_builds_answers_from_one_table_or_the_other(market_folder):
    write_market(Path("other"), rows_by_day(OTHER_MARKET))
    answers = []
    for folder in ("other", market_folder):
        assert build(folder, TABLE).returncode == 0
        answers.append(query(TABLE).stdout)
    assert answers[0] != answers[1]

    def build_in_turn():
        results = [build(folder, TABLE) for folder in ["other", market_folder] * 10]
        return sum(result.returncode for result in results)

    child = fork(build_in_turn)
    given = []
    while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        result = query(TABLE)
        assert (result.returncode, result.stderr) == (0, "")
        given.append(result.stdout)
    assert ending(child) == 0
    assert set(given) == set(answers)
    turns = sum(one != other for one, other in zip(given, given[1:]))
    assert turns > 3


FOOTER = struct.Struct("<QQI12s")


def with_index(table, **changes):
    """table, which is bytes, with an index of other values and footer and checksums that fit."""
    offset, length, _, magic = FOOTER.unpack(table[-FOOTER.size :])
    index = {**pickle.loads(table[offset : offset + length]), **changes}
    payload = pickle.dumps(index)
    return table[:offset] + payload + FOOTER.pack(offset, len(payload), zlib.crc32(payload), magic)


def test_an_index_that_is_only_written_anew_is_as_good(market_table):
    write_bytes(TABLE, with_index(market_table.read_bytes()))
    assert query(TABLE).stdout == query(market_table).stdout != ""


@pytest.mark.parametrize("version", [0, 2, None, "1", "1\n2"])
def test_a_table_of_another_format_version_is_refused_by_it(market_table, version):
    write_bytes(TABLE, with_index(market_table.read_bytes(), version=version))
    assert_refused(query(TABLE), "format", str(version)[:1], "run build-lookup-table.py")


@pytest.mark.parametrize(
    "changes",
    [
        {"days": {}},
        {"days": None},
        {"days": {LAST_DAY: (0, 10)}},
        {"days": {LAST_DAY: (-1, 10, 0)}},
        {"days": {LAST_DAY: (0, -10, 0)}},
        {"days": {LAST_DAY: (0.5, 10, 0)}},
        {"days": {LAST_DAY: (2**70, 10, 0)}},
        {"days": {LAST_DAY: (0, 2**70, 0)}},
        {"days": {LAST_DAY: None}},
        {"days": [LAST_DAY]},
        {"days": {"yesterday": (0, 10, 0)}},
        {"days": {20241018: (0, 10, 0)}},
    ],
    ids=str,
)
def test_an_index_of_another_make_with_right_checksums_is_refused(market_table, changes):
    write_bytes(TABLE, with_index(market_table.read_bytes(), **changes))
    assert_refused(query(TABLE), str(TABLE))


# Clocks


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Pacific/Kiritimati"])
def test_in_every_time_zone_the_table_is_the_same(market_folder, market_table, zone):
    result = run("build-lookup-table.py", env={**os.environ, "TZ": zone})
    assert result.returncode == 0
    assert TABLE.read_bytes() == market_table.read_bytes()
    there = run("query-lookup-table.py", LAST_DAY, env={**os.environ, "TZ": zone})
    assert there.stdout == query(market_table).stdout


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
    for _ in range(500 * EFFORT):
        content = mutated(rng, base, alphabet)
        path = write_bytes(Path("flat/market.csv"), content)
        write_bytes(TABLE, OLD)
        result = build("flat", TABLE)
        if result.returncode:
            assert_refused(result, str(path))
            assert TABLE.read_bytes() == OLD
            continue
        table = pickle.loads(TABLE.read_bytes())
        rows = {
            ticker: {date: (stats["trades"], stats["close_price"]) for date, stats in days.items()}
            for ticker, days in table.items()
        }
        assert rows == strictly_parsed(content), content
        assert list(rows) == list(strictly_parsed(content))
        assert query(TABLE, "2024-08-01").returncode in (0, 1)
        accepted += 1
    assert 0.1 < accepted / (500 * EFFORT) < 0.9


def query_damaged():
    """query(TABLE) without what Python itself says when it has no room for a large bytearray."""
    result = query(TABLE)
    complaint = "SystemError: deallocated bytearray object has exported buffers\n"
    result.stderr = result.stderr.replace(complaint, "")
    return result


def assert_answer_or_one_line(result, answers=None):
    """An answer, one of answers if there are any given, or one line that says why there is none."""
    if result.returncode:
        assert_refused(result)
        assert result.stdout == ""
    else:
        assert result.stderr == ""
        assert result.stdout in (answers or [result.stdout])
        assert result.stdout.startswith(f"\nAnomalies Found for {LAST_DAY}:\n\nTicker ")


def test_a_table_damaged_by_chance_gives_the_right_answer_or_one_line(market_table):
    rng = random.Random(8)
    table, answer = market_table.read_bytes(), query(market_table).stdout
    given = 0
    for _ in range(1500 * EFFORT):
        write_bytes(TABLE, mutated(rng, table, range(256)))
        result = query_damaged()
        assert_answer_or_one_line(result, [answer])
        given += result.returncode == 0
    assert given > 0


def test_two_tables_spliced_give_the_answer_of_one_of_them_or_one_line(market_table):
    build(write_market(Path("other"), rows_by_day(OTHER_MARKET)), "other.pkl")
    answers = [query(market_table).stdout, query("other.pkl").stdout]
    assert answers[0] != answers[1]
    rng = random.Random(9)
    tables = [market_table.read_bytes(), Path("other.pkl").read_bytes()]
    for _ in range(500 * EFFORT):
        one, other = rng.sample(tables, 2)
        cut = rng.randrange(len(one))
        write_bytes(TABLE, one[:cut] + other[cut:])
        assert_answer_or_one_line(query_damaged(), answers)


def chance_pickle(rng):
    """Opcodes one after the other, each with what may be its argument."""
    names = [b"os\nsystem\n", b"builtins\ndict\n", b"numpy\ndtype\n", b"\2\0\0\0f8", b"\2f8"]
    arguments = [b"", b"", b"\0", b"\1", bytes(4), bytes(8), b"5\n", b"'A'\n", *names]
    opcodes = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
    pieces = [rng.choice(opcodes) + rng.choice(arguments) for _ in range(rng.randint(1, 30))]
    return b"\x80\4" + b"".join(pieces) + b"."


def test_a_chance_pickle_is_refused_in_one_line():
    rng = random.Random(10)
    for _ in range(1500 * EFFORT):
        write_bytes(TABLE, chance_pickle(rng))
        assert_refused(query_damaged(), str(TABLE), "run build-lookup-table.py")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_plain_table_damaged_by_chance_gives_an_answer_or_one_line(market_table, protocol):
    rng = random.Random(protocol)
    table = pickle.dumps(pickle.loads(market_table.read_bytes()), protocol)
    for _ in range(500 * EFFORT):
        write_bytes(TABLE, mutated(rng, table, range(256)))
        assert_answer_or_one_line(query_damaged())


@pytest.mark.parametrize("part", ["index", "day"])
def test_chance_bytes_with_right_checksums_give_an_answer_or_one_line(market_table, part):
    rng = random.Random(part)
    table = market_table.read_bytes()
    offset, length, _, magic = FOOTER.unpack(table[-FOOTER.size :])
    index = pickle.loads(table[offset : offset + length])
    start, size, _ = index["days"][LAST_DAY]
    for _ in range(800 * EFFORT):
        if part == "day":
            page = mutated(rng, table[start : start + size], range(256))
            place = offset, len(page), zlib.crc32(page)
            payload = pickle.dumps({**index, "days": {**index["days"], LAST_DAY: place}})
        else:
            page, payload = b"", mutated(rng, table[offset : offset + length], range(256))
        footer = FOOTER.pack(offset + len(page), len(payload), zlib.crc32(payload), magic)
        write_bytes(TABLE, table[:offset] + page + payload + footer)
        assert_answer_or_one_line(query_damaged())
