"""The reference in plain Python against cases worked by hand."""

import math
from fractions import Fraction

import pytest
from fakes.made_up_market import TEST_SYMBOL, made_up_market
from helpers.markets import TEN, USUAL
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


def rows_of(trades, window=5):
    return reference.Table(market_of(T=trades), window).tickers["T"]


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


def test_a_record_counts_rows_and_not_days():
    assert [row.record for row in rows_of([1, None, None, 2, None, 3])] == [0, 1, 2]


def test_a_baseline_is_the_five_rows_before():
    rows = rows_of([*USUAL, 140])
    assert [row.avg_trades for row in rows] == [None] * 5 + [100]
    assert [row.variance for row in rows] == [None] * 5 + [400]
    assert (reference.std_trades(rows[5]), reference.z_score(rows[5])) == (20.0, 2.0)
    assert reference.std_trades(rows[4]) is reference.z_score(rows[4]) is None


def test_the_mean_of_1_1_1_1_2_is_six_fifths():
    # Differences -1/5 four times and 4/5: 4/25 + 16/25 = 20/25, over 4 is 1/5.
    row = rows_of([1, 1, 1, 1, 2, 9])[5]
    assert (row.avg_trades, row.variance) == (Fraction(6, 5), Fraction(1, 5))


def test_baseline_days_are_the_tables_and_not_the_tickers():
    every_day = [7] * 13
    now_and_then = [7, None, 7, 7, None, None, None, 7, None, 7, None, 7, 7]
    table = reference.Table(market_of(A=every_day, B=now_and_then))
    assert [row.baseline_days for row in table.tickers["A"]][4:7] == [None, 5, 5]
    # B's rows are on days 0, 2, 3, 7, 9, 11 and 12: from 11 back to 0, from 12 back to 2.
    assert [row.baseline_days for row in table.tickers["B"]] == [None] * 5 + [11, 10]
    assert [reference.marks(table, row) for row in table.tickers["B"]][5:] == [
        ["thin", "stale"],
        ["thin"],
    ]


def test_price_diff_is_the_tutorials_float():
    # In exact arithmetic 10.1 after 10 is 1.
    rows = rows_of([(1, 10, 10.0), (1, 10, 10.1), (1, 10, 0), (1, 10, 0), (1, 10, 5)])
    assert math.isnan(rows[0].price_diff)
    assert rows[1].price_diff == (10.1 / 10.0 - 1) * 100 != 1
    assert rows[2].price_diff == -100
    assert math.isnan(rows[3].price_diff)
    assert rows[4].price_diff == math.inf


def test_gap_is_from_the_close_before_to_the_open():
    rows = rows_of([(1, 9, 8), (1, 10, 0), (1, 3, 4), (1, None, 4), (1, 0, 4), (1, -1, 4)])
    assert [row.gap for row in rows] == [None, 25.0, None, None, None, None]


def test_the_previous_close_is_the_tickers_own_however_long_ago():
    assert rows_of([(1, 9, 8), None, None, (1, 10, 12)])[1].gap == 25.0


# Anomalies


@pytest.mark.parametrize(("trades", "z"), [(159, 2.95), (160, 3.0)])
def test_z_up_to_exactly_three_is_no_anomaly(trades, z):
    row = rows_of([*USUAL, trades])[5]
    assert reference.z_score(row) == z
    assert not reference.is_anomaly(row)


def test_z_above_three_is_an_anomaly():
    assert reference.is_anomaly(rows_of([*USUAL, 161])[5])


def test_z_of_exactly_three_is_no_anomaly_at_window_ten():
    at, above = rows_of([*TEN, 68], 10)[10], rows_of([*TEN, 69], 10)[10]
    assert (at.avg_trades, at.variance) == (22, Fraction(2116, 9))
    assert reference.z_score(at) == 3.0
    assert (reference.is_anomaly(at), reference.is_anomaly(above)) == (False, True)


def test_a_z_within_1e_12_of_the_threshold_is_equal_to_it():
    row = rows_of([*USUAL, 160])[5]
    # Relative to the threshold, 3 is 0.33e-12 above 3 - 1e-12, and 3.3e-12 above 3 - 1e-11.
    assert not reference.is_anomaly(row, 3 - 1e-12)
    assert reference.is_anomaly(row, 3 - 1e-11)


