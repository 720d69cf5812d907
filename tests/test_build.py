"""The builder: what it reads, the numbers it writes, and what it refuses."""

import errno
import gzip
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from fakes.made_up_market import made_up_market
from helpers.flat_files import (
    HEADER,
    flat_row,
    flat_text,
    window_start,
    write_file,
    write_flat_files,
)
from helpers.markets import DAYS, LAST_DAY, MARKET, SAMPLE_MARKET, TEN, USUAL
from helpers.scripts import (
    TOP,
    assert_refused,
    build,
    build_table,
    builder,
    call,
    command,
    load_table,
    query,
    run,
    strict_json,
)
from helpers.terminal import run_on_terminal
from hypothesis import given
from hypothesis import strategies as st
from tools import verify_numbers
from witnesses import reference

pytestmark = pytest.mark.usefixtures("empty_folder")

FLAT = Path("flat")
# fmt: off
ODD_TICKERS = [
    "NA", "NAN", "TRUE", "INF", "E", "ON", "DEC", "None", "null", "#N/A", "1", "007", "1e5", "-inf",
    "nan", "AAP", "AAp", "BRK.B", "BF-A", "A&B", "A=B", "é",
]
# fmt: on


def built(data_dir, *options):
    """The table of data_dir, in whose building nothing goes wrong."""
    return load_table(build_table(data_dir, "lookup_table.pkl", *options))


def verified(market, window=5):
    """(table, parts) of a market, each number of which is that of the reference.

    avg_trades and std_trades are within 1e-12 of the exact value, long_z within 1e-6, the rest is
    the same to the bit.
    """
    with tempfile.TemporaryDirectory() as folder:
        data_dir = write_flat_files(Path(folder), market)
        path = build_table(data_dir, Path(folder) / "lookup_table.pkl", "--window", window)
        parts = verify_numbers.read_parts(path.read_bytes())
    # As verify_numbers.read_market reads it: with an open, and a volume of 1000.
    as_written = {
        day: [(*row[:2], row[-2] if len(row) == 4 else row[-1], row[-1], 1000) for row in rows]
        for day, rows in market.items()
        if rows
    }
    verify_numbers.compare(parts, reference.Table(as_written, window))
    return parts.table, parts


def days_in_a_row(trades, closes=None):
    """{day: rows} of one ticker, A, over as many days from 2024-03-01 on."""
    closes = closes or [1] * len(trades)
    days = np.arange(len(trades)) + np.datetime64("2024-03-01")
    return {str(day): [("A", *of_day)] for day, of_day in zip(days, zip(trades, closes))}


@st.composite
def markets(draw):
    """{day: rows} with few tickers and trades, so that gaps, ties and flat stretches come up."""
    tickers = draw(st.lists(st.sampled_from(ODD_TICKERS), min_size=1, max_size=4, unique=True))
    some_trades = draw(
        st.lists(st.integers(0, 1000) | st.integers(0, 2**31 - 1), min_size=1, max_size=3)
    )
    closes = st.floats(1e-4, 2e5) | st.integers(1, 10**7).map(lambda cents: cents / 100)
    stats = st.tuples(st.sampled_from(some_trades), closes)
    days = draw(
        st.lists(st.dictionaries(st.sampled_from(tickers), stats), min_size=1, max_size=14).filter(
            any
        )
    )
    return {
        f"2024-08-{n:02}": [(ticker, *of_day) for ticker, of_day in day.items()]
        for n, day in enumerate(days, start=1)
    }


@given(market=markets(), window=st.integers(2, 7))
def test_every_number_is_that_of_the_reference(market, window):
    verified(market, window)


@pytest.mark.parametrize(("seed", "window"), [(1, 5), (2, 10), (3, 2)])
def test_the_numbers_of_long_histories_are_those_of_the_reference(seed, window):
    verified(made_up_market(seed, days=150, tickers=50), window)


def test_a_row_of_the_sample_market_is_pickled_as_the_docstring_shows(sample_table):
    lines = re.findall(r"^ +([jh}u] .*?) +[A-Z_]{4,}\b", builder.write_pickle.__doc__, re.M)
    assert len(lines) == 8
    pattern = b""
    for part in " ".join(lines).split():
        digits, is_cut, _ = part.partition("...")
        if len(part) == 1:
            pattern += re.escape(part.encode())
        else:
            pattern += re.escape(bytes.fromhex(digits)) + (b".{4}" if is_cut else b"")
    assert len(re.findall(pattern, sample_table.read_bytes(), re.DOTALL)) == 1


