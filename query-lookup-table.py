"""List anomalies: the tickers that were traded far more often than they normally are.

Usage:
    python query-lookup-table.py DATE [DATE] [options]      one day, or all from one to another
    python query-lookup-table.py --ticker T [DATE [DATE]]   one ticker's, on all days or on these
    python query-lookup-table.py [DATE] --aftermath         what followed anomalies up to DATE

Reads   ./lookup_table.pkl, which build-lookup-table.py writes.
Writes  the anomalies to stdout: those of a day by trades, those of a ticker by date.

A row of the table, and the line that it becomes:

    VTAK on 2024-10-18: trades 460548, avg_trades 6291.4, std_trades 12387.12, close_price 0.91, ...

    Ticker        Trades     Avg Trades   Std Dev   Z-score Close Price  Price Diff
    VTAK          460548        6291.40  12387.12     36.67        0.91      106.49

An anomaly is a row whose trades lie more than three standard deviations above the mean of the
ticker's previous rows, of which the builder takes five unless --window says otherwise:
std_trades > 0 and (trades - avg_trades) / std_trades > 3.

The script reads only the parts of the file that it needs, and unpickles none of them
(write_lookup_table in build-lookup-table.py describes the file). A file that the builder did not
write, such as the tutorial's own table, is taken for a pickle and read whole, without running it.
"""

import argparse
import bisect
import functools
import os
import re
import signal
import struct
import sys
import zlib
from array import array
from collections import defaultdict, namedtuple
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from math import ceil, floor, inf, isfinite, isnan, nan
from types import MappingProxyType

# build-lookup-table.py has the same two constants.
Z_THRESHOLD = 3
TOLERANCE = 1e-12  # a number this near to a limit, relative to it, counts as equal

HORIZONS = (1, 5, 20)  # days after an anomaly, counted in days of the table
NEW_ROWS = 20  # a ticker with fewer earlier rows is marked new
THIN_TRADES = 20  # a row with a lower avg_trades is marked thin
# A day's share of anomalies is compared with at least 20 and at most 250 earlier days.
FEWEST_USUAL_DAYS, MOST_USUAL_DAYS = 20, 250
FEWEST_USUAL_EXPIRATIONS = 4
# In the aftermath, an anomaly's class is a pair. z_from is the largest of Z_CLASSES below the
# z-score. move is up if price_diff is above 1 %, down if it is below -1 %, else flat.
Z_CLASSES, MOVES = (3, 5, 10, 30), ("up", "flat", "down")
CLASSES = [(z_from, move) for z_from in Z_CLASSES for move in MOVES]
BLOCK_DAYS, FEWEST_BLOCKS = 20, 10  # for the aftermath's standard error

# The table's format. build-lookup-table.py has the same constants; the codes of DAY_PAGE_COLUMNS
# are numpy's there, and those of Python's array here.
MOST_TICKERS = 2**17
FIELDS = ["trades", "close_price", "price_diff", "avg_trades", "std_trades"]
DAY_PAGE_COLUMNS = {**dict.fromkeys(FIELDS, "d"), "trades": "i", "gap": "d"}
DAY_PAGE_COLUMNS |= dict.fromkeys(["record", "earlier_rows", "baseline_days"], "H")
DAY_PAGE_COLUMNS |= dict.fromkeys(["long_z", "dollar_volume"], "f")
SIGNATURE = b"\x80\x03X\x0c\x00\x00\x00lookup table0"
EXTENT = struct.Struct("<QQI")  # offset in the file, length, CRC-32
# window, number of tickers, extents of the directory and of the splits
INDEX_HEADER = struct.Struct("<II20s20s")
INDEX_DAY = struct.Struct("<10s20s5I")
FOOTER = struct.Struct("<20s12s")  # extent of the index, MAGIC
MAGIC, OLDER_MAGICS = b"lookup-tab-3", (b"lookup-table", b"lookup-tab-2")
LONGEST_EXTENT = MOST_TICKERS * 300  # bytes; a day page has at most 90 a ticker
# A row in the pickle (write_pickle in the builder describes it): the date's slot in the pickle's
# memo and the trades, four bytes each, then four floats. A row without a baseline lacks two.
FULL_ROW = struct.Struct(">x 4s 5x 4s 3x d 3x d 3x d 3x d x")
SHORT_ROW = struct.Struct(">x 4s 5x 4s 3x d 3x d 7x")

ROW_FIELDS = ["ticker", "date", "trades", "avg_trades", "std_trades", "z_score"]
ROW_FIELDS += ["close_price", "price_diff"]
FACT_FIELDS = ["record", "earlier_rows", "baseline_days", "gap", "long_z", "dollar_volume"]
AFTER_FIELDS = [f"after_{horizon}" for horizon in HORIZONS]
ANOMALY_FIELDS = [*ROW_FIELDS, *FACT_FIELDS, *AFTER_FIELDS, "split_after", "marks"]
ANOMALY_FIELDS += ["type", "name"]
SORT_FIELDS = ["trades", "z_score", "price_diff", "close_price", "avg_trades", "ticker"]
SORT_FIELDS += [*FACT_FIELDS, *AFTER_FIELDS]
AFTERMATH_FIELDS = ["z_from", "move", "horizon", "cases", "better", "two_se", "median_excess"]
AFTERMATH_FIELDS += ["left_out"]
# The exchanges' test securities; source: TRF-Chicago-Test-Securities.xlsx on nasdaqtrader.com.
TEST_SYMBOLS = (
    "[ACMNPZ]TEST([.prw].*)?|Z[ABCJVWX]ZZT|ZVZZC|CBO|CBX|IBO|IGZ|ZBZX|ZEXIT|ZIEXT|ZTST|ZVV|ZXIET"
    "|ZZK"
)
MARKS = ["split?", "new", "thin", "stale", "test"]

NUMPY_FORMATS = {"f8": "d", "f4": "f", "i8": "q", "i4": "i"}  # numpy's codes and struct's
# What reading a damaged part of a table can raise.
DAMAGE = (ValueError, LookupError, OverflowError, MemoryError, struct.error)
# What the index says of a day: date, extent of its page, and how many rows it has; rows with a
# std_trades above 0, and anomalies among them; rows with a long_z, and those above 3 among them.
COUNTS = "rows with_deviation anomalies with_long_z high_long_z"
IndexDay = namedtuple("IndexDay", f"date extent {COUNTS}")


class TableError(Exception):
    """What is wrong with a table's file, or that numpy is missing, in one sentence."""


class NoDataError(Exception):
    """Which data the user wants and the table does not have, in one sentence for the user."""


