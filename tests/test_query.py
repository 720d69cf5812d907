"""The querier: what it prints, what it reads of a table, and what it makes of bad ones."""

import copyreg
import csv
import io
import math
import os
import pickle
import shlex
import signal
import struct
import subprocess
import sys
import time
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.flat_files import write_file, write_flat_files
from helpers.markets import DAYS, LAST_DAY, MARKET, USUAL, rows_by_day
from helpers.scripts import (
    ANOMALY_FIELDS,
    assert_refused,
    build,
    call,
    command,
    load_table,
    querier,
    query,
    run,
    run_measured,
    strict_json,
    wait_until,
)
from helpers.terminal import run_on_terminal
from tools.verify_numbers import EXTENT, FOOTER, INDEX_DAY, INDEX_HEADER, MAGIC
from witnesses.row_by_row import row_by_row_table

pytestmark = pytest.mark.usefixtures("empty_folder")

HEADINGS = f"""
Anomalies Found for {LAST_DAY}:

Ticker        Trades     Avg Trades   Std Dev   Z-score Close Price  Price Diff
{"-" * 91}
"""
# Worked out by hand from MARKET in helpers/markets.py, where the five rows before have mean 100 and
# deviation 20 (NA's 10 and 2): ZZZ's z is (200 - 100) / 20, its change from 10 to 12.5 a quarter.
# ZERO's change, from 0 to 0, is not defined.
ANSWER = f"""{HEADINGS}\
ZZZ              200         100.00     20.00      5.00       12.50       25.00
AAp              200         100.00     20.00      5.00        5.00       25.00
ZERO             170         100.00     20.00      3.50        0.00         nan
TRUE             161         100.00     20.00      3.05       50.00        0.00
NA                30          10.00      2.00     10.00        1.00      -50.00
"""


def footer(offset, length, magic=MAGIC):
    """A footer whose index lies there, with a checksum of 0."""
    return FOOTER.pack(EXTENT.pack(offset, length, 0), magic)


def index_extent(table):
    """The offset and the length of the index of a table's bytes."""
    extent, _ = FOOTER.unpack(table[-FOOTER.size :])
    return EXTENT.unpack(extent)[:2]


def tickers(result):
    """The tickers that are listed, in their order."""
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(HEADINGS)
    return [line.split()[0] for line in result.stdout[len(HEADINGS) :].splitlines()]


def assert_damaged(result, *parts):
    """Nothing was printed but one line that says which command makes a good table."""
    assert_refused(result, "run build-lookup-table.py", *parts)
    assert result.stdout == ""


# What it prints


def test_the_answer_is_printed_byte_for_byte(market_table):
    result = run("query-lookup-table.py", LAST_DAY, "--table", market_table, encoding=None)
    assert result.returncode == 0
    assert result.stdout.replace(os.linesep.encode(), b"\n") == ANSWER.encode()
    assert result.stderr == b""


def test_the_table_is_by_default_the_one_in_the_current_folder(market_table):
    os.symlink(market_table, "lookup_table.pkl")
    assert call(querier, LAST_DAY).stdout == ANSWER


def test_the_largest_numbers_stay_in_their_columns():
    trades = {"SPY": [10**6] * 4 + [10**6 + 5000, 2**31 - 1]}
    closes = [1000] * 5 + [1234.5]
    write_flat_files(Path("flat"), rows_by_day({t: (n, closes) for t, n in trades.items()}))
    build("flat", "lookup_table.pkl")
    line = query("lookup_table.pkl").stdout.splitlines()[-1]
    # Mean 1,001,000; differences -1000 four times and 4000: 20,000,000 / 4 is 5,000,000.
    deviation = math.sqrt(5_000_000)
    z_score = (2147483647 - 1001000) / deviation
    assert line == (
        "SPY       " + "2147483647" + "     1001000.00" + f"   {deviation:.2f}"
        f" {z_score:9.2f}" + "     1234.50" + "       23.45"
    )


def test_a_day_without_anomalies_gives_the_headings_and_status_0(market_table):
    result = query(market_table, "2024-08-01")
    assert result.returncode == 0
    assert result.stdout == HEADINGS.replace(LAST_DAY, "2024-08-01")


def test_z_of_exactly_three_is_not_an_anomaly_and_just_above_is(market_table):
    # AAP has (160 - 100) / 20 and TRUE (161 - 100) / 20.
    listed = tickers(query(market_table))
    assert "AAP" not in listed and "TRUE" in listed


def test_a_deviation_of_zero_is_never_an_anomaly(market_table):
    assert "FLAT" not in tickers(query(market_table, LAST_DAY, "--threshold", -1000))


def test_without_a_baseline_there_is_no_anomaly(market_table):
    assert "NEW" not in tickers(query(market_table, LAST_DAY, "--threshold", -1000))


