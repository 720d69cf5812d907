"""Every number of the lookup table and of the querier once more, in plain and slow Python.

The scripts are tested against this module. It shares no code with them and needs no package. Means,
deviations and z-scores are fractions, so that nothing here depends on the order in which floats are
added.

    table = Table({"2024-08-01": [("AAPL", 620132, 224.37, 218.36), ...], ...})
    for row in anomalies(table, "2024-08-08"):
        print(row.ticker, row.trades, float(row.z_score), marks(table, row), after(table, row, 5))

A market is {date: [(ticker, trades, open or None, close), ...]}, dates and rows in the order of the
files; a row may have a volume behind its close.
"""

import calendar
import datetime
import math
import struct
from decimal import Context, Decimal
from fractions import Fraction
from functools import cache
from itertools import takewhile
from statistics import median
from typing import NamedTuple

HORIZONS = (1, 5, 20)
Z_EDGES = (3, 5, 10, 30)
MOVES = ("up", "flat", "down")


class Row(NamedTuple):
    """A ticker's day: what the files say, and the facts that follow from its earlier rows."""

    ticker: str
    date: str
    session: int  # the index of the date in the table's days
    trades: int
    close_price: float
    price_diff: float  # nan in the ticker's first row
    avg_trades: Fraction | None  # None without a baseline
    std_trades: Fraction | None  # to 200 binary digits
    z_score: Fraction | None  # None without a deviation above 0
    record: int  # how many rows before this one, counted back, had fewer trades; a tie ends it
    earlier_rows: int
    baseline_days: int | None  # over how many of the table's days the baseline reaches back
    gap: float | None
    is_split: bool
    long_z: float | None
    dollar_volume: float | None


class Table:
    """A market with its facts: days, {ticker: its rows} and {date: {ticker: row}}.

    Tickers stand in the order in which the files first name them. listed are the lines of
    tickers.csv, (ticker, name, type), and splits those of splits.csv, (ticker, date, from, to),
    without the headings; of a ticker, and of a ticker and date, the first line counts.
    """

    def __init__(self, market, window=5, listed=(), splits=()):
        self.window, self.days, self.tickers = window, list(market), {}
        for session, (date, day) in enumerate(market.items()):
            for ticker, *numbers in day:
                earlier = self.tickers.setdefault(ticker, [])
                earlier.append(make_row(ticker, date, session, numbers, earlier, window))
        self.rows = {day: {} for day in self.days}
        for ticker, rows in self.tickers.items():
            for row in rows:
                self.rows[row.date][ticker] = row
        self.listed = {ticker: (kind or None, name or None) for ticker, name, kind in listed[::-1]}
        splits = {(ticker, date): ratio for ticker, date, *ratio in splits[::-1]}
        self.splits = {
            (ticker, date): splits[ticker, date]
            for ticker, date in sorted(splits)
            if ticker in self.tickers and self.days[0] <= date <= self.days[-1]
        }


def make_row(ticker, date, session, numbers, earlier, window):
    """A Row; numbers are as in a market, earlier are the ticker's rows before this one."""
    trades, open_price, close, volume = (*numbers, None)[:4]
    previous = earlier[-1].close_price if earlier else None
    avg_trades = std_trades = z_score = baseline_days = None
    if len(earlier) >= window:
        baseline = [row.trades for row in earlier[-window:]]
        avg_trades = Fraction(sum(baseline), window)
        std_trades = root(sum((other - avg_trades) ** 2 for other in baseline) / (window - 1))
        z_score = (trades - avg_trades) / std_trades if std_trades else None
        baseline_days = session - earlier[-window].session
    return Row(
        *(ticker, date, session, trades, close),
        price_diff=math.nan if previous is None else change(previous, close),
        avg_trades=avg_trades,
        std_trades=std_trades,
        z_score=z_score,
        record=len(list(takewhile(lambda row: row.trades < trades, reversed(earlier)))),
        earlier_rows=len(earlier),
        baseline_days=baseline_days,
        gap=gap(open_price, previous),
        is_split=is_split(open_price, previous),
        long_z=long_z(trades, [row.trades for row in earlier[-60:]]),
        dollar_volume=None if volume is None else as_float32(volume * close),
    )


# Facts of a row


