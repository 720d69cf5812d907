"""The querier: what it prints, what it reads of a table, and what it makes of bad ones."""

import csv
import io
import math
import os
import pickle
import shlex
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.flat_files import write_file, write_flat_files
from helpers.markets import DAYS, LAST_DAY, MARKET, rows_by_day
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
    strict_json,
    wait_until,
)
from tools.verify_numbers import EXTENT, FOOTER, MAGIC
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


def test_a_day_without_any_baseline_gives_the_headings_a_note_and_status_0(market_table):
    for options in ([], [DAYS[4]], ["--format", "wide"], ["--skip", "new"]):
        result = call(querier, "2024-08-02", *options, "--table", market_table)
        assert result.returncode == 0
        assert "no ticker has a baseline yet on" in result.stderr
        assert result.stderr.count("\n") == 1
    assert query(market_table, DAYS[0]).stdout == HEADINGS.replace(LAST_DAY, DAYS[0])
    assert call(querier, DAYS[0], LAST_DAY, "--table", market_table).stderr == ""


def test_a_day_without_anomalies_gives_the_headings_and_status_0(market_table):
    result = query(market_table, LAST_DAY, "--threshold", 99)
    assert (result.returncode, result.stdout, result.stderr) == (0, HEADINGS, "")


def test_numbers_too_wide_for_a_column_keep_a_space_before_them():
    market = {
        # Mean 0.2, deviation the root of 0.2: a z of (2**31 - 1.2) / 0.4472. From 0.01, the change
        # is (123456789050 - 1) * 100 percent.
        "FARTOOBIG": ([0, 0, 0, 0, 1, 2**31 - 1], [0.01] * 5 + [1234567890.5]),
        # Numbers that just fit stand where the tutorial puts them. Mean 1,001,000; differences
        # -1000 four times and 4000: 20,000,000 / 4 is 5,000,000.
        "ELEVENCHARS": ([0, 0, 0, 0, 1, 2**31 - 1], [0.01] * 6),
        "TENLETTERS": ([10**6] * 4 + [10**6 + 5000, 101_001_000], [1000] * 5 + [12345678.25]),
    }
    build(write_flat_files(Path("flat"), rows_by_day(market)), "lookup_table.pkl")
    first, second, last = query("lookup_table.pkl").stdout.splitlines()[-3:]
    assert second.startswith("ELEVENCHARS 2147483647           0.20 ")
    assert [first, last] == [
        "FARTOOBIG 2147483647           0.20      0.45 "
        f"{(2**31 - 1.2) / math.sqrt(0.2):.2f} 1234567890.50 12345678904900.00",
        "TENLETTERS 101001000     1001000.00   2236.07  44721.36 12345678.25  1234467.83",
    ]


def test_z_of_exactly_three_is_not_an_anomaly_and_just_above_is(market_table):
    # AAP has (160 - 100) / 20 and TRUE (161 - 100) / 20.
    listed = tickers(query(market_table))
    assert "AAP" not in listed and "TRUE" in listed


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--threshold 2.9", "ZZZ AAp ZERO TRUE AAP NA"),
        ("--threshold 3.05", "ZZZ AAp ZERO NA"),
        # FLAT has a deviation of 0, NEW has no baseline.
        ("--threshold -1000", "ZZZ AAp ZERO TRUE AAP NA BRK.B"),
        ("--threshold 1e9", ""),
        ("--min-trades 162", "ZZZ AAp ZERO"),
        ("--min-price 5.01", "ZZZ TRUE"),
        ("--sort z_score", "NA ZZZ AAp ZERO TRUE"),
        ("--sort price_diff", "ZZZ AAp TRUE NA ZERO"),
        ("--sort ticker", "AAp NA TRUE ZERO ZZZ"),
        ("--limit 2", "ZZZ AAp"),
        ("--limit 0", ""),
        ("--sort z_score --limit 1 --min-trades 31", "ZZZ"),
    ],
)
def test_options_choose_and_sort(market_table, options, expected):
    assert tickers(query(market_table, LAST_DAY, *options.split())) == expected.split()