def test_equal_trades_stay_in_the_tables_order():
    names = ["M", "Z", "A", "b", "B"]
    market = {ticker: ([*USUAL, 500], [1] * 6) for ticker in names}
    build(write_flat_files(Path("flat"), rows_by_day(market)), "lookup_table.pkl")
    assert tickers(query("lookup_table.pkl")) == names


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--threshold 2.9", "ZZZ AAp ZERO TRUE AAP NA"),
        ("--threshold 3.05", "ZZZ AAp ZERO NA"),
        ("--threshold -4", "ZZZ AAp ZERO TRUE AAP NA"),
        ("--threshold -4.5", "ZZZ AAp ZERO TRUE AAP NA BRK.B"),
        ("--threshold 1e9", ""),
        ("--min-trades 161", "ZZZ AAp ZERO TRUE"),
        ("--min-trades 162", "ZZZ AAp ZERO"),
        ("--min-price 5", "ZZZ AAp TRUE"),
        ("--min-price 5.01", "ZZZ TRUE"),
        ("--sort trades", "ZZZ AAp ZERO TRUE NA"),
        ("--sort z_score", "NA ZZZ AAp ZERO TRUE"),
        ("--sort price_diff", "ZZZ AAp TRUE NA ZERO"),
        ("--sort close_price", "TRUE ZZZ AAp NA ZERO"),
        ("--sort avg_trades", "ZZZ AAp ZERO TRUE NA"),
        ("--sort ticker", "AAp NA TRUE ZERO ZZZ"),
        ("--limit 2", "ZZZ AAp"),
        ("--limit 0", ""),
        ("--limit 100", "ZZZ AAp ZERO TRUE NA"),
        ("--sort z_score --limit 1 --min-trades 31", "ZZZ"),
    ],
)
def test_options_choose_and_sort(market_table, options, expected):
    assert tickers(query(market_table, LAST_DAY, *options.split())) == expected.split()


def test_csv_has_the_fields_by_name_and_full_precision(market_table):
    assert query(market_table, LAST_DAY, "--format", "csv").stdout == (
        "ticker,date,trades,avg_trades,std_trades,z_score,close_price,price_diff,"
        "record,earlier_rows,baseline_days,gap,after_1,after_5,after_20,split_after,marks\n"
        "ZZZ,2024-08-08,200,100.0,20.0,5.0,12.5,25.0,5,5,5,25.0,,,,,\n"
        "AAp,2024-08-08,200,100.0,20.0,5.0,5.0,25.0,5,5,5,25.0,,,,,\n"
        "ZERO,2024-08-08,170,100.0,20.0,3.5,0.0,nan,5,5,5,,,,,,\n"
        "TRUE,2024-08-08,161,100.0,20.0,3.05,50.0,0.0,5,5,5,0.0,,,,,\n"
        "NA,2024-08-08,30,10.0,2.0,10.0,1.0,-50.0,5,5,5,-50.0,,,,,split? thin\n"
    )


def test_json_has_the_fields_by_name_and_null_for_nan(market_table):
    rows = strict_json(query(market_table, LAST_DAY, "--format", "json").stdout)
    assert [list(row) for row in rows] == [ANOMALY_FIELDS] * 5
    assert rows[2] == {
        "ticker": "ZERO",
        "date": "2024-08-08",
        "trades": 170,
        "avg_trades": 100,
        "std_trades": 20,
        "z_score": 3.5,
        "close_price": 0,
        "price_diff": None,
        "record": 5,
        "earlier_rows": 5,
        "baseline_days": 5,
        "gap": None,
        "after_1": None,
        "after_5": None,
        "after_20": None,
        "split_after": None,
        "marks": "",
    }


@pytest.mark.parametrize(
    ("form", "nothing"),
    [("csv", ",".join(ANOMALY_FIELDS) + "\n"), ("json", "[]\n")],
)
def test_no_anomalies_are_an_empty_list_in_csv_and_json(market_table, form, nothing):
    assert query(market_table, DAYS[0], "--format", form).stdout == nothing


@pytest.mark.parametrize("form", ["csv", "json"])
def test_csv_and_json_have_exactly_the_tables_numbers(sample_table, form):
    table = load_table(sample_table)
    result = query(sample_table, "2024-10-18", "--threshold", -1000, "--format", form)
    if form == "json":
        rows = strict_json(result.stdout)
    else:
        rows = list(csv.DictReader(io.StringIO(result.stdout)))

    assert len(rows) == 148  # of 149 tickers, one has a deviation of 0
    for row in rows:
        stats = table[row["ticker"]][row["date"]]
        for field in ("trades", "close_price", "price_diff", "avg_trades", "std_trades"):
            assert float(row[field]) == stats[field]
        assert (
            float(row["z_score"]) == (stats["trades"] - stats["avg_trades"]) / stats["std_trades"]
        )


@pytest.mark.parametrize(("previous", "close"), [(0, 5), (0, 0)], ids=["inf", "nan"])
def test_a_change_from_zero_is_told_in_every_format(previous, close):
    market = {"A": ([*USUAL, 500], [previous] * 5 + [close])}
    build(write_flat_files(Path("flat"), rows_by_day(market)), "lookup_table.pkl")
    change = "inf" if close else "nan"
    assert query("lookup_table.pkl").stdout.endswith(f"{change:>12}\n")
    csv_line = query("lookup_table.pkl", LAST_DAY, "--format", "csv").stdout.splitlines()[1]
    assert csv_line.split(",")[7] == change
    (row,) = strict_json(query("lookup_table.pkl", LAST_DAY, "--format", "json").stdout)
    assert row["price_diff"] is None


