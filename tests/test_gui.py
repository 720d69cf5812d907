"""The GUI without a browser: its views, its JSON and its command."""

import contextlib
import http.client
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
from math import inf, nan
from statistics import mean, stdev
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pytest
from fakes.polygon import read_days
from helpers import EFFORT
from helpers.flat_files import write_flat_files
from helpers.gui import environment, free_port, is_listening, replace_table, running_gui
from helpers.html import parse_html
from helpers.lists import is_shown, number, query_json
from helpers.markets import SAMPLE_DAY, SAMPLE_DAYS, SAMPLE_MARKET
from helpers.scripts import TOP, assert_refused, build_table, call, command, load_script, query, run
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
TIMES = "\N{MULTIPLICATION SIGN}"
ODD_TICKERS = ["A/../B", "../../v3/reference", "..", ".", "X?y#z", "A%2FB", "A&B=C", "A+B C", "NA"]
ODD_TICKERS += ["<script>alert(1)</script>", "'\"><img src=x onerror=alert(1)>", "{{ 7 * 7 }}"]
ODD_TICKERS += ["\N{SNOWMAN}", "\\N"]


# Reading answers.


def parse(response):
    assert response.mimetype == "text/html"
    return parse_html(response.get_data(as_text=True))


COLUMNS = ["ticker", "trades", "avg_trades", "std_trades", "z_score", "times_normal", "record"]
COLUMNS += ["close_price", "price_diff"]


def list_rows(view):
    """The list in a view: a dict of texts by column for each row."""
    (table,) = view.find("table", id="anomalies")
    columns = [header["data-sort"] for header in table.find("th", data_sort=True)]
    assert columns[: len(COLUMNS)] == COLUMNS
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


# Tables, and clients of apps that show them.


class NoPolygon:
    """A stand-in for Polygon's bars and headlines, of which there are none."""

    def answer(self, *asked):
        return []


def client_of(table_path, **options):
    """A client of an app that shows the table."""
    return gui.create_app(table_path, NoPolygon(), **options).test_client()


@pytest.fixture(scope="module")
def client(sample_table):
    return client_of(sample_table)


@pytest.fixture(scope="module")
def tiny_table(tmp_path_factory):
    """TINY, and FLAT with equal trades."""
    folder = tmp_path_factory.mktemp("tiny")
    market = {
        day: [("FLAT", 7, 1), ("TINY", trades, close)]
        for day, trades, close in zip(TINY_DAYS, TINY_TRADES, TINY_CLOSES)
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


def message_of(view):
    """The message in place of a list."""
    (message,) = view.find(id="list")[0].find("p", class_="message")
    return message


@pytest.mark.parametrize(
    ("parameters", "summary", "message"),
    [
        (f"date={SAMPLE_DAYS[0]}", "0 anomalies among 148", "No ticker has a baseline yet: that"),
        ("min_trades=999999999", "0 of 18 anomalies among 149", "No anomaly passes the filters."),
    ],
)
def test_an_empty_list_says_why(client, parameters, summary, message):
    view = parse(client.get(f"/?{parameters}"))
    assert list_rows(view) == []
    assert view.find(id="summary")[0].elements[1].text.startswith(f"{summary} tickers")
    assert message_of(view).text.startswith(message)


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


def test_a_rows_link_leads_to_the_tickers_figures(client):
    (row,) = parse(client.get("/?threshold=30&sort=ticker")).find("tr", data_ticker="VTAK")
    chosen = parse(client.get(row.find("a")[0]["href"]))
    (detail,) = chosen.find(id="detail")
    assert detail.find("h2")[0].text == "VTAK"
    # The README's first row: 460548 is 73.2 times 6291.40.
    words = f"460,548 trades, 73 {TIMES} the average of its five rows before (6,291)"
    assert detail.find("p", class_="words")[0].text.startswith(words)
    assert detail.find("p", class_="price")[0].text == "0.91 +106.49 %"
    selected = chosen.find("tr", aria_selected="true")
    assert [row["data-ticker"] for row in selected] == ["VTAK"]


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
    ("form", "texts"),
    [
        ("format_price", {0.0127: "0.0127", 0.01274999: "0.01275", 0.000034: "0.000034"}),
        ("format_price", {0.91: "0.91", 0.5: "0.50", 1: "1.00", 0.99999: "1.00", 0: "0.00"}),
        ("format_figure", {0.5477: "0.548", 0.55: "0.55", 12.36: "12.4", 2: "2", 0: "0"}),
        ("format_figure", {99.96: "100", 6291.4: "6,291"}),
        ("format_change", {1.5: "+1.50", -0.004: "0.00", 1234.5: "+1,234.50", -0.25: "-0.25"}),
        ("percent_text", dict.fromkeys([None, nan, inf, -inf], "\N{EM DASH}")),
    ],
)
def test_a_number_has_as_many_digits_as_people_need(form, texts):
    assert {value: getattr(gui, form)(value) for value in texts} == texts


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


