"""Show the lookup table in a browser: a day's anomalies and a ticker's charts.

Usage:
    python gui-lookup-table.py [--table FILE] [--port PORT] [--host HOST] [--allow-host NAME]
                               [--api-url URL]

Reads   ./lookup_table.pkl, which build-lookup-table.py writes; minute bars and headlines from
        Polygon, if the environment variable POLYGON_API_KEY or MASSIVE_API_KEY holds your key.
Writes  nothing. Serves http://localhost:8888 until Ctrl-C or SIGTERM.

This script loads query-lookup-table.py, which reads the table and says what an anomaly is. It opens
the table anew for each request. If the file is replaced, the next request shows the new table; no
answer mixes the old one and the new one. The views are in templates/, their scripts and styles in
templates/static/.
"""

import argparse
import datetime
import importlib.util
import json
import logging
import mimetypes
import os
import re
import signal
import socket
import sys
from collections import namedtuple
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cache, lru_cache, partial, wraps
from hashlib import sha256
from math import ceil, floor, isfinite, isnan, log10, nan
from pathlib import Path
from threading import BoundedSemaphore
from typing import NamedTuple
from urllib.parse import quote
from zoneinfo import ZoneInfo

try:
    import flask
    from flask import Flask, Response, current_app, render_template, request
    from waitress.server import create_server
    from werkzeug.exceptions import BadRequest, Forbidden, HTTPException, MethodNotAllowed, NotFound
except ImportError as error:
    reason = "is missing" if isinstance(error, ModuleNotFoundError) else f"does not work ({error})"
    hint = "pip install -r requirements.txt"
    raise SystemExit(f"{error.name} {' '.join(reason.split())}: {hint}") from None

HERE = Path(__file__).resolve().parent
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
WILDCARDS = {"0.0.0.0", "[::]"}  # to listen on all IPv4 addresses, or on all IPv6 addresses
IP_ADDRESS = r"[\d.]+|\[[\da-f:.]+\]"
THREADS = 16  # of the server
# One thread reads all tables: two at once would be no faster and take twice the memory.
TABLE_READER = ThreadPoolExecutor(1)
HISTORY_ROWS = 40  # that /api/history returns by default
MOST_HISTORY_ROWS = 260  # the largest number it accepts; "all" asks for every row
PLAIN_TICKER = r"[A-Z]{1,5}|[A-Z]{1,4}\.[AB]"  # BRK.B is a share class
LEAST_RECORD = 20  # rows: a shorter record is no news, and is not put into words
# These addresses spend the user's requests to Polygon, so they want a header that only the page's
# own scripts can send: a browser does not let another site's page add it.
PAGE_HEADER = "X-Lookup-Table-Page"
SPENDS_THE_KEY = {"/api/bars", "/api/headlines"}

API_URL = "https://api.polygon.io"  # as in build-lookup-table.py
# What a minute bar is made of, and what Polygon calls it.
BAR_FIELDS = {"timestamp": "t", "open": "o", "high": "h", "low": "l", "close": "c", "volume": "v"}
BAR_FIELDS |= {"vwap": "vw", "transactions": "n"}
NEW_YORK = ZoneInfo("America/New_York")
MINUTE_IN_MS = 60_000
LARGEST_NUMBER = 10.0**18  # in an answer; no price, volume or time is larger
MOST_HEADLINES = 50
MOST_LETTERS = 500  # of a headline
KEPT_ANSWERS = 128
CALLS_AT_ONCE = 8  # to Polygon; the other threads can answer other requests
BUSY = "Polygon has not answered the requests before this one: try again in a moment"

# The SHA-256 of lightweight-charts.js 5.1.0, which the package litecharts 0.2.0 has from npm.
CHART_LIBRARY_SHA256 = "756b0ba9f58930226d6b8b9d47ad310448ab85d799ea1f7c2c02304777c10b52"
# The link in a chart, which the chart library's licence wants, inserts a style.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


# The other two scripts: the querier alone reads tables, the builder alone knows Polygon.


def load_script(name):
    """The script called name as a module. No import statement can name a file with hyphens."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, HERE / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


for part in ("query-lookup-table.py", "build-lookup-table.py", "templates"):
    if not (HERE / part).exists():
        raise SystemExit(f"{HERE / part} not found: copy it there, beside this script")
querier = load_script("query-lookup-table.py")
TABLE_KINDS = (querier.LookupTable,)  # no plain pickle, which would have to be read whole


def version_of(table):
    """A text that changes whenever the table's file is replaced."""
    state = os.fstat(table.file.fileno())
    return f"{state.st_mtime_ns:x}-{state.st_size:x}-{state.st_ino:x}"


# Numbers and sentences, as people read them.


def is_number(value):
    return isinstance(value, (int, float)) and isfinite(value)


format_count = "{:,.0f}".format


def format_change(value):
    """A change in percent with its sign: +1.50, -0.25; 0.00 has none."""
    return f"{value:+,.2f}" if direction(value) else "0.00"


def format_figure(value):
    """A whole number from 100 on, else at most three significant digits: 6,291, 12.4, 0.55."""
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def format_price(value):
    """A price with 2 decimals; below 1 with up to four significant digits: 0.01275, 0.50."""
    if not 0 < value < 1:
        return f"{value:,.2f}"
    whole, _, decimals = f"{value:.{3 - floor(log10(value))}f}".partition(".")
    return f"{whole}.{decimals.rstrip('0'):0<2}"


def or_dash(value, format_number):
    """format_number(value), or a dash if value is None, nan or infinite."""
    return format_number(value) if is_number(value) else "—"


