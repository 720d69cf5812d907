"""Build and query the lookup table as the tutorial does, one row at a time.

A second witness for the tests, and the slow side of the benchmark: it shares no code with the
scripts.

Usage:
    python tests/witnesses/row_by_row.py build DATA_DIR FILE
    python tests/witnesses/row_by_row.py query FILE DATE

build reads every .csv in DATA_DIR and writes FILE, a plain pickled dict; query loads the whole of
FILE and prints the anomalies of DATE: ticker, trades, z_score.
"""

import pickle
import sys
from pathlib import Path

import pandas as pd

WINDOW = 5
Z_THRESHOLD = 3


def row_by_row_table(paths):
    """{ticker: {"YYYY-MM-DD": stats}} for the flat files at paths, in order of their names.

    stats has the keys trades, close_price, price_diff, avg_trades and std_trades, as the numpy
    scalars that pandas yields (trades is a float, too). avg_trades and std_trades are None on a
    ticker's first rows; price_diff, in percent, is nan on its first.
    """
    history = {}
    for path in sorted(paths, key=lambda path: path.name):
        # A ticker may be NA, which pandas would take for a missing value.
        frame = pd.read_csv(path, dtype={"ticker": str}, keep_default_na=False)
        for _, row in frame.iterrows():
            day = {
                "date": pd.to_datetime(row["window_start"], unit="ns").date(),
                "trades": row["transactions"],
                "close_price": row["close"],
            }
            history.setdefault(row["ticker"], []).append(day)

    table = {}
    for ticker, days in history.items():
        frame = pd.DataFrame(days).sort_values("date", kind="stable").set_index("date")
        frame["price_diff"] = frame["close_price"].pct_change() * 100
        earlier_trades = frame["trades"].shift(1).rolling(window=WINDOW)
        frame["avg_trades"] = earlier_trades.mean()
        frame["std_trades"] = earlier_trades.std()
        table[ticker] = {}
        for date, row in frame.iterrows():
            table[ticker][date.strftime("%Y-%m-%d")] = {
                "trades": row["trades"],
                "close_price": row["close_price"],
                "price_diff": row["price_diff"],
                "avg_trades": None if pd.isna(row["avg_trades"]) else row["avg_trades"],
                "std_trades": None if pd.isna(row["std_trades"]) else row["std_trades"],
            }
    return table


def find_anomalies_row_by_row(table, date):
    """[(trades, ticker, z_score), ...] of the anomalies on date, most trades first."""
    anomalies = []
    for ticker, days in table.items():
        stats = days.get(date)
        if stats and stats["std_trades"] is not None and stats["std_trades"] > 0:
            z_score = (stats["trades"] - stats["avg_trades"]) / stats["std_trades"]
            if z_score > Z_THRESHOLD:
                anomalies.append((stats["trades"], ticker, z_score))
    return sorted(anomalies, reverse=True)


def main(command, source, target):
    if command == "build":
        with open(target, "wb") as file:
            pickle.dump(row_by_row_table(Path(source).glob("*.csv")), file)
    else:
        with open(source, "rb") as file:
            table = pickle.load(file)
        for trades, ticker, z_score in find_anomalies_row_by_row(table, target):
            print(f"{ticker} {trades:.0f} {z_score:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
