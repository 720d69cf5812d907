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
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from datetime import datetime, timedelta, timezone
from functools import cache, lru_cache, wraps
from hashlib import sha256
from math import floor, isfinite, isnan, log10, nan
from pathlib import Path
from tempfile import TemporaryFile
from threading import BoundedSemaphore
from time import time
from urllib.parse import quote
from zoneinfo import ZoneInfo

try:
    import flask
    from flask import Blueprint, Flask, Response, abort, current_app, render_template, request
    from waitress.server import create_server
    from werkzeug.exceptions import HTTPException, NotFound, ServiceUnavailable
    from werkzeug.wsgi import wrap_file
except ImportError as error:
    reason = "is missing" if isinstance(error, ModuleNotFoundError) else f"does not work ({error})"
    hint = "pip install -r requirements.txt"
    raise SystemExit(f"{error.name} {' '.join(reason.split())}: {hint}") from None

HERE = Path(__file__).resolve().parent
LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}
# One thread reads all tables: two at once would be no faster and take twice the memory.
TABLE_READER = ThreadPoolExecutor(1)

API_URL = "https://api.polygon.io"  # as in build-lookup-table.py
# What a minute bar is made of, and what Polygon calls it.
BAR_FIELDS = {"timestamp": "t", "open": "o", "high": "h", "low": "l", "close": "c", "volume": "v"}
BAR_FIELDS |= {"vwap": "vw", "transactions": "n"}
BUSY = "Polygon has not answered the requests before this one: try again in a moment"

# The SHA-256 of lightweight-charts.js 5.1.0, which the package litecharts 0.2.0 has from npm.
CHART_LIBRARY_SHA256 = "756b0ba9f58930226d6b8b9d47ad310448ab85d799ea1f7c2c02304777c10b52"
# 'unsafe-inline' is for a link in each chart: the library's licence wants it, and it has a style.
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


@cache
def load_builder():
    """build-lookup-table.py as a module. That takes long, so it is loaded when first needed."""
    try:
        return load_script("build-lookup-table.py")
    except SystemExit as error:  # one of its packages is missing
        abort(503, str(error))


# Numbers, as people read them.


def is_number(value):
    return isinstance(value, (int, float)) and isfinite(value)


format_count = "{:,.0f}".format


def format_change(value):
    """A change in percent with its sign: +1.50, -0.25; 0.00 has none."""
    return f"{value:+,.2f}" if round(value, 2) else "0.00"


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


def direction(text):
    """The CSS class of a change, given as format_change's text: "up", "down", or none."""
    return {"+": "up", "-": "down"}.get(text[0], "")


# The list of anomalies: its columns, and the marks of its rows.


# A column shows a field of a row, as the function format writes it. A click on its heading sorts by
# it, at first in this order. days is for a change after the day: so many trading days later.
Column = namedtuple("Column", "field heading format meaning order days", defaults=["desc", 0])
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
AFTER = "From the close to the last one within so many trading days. *: maybe a split in between."
# They are shown if the user chooses them or sorts by them.
OPTIONAL_COLUMNS = [
    Column("long_z", "Long z", "{:,.2f}".format, "As Z-score, of logarithms, over 60 rows before."),
    Column("dollar_volume", "Dollar volume", format_count, "The day's volume times its close."),
    Column("gap", "Gap %", format_change, "From its close before to this day's open."),
    *(Column(f"after_{h}", f"After {h} %", format_change, AFTER, days=h) for h in querier.HORIZONS),
]
COLUMN_OF = {column.field: column for column in [*LIST_COLUMNS, *OPTIONAL_COLUMNS]}


def cells(row, columns):
    """(CSS classes, text) of a row in each of the columns. The template calls this once a row.

    A record is "all 116" if all 116 earlier rows had fewer trades.
    """
    found = []
    for column in columns:
        value, further_class = row[column.field], ""
        text = or_dash(value, column.format)
        if column.format is format_change:
            further_class = direction(text)
        elif column.field == "times_normal" and row["z_score"] > querier.Z_THRESHOLD:
            further_class = "anomaly"
        elif column.field == "record" and value == row["earlier_rows"]:
            text = f"all {text}"
        if column.days and is_number(value) and 0 < (row["split_after"] or 0) <= column.days:
            text += "*"
        found.append((f"{column.field} {further_class}".rstrip(), text))
    return found


