"""The GUI without a browser: its views, its JSON and its command."""

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
from concurrent.futures import ThreadPoolExecutor
from math import inf, nan
from types import SimpleNamespace
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pytest
from fakes.polygon import read_days
from helpers import EFFORT
from helpers.flat_files import write_flat_files
from helpers.gui import environment, running_gui
from helpers.html import parse_html
from helpers.lists import is_shown, number, query_json
from helpers.markets import SAMPLE_DAY, SAMPLE_DAYS, SAMPLE_MARKET
from helpers.scripts import TOP, assert_refused, build_table, call, load_script, querier, query, run
from hypothesis import given, settings
from hypothesis import strategies as st

GUI = "gui-lookup-table.py"
gui = load_script(GUI)

OWN_SCRIPT = {"X-Lookup-Table-Page": "1"}  # the header that the page's own scripts send
NOWHERE = "http://127.0.0.1:9"
EXAMPLES = settings(max_examples=100 * EFFORT, derandomize=EFFORT == 1)

TINY_DAYS = ["2024-01-0" + day for day in "2345"] + ["2024-01-08", "2024-01-12"]
# By ticker: how many trades it has on the last of TINY_DAYS.
TINY = {
    "TINY": [10, 20, 30, 40, 50, 1000],
    "LOW": [1500, 1500, 2000, 2500, 2500, 1000],
    "FLAT": [7, 7, 7, 7, 7, 7],
    "ZERO": [0, 0, 0, 0, 0, 7],
    "LAST": [7],
}
TIMES = "\N{MULTIPLICATION SIGN}"
ODD_TICKERS = ["A/../B", "../../v3/reference", "..", ".", "X?y#z", "A%2FB", "A&B=C", "A+B C", "NA"]
ODD_TICKERS += ["<script>alert(1)</script>", "'\"><img src=x onerror=alert(1)>", "{{ 7 * 7 }}"]
ODD_TICKERS += ["\N{SNOWMAN}", "\\N"]
ANOMALY = f"?ticker=VTAK&date={SAMPLE_DAY}"
DAY_OF_TINY = "?ticker=TINY&date=2024-01-12"


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


def sentence(response, status):
    """The sentence of a JSON answer that is an error with that status."""
    answer = loads(response)
    assert (response.status_code, list(answer)) == (status, ["error"])
    assert re.fullmatch(r"[^\n<>{}]{10,300}", answer["error"])
    return answer["error"]


# Tables, and clients of apps that show them.


def client_of(table_path, **options):
    """A client of an app that shows the table, and for which Polygon has no bars or headlines."""
    polygon = SimpleNamespace(answer=lambda *asked: [])
    return gui.create_app(table_path, polygon, **options).test_client()


@pytest.fixture(scope="module")
def client(sample_table):
    return client_of(sample_table)


@pytest.fixture(scope="module")
def table_of(tmp_path_factory):
    """A function: the path of a table of a market, {day: rows}."""

    def table_of(market):
        folder = tmp_path_factory.mktemp("market")
        return build_table(write_flat_files(folder / "csv", market), folder / "lookup_table.pkl")

    return table_of


@pytest.fixture(scope="module")
def tiny_table(table_of):
    rows = {day: [] for day in TINY_DAYS}
    for ticker, trades in TINY.items():
        for day, number_of_trades in zip(reversed(TINY_DAYS), reversed(trades)):
            rows[day].append((ticker, number_of_trades, 1))
    return table_of(rows)


@pytest.fixture(scope="module")
def odd_table(table_of):
    """Each of ODD_TICKERS, and an anomaly on 2024-01-12."""
    days = zip(TINY_DAYS, TINY["TINY"])
    return table_of({day: [(ticker, trades, 1) for ticker in ODD_TICKERS] for day, trades in days})


