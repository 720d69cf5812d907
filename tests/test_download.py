"""build-lookup-table.py --download, against a server on 127.0.0.1."""

import base64
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
import tracemalloc
import zlib
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes.market import FakeMarket, grouped, row, sent
from fakes.server import RATE_LIMIT, REFUSALS, answered, send
from helpers.flat_files import HEADER, flat_text, write_file, write_flat_files
from helpers.markets import DAYS, MARKET, rows_by_day
from helpers.scripts import KEY, TOP, assert_refused, build, builder, call, load_table, run
from helpers.terminal import run_on_terminal

FOLDER = "aggregates_day"
MONDAY, TUESDAY, WEDNESDAY, THURSDAY, FRIDAY = WEEK = [f"2024-08-{day:02}" for day in range(5, 10)]
NEXT_MONDAY = "2024-08-12"
OLD = b"the old table"

pytestmark = pytest.mark.usefixtures("empty_folder")


def too_many(**headers):
    return answered(RATE_LIMIT.body, 429, **headers)


class Clock:
    """Replaces the builder's clock and its wait(). Time passes only in waits."""

    def __init__(self, now):
        self.now = datetime.fromisoformat(now).replace(tzinfo=timezone.utc)
        self.waits = []

    def wait(self, seconds):
        self.waits.append(seconds)
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch):
    """The Saturday after WEEK, 12:00 UTC."""
    clock = Clock("2024-08-10T12:00:00")
    monkeypatch.setattr(builder, "utc_now", lambda: clock.now)
    monkeypatch.setattr(builder, "wait", clock.wait)
    return clock


@pytest.fixture
def market(monkeypatch):
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    monkeypatch.delenv("MASSIVE_API_KEY", raising=False)
    with FakeMarket({day: [row("AAA", 100, 10.5), row("BBB", 7, 3)] for day in WEEK}) as market:
        yield market


@pytest.fixture
def old_table(empty_folder):
    return write_file(empty_folder / "lookup_table.pkl", OLD)


def download(market, *options):
    return call(builder, "--api-url", market.url, "--download", *options)


def names_there():
    return sorted(os.listdir(FOLDER)) if os.path.isdir(FOLDER) else []


def files_of(days):
    return [f"{day}.csv.gz" for day in days]