# Usage


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        *([date] for date in ("2024-13-01", "2024-02-30", "0000-01-01", "20241018", "2024-10-18x")),
        *([date] for date in ("today", "", "2024-8-1", " 2024-10-18", "2024-10-18\n")),
        ["2024-10-1\N{ARABIC-INDIC DIGIT EIGHT}"],
        *([LAST_DAY, "--threshold", text] for text in ("high", "nan", "inf", "", "-", "-x", "1_0")),
        *([LAST_DAY, "--min-trades", text] for text in ("-1", "1.5", "many")),
        *([LAST_DAY, "--min-record", text] for text in ("-1", "1.5", "all")),
        *([LAST_DAY, "--min-price", text] for text in ("cheap", "nan")),
        *([LAST_DAY, "--limit", text] for text in ("-1", "1.5", "all")),
        *([LAST_DAY, "--skip", text] for text in ("old", "", "new,", "New", "new thin")),
        [LAST_DAY, "--sort", "volume"],
        [LAST_DAY, "--sort", "marks"],
        [LAST_DAY, "--format", "xml"],
        [LAST_DAY, "--weekly"],
        [LAST_DAY, "--ticker"],
        [LAST_DAY, DAYS[0]],
        [DAYS[0], DAYS[1], LAST_DAY],
        ["--ticker", "ZZZ", LAST_DAY, DAYS[0]],
        ["--ticker", "ZZZ", DAYS[0], DAYS[1], LAST_DAY],
        ["--limit", "5"],
        ["--aftermath", DAYS[0], LAST_DAY],
        ["--aftermath", "--ticker", "ZZZ"],
        *(["--aftermath", "--threshold", text] for text in ("3", "4")),
        *(["--aftermath", "--min-trades", text] for text in ("0", "5")),
        *(["--aftermath", "--min-price", text] for text in ("0", "-1e3")),
        ["--aftermath", "--min-record", "0"],
        ["--aftermath", "--skip", "new"],
        ["--aftermath", "--sort", "trades"],
        ["--aftermath", "--limit", "0"],
        ["--aftermath", "--format", "wide"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_status_2_and_prints_nothing_on_stdout(market_table, arguments):
    os.symlink(market_table, "lookup_table.pkl")
    result = call(querier, *arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert ": error: " in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([LAST_DAY, DAYS[0]], "2024-08-08 is after 2024-08-01"),
        ([], "give a DATE (YYYY-MM-DD) or two, --ticker T, or --aftermath"),
        (["--aftermath", "--limit", "5"], "--aftermath takes no --limit"),
        ([LAST_DAY, "--skip", "new,old"], "'old' is none of split, new, thin, stale, test"),
        (["2024-02-30"], "'2024-02-30' is not a date, write YYYY-MM-DD"),
    ],
    ids=str,
)
def test_the_message_on_wrong_usage_names_the_reason(arguments, reason):
    assert call(querier, *arguments).stderr.endswith(f"{reason}\n")


@pytest.mark.parametrize("threshold", ["-5", "-1e9", "-.5e1", "-4.5"])
@pytest.mark.parametrize("form", ["--threshold {}", "--threshold={}"])
def test_a_negative_threshold_is_a_number(market_table, threshold, form):
    # BRK.B has (20 - 100) / 20, which is -4.
    listed = tickers(query(market_table, LAST_DAY, *form.format(threshold).split()))
    assert listed == ["ZZZ", "AAp", "ZERO", "TRUE", "AAP", "NA", "BRK.B"]


# Dates that the table does not have


@pytest.mark.parametrize(
    ("date", "nearest"),
    [
        ("2024-08-03", "2024-08-02"),
        ("2024-08-04", "2024-08-05"),
        ("2023-12-31", "2024-08-01"),
        ("2024-08-09", "2024-08-08"),
        ("9999-12-31", "2024-08-08"),
        ("0001-01-01", "2024-08-01"),
    ],
)
def test_for_an_unknown_date_the_range_and_the_nearest_day_are_named(market_table, date, nearest):
    result = query(market_table, date)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"no data for {date}: the table covers 2024-08-01 to 2024-08-08; "
        f"nearest trading day {nearest}\n"
    )


def test_of_two_nearest_days_the_earlier_is_named():
    write_flat_files(Path("flat"), {day: [("A", 1, 1)] for day in ("2024-08-07", "2024-08-09")})
    build("flat", "lookup_table.pkl")
    assert_refused(query("lookup_table.pkl", "2024-08-08"), "nearest trading day 2024-08-07\n")


# Two dates, and a ticker


def test_two_dates_list_every_day_of_the_table_between_them(market_table):
    result = call(querier, "2024-08-03", "2024-12-31", "--table", market_table)
    headings = [HEADINGS.replace(LAST_DAY, day) for day in DAYS[2:5]]
    assert result.stdout == "".join(headings) + ANSWER
    assert call(querier, LAST_DAY, LAST_DAY, "--table", market_table).stdout == ANSWER


@pytest.mark.parametrize(
    ("first", "last"), [("2024-08-03", "2024-08-04"), ("2023-01-01", "2023-12-31")]
)
def test_two_dates_without_a_day_between_them_are_refused(market_table, first, last):
    for options in ([], ["--ticker", "ZZZ"], ["--format", "json"]):
        result = call(querier, first, last, "--table", market_table, *options)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == (
            f"no data from {first} to {last}: the table covers 2024-08-01 to 2024-08-08\n"
        )


def test_a_tickers_list_has_dates_in_the_column_of_the_tickers(market_table):
    expected = ANSWER.replace("Ticker", "Date  ").replace(f"for {LAST_DAY}", "for ZZZ")
    expected = expected[: expected.index("AAp ")].replace("ZZZ       ", LAST_DAY)
    for dates in ([], [LAST_DAY], [DAYS[0], LAST_DAY]):
        found = call(querier, *dates, "--ticker", "ZZZ", "--table", market_table)
        assert found.stdout == expected


@pytest.mark.parametrize("ticker", ["BRK.B", "FLAT", "NEW", "GONE"])
@pytest.mark.parametrize("dates", [[], [DAYS[0]], [DAYS[1], DAYS[3]]])
def test_a_ticker_without_anomalies_gives_the_headings_and_status_0(market_table, ticker, dates):
    result = call(querier, *dates, "--ticker", ticker, "--table", market_table)
    expected = HEADINGS.replace("Ticker", "Date  ").replace(f"for {LAST_DAY}", f"for {ticker}")
    assert (result.returncode, result.stdout, result.stderr) == (0, expected, "")


