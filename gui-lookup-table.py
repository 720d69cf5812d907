"""Show the lookup table in a browser: a day's anomalies and a ticker's charts.

Usage:
    python gui-lookup-table.py [--host HOST] [--port PORT] [--table FILE] [--api-url URL]

Reads   ./lookup_table.pkl, which build-lookup-table.py writes; minute bars and headlines from
        Polygon, if the environment variable POLYGON_API_KEY or MASSIVE_API_KEY holds your key.
Writes  nothing. Serves http://localhost:8888 until Ctrl-C.

This script loads query-lookup-table.py, which reads the table and says what an anomaly is. It opens
the table anew for each request. If the file is replaced, the next request shows the new table; no
answer mixes the old one and the new one. The views are in templates/, their scripts and styles in
templates/static/.
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main handles it, Ctrl-C shows no traceback

import argparse
import datetime
import importlib.util
import io
import json
import logging
import mimetypes
import os
import re
import socket
import sys
import time
import zlib
from concurrent.futures import Future, wait
from contextlib import closing, contextmanager, suppress
from functools import partial
from hashlib import sha256
from itertools import islice
from math import ceil, floor, isfinite, isnan, log10, nan
from pathlib import Path
from threading import BoundedSemaphore, Lock, Thread
from types import SimpleNamespace
from typing import Callable, FrozenSet, List, NamedTuple, Optional
from urllib.parse import quote, urlencode

try:
    from flask import (
        Flask,
        Response,
        current_app,
        render_template,
        request,
        send_from_directory,
        stream_template,
        url_for,
    )
    from werkzeug.exceptions import BadRequest, Forbidden, HTTPException, MethodNotAllowed, NotFound
except ImportError as missing:
    if __name__ != "__main__":
        raise
    raise SystemExit(f"{missing.name} is missing: pip install -r requirements.txt") from None

HERE = Path(__file__).parent
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
WILDCARDS = {"0.0.0.0", "[::]"}  # to listen on all IPv4 addresses, or on all IPv6 addresses
IP_ADDRESS = r"[\d.]+|\[[\da-f:.]+\]"
HISTORY_ROWS = 40  # that /api/history returns by default
MOST_HISTORY_ROWS = 260  # the largest number it accepts; "all" asks for every row
PLAIN_TICKER = r"[A-Z]{1,5}|[A-Z]{1,4}\.[AB]"  # BRK.B is a share class
# Read day pages for one request at a time: two at once are no faster and take twice the memory.
DAY_PAGE_LOCK = Lock()
MOST_TICKERS_A_DAY, MOST_ANOMALIES = 2**16, 2**14  # the US market has some 11,000 tickers

# build-lookup-table.py has the same API_URL, LONGEST_WAIT and phrases in REFUSALS.
API_URL = "https://api.polygon.io"
BAR_FIELDS = ["timestamp", "open", "high", "low", "close", "volume", "vwap", "transactions"]
MINUTES_A_DAY = 24 * 60
MINUTE_IN_MS = 60_000
MOST_REQUESTS = 5  # for a day's bars: one is enough unless Polygon splits its answer
LARGEST_ANSWER = 4 * 2**20  # bytes; a day's bars take less than 1 MB
LARGEST_NUMBER = 10.0**18  # in an answer; no price, volume or time is larger
LONGEST_WAIT = 3600  # seconds
MOST_HEADLINES = 50
MOST_LETTERS = 500  # of a headline

KEPT_ANSWERS = 128
THREADS = 8  # of the server
# The most calls to Polygon that run at once, and the most threads that wait for Polygon. It is less
# than THREADS, so that the other threads can answer other requests.
CALLS_AT_ONCE = 6
LEAST_RECORD = 20  # rows: a shorter record is no news, and is not put into words
# The SHA-256 of lightweight-charts.js 5.1.0, which the package litecharts 0.2.0 has from npm.
CHART_LIBRARY = "756b0ba9f58930226d6b8b9d47ad310448ab85d799ea1f7c2c02304777c10b52"
M_ARENA_MAX = -8  # as in glibc's malloc.h

NO_KEY = (
    "Minute bars and headlines come from Polygon and need your key: stop this server, "
    "run export POLYGON_API_KEY=YOUR_KEY, and start it again."
)
NO_CLIENT = "Minute bars and headlines need polygon-api-client: pip install -r requirements.txt"
# What a refusal's text contains, and what the user reads.
REFUSALS = {
    "API Key": "Polygon does not accept your key: check POLYGON_API_KEY or MASSIVE_API_KEY.",
    "today's data": "Your Polygon plan has a day's minute bars only after the end of that day.",
    "timeframe": "Your Polygon plan does not reach back to this day.",
    "entitled": "Your Polygon plan does not include this.",
}
RATE_LIMIT = "Polygon's limit of requests per minute is reached: wait a minute and try again."
TIMEOUT = "Polygon did not answer in time."
NO_CONNECTION = "Polygon cannot be reached: check the connection to the internet."
SERVER_ERROR = "Polygon's server is in trouble: try again later."
BAD_ANSWER = "Polygon's answer makes no sense: try again later."
BUSY = "Polygon has not answered the requests before this one: try again in a moment."

# The link in a chart, which the chart library's licence wants, inserts a style.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


# The querier, which alone reads tables. No import statement can name a file with hyphens.


querier_spec = importlib.util.spec_from_file_location("querier", HERE / "query-lookup-table.py")
querier = importlib.util.module_from_spec(querier_spec)
querier_spec.loader.exec_module(querier)


def open_table(path):
    """A context manager: the querier's LookupTable in the file at path. Raises TableError."""
    return querier.open_table(path, kinds=(querier.LookupTable,))


