"""Build the lookup table: each ticker's trades by day, and how many are normal.

Usage:
    python build-lookup-table.py [--data-dir DIR] [--output FILE] [--window N] [--json]
                                 [--download [FROM] [--until DATE] [--api-url URL]]

Reads   Polygon's daily flat files: every *.csv and *.csv.gz below ./aggregates_day; and there, if
        they exist, the lists reference/tickers.csv and reference/splits.csv. With --download it
        first fetches what is missing there. It takes your Polygon key from the environment
        variable POLYGON_API_KEY or MASSIVE_API_KEY.
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
import glob
import gzip
import json
import math
import os
import pickle
import re
import secrets
import signal
import struct
import sys
import time
import zlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

try:
    import numpy as np
    import pyarrow
    from pyarrow import csv as arrow_csv
except ModuleNotFoundError as error:
    raise SystemExit(f"{error.name} is missing: pip install -r requirements.txt") from None

WINDOW = 5
LONGEST_WINDOW = 1000
# query-lookup-table.py has these two constants as well. day_counts uses them.
Z_THRESHOLD = 3
TOLERANCE = 1e-12  # a z-score this near to the threshold, relative to it, counts as equal
LONG_WINDOW, FEWEST_LONG = 60, 20  # the rows of long_z: at most, and at least
NEAR_FLAT = 0.03  # below this deviation of logarithms, running sums are too coarse

# The columns of a flat file that are read. open and volume may be missing. Trades may be written
# 12.0, so they are floats.
COLUMN_TYPES = {
    "ticker": pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
    "window_start": pyarrow.int64(),
    **dict.fromkeys(["transactions", "close", "open", "volume"], pyarrow.float64()),
}
REFERENCE = "reference"  # a folder in the data folder, for lists of tickers and splits
NS_PER_DAY = 86_400 * 10**9
FIRST_DAY, LAST_DAY = 7_305, 47_481  # 1990-01-01 and 2099-12-31
MOST_TRADES = 2**31 - 1
LONGEST_TICKER = 31  # bytes
# The least and the greatest value of each needed column of numbers, in the order of COLUMN_TYPES,
# and what a user reads of them.
BOUNDS = {
    "window_start": (FIRST_DAY * NS_PER_DAY, LAST_DAY * NS_PER_DAY, "nanoseconds, 1990 to 2099"),
    "transactions": (0, MOST_TRADES, f"a whole number up to {MOST_TRADES}"),
    "close": (0, sys.float_info.max, "a price"),
}

THREADS = os.cpu_count() or 1
BATCH_ROWS = 2**13  # so many rows are computed or written at once: they fit into the cache

# The table's format. query-lookup-table.py has the same constants.
FIELDS = ["trades", "close_price", "price_diff", "avg_trades", "std_trades"]
DAY_PAGE_COLUMNS = {
    **dict.fromkeys(FIELDS, "<f8"),
    "trades": "<i4",
    "gap": "<f8",
    "record": "<u2",
    "earlier_rows": "<u2",
    "baseline_days": "<u2",
    "long_z": "<f4",
    "dollar_volume": "<f4",
}
# The pickle begins so: protocol 3, push a text of 12 bytes, pop it. This has no effect when the
# pickle is loaded. It shows that the file is a table of this script, even if its end is missing.
SIGNATURE = pickle.PROTO + b"\3" + pickle.BINUNICODE + b"\f\0\0\0lookup table" + pickle.POP
# A row of the pickle with a baseline, and one without: opcodes, and dots in place of its numbers,
# which ROW_NUMBERS names. write_pickle explains them.
ROW = b"j....}(h\0J....h\1G........h\2G........h\3G........h\4G........u"
ROW_WITHOUT_BASELINE = b"j....}(h\0J....h\1G........h\2G........h\3Nh\4Nu"
ROW_NUMBERS = {"date": "<u4", **dict.fromkeys(FIELDS, ">f8"), "trades": "<i4"}
EXTENT = struct.Struct("<QQI")  # offset in the file, length, CRC-32
# window, number of tickers, extents of the directory and of the splits
INDEX_HEADER = struct.Struct("<II20s20s")
INDEX_DAY = struct.Struct("<10s20s5I")  # date, extent of its page, day_counts
MAGIC = b"lookup-tab-3"
FOOTER = struct.Struct("<20s12s")  # extent of the index, MAGIC


class BuildError(Exception):
    """Why there is no table, in one line for the user; status is the script's exit status."""

    def __init__(self, sentence, status=1):
        super().__init__(sentence)
        self.status = status


