"""Show the lookup table in a browser: each day's anomalies, and charts of what happened there.

Usage:
    python gui-lookup-table.py [--host HOST] [--port PORT] [--table FILE] [--api-url URL]

Reads   ./lookup_table.pkl, which build-lookup-table.py writes; minute bars and headlines from
        Polygon, if POLYGON_API_KEY or MASSIVE_API_KEY holds a key.
Writes  nothing; serves http://localhost:8888 until Ctrl-C.

query-lookup-table.py reads the table and says what an anomaly is. The file is opened anew for
each request: a request sees one table whole, and the next one sees the table that replaced it.
The pages are templates/, their scripts and style templates/static/.
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main: a Ctrl-C during imports is quiet

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
DESCRIPTION = "Show the lookup table in a browser: each day's anomalies, and charts of each."
ANY_ADDRESS = {"0.0.0.0", "[::]"}
ADDRESS = r"[\d.]+|\[[\da-f:.]+\]"
API_URL = "https://api.polygon.io"
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
SESSIONS, MOST_SESSIONS = 40, 260
PLAIN_TICKER = r"[A-Z]{1,5}|[A-Z]{1,4}\.[AB]"  # the latter are share classes
TIMES = "\N{MULTIPLICATION SIGN}"

BAR_FIELDS = ["timestamp", "open", "high", "low", "close", "volume", "vwap", "transactions"]
MINUTES_A_DAY = 24 * 60
MINUTE_IN_MS = 60_000
MOST_REQUESTS = 5  # for one day's bars: one is enough unless Polygon makes its pages short
MOST_BYTES = 4 * 2**20  # of an answer: a day's bars are below 1 MB
MOST_NUMBER = 10.0**18  # in an answer; more is no price, no volume and no time
MOST_WAIT = 3600  # seconds, whatever a Retry-After says
MOST_HEADLINES = 50
MOST_LETTERS = 500  # of a headline

KEPT_DAYS_OF_BARS = 128
CALLS_AT_ONCE = 6  # of the server's threads; the others keep the page alive while Polygon hangs
THREADS = 8
M_ARENA_MAX = -8  # as in glibc's malloc.h
LISTING = Lock()  # one long list at a time: two at once are no faster and take twice the memory
MOST_TICKERS, MOST_ROWS = 2**16, 2**14  # of a day, of a list; the US market has some 11,000

NO_KEY = (
    "Minute candles and headlines come from Polygon and need your key: stop this server, "
    "run export POLYGON_API_KEY=YOUR_KEY, and start it again."
)
NO_CLIENT = "Minute candles and headlines need polygon-api-client: pip install -r requirements.txt"
REFUSALS = {
    "API Key": "Polygon does not accept your key: check POLYGON_API_KEY or MASSIVE_API_KEY.",
    "today's data": "Your Polygon plan has a day's minute bars only after the end of that day.",
    "timeframe": "Your Polygon plan does not reach back to this day.",
    "entitled": "Your Polygon plan does not include this.",
}
RATE_LIMIT = "Polygon's limit of requests per minute is reached: wait a minute and try again."
TIMEOUT = "Polygon did not answer in time."
NO_CONNECTION = "Polygon cannot be reached: check the connection to the internet."
IN_TROUBLE = "Polygon's server is in trouble: try again later."
NONSENSE = "Polygon's answer makes no sense: try again later."
BUSY = "Polygon has not answered the requests before this one: try again in a moment."

# plotly.js brings its styles along; a picture saved of a chart is a data: or blob: on its way.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


# The querier, and the only code here that opens a table.


spec = importlib.util.spec_from_file_location("querier", HERE / "query-lookup-table.py")
querier = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(querier)


def open_table(path):
    """A context manager: the builder's table at path, as it is now. Raises TableError."""
    return querier.open_table(path, kinds=(querier.LookupTable,))


def version_of(path):
    """A text that differs from table to table; empty where there is none."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return ""
    return f"{state.st_mtime_ns:x}-{state.st_size:x}-{state.st_ino:x}"


# Numbers and sentences, as people read them.


def is_number(value):
    return value is not None and isfinite(value)


count, change = "{:,.0f}".format, "{:+,.2f}".format


def figure(value):
    """A number of at least three digits: 6,291, 12.4, 0.55."""
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def price(value):
    """A price: 2 decimals; below 1 four digits, as 0.0127."""
    if not 0 < value < 1:
        return f"{value:,.2f}"
    whole, _, decimals = f"{value:.{3 - floor(log10(value))}f}".partition(".")
    return f"{whole}.{decimals.rstrip('0'):0<2}"


def shown(value, text):
    """text(value), or a dash where value is no number."""
    return text(value) if is_number(value) else "—"


def direction(value):
    """The style of a change: "up", "down" or neither."""
    return {1: "up", -1: "down"}.get((value > 0) - (value < 0), "") if is_number(value) else ""


class Column(NamedTuple):
    """A column of the list: the row's field, its heading, its text, and how it is sorted first."""

    field: str
    heading: str
    text: Callable
    order: str = "desc"


COLUMNS = {
    column.field: column
    for column in [
        Column("ticker", "Ticker", str, "asc"),
        Column("trades", "Trades", count),
        Column("avg_trades", "Avg trades", figure),
        Column("std_trades", "Std dev", figure),
        Column("z_score", "Z-score", "{:,.2f}".format),
        Column("times_normal", "Times normal", "{:,.1f}".format),
        Column("record", "Record", count),
        Column("close_price", "Close", price),
        Column("price_diff", "Price diff %", change),
        Column("gap", "Gap %", change),
    ]
}
LIST_COLUMNS = [column for column in COLUMNS.values() if column.field != "gap"]  # sorts alone


def cell(row, column):
    """The text of a row's cell. "all 116" is the record of the most trades that there ever were."""
    value = row[column.field]
    if column.field == "ticker":
        return value
    is_most_ever = column.field == "record" and value == row["earlier_rows"]
    return ("all " if is_most_ever else "") + shown(value, column.text)


