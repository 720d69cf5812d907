"""A stand-in for the part of Polygon's REST API that gives the whole market's day, on 127.0.0.1.

Usage: with FakeMarket({"2024-08-01": [row("NA", 8, 2)]}) as market: ... market.url ...
"""

import gzip
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PATH = re.compile(r"/v2/aggs/grouped/locale/us/market/stocks/(\d{4}-\d\d-\d\d)")
NO_KEY = {"status": "ERROR", "error": "API Key was not provided"}
UNKNOWN_KEY = {"status": "ERROR", "error": "Unknown API Key"}
NOT_ENTITLED = {
    "status": "NOT_AUTHORIZED",
    "message": "You are not entitled to this data. Please upgrade your plan at a page",
}
TIMEFRAME = {
    "status": "NOT_AUTHORIZED",
    "message": "Your plan doesn't include this data timeframe. Please upgrade your plan",
}
BEFORE_END_OF_DAY = {
    "status": "NOT_AUTHORIZED",
    "message": "Attempted to request today's data before end of day. Please upgrade your plan",
}
TOO_MANY = {
    "status": "ERROR",
    "error": "You've exceeded the maximum requests per minute, please wait or upgrade",
}


def row(ticker, trades, close, **other):
    """A ticker's row of an answer; other replaces or adds fields."""
    prices = {"o": close, "c": close, "h": close, "l": close}
    return {"T": ticker, "v": 1000, "vw": close, **prices, "t": 1602705600000, "n": trades, **other}


def grouped(rows):
    """The answer for a day with these rows, as a dict."""
    results = {"results": rows} if rows else {}
    counts = {"queryCount": len(rows), "resultsCount": len(rows), "count": len(rows)}
    return {**counts, "adjusted": False, **results, "status": "OK", "request_id": "eae3"}


def respond(handler, status, content, headers=()):
    """Answer with content: bytes, or what becomes JSON."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in dict(headers).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def answered(status, content=b"", **headers):
    """A fault: an answer with that status; headers as Retry_After="7"."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: respond(handler, status, content, named)


def sent(raw):
    """A fault: these bytes as they are, then the end of the connection."""

    def fault(handler):
        handler.wfile.write(raw)
        handler.close_connection = True

    return fault


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args):
        if not isinstance(sys.exc_info()[1], OSError):  # the other side may leave at any time
            super().handle_error(*args)


class FakeMarket:
    """It serves days, {date: rows}; any other day is without trading.

    asked holds the dates of all requests, authorizations their headers of that name. A fault is a
    function of the request's handler; the first of faults is used up by the next request. always
    is a fault that is never used up.
    """

    def __init__(self, days=()):
        self.days = dict(days)
        self.asked, self.authorizations, self.faults = [], [], []
        self.always = None
        self.ended = threading.Event()
        market = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                market.serve(self)

            def log_message(self, *args):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def serve(self, handler):
        address = urlsplit(handler.path)
        date = PATH.fullmatch(address.path)
        if not date or parse_qs(address.query).get("adjusted") != ["false"]:
            respond(handler, 404, b"404 page not found")
            return
        self.asked.append(date[1])
        self.authorizations.append(handler.headers["Authorization"])
        fault = self.faults.pop(0) if self.faults else self.always
        if fault:
            fault(handler)
            return
        body = gzip.compress(json.dumps(grouped(self.days.get(date[1], []))).encode())
        respond(handler, 200, body, {"Content-Encoding": "gzip"})

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()
