"""The browser half without a browser: its pages and JSON, what it asks of Polygon, its command."""

import contextlib
import datetime
import importlib.util
import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from html.parser import HTMLParser
from http.client import HTTPConnection
from math import nan
from pathlib import Path
from statistics import mean, stdev
from urllib.parse import quote, unquote, urlencode, urlsplit

import pytest
from conftest import EFFORT, SAMPLE_MARKET, TOP, assert_refused, command, load_script, run
from fake_polygon import (
    BROKEN,
    DROP,
    EMPTY,
    KEYS,
    RATE_LIMIT,
    REFUSALS,
    FakePolygon,
    answers,
    build_table,
    environment,
    free_port,
    new_york_time,
    read_days,
    running_gui,
    wait_until,
    with_bars,
    write_flat_files,
)
from hypothesis import given, settings
from hypothesis import strategies as st

gui = load_script("gui-lookup-table.py")

KEY = "sEcReT-kEy-0123456789"
LAST_DAY = "2024-10-18"
VTAK = f"/api/bars?ticker=VTAK&date={LAST_DAY}"
# Traded on every day of the sample market.
LARGE = ["AAPL", "AMD", "AMZN", "AVGO", "BA", "BABA", "BAC", "C", "F", "GOOG", "META", "MU"]
SAMPLE_DAYS = sorted(path.stem for path in SAMPLE_MARKET.glob("*.csv"))
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
        *("z_score", "times_normal", "close_price", "price_diff"),
    ]
    rows = table.find("tr", data_ticker=True)
    texts = [dict(zip(columns, (cell.text for cell in row.elements))) for row in rows]
    assert [row["data-ticker"] for row in rows] == [row["ticker"] for row in texts]
    return texts


def number(text):
    """The number that people read in the text, such as 1,234.50 or +3.2 %."""
    return float(re.sub("[,+% ]", "", text).replace("\N{MINUS SIGN}", "-"))


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


def sentence(response, status):
    """An error's sentence, after a look at whether it is one and has that status."""
    answer = loads(response)
    assert list(answer) == ["error"]
    assert response.status_code == status, answer
    text = answer["error"]
    assert re.fullmatch(r"[^\n<>{}]{10,300}", text), text
    assert "Traceback" not in text
    return text


def no_bars_wanted(ticker, date):
    raise AssertionError(f"asked for {ticker} on {date}")


# Tables, and clients of apps that show them.


@pytest.fixture
def client(sample_table):
    return gui.create_app(sample_table, no_bars_wanted).test_client()


@pytest.fixture(scope="module")
def tiny_table(tmp_path_factory):
    """TINY, a ticker that is always the same, and two on 2024-01-12 at and above the bound."""
    folder = tmp_path_factory.mktemp("tiny")
    market = {
        day: {
            "FLAT": (7, 1),
            "TINY": (TINY_TRADES[i], TINY_CLOSES[i]),
            "THREE": (AT_THE_BOUND[i], 1),
            "MORE": (AT_THE_BOUND[i] + (day == "2024-01-12"), 1),
        }
        for i, day in enumerate(TINY_DAYS)
    }
    return build_table(write_flat_files(folder / "csv", market), folder / "lookup_table.pkl")


@pytest.fixture
def tiny_client(tiny_table):
    return gui.create_app(tiny_table, no_bars_wanted).test_client()


@pytest.fixture(scope="module")
def odd_table(tmp_path_factory):
    """Each of ODD_TICKERS, and an anomaly on 2024-01-12."""
    folder = tmp_path_factory.mktemp("odd")
    days = zip(TINY_DAYS[:6], TINY_TRADES)
    market = {day: {ticker: (trades, 1) for ticker in ODD_TICKERS} for day, trades in days}
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
    fetch_minute_bars = gui.polygon_bars(polygon.url, timeout=0.5)
    return gui.create_app(sample_table, fetch_minute_bars).test_client()


# The numbers.