def summary(listed, found, tickers):
    """How many anomalies of a day are listed, how many there are, among how many tickers."""
    of = "" if listed == found else f"{listed:,} of "
    return f"{of}{found:,} anomal{'y' if found == 1 else 'ies'} among {tickers:,} tickers"


def empty_message(found, listing, has_baselines, window):
    """Why a listing of a day is empty, although found anomalies were found."""
    if not has_baselines:
        return f"No ticker has a baseline yet: that takes {window} earlier days."
    if not found:
        return "No ticker was traded that far above its normal."
    if listing.filter:
        return f"No anomaly has “{listing.filter}” in its ticker and passes the other filters."
    return "No anomaly passes the filters."


def words(stats, window):
    """A row, as scored has it, in a sentence: its trades beside its baseline."""
    trades, average, z_score = stats["trades"], stats["avg_trades"], stats["z_score"]
    if average is None:
        return f"{trades:,} trades, and no baseline yet: that takes {window} earlier days."
    if not average:
        return f"{trades:,} trades, after none at all in the {window} days before."
    times = trades / average
    times = count(times) if times >= 10 else f"{times:.1f}"
    baseline = f"{'five' if window == 5 else window}-day average of {figure(average)}"
    sentence = f"{trades:,} trades, {times} {TIMES} its {baseline}"
    if z_score is None:
        return f"{sentence}."
    side = "above" if z_score >= 0 else "below"
    each = figure(stats["std_trades"])
    return f"{sentence}, {abs(z_score):,.1f} standard deviations (each {each}) {side} it."


def record_words(stats):
    """Over how many rows these are the most trades, as a sentence; empty for one row alone."""
    record = stats["record"]
    if not record:
        return ""
    if record == stats["earlier_rows"]:
        return f"The most trades of all its {record + 1:,} rows so far."
    return f"The most trades in its last {record + 1:,} rows."


def tide_text(tide):
    """What the querier's tide_of says, for a day's heading; empty where it says nothing."""
    if not tide:
        return ""
    text = "{share:.1f} % of {with_deviation:,} tickers with a baseline; the usual is {usual:.1f} %"
    return text.format(**tide)


def after_words(horizons):
    """What came after a ticker's day, as read_after has it, in words."""
    said = []
    for row, name in zip(horizons, ("next day", "five days later", "twenty days later")):
        split = " (a split may lie in between)" if row["split"] else ""
        if row["state"] == "known":
            said.append(f"{name} {shown(row['change'], '{:,.2f} %'.format)}{split}")
        elif row["state"] == "gone":
            said.append(f"{name} no trades")
    if horizons[0]["state"] == "unknown":
        return "not known yet: the table ends with this day"
    if horizons[0]["state"] == "none":
        return "no change can be told: the close was 0"
    medians = [row["median"] for row in horizons if row["median"] is not None]
    return ", ".join(said) + (f"; the median ticker {medians[-1]:,.2f} %" if medians else "")


# Why a person looks twice at a row with one of the querier's MARKS.
MARK_REASONS = {
    "split?": "The open differs from the close before it by about a whole ratio, as after a split.",
    "new": f"It has fewer than {querier.MANY} earlier rows, although the table is older.",
    "thin": f"It usually has fewer than {querier.THIN_TRADES} trades a day.",
    "stale": "Its baseline reaches back over more than twice as many days as it has rows.",
    "test": "It is one of the exchanges' test symbols.",
}


class Link(NamedTuple):
    """A page elsewhere."""

    name: str
    url: str


def links_to(ticker):
    """The ticker's filings at SEC EDGAR, and its chart at TradingView.

    EDGAR writes share classes with a dash, as BRK-B. How either writes preferred shares, warrants
    and units is not sure: these have no links.
    """
    if not re.fullmatch(PLAIN_TICKER, ticker):
        return []
    company = urlencode({"action": "getcompany", "CIK": ticker.replace(".", "-")})
    return [
        Link("SEC EDGAR", f"https://www.sec.gov/cgi-bin/browse-edgar?{company}"),
        Link("TradingView", f"https://www.tradingview.com/chart/?symbol={ticker}"),
    ]


# The exchange's clock.


def sunday_from(year, month, day):
    """The first Sunday from that day on."""
    first = datetime.date(year, month, day)
    return first + datetime.timedelta((6 - first.weekday()) % 7)


def new_york(date, hour, minute=0):
    """That time of a day in New York, as a datetime in UTC.

    Summer time lasts from the second Sunday of March to the first of November, before 2007 from
    the first of April to the last of October; it begins and ends before a market opens.
    """
    day = datetime.date.fromisoformat(date)
    if day.year >= 2007:
        spring, autumn = sunday_from(day.year, 3, 8), sunday_from(day.year, 11, 1)
    else:
        spring, autumn = sunday_from(day.year, 4, 1), sunday_from(day.year, 10, 25)
    offset = datetime.timedelta(hours=4 if spring <= day < autumn else 5)
    midnight = datetime.datetime(*day.timetuple()[:3], tzinfo=datetime.timezone.utc)
    try:
        return midnight + datetime.timedelta(hours=hour, minutes=minute) + offset
    except OverflowError:  # the last evening that a datetime can name is 9999-12-31 in UTC
        return datetime.datetime.max.replace(tzinfo=datetime.timezone.utc)


def closes_early(date):
    """Whether trading ends at 13:00: on the day after Thanksgiving, on July 3 and December 24.

    The last two only from Monday to Thursday: on a Friday the market is closed all day, because
    the holiday falls on the Saturday. From the exchange's page of holidays and trading hours,
    https://www.nyse.com/markets/hours-calendars, where late trading then ends at 17:00.
    """
    day = datetime.date.fromisoformat(date)
    if (day.month, day.weekday()) == (11, 4):
        return 23 <= day.day <= 29  # Thanksgiving is the fourth Thursday
    return (day.month, day.day) in ((7, 3), (12, 24)) and day.weekday() < 4


