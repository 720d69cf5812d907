"""List a day's anomalies: the tickers that were traded far more often than they normally are.

Usage:
    python query-lookup-table.py 2024-10-18 [--threshold Z] [--min-trades N] [--min-price P]
        [--sort FIELD] [--limit N] [--format table|csv|json] [--table FILE]

Reads   ./lookup_table.pkl, which build-lookup-table.py writes.
Writes  the anomalies to stdout, most trades first.

An anomaly is a ticker whose trades on the day lie more than three standard deviations above the
mean of its five previous rows: std_trades > 0 and (trades - avg_trades) / std_trades > 3.

Of the table's parts (write_lookup_table in the builder says how they lie) only the footer, the
index and one day page are read. A file without a footer, such as the tutorial's own table or one
pickled by hand, is read whole. Either way nothing that a file says is ever run.
"""

import argparse
import datetime
import io
import os
import pickle
import re
import struct
import sys
import zlib
from array import array
from math import isfinite, nan

Z_THRESHOLD = 3
FIELDS = ["trades", "close_price", "price_diff", "avg_trades", "std_trades"]
ANOMALY_FIELDS = [
    "ticker",
    "date",
    "trades",
    "avg_trades",
    "std_trades",
    "z_score",
    "close_price",
    "price_diff",
]
SORT_FIELDS = ["trades", "z_score", "price_diff", "close_price", "avg_trades", "ticker"]

NUMPY_FORMATS = {"f8": "d", "f4": "f", "i8": "q", "i4": "i"}

FORMAT_VERSION = 1
SIGNATURE = b"\x80\x03X\x0c\x00\x00\x00lookup table0"
MAGIC = b"lookup-table"
FOOTER = struct.Struct("<QQI12s")


class TableError(Exception):
    """What is wrong with a table, in one line for the user."""


class NoDataError(Exception):
    """The table does not have the date, in one line for the user."""


class NumpyType:
    """A pickled numpy dtype without numpy: the struct format of one such number."""

    def __init__(self, code, *_):
        self.format = "<" + NUMPY_FORMATS[code]

    def __setstate__(self, state):
        self.format = (">" if state[1] == ">" else "<") + self.format[1:]


def numpy_scalar(numpy_type, raw):
    return struct.unpack(numpy_type.format, raw)[0]


def plain_dict(*_):
    return {}


HARMLESS_NAMES = {
    ("builtins", "dict"): dict,
    ("__builtin__", "dict"): dict,
    ("collections", "defaultdict"): plain_dict,
    ("collections", "OrderedDict"): plain_dict,
    ("numpy", "dtype"): NumpyType,
    ("numpy.core.multiarray", "scalar"): numpy_scalar,
    ("numpy._core.multiarray", "scalar"): numpy_scalar,
}


class TableUnpickler(pickle.Unpickler):
    """Knows the few names that a table can hold and refuses all others, so that nothing is run."""

    def find_class(self, module, name):
        if (module, name) not in HARMLESS_NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return HARMLESS_NAMES[module, name]


def unpickle(file, size):
    """The pickle of size bytes that file, a binary file, holds next. Raises TableError.

    A few hostile bytes can ask for gigabytes. So on Linux the process may meanwhile grow by what
    a sound pickle of that size needs and no more; the limit is the whole process's, so this is
    for one thread at a time.
    """
    try:
        import resource

        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        resource = None
    if resource:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = used + 100 * size + 2**28
        if soft != resource.RLIM_INFINITY:
            limit = min(limit, soft)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        return TableUnpickler(file).load()
    except Exception as error:  # what broken pickles raise has no common base
        reason = "it asks for too much memory" if isinstance(error, MemoryError) else error
        raise TableError(f"not a sound pickle ({reason})") from None
    finally:
        if resource:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class LookupTable:
    """A table as the builder writes it, in an open binary file. Reads no more than is asked for.

    dates lists the table's dates in order, window is the number of rows in a baseline. What
    differs from its checksum is not believed: the methods then raise TableError.
    """

    def __init__(self, file, size):
        self.file, self.size = file, size
        file.seek(max(0, size - FOOTER.size))
        *place, magic = FOOTER.unpack(file.read(FOOTER.size))
        if magic != MAGIC:
            raise TableError("cut short or damaged")
        self.index = self.read_pickle(place)
        if self.index["version"] != FORMAT_VERSION:
            raise TableError(f"of format {self.index['version']}, not {FORMAT_VERSION}")
        self.dates, self.window = list(self.index["days"]), self.index["window"]

    def read_bytes(self, place):
        offset, length, crc = place
        if offset + length > self.size:
            raise TableError("damaged")
        self.file.seek(offset)
        payload = self.file.read(length)
        if zlib.crc32(payload) != crc:
            raise TableError("damaged")
        return payload

    def read_pickle(self, place):
        payload = self.read_bytes(place)
        return unpickle(io.BytesIO(payload), len(payload))

    def read_day(self, date):
        """The day page of a date: {"ticker": [...], "trades": array, ...}, or KeyError.

        Beside the tickers a column for each of FIELDS, all of one length and in the table's order
        of tickers; avg_trades and std_trades are nan where there is no baseline.
        """
        page = self.read_pickle(self.index["days"][date])
        for field in FIELDS:
            column = array("i" if field == "trades" else "d")
            column.frombytes(page[field])
            if sys.byteorder == "big":
                column.byteswap()
            page[field] = column
        return checked(page)

    def read_ticker(self, ticker):
        """A ticker's {date: stats} as the table holds it, or KeyError."""
        places = self.read_pickle(self.index["tickers"])
        program = self.read_bytes(self.index["prologue"]) + self.read_bytes(places[ticker]) + b"."
        return unpickle(io.BytesIO(program), len(program))