def percent_text(change):
    """A change with its sign and unit: +1.50 %; a dash if it is not known."""
    return or_dash(change, lambda change: f"{format_change(change)} %")


def direction(value):
    """The CSS class of a change in percent: "up" or "down"; empty if none is shown."""
    if not is_number(value) or not round(value, 2):
        return ""
    return "up" if value > 0 else "down"


class Column(NamedTuple):
    """A column of the list of anomalies."""

    field: str  # of a row
    heading: str
    format: Callable  # from the field's value to its text
    meaning: str
    order: str = "desc"  # in which the list is first sorted by this column
    days: int = 0  # of a change after the day: how many trading days later


def after_column(days):
    span = "next trading day" if days == 1 else f"next {days} trading days"
    meaning = f"From the close to the last close of the {span}. *: maybe a split in between."
    return Column(f"after_{days}", f"After {days} %", format_change, meaning, days=days)


LIST_COLUMNS = [
    Column("ticker", "Ticker", str, "A stock's short name.", "asc"),
    Column("trades", "Trades", format_count, "How many times it was traded on this day."),
    Column("avg_trades", "Avg trades", format_figure, "The average trades of its baseline."),
    Column("std_trades", "Std dev", format_figure, "The deviation of its baseline's trades."),
    Column("z_score", "Z-score", "{:,.2f}".format, "Its trades, in deviations above the average."),
    Column("times_normal", "Times normal", "{:,.1f}".format, "Trades divided by the average."),
    Column("record", "Record", format_count, "So many rows before had fewer trades. All: each."),
    Column("close_price", "Close", format_price, "The last price of the day."),
    Column("price_diff", "Price diff %", format_change, "The change from its close before."),
]
# They are shown if the user chooses them or sorts by them.
OPTIONAL_COLUMNS = [
    Column("long_z", "Long z", "{:,.2f}".format, "As Z-score, of logarithms, over 60 rows before."),
    Column("dollar_volume", "Dollar volume", format_count, "The day's volume times its close."),
    Column("gap", "Gap %", format_change, "From its close before to this day's open."),
    *map(after_column, querier.HORIZONS),
]
COLUMN_OF = {column.field: column for column in [*LIST_COLUMNS, *OPTIONAL_COLUMNS]}


def list_columns(options):
    wanted = {*options.columns, options.sort}
    return LIST_COLUMNS + [column for column in OPTIONAL_COLUMNS if column.field in wanted]


def cells(row, columns):
    """(CSS classes, text) of a row in each of the columns. The template calls this once a row.

    A record is "all 116" if all 116 earlier rows had fewer trades.
    """
    found = []
    for column in columns:
        value, further_class = row[column.field], ""
        text = or_dash(value, column.format)
        if column.format is format_change:
            further_class = direction(value)
        elif column.field == "times_normal" and row["z_score"] > querier.Z_THRESHOLD:
            further_class = "anomaly"
        elif column.field == "record" and value == row["earlier_rows"]:
            text = f"all {text}"
        if column.days and is_number(value) and 0 < (row["split_after"] or 0) <= column.days:
            text += "*"
        found.append((f"{column.field} {further_class}".rstrip(), text))
    return found


def bar_percent(times_normal):
    """The length of the bar behind "times normal": logarithmic, 100 from 1,000 times on."""
    if not is_number(times_normal) or times_normal <= 1:
        return 0
    return min(100, round(log10(times_normal) * 100 / 3))


def trades_text(row, window):
    """A sentence that compares a row's trades with its baseline. row is a dict of row_of."""
    trades, average, z_score = row["trades"], row["avg_trades"], row["z_score"]
    if not is_number(average):
        return f"{trades:,} trades, and no baseline yet: that takes {window} earlier rows."
    if not average:
        return f"{trades:,} trades, after none at all in the {window} rows before."
    times = trades / average
    times = format_count(times) if times >= 10 else f"{times:.1f}"
    baseline = f"{'five' if window == 5 else window} rows before ({format_figure(average)})"
    sentence = f"{trades:,} trades, {times} \N{MULTIPLICATION SIGN} the average of its {baseline}"
    if not is_number(z_score):
        return f"{sentence}."
    side = "above" if z_score >= 0 else "below"
    each = format_figure(row["std_trades"])
    return f"{sentence}, {abs(z_score):,.1f} standard deviations (each {each}) {side} it."


def record_text(row):
    """A sentence on how many rows before had fewer trades; empty below LEAST_RECORD."""
    record = row["record"]
    if record < LEAST_RECORD:
        return ""
    if record == row["earlier_rows"]:
        return f"More trades than in each of its {record:,} earlier rows."
    return f"More trades than in each of the {record:,} rows before."


# What the querier's marks mean. Its marks_of decides which of them a row has.
MARK_REASONS = {
    "split?": "The open is about the previous close times a split's ratio, such as 2 or 1/3.",
    "new": f"It has fewer than {querier.NEW_ROWS} earlier rows; the table has more earlier days.",
    "thin": f"It usually has fewer than {querier.THIN_TRADES} trades a day.",
    "stale": "Its baseline reaches back over more than twice as many trading days as it has rows.",
    "test": "It is one of the exchanges' test symbols.",
}


def mark_name(mark):
    """The name of a mark in addresses and on the querier's command line: split for split 1:20."""
    return mark.split()[0].rstrip("?")


def mark_reason(mark):
    """What a mark means: one of MARK_REASONS, or that a split is listed."""
    listed = "A listed split: 1:20 makes one share of 20. The price diff and the gap show it too."
    return MARK_REASONS.get(mark, listed)


# The exchange's clock.


def utc_now():
    return datetime.datetime.now(datetime.timezone.utc)