def table_version(path):
    """A text that changes whenever the file at path is replaced; empty if there is no file."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return ""
    return f"{state.st_mtime_ns:x}-{state.st_size:x}-{state.st_ino:x}"


# Numbers and sentences, as people read them.


def is_number(value):
    return value is not None and isfinite(value)


format_count, format_change = "{:,.0f}".format, "{:+,.2f}".format


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


def direction(value):
    """The CSS class of a change: "up" or "down", or empty if there is none."""
    if not value or not is_number(value):
        return ""
    return "up" if value > 0 else "down"


class Column(NamedTuple):
    """A column of the list of anomalies."""

    field: str  # of a row
    heading: str
    format: Callable  # from the field's value to its text
    order: str = "desc"  # in which the list is first sorted by this column


SORT_COLUMNS = {
    column.field: column
    for column in [
        Column("ticker", "Ticker", str, "asc"),
        Column("trades", "Trades", format_count),
        Column("avg_trades", "Avg trades", format_figure),
        Column("std_trades", "Std dev", format_figure),
        Column("z_score", "Z-score", "{:,.2f}".format),
        Column("times_normal", "Times normal", "{:,.1f}".format),
        Column("record", "Record", format_count),
        Column("close_price", "Close", format_price),
        Column("price_diff", "Price diff %", format_change),
        Column("gap", "Gap %", format_change),
    ]
}
# The list can be sorted by gap, but does not show it.
LIST_COLUMNS = [column for column in SORT_COLUMNS.values() if column.field != "gap"]


def cell(row, column):
    """The text of a row in a column. A record is "all 116" if all 116 earlier rows had fewer."""
    value = row[column.field]
    if column.field == "ticker":
        return value
    is_most_ever = column.field == "record" and value == row["earlier_rows"]
    return ("all " if is_most_ever else "") + or_dash(value, column.format)


def summary_text(listed, found, tickers):
    """How many of a day's anomalies are listed, how many were found, and among how many tickers."""
    of = "" if listed == found else f"{listed:,} of "
    return f"{of}{found:,} anomal{'y' if found == 1 else 'ies'} among {tickers:,} tickers"


def empty_message(found, options, has_baselines, window):
    """Why a day's list is empty. found is the number of anomalies before options' filters."""
    if not has_baselines:
        return f"No ticker has a baseline yet: that takes {window} earlier rows."
    if not found:
        return "No ticker has a z-score above the threshold."
    if options.filter:
        return f"No anomaly whose ticker contains “{options.filter}” passes the filters."
    return "No anomaly passes the filters."


def trades_text(row, window):
    """A sentence that compares a row's trades with its baseline. row is what json_row returns."""
    trades, average, z_score = row["trades"], row["avg_trades"], row["z_score"]
    if average is None:
        return f"{trades:,} trades, and no baseline yet: that takes {window} earlier rows."
    if not average:
        return f"{trades:,} trades, after none at all in the {window} rows before."
    times = trades / average
    times = format_count(times) if times >= 10 else f"{times:.1f}"
    baseline = f"{'five' if window == 5 else window} rows before ({format_figure(average)})"
    sentence = f"{trades:,} trades, {times} \N{MULTIPLICATION SIGN} the average of its {baseline}"
    if z_score is None or row["std_trades"] is None:
        return f"{sentence}."
    side = "above" if z_score >= 0 else "below"
    each = format_figure(row["std_trades"])
    return f"{sentence}, {abs(z_score):,.1f} standard deviations (each {each}) {side} it."


def record_text(row):
    """A sentence: than how many rows before it has more trades; empty below LEAST_RECORD."""
    record = row["record"]
    if not record or record < LEAST_RECORD:
        return ""
    if record == row["earlier_rows"]:
        return f"More trades than in each of its {record:,} earlier rows."
    return f"More trades than in each of the {record:,} rows before."


def share_text(share):
    """What the querier's anomaly_share returns, in words; empty for None."""
    if not share:
        return ""
    tickers = f"{share['share']:.1f} % of {share['with_deviation']:,} tickers"
    return f"{tickers} have a z-score above {querier.Z_THRESHOLD}; usually {share['usual']:.1f} %"


def after_text(horizons):
    """What came after a ticker's day, in words. horizons are what read_after returns."""
    if horizons[0]["state"] == "unknown":
        return "not known yet, because the table ends with this day"
    if any(horizon["state"] == "none" for horizon in horizons):
        return "no change can be told, because the close was 0"
    parts, median_text = [], ""
    later = ("next day", "five days later", "twenty days later")
    within = ("on the next day", "within five days", "within twenty days")
    for horizon, then, span in zip(horizons, later, within):
        split = " (a split may lie in between)" if horizon["split"] else ""
        if horizon["state"] == "known":
            parts.append(f"{then} {or_dash(horizon['change'], '{:,.2f} %'.format)}{split}")
        elif horizon["state"] == "gone":
            parts.append(f"no trades {span}")
        if horizon["median"] is not None:  # the last one stays: that of the longest span
            median_text = f"; the median ticker {then} {horizon['median']:,.2f} %"
    return ", ".join(parts) + median_text


# What the querier's MARKS mean. Its marks_of decides which of them a row has.
MARK_REASONS = {
    "split?": "The open is about the previous close times a split's ratio, such as 2 or 1/3.",
    "new": f"It has fewer than {querier.NEW_ROWS} earlier rows; the table has more earlier days.",
    "thin": f"It usually has fewer than {querier.THIN_TRADES} trades a day.",
    "stale": "Its baseline reaches back over more than twice as many trading days as it has rows.",
    "test": "It is one of the exchanges' test symbols.",
}


class Link(NamedTuple):
    """A link to another site."""

    name: str
    url: str


def links_to(ticker):
    """Links to the ticker's filings at SEC EDGAR and to its chart at TradingView.

    EDGAR writes share classes with a dash, as BRK-B. Tickers of other forms, such as BACpL, ACHR.WS
    and AACT.U, have no links, because it is not certain how the two sites write them.
    """
    if not re.fullmatch(PLAIN_TICKER, ticker):
        return []
    company = urlencode({"action": "getcompany", "CIK": ticker.replace(".", "-")})
    return [
        Link("SEC EDGAR", f"https://www.sec.gov/cgi-bin/browse-edgar?{company}"),
        Link("TradingView", f"https://www.tradingview.com/chart/?symbol={ticker}"),
    ]


# The exchange's clock.


def first_sunday(year, month, day):
    """The first Sunday on or after that day, as a date."""
    first = datetime.date(year, month, day)
    return first + datetime.timedelta((6 - first.weekday()) % 7)


def utc_from_new_york(date, hour, minute=0):
    """The datetime in UTC of that time of a day in New York. hour may be 24.

    Summer time lasts from the second Sunday of March to the first of November; before 2007, it
    lasted from the first Sunday of April to the last of October. On a Sunday on which it begins or
    ends, times before 2:00 are an hour off: no market is open then.
    """
    midnight = datetime.datetime.fromisoformat(f"{date}T00:00+00:00")
    day = midnight.date()
    if day.year >= 2007:
        spring, autumn = first_sunday(day.year, 3, 8), first_sunday(day.year, 11, 1)
    else:
        spring, autumn = first_sunday(day.year, 4, 1), first_sunday(day.year, 10, 25)
    offset = datetime.timedelta(hours=4 if spring <= day < autumn else 5)
    try:
        return midnight + datetime.timedelta(hours=hour, minutes=minute) + offset
    except OverflowError:  # in UTC, the evening of 9999-12-31 is after the last datetime
        return datetime.datetime.max.replace(tzinfo=datetime.timezone.utc)