def bar_percent(times_normal):
    """The length of the bar behind "times normal": logarithmic, 100 from 1,000 on, 0 for nan."""
    return min(100, round(log10(times_normal) * 100 / 3)) if times_normal > 1 else 0


# What the querier's marks mean. Its marks_of decides which of them a row has.
MARK_REASONS = {
    "split?": "The open is about the previous close times a split's ratio, such as 2 or 1/3.",
    "new": f"It has fewer than {querier.NEW_ROWS} earlier rows; the table has more earlier days.",
    "thin": f"It usually has fewer than {querier.THIN_TRADES} trades a day.",
    "stale": "Its baseline reaches back over more than twice as many trading days as it has rows.",
    "test": "It is one of the exchanges' test symbols.",
}
LISTED = "A listed split: 1:20 makes one share of 20. The price diff and the gap show it too."


def mark_name(mark):
    """The name of a mark in addresses and on the querier's command line: split for split 1:20."""
    return mark.split()[0].rstrip("?")


def mark_reason(mark):
    return MARK_REASONS.get(mark, LISTED)


# The exchange's clock.


def new_york_time(date, hour):
    """The datetime in UTC of an hour of that day in New York: 9.5 is 9:30, 24 the day's end."""
    midnight = datetime.fromisoformat(date).replace(tzinfo=ZoneInfo("America/New_York"))
    return (midnight + timedelta(hours=hour)).astimezone(timezone.utc)


def market_hours(date):
    """When the market opens and closes on a day: two datetimes in UTC.

    It closes at 16:00 in New York, but at 13:00 on the day after Thanksgiving, and on July 3 and
    December 24 from Monday to Thursday. On a Friday, it is closed all day instead, because the
    holiday falls on the Saturday. Source: https://www.nyse.com/markets/hours-calendars.
    """
    day, friday = datetime.fromisoformat(date), 4  # weekday() is 0 on a Monday
    is_eve = date[5:] in ("07-03", "12-24") and day.weekday() < friday
    # Thanksgiving is the fourth Thursday of November.
    is_day_after = day.month == 11 and day.weekday() == friday and 23 <= day.day <= 29
    return new_york_time(date, 9.5), new_york_time(date, 13 if is_eve or is_day_after else 16)


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
    "skip": ((), several(one_of(list(map(mark_name, querier.MARKS))))),
    "columns": ((), several(one_of([column.field for column in OPTIONAL_COLUMNS]))),
}
DEFAULTS = [default for default, _ in PARAMETERS.values()]
# What an address asks for: a value for each of PARAMETERS.
Options = namedtuple("Options", PARAMETERS, defaults=DEFAULTS)
# What the querier's anomaly_of asks for.
Options.needs_facts = Options.needs_marks = Options.needs_type = True


def parameter(name, default, parse):
    """The request's parameter of that name, parsed; default if it is empty. 400 if wrong."""
    # A form sends a parameter for each of its checkboxes.
    text = ",".join(filter(None, request.args.getlist(name)))
    try:
        return parse(text) if text else default
    except (argparse.ArgumentTypeError, ValueError) as error:
        abort(400, f"{name}: {error}")


def requested_options(table, *required):
    """The Options in the request's address; 400 if one is wrong, or empty and in required.

    An empty date or order is replaced by what it means.
    """
    options = Options(*(parameter(name, *how) for name, how in PARAMETERS.items()))
    for name in required:
        if not getattr(options, name):
            abort(400, f"{name} is missing")
    order = options.order or COLUMN_OF[options.sort].order
    return options._replace(date=options.date or table.dates[-1], order=order)


def address_of(options, route="scanner", **changes):
    """The address of options with changes. Parameters that have their defaults are left out."""
    options = options._replace(**changes)
    defaults = Options(order=COLUMN_OF[options.sort].order)
    parameters = {
        name: ",".join(value) if isinstance(value, tuple) else value
        for name, value, default in zip(PARAMETERS, options, defaults)
        if value != default
    }
    return flask.url_for(f"routes.{route}", **parameters)


# What the views show. All that a view shows is read from one open table.


