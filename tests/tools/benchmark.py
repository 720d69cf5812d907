"""Measure the scripts beside a polars pipeline and the row-by-row algorithm, on a made-up market.

Usage:
    python tests/tools/benchmark.py                                       57 days, some minutes
    python tests/tools/benchmark.py --days 1256 --runs 3                  five years
    python tests/tools/benchmark.py --days 5000 --runs 1 --folder MARKET  twenty years
    python tests/tools/benchmark.py --skip query --skip many-days --skip gui  the builds alone

Writes a market in the flat files' format to the folder MARKET (unless it is there already; without
--folder it is a temporary one), runs every contender in turn as a process of its own, a round of
warming up first, and prints a table: wall time (median, fastest and slowest), peak memory (the
highest, in units of 2**20 bytes), and ratios of wall times (the median of each round's); then how
soon the browser's server answers, without Polygon. The status is 1 when a limit is exceeded. Needs
polars, which nothing else here does.
"""

import argparse
import contextlib
import inspect
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from importlib.metadata import version
from itertools import dropwhile
from pathlib import Path
from statistics import median
from typing import NamedTuple, Optional

import numpy as np
import polars as pl

TOP = Path(__file__).resolve().parent.parent.parent
ROW_BY_ROW = [sys.executable, str(TOP / "tests" / "witnesses" / "row_by_row.py")]
LAST_DAY = "2024-10-18"

MOST_DAYS_WITHOUT_TURNOVER = 1500
MOST_DAYS_ROW_BY_ROW = 60
BYTES_A_ROW = {"csv": 67, "table": 125, "polars": 30, "row-by-row": 150}

LEAST_TIMES_FASTER = 60  # than the row-by-row build
# Up to so many days: MB, how many times as long as polars, and seconds.
BUILD_LIMITS = ((57, 200, 2.3, None), (1256, 1200, 1.9, None), (5000, 4500, None, 100))
FLOOR = "import argparse, pickle"
# How a date is asked for: options, how many times as long as FLOOR, and MB.
QUERY_LIMITS = {
    "query": ([], 2.25, 20),
    "query, wide": (["--format", "wide"], 5, 30),
    "query, csv": (["--format", "csv"], 5, 30),
    "query, json": (["--format", "json"], 5, 30),
}
# What is asked of many days at once: arguments, seconds and MB.
MANY_DAYS_LIMITS = {
    "aftermath": (["--aftermath"], 8, 250),
    "range with facts": (["1990-01-01", "2099-12-31", "--format", "csv"], 20, None),
}
MANY_DAYS = 1256  # the limits are for so many, or fewer
GUI_SECONDS = {
    "gui: first answer": 0.5,
    "gui: a day": 0.03,
    "gui: a ticker's history": 0.04,
    "gui: a ticker's history again": 0.04,
}
GUI_MB = 120


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
    writes: Optional[Path] = None
    most_runs: Optional[int] = None  # that many, and none to warm up


class Run(NamedTuple):
    wall: float
    peak: float
    answer: list


class Limit(NamedTuple):
    text: str
    is_kept: bool


class Line(NamedTuple):
    what: str
    runs: list
    ratios: list
    limits: list


def note(text):
    print(text, file=sys.stderr, flush=True)


# The made-up market.