@pytest.mark.parametrize(
    ("ticker", "hint"),
    [
        ("zzz", "; it has ZZZ"),
        ("aap", "; it has AAP, AAp"),
        ("brk.b", "; it has BRK.B"),
        ("MSFT", ""),
        ("ZZ", ""),
        ("", ""),
    ],
)
def test_for_an_unknown_ticker_those_in_another_case_are_named(market_table, ticker, hint):
    write_file(Path("plain.pkl"), pickle.dumps(load_table(market_table)))
    for path in (market_table, "plain.pkl"):
        for dates in ([], [LAST_DAY]):
            result = call(querier, *dates, "--ticker", ticker, "--table", path)
            assert (result.returncode, result.stdout) == (1, "")
            assert result.stderr == f"{path} has no ticker {ticker}{hint}\n"


def test_with_a_ticker_an_unknown_date_gives_the_same_message(market_table):
    result = query(market_table, "2024-08-03", "--ticker", "ZZZ")
    assert result.stderr == query(market_table, "2024-08-03").stderr != ""


def test_on_a_terminal_the_aftermath_shows_its_progress(market_table):
    result = run_on_terminal(
        command("query-lookup-table.py", "--aftermath", "--table", market_table)
    )
    assert result.returncode == 0
    assert "Reading: 100%" in result.stderr
    assert result.stdout.splitlines()[1].startswith("What followed the anomalies")


def test_without_a_terminal_the_aftermath_shows_no_progress(market_table):
    result = run("query-lookup-table.py", "--aftermath", "--table", market_table)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[1] == (
        "What followed the anomalies from 2024-08-01 to 2024-08-08:"
    )


# Tables that do not exist, and files that are no tables


def test_without_a_table_the_command_that_makes_one_is_named():
    result = run("query-lookup-table.py", LAST_DAY)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "lookup_table.pkl not found: run build-lookup-table.py first\n"


def test_a_folder_a_pipe_and_a_device_are_refused_at_once():
    os.mkdir("folder")
    os.mkfifo("pipe")
    for path in ("folder", "pipe", "/dev/zero"):
        result = run("query-lookup-table.py", LAST_DAY, "--table", path)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == f"{path} is no regular file: run build-lookup-table.py first\n"


def test_a_closed_pipe_is_no_table():
    reading, writing = os.pipe()
    os.close(writing)
    result = run("query-lookup-table.py", LAST_DAY, "--table", "/dev/stdin", stdin=reading)
    os.close(reading)
    assert_refused(result, "/dev/stdin is no regular file: run build-lookup-table.py first\n")


def one_row(**changes):
    """A plain table of one row, A on the last day, with an anomaly or with changes."""
    stats = {"trades": 200, "close_price": 5.0, "price_diff": 25.0}
    return {"A": {LAST_DAY: {**stats, "avg_trades": 100.0, "std_trades": 20.0, **changes}}}


def without(field):
    table = one_row()
    del table["A"][LAST_DAY][field]
    return table


NO_TABLE = {
    "empty": b"",
    "text": b"ticker,volume\nA,1\n",
    "one letter": b"N",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "a zip": b"PK\3\4" + bytes(100),
    "zeros": bytes(1000),
    "a footer alone": footer(0, 0),
    "a footer that points beyond": footer(2**64 - 1, 2**64 - 1),
    "a footer of version 1": footer(0, 0, magic=b"lookup-table"),
    "the magic alone": b"lookup-tab-2",
    "the signature alone": b"\x80\x03X\x0c\x00\x00\x00lookup table0",
    "a table with something after it": pickle.dumps(one_row()) + b"\n",
    "two tables": pickle.dumps(one_row()) * 2,
    **{
        f"the pickle of {what}": pickle.dumps(value)
        for what, value in {
            "None": None,
            "a number": 5,
            "a list": [one_row()],
            "a text": "lookup table",
            "bytes": b"lookup table",
            "a set": {1, 2},
            "an empty dict": {},
            "a ticker without days": {"A": {}},
            "days that are a list": {"A": [LAST_DAY]},
            "days that are a number": {"A": 1},
            "days that are a text": {"A": LAST_DAY},
            "stats that are None": {"A": {LAST_DAY: None}},
            "stats that are a list": {"A": {LAST_DAY: [200, 5.0, 25.0, 100.0, 20.0]}},
            "dates that are numbers": {"A": {20240808: one_row()["A"][LAST_DAY]}},
            "dates of two kinds": {"A": {LAST_DAY: {}, 1: {}}},
            "a date that is a tuple": {"A": {(LAST_DAY,): one_row()["A"][LAST_DAY]}},
            "a ticker that is bytes": {b"A": one_row()["A"]},
            "a ticker that is a number": {1: one_row()["A"]},
            "a ticker that is None": {None: one_row()["A"]},
            **{f"stats without {field}": without(field) for field in ("trades", "std_trades")},
            **{f"{field} that is a text": one_row(**{field: "5"}) for field in ANOMALY_FIELDS[2:5]},
            "trades that are a list": one_row(trades=[200]),
            "trades that are nan": one_row(trades=math.nan),
            "trades that are inf": one_row(trades=math.inf),
            "trades beyond every float": one_row(trades=10**400),
            "an average beyond every float": one_row(avg_trades=-(10**400)),
            "a deviation beyond every float": one_row(std_trades=10**400),
            "a close beyond every float": one_row(close_price=10**400),
            "a change beyond every float": one_row(price_diff=10**400),
            "a complex deviation": one_row(std_trades=20j),
        }.items()
    },
    "the pickle of a frame": pickle.dumps(pd.DataFrame({"ticker": ["A"], "trades": [1]})),
    "the pickle of an array": pickle.dumps(np.arange(3)),
}


@pytest.mark.parametrize("what", NO_TABLE)
def test_a_file_that_is_no_table_is_refused(what):
    write_file(Path("something.pkl"), NO_TABLE[what])
    assert_damaged(query("something.pkl"), "something.pkl")


