"""The reference in plain Python against cases worked by hand."""

import math
from fractions import Fraction

import pytest
from helpers.markets import USUAL
from witnesses import reference


def dates(count):
    return [f"2024-{1 + day // 25:02}-{1 + day % 25:02}" for day in range(count)]


def market_of(**tickers):
    """A market of tickers' rows by day: (trades, open, close), a number of trades (open and close
    10), or None where the ticker has no row."""
    rows = {name: list(days) for name, days in tickers.items()}
    count = max(map(len, rows.values()))
    market = {day: [] for day in dates(count)}
    for name, days in rows.items():
        for date, row in zip(market, days):
            if row is not None:
                market[date].append((name, *(row if isinstance(row, tuple) else (row, 10, 10))))
    return market


def rows_of(trades):
    return reference.Table(market_of(T=trades)).tickers["T"]


def closes(*prices):
    """Rows of 50 trades that open where the day before closed."""
    opens = [prices[0], *prices[:-1]]
    return [close and (50, before or close, close) for before, close in zip(opens, prices)]


def table_of_closes(**tickers):
    return reference.Table(market_of(**{name: closes(*prices) for name, prices in tickers.items()}))


def first_row(table, ticker="T"):
    return table.tickers[ticker][0]


# Facts of a row


def test_a_tie_ends_a_record():
    #   3: nothing before it. 5: above 3. 5: a tie with the 5 before. 9: above 5, 5 and 3.
    #   4: below 9. 9: above 4, then a tie with the other 9. 10: above all six.
    rows = rows_of([3, 5, 5, 9, 4, 9, 10])
    assert [row.record for row in rows] == [0, 1, 0, 3, 0, 1, 6]
    assert [row.earlier_rows for row in rows] == [0, 1, 2, 3, 4, 5, 6]
    assert [reference.record_text(row) for row in rows[3:]] == ["all 3", "0", "1", "all 6"]


def test_a_baseline_is_the_five_rows_before():
    rows = rows_of([*USUAL, 140])
    assert [row.avg_trades for row in rows] == [None] * 5 + [100]
    assert [row.variance for row in rows] == [None] * 5 + [400]
    assert (reference.std_trades(rows[5]), reference.z_score(rows[5])) == (20.0, 2.0)
    assert reference.std_trades(rows[4]) is reference.z_score(rows[4]) is None


def test_gap_is_from_the_close_before_to_the_open():
    rows = rows_of([(1, 9, 8), (1, 10, 0), (1, 3, 4), (1, None, 4), (1, 0, 4), (1, -1, 4)])
    assert [row.gap for row in rows] == [None, 25.0, None, None, None, None]


def test_long_z_is_of_logarithms_over_the_sixty_rows_before():
    # ln(1 + trades) is k * ln 2 for 2**k - 1 trades. Ten 3s and ten 7s: in units of ln 2 the mean
    # is 2.5, the squares of the differences add up to 20 / 4, and 31 is 2.5 above.
    rows = rows_of([3, 7] * 10 + [31])
    assert [row.long_z for row in rows[:20]] == [None] * 20
    assert rows[20].long_z == pytest.approx(2.5 / math.sqrt(5 / 19), rel=1e-14)
    # The row of 1000 is out of the last one's baseline: thirty 3s and thirty 7s are left.
    rows = rows_of([1000, *[3, 7] * 30, 0])
    assert rows[-1].long_z == pytest.approx(-2.5 / math.sqrt(15 / 59), rel=1e-14)
    # Without a deviation there is none.
    assert [row.long_z for row in rows_of([9] * 20 + [10, 9])[20:]] != [None, None]
    assert rows_of([9] * 20 + [10])[20].long_z is None


def test_dollar_volume_is_of_float32():
    market = {"2024-01-01": [("A", 1, 1, 0.1, 2**24 + 1), ("B", 1, 1, 2.0, None)]}
    a, b = reference.Table(market).rows["2024-01-01"].values()
    # 16777217 / 10 is 1677721.7; floats of 32 bits are an eighth apart there.
    assert a.dollar_volume == 1677721.75 and b.dollar_volume is None


# Marks