def test_a_day_is_not_part_of_its_own_baseline():
    stats = verified(days_in_a_row([*USUAL, 10**6]))[0]["A"]["2024-03-06"]
    assert (stats["trades"], stats["avg_trades"], stats["std_trades"]) == (10**6, 100, 20)


def test_price_diff_is_in_percent_and_nan_in_a_tickers_first_row():
    days = verified(days_in_a_row([1, 1, 1], [8, 10, 5]))[0]["A"]
    first, second, third = (stats["price_diff"] for stats in days.values())
    assert math.isnan(first) and (second, third) == (25, -50)


def test_tickers_stand_in_the_order_in_which_the_files_first_name_them():
    market = {
        "2024-08-01": [("B", 1, 1), ("AAp", 1, 1)],
        "2024-08-02": [("Z", 1, 1), ("A", 1, 1), ("AAp", 1, 1)],
        "2024-08-05": [("A", 1, 1), ("C", 1, 1), ("B", 1, 1)],
    }
    assert list(verified(market)[0]) == ["B", "AAp", "Z", "A", "C"]


def test_dates_stand_in_order_whatever_the_order_of_the_rows():
    text = flat_text([("A", 1, 1)], "2024-08-06") + flat_row("A", 2, 1, "2024-08-01") + "\n"
    write_file(Path("flat/all.csv"), text)
    assert list(built("flat")["A"]) == ["2024-08-01", "2024-08-06"]


def test_files_of_all_folders_are_read_in_the_order_of_their_names():
    names = ["z/2024/08/2024-08-01.csv", "2024-08-02.csv.gz", "a/2024-08-05.csv"]
    for name in names:
        day = Path(name).name[:10]
        write_file(Path("flat", name), flat_text([(f"T{day[-1]}", 1, 1)], day))
    result = build("flat", "lookup_table.pkl")
    assert list(load_table()) == ["T1", "T2", "T5"]
    processing = [f"Processing {Path(name).name}" for name in names]
    assert result.stdout.splitlines()[1:4] == processing


def test_what_is_hidden_and_a_folder_named_like_a_flat_file_are_not_read(market_folder):
    for name in (".2024-08-09.csv", "._2024-08-08.csv", ".old/2024-08-09.csv", "README.md"):
        write_file(market_folder / name, "no flat file")
    (market_folder / "2024-08-12.csv").mkdir()
    assert list(built(market_folder)) == list(MARKET)


def test_the_tutorials_lines_are_on_stdout_and_the_summary_on_stderr(market_folder):
    result = run("build-lookup-table.py")
    assert result.returncode == 0
    assert result.stdout.splitlines() == [
        "Starting to process files...",
        *(f"Processing {day}.csv" for day in DAYS),
        "Finished processing files.",
        "Building lookup table...",
        "Lookup table built successfully.",
        "Lookup table saved to 'lookup_table.pkl'.",
    ]
    # Eight tickers on all six days, NEW on two of them and GONE on five.
    size = os.path.getsize("lookup_table.pkl") / 1e6
    assert result.stderr == f"10 tickers, 6 days, 55 rows, {size:.1f} MB\n"
    assert sorted(os.listdir()) == ["aggregates_day", "lookup_table.pkl"]


def test_on_a_terminal_progress_is_shown_instead_of_the_files_lines(market_folder):
    result = run_on_terminal(command("build-lookup-table.py"))
    assert (result.returncode, "Processing" in result.stdout) == (0, False)
    assert "Reading: 100%" in result.stderr and "6/6" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("10 tickers, 6 days, 55 rows, ")


def test_the_json_is_the_same_table_with_null_for_what_is_not_finite(market_folder):
    write_flat_files(market_folder, {"2024-08-09": [("ZERO", 1, 5)]})  # a change of inf
    result = run("build-lookup-table.py", "--json")
    assert "Lookup table saved to 'lookup_table.json'.\n" in result.stdout
    table = load_table()
    assert table["ZERO"]["2024-08-09"]["price_diff"] == math.inf
    for days in table.values():
        for stats in days.values():
            if not math.isfinite(stats["price_diff"]):
                stats["price_diff"] = None
    as_json = strict_json(Path("lookup_table.json").read_text(encoding="utf-8"))
    assert (list(as_json), as_json) == (list(table), table)


def test_an_output_that_is_a_link_is_written_to_the_linked_file(market_folder):
    write_file(Path("disk/table.pkl"), "the old table")
    os.symlink("disk/table.pkl", "lookup_table.pkl")
    assert list(built(market_folder)) == list(MARKET)
    assert os.path.islink("lookup_table.pkl")
    assert os.listdir("disk") == ["table.pkl"]


