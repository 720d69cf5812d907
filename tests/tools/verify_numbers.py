"""Compare a lookup table of your flat files, number by number, with exact arithmetic.

Usage:
    python tests/tools/verify_numbers.py [DATA_DIR] [--window N]

Reads   every *.csv and *.csv.gz below DATA_DIR (./aggregates_day unless you say so): once with
        build-lookup-table.py, into a temporary table, and once with nothing but the csv module.
Writes  one line on stdout: how many rows were compared and the largest relative error; or, with
        status 1, the first number that is wrong.

avg_trades and std_trades may be off by 1e-12 of their value. Everything else has to be the same to
the last bit: trades, closes, price_diff, record, earlier_rows, baseline_days, gap, and the counts
of anomalies. All parts of the table are compared: the dict, which pickle reads, and the day pages,
each ticker's pickled rows and gaps, and the index, which struct reads by the layout that
build-lookup-table.py documents.
"""

import argparse
import csv
import gzip
import io
import math
import pickle
import re
import struct
import subprocess
import sys
import tempfile
import zlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Optional

TOP = Path(__file__).resolve().parent.parent.parent
BUILDER = TOP / "build-lookup-table.py"
TOLERANCE = 1e-12
FIELDS = ["trades", "close_price", "price_diff", "avg_trades", "std_trades"]
FACTS = ["gap", "record", "earlier_rows", "baseline_days"]
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)

# The layout of the table, as the docstrings of build-lookup-table.py describe it.
MAGIC = b"lookup-tab-2"
EXTENT = struct.Struct("<QQI")
FOOTER = struct.Struct("<20s12s")
INDEX_HEADER = struct.Struct("<II20s")
INDEX_DAY = struct.Struct("<10s20sIII")
PAGE_COLUMNS = dict(zip(FIELDS + FACTS, "iddddd" + "HHH"))


class Difference(Exception):
    """The first thing that is not as it should be, in one line."""


class Row(NamedTuple):
    """What the flat files say of a ticker on a day."""

    trades: int
    open_price: Optional[float]  # None where it is missing or no positive number
    close_price: float


def flat_files(folder):
    """The flat files below folder by name; of a day's .csv and .csv.gz the .csv."""
    paths = {path for pattern in ("*.csv", "*.csv.gz") for path in folder.rglob(pattern)}
    paths = {path for path in paths if path.is_file() and not path.name.startswith(".")}
    names = {path.name for path in paths}
    unique = [path for path in paths if path.suffix == ".csv" or path.name[:-3] not in names]
    return sorted(unique, key=lambda path: (path.name, path))


