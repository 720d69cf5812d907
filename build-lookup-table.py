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
import importlib.util
import json
import math
import os
import pickle
import re
import secrets
import signal
import ssl
import stat
import struct
import sys
import time
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

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


def import_package(name):
    """The package called name, imported where it is needed. Raises BuildError."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a broken package can raise anything
        reason = f"cannot import {name}: {error}: pip install -r requirements.txt"
        raise BuildError(reason) from None


def with_progress(items, description, total):
    """items; on a terminal, stderr shows how many of them have been taken."""
    if not on_terminal():
        return items
    tqdm = import_package("tqdm").tqdm
    return tqdm(items, description, total, bar_format="{l_bar}{bar}| {elapsed}")


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


# How Polygon is asked. build-lookup-table.py and gui-lookup-table.py have these lines in common.
API_URL = "https://api.polygon.io"
NO_KEY = "Polygon needs your key: run export POLYGON_API_KEY=YOUR_KEY, then start this script again"
QUOTED_KEY = "your Polygon key has quotes around it, which do not belong to it: set it without them"
WRONG_KEY = "Polygon does not accept your key: check POLYGON_API_KEY or MASSIVE_API_KEY"
NOT_YET = "your Polygon plan does not have this day before it is over: try again later"
TOO_OLD = "your Polygon plan does not reach back to this day: the free one goes back two years"
NOT_IN_PLAN = "your Polygon plan does not include this"
# A part of the text of a refusal, and what the user reads.
REFUSALS = {"API Key": WRONG_KEY, "today's data": NOT_YET, "timeframe": TOO_OLD}
RATE_LIMIT = "Polygon's limit of requests a minute is reached: wait a minute and try again"
SERVER_ERROR = "Polygon's server is in trouble: try again later"
BAD_ANSWER = "Polygon's answer makes no sense: try again later"
TIMEOUT = "Polygon did not answer in time: try again later"
NO_CONNECTION = "Polygon cannot be reached: check your connection to the internet"
NO_PROXY = "Polygon cannot be reached through your proxy: check HTTPS_PROXY"
BAD_CERTIFICATE = (
    "Polygon's certificate is not trusted: if your network has certificates of its own, "
    "name their file in SSL_CERT_FILE"
)


class PolygonError(Exception):
    """Why Polygon gave no answer, in a sentence for the user that never holds the key.

    status is the HTTP status with which the page says so; retry_after is in seconds, or None.
    """

    def __init__(self, sentence, status=502, retry_after=None):
        super().__init__(sentence)
        self.status, self.retry_after = status, retry_after


def polygon_client(api_url, connect, read):
    """Polygon's client for the API at api_url. Its requests raise PolygonError, as this does.

    The client's own connections ignore the environment's proxy and the system's certificates, and
    follow redirects, to which they would send the key. So it gets connections of ours. connect and
    read are the most seconds for each. No request is repeated unless client.client.retries is set.
    """
    key = os.environ.get("POLYGON_API_KEY") or os.environ.get("MASSIVE_API_KEY")
    if not key:
        raise PolygonError(NO_KEY, 503)
    if key[0] in "\"'":
        raise PolygonError(QUOTED_KEY)
    if not re.fullmatch("[!-~]+", key):
        raise PolygonError(WRONG_KEY)
    client = make_client(key, api_url)  # it needs urllib3, which is not looked for before
    from urllib3 import Timeout, exceptions

    connections, timeout = open_connections(api_url), Timeout(connect=connect, read=read)

    def request(method, url, **options):
        options.update(retries=client.client.retries, timeout=timeout, redirect=False)
        try:
            response = connections.request(method, url, **options)
        except exceptions.HTTPError as error:
            raise as_polygon_error(error) from None
        if response.status != 200:
            raise refusal(response)
        return response

    client.client = SimpleNamespace(request=request, retries=False)
    return client


def make_client(key, api_url):
    """A client of the package massive if it is installed, else of polygon. Raises PolygonError."""
    # A mere folder of that name has no origin.
    has_massive = getattr(importlib.util.find_spec("massive"), "origin", None)
    name = "massive" if has_massive else "polygon"
    try:
        package = importlib.import_module(name)
    except Exception as error:  # a broken package, or another one of that name, can raise anything
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == name
        found = importlib.util.find_spec(name)
        reason = "it is missing" if is_missing else error
        place = f" ({found.origin})" if found and not is_missing else ""
        sentence = f"cannot import {name}{place}: {reason}: pip install -r requirements.txt"
        raise PolygonError(sentence, 503) from None
    try:
        return package.RESTClient(key, base=api_url)
    except (AttributeError, TypeError):  # another package, or version 0.2, which has no base
        path = package.__file__ or next(iter(package.__path__))
        sentence = f"{path} is not Polygon's client: remove it, or pip install -r requirements.txt"
        raise PolygonError(sentence, 503) from None


def open_connections(api_url):
    """A urllib3 PoolManager with the proxy and the certificates of the environment and the system.

    The file named in SSL_CERT_FILE replaces all other certificates. Raises PolygonError.
    """
    import certifi
    import urllib3

    tls = ssl.create_default_context()
    if "SSL_CERT_FILE" not in os.environ:
        tls.load_verify_locations(certifi.where())
    scheme, host = urlsplit(api_url)[:2]
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or proxy_bypass(host):
        return urllib3.PoolManager(ssl_context=tls)
    try:
        address = urllib3.util.parse_url(proxy if "://" in proxy else f"http://{proxy}")
        login = address.auth and urllib3.make_headers(proxy_basic_auth=unquote(address.auth))
        return urllib3.ProxyManager(address.url, proxy_headers=login, ssl_context=tls)
    except urllib3.exceptions.HTTPError:
        raise PolygonError(NO_PROXY) from None


def as_polygon_error(error):
    """The PolygonError for an HTTPError of urllib3, whose own text may hold the key."""
    from urllib3 import exceptions

    reason = getattr(error, "reason", None) or error  # a MaxRetryError has a reason
    if "CERTIFICATE_VERIFY_FAILED" in str(reason):
        return PolygonError(BAD_CERTIFICATE)
    if isinstance(reason, exceptions.ProxyError):
        return PolygonError(NO_PROXY)
    if isinstance(reason, exceptions.DecodeError):
        return PolygonError(BAD_ANSWER)
    if isinstance(reason, exceptions.NewConnectionError):  # to urllib3 a kind of timeout
        return PolygonError(NO_CONNECTION)
    is_late = isinstance(reason, exceptions.TimeoutError)
    return PolygonError(TIMEOUT, 504) if is_late else PolygonError(NO_CONNECTION)


def refusal(response):
    """The PolygonError for a urllib3 response whose status is not 200."""
    status, words = response.status, response.data.decode(errors="replace")
    if status == 429:
        seconds = response.headers.get("Retry-After", "")
        is_number = re.fullmatch("[0-9]{1,9}", seconds)
        return PolygonError(RATE_LIMIT, 429, min(int(seconds), 3600) if is_number else 60)
    if status >= 500:
        return PolygonError(SERVER_ERROR)
    if status not in (401, 403):
        return PolygonError(f"Polygon's API is not at this address ({status}): see --api-url")
    known = (sentence for part, sentence in REFUSALS.items() if part in words)
    return PolygonError(next(known, WRONG_KEY if status == 401 else NOT_IN_PLAN))


def results_of(response):
    """The list in a response to the client's raw=True, perhaps empty. Raises PolygonError."""
    try:
        # A text with bytes that are not UTF-8, or control characters, must not spoil the others.
        answer = json.loads(response.data.decode(errors="surrogateescape"), strict=False)
        results = answer.get("results", [] if "status" in answer else None)
        if not isinstance(results, list) or (not results and answer.get("resultsCount")):
            raise ValueError
    except (ValueError, AttributeError, RecursionError):
        raise PolygonError(BAD_ANSWER) from None
    return results