@pytest.mark.parametrize(
    "arguments", ["--window 1", "--window 2.5", "--window 1001", "--weekly", "2024-10-18"]
)
def test_wrong_usage_ends_with_status_2(market_folder, arguments):
    result = call(builder, *arguments.split())
    assert result.returncode == 2
    assert ": error: " in result.stderr.splitlines()[-1]
    assert os.listdir() == ["aggregates_day"]


# The facts of each row


def parts_of(path="lookup_table.pkl"):
    """The parts of the table in the file at path behind the dict."""
    return verify_numbers.read_parts(Path(path).read_bytes())


def column_of(parts, name, ticker="A"):
    index = list(verify_numbers.PAGE_COLUMNS).index(name)
    return [page[ticker][index] for page in parts.pages.values()]


@given(st.lists(st.integers(0, 50) | st.integers(0, 2**31 - 1), min_size=62, max_size=80))
def test_long_z_is_that_of_the_reference_around_20_and_60_earlier_rows(trades):
    verified(days_in_a_row(trades))


def test_after_equal_trades_there_is_no_long_z_and_after_nearly_equal_ones_an_exact_one():
    flat, near = 10**6, 10**6 + 5000  # a deviation of 0.0006 in logarithms
    _, parts = verified(days_in_a_row([flat] * 25 + [near] + [flat] * 60 + [near]))
    unknown = [i for i, long_z in enumerate(column_of(parts, "long_z")) if math.isnan(long_z)]
    assert unknown == [*range(26), 86]  # the last row follows 60 equal ones


def test_a_long_z_counts_as_high_if_it_rounds_to_more_than_3():
    # Mean 6.91 and deviation 2.317 of the logarithms: 3 is at 13.866, or 1,051,500 trades.
    earlier, trades = [100, 10_000] * 30, range(1_040_000, 1_060_000, 50)
    dates = list(days_in_a_row([0] * 61))
    days = {date: [(f"T{n}", earlier[i], 1) for n in trades] for i, date in enumerate(dates[:60])}
    _, parts = verified({**days, dates[60]: [(f"T{n}", n, 1) for n in trades]})
    known, high = parts.counts[dates[60]][3:]  # the reference has counted them, too
    assert known == len(trades) and 100 < high < 300


@pytest.mark.parametrize(
    ("volume", "dollars"),
    [("1000.5", 2001), ("0", 0), ("", None), ("nan", None), ("-1", None), ("x", None)],
)
def test_dollar_volume_is_volume_times_close(volume, dollars):
    text = flat_text([("A", 3, 2), ("B", 3, 2)], DAYS[0]).replace("A,1000,", f"A,{volume},")
    write_file(FLAT / f"{DAYS[0]}.csv", text)
    built(FLAT)
    for ticker, expected in (("A", dollars), ("B", 2000)):
        (found,) = column_of(parts_of(), "dollar_volume", ticker)
        assert math.isnan(found) if expected is None else found == expected


# The text of the second row's open, and the gap that it makes after a close of 2.
OPENS = {"3.0": 50, " 3 ": 50}
OPENS |= dict.fromkeys(["", "0", "-3", "nan", "inf", "abc"], math.nan)


@pytest.mark.parametrize("text", OPENS)
def test_an_open_makes_a_gap_only_if_it_is_a_positive_number(text):
    write_file(FLAT / "2024-08-01.csv", flat_text([("A", 3, 2)], "2024-08-01"))
    line = f"A,1000,{text},2,2,2,{window_start('2024-08-02')},3"
    write_file(FLAT / "2024-08-02.csv", f"{HEADER}\n{line}\n")
    result = build(FLAT, "lookup_table.pkl")
    assert result.stderr == "1 tickers, 2 days, 2 rows, 0.0 MB\n"
    gap = column_of(parts_of(), "gap")[1]
    assert gap == OPENS[text] or (math.isnan(gap) and math.isnan(OPENS[text]))


# Types, names and splits

TICKERS_CSV = """ticker,name,type
AAA,"Triple A, Inc.",CS
AAA.WS,Triple A  Warrants,WARRANT
NEW,New Name Corp,CS
GONE,Gone Ltd,CS
NEW,Old Name Corp,ETF
NAMELESS,,
OTHER,In no flat file,CS
"""
# Twice the same split, two on one day, and two on days that the table does not cover.
SPLITS_CSV = """ticker,execution_date,split_from,split_to
GONE,2024-08-05,20,1.0
AAA,2024-08-06,1,1.5
AAA,2024-08-01,1,10
AAA,2024-08-06,1,3
NEW,2024-08-05,3,2
AAA,2024-07-31,1,2
AAA,2024-08-09,1,2
OTHER,2024-08-05,1,2
"""
LIST_MARKET = {
    day: [(ticker, 5, 1) for ticker in ("GONE", "AAA", "AAA.WS", "NEW", "NAMELESS", "UNKNOWN")]
    for day in DAYS
}