def closes_early(date):
    """Whether trading ends at 13:00, and late trading at 17:00.

    It does on the day after Thanksgiving, and on July 3 and December 24 from Monday to Thursday. On
    a Friday, the market is closed all day instead, because the holiday falls on the Saturday.
    Source: https://www.nyse.com/markets/hours-calendars.
    """
    day = datetime.date.fromisoformat(date)
    friday = 4  # as weekday() counts, from Monday, 0
    if day.month == 11:  # Thanksgiving is the fourth Thursday
        return day.weekday() == friday and 23 <= day.day <= 29
    return (day.month, day.day) in ((7, 3), (12, 24)) and day.weekday() < friday


def session_times(date):
    """When early trading begins, the market opens and closes, and late trading ends, in UTC."""
    close, end = (13, 17) if closes_early(date) else (16, 20)
    return {
        "pre": utc_from_new_york(date, 4),
        "open": utc_from_new_york(date, 9, 30),
        "close": utc_from_new_york(date, close),
        "post": utc_from_new_york(date, end),
    }


def is_past(date):
    """Whether that day is over in New York."""
    return utc_from_new_york(date, 24) < datetime.datetime.now(datetime.timezone.utc)


# The views of a day and of a ticker. Each view is read from one open table.


class Options(NamedTuple):
    """What an address asks for. An empty date means the table's last one.

    min_price, min_trades, min_record and skip leave out anomalies, as the querier's options of
    these names do. skip is a set of its MARKS.
    """

    date: str = ""
    threshold: float = querier.Z_THRESHOLD
    sort: str = "trades"
    order: str = "desc"
    filter: str = ""
    ticker: str = ""
    min_price: float = 0
    min_trades: int = 0
    min_record: int = 0
    skip: FrozenSet[str] = frozenset()


class DayView(NamedTuple):
    """A day's anomalies, as options ask for them.

    date, weekday        the day; previous and next are the table's dates around it, or None
    first, last          the table's first and last date
    window               the number of rows in a baseline
    number_of_tickers    of the day; 0 if the table does not have the day
    anomalies            what find_anomalies returns
    rows                 those of the anomalies that options select, in their order
    summary              the number of rows, in words
    share                the day's share of anomalies and the usual one, in words, or empty
    empty_message        why there are no rows, or empty
    previous_ticker      the ticker in rows before that of options, or None
    next_ticker          the one after it, or None; the first in rows if they lack options' ticker
    problem              why the table has no such day, or no such ticker on it, or empty
    nearest              the trading day nearest to a date that the table does not have, or None
    filtered_ticker      the ticker that the filter names, or None; it need not be an anomaly
    ticker_row           the day's row of options' ticker: json_row and its marks, or None
    """

    date: str
    weekday: str
    previous: Optional[str]
    next: Optional[str]
    first: str
    last: str
    window: int
    number_of_tickers: int
    anomalies: List[dict]
    rows: List[dict]
    summary: str
    share: str
    empty_message: str
    previous_ticker: Optional[str]
    next_ticker: Optional[str]
    problem: str
    nearest: Optional[str]
    filtered_ticker: Optional[str]
    ticker_row: Optional[dict]


class TickerView(NamedTuple):
    """One ticker's day in words, and where to go from there.

    price, change        the close, and its change since the previous one in percent, as text
    words                the trades, their baseline and their record, as sentences
    previous_anomaly     the date of its last anomaly before this day, or None
    next_anomaly         the date of its first anomaly after this day, or None
    previous_day         the date of its row before this one, or None; likewise next_day
    marks                the row's marks, a list
    links                where else to read about the ticker
    """

    price: str
    change: str
    words: str
    previous_anomaly: Optional[str]
    next_anomaly: Optional[str]
    previous_day: Optional[str]
    next_day: Optional[str]
    marks: List[str]
    links: List[Link]


def neighbours(items, item):
    """(item before, item after), each may be None. (None, first item) if item is missing."""
    if item not in items:
        return None, items[0] if items else None
    i = items.index(item)
    return items[i - 1] if i else None, items[i + 1] if i + 1 < len(items) else None


def read_day(table, date, needs_after):
    """(session, page, After) of a date, as in the querier's read_sessions. Raises NoDataError."""
    sessions = querier.select_sessions(table, [date])
    session = sessions[0]
    last = session + querier.HORIZONS[-1] if needs_after else session
    to_read = range(session, min(last + 1, table.number_of_days))
    tickers = max(rows for _, _, rows, _, _ in map(table.index_day, to_read))
    if tickers > MOST_TICKERS_A_DAY:
        raise querier.TableError(f"a day has {tickers:,} tickers, more than this server shows")
    return next(iter(querier.read_sessions(table, sessions, needs_after)))


def json_row(page, i):
    """Row i of a day page or a history, for JSON: None stands for nan and inf."""
    return querier.without_nan(querier.row_of(page, i))


def find_anomalies(page, session, window, threshold, after):
    """The anomalies of a day page, most trades first: dicts of row_of, with times_normal and marks.

    If after, the page's After, is given, they also have its facts.
    """
    found = querier.indexes_of_anomalies(page, threshold)
    if len(found) > MOST_ANOMALIES:
        raise querier.TableError(
            f"{page['date'][0]} has {len(found):,} anomalies, and a list holds "
            f"at most {MOST_ANOMALIES:,}: ask for a higher z-score"
        )
    rows = []
    for i in found:
        row = querier.row_of(page, i)
        row["times_normal"] = row["trades"] / row["avg_trades"] if row["avg_trades"] else nan
        row["marks"] = querier.marks_of(row, session, window)
        if after:
            row.update(after.of_row(i))
        rows.append(row)
    return querier.sort_anomalies(rows, "trades")


def select_and_sort(anomalies, options):
    """The anomalies that options select, in their order; None and nan come last."""
    field = options.sort
    rows = querier.sort_anomalies(anomalies, field)
    if options.order != SORT_COLUMNS[field].order:
        rows.reverse()
        if field != "ticker":
            rows.sort(key=lambda row: not is_number(row[field]))
    text = options.filter.lower()
    return [row for row in querier.select_anomalies(rows, options) if text in row["ticker"].lower()]


def find_ticker(tickers, text):
    """The one of tickers that text names, or None.

    It is text itself, else the one ticker that is equal apart from case, else text in upper case.
    """
    if not text or text in tickers:
        return text or None
    alike = [ticker for ticker in tickers if ticker.casefold() == text.casefold()]
    if len(alike) == 1:
        return alike[0]
    return text.upper() if text.upper() in alike else None