def utc_from_new_york(date, hour, minute=0):
    """The datetime in UTC of that time of a day in New York. hour may be 24."""
    midnight = datetime.datetime.fromisoformat(date).replace(tzinfo=NEW_YORK)
    in_new_york = midnight + datetime.timedelta(hours=hour, minutes=minute)
    return in_new_york.astimezone(datetime.timezone.utc)


def market_hours(date):
    """When the market opens and closes on a day: two datetimes in UTC.

    It closes at 16:00 in New York, but at 13:00 on the day after Thanksgiving, and on July 3 and
    December 24 from Monday to Thursday. On a Friday, it is closed all day instead, because the
    holiday falls on the Saturday. Source: https://www.nyse.com/markets/hours-calendars.
    """
    day = datetime.date.fromisoformat(date)
    friday = 4  # as weekday() counts, from Monday, 0
    closes_early = (day.month, day.day) in ((7, 3), (12, 24)) and day.weekday() < friday
    if day.month == 11:  # Thanksgiving is the fourth Thursday
        closes_early = day.weekday() == friday and 23 <= day.day <= 29
    return utc_from_new_york(date, 9, 30), utc_from_new_york(date, 13 if closes_early else 16)


def is_past(date):
    """Whether that day is over in New York."""
    return utc_from_new_york(date, 24) < utc_now()


# What an address asks for.


def plain_number(text):
    """The number in text; a whole one is an int, so that views show 3, not 3.0."""
    number = querier.number_argument(text)
    return int(number) if number == int(number) else number


def one_of(choices):
    """A parser that accepts one of choices."""

    def parse(text):
        if text not in choices:
            raise ValueError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return parse


def several(parse):
    """A parser of values separated by commas: a tuple of what parse returns for each."""
    return lambda text: tuple(map(parse, text.split(",")))


def marks_to_skip(text):
    return tuple(sorted(querier.marks_argument(text), key=querier.MARKS.index))


COUNT = querier.whole_number(0, 999_999_999)
# The default of each of an address's parameters, and the parser of its text.
PARAMETERS = {
    "date": ("", querier.date_argument),  # empty: the table's last one
    "threshold": (querier.Z_THRESHOLD, plain_number),
    "sort": ("trades", one_of(COLUMN_OF)),
    "order": ("", one_of(["asc", "desc"])),  # empty: the column's own
    "filter": ("", str),  # a part of a ticker
    "ticker": ("", str),
    # These leave out anomalies, as the querier's options of the same names do.
    "min_price": (0, plain_number),
    "min_trades": (0, COUNT),
    "min_record": (0, COUNT),
    "min_long_z": (None, plain_number),
    "min_dollars": (None, plain_number),
    "type": ((), several(str)),
    "skip": ((), marks_to_skip),
    "columns": ((), several(one_of([column.field for column in OPTIONAL_COLUMNS]))),
}
DEFAULTS = [default for default, _ in PARAMETERS.values()]


class Options(namedtuple("Options", PARAMETERS, defaults=DEFAULTS)):
    """What an address asks for, one value for each of PARAMETERS."""

    needs_marks = needs_type = True  # for the querier's anomaly_of


def parameter(name, parse, default):
    """The request's parameter of that name, parsed; default if it is empty. Raises BadRequest."""
    # A form sends a parameter for each of its checkboxes.
    text = ",".join(filter(None, request.args.getlist(name)))
    try:
        return parse(text) if text else default
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise BadRequest(f"{name}: {error}") from None


def requested_options(*required):
    """The Options in the request's address. Raises BadRequest, also if one in required is empty."""
    options = Options(
        *(parameter(name, parse, default) for name, (default, parse) in PARAMETERS.items())
    )
    for name in required:
        if not getattr(options, name):
            raise BadRequest(f"{name} is missing")
    return options._replace(order=options.order or COLUMN_OF[options.sort].order)


def address_of(options, route="scanner", **changes):
    """The address of options with changes. Parameters that have their defaults are left out."""
    options = options._replace(**changes)
    defaults = Options(order=COLUMN_OF[options.sort].order)
    parameters = {}
    for name, value, default in zip(PARAMETERS, options, defaults):
        if name == "skip":
            value = tuple(map(mark_name, value))
        if value != default:
            parameters[name] = ",".join(value) if isinstance(value, tuple) else value
    return flask.url_for(route, **parameters)


# The views of a day and of a ticker. Each view is read from one open table.


def neighbours(items, item):
    """(item before, item after), each may be None. (None, first item) if item is missing."""
    if item not in items:
        return None, items[0] if items else None
    i = items.index(item)
    return items[i - 1] if i else None, items[i + 1] if i + 1 < len(items) else None


def read_day(table, date, needs_after):
    """(session, page, LaterCloses) of a date, as in the querier's read_days. Raises NoDataError."""
    sessions = querier.select_sessions(table, [date])
    return next(iter(querier.read_days(table, sessions, needs_after)))


def select_and_sort(anomalies, options):
    """The anomalies that options select, in their order; None and nan come last."""
    field, text = options.sort, plain_form(options.filter)
    rows = querier.sort_anomalies(querier.select_anomalies(anomalies, options), field)
    if options.order not in ("", COLUMN_OF[field].order):
        rows.reverse()
        # Reversed, the rows without a number are the first ones: move them to the end.
        rows.sort(key=lambda row: field != "ticker" and not is_number(row[field]))
    return [row for row in rows if text in plain_form(row["ticker"])]


def plain_form(ticker):
    """The ticker as the filter compares it: BRK.B, BRK-B, BRK/B and brk.b are the same one."""
    return re.sub("[-/]", ".", ticker.casefold())


