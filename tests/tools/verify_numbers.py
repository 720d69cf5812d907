"""Compare a lookup table of your flat files, number by number, with exact arithmetic.

Usage:
    python tests/tools/verify_numbers.py [DATA_DIR] [--window N]

Reads   every *.csv and *.csv.gz below DATA_DIR (./aggregates_day unless you say so): once with
        build-lookup-table.py, into a temporary table, and once with the csv module; the numbers
        are then worked out by tests/witnesses/reference.py, by which the tests go, too.
Writes  one line on stdout: how many rows were compared and the largest relative error; or, with
        status 1, the first number that is wrong.

avg_trades and std_trades may be off by 1e-12 of their value, long_z by 1e-6 (of itself, if it is
above 1). Everything else has to be the same to the last bit. All parts of the table are compared:
the dict, which pickle reads, and the day pages, each ticker's pickled rows and facts, the lists and
the index, which struct reads by the layout that build-lookup-table.py documents.
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
from datetime import datetime, timezone
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).resolve().parent.parent))
from witnesses import reference

BUILDER = Path(__file__).resolve().parent.parent.parent / "build-lookup-table.py"
TOLERANCE, LONG_Z_TOLERANCE = 1e-12, 1e-6

# The layout of the table, as the docstrings of build-lookup-table.py describe it.
FIELDS = ["trades", "close_price", "price_diff", "avg_trades", "std_trades"]
FACTS = ["gap", "record", "earlier_rows", "baseline_days", "long_z", "dollar_volume"]
PAGE_COLUMNS = dict(zip(FIELDS + FACTS, "iddddd" + "HHH" + "ff"))
MAGIC = b"lookup-tab-3"
EXTENT = struct.Struct("<QQI")
FOOTER = struct.Struct("<20s12s")
INDEX_HEADER = struct.Struct("<II20s20s")
INDEX_DAY = struct.Struct("<10s20s5I")


class Difference(Exception):
    """The first thing that is not as it should be, in one line."""


# The flat files


def flat_files(folder):
    """The flat files below folder by name, without reference/; of .csv and .csv.gz the .csv."""
    files = {
        path.name.removesuffix(".gz"): path
        for pattern in ("*.csv.gz", "*.csv")
        for path in folder.rglob(pattern)
        if path.relative_to(folder).parts[0] != "reference" and not path.name.startswith(".")
    }
    return [files[name] for name in sorted(files)]


def read_market(paths):
    """The files as a market by date; a row is (ticker, trades, open, close, volume).

    An open or volume that is missing is nan.
    """
    market = {}
    for path in paths:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
        name = re.match(r"\d{4}-\d\d-\d\d(?=\.)", path.name)
        for line in csv.DictReader(io.StringIO(text, newline="")):
            started = datetime.fromtimestamp(int(line["window_start"]) // 10**9, timezone.utc)
            opened, volume = (float(line.get(name) or "nan") for name in ("open", "volume"))
            trades, close = int(float(line["transactions"])), float(line["close"])
            rows = market.setdefault(name[0] if name else str(started.date()), [])
            rows.append((line["ticker"], trades, opened, close, volume))
    return dict(sorted(market.items()))


def read_list(path, *columns):
    """The lines of a list, as tuples of these columns; none without the file."""
    text = path.read_text("utf-8-sig") if path.exists() else ""
    lines = csv.DictReader(io.StringIO(text, newline=""))
    return [tuple(line[column] for column in columns) for line in lines]


def read_reference(data_dir, window):
    """The reference's Table of the flat files and lists in data_dir."""
    listed = read_list(data_dir / "reference/tickers.csv", "ticker", "name", "type")
    columns = "ticker", "execution_date", "split_from", "split_to"
    splits = read_list(data_dir / "reference/splits.csv", *columns)
    return reference.Table(read_market(flat_files(data_dir)), window, listed, splits)


# The table


class Parts(NamedTuple):
    """A table, as it is in the file."""

    table: dict  # {ticker: {date: stats}}
    window: int
    counts: dict  # {date: (rows, with_deviation, anomalies, with_long_z, high_long_z)}
    pages: dict  # {date: {ticker: a value for each of PAGE_COLUMNS}}
    pickled_rows: dict  # {ticker: the bytes of its rows in the pickle}
    facts: dict  # {ticker: its gaps, long_z and dollar_volume, as bytes}
    listed: dict  # {ticker: (type, name)}, empty ones as None
    splits: list  # of (ticker, date, split_from, split_to), texts