def read_day_view(table, options, needs_after=False):
    """The DayView that options ask for. With needs_after, its rows have the facts of After."""
    dates = table.dates
    date = options.date or dates[-1]
    tickers, anomalies, rows, ticker_row, nearest = [], [], [], None, None
    problem = empty = share = ""
    try:
        session, page, after = read_day(table, date, needs_after)
    except querier.NoDataError as error:
        problem, nearest = str(error), querier.nearest_date(dates, date)
    else:
        tickers = page["ticker"]
        anomalies = find_anomalies(page, session, table.window, options.threshold, after)
        rows = select_and_sort(anomalies, options)
        share = share_text(querier.anomaly_share(table, session))
        if options.ticker and options.ticker in tickers:
            i = tickers.index(options.ticker)
            marks = querier.marks_of(querier.row_of(page, i), session, table.window)
            ticker_row = {**json_row(page, i), "marks": marks}
        elif options.ticker:
            problem = f"no trades of {options.ticker} on {date}"
        if not rows:
            has_baselines = any(map(isfinite, page["avg_trades"]))
            empty = empty_message(len(anomalies), options, has_baselines, table.window)
    previous, following = neighbours(sorted({*dates, date}), date)
    previous_ticker, next_ticker = neighbours([row["ticker"] for row in rows], options.ticker)
    return DayView(
        date=date,
        weekday=datetime.date.fromisoformat(date).strftime("%A"),
        previous=previous,
        next=following,
        first=dates[0],
        last=dates[-1],
        window=table.window,
        number_of_tickers=len(tickers),
        anomalies=anomalies,
        rows=rows,
        summary=summary_text(len(rows), len(anomalies), len(tickers)) if tickers else "",
        share=share,
        empty_message=empty,
        previous_ticker=previous_ticker,
        next_ticker=next_ticker,
        problem=problem,
        nearest=nearest,
        filtered_ticker=find_ticker(tickers, options.filter),
        ticker_row=ticker_row,
    )


def read_ticker_view(table, options, day):
    """The TickerView of options' ticker on the day of a DayView; None if it has no row there."""
    if not day.ticker_row:
        return None
    history, _ = read_history_and_index(table, options.ticker, day.date)
    row, dates = day.ticker_row, history["date"]
    anomalies = {dates[i] for i in querier.indexes_of_anomalies(history, options.threshold)}
    # The day itself need not be an anomaly.
    previous_anomaly, next_anomaly = neighbours(sorted({*anomalies, day.date}), day.date)
    previous_day, next_day = neighbours(dates, day.date)
    return TickerView(
        price=or_dash(row["close_price"], format_price),
        change=or_dash(row["price_diff"], lambda change: f"{format_change(change)} %"),
        words=f"{trades_text(row, table.window)} {record_text(row)}".strip(),
        previous_anomaly=previous_anomaly,
        next_anomaly=next_anomaly,
        previous_day=previous_day,
        next_day=next_day,
        marks=row["marks"],
        links=links_to(options.ticker),
    )


def read_history_and_index(table, ticker, date):
    """A ticker's history, as the table has it, and the index of date in it. Raises NoDataError."""
    querier.select_sessions(table, [date])  # if no ticker has this date, its error says more
    history = table.read_history(ticker)
    if date not in history["date"]:
        raise querier.NoDataError(f"no trades of {ticker} on {date}")
    return history, history["date"].index(date)


def read_rows_around(table, ticker, date, most_rows, threshold):
    """A ticker's rows around date, oldest first; most_rows is the largest number of them.

    Each is what json_row returns, with "anomaly": whether the row is one. A quarter of most_rows
    are after date: fewer if the history ends earlier, more if too few rows are before date.
    Raises NoDataError.
    """
    history, i = read_history_and_index(table, ticker, date)
    length = len(history["date"])
    later = min(length - i - 1, most_rows // 4)
    first = max(0, i + 1 + later - most_rows)
    anomalies = set(querier.indexes_of_anomalies(history, threshold))
    return [
        {**json_row(history, i), "anomaly": i in anomalies}
        for i in range(first, min(length, first + most_rows))
    ]


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
    facts, horizons = after.of_row(page["ticker"].index(ticker)), []
    for days in querier.HORIZONS:
        change, state, split, median = facts[f"after_{days}"], "unknown", False, None
        if days in after.last_closes:
            state = "none" if change is None else "gone" if isnan(change) else "known"
            split = facts["split_after"] is not None and facts["split_after"] <= days
            median = querier.median(after.changes(days))
        horizon = {"days": days, "change": change, "state": state, "split": split, "median": median}
        horizons.append(querier.without_nan(horizon))
    return horizons


def read_previous_close(table, ticker, date):
    """The date and close of the ticker's row before date, None if missing. Raises NoDataError."""
    history, i = read_history_and_index(table, ticker, date)
    if not i:
        return None, None
    close = history["close_price"][i - 1]
    return history["date"][i - 1], close if is_number(close) else None


# Minute bars and headlines, from Polygon.


class PolygonError(Exception):
    """Why there are no bars or headlines: a sentence, and the HTTP status to answer with.

    retry_after is how many seconds to wait before the next request, None if that is not known.
    """

    def __init__(self, sentence, status, retry_after=None):
        super().__init__(sentence)
        self.status, self.retry_after = status, retry_after


def read_answer(text):
    """The dict in text, the JSON of a Polygon answer. Raises PolygonError if it is no answer."""
    try:
        # int() of millions of digits would take minutes.
        answer = json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 20 else nan)
    except (ValueError, RecursionError):
        raise PolygonError(BAD_ANSWER, 502) from None
    is_answer = isinstance(answer, dict) and {"results", "status"} & set(answer)
    # Without results, a next_url would be followed for nothing.
    if not is_answer or ("next_url" in answer and not answer.get("results")):
        raise PolygonError(BAD_ANSWER, 502)
    return answer


def seconds_to_wait(retry_after):
    """The seconds to wait after a 429: retry_after, else the rest of the minute."""
    if re.fullmatch(r"\d{1,9}", retry_after or "", re.ASCII):
        return min(max(1, int(retry_after)), LONGEST_WAIT)
    return 60 - time.time() % 60


def error_of_status(status, retry_after, body):
    """The PolygonError for a status other than 200, without body's text: that may hold the key."""
    if status == 429:
        return PolygonError(RATE_LIMIT, 429, seconds_to_wait(retry_after))
    if status >= 500:
        return PolygonError(SERVER_ERROR, 502)
    known = (sentence for phrase, sentence in REFUSALS.items() if phrase.encode() in body)
    return PolygonError(next(known, BAD_ANSWER), 502)


