"""Measure the scripts beside a polars pipeline and the row-by-row algorithm, on a made-up market.

Usage:
    python tests/tools/benchmark.py                                       57 days, some minutes
    python tests/tools/benchmark.py --days 1256 --runs 3                  five years
    python tests/tools/benchmark.py --days 5000 --runs 1 --folder MARKET  twenty years
    python tests/tools/benchmark.py --only build                          the builds alone

Writes a market in the flat files' format to the folder MARKET (unless it is there already; without
--folder it is a temporary one), and runs every contender in turn as a process of its own, after a
round of warming up. Prints a table: wall time (median, fastest and slowest), peak memory (the
highest, in units of 2**20 bytes), and how many times as long it took as another contender (the
median of each round's). The status is 1 when a bound is exceeded. Needs polars, which nothing else
here does. A row of flat files and tables takes up to 370 bytes on the disk.
"""

import argparse
import contextlib
import inspect
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import polars as pl

sys.path.append(str(Path(__file__).resolve().parent.parent))
from helpers.scripts import TOP, Measured, measure

ROW_BY_ROW = [sys.executable, str(TOP / "tests" / "witnesses" / "row_by_row.py")]
LAST_DAY = "2024-10-18"

# In a market of more days, the others would take too long or need too much memory.
MOST_DAYS_POLARS = 1500
MOST_DAYS_ROW_BY_ROW = 60
MOST_DAYS_WITHOUT_TURNOVER = 1500

FLOOR = "import argparse, pickle"
POLARS = "polars build"
# What each may take at most: seconds, MB, and x: times as long as FLOOR, the build as POLARS.
BUILD_BOUNDS = {  # for markets of up to so many days
    57: {"x": 1.6, "MB": 260},
    1256: {"x": 1.4, "MB": 1400},
    5000: {"s": 80, "MB": 4500},
}
MANY_DAYS_BOUNDS = {  # for markets of up to 1,256 days
    "aftermath": {"s": 8, "MB": 250},
    "range with facts": {"s": 30},
}
BOUNDS = {
    "query": {"x": 2, "MB": 20},
    "query, wide": {"x": 10, "MB": 70},
    "query, csv": {"x": 10, "MB": 70},
    "query, json": {"x": 10, "MB": 70},
    "gui: first answer": {"s": 0.5},
    "gui: a day": {"s": 0.05},
    "gui: a ticker's history": {"s": 0.04},
    "gui: what came after": {"s": 0.25, "MB": 150},
}


class Market(NamedTuple):
    days: int
    rows: int
    flat_files: Path
    table: Path
    parquet: Path
    row_by_row_table: Path


class Contender(NamedTuple):
    name: str
    command: list
    writes: Path | None = None
    only_once: bool = False  # without warming up


def note(text):
    print(text, file=sys.stderr, flush=True)


# The made-up market.


