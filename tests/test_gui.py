"""The browser half without a browser: its pages and JSON, what it asks of Polygon, its command."""

import contextlib
import csv
import datetime
import gzip
import importlib.util
import io
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
import zlib
from array import array
from html.parser import HTMLParser
from http.client import HTTPConnection
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
from helpers.gui import KEY, KEYS, answers, environment, free_port, running_gui, wait_until
from helpers.markets import SAMPLE_DAY, SAMPLE_DAYS, SAMPLE_MARKET
from helpers.scripts import TOP, assert_refused, build_table, command, load_script, run
from hypothesis import given, settings
from hypothesis import strategies as st

gui = load_script("gui-lookup-table.py")

GUI = "gui-lookup-table.py"
VTAK = f"/api/bars?ticker=VTAK&date={SAMPLE_DAY}"
# Traded on every day of the sample market.
LARGE = ["AAPL", "AMD", "AMZN", "AVGO", "BA", "BABA", "BAC", "C", "F", "GOOG", "META", "MU"]
EXAMPLES = settings(max_examples=100 * EFFORT, derandomize=EFFORT == 1)

# Ticker TINY, by hand: before 2024-01-12 it was traded 10, 20, 30, 40 and 50 times a day.
TINY_DAYS = ["2024-01-0" + day for day in "2345"] + ["2024-01-08", "2024-01-12", "2024-01-16"]
TINY_TRADES = [10, 20, 30, 40, 50, 1000, 90]
TINY_CLOSES = [1, 2, 0.5, 0.5, 0, 4, 5]
# The first five have a mean of 100 and a deviation of 20, so that the sixth's z-score is 3.
AT_THE_BOUND = [80, 80, 100, 120, 120, 160, 90]
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


# What the tests look with.


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


def list_rows(page):
    """The list on a page: a dict of texts by column for each row."""
    (table,) = page.find("table", id="anomalies")
    columns = [header["data-sort"] for header in table.find("th", data_sort=True)]
    assert columns == [
        *("ticker", "trades", "avg_trades", "std_trades"),
        *("z_score", "times_normal", "record", "close_price", "price_diff"),
    ]
    rows = table.find("tr", data_ticker=True)
    texts = [dict(zip(columns, (cell.text for cell in row.elements))) for row in rows]
    assert [row["data-ticker"] for row in rows] == [row["ticker"] for row in texts]
    return texts


def number(text):
    """The number that people read in the text, such as 1,234.50 or +3.2 %."""
    return float(re.sub("all|[,+% ]", "", text).replace("\N{MINUS SIGN}", "-"))


def is_shown(exact, text):
    """Whether text is the exact number, rounded to as many decimals as it shows."""
    decimals = len(re.sub("[^0-9.]", "", text).partition(".")[2])
    return abs(number(text) - exact) <= 0.5000001 * 10**-decimals


def loads(response):
    """The response's JSON, held to the standard, which knows neither NaN nor Infinity."""
    assert response.mimetype == "application/json"
    return json.loads(response.get_data(), parse_constant=pytest.fail)


def ask_querier(table, date, *options):
    """What the querier finds, in full precision."""
    finished = run("query-lookup-table.py", date, "--table", table, "--format", "json", *options)
    return json.loads(finished.stdout)


def without_after(anomalies):
    """What the querier finds as /api/anomalies gives it."""
    later = {"after_1", "after_5", "after_20", "split_after"}
    rows = [{name: row[name] for name in row if name not in later} for row in anomalies]
    return [{**row, "marks": row["marks"].split()} for row in rows]


def sentence(response, status):
    """An error's sentence, after a look at whether it is one and has that status."""
    answer = loads(response)
    assert response.status_code == status, answer
    assert list(answer) == (["error", "retry_after"] if status == 429 else ["error"])
    text = answer["error"]
    assert re.fullmatch(r"[^\n<>{}]{10,300}", text), text
    assert "Traceback" not in text
    return text


class StandIn:
    """A PolygonBars that asks nobody: fetch_minute_bars and fetch_headlines are functions."""

    def __init__(self, fetch_minute_bars, fetch_headlines=None):
        self.fetch_minute_bars = fetch_minute_bars
        self.fetch_headlines = fetch_headlines or fetch_minute_bars


def refuse_to_fetch(*asked):
    raise AssertionError(f"asked for {asked}")


NOTHING_WANTED = StandIn(refuse_to_fetch)


def views_of(table_path, listing):
    """The DayView and the TickerView of a listing."""
    with gui.open_table(table_path) as table:
        day = gui.read_day_view(table, listing)
        return day, gui.read_ticker_view(table, listing, day)


# Tables, and clients of apps that show them.


@pytest.fixture
def client(sample_table):
    return gui.create_app(sample_table, NOTHING_WANTED).test_client()


@pytest.fixture(scope="module")
def tiny_table(tmp_path_factory):
    """TINY, a ticker that is always the same, and two on 2024-01-12 at and above the bound."""
    folder = tmp_path_factory.mktemp("tiny")
    market = {
        day: [
            ("FLAT", 7, 1),
            ("TINY", TINY_TRADES[i], TINY_CLOSES[i]),
            ("THREE", AT_THE_BOUND[i], 1),
            ("MORE", AT_THE_BOUND[i] + (day == "2024-01-12"), 1),
        ]
        for i, day in enumerate(TINY_DAYS)
    }
    return build_table(write_flat_files(folder / "csv", market), folder / "lookup_table.pkl")


@pytest.fixture
def tiny_client(tiny_table):
    return gui.create_app(tiny_table, NOTHING_WANTED).test_client()


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
    """A client of an app that asks the stand-in, and does not wait long for it."""
    return gui.create_app(sample_table, gui.PolygonBars(polygon.url, timeout=0.5)).test_client()


# The numbers.


def test_the_days_are_those_of_the_flat_files(client):
    assert loads(client.get("/api/days")) == {"days": SAMPLE_DAYS}


@pytest.mark.parametrize("threshold", ["3", "0", "-1e3", "10.5", "1e9"])
@pytest.mark.parametrize("date", [SAMPLE_DAYS[0], SAMPLE_DAYS[5], "2024-09-12", SAMPLE_DAY])
def test_the_anomalies_are_those_that_the_querier_finds(client, sample_table, date, threshold):
    answer = loads(client.get(f"/api/anomalies?date={date}&threshold={threshold}"))
    found = ask_querier(sample_table, date, f"--threshold={threshold}")
    assert answer["anomalies"] == without_after(found)
    assert answer["date"] == date
    assert answer["threshold"] == float(threshold)
    lines = (SAMPLE_MARKET / f"{date}.csv").read_text().splitlines()
    assert answer["tickers"] == len(lines) - 1


def test_without_parameters_the_last_days_anomalies_above_three_are_meant(client, sample_table):
    answer = loads(client.get("/api/anomalies"))
    assert (answer["date"], answer["threshold"]) == (SAMPLE_DAY, 3)
    assert answer["anomalies"] == without_after(ask_querier(sample_table, SAMPLE_DAY))
    assert answer["anomalies"][0]["ticker"] == "VTAK"


