"""Build the lookup table: each ticker's trades by day, and how many are normal.

Usage:
    python build-lookup-table.py [--data-dir DIR] [--output FILE] [--window N] [--json]
                                 [--download [FROM] [--until DATE] [--api-url URL]]

Reads   Polygon's daily flat files: every *.csv and *.csv.gz below ./aggregates_day. With --download
        it first fetches the days that are missing there. It takes your Polygon key from the
        environment variable POLYGON_API_KEY or MASSIVE_API_KEY.
Writes  ./lookup_table.pkl, for query-lookup-table.py and gui-lookup-table.py.

A line of a flat file, and what it becomes in the table that pickle.load returns:

    ticker,volume,open,close,high,low,window_start,transactions
    VTAK,24910113,0.9496,0.91,0.9496,0.8645,1729224000000000000,460548

    table["VTAK"]["2024-10-18"] == {
        "trades": 460548,          # how often it was traded that day
        "close_price": 0.91,       # the day's last price, in dollars
        "price_diff": 106.4896..., # its change against the ticker's previous row, in percent
        "avg_trades": 6291.4,      # the baseline: mean and sample standard deviation
        "std_trades": 12387.12..., # of trades over the ticker's five previous rows
    }

The day itself is never part of its own baseline. price_diff is nan in a ticker's first row,
avg_trades and std_trades are None until it has five earlier rows.

After this dict the file holds the same numbers again, grouped by day, and more facts of each row.
So a query needs to read one day only. write_lookup_table describes the whole file.
"""

import argparse
import csv
import gzip
import json
import math
import os
import pickle
import re
import secrets
import signal
import stat
import struct
import sys
import time
import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import NamedTuple

try:
    import numpy as np
    import pyarrow
    from pyarrow import csv as arrow_csv
except ModuleNotFoundError as error:
    raise SystemExit(f"{error.name} is missing: pip install -r requirements.txt") from None
except ImportError as error:  # numpy explains at length, the cause is one line
    raise SystemExit(f"a package does not work: {error.__cause__ or error}") from None

# numpy can use again what pyarrow has freed: half the time to sort the rows, and less memory.
pyarrow.set_memory_pool(pyarrow.system_memory_pool())

WINDOW = 5
LONGEST_WINDOW = 1000
# query-lookup-table.py has these two constants as well. day_counts uses them.
Z_THRESHOLD = 3
TOLERANCE = 1e-12  # a z-score this near to the threshold, relative to it, counts as equal

# What a flat file must and may hold. Trades may be written 12.0, so they are read as floats.
COLUMN_TYPES = {
    "ticker": pyarrow.string(),
    "window_start": pyarrow.int64(),
    "transactions": pyarrow.float64(),
    "close": pyarrow.float64(),
    "open": pyarrow.float64(),
}
NEEDED_COLUMNS = ["ticker", "close", "window_start", "transactions"]
NS_PER_DAY = 86_400 * 10**9
# 1990-01-01 and 2099-12-31. MOST_DAYS in query-lookup-table.py is the number of these days.
FIRST_DAY, LAST_DAY = 7_305, 47_481
MOST_TRADES = 2**31 - 1
LONGEST_TICKER = 31  # bytes
GZIP_WBITS = 31  # zlib: a gzip header, and the largest window
MOST_BYTES = 2**27  # in an unpacked flat file: over a hundred times the size of a normal one
NUMBER_PATTERN = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
# The least and the greatest value of each column of numbers, and what a user reads of them.
BOUNDS = {
    "window_start": (
        FIRST_DAY * NS_PER_DAY,
        (LAST_DAY + 1) * NS_PER_DAY - 1,
        "nanoseconds of a year from 1990 to 2099",
    ),
    "transactions": (0, MOST_TRADES, f"a whole number up to {MOST_TRADES}"),
    "close": (0, sys.float_info.max, "a price"),
}

THREADS = os.cpu_count() or 1
BATCH_ROWS = 2**13  # so many rows are computed or written at once: they fit into the cache

# The table's format. query-lookup-table.py has the same constants.
MOST_TICKERS = 2**17
FIELDS = ["trades", "close_price", "price_diff", "avg_trades", "std_trades"]
DAY_PAGE_COLUMNS = {
    **dict.fromkeys(FIELDS, "<f8"),
    "trades": "<i4",
    "gap": "<f8",
    "record": "<u2",
    "earlier_rows": "<u2",
    "baseline_days": "<u2",
}
# The pickle begins so: protocol 3, push a text of 12 bytes, pop it. This has no effect when the
# pickle is loaded. It shows that the file is a table of this script, even if its end is missing.
SIGNATURE = pickle.PROTO + b"\3" + pickle.BINUNICODE + b"\f\0\0\0lookup table" + pickle.POP
EXTENT = struct.Struct("<QQI")  # offset in the file, length, CRC-32
INDEX_HEADER = struct.Struct("<II20s")  # window, number of tickers, extent of the directory
INDEX_DAY = struct.Struct("<10s20sIII")  # date, extent of its page, rows, with_deviation, anomalies
MAGIC = b"lookup-tab-2"
FOOTER = struct.Struct("<20s12s")  # extent of the index, MAGIC


class BuildError(Exception):
    """Why there is no table, in one line for the user."""

    status = 1  # the script's exit status


class UsageError(BuildError):
    """What is wrong with the command's arguments, in one line for the user."""

    status = 2


class NoFlatFiles(BuildError):
    """There is no flat file, or no folder for them."""


def quoted(text):
    """The first 60 characters of text, escaped and in quotes, for a message."""
    return ascii(text[:60])


