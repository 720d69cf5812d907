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

# Other modules are imported where they are needed: numpy alone takes longer than a plain query.
import argparse
import functools
import os
import re
import struct
import sys
import zlib
from collections import defaultdict
from itertools import chain, count, islice
from math import ceil, floor, inf, isfinite, isnan, nan

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
# are numpy's there, and struct's here.
FIELDS = ["trades", "close_price", "price_diff", "avg_trades", "std_trades"]
DAY_PAGE_COLUMNS = {**dict.fromkeys(FIELDS, "d"), "trades": "i", "gap": "d"}
DAY_PAGE_COLUMNS |= dict.fromkeys(["record", "earlier_rows", "baseline_days"], "H")
DAY_PAGE_COLUMNS |= dict.fromkeys(["long_z", "dollar_volume"], "f")
SIGNATURE = b"\x80\x03X\x0c\x00\x00\x00lookup table0"
EXTENT = struct.Struct("<QQI")  # offset in the file, length, CRC-32
# window, number of tickers, extents of the directory and of the splits
INDEX_HEADER = struct.Struct("<II20s20s")
# Of each day: date, extent of its day page, and how many rows it has; how many with a std_trades
# above 0, and anomalies among them; how many with a long_z, and those above 3 among them.
INDEX_DAY = struct.Struct("<10s20s5I")
INDEX_DAY_FIELDS = ["date", "extent", "rows", "with_deviation", "anomalies"]
INDEX_DAY_FIELDS += ["with_long_z", "high_long_z"]
TICKER_EXTENTS = struct.Struct("<20s20s")  # extents of a ticker's rows and of its facts
FOOTER = struct.Struct("<20s12s")  # extent of the index, MAGIC
MAGIC, OLDER_MAGICS = b"lookup-tab-3", (b"lookup-table", b"lookup-tab-2")
LONGEST_EXTENT = 2**26  # bytes; the largest, a directory of 34,000 tickers, has some 4 million
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
# The exchanges' test securities; source: TRF-Chicago-Test-Securities.xlsx on nasdaqtrader.com.
TEST_SYMBOLS = "[ACMNPZ]TEST([.prw].*)?|Z[ABCJVWX]ZZT|ZVZZC|CBO|CBX|IBO|IGZ|ZBZX|ZEXIT|ZIEXT|ZTST"
TEST_SYMBOLS += "|ZVV|ZXIET|ZZK"
MARKS = ["split?", "new", "thin", "stale", "test"]


class TableError(Exception):
    """What is wrong with a table's file, in one sentence."""


class NoDataError(Exception):
    """Which data the user wants and the table does not have, in one sentence for the user."""


