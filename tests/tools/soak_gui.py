"""Soak the GUI: clients ask for everything while the builder replaces the table, over and over.

Usage: python tests/tools/soak_gui.py [--requests N] [--pause SECONDS] [--seed S]

Reads   nothing: two markets are made up, and every number differs between them.
Writes  a line on memory at the start, in the middle and at the end, and one on the whole; the
        markets and their table go into a temporary folder. All connections are to 127.0.0.1.

Ends with status 1 if an answer was not, byte for byte, that of one of the two tables (a 503 for
bars or headlines may say that too many clients ask), if the server's memory or open files have
grown, or if there was not enough of both requests and tables.
"""

import argparse
import contextlib
import datetime
import random
import re
import sys
import tempfile
import threading
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlencode, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fakes.polygon import FakePolygon
from helpers.flat_files import write_flat_files
from helpers.gui import running_gui
from helpers.scripts import build_table, run, wait_until

CLIENTS = 8
TICKERS = [first + second for first in "ABCDEFGH" for second in "VWXYZ"]
MOST_GROWTH, MOST_MEMORY = 15, 120  # MB
MOST_SECONDS = 1200
FIRST_DAY = datetime.date(2024, 3, 1)
DAYS = [(FIRST_DAY + datetime.timedelta(n)).isoformat() for n in range(30)]
# Differs each time that a table is written.
VERSION = re.compile(rb'data-table-version="[^"]*"|"version":"[^"]*"')
MALFORMED = [
    *("/nothing", "/api/nothing", "/static/../gui-lookup-table.py", "/%ff%00", "//evil.example/"),
    *("/?date=tomorrow", "/?threshold=nan", "/?sort=volume", "/chart", "/chart?ticker=AV"),
    *("/api/anomalies?date=2024-02-30", "/api/anomalies?threshold=1e999", "/api/history?ticker=AV"),
    f"/api/history?ticker=AV&date={DAYS[9]}&sessions=261",
    f"/api/history?ticker=%3Cscript%3E&date={DAYS[9]}",
    f"/api/bars?ticker=../AV&date={DAYS[9]}",
    "/api/bars?ticker=AV&date=1900-01-01",
]


def make_market(rng, days):
    """{date: [(ticker, trades, close), ...]}: most tickers on most days, now and then a burst."""
    usual = {ticker: rng.randrange(100, 100_000) for ticker in TICKERS}
    return {
        date: [
            (
                ticker,
                int(usual[ticker] * rng.uniform(0.8, 1.2) * rng.choice([1] * 20 + [9])),
                round(rng.uniform(1, 100), 2),
            )
            for ticker in TICKERS
            if rng.random() < 0.95
        ]
        for date in days
    }


def make_requests(rng, count):
    """So many requests, as (method, path, host), for all routes, days and tickers."""

    def any_view():
        names = ["date", "threshold", "sort", "order", "filter", "ticker"]
        names += ["min_price", "min_trades", "min_record", "skip"]
        values = [
            rng.choice(DAYS),
            rng.choice([3, 0, -5, 12.5]),
            rng.choice(["ticker", "trades", "z_score", "times_normal", "price_diff", "record"]),
            rng.choice(["asc", "desc"]),
            rng.choice("abcz"),
            rng.choice(TICKERS),
            *(50, 90_000, 5, rng.choice(["new", "thin,split", "stale,test"])),
        ]
        kept = [pair for pair in zip(names, values) if rng.random() < 0.5]
        return "/?" + urlencode(kept)

    def one_ticker(route, **more):
        return f"{route}?" + urlencode(
            {"ticker": rng.choice(TICKERS), "date": rng.choice(DAYS), **more}
        )

    kinds = [
        any_view,
        lambda: one_ticker("/chart", sort="ticker", filter=rng.choice("abcz")),
        lambda: one_ticker("/api/bars"),
        lambda: one_ticker("/api/history", sessions=rng.choice([1, 5, 40, 260])),
        lambda: f"/api/anomalies?date={rng.choice(DAYS)}&threshold={rng.choice([3, -9, 40])}",
        lambda: one_ticker("/api/headlines"),
        lambda: one_ticker("/api/after"),
        lambda: any_view().replace("/?", "/anomalies.csv?"),
        lambda: rng.choice(["/", "/api/days", "/api/table", "/api/anomalies"]),
        lambda: rng.choice(MALFORMED),
    ]
    requests = {("POST", "/", None), ("GET", "/api/days", "evil.example")}
    while len(requests) < count:
        requests.add(("GET", rng.choice(kinds)(), None))
    return sorted(requests, key=str)


def ask(connection, request):
    """The status and body of the answer to a request, without the table's version."""
    method, path, host = request
    connection.request(method, path, headers={"Host": host} if host else {})
    response = connection.getresponse()
    return response.status, VERSION.sub(b"", response.read())


class ProcessFigures:
    """What /proc says about a process."""

    def __init__(self, process):
        self.proc = Path(f"/proc/{process.pid}")

    def open_files(self):
        return len(list((self.proc / "fd").iterdir()))

    def limits(self):
        return (self.proc / "limits").read_text()