def test_the_days_are_those_of_the_flat_files(client):
    assert loads(client.get("/api/days")) == {"days": SAMPLE_DAYS}


@pytest.mark.parametrize("threshold", ["3", "0", "-1e3", "10.5", "1e9"])
@pytest.mark.parametrize("date", [SAMPLE_DAYS[0], SAMPLE_DAYS[5], "2024-09-12", LAST_DAY])
def test_the_anomalies_are_those_that_the_querier_finds(client, sample_table, date, threshold):
    answer = loads(client.get(f"/api/anomalies?date={date}&threshold={threshold}"))
    assert answer["anomalies"] == ask_querier(sample_table, date, f"--threshold={threshold}")
    assert answer["date"] == date
    assert answer["threshold"] == float(threshold)
    lines = (SAMPLE_MARKET / f"{date}.csv").read_text().splitlines()
    assert answer["tickers"] == len(lines) - 1


def test_without_parameters_the_last_days_anomalies_above_three_are_meant(client, sample_table):
    answer = loads(client.get("/api/anomalies"))
    assert (answer["date"], answer["threshold"]) == (LAST_DAY, 3)
    assert answer["anomalies"] == ask_querier(sample_table, LAST_DAY)
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

    assert around(LAST_DAY) == (39, 0)
    before, after = around(SAMPLE_DAYS[40])
    assert before + 1 + after == 40
    assert before > after > 0


# The pages.


@pytest.mark.parametrize("threshold", ["3", "1", "30"])
@pytest.mark.parametrize("date", ["2024-09-12", "2024-08-20", LAST_DAY])
def test_the_page_lists_what_the_querier_prints(client, sample_table, date, threshold):
    rows = list_rows(parse(client.get(f"/?date={date}&threshold={threshold}")))
    anomalies = ask_querier(sample_table, date, f"--threshold={threshold}")
    assert [row["ticker"] for row in rows] == [anomaly["ticker"] for anomaly in anomalies]
    for row, anomaly in zip(rows, anomalies):
        anomaly["times_normal"] = anomaly["trades"] / anomaly["avg_trades"]
        assert row["trades"] == f"{anomaly['trades']:,}"
        for column in set(row) - {"ticker"}:
            assert is_shown(anomaly[column], row[column]), (column, row, anomaly)


def test_the_heading_says_the_day_and_how_many_among_how_many(client):
    page = parse(client.get(f"/?date={LAST_DAY}"))
    tickers = len((SAMPLE_MARKET / f"{LAST_DAY}.csv").read_text().splitlines()) - 1
    (heading,) = page.find("h1")
    assert "Friday" in page.text
    assert LAST_DAY in heading.text
    assert re.search(rf"\b18\b.* {tickers}\b", page.text)


def test_the_first_page_is_that_of_the_last_day(client):
    assert list_rows(parse(client.get("/"))) == list_rows(parse(client.get(f"/?date={LAST_DAY}")))


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
    assert linked(LAST_DAY, "next-day") in (None, LAST_DAY)


def test_the_date_field_is_bounded_by_the_tables_days(client):
    (field,) = parse(client.get("/?date=2024-09-12")).find("input", id="date")
    assert (field["min"], field["value"], field["max"]) == (SAMPLE_DAYS[0], "2024-09-12", LAST_DAY)


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
    fields = {field["name"]: field["value"] or "" for field in form.find("input", name=True)}
    assert form.find("button") or form.find("input", type="submit")
    return parse(client.get(f"{form['action']}?{urlencode({**fields, **changes})}"))


