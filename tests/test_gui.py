"""The GUI without a browser: its views, its JSON and its command."""

import contextlib
import csv
import http.client
import io
import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from math import inf, nan
from statistics import mean, stdev
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pytest
from fakes.polygon import read_days
from helpers import EFFORT
from helpers.flat_files import write_flat_files
from helpers.gui import environment, free_port, is_listening, replace_table, running_gui
from helpers.lists import is_shown, number, query_json
from helpers.markets import SAMPLE_DAY, SAMPLE_DAYS, SAMPLE_MARKET
from helpers.scripts import TOP, assert_refused, build_table, call, load_script, query, run
from hypothesis import given, settings
from hypothesis import strategies as st

gui = load_script("gui-lookup-table.py")

GUI = "gui-lookup-table.py"
OWN_SCRIPT = {"X-Lookup-Table-Page": "1"}  # the header that the page's own scripts send
EXAMPLES = settings(max_examples=100 * EFFORT, derandomize=EFFORT == 1)

# Ticker TINY, by hand: before 2024-01-12 it was traded 10, 20, 30, 40 and 50 times a day.
TINY_DAYS = ["2024-01-0" + day for day in "2345"] + ["2024-01-08", "2024-01-12", "2024-01-16"]
TINY_TRADES = [10, 20, 30, 40, 50, 1000, 90]
TINY_CLOSES = [1, 2, 0.5, 0.5, 0, 4, 5]
# The first five have a mean of 100 and a deviation of 20, so that the sixth's z-score is 3.
AT_THE_THRESHOLD = [80, 80, 100, 120, 120, 160, 90]
TIMES = "\N{MULTIPLICATION SIGN}"
WITHOUT_END = ["area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"]
ODD_TICKERS = ["A/../B", "../../v3/reference", "..", ".", "X?y#z", "A%2FB", "A&B=C", "A+B C", "NA"]
ODD_TICKERS += ["<script>alert(1)</script>", "'\"><img src=x onerror=alert(1)>", "{{ 7 * 7 }}"]
ODD_TICKERS += ["\N{SNOWMAN}", "\\N"]


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


def views_of(table_path, **options):
    """What read_day_view and read_ticker_view return for these Options."""
    options = gui.Options(**options)
    with gui.open_table(table_path) as table:
        day = gui.read_day_view(table, options)
        return day, gui.read_ticker_view(table, options, day)


# Tables, and clients of apps that show them.


class NoPolygon:
    """A stand-in for Polygon's bars and headlines, of which there are none."""

    def minute_bars(self, *asked):
        return []

    headlines = minute_bars


def client_of(table_path, **options):
    """A client of an app that shows the table."""
    return gui.create_app(table_path, NoPolygon(), **options).test_client()


@pytest.fixture(scope="module")
def client(sample_table):
    return client_of(sample_table)


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


@pytest.fixture(scope="module")
def tiny_client(tiny_table):
    return client_of(tiny_table)


@pytest.fixture(scope="module")
def odd_table(tmp_path_factory):
    """Each of ODD_TICKERS, and an anomaly on 2024-01-12."""
    folder = tmp_path_factory.mktemp("odd")
    days = zip(TINY_DAYS[:6], TINY_TRADES)
    market = {day: [(ticker, trades, 1) for ticker in ODD_TICKERS] for day, trades in days}
    return build_table(write_flat_files(folder / "csv", market), folder / "lookup_table.pkl")


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


