"""The GUI without a browser: its views and JSON, what it asks of Polygon, and its command."""

import contextlib
import csv
import datetime
import gzip
import importlib.util
import io
import itertools
import json
import os
import pickle
import random
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zlib
from array import array
from html.parser import HTMLParser
from math import inf, isnan, nan
from pathlib import Path
from statistics import mean, stdev
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import pytest
from fakes.polygon import (
    BAR,
    BROKEN,
    DROP,
    EMPTY,
    RATE_LIMIT,
    REFUSALS,
    Answer,
    FakePolygon,
    answered,
    read_days,
    with_bars,
)
from helpers import EFFORT
from helpers.flat_files import new_york_time, write_flat_files
from helpers.gui import (
    KEYS,
    environment,
    free_port,
    is_listening,
    replace_table,
    running_gui,
)
from helpers.lists import is_shown, number, query_json
from helpers.markets import SAMPLE_DAY, SAMPLE_DAYS, SAMPLE_MARKET
from helpers.scripts import (
    KEY,
    TOP,
    assert_refused,
    build_table,
    call,
    command,
    load_script,
    query,
    run,
    wait_until,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tools import soak_gui

gui = load_script("gui-lookup-table.py")

GUI = "gui-lookup-table.py"
VTAK = f"/api/bars?ticker=VTAK&date={SAMPLE_DAY}"
# Traded on the last day of the sample market.
LARGE = ["AAPL", "AMD", "AMZN", "AVGO", "BA", "BABA", "BAC", "C", "F", "GOOG", "META", "MU"]
EXAMPLES = settings(max_examples=100 * EFFORT, derandomize=EFFORT == 1)

# Ticker TINY, by hand: before 2024-01-12 it was traded 10, 20, 30, 40 and 50 times a day.
TINY_DAYS = ["2024-01-0" + day for day in "2345"] + ["2024-01-08", "2024-01-12", "2024-01-16"]
TINY_TRADES = [10, 20, 30, 40, 50, 1000, 90]
TINY_CLOSES = [1, 2, 0.5, 0.5, 0, 4, 5]
# The first five have a mean of 100 and a deviation of 20, so that the sixth's z-score is 3.
AT_THE_THRESHOLD = [80, 80, 100, 120, 120, 160, 90]
TIMES = "\N{MULTIPLICATION SIGN}"
WITHOUT_END = ["area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"]
ODD_TICKERS = [
    "A/../B",
    "../../v3/reference",
    "..",
    ".",
    "X?y#z",
    "A%2FB",
    "A&B=C",
    "A+B C",
    "<script>alert(1)</script>",
    "'\"><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}",
    "NA",
    "Ünïcode☃",
    "\\N",
]


# Reading answers.


class Element:
    """An HTML element: its tag, attributes, children (elements and text) and text."""

    def __init__(self, tag, attributes):
        self.tag, self.attributes, self.children = tag, dict(attributes), []

    def __getitem__(self, name):
        return self.attributes.get(name)

    @property
    def text(self):
        parts = [child if isinstance(child, str) else child.text for child in self.children]
        return " ".join("".join(parts).split())

    @property
    def elements(self):
        return [child for child in self.children if isinstance(child, Element)]

    def find(self, tag=None, **attributes):
        """All elements below this one with the tag and attributes; data_sort means data-sort."""
        wanted = {name.strip("_").replace("_", "-"): attributes[name] for name in attributes}
        found = []
        for child in self.elements:
            matches = all(
                name in child.attributes if value is True else child[name] == value
                for name, value in wanted.items()
            )
            found += [child] if matches and tag in (None, child.tag) else []
            found += child.find(tag, **attributes)
        return found


class Parser(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.open = [Element("document", [])]
        self.feed(html)
        self.close()
        assert len(self.open) == 1, f"not closed: {self.open[-1].tag}"

    def handle_starttag(self, tag, attributes):
        element = Element(tag, attributes)
        self.open[-1].children.append(element)
        if tag not in WITHOUT_END:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag

    def handle_data(self, text):
        self.open[-1].children.append(text)


def parse(response):
    assert response.mimetype == "text/html"
    return Parser(response.get_data(as_text=True)).open[0]


def list_rows(view):
    """The list in a view: a dict of texts by column for each row."""
    (table,) = view.find("table", id="anomalies")
    columns = [header["data-sort"] for header in table.find("th", data_sort=True)]
    assert columns == [
        *("ticker", "trades", "avg_trades", "std_trades"),
        *("z_score", "times_normal", "record", "close_price", "price_diff"),
    ]
    rows = table.find("tr", data_ticker=True)
    texts = [dict(zip(columns, (cell.text for cell in row.elements))) for row in rows]
    assert [row["data-ticker"] for row in rows] == [row["ticker"] for row in texts]
    return texts


def loads(response):
    """The response's JSON, held to the standard, which knows neither NaN nor Infinity."""
    assert response.mimetype == "application/json"
    return json.loads(response.get_data(), parse_constant=pytest.fail)


def without_after(anomalies):
    """What the querier finds, as /api/anomalies gives it."""
    later = {"after_1", "after_5", "after_20", "split_after"}
    rows = [{name: row[name] for name in row if name not in later} for row in anomalies]
    return [{**row, "marks": row["marks"].split()} for row in rows]


def sentence(response, status):
    """The sentence of a JSON answer that is an error with that status."""
    answer = loads(response)
    assert response.status_code == status, answer
    assert list(answer) == (["error", "retry_after"] if status == 429 else ["error"])
    text = answer["error"]
    assert re.fullmatch(r"[^\n<>{}]{10,300}", text), text
    assert "Traceback" not in text
    return text


class StandIn:
    """A stand-in for PolygonBars whose two methods are functions of a test."""

    def __init__(self, fetch_minute_bars, fetch_headlines=None):
        self.fetch_minute_bars = fetch_minute_bars
        self.fetch_headlines = fetch_headlines or fetch_minute_bars


def refuse_to_fetch(*asked):
    raise AssertionError(f"asked for {asked}")


NO_POLYGON = StandIn(refuse_to_fetch)


def views_of(table_path, **options):
    """The DayView and the TickerView of these Options."""
    options = gui.Options(**options)
    with gui.open_table(table_path) as table:
        day = gui.read_day_view(table, options)
        return day, gui.read_ticker_view(table, options, day)


# Tables, and clients of apps that show them.


@pytest.fixture
def client(sample_table):
    return gui.create_app(sample_table, NO_POLYGON).test_client()


@pytest.fixture(scope="module")
def tiny_table(tmp_path_factory):
    """TINY, FLAT with equal trades, and THREE at a z-score of 3 on 2024-01-12, MORE above it."""
    folder = tmp_path_factory.mktemp("tiny")
    market = {
        day: [
            ("FLAT", 7, 1),
            ("TINY", TINY_TRADES[i], TINY_CLOSES[i]),
            ("THREE", AT_THE_THRESHOLD[i], 1),
            ("MORE", AT_THE_THRESHOLD[i] + (day == "2024-01-12"), 1),
        ]
        for i, day in enumerate(TINY_DAYS)
    }
    return build_table(write_flat_files(folder / "csv", market), folder / "lookup_table.pkl")


@pytest.fixture
def tiny_client(tiny_table):
    return gui.create_app(tiny_table, NO_POLYGON).test_client()


@pytest.fixture(scope="module")
def odd_table(tmp_path_factory):
    """Each of ODD_TICKERS, and an anomaly on 2024-01-12."""
    folder = tmp_path_factory.mktemp("odd")
    days = zip(TINY_DAYS[:6], TINY_TRADES)
    market = {day: [(ticker, trades, 1) for ticker in ODD_TICKERS] for day, trades in days}
    return build_table(write_flat_files(folder / "csv", market), folder / "lookup_table.pkl")


@pytest.fixture
def polygon(monkeypatch):
    """The stand-in for Polygon, and a key in the environment."""
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    monkeypatch.delenv("MASSIVE_API_KEY", raising=False)
    with FakePolygon(SAMPLE_MARKET) as fake:
        yield fake


@pytest.fixture
def bars_client(sample_table, polygon):
    """A client of an app that asks the stand-in."""
    return gui.create_app(sample_table, gui.PolygonBars(polygon.url)).test_client()


# The numbers.


def test_the_days_are_those_of_the_flat_files(client):
    assert loads(client.get("/api/days")) == {"days": SAMPLE_DAYS}


@pytest.mark.parametrize("threshold", ["3", "0", "-1e3", "10.5", "1e9"])
@pytest.mark.parametrize("date", [SAMPLE_DAYS[0], SAMPLE_DAYS[5], "2024-09-12", SAMPLE_DAY])
def test_the_anomalies_are_those_that_the_querier_finds(client, sample_table, date, threshold):
    answer = loads(client.get(f"/api/anomalies?date={date}&threshold={threshold}"))
    found = query_json(sample_table, date, f"--threshold={threshold}")
    assert answer["anomalies"] == without_after(found)
    assert answer["date"] == date
    assert answer["threshold"] == float(threshold)
    lines = (SAMPLE_MARKET / f"{date}.csv").read_text().splitlines()
    assert answer["tickers"] == len(lines) - 1


def test_the_default_is_the_last_day_and_a_threshold_of_three(client, sample_table):
    answer = loads(client.get("/api/anomalies"))
    assert (answer["date"], answer["threshold"]) == (SAMPLE_DAY, 3)
    assert answer["anomalies"] == without_after(query_json(sample_table, SAMPLE_DAY))
    assert answer["anomalies"][0]["ticker"] == "VTAK"


def test_an_infinite_change_is_null(tiny_client):
    anomaly = loads(tiny_client.get("/api/anomalies?date=2024-01-12"))["anomalies"][0]
    assert anomaly["trades"] == 1000
    # After a close of 0 the change in percent is infinite.
    assert anomaly["price_diff"] is None


def test_a_history_is_as_worked_out_by_hand(tiny_client):
    rows = loads(tiny_client.get("/api/history?ticker=TINY&date=2024-01-12"))["rows"]
    assert [row["date"] for row in rows] == TINY_DAYS
    assert [row["trades"] for row in rows] == TINY_TRADES
    assert [row["close_price"] for row in rows] == TINY_CLOSES
    assert [row["price_diff"] for row in rows] == [None, 100, -75, 0, -100, None, 25]
    baselines = [(row["avg_trades"], row["std_trades"]) for row in rows]
    assert baselines[:5] == [(None, None)] * 5
    # Their mean is 30, and their squared distances from it are 400 + 100 + 0 + 100 + 400 = 1000.
    assert baselines[5] == pytest.approx((30, (1000 / 4) ** 0.5))
    last_five = TINY_TRADES[1:6]
    assert baselines[6] == pytest.approx((mean(last_five), stdev(last_five)))
    assert [row["z_score"] for row in rows[:5]] == [None] * 5
    assert rows[5]["z_score"] == pytest.approx((1000 - 30) / (1000 / 4) ** 0.5)
    assert rows[6]["z_score"] == pytest.approx((90 - mean(last_five)) / stdev(last_five))
    assert [row["anomaly"] for row in rows] == [False] * 5 + [True, False]
    assert [row["record"] for row in rows] == [0, 1, 2, 3, 4, 5, 0]
    assert [row["earlier_rows"] for row in rows] == list(range(7))
    assert [row["baseline_days"] for row in rows] == [None] * 5 + [5, 5]
    # An open is the close here; there is no gap where it is 0, or the close before it.
    assert [row["gap"] for row in rows] == [None, 100, -75, 0, None, None, 25]


def test_a_z_score_of_exactly_three_is_no_anomaly_in_a_history(tiny_client):
    for ticker, z_score in (("THREE", 3), ("MORE", 3.05)):
        rows = loads(tiny_client.get(f"/api/history?ticker={ticker}&date=2024-01-12"))["rows"]
        assert rows[5]["z_score"] == pytest.approx(z_score)
        assert rows[5]["anomaly"] is (ticker == "MORE")


def test_a_baseline_without_deviation_has_no_z_score(tiny_client):
    rows = loads(tiny_client.get("/api/history?ticker=FLAT&date=2024-01-12"))["rows"]
    assert [row["std_trades"] for row in rows] == [None] * 5 + [0, 0]
    assert {row["z_score"] for row in rows} == {None}
    assert {row["anomaly"] for row in rows} == {False}


@pytest.mark.parametrize("ticker", ["VTAK", "SARO", "SWN", "SOpC"])
@pytest.mark.parametrize("sessions", [1, 2, 7, 40, 56, 260])
def test_a_history_has_so_many_successive_days_of_the_ticker(client, ticker, sessions):
    days = [day for name, day in read_days(SAMPLE_MARKET) if name == ticker]
    for date in {days[0], days[1], days[len(days) // 2], days[-2], days[-1]}:
        address = f"/api/history?ticker={ticker}&date={date}&sessions={sessions}"
        answer = loads(client.get(address))
        shown = [row["date"] for row in answer["rows"]]
        assert (answer["ticker"], answer["date"]) == (ticker, date)
        assert date in shown
        assert len(shown) == min(sessions, len(days))
        assert shown == days[days.index(shown[0]) :][: len(shown)]


def test_a_quarter_of_a_history_is_after_its_date_unless_the_table_ends(client):
    def around(date):
        rows = loads(client.get(f"/api/history?ticker=AAPL&date={date}"))["rows"]
        days = [row["date"] for row in rows]
        return days.index(date), len(days) - days.index(date) - 1

    assert around(SAMPLE_DAY) == (39, 0)
    assert around(SAMPLE_DAYS[40]) == (29, 10)


# The views.


@pytest.mark.parametrize("threshold", ["3", "1", "30"])
@pytest.mark.parametrize("date", ["2024-09-12", "2024-08-20", SAMPLE_DAY])
def test_the_list_has_what_the_querier_finds(client, sample_table, date, threshold):
    rows = list_rows(parse(client.get(f"/?date={date}&threshold={threshold}")))
    anomalies = query_json(sample_table, date, f"--threshold={threshold}")
    assert [row["ticker"] for row in rows] == [anomaly["ticker"] for anomaly in anomalies]
    for row, anomaly in zip(rows, anomalies):
        anomaly["times_normal"] = anomaly["trades"] / anomaly["avg_trades"]
        assert row["record"].startswith("all ") == (anomaly["record"] == anomaly["earlier_rows"])
        assert row["trades"] == f"{anomaly['trades']:,}"
        for column in set(row) - {"ticker"}:
            assert is_shown(column, anomaly[column], row[column]), (column, row, anomaly)


def test_the_heading_names_the_day_and_counts_anomalies_and_tickers(client):
    view = parse(client.get(f"/?date={SAMPLE_DAY}"))
    tickers = len((SAMPLE_MARKET / f"{SAMPLE_DAY}.csv").read_text().splitlines()) - 1
    heading, summary = view.find(id="summary")[0].elements[:2]
    assert heading.text == f"Friday, {SAMPLE_DAY}"
    assert summary.text == f"18 anomalies among {tickers} tickers"


def test_the_first_view_is_that_of_the_last_day(client):
    assert list_rows(parse(client.get("/"))) == list_rows(parse(client.get(f"/?date={SAMPLE_DAY}")))


def message_of(view):
    """The message in place of a list."""
    (message,) = view.find(id="list")[0].find("p", class_="message")
    return message


def test_a_day_without_baselines_has_a_message_in_place_of_a_list(client):
    view = parse(client.get(f"/?date={SAMPLE_DAYS[0]}"))
    assert list_rows(view) == []
    assert view.find(id="summary")[0].elements[1].text == "0 anomalies among 148 tickers"
    assert message_of(view).text == "No ticker has a baseline yet: that takes 5 earlier rows."


def test_previous_and_next_day_are_links_where_there_is_such_a_day(client):
    def linked(date, link_id):
        link = parse(client.get(f"/?date={date}")).find(id=link_id)[0]
        return link["href"] and re.search(r"date=([\d-]+)", link["href"])[1]

    # 2024-09-02 was a holiday, the 1st a Sunday.
    assert linked("2024-09-03", "previous-day") == "2024-08-30"
    assert linked("2024-08-30", "next-day") == "2024-09-03"
    assert linked(SAMPLE_DAYS[0], "previous-day") is None
    assert linked(SAMPLE_DAYS[0], "next-day") == SAMPLE_DAYS[1]
    assert linked(SAMPLE_DAY, "next-day") is None


def test_the_date_field_allows_the_tables_days(client):
    (field,) = parse(client.get("/?date=2024-09-12")).find("input", id="date")
    assert (field["min"], field["value"], field["max"]) == (
        SAMPLE_DAYS[0],
        "2024-09-12",
        SAMPLE_DAY,
    )


def test_the_answer_to_a_date_that_is_no_trading_day_links_to_the_nearest_one(client, sample_table):
    response = client.get("/?date=2024-10-19")
    assert response.status_code == 404
    message = message_of(parse(response))
    told = query(sample_table, "2024-10-19").stderr.strip()
    assert message.text == f"{told} Go to 2024-10-18"
    assert [link["href"] for link in message.find("a")] == ["/?date=2024-10-18"]


def test_a_click_on_a_header_sorts_without_javascript(client):
    view = parse(client.get("/"))
    for column in list_rows(view)[0]:
        directions = set()
        address = "/"
        for _ in range(2):
            (header,) = parse(client.get(address)).find("th", data_sort=column)
            address = header.find("a")[0]["href"]
            sorted_view = parse(client.get(address))
            rows = list_rows(sorted_view)
            assert len(rows) == 18
            values = [row[column] if column == "ticker" else number(row[column]) for row in rows]
            (header,) = sorted_view.find("th", data_sort=column)
            directions.add(header["aria-sort"])
            assert values == sorted(values, reverse=header["aria-sort"] == "descending")
            others = [th for th in sorted_view.find("th", data_sort=True) if th is not header]
            assert {th["aria-sort"] for th in others} == {"none"}
        assert directions == {"ascending", "descending"}


def submitted(client, view, **changes):
    """The view that the form with these fields leads to, sent as a browser sends it."""
    (form,) = [f for f in view.find("form") if all(f.find(name=name) for name in changes)]
    assert form["method"] is None  # so a browser uses GET
    fields = {
        field["name"]: field["value"] or ""
        for field in form.find("input", name=True)
        if field["type"] != "checkbox" or "checked" in field.attributes
    }
    assert [button.text for button in form.find("button")] == ["Show"]
    return parse(client.get(f"{form['action']}?{urlencode({**fields, **changes})}"))


def test_the_forms_filter_and_set_threshold_and_date_without_javascript(client, sample_table):
    def tickers(view):
        return [row["ticker"] for row in list_rows(view)]

    view = parse(client.get("/"))
    found = [anomaly["ticker"] for anomaly in query_json(sample_table, SAMPLE_DAY)]
    filtered = submitted(client, view, filter="aa")
    with_aa = [ticker for ticker in found if "AA" in ticker.upper()]
    assert with_aa and tickers(filtered) == with_aa
    above_thirty = query_json(sample_table, SAMPLE_DAY, "--threshold=30")
    stricter = submitted(client, view, threshold="30")
    assert tickers(stricter) == [anomaly["ticker"] for anomaly in above_thirty]
    earlier = submitted(client, view, date="2024-09-12")
    on_that_day = query_json(sample_table, "2024-09-12")
    assert tickers(earlier) == [anomaly["ticker"] for anomaly in on_that_day]
    # What was chosen before stays when something else is chosen.
    both = submitted(client, stricter, filter="E")
    assert tickers(both) == [t for t in tickers(stricter) if "E" in t.upper()]


def test_a_rows_link_leads_to_the_tickers_figures_without_javascript(client):
    view = parse(client.get("/?threshold=30&sort=ticker"))
    (row,) = view.find("tr", data_ticker="VTAK")
    chosen = parse(client.get(row.find("a")[0]["href"]))
    (detail,) = chosen.find(id="detail")
    assert detail.find("h2")[0].text == "VTAK"
    # The README's first row; 460548 is 73.2 times 6291.40. The five days before had 577, 820, 913,
    # 28449 and 698 trades; their deviation is 12387.
    words = (
        f"460,548 trades, 73 {TIMES} the average of its five rows before (6,291), "
        "36.7 standard deviations (each 12,387) above it. "
        "The most trades of all its 56 rows so far."
    )
    assert detail.find("p", class_="words")[0].text == words
    assert detail.find("p", class_="price")[0].text == "0.91 +106.49 %"
    selected = chosen.find("tr", aria_selected="true")
    assert [row["data-ticker"] for row in selected] == ["VTAK"]


def test_a_tickers_own_view_leads_to_the_anomalies_before_and_after_it(client):
    def around(ticker):
        view = parse(client.get(f"/chart?ticker={ticker}&date={SAMPLE_DAY}"))
        assert view.find("h2")[0].text == ticker
        links = [view.find("a", id=f"{name}-ticker")[0]["href"] for name in ("previous", "next")]
        return [link and re.search(r"ticker=(\w+)", link)[1] for link in links]

    # In the README's list VTAK comes first, PEGY second, NFLX third, SOpC and AAp last.
    assert around("VTAK") == [None, "PEGY"]
    assert around("PEGY") == ["VTAK", "NFLX"]
    assert around("AAp") == ["SOpC", None]
    # AAPL was no anomaly on that day: the list starts after it.
    assert around("AAPL") == [None, "VTAK"]


@pytest.mark.parametrize("address", ["/", f"/chart?ticker=VTAK&date={SAMPLE_DAY}"])
def test_a_view_loads_only_files_of_this_server(client, address):
    view = parse(client.get(address))
    files = [link["href"] for link in view.find("link")]
    files += [element["src"] for element in view.find() if element["src"]]
    assert files == [f"/static/{name}" for name in ("favicon.svg", "style.css", "scanner.js")]
    assert [client.get(name).status_code for name in files] == [200, 200, 200]


def test_plotlys_javascript_is_that_of_the_installed_package(client):
    package = Path(importlib.util.find_spec("plotly").origin).parent
    shipped = (package / "package_data" / "plotly.min.js").read_bytes()
    address = parse(client.get("/")).find("body")[0]["data-plotly"]
    assert client.get(address).get_data() == shipped


@pytest.mark.parametrize("ticker", ODD_TICKERS)
def test_an_odd_ticker_is_shown_as_it_is(odd_table, ticker):
    client = gui.create_app(odd_table, NO_POLYGON).test_client()
    view = parse(client.get("/"))
    assert [row["ticker"] for row in list_rows(view)] == ODD_TICKERS
    (row,) = view.find("tr", data_ticker=ticker)
    figures = parse(client.get(row.find("a")[0]["href"])).find(id="detail")[0]
    address = "?" + urlencode({"ticker": ticker, "date": "2024-01-12"})
    chart = parse(client.get("/chart" + address))
    for detail in (figures, *chart.find(id="detail")):
        assert detail.find("h2")[0].text == ticker
        assert detail.find("img") + detail.find("script") == []
    assert loads(client.get("/api/history" + address))["ticker"] == ticker
    found = loads(client.get("/api/anomalies"))["anomalies"]
    assert [anomaly["ticker"] for anomaly in found] == ODD_TICKERS


# Sentences and figures.


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0127, "0.0127"),
        (0.91, "0.91"),
        (0.5, "0.50"),
        (0.01274999, "0.01275"),
        (0.000034, "0.000034"),
        (1, "1.00"),
        (1234.5, "1,234.50"),
        (0, "0.00"),
        (0.99999, "1.00"),
    ],
)
def test_a_price_has_two_decimals_or_below_one_up_to_four_digits(value, text):
    assert gui.format_price(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5477, "0.548"),
        (0.55, "0.55"),
        (12.36, "12.4"),
        (99.96, "100"),
        (6291.4, "6,291"),
        (0, "0"),
        (2, "2"),
    ],
)
def test_an_average_below_100_is_shown_with_at_most_three_digits(value, text):
    assert gui.format_figure(value) == text