def printable(text):
    """text, with escapes in place of characters that a terminal could take for a command."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def say(line, file=None):
    """Print line, so that it can be seen at once, on stdout or file."""
    print(printable(line), file=file, flush=True)


def on_terminal():
    return sys.stdout.isatty() and sys.stderr.isatty()


def log(line):
    """Print line, but not on a terminal: there, with_progress shows how far the work is."""
    if not on_terminal():
        say(line)


def with_progress(items, description, total):
    """items; on a terminal, a bar on stderr shows how many of them have been taken."""
    if not on_terminal():
        return items
    from tqdm import tqdm

    form = "{l_bar}{bar}| {n}/{total}, {remaining} left"
    return tqdm(items, description, total, bar_format=form)


def in_threads(function, items):
    """Yields function(item) for each item, in order. Threads compute a few results ahead."""
    items = iter(items)
    with ThreadPoolExecutor(THREADS) as pool:
        while group := list(islice(items, 16 * THREADS)):
            yield from pool.map(function, group)


def date_text(day):
    """The date, YYYY-MM-DD, of a day number: the number of days after 1970-01-01."""
    return str(np.datetime64(int(day), "D"))


def day_number(date):
    """The day number of a date, YYYY-MM-DD, from 1990 to 2099. Raises ValueError."""
    day = int(np.datetime64(date, "D").astype("int64"))
    if date_text(day) != date or not FIRST_DAY <= day <= LAST_DAY:
        raise ValueError
    return day


def is_ticker(text):
    """Whether text can be a ticker: 1 to LONGEST_TICKER bytes that can be printed."""
    return text.isprintable() and 1 <= len(text.encode()) <= LONGEST_TICKER


def day_in_name(path):
    """The day number in the file name YYYY-MM-DD.csv or .csv.gz of path; None for other names."""
    try:
        return day_number(re.sub(r"\.csv(\.gz)?$", "", path.name, flags=re.IGNORECASE))
    except ValueError:
        return None


def find_flat_files(data_dir, warnings):
    """The flat files below data_dir in the order of their names. YYYY-MM-DD sorts by day.

    data_dir/reference and what is hidden are left out, links are followed. Of several files of one
    day the one modified last counts; of equally old ones, the .csv. The list warnings gets a
    sentence for each older one.
    """
    names = glob.glob("**/*.*", root_dir=data_dir, recursive=True)
    names = [name for name in names if name.lower().endswith((".csv", ".csv.gz"))]
    paths = [data_dir / name for name in names if Path(name).parts[0] != REFERENCE]
    times = {path: path.stat().st_mtime_ns for path in paths if not path.is_dir()}
    chosen = {}  # the file of each day; a file without a day in its name stands alone
    for path in sorted(times, key=lambda path: (-times[path], path.name.lower(), path)):
        first = chosen.setdefault(day_in_name(path) or path, path)
        if times[path] < times[first]:
            warnings.append(f"two files of one day: {first} is read, {path} is not")
    return sorted(chosen.values(), key=lambda path: (path.name, path))


def read_bytes_and_header(path):
    """(raw, header): the bytes of a flat file, and its column names. Raises BuildError.

    They are unpacked if they begin like a gzip file, whatever the file's name says. A byte order
    mark is left out.
    """
    raw = path.read_bytes()
    if raw.startswith(b"\x1f\x8b"):
        try:
            raw = gzip.decompress(raw)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise BuildError(f"{path}: broken .gz ({error}): download it again") from None
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    if raw.lstrip().startswith(b"<"):
        raise BuildError(f"{path} is an error page of a server: download the file again")
    header = re.match(rb"[^\r\n]*", raw)[0].decode(errors="replace").replace('"', "").split(",")
    wrong = ", ".join(name for name in ["ticker", *BOUNDS] if header.count(name) != 1)
    if wrong:
        found = f"it has {', '.join(header)[:200] or 'none'}"
        raise BuildError(f"{path}: it must have each of these columns once: {wrong}; {found}")
    return raw, header


def is_sound(name, numbers):
    """Whether numbers, one or an array of them, may stand in the column called name."""
    least, most, _ = BOUNDS[name]
    is_whole = name == "close" or np.floor(numbers) == numbers
    return is_whole & (least <= numbers) & (numbers <= most)


def as_numpy(column):
    """The numbers of a pyarrow array, or nan if it has none. (Its to_numpy would import pandas.)"""
    if column.null_count:
        return np.full(len(column), math.nan)
    return np.frombuffer(column.buffers()[1], str(column.type), len(column))


def parse_with_pyarrow(raw):
    """The columns of a flat file in the order of COLUMN_TYPES; None if it needs parse_carefully.

    The tickers are a pyarrow array, the numbers numpy ones. open and volume may hold any numbers.
    """
    if b'"' in raw:
        return None
    in_one_piece = arrow_csv.ReadOptions(use_threads=False, block_size=len(raw) + 1)
    without_quotes = arrow_csv.ParseOptions(quote_char=False)
    as_typed = arrow_csv.ConvertOptions(
        column_types=COLUMN_TYPES,
        include_columns=list(COLUMN_TYPES),
        include_missing_columns=True,  # open and volume
        null_values=[],  # an empty field needs parse_carefully
    )
    try:
        file = pyarrow.BufferReader(raw)
        rows = arrow_csv.read_csv(file, in_one_piece, without_quotes, as_typed)
    except pyarrow.ArrowInvalid:
        return None
    if not len(rows):
        return None
    tickers, *numbers = (rows[name].chunk(0) for name in COLUMN_TYPES)
    numbers = [as_numpy(column) for column in numbers]
    # The bytes of all different tickers, and where each one begins.
    _, offsets, letters = tickers.dictionary.buffers()
    lengths = np.diff(np.frombuffer(offsets, "int32", len(tickers.dictionary) + 1))
    are_tickers = 1 <= lengths.min() <= lengths.max() <= LONGEST_TICKER
    are_tickers = are_tickers and letters.to_pybytes().decode().isprintable()
    are_numbers_sound = all(is_sound(*pair).all() for pair in zip(BOUNDS, numbers))
    return (tickers, *numbers) if are_tickers and are_numbers_sound else None


def as_number(text):
    """The number that text says, or nan."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def parse_line(line, header):
    """A line's values in COLUMN_TYPES; optional ones may be nan. Raises ValueError, csv.Error."""
    fields = next(csv.reader([line], strict=True))
    if len(fields) != len(header):
        raise ValueError(f"{len(fields)} fields, but the header has {len(header)}")
    row = dict(zip(header, fields))
    if not is_ticker(row["ticker"]):
        expected = f"1 to {LONGEST_TICKER} bytes that can be printed"
        raise ValueError(f"ticker is {row['ticker'][:60]!a}, not {expected}")
    numbers = {name: as_number(row.get(name, "")) for name in COLUMN_TYPES if name != "ticker"}
    for name, (_, _, expected) in BOUNDS.items():
        if not is_sound(name, numbers[name]):
            raise ValueError(f"{name} is {row[name][:60]!a}, not {expected}")
    return row["ticker"], *numbers.values()


def parse_carefully(raw, header, path, warnings):
    """What parse_with_pyarrow returns, read line by line.

    Bad lines are left out, with a warning. Raises BuildError if the last line is cut off, or more
    than one line in a hundred is bad.
    """
    rows, bad_lines, lines = [], [], raw.splitlines()
    for number, line in enumerate(lines[1:], 2):
        try:
            if line.strip():
                rows.append(parse_line(line.decode(errors="surrogateescape"), header))
        except (ValueError, csv.Error) as error:
            bad_lines.append((number, error))
    if bad_lines:
        (first, error), (last, _) = bad_lines[0], bad_lines[-1]
        if last == len(lines) and not raw.endswith((b"\n", b"\r")):
            raise BuildError(f"{path}, line {last} is cut off: download the file again")
        if 100 * len(bad_lines) > len(rows) + len(bad_lines):
            raise BuildError(f"{path}, line {first}: {error}; too many such lines for a flat file")
        count = f"{len(bad_lines)} line{'s' * (len(bad_lines) > 1)}"
        warnings.append(f"{path}: {count} left out, first line {first}: {error}")
    tickers, *numbers = zip(*rows) if rows else [()] * len(COLUMN_TYPES)
    return pyarrow.array(tickers, COLUMN_TYPES["ticker"]), *map(np.array, numbers)


