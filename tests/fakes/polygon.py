"""A stand-in for the part of Polygon's REST API that gives minute bars and news, on 127.0.0.1.

Usage: with FakePolygon(flat_files) as polygon: ... polygon.url ...

It reads the flat files, to make up bars that agree with a day's trades and close.
"""

import base64
import csv
import gzip
import math
import random
import re
import threading
from collections import namedtuple
from functools import lru_cache
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from helpers.flat_files import new_york_time

from fakes.server import DROP as DROP  # for those who import all answers from here
from fakes.server import NOT_FOUND, REFUSALS, Answer, FakeServer, answered, send
from fakes.server import RATE_LIMIT as RATE_LIMIT

NEWS = "/v2/reference/news"
PATH = re.compile(r"/v2/aggs/ticker/([^/]+)/range/1/minute/([^/]+)/(\d{4}-\d\d-\d\d)")
MINUTES = 960
OPENING, CLOSING = 330, 720  # minutes after 04:00, when early trading begins
MINUTE_IN_MS = 60_000
# Its time is 09:30 on 2024-10-18.
BAR = {"t": 1729258200000, "o": 1, "h": 1.2, "l": 0.9, "c": 1.1, "v": 10, "vw": 1, "n": 3}
NEXT = "https://api.polygon.io/v2/aggs/ticker/A/range/1/minute/1/2?cursor=YQ"
REQUEST_ID = "0123456789abcdef0123456789abcdef"
HTML = {"Content-Type": "text/html"}

Request = namedtuple("Request", "path query headers")
Day = namedtuple("Day", "trades close previous_close")


def with_bars(*bars):
    return answered({"status": "OK", "resultsCount": len(bars), "results": bars})


BROKEN = {
    "server error": Answer(500, HTML, "<html><h1>Internal Server Error</h1></html>"),
    "bad gateway": Answer(502, HTML, "<html><h1>Bad Gateway</h1></html>"),
    "maintenance": Answer(503, {"Retry-After": "60"}, ""),
    "not found": NOT_FOUND,
    "teapot": Answer(418, {}, "\udcff"),
    "cut short": Answer(200, {"Content-Length": "1000"}, '{"status":"OK","results":[{"c":'),
    "not gzip": Answer(200, {"Content-Encoding": "gzip"}, '{"status":"OK"}'),
    "broken json": answered('{"status":"OK","results":[{"c":0.91,'),
    "not utf-8": answered('{"status":"OK","results":[{"c":"\udcff"}]}'),
    "html": Answer(200, HTML, "<html><h1>Welcome</h1></html>"),
    "a number": answered(1),
    "a list": answered([]),
    "no object": answered(None),
    "results are text": answered({"status": "OK", "results": "none"}),
    "results are null": answered({"status": "OK", "results": None}),
    "a bar is null": with_bars(None),
    "a bar is empty": with_bars({}),
    "a bar has words": with_bars({"t": "noon", "o": "a", "h": "b", "l": "c", "c": "d", "v": "e"}),
    "a bar has no time": with_bars({**BAR, "t": None}),
    "a bar is not finite": answered(
        '{"results":[{"t":1729239000000,"o":NaN,"h":Infinity,"l":1,"c":1,"v":1,"n":1,"vw":1}]}'
    ),
    "a bar has a number of 401 digits": with_bars({**BAR, "v": 10**400}),
    "a number of 300,000 digits": answered('{"results":[{"t":' + "9" * 300_000 + "}]}"),
    "8 MB": answered('{"results":[]' + " " * 2**23 + "}"),
    "a million brackets": answered("[" * 1_000_000),
    "8 MB, packed": Answer(
        200, {"Content-Encoding": "gzip"}, gzip.compress(b'{"results":[]' + b" " * 2**23 + b"}")
    ),
    "the same part for ever": answered({"results": [BAR] * 500, "next_url": NEXT}),
    "empty parts for ever": answered({"results": [], "next_url": NEXT}),
    "a new part of one bar for ever": answered({"results": [BAR], "next_url": NEXT}),
    "another host": Answer(302, {"Location": "http://192.0.2.1/"}, ""),
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


class FakePolygon(FakeServer):
    """The server.

    requests  what was asked so far: path (as it came), query ({name: value}) and headers
    answer    an Answer to give whatever is asked, None to answer what is asked
    bars      {(ticker, date): bars} to give instead of made-up ones
    articles  {ticker: articles} to give when news is asked for
    part_size most bars in a part of an answer
    answering an Event; while it is clear, the server hangs
    pace      seconds between two bytes of an answer's body, and of its head if is_head_slow
    """

    def __init__(self, flat_files, tls=None):
        super().__init__(tls)
        self.days = read_days(flat_files)
        self.bars, self.articles, self.requests = {}, {}, []
        self.answer, self.part_size = None, 50_000
        self.pace, self.is_head_slow = 0, False
        self.answering = threading.Event()
        self.answering.set()

    def __exit__(self, *_):
        self.answering.set()
        super().__exit__()

    def bars_of(self, ticker, date):
        """What a caller gets for the day, as Polygon writes it, in however many parts."""
        if (ticker, date) in self.bars:
            return self.bars[ticker, date]
        day = self.days.get((ticker, date))
        return minute_bars(ticker, date, day) if day else []

    def reply(self, handler):
        url = urlsplit(handler.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        self.requests.append(Request(url.path, query, dict(handler.headers)))
        self.answering.wait()
        answer = self.answer or self.answer_to(url.path, query, handler.headers)
        send(handler, answer, self.pace, self.is_head_slow)

    def answer_to(self, path, query, headers):
        """The Answer to a request. One for a further part of a day's bars starts at a timestamp."""
        if not headers.get("Authorization", "").startswith("Bearer "):
            return REFUSALS["no key"]
        if path == NEWS:
            return self.news(query)
        match = PATH.fullmatch(path)
        if not match:
            return NOT_FOUND
        ticker, start, date = match.groups()
        start = int(start) if start.isdigit() else new_york_time(start, 0)
        bars = [bar for bar in self.bars_of(unquote(ticker), date) if bar["t"] >= start]
        limit = min(self.part_size, int(query.get("limit", 5000)))
        body = {"ticker": unquote(ticker), "adjusted": query.get("adjusted") != "false"}
        body.update(queryCount=len(bars), resultsCount=len(bars[:limit]), status="OK")
        body.update(request_id=REQUEST_ID, count=len(bars[:limit]))
        if bars:
            body["results"] = bars[:limit]
        if len(bars) > limit:
            cursor = base64.b64encode(b"limit=%d&sort=asc" % limit).decode()
            rest = f"{ticker}/range/1/minute/{bars[limit]['t']}/{date}"
            body["next_url"] = f"https://api.polygon.io/v2/aggs/ticker/{rest}?cursor={cursor}"
        return answered(body)

    def news(self, query):
        """The Answer to a request for articles, by time, as many as are asked for."""
        articles = [
            article
            for article in self.articles.get(query["ticker"], [])
            if query["published_utc.gte"] <= article["published_utc"] <= query["published_utc.lte"]
        ]
        articles.sort(key=lambda article: article["published_utc"])
        limit = int(query["limit"])
        body = {"results": articles[:limit], "status": "OK", "request_id": REQUEST_ID}
        body["count"] = len(body["results"])
        if len(articles) > limit:
            body["next_url"] = f"https://api.polygon.io{NEWS}?cursor=YQ"
        return answered(body)
