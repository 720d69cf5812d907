"""Damaged, forged and spliced tables: each gives the right answer or one line, and costs little.

Fuzzing tries the same bytes each time; TEST_EFFORT=10 makes it ten times as long.
"""

import contextlib
import csv
import io
import json
import math
import pickle
import random
import struct
import subprocess
import sys
import time
import tracemalloc
from functools import cache
from pathlib import Path

import pytest
from fakes.made_up_table import (
    ANOMALY_DAY,
    DATES,
    EXTENT,
    FOOTER,
    INDEX_DAY,
    INDEX_HEADER,
    MAGIC,
    PAGE_COLUMNS,
    PARTS,
    made_up_table,
)
from helpers import EFFORT
from helpers.flat_files import write_file, write_flat_files
from helpers.markets import LAST_DAY, MARKET, rows_by_day
from helpers.scripts import (
    ANOMALY_FIELDS,
    assert_refused,
    build_table,
    load_table,
    querier,
    query,
    run_measured,
    strict_json,
)

pytestmark = pytest.mark.usefixtures("empty_folder")

TABLE = Path("lookup_table.pkl")
# Each way of asking for the one anomaly of the made-up table.
QUESTIONS = {
    "day": [ANOMALY_DAY],
    "wide": [ANOMALY_DAY, "--format", "wide"],
    "csv": [ANOMALY_DAY, "--format", "csv"],
    "range": [DATES[0], DATES[-1], "--format", "json"],
    "ticker": ["--ticker", "A", "--format", "json"],
    "aftermath": ["--aftermath"],
}


@cache
def options_of(question):
    return querier.parse_arguments(["--table", str(TABLE), *QUESTIONS[question]])


def ask(content, question):
    """What the querier says of a table's bytes. Options are parsed once: that takes longest."""
    write_file(TABLE, content)
    stdout, stderr = io.StringIO(), io.StringIO()
    status = 0
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            querier.print_answer(options_of(question))
        except (querier.TableError, querier.NoDataError) as error:
            print(querier.printable(error), file=sys.stderr)
            status = 1
    return subprocess.CompletedProcess(question, status, stdout.getvalue(), stderr.getvalue())


@pytest.fixture
def answers(empty_folder):
    """{question: what the sound table answers}."""
    answers = {question: ask(made_up_table(), question) for question in QUESTIONS}
    assert {(answer.returncode, answer.stderr) for answer in answers.values()} == {(0, "")}
    return {question: answer.stdout for question, answer in answers.items()}


def is_answered(result):
    """Whether there is an answer. If there is none, one line must say why."""
    if result.returncode:
        assert_refused(result)
    return result.returncode == 0


def assert_right_or_refused(content, answers):
    """Each question gets the right answer or one line. Returns the questions that are answered."""
    results = {question: ask(content, question) for question in answers}
    answered = {question for question, result in results.items() if is_answered(result)}
    assert [q for q in answered if results[q].stdout != answers[q]] == []
    return answered


def test_a_table_put_together_from_the_documented_layout_is_read(answers):
    line = f"{'A':<10}{'9':>10}{'3.00':>15}{'1.41':>10}{'4.24':>10}{'1.50':>12}{'50.00':>12}"
    assert line in answers["day"].splitlines()
    facts = {"record": 2, "earlier_rows": 2, "baseline_days": 2, "gap": 25, "long_z": 3.25}
    # From 1.5 to 3, of which a listed split makes half as much again: 4.5 is three times 1.5.
    facts |= {"dollar_volume": 1501, "after_1": 200, "type": "CS", "name": "A Company"}
    for question in ("range", "ticker"):
        (anomaly,) = json.loads(answers[question])
        assert anomaly["z_score"] == 6 / math.sqrt(2) and anomaly["after_5"] is None
        assert facts.items() <= anomaly.items()


# Any damaged file gives the right answer or one line


def mutated(rng, content):
    """content, bytes, with one to three changes to it, and now and then cut short."""
    for _ in range(rng.randint(1, 3)):
        start, other = rng.randrange(len(content) + 1), rng.randrange(len(content) + 1)
        end = start + rng.choice([0, 1, 1, 2, 5, 20])
        inserted = [b"", rng.randbytes(rng.randint(1, 4)), content[start:end] * 2]
        content = content[:start] + rng.choice([*inserted, content[other:][:8]]) + content[end:]
    return content[: rng.randrange(len(content) + 1)] if rng.random() < 0.1 else content