@pytest.mark.parametrize("value", [None, nan, inf, -inf])
def test_what_is_no_number_is_shown_as_a_dash(value):
    assert gui.or_dash(value, gui.format_price) == "\N{EM DASH}"
    assert gui.direction(value) == ""


def test_a_change_of_zero_has_no_direction():
    assert [gui.direction(value) for value in (0.001, 0, -2)] == ["up", "", "down"]


@pytest.mark.parametrize(
    ("trades", "average", "deviation", "z_score", "sentence"),
    [
        # (24 - 2.4) / 0.55 = 39.27
        (
            *(24, 2.4, 0.55, 39.27),
            f"24 trades, 10 {TIMES} the average of its five rows before (2.4), "
            "39.3 standard deviations (each 0.55) above it.",
        ),
        (
            *(1000, 2000.0, 500.0, -2.0),
            f"1,000 trades, 0.5 {TIMES} the average of its five rows before (2,000), "
            "2.0 standard deviations (each 500) below it.",
        ),
        (7, 7.0, 0.0, None, f"7 trades, 1.0 {TIMES} the average of its five rows before (7)."),
        (7, 0.0, 0.0, None, "7 trades, after none at all in the 5 rows before."),
        (7, None, None, None, "7 trades, and no baseline yet: that takes 5 earlier rows."),
    ],
)
def test_a_row_is_put_in_words(trades, average, deviation, z_score, sentence):
    stats = {"trades": trades, "avg_trades": average, "std_trades": deviation, "z_score": z_score}
    assert gui.trades_text(stats, 5) == sentence


def test_the_sentence_names_a_window_other_than_five():
    stats = {"trades": 40, "avg_trades": 20.0, "std_trades": 0.0, "z_score": None}
    assert (
        gui.trades_text(stats, 10)
        == f"40 trades, 2.0 {TIMES} the average of its 10 rows before (20)."
    )


def test_the_summary_counts_listed_found_and_tickers():
    assert gui.summary_text(18, 20, 148) == "18 of 20 anomalies among 148 tickers"
    assert gui.summary_text(20, 20, 11_500) == "20 anomalies among 11,500 tickers"
    assert gui.summary_text(1, 1, 148) == "1 anomaly among 148 tickers"
    assert gui.summary_text(0, 0, 148) == "0 anomalies among 148 tickers"


def test_a_message_says_why_a_list_is_empty():
    usual, filtered = gui.Options(), gui.Options(filter="zz")
    no_baseline = "No ticker has a baseline yet: that takes 5 earlier rows."
    assert gui.empty_message(0, usual, False, 5) == no_baseline
    not_found = "No anomaly whose ticker contains “zz” passes the filters."
    assert gui.empty_message(3, filtered, True, 5) == not_found
    assert gui.empty_message(0, usual, True, 5) == "No ticker has a z-score above the threshold."
    assert gui.empty_message(3, usual, True, 5) == "No anomaly passes the filters."


SEC = "https://www.sec.gov/cgi-bin/browse-edgar?action=getcompany&CIK="
TRADINGVIEW = "https://www.tradingview.com/chart/?symbol="


@pytest.mark.parametrize(
    ("ticker", "edgar", "tradingview"),
    [
        ("AAPL", f"{SEC}AAPL", f"{TRADINGVIEW}AAPL"),
        ("F", f"{SEC}F", f"{TRADINGVIEW}F"),
        ("BRK.B", f"{SEC}BRK-B", f"{TRADINGVIEW}BRK.B"),
        *((ticker, None, None) for ticker in ("AAp", "AACT.WS", "AACT.U", "BACpL", "..", "A&B")),
    ],
)
def test_a_ticker_is_linked_where_its_spelling_on_the_other_site_is_known(
    ticker, edgar, tradingview
):
    links = [("SEC EDGAR", edgar), ("TradingView", tradingview)]
    assert gui.links_to(ticker) == [link for link in links if link[1]]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", None),
        ("AAp", "AAp"),
        ("AAP", "AAP"),
        ("aap", "AAP"),  # both are spelled so: the upper-case one
        ("sopC", "SOpC"),
        ("SOPC", "SOpC"),
        ("vtak", "VTAK"),
        ("VTA", None),
        ("BaBa", None),  # neither of two is upper-case
    ],
)
def test_a_ticker_is_found_in_any_case(text, meant):
    tickers = ["AAP", "AAp", "SOpC", "VTAK", "BABa", "Baba"]
    assert gui.find_ticker(tickers, text) == meant


def test_a_ticker_that_is_no_anomaly_can_be_reached_by_typing_it(client):
    view = parse(client.get("/?filter=aapl"))
    assert list_rows(view) == []
    (link,) = message_of(view).find("a")
    chosen = parse(client.get(link["href"]))
    assert chosen.find(id="detail")[0].find("h2")[0].text == "AAPL"


# The facts.


AFTER = "/api/after?ticker={}&date={}"


@pytest.mark.parametrize(
    ("record", "earlier_rows", "sentence"),
    [
        (0, 0, ""),
        (0, 7, ""),
        (116, 1255, "The most trades in its last 117 rows."),
        (1255, 1255, "The most trades of all its 1,256 rows so far."),
    ],
)
def test_a_record_is_put_in_words(record, earlier_rows, sentence):
    assert gui.record_text({"record": record, "earlier_rows": earlier_rows}) == sentence


def test_a_tickers_words_end_with_its_record(client):
    def words_of(ticker):
        view = parse(client.get(f"/chart?ticker={ticker}&date={SAMPLE_DAY}"))
        return view.find("p", class_="words")[0].text

    # VTAK had fewer on each of the 55 days before. CVS had more, 310,310, on the 12th day before.
    assert words_of("VTAK").endswith(" above it. The most trades of all its 56 rows so far.")
    assert words_of("CVS").endswith(" above it. The most trades in its last 12 rows.")