def test_what_is_not_finite_is_null(tiny_client):
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
def test_a_history_is_that_many_of_the_tickers_days_in_a_row(client, ticker, sessions):
    days = [day for name, day in read_days(SAMPLE_MARKET) if name == ticker]
    for date in {days[0], days[1], days[len(days) // 2], days[-2], days[-1]}:
        address = f"/api/history?ticker={ticker}&date={date}&sessions={sessions}"
        answer = loads(client.get(address))
        shown = [row["date"] for row in answer["rows"]]
        assert (answer["ticker"], answer["date"]) == (ticker, date)
        assert date in shown
        assert len(shown) == min(sessions, len(days))
        assert shown == days[days.index(shown[0]) :][: len(shown)]


def test_a_history_ends_with_the_tables_last_day_and_goes_on_after_any_other(client):
    def around(date):
        rows = loads(client.get(f"/api/history?ticker=AAPL&date={date}"))["rows"]
        days = [row["date"] for row in rows]
        return days.index(date), len(days) - days.index(date) - 1

    assert around(SAMPLE_DAY) == (39, 0)
    before, after = around(SAMPLE_DAYS[40])
    assert before + 1 + after == 40
    assert before > after > 0


# The pages.


@pytest.mark.parametrize("threshold", ["3", "1", "30"])
@pytest.mark.parametrize("date", ["2024-09-12", "2024-08-20", SAMPLE_DAY])
def test_the_page_lists_what_the_querier_prints(client, sample_table, date, threshold):
    rows = list_rows(parse(client.get(f"/?date={date}&threshold={threshold}")))
    anomalies = ask_querier(sample_table, date, f"--threshold={threshold}")
    assert [row["ticker"] for row in rows] == [anomaly["ticker"] for anomaly in anomalies]
    for row, anomaly in zip(rows, anomalies):
        anomaly["times_normal"] = anomaly["trades"] / anomaly["avg_trades"]
        assert row["record"].startswith("all ") == (anomaly["record"] == anomaly["earlier_rows"])
        assert row["trades"] == f"{anomaly['trades']:,}"
        for column in set(row) - {"ticker"}:
            assert is_shown(anomaly[column], row[column]), (column, row, anomaly)


def test_the_heading_says_the_day_and_how_many_among_how_many(client):
    page = parse(client.get(f"/?date={SAMPLE_DAY}"))
    tickers = len((SAMPLE_MARKET / f"{SAMPLE_DAY}.csv").read_text().splitlines()) - 1
    (heading,) = page.find("h1")
    assert "Friday" in page.text
    assert SAMPLE_DAY in heading.text
    assert re.search(rf"\b18\b.* {tickers}\b", page.text)


def test_the_first_page_is_that_of_the_last_day(client):
    assert list_rows(parse(client.get("/"))) == list_rows(parse(client.get(f"/?date={SAMPLE_DAY}")))


def test_a_day_without_anomalies_says_so(client):
    page = parse(client.get(f"/?date={SAMPLE_DAYS[0]}"))
    assert list_rows(page) == []
    assert "0 anomalies among 148 tickers" in page.text
    assert page.find("p", class_="message")


def test_previous_and_next_day_are_links_where_there_is_such_a_day(client):
    def linked(date, link_id):
        link = parse(client.get(f"/?date={date}")).find(id=link_id)[0]
        return link["href"] and re.search(r"date=([\d-]+)", link["href"])[1]

    # 2024-09-02 was a holiday, the 1st a Sunday.
    assert linked("2024-09-03", "previous-day") == "2024-08-30"
    assert linked("2024-08-30", "next-day") == "2024-09-03"
    assert linked(SAMPLE_DAYS[0], "previous-day") is None
    assert linked(SAMPLE_DAYS[0], "next-day") == SAMPLE_DAYS[1]
    assert linked(SAMPLE_DAY, "next-day") in (None, SAMPLE_DAY)


def test_the_date_field_is_bounded_by_the_tables_days(client):
    (field,) = parse(client.get("/?date=2024-09-12")).find("input", id="date")
    assert (field["min"], field["value"], field["max"]) == (
        SAMPLE_DAYS[0],
        "2024-09-12",
        SAMPLE_DAY,
    )


def test_a_date_that_is_no_trading_day_is_answered_with_the_nearest_one(client):
    response = client.get("/?date=2024-10-19")
    assert response.status_code == 404
    assert "nearest trading day 2024-10-18" in parse(response).text


def test_a_click_on_a_header_sorts_without_javascript(client, sample_table):
    page = parse(client.get("/"))
    for column in list_rows(page)[0]:
        directions = set()
        address = "/"
        for _ in range(2):
            (header,) = parse(client.get(address)).find("th", data_sort=column)
            address = header.find("a")[0]["href"]
            sorted_page = parse(client.get(address))
            rows = list_rows(sorted_page)
            assert len(rows) == 18
            values = [row[column] if column == "ticker" else number(row[column]) for row in rows]
            (header,) = sorted_page.find("th", data_sort=column)
            directions.add(header["aria-sort"])
            assert values == sorted(values, reverse=header["aria-sort"] == "descending")
            others = [th for th in sorted_page.find("th", data_sort=True) if th is not header]
            assert {th["aria-sort"] for th in others} <= {None, "none"}
        assert directions == {"ascending", "descending"}


def submitted(client, page, **changes):
    """The page that a form with these fields leads to: as a browser sends it."""
    (form,) = [f for f in page.find("form") if all(f.find(name=name) for name in changes)]
    assert (form["method"] or "get").lower() == "get"
    fields = {
        field["name"]: field["value"] or ""
        for field in form.find("input", name=True)
        if field["type"] != "checkbox" or "checked" in field.attributes
    }
    assert form.find("button") or form.find("input", type="submit")
    return parse(client.get(f"{form['action']}?{urlencode({**fields, **changes})}"))


def test_the_forms_filter_and_set_threshold_and_date_without_javascript(client, sample_table):
    def tickers(page):
        return [row["ticker"] for row in list_rows(page)]

    page = parse(client.get("/"))
    found = [anomaly["ticker"] for anomaly in ask_querier(sample_table, SAMPLE_DAY)]
    filtered = submitted(client, page, filter="aa")
    assert tickers(filtered) == [ticker for ticker in found if "AA" in ticker.upper()] != []
    above_thirty = ask_querier(sample_table, SAMPLE_DAY, "--threshold=30")
    stricter = submitted(client, page, threshold="30")
    assert tickers(stricter) == [anomaly["ticker"] for anomaly in above_thirty]
    earlier = submitted(client, page, date="2024-09-12")
    on_that_day = ask_querier(sample_table, "2024-09-12")
    assert tickers(earlier) == [anomaly["ticker"] for anomaly in on_that_day]
    # What was chosen before stays when something else is chosen.
    both = submitted(client, stricter, filter="E")
    assert tickers(both) == [t for t in tickers(stricter) if "E" in t.upper()]


def test_a_rows_link_leads_to_the_tickers_figures_without_javascript(client):
    page = parse(client.get("/?threshold=30&sort=ticker"))
    row = page.find("tr", data_ticker="VTAK")[0]
    chosen = parse(client.get(row.find("a")[0]["href"]))
    (detail,) = chosen.find(id="detail")
    assert "VTAK" in detail.find("h2")[0].text
    # The README's first row; 460548 is 73.2 times 6291.40.
    words = "460,548 trades, 73 \N{MULTIPLICATION SIGN} its five-day average of 6,291"
    assert words in detail.text
    assert "36.7 standard deviations" in detail.text
    assert "0.91" in detail.text
    assert "+106.49 %" in detail.text
    selected = chosen.find("tr", aria_selected="true")
    assert [row["data-ticker"] for row in selected] in ([], ["VTAK"])


def test_the_chart_page_shows_the_same_and_leads_to_the_next_anomalies(client):
    def neighbour(page, link_id):
        links = [link["href"] for link in page.find("a", id=link_id) if link["href"]]
        return links and re.search(r"ticker=(\w+)", links[0])[1]

    pages = {
        ticker: parse(client.get(f"/chart?ticker={ticker}&date={SAMPLE_DAY}"))
        for ticker in ("VTAK", "PEGY", "AAp", "AAPL")
    }
    (heading,) = pages["VTAK"].find(id="detail")[0].find("h2")
    assert "VTAK" in heading.text
    assert "460,548" in pages["VTAK"].text
    # In the README's list PEGY comes second, NFLX third and AAp last.
    assert not neighbour(pages["VTAK"], "previous-ticker")
    assert neighbour(pages["VTAK"], "next-ticker") == "PEGY"
    assert neighbour(pages["PEGY"], "previous-ticker") == "VTAK"
    assert neighbour(pages["PEGY"], "next-ticker") == "NFLX"
    assert neighbour(pages["AAp"], "previous-ticker") == "SOpC"
    assert not neighbour(pages["AAp"], "next-ticker")
    # AAPL was no anomaly that day.
    assert "AAPL" in pages["AAPL"].find(id="detail")[0].find("h2")[0].text


def local_files(page):
    """The addresses of all that a page loads."""
    links = [link["href"] for link in page.find("link", href=True)]
    images = [image["src"] for image in page.find("img", src=True)]
    return links + images + [script["src"] for script in page.find("script", src=True)]


@pytest.mark.parametrize("address", ["/", f"/chart?ticker=VTAK&date={SAMPLE_DAY}"])
def test_a_page_loads_only_what_this_server_has(client, address):
    files = local_files(parse(client.get(address)))
    assert any(name.endswith(".css") for name in files)
    for name in files:
        assert not urlsplit(name).netloc
        assert client.get(name).status_code == 200, name


def test_there_is_a_favicon(client):
    icons = [link["href"] for link in parse(client.get("/")).find("link") if link["rel"] == "icon"]
    assert client.get(icons[0] if icons else "/favicon.ico").status_code == 200


def test_plotlys_javascript_is_that_of_the_installed_package(client):
    package = Path(importlib.util.find_spec("plotly").origin).parent
    shipped = (package / "package_data" / "plotly.min.js").read_bytes()
    address = parse(client.get("/")).find("body")[0]["data-plotly"]
    assert client.get(address).get_data() == shipped


@pytest.mark.parametrize("ticker", ODD_TICKERS)
def test_an_odd_ticker_stays_text(odd_table, ticker):
    client = gui.create_app(odd_table, NOTHING_WANTED).test_client()
    page = parse(client.get("/"))
    assert [row["ticker"] for row in list_rows(page)] == ODD_TICKERS
    (row,) = page.find("tr", data_ticker=ticker)
    figures = parse(client.get(row.find("a")[0]["href"])).find(id="detail")[0]
    address = "?" + urlencode({"ticker": ticker, "date": "2024-01-12"})
    chart = parse(client.get("/chart" + address))
    for detail in (figures, *chart.find(id="detail")):
        assert ticker in detail.find("h2")[0].text
        assert not detail.find("img") + detail.find("script")
    assert loads(client.get("/api/history" + address))["ticker"] == ticker
    found = loads(client.get("/api/anomalies"))["anomalies"]
    assert ticker in [anomaly["ticker"] for anomaly in found]


# Sentences and figures.


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.0127, "0.0127"), (0.91, "0.91"), (0.5, "0.50"), (0.01274999, "0.01275")),
        *((0.000034, "0.000034"), (1, "1.00"), (1234.5, "1,234.50"), (0, "0.00")),
        (0.99999, "1.00"),
    ],
)
def test_a_price_below_one_is_shown_with_four_digits(value, text):
    assert gui.format_price(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.5477, "0.548"), (0.55, "0.55"), (12.36, "12.4"), (99.96, "100")),
        *((6291.4, "6,291"), (0, "0"), (2, "2")),
    ],
)
def test_an_average_is_shown_with_at_least_three_digits(value, text):
    assert gui.format_figure(value) == text


@pytest.mark.parametrize("value", [None, nan, inf, -inf])
def test_what_is_no_number_is_shown_as_a_dash(value):
    assert gui.or_dash(value, gui.format_price) == "\N{EM DASH}"
    assert gui.direction(value) == ""


def test_a_change_has_a_direction_unless_it_is_none():
    assert [gui.direction(value) for value in (0.001, 0, -2)] == ["up", "", "down"]


TIMES = "\N{MULTIPLICATION SIGN}"


