"""A stand-in for the part of Polygon's REST API that the scripts use, on 127.0.0.1.

Usage: with FakePolygon(flat_files) as polygon: ... polygon.url ...

It has the whole market's days, minute bars, news, and lists of tickers and splits. Bars are made up
from flat files, so that they agree with a day's trades and close.
"""

import csv
import json
import math
import random
import re
import sys
import threading
from base64 import b64encode
from collections import namedtuple
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import create_connection
from urllib.parse import parse_qs, unquote, urlsplit

from helpers.flat_files import new_york_time

GROUPED = re.compile(r"/v2/aggs/grouped/locale/us/market/stocks/(\d{4}-\d\d-\d\d)")
BARS = re.compile(r"/v2/aggs/ticker/([^/]+)/range/1/minute/(\d{4}-\d\d-\d\d)/(\d{4}-\d\d-\d\d)")
NEWS = "/v2/reference/news"
TICKERS, SPLITS = "/v3/reference/tickers", "/v3/reference/splits"
MINUTES = 960
OPENING, CLOSING = 330, 720  # minutes after 04:00, when early trading begins
MINUTE_IN_MS = 60_000
# Its time is 09:30 on 2024-10-18.
BAR = {"t": 1729258200000, "o": 1, "h": 1.2, "l": 0.9, "c": 1.1, "v": 10, "vw": 1, "n": 3}
HTML = {"Content-Type": "text/html"}

Answer = namedtuple("Answer", "status headers body")
Request = namedtuple("Request", "path query headers")
Day = namedtuple("Day", "trades close previous_close")


def answered(content=b"", status=200, **headers):
    """An Answer with content: bytes, text, or what becomes JSON; headers as Retry_After="7"."""
    body = content if isinstance(content, (bytes, str)) else json.dumps(content)
    return Answer(status, {name.replace("_", "-"): text for name, text in headers.items()}, body)


def refused(status, error, **headers):
    return answered({"status": "ERROR", "error": error}, status, **headers)


def row(ticker, trades, close, **other):
    """A ticker's row of a day's answer, without a time; other replaces or adds fields."""
    prices = {"o": close, "c": close, "h": close, "l": close}
    return {"T": ticker, "v": 1000, "vw": close, **prices, "n": trades, **other}


def with_bars(*bars):
    return answered({"status": "OK", "resultsCount": len(bars), "results": bars})


DROP = Answer(None, {}, "")  # the connection ends without an answer
NOT_FOUND = Answer(404, {}, "404 page not found")
# The refusals' words are the real server's, without "Please upgrade your plan at ...".
REFUSALS = {
    "no key": refused(401, "API Key was not provided"),
    "unknown key": refused(401, "Unknown API Key"),
    "not entitled": refused(403, "You are not entitled to this data."),
    "timeframe": refused(403, "Your plan doesn't include this data timeframe."),
    "today": refused(403, "Attempted to request today's data before end of day."),
}
RATE_LIMIT = refused(429, "You've exceeded the maximum requests per minute", Retry_After="60")
# Answers that are none, whatever was asked.
BROKEN = {
    "cut short": Answer(200, {"Content-Length": "1000"}, '{"status":"OK","results":[{"c":'),
    "not gzip": Answer(200, {"Content-Encoding": "gzip"}, '{"status":"OK"}'),
    "broken json": answered('{"status":"OK","results":[{"c":0.91,'),
    "html": Answer(200, HTML, "<html><h1>Welcome</h1></html>"),
    "a list": answered([]),
    "results are null": answered({"status": "OK", "results": None, "resultsCount": 9}),
    "results are missing": answered({"status": "OK", "resultsCount": 9}),
    "a row is null": answered({"status": "OK", "results": [None]}),
    "a row is empty": answered({"status": "OK", "results": [{}]}),
    "server error": Answer(500, HTML, "<html><h1>Internal Server Error</h1></html>"),
}
EMPTY = {
    "no results": answered('{"queryCount":0,"resultsCount":0,"adjusted":false,"status":"OK"}'),
    "empty results": with_bars(),
}


