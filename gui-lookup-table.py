"""Show the lookup table in a browser: each day's anomalies, and charts of what happened there.

Usage:
    python gui-lookup-table.py [--host HOST] [--port PORT] [--table FILE] [--api-url URL]

Reads   ./lookup_table.pkl, which build-lookup-table.py writes; minute bars from Polygon, if
        POLYGON_API_KEY or MASSIVE_API_KEY holds a key.
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
import json
import logging
import mimetypes
import os
import re
import socket
import sys
from concurrent.futures import Future
from functools import lru_cache
from itertools import islice
from math import isfinite, nan
from pathlib import Path
from threading import BoundedSemaphore, Lock, local
from urllib.parse import quote

from flask import Flask, render_template, request, send_from_directory, url_for
from werkzeug.exceptions import BadRequest, HTTPException, MethodNotAllowed, NotFound

HERE = Path(__file__).parent
ANY_ADDRESS = {"0.0.0.0", "[::]"}
ADDRESS = r"[\d.]+|\[[\da-f:.]+\]"
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
COLUMNS = {
    "ticker": "Ticker",
    "trades": "Trades",
    "avg_trades": "Avg trades",
    "std_trades": "Std dev",
    "z_score": "Z-score",
    "times_normal": "Times normal",
    "close_price": "Close",
    "price_diff": "Price diff %",
}
SESSIONS, MOST_SESSIONS = 40, 260

BAR_FIELDS = ["timestamp", "open", "high", "low", "close", "volume", "vwap", "transactions"]
MINUTES_A_DAY = 24 * 60
KEPT_DAYS_OF_BARS = 128
CALLS_AT_ONCE = 6  # of the server's threads; the others keep the page alive while Polygon hangs
THREADS = 8

NO_KEY = (
    "Minute candles come from Polygon and need your key: stop this server, "
    "run export POLYGON_API_KEY=YOUR_KEY, and start it again."
)
NO_CLIENT = "Minute candles need polygon-api-client: pip install -r requirements.txt"
REFUSALS = {
    "API Key": "Polygon does not accept your key: check POLYGON_API_KEY or MASSIVE_API_KEY.",
    "today's data": "Your Polygon plan has a day's minute bars only after the end of that day.",
    "timeframe": "Your Polygon plan does not reach back to the minute bars of this day.",
    "entitled": "Your Polygon plan does not include these minute bars.",
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


spec = importlib.util.spec_from_file_location("querier", HERE / "query-lookup-table.py")
querier = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(querier)


class BarsError(Exception):
    """Why there are no bars: a sentence for the user, and the HTTP status to answer with."""

    def __init__(self, sentence, status, retry_after=None):
        super().__init__(sentence)
        self.status = status
        self.headers = {"Retry-After": retry_after} if retry_after else {}


def shown(value, spec):
    """A number as text for people, a dash where there is none."""
    return "—" if value is None or not isfinite(value) else format(value, spec)


def scored(row):
    """row, a dict of the querier's FIELDS and more, with z_score and anomaly (whether it is one).

    A missing baseline is None, and so is the z_score where there is none or one of equal numbers.
    """
    z_score = querier.z_score(row["trades"], row["avg_trades"], row["std_trades"])
    is_anomaly = z_score > querier.Z_THRESHOLD
    return querier.without_nan({**row, "z_score": z_score, "anomaly": is_anomaly})


def sessions_around(dates, date, sessions):
    """Up to that many of dates: a quarter after date, the others up to it, as far as they go."""
    here = dates.index(date) + 1
    after = min(len(dates) - here, sessions // 4)
    first = max(0, here + after - sessions)
    return dates[first : first + sessions]


def neighbours(items, item):
    """Those before and after item in items, None at the ends; (None, the first) if it is not."""
    around = [None, *items, None]
    place = around.index(item) if item in items else 0
    return around[place - 1], around[place + 1]


def natural_order(field):
    return "asc" if field == "ticker" else "desc"


def sort_rows(anomalies, field, order):
    """anomalies by one of COLUMNS, "asc" or "desc"; those without a number stay last."""
    rows = [
        {**row, "times_normal": row["trades"] / row["avg_trades"] if row["avg_trades"] else nan}
        for row in anomalies
    ]
    rows = querier.sort_anomalies(rows, field)
    if order == natural_order(field):
        return rows
    return sorted(reversed(rows), key=lambda row: row[field] != row[field])


def is_past(date):
    """Whether that day is over in New York, where it is never more than 5 hours before UTC."""
    now = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=5)
    return date < now.date().isoformat()


# What is asked of an open table, so that each answer is of one table.


def read_page(table, date, threshold, ticker, named=""):
    """All that a page shows of a date, and of a ticker if there is one; no date is the last.

    stats is the ticker's row as scored has it, meant the ticker of that day, anomaly or not, that
    is named, in whatever case. Where the table lacks the date, or the ticker on it, problem says
    so.
    """
    date = date or max(table.dates, default="")
    tickers, baselines, anomalies, stats, problem = [], [], [], None, ""
    try:
        page = querier.read_day(table, date)
        tickers, baselines = page["ticker"], page["avg_trades"]
        anomalies = querier.find_anomalies(page, date, threshold)
        if ticker in tickers:
            place = tickers.index(ticker)
            stats = scored({name: column[place] for name, column in page.items()})
        elif ticker:
            problem = f"no trades of {ticker} on {date}"
    except querier.NoDataError as error:
        problem = str(error)
    previous, following = neighbours(sorted({*table.dates, date}), date)
    return {
        "date": date,
        "weekday": datetime.date.fromisoformat(date).strftime("%A"),
        "threshold": threshold,
        "tickers": len(tickers),
        "anomalies": anomalies,
        "stats": stats,
        "problem": problem,
        "meant": next((each for each in (named, named.upper()) if each in tickers), None),
        "has_baselines": any(map(isfinite, baselines)),
        "window": table.window,
        "first": table.dates[0],
        "last": table.dates[-1],
        "previous": previous,
        "next": following,
    }


def read_history(table, ticker, date, sessions):
    """The ticker's rows around a date, by date, as scored has them. Raises NoDataError."""
    if ticker not in querier.read_day(table, date)["ticker"]:
        raise querier.NoDataError(f"no trades of {ticker} on {date}")
    days = table.read_ticker(ticker)
    dates = sessions_around(sorted(days), date, sessions)
    return [scored({"date": day, **days[day]}) for day in dates]