def call_for_at_most(seconds, call, calls_left):
    """What call() returns or raises. Raises PolygonError if it takes longer, or if too many run.

    A socket's time limit is not enough: it starts anew with each byte that a slow server sends.
    A call that takes longer goes on in its thread. calls_left is a semaphore, which counts how many
    more calls may run.
    """
    outcome = Future()

    def run():
        try:
            outcome.set_result(call())
        except Exception as error:
            outcome.set_exception(error)
        finally:
            calls_left.release()

    if not calls_left.acquire(blocking=False):
        raise PolygonError(BUSY, 503)
    Thread(target=run, daemon=True).start()
    if not wait([outcome], seconds).done:
        raise PolygonError(TIMEOUT, 504)
    return outcome.result()


def with_limits(send, api_url, timeout):
    """send, the request method of a urllib3 PoolManager, with limits for one call of the client.

    A read may take timeout seconds, an answer has at most LARGEST_ANSWER bytes, and the call may
    make MOST_REQUESTS requests, to api_url only. None is repeated or redirected. Raises
    PolygonError.
    """
    requests_left = MOST_REQUESTS

    def request_with_limits(method, url, **options):
        nonlocal requests_left
        # A next_url of "x:@evil.example/" leads the client to https://api.polygon.io@evil.example/.
        if not url.startswith(f"{api_url}/") or not requests_left:
            raise PolygonError(BAD_ANSWER, 502)
        requests_left -= 1
        options.update(timeout=timeout, retries=False, redirect=False, preload_content=False)
        with closing(send(method, url, **options)) as response:
            body = read_body(response)
        if response.status != 200:
            raise error_of_status(response.status, response.headers.get("Retry-After"), body)
        body.decode()  # a ValueError here is reported; the client would return no bars instead
        return SimpleNamespace(status=200, headers=response.headers, data=body)

    return request_with_limits


def read_body(response):
    """The unpacked body of a urllib3 response. Raises PolygonError if it is cut or too long."""
    body = response.read(LARGEST_ANSWER + 1, decode_content=False)
    length = response.headers.get("Content-Length", "")
    is_whole = len(body) <= LARGEST_ANSWER and not (length.isdecimal() and len(body) < int(length))
    if is_whole and response.headers.get("Content-Encoding") == "gzip":
        unpacker = zlib.decompressobj(wbits=31)  # 31: gzip with the largest window
        with suppress(zlib.error):
            body = unpacker.decompress(body, LARGEST_ANSWER)
        is_whole = unpacker.eof
    if not is_whole:
        raise PolygonError(BAD_ANSWER, 502)
    return body


def as_polygon_error(error):
    """The PolygonError for what the client raised, without error's text: that may hold the key."""
    if isinstance(error, PolygonError):
        return error
    from urllib3 import exceptions

    # To urllib3 a refused connection is a kind of timeout.
    is_refused = isinstance(error, exceptions.NewConnectionError)
    if isinstance(error, exceptions.TimeoutError) and not is_refused:
        return PolygonError(TIMEOUT, 504)
    if isinstance(error, exceptions.HTTPError):
        return PolygonError(NO_CONNECTION, 502)
    return PolygonError(BAD_ANSWER, 502)


class PolygonBars:
    """Minute bars and headlines from the Polygon API at api_url, through its Python client.

    The client (polygon-api-client 1.16) has faults, which this class works around:
    - It never applies the timeouts that its constructor takes. It sleeps for as long as Retry-After
      says, reads answers of any length, and follows redirects. It appends the path of next_url to
      its server's address, wherever that leads. So its requests are made with_limits.
    - It treats broken JSON as an answer without bars, so read_answer reads the JSON instead.
    - It does not check the bars, so bars_of_day does.
    - It puts the ticker into the path as it is, "../" included, so it gets quoted tickers.
    - It raises TypeError for an article without insights, so headlines come from the raw answer.
    - It reads POLYGON_API_KEY at import and accepts an empty key, so ask reads the key each time.
    """

    def __init__(self, api_url, timeout=10, total=15):  # seconds for a read, for a whole call
        self.api_url, self.timeout, self.total = api_url, timeout, total
        self.calls_left = BoundedSemaphore(CALLS_AT_ONCE)
        self.limited_until = 0  # when to ask again after a 429, by time.monotonic()

    def fetch_minute_bars(self, ticker, date):
        """A day's unadjusted minute bars by time, dicts of BAR_FIELDS. Raises PolygonError.

        timestamp is in milliseconds UTC. vwap and transactions may be None.
        """

        # The ticker is one part of the path. quote leaves dots as they are, and ".." leads upwards.
        part = quote(ticker, safe="") if ticker.strip(".") else ticker.replace(".", "%2E")

        def list_bars(client):
            aggs = client.list_aggs(part, 1, "minute", date, date, adjusted=False, limit=50_000)
            return [
                {field: getattr(agg, field) for field in BAR_FIELDS}
                for agg in islice(aggs, MINUTES_A_DAY + 1)  # one more than bars_of_day accepts
            ]

        bars = bars_of_day(self.ask(list_bars), date)
        if not bars:
            raise PolygonError(f"Polygon has no minute bars of {ticker} on {date}.", 404)
        return bars

    def fetch_headlines(self, ticker, date, start, end):
        """The headlines on a ticker from start to end, two times such as 2024-10-18T20:00:00Z.

        They are dicts of title, publisher, published_utc and url, of which the last three may be
        None. The oldest comes first. There are at most MOST_HEADLINES, which takes one request.
        Raises PolygonError. date is for AnswerCache only.
        """

        def list_news(client):
            news = client.list_ticker_news(
                ticker,
                published_utc_gte=start,
                published_utc_lte=end,
                order="asc",
                sort="published_utc",
                limit=MOST_HEADLINES,
                raw=True,
            )
            return read_answer(news.data.decode())

        articles = self.ask(list_news).get("results", [])
        if not isinstance(articles, list):
            raise PolygonError(BAD_ANSWER, 502)
        headlines = [as_headline(article) for article in articles if isinstance(article, dict)]
        headlines = [
            headline
            for headline in headlines
            if headline["title"] and start <= (headline["published_utc"] or start) <= end
        ]
        headlines.sort(key=lambda headline: headline["published_utc"] or end)
        return headlines[:MOST_HEADLINES]

    def ask(self, question):
        """What question(client) returns. Raises PolygonError, whatever the client raises."""
        key = os.environ.get("POLYGON_API_KEY") or os.environ.get("MASSIVE_API_KEY")
        if not key:
            raise PolygonError(NO_KEY, 503)
        if not re.fullmatch("[ -~]+", key):
            raise PolygonError(REFUSALS["API Key"], 502)
        left = self.limited_until - time.monotonic()
        if left > 0:
            raise PolygonError(RATE_LIMIT, 429, left)
        try:
            from polygon import RESTClient
        except ImportError:
            raise PolygonError(NO_CLIENT, 503) from None
        json_reader = SimpleNamespace(loads=read_answer)
        client = RESTClient(key, base=self.api_url, custom_json=json_reader)
        client.client.request = with_limits(client.client.request, self.api_url, self.timeout)
        try:
            return call_for_at_most(self.total, lambda: question(client), self.calls_left)
        except Exception as error:  # what the client raises has no common base
            error = as_polygon_error(error)
            if error.status == 429:
                self.limited_until = time.monotonic() + error.retry_after
            raise error from None