# Plain tables


def tutorials_table():
    """The market's table as the tutorial's script makes it, of numpy's numbers."""
    write_flat_files(Path("flat"), rows_by_day(MARKET))
    return row_by_row_table(Path("flat").glob("*.csv"))


def of_numpy(table, integer, real):
    """The same table with numpy's numbers, as of one type for trades and one for the others."""
    return {
        ticker: {
            day: {
                field: None if n is None else integer(n) if field == "trades" else real(n)
                for field, n in stats.items()
            }
            for day, stats in days.items()
        }
        for ticker, days in table.items()
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_tutorials_own_table_gives_the_same_answer(protocol):
    write_file(Path("plain.pkl"), pickle.dumps(tutorials_table(), protocol))
    assert query("plain.pkl").stdout == ANSWER


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("integer", [int, float, np.int32, np.int64, np.float64])
@pytest.mark.parametrize("real", [float, np.float64, np.float32])
def test_numpys_numbers_of_every_kind_give_the_same_answer(market_table, integer, real, protocol):
    table = of_numpy(load_table(market_table), integer, real)
    write_file(Path("plain.pkl"), pickle.dumps(table, protocol))
    # The market's prices, means and deviations are exact as float32, too.
    assert query("plain.pkl").stdout == ANSWER


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_table_pickled_by_hand_gives_the_same_answer(market_table, protocol):
    write_file(Path("plain.pkl"), pickle.dumps(load_table(market_table), protocol))
    assert query("plain.pkl").stdout == ANSWER


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [OrderedDict, lambda days: defaultdict(dict, days)])
def test_the_collections_dicts_give_the_same_answer(market_table, kind, protocol):
    table = kind({ticker: kind(days) for ticker, days in load_table(market_table).items()})
    write_file(Path("plain.pkl"), pickle.dumps(table, protocol))
    assert query("plain.pkl").stdout == ANSWER


def test_a_plain_table_names_the_nearest_day_too(market_table):
    write_file(Path("plain.pkl"), pickle.dumps(load_table(market_table)))
    sentence = query(market_table, "2024-08-03").stderr
    assert query("plain.pkl", "2024-08-03").stderr == sentence != ""


@pytest.mark.parametrize("field", ["close_price", "price_diff", "avg_trades", "std_trades"])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 5e-324, 1e308])
def test_of_a_plain_table_too_json_has_null_for_what_is_not_finite(field, number):
    write_file(Path("plain.pkl"), pickle.dumps(one_row(**{field: number})))
    result = query("plain.pkl", LAST_DAY, "--format", "json")
    assert result.returncode == 0
    is_listed = {
        "close_price": not number < 0,  # --min-price is 0 by default
        "avg_trades": number < 140,  # so that (200 - number) / 20, the z-score, is above 3
        "std_trades": number == 5e-324,
    }
    if is_listed.get(field, True):
        (row,) = strict_json(result.stdout)
        assert list(row) == ANOMALY_FIELDS
        assert row[field] == (number if math.isfinite(number) else None)
    else:
        assert strict_json(result.stdout) == []


def test_the_sample_markets_plain_table_gives_the_same_answer(sample_table):
    write_file(Path("plain.pkl"), pickle.dumps(load_table(sample_table)))
    ours = query(sample_table, "2024-10-18").stdout
    assert query("plain.pkl", "2024-10-18").stdout == ours


# Hostile files