def printable(text):
    """text, with escapes in place of characters that a terminal could take for a command."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def stdout_failed(error):
    """Say that stdout cannot be written, unless its reader, such as `head`, has ended.

    error is the OSError. Returns the exit status.
    """
    # What is left in stdout's buffer goes to the null device, so that the flush at exit is quiet.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if isinstance(error, BrokenPipeError):
        return 0
    print(f"output not written: {error.strerror}", file=sys.stderr)
    return 1


def import_numpy():
    try:
        import numpy
    except ModuleNotFoundError:
        raise TableError("numpy is missing: pip install -r requirements.txt") from None
    return numpy


def with_progress(items, total):
    """items; if stderr is a terminal, it shows how many of them have been taken."""
    if not sys.stderr.isatty():
        return items
    from tqdm import tqdm

    return tqdm(items, "Reading", total, bar_format="{l_bar}{bar}| {elapsed}")


class PlainDtype:
    """Stands for a numpy dtype in a pickle: numpy's own would take any state that a file gives it.

    format is the struct format of its numbers.
    """

    def __init__(self, code, *_):
        self.format = "<" + NUMPY_FORMATS[code]  # KeyError for objects and other types

    def __setstate__(self, state):  # state[1] is the byte order
        self.format = (">" if state[1] == ">" else "<") + self.format[1:]

    def number(self, raw):
        """The number that the bytes raw stand for."""
        return struct.unpack(self.format, raw)[0]


# All names that a pickled table may need, each with something harmless to use instead. A dict
# begins empty: the pickle fills it afterwards.
PICKLE_NAMES = {
    "builtins.dict": lambda *_: {},
    "__builtin__.dict": lambda *_: {},
    "collections.defaultdict": lambda *_: {},
    "_codecs.encode": lambda text, _: text.encode("latin-1"),  # the bytes of a scalar
    "numpy.dtype": PlainDtype,
    "numpy.core.multiarray.scalar": PlainDtype.number,
    "numpy._core.multiarray.scalar": PlainDtype.number,
}


def load_plain_pickle(file):
    """The object in a pickle, read from a binary file. Runs none of its code.

    A pickle can keep Python busy for ever, so Ctrl-C ends the process at once while it is read. A
    broken pickle can raise any kind of exception.
    """
    import pickle

    class TableUnpickler(pickle.Unpickler):
        def find_class(self, module, name):
            if f"{module}.{name}" not in PICKLE_NAMES:
                raise pickle.UnpicklingError(f"it asks for {module}.{name}")
            return PICKLE_NAMES[f"{module}.{name}"]

    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return TableUnpickler(file).load()
    finally:
        signal.signal(signal.SIGINT, handler)


def tickers_like(ticker, tickers):
    """The ones of tickers that are ticker written another way: BRK.B for brk.b, BRK-B or BRK/B."""

    def plain(text):
        return re.sub(r"[-./ ]", "", text).casefold()

    wanted = plain(ticker)
    return [other for other in tickers if plain(other) == wanted]


def find_ticker_number(ticker, tickers, name):
    """The index of ticker in tickers, those of the table called name. Raises NoDataError."""
    if ticker in tickers:
        return tickers.index(ticker)
    similar = tickers_like(ticker, tickers)
    hint = f"; it has {', '.join(similar[:5])}" if similar else ""
    raise NoDataError(f"{name} has no ticker {ticker}{hint}")


def blaming_the_file(read):
    """read, a method of LookupTable, with a TableError in place of what damage makes it raise."""

    @functools.wraps(read)
    def read_or_blame(table, *arguments):
        try:
            return read(table, *arguments)
        except DAMAGE:
            raise table.damaged() from None
        except OSError as error:
            raise TableError(f"{table.name}: {error.strerror}") from None

    return read_or_blame


def unpack_rows(rows, number_without_baseline):
    """Columns of a ticker's pickled rows: sessions, trades, then arrays of the other FIELDS.

    The first rows have no baseline. Raises ValueError if there is no row.
    """
    end = number_without_baseline * SHORT_ROW.size
    short_rows = ((*row, nan, nan) for row in SHORT_ROW.iter_unpack(rows[:end]))
    slots, trades, *floats = zip(*short_rows, *FULL_ROW.iter_unpack(rows[end:]))
    # The memo's first slots are for FIELDS, the next ones for the dates.
    sessions = [int.from_bytes(slot, "little") - len(FIELDS) for slot in slots]
    trades = [int.from_bytes(each, "little", signed=True) for each in trades]
    return sessions, trades, *(array("d", column) for column in floats)


class LookupTable:
    """A table of the builder in an open binary file of size bytes. Reads only the parts it needs.

    name is what messages call it. dates are the table's dates in order. A session is a trading day,
    given by its index in dates. window is the number of rows in a baseline. has_facts says that its
    rows have FACT_FIELDS. What reads a damaged part raises TableError.
    """

    has_facts = True

    @blaming_the_file
    def __init__(self, file, size, name):
        self.file, self.size, self.name = file, size, name
        file.seek(max(0, size - FOOTER.size))
        index_extent, magic = FOOTER.unpack(file.read(FOOTER.size))
        if magic != MAGIC:
            raise ValueError
        self.index = self.read_extent(index_extent)
        header = INDEX_HEADER.unpack_from(self.index)
        self.window, self.number_of_tickers, self.directory_extent, self.splits_extent = header
        self.number_of_days = (len(self.index) - INDEX_HEADER.size) // INDEX_DAY.size

    def damaged(self):
        return TableError(
            f"{self.name} is cut short or damaged: run build-lookup-table.py to make a good one"
        )

    @blaming_the_file
    def read_extent(self, packed):
        """The bytes that a packed EXTENT describes. Raises TableError if the checksum is wrong."""
        offset, length, crc = EXTENT.unpack(packed)
        if offset + length > self.size or length > LONGEST_EXTENT:
            raise ValueError
        self.file.seek(offset)
        content = self.file.read(length)
        if len(content) != length or zlib.crc32(content) != crc:
            raise ValueError
        return content

    @blaming_the_file
    def index_day(self, session):
        """The IndexDay of a session."""
        start = INDEX_HEADER.size + session * INDEX_DAY.size
        date, *rest = INDEX_DAY.unpack_from(self.index, start)
        if not is_date(date.decode()):
            raise ValueError
        return IndexDay(date.decode(), *rest)

    @functools.cached_property
    def dates(self):
        return [self.index_day(session).date for session in range(self.number_of_days)]

    def session_of(self, date):
        """The session of a date, or None if the table does not have the date."""
        sessions = range(self.number_of_days)
        session = bisect.bisect_left(sessions, date, key=lambda i: self.index_day(i).date)
        return session if session in sessions and self.index_day(session).date == date else None

    @blaming_the_file
    def read_day_page(self, session):
        """The day page of a session: {"ticker": [...], "date": [...], "trades": array, ...}.

        Its columns, all of one length, are the tickers, in the table's order, the session's date,
        and DAY_PAGE_COLUMNS (write_day_pages in the builder explains them).
        """
        date, extent, rows, *_ = self.index_day(session)
        content, page, start = self.read_extent(extent), {}, 0
        for name, code in DAY_PAGE_COLUMNS.items():
            page[name] = array(code)
            end = start + rows * page[name].itemsize
            page[name].frombytes(content[start:end])
            start = end
        page["ticker"] = content[start:].decode().split("\n")
        if not rows or {rows} != set(map(len, page.values())):
            raise ValueError
        return {**page, "date": [date] * rows}

    @blaming_the_file
    def read_directory(self):
        """(extents, tickers, types, names): lists, except that extents are bytes.

        extents are two packed EXTENTs for each ticker, of its rows and of its facts. A type or name
        is empty if the table does not know it.
        """
        content, number = self.read_extent(self.directory_extent), self.number_of_tickers
        end = number * 2 * EXTENT.size
        texts = content[end:].decode().split("\n")
        if len(texts) != 3 * number:
            raise ValueError
        return content[:end], texts[:number], texts[number : 2 * number], texts[2 * number :]

    @functools.cached_property
    def types_and_names(self):
        """{ticker: (type, name)} of the tickers in the list of tickers; each may be None."""
        _, *columns = self.read_directory()
        return {ticker: (type_ or None, name or None) for ticker, type_, name in zip(*columns)}

    @functools.cached_property
    @blaming_the_file
    def splits(self):
        """The listed splits, each ticker's by date: {(ticker, date): (split_from, split_to)}.

        Who had split_from shares before that day, has split_to from then on.
        """
        splits = {}
        for line in filter(None, self.read_extent(self.splits_extent).decode().split("\n")):
            ticker, date, *numbers = line.split("\t")
            split_from, split_to = map(float, numbers)
            if not (0 < split_from < inf and 0 < split_to < inf):
                raise ValueError
            splits[ticker, date] = split_from, split_to
        return splits

    @blaming_the_file
    def read_history(self, ticker):
        """A ticker's history: its rows by date, with the columns of a day page.

        The date and FIELDS are in the ticker's pickled rows. gap, long_z and dollar_volume have an
        extent of their own. The other facts follow from these. Raises NoDataError.
        """
        extents, tickers, *_ = self.read_directory()
        start = find_ticker_number(ticker, tickers, self.name) * 2 * EXTENT.size
        rows = self.read_extent(extents[start : start + EXTENT.size])
        facts = self.read_extent(extents[start + EXTENT.size :][: EXTENT.size])
        end = len(facts) // 2  # of 16 bytes a row, a gap takes 8, the others 4 each
        gaps, others = array("d", facts[:end]), array("f", facts[end:])
        sessions, trades, *floats = unpack_rows(rows, min(len(gaps), self.window))
        if len(gaps) != len(trades):
            raise ValueError
        dates = self.dates
        return {
            "ticker": [ticker] * len(trades),
            "date": [dates[session] for session in sessions],
            "trades": array("i", trades),
            **dict(zip(FIELDS[1:], floats)),
            "gap": gaps,
            "record": record_column(trades),
            "earlier_rows": range(len(trades)),
            "baseline_days": [
                sessions[i] - sessions[i - self.window] if i >= self.window else 0
                for i in range(len(trades))
            ],
            "long_z": others[: len(gaps)],
            "dollar_volume": others[len(gaps) :],
        }


class PlainTable(LookupTable):
    """A pickled {ticker: {date: stats}}, read whole.

    It has no facts: those of each row are None. Raises TableError if the file holds something else.
    """

    window = 5  # the tutorial's
    has_facts = False
    types_and_names = splits = MappingProxyType({})

    def __init__(self, file, size, name):
        self.name = name
        try:
            self.table = load_plain_pickle(file)
        except Exception as error:  # a broken pickle can raise any kind
            raise self.unusable(f"not a sound pickle ({str(error)[:100]})") from None
        # Check the types before a key is looked up: the hash of other objects may take for ever.
        if type(self.table) is not dict or {*map(type, self.table.values())} - {dict}:
            raise self.unusable()
        keys = chain(self.table, *self.table.values())
        if file.read(1) or any(type(key) is not str for key in keys):
            raise self.unusable()
        self.dates = sorted(set(chain(*self.table.values())))
        self.number_of_days = len(self.dates)
        if not all(map(is_date, self.dates)):
            raise self.unusable()

    def unusable(self, reason="not a lookup table"):
        return TableError(f"{self.name} is {reason}: run build-lookup-table.py to make a good one")

    def index_day(self, session):
        return IndexDay(self.dates[session], *[0] * 6)

    def columns_of(self, rows):
        """The columns of a day page; rows are a list of (ticker, date, stats)."""
        page = {"ticker": [row[0] for row in rows], "date": [row[1] for row in rows]}
        try:
            for field in FIELDS:
                column = (stats[field] for _, _, stats in rows)
                page[field] = array("d", (nan if value is None else value for value in column))
            # In the tutorial's table, trades are floats.
            if any(number % 1 for number in page["trades"]):
                raise ValueError
            page["trades"] = array("q", map(int, page["trades"]))
        except (ArithmeticError, LookupError, TypeError, ValueError):
            raise self.unusable() from None
        return {**page, **dict.fromkeys(FACT_FIELDS, [None] * len(rows))}

    def read_day_page(self, session):
        date = self.dates[session]
        own_days = ((ticker, days) for ticker, days in self.table.items() if date in days)
        return self.columns_of([(ticker, date, days[date]) for ticker, days in own_days])

    def read_history(self, ticker):
        find_ticker_number(ticker, list(self.table), self.name)  # raises NoDataError
        days = self.table[ticker]
        return self.columns_of([(ticker, date, days[date]) for date in sorted(days)])


@contextmanager
def open_table(path, kinds=(LookupTable, PlainTable)):
    """Yields the LookupTable or PlainTable in the file at path, and closes the file at the end.

    Raises TableError if the file holds no table of these kinds. A table of the builder that has
    lost its end still has its SIGNATURE, so it is not read as a plain pickle.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # to open a named pipe could wait
        raise TableError(f"{path} is no regular file: run build-lookup-table.py first")
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "rb"))
        except FileNotFoundError:
            raise TableError(f"{path} not found: run build-lookup-table.py first") from None
        except OSError as error:
            raise TableError(f"{path}: {error.strerror}") from None
        beginning, size = file.read(len(SIGNATURE)), os.path.getsize(path)
        file.seek(max(0, size - len(MAGIC)))
        magic = file.read()
        file.seek(0)
        if magic in OLDER_MAGICS:
            raise TableError(f"{path} is of an older version: run build-lookup-table.py again")
        kind = LookupTable if magic == MAGIC or beginning == SIGNATURE else PlainTable
        if kind not in kinds:
            message = "was not written by build-lookup-table.py: run it to make a table"
            raise TableError(f"{path} {message}")
        yield kind(file, size, path)