def printable(text):
    """text, with escapes in place of characters that a terminal could take for a command."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def tickers_like(ticker, tickers):
    """The ones of tickers that are ticker written another way: BRK.B for brk.b, BRK-B or BRK/B."""

    def plain(text):
        return re.sub(r"[-./ ]", "", text).casefold()

    return [other for other in tickers if plain(other) == plain(ticker)]


def check_ticker(ticker, tickers, name):
    """Raise a NoDataError if ticker is none of tickers, those of the table called name."""
    if ticker not in tickers:
        similar = ", ".join(tickers_like(ticker, tickers)[:5])
        raise NoDataError(f"{name} has no ticker {ticker}{similar and f'; it has {similar}'}")


def blaming_the_file(read):
    """read, a method of a table, with a TableError in place of what a damaged file makes it raise.

    A broken pickle can raise any kind of exception.
    """

    def read_or_blame(table, *arguments):
        try:
            return read(table, *arguments)
        except NoDataError:
            raise
        except Exception as error:
            problem = f"{table.name} is damaged, or no lookup table ({str(error)[:100]})"
            raise TableError(f"{problem}: run build-lookup-table.py to make a good one") from None

    return read_or_blame


class LookupTable:
    """A table of the builder in an open binary file. Reads only the parts that it needs.

    name is its file's. dates are the table's dates in order. A session is a trading day, given by
    its index in dates. window is the number of rows in a baseline. What reads a damaged part raises
    TableError.
    """

    @blaming_the_file
    def __init__(self, file):
        self.file, self.name = file, file.name
        file.seek(-FOOTER.size, os.SEEK_END)
        index_extent, magic = FOOTER.unpack(file.read())
        self.size = file.tell()
        if magic != MAGIC:
            raise ValueError("it is cut short")
        self.index = self.read_extent(index_extent)
        header = INDEX_HEADER.unpack_from(self.index)
        self.window, self.number_of_tickers, self.directory_extent, self.splits_extent = header
        starts = range(INDEX_HEADER.size, len(self.index), INDEX_DAY.size)
        self.dates = [self.index[start : start + 10].decode() for start in starts]

    def read_extent(self, packed):
        """The bytes that a packed EXTENT describes. Raises ValueError if the checksum is wrong."""
        offset, length, crc = EXTENT.unpack(packed)
        # To read so much would first take so much memory, even if it is not there.
        if offset + length > self.size or length > LONGEST_EXTENT:
            raise ValueError("it is cut short")
        self.file.seek(offset)
        content = self.file.read(length)
        if zlib.crc32(content) != crc:
            raise ValueError("a checksum is wrong")
        return content

    def index_day(self, session):
        """What the index says of a session: a dict of INDEX_DAY_FIELDS."""
        start = INDEX_HEADER.size + session * INDEX_DAY.size
        return dict(zip(INDEX_DAY_FIELDS, INDEX_DAY.unpack_from(self.index, start)))

    @blaming_the_file
    def read_day_page(self, session):
        """The day page of a session: {"ticker": [...], "date": [...], "trades": ..., ...}.

        Its columns, all of one length, are the tickers, in the table's order, the session's date,
        and DAY_PAGE_COLUMNS (write_day_pages in the builder explains them).
        """
        day, page, start = self.index_day(session), {}, 0
        content = memoryview(self.read_extent(day["extent"]))
        for name, code in DAY_PAGE_COLUMNS.items():
            end = start + day["rows"] * struct.calcsize(code)
            page[name] = content[start:end].cast(code)
            start = end
        page["ticker"] = str(content[start:], "utf-8").split("\n")
        if {*map(len, page.values())} != {day["rows"]}:
            raise ValueError("a day page has columns of different lengths")
        return {**page, "date": [self.dates[session]] * day["rows"]}

    @functools.cached_property
    @blaming_the_file
    def directory(self):
        """{ticker: (type, name, extents of its rows and of its facts)}; see TICKER_EXTENTS.

        A type or name is None if the table does not know it.
        """
        content, number = self.read_extent(self.directory_extent), self.number_of_tickers
        end = number * TICKER_EXTENTS.size
        texts = content[end:].decode().split("\n")
        tickers, types, names = (texts[i * number :][:number] for i in range(3))
        extents = TICKER_EXTENTS.iter_unpack(content[:end])
        return {
            ticker: (type_ or None, name or None, *own_extents)
            for ticker, type_, name, own_extents in zip(tickers, types, names, extents)
        }

    @functools.cached_property
    @blaming_the_file
    def splits(self):
        """The listed splits, each ticker's by date: {(ticker, date): (split_from, split_to)}.

        Who had split_from shares before that day, has split_to from then on.
        """
        lines = filter(None, self.read_extent(self.splits_extent).decode().split("\n"))
        splits = (line.split("\t") for line in lines)
        return {(ticker, date): (float(old), float(new)) for ticker, date, old, new in splits}

    @blaming_the_file
    def read_history(self, ticker):
        """A ticker's history: its rows by date, with the columns of a day page.

        The date and FIELDS are in the ticker's pickled rows. gap, long_z and dollar_volume have an
        extent of their own. The other facts follow from these. Raises NoDataError.
        """
        check_ticker(ticker, self.directory, self.name)
        rows, facts = map(self.read_extent, self.directory[ticker][2:])
        number = len(facts) // 16  # each row has 16 bytes: 8 of a gap, 4 of each other fact
        gaps, others = facts[: 8 * number], memoryview(facts[8 * number :]).cast("f")
        end = min(number, self.window) * SHORT_ROW.size  # the first rows have no baseline
        short_rows = ((*row, nan, nan) for row in SHORT_ROW.iter_unpack(rows[:end]))
        slots, trades, *floats = zip(*short_rows, *FULL_ROW.iter_unpack(rows[end:]))
        # The memo's first slots are for FIELDS, the next ones for the dates.
        sessions = [slot - len(FIELDS) for slot in memoryview(b"".join(slots)).cast("I")]
        trades = memoryview(b"".join(trades)).cast("i")
        baseline_days = [later - first for first, later in zip(sessions, sessions[self.window :])]
        return {
            "ticker": [ticker] * number,
            "date": [self.dates[session] for session in sessions],
            "trades": trades,
            **dict(zip(FIELDS[1:], floats)),
            "gap": memoryview(gaps).cast("d"),
            # How many rows directly before had fewer trades. A row with as many ends the count.
            "record": [
                next((j for j in range(i) if trades[i - 1 - j] >= trades[i]), i)
                for i in range(number)
            ],
            "earlier_rows": range(number),
            "baseline_days": [0] * (number - len(baseline_days)) + baseline_days,
            "long_z": others[:number],
            "dollar_volume": others[number:],
        }


class PlainDtype:
    """Stands for a numpy dtype in a pickle: numpy's own would take any state that a file gives it.

    format is the struct format of its numbers.
    """

    def __init__(self, code, *_):
        self.format = {"f8": "<d", "f4": "<f", "i8": "<q", "i4": "<i"}[code]  # no objects

    def __setstate__(self, state):
        """state says that the bytes are little-endian."""


# All names that a pickled table may need, each with something harmless to use instead.
PICKLE_NAMES = {
    "builtins.dict": dict,
    "__builtin__.dict": dict,
    "collections.defaultdict": defaultdict,
    "_codecs.encode": lambda text, _: text.encode("latin-1"),  # the bytes of a scalar
    "numpy.dtype": PlainDtype,
    "numpy.core.multiarray.scalar": lambda dtype, raw: struct.unpack(dtype.format, raw)[0],
}


class PlainTable:
    """A pickled {ticker: {date: stats}}, read whole. It is used like a LookupTable.

    It has no facts: those of each row are None.
    """

    window = 5  # the tutorial's

    @blaming_the_file
    def __init__(self, file):
        self.name, self.splits, self.directory = file.name, {}, {}
        self.table = self.unpickle(file)
        # Check the keys before one is looked up: the hash of other objects may take for ever.
        keys = chain(self.table, *self.table.values())
        if not all(isinstance(key, (str, float)) for key in keys):
            raise ValueError("a key is no text")
        # The tutorial's script takes the ticker NA for a missing value: its key is nan.
        self.table = {
            "NA" if isinstance(ticker, float) else ticker: days
            for ticker, days in self.table.items()
        }
        self.dates = list(map(date_argument, sorted(set(chain(*self.table.values())))))
        if not self.dates:
            raise ValueError("it has no dates")

    def unpickle(self, file):
        """The object in a pickle, read from a binary file. Runs none of its code.

        A pickle can keep Python busy for ever: Ctrl-C ends the process at once while it is read.
        """
        import pickle
        import signal

        class TableUnpickler(pickle.Unpickler):
            def find_class(self, module, name):
                return PICKLE_NAMES[f"{module}.{name}".replace("numpy._core", "numpy.core")]

        handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            return TableUnpickler(file).load()
        finally:
            signal.signal(signal.SIGINT, handler)

    @blaming_the_file
    def columns_of(self, rows):
        """The columns of a day page; rows are a list of (ticker, date)."""
        from array import array

        page = {"ticker": [ticker for ticker, _ in rows], "date": [date for _, date in rows]}
        for field in FIELDS:
            column = (self.table[ticker][date][field] for ticker, date in rows)
            page[field] = array("d", (nan if value is None else value for value in column))
        page["trades"] = list(map(int, page["trades"]))  # the tutorial's are floats
        return {**page, **dict.fromkeys(FACT_FIELDS, [None] * len(rows))}

    def read_day_page(self, session):
        date = self.dates[session]
        tickers = [ticker for ticker, days in self.table.items() if date in days]
        return self.columns_of([(ticker, date) for ticker in tickers])

    def read_history(self, ticker):
        check_ticker(ticker, self.table, self.name)
        return self.columns_of([(ticker, date) for date in sorted(self.table[ticker])])


def open_file(path):
    """The file at path, open to read bytes. Raises TableError if that cannot be done."""
    # To open a named pipe could wait.
    if not (os.path.isfile(path) and os.access(path, os.R_OK)):
        problem = "is no regular file that can be read" if os.path.exists(path) else "not found"
        raise TableError(f"{path} {problem}: run build-lookup-table.py first")
    return open(path, "rb")


def table_in(file, kinds=(LookupTable, PlainTable)):
    """The LookupTable or PlainTable in an open file. Raises TableError if it has none of kinds.

    A table of the builder that has lost its end still has its SIGNATURE, so it is not read as a
    plain pickle.
    """
    beginning = file.read(len(SIGNATURE))
    file.seek(max(0, file.seek(0, os.SEEK_END) - len(MAGIC)))
    magic = file.read()
    file.seek(0)
    if magic in OLDER_MAGICS:
        raise TableError(f"{file.name} is of an older version: run build-lookup-table.py again")
    kind = LookupTable if magic == MAGIC or beginning == SIGNATURE else PlainTable
    if kind not in kinds:
        message = "was not written by build-lookup-table.py: run it to make a table"
        raise TableError(f"{file.name} {message}")
    return kind(file)


def select_sessions(table, dates):
    """The range of sessions for dates: [date], [first, last], or [] for all. Raises NoDataError."""
    dates = dates or table.dates
    sessions = [i for i, date in enumerate(table.dates) if dates[0] <= date <= dates[-1]]
    if sessions:
        return range(sessions[0], sessions[-1] + 1)
    covers = f"the table covers {table.dates[0]} to {table.dates[-1]}"
    if len(dates) == 2:
        raise NoDataError(f"no data from {dates[0]} to {dates[1]}: {covers}")
    nearest = nearest_date(table.dates, dates[0])
    raise NoDataError(f"no data for {dates[0]}: {covers}; nearest trading day {nearest}")


def nearest_date(dates, date):
    """The date in dates that is nearest to date. Of two equally near ones, it is the earlier."""
    from datetime import date as day

    wanted = day.fromisoformat(date)
    return min(dates, key=lambda each: abs(day.fromisoformat(each) - wanted))


def z_limit(threshold):
    """threshold plus a tolerance. An anomaly's z-score is above this.

    A computed z-score is rounded: it may be above the threshold although the exact one is equal.
    """
    return threshold + TOLERANCE * abs(threshold)


READ_FIELDS = [field for field in ROW_FIELDS if field != "z_score"]
# The facts that may be missing, and how they are rounded; a gap is not.
ROUNDED = {"gap": float, "long_z": lambda number: round(number, 4), "dollar_volume": round}


def row_of(page, i, with_facts=True):
    """The row with index i of a day page or a history: a dict of ROW_FIELDS and FACT_FIELDS.

    z_score is nan without a deviation above 0. A fact that is not known is None.
    """
    row = {field: page[field][i] for field in READ_FIELDS}
    above, std_trades = row["trades"] - row["avg_trades"], row["std_trades"]
    row["z_score"] = above / std_trades if std_trades > 0 else nan
    if not with_facts:  # which take half of the time
        return row
    row |= {field: page[field][i] for field in FACT_FIELDS}
    row["baseline_days"] = row["baseline_days"] or None
    for field, rounded in ROUNDED.items():
        number = row[field]
        row[field] = None if number is None or not isfinite(number) else rounded(number)
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


def is_split(gap):
    """Whether an open that differs by gap percent from the previous close looks like a split.

    It does if open / previous close is below 0.7 or above 1.5, and within 5 % of a split's ratio:
    3/2, 2/3, n or 1/n, for a whole number n from 2 on.
    """
    ratio = nan if gap is None else 1 + gap / 100
    if not (0 < ratio < 0.7 * (1 - TOLERANCE) or 1.5 * (1 + TOLERANCE) < ratio < inf):
        return False
    larger, power = max(ratio, 1 / ratio), 1 if ratio > 1 else -1
    nearest = (1.5, max(2, floor(larger)), ceil(larger))
    return any(abs(ratio / n**power - 1) <= 0.05 + TOLERANCE for n in nearest)


def marks_of(row, session, window, splits):
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
    listed = splits.get((row["ticker"], row["date"]))
    split = "split {1:.10g}:{0:.10g}".format(*listed) if listed else "split?"
    is_marked = {
        split: listed or is_split(row["gap"]),
        "new": earlier_rows is not None and earlier_rows < NEW_ROWS <= session,
        "thin": row["avg_trades"] < THIN_TRADES,
        "stale": baseline_days is not None and baseline_days > 2 * window,
        "test": re.fullmatch(TEST_SYMBOLS, row["ticker"]),
    }
    return [mark for mark, is_given in is_marked.items() if is_given]


def with_numbers(page, numbers, listed_splits):
    """A day page with three more columns, arrays of numpy; numbers gives each ticker a number.

    number has the numbers of the page's tickers, close their closes. suspected has the numbers of
    those with a suspected split that is not among listed_splits, and so it is shorter.
    """
    import numpy as np

    own_numbers = np.array([numbers[ticker] for ticker in page["ticker"]], int)
    gaps = np.asarray(page["gap"], float)  # a PlainTable's None becomes nan
    suspected = [
        i
        for i in np.flatnonzero((gaps < -30) | (gaps > 50)).tolist()  # the others are no splits
        if is_split(gaps[i]) and (page["ticker"][i], page["date"][i]) not in listed_splits
    ]
    closes = np.array(page["close_price"], float)  # a copy: not a view that keeps the page alive
    return {**page, "number": own_numbers, "close": closes, "suspected": own_numbers[suspected]}


class LaterChanges:
    """What came after a day page's rows, as far as the table knows it: columns of numpy.

    changes[horizon] is the change, in percent, from a row's close to the last close of its ticker
    within the next 1, 5 or 20 days of the table. It is nan if the ticker is gone, which means that
    it has no row on these days, else inf if the row's close is 0. A horizon that the table does not
    reach yet is no key. Listed splits in between are taken out: a close is multiplied by
    split_to / split_from. split_days says on which of the next days, counted from 1, the ticker
    first has a suspected split that is not listed; 0 means on none.
    """

    def __init__(self, pages, split_ratios, number_of_tickers):
        """pages are {session: page} of the day and of at most 20 next ones, all from with_numbers.

        split_ratios[session] are the listed splits: (number of the ticker, split_to / split_from).
        """
        import numpy as np

        (session, own_page), *following = pages.items()
        own, closes = own_page["number"], own_page["close"]
        # These three have an element for each ticker, at its number.
        last_closes = np.full(number_of_tickers, nan)
        ratio_since, split_days = np.ones(number_of_tickers), np.zeros(number_of_tickers)
        self.changes = {}
        for later, page in following:
            day, numbers, suspected = later - session, page["number"], page["suspected"]
            for number, ratio in split_ratios[later]:
                ratio_since[number] *= ratio
            last_closes[numbers] = ratio_since[numbers] * page["close"]
            split_days[suspected[split_days[suspected] == 0]] = day
            if day in HORIZONS:
                with np.errstate(all="ignore"):
                    change = (last_closes[own] / closes - 1) * 100
                has_no_change = (closes == 0) & ~np.isnan(last_closes[own])
                self.changes[day] = np.where(has_no_change, inf, change)
        self.split_days = split_days[own]

    def of_row(self, i):
        """{"after_1": ..., "after_5": ..., "after_20": ..., "split_after": ...} of row i.

        A change is None if it is not known yet, else nan if the ticker is gone, else None if the
        row's close is 0. split_after is the shortest known horizon with a suspected split, or None.
        """
        row, split_day = dict.fromkeys(AFTER_FIELDS), self.split_days[i]
        for horizon, changes in self.changes.items():
            row[f"after_{horizon}"] = None if changes[i] == inf else float(changes[i])
        with_split = (horizon for horizon in self.changes if 0 < split_day <= horizon)
        return {**row, "split_after": next(with_split, None)}


def read_days(table, sessions, needs_after, read_page=None):
    """Yields (session, day page, LaterChanges) of each of sessions, given in order.

    Without needs_after, LaterChanges is None, and numpy is not needed. read_page, the table's
    read_day_page unless given, returns the day page of a session, or a part of it; each is read
    once.
    """
    read_page = read_page or table.read_day_page
    if not needs_after:
        for session in sessions:
            yield session, read_page(session), None
        return
    from bisect import bisect_left

    numbers = defaultdict(count().__next__)  # a new ticker gets the next number
    split_ratios, pages = defaultdict(list), {}
    for (ticker, date), (split_from, split_to) in table.splits.items():
        # A split on a day that the table does not have counts from the next one on.
        session = bisect_left(table.dates, date)
        split_ratios[session].append((numbers[ticker], split_to / split_from))

    def read_later(session):
        """The session's day page with numbers; without most columns if it is no own page."""
        page = with_numbers(read_page(session), numbers, table.splits)
        wanted = page if session in sessions else ("number", "close", "suspected")
        return {name: page[name] for name in wanted}

    for session in sessions:
        pages = {
            later: pages.get(later) or read_later(later)
            for later in range(session, min(session + HORIZONS[-1] + 1, len(table.dates)))
        }
        yield session, pages[session], LaterChanges(pages, split_ratios, len(numbers))