def test_a_threshold_may_be_negative_or_zero():
    # 80 has a z of -1.
    row = rows_of([*USUAL, 80])[5]
    found = [reference.is_anomaly(row, threshold) for threshold in (-1.5, -1, -0.5, 0)]
    assert found == [True, False, False, False]
    level = rows_of([*USUAL, 100])[5]
    assert [reference.is_anomaly(level, threshold) for threshold in (-0.1, 0)] == [True, False]


def test_a_flat_baseline_has_no_anomaly():
    row = rows_of([50] * 5 + [5000])[5]
    assert (row.variance, reference.z_score(row), reference.is_anomaly(row, -9)) == (0, None, False)


def test_equal_anomalies_stand_in_the_order_of_the_files():
    market = market_of(B=[*USUAL, 200], C=[*USUAL, 300], A=[*USUAL, 200])
    last = list(market)[-1]
    market[last].reverse()
    assert [row.ticker for row in reference.anomalies(reference.Table(market), last)] == [
        "C",
        "B",
        "A",
    ]


# Marks


@pytest.mark.parametrize(
    ("before", "opens", "found"),
    [
        (10, 5, True),  # 1/2
        (10, 20, True),  # 2
        (900.0, 90.5, True),  # near 1/10
        (0.31, 6.2, True),  # 20
        (10, 6.7, True),  # 0.67 is near 2/3
        (10, 7, False),  # exactly 0.7 is not below it
        (10, 6.33, False),  # 0.633 * 3/2 = 0.9495
        (30, 19, True),  # 19/30 * 3/2 = 0.95 exactly
        (10, 15, False),  # exactly 1.5 is not above it
        (10, 15.01, True),
        (8, 12.6, True),  # 1.575 = 1.05 * 3/2 exactly
        (10, 15.76, False),
        (10, 18.99, False),
        (10, 19, True),  # 1.9 = 0.95 * 2 exactly
        (10, 21, True),  # 2.1 = 1.05 * 2 exactly
        (10, 21.01, False),
        (10, 84.99, False),  # 8.499 / 8 = 1.062, 8.499 / 9 = 0.944
        (10, 94.7, False),  # 9.47 / 9 = 1.0522, 9.47 / 10 = 0.947
        (10, 105, True),  # from 9.5 on, every ratio is within 5 % of a whole number
        (1000, 3.7, True),  # 1/270.27
        (10, 5.26, False),  # 0.526 * 2 = 1.052
    ],
)
def test_an_open_near_a_splits_ratio_is_marked(before, opens, found):
    assert rows_of([(9, before, before), (9, opens, opens)])[1].is_split == found


def test_without_a_gap_there_is_no_split():
    rows = rows_of([(9, 10, 10), (9, None, 5), (9, 0, 5), (9, 5, 0), (9, 50, 50)])
    assert [row.is_split for row in rows] == [False] * 5


def test_marks_stand_in_order():
    # N is listed on day 20 (the 21st); 5 rows later it opens at half its price.
    day_before = [(9, 10, 10)] * 5
    market = market_of(A=[50] * 26, N=[None] * 20 + [*day_before, (9, 5, 5)])
    table = reference.Table(market)
    row = table.tickers["N"][-1]
    assert reference.marks(table, row, ("N",)) == ["split", "new", "thin", "test"]
    assert reference.marks_text(table, row) == "split? new thin"
    assert reference.marks(table, table.tickers["A"][-1]) == []


def test_new_needs_twenty_of_the_tables_days_before():
    table = reference.Table(market_of(A=[50] * 41, N=[None] * 19 + [50] * 22))
    assert [reference.marks(table, row) for row in table.tickers["A"]] == [[]] * 41
    # N's rows are on days 19 to 40: day 19 has 19 days before it, from the row on day 39 on N has
    # 20 earlier rows.
    expected = [[], *[["new"]] * 19, [], []]
    assert [reference.marks(table, row) for row in table.tickers["N"]] == expected


def test_thin_is_an_average_below_twenty():
    table = reference.Table(market_of(A=[20] * 6, B=[20, 20, 20, 20, 19, 500]))
    assert [reference.marks(table, rows[-1]) for rows in table.tickers.values()] == [[], ["thin"]]


# What came after


