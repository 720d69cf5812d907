"""The sample market: what it is made of, and what the scripts print of it."""

import csv
import math
import pickle

import make_sample_market
import pytest
import verify_numbers
from conftest import SAMPLE_MARKET, query, run

DAY, LAST_DAY = "2024-08-01", "2024-10-18"

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


def rows_of(day):
    with open(SAMPLE_MARKET / f"{day}.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def days():
    return sorted(path.stem for path in SAMPLE_MARKET.glob("*.csv"))


@pytest.fixture(scope="module")
def trades(days):
    """{ticker: {day: trades}} of the whole sample market."""
    trades = {}
    for day in days:
        for row in rows_of(day):
            trades.setdefault(row["ticker"], {})[day] = int(row["transactions"])
    return trades


def test_the_script_that_makes_it_makes_the_very_files_that_are_here(tmp_path):
    assert make_sample_market.main(["--output", str(tmp_path / "made")]) == 0
    made = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    here = {path.name: path.read_bytes() for path in SAMPLE_MARKET.iterdir()}
    assert sorted(made) == sorted(here)
    assert [name for name in made if made[name] != here[name]] == []


def test_it_starts_with_the_nine_rows_as_published():
    text = (SAMPLE_MARKET / f"{DAY}.csv").read_bytes().decode()
    assert text.startswith(PUBLISHED_ROWS)


def test_the_scripts_print_the_published_anomalies_first(tmp_path):
    built = run("build-lookup-table.py", "--data-dir", SAMPLE_MARKET, cwd=tmp_path)
    assert (built.returncode, built.stdout.count("Processing")) == (0, 56)
    answer = run("query-lookup-table.py", LAST_DAY, cwd=tmp_path)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith(PUBLISHED_ANSWER)


def test_its_days_are_the_56_trading_days_without_labor_day(days):
    assert (len(days), days[0], days[-1]) == (56, DAY, LAST_DAY)
    assert "2024-09-02" not in days


def test_it_is_under_one_megabyte():
    assert sum(path.stat().st_size for path in SAMPLE_MARKET.iterdir()) < 10**6


def test_its_readme_says_that_it_is_made_up():
    assert "made up" in (SAMPLE_MARKET / "README.md").read_text()


def test_it_has_what_markets_have(days, trades):
    assert 130 <= len(trades) <= 170
    assert {"NA", "TRUE", "BRK.B", "AAP", "AAp", "ZVZZT"} <= set(trades)
    first_days = [min(of_days) for of_days in trades.values()]
    last_days = [max(of_days) for of_days in trades.values()]
    assert any(DAY < day < LAST_DAY for day in first_days), "a listing"
    assert any(DAY < day < LAST_DAY for day in last_days), "a delisting"
    assert any(0 in of_days.values() for of_days in trades.values()), "a row without trades"
    assert any(
        len(of_days) < sum(min(of_days) <= day <= max(of_days) for day in days)
        for of_days in trades.values()
    ), "a thin ticker with gaps"
    assert any(
        len(set(earlier)) == 1 and spike > earlier[0]
        for of_days in trades.values()
        for *earlier, spike in zip(*(list(of_days.values())[k:] for k in range(6)))
    ), "more trades after a deviation of 0"


def test_it_has_a_split(days):
    closes = [{row["ticker"]: float(row["close"]) for row in rows_of(day)} for day in days]
    falls = [
        earlier[ticker] / later[ticker]
        for earlier, later in zip(closes, closes[1:])
        for ticker in earlier.keys() & later.keys() - {"ZVZZT"}
    ]
    assert 8 < max(falls) < 12


def test_it_has_anomalies_on_many_days(days, sample_table):
    lines = [query(sample_table, day).stdout.count("\n") for day in days]
    assert sum(count > PUBLISHED_ANSWER.count("\n") - 10 for count in lines) > 30


# verify_numbers.py, which users run on their own files


def test_every_number_of_it_is_exact():
    result = run("tests/verify_numbers.py", SAMPLE_MARKET)
    assert (result.returncode, result.stderr) == (0, "")
    rows = sum(len(rows_of(path.stem)) for path in SAMPLE_MARKET.glob("*.csv"))
    assert result.stdout.startswith(f"{rows:,} rows of 150 tickers on 56 days: the largest ")


def test_numbers_of_another_window_are_exact_too():
    assert run("tests/verify_numbers.py", SAMPLE_MARKET, "--window", 2).returncode == 0


def test_what_the_builder_refuses_cannot_be_verified(tmp_path):
    result = run("tests/verify_numbers.py", tmp_path)
    assert result.returncode == 1 and str(tmp_path) in result.stderr


def off_by(number):
    return lambda value: value + number


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("trades", off_by(1)),
        ("close_price", off_by(1e-12)),
        ("price_diff", lambda value: value * (1 + 3e-12)),
        ("avg_trades", lambda value: value * (1 - 3e-12)),
        ("std_trades", lambda value: value * (1 + 3e-12)),
        ("price_diff", lambda value: math.nan),
        ("avg_trades", lambda value: None),
        ("std_trades", lambda value: -value),
    ],
)
def test_a_number_that_is_off_is_found(sample_table, field, change):
    table = pickle.loads(sample_table.read_bytes())
    history = verify_numbers.read_history(verify_numbers.flat_files(SAMPLE_MARKET))
    assert verify_numbers.largest_error(history, table, window=5) < 1e-15

    stats = table["AAPL"]["2024-09-20"]
    stats[field] = change(stats[field])
    with pytest.raises(verify_numbers.Difference, match=f"AAPL on 2024-09-20: {field}"):
        verify_numbers.largest_error(history, table, window=5)


@pytest.mark.parametrize("ticker", ["NA", "ZVZZT"])
def test_a_day_page_or_a_piece_that_is_not_the_tables_is_found(sample_table, ticker):
    content = sample_table.read_bytes()
    table = pickle.loads(content)
    verify_numbers.compare_parts(content, table)

    table[ticker][LAST_DAY]["close_price"] += 1
    with pytest.raises(verify_numbers.Difference, match=f"the day page of {LAST_DAY}"):
        verify_numbers.compare_parts(content, table)
    table[ticker] = dict(reversed(table[ticker].items()))
    table[ticker][LAST_DAY]["close_price"] -= 1
    with pytest.raises(verify_numbers.Difference, match=f"the piece of {ticker}"):
        verify_numbers.compare_parts(content, table)