def test_every_mark_has_its_reason():
    assert list(gui.MARK_REASONS) == gui.querier.MARKS
    assert len(set(gui.MARK_REASONS.values())) == len(gui.querier.MARKS)
    assert all(re.fullmatch(r"[A-Z][^.]+\.", reason) for reason in gui.MARK_REASONS.values())


@pytest.mark.parametrize(
    ("date", "ticker", "marks"),
    [
        ("2024-09-12", "ZVZZT", ["split?", "test"]),
        (SAMPLE_DAY, "AAp", ["thin"]),
        (SAMPLE_DAY, "VTAK", []),
        (SAMPLE_DAY, "AAPL", []),
    ],
)
def test_a_ticker_has_the_queriers_marks(sample_table, date, ticker, marks):
    day, detail = views_of(sample_table, date=date, ticker=ticker)
    assert (day.ticker_row["marks"], detail.marks) == (marks, marks)
    listed = {row["ticker"]: row["marks"] for row in day.rows}
    assert listed.get(ticker, []) == marks


def test_a_day_has_its_share_of_anomalies_and_the_usual_one(sample_table):
    # 18 anomalies among 148 tickers are 12.16 %; the querier's wide list has the usual share.
    day, _ = views_of(sample_table, date=SAMPLE_DAY)
    share = "12.2 % of 148 tickers have a z-score above 3; usually 2.8 %"
    assert day.share == share
    wide = query(sample_table, SAMPLE_DAY, "--format", "wide")
    assert "(12.2 %) are anomalies; the usual is 2.8 %;" in wide.stdout


def test_without_20_days_with_baselines_before_it_a_day_has_no_share(sample_table):
    # The first 5 have no baselines: the 26th day is the first with 20 days to compare with.
    shares = [views_of(sample_table, date=day)[0].share for day in SAMPLE_DAYS[23:27]]
    assert [bool(share) for share in shares] == [False, False, True, True]


def test_the_filters_stay_in_every_address_of_the_list(client, sample_table):
    state = {"min_price": "2.5", "min_trades": "9", "min_record": "1", "skip": "split,new"}
    view = parse(client.get(f"/?{urlencode({'date': SAMPLE_DAY, **state})}"))
    table = view.find("table", id="anomalies")[0].find("a")
    options = ["--min-price=2.5", "--min-trades=9", "--min-record=1", "--skip=split,new"]
    listed = query_json(sample_table, SAMPLE_DAY, *options)
    assert listed and len(table) == 9 + len(listed)
    for link in [*view.find(id="previous-day"), *view.find(id="csv"), *table]:
        asked = dict(parse_qsl(urlsplit(link["href"]).query))
        assert state.items() <= asked.items(), link["href"]


def test_filters_that_are_off_are_in_no_address(client):
    view = parse(client.get("/?min_price=0&min_trades=0&min_record=0&skip="))
    addresses = [link["href"] for link in view.find("a") if link["href"]]
    assert len(addresses) > 18
    assert not [address for address in addresses if "min_" in address or "skip" in address]


def test_the_link_that_clears_the_filters_names_none(client):
    (link,) = parse(client.get("/?skip=thin&min_price=2")).find(id="clear-filters")
    assert dict(parse_qsl(urlsplit(link["href"]).query, True)) == {"date": SAMPLE_DAY}


def test_filters_that_leave_no_anomaly_have_a_message(client):
    view = parse(client.get("/?min_trades=999999999"))
    assert list_rows(view) == []
    assert view.find(id="summary")[0].elements[1].text == "0 of 18 anomalies among 149 tickers"
    assert message_of(view).text == "No anomaly passes the filters."


@pytest.fixture(scope="module")
def moving_table(tmp_path_factory):
    """Eight days of four tickers, and one day of GONE. An open is the close."""
    folder = tmp_path_factory.mktemp("moving")
    closes = {
        "UP": [10, 11, 12, 13, 14, 15, 16, 17],
        "SAME": [10] * 8,
        "TWICE": [10, 10, 10, 20, 20, 20, 20, 20],
        "ZERO": [0, 1, 1, 1, 1, 1, 1, 1],
        "GONE": [10],
    }
    market = {
        day: [(ticker, 9, prices[i]) for ticker, prices in closes.items() if i < len(prices)]
        for i, day in enumerate(SAMPLE_DAYS[:8])
    }
    return build_table(write_flat_files(folder / "csv", market), folder / "lookup_table.pkl")


@pytest.mark.parametrize(
    ("ticker", "session", "changes", "states", "splits", "words"),
    [
        (
            *("UP", 0, [10, 50, None], ["known", "known", "unknown"], [False] * 3),
            "next day 10.00 %, five days later 50.00 %; the median ticker five days later 50.00 %",
        ),
        (
            *("TWICE", 0, [0, 100, None], ["known", "known", "unknown"], [False, True, False]),
            "next day 0.00 %, five days later 100.00 % (a split may lie in between); "
            "the median ticker five days later 50.00 %",
        ),
        (
            *("GONE", 0, [None] * 3, ["gone", "gone", "unknown"], [False] * 3),
            "no trades on the next day, no trades within five days; "
            "the median ticker five days later 50.00 %",
        ),
        (
            *("ZERO", 0, [None] * 3, ["none", "none", "unknown"], [False] * 3),
            "no change can be told, because the close was 0",
        ),
        (
            *("UP", 6, [6.25, None, None], ["known", "unknown", "unknown"], [False] * 3),
            "next day 6.25 %; the median ticker next day 0.00 %",
        ),
        (
            *("UP", 7, [None] * 3, ["unknown"] * 3, [False] * 3),
            "not known yet, because the table ends with this day",
        ),
    ],
)
def test_what_came_after_is_as_worked_out_by_hand(
    moving_table, ticker, session, changes, states, splits, words
):
    client = gui.create_app(moving_table, NO_POLYGON).test_client()
    date = SAMPLE_DAYS[session]
    answer = loads(client.get(AFTER.format(ticker, date)))
    assert list(answer) == ["ticker", "date", "horizons", "words"]
    assert (answer["ticker"], answer["date"], answer["words"]) == (ticker, date, words)
    horizons = answer["horizons"]
    assert [row["days"] for row in horizons] == [1, 5, 20]
    assert [row["change"] for row in horizons] == [
        None if change is None else pytest.approx(change) for change in changes
    ]
    assert [row["state"] for row in horizons] == states
    assert [row["split"] for row in horizons] == splits
    # UP, SAME and TWICE: 10, 0 and 0 after a day, 50, 0 and 100 after five. On the seventh day
    # UP's 6.25 stands beside three 0s.
    medians = {0: [0, 50, None], 6: [0, None, None], 7: [None] * 3}[session]
    assert [row["median"] for row in horizons] == [
        None if median is None else pytest.approx(median) for median in medians
    ]


def test_after_a_close_of_0_no_change_can_be_told_even_if_the_next_day_has_no_trades():
    horizons = [{"state": state, "median": None} for state in ("gone", "none", "unknown")]
    assert gui.after_text(horizons) == "no change can be told, because the close was 0"


def test_what_came_after_is_what_the_querier_says(client, sample_table):
    # On these days a split of an anomaly came after one day, and after two to five days.
    for date, split_after in [("2024-09-12", 1), ("2024-08-15", 5)]:
        anomalies = query_json(sample_table, date)
        assert {anomaly["split_after"] for anomaly in anomalies} == {None, split_after}
        for anomaly in anomalies:
            horizons = loads(client.get(AFTER.format(anomaly["ticker"], date)))["horizons"]
            changes = [anomaly[f"after_{days}"] for days in (1, 5, 20)]
            assert [row["change"] for row in horizons] == changes
            splits = [(anomaly["split_after"] or inf) <= days for days in (1, 5, 20)]
            assert [row["split"] for row in horizons] == splits


# The exchange's clock.


@pytest.mark.parametrize(
    ("date", "is_early"),
    [
        ("2024-07-03", True),
        ("2024-11-29", True),
        ("2024-12-24", True),
        ("2026-11-27", True),
        ("2023-07-03", True),
        ("2020-07-03", False),  # a Friday: the holiday itself
        ("2021-12-24", False),
        ("2024-07-05", False),
        ("2024-11-22", False),
        ("2025-11-07", False),
        ("2024-10-18", False),
    ],
)
def test_trading_ends_early_on_the_days_that_the_exchange_names(date, is_early):
    assert gui.closes_early(date) is is_early


@pytest.mark.parametrize(
    ("date", "times"),
    [
        # In summer New York is 4 hours before UTC, in winter 5.
        ("2024-10-18", ["08:00", "13:30", "20:00", "00:00"]),
        ("2024-07-03", ["08:00", "13:30", "17:00", "21:00"]),
        ("2024-11-29", ["09:00", "14:30", "18:00", "22:00"]),
        ("2024-12-24", ["09:00", "14:30", "18:00", "22:00"]),
        ("2024-03-08", ["09:00", "14:30", "21:00", "01:00"]),  # summer time began on the 10th
        ("2024-03-11", ["08:00", "13:30", "20:00", "00:00"]),
        ("2024-11-01", ["08:00", "13:30", "20:00", "00:00"]),  # and ended on 2024-11-03
        ("2024-11-04", ["09:00", "14:30", "21:00", "01:00"]),
        ("2006-03-31", ["09:00", "14:30", "21:00", "01:00"]),  # in 2006 on April 2
        ("2006-04-03", ["08:00", "13:30", "20:00", "00:00"]),
        ("2006-10-27", ["08:00", "13:30", "20:00", "00:00"]),  # to October 29
        ("2006-10-30", ["09:00", "14:30", "21:00", "01:00"]),
    ],
)
def test_a_sessions_times_are_in_utc(date, times):
    session = gui.session_times(date)
    assert list(session) == ["pre", "open", "close", "post"]
    assert [f"{time:%H:%M}" for time in session.values()] == times


def test_the_first_and_last_possible_date_have_session_times():
    for date in ("0001-01-01", "9999-12-31"):
        times = list(gui.session_times(date).values())
        assert times == sorted(times)
        assert times[1].isoformat() == f"{date}T14:30:00+00:00"


def test_the_bars_come_with_the_session_and_the_previous_close(bars_client, polygon):
    answer = loads(bars_client.get(VTAK))
    assert list(answer) == ["ticker", "date", "session", "previous_close", "bars"]
    hours = {"pre": 4, "open": 9.5, "close": 16, "post": 20}
    assert answer["session"] == {
        name: new_york_time(SAMPLE_DAY, int(hour * 60)) for name, hour in hours.items()
    }
    assert answer["previous_close"] == read_days(SAMPLE_MARKET)["VTAK", SAMPLE_DAYS[-2]].close


def test_a_first_row_has_no_previous_close(bars_client, polygon):
    answer = loads(bars_client.get(f"/api/bars?ticker=VTAK&date={SAMPLE_DAYS[0]}"))
    assert answer["previous_close"] is None


# The list's options in a ticker's own view, and where that view leads.


@pytest.fixture(scope="module")
def spiky_table(tmp_path_factory):
    """SPIKE, which has a z-score of 45 on the sixth of SAMPLE_DAYS and on the twelfth, and REST.

    Before each its trades have a mean of 100 and a deviation of 20: (1000 - 100) / 20 = 45.
    """
    folder = tmp_path_factory.mktemp("spiky")
    trades = [*AT_THE_THRESHOLD[:5], 1000, *AT_THE_THRESHOLD[:5], 1000, 90]
    market = {}
    for day, count in zip(SAMPLE_DAYS, trades):
        market[day] = [("SPIKE", count, 1), ("REST", 50, 1)]
    market[SAMPLE_DAYS[8]].pop()
    return build_table(write_flat_files(folder / "csv", market), folder / "lookup_table.pkl")


@pytest.mark.parametrize(
    ("index", "threshold", "previous", "following"),
    [(5, 3, None, 11), (8, 3, 5, 11), (11, 3, 5, None), (8, 44, 5, 11), (8, 46, None, None)],
)
def test_a_ticker_leads_to_its_previous_and_next_anomaly(
    spiky_table, index, threshold, previous, following
):
    date = SAMPLE_DAYS[index]
    _, detail = views_of(spiky_table, date=date, threshold=threshold, ticker="SPIKE")
    expected = [n if n is None else SAMPLE_DAYS[n] for n in (previous, following)]
    assert [detail.previous_anomaly, detail.next_anomaly] == expected


def test_a_ticker_leads_to_its_previous_and_next_day(spiky_table):
    def around(index):
        _, detail = views_of(spiky_table, date=SAMPLE_DAYS[index], ticker="REST")
        return detail.previous_day, detail.next_day

    assert around(0) == (None, SAMPLE_DAYS[1])
    assert around(7) == (SAMPLE_DAYS[6], SAMPLE_DAYS[9])
    assert around(12) == (SAMPLE_DAYS[11], None)


def test_a_ticker_without_a_row_on_the_day_has_no_view(spiky_table):
    day, detail = views_of(spiky_table, date=SAMPLE_DAYS[8], ticker="REST")
    assert detail is None
    assert day.problem == f"no trades of REST on {SAMPLE_DAYS[8]}"


def test_a_tickers_own_view_keeps_the_lists_options(client):
    state = {"threshold": "2", "sort": "ticker", "order": "desc", "filter": "a"}
    query = urlencode({"date": SAMPLE_DAY, **state})
    tickers = [row["ticker"] for row in list_rows(parse(client.get(f"/?{query}")))]
    assert len(tickers) > 3
    view = parse(client.get(f"/chart?{query}&ticker={tickers[1]}"))
    for link_id, path, ticker in [
        ("previous-ticker", "/chart", tickers[0]),
        ("next-ticker", "/chart", tickers[2]),
        ("back-to-list", "/", tickers[1]),
    ]:
        link = urlsplit(view.find("a", id=link_id)[0]["href"])
        assert link.path == path
        assert dict(parse_qsl(link.query)) == {**state, "date": SAMPLE_DAY, "ticker": ticker}


def test_a_historys_anomalies_are_those_above_the_threshold(tiny_client):
    address = "/api/history?ticker=TINY&date=2024-01-12"
    # TINY's z-score on that day is 61.3, as worked out above.
    for threshold, is_anomaly in [("", True), ("&threshold=61", True), ("&threshold=62", False)]:
        answer = loads(tiny_client.get(address + threshold))
        assert answer["threshold"] == int(threshold[-2:] or 3)
        assert answer["rows"][5]["anomaly"] is is_anomaly


def test_a_tickers_view_asks_for_a_history_with_the_lists_threshold(client):
    view = parse(client.get(f"/chart?ticker=VTAK&date={SAMPLE_DAY}&threshold=40"))
    address = view.find(id="history-chart-box")[0]["data-url"]
    assert loads(client.get(address))["threshold"] == 40


def test_a_whole_history_can_be_asked_for(client):
    rows = loads(client.get("/api/history?ticker=AAPL&date=2024-08-20&sessions=all"))["rows"]
    assert [row["date"] for row in rows] == SAMPLE_DAYS


