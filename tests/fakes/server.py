"""What the stand-ins for Polygon's server share: HTTP on 127.0.0.1, and the real one's refusals."""

import gc
import json
import sys
import threading
import time
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = namedtuple("Answer", "status headers body")
DROP = Answer(None, {}, "")
NOT_FOUND = Answer(404, {}, "404 page not found")


def answered(content=b"", status=200, **headers):
    """An Answer with content: bytes, text, or what becomes JSON; headers as Retry_After="7"."""
    body = content if isinstance(content, (bytes, str)) else json.dumps(content)
    return Answer(status, {name.replace("_", "-"): text for name, text in headers.items()}, body)


def refused(status, error, **headers):
    return answered({"status": "ERROR", "error": error}, status, **headers)


def not_authorized(message):
    return answered({"status": "NOT_AUTHORIZED", "message": message}, 403)


# The refusals' words are the real server's.
REFUSALS = {
    "no key": refused(401, "API Key was not provided"),
    "unknown key": refused(401, "Unknown API Key"),
    "not entitled": not_authorized(
        "You are not entitled to this data. Please upgrade your plan at https://massive.com/pricing"
    ),
    "timeframe": not_authorized(
        "Your plan doesn't include this data timeframe. "
        "Please upgrade your plan at https://polygon.io/pricing"
    ),
    "today": not_authorized(
        "Attempted to request today's data before end of day. "
        "Please upgrade your plan at https://polygon.io/pricing"
    ),
}
RATE_LIMIT = refused(
    429,
    "You've exceeded the maximum requests per minute, please wait or upgrade your subscription "
    "to continue. https://massive.com/pricing",
    Retry_After="60",
)


def send(handler, answer, pace=0, is_head_slow=False):
    """Answer a request. FakePolygon explains pace and is_head_slow; DROP ends the connection."""
    if answer.status is None:
        handler.close_connection = True
        return
    body = answer.body
    body = body.encode("utf-8", "surrogateescape") if isinstance(body, str) else body
    if body.startswith(b"[" * 1000):
        # A finalizer that runs while the client parses so deep an answer would fail: run those of
        # other tests' garbage now.
        gc.collect()
    headers = {"Content-Type": "application/json", "Content-Length": len(body), **answer.headers}
    handler.send_response(answer.status)
    for name, value in headers.items():
        handler.send_header(name, value)
    if is_head_slow:
        write_slowly(handler, b"".join(handler._headers_buffer), pace)
        handler._headers_buffer.clear()
    handler.end_headers()
    if pace:
        write_slowly(handler, body, pace)
    else:
        handler.wfile.write(body)
    handler.close_connection = int(headers["Content-Length"]) != len(body)


def write_slowly(handler, text, pace):
    for i in range(len(text)):
        handler.wfile.write(text[i : i + 1])
        time.sleep(pace)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args):
        if not isinstance(sys.exc_info()[1], OSError):  # the other side may leave at any time
            super().handle_error(*args)


class FakeServer:
    """A server at url, as a context manager; ended is an Event for its end.

    A subclass has a method reply(handler), which answers a request. tls is an ssl.SSLContext to
    answer HTTPS with.
    """

    def __init__(self, tls=None):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(handler):
                self.reply(handler)

            def log_message(handler, *_):
                pass

        self.ended = threading.Event()
        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
            self.url = f"https://localhost:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True).start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()