def test_the_forms_filter_and_set_threshold_and_date_without_javascript(client, sample_table):
    def tickers(page):
        return [row["ticker"] for row in list_rows(page)]

    page = parse(client.get("/"))
    found = [anomaly["ticker"] for anomaly in ask_querier(sample_table, LAST_DAY)]
    filtered = submitted(client, page, filter="aa")
    assert tickers(filtered) == [ticker for ticker in found if "AA" in ticker.upper()] != []
    above_thirty = ask_querier(sample_table, LAST_DAY, "--threshold=30")
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
        ticker: parse(client.get(f"/chart?ticker={ticker}&date={LAST_DAY}"))
        for ticker in ("VTAK", "PEGY", "AAp", "AAPL")
    }
    (heading,) = pages["VTAK"].find(id="detail")[0].find("h2")
    assert "VTAK" in heading.text
    assert "460,548" in pages["VTAK"].text
    # In the README's list PEGY comes second, NFLX third and AAp last.
    assert not neighbour(pages["VTAK"], "previous-anomaly")
    assert neighbour(pages["VTAK"], "next-anomaly") == "PEGY"
    assert neighbour(pages["PEGY"], "previous-anomaly") == "VTAK"
    assert neighbour(pages["PEGY"], "next-anomaly") == "NFLX"
    assert neighbour(pages["AAp"], "previous-anomaly") == "SOpC"
    assert not neighbour(pages["AAp"], "next-anomaly")
    # AAPL was no anomaly that day.
    assert "AAPL" in pages["AAPL"].find(id="detail")[0].find("h2")[0].text


def local_files(page):
    """The addresses of all that a page loads."""
    links = [link["href"] for link in page.find("link", href=True)]
    images = [image["src"] for image in page.find("img", src=True)]
    return links + images + [script["src"] for script in page.find("script", src=True)]


@pytest.mark.parametrize("address", ["/", f"/chart?ticker=VTAK&date={LAST_DAY}"])
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
    client = gui.create_app(odd_table, no_bars_wanted).test_client()
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
        (f"/api/history?date={LAST_DAY}", 400),
        ("/api/history?ticker=VTAK", 400),
        (f"/api/history?ticker=vtak&date={LAST_DAY}", 404),
        (f"/api/history?ticker=NOSUCH&date={LAST_DAY}", 404),
        (f"/api/history?ticker=SWN&date={LAST_DAY}", 404),
        ("/api/history?ticker=VTAK&date=2024-10-19", 404),
        *(
            (f"/api/history?ticker=VTAK&date={LAST_DAY}&sessions={sessions}", 400)
            for sessions in ["0", "261", "-1", "1.5", "x", "1e2", "9" * 50, "%C2%B2"]
        ),
        (f"/api/bars?date={LAST_DAY}", 400),
        ("/api/bars?ticker=VTAK", 400),
        ("/api/bars?ticker=VTAK&date=today", 400),
        (f"/api/bars?ticker=NOSUCH&date={LAST_DAY}", 404),
        (f"/api/bars?ticker=SWN&date={LAST_DAY}", 404),
        (f"/api/bars?ticker=../VTAK&date={LAST_DAY}", 404),
        ("/api/bars?ticker=VTAK&date=2024-10-19", 404),
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
        ("/?date=2024-10-19", {404}),
        ("/?ticker=NOSUCH", {200, 404}),
        ("/chart", {400}),
        ("/chart?ticker=VTAK", {400}),
        (f"/chart?ticker=NOSUCH&date={LAST_DAY}", {404}),
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
    response = client.open(path, method=method, data={"date": LAST_DAY})
    assert response.status_code in ({404, 405} if path == "/api/nothing" else {405})
    if path.startswith("/api"):
        sentence(response, response.status_code)