def utc_date(nanoseconds):
    return (datetime(1970, 1, 1) + timedelta(days=nanoseconds // 86_400_000_000_000)).date()


def whole_number(text):
    return int(text) if text.isdigit() else int(float(text))


def positive_price(text):
    price = float(text) if NUMBER.fullmatch(text) else 0
    return price if 0 < price < math.inf else None


def read_history(paths):
    """{ticker: {date: Row}} in the order in which the files first name the tickers."""
    history = {}
    for path in paths:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
        name = re.match(r"(\d{4}-\d\d-\d\d)\.", path.name)
        reader = csv.DictReader(io.StringIO(text, newline=""))
        has_open = (reader.fieldnames or []).count("open") == 1
        for line in reader:
            date = name[1] if name else str(utc_date(whole_number(line["window_start"])))
            history.setdefault(line["ticker"], {})[date] = Row(
                whole_number(line["transactions"]),
                positive_price(line["open"]) if has_open else None,
                float(line["close"]),
            )
    return {ticker: dict(sorted(days.items())) for ticker, days in history.items()}


def dates_of(history):
    return sorted({date for days in history.values() for date in days})


# What each number should be


def ratio(part, whole):
    return part / whole if part <= whole else math.inf


def relative_error(number, numerator, denominator):
    """The distance of number from numerator / denominator, as a part of that fraction."""
    if not (type(number) is float and math.isfinite(number)):
        return math.inf
    if numerator == 0:
        return 0.0 if number == 0 else math.inf
    up, down = number.as_integer_ratio()
    return ratio(abs(up * denominator - numerator * down), abs(numerator * down))


def change(previous, price):
    """The change from previous to price in percent, by pandas' own float operations."""
    if previous == 0:
        return math.inf if price > 0 else math.nan
    return (price / previous - 1) * 100


def bit_error(number, expected):
    """0.0 if number is exactly the float expected, or both are nan; else inf."""
    if type(number) is not float or not (math.isnan(number) and math.isnan(expected)):
        same = type(number) is float and struct.pack("d", number) == struct.pack("d", expected)
        return 0.0 if same else math.inf
    return 0.0


def avg_trades_error(avg_trades, earlier, window):
    """The relative error of avg_trades, which should be the mean of earlier.

    With fewer than window rows earlier it should be None: then 0.0 if it is, else inf.
    """
    if len(earlier) < window:
        return 0.0 if avg_trades is None else math.inf
    return relative_error(avg_trades, sum(earlier), window)


def squares_of(earlier):
    """n**2 * (n - 1) times the variance of the n numbers earlier, a whole number."""
    count, total = len(earlier), sum(earlier)
    return sum((count * trades - total) ** 2 for trades in earlier)


def std_trades_error(std_trades, earlier, window):
    """The relative error of std_trades, the sample standard deviation of earlier, likewise."""
    if len(earlier) < window:
        return 0.0 if std_trades is None else math.inf
    if type(std_trades) is not float or not 0 <= std_trades < math.inf:
        return math.inf
    squares = squares_of(earlier)
    if squares == 0:
        return 0.0 if std_trades == 0 else math.inf
    # The variance is squares / (window**2 * (window - 1)); its relative error is twice its root's.
    up, down = std_trades.as_integer_ratio()
    missed = up * up * window**2 * (window - 1) - squares * down * down
    return ratio(abs(missed), squares * down * down) / 2


def is_anomaly(trades, earlier):
    """Whether z is above 3 by more than 1e-12 of it: the squares tell, which are whole numbers."""
    count = len(earlier)
    above = count * trades - sum(earlier)
    edge = 3 * (10**12 + 1)
    return above > 0 and above**2 * (count - 1) * 10**24 > edge**2 * squares_of(earlier)


def record_of(trades, index):
    """How many rows before index, counted back from it, had fewer trades."""
    start = index
    while start > 0 and trades[start - 1] < trades[index]:
        start -= 1
    return index - start


def gap_of(row, previous):
    """The gap of a Row after the Row previous; nan where there is none."""
    if previous is None or previous.close_price == 0 or row.open_price is None:
        return math.nan
    return change(previous.close_price, row.open_price)


def facts_of(days, session_of, window):
    """{date: (gap, record, earlier_rows, baseline_days)} of a ticker's {date: Row}."""
    facts, dates, rows = {}, list(days), list(days.values())
    trades = [row.trades for row in rows]
    for i, date in enumerate(dates):
        reach = session_of[date] - session_of[dates[i - window]] if i >= window else 0
        gap = gap_of(rows[i], rows[i - 1] if i else None)
        facts[date] = gap, record_of(trades, i), i, reach
    return facts


# The dict


def largest_error(history, table, window):
    """The largest relative error in table, {ticker: {date: stats}}. Raises Difference."""
    if list(table) != list(history):
        raise Difference(
            f"the table's {len(table)} tickers are not the files' {len(history)}, "
            "in the order of the files"
        )
    largest = 0.0
    for ticker, days in history.items():
        if list(table[ticker]) != list(days):
            raise Difference(f"{ticker}: the table's dates are not the files'")
        earlier, previous = [], None
        for date, (trades, _, close) in days.items():
            stats = table[ticker][date]
            if list(stats) != FIELDS:
                raise Difference(f"{ticker} on {date}: the fields are {list(stats)}")
            price_diff = math.nan if previous is None else change(previous, close)
            errors = {
                "trades": 0.0 if stats["trades"] == trades else math.inf,
                "close_price": bit_error(stats["close_price"], close),
                "price_diff": bit_error(stats["price_diff"], price_diff),
                "avg_trades": avg_trades_error(stats["avg_trades"], earlier, window),
                "std_trades": std_trades_error(stats["std_trades"], earlier, window),
            }
            for field, error in errors.items():
                if not error <= TOLERANCE:
                    raise Difference(
                        f"{ticker} on {date}: {field} is {stats[field]!r}, with trades {trades} "
                        f"after {earlier} and close {close!r} after {previous!r}"
                    )
            largest = max(largest, *errors.values())
            earlier, previous = [*earlier, trades][-window:], close
    return largest


# The other parts of the file


class Parts(NamedTuple):
    """What stands behind the dict, as it is in the file."""

    window: int
    counts: dict  # {date: (rows, with_deviation, anomalies)}
    pages: dict  # {date: {ticker: a value for each of PAGE_COLUMNS}}
    pickled_rows: dict  # {ticker: the bytes of its rows in the pickle}
    gaps: dict  # {ticker: its gaps}


def checked(content, extent, what):
    """The bytes in content that a packed extent names."""
    offset, length, crc = EXTENT.unpack(extent)
    part = content[offset : offset + length]
    if len(part) != length or zlib.crc32(part) != crc:
        raise Difference(f"the checksum of {what} is wrong")
    return part


def read_parts(content):
    """The Parts of a table's bytes. Raises Difference."""
    index_extent, magic = FOOTER.unpack(content[-FOOTER.size :])
    if magic != MAGIC:
        raise Difference("the table has no footer")
    index = checked(content, index_extent, "the index")
    window, number_of_tickers, directory_extent = INDEX_HEADER.unpack_from(index)
    counts, pages = {}, {}
    for date, extent, *numbers in INDEX_DAY.iter_unpack(index[INDEX_HEADER.size :]):
        date = date.decode()
        page = checked(content, extent, f"the day page of {date}")
        counts[date], pages[date] = tuple(numbers), read_page(page, numbers[0])

    directory = checked(content, directory_extent, "the directory")
    end = number_of_tickers * 2 * EXTENT.size
    tickers = directory[end:].decode().split("\n")
    extents = [directory[i : i + EXTENT.size] for i in range(0, end, EXTENT.size)]
    if not len(tickers) == len(set(tickers)) == number_of_tickers:
        raise Difference("the directory does not name each ticker once")
    pickled_rows = {
        ticker: checked(content, extent, f"the pickled rows of {ticker}")
        for ticker, extent in zip(tickers, extents[0::2])
    }
    gaps = {}
    for ticker, extent in zip(tickers, extents[1::2]):
        packed = checked(content, extent, f"the gaps of {ticker}")
        gaps[ticker] = struct.unpack(f"<{len(packed) // 8}d", packed)
    return Parts(window, counts, pages, pickled_rows, gaps)


def read_page(page, rows):
    """{ticker: a value for each of PAGE_COLUMNS} from a day page's bytes."""
    columns, end = [], 0
    for code in PAGE_COLUMNS.values():
        layout = struct.Struct(f"<{rows}{code}")
        columns.append(layout.unpack_from(page, end))
        end += layout.size
    tickers = page[end:].decode().split("\n")
    if not len(tickers) == len(set(tickers)) == rows:
        raise Difference("a day page does not name each ticker once")
    return dict(zip(tickers, zip(*columns)))


def pickled_row(stats, number):
    """The pickled row of part 1 for stats, on the date that has a number in the pickle's memo."""
    record = b"j" + struct.pack("<I", number) + b"}("
    for i, (field, value) in enumerate(stats.items()):
        record += b"h" + bytes([i])
        if value is None:
            record += b"N"
        elif field == "trades":
            record += b"J" + struct.pack("<i", value)
        else:
            record += b"G" + struct.pack(">d", value)
    return record + b"u"


def packed_row(row):
    """The numbers of a row as bytes, None as nan, so that rows are the same to the bit."""
    row = [math.nan if number is None else number for number in row]
    return struct.pack("<" + "".join(PAGE_COLUMNS.values()), *row)


def compare_parts(parts, table, history):
    """Compare the Parts of a file with its table, which has been checked, and with its history.

    Raises Difference.
    """
    dates = dates_of(history)
    session_of = dict(zip(dates, range(len(dates))))
    if list(parts.pages) != dates:
        raise Difference("the day pages are not those of the table's dates")
    if list(parts.pickled_rows) != list(table):
        raise Difference("the directory's tickers are not the table's")
    rows, counts = {date: {} for date in dates}, {date: [0, 0, 0] for date in dates}
    for ticker, days in history.items():
        facts = facts_of(days, session_of, parts.window)
        trades = [row.trades for row in days.values()]
        for i, date in enumerate(days):
            rows[date][ticker] = (*table[ticker][date].values(), *facts[date])
            baseline = trades[max(0, i - parts.window) : i]
            varies = i >= parts.window and squares_of(baseline) > 0
            found = varies and is_anomaly(trades[i], baseline)
            counts[date] = [a + b for a, b in zip(counts[date], (1, varies, found))]
        compare_history(
            ticker, parts, table[ticker], session_of, [gap for gap, *_ in facts.values()]
        )
    for date in dates:
        compare_page(date, parts.pages[date], rows[date])
        if parts.counts[date] != tuple(counts[date]):
            raise Difference(f"{date}: the index counts {parts.counts[date]}, not {counts[date]}")


def compare_page(date, page, rows):
    if list(page) != list(rows):
        raise Difference(f"the day page of {date} does not have the table's tickers in their order")
    for ticker, row in rows.items():
        if packed_row(page[ticker]) != packed_row(row):
            numbers = zip(PAGE_COLUMNS, page[ticker], row)
            wrong = [
                f"{field} is {number!r}, not {expected!r}"
                for field, number, expected in numbers
                if repr(number) != repr(expected) and not (expected is None and math.isnan(number))
            ]
            raise Difference(f"{ticker} in the day page of {date}: {', '.join(wrong)}")


def compare_history(ticker, parts, days, session_of, gaps):
    """Compare a ticker's pickled rows and gaps in the file with its days in the table."""
    numbers = [len(FIELDS) + session_of[date] for date in days]
    pickled = b"".join(map(pickled_row, days.values(), numbers))
    if parts.pickled_rows[ticker] != pickled:
        raise Difference(f"the pickled rows of {ticker} are not the table's")
    if len(parts.gaps[ticker]) != len(gaps) or any(map(bit_error, parts.gaps[ticker], gaps)):
        raise Difference(f"the gaps of {ticker} are {parts.gaps[ticker]}, not {tuple(gaps)}")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data_dir", metavar="DATA_DIR", nargs="?", default="aggregates_day")
    parser.add_argument("--window", metavar="N", type=int, default=5, help="rows in a baseline")
    args = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "lookup_table.pkl"
        building = [sys.executable, BUILDER, "--data-dir", args.data_dir, "--output", output]
        built = subprocess.run(
            [*map(str, building), "--window", str(args.window)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        if built.returncode:
            print(built.stderr.rstrip(), file=sys.stderr)
            return built.returncode
        content = output.read_bytes()

    table = pickle.loads(content)
    try:
        history = read_history(flat_files(Path(args.data_dir)))
        error = largest_error(history, table, args.window)
        compare_parts(read_parts(content), table, history)
    except Difference as difference:
        print(difference)
        return 1
    rows, days = sum(map(len, table.values())), len(dates_of(history))
    compared = f"{rows:,} rows of {len(table):,} tickers on {days:,} days"
    print(f"{compared}: the largest relative error is {error:.1e}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