def version_of(table):
    """A text that changes whenever the table's file is replaced."""
    state = os.fstat(table.file.fileno())
    return f"{state.st_mtime_ns:x}-{state.st_size:x}-{state.st_ino:x}"


def neighbours(items, item):
    """(item before, item after), each may be None. (None, first item) if item is missing."""
    i = items.index(item) if item in items else -1
    return items[i - 1] if i > 0 else None, items[i + 1] if i + 1 < len(items) else None


# A session's day page, and its LaterChanges or None, as the querier's read_days has them.
Day = namedtuple("Day", "session page after")


def read_day(table, date, needs_after=False):
    """The Day of a date. Raises NoDataError."""
    sessions = querier.select_sessions(table, [date])
    return Day(*next(querier.read_days(table, sessions, needs_after)))


def index_of(ticker, page):
    """The index of a ticker's row in a day page. Raises NoDataError."""
    if ticker not in page["ticker"]:
        similar = find_ticker(page["ticker"], ticker)
        hint = f"; it has {similar}" if similar else ""
        raise querier.NoDataError(f"no trades of {ticker} on {page['date'][0]}{hint}")
    return page["ticker"].index(ticker)


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
    trades = dict(zip(page["ticker"], page["trades"]))
    alike = [ticker for ticker in trades if ticker.casefold().startswith(text.casefold())]
    return max(alike, key=trades.get, default=None)


def full_row(table, day, i, options):
    """Row i of a Day, an anomaly or not: the querier's anomaly_of, and times_normal."""
    row = querier.anomaly_of(day.page, i, day.session, table, options, day.after)
    row["times_normal"] = row["trades"] / row["avg_trades"] if row["avg_trades"] else nan
    return row


def find_anomalies(table, day, options):
    """All anomalies of a Day by trades, as full_row has them."""
    indexes = querier.indexes_of_anomalies(day.page, options.threshold)
    return querier.sort_anomalies([full_row(table, day, i, options) for i in indexes], "trades")


def plain_form(ticker):
    """The ticker as the filter compares it: BRK.B, BRK-B, BRK/B and brk.b are the same one."""
    return re.sub("[-/]", ".", ticker.casefold())


def select_and_sort(anomalies, options):
    """The anomalies that options select, in their order; None and nan come last."""
    field, text = options.sort, plain_form(options.filter)
    rows = querier.sort_anomalies(querier.select_anomalies(anomalies, options), field)
    if options.order != COLUMN_OF[field].order:
        rows.reverse()
        # Reversed, the rows without a number are the first ones: move them to the end.
        rows.sort(key=lambda row: field != "ticker" and not is_number(row[field]))
    return [row for row in rows if text in plain_form(row["ticker"])]


def read_day_view(table, options, needs_after):
    """What a view shows of the day and the ticker that options ask for, by name.

    Raises NoDataError if the table lacks the day. If the day lacks the ticker, problem says so.
    """
    day = read_day(table, options.date, needs_after)
    anomalies, tickers = find_anomalies(table, day, options), day.page["ticker"]
    rows = select_and_sort(anomalies, options)
    filtered_ticker = find_ticker(tickers, options.filter)  # it need not be an anomaly
    if options.filter and not filtered_ticker and not rows:
        filtered_ticker = busiest_with_prefix(day.page, options.filter)
    view = {
        "number_of_tickers": len(tickers),
        "anomalies": anomalies,
        "rows": rows,  # the anomalies that options select, in their order
        "filtered_ticker": filtered_ticker,
        "similar_ticker": find_ticker(tickers, options.ticker),
        "tickers_around": neighbours([row["ticker"] for row in rows], options.ticker),
        "has_baselines": any(map(isfinite, day.page["avg_trades"])),
        "share": querier.compare_share(table, day.session, "anomalies", "with_deviation"),
        "long_z_share": querier.compare_share(table, day.session, "high_long_z", "with_long_z"),
        "expiration": querier.expiration_share(table, day.session),
    }
    if options.ticker:
        try:
            view |= read_ticker_view(table, day, options)
        except querier.NoDataError as error:
            view["problem"] = error
    return view


