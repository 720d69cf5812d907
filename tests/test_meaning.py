"""What an anomaly means: the querier's facts, marks and notes are those of witnesses/reference.py.

reference.py was written from the definitions alone and shares no code with the scripts. The markets
are made up (made_up_market.py has every oddity that a definition speaks of), or the sample market.
"""

import csv
import json
import math
import pickle
import re

import pytest
from fakes.made_up_market import RATIOS, TEST_SYMBOL, made_up_lists, made_up_market
from helpers import EFFORT
from helpers.flat_files import read_flat_files, write_file, write_flat_files
from helpers.markets import SAMPLE_MARKET
from helpers.scripts import (
    ANOMALY_FIELDS,
    assert_refused,
    build_table,
    call,
    load_table,
    querier,
)
from hypothesis import given
from hypothesis import strategies as st
from witnesses import reference

TEST_SYMBOLS = {TEST_SYMBOL, "NTEST"}
ALL = "-1e9"  # the threshold that every row with a deviation above 0 is above


class Pair:
    """A market twice: as the reference's Table, and as a table file for the querier.

    listed and splits are the lines of tickers.csv and splits.csv, as in reference.Table.
    """

    def __init__(self, market, folder, window=5, listed=(), splits=()):
        flat_files = write_flat_files(folder / "flat", market)
        # Each row of write_flat_files has a volume of 1000.
        self.market = {day: [(*row, 1000) for row in rows] for day, rows in market.items()}
        self.window, self.splits = window, splits
        self.table = reference.Table(self.market, window, listed, splits)
        for name, heading, lines in [
            ("tickers", ("ticker", "name", "type"), listed),
            ("splits", ("ticker", "execution_date", "split_from", "split_to"), splits),
        ]:
            text = "".join(",".join(line) + "\n" for line in (heading, *lines))
            write_file(flat_files / "reference" / f"{name}.csv", text)
        self.path = build_table(flat_files, folder / "lookup_table.pkl", "--window", window)
        self.answers = {}

    def ask(self, *arguments):
        """What the querier prints. Answers are kept, because several tests need the same ones."""
        words = tuple(map(str, arguments))
        if words not in self.answers:
            result = call(querier, *words, "--table", self.path)
            # A note says that the first days have no baseline, or that tickers have no type.
            lines = result.stderr.splitlines()
            assert result.returncode == 0 and all(line[:6] == "note: " for line in lines), words
            self.answers[words] = result.stdout
        return self.answers[words]

    def ask_json(self, *arguments):
        return json.loads(self.ask(*arguments, "--format", "json"))


def made_up_pair(seed, folder, **size):
    """A market with lists of tickers and splits."""
    market = made_up_market(seed, **size)
    return Pair(market, folder, 5, *made_up_lists(seed, market))


@pytest.fixture(scope="module", params=["sample", "window 10", *range(1, 1 + EFFORT)])
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    if request.param == "sample":
        return Pair(read_flat_files(SAMPLE_MARKET), folder)
    if request.param == "window 10":
        return Pair(made_up_market(4, days=90), folder, window=10)
    return made_up_pair(request.param, folder, days=90)


def json_row(table, row):
    """What json says of a row; std_trades, z_score and long_z are checked apart."""
    return {
        "ticker": row.ticker,
        "date": row.date,
        "trades": row.trades,
        "avg_trades": float(row.avg_trades),
        "close_price": row.close_price,
        "price_diff": row.price_diff if math.isfinite(row.price_diff) else None,
        **reference.facts(table, row, TEST_SYMBOLS),
        "long_z": None if row.long_z is None else pytest.approx(row.long_z, rel=1e-6, abs=6e-5),
    }


