"""Compare a lookup table of your flat files, number by number, with exact arithmetic.

Usage:
    python tests/tools/verify_numbers.py [DATA_DIR] [--window N]

Reads   every *.csv and *.csv.gz below DATA_DIR (./aggregates_day unless you say so): once with
        build-lookup-table.py, into a temporary table, and once with the csv module; the numbers
        are then worked out by tests/witnesses/reference.py, by which the tests go, too.
Writes  one line on stdout: how many rows were compared and the largest relative error; or, with
        status 1, the first number that is wrong.

avg_trades and std_trades may be off by 1e-12 of their value, long_z by 1e-6 (of itself, if it is
above 1). Everything else has to be the same to the last bit: trades, closes, price_diff, record,
earlier_rows, baseline_days, gap, dollar_volume, the counts, types, names and splits. All parts of
the table are compared: the dict, which pickle reads, and the day pages, each ticker's pickled rows
and facts, the lists and the index, which struct reads by the layout that build-lookup-table.py
documents.
"""

import argparse
import csv
import gzip
import importlib
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
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).resolve().parent.parent.parent
sys.path.append(str(TOP / "tests"))
reference = importlib.import_module("witnesses.reference")
BUILDER = TOP / "build-lookup-table.py"
TOLERANCE, LONG_Z_TOLERANCE = 1e-12, 1e-6
FIELDS = ["trades", "close_price", "price_diff", "avg_trades", "std_trades"]
FACTS = ["gap", "record", "earlier_rows", "baseline_days", "long_z", "dollar_volume"]
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)

# The layout of the table, as the docstrings of build-lookup-table.py describe it.
MAGIC = b"lookup-tab-3"
EXTENT = struct.Struct("<QQI")
FOOTER = struct.Struct("<20s12s")
INDEX_HEADER = struct.Struct("<II20s20s")
INDEX_DAY = struct.Struct("<10s20s5I")
PAGE_COLUMNS = dict(zip(FIELDS + FACTS, "iddddd" + "HHH" + "ff"))
PAGE_LONG_Z = list(PAGE_COLUMNS).index("long_z")


class Difference(Exception):
    """The first thing that is not as it should be, in one line."""


def flat_files(folder):
    """The flat files below folder by name, without reference/; of .csv and .csv.gz the .csv."""
    paths = {path for pattern in ("*.csv", "*.csv.gz") for path in folder.rglob(pattern)}
    paths = {path for path in paths if path.is_file() and not path.name.startswith(".")}
    paths = {path for path in paths if path.relative_to(folder).parts[0] != "reference"}
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


def read_market(paths):
    """The files as a market by date; a row is (ticker, trades, open, close, volume) with Nones."""
    market = {}
    for path in paths:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
        name = re.match(r"(\d{4}-\d\d-\d\d)\.", path.name)
        reader = csv.DictReader(io.StringIO(text, newline=""))
        has_open = (reader.fieldnames or []).count("open") == 1
        for line in reader:
            date = name[1] if name else str(utc_date(whole_number(line["window_start"])))
            opened = positive_price(line["open"]) if has_open else None
            volume = float(line["volume"]) if NUMBER.fullmatch(line.get("volume") or "") else None
            trades, close = whole_number(line["transactions"]), float(line["close"])
            row = (line["ticker"], trades, opened, close, volume)
            market.setdefault(date, []).append(row)
    return dict(sorted(market.items()))


def read_list(data_dir, name, columns):
    """The lines of reference/name in data_dir, as tuples of these columns; () without the file."""
    path = Path(data_dir, "reference", name)
    if not path.exists():
        return ()
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [tuple(line[column] for column in columns) for line in csv.DictReader(file)]


# The dict


def relative_error(number, exact):
    """The distance of number from exact, a fraction, as a part of that fraction.

    0.0 if both are None; inf if one is, or if number is no finite float.
    """
    if number is None and exact is None:
        return 0.0
    if exact is None or type(number) is not float or not math.isfinite(number):
        return math.inf
    if exact == 0:
        return 0.0 if number == 0 else math.inf
    return float(abs(Fraction(number) / exact - 1))