def damaged_tables(table):
    """The bytes of a table: each one changed, cut short at each one, and changed by chance."""
    rng = random.Random(8)
    for i in range(len(table)):
        yield table[:i] + bytes([table[i] ^ (1 << i % 8)]) + table[i + 1 :]
        yield table[:i]
    for _ in range(300 * EFFORT):
        yield mutated(rng, table)


def test_any_damaged_table_gives_the_right_answer_or_one_line(answers):
    few = {question: answers[question] for question in ("day", "ticker")}
    counts = {0: 0, 1: 0, 2: 0}
    for content in damaged_tables(made_up_table()):
        counts[len(assert_right_or_refused(content, few))] += 1
    assert all(counts.values())


def test_two_tables_spliced_give_the_answer_of_one_of_them_or_one_line(market_table):
    other = {ticker: MARKET[ticker] for ticker in ("ZZZ", "NA")}
    build_table(write_flat_files(Path("other"), rows_by_day(other)), "other.pkl")
    tables = {query(path).stdout: path.read_bytes() for path in (market_table, Path("other.pkl"))}
    rng, given = random.Random(9), []
    for _ in range(200 * EFFORT):
        one, two = rng.sample(sorted(tables.values()), 2)
        cut = rng.randrange(len(one))
        write_file(TABLE, one[:cut] + two[cut:])
        result = query(TABLE)
        if is_answered(result):
            given.append(result.stdout)
    assert set(given) == set(tables)


@pytest.mark.parametrize("part", PARTS)
def test_chance_bytes_with_right_checksums_give_an_answer_or_one_line(part):
    rng = random.Random(part)
    answered = {False: 0, True: 0}
    for _ in range(200 * EFFORT):
        table = made_up_table({part: lambda content: mutated(rng, content)})
        answered[is_answered(ask(table, rng.choice(list(QUESTIONS))))] += 1
    assert all(answered.values())


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_plain_table_damaged_by_chance_gives_an_answer_or_one_line(market_table, protocol):
    rng = random.Random(protocol)
    table = pickle.dumps(load_table(market_table), protocol)
    answered = {False: 0, True: 0}
    for _ in range(200 * EFFORT):
        write_file(TABLE, mutated(rng, table))
        answered[is_answered(query(TABLE))] += 1
    assert all(answered.values())


# Forged tables: wrong contents under right checksums


def replaced(old, new):
    return lambda content: content.replace(old, new)


def packed_over(layout, offset, *numbers):
    """A change: numbers, packed by a struct layout, stand at offset."""

    def change(content):
        packed = struct.pack(layout, *numbers)
        return content[:offset] + packed + content[offset + len(packed) :]

    return change


ROWS_OFFSET = INDEX_HEADER.size + 2 * INDEX_DAY.size + 10 + EXTENT.size  # of ANOMALY_DAY
SPLIT = b"\t1\t1.5"
WRONG_CONTENTS = {
    "a count of rows one too high": ("index", packed_over("<I", ROWS_OFFSET, 3)),
    "a 30th of February": ("index", replaced(ANOMALY_DAY.encode(), b"2024-02-30")),
    "a date that is no ASCII": ("index", replaced(ANOMALY_DAY.encode(), b"\xff" * 10)),
    "a day page with a name too many": ("page", lambda page: page + b"\nC"),
    "names that are no UTF-8": ("page", replaced(b"A\nB", b"A\n\xff")),
    "pickled rows that lack a byte": ("rows", lambda rows: rows[:-1]),
    "a slot of a date far off": ("rows", packed_over("<I", 1, 2**32 - 1)),
    "facts of a row too few": ("facts", lambda facts: facts[:-16]),
    "a type too few": ("directory", replaced(b"\nCS", b"")),
    "a name with a line feed": ("directory", replaced(b"A Company", b"A\nCompany")),
    "a split from nothing": ("splits", replaced(SPLIT, b"\t0\t1.5")),
    "a split to infinity": ("splits", replaced(SPLIT, b"\t1\t1e999")),
    "a split of three numbers": ("splits", replaced(SPLIT, SPLIT + b"\t1")),
}
# The question that each of PARTS is needed for.
NEEDED_BY = dict(zip(PARTS, ["day", "ticker", "ticker", "ticker", "csv", "day"]))