def check_json(found, table, rows):
    """Assert that found, the objects of json, are rows, which are the reference's."""
    assert len(found) == len(rows)
    for entry, row in zip(found, rows):
        assert list(entry) == ANOMALY_FIELDS
        deviation, z_score = entry.pop("std_trades"), entry.pop("z_score")
        # The deviation may be the float next to the exact root.
        assert math.isclose(deviation, float(row.std_trades), rel_tol=2.3e-16), row
        assert z_score == (row.trades - float(row.avg_trades)) / deviation
    assert found == [json_row(table, row) for row in rows]


@pytest.mark.parametrize("threshold", ["3", ALL])
def test_json_says_of_each_anomaly_what_the_reference_says(pair, threshold):
    for day in pair.table.days:
        found = pair.ask_json(day, "--threshold", threshold)
        check_json(found, pair.table, reference.anomalies(pair.table, day, float(threshold)))


@given(seed=st.integers(0, 2**32))
def test_whatever_the_market_and_its_lists_json_says_what_the_reference_says(
    tmp_path_factory, seed
):
    pair = made_up_pair(seed, tmp_path_factory.mktemp("any"), days=35, tickers=10)
    rows = [row for day in pair.table.days for row in reference.anomalies(pair.table, day, -1e9)]
    found = pair.ask_json(pair.table.days[0], pair.table.days[-1], "--threshold", ALL)
    check_json(found, pair.table, rows)


# What people are shown

HEADING = (
    "Ticker        Trades     Avg Trades   Std Dev   Z-score Close Price  Price Diff"
    "    Record    Long Z    Dollar Volume    After 1    After 5   After 20  Marks"
)


def wide_line(table, row):
    """A line of the wide list. A column begins with a space, even if its number is too wide."""
    deviation = float(row.std_trades)
    z_score = (row.trades - float(row.avg_trades)) / deviation
    numbers = [float(row.avg_trades), deviation, z_score, row.close_price, row.price_diff]
    cells = [str(row.trades), *(f"{number:.2f}" for number in numbers), reference.record_text(row)]
    cells += ["-" if row.long_z is None else reference.two_decimals(round(row.long_z, 4))]
    cells += [f"{round(row.dollar_volume):,}"]
    cells += [reference.after_text(table, row, horizon) for horizon in reference.HORIZONS]
    widths = 10, 15, 10, 10, 12, 12, 10, 10, 17, 11, 11, 11
    line = "".join(f" {cell:>{width - 1}}" for cell, width in zip(cells, widths))
    marks = reference.marks_text(table, row, TEST_SYMBOLS)
    return f"{row.ticker:<10}{line}  {marks}".rstrip() + "\n"


def share_sentences(table, day):
    def percent(share):
        return f"{float(100 * share):.1f} %"

    tide, long_z = reference.tide(table, day), reference.tide(table, day, "long_z")
    if tide is not None and tide.usual is not None:
        than = f"{tide.higher_than or 'none'} of the {tide.days}"
        than = f"all {tide.days}" if tide.more_than_all else than
        yield (
            f"{tide.anomalies:,} of {tide.tickers:,} tickers with a baseline "
            f"({percent(tide.share)}) are anomalies; the usual is {percent(tide.usual)}; "
            f"more than on {than} days before."
        )
    if long_z is not None and long_z.usual is not None:
        yield (
            f"{long_z.anomalies:,} of {long_z.tickers:,} tickers with a long z-score "
            f"({percent(long_z.share)}) have one above 3; the usual is {percent(long_z.usual)}."
        )
    kind, found = reference.expiration_tide(table, day)
    if kind is not None:
        usual = ""
        if found is not None and found.usual is not None:
            usual = f"; on the {found.days} such days before, {percent(found.usual)} are usual"
        yield f"Options expire on this day ({kind}){usual}."


def record_sentence(table, day):
    found = reference.record_line(table, day)
    if found:
        yield (
            f"Of {found.tickers:,} tickers with at least {found.least} earlier rows, "
            f"{found.records:,} have a record of {found.least} or more; chance alone would make "
            f"{float(found.by_chance):.1f}."
        )


