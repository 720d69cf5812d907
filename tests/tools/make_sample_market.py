"""Write the sample market: made-up daily files of 150 tickers, the same bytes on every run.

Usage: python tests/tools/make_sample_market.py

Reads nothing.
Writes tests/sample_market/2024-08-01.csv to 2024-10-18.csv, one file a trading day in the format of
Polygon's day aggregates. README.md beside them says what each of them is there to show.
"""

import random
import sys
from datetime import date, timedelta
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))
from helpers.flat_files import HEADER, window_start
from helpers.markets import SAMPLE_MARKET

SEED = 20241018
FIRST_DAY, LAST_DAY, HOLIDAYS = date(2024, 8, 1), date(2024, 10, 18), {date(2024, 9, 2)}

WINDOW = 5
BURST_CHANCE = 0.01
# Fewer trades than this a day, and the ticker does not trade every day.
THIN = 60

# The first rows of FIRST_DAY's file, as the tutorial prints them.
PUBLISHED_ROWS = """\
ticker,volume,open,close,high,low,window_start,transactions
A,2797662,142.24,142.86,144.22,141.75,1722484800000000000,36394
AA,17183234,32.95,31.47,33.27,31.09,1722484800000000000,59040
AAA,4428,25.0593,25.0449,25.075,25.0301,1722484800000000000,89
AAAU,3187275,24.27,24.165,24.3411,24.08,1722484800000000000,4379
AACG,8163,0.6601,0.651,0.6612,0.651,1722484800000000000,48
AACI,106098,8.31,10.45,11.63,8.31,1722484800000000000,1309
AACIU,615,10.99,10.99,10.99,10.99,1722484800000000000,23
AACT,22655,10.745,10.745,10.75,10.74,1722484800000000000,65
AACT.WS,2040922,0.125,0.099025,0.1412,0.0754,1722484800000000000,220
"""
# Ticker: five days' trades and the last day's; the close of the day before and the last day's.
# Those of the last day are published. Those before were found by search: they give the published
# averages, deviations, z and price changes to the last printed digit.
PUBLISHED = {
    "VTAK": ([577, 820, 913, 28449, 698], 460548, 0.4407, 0.91),
    "PEGY": ([9624, 13415, 9632, 33432, 12744], 387360, 5.51, 8.15),
    "NFLX": ([83718, 87087, 103639, 108666, 242760], 378687, 687.65, 763.89),
    "JDZG": ([6693, 8321, 21991, 122286, 26352], 348468, 1.70, 2.09),
    "CVS": ([71281, 75550, 94106, 74768, 131725], 309745, 63.67, 60.34),
    "HEPS": ([1614, 1248, 1968, 3077, 2036], 215693, 2.20, 3.51),
    "EFSH": ([856, 903, 1037, 7328, 1958], 188632, 1.7606, 5.26),
    "SLB": ([62487, 73575, 70881, 85117, 106368], 162587, 43.99, 41.92),
    "IONQ": ([82007, 96548, 107419, 103894, 128000], 160601, 12.50, 13.30),
    "BIVI": ([488, 608, 608, 692, 908], 159263, 1.12, 2.35),
}

# Ticker, trades on a usual day, price in dollars.
LARGE = """
AAPL 500000 222 AMD 420000 150 AMZN 380000 185 AVGO 260000 160 BA 110000 165 BABA 150000 88
BAC 130000 40 BRK.B 45000 445 C 95000 62 COIN 140000 200 CSCO 90000 49 DIS 85000 92 F 120000 11
GOOG 170000 166 GOOGL 260000 165 INTC 330000 23 IWM 190000 216 JPM 90000 211 KO 80000 69
LRCX 85000 815 META 210000 520 MSFT 270000 420 MU 210000 98 NIO 90000 5 NVDA 1400000 118
ORCL 90000 145 PFE 130000 29 PLTR 310000 32 PYPL 100000 70 QQQ 430000 475 SMCI 280000 52
SOFI 150000 8 SPY 510000 550 SWN 60000 7 T 120000 20 TSLA 850000 220 UBER 140000 72
V 65000 275 WMT 110000 72 XOM 115000 117
"""
DEAR = """
AAP ABBV ADBE ALL AMAT CAT COST CRM CVX DE FCX FDX GE GS HD IBM JNJ LLY MA MCD MRK MS NKE NOW
PEP QCOM SBUX TGT TXN UNH UPS
"""
CHEAP = """
AFRM AMC ASTS BBAI CCL CHPT CLSK DAL DKNG GM GME HIMS HOOD LCID LUNR MARA NEM OKLO ON OXY PLUG
RIOT RIVN RKLB SARO SNAP SOUN UAL UPST VZ WFC
"""
SMALL = """
ABEV ACHR BYND CENN DEC E GNS HOLO JOBY MMAT MULN NA NAN NKLA NNE NOK OPEN SMR TLRY TRUE
"""
THINNEST = "AAp ABRpD BACpM JPMpC METpE SOpC WFCpZ"