@pytest.mark.parametrize(
    ("ticker", "edgar"),
    [("VTAK", "VTAK"), ("BRK.B", "BRK-B"), *((t, None) for t in ["SOpC", "AACT.WS"])],
)
def test_a_ticker_is_linked_where_its_spelling_on_the_other_site_is_known(client, ticker, edgar):
    view = parse(client.get("/?" + urlencode({"ticker": ticker, "date": SAMPLE_DAYS[40]})))
    links = [link["href"] for link in view.find("a", target="_blank") if link.text[0] in "ST"]
    company = "https://www.sec.gov/cgi-bin/browse-edgar?action=getcompany&CIK="
    chart = "https://www.tradingview.com/chart/?symbol="
    assert view.find("h2")[0].text == ticker
    assert links == ([f"{company}{edgar}", f"{chart}{ticker}"] if edgar else [])


def test_a_ticker_written_another_way_is_offered(client):
    assert "it has SOpC" in parse(client.get(f"/chart?ticker=sopc&date={SAMPLE_DAY}")).text
    message = parse(client.get("/?ticker=sopc")).find(id="detail")[0]
    assert f"no trades of sopc on {SAMPLE_DAY}; it has SOpC" in message.text
    (link,) = message.find("a")
    assert parse(client.get(link["href"])).find("h2")[0].text == "SOpC"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        *(("", None), ("AAp", "AAp"), ("AAP", "AAP"), ("SOPC", "SOpC"), ("vtak", "VTAK")),
        *(("VTA", None), ("brk-b", "BRK.B")),
        ("aap", "AAP"),  # both are spelled so: the upper-case one
        ("BaBa", None),  # neither of two is upper-case
    ],
)
def test_a_ticker_is_found_however_it_is_written(text, meant):
    tickers = ["AAP", "AAp", "SOpC", "VTAK", "BABa", "Baba", "BRK.B"]
    assert gui.find_ticker(tickers, text) == meant


# The facts.


AFTER = "/api/after?ticker={}&date={}"