def test_csv_has_the_fields_by_name_and_full_precision(market_table):
    assert query(market_table, LAST_DAY, "--format", "csv").stdout == (
        "ticker,date,trades,avg_trades,std_trades,z_score,close_price,price_diff,"
        "record,earlier_rows,baseline_days,gap,long_z,dollar_volume,"
        "after_1,after_5,after_20,split_after,marks,type,name\n"
        "ZZZ,2024-08-08,200,100.0,20.0,5.0,12.5,25.0,5,5,5,25.0,,12500,,,,,,,\n"
        "AAp,2024-08-08,200,100.0,20.0,5.0,5.0,25.0,5,5,5,25.0,,5000,,,,,,,\n"
        "ZERO,2024-08-08,170,100.0,20.0,3.5,0.0,nan,5,5,5,,,0,,,,,,,\n"
        "TRUE,2024-08-08,161,100.0,20.0,3.05,50.0,0.0,5,5,5,0.0,,50000,,,,,,,\n"
        "NA,2024-08-08,30,10.0,2.0,10.0,1.0,-50.0,5,5,5,-50.0,,1000,,,,,split? thin,,\n"
    )


def test_no_anomalies_are_an_empty_list_in_csv_and_json(market_table):
    nothing = {"csv": ",".join(ANOMALY_FIELDS) + "\n", "json": "[]\n"}
    for form, text in nothing.items():
        options = ["--threshold", 99, "--format", form]
        assert query(market_table, LAST_DAY, *options).stdout == text


# Usage


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        *([date] for date in ("2024-13-01", "2024-02-30", "20241018", "today", "", "2024-W32-1")),
        ["2024-10-1\N{ARABIC-INDIC DIGIT EIGHT}"],
        *([LAST_DAY, "--threshold", text] for text in ("high", "nan", "-x")),
        *([LAST_DAY, "--min-trades", text] for text in ("-1", "1.5")),
        *([LAST_DAY, "--skip", text] for text in ("old", "")),
        [LAST_DAY, "--sort", "marks"],
        [LAST_DAY, "--format", "xml"],
        [LAST_DAY, "--weekly"],
        [DAYS[0], DAYS[1], LAST_DAY],
        ["--ticker", "ZZZ", LAST_DAY, DAYS[0]],
        ["--limit", "5"],
        ["--aftermath", DAYS[0], LAST_DAY],
        ["--aftermath", "--ticker", "ZZZ"],
        ["--aftermath", "--threshold", "-1e3"],
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


def test_the_message_on_wrong_usage_names_the_reason():
    assert "2024-08-08 is after 2024-08-01" in call(querier, LAST_DAY, DAYS[0]).stderr
    assert "--ticker T" in call(querier).stderr
    assert "--aftermath takes" in call(querier, "--aftermath", "--min-trades", 9).stderr


@pytest.mark.parametrize("form", ["--threshold -4.5", "--threshold -.5e1", "--threshold=-1e9"])
def test_a_negative_threshold_is_a_number(market_table, form):
    # BRK.B has (20 - 100) / 20, which is -4.
    listed = tickers(query(market_table, LAST_DAY, *form.split()))
    assert listed == ["ZZZ", "AAp", "ZERO", "TRUE", "AAP", "NA", "BRK.B"]


# Dates that the table does not have


@pytest.mark.parametrize(
    ("date", "nearest"),
    [
        ("2024-08-03", "2024-08-02"),
        ("2023-12-31", "2024-08-01"),
        ("9999-12-31", "2024-08-08"),
    ],
)
def test_for_an_unknown_date_the_range_and_the_nearest_day_are_named(market_table, date, nearest):
    result = query(market_table, date)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"no data for {date}: the table covers 2024-08-01 to 2024-08-08; "
        f"nearest trading day {nearest}\n"
    )


# Two dates, and a ticker


def test_two_dates_list_every_day_of_the_table_between_them(market_table):
    result = call(querier, "2024-08-03", "2024-12-31", "--table", market_table)
    headings = [HEADINGS.replace(LAST_DAY, day) for day in DAYS[2:5]]
    assert result.stdout == "".join(headings) + ANSWER
    assert call(querier, LAST_DAY, LAST_DAY, "--table", market_table).stdout == ANSWER