# Minute bars, from Polygon.


class StrictJson(local):
    """For the client's custom_json, which takes what it cannot read for an answer without bars.

    answers counts what could be read, for each thread.
    """

    answers = 0

    def loads(self, text):
        try:
            answer = json.loads(text)
        except ValueError:
            raise BarsError(NONSENSE, 502) from None
        is_answer = isinstance(answer, dict) and {"results", "status"} & set(answer)
        if not is_answer or ("next_url" in answer and not answer.get("results")):
            raise BarsError(NONSENSE, 502)
        self.answers += 1
        return answer


@lru_cache(maxsize=1)
def make_client(key, api_url, timeout):
    """A polygon RESTClient that gives up in time; timeout is in seconds."""
    from polygon import RESTClient
    from urllib3 import Retry, Timeout

    class Retries(Retry):
        def increment(self, *args, response=None, **kwargs):
            if response is not None and response.status == 429:
                raise BarsError(RATE_LIMIT, 429, response.headers.get("Retry-After"))
            return super().increment(*args, response=response, **kwargs)

    client = RESTClient(key, base=api_url, custom_json=StrictJson())
    # The timeouts the constructor takes are never applied, and its retries would sleep for as
    # long as a Retry-After says.
    client.client.connection_pool_kw.update(
        timeout=Timeout(connect=min(5, timeout), read=timeout),
        retries=Retries(
            total=2,
            connect=0,
            read=0,
            status_forcelist=[429, 500, 502, 503, 504],
            backoff_factor=0.2,
            respect_retry_after_header=False,
        ),
    )
    return client