@pytest.fixture(scope="module")
def listed_table(tmp_path_factory):
    """The sample market with lists: types and names of some anomalies, and a split of VTAK."""
    folder = shutil.copytree(SAMPLE_MARKET, tmp_path_factory.mktemp("listed") / "csv")
    (folder / "reference").mkdir()
    tickers = ["ticker,name,type", "VTAK,Catheter <Precision>,CS", "NFLX,Netflix,CS"]
    tickers += ["SOpC,Southern,PFD", "AACI,Armada,ADRC"]
    (folder / "reference/tickers.csv").write_text("\n".join(tickers))
    splits = f"ticker,execution_date,split_from,split_to\nVTAK,{SAMPLE_DAY},20,1"
    (folder / "reference/splits.csv").write_text(splits)
    return build_table(folder, folder / "lookup_table.pkl")


OPTIONS = [
    ("", []),
    ("&sort=gap", ["--sort=gap"]),
    ("&threshold=1", ["--threshold=1"]),
    ("&min_record=23", ["--min-record=23"]),
    ("&skip=split&skip=thin&skip=", ["--skip=split,thin"]),
    ("&min_price=2&min_trades=500&skip=test", ["--min-price=2", "--min-trades=500", "--skip=test"]),
    ("&min_long_z=2.5&sort=long_z", ["--min-long-z=2.5", "--sort=long_z"]),
    ("&min_dollars=1e6&sort=dollar_volume", ["--min-dollars=1e6", "--sort=dollar_volume"]),
    ("&type=CS,ADRC", ["--type=CS,ADRC"]),
]


@pytest.mark.parametrize("date", ["2024-09-12", SAMPLE_DAY])
@pytest.mark.parametrize(("parameters", "options"), OPTIONS)
def test_a_list_and_its_csv_have_what_the_querier_finds(listed_table, date, parameters, options):
    client = client_of(listed_table)
    response = client.get(f"/anomalies.csv?date={date}{parameters}")
    written = query(listed_table, date, "--format", "csv", *options).stdout
    assert (response.get_data(as_text=True), response.mimetype) == (written, "text/csv")
    disposition = f'attachment; filename="anomalies-{date}.csv"'
    assert response.headers["Content-Disposition"] == disposition
    address = f"/?date={date}{parameters}&columns=long_z,dollar_volume"
    rows = list_rows(parse(client.get(address)))
    anomalies = query_json(listed_table, date, *options)
    assert [row["ticker"] for row in rows] == [anomaly["ticker"] for anomaly in anomalies] != []
    for row, anomaly in zip(rows, anomalies):
        anomaly["times_normal"] = anomaly["trades"] / anomaly["avg_trades"]
        assert row["record"].startswith("all ") == (anomaly["record"] == anomaly["earlier_rows"])
        for column in set(row) - {"ticker", "gap"}:
            assert is_shown(column, anomaly[column], row[column]), (column, row, anomaly)


@pytest.mark.parametrize("threshold", ["3", "0", "-1e3", "10.5", "1e9"])
@pytest.mark.parametrize("date", [SAMPLE_DAYS[0], SAMPLE_DAYS[5], SAMPLE_DAY])
def test_the_anomalies_are_those_that_the_querier_finds(client, sample_table, date, threshold):
    answer = loads(client.get(f"/api/anomalies?date={date}&threshold={threshold}"))
    found = query_json(sample_table, date, f"--threshold={threshold}")
    for row in found:
        row["marks"] = row["marks"].split()
        for later in ("after_1", "after_5", "after_20", "split_after"):
            del row[later]
    lines = (SAMPLE_MARKET / f"{date}.csv").read_text().splitlines()
    figures = {"date": date, "threshold": float(threshold), "tickers": len(lines) - 1}
    assert answer == {**figures, "anomalies": found}


def test_a_historys_rows_have_what_the_querier_finds(client, sample_table):
    rows = loads(client.get(f"/api/history{ANOMALY}&rows=all"))["rows"]
    asked = ["--ticker=VTAK", "--threshold=-99", "--format=json", "--table", sample_table]
    found = json.loads(call(querier, *asked).stdout)
    names = [name for name in rows[0] if name != "anomaly"]
    # Five rows have no baseline, so the querier does not list them.
    assert [row["z_score"] for row in rows[:5]] == [None] * 5
    assert [{name: row[name] for name in names} for row in rows[5:]] == [
        {name: row[name] for name in names} for row in found
    ]
    assert [row["anomaly"] for row in rows[5:]] == [row["z_score"] > 3 for row in found]