def median_sentence(table, day):
    numbers = {h: reference.median_ticker(table, day, h) for h in reference.HORIZONS}
    known = [horizon for horizon in reference.HORIZONS if numbers[horizon] is not None]
    if not known:
        return
    # Horizons that are over, but at which nobody is left, are not mentioned.
    follow = len(table.days) - 1 - table.days.index(day)
    names = {1: "1 day", 5: "5", 20: "20"}
    said = [f"{reference.two_decimals(numbers[h])} % after {names[h]}" for h in known]
    said += [f"not known yet after {names[h]}" for h in reference.HORIZONS if h > follow]
    better, cases = reference.did_better(table, day, known[-1])
    did = ""
    if cases:
        count = f"{better.numerator / better.denominator:.1f}".replace(".0", "")
        did = f"; {count} of {cases} anomalies did better after {names[known[-1]]}"
    yield f"The median ticker's price changed by {', '.join(said)}{did}."


def wide_text(table, day, rows):
    """The wide list of a day in which rows are listed."""
    text = f"\nAnomalies Found for {day}:\n\n{HEADING}\n{'-' * len(HEADING)}\n"
    text += "".join(wide_line(table, row) for row in rows)
    sentences = share_sentences, record_sentence, median_sentence
    notes = "".join(f"{note}\n" for each in sentences for note in each(table, day))
    return f"{text}\n{notes}" if notes else text


@pytest.mark.parametrize("threshold", ["3", ALL])
def test_the_wide_list_and_its_notes_agree_with_the_reference(pair, threshold):
    table = pair.table
    for day in table.days:
        rows = reference.anomalies(table, day, float(threshold))
        found = pair.ask(day, "--format", "wide", "--threshold", threshold)
        assert found == wide_text(table, day, rows)


# Ranges and tickers


@pytest.mark.parametrize("threshold", ["3", ALL])
@pytest.mark.parametrize("form", ["table", "wide", "csv"])
def test_a_range_is_its_days_one_after_the_other(pair, form, threshold):
    options, days = ["--threshold", threshold, "--format", form], pair.table.days
    heading = ",".join(ANOMALY_FIELDS) + "\n" if form == "csv" else ""
    for first, last in ((0, len(days) - 1), (3, 17), (len(days) - 19, len(days) - 2), (30, 30)):
        single = [pair.ask(day, *options) for day in days[first : last + 1]]
        found = pair.ask(days[first], days[last], *options)
        assert found == heading + "".join(text.removeprefix(heading) for text in single)


@pytest.mark.parametrize("threshold", ["3", ALL])
def test_a_tickers_list_is_what_its_days_say_of_it(pair, threshold):
    days = pair.table.days
    rows_of_days = pair.ask_json(days[0], days[-1], "--threshold", threshold)
    for number, ticker in enumerate(pair.table.tickers):
        expected = [row for row in rows_of_days if row["ticker"] == ticker]
        options = ["--ticker", ticker, "--threshold", threshold]
        assert pair.ask_json(*options) == expected
        if number % 5 == 0:
            between = [row for row in expected if days[20] <= row["date"] <= days[40]]
            assert pair.ask_json(days[20], days[40], *options) == between
            on_one = [row for row in expected if row["date"] == days[33]]
            assert pair.ask_json(days[33], *options) == on_one


# The aftermath

AFTERMATH_FIELDS = ["z_from", "move", "horizon", "cases", "better", "two_se", "median_excess"]
AFTERMATH_FIELDS += ["left_out"]


@pytest.fixture(scope="module")
def long_pair(tmp_path_factory):
    """A market long enough for standard errors: a class needs cases in 10 blocks of 20 days."""
    return made_up_pair(7, tmp_path_factory.mktemp("long"), days=300, tickers=20)