@pytest.mark.parametrize("ticker", ["VTAK", "AAPL"])
def test_both_views_of_a_ticker_have_the_same_title(client, ticker):
    query = f"?date={SAMPLE_DAY}&ticker={ticker}"
    titles = [parse(client.get(path + query)).find("title")[0].text for path in ("/", "/chart")]
    assert titles == [f"{ticker} on {SAMPLE_DAY} · anomalies"] * 2


@pytest.mark.parametrize(
    ("date", "nearest"),
    [
        ("2024-10-19", SAMPLE_DAY),
        ("9999-12-31", SAMPLE_DAY),
        ("1999-01-01", SAMPLE_DAYS[0]),
        ("2024-09-01", "2024-08-30"),
        ("2024-09-02", "2024-09-03"),
    ],
)
def test_a_date_that_the_table_lacks_has_a_nearest_one(sample_table, date, nearest):
    day, _ = views_of(sample_table, date=date)
    assert day.nearest == nearest
    assert day.problem.endswith(f"nearest trading day {nearest}")


OPTIONS = [
    ("", []),
    ("&sort=z_score", ["--sort=z_score"]),
    ("&sort=record", ["--sort=record"]),
    ("&sort=gap", ["--sort=gap"]),
    ("&threshold=10", ["--threshold=10"]),
    ("&min_price=5", ["--min-price=5"]),
    ("&min_price=0.5", ["--min-price=0.5"]),
    ("&min_trades=4226", ["--min-trades=4226"]),
    ("&min_record=23", ["--min-record=23"]),
    ("&skip=thin", ["--skip=thin"]),
    ("&skip=split,test", ["--skip=split,test"]),
    ("&skip=split&skip=thin&skip=", ["--skip=split,thin"]),
    (
        "&min_price=2&min_trades=500&min_record=9&skip=test&sort=gap",
        ["--min-price=2", "--min-trades=500", "--min-record=9", "--skip=test", "--sort=gap"],
    ),
]


@pytest.mark.parametrize("date", ["2024-09-12", SAMPLE_DAY])
@pytest.mark.parametrize(("parameters", "options"), OPTIONS)
def test_the_csv_is_what_the_querier_writes(client, sample_table, date, parameters, options):
    response = client.get(f"/anomalies.csv?date={date}{parameters}")
    written = query(sample_table, date, "--format", "csv", *options).stdout
    assert response.get_data(as_text=True) == written
    assert written.count("\n") > 1
    assert response.mimetype == "text/csv"
    disposition = f'attachment; filename="anomalies-{date}.csv"'
    assert response.headers["Content-Disposition"] == disposition
    listed = [row["ticker"] for row in list_rows(parse(client.get(f"/?date={date}{parameters}")))]
    assert listed == [line.partition(",")[0] for line in written.splitlines()[1:]]


def test_the_csv_has_the_lists_rows_in_its_order(client):
    query = "filter=a&sort=times_normal&order=asc&threshold=1"
    rows = client.get(f"/anomalies.csv?{query}").get_data(as_text=True).splitlines()[1:]
    listed = [row["ticker"] for row in list_rows(parse(client.get(f"/?{query}")))]
    assert len(listed) > 3
    assert [row.partition(",")[0] for row in rows] == listed


def test_the_csv_of_a_date_that_the_table_lacks_is_refused(client):
    assert client.get("/anomalies.csv?date=2024-10-19").status_code == 404
    assert client.get("/anomalies.csv?date=today").status_code == 400


# What is refused.


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/api/anomalies?date=2024-10-19", 404),
        ("/api/anomalies?date=1900-01-01", 404),
        ("/api/anomalies?date=2024-02-30", 400),
        ("/api/anomalies?date=18.10.2024", 400),
        ("/api/anomalies?date=2024-10-18%00", 400),
        ("/api/anomalies?date=%D9%A2%D9%A0%D9%A2%D9%A4-10-18", 400),
        ("/api/anomalies?date=../../etc/passwd", 400),
        ("/api/anomalies?threshold=three", 400),
        ("/api/anomalies?threshold=nan", 400),
        ("/api/anomalies?threshold=inf", 400),
        ("/api/anomalies?threshold=1e999", 400),
        (f"/api/history?date={SAMPLE_DAY}", 400),
        ("/api/history?ticker=VTAK", 400),
        (f"/api/history?ticker=vtak&date={SAMPLE_DAY}", 404),
        (f"/api/history?ticker=NOSUCH&date={SAMPLE_DAY}", 404),
        (f"/api/history?ticker=SWN&date={SAMPLE_DAY}", 404),
        ("/api/history?ticker=VTAK&date=2024-10-19", 404),
        *(
            (f"/api/history?ticker=VTAK&date={SAMPLE_DAY}&sessions={sessions}", 400)
            for sessions in ["0", "261", "-1", "1.5", "x", "1e2", "9" * 50, "%C2%B2"]
        ),
        (f"/api/bars?date={SAMPLE_DAY}", 400),
        ("/api/bars?ticker=VTAK", 400),
        ("/api/bars?ticker=VTAK&date=today", 400),
        (f"/api/bars?ticker=NOSUCH&date={SAMPLE_DAY}", 404),
        (f"/api/bars?ticker=SWN&date={SAMPLE_DAY}", 404),
        (f"/api/bars?ticker=../VTAK&date={SAMPLE_DAY}", 404),
        ("/api/bars?ticker=VTAK&date=2024-10-19", 404),
        (f"/api/after?date={SAMPLE_DAY}", 400),
        ("/api/after?ticker=VTAK", 400),
        ("/api/after?ticker=VTAK&date=today", 400),
        (f"/api/after?ticker=NOSUCH&date={SAMPLE_DAY}", 404),
        (f"/api/after?ticker=vtak&date={SAMPLE_DAY}", 404),
        ("/api/after?ticker=VTAK&date=2024-10-19", 404),
        ("/api/nothing", 404),
        ("/api/", 404),
        ("/api/days/", 404),
    ],
)
def test_a_wrong_request_gets_a_sentence(client, address, status):
    sentence(client.get(address), status)


def test_a_date_that_the_table_lacks_is_answered_in_the_queriers_words(client, sample_table):
    text = sentence(client.get("/api/anomalies?date=2024-10-19"), 404)
    assert text == query(sample_table, "2024-10-19").stderr.strip()


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/?date=tomorrow", 400),
        ("/?threshold=nan", 400),
        ("/?sort=volume", 400),
        ("/?order=up", 400),
        *((f"/?min_price={value}", 400) for value in ("x", "nan", "inf", "1e999")),
        *((f"/?min_trades={value}", 400) for value in ("x", "-1", "1.5", "1e3", "9" * 10)),
        *((f"/?min_record={value}", 400) for value in ("x", "-1", "1.5")),
        *((f"/?skip={value}", 400) for value in ("old", "new,,thin", "new,%00")),
        ("/?date=2024-10-19", 404),
        ("/chart", 400),
        ("/chart?ticker=VTAK", 400),
        (f"/chart?ticker=NOSUCH&date={SAMPLE_DAY}", 404),
        ("/nothing", 404),
    ],
)
def test_a_wrong_address_gets_a_view_that_leads_on(client, address, status):
    response = client.get(address)
    assert response.status_code == status
    targets = [link["href"] for link in parse(response).find("a") if link["href"]]
    assert client.get(targets[-1]).status_code == 200


def test_a_days_list_is_shown_without_a_ticker_that_it_lacks(client):
    response = client.get("/?ticker=NOSUCH")
    assert response.status_code == 200
    view = parse(response)
    assert len(list_rows(view)) == 18
    assert view.find(id="detail")[0].text == f"no trades of NOSUCH on {SAMPLE_DAY}"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/chart", "/api/days", "/api/bars", "/api/nothing"])
def test_no_other_method_than_get_and_head_is_answered(client, method, path):
    response = client.open(path, method=method, data={"date": SAMPLE_DAY})
    assert (response.status_code, response.headers["Allow"]) == (405, "GET, HEAD")
    if path.startswith("/api"):
        sentence(response, 405)


@pytest.mark.parametrize("path", ["/", f"/chart?ticker=VTAK&date={SAMPLE_DAY}", "/api/days"])
def test_get_and_head_are_answered(client, path):
    assert (client.get(path).status_code, client.head(path).status_code) == (200, 200)


@pytest.mark.parametrize("host", ["localhost:8888", "127.0.0.1:8888", "127.0.0.1", "[::1]:8888"])
def test_a_request_for_one_of_this_servers_names_is_answered(client, host):
    assert client.get("/api/days", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/api/anomalies", f"/chart?ticker=VTAK&date={SAMPLE_DAY}"])
@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8888", "localhost.evil.example", "127.0.0.1.evil.example"),
        *("evil.example#localhost", "localhost@evil.example", "evillocalhost", "192.0.2.1", "a b"),
    ],
)
def test_a_request_for_another_hosts_name_is_refused(client, host, path):
    response = client.get(path, headers={"Host": host})
    assert response.status_code == 400
    assert "VTAK" not in response.get_data(as_text=True)
    if path.startswith("/api"):
        sentence(response, 400)


EVERY_KIND = [
    ("/", 200),
    (f"/chart?ticker=VTAK&date={SAMPLE_DAY}", 200),
    ("/api/days", 200),
    (f"/api/history?ticker=VTAK&date={SAMPLE_DAY}", 200),
    ("/?date=tomorrow", 400),
    ("/api/anomalies?date=tomorrow", 400),
    ("/nothing", 404),
    ("/api/nothing", 404),
]


@pytest.mark.parametrize(("address", "status"), EVERY_KIND)
def test_every_answers_policy_forbids_inline_scripts(client, address, status):
    response = client.get(address)
    assert response.status_code == status
    directives = response.headers["Content-Security-Policy"].split(";")
    policy = {words[0]: words[1:] for words in map(str.split, directives) if words}
    assert policy.pop("img-src") == ["'self'", "data:", "blob:"]
    assert policy.pop("style-src") == ["'self'", "'unsafe-inline'"]
    assert [policy.pop(name) for name in ("object-src", "base-uri")] == [["'none'"]] * 2
    assert policy.pop("frame-ancestors") == ["'none'"]
    assert set(policy) == {"default-src", "script-src", "form-action"}
    assert [*policy.values()] == [["'self'"]] * 3
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert not [name for name, _ in response.headers if name.startswith("Access-Control-")]


@pytest.mark.parametrize("address", [address for address, _ in EVERY_KIND if "/api" not in address])
def test_no_view_has_inline_scripts(client, address):
    view = parse(client.get(address))
    assert [(script["src"], script.text) for script in view.find("script")] == [
        ("/static/scanner.js", "")
    ]
    every = view.find()
    assert not [name for element in every for name in element.attributes if name.startswith("on")]
    assert not [e for e in every if (e["href"] or "").lower().startswith("javascript:")]


def test_nothing_of_the_working_directory_is_served(sample_table, monkeypatch):
    monkeypatch.chdir(TOP)
    client = gui.create_app(sample_table, NO_POLYGON).test_client()
    for name in ("lookup_table.pkl", "README.md", "gui-lookup-table.py", ".git/config"):
        for prefix in ("", "static/", "static/../", "static/../../", "static/..%2f..%2f"):
            for more in ("", "templates/", quote(f"{TOP}/", safe=""), "%2e%2e/", "..%5c"):
                address = f"/{prefix}{more}{name}"
                assert client.get(address, follow_redirects=True).status_code == 404, address
    assert client.get("/static/").status_code == 404


# Polygon.


def test_the_bars_are_those_that_polygon_sent(bars_client, polygon):
    answer = loads(bars_client.get(VTAK))
    assert (answer["ticker"], answer["date"]) == ("VTAK", SAMPLE_DAY)
    names = {"timestamp": "t", "open": "o", "high": "h", "low": "l", "close": "c"}
    names.update(volume="v", vwap="vw", transactions="n")
    sent = polygon.bars_of("VTAK", SAMPLE_DAY)
    assert len(sent) > 700
    assert answer["bars"] == [{name: bar[names[name]] for name in names} for bar in sent]


def test_polygon_is_asked_for_unadjusted_minutes_of_that_day(bars_client, polygon):
    bars_client.get(VTAK)
    (request,) = polygon.requests
    assert request.path == f"/v2/aggs/ticker/VTAK/range/1/minute/{SAMPLE_DAY}/{SAMPLE_DAY}"
    assert request.query["adjusted"] == "false"
    assert request.query["limit"] == "50000"
    assert request.headers["Authorization"] == f"Bearer {KEY}"


def test_bars_that_come_in_three_parts_are_put_together(bars_client, polygon):
    polygon.part_size = 300
    bars = loads(bars_client.get(VTAK))["bars"]
    sent = polygon.bars_of("VTAK", SAMPLE_DAY)
    assert [bar["timestamp"] for bar in bars] == [bar["t"] for bar in sent]
    assert len(polygon.requests) == -(-len(sent) // 300) == 3
    assert {request.headers["Authorization"] for request in polygon.requests} == {f"Bearer {KEY}"}


def test_a_full_day_has_960_bars(bars_client, polygon):
    start = new_york_time(SAMPLE_DAY, 4 * 60)
    bar = {"o": 1, "h": 1.5, "l": 0.5, "c": 1, "v": 10, "vw": 1, "n": 2}
    polygon.bars["VTAK", SAMPLE_DAY] = [{"t": start + i * 60_000, **bar} for i in range(960)]
    bars = loads(bars_client.get(VTAK))["bars"]
    assert [bar["timestamp"] for bar in bars] == [start + i * 60_000 for i in range(960)]


def test_a_past_days_bars_are_fetched_once(bars_client, polygon):
    first, second = bars_client.get(VTAK), bars_client.get(VTAK)
    assert loads(first) == loads(second)
    assert len(polygon.requests) == 1


def test_a_day_that_is_not_over_is_fetched_again(tmp_path, polygon):
    today = datetime.datetime.now(datetime.timezone.utc).date()
    tomorrow = (today + datetime.timedelta(1)).isoformat()
    flat_files = write_flat_files(tmp_path / "csv", {tomorrow: [("VTAK", 1, 1)]})
    table = build_table(flat_files, tmp_path / "table.pkl")
    polygon.answer = with_bars(
        {"t": new_york_time(tomorrow, 600), "o": 1, "h": 1, "l": 1, "c": 1, "v": 1, "n": 1, "vw": 1}
    )
    client = gui.create_app(table, gui.PolygonBars(polygon.url)).test_client()
    for _ in range(2):
        assert client.get(f"/api/bars?ticker=VTAK&date={tomorrow}").status_code == 200
    assert len(polygon.requests) == 2


def test_the_cache_drops_the_answer_whose_last_request_is_the_oldest():
    calls = []

    def fetch_minute_bars(ticker, date):
        calls.append((ticker, date))
        return []

    cache = gui.AnswerCache(fetch_minute_bars, threading.BoundedSemaphore(1))
    tickers = [f"T{i}" for i in range(gui.KEPT_ANSWERS)]
    for ticker in [*tickers, "T0", "NEW", "T0"]:
        cache.json_text(ticker, SAMPLE_DAY)
    assert calls == [(ticker, SAMPLE_DAY) for ticker in [*tickers, "NEW"]]
    cache.json_text("T1", SAMPLE_DAY)
    assert calls[-1] == ("T1", SAMPLE_DAY)


def in_threads(count, function, *args):
    """The threads of count simultaneous calls of the function, and the list of their results.

    Each call adds its result when it ends.
    """
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(function(*args)), daemon=True)
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    return threads, results