@pytest.mark.parametrize("ticker", ["VTAK", "SARO", "SWN", "SOpC"])
@pytest.mark.parametrize("rows", [1, 2, 7, 40, 56, 260])
def test_a_history_has_so_many_successive_days_of_the_ticker(client, ticker, rows):
    days = [day for name, day in read_days(SAMPLE_MARKET) if name == ticker]
    for date in {days[0], days[1], days[len(days) // 2], days[-2], days[-1]}:
        address = f"/api/history?ticker={ticker}&date={date}&rows={rows}"
        answer = loads(client.get(address))
        shown = [row["date"] for row in answer["rows"]]
        assert (answer["ticker"], answer["date"]) == (ticker, date)
        assert date in shown
        assert len(shown) == min(rows, len(days))
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


@pytest.mark.parametrize("ticker", ODD_TICKERS)
def test_an_odd_ticker_is_shown_as_it_is(odd_table, ticker):
    client = client_of(odd_table)
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


@pytest.fixture(scope="module")
def class_table(tmp_path_factory):
    """BRK.B, which is an anomaly on the last of TINY_DAYS[:6], and REST, which is none."""
    folder = tmp_path_factory.mktemp("classes")
    market = {
        day: [("BRK.B", TINY_TRADES[i], 1), ("BF.B", 7, 1)] for i, day in enumerate(TINY_DAYS[:6])
    }
    return build_table(write_flat_files(folder / "csv", market), folder / "lookup_table.pkl")


@pytest.mark.parametrize("text", ["BRK-B", "BRK/B", "brk.b", "brk-b"])
def test_a_ticker_written_another_way_is_found(class_table, text):
    client = client_of(class_table)
    listed = parse(client.get("/?" + urlencode({"filter": text})))
    assert [row["ticker"] for row in list_rows(listed)] == ["BRK.B"]
    address = urlencode({"ticker": text, "date": "2024-01-12"})
    assert "it has BRK.B" in parse(client.get(f"/chart?{address}")).text
    message = parse(client.get(f"/?{address}")).find(id="detail")[0]
    assert f"no trades of {text} on 2024-01-12; it has BRK.B" in message.text
    (link,) = message.find("a")
    assert parse(client.get(link["href"])).find("h2")[0].text == "BRK.B"


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
    day, _ = views_of(sample_table, date=date, ticker=ticker)
    assert day["ticker_row"]["marks"] == marks
    listed = {row["ticker"]: row["marks"] for row in day["rows"]}
    assert listed.get(ticker, []) == marks


def test_a_day_has_its_share_of_anomalies_and_the_usual_one(client, sample_table):
    # 18 anomalies among 148 tickers are 12.16 %; the querier's wide list has the usual share.
    share = "12.2 % of 148 tickers have a z-score above 3; usually 2.8 %"
    assert parse(client.get("/")).find("p", class_="share")[0].text == share
    wide = query(sample_table, SAMPLE_DAY, "--format", "wide")
    assert "(12.2 %) are anomalies; the usual is 2.8 %;" in wide.stdout


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
    client = client_of(moving_table)
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
    assert [detail["previous_anomaly"], detail["next_anomaly"]] == expected


def test_a_ticker_leads_to_its_previous_and_next_day(spiky_table):
    def around(index):
        _, detail = views_of(spiky_table, date=SAMPLE_DAYS[index], ticker="REST")
        return detail["previous_day"], detail["next_day"]

    assert around(0) == (None, SAMPLE_DAYS[1])
    assert around(7) == (SAMPLE_DAYS[6], SAMPLE_DAYS[9])
    assert around(12) == (SAMPLE_DAYS[11], None)


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


def test_a_whole_history_can_be_asked_for(client):
    rows = loads(client.get("/api/history?ticker=AAPL&date=2024-08-20&rows=all"))["rows"]
    assert [row["date"] for row in rows] == SAMPLE_DAYS


OPTIONS = [
    ("", []),
    ("&sort=gap", ["--sort=gap"]),
    ("&threshold=10", ["--threshold=10"]),
    ("&min_price=0.5&sort=z_score", ["--min-price=0.5", "--sort=z_score"]),
    ("&min_trades=4226", ["--min-trades=4226"]),
    ("&min_record=23", ["--min-record=23"]),
    ("&skip=split&skip=thin&skip=", ["--skip=split,thin"]),
    ("&min_price=2&min_trades=500&skip=test", ["--min-price=2", "--min-trades=500", "--skip=test"]),
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


# What is refused.


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/api/anomalies?date=2024-10-19", 404),
        *(
            (f"/api/anomalies?date={quote(date)}", 400)
            for date in ("2024-02-30", "18.10.2024", "2024-10-18\0", "\u0662024-10-18", "../passwd")
        ),
        *((f"/api/anomalies?threshold={z}", 400) for z in ("three", "nan", "inf", "1e999")),
        *(
            (f"/api/history?ticker=VTAK&date={SAMPLE_DAY}&rows={rows}", 400)
            for rows in ["0", "261", "-1", "1.5", "x", "1e2", "9" * 50, "%C2%B2"]
        ),
        *(
            (f"/api/{name}?{parameters}", status)
            for name in ("history", "after", "bars", "headlines")
            for parameters, status in [
                (f"date={SAMPLE_DAY}", 400),
                ("ticker=VTAK", 400),
                ("ticker=VTAK&date=today", 400),
                ("ticker=VTAK&date=2024-10-19", 404),
                (f"ticker=NOSUCH&date={SAMPLE_DAY}", 404),
                (f"ticker=SWN&date={SAMPLE_DAY}", 404),  # it has other days
            ]
        ),
        ("/api/nothing", 404),
        ("/api/days/", 404),
    ],
)
def test_a_wrong_request_gets_a_sentence(client, address, status):
    sentence(client.get(address, headers=OWN_SCRIPT), status)


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
    client = client_of(sample_table)
    for name in ("lookup_table.pkl", "README.md", "gui-lookup-table.py", ".git/config"):
        for prefix in ("", "static/", "static/../", "static/../../", "static/..%2f..%2f"):
            for more in ("", "templates/", quote(f"{TOP}/", safe=""), "%2e%2e/", "..%5c"):
                address = f"/{prefix}{more}{name}"
                assert client.get(address, follow_redirects=True).status_code == 404, address
    assert client.get("/static/").status_code == 404


# Requests that another site makes.

BARS = f"/api/bars?ticker=VTAK&date={SAMPLE_DAY}"


@pytest.mark.parametrize("address", [BARS, BARS.replace("bars", "headlines")])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (OWN_SCRIPT, 200),  # by plain http in the local network, browsers send nothing more
        ({**OWN_SCRIPT, "Sec-Fetch-Site": "same-origin"}, 200),
        ({}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 403),
        ({**OWN_SCRIPT, "Sec-Fetch-Site": "cross-site"}, 403),
        ({**OWN_SCRIPT, "Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_only_the_pages_own_scripts_may_spend_the_key(client, address, headers, status):
    assert client.get(address, headers=headers).status_code == status


@pytest.mark.parametrize("address", ["/api/days", AFTER.format("VTAK", SAMPLE_DAY)])
@pytest.mark.parametrize(
    ("site", "status"),
    [("same-origin", 200), ("none", 200), ("cross-site", 403), ("same-site", 403), ("", 403)],
)
def test_another_site_may_not_use_the_api(client, address, site, status):
    assert client.get(address, headers={"Sec-Fetch-Site": site}).status_code == status


@pytest.mark.parametrize("path", ["/", f"/chart?ticker=VTAK&date={SAMPLE_DAY}"])
@pytest.mark.parametrize(
    ("site", "is_told"),
    [("cross-site", True), ("same-site", True), ("same-origin", False), ("none", False)],
)
def test_a_view_that_another_site_opened_is_told_so(client, path, site, is_told):
    assert_told(client.get(path, headers={"Sec-Fetch-Site": site}), is_told)


@pytest.mark.parametrize(
    ("referer", "is_told"),
    [
        ({}, True),
        ({"Referer": "http://evil.example/"}, True),
        ({"Referer": "http://localhost.evil.example/"}, True),
        ({"Referer": "http://localhost/?date=2024-10-17"}, False),
    ],
)
def test_where_the_browser_does_not_say_who_opened_a_view_its_referer_must_be_here(
    client, referer, is_told
):
    assert_told(client.get("/?ticker=VTAK", headers=referer), is_told)


def assert_told(response, is_told):
    assert response.status_code == 200
    body = parse(response).find("body")[0]
    assert ("data-opened-by-other-site" in body.attributes) is is_told


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 200) for host in ("localhost:8888", "LOCALHOST", "127.0.0.1:8888", "[::1]:8888")),
        ("my-computer.local:8888", 200),  # allowed by name
        *((host, 400) for host in ("evil.example", "evil.example:8888", "evil.my-computer.local")),
        *((host, 400) for host in ("localhost.evil.example", "localhost@evil.example", "local")),
        *((host, 400) for host in ("127.0.0.1.evil.example", "evil.example#localhost", "a b", "[")),
        *((host, 400) for host in ("192.0.2.1", "[::2]", "[evil.example]")),
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/days", "/static/style.css", "/nothing"])
def test_only_the_servers_own_names_are_answered(sample_table, path, host, status):
    client = client_of(sample_table, hosts={*gui.LOOPBACK, "my-computer.local"})
    response = client.get(path, headers={"Host": host})
    assert (response.status_code == 400) is (status == 400)
    if status == 400:
        text = response.get_data(as_text=True)
        assert "--allow-host" in text and SAMPLE_DAY not in text


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "[::]"])
@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 200) for host in ("192.0.2.1:8888", "[2001:db8::1]:8888", "localhost")),
        *((host, 400) for host in ("evil.example", "192.0.2.1.evil.example", "[evil.example]")),
    ],
)
def test_on_all_addresses_any_ip_address_is_answered(sample_table, wildcard, host, status):
    client = client_of(sample_table, hosts={*gui.LOOPBACK, wildcard})
    assert client.get("/api/days", headers={"Host": host}).status_code == status