@pytest.mark.parametrize("what", WRONG_CONTENTS)
def test_wrong_contents_with_right_checksums_are_refused(what):
    part, change = WRONG_CONTENTS[what]
    content = made_up_table({part: change})
    assert content != made_up_table()
    assert ask(content, NEEDED_BY[part]).returncode == 1
    for question in QUESTIONS:
        is_answered(ask(content, question))


@pytest.mark.parametrize("column", PAGE_COLUMNS)
def test_whatever_numbers_a_day_page_holds_csv_and_json_can_be_parsed(column):
    code = PAGE_COLUMNS[column]
    codes_before = list(PAGE_COLUMNS.values())[: list(PAGE_COLUMNS).index(column)]
    offset = sum(2 * struct.calcsize(before) for before in codes_before)
    odd = {
        "i": [-(2**31), -1, 0, 2**31 - 1],
        "H": [0, 1, 2**16 - 1],
        "d": [math.nan, math.inf, -math.inf, -0.0, 0.0, 5e-324, -1.0, 1.7e308, -1.7e308],
        "f": [math.nan, math.inf, -math.inf, -0.0, 0.0, 1e-45, -1.0, 3e38, -3e38],
    }[code]
    for pair in zip(odd, odd[1:] + odd[:1]):
        content = made_up_table({"page": packed_over(f"<2{code}", offset, *pair)})
        results = {q: ask(content, q) for q in ("wide", "csv", "range", "aftermath")}
        assert {(r.returncode, r.stderr) for r in results.values()} == {(0, "")}, pair
        strict_json(results["range"].stdout)
        rows = csv.DictReader(io.StringIO(results["csv"].stdout), strict=True)
        assert rows.fieldnames == ANOMALY_FIELDS
        assert all(None not in [*row, *row.values()] for row in rows)


@pytest.mark.parametrize("part", ["directory", "splits", "facts", "rows"])
def test_a_days_plain_query_reads_no_list_and_no_history(answers, part):
    table = made_up_table(lies={part: (2**64 - 1, 8)})
    assert ask(table, "day").stdout == answers["day"]


# What a bad file costs

FAR = 2**64 - 1


@pytest.mark.parametrize("part", PARTS)
def test_an_extent_longer_than_the_file_is_refused_and_costs_no_memory(part):
    lengths = [(FAR, FAR), (FAR, 8), (0, FAR), (1, FAR), (0, 2**40), (0, 2**26)]
    lengths += [(0, len(made_up_table()) + 1), (len(made_up_table()), 1)]
    tracemalloc.start()
    try:
        for extent in lengths:
            assert_refused(ask(made_up_table(lies={part: extent}), NEEDED_BY[part]), TABLE)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 10 * 2**20


@pytest.mark.parametrize("begins", [b"", made_up_table()[:28]], ids=["zeros", "signature"])
@pytest.mark.parametrize("length", [None, 2**23, 6 * 2**30], ids=["no footer", "8 MB", "6 GB"])
def test_a_sparse_file_of_6_gb_is_refused_in_100_mb_and_10_seconds(begins, length):
    with TABLE.open("wb") as file:
        file.write(begins)
        file.seek(6 * 2**30)
        file.write(FOOTER.pack(EXTENT.pack(0, length, 0), MAGIC) if length else b"\0")
    started = time.monotonic()
    status, stderr, megabytes = run_measured("query-lookup-table.py", LAST_DAY, "--table", TABLE)
    assert (status, stderr.count("\n")) == (1, 1) and "run build-lookup-table.py" in stderr
    assert megabytes < 100 and time.monotonic() - started < 10


@pytest.mark.parametrize("magic", [b"lookup-table", b"lookup-tab-2"])
def test_a_table_of_an_older_version_is_refused_and_to_be_built_anew(magic):
    write_file(TABLE, made_up_table()[: -len(MAGIC)] + magic)
    assert_refused(query(TABLE), f"{TABLE} is of an older version: run build-lookup-table.py again")