def reduced(function, *arguments):
    """The pickle that calls function with arguments when it is loaded, in every protocol."""

    class Call:
        def __reduce__(self):
            return function, arguments

    return [pickle.dumps(Call(), protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]


def short(text):
    return b"\x8c" + bytes([len(text)]) + text.encode()


TOUCH = "touch marker"
WRITE = "open('marker', 'w').close()"
COMMAND = f"S'{TOUCH}'\n".encode()
RUNS_CODE = {
    **{f"os.system, protocol {i}": p for i, p in enumerate(reduced(os.system, TOUCH))},
    **{f"eval, protocol {i}": p for i, p in enumerate(reduced(eval, WRITE))},
    **{f"exec, protocol {i}": p for i, p in enumerate(reduced(exec, WRITE))},
    "open": reduced(open, "marker", "w")[4],
    "Popen": reduced(subprocess.Popen, ["touch", "marker"])[4],
    "GLOBAL and REDUCE": b"cos\nsystem\n(" + COMMAND + b"tR.",
    "GLOBAL of posix": b"cposix\nsystem\n(" + COMMAND + b"tR.",
    "GLOBAL of __builtin__": b'c__builtin__\neval\n(S"' + WRITE.encode() + b'"\ntR.',
    "STACK_GLOBAL": b"\x80\4" + short("os") + short("system") + b"\x93" + short(TOUCH) + b"\x85R.",
    "STACK_GLOBAL of a dotted name": (
        b"\x80\4" + short("shutil") + short("os.system") + b"\x93" + short(TOUCH) + b"\x85R."
    ),
    "INST": b"(" + COMMAND + b"ios\nsystem\n.",
    "OBJ": b"(cos\nsystem\n" + COMMAND + b"o.",
    "NEWOBJ": b"\x80\2cos\nsystem\n" + COMMAND + b"\x85\x81.",
    "NEWOBJ_EX": b"\x80\4cos\nsystem\n" + COMMAND + b"\x85}\x92.",
    "BUILD": b"cos\nsystem\n}S'x'\n" + COMMAND + b"sb.",
    "EXT1": b"\x80\2\x82\xf0" + COMMAND + b"\x85R.",
    "EXT2": b"\x80\2\x83\xf0\0" + COMMAND + b"\x85R.",
    "EXT4": b"\x80\2\x84\xf0\0\0\0" + COMMAND + b"\x85R.",
    "a persistent id": b"P" + TOUCH.encode() + b"\n.",
    "a method of a harmless name": (
        b"\x80\4" + short("builtins") + short("dict.fromkeys") + b"\x93)R."
    ),
    "getattr": b"cbuiltins\ngetattr\n(cos\npath\nS'os'\ntR.",
    "a default factory that runs": (
        b"ccollections\ndefaultdict\n(cos\nsystem\ntR" + COMMAND + b"Ns."
    ),
    "instead of a number": pickle.dumps(one_row())[:-2] + b"cos\nsystem\n(" + COMMAND + b"tR.",
    "a module of its own": b"cmarker_module\nrun\n)R.",
}


@pytest.fixture
def hostile_neighbours(empty_folder, monkeypatch):
    """os.system has an extension code, and beside the table lies a module that does harm."""
    copyreg.add_extension("os", "system", 0xF0)
    write_file(empty_folder / "marker_module.py", f"{WRITE}\nrun = dict")
    monkeypatch.syspath_prepend(empty_folder)
    yield
    copyreg.remove_extension("os", "system", 0xF0)


@pytest.mark.parametrize("what", RUNS_CODE)
def test_a_pickle_that_would_run_code_runs_none(hostile_neighbours, what):
    write_file(Path("hostile.pkl"), RUNS_CODE[what])
    assert_damaged(query("hostile.pkl"), "hostile.pkl")
    assert not os.path.exists("marker")


@pytest.mark.parametrize(
    "what", ["os.system, protocol 0", "eval, protocol 4", "STACK_GLOBAL", "open"]
)
def test_pickle_itself_runs_the_code_of_these_pickles(empty_folder, what):
    pickle.loads(RUNS_CODE[what])
    assert os.path.exists("marker")


@pytest.mark.parametrize(
    "name", ["os\nsystem", "os\r\nsystem", "\x1b[2J", "\u2028", "\ud800"], ids=ascii
)
def test_a_name_in_a_hostile_pickle_is_told_in_one_printable_line(name):
    encoded = name.encode("utf-8", "surrogatepass")
    asked = b"\x8c" + bytes([len(encoded)]) + encoded
    write_file(Path("hostile.pkl"), b"\x80\4" + asked + short("x") + b"\x93.")
    result = run("query-lookup-table.py", LAST_DAY, "--table", "hostile.pkl")
    assert_damaged(result)
    assert "Traceback" not in result.stderr and result.stderr[:-1].isprintable()


def measured(*arguments):
    """(status, stderr, seconds, peak memory in MB) of the querier as a process of its own."""
    started = time.monotonic()
    status, stderr, megabytes = run_measured("query-lookup-table.py", *arguments)
    return status, stderr, time.monotonic() - started, megabytes


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\x80\3Nr\xff\xff\xff\x7f.", id="a memo slot far off"),
        pytest.param(b"\x80\3Nr\xff\xff\xff\x03.", id="a memo slot less far off"),
        pytest.param(b"Np2147483647\n.", id="a memo slot far off, as text"),
        pytest.param(b"\x80\3B\xff\xff\xff\xff", id="4 GB of bytes that are not there"),
        pytest.param(b"\x80\4\x8e" + struct.pack("<Q", 2**40), id="a terabyte of bytes"),
        pytest.param(b"\x80\4\x8d" + struct.pack("<Q", 2**40), id="a terabyte of text"),
        pytest.param(b"\x80\4\x95" + struct.pack("<Q", 2**40) + b"N.", id="a terabyte of frame"),
        pytest.param(b"\x80\3\x8b\xff\xff\xff\x7f", id="a long number"),
        pytest.param(b"\x80\3" + b"]" * 10**6 + b"a" * (10**6 - 1) + b".", id="nested lists"),
        pytest.param(b"\x80\3" + b"(" * 10**6 + b"t" * 10**6 + b".", id="nested marks"),
        pytest.param(b"\x80\3" + b"K\1" + b"2" * 10**6 + b"\x85.", id="a million on the stack"),
        pytest.param(b"\x80\3]q\0(" + b"h\0" * 10**5 + b"e.", id="a list that holds itself"),
    ],
)
def test_a_pickle_that_asks_for_too_much_is_refused_cheaply(content):
    write_file(Path("bomb.pkl"), content)
    status, stderr, seconds, megabytes = measured(LAST_DAY, "--table", "bomb.pkl")
    assert (status, stderr.count("\n")) == (1, 1), stderr
    assert "run build-lookup-table.py" in stderr
    assert seconds < 20 and megabytes < 600


def test_a_pickle_that_asks_for_a_huge_bytearray_is_refused_cheaply():
    # Python itself adds a line to stderr, of a MemoryError.
    write_file(Path("bomb.pkl"), b"\x80\5\x96" + struct.pack("<Q", 2**36))
    status, stderr, _, megabytes = measured(LAST_DAY, "--table", "bomb.pkl")
    assert status == 1 and "Traceback" not in stderr
    assert "run build-lookup-table.py" in stderr.splitlines()[-1]
    assert megabytes < 600