# The table's version, by which an open view notices a new table.


def test_the_version_changes_with_the_table(sample_table, tiny_table, tmp_path):
    table = tmp_path / "table.pkl"
    table.write_bytes(sample_table.read_bytes())
    client = client_of(table)

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


# The table while the server runs.


def test_the_next_request_is_answered_from_a_replaced_table(sample_table, tiny_table, tmp_path):
    table = tmp_path / "table.pkl"
    table.write_bytes(sample_table.read_bytes())
    client = client_of(table)
    addresses = ["/api/days", "/api/anomalies", "/", "/api/history?ticker=VTAK&date=2024-10-18"]
    before = [client.get(address).status_code for address in addresses]
    assert before == [200, 200, 200, 200]
    replace_table(table, tiny_table)
    assert loads(client.get("/api/days"))["days"] == TINY_DAYS
    assert loads(client.get("/api/anomalies"))["date"] == TINY_DAYS[-1]
    assert parse(client.get("/")).find("h1")[0].text == f"Tuesday, {TINY_DAYS[-1]}"
    assert client.get(addresses[3]).status_code == 404
    assert client.get("/api/history?ticker=TINY&date=2024-01-12").status_code == 200


@pytest.mark.parametrize("content", [None, b"", b"ticker,volume\n", pickle.dumps({"A": {}})])
def test_without_a_good_table_the_command_that_makes_one_is_named(sample_table, tmp_path, content):
    table = tmp_path / "table.pkl"
    client = client_of(table)
    if content is not None:
        table.write_bytes(content)
    assert "build-lookup-table.py" in sentence(client.get("/api/days"), 503)
    view = client.get("/")
    assert view.status_code == 503
    assert "build-lookup-table.py" in parse(view).find("p", class_="message")[0].text
    assert_refused(call_gui("--table", table, "--port", 0), table, "build-lookup-table.py")
    replace_table(table, sample_table)
    assert client.get("/").status_code == 200