def is_bar(bar):
    """Whether bar, a dict of BAR_FIELDS, has numbers in it; vwap and transactions may be None."""
    return all(
        type(value) in (int, float) and abs(value) < LARGEST_NUMBER
        for field, value in bar.items()
        if value is not None or field not in ("vwap", "transactions")
    )


def bars_of_day(bars, date):
    """The bars by time, without other days' bars. If several share a minute, the last is kept.

    Raises PolygonError if there are too many of them, or if something else is among them.
    """
    if len(bars) > MINUTES_A_DAY or not all(map(is_bar, bars)):
        raise PolygonError(BAD_ANSWER, 502)
    start = utc_from_new_york(date, 0).timestamp() * 1000
    end = utc_from_new_york(date, 24).timestamp() * 1000
    minutes = {
        bar["timestamp"] // MINUTE_IN_MS: bar for bar in bars if start <= bar["timestamp"] < end
    }
    return [minutes[minute] for minute in sorted(minutes)]


def as_headline(article):
    """The headline of Polygon's article, a dict that may hold anything. title may be empty."""
    publisher, url = article.get("publisher"), article.get("article_url")
    name = publisher.get("name") if isinstance(publisher, dict) else None
    published = article.get("published_utc")
    is_time = isinstance(published, str) and re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", published, re.ASCII
    )
    is_url = isinstance(url, str) and re.fullmatch(r"(?i)https?://[!-~]{1,2000}", url)
    return {
        "title": one_line(article.get("title")),
        "publisher": one_line(name) or None,
        "published_utc": published if is_time else None,
        "url": url if is_url else None,
    }


def one_line(text):
    """text on one line, cut to MOST_LETTERS; empty if text is no str."""
    if not isinstance(text, str):
        return ""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(text.split())[:MOST_LETTERS]


class AnswerCache:
    """Remembers what fetch(ticker, date, *more) returned.

    It keeps the KEPT_ANSWERS that were asked for last, of past days only, and no failures. Equal
    requests at the same time make one call. waiters_left is a semaphore, which counts how many more
    requests may wait for an answer.
    """

    def __init__(self, fetch, waiters_left):
        self.fetch, self.waiters_left = fetch, waiters_left
        self.kept, self.under_way, self.lock = {}, {}, Lock()

    def json_text(self, ticker, date, *more):
        """What fetch returns, as JSON. Raises PolygonError, also if too many wait."""
        asked = (ticker, date, *more)
        with self.lock:
            if asked in self.kept:
                # Move it to the end, because what is first is dropped first.
                self.kept[asked] = self.kept.pop(asked)
                return self.kept[asked]
            if not self.waiters_left.acquire(blocking=False):
                raise PolygonError(BUSY, 503)
            is_first = asked not in self.under_way
            answer = self.under_way.setdefault(asked, Future())
        try:
            if is_first:
                self.fetch_into(answer, asked)
            return answer.result()
        finally:
            self.waiters_left.release()

    def fetch_into(self, answer, asked):
        """Call fetch with asked, its arguments, and put the JSON or the error into a Future."""
        try:
            answer.set_result(json.dumps(self.fetch(*asked)))
        except Exception as error:
            answer.set_exception(error)
        with self.lock:
            del self.under_way[asked]
            if not answer.exception() and is_past(asked[1]):
                self.kept[asked] = answer.result()
            if len(self.kept) > KEPT_ANSWERS:
                del self.kept[next(iter(self.kept))]


# Options from an address, and an address from options.


def parameter(name, parse=str, default=None):
    """The request's parameter of that name, parsed. If it is empty: default.

    Raises BadRequest if it cannot be parsed, or if it is empty and default is None.
    """
    text = request.args.get(name, "")
    if not text and default is not None:
        return default
    if not text:
        raise BadRequest(f"{name} is missing")
    try:
        return parse(text)
    except argparse.ArgumentTypeError as error:
        raise BadRequest(f"{name}: {error}") from None


def choice_parameter(name, choices, default):
    text = parameter(name, str, default)
    if text not in choices:
        raise BadRequest(f"{name}: {text!r} is none of {', '.join(choices)}")
    return text


def date_parameter(default=None):
    return parameter("date", querier.date_argument, default)


def number_parameter(name, default):
    number = parameter(name, querier.number_argument, default)
    return int(number) if number == int(number) else number  # so that views show 3, not 3.0


def threshold_parameter():
    return number_parameter("threshold", querier.Z_THRESHOLD)


def skip_parameter():
    """The set of marks to leave out. A form sends a parameter for each of its checkboxes."""
    names = ",".join(filter(None, request.args.getlist("skip")))
    try:
        return frozenset(querier.marks_argument(names) if names else ())
    except argparse.ArgumentTypeError as error:
        raise BadRequest(f"skip: {error}") from None


def skip_text(marks):
    """A set of marks as an address and the querier's command line write it: "split,new"."""
    return ",".join(mark.rstrip("?") for mark in querier.MARKS if mark in marks)


def requested_options():
    """The Options in the request's address."""
    sort = choice_parameter("sort", SORT_COLUMNS, "trades")
    count_argument = querier.whole_number(0, 999_999_999)
    return Options(
        date=date_parameter(""),
        threshold=threshold_parameter(),
        sort=sort,
        order=choice_parameter("order", ["asc", "desc"], SORT_COLUMNS[sort].order),
        filter=parameter("filter", str, ""),
        ticker=parameter("ticker", str, ""),
        min_price=number_parameter("min_price", 0),
        min_trades=parameter("min_trades", count_argument, 0),
        min_record=parameter("min_record", count_argument, 0),
        skip=skip_parameter(),
    )


def address_of(options, route="scanner", **changes):
    """The address of options with changes. Parameters that have their defaults are left out."""
    options = options._replace(**changes)
    defaults = Options(order=SORT_COLUMNS[options.sort].order)
    values, default_values = (
        {**each._asdict(), "skip": skip_text(each.skip)} for each in (options, defaults)
    )
    parameters = {name: values[name] for name in values if values[name] != default_values[name]}
    return url_for(route, **parameters)


# The routes.


def sources():
    """What create_app gave the app: table_path, bars, headlines, hosts, chart_library (a path)."""
    return current_app.extensions["sources"]


