"""Every number of the lookup table and of the querier once more, in plain and slow Python.

The scripts are tested against this module. It shares no code with them and needs no package. Means
and deviations are fractions, so that nothing here depends on the order in which floats are added.

    table = Table({"2024-08-01": [("AAPL", 620132, 224.37, 218.36), ...], ...})
    for row in anomalies(table, "2024-08-08"):
        print(row.ticker, row.trades, z_score(row), marks(table, row), after(table, row, 5))

A market is {date: [(ticker, trades, open or None, close), ...]}, dates and rows in the order of the
files; a row may have a volume behind its close. Where a definition leaves something open, the
docstring says "Choice:".
"""

import calendar
import math
import struct
from decimal import Context, Decimal
from fractions import Fraction
from functools import cache
from typing import NamedTuple

HORIZONS = (1, 5, 20)
Z_EDGES = (3, 5, 10, 30)
MOVES = ("up", "flat", "down")
Z_THRESHOLD = 3


class Row(NamedTuple):
    """A ticker's day: what the files say, and the facts that follow from its earlier rows."""

    ticker: str
    date: str
    session: int  # the index of the date in the table's days
    trades: int
    open_price: float | None
    close_price: float
    previous_close: float | None  # None in the ticker's first row
    price_diff: float
    avg_trades: Fraction | None
    variance: Fraction | None  # the square of std_trades
    record: int
    earlier_rows: int
    baseline_days: int | None
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
        self.window = window
        self.days = list(market)
        self.tickers = history(market, window)
        self.rows = {day: {} for day in self.days}
        for ticker, rows in self.tickers.items():
            for row in rows:
                self.rows[row.date][ticker] = row
        self.listed = {ticker: (kind or None, name or None) for ticker, name, kind in listed[::-1]}
        self.splits = {
            (ticker, date): (split_from, split_to)
            for ticker, date, split_from, split_to in sorted(
                splits[::-1], key=lambda split: split[1]
            )
            if ticker in self.tickers and self.days[0] <= date <= self.days[-1]
        }
        self.order = {ticker: number for number, ticker in enumerate(self.tickers)}


def history(market, window=5):
    """{ticker: its rows by date}, tickers in the order in which the files first name them."""
    listed = {}
    for session, (date, day) in enumerate(market.items()):
        for ticker, trades, open_price, close, *volume in day:
            row = date, session, trades, open_price, close, *(volume or [None])
            listed.setdefault(ticker, []).append(row)
    return {ticker: facts_of_rows(ticker, rows, window) for ticker, rows in listed.items()}


def facts_of_rows(ticker, rows, window):
    _, sessions, trades, _, closes, _ = zip(*rows)
    facts = []
    for index, (date, session, _, open_price, close, volume) in enumerate(rows):
        previous = closes[index - 1] if index > 0 else None
        facts.append(
            Row(
                *(ticker, date, session, trades[index], open_price, close, previous),
                price_diff=math.nan if previous is None else change(previous, close),
                avg_trades=avg_trades(trades, index, window),
                variance=variance(trades, index, window),
                record=record(trades, index),
                earlier_rows=index,
                baseline_days=baseline_days(sessions, index, window),
                gap=gap(open_price, previous),
                is_split=is_split(open_price, previous),
                long_z=long_z(trades, index),
                dollar_volume=None if volume is None else as_float32(volume * close),
            )
        )
    return facts


# Facts of a row


def change(before, later):
    """The change from before to later in percent: (later / before - 1) * 100, in floats.

    Choice: from 0 it is inf, or nan if later is 0 too, as a column of floats has it.
    """
    if before == 0:
        return math.nan if later == 0 else math.inf
    return (later / before - 1) * 100


def avg_trades(trades, index, window):
    """The mean of the window rows before; None with fewer than window rows before."""
    if index < window:
        return None
    return Fraction(sum(trades[index - window : index]), window)


def variance(trades, index, window):
    """The sample variance (ddof 1) of the window rows before; None with fewer rows before."""
    mean = avg_trades(trades, index, window)
    if mean is None:
        return None
    return sum((earlier - mean) ** 2 for earlier in trades[index - window : index]) / (window - 1)


def record(trades, index):
    """How many rows before this one, counted back, had fewer trades; a tie ends the count."""
    count = 0
    while count < index and trades[index - count - 1] < trades[index]:
        count += 1
    return count


