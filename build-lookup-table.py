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

import signal

# During the imports Ctrl-C ends the script without a traceback, unless Ctrl-C is ignored anyway.
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import csv
import gzip
import importlib.util
import io
import json
import math
import os
import pickle
import re
import secrets
import ssl
import stat
import struct
import sys
import zlib
from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

try:
    import numpy as np
    import pandas as pd
except ImportError as error:
    raise SystemExit(f"{error.name} is missing: pip install -r requirements.txt") from None

# Allocate nearly 32 MB and free them at once. From then on glibc, the C library of most Linux
# systems, keeps smaller blocks that are freed and uses them again. Otherwise it returns each block
# to the system and requests a new one, which takes a third of a build's time. glibc learns this
# only from blocks below 32 MB.
np.empty(2**25 - 2**13, "uint8")

WINDOW = 5
LONGEST_WINDOW = 1000
# query-lookup-table.py has these two constants as well. day_counts uses them.
Z_THRESHOLD = 3
TOLERANCE = 1e-12  # a z-score this near to the threshold, relative to it, counts as equal

# What a flat file must and may hold.
NEEDED_COLUMNS = ["ticker", "close", "window_start", "transactions"]
NS_PER_DAY = 86_400 * 10**9
# 1990-01-01 and 2099-12-31. MOST_DAYS in query-lookup-table.py is the number of these days.
FIRST_DAY, LAST_DAY = 7_305, 47_481
MOST_TRADES = 2**31 - 1
LONGEST_TICKER = 31  # bytes
GZIP_WBITS = 31  # zlib: a gzip header, and the largest window
MOST_BYTES = 2**27  # in an unpacked flat file: over a hundred times the size of a normal one
NUMBER_PATTERN = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
WHOLE_NUMBER_PATTERN = re.compile(r"\s*[+-]?\d+\s*", re.ASCII)

# Without this option, pandas before 3.1 reads some decimal numbers with a wrong last bit.
PANDAS_VERSION = tuple(int(part) for part in pd.__version__.split(".")[:2])
EXACT_FLOATS = {} if PANDAS_VERSION >= (3, 1) else {"float_precision": "round_trip"}

THREADS = os.cpu_count() or 1
# While files are read, a row is its ticker's number and the columns of Market.
ROW_DTYPE = np.dtype("i4,u2,i4,f8,f8")
ROW_DTYPE.names = "number", "day", "trades", "close_price", "open_price"
CHUNK_ROWS = 2**21  # rows that were read are collected in arrays of about this length
BATCH_ROWS = 2**17  # so many rows are computed or written at once: they fit into the cache

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