def read_ticker_view(table, day, options):
    """What a view shows of the ticker that options ask for, by name. Raises NoDataError."""
    row = full_row(table, day, index_of(options.ticker, day.page), options)
    history = table.read_history(options.ticker)
    dates = history["date"]
    anomalies = {dates[i] for i in querier.indexes_of_anomalies(history, options.threshold)}
    return {
        "ticker_row": querier.without_nan(row),
        "own_days_around": neighbours(dates, options.date),
        # The day itself need not be an anomaly.
        "anomalies_around": neighbours(sorted({*anomalies, options.date}), options.date),
        # Other sites have AAPL and BRK.B, but may write BACpL, ACHR.WS and AACT.U in another way.
        "is_known_elsewhere": re.fullmatch(r"[A-Z]{1,5}|[A-Z]{1,4}\.[AB]", options.ticker),
    }


def read_history_and_index(table, ticker, date):
    """A ticker's history, as the table has it, and the index of date in it. Raises NoDataError."""
    history = table.read_history(ticker)
    if date not in history["date"]:
        raise querier.NoDataError(f"no trades of {ticker} on {date}")
    return history, history["date"].index(date)


# Minute bars and headlines, from Polygon.


class Polygon:
    """The Polygon API at api_url. It remembers the answers that cannot change."""

    def __init__(self, api_url, seconds=10):  # to connect, and to wait for more of an answer
        self.api_url, self.seconds = api_url, seconds
        self.calls_left = BoundedSemaphore(8)  # of serve's 16 threads; the others go on answering
        self.remembered_json = lru_cache(128)(self.fetch_json)  # an error is not remembered

    def answer(self, date, fetch, *arguments):
        """What fetch(client, *arguments) returns: fetch is fetch_minute_bars or fetch_headlines.

        It is remembered if the date is over, because then it cannot change. Raises HTTPException.
        """
        is_over = new_york_time(date, 24).timestamp() < time()
        fetch_json = self.remembered_json if is_over else self.fetch_json
        return json.loads(fetch_json(fetch, *arguments))

    def fetch_json(self, fetch, *arguments):
        """What fetch returns, as JSON, which takes less memory than its dicts."""
        builder = load_builder()
        if not self.calls_left.acquire(blocking=False):
            abort(503, BUSY)
        try:
            client = builder.polygon_client(self.api_url, connect=self.seconds, read=self.seconds)
            return json.dumps(fetch(client, *arguments))
        except builder.PolygonError as error:
            wait = {"retry_after": error.retry_after} if error.retry_after else {}
            abort(error.status, str(error), **wait)
        finally:
            self.calls_left.release()


def fetch_minute_bars(client, ticker, date):
    """A day's unadjusted minute bars by time, dicts of BAR_FIELDS. Raises the builder's errors.

    timestamp is in milliseconds UTC. vwap and transactions may be None.
    """
    builder = load_builder()
    asked = {"adjusted": False, "limit": 50_000, "raw": True}
    response = client.list_aggs(quote(ticker, safe=""), 1, "minute", date, date, **asked)
    bars = builder.results_of(response)
    if not all(map(is_bar, bars)):
        raise builder.PolygonError(builder.BAD_ANSWER)
    start, end = (new_york_time(date, hour).timestamp() * 1000 for hour in (0, 24))
    # If several bars share a minute, the last is kept.
    minutes = {bar["t"] // 60_000: bar for bar in bars if start <= bar["t"] < end}
    if not minutes:
        abort(404, f"Polygon has no minute bars of {ticker} on {date}")
    return [
        {field: minutes[minute].get(name) for field, name in BAR_FIELDS.items()}
        for minute in sorted(minutes)
    ]


def is_bar(bar):
    """Whether bar is a dict of finite numbers. Only vwap and transactions may be missing."""
    return isinstance(bar, dict) and all(
        type(bar.get(name)) in (int, float) and abs(bar[name]) < 1e18  # larger than any real one
        for name in BAR_FIELDS.values()
        if name not in ("vw", "n") or bar.get(name) is not None
    )


def fetch_headlines(client, ticker, start, end):
    """The first 50 headlines on a ticker from start to end, times such as 2024-10-18T20:00:00Z.

    They are dicts of title, publisher, published_utc and url, of which the last three may be None.
    The oldest comes first. Raises the builder's PolygonError.
    """
    asked = {"published_utc_gte": start, "published_utc_lte": end, "limit": 50}
    response = client.list_ticker_news(ticker, order="asc", sort="published_utc", raw=True, **asked)
    articles = load_builder().results_of(response)
    found = [as_headline(article) for article in articles if isinstance(article, dict)]
    return [headline for headline in found if headline["title"]]


def as_headline(article):
    """The headline of Polygon's article, a dict that may hold anything. Each value may be None."""
    publisher = article.get("publisher")
    utc_time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    return {
        "title": text_or_none(article.get("title")),
        "publisher": text_or_none(publisher.get("name")) if isinstance(publisher, dict) else None,
        "published_utc": text_or_none(article.get("published_utc"), utc_time),
        "url": text_or_none(article.get("article_url"), "(?i)https?://[!-~]{1,400}"),
    }


def text_or_none(value, pattern="(?s).*"):
    """value on one line, cut to 500 letters; None if it is no text, empty, or unlike pattern."""
    if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII):
        return None
    text = "".join(letter if letter.isprintable() else " " for letter in value)
    return " ".join(text.split())[:500] or None