def z_limit(threshold):
    """threshold plus a tolerance. An anomaly's z-score is above this.

    A computed z-score is rounded: it may be above the threshold although the exact one is equal.
    """
    return threshold + TOLERANCE * abs(threshold)


def row_of(page, i):
    """The row with index i of a day page or a history: a dict of ROW_FIELDS and FACT_FIELDS.

    z_score is nan without a deviation above 0. A fact that is not known is None. long_z has four
    decimals, and dollar_volume is a whole number.
    """
    row = {field: page[field][i] for field in (*ROW_FIELDS, *FACT_FIELDS) if field != "z_score"}
    above, std_trades = row["trades"] - row["avg_trades"], row["std_trades"]
    row["z_score"] = above / std_trades if std_trades > 0 else nan
    row["baseline_days"] = row["baseline_days"] or None
    for field in ("gap", "long_z", "dollar_volume"):
        if row[field] is not None and not isfinite(row[field]):
            row[field] = None
    if row["long_z"] is not None:
        row["long_z"] = round(row["long_z"], 4)
    if row["dollar_volume"] is not None:
        row["dollar_volume"] = round(row["dollar_volume"])
    return row


def indexes_of_anomalies(page, threshold=Z_THRESHOLD):
    """The indexes of the anomalies in a day page or a history: the rows with z above threshold."""
    limit = z_limit(threshold)
    rows = zip(page["trades"], page["avg_trades"], page["std_trades"])
    return [
        i
        for i, (trades, avg_trades, std_trades) in enumerate(rows)
        if std_trades > 0 and (trades - avg_trades) / std_trades > limit
    ]


def record_column(trades):
    """The column record: for each row, how many rows directly before it had fewer trades.

    A row with as many trades ends the count. The builder has the same function for all tickers.
    possible_ends are the indexes of the rows that may end the count of a later row. Each row
    removes the ones with fewer trades: a later count that such a row would end reaches this row
    first and ends here.
    """
    counts, possible_ends = [], []
    for i, row_trades in enumerate(trades):
        while possible_ends and trades[possible_ends[-1]] < row_trades:
            possible_ends.pop()
        counts.append(i - possible_ends[-1] - 1 if possible_ends else i)
        possible_ends.append(i)
    return counts


def is_split(gap):
    """Whether an open that differs by gap percent from the previous close looks like a split.

    It does if open / previous close is below 0.7 or above 1.5, and within 5 % of a split's ratio:
    3/2, 2/3, n or 1/n, for a whole number n from 2 on.
    """
    ratio = nan if gap is None else 1 + gap / 100
    if not (0 < ratio < 0.7 * (1 - TOLERANCE) or 1.5 * (1 + TOLERANCE) < ratio < inf):
        return False
    larger = max(ratio, 1 / ratio)
    split_ratios = {1.5, *(n for n in (floor(larger), ceil(larger)) if n >= 2)}
    if ratio < 1:
        split_ratios = {1 / n for n in split_ratios}
    return any(abs(ratio / each - 1) <= 0.05 + TOLERANCE for each in split_ratios)