class PlainTable:
    """A pickled {ticker: {date: stats}} and nothing else, read whole; answers as LookupTable."""

    window = 5  # the tutorial's

    def __init__(self, file, size):
        self.table = unpickle(file, size)
        if file.read(1):
            raise TableError("not a lookup table: something follows the pickle")
        self.dates = sorted({date for days in self.table.values() for date in days})

    def read_day(self, date):
        rows = {ticker: days[date] for ticker, days in self.table.items() if date in days}
        page = {"ticker": list(rows)}
        for field in FIELDS:
            column = (stats[field] for stats in rows.values())
            page[field] = array("d", (nan if value is None else value for value in column))
        # The tutorial's script pickles numbers of trades as floats.
        if any(number % 1 for number in page["trades"]):
            raise ValueError
        page["trades"] = array("q", map(int, page["trades"]))
        return checked(page)

    def read_ticker(self, ticker):
        return self.table[ticker]


def checked(page):
    """The day page itself, if its tickers are names and its columns of one length."""
    if not set(map(type, page["ticker"])) <= {str} or len(set(map(len, page.values()))) != 1:
        raise ValueError
    return page


def ask_table(path, ask):
    """ask(table) for the LookupTable or PlainTable in the file at path.

    Raises TableError, naming path, for whatever can be wrong with the file, and lets through
    what ask itself raises, unless it is of the kinds that a wrong file leads to.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - len(MAGIC)))
            has_footer = file.read(len(MAGIC)) == MAGIC
            file.seek(0)
            has_signature = file.read(len(SIGNATURE)) == SIGNATURE
            file.seek(0)
            # A table that lost its end is known by its beginning, and not taken for a plain one.
            kind = LookupTable if has_footer or has_signature else PlainTable
            return ask(kind(file, size))
    except FileNotFoundError:
        raise TableError(f"{path} not found: run build-lookup-table.py first") from None
    except OSError as error:
        raise TableError(f"{path}: {error.strerror or error}") from None
    except TableError as error:
        reason = error
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError):
        reason = "not a lookup table"
    except struct.error:
        reason = "cut short or damaged"
    raise TableError(f"{path} is {reason}: run build-lookup-table.py to make a good one")


def read_day(table, date):
    """The day page of date; NoDataError names what the table has instead."""
    if date in table.dates:
        return table.read_day(date)
    if not table.dates:
        raise TableError("empty")
    day = datetime.date.fromisoformat(date)
    nearest = min(table.dates, key=lambda other: abs(datetime.date.fromisoformat(other) - day))
    raise NoDataError(
        f"no data for {date}: the table covers {table.dates[0]} to {table.dates[-1]}; "
        f"nearest trading day {nearest}"
    )


def z_score(trades, avg_trades, std_trades):
    """By how many standard deviations trades lie above the mean; nan without one that is > 0."""
    return (trades - avg_trades) / std_trades if std_trades and std_trades > 0 else nan


def find_anomalies(page, date, threshold=Z_THRESHOLD):
    """The anomalies in a date's day page: dicts of ANOMALY_FIELDS, by trades, most first.

    An anomaly has a z_score above threshold. Equal trades stay in the page's order.
    """
    anomalies = []
    columns = [page[field] for field in ("ticker", *FIELDS)]
    for ticker, trades, close_price, price_diff, avg_trades, std_trades in zip(*columns):
        score = z_score(trades, avg_trades, std_trades)
        if score > threshold:
            row = ticker, date, trades, avg_trades, std_trades, score, close_price, price_diff
            anomalies.append(dict(zip(ANOMALY_FIELDS, row)))
    return sort_anomalies(anomalies, "trades")


def sort_anomalies(anomalies, field):
    """anomalies by a field of theirs: tickers from A on, numbers from the largest, nan last."""
    if field == "ticker":
        return sorted(anomalies, key=lambda anomaly: anomaly["ticker"])
    return sorted(
        anomalies,
        key=lambda anomaly: (anomaly[field] == anomaly[field], anomaly[field]),
        reverse=True,
    )


def as_table(anomalies, date):
    """The anomalies as the tutorial prints them."""
    lines = [
        "",
        f"Anomalies Found for {date}:",
        "",
        f"{'Ticker':<10}{'Trades':>10}{'Avg Trades':>15}{'Std Dev':>10}{'Z-score':>10}"
        f"{'Close Price':>12}{'Price Diff':>12}",
        "-" * 91,
    ]
    for anomaly in anomalies:
        lines.append(
            "{ticker:<10}{trades:>10.0f}{avg_trades:>15.2f}{std_trades:>10.2f}{z_score:>10.2f}"
            "{close_price:>12.2f}{price_diff:>12.2f}".format(**anomaly)
        )
    return "\n".join(lines) + "\n"


def as_csv(anomalies, date):
    """The anomalies in full precision under the names of ANOMALY_FIELDS."""
    import csv

    text = io.StringIO()
    writer = csv.DictWriter(text, ANOMALY_FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(anomalies)
    return text.getvalue()


def without_nan(row):
    """row, a dict, with None for every float that JSON has no word for."""
    return {
        name: None if isinstance(value, float) and not isfinite(value) else value
        for name, value in row.items()
    }


def as_json(anomalies, date):
    """The same as a list of objects; what is not finite is null."""
    import json

    return json.dumps([without_nan(anomaly) for anomaly in anomalies], indent=2) + "\n"


FORMATS = {"table": as_table, "csv": as_csv, "json": as_json}


def date_argument(text):
    try:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
            raise ValueError
        datetime.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date, write YYYY-MM-DD") from None
    return text


def number_argument(text):
    try:
        number = float(text) if text.isascii() and "_" not in text else nan
    except ValueError:
        number = nan
    if not isfinite(number):
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is not a number")
    return number


def whole_number(least, most):
    """An argument's type: whole numbers from least to most."""

    def argument(text):
        if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not least <= int(text) <= most:
            message = f"{text[:20]!r} is not a whole number from {least} to {most}"
            raise argparse.ArgumentTypeError(message)
        return int(text)

    return argument


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("date", type=date_argument, metavar="DATE", help="the day, as YYYY-MM-DD")
    add(
        "--threshold",
        type=number_argument,
        default=Z_THRESHOLD,
        metavar="Z",
        help="anomalies have a z-score above Z (default 3)",
    )
    add(
        "--min-trades",
        type=whole_number(0, 999_999_999),
        default=0,
        metavar="N",
        help="leave out tickers with fewer trades",
    )
    add(
        "--min-price",
        type=number_argument,
        default=0,
        metavar="P",
        help="leave out tickers that closed lower",
    )
    add(
        "--sort",
        choices=SORT_FIELDS,
        default="trades",
        help="most first, tickers from A on (default trades)",
    )
    add("--limit", type=whole_number(0, 999_999_999), metavar="N", help="print at most N anomalies")
    add("--format", choices=FORMATS, default="table", help="csv and json have full precision")
    add("--table", default="lookup_table.pkl", metavar="FILE", help="default lookup_table.pkl")
    return parser.parse_args(argv)


def complain(message):
    """message on stderr, one line whatever names and values it quotes."""
    print("".join(c if c.isprintable() else repr(c)[1:-1] for c in message), file=sys.stderr)


def main(argv=None):
    args = parse_arguments(argv)
    try:
        page = ask_table(args.table, lambda table: read_day(table, args.date))
        anomalies = find_anomalies(page, args.date, args.threshold)
        anomalies = [
            anomaly
            for anomaly in sort_anomalies(anomalies, args.sort)
            if anomaly["trades"] >= args.min_trades and not anomaly["close_price"] < args.min_price
        ]
        print(FORMATS[args.format](anomalies[: args.limit], args.date), end="", flush=True)
    except (TableError, NoDataError) as error:
        complain(str(error))
        return 1
    except BrokenPipeError:  # such as `| head`; the interpreter's own flush must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        complain(f"output not written: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    if sys.stdout:
        sys.stdout.reconfigure(errors="backslashreplace")
    raise SystemExit(main())