@pytest.mark.parametrize(
    ("begins", "ends"),
    [
        pytest.param(b"", b"", id="nothing but zeros"),
        pytest.param(b"\x80\3X\x0c\0\0\0lookup table0", b"", id="a table that lost its end"),
        pytest.param(b"", footer(0, 2**23), id="an index of zeros"),
        pytest.param(b"\x80\4\x8e" + struct.pack("<Q", 6 * 2**30 - 20), b"", id="bytes"),
        pytest.param(b"\x80\4\x8d" + struct.pack("<Q", 6 * 2**30 - 20), b"", id="text"),
        pytest.param(b"\x80\4\x95" + struct.pack("<Q", 6 * 2**30 - 20), b"", id="a frame"),
        pytest.param(b"S'", b"", id="a line of text"),
    ],
)
def test_a_sparse_file_of_6_gb_is_refused_cheaply(begins, ends):
    with open("sparse.pkl", "wb") as file:
        file.write(begins)
        file.seek(6 * 2**30 - len(ends))
        file.write(ends)
        file.truncate()
    status, stderr, seconds, megabytes = measured(LAST_DAY, "--table", "sparse.pkl")
    assert (status, stderr.count("\n")) == (1, 1), stderr
    assert "run build-lookup-table.py" in stderr
    assert seconds < 20 and megabytes < 400


# Tuples of themselves: each has the one before twice, so the hash of the last takes 2**100 steps.
DOUBLED = b")" + b"2\x86" * 100
HANGS = {
    "a ticker that is a doubled tuple": b"\x80\3}" + DOUBLED + b"}s.",
    "a date that is a doubled tuple": b"\x80\3}X\1\0\0\0A}" + DOUBLED + b"}ss.",
    "numpy's number of a doubled type": b"\x80\3cnumpy\ndtype\n" + DOUBLED + b"\x85R.",
}


@pytest.mark.parametrize("what", HANGS)
def test_ctrl_c_ends_the_query_while_a_pickle_keeps_python_busy(what):
    write_file(Path("hangs.pkl"), HANGS[what])
    process = subprocess.Popen(
        command("query-lookup-table.py", LAST_DAY, "--table", "hangs.pkl"), stderr=subprocess.PIPE
    )
    try:
        wait_until(lambda: is_busy_with("hangs.pkl", process.pid))
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == (None, b"")
    finally:
        process.kill()
    assert process.returncode == -signal.SIGINT


def is_busy_with(path, pid):
    """Whether a process has opened the file at path, and leaves Ctrl-C to the system."""
    files = Path(f"/proc/{pid}/fd")
    try:
        has_opened = any(os.path.samefile(file, path) for file in files.iterdir())
        caught = Path(f"/proc/{pid}/status").read_text().split("SigCgt:")[1].split()[0]
    except (FileNotFoundError, IndexError):  # a file that it has just closed
        return False
    return has_opened and not int(caught, 16) & 1 << (signal.SIGINT - 1)


def test_a_doubled_tuple_instead_of_stats_is_refused():
    write_file(Path("doubled.pkl"), b"\x80\3}X\1\0\0\0A}X\n\0\0\x002024-08-08" + DOUBLED + b"ss.")
    assert_damaged(query("doubled.pkl"))


def test_a_message_quotes_only_the_start_of_a_long_name():
    write_file(Path("long.pkl"), b"c" + b"m" * 10**6 + b"\nname\n.")
    result = query("long.pkl")
    assert_damaged(result, "it asks for mmm")
    assert len(result.stderr) < 300


# What is printed is printable

ODD = "a\x1b[2k\x07\u2028\u202e\ud800"
ESCAPED = r"a\x1b[2k\x07\u2028\u202e\ud800"


def test_a_tickers_control_characters_are_escaped_for_people():
    write_file(Path("plain.pkl"), pickle.dumps({ODD: one_row()["A"]}))
    for options in ([LAST_DAY], [LAST_DAY, "--format", "wide"]):
        result = run("query-lookup-table.py", *options, "--table", "plain.pkl")
        assert result.stdout.splitlines()[5].split()[0] == ESCAPED
    listed = call(querier, "--ticker", ODD, "--table", "plain.pkl")
    assert listed.stdout.startswith(f"\nAnomalies Found for {ESCAPED}:\n")
    assert_refused(
        call(querier, "--ticker", f"A{ODD[1:]}", "--table", "plain.pkl"),
        f"plain.pkl has no ticker A{ESCAPED[1:]}; it has {ESCAPED}\n",
    )


def test_a_files_control_characters_are_escaped_in_messages():
    result = query("\x1b[31mred\n.pkl")
    assert result.stderr == "\\x1b[31mred\\n.pkl not found: run build-lookup-table.py first\n"


@pytest.mark.parametrize("ticker", ["A\rB", "A\nB", "A\r\nB", 'A"B', "A,B", "\r"])
def test_csv_quotes_what_would_end_a_line_or_a_field(ticker):
    write_file(Path("plain.pkl"), pickle.dumps({ticker: one_row()["A"]}))
    text = query("plain.pkl", LAST_DAY, "--format", "csv").stdout
    quoted = ticker.replace('"', '""')
    assert text.split("\n", 1)[1].startswith(f'"{quoted}",{LAST_DAY},200,100.0,')
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert row["ticker"] == ticker


# open_table


def test_an_error_of_the_callers_is_not_taken_for_a_bad_table(market_table):
    write_file(Path("plain.pkl"), pickle.dumps(one_row()))
    for path in (market_table, "plain.pkl"):
        for bug in (TypeError("mine"), KeyError("mine"), struct.error("mine"), OSError("mine")):
            with pytest.raises(type(bug), match="mine"), querier.open_table(path):
                raise bug


def test_the_file_is_closed_after_the_with_block(market_table):
    with querier.open_table(market_table) as table:
        assert table.dates == DAYS
    with pytest.raises(ValueError, match="closed file"):
        table.read_day_page(0)


def test_open_table_can_be_told_to_refuse_plain_tables(market_table):
    write_file(Path("plain.pkl"), pickle.dumps(one_row()))
    kinds = [querier.LookupTable]
    with pytest.raises(querier.TableError) as refused, querier.open_table("plain.pkl", kinds):
        pass
    assert str(refused.value) == (
        "plain.pkl was not written by build-lookup-table.py: run it to make a table"
    )
    with querier.open_table(market_table, kinds) as table:
        assert table.window == 5