def explain(error):
    """The BarsError for whatever the client raised. Its own text may hold the key: never shown."""
    from polygon.exceptions import BadResponse
    from urllib3 import exceptions

    if isinstance(error, BarsError):
        return error
    if isinstance(error, BadResponse):
        known = (sentence for words, sentence in REFUSALS.items() if words in str(error))
        return BarsError(next(known, NONSENSE), 502)
    reason = getattr(error, "reason", error)
    if isinstance(reason, exceptions.ResponseError):
        return BarsError(IN_TROUBLE, 502)
    if isinstance(reason, exceptions.DecodeError) or not isinstance(reason, exceptions.HTTPError):
        return BarsError(NONSENSE, 502)
    # In urllib3 1 a refused connection is a kind of timeout.
    is_refused = isinstance(reason, exceptions.NewConnectionError)
    if isinstance(reason, exceptions.TimeoutError) and not is_refused:
        return BarsError(TIMEOUT, 504)
    return BarsError(NO_CONNECTION, 502)


def is_bar(bar):
    """Whether the dict has a finite number for each of BAR_FIELDS; the last two may be None."""
    *needed, vwap, transactions = bar.values()
    numbers = needed + [value for value in (vwap, transactions) if value is not None]
    return all(type(value) in (int, float) and isfinite(value) for value in numbers)


def quoted(ticker):
    """The ticker as one part of a path; of dots alone it would be a step up in it."""
    return quote(ticker, safe="") if ticker.strip(".") else ticker.replace(".", "%2E")


def polygon_bars(api_url, timeout=10):
    """A fetch_minute_bars(ticker, date) that asks the Polygon API at api_url.

    It returns a day's unadjusted minute bars by time, dicts of BAR_FIELDS: timestamp is in
    milliseconds UTC, vwap and transactions may be None. It raises BarsError.
    """

    def fetch_minute_bars(ticker, date):
        key = os.environ.get("POLYGON_API_KEY") or os.environ.get("MASSIVE_API_KEY")
        if not key:
            raise BarsError(NO_KEY, 503)
        if not re.fullmatch("[ -~]+", key):
            raise BarsError(REFUSALS["API Key"], 502)
        try:
            client = make_client(key, api_url, timeout)
            client.json.answers = 0
            aggs = client.list_aggs(
                quoted(ticker), 1, "minute", date, date, adjusted=False, limit=50_000
            )
            bars = [
                {field: getattr(agg, field) for field in BAR_FIELDS}
                for agg in islice(aggs, MINUTES_A_DAY + 1)
            ]
        except ImportError:
            raise BarsError(NO_CLIENT, 503) from None
        except Exception as error:
            raise explain(error) from None
        is_sound = client.json.answers and len(bars) <= MINUTES_A_DAY and all(map(is_bar, bars))
        if not is_sound:
            raise BarsError(NONSENSE, 502)
        return bars

    return fetch_minute_bars


def remember_bars(fetch_minute_bars):
    """fetch_minute_bars with a memory: fetch_bars(ticker, date) returns /api/bars' JSON text.

    A past day's bars are kept, simultaneous equal requests make one call, failures are forgotten.
    Those who wait for an answer are no more than CALLS_AT_ONCE: others are told to come again.
    """
    kept, under_way = {}, {}
    lock, places = Lock(), BoundedSemaphore(CALLS_AT_ONCE)

    def fetch_bars(ticker, date):
        asked = (ticker, date)
        with lock:
            if asked in kept:
                kept[asked] = kept.pop(asked)
                return kept[asked]
            if not places.acquire(blocking=False):
                raise BarsError(BUSY, 503)
            is_first = asked not in under_way
            answer = under_way.setdefault(asked, Future())
        try:
            if is_first:
                fetch_into(answer, ticker, date)
            return answer.result()
        finally:
            places.release()

    def fetch_into(answer, ticker, date):
        try:
            bars = fetch_minute_bars(ticker, date)
            if not bars:
                raise BarsError(f"Polygon has no minute bars of {ticker} on {date}.", 404)
            answer.set_result(json.dumps({"ticker": ticker, "date": date, "bars": bars}))
        except Exception as error:
            answer.set_exception(error)
        with lock:
            del under_way[ticker, date]
            if not answer.exception() and is_past(date):
                kept[ticker, date] = answer.result()
            if len(kept) > KEPT_DAYS_OF_BARS:
                del kept[next(iter(kept))]

    return fetch_bars


# What an address says.


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