def find_ticker(tickers, text):
    """The one of tickers that text names, or None.

    It is text itself, else the only ticker that is text written another way. If there are several
    such, it is text in upper case.
    """
    if text in tickers:
        return text
    alike = querier.tickers_like(text, tickers) if text else []
    if len(alike) == 1:
        return alike[0]
    return text.upper() if text.upper() in alike else None


def busiest_with_prefix(page, text):
    """The ticker of a day page with the most trades whose name begins with text, or None."""
    start = text.casefold()
    alike = [i for i, ticker in enumerate(page["ticker"]) if ticker.casefold().startswith(start)]
    return page["ticker"][max(alike, key=lambda i: page["trades"][i])] if alike else None


def read_day_view(table, options, needs_after=False):
    """What a view of a day shows, as options ask for it: a dict of these names.

    With needs_after, its anomalies have the facts of LaterCloses. If the table lacks the day, some
    of the names are missing. If it lacks the day or the ticker, problem is the reason.
    """
    dates = table.dates
    date = options.date or dates[-1]
    previous, following = neighbours(sorted({*dates, date}), date)
    view = {
        "date": date,
        "weekday": datetime.date.fromisoformat(date).strftime("%A"),
        "previous": previous,  # the table's date before this one, or None
        "next": following,
        "first": dates[0],  # the table's first date
        "last": dates[-1],
        "window": table.window,
        "number_of_tickers": 0,  # of the day; 0 if the table does not have it
        "anomalies": [],  # all of them
        "rows": [],  # those that options select, in their order
    }
    try:
        session, page, after = read_day(table, date, needs_after)
    except querier.NoDataError as error:
        return {**view, "problem": str(error), "nearest": querier.nearest_date(dates, date)}
    anomalies = [
        read_row(table, session, page, i, options, after)
        for i in querier.indexes_of_anomalies(page, options.threshold)
    ]
    anomalies = querier.sort_anomalies(anomalies, "trades")  # also the order of equal ones below
    rows = select_and_sort(anomalies, options)
    filtered_ticker = find_ticker(page["ticker"], options.filter)  # it need not be an anomaly
    if options.filter and not filtered_ticker and not rows:
        filtered_ticker = busiest_with_prefix(page, options.filter)
    previous_ticker, next_ticker = neighbours([row["ticker"] for row in rows], options.ticker)
    return {
        **view,
        **find_ticker_row(table, session, page, options),
        "number_of_tickers": len(page["ticker"]),
        "anomalies": anomalies,
        "rows": rows,
        "has_baselines": any(map(isfinite, page["avg_trades"])),
        # What is said of the day as a whole; each may be None.
        "share": querier.anomaly_share(table, session),
        "long_z_share": querier.high_long_z_share(table, session),
        "expiration": querier.expiration_share(table, session),
        "previous_ticker": previous_ticker,  # the one in rows before that of options, or None
        "next_ticker": next_ticker,  # the first in rows if they lack the ticker of options
        "filtered_ticker": filtered_ticker,
    }


def read_row(table, session, page, i, options, after=None):
    """Row i of a day page: the querier's anomaly_of, whether it is one or not, and times_normal.

    after is the LaterCloses of the day, or None if the row needs none.
    """
    facts = after.of_row(i) if after else {}
    row = querier.anomaly_of(page, i, session, table, options, facts)
    row["times_normal"] = row["trades"] / row["avg_trades"] if row["avg_trades"] else nan
    return row


def find_ticker_row(table, session, page, options):
    """The names that the chosen ticker adds to read_day_view: none if no ticker is chosen.

    ticker_row is its row of the day page, which is read_row's. If there is no such row, problem is
    the reason, and similar_ticker is how the day page writes the ticker, or None.
    """
    ticker = options.ticker
    if not ticker:
        return {}
    if ticker in page["ticker"]:
        i = page["ticker"].index(ticker)
        return {"ticker_row": read_row(table, session, page, i, options)}
    similar = find_ticker(page["ticker"], ticker)
    hint = f"; it has {similar}" if similar else ""
    problem = f"no trades of {ticker} on {page['date'][0]}{hint}"
    return {"problem": problem, "similar_ticker": similar}


def raise_problem(day):
    """Raise a NoDataError, with the nearest date, if what read_day_view returned has a problem."""
    if "problem" in day:
        error = querier.NoDataError(day["problem"])
        error.nearest = day.get("nearest")
        raise error


def read_ticker_view(table, options, day):
    """One ticker's day in words, and where to go from there: a dict of these names.

    day is what read_day_view returns. None if it has no row of options' ticker.
    """
    row = day.get("ticker_row")
    if not row:
        return None
    history, _ = read_history_and_index(table, options.ticker, day["date"])
    dates = history["date"]
    anomalies = {dates[i] for i in querier.indexes_of_anomalies(history, options.threshold)}
    # The day itself need not be an anomaly.
    previous_anomaly, next_anomaly = neighbours(sorted({*anomalies, day["date"]}), day["date"])
    previous_day, next_day = neighbours(dates, day["date"])
    return {
        "price": or_dash(row["close_price"], format_price),
        "change": percent_text(row["price_diff"]),
        "words": f"{trades_text(row, table.window)} {record_text(row)}".strip(),
        "previous_anomaly": previous_anomaly,  # the date of its last one before this day, or None
        "next_anomaly": next_anomaly,
        "previous_day": previous_day,  # the date of its row before this one, or None
        "next_day": next_day,
        # It is not certain how other sites write tickers such as BACpL, ACHR.WS and AACT.U.
        "is_known_elsewhere": re.fullmatch(PLAIN_TICKER, options.ticker),
    }