@pytest.mark.parametrize(
    ("trades", "average", "deviation", "z_score", "sentence"),
    [
        # (24 - 2.4) / 0.55 = 39.27
        (
            *(24, 2.4, 0.55, 39.27),
            f"24 trades, 10 {TIMES} its five-day average of 2.4, "
            "39.3 standard deviations (each 0.55) above it.",
        ),
        (
            *(1000, 2000.0, 500.0, -2.0),
            f"1,000 trades, 0.5 {TIMES} its five-day average of 2,000, "
            "2.0 standard deviations (each 500) below it.",
        ),
        (7, 7.0, 0.0, None, f"7 trades, 1.0 {TIMES} its five-day average of 7."),
        (7, 0.0, 0.0, None, "7 trades, after none at all in the 5 days before."),
        (7, None, None, None, "7 trades, and no baseline yet: that takes 5 earlier days."),
    ],
)
def test_a_row_is_put_in_words(trades, average, deviation, z_score, sentence):
    stats = {"trades": trades, "avg_trades": average, "std_trades": deviation, "z_score": z_score}
    assert gui.trades_text(stats, 5) == sentence


def test_the_words_name_another_window():
    stats = {"trades": 40, "avg_trades": 20.0, "std_trades": 0.0, "z_score": None}
    assert gui.trades_text(stats, 10) == f"40 trades, 2.0 {TIMES} its 10-day average of 20."


def test_the_summary_says_how_many_of_how_many():
    assert gui.summary_text(18, 20, 148) == "18 of 20 anomalies among 148 tickers"
    assert gui.summary_text(20, 20, 11_500) == "20 anomalies among 11,500 tickers"
    assert gui.summary_text(1, 1, 148) == "1 anomaly among 148 tickers"
    assert gui.summary_text(0, 0, 148) == "0 anomalies among 148 tickers"


def test_an_empty_list_says_why():
    usual, filtered = gui.Options(), gui.Options(filter="zz")
    assert "takes 5 earlier days" in gui.empty_message(0, usual, False, 5)
    assert "“zz”" in gui.empty_message(3, filtered, True, 5)
    assert gui.empty_message(0, usual, True, 5) == "No ticker was traded that far above its normal."
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
def test_a_ticker_is_linked_where_its_spelling_there_is_sure(ticker, edgar, tradingview):
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
def test_a_ticker_is_found_in_whatever_case(text, meant):
    tickers = ["AAP", "AAp", "SOpC", "VTAK", "BABa", "Baba"]
    assert gui.find_ticker(tickers, text) == meant


def test_a_ticker_that_is_no_anomaly_can_be_reached_by_typing_it(client):
    page = parse(client.get("/?filter=aapl"))
    assert list_rows(page) == []
    (link,) = page.find("p", class_="message")[0].find("a")
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
        page = parse(client.get(f"/chart?ticker={ticker}&date={SAMPLE_DAY}"))
        return page.find("p", class_="words")[0].text

    # The querier's wide list of that day says "all 55" and "11".
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
    day, detail = views_of(sample_table, gui.Options(date=date, ticker=ticker))
    assert (day.ticker_row["marks"], detail.marks) == (marks, marks)
    listed = {row["ticker"]: row["marks"] for row in day.rows}
    assert listed.get(ticker, []) == marks


def test_a_day_has_its_tide(sample_table):
    # 18 anomalies among 148 tickers are 12.16 %; the querier's wide list has the usual share.
    day, _ = views_of(sample_table, gui.Options(date=SAMPLE_DAY))
    assert day.tide == "12.2 % of 148 tickers with a baseline; the usual is 2.8 %"
    wide = run("query-lookup-table.py", SAMPLE_DAY, "--table", sample_table, "--format", "wide")
    assert "(12.2 %) are anomalies; the usual is 2.8 %;" in wide.stdout


def test_a_day_without_20_days_before_it_has_no_tide(sample_table):
    # The first 5 have no baselines: the 26th day is the first with 20 days to compare with.
    tides = [views_of(sample_table, gui.Options(date=day))[0].tide for day in SAMPLE_DAYS[23:27]]
    assert [bool(tide) for tide in tides] == [False, False, True, True]


def test_the_filters_stay_in_every_address_of_the_list(client):
    state = {"min_price": "2.5", "min_trades": "9", "min_record": "1", "skip": "split,new"}
    page = parse(client.get(f"/?{urlencode({'date': SAMPLE_DAY, **state})}"))
    links = [page.find(id="previous-day")[0], *page.find("a")[3:20]]
    for link in links:
        asked = dict(parse_qsl(urlsplit(link["href"]).query))
        assert state.items() <= asked.items(), link["href"]


def test_the_usual_filters_are_in_no_address(client):
    page = parse(client.get("/?min_price=0&min_trades=0&min_record=0&skip="))
    addresses = [link["href"] for link in page.find("a") if link["href"]]
    assert len(addresses) > 18
    assert not [address for address in addresses if "min_" in address or "skip" in address]


def test_filters_that_leave_nothing_say_so(client):
    page = parse(client.get("/?min_trades=999999999"))
    assert list_rows(page) == []
    assert "0 of 18 anomalies among 149 tickers" in page.text
    assert page.find("p", class_="message")[0].text == "No anomaly passes the filters."


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
            "next day 10.00 %, five days later 50.00 %; the median ticker 50.00 %",
        ),
        (
            *("TWICE", 0, [0, 100, None], ["known", "known", "unknown"], [False, True, False]),
            "next day 0.00 %, five days later 100.00 % (a split may lie in between); "
            "the median ticker 50.00 %",
        ),
        (
            *("GONE", 0, [None] * 3, ["gone", "gone", "unknown"], [False] * 3),
            "next day no trades, five days later no trades; the median ticker 50.00 %",
        ),
        (
            *("ZERO", 0, [None] * 3, ["none", "none", "unknown"], [False] * 3),
            "no change can be told: the close was 0",
        ),
        (
            *("UP", 6, [6.25, None, None], ["known", "unknown", "unknown"], [False] * 3),
            "next day 6.25 %; the median ticker 0.00 %",
        ),
        (
            *("UP", 7, [None] * 3, ["unknown"] * 3, [False] * 3),
            "not known yet: the table ends with this day",
        ),
    ],
)
def test_what_came_after_is_as_worked_out_by_hand(
    moving_table, ticker, session, changes, states, splits, words
):
    client = gui.create_app(moving_table, NOTHING_WANTED).test_client()
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


def test_what_came_after_is_what_the_querier_says(client, sample_table):
    for anomaly in ask_querier(sample_table, "2024-09-12"):
        answer = loads(client.get(AFTER.format(anomaly["ticker"], "2024-09-12")))
        for row in answer["horizons"]:
            assert row["change"] == anomaly[f"after_{row['days']}"] is not None
            assert row["split"] == (anomaly["split_after"] is not None)


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
def test_a_session_is_told_in_utc(date, times):
    session = gui.session_times(date)
    assert list(session) == ["pre", "open", "close", "post"]
    assert [f"{time:%H:%M}" for time in session.values()] == times


def test_the_first_and_the_last_day_of_all_have_a_session():
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


# The list's state on the ticker's page, and the ways on from there.


@pytest.fixture(scope="module")
def spiky_table(tmp_path_factory):
    """SPIKE, which has a z-score of 45 on the sixth of SAMPLE_DAYS and on the twelfth, and REST.

    Before each its trades have a mean of 100 and a deviation of 20: (1000 - 100) / 20 = 45.
    """
    folder = tmp_path_factory.mktemp("spiky")
    trades = [*AT_THE_BOUND[:5], 1000, *AT_THE_BOUND[:5], 1000, 90]
    market = {}
    for day, number in zip(SAMPLE_DAYS, trades):
        market[day] = [("SPIKE", number, 1), ("REST", 50, 1)]
    market[SAMPLE_DAYS[8]].pop()
    return build_table(write_flat_files(folder / "csv", market), folder / "lookup_table.pkl")


@pytest.mark.parametrize(
    ("index", "threshold", "previous", "following"),
    [(5, 3, None, 11), (8, 3, 5, 11), (11, 3, 5, None), (8, 44, 5, 11), (8, 46, None, None)],
)
def test_a_ticker_leads_to_its_own_anomalies(spiky_table, index, threshold, previous, following):
    listing = gui.Options(date=SAMPLE_DAYS[index], threshold=threshold, ticker="SPIKE")
    _, detail = views_of(spiky_table, listing)
    expected = [n if n is None else SAMPLE_DAYS[n] for n in (previous, following)]
    assert [detail.previous_anomaly, detail.next_anomaly] == expected


def test_a_ticker_leads_to_its_own_days(spiky_table):
    def around(index):
        listing = gui.Options(date=SAMPLE_DAYS[index], ticker="REST")
        _, detail = views_of(spiky_table, listing)
        return detail.previous_session, detail.next_session

    assert around(0) == (None, SAMPLE_DAYS[1])
    assert around(7) == (SAMPLE_DAYS[6], SAMPLE_DAYS[9])
    assert around(12) == (SAMPLE_DAYS[11], None)


def test_without_a_row_of_the_ticker_there_is_no_detail(spiky_table):
    listing = gui.Options(date=SAMPLE_DAYS[8], ticker="REST")
    day, detail = views_of(spiky_table, listing)
    assert detail is None
    assert day.problem == f"no trades of REST on {SAMPLE_DAYS[8]}"


def links_of(page):
    links = {link["id"]: link["href"] for link in page.find(id="steps")[0].find("a")}
    return links["previous-ticker"], links["next-ticker"], links["all-anomalies"]