def root(square):
    """The square root of a fraction, cut off after 200 binary digits."""
    square = Fraction(square)
    return Fraction(math.isqrt((square.numerator << 400) // square.denominator), 1 << 200)


def change(before, later):
    """The change from before to later in percent: (later / before - 1) * 100, in floats.

    From 0 it is inf, or nan if later is 0 too, as a column of floats has it.
    """
    if before == 0:
        return math.nan if later == 0 else math.inf
    return (later / before - 1) * 100


def gap(open_price, previous_close):
    """The change from the previous close to the open, in percent.

    None in the first row, where open is missing or no positive, finite number, or where the
    previous close is 0.
    """
    if not previous_close or open_price is None or not 0 < open_price < math.inf:
        return None
    return change(previous_close, open_price)


def is_split(open_price, previous_close):
    """Whether the row opens as after a split: the mark `split?`.

    With r = open / previous close: r < 0.7 or r > 1.5, and |r / q - 1| <= 0.05 for a q of 3/2, 2/3,
    or n, 1/n for a whole n from 2 on. r is exact, from the prices as the file writes them: 7.0
    after 10.0 is 7/10.
    """
    if gap(open_price, previous_close) is None:
        return False
    r = Fraction(repr(open_price)) / Fraction(repr(previous_close))
    if Fraction(7, 10) <= r <= Fraction(3, 2):
        return False
    # Of the whole numbers, those on both sides of r or 1/r are the nearest.
    below = math.floor(max(r, 1 / r))
    ratios = [Fraction(3, 2), *(Fraction(n) for n in (below, below + 1) if n >= 2)]
    return any(abs(r / q - 1) <= Fraction(5, 100) for n in ratios for q in (n, 1 / n))


@cache
def scaled_logarithm(trades):
    """ln(1 + trades) * 10**40 as a whole number."""
    return int(Context(prec=50).ln(Decimal(1 + trades)).scaleb(40))


def long_z(trades, earlier):
    """(x - mean) / std of x = ln(1 + trades) over the trades of up to 60 earlier rows.

    None with fewer than 20, or if they are all equal. std is the sample standard deviation.
    """
    if len(earlier) < 20 or len(set(earlier)) == 1:
        return None
    xs, n = list(map(scaled_logarithm, earlier)), len(earlier)
    total, squares = sum(xs), sum(x * x for x in xs)
    # The numerator and the deviation, both times n.
    above = n * scaled_logarithm(trades) - total
    return float(above / root(Fraction(n * (n * squares - total * total), n - 1)))


def as_float32(number):
    return struct.unpack("f", struct.pack("f", number))[0]


# Anomalies and their marks


def is_anomaly(row, threshold=3):
    """Whether z > threshold. A z within 1e-12 of the threshold, relative to it, is equal to it."""
    limit = Fraction(threshold)
    return row.z_score is not None and row.z_score > limit + abs(limit) / 10**12


@cache
def anomalies(table, date, threshold=3):
    """The day's anomalies by trades, most first; equal ones in the table's order of tickers."""
    found = [row for row in table.rows[date].values() if is_anomaly(row, threshold)]
    return tuple(sorted(found, key=lambda row: -row.trades))


def marks(table, row, test_symbols=()):
    """The row's marks in order, under the names that the command line has for them.

    new: fewer than 20 earlier rows, on a day with at least 20 of the table's days before it.
    """
    found = {
        "split": row.is_split or (row.ticker, row.date) in table.splits,
        "new": row.earlier_rows < 20 <= row.session,
        "thin": row.avg_trades is not None and row.avg_trades < 20,
        "stale": row.baseline_days is not None and row.baseline_days > 2 * table.window,
        "test": row.ticker in test_symbols,
    }
    return [mark for mark, holds in found.items() if holds]


# What came after


def rows_after(table, row, horizon):
    """The ticker's rows on the horizon days of the table after the row's day, by date."""
    days = table.days[row.session + 1 : row.session + horizon + 1]
    return [table.rows[day][row.ticker] for day in days if row.ticker in table.rows[day]]


def after(table, row, horizon):
    """Percent from the row's close to the ticker's last close within the next horizon days.

    The days are the table's, not the ticker's. "unknown" while fewer than horizon days follow,
    "gone" where the ticker has no row on any of them, else None where the row's close is 0. Listed
    splits after the row's day and not after that of the later close are taken out: the later close
    is multiplied by the product of their ratios, in floats, by date.
    """
    if row.session + horizon >= len(table.days):
        return "unknown"
    later = rows_after(table, row, horizon)
    if not later:
        return "gone"
    ratio = 1.0
    for (ticker, date), (split_from, split_to) in table.splits.items():
        if ticker == row.ticker and row.date < date <= later[-1].date:
            ratio *= float(split_to) / float(split_from)
    return None if row.close_price == 0 else change(row.close_price, later[-1].close_price * ratio)


def has_number(value):
    return value is not None and value not in ("unknown", "gone")


def split_within(table, row, horizon):
    """Whether a day of the span opens as after a split, and no split is listed for that day.

    The row's own day is not in the span, the horizon-th next day is.
    """
    return any(
        later.is_split and (later.ticker, later.date) not in table.splits
        for later in rows_after(table, row, horizon)
    )


def split_after(table, row):
    """The shortest known span (1, 5 or 20) with a suspected split in it, or None."""
    for horizon in HORIZONS:
        if after(table, row, horizon) != "unknown" and split_within(table, row, horizon):
            return horizon
    return None


@cache
def median_ticker(table, date, horizon):
    """The median of after() over all tickers of the day that have a number; None if none has."""
    numbers = [after(table, row, horizon) for row in table.rows[date].values()]
    numbers = [number for number in numbers if has_number(number)]
    return median(numbers) if numbers else None


def better(number, middle):
    """1 where number is greater than the median ticker's, 1/2 where equal, 0 where less."""
    return Fraction((number > middle) + (number >= middle), 2)


def did_better(table, date, horizon):
    """How many of the day's anomalies did better than the median ticker, and of how many.

    These are the anomalies that have a number, suspected splits among them.
    """
    middle = median_ticker(table, date, horizon)
    numbers = [after(table, row, horizon) for row in anomalies(table, date)]
    numbers = [number for number in numbers if has_number(number)]
    return sum((better(number, middle) for number in numbers), Fraction(0)), len(numbers)


# About a whole day


class Tide(NamedTuple):
    """The share of a day's tickers that are anomalies, and the usual share."""

    anomalies: int
    tickers: int  # those with a deviation above 0
    share: Fraction
    usual: Fraction | None  # None with too few days
    days: int  # days before that have such tickers
    higher_than: int  # on how many of these days the share was lower
    more_than_all: bool


@cache
def share_of_day(table, date, what="anomalies"):
    """(found, tickers, share): the day's anomalies among its tickers with a deviation above 0.

    With what="long_z", those with a long_z above 3, by its four decimals, among those with one.
    The share is None without such tickers.
    """
    rows = table.rows[date].values()
    if what == "long_z":
        is_found = [round(row.long_z, 4) > 3 for row in rows if row.long_z is not None]
    else:
        is_found = [is_anomaly(row) for row in rows if row.z_score is not None]
    found, tickers = sum(is_found), len(is_found)
    return found, tickers, Fraction(found, tickers) if tickers else None


def tide(table, date, what="anomalies", days=None, fewest=20):
    """The Tide of share_of_day's share; None on a day without such tickers.

    The usual share is the median of the same share on the latest 250 days before that have such
    tickers. It is None with fewer than 20 such days.
    """
    found, tickers, share = share_of_day(table, date, what)
    if share is None:
        return None
    days = table.days[: table.days.index(date)] if days is None else days
    shares = [share_of_day(table, day, what)[2] for day in days]
    shares = [earlier for earlier in shares if earlier is not None][-250:]
    usual = median(shares) if len(shares) >= fewest else None
    higher_than = sum(earlier < share for earlier in shares)
    more_than_all = usual is not None and higher_than == len(shares)
    return Tide(found, tickers, share, usual, len(shares), higher_than, more_than_all)


def expiration(table, date):
    """ "monthly" or "quarterly" if the options of a month expire on the day, else None.

    They expire on the third Friday, or on the Thursday before it where that Friday has no row. That
    is not known of a Friday behind the table's last day.
    """
    day = datetime.date.fromisoformat(date)
    friday = day + datetime.timedelta(calendar.FRIDAY - day.weekday())  # of the same week
    no_friday = str(friday) not in table.days and str(friday) < table.days[-1]
    expires = day == friday or (day.weekday() == calendar.THURSDAY and no_friday)
    if not expires or not 15 <= friday.day <= 21:
        return None
    return "quarterly" if day.month in (3, 6, 9, 12) else "monthly"


def expiration_tide(table, date):
    """(kind, Tide) of a day on which options expire: its share beside that of earlier such days.

    The usual share is None with fewer than 4 earlier ones of the same kind.
    """
    kind = expiration(table, date)
    earlier = [day for day in table.days if day < date and expiration(table, day) == kind]
    return kind, tide(table, date, days=earlier, fewest=4)


class RecordLine(NamedTuple):
    """How many of a day's tickers have a long record, and how many chance alone would make."""

    least: int
    tickers: int  # those with at least that many earlier rows
    records: int  # those of them with a record of at least that many rows
    by_chance: Fraction


def record_line(table, date):
    """The day's RecordLine; None if no ticker has 20 earlier rows.

    Long is 60 if any ticker has 60 earlier rows, else 20. If a ticker's days came in random order,
    a record of N or more would have the probability 1 / (N + 1).
    """
    rows = table.rows[date].values()
    least = 60 if any(row.earlier_rows >= 60 for row in rows) else 20
    able = [row for row in rows if row.earlier_rows >= least]
    records = sum(row.record >= least for row in able)
    return RecordLine(least, len(able), records, Fraction(len(able), least + 1)) if able else None


# The aftermath


def aftermath(market, until=None, window=5, splits=()):
    """36 classes of what followed the anomalies at z > 3, by z, then move, then horizon.

    An anomaly counts if its horizon-th next day is not after the date until (without until: the
    table's last day). It is left out if it has no number (the ticker is gone, or its close is 0),
    or if a suspected split is in the span; a split on its own day leaves nothing out.
    """
    market = {day: rows for day, rows in market.items() if until is None or day <= until}
    table = Table(market, window, splits=splits)
    classes = {(z, move, h): ([], []) for z in Z_EDGES for move in MOVES for h in HORIZONS}
    for day in table.days:
        for row, horizon in ((row, h) for row in anomalies(table, day) for h in HORIZONS):
            number = after(table, row, horizon)
            if number == "unknown":
                continue
            cases, left_out = classes[z_class(row), move_of(row), horizon]
            if not has_number(number) or split_within(table, row, horizon):
                left_out.append(row)
            else:
                middle = median_ticker(table, day, horizon)
                cases.append((row.session // 20, better(number, middle), number - middle))
    return [figures_of(*key, *classes[key]) for key in classes]


def z_class(row):
    """The lower edge of the anomaly's class of z; an upper edge belongs to its class."""
    return max(edge for edge in Z_EDGES if is_anomaly(row, edge))


def move_of(row):
    """The anomaly's class of price_diff, the table's float: flat from -1 to 1, and for nan."""
    return "up" if row.price_diff > 1 else "down" if row.price_diff < -1 else "flat"


def figures_of(z_from, move, horizon, cases, left_out):
    """A class under the names of csv and json; cases are (block, better, excess).

    better and two_se are in percentage points of the cases, median_excess in percentage points of
    the price; without cases they are None.
    """
    mean = sum(x for _, x, _ in cases) / len(cases) if cases else None
    error = block_error(cases, mean)
    return {
        "z_from": z_from,
        "move": move,
        "horizon": horizon,
        "cases": len(cases),
        "better": float(100 * mean) if cases else None,
        "two_se": None if error is None else float(200 * error),
        "median_excess": median(excess for *_, excess in cases) if cases else None,
        "left_out": len(left_out),
    }


def block_error(cases, mean):
    """The standard error of the mean of x over cases; None with fewer than 10 blocks.

    sqrt(sum over blocks of (sum of (x - mean))^2 * B / (B - 1)) / N: B blocks that hold a case, N
    cases.
    """
    sums = {}
    for block, x, _ in cases:
        sums[block] = sums.get(block, 0) + x - mean
    if len(sums) < 10:
        return None
    return root(sum(s**2 for s in sums.values()) * len(sums) / (len(sums) - 1)) / len(cases)


# How the facts are shown


def record_text(row):
    """The column Record: the rows, or "all 116" where it is the most ever in the table."""
    return f"all {row.record}" if row.record == row.earlier_rows else str(row.record)


def two_decimals(number):
    """The number as text with two decimals; what rounds to 0 has no sign."""
    text = f"{number:.2f}"
    return "0.00" if text == "-0.00" else text


def after_text(table, row, horizon):
    """The columns After 1, 5 and 20: two decimals, with a `*` if a suspected split is in the span.

    "gone" where gone, "-" where it is not known or the close is 0.
    """
    number = after(table, row, horizon)
    if not has_number(number):
        return "gone" if number == "gone" else "-"
    return two_decimals(number) + "*" * split_within(table, row, horizon)


def marks_text(table, row, test_symbols=()):
    """The marks joined by a space: `split?`, or `split 1:20` if it is listed."""
    found, split = marks(table, row, test_symbols), "split?"
    if (row.ticker, row.date) in table.splits:
        split_from, split_to = table.splits[row.ticker, row.date]
        split = f"split {split_to}:{split_from}"
    return " ".join(split if mark == "split" else mark for mark in found)


def facts(table, row, test_symbols=()):
    """The fields of csv and json that the tutorial's table lacks; None where there is no number."""
    numbers = {horizon: after(table, row, horizon) for horizon in HORIZONS}
    return {
        "record": row.record,
        "earlier_rows": row.earlier_rows,
        "baseline_days": row.baseline_days,
        "gap": row.gap,
        "long_z": row.long_z,
        "dollar_volume": None if row.dollar_volume is None else round(row.dollar_volume),
        **{f"after_{h}": n if has_number(n) else None for h, n in numbers.items()},
        "split_after": split_after(table, row),
        "marks": marks_text(table, row, test_symbols),
        **dict(zip(("type", "name"), table.listed.get(row.ticker, (None, None)))),
    }