def marks_of(row, session, window, splits=None):
    """The marks of a row, in the order of MARKS: reasons to look twice.

    row is a dict of row_of. session, window and splits are as in LookupTable.

    split 1:20  the list of splits has one on this day: one share for every 20
    split?      no list has one, but the open looks like a split (is_split)
    new         the ticker has fewer than 20 earlier rows, although the table has 20 earlier days
    thin        the ticker usually has fewer than 20 trades
    stale       the baseline reaches back over more than twice as many days as it has rows
    test        the ticker is one of the exchanges' test symbols
    """
    earlier_rows, baseline_days = row["earlier_rows"], row["baseline_days"]
    listed = (splits or {}).get((row["ticker"], row["date"]))
    is_marked = {
        "split?": is_split(row["gap"]) and not listed,
        "new": earlier_rows is not None and earlier_rows < NEW_ROWS <= session,
        "thin": row["avg_trades"] < THIN_TRADES,
        "stale": baseline_days is not None and baseline_days > 2 * window,
        "test": bool(re.fullmatch(TEST_SYMBOLS, row["ticker"])),
    }
    marks = [mark for mark in MARKS if is_marked[mark]]
    return ["split {1:.10g}:{0:.10g}".format(*listed), *marks] if listed else marks


class LaterCloses(namedtuple("LaterCloses", "closes last_closes split_days")):
    """The later closes of a day page's tickers, as far as the table knows them.

    closes are the rows' closes. last_closes[horizon][i] is the last close of row i's ticker within
    the next 1, 5 or 20 days of the table. It is nan if the ticker is gone, which means that it has
    no row on these days. A horizon that the table does not reach yet is no key of last_closes.
    Listed splits in between are taken out: a close is multiplied by split_to / split_from.
    split_days[i] says on which of the next days, counted from 1, the ticker first has a suspected
    split that is not listed; 0 means on none. The columns are numpy arrays, or lists if only of_row
    is needed.
    """

    def changes(self, horizon):
        """For each row the change, in percent, from its close to the last close at this horizon.

        It is nan if the ticker is gone, else inf if the row's close is 0. An array.
        """
        np, last_closes = import_numpy(), self.last_closes[horizon]
        with np.errstate(all="ignore"):
            changes = (last_closes / self.closes - 1) * 100
        return np.where((self.closes == 0) & ~np.isnan(last_closes), inf, changes)

    def of_row(self, i):
        """{"after_1": ..., "after_5": ..., "after_20": ..., "split_after": ...} of row i.

        A change is None if it is not known yet, else nan if the ticker is gone, else None if the
        row's close is 0. split_after is the shortest known horizon with a suspected split, or None.
        """
        row, close = dict.fromkeys(AFTER_FIELDS), float(self.closes[i])
        for horizon, last_closes in self.last_closes.items():
            last_close = float(last_closes[i])
            if isnan(last_close):
                row[f"after_{horizon}"] = nan
            elif close:
                row[f"after_{horizon}"] = (last_close / close - 1) * 100
        day = self.split_days[i]
        with_split = (horizon for horizon in self.last_closes if 0 < day <= horizon)
        return {**row, "split_after": next(with_split, None)}


def ratios_by_session(table):
    """{session: [(ticker, what a listed split multiplies its later closes by), ...]}.

    A split on a day that the table does not have counts from the next one on.
    """
    ratios, dates = defaultdict(list), table.dates if table.splits else []
    for (ticker, date), (split_from, split_to) in table.splits.items():
        ratios[bisect.bisect_left(dates, date)].append((ticker, split_to / split_from))
    return ratios


class LastRows:
    """Each ticker's last row in the day pages that were added so far, in the table's order.

    numbers gives each ticker a number. closes and sessions are arrays by these numbers.
    split_numbers[session] has the numbers of the tickers with a suspected split, not a listed one.
    """

    def __init__(self, table):
        self.np, self.table, self.ratios = import_numpy(), table, ratios_by_session(table)
        self.numbers = defaultdict()
        self.numbers.default_factory = self.numbers.__len__  # a new ticker gets the next number
        self.closes, self.sessions = self.np.empty(0), self.np.empty(0, int)
        self.split_numbers = {}

    def add(self, session, page):
        """Add a session's day page. Returns the numbers of its tickers, an array."""
        np, tickers, date = self.np, page["ticker"], page["date"][0]
        self.newest = session
        numbers = np.fromiter(map(self.numbers.__getitem__, tickers), int, len(tickers))
        added = len(self.numbers) - len(self.closes)
        self.closes = np.append(self.closes, np.empty(added))
        self.sessions = np.append(self.sessions, np.empty(added, int))
        self.closes[numbers], self.sessions[numbers] = page["close_price"], session
        gaps = np.asarray(page["gap"], float)  # a PlainTable's None becomes nan
        large = np.flatnonzero((gaps < -30) | (gaps > 50)).tolist()  # the others are no splits
        suspected = [
            i for i in large if is_split(gaps[i]) and (tickers[i], date) not in self.table.splits
        ]
        self.split_numbers[session] = numbers[suspected]
        return numbers

    def closes_since(self, session, numbers):
        """The last close of each of these tickers after a session, without the listed splits.

        nan for a ticker that has no row since.
        """
        closes = self.np.where(self.sessions[numbers] > session, self.closes[numbers], nan)
        if not self.table.splits:
            return closes
        ratio_of = self.np.ones(len(self.numbers))
        for later in range(session + 1, self.newest + 1):
            for ticker, ratio in self.ratios[later]:
                number = self.numbers.get(ticker)
                if number is not None and self.sessions[number] >= later:
                    ratio_of[number] *= ratio
        return closes * ratio_of[numbers]

    def split_days_since(self, session, numbers):
        """LaterCloses.split_days of these tickers, for a session."""
        split_days = self.np.zeros(len(self.numbers), "uint8")
        for day in range(HORIZONS[-1], 0, -1):
            split_days[self.split_numbers.get(session + day, [])] = day
        return split_days[numbers]


def read_days(table, sessions, needs_after, end=None):
    """Yields (session, day page, LaterCloses) of each session of a range. Reads each page once.

    Without needs_after, LaterCloses is None, and numpy is not needed. Only sessions before end are
    read; without end, all that LaterCloses needs.
    """
    if not needs_after:
        for session in sessions:
            yield session, table.read_day_page(session), None
        return
    last_rows, waiting = LastRows(table), {}  # the sessions whose later days are not all read
    for session in range(sessions[0], sessions[-1] + HORIZONS[-1] + 1):
        if session < (end or table.number_of_days):
            page = table.read_day_page(session)
            numbers = last_rows.add(session, page)
            for horizon in HORIZONS:
                if session - horizon in waiting:
                    _, numbers_then, last_closes = waiting[session - horizon]
                    last_closes[horizon] = last_rows.closes_since(session - horizon, numbers_then)
            if session in sessions:
                waiting[session] = page, numbers, {}
        complete = session - HORIZONS[-1]
        if complete in waiting:
            page, numbers, last_closes = waiting.pop(complete)
            closes = last_rows.np.asarray(page["close_price"])
            split_days = last_rows.split_days_since(complete, numbers)
            yield complete, page, LaterCloses(closes, last_closes, split_days)


def later_closes_in_history(history, session, indexes, ratios, table):
    """The LaterCloses of a ticker's row on a session alone, as read_days finds them.

    indexes are those of the history's rows by session, ratios what ratios_by_session returns.
    """
    ticker, last_close, split_day, ratio, last_closes = history["ticker"][0], nan, 0, 1.0, {}
    for day in range(1, min(HORIZONS[-1], table.number_of_days - 1 - session) + 1):
        for split_ticker, split_ratio in ratios[session + day]:
            ratio *= split_ratio if split_ticker == ticker else 1
        i = indexes.get(session + day)
        if i is not None:
            last_close = history["close_price"][i] * ratio
            is_listed = (ticker, history["date"][i]) in table.splits
            split_day = split_day or (is_split(history["gap"][i]) and not is_listed and day)
        if day in HORIZONS:
            last_closes[day] = [last_close]
    return LaterCloses([history["close_price"][indexes[session]]], last_closes, [int(split_day)])


def z_score_column(page):
    """The z-score of each row of a day page, as row_of has it: an array."""
    np = import_numpy()
    columns = (np.asarray(page[name]) for name in ("trades", "avg_trades", "std_trades"))
    trades, avg_trades, std_trades = columns
    with np.errstate(all="ignore"):
        return np.where(std_trades > 0, (trades - avg_trades) / std_trades, nan)