def test_the_chart_page_keeps_the_lists_state(client):
    state = {"threshold": "2", "sort": "ticker", "order": "desc", "filter": "a"}
    query = urlencode({"date": SAMPLE_DAY, **state})
    tickers = [row["ticker"] for row in list_rows(parse(client.get(f"/?{query}")))]
    assert len(tickers) > 3
    page = parse(client.get(f"/chart?{query}&ticker={tickers[1]}"))
    previous, following, whole = map(urlsplit, links_of(page))
    asked = {**state, "date": SAMPLE_DAY}
    for link, path, ticker in [
        (previous, "/chart", tickers[0]),
        (following, "/chart", tickers[2]),
        (whole, "/", tickers[1]),
    ]:
        assert link.path == path
        assert dict(parse_qsl(link.query)) == {**asked, "ticker": ticker}


def test_a_history_is_judged_by_the_threshold(tiny_client):
    address = "/api/history?ticker=TINY&date=2024-01-12"
    # TINY's z-score on that day is 61.3, as worked out above.
    for threshold, is_anomaly in [("", True), ("&threshold=61", True), ("&threshold=62", False)]:
        answer = loads(tiny_client.get(address + threshold))
        assert answer["threshold"] == int(threshold[-2:] or 3)
        assert answer["rows"][5]["anomaly"] is is_anomaly


def test_a_chart_asks_for_a_history_with_the_lists_threshold(client):
    page = parse(client.get(f"/chart?ticker=VTAK&date={SAMPLE_DAY}&threshold=40"))
    address = page.find(id="history-chart-box")[0]["data-url"]
    assert loads(client.get(address))["threshold"] == 40


def test_a_whole_history_can_be_asked_for(client):
    rows = loads(client.get("/api/history?ticker=AAPL&date=2024-08-20&sessions=all"))["rows"]
    assert [row["date"] for row in rows] == SAMPLE_DAYS


@pytest.mark.parametrize("ticker", ["VTAK", "AAPL"])
def test_a_title_is_the_same_for_a_click_and_a_reload(client, ticker):
    query = f"?date={SAMPLE_DAY}&ticker={ticker}"
    titles = [parse(client.get(path + query)).find("title")[0].text for path in ("/", "/chart")]
    assert titles == [f"{ticker} on {SAMPLE_DAY} · anomalies"] * 2


@pytest.mark.parametrize(
    ("date", "nearest"),
    [
        *(
            ("2024-10-19", SAMPLE_DAY),
            ("9999-12-31", SAMPLE_DAY),
            ("1999-01-01", SAMPLE_DAYS[0]),
        ),
        *(("2024-09-01", "2024-08-30"), ("2024-09-02", "2024-09-03")),
    ],
)
def test_a_date_that_the_table_lacks_has_a_nearest_one(sample_table, date, nearest):
    day, _ = views_of(sample_table, gui.Options(date=date))
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
@pytest.mark.parametrize(("query", "options"), OPTIONS)
def test_the_csv_is_what_the_querier_writes(client, sample_table, date, query, options):
    response = client.get(f"/anomalies.csv?date={date}{query}")
    command = [date, "--table", sample_table, "--format", "csv", *options]
    written = run("query-lookup-table.py", *command).stdout
    assert response.get_data(as_text=True) == written
    assert written.count("\n") > 1
    assert response.mimetype == "text/csv"
    disposition = f'attachment; filename="anomalies-{date}.csv"'
    assert response.headers["Content-Disposition"] == disposition
    listed = [row["ticker"] for row in list_rows(parse(client.get(f"/?date={date}{query}")))]
    assert listed == [line.partition(",")[0] for line in written.splitlines()[1:]]


def test_the_csv_has_the_rows_of_the_list_in_its_order(client):
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
    assert sentence(client.get(address), status)


def test_a_date_that_the_table_lacks_is_answered_in_the_queriers_words(client):
    text = sentence(client.get("/api/anomalies?date=2024-10-19"), 404)
    assert "the table covers 2024-08-01 to 2024-10-18; nearest trading day 2024-10-18" in text


@pytest.mark.parametrize(
    ("address", "statuses"),
    [
        ("/?date=tomorrow", {400}),
        ("/?threshold=nan", {400}),
        ("/?sort=volume", {400}),
        ("/?order=up", {400}),
        *((f"/?min_price={value}", {400}) for value in ("x", "nan", "inf", "1e999")),
        *((f"/?min_trades={value}", {400}) for value in ("x", "-1", "1.5", "1e3", "9" * 10)),
        *((f"/?min_record={value}", {400}) for value in ("x", "-1", "1.5")),
        *((f"/?skip={value}", {400}) for value in ("old", "new,,thin", "new,%00")),
        ("/?date=2024-10-19", {404}),
        ("/?ticker=NOSUCH", {200, 404}),
        ("/chart", {400}),
        ("/chart?ticker=VTAK", {400}),
        (f"/chart?ticker=NOSUCH&date={SAMPLE_DAY}", {404}),
        ("/nothing", {404}),
    ],
)
def test_a_wrong_address_gets_a_page(client, address, statuses):
    response = client.get(address)
    assert response.status_code in statuses
    assert parse(response).find("a", href=True)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/chart", "/api/days", "/api/bars", "/api/nothing"])
def test_only_get_is_answered(client, method, path):
    response = client.open(path, method=method, data={"date": SAMPLE_DAY})
    assert response.status_code in ({404, 405} if path == "/api/nothing" else {405})
    if path.startswith("/api"):
        sentence(response, response.status_code)


@pytest.mark.parametrize("host", ["localhost:8888", "127.0.0.1:8888", "127.0.0.1", "[::1]:8888"])
def test_this_servers_names_are_answered(client, host):
    assert client.get("/api/days", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/api/days", f"/chart?ticker=VTAK&date={SAMPLE_DAY}"])
@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8888", "localhost.evil.example", "127.0.0.1.evil.example"),
        *("evil.example#localhost", "localhost@evil.example", "evillocalhost", "192.0.2.1", "a b"),
    ],
)
def test_another_hosts_name_is_refused(client, host, path):
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
def test_every_answer_has_a_policy_without_inline_script(client, address, status):
    response = client.get(address)
    assert response.status_code == status
    directives = response.headers["Content-Security-Policy"].split(";")
    policy = {words[0]: words[1:] for words in map(str.split, directives) if words}
    assert policy.get("script-src", policy["default-src"]) == ["'self'"]
    allowed = {"'self'", "'none'"}
    for name, sources in policy.items():
        more = {"img-src": {"data:", "blob:"}, "style-src": {"'unsafe-inline'"}}.get(name, set())
        assert set(sources) <= allowed | more, name
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert not [name for name, _ in response.headers if name.startswith("Access-Control-")]


@pytest.mark.parametrize("address", [address for address, _ in EVERY_KIND if "/api" not in address])
def test_no_page_has_inline_script(client, address):
    page = parse(client.get(address))
    for script in page.find("script"):
        is_data = script["type"] == "application/json"
        assert is_data or (script["src"] and not script.text)
    every = page.find()
    assert not [name for element in every for name in element.attributes if name.startswith("on")]
    assert not [e for e in every if (e["href"] or "").lower().startswith("javascript:")]


def test_nothing_of_the_working_directory_is_served(sample_table, monkeypatch):
    monkeypatch.chdir(TOP)
    client = gui.create_app(sample_table, NOTHING_WANTED).test_client()
    for name in ("lookup_table.pkl", "README.md", "gui-lookup-table.py", ".git/config"):
        for prefix in ("", "static/", "static/../", "static/../../", "static/..%2f..%2f"):
            for more in ("", "templates/", quote(f"{TOP}/", safe=""), "%2e%2e/", "..%5c"):
                address = f"/{prefix}{more}{name}"
                status = client.get(address, follow_redirects=True).status_code
                assert status in (400, 404), address
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


def test_all_pages_of_bars_are_read(bars_client, polygon):
    polygon.page_size = 300
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


def test_the_cache_is_bounded(sample_table):
    calls = []

    def fetch_minute_bars(ticker, date):
        calls.append((ticker, date))
        return [{"timestamp": 0, "open": 1, "high": 1, "low": 1, "close": 1, "volume": 1}]

    client = gui.create_app(sample_table, StandIn(fetch_minute_bars)).test_client()
    addresses = [
        f"/api/bars?ticker={ticker}&date={date}"
        for ticker, date in read_days(SAMPLE_MARKET)
        if ticker in LARGE
    ]
    for address in addresses:
        assert client.get(address).status_code == 200
    assert len(calls) == len(addresses) == 12 * 56
    client.get(addresses[-1])
    assert len(calls) == len(addresses)
    client.get(addresses[0])
    assert len(calls) == len(addresses) + 1


def test_the_bars_that_were_asked_for_last_are_kept():
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
    """So many simultaneous calls of the function: their threads, and the list of results so far."""
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(function(*args)), daemon=True)
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    return threads, results


def test_simultaneous_requests_for_the_same_bars_make_one_call(bars_client, polygon):
    polygon.answering.clear()
    threads, results = in_threads(4, lambda: bars_client.application.test_client().get(VTAK))
    wait_until(lambda: polygon.requests)
    time.sleep(0.1)
    polygon.answering.set()
    for thread in threads:
        thread.join(10)
    assert len(polygon.requests) == 1
    assert [response.status_code for response in results] == [200] * 4
    assert len({response.get_data() for response in results}) == 1


def test_a_failure_is_told_to_all_who_wait_and_then_forgotten(bars_client, polygon):
    polygon.answering.clear()
    polygon.answer = REFUSALS["unknown key"]
    threads, results = in_threads(3, lambda: bars_client.application.test_client().get(VTAK))
    wait_until(lambda: polygon.requests)
    time.sleep(0.1)
    polygon.answering.set()
    for thread in threads:
        thread.join(10)
    assert len(polygon.requests) == 1
    assert {sentence(response, 502) for response in results} == {sentence(results[0], 502)}
    polygon.answer = None
    assert bars_client.get(VTAK).status_code == 200