def test_the_longest_lists_at_the_same_time_fit_into_memory(tmp_path):
    market = {
        day: [(f"T{i}", i % 97 + 3 * at, 1) for i in range(11_000)]
        for at, day in enumerate(SAMPLE_DAYS[:8])
    }
    table = build_table(write_flat_files(tmp_path / "csv", market), tmp_path / "lookup_table.pkl")
    parameters = f"?date={SAMPLE_DAYS[6]}&ticker=T1&threshold=-1e9"
    routes = ["/", "/anomalies.csv", "/api/anomalies", "/api/after", "/chart"] * 3
    with running_gui(table, "http://127.0.0.1:9") as served, ThreadPoolExecutor(15) as visitors:
        answers = visitors.map(lambda route: served.get(route + parameters, 100), routes)
        sizes = dict(zip(routes, map(len, answers)))
        assert served.memory("VmHWM") <= 150
    # A row takes more than 400 bytes in the view, 60 in the csv file and 200 in JSON.
    assert min(sizes["/"] / 400, sizes["/anomalies.csv"] / 60, sizes["/api/anomalies"] / 200) > 11e3


# Any address, and any damage.


def statuses_of(client, addresses):
    """The statuses of all answers, each of which is well-formed."""
    statuses = set()
    for address in addresses:
        response = client.get(address, headers=OWN_SCRIPT)
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


