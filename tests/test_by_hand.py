"""What a day means, in cases that are worked out by hand, built and queried."""

import json
import math

import pytest
from helpers.flat_files import write_file, write_flat_files
from helpers.markets import USUAL
from helpers.scripts import build_table, call, querier

DAYS = [f"2024-{1 + day // 25:02}-{1 + day % 25:02}" for day in range(240)]
# The threshold that every row with a deviation above 0 is above.
ALL = ("--threshold", -1e9)


@pytest.fixture
def ask(tmp_path):
    """A function: what the querier says of a market, in json or as a wide list.

    The market has tickers' rows by day: (trades, open, close), trades (open and close are 10), or
    None where there is no row.
    """

    def ask(market, *options, form="json", window=5):
        days = {day: [] for day in DAYS[: max(map(len, market.values()))]}
        for ticker, rows in market.items():
            for day, row in zip(days, rows):
                if row is not None:
                    row = row if isinstance(row, tuple) else (row, 10, 10)
                    days[day].append((ticker, *row))
        folder = write_flat_files(tmp_path / "flat", days)
        table = build_table(folder, tmp_path / "lookup_table.pkl", "--window", window)
        text = call(querier, *options, "--format", form, "--table", table).stdout
        return json.loads(text) if form == "json" else text

    return ask


def test_a_tie_ends_a_record(ask):
    # With a window of 2, the second 5 has no deviation. 5: a tie with the 5 before. 4: below 9.
    # 9: above 4, then a tie with the other 9. 10: above all six.
    rows = ask({"T": [3, 5, 5, 9, 4, 9, 10]}, "--ticker", "T", *ALL, window=2)
    assert [row["record"] for row in rows] == [0, 0, 1, 6]


def test_long_z_is_of_logarithms_over_the_sixty_rows_before(ask):
    # ln(1 + trades) is k * ln 2 for 2**k - 1 trades. Ten 3s and ten 7s: in units of ln 2 the mean
    # is 2.5, the squares of the differences add up to 20 / 4, and 31 is 2.5 above.
    rows = ask({"T": [3, 7] * 10 + [31]}, "--ticker", "T", *ALL)
    long_z = [row["long_z"] for row in rows]
    assert long_z == [*[None] * 15, pytest.approx(2.5 / math.sqrt(5 / 19), abs=5e-5)]
    # The row of 1000 is out of the last one's baseline: thirty 3s and thirty 7s are left.
    rows = ask({"T": [1000, *[3, 7] * 30, 0]}, "--ticker", "T", *ALL)
    assert rows[-1]["long_z"] == pytest.approx(-2.5 / math.sqrt(15 / 59), abs=5e-5)


# The previous close, the open, and whether it is near a split's ratio.
OPENS = [
    (10, 5, True),  # 1/2
    (10, 6.7, True),  # 0.67 is near 2/3
    (10, 7, False),  # exactly 0.7 is not below it
    (30, 19, True),  # 19/30 * 3/2 = 0.95 exactly
    (10, 15, False),  # exactly 1.5 is not above it
    (10, 15.01, True),
    (8, 12.6, True),  # 1.575 = 1.05 * 3/2 exactly
    (10, 19, True),  # 1.9 = 0.95 * 2 exactly
    (10, 21, True),  # 2.1 = 1.05 * 2 exactly
    (10, 84.99, False),  # 8.499 / 8 = 1.062, 8.499 / 9 = 0.944
    (10, 105, True),  # from 9.5 on, every ratio is within 5 % of a whole number
    (1000, 3.7, True),  # 1/270.27
]


def test_an_open_near_a_splits_ratio_is_marked(ask):
    market = {
        f"T{n}": [*((trades, close, close) for trades in USUAL), (100, opened, opened)]
        for n, (close, opened, _) in enumerate(OPENS)
    }
    found = {row["ticker"]: "split?" in row["marks"] for row in ask(market, DAYS[5], *ALL)}
    assert found == {f"T{n}": is_split for n, (*_, is_split) in enumerate(OPENS)}


def test_a_listed_split_is_taken_out_and_named(ask, tmp_path):
    # One for ten on day 6. Two for one on day 8, on which the ticker has no row.
    rows = [*((trades, 2, 2) for trades in USUAL), (200, 2, 2), (100, 20, 19), (100, 19, 19)]
    rows += [None, (100, 9.5, 9.5), (100, 9.5, 9.5)]
    lines = ["ticker,execution_date,split_from,split_to", f"T,{DAYS[6]},10,1", f"T,{DAYS[8]},1,2"]
    write_file(tmp_path / "flat/reference/splits.csv", "\n".join(lines))
    first, *others = ask({"T": rows, "A": [5] * 11}, "--ticker", "T", *ALL)
    assert first["after_1"] == (19 * 0.1 / 2 - 1) * 100
    assert first["after_5"] == (9.5 * (0.1 * 2) / 2 - 1) * 100
    # Nothing is listed for day 9, so its half price is a suspected split.
    assert [row["marks"] for row in others] == ["split 1:10", "", "split?", ""]
    assert first["split_after"] == 5