@pytest.mark.parametrize(
    ("before", "opens", "found"),
    [
        (10, 5, True),  # 1/2
        (10, 20, True),  # 2
        (10, 6.7, True),  # 0.67 is near 2/3
        (10, 7, False),  # exactly 0.7 is not below it
        (30, 19, True),  # 19/30 * 3/2 = 0.95 exactly
        (10, 15, False),  # exactly 1.5 is not above it
        (10, 15.01, True),
        (8, 12.6, True),  # 1.575 = 1.05 * 3/2 exactly
        (10, 19, True),  # 1.9 = 0.95 * 2 exactly
        (10, 21, True),  # 2.1 = 1.05 * 2 exactly
        (10, 84.99, False),  # 8.499 / 8 = 1.062, 8.499 / 9 = 0.944
        (10, 94.7, False),  # 9.47 / 9 = 1.0522, 9.47 / 10 = 0.947
        (10, 105, True),  # from 9.5 on, every ratio is within 5 % of a whole number
        (1000, 3.7, True),  # 1/270.27
    ],
)
def test_an_open_near_a_splits_ratio_is_marked(before, opens, found):
    assert rows_of([(9, before, before), (9, opens, opens)])[1].is_split == found


def test_marks_stand_in_order():
    # N is listed on day 20 (the 21st); 5 rows later it opens at half its price.
    day_before = [(9, 10, 10)] * 5
    market = market_of(A=[50] * 26, N=[None] * 20 + [*day_before, (9, 5, 5)])
    table = reference.Table(market)
    row = table.tickers["N"][-1]
    assert reference.marks(table, row, ("N",)) == ["split", "new", "thin", "test"]
    assert reference.marks_text(table, row) == "split? new thin"
    assert reference.marks(table, table.tickers["A"][-1]) == []


# What came after


def test_after_is_the_last_close_at_or_before_the_day():
    # Days:                     0   1    2     3     4     5
    table = table_of_closes(T=[10, 11, None, None, None, 12], A=[1] * 6)
    assert reference.after(table, first_row(table), 1) == (11 / 10 - 1) * 100
    assert reference.after(table, first_row(table), 4) == (11 / 10 - 1) * 100
    assert reference.after(table, first_row(table), 5) == (12 / 10 - 1) * 100
    assert reference.after(table, first_row(table), 6) == "unknown"
    shown = [reference.after_text(table, first_row(table), h) for h in reference.HORIZONS]
    assert shown == ["10.00", "20.00", "-"]


def test_a_reverse_split_in_the_span_is_marked():
    # 1 for 10 on day 3; day 3 is within 5 days of day 0, not within 1.
    days = [(5, 2, 2), (5, 2, 2), (5, 2, 2), (5, 20, 19), (5, 19, 19), (5, 19, 19), (5, 19, 19)]
    table = reference.Table(market_of(T=days))
    rows = table.tickers["T"]
    # From day 2 the fifth next day is not known: only the span of 1 is.
    assert [reference.split_after(table, row) for row in rows] == [5, 5, 1, None, None, None, None]
    shown = [reference.after_text(table, rows[0], horizon) for horizon in reference.HORIZONS]
    assert shown == ["0.00", "850.00*", "-"]
    facts = reference.facts(table, rows[2])
    assert [facts[name] for name in ("after_1", "after_5", "split_after")] == [850.0, None, 1]
    assert reference.facts(table, rows[3])["marks"] == "split?"


def test_a_listed_split_is_taken_out_and_named():
    # 1 for 10 on day 3, as above; 2 for 1 on day 5, on which the ticker has no row.
    days = [(5, 2, 2), (5, 2, 2), (5, 2, 2), (5, 20, 19), (5, 19, 19), None, (5, 9.5, 9.5)]
    market = market_of(T=days, A=[5] * 7)
    day = list(market)
    lines = [("T", day[3], "10", "1"), ("T", day[5], "1", "2"), ("T", day[3], "3", "1")]
    lines += [("T", "2023-12-29", "1", "3"), ("NONE", day[2], "1", "2")]
    listed = [("T", "Today's", "CS"), ("T", "Yesterday's", "WARRANT"), ("NONE", "", "")]
    table = reference.Table(market, listed=listed, splits=lines)
    rows = table.tickers["T"]
    assert list(table.splits) == [("T", day[3]), ("T", day[5])]
    assert reference.after(table, rows[2], 1) == (19 * 0.1 / 2 - 1) * 100
    # On day 5 the last close is of day 4: the second split is not in it yet.
    assert reference.after(table, rows[0], 5) == (19 * 0.1 / 2 - 1) * 100
    assert reference.after(table, rows[1], 5) == (9.5 * (0.1 * 2) / 2 - 1) * 100
    # What is listed for another day leaves the half price of day 6 a suspected split.
    assert [reference.split_after(table, row) for row in rows] == [None, 5, None, None, None, None]
    marks = [reference.marks_text(table, row) for row in rows]
    assert marks == ["", "", "", "split 1:10", "", "split? thin"]
    assert reference.facts(table, rows[0])["name"] == "Today's"


# About a whole day