def test_a_days_head_says_how_usual_it_is(client, sample_table):
    heading, *lines = parse(client.get("/")).find(id="summary")[0].elements
    assert heading.text == f"Friday, {SAMPLE_DAY}"
    # October 18 was the third Friday of the month.
    assert lines[0].text == "18 anomalies among 149 tickers \N{MIDDLE DOT} options expire (monthly)"
    # 18 anomalies among the 148 tickers with a deviation are 12.16 %.
    shares = re.findall(r"[\d.]+ %", lines[1].text)
    assert shares[0] == "12.2 %"
    wide = query(sample_table, SAMPLE_DAY, "--format", "wide").stdout
    told = re.findall(r"\(([\d.]+ %)\) (?:are|have)|the usual is ([\d.]+ %)", wide)
    assert shares == ["".join(each) for each in told]
    earlier = parse(client.get("/?date=2024-09-12")).find(id="summary")[0]
    assert "expire" not in earlier.text


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
            "After 1 day +10.00 %, 5 days +50.00 %; the median ticker +50.00 %",
        ),
        (
            *("TWICE", 0, [0, 100, None], ["known", "known", "unknown"], [False, True, False]),
            "After 1 day 0.00 %, 5 days +100.00 % (split?); the median ticker +50.00 %",
        ),
        (
            *("GONE", 0, [None] * 3, ["gone", "gone", "unknown"], [False] * 3),
            "After 1 day no trades, 5 days no trades; the median ticker +50.00 %",
        ),
        ("ZERO", 0, [None] * 3, ["none", "none", "unknown"], [False] * 3, "the close was 0."),
        (
            *("UP", 6, [6.25, None, None], ["known", "unknown", "unknown"], [False] * 3),
            "After 1 day +6.25 %; the median ticker 0.00 %",
        ),
        ("UP", 7, [None] * 3, ["unknown"] * 3, [False] * 3, "the table ends with this day."),
    ],
)
def test_what_came_after_is_as_worked_out_by_hand(
    moving_table, ticker, session, changes, states, splits, words
):
    date = SAMPLE_DAYS[session]
    answer = loads(client_of(moving_table).get(AFTER.format(ticker, date)))
    assert list(answer) == ["ticker", "date", "horizons", "html"]
    assert (answer["ticker"], answer["date"]) == (ticker, date)
    html = parse_html(answer["html"])
    assert html.text.endswith(words)
    assert all(b["class"] == ("" if b.text[0] == "0" else "up") for b in html.find("b"))
    # UP, SAME and TWICE: 10, 0 and 0 after a day, 50, 0 and 100 after five. On the seventh day
    # UP's 6.25 stands beside three 0s.
    medians = {0: [0, 50, None], 6: [0, None, None], 7: [None] * 3}[session]
    expected = {"days": [1, 5, 20], "change": changes, "state": states, "split": splits}
    for name, values in {**expected, "median": medians}.items():
        found = [horizon[name] for horizon in answer["horizons"]]
        assert [v if v is None or name == "state" else pytest.approx(v) for v in values] == found


# What the lists of tickers and splits add.


@pytest.fixture(scope="module")
def listed_table(tmp_path_factory):
    """The sample market with lists: types and names of three anomalies, and a split of VTAK."""
    folder = shutil.copytree(SAMPLE_MARKET, tmp_path_factory.mktemp("listed") / "csv")
    (folder / "reference").mkdir()
    tickers = ["ticker,name,type", "VTAK,Catheter <Precision>,CS", "NFLX,Netflix,CS"]
    tickers += ["SOpC,Southern,PFD", "AACI,Armada,ADRC"]
    (folder / "reference/tickers.csv").write_text("\n".join(tickers))
    splits = f"ticker,execution_date,split_from,split_to\nVTAK,{SAMPLE_DAY},20,1"
    (folder / "reference/splits.csv").write_text(splits)
    return build_table(folder, folder / "lookup_table.pkl")


def test_a_ticker_has_its_name_type_and_listed_split(listed_table):
    client = client_of(listed_table)
    first, *others = loads(client.get("/api/anomalies"))["anomalies"]
    assert (first["name"], first["type"]) == ("Catheter <Precision>", "CS")
    assert first["marks"] == ["split 1:20"]
    assert {row["ticker"] for row in others if row["type"]} == {"NFLX", "SOpC"}
    (detail,) = parse(client.get("/?ticker=VTAK")).find(id="detail")
    assert detail.find("h2")[0].text == "VTAK"
    assert detail.find("p", class_="company")[0].text == "Catheter <Precision> CS"
    assert "1:20 makes one share of 20" in detail.find("li", class_="mark")[0].text
    assert not parse(client.get("/?ticker=PEGY")).find("p", class_="company")


def test_long_z_and_dollar_volume_are_columns_and_part_of_a_history(client, sample_table):
    (row, *_) = list_rows(parse(client.get("/?columns=long_z,dollar_volume")))
    (found, *_) = query_json(sample_table, SAMPLE_DAY)
    assert row["long_z"] == f"{found['long_z']:.2f}"
    assert row["dollar_volume"] == f"{found['dollar_volume']:,}"
    history = loads(client.get(f"/api/history?ticker=VTAK&date={SAMPLE_DAY}"))["rows"][-1]
    assert {name: history[name] for name in ("long_z", "dollar_volume")}.items() <= found.items()