def test_one_tickers_bars_do_not_wait_for_anothers(sample_table):
    release = threading.Event()

    def fetch_minute_bars(ticker, date):
        if ticker == "AAPL":
            release.wait(10)
        return [{"timestamp": 0, "open": 1, "high": 1, "low": 1, "close": 1, "volume": 1}]

    app = gui.create_app(sample_table, StandIn(fetch_minute_bars))
    slow = f"/api/bars?ticker=AAPL&date={SAMPLE_DAY}"
    threads, results = in_threads(1, lambda: app.test_client().get(slow))
    assert app.test_client().get(VTAK).status_code == 200
    assert not results
    release.set()
    threads[0].join(10)
    assert results[0].status_code == 200


@pytest.mark.parametrize("ticker", ODD_TICKERS)
def test_an_odd_ticker_is_one_part_of_polygons_path(odd_table, polygon, ticker):
    polygon.answer = EMPTY["no results"]
    client = gui.create_app(odd_table, gui.PolygonBars(polygon.url)).test_client()
    address = "/api/bars?" + urlencode({"ticker": ticker, "date": "2024-01-12"})
    assert ticker in json.loads(client.get(address).get_data())["error"]
    (request,) = polygon.requests
    *start, asked, range_, one, minute, first, last = request.path.split("/")
    assert start == ["", "v2", "aggs", "ticker"]
    assert unquote(asked) == ticker
    assert [range_, one, minute, first, last] == ["range", "1", "minute", *["2024-01-12"] * 2]
    assert set(request.query) <= {"adjusted", "limit", "sort"}


@pytest.mark.parametrize(
    "query",
    [
        f"ticker=NOSUCH&date={SAMPLE_DAY}",
        f"ticker=SWN&date={SAMPLE_DAY}",
        "ticker=VTAK&date=2024-10-19",
        f"ticker=vtak&date={SAMPLE_DAY}",
        f"ticker=VTAK%2F..&date={SAMPLE_DAY}",
        f"ticker=VTAK&date={SAMPLE_DAY}%2F..",
        f"ticker=&date={SAMPLE_DAY}",
    ],
)
def test_polygon_is_never_asked_for_what_the_table_lacks(bars_client, polygon, query):
    assert bars_client.get(f"/api/bars?{query}").status_code in (400, 404)
    assert not polygon.requests


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
    assert "POLYGON_API_KEY" in sentence(bars_client.get(VTAK), 503)
    assert not polygon.requests
    for address in ("/", f"/chart?ticker=VTAK&date={SAMPLE_DAY}", "/api/anomalies"):
        assert bars_client.get(address).status_code == 200


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY}\r\nX-More: 1", f"{KEY}\N{SNOWMAN}"])
def test_a_key_that_cannot_be_sent_is_told(bars_client, polygon, monkeypatch, key):
    monkeypatch.setenv("POLYGON_API_KEY", key)
    assert KEY not in sentence(bars_client.get(VTAK), 502)
    assert not polygon.requests


REFUSED = [(name, answer, 502) for name, answer in REFUSALS.items()]
REFUSED += [("drop", DROP, 502)]
REFUSED += [(name, answer, 502) for name, answer in BROKEN.items() if name != "another host"]
REFUSED += [(name, answer, 404) for name, answer in EMPTY.items()]


@pytest.mark.parametrize(
    ("answer", "status"), [pytest.param(*case, id=name) for name, *case in REFUSED]
)
def test_each_of_polygons_faults_becomes_a_sentence_in_time(bars_client, polygon, answer, status):
    polygon.answer = answer
    threads, results = in_threads(1, bars_client.get, VTAK)
    threads[0].join(5)
    asked, polygon.answer = len(polygon.requests), None
    assert results, "no answer within 5 s"
    assert sentence(results[0], status)
    assert bars_client.get(VTAK).status_code == 200
    assert 1 <= asked <= 5


def test_the_refusals_are_told_apart(bars_client, polygon):
    told = {}
    for name, answer, status in REFUSED:
        if name in ("unknown key", "not entitled", "timeframe", "today", "no results"):
            polygon.answer = answer
            told[name] = sentence(bars_client.get(VTAK), status)
    polygon.answer = RATE_LIMIT
    told["rate limit"] = sentence(bars_client.get(VTAK), 429)
    assert len(set(told.values())) == len(told) == 6
    assert "key" in told["unknown key"]
    for name in ("not entitled", "timeframe", "today"):
        assert "plan" in told[name]
    assert "minute" in told["rate limit"]
    assert "VTAK" in told["no results"]


def test_a_refusal_for_rate_is_asked_once(bars_client, polygon):
    polygon.answer = RATE_LIMIT
    response = bars_client.get(VTAK)
    assert sentence(response, 429)
    assert len(polygon.requests) == 1


def test_a_server_that_hangs_is_given_up(bars_client, polygon):
    polygon.answering.clear()
    threads, results = in_threads(1, bars_client.get, VTAK)
    threads[0].join(5)
    assert sentence(results[0], 504)
    assert len(polygon.requests) <= 3


def test_where_nothing_listens_the_answer_says_so(sample_table, polygon):
    nobody = gui.PolygonBars(f"http://127.0.0.1:{free_port()}")
    client = gui.create_app(sample_table, nobody).test_client()
    assert "reach" in sentence(client.get(VTAK), 502)


def test_the_key_is_not_sent_to_another_host(bars_client, polygon):
    with FakePolygon(SAMPLE_MARKET) as other:
        location = {"Location": other.url.replace("127.0.0.1", "localhost") + "/v2/aggs"}
        polygon.answer = BROKEN["another host"]._replace(headers=location)
        assert sentence(bars_client.get(VTAK), 502)
    assert not [request for request in other.requests if "Authorization" in request.headers]


def test_the_key_is_in_no_answer_and_no_log_line(bars_client, polygon, caplog, capfd):
    caplog.set_level("DEBUG")
    echo = f'{{"status":"ERROR","error":"Unknown API Key {KEY}","message":"{KEY}"}}'
    faults = [answer for name, answer, _ in REFUSED if "for ever" not in name]
    faults += [REFUSALS["unknown key"]._replace(body=echo), DROP._replace(status=200, body=KEY)]
    addresses = ["/", f"/chart?ticker=VTAK&date={SAMPLE_DAY}", "/api/days", "/nothing"]
    answers = [bars_client.get(address) for address in addresses]
    for polygon.answer in faults:
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
    command = [sys.executable, "-c", program]
    finished = subprocess.run(
        command, stdout=subprocess.PIPE, env=environment(POLYGON_API_KEY=KEY), check=True
    )
    assert finished.stdout.decode().splitlines() == ["[]", "True"]


# Polygon, hostile.


@pytest.mark.parametrize("scheme", ["x:@", "//x@", "https://x@", "x:", "http:/\\", ""])
def test_a_next_page_on_another_host_is_never_asked_for(bars_client, polygon, scheme):
    with FakePolygon(SAMPLE_MARKET) as other:
        next_url = other.url.replace("http://", scheme) + "/v2/aggs"
        polygon.answer = answered(json.dumps({"results": [BAR], "next_url": next_url}))
        bars_client.get(VTAK)
    assert not other.requests


@pytest.mark.parametrize("next_url", ["x:@127.0.0.1:9/v2/aggs", "x:8/v2/aggs", "v2/aggs", ""])
def test_a_next_page_without_a_path_is_refused(bars_client, polygon, next_url):
    polygon.answer = answered(json.dumps({"results": [BAR], "next_url": next_url}))
    assert sentence(bars_client.get(VTAK), 502)
    assert len(polygon.requests) == 1


def test_an_answer_without_end_is_not_read_to_its_end():
    class Endless:
        headers, sent = {}, 0

        def read(self, size, decode_content):
            self.sent += size
            return b" " * size

    response = Endless()
    with pytest.raises(gui.PolygonError):
        gui.read_body(response)
    assert gui.LARGEST_ANSWER < response.sent < 2 * gui.LARGEST_ANSWER


def test_a_number_of_401_digits_is_none():
    number = gui.read_answer('{"results":[' + "9" * 401 + "]}")["results"][0]
    assert isnan(number)


def test_a_next_page_of_headlines_on_another_host_is_never_asked_for(bars_client, polygon):
    with FakePolygon(SAMPLE_MARKET) as other:
        next_url = other.url.replace("http://", "x:@") + "/v2/aggs"
        polygon.answer = answered(json.dumps({"results": [ARTICLE], "next_url": next_url}))
        assert bars_client.get(HEADLINES).status_code == 200
    assert not other.requests
    assert len(polygon.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(bars_client, polygon, status):
    polygon.answer = Answer(status, {"Location": f"{polygon.url}/v2/aggs"}, "")
    assert sentence(bars_client.get(VTAK), 502)
    assert len(polygon.requests) == 1


@pytest.mark.parametrize("is_head_slow", [False, True])
def test_an_answer_that_trickles_is_given_up(sample_table, polygon, is_head_slow):
    # Each byte comes within the time limit of a read.
    polygon.pace, polygon.is_head_slow = 0.02, is_head_slow
    source = gui.PolygonBars(polygon.url, timeout=5, total=0.5)
    client = gui.create_app(sample_table, source).test_client()
    started = time.monotonic()
    assert sentence(client.get(VTAK), 504) == gui.TIMEOUT
    assert 0.5 <= time.monotonic() - started < 3


def test_questions_that_were_given_up_are_counted_until_they_end(sample_table, polygon):
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


def test_many_pages_may_not_take_longer_than_one(sample_table, polygon):
    polygon.page_size, polygon.pace = 1, 0.0002
    source = gui.PolygonBars(polygon.url, timeout=5, total=0.3)
    client = gui.create_app(sample_table, source).test_client()
    assert client.get(VTAK).status_code in (502, 504)
    assert len(polygon.requests) <= gui.MOST_REQUESTS


def test_an_answer_may_be_packed(bars_client, polygon):
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
    assert "no minute bars" in sentence(
        bars_client.get("/api/bars?ticker=AAPL&date=" + SAMPLE_DAY), 404
    )


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


@pytest.mark.parametrize("is_known", [True, False])
def test_a_server_is_asked_through_tls_if_its_certificate_is_known(
    sample_table, certificate, monkeypatch, is_known
):
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate)
    if is_known:
        monkeypatch.setattr("certifi.where", lambda: str(certificate))
    with FakePolygon(SAMPLE_MARKET, server_side) as polygon:
        client = gui.create_app(sample_table, gui.PolygonBars(polygon.url)).test_client()
        response = client.get(VTAK)
    if is_known:
        assert len(loads(response)["bars"]) == len(polygon.bars_of("VTAK", SAMPLE_DAY))
    else:
        assert sentence(response, 502) == gui.NO_CONNECTION
    assert len(polygon.requests) == is_known