# AAp joins a day late, or it would stand among the published first rows.
FIRST_TRADED = {"AAp": date(2024, 8, 2), "SARO": date(2024, 10, 2)}
LAST_TRADED = {"SWN": date(2024, 9, 30)}
# Ticker: the day of a split, and by what its prices are multiplied from then on. NKLA's is four
# trading days after an anomaly.
SPLITS = {"LRCX": (date(2024, 10, 3), 1 / 10), "NKLA": (date(2024, 9, 26), 20)}
FLAT_TICKER, FLAT_TRADES, FLAT_SPIKE_DAY, FLAT_SPIKE = "NTEST", 100, date(2024, 9, 12), 5000
ZERO_TICKER, ZERO_DAY = "AACIU", date(2024, 9, 17)
TEST_TICKER, TEST_LOW, TEST_HIGH = "ZVZZT", 0.01, 199999.99
BURST_DAYS = dict.fromkeys(["AAP", "AAp", "NA", "NAN", "TRUE"], LAST_DAY)
BURST_DAYS |= {**LAST_TRADED, "LRCX": date(2024, 10, 3)}
BURST_FACTOR = 4


def trading_days():
    span = range((LAST_DAY - FIRST_DAY).days + 1)
    days = [FIRST_DAY + timedelta(n) for n in span]
    return [day for day in days if day.weekday() < 5 and day not in HOLIDAYS]