def read_flat_file(path):
    """(tickers, columns, warnings) of the flat file at path. Raises BuildError.

    tickers is a pyarrow array. columns are numpy ones: day (uint16, the day number), trades
    (int32), close_price and open_price (float64, in dollars) and dollar_volume (float32). An open
    or a dollar_volume that is missing is nan. warnings is a list of sentences. If the file's name
    and a row disagree on the day, the name is right.
    """
    warnings = []
    raw, header = read_bytes_and_header(path)
    if not raw.endswith((b"\n", b"\r")):
        warnings.append(f"{path}: its last line has no end, so the file may be cut off")
    parsed = parse_with_pyarrow(raw) or parse_carefully(raw, header, path, warnings)
    tickers, window_starts, trades, closes, opens, volumes = parsed
    days = (window_starts / NS_PER_DAY).astype("uint16")
    if not len(tickers):
        warnings.append(f"{path}: no rows below the header, skipped")
    # The range, ptp, is 0 for most files: a quicker look than the one for unique numbers.
    elif np.ptp(window_starts) and len(np.unique(window_starts)) > len(np.unique(days)):
        raise BuildError(f"{path} is a file of minutes: take the daily ones (day_aggs_v1)")
    named_day = day_in_name(path)
    if named_day and (days != named_day).any():
        other_days = days[days != named_day]
        other = f"although {len(other_days)} rows say another, first {date_text(other_days[0])}"
        warnings.append(f"{path}: the day in the name is used, {other}")
        days[:] = named_day
    with np.errstate(over="ignore", invalid="ignore"):
        dollars = (volumes * closes).astype("float32")
    dollars[~((dollars >= 0) & (dollars < math.inf))] = math.nan
    columns = {
        "day": days,
        "trades": trades.astype("int32"),
        "close_price": closes + 0.0,  # which makes 0.0 of -0.0
        "open_price": np.where((opens > 0) & (opens < math.inf), opens, math.nan),
        "dollar_volume": dollars,
    }
    return tickers, columns, warnings


def clean_ticker_line(ticker, *texts):
    """The fields of a line of tickers.csv, of which the table can hold any printable text."""
    return ticker, *(printable(" ".join(text.split())) for text in texts)


def clean_split_line(ticker, date, *numbers):
    """The fields of a line of splits.csv, with numbers such as 20 or 1.5. Raises ValueError."""
    day_number(date)
    numbers = [float(number) for number in numbers]
    if not all(0 < number < MOST_TRADES for number in numbers):
        raise ValueError
    return ticker, date, *(np.format_float_positional(number, trim="-") for number in numbers)


# The columns of each list, how many of them are its key, and the function that cleans a line.
LISTS = {
    "tickers.csv": (["ticker", "name", "type"], 1, clean_ticker_line),
    "splits.csv": (["ticker", "execution_date", "split_from", "split_to"], 2, clean_split_line),
}


def read_list(data_dir, name, warnings):
    """{key: values} of the list called name in data_dir/reference. Both are tuples of texts.

    It is empty if there is no such file. The first line of a key counts. A file or a line that
    cannot be used is left out, and the list warnings gets a sentence.
    """
    path, (columns, keys, clean) = data_dir / REFERENCE / name, LISTS[name]
    texts = dict.fromkeys(columns, pyarrow.string())
    as_texts = arrow_csv.ConvertOptions(column_types=texts, include_columns=columns)
    with_newlines = arrow_csv.ParseOptions(newlines_in_values=True)
    found, bad_lines = {}, 0
    try:
        lines = arrow_csv.read_csv(path, None, with_newlines, as_texts).to_pylist()
    except FileNotFoundError:
        return {}
    except (OSError, pyarrow.ArrowException) as error:
        warnings.append(f"{path} is not used: {error}")
        return {}
    for line in lines:
        try:
            fields = clean(*line.values())
            found.setdefault(fields[:keys], fields[keys:])
        except ValueError:
            bad_lines += 1
    if bad_lines:
        warnings.append(f"{path}: lines left out because they make no sense: {bad_lines}")
    return found


class Market(NamedTuple):
    """All rows of all flat files, grouped by ticker, each ticker's by date.

    The columns are those of read_flat_file, until add_facts makes all of DAY_PAGE_COLUMNS.
    """

    tickers: list  # in the order in which the files first name them; a ticker's number is its index
    starts: np.ndarray  # the index of each ticker's first row; at the end, the number of all rows
    days: np.ndarray  # the day numbers that occur, in order
    columns: dict  # {name: array with a value for each row}

    def batches(self):
        """[(slice of tickers, slice of their rows), ...], of about BATCH_ROWS rows each."""
        edges = np.searchsorted(self.starts, range(0, self.starts[-1], BATCH_ROWS))
        bounds = np.unique([*edges, len(self.tickers)]).tolist()
        return [
            (slice(first, end), slice(self.starts[first], self.starts[end]))
            for first, end in pairwise(bounds)
        ]


def read_market(paths, warnings):
    """The Market of the flat files at paths. warnings gets sentences. Raises BuildError."""
    all_tickers, collected = [], defaultdict(bytearray)
    files = with_progress(in_threads(read_flat_file, paths), "Reading", len(paths))
    for (tickers, columns, file_warnings), path in zip(files, paths):
        log(f"Processing {path.name}")
        warnings += file_warnings
        if len(tickers):
            all_tickers.append(tickers)
        for name, column in columns.items():
            collected[name].extend(column.data)  # takes less memory than a list of arrays
    if not all_tickers:
        raise BuildError(f"no rows in any of {len(paths)} flat files, such as {paths[0]}")
    encoded = pyarrow.chunked_array(all_tickers).unify_dictionaries().chunks
    tickers = encoded[0].dictionary.to_pylist()
    # numpy sorts numbers of two bytes several times as fast as longer ones.
    dtype = "uint16" if len(tickers) <= 2**16 else "uint32"
    number = np.concatenate([as_numpy(chunk.indices).astype(dtype) for chunk in encoded])
    day = np.frombuffer(collected["day"], "uint16")
    # Rows that are equal in ticker and day stay in the order of reading; the last one is used.
    order = np.lexsort((day, number))
    number, day = number[order], day[order]
    is_last = np.append((number[1:] != number[:-1]) | (day[1:] != day[:-1]), True)
    if not is_last.all():
        first = is_last.argmin()
        warnings.append(
            f"{np.count_nonzero(~is_last)} rows are followed by another of the same ticker and "
            f"date, first {tickers[number[first]]} on {date_text(day[first])}: the last one is used"
        )
        number, order = number[is_last], order[is_last]
    # Each collected column is dropped as soon as it is sorted. Its dtype is that of any file.
    columns = {
        name: np.frombuffer(collected.pop(name), column.dtype)[order]
        for name, column in columns.items()
    }
    starts = np.searchsorted(number, np.arange(len(tickers) + 1))
    days = np.flatnonzero(np.bincount(day))
    return Market(tickers, starts, days, columns)