def read_history_and_index(table, ticker, date):
    """A ticker's history, as the table has it, and the index of date in it. Raises NoDataError."""
    querier.select_sessions(table, [date])  # if no ticker has this date, its error says more
    history = table.read_history(ticker)
    if date not in history["date"]:
        raise querier.NoDataError(f"no trades of {ticker} on {date}")
    return history, history["date"].index(date)


def read_after(table, ticker, date):
    """What came after a ticker's day: a list with a dict for each of the querier's HORIZONS.

    days     the horizon
    state    "known"; "unknown" while fewer days follow in the table; "gone" if the ticker has no
             row on any of these days; "none" if it has one, but the day's close is 0
    change   of the ticker's price since that day, in percent; None unless the state is "known"
    split    whether there is a suspected split in between
    median   the median of the change over all tickers of the day, None if none has one

    Raises NoDataError.
    """
    _, page, after = read_day(table, date, needs_after=True)
    if ticker not in page["ticker"]:
        raise querier.NoDataError(f"no trades of {ticker} on {date}")
    i, horizons = page["ticker"].index(ticker), []
    for days in querier.HORIZONS:
        horizon = {"days": days, "change": None, "state": "unknown", "split": False, "median": None}
        if days in after.last_closes:
            changes = after.changes(days)
            change = float(changes[i])  # nan if the ticker is gone, inf if the close is 0
            horizon["change"] = change
            horizon["state"] = "known" if isfinite(change) else "gone" if isnan(change) else "none"
            horizon["split"] = bool(0 < after.split_days[i] <= days)
            horizon["median"] = querier.median(changes)
        horizons.append(querier.without_nan(horizon))
    return horizons


# Minute bars and headlines, from Polygon.


class PolygonError(Exception):
    """Why Polygon gave no bars or headlines: a sentence, and the HTTP status that tells it.

    retry_after is how many seconds to wait before the next request, or None.
    """

    def __init__(self, sentence, status=502, retry_after=None):
        super().__init__(sentence)
        self.status, self.retry_after = status, retry_after


@cache
def load_builder():
    """build-lookup-table.py, which knows how Polygon is asked. Loaded when that is needed first."""
    try:
        return load_script("build-lookup-table.py")
    except SystemExit as error:  # one of its packages is missing
        raise PolygonError(str(error), 503) from None


class PolygonBars:
    """Minute bars and headlines from the Polygon API at api_url."""

    def __init__(self, api_url, seconds=10):  # to connect, and to wait for more of an answer
        self.api_url, self.seconds = api_url, seconds
        self.calls_left = BoundedSemaphore(CALLS_AT_ONCE)
        self.fetch_once = lru_cache(KEPT_ANSWERS)(self.fetch)  # an error is not remembered

    def answer(self, date, question, *arguments):
        """What question(client, *arguments) returns: minute_bars or headlines of a date.

        An answer is remembered if it cannot change, because the day is over. Raises PolygonError.
        """
        fetch = self.fetch_once if is_past(date) else self.fetch
        return json.loads(fetch(question, *arguments))

    def fetch(self, question, *arguments):
        """The answer as JSON, which takes less memory than its dicts."""
        builder = load_builder()
        if not self.calls_left.acquire(blocking=False):
            raise PolygonError(BUSY, 503)
        try:
            client = builder.polygon_client(self.api_url, connect=self.seconds, read=self.seconds)
            return json.dumps(question(client, *arguments))
        except builder.PolygonError as error:
            raise PolygonError(str(error), error.status, error.retry_after) from None
        finally:
            self.calls_left.release()