# The routes.


routes = Blueprint("routes", __name__)


def from_table(read):
    """read, whose first argument is an open LookupTable, as a function of its other arguments.

    TABLE_READER runs it.
    """

    def open_and_read(*arguments):
        with querier.open_file(current_app.config["TABLE_PATH"]) as file:
            return read(querier.table_in(file, TABLE_KINDS), *arguments)

    @wraps(read)
    def read_and_wait(*arguments):
        # Flask knows the app and the request by context variables.
        return TABLE_READER.submit(copy_context().run, open_and_read, *arguments).result()

    return read_and_wait


def is_from_other_site():
    """Whether another site made the browser send the request; None if the browser does not say."""
    site = request.headers.get("Sec-Fetch-Site")
    return None if site is None else site not in ("same-origin", "none")


def render_view(template, table, options, shown):
    """The HTML of a template that shows what read_day_view returned."""
    opened_by_other_site = is_from_other_site()
    if opened_by_other_site is None:  # by plain http to another computer, browsers do not say
        # The Referer shows whether a view of this server led here.
        opened_by_other_site = not (request.referrer or "").startswith(request.host_url)
    return render_template(
        template,
        **shown,
        options=options,
        weekday=datetime.fromisoformat(options.date).strftime("%A"),
        days_around=neighbours(sorted({*table.dates, options.date}), options.date),
        dates=table.dates,
        window=table.window,
        table_version=version_of(table),
        opened_by_other_site=opened_by_other_site,
    ).encode()  # a text with dashes would take two bytes a letter


@routes.get("/")
@from_table
def scanner(table):
    """The view of a day; 400, or 404 if the table does not have the date."""
    options = requested_options(table)
    needs_after = {*options.columns, options.sort} & {*querier.AFTER_FIELDS}
    try:
        shown, status = read_day_view(table, options, needs_after), 200
    except querier.NoDataError as error:
        nearest = querier.nearest_date(table.dates, options.date)
        shown, status = {"problem": error, "nearest": nearest}, 404
    return render_view("scanner.html", table, options, shown), status


@routes.get("/chart")
@from_table
def chart(table):
    """The view of a ticker's day alone; 400, or 404 if the table does not have it."""
    options = requested_options(table, "ticker", "date")
    shown = read_day_view(table, options, options.sort in querier.AFTER_FIELDS)
    if "problem" in shown:
        raise shown["problem"]
    return render_view("chart.html", table, options, shown)


@routes.get("/anomalies.csv")
@from_table
def anomalies_csv(table):
    """A day's list as the querier writes it; 400, or 404 if the table does not have the date."""
    options = requested_options(table)
    day = read_day(table, options.date, needs_after=True)
    rows = select_and_sort(find_anomalies(table, day, options), options)
    lines = querier.csv_lines(querier.ANOMALY_FIELDS, map(querier.csv_and_json_row, rows))
    headers = {"Content-Disposition": f'attachment; filename="anomalies-{options.date}.csv"'}
    return Response("".join(lines), 200, headers, mimetype="text/csv")


@routes.get("/api/days")
@from_table
def api_days(table):
    """The table's dates."""
    return {"days": table.dates}