def test_without_the_client_the_answer_says_what_to_install(bars_client, polygon, monkeypatch):
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
    source = gui.PolygonBars(polygon.url, total=10**9)
    client = gui.create_app(sample_table, source).test_client()
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


def test_after_a_429_kept_bars_are_still_given(bars_client, polygon):
    assert bars_client.get(VTAK).status_code == 200
    polygon.answer = RATE_LIMIT
    assert sentence(bars_client.get(f"/api/bars?ticker=AAPL&date={SAMPLE_DAY}"), 429)
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


def test_a_tickers_first_days_headlines_start_at_midnight(bars_client, polygon):
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
def test_an_odd_article_is_survived(bars_client, polygon, odd, shown):
    polygon.answer = answered(json.dumps({"results": [{**ARTICLE, **odd}]}))
    assert loads(bars_client.get(HEADLINES))["headlines"] == [{**HEADLINE, **shown}]


@pytest.mark.parametrize("odd", [None, 7, "text", [], {}, {"title": None}, {"title": " \n"}])
def test_what_is_no_article_is_left_out(bars_client, polygon, odd):
    polygon.answer = answered(json.dumps({"results": [odd, ARTICLE]}))
    assert loads(bars_client.get(HEADLINES))["headlines"] == [HEADLINE]


def test_an_article_of_the_real_api_is_read(bars_client, polygon):
    polygon.answer = answered(json.dumps({"results": [ARTICLE], "status": "OK", "count": 10}))
    assert loads(bars_client.get(HEADLINES))["headlines"] == [HEADLINE]


@pytest.mark.parametrize("results", ["text", {"title": "A"}, 7])
def test_results_that_are_no_list_are_nonsense(bars_client, polygon, results):
    polygon.answer = answered(json.dumps({"results": results}))
    assert sentence(bars_client.get(HEADLINES), 502) == gui.BAD_ANSWER


@pytest.mark.parametrize("name", [*REFUSALS, "server error", "broken json", "not utf-8"])
def test_headlines_are_refused_as_bars_are(bars_client, polygon, name):
    polygon.answer = {**REFUSALS, **BROKEN}[name]
    assert sentence(bars_client.get(HEADLINES), 502) == sentence(bars_client.get(VTAK), 502)


@pytest.mark.parametrize("query", ["ticker=NOSUCH&date=2024-10-18", "ticker=VTAK&date=2024-10-19"])
def test_no_headlines_are_asked_for_of_what_the_table_lacks(bars_client, polygon, query):
    assert sentence(bars_client.get(f"/api/headlines?{query}"), 404)
    assert not polygon.requests


# Requests that a foreign page makes.


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "nonsense"])
@pytest.mark.parametrize(
    "address", [VTAK, HEADLINES, AFTER.format("VTAK", SAMPLE_DAY), "/api/days", "/api/nothing"]
)
def test_a_foreign_page_may_not_ask_the_api(bars_client, polygon, address, site):
    response = bars_client.get(address, headers={"Sec-Fetch-Site": site})
    assert sentence(response, 403)
    assert not polygon.requests


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_the_page_itself_and_the_address_bar_may(client, site):
    assert client.get("/api/days", headers={"Sec-Fetch-Site": site}).status_code == 200


def test_a_link_from_a_foreign_page_leads_here(client):
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


# A new table, as an open page notices it.


def test_the_version_changes_with_the_table(sample_table, tiny_table, tmp_path):
    table = tmp_path / "table.pkl"
    table.write_bytes(sample_table.read_bytes())
    client = gui.create_app(table, NOTHING_WANTED).test_client()

    def version_of_page(address):
        return parse(client.get(address)).find("main")[0]["data-table-version"]

    before = loads(client.get("/api/table"))
    assert before == {"version": version_of_page("/"), "last": SAMPLE_DAY}
    assert version_of_page(f"/chart?ticker=VTAK&date={SAMPLE_DAY}") == before["version"]
    assert loads(client.get("/api/table")) == before
    new = tmp_path / "new.pkl"
    new.write_bytes(tiny_table.read_bytes())
    os.replace(new, table)
    after = loads(client.get("/api/table"))
    assert after == {"version": version_of_page("/"), "last": TINY_DAYS[-1]}
    assert after["version"] != before["version"]


def test_the_version_of_a_table_that_is_gone_is_a_sentence(tmp_path, sample_table):
    table = tmp_path / "table.pkl"
    table.write_bytes(sample_table.read_bytes())
    client = gui.create_app(table, NOTHING_WANTED).test_client()
    assert client.get("/api/table").status_code == 200
    table.unlink()
    assert "run build-lookup-table.py" in sentence(client.get("/api/table"), 503)


# The table while the server runs.


