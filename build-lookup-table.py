"""Build the lookup table: what is normal for each ticker, and what each of its days was.

Usage:
    python build-lookup-table.py [--data-dir DIR] [--output FILE] [--window N] [--json]

Reads   Polygon's daily flat files: every *.csv and *.csv.gz below ./aggregates_day.
Writes  ./lookup_table.pkl, for query-lookup-table.py and gui-lookup-table.py.

One entry of the table, as pickle.load returns it:

    table["VTAK"]["2024-10-18"] == {
        "trades": 460548,          # how often it was traded that day
        "close_price": 0.91,       # the day's last price, in dollars
        "price_diff": 106.49,      # its change against the ticker's previous row, in percent
        "avg_trades": 6291.4,      # the baseline: mean and sample standard deviation
        "std_trades": 12387.12,    # of trades over the ticker's five previous rows
    }

The day itself is never part of its own baseline. price_diff is nan in a ticker's first row,
avg_trades and std_trades are None until it has five earlier rows.
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main: a Ctrl-C during imports is quiet

import argparse
import csv
import gzip
import io
import json
import math
import os
import pickle
import re
import struct
import sys
import zlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from itertools import count, islice
from pathlib import Path

import numpy as np
import pandas as pd

WINDOW = 5
LONGEST_WINDOW = 1000
THREADS = 2  # more wait for each other: only a part of pandas' reading goes on in parallel
COLUMNS = ["ticker", "close", "window_start", "transactions"]
FIELDS = ["trades", "close_price", "price_diff", "avg_trades", "std_trades"]

NS_PER_DAY = 86_400 * 10**9
FIRST_DAY, LAST_DAY = 7_305, 47_481  # 1990-01-01 and 2099-12-31, as days from 1970-01-01 on
MOST_TRADES = 2**31 - 1
LONGEST_TICKER = 31  # bytes
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)

# Before 3.1 pandas reads some decimals one bit off unless it is told to be exact.
PANDAS_VERSION = tuple(int(part) for part in pd.__version__.split(".")[:2])
EXACT = {} if PANDAS_VERSION >= (3, 1) else {"float_precision": "round_trip"}

BATCHES = 16  # slices of the table, of which one at a time is held as pickle
FORMAT_VERSION = 1
# PROTO 3 and a text that is popped at once: it does nothing but tell whose pickle this is.
SIGNATURE = b"\x80\x03X\x0c\x00\x00\x00lookup table0"
MAGIC = b"lookup-table"
NEW_DICT = pickle.EMPTY_DICT + pickle.MARK
FOOTER = struct.Struct("<QQI12s")


class BuildError(Exception):
    """Why there is no table, in one line for the user."""


def day_number(date):
    """Days from 1970-01-01 to date, YYYY-MM-DD; ValueError if there is no such day."""
    return int(np.datetime64(date, "D").astype("int64"))


def date_text(day):
    return str(np.datetime64(int(day), "D"))


def find_flat_files(data_dir):
    """The flat files below data_dir in the order of their names, which is the order of days.

    Where a day is there as .csv and as .csv.gz, only the .csv. Hidden files are passed over.
    Raises BuildError where there are none.
    """
    if not data_dir.is_dir():
        raise BuildError(f"no folder {data_dir}: put the flat files there or name their --data-dir")
    paths = {
        path
        for path in data_dir.rglob("*")
        if path.name.endswith((".csv", ".csv.gz")) and path.name[0] != "." and path.is_file()
    }
    unpacked = {path.name for path in paths}
    paths = [path for path in paths if not (path.suffix == ".gz" and path.stem in unpacked)]
    if not paths:
        raise BuildError(f"no *.csv or *.csv.gz in {data_dir}: download daily flat files first")
    return sorted(paths, key=lambda path: (path.name, path))


def read_unpacked(path):
    """The CSV's bytes, unpacked where path ends in .gz, without a byte order mark.

    Raises BuildError, also where they are not UTF-8 or hold a NUL.
    """
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
        if not raw.isascii():
            raw.decode()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
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


def parse_quickly(raw, header):
    """The values of COLUMNS, or None where parse_carefully has to look.

    They are tickers, close, start, trades: a list of bytes, and arrays of float64, int64
    nanoseconds and int64.

    pandas fills short rows, cuts long ones and takes a column of True for ones: a file that could
    hold any of these is not for it. It reads tickers as bytes, in half the time that str takes.
    """
    octets = np.frombuffer(raw, "uint8")
    lines = np.count_nonzero(octets == ord("\n")) + (not raw.endswith(b"\n"))
    commas = np.count_nonzero(octets == ord(","))
    # With one of COLUMNS last, a row that is too short lacks a value and fails below.
    if b'"' in raw or commas != (len(header) - 1) * lines or header[-1] not in COLUMNS:
        return None
    dtype = dict(zip(COLUMNS, (f"S{LONGEST_TICKER + 1}", "float64", "int64", "int64")))
    try:
        with np.errstate(invalid="ignore"):
            rows = pd.read_csv(
                io.BytesIO(raw),
                usecols=COLUMNS,
                dtype=dtype,
                na_filter=False,
                low_memory=False,
                **EXACT,
            )
    except (ValueError, OverflowError):
        return None
    tickers = rows["ticker"].tolist()
    close, start, trades = (rows[name].to_numpy() for name in COLUMNS[1:])
    sound = (
        len(rows) == lines - 1 > 0
        and all(tickers)
        and max(map(len, tickers)) <= LONGEST_TICKER
        and close.min() >= 0
        and 1 < close.max() < math.inf
        and trades.min() >= 0
        and 1 < trades.max() <= MOST_TRADES
        and start.min() // NS_PER_DAY >= FIRST_DAY
        and start.max() // NS_PER_DAY <= LAST_DAY
    )
    return (tickers, close, start, trades) if sound else None


def parse_carefully(raw, header, path):
    """The values of COLUMNS, read line by line; BuildError names the first bad one."""
    reader = csv.reader(io.StringIO(raw.decode(), newline=""), strict=True)
    columns = [], [], [], []
    try:
        next(reader)
        for fields in reader:
            if not fields or (len(fields) == 1 and not fields[0].strip()):
                continue
            if len(fields) != len(header):
                raise ValueError(f"{len(fields)} fields, but the header has {len(header)}")
            row = dict(zip(header, fields))
            ticker = row["ticker"].encode()
            if not 1 <= len(ticker) <= LONGEST_TICKER:
                raise ValueError(f"the ticker is {row['ticker'][:99]!r}, not 1 to 31 bytes long")
            numbers = [parse_number(name, row[name]) for name in COLUMNS[1:]]
            for column, value in zip(columns, [ticker, *numbers]):
                column.append(value)
    except (ValueError, csv.Error) as error:
        raise BuildError(f"{path}, line {reader.line_num}: {error}") from None
    tickers, *numbers = columns
    return (tickers, *map(np.array, numbers))


def parse_number(name, text):
    """The number that text gives for the column called name. Raises ValueError."""
    if not text.strip():
        raise ValueError(f"{name} is empty")
    if not NUMBER.fullmatch(text) or math.isinf(float(text)):
        raise ValueError(f"{name} is {text!r}, not a number")
    number = float(text)
    if number < 0:
        raise ValueError(f"{name} is {text!r}, less than 0")
    if name == "close":
        return number
    if name == "transactions" and not (number.is_integer() and number <= MOST_TRADES):
        raise ValueError(f"{name} is {text!r}, not a whole number up to {MOST_TRADES}")
    if name == "window_start" and not FIRST_DAY <= number // NS_PER_DAY <= LAST_DAY:
        raise ValueError(f"{name} is {text!r}, not nanoseconds of a year from 1990 to 2099")
    return int(number)


def day_in_name(path):
    """The day number of a file named YYYY-MM-DD.csv[.gz], None under any other name."""
    match = re.match(r"\d{4}-\d\d-\d\d(?=\.)", path.name, re.ASCII)
    try:
        day = day_number(match[0]) if match else None
    except ValueError:
        return None
    return day if match and FIRST_DAY <= day <= LAST_DAY else None


def read_flat_file(path):
    """One flat file's columns, in the order of its rows, and what is odd about it.

    Returns (tickers, days, trades, close_prices), warnings: tickers a list of bytes, the others
    arrays: uint16 day numbers, int32, and float64 dollars. Where the file's name and its rows
    disagree on the day, the name is right. Raises BuildError.
    """
    raw = read_unpacked(path)
    try:
        first_line = raw.partition(b"\n")[0].decode().rstrip("\r")
        header = next(csv.reader([first_line], strict=True), [])
    except csv.Error as error:
        raise BuildError(f"{path}, line 1: {error}") from None
    missing = [name for name in COLUMNS if header.count(name) != 1]
    if missing:
        there = ", ".join(header)[:200] or "none"
        raise BuildError(f"{path}: no single column {', '.join(missing)}; its columns: {there}")
    columns = parse_quickly(raw, header) or parse_carefully(raw, header, path)
    tickers, close, start, trades = columns
    warnings = [] if tickers else [f"{path}: no rows below the header, skipped"]
    days = start.astype("int64") // NS_PER_DAY
    named = day_in_name(path)
    elsewhere = days[days != named]
    if named is not None and len(elsewhere):
        warnings.append(
            f"{path}: {len(elsewhere)} rows say another day, first {date_text(elsewhere[0])}: "
            "the name's day counts"
        )
        days[:] = named
    numbers = days.astype("uint16"), trades.astype("int32"), close.astype("float64")
    return (tickers, *numbers), warnings


def on_terminal():
    return all(stream and stream.isatty() for stream in (sys.stdout, sys.stderr))


def progress_bar(items, description, total):
    """items, and on a terminal a bar on stderr that grows as they are taken."""
    if not on_terminal():
        return items
    from tqdm import tqdm

    return tqdm(items, description, total, bar_format="{l_bar}{bar}| {elapsed}")


def read_market(paths):
    """All flat files as (tickers, rows, warnings).

    tickers (str) stand in the order in which the files first name them. rows is a frame of ticker
    (int32, the place in tickers), date, trades and close_price (as from read_flat_file), sorted
    by ticker and date, one row each. Raises BuildError.
    """
    places = defaultdict(count().__next__)
    parts, warnings = [], []
    # Closed early, by an error or Ctrl-C, map takes back the files that are not begun.
    with ThreadPoolExecutor(THREADS) as pool, closing(pool.map(read_flat_file, paths)) as files:
        for path in progress_bar(paths, "Reading", len(paths)):
            if not on_terminal():
                print(f"Processing {path.name}")
            (names, *columns), remarks = next(files)
            parts.append((np.fromiter(map(places.__getitem__, names), "int32"), *columns))
            warnings += remarks
    columns = map(np.concatenate, zip(*parts))
    rows = pd.DataFrame(dict(zip(("ticker", "date", "trades", "close_price"), columns)))
    if rows.empty:
        raise BuildError(f"no rows in any of {len(paths)} flat files, such as {paths[0]}")
    tickers = [ticker.decode() for ticker in places]
    rows, differing = drop_repeated(rows.iloc[np.lexsort((rows["date"], rows["ticker"]))])
    if len(differing):
        first = differing.iloc[0]
        warnings.append(
            f"{len(differing)} rows differ from a later one of the same ticker and date, first "
            f"{tickers[first['ticker'].astype(int)]} on {date_text(first['date'])}: the last counts"
        )
    return tickers, rows, warnings


def drop_repeated(rows):
    """rows, sorted, without those that the next one of the same ticker and date replaces.

    Returns (rows, differing): differing are the replaced rows that said something else.
    """
    before, after = rows.iloc[:-1].reset_index(drop=True), rows.iloc[1:].reset_index(drop=True)
    same = before == after
    replaced = same["ticker"] & same["date"]
    differing = before[replaced & ~same.all(axis=1)]
    return rows[np.append(~replaced, True)].reset_index(drop=True), differing


def add_baselines(rows, window=WINDOW):
    """rows, sorted by ticker and date, with price_diff, avg_trades and std_trades added.

    avg_trades is the mean and std_trades the sample standard deviation (ddof 1) of trades over
    the ticker's previous window rows, both nan where it has fewer; price_diff is in percent.

    With S the sum of the n values x, the deviation is sqrt(sum((n*x - S)**2) / (n - 1)) / n.
    n*x - S is a whole number and so exact, which keeps a flat baseline at exactly 0.
    """
    nth = rows.groupby("ticker").cumcount()

    def earlier(column, k):
        # Rows are sorted by ticker, so k rows up may be another one's: only its own count.
        return rows[column].shift(k).where(nth >= k)

    total = sum(earlier("trades", k) for k in range(1, window + 1))
    squares = sum((window * earlier("trades", k) - total) ** 2 for k in range(1, window + 1))
    previous_close = earlier("close_price", 1)
    return rows.assign(
        price_diff=(rows["close_price"] - previous_close) / previous_close * 100,
        avg_trades=total / window,
        std_trades=np.sqrt(squares / (window - 1)) / window,
    )


@contextmanager
def replacing(path):
    """A binary file that takes the place of path when it is whole, and is gone otherwise."""
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise BuildError(f"{path} not written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def pickled_text(text):
    encoded = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def pickled_rows(rows, slots, known):
    """Rows as the pickle opcodes of `date: stats` items, one fixed-size record a row.

    known is how many of FIELDS have numbers; the others are None. slots gives for a day number
    the memo slot of its date. Returns a structured array, to be sliced by row and written.
    """
    template, offsets = bytearray(pickle.LONG_BINGET + bytes(4) + NEW_DICT), {"date": 1}
    for slot, field in enumerate(FIELDS):
        template += pickle.BINGET + bytes([slot])
        if slot < known:
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
    records = np.tile(np.frombuffer(template, "uint8"), len(rows)).view(layout)
    records["date"] = slots[rows["date"]]
    for field in FIELDS[:known]:
        records[field] = rows[field]
    return records


def ticker_batches(tickers, rows):
    """The table in BATCHES slices by ticker: (tickers, lengths in rows of each, rows)."""
    lengths = np.bincount(rows["ticker"])
    ends = np.append(0, np.cumsum(lengths))
    bounds = np.linspace(0, len(tickers), BATCHES + 1).astype(int).tolist()
    for first, last in progress_bar(zip(bounds, bounds[1:]), "Writing tickers", BATCHES):
        yield tickers[first:last], lengths[first:last].tolist(), rows.iloc[ends[first] : ends[last]]


def write_lookup_table(file, tickers, rows, window=WINDOW):
    """Write the table, four parts one after the other, into a binary file.

    1. One pickle, {ticker: {date: stats}}. A pickle is a program for a stack machine, and this one
       is put together from its opcodes, so that numpy can do it for many rows at once. First comes
       the prologue: SIGNATURE, then the names of FIELDS and the dates go into memo slots, from 0
       on. Then the dict is filled. Each ticker's piece is complete in itself: prologue + piece +
       STOP unpickles to that ticker's {date: stats}.
    2. For every date a pickled day page, the day's rows by column, in the order of tickers:
       {"ticker": [...], "trades": bytes, ...}. The numbers are packed little-endian, trades as
       int32, the others as float64, with nan for None.
    3. A pickled {ticker: place} of the pieces; then the pickled index, {"version", "window",
       "days": {date: place}, "prologue": place, "tickers": place}. A place is (offset in the file,
       length, CRC-32).
    4. FOOTER, 32 bytes, little-endian: the index's place (8, 8 and 4 bytes), then MAGIC (12).
    """

    def write(payload):
        place = file.tell(), len(payload), zlib.crc32(payload)
        file.write(payload)
        return place

    by_day = rows.iloc[np.argsort(rows["date"].to_numpy(), kind="stable")]
    days, starts = np.unique(by_day["date"], return_index=True)
    dates = [date_text(day) for day in days]
    slots = np.zeros(LAST_DAY + 1, "uint32")
    slots[days] = np.arange(len(days)) + len(FIELDS)
    index = {"version": FORMAT_VERSION, "window": window, "days": {}}

    prologue = SIGNATURE
    for slot, text in enumerate(FIELDS + dates):
        prologue += pickled_text(text) + pickle.LONG_BINPUT + struct.pack("<I", slot) + pickle.POP
    index["prologue"] = write(prologue)
    file.write(NEW_DICT)
    pieces = {}
    for batch_tickers, lengths, batch in ticker_batches(tickers, rows):
        complete = batch["avg_trades"].notna()
        first_rows = pickled_rows(batch[~complete], slots, known=3)
        other_rows = pickled_rows(batch[complete], slots, known=5)
        i = j = 0
        for ticker, length in zip(batch_tickers, lengths):
            next_i, next_j = i + min(length, window), j + max(length - window, 0)
            piece = first_rows[i:next_i].tobytes() + other_rows[j:next_j].tobytes()
            pieces[ticker] = write(pickled_text(ticker) + NEW_DICT + piece + pickle.SETITEMS)
            i, j = next_i, next_j
    file.write(pickle.SETITEMS + pickle.STOP)

    names = np.array(tickers, object)
    ends = [*starts[1:], len(rows)]
    for date, start, end in progress_bar(zip(dates, starts, ends), "Writing days", len(dates)):
        day = by_day.iloc[start:end]
        page = {"ticker": names[day["ticker"]].tolist()}
        for field in FIELDS:
            page[field] = day[field].to_numpy("<i4" if field == "trades" else "<f8").tobytes()
        index["days"][date] = write(pickle.dumps(page, protocol=4))
    index["tickers"] = write(pickle.dumps(pieces, protocol=4))
    file.write(FOOTER.pack(*write(pickle.dumps(index, protocol=4)), MAGIC))


def write_json(file, tickers, rows):
    """Write the table as JSON into a binary file, a line a ticker; what is not finite is null."""
    dates = {day: date_text(day) for day in rows["date"].unique().tolist()}
    separator = "{"
    for batch_tickers, lengths, batch in ticker_batches(tickers, rows):
        numbers = batch[FIELDS].astype(object).where(np.isfinite(batch[FIELDS]), None)
        items = zip(map(dates.get, batch["date"].tolist()), numbers.to_dict("records"))
        for ticker, length in zip(batch_tickers, lengths):
            days = json.dumps(dict(islice(items, length)))
            file.write(f"{separator}\n{json.dumps(ticker)}: {days}".encode())
            separator = ","
    file.write(b"\n}\n")


def window_argument(text):
    if not re.fullmatch("[0-9]{1,4}", text) or not 2 <= int(text) <= LONGEST_WINDOW:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is not from 2 to {LONGEST_WINDOW}")
    return int(text)


def build(data_dir, output, window, with_json):
    """Build the table from the flat files below data_dir, saying the tutorial's lines."""
    paths = find_flat_files(data_dir)
    if os.path.isdir(output):
        raise BuildError(f"{output} is a folder: name a file with --output")
    with replacing(output) as file:
        print("Starting to process files...")
        tickers, rows, warnings = read_market(paths)
        print("Finished processing files.")
        print("Building lookup table...")
        rows = add_baselines(rows, window)
        print("Lookup table built successfully.")
        write_lookup_table(file, tickers, rows, window)
        if with_json:
            json_output = output.with_suffix(".json")
            with replacing(json_output) as json_file:
                write_json(json_file, tickers, rows)
            print(f"Lookup table saved to '{json_output}'.")
    print(f"Lookup table saved to '{output}'.", flush=True)
    for warning in warnings:
        complain(f"warning: {warning}")
    days = rows["date"].nunique()
    size = output.stat().st_size / 1e6
    print(
        f"{len(tickers):,} tickers, {days:,} days, {len(rows):,} rows, {size:,.1f} MB",
        file=sys.stderr,
    )


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add(
        "--data-dir",
        type=Path,
        default="aggregates_day",
        metavar="DIR",
        help="the flat files (default %(default)s)",
    )
    add(
        "--output",
        type=Path,
        default="lookup_table.pkl",
        metavar="FILE",
        help="the table (default %(default)s)",
    )
    add(
        "--window",
        type=window_argument,
        default=WINDOW,
        metavar="N",
        help="rows in a baseline (default 5)",
    )
    add("--json", action="store_true", help="write the table as JSON too, beside FILE")
    args = parser.parse_args(argv)
    if args.json and args.output.suffix == ".json":
        parser.error(f"--output {args.output}: the table and its JSON would be one file")
    return args


def complain(message):
    """message on stderr, one line whatever names and values it quotes."""
    print("".join(c if c.isprintable() else repr(c)[1:-1] for c in message), file=sys.stderr)


def main(argv=None):
    args = parse_arguments(argv)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Told to stop, a build takes its unfinished file away, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        build(args.data_dir, args.output, args.window, args.json)
    except BuildError as error:
        complain(str(error))
        return 1
    except OSError as error:
        complain(f"{args.output} is written, the output is not: {error.strerror}")
        # The interpreter's own last flush must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        complain(f"{args.output} not written: not enough memory")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    if sys.stdout:
        sys.stdout.reconfigure(errors="backslashreplace")
    raise SystemExit(main())