def usual_trades_and_prices(rng):
    """{ticker: (trades on a usual day, price)}, ordered as in real files: A, AA, AAp, AAA."""
    usual = {}
    for line in PUBLISHED_ROWS.splitlines()[1:]:
        ticker, _, _, close, _, _, _, trades = line.split(",")
        usual[ticker] = int(trades), float(close)
    large = iter(LARGE.split())
    for ticker, trades, price in zip(large, large, large):
        usual[ticker] = int(trades), float(price)
    for tickers, fewest, most, lowest, highest in (
        (DEAR, 9000, 60000, 60, 400),
        (CHEAP, 9000, 60000, 3, 60),
        (SMALL, 150, 4000, 0.4, 10),
        (THINNEST, 6, 40, 15, 26),
    ):
        for ticker in tickers.split():
            trades = fewest + int((most - fewest) * rng.random() * rng.random())
            usual[ticker] = trades, lowest + (highest - lowest) * rng.random()
    for ticker, (previous_trades, _, previous_close, _) in PUBLISHED.items():
        usual[ticker] = sorted(previous_trades)[WINDOW // 2], previous_close
    usual[FLAT_TICKER] = FLAT_TRADES, 20.0
    usual[TEST_TICKER] = 400, 10.0
    return {ticker: usual[ticker] for ticker in sorted(usual, key=str.swapcase)}


def draw_trades(rng, usual_trades, number_of_days):
    """Trades of each day: noise around usual_trades, and now and then a burst that dies away."""
    trades, excess = [], 0.0
    for _ in range(number_of_days):
        if rng.random() < BURST_CHANCE:
            excess = 1 + 8 * rng.random()
        noise = 0.4 + 0.4 * (rng.random() + rng.random() + rng.random())
        trades.append(1 + int(usual_trades * noise * (1 + excess)))
        excess *= 0.4
    return trades


def draw_closes(rng, price, volatility, usual_trades, trades):
    """A random walk from price, one close for each of trades, with longer steps on busy days."""
    closes = [price]
    for count in trades[1:]:
        step = volatility * min(count / usual_trades, 5) * (rng.random() + rng.random() - 1)
        closes.append(closes[-1] * (1 + step))
    return closes


def play_role(rng, ticker, days, trades, closes):
    """Change trades and closes, one of each a day, to what ticker is there to show."""
    if ticker in PUBLISHED:
        previous_trades, last_trades, _, last_close = PUBLISHED[ticker]
        trades[-WINDOW - 1 :] = [*previous_trades, last_trades]
        # closes starts at the published previous close: read backwards, the walk ends there.
        closes[:] = [*closes[-2::-1], last_close]
    elif ticker == FLAT_TICKER:
        trades[:] = [FLAT_SPIKE if day == FLAT_SPIKE_DAY else FLAT_TRADES for day in days]
    elif ticker in SPLITS:
        since, ratio = SPLITS[ticker]
        closes[:] = [c * ratio if day >= since else c for day, c in zip(days, closes)]
    elif ticker == TEST_TICKER:
        closes[:] = [TEST_LOW + (TEST_HIGH - TEST_LOW) * rng.random() * rng.random() for _ in days]
    elif ticker == ZERO_TICKER:
        trades[days.index(ZERO_DAY)] = 0
    if ticker in BURST_DAYS:
        trades[days.index(BURST_DAYS[ticker])] *= BURST_FACTOR
    if ticker not in PUBLISHED and trades[-1] >= PUBLISHED["BIVI"][1]:
        # The published ten stay on top: what is no new maximum of its baseline is no anomaly.
        trades[-1] = min(trades[-1], max(trades[-WINDOW - 1 : -1]))


def has_row(rng, ticker, day, usual_trades):
    if not FIRST_TRADED.get(ticker, FIRST_DAY) <= day <= LAST_TRADED.get(ticker, LAST_DAY):
        return False
    must_trade = (ticker, day) == (ZERO_TICKER, ZERO_DAY) or day in (FIRST_DAY, LAST_DAY)
    return usual_trades >= THIN or must_trade or rng.random() < 0.7


def make_row(rng, ticker, day, trades, close, volatility, digits):
    near = [close * (1 + volatility * (rng.random() - 0.5)) for _ in range(3)] if trades else []
    if ticker == TEST_TICKER:
        near += [TEST_LOW, TEST_HIGH]
    prices = [round(price, digits if price >= 1 else 4) for price in [close, *near]]
    close, opened, high, low = prices[0], prices[-1], max(prices), min(prices)
    volume = int(trades * (20 + 130 * rng.random()))
    numbers = ",".join(f"{price:.10g}" for price in (opened, close, high, low))
    return f"{ticker},{volume},{numbers},{window_start(str(day))},{trades}\n"


def make_market():
    """{day: its file's rows as text}, without the header."""
    rng = random.Random(SEED)
    days = trading_days()
    published_rows = {row.split(",")[0]: row for row in PUBLISHED_ROWS.splitlines(keepends=True)}
    market = {day: [] for day in days}
    for ticker, (usual_trades, price) in usual_trades_and_prices(rng).items():
        volatility = 0.04 if price >= 5 else 0.1
        digits = 4 if usual_trades < 5000 else 2
        trades = draw_trades(rng, usual_trades, len(days))
        closes = draw_closes(rng, price, volatility, usual_trades, trades)
        play_role(rng, ticker, days, trades, closes)
        for day, count, close in zip(days, trades, closes):
            if has_row(rng, ticker, day, usual_trades):
                row = make_row(rng, ticker, day, count, close, volatility, digits)
                market[day].append(published_rows.get(ticker, row) if day == FIRST_DAY else row)
    return market


def main(folder=SAMPLE_MARKET):
    for day, rows in make_market().items():
        (folder / f"{day}.csv").write_bytes(f"{HEADER}\n{''.join(rows)}".encode())


if __name__ == "__main__":
    main()