def test_two_dates_without_a_day_between_them_are_refused(market_table):
    for options in ([], ["--ticker", "ZZZ"], ["--format", "json"]):
        result = call(querier, "2024-08-03", "2024-08-04", "--table", market_table, *options)
        assert_refused(result, "no data from 2024-08-03 to 2024-08-04", "2024-08-01 to 2024-08-08")
        assert result.stdout == ""


def test_a_tickers_list_has_dates_in_the_column_of_the_tickers(market_table):
    expected = ANSWER.replace("Ticker", "Date  ").replace(f"for {LAST_DAY}", "for ZZZ")
    expected = expected[: expected.index("AAp ")].replace("ZZZ       ", LAST_DAY)
    for dates in ([], [LAST_DAY], [DAYS[0], LAST_DAY]):
        found = call(querier, *dates, "--ticker", "ZZZ", "--table", market_table)
        assert found.stdout == expected


@pytest.mark.parametrize(
    ("ticker", "named"),
    [
        *((text, "it has BRK.B") for text in ("brk.b", "BRK-B", "BRK/B", "brk b", "BRKB")),
        ("aap", "it has AAP, AAp"),
        ("MSFT", ""),
        ("ZZ", ""),
    ],
)
def test_a_ticker_written_another_way_is_refused_and_the_tables_own_is_named(
    market_table, ticker, named
):
    write_file(Path("plain.pkl"), pickle.dumps(load_table(market_table)))
    for path in (market_table, "plain.pkl"):
        result = call(querier, "--ticker", ticker, "--table", path)
        assert_refused(result, f"{path} has no ticker {ticker}", named)
        assert result.stdout == "" and ("it has" in result.stderr) == bool(named)


# Tables that do not exist, and files that are no tables


def test_without_a_table_the_command_that_makes_one_is_named():
    result = run("query-lookup-table.py", LAST_DAY)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "lookup_table.pkl not found: run build-lookup-table.py first\n"


def test_a_folder_a_pipe_and_a_device_are_refused_at_once():
    os.mkdir("folder")
    os.mkfifo("pipe")
    for path in ("folder", "pipe", "/dev/zero"):
        assert_damaged(run("query-lookup-table.py", "--table", path, LAST_DAY), path, "no regular")


def one_row(**changes):
    """A plain table of one row, A on the last day, with an anomaly or with changes."""
    stats = {"trades": 200, "close_price": 5.0, "price_diff": 25.0}
    return {"A": {LAST_DAY: {**stats, "avg_trades": 100.0, "std_trades": 20.0, **changes}}}


NO_TABLE = {
    "empty": b"",
    "text": b"ticker,volume\nA,1\n",
    "zeros": bytes(1000),
    "a footer alone": FOOTER.pack(EXTENT.pack(0, 0, 0), MAGIC),
    "the signature alone": b"\x80\x03X\x0c\x00\x00\x00lookup table0",
    "the pickle of a frame": pickle.dumps(pd.DataFrame({"ticker": ["A"], "trades": [1]})),
}
PICKLED = {
    "a list": [one_row()],
    "no ticker": {},
    "days that are a list": {"A": [LAST_DAY]},
    "stats without trades": {"A": {LAST_DAY: {"close_price": 1.0}}},
    "a date of another form": {"A": {"08/08/2024": one_row()["A"][LAST_DAY]}},
    "a ticker that is bytes": {b"A": one_row()["A"]},
    "a deviation that is a text": one_row(std_trades="5"),
    "trades that are nan": one_row(trades=math.nan),
    "trades beyond every float": one_row(trades=10**400),
}
NO_TABLE.update((what, pickle.dumps(value)) for what, value in PICKLED.items())


@pytest.mark.parametrize("what", NO_TABLE)
def test_a_file_that_is_no_table_is_refused(what):
    write_file(Path("something.pkl"), NO_TABLE[what])
    assert_damaged(query("something.pkl"), "something.pkl")


# Plain tables