def test_the_usual_share_needs_twenty_earlier_days_with_a_share():
    # The first baselines are on day 5. A's bursts on days 10 and 27 are the only anomalies.
    cycle = [USUAL[day % 5] for day in range(28)]
    bursts = [200 if day in (10, 27) else trades for day, trades in enumerate(cycle)]
    table = reference.Table(market_of(A=bursts, B=cycle, F=[50] * 28))
    assert reference.tide(table, table.days[4]) is None
    early = reference.tide(table, table.days[10])
    assert (early.anomalies, early.tickers, early.share) == (1, 2, Fraction(1, 2))
    assert (early.usual, early.days, early.more_than_all) == (None, 5, False)
    assert [reference.tide(table, table.days[day]).usual for day in (24, 25)] == [None, 0]
    # 22 days before with such tickers, 5 to 26; one has the same share.
    assert reference.tide(table, table.days[27]) == (1, 2, Fraction(1, 2), 0, 22, 21, False)


def test_the_record_line_counts_those_who_can_have_one():
    # Up and down, and on the last day A is above all 20 before; N has 19 rows before.
    zigzag = [50 + day % 2 for day in range(20)]
    table = reference.Table(market_of(A=[*zigzag, 99], B=[*zigzag, 51], N=[None, *zigzag[1:], 99]))
    assert reference.record_line(table, table.days[20]) == (20, 2, 1, Fraction(2, 21))
    assert reference.record_line(table, table.days[19]) is None
    # A and N are above 19 before, B (51) is above 50 for one row, then a tie.
    assert reference.record_line(table, table.days[20], 19) == (19, 3, 2, Fraction(3, 20))


# The aftermath


def class_of(classes, z_from, move, horizon):
    key = (z_from, move, horizon)
    (found,) = [c for c in classes if (c["z_from"], c["move"], c["horizon"]) == key]
    return found


def burst_market(next_closes):
    """240 days, 12 blocks of 20: A's trades run through USUAL, but on day 10 of each block they
    are 200 (z is 5, for its five rows before are USUAL in some order); the day after it closes at
    next_closes[block] and then at 10 again. B is the same in block 0 alone, with a close of 9.9.
    C, D and E always close at 10: the median ticker's number is 0."""
    days = {name: [(USUAL[day % 5], 10, 10) for day in range(240)] for name in "ABCDE"}
    for block, close in enumerate(next_closes):
        days["A"][20 * block + 10] = (200, 10, 10)
        days["A"][20 * block + 11] = (100, 10, close)
    days["B"][10], days["B"][11] = (200, 10, 10), (100, 10, 9.9)
    return market_of(**days)


# Better in 8 blocks, worse in 3, a tie in the last.
NEXT_CLOSES = [10.2] * 8 + [9.7] * 3 + [10]


def test_better_and_its_standard_error_are_of_blocks():
    # 13 cases: 8 better, 4 worse (B's in block 0), a tie: the mean is 8.5 / 13 = 17/26.
    # x - mean is 9/26 (better), -17/26 (worse), -4/26 (tie). Sums of blocks: block 0 9 - 17 = -8,
    # seven blocks 9, three -17, one -4 (of 26). Squares 64 + 7 * 81 + 3 * 289 + 16 = 1514 (of
    # 676), times 12/11.
    # Excess: eight times 2, B's -1, three times -3, 0: the 7th of 13 is 2.
    found = class_of(reference.aftermath(burst_market(NEXT_CLOSES)), 3, "flat", 1)
    assert (found["cases"], found["left_out"]) == (13, 0)
    assert found["better"] == pytest.approx(100 * 17 / 26, rel=1e-14)
    error = math.sqrt(1514 / 676 * 12 / 11) / 13
    assert found["two_se"] == pytest.approx(200 * error, rel=1e-14)
    assert found["median_excess"] == (10.2 / 10 - 1) * 100


def test_gone_zero_and_split_are_left_out():
    burst = [*USUAL, 200]
    market = market_of(
        GONE=burst,
        ZERO=[*burst[:5], (200, 10, 0), 100],
        SPLIT=[*burst, (100, 20, 20)],
        # A split on the day of the anomaly itself does not matter: 5 after 10 is 1/2.
        OWN=[*burst[:5], (200, 5, 10), (100, 10, 10.5)],
        CALM=[*USUAL, 100, 100],
    )
    classes = reference.aftermath(market)
    # Numbers: SPLIT 100, OWN 5, CALM 0: the median is OWN's own.
    figures = {"cases": 1, "better": 50, "two_se": None, "median_excess": 0, "left_out": 2}
    assert figures.items() <= class_of(classes, 3, "flat", 1).items()
    # ZERO fell by 100 %.
    assert class_of(classes, 3, "down", 1)["left_out"] == 1
    # Nothing is left out where the day after is not over.
    assert not any(found["left_out"] for found in classes if found["horizon"] > 1)