def ticker_names(count, rng):
    """Return count different tickers of one to five letters, in ASCII order."""
    shares = {1: 0.0007, 2: 0.02, 3: 0.3, 4: 0.55}
    counts = {length: min(26**length, int(count * share)) for length, share in shares.items()}
    counts[5] = count - sum(counts.values())
    return sorted(
        "".join(chr(65 + code // 26**power % 26) for power in range(length))
        for length, names in counts.items()
        for code in rng.choice(26**length, names, replace=False).tolist()
    )


def window_starts(days):
    """Return the nanosecond, in UTC since 1970, at which each of days begins in New York."""
    midnights = pl.Series(days).cast(pl.Datetime("ns")).dt.replace_time_zone("America/New_York")
    return midnights.dt.epoch("ns").to_list()


def write_made_up_market(folder, days, tickers, seed):
    """Write the flat files of that many days up to LAST_DAY; return the number of their rows.

    So many tickers are listed at any time. Up to MOST_DAYS_WITHOUT_TURNOVER they stay the same and
    trade every day; beyond, each is listed for nine years, and the thinnest trade every other day.
    """
    rng = np.random.default_rng(seed)
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


def open_market(folder, recipe, bytes_a_row):
    """Return the Market in folder. If there is none, it is made by recipe first.

    recipe has the arguments of write_made_up_market. The contenders will write bytes_a_row there
    for each row. SystemExit says when the disk is too small, or folder holds anything else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    label = folder / "market.json"
    known = json.loads(label.read_text()) if label.exists() else {}
    if known and not known.items() >= recipe.items():
        raise SystemExit(f"{folder} holds another market, {known}: choose another --folder")
    if not known and any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty, but holds no market: choose another --folder")

    needed = recipe["days"] * recipe["tickers"] * (bytes_a_row + BYTES_A_ROW["csv"] * (not known))
    free = shutil.disk_usage(folder).free
    note(f"Needs up to {needed / 1e9:.2f} GB in {folder}, where {free / 1e9:.2f} GB are free.")
    if needed > free:
        raise SystemExit(
            f"{folder} is {(needed - free) / 1e9:.2f} GB short: choose another --folder"
        )
    files = ("aggregates_day", "lookup_table.pkl", "baselines.parquet", "row_by_row.pkl")
    flat_files, *tables = (folder / name for name in files)
    if not known:
        flat_files.mkdir()
        known = {**recipe, "rows": write_made_up_market(flat_files, **recipe)}
        label.write_text(json.dumps(known))
    return Market(known["days"], known["rows"], flat_files, *tables)


# Programs for python -c: each imports what it needs, so this file's imports are not measured.


def launch():
    """Run the command in sys.argv; print its wall time and peak memory after what it prints itself.

    Linux counts the memory of the process that starts another towards the peak of the started one.
    """
    import os
    import sys
    import time

    started = time.perf_counter()
    child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
    _, status, usage = os.wait4(child, 0)
    print(f"\n{time.perf_counter() - started} {usage.ru_maxrss}")
    sys.exit(status != 0)


def polars_build():
    """Write the table's columns, from the flat files in argv[1], to the Parquet file argv[2]."""
    import sys

    import polars as pl

    earlier_trades = pl.col("trades").shift(1)
    (
        pl.scan_csv(f"{sys.argv[1]}/*.csv")
        .select(
            "ticker",
            pl.from_epoch("window_start", "ns").dt.date().alias("date"),
            pl.col("transactions").alias("trades"),
            pl.col("close").alias("close_price"),
            pl.col("open").alias("open_price"),
        )
        .sort("ticker", "date")
        .with_columns(
            (pl.col("close_price").pct_change() * 100).over("ticker").alias("price_diff"),
            earlier_trades.rolling_mean(5).over("ticker").alias("avg_trades"),
            earlier_trades.rolling_std(5).over("ticker").alias("std_trades"),
            ((pl.col("open_price") / pl.col("close_price").shift(1) - 1) * 100)
            .over("ticker")
            .alias("gap"),
        )
        .drop("open_price")
        .collect()
        .write_parquet(sys.argv[2])
    )


def polars_query():
    """Print the anomalies of the date argv[2] in the Parquet file argv[1], without a heading."""
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
    print("-" * 91)
    columns = (
        "{ticker:<10}{trades:>10.0f}{avg_trades:>15.2f}{std_trades:>10.2f}"
        "{z_score:>10.2f}{close_price:>12.2f}{price_diff:>12.2f}"
    )
    for anomaly in anomalies.iter_rows(named=True):
        print(columns.format(**anomaly))


def program(function):
    return f"{inspect.getsource(function)}\n{function.__name__}()"


# Measuring.


def measure(command):
    """Return the Run of command: wall time in seconds, peak memory in MB, lines of output."""
    launcher = [sys.executable, "-I", "-S", "-c", program(launch)]
    finished = subprocess.run([*launcher, *map(str, command)], capture_output=True, text=True)
    if finished.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{finished.stderr}")
    *answer, usage = finished.stdout.splitlines()
    wall, peak = map(float, usage.split())
    return Run(wall, peak / (2**20 if sys.platform == "darwin" else 2**10), answer)


def take_turns(contenders, rounds):
    """Return {name: [Run, ...]}, measured A B C A B C ... after a round that does not count."""
    runs = {contender.name: [] for contender in contenders}
    for number in range(rounds + 1):
        for name, command, writes, most_runs in contenders:
            if most_runs is not None and not 1 <= number <= most_runs:
                continue
            if writes:
                with contextlib.suppress(FileNotFoundError):
                    writes.unlink()
                os.sync()
            run = measure(command)
            note(f"round {number} of {rounds}: {name} {run.wall:.3f} s, {run.peak:.1f} MB")
            if number:
                runs[name].append(run)
    return runs


def ratio(runs, other_runs):
    """Return how many times as long runs took: round by round, or by medians if not in each."""
    if len(runs) != len(other_runs):
        return median(run.wall for run in runs) / median(run.wall for run in other_runs)
    return median(run.wall / other.wall for run, other in zip(runs, other_runs))


def peak(runs):
    return max(run.peak for run in runs)


def at_most(limit, value, unit):
    return Limit(f"≤ {limit:,} {unit}", value <= limit)


def anomalies_in(answer):
    """Return [(ticker, trades), ...] as a query's answer lists them.

    Without those of a z_score of 3.00, where rounding decides whether it is above 3.
    """
    below_heading = list(dropwhile(lambda line: not line.startswith("---"), answer))[1:]
    rows = [line.split() for line in below_heading if line]
    return [(row[0], float(row[1])) for row in rows if row[4] != "3.00"]


def check_agreement(answers):
    """Raise SystemExit unless all answers, {name: lines}, list the same tickers by the same trades.

    Tickers with equal trades may stand in any order.
    """
    anomalies = {name: anomalies_in(answer) for name, answer in answers.items()}
    for name, listed in anomalies.items():
        trades = [trades for _, trades in listed]
        if not trades or trades != sorted(trades, reverse=True):
            raise SystemExit(f"{name} does not list anomalies, most trades first: {trades[:9]}")
        for other, also_listed in anomalies.items():
            only_here = sorted(set(listed) - set(also_listed))
            if only_here:
                raise SystemExit(f"{name} lists anomalies that {other} does not: {only_here[:9]}")
    note(f"The same {len(trades)} anomalies from: {', '.join(anomalies)}")


# What is measured: a section takes the market and the options, and returns lines of the report.


def build_section(market, options):
    """Measure how the flat files become a table."""
    script = [sys.executable, TOP / "build-lookup-table.py"]
    polars = [sys.executable, "-c", program(polars_build), market.flat_files, market.parquet]
    ours = [*script, "--data-dir", market.flat_files, "--output", market.table]
    slow = [*ROW_BY_ROW, "build", market.flat_files, market.row_by_row_table]
    contenders = [Contender("build", ours, market.table)]
    if "polars" not in options.skip:
        contenders.append(Contender("polars build", polars, market.parquet))
    if "row-by-row" not in options.skip:
        most_runs = options.row_by_row_runs
        contenders.append(Contender("row-by-row build", slow, market.row_by_row_table, most_runs))
    runs = take_turns(contenders, options.runs)

    lines = report_lines(runs)
    fitting = [limits for limits in BUILD_LIMITS if market.days <= limits[0]] or BUILD_LIMITS[-1:]
    _, most_mb, most_to_polars, most_seconds = fitting[0]
    build = runs["build"]
    if most_seconds:
        lines[0].limits.append(at_most(most_seconds, median(run.wall for run in build), "s"))
    elif "polars build" in runs:
        to_polars = ratio(build, runs["polars build"])
        lines[0].limits.append(at_most(most_to_polars, to_polars, "x polars build"))
    if "row-by-row build" in runs:
        times_faster = ratio(runs["row-by-row build"], build)
        text = f"≥ {LEAST_TIMES_FASTER} x faster than row-by-row build"
        lines[0].limits.append(Limit(text, times_faster >= LEAST_TIMES_FASTER))
    lines[0].limits.append(at_most(most_mb, peak(build), "MB"))
    return lines


def day_before(market, days):
    """Return the date of the market's day so many days before the last one."""
    dates = sorted(flat_file.stem for flat_file in market.flat_files.iterdir())
    return dates[max(0, len(dates) - 1 - days)]


def query_section(market, options):
    """Measure how a table answers a date, and check that all answers are the same."""
    script = [sys.executable, TOP / "query-lookup-table.py", "--table", market.table]
    polars = [sys.executable, "-c", program(polars_query), market.parquet, LAST_DAY]
    contenders = [Contender("query", [*script, LAST_DAY])]
    contenders.append(Contender(FLOOR, [sys.executable, "-c", FLOOR]))
    for name, (arguments, _, _) in QUERY_LIMITS.items():
        if name != "query":
            # What came after the last day is not known yet: these ask for a day that 20 follow.
            contenders.append(Contender(name, [*script, day_before(market, 30), *arguments]))
    if "polars" not in options.skip:
        contenders.append(Contender("polars query", polars))
    if "row-by-row" not in options.skip:
        slow = [*ROW_BY_ROW, "query", market.row_by_row_table, LAST_DAY]
        contenders.append(Contender("row-by-row query", slow))
    runs = take_turns(contenders, options.runs)
    others = {"polars query", "row-by-row query"} & runs.keys()
    check_agreement({name: runs[name][0].answer for name in {"query", *others}})

    lines = report_lines(runs)
    for line in lines:
        if line.what in QUERY_LIMITS:
            _, most_to_floor, most_mb = QUERY_LIMITS[line.what]
            to_floor = ratio(line.runs, runs[FLOOR])
            if line.what != "query":
                line.ratios.append(f"{to_floor:.2f} x {FLOOR}")
            line.limits.append(at_most(most_to_floor, to_floor, f"x {FLOOR}"))
            line.limits.append(at_most(most_mb, peak(line.runs), "MB"))
    return lines


def many_days_section(market, options):
    """Measure what is asked of all days at once."""
    script = [sys.executable, TOP / "query-lookup-table.py", "--table", market.table]
    contenders = [
        Contender(name, [*script, *arguments])
        for name, (arguments, _, _) in MANY_DAYS_LIMITS.items()
    ]
    runs = take_turns(contenders, options.runs)
    lines = [Line(name, of_name, [], []) for name, of_name in runs.items()]
    for line in lines:
        _, most_seconds, most_mb = MANY_DAYS_LIMITS[line.what]
        if market.days <= MANY_DAYS:
            line.limits.append(at_most(most_seconds, median(r.wall for r in line.runs), "s"))
            if most_mb:
                line.limits.append(at_most(most_mb, peak(line.runs), "MB"))
    return lines


def gui_section(market, options):
    """Measure how soon the browser's server answers, from its start on, and its memory."""
    runs = {name: [] for name in GUI_SECONDS}
    for _ in range(options.runs):
        for name, seconds, mb in serve_once(market.table):
            note(f"{name} {seconds:.4f} s, {mb:.1f} MB")
            runs[name].append(Run(seconds, mb, []))
    lines = [Line(name, of_name, [], []) for name, of_name in runs.items()]
    for line in lines:
        seconds = median(run.wall for run in line.runs)
        line.limits.append(at_most(GUI_SECONDS[line.what], seconds, "s"))
    lines[-1].limits.append(at_most(GUI_MB, peak(lines[-1].runs), "MB"))
    return lines


def serve_once(table):
    """Start the server, ask it what a visitor asks, and yield (name, seconds, MB).

    The names are those of GUI_SECONDS, all but the first one's seconds are medians over twenty
    days or tickers, and MB is the most memory that the server has had by then.
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

    def peak_memory():
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
        yield "gui: first answer", time.perf_counter() - started, peak_memory()
        days = json.loads(ask("/api/days")[1])["days"]
        seconds = median(ask(f"/?date={day}")[0] for day in days[-20:])
        yield "gui: a day", seconds, peak_memory()
        anomalies = json.loads(ask("/api/anomalies")[1])["anomalies"]
        tickers = [anomaly["ticker"] for anomaly in anomalies[:: len(anomalies) // 20 + 1]]
        paths = [f"/api/history?ticker={ticker}&date={days[-1]}" for ticker in tickers]
        for again in ("", " again"):
            seconds = median(ask(path)[0] for path in paths)
            yield f"gui: a ticker's history{again}", seconds, peak_memory()
    finally:
        server.terminate()
        server.wait()


SECTIONS = {
    "build": build_section,
    "query": query_section,
    "many-days": many_days_section,
    "gui": gui_section,
}


# The report.


def report_lines(runs):
    """Return a Line for each contender in runs, the first one compared with all others."""
    (first, first_runs), *others = runs.items()
    ratios = []
    for name, other_runs in others:
        slower = ratio(first_runs, other_runs)
        ratios.append(
            f"{slower:.2f} x {name}"
            if slower > 0.1
            else f"{ratio(other_runs, first_runs):.0f} x faster than {name}"
        )
    return [Line(first, first_runs, ratios, [])] + [Line(*other, [], []) for other in others]


def cells(line):
    walls = sorted(run.wall for run in line.runs)
    return [
        line.what,
        f"{median(walls):.3f} s ({walls[0]:.3f}-{walls[-1]:.3f})",
        f"{peak(line.runs):.1f}",
        "; ".join(line.ratios),
        "; ".join(limit.text for limit in line.limits),
        "; ".join("yes" if limit.is_kept else "NO" for limit in line.limits),
    ]


def print_report(market, lines):
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        names = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(name.split(": ")[1] for name in names if name.startswith("model name"))
    size = sum(flat_file.stat().st_size for flat_file in market.flat_files.iterdir())
    print(
        f"{os.cpu_count()} cores ({cpu}), Python {platform.python_version()}, "
        f"pandas {version('pandas')}, polars {version('polars')}\n"
        f"{market.days:,} days, {market.rows:,} rows, {size / 2**20:,.0f} MB of flat files\n"
    )
    print("| what | wall | peak MB | wall compared | limit | within |")
    print("|---|---|---|---|---|---|")
    for line in lines:
        print("| " + " | ".join(cells(line)) + " |")


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=int, default=57, help="57 unless given")
    parser.add_argument("--runs", type=int, default=5, help="rounds that count, 5 unless given")
    parser.add_argument(
        "--row-by-row-runs",
        type=int,
        help=f"rounds with the row-by-row build: 1 up to {MOST_DAYS_ROW_BY_ROW} days, else 0",
    )
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        choices=[*SECTIONS, "polars", "row-by-row"],
        help="leave out a section or a contender (again for another)",
    )
    parser.add_argument("--folder", type=Path, help="where the market is kept; else it is removed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tickers", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.tickers is None:
        options.tickers = 11_000 if options.days > MOST_DAYS_WITHOUT_TURNOVER else 10_800
    if options.row_by_row_runs is None:
        options.row_by_row_runs = int(options.days <= MOST_DAYS_ROW_BY_ROW)
    if not options.row_by_row_runs:
        options.skip.append("row-by-row")
    return options


def main(argv=None):
    options = parse(argv)
    recipe = {"days": options.days, "tickers": options.tickers, "seed": options.seed}
    written = [size for what, size in BYTES_A_ROW.items() if what not in ("csv", *options.skip)]
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        market = open_market(folder, recipe, sum(written))
        sections = [section for name, section in SECTIONS.items() if name not in options.skip]
        lines = [line for section in sections for line in section(market, options)]
        print_report(market, lines)
    return int(not all(limit.is_kept for line in lines for limit in line.limits))


if __name__ == "__main__":
    raise SystemExit(main())
