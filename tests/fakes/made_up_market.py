"""Made-up markets for tests: every oddity that a definition speaks of, the same for the same seed.

made_up_market(seed=1)
# {"2020-01-01": [("SPLIT38", 560, 62.1647, 60.16), ("FLAT25", ...), ...], "2020-01-02": ...}
"""

import math
import random
from datetime import date, timedelta

import numpy as np
from helpers.markets import USUAL

TEST_SYMBOL = "ZVZZT"
FIRST_DAY = date(2020, 1, 1)
# A ticker's kind is the start of its name and says what is special about it; every kind has the
# oddities of the others too, but rarely.
KINDS = ["DAILY", "GAPS", "RARE", "LATE", "SHORT", "FLAT", "THIN", "ZERO", "SPLIT", "EDGE"]
# Open / previous close: splits, reverse splits, and ratios on the edges of what is taken for one.
RATIOS = [2, 3, 10, 1.5, 25, 1 / 2, 1 / 4, 2 / 3, 0.1, 0.04, 0.7, 1.9, 2.1, 1.575, 0.525, 0.6, 1.7]
# After USUAL, these trades have a z of 3, 5, 10 or 30, or just above.
EDGES = [160, 161, 200, 201, 300, 301, 700, 701]


def made_up_market(seed, days=120, tickers=40):
    """{date: [(ticker, trades, open or None, close), ...]} of weekdays, rows in arbitrary order.

    Tickers are named by kind and number ("SPLIT8"), the last one is the test symbol.
    """
    rng = random.Random(seed)
    loud_days = {day for day in range(days) if rng.random() < 0.05}
    rows = [[] for _ in range(days)]
    for number in range(tickers):
        kind = KINDS[number % len(KINDS)]
        name = f"{kind}{number}" if number < tickers - 1 else TEST_SYMBOL
        for day, trades, open_price, close in life_of_ticker(rng, kind, days, loud_days):
            rows[day].append((name, trades, open_price, close))
    for day_rows in rows:
        rng.shuffle(day_rows)
    dates = np.busday_offset(FIRST_DAY, np.arange(days)).astype(str).tolist()
    return dict(zip(dates, rows))


def life_of_ticker(rng, kind, days, loud_days):
    """The ticker's rows (session, trades, open, close), from its listing to its delisting."""
    first = rng.randrange(days) if kind == "LATE" else 0
    last = days - 1
    row_chance = {"GAPS": 0.8, "RARE": 0.2, "DAILY": 1}.get(kind, 0.98)
    usual = 4 if kind == "THIN" else round(10 ** rng.uniform(1.5, 5))
    price = round(rng.uniform(2, 200), 2)
    calm_until = -1
    rows = []
    for day in range(first, days):
        if day > last or rng.random() >= row_chance:
            continue
        splits = rng.random() < (0.05 if kind == "SPLIT" else 0.002)
        burst = rng.random() < (0.4 if splits or day in loud_days else 0.03)
        trades = trades_of_day(rng, kind, usual, burst, len(rows))
        if day <= calm_until:
            trades = rows[-1][1]
        elif kind == "FLAT" and rows and rng.random() < 0.1:
            calm_until = day + rng.randint(3, 12)
        if burst and rng.random() < (0.5 if kind == "SHORT" else 0.01):
            last = min(last, day + rng.randint(0, 25))
        open_price, price = prices_of_day(rng, price, splits)
        shown = 0.0 if rng.random() < (0.1 if kind == "ZERO" else 0.001) else price
        chance = rng.random()
        shown_open = None if chance < 0.02 else 0.0 if chance < 0.03 else open_price
        rows.append((day, trades, shown_open, shown))
    return rows


def trades_of_day(rng, kind, usual, burst, index):
    if kind == "EDGE":
        return USUAL[index % 6] if index % 6 < 5 else rng.choice(EDGES)
    trades = usual * rng.lognormvariate(0, 0.35)
    return round(trades * rng.uniform(3, 40)) if burst else round(trades)


def prices_of_day(rng, previous, splits):
    """The open and the close.

    Half of the splits have an open that is exactly ratio times the close before. Without a split,
    the open and the close often equal the close before.
    """
    if splits:
        ratio = rng.choice(RATIOS)
        if previous * ratio < 0.05 or previous * ratio > 20_000:
            ratio = 1 / ratio
        open_price = round(previous * ratio * rng.choice([1, rng.uniform(0.97, 1.03)]), 5)
    elif rng.random() < 0.15:
        return previous, previous
    else:
        open_price = max(0.01, round(previous * rng.lognormvariate(0, 0.02), 4))
    return open_price, max(0.01, round(open_price * rng.lognormvariate(0, 0.03), 2))


def made_up_lists(seed, market):
    """(lines of tickers.csv, lines of splits.csv) for a market, without headings, all texts.

    Of the tickers, three in ten are missing; of the opens that look like splits, about half are
    listed. Both lists have unknown tickers and, further down, other lines of the same key.
    """
    rng, closes = random.Random(seed), {}
    tickers = sorted({row[0] for rows in market.values() for row in rows})
    types = ["CS", "CS", "ADRC", "WARRANT", ""]
    listed = [(t, f"{t} Inc.", rng.choice(types)) for t in tickers if rng.random() < 0.7]
    splits = [("UNKNOWN", FIRST_DAY.isoformat(), "1", "2")]
    for date_, rows in market.items():
        for ticker, _, open_price, close in rows:
            ratio = (open_price or 0) / (closes.get(ticker) or math.inf)
            if (0 < ratio < 0.6 or ratio > 1.4) and rng.random() < 0.5:
                numbers = sorted(("1", f"{max(ratio, 1 / ratio):.1f}".removesuffix(".0")))
                splits.append((ticker, date_, *(numbers if ratio < 1 else numbers[::-1])))
            closes[ticker] = close
    for _ in range(20):  # on any day, weekends and days without a row of the ticker among them
        day = FIRST_DAY + timedelta(rng.randrange(-5, len(market) * 7 // 5 + 5))
        splits.append(
            (rng.choice(tickers), day.isoformat(), *rng.choice([("1", "1.5"), ("3", "2")]))
        )
    listed += [("UNKNOWN", "Nobody", "CS"), (listed[0][0], "Another", "ETF")]
    return listed, [*splits, *((*line[:2], "7", "5") for line in splits[::3])]