def choice(name, choices, default):
    text = parameter(name, str, default)
    if text not in choices:
        raise BadRequest(f"{name}: {text!r} is none of {', '.join(choices)}")
    return text


def date_parameter(default=None):
    return parameter("date", querier.date_argument, default)


sessions_argument = querier.whole_number(1, MOST_SESSIONS)


def threshold_parameter():
    number = parameter("threshold", querier.number_argument, float(querier.Z_THRESHOLD))
    return int(number) if number.is_integer() else number


def ask_for_listing():
    """What the scanner's page is asked to show, as listing_address writes it."""
    sort = choice("sort", COLUMNS, "trades")
    return {
        "date": date_parameter(""),
        "threshold": threshold_parameter(),
        "sort": sort,
        "order": choice("order", ["asc", "desc"], natural_order(sort)),
        "filter": parameter("filter", str, ""),
        "ticker": parameter("ticker", str, ""),
    }


def listing_address(listing, **changes):
    """The address of the scanner's page for listing with changes; defaults are left out."""
    listing = {**listing, **changes}
    defaults = {"threshold": querier.Z_THRESHOLD, "sort": "trades"}
    defaults["order"] = natural_order(listing["sort"])
    state = {
        name: value
        for name, value in listing.items()
        if value not in (None, "") and value != defaults.get(name)
    }
    return url_for("scanner", **state)


def create_app(table_path, fetch_minute_bars, hosts=LOOPBACK):
    """The web application: a table's path, and a function that fetches bars as polygon_bars does.

    Requests for other hosts than hosts get a 400: else a foreign site could have its name lead
    here and its scripts read this server. Where hosts has ANY_ADDRESS, an address will do: only
    names can be made to lead elsewhere.
    """
    app = Flask(__name__, static_folder="templates/static", static_url_path="/static")
    app.json.sort_keys = False
    plotly = find_plotly()
    app.jinja_env.filters["shown"] = shown
    app.jinja_env.globals.update(
        columns=COLUMNS,
        address=listing_address,
        natural_order=natural_order,
        z_threshold=querier.Z_THRESHOLD,
        plotly_version=plotly and plotly.stat().st_mtime_ns,
    )
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    mimetypes.add_type("text/javascript", ".js")
    fetch_bars = remember_bars(fetch_minute_bars)
    table_lock, listing_lock = Lock(), Lock()

    def ask(question, *details):
        with table_lock:
            return querier.ask_table(table_path, lambda table: question(table, *details))

    def ask_for_page(date, ticker, threshold=querier.Z_THRESHOLD):
        page = ask(read_page, date, threshold, ticker)
        if page["problem"]:
            raise querier.NoDataError(page["problem"])
        return page

    @app.before_request
    def refuse_foreign_requests():
        host = re.sub(r":\d+$", "", request.host.lower())
        if host not in hosts and not (ANY_ADDRESS & {*hosts} and re.fullmatch(ADDRESS, host)):
            raise BadRequest("this server does not go by that host name")
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed

    @app.after_request
    def add_policies(response):
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers.setdefault("Cache-Control", "no-cache")
        return response

    @app.get("/")
    def scanner():
        """The anomalies of a day; 400, or 404 where the table lacks the date."""
        asked = ask_for_listing()
        # One at a time: long lists at once would be no sooner there, and take more memory.
        with listing_lock:
            page = ask(
                read_page, asked["date"], asked["threshold"], asked["ticker"], asked["filter"]
            )
            rows = [
                row
                for row in sort_rows(page["anomalies"], asked["sort"], asked["order"])
                if asked["filter"].lower() in row["ticker"].lower()
            ]
            page.update(rows=rows, listing={**asked, "date": page["date"]})
            return render_template("scanner.html", **page), 200 if page["tickers"] else 404

    @app.get("/chart")
    def chart():
        """One ticker's day; 400, or 404 where the table lacks it."""
        page = ask_for_page(date_parameter(), parameter("ticker"))
        tickers = [row["ticker"] for row in page["anomalies"]]
        page["previous"], page["next"] = neighbours(tickers, page["stats"]["ticker"])
        return render_template("chart.html", **page)

    @app.get("/api/days")
    def api_days():
        """The table's dates."""
        return {"days": ask(lambda table: table.dates)}

    @app.get("/api/anomalies")
    def api_anomalies():
        """A day's anomalies as the querier has them; 400, 404."""
        page = ask_for_page(date_parameter(""), "", threshold_parameter())
        page["anomalies"] = [querier.without_nan(row) for row in page["anomalies"]]
        return {name: page[name] for name in ("date", "threshold", "tickers", "anomalies")}

    @app.get("/api/history")
    def api_history():
        """A ticker's days around a date; 400, 404."""
        ticker, date = parameter("ticker"), date_parameter()
        rows = ask(read_history, ticker, date, parameter("sessions", sessions_argument, SESSIONS))
        threshold = querier.Z_THRESHOLD
        return {"ticker": ticker, "date": date, "threshold": threshold, "rows": rows}

    @app.get("/api/bars")
    def api_bars():
        """A ticker's minute bars of a date; 400, 404, and BarsError's 429, 502, 503, 504."""
        ticker, date = parameter("ticker"), date_parameter()
        ask_for_page(date, ticker)
        return app.response_class(fetch_bars(ticker, date), mimetype="application/json")

    @app.get("/plotly.min.js")
    def plotly_js():
        """plotly's JavaScript as its Python package has it; 404 where that is missing."""
        if not plotly:
            raise NotFound
        return send_from_directory(plotly.parent, plotly.name, max_age=365 * 86_400)

    def refuse(error):
        """The page, or below /api the JSON, that says what is wrong."""
        status, headers, sentence = 503, {}, str(error)
        if isinstance(error, querier.NoDataError):
            status = 404
        elif isinstance(error, BarsError):
            status, headers = error.status, error.headers
        elif isinstance(error, HTTPException):
            status = error.code
            sentence = error.description if status == 400 else f"{error.name}: {request.path}"
            headers = {"Allow": "GET, HEAD"} if status == 405 else {}
        if request.path.startswith("/api/"):
            return {"error": sentence}, status, headers
        return render_template("error.html", sentence=sentence), status, headers

    for kind in (querier.TableError, querier.NoDataError, BarsError, HTTPException):
        app.register_error_handler(kind, refuse)
    return app