def test_the_table_has_its_tickers_types_names_and_splits():
    write_flat_files(FLAT, LIST_MARKET)
    write_file(FLAT / "reference/tickers.csv", TICKERS_CSV)
    write_file(FLAT / "reference/splits.csv", SPLITS_CSV)
    assert "warning" not in build(FLAT, "lookup_table.pkl").stderr
    assert parts_of().listed == {
        "GONE": ("CS", "Gone Ltd"),
        "AAA": ("CS", "Triple A, Inc."),
        "AAA.WS": ("WARRANT", "Triple A Warrants"),
        "NEW": ("CS", "New Name Corp"),
        "NAMELESS": (None, None),
        "UNKNOWN": (None, None),
    }
    assert parts_of().splits == [
        ("GONE", "2024-08-05", "20", "1"),
        ("AAA", "2024-08-01", "1", "10"),
        ("AAA", "2024-08-06", "1", "1.5"),
        ("NEW", "2024-08-05", "3", "2"),
    ]


# A list's name and bytes, and a part of the warning.
BAD_LISTS = {
    "no such column": ("tickers", b"ticker,name\nAAA,A\n", "'type'"),
    "not UTF-8": ("tickers", b"ticker,name,type\nAAA,\xff,CS\n", "UTF8"),
    "a field missing": ("tickers", b"ticker,name,type\nAAA,A\n", "Expected 3 columns"),
    "bad splits": (
        "splits",
        b"ticker,execution_date,split_from,split_to\nAAA,8/5/2024,1,2\nAAA,2024-08-05,0,2\n",
        "sense: 2",
    ),
}


@pytest.mark.parametrize(("name", "content", "part"), BAD_LISTS.values(), ids=BAD_LISTS)
def test_what_is_bad_in_a_list_is_left_out_with_a_warning(name, content, part):
    write_file(write_flat_files(FLAT, LIST_MARKET) / f"reference/{name}.csv", content)
    result = build(FLAT, "lookup_table.pkl")
    warning, _ = result.stderr.splitlines()
    assert (result.returncode, part in warning) == (0, True)
    assert warning.startswith(f"warning: flat/reference/{name}.csv")
    assert (set(parts_of().listed.values()), parts_of().splits) == ({(None, None)}, [])


# Counts of anomalies


def exact_cases(window):
    """Baselines and a next row's trades, whose z is exactly 3: [[*baseline, trades], ...].

    With as many numbers d below m as above it, and one m, the mean is m and the deviation d.
    """
    half = window // 2
    cases = [(m, d) for m in range(50, 150) for d in (1, 7, 13, 31)]
    cases = [[*[m - d] * half, m, *[m + d] * half, m + 3 * d] for m, d in cases]
    return cases if window % 2 else [[*TEN, 68]]


@pytest.mark.parametrize("window", [3, 5, 7, 10, 17])
def test_a_z_of_exactly_three_is_no_anomaly_at_any_window(window):
    cases = exact_cases(window)
    # Each case once as it is, and once with one trade more.
    tickers = {f"T{n}": case for n, case in enumerate(cases)}
    tickers.update({f"U{n}": [*case[:-1], case[-1] + 1] for n, case in enumerate(cases)})
    dates = list(days_in_a_row([0] * (window + 1)))
    market = {
        date: [(t, case[i], 1) for t, case in tickers.items()] for i, date in enumerate(dates)
    }
    built(write_flat_files(FLAT, market), "--window", window)
    found = json.loads(query("lookup_table.pkl", dates[-1], "--format", "json").stdout)
    assert {row["ticker"] for row in found} == {ticker for ticker in tickers if ticker[0] == "U"}
    assert parts_of().counts[dates[-1]][:3] == (len(tickers), len(tickers), len(cases))


# What real flat files hold


def test_rows_that_say_another_day_than_the_files_name_make_a_warning():
    rows = [flat_row("A", 1, 1, "2019-08-12"), flat_row("B", 2, 2, "2019-08-13")]
    path = write_file(FLAT / "2019-08-12.csv", "\n".join([HEADER, *rows, ""]))
    write_file(FLAT / "2019-08-13.csv", flat_text([("B", 3, 3)], "2019-08-13"))
    result = build(FLAT, "lookup_table.pkl")
    days = {ticker: list(days) for ticker, days in load_table().items()}
    assert days == {"A": ["2019-08-12"], "B": ["2019-08-12", "2019-08-13"]}
    assert load_table()["B"]["2019-08-13"]["trades"] == 3
    warning, _ = result.stderr.splitlines()
    assert warning.startswith(f"warning: {path}: the day in the name is used, although 1 rows ")