def minute_bars(ticker, date, day):
    """A day of bars as Polygon writes them. Their n add up to day.trades, the last c is its close.

    From 04:00 to 20:00 New York. A minute without a trade has no bar; such minutes are more
    frequent before the opening and after the closing. The price wanders around a curve that leads
    from the previous close to the close and bulges upwards in between.
    """
    rng = random.Random(f"{ticker} {date}")
    rise = math.log(day.close / day.previous_close)
    haste, overshoot = rng.uniform(0.4, 1.5), abs(rise) * rng.uniform(0.1, 0.9)
    deviation = 0.02 + 0.4 * abs(rise)
    weights, walk = [], [0]
    for minute in range(MINUTES):
        if OPENING <= minute < CLOSING:
            from_middle = abs(minute - (OPENING + CLOSING) / 2) / (CLOSING - OPENING) * 2
            weights.append((0.5 + from_middle**3) * rng.lognormvariate(0, 0.4))
        else:
            weights.append(0.2 * rng.lognormvariate(0, 0.8) * (rng.random() > 0.3))
        walk.append(walk[-1] + rng.gauss(0, deviation * (weights[-1] / MINUTES) ** 0.5))
    start, total = new_york_time(date, 4 * 60), sum(weights)
    bars, price, weight_so_far, trades_so_far = [], day.previous_close, 0, 0
    for minute, weight in enumerate(weights):
        weight_so_far += weight
        progress = weight_so_far / total
        trades = round(day.trades * progress) - trades_so_far
        if trades:
            trades_so_far += trades
            way = progress**haste * rise + overshoot * math.sin(math.pi * progress)
            close = day.previous_close * math.exp(way + walk[minute] - progress * walk[-1])
            if trades_so_far == day.trades:
                close = day.close
            low, high = sorted([price, close])
            low -= price * deviation / 20 * rng.random()
            high += price * deviation / 20 * rng.random()
            bar = {"v": trades * rng.randrange(60, 120), "vw": (low + high + close) / 3}
            bar.update(o=price, c=close, h=high, l=low)
            bar = {name: round(number, 4) for name, number in bar.items()}
            bars.append({**bar, "t": start + minute * MINUTE_IN_MS, "n": trades})
            price = close
    return bars


@lru_cache(maxsize=1)
def read_days(folder):
    """{(ticker, date): Day} of the flat files in folder."""
    days, closes = {}, {}
    for path in sorted(Path(folder).glob("*.csv")):
        with path.open() as file:
            for row in csv.DictReader(file):
                ticker, close = row["ticker"], float(row["close"])
                previous_close = closes.get(ticker, close)
                days[ticker, path.stem] = Day(int(row["transactions"]), close, previous_close)
                closes[ticker] = close
    return days


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args):
        if not isinstance(sys.exc_info()[1], OSError):  # the other side may leave at any time
            super().handle_error(*args)