def baseline_days(sessions, index, window):
    """Over how many of the table's days the baseline reaches back; None without a baseline."""
    return sessions[index] - sessions[index - window] if index >= window else None


def gap(open_price, previous_close):
    """(open / previous close - 1) * 100, in floats.

    None in the first row, where open is missing or no positive number, or where the previous
    close is 0. Choice: inf is no positive number.
    """
    if previous_close is None or previous_close == 0:
        return None
    if open_price is None or not 0 < open_price < math.inf:
        return None
    return change(previous_close, open_price)


@cache
def scaled_logarithm(trades):
    """ln(1 + trades) * 10**40 as a whole number."""
    return int(Context(prec=50).ln(Decimal(1 + trades)).scaleb(40))


def long_z(trades, index):
    """(x - mean) / std of x = ln(1 + trades), over the 60 rows before, as the nearest float.

    Over all rows before while these are 20 to 59; None with fewer than 20, or if their trades are
    all equal. std is the sample standard deviation.
    """
    earlier = trades[max(0, index - 60) : index]
    if len(earlier) < 20 or len(set(earlier)) == 1:
        return None
    xs, n = list(map(scaled_logarithm, earlier)), len(earlier)
    total, squares = sum(xs), sum(x * x for x in xs)
    above = n * scaled_logarithm(trades[index]) - total
    variance = Fraction(n * (n * squares - total * total), n - 1)  # times n * n
    return math.copysign(nearest_root(above * above / variance), above)


def as_float32(number):
    return struct.unpack("f", struct.pack("f", number))[0]


def is_split(open_price, previous_close):
    """Whether the row opens as after a split: the mark `split?`.

    With r = open / previous close: r < 0.7 or r > 1.5, and |r / q - 1| <= 0.05 for a q of 3/2, 2/3,
    or n, 1/n for a whole n from 2 on. Choice: r is exact, from the prices as the file writes them
    (7.0 after 10.0 is 7/10); a float within 1e-12 of an edge has to be taken as on it.
    """
    if gap(open_price, previous_close) is None:
        return False
    r = decimal(open_price) / decimal(previous_close)
    if Fraction(7, 10) <= r <= Fraction(3, 2):
        return False
    larger = max(r, 1 / r)
    # Of the whole numbers, those on both sides of r or 1/r are the nearest.
    whole = [n for n in (math.floor(larger), math.floor(larger) + 1) if n >= 2]
    ratios = [Fraction(3, 2), Fraction(2, 3)]
    ratios += [Fraction(n) for n in whole] + [Fraction(1, n) for n in whole]
    return any(abs(r / q - 1) <= Fraction(5, 100) for q in ratios)


# Anomalies


def has_deviation(row):
    """Whether the row has a baseline whose deviation is above 0."""
    return row.variance is not None and row.variance > 0


def std_trades(row):
    """The deviation as the nearest float; None without a baseline."""
    return None if row.variance is None else nearest_root(row.variance)


def z_score(row):
    """(trades - avg_trades) / std_trades as the nearest float; None without a deviation above 0."""
    if not has_deviation(row):
        return None
    above = row.trades - row.avg_trades
    return math.copysign(nearest_root(above**2 / row.variance), above)


def is_anomaly(row, threshold=Z_THRESHOLD):
    """Whether std_trades > 0 and z > threshold.

    A z within 1e-12 (relative) of the threshold is equal to it. Choice: relative to the threshold.
    """
    if not has_deviation(row):
        return False
    threshold = Fraction(threshold)
    least = threshold + abs(threshold) / 10**12
    above = row.trades - row.avg_trades
    # above > least * std, compared by the squares with their signs.
    return signed_square(above) > signed_square(least) * row.variance


@cache
def anomalies(table, date, threshold=Z_THRESHOLD):
    """The day's anomalies by trades, most first; equal ones in the table's order of tickers."""
    found = [row for row in table.rows[date].values() if is_anomaly(row, threshold)]
    return tuple(sorted(found, key=lambda row: (-row.trades, table.order[row.ticker])))


# Marks