@pytest.mark.parametrize("name", ["1969-12-31", "2150-01-01", "2024-02-30"])
def test_a_name_that_is_no_plausible_day_does_not_count(name):
    write_file(FLAT / f"{name}.csv", flat_text([("A", 1, 1)], "2024-08-02"))
    assert list(built(FLAT)["A"]) == ["2024-08-02"]


def test_of_several_rows_for_a_day_the_last_counts_with_a_warning():
    market = {
        "2024-08-01": [("B", 1, 1), ("A", 1, 1), ("B", 2, 1)],
        "2024-08-02": [("A", 5, 1), ("A", 5, 2), ("A", 5, 3)],
    }
    result = build(write_flat_files(FLAT, market), "lookup_table.pkl")
    table = load_table()
    assert table["B"]["2024-08-01"]["trades"] == 2
    assert table["A"]["2024-08-02"]["close_price"] == 3
    warning, _ = result.stderr.splitlines()
    assert warning.startswith("warning: 3 rows ") and "B on 2024-08-01" in warning


def test_a_header_without_rows_is_skipped_with_a_warning(market_folder):
    paths = [market_folder / "2024-08-09.csv", market_folder / "2024-08-12.csv"]
    for path, end in zip(paths, ("\n", "\r\n")):
        write_file(path, HEADER + end)
    *warnings, summary = build(market_folder, "lookup_table.pkl").stderr.splitlines()
    assert warnings == [f"warning: {path}: no rows below the header, skipped" for path in paths]
    assert summary.startswith("10 tickers, 6 days, 55 rows, ")


def test_a_last_line_without_an_end_is_read_with_a_warning():
    path = write_file(Path(f"flat/{LAST_DAY}.csv"), flat_text([("A", 401, 1)])[:-2])
    warning, _ = build("flat", "lookup_table.pkl").stderr.splitlines()
    assert warning == f"warning: {path}: its last line has no end, so the file may be cut off"
    assert load_table()["A"][LAST_DAY]["trades"] == 40


PLAIN_TEXT = flat_text([("A", 36394, 142.86), ("NA", 2, 0.5)])
PLAIN_ROWS = {"A": (36394, 142.86), "NA": (2, 0.5)}
PLAIN_LINES = [line.split(",") for line in PLAIN_TEXT.splitlines()]
SPELLINGS = {
    "plain": PLAIN_TEXT,
    "CRLF": PLAIN_TEXT.replace("\n", "\r\n"),
    "CR": PLAIN_TEXT.replace("\n", "\r"),
    "byte order mark": b"\xef\xbb\xbf" + PLAIN_TEXT.encode(),
    "blank lines": PLAIN_TEXT.replace("\n", "\n\n"),
    "quoted": "".join('"' + '","'.join(fields) + '"\n' for fields in PLAIN_LINES),
    "some quoted": PLAIN_TEXT.replace("\nA,", '\n"A",'),
    "columns reversed": "".join(",".join(reversed(fields)) + "\n" for fields in PLAIN_LINES),
    "extra columns": "".join(f"{n},{','.join(line)},x\n" for n, line in enumerate(PLAIN_LINES)),
    "needed columns only": "".join(f"{f[7]},{f[6]},{f[3]},{f[0]}\n" for f in PLAIN_LINES),
    "trades with decimals": PLAIN_TEXT.replace("94\n", "94.0\n").replace(",2\n", ",2.0\n"),
    "fractional volume": PLAIN_TEXT.replace(",1000,", ",1000.52431,"),
    "exponent": PLAIN_TEXT.replace(",0.5,", ",5e-1,"),
}


@pytest.mark.parametrize("what", SPELLINGS)
def test_every_spelling_of_a_file_gives_the_same_rows(what):
    write_file(Path("flat/2024-08-08.csv"), SPELLINGS[what])
    stats = {ticker: days["2024-08-08"] for ticker, days in built("flat").items()}
    assert {ticker: (s["trades"], s["close_price"]) for ticker, s in stats.items()} == PLAIN_ROWS


# What it refuses

GOOD = flat_text([("A", 3, 2.5), ("B", 4, 2.5)], "2024-08-02")
NANOSECONDS = str(window_start("2024-08-02"))
MINUTES = GOOD + GOOD.splitlines()[1].replace(NANOSECONDS, f"{NANOSECONDS[:-11]}60000000000") + "\n"