def session_times(date):
    """When early trading begins, the market opens, it closes, and late trading ends."""
    close, post = (13, 17) if closes_early(date) else (16, 20)
    return {
        "pre": new_york(date, 4),
        "open": new_york(date, 9, 30),
        "close": new_york(date, close),
        "post": new_york(date, post),
    }


def is_past(date):
    """Whether that day is over in New York."""
    return new_york(date, 24) < datetime.datetime.now(datetime.timezone.utc)


# The views of a day, of a ticker: what is asked of an open table, so that each is of one table.


class Listing(NamedTuple):
    """What an address asks the list to show; an empty date means the last one.

    The last four leave out anomalies as the querier's options of these names do; skip is a set of
    its MARKS.
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
    """A day, as a listing wants to see it.

    date, weekday        the day; previous and next are the table's days around it, or None
    first, last          the table's days at the ends
    window               how many rows a baseline has
    tickers              how many tickers the day has, 0 where the table lacks it
    anomalies            as find_rows has them; rows are those that the listing shows, in its order
    summary              how many of them, in words
    tide                 the share of anomalies above 3, and the usual one, in words, or empty
    empty_message        why there are no rows, else empty
    previous_ticker      those beside the listing's ticker in rows, or None; so next_ticker
    problem              why there is no such day, or no such ticker on it, else empty
    nearest              the trading day next to a day that the table lacks, else None
    meant                the ticker of that day, anomaly or not, that the filter names, or None
    stats                the row of the listing's ticker, as scored has it, or None
    """

    date: str
    weekday: str
    previous: Optional[str]
    next: Optional[str]
    first: str
    last: str
    window: int
    tickers: int
    anomalies: List[dict]
    rows: List[dict]
    summary: str
    tide: str
    empty_message: str
    previous_ticker: Optional[str]
    next_ticker: Optional[str]
    problem: str
    nearest: Optional[str]
    meant: Optional[str]
    stats: Optional[dict]


class TickerView(NamedTuple):
    """A ticker's day in words, and the ways on from there.

    price, change        the close, and the change since the previous one in percent, as text
    words                the trades, their baseline and their record, as sentences
    previous_anomaly     the dates of this ticker's anomalies beside this day, or None
    previous_session     the dates of its rows beside this day, or None; so next_session
    marks                the querier's marks of the row; MARK_REASONS says why
    links                where else to read about it
    """

    price: str
    change: str
    words: str
    previous_anomaly: Optional[str]
    next_anomaly: Optional[str]
    previous_session: Optional[str]
    next_session: Optional[str]
    marks: List[str]
    links: List[Link]


def neighbours(items, item):
    """Those before and after item in items, None at the ends; (None, the first) if it is not."""
    around = [None, *items, None]
    index = around.index(item) if item in items else 0
    return around[index - 1] if index else None, around[index + 1]


def read_day(table, date, needs_after):
    """A date's session, day page, and the querier's After of it, None unless needs_after.

    Raises NoDataError.
    """
    (session,) = sessions = querier.select_sessions(table, [date])
    last = min(session + max(querier.HORIZONS) * needs_after, table.number_of_days - 1)
    rows = max(table.entry(each)[2] for each in range(session, last + 1))
    if rows > MOST_TICKERS:
        raise querier.TableError(f"a day has {rows:,} tickers, more than the page can show")
    ((_, page, after),) = querier.read_days(table, sessions, needs_after)
    return session, page, after


def scored(page, i, threshold):
    """The i-th row of a day page or a history, as the querier has it, and whether it is an anomaly.

    What is not known, or no finite number, is None.
    """
    row = querier.row_of(page, i)
    row["anomaly"] = row["z_score"] > querier.lowest_anomaly(threshold)
    return querier.without_nan(row)


def find_rows(page, session, window, threshold, after):
    """The anomalies of a day page, by trades: the querier's rows with times_normal and marks.

    Where after, the querier's After of the page, is not None, they have its facts as well.
    """
    positions = querier.positions_of_anomalies(page, threshold)
    if len(positions) > MOST_ROWS:
        raise querier.TableError(
            f"{page['date'][0]} has {len(positions):,} anomalies, and a list holds "
            f"{MOST_ROWS:,}: ask for a higher z-score, or run build-lookup-table.py"
        )
    rows = []
    for i in positions:
        row = querier.row_of(page, i)
        row["times_normal"] = row["trades"] / row["avg_trades"] if row["avg_trades"] else nan
        row["marks"] = querier.marks_of(row, session, window)
        if after:
            row.update(after.facts(i))
        rows.append(row)
    return querier.sort_anomalies(rows, "trades")


def select_rows(rows, listing):
    """Those of rows that a listing shows, in its order; those without a number stay last."""
    field = listing.sort
    rows = querier.sort_anomalies(rows, field)
    if listing.order != COLUMNS[field].order:
        rows.reverse()
        if field != "ticker":
            rows.sort(key=lambda row: not is_number(row[field]))
    text = listing.filter.lower()
    return [row for row in querier.select(rows, listing) if text in row["ticker"].lower()]


def find_meant(tickers, text):
    """The ticker that text means: that spelling, the only one in another case, or upper case."""
    if not text or text in tickers:
        return text or None
    alike = [ticker for ticker in tickers if ticker.casefold() == text.casefold()]
    if len(alike) == 1:
        return alike[0]
    return text.upper() if text.upper() in alike else None


def read_day_view(table, listing, needs_after=False):
    """The DayView of a listing; problem and nearest say what the table lacks.

    Where needs_after, its rows say what came after them.
    """
    dates = table.dates
    date = listing.date or dates[-1]
    tickers, anomalies, rows, stats, nearest = [], [], [], None, None
    problem = reason = tide = ""
    try:
        session, page, after = read_day(table, date, needs_after)
        tickers = page["ticker"]
        anomalies = find_rows(page, session, table.window, listing.threshold, after)
        rows = select_rows(anomalies, listing)
        tide = tide_text(querier.tide_of(table, session))
        if listing.ticker and listing.ticker in tickers:
            i = tickers.index(listing.ticker)
            marks = querier.marks_of(querier.row_of(page, i), session, table.window)
            stats = {**scored(page, i, listing.threshold), "marks": marks}
        elif listing.ticker:
            problem = f"no trades of {listing.ticker} on {date}"
        if not rows:
            has_baselines = any(map(isfinite, page["avg_trades"]))
            reason = empty_message(len(anomalies), listing, has_baselines, table.window)
    except querier.NoDataError as error:
        problem, nearest = str(error), querier.nearest_date(dates, date)
    previous, following = neighbours(sorted({*dates, date}), date)
    above, below = neighbours([row["ticker"] for row in rows], listing.ticker)
    return DayView(
        date=date,
        weekday=datetime.date.fromisoformat(date).strftime("%A"),
        previous=previous,
        next=following,
        first=dates[0],
        last=dates[-1],
        window=table.window,
        tickers=len(tickers),
        anomalies=anomalies,
        rows=rows,
        summary=summary(len(rows), len(anomalies), len(tickers)) if tickers else "",
        tide=tide,
        empty_message=reason,
        previous_ticker=above,
        next_ticker=below,
        problem=problem,
        nearest=nearest,
        meant=find_meant(tickers, listing.filter),
        stats=stats,
    )


def read_ticker_view(table, listing, day):
    """The TickerView of the listing's ticker on a DayView's day; None where it has no row."""
    if not day.stats:
        return None
    history, _ = read_history_at(table, listing.ticker, day.date)
    dates, found = history["date"], querier.positions_of_anomalies(history, listing.threshold)
    # The day itself is among them, so that its neighbours are those before and after.
    anomalies = sorted({day.date, *(dates[i] for i in found)})
    return TickerView(
        shown(day.stats["close_price"], price),
        f"{shown(day.stats['price_diff'], change)} %",
        f"{words(day.stats, table.window)} {record_words(day.stats)}".strip(),
        *neighbours(anomalies, day.date),
        *neighbours(dates, day.date),
        day.stats["marks"],
        links_to(listing.ticker),
    )


def read_history_at(table, ticker, date):
    """A ticker's history as the querier has it, and the position of date in it.

    Raises NoDataError.
    """
    querier.select_sessions(table, [date])
    history = table.read_history(ticker)
    if date not in history["date"]:
        raise querier.NoDataError(f"no trades of {ticker} on {date}")
    return history, history["date"].index(date)


def read_history(table, ticker, date, sessions, threshold):
    """That many of the ticker's rows around a date, by date, as scored has them.

    A quarter of them are after date, the others up to it, as far as they go. Raises NoDataError.
    """
    history, i = read_history_at(table, ticker, date)
    rows = len(history["date"])
    after = min(rows - i - 1, sessions // 4)
    first = max(0, i + 1 + after - sessions)
    return [scored(history, i, threshold) for i in range(first, min(rows, first + sessions))]


def read_after(table, ticker, date):
    """What came after a ticker's day: for each of the querier's HORIZONS a dict.

    days     the horizon
    change   of the ticker's close since that day, in percent, if the state is "known"
    state    "unknown": fewer days follow in the table; "gone": the ticker has no row on any of
             them; "none": the day's close is 0
    split    whether a suspected split lies in between
    median   the median of this change over all tickers of the day, None without any
    """
    _, page, after = read_day(table, date, needs_after=True)
    if ticker not in page["ticker"]:
        raise querier.NoDataError(f"no trades of {ticker} on {date}")
    facts, horizons = after.facts(page["ticker"].index(ticker)), []
    for days in querier.HORIZONS:
        change, state, split, median = facts[f"after_{days}"], "unknown", False, None
        if days in after.last_closes:
            state = "none" if change is None else "gone" if isnan(change) else "known"
            split = facts["split_after"] is not None and facts["split_after"] <= days
            median = querier.median(after.changes(days))
        row = {"days": days, "change": change, "state": state, "split": split, "median": median}
        horizons.append(querier.without_nan(row))
    return horizons


def read_previous(table, ticker, date):
    """The date and close of the ticker's row before that of date, or two None."""
    history, i = read_history_at(table, ticker, date)
    if not i:
        return None, None
    close = history["close_price"][i - 1]
    return history["date"][i - 1], close if is_number(close) else None