def without_version(response):
    """The response's bytes without the file's version, which differs each time it is written."""
    return re.sub(rb'data-table-version="[^"]*"', b"", response.get_data())


@pytest.fixture(scope="module")
def tiny_answers(tiny_table):
    """What the GUI answers about the undamaged table, by address."""
    client = client_of(tiny_table)
    parameters = "?ticker=TINY&date=2024-01-12"
    routes = ["/chart", "/api/history"]
    addresses = ["/", "/api/days", "/api/anomalies", *(route + parameters for route in routes)]
    return {address: without_version(client.get(address)) for address in addresses}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """The path of a table that tests write, and a client of an app that shows it."""
    path = tmp_path_factory.mktemp("damaged") / "table.pkl"
    return path, client_of(path)


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
WORDS = "VTAK 2024-10-18 2024-09-02 9999-12-31 0000-00-00 asc 3 -0 1e308 1_0 nan 0x10 z_score all"
NUMBERS = st.integers().map(str) | st.floats().map(str) | st.dates().map(str)
VALUES = TEXTS | st.sampled_from(WORDS.split()) | NUMBERS
NAMES = st.sampled_from(["date", "threshold", "sort", "order", "filter", "ticker", "rows", "a[]"])
PATHS = st.sampled_from(
    ["/", "/chart", "/api/days", "/api/anomalies", "/api/history", "/api/bars", "/static/"]
)


@EXAMPLES
@given(path=PATHS, parameters=st.lists(st.tuples(NAMES, VALUES), max_size=6))
def test_no_parameters_make_the_server_fail(client, path, parameters):
    address = f"{path}?{urlencode(parameters, errors='surrogatepass')}"
    assert statuses_of(client, [address]) <= {200, 400, 404}


# The command.


def call_gui(*options):
    """The command within this process, for a command that ends at once."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        return call(gui, *options)
    finally:
        signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def gui_process(*options, script=TOP / GUI):
    """The script as a process, and the line with its URL. It is ended here at the latest."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    line = [sys.executable, str(script), *map(str, options)]
    with subprocess.Popen(line, env=environment(), **pipes) as process:
        try:
            yield process, process.stdout.readline()
        finally:
            process.kill()