BAD_VALUES = {
    "transactions": ["", "-1", "nan", "many", "1.5", "2147483648"],
    "close": ["", "-1", "nan", "1e999", "0x10"],
    "window_start": ["", "2024-08-02", NANOSECONDS[:-3], "9" * 30],
    "ticker": ["", "B" * 40, "B\x1b[31m", "B\u202e"],
}


def with_value(column, text):
    """GOOD, with text in column of its second row."""
    lines = [line.split(",") for line in GOOD.splitlines()]
    lines[2][lines[0].index(column)] = text
    return "\n".join([*map(",".join, lines), ""])


PACKED = gzip.compress(GOOD.encode() * 20, mtime=0)
# The content of a flat file, and what the line that refuses it says.
BAD = {
    f"{column} {text[:12]!r}": (with_value(column, text), "line 3: ", column)
    for column, texts in BAD_VALUES.items()
    for text in texts
}
BAD |= {
    "a ticker that is not UTF-8": (GOOD.encode().replace(b"B,", b"\xff,"), "line 3: ", "ticker"),
    "one field missing": (GOOD.replace("B,1000,", "B,"), "line 3: ", "7 fields"),
    "a decimal comma": (with_value("close", "2,5"), "line 3: ", "9 fields"),
    "a quote that is not closed": (GOOD.replace("B,", '"B,'), "line 3: ", "unexpected end"),
    "cut off in its last line": (GOOD[: -len(",4\n")], "line 3", "cut off"),
    "empty": (b"", "it has none"),
    "no header": (GOOD.partition("\n")[2], "it has A, 1000, 2.5"),
    "two columns missing": (
        GOOD.replace("close", "Close").replace("ticker", "T"),
        "must have each of these columns once: ticker, close; it has T, volume, open, Close, ",
    ),
    "a column twice": (GOOD.replace("open", "close"), ": close; "),
    "UTF-16": (GOOD.encode("utf-16"), "must have each of these columns once: ticker, "),
    "an error page of S3": ("<?xml?>\n<Error><Code>AccessDenied</Code>", "error page of a server"),
    "minutes": (MINUTES, "minutes"),
    "minutes, quoted": (MINUTES.replace("A,", '"A",'), "minutes"),
}


@pytest.fixture
def refuse(empty_folder):
    """A function that asserts that the builder refuses the flat files in flat, and how."""

    def refuse(*parts):
        write_file(Path("lookup_table.pkl"), "the old table")
        names = sorted(os.listdir())
        result = build("flat", "lookup_table.pkl", "--json")
        assert_refused(result, *parts)
        assert "saved" not in result.stdout
        assert Path("lookup_table.pkl").read_text() == "the old table"
        assert sorted(os.listdir()) == names

    return refuse


def write_between_good_files(content, suffix=".csv"):
    """The path of a file with content that has a good one on either side."""
    write_flat_files(FLAT, {day: [("A", 2, 2)] for day in ("2024-08-01", "2024-08-05")})
    return write_file(Path("flat/2024-08-02.csv"), content).rename(f"flat/2024-08-02{suffix}")


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_refused_by_its_name_and_a_bad_line_by_its_number(refuse, what):
    content, *parts = BAD[what]
    write_between_good_files(content)
    refuse("flat/2024-08-02.csv", *parts)


def test_control_characters_in_a_files_name_are_escaped():
    write_file(FLAT / "2024-08-02\x1b[31m\n\x9b.csv", GOOD)
    result = build(FLAT, "lookup_table.pkl")
    assert result.stdout.splitlines()[1] == "Processing 2024-08-02\\x1b[31m\\n\\x9b.csv"


@pytest.mark.parametrize(
    "content",
    [
        *(PACKED[:length] for length in (2, 50, -8, -1)),
        PACKED[:40] + bytes(8) + PACKED[48:],
        PACKED[:-8] + b"\0\1\2\3" + PACKED[-4:],  # the checksum
        PACKED + b"and more",
    ],
)
def test_a_gz_that_is_cut_short_or_damaged_is_refused(refuse, content):
    write_between_good_files(content, ".csv.gz")
    refuse("flat/2024-08-02.csv.gz: broken .gz (", "): download it again\n")


def test_without_flat_files_there_is_advice(refuse):
    for name in ("README.md", "2024-08-02.CSV.zip", "reference/tickers.csv"):
        write_file(FLAT / name, "ticker,name,type\n")
    refuse("no *.csv or *.csv.gz in flat: ", "--data-dir", "--download FROM\n")


def test_a_link_that_leads_nowhere_is_named(refuse):
    write_between_good_files(GOOD)
    os.symlink("../gone", "flat/2024-09-02.csv")
    refuse("flat/2024-09-02.csv: No such file")