def of_numpy(table, integer, real):
    """The same table with numpy's numbers, as of one type for trades and one for the others."""

    def converted(stats):
        numbers = {field: n if n is None else real(n) for field, n in stats.items()}
        return {**numbers, "trades": integer(stats["trades"])}

    return {t: {day: converted(stats) for day, stats in table[t].items()} for t in table}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_plain_table_gives_the_same_answer_whatever_kind_its_numbers_are(market_table, protocol):
    table = load_table(market_table)
    # The market's prices, means and deviations are exact as float32, too.
    tables = [of_numpy(table, np.int64, np.float64), of_numpy(table, np.int32, np.float32)]
    write_flat_files(Path("flat"), rows_by_day(MARKET))
    tutorials = row_by_row_table(Path("flat").glob("*.csv"))  # as the tutorial's script makes it
    for each in (table, *tables, tutorials, defaultdict(dict, tables[0])):
        write_file(Path("plain.pkl"), pickle.dumps(each, protocol))
        assert query("plain.pkl").stdout == ANSWER


def test_the_tutorials_key_nan_is_the_ticker_na():
    write_file(Path("plain.pkl"), pickle.dumps({math.nan: one_row()["A"]}))
    assert "\nNA   " in query("plain.pkl", LAST_DAY, "--threshold", -1000).stdout


@pytest.mark.parametrize(
    "field", [field for field in one_row()["A"][LAST_DAY] if field != "trades"]
)
def test_whatever_numbers_a_plain_table_has_csv_and_json_can_be_parsed(field):
    numbers = [math.nan, math.inf, -math.inf, -0.0, 0.0, 5e-324, -1.0, 1.7e308, -1.7e308]
    tables = [one_row(**{field: number})["A"] for number in numbers]
    write_file(Path("plain.pkl"), pickle.dumps(dict(zip("ABCDEFGHI", tables))))
    options = [LAST_DAY, "--threshold", -1000, "--format"]
    rows = strict_json(query("plain.pkl", *options, "json").stdout)
    assert list(rows[0]) == ANOMALY_FIELDS
    lines = csv.DictReader(io.StringIO(query("plain.pkl", *options, "csv").stdout), strict=True)
    assert [row["ticker"] for row in lines] == [row["ticker"] for row in rows]


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
# numpy's own dtype would take objects, fields and any state that a file gives it.
NUMPY = b"\x80\4\x8c\5numpy\x8c\5dtype\x93"
CALL = b"cos\nsystem\n(S'" + TOUCH.encode() + b"'\ntR"
HOSTILE = {
    **{f"os.system, protocol {i}": p for i, p in enumerate(reduced(os.system, TOUCH))},
    "a method of a harmless name": (
        b"\x80\4" + short("builtins") + short("dict.fromkeys") + b"\x93)R."
    ),
    "instead of a number": pickle.dumps(one_row())[:-2] + CALL + b".",
    "a module of its own": b"cmarker_module\nrun\n)R.",
    "a dtype of objects": NUMPY + short("O") + b"\x85R.",
    "another name of numpy's": reduced(np.load, "marker.npy")[4],
    "another encoding": b"c_codecs\nencode\n(S'x'\nS'utf-8'\ntR.",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_pickle_is_refused_and_runs_no_code(empty_folder, monkeypatch, what):
    write_file(empty_folder / "marker_module.py", "open('marker', 'w').close()\nrun = dict")
    monkeypatch.syspath_prepend(empty_folder)
    write_file(Path("hostile.pkl"), HOSTILE[what])
    assert_damaged(query("hostile.pkl"), "hostile.pkl")
    assert not os.path.exists("marker")


# A tuple that holds the one before twice, a hundred times over. Before Python 3.14 its hash takes
# 2**100 steps. From then on a tuple keeps its hash, but to compare two such tuples takes as many.
DOUBLED = b")" + b"2\x86" * 100
HANGS = {
    "two tickers that are doubled tuples": b"\x80\3}" + 2 * (DOUBLED + b"}s") + b".",
    "two dates that are doubled tuples": b"\x80\3}X\1\0\0\0A}" + 2 * (DOUBLED + b"}s") + b"s.",
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


@pytest.mark.parametrize("ticker", ["A\nB", 'A"B', "A,B"])
def test_csv_quotes_what_would_end_a_line_or_a_field(ticker):
    write_file(Path("plain.pkl"), pickle.dumps({ticker: one_row()["A"]}))
    text = query("plain.pkl", LAST_DAY, "--format", "csv").stdout
    quoted = ticker.replace('"', '""')
    assert text.split("\n", 1)[1].startswith(f'"{quoted}",{LAST_DAY},200,100.0,')
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert row["ticker"] == ticker


# What it imports, and the way out


def imported_by(*arguments):
    """The modules that the querier imports as a process of its own, and what it prints."""
    lines = [sys.executable, "-X", "importtime", *command("query-lookup-table.py", *arguments)[1:]]
    result = subprocess.run(lines, capture_output=True, encoding="utf-8", check=True)
    return {line.rsplit("|")[-1].strip() for line in result.stderr.splitlines()}, result.stdout


INSTALLED = {"numpy", "pandas", "flask", "polygon", "tqdm", "polars"}


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ([LAST_DAY], set()),
        ([LAST_DAY, "--skip", "new,split"], set()),
        ([LAST_DAY, "--min-record", "3", "--sort", "record", "--type", "CS"], set()),
        ([DAYS[0], LAST_DAY], set()),
        (["--ticker", "ZZZ"], set()),
        (["--ticker", "ZZZ", "--format", "json"], {"json", "numpy"}),
        ([LAST_DAY, "--format", "wide"], {"numpy"}),
        ([LAST_DAY, "--sort", "after_1"], {"numpy"}),
        ([DAYS[0], LAST_DAY, "--format", "csv"], {"csv", "numpy"}),
        (["--aftermath", "--format", "csv"], {"csv", "numpy"}),
    ],
)
def test_each_query_imports_only_what_it_needs(market_table, options, needed):
    imported, _ = imported_by(*options, "--table", market_table)
    # numpy imports some of these five itself.
    own = {"pickle", "csv", "json", "typing", "datetime"}
    checked = INSTALLED if "numpy" in needed else INSTALLED | own
    assert needed <= imported
    assert imported & checked == needed & checked


