"""Damaged tables: each gives the right answer or one line, and costs little.

Fuzzing tries the same bytes each time; TEST_EFFORT=10 makes it ten times as long.
"""

import contextlib
import io
import pickle
import random
import subprocess
import sys
import time
import tracemalloc
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from helpers import EFFORT
from helpers.flat_files import write_file, write_flat_files
from helpers.markets import LAST_DAY
from helpers.scripts import (
    assert_refused,
    build_table,
    builder,
    load_table,
    querier,
    query,
    run_measured,
)
from tools.verify_numbers import EXTENT, FOOTER, MAGIC

pytestmark = pytest.mark.usefixtures("empty_folder")

TABLE = Path("lookup_table.pkl")
# With a window of 2, A has one anomaly: on ANOMALY_DAY, the mean is 3 and the deviation 1.41.
ANOMALY_DAY = "2024-08-05"
A_ROWS = {"2024-08-01": (2, 1), "2024-08-02": (4, 1), ANOMALY_DAY: (9, 1.5), "2024-08-06": (6, 3)}
QUESTIONS = {"day": [ANOMALY_DAY], "ticker": ["--ticker", "A", "--format", "json"]}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The bytes of a small table."""
    folder = tmp_path_factory.mktemp("sound")
    market = {day: [("A", *row), ("B", 5, 2)] for day, row in A_ROWS.items()}
    files = write_flat_files(folder / "flat", market)
    write_file(files / "reference" / "tickers.csv", "ticker,name,type\nA,A Company,CS\n")
    return build_table(files, folder / "table.pkl", "--window", 2).read_bytes()


@cache
def options_of(question):
    return querier.parse_arguments(["--table", str(TABLE), *QUESTIONS[question]])


def ask(content, question):
    """What the querier says of a table's bytes. Options are parsed once: that takes longest."""
    write_file(TABLE, content)
    stdout, stderr, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            with querier.open_file(TABLE) as file:
                table = querier.table_in(file)
                print(*querier.answer(table, options_of(question)), sep="", end="")
        except (querier.TableError, querier.NoDataError) as error:
            print(querier.printable(error), file=sys.stderr)
            status = 1
    return subprocess.CompletedProcess(question, status, stdout.getvalue(), stderr.getvalue())


@pytest.fixture
def answers(sound, empty_folder):
    """{question: what the sound table answers}."""
    answers = {question: ask(sound, question) for question in QUESTIONS}
    assert {(answer.returncode, answer.stderr) for answer in answers.values()} == {(0, "")}
    return {question: answer.stdout for question, answer in answers.items()}


def is_answered(result):
    """Whether there is an answer. If there is none, one line must say why."""
    if result.returncode:
        assert_refused(result)
    return result.returncode == 0


def test_builder_and_querier_have_the_same_constants():
    for name in ("Z_THRESHOLD", "TOLERANCE", "FIELDS", "SIGNATURE", "MAGIC"):
        assert getattr(builder, name) == getattr(querier, name)
    for name in ("EXTENT", "INDEX_HEADER", "INDEX_DAY", "FOOTER"):
        assert getattr(builder, name).format == getattr(querier, name).format
    columns = {name: np.dtype(code) for name, code in querier.DAY_PAGE_COLUMNS.items()}
    assert columns == {name: np.dtype(code) for name, code in builder.DAY_PAGE_COLUMNS.items()}


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


def test_any_damaged_table_gives_the_right_answer_or_one_line(sound, answers):
    counts = [0, 0, 0]
    for content in damaged_tables(sound):
        results = {question: ask(content, question) for question in QUESTIONS}
        answered = [question for question, result in results.items() if is_answered(result)]
        assert [q for q in answered if results[q].stdout != answers[q]] == []
        counts[len(answered)] += 1
    assert all(counts)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_plain_table_damaged_by_chance_gives_an_answer_or_one_line(market_table, protocol):
    rng = random.Random(protocol)
    table = pickle.dumps(load_table(market_table), protocol)
    answered = {False: 0, True: 0}
    for _ in range(200 * EFFORT):
        write_file(TABLE, mutated(rng, table))
        answered[is_answered(query(TABLE))] += 1
    assert all(answered.values())


# What a query reads, and what a bad file costs


def test_a_days_plain_query_reads_its_day_page_and_the_index_alone(sound, answers):
    index_extent, _ = FOOTER.unpack(sound[-FOOTER.size :])
    index_offset, *_ = EXTENT.unpack(index_extent)
    with querier.open_file(TABLE) as file:
        table = querier.table_in(file)
        session = table.dates.index(ANOMALY_DAY)
        offset, length, _ = EXTENT.unpack(table.index_day(session)["extent"])
    rest = bytes(index_offset - offset - length)
    content = bytes(offset) + sound[offset : offset + length] + rest + sound[index_offset:]
    assert ask(content, "day").stdout == answers["day"]
    assert_refused(ask(content, "ticker"))


def test_an_extent_longer_than_the_file_is_refused_and_costs_no_memory(sound):
    far, size = 2**64 - 1, len(sound)
    tracemalloc.start()
    try:
        for offset, length in [
            (far, far),
            (far, 8),
            (0, far),
            (0, 2**26),
            (0, size + 1),
            (size, 1),
        ]:
            footer = FOOTER.pack(EXTENT.pack(offset, length, 0), MAGIC)
            assert_refused(ask(sound[: -len(footer)] + footer, "day"), TABLE)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 10 * 2**20


def test_a_day_that_claims_more_rows_than_its_page_has_is_refused(sound):
    index_extent, _ = FOOTER.unpack(sound[-FOOTER.size :])
    offset, length, _ = EXTENT.unpack(index_extent)
    index = bytearray(sound[offset : offset + length])
    rows = index.index(ANOMALY_DAY.encode()) + 10 + EXTENT.size
    assert index[rows : rows + 4] == b"\2\0\0\0"
    index[rows : rows + 4] = b"\xff" * 4
    footer = FOOTER.pack(EXTENT.pack(offset, length, zlib.crc32(index)), MAGIC)
    assert_refused(ask(sound[:offset] + index + footer, "day"), "damaged")


@pytest.mark.parametrize("signature", [b"", b"\x80\x03X\x0c\x00\x00\x00lookup table0"])
@pytest.mark.parametrize("length", [None, 6 * 2**30], ids=["no footer", "6 GB"])
def test_a_sparse_file_of_6_gb_is_refused_in_100_mb_and_10_seconds(signature, length):
    with TABLE.open("wb") as file:
        file.write(signature)
        file.seek(6 * 2**30)
        file.write(FOOTER.pack(EXTENT.pack(0, length, 0), MAGIC) if length else b"\0")
    started = time.monotonic()
    status, stderr, megabytes = run_measured("query-lookup-table.py", LAST_DAY, "--table", TABLE)
    assert (status, stderr.count("\n")) == (1, 1) and "run build-lookup-table.py" in stderr
    assert megabytes < 100 and time.monotonic() - started < 10


@pytest.mark.parametrize("magic", [b"lookup-table", b"lookup-tab-2"])
def test_a_table_of_an_older_version_is_refused_and_to_be_built_anew(sound, magic):
    write_file(TABLE, sound[: -len(MAGIC)] + magic)
    assert_refused(query(TABLE), f"{TABLE} is of an older version: run build-lookup-table.py again")