def print_to_stderr(message):
    """Print message on stderr as one line of limited length, even if it quotes strange names."""
    line = printable(message)
    try:
        print(line if len(line) <= 1000 else f"{line[:1000]}...", file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def silence(stream):
    """Discard all further output to stream, so that Python's flush at exit cannot fail."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def on_terminal():
    return all(stream and stream.isatty() for stream in (sys.stdout, sys.stderr))


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
    tqdm = import_tqdm()
    return tqdm(items, description, total, bar_format="{l_bar}{bar}| {elapsed}")


def day_number(date):
    """How many days after 1970-01-01 date is, YYYY-MM-DD. ValueError if there is no such date."""
    return int(np.datetime64(date, "D").astype("int64"))


def date_text(day):
    """The date, YYYY-MM-DD, of a day number."""
    return str(np.datetime64(int(day), "D"))


def try_to_lock(file):
    """Lock an open file until it is closed. Returns True if it is locked or needs no lock.

    False means that another build has locked it, None that the file system has no locks.
    """
    try:
        import fcntl
    except ImportError:  # on Windows no lock is needed: an open file cannot be removed there
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def remove_leftovers(target):
    """Remove the unfinished files that builds of target have left when they were killed."""
    name = re.compile(re.escape(target.name) + r"\.[0-9a-f]{16}\.tmp")
    for path in target.parent.iterdir():
        if name.fullmatch(path.name):
            with suppress(OSError):
                if os.name != "posix":  # Windows does not remove a file that another build has open
                    path.unlink()
                    continue
                with path.open("rb") as file:
                    if try_to_lock(file):
                        path.unlink()


@contextmanager
def replacing(path):
    """Yields a new binary file that replaces path at the end. After an error it is removed.

    Until then the new file has a name that no other file has. It is locked, so that no other build
    removes it as a leftover. Raises BuildError.
    """
    temporary = None
    try:
        target = Path(os.path.realpath(path))
        remove_leftovers(target)
        is_safe = False
        while not is_safe:
            temporary = target.with_name(f"{target.name}.{secrets.token_hex(8)}.tmp")
            file = temporary.open("xb", buffering=2**20)
            # Before it was locked here, another build may have taken it for a leftover: try again.
            is_safe = try_to_lock(file) is not False and temporary.exists()
        with file:
            if target.exists():
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.name == "posix":
                os.replace(temporary, target)
        if os.name != "posix":  # Windows cannot rename an open file
            os.replace(temporary, target)
    except OSError as error:
        raise BuildError(f"{path} not written: {error.strerror}") from None
    finally:
        if temporary:
            with suppress(OSError):
                temporary.unlink()


def check_output_path(path, data_dir, *others):
    """Raise BuildError if no file can be written at path, or if it would do harm there.

    It would do harm if the next build read it as a flat file, or if it replaced one of the files
    whose paths are in others.
    """
    try:
        target = os.path.realpath(path)
        if os.path.isdir(target):
            raise BuildError(f"{path} is a folder: name a file with --output")
        if os.path.lexists(target) and not os.path.isfile(target):
            raise BuildError(f"{path} is no regular file: name another --output")
        if target.endswith((".csv", ".csv.gz")):
            # A link in data_dir may lead to a folder elsewhere. A file there would be found, too.
            folders = {data_dir, *(other.parent for other in others)}
            folders = {Path(os.path.realpath(folder)) for folder in folders}
            is_found = not folders.isdisjoint(Path(target).parents)
            if is_found or Path(os.path.abspath(data_dir)) in Path(os.path.abspath(path)).parents:
                raise BuildError(f"{path} would be read as a flat file: name another --output")
        if target in map(os.path.realpath, others):
            raise BuildError(f"{path} would replace a file of this build: name another --output")
        if not os.access(os.path.dirname(target), os.W_OK | os.X_OK):
            os.stat(os.path.join(os.path.dirname(target), ""))  # OSError if the folder is missing
            raise BuildError(f"{path} not written: no permission to write into its folder")
    except OSError as error:
        raise BuildError(f"{path} not written: {error.strerror}") from None


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
        reason = "it is missing" if is_missing else error
        sentence = f"cannot import {name}: {reason}: pip install -r requirements.txt"
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
    try:
        from exchange_calendars import get_calendar
    except ImportError as error:
        reason = f"cannot import exchange_calendars: {error}: pip install -r requirements.txt"
        raise BuildError(reason) from None
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
    import pandas as pd

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


def download_days(data_dir, first=None, until=None, api_url=API_URL, say=print):
    """Write the flat files of days_to_download. Returns the number of days that failed.

    Each day is written as soon as it is fetched, so a later error loses none of them. say is called
    with each line for stdout. Raises BuildError for what would make the other days fail, too.
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
    bar = import_tqdm()(days, "Downloading", bar_format=form, disable=not on_terminal())
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
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)\.csv(\.gz)?", path.name, re.ASCII)
    try:
        day = day_number(match[1]) if match else None
    except ValueError:
        return None
    return day if match and FIRST_DAY <= day <= LAST_DAY else None