def price_changes(prices, close_prices, earlier_rows):
    """The changes, in percent, from the previous row's close to prices.

    prices are the closes or the opens. The change is nan in a ticker's first row, where
    earlier_rows is 0, and inf or nan after a close of 0. The float operations are those of pandas'
    pct_change() * 100, so that all digits are the same.
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
    steps = range(1, window + 1)
    total = sum(np.roll(trades, k) for k in steps)
    squares = sum((window * np.roll(trades, k) - total).astype("float64") ** 2 for k in steps)
    has_baseline = earlier_rows >= window
    avg_trades = np.where(has_baseline, total / window, math.nan)
    std_trades = np.where(has_baseline, np.sqrt(squares / (window - 1)) / window, math.nan)
    return avg_trades, std_trades


def record_column(trades, earlier_rows):
    """The column record: how many rows, counted back from each row, had fewer trades.

    A row with as many trades ends the count.

    stop[i] is the index of the row that may end the count of row i. At first it is i - 1. If that
    row has fewer trades, so have all rows between it and its own stop: row i takes over this stop.
    Every count ends at before_first, the row before the ticker's first one.
    """
    row = unfinished = np.arange(len(trades))
    before_first = row - earlier_rows - 1
    stop = row - 1
    while len(unfinished):
        unfinished = unfinished[stop[unfinished] > before_first[unfinished]]
        unfinished = unfinished[trades[stop[unfinished]] < trades[unfinished]]
        stop[unfinished] = stop[stop[unfinished]]
    return row - stop - 1


def long_z_column(trades, earlier_rows):
    """The column long_z: how many deviations each row's x = ln(1 + trades) is above the mean.

    Mean and sample standard deviation are those of x in the ticker's LONG_WINDOW rows before it, or
    in all of them while there are at least FEWEST_LONG. It is nan with fewer rows, and where these
    rows' trades are all equal. Running sums make it. Where the deviation is too small for them, it
    is computed row by row.
    """
    row = np.arange(len(trades))
    count = np.minimum(earlier_rows, LONG_WINDOW)
    first = row - count
    logs = np.log1p(trades)
    logs -= logs.mean()  # keeps the running sums small, and so exact

    def sum_before(values):
        """For each row, the sum of values in the count rows before it."""
        running = np.concatenate([[0.0], np.cumsum(values)])
        return running[row] - running[first]

    total = sum_before(logs)
    with np.errstate(all="ignore"):
        mean = total / count
        variance = (sum_before(logs * logs) - total * mean) / (count - 1)
        long_z = (logs - mean) / np.sqrt(variance)
    has_enough = count >= FEWEST_LONG
    long_z[~has_enough] = math.nan
    for i in np.flatnonzero(has_enough & ~(variance > NEAR_FLAT**2)):
        before = logs[first[i] : i]
        is_flat = before.min() == before.max()
        long_z[i] = math.nan if is_flat else (logs[i] - before.mean()) / before.std(ddof=1)
    return long_z


def add_facts(market, window):
    """Add those of DAY_PAGE_COLUMNS that market does not have yet; gap replaces open_price."""
    columns, starts = market.columns, market.starts
    columns["gap"] = columns.pop("open_price")  # overwritten batch by batch, to save memory
    for name in DAY_PAGE_COLUMNS.keys() - columns.keys():
        columns[name] = np.empty(starts[-1], DAY_PAGE_COLUMNS[name])

    def facts_of(batch):
        tickers, rows = batch
        trades, closes, opens = (columns[name][rows] for name in ("trades", "close_price", "gap"))
        lengths = np.diff(starts[tickers.start : tickers.stop + 1])
        earlier_rows = np.arange(rows.start, rows.stop) - np.repeat(starts[tickers], lengths)
        gap = price_changes(opens, closes, earlier_rows)
        avg_trades, std_trades = baselines(trades, earlier_rows, window)
        indexes = np.searchsorted(market.days, columns["day"][rows])
        reach = indexes - np.roll(indexes, window)  # without meaning where there is no baseline
        return {
            "price_diff": price_changes(closes, closes, earlier_rows),
            "avg_trades": avg_trades,
            "std_trades": std_trades,
            "gap": np.where(np.isfinite(gap), gap, math.nan),
            "record": record_column(trades, earlier_rows),
            "earlier_rows": earlier_rows,
            "baseline_days": np.where(earlier_rows >= window, reach, 0),
            "long_z": long_z_column(trades, earlier_rows),
        }

    batches = market.batches()
    for (_, rows), facts in zip(batches, in_threads(facts_of, batches)):
        for name, values in facts.items():
            columns[name][rows] = values


@contextmanager
def replacing(path):
    """Yields a new binary file that replaces path at the end, if no error comes up.

    What killed builds have left beside path is removed when it is a day old. Raises BuildError.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f"{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for leftover in target.parent.glob(f"{glob.escape(target.name)}.{'[0-9a-f]' * 16}.tmp"):
            with suppress(OSError):
                if leftover.stat().st_mtime < time.time() - 86_400:
                    leftover.unlink()
        with temporary.open("xb", buffering=2**20) as file:
            yield file
        os.replace(temporary, target)
    except OSError as error:
        raise BuildError(f"{path} not written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_outputs(outputs, inputs):
    """Raise BuildError if one of the paths outputs is no file, or is a file of this build."""
    known = set(map(os.path.realpath, inputs))
    for path in outputs:
        target = os.path.realpath(path)
        if os.path.lexists(target) and not os.path.isfile(target):
            raise BuildError(f"{path} is a folder or a device, no file: name another --output")
        if target in known:
            raise BuildError(f"{path} would replace a file of this build: name another --output")
        known.add(target)


def pickled_text(text):
    """The opcode and the bytes that push text on a pickle's stack."""
    encoded = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def write_and_get_extent(file, *pieces):
    """Write pieces, bytes or arrays, one after the other, and return their packed EXTENT."""
    content, offset = b"".join(pieces), file.tell()
    file.write(content)
    return EXTENT.pack(offset, len(content), zlib.crc32(content))


def write_lookup_table(file, market, window, listed, splits):
    """Write the table into a binary file: four parts and a footer, one after the other.

        1  a pickle: {ticker: {date: stats}}                           write_pickle
        2  a day page for each date: its rows, column by column        write_day_pages
        3  facts of each ticker; the directory; the splits             write_directory, write_splits
        4  the index: INDEX_HEADER, and an INDEX_DAY for each date     write_lookup_table
           FOOTER: the extent of the index, MAGIC

    A reader begins at the end: it reads the footer, the index, and then the day page or the ticker
    that it needs. An extent is offset in the file, length and CRC-32. All numbers outside the
    pickle are little-endian, all text is UTF-8. query-lookup-table.py reads this format. listed and
    splits are what read_list returns.
    """
    row_extents = write_pickle(file, market, window)
    index_days = write_day_pages(file, market)
    directory = write_directory(file, market, row_extents, listed)
    splits = write_splits(file, market, splits)
    header = INDEX_HEADER.pack(window, len(market.tickers), directory, splits)
    index = write_and_get_extent(file, header, *index_days)
    file.write(FOOTER.pack(index, MAGIC))


def pickled_rows(columns, row):
    """columns, {name: array}, as pickled rows like row, with their numbers in place of its dots.

    The result is an array of bytes, a line a row. date is the number of a slot in the memo.
    """
    rows = np.frombuffer(bytearray(row * len(columns["date"])), "uint8").reshape(-1, len(row))
    # A row without a baseline has dots for the first of ROW_NUMBERS only.
    for dots, (name, dtype) in zip(re.finditer(rb"\.+", row), ROW_NUMBERS.items()):
        rows[:, dots.start() : dots.end()].view(dtype)[:, 0] = columns[name]
    return rows


def write_pickle(file, market, window):
    """Write part 1, the pickle, and return the packed EXTENT of each ticker's rows in it.

    A pickle is a program for a stack machine. This one is put together from its opcodes, so that
    numpy makes many rows at once. It begins with SIGNATURE. Then it stores the texts that it needs
    many times in slots of the pickle's memo: FIELDS in 0 to 4, the dates from 5 on. Then come
    EMPTY_DICT and MARK for the table, and for each ticker its text, EMPTY_DICT, MARK, its rows by
    date, SETITEMS. SETITEMS and STOP are the end. A row is 59 bytes long; LONG_BINGET and BINGET
    push the text in a slot. The sample market's 2024-10-18 is in the slot 0x3c, and VTAK's row is:

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

    def pickle_batch(batch):
        """The batch's rows twice: without a baseline, and with one. Each needs only one of them."""
        _, rows = batch
        columns = {name: column[rows] for name, column in market.columns.items()}
        columns["date"] = np.searchsorted(market.days, columns["day"]) + len(FIELDS)
        return pickled_rows(columns, ROW_WITHOUT_BASELINE), pickled_rows(columns, ROW)

    extents, batches = [], market.batches()
    pickled = in_threads(pickle_batch, batches)
    for (without, with_baseline), (tickers, rows) in zip(pickled, batches):
        bounds = (market.starts[tickers.start : tickers.stop + 1] - rows.start).tolist()
        for ticker, start, end in zip(market.tickers[tickers], bounds, bounds[1:]):
            file.write(pickled_text(ticker) + pickle.EMPTY_DICT + pickle.MARK)
            first = min(start + window, end)  # the index of the first row with a baseline
            pieces = without[start:first], with_baseline[first:end]
            extents.append(write_and_get_extent(file, *pieces))
            file.write(pickle.SETITEMS)
    file.write(pickle.SETITEMS + pickle.STOP)
    return extents


def rows_by_day(market):
    """Yields for each day the numbers of its tickers, and the indexes of their rows of this day."""
    next_row = market.starts[:-1].copy()
    for day in market.days:
        # The tickers that have rows left, and of these the ones whose next row is of this day.
        numbers = np.flatnonzero(next_row < market.starts[1:])
        numbers = numbers[market.columns["day"][next_row[numbers]] == day]
        yield numbers, next_row[numbers]
        next_row[numbers] += 1


def day_counts(page):
    """(rows, with_deviation, anomalies, with_long_z, high_long_z) of a day page.

    with_deviation counts rows with a deviation above 0, high_long_z those whose long_z, rounded to
    four decimals, is above Z_THRESHOLD.
    """
    trades, avg_trades, std_trades = (page[name] for name in ("trades", "avg_trades", "std_trades"))
    varies = std_trades > 0
    z_scores = (trades[varies] - avg_trades[varies]) / std_trades[varies]
    anomalies = np.count_nonzero(z_scores > Z_THRESHOLD * (1 + TOLERANCE))
    long_z = page["long_z"][~np.isnan(page["long_z"])].astype("float64")
    high = np.count_nonzero(np.round(long_z, 4) > Z_THRESHOLD)
    return len(trades), len(z_scores), anomalies, len(long_z), high


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
        long_z         see long_z_column
        dollar_volume  volume * close_price, in dollars; nan without a volume
    """
    tickers = np.array(market.tickers, object)

    def day_page(numbers_and_rows):
        numbers, rows = numbers_and_rows
        page = {name: market.columns[name][rows] for name in DAY_PAGE_COLUMNS}
        return [*page.values(), "\n".join(tickers[numbers]).encode()], day_counts(page)

    index_days = []
    pages = in_threads(day_page, rows_by_day(market))
    for (pieces, counts), day in zip(pages, market.days):
        extent = write_and_get_extent(file, *pieces)
        index_days.append(INDEX_DAY.pack(date_text(day).encode(), extent, *counts))
    return index_days


def write_directory(file, market, row_extents, listed):
    """Write the facts of each ticker and the directory, and return the directory's packed EXTENT.

    A ticker's facts are what its rows in part 1 do not tell: its gaps, its long_z and its
    dollar_volume by date, one column after the other. The directory has for each ticker the EXTENT
    of its rows in part 1 and the EXTENT of its facts. After all these come the tickers, then their
    types, then their names, joined by line feeds; a type or name that is not known is empty.
    """
    extents = []
    columns = [market.columns[name] for name in ("gap", "long_z", "dollar_volume")]
    for of_rows, start, end in zip(row_extents, market.starts, market.starts[1:]):
        facts = write_and_get_extent(file, *(column[start:end] for column in columns))
        extents.append(of_rows + facts)
    names, types = zip(*(listed.get((ticker,), ("", "")) for ticker in market.tickers))
    texts = "\n".join([*market.tickers, *types, *names])
    return write_and_get_extent(file, *extents, texts.encode())


def write_splits(file, market, splits):
    """Write the splits of the table's tickers on or between its days, and return their EXTENT.

    A line each: ticker, date, split_from and split_to, with tabs between them, by ticker and date.
    """
    numbers = {ticker: number for number, ticker in enumerate(market.tickers)}
    first, last = date_text(market.days[0]), date_text(market.days[-1])
    lines = [
        (numbers[ticker], date, f"{ticker}\t{date}\t{split_from}\t{split_to}")
        for (ticker, date), (split_from, split_to) in splits.items()
        if ticker in numbers and first <= date <= last
    ]
    return write_and_get_extent(file, "\n".join(line for *_, line in sorted(lines)).encode())


def write_json(file, market):
    """Write the table as JSON into a binary file, one line a ticker; nan and inf become null."""
    date_of_day = {day: date_text(day) for day in market.days.tolist()}
    separator = "{"
    for ticker, start, end in zip(market.tickers, market.starts, market.starts[1:]):
        columns = [market.columns[field][start:end] for field in FIELDS]
        columns = [np.where(np.isfinite(c), c.astype(object), None).tolist() for c in columns]
        dates = map(date_of_day.get, market.columns["day"][start:end].tolist())
        stats = (dict(zip(FIELDS, row)) for row in zip(*columns))
        line = f"{separator}\n{json.dumps(ticker)}: {json.dumps(dict(zip(dates, stats)))}"
        file.write(line.encode())
        separator = ","
    file.write(b"\n}\n")


# How Polygon is asked. The page's server uses these as well.
API_URL = "https://api.polygon.io"
NOT_YET = "your Polygon plan does not have this day before it is over: try again later"
TOO_OLD = "your Polygon plan does not reach back to this day: the free one goes back two years"
SERVER_ERROR = "Polygon's server is in trouble: try again later"
BAD_ANSWER = "Polygon's answer makes no sense: try again later"
NO_PROXY = "Polygon cannot be reached through your proxy: check HTTPS_PROXY"
# A part of the text of a refusal, and what the user reads. The last one is a part of every text.
REFUSALS = {
    "API Key": "Polygon does not accept your key: check POLYGON_API_KEY or MASSIVE_API_KEY",
    "today's data": NOT_YET,
    "timeframe": TOO_OLD,
    "": "your Polygon plan does not include this",
}
# A class of requests' errors, and what the user reads. The last one is the base of all of them.
CONNECTION_ERRORS = {
    "ProxyError": NO_PROXY,
    "InvalidProxyURL": NO_PROXY,
    "InvalidSchema": NO_PROXY,  # SOCKS
    "SSLError": "Polygon's certificate is not trusted: if your network has certificates of its "
    "own, name their file in SSL_CERT_FILE",
    "ContentDecodingError": BAD_ANSWER,
    "ChunkedEncodingError": BAD_ANSWER,  # the connection ended within the answer
    "Timeout": "Polygon did not answer in time: try again later",
    "RequestException": "Polygon cannot be reached: check your connection to the internet",
}


class PolygonError(Exception):
    """Why Polygon gave no answer, in a sentence for the user that never holds the key.

    status is the HTTP status with which the page says so; retry_after is in seconds, or None.
    """

    def __init__(self, sentence, status=502, retry_after=None):
        super().__init__(sentence)
        self.status, self.retry_after = status, retry_after


def refusal(answer):
    """The PolygonError for an answer of requests whose status is not 200."""
    if answer.status_code in (401, 403):
        return PolygonError(next(REFUSALS[part] for part in REFUSALS if part in answer.text))
    if answer.status_code == 429:
        seconds = answer.headers.get("Retry-After", "")
        wait = min(int(seconds), 3600) if re.fullmatch("[0-9]{1,9}", seconds) else 60
        return PolygonError("Polygon's limit of requests is reached: wait a minute", 429, wait)
    if answer.status_code >= 500:
        return PolygonError(SERVER_ERROR)
    return PolygonError(f"no Polygon API at this address ({answer.status_code}): see --api-url")


def polygon_client(api_url, connect, read, retries=0):
    """Polygon's client for the API at api_url. Its requests raise PolygonError, as this does.

    The client's own connections ignore the environment's proxy and the system's certificates, and
    follow redirects, to which they would send the key. So requests makes them. connect and read
    are the most seconds for each, retries is a number or a urllib3.Retry.
    """
    key = os.environ.get("POLYGON_API_KEY") or os.environ.get("MASSIVE_API_KEY")
    if not key:
        advice = "run export POLYGON_API_KEY=YOUR_KEY, then start this script again"
        raise PolygonError(f"Polygon needs your key: {advice}", 503)
    if not re.fullmatch(r"[\w.~+/=-]+", key, re.ASCII):
        raise PolygonError("your Polygon key has quotes, spaces or the like: set it anew")
    try:
        import requests
        import truststore

        try:
            from massive import RESTClient
        except ImportError:
            from polygon import RESTClient
        client = RESTClient(key, base=api_url.rstrip("/"))
    except Exception as error:  # a broken package, an old one, or another one of that name
        sentence = f"Polygon's client cannot be used: {error}: pip install -r requirements.txt"
        raise PolygonError(sentence, 503) from None
    truststore.inject_into_ssl()  # requests itself knows no certificates of the system
    session = requests.Session()
    session.auth = lambda request: request  # so that a .netrc file does not replace the key
    session.mount(api_url, requests.adapters.HTTPAdapter(max_retries=retries))
    options = {"timeout": (connect, read), "allow_redirects": False}

    def request(method, url, fields, headers):
        try:
            answer = session.request(method, url, params=fields, headers=headers, **options)
        except requests.RequestException as error:  # its own text may hold the key
            bases = {base.__name__ for base in type(error).__mro__}
            sentence = next(text for name, text in CONNECTION_ERRORS.items() if name in bases)
            raise PolygonError(sentence, 504 if "Timeout" in bases else 502) from None
        if answer.status_code != 200:
            raise refusal(answer)
        return SimpleNamespace(status=200, data=answer.content)

    client.client = SimpleNamespace(request=request)
    return client


def results_of(response):
    """The list in a response to the client's raw=True, perhaps empty. Raises PolygonError."""
    try:
        # A ticker with bytes that are not UTF-8, or control characters, must not spoil the others.
        answer = json.loads(response.data.decode(errors="surrogateescape"), strict=False)
        results = answer.get("results", [] if "status" in answer else None)
        if not isinstance(results, list) or (not results and answer.get("resultsCount")):
            raise ValueError
    except (ValueError, AttributeError):
        raise PolygonError(BAD_ANSWER) from None
    return results


# The download of missing days and of the lists of tickers and splits.
NEW_YORK = "America/New_York"
# The columns of a flat file, in order, and their names in Polygon's answers.
ANSWER_NAMES = {"ticker": "T", "volume": "v", "open": "o", "close": "c", "high": "h", "low": "l"}
ANSWER_NAMES |= {"window_start": "t", "transactions": "n"}
MOST_DOLLARS = 10**9  # of a price: some answers for 2020 hold prices of 1e12
SOURCE = "source"  # a column that only downloaded lists have
DAYS_BETWEEN_TICKERS = 30  # the list of tickers is downloaded anew when it is older


def new_york_timestamp(day, hour):
    """When it is hour o'clock in New York on a day, a day number: in seconds since 1970 UTC."""
    import pandas as pd

    return int(pd.Timestamp(f"{date_text(day)} {hour:02}:00", tz=NEW_YORK).timestamp())


def days_to_download(data_dir, first, until):
    """{day: path of its flat file} of the days to download, the last day first. Raises BuildError.

    These are the trading days from first to until that have no file below data_dir, and the days
    whose file is older than 10:00 on the next morning: until then vendors correct a day's numbers.
    first is a day number, or 0 for the day of the first file; until is one, or None for the last
    day that is over in New York.
    """
    import pandas as pd
    from exchange_calendars import get_calendar

    now = pd.Timestamp(time.time(), unit="s", tz=NEW_YORK)
    today = day_number(f"{now:%Y-%m-%d}")
    last_ended = today if now.hour >= 16 else today - 1
    until = until or today - 1
    files = {day: path for path in find_flat_files(data_dir, []) if (day := day_in_name(path))}
    if not first and not files:
        example = f"say which day is the first, for example --download {date_text(today - 91)}"
        raise BuildError(f"no file YYYY-MM-DD.csv or .csv.gz in {data_dir}: {example}", 2)
    first = first or min(files)
    if until > last_ended:
        latest = f"a day is over at 16:00 in New York, the last one was {date_text(last_ended)}"
        raise BuildError(f"--until {date_text(until)}: {latest}", 2)
    if first > until:
        raise BuildError(f"the first day, {date_text(first)}, is after {date_text(until)}", 2)
    # A week more, because get_calendar refuses a time without any trading day.
    calendar = get_calendar("XNYS", start=date_text(first), end=date_text(until + 7))
    trading = calendar.sessions.to_numpy().astype("datetime64[D]").astype(int).tolist()
    days = {day: data_dir / f"{date_text(day)}.csv.gz" for day in trading if day <= until}
    for day, path in files.items():
        days.pop(day, None)
        corrected = new_york_timestamp(day + 1, 10)
        if path.stat().st_mtime < corrected <= now.timestamp() and day <= until:
            days[day] = path
    return dict(sorted(days.items(), reverse=True))


def fetch_day(client, day):
    """(rows, bad_rows): a day's flat file as a DataFrame, and a list. Raises PolygonError."""
    import pandas as pd

    results = results_of(client.get_grouped_daily_aggs(date_text(day), adjusted=False, raw=True))
    start, end = (new_york_timestamp(each, 0) * 1000 for each in (day, day + 1))  # milliseconds
    answers = [row if isinstance(row, dict) else {} for row in results]
    rows = pd.DataFrame(answers, columns=ANSWER_NAMES.values(), dtype=object)
    rows.columns = list(ANSWER_NAMES)
    for name in rows.columns.drop("ticker"):
        rows[name] = pd.to_numeric(rows[name], errors="coerce")
    sound = rows["ticker"].map(lambda text: isinstance(text, str) and is_ticker(text)).astype(bool)
    sound &= rows["window_start"].fillna(start).between(start, end, "left")
    sound &= is_sound("transactions", rows["transactions"]) & (rows["volume"] >= 0)
    for price in ("open", "close", "high", "low"):
        sound &= rows[price].between(0, MOST_DOLLARS)
    if results and not sound.any():
        raise PolygonError(BAD_ANSWER)
    rows["window_start"] = start * 10**6
    return rows[sound].sort_values("ticker"), [results[i] for i in np.flatnonzero(~sound)]


def write_csv(path, rows):
    """Write rows, a DataFrame, as a CSV file, packed if path ends in .gz."""
    packing = "gzip" if path.suffix.lower() == ".gz" else None
    options = {"index": False, "lineterminator": "\n", "errors": "replace"}
    options["float_format"] = "%.15g"  # 7, not 7.0
    with replacing(path) as file:
        rows.to_csv(file, mode="wb", compression=packing, **options)


def patient_client(api_url):
    """A client that waits and tries again where that can help."""
    from urllib3 import Retry

    retries = Retry(
        total=5,
        connect=2,
        read=2,
        other=0,  # such as a certificate that is not trusted
        backoff_factor=4,  # without a Retry-After it waits 0, 8, 16, 32 and 64 seconds
        retry_after_max=3600,
        status_forcelist=[429, 500, 502, 503, 504],
        raise_on_status=False,
    )
    return polygon_client(api_url, connect=10, read=30, retries=retries)


def download_days(options, warnings):
    """Write the flat file of each day that is missing. Returns how many days failed.

    Raises PolygonError for what would make the other days fail, too; the days before it are kept.
    """
    from tqdm import tqdm

    paths = days_to_download(options.data_dir, options.download, options.until)
    if not paths:
        say("Nothing to download: no day is missing.")
        return 0
    say(f"Downloading days: {len(paths)}, {date_text(min(paths))} to {date_text(max(paths))}")
    client, failed, bad = patient_client(options.api_url), 0, []
    for day in with_progress(paths, "Downloading", len(paths)):
        date = date_text(day)
        try:
            rows, bad_rows = fetch_day(client, day)
        except PolygonError as error:
            if str(error) == TOO_OLD:  # so are all earlier days, which come after it
                count = sum(other <= day for other in paths)
                tqdm.write(f"Days up to {date} not downloaded: {count}; {error}")
                break
            if str(error) not in (NOT_YET, BAD_ANSWER, SERVER_ERROR):
                raise
            tqdm.write(f"{date} not downloaded: {error}", file=sys.stderr)
            failed += 1
            continue
        bad += [f"{date}: {row}" for row in bad_rows]
        if len(rows):
            write_csv(paths[day], rows)
        log(f"{date}: {len(rows):,} tickers" if len(rows) else f"{date}: no trading")
    if bad:
        warnings.append(f"{len(bad):,} downloaded rows left out as not valid, first {bad[0][:200]}")
    return failed


def all_results(method, **options):
    """Yields the results on all pages of a list of the client's method. Raises PolygonError."""
    params = None
    while True:
        response = method(**options, limit=1000, params=params, raw=True)
        yield from results_of(response)
        # Of the next page's address only the query is used, so it leads to no other server.
        answer = json.loads(response.data.decode(errors="replace"), strict=False)
        params = dict(parse_qsl(urlsplit(answer.get("next_url") or "").query))
        if not params:
            return


def download_lists(data_dir, api_url, warnings):
    """Write reference/tickers.csv and splits.csv in data_dir, if they are missing or too old.

    The tickers are too old after DAYS_BETWEEN_TICKERS, the splits if a flat file is newer. A list
    without the column SOURCE was put there by the user, and stays. If Polygon refuses, the old list
    stays as well, and the list warnings gets a sentence.
    """
    import pandas as pd

    paths = find_flat_files(data_dir, [])
    first_date = date_text(min(filter(None, map(day_in_name, paths)), default=FIRST_DAY))
    newest = max((path.stat().st_mtime for path in paths), default=0)
    month_ago = time.time() - DAYS_BETWEEN_TICKERS * 86_400
    for name, (columns, keys, _) in LISTS.items():
        path = data_dir / REFERENCE / name
        if path.exists():
            is_users_own = f",{SOURCE}\n".encode() not in path.read_bytes()
            too_old = newest if name == "splits.csv" else month_ago
            if is_users_own or path.stat().st_mtime >= too_old:
                continue
        say(f"Downloading {path}, which may take minutes with a free key")
        try:
            client = patient_client(api_url)
            if name == "splits.csv":
                results = list(all_results(client.list_splits, execution_date_gte=first_date))
            else:  # of a ticker's lines the first counts, so the active ones are asked for first
                stocks = partial(all_results, client.list_tickers, market="stocks")
                results = [*stocks(active=True), *stocks(active=False)]
        except PolygonError as error:
            warnings.append(f"{path} not downloaded: {error}")
            continue
        lines = [row for row in results if isinstance(row, dict)]
        rows = pd.DataFrame(lines, columns=columns, dtype=object)
        write_csv(path, rows.drop_duplicates(columns[:keys]).assign(**{SOURCE: "Polygon"}))


def build(options):
    """Build the table. Raises BuildError, PolygonError, and OSError of stdout or an input."""
    warnings, failed_days = [], 0
    if options.download is not None:
        failed_days = download_days(options, warnings)
        download_lists(options.data_dir, options.api_url, warnings)
    paths = find_flat_files(options.data_dir, warnings)
    if not paths:
        advice = "copy some there, name another --data-dir, or use --download FROM"
        raise BuildError(f"no *.csv or *.csv.gz in {options.data_dir}: {advice}")
    inputs = [*paths, *(options.data_dir / REFERENCE / name for name in LISTS)]
    json_path = Path(os.path.splitext(options.output)[0] + ".json")
    outputs = [json_path, options.output] if options.json else [options.output]
    check_outputs(outputs, inputs)
    say("Starting to process files...")
    market = read_market(paths, warnings)
    say("Finished processing files.")
    say("Building lookup table...")
    add_facts(market, options.window)
    listed, splits = (read_list(options.data_dir, name, warnings) for name in LISTS)
    say("Lookup table built successfully.")
    # The JSON is written first and replaces the old one last: if one fails, both old files stay.
    json_output = replacing(json_path) if options.json else nullcontext()
    with json_output as json_file:
        if json_file:
            write_json(json_file, market)
            json_file.flush()
        with replacing(options.output) as file:
            write_lookup_table(file, market, options.window, listed, splits)
            size = file.tell()
    for output in outputs:
        say(f"Lookup table saved to '{output}'.")
    for warning in warnings:
        say(f"warning: {warning}", sys.stderr)
    summary = f"{len(market.tickers):,} tickers, {len(market.days):,} days, "
    summary += f"{market.starts[-1]:,} rows, {size / 1e6:,.1f} MB"
    say(summary, sys.stderr)
    if failed_days:
        raise BuildError(f"days not downloaded: {failed_days}; call --download again later")


def day_argument(text):
    try:
        return day_number(text)
    except ValueError:
        message = f"{text[:60]!a} is not a date from 1990 to 2099, write YYYY-MM-DD"
        raise argparse.ArgumentTypeError(message) from None


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    data_dir = "the folder of flat files (default %(default)s)"
    add("--data-dir", type=Path, default="aggregates_day", metavar="DIR", help=data_dir)
    output = "the table (default %(default)s)"
    add("--output", type=Path, default="lookup_table.pkl", metavar="FILE", help=output)
    window = "how many earlier rows make a baseline (default %(default)s)"
    add("--window", type=int, default=WINDOW, metavar="N", help=window)
    add("--json", action="store_true", help="also write the table as JSON, beside FILE")
    download = "before building, download the trading days that DIR lacks, from FROM (YYYY-MM-DD) "
    download += "or its first file on, and lists of tickers and splits; your key is in "
    download += "POLYGON_API_KEY or MASSIVE_API_KEY"
    add("--download", type=day_argument, nargs="?", const=0, metavar="FROM", help=download)
    until = "the last day to download (default the last one that is over in New York; today is "
    until += "possible after 16:00 there)"
    add("--until", type=day_argument, metavar="DATE", help=until)
    url = "where to download from (default %(default)s)"
    add("--api-url", default=API_URL, metavar="URL", help=url)
    options = parser.parse_args(argv)
    if not 2 <= options.window <= LONGEST_WINDOW:
        parser.error(f"--window {options.window}: it must be from 2 to {LONGEST_WINDOW}")
    if options.download is None and (options.until or options.api_url != API_URL):
        parser.error("--until and --api-url need --download")
    if not re.fullmatch(r"https?://[^\s?#@]+", options.api_url):
        parser.error(f"--api-url {options.api_url[:60]!a}: it must be like {API_URL}")
    return options


def main(argv=None):
    options = parse_arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if sys.stdout is None:
            raise OSError(0, "stdout is closed")
        build(options)
        sys.stdout.flush()
    except BuildError as error:
        say(error, sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return 130
    except PolygonError as error:
        say(f"download stopped: {error}", sys.stderr)
    except ImportError as error:  # of a package that only some builds need
        say(f"{error}: pip install -r requirements.txt", sys.stderr)
    except MemoryError:
        say("not enough memory: build a table of fewer days", sys.stderr)
    except OSError as error:
        if error.filename is None:  # of stdout: a file's error names the file
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that Python's flush at exit is quiet
        if not isinstance(error, BrokenPipeError):
            say(f"{error.filename or 'output not written'}: {error.strerror}", sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