def file_lines(day):
    with gzip.open(f"{FOLDER}/{day}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return file.read().split("\n")


def table_days():
    return sorted({day for days in load_table().values() for day in days})


# Which days are asked for


def test_download_fetches_each_weekday_from_the_one_named_and_builds(market, clock):
    result = download(market, MONDAY)

    assert (result.returncode, market.asked) == (0, WEEK)
    assert names_there() == files_of(WEEK)
    assert table_days() == WEEK
    assert result.stdout.splitlines()[:6] == [
        "Downloading 5 days, 2024-08-05 to 2024-08-09",
        *(f"{day}: 2 tickers" for day in WEEK),
    ]


def test_without_a_day_it_goes_on_after_the_newest_file(market, clock):
    write_file(Path(FOLDER, "2024", "08", f"{TUESDAY}.csv"), flat_text([("A", 1, 1)]))
    assert download(market).returncode == 0
    assert market.asked == [WEDNESDAY, THURSDAY, FRIDAY]


def test_a_file_that_is_not_named_for_a_day_is_no_newest_file(market, clock):
    path = write_file(Path(FOLDER, "market.csv"), flat_text([("A", 1, 1)], MONDAY))
    result = download(market)
    assert (result.returncode, market.asked) == (2, [])
    assert "--download 2024-05-11" in result.stderr
    write_file(path.with_name(f"{THURSDAY}.csv"), flat_text([("A", 1, 1)], THURSDAY))
    assert download(market).returncode == 0
    assert market.asked == [FRIDAY]


def test_days_that_are_there_in_whatever_folder_are_not_asked_for(market, clock):
    for name in (f"a/b/{MONDAY}.csv", f"{WEDNESDAY}.csv.gz", f"2024/{THURSDAY}.csv"):
        path = Path(FOLDER, name)
        write_file(path, flat_text([("A", 1, 1)]))
    assert download(market, MONDAY).returncode == 0
    assert market.asked == [TUESDAY, FRIDAY]


def test_neither_weekends_nor_days_after_until_are_asked_for(market, clock):
    clock.now += timedelta(days=14)
    assert download(market, "2024-08-03", "--until", NEXT_MONDAY).returncode == 0
    assert market.asked == [*WEEK, NEXT_MONDAY]


def test_a_holiday_leaves_no_file(market, clock):
    del market.days[WEDNESDAY]
    result = download(market, MONDAY)
    assert result.returncode == 0
    assert f"{WEDNESDAY}: no trading\n" in result.stdout
    assert names_there() == files_of([MONDAY, TUESDAY, THURSDAY, FRIDAY])


def test_a_day_whose_results_are_empty_and_counted_as_0_is_a_holiday(market, clock):
    market.faults = [answered({"resultsCount": 0, "results": [], "status": "OK"})]
    assert download(market, THURSDAY).returncode == 0
    assert names_there() == files_of([FRIDAY])


def test_if_no_day_is_missing_it_says_so_asks_nothing_and_builds(market, clock):
    download(market, MONDAY)
    del market.asked[:], os.environ["POLYGON_API_KEY"]
    result = download(market)
    assert result.returncode == 0
    assert result.stdout.startswith("Nothing to download: no day is missing.\nStarting")
    assert market.asked == []


def test_a_next_call_asks_only_for_what_is_missing(market, clock, old_table):
    market.faults = [None, None]
    market.faults += [answered(status=500)] * 9
    assert_refused(download(market, MONDAY), WEDNESDAY)
    assert names_there() == files_of([MONDAY, TUESDAY])
    market.faults, market.asked = [], []
    assert download(market).returncode == 0
    assert market.asked == [WEDNESDAY, THURSDAY, FRIDAY]
    assert table_days() == WEEK


@pytest.mark.parametrize(
    ("now", "last"),
    [
        # Winter: midnight in New York is 05:00 UTC. Summer time begins on Sunday, 2024-03-10.
        ("2024-03-09T04:59:59", "2024-03-07"),
        ("2024-03-09T05:00:00", "2024-03-08"),
        ("2024-03-12T03:59:59", "2024-03-08"),
        ("2024-03-12T04:00:00", "2024-03-11"),
        # Summer time ends on Sunday, 2024-11-03.
        ("2024-11-02T03:59:59", "2024-10-31"),
        ("2024-11-02T04:00:00", "2024-11-01"),
        ("2024-11-05T04:59:59", "2024-11-01"),
        ("2024-11-05T05:00:00", "2024-11-04"),
        ("2024-11-05T23:59:59", "2024-11-04"),
        ("2024-11-06T00:00:00", "2024-11-04"),
    ],
)
def test_a_day_is_over_at_midnight_in_new_york(market, clock, now, last):
    clock.now = datetime.fromisoformat(now).replace(tzinfo=timezone.utc)
    first = (clock.now - timedelta(days=7)).date().isoformat()
    market.always = answered(grouped([row("A", 1, 1)]))
    assert download(market, first).returncode == 0
    assert market.asked[-1] == last


@pytest.mark.parametrize(
    ("day", "hour"),
    [
        # The second Sunday in March and the first in November, 2:00, since 2007.
        ("2024-03-10", 5),
        ("2024-03-11", 4),
        ("2024-11-03", 4),
        ("2024-11-04", 5),
        ("2026-03-08", 5),
        ("2026-03-09", 4),
        ("2026-11-01", 4),
        ("2026-11-02", 5),
        ("2027-03-14", 5),
        ("2027-11-07", 4),
        # The first Sunday in April and the last in October, before.
        ("2006-04-02", 5),
        ("2006-04-03", 4),
        ("2006-10-29", 4),
        ("2006-10-30", 5),
        ("1999-10-31", 4),
        ("1999-11-01", 5),
        ("2024-01-01", 5),
        ("2024-07-04", 4),
        ("2024-12-31", 5),
    ],
)
def test_new_yorks_midnight_in_utc(day, hour):
    midnight = datetime.fromisoformat(f"{day}T{hour:02}:00:00").replace(tzinfo=timezone.utc)
    assert builder.new_york_midnight(builder.day_number(day)) == midnight.timestamp()


# What is written


def test_a_day_becomes_a_flat_file(market, clock):
    market.days[FRIDAY] = [
        {"T": "GIK", "v": 895345, "o": 9.99, "c": 10.02, "h": 10.02, "l": 9.9, "n": 96, "t": 1},
        {"T": "AAp", "v": 12.5, "o": 1, "c": 0.1, "h": 1, "l": 0.0001, "n": 3},
        {"T": "BRK.B", "v": 7e3, "o": 1e-05, "c": 4e2, "h": 1e12, "l": 0, "n": 0},
        {"T": "AAL", "v": 1, "o": 2, "c": 2, "h": 2, "l": 2, "n": 1.0},
    ]
    assert download(market, FRIDAY).returncode == 0
    # 2024-08-09 00:00 in New York is 04:00 UTC, 1723176000 seconds after 1970.
    assert file_lines(FRIDAY) == [
        "ticker,volume,open,close,high,low,window_start,transactions",
        "AAL,1,2,2,2,2,1723176000000000000,1",
        "AAp,12.5,1,0.1,1,0.0001,1723176000000000000,3",
        "BRK.B,7000,1e-05,400.0,1000000000000.0,0,1723176000000000000,0",
        "GIK,895345,9.99,10.02,10.02,9.9,1723176000000000000,96",
        "",
    ]


def test_in_winter_a_day_starts_an_hour_later_in_utc(market, clock):
    clock.now = datetime(2024, 12, 7, tzinfo=timezone.utc)
    market.days["2024-12-05"] = [row("A", 5, 1)]
    assert download(market, "2024-12-05", "--until", "2024-12-05").returncode == 0
    # 1733374800 is 2024-12-05 05:00 UTC.
    assert file_lines("2024-12-05") == [HEADER, "A,1000,1,1,1,1,1733374800000000000,5", ""]


def test_a_downloaded_file_has_the_same_bytes_each_time(market, clock):
    download(market, FRIDAY)
    path = Path(FOLDER, f"{FRIDAY}.csv.gz")
    first = path.read_bytes()
    path.unlink()
    clock.now += timedelta(hours=1)
    market.days[FRIDAY].reverse()
    download(market, FRIDAY)
    assert path.read_bytes() == first
    assert first[4:8] == bytes(4)  # gzip's time


def test_the_table_has_the_same_numbers_as_from_flat_files(market, clock, tmp_path):
    days = rows_by_day(MARKET)
    write_flat_files(tmp_path / "flat", days)
    assert build(tmp_path / "flat", tmp_path / "from-flat-files.pkl").returncode == 0
    market.days = {
        day: [row(ticker, trades, close) for ticker, trades, close in reversed(rows)]
        for day, rows in days.items()
    }
    assert download(market, DAYS[0], "--until", DAYS[-1]).returncode == 0

    def numbers(path):
        return {
            (ticker, day): repr(stats)
            for ticker, days in load_table(path).items()
            for day, stats in days.items()
        }

    assert len(numbers("lookup_table.pkl")) == 55
    assert numbers("lookup_table.pkl") == numbers(tmp_path / "from-flat-files.pkl")


def test_downloaded_and_flat_files_of_one_market_stand_side_by_side(market, clock):
    write_file(Path(FOLDER, f"{MONDAY}.csv"), flat_text([("AAA", 9, 21)], MONDAY))
    assert download(market).returncode == 0
    table = load_table()
    # From 21 to 10.5: -50 %.
    assert list(table["AAA"]) == WEEK
    assert table["AAA"][TUESDAY]["price_diff"] == -50


UNSOUND = {
    "no number of trades": row("BAD", None, 1),
    "trades missing": {key: value for key, value in row("BAD", 1, 1).items() if key != "n"},
    "half a trade": row("BAD", 1.5, 1),
    "trades less than 0": row("BAD", -1, 1),
    "more trades than 31 bits": row("BAD", 2**31, 1),
    "trades true": row("BAD", True, 1),
    "trades a text": row("BAD", "5", 1),
    "no close": row("BAD", 1, None),
    "close less than 0": row("BAD", 1, -0.01),
    "close a text": row("BAD", 1, 1, c="1"),
    "close a list": row("BAD", 1, 1, c=[1]),
    "close nan": row("BAD", 1, float("nan")),
    "close infinite": row("BAD", 1, float("inf")),
    "close of 400 digits": row("BAD", 1, 10**400),
    "close of 5000 digits": b'{"T": "BAD", "v": 1, "o": 1, "c": 1%s, "h": 1, "l": 1, "n": 1}'
    % (b"0" * 5000),
    "close 1e400": b'{"T": "BAD", "v": 1, "o": 1, "c": 1e400, "h": 1, "l": 1, "n": 1}',
    "volume nan": row("BAD", 1, 1, v=float("nan")),
    "open missing": row("BAD", 1, 1, o=None),
    "no ticker": row(None, 1, 1),
    "an empty ticker": row("", 1, 1),
    "a ticker of 32 bytes": row("B" * 32, 1, 1),
    "a ticker of 32 bytes in 16 characters": row("Ä" * 16, 1, 1),
    "a ticker that is a number": row(5, 1, 1),
    "a ticker that is a list": row(["BAD"], 1, 1),
    "a ticker with a comma": row("B,D", 1, 1),
    "a ticker with a quote": row('B"D', 1, 1),
    "a ticker with a space": row("B D", 1, 1),
    "a ticker with a line end": row("B\nD", 1, 1),
    "a ticker with an escape": row("\x1b[31mBAD", 1, 1),
    "a ticker with a NUL": row("B\0", 1, 1),
    "a lone surrogate": row("\ud800", 1, 1),
    "a raw control character": b'{"T": "B\x01", "v": 1, "o": 1, "c": 1, "h": 1, "l": 1, "n": 1}',
    "bytes that are no UTF-8": b'{"T": "B\xff", "v": 1, "o": 1, "c": 1, "h": 1, "l": 1, "n": 1}',
    "no row": None,
    "a list for a row": [1, 2],
}


@pytest.mark.parametrize("unsound", UNSOUND.values(), ids=UNSOUND)
def test_a_row_that_cannot_be_used_is_left_out_and_the_day_is_not(market, clock, unsound):
    raw = unsound if isinstance(unsound, bytes) else json.dumps(unsound).encode()
    good = json.dumps(row("AAA", 5, 2)).encode()
    body = b'{"resultsCount": 3, "results": [%s, %s, %s]}' % (raw, good, raw)
    market.faults = [answered(body)]
    result = download(market, FRIDAY)
    assert result.returncode == 0, result.stderr
    assert [line.split(",")[0] for line in file_lines(FRIDAY)] == ["ticker", "AAA", ""]
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: 2 downloaded rows are left out")
    assert warnings[0].endswith(f" on {FRIDAY}")
    assert warnings[0].isprintable()


def test_rows_left_out_of_all_days_make_one_warning(market, clock):
    market.days[TUESDAY] = [row("AAA", 5, 2), row("BAD", None, 2)]
    market.days[THURSDAY] = [row("AAA", 5, 2), row("WORSE", 1, -2), row("WORSE", 1, -2)]
    result = download(market, MONDAY)
    assert result.returncode == 0
    assert result.stderr.splitlines()[0] == (
        "warning: 3 downloaded rows are left out, because a value is missing or not "
        "valid; the first is BAD on 2024-08-06"
    )


def test_an_absurd_price_and_odd_but_printable_tickers_are_kept(market, clock):
    tickers = ["NA", "NAN", "TRUE", "INF", "E", "AAp", "ÄÖ", "B" * 31]
    market.days[FRIDAY] = [row(ticker, 5, 1e12) for ticker in tickers]
    result = download(market, FRIDAY)
    assert (result.returncode, "warning" in result.stderr) == (0, False)
    table = load_table()
    assert sorted(table) == sorted(tickers)
    assert {days[FRIDAY]["close_price"] for days in table.values()} == {1e12}


def test_of_a_ticker_that_occurs_twice_the_last_row_counts(market, clock):
    market.days[FRIDAY] = [row("AAA", 5, 2), row("BBB", 1, 1), row("AAA", 6, 3)]
    result = download(market, FRIDAY)
    assert "warning" not in result.stderr
    assert [line.split(",")[-1] for line in file_lines(FRIDAY)[1:3]] == ["6", "1"]
    assert len(file_lines(FRIDAY)) == 4


# The limit of requests


def test_a_free_key_gets_five_requests_a_minute_and_all_days(market, clock):
    clock.now += timedelta(days=14)
    times = []

    def limit(handler):
        recent = [time for time in times if clock.now - time < timedelta(seconds=60)]
        if len(recent) >= 5:
            send(handler, too_many())
        else:
            times.append(clock.now)
            send(handler, answered(grouped([row("A", 1, 1)])))

    market.always = limit
    result = download(market, MONDAY)
    assert result.returncode == 0
    assert clock.waits == [60, 60]
    assert "Polygon's limit of requests is reached, waiting 60 s\n" in result.stdout
    assert len(names_there()) == 15


def test_after_a_429_it_waits_until_the_minute_is_over(market, clock):
    def slow(handler):
        clock.now += timedelta(seconds=17.5)
        send(handler, answered(grouped([row("A", 1, 1)])))

    market.faults = [slow, slow, too_many()]
    assert download(market, MONDAY).returncode == 0
    assert clock.waits == [25]  # 60 - 2 * 17.5


def test_a_clock_that_is_put_back_does_not_prolong_the_wait(market, clock):
    def put_back(handler):
        clock.now -= timedelta(hours=3)
        send(handler, too_many())

    market.faults = [put_back]
    assert download(market, MONDAY).returncode == 0
    assert clock.waits == [60]


@pytest.mark.parametrize(
    ("retry_after", "seconds"), [("7", 7), ("0", 1), ("3600", 3600), ("soon", 60), ("-5", 60)]
)
def test_after_a_429_it_waits_as_retry_after_says(market, clock, retry_after, seconds):
    market.faults = [None, too_many(Retry_After=retry_after)]
    assert download(market, MONDAY).returncode == 0
    assert clock.waits == [seconds]
    assert market.asked == [MONDAY, TUESDAY, *WEEK[1:]]


def test_retry_after_may_be_a_time(market, clock):
    until = format_datetime(clock.now + timedelta(seconds=42), usegmt=True)
    market.faults = [too_many(Retry_After=until)]
    assert download(market, MONDAY).returncode == 0
    assert clock.waits == [42]


def test_it_does_not_wait_for_hours(market, clock, old_table):
    market.faults = [None, too_many(Retry_After="3601")]
    assert_refused(download(market, MONDAY), TUESDAY, "limit of requests")
    assert (clock.waits, names_there()) == ([], files_of([MONDAY]))


def test_a_limit_that_never_ends_ends_the_download(market, clock, old_table):
    market.faults = [None]
    market.always = too_many()
    assert_refused(download(market, MONDAY), TUESDAY, "limit of requests")
    assert clock.waits == [60] * 5
    assert (old_table.read_bytes(), names_there()) == (OLD, files_of([MONDAY]))


def test_limits_between_answers_are_not_counted_together(market, clock):
    market.faults = [answered(status=429), answered(status=429), answered(status=429), None] * 5
    assert download(market, MONDAY).returncode == 0
    assert clock.waits == [60] * 15


# What goes wrong for a while


def in_gzip(raw):
    return answered(raw, Content_Encoding="gzip")


GOOD = json.dumps(grouped([row(f"T{i}", i, 1) for i in range(1, 500)])).encode()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(GOOD)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
NONSENSE, NO_CONNECTION, IN_TROUBLE = "makes no sense", "cannot be reached", "in trouble"
FAULTS = {
    "500": (answered(status=500), IN_TROUBLE),
    "502": (answered(b"<html>", 502), IN_TROUBLE),
    "503 with Retry-After": (answered(status=503, Retry_After="99999"), IN_TROUBLE),
    "599": (answered(status=599), IN_TROUBLE),
    "nothing": (sent(b""), NO_CONNECTION),
    "no HTTP": (sent(b"hello\r\n\r\n"), NO_CONNECTION),
    "half a header": (sent(b"HTTP/1.1 200 OK\r\nContent-Le"), NONSENSE),
    "an endless header": (sent(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000), NO_CONNECTION),
    "no body": (sent(HEAD), NO_CONNECTION),
    "cut": (sent(HEAD + GOOD[:-100]), NO_CONNECTION),
    "cut in a chunk": (sent(CHUNKED + b"1000\r\n" + GOOD[:0xFF]), NO_CONNECTION),
    "cut between chunks": (sent(CHUNKED + b"100\r\n" + GOOD[:0x100] + b"\r\n"), NO_CONNECTION),
    "a chunk of no number": (sent(CHUNKED + b"xyz\r\n" + GOOD), NO_CONNECTION),
    "gzip cut": (in_gzip(gzip.compress(GOOD)[:-20]), NONSENSE),
    "gzip damaged": (in_gzip(gzip.compress(GOOD)[:40] + bytes(200)), NONSENSE),
    "no gzip": (in_gzip(GOOD), NONSENSE),
    "gzip in gzip": (answered(GOOD, Content_Encoding="gzip, gzip"), NONSENSE),
    "another packing": (answered(GOOD, Content_Encoding="br"), NONSENSE),
    "empty": (answered(), NONSENSE),
    "half": (answered(GOOD[:-100]), NONSENSE),
    "a page": (answered(b"<html>Maintenance</html>"), NONSENSE),
    "a list": (answered([]), NONSENSE),
    "a number": (answered(5), NONSENSE),
    "null": (answered(None), NONSENSE),
    "a deep nesting": (answered("[" * 100_000), NONSENSE),
    "results null": (answered({**grouped([]), "results": None}), NONSENSE),
    "results a dict": (answered({"resultsCount": 1, "results": {"T": "A"}}), NONSENSE),
    "results a text": (answered({"resultsCount": 1, "results": "AAA"}), NONSENSE),
    "no results, no count": (answered({"status": "OK"}), NONSENSE),
    "no results, but a count": (answered({"resultsCount": 9, "status": "OK"}), NONSENSE),
    "empty results, but a count": (answered({"resultsCount": 9, "results": []}), NONSENSE),
    "no sound row": (answered(grouped([row("A", None, 1), row("B", 1, -1)])), NONSENSE),
}


@pytest.mark.parametrize(("fault", "reason"), FAULTS.values(), ids=FAULTS)
def test_what_fails_for_a_while_is_asked_again(market, clock, fault, reason):
    market.faults = [None, fault, fault, fault]
    result = download(market, THURSDAY)
    assert result.returncode == 0, result.stderr
    assert market.asked == [THURSDAY, *[FRIDAY] * 4]
    assert clock.waits == [2, 4, 8]
    assert table_days() == [THURSDAY, FRIDAY]


@pytest.mark.parametrize(("fault", "reason"), FAULTS.values(), ids=FAULTS)
def test_what_fails_for_good_ends_in_one_line(market, clock, old_table, fault, reason):
    market.faults = [None, None]
    market.always = fault
    result = download(market, MONDAY)
    assert_refused(result, f"{WEDNESDAY} not downloaded: ", reason)
    assert KEY not in result.stdout + result.stderr
    assert market.asked == [MONDAY, TUESDAY, *[WEDNESDAY] * 4]
    assert (old_table.read_bytes(), names_there()) == (OLD, files_of([MONDAY, TUESDAY]))
    assert "Starting to process files" not in result.stdout


def test_a_server_that_is_not_there_ends_in_one_line(clock, market, old_table):
    market.server.server_close()
    assert_refused(download(market, MONDAY), MONDAY, NO_CONNECTION)
    assert (clock.waits, names_there()) == ([2, 4, 8], [])
    assert old_table.read_bytes() == OLD


def byte_by_byte(market, head, piece):
    """A fault: sends head, then piece every 0.05 s, so that no socket's time limit is reached."""

    def fault(handler):
        handler.wfile.write(head)
        try:
            while not market.ended.wait(0.05):
                handler.wfile.write(piece)
        except OSError:
            pass
        handler.close_connection = True

    return fault


@pytest.mark.parametrize(
    ("head", "piece"),
    [(b"", b""), (b"HTTP/1.1 200 OK\r\nX: ", b"x"), (HEAD, b" "), (CHUNKED, b"1\r\n \r\n")],
    ids=["silent", "in the header", "in the body", "in chunks"],
)
def test_a_server_that_hangs_or_sends_a_byte_now_and_then_ends_in_one_line(
    market, clock, old_table, monkeypatch, head, piece
):
    monkeypatch.setattr(builder, "ANSWER_SECONDS", 1)
    monkeypatch.setattr(builder, "TRIES", 2)
    market.always = byte_by_byte(market, head, piece)
    assert_refused(download(market, MONDAY), MONDAY, "did not answer in time")
    assert market.asked == [MONDAY] * 2


def test_a_silent_server_is_left_after_the_sockets_time_limit(market, clock, monkeypatch):
    monkeypatch.setattr(builder, "READ_SECONDS", 0.1)
    market.always = byte_by_byte(market, b"", b"")
    assert_refused(download(market, MONDAY), MONDAY, "did not answer in time")


@pytest.mark.parametrize("packed", [False, True], ids=["as it is", "packed"])
def test_an_answer_much_too_large_does_not_fill_the_memory(market, clock, packed):
    size = 400 * 2**20

    def huge(handler):
        handler.send_response(200)
        if packed:
            handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()
        blank = b" " * 2**20
        with_gzip = zlib.compressobj(wbits=31)
        try:
            for _ in range(size // len(blank)):
                handler.wfile.write(with_gzip.compress(blank) if packed else blank)
            handler.wfile.write(with_gzip.flush() if packed else b"")
        except OSError:
            pass
        handler.close_connection = True

    market.faults = [huge]
    tracemalloc.start()
    try:
        assert download(market, FRIDAY).returncode == 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert market.asked == [FRIDAY] * 2
    assert peak < 100 * 2**20


# What is refused


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (REFUSALS["no key"], "Polygon does not accept your key"),
        (REFUSALS["unknown key"], "Polygon does not accept your key"),
        (answered(f"who is {KEY}?".encode(), 401), "Polygon does not accept your key"),
        (REFUSALS["not entitled"], "your Polygon plan does not include a day's data"),
        (answered(b"\xff\0no", 403), "your Polygon plan does not include a day's data"),
        (REFUSALS["timeframe"], "your Polygon plan does not reach to this day"),
        (REFUSALS["today"], "your Polygon plan does not have this day yet"),
        (answered(b"404 page not found", 404), "has status 404"),
        (answered(status=301, Location="http://localhost/"), "which does not get your key"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_refusal_is_one_sentence_and_final(market, clock, old_table, fault, sentence):
    market.faults = [None, fault]
    result = download(market, THURSDAY)
    assert_refused(result, f"{FRIDAY} not downloaded: ", sentence)
    assert KEY not in result.stdout + result.stderr
    assert (market.asked, clock.waits) == ([THURSDAY, FRIDAY], [])
    assert (old_table.read_bytes(), names_there()) == (OLD, files_of([THURSDAY]))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_key_goes_to_no_other_host(market, clock, status):
    with FakeMarket(market.days) as other:
        path = f"/v2/aggs/grouped/locale/us/market/stocks/{FRIDAY}?adjusted=false"
        market.always = answered(status=status, Location=f"{other.url}{path}&key={KEY}")
        result = download(market, FRIDAY)
        assert_refused(result, "another address", "--api-url")
        assert KEY not in result.stderr
        assert (other.asked, market.asked) == ([], [FRIDAY])


def test_the_key_is_sent_whichever_name_its_variable_has(market, clock, monkeypatch):
    download(market, FRIDAY, "--until", FRIDAY)
    monkeypatch.delenv("POLYGON_API_KEY")
    monkeypatch.setenv("MASSIVE_API_KEY", "the-newer-name")
    os.unlink(f"{FOLDER}/{FRIDAY}.csv.gz")
    download(market, FRIDAY)
    assert market.authorizations == [f"Bearer {KEY}", "Bearer the-newer-name"]


@pytest.mark.parametrize("key", ["", None])
def test_without_a_key_nothing_is_asked(market, clock, old_table, monkeypatch, key):
    monkeypatch.delenv("POLYGON_API_KEY")
    if key is not None:
        monkeypatch.setenv("POLYGON_API_KEY", key)
    assert_refused(download(market, MONDAY), "export POLYGON_API_KEY=")
    assert (market.asked, old_table.read_bytes(), os.path.exists(FOLDER)) == ([], OLD, False)


@pytest.mark.parametrize("key", ["secret\r\nX-Other: 1", "sécret", "secret\n"])
def test_a_key_that_no_header_can_hold_is_refused_unshown(market, clock, monkeypatch, key):
    monkeypatch.setenv("POLYGON_API_KEY", key)
    result = download(market, MONDAY)
    assert_refused(result, "Polygon does not accept your key")
    assert "cret" not in result.stderr
    assert market.asked == []


@pytest.mark.parametrize(
    ("polygon", "case"),
    [
        (None, "missing"),
        (SimpleNamespace(RESTClient=lambda auth_key, timeout=None: None), "of long ago"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_without_a_recent_client_it_says_what_to_install(market, clock, monkeypatch, polygon, case):
    monkeypatch.setitem(sys.modules, "polygon", polygon)
    assert_refused(download(market, MONDAY), "pip install -r requirements.txt")


USAGE = {
    "an empty folder and no day": (["--download"], "--download 2024-05-11"),
    "until today": (["--download", MONDAY, "--until", "2024-08-10"], "New York is 2024-08-09"),
    "from today": (["--download", "2024-08-10"], "New York is 2024-08-09"),
    "in the wrong order": (["--download", FRIDAY, "--until", THURSDAY], "is after --until"),
    "until alone": (["--until", FRIDAY], "need --download"),
    "no such day": (["--download", "2024-02-30"], "2024-02-30"),
    "a day as it is not written": (["--download", "5.8.2024"], "5.8.2024"),
    "a month": (["--download", "2024-08"], "2024-08"),
    "long ago": (["--download", "1989-12-29"], "1990"),
    "no such last day": (["--download", MONDAY, "--until", "yesterday"], "yesterday"),
}


@pytest.mark.parametrize(("options", "part"), USAGE.values(), ids=USAGE)
def test_a_command_that_makes_no_sense_ends_with_status_2(market, clock, old_table, options, part):
    with_url = ["--api-url", market.url] if "--download" in options else []
    result = call(builder, *options, *with_url)
    assert (result.returncode, market.asked) == (2, [])
    assert part in result.stderr.splitlines()[-1]
    assert (old_table.read_bytes(), os.path.exists(FOLDER)) == (OLD, False)


@pytest.mark.parametrize(
    "url",
    ["localhost", "ftp://a.b", "http://", "http://a b", "http://a/?x", "http://u:p@a", "http://ä"],
)
def test_a_text_that_is_no_address_ends_with_status_2(market, clock, url):
    result = call(builder, "--download", MONDAY, "--api-url", url)
    assert result.returncode == 2
    reason = f"argument --api-url: {url!a} is not like https://api.polygon.io"
    assert result.stderr.endswith(f": error: {reason}\n")


def test_an_address_without_download_ends_with_status_2(market, market_folder):
    result = call(builder, "--api-url", market.url)
    assert (result.returncode, "need --download" in result.stderr) == (2, True)


def test_an_address_may_end_in_a_slash(market, clock):
    market.url += "/"
    assert download(market, FRIDAY).returncode == 0


def test_a_folder_that_is_named_is_made(market, clock):
    assert download(market, FRIDAY, "--data-dir", "new/folder").returncode == 0
    assert os.listdir("new/folder") == files_of([FRIDAY])


def test_a_file_in_the_place_of_the_folder_is_refused(market, clock, old_table):
    write_file(Path("file"), "here")
    assert_refused(download(market, FRIDAY, "--data-dir", "file"), "file: File exists\n")
    assert Path("file").read_text() == "here"


def test_a_full_disk_ends_in_one_line(market, clock, old_table, monkeypatch):
    def full(descriptor):
        if names_there():
            raise OSError(28, "No space left on device")

    download(market, MONDAY, "--until", MONDAY)
    write_file(old_table, OLD)
    monkeypatch.setattr(os, "fsync", full)
    assert_refused(download(market), f"{TUESDAY}.csv.gz not written: No space left on device")
    assert (names_there(), old_table.read_bytes()) == (files_of([MONDAY]), OLD)


# Being told to stop


def assert_whole(names):
    """Each flat file among names is as the market of these tests has it."""
    for name in names:
        if name.endswith(".csv.gz"):
            first_fields = [line.split(",")[0] for line in file_lines(name[:10])]
            assert first_fields == ["ticker", "AAA", "BBB", ""]


PATIENT = """
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("builder", {script!r})
builder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(builder)
builder.wait = lambda seconds: None
{prepare}
raise SystemExit(builder.main(sys.argv[1:]))
"""


def script_with(market, prepare=""):
    """A command: the builder, downloading WEEK, after the Python statements prepare."""
    code = PATIENT.format(script=str(TOP / "build-lookup-table.py"), prepare=prepare)
    options = ["--download", MONDAY, "--until", FRIDAY, "--api-url", market.url]
    return [sys.executable, "-c", code, *options]


STEPS = {
    "before a file is written": "replacing",
    "before fsync": "os.fsync",
    "before it is renamed": "os.replace",
    "after it is renamed": "os.replace",
}


@pytest.mark.parametrize("nth", [1, 3, 5])
@pytest.mark.parametrize("step", STEPS)
def test_kill_9_around_each_step_of_writing_leaves_whole_days(market, clock, old_table, step, nth):
    owner, _, name = f"builder.{STEPS[step]}".rpartition(".")
    prepare = f"""
original, calls = {owner}.{name}, []
def dying(*args):
    calls.append(args)
    if len(calls) == {nth} and "after" not in {step!r}:
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*args)
    if len(calls) == {nth}:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
{owner}.{name} = dying
"""
    process = subprocess.run(script_with(market, prepare), stdout=subprocess.PIPE, timeout=60)
    assert process.returncode == -signal.SIGKILL
    days = WEEK[: nth if step.startswith("after") else nth - 1]
    there = [name for name in names_there() if not name.endswith(".tmp")]
    assert there == files_of(days)
    assert_whole(there)
    assert old_table.read_bytes() == OLD

    market.asked.clear()
    assert download(market, MONDAY).returncode == 0
    assert market.asked == [day for day in WEEK if day not in days]
    assert table_days() == WEEK


@pytest.mark.parametrize("nth", [1, 2, 5])
@pytest.mark.parametrize(
    ("signal_number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
    ids=["INT", "TERM", "KILL"],
)
def test_told_to_stop_while_it_waits_for_an_answer_it_keeps_what_it_has(
    market, old_table, signal_number, status, nth
):
    def stop(handler):
        started.send_signal(signal_number)
        market.ended.wait(30)

    market.faults = [*[None] * (nth - 1), stop]
    with_ctrl_c = "signal.signal(signal.SIGINT, signal.SIG_DFL)"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = subprocess.Popen(script_with(market, with_ctrl_c), **pipes)
    _, stderr = started.communicate(timeout=60)
    assert (started.returncode, stderr) == (status, b"")
    assert names_there() == files_of(WEEK[: nth - 1])
    assert_whole(names_there())
    assert old_table.read_bytes() == OLD


@pytest.mark.parametrize(
    ("signal_number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
@pytest.mark.parametrize("step", ["os.fsync", "os.replace", "wait"])
def test_told_to_stop_while_it_writes_or_waits_it_tidies_up(
    market, old_table, signal_number, status, step
):
    prepare = f"""
original = builder.{step}
def stopped(*args):
    os.kill(os.getpid(), signal.{signal_number.name})
    return original(*args)
builder.{step} = stopped
signal.signal(signal.SIGINT, signal.SIG_DFL)
"""
    market.faults = [answered(status=429)] if step == "wait" else []
    process = subprocess.run(
        script_with(market, prepare),
        capture_output=True,
        timeout=60,
    )
    assert (process.returncode, process.stderr) == (status, b"")
    assert names_there() == []
    assert old_table.read_bytes() == OLD


# What is shown


def test_the_key_is_in_no_output_and_in_no_name(market, old_table):
    encoded = base64.b64encode(KEY.encode()).decode()
    for fault in (REFUSALS["unknown key"], answered(status=302, Location=f"//{KEY}/")):
        market.faults = [None, fault]
        options = ["--download", MONDAY, "--until", FRIDAY, "--api-url", market.url]
        result = run("build-lookup-table.py", *options)
        assert result.returncode == 1
        shown = result.stdout + result.stderr + str(list(os.walk(".")))
        assert (KEY in shown, encoded in shown, "Traceback" in shown) == (False, False, False)
        os.unlink(f"{FOLDER}/{MONDAY}.csv.gz")


def test_without_download_the_client_is_not_imported(market_folder):
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("builder", {str(TOP / "build-lookup-table.py")!r})
builder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(builder)
assert builder.main([]) == 0
assert not {{"polygon", "urllib3", "certifi"}} & set(sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE).returncode == 0


FROZEN = """
from datetime import datetime, timedelta, timezone
now = [datetime(2024, 8, 10, 12, tzinfo=timezone.utc)]
def wait(seconds):
    now[0] += timedelta(seconds=seconds)
builder.utc_now, builder.wait = (lambda: now[0]), wait
"""


def test_on_a_terminal_the_progress_says_how_many_minutes_are_left(market):
    market.faults = [None, None, answered(status=429, Retry_After="180")]
    result = run_on_terminal(script_with(market, FROZEN), columns=120)
    assert result.returncode == 0
    assert result.stdout.splitlines()[0] == "Starting to process files..."
    # The frozen clock moves by the 180 s alone. With them 2 of 5 days took 90 s each, and 3 are
    # left; then 3 took 60 s each, 4 took 45.
    shown = result.stderr.replace("\r", "\n")
    assert re.search("requests is reached, waiting 180 s:  40%.* 2/5 days, about 5 min", shown)
    assert re.search("2024-08-07: 2 tickers:  60%.* 3/5 days, about 2 min left", shown)
    assert re.search("2024-08-08: 2 tickers:  80%.* 4/5 days, about 1 min left", shown)
    assert re.search("2024-08-09: 2 tickers: 100%.* 5/5 days, about 0 min left", shown)


def test_on_a_terminal_a_refusal_stands_on_a_line_of_its_own(market, old_table):
    market.faults = [None, REFUSALS["unknown key"]]
    result = run_on_terminal(script_with(market, FROZEN), columns=120)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == f"{TUESDAY} not downloaded: {builder.WRONG_KEY}"


def test_each_days_line_is_printed_as_soon_as_the_day_is_downloaded(market, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    lines_are_read = threading.Event()

    def hold(handler):
        assert lines_are_read.wait(30)
        send(handler, answered(grouped([row("AAA", 1, 1)])))

    market.faults = [None, hold]
    with subprocess.Popen(script_with(market), stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"Downloading 5 days, 2024-08-05 to 2024-08-09\n"
        assert process.stdout.readline() == b"2024-08-05: 2 tickers\n"
        lines_are_read.set()
        assert process.stdout.readline() == b"2024-08-06: 1 tickers\n"
        process.stdout.read()
    assert process.returncode == 0


def test_the_command_downloads_without_any_change_to_the_script(market):
    options = ["--download", MONDAY, "--until", FRIDAY, "--api-url", market.url]
    result = run("build-lookup-table.py", *options)
    assert (result.returncode, market.asked) == (0, WEEK)