# The list's options in a ticker's own view, and where that view leads.


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


OPTIONS = [
    ("", []),
    ("&sort=gap", ["--sort=gap"]),
    ("&threshold=10", ["--threshold=10"]),
    ("&min_price=0.5&sort=z_score", ["--min-price=0.5", "--sort=z_score"]),
    ("&min_trades=4226", ["--min-trades=4226"]),
    ("&min_record=23", ["--min-record=23"]),
    ("&skip=split&skip=thin&skip=", ["--skip=split,thin"]),
    ("&min_price=2&min_trades=500&skip=test", ["--min-price=2", "--min-trades=500", "--skip=test"]),
    ("&min_long_z=2.5&sort=long_z", ["--min-long-z=2.5", "--sort=long_z"]),
    ("&min_dollars=1e6&sort=dollar_volume", ["--min-dollars=1e6", "--sort=dollar_volume"]),
    ("&type=CS,ADRC", ["--type=CS,ADRC"]),
]


@pytest.mark.parametrize("date", ["2024-09-12", SAMPLE_DAY])
@pytest.mark.parametrize(("parameters", "options"), OPTIONS)
def test_the_csv_is_what_the_querier_writes(listed_table, date, parameters, options):
    client = client_of(listed_table)
    response = client.get(f"/anomalies.csv?date={date}{parameters}")
    written = query(listed_table, date, "--format", "csv", *options).stdout
    assert response.get_data(as_text=True) == written
    assert written.count("\n") > 1
    assert response.mimetype == "text/csv"
    disposition = f'attachment; filename="anomalies-{date}.csv"'
    assert response.headers["Content-Disposition"] == disposition
    listed = [row["ticker"] for row in list_rows(parse(client.get(f"/?date={date}{parameters}")))]
    assert listed == [line.partition(",")[0] for line in written.splitlines()[1:]]


# What is refused.


@pytest.mark.parametrize(
    ("path", "status", "ends"),
    [
        ("/api/anomalies?date=", 400, ["2024-02-30", "18.10.2024", "2024-10-18%00", "../passwd"]),
        ("/api/anomalies?date=", 404, ["2024-10-19"]),
        ("/api/anomalies?threshold=", 400, ["three", "nan", "inf", "1e999"]),
        *(
            (f"/api/{name}?ticker=", status, ends)
            for name in ("history", "after", "bars", "headlines")
            for status, ends in [
                (400, [f"&date={SAMPLE_DAY}", "VTAK", "VTAK&date=today"]),
                # SWN has other days.
                (404, ["VTAK&date=2024-10-19", *(f"{t}&date={SAMPLE_DAY}" for t in ("NO", "SWN"))]),
            ]
        ),
        (
            *(f"/api/history?ticker=VTAK&date={SAMPLE_DAY}&rows=", 400),
            ["0", "261", "-1", "1.5", "x", "1e2", "9" * 50, "%C2%B2"],
        ),
        ("/api/", 404, ["nothing", "days/"]),
    ],
)
def test_a_wrong_request_gets_a_sentence(client, path, status, ends):
    for end in ends:
        sentence(client.get(path + end, headers=OWN_SCRIPT), status)