def get_days(url):
    with urllib.request.urlopen(f"{url.strip()}/api/days", timeout=5) as response:
        return json.load(response)["days"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_prints_its_url_serves_there_and_ends_by_a_signal(sample_table, number, status):
    port = free_port()
    with gui_process("--table", sample_table, "--port", port) as (process, url):
        assert url == f"http://localhost:{port}\n"
        assert get_days(url) == SAMPLE_DAYS
        process.send_signal(number)
        assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == status


def test_a_host_name_is_answered_when_it_is_allowed(sample_table):
    options = ["--table", sample_table, "--port", 0, "--allow-host", "Box", "--allow-host", "b.lan"]
    with gui_process(*options) as (_, url):
        for host, status in [("box", 200), ("b.lan:80", 200), ("localhost", 200), ("c.lan", 400)]:
            connection = http.client.HTTPConnection(urlsplit(url.strip()).netloc, timeout=10)
            connection.request("GET", "/api/days", headers={"Host": host})
            assert connection.getresponse().status == status
            connection.close()


def test_it_runs_through_a_symbolic_link(sample_table, tmp_path):
    link = tmp_path / GUI
    link.symlink_to(TOP / GUI)
    with gui_process("--table", sample_table, "--port", 0, script=link) as (_, url):
        for path in ("/", "/static/style.css"):
            assert urllib.request.urlopen(url.strip() + path, timeout=10).status == 200


@pytest.mark.parametrize("missing", ["query-lookup-table.py", "build-lookup-table.py", "templates"])
def test_a_copy_without_a_file_that_it_needs_says_so_in_one_line(tmp_path, missing):
    for name in {"query-lookup-table.py", "build-lookup-table.py", "templates"} - {missing}:
        (tmp_path / name).mkdir() if name == "templates" else shutil.copy(TOP / name, tmp_path)
    script = shutil.copy(TOP / GUI, tmp_path)
    finished = subprocess.run([sys.executable, script], capture_output=True, encoding="utf-8")
    assert_refused(finished, tmp_path / missing)


@pytest.mark.parametrize("name", ["flask", "werkzeug", "waitress"])
@pytest.mark.parametrize(
    ("error", "parts"),
    [
        ("ModuleNotFoundError('no', name={!r})", ["pip install -r requirements.txt"]),
        ("ImportError('libx.so.0:\\ncannot open', name={!r})", ["libx.so.0: cannot open"]),
    ],
)
def test_a_package_that_is_missing_or_broken_is_one_line(tmp_path, name, error, parts):
    (tmp_path / f"{name}.py").write_text(f"raise {error.format(name)}")
    finished = run(GUI, env={**environment(), "PYTHONPATH": str(tmp_path)})
    assert_refused(finished, name, *parts)
    assert ("pip" in finished.stderr) is ("ModuleNotFoundError" in error)


def test_it_listens_on_loopback_only(sample_table):
    with gui_process("--table", sample_table, "--port", 0) as (_, url):
        assert get_days(url) == SAMPLE_DAYS
        # 127.0.0.2 is this machine too: a server that listens on every address answers there.
        assert not is_listening(int(url.rpartition(":")[2]), "127.0.0.2")


def test_a_port_in_use_is_one_line(sample_table):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        finished = call_gui("--table", sample_table, "--port", port)
    assert_refused(finished, f"cannot listen on 127.0.0.1, port {port}: Address already in use")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--port", "x"], "'x' is not a whole number from 0 to 65535"),
        (["--port", "99999"], "'99999' is not a whole number from 0 to 65535"),
        (["--no-such"], "unrecognized arguments: --no-such"),
        (["--host="], "--host is empty: name an address"),
        *(
            (["--allow-host", name], f"{name!r} is no host name such as my-computer.local")
            for name in ["", "*", ".example.com", "a b", "box:8888", "http://box"]
        ),
        *(
            (["--api-url", url], f"{url!r} is no address such as {gui.API_URL}")
            for url in ["", "x", "http://", "ftp://127.0.0.1", "http://a b", "http://x@y"]
        ),
    ],
)
def test_a_wrong_command_ends_with_status_2(sample_table, options, reason):
    finished = call_gui("--table", sample_table, *options)
    assert finished.returncode == 2
    assert reason in finished.stderr


@pytest.mark.parametrize("host", [b"\xff", b"a" * 300, b"no such host", b"192.0.2.1", b"::g", b"."])
def test_an_impossible_host_is_one_line(sample_table, host):
    host = os.fsdecode(host)
    finished = call_gui("--table", sample_table, "--port", 0, "--host", host)
    assert_refused(finished, f"cannot listen on {gui.querier.printable(host)}, port 0: ")