def test_files_without_any_row_are_refused(refuse):
    for day in DAYS:
        write_file(Path(f"flat/{day}.csv"), f"{HEADER}\n")
    refuse("no rows in any of 6 flat files, such as flat/2024-08-01.csv\n")


def test_up_to_one_bad_line_in_a_hundred_is_left_out_with_a_warning():
    rows = [flat_row(f"T{n}", n, 2, "2024-08-02") for n in range(200)]
    rows[15], rows[99] = rows[15].replace(",15", ",many"), "T99,1"
    path = write_file(Path("flat/2024-08-02.csv"), "\n".join([HEADER, *rows, ""]))
    result = build("flat", "lookup_table.pkl")
    assert result.returncode == 0
    assert set(load_table()) == {f"T{n}" for n in range(200)} - {"T15", "T99"}
    first_line, _ = result.stderr.splitlines()
    assert first_line.startswith(f"warning: {path}: 2 lines left out, first line 17: transactions")
    assert "'many'" in first_line


FIELDS_OF_LINES = {
    "ticker": st.sampled_from(["A", "NA", "é", "", "B" * 32, "\x7f", " C"]),
    "open": st.sampled_from(["1", "", "NA", "-1", "0", "True", "1e999", "+2", ".5", " 3 "]),
    "close": st.sampled_from(["1", "-0.0", "", "nan", "-1", "x", "1e999", "1e-3", "2."]),
    "window_start": st.sampled_from([str(window_start(day)) for day in DAYS] + ["", "1", "1.7e18"]),
    "transactions": st.sampled_from(["1", "0", "12.0", "1.5", "", "-1", "2147483648", "1e2", "x"]),
}


@given(lines=st.lists(st.fixed_dictionaries(FIELDS_OF_LINES), min_size=1, max_size=3))
def test_a_file_means_the_same_with_and_without_quotes(lines):
    outcomes = []
    for quote in ("", '"'):  # quotes have a file read line by line
        header = ",".join(f"{quote}{name}{quote}" for name in FIELDS_OF_LINES)
        text = "\n".join([header, *(",".join(line.values()) for line in lines), ""])
        write_file(Path("flat/market.csv"), text)
        result = build("flat", "lookup_table.pkl")
        outcome = result.stderr if result.returncode else Path("lookup_table.pkl").read_bytes()
        outcomes.append(outcome)
    assert outcomes[0] == outcomes[1]


def test_a_close_of_minus_zero_is_zero():
    table = built(write_flat_files(FLAT, days_in_a_row([1], ["-0.0"])))
    assert str(table["A"]["2024-03-01"]["close_price"]) == "0.0"


@pytest.mark.parametrize("name", ["2024-08-01.csv.gz", "2024-08-01.CSV.GZ", "2024-08-01.CSV"])
def test_whether_a_file_is_packed_is_seen_in_its_first_bytes(name):
    text = flat_text([("A", 1, 1)], "2024-08-08")
    for content in (text.encode(), gzip.compress(text.encode())):
        write_file(Path("flat/x"), content).rename(f"flat/{name}")
        assert list(built("flat")["A"]) == ["2024-08-01"]  # the name's day


@pytest.mark.parametrize(
    ("ages", "counts", "warns"),
    [
        ({"2024-08-01.csv": 5, "2024-08-01.csv.gz": 5}, "2024-08-01.csv", False),
        ({"2024-08-01.csv": 5, "08/2024-08-01.csv.gz": 9}, "2024-08-01.csv", True),
        ({"2024-08-01.csv": 9, "2024-08-01.csv.gz": 5}, "2024-08-01.csv.gz", True),
        ({"b/2024-08-01.csv": 5, "a/2024-08-01.csv": 9}, "b/2024-08-01.csv", True),
    ],
)
def test_of_two_files_of_a_day_the_one_modified_last_counts(ages, counts, warns):
    for name, age in ages.items():
        trades = 7 if name == counts else 1
        path = write_file(Path("flat", name), flat_text([("A", trades, 1)], "2024-08-01"))
        os.utime(path, (10**9 - age, 10**9 - age))
    result = build("flat", "lookup_table.pkl")
    assert result.stdout.count("Processing") == 1
    assert load_table()["A"]["2024-08-01"]["trades"] == 7
    assert ("warning" in result.stderr) == warns
    assert not warns or all(name in result.stderr for name in ages)


# Where it writes