def minute_bars(client, ticker, date):
    """A day's unadjusted minute bars by time, dicts of BAR_FIELDS. Raises PolygonError.

    timestamp is in milliseconds UTC. vwap and transactions may be None.
    """
    # The ticker is one part of the path. quote leaves dots as they are, and ".." leads upwards.
    part = quote(ticker, safe="") if ticker.strip(".") else ticker.replace(".", "%2E")
    bars = load_builder().results_of(
        client.list_aggs(part, 1, "minute", date, date, adjusted=False, limit=50_000, raw=True)
    )
    if not all(map(is_bar, bars)):
        raise PolygonError(load_builder().BAD_ANSWER)
    start, end = (utc_from_new_york(date, hour).timestamp() * 1000 for hour in (0, 24))
    # If several bars share a minute, the last is kept.
    minutes = {bar["t"] // MINUTE_IN_MS: bar for bar in bars if start <= bar["t"] < end}
    if not minutes:
        raise PolygonError(f"Polygon has no minute bars of {ticker} on {date}", 404)
    return [
        {field: minutes[minute].get(name) for field, name in BAR_FIELDS.items()}
        for minute in sorted(minutes)
    ]


def is_bar(bar):
    """Whether bar is a dict of finite numbers, as far as a minute bar needs them."""
    return isinstance(bar, dict) and all(
        type(bar.get(name)) in (int, float) and abs(bar[name]) < LARGEST_NUMBER
        for name in BAR_FIELDS.values()
        if name not in ("vw", "n") or bar.get(name) is not None
    )


def headlines(client, ticker, start, end):
    """The headlines on a ticker from start to end, two times such as 2024-10-18T20:00:00Z.

    They are dicts of title, publisher, published_utc and url, of which the last three may be None.
    The oldest comes first. There are at most MOST_HEADLINES, which takes one request. Raises
    PolygonError.
    """
    asked = {"published_utc_gte": start, "published_utc_lte": end, "limit": MOST_HEADLINES}
    response = client.list_ticker_news(ticker, order="asc", sort="published_utc", raw=True, **asked)
    articles = load_builder().results_of(response)
    found = [as_headline(article) for article in articles if isinstance(article, dict)]
    found.sort(key=lambda headline: headline["published_utc"] or end)
    in_time = (each for each in found if start <= (each["published_utc"] or start) <= end)
    return [headline for headline in in_time if headline["title"]][:MOST_HEADLINES]


def as_headline(article):
    """The headline of Polygon's article, a dict that may hold anything. title may be empty."""
    publisher = article.get("publisher")
    name = publisher.get("name") if isinstance(publisher, dict) else None
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    return {
        "title": one_line(article.get("title")),
        "publisher": one_line(name) or None,
        "published_utc": text_like(time, article.get("published_utc")),
        "url": text_like("(?i)https?://[!-~]{1,2000}", article.get("article_url")),
    }


def text_like(pattern, text):
    """text if it is a str that matches pattern as a whole, else None."""
    return text if isinstance(text, str) and re.fullmatch(pattern, text, re.ASCII) else None


def one_line(text):
    """text on one line, cut to MOST_LETTERS; empty if text is no str."""
    if not isinstance(text, str):
        return ""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(text.split())[:MOST_LETTERS]


# The routes.


def from_table(read):
    """read, whose first argument is an open LookupTable, as a function of its other arguments.

    TABLE_READER runs it.
    """

    def open_and_read(*arguments):
        with querier.open_table(current_app.config["TABLE_PATH"], TABLE_KINDS) as table:
            return read(table, *arguments)

    @wraps(read)
    def read_and_wait(*arguments):
        # Flask knows the app and the request by context variables.
        return TABLE_READER.submit(copy_context().run, open_and_read, *arguments).result()

    return read_and_wait


def is_from_other_site():
    """Whether another site made the browser send this request; old browsers do not say it."""
    return request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none")


def may_be_opened_by_other_site():
    """Whether another site may have made the browser open this view.

    By plain http to another computer, browsers do not send Sec-Fetch-Site. Then only the Referer,
    which leaves this server for itself alone, shows that an own view led here.
    """
    is_unknown = "Sec-Fetch-Site" not in request.headers
    is_own = (request.referrer or "").startswith(request.host_url)
    return is_from_other_site() or (is_unknown and not is_own)


def render_view(template, table, options, needs_after, allows_problem=False):
    """(HTML, status) of a template, filled with the day and the ticker that options ask for.

    If the table lacks the date or the ticker, this raises NoDataError. With allows_problem the view
    says so instead, and the status is 404 for a missing date, 200 for a missing ticker.
    """
    day = read_day_view(table, options, needs_after)
    if not allows_problem:
        raise_problem(day)
    heading = f"{options.ticker} on {day['date']}" if options.ticker else day["date"]
    html = render_template(
        template,
        **day,
        detail=read_ticker_view(table, options, day),
        options=options._replace(date=day["date"]),
        title=f"{heading} · anomalies",
        table_version=version_of(table),
        opened_by_other_site=may_be_opened_by_other_site(),
    )
    return html.encode(), 200 if day["number_of_tickers"] else 404


@from_table
def scanner(table):
    """The view of a day; 400, or 404 if the table does not have the date."""
    options = requested_options()
    needs_after = bool({*options.columns, options.sort} & {*querier.AFTER_FIELDS})
    return render_view("scanner.html", table, options, needs_after, allows_problem=True)


@from_table
def chart(table):
    """The view of a ticker's day alone; 400, or 404 if the table does not have it."""
    options = requested_options("ticker", "date")
    return render_view("chart.html", table, options, options.sort in querier.AFTER_FIELDS)


@from_table
def anomalies_csv(table):
    """A day's list as the querier writes it; 400, or 404 if the table does not have the date."""
    # Ignore a chosen ticker: if it had no row on this day, raise_problem would answer 404.
    options = requested_options()._replace(ticker="")
    day = read_day_view(table, options, needs_after=True)
    raise_problem(day)
    csv = "".join(querier.as_csv([querier.Listing(day["date"], day["rows"], [])]))
    headers = {"Content-Disposition": f'attachment; filename="anomalies-{day["date"]}.csv"'}
    return Response(csv, 200, headers, mimetype="text/csv")


@from_table
def api_days(table):
    """The table's dates."""
    return {"days": table.dates}


@from_table
def api_table(table):
    """The table's version, a text that changes with the file, and its last date."""
    return {"version": version_of(table), "last": table.dates[-1]}


@from_table
def api_anomalies(table):
    """A day's anomalies with the querier's fields, without what came after; 400, 404."""
    asked = requested_options()
    day = read_day_view(table, Options(date=asked.date, threshold=asked.threshold))
    raise_problem(day)
    fields = [*querier.ROW_FIELDS, *querier.FACT_FIELDS, "marks", "type", "name"]
    rows = ({field: row[field] for field in fields} for row in day["anomalies"])
    return current_app.json.response(
        date=day["date"],
        threshold=asked.threshold,
        tickers=day["number_of_tickers"],
        anomalies=list(map(querier.without_nan, rows)),
    )


@from_table
def api_history(table):
    """A ticker's rows around a date, oldest first; rows is their largest number, or "all".

    Each is what the querier's row_of returns, with "anomaly": whether the row is one. A quarter of
    them are after the date: fewer if the history ends earlier, more if too few rows are before.
    400, 404.
    """
    options = requested_options("ticker", "date")
    most_rows = sys.maxsize
    if request.args.get("rows") != "all":
        most_rows = parameter("rows", querier.whole_number(1, MOST_HISTORY_ROWS), HISTORY_ROWS)
    history, i = read_history_and_index(table, options.ticker, options.date)
    length = len(history["date"])
    later = min(length - i - 1, most_rows // 4)
    first = max(0, i + 1 + later - most_rows)
    anomalies = set(querier.indexes_of_anomalies(history, options.threshold))
    rows = [
        querier.without_nan({**querier.row_of(history, each), "anomaly": each in anomalies})
        for each in range(first, min(length, first + most_rows))
    ]
    asked = {"ticker": options.ticker, "date": options.date, "threshold": options.threshold}
    return {**asked, "rows": rows}


@from_table
def api_after(table):
    """What came after a ticker's day, for the ticker and the median ticker; 400, 404."""
    options = requested_options("ticker", "date")
    horizons = read_after(table, options.ticker, options.date)
    html = render_template("after.html", horizons=horizons)
    return {"ticker": options.ticker, "date": options.date, "horizons": horizons, "html": html}


@from_table
def previous_close(table, options):
    """(date, close_price) of the ticker's row before the date of options; either may be None."""
    history, i = read_history_and_index(table, options.ticker, options.date)
    if not i:
        return None, None
    close = history["close_price"][i - 1]
    return history["date"][i - 1], close if is_number(close) else None


def api_bars():
    """A ticker's minute bars of a date; 400, 404, and PolygonError's 429, 502, 503, 504."""
    options = requested_options("ticker", "date")
    ticker, date = options.ticker, options.date
    _, close = previous_close(options)
    opening, closing = (int(at.timestamp()) * 1000 for at in market_hours(date))
    return {
        "ticker": ticker,
        "date": date,
        "session": {"open": opening, "close": closing},
        "previous_close": close,
        "bars": current_app.config["POLYGON"].answer(date, minute_bars, ticker, date),
    }


def api_headlines():
    """A ticker's headlines up to 20:00 of a date in New York.

    They begin when the market closed on the day of its previous row; without one, at midnight.
    400, 404, and PolygonError's 429, 502, 503, 504.
    """
    options = requested_options("ticker", "date")
    ticker, date = options.ticker, options.date
    previous, _ = previous_close(options)
    start = market_hours(previous)[1] if previous else utc_from_new_york(date, 0)
    start, end = (f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in (start, utc_from_new_york(date, 20)))
    found = current_app.config["POLYGON"].answer(date, headlines, ticker, start, end)
    return {"ticker": ticker, "date": date, "from": start, "to": end, "headlines": found}


@cache
def find_chart_library():
    """The path of lightweight-charts.js in the Python package litecharts.

    None if the package is not installed, or if its file is not the official build of version 5.1.0.
    """
    package = importlib.util.find_spec("litecharts")  # this does not import it
    path = package and Path(package.origin).parent / "js" / "lightweight-charts.js"
    if not path or not path.is_file():
        return None
    return path if sha256(path.read_bytes()).hexdigest() == CHART_LIBRARY_SHA256 else None


def lightweight_charts_js():
    """The library that draws the charts; 404 if find_chart_library does not find it."""
    path = find_chart_library()
    if not path:
        raise NotFound
    return flask.send_from_directory(path.parent, path.name, max_age=365 * 86_400)


ROUTES = {
    "/": scanner,
    "/chart": chart,
    "/anomalies.csv": anomalies_csv,
    "/api/days": api_days,
    "/api/table": api_table,
    "/api/anomalies": api_anomalies,
    "/api/history": api_history,
    "/api/after": api_after,
    "/api/bars": api_bars,
    "/api/headlines": api_headlines,
    "/lightweight-charts.js": lightweight_charts_js,
}


# Guards, and the answer to what goes wrong.


def refuse_unwanted_request():
    """Before each request: refuse what a foreign site may have made, and all but GET and HEAD.

    This prevents DNS rebinding: a site can make its own host name lead to this server, and its
    scripts could then read the answers. So a request must name one of the app's hosts. If these
    include one of the WILDCARDS, any IP address will do: a site decides where its name leads, but
    not where an IP address leads. (Flask's TRUSTED_HOSTS knows neither IPv6 nor "any address".)
    A site can also make a browser send requests to /api, whose answers it cannot read.
    """
    host, hosts = re.sub(r":\d+$", "", request.host.lower()), current_app.config["HOSTS"]
    if host not in hosts and not (WILDCARDS & {*hosts} and re.fullmatch(IP_ADDRESS, host)):
        raise BadRequest("this server has no such host name: --allow-host NAME would give it one")
    if request.method not in ("GET", "HEAD"):
        raise MethodNotAllowed
    lacks_header = request.path in SPENDS_THE_KEY and request.headers.get(PAGE_HEADER) != "1"
    if lacks_header or (request.path.startswith("/api/") and is_from_other_site()):
        raise Forbidden("only this server's own views may ask for this")


def send_in_pieces(response):
    """After each request: let the threads that send a long list hold little of it at a time."""
    if not response.direct_passthrough:
        content = response.get_data()
        response.response = (content[i : i + 2**16] for i in range(0, len(content), 2**16))
    return response


def add_security_headers(response):
    """After each request: add headers that limit what a browser does with the answer."""
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers.setdefault("Cache-Control", "no-cache")
    return response


def error_response(error):
    """The response that says what is wrong: JSON for an address below /api, else a view.

    The status is 503 for a TableError, 404 for a NoDataError; the other errors bring their own.
    """
    status, headers, answer = 503, {}, {"error": str(error)}
    if isinstance(error, querier.NoDataError):
        status = 404
    elif isinstance(error, PolygonError):
        status = error.status
        if error.retry_after is not None:
            answer["retry_after"] = ceil(error.retry_after)
            headers["Retry-After"] = str(answer["retry_after"])
    elif isinstance(error, HTTPException):
        status = error.code
        has_sentence = status in (400, 403)  # which this script raises
        answer["error"] = error.description if has_sentence else f"{error.name}: {request.path}"
        if status == 405:
            headers["Allow"] = "GET, HEAD"
    if request.path.startswith("/api/"):
        return answer, status, headers
    nearest = getattr(error, "nearest", None)
    html = render_template(
        "error.html", sentence=answer["error"], nearest=nearest, awaits_table=status == 503
    )
    return html, status, headers


# The app, the server and the command line.


def create_app(table_path, polygon, hosts=LOOPBACK):
    """The Flask app that shows the table at table_path; bars and headlines come from polygon.

    It answers requests for hosts only: names and addresses in lower case, without a port.
    """
    app = Flask(
        __name__, root_path=HERE, static_folder="templates/static", static_url_path="/static"
    )
    app.config.from_mapping(TABLE_PATH=table_path, POLYGON=polygon, HOSTS=hosts)
    for address, view in ROUTES.items():
        app.add_url_rule(address, view_func=view)
    app.before_request(refuse_unwanted_request)
    app.after_request(send_in_pieces)
    app.after_request(add_security_headers)
    for kind in (querier.TableError, querier.NoDataError, PolygonError, HTTPException):
        app.register_error_handler(kind, error_response)
    app.json.sort_keys = False
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    helpers = (bar_percent, cells, direction, list_columns, mark_name, mark_reason, percent_text)
    app.jinja_env.globals.update({helper.__name__: helper for helper in helpers})
    app.jinja_env.globals.update(
        address=address_of,
        chart_address=partial(address_of, route="chart"),
        csv_address=partial(address_of, route="anomalies_csv"),
        chart_library_version=find_chart_library() and CHART_LIBRARY_SHA256[:8],
        marks=querier.MARKS,
        optional_columns=OPTIONAL_COLUMNS,
        z_threshold=querier.Z_THRESHOLD,
    )
    mimetypes.add_type("text/javascript", ".js")  # some Windows systems say otherwise
    return app


class CannotServeError(Exception):
    """Why the server cannot start, in one sentence for the user."""


def listening_socket(host, port):
    """A socket that listens at host and port. Raises CannotServeError."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        # Python adds " (while attempting to bind on address ...)", which the message says already.
        reason = (error.strerror or str(error)).partition(" (")[0]
    except (TypeError, ValueError):  # a name that no host can have
        reason = "no such host"
    raise CannotServeError(f"cannot listen on {host}, port {port}: {reason}")


def serve(options):
    """Show a table until a signal ends it. Raises TableError, CannotServeError."""
    # Report a bad table at start-up, not on the first request.
    with querier.open_table(options.table, TABLE_KINDS) as table:
        read_day_view(table, Options())
    listening = listening_socket(options.host, options.port)
    name = f"[{options.host}]" if ":" in options.host else options.host
    hosts = {host.lower() for host in (*LOOPBACK, name, *options.allow_host)}
    app = create_app(options.table, PolygonBars(options.api_url), hosts)
    for logger in ("waitress", "RESTClient", "urllib3"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    # No request needs a body: refuse large ones before waitress writes them to a file.
    limits = {"threads": THREADS, "max_request_body_size": 2**16}
    server = create_server(app, sockets=[listening], ident=None, **limits)
    port = listening.getsockname()[1]
    print(f"http://{'localhost' if options.host in LOOPBACK else name}:{port}", flush=True)
    run_until_signal(server)


def run_until_signal(server):
    """Run a waitress server. Raises KeyboardInterrupt after Ctrl-C, SystemExit after SIGTERM."""
    endings = [KeyboardInterrupt()]

    def terminate(*_):
        endings.append(SystemExit(143))
        raise endings[-1]

    signal.signal(signal.SIGTERM, terminate)
    server.run()  # which ends on both exceptions, but does not pass them on
    raise endings[-1]


def host_name(text):
    """An argument's type: a host's name or IPv4 address, without a port."""
    if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no host name such as my-computer.local")
    return text


def url_argument(text):
    """An argument's type: an API's URL. It is returned without a slash at its end."""
    if not re.fullmatch(r"https?://[\w.\-\[\]:]+(/[\w./\-]*)?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no address such as {API_URL}")
    return text.rstrip("/")


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    file = "the table to show (default lookup_table.pkl)"
    add("--table", default="lookup_table.pkl", metavar="FILE", help=file)
    port = "the port to listen on (default 8888)"
    add("--port", type=querier.whole_number(0, 65_535), default=8888, metavar="PORT", help=port)
    host = "the address to listen on (default 127.0.0.1, which only this computer reaches). With "
    host += "another one, everyone in that network can read the page and use your key"
    add("--host", default="127.0.0.1", help=host)
    name = "a host name by which the page may be asked for; can be given several times"
    add("--allow-host", type=host_name, action="append", default=[], metavar="NAME", help=name)
    url = "where minute bars and headlines come from; your key is in POLYGON_API_KEY or "
    url += f"MASSIVE_API_KEY (default {API_URL})"
    add("--api-url", type=url_argument, default=API_URL, metavar="URL", help=url)
    options = parser.parse_args(argv)
    if not options.host:
        parser.error("--host is empty: name an address")
    return options


def main(argv=None):
    options = parse_arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if sys.stdout is None:
            raise OSError(0, "stdout is closed")
        serve(options)
    except (querier.TableError, CannotServeError) as error:
        print(querier.printable(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        return querier.stdout_failed(error)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
