"""The sample market: what it is made of, and what the scripts print of it."""

import copy
import math
import re
import struct
from datetime import date, timedelta
from fractions import Fraction

import pytest
from helpers.flat_files import read_flat_files
from helpers.markets import SAMPLE_DAY, SAMPLE_DAYS, SAMPLE_MARKET
from helpers.scripts import assert_refused, call, load_table, query, run
from helpers.tutorial import PUBLISHED_ANSWER, PUBLISHED_ROWS
from tools import make_sample_market, verify_numbers
from witnesses import reference

FIRST_DAY = "2024-08-01"


@pytest.fixture(scope="module")
def facts():
    """The sample market with its facts, by the reference."""
    return reference.Table(read_flat_files(SAMPLE_MARKET))


def test_the_script_that_makes_it_makes_the_very_files_that_are_here(tmp_path):
    assert make_sample_market.main(["--output", str(tmp_path / "made")]) == 0
    made = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    here = {path.name: path.read_bytes() for path in SAMPLE_MARKET.iterdir()}
    assert sorted(made) == sorted(here)
    assert [name for name in made if made[name] != here[name]] == []


def test_it_starts_with_the_nine_rows_that_the_tutorial_prints():
    text = (SAMPLE_MARKET / f"{FIRST_DAY}.csv").read_bytes().decode()
    assert text.startswith(PUBLISHED_ROWS)


def test_the_tutorials_ten_anomalies_are_printed_first(sample_table):
    assert query(sample_table, SAMPLE_DAY).stdout.startswith(PUBLISHED_ANSWER)


def test_its_days_are_the_56_trading_days_without_labor_day():
    first, last = date.fromisoformat(FIRST_DAY), date.fromisoformat(SAMPLE_DAY)
    days = [first + timedelta(n) for n in range((last - first).days + 1)]
    weekdays = [day.isoformat() for day in days if day.weekday() < 5]
    weekdays.remove("2024-09-02")  # Labor Day
    assert weekdays == SAMPLE_DAYS and len(weekdays) == 56


def test_it_is_under_one_megabyte():
    assert sum(path.stat().st_size for path in SAMPLE_MARKET.iterdir()) < 10**6


def test_its_readme_says_what_is_made_up_searched_for_and_copied():
    text = " ".join((SAMPLE_MARKET / "README.md").read_text().split())
    words = [
        "This market is made up.",
        "The first nine rows of 2024-08-01 are copied from it.",
        "the fifty numbers of trades of these ten tickers on the five days before",
        "were searched for",
    ]
    assert [each for each in words if each not in text] == []


def test_it_has_odd_names(facts):
    assert len(facts.tickers) == 150
    assert {"NA", "NAN", "TRUE", "BRK.B", "AAP", "AAp", "ZVZZT"} <= set(facts.tickers)


def test_it_has_a_listing_and_a_delisting(facts):
    first_days = {ticker: rows[0].date for ticker, rows in facts.tickers.items()}
    last_days = {ticker: rows[-1].date for ticker, rows in facts.tickers.items()}
    listed = {ticker: day for ticker, day in first_days.items() if day != FIRST_DAY}
    delisted = {ticker: day for ticker, day in last_days.items() if day != SAMPLE_DAY}
    assert (listed, delisted) == (
        {"AAp": "2024-08-02", "SARO": "2024-10-02"},
        {"SWN": "2024-09-30"},
    )


def test_it_has_tickers_with_days_without_a_row(facts):
    with_gaps = {
        ticker
        for ticker, rows in facts.tickers.items()
        if rows[-1].session - rows[0].session >= len(rows)
    }
    thinnest = {"AAp", "ABRpD", "BACpM", "JPMpC", "METpE", "SOpC", "WFCpZ"}
    assert with_gaps == {"AACG", "AACIU", *thinnest}


def test_it_has_one_row_without_trades(facts):
    rows = [row for rows in facts.tickers.values() for row in rows if row.trades == 0]
    assert [(row.ticker, row.date) for row in rows] == [("AACIU", "2024-09-17")]


def test_it_has_more_trades_after_a_deviation_of_0(facts):
    row = facts.rows["2024-09-12"]["NTEST"]
    assert (row.trades, row.avg_trades, row.variance) == (5000, 100, 0)


def anomaly(facts, ticker, day):
    (row,) = [row for row in reference.anomalies(facts, day) if row.ticker == ticker]
    return row


def numbers_after(facts, row):
    return [reference.after_text(facts, row, horizon) for horizon in reference.HORIZONS]