class Waiters:
    """In place of a semaphore: it lets everyone wait, and counts those who do."""

    def __init__(self):
        self.count = 0

    def acquire(self, blocking):
        self.count += 1
        return True

    def release(self):
        self.count -= 1


def at_the_same_time(count, client, polygon):
    """The responses to so many requests for VTAK, all of which wait for the same answer."""
    waiters = client.application.extensions["sources"].bars.waiters_left = Waiters()
    polygon.answering.clear()
    threads, results = in_threads(count, lambda: client.application.test_client().get(VTAK))
    wait_until(lambda: waiters.count == count and polygon.requests)
    polygon.answering.set()
    for thread in threads:
        thread.join(10)
    assert len(results) == count
    return results


def test_simultaneous_requests_for_the_same_bars_make_one_call(bars_client, polygon):
    results = at_the_same_time(4, bars_client, polygon)
    assert len(polygon.requests) == 1
    assert [response.status_code for response in results] == [200] * 4
    assert len({response.get_data() for response in results}) == 1


def test_all_who_wait_get_the_same_error_and_the_next_request_asks_again(bars_client, polygon):
    polygon.answer = REFUSALS["unknown key"]
    results = at_the_same_time(3, bars_client, polygon)
    assert len(polygon.requests) == 1
    assert [sentence(response, 502) for response in results] == [gui.REFUSALS["API Key"]] * 3
    polygon.answer = None
    assert bars_client.get(VTAK).status_code == 200


def test_one_tickers_bars_do_not_wait_for_anothers(sample_table):
    asked, release = threading.Event(), threading.Event()

    def fetch_minute_bars(ticker, date):
        if ticker == "AAPL":
            asked.set()
            release.wait(10)
        return []

    app = gui.create_app(sample_table, StandIn(fetch_minute_bars))
    slow = f"/api/bars?ticker=AAPL&date={SAMPLE_DAY}"
    threads, results = in_threads(1, lambda: app.test_client().get(slow))
    assert asked.wait(10)
    assert app.test_client().get(VTAK).status_code == 200
    assert results == []
    release.set()
    threads[0].join(10)
    assert results[0].status_code == 200


@pytest.mark.parametrize("ticker", ODD_TICKERS)
def test_an_odd_ticker_is_one_part_of_polygons_path(odd_table, polygon, ticker):
    polygon.answer = EMPTY["no results"]
    client = gui.create_app(odd_table, gui.PolygonBars(polygon.url)).test_client()
    address = "/api/bars?" + urlencode({"ticker": ticker, "date": "2024-01-12"})
    told = f"Polygon has no minute bars of {ticker} on 2024-01-12."
    assert json.loads(client.get(address).get_data()) == {"error": told}
    (request,) = polygon.requests
    *start, asked, range_, one, minute, first, last = request.path.split("/")
    assert start == ["", "v2", "aggs", "ticker"]
    assert unquote(asked) == ticker
    assert [range_, one, minute, first, last] == ["range", "1", "minute", *["2024-01-12"] * 2]
    assert request.query == {"adjusted": "false", "limit": "50000"}


@pytest.mark.parametrize("route", ["bars", "headlines"])
@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        (f"ticker=NOSUCH&date={SAMPLE_DAY}", 404),
        (f"ticker=SWN&date={SAMPLE_DAY}", 404),
        ("ticker=VTAK&date=2024-10-19", 404),
        (f"ticker=vtak&date={SAMPLE_DAY}", 404),
        (f"ticker=VTAK%2F..&date={SAMPLE_DAY}", 404),
        (f"ticker=VTAK&date={SAMPLE_DAY}%2F..", 400),
        (f"ticker=&date={SAMPLE_DAY}", 400),
    ],
)
def test_polygon_is_never_asked_for_what_the_table_lacks(
    bars_client, polygon, route, parameters, status
):
    sentence(bars_client.get(f"/api/{route}?{parameters}"), status)
    assert polygon.requests == []


@pytest.mark.parametrize("names", [KEYS, KEYS[:1], KEYS[1:]])
def test_either_key_is_read_when_bars_are_asked_for(bars_client, polygon, monkeypatch, names):
    monkeypatch.delenv("POLYGON_API_KEY")
    sentence(bars_client.get(VTAK), 503)
    for name in names:
        monkeypatch.setenv(name, f"key in {name}")
    assert bars_client.get(VTAK).status_code == 200
    assert polygon.requests[-1].headers["Authorization"] == f"Bearer key in {names[0]}"
    for name in names:
        monkeypatch.setenv(name, "another key")
    bars_client.get(f"/api/bars?ticker=AAPL&date={SAMPLE_DAY}")
    assert polygon.requests[-1].headers["Authorization"] == "Bearer another key"


@pytest.mark.parametrize("key", [None, ""])
def test_without_a_key_the_answer_says_how_to_set_one(bars_client, polygon, monkeypatch, key):
    monkeypatch.delenv("POLYGON_API_KEY")
    for name in KEYS if key is not None else []:
        monkeypatch.setenv(name, key)
    assert sentence(bars_client.get(VTAK), 503) == gui.NO_KEY
    assert "export POLYGON_API_KEY=" in gui.NO_KEY
    assert polygon.requests == []
    for address in ("/", f"/chart?ticker=VTAK&date={SAMPLE_DAY}", "/api/anomalies"):
        assert bars_client.get(address).status_code == 200


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY}\r\nX-More: 1", f"{KEY}\N{SNOWMAN}"])
def test_a_key_that_no_header_can_hold_is_refused(bars_client, polygon, monkeypatch, key):
    monkeypatch.setenv("POLYGON_API_KEY", key)
    assert sentence(bars_client.get(VTAK), 502) == gui.REFUSALS["API Key"]
    assert not polygon.requests


REFUSED = [(name, answer, 502) for name, answer in REFUSALS.items()]
REFUSED += [("drop", DROP, 502)]
REFUSED += [(name, answer, 502) for name, answer in BROKEN.items() if name != "another host"]
REFUSED += [(name, answer, 404) for name, answer in EMPTY.items()]
# A day has 1,440 minutes: three parts of 500 bars are too many.
REQUESTS = {"the same part for ever": 3, "a new part of one bar for ever": gui.MOST_REQUESTS}


@pytest.mark.parametrize(
    ("answer", "status", "requests"),
    [pytest.param(*case, REQUESTS.get(name, 1), id=name) for name, *case in REFUSED],
)
def test_each_of_polygons_faults_becomes_a_sentence_in_time(
    bars_client, polygon, answer, status, requests
):
    polygon.answer = answer
    threads, results = in_threads(1, bars_client.get, VTAK)
    threads[0].join(20)
    assert results, "no answer within 20 s"
    sentence(results[0], status)
    assert len(polygon.requests) == requests
    polygon.answer = None
    assert bars_client.get(VTAK).status_code == 200


def test_each_refusal_has_its_own_sentence(bars_client, polygon):
    phrases = {"unknown key": "API Key", "not entitled": "entitled", "timeframe": "timeframe"}
    expected = {name: gui.REFUSALS[phrase] for name, phrase in phrases.items()}
    expected["today"] = gui.REFUSALS["today's data"]
    for name, text in expected.items():
        polygon.answer = REFUSALS[name]
        assert sentence(bars_client.get(VTAK), 502) == text
    # All six differ.
    assert len({*expected.values(), gui.RATE_LIMIT, gui.NO_KEY}) == 6
    assert "key" in expected["unknown key"]
    for name in ("not entitled", "timeframe", "today"):
        assert "plan" in expected[name]


def test_a_request_that_gets_a_429_is_not_repeated(bars_client, polygon):
    polygon.answer = RATE_LIMIT
    assert sentence(bars_client.get(VTAK), 429) == gui.RATE_LIMIT
    assert len(polygon.requests) == 1


def test_a_server_that_hangs_is_given_up(sample_table, polygon):
    polygon.answering.clear()
    source = gui.PolygonBars(polygon.url, timeout=0.5)
    client = gui.create_app(sample_table, source).test_client()
    threads, results = in_threads(1, client.get, VTAK)
    threads[0].join(20)
    assert sentence(results[0], 504) == gui.TIMEOUT
    assert len(polygon.requests) == 1


def test_where_nothing_listens_polygon_cannot_be_reached(sample_table, polygon):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        nobody = gui.PolygonBars(f"http://127.0.0.1:{silent.getsockname()[1]}")
        client = gui.create_app(sample_table, nobody).test_client()
        assert sentence(client.get(VTAK), 502) == gui.NO_CONNECTION


def test_a_redirect_to_another_host_is_not_followed(bars_client, polygon):
    with FakePolygon(SAMPLE_MARKET) as other:
        location = {"Location": other.url.replace("127.0.0.1", "localhost") + "/v2/aggs"}
        polygon.answer = BROKEN["another host"]._replace(headers=location)
        assert sentence(bars_client.get(VTAK), 502) == gui.BAD_ANSWER
        assert other.requests == []


def test_the_key_is_in_no_answer_and_no_log_line(bars_client, polygon, caplog, capfd):
    caplog.set_level("DEBUG")
    echo = f'{{"status":"ERROR","error":"Unknown API Key {KEY}","message":"{KEY}"}}'
    faults = [answer for name, answer, _ in REFUSED if "for ever" not in name]
    faults += [REFUSALS["unknown key"]._replace(body=echo), Answer(200, {}, KEY)]
    addresses = ["/", f"/chart?ticker=VTAK&date={SAMPLE_DAY}", "/api/days", "/nothing"]
    answers = [bars_client.get(address) for address in addresses]
    for fault in faults:
        polygon.answer = fault
        answers.append(bars_client.get(VTAK))
    polygon.answer = None
    answers.append(bars_client.get(VTAK))
    for response in answers:
        assert KEY not in str(response.headers) + response.get_data(as_text=True)
    assert KEY not in caplog.text
    assert KEY not in "".join(capfd.readouterr())


def test_the_polygon_client_is_imported_when_bars_are_first_asked_for(sample_table):
    program = f"""
import importlib, sys
sys.path.insert(0, {str(TOP)!r})
gui = importlib.import_module("gui-lookup-table")
app = gui.create_app({str(sample_table)!r}, gui.PolygonBars("http://127.0.0.1:9"))
assert app.test_client().get("/").status_code == 200
print(sorted({{"polygon", "pandas", "numpy", "plotly"}} & set(sys.modules)))
assert app.test_client().get({VTAK!r}).status_code == 502
print("polygon" in sys.modules)
"""
    line = [sys.executable, "-c", program]
    printed = subprocess.check_output(line, env=environment(POLYGON_API_KEY=KEY), encoding="utf-8")
    assert printed.splitlines() == ["[]", "True"]


# Polygon, hostile.


# Of the last three, the client takes the path and asks its own server, five times. The others are
# refused.
@pytest.mark.parametrize(
    ("next_url", "requests"),
    [
        ("x:@{}/v2/aggs", 1),
        ("x:{}/v2/aggs", 1),
        ("{}/v2/aggs", 1),
        ("x:8/v2/aggs", 1),
        ("v2/aggs", 1),
        ("", 1),
        ("//x@{}/v2/aggs", 5),
        ("https://x@{}/v2/aggs", 5),
        ("http:/\\{}/v2/aggs", 5),
    ],
)
def test_a_next_url_never_leads_to_another_host(bars_client, polygon, next_url, requests):
    with FakePolygon(SAMPLE_MARKET) as other:
        next_url = next_url.format(urlsplit(other.url).netloc)
        polygon.answer = answered({"results": [BAR], "next_url": next_url})
        assert sentence(bars_client.get(VTAK), 502) == gui.BAD_ANSWER
        assert other.requests == []
    assert len(polygon.requests) == requests


def test_an_answer_without_end_is_read_to_the_limit_only():
    class Endless:
        headers, sent = {}, 0

        def read(self, size, decode_content):
            self.sent += size
            return b" " * size

    response = Endless()
    with pytest.raises(gui.PolygonError):
        gui.read_body(response)
    assert response.sent == gui.LARGEST_ANSWER + 1


def test_a_number_of_401_digits_is_read_as_nan():
    (result,) = gui.read_answer('{"results":[' + "9" * 401 + "]}")["results"]
    assert isnan(result)


