"""The GUI in a real browser: Playwright drives Debian's Chromium, against the real server."""

import calendar
import json
import os
import re
import shutil
import signal
import struct
from itertools import accumulate
from statistics import mean, median, stdev
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from fakes.polygon import BROKEN, DROP, EMPTY, REFUSALS, FakePolygon, read_days
from helpers.flat_files import new_york_time, write_flat_files
from helpers.gui import replace_table, running_gui
from helpers.lists import is_shown, query_json
from helpers.markets import SAMPLE_DAY, SAMPLE_DAYS, SAMPLE_MARKET
from helpers.scripts import KEY, build_table, wait_until
from tools.make_screenshot import (
    MOST_BYTES,
    SIZE,
    find_chromium,
    launch_chromium,
    take_screenshot,
)

try:
    from playwright.sync_api import expect, sync_playwright
except ImportError:
    sync_playwright = None
else:
    expect.set_options(timeout=15_000)

DAY_BEFORE = "2024-10-17"
# The server keeps the bars that it has fetched: a test that watches bars arrive has a ticker and
# day of its own, most of them on this day.
QUIET_DAY = "2024-10-11"
VIEWPORT = {"width": 1280, "height": 800}
COLUMNS = ["ticker", "trades", "avg_trades", "std_trades"]
COLUMNS += ["z_score", "times_normal", "record", "close_price", "price_diff"]
# Columns that are left out where the window is narrower than so many pixels.
HIDDEN_BELOW = {"avg_trades": 1200, "std_trades": 1200, "times_normal": 1100}

# 2024-01-12 in New York: winter time, 5 hours before UTC; 2024-07-12: summer time, 4 hours.
HALF_PAST_NINE = {
    "2024-01-12": calendar.timegm((2024, 1, 12, 14, 30, 0)) * 1000,
    "2024-07-12": calendar.timegm((2024, 7, 12, 13, 30, 0)) * 1000,
}

STATE = """() => ({
    heading: document.querySelector("h1").textContent,
    rows: [...document.querySelectorAll("#anomalies tr[data-ticker]")].map((row) =>
        [row.dataset.ticker, row.getAttribute("aria-selected") === "true"]),
    sorted: [...document.querySelectorAll("th[data-sort]")].map((th) => th.ariaSort),
    fields: ["date", "threshold", "filter"].map((id) => document.getElementById(id).value),
    detail: document.querySelector("#detail h2")?.textContent,
})"""
CHART = """(id) => {
    const box = document.getElementById(id);
    const chart = box?.data ? box : box?.querySelector(".js-plotly-plot");
    return chart && { traces: chart.data, shapes: chart.layout.shapes };
}"""
AXES = """() => {
    const { xaxis, yaxis } = document.getElementById("day-chart").layout;
    return { time: xaxis.range.map(String), price: yaxis.range };
}"""
GROUND = "document.getElementById('day-chart').layout.plot_bgcolor"
# Two more candles are empty: they make plotly draw each candle as wide as a minute.
CANDLES = '#day-chart path.box:not([d="M0,0Z"])'
BOXES = """() => ["#list", "#detail", "#detail h2", "#day-chart-box", "#day-chart",
    "#history-chart-box", "#history-chart"].map((selector) => {
        const { x, y, width, height } = document.querySelector(selector).getBoundingClientRect();
        return [selector, x, y, width, height];
    })"""
# candlesDrawn: when the last of a ticker's candles is painted, by the browser's clock, in ms.
WATCH_CANDLES = """([selector, ticker, count]) => {
    window.candlesDrawn = new Promise((resolve, reject) => {
        setTimeout(() => reject(new Error("no candles within 10 s")), 10000);
        const areDrawn = () => document.querySelector("#detail h2")?.textContent === ticker
            && document.querySelector("#day-chart").dataset.ticker === ticker
            && document.querySelectorAll(selector).length === count;
        const watcher = new MutationObserver(() => {
            if (!areDrawn()) return;
            watcher.disconnect();
            requestAnimationFrame(() => setTimeout(() => resolve(performance.now())));
        });
        watcher.observe(document.body, { childList: true, subtree: true });
    });
}"""
# How long it takes from the arrival of a ticker's bars until the candles are drawn, in ms.
DRAWING_TIME = """async (ticker) => {
    const drawn = await window.candlesDrawn;
    const entries = performance.getEntriesByType("resource");
    const arrival = entries.filter(({ name }) =>
        name.includes("/api/bars") && name.includes(`ticker=${ticker}&`));
    return drawn - arrival[0].responseEnd;
}"""
# How long plotly.js alone takes to draw the chart that is shown, in ms.
PLOTLY_TIME = """async () => {
    const { data, layout } = document.querySelector("#day-chart .js-plotly-plot, #day-chart");
    const box = document.createElement("div");
    box.style.cssText = "position: fixed; top: 0; width: 600px; height: 400px;";
    document.body.append(box);
    const start = performance.now();
    await Plotly.newPlot(box, structuredClone(data), structuredClone(layout));
    await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
    const end = performance.now();
    Plotly.purge(box);
    box.remove();
    return end - start;
}"""
# The texts that are wider than their element, or reach beyond the window.
CUT = """(selector) => [...document.querySelectorAll(selector)]
    .filter((element) => element.scrollWidth > element.clientWidth
        || element.getBoundingClientRect().right > innerWidth)
    .map((element) => element.textContent)"""
# The texts and the graphics with less contrast than WCAG 2 asks for: 4.5 and 3. And how bright the
# ground is.
CONTRASTS = """() => {
    const channels = (color) => color.match(/[\\d.]+/g).map(Number);
    const luminance = (color) => channels(color).slice(0, 3).map((value) => value / 255)
        .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
    const contrast = (...colors) => {
        const both = colors.map(luminance);
        return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
    };
    const ground = (element) => {
        const color = getComputedStyle(element).backgroundColor;
        return (channels(color)[3] ?? 1) ? color : ground(element.parentElement);
    };
    const all = (selector) => [...document.querySelectorAll(selector)];
    const texts = [
        ...all("h1, h2, h3, td, th, a, label, p, button, summary, input, .mark, .readout")
            .map((e) => [e, "color"]),
        ...all("#day-chart .xtick text, #history-chart .xtick text").map((e) => [e, "fill"]),
    ];
    const paper = document.getElementById("history-chart").layout.plot_bgcolor;
    const columns = document.getElementById("history-chart").data[0];
    const candles = document.getElementById("day-chart").data.find(({ name }) => name === "price");
    const field = getComputedStyle(document.getElementById("filter"));
    const graphics = {
        columns: Math.min(...columns.marker.color.map((color) => contrast(color, paper))),
        rising: contrast(candles.increasing.line.color, paper),
        falling: contrast(candles.decreasing.line.color, paper),
        field: contrast(field.borderTopColor, field.backgroundColor),
    };
    return {
        ground: luminance(ground(document.querySelector("#detail"))),
        texts: texts.map(([element, property]) => [element, getComputedStyle(element)[property]])
            .map(([element, color]) => [element.textContent, contrast(color, ground(element))])
            .filter(([_, value]) => value < 4.5),
        graphics: Object.entries(graphics).filter(([_, value]) => value < 3),
    };
}"""