def test_an_anomaly_is_on_the_day_of_a_split(facts):
    row = anomaly(facts, "LRCX", "2024-10-03")
    assert reference.marks(facts, row) == ["split"]
    # Ten for one: both the open and the close are at a tenth of the close before.
    assert (row.previous_close, row.open_price, row.close_price) == (781.28, 78.19, 78.97)


def test_a_reverse_split_follows_an_anomaly_within_five_days(facts):
    row = anomaly(facts, "NKLA", "2024-09-20")
    assert reference.split_after(facts, row) == 5
    after_1, after_5, after_20 = numbers_after(facts, row)
    assert not after_1.endswith("*")
    assert after_5.endswith("*") and after_20.endswith("*")
    split = facts.rows["2024-09-26"]["NKLA"]
    assert reference.marks(facts, split) == ["split"]
    # One for twenty: both the open and the close are at twenty times the close before.
    assert (split.previous_close, split.open_price, split.close_price) == (2.8521, 53.5995, 55.0856)


def test_a_ticker_is_gone_after_an_anomaly(facts):
    assert numbers_after(facts, anomaly(facts, "SWN", "2024-09-30")) == ["gone", "gone", "-"]
    # Twenty days after this one it is gone, but its last close lies between: from 6.86 to 6.94,
    # 7.14 and 7.20.
    assert numbers_after(facts, anomaly(facts, "SWN", "2024-09-20")) == ["1.17", "4.08", "4.96"]


def test_all_but_four_anomalies_of_the_last_day_are_records_of_all_rows(facts):
    records = {
        row.ticker: reference.record_text(row) for row in reference.anomalies(facts, SAMPLE_DAY)
    }
    some = {"CVS": "11", "PYPL": "24", "TRUE": "15", "AAA": "24"}
    # SOpC and AAp do not trade every day.
    every = dict.fromkeys(records.keys() - some.keys(), "all 55")
    assert records == {**every, **some, "SOpC": "all 34", "AAp": "all 39"}


def test_other_days_have_long_records_too(facts):
    rows = [row for day in SAMPLE_DAYS[20:-1] for row in reference.anomalies(facts, day)]
    assert sum(row.record == row.earlier_rows for row in rows) > 20
    assert sum(20 <= row.record < row.earlier_rows for row in rows) > 5


@pytest.mark.parametrize(
    ("ticker", "day", "marks"),
    [
        ("WFCpZ", "2024-09-04", ["new", "thin"]),
        ("AACIU", "2024-09-20", ["stale"]),
        ("ZVZZT", "2024-09-12", ["split", "test"]),
        ("EFSH", SAMPLE_DAY, ["split"]),
        ("BIVI", SAMPLE_DAY, ["split"]),
        ("VTAK", SAMPLE_DAY, []),
    ],
)
def test_some_anomalies_that_its_readme_lists_have_these_marks(facts, ticker, day, marks):
    row = anomaly(facts, ticker, day)
    assert reference.marks(facts, row, test_symbols={"ZVZZT"}) == marks
    lines = (SAMPLE_MARKET / "README.md").read_text().splitlines()
    assert [line for line in lines if ticker in line and line.endswith(f"| {day} |")]


def test_the_last_day_is_the_wildest_of_all(facts):
    tide = reference.tide(facts, SAMPLE_DAY)
    assert (tide.anomalies, tide.tickers, tide.days, tide.more_than_all) == (18, 148, 50, True)
    # Of the 50 days before, two have the middle shares: 4 anomalies of 145 tickers, and 4 of 144.
    assert tide.share == Fraction(18, 148)
    assert tide.usual == (Fraction(4, 145) + Fraction(4, 144)) / 2
    line = reference.record_line(facts, SAMPLE_DAY)
    assert (line.least, line.tickers, line.records) == (20, 148, 23)
    assert line.by_chance == Fraction(148, 21)


def test_it_has_anomalies_on_most_days(facts):
    with_anomalies = [day for day in SAMPLE_DAYS if reference.anomalies(facts, day)]
    assert len(with_anomalies) > 56 / 2


# verify_numbers.py, which users run on their own files


def test_every_number_of_it_is_within_1e_12_of_the_exact_one(facts):
    result = run("tests/tools/verify_numbers.py", SAMPLE_MARKET)
    assert (result.returncode, result.stderr) == (0, "")
    rows = sum(map(len, facts.tickers.values()))
    line = f"{rows:,} rows of 150 tickers on 56 days: the largest relative error is (.*)\n"
    error = re.fullmatch(line, result.stdout)[1]
    assert 0 < float(error) < 1e-12


def test_numbers_of_another_window_are_within_1e_12_too():
    assert call(verify_numbers, SAMPLE_MARKET, "--window", 2).returncode == 0


