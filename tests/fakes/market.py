"""A stand-in for the part of Polygon's REST API that gives the whole market's day, on 127.0.0.1.

Usage: with FakeMarket({"2024-08-01": [row("NA", 8, 2)]}) as market: ... market.url ...
"""

import gzip
import json
import re
from urllib.parse import parse_qs, urlsplit

from fakes.server import NOT_FOUND, Answer, FakeServer, answered, send

PATH = re.compile(r"/v2/aggs/grouped/locale/us/market/stocks/(\d{4}-\d\d-\d\d)")


def row(ticker, trades, close, **other):
    """A ticker's row of an answer; other replaces or adds fields."""
    prices = {"o": close, "c": close, "h": close, "l": close}
    return {"T": ticker, "v": 1000, "vw": close, **prices, "t": 1602705600000, "n": trades, **other}


def grouped(rows):
    """The answer for a day with these rows, as a dict."""
    results = {"results": rows} if rows else {}
    counts = {"queryCount": len(rows), "resultsCount": len(rows), "count": len(rows)}
    return {**counts, "adjusted": False, **results, "status": "OK", "request_id": "eae3"}


def sent(raw):
    """A fault: these bytes as they are, then the end of the connection."""

    def fault(handler):
        handler.wfile.write(raw)
        handler.close_connection = True

    return fault


class FakeMarket(FakeServer):
    """It serves days, {date: rows}; any other day is without trading.

    asked holds the dates of all requests, authorizations their headers of that name. Each request
    takes the first of faults away; when there are none, always is used. A fault is an Answer to
    give, a function that answers (its argument is the request's handler), or None to serve days.
    """

    def __init__(self, days=()):
        super().__init__()
        self.days, self.always = dict(days), None
        self.asked, self.authorizations, self.faults = [], [], []

    def reply(self, handler):
        address = urlsplit(handler.path)
        date = PATH.fullmatch(address.path)
        if not date or parse_qs(address.query).get("adjusted") != ["false"]:
            send(handler, NOT_FOUND)
            return
        self.asked.append(date[1])
        self.authorizations.append(handler.headers["Authorization"])
        fault = self.faults.pop(0) if self.faults else self.always
        if fault is None:
            body = gzip.compress(json.dumps(grouped(self.days.get(date[1], []))).encode())
            fault = answered(body, Content_Encoding="gzip")
        if isinstance(fault, Answer):
            send(handler, fault)
        else:
            fault(handler)