def deviation_error(number, variance):
    """The relative error of number, which should be the root of variance, a fraction or None."""
    if type(number) is not float or not 0 <= number < math.inf or not variance:
        return relative_error(number, variance)
    return float(abs(Fraction(number) ** 2 / variance - 1) / 2)  # half of the square's error


def bit_error(number, expected):
    """0.0 if number is exactly the float expected, or both are nan; else inf."""
    if type(number) is not float:
        return math.inf
    same = struct.pack("d", number) == struct.pack("d", expected)
    return 0.0 if same or (math.isnan(number) and math.isnan(expected)) else math.inf


def largest_error(facts, table):
    """The largest relative error in table, {ticker: {date: stats}}. Raises Difference.

    facts are the reference's Table of the same files.
    """
    if list(table) != list(facts.tickers):
        raise Difference(
            f"the table's {len(table)} tickers are not the files' {len(facts.tickers)}, "
            "in the order of the files"
        )
    largest = 0.0
    for ticker, rows in facts.tickers.items():
        if list(table[ticker]) != [row.date for row in rows]:
            raise Difference(f"{ticker}: the table's dates are not the files'")
        for row, stats in zip(rows, table[ticker].values()):
            if list(stats) != FIELDS:
                raise Difference(f"{ticker} on {row.date}: the fields are {list(stats)}")
            errors = {
                "trades": 0.0 if stats["trades"] == row.trades else math.inf,
                "close_price": bit_error(stats["close_price"], row.close_price),
                "price_diff": bit_error(stats["price_diff"], row.price_diff),
                "avg_trades": relative_error(stats["avg_trades"], row.avg_trades),
                "std_trades": deviation_error(stats["std_trades"], row.variance),
            }
            for field, error in errors.items():
                if not error <= TOLERANCE:
                    raise Difference(
                        f"{ticker} on {row.date}: {field} is {stats[field]!r}; exactly: {row}"
                    )
            largest = max(largest, *errors.values())
    return largest


# The other parts of the file


class Parts(NamedTuple):
    """What stands behind the dict, as it is in the file."""

    window: int
    counts: dict  # {date: (rows, with_deviation, anomalies, with_long_z, high_long_z)}
    pages: dict  # {date: {ticker: a value for each of PAGE_COLUMNS}}
    pickled_rows: dict  # {ticker: the bytes of its rows in the pickle}
    facts: dict  # {ticker: its gaps, long_z and dollar_volume, as bytes}
    listed: dict  # {ticker: (type, name)}, empty ones as None
    splits: list  # of (ticker, date, split_from, split_to), texts


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
    window, number_of_tickers, *extents = INDEX_HEADER.unpack_from(index)
    counts, pages = {}, {}
    for date, extent, *numbers in INDEX_DAY.iter_unpack(index[INDEX_HEADER.size :]):
        date = date.decode()
        page = checked(content, extent, f"the day page of {date}")
        counts[date], pages[date] = tuple(numbers), read_page(page, numbers[0])

    directory, splits = (
        checked(content, extent, what) for extent, what in zip(extents, ("directory", "splits"))
    )
    end = number_of_tickers * 2 * EXTENT.size
    texts = directory[end:].decode().split("\n")
    tickers, types, names = (texts[i * number_of_tickers :][:number_of_tickers] for i in range(3))
    extents = [directory[i : i + EXTENT.size] for i in range(0, end, EXTENT.size)]
    if not len(texts) / 3 == len(set(tickers)) == number_of_tickers:
        raise Difference("the directory does not name each ticker once")
    pickled_rows, facts = (
        {ticker: checked(content, extent, f"{what} of {ticker}") for ticker, extent in zip(*pair)}
        for what, pair in (("rows", (tickers, extents[0::2])), ("facts", (tickers, extents[1::2])))
    )
    listed = {t: (kind or None, name or None) for t, kind, name in zip(tickers, types, names)}
    splits = [tuple(line.split("\t")) for line in splits.decode().split("\n") if line]
    return Parts(window, counts, pages, pickled_rows, facts, listed, splits)


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


def long_z_error(number, exact):
    """How far number, a float32, is from the exact one, as a part of 1 or of a larger one."""
    if exact is None or math.isnan(number):
        return 0.0 if exact is None and math.isnan(number) else math.inf
    return abs(number - exact) / max(1, abs(exact))