class Visitor:
    """A person with a browser on the GUI.

    requests    the addresses that the browser asked for
    refusals    the paths that were answered with a status of 400 or more
    complaints  what must not happen: messages on the console, dialogs, requests to other servers
    """

    def __init__(self, context, url):
        self.url, self.requests, self.refusals, self.complaints = url, [], [], []
        self.context, self.page = context, context.new_page()
        self.page.on("console", self.hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", self.see_request)
        self.page.on("response", self.see_response)

    def hear(self, message):
        # The browser also reports each refused request: refusals has it.
        if not message.text.startswith("Failed to load resource: the server responded"):
            self.complaints.append(message.text)

    def see_request(self, request):
        self.requests.append(request.url)
        if not request.url.startswith((f"{self.url}/", "data:", "blob:")):
            self.complaints.append(f"asked for {request.url}")

    def see_response(self, response):
        if response.status >= 400:
            self.refusals.append(urlsplit(response.url).path)

    def assert_refused(self, *paths):
        """Nothing but paths was refused, and the test meant that to happen."""
        assert self.refusals == [*paths]
        self.refusals.clear()

    def tickers_asked_for(self, path):
        """The tickers of the requests for path, such as /api/bars, so far."""
        return [parameters(url)["ticker"] for url in self.requests if urlsplit(url).path == path]

    def open(self, path="/"):
        self.page.goto(self.url + path)
        return self

    def resize(self, width, height=VIEWPORT["height"]):
        self.page.set_viewport_size({"width": width, "height": height})

    def choose(self, ticker):
        self.page.locator(f'tr[data-ticker="{ticker}"] td').nth(1).click()
        return self.expect_detail(ticker)

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def evaluate(self, script, argument=None):
        return self.page.evaluate(script, argument)

    def expect(self, selector):
        return expect(self.page.locator(selector))

    def expect_detail(self, ticker):
        self.expect("#detail h2").to_have_text(ticker)
        return self

    def expect_day(self, date):
        self.expect("h1").to_contain_text(date)
        return self

    def expect_tickers(self, tickers):
        self.expect("#anomalies tr[data-ticker] td:first-child").to_have_text(tickers)

    def query(self):
        return parameters(self.page.url)

    def chosen(self):
        return self.page.locator('tr[aria-selected="true"]').evaluate_all(
            "rows => rows.map((row) => row.dataset.ticker)"
        )

    def expect_chart(self, chart_id):
        """Wait until a chart shows the ticker and day of the detail, no longer those before."""
        shown = self.page.locator("#detail[data-ticker]")
        for name in ("data-ticker", "data-date"):
            value = shown.get_attribute(name)
            self.expect(f"#{chart_id}").to_have_attribute(name, value)
        return self

    def readout(self, chart_id):
        return self.page.locator(f"#{chart_id}-box .readout")

    def trace(self, chart_id, **wanted):
        """The one trace of a chart that is drawn with these properties."""
        self.expect_chart(chart_id)
        traces = self.evaluate(CHART, chart_id)["traces"]
        (found,) = (t for t in traces if all(t.get(name) == wanted[name] for name in wanted))
        return found

    def expect_candles(self, count):
        self.expect_chart("day-chart").expect(CANDLES).to_have_count(count)

    def bars_message(self):
        """The sentence that is shown instead of the candles; waits until there is one."""
        message = self.page.locator("#day-chart-box .message")
        expect(message).to_be_visible()
        expect(message.locator("button.retry")).to_be_visible()
        return message.locator(".sentence").inner_text()


def parameters(address):
    """The parameters in an address's query, by name."""
    return {name: text for name, (text,) in parse_qs(urlsplit(address).query).items()}


def missing():
    """A sentence that says what these tests need and lack, or None."""
    if sync_playwright is None:
        return "playwright is missing: pip install -r tests/requirements.txt"
    install = "apt-get install chromium-headless-shell"
    return None if find_chromium() else f"Chromium is missing: {install}"


@pytest.fixture(scope="module")
def browser():
    if missing() and os.environ.get("CI"):
        pytest.fail(missing())
    elif missing():
        pytest.skip(missing())
    with sync_playwright() as playwright:
        chromium = launch_chromium(playwright)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def running_polygon():
    with FakePolygon(SAMPLE_MARKET) as polygon:
        yield polygon


@pytest.fixture
def polygon(running_polygon):
    """The stand-in for Polygon: it answers with bars, and so far nobody has asked it anything."""
    running_polygon.answer, running_polygon.articles = None, {}
    running_polygon.answering.set()
    running_polygon.bars.clear()
    running_polygon.requests.clear()
    yield running_polygon
    running_polygon.answering.set()


@pytest.fixture(scope="module")
def served(browser, sample_table, running_polygon):
    """The GUI on the sample market, started once. It keeps the bars that it has fetched."""
    with running_gui(sample_table, running_polygon.url, POLYGON_API_KEY=KEY) as gui:
        yield gui


@pytest.fixture
def visitors(browser):
    """A function that makes visitors with a browser context each. None may complain in the end."""
    all_of_them = []

    def visitor(url, **options):
        context = browser.new_context(**{"viewport": VIEWPORT, **options})
        all_of_them.append(Visitor(context, url))
        return all_of_them[-1]

    yield visitor
    for one in all_of_them:
        one.context.close()
    for one in all_of_them:
        assert (one.complaints, one.refusals) == ([], [])


@pytest.fixture(scope="module")
def shared_tab(browser, served):
    """A tab on the GUI that stays open, so that plotly.js is compiled once and not in each test."""
    tab = browser.new_context(viewport=VIEWPORT).new_page()
    tab.goto(f"{served.url}/static/style.css")
    yield tab
    tab.context.close()


@pytest.fixture
def visitor(shared_tab, served, polygon):
    """A visitor in a new tab. Tests that change the browser's clock need one of visitors."""
    shared_tab.evaluate("localStorage.clear()")
    one = Visitor(shared_tab.context, served.url)
    yield one
    one.page.close()
    assert (one.complaints, one.refusals) == ([], [])


# Days of other tables than the sample market's.
EARLY_CLOSE = "2024-11-29"
TAG = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def odd_gui(browser, tmp_path_factory):
    """The GUI on a market of odd days and names.

    TINY has one bar on each of its days, at half past nine. TAG is an anomaly on SAMPLE_DAYS[5] and
    has no bars.
    """
    folder = tmp_path_factory.mktemp("odd")
    times = {**HALF_PAST_NINE, EARLY_CLOSE: new_york_time(EARLY_CLOSE, 9 * 60 + 30)}
    market = {date: [("TINY", 3, 1.5)] for date in times}
    for date, trades in zip(SAMPLE_DAYS, [10, 20, 30, 40, 50, 1000]):
        market[date] = [(TAG, trades, 1), ("</script>", 9, 1)]
    flat_files = write_flat_files(folder / "csv", market)
    table = build_table(flat_files, folder / "table.pkl")
    bar = {"o": 1, "h": 2, "l": 1, "c": 1.5, "v": 300, "vw": 1.4, "n": 3}
    with FakePolygon(flat_files) as polygon:
        polygon.bars.update({("TINY", date): [{"t": time, **bar}] for date, time in times.items()})
        polygon.bars[TAG, SAMPLE_DAYS[5]] = []
        with running_gui(table, polygon.url, POLYGON_API_KEY=KEY) as gui:
            yield gui


def found(table, date=SAMPLE_DAY, *options):
    """The tickers that the querier finds, in its order."""
    return [anomaly["ticker"] for anomaly in query_json(table, date, *options)]


def containing(letters, tickers):
    """Those of tickers that the filter keeps when it is letters."""
    return [ticker for ticker in tickers if letters.upper() in ticker.upper()]


# The list.


@pytest.mark.parametrize("date", [SAMPLE_DAY, "2024-09-12", "2024-08-20"])
def test_the_rows_equal_what_the_querier_finds(visitor, sample_table, date):
    visitor.open(f"/?date={date}")
    rows = visitor.page.locator("#anomalies tr[data-ticker]").evaluate_all(
        "rows => rows.map((row) => [...row.cells].map((cell) => cell.textContent.trim()))"
    )
    headers = visitor.page.locator("#anomalies th").evaluate_all(
        "headers => headers.map((header) => header.dataset.sort)"
    )
    assert headers == [*COLUMNS, None]
    expected = query_json(sample_table, date)
    assert expected
    assert [row[0] for row in rows] == [anomaly["ticker"] for anomaly in expected]
    for row, anomaly in zip(rows, expected):
        anomaly["times_normal"] = anomaly["trades"] / anomaly["avg_trades"]
        for field, text in zip(COLUMNS[1:], row[1:]):
            value = anomaly[field]
            if field == "record":
                most_ever = "all " if value == anomaly["earlier_rows"] else ""
                assert text == f"{most_ever}{value:,}"
            else:
                assert is_shown(field, value, text), (row, field)
        assert row[-1].split() == anomaly["marks"].split()


def test_numbers_are_aligned_and_a_fall_has_another_colour_than_a_rise(visitor):
    visitor.open()
    styles = visitor.evaluate(
        """() => ["VTAK", "CVS"].map((ticker) =>
            [...document.querySelectorAll(`tr[data-ticker="${ticker}"] td`)].map((cell) => {
                const { textAlign, fontVariantNumeric, color } = getComputedStyle(cell);
                return [textAlign, fontVariantNumeric, color];
            }))"""
    )
    change = COLUMNS.index("price_diff")
    (_, _, risen), (_, _, fallen) = (row[change] for row in styles)
    assert risen != fallen
    for row in styles:
        numbers = row[1 : len(COLUMNS)]
        assert {tuple(style[:2]) for style in numbers} == {("right", "tabular-nums")}


def test_a_click_on_a_header_sorts_and_another_reverses_the_order(visitor, sample_table):
    visitor.open()
    header = visitor.page.locator('th[data-sort="z_score"]')
    header.click()
    visitor.expect_tickers(found(sample_table, SAMPLE_DAY, "--sort", "z_score"))
    expect(header).to_have_attribute("aria-sort", "descending")
    visitor.expect('th[data-sort="trades"]').to_have_attribute("aria-sort", "none")
    header.click()
    visitor.expect_tickers(found(sample_table, SAMPLE_DAY, "--sort", "z_score")[::-1])
    expect(header).to_have_attribute("aria-sort", "ascending")
    visitor.page.locator('th[data-sort="ticker"]').click()
    visitor.expect_tickers(sorted(found(sample_table)))


def test_the_filter_shortens_the_list_with_each_letter(visitor, sample_table):
    visitor.open()
    visitor.press("/")
    visitor.expect("#filter").to_be_focused()
    visitor.page.keyboard.type("aa")
    visitor.expect_tickers(containing("aa", found(sample_table)))
    assert visitor.query()["filter"] == "aa"
    # In the field the key j types a letter; elsewhere it chooses a row.
    visitor.page.keyboard.type("j")
    visitor.expect_tickers([])
    visitor.expect("#list .message").to_be_visible()
    visitor.page.locator("#filter").fill("")
    visitor.expect_tickers(found(sample_table))


def test_the_list_holds_what_is_above_the_threshold_field(visitor, sample_table):
    visitor.open()
    visitor.page.locator("#threshold").fill("30")
    visitor.press("Enter")
    visitor.expect_tickers(found(sample_table, SAMPLE_DAY, "--threshold", "30"))
    assert visitor.query()["threshold"] == "30"


def test_arrows_buttons_and_the_date_field_change_the_day(visitor, sample_table):
    visitor.open("/?date=2024-08-30")
    visitor.press("ArrowRight")
    visitor.expect_day("2024-09-03")
    visitor.expect_tickers(found(sample_table, "2024-09-03"))
    visitor.press("ArrowLeft", "ArrowLeft")
    visitor.expect_day("2024-08-29")
    visitor.page.locator("#next-day").click()
    visitor.expect_day("2024-08-30")
    visitor.page.locator("#previous-day").click()
    visitor.expect_day("2024-08-29")
    visitor.page.locator("#date").fill("2024-09-12")
    visitor.press("Enter")
    visitor.expect_day("2024-09-12").expect_tickers(found(sample_table, "2024-09-12"))
    assert visitor.query()["date"] == "2024-09-12"


def test_no_key_leads_beyond_the_first_or_last_day(visitor):
    for date, outwards, inwards, neighbour in (
        (SAMPLE_DAYS[0], "ArrowLeft", "ArrowRight", SAMPLE_DAYS[1]),
        (SAMPLE_DAY, "ArrowRight", "ArrowLeft", DAY_BEFORE),
    ):
        visitor.open(f"/?date={date}")
        # The script asks whether the table has got longer.
        with visitor.page.expect_response(f"**/?date={date}"):
            visitor.press(outwards)
        visitor.press(inwards)
        visitor.expect_day(neighbour)


def test_the_ticker_stays_chosen_from_day_to_day(visitor):
    visitor.open().choose("SLB")
    visitor.press("ArrowLeft")
    visitor.expect_day(DAY_BEFORE).expect_detail("SLB")
    trades = read_days(SAMPLE_MARKET)["SLB", DAY_BEFORE].trades
    visitor.expect("#detail").to_contain_text(f"{trades:,} trades")


# Choosing a ticker.


def test_arrows_and_the_keys_j_and_k_choose_the_row_below_or_above(visitor, sample_table):
    tickers = found(sample_table)
    visitor.open()
    for key, index in [("ArrowDown", 0), ("j", 1), ("ArrowDown", 2), ("k", 1), ("ArrowUp", 0)]:
        visitor.press(key)
        visitor.expect_detail(tickers[index])
        assert visitor.chosen() == [tickers[index]]
        assert visitor.query()["ticker"] == tickers[index]
    visitor.press(*["j"] * (len(tickers) + 2))
    visitor.expect_detail(tickers[-1])
    assert visitor.chosen() == tickers[-1:]


def test_enter_chooses_the_row_that_has_the_focus(visitor, sample_table):
    visitor.open()
    visitor.page.locator('tr[data-ticker="NFLX"] a').focus()
    visitor.press("Enter")
    visitor.expect_detail("NFLX")
    assert visitor.chosen() == ["NFLX"]


def test_the_detail_compares_the_trades_with_the_average_in_words(visitor):
    visitor.open().choose("VTAK")
    words = "460,548 trades, 73 \N{MULTIPLICATION SIGN} the average of its five rows before (6,291)"
    visitor.expect("#detail").to_contain_text(words)


def test_an_address_shows_the_same_view_elsewhere_and_after_a_reload(
    visitor, visitors, served, sample_table
):
    visitor.open(f"/?date={DAY_BEFORE}")
    visitor.press("ArrowRight")
    visitor.expect_day(SAMPLE_DAY)
    visitor.page.locator("#threshold").fill("4")
    visitor.page.locator('th[data-sort="price_diff"]').click()
    visitor.expect('th[data-sort="price_diff"]').to_have_attribute("aria-sort", "descending")
    visitor.page.locator("#filter").fill("e")
    options = ["--threshold", "4", "--sort", "price_diff"]
    visitor.expect_tickers(containing("e", found(sample_table, SAMPLE_DAY, *options)))
    visitor.choose("EFSH")
    seen = visitor.evaluate(STATE)
    other = visitors(served.url)
    other.page.goto(visitor.page.url)
    assert other.evaluate(STATE) == seen
    visitor.page.reload()
    assert visitor.evaluate(STATE) == seen


def test_the_back_button_goes_back_through_the_views(visitor, sample_table):
    visitor.open().choose("VTAK")
    visitor.press("ArrowLeft")
    visitor.expect_day(DAY_BEFORE)
    visitor.page.locator('th[data-sort="ticker"]').click()
    visitor.expect_tickers(sorted(found(sample_table, DAY_BEFORE)))
    visitor.page.go_back()
    visitor.expect_tickers(found(sample_table, DAY_BEFORE))
    visitor.page.go_back()
    visitor.expect_day(SAMPLE_DAY).expect_detail("VTAK")
    assert visitor.chosen() == ["VTAK"]
    visitor.page.go_back()
    visitor.expect("#detail h2").to_have_count(0)
    assert visitor.chosen() == []
    visitor.page.go_forward()
    visitor.expect_day(SAMPLE_DAY).expect_detail("VTAK")


def test_a_tickers_own_view_leads_from_anomaly_to_anomaly(visitor):
    visitor.open(f"/chart?ticker=PEGY&date={SAMPLE_DAY}").expect_detail("PEGY")
    visitor.page.locator("#next-ticker").click()
    visitor.expect_detail("NFLX")
    visitor.page.locator("#previous-ticker").click()
    visitor.expect_detail("PEGY")
    visitor.trace("day-chart", name="price")
    visitor.trace("history-chart", type="bar")


# The charts.


def bar_times(sent, date):
    """The times of bars in New York, such as 09:30."""
    minutes = [(bar["t"] - new_york_time(date, 0)) // 60_000 for bar in sent]
    return [f"{minute // 60:02}:{minute % 60:02}" for minute in minutes]


def price(value):
    """A price from 0.1 on as the charts write it, with two to four digits after the point."""
    digits = f"{value:.4f}".rstrip("0").partition(".")[2]
    return f"{value:,.{max(2, len(digits))}f}"


@pytest.mark.parametrize("ticker", ["VTAK", "AAp"])
def test_the_candles_on_screen_are_the_bars_sent(visitor, polygon, ticker):
    sent = polygon.bars_of(ticker, SAMPLE_DAY)
    visitor.open().choose(ticker)
    visitor.expect_candles(len(sent))
    candles = visitor.trace("day-chart", name="price")
    times = [f"{SAMPLE_DAY} {time}" for time in bar_times(sent, SAMPLE_DAY)]
    assert [text[:16].replace("T", " ") for text in candles["x"]] == times
    for name in ("open", "high", "low", "close"):
        assert candles[name] == [bar[name[0]] for bar in sent]
    assert visitor.trace("day-chart", name="volume")["y"] == [bar["v"] for bar in sent]
    assert visitor.trace("day-chart", name="trades")["y"] == [bar["n"] for bar in sent]


def vwaps_of(bars):
    """For each bar, the average price of the volume up to it."""
    volumes = accumulate(bar["v"] for bar in bars)
    dollars = accumulate(bar["v"] * bar["vw"] for bar in bars)
    return [dollar / volume for dollar, volume in zip(dollars, volumes)]


def test_the_vwap_is_the_average_price_of_the_volume_so_far(visitor, polygon):
    sent = polygon.bars_of("VTAK", SAMPLE_DAY)
    visitor.open().choose("VTAK")
    assert visitor.trace("day-chart", name="VWAP")["y"] == pytest.approx(vwaps_of(sent))


def shaded_hours(visitor):
    visitor.expect_chart("day-chart")
    shapes = visitor.evaluate(CHART, "day-chart")["shapes"]
    return [(shape["x0"][11:16], shape["x1"][11:16]) for shape in shapes]


def test_the_hours_before_the_open_and_after_the_close_are_shaded(visitor, visitors, odd_gui):
    visitor.open().choose("VTAK")
    assert shaded_hours(visitor) == [("04:00", "09:30"), ("16:00", "20:00")]
    early = visitors(odd_gui.url).open(f"/chart?ticker=TINY&date={EARLY_CLOSE}")
    assert shaded_hours(early) == [("04:00", "09:30"), ("13:00", "20:00")]


def test_pointer_and_keyboard_show_the_figures_of_a_candle(visitor, polygon):
    sent = polygon.bars_of("AAp", SAMPLE_DAY)
    times, vwaps = bar_times(sent, SAMPLE_DAY), vwaps_of(sent)
    previous_close = read_days(SAMPLE_MARKET)["AAp", SAMPLE_DAY].previous_close
    visitor.open().choose("AAp")
    visitor.expect_candles(len(sent))
    readout = visitor.readout("day-chart")

    def expect_figures(index):
        bar = sent[index]
        prices = [f"{name} {price(bar[name[0]])}" for name in ("open", "high", "low", "close")]
        counts = [f"volume {bar['v']:,.0f}", f"trades {bar['n']:,}"]
        change = f"change {(bar['c'] / previous_close - 1) * 100:+,.2f} %"
        figures = [times[index], *prices, change, f"VWAP {price(vwaps[index])}", *counts]
        expect(readout.locator("span")).to_have_text(figures)

    middle = len(sent) // 2
    box = visitor.page.locator(CANDLES).nth(middle).bounding_box()
    # Beside the candle, where no other is nearer.
    visitor.page.mouse.move(box["x"] + box["width"] / 2 + 6, box["y"] + box["height"] / 2)
    visitor.expect("#day-chart .spikeline").not_to_have_count(0)
    expect_figures(middle)
    area = visitor.page.locator("#day-chart .nsewdrag").nth(2).bounding_box()
    visitor.page.mouse.move(area["x"] + 1, area["y"] + 5)
    expect_figures(0)
    readout.focus()
    visitor.press("End", "ArrowLeft")
    expect_figures(-2)
    visitor.expect("#day-chart .spikeline").not_to_have_count(0)


def test_a_chart_can_be_saved_as_a_picture(visitor):
    visitor.open().choose("VTAK")
    visitor.expect_chart("day-chart")
    with visitor.page.expect_download() as download:
        visitor.page.locator('#day-chart .modebar-btn[data-title*="png" i]').click()
    assert download.value.suggested_filename == f"VTAK-{SAMPLE_DAY}.png"
    assert download.value.path().read_bytes().startswith(b"\x89PNG")


def test_candles_are_in_new_york_time_winter_and_summer(visitors, odd_gui):
    visitor = visitors(odd_gui.url, timezone_id="Asia/Tokyo", locale="de-DE")
    for date in HALF_PAST_NINE:
        visitor.open(f"/chart?ticker=TINY&date={date}")
        (x,) = visitor.trace("day-chart", name="price")["x"]
        assert x[:16].replace("T", " ") == f"{date} 09:30"


def bounds(trades, threshold):
    """For each day, the mean of the five days before plus threshold times their deviation.

    With more trades the day is an anomaly. None for the first five days.
    """
    baselines = [trades[i - 5 : i] for i in range(5, len(trades))]
    return [None] * 5 + [mean(five) + threshold * stdev(five) for five in baselines]


def test_the_history_shows_trades_baseline_bound_and_close(visitor):
    days = read_days(SAMPLE_MARKET)
    trades = [days["VTAK", date].trades for date in SAMPLE_DAYS]
    closes = [days["VTAK", date].close for date in SAMPLE_DAYS]
    visitor.open().choose("VTAK")
    columns = visitor.trace("history-chart", type="bar")
    assert (columns["x"], columns["y"]) == (SAMPLE_DAYS, trades)
    assert visitor.trace("history-chart", name="average")["y"] == pytest.approx(bounds(trades, 0))
    assert visitor.trace("history-chart", name="average + 3 std dev")["y"] == pytest.approx(
        bounds(trades, 3)
    )
    assert visitor.trace("history-chart", name="close")["y"] == pytest.approx(closes)


@pytest.mark.parametrize("threshold", [3, 40])
def test_the_history_points_out_the_days_above_the_addresss_threshold(visitor, threshold):
    days = read_days(SAMPLE_MARKET)
    trades = [days["HEPS", date].trades for date in SAMPLE_DAYS]
    limits = bounds(trades, threshold)
    visitor.open(f"/chart?ticker=HEPS&date={SAMPLE_DAY}&threshold={threshold}")
    line = visitor.trace("history-chart", name=f"average + {threshold} std dev")
    assert line["y"] == pytest.approx(limits)
    marks = visitor.trace("history-chart", name="anomaly")
    above = [row for row in zip(SAMPLE_DAYS, trades, limits) if row[2] and row[1] > row[2]]
    assert marks["x"] == [date for date, _, _ in above]
    assert marks["y"] == [count for _, count, _ in above]


def test_a_click_on_a_day_of_the_history_goes_to_that_day(visitor):
    date = SAMPLE_DAYS[-3]
    visitor.open().choose("VTAK")
    visitor.expect_chart("history-chart")
    cursor = "getComputedStyle(document.querySelector('#history-chart .nsewdrag')).cursor"
    assert visitor.evaluate(cursor) == "pointer"
    columns = visitor.page.locator("#history-chart .point path")
    box = columns.nth(SAMPLE_DAYS.index(date)).bounding_box()
    visitor.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 2)
    visitor.expect_day(date).expect_detail("VTAK")
    assert visitor.query()["date"] == date


# While bars are awaited.


def test_nothing_moves_when_bars_arrive(visitor, polygon):
    polygon.answering.clear()
    visitor.open(f"/?date={QUIET_DAY}&ticker=AAPL").expect_detail("AAPL")
    visitor.trace("history-chart", type="bar")
    visitor.expect("#day-chart-box .loading").to_be_visible()
    before = visitor.evaluate(BOXES)
    polygon.answering.set()
    visitor.expect_candles(len(polygon.bars_of("AAPL", QUIET_DAY)))
    visitor.expect("#detail .loading").to_have_count(0)
    assert visitor.evaluate(BOXES) == before


def test_the_next_ticker_does_not_wait_for_the_last_ones_bars(visitor, polygon):
    given_up = []
    visitor.page.on("requestfailed", lambda request: given_up.append(request.url))
    polygon.answering.clear()
    visitor.open(f"/?date={QUIET_DAY}&threshold=-99").choose("GOOG")
    wait_until(lambda: polygon.requests)
    visitor.choose("INTC")
    visitor.trace("history-chart", type="bar")
    polygon.answering.set()
    sent = polygon.bars_of("INTC", QUIET_DAY)
    visitor.expect_candles(len(sent))
    given_up = [url for url in given_up if urlsplit(url).path == "/api/bars"]
    assert [parameters(url)["ticker"] for url in given_up] == ["GOOG"]
    candles = visitor.trace("day-chart", name="price")
    assert candles["close"] == [bar["c"] for bar in sent]


def test_960_bars_are_drawn_in_two_and_a_half_times_plotlys_own_time(visitor, polygon):
    start = new_york_time(QUIET_DAY, 4 * 60)
    bar = {"h": 10.5, "l": 9.5, "v": 1000, "vw": 10, "n": 10}
    bars = [
        {"t": start + i * 60_000, "o": 9.8 + i % 3 / 10, "c": 9.8 + i % 5 / 10, **bar}
        for i in range(960)
    ]
    tickers = ["BA", "BABA", "BAC", "COIN"]
    polygon.bars.update({(ticker, QUIET_DAY): bars for ticker in tickers})
    visitor.open(f"/?date={QUIET_DAY}&threshold=-99").choose("AVGO")
    visitor.expect_chart("day-chart")
    times, plotly_times = [], []
    for ticker in tickers:
        visitor.evaluate(WATCH_CANDLES, [CANDLES, ticker, 960])
        visitor.choose(ticker)
        times.append(visitor.evaluate(DRAWING_TIME, ticker))
        plotly_times.append(visitor.evaluate(PLOTLY_TIME))
    # A busy machine can only make either longer.
    assert min(times) <= 2.5 * min(plotly_times), (times, plotly_times)


# When there are no bars.


# Each on a day of its own, because bars that have been fetched are not asked for again.
FAULTS = {
    "2024-08-26": REFUSALS["unknown key"],
    "2024-08-28": DROP,
    "2024-08-30": EMPTY["no results"],
}


@pytest.mark.parametrize("date", FAULTS)
def test_a_fault_is_a_sentence_instead_of_candles_and_all_else_works(visitor, polygon, date):
    polygon.answer = FAULTS[date]
    with visitor.page.expect_response("**/api/bars?*") as response:
        visitor.open(f"/?date={date}&ticker=AMZN&threshold=0")
    assert visitor.bars_message() == response.value.json()["error"]
    visitor.expect_chart("history-chart")
    visitor.assert_refused("/api/bars")
    polygon.answer = None
    visitor.page.locator("#day-chart-box button.retry").click()
    visitor.expect_candles(len(polygon.bars_of("AMZN", date)))
    visitor.expect("#day-chart-box .message").to_have_count(0)
    visitor.press("ArrowRight")
    visitor.expect_day(SAMPLE_DAYS[SAMPLE_DAYS.index(date) + 1]).expect_detail("AMZN")


@pytest.mark.parametrize("status", [429, 503])
def test_the_sentence_of_a_refused_request_for_bars_is_shown_as_text(visitor, status):
    sentence = f"For one reason or another <b>{status}</b>."
    refusal = {"status": status, "json": {"error": sentence}}
    visitor.page.route("**/api/bars?**", lambda route: route.fulfill(**refusal), times=1)
    visitor.open(f"/chart?ticker=AMD&date={SAMPLE_DAY}")
    assert visitor.bars_message() == sentence
    visitor.assert_refused("/api/bars")
    visitor.page.locator("#day-chart-box button.retry").click()
    visitor.expect_chart("day-chart")


def test_the_readmes_screenshot_can_be_taken(browser, served, polygon, tmp_path):
    candles = len(polygon.bars_of("VTAK", SAMPLE_DAY))
    take_screenshot(browser, served.url, candles, tmp_path / "screenshot.png")
    picture = (tmp_path / "screenshot.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert struct.unpack(">II", picture[16:24]) == (SIZE["width"], SIZE["height"])
    assert len(picture) <= MOST_BYTES


def test_without_a_key_all_else_works(visitors, sample_table, polygon):
    with running_gui(sample_table, polygon.url) as gui:
        visitor = visitors(gui.url).open().choose("VTAK")
        assert "POLYGON_API_KEY" in visitor.bars_message()
        assert visitor.trace("history-chart", type="bar")["y"][-1] == 460548
        visitor.press("j")
        visitor.expect_detail("PEGY")
        assert "POLYGON_API_KEY" in visitor.bars_message()
        visitor.assert_refused("/api/bars", "/api/bars")
        visitor.context.close()
    assert polygon.requests == []


def test_a_ticker_that_looks_like_a_tag_is_shown_as_text(visitors, odd_gui):
    date = SAMPLE_DAYS[5]
    visitor = visitors(odd_gui.url).open(f"/?date={date}")
    visitor.press("j")
    visitor.expect_detail(TAG)
    visitor.expect_tickers([TAG])
    assert TAG in visitor.bars_message()
    visitor.open("/chart?" + urlencode({"ticker": TAG, "date": date}))
    visitor.expect_detail(TAG)
    assert TAG in visitor.bars_message()
    visitor.expect_chart("history-chart")
    visitor.expect("#detail img, #list img").to_have_count(0)
    visitor.assert_refused("/api/bars", "/api/bars")


# Colours, narrow screens, keyboards and screen readers.


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_both_have_the_contrasts_of_wcag(visitor, scheme):
    visitor.page.emulate_media(color_scheme=scheme)
    visitor.open().choose("VTAK")
    visitor.expect_chart("day-chart").expect_chart("history-chart")
    contrasts = visitor.evaluate(CONTRASTS)
    is_bright, is_dark = contrasts["ground"] > 0.8, contrasts["ground"] < 0.05
    assert (is_bright, is_dark) == (scheme == "light", scheme == "dark")
    assert (contrasts["texts"], contrasts["graphics"]) == ([], [])


@pytest.mark.parametrize("width", [320, 700])
def test_on_a_narrow_screen_nothing_is_wider_than_the_screen(visitor, width):
    visitor.resize(width)
    total_width = "document.documentElement.scrollWidth"
    visitor.open("/nothing")
    visitor.assert_refused("/nothing")
    assert visitor.evaluate(total_width) == width
    visitor.open("/?ticker=VTAK")
    visitor.expect_chart("day-chart").expect_chart("history-chart")
    assert visitor.evaluate(total_width) == width
    visitor.page.locator("#filters-summary").click()
    visitor.expect("#filters .panel").to_be_visible()
    assert visitor.evaluate(total_width) == width
    visitor.open("/?date=2024-09-12&ticker=ZVZZT").expect_detail("ZVZZT")
    visitor.page.locator("#detail .mark").last.focus()
    assert visitor.evaluate(total_width) == width
    boxes = {name: box for name, *box in visitor.evaluate(BOXES)}
    _, top, _, height = boxes["#list"]
    assert boxes["#detail"][1] >= top + height  # the detail is below the list
    for x, _, box_width, _ in boxes.values():
        assert 0 <= x <= x + box_width <= width


def test_without_javascript_list_links_and_figures_are_readable(
    visitors, served, polygon, sample_table
):
    visitor = visitors(served.url, java_script_enabled=False).open()
    visitor.page.locator('th[data-sort="z_score"] a').click()
    visitor.expect_tickers(found(sample_table, SAMPLE_DAY, "--sort", "z_score"))
    visitor.page.locator('tr[data-ticker="VTAK"] a').click()
    visitor.expect_detail("VTAK")
    visitor.expect("#detail").to_contain_text("460,548 trades")
    assert "JavaScript" in visitor.evaluate("document.getElementById('day-chart-box').textContent")
    visitor.page.locator("#filter").fill("na")
    visitor.page.locator("form button").first.click()
    by_z_score = found(sample_table, SAMPLE_DAY, "--sort", "z_score")
    visitor.expect_tickers(containing("na", by_z_score))
    visitor.page.locator("#previous-day").click()
    visitor.expect_day(DAY_BEFORE)
    assert polygon.requests == []


def test_the_header_row_stays_in_sight(visitor):
    visitor.resize(1280, 500)
    visitor.open("/?threshold=-9")
    visitor.page.locator("#anomalies tr[data-ticker]").last.scroll_into_view_if_needed()
    visitor.expect('th[data-sort="ticker"]').to_be_in_viewport()
    header = visitor.page.locator('th[data-sort="ticker"]').bounding_box()
    on_top = visitor.evaluate(
        "([x, y]) => document.elementFromPoint(x, y).closest('th')?.dataset.sort",
        [header["x"] + header["width"] / 2, header["y"] + header["height"] / 2],
    )
    assert on_top == "ticker"


def test_the_keyboard_reaches_days_fields_headers_and_rows_and_stays(visitor, sample_table):
    visitor.open()
    reached = {}
    for _ in range(30):
        visitor.press("Tab")
        name, is_outlined = visitor.evaluate(
            """() => {
                const element = document.activeElement;
                const part = element.closest("[data-sort], tr[data-ticker], [id]");
                return [part?.dataset.sort ?? part?.dataset.ticker ?? part?.id,
                    getComputedStyle(element).outlineStyle !== "none"];
            }"""
        )
        reached[name] = is_outlined
    wanted = {"previous-day", "date", "threshold", "filter", "csv", *COLUMNS, "VTAK"}
    assert wanted - set(reached) == set()
    # The date field marks the part of it that has the focus.
    assert [name for name in wanted - {"date"} if not reached[name]] == []
    visitor.page.locator('th[data-sort="z_score"] a').focus()
    visitor.press("Enter")
    visitor.expect_tickers(found(sample_table, SAMPLE_DAY, "--sort", "z_score"))
    visitor.expect('th[data-sort="z_score"] a').to_be_focused()
    visitor.page.locator("#anomalies tr[data-ticker] a").first.focus()
    visitor.press("ArrowDown", "ArrowDown")
    visitor.expect_detail("HEPS")
    visitor.expect('tr[data-ticker="HEPS"] a').to_be_focused()


def test_a_screen_reader_is_told_what_is_sorted_and_chosen(visitor):
    visitor.open().choose("NFLX")
    sorts = visitor.page.locator("th[data-sort]").evaluate_all(
        "headers => headers.map((header) => header.getAttribute('aria-sort'))"
    )
    assert dict(zip(COLUMNS, sorts)) == {**dict.fromkeys(COLUMNS, "none"), "trades": "descending"}
    selected = visitor.page.locator("#anomalies tr[data-ticker]").evaluate_all(
        "rows => rows.map((row) => row.getAttribute('aria-selected'))"
    )
    assert sorted(selected) == ["false"] * 17 + ["true"]
    assert visitor.chosen() == ["NFLX"]


def test_a_screen_reader_is_told_the_names_of_fields_links_and_charts(visitor):
    visitor.open("/?ticker=NFLX")
    assert visitor.evaluate("document.documentElement.lang") == "en"
    for field, label in (("date", "Day"), ("threshold", "Z-score above"), ("filter", "Filter")):
        labels = "(id) => [...document.getElementById(id).labels].map((l) => l.textContent.trim())"
        assert visitor.evaluate(labels, field) == [label]
    for link, label in (("previous-day", "Previous"), ("next-day", "Next")):
        visitor.expect(f"#{link}").to_have_attribute("aria-label", f"{label} trading day")
    for chart in ("day-chart", "history-chart"):
        visitor.expect_chart(chart)
        label = re.compile(": chart of NFLX$")
        visitor.expect(f"#{chart}").to_have_attribute("aria-label", label)


# Any ticker, also one that is no anomaly.


def test_a_ticker_that_is_no_anomaly_is_shown_by_its_link(visitor):
    visitor.open().choose("VTAK")
    visitor.page.locator("#filter").fill("aapl")
    visitor.page.locator("#list .message a").click()
    visitor.expect_detail("AAPL")
    assert visitor.query() == {"date": SAMPLE_DAY, "filter": "aapl", "ticker": "AAPL"}


@pytest.mark.parametrize("typed, ticker", [("aapl", "AAPL"), ("na", "NA"), ("vta", "VTAK")])
def test_enter_shows_the_ticker_that_was_typed_or_else_the_first_row(visitor, typed, ticker):
    visitor.open()
    visitor.press("/")
    visitor.page.keyboard.type(typed)
    visitor.press("Enter")
    visitor.expect_detail(ticker)
    assert visitor.query()["ticker"] == ticker


# The table is replaced by a new one.


@pytest.fixture
def growing(visitors, polygon, tmp_path):
    """A visitor of a table without the last day, and a function that replaces it by a whole one."""
    market = {date: [("ONLY", 10, 1)] for date in SAMPLE_DAYS}
    short = {date: market[date] for date in SAMPLE_DAYS[:-1]}
    whole = build_table(write_flat_files(tmp_path / "whole", market), tmp_path / "whole.pkl")
    table = build_table(write_flat_files(tmp_path / "short", short), tmp_path / "table.pkl")
    with running_gui(table, polygon.url, POLYGON_API_KEY=KEY) as gui:
        visitor = visitors(gui.url)
        yield visitor, lambda: whole.replace(table)
        visitor.context.close()


def test_the_right_arrow_leads_to_a_newly_built_day(growing):
    visitor, build = growing
    visitor.open().expect_day(DAY_BEFORE)
    build()
    visitor.press("ArrowRight")
    visitor.expect_day(SAMPLE_DAY)
    visitor.expect("#date").to_have_attribute("max", SAMPLE_DAY)


def test_a_new_table_is_announced_without_a_key_or_click(growing):
    visitor, build = growing
    visitor.page.clock.install()
    visitor.open().expect_day(DAY_BEFORE)
    build()
    visitor.page.clock.fast_forward(31_000)
    announcement = f"There is a new table up to {SAMPLE_DAY}. Go to {SAMPLE_DAY}"
    visitor.expect("#new-table").to_have_text(announcement)
    visitor.expect_day(DAY_BEFORE)
    visitor.expect("#date").to_have_attribute("max", SAMPLE_DAY)
    visitor.page.locator("#new-table a").click()
    visitor.expect_day(SAMPLE_DAY)
    visitor.expect("#new-table").to_be_empty()


# The focus.


def test_the_keys_still_work_when_the_focused_row_is_gone(visitor, sample_table):
    visitor.open()
    visitor.press("ArrowDown")
    visitor.expect_detail("VTAK")
    assert "VTAK" not in found(sample_table, DAY_BEFORE)
    visitor.press("ArrowLeft")
    visitor.expect_day(DAY_BEFORE)
    visitor.expect("#list").to_be_focused()
    visitor.press("ArrowLeft")
    visitor.expect_day(SAMPLE_DAYS[-3])


def test_sorting_shows_the_top_of_the_list(visitor):
    visitor.resize(1280, 400)
    visitor.open()
    visitor.press("End")
    visitor.expect_detail("AAp")
    scroll = "document.getElementById('list').scrollTop"
    assert visitor.evaluate(scroll) > 0
    visitor.page.locator('th[data-sort="close_price"] a').click()
    visitor.expect('th[data-sort="close_price"]').to_have_attribute("aria-sort", "descending")
    assert visitor.evaluate(scroll) == 0


def test_after_escape_the_arrow_keys_go_on_from_the_same_row(visitor, sample_table):
    tickers = found(sample_table)
    visitor.open()
    for ticker in tickers[:3]:
        visitor.press("ArrowDown")
        visitor.expect_detail(ticker)
    visitor.press("Escape")
    visitor.expect("#detail h2").to_have_count(0)
    visitor.expect(f'tr[data-ticker="{tickers[2]}"] a').to_be_focused()
    visitor.press("ArrowDown")
    visitor.expect_detail(tickers[3])


def test_home_and_end_choose_the_first_and_the_last_row(visitor, sample_table):
    tickers = found(sample_table)
    visitor.open()
    visitor.press("End")
    visitor.expect_detail(tickers[-1])
    visitor.press("Home")
    visitor.expect_detail(tickers[0])


def test_a_retry_keeps_the_focus_and_hands_it_to_the_chart(visitor, polygon):
    polygon.answer = BROKEN["server error"]
    visitor.open("/?date=2024-08-16&ticker=CSCO&threshold=-99")
    visitor.bars_message()
    button = visitor.page.locator("#day-chart-box button.retry")
    button.focus()
    with visitor.page.expect_response("**/api/bars?*"):
        visitor.press("Enter")
    expect(button).to_have_attribute("aria-disabled", "false")
    expect(button).to_be_focused()
    visitor.assert_refused("/api/bars", "/api/bars")
    polygon.answer = None
    visitor.press("Enter")
    visitor.expect_candles(len(polygon.bars_of("CSCO", "2024-08-16")))
    visitor.expect("#day-chart").to_be_focused()


# A ticker's own view.


def test_the_keys_of_the_list_work_in_a_tickers_own_view(visitor, sample_table):
    state = "threshold=4&sort=z_score&filter=e"
    visitor.open(f"/chart?ticker=HEPS&date={SAMPLE_DAY}&{state}")
    visitor.press("ArrowDown")
    visitor.expect_detail("EFSH")
    visitor.press("ArrowLeft")
    visitor.expect_day(DAY_BEFORE).expect_detail("EFSH")
    visitor.press("ArrowRight")
    visitor.expect_day(SAMPLE_DAY)
    visitor.press("ArrowUp")
    visitor.expect_detail("HEPS")
    visitor.press("Escape")
    options = ["--threshold", "4", "--sort", "z_score"]
    visitor.expect_tickers(containing("e", found(sample_table, SAMPLE_DAY, *options)))
    assert urlsplit(visitor.page.url).path == "/"
    state = {"threshold": "4", "sort": "z_score", "filter": "e"}
    assert visitor.query() == {"date": SAMPLE_DAY, "ticker": "HEPS", **state}


def test_the_title_is_the_same_after_a_click_and_a_reload(visitor):
    visitor.open().choose("VTAK")
    title = f"VTAK on {SAMPLE_DAY} · anomalies"
    expect(visitor.page).to_have_title(title)
    visitor.page.reload()
    expect(visitor.page).to_have_title(title)


def test_a_ticker_leads_to_its_previous_and_next_anomaly(visitor):
    visitor.open(f"/?date={SAMPLE_DAY}&ticker=VTAK")
    visitor.press("p")
    visitor.expect_day("2024-10-16").expect_detail("VTAK")
    visitor.page.locator("#next-anomaly").click()
    visitor.expect_day(SAMPLE_DAY).expect_detail("VTAK")
    assert urlsplit(visitor.page.url).path == "/"


# Layout.


def test_nothing_in_the_header_overlaps_and_the_divider_stays(visitor):
    widths = [860, 960, 1099, 1100, 1159, 1200, 1280, 1366, 1440]
    dividers = {width: set() for width in widths}
    filters = "min_price=1&min_trades=1&min_record=1&skip=thin,test,stale"
    for path in (
        f"/?date={SAMPLE_DAY}",
        f"/?date={SAMPLE_DAY}&{filters}",
        "/?date=2024-09-12",
        "/?filter=zzz",
        "/?date=2024-08-01",
    ):
        visitor.open(path)
        for width in widths:
            visitor.resize(width)
            assert visitor.evaluate(CUT, "#summary > *") == [], width
            assert visitor.evaluate("document.documentElement.scrollWidth") == width
            *boxes, (_, divider, _, _) = visitor.evaluate(
                """() => [...document.querySelectorAll(
                        "#steps, #summary, #settings > label, #filters-summary, #csv, #list")]
                    .map((element) => element.getBoundingClientRect())
                    .map(({ left, right, top, bottom }) => [left, right, top, bottom])"""
            )
            dividers[width].add(divider)
            for i, (left, right, top, bottom) in enumerate(boxes):
                assert 0 <= left <= right <= width
                for left2, right2, top2, bottom2 in boxes[:i]:
                    assert right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top
    assert {width: len(edges) for width, edges in dividers.items()} == dict.fromkeys(widths, 1)


@pytest.mark.parametrize("date", [SAMPLE_DAY, "2024-09-12", "2024-09-20"])
def test_nothing_in_the_list_is_cut(visitor, date):
    visitor.open(f"/?date={date}")
    for width in (390, 960, 1100, 1280, 1440):
        visitor.resize(width)
        shown = visitor.page.locator("#anomalies th:visible").evaluate_all(
            "headers => headers.map((header) => header.dataset.sort)"
        )
        assert shown == [*(name for name in COLUMNS if width >= HIDDEN_BELOW.get(name, 0)), None]
        assert visitor.evaluate(CUT, "#list, #anomalies :is(td, th, th a)") == [], width


# Candles and their time.


def test_each_of_two_candles_is_as_wide_as_a_minute(visitor, polygon):
    bar = {"o": 10, "h": 11, "l": 9, "c": 10.5, "v": 100, "vw": 10, "n": 2}
    times = [new_york_time("2024-08-19", minutes) for minutes in (9 * 60 + 30, 16 * 60)]
    polygon.bars["AMD", "2024-08-19"] = [{"t": time_, **bar} for time_ in times]
    visitor.open("/chart?date=2024-08-19&ticker=AMD")
    visitor.expect_candles(2)
    area = visitor.page.locator("#day-chart .nsewdrag").first.bounding_box()
    minute = area["width"] / 960
    candles = visitor.page.locator(CANDLES)
    for candle, minutes in zip(candles.all(), (330, 720)):
        left, width = candle.evaluate("(path) => [path.getBBox().x, path.getBBox().width]")
        assert 0 < width <= minute
        assert left + width / 2 == pytest.approx((minutes + 0.5) * minute, abs=0.01)


def zoom_in(visitor):
    """Zoom into a tenth of the day by dragging the pointer; returns the axes' ranges then."""
    before = visitor.evaluate(AXES)
    area = visitor.page.locator("#day-chart .nsewdrag").first.bounding_box()
    middle = area["y"] + area["height"] / 2
    visitor.page.mouse.move(area["x"] + area["width"] * 0.4, middle)
    visitor.page.mouse.down()
    visitor.page.mouse.move(area["x"] + area["width"] * 0.5, middle, steps=4)
    visitor.page.mouse.up()
    # The price axis is fitted last.
    wait_until(lambda: visitor.evaluate(AXES)["price"] != before["price"])
    return visitor.evaluate(AXES)


def hours(text):
    """The hours since midnight of a time on an axis, such as 2024-10-18 10:24:00.5."""
    return int(text[11:13]) + int(text[14:16]) / 60


def test_the_price_axis_follows_a_zoom_in_time(visitor, polygon):
    visitor.open().choose("VTAK")
    visitor.expect_candles(len(polygon.bars_of("VTAK", SAMPLE_DAY)))
    axes = zoom_in(visitor)
    # Four and five tenths of the 16 hours from 04:00 on; a pixel is less than 3 minutes.
    assert [hours(text) for text in axes["time"]] == pytest.approx([10.4, 12], abs=0.05)
    candles = visitor.trace("day-chart", name="price")
    visible = [
        i
        for i, x in enumerate(candles["x"])
        if axes["time"][0] < x + ":59" and x <= axes["time"][1]
    ]
    low = min(candles["low"][i] for i in visible)
    high = max(candles["high"][i] for i in visible)
    margin = 0.04 * (high - low)
    assert axes["price"] == pytest.approx([low - margin, high + margin])
    visitor.page.locator('#day-chart .modebar-btn[data-title="Whole day"]').click()
    whole = [f"{SAMPLE_DAY} 04:00", f"{SAMPLE_DAY} 20:00"]
    wait_until(lambda: visitor.evaluate(AXES)["time"] == whole)


def test_a_zoom_lasts_from_row_to_row_and_in_other_colours(visitor, polygon):
    visitor.open().choose("VTAK")
    visitor.expect_candles(len(polygon.bars_of("VTAK", SAMPLE_DAY)))
    time_range = zoom_in(visitor)["time"]
    visitor.press("ArrowDown")
    visitor.expect_detail("PEGY")
    visitor.expect_candles(len(polygon.bars_of("PEGY", SAMPLE_DAY)))
    assert visitor.evaluate(AXES)["time"] == time_range
    ground = visitor.evaluate(GROUND)
    visitor.page.emulate_media(color_scheme="dark")
    wait_until(lambda: visitor.evaluate(GROUND) != ground)
    assert visitor.evaluate(AXES)["time"] == time_range
    visitor.press("ArrowLeft")
    visitor.expect_day(DAY_BEFORE)
    visitor.trace("day-chart", name="price")
    assert visitor.evaluate(AXES)["time"] == [f"{DAY_BEFORE} 04:00", f"{DAY_BEFORE} 20:00"]


def test_the_old_chart_stays_until_the_new_one_is_there(visitor, polygon):
    date = "2024-08-20"
    visitor.open(f"/?date={date}&threshold=-99").choose("AVGO")
    sent = polygon.bars_of("AVGO", date)
    visitor.expect_candles(len(sent))
    polygon.answering.clear()
    visitor.choose("BA")
    visitor.expect("#day-chart-box .loading").to_be_visible()
    visitor.expect("#day-chart").to_have_attribute("data-ticker", "AVGO")
    visitor.expect(CANDLES).to_have_count(len(sent))
    polygon.answering.set()
    visitor.expect_candles(len(polygon.bars_of("BA", date)))


def test_the_previous_close_is_a_line_on_the_candles(visitor):
    close = read_days(SAMPLE_MARKET)["VTAK", DAY_BEFORE].close
    visitor.open().choose("VTAK")
    line = visitor.trace("day-chart", name=f"previous close {price(close)}")
    assert line["y"] == [close, close]


# How many requests are made.


def test_of_rows_passed_by_only_the_first_asks_for_bars(visitors, served, polygon, sample_table):
    tickers = found(sample_table, "2024-09-20")[:4]
    visitor = visitors(served.url)
    visitor.page.clock.install(time=0)
    visitor.open("/?date=2024-09-20")
    visitor.page.clock.pause_at(60_000)
    for ticker in tickers:
        visitor.press("ArrowDown")
        visitor.expect_detail(ticker)
        visitor.page.clock.run_for(240)
    visitor.page.clock.resume()
    visitor.expect_candles(len(polygon.bars_of(tickers[-1], "2024-09-20")))
    visitor.expect("#detail .after").to_contain_text("What came after:")
    # The first of them was the first row to be chosen, so its bars were asked for at once.
    assert visitor.tickers_asked_for("/api/bars") == [tickers[0], tickers[-1]]
    assert visitor.tickers_asked_for("/api/after") == [tickers[-1]]


@pytest.fixture
def limited(visitors, served, polygon):
    """A visitor who may ask for VTAK's bars again in two seconds. Their clock is stopped."""
    visitor = visitors(served.url)
    refusal = {"status": 429, "json": {"error": "Too many requests.", "retry_after": 2}}
    visitor.page.route("**/api/bars?*", lambda route: route.fulfill(**refusal), times=1)
    visitor.page.clock.install(time=0)
    visitor.page.clock.pause_at(60_000)
    visitor.open("/?ticker=VTAK")
    visitor.page.clock.run_for(100)
    assert visitor.bars_message() == "Too many requests."
    visitor.assert_refused("/api/bars")
    return visitor


def test_at_a_limit_the_chart_counts_down_and_tries_again_by_itself(limited, polygon):
    countdown = limited.page.locator("#day-chart-box .countdown")
    expect(countdown).to_have_text("Trying again in 2 s.")
    limited.page.clock.run_for(1000)
    expect(countdown).to_have_text("Trying again in 1 s.")
    limited.page.clock.run_for(999)
    assert limited.tickers_asked_for("/api/bars") == ["VTAK"]
    limited.page.clock.resume()
    limited.expect_candles(len(polygon.bars_of("VTAK", SAMPLE_DAY)))
    assert limited.tickers_asked_for("/api/bars") == ["VTAK", "VTAK"]


def test_after_a_limit_bars_wait_until_a_row_was_chosen_for_a_second(limited, polygon):
    for ticker in ("PEGY", "NFLX", "JDZG"):
        limited.press("ArrowDown")
        limited.expect_detail(ticker)
        limited.page.clock.run_for(999)
    assert limited.tickers_asked_for("/api/bars") == ["VTAK"]
    limited.page.clock.resume()
    limited.expect_candles(len(polygon.bars_of("JDZG", SAMPLE_DAY)))
    assert limited.tickers_asked_for("/api/bars") == ["VTAK", "JDZG"]


ARTICLE = {
    "title": "VTAK <b>rises</b>",
    "publisher": {"name": "The Wire"},
    "published_utc": f"{SAMPLE_DAY}T13:05:00Z",
    "article_url": "https://example.com/1",
    "insights": None,
}


def test_headlines_are_asked_for_by_a_click_and_only_once(visitor, polygon):
    odd = {
        "title": "Second",
        "published_utc": f"{SAMPLE_DAY}T14:00:00Z",
        "article_url": "ftp://x",
    }
    polygon.articles = {"VTAK": [ARTICLE, odd]}
    visitor.open().choose("VTAK")
    visitor.expect_chart("day-chart")
    button = visitor.page.locator(".headlines-button")
    button.click()
    items = visitor.page.locator(".headlines li")
    expect(items).to_have_text(["10-18 09:05 VTAK <b>rises</b> The Wire", "10-18 10:00 Second"])
    expect(items.locator("a")).to_have_count(1)
    expect(items.locator("a")).to_have_attribute("href", "https://example.com/1")
    visitor.expect(".headlines").to_contain_text("A headline is not a cause.")
    button.click(force=True)  # it is disabled by now: a second click asks for nothing
    polygon.articles = {}
    visitor.choose("PEGY")
    visitor.expect(".headlines").to_be_hidden()
    visitor.page.locator(".headlines-button").click()
    visitor.expect(".headlines").to_contain_text("No headline on PEGY in Polygon's feed")
    assert visitor.tickers_asked_for("/api/headlines") == ["VTAK", "PEGY"]


# Faults.


def test_a_day_outside_the_table_is_shown_with_a_link_to_the_nearest(visitor):
    visitor.open()
    visitor.page.locator("#date").fill("2031-01-02")
    visitor.expect("#list .message").to_contain_text("2031-01-02")
    visitor.page.locator("#list .message a").click()
    visitor.expect_day(SAMPLE_DAY)
    visitor.assert_refused("/")


def test_when_the_server_is_gone_address_and_detail_stay_as_they_are(
    visitors, sample_table, polygon
):
    with running_gui(sample_table, polygon.url, POLYGON_API_KEY=KEY) as gui:
        visitor = visitors(gui.url).open().choose("VTAK")
        visitor.expect_chart("history-chart").expect_chart("day-chart")
        gui.expected_status = -signal.SIGKILL
        gui.process.kill()
        gui.process.wait()
        address = visitor.page.url
        for act in (
            lambda: visitor.press("ArrowDown"),
            lambda: visitor.press("ArrowLeft"),
            visitor.page.go_back,
        ):
            visitor.evaluate("document.getElementById('notice').textContent = ''")
            act()
            visitor.expect("#notice").to_contain_text("does not answer")
            assert visitor.page.url == address
            assert visitor.chosen() == ["VTAK"]
            visitor.expect_detail("VTAK")
        assert visitor.complaints
        assert all("ERR_CONNECTION_REFUSED" in text for text in visitor.complaints)
        visitor.complaints.clear()
        visitor.context.close()


# Colours, motion, and the days of the history by keyboard.


def test_candles_and_volume_are_filled_where_the_price_fell_else_hollow(visitor, polygon):
    visitor.open().choose("VTAK")
    candles = visitor.trace("day-chart", name="price")
    volume = visitor.trace("day-chart", name="volume")["marker"]
    ground = visitor.evaluate(GROUND)
    up, down = (candles[name]["line"]["color"] for name in ("increasing", "decreasing"))
    assert len({up, down, ground}) == 3
    assert candles["increasing"]["fillcolor"] == ground
    assert candles["decreasing"]["fillcolor"] == down
    fell = [bar["c"] < bar["o"] for bar in polygon.bars_of("VTAK", SAMPLE_DAY)]
    assert volume["color"] == [down if bar_fell else ground for bar_fell in fell]
    assert volume["line"]["color"] == [down if bar_fell else up for bar_fell in fell]


def test_forced_colours_show_the_chosen_row(visitor):
    visitor.page.emulate_media(forced_colors="active")
    visitor.open("/?ticker=VTAK")
    grounds = visitor.page.locator("#anomalies tr[data-ticker]").evaluate_all(
        "rows => rows.slice(0, 2).map((row) => getComputedStyle(row).backgroundColor)"
    )
    assert grounds[0] != grounds[1]


def test_with_reduced_motion_the_loading_sign_does_not_turn(visitor, polygon):
    polygon.answering.clear()
    visitor.page.emulate_media(reduced_motion="reduce")
    visitor.open("/?date=2024-08-22&ticker=AAPL")
    visitor.expect("#day-chart-box .loading").to_be_visible()
    motion = "getComputedStyle(document.querySelector('.loading'), '::before').animationName"
    assert visitor.evaluate(motion) == "none"
    visitor.page.emulate_media(reduced_motion="no-preference")
    assert visitor.evaluate(motion) == "turn"


@pytest.mark.parametrize(
    ("ticker", "figures"),
    [
        # AAp's five days: mean 6.4, deviation 0.5477. 6.4 + 3 * 0.5477 = 8.04.
        ("AAp", ["z-score 39.44", "average 6.4", "average + 3 std dev 8.04"]),
        # BIVI's: mean 660.8, deviation 156.1384. 660.8 + 3 * 156.1384 = 1129.2.
        ("BIVI", ["z-score 1,015.78", "average 661", "average + 3 std dev 1,129"]),
    ],
)
def test_the_history_writes_its_figures_as_the_list_does(visitor, ticker, figures):
    visitor.open(f"/chart?date={SAMPLE_DAY}&ticker={ticker}")
    visitor.expect_chart("history-chart")
    shown = visitor.readout("history-chart").locator("span")
    for figure in figures:
        expect(shown.filter(has_text=re.compile(f"^{re.escape(figure)}$"))).to_have_count(1)


def test_a_change_of_0_has_no_colour_in_the_history(visitors, tmp_path, polygon):
    market = {date: [("FLAT", n, 2.5)] for n, date in enumerate(SAMPLE_DAYS[:3], 1)}
    table = build_table(write_flat_files(tmp_path / "csv", market), tmp_path / "table.pkl")
    with running_gui(table, polygon.url) as gui:
        visitor = visitors(gui.url).open(f"/chart?date={SAMPLE_DAYS[2]}&ticker=FLAT")
        visitor.expect_chart("history-chart")
        change = visitor.readout("history-chart").locator("span").last
        expect(change).to_have_text("change 0.00 %")
        assert change.locator("b").get_attribute("class") in ("", None)
        visitor.refusals.clear()
        visitor.context.close()


def test_the_days_of_the_history_are_reached_by_keyboard(visitor):
    visitor.open().choose("VTAK")
    visitor.expect_chart("history-chart")
    readout = visitor.readout("history-chart")
    readout.focus()
    visitor.press("ArrowLeft", "ArrowLeft")
    expect(readout).to_have_attribute("aria-valuetext", re.compile("2024-10-16"))
    # VTAK's trades on the five days before were 851, 803, 577, 820 and 913: their mean is 792.8,
    # their deviation 127.72. (28449 - 792.8) / 127.72 = 216.54 and 792.8 + 3 * 127.72 = 1175.96.
    figures = ["2024-10-16", "trades 28,449", "z-score 216.54", "average 793"]
    figures.append("average + 3 std dev 1,176")
    day = read_days(SAMPLE_MARKET)["VTAK", "2024-10-16"]
    change = (day.close / day.previous_close - 1) * 100
    figures += [f"close {price(day.close)}", f"change {change:+,.2f} %"]
    expect(readout.locator("span")).to_have_text(figures)
    visitor.expect_day(SAMPLE_DAY)
    visitor.press("Enter")
    visitor.expect_day("2024-10-16").expect_detail("VTAK")


def test_buttons_set_how_many_days_the_history_shows_of_any_ticker(visitor):
    visitor.open().choose("VTAK")
    assert visitor.trace("history-chart", type="bar")["x"] == SAMPLE_DAYS
    visitor.page.locator('.history-lengths button[data-sessions="20"]').click()
    wait_until(lambda: visitor.trace("history-chart", type="bar")["x"] == SAMPLE_DAYS[-20:])
    visitor.choose("PEGY")
    assert visitor.trace("history-chart", type="bar")["x"] == SAMPLE_DAYS[-20:]
    visitor.page.locator('.history-lengths button[data-sessions="all"]').click()
    wait_until(lambda: visitor.trace("history-chart", type="bar")["x"] == SAMPLE_DAYS)


def test_the_list_can_be_downloaded_as_csv(visitor, sample_table):
    visitor.open()
    visitor.page.locator("#filter").fill("aa")
    visitor.expect("#csv").to_have_attribute("href", re.compile("filter=aa"))
    with visitor.page.expect_download() as download:
        visitor.page.locator("#csv").click()
    lines = download.value.path().read_text().splitlines()
    tickers = [line.split(",")[0] for line in lines[1:]]
    assert tickers == containing("aa", found(sample_table))


# Record, marks, the share of anomalies, further filters, what came after.


FILTERS = [
    ("min_price", "2", ["--min-price", "2"]),
    ("min_trades", "5000", ["--min-trades", "5000"]),
    ("skip", "split", ["--skip", "split"]),
    ("skip", "thin", ["--skip", "thin"]),
]


def set_filter(visitor, name, value):
    """Open the panel of further filters and set one of them."""
    if not visitor.evaluate("document.getElementById('filters').open"):
        visitor.page.locator("#filters-summary").click()
    if name == "skip":
        visitor.page.locator(f"#skip-{value}").check()
    elif name == "min_record":
        visitor.page.locator("#min_record").select_option(value)
    else:
        visitor.page.locator(f"#{name}").fill(value)
        visitor.press("Enter")


def test_a_mark_tells_its_reason_to_pointer_keyboard_and_screen_reader(visitor):
    reason = "The open is about the previous close times a split's ratio, such as 2 or 1/3."
    visitor.open()
    row = visitor.page.locator('tr[data-ticker="BIVI"]')
    expect(row.locator(".mark")).to_have_attribute("title", reason)
    (described,) = row.locator("td.marks").get_attribute("aria-describedby").split()
    visitor.expect(f"#{described}").to_have_text(reason)
    visitor.choose("BIVI")
    mark = visitor.page.locator("#detail .mark")
    expect(mark).to_have_text(f"split? {reason}")
    seen = "element => element.getBoundingClientRect().width > 100"
    assert not mark.locator(".reason").evaluate(seen)
    visitor.press("Tab")
    expect(mark).to_be_focused()
    assert mark.locator(".reason").evaluate(seen)
    visitor.press("Tab")
    assert not mark.locator(".reason").evaluate(seen)
    mark.hover()
    assert mark.locator(".reason").evaluate(seen)


def test_the_detail_lists_each_mark_of_its_row(visitor):
    visitor.open("/?date=2024-09-12&ticker=ZVZZT").expect_detail("ZVZZT")
    visitor.expect("#detail .mark").to_contain_text(["split?", "test"])
    visitor.open(f"/chart?date={SAMPLE_DAY}&ticker=VTAK").expect_detail("VTAK")
    visitor.expect("#detail .mark").to_have_count(0)


@pytest.mark.parametrize("path", ["/?", "/chart?ticker=VTAK&threshold=9&"])
def test_the_header_tells_the_days_share_of_anomalies(visitor, path):
    # 18 of 148 are above 3, whatever the threshold.
    visitor.open(f"{path}date={SAMPLE_DAY}")
    share = "12.2 % of 148 tickers have a z-score above 3; usually 2.8 %"
    visitor.expect("#summary .share").to_have_text(share)


@pytest.mark.parametrize("name, value, options", FILTERS)
def test_a_further_filter_leaves_out_what_the_querier_does(
    visitor, sample_table, name, value, options
):
    tickers = found(sample_table, SAMPLE_DAY, *options)
    assert 0 < len(tickers) < 18
    visitor.open()
    set_filter(visitor, name, value)
    visitor.expect_tickers(tickers)
    visitor.expect("#filters-summary").to_have_text("More filters: 1")
    visitor.expect("#summary").to_contain_text(f"{len(tickers)} of 18 anomalies")
    assert visitor.query() == {name: value}


def test_the_record_is_filtered_by_choice_or_by_any_number_in_the_address(visitor, sample_table):
    records = visitor.open().page.locator("#min_record option")
    expect(records).to_have_text(["any", "60", "250"])
    set_filter(visitor, "min_record", "60")
    visitor.expect("#list .message").to_have_text("No anomaly passes the filters.")
    visitor.open("/?min_record=30")
    visitor.expect_tickers(found(sample_table, SAMPLE_DAY, "--min-record", "30"))
    expect(records).to_have_text(["any", "30", "60", "250"])
    visitor.expect("#min_record").to_have_value("30")
    set_filter(visitor, "min_record", "")
    visitor.expect_tickers(found(sample_table))
    expect(records).to_have_text(["any", "60", "250"])


def test_the_further_filters_stay_until_they_are_cleared(visitor, sample_table):
    visitor.open()
    wanted = [("min_price", "2"), ("skip", "split"), ("skip", "thin")]
    for count, (name, value) in enumerate(wanted, 1):
        set_filter(visitor, name, value)
        visitor.expect("#filters-summary").to_have_text(f"More filters: {count}")
    options = ["--min-price", "2", "--skip", "split,thin"]
    visitor.expect_tickers(found(sample_table, SAMPLE_DAY, *options))
    filters = {"min_price": "2", "skip": "split,thin"}
    assert visitor.query() == filters
    visitor.page.locator('th[data-sort="record"]').click()
    visitor.expect('th[data-sort="record"]').to_have_attribute("aria-sort", "descending")
    visitor.press("ArrowLeft")
    visitor.expect_day(DAY_BEFORE)
    visitor.expect_tickers(found(sample_table, DAY_BEFORE, "--sort", "record", *options))
    visitor.press("ArrowRight")
    visitor.expect_day(SAMPLE_DAY)
    visitor.press("ArrowDown")
    first = found(sample_table, SAMPLE_DAY, "--sort", "record", *options)[0]
    visitor.expect_detail(first)
    state = {**filters, "sort": "record", "date": SAMPLE_DAY}
    assert visitor.query() == {**state, "ticker": first}
    for link in (".own-page", "#csv"):
        address = visitor.page.locator(link).get_attribute("href")
        assert parameters(address).items() >= state.items()
    visitor.page.locator(".own-page").click()
    visitor.expect("#back-to-list").to_be_visible()
    visitor.press("Escape")
    visitor.expect("#min_price").to_have_value("2")
    visitor.expect("#skip-thin").to_be_checked()
    visitor.page.locator("#filters-summary").click()
    visitor.page.locator("#clear-filters").click()
    visitor.expect_tickers(found(sample_table, SAMPLE_DAY, "--sort", "record"))
    assert visitor.query() == {"sort": "record", "date": SAMPLE_DAY, "ticker": first}
    visitor.expect("#min_price").to_have_value("")
    visitor.expect("#skip-thin").not_to_be_checked()
    visitor.expect("#filters-summary").to_have_text("More filters")
    visitor.page.go_back()
    visitor.expect("#min_price").to_have_value("2")
    visitor.expect("#skip-thin").to_be_checked()


def test_the_further_filters_are_reached_and_left_by_keyboard(visitor, sample_table):
    visitor.open()
    visitor.page.locator("#filters-summary").focus()
    visitor.press("Enter", "Tab")
    visitor.expect("#min_price").to_be_focused()
    visitor.press("2", "Tab")
    visitor.expect_tickers(found(sample_table, SAMPLE_DAY, "--min-price", "2"))
    visitor.expect("#min_trades").to_be_focused()
    # Arrows and letters are the fields' own while the panel is open.
    visitor.press("Tab", "ArrowDown")
    visitor.expect("#min_record").to_have_value("60")
    visitor.expect_tickers([])
    visitor.press("Escape")
    visitor.expect("#filters .panel").to_be_hidden()
    visitor.expect("#filters-summary").to_be_focused()
    visitor.expect("#filters-summary").to_have_text("More filters: 2")


def test_an_invalid_number_is_not_sent_to_the_server(visitor, sample_table):
    visitor.open()
    set_filter(visitor, "min_trades", "-5")
    set_filter(visitor, "min_price", "2")
    visitor.expect_tickers(found(sample_table, SAMPLE_DAY, "--min-price", "2"))
    assert visitor.query() == {"min_price": "2"}


def test_the_detail_says_what_came_after(visitor):
    days, start = read_days(SAMPLE_MARKET), SAMPLE_DAYS.index("2024-09-20")
    closes = {ticker: day.close for (ticker, date), day in days.items() if date == "2024-09-20"}
    last_closes = {
        ticker: days[ticker, date].close
        for date in SAMPLE_DAYS[start + 1 : start + 21]
        for ticker in closes
        if (ticker, date) in days
    }
    changes = [(last_closes[ticker] / closes[ticker] - 1) * 100 for ticker in last_closes]
    visitor.open("/?date=2024-09-20").choose("SWN")
    # Closes: 6.86; 6.94 and 7.14 one and five days later; on 2024-09-30, its last day, 7.20.
    visitor.expect("#detail .after").to_have_text(
        "What came after: next day 1.17 %, five days later 4.08 %, twenty days later 4.96 %;"
        f" the median ticker twenty days later {median(changes):.2f} %."
    )
    visitor.open("/?date=2024-09-30&ticker=SWN&threshold=-99").expect_detail("SWN")
    visitor.expect("#detail .after").to_contain_text("no trades on the next day")
    visitor.open(f"/chart?date={SAMPLE_DAY}&ticker=VTAK").expect_detail("VTAK")
    visitor.expect("#detail .after").to_have_text(
        "What came after: not known yet, because the table ends with this day."
    )


def test_neither_list_nor_charts_wait_for_what_came_after(visitor, polygon):
    held = []
    visitor.page.route("**/api/after?*", lambda route: held.append(route))
    visitor.open("/?date=2024-09-20")
    with visitor.page.expect_request("**/api/after?*"):
        visitor.choose("SWN")
    visitor.expect_candles(len(polygon.bars_of("SWN", "2024-09-20")))
    visitor.expect_chart("history-chart")
    visitor.expect("#detail .after").to_have_text("")
    before = visitor.evaluate(BOXES)
    held[0].continue_()
    visitor.expect("#detail .after").to_contain_text("next day 1.17 %")
    assert visitor.evaluate(BOXES) == before


def test_a_fault_of_what_came_after_is_one_line(visitor, polygon):
    body = json.dumps({"error": "The table is being replaced."})
    visitor.page.route("**/api/after?*", lambda route: route.fulfill(status=503, body=body))
    visitor.open("/?date=2024-09-20").choose("SWN")
    visitor.expect("#detail .after").to_have_text(
        "What came after is not known: The table is being replaced."
    )
    visitor.expect_candles(len(polygon.bars_of("SWN", "2024-09-20")))
    visitor.expect("#notice").to_be_empty()
    visitor.assert_refused("/api/after")


def test_the_charts_stay_where_they_are_from_row_to_row(visitor):
    positions = {width: set() for width in (960, 1150, 1280, 1440)}
    for date, tickers in (
        (SAMPLE_DAY, ["VTAK", "BIVI", "AAp"]),
        ("2024-09-20", ["NKLA", "AACIU"]),
    ):
        visitor.open(f"/?date={date}")
        for ticker in tickers:
            visitor.choose(ticker)
            visitor.expect("#detail .after").to_contain_text("What came after:")
            for width in positions:
                visitor.resize(width)
                positions[width].add(str(visitor.evaluate(BOXES)[3:]))  # from #day-chart-box on
    assert [len(boxes) for boxes in positions.values()] == [1, 1, 1, 1]


def test_the_wheel_zooms_the_candles_and_elsewhere_scrolls(visitor, polygon):
    visitor.resize(1280, 760)  # here the detail is scrolled, but some of the history is in sight
    visitor.open().choose("VTAK").expect_candles(len(polygon.bars_of("VTAK", SAMPLE_DAY)))
    visitor.expect_chart("history-chart")
    scroll = "document.getElementById('detail').scrollTop"
    history = visitor.page.locator("#history-chart .nsewdrag").first.bounding_box()
    visitor.page.mouse.move(history["x"] + 20, history["y"] + 5)
    visitor.page.mouse.wheel(0, 40)
    wait_until(lambda: visitor.evaluate(scroll) == 40)
    area = visitor.page.locator("#day-chart .nsewdrag").first.bounding_box()
    visitor.page.mouse.move(area["x"] + area["width"] / 2, area["y"] + 40)
    visitor.page.mouse.wheel(0, -200)
    wait_until(lambda: visitor.evaluate(AXES)["time"][0] > f"{SAMPLE_DAY} 04:01")
    assert visitor.evaluate(scroll) == 40


# What the user does while a view or a chart loads.


def hold(visitor, pattern):
    """The list of requests for addresses with the pattern; each waits until a test continues it.

    Call it before the visitor opens a view: now and then, a request of a view that was open already
    went past a new route to the server.
    """
    assert visitor.page.url == "about:blank"
    held = []
    visitor.page.route(re.compile(pattern), lambda route: held.append(route))
    return held


def wait_for_request(visitor, held):
    """Wait until held has a request. Playwright tells of requests only while it is called."""
    wait_until(lambda: visitor.evaluate("1") and held)


def dropped_request(visitor, part):
    """A context manager: in it, the page drops a request for an address with that part."""
    return visitor.page.expect_event("requestfailed", lambda request: part in request.url)


def test_a_row_clicked_while_another_day_loads_does_not_mix_two_days(visitor):
    views, details = hold(visitor, rf"/\?date={DAY_BEFORE}"), hold(visitor, r"/chart\?")
    visitor.open()
    visitor.press("ArrowLeft")
    wait_for_request(visitor, views)
    visitor.page.locator('tr[data-ticker="VTAK"] td').nth(1).click()
    wait_for_request(visitor, details)
    with dropped_request(visitor, "/chart?"):
        views[0].continue_()
    visitor.expect_day(DAY_BEFORE)
    assert visitor.query() == {"date": DAY_BEFORE}
    visitor.expect("#detail h2").to_have_count(0)


@pytest.mark.parametrize("name, value", [("skip", "split"), ("min_record", "60")])
def test_a_filter_set_while_a_view_loads_is_not_lost(visitor, name, value):
    held = hold(visitor, "skip=thin$")
    visitor.open()
    set_filter(visitor, "skip", "thin")
    wait_for_request(visitor, held)
    set_filter(visitor, name, value)
    held[0].continue_()
    visitor.expect("#filters-summary").to_have_text("More filters: 2")
    expected = {"skip": "split,thin"} if name == "skip" else {"skip": "thin", name: value}
    assert visitor.query() == expected


def test_the_history_length_that_was_chosen_last_is_shown(visitor):
    held = hold(visitor, "sessions=all")
    visitor.open().choose("VTAK").expect_chart("history-chart")
    visitor.page.locator('.history-lengths button[data-sessions="all"]').click()
    wait_for_request(visitor, held)
    with dropped_request(visitor, "sessions=all"):
        visitor.page.locator('.history-lengths button[data-sessions="20"]').click()
    wait_until(lambda: visitor.trace("history-chart", type="bar")["x"] == SAMPLE_DAYS[-20:])


def test_the_announcement_of_a_table_that_ends_on_the_shown_day_goes_away(
    visitors, sample_table, polygon, tmp_path
):
    table = shutil.copy(sample_table, tmp_path / "table.pkl")
    with running_gui(table, polygon.url, POLYGON_API_KEY=KEY) as gui:
        visitor = visitors(gui.url).open()
        replace_table(table, sample_table)
        visitor.press("ArrowRight")
        visitor.expect("#new-table").to_contain_text(f"There is a new table up to {SAMPLE_DAY}.")
        visitor.press("ArrowLeft")
        visitor.expect_day(DAY_BEFORE)
        visitor.expect("#new-table").to_be_empty()
        visitor.context.close()


def test_an_answer_that_is_no_view_is_told_and_changes_nothing(visitor):
    visitor.page.route(
        f"**/?date={DAY_BEFORE}", lambda route: route.fulfill(status=400, body="Bad Request")
    )
    visitor.open()
    visitor.press("ArrowLeft")
    visitor.expect("#notice").to_have_text("The server's answer makes no sense.")
    visitor.expect_day(SAMPLE_DAY)
    assert visitor.query() == {}
    visitor.assert_refused("/")


def test_a_fault_of_the_page_is_not_blamed_on_the_server(visitor):
    visitor.open()
    visitor.evaluate("history.pushState = () => { throw new TypeError('made up'); }; 0")
    visitor.press("ArrowLeft")
    visitor.expect("#notice").to_have_text("This page has an error (made up): reload it.")
    assert visitor.complaints and all("made up" in text for text in visitor.complaints)
    visitor.complaints.clear()


def test_what_came_after_is_not_known_if_the_answer_is_cut_off(visitor):
    visitor.page.route("**/api/after?*", lambda route: route.fulfill(body='{"words": "next'))
    visitor.open(f"/chart?date={SAMPLE_DAY}&ticker=VTAK")
    visitor.expect("#detail .after").to_have_text(
        "What came after is not known: The server's answer makes no sense."
    )


def test_the_charts_write_prices_with_two_to_four_decimals_or_digits(visitor):
    prices = [1234.5678, 12.346, 1, 0.99999, 0.91, 0.5, 0.01275, 0.012347, 0.00003456789, 0]
    texts = ["1,234.5678", "12.346", "1.00", "1.00", "0.91", "0.50", "0.01275", "0.01235"]
    visitor.open()
    script = "async (prices) => prices.map((await import('/static/answers.js')).formatPrice)"
    assert visitor.evaluate(script, prices) == [*texts, "0.00003457", "0.00"]