# The download of missing days from Polygon's REST API.
NEW_YORK = "America/New_York"
HOURS_OF_CORRECTIONS = 18  # after 16:00, until the next morning, vendors correct a day's numbers
MOST_DOLLARS = 10**9  # of a price: some answers for 2020 hold prices of 1e12
FLAT_FILE_HEADER = "ticker,volume,open,close,high,low,window_start,transactions"
ANSWER_COLUMNS = "Tvochltn"  # what Polygon's answer calls these columns


def utc_now():
    return datetime.now(timezone.utc)


def in_new_york(day, hour):
    """The time of an hour in New York on a day, a day number, in seconds since 1970 UTC."""
    import pandas as pd

    return pd.Timestamp(f"{date_text(day)} {hour:02}:00", tz=NEW_YORK).timestamp()


def trading_days(first, until):
    """The day numbers of the trading days from first to until, two day numbers."""
    get_calendar = import_package("exchange_calendars").get_calendar
    # A week more: get_calendar raises an error if there is no trading day in the time asked for.
    calendar = get_calendar("XNYS", start=date_text(first), end=date_text(until + 7))
    days = (day_number(str(session.date())) for session in calendar.sessions)
    return [day for day in days if day <= until]


def days_to_download(data_dir, first, until):
    """{day: path of its flat file} of the days to download, the last day first. Raises BuildError.

    These are the trading days from first to until that have no file below data_dir, and the days
    whose file is older than the vendor's corrections. first and until are day numbers, or None for
    the day of the first file and for the last day that is over in New York.
    """
    pd = import_package("pandas")
    now = pd.Timestamp(utc_now()).tz_convert(NEW_YORK)
    today = day_number(str(now.date()))
    last_ended = today if now.hour >= 16 else today - 1
    until = today - 1 if until is None else until
    if until > last_ended:
        raise UsageError(
            f"--until {date_text(until)}: trading ends at 16:00 in New York, "
            f"and the last day on which that is past is {date_text(last_ended)}"
        )
    try:
        paths = {day_in_name(path): path for path in find_flat_files(data_dir)}
    except NoFlatFiles:
        paths = {}
    paths.pop(None, None)
    if first is None and not paths:
        raise UsageError(
            f"no file YYYY-MM-DD.csv or .csv.gz in {data_dir}: say which day is the first, "
            f"for example --download {date_text(today - 91)}"
        )
    first = min(paths) if first is None else first
    if first > until:
        raise UsageError(f"the first day, {date_text(first)}, is after {date_text(until)}")
    days = {
        day: data_dir / f"{date_text(day)}.csv.gz"
        for day in trading_days(first, until)
        if day not in paths
    }
    for day, path in paths.items():
        final = in_new_york(day, 16) + HOURS_OF_CORRECTIONS * 3600
        if day <= until and path.stat().st_mtime < final <= now.timestamp():
            days[day] = path
    return dict(sorted(days.items(), reverse=True))