class Fake:
    """A server on 127.0.0.1, as a context manager. method, such as GET, is answered by answer."""

    def __init__(self, method, answer):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(handler, *_):
                pass

        setattr(Handler, f"do_{method}", answer)
        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class FakePolygon(Fake):
    """The server at url, as a context manager. tls is an ssl.SSLContext to answer HTTPS with.

    requests   what was asked so far: path (as it came), query ({name: value}) and headers
    answer     what to answer whatever is asked, None to answer what is asked: an Answer, or a
               function without arguments that returns one
    answers    the same for the next requests, one each, before answer counts
    days       {date: rows} of the whole market
    bars       {(ticker, date): bars} to give instead of made-up ones
    articles   {ticker: articles} to give when news is asked for
    lists      {TICKERS: rows, SPLITS: rows}; a row of TICKERS without active counts as active
    page_rows  how many rows of a list are on a page, at most
    answering  an Event; while it is clear, the server hangs
    """

    def __init__(self, flat_files=None, tls=None):
        super().__init__("GET", lambda handler: self.reply(handler))
        self.from_files = read_days(flat_files) if flat_files else {}
        self.days, self.bars, self.articles, self.requests = {}, {}, {}, []
        self.lists, self.page_rows = {TICKERS: [], SPLITS: []}, 1000
        self.answer, self.answers = None, []
        self.answering = threading.Event()
        self.answering.set()
        self.url = f"http://127.0.0.1:{self.port}"
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
            self.url = f"https://localhost:{self.port}"

    def __exit__(self, *_):
        self.answering.set()
        super().__exit__()

    @property
    def asked(self):
        """The dates of the requests for a day of the whole market."""
        days = (GROUPED.fullmatch(request.path) for request in self.requests)
        return [day[1] for day in days if day]

    def bars_of(self, ticker, date):
        """A day's bars as Polygon writes them."""
        if (ticker, date) in self.bars:
            return self.bars[ticker, date]
        day = self.from_files.get((ticker, date))
        return minute_bars(ticker, date, day) if day else []

    def reply(self, handler):
        url = urlsplit(handler.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        self.requests.append(Request(url.path, query, dict(handler.headers)))
        answer = self.answers.pop(0) if self.answers else self.answer
        self.answering.wait()
        answer = answer() if callable(answer) else answer
        send(handler, answer or self.answer_to(url.path, query, handler.headers))

    def answer_to(self, path, query, headers):
        if not headers.get("Authorization", "").startswith("Bearer "):
            return REFUSALS["no key"]
        if path == NEWS:
            return self.news(query)
        if path in self.lists:
            return self.list_page(path, query)
        day, bars = GROUPED.fullmatch(path), BARS.fullmatch(path)
        if day and query.get("adjusted") == "false":
            return with_bars(*self.days.get(day[1], []))
        return with_bars(*self.bars_of(unquote(bars[1]), bars[2])) if bars else NOT_FOUND

    def list_page(self, path, query):
        """The Answer to a request for a page of a list. As ever, the next one is at Polygon's."""

        def is_wanted(row):
            is_active = str(row.get("active", True)).lower() == query.get("active", "true")
            first_date = query.get("execution_date.gte", "")
            return is_active and row.get("execution_date", "9") >= first_date

        rows = [row for row in self.lists[path] if row is None or is_wanted(row)]
        start = int(query.get("cursor", 0))
        end = start + min(int(query["limit"]), self.page_rows)
        following = {"next_url": f"https://api.polygon.io{path}?cursor={end}"}
        body = {"results": rows[start:end], "status": "OK", "count": len(rows[start:end])}
        return answered({**body, **(following if rows[end:] else {})})

    def news(self, query):
        """The Answer to a request for articles, by time, as many as are asked for."""
        articles = [
            article
            for article in self.articles.get(query["ticker"], [])
            if query["published_utc.gte"] <= article["published_utc"] <= query["published_utc.lte"]
        ]
        articles.sort(key=lambda article: article["published_utc"])
        limit = int(query["limit"])
        body = {"results": articles[:limit], "status": "OK", "count": len(articles[:limit])}
        if len(articles) > limit:
            body["next_url"] = f"https://api.polygon.io{NEWS}?cursor=YQ"
        return answered(body)


def send(handler, answer):
    """Answer a request; DROP ends the connection."""
    if answer.status is None:
        handler.close_connection = True
        return
    body = answer.body.encode() if isinstance(answer.body, str) else answer.body
    headers = {"Content-Type": "application/json", "Content-Length": len(body), **answer.headers}
    handler.send_response(answer.status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
    handler.close_connection = int(headers["Content-Length"]) != len(body)


class FakeProxy(Fake):
    """A proxy at url: targets are what it was asked to connect to.

    With a login, name:password, it refuses whoever does not send it.
    """

    def __init__(self, login=None):
        super().__init__("CONNECT", lambda handler: self.connect(handler))
        self.url, self.targets = f"127.0.0.1:{self.port}", []
        self.expected = login and "Basic " + b64encode(login.encode()).decode()

    def connect(self, handler):
        if handler.headers["Proxy-Authorization"] != self.expected:
            handler.send_error(407)
            return
        self.targets.append(handler.path)
        port = int(handler.path.rpartition(":")[2])  # whatever the name, it is here
        with create_connection(("127.0.0.1", port)) as target:
            handler.send_response(200)
            handler.end_headers()
            back = threading.Thread(target=copy, args=[target, handler.connection])
            back.start()
            copy(handler.connection, target)
            back.join()
        handler.close_connection = True


def copy(source, target):
    try:
        while piece := source.recv(2**16):
            target.sendall(piece)
        target.shutdown(1)
    except OSError:
        pass