def compare_parts(parts, table, facts):
    """Compare the Parts of a file with its table, which has been checked, and with the facts.

    facts are the reference's Table of the same files. Raises Difference.
    """
    if list(parts.pages) != facts.days:
        raise Difference("the day pages are not those of the table's dates")
    if list(parts.pickled_rows) != list(table):
        raise Difference("the directory's tickers are not the table's")
    rows, counts = {date: {} for date in facts.days}, {date: [0] * 5 for date in facts.days}
    for ticker, own_rows in facts.tickers.items():
        for row in own_rows:
            long_z = parts.pages[row.date][ticker][PAGE_LONG_Z]
            if not long_z_error(long_z, row.long_z) <= LONG_Z_TOLERANCE:
                raise Difference(f"{ticker} on {row.date}: long_z is {long_z}, not {row.long_z}")
            numbers = row.gap, row.record, row.earlier_rows, row.baseline_days or 0, long_z
            numbers = (*table[ticker][row.date].values(), *numbers, row.dollar_volume)
            rows[row.date][ticker] = numbers
            found = 1, reference.has_deviation(row), reference.is_anomaly(row)
            found += not math.isnan(long_z), round(long_z, 4) > 3
            counts[row.date] = [a + b for a, b in zip(counts[row.date], found)]
        compare_history(ticker, parts, table[ticker], own_rows, rows)
    for date in facts.days:
        compare_page(date, parts.pages[date], rows[date])
        if parts.counts[date] != tuple(counts[date]):
            raise Difference(f"{date}: the index counts {parts.counts[date]}, not {counts[date]}")
    compare_lists(parts, facts)


def compare_lists(parts, facts):
    for ticker, listed in parts.listed.items():
        if listed != facts.listed.get(ticker, (None, None)):
            raise Difference(f"{ticker}: type and name are {listed}")
    numbers = {ticker: number for number, ticker in enumerate(facts.tickers)}
    expected = sorted(facts.splits.items(), key=lambda split: (numbers[split[0][0]], split[0][1]))
    found = [((ticker, date), tuple(map(float, split))) for ticker, date, *split in parts.splits]
    if found != [(key, tuple(map(float, split))) for key, split in expected]:
        raise Difference(f"the splits are {parts.splits}")


def compare_page(date, page, rows):
    if list(page) != list(rows):
        raise Difference(f"the day page of {date} does not have the table's tickers in their order")
    for ticker, row in rows.items():
        if packed_row(page[ticker]) != packed_row(row):
            found = zip(PAGE_COLUMNS, page[ticker], row)
            wrong = ", ".join(f"{field} is {a!r}, not {b!r}" for field, a, b in found if a != b)
            raise Difference(f"{ticker} in the day page of {date}: {wrong}")


def compare_history(ticker, parts, days, rows, page_rows):
    """Compare a ticker's pickled rows and facts with its days, and with the rows of day pages."""
    numbers = [len(FIELDS) + row.session for row in rows]
    pickled = b"".join(map(pickled_row, days.values(), numbers))
    if parts.pickled_rows[ticker] != pickled:
        raise Difference(f"the pickled rows of {ticker} are not the table's")
    own = [dict(zip(PAGE_COLUMNS, page_rows[row.date][ticker])) for row in rows]
    facts = b"".join(
        struct.pack(code, math.nan if row[field] is None else row[field])
        for field, code in (("gap", "<d"), ("long_z", "<f"), ("dollar_volume", "<f"))
        for row in own
    )
    if parts.facts[ticker] != facts:
        raise Difference(f"the facts of {ticker} are not those of its day pages")


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
        market = read_market(flat_files(Path(args.data_dir)))
        listed = read_list(args.data_dir, "tickers.csv", ("ticker", "name", "type"))
        columns = "ticker", "execution_date", "split_from", "split_to"
        splits = read_list(args.data_dir, "splits.csv", columns)
        facts = reference.Table(market, args.window, listed, splits)
        error = largest_error(facts, table)
        compare_parts(read_parts(content), table, facts)
    except Difference as difference:
        print(difference)
        return 1
    rows, days = sum(map(len, table.values())), len(facts.days)
    compared = f"{rows:,} rows of {len(table):,} tickers on {days:,} days"
    print(f"{compared}: the largest relative error is {error:.1e}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