# Minute bars and headlines, from Polygon.


class BarsError(Exception):
    """Why there are no bars or headlines: a sentence, and the HTTP status to answer with.

    retry_after is for how many seconds Polygon wants to be left alone, None if it did not say.
    """

    def __init__(self, sentence, status, retry_after=None):
        super().__init__(sentence)
        self.status, self.retry_after = status, retry_after


def read_answer(text):
    """The dict that Polygon's JSON holds. Raises BarsError for what is no answer."""
    try:
        # int() of millions of digits would take minutes.
        answer = json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 20 else nan)
    except (ValueError, RecursionError):
        raise BarsError(NONSENSE, 502) from None
    is_answer = isinstance(answer, dict) and {"results", "status"} & set(answer)
    if not is_answer or ("next_url" in answer and not answer.get("results")):
        raise BarsError(NONSENSE, 502)
    return answer


def seconds_to_wait(retry_after):
    """For how long a 429 wants us to wait: its Retry-After, else until the minute is over."""
    if re.fullmatch(r"\d{1,9}", retry_after or "", re.ASCII):
        return min(max(1, int(retry_after)), MOST_WAIT)
    return 60 - time.time() % 60


def refusal(status, retry_after, body):
    """The BarsError for an answer of another status than 200. Its text may hold the key."""
    if status == 429:
        return BarsError(RATE_LIMIT, 429, seconds_to_wait(retry_after))
    if status >= 500:
        return BarsError(IN_TROUBLE, 502)
    known = (sentence for phrase, sentence in REFUSALS.items() if phrase.encode() in body)
    return BarsError(next(known, NONSENSE), 502)