def read_parts(content):
    """The Parts of a table's bytes. Raises Difference."""

    def part(extent, what):
        offset, length, crc = EXTENT.unpack(extent)
        expect(f"the checksum of {what}", zlib.crc32(content[offset : offset + length]), crc)
        return content[offset : offset + length]

    index_extent, magic = FOOTER.unpack(content[-FOOTER.size :])
    expect("the magic", magic, MAGIC)
    index = part(index_extent, "the index")
    window, number, *extents = INDEX_HEADER.unpack_from(index)
    counts, pages = {}, {}
    for date, extent, *numbers in INDEX_DAY.iter_unpack(index[INDEX_HEADER.size :]):
        date = date.decode()
        counts[date] = tuple(numbers)
        pages[date] = read_page(part(extent, f"the day page of {date}"), numbers[0])

    directory, splits = part(extents[0], "the directory"), part(extents[1], "the splits")
    end = number * 2 * EXTENT.size
    texts = directory[end:].decode().split("\n")
    expect("the number of the directory's texts", len(texts), 3 * number)
    tickers, types, names = texts[:number], texts[number : 2 * number], texts[2 * number :]
    pickled_rows, facts, listed = {}, {}, {}
    for i, (ticker, kind, name) in enumerate(zip(tickers, types, names)):
        of_rows, of_facts = struct.unpack_from("20s20s", directory, i * 2 * EXTENT.size)
        pickled_rows[ticker] = part(of_rows, f"the rows of {ticker}")
        facts[ticker] = part(of_facts, f"the facts of {ticker}")
        listed[ticker] = kind or None, name or None
    splits = [tuple(line.split("\t")) for line in splits.decode().split("\n") if line]
    table = pickle.loads(content)
    return Parts(table, window, counts, pages, pickled_rows, facts, listed, splits)


def read_page(page, rows):
    """{ticker: a value for each of PAGE_COLUMNS} from a day page's bytes."""
    columns, end = [], 0
    for code in PAGE_COLUMNS.values():
        columns.append(struct.unpack_from(f"<{rows}{code}", page, end))
        end += struct.calcsize(f"<{rows}{code}")
    return dict(zip(page[end:].decode().split("\n"), zip(*columns), strict=True))


def pickled_row(stats, slot):
    """The pickled row of part 1 for stats, on the date in a slot of the pickle's memo."""
    record = b"j" + struct.pack("<I", slot) + b"}("
    for i, (field, value) in enumerate(stats.items()):
        record += b"h" + bytes([i])
        if value is None:
            record += b"N"
        elif field == "trades":
            record += b"J" + struct.pack("<i", value)
        else:
            record += b"G" + struct.pack(">d", value)
    return record + b"u"


# The comparison


def expect(what, found, expected):
    """Raise Difference unless both read the same, and so have the same types, order and bits."""
    found, expected = repr(found), repr(expected)
    if found != expected:
        raise Difference(f"{what}: it is {found[:300]}, not {expected[:300]}")


def relative_error(number, exact):
    """How far number is from exact, a fraction, as a part of exact; each may be None."""
    if number == exact:
        return 0.0
    if number is None or not exact or not math.isfinite(number):
        return math.inf
    return float(abs(Fraction(number) / exact - 1))


def compare(parts, facts):
    """The largest relative error of avg_trades and std_trades in parts. Raises Difference.

    facts are the reference's Table of the same files.
    """
    largest = 0.0
    expect("the window", parts.window, facts.window)
    expect("the dates", list(parts.pages), facts.days)
    for tickers in (parts.table, parts.pickled_rows):
        expect("the tickers", list(tickers), list(facts.tickers))
    for ticker, rows in facts.tickers.items():
        days = parts.table[ticker]
        expect(f"the dates of {ticker}", list(days), [row.date for row in rows])
        largest = max(largest, *map(compare_stats, rows, days.values()))
    for date, rows in facts.rows.items():
        compare_day(date, parts, rows)
    for ticker, rows in facts.tickers.items():
        compare_history(ticker, parts, rows)
    compare_lists(parts, facts)
    return largest