def render_view(template, options, allows_problem=False):
    """(HTML, status) of a template, filled with the DayView and TickerView that options ask for.

    If the table lacks the date or the ticker, this raises NoDataError. With allows_problem the view
    says so instead, and the status is 404 for a missing date, 200 for a missing ticker.
    """
    # Read the version first: if the file is replaced in between, the view has the old version, and
    # its script will find that there is a new table.
    version = table_version(sources().table_path)
    with DAY_PAGE_LOCK, open_table(sources().table_path) as table:
        day = read_day_view(table, options)
        if not allows_problem:
            raise_problem(day)
        heading = f"{options.ticker} on {day.date}" if options.ticker else day.date
        pieces = stream_template(
            template,
            **day._asdict(),
            detail=read_ticker_view(table, options, day),
            options=options._replace(date=day.date),
            title=f"{heading} · anomalies",
            table_version=version,
        )
        # A long list has half a million pieces. As separate strings they would take 50 MB.
        html = io.BytesIO()
        html.writelines(piece.encode() for piece in pieces)
        return html.getvalue(), 200 if day.number_of_tickers else 404


def scanner():
    """The view of a day; 400, or 404 if the table does not have the date."""
    return render_view("scanner.html", requested_options(), allows_problem=True)


def chart():
    """The view of a ticker's day alone; 400, or 404 if the table does not have it."""
    options = requested_options()
    # Here both are required, so they have no default.
    options = options._replace(date=date_parameter(), ticker=parameter("ticker"))
    return render_view("chart.html", options)


def anomalies_csv():
    """A day's list as the querier writes it; 400, or 404 if the table does not have the date."""
    # Ignore a chosen ticker: if it had no row on this day, raise_problem would answer 404.
    options = requested_options()._replace(ticker="")
    with DAY_PAGE_LOCK, open_table(sources().table_path) as table:
        day = read_day_view(table, options, needs_after=True)
        raise_problem(day)
        csv = "".join(querier.as_csv([querier.Listing(day.date, day.rows, [])]))
    headers = {"Content-Disposition": f'attachment; filename="anomalies-{day.date}.csv"'}
    return Response(csv, 200, headers, mimetype="text/csv")


def api_days():
    """The table's dates."""
    with open_table(sources().table_path) as table:
        return {"days": table.dates}


def api_table():
    """The table's version, a text that changes with the file, and its last date."""
    version = table_version(sources().table_path)
    with open_table(sources().table_path) as table:
        return {"version": version, "last": table.dates[-1]}


def api_anomalies():
    """A day's anomalies with the querier's fields, without what came after; 400, 404."""
    options = Options(date_parameter(""), threshold_parameter())
    fields = [*querier.ROW_FIELDS, *querier.FACT_FIELDS, "marks"]
    with DAY_PAGE_LOCK, open_table(sources().table_path) as table:
        day = read_day_view(table, options)
        raise_problem(day)
        rows = ({field: row[field] for field in fields} for row in day.anomalies)
        return current_app.json.response(
            date=day.date,
            threshold=options.threshold,
            tickers=day.number_of_tickers,
            anomalies=list(map(querier.without_nan, rows)),
        )


def api_history():
    """A ticker's rows around a date; 400, 404."""
    ticker, date, threshold = parameter("ticker"), date_parameter(), threshold_parameter()
    most_rows = sys.maxsize
    if request.args.get("rows") != "all":
        row_count = querier.whole_number(1, MOST_HISTORY_ROWS)
        most_rows = parameter("rows", row_count, HISTORY_ROWS)
    with open_table(sources().table_path) as table:
        rows = read_rows_around(table, ticker, date, most_rows, threshold)
    return {"ticker": ticker, "date": date, "threshold": threshold, "rows": rows}


def api_after():
    """What came after a ticker's day, for the ticker and the median ticker; 400, 404."""
    ticker, date = parameter("ticker"), date_parameter()
    with DAY_PAGE_LOCK, open_table(sources().table_path) as table:
        horizons = read_after(table, ticker, date)
    return {"ticker": ticker, "date": date, "horizons": horizons, "words": after_text(horizons)}


def api_bars():
    """A ticker's minute bars of a date; 400, 404, and PolygonError's 429, 502, 503, 504."""
    ticker, date = parameter("ticker"), date_parameter()
    with open_table(sources().table_path) as table:
        _, close = read_previous_close(table, ticker, date)
    times = {name: int(at.timestamp()) * 1000 for name, at in session_times(date).items()}
    head = {"ticker": ticker, "date": date, "session": times, "previous_close": close}
    return json_response(head, "bars", sources().bars.json_text(ticker, date))


def api_headlines():
    """A ticker's headlines up to 20:00 of a date in New York.

    They begin when the market closed on the day of its previous row; without one, at midnight.
    400, 404, and PolygonError's 429, 502, 503, 504.
    """
    ticker, date = parameter("ticker"), date_parameter()
    with open_table(sources().table_path) as table:
        previous, _ = read_previous_close(table, ticker, date)
    start = session_times(previous)["close"] if previous else utc_from_new_york(date, 0)
    start, end = (f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in (start, utc_from_new_york(date, 20)))
    head = {"ticker": ticker, "date": date, "from": start, "to": end}
    return json_response(head, "headlines", sources().headlines.json_text(ticker, date, start, end))


def json_response(head, name, text):
    """A JSON response: the items of the dict head, then name with the JSON in text."""
    return Response(f'{json.dumps(head)[:-1]}, "{name}": {text}}}', mimetype="application/json")


def find_chart_library():
    """The path of lightweight-charts.js in the Python package litecharts.

    None if the package is not installed, or if its file is not the official build of version 5.1.0.
    """
    package = importlib.util.find_spec("litecharts")  # this does not import it
    path = package and Path(package.origin).parent / "js" / "lightweight-charts.js"
    is_known = path and path.is_file() and sha256(path.read_bytes()).hexdigest() == CHART_LIBRARY
    return path if is_known else None


def lightweight_charts_js():
    """The library that draws the charts; 404 if find_chart_library does not find it."""
    path = sources().chart_library
    if not path:
        raise NotFound
    return send_from_directory(path.parent, path.name, max_age=365 * 86_400)


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


def raise_problem(day):
    """Raise a NoDataError, with the nearest date, if a DayView has a problem."""
    if day.problem:
        error = querier.NoDataError(day.problem)
        error.nearest = day.nearest
        raise error