def test_an_expiration_is_compared_with_the_earlier_ones_of_its_kind(long_pair):
    expected, found = [], []
    for day in long_pair.table.days:
        expected += [text for text in share_sentences(long_pair.table, day) if "expire" in text]
        lines = long_pair.ask(day, "--format", "wide").splitlines()
        found += [line for line in lines if "expire" in line]
    assert found == expected
    # Fourteen months from January 2020 on: ten monthly ones, of which the fifth has four before it,
    # and four quarterly ones.
    with_usual = ["monthly" in text and "usual" in text for text in found]
    assert len(found) == 14 and with_usual.count(True) == 6


@pytest.mark.parametrize(
    ("dates", "kind"),
    [
        (["2024-11-15"], "monthly"),  # the earliest that there is
        (["2024-06-21"], "quarterly"),  # the latest
        (["2024-10-11"], None),
        (["2024-10-25"], None),
        (["2024-10-17", "2024-10-18"], None),
        (["2019-04-18", "2019-04-22"], "monthly"),  # before Good Friday
        (["2019-04-18"], None),  # whether there is trading on the Friday is not known yet
        (["2019-04-17", "2019-04-22"], None),
    ],
)
def test_options_expire_on_the_third_friday_or_the_thursday_before(dates, kind):
    assert querier.expiration_kind(dates, 0) == kind


def check_aftermath(pair, until):
    """Assert that json and csv have the reference's aftermath up to the date until; return it."""
    expected = reference.aftermath(pair.market, until, pair.window, pair.splits)
    assert len(expected) == 36
    found = pair.ask_json(until, "--aftermath")
    rows = list(csv.DictReader(pair.ask(until, "--aftermath", "--format", "csv").splitlines()))
    assert len(found) == len(rows) == 36
    for entry, line, row in zip(found, rows, expected):
        assert list(entry) == list(line) == AFTERMATH_FIELDS == list(row)
        for field, value in row.items():
            is_float = field in ("better", "two_se", "median_excess") and value is not None
            assert entry[field] == (pytest.approx(value, rel=1e-9) if is_float else value), row
            assert line[field] == ("" if entry[field] is None else str(entry[field]))
    return expected


@pytest.mark.parametrize("days_before_the_end", [0, 1, 20])
def test_the_aftermath_agrees_with_the_reference(pair, days_before_the_end):
    check_aftermath(pair, pair.table.days[-1 - days_before_the_end])


@pytest.mark.parametrize("day", [299, 219, 199])
def test_a_long_aftermath_has_standard_errors_in_every_format(long_pair, day):
    days = long_pair.table.days[: day + 1]
    rows = check_aftermath(long_pair, days[-1])
    assert [row["two_se"] for row in rows] != [None] * 36
    shown = [line for line in long_pair.ask(days[-1], "--aftermath").splitlines() if line]
    assert shown[:3] == [
        f"What followed the anomalies from {days[0]} to {days[-1]}:",
        "Days  Z-score   Price       Cases  Better %   ± 2 SE  Median Excess  Left Out",
        "-" * 77,
    ]
    assert shown[3:39] == [
        aftermath_line(row) for h in reference.HORIZONS for row in rows if row["horizon"] == h
    ]


def aftermath_line(row):
    def shown(value, decimals):
        return "-" if value is None else f"{value:.{decimals}f}"

    z_class = {3: "3-5", 5: "5-10", 10: "10-30", 30: "above 30"}[row["z_from"]]
    # More than 3 standard errors away from 50; two_se is 2 of them.
    is_marked = row["two_se"] is not None and abs(row["better"] - 50) > 3 * row["two_se"] / 2
    return (
        f"{row['horizon']:<6}{z_class:<10}{row['move']:<8}{row['cases']:>9,}"
        f"{shown(row['better'], 1):>10}{shown(row['two_se'], 1):>9}"
        f"{shown(row['median_excess'], 2):>15}{row['left_out']:>10,}" + "  *" * is_marked
    )