def marks(table, row, test_symbols=()):
    """The row's marks in order, under the names that the command line has for them.

    new: fewer than 20 earlier rows, on a day with at least 20 of the table's days before it.
    split: listed for this day, else suspected.
    thin: avg_trades below 20. stale: baseline_days above twice the window. Choice: a row without a
    baseline is neither thin nor stale.
    """
    found = {
        "split": row.is_split or (row.ticker, row.date) in table.splits,
        "new": row.earlier_rows < 20 and row.session >= 20,
        "thin": row.avg_trades is not None and row.avg_trades < 20,
        "stale": row.baseline_days is not None and row.baseline_days > 2 * table.window,
        "test": row.ticker in test_symbols,
    }
    return [mark for mark, holds in found.items() if holds]


# What came after


def is_known(table, row, horizon):
    """Whether the table has the horizon-th day after the row's."""
    return row.session + horizon < len(table.days)


def rows_after(table, row, horizon):
    """The ticker's rows on the horizon days of the table after the row's day, by date."""
    days = table.days[row.session + 1 : row.session + horizon + 1]
    return [table.rows[day][row.ticker] for day in days if row.ticker in table.rows[day]]


def after(table, row, horizon):
    """Percent from the row's close to the ticker's last close within the next horizon days.

    The days are the table's, not the ticker's. "unknown" while fewer than horizon days follow,
    "gone" where the ticker has no row on any of them, None where the row's close is 0. Choice: in
    this order (a close of 0 before a delisting is "gone"), and with the float operations of
    price_diff. Listed splits after the row's day and not after that of the later close are taken
    out. Choice: the later close is multiplied by the product of their ratios, in floats, by date.
    """
    if not is_known(table, row, horizon):
        return "unknown"
    later = rows_after(table, row, horizon)
    if not later:
        return "gone"
    ratio = 1.0
    for (ticker, date), (split_from, split_to) in table.splits.items():
        if ticker == row.ticker and row.date < date <= later[-1].date:
            ratio *= float(split_to) / float(split_from)
    return None if row.close_price == 0 else change(row.close_price, later[-1].close_price * ratio)


def split_within(table, row, horizon):
    """Whether a day of the span opens as after a split, and no split is listed for that day.

    Choice: the row's own day is not in the span, the horizon-th next day is.
    """
    return any(
        later.is_split and (later.ticker, later.date) not in table.splits
        for later in rows_after(table, row, horizon)
    )


def split_after(table, row):
    """The shortest known span (1, 5 or 20) with a suspected split in it, or None.

    Choice: it does not matter whether the span has a number (a close of 0 has none).
    """
    for horizon in HORIZONS:
        if is_known(table, row, horizon) and split_within(table, row, horizon):
            return horizon
    return None


def has_number(value):
    return value is not None and value not in ("unknown", "gone")


@cache
def median_ticker(table, date, horizon):
    """The median of after() over all tickers of the day that have a number; None if none has.

    Choice: all means all: the anomalies are in it, and so are numbers with a suspected split. Of
    an even count it is the mean of the middle two, in floats.
    """
    numbers = [after(table, row, horizon) for row in table.rows[date].values()]
    return median([number for number in numbers if has_number(number)])


def better(number, middle):
    """1 where number is greater than the median ticker's, 1/2 where equal, 0 where less."""
    return Fraction((number > middle) + (number >= middle), 2)


def did_better(table, date, horizon, threshold=Z_THRESHOLD):
    """How many of the day's anomalies did better than the median ticker, and of how many.

    Choice: of those that have a number, suspected splits among them; so the first may be a half.
    """
    middle = median_ticker(table, date, horizon)
    numbers = [after(table, row, horizon) for row in anomalies(table, date, threshold)]
    numbers = [number for number in numbers if has_number(number)]
    return sum((better(number, middle) for number in numbers), Fraction(0)), len(numbers)


# About a whole day


class Tide(NamedTuple):
    """The share of a day's tickers that are anomalies, and the usual share."""

    anomalies: int
    tickers: int  # those with a deviation above 0
    share: Fraction
    usual: Fraction | None  # None with fewer than 20 days
    days: int
    higher_than: int  # on how many of these days the share was lower
    more_than_all: bool  # False with fewer than 20 days


@cache
def share_of_day(table, date, what="anomalies"):
    """(found, tickers, share): the day's anomalies among its tickers with a deviation above 0.

    With what="long_z", those with a long_z above 3 among those with one. The share is None without
    such tickers. Choice: long_z counts with four decimals.
    """
    if what == "long_z":
        numbers = [row.long_z for row in table.rows[date].values() if row.long_z is not None]
        tickers, found = len(numbers), sum(round(number, 4) > 3 for number in numbers)
    else:
        tickers = sum(has_deviation(row) for row in table.rows[date].values())
        found = len(anomalies(table, date))
    return found, tickers, Fraction(found, tickers) if tickers else None


