"""The sample market: what it is made of, and what the scripts print of it."""

import math
import pickle
import shutil

import pytest
from helpers.flat_files import write_file
from helpers.lists import query_json
from helpers.markets import SAMPLE_DAY, SAMPLE_DAYS, SAMPLE_MARKET
from helpers.scripts import assert_refused, call, load_table, query, run
from tools import make_sample_market, verify_numbers

FIRST_DAY = "2024-08-01"
# What the tutorial prints.
PUBLISHED_ANSWER = """
Anomalies Found for 2024-10-18:

Ticker        Trades     Avg Trades   Std Dev   Z-score Close Price  Price Diff
-------------------------------------------------------------------------------------------
VTAK          460548        6291.40  12387.12     36.67        0.91      106.49
PEGY          387360       15769.40  10026.18     37.06        8.15       47.91
NFLX          378687      125174.00  66580.70      3.81      763.89       11.09
JDZG          348468       37128.60  48356.15      6.44        2.09       22.94
CVS           309745       89486.00  25237.53      8.73       60.34       -5.23
HEPS          215693        1988.60    684.85    312.04        3.51       59.55
EFSH          188632        2416.40   2782.17     66.93        5.26      198.76
SLB           162587       79685.60  16971.32      4.88       41.92       -4.71
IONQ          160601      103573.60  16778.08      3.40       13.30        6.40
BIVI          159263         660.80    156.14   1015.78        2.35      109.82
"""


@pytest.fixture(scope="module")
def table(sample_table):
    """{ticker: {date: stats}} of the sample market. Not to be changed."""
    return load_table(sample_table)


@pytest.fixture
def anomalies(sample_table):
    """A function: the anomalies of a day, {ticker: its json}."""

    def of_day(day):
        return {anomaly["ticker"]: anomaly for anomaly in query_json(sample_table, day)}

    return of_day


def test_the_script_that_makes_it_makes_the_very_files_that_are_here(tmp_path):
    make_sample_market.main(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in SAMPLE_MARKET.glob("*.csv")}


def test_it_starts_with_the_nine_rows_that_the_tutorial_prints():
    text = (SAMPLE_MARKET / f"{FIRST_DAY}.csv").read_bytes().decode()
    assert text.startswith(make_sample_market.PUBLISHED_ROWS)


def test_the_tutorials_ten_anomalies_are_printed_first(sample_table):
    assert query(sample_table, SAMPLE_DAY).stdout.startswith(PUBLISHED_ANSWER)


def test_it_has_150_tickers_on_56_days_in_less_than_one_megabyte(table):
    assert len(table) == 150 and len(SAMPLE_DAYS) == 56
    assert {"NA", "NAN", "TRUE", "BRK.B", "AAP", "AAp", "ZVZZT"} <= set(table)
    assert sum(path.stat().st_size for path in SAMPLE_MARKET.iterdir()) < 10**6


def test_it_has_listings_a_delisting_and_a_row_without_trades(table):
    first_days = {ticker: min(days) for ticker, days in table.items() if FIRST_DAY not in days}
    last_days = {ticker: max(days) for ticker, days in table.items() if SAMPLE_DAY not in days}
    assert first_days == {"AAp": "2024-08-02", "SARO": "2024-10-02"}
    assert last_days == {"SWN": "2024-09-30"}
    assert table["AACIU"]["2024-09-17"]["trades"] == 0


def test_a_day_after_a_flat_baseline_is_no_anomaly(table, anomalies):
    stats = table["NTEST"]["2024-09-12"]
    assert (stats["trades"], stats["avg_trades"], stats["std_trades"]) == (5000, 100, 0)
    assert "NTEST" not in anomalies("2024-09-12")


def test_a_reverse_split_follows_an_anomaly_within_five_days(table, anomalies):
    nkla = anomalies("2024-09-20")["NKLA"]
    assert nkla["split_after"] == 5
    # One for twenty on the fourth day after: from about 2.80 to about 53.
    close = table["NKLA"]["2024-09-27"]["close_price"]
    assert nkla["after_5"] == pytest.approx((close / nkla["close_price"] - 1) * 100)
    assert 18 < close / nkla["close_price"] < 20


def test_a_ticker_is_gone_after_an_anomaly(anomalies):
    gone, earlier = (anomalies(day)["SWN"] for day in ("2024-09-30", "2024-09-20"))
    assert [gone[f"after_{horizon}"] for horizon in (1, 5, 20)] == [None, None, None]
    # Twenty days after the earlier one it is gone, but its last close, 7.20, lies between.
    assert earlier["after_20"] == pytest.approx((7.20 / 6.86 - 1) * 100)