def test_the_next_url_of_headlines_is_not_followed(bars_client, polygon):
    with FakePolygon(SAMPLE_MARKET) as other:
        next_url = other.url.replace("http://", "x:@") + "/v2/aggs"
        polygon.answer = answered({"results": [ARTICLE], "next_url": next_url})
        assert loads(bars_client.get(HEADLINES))["headlines"] == [HEADLINE]
        assert other.requests == []
    assert len(polygon.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(bars_client, polygon, status):
    polygon.answer = Answer(status, {"Location": f"{polygon.url}/v2/aggs"}, "")
    assert sentence(bars_client.get(VTAK), 502) == gui.BAD_ANSWER
    assert len(polygon.requests) == 1


@pytest.mark.parametrize("is_head_slow", [False, True])
def test_an_answer_that_comes_too_slowly_is_given_up(sample_table, polygon, is_head_slow):
    # Each byte comes within the time limit of a read.
    polygon.pace, polygon.is_head_slow = 0.02, is_head_slow
    source = gui.PolygonBars(polygon.url, timeout=5, total=0.3)
    client = gui.create_app(sample_table, source).test_client()
    started = time.monotonic()
    assert sentence(client.get(VTAK), 504) == gui.TIMEOUT
    assert 0.3 <= time.monotonic() - started < 3


def test_a_call_that_was_given_up_holds_its_turn_until_it_ends(sample_table, polygon):
    source = gui.PolygonBars(polygon.url, timeout=30, total=0.05)
    client = gui.create_app(sample_table, source).test_client()
    addresses = [f"/api/bars?ticker={ticker}&date={SAMPLE_DAY}" for ticker in LARGE]
    polygon.answering.clear()
    for address in addresses[: gui.CALLS_AT_ONCE]:
        assert sentence(client.get(address), 504) == gui.TIMEOUT
    wait_until(lambda: len(polygon.requests) == gui.CALLS_AT_ONCE)
    assert sentence(client.get(addresses[-1]), 503) == gui.BUSY
    assert len(polygon.requests) == gui.CALLS_AT_ONCE
    source.total = 10
    polygon.answering.set()
    wait_until(lambda: client.get(addresses[-1]).status_code == 200)


def test_all_parts_of_an_answer_share_one_time_limit(sample_table, polygon):
    # Each part of some 400 bytes takes at least 0.2 s; five of them would take 1 s.
    polygon.part_size, polygon.pace = 1, 0.0005
    source = gui.PolygonBars(polygon.url, timeout=5, total=0.5)
    client = gui.create_app(sample_table, source).test_client()
    assert sentence(client.get(VTAK), 504) == gui.TIMEOUT


def test_a_gzip_answer_is_unpacked(bars_client, polygon):
    body = json.dumps({"status": "OK", "results": [BAR]}).encode()
    polygon.answer = Answer(200, {"Content-Encoding": "gzip"}, gzip.compress(body))
    assert [bar["timestamp"] for bar in loads(bars_client.get(VTAK))["bars"]] == [BAR["t"]]


def test_bars_are_sorted_and_one_a_minute_is_kept(bars_client, polygon):
    start = new_york_time(SAMPLE_DAY, 600)
    times = [start + 120_000, start, start + 60_000, start, start + 59_999]
    polygon.answer = with_bars(*({**BAR, "t": at, "n": n} for n, at in enumerate(times)))
    bars = loads(bars_client.get(VTAK))["bars"]
    expected = [(start + 59_999, 4), (start + 60_000, 2), (start + 120_000, 0)]
    assert [(bar["timestamp"], bar["transactions"]) for bar in bars] == expected


def test_bars_of_other_days_are_left_out(bars_client, polygon):
    start = new_york_time(SAMPLE_DAY, 0)
    end = start + 24 * 3600 * 1000
    times = [start - 1, start, end - 60_000, end, 0, -(10**15), 10**15]
    polygon.answer = with_bars(*({**BAR, "t": at} for at in times))
    bars = loads(bars_client.get(VTAK))["bars"]
    assert [bar["timestamp"] for bar in bars] == [start, end - 60_000]
    polygon.answer = with_bars({**BAR, "t": start - 1})
    told = sentence(bars_client.get(f"/api/bars?ticker=AAPL&date={SAMPLE_DAY}"), 404)
    assert told == f"Polygon has no minute bars of AAPL on {SAMPLE_DAY}."


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for localhost and its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    make += ["-nodes", "-days", "2", "-subj", "/CN=localhost"]
    make += ["-addext", "subjectAltName=DNS:localhost", "-keyout", path, "-out", f"{path}.crt"]
    subprocess.run(make, check=True, capture_output=True)
    with path.open("a") as file:
        file.write(Path(f"{path}.crt").read_text())
    return path


@pytest.fixture
def tls_polygon(certificate, monkeypatch):
    """The stand-in for Polygon behind the certificate, and a key in the environment."""
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate)
    with FakePolygon(SAMPLE_MARKET, server_side) as fake:
        yield fake


def test_a_server_is_asked_through_tls(sample_table, certificate, tls_polygon, monkeypatch):
    monkeypatch.setattr("certifi.where", lambda: str(certificate))
    client = gui.create_app(sample_table, gui.PolygonBars(tls_polygon.url)).test_client()
    bars = loads(client.get(VTAK))["bars"]
    assert len(bars) == len(tls_polygon.bars_of("VTAK", SAMPLE_DAY))
    assert len(tls_polygon.requests) == 1


def test_a_server_whose_certificate_is_unknown_is_not_asked(sample_table, tls_polygon):
    client = gui.create_app(sample_table, gui.PolygonBars(tls_polygon.url)).test_client()
    assert sentence(client.get(VTAK), 502) == gui.NO_CONNECTION
    assert tls_polygon.requests == []


def test_without_polygons_client_the_answer_says_what_to_install(bars_client, polygon, monkeypatch):
    monkeypatch.setitem(sys.modules, "polygon", None)
    assert "pip install -r requirements.txt" in sentence(bars_client.get(VTAK), 503)
    assert not polygon.requests


# Polygon's limit of requests a minute.


class Clock:
    """A time module whose clock stands at 20 seconds past a minute."""

    def __init__(self):
        self.now = 20.0

    def monotonic(self):
        return self.now

    time = monotonic


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(gui, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("60", 60), (None, 40), ("soon", 40), ("-5", 40), ("0", 1), ("999999999", 3600)],
)
def test_after_a_429_polygon_is_left_alone_for_as_long_as_it_says(
    sample_table, polygon, clock, header, seconds
):
    client = gui.create_app(sample_table, gui.PolygonBars(polygon.url)).test_client()
    polygon.answer = RATE_LIMIT._replace(headers={"Retry-After": header} if header else {})
    response = client.get(VTAK)
    assert loads(response) == {"error": gui.RATE_LIMIT, "retry_after": seconds}
    assert (response.status_code, response.headers["Retry-After"]) == (429, str(seconds))
    polygon.answer = None
    clock.now += seconds - 0.5
    for address in (VTAK, f"/api/bars?ticker=AAPL&date={SAMPLE_DAY}", HEADLINES):
        response = client.get(address)
        assert (response.status_code, loads(response)["retry_after"]) == (429, 1)
    assert len(polygon.requests) == 1
    clock.now += 0.5
    assert client.get(VTAK).status_code == 200


def test_after_a_429_bars_in_the_cache_are_still_given(bars_client, polygon):
    assert bars_client.get(VTAK).status_code == 200
    polygon.answer = RATE_LIMIT
    sentence(bars_client.get(f"/api/bars?ticker=AAPL&date={SAMPLE_DAY}"), 429)
    assert bars_client.get(VTAK).status_code == 200


# Headlines.


HEADLINES = f"/api/headlines?ticker=VTAK&date={SAMPLE_DAY}"
ARTICLE = {
    "id": "1",
    "publisher": {"name": "The Paper", "homepage_url": "https://paper.example/"},
    "title": "A headline",
    "author": "A. Writer",
    "published_utc": "2024-10-18T13:05:00Z",
    "article_url": "https://paper.example/a?b=c",
    "tickers": ["VTAK", "AAPL"],
    "insights": [{"ticker": "VTAK", "sentiment": "positive"}],
}
HEADLINE = {
    "title": "A headline",
    "publisher": "The Paper",
    "published_utc": "2024-10-18T13:05:00Z",
    "url": "https://paper.example/a?b=c",
}


def test_the_headlines_are_those_from_the_previous_close_to_the_days_evening(bars_client, polygon):
    # 16:00 in New York in summer is 20:00 UTC, and 20:00 is midnight.
    times = ["2024-10-17T19:59:59Z", "2024-10-17T20:00:00Z", "2024-10-18T13:05:00Z"]
    times += ["2024-10-19T00:00:00Z", "2024-10-19T00:00:01Z"]
    polygon.articles["VTAK"] = [
        {**ARTICLE, "title": str(i), "published_utc": times[i]} for i in (2, 4, 3, 0, 1)
    ]
    answer = loads(bars_client.get(HEADLINES))
    assert list(answer) == ["ticker", "date", "from", "to", "headlines"]
    assert (answer["ticker"], answer["date"]) == ("VTAK", SAMPLE_DAY)
    assert (answer["from"], answer["to"]) == (times[1], times[3])
    assert [headline["title"] for headline in answer["headlines"]] == ["1", "2", "3"]
    assert answer["headlines"][1] == {**HEADLINE, "title": "2"}


def test_the_headlines_of_a_tickers_first_day_start_at_midnight(bars_client, polygon):
    answer = loads(bars_client.get(f"/api/headlines?ticker=VTAK&date={SAMPLE_DAYS[0]}"))
    assert answer["from"] == f"{SAMPLE_DAYS[0]}T04:00:00Z"
    assert answer["headlines"] == []


def test_a_click_for_headlines_is_one_request(bars_client, polygon):
    polygon.articles["VTAK"] = [{**ARTICLE, "title": str(i)} for i in range(120)]
    answer = loads(bars_client.get(HEADLINES))
    assert [headline["title"] for headline in answer["headlines"]] == list(map(str, range(50)))
    (request,) = polygon.requests
    assert request.path == "/v2/reference/news"
    assert request.query == {
        "ticker": "VTAK",
        "published_utc.gte": answer["from"],
        "published_utc.lte": answer["to"],
        "order": "asc",
        "sort": "published_utc",
        "limit": "50",
    }
    assert loads(bars_client.get(HEADLINES)) == answer
    assert len(polygon.requests) == 1


@pytest.mark.parametrize(
    ("odd", "shown"),
    [
        ({"insights": None}, {}),
        ({"publisher": None}, {"publisher": None}),
        ({"publisher": "The Paper"}, {"publisher": None}),
        ({"publisher": {"name": 7}}, {"publisher": None}),
        ({"article_url": "javascript:alert(1)"}, {"url": None}),
        ({"article_url": "HTTP://paper.example"}, {"url": "HTTP://paper.example"}),
        ({"article_url": "data:text/html,<script>alert(1)</script>"}, {"url": None}),
        ({"article_url": "//paper.example"}, {"url": None}),
        ({"article_url": "https://paper.example/\n"}, {"url": None}),
        ({"article_url": ["https://paper.example/"]}, {"url": None}),
        ({"published_utc": None}, {"published_utc": None}),
        ({"published_utc": 1729256700}, {"published_utc": None}),
        ({"published_utc": "yesterday"}, {"published_utc": None}),
        ({"title": "<b>A</b>\n\tB\x00\u202e"}, {"title": "<b>A</b> B"}),
        ({"title": "A" * 501}, {"title": "A" * 500}),
    ],
)
def test_what_is_odd_in_an_article_is_left_out(bars_client, polygon, odd, shown):
    polygon.answer = answered({"results": [{**ARTICLE, **odd}]})
    assert loads(bars_client.get(HEADLINES))["headlines"] == [{**HEADLINE, **shown}]


@pytest.mark.parametrize("odd", [None, 7, "text", [], {}, {"title": None}, {"title": " \n"}])
def test_what_is_no_article_is_left_out(bars_client, polygon, odd):
    polygon.answer = answered({"results": [odd, ARTICLE]})
    assert loads(bars_client.get(HEADLINES))["headlines"] == [HEADLINE]


@pytest.mark.parametrize("results", ["text", {"title": "A"}, 7])
def test_headlines_that_are_no_list_are_a_bad_answer(bars_client, polygon, results):
    polygon.answer = answered({"results": results})
    assert sentence(bars_client.get(HEADLINES), 502) == gui.BAD_ANSWER


@pytest.mark.parametrize("name", [*REFUSALS, "server error", "broken json", "not utf-8"])
def test_headlines_are_refused_as_bars_are(bars_client, polygon, name):
    polygon.answer = {**REFUSALS, **BROKEN}[name]
    assert sentence(bars_client.get(HEADLINES), 502) == sentence(bars_client.get(VTAK), 502)


# Requests that another site makes.


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "nonsense"])
@pytest.mark.parametrize(
    "address", [VTAK, HEADLINES, AFTER.format("VTAK", SAMPLE_DAY), "/api/days", "/api/nothing"]
)
def test_another_site_may_not_use_the_api(bars_client, polygon, address, site):
    response = bars_client.get(address, headers={"Sec-Fetch-Site": site})
    assert sentence(response, 403) == "only this server's own views may ask for this"
    assert not polygon.requests


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_this_servers_views_and_its_user_may_use_the_api(client, site):
    assert client.get("/api/days", headers={"Sec-Fetch-Site": site}).status_code == 200


def test_a_link_on_another_site_may_lead_here(client):
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


# The table's version, by which an open view notices a new table.


def test_the_version_changes_with_the_table(sample_table, tiny_table, tmp_path):
    table = tmp_path / "table.pkl"
    table.write_bytes(sample_table.read_bytes())
    client = gui.create_app(table, NO_POLYGON).test_client()

    def version_of_view(address):
        return parse(client.get(address)).find("main")[0]["data-table-version"]

    before = loads(client.get("/api/table"))
    assert before == {"version": version_of_view("/"), "last": SAMPLE_DAY}
    assert version_of_view(f"/chart?ticker=VTAK&date={SAMPLE_DAY}") == before["version"]
    assert loads(client.get("/api/table")) == before
    replace_table(table, tiny_table)
    after = loads(client.get("/api/table"))
    assert after == {"version": version_of_view("/"), "last": TINY_DAYS[-1]}
    assert after["version"] != before["version"]


def test_a_table_that_is_gone_has_no_version(tmp_path, sample_table):
    table = tmp_path / "table.pkl"
    table.write_bytes(sample_table.read_bytes())
    client = gui.create_app(table, NO_POLYGON).test_client()
    assert client.get("/api/table").status_code == 200
    table.unlink()
    assert "run build-lookup-table.py" in sentence(client.get("/api/table"), 503)


# The table while the server runs.


def test_the_next_request_is_answered_from_a_replaced_table(sample_table, tiny_table, tmp_path):
    table = tmp_path / "table.pkl"
    table.write_bytes(sample_table.read_bytes())
    client = gui.create_app(table, NO_POLYGON).test_client()
    addresses = ["/api/days", "/api/anomalies", "/", "/api/history?ticker=VTAK&date=2024-10-18"]
    before = [client.get(address).status_code for address in addresses]
    assert before == [200, 200, 200, 200]
    replace_table(table, tiny_table)
    assert loads(client.get("/api/days"))["days"] == TINY_DAYS
    assert loads(client.get("/api/anomalies"))["date"] == TINY_DAYS[-1]
    assert parse(client.get("/")).find("h1")[0].text == f"Tuesday, {TINY_DAYS[-1]}"
    assert client.get(addresses[3]).status_code == 404
    assert client.get("/api/history?ticker=TINY&date=2024-01-12").status_code == 200


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("made-by-a-table",)


