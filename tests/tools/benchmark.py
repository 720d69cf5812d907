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
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl

sys.path.append(str(Path(__file__).resolve().parent.parent))
from helpers.gui import running_gui
from helpers.scripts import TOP, Measured, command, measure

ROW_BY_ROW = [sys.executable, TOP / "tests" / "witnesses" / "row_by_row.py"]
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
BOUNDS_UP_TO_1256_DAYS = {"aftermath": {"s": 8, "MB": 250}, "range with facts": {"s": 30}}


# The made-up market


def ticker_names(count, rng):
    """So many different tickers of four letters, in ASCII order."""
    codes = np.sort(rng.choice(26**4, count, replace=False)).tolist()
    return ["".join(chr(65 + code // 26**power % 26) for power in (3, 2, 1, 0)) for code in codes]


def write_made_up_market(folder, days, tickers):
    """Write the flat files of that many days up to LAST_DAY.

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

    dates = np.busday_offset(LAST_DAY, np.arange(1 - days, 1)).astype(object).tolist()
    midnights = pl.Series(dates).cast(pl.Datetime("ns")).dt.replace_time_zone("America/New_York")
    for day, (date, window_start) in enumerate(zip(dates, midnights.dt.epoch("ns").to_list())):
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


def find_or_write_market(folder, days, tickers):
    """The folder of flat files below folder. SystemExit says when it has another market's."""
    flat_files = folder / "aggregates_day"
    if not flat_files.exists():
        flat_files.mkdir(parents=True)
        write_made_up_market(flat_files, days, tickers)
    found = len(list(flat_files.iterdir()))
    if found != days:
        raise SystemExit(f"{flat_files} has {found} files, not {days}: choose another --folder")
    return flat_files


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


def program(function, *arguments):
    source = f"{inspect.getsource(function)}\n{function.__name__}()"
    return [sys.executable, "-c", source, *arguments]


# What is measured: a section takes the market's folder, its days and the number of rounds, and
# returns {name: [Measured, ...]}.


def note(name, run):
    print(f"{name} {run.seconds:.4f} s, {run.mb:.1f} MB", file=sys.stderr, flush=True)
    return run


def run_once(name, words, output=None):
    """The command words, Measured. The file output, which it writes, is removed first."""
    if output:
        output.unlink(missing_ok=True)
        os.sync()
    run = measure(words)
    if run.status:
        raise SystemExit(f"{name} failed:\n{run.stderr}")
    return note(name, run)


def take_turns(contenders, rounds):
    """{name: [Measured, ...]} of {name: arguments of run_once}, in turns A B C A B C ...

    They begin with a round of warming up.
    """
    turns = [
        {name: run_once(name, *contender) for name, contender in contenders.items()}
        for _ in range(rounds + 1)
    ]
    return {name: [turn[name] for turn in turns[1:]] for name in contenders}


def build_section(folder, days, rounds):
    """Measure how the flat files become a table."""
    flat_files, table = folder / "aggregates_day", folder / "lookup_table.pkl"
    parquet, pickled = folder / "baselines.parquet", folder / "row_by_row.pkl"
    ours = command("build-lookup-table.py", "--data-dir", flat_files, "--output", table)
    contenders = {"build": (ours, table)}
    if days <= MOST_DAYS_POLARS:
        contenders[POLARS] = program(polars_build, flat_files, parquet), parquet
    runs = take_turns(contenders, rounds)
    if days <= MOST_DAYS_ROW_BY_ROW:  # once, for it takes minutes
        slow = [*ROW_BY_ROW, "build", flat_files, pickled]
        runs["row-by-row build"] = [run_once("row-by-row build", slow)]
    return runs


def query_section(folder, days, rounds):
    """Measure how a table answers a date."""
    script = command("query-lookup-table.py", "--table", folder / "lookup_table.pkl")
    dates = sorted(flat_file.stem for flat_file in (folder / "aggregates_day").iterdir())
    # What came after the last day is not known yet: the formats ask for a day that 20 follow.
    earlier = dates[max(0, len(dates) - 31)]
    contenders = {"query": [*script, LAST_DAY], FLOOR: [sys.executable, "-c", FLOOR]}
    for form in ("wide", "csv", "json"):
        contenders[f"query, {form}"] = [*script, earlier, "--format", form]
    parquet, row_by_row = folder / "baselines.parquet", folder / "row_by_row.pkl"
    if parquet.exists():
        contenders["polars query"] = program(polars_query, parquet, LAST_DAY)
    if row_by_row.exists():
        contenders["row-by-row query"] = [*ROW_BY_ROW, "query", row_by_row, LAST_DAY]
    contenders["aftermath"] = [*script, "--aftermath"]
    contenders["range with facts"] = [*script, dates[0], dates[-1], "--format", "csv"]
    return take_turns({name: [words] for name, words in contenders.items()}, rounds)


def gui_section(folder, days, rounds):
    """Measure how soon the browser's server answers, from its start on, and its memory."""
    turns = [list(serve_once(folder / "lookup_table.pkl")) for _ in range(rounds)]
    return {runs[0][0]: [note(*run) for run in runs] for runs in zip(*turns)}


def serve_once(table):
    """Start the server, ask it what a visitor asks, and yield (name, Measured). Linux only.

    All but the first one's seconds are medians over twenty days or tickers, and MB is the most
    memory that the server has had by then.
    """
    started = time.perf_counter()
    with running_gui(table, "http://127.0.0.1:9") as gui:

        def measured(name, seconds):
            return f"gui: {name}", Measured(0, "", "", seconds, gui.memory("VmHWM"))

        def seconds_of(path):
            asked = time.perf_counter()
            gui.get(path)
            return time.perf_counter() - asked

        gui.get("/")
        yield measured("first answer", time.perf_counter() - started)
        dates = json.loads(gui.get("/api/days"))["days"]
        yield measured("a day", median(seconds_of(f"/?date={date}") for date in dates[-20:]))
        date = dates[max(0, len(dates) - 31)]
        anomalies = json.loads(gui.get(f"/api/anomalies?date={date}"))["anomalies"]
        tickers = [anomaly["ticker"] for anomaly in anomalies[:: len(anomalies) // 20 + 1]]
        for name, path in (("a ticker's history", "history"), ("what came after", "after")):
            paths = [f"/api/{path}?ticker={ticker}&date={date}" for ticker in tickers]
            yield measured(name, median(map(seconds_of, paths)))


SECTIONS = {"build": build_section, "query": query_section, "gui": gui_section}


# The report


def bounds_for(days):
    """{name: {unit: most}} for a market of so many days."""
    most_days = min((most for most in BUILD_BOUNDS if days <= most), default=max(BUILD_BOUNDS))
    more = BOUNDS_UP_TO_1256_DAYS if days <= 1256 else {}
    return {"build": BUILD_BOUNDS[most_days], **BOUNDS, **more}


def report_line(name, runs, bound):
    """The cells of name's line in the report; the last one says whether bound is kept."""
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


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=int, default=57, help="57 unless given")
    parser.add_argument("--tickers", type=int, default=10_800, help="10,800 unless given")
    parser.add_argument("--runs", type=int, default=5, help="rounds that count, 5 unless given")
    only = "measure one section (again for another); all but build want a built table"
    parser.add_argument("--only", action="append", choices=SECTIONS, help=only)
    parser.add_argument("--folder", type=Path, help="where the market is kept; else it is removed")
    options = parser.parse_args(argv)

    runs, days = {}, options.days
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        flat_files = find_or_write_market(folder, days, options.tickers)
        for section in options.only or SECTIONS:
            runs |= SECTIONS[section](folder, days, options.runs)
        size = sum(flat_file.stat().st_size for flat_file in flat_files.iterdir()) / 2**20
    lines = [report_line(name, runs, bounds_for(days).get(name, {})) for name in runs]
    print(
        f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, "
        f"pandas {version('pandas')}, polars {version('polars')}"
    )
    print(f"{days:,} days, {size:,.0f} MB of flat files\n")
    print("| what | wall | peak MB | wall compared | bound | within |")
    print("|---|---|---|---|---|---|")
    for line in lines:
        print(f"| {' | '.join(line)} |")
    return int(any(line[-1] == "NO" for line in lines))


if __name__ == "__main__":
    raise SystemExit(main())