def test_after_is_the_last_close_at_or_before_the_day():
    # Days:                     0   1    2     3     4     5
    table = table_of_closes(T=[10, 11, None, None, None, 12], A=[1] * 6)
    assert reference.after(table, first_row(table), 1) == (11 / 10 - 1) * 100
    assert reference.after(table, first_row(table), 4) == (11 / 10 - 1) * 100
    assert reference.after(table, first_row(table), 5) == (12 / 10 - 1) * 100
    assert reference.after(table, first_row(table), 6) == "unknown"
    assert [reference.after_text(table, first_row(table), h) for h in reference.HORIZONS] == [
        "10.00",
        "20.00",
        "-",
    ]


def test_a_ticker_without_a_row_in_the_span_is_gone():
    table = table_of_closes(T=[10, None, None, 13], A=[1] * 4)
    assert [reference.after(table, first_row(table), h) for h in (1, 2, 4)] == [
        "gone",
        "gone",
        "unknown",
    ]
    assert reference.after(table, first_row(table), 3) == (13 / 10 - 1) * 100
    assert reference.after_text(table, first_row(table), 1) == "gone"


def test_a_delisted_tickers_last_close_counts():
    table = table_of_closes(T=[10, 8, None, None, None, None], A=[1] * 6)
    last = table.tickers["T"][1]
    assert reference.after(table, first_row(table), 5) == (8 / 10 - 1) * 100
    assert [reference.after(table, last, h) for h in (1, 4, 5)] == ["gone", "gone", "unknown"]


def test_a_close_of_0_has_no_number():
    table = reference.Table(market_of(T=[(5, 1, 0), (5, 1, 2)], D=[(5, 1, 0), None]))
    assert reference.after(table, first_row(table), 1) is None
    assert reference.after_text(table, first_row(table), 1) == "-"
    assert reference.after(table, first_row(table, "D"), 1) == "gone"
    assert reference.after(table, table.tickers["T"][1], 1) == "unknown"


def test_a_later_close_of_0_is_a_loss_of_all():
    table = reference.Table(market_of(T=[(5, 1, 2), (5, 1, 0)]))
    assert reference.after(table, first_row(table), 1) == -100


def test_a_reverse_split_in_the_span_is_marked():
    # 1 for 10 on day 3; day 3 is within 5 days of day 0, not within 1.
    days = [(5, 2, 2), (5, 2, 2), (5, 2, 2), (5, 20, 19), (5, 19, 19), (5, 19, 19), (5, 19, 19)]
    table = reference.Table(market_of(T=days))
    rows = table.tickers["T"]
    assert [reference.split_after(table, row) for row in rows] == [5, 5, 1, None, None, None, None]
    assert [reference.after_text(table, rows[0], h) for h in reference.HORIZONS] == [
        "0.00",
        "850.00*",
        "-",
    ]
    assert reference.after_text(table, rows[2], 1) == "850.00*"
    # From day 2 the fifth next day is not known: only the span of 1 is.
    assert reference.facts(table, rows[2]) == {
        "record": 0,
        "earlier_rows": 2,
        "baseline_days": None,
        "gap": 0.0,
        "after_1": 850.0,
        "after_5": None,
        "after_20": None,
        "split_after": 1,
        "marks": "",
    }
    assert reference.facts(table, rows[3])["marks"] == "split?"


def test_a_split_in_a_span_that_is_not_known_is_not_told():
    # The split is on day 2; from day 0 the span of 5 would hold it, but there are 3 days.
    table = reference.Table(market_of(T=[(5, 2, 2), (5, 2, 2), (5, 20, 20)]))
    assert reference.split_after(table, first_row(table)) is None


def test_the_median_ticker_is_the_median_of_all_that_have_a_number():
    # 50, 20, -10, 0; G is gone, Z closes at 0: the middle two are 0 and 20.
    table = reference.Table(
        market_of(
            A=[(5, 10, 10), (5, 10, 15)],
            B=[(5, 10, 10), (5, 10, 12)],
            C=[(5, 10, 10), (5, 10, 9)],
            D=[(5, 10, 10), (5, 10, 10)],
            G=[(5, 10, 10), None],
            Z=[(5, 10, 0), (5, 10, 10)],
        )
    )
    first, last = table.days
    assert reference.median_ticker(table, first, 1) == ((12 / 10 - 1) * 100 + 0.0) / 2
    assert (
        reference.median_ticker(table, first, 5) is reference.median_ticker(table, last, 1) is None
    )


def test_a_tie_with_the_median_ticker_counts_half():
    assert [reference.better(number, 2.0) for number in (2.5, 2.0, 1.5)] == [1, Fraction(1, 2), 0]