def is_sound_row(row, start, end):
    """Whether a row of Polygon's answer can become a line of the flat file of its day.

    start and end of that day are in ms, as the row's time, which may be missing.
    """
    if not isinstance(row, dict):
        return False
    ticker, prices = row.get("T"), [row.get(name) for name in "ochl"]
    numbers = [*prices, row.get("v"), row.get("n"), row.get("t", start)]
    return (
        isinstance(ticker, str)
        and ticker.isprintable()
        and 1 <= len(ticker.encode()) <= LONGEST_TICKER
        and not set(ticker) & set(' ,"')
        and all(type(number) in (int, float) and 0 <= number < math.inf for number in numbers)
        and max(prices) < MOST_DOLLARS
        and row["n"] % 1 == 0
        and row["n"] <= MOST_TRADES
        and start <= row.get("t", start) < end
    )


def fetch_day(client, day):
    """(rows, unsound): the DataFrame of a day's flat file, and the list of the rows left out of it.

    Without trading on that day both are empty. Raises PolygonError.
    """
    import pandas as pd

    results = results_of(client.get_grouped_daily_aggs(date_text(day), adjusted=False, raw=True))
    start, end = in_new_york(day, 0) * 1000, in_new_york(day + 1, 0) * 1000
    sound, unsound = [], []
    for row in results:
        (sound if is_sound_row(row, start, end) else unsound).append(row)
    if unsound and not sound:
        raise PolygonError(BAD_ANSWER)
    # dtype object keeps Python's numbers, which to_csv writes as they are: 12.5, and 7 without .0.
    rows = pd.DataFrame(sound, columns=[*ANSWER_COLUMNS], dtype=object)
    for name in "vn":
        numbers = [int(number) if number % 1 == 0 else number for number in rows[name]]
        rows[name] = pd.Series(numbers, dtype=object)
    rows["t"] = int(start) * 10**6
    rows.columns = FLAT_FILE_HEADER.split(",")
    return rows.drop_duplicates("ticker", keep="last").sort_values("ticker"), unsound