def test_the_aftermath_says_what_it_is_not(long_pair, sample_table):
    said = ["how often, not how much", "no entry price", "no costs", "not adjusted", "no index"]
    said += ["tickers that were gone", "suspected splits", "only tickers in the files", "no advice"]
    said += ["list of splits are taken out"]
    text = " ".join(long_pair.ask("--aftermath").split())
    assert [each for each in said if each not in text] == []
    assert "is unknown" not in text
    # 10 blocks of 20 days take more than 180 days.
    few = call(querier, "--aftermath", "--table", sample_table).stdout
    assert few.splitlines()[-1] == (
        "± 2 SE is unknown: it needs cases in 10 blocks of 20 days, and the number of days is 56."
    )


# Which rows, and in which order


def listed(text, form):
    """The (ticker, date) of each anomaly of a day or a range, in whatever format."""
    if form == "json":
        return [(row["ticker"], row["date"]) for row in json.loads(text)]
    if form == "csv":
        return [(row["ticker"], row["date"]) for row in csv.DictReader(text.splitlines())]
    found, day = [], None
    for line in text.splitlines():
        if line.startswith("Anomalies Found for "):
            day = line.split()[-1].rstrip(":")
        elif re.match(r"[\w.]+ +\d+ +\d+\.\d\d ", line):
            found.append((line.split()[0], day))
    return found


FILTERS = {
    "--skip split": lambda row, marks: "split" not in marks,
    "--skip new,thin": lambda row, marks: not {"new", "thin"} & marks,
    "--skip split,new,thin,stale,test": lambda row, marks: not marks,
    "--min-record 20": lambda row, marks: row.record >= 20,
    "--min-long-z 1.5": lambda row, marks: row.long_z is not None and round(row.long_z, 4) >= 1.5,
    "--min-dollars 50000": lambda row, marks: round(row.dollar_volume) >= 50000,
    "--min-record 9 --skip new --min-trades 500 --min-price 30": lambda row, marks: (
        row.record >= 9 and "new" not in marks and row.trades >= 500 and row.close_price >= 30
    ),
}


@pytest.mark.parametrize("options", FILTERS)
def test_filters_mean_the_same_in_every_format(pair, options):
    table, keeps = pair.table, FILTERS[options]
    days = table.days[-40:]
    rows = [row for day in days for row in reference.anomalies(table, day)]
    expected = [
        (row.ticker, row.date)
        for row in rows
        if keeps(row, set(reference.marks(table, row, TEST_SYMBOLS)))
    ]
    assert 0 < len(expected) < len(rows)
    asked = [days[0], days[-1], *options.split(), "--format"]
    for form in ("table", "wide", "csv", "json"):
        assert listed(pair.ask(*asked, form), form) == expected
    for ticker in {row.ticker for row in rows[::20]}:
        of_ticker = [(name, day) for name, day in expected if name == ticker]
        assert listed(pair.ask(*asked, "json", "--ticker", ticker), "json") == of_ticker


@pytest.mark.parametrize("form", ["table", "wide", "csv", "json"])
def test_a_filter_by_type_says_how_many_have_no_type(tmp_path, form):
    pair = made_up_pair(3, tmp_path, days=40)
    table, days = pair.table, pair.table.days
    rows = [row for day in days for row in reference.anomalies(table, day) if row.record >= 5]
    types = [table.listed.get(row.ticker, (None, None))[0] for row in rows]
    expected = [(row.ticker, row.date) for row, kind in zip(rows, types) if kind in ("CS", "ADRC")]
    assert 0 < len(expected) < len(rows) and None in types and "WARRANT" in types
    options = ["--min-record", 5, "--type", "CS,ADRC", "--format", form, "--table", pair.path]
    result = call(querier, days[0], days[-1], *options)
    assert listed(result.stdout, form) == expected
    assert f"note: {types.count(None)} left out" in result.stderr
    # A ticker's own list says it of that ticker.
    row = next(row for row, kind in zip(rows, types) if kind is None)
    of_ticker = [each.ticker for each in rows].count(row.ticker)
    result = call(querier, "--ticker", row.ticker, *options)
    assert listed(result.stdout, form) == [] and f"note: {of_ticker} left out" in result.stderr