@pytest.mark.parametrize("host", ["localhost:8888", "127.0.0.1:8888", "127.0.0.1", "[::1]:8888"])
def test_this_servers_names_are_answered(client, host):
    assert client.get("/api/days", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/api/days", f"/chart?ticker=VTAK&date={LAST_DAY}"])
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
    (f"/chart?ticker=VTAK&date={LAST_DAY}", 200),
    ("/api/days", 200),
    (f"/api/history?ticker=VTAK&date={LAST_DAY}", 200),
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
    client = gui.create_app(sample_table, no_bars_wanted).test_client()
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
    assert (answer["ticker"], answer["date"]) == ("VTAK", LAST_DAY)
    names = {"timestamp": "t", "open": "o", "high": "h", "low": "l", "close": "c"}
    names.update(volume="v", vwap="vw", transactions="n")
    sent = polygon.bars_of("VTAK", LAST_DAY)
    assert len(sent) > 700
    assert answer["bars"] == [{name: bar[names[name]] for name in names} for bar in sent]


def test_polygon_is_asked_for_unadjusted_minutes_of_that_day(bars_client, polygon):
    bars_client.get(VTAK)
    (request,) = polygon.requests
    assert request.path == f"/v2/aggs/ticker/VTAK/range/1/minute/{LAST_DAY}/{LAST_DAY}"
    assert request.query["adjusted"] == "false"
    assert request.query["limit"] == "50000"
    assert request.headers["Authorization"] == f"Bearer {KEY}"


def test_all_pages_of_bars_are_read(bars_client, polygon):
    polygon.page_size = 100
    bars = loads(bars_client.get(VTAK))["bars"]
    sent = polygon.bars_of("VTAK", LAST_DAY)
    assert [bar["timestamp"] for bar in bars] == [bar["t"] for bar in sent]
    assert len(polygon.requests) == -(-len(sent) // 100)
    assert {request.headers["Authorization"] for request in polygon.requests} == {f"Bearer {KEY}"}


def test_a_full_day_has_960_bars(bars_client, polygon):
    start = new_york_time(LAST_DAY, 4 * 60)
    bar = {"o": 1, "h": 1.5, "l": 0.5, "c": 1, "v": 10, "vw": 1, "n": 2}
    polygon.bars["VTAK", LAST_DAY] = [{"t": start + i * 60_000, **bar} for i in range(960)]
    bars = loads(bars_client.get(VTAK))["bars"]
    assert [bar["timestamp"] for bar in bars] == [start + i * 60_000 for i in range(960)]


def test_a_past_days_bars_are_fetched_once(bars_client, polygon):
    first, second = bars_client.get(VTAK), bars_client.get(VTAK)
    assert loads(first) == loads(second)
    assert len(polygon.requests) == 1


def test_a_day_that_is_not_over_is_fetched_again(tmp_path, polygon):
    today = datetime.datetime.now(datetime.timezone.utc).date()
    tomorrow = (today + datetime.timedelta(1)).isoformat()
    stats = {"trades": 1, "close_price": 1.0, "price_diff": nan}
    stats.update(avg_trades=None, std_trades=None)
    table = tmp_path / "table.pkl"
    table.write_bytes(pickle.dumps({"VTAK": {tomorrow: stats}}))
    polygon.answer = with_bars(
        {"t": new_york_time(tomorrow, 600), "o": 1, "h": 1, "l": 1, "c": 1, "v": 1, "n": 1, "vw": 1}
    )
    client = gui.create_app(table, gui.polygon_bars(polygon.url)).test_client()
    for _ in range(2):
        assert client.get(f"/api/bars?ticker=VTAK&date={tomorrow}").status_code == 200
    assert len(polygon.requests) == 2


def test_the_cache_is_bounded(sample_table):
    calls = []

    def fetch_minute_bars(ticker, date):
        calls.append((ticker, date))
        return [{"timestamp": 0, "open": 1, "high": 1, "low": 1, "close": 1, "volume": 1}]

    client = gui.create_app(sample_table, fetch_minute_bars).test_client()
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

    app = gui.create_app(sample_table, fetch_minute_bars)
    slow = f"/api/bars?ticker=AAPL&date={LAST_DAY}"
    threads, results = in_threads(1, lambda: app.test_client().get(slow))
    assert app.test_client().get(VTAK).status_code == 200
    assert not results
    release.set()
    threads[0].join(10)
    assert results[0].status_code == 200


@pytest.mark.parametrize("ticker", ODD_TICKERS)
def test_an_odd_ticker_is_one_part_of_polygons_path(odd_table, polygon, ticker):
    polygon.answer = EMPTY["no results"]
    client = gui.create_app(odd_table, gui.polygon_bars(polygon.url)).test_client()
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
        f"ticker=NOSUCH&date={LAST_DAY}",
        f"ticker=SWN&date={LAST_DAY}",
        "ticker=VTAK&date=2024-10-19",
        f"ticker=vtak&date={LAST_DAY}",
        f"ticker=VTAK%2F..&date={LAST_DAY}",
        f"ticker=VTAK&date={LAST_DAY}%2F..",
        f"ticker=&date={LAST_DAY}",
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
    bars_client.get(f"/api/bars?ticker=AAPL&date={LAST_DAY}")
    assert polygon.requests[-1].headers["Authorization"] == "Bearer another key"


@pytest.mark.parametrize("key", [None, ""])
def test_without_a_key_the_answer_says_how_to_set_one(bars_client, polygon, monkeypatch, key):
    monkeypatch.delenv("POLYGON_API_KEY")
    for name in KEYS if key is not None else []:
        monkeypatch.setenv(name, key)
    assert "POLYGON_API_KEY" in sentence(bars_client.get(VTAK), 503)
    assert not polygon.requests
    for address in ("/", f"/chart?ticker=VTAK&date={LAST_DAY}", "/api/anomalies"):
        assert bars_client.get(address).status_code == 200


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY}\r\nX-More: 1", f"{KEY}\N{SNOWMAN}"])
def test_a_key_that_cannot_be_sent_is_told(bars_client, polygon, monkeypatch, key):
    monkeypatch.setenv("POLYGON_API_KEY", key)
    assert KEY not in sentence(bars_client.get(VTAK), 502)
    assert not polygon.requests


REFUSED = [(name, answer, 502) for name, answer in REFUSALS.items()]
REFUSED += [("rate limit", RATE_LIMIT, 429), ("drop", DROP, 502)]
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
        if name in (
            "unknown key",
            "not entitled",
            "timeframe",
            "today",
            "rate limit",
            "no results",
        ):
            polygon.answer = answer
            told[name] = sentence(bars_client.get(VTAK), status)
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
    fetch_minute_bars = gui.polygon_bars(f"http://127.0.0.1:{free_port()}")
    client = gui.create_app(sample_table, fetch_minute_bars).test_client()
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
    addresses = ["/", f"/chart?ticker=VTAK&date={LAST_DAY}", "/api/days", "/nothing"]
    answers = [bars_client.get(address) for address in addresses]
    for polygon.answer in faults:
        answers.append(bars_client.get(VTAK))
    polygon.answer = None
    answers.append(bars_client.get(VTAK))
    for response in answers:
        assert KEY not in str(response.headers) + response.get_data(as_text=True)
    assert caplog.text
    assert KEY not in caplog.text
    assert KEY not in "".join(capfd.readouterr())


def test_the_polygon_client_is_imported_when_bars_are_first_asked_for(sample_table):
    program = f"""
import importlib, sys
sys.path.insert(0, {str(TOP)!r})
gui = importlib.import_module("gui-lookup-table")
app = gui.create_app({str(sample_table)!r}, gui.polygon_bars("http://127.0.0.1:9"))
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


# The table while the server runs.


def test_a_replaced_table_shows_with_the_next_request(sample_table, tiny_table, tmp_path):
    table = tmp_path / "table.pkl"
    table.write_bytes(sample_table.read_bytes())
    client = gui.create_app(table, no_bars_wanted).test_client()
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
    "wrong rows": lambda good: pickle.dumps({"VTAK": {LAST_DAY: {"trades": "many"}}}),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_bad_table_is_told_and_a_good_one_forgives_it(sample_table, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "table.pkl"
    good = sample_table.read_bytes()
    table.write_bytes(good)
    client = gui.create_app(table, no_bars_wanted).test_client()
    assert client.get("/").status_code == 200
    table.unlink()
    bad = BAD_TABLES[name](good)
    if bad is not None:
        table.write_bytes(bad)
    query = f"?ticker=VTAK&date={LAST_DAY}"
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


def test_the_tutorials_own_table_is_shown_too(tmp_path, sample_table):
    table = tmp_path / "table.pkl"
    table.write_bytes(pickle.dumps(pickle.loads(sample_table.read_bytes())))
    plain = gui.create_app(table, no_bars_wanted).test_client()
    ours = gui.create_app(sample_table, no_bars_wanted).test_client()
    for address in ["days", "anomalies", f"history?ticker=VTAK&date={LAST_DAY}"]:
        assert loads(plain.get(f"/api/{address}")) == loads(ours.get(f"/api/{address}"))
    assert list_rows(parse(plain.get("/"))) == list_rows(parse(ours.get("/")))


def test_a_table_is_read_by_one_thread_at_a_time(client, monkeypatch):
    # The querier limits the memory of the whole process while it unpickles.
    unpickle, inside, most = gui.querier.unpickle, [], []

    def watched(*args):
        inside.append(args)
        most.append(len(inside))
        time.sleep(0.002)
        inside.pop()
        return unpickle(*args)

    monkeypatch.setattr(gui.querier, "unpickle", watched)
    threads, results = in_threads(4, lambda: client.application.test_client().get("/").status_code)
    for thread in threads:
        thread.join(10)
    assert results == [200] * 4
    assert max(most) == 1


@pytest.fixture(scope="module")
def tiny_answers(tiny_table):
    """What each kind of page says of the sound table."""
    client = gui.create_app(tiny_table, no_bars_wanted).test_client()
    query = "?ticker=TINY&date=2024-01-12"
    addresses = ["/", "/chart" + query, "/api/days", "/api/anomalies", "/api/history" + query]
    return {address: client.get(address).get_data() for address in addresses}


@EXAMPLES
@given(data=st.data())
def test_damage_gives_the_right_answer_or_a_sentence(
    tiny_table, tiny_answers, tmp_path_factory, data
):
    good = bytearray(tiny_table.read_bytes())
    good[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    table = tmp_path_factory.getbasetemp() / "damaged.pkl"
    table.write_bytes(good)
    client = gui.create_app(table, no_bars_wanted).test_client()
    for address, answer in tiny_answers.items():
        response = client.get(address)
        assert response.status_code == 503 or response.get_data() == answer


TEXTS = st.text(max_size=20) | st.binary(max_size=8).map(lambda raw: raw.decode("latin-1"))
VALUES = st.one_of(
    TEXTS,
    st.sampled_from(["VTAK", "AAPL", LAST_DAY, "2024-09-02", "9999-12-31", "0000-00-00", "asc"]),
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
    client = gui.create_app(sample_table, lambda ticker, date: []).test_client()
    response = client.get(f"{path}?{urlencode(query, errors='surrogatepass')}")
    assert response.status_code in (200, 400, 404)


@EXAMPLES
@given(path=st.text(max_size=30), query=st.binary(max_size=40))
def test_no_address_is_too_much(sample_table, path, query):
    client = gui.create_app(sample_table, no_bars_wanted).test_client()
    address = "/" + quote(path.encode("utf-8", "surrogatepass"), safe="/%") + "?" + quote(query)
    assert client.get(address).status_code in (200, 400, 404, 308)


def test_a_short_soak_finds_nothing():
    soak = [
        sys.executable,
        str(TOP / "tests" / "soak_gui.py"),
        "--requests",
        "60",
        "--pause",
        "0.3",
    ]
    finished = subprocess.run(soak, stdout=subprocess.PIPE, timeout=100)
    assert finished.returncode == 0, finished.stdout.decode()


# The command.


GUI = "gui-lookup-table.py"


@contextlib.contextmanager
def started(*options):
    """The command as a process, which is ended if the test has not done so."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command(GUI, *options), env=environment(), **pipes)
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
    assert finished.stderr == run("query-lookup-table.py", LAST_DAY, "--table", table).stderr


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
    wanted = [f"/api/bars?ticker={ticker}&date={LAST_DAY}" for ticker in LARGE[:tickers]]
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
