"""build-lookup-table.py --download, against a server on 127.0.0.1."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest
from fakes.polygon import (
    BROKEN,
    RATE_LIMIT,
    REFUSALS,
    SPLITS,
    TICKERS,
    FakePolygon,
    answered,
    row,
)
from helpers.flat_files import flat_text, write_file
from helpers.scripts import KEY, TOP, assert_refused, builder, call, load_table, run

FOLDER = Path("aggregates_day")
MONDAY, TUESDAY, WEDNESDAY, THURSDAY, FRIDAY = WEEK = [f"2024-08-{day:02}" for day in range(5, 10)]
OLD = b"the old table"
LISTED = [
    {"ticker": "AAA", "name": "Triple A, Inc.", "type": "CS", "active": True, "cik": "1"},
    {"ticker": "BBB", "name": "B", "type": "WARRANT"},
    {"ticker": "NAMELESS"},
    {"ticker": "AAA", "name": "Who had it before", "type": "ETF", "active": False},
    {"ticker": "GONE", "name": "Gone Ltd", "type": None, "active": False},
]
SPLIT = [
    {"ticker": "BBB", "execution_date": TUESDAY, "split_from": 20, "split_to": 1},
    {"ticker": "AAA", "execution_date": "2024-08-01", "split_from": 1, "split_to": 2},
    {"ticker": "BBB", "execution_date": TUESDAY, "split_from": 20, "split_to": 1},
    {"ticker": "AAA", "execution_date": FRIDAY, "split_from": 1, "split_to": 1.5},
]

pytestmark = pytest.mark.usefixtures("empty_folder")


class Clock:
    """Replaces time.time and time.sleep. Time passes only in waits."""

    def __init__(self, now):
        self.set(now)
        self.waits = []

    def set(self, now):
        self.now = datetime.fromisoformat(now).replace(tzinfo=timezone.utc)

    def sleep(self, seconds):
        self.waits.append(seconds)
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch):
    """The Saturday after WEEK, 12:00 UTC."""
    clock = Clock("2024-08-10T12:00:00")
    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setattr(time, "time", lambda: clock.now.timestamp())
    return clock


@pytest.fixture
def market(monkeypatch):
    for name in ("MASSIVE_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    with FakePolygon() as market:
        market.days = {day: [row("AAA", 100, 10.5), row("BBB", 7, 3)] for day in WEEK}
        market.lists = {TICKERS: LISTED, SPLITS: SPLIT}
        yield market


@pytest.fixture
def old_table(empty_folder):
    return write_file(empty_folder / "lookup_table.pkl", OLD)


def download(market, *options):
    return call(builder, "--api-url", market.url, "--download", *options)


def names_there():
    return sorted({*os.listdir(FOLDER)} - {"reference"}) if FOLDER.is_dir() else []


def files_of(days):
    return [f"{day}.csv.gz" for day in days]


def file_lines(day):
    with gzip.open(FOLDER / f"{day}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return file.read().split("\n")


def table_days():
    return sorted({day for days in load_table().values() for day in days})


# Which days are asked for


def test_download_fetches_each_trading_day_from_the_one_named_and_builds(market, clock):
    result = download(market, "2024-08-03")
    assert (result.returncode, sorted(market.asked)) == (0, WEEK)
    assert names_there() == files_of(WEEK)
    assert table_days() == WEEK
    assert "5, 2024-08-05 to 2024-08-09" in result.stdout.splitlines()[0]
    assert sorted(result.stdout.splitlines()[1:6]) == [f"{day}: 2 tickers" for day in WEEK]


@pytest.mark.parametrize("closed", ["2024-07-04", "2025-01-09", "2024-03-29"])
def test_no_request_is_spent_on_a_day_on_which_the_exchange_was_closed(market, clock, closed):
    clock.set("2025-08-10T12:00:00")
    day = datetime.fromisoformat(closed)
    before, after = (f"{day + timedelta(days):%Y-%m-%d}" for days in (-1, 4))
    download(market, before, "--until", after)
    assert (before in market.asked, closed in market.asked, after in market.asked) == (1, 0, 1)


def test_without_a_day_it_fills_each_gap_behind_the_first_file(market, clock):
    write_file(FOLDER / f"a/b/{MONDAY}.csv", flat_text([("A", 1, 1)], MONDAY))
    write_file(FOLDER / f"2024/{THURSDAY}.csv.gz", flat_text([("A", 1, 1)], THURSDAY))
    assert download(market).returncode == 0
    assert sorted(market.asked) == [TUESDAY, WEDNESDAY, FRIDAY]


def test_if_no_day_is_missing_it_says_so_asks_nothing_and_builds(market, clock):
    download(market, MONDAY)
    market.requests.clear()
    del os.environ["POLYGON_API_KEY"]
    result = download(market)
    assert result.returncode == 0
    assert "no day is missing" in result.stdout.splitlines()[0]
    assert market.requests == []


def test_a_trading_day_without_trading_is_said_and_asked_for_again(market, clock):
    del market.days[WEDNESDAY]
    for _ in range(2):
        result = download(market, MONDAY)
        assert result.returncode == 0
        assert f"{WEDNESDAY}: no trading\n" in result.stdout
        assert names_there() == files_of([MONDAY, TUESDAY, THURSDAY, FRIDAY])
    assert market.asked.count(WEDNESDAY) == 2


@pytest.mark.parametrize(
    ("now", "last"),
    [
        # Winter: midnight in New York is 05:00 UTC. Summer time begins on Sunday, 2024-03-10.
        ("2024-03-09T04:59:59", "2024-03-07"),
        ("2024-03-09T05:00:00", "2024-03-08"),
        ("2024-03-12T03:59:59", "2024-03-08"),
        ("2024-03-12T04:00:00", "2024-03-11"),
    ],
)
def test_a_day_is_over_at_midnight_in_new_york(market, clock, now, last):
    clock.set(now)
    download(market, (clock.now - timedelta(days=7)).date().isoformat())
    assert max(market.asked) == last


def test_today_can_be_asked_for_once_it_is_16_00_in_new_york(market, clock):
    clock.set("2024-08-09T19:59:59")
    too_early = download(market, THURSDAY, "--until", FRIDAY)
    assert (too_early.returncode, market.asked) == (2, [])
    assert THURSDAY in too_early.stderr
    clock.set("2024-08-09T20:00:00")
    assert download(market, THURSDAY, "--until", FRIDAY).returncode == 0
    assert names_there() == files_of([THURSDAY, FRIDAY])


# A day's file that is older than the vendor's corrections


@pytest.mark.parametrize(
    ("modified", "now", "is_final"),
    [
        # 18 hours after 16:00 on Friday is 10:00 on Saturday in New York, 14:00 UTC.
        ("2024-08-09T21:00:00", "2024-08-10T13:59:59", True),  # nothing better is to be had yet
        ("2024-08-09T21:00:00", "2024-08-10T14:00:00", False),
        ("2024-08-10T13:59:59", "2024-08-12T12:00:00", False),
        ("2024-08-10T14:00:00", "2024-08-12T12:00:00", True),
    ],
)
@pytest.mark.parametrize("options", [[], [FRIDAY]], ids=["without FROM", "with FROM"])
def test_a_day_is_downloaded_again_after_the_corrections(
    market, clock, modified, now, is_final, options
):
    path = write_file(FOLDER / f"2024/{FRIDAY}.csv", flat_text([("AAA", 2317, 1)], FRIDAY))
    at = datetime.fromisoformat(modified).replace(tzinfo=timezone.utc).timestamp()
    os.utime(path, (at, at))
    clock.set(now)
    market.days[FRIDAY] = [row("AAA", 2288, 1)]
    assert download(market, *options).returncode == 0
    assert market.asked == ([] if is_final else [FRIDAY])
    assert names_there() == ["2024"]  # the file is replaced where it is
    assert load_table()["AAA"][FRIDAY]["trades"] == (2317 if is_final else 2288)


# What is written


def test_a_day_becomes_a_flat_file(market, clock):
    market.days[FRIDAY] = [
        # 16:00 in New York is 20:00 UTC, 1723233600 seconds after 1970.
        row("GIK", 96, 10.02, v=895345, o=9.99, l=9.9, t=1723233600000),
        {"T": "AAp", "v": 12.5, "o": 1, "c": 0.1, "h": 1, "l": 0.0001, "n": 3},
        {"T": "BRK.B", "v": 7e3, "o": 1e-05, "c": 4e2, "h": 4e2, "l": 0, "n": 0},
        {"T": "NA", "v": 1, "o": 2, "c": 2, "h": 2, "l": 2, "n": 1.0},
    ]
    assert download(market, FRIDAY).returncode == 0
    # 2024-08-09 00:00 in New York is 04:00 UTC, 1723176000 seconds after 1970.
    assert file_lines(FRIDAY) == [
        "ticker,volume,open,close,high,low,window_start,transactions",
        "AAp,12.5,1,0.1,1,0.0001,1723176000000000000,3",
        "BRK.B,7000,1e-05,400,400,0,1723176000000000000,0",
        "GIK,895345,9.99,10.02,10.02,9.9,1723176000000000000,96",
        "NA,1,2,2,2,2,1723176000000000000,1",
        "",
    ]


UNSOUND = {
    "trades missing": {name: value for name, value in row("BAD", 1, 1).items() if name != "n"},
    "more trades than 31 bits": row("BAD", 2**31, 1),
    "trades a text": row("BAD", "five", 1),
    "close less than 0": row("BAD", 1, -0.01),
    "a price of 1e12": row("BAD", 1, 1, h=1e12),
    # 2024-08-10 begins in New York 1723262400 seconds after 1970.
    "the day after": row("BAD", 1, 1, t=1723262400000),
    "no ticker": row(None, 1, 1),
    "a ticker of 32 bytes in 16 characters": row("Ä" * 16, 1, 1),
    "a ticker with an escape": row("\x1b[31mBAD", 1, 1),
    "no row": None,
    "a raw control character": b'{"T": "B\x01", "v": 1, "o": 1, "c": 1, "h": 1, "l": 1, "n": 1}',
    "bytes that are no UTF-8": b'{"T": "B\xff", "v": 1, "o": 1, "c": 1, "h": 1, "l": 1, "n": 1}',
}


@pytest.mark.parametrize("unsound", UNSOUND.values(), ids=UNSOUND)
def test_a_row_that_cannot_be_used_is_left_out_and_the_day_is_not(market, clock, unsound):
    raw = unsound if isinstance(unsound, bytes) else json.dumps(unsound).encode()
    good = json.dumps(row("AAA", 5, 2, t=1723176000000)).encode()
    market.answers = [answered(b'{"resultsCount": 3, "results": [%s, %s, %s]}' % (raw, good, raw))]
    result = download(market, FRIDAY)
    assert result.returncode == 0, result.stderr
    assert [line.split(",")[0] for line in file_lines(FRIDAY)] == ["ticker", "AAA", ""]
    (warning,) = (line for line in result.stderr.splitlines() if line.startswith("warning"))
    assert ("2 downloaded rows" in warning, FRIDAY in warning, warning.isprintable()) == (1, 1, 1)


# Days that fail


NO_TRADES = answered({"resultsCount": 1, "results": [row("AAA", None, 1)]})


@pytest.mark.parametrize("bad", [BROKEN["results are null"], NO_TRADES, REFUSALS["today"]])
def test_one_bad_day_ends_neither_the_download_nor_the_build(market, clock, bad):
    market.answers = [None, bad]  # Friday's, Thursday's
    result = download(market, MONDAY)
    assert result.returncode == 1
    assert f"{THURSDAY} not downloaded" in result.stderr.splitlines()[0]
    assert "downloaded: 1;" in result.stderr.splitlines()[-1]
    assert table_days() == [MONDAY, TUESDAY, WEDNESDAY, FRIDAY]
    market.requests.clear()
    assert download(market).returncode == 0
    assert (market.asked, table_days()) == ([THURSDAY], WEEK)


def test_days_older_than_the_plan_reaches_are_counted_after_one_request(market, clock):
    market.answers = [None, None, REFUSALS["timeframe"]]
    result = download(market, "2024-07-29")
    assert result.returncode == 0
    # Five days of the week before, and Monday to Wednesday.
    assert any(": 8;" in line and WEDNESDAY in line for line in result.stdout.splitlines())
    assert (len(market.asked), table_days()) == (3, [THURSDAY, FRIDAY])


def test_what_holds_for_each_day_ends_the_download_and_the_next_call_goes_on(
    market, clock, old_table
):
    market.answers = [None, None, REFUSALS["unknown key"]]
    assert_refused(download(market, MONDAY), "does not accept your key")
    assert names_there() == files_of([THURSDAY, FRIDAY])
    assert old_table.read_bytes() == OLD
    assert download(market, MONDAY).returncode == 0
    assert table_days() == WEEK


# The lists of tickers and splits


def list_lines(name):
    return (FOLDER / "reference" / f"{name}.csv").read_text().splitlines()


@pytest.mark.parametrize("page_rows", [1, 1000])
def test_the_lists_of_tickers_and_splits_are_downloaded_page_by_page(market, clock, page_rows):
    market.page_rows = page_rows  # the next page's address is another server's
    assert download(market, MONDAY).returncode == 0
    assert list_lines("tickers") == [
        "ticker,name,type,source",
        'AAA,"Triple A, Inc.",CS,Polygon',
        "BBB,B,WARRANT,Polygon",
        "NAMELESS,,,Polygon",
        "GONE,Gone Ltd,,Polygon",
    ]
    assert list_lines("splits") == [  # from the first day on
        "ticker,execution_date,split_from,split_to,source",
        f"BBB,{TUESDAY},20,1,Polygon",
        f"AAA,{FRIDAY},1,1.5,Polygon",
    ]
    table = Path("lookup_table.pkl").read_bytes()
    assert b"CS\nWARRANT\nTriple A, Inc.\nB" in table
    assert f"AAA\t{FRIDAY}\t1\t1.5\nBBB\t{TUESDAY}\t20\t1".encode() in table


def test_a_row_of_a_list_that_makes_no_sense_is_left_out(market, clock):
    bad = [{**SPLIT[0], "split_to": 0}, {**SPLIT[0], "execution_date": TUESDAY[5:]}]
    tickers = [None, {"ticker": 5, "name": "\ud800"}, LISTED[1]]
    market.lists = {TICKERS: tickers, SPLITS: [None, *bad, SPLIT[3]]}
    result = download(market, MONDAY)
    assert (result.returncode, "splits.csv: lines left out" in result.stderr) == (0, True)
    assert list_lines("tickers")[1:] == ["5,?,,Polygon", "BBB,B,WARRANT,Polygon"]
    assert f"AAA\t{FRIDAY}\t1\t1.5" in Path("lookup_table.pkl").read_text("latin1")


def lists_asked(market):
    paths = (request.path for request in market.requests)
    return sorted({path.rpartition("/")[2] for path in paths if path in market.lists})


@pytest.mark.parametrize(
    ("name", "header", "days_old", "asked"),
    [
        ("tickers", "ticker,name,type,source", 31, ["tickers"]),
        ("tickers", "ticker,name,type,source", 29, []),
        ("tickers", "ticker,name,type", 999, []),  # the user's own
        ("splits", "ticker,execution_date,split_from,split_to,source", 1, ["splits"]),
        ("splits", "ticker,execution_date,split_from,split_to,source", -1, []),
        ("splits", "ticker,execution_date,split_from,split_to", 999, []),
    ],
)
def test_a_list_is_downloaded_again_when_it_is_old_but_never_the_users_own(
    market, clock, name, header, days_old, asked
):
    download(market, MONDAY)
    market.requests.clear()
    now = clock.now.timestamp()
    for path in FOLDER.glob("*.gz"):
        os.utime(path, (now, now))
    path = write_file(FOLDER / f"reference/{name}.csv", f"{header}\n")
    os.utime(path, (now, now - days_old * 86_400))
    download(market)
    assert lists_asked(market) == asked


@pytest.mark.parametrize("refusal", [REFUSALS["not entitled"], BROKEN["broken json"]])
def test_a_list_that_is_refused_costs_a_warning_and_the_old_one_stays(market, clock, refusal):
    path = write_file(FOLDER / "reference/tickers.csv", "ticker,name,type,source\nAAA,Old,CS,x\n")
    os.utime(path, (0, 0))
    market.answers = [None] * 5 + [None, refusal, None]  # days, active tickers, others, splits
    result = download(market, MONDAY)
    (warning,) = (line for line in result.stderr.splitlines() if line.startswith("warning"))
    assert (result.returncode, f"{path} not downloaded" in warning) == (0, True)
    assert (list_lines("tickers")[1:], len(list_lines("splits"))) == (["AAA,Old,CS,x"], 3)


# The limit of requests


def test_a_free_key_gets_five_requests_a_minute_and_all_days(market, clock):
    times = []

    def limited():
        recent = [at for at in times if clock.now - at < timedelta(seconds=60)]
        if len(recent) < 5:
            times.append(clock.now)
            return None
        return RATE_LIMIT._replace(headers={})

    market.answer = limited
    assert download(market, "2024-07-08").returncode == 0
    assert len(times) == 25 + 3  # five weeks; the list of splits, and two of tickers
    # Of each group of six requests that are answered, the last has to wait: four or five times.
    assert 4 * 60 <= sum(clock.waits) < 6 * 120


@pytest.mark.parametrize(
    ("header", "waits"),
    [
        ("7", 7),
        (format_datetime(datetime(2024, 8, 10, 12, 2, tzinfo=timezone.utc)), 120),
        ("86400", 3600),
    ],
)
def test_it_waits_as_long_as_it_is_told_but_no_more_than_an_hour(market, clock, header, waits):
    market.answers = [RATE_LIMIT._replace(headers={"Retry-After": header})]
    result = download(market, FRIDAY)
    assert (result.returncode, clock.waits) == (0, [waits])


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_in_trouble_is_asked_again(market, clock, status):
    market.answers = [answered(status=status)] * 3
    assert download(market, FRIDAY).returncode == 0
    assert names_there() == files_of([FRIDAY])
    assert max(clock.waits) <= 60


# The command


USAGE = {
    "an empty folder and no day": (["--download"], "--download 2024-05-11"),
    "until today": (["--download", MONDAY, "--until", "2024-08-10"], FRIDAY),
    "from today": (["--download", "2024-08-10"], FRIDAY),
    "in the wrong order": (["--download", FRIDAY, "--until", THURSDAY], THURSDAY),
    "until alone": (["--until", FRIDAY], "need --download"),
    "an address alone": (["--api-url", "http://localhost"], "need --download"),
    "no such day": (["--download", "2024-02-30"], "2024-02-30"),
    "long ago": (["--download", "1989-12-29"], "1990"),
    "a login": (["--download", MONDAY, "--api-url", "http://u:p@a"], "https://api.polygon.io"),
}


@pytest.mark.parametrize(("options", "part"), USAGE.values(), ids=USAGE)
def test_a_command_that_makes_no_sense_ends_with_status_2(market, clock, old_table, options, part):
    result = call(builder, *options)
    assert (result.returncode, part in result.stderr.splitlines()[-1]) == (2, True)
    assert (old_table.read_bytes(), FOLDER.exists()) == (OLD, False)


WEEK_OPTIONS = ["--download", MONDAY, "--until", FRIDAY, "--api-url"]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_told_to_stop_while_it_waits_for_an_answer_it_keeps_what_it_has(
    market, old_table, number, status
):
    market.answers = [None, None, lambda: started.send_signal(number) or time.sleep(3)]
    command = [sys.executable, str(TOP / "build-lookup-table.py"), *WEEK_OPTIONS, market.url]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _, stderr = started.communicate(timeout=60)
    assert (started.returncode, stderr) == (status, b"")
    assert names_there() == files_of([THURSDAY, FRIDAY])
    assert [line.split(",")[0] for line in file_lines(THURSDAY)] == ["ticker", "AAA", "BBB", ""]
    assert old_table.read_bytes() == OLD


def test_without_download_nothing_that_it_needs_is_imported(market_folder):
    code = f"""
import sys; sys.path.append({str(TOP)!r})
assert __import__("build-lookup-table").main([]) == 0
unneeded = {{"pandas", "pyarrow.compute", "polygon", "requests", "exchange_calendars", "tqdm"}}
assert not unneeded & set(sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE).returncode == 0


def test_a_package_that_does_not_work_is_told_in_its_own_words(market, monkeypatch):
    write_file(Path("packages/exchange_calendars.py"), "raise ImportError('libx.so.0')")
    monkeypatch.setenv("PYTHONPATH", "packages")
    result = run("build-lookup-table.py", "--api-url", market.url, "--download", MONDAY)
    assert market.requests == []
    assert_refused(result, "libx.so.0")