@pytest.mark.parametrize(
    ("ticker", "day", "marks"),
    [
        ("WFCpZ", "2024-09-04", "new thin"),
        ("AACIU", "2024-09-20", "stale"),
        ("ZVZZT", "2024-09-12", "split test"),
        ("LRCX", "2024-10-03", "split"),  # ten for one: 78.19 opened after a close of 781.28
        ("EFSH", SAMPLE_DAY, "split"),
        ("BIVI", SAMPLE_DAY, "split"),
        ("VTAK", SAMPLE_DAY, ""),
    ],
)
def test_some_anomalies_that_its_readme_lists_have_these_marks(anomalies, ticker, day, marks):
    assert anomalies(day)[ticker]["marks"].replace("?", "") == marks
    lines = (SAMPLE_MARKET / "README.md").read_text().splitlines()
    assert [line for line in lines if ticker in line and line.endswith(f"| {day} |")]


def test_it_has_the_most_anomalies_on_the_last_day(anomalies):
    numbers = [len(anomalies(day)) for day in SAMPLE_DAYS[5:]]
    assert max(numbers[:-1]) < numbers[-1] == 18


# verify_numbers.py, which users run on their own files


def test_every_number_of_it_is_that_of_exact_arithmetic():
    result = run("tests/tools/verify_numbers.py", SAMPLE_MARKET)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("8,180 rows of 150 tickers on 56 days: the largest relative ")


LISTS = {
    "tickers.csv": "ticker,name,type\nNKLA,Nikola,CS\nNKLA,Another,ETF\nNONE,Nobody,CS\n",
    "splits.csv": "ticker,execution_date,split_from,split_to\nNKLA,2024-09-26,20,1\n"
    "AAA,2024-09-21,1,1.5\nNKLA,2024-09-26,3,1\nNONE,2024-09-20,1,2\n",
}


def test_lists_of_tickers_and_splits_are_verified_as_well(tmp_path):
    shutil.copytree(SAMPLE_MARKET, tmp_path, dirs_exist_ok=True)
    for name, text in LISTS.items():
        write_file(tmp_path / "reference" / name, text)
    result = call(verify_numbers, tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "the largest relative error is" in result.stdout


def test_what_the_builder_refuses_cannot_be_verified(tmp_path):
    assert_refused(call(verify_numbers, tmp_path), tmp_path)


@pytest.fixture(scope="module")
def right(sample_table):
    """The parts of the sample market's table, pickled, and the facts that they agree with."""
    parts = verify_numbers.read_parts(sample_table.read_bytes())
    facts = verify_numbers.read_reference(SAMPLE_MARKET, 5)
    assert verify_numbers.compare(parts, facts) < 1e-15
    return pickle.dumps(parts), facts


def changed(value):
    """value, or the last thing in it, with a small change."""
    if isinstance(value, dict):
        *_, (key, last) = value.items()
        return {**value, key: changed(last)}
    if isinstance(value, tuple):
        return (*value[:-1], changed(value[-1]))
    if isinstance(value, list):
        return [*value, ("A", SAMPLE_DAY, "1", "2")]
    if isinstance(value, bytes):
        return value[:-1] + bytes([value[-1] ^ 1])
    if isinstance(value, int):
        return value + 1
    return value * (1 + 3e-12) if isinstance(value, float) else "other"


@pytest.mark.parametrize("part", verify_numbers.Parts._fields)
def test_a_fault_of_any_part_of_a_table_is_found(right, part):
    parts, facts = pickle.loads(right[0]), right[1]
    wrong = parts._replace(**{part: changed(getattr(parts, part))})
    with pytest.raises(verify_numbers.Difference):
        verify_numbers.compare(wrong, facts)


@pytest.mark.parametrize("field", verify_numbers.FIELDS)
def test_a_number_of_the_dict_that_is_off_is_found(right, field):
    parts, facts = pickle.loads(right[0]), right[1]
    stats = parts.table["AAPL"]["2024-09-20"]
    for wrong in (changed(stats[field]), math.nan, None):
        stats[field] = wrong
        with pytest.raises(verify_numbers.Difference, match="AAPL on 2024-09-20: "):
            verify_numbers.compare(parts, facts)


@pytest.mark.parametrize("column", ["record", "long_z"])
def test_a_number_of_a_day_page_that_is_off_is_found(right, column):
    parts, facts = pickle.loads(right[0]), right[1]
    page, i = parts.pages["2024-09-20"], list(verify_numbers.PAGE_COLUMNS).index(column)
    page["AAPL"] = *page["AAPL"][:i], page["AAPL"][i] + 1, *page["AAPL"][i + 1 :]
    with pytest.raises(verify_numbers.Difference, match=r"AAPL .*2024-09-20: "):
        verify_numbers.compare(parts, facts)


def test_a_byte_that_differs_from_its_checksum_is_found(sample_table):
    content = bytearray(sample_table.read_bytes())
    content[len(content) * 3 // 4] ^= 1  # of a day page
    with pytest.raises(verify_numbers.Difference, match="checksum"):
        verify_numbers.read_parts(bytes(content))