def within(seconds, call, turns):
    """What call() returns or raises; BarsError if that takes longer, or if no turn is left.

    No time limit of a socket does this: a server that sends a byte now and then keeps to them all.
    A call that takes longer goes on in its thread, and keeps one of turns, a semaphore, until then.
    """
    outcome = Future()

    def run():
        try:
            outcome.set_result(call())
        except Exception as error:
            outcome.set_exception(error)
        finally:
            turns.release()

    if not turns.acquire(blocking=False):
        raise BarsError(BUSY, 503)
    Thread(target=run, daemon=True).start()
    if not wait([outcome], seconds).done:
        raise BarsError(TIMEOUT, 504)
    return outcome.result()


def bounded(request, api_url, timeout):
    """request, of a urllib3 PoolManager, for one question: within bounds, and raising BarsErrors.

    A read may take timeout seconds, an answer has at most MOST_BYTES and a question MOST_REQUESTS,
    and no request goes to another address than api_url's, is repeated, or follows a redirect.
    """
    left = list(range(MOST_REQUESTS))

    def bounded_request(method, url, **options):
        # A next_url of "x:@evil.example/" has the client ask https://api.polygon.io@evil.example/.
        if not url.startswith(f"{api_url}/") or not left:
            raise BarsError(NONSENSE, 502)
        left.pop()
        options.update(timeout=timeout, retries=False, redirect=False, preload_content=False)
        with closing(request(method, url, **options)) as response:
            body = read_body(response)
        if response.status != 200:
            raise refusal(response.status, response.headers.get("Retry-After"), body)
        body.decode()  # fails here: the client would take it for an answer without bars
        return SimpleNamespace(status=200, headers=response.headers, data=body)

    return bounded_request


def read_body(response):
    """The unpacked body of a urllib3 response. Raises BarsError if it is cut short or too long."""
    body = response.read(MOST_BYTES + 1, decode_content=False)
    length = response.headers.get("Content-Length", "")
    is_whole = len(body) <= MOST_BYTES and not (length.isdecimal() and len(body) < int(length))
    if is_whole and response.headers.get("Content-Encoding") == "gzip":
        unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)  # 16: with gzip's header
        with suppress(zlib.error):
            body = unpacker.decompress(body, MOST_BYTES)
        is_whole = unpacker.eof
    if not is_whole:
        raise BarsError(NONSENSE, 502)
    return body


def explain(error):
    """The BarsError for what the client raised, whose own text may hold the key."""
    if isinstance(error, BarsError):
        return error
    from urllib3 import exceptions

    # In urllib3 1 a refused connection is a kind of timeout.
    is_refused = isinstance(error, exceptions.NewConnectionError)
    if isinstance(error, exceptions.TimeoutError) and not is_refused:
        return BarsError(TIMEOUT, 504)
    if isinstance(error, exceptions.HTTPError):
        return BarsError(NO_CONNECTION, 502)
    return BarsError(NONSENSE, 502)


class PolygonBars:
    """Minute bars and headlines from the Polygon API at api_url, through its Python client.

    The client (polygon-api-client 1.16) has faults, which this class works around:
    - It never applies the timeouts that its constructor takes, sleeps for as long as a Retry-After
      says, reads answers of any length, follows redirects, and appends what stands in next_url to
      its server's address, wherever that leads: its pool's request becomes a bounded one.
    - Broken JSON and an answer without bars are both an empty iterator: read_answer tells them
      apart. The bars in it may be anything: sound_bars looks at them.
    - It puts the ticker into the path as it is, "../" included: it gets quoted tickers.
    - An article without insights is a TypeError: headlines are read from the raw answer.
    - It reads POLYGON_API_KEY at import, and takes an empty key: the key is read at each question.
    """

    def __init__(self, api_url, timeout=10, total=15):
        self.api_url, self.timeout, self.total = api_url, timeout, total
        self.turns = BoundedSemaphore(CALLS_AT_ONCE)
        self.limited_until = 0  # of time.monotonic()

    def fetch_minute_bars(self, ticker, date):
        """A day's unadjusted minute bars by time, dicts of BAR_FIELDS. Raises BarsError.

        timestamp is in milliseconds UTC; vwap and transactions may be None.
        """

        # One part of the path; of dots alone it would be a step up in it.
        part = quote(ticker, safe="") if ticker.strip(".") else ticker.replace(".", "%2E")

        def list_bars(client):
            aggs = client.list_aggs(part, 1, "minute", date, date, adjusted=False, limit=50_000)
            return [
                {field: getattr(agg, field) for field in BAR_FIELDS}
                for agg in islice(aggs, MINUTES_A_DAY + 1)
            ]

        bars = sound_bars(self.ask(list_bars), date)
        if not bars:
            raise BarsError(f"Polygon has no minute bars of {ticker} on {date}.", 404)
        return bars

    def fetch_headlines(self, ticker, date, start, end):
        """The headlines on a ticker from start to end, texts as in 2024-10-18T20:00:00Z.

        Oldest first, at most MOST_HEADLINES, so that it is one request: dicts of title, publisher,
        published_utc and url; the last three may be None. Raises BarsError.
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
            raise BarsError(NONSENSE, 502)
        headlines = [as_headline(article) for article in articles if isinstance(article, dict)]
        headlines = [
            headline
            for headline in headlines
            if headline["title"] and start <= (headline["published_utc"] or start) <= end
        ]
        headlines.sort(key=lambda headline: headline["published_utc"] or end)
        return headlines[:MOST_HEADLINES]

    def ask(self, question):
        """question(client); whatever goes wrong is a BarsError without the client's own text."""
        key = os.environ.get("POLYGON_API_KEY") or os.environ.get("MASSIVE_API_KEY")
        if not key:
            raise BarsError(NO_KEY, 503)
        if not re.fullmatch("[ -~]+", key):
            raise BarsError(REFUSALS["API Key"], 502)
        left = self.limited_until - time.monotonic()
        if left > 0:
            raise BarsError(RATE_LIMIT, 429, left)
        try:
            from polygon import RESTClient
        except ImportError:
            raise BarsError(NO_CLIENT, 503) from None
        json_reader = SimpleNamespace(loads=read_answer)
        client = RESTClient(key, base=self.api_url, custom_json=json_reader)
        client.client.request = bounded(client.client.request, self.api_url, self.timeout)
        try:
            return within(self.total, lambda: question(client), self.turns)
        except Exception as error:  # what the client raises has no common base
            error = explain(error)
            if error.status == 429:
                self.limited_until = time.monotonic() + error.retry_after
            raise error from None