OLD = "the old table"


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (".", "is a folder or a device"),
        ("/dev/null", "is a folder or a device"),
        ("pipe.pkl", "is a folder or a device"),
        ("link", "would replace a file of this build"),
        ("aggregates_day/2024-08-01.csv", "would replace a file of this build"),
        ("linked.pkl", "would replace a file of this build"),
        ("/proc/self/table.pkl", "not written: "),
        ("x" * 300, "not written: "),
    ],
)
def test_an_output_that_cannot_be_or_would_do_harm_is_refused(market_folder, output, reason):
    os.symlink("aggregates_day/2024-08-01.csv", "link")
    os.mkfifo("pipe.pkl")
    write_file(Path("linked.pkl"), OLD)
    os.symlink("linked.pkl", "linked.json")
    before = {path: path.is_file() and path.read_bytes() for path in Path().rglob("*")}
    assert_refused(build(market_folder, output, "--json"), output[:6], reason)
    assert {path: path.is_file() and path.read_bytes() for path in Path().rglob("*")} == before


@pytest.mark.parametrize(("share", "name"), [(0.5, "lookup_table.pkl"), (1, "lookup_table.json")])
def test_on_a_full_disk_both_old_files_stay(sample_table, share, name):
    for old in ("lookup_table.pkl", "lookup_table.json"):
        write_file(Path(old), OLD)
    size = int(share * sample_table.stat().st_size)  # the JSON is larger than the table
    result = run(
        "build-lookup-table.py",
        *["--data-dir", SAMPLE_MARKET, *["--json"] * (share == 1)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    assert_refused(result, f"{name} not written: {os.strerror(errno.EFBIG)}")
    assert "saved" not in result.stdout
    assert [path.read_text() for path in Path().iterdir()] == [OLD, OLD]


def test_a_build_without_enough_memory_is_one_line_and_the_old_table_stays(market_folder):
    write_file(Path("lookup_table.pkl"), OLD)
    write_file(market_folder / "2024-08-09.csv", HEADER + "\n1" * 60_000_000)
    limit = (2**30, 2**30)
    result = run(
        "build-lookup-table.py",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
    )
    assert_refused(result, "not enough memory")
    assert Path("lookup_table.pkl").read_text() == OLD


# Ends with a signal while the unfinished file is there.
STOPPED = """
import importlib, os, signal, sys
sys.path.append(sys.argv[1])
builder = importlib.import_module("build-lookup-table")
builder.write_day_pages = lambda *_: os.kill(os.getpid(), int(sys.argv[2]))
sys.exit(builder.main([]))
"""


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_build_that_is_stopped_leaves_the_old_table(market_folder, number, status):
    write_file(Path("lookup_table.pkl"), OLD)
    words = [sys.executable, "-B", "-c", STOPPED, TOP, str(int(number))]
    result = subprocess.run(words, capture_output=True, encoding="utf-8")
    assert (result.returncode, result.stderr) == (status, "")
    assert Path("lookup_table.pkl").read_text() == OLD
    left = set(os.listdir()) - {"aggregates_day", "lookup_table.pkl"}
    assert len(left) == (1 if number == signal.SIGKILL else 0)
    for hours, still_there in ((23, left), (25, set())):  # what was left, so many hours later
        for name in left:
            os.utime(name, (time.time() - hours * 3600,) * 2)
        built(market_folder)
        assert set(os.listdir()) - {"aggregates_day", "lookup_table.pkl"} == still_there


def test_where_stdout_fails_there_is_status_1_and_at_most_one_line(market_folder):
    with open("/dev/full", "w") as full:
        result = run("build-lookup-table.py", stdout=full)
    assert_refused(result, f"output not written: {os.strerror(errno.ENOSPC)}")
    reader, writer = os.pipe()
    os.close(reader)
    result = run("build-lookup-table.py", stdout=writer)
    os.close(writer)
    assert (result.returncode, result.stderr) == (1, "")
    assert os.listdir() == ["aggregates_day"]


def test_a_package_that_is_missing_is_named_in_one_line(empty_folder):
    write_file(Path("packages/numpy.py"), "raise ModuleNotFoundError(name='numpy')")
    environment = {**os.environ, "PYTHONPATH": "packages"}
    assert_refused(run("build-lookup-table.py", env=environment), "numpy is missing: pip install")


@pytest.mark.parametrize("script", ["build-lookup-table", "query-lookup-table"])
def test_importing_a_script_does_nothing(empty_folder, script):
    lines = (
        f"import importlib, sys; sys.path.append(sys.argv[1]); importlib.import_module({script!r})"
    )
    result = subprocess.run([sys.executable, "-B", "-c", lines, str(TOP)], capture_output=True)
    assert (result.returncode, result.stdout + result.stderr, os.listdir()) == (0, b"", [])
