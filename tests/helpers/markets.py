"""The markets that most tests run on: a small one, worked out by hand, and the sample market."""

from pathlib import Path

SAMPLE_MARKET = Path(__file__).resolve().parent.parent / "sample_market"
SAMPLE_DAYS = sorted(path.stem for path in SAMPLE_MARKET.glob("*.csv"))
# The last of them; the tutorial prints the anomalies of this day.
SAMPLE_DAY = "2024-10-18"

# Mean 100; the differences from it are -20, -20, 0, 20 and 20, their squares add up to 1600, and
# the square root of 1600 / 4 is 20.
USUAL = [80, 80, 100, 120, 120]
# Sum 220, mean 22; the differences are -8, -18, 17, -14, 12, 8, -16, 23, 9 and -13, their squares
# 64 + 324 + 289 + 196 + 144 + 64 + 256 + 529 + 81 + 169 = 2116 = 46 * 46; over 9: a deviation of
# 46 / 3. So 68 is 46 above the mean, a z of exactly 3, which floats make 3.0000000000000004.
TEN = [14, 4, 39, 8, 34, 30, 6, 45, 31, 9]
DAYS = ["2024-08-01", "2024-08-02", "2024-08-05", "2024-08-06", "2024-08-07", "2024-08-08"]
LAST_DAY = "2024-08-08"
# Ticker: its trades and its closes on DAYS, None where it has no row.
MARKET = {
    "ZZZ": ([*USUAL, 200], [10, 10, 10, 10, 10, 12.5]),
    "NA": ([8, 8, 10, 12, 12, 30], [2, 2, 2, 2, 2, 1]),
    "AAP": ([*USUAL, 160], [7, 7, 7, 7, 7, 7]),
    "AAp": ([*USUAL, 200], [4, 4, 4, 4, 4, 5]),
    "TRUE": ([*USUAL, 161], [50, 50, 50, 50, 50, 50]),
    "FLAT": ([50, 50, 50, 50, 50, 5000], [1, 1, 1, 1, 1, 1]),
    "ZERO": ([*USUAL, 170], [0, 0, 0, 0, 0, 0]),
    "BRK.B": ([*USUAL, 20], [440, 440, 440, 440, 440, 440]),
    "GONE": ([10, 10, 10, 10, 10, None], [3, 3, 3, 3, 3, None]),
    "NEW": ([None, None, None, None, 90, 90000], [None, None, None, None, 20, 25]),
}


def rows_by_day(market):
    """{day: rows}, for write_flat_files, of a market that is laid out as MARKET."""
    return {
        day: [
            (ticker, trades[i], closes[i])
            for ticker, (trades, closes) in market.items()
            if trades[i] is not None
        ]
        for i, day in enumerate(DAYS)
    }