def is_bar(bar):
    """Whether the dict has a number for each of BAR_FIELDS; the last two may be None."""
    *needed, vwap, transactions = bar.values()
    numbers = needed + [value for value in (vwap, transactions) if value is not None]
    return all(
        type(value) in (int, float) and -MOST_NUMBER < value < MOST_NUMBER for value in numbers
    )


def sound_bars(bars, date):
    """The bars by time, one a minute (the last one sent), those of other days left out.

    Raises BarsError where there are too many, or where one is no bar.
    """
    if len(bars) > MINUTES_A_DAY or not all(map(is_bar, bars)):
        raise BarsError(NONSENSE, 502)
    start = new_york(date, 0).timestamp() * 1000
    end = new_york(date, 24).timestamp() * 1000
    minutes = {
        bar["timestamp"] // MINUTE_IN_MS: bar for bar in bars if start <= bar["timestamp"] < end
    }
    return [minutes[minute] for minute in sorted(minutes)]


def as_headline(article):
    """A headline from an article as Polygon has it, whatever that holds; title may be empty."""
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
    """A foreign text on one line, cut to MOST_LETTERS; empty for what is no text."""
    if not isinstance(text, str):
        return ""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(text.split())[:MOST_LETTERS]


class BarsCache:
    """Remembers what fetch(ticker, date, *more) returned, as JSON text.

    A past day's answers are kept, the KEPT_DAYS_OF_BARS that were asked for last; simultaneous
    equal requests make one call; failures are forgotten. A request that waits for an answer holds
    one of the turns (a semaphore); when none is left, get raises BarsError.
    """

    def __init__(self, fetch, turns):
        self.fetch, self.turns = fetch, turns
        self.kept, self.under_way, self.lock = {}, {}, Lock()

    def get(self, ticker, date, *more):
        """The JSON text. Raises BarsError."""
        asked = (ticker, date, *more)
        with self.lock:
            if asked in self.kept:
                self.kept[asked] = self.kept.pop(asked)  # to the end: the first is dropped first
                return self.kept[asked]
            if not self.turns.acquire(blocking=False):
                raise BarsError(BUSY, 503)
            is_first = asked not in self.under_way
            answer = self.under_way.setdefault(asked, Future())
        try:
            if is_first:
                self.fetch_into(answer, asked)
            return answer.result()
        finally:
            self.turns.release()

    def fetch_into(self, answer, asked):
        try:
            answer.set_result(json.dumps(self.fetch(*asked)))
        except Exception as error:
            answer.set_exception(error)
        with self.lock:
            del self.under_way[asked]
            if not answer.exception() and is_past(asked[1]):
                self.kept[asked] = answer.result()
            if len(self.kept) > KEPT_DAYS_OF_BARS:
                del self.kept[next(iter(self.kept))]


# What an address says, and the address of a listing.


def parameter(name, parse=str, default=None):
    """The request's parameter of that name; BadRequest if it is malformed or missing."""
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
    return int(number) if number == int(number) else number


def threshold_parameter():
    return number_parameter("threshold", querier.Z_THRESHOLD)


def skip_parameter():
    """The set of marks; a form's checkboxes send a parameter each."""
    names = ",".join(filter(None, request.args.getlist("skip")))
    try:
        return frozenset(querier.marks_argument(names) if names else ())
    except argparse.ArgumentTypeError as error:
        raise BadRequest(f"skip: {error}") from None


def skip_text(marks):
    """What an address says for a set of marks, as on the querier's command line."""
    return ",".join(mark.rstrip("?") for mark in querier.MARKS if mark in marks)


def requested_listing():
    """The Listing that the request's address stands for, as listing_address writes it."""
    sort, many = choice_parameter("sort", COLUMNS, "trades"), querier.whole_number(0, 999_999_999)
    return Listing(
        date=date_parameter(""),
        threshold=threshold_parameter(),
        sort=sort,
        order=choice_parameter("order", ["asc", "desc"], COLUMNS[sort].order),
        filter=parameter("filter", str, ""),
        ticker=parameter("ticker", str, ""),
        min_price=number_parameter("min_price", 0),
        min_trades=parameter("min_trades", many, 0),
        min_record=parameter("min_record", many, 0),
        skip=skip_parameter(),
    )


def listing_address(listing, route="scanner", **changes):
    """The address of a listing with changes; what is as usual is left out."""
    listing = listing._replace(**changes)
    usual = Listing(order=COLUMNS[listing.sort].order)._asdict()
    state = {
        name: skip_text(value) if name == "skip" else value
        for name, value in listing._asdict().items()
        if value not in (None, usual[name])
    }
    return url_for(route, **state)


# The routes.


def sources():
    """What the app shows, and for whom, as create_app puts it together."""
    return current_app.extensions["sources"]


def render_listing(template, listing, allows_problem=False):
    """A template filled in with the views of a listing; 404 where the table lacks the date."""
    version = version_of(sources().table)
    with LISTING, open_table(sources().table) as table:
        day = read_day_view(table, listing)
        if not allows_problem:
            refuse_problem(day)
        pieces = stream_template(
            template,
            **day._asdict(),
            detail=read_ticker_view(table, listing, day),
            listing=listing._replace(date=day.date),
            title=f"{listing.ticker and f'{listing.ticker} on '}{day.date} · anomalies",
            table_version=version,
        )
        # A long list has half a million pieces: as strings of their own they would take 50 MB.
        html = io.BytesIO()
        html.writelines(piece.encode() for piece in pieces)
        return html.getvalue(), 200 if day.tickers else 404