def write_flat_file(path, rows):
    """Write the DataFrame of fetch_day as the flat file at path, packed if that ends in .gz."""
    text = rows.to_csv(index=False, lineterminator="\n").encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"{path.parent}: {error.strerror}") from None
    with replacing(path) as file:
        file.write(gzip.compress(text, mtime=0) if path.suffix.lower() == ".gz" else text)


def patient_client(api_url, report):
    """A client that waits and tries again where that can help. report gets a line for each wait."""
    client = polygon_client(api_url, connect=10, read=30)
    from urllib3 import Retry

    class PatientRetry(Retry):
        def sleep(self, response=None):
            is_limit = response is not None and response.status == 429
            report("waiting for a new minute of requests" if is_limit else "trying again")
            super().sleep(response)

    # Without a Retry-After it waits 0, 8, 16, 32 and 60 seconds: the limit counts each minute anew.
    tries = {"total": 5, "connect": 2, "read": 2, "other": 0, "redirect": False}
    waits = {"backoff_factor": 4, "backoff_max": 60, "retry_after_max": 3600}
    statuses = {"status_forcelist": [429, 500, 502, 503, 504], "raise_on_status": False}
    client.client.retries = PatientRetry(**tries, **waits, **statuses)
    return client


def download_days(data_dir, first=None, until=None, api_url=API_URL):
    """Write the flat files of days_to_download. Returns the number of days that failed.

    Each day is written as soon as it is fetched, so a later error loses none of them. Raises
    BuildError for what would make the other days fail, too.
    """
    paths = days_to_download(data_dir, first, until)
    if not paths:
        say("Nothing to download: no day is missing.")
        return 0
    days, again = list(paths), sum(path.exists() for path in paths.values())
    corrected = f", {again} of them again, because they were corrected since" if again else ""
    dates = f"{date_text(days[-1])} to {date_text(days[0])}"
    say(f"Downloading days: {len(days)}, {dates}{corrected}")
    form = "{l_bar}{bar}| {n}/{total} days, {remaining} left{postfix}"
    tqdm = import_package("tqdm").tqdm
    bar = tqdm(days, "Downloading", bar_format=form, disable=not on_terminal())
    report = bar.set_postfix_str if on_terminal() else say
    left_out, failed, too_old = [], 0, []
    with closing(bar):
        try:
            client = patient_client(api_url, report)
            for day in bar:
                date = date_text(day)
                try:
                    rows, unsound = fetch_day(client, day)
                except PolygonError as error:
                    if str(error) == TOO_OLD:
                        too_old = days[days.index(day) :]
                        break
                    if str(error) not in (NOT_YET, BAD_ANSWER, SERVER_ERROR):
                        raise
                    bar.write(f"{date} not downloaded: {error}", file=sys.stderr)
                    failed += 1
                    continue
                left_out += [(date, row) for row in unsound]
                if rows.empty:
                    bar.write(f"{date}: no trading")
                else:
                    write_flat_file(paths[day], rows)
                    report(f"{date}: {len(rows):,} tickers")
        except PolygonError as error:
            raise BuildError(f"download stopped: {error}") from None
    if too_old:
        say(f"Days up to {date} not downloaded: {len(too_old)}; {TOO_OLD}")
    if left_out:
        date, row = left_out[0]
        ticker = row.get("T") if isinstance(row, dict) else row
        print_to_stderr(
            f"warning: {len(left_out):,} downloaded rows are left out, because a value is missing "
            f"or not valid; the first is {str(ticker)[:LONGEST_TICKER]} on {date}"
        )
    return failed


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
            for first, end in pairwise(bounds)
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
    failed_days = 0
    if options.download is not None:
        first = None if options.download is True else options.download  # True: without FROM
        address = options.api_url or API_URL
        failed_days = download_days(options.data_dir, first, options.until, address)
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
    if failed_days:
        raise BuildError(
            f"days that failed to download: {failed_days}; call --download again later"
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
        "before building, download the trading days that DIR lacks, from FROM (YYYY-MM-DD) or its "
    )
    download += "first file on; your key is in POLYGON_API_KEY or MASSIVE_API_KEY"
    add("--download", type=day_argument, nargs="?", const=True, metavar="FROM", help=download)
    until = "the last day to download (default the last one that is over in New York; today is "
    until += "possible after 16:00 there)"
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