def printable(text):
    """text, with escapes in place of characters that a terminal could take for a command."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def say(line):
    """Print a line on stdout at once."""
    print(printable(line), flush=True)


def print_to_stderr(message):
    """Print message on stderr as one line of limited length, even if it quotes strange names."""
    line = printable(message)
    print(line if len(line) <= 1000 else f"{line[:1000]}...", file=sys.stderr, flush=True)


def on_terminal():
    return sys.stdout.isatty() and sys.stderr.isatty()


def import_tqdm():
    try:
        from tqdm import tqdm
    except ImportError:
        raise BuildError("tqdm is missing: pip install -r requirements.txt") from None
    return tqdm


def with_progress(items, description, total):
    """items; on a terminal, stderr shows how many of them have been taken."""
    if not on_terminal():
        return items
    return import_tqdm()(items, description, total, bar_format="{l_bar}{bar}| {elapsed}")


def in_threads(function, items):
    """Yields function(item) for each item, in order. Threads compute a few results ahead."""
    with ThreadPoolExecutor(THREADS) as pool:
        unfinished = deque()
        try:
            for item in items:
                unfinished.append(pool.submit(function, item))
                if len(unfinished) > 2 * THREADS:
                    yield unfinished.popleft().result()
            while unfinished:
                yield unfinished.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def day_number(date):
    """How many days after 1970-01-01 date is, YYYY-MM-DD. ValueError if there is no such date."""
    return int(np.datetime64(date, "D").astype("int64"))


def date_text(day):
    """The date, YYYY-MM-DD, of a day number."""
    return str(np.datetime64(int(day), "D"))


def remove_leftovers(target):
    """Remove the unfinished files, older than a day, that killed builds of target have left."""
    name = re.compile(re.escape(target.name) + r"\.[0-9a-f]{16}\.tmp")
    for path in target.parent.iterdir():
        if name.fullmatch(path.name) and path.stat().st_mtime < time.time() - 86_400:
            path.unlink()


@contextmanager
def replacing(path):
    """Yields a new binary file that replaces path at the end. After an error it is removed.

    Until then it has a name that no other file has. Raises BuildError.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f"{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        with suppress(OSError):
            remove_leftovers(target)
        with temporary.open("xb", buffering=2**20) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
        os.replace(temporary, target)
    except OSError as error:
        raise BuildError(f"{path} not written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_output_path(path, *others):
    """Raise BuildError if path cannot become a file, or if it is one of the files at others."""
    target = os.path.realpath(path)
    if os.path.lexists(target) and not os.path.isfile(target):
        raise BuildError(f"{path} is a folder or a device, no file: name another --output")
    if target in map(os.path.realpath, others):
        raise BuildError(f"{path} would replace a file of this build: name another --output")
    folder = os.path.dirname(target)
    if not os.access(folder, os.W_OK | os.X_OK):
        reason = "no permission to write into" if os.path.isdir(folder) else "there is no folder"
        raise BuildError(f"{path} not written: {reason} {folder}")


# The download of missing days from Polygon's REST API.
API_URL = "https://api.polygon.io"
FLAT_FILE_HEADER = "ticker,volume,open,close,high,low,window_start,transactions"

TRIES = 4  # requests for the same day, if each fails for a reason that may be temporary
MOST_WAITS = 5  # waits because of the limit of requests, while the same day is downloaded
LONGEST_WAIT = 3600  # seconds
CONNECT_SECONDS, READ_SECONDS = 10, 30
ANSWER_SECONDS = 60  # for a request and its whole answer
LARGEST_ANSWER = 16 * 2**20  # bytes: ten times a day's answer in 2026

NO_KEY = "--download needs your Polygon key in POLYGON_API_KEY: export POLYGON_API_KEY=YOUR_KEY"
NO_CLIENT = "--download needs polygon-api-client: pip install -r requirements.txt"
WRONG_KEY = "Polygon does not accept your key: check POLYGON_API_KEY or MASSIVE_API_KEY"
NOT_IN_PLAN = "your Polygon plan does not include a day's data of all tickers"
# A part of the text of Polygon's refusal, and what the user reads instead.
REFUSALS = {
    "API Key": WRONG_KEY,
    "today's data": "your Polygon plan does not have this day yet: try again later",
    "timeframe": "your Polygon plan does not reach to this day: the free one goes back two years",
    "entitled": NOT_IN_PLAN,
}
RATE_LIMIT = "Polygon's limit of requests is reached"
TIMEOUT = "Polygon did not answer in time: try again later"
NO_CONNECTION = "Polygon cannot be reached, or the connection broke: check your internet connection"
SERVER_ERROR = "Polygon's server is in trouble: try again later"
REDIRECTED = "Polygon redirects to another address, which does not get your key: check --api-url"
BAD_ANSWER = "Polygon's answer makes no sense: try again later"


class RequestError(Exception):
    """Why a request failed, in a sentence. is_final says that another try would fail, too."""

    def __init__(self, sentence, is_final=False):
        super().__init__(sentence)
        self.is_final = is_final


class RateLimit(Exception):
    """This minute's requests are used up. retry_after is the header Retry-After, or None."""

    def __init__(self, retry_after):
        super().__init__(retry_after)
        self.retry_after = retry_after


def utc_now():
    return datetime.now(timezone.utc)


def wait(seconds):
    time.sleep(seconds)


def first_sunday_from(date):
    """The day number of the first Sunday on or after date, YYYY-MM-DD."""
    day = day_number(date)
    return day + (3 - day) % 7  # day number 3, 1970-01-04, was a Sunday


def new_york_midnight(day):
    """When the day with this number begins in New York, in seconds after 1970-01-01 00:00 UTC.

    New York is 5 hours behind UTC, and 4 hours in summer time. Since 2007 summer time lasts from
    the second Sunday in March to the first in November. From 1987 to 2006 it lasted from the first
    Sunday in April to the last in October. The clock changes at 2:00 on these Sundays. So the one
    in spring begins before summer time, and the one in autumn begins in summer time.
    """
    year = date_text(day)[:4]
    start, end = ("03-08", "11-01") if year >= "2007" else ("04-01", "10-25")
    is_summer = first_sunday_from(f"{year}-{start}") < day <= first_sunday_from(f"{year}-{end}")
    return (day * 24 + (4 if is_summer else 5)) * 3600


def last_finished_day():
    """The number of the last day that is over in New York."""
    now = utc_now().timestamp()
    today = int(now // 86_400)
    if now < new_york_midnight(today):
        today -= 1
    return today - 1


def days_to_download(data_dir, first, until):
    """The day numbers of the weekdays from first to until that have no flat file below data_dir.

    first and until are day numbers or None. Without first, the days begin after the newest file.
    Without until, they end with the last day that is over in New York. Raises UsageError, or
    BuildError.
    """
    last_finished = last_finished_day()
    for option, day in (("--download", first), ("--until", until)):
        if day is not None and day > last_finished:
            raise UsageError(
                f"{option} {date_text(day)}: the last day that is over in New York is "
                f"{date_text(last_finished)}"
            )
    until = last_finished if until is None else until
    if first is not None and first > until:
        raise UsageError(f"--download {date_text(first)} is after --until {date_text(until)}")
    try:
        present = {day_in_name(path) for path in find_flat_files(data_dir)} - {None}
    except NoFlatFiles:
        present = set()
    if first is None and not present:
        raise UsageError(
            f"no file YYYY-MM-DD.csv or .csv.gz in {data_dir}: say which day is the first, "
            f"for example --download {date_text(last_finished - 90)}"
        )
    start = max(present) + 1 if first is None else first
    # Day number 4, 1970-01-05, was a Monday.
    return [day for day in range(start, until + 1) if (day - 4) % 7 < 5 and day not in present]


def call_for_at_most(seconds, call):
    """What call() returns or raises. Raises RequestError if that takes longer than seconds.

    A socket's time limit is not enough: it starts again with each byte that a slow server sends.
    A call that takes too long goes on in its thread, which ends with the process at the latest.
    """
    outcome = Future()

    def run():
        try:
            outcome.set_result(call())
        except Exception as error:
            outcome.set_exception(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    for _ in range(seconds):
        thread.join(1)  # not join(seconds): on Windows, Ctrl-C waits until a join ends
    if not outcome.done():
        raise RequestError(TIMEOUT)
    return outcome.result()


def read_body(response):
    """The unpacked body of a urllib3 response. Raises RequestError, also if it is too large."""
    body = bytearray()
    piece = True
    while piece and len(body) <= LARGEST_ANSWER:
        piece = response.read(2**16, decode_content=False)
        body += piece
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and len(body) < min(int(length), LARGEST_ANSWER):
        raise RequestError(NO_CONNECTION)  # urllib3 1 does not report a body that is cut short
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if len(body) > LARGEST_ANSWER or encoding not in ("identity", "gzip"):
        raise RequestError(BAD_ANSWER)
    if encoding == "identity":
        return bytes(body)
    unpacker = zlib.decompressobj(wbits=GZIP_WBITS)
    unpacked = unpacker.decompress(body, LARGEST_ANSWER)
    if not unpacker.eof:
        raise RequestError(BAD_ANSWER)
    return unpacked


def with_request_limits(request):
    """Return a function that calls request, a urllib3 PoolManager's method, with limits.

    Without these limits, Polygon's client ignores the timeouts that its constructor takes, repeats
    requests, sleeps as long as a Retry-After says, follows redirects to any host, reads answers of
    any size, and reports a refusal without its status.
    """
    from urllib3 import Timeout

    def request_with_limits(method, url, **options):
        response = request(
            method,
            url,
            timeout=Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
            retries=False,
            redirect=False,
            preload_content=False,
            **options,
        )
        with closing(response):
            status = response.status
            if status == 429:
                raise RateLimit(response.headers.get("Retry-After"))
            if status >= 500:
                raise RequestError(SERVER_ERROR)
            if 300 <= status < 400:
                raise RequestError(REDIRECTED, is_final=True)
            body = read_body(response)
        if status != 200:
            words = body.decode(errors="replace")
            by_status = {401: WRONG_KEY, 403: NOT_IN_PLAN}
            reason = by_status.get(status, f"Polygon's answer has status {status}: check --api-url")
            by_words = (sentence for part, sentence in REFUSALS.items() if part in words)
            raise RequestError(next(by_words, reason), is_final=True)
        return SimpleNamespace(status=status, data=body)

    return request_with_limits


def as_request_error(error):
    """The RequestError or RateLimit for error, an exception that a request raised.

    Its text does not quote the text of error, which may contain the user's key.
    """
    from urllib3 import exceptions

    if isinstance(error, (RequestError, RateLimit)):
        return error
    if isinstance(error, (zlib.error, exceptions.DecodeError)):
        return RequestError(BAD_ANSWER)
    # urllib3 1 reports a refused connection as a kind of timeout.
    is_refused = isinstance(error, exceptions.NewConnectionError)
    if isinstance(error, exceptions.TimeoutError) and not is_refused:
        return RequestError(TIMEOUT)
    return RequestError(NO_CONNECTION)


def parse_json_integer(digits):
    """digits as a number: a float if there are many of them, because int could take hours."""
    return int(digits) if len(digits) <= 20 else float(digits)


def is_amount(value):
    """Whether value is a finite number that is not negative."""
    return type(value) in (int, float) and 0 <= value < math.inf


def is_sound_row(row):
    """Whether a row of Polygon's answer can be written into a flat file and read again.

    parse_answer explains the names of a row's values.
    """
    if not isinstance(row, dict) or not all(
        map(is_amount, map(row.get, ["v", "o", "c", "h", "l", "n"]))
    ):
        return False
    ticker, trades = row.get("T"), row["n"]
    return (
        isinstance(ticker, str)
        and ticker.isprintable()
        and not set(ticker) & set(' ,"')
        and 1 <= len(ticker.encode()) <= LONGEST_TICKER
        and trades == int(trades)
        and trades <= MOST_TRADES
    )


def parse_answer(body):
    """(rows, unsound): {ticker: row}, and a list of the rows that are left out.

    body is the bytes of the answer for a day. A row is a dict: T the ticker, v volume, o open,
    c close, h high, l low, n trades. Without trading on that day, rows and unsound are empty.
    Raises RequestError.
    """
    try:
        # A row with bytes that are not UTF-8, or control characters, must not spoil the others.
        text = body.decode(errors="surrogateescape")
        answer = json.loads(text, strict=False, parse_int=parse_json_integer)
    except (ValueError, RecursionError):
        raise RequestError(BAD_ANSWER) from None
    results = answer.get("results", []) if isinstance(answer, dict) else None
    if results == [] and answer.get("resultsCount") == 0:
        return {}, []
    results = results if isinstance(results, list) else []
    rows = {row["T"]: row for row in results if is_sound_row(row)}
    if not rows:
        raise RequestError(BAD_ANSWER)
    return rows, [row for row in results if not is_sound_row(row)]


def write_flat_file(data_dir, day, rows):
    """Write the flat file of day, a day number, into data_dir. rows are those of parse_answer."""
    start = new_york_midnight(day) * 10**9
    lines = [FLAT_FILE_HEADER]
    for ticker, row in sorted(rows.items()):
        volume = row["v"]
        numbers = [int(volume) if volume == int(volume) else volume]
        numbers += [row["o"], row["c"], row["h"], row["l"], start, int(row["n"])]
        lines.append(",".join([ticker, *map(repr, numbers)]))
    text = "".join(f"{line}\n" for line in lines)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"{data_dir}: {error.strerror}") from None
    with replacing(data_dir / f"{date_text(day)}.csv.gz") as file:
        file.write(gzip.compress(text.encode(), mtime=0))


class PolygonClient:
    """Fetches the whole market of a day from the Polygon API at api_url. Raises BuildError.

    report is what progress_of_days yields. It is called before each wait that RateLimit causes.
    """

    def __init__(self, api_url, report):
        key = os.environ.get("POLYGON_API_KEY") or os.environ.get("MASSIVE_API_KEY")
        if not key:
            raise BuildError(NO_KEY)
        if not re.fullmatch("[ -~]+", key):
            raise BuildError(WRONG_KEY)
        try:
            from polygon import RESTClient

            self.client = RESTClient(key, base=api_url)
        except (ImportError, TypeError):  # TypeError: version 0.2 has no parameter base
            raise BuildError(NO_CLIENT) from None
        self.client.client.request = with_request_limits(self.client.client.request)
        self.report = report
        self.minute_began = None  # time of the first request after the latest RateLimit

    def fetch_day(self, date):
        """What parse_answer returns for a date. Waits and tries again where that can help."""
        tries = waits = 0
        while True:
            try:
                return parse_answer(self.request_day(date))
            except RateLimit as limit:
                waits += 1
                seconds = self.seconds_to_wait(limit.retry_after)
                if waits > MOST_WAITS or seconds > LONGEST_WAIT:
                    raise BuildError(
                        f"{date} not downloaded: {RATE_LIMIT}: try again later"
                    ) from None
                self.report(f"{RATE_LIMIT}, waiting {seconds} s", pause=seconds)
                wait(seconds)
                self.minute_began = None
            except RequestError as error:
                tries += 1
                if error.is_final or tries == TRIES:
                    raise BuildError(f"{date} not downloaded: {error}") from None
                wait(2**tries)

    def request_day(self, date):
        """The bytes of the answer for a date. Raises RequestError or RateLimit."""

        def request():
            return self.client.get_grouped_daily_aggs(date, adjusted=False, raw=True).data

        self.minute_began = self.minute_began or utc_now()
        try:
            return call_for_at_most(ANSWER_SECONDS, request)
        except Exception as error:
            raise as_request_error(error) from None

    def seconds_to_wait(self, retry_after):
        """The seconds to wait, at least 1: what retry_after says, else the rest of the minute.

        Polygon limits the requests of a minute, which is taken to begin at minute_began.
        """
        from email.utils import parsedate_to_datetime

        if re.fullmatch(r"\d{1,9}", retry_after or "", re.ASCII):
            return max(1, int(retry_after))
        try:
            seconds = (parsedate_to_datetime(retry_after) - utc_now()).total_seconds()
        except (TypeError, ValueError, OverflowError):
            seconds = 60 - (utc_now() - self.minute_began).total_seconds()
            seconds = min(60, seconds)  # in case the computer's clock was set back
        return max(1, math.ceil(seconds))


@contextmanager
def progress_of_days(total, say):
    """Yields a function report(text, done=None, pause=0), which shows the progress of a download.

    done is how many of total days are done. pause is the length, in seconds, of a wait that begins
    now. On a terminal, report updates a line on stderr. Elsewhere it calls say(text).
    """
    if not on_terminal():
        yield lambda text, done=None, pause=0: say(text)
        return
    began, form = utc_now(), "{l_bar}{bar}| {n}/{total} days{postfix}"
    with import_tqdm()(None, "Downloading", total, bar_format=form) as display:

        def report(text, done=None, pause=0):
            display.n = display.n if done is None else done
            if display.n:
                seconds_per_day = ((utc_now() - began).total_seconds() + pause) / display.n
                minutes = math.ceil(seconds_per_day * (total - display.n) / 60)
                display.set_postfix_str(f"about {minutes} min left", refresh=False)
            display.set_description_str(text)

        yield report


def download_days(data_dir, first=None, until=None, api_url=API_URL, say=print):
    """Fetch the days from first to until that data_dir lacks, and write them as flat files.

    days_to_download explains first and until. Each day is written as soon as it is fetched, so a
    later error loses none of them. say is called with each line for stdout. Raises BuildError.
    """
    days = days_to_download(data_dir, first, until)
    if not days:
        say("Nothing to download: no day is missing.")
        return
    with progress_of_days(len(days), say) as report:
        client = PolygonClient(api_url, report)
        report(f"Downloading {len(days)} days, {date_text(days[0])} to {date_text(days[-1])}")
        left_out = []
        for done, day in enumerate(days, 1):
            date = date_text(day)
            rows, unsound = client.fetch_day(date)
            if rows:
                write_flat_file(data_dir, day, rows)
            left_out += [(date, row.get("T") if isinstance(row, dict) else row) for row in unsound]
            report(f"{date}: {len(rows):,} tickers" if rows else f"{date}: no trading", done)
    if left_out:
        date, ticker = left_out[0]
        print_to_stderr(
            f"warning: {len(left_out):,} downloaded rows are left out, because a value is missing "
            f"or not valid; the first is {str(ticker)[:LONGEST_TICKER]} on {date}"
        )


def day_in_name(path):
    """The day number in the file name YYYY-MM-DD.csv or .csv.gz of path.

    It is None for other names, and for dates that do not exist or are not from 1990 to 2099.
    """
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)\.csv(\.gz)?", path.name, re.ASCII | re.IGNORECASE)
    try:
        day = day_number(match[1]) if match else None
    except ValueError:
        return None
    return day if match and FIRST_DAY <= day <= LAST_DAY else None


def find_flat_files(data_dir, warnings=None):
    """The flat files below data_dir in the order of their names. YYYY-MM-DD sorts by day.

    Hidden files and folders are left out, links are followed. Of several files of one day,
    file_that_counts is read; the list warnings gets a sentence about the others. Raises
    NoFlatFiles, or BuildError for what cannot be read.
    """

    def refuse(error):
        raise BuildError(f"{error.filename}: {error.strerror}") from None

    if not os.path.isdir(data_dir):
        raise NoFlatFiles(f"no folder {data_dir}: name another --data-dir, or use --download FROM")
    of_one_day, entered = {}, set()
    for folder, folders, names in os.walk(data_dir, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in entered:  # two links lead to it, or a link leads to a folder above
            folders.clear()
            continue
        entered.add(real)
        folders[:] = [name for name in folders if name[0] != "."]
        for path in (Path(folder, name) for name in names if name[0] != "."):
            if path.is_symlink() and not path.exists():
                raise BuildError(f"{path} is a link that leads nowhere: remove it")
            if path.name.lower().endswith((".csv", ".csv.gz")):
                unpacked = path.with_suffix("") if path.suffix.lower() == ".gz" else path
                of_one_day.setdefault(day_in_name(path) or unpacked, []).append(path)
    if not of_one_day:
        raise NoFlatFiles(
            f"no *.csv or *.csv.gz in {data_dir}: copy some there, or use --download FROM"
        )
    paths = [file_that_counts(paths, warnings) for paths in of_one_day.values()]
    return sorted(paths, key=lambda path: (path.name, path))


def file_that_counts(paths, warnings=None):
    """Of the paths of one day's files, the one modified last; of equally old ones, the .csv.

    If these are equal as well, it is the one that sorts first. The list warnings gets a sentence
    for each other file, unless it is just as old and packed.
    """
    if len(paths) == 1:
        return paths[0]
    times = {path: path.stat().st_mtime_ns for path in paths}
    is_packed = {path: path.suffix.lower() == ".gz" for path in paths}
    chosen, *others = sorted(paths, key=lambda path: (-times[path], is_packed[path], path))
    for path in others:
        is_same = times[path] == times[chosen] and is_packed[path] != is_packed[chosen]
        if warnings is not None and not is_same:
            warnings.append(f"two files of one day: {chosen} is read, {path} is not")
    return chosen


def unpack_gzip(packed):
    """The content of a .gz file, cut after MOST_BYTES + 1 bytes. packed is the file's bytes.

    Raises zlib.error and EOFError.
    """
    content = b""
    while packed and len(content) <= MOST_BYTES:
        unpacker = zlib.decompressobj(wbits=GZIP_WBITS)
        content += unpacker.decompress(packed, MOST_BYTES + 1 - len(content))
        if not unpacker.eof and len(content) <= MOST_BYTES:
            raise EOFError("cut short")
        packed = unpacker.unused_data.lstrip(b"\0")  # what follows is padding or another .gz
    return content


def read_csv_bytes(path):
    """The bytes of the CSV file at path, without a byte order mark. Raises BuildError.

    They are unpacked if they begin like a gzip file, whatever the file's name says.
    """
    try:
        if not path.is_file():
            raise BuildError(f"{path} is gone, or no regular file: remove it, or build again")
        is_too_large = path.stat().st_size > MOST_BYTES
        raw = b"" if is_too_large else path.read_bytes()
        if raw.startswith(b"\x1f\x8b"):
            raw = unpack_gzip(raw)
    except (EOFError, zlib.error) as error:
        raise BuildError(f"{path}: broken .gz ({error}): download it again") from None
    except OSError as error:
        raise BuildError(f"{path}: {error.strerror}") from None
    if is_too_large or len(raw) > MOST_BYTES:
        raise BuildError(
            f"{path}: over {MOST_BYTES / 1e6:,.0f} MB, too large for a flat file of daily rows"
        )
    return raw.removeprefix(b"\xef\xbb\xbf")


def read_header(raw, path):
    """The column names of a flat file. raw is its bytes. Raises BuildError."""
    first_line = re.match(rb"[^\r\n]*", raw)[0].decode(errors="replace")
    if raw.lstrip().startswith(b"<"):
        code = re.search(rb"<(?:Code|title)>([^<]*)", raw)
        said = f" ({quoted(code[1].decode(errors='replace'))})" if code else ""
        raise BuildError(f"{path} is an error page of a server{said}: download the file again")
    try:
        header = next(csv.reader([first_line], strict=True), [])
    except csv.Error as error:
        raise BuildError(f"{path}, line 1: {error}") from None
    missing = [name for name in NEEDED_COLUMNS if header.count(name) != 1]
    if missing:
        found = ", ".join(header)[:200] or "none"
        raise BuildError(
            f"{path}: it must have each of these columns once: {', '.join(missing)}; it has {found}"
        )
    return header


def parse_with_pyarrow(raw):
    """The columns of a flat file, {name: array}, or None if parse_carefully has to read it.

    raw is the file's bytes. The tickers are a pyarrow array, the numbers numpy ones of the types
    in COLUMN_TYPES. An open can be anything here.
    """
    try:
        rows = arrow_csv.read_csv(
            pyarrow.BufferReader(raw),
            arrow_csv.ReadOptions(use_threads=False, block_size=len(raw) + 1),
            arrow_csv.ParseOptions(quote_char=False),
            arrow_csv.ConvertOptions(
                column_types=COLUMN_TYPES,
                include_columns=list(COLUMN_TYPES),
                include_missing_columns=True,  # open
                null_values=[""],  # the ticker NA is no missing value
                strings_can_be_null=False,
            ),
        )
    except pyarrow.ArrowInvalid:
        return None
    if not len(rows) or any(rows[name].null_count for name in BOUNDS):
        return None
    tickers = rows["ticker"].combine_chunks()
    _, offsets, letters = tickers.buffers()
    lengths = np.diff(np.frombuffer(offsets, "int32", len(tickers) + 1))
    letters = np.frombuffer(letters or b"", "uint8")
    columns = {name: rows[name].to_numpy() for name in [*BOUNDS, "open"]}
    trades = columns["transactions"]
    is_sound = (
        all(
            ((columns[name] >= bounds[0]) & (columns[name] <= bounds[1])).all()
            for name, bounds in BOUNDS.items()
        )
        and (trades == np.floor(trades)).all()
        and 1 <= lengths.min() <= lengths.max() <= LONGEST_TICKER
        and ord(" ") <= letters.min() <= letters.max() <= ord("~")
    )
    return {"ticker": tickers, **columns} if is_sound else None


def parse_carefully(raw, header, path):
    """(columns, warnings) of a flat file, read line by line. columns are as parse_with_pyarrow's.

    Bad lines are left out, with a warning. Raises BuildError if the last line is cut off, or more
    than one line in a hundred is bad. raw is the file's bytes, header its column names.
    """
    rows, bad_lines = [], []
    number = 0
    for number, line in enumerate(raw.splitlines(), 1):
        if number == 1 or not line.strip():
            continue
        try:
            rows.append(parse_line(line.decode(errors="surrogateescape"), header))
        except (ValueError, csv.Error) as error:
            bad_lines.append((number, error))
    warnings = []
    if bad_lines:
        (first, error), (last, last_error) = bad_lines[0], bad_lines[-1]
        if last == number and not raw.endswith((b"\n", b"\r")):
            raise BuildError(f"{path}, line {last}: {last_error}; it is cut off: download it again")
        if 100 * len(bad_lines) > len(rows) + len(bad_lines):
            raise BuildError(f"{path}, line {first}: {error}; too many such lines for a flat file")
        lines = f"{len(bad_lines)} line{'s' * (len(bad_lines) > 1)}"
        warnings.append(f"{path}: {lines} left out, first line {first}: {error}")
    tickers, *numbers = zip(*rows) if rows else [()] * 5
    columns = {"ticker": pyarrow.array(tickers, pyarrow.string())}
    for name, values in zip([*BOUNDS, "open"], numbers):
        columns[name] = np.array(values, "int64" if name == "window_start" else "float64")
    return columns, warnings


def parse_line(line, header):
    """(ticker, window_start, trades, close, open) of a line. Raises ValueError and csv.Error."""
    fields = next(csv.reader([line], strict=True))
    if len(fields) != len(header):
        raise ValueError(f"{len(fields)} fields, but the header has {len(header)}")
    row = dict(zip(header, fields))
    ticker = row["ticker"]
    if not ticker.isprintable() or not 1 <= len(ticker.encode()) <= LONGEST_TICKER:
        raise ValueError(
            f"the ticker is {quoted(ticker)}, not 1 to {LONGEST_TICKER} bytes that can be printed"
        )
    numbers = [parse_number(name, row[name]) for name in BOUNDS]
    has_open = header.count("open") == 1 and NUMBER_PATTERN.fullmatch(row["open"])
    return ticker, *numbers, float(row["open"]) if has_open else math.nan


def parse_number(name, text):
    """The value of text in the column called name. Raises ValueError."""
    if not NUMBER_PATTERN.fullmatch(text):
        raise ValueError(f"{name} is {quoted(text)}, not a number")
    # A float cannot hold every whole number as large as window_start.
    number = int(text) if text.strip().isdigit() else float(text)
    least, most, meaning = BOUNDS[name]
    if not least <= number <= most or (name != "close" and number != int(number)):
        raise ValueError(f"{name} is {quoted(text)}, not {meaning}")
    return number


def refuse_minutes(tickers, window_starts, path):
    """Raise BuildError if a ticker has several window_starts on one day: a file of minutes."""
    if (window_starts == window_starts[0]).all():
        return
    numbers = tickers.dictionary_encode().indices.to_numpy()
    order = np.lexsort((window_starts, numbers))
    numbers, starts = numbers[order], window_starts[order]
    is_same_day = (numbers[1:] == numbers[:-1]) & (np.diff(starts // NS_PER_DAY) == 0)
    if (is_same_day & (starts[1:] != starts[:-1])).any():
        raise BuildError(
            f"{path} looks like a file of minutes, with several rows for a ticker and day: "
            "take the daily ones (day_aggs_v1)"
        )


def read_flat_file(path):
    """(tickers, columns, warnings) of the flat file at path. Raises BuildError.

    tickers is a pyarrow array of strings. columns are arrays: day (uint16, the day number), trades
    (int32), close_price and open_price (float64, in dollars; a missing open is nan). warnings is a
    list of sentences. If the file's name and a row disagree on the day, the name is right.
    """
    raw = read_csv_bytes(path)
    header = read_header(raw, path)
    is_plain = b'"' not in raw and header.count("open") <= 1
    parsed, warnings = parse_with_pyarrow(raw) if is_plain else None, []
    if parsed is None:
        parsed, warnings = parse_carefully(raw, header, path)
    tickers, window_starts, opens = (parsed[name] for name in ("ticker", "window_start", "open"))
    days = (window_starts // NS_PER_DAY).astype("uint16")
    if len(tickers):
        refuse_minutes(tickers, window_starts, path)
    else:
        warnings.append(f"{path}: no rows below the header, skipped")
    named_day = day_in_name(path)
    other_days = days[days != named_day] if named_day is not None else []
    if len(other_days):
        warnings.append(
            f"{path}: the day in the name is used, although {len(other_days)} rows say "
            f"another, first {date_text(other_days[0])}"
        )
        days[:] = named_day
    columns = {
        "day": days,
        "trades": parsed["transactions"].astype("int32"),
        "close_price": parsed["close"] + 0.0,  # which makes 0.0 of -0.0
        "open_price": np.where((opens > 0) & (opens < math.inf), opens, math.nan),
    }
    return tickers, columns, warnings


class Market(NamedTuple):
    """All rows of all flat files, grouped by ticker, each ticker's by date.

    The columns are at first those of read_flat_file. add_facts adds others, and gap replaces
    open_price.
    """

    tickers: list  # in the order in which the files first name them; a ticker's number is its index
    starts: np.ndarray  # the index of each ticker's first row; at the end, the number of all rows
    days: list  # the day numbers that occur, in order
    columns: dict  # {name: array with a value for each row}

    def batches(self):
        """[(tickers, rows), ...]: two slices for so many tickers that they have some BATCH_ROWS."""
        edges = np.searchsorted(self.starts, range(0, self.starts[-1], BATCH_ROWS))
        bounds = list(dict.fromkeys([*edges.tolist(), len(self.tickers)]))
        return [
            (slice(first, end), slice(self.starts[first], self.starts[end]))
            for first, end in zip(bounds, bounds[1:])
        ]


def read_market(paths, warnings):
    """The Market of the flat files at paths. warnings gets sentences. Raises BuildError."""
    all_tickers, all_columns = [], []
    files = in_threads(read_flat_file, paths)
    for path in with_progress(paths, "Reading", len(paths)):
        if not on_terminal():
            say(f"Processing {path.name}")
        tickers, columns, file_warnings = next(files)
        all_tickers.append(tickers)
        all_columns.append(columns)
        warnings += file_warnings
    if not any(map(len, all_tickers)):
        raise BuildError(f"no rows in any of {len(paths)} flat files, such as {paths[0]}")
    encoded = pyarrow.chunked_array(all_tickers).dictionary_encode().chunks
    tickers = encoded[-1].dictionary.to_pylist()
    if len(tickers) > MOST_TICKERS:
        raise BuildError(f"{len(tickers):,} tickers, but a table holds at most {MOST_TICKERS:,}")
    # numpy sorts numbers of two bytes several times as fast as longer ones.
    dtype = "uint16" if len(tickers) <= 2**16 else "uint32"
    number = np.concatenate([chunk.indices.to_numpy().astype(dtype) for chunk in encoded])
    del all_tickers, encoded
    day = np.concatenate([columns["day"] for columns in all_columns])
    order = np.lexsort((day, number))  # rows that are equal in both stay in the order of reading
    # Each column is dropped as soon as it is sorted, to save memory.
    sorted_columns = {
        name: np.concatenate([columns.pop(name) for columns in all_columns])[order]
        for name in list(columns)
    }
    number = number[order]
    del order
    number, columns = without_replaced_rows(tickers, number, sorted_columns, warnings)
    starts = np.searchsorted(number, np.arange(len(tickers) + 1))
    days = np.flatnonzero(np.bincount(columns["day"])).tolist()
    return Market(tickers, starts, days, columns)


def without_replaced_rows(tickers, number, columns, warnings):
    """(number, columns) with only the last row of each ticker and date.

    number is the column of the tickers' numbers. If some rows differ from the next one of the same
    ticker and date, the list warnings gets a sentence with their number.
    """
    day = columns["day"]
    is_replaced = np.append((number[1:] == number[:-1]) & (day[1:] == day[:-1]), False)
    replaced = np.flatnonzero(is_replaced)
    if not len(replaced):
        return number, columns
    differs = np.zeros(len(replaced), bool)
    for column in columns.values():
        before, after = column[replaced], column[replaced + 1]
        differs |= (before != after) & ~(np.isnan(before) & np.isnan(after))
    if differs.any():
        first = replaced[differs.argmax()]
        warnings.append(
            f"{differs.sum()} rows differ from a later one of the same ticker and date, first "
            f"{tickers[number[first]]} on {date_text(day[first])}: the last one is used"
        )
    kept = ~is_replaced
    return number[kept], {name: column[kept] for name, column in columns.items()}


def price_changes(prices, close_prices, earlier_rows):
    """The changes, in percent, from the previous row's close to prices.

    prices are the closes or the opens. earlier_rows is as in Market: in a ticker's first row, where
    it is 0, the change is nan. After a close of 0 the change is inf or nan. The float operations
    are those of pandas' pct_change() * 100, so that all digits are the same.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        changes = (prices / np.roll(close_prices, 1) - 1) * 100
    return np.where(earlier_rows > 0, changes, math.nan)


def baselines(trades, earlier_rows, window):
    """For each row, mean and sample standard deviation of trades in the window rows before it.

    Both are nan if the ticker has fewer earlier rows. np.roll(trades, k) gives each row the trades
    of the k-th row before it. Where that row is another ticker's, earlier_rows is less than window,
    so the result is nan.

    With S for the sum of the n values x, the deviation is sqrt(sum((n*x - S)**2) / (n - 1)) / n.
    n*x - S is a whole number and so exact: a flat baseline has a deviation of exactly 0.
    """
    trades = trades.astype("int64")
    total = sum(np.roll(trades, k) for k in range(1, window + 1))
    squares = np.zeros(len(trades))
    for k in range(1, window + 1):
        squares += (window * np.roll(trades, k) - total).astype("float64") ** 2
    has_baseline = earlier_rows >= window
    avg_trades = np.where(has_baseline, total / window, math.nan)
    std_trades = np.where(has_baseline, np.sqrt(squares / (window - 1)) / window, math.nan)
    return avg_trades, std_trades


def record_column(trades, earlier_rows):
    """The column record: how many rows, counted back from each row, had fewer trades.

    A row with as many trades ends the count. The querier has the same function for one ticker.

    stop[i] is the index of the row that may end the count of row i. At first it is i - 1. If that
    row has fewer trades, so have all rows between it and its own stop: row i takes over this stop.
    Every count ends at before_first, the row before the ticker's first one.
    """
    row = np.arange(len(trades))
    before_first = row - earlier_rows - 1
    stop = row - 1
    unfinished = np.flatnonzero(stop > before_first)
    while len(unfinished):
        has_fewer = trades[stop[unfinished]] < trades[unfinished]
        unfinished = unfinished[has_fewer]
        stop[unfinished] = stop[stop[unfinished]]
        unfinished = unfinished[stop[unfinished] > before_first[unfinished]]
    return row - stop - 1


def add_facts(market, window=WINDOW):
    """Add to market's columns the facts that follow from each row's earlier rows.

    These are price_diff, avg_trades and std_trades, with nan where the table has None, and gap,
    record, earlier_rows and baseline_days (write_day_pages explains them). gap replaces the column
    open_price.
    """
    columns, starts = market.columns, market.starts
    columns["gap"] = columns.pop("open_price")  # overwritten batch by batch, to save memory
    for name in DAY_PAGE_COLUMNS.keys() - columns.keys():
        columns[name] = np.empty(starts[-1], DAY_PAGE_COLUMNS[name])
    session_of_day = np.zeros(LAST_DAY + 1, "uint16")  # a day's index among the table's days
    session_of_day[market.days] = np.arange(len(market.days))

    def add_to(batch):
        tickers, rows = batch
        of_rows = {name: column[rows] for name, column in columns.items()}
        lengths = np.diff(starts[tickers.start : tickers.stop + 1])
        earlier_rows = np.arange(rows.start, rows.stop) - np.repeat(starts[tickers], lengths)
        trades, closes, opens = (of_rows[name] for name in ("trades", "close_price", "gap"))
        of_rows["price_diff"][:] = price_changes(closes, closes, earlier_rows)
        gap = price_changes(opens, closes, earlier_rows)
        of_rows["gap"][:] = np.where(np.isfinite(gap), gap, math.nan)
        of_rows["avg_trades"][:], of_rows["std_trades"][:] = baselines(trades, earlier_rows, window)
        of_rows["record"][:] = record_column(trades, earlier_rows)
        of_rows["earlier_rows"][:] = earlier_rows
        sessions = session_of_day[of_rows["day"]]
        reach = sessions - np.roll(sessions, window)  # without meaning where there is no baseline
        of_rows["baseline_days"][:] = np.where(earlier_rows >= window, reach, 0)

    batches = market.batches()
    for _ in with_progress(in_threads(add_to, batches), "Computing", len(batches)):
        pass


def pickled_text(text):
    """The opcode and the bytes that push text on a pickle's stack."""
    encoded = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def write_and_get_extent(file, *pieces):
    """Write pieces, bytes or arrays, one after the other, and return their packed EXTENT."""
    offset, crc = file.tell(), 0
    for piece in pieces:
        crc = zlib.crc32(piece, crc)
        file.write(piece)
    return EXTENT.pack(offset, file.tell() - offset, crc)


def write_lookup_table(file, market, window=WINDOW):
    """Write the table into a binary file: four parts and a footer, one after the other.

        ┌───────────────────────────────────────────────────────────────┐
        │ 1  a pickle: {ticker: {date: stats}}                          │ write_pickle
        ├───────────────────────────────────────────────────────────────┤
        │ 2  a day page for each date: its rows, column by column       │ write_day_pages
        ├───────────────────────────────────────────────────────────────┤
        │ 3  the gaps of each ticker, then the directory of tickers     │ write_directory
        ├───────────────────────────────────────────────────────────────┤
        │ 4  the index: INDEX_HEADER, and an INDEX_DAY for each date    │ write_lookup_table
        ├───────────────────────────────────────────────────────────────┤
        │ FOOTER: the extent of the index, MAGIC                        │
        └───────────────────────────────────────────────────────────────┘

    A reader begins at the end: it reads the footer, the index, and then the day page or the ticker
    that it needs. An extent is offset in the file, length and CRC-32. All numbers outside the
    pickle are little-endian, all text is UTF-8. query-lookup-table.py reads this format.
    """
    row_extents = write_pickle(file, market, window)
    index_days = write_day_pages(file, market)
    directory = write_directory(file, market, row_extents)
    index = INDEX_HEADER.pack(window, len(market.tickers), directory) + b"".join(index_days)
    file.write(FOOTER.pack(write_and_get_extent(file, index), MAGIC))


def write_pickle(file, market, window):
    """Write part 1, the pickle, and return the packed EXTENT of each ticker's rows in it.

    A pickle is a program for a stack machine. This one is put together from its opcodes, so that
    numpy makes many rows at once. It begins with SIGNATURE. Then it stores the texts that it needs
    many times, FIELDS and the dates, in the slots 0, 1, 2 and so on of the pickle's memo. Then
    come EMPTY_DICT and MARK for the table, and for each ticker its text, EMPTY_DICT, MARK, its rows
    by date, SETITEMS. SETITEMS and STOP are the end. A row is 59 bytes long. LONG_BINGET and BINGET
    push the text in a slot. The slots 0 to 4 hold FIELDS, the dates follow. The sample market's
    2024-10-18 is in the slot 0x3c, and VTAK's row of this day is:

        j 3c000000           LONG_BINGET  the date
        } (                  EMPTY_DICT, MARK
        h 00  J 04070700     BINGET       "trades",       BININT    460548, little-endian
        h 01  G 3fed1eb8...  BINGET       "close_price",  BINFLOAT  0.91, big-endian
        h 02  G 405a9f56...  BINGET       "price_diff",   BINFLOAT  106.4896...
        h 03  G 40b89366...  BINGET       "avg_trades",   BINFLOAT  6291.4
        h 04  G 40c8318f...  BINGET       "std_trades",   BINFLOAT  12387.1216...
        u                    SETITEMS

    A ticker's first rows have no baseline: in place of the last two numbers they have the opcode
    `N` (NONE) twice, and are 43 bytes long.
    """
    prologue = SIGNATURE
    for slot, text in enumerate(FIELDS + [date_text(day) for day in market.days]):
        prologue += pickled_text(text) + pickle.LONG_BINPUT + struct.pack("<I", slot) + pickle.POP
    file.write(prologue + pickle.EMPTY_DICT + pickle.MARK)
    slots = np.zeros(LAST_DAY + 1, "uint32")  # the dates' slots in the pickle's memo
    slots[market.days] = np.arange(len(market.days)) + len(FIELDS)

    def pickle_batch(batch):
        columns = {name: column[batch[1]] for name, column in market.columns.items()}
        columns["date"] = slots[columns["day"]]
        return pickled_rows(columns, FIELDS[:3]), pickled_rows(columns, FIELDS)

    extents, batches = [], market.batches()
    pickled = in_threads(pickle_batch, batches)
    pickled = with_progress(pickled, "Writing tickers", len(batches))
    for (short_rows, full_rows), (tickers, rows) in zip(pickled, batches):
        bounds = (market.starts[tickers.start : tickers.stop + 1] - rows.start).tolist()
        for ticker, start, end in zip(market.tickers[tickers], bounds, bounds[1:]):
            file.write(pickled_text(ticker) + pickle.EMPTY_DICT + pickle.MARK)
            full = min(start + window, end)  # a ticker's first rows have no baseline
            content = short_rows[start:full].tobytes() + full_rows[full:end].tobytes()
            extents.append(write_and_get_extent(file, content))
            file.write(pickle.SETITEMS)
    file.write(pickle.SETITEMS + pickle.STOP)
    return extents


def pickled_rows(columns, known_fields):
    """The pickled rows of columns, {name: array}: a structured array with an element for each.

    write_pickle explains their bytes. date is the number of a slot in the memo. The known_fields
    are written as numbers, the rest of FIELDS as None.
    """
    # The bytes of a row, with zeros in place of its numbers, and the offset of each number.
    template, offsets = bytearray(pickle.LONG_BINGET + bytes(4)), {"date": 1}
    template += pickle.EMPTY_DICT + pickle.MARK
    for slot, field in enumerate(FIELDS):
        template += pickle.BINGET + bytes([slot])
        if field in known_fields:
            offsets[field] = len(template) + 1
            is_whole = field == "trades"
            template += pickle.BININT + bytes(4) if is_whole else pickle.BINFLOAT + bytes(8)
        else:
            template += pickle.NONE
    template += pickle.SETITEMS
    formats = {"date": "<u4", "trades": "<i4"}
    layout = np.dtype(
        {
            "names": list(offsets),
            "formats": [formats.get(name, ">f8") for name in offsets],
            "offsets": list(offsets.values()),
            "itemsize": len(template),
        }
    )
    pickled = np.tile(np.frombuffer(template, "uint8"), len(columns["day"])).view(layout)
    for name in offsets:
        pickled[name] = columns[name]
    return pickled


def write_day_pages(file, market):
    """Write part 2, and return the packed INDEX_DAY of each date, in order.

    A day page has a row for each ticker of its day, in the table's order of tickers. It holds
    DAY_PAGE_COLUMNS, one column after the other, and then the tickers, joined by line feeds. The
    columns are FIELDS, with nan for None, and these facts of a row:

        gap            (open / previous close - 1) * 100, in percent; nan in a ticker's first row,
                       without an open above 0, and after a close of 0
        record         how many rows before this one, counted back from it, had fewer trades
        earlier_rows   how many rows the ticker has before this one
        baseline_days  over how many of the table's days the baseline reaches back; 0 without one

    For each day the index has the number of rows, the number of rows with a deviation above 0
    (with_deviation) and the number of anomalies.
    """
    tickers = np.array(market.tickers, object)

    def day_page(numbers_and_rows):
        numbers, rows = numbers_and_rows
        page = {name: market.columns[name][rows] for name in DAY_PAGE_COLUMNS}
        return [*page.values(), "\n".join(tickers[numbers]).encode()], day_counts(page)

    index_days = []
    pages = in_threads(day_page, rows_by_day(market))
    pages = with_progress(pages, "Writing days", len(market.days))
    for (pieces, counts), day in zip(pages, market.days):
        extent = write_and_get_extent(file, *pieces)
        index_days.append(INDEX_DAY.pack(date_text(day).encode(), extent, *counts))
    return index_days


def rows_by_day(market):
    """Yields for each day the numbers of its tickers, and the indexes of their rows of this day."""
    day_of_row, next_row = market.columns["day"], market.starts[:-1].copy()
    for day in market.days:
        # The tickers that have rows left, and of these the ones whose next row is of this day.
        numbers = np.flatnonzero(next_row < market.starts[1:])
        numbers = numbers[day_of_row[next_row[numbers]] == day]
        rows = next_row[numbers]
        next_row[numbers] += 1
        yield numbers, rows


def day_counts(page):
    """The number of a day page's rows, of those with a deviation above 0, and of its anomalies."""
    trades, avg_trades, std_trades = (page[name] for name in ("trades", "avg_trades", "std_trades"))
    varies = std_trades > 0
    z_scores = (trades[varies] - avg_trades[varies]) / std_trades[varies]
    is_anomaly = z_scores > Z_THRESHOLD * (1 + TOLERANCE)
    return len(trades), len(z_scores), np.count_nonzero(is_anomaly)


def write_directory(file, market, row_extents):
    """Write part 3 and return the directory's packed EXTENT.

    First come the gaps of each ticker by date, a float64 for each row. Then comes the directory:
    for each ticker the EXTENT of its rows in part 1 and the EXTENT of its gaps, and after all
    these the tickers' names, joined by line feeds. row_extents is what write_pickle returns.
    """
    extents, gaps = b"", market.columns["gap"]
    for of_rows, start, end in zip(row_extents, market.starts, market.starts[1:]):
        extents += of_rows + write_and_get_extent(file, gaps[start:end])
    return write_and_get_extent(file, extents + "\n".join(market.tickers).encode())


def write_json(file, market):
    """Write the table as JSON into a binary file, one line a ticker; nan and inf become null."""
    date_of_day = {day: date_text(day) for day in market.days}
    separator = "{"
    for number, ticker in enumerate(market.tickers):
        rows = slice(market.starts[number], market.starts[number + 1])
        columns = [market.columns[field][rows] for field in FIELDS]
        columns = [np.where(np.isfinite(c), c.astype(object), None).tolist() for c in columns]
        dates = map(date_of_day.get, market.columns["day"][rows].tolist())
        stats = (dict(zip(FIELDS, row)) for row in zip(*columns))
        line = f"{separator}\n{json.dumps(ticker)}: {json.dumps(dict(zip(dates, stats)))}"
        file.write(line.encode())
        separator = ","
    file.write(b"\n}\n")


def build(options):
    """Build the table. Raises BuildError, and OSError if a line cannot be printed."""
    outputs = [options.output]
    check_output_path(options.output)
    if options.json:
        outputs.append(options.output.with_suffix(".json"))
        check_output_path(outputs[1], options.output)
    if options.download is not None:
        first = None if options.download is True else options.download  # True: without FROM
        address = options.api_url or API_URL
        download_days(options.data_dir, first, options.until, address, say)
    warnings = []
    paths = find_flat_files(options.data_dir, warnings)
    for output in outputs:
        check_output_path(output, *paths)
    say("Starting to process files...")
    market = read_market(paths, warnings)
    say("Finished processing files.")
    say("Building lookup table...")
    add_facts(market, options.window)
    say("Lookup table built successfully.")
    with ExitStack() as stack:
        if options.json:  # it replaces the old one after the table has done so
            json_file = stack.enter_context(replacing(outputs[1]))
            write_json(json_file, market)
            json_file.flush()
        with replacing(options.output) as file:
            write_lookup_table(file, market, options.window)
            size = file.tell()
    for output in reversed(outputs):
        say(f"Lookup table saved to '{output}'.")
    for warning in warnings:
        print_to_stderr(f"warning: {warning}")
    print_to_stderr(
        f"{len(market.tickers):,} tickers, {len(market.days):,} days, "
        f"{market.starts[-1]:,} rows, {size / 1e6:,.1f} MB"
    )


def window_argument(text):
    if not re.fullmatch("[0-9]{1,4}", text) or not 2 <= int(text) <= LONGEST_WINDOW:
        raise argparse.ArgumentTypeError(
            f"{quoted(text)} is not a whole number from 2 to {LONGEST_WINDOW}"
        )
    return int(text)


def day_argument(text):
    try:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
            raise ValueError
        day = day_number(text)
        if not FIRST_DAY <= day <= LAST_DAY:
            raise ValueError
    except ValueError:
        message = f"{quoted(text)} is not a date from 1990 to 2099, write YYYY-MM-DD"
        raise argparse.ArgumentTypeError(message) from None
    return day


def url_argument(text):
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", text) or not text.isascii():
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not like {API_URL}")
    return text.rstrip("/")


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        description="Build the lookup table: each ticker's trades by day, and how many are normal."
    )
    add = parser.add_argument
    data_dir = "the folder of flat files (default %(default)s)"
    add("--data-dir", type=Path, default="aggregates_day", metavar="DIR", help=data_dir)
    output = "the table (default %(default)s)"
    add("--output", type=Path, default="lookup_table.pkl", metavar="FILE", help=output)
    window = "how many earlier rows make a baseline (default %(default)s)"
    add("--window", type=window_argument, default=WINDOW, metavar="N", help=window)
    add("--json", action="store_true", help="also write the table as JSON, beside FILE")
    download = (
        "before building, download the days that DIR lacks, beginning with FROM (YYYY-MM-DD) "
    )
    download += "or after its newest file; your key is in POLYGON_API_KEY or MASSIVE_API_KEY"
    add("--download", type=day_argument, nargs="?", const=True, metavar="FROM", help=download)
    until = "the last day to download (default the last one that is over in New York)"
    add("--until", type=day_argument, metavar="DATE", help=until)
    url = f"where to download from (default {API_URL})"
    add("--api-url", type=url_argument, metavar="URL", help=url)
    options = parser.parse_args(argv)
    if options.download is None and (options.until is not None or options.api_url is not None):
        parser.error("--until and --api-url need --download")
    if options.json and options.output.suffix == ".json":
        parser.error(f"--output {options.output}: the table and its JSON would be one file")
    return options


def stdout_failed(error):
    """The exit status after error, with which printing on stdout has failed. It is told here."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that Python's flush at exit is quiet
    if not isinstance(error, BrokenPipeError):
        print_to_stderr(f"output not written: {error.strerror}")
    return 1


def main(argv=None):
    options = parse_arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        build(options)
        sys.stdout.flush()
    except BuildError as error:
        print_to_stderr(error)
        return error.status
    except KeyboardInterrupt:
        return 130
    except OSError as error:  # only stdout is left: files' errors are BuildErrors
        return stdout_failed(error)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