def scanner():
    """The anomalies of a day; 400, or 404 where the table lacks the date."""
    return render_listing("scanner.html", requested_listing(), allows_problem=True)


def chart():
    """One ticker's day; 400, or 404 where the table lacks it."""
    listing = requested_listing()
    listing = listing._replace(date=date_parameter(), ticker=parameter("ticker"))
    return render_listing("chart.html", listing)


def anomalies_csv():
    """The list as the querier writes it; 400, or 404 where the table lacks the date."""
    listing = requested_listing()._replace(ticker="")
    with LISTING, open_table(sources().table) as table:
        day = read_day_view(table, listing, needs_after=True)
        refuse_problem(day)
        csv = "".join(querier.as_csv([querier.Listing(day.date, day.rows, [])]))
    headers = {"Content-Disposition": f'attachment; filename="anomalies-{day.date}.csv"'}
    return Response(csv, 200, headers, mimetype="text/csv")


def api_days():
    """The table's dates."""
    with open_table(sources().table) as table:
        return {"days": table.dates}


def api_table():
    """Which table it is: a version that changes with the file, and its last date."""
    version = version_of(sources().table)
    with open_table(sources().table) as table:
        return {"version": version, "last": table.dates[-1]}


def api_anomalies():
    """A day's anomalies as the querier has them; 400, 404."""
    listing = Listing(date_parameter(""), threshold_parameter())
    fields = [*querier.ROW_FIELDS, *querier.FACT_FIELDS, "marks"]
    with LISTING, open_table(sources().table) as table:
        day = read_day_view(table, listing)
        refuse_problem(day)
        rows = ({field: row[field] for field in fields} for row in day.anomalies)
        text = json.dumps(list(map(querier.without_nan, rows)))
    head = {"date": day.date, "threshold": listing.threshold, "tickers": day.tickers}
    return json_with(head, "anomalies", text)


def api_history():
    """A ticker's days around a date; 400, 404."""
    ticker, date, threshold = parameter("ticker"), date_parameter(), threshold_parameter()
    sessions = sys.maxsize
    if request.args.get("sessions") != "all":
        sessions = parameter("sessions", querier.whole_number(1, MOST_SESSIONS), SESSIONS)
    with open_table(sources().table) as table:
        rows = read_history(table, ticker, date, sessions, threshold)
    return {"ticker": ticker, "date": date, "threshold": threshold, "rows": rows}


def api_after():
    """What came after a ticker's day, and what the median ticker did then; 400, 404."""
    ticker, date = parameter("ticker"), date_parameter()
    with LISTING, open_table(sources().table) as table:
        horizons = read_after(table, ticker, date)
    words = after_words(horizons)
    return {"ticker": ticker, "date": date, "horizons": horizons, "words": words}


def api_bars():
    """A ticker's minute bars of a date; 400, 404, and BarsError's 429, 502, 503, 504."""
    ticker, date = parameter("ticker"), date_parameter()
    with open_table(sources().table) as table:
        _, close = read_previous(table, ticker, date)
    session = {name: int(at.timestamp()) * 1000 for name, at in session_times(date).items()}
    head = {"ticker": ticker, "date": date, "session": session, "previous_close": close}
    return json_with(head, "bars", sources().bars.get(ticker, date))


def api_headlines():
    """What Polygon's feed had on a ticker between the closes of its previous row and of a date.

    400, 404, and BarsError's 429, 502, 503, 504.
    """
    ticker, date = parameter("ticker"), date_parameter()
    with open_table(sources().table) as table:
        previous, _ = read_previous(table, ticker, date)
    start = session_times(previous)["close"] if previous else new_york(date, 0)
    start, end = (f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in (start, new_york(date, 20)))
    head = {"ticker": ticker, "date": date, "from": start, "to": end}
    return json_with(head, "headlines", sources().headlines.get(ticker, date, start, end))


def json_with(head, name, text):
    """The response with head, a dict, and under name the JSON that text already is."""
    return Response(f'{json.dumps(head)[:-1]}, "{name}": {text}}}', mimetype="application/json")


def plotly_js():
    """plotly's JavaScript as its Python package has it; 404 where that is missing."""
    path = sources().plotly
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
    "/plotly.min.js": plotly_js,
}


def refuse_problem(day):
    """Raise the NoDataError that a DayView has for a problem."""
    if day.problem:
        error = querier.NoDataError(day.problem)
        error.nearest = day.nearest
        raise error


def refuse_foreign_requests():
    """Before each request: refuse those that a foreign site may have made.

    A site can make its own name lead to this server, and its scripts could then read the answers.
    So only the app's hosts are answered, or any address where they hold one of ANY_ADDRESS: an
    address cannot be made to lead elsewhere. A foreign page can also ask for /api without
    reading the answer, and so spend the user's requests to Polygon. Browsers tell of that in
    Sec-Fetch-Site.
    """
    host, hosts = re.sub(r":\d+$", "", request.host.lower()), sources().hosts
    if host not in hosts and not (ANY_ADDRESS & {*hosts} and re.fullmatch(ADDRESS, host)):
        raise BadRequest("this server does not go by that host name")
    site = request.headers.get("Sec-Fetch-Site", "none")
    if request.path.startswith("/api/") and site not in ("same-origin", "none"):
        raise Forbidden("only this server's own pages may ask for this")
    if request.method not in ("GET", "HEAD"):
        raise MethodNotAllowed


def add_policies(response):
    """After each request: what browsers may do with the answer."""
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers.setdefault("Cache-Control", "no-cache")
    return response