def test_the_usual_share_needs_twenty_earlier_days_with_a_share(ask):
    # The first baselines are on day 5. A's bursts on days 10 and 27 are the only anomalies.
    cycle = [USUAL[day % 5] for day in range(28)]
    bursts = [200 if day in (10, 27) else trades for day, trades in enumerate(cycle)]
    market = {"A": bursts, "B": cycle, "F": [50] * 28}
    said = [ask(market, DAYS[day], form="wide") for day in (24, 25, 27)]
    assert "the usual is" not in said[0]
    assert "0 of 2 tickers with a baseline (0.0 %) are anomalies; the usual is 0.0 %;" in said[1]
    # 22 days before have such tickers, 5 to 26; one has the same share.
    assert "1 of 2 tickers with a baseline (50.0 %) are anomalies;" in said[2]
    assert "more than on 21 of the 22 days before." in said[2]


def test_the_records_are_compared_with_chance(ask):
    # On the last day A is above all 20 before, and N too, but it has 19. Chance makes 2 / 21.
    zigzag = [50 + day % 2 for day in range(20)]
    market = {"A": [*zigzag, 99], "B": [*zigzag, 51], "N": [None, *zigzag[1:], 99]}
    sentence = (
        "Of 2 tickers with at least 20 earlier rows, 1 have a record of 20 or more; chance alone "
        "would make 0.1.\n"
    )
    assert sentence in ask(market, DAYS[20], form="wide")


def class_of(classes, move, horizon):
    """The class of the z-scores up to 5."""
    (found,) = [c for c in classes if (c["z_from"], c["move"], c["horizon"]) == (3, move, horizon)]
    return found


def test_the_aftermaths_standard_error_is_of_blocks(ask):
    # 240 days, 12 blocks of 20. On day 10 of each block A's trades are 200 (z is 5, for its five
    # rows before are USUAL in some order); the day after, it closes higher in 8 blocks, lower in 3
    # and the same in the last. B is the same in block 0 alone, and closes lower. C, D and E always
    # close at 10: the median ticker's number is 0.
    market = {name: [(USUAL[day % 5], 10, 10) for day in range(240)] for name in "ABCDE"}
    for block, close in enumerate([10.2] * 8 + [9.7] * 3 + [10]):
        market["A"][20 * block + 10] = (200, 10, 10)
        market["A"][20 * block + 11] = (100, 10, close)
    market["B"][10], market["B"][11] = (200, 10, 10), (100, 10, 9.9)
    # 13 cases: 8 better, 4 worse (B's in block 0), a tie: the mean is 8.5 / 13 = 17/26.
    # x - mean is 9/26 (better), -17/26 (worse), -4/26 (tie). Sums of blocks: block 0 9 - 17 = -8,
    # seven blocks 9, three -17, one -4 (of 26). Squares 64 + 7 * 81 + 3 * 289 + 16 = 1514 (of
    # 676), times 12/11.
    # Excess: eight times 2, B's -1, three times -3, 0: the 7th of 13 is 2.
    found = class_of(ask(market, "--aftermath"), "flat", 1)
    assert (found["cases"], found["left_out"]) == (13, 0)
    assert found["better"] == pytest.approx(100 * 17 / 26)
    assert found["two_se"] == pytest.approx(200 * math.sqrt(1514 / 676 * 12 / 11) / 13)
    assert found["median_excess"] == pytest.approx(2)


def test_gone_zero_and_split_are_left_out_of_the_aftermath(ask):
    burst = [*USUAL, 200]
    market = {
        "GONE": burst,
        "ZERO": [*burst[:5], (200, 10, 0), 100],  # it fell by 100 %
        "SPLIT": [*burst, (100, 20, 20)],
        # A split on the day of the anomaly itself does not matter: 5 after 10 is 1/2.
        "OWN": [*burst[:5], (200, 5, 10), (100, 10, 10.5)],
        "CALM": [*USUAL, 100, 100],
    }
    classes = ask(market, "--aftermath")
    # Numbers: SPLIT 100, OWN 5, CALM 0: the median is OWN's own.
    figures = {"cases": 1, "better": 50, "two_se": None, "median_excess": 0, "left_out": 2}
    assert figures.items() <= class_of(classes, "flat", 1).items()
    assert class_of(classes, "down", 1)["left_out"] == 1
    # Nothing is left out where the day after is not over.
    assert not any(found["left_out"] for found in classes if found["horizon"] > 1)