class Soak:
    """The clients, and the builder that replaces the table while they ask.

    answers has the right answers to each request, one for each of two tables.
    """

    def __init__(self, url, answers, options):
        self.netloc, self.answers, self.options = urlsplit(url).netloc, answers, options
        self.latencies, self.violations, self.refused, self.busy = [], [], 0, 0
        self.seen, self.replaced = set(), 0
        self.deadline = time.monotonic() + MOST_SECONDS
        self.clients = [threading.Thread(target=self.client, args=[n]) for n in range(CLIENTS)]

    def is_over(self):
        """Whether there were enough requests and two other tables, or the time is up."""
        is_enough = len(self.latencies) >= CLIENTS * self.options.requests and self.replaced >= 2
        return is_enough or time.monotonic() > self.deadline

    def client(self, number):
        rng, requests = random.Random(f"{self.options.seed} {number}"), list(self.answers)
        connection = HTTPConnection(self.netloc, timeout=30)
        while not self.is_over():
            request = rng.choice(requests)
            started = time.perf_counter()
            try:
                answer = ask(connection, request)
            except (OSError, HTTPException) as error:
                connection.close()
                answer = type(error).__name__, b""
            self.latencies.append(time.perf_counter() - started)
            self.judge(request, answer)
        connection.close()

    def judge(self, request, answer):
        right = self.answers[request]
        if answer in right:
            self.refused += answer[0] >= 400
            if right[0] != right[1]:
                self.seen.add(right.index(answer))
        elif self.is_busy(request, answer):
            self.busy += 1
        else:
            self.violations.append((request, answer))

    def is_busy(self, request, answer):
        """Whether it says that too many clients asked for bars at once, which it may."""
        status, body = answer
        return (
            request[1].startswith(("/api/bars?", "/api/headlines?"))
            and status == 503
            and b"Polygon" in body
        )

    def replace_tables(self, flat_files, table):
        """Build one table after the other over the last one."""
        while not self.is_over():
            time.sleep(self.options.pause)
            files = flat_files[(self.replaced + 1) % 2]
            run("build-lookup-table.py", "--data-dir", files, "--output", table, check=True)
            self.replaced += 1

    def figures(self):
        latencies = sorted(1000 * latency for latency in self.latencies)
        p50, p95 = (latencies[int(len(latencies) * share)] for share in (0.5, 0.95))
        return (
            f"{len(latencies):,} requests, {self.refused:,} refused as they must be, "
            f"{self.busy} while busy, {len(self.violations)} wrong; {self.replaced} tables; "
            f"p50 {p50:.1f}, p95 {p95:.1f}, max {latencies[-1]:.0f} ms"
        )


def answers_at_rest(url, flat_files, table, options):
    """{request: its answers, one for each of two tables}; the first table is built last."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=30)
    requests = make_requests(random.Random(options.seed), max(60, options.requests))
    by_table = []
    for files in flat_files[::-1]:
        build_table(files, table)
        by_table.append([ask(connection, request) for request in requests])
    connection.close()
    return dict(zip(requests, zip(*by_table[::-1])))


def soak(gui, flat_files, table, options):
    """Run it, and print the lines. Returns what was wrong, in words."""
    process = ProcessFigures(gui.process)
    answers = answers_at_rest(gui.url, flat_files, table, options)
    wrong = [
        f"{request} at rest: {status}"
        for request, both in answers.items()
        for status, _ in both
        if status >= 500
    ]
    soaking = Soak(gui.url, answers, options)
    limits, open_files, memory = process.limits(), process.open_files(), [gui.memory("VmRSS")]
    print(f"start: {memory[0]:.1f} MB, {open_files} open files", flush=True)
    builder = threading.Thread(target=soaking.replace_tables, args=[flat_files, table])
    for thread in [*soaking.clients, builder]:
        thread.start()
    while len(soaking.latencies) < CLIENTS * options.requests / 2 and builder.is_alive():
        time.sleep(0.05)
    memory.append(gui.memory("VmRSS"))
    print(f"middle: {memory[1]:.1f} MB, {process.open_files()} open files", flush=True)
    for thread in [*soaking.clients, builder]:
        thread.join()
    with contextlib.suppress(TimeoutError):  # the server closes its ends of the connections
        wait_until(lambda: process.open_files() <= open_files, 5)
    memory.append(gui.memory("VmRSS"))
    print(f"end: {memory[2]:.1f} MB, {process.open_files()} open files", flush=True)

    if len(soaking.latencies) < CLIENTS * options.requests or soaking.replaced < 2:
        wrong.append(f"not enough within {MOST_SECONDS} s, or the builder or a client failed")
    wrong += [f"{request} answered {answer}"[:500] for request, answer in soaking.violations]
    if soaking.seen != {0, 1}:
        wrong.append(f"not both tables were seen: {soaking.seen}")
    if memory[2] - memory[0] > MOST_GROWTH or memory[2] > MOST_MEMORY:
        wrong.append(f"memory grew from {memory[0]:.1f} to {memory[2]:.1f} MB")
    if process.open_files() > open_files:
        wrong.append(f"open files grew from {open_files} to {process.open_files()}")
    if process.limits() != limits:
        wrong.append(f"the process's limits changed:\n{limits}\n{process.limits()}")
    print(soaking.figures() + "; " + " -> ".join(f"{mb:.1f}" for mb in memory) + " MB")
    return wrong


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--requests", type=int, default=2000, metavar="N", help="a client (2000)")
    add("--pause", type=float, default=2, metavar="SECONDS", help="between tables (2)")
    add("--seed", type=int, default=1, metavar="S", help="another one makes other requests (1)")
    options = parser.parse_args(argv)

    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        markets = [make_market(rng, DAYS), make_market(rng, DAYS[:-1])]
        flat_files = [write_flat_files(folder / str(n), market) for n, market in enumerate(markets)]
        table = build_table(flat_files[0], folder / "lookup_table.pkl")
        with FakePolygon(flat_files[0]) as polygon, running_gui(
            table, polygon.url, POLYGON_API_KEY="any"
        ) as gui:
            wrong = soak(gui, flat_files, table, options)
    for violation in wrong[:20]:
        print(violation)
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