@pytest.mark.parametrize("ticker", ["VTAK", "SARO", "SWN", "SOpC"])
@pytest.mark.parametrize("rows", [1, 2, 7, 40, 56, 999, "all"])
def test_a_history_has_so_many_successive_days_of_the_ticker(client, ticker, rows):
    days = [day for name, day in read_days(SAMPLE_MARKET) if name == ticker]
    for date in {days[0], days[1], days[len(days) // 2], days[-2], days[-1]}:
        answer = loads(client.get(f"/api/history?ticker={ticker}&date={date}&rows={rows}"))
        shown = [row["date"] for row in answer["rows"]]
        assert (answer["ticker"], answer["date"], date in shown) == (ticker, date, True)
        assert len(shown) == (len(days) if rows == "all" else min(rows, len(days)))
        assert shown == days[days.index(shown[0]) :][: len(shown)]


@pytest.mark.parametrize(("day", "before", "later"), [(55, 39, 0), (40, 29, 10)])
def test_a_quarter_of_a_history_is_after_its_date_if_the_table_goes_on(client, day, before, later):
    answer = loads(client.get(f"/api/history?ticker=AAPL&date={SAMPLE_DAYS[day]}"))
    days = [row["date"] for row in answer["rows"]]
    assert days == SAMPLE_DAYS[day - before : day + later + 1]


def message_of(view):
    """The message in place of a list."""
    (message,) = view.find(id="list")[0].find("p", class_="message")
    return message


@pytest.mark.parametrize(
    ("parameters", "summary", "message"),
    [
        (f"date={SAMPLE_DAYS[0]}", "0 anomalies among 148", "No ticker has a baseline yet: that"),
        ("min_trades=999999999", "0 of 18 anomalies among 149", "No anomaly passes the filters."),
        ("threshold=1e9", "0 anomalies among 149", "No ticker has a z-score above the threshold."),
    ],
)
def test_an_empty_list_says_why(client, parameters, summary, message):
    view = parse(client.get(f"/?{parameters}"))
    assert list_rows(view) == []
    assert view.find(id="summary")[0].elements[1].text.startswith(f"{summary} tickers")
    assert message_of(view).text.startswith(message)


def test_the_answer_to_a_date_that_is_no_trading_day_links_to_the_nearest_one(client, sample_table):
    response = client.get("/?date=2024-10-19")
    message = message_of(parse(response))
    told = query(sample_table, "2024-10-19").stderr.strip()
    assert (response.status_code, message.text) == (404, f"{told} Go to 2024-10-18")
    assert [link["href"] for link in message.find("a")] == ["/?date=2024-10-18"]


def test_a_click_on_a_header_sorts_without_javascript(client):
    for column in list_rows(parse(client.get("/")))[0]:
        directions, address = set(), "/"
        for _ in range(2):
            (header,) = parse(client.get(address)).find("th", data_sort=column)
            address = header.find("a")[0]["href"]
            view = parse(client.get(address))
            values = [row[column] for row in list_rows(view)]
            values = values if column == "ticker" else list(map(number, values))
            headers = view.find("th", data_sort=True)
            (header,) = (header for header in headers if header["aria-sort"] != "none")
            assert (header["data-sort"], len(values)) == (column, 18)
            directions.add(header["aria-sort"])
            assert values == sorted(values, reverse=header["aria-sort"] == "descending")
        assert directions == {"ascending", "descending"}


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_row_without_a_number_comes_last_in_either_order(client, order):
    rows = list_rows(parse(client.get(f"/?date=2024-09-20&sort=after_1&order={order}")))
    assert [row["ticker"] for row in rows if row["after_1"] == "\N{EM DASH}"] == ["AACIU"]
    assert rows[-1]["ticker"] == "AACIU"


def test_a_rows_link_leads_to_the_tickers_figures(client):
    (row,) = parse(client.get("/?threshold=30&sort=ticker")).find("tr", data_ticker="VTAK")
    chosen = parse(client.get(row.find("a")[0]["href"]))
    (detail,) = chosen.find(id="detail")
    assert detail.find("h2")[0].text == "VTAK"
    # The README's first row: 460548 is 73.2 times 6291.40.
    words = f"460,548 trades, 73 {TIMES} the average of its five rows before (6,291), 36.7 standard"
    words += " deviations (each 12,387) above it. More trades than in each of its 55 earlier rows."
    assert detail.find("p", class_="words")[0].text == words
    assert detail.find("p", class_="price")[0].text == "0.91 +106.49 %"
    selected = chosen.find("tr", aria_selected="true")
    assert [row["data-ticker"] for row in selected] == ["VTAK"]


@pytest.mark.parametrize("ticker", ODD_TICKERS)
def test_an_odd_ticker_is_shown_as_it_is(odd_table, ticker):
    client = client_of(odd_table)
    view = parse(client.get("/"))
    assert [row["ticker"] for row in list_rows(view)] == ODD_TICKERS
    (row,) = view.find("tr", data_ticker=ticker)
    parameters = "?" + urlencode({"ticker": ticker, "date": "2024-01-12"})
    for address in (row.find("a")[0]["href"], f"/chart{parameters}"):
        (detail,) = parse(client.get(address)).find(id="detail")
        assert detail.find("h2")[0].text == ticker
        assert detail.find("img") + detail.find("script") == []
    assert loads(client.get(f"/api/history{parameters}"))["ticker"] == ticker
    found = loads(client.get("/api/anomalies"))["anomalies"]
    assert [anomaly["ticker"] for anomaly in found] == ODD_TICKERS


@pytest.mark.parametrize(
    ("form", "texts"),
    [
        ("format_price", {0.0127: "0.0127", 0.01274999: "0.01275", 0.000034: "0.000034"}),
        ("format_price", {0.91: "0.91", 0.5: "0.50", 1: "1.00", 0.99999: "1.00", 0: "0.00"}),
        ("format_figure", {0.5477: "0.548", 0.55: "0.55", 12.36: "12.4", 2: "2", 0: "0"}),
        ("format_figure", {99.96: "100", 6291.4: "6,291"}),
        ("format_change", {1.5: "+1.50", -0.004: "0.00", 1234.5: "+1,234.50", -0.25: "-0.25"}),
        ("format_price", dict.fromkeys([None, nan, inf, -inf], "\N{EM DASH}")),
    ],
)
def test_a_number_has_as_many_digits_as_people_need(form, texts):
    assert {value: gui.or_dash(value, getattr(gui, form)) for value in texts} == texts


@pytest.mark.parametrize(
    ("ticker", "words"),
    [
        (
            "LOW",
            f"1,000 trades, 0.5 {TIMES} the average of its five rows before (2,000), "
            "2.0 standard deviations (each 500) below it.",
        ),
        ("FLAT", f"7 trades, 1.0 {TIMES} the average of its five rows before (7)."),
        ("ZERO", "7 trades, after none at all in the 5 rows before."),
        ("LAST", "7 trades, and no baseline yet: that takes 5 earlier rows."),
    ],
)
def test_a_row_is_put_in_words(tiny_table, ticker, words):
    view = parse(client_of(tiny_table).get(f"/?ticker={ticker}"))
    assert view.find("p", class_="words")[0].text == words


@pytest.mark.parametrize(
    ("ticker", "edgar"), [("VTAK", "VTAK"), ("BRK.B", "BRK-B"), ("SOpC", None), ("AACT.WS", None)]
)
def test_a_ticker_is_linked_where_its_spelling_on_the_other_site_is_known(client, ticker, edgar):
    view = parse(client.get(f"/?ticker={ticker}&date={SAMPLE_DAYS[40]}"))
    links = [link["href"] for link in view.find("a", target="_blank") if link.text[0] in "ST"]
    company = f"https://www.sec.gov/cgi-bin/browse-edgar?action=getcompany&CIK={edgar}"
    chart = f"https://www.tradingview.com/chart/?symbol={ticker}"
    assert view.find("h2")[0].text == ticker
    assert links == ([company, chart] if edgar else [])


def test_a_ticker_written_another_way_is_offered(client):
    assert "it has SOpC" in parse(client.get(f"/chart?ticker=sopc&date={SAMPLE_DAY}")).text
    message = parse(client.get("/?ticker=sopc")).find(id="detail")[0]
    assert f"no trades of sopc on {SAMPLE_DAY}; it has SOpC" in message.text
    (link,) = message.find("a")
    assert parse(client.get(link["href"])).find("h2")[0].text == "SOpC"


def test_a_ticker_is_found_however_it_is_written():
    tickers = ["AAP", "AAp", "SOpC", "VTAK", "BABa", "Baba", "BRK.B"]
    meant = {"AAp": "AAp", "AAP": "AAP", "SOPC": "SOpC", "vtak": "VTAK", "brk-b": "BRK.B"}
    meant |= {"aap": "AAP"}  # both are spelled so: the upper-case one
    meant |= {"": None, "VTA": None, "BaBa": None}  # neither of two is upper-case
    assert {text: gui.find_ticker(tickers, text) for text in meant} == meant


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
    assert "expire" not in parse(client.get("/?date=2024-09-12")).find(id="summary")[0].text


@pytest.fixture(scope="module")
def moving_table(table_of):
    """Eight days of four tickers, and one day of GONE. An open is the close."""
    closes = {
        "UP": [10, 11, 12, 13, 14, 15, 16, 17],
        "SAME": [10] * 8,
        "TWICE": [10, 10, 10, 20, 20, 20, 20, 20],
        "ZERO": [0, 1, 1, 1, 1, 1, 1, 1],
        "GONE": [10],
    }
    days = enumerate(SAMPLE_DAYS[:8])
    market = {
        day: [(t, 9, prices[n]) for t, prices in closes.items() if prices[n:]] for n, day in days
    }
    return table_of(market)


# The median of UP, SAME and TWICE is the middle of 10, 0 and 0 after a day, and of 50, 0 and 100
# after five. On the seventh day UP's 6.25 stands beside three 0s.
@pytest.mark.parametrize(
    ("ticker", "session", "words"),
    [
        ("UP", 0, "After 1 day +10.00 %, 5 days +50.00 %; the median ticker +50.00 %"),
        ("TWICE", 0, "After 1 day 0.00 %, 5 days +100.00 % (split?); the median ticker +50.00 %"),
        ("GONE", 0, "After 1 day no trades, 5 days no trades; the median ticker +50.00 %"),
        ("ZERO", 0, "What came after cannot be told, because the close was 0."),
        ("UP", 6, "After 1 day +6.25 %; the median ticker 0.00 %"),
        ("UP", 7, "What came after is not known yet, because the table ends with this day."),
    ],
)
def test_what_came_after_is_a_sentence(moving_table, ticker, session, words):
    address = f"/api/after?ticker={ticker}&date={SAMPLE_DAYS[session]}"
    answer = loads(client_of(moving_table).get(address))
    html = parse_html(answer["html"])
    assert html.text == words
    assert all(b["class"] == ("" if b.text[0] == "0" else "up") for b in html.find("b"))


@pytest.mark.parametrize(
    ("ticker", "changes", "states"),
    [
        ("TWICE", [0, pytest.approx(100), None], ["known", "known", "unknown"]),
        ("GONE", [None, None, None], ["gone", "gone", "unknown"]),
        ("ZERO", [None, None, None], ["none", "none", "unknown"]),
    ],
)
def test_what_came_after_is_told_in_numbers(moving_table, ticker, changes, states):
    address = f"/api/after?ticker={ticker}&date={SAMPLE_DAYS[0]}"
    answer = loads(client_of(moving_table).get(address))
    splits, medians = [False, ticker == "TWICE", False], [0, pytest.approx(50), None]
    columns = zip([1, 5, 20], changes, states, splits, medians)
    names = ["days", "change", "state", "split", "median"]
    horizons = [dict(zip(names, values)) for values in columns]
    asked = {"ticker": ticker, "date": SAMPLE_DAYS[0], "html": answer["html"]}
    assert answer == {**asked, "horizons": horizons}


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


def test_a_tickers_own_view_keeps_the_lists_options(client):
    state = {"threshold": "2", "sort": "ticker", "order": "desc", "filter": "a"}
    state["date"] = SAMPLE_DAY
    tickers = [row["ticker"] for row in list_rows(parse(client.get(f"/?{urlencode(state)}")))]
    view = parse(client.get(f"/chart?{urlencode(state)}&ticker={tickers[1]}"))
    for link_id, path, ticker in [
        ("previous-ticker", "/chart", tickers[0]),
        ("next-ticker", "/chart", tickers[2]),
        ("back-to-list", "/", tickers[1]),
    ]:
        link = urlsplit(view.find("a", id=link_id)[0]["href"])
        assert (link.path, dict(parse_qsl(link.query))) == (path, {**state, "ticker": ticker})


# What is refused.


WRONG = {
    400: [
        *("/?date=tomorrow", "/?threshold=nan", "/?sort=volume", "/?order=up", "/?columns=z"),
        *("/?min_price=x", "/?min_long_z=inf", "/?min_trades=1.5", "/?skip=old", "/?skip=new,"),
        *("/chart", "/chart?ticker=VTAK", "/anomalies.csv?date=2024-02-30"),
        *("/api/anomalies?date=../passwd", "/api/anomalies?threshold=1e999"),
        *(f"/api/history{ANOMALY}&rows={rows}" for rows in ["0", "-1", "x", "9" * 50, "%C2%B2"]),
    ],
    404: [
        *("/nothing", "/?date=2024-10-19", f"/chart?ticker=NOSUCH&date={SAMPLE_DAY}"),
        *("/anomalies.csv?date=2024-10-19", "/api/anomalies?date=2024-10-19"),
        *("/api/nothing", "/api/days/"),
    ],
}
for name in ("history", "after", "bars", "headlines"):
    ends = [f"date={SAMPLE_DAY}", "ticker=VTAK", "ticker=VTAK&date=today"]
    WRONG[400] += [f"/api/{name}?{end}" for end in ends]
    ends = ["VTAK&date=2024-10-19", f"NO&date={SAMPLE_DAY}", f"SWN&date={SAMPLE_DAY}"]
    WRONG[404] += [f"/api/{name}?ticker={end}" for end in ends]  # SWN has other days


@pytest.mark.parametrize("status", WRONG)
def test_a_wrong_request_gets_a_sentence_and_a_view_leads_on(client, status):
    for address in WRONG[status]:
        response = client.get(address, headers=OWN_SCRIPT)
        if address.startswith("/api"):
            sentence(response, status)
        else:
            assert response.status_code == status, address
            targets = [link["href"] for link in parse(response).find("a") if link["href"]]
            assert client.get(targets[-1]).status_code == 200


EVERY_KIND = [
    *(("/", 200), ("/chart" + ANOMALY, 200), ("/?date=tomorrow", 400), ("/nothing", 404)),
    *(("/api/days", 200), ("/api/anomalies?date=tomorrow", 400), ("/api/nothing", 404)),
]


@pytest.mark.parametrize(("address", "status"), EVERY_KIND)
def test_every_answers_policy_forbids_inline_scripts_and_no_view_has_one(client, address, status):
    response = client.get(address)
    assert response.status_code == status
    policy = response.headers["Content-Security-Policy"].split("; ")
    own = [f"{name} 'self'" for name in ("default-src", "script-src", "form-action")]
    none = [f"{name} 'none'" for name in ("object-src", "base-uri", "frame-ancestors")]
    assert {*policy} == {*own, *none, "style-src 'self' 'unsafe-inline'"}
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert not [name for name, _ in response.headers if name.startswith("Access-Control-")]
    if not address.startswith("/api"):
        every = parse(response).find()
        scripts = [element for element in every if element.tag == "script"]
        assert scripts and all(script["src"] and not script.text for script in scripts)
        assert not [name for element in every for name in element.attributes if name[:2] == "on"]
        assert not [e for e in every if (e["href"] or "").lower().startswith("javascript:")]


@pytest.mark.parametrize("address", ["/", "/api/days", "/static/style.css"])
def test_nothing_is_answered_but_get_and_head(client, address):
    refused = client.post(address)
    assert (refused.status_code, "GET" in refused.headers["Allow"]) == (405, True)
    assert client.options(address).status_code == 200


def test_nothing_of_the_working_directory_is_served(client, monkeypatch):
    monkeypatch.chdir(TOP)
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
        assert client.get(f"/api/{name}{ANOMALY}", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("headers", "is_other", "status"),
    [
        *(({"Sec-Fetch-Site": site}, False, 200) for site in ("same-origin", "none")),
        *(({"Sec-Fetch-Site": site}, True, 403) for site in ("cross-site", "same-site")),
        # Where the browser does not say who opened a view, the referer must be here.
        ({}, True, 200),
        ({"Referer": "http://evil.example/"}, True, 200),
        ({"Referer": "http://localhost.evil.example/"}, True, 200),
        ({"Referer": "http://localhost/?date=2024-10-17"}, False, 200),
    ],
)
def test_another_site_may_open_a_view_but_not_use_the_api(client, headers, is_other, status):
    for address in ("/api/days", "/api/after" + ANOMALY):
        assert client.get(address, headers=headers).status_code == status
    for address in ("/", "/chart" + ANOMALY):
        body = parse(client.get(address, headers=headers)).find("body")[0]
        assert ("data-opened-by-other-site" in body.attributes) is is_other


@pytest.mark.parametrize(
    ("more", "status", "hosts"),
    [
        ("box.lan", 200, "localhost:8888 LOCALHOST 127.0.0.1:8888 [::1]:8888 box.lan:8888"),
        ("box.lan", 400, "evil.example evil.box.lan localhost.evil.example localhost@evil.example"),
        ("box.lan", 400, "127.0.0.1.evil.example local 192.0.2.1 [::2]"),
        # A server that listens on all addresses is asked by any of them, but not by any name.
        ("0.0.0.0", 200, "192.0.2.1:8888 [2001:db8::1]:8888 localhost"),
        ("[::]", 200, "192.0.2.1 [2001:db8::1]"),
        ("0.0.0.0", 400, "evil.example 192.0.2.1.evil.example"),
    ],
)
def test_only_the_servers_own_names_are_answered(sample_table, more, status, hosts):
    client = client_of(sample_table, hosts={*gui.LOOPBACK, more})
    for host in hosts.split():
        for path in ("/", "/api/days", "/static/style.css"):
            response = client.get(path, headers={"Host": host})
            assert response.status_code == status, host
            assert status == 200 or b"--allow-host" in response.get_data()


# A table that is replaced or bad while the server runs.


def replace(table, new):
    """Put a copy of new in place of table, in one step, as the builder does."""
    os.replace(shutil.copy(new, f"{table}.new"), table)


def test_the_next_request_is_answered_from_a_replaced_table(sample_table, tiny_table, tmp_path):
    table = shutil.copy(sample_table, tmp_path / "table.pkl")
    client, versions = client_of(table), []
    for parameters, days in [(ANOMALY, SAMPLE_DAYS), (DAY_OF_TINY, TINY_DAYS)]:
        told = loads(client.get("/api/table"))
        assert loads(client.get("/api/days"))["days"] == days
        for address in ("/", "/chart" + parameters):
            (main,) = parse(client.get(address)).find("main")
            assert told == {"version": main["data-table-version"], "last": days[-1]}
        versions.append(told["version"])
        replace(table, tiny_table)
    assert versions[0] != versions[1]
    assert client.get("/api/history" + ANOMALY).status_code == 404


def test_without_a_good_table_the_command_that_makes_one_is_named(sample_table, tmp_path):
    table = tmp_path / "table.pkl"
    client = client_of(table)
    cut_short = sample_table.read_bytes()[:-1]
    for content in (None, b"", b"ticker,volume\n", pickle.dumps({"A": {}}), cut_short):
        if content is not None:
            table.write_bytes(content)
        assert "build-lookup-table.py" in sentence(client.get("/api/days"), 503)
        view = client.get("/")
        assert view.status_code == 503
        assert "build-lookup-table.py" in parse(view).find("p", class_="message")[0].text
        refused = call(gui, "--table", table, "--port", 0)
        assert_refused(refused, table, "build-lookup-table.py")
    replace(table, sample_table)
    assert client.get("/").status_code == 200


def test_the_longest_lists_at_the_same_time_fit_into_memory(table_of):
    days = enumerate(SAMPLE_DAYS[:8])
    market = {day: [(f"T{i}", i % 97 + 3 * n, 1) for i in range(11_000)] for n, day in days}
    table = table_of(market)
    parameters = f"?date={SAMPLE_DAYS[6]}&ticker=T1&threshold=-1e9&columns=long_z,gap,after_1"
    routes = ["/", "/anomalies.csv", "/api/anomalies", "/", "/chart"] * 3
    with running_gui(table, NOWHERE) as served, ThreadPoolExecutor(15) as visitors:
        answers = visitors.map(lambda route: served.get(route + parameters, 100), routes)
        sizes = dict(zip(routes, map(len, answers)))
        assert served.memory("VmHWM") <= 150
    # A row takes more than 400 bytes in the view, 60 in the csv file and 200 in JSON.
    assert min(sizes["/"] / 400, sizes["/anomalies.csv"] / 60, sizes["/api/anomalies"] / 200) > 11e3


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


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_prints_its_url_serves_there_and_ends_by_a_signal(sample_table, number, status):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with running_gui(sample_table, NOWHERE, "--port", port) as served:
        assert served.printed == f"http://localhost:{port}\n"
        assert json.loads(served.get("/api/days"))["days"] == SAMPLE_DAYS
        # 127.0.0.2 is this machine too: a server that listens on every address answers there.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), 1)
        served.signal, served.expected_status = number, status


def test_a_host_name_is_answered_when_it_is_allowed(sample_table):
    names = ["--allow-host", "Box", "--allow-host", "b.lan"]
    with running_gui(sample_table, NOWHERE, *names) as served:
        for host, status in [("box", 200), ("b.lan:80", 200), ("localhost", 200), ("c.lan", 400)]:
            connection = http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=10)
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


@pytest.mark.parametrize(
    ("error", "part"),
    [
        ("ModuleNotFoundError('no', name='waitress')", "is missing: pip install -r require"),
        ("ImportError('libx.so.0:\\ncannot open', name='waitress')", "libx.so.0: cannot open"),
    ],
)
def test_a_package_that_is_missing_or_broken_is_one_line(tmp_path, error, part):
    (tmp_path / "waitress.py").write_text(f"raise {error}")
    finished = run(GUI, env=environment(PYTHONPATH=str(tmp_path)))
    assert_refused(finished, "waitress", part)


def test_a_port_in_use_is_one_line(sample_table):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finished = call(gui, "--table", sample_table, "--port", port)
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
        finished = call(gui, "--table", sample_table, f"{option}={value}")
        assert finished.returncode == 2
        assert option in finished.stderr.splitlines()[-1]


@pytest.mark.parametrize("host", [b"\xff", b"a" * 300, b"no such host", b"192.0.2.1", b"::g", b"."])
def test_an_impossible_host_is_one_line(sample_table, host):
    host = os.fsdecode(host)
    finished = call(gui, "--table", sample_table, "--port", 0, "--host", host)
    assert_refused(finished, f"cannot listen on {gui.querier.printable(host)}, port 0: ")