def find_flat_files(data_dir):
    """The flat files below data_dir in the order of their names. YYYY-MM-DD sorts by day.

    If a .csv and a .csv.gz have the same day or the same path, the .csv.gz is left out. Hidden
    files and folders are left out, links are followed. Raises NoFlatFiles, or BuildError for what
    cannot be read.
    """

    def refuse(error):
        raise BuildError(f"{error.filename}: {error.strerror}") from None

    try:
        os.stat(os.path.join(data_dir, ""))  # the slash at the end: it has to be a folder
    except (FileNotFoundError, NotADirectoryError):
        raise NoFlatFiles(
            f"no folder {data_dir}: name another --data-dir, or use --download FROM"
        ) from None
    except OSError as error:
        raise BuildError(f"{data_dir}: {error.strerror}") from None
    paths, entered = [], set()
    for folder, folders, names in os.walk(data_dir, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in entered:  # two links lead to it, or a link leads to a folder above
            folders.clear()
            continue
        entered.add(real)
        folders[:] = [name for name in folders if name[0] != "."]
        found = [Path(folder, name) for name in names if name[0] != "."]
        for path in found:
            if os.path.islink(path) and not os.path.exists(path):
                raise BuildError(f"{path} is a link that leads nowhere: remove it")
        paths += [path for path in found if path.name.endswith((".csv", ".csv.gz"))]
    unpacked = {day_in_name(path) or path for path in paths if path.suffix == ".csv"}
    paths = [
        path
        for path in paths
        if path.suffix == ".csv" or (day_in_name(path) or path.with_suffix("")) not in unpacked
    ]
    if not paths:
        raise NoFlatFiles(
            f"no *.csv or *.csv.gz in {data_dir}: copy some there, or use --download FROM"
        )
    return sorted(paths, key=lambda path: (path.name, path))


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
    """The bytes of the CSV file at path, unpacked if it is a .gz, without a byte order mark.

    Raises BuildError, also for more than MOST_BYTES, for a NUL and for bytes that are not UTF-8.
    """
    try:
        if not path.is_file():
            raise BuildError(f"{path} is gone, or no regular file: remove it, or build again")
        is_too_large = path.stat().st_size > MOST_BYTES
        raw = b"" if is_too_large else path.read_bytes()
        if path.suffix == ".gz" and not is_too_large:
            raw = unpack_gzip(raw)
        if is_too_large or len(raw) > MOST_BYTES:
            raise BuildError(f"{path}: over {MOST_BYTES / 1e6:,.0f} MB, too large for a flat file")
        if not raw.isascii():
            raw.decode()
    except (EOFError, zlib.error) as error:
        raise BuildError(f"{path}: broken .gz ({error}): download it again") from None
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BuildError(f"{path}, line {line}: not UTF-8 ({error.reason})") from None
    except OSError as error:
        raise BuildError(f"{path}: {error.strerror}") from None
    if b"\0" in raw:
        line = raw.count(b"\n", 0, raw.index(b"\0")) + 1
        raise BuildError(f"{path}, line {line}: a NUL byte: download the file again")
    return raw[3:] if raw.startswith(b"\xef\xbb\xbf") else raw


class FlatFileColumns(NamedTuple):
    """What the table needs of a flat file: columns with a value for each row."""

    tickers: list  # bytes
    window_starts: np.ndarray  # int64, in nanoseconds from 1970-01-01 UTC on
    trades: np.ndarray  # int64
    close_prices: np.ndarray  # float64, in dollars
    open_prices: np.ndarray  # float64, in dollars; nan if missing or no positive number


def parse_quickly(raw, header):
    """The FlatFileColumns of a flat file. None if parse_carefully has to read it.

    raw is the file's bytes, header is the list of its column names. pandas accepts some bad values
    silently. The answer is None for each file that could contain such a value.
    """
    lines = lines_if_simple(raw, len(header))
    # lines_if_simple counts the commas of all lines together. So it misses a row that is too short
    # if another one is too long. The short one has no value in the last column. This is noticed
    # below only if the table needs this column.
    if lines is None or header[-1] not in NEEDED_COLUMNS:
        return None
    size = LONGEST_TICKER + 1  # the last byte shows which tickers are too long
    # pandas reads bytes twice as fast as str.
    dtypes = dict(zip(NEEDED_COLUMNS, (f"S{size}", "float64", "int64", "int64")))
    if header.count("open") == 1:
        dtypes["open"] = "float64"
    try:
        with np.errstate(invalid="ignore"):
            rows = pd.read_csv(
                io.BytesIO(raw),
                usecols=list(dtypes),
                dtype=dtypes,
                na_filter=False,
                low_memory=False,
                **EXACT_FLOATS,
            )
    except (ValueError, OverflowError):
        return None
    close_prices, window_starts, trades = (rows[name].to_numpy() for name in NEEDED_COLUMNS[1:])
    opens = rows["open"].to_numpy() if "open" in dtypes else np.full(len(rows), math.nan)
    letters = rows["ticker"].to_numpy(f"S{size}").view("uint8").reshape(len(rows), size)
    is_sound = (
        len(rows) > 0
        and len(rows) == lines - 1
        and letters[:, 0].all()  # no ticker is empty
        and not letters[:, -1].any()  # none is too long
        and close_prices.min() >= 0
        and close_prices.max() < math.inf
        and trades.min() >= 0
        and trades.max() <= MOST_TRADES
        and window_starts.min() // NS_PER_DAY >= FIRST_DAY
        and window_starts.max() // NS_PER_DAY <= LAST_DAY
        # pandas reads a column of only True and False as 1 and 0. So parse_carefully reads each
        # file that has no close or no trades above 1, or whose largest open is 1. An open of 0
        # counts as missing anyway.
        and not (close_prices.max() <= 1 or trades.max() <= 1 or opens.max() == 1)
    )
    if not is_sound:
        return None
    opens = np.where((opens > 0) & (opens < math.inf), opens, math.nan)
    return FlatFileColumns(rows["ticker"].tolist(), window_starts, trades, close_prices, opens)


def lines_if_simple(raw, number_of_columns):
    """How many lines raw, the bytes of a CSV file, has. None if pandas may split them wrongly.

    pandas fills short rows, cuts long ones, and ends a line at a lone carriage return. So the
    number of commas must be right, and there must be no quotes, no lone returns and no characters
    other than printable ASCII.
    """
    codes = np.frombuffer(raw, "uint8")
    line_feeds, returns, commas, quotes = (np.count_nonzero(codes == ord(c)) for c in '\n\r,"')
    printables = np.count_nonzero((codes >= ord(" ")) & (codes <= ord("~")))
    lines = line_feeds + (not raw.endswith(b"\n"))
    is_simple = (
        not quotes
        and printables + line_feeds + returns == len(raw)
        and (not returns or raw.count(b"\r\n") == returns)  # this count is slow
        and commas == (number_of_columns - 1) * lines
    )
    return lines if is_simple else None


def parse_carefully(raw, header, path):
    """The FlatFileColumns of a flat file, read line by line. parse_quickly explains raw and header.

    Raises BuildError, which names path and the first bad line.
    """
    reader = csv.reader(io.StringIO(raw.decode(), newline=""), strict=True)
    rows = []
    try:
        next(reader)
        for fields in reader:
            if not fields or (len(fields) == 1 and not fields[0].strip()):
                continue
            if len(fields) != len(header):
                raise ValueError(f"{len(fields)} fields, but the header has {len(header)}")
            row = dict(zip(header, fields))
            ticker = row["ticker"].encode()
            if not 1 <= len(ticker) <= LONGEST_TICKER or not row["ticker"].isprintable():
                text = quoted(row["ticker"])
                raise ValueError(
                    f"the ticker is {text}, not 1 to {LONGEST_TICKER} bytes that can be printed"
                )
            names = "window_start", "transactions", "close"
            numbers = [parse_number(name, row[name]) for name in names]
            open_price = parse_open_price(row["open"]) if header.count("open") == 1 else math.nan
            rows.append((ticker, *numbers, open_price))
    except (ValueError, csv.Error) as error:
        raise BuildError(f"{path}, line {reader.line_num}: {error}") from None
    tickers, *columns = zip(*rows) if rows else [()] * 5
    dtypes = "int64", "int64", "float64", "float64"
    return FlatFileColumns(list(tickers), *map(np.array, columns, dtypes))


def parse_number(name, text):
    """The value of text in the column called name: a float for close, else an int.

    Raises ValueError.
    """
    if not text.strip():
        raise ValueError(f"{name} is empty")
    if not NUMBER_PATTERN.fullmatch(text) or math.isinf(float(text)):
        raise ValueError(f"{name} is {quoted(text)}, not a number")
    # A float cannot hold every whole number as large as window_start.
    number = int(text) if WHOLE_NUMBER_PATTERN.fullmatch(text) else float(text)
    if number < 0:
        raise ValueError(f"{name} is {quoted(text)}, less than 0")
    if name == "close":
        return float(number)
    if name == "transactions" and not (number == int(number) and number <= MOST_TRADES):
        raise ValueError(f"{name} is {quoted(text)}, not a whole number up to {MOST_TRADES}")
    if name == "window_start" and not FIRST_DAY <= number // NS_PER_DAY <= LAST_DAY:
        raise ValueError(f"{name} is {quoted(text)}, not nanoseconds of a year from 1990 to 2099")
    return int(number)


def parse_open_price(text):
    """text as a price; nan if it is no positive number."""
    price = float(text) if NUMBER_PATTERN.fullmatch(text) else math.nan
    return price if 0 < price < math.inf else math.nan


def read_flat_file(path):
    """(tickers, columns, warnings) of the flat file at path. Raises BuildError.

    tickers is a list of bytes. columns are the arrays day, trades, close_price and open_price.
    warnings is a list of sentences. If the file's name and a row disagree on the day, the name is
    right.
    """
    raw = read_csv_bytes(path)
    try:
        first_line = raw.partition(b"\n")[0].decode().rstrip("\r")
        header = next(csv.reader([first_line], strict=True), [])
    except csv.Error as error:
        raise BuildError(f"{path}, line 1: {error}") from None
    missing = [name for name in NEEDED_COLUMNS if header.count(name) != 1]
    if missing:
        found = ", ".join(header)[:200] or "none"
        raise BuildError(
            f"{path}: it must have each of these columns once: {', '.join(missing)}; it has {found}"
        )
    parsed = parse_quickly(raw, header) or parse_carefully(raw, header, path)
    tickers, window_starts, trades, close_prices, open_prices = parsed
    warnings = [] if tickers else [f"{path}: no rows below the header, skipped"]
    days = window_starts // NS_PER_DAY
    named_day = day_in_name(path)
    if named_day is not None:
        other_days = days[days != named_day]
        if len(other_days):
            warnings.append(
                f"{path}: the day in the name is used, although {len(other_days)} rows say "
                f"another, first {date_text(other_days[0])}"
            )
        days[:] = named_day
    columns = days.astype("uint16"), trades.astype("int32"), close_prices, open_prices
    return tickers, columns, warnings


class Market(NamedTuple):
    """All rows of all flat files, grouped by ticker, each ticker's by date.

    The columns are day (uint16, the day number), trades (int32), close_price and open_price
    (float64, in dollars; a missing open is nan). add_facts adds columns, and gap replaces
    open_price.
    """

    tickers: list  # in the order in which the files first name them; a ticker's number is its index
    starts: np.ndarray  # the index of each ticker's first row; at the end, the number of all rows
    days: list  # the day numbers that occur, in order
    columns: dict  # {name: array with a value for each row}

    def earlier_rows(self, first, end):
        """For each row of the tickers first to end - 1: how many earlier rows its ticker has."""
        starts, ends = self.starts[first:end], self.starts[first + 1 : end + 1]
        return np.arange(starts[0], ends[-1]) - np.repeat(starts, ends - starts)

    def batches(self):
        """The tickers in groups of at most BATCH_ROWS rows: [(first, end), ...].

        A group is the tickers first to end - 1. No ticker has more than BATCH_ROWS rows:
        there are fewer days from FIRST_DAY to LAST_DAY.
        """
        bounds = [0]
        while bounds[-1] < len(self.tickers):
            enough = self.starts[bounds[-1]] + BATCH_ROWS
            end = np.searchsorted(self.starts, enough, side="right") - 1
            bounds.append(int(end))
        return list(zip(bounds, bounds[1:]))


def read_market(paths, say=print):
    """The Market of the flat files at paths, and a list of warnings. Raises BuildError."""
    numbers = defaultdict(count().__next__)  # a new ticker gets the next number
    chunks, warnings = [np.empty(0, ROW_DTYPE)], []
    occurs = np.zeros(LAST_DAY + 1, bool)  # for each day number
    free_rows = 0  # how many rows at the end of the last chunk are not filled yet
    # After an error or Ctrl-C, closing cancels the files that no thread has begun to read.
    with ThreadPoolExecutor(THREADS) as pool, closing(pool.map(read_flat_file, paths)) as files:
        for path in with_progress(paths, "Reading", len(paths)):
            if not on_terminal():
                say(f"Processing {path.name}")
            tickers, columns, file_warnings = next(files)
            if len(tickers) > free_rows:
                chunks[-1] = chunks[-1][: len(chunks[-1]) - free_rows]
                chunks.append(np.empty(max(CHUNK_ROWS, len(tickers)), ROW_DTYPE))
                free_rows = len(chunks[-1])
            start = len(chunks[-1]) - free_rows
            rows = chunks[-1][start : start + len(tickers)]
            free_rows -= len(tickers)
            rows["number"] = np.fromiter(map(numbers.__getitem__, tickers), "int32")
            for name, column in zip(ROW_DTYPE.names[1:], columns):
                rows[name] = column
            days = columns[0]
            occurs[days] = True
            warnings += file_warnings
    if not numbers:
        raise BuildError(f"no rows in any of {len(paths)} flat files, such as {paths[0]}")
    if len(numbers) > MOST_TICKERS:
        raise BuildError(f"{len(numbers):,} tickers, but a table holds at most {MOST_TICKERS:,}")
    chunks[-1] = chunks[-1][: len(chunks[-1]) - free_rows]
    tickers = [ticker.decode() for ticker in numbers]
    starts, columns = gather_by_ticker(chunks, len(tickers))
    market = Market(tickers, starts, np.flatnonzero(occurs).tolist(), columns)
    market = sort_by_date(market, warnings)  # may add a warning
    return market, warnings


def gather_by_ticker(chunks, number_of_tickers):
    """Put each ticker's rows together, in the order in which they were read.

    chunks is a list of arrays of ROW_DTYPE. Each is removed when it is done, to save memory.
    Returns (starts, columns) as in Market.
    """
    counts = [np.bincount(chunk["number"], minlength=number_of_tickers) for chunk in chunks]
    starts = np.append(0, np.cumsum(sum(counts)))
    next_row = starts[:-1].copy()  # for each ticker, the index that its next row gets
    columns = {name: np.empty(starts[-1], ROW_DTYPE[name]) for name in ROW_DTYPE.names[1:]}
    while chunks:
        chunk, counts_here = chunks.pop(0), counts.pop(0)
        order = np.argsort(chunk["number"], kind="stable")
        # A ticker's first row in the chunk goes to the ticker's next_row, the others follow it.
        first_here = np.cumsum(counts_here) - counts_here
        shifts = np.repeat(next_row - first_here, counts_here)
        rows = shifts + np.arange(len(order))
        for name, column in columns.items():
            column[rows] = chunk[name][order]
        next_row += counts_here
    return starts, columns


def sort_by_date(market, warnings):
    """market, with each ticker's rows sorted by date. So far they are in the order of reading.

    If a ticker has several rows of one date, only the one that was read last is kept. If some of
    these rows differ from the next one, warnings gets a sentence with their number.
    """
    day = market.columns["day"]
    is_later = day[1:] > day[:-1]
    is_later[market.starts[1:-1] - 1] = True  # the row after a ticker's last one is another's
    if is_later.all():
        return market
    number = np.repeat(np.arange(len(market.tickers), dtype="int32"), np.diff(market.starts))
    order = np.lexsort((day, number))
    columns = {name: column[order] for name, column in market.columns.items()}
    day = columns["day"]
    is_replaced = np.append((number[1:] == number[:-1]) & (day[1:] == day[:-1]), False)
    replaced = np.flatnonzero(is_replaced)
    differs = np.zeros(len(replaced), bool)
    for column in columns.values():
        before, after = column[replaced], column[replaced + 1]
        differs |= (before != after) & ~(np.isnan(before) & np.isnan(after))
    if differs.any():
        first = replaced[differs.argmax()]
        warnings.append(
            f"{differs.sum()} rows differ from a later one of the same ticker and date, first "
            f"{market.tickers[number[first]]} on {date_text(day[first])}: the last one is used"
        )
    lengths = np.bincount(number[~is_replaced], minlength=len(market.tickers))
    columns = {name: column[~is_replaced] for name, column in columns.items()}
    return market._replace(starts=np.append(0, np.cumsum(lengths)), columns=columns)


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
    record and baseline_days (write_day_pages explains them). gap replaces the column open_price.
    """
    columns = market.columns
    columns["gap"] = columns.pop("open_price")  # overwritten batch by batch, to save memory
    for name, dtype in DAY_PAGE_COLUMNS.items():
        if name not in columns and name != "earlier_rows":  # which write_day_pages computes
            columns[name] = np.empty(len(columns["gap"]), dtype)
    session_of_day = np.zeros(LAST_DAY + 1, "uint16")
    session_of_day[market.days] = np.arange(len(market.days))

    def add_to(batch):
        rows = slice(market.starts[batch[0]], market.starts[batch[1]])
        earlier_rows = market.earlier_rows(*batch)
        batch_columns = {name: column[rows] for name, column in columns.items()}
        add_batch_facts(batch_columns, earlier_rows, session_of_day, window)

    batches = market.batches()
    # After an error or Ctrl-C, closing cancels the batches that no thread has begun.
    with ThreadPoolExecutor(THREADS) as pool, closing(pool.map(add_to, batches)) as done:
        for _ in with_progress(done, "Computing", len(batches)):
            pass


def add_batch_facts(columns, earlier_rows, session_of_day, window):
    """Fill the columns of a batch, {name: array}.

    session_of_day holds for each day number its index among the table's days. The array of gap
    comes with the open prices, which are overwritten.
    """
    trades, close_prices = columns["trades"], columns["close_price"]
    columns["price_diff"][:] = price_changes(close_prices, close_prices, earlier_rows)
    open_prices = columns["gap"]
    gap = price_changes(open_prices, close_prices, earlier_rows)
    columns["gap"][:] = np.where(np.isfinite(gap), gap, math.nan)
    columns["avg_trades"][:], columns["std_trades"][:] = baselines(trades, earlier_rows, window)
    columns["record"][:] = record_column(trades, earlier_rows)
    sessions = session_of_day[columns["day"]]
    reach = sessions - np.roll(sessions, window)  # without meaning where there is no baseline
    columns["baseline_days"][:] = np.where(earlier_rows >= window, reach, 0)


def pickled_text(text):
    """The opcode and the bytes that push text on a pickle's stack."""
    encoded = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


class BackgroundFile:
    """Writes a binary file in another thread, while this thread makes the next bytes."""

    def __init__(self, file):
        self.file, self.offset = file, 0
        self.pool, self.unfinished_writes = ThreadPoolExecutor(1), deque()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.pool.shutdown()
        while self.unfinished_writes:
            self.unfinished_writes.popleft().result()

    def tell(self):
        return self.offset

    def write(self, content):
        self.offset += len(content)
        self.unfinished_writes.append(self.pool.submit(self.file.write, content))
        if len(self.unfinished_writes) > 1:  # let at most one write wait, to save memory
            self.unfinished_writes.popleft().result()


def write_and_get_extent(file, content):
    """Write content, bytes, into a BackgroundFile, and return its packed EXTENT."""
    extent = EXTENT.pack(file.tell(), len(content), zlib.crc32(content))
    file.write(content)
    return extent


def write_lookup_table(file, market, window=WINDOW):
    """Write the table into a binary file: four parts and a footer, one after the other.

        ┌───────────────────────────────────────────────────────────────┐
        │ 1  a pickle: {ticker: {date: stats}}                          │ write_pickle
        ├───────────────────────────────────────────────────────────────┤
        │ 2  a day page for each date: its rows, column by column       │ write_day_pages
        ├───────────────────────────────────────────────────────────────┤
        │ 3  the gaps of each ticker, then the directory of tickers     │ write_directory
        ├───────────────────────────────────────────────────────────────┤
        │ 4  the index: window, directory, and each date's page         │ write_index
        ├───────────────────────────────────────────────────────────────┤
        │ FOOTER: the extent of the index, MAGIC                        │
        └───────────────────────────────────────────────────────────────┘

    A reader begins at the end: it reads the footer, the index, and then the day page or the ticker
    that it needs. An extent is offset in the file, length and CRC-32. All numbers outside the
    pickle are little-endian, all text is UTF-8. query-lookup-table.py reads this format.
    """
    with BackgroundFile(file) as output:
        row_extents = write_pickle(output, market, window)
        index_days = write_day_pages(output, market)
        directory = write_directory(output, market, row_extents)
        index = write_index(output, market, window, directory, index_days)
        output.write(FOOTER.pack(index, MAGIC))


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
    extents = []
    batches = market.batches()
    for first, end in with_progress(batches, "Writing tickers", len(batches)):
        rows = np.arange(market.starts[first], market.starts[end])
        has_baseline = market.earlier_rows(first, end) >= window
        short_rows = pickled_rows(market, rows[~has_baseline], FIELDS[:3])
        full_rows = pickled_rows(market, rows[has_baseline], FIELDS)
        pieces, offset = [], file.tell()
        short = full = 0  # how many of short_rows and of full_rows are in pieces
        lengths = np.diff(market.starts[first : end + 1]).tolist()
        # A ticker's first rows, as many as window says, are short. The rest are full.
        for ticker, length in zip(market.tickers[first:end], lengths):
            short_end, full_end = short + min(length, window), full + max(length - window, 0)
            key = pickled_text(ticker) + pickle.EMPTY_DICT + pickle.MARK
            pickled = short_rows[short:short_end].tobytes() + full_rows[full:full_end].tobytes()
            pieces += key, pickled, pickle.SETITEMS
            extents.append(EXTENT.pack(offset + len(key), len(pickled), zlib.crc32(pickled)))
            offset += len(key) + len(pickled) + len(pickle.SETITEMS)
            short, full = short_end, full_end
        file.write(b"".join(pieces))
    file.write(pickle.SETITEMS + pickle.STOP)
    return extents


def pickled_rows(market, rows, known_fields):
    """The pickled rows of market at the indexes rows: a structured array with an element for each.

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
    slots = np.zeros(LAST_DAY + 1, "uint32")  # the dates' slots in the pickle's memo
    slots[market.days] = np.arange(len(market.days)) + len(FIELDS)
    pickled = np.tile(np.frombuffer(template, "uint8"), len(rows)).view(layout)
    pickled["date"] = slots[market.columns["day"][rows]]
    for field in known_fields:
        pickled[field] = market.columns[field][rows]
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
    columns, starts = market.columns, market.starts[:-1]
    tickers, day_of_row = np.array(market.tickers, object), columns["day"]
    index_days = []
    next_row = starts.copy()  # the index of each ticker's next row to write
    for day in with_progress(market.days, "Writing days", len(market.days)):
        # The tickers that have rows left, and of these the ones whose next row is of this day.
        numbers = np.flatnonzero(next_row < market.starts[1:])
        numbers = numbers[day_of_row[next_row[numbers]] == day]
        rows = next_row[numbers]
        next_row[numbers] += 1
        page = {name: columns[name][rows] for name in DAY_PAGE_COLUMNS if name != "earlier_rows"}
        page["earlier_rows"] = rows - starts[numbers]
        content = b"".join(
            page[name].astype(dtype).tobytes() for name, dtype in DAY_PAGE_COLUMNS.items()
        )
        content += "\n".join(tickers[numbers]).encode()
        extent = write_and_get_extent(file, content)
        index_days.append(INDEX_DAY.pack(date_text(day).encode(), extent, *day_counts(page)))
    return index_days


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
    gaps = market.columns["gap"].astype("<f8", copy=False)
    offset, gap_extents = file.tell(), []
    bounds = market.starts.tolist()
    for start, end in zip(bounds, bounds[1:]):
        crc = zlib.crc32(gaps[start:end])
        gap_extents.append(EXTENT.pack(offset + 8 * start, 8 * (end - start), crc))
    for first, end in market.batches():
        file.write(gaps[bounds[first] : bounds[end]].tobytes())
    extents = b"".join(of_rows + of_gaps for of_rows, of_gaps in zip(row_extents, gap_extents))
    return write_and_get_extent(file, extents + "\n".join(market.tickers).encode())


def write_index(file, market, window, directory, index_days):
    """Write part 4, INDEX_HEADER and an INDEX_DAY for each date, and return its packed EXTENT.

    directory is the packed EXTENT of the directory, index_days is what write_day_pages returns.
    """
    header = INDEX_HEADER.pack(window, len(market.tickers), directory)
    return write_and_get_extent(file, header + b"".join(index_days))


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


class Stdout:
    """Prints lines. If stdout fails, the build goes on without them, and error says why."""

    error = None

    def say(self, line):
        try:
            print(printable(line), flush=True)
        except OSError as error:
            self.error = error
            silence(sys.stdout)


def build(options, say):
    """Build the table. Calls say with each line for stdout. Raises BuildError."""
    check_output_path(options.output, options.data_dir)
    if options.json:
        json_output = options.output.with_suffix(".json")
        check_output_path(json_output, options.data_dir, options.output)
    failed_days = 0
    if options.download is not None:
        first = None if options.download is True else options.download  # True: without FROM
        address = options.api_url or API_URL
        failed_days = download_days(options.data_dir, first, options.until, address, say)
    paths = find_flat_files(options.data_dir)
    check_output_path(options.output, options.data_dir, *paths)  # again, now that these are known
    say("Starting to process files...")
    market, warnings = read_market(paths, say)
    say("Finished processing files.")
    say("Building lookup table...")
    add_facts(market, options.window)
    say("Lookup table built successfully.")
    with replacing(options.output) as file:
        write_lookup_table(file, market, options.window)
        size = file.tell()
        if options.json:
            with replacing(json_output) as json_file:
                write_json(json_file, market)
            say(f"Lookup table saved to '{json_output}'.")
    say(f"Lookup table saved to '{options.output}'.")
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


def build_and_report(options):
    """Build, and return the exit status. Print what went wrong as one line on stderr."""
    stdout = Stdout()
    with stopped_by_signals() as stop:
        try:
            build(options, stdout.say)
        except BuildError as error:
            print_to_stderr(error)
            return error.status
        except MemoryError:
            print_to_stderr(f"{options.output} not written: not enough memory")
            return 1
        except KeyboardInterrupt:
            return stop.status or 130
        except RuntimeError as error:
            if stop.status:  # KeyboardInterrupt in a thread pool's lock becomes a RuntimeError
                return stop.status
            if "thread" not in str(error):
                raise
            # The system allows no more threads.
            print_to_stderr(f"{options.output} not written: {error}")
            return 1
    if stdout.error and not isinstance(stdout.error, BrokenPipeError):
        print_to_stderr(f"{options.output} is written, but stdout failed: {stdout.error.strerror}")
        return 1
    return 0


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
    try:
        options = parser.parse_args(argv)
    except OSError:  # before Python 3.11, argparse raises it if --help cannot be printed
        raise SystemExit(1) from None
    if options.download is None and (options.until is not None or options.api_url is not None):
        parser.error("--until and --api-url need --download")
    if options.json and options.output.suffix == ".json":
        parser.error(f"--output {options.output}: the table and its JSON would be one file")
    return options


@contextmanager
def stopped_by_signals():
    """In this context, the first signal that asks the script to end raises KeyboardInterrupt.

    Yields an object with the attribute status: 0, or after such a signal the exit status for it.
    Later signals do nothing, so that unfinished files are always removed.
    """
    stop = SimpleNamespace(status=0)

    def handle(number, _):
        if not stop.status:
            stop.status = 128 + number
            raise KeyboardInterrupt

    names = "SIGINT", "SIGTERM", "SIGHUP"  # Windows has no SIGHUP
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    handlers = {number: signal.getsignal(number) for number in numbers}
    for number, handler in handlers.items():
        # A signal that is ignored stays ignored: nohup ignores SIGHUP.
        if handler in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def main(argv=None):
    return build_and_report(parse_arguments(argv))


def exit_status_of(main):
    """Run main and return the exit status, even if stdout or stderr is closed or full."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        else:
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main()
    except SystemExit as end:
        status = end.code
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            silence(stream)
            if not isinstance(error, BrokenPipeError):
                status = status or 1
    return status


if __name__ == "__main__":
    raise SystemExit(exit_status_of(main))