def tell_error(error):
    """The page, or below /api the JSON, that says what is wrong."""
    status, headers, answer = 503, {}, {"error": str(error)}
    if isinstance(error, querier.NoDataError):
        status = 404
    elif isinstance(error, BarsError):
        status = error.status
        if error.retry_after is not None:
            answer["retry_after"] = ceil(error.retry_after)
            headers["Retry-After"] = str(answer["retry_after"])
    elif isinstance(error, HTTPException):
        status = error.code
        told = status in (400, 403)
        answer["error"] = error.description if told else f"{error.name}: {request.path}"
        headers = {"Allow": "GET, HEAD"} if status == 405 else {}
    if request.path.startswith("/api/"):
        return answer, status, headers
    nearest = getattr(error, "nearest", None)
    return render_template("error.html", sentence=answer["error"], nearest=nearest), status, headers


def create_app(table_path, polygon, hosts=LOOPBACK):
    """The web application: a table's path, a PolygonBars, and the names that it goes by."""
    app = Flask(__name__, static_folder="templates/static", static_url_path="/static")
    # plotly itself is not imported, which would take a second.
    package, turns = importlib.util.find_spec("plotly"), BoundedSemaphore(CALLS_AT_ONCE)
    plotly = package and Path(package.origin).parent / "package_data" / "plotly.min.js"
    app.extensions["sources"] = SimpleNamespace(
        table=table_path,
        bars=BarsCache(polygon.fetch_minute_bars, turns),
        headlines=BarsCache(polygon.fetch_headlines, turns),
        hosts=hosts,
        plotly=plotly,
    )
    for address, view in ROUTES.items():
        app.add_url_rule(address, view_func=view)
    app.before_request(refuse_foreign_requests)
    app.after_request(add_policies)
    for kind in (querier.TableError, querier.NoDataError, BarsError, HTTPException):
        app.register_error_handler(kind, tell_error)
    app.json.sort_keys = False
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.globals.update(
        columns=LIST_COLUMNS,
        cell=cell,
        direction=direction,
        address=listing_address,
        chart_address=partial(listing_address, route="chart"),
        csv_address=partial(listing_address, route="anomalies_csv"),
        skip_text=skip_text,
        mark_reasons=MARK_REASONS,
        z_threshold=querier.Z_THRESHOLD,
        plotly_version=plotly and plotly.exists() and plotly.stat().st_mtime_ns,
    )
    mimetypes.add_type("text/javascript", ".js")  # some Windows systems say otherwise
    return app


class CannotServeError(Exception):
    """Why this server cannot start, in one line for the user."""


def listening_socket(host, port):
    """A socket that listens there. Raises CannotServeError."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[0]
    except (TypeError, ValueError):  # a name that no host can have
        reason = "no such host"
    raise CannotServeError(f"cannot listen on {host}, port {port}: {reason}")


def share_one_heap():
    """Have glibc use one heap: with one for each thread, each keeps what a long list once took.

    (Lists of 10,800 rows to 8 clients at once, measured: at most 71 MB, and 126 MB without this.)
    """
    with suppress(ImportError, OSError, AttributeError, TypeError):  # where there is no glibc
        from ctypes import CDLL

        CDLL(None).mallopt(M_ARENA_MAX, 1)


def serve(app, listening, url):
    """Answer requests at a listening socket until Ctrl-C. Raises CannotServeError."""
    try:
        from waitress.server import create_server
    except ImportError as error:
        raise CannotServeError(
            f"{error.name} is missing: pip install -r requirements.txt"
        ) from None
    for name in ("waitress", "RESTClient", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    share_one_heap()
    server = create_server(
        app,
        sockets=[listening],
        threads=THREADS,
        ident=None,
        # Only GET is answered: refuse a body before waitress writes it to a file. Close silent
        # connections before they fill the limit and keep everyone else out.
        max_request_body_size=2**16,
        max_request_header_size=2**15,
        connection_limit=200,
        channel_timeout=10,
        cleanup_interval=2,
        asyncore_use_poll=True,
    )
    with unless_lost(sys.stdout):
        print(url, flush=True)
    server.run()


@contextmanager
def unless_lost(stream):
    """Writing to a stream whose reader has gone, or whose disk is full, is no reason to stop."""
    try:
        yield
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def complain(message):
    if sys.stderr:
        with unless_lost(sys.stderr):
            querier.complain(message)


def api_address(text):
    """An argument's type: the address of an API, without a slash at its end."""
    if not re.fullmatch(r"https?://[\w.\-\[\]:]+(/[\w./\-]*)?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no address such as {API_URL}")
    return text.rstrip("/")


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="the address to listen on (default 127.0.0.1)")
    add("--port", type=querier.whole_number(0, 65_535), default=8888, help="default 8888")
    add("--table", default="lookup_table.pkl", metavar="FILE", help="default lookup_table.pkl")
    add(
        "--api-url",
        type=api_address,
        default=API_URL,
        metavar="URL",
        help=f"where bars come from (default {API_URL})",
    )
    try:
        args = parser.parse_args(argv)
    finally:  # --help may have been printed on a full disk
        if sys.stdout:
            with unless_lost(sys.stdout):
                sys.stdout.flush()
    if not args.host:
        parser.error("--host is empty: name an address")
    return args


def interrupt_once(*_):
    """For a Ctrl-C: the server ends; another one while it does so changes nothing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(argv=None):
    args = parse_arguments(argv)
    signal.signal(signal.SIGINT, interrupt_once)
    try:
        # Report a bad table at start-up, not on the first request.
        with open_table(args.table) as table:
            read_day_view(table, Listing())
        listening = listening_socket(args.host, args.port)
        name = f"[{args.host}]" if ":" in args.host else args.host
        app = create_app(args.table, PolygonBars(args.api_url), {*LOOPBACK, name.lower()})
        url_name = "localhost" if args.host in LOOPBACK else name
        serve(app, listening, f"http://{url_name}:{listening.getsockname()[1]}")
    except (querier.TableError, CannotServeError) as error:
        complain(str(error))
        return 1
    except KeyboardInterrupt:
        pass
    return 130


if __name__ == "__main__":
    raise SystemExit(main())
