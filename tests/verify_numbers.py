"""Compare a lookup table of your flat files, number by number, with exact arithmetic.

Usage:
    python tests/verify_numbers.py [DATA_DIR] [--window N]

Reads   every *.csv and *.csv.gz below DATA_DIR (./aggregates_day unless you say so): once with
        build-lookup-table.py, into a temporary table, and once with nothing but the csv module.
Writes  one line on stdout: how many rows were compared and the largest relative error; or, with
        status 1, the first number that is wrong.

Trades and closes have to be the same; price_diff, avg_trades and std_trades may be off by 1e-12 of
their value. All three parts of the table are compared: the dict, the day pages, and the pieces by
which a ticker is read alone.
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
from array import array
from datetime import datetime, timedelta
from pathlib import Path

BUILDER = Path(__file__).resolve().parent.parent / "build-lookup-table.py"
TOLERANCE = 1e-12
FIELDS = ["trades", "close_price", "price_diff", "avg_trades", "std_trades"]
FOOTER = struct.Struct("<QQI12s")


class Difference(Exception):
    """The first thing that is not as it should be, in one line."""


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


def read_history(paths):
    """{ticker: {date: (trades, close)}} in the order in which the files first name the tickers."""
    history = {}
    for path in paths:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
        name = re.match(r"(\d{4}-\d\d-\d\d)\.", path.name)
        for row in csv.DictReader(io.StringIO(text, newline="")):
            date = name[1] if name else str(utc_date(whole_number(row["window_start"])))
            days = history.setdefault(row["ticker"], {})
            days[date] = whole_number(row["transactions"]), float(row["close"])
    return history


def ratio(part, whole):
    return part / whole if part <= whole else math.inf


def relative_error(number, numerator, denominator):
    """By what part of itself the fraction numerator / denominator is missed by number."""
    if not (type(number) is float and math.isfinite(number)):
        return math.inf
    if numerator == 0:
        return 0.0 if number == 0 else math.inf
    up, down = number.as_integer_ratio()
    return ratio(abs(up * denominator - numerator * down), abs(numerator * down))


def price_diff_error(price_diff, previous, close):
    """The same for the change from previous, None in the first row, to close in percent."""
    if previous is None or previous == 0:
        undefined = math.inf if previous == 0 and close > 0 else math.nan
        return 0.0 if repr(price_diff) == repr(undefined) else math.inf
    up, down = close.as_integer_ratio()
    previous_up, previous_down = previous.as_integer_ratio()
    change = 100 * (up * previous_down - previous_up * down)
    return relative_error(price_diff, change, previous_up * down)


def avg_trades_error(avg_trades, earlier, window):
    """The same for the mean of earlier, which is None where there are fewer than window."""
    if len(earlier) < window:
        return 0.0 if avg_trades is None else math.inf
    return relative_error(avg_trades, sum(earlier), window)


def std_trades_error(std_trades, earlier, window):
    """The same for the sample standard deviation of earlier."""
    if len(earlier) < window:
        return 0.0 if std_trades is None else math.inf
    if type(std_trades) is not float or not 0 <= std_trades < math.inf:
        return math.inf
    total = sum(earlier)
    squares = sum((window * trades - total) ** 2 for trades in earlier)
    if squares == 0:
        return 0.0 if std_trades == 0 else math.inf
    # The variance is squares / (window**2 * (window - 1)), and off by twice what its root is.
    up, down = std_trades.as_integer_ratio()
    missed = up * up * window**2 * (window - 1) - squares * down * down
    return ratio(abs(missed), squares * down * down) / 2


def largest_error(history, table, window):
    """The largest relative error in table, {ticker: {date: stats}}. Raises Difference."""
    if list(table) != list(history):
        raise Difference(f"the table has {len(table)} tickers, the files {len(history)}, or others")
    largest = 0.0
    for ticker, days in history.items():
        if list(table[ticker]) != sorted(days):
            raise Difference(f"{ticker}: the table's dates are not the files'")
        earlier, previous = [], None
        for date in sorted(days):
            trades, close = days[date]
            stats = table[ticker][date]
            if list(stats) != FIELDS:
                raise Difference(f"{ticker} on {date}: the fields are {list(stats)}")
            errors = {
                "trades": 0.0 if stats["trades"] == trades else math.inf,
                "close_price": 0.0 if stats["close_price"] == close else math.inf,
                "price_diff": price_diff_error(stats["price_diff"], previous, close),
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


def checked(content, place, what):
    offset, length, crc = place
    payload = content[offset : offset + length]
    if len(payload) != length or zlib.crc32(payload) != crc:
        raise Difference(f"the checksum of {what} is wrong")
    return payload


def numbers(stats):
    """The five numbers of stats as bytes, None as nan, so that equal ones are equal."""
    return struct.pack("<5d", *(math.nan if stats[f] is None else stats[f] for f in FIELDS))


def compare_parts(content, table):
    """Compare the day pages and the tickers' pieces in content, the file, with its table.

    Raises Difference.
    """
    *place, magic = FOOTER.unpack(content[-FOOTER.size :])
    if magic != b"lookup-table":
        raise Difference("the table has no footer")
    index = pickle.loads(checked(content, place, "the index"))

    by_date = {}
    for ticker, days in table.items():
        for date, stats in days.items():
            by_date.setdefault(date, []).append((ticker, numbers(stats)))
    if list(index["days"]) != sorted(by_date):
        raise Difference("the day pages are not those of the table's dates")
    for date, rows in by_date.items():
        page = pickle.loads(checked(content, index["days"][date], f"the day page of {date}"))
        columns = [array("i" if field == "trades" else "d", page[field]) for field in FIELDS]
        if sys.byteorder == "big":
            for column in columns:
                column.byteswap()
        of_page = [
            (ticker, struct.pack("<5d", *row)) for ticker, *row in zip(page["ticker"], *columns)
        ]
        if of_page != rows or {len(column) for column in columns} != {len(rows)}:
            raise Difference(f"the day page of {date} is not the table's")

    prologue = checked(content, index["prologue"], "the prologue")
    pieces = pickle.loads(checked(content, index["tickers"], "the tickers"))
    if list(pieces) != list(table):
        raise Difference("the tickers' pieces are not those of the table's tickers")
    for ticker, place in pieces.items():
        piece = pickle.loads(prologue + checked(content, place, f"the piece of {ticker}") + b".")
        if repr(piece) != repr(table[ticker]):
            raise Difference(f"the piece of {ticker} is not the table's")


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
        compare_parts(content, table)
    except Difference as difference:
        print(difference)
        return 1
    rows, days = (
        sum(map(len, table.values())),
        len({day for days in table.values() for day in days}),
    )
    compared = f"{rows:,} rows of {len(table):,} tickers on {days:,} days"
    print(f"{compared}: the largest relative error is {error:.1e}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