def test_what_the_builder_refuses_cannot_be_verified(tmp_path):
    result = call(verify_numbers, tmp_path)
    assert_refused(result, f"no *.csv or *.csv.gz in {tmp_path}: ")
    assert result.stdout == ""


@pytest.fixture(scope="module")
def history():
    market = verify_numbers.read_market(verify_numbers.flat_files(SAMPLE_MARKET))
    return reference.Table(market)


def off_by(number):
    return lambda value: value + number


def next_float(number):
    """The float next to number that is further from 0."""
    bits = int.from_bytes(struct.pack(">d", number), "big") + 1
    return struct.unpack(">d", bits.to_bytes(8, "big"))[0]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("trades", off_by(1)),
        ("close_price", next_float),
        ("price_diff", next_float),
        ("avg_trades", lambda value: value * (1 - 3e-12)),
        ("std_trades", lambda value: value * (1 + 3e-12)),
        ("price_diff", lambda value: math.nan),
        ("avg_trades", lambda value: None),
        ("std_trades", lambda value: -value),
    ],
)
def test_a_number_of_the_dict_that_is_off_is_found(sample_table, history, field, change):
    table = load_table(sample_table)
    assert verify_numbers.largest_error(history, table) < 1e-15

    stats = table["AAPL"]["2024-09-20"]
    stats[field] = change(stats[field])
    with pytest.raises(verify_numbers.Difference, match=f"AAPL on 2024-09-20: {field}"):
        verify_numbers.largest_error(history, table)


@pytest.fixture(scope="module")
def right_parts(sample_table, history):
    """The parts of the sample market's table, which are right."""
    parts = verify_numbers.read_parts(sample_table.read_bytes())
    verify_numbers.compare_parts(parts, load_table(sample_table), history)
    return parts


@pytest.fixture
def parts(right_parts):
    """A copy of right_parts, to be changed."""
    return copy.deepcopy(right_parts)


@pytest.mark.parametrize("field", verify_numbers.PAGE_COLUMNS)
def test_a_number_of_a_day_page_that_is_off_is_found(sample_table, history, parts, field):
    page = parts.pages["2024-09-20"]
    row = dict(zip(verify_numbers.PAGE_COLUMNS, page["NA"]))
    change = off_by(1) if isinstance(row[field], int) else next_float
    page["NA"] = tuple({**row, field: change(row[field])}.values())
    with pytest.raises(
        verify_numbers.Difference, match=f"^NA in the day page of 2024-09-20: {field} is [^,]*, not"
    ):
        verify_numbers.compare_parts(parts, load_table(sample_table), history)


def test_a_day_page_in_another_order_is_found(sample_table, history, parts):
    page = parts.pages[SAMPLE_DAY]
    parts.pages[SAMPLE_DAY] = dict(reversed(page.items()))
    with pytest.raises(verify_numbers.Difference, match=f"the day page of {SAMPLE_DAY}"):
        verify_numbers.compare_parts(parts, load_table(sample_table), history)


@pytest.mark.parametrize("number", [0, 1, 2], ids=["rows", "with_deviation", "anomalies"])
def test_a_count_of_the_index_that_is_off_is_found(sample_table, history, parts, number):
    counts = list(parts.counts[SAMPLE_DAY])
    counts[number] -= 1
    parts.counts[SAMPLE_DAY] = tuple(counts)
    with pytest.raises(verify_numbers.Difference, match=f"{SAMPLE_DAY}: the index counts "):
        verify_numbers.compare_parts(parts, load_table(sample_table), history)


def test_a_pickled_row_of_a_ticker_that_is_off_is_found(sample_table, history, parts):
    pickled = parts.pickled_rows["NKLA"]
    parts.pickled_rows["NKLA"] = pickled[:-2] + bytes([pickled[-2] ^ 1]) + pickled[-1:]
    with pytest.raises(verify_numbers.Difference, match="the pickled rows of NKLA"):
        verify_numbers.compare_parts(parts, load_table(sample_table), history)


def test_a_gap_of_a_ticker_that_is_off_is_found(sample_table, history, parts):
    *gaps, last = parts.gaps["NKLA"]
    parts.gaps["NKLA"] = (*gaps, next_float(last))
    with pytest.raises(verify_numbers.Difference, match="the gaps of NKLA"):
        verify_numbers.compare_parts(parts, load_table(sample_table), history)


def test_a_byte_that_differs_from_its_checksum_is_found(sample_table):
    content = sample_table.read_bytes()
    trades = content.index(b"}(h\x00J") + 5
    content = content[:trades] + bytes([content[trades] ^ 1]) + content[trades + 1 :]
    with pytest.raises(verify_numbers.Difference, match="the checksum of the pickled rows of A is"):
        verify_numbers.read_parts(content)