SORT_FIELDS = ["record", "earlier_rows", "baseline_days", "gap", "long_z", "dollar_volume"]
SORT_FIELDS += ["after_1", "after_5", "after_20"]
SORT_FIELDS += ["price_diff", "z_score", "trades", "close_price", "avg_trades"]


@pytest.mark.parametrize("field", SORT_FIELDS)
def test_numbers_sort_with_the_largest_first_and_the_missing_last(pair, field):
    # 20 days follow the first, and none the second.
    for day in (pair.table.days[i] for i in (-30, -1)):
        options = [day, "--threshold", "0.5", "--format", "csv"]
        rows = list(csv.DictReader(pair.ask(*options).splitlines()))
        missing = [row for row in rows if row[field] in ("", "nan")]
        there = [row for row in rows if row not in missing]
        expected = sorted(there, key=lambda row: -float(row[field])) + missing
        options += ["--sort", field]
        assert list(csv.DictReader(pair.ask(*options).splitlines())) == expected
        # The limit comes last, and the other formats stand in the same order.
        first = [(row["ticker"], row["date"]) for row in expected[:3]]
        for form in ("table", "wide", "json"):
            assert listed(pair.ask(*options, "--limit", 3, "--format", form), form) == first


# Plain tables


@pytest.fixture(scope="module")
def plain_pair(tmp_path_factory):
    """A made-up market, of whose table nothing but the plain pickle is left."""
    pair = Pair(made_up_market(1, days=60), tmp_path_factory.mktemp("plain"))
    plain = pickle.dumps(load_table(pair.path))
    pair.path = write_file(pair.path.with_name("plain.pkl"), plain)
    return pair


def as_plain(entry):
    """What is known of an anomaly, an object of json, from a plain table."""
    unknown = [*querier.FACT_FIELDS, "split_after"]
    marks = " ".join(mark for mark in entry["marks"].split() if mark in ("thin", "test"))
    return {**entry, **dict.fromkeys(unknown), "marks": marks}


def test_a_plain_table_has_what_came_after_and_the_marks_thin_and_test(plain_pair):
    table, marks = plain_pair.table, set()
    for day in table.days:
        found = plain_pair.ask_json(day, "--threshold", ALL)
        rows = reference.anomalies(table, day, -1e9)
        expected = [as_plain(json_row(table, row)) for row in rows]
        assert [{field: entry[field] for field in expected[0]} for entry in found] == expected
        marks |= {entry["marks"] for entry in found}
    assert marks == {"", "thin", "test"}


@pytest.mark.parametrize(
    "option", ["--aftermath", "--min-record=3", "--min-long-z=0", "--min-dollars=1", "--type=CS"]
)
def test_a_plain_table_is_refused_where_its_missing_facts_are_needed(plain_pair, option):
    result = call(querier, "2020-02-03", option, "--table", plain_pair.path)
    assert_refused(result, f"{plain_pair.path} is a plain pickle", "build-lookup-table.py")
    assert result.stdout == ""


# Marks


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_split_on_the_very_edge_is_decided_as_in_exact_arithmetic(ratio):
    # Prices are floats: 7.0 after 10.0 may come out as a bit more or less than 0.7.
    differ = []
    for cents in range(2, 20_000, max(1, 61 // EFFORT)):
        for off in (0, 1, -1):
            previous_close = cents / 100
            open_price = round(previous_close * ratio + off / 100, 6)
            gap = reference.gap(open_price, previous_close)
            if querier.is_split(gap) != reference.is_split(open_price, previous_close):
                differ.append((previous_close, open_price))
    assert differ == []