@pytest.mark.parametrize(
    ("path", "status", "ends"),
    [
        ("/?", 400, ["date=tomorrow", "threshold=nan", "sort=volume", "order=up", "columns=z"]),
        ("/?min_price=", 400, ["x", "nan", "inf", "1e999"]),
        ("/?min_long_z=", 400, ["x", "nan", "inf"]),
        ("/?min_trades=", 400, ["x", "-1", "1.5", "1e3", "9" * 10]),
        ("/?skip=", 400, ["old", "new,,thin", "new,%00"]),
        ("/?date=", 404, ["2024-10-19"]),
        ("/chart", 400, ["", "?ticker=VTAK"]),
        ("/chart", 404, [f"?ticker=NOSUCH&date={SAMPLE_DAY}"]),
        ("/nothing", 404, [""]),
    ],
)
def test_a_wrong_address_gets_a_view_that_leads_on(client, path, status, ends):
    for end in ends:
        response = client.get(path + end)
        assert response.status_code == status
        targets = [link["href"] for link in parse(response).find("a") if link["href"]]
        assert client.get(targets[-1]).status_code == 200


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
    directives = response.headers["Content-Security-Policy"].split("; ")
    policy = {words[0]: " ".join(words[1:]) for words in map(str.split, directives)}
    assert policy == {
        **dict.fromkeys(["default-src", "script-src", "form-action"], "'self'"),
        **dict.fromkeys(["object-src", "base-uri", "frame-ancestors"], "'none'"),
        "style-src": "'self' 'unsafe-inline'",
    }
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert not [name for name, _ in response.headers if name.startswith("Access-Control-")]
    refused = client.post(address)
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("address", [address for address, _ in EVERY_KIND if "/api" not in address])
def test_no_view_has_inline_scripts(client, address):
    every = parse(client.get(address)).find()
    scripts = [element for element in every if element.tag == "script"]
    assert scripts and all(script["src"] and not script.text for script in scripts)
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


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (OWN_SCRIPT, 200),  # by plain http in the local network, browsers send nothing more
        ({}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 403),
        ({**OWN_SCRIPT, "Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_only_the_pages_own_scripts_may_spend_the_key(client, headers, status):
    for name in ("bars", "headlines"):
        address = f"/api/{name}?ticker=VTAK&date={SAMPLE_DAY}"
        assert client.get(address, headers=headers).status_code == status


@pytest.mark.parametrize(
    ("site", "is_other"),
    [("same-origin", False), ("none", False), ("cross-site", True), ("same-site", True)],
)
def test_another_site_may_open_a_view_but_not_use_the_api(client, site, is_other):
    headers = {"Sec-Fetch-Site": site}
    for address in ("/api/days", AFTER.format("VTAK", SAMPLE_DAY)):
        assert client.get(address, headers=headers).status_code == (403 if is_other else 200)
    for address in ("/", f"/chart?ticker=VTAK&date={SAMPLE_DAY}"):
        body = parse(client.get(address, headers=headers)).find("body")[0]
        assert ("data-opened-by-other-site" in body.attributes) is is_other


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
    body = parse(client.get("/?ticker=VTAK", headers=referer)).find("body")[0]
    assert ("data-opened-by-other-site" in body.attributes) is is_told


@pytest.mark.parametrize(
    ("more", "host", "status"),
    [
        *(("box.lan", host, 200) for host in ["localhost:8888", "LOCALHOST", "[::1]:8888"]),
        *(("box.lan", host, 200) for host in ["127.0.0.1:8888", "box.lan:8888"]),
        *(("box.lan", host, 400) for host in ["evil.example", "evil.box.lan", "local", "a b"]),
        *(("box.lan", host, 400) for host in ["localhost.evil.example", "localhost@evil.example"]),
        *(("box.lan", host, 400) for host in ["127.0.0.1.evil.example", "192.0.2.1", "[::2]"]),
        # A server that listens on all addresses is asked by any of them, but not by any name.
        *(("0.0.0.0", host, 200) for host in ["192.0.2.1:8888", "[2001:db8::1]:8888", "localhost"]),
        *(("[::]", host, 200) for host in ["192.0.2.1", "[2001:db8::1]"]),
        *(("0.0.0.0", host, 400) for host in ["evil.example", "192.0.2.1.evil.example"]),
    ],
)
def test_only_the_servers_own_names_are_answered(sample_table, more, host, status):
    client = client_of(sample_table, hosts={*gui.LOOPBACK, more})
    for path in ("/", "/api/days", "/static/style.css"):
        response = client.get(path, headers={"Host": host})
        assert response.status_code == status
        if status == 400:
            text = response.get_data(as_text=True)
            assert "--allow-host" in text and SAMPLE_DAY not in text


# A table that is replaced or bad while the server runs.


def test_the_next_request_is_answered_from_a_replaced_table(sample_table, tiny_table, tmp_path):
    table = tmp_path / "table.pkl"
    shutil.copy(sample_table, table)
    client = client_of(table)

    def version_of_view(address):
        return parse(client.get(address)).find("main")[0]["data-table-version"]

    before = loads(client.get("/api/table"))
    assert before == {"version": version_of_view("/"), "last": SAMPLE_DAY}
    assert version_of_view(f"/chart?ticker=VTAK&date={SAMPLE_DAY}") == before["version"]
    replace_table(table, tiny_table)
    after = loads(client.get("/api/table"))
    assert after == {"version": version_of_view("/"), "last": TINY_DAYS[-1]}
    assert after["version"] != before["version"]
    assert loads(client.get("/api/days"))["days"] == TINY_DAYS
    assert parse(client.get("/")).find("h1")[0].text == f"Tuesday, {TINY_DAYS[-1]}"
    assert client.get(f"/api/history?ticker=VTAK&date={SAMPLE_DAY}").status_code == 404


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
    response = client.get(address, headers=OWN_SCRIPT)
    assert response.status_code in (200, 400, 404)
    if not path.startswith("/api"):
        parse(response)
    elif response.status_code == 200:
        loads(response)
    else:
        sentence(response, response.status_code)


# The command.


def call_gui(*options):
    """The command within this process, for a command that ends at once."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        return call(gui, *options)
    finally:
        signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def gui_process(*options):
    """The script as a process, and the line with its URL. It is ended here at the latest."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    with subprocess.Popen(command(GUI, *options), env=environment(), **pipes) as process:
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
        # 127.0.0.2 is this machine too: a server that listens on every address answers there.
        assert not is_listening(port, "127.0.0.2")
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


@pytest.mark.parametrize("missing", ["query-lookup-table.py", "build-lookup-table.py", "templates"])
def test_a_copy_without_a_file_that_it_needs_says_so_in_one_line(tmp_path, missing):
    for name in {"query-lookup-table.py", "build-lookup-table.py", "templates"} - {missing}:
        (tmp_path / name).mkdir() if name == "templates" else shutil.copy(TOP / name, tmp_path)
    script = shutil.copy(TOP / GUI, tmp_path)
    finished = subprocess.run([sys.executable, script], capture_output=True, encoding="utf-8")
    assert_refused(finished, tmp_path / missing)


@pytest.mark.parametrize("name", ["flask", "werkzeug", "waitress"])
@pytest.mark.parametrize(
    ("error", "part"),
    [
        ("ModuleNotFoundError('no', name={!r})", "is missing: pip install -r requirements.txt"),
        ("ImportError('libx.so.0:\\ncannot open', name={!r})", "libx.so.0: cannot open"),
    ],
)
def test_a_package_that_is_missing_or_broken_is_one_line(tmp_path, name, error, part):
    (tmp_path / f"{name}.py").write_text(f"raise {error.format(name)}")
    finished = run(GUI, env={**environment(), "PYTHONPATH": str(tmp_path)})
    assert_refused(finished, name, part)


def test_a_port_in_use_is_one_line(sample_table):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        finished = call_gui("--table", sample_table, "--port", port)
    assert_refused(finished, f"cannot listen on 127.0.0.1, port {port}: Address already in use")


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--port", ["x", "99999"]),
        ("--no-such", ["x"]),
        ("--host", [""]),
        ("--allow-host", ["", "*", ".example.com", "a b", "box:8888", "http://box"]),
        ("--api-url", ["", "x", "http://", "ftp://127.0.0.1", "http://a b", "http://x@y"]),
    ],
)
def test_a_wrong_command_ends_with_status_2(sample_table, option, values):
    for value in values:
        finished = call_gui("--table", sample_table, f"{option}={value}")
        assert finished.returncode == 2
        assert option in finished.stderr.splitlines()[-1]


@pytest.mark.parametrize("host", [b"\xff", b"a" * 300, b"no such host", b"192.0.2.1", b"::g", b"."])
def test_an_impossible_host_is_one_line(sample_table, host):
    host = os.fsdecode(host)
    finished = call_gui("--table", sample_table, "--port", 0, "--host", host)
    assert_refused(finished, f"cannot listen on {gui.querier.printable(host)}, port 0: ")