@routes.get("/api/table")
@from_table
def api_table(table):
    """The table's version, a text that changes with the file, and its last date."""
    return {"version": version_of(table), "last": table.dates[-1]}


@routes.get("/api/anomalies")
@from_table
def api_anomalies(table):
    """A day's anomalies with the querier's fields, without what came after; 400, 404."""
    options = requested_options(table)
    day = read_day(table, options.date)
    fields = [*querier.ROW_FIELDS, *querier.FACT_FIELDS, "marks", "type", "name"]
    # As JSON, the answer takes less memory than its dicts until it is sent.
    return current_app.json.response(
        date=options.date,
        threshold=options.threshold,
        tickers=len(day.page["ticker"]),
        anomalies=[
            querier.without_nan({field: row[field] for field in fields})
            for row in find_anomalies(table, day, options)
        ],
    )


@routes.get("/api/history")
@from_table
def api_history(table):
    """A ticker's rows around a date, oldest first; 400, 404.

    They are 40, unless the parameter rows is another number, or "all". A quarter of them are after
    the date: fewer if the history ends earlier, more if too few rows are before. Each row is what
    the querier's row_of returns, with "anomaly": whether it is one.
    """
    options = requested_options(table, "ticker", "date")
    history, i = read_history_and_index(table, options.ticker, options.date)
    length = most_rows = len(history["date"])
    if request.args.get("rows") != "all":
        most_rows = parameter("rows", 40, querier.whole_number(1, 999_999_999))
    later = min(length - i - 1, most_rows // 4)
    first = max(0, i + 1 + later - most_rows)
    anomalies = set(querier.indexes_of_anomalies(history, options.threshold))
    rows = [
        querier.without_nan({**querier.row_of(history, each), "anomaly": each in anomalies})
        for each in range(first, min(length, first + most_rows))
    ]
    asked = {"ticker": options.ticker, "date": options.date, "threshold": options.threshold}
    return {**asked, "rows": rows}


@routes.get("/api/after")
@from_table
def api_after(table):
    """What came after a ticker's day, for the ticker and the median ticker; 400, 404.

    html says it in a sentence. horizons are a dict for each of the querier's HORIZONS:

    days     the horizon
    change   of the ticker's price since that day, in percent; None unless the state is "known"
    state    "known"; "unknown" while fewer days follow in the table; "gone" if the ticker has no
             row on any of these days; "none" if it has one, but the day's close is 0
    split    whether there is a suspected split in between
    median   the median of the change over all tickers of the day, None if none has one
    """
    options = requested_options(table, "ticker", "date")
    _, page, after = read_day(table, options.date, needs_after=True)
    i, horizons = index_of(options.ticker, page), []
    for days in querier.HORIZONS:
        horizon = {"days": days, "change": None, "state": "unknown", "split": False, "median": None}
        if days in after.changes:
            changes = after.changes[days]
            change = float(changes[i])  # nan if the ticker is gone, inf if the close is 0
            horizon["change"] = change
            horizon["state"] = "known" if isfinite(change) else "gone" if isnan(change) else "none"
            horizon["split"] = bool(0 < after.split_days[i] <= days)
            horizon["median"] = querier.median(changes)
        horizons.append(querier.without_nan(horizon))
    html = render_template("after.html", horizons=horizons)
    return {"ticker": options.ticker, "date": options.date, "horizons": horizons, "html": html}


@from_table
def row_before(table):
    """A request's ticker and date, and its row before: that one's date and close, or None, None."""
    options = requested_options(table, "ticker", "date")
    history, i = read_history_and_index(table, options.ticker, options.date)
    before = (history["date"][i - 1], history["close_price"][i - 1]) if i else (None, None)
    return options.ticker, options.date, *before


@routes.get("/api/bars")
def api_bars():
    """A ticker's minute bars of a date; 400, 404, and from Polygon 429, 502, 503, 504."""
    ticker, date, _, close = row_before()
    opening, closing = (int(at.timestamp()) * 1000 for at in market_hours(date))
    return {
        "ticker": ticker,
        "date": date,
        "session": {"open": opening, "close": closing},
        "previous_close": close,
        "bars": current_app.config["POLYGON"].answer(date, fetch_minute_bars, ticker, date),
    }


@routes.get("/api/headlines")
def api_headlines():
    """A ticker's headlines up to 20:00 of a date in New York.

    They begin when the market closed on the day of its previous row; without one, at midnight.
    400, 404, and from Polygon 429, 502, 503, 504.
    """
    ticker, date, previous, _ = row_before()
    start = market_hours(previous)[1] if previous else new_york_time(date, 0)
    start, end = (f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in (start, new_york_time(date, 20)))
    found = current_app.config["POLYGON"].answer(date, fetch_headlines, ticker, start, end)
    return {"ticker": ticker, "date": date, "from": start, "to": end, "headlines": found}


@routes.get("/lightweight-charts.js")
def lightweight_charts_js():
    """The library that draws the charts; 404 if find_chart_library does not find it."""
    return flask.send_file(find_chart_library() or abort(404), max_age=365 * 86_400)


# Guards, and the answer to what goes wrong.


def refuse_foreign_host():
    """Before each request: refuse it if it does not name one of the app's hosts.

    This prevents DNS rebinding: a site can make its own host name lead to this server, and its
    scripts could then read the answers. If the server listens on all addresses, it may be asked by
    any IP address: a site decides where its name leads, but not where an IP address leads. (Flask's
    TRUSTED_HOSTS knows neither IPv6 nor "any address".)
    """
    host, hosts = re.sub(r":\d+$", "", request.host.lower()), current_app.config["HOSTS"]
    is_ip_address = re.fullmatch(r"[\d.]+|\[[\da-f:.]+\]", host)
    if host not in hosts and not (is_ip_address and hosts & {"0.0.0.0", "[::]"}):
        abort(400, "this server has no such host name: --allow-host NAME would give it one")


def refuse_other_sites():
    """Before each request below /api: refuse it if another site made the browser send it.

    Bars and headlines spend the user's requests to Polygon. They want a header that only the page's
    own scripts can send: a browser does not let another site's page add it.
    """
    is_own_script = request.headers.get("X-Lookup-Table-Page") == "1"
    spends_the_key = request.path in ("/api/bars", "/api/headlines") and not is_own_script
    if spends_the_key or (request.path.startswith("/api/") and is_from_other_site()):
        abort(403, "only this server's own views may ask for this")


def send_from_file(response):
    """After each request: keep a long answer in a temporary file, not in memory, to send it."""
    if not response.direct_passthrough and (response.content_length or 0) > 2**16:
        with ExitStack() as stack:
            file = stack.enter_context(TemporaryFile())
            file.write(response.get_data())
            file.seek(0)
            stack.pop_all()  # whoever sends the file closes it
        response.response, response.direct_passthrough = wrap_file(request.environ, file), True
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

    The status is 503 for a TableError, 404 for a NoDataError; an HTTPException brings its own.
    """
    if not isinstance(error, HTTPException):
        kind = ServiceUnavailable if isinstance(error, querier.TableError) else NotFound
        error = kind(str(error))
    headers = {name: text for name, text in error.get_headers() if name in ("Allow", "Retry-After")}
    if not request.path.startswith("/api/"):
        return render_template("error.html", error=error), error.code, headers
    wait = {"retry_after": error.retry_after} if "Retry-After" in headers else {}
    return {"error": error.description, **wait}, error.code, headers


# The app, the server and the command line.


@cache
def find_chart_library():
    """The path of lightweight-charts.js in the Python package litecharts.

    None if the package is not installed, or if its file is not the official build of version 5.1.0.
    """
    package = importlib.util.find_spec("litecharts")  # this does not import it
    path = package and Path(package.origin).parent / "js" / "lightweight-charts.js"
    content = path.read_bytes() if path and path.is_file() else b""
    return path if sha256(content).hexdigest() == CHART_LIBRARY_SHA256 else None


def create_app(table_path, polygon, hosts=LOOPBACK):
    """The Flask app that shows the table at table_path; bars and headlines come from polygon.

    It answers requests for hosts only, a set of names and addresses in lower case, without ports.
    """
    app = Flask(__name__, root_path=HERE, static_folder="templates/static")
    app.config.from_mapping(TABLE_PATH=table_path, POLYGON=polygon, HOSTS=hosts)
    app.register_blueprint(routes)
    app.before_request(refuse_foreign_host)
    app.before_request(refuse_other_sites)
    app.after_request(send_from_file)
    app.after_request(add_security_headers)
    for kind in (querier.TableError, querier.NoDataError, HTTPException):
        app.register_error_handler(kind, error_response)
    app.json.sort_keys = False
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    helpers = (address_of, bar_percent, cells, direction, format_change, format_figure)
    helpers += (format_price, mark_name, mark_reason, or_dash)
    app.jinja_env.globals.update({helper.__name__: helper for helper in helpers})
    app.jinja_env.globals.update(
        chart_library_version=find_chart_library() and CHART_LIBRARY_SHA256[:8],
        list_columns=LIST_COLUMNS,
        optional_columns=OPTIONAL_COLUMNS,
        querier=querier,
    )
    mimetypes.add_type("text/javascript", ".js")  # some Windows systems say otherwise
    return app


def listening_socket(host, port):
    """A socket that listens at host and port. If that fails, it says why and ends the script."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, TypeError, ValueError) as error:  # the last two: no host can have this name
        # In brackets, Python repeats the address.
        reason = (getattr(error, "strerror", None) or "no such host").partition(" (")[0]
        print(querier.printable(f"cannot listen on {host}, port {port}: {reason}"), file=sys.stderr)
        raise SystemExit(1) from None


def serve(options):
    """Show a table until a signal ends it. Returns the exit status. Raises TableError."""
    status = 130  # after Ctrl-C

    def terminate(*_):
        nonlocal status  # server.run() catches SystemExit and KeyboardInterrupt, and returns
        status = 143
        sys.exit(status)

    signal.signal(signal.SIGTERM, terminate)
    with querier.open_file(options.table) as file:
        querier.table_in(file, TABLE_KINDS)  # report a bad table now, not on the first request
    listening = listening_socket(options.host, options.port)
    # Its connections inherit this limit. Without it, each may hold megabytes of a list to send.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)
    host = f"[{options.host}]" if ":" in options.host else options.host
    hosts = {name.lower() for name in (*LOOPBACK, host, *options.allow_host)}
    app = create_app(options.table, Polygon(options.api_url), hosts)
    logging.getLogger("waitress").setLevel(logging.CRITICAL)
    # No request needs a body: refuse large ones before waitress writes them to a file.
    limits = {"threads": 16, "max_request_body_size": 2**16}
    server = create_server(app, sockets=[listening], ident=None, **limits)
    port = listening.getsockname()[1]
    print(f"http://{'localhost' if options.host in LOOPBACK else host}:{port}", flush=True)
    server.run()
    return status


def argument_like(pattern, example):
    """An argument's type: texts that match pattern as a whole, such as example."""

    def argument(text):
        if not re.fullmatch(pattern, text, re.ASCII):
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is nothing like {example}")
        return text

    return argument


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    file = "the table to show (default lookup_table.pkl)"
    add("--table", default="lookup_table.pkl", metavar="FILE", help=file)
    port = "the port to listen on (default 8888)"
    add("--port", type=querier.whole_number(0, 65_535), default=8888, metavar="PORT", help=port)
    host = "the address to listen on (default 127.0.0.1, which only this computer reaches). With "
    host += "another one, everyone in that network can read the page and use your key"
    address = argument_like(".+", "127.0.0.1")  # an empty one would mean all addresses
    add("--host", type=address, default="127.0.0.1", help=host)
    name = "a host name by which the page may be asked for; can be given several times"
    names = argument_like(r"[\w-]+(\.[\w-]+)*", "my-computer.local")
    add("--allow-host", type=names, action="append", default=[], metavar="NAME", help=name)
    url = "where minute bars and headlines come from; your key is in POLYGON_API_KEY or "
    url += f"MASSIVE_API_KEY (default {API_URL})"
    urls = argument_like(r"https?://[\w.\-\[\]:]+(/[\w./\-]*)?", API_URL)
    add("--api-url", type=urls, default=API_URL, metavar="URL", help=url)
    return parser.parse_args(argv)


def main(argv=None):
    options = parse_arguments(argv)
    try:
        if sys.stdout is None:
            raise OSError(0, "stdout is closed")
        return serve(options)
    except querier.TableError as error:
        print(querier.printable(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        return querier.stdout_failed(error)


if __name__ == "__main__":
    raise SystemExit(main())