def median(numbers):
    """The median of the finite numbers in a list or array; None if there are none."""
    np = import_numpy()
    numbers = np.asarray(numbers, float)
    numbers = np.sort(numbers[np.isfinite(numbers)])  # np.median takes twice as long
    count = len(numbers)
    return float(numbers[(count - 1) // 2] + numbers[count // 2]) / 2 if count else None


def points_for_doing_better(changes, median_change):
    """An array: 1 where a change is above the median ticker's, 1/2 where it is equal, else 0."""
    return (changes > median_change) + (changes == median_change) / 2


def compare_share(table, session, found, among, earlier=None, fewest_days=FEWEST_USUAL_DAYS):
    """A session's share of found among other rows, compared with earlier sessions: a dict, or None.

    found and among are names of counts in IndexDay. share is in percent. It is compared with the
    sessions in earlier (all, if not given), latest first, that have such rows: at most 250 of them.
    days is their number, usual is the median of their shares, and lower_days is the number of them
    with a lower share. None if they are fewer than fewest_days, or the session has no such rows.
    """
    day = table.index_day(session)
    earlier = range(session - 1, -1, -1) if earlier is None else earlier
    pairs = ((getattr(each, found), getattr(each, among)) for each in map(table.index_day, earlier))
    shares = (100 * number / rows for number, rows in pairs if rows)
    shares = sorted(islice(shares, MOST_USUAL_DAYS))
    days = len(shares)
    if days < fewest_days or not getattr(day, among):
        return None
    share = 100 * getattr(day, found) / getattr(day, among)
    return {
        found: getattr(day, found),
        among: getattr(day, among),
        "share": share,
        # median() would import numpy, which the page's first answer need not wait for.
        "usual": (shares[(days - 1) // 2] + shares[days // 2]) / 2,
        "lower_days": sum(share > earlier_share for earlier_share in shares),
        "days": days,
    }


def anomaly_share(table, session):
    """compare_share of the anomalies among the tickers with a deviation above 0."""
    return compare_share(table, session, "anomalies", "with_deviation")


def high_long_z_share(table, session):
    """compare_share of the tickers with a long_z above 3 among those with a long_z."""
    return compare_share(table, session, "high_long_z", "with_long_z")


def expiration_kind(dates, session):
    """quarterly or monthly, as a text, if options expire on that session, else None.

    They expire on the third Friday of a month; on the Thursday before if the next of the table's
    dates is later than that Friday. Quarterly ones are in March, June, September and December.
    """
    from datetime import date, timedelta

    friday = date.fromisoformat(dates[session])
    next_day = friday + timedelta(1)
    if friday.weekday() == 3 and dates[session + 1 :] and dates[session + 1] > str(next_day):
        friday = next_day
    if friday.weekday() != 4 or not 15 <= friday.day <= 21:
        return None
    return "quarterly" if friday.month % 3 == 0 else "monthly"


def expiration_share(table, session):
    """On a day on which options expire, its kind and how usual its share of anomalies is; or None.

    A dict of kind, which is expiration_kind's, and of anomaly_share's names, compared with the
    earlier days of this kind. With fewer than 4 of these, the kind is the dict's only key.
    """
    dates = table.dates
    kind = expiration_kind(dates, session)
    if kind is None:
        return None
    earlier = [day for day in range(session) if expiration_kind(dates, day) == kind][::-1]
    counts = "anomalies", "with_deviation"
    share = compare_share(table, session, *counts, earlier, FEWEST_USUAL_EXPIRATIONS)
    return {"kind": kind, **(share or {})}


def find_aftermath(table, last):
    """What followed all anomalies from the table's first session to last.

    A list of 36 dicts of AFTERMATH_FIELDS, for each of 4 z_from, 3 moves and 3 horizons. A z-score
    of exactly 5 is in the class from 3 to 5. No session after last is read: a horizon counts only
    anomalies that are at least so many sessions before last. Of these, left_out counts the ones
    whose ticker is gone or whose close is 0, and the ones with a suspected split, because a reverse
    split would look like a gain. The others are the cases. better is in percent of the cases.
    two_se and median_excess are in percentage points; the excess of a case is its change minus the
    median ticker's. Without cases, better and median_excess are None. two_se is None if fewer than
    10 blocks have a case.
    """
    np = import_numpy()
    case = np.dtype([("class", "u1"), ("block", "u2"), ("points", "f4"), ("excess", "f8")])
    found = {horizon: [np.empty(0, case)] for horizon in HORIZONS}  # an array a day
    days = read_days(table, range(last + 1), needs_after=True, end=last + 1)
    for session, page, after in with_progress(days, last + 1):
        anomalies, classes = classify_anomalies(np, page)
        for horizon in after.last_closes:
            changes = after.changes(horizon)
            middle = median(changes)
            middle, changes = nan if middle is None else middle, changes[anomalies]
            split_days = after.split_days[anomalies]
            is_case = np.isfinite(changes) & ((split_days == 0) | (split_days > horizon))
            cases = np.empty(len(anomalies), case)
            cases["class"], cases["block"] = classes, session // BLOCK_DAYS
            cases["points"] = points_for_doing_better(changes, middle)
            cases["excess"] = np.where(is_case, changes - middle, nan)
            found[horizon].append(cases)
    found = {horizon: np.concatenate(found[horizon]) for horizon in HORIZONS}
    return [
        {"z_from": z_from, "move": move, "horizon": horizon}
        | aftermath_figures(np, found[horizon][found[horizon]["class"] == number])
        for number, (z_from, move) in enumerate(CLASSES)
        for horizon in HORIZONS
    ]


def classify_anomalies(np, page):
    """(anomalies, classes): the indexes of a day page's anomalies, and of their class in CLASSES.

    np is numpy.
    """
    z_scores = z_score_column(page)
    limits = np.array([z_limit(z_from) for z_from in Z_CLASSES])
    anomalies = np.flatnonzero(z_scores > limits[0])
    z_classes = np.searchsorted(limits, z_scores[anomalies]) - 1
    price_diffs = np.asarray(page["price_diff"])[anomalies]
    moves = np.where(price_diffs > 1, 0, np.where(price_diffs < -1, 2, 1))  # indexes of MOVES
    return anomalies, z_classes * len(MOVES) + moves


def aftermath_figures(np, found):
    """A dict of AFTERMATH_FIELDS, from cases on, for the anomalies of one class and horizon.

    An anomaly's excess is its change minus the median ticker's; nan if it is left out. np is numpy.
    Days are not independent: one event moves many tickers, on its day and on later ones. So the
    standard error compares blocks of 20 days instead of single cases. It is
    sqrt(sum over blocks of (sum of (x - mean))**2 * B / (B - 1)) / N. Here x is 1 for a case that
    did better, 1/2 for an equal one, else 0. mean is the mean of x. N is the number of cases, B the
    number of blocks that have a case.
    """
    cases = found[~np.isnan(found["excess"])]
    cases_of_block = np.bincount(cases["block"]).tolist()
    points_of_block = np.bincount(cases["block"], cases["points"]).tolist()
    total, blocks, mean, two_se = len(cases), sum(map(bool, cases_of_block)), None, None
    if total:
        mean = sum(points_of_block) / total
    if blocks >= FEWEST_BLOCKS:
        # A block's sum of (x - mean) is its sum of x minus its number of cases times mean.
        sums = (points - mean * n for n, points in zip(cases_of_block, points_of_block))
        two_se = 200 * (sum(each**2 for each in sums) * blocks / (blocks - 1)) ** 0.5 / total
    return {
        "cases": total,
        "better": 100 * mean if total else None,
        "two_se": two_se,
        "median_excess": median(cases["excess"]),
        "left_out": len(found) - total,
    }


# What is listed of a day or of a ticker. The title is the date or the ticker. The anomalies are
# dicts of row_of. If needed, they also have marks and the keys of LaterCloses.of_row. The notes
# are sentences about the day.
Listing = namedtuple("Listing", "title anomalies notes")


def reaches(number, limit):
    """Whether number is at least limit. None as a limit lets all pass; None as a number fails."""
    return limit is None or (number is not None and number >= limit)


def select_anomalies(anomalies, options):
    """The anomalies that options do not exclude: by min_trades and the like, skip and type."""
    skipped = tuple(mark.rstrip("?") for mark in options.skip)  # split is for split? and split 1:20
    return [
        anomaly
        for anomaly in anomalies
        if anomaly["trades"] >= options.min_trades
        and not anomaly["close_price"] < options.min_price  # nan, in a plain pickle, stays
        and reaches(anomaly["record"], options.min_record or None)
        and reaches(anomaly["long_z"], options.min_long_z)
        and reaches(anomaly["dollar_volume"], options.min_dollars)
        and not any(mark.startswith(skipped) for mark in anomaly.get("marks", ()))
        and (not options.type or anomaly["type"] in options.type)
    ]


def count_without_type(anomalies, options):
    """How many anomalies options exclude for no other reason than that their type is not known."""
    if not options.type:
        return 0
    return len(select_anomalies(anomalies, argparse.Namespace(**{**vars(options), "type": [None]})))


def note_without_type(count):
    if count:
        note = f"note: {count:,} left out because the table has no type of their tickers"
        print(note, file=sys.stderr)


def sort_anomalies(anomalies, field):
    """anomalies sorted by field: tickers from A to Z, largest numbers first, missing ones last."""
    if field == "ticker":
        return sorted(anomalies, key=lambda anomaly: anomaly["ticker"])

    def sort_key(anomaly):
        number = anomaly[field]
        is_known = number is not None and not isnan(number)
        return is_known, number if is_known else 0

    return sorted(anomalies, key=sort_key, reverse=True)


def anomaly_of(page, i, session, table, options, after):
    """row_of, with what else the options need: marks, type, name, and the facts in after."""
    row = {**row_of(page, i), **after}
    if options.needs_marks:
        row["marks"] = marks_of(row, session, table.window, table.splits)
    if options.needs_type:
        row["type"], row["name"] = table.types_and_names.get(row["ticker"], (None, None))
    return row


def list_days(table, sessions, options):
    """Yields a Listing for each of sessions, a range.

    Says so on stderr if no ticker has a baseline on any of them, and how many anomalies are left
    out because their type is not known.
    """
    has_baseline, without_type = False, 0
    for session, page, after in read_days(table, sessions, options.needs_after):
        has_baseline = has_baseline or not all(map(isnan, page["avg_trades"]))
        if after:  # numpy is there, which is faster
            indexes = (z_score_column(page) > z_limit(options.threshold)).nonzero()[0].tolist()
        else:
            indexes = indexes_of_anomalies(page, options.threshold)
        anomalies = [
            anomaly_of(page, i, session, table, options, after.of_row(i) if after else {})
            for i in indexes
        ]
        without_type += count_without_type(anomalies, options)
        anomalies = sort_anomalies(anomalies, "trades")  # also the order of equal ones below
        is_wide = options.format == "wide"
        notes = notes_of(table, session, page, after, options.min_record) if is_wide else []
        yield listing_of(page["date"][0], anomalies, notes, options)
    note_without_type(without_type)
    if not has_baseline:
        note = f"note: no ticker has a baseline yet on {page['date'][0]}: "
        print(f"{note}a baseline is a ticker's {table.window} rows before", file=sys.stderr)


def list_ticker(table, ticker, sessions, options):
    """A ticker's anomalies on the days in sessions as one Listing, by date unless options.sort."""
    history, ratios, anomalies = table.read_history(ticker), ratios_by_session(table), []
    session_by_date = {date: session for session, date in enumerate(table.dates)}
    own_sessions = [session_by_date[date] for date in history["date"]]
    indexes = {session: i for i, session in enumerate(own_sessions)}
    for i in indexes_of_anomalies(history, options.threshold):
        session = own_sessions[i]
        if session in sessions:
            after = later_closes_in_history(history, session, indexes, ratios, table)
            anomalies.append(anomaly_of(history, i, session, table, options, after.of_row(0)))
    note_without_type(count_without_type(anomalies, options))
    return listing_of(ticker, anomalies, [], options)


def listing_of(title, anomalies, notes, options):
    """The Listing of the anomalies that options select, in their order."""
    anomalies = select_anomalies(anomalies, options)
    if options.sort:
        anomalies = sort_anomalies(anomalies, options.sort)
    return Listing(title, anomalies[: options.limit], notes)


def notes_of(table, session, page, after, min_record):
    """Sentences about a day. They count all its anomalies, whatever the options are."""
    notes = [median_sentence(page, after)]
    if table.has_facts:
        notes = [*share_sentences(table, session), record_sentence(page, min_record), *notes]
    return list(filter(None, notes))


def share_sentences(table, session):
    """How many anomalies and high long z-scores a day has, how usual that is, and expirations."""
    share = anomaly_share(table, session)
    if share:
        lower, days = share["lower_days"], share["days"]
        than = f"all {days}" if lower == days else f"{lower or 'none'} of the {days}"
        yield (
            "{anomalies:,} of {with_deviation:,} tickers with a baseline ({share:.1f} %) are "
            "anomalies; the usual is {usual:.1f} %; more than on {than} days before."
        ).format(**share, than=than)
    share = high_long_z_share(table, session)
    if share:
        yield (
            "{high_long_z:,} of {with_long_z:,} tickers with a long z-score ({share:.1f} %) have "
            "one above 3; the usual is {usual:.1f} %."
        ).format(**share)
    share = expiration_share(table, session)
    if share:
        text = "Options expire on this day ({kind})"
        if "usual" in share:
            text += "; on the {days} such days before, {usual:.1f} % are usual"
        yield f"{text}.".format(**share)


def record_sentence(page, min_record):
    """How many tickers have a record of min_record or more, and how many would by chance alone.

    A ticker has such a record if its row has more trades than each of the min_record rows before.
    If all orders of these rows were equally likely, the probability would be 1 / (min_record + 1).
    If min_record is None or 0, it is 60, or 20 if no ticker has 60 earlier rows. The answer is a
    sentence, or None if no ticker has min_record earlier rows.
    """
    np = import_numpy()
    earlier_rows, record = np.asarray(page["earlier_rows"]), np.asarray(page["record"])
    min_record = min_record or (60 if earlier_rows.max() >= 60 else 20)
    old_enough = np.count_nonzero(earlier_rows >= min_record)
    if not old_enough:
        return None
    records = np.count_nonzero(record >= min_record)
    return (
        f"Of {old_enough:,} tickers with at least {min_record} earlier rows, {records:,} have a "
        f"record of {min_record} or more; "
        f"chance alone would make {old_enough / (min_record + 1):.1f}."
    )


def median_sentence(page, after):
    """How the median ticker did, and how many anomalies did better: a sentence, or None."""
    changes = {horizon: after.changes(horizon) for horizon in after.last_closes}
    medians = {horizon: median(changes[horizon]) for horizon in changes}
    known = [horizon for horizon in medians if medians[horizon] is not None]
    if not known:
        return None
    days = {horizon: "1 day" if horizon == 1 else str(horizon) for horizon in HORIZONS}
    parts = [f"{number_text(medians[horizon], '.2f')} % after {days[horizon]}" for horizon in known]
    parts += [
        f"not known yet after {days[horizon]}" for horizon in HORIZONS if horizon not in medians
    ]
    sentence = f"The median ticker's price changed by {', '.join(parts)}"
    np, longest = import_numpy(), known[-1]
    of_anomalies = changes[longest][z_score_column(page) > z_limit(Z_THRESHOLD)]
    of_anomalies = of_anomalies[np.isfinite(of_anomalies)]
    if len(of_anomalies):
        points = points_for_doing_better(of_anomalies, medians[longest]).sum()
        better = f"{points:,.1f}".replace(".0", "")
        count = f"{len(of_anomalies):,}"
        sentence += f"; {better} of {count} anomalies did better after {days[longest]}"
    return f"{sentence}."


def number_text(number, form):
    """number as text in this format; `-` for None, and 0.0 instead of -0.0."""
    if number is None:
        return "-"
    text = format(number, form)
    return text if text.strip("-0.") else text.lstrip("-")


RULE_LENGTH = 91  # the tutorial's line of dashes, which is longer than its headings
AFTERMATH_NOTES = """\
Days: how many trading days later.
Price: on the day of the anomaly, up by more than 1 %, flat, or down by more than 1 %.
Cases: the anomalies that have so many days after them, without those left out.
Better %: the percentage of cases that did better than the median ticker since that day.
± 2 SE: two standard errors of Better %. * means: Better % is over three standard errors from 50 %.
Median Excess: how much better the median case did than the median ticker, in percentage points.
Left Out: tickers that were gone, closes of 0, and suspected splits.
The percentages say how often, not how much. Changes begin at the close of the anomaly's day: no
entry price, no costs. Prices are not adjusted, and only tickers in the files are counted.
For 20 days ± 2 SE may be a fifth too small.
The median ticker is no index, and not the market.
This is no advice.
"""


def record_text(anomaly):
    record = anomaly["record"]
    is_most_ever = record is not None and record == anomaly["earlier_rows"]
    return "-" if record is None else f"all {record}" if is_most_ever else str(record)


def change_text(anomaly, horizon):
    """The change in percent, with `*` after a suspected split; `-` if not known; or `gone`."""
    change, split = anomaly[f"after_{horizon}"], anomaly["split_after"]
    if change is None:
        return "-"
    if isnan(change):
        return "gone"
    return number_text(change, ".2f") + ("*" if split and split <= horizon else "")


# The columns behind the ticker or date: heading, width, and the text of an anomaly's cell.
COLUMNS = [
    ("Trades", 10, lambda anomaly: f"{anomaly['trades']:.0f}"),
    ("Avg Trades", 15, lambda anomaly: f"{anomaly['avg_trades']:.2f}"),
    ("Std Dev", 10, lambda anomaly: f"{anomaly['std_trades']:.2f}"),
    ("Z-score", 10, lambda anomaly: f"{anomaly['z_score']:.2f}"),
    ("Close Price", 12, lambda anomaly: f"{anomaly['close_price']:.2f}"),
    ("Price Diff", 12, lambda anomaly: f"{anomaly['price_diff']:.2f}"),
]
WIDE_COLUMNS = [
    *COLUMNS,
    ("Record", 10, record_text),
    ("Long Z", 10, lambda anomaly: number_text(anomaly["long_z"], ".2f")),
    ("Dollar Volume", 17, lambda anomaly: number_text(anomaly["dollar_volume"], ",d")),
    *((f"After {h}", 11, functools.partial(change_text, horizon=h)) for h in HORIZONS),
    (" Marks", 0, lambda anomaly: f" {' '.join(anomaly['marks'])}"),
]


def line_of(name, texts, columns):
    """name in a column of 10, then texts in columns, which are of COLUMNS or WIDE_COLUMNS.

    A text that is too wide for its column keeps a space before it.
    """
    line = f"{name:<10}"
    for text, (_, width, _) in zip(texts, columns):
        is_apart = len(text) < width or line.endswith(" ")
        line += text.rjust(width) if is_apart else f" {text}"
    return line.rstrip() + "\n"


def as_table(listings, first, columns):
    """Yields the anomalies as the tutorial prints them. first is the field of the first column."""
    heading = line_of(first.title(), [name for name, _, _ in columns], columns)
    rule_length = RULE_LENGTH if columns is COLUMNS else len(heading) - 1
    for listing in listings:
        yield f"\nAnomalies Found for {printable(listing.title)}:\n\n"
        yield f"{heading}{'-' * rule_length}\n"
        for anomaly in listing.anomalies:
            texts = [text_of(anomaly) for _, _, text_of in columns]
            yield line_of(printable(anomaly[first]), texts, columns)
        if listing.notes:
            yield "\n" + "".join(f"{note}\n" for note in listing.notes)


def rows_for_csv_and_json(listings):
    """Yields the ANOMALY_FIELDS of each anomaly: changes without nan, and marks as text."""
    for anomaly in chain.from_iterable(listing.anomalies for listing in listings):
        row = {field: anomaly.get(field) for field in ANOMALY_FIELDS}
        for field in AFTER_FIELDS:
            if row[field] is not None and isnan(row[field]):
                row[field] = None
        yield {**row, "marks": " ".join(anomaly["marks"])}


def as_csv(listings):
    """Yields the lines of a CSV file: ANOMALY_FIELDS, and the anomalies in full precision."""
    return csv_lines(ANOMALY_FIELDS, rows_for_csv_and_json(listings))


def csv_lines(fields, rows):
    """Yields the lines of a CSV file with the columns fields; rows are dicts."""
    import csv

    class Line:  # in place of a file: csv's writer returns what write returns
        @staticmethod
        def write(line):
            return line[:-2] + "\n"

    # Some versions of Python quote a text with "\r" only if lineterminator has one.
    writer = csv.DictWriter(Line, fields, lineterminator="\r\n")
    yield writer.writeheader()
    yield from map(writer.writerow, rows)


def without_nan(row):
    """row, a dict, with None for nan and inf, which JSON does not have."""
    return {
        name: None if isinstance(value, float) and not isfinite(value) else value
        for name, value in row.items()
    }


def json_pieces(rows):
    """Yields the pieces of a JSON list of rows, which are dicts; nan and inf become null."""
    import json

    separator = "["
    for row in rows:
        yield f"{separator}\n  " + json.dumps(without_nan(row), indent=2).replace("\n", "\n  ")
        separator = ","
    yield "[]\n" if separator == "[" else "\n]\n"


def aftermath_table(rows, dates, splits):
    """Yields the aftermath as a table and notes; rows are what find_aftermath returns."""
    yield f"\nWhat followed the anomalies from {dates[0]} to {dates[-1]}:\n\n"
    heading = (
        f"{'Days':<6}{'Z-score':<10}{'Price':<8}{'Cases':>9}{'Better %':>10}{'± 2 SE':>9}"
        f"{'Median Excess':>15}{'Left Out':>10}"
    )
    yield f"{heading}\n{'-' * len(heading)}\n"
    for row in sorted(rows, key=lambda row: row["horizon"]):
        edges = [edge for edge in Z_CLASSES if edge > row["z_from"]]
        z_class = f"{row['z_from']}-{edges[0]}" if edges else f"above {row['z_from']}"
        better, two_se, excess = (row[name] for name in ("better", "two_se", "median_excess"))
        has_star = two_se is not None and abs(better - 50) > 3 * two_se / 2
        yield (
            f"{row['horizon']:<6}{z_class:<10}{row['move']:<8}{row['cases']:>9,}"
            f"{number_text(better, '.1f'):>10}{number_text(two_se, '.1f'):>9}"
            f"{number_text(excess, '.2f'):>15}{row['left_out']:>10,}{'  *' if has_star else ''}\n"
        )
    yield "\n" + AFTERMATH_NOTES
    if splits:
        yield "Only the splits in the table's list of splits are taken out of the changes.\n"
    if all(row["two_se"] is None for row in rows):
        yield (
            f"± 2 SE is unknown: it needs cases in {FEWEST_BLOCKS} blocks of {BLOCK_DAYS} days, "
            f"and the number of days is {len(dates)}.\n"
        )


@functools.cache
def is_date(text):
    """Whether text is a date of the calendar, written YYYY-MM-DD."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
        return False
    year, month, day = map(int, text.split("-"))
    is_leap_year = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    days = [31, 28 + is_leap_year, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    return year > 0 and 1 <= month <= 12 and 1 <= day <= days[month - 1]


def date_argument(text):
    if not is_date(text):
        raise argparse.ArgumentTypeError(f"{text[:60]!a} is not a date, write YYYY-MM-DD")
    return text


def number_argument(text):
    try:
        number = float(text) if text.isascii() and "_" not in text else nan
    except ValueError:
        number = nan
    if not isfinite(number):
        raise argparse.ArgumentTypeError(f"{text.strip()[:20]!a} is not a number")
    return number


def whole_number(least, most):
    """An argument's type: whole numbers from least to most."""

    def argument(text):
        if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not least <= int(text) <= most:
            message = f"{text.strip()[:20]!a} is not a whole number from {least} to {most}"
            raise argparse.ArgumentTypeError(message)
        return int(text)

    return argument


def marks_argument(text):
    """The set of MARKS that text names, separated by commas; `split` stands for `split?` too."""
    marks = {mark.rstrip("?"): mark for mark in MARKS}
    names = [name.strip().rstrip("?") for name in text.split(",")]
    for name in names:
        if name not in marks:
            raise argparse.ArgumentTypeError(f"{name[:20]!a} is none of {', '.join(marks)}")
    return {marks[name] for name in names}


def make_parser():
    parser = argparse.ArgumentParser(
        description="List anomalies: the tickers that were traded far more often than normal.",
        # Without a width, argparse imports shutil to find it, which takes 2 ms.
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=80),
    )
    add, count = parser.add_argument, whole_number(0, 999_999_999)
    dates = "a day as YYYY-MM-DD, or the first and the last day"
    add("dates", nargs="*", type=date_argument, metavar="DATE", help=dates)
    aftermath = "print what followed all anomalies, or those up to DATE"
    add("--aftermath", action="store_true", help=aftermath)
    types = "list only tickers of a TYPE you name, such as CS (common stock) or ADRC"
    skip = "leave out tickers that have a MARK you name: split, new, thin, stale or test"
    for name, metavar, kind, default, text in [
        ("--ticker", "T", str, None, "one ticker's anomalies, on all days or on those of DATE"),
        ("--threshold", "Z", number_argument, 3, "list tickers with a z-score above Z (default 3)"),
        ("--min-trades", "N", count, 0, "leave out tickers with fewer than N trades"),
        ("--min-price", "P", number_argument, 0, "leave out tickers that closed below P dollars"),
        ("--min-record", "N", count, None, "leave out tickers with a record of fewer than N rows"),
        ("--min-long-z", "Z", number_argument, None, "leave out tickers with a long z below Z"),
        ("--min-dollars", "N", number_argument, None, "leave out dollar volumes below N"),
        ("--type", "TYPE[,TYPE]", lambda names: names.split(","), None, types),
        ("--skip", "MARK[,MARK]", marks_argument, frozenset(), skip),
        ("--limit", "N", count, None, "print at most N anomalies of a day or ticker"),
    ]:
        add(name, metavar=metavar, type=kind, default=default, help=text)
    sort = "sort by FIELD, largest first, but ticker from A on (default: a day by trades, a ticker "
    sort += f"by date); FIELD is one of {', '.join(SORT_FIELDS)}"
    add("--sort", choices=SORT_FIELDS, metavar="FIELD", help=sort)
    formats = "table (default); wide, with more columns; csv or json, with all columns and digits"
    add("--format", choices=("table", "wide", "csv", "json"), default="table", help=formats)
    file = "the table to read (default lookup_table.pkl)"
    add("--table", default="lookup_table.pkl", metavar="FILE", help=file)
    return parser


def parse_arguments(argv):
    parser, words = make_parser(), sys.argv[1:] if argv is None else argv
    # argparse would read a negative number such as -1e9 as an option, but not one after a space.
    words = [f" {word}" if re.match(r"-[\d.]", word) else word for word in words]
    options = parser.parse_args(words)
    for name, value in vars(options).items():
        for_aftermath = name in ("dates", "aftermath", "format", "table")
        if options.aftermath and not for_aftermath and value != parser.get_default(name):
            parser.error(f"--aftermath takes no --{name.replace('_', '-')}")
    if options.aftermath and (len(options.dates) > 1 or options.format == "wide"):
        parser.error("--aftermath takes at most one DATE, and no --format wide")
    if len(options.dates) > 2 or not (options.dates or options.ticker or options.aftermath):
        parser.error("give a DATE (YYYY-MM-DD) or two, --ticker T, or --aftermath")
    if len(options.dates) == 2 and options.dates[0] > options.dates[1]:
        parser.error(f"{options.dates[0]} is after {options.dates[1]}")
    options.needs_marks = options.format != "table" or bool(options.skip)
    options.needs_type = options.format in ("csv", "json") or bool(options.type)
    options.needs_after = options.format != "table" or options.sort in AFTER_FIELDS
    return options


def select_sessions(table, dates):
    """The range of sessions for dates: [date], [first, last], or [] for all. Raises NoDataError."""
    if len(dates) == 1 and table.session_of(dates[0]) is not None:
        session = table.session_of(dates[0])
        return range(session, session + 1)
    every_date = table.dates
    if not every_date:
        raise NoDataError(f"{table.name} has no days: run build-lookup-table.py")
    covers = f"the table covers {every_date[0]} to {every_date[-1]}"
    if len(dates) == 1:
        nearest = nearest_date(every_date, dates[0])
        raise NoDataError(f"no data for {dates[0]}: {covers}; nearest trading day {nearest}")
    first, last = dates or (every_date[0], every_date[-1])
    sessions = range(bisect.bisect_left(every_date, first), bisect.bisect_right(every_date, last))
    if not sessions:
        raise NoDataError(f"no data from {first} to {last}: {covers}")
    return sessions


def nearest_date(dates, date):
    """The date in dates that is nearest to date. Of two equally near ones, it is the earlier."""
    from datetime import date as day

    wanted = day.fromisoformat(date)
    return min(dates, key=lambda each: abs(day.fromisoformat(each) - wanted))


def answer(table, options):
    """The text that answers options, as an iterable of pieces. Raises TableError, NoDataError."""
    facts = options.min_record, options.min_long_z, options.min_dollars, options.type
    if not table.has_facts and (options.aftermath or any(each is not None for each in facts)):
        raise NoDataError(
            f"{table.name} is a plain pickle: --aftermath, --min-record, --min-long-z, "
            "--min-dollars and --type need a table that build-lookup-table.py wrote"
        )
    if options.aftermath:
        dates = [date for date in table.dates if not options.dates or date <= options.dates[0]]
        if not dates:  # DATE is before the table's first day: this raises the NoDataError
            select_sessions(table, options.dates)
        fields, rows = AFTERMATH_FIELDS, find_aftermath(table, len(dates) - 1)
        if options.format == "table":
            return aftermath_table(rows, dates, table.splits)
    else:
        sessions, first = select_sessions(table, options.dates), "ticker"
        listings = list_days(table, sessions, options)
        if options.ticker is not None:
            first, listings = "date", [list_ticker(table, options.ticker, sessions, options)]
        if options.format in ("table", "wide"):
            return as_table(listings, first, COLUMNS if options.format == "table" else WIDE_COLUMNS)
        fields, rows = ANOMALY_FIELDS, rows_for_csv_and_json(listings)
    return csv_lines(fields, rows) if options.format == "csv" else json_pieces(rows)


def print_answer(options):
    """Print the answer to options. Raises TableError, NoDataError, and OSError if stdout fails."""
    with open_table(options.table) as table:
        sys.stdout.writelines(answer(table, options))


def main(argv=None):
    options = parse_arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if hasattr(sys.stdout, "reconfigure"):  # a ticker may have characters that stdout lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if sys.stdout is None:
            raise OSError(0, "stdout is closed")
        print_answer(options)
        sys.stdout.flush()
    except (TableError, NoDataError) as error:
        print(printable(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:  # only stdout is left: a file's error has become a TableError
        return stdout_failed(error)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