def test_a_replaced_table_shows_with_the_next_request(sample_table, tiny_table, tmp_path):
    table = tmp_path / "table.pkl"
    table.write_bytes(sample_table.read_bytes())
    client = gui.create_app(table, NOTHING_WANTED).test_client()
    addresses = ["/api/days", "/api/anomalies", "/", "/api/history?ticker=VTAK&date=2024-10-18"]
    before = [client.get(address).status_code for address in addresses]
    assert before == [200, 200, 200, 200]
    new = tmp_path / "new.pkl"
    new.write_bytes(tiny_table.read_bytes())
    os.replace(new, table)
    assert loads(client.get("/api/days"))["days"] == TINY_DAYS
    assert loads(client.get("/api/anomalies"))["date"] == TINY_DAYS[-1]
    assert TINY_DAYS[-1] in parse(client.get("/")).text
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
def test_a_bad_table_is_told_and_a_good_one_forgives_it(sample_table, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "table.pkl"
    good = sample_table.read_bytes()
    table.write_bytes(good)
    client = gui.create_app(table, NOTHING_WANTED).test_client()
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
    client = gui.create_app(table, NOTHING_WANTED).test_client()
    text = sentence(client.get("/api/days"), 503)
    assert text == f"{table} is no table of build-lookup-table.py: run it to make one"
    assert_refused(run(GUI, "--table", table, "--port", free_port()), text)


# Tables that were made to harm: every checksum is right.


class ForgedTable:
    """A table in the builder's format that says whatever a test wants.

    Each of dates has the same page: columns are arrays of DAY_PAGE_COLUMNS, of what is missing all
    numbers are 1. names is bytes. Every ticker's history is records and gaps, by default one row
    on the first date.
    """

    def __init__(self, dates, names, **columns):
        self.dates, self.names, self.columns = dates, names, columns
        self.rows = names.count(b"\n") + 1
        self.window, self.number_of_tickers, self.counts = 5, self.rows, (9, 1)
        record = bytearray(gui.querier.SHORT_ROW_INTEGERS.size)
        struct.pack_into("<I", record, 1, len(gui.querier.FIELDS))
        self.records, self.gaps = bytes(record), struct.pack("<d", 1)
        self.spoil = lambda packed_extent: packed_extent

    def write(self, path):
        content = bytearray(gui.querier.SIGNATURE)

        def add(piece):
            content.extend(piece)
            offset = len(content) - len(piece)
            return gui.querier.EXTENT.pack(offset, len(piece), zlib.crc32(piece))

        ones = [1] * (self.names.count(b"\n") + 1)
        page = b"".join(
            array(code, self.columns.get(name, ones)).tobytes()
            for name, code in gui.querier.DAY_PAGE_COLUMNS.items()
        )
        page = self.spoil(add(page + self.names))
        history = self.spoil(add(self.records)) + self.spoil(add(self.gaps))
        directory = self.spoil(add(history * len(ones) + self.names))
        index = gui.querier.INDEX_HEADER.pack(self.window, self.number_of_tickers, directory)
        for date in self.dates:
            index += gui.querier.INDEX_DAY.pack(date.encode(), page, self.rows, *self.counts)
        footer = gui.querier.FOOTER.pack(add(index), gui.querier.MAGIC)
        path.write_bytes(content + footer)
        return path

    def client(self, tmp_path):
        return gui.create_app(self.write(tmp_path / "forged.pkl"), NOTHING_WANTED).test_client()


FEW_DAYS = SAMPLE_DAYS[:3]


def addresses_of(ticker, date=FEW_DAYS[0], **more):
    """Every route that reads the table, asked for a ticker and a date."""
    query = "?" + urlencode({"ticker": ticker, "date": date, **more})
    routes = ["/", "/chart", "/anomalies.csv", "/api/anomalies", "/api/history", "/api/after"]
    return [route + query for route in routes] + ["/", "/api/days", "/api/table"]


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
    assert statuses_of(client, addresses_of("A")) == {200}


ODD_NUMBERS = [nan, inf, -inf, 0.0, -0.0, -1.0, 5e-324, 1.7e308, -1.7e308, 1e18]


def test_whatever_numbers_a_page_holds_there_is_an_answer(tmp_path):
    rng = random.Random(1)
    names = [f"T{i}" for i in range(400)]
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
    client = forged.client(tmp_path)
    for i, ticker in enumerate(names):
        more = {
            "threshold": [3, -1e308, 1e308][i % 3],
            "sort": list(gui.SORT_COLUMNS)[i % len(gui.SORT_COLUMNS)],
            "order": ["asc", "desc"][i % 2],
            "min_price": [0, -1e308, 1e308][i % 3],
        }
        date = SAMPLE_DAYS[i % 30 if i % 2 else 29]
        assert statuses_of(client, addresses_of(ticker, date, **more)[i % 2 : 6]) <= {200, 404}


def test_whatever_numbers_a_history_holds_there_is_an_answer(tmp_path):
    forged = ForgedTable(FEW_DAYS, b"A", trades=[9])
    for number in ODD_NUMBERS:
        record = bytearray(forged.records)
        struct.pack_into(">d", record, 17, number)
        struct.pack_into(">d", record, 28, number)
        forged.records, forged.gaps = bytes(record), struct.pack("<d", number)
        assert statuses_of(forged.client(tmp_path), addresses_of("A")) == {200}


HOSTILE_NAMES = [
    *("<script>alert(1)</script>", "'\"><img src=x onerror=alert(1)>", "{{ 7 * 7 }}", "&amp;"),
    *("\x1b[31m", "\u202eA", "A\tB", "\x7f", " ", "A,B", "=1+1", "\N{SNOWMAN}" * 500, "A"),
]


def test_names_stay_text(tmp_path):
    rows = len(HOSTILE_NAMES)
    names = "\n".join(HOSTILE_NAMES).encode()
    client = ForgedTable(FEW_DAYS, names, trades=[9] * rows).client(tmp_path)
    page = parse(client.get("/?date=2024-08-01"))
    shown = [row["data-ticker"] for row in page.find("tr", data_ticker=True)]
    assert shown == HOSTILE_NAMES
    assert not [e for e in page.find("img") + page.find("script") if not e["src"].startswith("/")]
    found = loads(client.get("/api/anomalies?date=2024-08-01"))["anomalies"]
    assert [row["ticker"] for row in found] == HOSTILE_NAMES
    for name in HOSTILE_NAMES:
        assert statuses_of(client, addresses_of(name)) == {200}


@pytest.mark.parametrize(
    "names", [b"\xed\xa0\x80", b"\xff", b"\xc0\xaf", "A\nB".encode("utf-16")], ids=repr
)
def test_names_that_are_no_text_are_told(tmp_path, names):
    client = ForgedTable(FEW_DAYS, names).client(tmp_path)
    assert statuses_of(client, addresses_of("A")[:6]) == {503}


@pytest.mark.parametrize(
    "dates", [FEW_DAYS[::-1], ["2024-02-30"], ["yesterday!"], ["2024-08-01", "0000-00-00"]], ids=str
)
def test_dates_that_cannot_be_are_told(tmp_path, dates):
    client = ForgedTable(dates, b"A").client(tmp_path)
    assert statuses_of(client, addresses_of("A", "2024-08-01")) == {503}


def moved(extent, **changes):
    """The packed extent, with another offset or length."""
    offset, length, crc = gui.querier.EXTENT.unpack(extent)
    values = {"offset": offset, "length": length, "crc": crc, **changes}
    return gui.querier.EXTENT.pack(*values.values())


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
def test_an_extent_that_lies_is_told(tmp_path, changes):
    forged = ForgedTable(FEW_DAYS, b"A")
    forged.spoil = lambda extent: moved(extent, **changes)
    assert statuses_of(forged.client(tmp_path), addresses_of("A")[:6]) == {503}


@pytest.mark.parametrize("rows", [0, 2, 2**16, 2**17, 2**32 - 1])
def test_a_number_of_rows_that_lies_is_told(tmp_path, rows):
    ones = {name: [1] for name in gui.querier.DAY_PAGE_COLUMNS}
    forged = ForgedTable(FEW_DAYS, b"A", **ones)
    forged.rows = rows
    addresses = addresses_of("A")
    del addresses[4]  # a history does not read the page
    assert statuses_of(forged.client(tmp_path), addresses[:5]) == {503}


@pytest.mark.parametrize(
    "changes",
    [
        {"window": 2**32 - 1, "number_of_tickers": 1},
        {"gaps": struct.pack("<d", 1) * 3},
        {"gaps": struct.pack("<d", 1) * 1_600_000},
        {"gaps": struct.pack("<d", 1) * 200_000, "records": bytes(43 * 200_000)},
        {"gaps": struct.pack("<d", 1) * 200_000, "records": bytes(59 * 199_995 + 43 * 5)},
        {"gaps": b""},
        {"records": b""},
        {"records": bytes(43)},
        {"records": b"\xff" * 43},
        {"number_of_tickers": 2},
        {"number_of_tickers": 0},
        {"number_of_tickers": 2**32 - 1},
        {"window": 0},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_a_history_that_cannot_be_is_told(tmp_path, changes):
    forged = ForgedTable(FEW_DAYS, b"A")
    for name, value in changes.items():
        setattr(forged, name, value)
    client = forged.client(tmp_path)
    is_sound = changes.get("window") == 2**32 - 1
    assert statuses_of(client, addresses_of("A")[4:5]) == ({200} if is_sound else {503})
    assert statuses_of(client, addresses_of("A")) <= {200, 503}


MOST_MEMORY = 120  # MB


def crowd(tickers, anomalies):
    """A ForgedTable of 25 days; so many tickers are anomalies, with a z-score of 8."""
    names = "\n".join(f"TICKER{i}" for i in range(tickers)).encode()
    trades = [9] * anomalies + [1] * (tickers - anomalies)
    return ForgedTable(SAMPLE_DAYS[:25], names, trades=trades)


def test_a_day_of_too_many_tickers_is_told(tmp_path):
    client = crowd(2**17, 1).client(tmp_path)
    addresses = addresses_of("TICKER7", SAMPLE_DAYS[0])
    for address in [*addresses[:4], addresses[5], "/"]:
        response = client.get(address)
        assert response.status_code == 503
        assert "131,072 tickers, more than this server shows" in response.get_data(as_text=True)
    assert client.get(addresses[4]).status_code == 200


def test_a_day_of_too_many_anomalies_is_told(tmp_path):
    client = crowd(gui.MOST_ANOMALIES + 1, gui.MOST_ANOMALIES + 1).client(tmp_path)
    for address in ("/", "/anomalies.csv", "/api/anomalies"):
        response = client.get(address)
        assert response.status_code == 503
        assert "16,385 anomalies, and a list holds 16,384" in response.get_data(as_text=True)
    assert "0 anomalies among 16,385 tickers" in parse(client.get("/?threshold=8")).text


def most_memory(process):
    """The most memory that a process ever had, in MB."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def test_the_largest_lists_of_the_largest_table_fit_into_memory(tmp_path):
    table = crowd(gui.MOST_TICKERS_A_DAY, gui.MOST_ANOMALIES).write(tmp_path / "table.pkl")
    query = f"?date={SAMPLE_DAYS[0]}&ticker=TICKER7"
    routes = ["/", "/anomalies.csv", "/api/anomalies", "/api/after", "/chart"]
    with running_gui(table, "http://127.0.0.1:9") as served:
        sizes = []

        def ask(address):
            sizes.append(len(served.get(address, timeout=60)))

        threads = [in_threads(1, ask, route + query)[0][0] for route in routes * 2]
        for thread in threads:
            thread.join(60)
        assert len(sizes) == len(routes) * 2
        assert max(sizes) > 5_000_000
        assert most_memory(served.process) <= MOST_MEMORY


@pytest.mark.parametrize("kind", ["fifo", "folder", "sparse", "device"])
def test_what_is_no_file_of_a_table_is_told_at_once(tmp_path, kind):
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
    client = gui.create_app(path, NOTHING_WANTED).test_client()
    assert statuses_of(client, addresses_of("A")) == {503}


def without_version(response):
    """The response's bytes without the file's version, which differs each time it is written."""
    return re.sub(rb'data-table-version="[^"]*"', b"", response.get_data())


@pytest.fixture(scope="module")
def tiny_answers(tiny_table):
    """What each kind of page says of the sound table."""
    client = gui.create_app(tiny_table, NOTHING_WANTED).test_client()
    query = "?ticker=TINY&date=2024-01-12"
    addresses = ["/", "/chart" + query, "/api/days", "/api/anomalies", "/api/history" + query]
    return {address: without_version(client.get(address)) for address in addresses}


@EXAMPLES
@given(data=st.data())
def test_damage_gives_the_right_answer_or_a_sentence(
    tiny_table, tiny_answers, tmp_path_factory, data
):
    good = bytearray(tiny_table.read_bytes())
    good[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    table = tmp_path_factory.getbasetemp() / "damaged.pkl"
    table.write_bytes(good)
    client = gui.create_app(table, NOTHING_WANTED).test_client()
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


@EXAMPLES
@given(path=PATHS, query=st.lists(st.tuples(NAMES, VALUES), max_size=6))
def test_no_query_string_is_too_much(sample_table, path, query):
    client = gui.create_app(sample_table, StandIn(lambda *asked: [])).test_client()
    response = client.get(f"{path}?{urlencode(query, errors='surrogatepass')}")
    assert response.status_code in (200, 400, 404)


@EXAMPLES
@given(path=st.text(max_size=30), query=st.binary(max_size=40))
def test_no_address_is_too_much(sample_table, path, query):
    client = gui.create_app(sample_table, NOTHING_WANTED).test_client()
    address = "/" + quote(path.encode("utf-8", "surrogatepass"), safe="/%") + "?" + quote(query)
    assert client.get(address).status_code in (200, 400, 404, 308)


def test_a_short_soak_finds_nothing():
    soak = [
        sys.executable,
        str(TOP / "tests" / "tools" / "soak_gui.py"),
        "--requests",
        "60",
        "--pause",
        "0.3",
    ]
    finished = subprocess.run(soak, stdout=subprocess.PIPE, timeout=100)
    assert finished.returncode == 0, finished.stdout.decode()


# The command.


@contextlib.contextmanager
def started(*options, key=None):
    """The command as a process, which is ended if the test has not done so."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    keys = {"POLYGON_API_KEY": key} if key else {}
    process = subprocess.Popen(command(GUI, *options), env=environment(**keys), **pipes)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def get_days(host, port):
    connection = HTTPConnection(host, port, timeout=5)
    connection.request("GET", "/api/days")
    return json.loads(connection.getresponse().read())["days"]


def test_it_prints_its_url_serves_there_and_ends_politely(sample_table):
    port = free_port()
    with started("--table", sample_table, "--port", port) as process:
        line = process.stdout.readline().decode()
        assert line.strip().endswith(f"http://localhost:{port}")
        wait_until(lambda: answers(port), 5)
        assert get_days("localhost", port) == SAMPLE_DAYS
        process.send_signal(signal.SIGINT)
        printed = process.communicate(timeout=5)
    assert process.returncode == 130
    assert printed[1] == b""


def test_it_listens_on_loopback_only(sample_table):
    port = free_port()
    with started("--table", sample_table, "--port", port):
        wait_until(lambda: answers(port), 5)
        # 127.0.0.2 is this machine too: who listens on every address answers there.
        assert not answers(port, "127.0.0.2")


def test_another_address_to_listen_on_may_be_named(sample_table):
    port = free_port()
    with started("--table", sample_table, "--port", port, "--host", "127.0.0.2"):
        wait_until(lambda: answers(port, "127.0.0.2"), 5)
        assert get_days("127.0.0.2", port) == SAMPLE_DAYS
        assert not answers(port)


def test_a_port_in_use_is_one_line(sample_table):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_refused(run(GUI, "--table", sample_table, "--port", port), port)


def test_a_missing_table_is_told_as_in_the_querier(tmp_path):
    table = tmp_path / "none.pkl"
    finished = run(GUI, "--table", table, "--port", free_port())
    assert_refused(finished, f"{table} not found: run build-lookup-table.py first")
    assert finished.stderr == run("query-lookup-table.py", SAMPLE_DAY, "--table", table).stderr


@pytest.mark.parametrize("name", ["cut short", "empty", "no pickle", "hostile", "no tickers"])
def test_a_bad_table_is_one_line(sample_table, tmp_path, name):
    table = tmp_path / "table.pkl"
    table.write_bytes(BAD_TABLES[name](sample_table.read_bytes()))
    finished = run(GUI, "--table", table, "--port", free_port(), cwd=tmp_path)
    assert_refused(finished, table, "build-lookup-table.py")
    assert not (tmp_path / "made-by-a-table").exists()


@pytest.mark.parametrize("options", [["--port", "x"], ["--port", "99999"], ["--no-such"]])
def test_a_wrong_command_ends_with_status_2(sample_table, options):
    finished = run(GUI, "--table", sample_table, *options)
    assert finished.returncode == 2
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize("tickers", [12, 1])
def test_the_page_lives_on_while_polygon_hangs(sample_table, polygon, tickers):
    wanted = [f"/api/bars?ticker={ticker}&date={SAMPLE_DAY}" for ticker in LARGE[:tickers]]
    polygon.answering.clear()
    with running_gui(sample_table, polygon.url, POLYGON_API_KEY=KEY) as served:

        def ask(address):
            with contextlib.suppress(OSError):
                served.get(address)

        for address in wanted * (12 // tickers):
            threading.Thread(target=ask, args=[address], daemon=True).start()
        wait_until(lambda: polygon.requests)
        time.sleep(0.2)
        for _ in range(3):
            started = time.perf_counter()
            assert b"VTAK" in served.get("/")
            assert time.perf_counter() - started < 1


@contextlib.contextmanager
def connected(url):
    """A socket that is connected to the server at a URL."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        yield connection


def test_a_large_body_is_refused_before_it_is_sent(sample_table):
    with running_gui(sample_table, "http://127.0.0.1:9") as served, connected(served.url) as post:
        post.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000000\r\n\r\n")
        assert post.recv(12) == b"HTTP/1.1 413"


def test_a_large_body_in_chunks_is_refused_before_it_goes_to_a_file(sample_table):
    chunk = b"2000\r\n" + b"x" * 0x2000 + b"\r\n"
    with running_gui(sample_table, "http://127.0.0.1:9") as served, connected(served.url) as post:
        post.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        # waitress opens a file at 512 kB.
        post.sendall(chunk * 8)
        assert post.recv(12) == b"HTTP/1.1 413"


@pytest.mark.parametrize("count", [99, 250])
def test_silent_connections_shut_nobody_out(sample_table, count):
    with running_gui(sample_table, "http://127.0.0.1:9") as served, contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(connected(served.url))
        started = time.monotonic()
        assert b"VTAK" in served.get("/", timeout=20)
        # Beyond the limit of connections the first must be closed before another is answered.
        assert time.monotonic() - started < (2 if count == 99 else 15)


def test_any_number_of_ctrl_c_ends_it_without_a_traceback(sample_table, polygon):
    polygon.answering.clear()
    port = free_port()
    options = ["--table", sample_table, "--port", port, "--api-url", polygon.url]
    with started(*options, key=KEY) as process:
        wait_until(lambda: answers(port), 5)
        connection = HTTPConnection("localhost", port)
        connection.request("GET", VTAK)
        wait_until(lambda: polygon.requests)

        def has_ended():
            process.send_signal(signal.SIGINT)
            return process.poll() is not None

        wait_until(has_ended, 15)
        connection.close()
        assert process.returncode == 130
        assert process.communicate()[1] == b""


@pytest.mark.parametrize("host", [b"\xff", b"a" * 300, b"no such host", b"192.0.2.1", b"::g", b"."])
def test_an_impossible_host_is_one_line(sample_table, host):
    finished = run(GUI, "--table", sample_table, "--port", free_port(), "--host", os.fsdecode(host))
    assert_refused(finished, "cannot listen on")


@pytest.mark.parametrize("url", ["", "x", "http://", "ftp://127.0.0.1", "http://a b", "http://x@y"])
def test_an_impossible_api_url_ends_with_status_2(sample_table, url):
    finished = run(GUI, "--table", sample_table, "--api-url", url)
    assert finished.returncode == 2
    assert "https://api.polygon.io" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_it_runs_without_docstrings(sample_table):
    port = free_port()
    line = [sys.executable, "-OO", TOP / GUI, "--table", sample_table, "--port", str(port)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: process.poll() is not None or answers(port))
        assert get_days("localhost", port) == SAMPLE_DAYS
    finally:
        process.kill()
        process.communicate()
    finished = subprocess.run([*line[:3], "--help"], capture_output=True)
    assert (finished.returncode, finished.stderr) == (0, b"")


@pytest.mark.parametrize("name", ["flask", "werkzeug", "waitress"])
def test_a_missing_package_is_one_line(sample_table, tmp_path, name):
    (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('no', name={name!r})")
    options = {"env": {**environment(), "PYTHONPATH": str(tmp_path)}}
    finished = run(GUI, "--table", sample_table, "--port", free_port(), **options)
    assert_refused(finished, name, "pip install -r requirements.txt")


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full", "| true", "2>&-", "2>/dev/full"])
def test_a_lost_stdout_or_stderr_is_no_reason_to_stop(sample_table, tmp_path, redirection):
    port = free_port()
    start = f'"$@" {redirection} &'
    if redirection == "| true":  # a pipe whose reader has gone
        start = 'mkfifo fifo; (exec 9< fifo) & "$@" > fifo &'
    script = f"{start} echo $! > pid; wait $!; echo $? > status"
    line = ["sh", "-c", script, "sh", *command(GUI, "--table", sample_table, "--port", port)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(line, cwd=tmp_path, env=environment(), **pipes)
    wait_until(lambda: answers(port))
    assert get_days("localhost", port) == SAMPLE_DAYS
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGINT)
    printed = process.communicate(timeout=10)
    assert (tmp_path / "status").read_text() == "130\n"
    assert printed[1] == b""


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full", "2>&-", "2>/dev/full"])
def test_an_error_that_cannot_be_told_still_has_its_status(tmp_path, redirection):
    line = command(GUI, "--table", tmp_path / "none.pkl", "--port", free_port())
    finished = subprocess.run(["sh", "-c", f'"$@" {redirection}', "sh", *line], capture_output=True)
    assert finished.returncode == 1
    assert finished.stdout == b""
    assert b"Traceback" not in finished.stderr
    assert finished.stderr.count(b"\n") == (0 if "2>" in redirection else 1)


def test_help_on_a_full_disk_is_quiet():
    line = ["sh", "-c", '"$@" > /dev/full', "sh", *command(GUI, "--help")]
    finished = subprocess.run(line, capture_output=True)
    assert (finished.returncode, finished.stderr) == (0, b"")


def test_nothing_is_needed_that_windows_or_macos_lack(sample_table):
    port = free_port()
    program = f"""
import os, runpy, select, signal, socket, sys, threading, urllib.request

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
            continue
        print(answer.status)
        break
    os.kill(os.getpid(), signal.SIGINT)

threading.Timer(0.5, visit).start()
sys.argv = ["gui", "--table", {str(sample_table)!r}, "--port", "{port}"]
runpy.run_path({str(TOP / GUI)!r}, run_name="__main__")
"""
    line = [sys.executable, "-c", program]
    finished = subprocess.run(line, capture_output=True, env=environment(), timeout=60)
    assert finished.stderr == b""
    assert finished.stdout.split() == [f"http://localhost:{port}".encode(), b"200"]
    assert finished.returncode == 130