def test_anomalies_without_a_number_are_not_counted():
    # Numbers after a day: A 10, B 0, N 0, O -5: the median is 0. A is better, B a tie, G is gone;
    # N and O are no anomalies.
    burst = [*USUAL, 200]
    market = market_of(
        A=[*burst, (100, 10, 11)],
        B=[*burst, 100],
        G=[*burst],
        N=[*USUAL, 100, 100],
        O=[*USUAL, 100, (100, 10, 9.5)],
    )
    table = reference.Table(market)
    assert reference.did_better(table, table.days[5], 1) == (Fraction(3, 2), 2)
    assert reference.did_better(table, table.days[5], 5) == (0, 0)


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


def test_the_tide_can_be_more_than_on_all_days_before():
    cycle = [USUAL[day % 5] for day in range(27)]
    table = reference.Table(market_of(A=[*cycle[:26], 300], B=cycle))
    assert reference.tide(table, table.days[26]) == (1, 2, Fraction(1, 2), 0, 21, 21, True)


def test_the_usual_is_of_the_latest_250_days():
    # Bursts on day 5, the first with a baseline, and on the last day. Before day 255 there are 250
    # days with a baseline, and the burst of day 5 is among them; before day 256 there are 251.
    cycle = [USUAL[day % 5] for day in range(256)]
    cycle[5] = 200
    for last, higher_than, more_than_all in ((255, 249, False), (256, 250, True)):
        table = reference.Table(market_of(A=[*cycle[:last], 300]))
        tide = reference.tide(table, table.days[last])
        assert tide == (1, 1, 1, 0, 250, higher_than, more_than_all)


def test_days_on_which_no_baseline_varies_are_passed_over():
    # Flat up to day 9; from the row after the first burst on, the baseline varies.
    table = reference.Table(market_of(A=[50] * 10 + [80] + [50] * 3))
    assert [reference.tide(table, day) for day in table.days[:11]] == [None] * 11
    assert reference.tide(table, table.days[13]).days == 2


def test_the_record_line_counts_those_who_can_have_one():
    # Up and down, and on the last day A is above all 20 before; N has 19 rows before.
    zigzag = [50 + day % 2 for day in range(20)]
    table = reference.Table(market_of(A=[*zigzag, 99], B=[*zigzag, 51], N=[None, *zigzag[1:], 99]))
    assert reference.record_line(table, table.days[20]) == (20, 2, 1, Fraction(2, 21))
    assert reference.record_line(table, table.days[19]) is None
    # A and N are above 19 before, B (51) is above 50 for one row, then a tie.
    assert reference.record_line(table, table.days[20], 19) == (19, 3, 2, Fraction(3, 20))


def test_the_record_line_is_of_sixty_where_a_ticker_has_sixty_rows():
    table = reference.Table(market_of(A=list(range(61)), N=[None] * 30 + list(range(31))))
    assert reference.record_line(table, table.days[59]) == (20, 2, 2, Fraction(2, 21))
    assert reference.record_line(table, table.days[60]) == (60, 1, 1, Fraction(1, 61))
    assert reference.record_line(table, table.days[60], 61) is None


# The aftermath


@pytest.mark.parametrize(
    ("trades", "edge"),
    # 100 + 20 * z: a z of 3.05, 5, 5.05, 10, 10.05, 30 and 30.05.
    [(161, 3), (200, 3), (201, 5), (300, 5), (301, 10), (700, 10), (701, 30)],
)
def test_an_upper_edge_belongs_to_its_class_of_z(trades, edge):
    assert reference.z_class(rows_of([*USUAL, trades])[5]) == edge


def test_an_upper_edge_belongs_to_its_class_at_window_ten():
    # Three times the trades: the mean is 66, the deviation 46, and 66 + 5 * 46 = 296.
    rows = rows_of([*(3 * trades for trades in TEN), 296], 10)
    assert (reference.z_score(rows[10]), reference.z_class(rows[10])) == (5.0, 3)


@pytest.mark.parametrize(
    ("before", "close", "move"),
    [
        (100, 101, "up"),  # price_diff is 1.0000000000000009
        (100, 100.99, "flat"),
        (100, 99.01, "flat"),
        (100, 98.99, "down"),
        (0, 0, "flat"),  # nan
        (0, 1, "up"),  # inf
    ],
)
def test_moves_are_told_by_price_diff(before, close, move):
    assert reference.move_of(rows_of([(9, 1, before), (9, 1, close)])[1]) == move