def compare_stats(row, stats):
    """The largest relative error of a row's stats in the dict."""
    same = row.trades, float(row.close_price), row.price_diff, *list(stats.values())[3:]
    expect(f"{row.ticker} on {row.date}", stats, dict(zip(FIELDS, same)))
    error = max(
        relative_error(stats["avg_trades"], row.avg_trades),
        relative_error(stats["std_trades"], row.std_trades),
    )
    if error > TOLERANCE:
        raise Difference(f"{row.ticker} on {row.date}: {stats} is off by {error} of {row}")
    return error


def compare_day(date, parts, rows):
    """Compare a day page with the reference's rows, with the dict, and with the index's counts."""
    page, long_zs = parts.pages[date], []
    expect(f"the tickers of the day page of {date}", list(page), list(rows))
    for ticker, row in rows.items():
        found, long_z = dict(zip(PAGE_COLUMNS, page[ticker])), row.long_z
        if long_z is not None:
            if abs(found["long_z"] - long_z) <= LONG_Z_TOLERANCE * max(1, abs(long_z)):
                long_z = found["long_z"]
            long_zs.append(long_z)
        facts = row.gap, row.record, row.earlier_rows, row.baseline_days or 0, long_z
        numbers = *parts.table[ticker][date].values(), *facts, row.dollar_volume
        numbers = [math.nan if number is None else number for number in numbers]
        expect(f"{ticker} in the day page of {date}", found, dict(zip(PAGE_COLUMNS, numbers)))
    expected = (
        len(rows),
        sum(row.z_score is not None for row in rows.values()),
        sum(map(reference.is_anomaly, rows.values())),
        len(long_zs),
        sum(round(long_z, 4) > 3 for long_z in long_zs),
    )
    expect(f"the counts of {date}", parts.counts[date], expected)


def compare_history(ticker, parts, rows):
    """Compare a ticker's pickled rows with the dict, and its facts with the day pages."""
    slots = (len(FIELDS) + row.session for row in rows)
    pickled = b"".join(map(pickled_row, parts.table[ticker].values(), slots))
    expect(f"the pickled rows of {ticker}", parts.pickled_rows[ticker], pickled)
    columns = dict(zip(PAGE_COLUMNS, zip(*(parts.pages[row.date][ticker] for row in rows))))
    facts = b"".join(
        struct.pack(f"<{len(rows)}{PAGE_COLUMNS[name]}", *columns[name])
        for name in ("gap", "long_z", "dollar_volume")
    )
    expect(f"the facts of {ticker}", parts.facts[ticker], facts)


def compare_lists(parts, facts):
    for ticker, listed in parts.listed.items():
        expect(f"type and name of {ticker}", listed, facts.listed.get(ticker, (None, None)))
    numbers = {ticker: number for number, ticker in enumerate(facts.tickers)}
    expected = [
        (ticker, date, *map(float, facts.splits[ticker, date]))
        for ticker, date in sorted(facts.splits, key=lambda split: (numbers[split[0]], split[1]))
    ]
    found = [(ticker, date, *map(float, ratio)) for ticker, date, *ratio in parts.splits]
    expect("the splits", found, expected)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    data_dir = {"metavar": "DATA_DIR", "nargs": "?", "type": Path, "default": "aggregates_day"}
    parser.add_argument("data_dir", **data_dir)
    parser.add_argument("--window", metavar="N", type=int, default=5, help="rows in a baseline")
    args = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "lookup_table.pkl"
        building = [sys.executable, BUILDER, "--data-dir", args.data_dir, "--output", output]
        building += ["--window", str(args.window)]
        built = subprocess.run(building, capture_output=True, encoding="utf-8")
        if built.returncode:
            print(built.stderr.rstrip(), file=sys.stderr)
            return built.returncode
        content = output.read_bytes()

    try:
        facts = read_reference(args.data_dir, args.window)
        error = compare(read_parts(content), facts)
    except Difference as difference:
        print(difference)
        return 1
    rows = sum(map(len, facts.rows.values()))
    compared = f"{rows:,} rows of {len(facts.tickers):,} tickers on {len(facts.days):,} days"
    print(f"{compared}: the largest relative error is {error:.1e}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