def refuse_unwanted_request():
    """Before each request: refuse what a foreign site may have made, and all but GET and HEAD.

    This prevents DNS rebinding: a site can make its own host name lead to this server, and its
    scripts could then read the answers. So a request must name one of the app's hosts. If these
    include one of the WILDCARDS, any IP address will do: a site decides where its name leads, but
    not where an IP address leads. A site can also make a browser send requests to /api. It cannot
    read the answers, but each request may use up one of the user's requests to Polygon. The header
    Sec-Fetch-Site says whether another site made the browser send a request.
    """
    host, hosts = re.sub(r":\d+$", "", request.host.lower()), sources().hosts
    if host not in hosts and not (WILDCARDS & {*hosts} and re.fullmatch(IP_ADDRESS, host)):
        raise BadRequest("this server does not have that host name")
    site = request.headers.get("Sec-Fetch-Site", "none")
    if request.path.startswith("/api/") and site not in ("same-origin", "none"):
        raise Forbidden("only this server's own views may ask for this")
    if request.method not in ("GET", "HEAD"):
        raise MethodNotAllowed


def add_security_headers(response):
    """After each request: add headers that limit what a browser does with the answer."""
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
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
        is_ours = status in (400, 403)
        answer["error"] = error.description if is_ours else f"{error.name}: {request.path}"
        headers = {"Allow": "GET, HEAD"} if status == 405 else {}
    if request.path.startswith("/api/"):
        return answer, status, headers
    nearest = getattr(error, "nearest", None)
    return render_template("error.html", sentence=answer["error"], nearest=nearest), status, headers


def create_app(table_path, polygon, hosts=LOOPBACK):
    """The Flask app that shows the table at table_path; bars and headlines come from polygon.

    It answers requests for hosts only: names and addresses in lower case, without a port.
    """
    app = Flask(__name__, static_folder="templates/static", static_url_path="/static")
    waiters_left, chart_library = BoundedSemaphore(CALLS_AT_ONCE), find_chart_library()
    app.extensions["sources"] = SimpleNamespace(
        table_path=table_path,
        bars=AnswerCache(polygon.fetch_minute_bars, waiters_left),
        headlines=AnswerCache(polygon.fetch_headlines, waiters_left),
        hosts=hosts,
        chart_library=chart_library,
    )
    for address, view in ROUTES.items():
        app.add_url_rule(address, view_func=view)
    app.before_request(refuse_unwanted_request)
    app.after_request(add_security_headers)
    for kind in (querier.TableError, querier.NoDataError, PolygonError, HTTPException):
        app.register_error_handler(kind, error_response)
    app.json.sort_keys = False
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.globals.update(
        columns=LIST_COLUMNS,
        cell=cell,
        direction=direction,
        address=address_of,
        chart_address=partial(address_of, route="chart"),
        csv_address=partial(address_of, route="anomalies_csv"),
        skip_text=skip_text,
        mark_reasons=MARK_REASONS,
        z_threshold=querier.Z_THRESHOLD,
        chart_library_version=chart_library and CHART_LIBRARY[:8],
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


def share_one_heap():
    """Make glibc use one heap for all threads.

    Otherwise each thread has a heap, which keeps the memory that a long list once took. Measured
    with 8 clients at once and lists of 10,800 rows: at most 71 MB, and 126 MB without this.
    """
    with suppress(ImportError, OSError, AttributeError, TypeError):  # not every system has glibc
        from ctypes import CDLL

        CDLL(None).mallopt(M_ARENA_MAX, 1)


def serve(app, listening, url):
    """Print url, and answer requests at listening, a socket. Raises CannotServeError."""
    try:
        from waitress.server import create_server
    except ImportError as error:
        reason = f"{error.name} is missing: pip install -r requirements.txt"
        raise CannotServeError(reason) from None
    for name in ("waitress", "RESTClient", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    share_one_heap()
    server = create_server(
        app,
        sockets=[listening],
        threads=THREADS,
        ident=None,
        # No request needs a body: refuse large ones before waitress writes them to a file. Close
        # idle connections, or they use up connection_limit and nobody else can connect.
        max_request_body_size=2**16,
        max_request_header_size=2**15,
        connection_limit=200,
        channel_timeout=10,
        cleanup_interval=2,
        asyncore_use_poll=True,
    )
    with ignoring_write_errors(sys.stdout):
        print(url, flush=True)
    server.run()


@contextmanager
def ignoring_write_errors(stream):
    """In this context, stream is silenced if its reader is gone or its disk is full."""
    try:
        yield
    except OSError:
        querier.silence(stream)


def url_argument(text):
    """An argument's type: an API's URL. It is returned without a slash at its end."""
    if not re.fullmatch(r"https?://[\w.\-\[\]:]+(/[\w./\-]*)?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no address such as {API_URL}")
    return text.rstrip("/")


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        description="Show the lookup table in a browser: a day's anomalies and a ticker's charts."
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="the address to listen on (default 127.0.0.1)")
    port = "the port to listen on (default 8888)"
    add("--port", type=querier.whole_number(0, 65_535), default=8888, metavar="PORT", help=port)
    file = "the table to show (default lookup_table.pkl)"
    add("--table", default="lookup_table.pkl", metavar="FILE", help=file)
    url = "where minute bars and headlines come from; your key is in POLYGON_API_KEY or "
    url += f"MASSIVE_API_KEY (default {API_URL})"
    add("--api-url", type=url_argument, default=API_URL, metavar="URL", help=url)
    try:
        args = parser.parse_args(argv)
    except OSError:  # before Python 3.11, argparse raises it if --help cannot be printed
        raise SystemExit(0) from None
    finally:  # --help ends the script here: flush now, where a full disk's error can be ignored
        if sys.stdout:
            with ignoring_write_errors(sys.stdout):
                sys.stdout.flush()
    if not args.host:
        parser.error("--host is empty: name an address")
    return args


def interrupt_once(*_):
    """Handle Ctrl-C: end the server, and ignore any further Ctrl-C while it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(argv=None):
    args = parse_arguments(argv)
    signal.signal(signal.SIGINT, interrupt_once)
    try:
        # Report a bad table at start-up, not on the first request.
        with open_table(args.table) as table:
            read_day_view(table, Options())
        listening = listening_socket(args.host, args.port)
        name = f"[{args.host}]" if ":" in args.host else args.host
        app = create_app(args.table, PolygonBars(args.api_url), {*LOOPBACK, name.lower()})
        url_name = "localhost" if args.host in LOOPBACK else name
        # It returns after Ctrl-C, which waitress catches.
        serve(app, listening, f"http://{url_name}:{listening.getsockname()[1]}")
    except (querier.TableError, CannotServeError) as error:
        if sys.stderr:
            querier.print_to_stderr(error)
        return 1
    except KeyboardInterrupt:
        pass
    return 130


if __name__ == "__main__":
    raise SystemExit(main())