def median(numbers):
    """The median of the finite numbers in an array; nan if there are none."""
    import numpy as np

    numbers = numbers[np.isfinite(numbers)]
    return float(np.median(numbers)) if len(numbers) else nan


def compare_share(table, session, found, among, earlier=None, fewest_days=FEWEST_USUAL_DAYS):
    """A session's share of found among other rows, compared with earlier sessions: a dict, or None.

    found and among are two of INDEX_DAY_FIELDS. share is in percent. It is compared with the
    sessions in earlier (all, if not given), latest first, that have such rows: at most 250 of them.
    days is their number, usual is the median of their shares, and lower_days is the number of them
    with a lower share. None if they are fewer than fewest_days, or the session has no such rows.
    """
    own = table.index_day(session)
    earlier = range(session - 1, -1, -1) if earlier is None else earlier
    shares = (100 * day[found] / day[among] for day in map(table.index_day, earlier) if day[among])
    shares = sorted(islice(shares, MOST_USUAL_DAYS))
    days = len(shares)
    if days < fewest_days or not own[among]:
        return None
    share = 100 * own[found] / own[among]
    return {
        found: own[found],
        among: own[among],
        "share": share,
        # median() would import numpy, which the page's first answer need not wait for.
        "usual": (shares[(days - 1) // 2] + shares[days // 2]) / 2,
        "lower_days": sum(share > earlier_share for earlier_share in shares),
        "days": days,
    }


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

    A dict of kind, which is expiration_kind's, and of what compare_share returns, compared with the
    earlier days of this kind. With fewer than 4 of these, the kind is the dict's only key.
    """
    kind = expiration_kind(table.dates, session)
    if kind is None:
        return None
    earlier = [i for i in reversed(range(session)) if expiration_kind(table.dates, i) == kind]
    counts = "anomalies", "with_deviation"
    share = compare_share(table, session, *counts, earlier, FEWEST_USUAL_EXPIRATIONS)
    return {"kind": kind, **(share or {})}


def classes_of_anomalies(page):
    """(indexes of a day page's anomalies, the index of each one's class in CLASSES): arrays.

    It finds the same rows as indexes_of_anomalies, in a tenth of the time once numpy is imported.
    """
    import numpy as np

    names = "trades", "avg_trades", "std_trades", "price_diff"
    trades, avg_trades, std_trades, price_diffs = (np.asarray(page[name]) for name in names)
    with np.errstate(all="ignore"):
        z_scores = np.where(std_trades > 0, (trades - avg_trades) / std_trades, nan)
    limits = np.array([z_limit(z_from) for z_from in Z_CLASSES])
    anomalies = np.flatnonzero(z_scores > limits[0])
    z_classes = np.searchsorted(limits, z_scores[anomalies]) - 1
    price_diffs = price_diffs[anomalies]
    moves = np.where(price_diffs > 1, 0, np.where(price_diffs < -1, 2, 1))  # as in MOVES
    return anomalies, z_classes * len(MOVES) + moves


def find_aftermath(table, last):
    """What followed all anomalies from the table's first session to last.

    A list of 36 dicts, of 4 z_from, 3 moves and 3 horizons, with aftermath_figures. A z-score of
    exactly 5 is in the class from 3 to 5. Nothing is known after last: a horizon counts only
    anomalies that are at least so many sessions before last. Of these, left_out counts the ones
    whose ticker is gone or whose close is 0, and the ones with a suspected split, because a reverse
    split would look like a gain. The others are the cases. better is in percent of the cases.
    two_se and median_excess are in percentage points; the excess of a case is its change minus the
    median ticker's. Without cases, better and median_excess are None. two_se is None if fewer than
    10 blocks have a case.
    """
    import numpy as np

    row = np.dtype([("class", "u1"), ("block", "u2"), ("excess", "f8")])
    found = {horizon: [np.empty(0, row)] for horizon in HORIZONS}  # an array a day
    for session, page, after in read_days(table, range(last + 1), needs_after=True):
        anomalies, classes = classes_of_anomalies(page)
        blocks = np.full(len(anomalies), session // BLOCK_DAYS)
        split_days = after.split_days[anomalies]
        for horizon, all_changes in after.changes.items():
            if session + horizon > last:
                break
            middle, changes = median(all_changes), all_changes[anomalies]
            is_case = np.isfinite(changes) & ((split_days == 0) | (split_days > horizon))
            excesses = np.where(is_case, changes - middle, nan)
            found[horizon].append(np.rec.fromarrays([classes, blocks, excesses], row))
    found = {horizon: np.concatenate(found[horizon]) for horizon in HORIZONS}
    return [
        {"z_from": z_from, "move": move, "horizon": horizon}
        | aftermath_figures(found[horizon][found[horizon]["class"] == i])
        for i, (z_from, move) in enumerate(CLASSES)
        for horizon in HORIZONS
    ]


def aftermath_figures(found):
    """How many cases the anomalies of one class and horizon are, and their figures: a dict.

    found are their rows in find_aftermath: block, and excess, which is nan if the anomaly is left
    out. A figure that is not known is None.

    Days are not independent: one event moves many tickers, on its day and on later ones. So the
    standard error compares blocks of 20 days instead of single cases. It is
    sqrt(sum over blocks of (sum of (x - mean))**2 * B / (B - 1)) / N. Here x, a case's points, is 1
    if it did better, 1/2 if it did equally well, else 0. mean is the mean of x. N is the number of
    cases, B the number of blocks that have a case.
    """
    import numpy as np

    cases = found[~np.isnan(found["excess"])]
    points = (cases["excess"] > 0) + (cases["excess"] == 0) / 2
    cases_of_block = np.bincount(cases["block"]).tolist()
    points_of_block = np.bincount(cases["block"], points).tolist()
    total, blocks, two_se = len(cases), sum(map(bool, cases_of_block)), nan
    mean = sum(points_of_block) / total if total else nan
    if blocks >= FEWEST_BLOCKS:
        # A block's sum of (x - mean) is its sum of x minus its number of cases times mean.
        sums = (sum_x - mean * n for n, sum_x in zip(cases_of_block, points_of_block))
        two_se = 200 * (sum(each**2 for each in sums) * blocks / (blocks - 1)) ** 0.5 / total
    figures = {
        "cases": total,
        "better": 100 * mean,
        "two_se": two_se,
        "median_excess": median(cases["excess"]),
        "left_out": len(found) - total,
    }
    return without_nan(figures)


# The numbers that have a lower limit, and the option that gives it.
LIMITS = {"trades": "min_trades", "close_price": "min_price", "record": "min_record"}
LIMITS |= {"long_z": "min_long_z", "dollar_volume": "min_dollars"}


def select_anomalies(anomalies, options):
    """The anomalies that options do not exclude: by LIMITS, skip and type.

    A number that is not known is below every limit.
    """
    for field, name in LIMITS.items():
        limit = getattr(options, name)
        if limit is not None:
            known = [anomaly for anomaly in anomalies if anomaly[field] is not None]
            anomalies = [anomaly for anomaly in known if anomaly[field] >= limit]
    if options.skip:  # split skips split? and split 1:20
        skipped = options.skip
        anomalies = [a for a in anomalies if not any(m.startswith(skipped) for m in a["marks"])]
    if options.type:
        anomalies = [anomaly for anomaly in anomalies if anomaly["type"] in options.type]
    return anomalies


def sort_anomalies(anomalies, field):
    """anomalies sorted by field: tickers from A to Z, largest numbers first, missing ones last."""

    def sort_key(anomaly):
        value = anomaly[field]
        return -inf if value is None or (isinstance(value, float) and isnan(value)) else value

    return sorted(anomalies, key=sort_key, reverse=field != "ticker")


def anomaly_of(page, i, session, table, options, after):
    """row_of, with what the options need: facts, marks, type, name, and what is in after.

    after is the page's LaterChanges, or None.
    """
    row = row_of(page, i, options.needs_facts)
    if after:
        row |= after.of_row(i)
    if options.needs_marks:
        row["marks"] = marks_of(row, session, table.window, table.splits)
    if options.needs_type:
        row["type"], row["name"] = table.directory.get(row["ticker"], (None, None))[:2]
    return row


def list_days(table, sessions, options):
    """Yields (date, anomalies, notes) of each of sessions. notes are sentences about the day.

    Says so on stderr if no ticker has a baseline on any of them.
    """
    has_baseline = False
    for session, page, after in read_days(table, sessions, options.needs_after):
        has_baseline = has_baseline or not all(map(isnan, page["avg_trades"]))
        indexes = indexes_of_anomalies(page, options.threshold)
        anomalies = [anomaly_of(page, i, session, table, options, after) for i in indexes]
        notes = []
        if options.format == "wide":
            notes += notes_of(table, session, page, after, options.min_record)
        # Equal ones keep this order if they are sorted by another field.
        yield table.dates[session], sort_anomalies(anomalies, "trades"), notes
    if not has_baseline:
        note = f"note: no ticker has a baseline yet on {table.dates[session]}: "
        print(f"{note}a baseline is a ticker's {table.window} rows before", file=sys.stderr)


def list_ticker(table, sessions, options):
    """(ticker, anomalies, []): a ticker's anomalies on the days in sessions, by date."""
    history = table.read_history(options.ticker)
    session_of = {date: session for session, date in enumerate(table.dates)}
    own_sessions = [session_of[date] for date in history["date"]]
    row_of_session = {session: i for i, session in enumerate(own_sessions)}
    with_anomaly = [own_sessions[i] for i in indexes_of_anomalies(history, options.threshold)]
    with_anomaly = [session for session in with_anomaly if session in sessions]

    def page_of_ticker(session):
        """The ticker's part of a day page: one row, or none."""
        i = row_of_session.get(session, len(own_sessions))
        return {name: column[i : i + 1] for name, column in history.items()}

    days = read_days(table, with_anomaly, options.needs_after, page_of_ticker)
    anomalies = [
        anomaly_of(page, 0, session, table, options, after) for session, page, after in days
    ]
    return options.ticker, anomalies, []


def select_and_sort(listings, options):
    """Yields the listings with only the anomalies that options select, in their order.

    Says on stderr how many are left out only because their type is not known.
    """
    without_type = 0
    for_unknown_type = argparse.Namespace(**{**vars(options), "type": [None]})
    for title, anomalies, notes in listings:
        if options.type:
            without_type += len(select_anomalies(anomalies, for_unknown_type))
        anomalies = select_anomalies(anomalies, options)
        if options.sort:
            anomalies = sort_anomalies(anomalies, options.sort)
        yield title, anomalies[: options.limit], notes
    if without_type:
        note = f"note: {without_type:,} left out because the table has no type of their tickers"
        print(note, file=sys.stderr)


def notes_of(table, session, page, after, min_record):
    """Yields sentences about a day. They count all its anomalies, whatever the options are."""
    if not isinstance(table, PlainTable):
        yield from share_sentences(table, session)
        yield from record_sentence(page, min_record)
    yield from median_sentence(page, after)


def share_sentences(table, session):
    """How many anomalies and high long z-scores a day has, how usual that is, and expirations."""
    share = compare_share(table, session, "anomalies", "with_deviation")
    if share:
        lower, days = share["lower_days"], share["days"]
        than = f"all {days}" if lower == days else f"{lower or 'none'} of the {days}"
        yield (
            "{anomalies:,} of {with_deviation:,} tickers with a baseline ({share:.1f} %) are "
            "anomalies; the usual is {usual:.1f} %; more than on {than} days before."
        ).format(**share, than=than)
    share = compare_share(table, session, "high_long_z", "with_long_z")
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
    If min_record is None or 0, it is 60, or 20 if no ticker has 60 earlier rows.
    """
    min_record = min_record or (60 if max(page["earlier_rows"]) >= 60 else 20)
    old_enough = sum(earlier_rows >= min_record for earlier_rows in page["earlier_rows"])
    records = sum(record >= min_record for record in page["record"])
    if old_enough:
        yield (
            f"Of {old_enough:,} tickers with at least {min_record} earlier rows, {records:,} have "
            f"a record of {min_record} or more; "
            f"chance alone would make {old_enough / (min_record + 1):.1f}."
        )


def median_sentence(page, after):
    """How the median ticker did, and how many anomalies did better; nothing if it is not known."""
    days = dict(zip(HORIZONS, ("1 day", "5", "20")))
    medians = {horizon: median(changes) for horizon, changes in after.changes.items()}
    known = [horizon for horizon in medians if not isnan(medians[horizon])]
    if not known:
        return
    parts = [f"{number_text(medians[horizon], '.2f')} % after {days[horizon]}" for horizon in known]
    parts += [f"not known yet after {days[h]}" for h in HORIZONS if h not in medians]
    sentence, longest = f"The median ticker's price changed by {', '.join(parts)}", known[-1]
    changes, middle = after.changes[longest][indexes_of_anomalies(page)], medians[longest]
    points = [(change > middle) + (change == middle) / 2 for change in changes if isfinite(change)]
    if points:
        better = f"{sum(points):,.1f}".replace(".0", "")
        sentence += f"; {better} of {len(points):,} anomalies did better after {days[longest]}"
    yield f"{sentence}."


def number_text(number, form):
    """number as text in this format; `-` for None, and 0.0 instead of -0.0."""
    if number is None:
        return "-"
    text = format(number, form)
    return text if text.strip("-0.") else text.lstrip("-")


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


# What stands behind the ticker or date in the heading of a list.
HEADING = "    Trades     Avg Trades   Std Dev   Z-score Close Price  Price Diff"
WIDE_HEADING = HEADING + "    Record    Long Z    Dollar Volume    After 1    After 5   After 20"
WIDE_HEADING += "  Marks"
RULE = "-" * 91  # the tutorial's, which is longer than its heading
FACTS = " {record:>9} {long_z:>9} {dollar_volume:>16} {after_1:>10} {after_5:>10} {after_20:>10}"


def line_of(start, row):
    """A line of a list. A number that is too wide for its column keeps a space before it."""
    left = max(9, 19 - len(start))  # columns for the trades: start and they share twenty
    return (
        f"{start} {row['trades']:>{left}.0f} {row['avg_trades']:>14.2f} {row['std_trades']:>9.2f} "
        f"{row['z_score']:>9.2f} {row['close_price']:>11.2f} {row['price_diff']:>11.2f}"
    )


def facts_of(anomaly):
    """The rest of a wide line: an anomaly's facts; `-` for what is not known.

    A change is `gone` if the ticker is, and has `*` after a suspected split. A record is `all 30`
    if the ticker never had more trades.
    """
    record, split = anomaly["record"], anomaly["split_after"]
    is_most_ever = record is not None and record == anomaly["earlier_rows"]
    texts = {
        "record": f"all {record}" if is_most_ever else number_text(record, "d"),
        "long_z": number_text(anomaly["long_z"], ".2f"),
        "dollar_volume": number_text(anomaly["dollar_volume"], ",d"),
    }
    for horizon, field in zip(HORIZONS, AFTER_FIELDS):
        star = "*" if anomaly[field] is not None and split and split <= horizon else ""
        text = number_text(anomaly[field], ".2f") + star
        texts[field] = "gone" if text.startswith("nan") else text
    return f"{FACTS.format(**texts)}  {' '.join(anomaly['marks'])}".rstrip()


def as_table(listings, first, is_wide):
    """Yields the anomalies as the tutorial prints them. first is the field of the first column."""
    heading = f"{first.title():<10}{WIDE_HEADING if is_wide else HEADING}"
    rule = "-" * len(heading) if is_wide else RULE
    for title, anomalies, notes in listings:
        yield f"\nAnomalies Found for {printable(title)}:\n\n{heading}\n{rule}\n"
        for anomaly in anomalies:
            line = line_of(printable(anomaly[first]), anomaly)
            yield f"{line}{facts_of(anomaly) if is_wide else ''}\n"
        if notes:
            yield "\n" + "".join(f"{note}\n" for note in notes)


def csv_and_json_row(anomaly):
    """The ANOMALY_FIELDS of an anomaly: changes without nan, and marks as text."""
    row = {field: anomaly.get(field) for field in ANOMALY_FIELDS}
    changes = without_nan({field: row[field] for field in AFTER_FIELDS})
    return {**row, **changes, "marks": " ".join(anomaly["marks"])}


def csv_lines(fields, rows):
    """Yields the lines of a CSV file with the columns fields; rows are dicts."""
    import csv

    file = argparse.Namespace(write=str)  # csv's writer returns what write returns: the line
    writer = csv.DictWriter(file, fields, lineterminator="\n")
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

    start = "["
    for row in rows:
        yield start + json.dumps([without_nan(row)], indent=2)[1:-2]  # without "[" and "\n]"
        start = ","
    yield "[]\n" if start == "[" else "\n]\n"


AFTERMATH_HEADING = "Days  Z-score   Price       Cases  Better %   ± 2 SE  Median Excess  Left Out"
AFTERMATH_LINE = "{horizon:<6}{z_class:<10}{move:<8}{cases:>9,}{better:>10}{two_se:>9}"
AFTERMATH_LINE += "{median_excess:>15}{left_out:>10,}{star}\n"


def aftermath_table(rows, dates, splits):
    """Yields the aftermath as a table and notes; rows are what find_aftermath returns."""
    yield f"\nWhat followed the anomalies from {dates[0]} to {dates[-1]}:\n\n"
    yield f"{AFTERMATH_HEADING}\n{'-' * len(AFTERMATH_HEADING)}\n"
    z_classes = dict(zip(Z_CLASSES, ("3-5", "5-10", "10-30", "above 30")))
    for row in sorted(rows, key=lambda row: row["horizon"]):
        two_se = row["two_se"]
        has_star = two_se is not None and abs(row["better"] - 50) > 3 * two_se / 2
        texts = {"z_class": z_classes[row["z_from"]], "star": "  *" if has_star else ""}
        for name, form in (("better", ".1f"), ("two_se", ".1f"), ("median_excess", ".2f")):
            texts[name] = number_text(row[name], form)
        yield AFTERMATH_LINE.format_map({**row, **texts})
    yield "\n" + AFTERMATH_NOTES
    if splits:
        yield "Only the splits in the table's list of splits are taken out of the changes.\n"
    if all(row["two_se"] is None for row in rows):
        yield (
            f"± 2 SE is unknown: it needs cases in {FEWEST_BLOCKS} blocks of {BLOCK_DAYS} days, "
            f"and the number of days is {len(dates)}.\n"
        )


def date_argument(text):
    """text, which must be a date of the calendar, written YYYY-MM-DD."""
    parts = text.split("-")
    if [*map(len, parts)] == [4, 2, 2] and text.isascii() and "".join(parts).isdecimal():
        year, month, day = map(int, parts)
        is_leap_year = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        days = [31, 28 + is_leap_year, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
        if year > 0 and 1 <= month <= 12 and 1 <= day <= days[month - 1]:
            return text
    raise argparse.ArgumentTypeError(f"{text[:60]!a} is not a date, write YYYY-MM-DD")


def number_argument(text):
    try:
        number = float(text)
    except ValueError:
        number = nan
    if not isfinite(number):
        raise argparse.ArgumentTypeError(f"{text.strip()[:20]!a} is not a number")
    return number


def whole_number(least, most):
    """An argument's type: whole numbers from least to most."""

    def argument(text):
        if not text[:20].isdecimal() or not least <= int(text) <= most:
            message = f"{text.strip()[:20]!a} is not a whole number from {least} to {most}"
            raise argparse.ArgumentTypeError(message)
        return int(text)

    return argument


def marks_argument(text):
    """The MARKS that text names, separated by commas, without their question marks: a tuple."""
    marks = [mark.rstrip("?") for mark in MARKS]
    names = tuple(name.strip().rstrip("?") for name in text.split(","))
    for name in names:
        if name not in marks:
            raise argparse.ArgumentTypeError(f"{name[:20]!a} is none of {', '.join(marks)}")
    return names


def parse_arguments(argv):
    """The options, and which facts they need: marks, type and name, and what came after."""
    parser = argparse.ArgumentParser(
        description="List anomalies: the tickers that were traded far more often than normal.",
        # Without a width, argparse imports shutil to find it, which takes 2 ms.
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=80),
    )
    add, whole = parser.add_argument, whole_number(0, 999_999_999)
    dates = "a day as YYYY-MM-DD, or the first and the last day"
    add("dates", nargs="*", type=date_argument, metavar="DATE", help=dates)
    followed = "print what followed all anomalies, or those up to DATE"
    add("--aftermath", action="store_true", help=followed)
    types = "list only tickers of a TYPE you name, such as CS (common stock) or ADRC"
    skip = "leave out tickers that have a MARK you name: split, new, thin, stale or test"
    for name, metavar, kind, text in [
        ("--ticker", "T", str, "one ticker's anomalies, on all days or on those of DATE"),
        ("--threshold", "Z", number_argument, "list tickers with a z-score above Z (default 3)"),
        ("--min-trades", "N", whole, "leave out tickers with fewer than N trades"),
        ("--min-price", "P", number_argument, "leave out tickers that closed below P dollars"),
        ("--min-record", "N", whole, "leave out tickers with a record of fewer than N rows"),
        ("--min-long-z", "Z", number_argument, "leave out tickers with a long z below Z"),
        ("--min-dollars", "N", number_argument, "leave out dollar volumes below N"),
        ("--type", "TYPE[,TYPE]", lambda names: names.split(","), types),
        ("--skip", "MARK[,MARK]", marks_argument, skip),
        ("--limit", "N", whole, "print at most N anomalies of a day or ticker"),
    ]:
        add(name, metavar=metavar, type=kind, help=text)
    parser.set_defaults(threshold=Z_THRESHOLD, skip=())
    sort = "sort by FIELD, largest first, but ticker from A on (default: a day by trades, a ticker "
    sort += f"by date); FIELD is one of {', '.join(SORT_FIELDS)}"
    add("--sort", choices=SORT_FIELDS, metavar="FIELD", help=sort)
    formats = "table (default); wide, with more columns; csv or json, with all columns and digits"
    add("--format", choices=("table", "wide", "csv", "json"), default="table", help=formats)
    file = "the table to read (default lookup_table.pkl)"
    add("--table", default="lookup_table.pkl", metavar="FILE", help=file)
    words = sys.argv[1:] if argv is None else argv
    # argparse would read a negative number such as -1e9 as an option, but not one after a space.
    words = [f" {w}" if w[0:1] == "-" and w[1:2] in {*".0123456789"} else w for w in words]
    options = parser.parse_args(words)
    given = {name for name, value in vars(options).items() if value != parser.get_default(name)}
    others = given - {"dates", "aftermath", "format", "table"}
    if options.aftermath and (others or len(options.dates) > 1 or options.format == "wide"):
        parser.error("--aftermath takes at most one DATE, --format csv or json, and --table")
    if len(options.dates) > 2 or not (options.dates or options.ticker or options.aftermath):
        parser.error("give a DATE (YYYY-MM-DD) or two, --ticker T, or --aftermath")
    if len(options.dates) == 2 and options.dates[0] > options.dates[1]:
        parser.error(f"{options.dates[0]} is after {options.dates[1]}")
    options.needs_marks = options.format != "table" or options.skip
    options.needs_type = options.format in ("csv", "json") or options.type
    limits = {options.min_record, options.min_long_z, options.min_dollars} - {None}
    options.needs_facts = limits or options.needs_marks or options.sort in FACT_FIELDS
    options.needs_after = options.format != "table" or options.sort in AFTER_FIELDS
    return options


def answer(table, options):
    """The text that answers options, as an iterable of pieces. Raises TableError, NoDataError."""
    of_facts = options.min_record, options.min_long_z, options.min_dollars, options.type
    needs_facts = options.aftermath or any(each is not None for each in of_facts)
    if needs_facts and isinstance(table, PlainTable):
        raise NoDataError(
            f"{table.name} is a plain pickle: --aftermath, --min-record, --min-long-z, "
            "--min-dollars and --type need a table that build-lookup-table.py wrote"
        )
    if options.aftermath:
        dates = [date for date in table.dates if not options.dates or date <= options.dates[0]]
        if not dates:  # DATE is before the table's first day: this raises the NoDataError
            select_sessions(table, options.dates)
        rows = find_aftermath(table, len(dates) - 1)
        fields = list(rows[0])
        if options.format == "table":
            return aftermath_table(rows, dates, table.splits)
    else:
        sessions, first = select_sessions(table, options.dates), "ticker"
        listings = list_days(table, sessions, options)
        if options.ticker is not None:
            first, listings = "date", [list_ticker(table, sessions, options)]
        listings = select_and_sort(listings, options)
        if options.format in ("table", "wide"):
            return as_table(listings, first, options.format == "wide")
        anomalies = chain.from_iterable(anomalies for _, anomalies, _ in listings)
        fields, rows = ANOMALY_FIELDS, map(csv_and_json_row, anomalies)
    return csv_lines(fields, rows) if options.format == "csv" else json_pieces(rows)


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


def main(argv=None):
    options = parse_arguments(argv)
    if len(options.dates) != 1:  # one day's list is printed sooner than this is imported
        import signal

        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if hasattr(sys.stdout, "reconfigure"):  # a ticker may have characters that stdout lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if sys.stdout is None:
            raise OSError(0, "stdout is closed")
        with open_file(options.table) as file:
            sys.stdout.writelines(answer(table_in(file), options))
        sys.stdout.flush()
    except (TableError, NoDataError) as error:
        print(printable(error), file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f"{error.name} is missing: pip install -r requirements.txt", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:  # only stdout is left: a file's error has become a TableError
        return stdout_failed(error)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