def find_plotly():
    """The path of the installed plotly package's JavaScript, or None; plotly is not imported."""
    spec = importlib.util.find_spec("plotly")
    path = spec and Path(spec.origin).parent / "package_data" / "plotly.min.js"
    return path if path and path.is_file() else None


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="the address to listen on (default 127.0.0.1)")
    add("--port", type=querier.whole_number(0, 65_535), default=8888, help="default 8888")
    add("--table", default="lookup_table.pkl", metavar="FILE", help="default lookup_table.pkl")
    add(
        "--api-url",
        default="https://api.polygon.io",
        metavar="URL",
        help="where bars come from (default https://api.polygon.io)",
    )
    args = parser.parse_args(argv)
    if not args.host:
        parser.error("--host is empty: name an address")
    return args


def main(argv=None):
    args = parse_arguments(argv)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        # A bad table is told now, not to the first visitor.
        querier.ask_table(args.table, lambda table: read_page(table, "", querier.Z_THRESHOLD, ""))
        family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
        serve(args, socket.create_server((args.host, args.port), family=family))
    except querier.TableError as error:
        querier.complain(str(error))
        return 1
    except OSError as error:
        reason = error.strerror.partition(" (")[0]
        querier.complain(f"cannot listen on {args.host}, port {args.port}: {reason}")
        return 1
    except KeyboardInterrupt:
        pass
    return 130


def serve(args, listening):
    """Answer requests at a listening socket until Ctrl-C."""
    from waitress.server import create_server

    for name in ("waitress", "urllib3", "RESTClient"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    port = listening.getsockname()[1]
    name = f"[{args.host}]" if ":" in args.host else args.host
    app = create_app(args.table, polygon_bars(args.api_url), {*LOOPBACK, name.lower()})
    server = create_server(app, sockets=[listening], threads=THREADS, ident=None)
    print(f"http://{'localhost' if args.host in LOOPBACK else name}:{port}", flush=True)
    server.run()


if __name__ == "__main__":
    raise SystemExit(main())