def class_of(classes, z_from, move, horizon):
    key = (z_from, move, horizon)
    (found,) = [c for c in classes if (c["z_from"], c["move"], c["horizon"]) == key]
    return found


def test_all_36_classes_are_listed_and_an_empty_one_has_no_figures():
    classes = reference.aftermath(market_of(A=[50] * 30))
    keys = [(c["z_from"], c["move"], c["horizon"]) for c in classes]
    assert keys == [
        (z, move, h)
        for z in reference.Z_EDGES
        for move in reference.MOVES
        for h in reference.HORIZONS
    ]
    assert len(keys) == 36
    for found in classes:
        assert list(found.values())[3:] == [0, None, None, None, 0]


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


def test_five_days_later_all_cases_are_ties():
    # All closes are 10 again: 13 ties, no spread at all.
    found = class_of(reference.aftermath(burst_market(NEXT_CLOSES)), 3, "flat", 5)
    assert (found["cases"], found["better"], found["two_se"]) == (13, 50, 0)
    assert found["median_excess"] == 0


def test_only_what_is_over_at_the_date_counts():
    # The last burst is on day 230; its 5th next day is 235, its 20th would be 250.
    market = burst_market(NEXT_CLOSES)
    days = list(market)
    cases = {
        day: [
            class_of(reference.aftermath(market, days[day]), 3, "flat", h)["cases"]
            for h in reference.HORIZONS
        ]
        for day in (230, 231, 234, 235, 239)
    }
    assert cases == {
        230: [12, 12, 12],
        231: [13, 12, 12],
        234: [13, 12, 12],
        235: [13, 13, 12],
        239: [13, 13, 12],
    }


def test_fewer_than_ten_blocks_carry_no_standard_error():
    # Blocks 0 to 8, then 0 to 9.
    market = burst_market(NEXT_CLOSES)
    days = list(market)
    nine = class_of(reference.aftermath(market, days[180]), 3, "flat", 1)
    ten = class_of(reference.aftermath(market, days[191]), 3, "flat", 1)
    assert (nine["cases"], nine["two_se"], ten["cases"]) == (10, None, 11)
    # 8 better, 3 worse of 11: x - mean is 3/11 or -8/11; block 0 -5, seven 3, two -8:
    # 25 + 63 + 128 = 216 (of 121), times 10/9 is 240/121.
    assert ten["two_se"] == pytest.approx(200 * math.sqrt(240 / 121) / 11, rel=1e-14)


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
    assert class_of(classes, 3, "flat", 1) == {
        "z_from": 3,
        "move": "flat",
        "horizon": 1,
        "cases": 1,
        "better": 50,
        "two_se": None,
        "median_excess": 0,
        "left_out": 2,
    }
    # ZERO fell by 100 %.
    assert class_of(classes, 3, "down", 1)["left_out"] == 1
    # Nothing is left out where the day after is not over.
    assert not any(found["left_out"] for found in classes if found["horizon"] > 1)


# Made-up markets


def test_a_made_up_market_is_the_same_for_the_same_seed():
    assert made_up_market(1, 60, 20) == made_up_market(1, 60, 20) != made_up_market(2, 60, 20)


def test_a_made_up_market_has_every_oddity():
    table = reference.Table(made_up_market(1, 300, 40))
    rows = [row for day in table.days for row in reference.anomalies(table, day)]
    found = {mark for row in rows for mark in reference.marks(table, row, (TEST_SYMBOL,))}
    assert found == {"split", "new", "thin", "stale", "test"}
    texts = {
        reference.after_text(table, row, horizon) for row in rows for horizon in reference.HORIZONS
    }
    assert {"gone", "-"} < texts
    assert any(text.endswith("*") for text in texts)
    assert {reference.split_after(table, row) for row in rows} == {None, 1, 5, 20}
    assert any(reference.after(table, row, 1) is None for row in rows)
    assert {(reference.z_class(row), reference.move_of(row)) for row in rows} == {
        (z, move) for z in reference.Z_EDGES for move in reference.MOVES
    }
    assert {reference.z_score(row) for row in rows} > {5.0, 10.0, 30.0}
    everything = [row for rows in table.tickers.values() for row in rows]
    assert any(reference.z_score(row) == 3 for row in everything)
    assert any(row.variance == 0 for row in everything)
    assert any(row.open_price is None for row in everything)
    assert any(row.open_price == 0 for row in everything)
    assert len(table.tickers) == 40