def test_a_history_has_a_value_for_each_row_in_every_column(market_table):
    with querier.open_table(market_table) as table:
        history = table.read_history("NA")
    assert list(history["date"]) == DAYS
    assert list(history["ticker"]) == ["NA"] * 6
    assert list(history["trades"]) == [8, 8, 10, 12, 12, 30]
    assert list(history["close_price"]) == [2, 2, 2, 2, 2, 1]
    assert list(history["avg_trades"])[5:] == [10]
    assert list(history["std_trades"])[5:] == [2]
    # 8: nothing before. 8: a tie. 10: above 8 and 8. 12: above all three. 12: a tie. 30: above all.
    assert list(history["record"]) == [0, 0, 2, 3, 0, 5]
    assert list(history["earlier_rows"]) == [0, 1, 2, 3, 4, 5]
    assert list(history["gap"])[1:] == [0, 0, 0, 0, -50]


# What it reads and imports


def day_page_extent(content, date):
    """Where in the bytes of a table the day page of date is: offset and length."""
    offset, length = index_extent(content)
    days = INDEX_DAY.iter_unpack(content[offset + INDEX_HEADER.size : offset + length])
    (extent,) = (day[1] for day in days if day[0] == date.encode())
    return EXTENT.unpack(extent)[:2]


def test_a_day_is_answered_from_the_footer_the_index_and_its_day_page_alone(market_table):
    content = market_table.read_bytes()
    index, length = index_extent(content)
    start, size = day_page_extent(content, LAST_DAY)
    kept = bytearray(b"\xff" * len(content))
    for kept_start, kept_end in (
        (start, start + size),
        (index, index + length),
        (-FOOTER.size, len(content)),
    ):
        kept[kept_start:kept_end] = content[kept_start:kept_end]
    assert len(kept) == len(content) and kept != content

    write_file(Path("kept.pkl"), bytes(kept))
    assert query("kept.pkl").stdout == ANSWER
    assert_damaged(query("kept.pkl", DAYS[0]))


def imported_by(*arguments):
    """The modules that the querier imports as a process of its own, and what it prints."""
    lines = [sys.executable, "-X", "importtime", *command("query-lookup-table.py", *arguments)[1:]]
    result = subprocess.run(lines, capture_output=True, encoding="utf-8", check=True)
    return {line.rsplit("|")[-1].strip() for line in result.stderr.splitlines()}, result.stdout


INSTALLED = {"numpy", "pandas", "flask", "polygon", "tqdm", "polars"}


def test_a_days_query_imports_neither_installed_packages_nor_pickle(market_table):
    imported, answer = imported_by(LAST_DAY, "--table", market_table)
    assert answer == ANSWER
    assert "argparse" in imported
    unneeded = {*INSTALLED, "pickle", "_pickle", "json", "csv", "typing", "resource"}
    assert imported & unneeded == set()


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ([LAST_DAY, "--format", "wide"], set()),
        ([LAST_DAY, "--format", "csv"], {"csv"}),
        ([LAST_DAY, "--format", "json"], {"json"}),
        (["--ticker", "ZZZ"], set()),
        (["--ticker", "ZZZ", "--format", "json"], {"json"}),
        ([DAYS[0], LAST_DAY], set()),
        ([DAYS[0], LAST_DAY, "--format", "csv"], {"csv", "numpy"}),
        (["--aftermath", "--format", "csv"], {"csv", "numpy"}),
    ],
)
def test_each_query_imports_only_what_it_needs(market_table, options, needed):
    imported, _ = imported_by(*options, "--table", market_table)
    # numpy imports some of these four itself.
    checked = INSTALLED if "numpy" in needed else {*INSTALLED, "pickle", "csv", "json", "typing"}
    assert needed <= imported
    assert imported & checked == needed & checked


def test_without_numpy_a_line_says_how_to_get_it(market_table, monkeypatch):
    missing = "raise ImportError('No module named numpy', name='numpy')"
    write_file(Path("without", "numpy.py"), missing)
    monkeypatch.setenv("PYTHONPATH", os.path.abspath("without"))
    for options in ([LAST_DAY, "--format", "wide"], ["--ticker", "ZZZ", "--format", "csv"]):
        assert run("query-lookup-table.py", *options, "--table", market_table).returncode == 0
    for options in ([DAYS[0], LAST_DAY, "--format", "wide"], ["--aftermath"]):
        result = run("query-lookup-table.py", *options, "--table", market_table)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == "numpy is missing: pip install -r requirements.txt\n"


@pytest.mark.parametrize("form", ["table", "wide", "csv", "json"])
def test_a_closed_pipe_as_stdout_is_no_error(sample_table, form):
    reading, writing = os.pipe()
    os.close(reading)
    arguments = ["2024-10-18", "--threshold", -1000, "--table", sample_table, "--format", form]
    result = run("query-lookup-table.py", *arguments, stdout=writing)
    os.close(writing)
    assert (result.returncode, result.stderr) == (0, "")


def test_head_ends_quietly(sample_table):
    querying = shlex.join(command("query-lookup-table.py", "2024-10-18", "--table", sample_table))
    result = subprocess.run(
        f"{querying} --threshold -1000 | head -n 2", shell=True, capture_output=True
    )
    assert result.stdout == b"\nAnomalies Found for 2024-10-18:\n"
    assert result.stderr == b""


def test_a_full_disk_is_told_in_one_line(market_table):
    with open("/dev/full", "wb") as full:
        result = run("query-lookup-table.py", LAST_DAY, "--table", market_table, stdout=full)
    assert_refused(result, "output not written: No space left on device\n")