def tide(table, date, what="anomalies", days=None, fewest=20):
    """The share of_day's share, and the usual share.

    The usual share is the median of the same share on up to 250 days before that have such
    tickers. It is None with fewer than 20 such days. The result is None on a day without such
    tickers. Choice: the 250 days are the latest that have such tickers, days without them are
    passed over and not counted; "more than on all" is strictly more than on each of these (up to
    250) days.
    """
    found, tickers, share = share_of_day(table, date, what)
    if share is None:
        return None
    days = table.days[: table.days.index(date)] if days is None else days
    shares = [share_of_day(table, day, what)[2] for day in days]
    shares = [earlier for earlier in shares if earlier is not None][-250:]
    said = len(shares) >= fewest
    return Tide(
        anomalies=found,
        tickers=tickers,
        share=share,
        usual=median(shares) if said else None,
        days=len(shares),
        higher_than=sum(earlier < share for earlier in shares),
        more_than_all=said and share > max(shares),
    )


def expiration(table, date):
    """ "monthly" or "quarterly" if the options of a month expire on the day, else None.

    They expire on the third Friday, or on the Thursday before it where that Friday has no row.
    Choice: that is not known of a Friday behind the table's last day.
    """
    year, month, _ = map(int, date.split("-"))
    fridays = [week[calendar.FRIDAY] for week in calendar.monthcalendar(year, month)]
    third = list(filter(None, fridays))[2]
    friday, thursday = (f"{year:04}-{month:02}-{day:02}" for day in (third, third - 1))
    no_friday = friday not in table.days and friday < table.days[-1]
    if date != friday and not (date == thursday and no_friday):
        return None
    return "quarterly" if month in (3, 6, 9, 12) else "monthly"


def expiration_tide(table, date):
    """(kind, Tide) of a day on which options expire: its share beside that of earlier such days.

    The usual share is None with fewer than 4 earlier ones of the same kind.
    """
    kind = expiration(table, date)
    earlier = [day for day in table.days if day < date and expiration(table, day) == kind]
    return kind, tide(table, date, days=earlier, fewest=4)


class RecordLine(NamedTuple):
    least: int
    tickers: int  # those with at least that many earlier rows
    records: int  # those of them with a record of at least that many rows
    by_chance: Fraction


def record_line(table, date, min_record=None):
    """How many of the day's tickers have a long record, and how many chance alone would make.

    Long is min_record, else 60 if any ticker has 60 earlier rows, else 20; None if no ticker has
    that many. If a ticker's days came in random order, a record of N or more would have the
    probability 1 / (N + 1).
    Choice: all the day's tickers count, with a deviation or without.
    """
    rows = table.rows[date].values()
    least = min_record
    if least is None:
        least = 60 if any(row.earlier_rows >= 60 for row in rows) else 20
    able = [row for row in rows if row.earlier_rows >= least]
    if not able:
        return None
    records = sum(row.record >= least for row in able)
    return RecordLine(least, len(able), records, sum(Fraction(1, least + 1) for _ in able))


# The aftermath


def z_class(row):
    """The lower edge of the anomaly's class of z: 3-5, 5-10, 10-30, above 30.

    An upper edge belongs to its class. Choice: z is above an edge as it is above a threshold, so
    that a z within 1e-12 of 5 is 5.
    """
    return max(edge for edge in Z_EDGES if is_anomaly(row, edge))


def move_of(row):
    """up for a price_diff above 1, down for one below -1, else flat; flat for nan.

    Choice: price_diff is the float of the table, so that 101 after 100 (1.0000000000000009) is up.
    """
    if row.price_diff > 1:
        return "up"
    return "down" if row.price_diff < -1 else "flat"


class Case(NamedTuple):
    block: int
    better: Fraction
    excess: float