BAD_TABLES = {
    "removed": lambda good: None,
    "empty": lambda good: b"",
    "cut short": lambda good: good[: len(good) // 2],
    "without its end": lambda good: good[:-10],
    "no pickle": lambda good: b"ticker,volume,open\n",
    "another pickle": lambda good: pickle.dumps([1, 2, 3]),
    "hostile": lambda good: pickle.dumps(Hostile()),
    "no tickers": lambda good: pickle.dumps({}),
    "wrong rows": lambda good: pickle.dumps({"VTAK": {SAMPLE_DAY: {"trades": "many"}}}),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_bad_table_is_an_error_until_a_good_one_replaces_it(
    sample_table, tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "table.pkl"
    good = sample_table.read_bytes()
    table.write_bytes(good)
    client = gui.create_app(table, NO_POLYGON).test_client()
    assert client.get("/").status_code == 200
    table.unlink()
    bad = BAD_TABLES[name](good)
    if bad is not None:
        table.write_bytes(bad)
    query = f"?ticker=VTAK&date={SAMPLE_DAY}"
    for address in ["anomalies", "history" + query, "bars" + query]:
        text = sentence(client.get(f"/api/{address}"), 503)
        assert "build-lookup-table.py" in text
    for address in ["/", "/chart" + query]:
        response = client.get(address)
        assert response.status_code == 503
        assert "build-lookup-table.py" in parse(response).text
        assert "Content-Security-Policy" in response.headers
    assert not (tmp_path / "made-by-a-table").exists()
    table.write_bytes(good)
    assert client.get("/").status_code == 200


def test_a_plain_pickle_is_refused_with_the_command_that_builds_a_table(tmp_path, sample_table):
    table = tmp_path / "table.pkl"
    table.write_bytes(pickle.dumps(pickle.loads(sample_table.read_bytes())))
    client = gui.create_app(table, NO_POLYGON).test_client()
    text = sentence(client.get("/api/days"), 503)
    assert text == f"{table} was not written by build-lookup-table.py: run it to make a table"
    assert_refused(call_gui("--table", table, "--port", 0), text)


# Tables that were made to harm: every checksum is right.


class ForgedTable:
    """A table in the builder's format with whatever contents a test wants.

    names has the tickers, as bytes. Every date has the same day page: the values in columns, and
    ones in all other columns. Every ticker has the same history, with one row, on the first date
    (pickled rows and gaps).
    """

    def __init__(self, dates, names, **columns):
        self.dates, self.names, self.columns = dates, names, columns
        self.rows = names.count(b"\n") + 1
        self.window, self.number_of_tickers = 5, self.rows
        self.counts = 9, 1  # tickers with a deviation, and anomalies
        self.spoil = lambda packed_extent: packed_extent
        self.set_history([0])

    def set_history(self, sessions, price=0.0, gap=1.0):
        """A row on each of sessions, of which there are at most five, with these numbers."""
        self.pickled_rows = b""
        for session in sessions:
            record = bytearray(gui.querier.SHORT_ROW_INTEGERS.size)
            struct.pack_into("<I", record, 1, len(gui.querier.FIELDS) + session)
            struct.pack_into(">d", record, 17, price)  # close_price
            struct.pack_into(">d", record, 28, price)  # price_diff
            self.pickled_rows += record
        self.gaps = struct.pack("<d", gap) * len(sessions)

    def write(self, path):
        content = bytearray(gui.querier.SIGNATURE)

        def add(piece):
            content.extend(piece)
            offset = len(content) - len(piece)
            return gui.querier.EXTENT.pack(offset, len(piece), zlib.crc32(piece))

        ones = [1] * (self.names.count(b"\n") + 1)  # a test may have made self.rows wrong
        page = b"".join(
            array(code, self.columns.get(name, ones)).tobytes()
            for name, code in gui.querier.DAY_PAGE_COLUMNS.items()
        )
        page = self.spoil(add(page + self.names))
        history = self.spoil(add(self.pickled_rows)) + self.spoil(add(self.gaps))
        directory = self.spoil(add(history * len(ones) + self.names))
        index = gui.querier.INDEX_HEADER.pack(self.window, self.number_of_tickers, directory)
        for date in self.dates:
            index += gui.querier.INDEX_DAY.pack(date.encode(), page, self.rows, *self.counts)
        footer = gui.querier.FOOTER.pack(add(index), gui.querier.MAGIC)
        path.write_bytes(content + footer)
        return path

    def client(self, tmp_path):
        return gui.create_app(self.write(tmp_path / "forged.pkl"), NO_POLYGON).test_client()


FEW_DAYS = SAMPLE_DAYS[:3]
WITHOUT_PARAMETERS = ["/", "/api/days", "/api/table"]


def addresses_of(ticker, date=FEW_DAYS[0], **more):
    """Every route that is asked for a ticker and a date."""
    query = "?" + urlencode({"ticker": ticker, "date": date, **more})
    routes = ["/", "/chart", "/anomalies.csv", "/api/anomalies", "/api/history", "/api/after"]
    return [route + query for route in routes]


def statuses_of(client, addresses):
    """The statuses of all answers, each of which is well-formed."""
    statuses = set()
    for address in addresses:
        response = client.get(address)
        statuses.add(response.status_code)
        if response.status_code >= 400 and address.startswith("/api"):
            sentence(response, response.status_code)
        elif address.startswith("/api"):
            loads(response)
        elif response.mimetype == "text/csv":
            next(csv.reader(io.StringIO(response.get_data(as_text=True), newline="")))
        else:
            parse(response)
    return statuses


def test_a_forged_table_is_read_like_any_other(tmp_path):
    client = ForgedTable(FEW_DAYS, b"A\nB", trades=[9, 1]).client(tmp_path)
    assert [row["ticker"] for row in list_rows(parse(client.get("/")))] == ["A"]
    assert statuses_of(client, WITHOUT_PARAMETERS + addresses_of("A")) == {200}


ODD_NUMBERS = [nan, inf, -inf, 0.0, -0.0, -1.0, 5e-324, 1.7e308, -1.7e308, 1e18]


def test_odd_numbers_in_a_day_page_make_no_request_fail(tmp_path):
    rng = random.Random(1)
    names = [f"T{i}" for i in range(60 * EFFORT)]
    columns = {
        name: [rng.choice(ODD_NUMBERS) for _ in names]
        for name, code in gui.querier.DAY_PAGE_COLUMNS.items()
        if code == "d"
    }
    columns["trades"] = [rng.choice([0, 1, -1, 2**31 - 1, -(2**31)]) for _ in names]
    columns["record"] = [rng.choice([0, 1, 65_535]) for _ in names]
    columns["baseline_days"] = columns["earlier_rows"] = columns["record"][::-1]
    forged = ForgedTable(SAMPLE_DAYS[:30], "\n".join(names).encode(), **columns)
    forged.counts = 2**32 - 1, 2**32 - 1
    forged.set_history([5, 29])  # only the latter has 20 days before it, and so a usual share
    client = forged.client(tmp_path)
    for i, ticker in enumerate(names):
        more = {
            "threshold": [3, -1e308, 1e308][i % 3],
            "sort": list(gui.SORT_COLUMNS)[i % len(gui.SORT_COLUMNS)],
            "order": ["asc", "desc"][i // 3 % 2],
            "min_price": [0, -1e308, 1e308][i // 2 % 3],
        }
        date = SAMPLE_DAYS[[5, 29][i % 2]]
        assert statuses_of(client, addresses_of(ticker, date, **more)) == {200}


def test_odd_numbers_in_a_history_make_no_request_fail(tmp_path):
    forged = ForgedTable(FEW_DAYS, b"A", trades=[9])
    for odd in ODD_NUMBERS:
        forged.set_history([0], odd, odd)
        assert statuses_of(forged.client(tmp_path), WITHOUT_PARAMETERS + addresses_of("A")) == {200}


HOSTILE_NAMES = [
    *("<script>alert(1)</script>", "'\"><img src=x onerror=alert(1)>", "{{ 7 * 7 }}", "&amp;"),
    *("\x1b[31m", "\u202eA", "A\tB", "\x7f", " ", "A,B", "=1+1", "\N{SNOWMAN}" * 500, "A"),
]


def test_hostile_names_are_shown_as_they_are(tmp_path):
    rows = len(HOSTILE_NAMES)
    names = "\n".join(HOSTILE_NAMES).encode()
    client = ForgedTable(FEW_DAYS, names, trades=[9] * rows).client(tmp_path)
    view = parse(client.get("/?date=2024-08-01"))
    shown = [row["data-ticker"] for row in view.find("tr", data_ticker=True)]
    assert shown == HOSTILE_NAMES
    assert view.find("img") == []
    assert [script["src"] for script in view.find("script")] == ["/static/scanner.js"]
    found = loads(client.get("/api/anomalies?date=2024-08-01"))["anomalies"]
    assert [row["ticker"] for row in found] == HOSTILE_NAMES
    for name in HOSTILE_NAMES:
        assert statuses_of(client, WITHOUT_PARAMETERS + addresses_of(name)) == {200}


@pytest.mark.parametrize(
    "names", [b"\xed\xa0\x80", b"\xff", b"\xc0\xaf", "A\nB".encode("utf-16")], ids=repr
)
def test_names_that_are_not_utf_8_are_refused(tmp_path, names):
    client = ForgedTable(FEW_DAYS, names).client(tmp_path)
    assert statuses_of(client, addresses_of("A")) == {503}


@pytest.mark.parametrize(
    "dates", [FEW_DAYS[::-1], ["2024-02-30"], ["yesterday!"], ["2024-08-01", "0000-00-00"]], ids=str
)
def test_impossible_dates_are_refused(tmp_path, dates):
    client = ForgedTable(dates, b"A").client(tmp_path)
    assert statuses_of(client, WITHOUT_PARAMETERS + addresses_of("A", "2024-08-01")) == {503}


def moved(extent, **changes):
    """The packed extent with another offset, length or crc."""
    offset, length, crc = gui.querier.EXTENT.unpack(extent)
    values = {"offset": offset, "length": length, "crc": crc, **changes}
    return gui.querier.EXTENT.pack(values["offset"], values["length"], values["crc"])


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": 2**63},
        {"offset": 2**64 - 1},
        {"length": 2**64 - 1},
        {"offset": 0, "crc": 1},
        {"length": 0, "crc": 0},
    ],
    ids=str,
)
def test_a_wrong_extent_is_refused(tmp_path, changes):
    forged = ForgedTable(FEW_DAYS, b"A")
    forged.spoil = lambda extent: moved(extent, **changes)
    assert statuses_of(forged.client(tmp_path), addresses_of("A")) == {503}


@pytest.mark.parametrize("rows", [0, 2, 2**16, 2**17, 2**32 - 1])
def test_a_wrong_number_of_rows_is_refused(tmp_path, rows):
    forged = ForgedTable(FEW_DAYS, b"A")
    forged.rows = rows
    *of_the_page, history, after = addresses_of("A")
    client = forged.client(tmp_path)
    assert statuses_of(client, [*of_the_page, after]) == {503}
    assert statuses_of(client, [history]) == {200}


def forged_client(tmp_path, changes):
    forged = ForgedTable(FEW_DAYS, b"A")
    for name, value in changes.items():
        setattr(forged, name, value)
    return forged.client(tmp_path)


SHORT, LONG = 43, 59  # bytes of a pickled row, without and with a baseline


@pytest.mark.parametrize(
    "changes",
    [
        {"gaps": struct.pack("<d", 1) * 3},
        {"gaps": struct.pack("<d", 1) * 1_600_000},
        {"gaps": struct.pack("<d", 1) * 200_000, "pickled_rows": bytes(SHORT * 200_000)},
        {
            "gaps": struct.pack("<d", 1) * 200_000,
            "pickled_rows": bytes(LONG * 199_995 + SHORT * 5),
        },
        {"gaps": b""},
        {"pickled_rows": b""},
        {"pickled_rows": bytes(SHORT)},
        {"pickled_rows": b"\xff" * SHORT},
        {"number_of_tickers": 2},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_an_impossible_history_is_refused_wherever_it_is_needed(tmp_path, changes):
    client = forged_client(tmp_path, changes)
    view, chart, csv_file, anomalies, history, after = addresses_of("A")
    assert statuses_of(client, [view, chart, history]) == {503}
    assert statuses_of(client, [csv_file, anomalies, after, "/"]) == {200}


@pytest.mark.parametrize(
    "changes", [{"number_of_tickers": 0}, {"number_of_tickers": 2**32 - 1}, {"window": 0}], ids=str
)
def test_an_impossible_index_is_refused(tmp_path, changes):
    client = forged_client(tmp_path, changes)
    assert statuses_of(client, WITHOUT_PARAMETERS + addresses_of("A")) == {503}


def test_the_longest_window_is_possible(tmp_path):
    client = forged_client(tmp_path, {"window": 2**32 - 1})
    assert statuses_of(client, WITHOUT_PARAMETERS + addresses_of("A")) == {200}


def crowd(tickers, anomalies):
    """A ForgedTable of 25 days; so many tickers are anomalies, with a z-score of 8."""
    names = "\n".join(f"TICKER{i}" for i in range(tickers)).encode()
    trades = [9] * anomalies + [1] * (tickers - anomalies)
    return ForgedTable(SAMPLE_DAYS[:25], names, trades=trades)


def test_a_day_of_too_many_tickers_is_refused(tmp_path):
    client = crowd(2**17, 1).client(tmp_path)
    view, chart, csv_file, anomalies, history, after = addresses_of("TICKER7", SAMPLE_DAYS[0])
    for address in (view, chart, csv_file, anomalies, after, "/"):
        response = client.get(address)
        assert response.status_code == 503
        assert "131,072 tickers, more than this server shows" in response.get_data(as_text=True)
    assert client.get(history).status_code == 200


def test_a_day_of_too_many_anomalies_is_refused(tmp_path):
    client = crowd(gui.MOST_ANOMALIES + 1, gui.MOST_ANOMALIES + 1).client(tmp_path)
    for address in ("/", "/anomalies.csv", "/api/anomalies"):
        response = client.get(address)
        assert response.status_code == 503
        assert b"16,385 anomalies, and a list holds at most 16,384" in response.data
    summary = parse(client.get("/?threshold=8")).find(id="summary")[0].elements[1].text
    assert summary == "0 anomalies among 16,385 tickers"


def test_the_largest_lists_at_the_same_time_fit_into_memory(tmp_path):
    table = crowd(gui.MOST_TICKERS_A_DAY, gui.MOST_ANOMALIES).write(tmp_path / "table.pkl")
    parameters = f"?date={SAMPLE_DAYS[0]}&ticker=TICKER7"
    routes = ["/", "/anomalies.csv", "/api/anomalies", "/api/after", "/chart"]
    sizes = {}
    with running_gui(table, "http://127.0.0.1:9") as served:

        def measure(route):
            sizes[route] = len(served.get(route + parameters, timeout=60))

        threads = [in_threads(1, measure, route)[0][0] for route in routes]
        for thread in threads:
            thread.join(60)
        assert served.memory("VmHWM") <= soak_gui.MOST_MEMORY
    assert set(sizes) == set(routes)
    # A row takes more than 400 bytes in the view, 60 in the csv file and 200 in JSON.
    least = {"/": 400, "/anomalies.csv": 60, "/api/anomalies": 200}
    assert [route for route in least if sizes[route] < least[route] * gui.MOST_ANOMALIES] == []


@pytest.mark.parametrize("kind", ["fifo", "folder", "sparse", "device"])
def test_what_is_no_file_or_too_large_is_refused(tmp_path, kind):
    path = tmp_path / "table.pkl"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(6 * 2**30)
            file.seek(0, os.SEEK_END)
            index = gui.querier.EXTENT.pack(0, 6 * 2**30, 0)
            file.write(gui.querier.FOOTER.pack(index, gui.querier.MAGIC))
    client = gui.create_app(path, NO_POLYGON).test_client()
    assert statuses_of(client, WITHOUT_PARAMETERS + addresses_of("A")) == {503}


def without_version(response):
    """The response's bytes without the file's version, which differs each time it is written."""
    return re.sub(rb'data-table-version="[^"]*"', b"", response.get_data())


@pytest.fixture(scope="module")
def tiny_answers(tiny_table):
    """What the GUI answers about the undamaged table, by address."""
    client = gui.create_app(tiny_table, NO_POLYGON).test_client()
    parameters = "?ticker=TINY&date=2024-01-12"
    routes = ["/chart", "/api/history"]
    addresses = ["/", "/api/days", "/api/anomalies", *(route + parameters for route in routes)]
    return {address: without_version(client.get(address)) for address in addresses}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """The path of a table that tests write, and a client of an app that shows it."""
    path = tmp_path_factory.mktemp("damaged") / "table.pkl"
    return path, gui.create_app(path, NO_POLYGON).test_client()


@EXAMPLES
@given(data=st.data())
def test_a_damaged_table_gives_the_right_answer_or_an_error(
    tiny_table, tiny_answers, damaged, data
):
    path, client = damaged
    content = bytearray(tiny_table.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    for address, answer in tiny_answers.items():
        response = client.get(address)
        assert response.status_code == 503 or without_version(response) == answer


TEXTS = st.text(max_size=20) | st.binary(max_size=8).map(lambda raw: raw.decode("latin-1"))
VALUES = st.one_of(
    TEXTS,
    st.sampled_from(["VTAK", "AAPL", SAMPLE_DAY, "2024-09-02", "9999-12-31", "0000-00-00", "asc"]),
    st.sampled_from(
        [
            "3",
            "-0",
            "1e308",
            "1_0",
            "nan",
            "0x10",
            "\N{ARABIC-INDIC DIGIT THREE}",
            "z_score",
            "times_normal",
        ]
    ),
    st.integers().map(str),
    st.floats().map(str),
    st.dates().map(str),
)
NAMES = st.sampled_from(
    ["date", "threshold", "sort", "order", "filter", "ticker", "sessions", "a[]"]
)
PATHS = st.sampled_from(
    ["/", "/chart", "/api/days", "/api/anomalies", "/api/history", "/api/bars", "/static/"]
)


@pytest.fixture(scope="module")
def client_without_bars(sample_table):
    """A client of an app whose days have no minute bars."""
    return gui.create_app(sample_table, StandIn(lambda *asked: [])).test_client()


@EXAMPLES
@given(path=PATHS, parameters=st.lists(st.tuples(NAMES, VALUES), max_size=6))
def test_no_parameters_make_the_server_fail(client_without_bars, path, parameters):
    address = f"{path}?{urlencode(parameters, errors='surrogatepass')}"
    assert statuses_of(client_without_bars, [address]) <= {200, 400, 404}


@EXAMPLES
@given(path=st.binary(max_size=30), parameters=st.binary(max_size=40))
def test_no_address_makes_the_server_fail(client_without_bars, path, parameters):
    as_a_server_has_it = {"PATH_INFO": "/" + path.decode("latin-1")}
    response = client_without_bars.get(
        "/", query_string=quote(parameters), environ_overrides=as_a_server_has_it
    )
    # 308 leads from an address with // to the one with /.
    assert response.status_code in (200, 308, 400, 404)


def test_a_short_soak_finds_nothing_wrong():
    options = ["--requests", str(30 * EFFORT), "--pause", "0"]
    assert soak_gui.main(options) == 0


# The command.


def call_gui(*options):
    """The command within this process, for a command that ends at once."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        return call(gui, *options)
    finally:
        signal.signal(signal.SIGINT, handler)


@contextlib.contextmanager
def gui_process(*options, line=None, **variables):
    """The command (or line) as a process, and the line with its URL; empty if stdout is lost.

    The process is ended here if the test has not ended it.
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    line = [*(line or command(GUI)), *map(str, options)]
    with subprocess.Popen(line, env=environment(**variables), **pipes) as process:
        try:
            yield process, process.stdout.readline()
        finally:
            process.kill()


def get_days(url):
    with urllib.request.urlopen(f"{url.strip()}/api/days", timeout=5) as response:
        return json.load(response)["days"]


def test_it_prints_its_url_serves_there_and_ends_by_ctrl_c(sample_table):
    port = free_port()
    with gui_process("--table", sample_table, "--port", port) as (process, url):
        assert url == f"http://localhost:{port}\n"
        assert get_days(url) == SAMPLE_DAYS
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=5) == ("", "")
    assert process.returncode == 130


def test_it_listens_on_loopback_only(sample_table):
    with gui_process("--table", sample_table, "--port", 0) as (_, url):
        assert get_days(url) == SAMPLE_DAYS
        # 127.0.0.2 is this machine too: a server that listens on every address answers there.
        assert not is_listening(int(url.rpartition(":")[2]), "127.0.0.2")


def test_it_listens_on_another_address_that_is_named(sample_table):
    with gui_process("--table", sample_table, "--port", 0, "--host", "127.0.0.2") as (_, url):
        assert url.startswith("http://127.0.0.2:")
        assert get_days(url) == SAMPLE_DAYS
        assert not is_listening(int(url.rpartition(":")[2]))


def test_a_port_in_use_is_one_line(sample_table):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        finished = call_gui("--table", sample_table, "--port", port)
    assert_refused(finished, f"cannot listen on 127.0.0.1, port {port}: Address already in use")


def test_a_missing_table_is_the_same_line_as_in_the_querier(tmp_path):
    table = tmp_path / "none.pkl"
    finished = call_gui("--table", table, "--port", 0)
    assert_refused(finished, f"{table} not found: run build-lookup-table.py first")
    assert finished.stderr == query(table, SAMPLE_DAY).stderr


@pytest.mark.parametrize("name", ["cut short", "empty", "no pickle", "hostile", "no tickers"])
def test_a_bad_table_is_one_line(sample_table, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "table.pkl"
    table.write_bytes(BAD_TABLES[name](sample_table.read_bytes()))
    finished = call_gui("--table", table, "--port", 0)
    assert_refused(finished, table, "build-lookup-table.py")
    assert not (tmp_path / "made-by-a-table").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--port", "x"], "argument --port: 'x' is not a whole number from 0 to 65535"),
        (["--port", "99999"], "argument --port: '99999' is not a whole number from 0 to 65535"),
        (["--no-such"], "unrecognized arguments: --no-such"),
        (["--host="], "--host is empty: name an address"),
        *(
            (["--api-url", url], f"argument --api-url: {url!r} is no address such as {gui.API_URL}")
            for url in ["", "x", "http://", "ftp://127.0.0.1", "http://a b", "http://x@y"]
        ),
    ],
)
def test_a_wrong_command_ends_with_status_2(sample_table, options, reason):
    finished = call_gui("--table", sample_table, *options)
    assert finished.returncode == 2
    assert finished.stderr.endswith(f": error: {reason}\n")


# Of 12 requests, 6 (CALLS_AT_ONCE) may wait, each for a call of its own or all for the same one.
# The others are refused.
@pytest.mark.parametrize(("tickers", "calls"), [(12, gui.CALLS_AT_ONCE), (1, 1)])
def test_views_are_answered_while_polygon_hangs(sample_table, polygon, tickers, calls):
    wanted = [f"/api/bars?ticker={ticker}&date={SAMPLE_DAY}" for ticker in LARGE[:tickers]]
    polygon.answering.clear()
    refused = []
    with running_gui(sample_table, polygon.url, POLYGON_API_KEY=KEY) as served:

        def ask(address):
            try:
                served.get(address)
            except urllib.error.HTTPError as error:
                refused.append(error.code)

        for address in wanted * (12 // tickers):
            threading.Thread(target=ask, args=[address], daemon=True).start()
        wait_until(lambda: (len(refused), len(polygon.requests)) == (6, calls))
        started = time.perf_counter()
        assert b"VTAK" in served.get("/")
        assert time.perf_counter() - started < 1
        polygon.answering.set()
    assert refused == [503] * 6


@contextlib.contextmanager
def connected(url):
    """A socket that is connected to the server at a URL."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        yield connection


def test_a_large_body_is_refused_by_its_length(sample_table):
    with running_gui(sample_table, "http://127.0.0.1:9") as served, connected(served.url) as post:
        post.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000000\r\n\r\n")
        assert post.recv(12) == b"HTTP/1.1 413"


def test_a_large_body_in_chunks_is_refused_before_it_goes_to_a_file(sample_table):
    chunk = b"2000\r\n" + b"x" * 0x2000 + b"\r\n"
    with running_gui(sample_table, "http://127.0.0.1:9") as served, connected(served.url) as post:
        post.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        # 64 kB, the limit; waitress would open a file at 512 kB.
        post.sendall(chunk * 8)
        assert post.recv(12) == b"HTTP/1.1 413"


@pytest.fixture
def fast_clock(tmp_path):
    """Variables with which a Python process has a time.time() that is ten times as fast."""
    program = "import time\n\nclock = time.time\ntime.time = lambda: 10 * clock()\n"
    (tmp_path / "sitecustomize.py").write_text(program)
    return {"PYTHONPATH": str(tmp_path)}


def seconds_beside_silent_connections(count, served):
    """How long a view takes while so many connections are open that never send anything."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(connected(served.url))
        started = time.monotonic()
        assert b"VTAK" in served.get("/", timeout=20)
        return time.monotonic() - started


def test_190_silent_connections_delay_nobody(sample_table):
    with running_gui(sample_table, "http://127.0.0.1:9") as served:
        # A server with a lower limit first waits 10 seconds until it closes one of them.
        assert seconds_beside_silent_connections(190, served) < 5


def test_250_silent_connections_are_closed_in_time(sample_table, fast_clock):
    with running_gui(sample_table, "http://127.0.0.1:9", **fast_clock) as served:
        # The server closes a silent connection after 10 seconds, which are 1 here; waitress's
        # default is 120.
        assert seconds_beside_silent_connections(250, served) < 5


def test_ctrl_c_again_and_again_ends_it_without_a_traceback(sample_table, polygon, fast_clock):
    polygon.answering.clear()
    options = ["--table", sample_table, "--port", 0, "--api-url", polygon.url]
    with gui_process(*options, POLYGON_API_KEY=KEY, **fast_clock) as (process, url):
        # The server waits for this request for 5 seconds, which are half a second here.
        with connected(url.strip()) as connection:
            connection.sendall(f"GET {VTAK} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            wait_until(lambda: polygon.requests)
            interrupts = itertools.count(1)

            def has_ended():
                process.send_signal(signal.SIGINT)
                next(interrupts)
                return process.poll() is not None

            wait_until(has_ended, 30)
        assert next(interrupts) > 10
        assert process.returncode == 130
        assert process.communicate() == ("", "")


@pytest.mark.parametrize("host", [b"\xff", b"a" * 300, b"no such host", b"192.0.2.1", b"::g", b"."])
def test_an_impossible_host_is_one_line(sample_table, host):
    host = os.fsdecode(host)
    finished = call_gui("--table", sample_table, "--port", 0, "--host", host)
    assert_refused(finished, f"cannot listen on {gui.querier.printable(host)}, port 0: ")


def test_it_runs_without_docstrings(sample_table):
    line = [sys.executable, "-OO", TOP / GUI]
    with gui_process("--table", sample_table, "--port", 0, line=line) as (_, url):
        assert get_days(url) == SAMPLE_DAYS
    finished = subprocess.run([*line, "--help"], capture_output=True)
    assert (finished.returncode, finished.stderr) == (0, b"")


@pytest.mark.parametrize("name", ["flask", "werkzeug", "waitress"])
def test_a_missing_package_is_one_line(sample_table, tmp_path, name):
    (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('no', name={name!r})")
    options = {"env": {**environment(), "PYTHONPATH": str(tmp_path)}}
    finished = run(GUI, "--table", sample_table, "--port", free_port(), **options)
    assert_refused(finished, name, "pip install -r requirements.txt")


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full", "> fifo", "2>&-", "2>/dev/full"])
def test_a_lost_stdout_or_stderr_does_not_stop_it(sample_table, tmp_path, monkeypatch, redirection):
    monkeypatch.chdir(tmp_path)
    # A pipe whose reader has gone.
    start = "mkfifo fifo; (exec 9< fifo) & " if "fifo" in redirection else ""
    line = ["sh", "-c", f'{start}exec "$@" {redirection}', "sh", *command(GUI)]
    port = free_port()
    with gui_process("--table", sample_table, "--port", port, line=line) as (process, url):
        assert url == (f"http://localhost:{port}\n" if "2>" in redirection else "")
        wait_until(lambda: is_listening(port))
        assert get_days(f"http://localhost:{port}") == SAMPLE_DAYS
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == 130


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full", "2>&-", "2>/dev/full"])
def test_an_error_that_cannot_be_printed_still_has_its_status(tmp_path, redirection):
    line = command(GUI, "--table", tmp_path / "none.pkl", "--port", free_port())
    finished = subprocess.run(["sh", "-c", f'"$@" {redirection}', "sh", *line], capture_output=True)
    assert (finished.returncode, finished.stdout) == (1, b"")
    told = f"{tmp_path}/none.pkl not found: run build-lookup-table.py first\n"
    assert finished.stderr.decode() == ("" if "2>" in redirection else told)


def test_help_on_a_full_disk_is_quiet():
    line = ["sh", "-c", '"$@" > /dev/full', "sh", *command(GUI, "--help")]
    finished = subprocess.run(line, capture_output=True)
    assert (finished.returncode, finished.stderr) == (0, b"")


def test_help_that_argparse_fails_to_print_ends_quietly(monkeypatch, capfd):
    # So it is before Python 3.11 if stdout has no buffer.
    def fail(*_):
        raise OSError

    monkeypatch.setattr("argparse.ArgumentParser.print_help", fail)
    with pytest.raises(SystemExit) as ended:
        gui.main(["--help"])
    assert (ended.value.code, capfd.readouterr()) == (0, ("", ""))


def test_nothing_is_needed_that_windows_or_macos_lack(sample_table):
    port = free_port()
    program = f"""
import os, runpy, select, signal, socket, sys, threading, time, urllib.request

for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None
for module, names in [
    (signal, ["SIGHUP", "SIGPIPE", "SIGALRM", "SIGKILL", "SIGUSR1", "pthread_sigmask"]),
    (os, ["O_NONBLOCK", "O_NOFOLLOW", "O_DIRECTORY", "fork", "sysconf", "sched_getaffinity"]),
    (select, ["poll", "epoll"]),
]:
    for name in names:
        if hasattr(module, name):
            delattr(module, name)

def visit():
    for _ in range(1000):
        try:
            answer = urllib.request.urlopen("http://127.0.0.1:{port}/", timeout=10)
        except OSError:
            time.sleep(0.01)
            continue
        print(answer.status)
        break
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=visit).start()
sys.argv = ["gui", "--table", {str(sample_table)!r}, "--port", "{port}"]
runpy.run_path({str(TOP / GUI)!r}, run_name="__main__")
"""
    line = [sys.executable, "-c", program]
    finished = subprocess.run(line, capture_output=True, env=environment(), timeout=60)
    assert finished.stderr == b""
    assert finished.stdout.split() == [f"http://localhost:{port}".encode(), b"200"]
    assert finished.returncode == 130
