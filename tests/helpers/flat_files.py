"""Flat files for tests, and New York's clock, by which Polygon dates them."""

import csv
import gzip
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from helpers.markets import LAST_DAY

HEADER = "ticker,volume,open,close,high,low,window_start,transactions"


def new_york_time(day, minutes):
    """The timestamp, in ms UTC, of so many minutes after midnight in New York on day."""
    midnight = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo("America/New_York"))
    return int((midnight + timedelta(minutes=minutes)).timestamp()) * 1000


def window_start(day):
    """Midnight of day in New York, in nanoseconds."""
    return new_york_time(day, 0) * 10**6


def flat_text(rows, day=LAST_DAY):
    """The text of a flat file; rows are (ticker, trades, close) or (ticker, trades, open, close).

    An open of None is left empty; without one the row opens at its close.
    """
    lines = [HEADER]
    for ticker, trades, *opens, close in rows:
        opened = opens[0] if opens else close
        prices = f"{'' if opened is None else opened},{close},{close},{close}"
        lines.append(f"{ticker},1000,{prices},{window_start(day)},{trades}")
    return "\n".join([*lines, ""])


def flat_row(ticker, trades, close, day=LAST_DAY):
    """The row of flat_text alone, without the end of the line."""
    return flat_text([(ticker, trades, close)], day).splitlines()[1]


def write_file(path, content):
    """path, with content (text or bytes) in it, packed if its name ends in .gz."""
    content = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def write_flat_files(folder, market):
    """folder, with a flat file for each day of market, {day: rows as in flat_text}."""
    for day, rows in market.items():
        write_file(folder / f"{day}.csv", flat_text(rows, day))
    return folder


def read_flat_files(folder):
    """The market in a folder of flat files, {day: [(ticker, trades, open, close), ...]}."""
    market = {}
    for path in sorted(folder.glob("*.csv")):
        with open(path, newline="") as file:
            rows = csv.DictReader(file)
            market[path.stem] = [
                (row["ticker"], int(row["transactions"]), float(row["open"]), float(row["close"]))
                for row in rows
            ]
    return market