def ticker_names(count, rng):
    """Return count different tickers of four letters, in ASCII order."""
    codes = np.sort(rng.choice(26**4, count, replace=False)).tolist()
    return ["".join(chr(65 + code // 26**power % 26) for power in (3, 2, 1, 0)) for code in codes]


def window_starts(days):
    """Return the nanosecond, in UTC since 1970, at which each of days begins in New York."""
    midnights = pl.Series(days).cast(pl.Datetime("ns")).dt.replace_time_zone("America/New_York")
    return midnights.dt.epoch("ns").to_list()


def write_made_up_market(folder, days, tickers):
    """Write the flat files of that many days up to LAST_DAY; return the number of their rows.

    So many tickers are listed at any time. Up to MOST_DAYS_WITHOUT_TURNOVER they stay the same and
    trade every day; beyond, each is listed for nine years, and the thinnest trade every other day.
    """
    rng = np.random.default_rng(1)
    turnover = days > MOST_DAYS_WITHOUT_TURNOVER
    listed_for = 2300 if turnover else days
    listings = tickers * (days + listed_for) // listed_for if turnover else tickers
    listed_on = np.zeros(listings)
    if turnover:
        listed_on = rng.permutation(np.linspace(-listed_for, days, listings))
    names = ticker_names(listings, rng)
    level = rng.lognormal(np.log(200), 2.2, listings)
    volatility = rng.uniform(0.005, 0.04, listings)
    close = rng.lognormal(np.log(20), 1.2, listings)

    rows = 0
    dates = np.busday_offset(LAST_DAY, np.arange(1 - days, 1)).astype(object).tolist()
    for day, (date, window_start) in enumerate(zip(dates, window_starts(dates))):
        trades = level * rng.lognormal(rng.normal(0, 0.1), 0.3, listings)
        move = volatility * rng.standard_normal(listings)
        spikes = np.flatnonzero(rng.random(listings) < 0.003)
        trades[spikes] *= rng.lognormal(2, 0.8, len(spikes))
        move[spikes] *= 5
        opening = close * (1 + 0.3 * volatility * rng.standard_normal(listings))
        close = np.clip(opening * np.exp(move), 0.05, 90_000)
        above, below = np.abs(volatility * rng.standard_normal((2, listings)))
        trades_today = (listed_on <= day) & (day < listed_on + listed_for)
        if turnover:
            trades_today &= (level > 30) | (rng.random(listings) < 0.5)

        columns = {
            "ticker": names,
            "volume": np.ceil(trades * 80).astype(int),
            "open": opening.round(4),
            "close": close.round(4),
            "high": (np.maximum(opening, close) * (1 + above)).round(4),
            "low": (np.minimum(opening, close) * (1 - below)).round(4),
            "window_start": np.full(listings, window_start),
            "transactions": np.ceil(trades).astype(int),
        }
        flat_file = pl.DataFrame(columns).filter(pl.Series(trades_today))
        flat_file.write_csv(folder / f"{date}.csv")
        rows += len(flat_file)
    return rows


def open_market(folder, recipe):
    """Return the Market in folder; if the folder is empty, it is made by recipe first.

    recipe has the arguments of write_made_up_market. SystemExit says when folder holds another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    label = folder / "market.json"
    files = ("aggregates_day", "lookup_table.pkl", "baselines.parquet", "row_by_row.pkl")
    flat_files, *tables = (folder / name for name in files)
    if not any(folder.iterdir()):
        flat_files.mkdir()
        rows = write_made_up_market(flat_files, **recipe)
        label.write_text(json.dumps({**recipe, "rows": rows}))
    known = json.loads(label.read_text()) if label.exists() else {}
    if not known.items() >= recipe.items():
        raise SystemExit(f"{folder} holds something else, {known}: choose another --folder")
    return Market(known["days"], known["rows"], flat_files, *tables)


# Programs for python -c: each imports what it needs, so this file's imports are not measured.


def polars_build():
    """Write the table's columns, from the flat files in argv[1], to the Parquet file argv[2]."""
    import sys

    import polars as pl

    earlier_trades, logs = pl.col("trades").shift(1), pl.col("trades").log1p()
    (
        pl.scan_csv(f"{sys.argv[1]}/*.csv")
        .select(
            "ticker",
            pl.from_epoch("window_start", "ns").dt.date().alias("date"),
            pl.col("transactions").alias("trades"),
            pl.col("close").alias("close_price"),
            pl.col("open").alias("open_price"),
            (pl.col("volume") * pl.col("close")).cast(pl.Float32).alias("dollar_volume"),
        )
        .sort("ticker", "date")
        .with_columns(
            (pl.col("close_price").pct_change() * 100).over("ticker").alias("price_diff"),
            earlier_trades.rolling_mean(5).over("ticker").alias("avg_trades"),
            earlier_trades.rolling_std(5).over("ticker").alias("std_trades"),
            ((pl.col("open_price") / pl.col("close_price").shift(1) - 1) * 100)
            .over("ticker")
            .alias("gap"),
            (
                (logs - logs.shift(1).rolling_mean(60, min_samples=20))
                / logs.shift(1).rolling_std(60, min_samples=20)
            )
            .over("ticker")
            .cast(pl.Float32)
            .alias("long_z"),
        )
        .drop("open_price")
        .collect()
        .write_parquet(sys.argv[2])
    )


def polars_query():
    """Print tickers and z_scores of the date argv[2]'s anomalies in the Parquet file argv[1]."""
    import datetime
    import sys

    import polars as pl

    z_score = (pl.col("trades") - pl.col("avg_trades")) / pl.col("std_trades")
    anomalies = (
        pl.scan_parquet(sys.argv[1])
        .filter(pl.col("date") == datetime.date.fromisoformat(sys.argv[2]))
        .with_columns(z_score.alias("z_score"))
        .filter((pl.col("std_trades") > 0) & (pl.col("z_score") > 3))
        .sort("trades", descending=True, maintain_order=True)
        .collect()
    )
    for ticker, z in anomalies.select("ticker", "z_score").iter_rows():
        print(f"{ticker} {z:.2f}")


def program(function):
    return f"{inspect.getsource(function)}\n{function.__name__}()"


# Measuring.


def take_turns(contenders, rounds):
    """Return {name: [Measured, ...]}, in turns A B C A B C ... after a round of warming up."""
    runs = {contender.name: [] for contender in contenders}
    for number in range(rounds + 1):
        for name, command, writes, only_once in contenders:
            if only_once and number != 1:
                continue
            if writes:
                writes.unlink(missing_ok=True)
                os.sync()
            run = measure(command)
            if run.status:
                raise SystemExit(f"{name} failed:\n{run.stderr}")
            note(f"round {number} of {rounds}: {name} {run.seconds:.3f} s, {run.mb:.1f} MB")
            if number:
                runs[name].append(run)
    return runs


def check_agreement(ours, polars):
    """Raise SystemExit unless both answers, texts, list the same tickers and z_scores.

    But not those of 3.00, where rounding decides whether a z_score is above 3.
    """
    rows = [line.split() for line in ours.splitlines()[5:]]
    listed = {f"{row[0]} {row[4]}" for row in rows}
    different = listed ^ set(polars.splitlines())
    if not listed or not all(row.endswith(" 3.00") for row in different):
        raise SystemExit(f"The query and polars list different anomalies: {sorted(different)}")


# What is measured: a section takes the market and the number of rounds, and returns
# {name: [Measured, ...]}.


def build_section(market, rounds):
    """Measure how the flat files become a table."""
    ours = [sys.executable, TOP / "build-lookup-table.py", "--data-dir", market.flat_files]
    polars = [sys.executable, "-c", program(polars_build), market.flat_files, market.parquet]
    slow = [*ROW_BY_ROW, "build", market.flat_files, market.row_by_row_table]
    contenders = [Contender("build", [*ours, "--output", market.table], market.table)]
    if market.days <= MOST_DAYS_POLARS:
        contenders.append(Contender(POLARS, polars, market.parquet))
    if market.days <= MOST_DAYS_ROW_BY_ROW:
        contenders.append(Contender("row-by-row build", slow, market.row_by_row_table, True))
    return take_turns(contenders, rounds)


def query_section(market, rounds):
    """Measure how a table answers a date, and check that polars gives the same answer."""
    script = [sys.executable, TOP / "query-lookup-table.py", "--table", market.table]
    dates = sorted(flat_file.stem for flat_file in market.flat_files.iterdir())
    # What came after the last day is not known yet: the formats ask for a day that 20 follow.
    earlier = dates[max(0, len(dates) - 31)]
    contenders = [
        Contender("query", [*script, LAST_DAY]),
        Contender(FLOOR, [sys.executable, "-c", FLOOR]),
    ]
    for format_ in ("wide", "csv", "json"):
        contenders.append(Contender(f"query, {format_}", [*script, earlier, "--format", format_]))
    if market.parquet.exists():
        polars = [sys.executable, "-c", program(polars_query), market.parquet, LAST_DAY]
        contenders.append(Contender("polars query", polars))
    if market.row_by_row_table.exists():
        slow = [*ROW_BY_ROW, "query", market.row_by_row_table, LAST_DAY]
        contenders.append(Contender("row-by-row query", slow))
    all_days = ["1990-01-01", "2099-12-31", "--format", "csv"]
    contenders.append(Contender("aftermath", [*script, "--aftermath"]))
    contenders.append(Contender("range with facts", [*script, *all_days]))
    runs = take_turns(contenders, rounds)
    if "polars query" in runs:
        check_agreement(runs["query"][0].stdout, runs["polars query"][0].stdout)
    return runs


def gui_section(market, rounds):
    """Measure how soon the browser's server answers, from its start on, and its memory."""
    runs = {}
    for _ in range(rounds):
        for name, seconds, mb in serve_once(market.table):
            note(f"{name} {seconds:.4f} s, {mb:.1f} MB")
            runs.setdefault(name, []).append(Measured(0, "", "", seconds, mb))
    return runs


def serve_once(table):
    """Start the server, ask it what a visitor asks, and yield (name, seconds, MB). Linux only.

    All but the first one's seconds are medians over twenty days or tickers, and MB is the most
    memory that the server has had by then.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    script = [sys.executable, TOP / "gui-lookup-table.py", "--table", table, "--port", str(port)]
    started = time.perf_counter()
    server = subprocess.Popen(script, stdout=subprocess.DEVNULL)

    def ask(path):
        asked = time.perf_counter()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
            content = answer.read()
        return time.perf_counter() - asked, content

    def peak():
        status = Path(f"/proc/{server.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    try:
        while True:
            with contextlib.suppress(urllib.error.URLError):
                ask("/")
                break
            if server.poll() is not None or time.perf_counter() > started + 60:
                raise SystemExit("gui-lookup-table.py does not answer")
            time.sleep(0.002)
        yield "gui: first answer", time.perf_counter() - started, peak()
        days = json.loads(ask("/api/days")[1])["days"]
        yield "gui: a day", median(ask(f"/?date={day}")[0] for day in days[-20:]), peak()
        day = days[max(0, len(days) - 31)]
        anomalies = json.loads(ask(f"/api/anomalies?date={day}")[1])["anomalies"]
        tickers = [anomaly["ticker"] for anomaly in anomalies[:: len(anomalies) // 20 + 1]]
        for name, path in (("a ticker's history", "history"), ("what came after", "after")):
            paths = [f"/api/{path}?ticker={ticker}&date={day}" for ticker in tickers]
            yield f"gui: {name}", median(ask(path)[0] for path in paths), peak()
    finally:
        server.terminate()
        server.wait()


SECTIONS = {
    "build": build_section,
    "query": query_section,
    "gui": gui_section,
}


# The report.


def bounds_for(days):
    """Return {name: {unit: most}} for a market of so many days."""
    most_days = min((most for most in BUILD_BOUNDS if days <= most), default=max(BUILD_BOUNDS))
    many_days = MANY_DAYS_BOUNDS if days <= 1256 else {}
    return {"build": BUILD_BOUNDS[most_days], **BOUNDS, **many_days}


def report_line(name, runs, bound):
    """Return the cells of name's line in the report; the last one says whether bound is kept."""
    walls = sorted(run.seconds for run in runs[name])
    took = {"s": median(walls), "MB": max(run.mb for run in runs[name])}
    other = POLARS if name == "build" else FLOOR
    if "x" in bound and other in runs:
        took["x"] = median(run.seconds / by.seconds for run, by in zip(runs[name], runs[other]))
    checked = {unit: most for unit, most in bound.items() if unit in took}
    kept = all(took[unit] <= most for unit, most in checked.items())
    return [
        name,
        f"{took['s']:.3f} s ({walls[0]:.3f}-{walls[-1]:.3f})",
        f"{took['MB']:.1f}",
        f"{took['x']:.2f} x {other}" if "x" in took else "",
        ", ".join(f"≤ {most:,} {unit}" for unit, most in checked.items()),
        ("yes" if kept else "NO") if checked else "",
    ]


def print_report(market, lines):
    size = sum(flat_file.stat().st_size for flat_file in market.flat_files.iterdir())
    print(
        f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, "
        f"pandas {version('pandas')}, polars {version('polars')}\n"
        f"{market.days:,} days, {market.rows:,} rows, {size / 2**20:,.0f} MB of flat files\n"
    )
    print("| what | wall | peak MB | wall compared | bound | within |")
    print("|---|---|---|---|---|---|")
    for line in lines:
        print("| " + " | ".join(line) + " |")


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=int, default=57, help="57 unless given")
    parser.add_argument("--tickers", type=int, default=10_800, help="10,800 unless given")
    parser.add_argument("--runs", type=int, default=5, help="rounds that count, 5 unless given")
    parser.add_argument(
        "--only",
        action="append",
        choices=SECTIONS,
        help="measure one section (again for another); all but build want a built table",
    )
    parser.add_argument("--folder", type=Path, help="where the market is kept; else it is removed")
    return parser.parse_args(argv)


def main(argv=None):
    options = parse_arguments(argv)
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        market = open_market(folder, {"days": options.days, "tickers": options.tickers})
        runs = {}
        for section in options.only or SECTIONS:
            runs |= SECTIONS[section](market, options.runs)
        bounds = bounds_for(market.days)
        lines = [report_line(name, runs, bounds.get(name, {})) for name in runs]
        print_report(market, lines)
    return int(any(line[-1] == "NO" for line in lines))


if __name__ == "__main__":
    raise SystemExit(main())