def aftermath(market, until=None, window=5, splits=()):
    """36 classes of what followed the anomalies at z > 3, by z, then move, then horizon.

    An anomaly counts if its horizon-th next day is not after until (without until: the table's last
    day). Choice: until may be a date that the table lacks.
    """
    days = {day: rows for day, rows in market.items() if until is None or day <= until}
    table = Table(days, window, splits=splits)
    cases = {(z, move, h): [] for z in Z_EDGES for move in MOVES for h in HORIZONS}
    left_out = dict.fromkeys(cases, 0)
    for session, day in enumerate(table.days):
        for horizon in HORIZONS:
            if session + horizon >= len(table.days):
                continue
            middle = median_ticker(table, day, horizon)
            for row in anomalies(table, day):
                key = (z_class(row), move_of(row), horizon)
                number = after(table, row, horizon)
                if is_left_out(table, row, horizon):
                    left_out[key] += 1
                else:
                    case = Case(session // 20, better(number, middle), number - middle)
                    cases[key].append(case)
    return [class_of_cases(key, cases[key], left_out[key]) for key in cases]


def is_left_out(table, row, horizon):
    """Whether an anomaly counts as left_out where its horizon-th next day is known.

    It does if it has no number (the ticker is gone, or its close is 0), or if a suspected split is
    in the span. Choice: a split on the anomaly's own day leaves nothing out; left_out is
    counted in the anomaly's class and at each horizon for itself.
    """
    return not has_number(after(table, row, horizon)) or split_within(table, row, horizon)


def class_of_cases(key, cases, left_out):
    """A class under the names of csv and json; an empty one has 0 cases and no figures.

    better and two_se are in percentage points of the cases, median_excess in percentage points of
    the price. Choice: two_se is 2 * 100 * the standard error of the mean of 0, 1/2 and 1.
    """
    z_from, move, horizon = key
    shares = [case.better for case in cases]
    error = block_error([(case.block, case.better) for case in cases])
    return {
        "z_from": z_from,
        "move": move,
        "horizon": horizon,
        "cases": len(cases),
        "better": float(100 * sum(shares) / len(shares)) if cases else None,
        "two_se": None if error is None else 200 * error,
        "median_excess": median([case.excess for case in cases]),
        "left_out": left_out,
    }


def block_error(cases):
    """The standard error of the mean of x over cases (block, x); None with fewer than 10 blocks.

    sqrt(sum over blocks of (sum of (x - mean))^2 * B / (B - 1)) / N: B blocks that hold a case, N
    cases. Choice: blocks are counted in each class at each horizon for itself; a case is in the
    block of the anomaly's day.
    """
    blocks = {}
    for block, x in cases:
        blocks.setdefault(block, []).append(x)
    if len(blocks) < 10:
        return None
    mean = sum(x for _, x in cases) / len(cases)
    squares = sum(sum(x - mean for x in xs) ** 2 for xs in blocks.values())
    return nearest_root(squares * Fraction(len(blocks), len(blocks) - 1)) / len(cases)


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

    "-" where it is not known yet, "gone" where gone. Choice: "-" also where the close is 0.
    """
    number = after(table, row, horizon)
    if number == "gone":
        return "gone"
    if not has_number(number):
        return "-"
    return two_decimals(number) + "*" * split_within(table, row, horizon)


def marks_text(table, row, test_symbols=()):
    """The marks joined by a space: `split?`, or `split 1:20` if it is listed."""
    found, split = marks(table, row, test_symbols), "split?"
    if (row.ticker, row.date) in table.splits:
        split_from, split_to = table.splits[row.ticker, row.date]
        split = f"split {split_to}:{split_from}"
    return " ".join(split if mark == "split" else mark for mark in found)


def facts(table, row, test_symbols=()):
    """The fields of csv and json that the tutorial's table lacks, by name.

    Missing, unknown and gone are None.

    Choice: no marks are an empty string, not None.
    """
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


# Arithmetic


def median(numbers):
    """The middle number, of an even count the mean of the middle two; None of no numbers."""
    if not numbers:
        return None
    in_order = sorted(numbers)
    half = len(in_order) // 2
    return in_order[half] if len(in_order) % 2 else (in_order[half - 1] + in_order[half]) / 2


def nearest_root(square):
    """The square root of a fraction as the nearest float."""
    scale = 2**200
    square = Fraction(square)
    return float(Fraction(math.isqrt(square.numerator * scale**2 // square.denominator), scale))


def signed_square(number):
    return number * abs(number)


def decimal(price):
    """The price as the file writes it: 0.7 is 7/10, not the float next to it."""
    return Fraction(repr(price))