def test_where_numpy_is_needed_and_missing_one_line_says_so(market_table, monkeypatch):
    write_file(Path("without", "numpy.py"), "raise ModuleNotFoundError(name='numpy')")
    monkeypatch.setenv("PYTHONPATH", os.path.abspath("without"))
    assert run("query-lookup-table.py", LAST_DAY, "--table", market_table).stdout == ANSWER
    for options in ([LAST_DAY, "--format", "wide"], ["--aftermath"]):
        result = run("query-lookup-table.py", *options, "--table", market_table)
        assert_refused(result, "numpy is missing: pip install -r requirements.txt")
        assert result.stdout == ""


def in_shell(line, *arguments):
    """The result of a line of shell in which QUERY stands for the querier with arguments."""
    querying = shlex.join(command("query-lookup-table.py", *arguments))
    line = line.replace("QUERY", querying)
    return subprocess.run(line, shell=True, capture_output=True, encoding="utf-8")


def test_head_ends_quietly(sample_table):
    options = ["2024-10-18", "--threshold", "-1000", "--table", sample_table]
    result = in_shell("QUERY | head -n 2", *options)
    assert (result.stdout, result.stderr) == ("\nAnomalies Found for 2024-10-18:\n", "")


@pytest.mark.parametrize("line", ["QUERY >/dev/full", "QUERY >&-"])
def test_a_full_disk_and_a_closed_stdout_are_told_in_one_line(market_table, line):
    result = in_shell(line, LAST_DAY, "--table", market_table)
    assert_refused(result, "output not written: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_a_long_query_without_a_traceback(sample_table, number):
    days = ["2024-08-01", "2024-10-18", "--format", "csv", "--threshold", -1000]
    process = subprocess.Popen(
        command("query-lookup-table.py", *days, "--table", sample_table),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.readline()  # it now waits, because nobody reads on
    process.send_signal(number)
    _, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr) == (128 + number, b"")
