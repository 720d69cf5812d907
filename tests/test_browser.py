"""The browser half in a real browser: Playwright drives Debian's Chromium to the real server."""

import calendar
import json
import os
import re
import shutil
import struct
from statistics import mean, median, stdev
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from fakes.polygon import BROKEN, DROP, EMPTY, RATE_LIMIT, REFUSALS, FakePolygon, read_days
from helpers.flat_files import new_york_time, write_flat_files
from helpers.gui import KEY, running_gui, wait_until
from helpers.markets import SAMPLE_DAY, SAMPLE_DAYS, SAMPLE_MARKET
from helpers.scripts import build_table, run
from tools.make_screenshot import find_chromium, launch_chromium, take_screenshot

try:
    from playwright.sync_api import expect, sync_playwright
except ImportError:
    sync_playwright = None
else:
    expect.set_options(timeout=15_000)

DAY_BEFORE = "2024-10-17"
# The server keeps bars that it has fetched: tests that watch them arrive do so on this day.
QUIET_DAY = "2024-10-11"
VIEWPORT = {"width": 1280, "height": 800}
COLUMNS = ["ticker", "trades", "avg_trades", "std_trades"]
COLUMNS += ["z_score", "times_normal", "record", "close_price", "price_diff"]
# What is left out where the window is narrower than so many pixels.
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
BOXES = """() => ["#list", "#detail", "#detail h2", "#day-chart-box", "#day-chart",
    "#history-chart-box", "#history-chart"].map((selector) => {
        const { x, y, width, height } = document.querySelector(selector).getBoundingClientRect();
        return [selector, x, y, width, height];
    })"""
# When the last of a ticker's candles is drawn and painted, in ms of the page's clock.
WATCH_CANDLES = """([ticker, count]) => {
    window.candlesDrawn = new Promise((resolve, reject) => {
        setTimeout(() => reject(new Error("no candles within 10 s")), 10000);
        const look = () => document.querySelector("#detail h2")?.textContent === ticker
            && document.querySelector("#day-chart").dataset.ticker === ticker
            && document.querySelectorAll('#day-chart path.box:not([d="M0,0Z"])').length === count;
        const watcher = new MutationObserver(() => {
            if (!look()) return;
            watcher.disconnect();
            requestAnimationFrame(() => setTimeout(() => resolve(performance.now())));
        });
        watcher.observe(document.body, { childList: true, subtree: true });
    });
}"""
DRAWING_TIME = """async (ticker) => {
    const drawn = await window.candlesDrawn;
    const entries = performance.getEntriesByType("resource");
    const arrival = entries.filter(({ name }) =>
        name.includes("/api/bars") && name.includes(`ticker=${ticker}&`));
    return drawn - arrival[0].responseEnd;
}"""
# How long plotly.js itself takes for the chart that stands there, in ms.
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
# What does not fit where it stands.
CUT = """(selector) => [...document.querySelectorAll(selector)]
    .filter((element) => element.scrollWidth > element.clientWidth
        || element.getBoundingClientRect().right > innerWidth)
    .map((element) => element.textContent)"""
CONTRASTS = """() => {
    const channels = (color) => color.match(/[\\d.]+/g).map(Number);
    const luminance = (color) => channels(color).slice(0, 3).map((value) => value / 255)
        .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (element) => {
        const color = getComputedStyle(element).backgroundColor;
        return (channels(color)[3] ?? 1) ? color : ground(element.parentElement);
    };
    const contrast = (element, property) => {
        const both = [getComputedStyle(element)[property], ground(element)].map(luminance);
        return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
    };
    const all = (selector) => [...document.querySelectorAll(selector)];
    return {
        ground: luminance(ground(document.querySelector("#detail"))),
        low: [
            ...all("h1, h2, h3, td, th, th a, td a, label, p, .mark").map((e) => [e, "color"]),
            ...all("#day-chart .xtick text, #history-chart .xtick text").map((e) => [e, "fill"]),
        ].map(([element, property]) => [element.textContent.trim(), contrast(element, property)])
            .filter(([_, value]) => value < 4.5),
    };
}"""


class Visitor:
    """A person with a browser on the GUI; what must not happen there is noted in complaints.

    refusals holds the answers with a status of 400 or more. A test that causes some clears it.
    """

    def __init__(self, context, url):
        self.url, self.complaints, self.refusals = url, [], []
        self.context, self.page = context, context.new_page()
        self.page.on("console", self.hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", self.see_request)
        self.page.on("response", self.see_response)

    def hear(self, message):
        # What was refused is in refusals already.
        if not message.text.startswith("Failed to load resource: the server responded"):
            self.complaints.append(message.text)

    def see_request(self, request):
        if not request.url.startswith((f"{self.url}/", "data:", "blob:")):
            self.complaints.append(f"asked for {request.url}")

    def see_response(self, response):
        if response.status >= 400:
            self.refusals.append(response.url)

    def open(self, path="/"):
        self.page.goto(self.url + path)
        return self

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
        return {name: text for name, (text,) in parse_qs(urlsplit(self.page.url).query).items()}

    def chosen(self):
        return self.page.locator('tr[aria-selected="true"]').evaluate_all(
            "rows => rows.map((row) => row.dataset.ticker)"
        )

    def expect_chart(self, chart_id):
        """Wait until a chart is that of the ticker and day in the detail, not the one before."""
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
        self.expect_chart("day-chart")
        # Two more are empty; they make plotly draw a candle as wide as a minute.
        self.expect('#day-chart path.box:not([d="M0,0Z"])').to_have_count(count)

    def bars_message(self):
        """The sentence in the minute candles' place, when there is one."""
        message = self.page.locator("#day-chart-box .message")
        expect(message).to_be_visible()
        expect(message.locator("button.retry")).to_be_visible()
        return message.locator(".sentence").inner_text()


def missing():
    if sync_playwright is None:
        return "playwright is missing: pip install -r tests/requirements.txt"
    install = "apt-get install chromium-headless-shell"
    return None if find_chromium() else f"Chromium is missing: {install}"


@pytest.fixture(scope="module")
def browser():
    if missing():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(missing())
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
    """The stand-in for Polygon, in order."""
    running_polygon.answer = None
    running_polygon.answering.set()
    running_polygon.requests.clear()
    yield running_polygon
    running_polygon.answering.set()


@pytest.fixture(scope="module")
def served(browser, sample_table, running_polygon):
    """The GUI on the sample market, started once: bars that it has fetched it has."""
    with running_gui(sample_table, running_polygon.url, POLYGON_API_KEY=KEY) as gui:
        yield gui


@pytest.fixture
def visitors(browser):
    """A function that makes visitors; in the end none of them may have had to complain."""
    all_of_them = []

    def visitor(url, **options):
        context = browser.new_context(**{"viewport": VIEWPORT, **options})
        all_of_them.append(Visitor(context, url))
        return all_of_them[-1]

    yield visitor
    for one in all_of_them:
        one.context.close()
        assert one.complaints == []
        assert one.refusals == []


@pytest.fixture(scope="module")
def shared_tab(browser, served):
    """A tab on the GUI that stays open, so that plotly.js is compiled once and not in each test."""
    tab = browser.new_context(viewport=VIEWPORT).new_page()
    tab.goto(f"{served.url}/static/style.css")
    yield tab
    tab.context.close()


@pytest.fixture
def visitor(shared_tab, served, polygon):
    """A visitor in a new tab. One that changes the browser's clock comes from visitors."""
    shared_tab.evaluate("localStorage.clear()")
    one = Visitor(shared_tab.context, served.url)
    yield one
    one.page.close()
    assert one.complaints == []
    assert one.refusals == []


def ask_querier(table, date, *options):
    """What the querier prints for the date: a list of the words of each row."""
    lines = run("query-lookup-table.py", date, "--table", table, *options).stdout.splitlines()
    return [line.split() for line in lines[5:]]


def found(table, date=SAMPLE_DAY, *options):
    return [row[0] for row in ask_querier(table, date, *options)]


def rounding(field, value):
    """How far from a value its text in the list may be: half of the last digit that is shown."""
    if field in ("avg_trades", "std_trades") and value >= 99.95:
        return 0.5
    if field in ("avg_trades", "std_trades"):  # three digits
        return 0.005 * value
    if field == "close_price" and value < 1:  # four digits
        return 0.0005 * value
    return {"trades": 0, "times_normal": 0.05}.get(field, 0.005)


def number(text):
    return float(re.sub("[,+]", "", text).replace("\N{MINUS SIGN}", "-"))


# The list.


@pytest.mark.parametrize("date", [SAMPLE_DAY, "2024-09-12", "2024-08-20"])
def test_the_rows_equal_what_the_querier_prints(visitor, sample_table, date):
    visitor.open(f"/?date={date}")
    rows = visitor.page.locator("#anomalies tr[data-ticker]").evaluate_all(
        "rows => rows.map((row) => [...row.cells].map((cell) => cell.textContent.trim()))"
    )
    headers = visitor.page.locator("#anomalies th").evaluate_all(
        "headers => headers.map((header) => header.dataset.sort)"
    )
    assert headers == [*COLUMNS, None]
    output = run("query-lookup-table.py", date, "--table", sample_table, "--format", "json").stdout
    found_ones = json.loads(output)
    assert len(found_ones) > 0
    assert [row[0] for row in rows] == [one["ticker"] for one in found_ones]
    for row, one in zip(rows, found_ones):
        for field, text in zip(COLUMNS[1:], row[1:]):
            value = one["trades"] / one["avg_trades"] if field == "times_normal" else one[field]
            if field == "record":
                most_ever = "all " if value == one["earlier_rows"] else ""
                assert text == f"{most_ever}{value:,}"
            else:
                assert abs(number(text) - value) <= rounding(field, value) * 1.000001, (row, field)
        assert row[-1].split() == one["marks"].split()


def test_all_columns_are_in_sight_on_a_screen_of_1280_pixels(visitor):
    visitor.open("/?ticker=VTAK")
    for column in COLUMNS:
        visitor.expect(f'th[data-sort="{column}"]').to_be_visible()


def test_numbers_stand_under_each_other_and_a_fall_has_another_colour(visitor):
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


def test_a_click_on_a_header_sorts_and_another_turns_the_order(visitor, sample_table):
    visitor.open()
    header = visitor.page.locator('th[data-sort="z_score"]')
    header.click()
    visitor.expect_tickers(found(sample_table, SAMPLE_DAY, "--sort", "z_score"))
    expect(header).to_have_attribute("aria-sort", "descending")
    visitor.expect('th[data-sort="trades"]').not_to_have_attribute("aria-sort", "descending")
    header.click()
    visitor.expect_tickers(found(sample_table, SAMPLE_DAY, "--sort", "z_score")[::-1])
    expect(header).to_have_attribute("aria-sort", "ascending")
    visitor.page.locator('th[data-sort="ticker"]').click()
    visitor.expect_tickers(sorted(found(sample_table)))


def test_the_filter_narrows_the_list_while_one_types(visitor, sample_table):
    visitor.open()
    visitor.press("/")
    visitor.expect("#filter").to_be_focused()
    visitor.page.keyboard.type("aa")
    visitor.expect_tickers([t for t in found(sample_table) if "AA" in t.upper()])
    assert visitor.query()["filter"] == "aa"
    # Within the field a letter is a letter.
    visitor.page.keyboard.type("j")
    visitor.expect_tickers([])
    visitor.expect("#list .message").to_be_visible()
    visitor.page.locator("#filter").fill("")
    visitor.expect_tickers(found(sample_table))


def test_the_threshold_sets_how_far_above_normal(visitor, sample_table):
    visitor.open()
    visitor.page.locator("#threshold").fill("30")
    visitor.press("Enter")
    visitor.expect_tickers(found(sample_table, SAMPLE_DAY, "--threshold", "30"))
    assert float(visitor.query()["threshold"]) == 30


def test_days_go_by_with_arrows_buttons_and_the_date_field(visitor, sample_table):
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


def test_the_days_end_where_the_table_ends(visitor):
    for date, outwards, inwards, neighbour in (
        (SAMPLE_DAYS[0], "ArrowLeft", "ArrowRight", SAMPLE_DAYS[1]),
        (SAMPLE_DAY, "ArrowRight", "ArrowLeft", DAY_BEFORE),
    ):
        visitor.open(f"/?date={date}")
        # The page asks whether the table has got longer.
        with visitor.page.expect_response(f"**/?date={date}"):
            visitor.press(outwards)
        visitor.press(inwards)
        visitor.expect_day(neighbour)


def test_the_ticker_stays_chosen_from_day_to_day(visitor):
    visitor.open().choose("SLB")
    visitor.press("ArrowLeft")
    visitor.expect_day(DAY_BEFORE).expect_detail("SLB")
    visitor.expect("#detail").to_contain_text("106,368 trades")


# Choosing a ticker.


def test_arrows_and_letters_walk_down_and_up_the_list(visitor, sample_table):
    tickers = found(sample_table)
    visitor.open()
    for key, place in [("ArrowDown", 0), ("j", 1), ("ArrowDown", 2), ("k", 1), ("ArrowUp", 0)]:
        visitor.press(key)
        visitor.expect_detail(tickers[place])
        assert visitor.chosen() == [tickers[place]]
        assert visitor.query()["ticker"] == tickers[place]
    visitor.press(*["j"] * 40)
    visitor.expect_detail(tickers[-1])
    assert visitor.chosen() == tickers[-1:]


def test_enter_chooses_the_row_that_has_the_focus(visitor, sample_table):
    visitor.open()
    visitor.page.locator('tr[data-ticker="NFLX"] a').focus()
    visitor.press("Enter")
    visitor.expect_detail("NFLX")
    assert visitor.chosen() == ["NFLX"]


def test_the_figures_beside_the_list_are_in_words(visitor):
    visitor.open().choose("VTAK")
    words = "460,548 trades, 73 \N{MULTIPLICATION SIGN} its five-day average of 6,291"
    visitor.expect("#detail").to_contain_text(words)


def test_an_address_brings_back_what_one_sees(visitor, visitors, served):
    visitor.open(f"/?date={DAY_BEFORE}")
    visitor.press("ArrowRight")
    visitor.expect_day(SAMPLE_DAY)
    visitor.page.locator("#threshold").fill("4")
    visitor.page.locator('th[data-sort="price_diff"]').click()
    visitor.expect('th[data-sort="price_diff"]').to_have_attribute("aria-sort", "descending")
    visitor.page.locator("#filter").fill("e")
    visitor.expect("#anomalies tr[data-ticker]").to_have_count(4)
    visitor.choose("EFSH")
    seen = visitor.evaluate(STATE)
    assert [ticker for ticker, _ in seen["rows"]] == ["EFSH", "HEPS", "PEGY", "TRUE"]
    other = visitors(served.url)
    other.page.goto(visitor.page.url)
    assert other.evaluate(STATE) == seen
    visitor.page.reload()
    assert visitor.evaluate(STATE) == seen


def test_the_back_button_goes_back_through_what_one_saw(visitor, sample_table):
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


def test_the_page_of_its_own_leads_from_anomaly_to_anomaly(visitor):
    visitor.open(f"/chart?ticker=PEGY&date={SAMPLE_DAY}").expect_detail("PEGY")
    visitor.page.locator("#next-ticker").click()
    visitor.expect_detail("NFLX")
    visitor.page.locator("#previous-ticker").click()
    visitor.expect_detail("PEGY")
    visitor.trace("day-chart", name="price")
    visitor.trace("history-chart", type="bar")


# The charts.


def expected_candles(sent, date):
    """The bars as a candlestick trace has them; the times are New York's."""
    midnight = new_york_time(date, 0)
    minutes = [(bar["t"] - midnight) // 60_000 for bar in sent]
    return {
        "x": [f"{date} {minute // 60:02}:{minute % 60:02}" for minute in minutes],
        **{name: [bar[name[0]] for bar in sent] for name in ("open", "high", "low", "close")},
    }


@pytest.mark.parametrize("ticker", ["VTAK", "AAp"])
def test_the_candles_on_screen_are_the_bars_sent(visitor, polygon, ticker):
    sent = polygon.bars_of(ticker, SAMPLE_DAY)
    visitor.open().choose(ticker)
    visitor.expect_candles(len(sent))
    candles = visitor.trace("day-chart", name="price")
    candles["x"] = [text[:16].replace("T", " ") for text in candles["x"]]
    expected = expected_candles(sent, SAMPLE_DAY)
    assert {name: candles[name] for name in expected} == expected
    assert visitor.trace("day-chart", name="volume")["y"] == [bar["v"] for bar in sent]
    assert visitor.trace("day-chart", name="trades")["y"] == [bar["n"] for bar in sent]


def test_the_vwap_is_a_line_that_ends_at_the_days(visitor, polygon):
    sent = polygon.bars_of("VTAK", SAMPLE_DAY)
    visitor.open().choose("VTAK")
    line = visitor.trace("day-chart", name="VWAP")
    volume = sum(bar["v"] for bar in sent)
    assert line["y"][0] == pytest.approx(sent[0]["vw"])
    assert line["y"][-1] == pytest.approx(sum(bar["v"] * bar["vw"] for bar in sent) / volume)


def test_extended_hours_are_shaded(visitor):
    visitor.open().choose("VTAK")
    visitor.trace("day-chart", name="price")
    shapes = visitor.evaluate(CHART, "day-chart")["shapes"]
    assert {(shape["x0"][11:16], shape["x1"][11:16]) for shape in shapes} == {
        ("04:00", "09:30"),
        ("16:00", "20:00"),
    }


def test_a_candle_tells_its_figures_when_pointed_at(visitor, polygon):
    sent = polygon.bars_of("AAp", SAMPLE_DAY)
    visitor.open().choose("AAp")
    visitor.expect_candles(len(sent))
    middle = len(sent) // 2
    candle = visitor.page.locator('#day-chart path.box:not([d="M0,0Z"])').nth(middle)
    box = candle.bounding_box()
    # Beside the candle, where no other is nearer.
    visitor.page.mouse.move(box["x"] + box["width"] / 2 + 6, box["y"] + box["height"] / 2)
    visitor.expect("#day-chart .spikeline").not_to_have_count(0)
    label = visitor.readout("day-chart")
    for name in ("open", "high", "low", "close"):
        expect(label).to_contain_text(f"{name} {sent[middle][name[0]]}")
    expect(label).to_contain_text(f"volume {sent[middle]['v']:,}")
    expect(label).to_contain_text(f"trades {sent[middle]['n']:,}")
    area = visitor.page.locator("#day-chart .nsewdrag").nth(2).bounding_box()
    visitor.page.mouse.move(area["x"] + 1, area["y"] + 5)
    expect(label).to_contain_text(f"open {sent[0]['o']}")
    label.focus()
    visitor.press("End", "ArrowLeft")
    expect(label).to_contain_text(f"open {sent[-2]['o']}")
    visitor.expect("#day-chart .spikeline").not_to_have_count(0)


def test_a_chart_can_be_zoomed_and_saved(visitor):
    visitor.open().choose("VTAK")
    visitor.trace("day-chart", name="price")
    area = visitor.page.locator("#day-chart .nsewdrag").first.bounding_box()
    middle = area["y"] + area["height"] / 2
    before = visitor.page.locator("#day-chart .xtick text").all_inner_texts()
    visitor.page.mouse.move(area["x"] + area["width"] * 0.4, middle)
    visitor.page.mouse.down()
    visitor.page.mouse.move(area["x"] + area["width"] * 0.5, middle + 2, steps=4)
    visitor.page.mouse.up()
    ticks = visitor.page.locator("#day-chart .xtick text")
    wait_until(lambda: ticks.all_inner_texts() != before)
    with visitor.page.expect_download() as download:
        visitor.page.locator('#day-chart .modebar-btn[data-title*="png" i]').click()
    assert download.value.suggested_filename.endswith(".png")
    assert download.value.path().read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_candles_are_in_new_york_time_winter_and_summer(visitors, tmp_path, zone):
    market = {date: [("TINY", 3, 1.5)] for date in HALF_PAST_NINE}
    flat_files = write_flat_files(tmp_path / "csv", market)
    table = build_table(flat_files, tmp_path / "table.pkl")
    bar = {"o": 1, "h": 2, "l": 1, "c": 1.5, "v": 300, "vw": 1.4, "n": 3}
    with FakePolygon(flat_files) as polygon:
        for date, time_ in HALF_PAST_NINE.items():
            polygon.bars["TINY", date] = [{"t": time_, **bar}]
        with running_gui(table, polygon.url, POLYGON_API_KEY=KEY) as gui:
            visitor = visitors(gui.url, timezone_id=zone, locale="de-DE")
            for date in HALF_PAST_NINE:
                visitor.open(f"/chart?ticker=TINY&date={date}")
                (x,) = visitor.trace("day-chart", name="price")["x"]
                assert x[:16].replace("T", " ") == f"{date} 09:30"
            visitor.context.close()


def test_the_history_shows_trades_baseline_bound_and_close(visitor):
    days = read_days(SAMPLE_MARKET)
    trades = [days["VTAK", date].trades for date in SAMPLE_DAYS]
    visitor.open().choose("VTAK")
    assert visitor.trace("history-chart", type="bar")["x"] == SAMPLE_DAYS
    assert visitor.trace("history-chart", type="bar")["y"] == trades
    before = [trades[i - 5 : i] for i in range(5, len(trades))]
    none = [None] * 5  # the first five days have no baseline
    anomalies = [n for n, five in zip(trades[5:], before) if n > mean(five) + 3 * stdev(five)]
    for name, expected in (
        ("mean", none + [mean(five) for five in before]),
        ("mean + 3 std", none + [mean(five) + 3 * stdev(five) for five in before]),
        ("close", [days["VTAK", date].close for date in SAMPLE_DAYS]),
        ("anomaly", anomalies),
    ):
        assert visitor.trace("history-chart", name=name)["y"] == [
            value if value is None else pytest.approx(value) for value in expected
        ]


def test_a_click_on_a_day_of_the_history_goes_to_that_day(visitor):
    visitor.open().choose("VTAK")
    visitor.trace("history-chart", type="bar")
    bar = visitor.page.locator("#history-chart .point path").nth(53).bounding_box()
    visitor.page.mouse.move(bar["x"] + bar["width"] / 2, bar["y"] + 2)
    visitor.page.mouse.down()
    visitor.page.mouse.up()
    visitor.expect_day(SAMPLE_DAYS[53]).expect_detail("VTAK")
    assert visitor.query()["date"] == SAMPLE_DAYS[-3]


# While bars are under way.


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
    assert any("/api/bars?ticker=GOOG&" in url for url in given_up)
    candles = visitor.trace("day-chart", name="price")
    assert candles["close"] == [bar["c"] for bar in sent]


def test_960_bars_are_on_the_screen_in_two_and_a_half_times_the_time_of_plotly_alone(
    visitor, polygon
):
    start = new_york_time(QUIET_DAY, 4 * 60)
    bar = {"h": 10.5, "l": 9.5, "v": 1000, "vw": 10, "n": 10}
    bars = [
        {"t": start + i * 60_000, "o": 9.8 + i % 3 / 10, "c": 9.8 + i % 5 / 10, **bar}
        for i in range(960)
    ]
    tickers = ["BA", "BABA", "BAC", "COIN", "CSCO", "DIS", "GM"]
    polygon.bars.update({(ticker, QUIET_DAY): bars for ticker in tickers})
    visitor.open(f"/?date={QUIET_DAY}&threshold=-99").choose("AVGO")
    visitor.trace("day-chart", name="price")
    ratios = []
    for ticker in tickers:
        visitor.evaluate(WATCH_CANDLES, [ticker, 960])
        visitor.choose(ticker)
        time_of_page = visitor.evaluate(DRAWING_TIME, ticker)
        ratios.append(time_of_page / visitor.evaluate(PLOTLY_TIME))
    assert 0 < median(ratios) <= 2.5, ratios


# When there are no bars.


FAULTS = {**REFUSALS, "drop": DROP, "nothing": EMPTY["no results"]}
FAULTS.update({name: BROKEN[name] for name in ("server error", "broken json", "a page for people")})


def test_a_fault_is_a_sentence_in_the_candles_place_and_the_rest_lives_on(visitor, polygon):
    # Each fault its own days, for what has been fetched is not asked for again.
    for place, (name, answer) in zip(range(10, 55, 3), FAULTS.items()):
        date, next_date = SAMPLE_DAYS[place : place + 2]
        polygon.answer = answer
        with visitor.page.expect_response(f"**/api/bars?*{date}*") as response:
            visitor.open(f"/?date={date}&ticker=AMZN&threshold=0")
        assert visitor.bars_message() == response.value.json()["error"], name
        visitor.trace("history-chart", type="bar")
        polygon.answer = None
        visitor.page.locator("#day-chart-box button.retry").click()
        visitor.expect_candles(len(polygon.bars_of("AMZN", date)))
        visitor.expect("#day-chart-box .message").to_have_count(0)
        assert visitor.refusals == [response.value.url]
        visitor.refusals.clear()
    visitor.press("ArrowRight")
    visitor.expect_day(next_date)
    visitor.expect_candles(len(polygon.bars_of("AMZN", next_date)))


def test_whatever_the_server_says_about_bars_is_shown(visitor):
    said = {}
    visitor.page.route(
        "**/api/bars?**", lambda route: route.fulfill(**said) if said else route.continue_()
    )
    for status in (429, 502, 503, 504):
        sentence = f"For one reason or another <b>{status}</b>."
        said.update(status=status, json={"error": sentence})
        visitor.open(f"/chart?ticker=AMD&date={SAMPLE_DAY}")
        assert visitor.bars_message() == sentence
        said.clear()
        visitor.page.locator("#day-chart-box button.retry").click()
        visitor.trace("day-chart", name="price")
    visitor.refusals.clear()


def test_the_readmes_screenshot_can_be_taken(browser, served, polygon, tmp_path):
    candles = len(polygon.bars_of("VTAK", SAMPLE_DAY))
    take_screenshot(browser, served.url, candles, tmp_path / "screenshot.png")
    picture = (tmp_path / "screenshot.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert struct.unpack(">II", picture[16:24]) == (1280, 900)
    assert len(picture) < 300_000


def test_without_a_key_all_else_works(visitors, sample_table, polygon):
    with running_gui(sample_table, polygon.url) as gui:
        visitor = visitors(gui.url).open().choose("VTAK")
        assert "POLYGON_API_KEY" in visitor.bars_message()
        assert visitor.trace("history-chart", type="bar")["y"][-1] == 460548
        visitor.press("j")
        visitor.expect_detail("PEGY")
        visitor.bars_message()
        visitor.context.close()
    assert not polygon.requests
    visitor.refusals.clear()


def test_a_ticker_named_like_a_tag_is_text(visitors, tmp_path):
    ticker = "<img src=x onerror=alert(1)>"
    days = zip(SAMPLE_DAYS, [10, 20, 30, 40, 50, 1000])
    flat_files = write_flat_files(
        tmp_path / "csv",
        {date: [(ticker, trades, 1), ("</script>", 9, 1)] for date, trades in days},
    )
    table = build_table(flat_files, tmp_path / "table.pkl")
    with FakePolygon(flat_files) as polygon, running_gui(
        table, polygon.url, POLYGON_API_KEY=KEY
    ) as gui:
        polygon.answer = EMPTY["no results"]
        visitor = visitors(gui.url).open()
        visitor.press("j")
        visitor.expect_detail(ticker)
        visitor.expect_tickers([ticker])
        assert ticker in visitor.bars_message()
        visitor.open("/chart?" + urlencode({"ticker": ticker, "date": SAMPLE_DAYS[5]}))
        visitor.expect_detail(ticker)
        assert ticker in visitor.bars_message()
        visitor.trace("history-chart", type="bar")
        assert visitor.page.locator("#detail img, #list img").count() == 0
        visitor.context.close()
    visitor.refusals.clear()


# Whoever looks at it, and with whatever.


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_are_both_readable(visitors, served, polygon, scheme):
    visitor = visitors(served.url, color_scheme=scheme).open().choose("VTAK")
    visitor.trace("day-chart", name="price")
    visitor.trace("history-chart", type="bar")
    contrasts = visitor.evaluate(CONTRASTS)
    assert contrasts["ground"] > 0.8 if scheme == "light" else contrasts["ground"] < 0.05
    # Less than the 4.5 that WCAG 2 asks for.
    assert contrasts["low"] == []


@pytest.mark.parametrize("width", [420, 320])
def test_on_a_narrow_screen_nothing_is_cut_off(visitors, served, polygon, width):
    visitor = visitors(served.url, viewport={"width": width, "height": 800})
    for path in ("/nothing", "/", "/?ticker=VTAK"):
        visitor.open(path)
        assert visitor.evaluate("document.documentElement.scrollWidth") <= width
    visitor.trace("day-chart", name="price")
    visitor.trace("history-chart", type="bar")
    assert visitor.evaluate("document.documentElement.scrollWidth") <= width
    visitor.page.locator("#filters-summary").click()
    visitor.expect("#filters .panel").to_be_visible()
    assert visitor.evaluate("document.documentElement.scrollWidth") <= width
    visitor.open("/?date=2024-09-12&ticker=ZVZZT").expect_detail("ZVZZT")
    visitor.page.locator("#detail .mark").last.focus()
    assert visitor.evaluate("document.documentElement.scrollWidth") <= width
    boxes = {name: box for name, *box in visitor.evaluate(BOXES)}
    assert boxes["#detail"][1] >= boxes["#list"][1] + boxes["#list"][3]
    for x, _, box_width, _ in boxes.values():
        assert x >= 0
        assert x + box_width <= width
    assert visitor.refusals == [f"{served.url}/nothing"]
    visitor.refusals.clear()


def test_without_javascript_list_links_and_figures_are_readable(visitors, served, polygon):
    visitor = visitors(served.url, java_script_enabled=False).open()
    visitor.page.locator('th[data-sort="z_score"] a').click()
    visitor.expect("#anomalies tr[data-ticker] td:first-child").to_have_count(18)
    first = visitor.page.locator("#anomalies tr[data-ticker] td:first-child").first
    expect(first).to_have_text("BIVI")
    visitor.page.locator('tr[data-ticker="VTAK"] a').click()
    visitor.expect_detail("VTAK")
    visitor.expect("#detail").to_contain_text("460,548 trades")
    assert "JavaScript" in visitor.evaluate("document.getElementById('day-chart-box').textContent")
    visitor.page.locator("#filter").fill("na")
    visitor.page.locator("form button").first.click()
    visitor.expect_tickers(["NA", "NAN"])
    visitor.page.locator("#previous-day").click()
    visitor.expect_day(DAY_BEFORE)
    assert not polygon.requests


def test_the_header_row_stays_in_sight(visitors, served):
    visitor = visitors(served.url, viewport={"width": 1280, "height": 500})
    visitor.open("/?threshold=-9")
    visitor.page.locator("#anomalies tr[data-ticker]").last.scroll_into_view_if_needed()
    visitor.expect('th[data-sort="ticker"]').to_be_in_viewport()
    header = visitor.page.locator('th[data-sort="ticker"]').bounding_box()
    on_top = visitor.evaluate(
        "([x, y]) => document.elementFromPoint(x, y).closest('th')?.dataset.sort",
        [header["x"] + header["width"] / 2, header["y"] + header["height"] / 2],
    )
    assert on_top == "ticker"


def test_the_keyboard_alone_is_enough(visitor, sample_table):
    visitor.open()
    reached = []
    for _ in range(30):
        visitor.press("Tab")
        reached.append(
            visitor.evaluate(
                """() => {
                    const element = document.activeElement;
                    const place = element.closest("[data-sort], tr[data-ticker], [id]");
                    const seen = getComputedStyle(element).outlineStyle !== "none";
                    return [place?.dataset.sort ?? place?.dataset.ticker ?? place?.id, seen];
                }"""
            )
        )
    places = [place for place, _ in reached]
    for place in ["previous-day", "date", "threshold", "filter", "trades", "price_diff", "VTAK"]:
        assert place in places
    # The date field marks the part of it that has the focus.
    assert [place for place, seen in reached if place not in (None, "date") and not seen] == []
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
    assert sorted(sort or "none" for sort in sorts) == ["descending"] + ["none"] * 8
    selected = visitor.page.locator("#anomalies tr[data-ticker]").evaluate_all(
        "rows => rows.map((row) => row.getAttribute('aria-selected'))"
    )
    assert sorted(selected) == ["false"] * 17 + ["true"]
    assert visitor.evaluate("document.documentElement.lang") == "en"
    for field in ("date", "threshold", "filter"):
        assert visitor.evaluate("(id) => document.getElementById(id).labels.length", field) == 1
    for link in ("previous-day", "next-day"):
        visitor.expect(f"#{link}").to_have_attribute("aria-label", re.compile("day"))
    visitor.trace("day-chart", name="price")
    for chart in ("day-chart", "history-chart"):
        visitor.expect(f"#{chart}").to_have_attribute("aria-label", re.compile("NFLX"))


def test_a_replaced_table_shows_on_the_next_key(visitors, sample_table, polygon, tmp_path):
    market = {date: [("ONLY", 10, 1)] for date in SAMPLE_DAYS[:-1]}
    other = build_table(write_flat_files(tmp_path / "csv", market), tmp_path / "other.pkl")
    table = tmp_path / "table.pkl"
    shutil.copy(sample_table, table)
    with running_gui(table, polygon.url, POLYGON_API_KEY=KEY) as gui:
        visitor = visitors(gui.url).open()
        other.replace(table)
        visitor.press("ArrowLeft")
        visitor.expect("#summary").to_contain_text("among 1 ticker")
        visitor.context.close()


# Any ticker, also one that is no anomaly.


def test_a_ticker_that_is_no_anomaly_is_shown_by_its_link(visitor):
    visitor.open().choose("VTAK")
    visitor.page.locator("#filter").fill("aapl")
    visitor.page.locator("#list .message a").click()
    visitor.expect_detail("AAPL")
    assert visitor.query() == {"date": SAMPLE_DAY, "filter": "aapl", "ticker": "AAPL"}


@pytest.mark.parametrize("typed, ticker", [("aapl", "AAPL"), ("na", "NA"), ("vta", "VTAK")])
def test_enter_shows_the_ticker_that_was_typed_else_the_first_row(visitor, typed, ticker):
    visitor.open()
    visitor.press("/")
    visitor.page.keyboard.type(typed)
    visitor.press("Enter")
    visitor.expect_detail(ticker)
    assert visitor.query()["ticker"] == ticker


# The table is replaced by a new one.


@pytest.fixture
def growing(visitors, polygon, tmp_path):
    """A page on a table that ends a day early, and a function that puts the whole table there."""
    market = {date: [("ONLY", 10, 1)] for date in SAMPLE_DAYS}
    short = {date: market[date] for date in SAMPLE_DAYS[:-1]}
    whole = build_table(write_flat_files(tmp_path / "whole", market), tmp_path / "whole.pkl")
    table = build_table(write_flat_files(tmp_path / "short", short), tmp_path / "table.pkl")
    for date in SAMPLE_DAYS[-2:]:
        bar = {"t": new_york_time(date, 600), "o": 1, "h": 1, "l": 1, "c": 1, "v": 9, "n": 9}
        polygon.bars["ONLY", date] = [bar]
    with running_gui(table, polygon.url, POLYGON_API_KEY=KEY) as gui:
        visitor = visitors(gui.url)
        yield visitor, lambda: whole.replace(table)
        visitor.context.close()


def test_a_newly_built_day_is_one_step_away(growing):
    visitor, build = growing
    visitor.open("/?ticker=ONLY").expect_day(DAY_BEFORE)
    visitor.press("ArrowRight")
    visitor.expect_day(DAY_BEFORE)
    build()
    visitor.press("ArrowRight")
    visitor.expect_day(SAMPLE_DAY).expect_detail("ONLY")
    visitor.expect("#date").to_have_attribute("max", SAMPLE_DAY)


def test_the_page_says_by_itself_that_the_table_is_new(growing):
    visitor, build = growing
    visitor.page.clock.install()
    visitor.open().expect_day(DAY_BEFORE)
    build()
    visitor.page.clock.fast_forward(31_000)
    visitor.expect("#new-table").to_contain_text(f"There is a new table up to {SAMPLE_DAY}.")
    visitor.expect_day(DAY_BEFORE)
    visitor.expect("#date").to_have_attribute("max", SAMPLE_DAY)
    visitor.page.locator("#new-table a").click()
    visitor.expect_day(SAMPLE_DAY)
    visitor.expect("#new-table").to_be_empty()


# Focus and place.


def focused(visitor):
    return visitor.evaluate("document.activeElement.id || document.activeElement.textContent")


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


def test_sorting_shows_the_top_of_the_list(visitors, served):
    visitor = visitors(served.url, viewport={"width": 1280, "height": 400}).open()
    visitor.press("End")
    visitor.expect_detail("AAp")
    visitor.page.locator('th[data-sort="close_price"] a').click()
    visitor.expect('th[data-sort="close_price"]').to_have_attribute("aria-sort", "descending")
    assert visitor.evaluate("document.getElementById('list').scrollTop") == 0


def test_escape_keeps_the_place_in_the_list(visitor, sample_table):
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


def test_try_again_keeps_the_focus(visitor, polygon):
    polygon.answer = BROKEN["server error"]
    visitor.open("/?date=2024-08-16&ticker=CSCO&threshold=-99")
    visitor.bars_message()
    button = visitor.page.locator("#day-chart-box button.retry")
    button.focus()
    visitor.press("Enter")
    expect(button).to_have_attribute("aria-disabled", "false")
    expect(button).to_be_focused()
    polygon.answer = None
    visitor.press("Enter")
    visitor.expect_candles(len(polygon.bars_of("CSCO", "2024-08-16")))
    visitor.expect("#day-chart").to_be_focused()
    visitor.refusals.clear()


# The page of its own.


def test_the_page_of_its_own_answers_the_keys_of_the_list(visitor):
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
    visitor.expect_tickers(["HEPS", "EFSH", "PEGY", "TRUE"])
    assert urlsplit(visitor.page.url).path == "/"
    state = {"threshold": "4", "sort": "z_score", "filter": "e"}
    assert visitor.query() == {"date": SAMPLE_DAY, "ticker": "HEPS", **state}


def test_the_history_draws_the_threshold_of_the_address(visitor):
    visitor.open(f"/chart?ticker=HEPS&date={SAMPLE_DAY}&threshold=40")
    assert len(visitor.trace("history-chart", name="mean + 40 std")["y"]) == len(SAMPLE_DAYS)
    days = visitor.trace("history-chart", name="anomaly")["x"]
    assert days[-1] == SAMPLE_DAY


def test_the_title_is_the_same_after_a_click_and_a_reload(visitor):
    visitor.open().choose("VTAK")
    title = visitor.page.title()
    assert "VTAK" in title
    visitor.page.reload()
    assert visitor.page.title() == title


def test_a_ticker_leads_to_its_previous_and_next_anomaly(visitor):
    visitor.open(f"/?date={SAMPLE_DAY}&ticker=VTAK")
    visitor.press("p")
    visitor.expect_day("2024-10-16").expect_detail("VTAK")
    visitor.page.locator("#next-anomaly").click()
    visitor.expect_day(SAMPLE_DAY).expect_detail("VTAK")
    assert urlsplit(visitor.page.url).path == "/"


# Where things are.


@pytest.mark.parametrize("width", [860, 960, 1099, 1100, 1159, 1200, 1280, 1440])
def test_nothing_in_the_header_overlaps_and_the_divider_stays(visitors, served, width):
    visitor = visitors(served.url, viewport={"width": width, "height": 800})
    dividers = set()
    filters = "min_price=1&min_trades=1&min_record=1&skip=thin,test,stale"
    for path in (
        f"/?date={SAMPLE_DAY}",
        f"/?date={SAMPLE_DAY}&{filters}",
        "/?date=2024-09-12",
        "/?filter=zzz",
        "/?date=2024-08-01",
    ):
        visitor.open(path)
        assert visitor.evaluate(CUT, "#summary > *") == []
        dividers.add(
            visitor.evaluate("document.getElementById('list').getBoundingClientRect().right")
        )
        boxes = visitor.evaluate(
            """() => [...document.querySelectorAll(
                    "#steps, #summary, #settings > label, #filters-summary, #csv")]
                .map((element) => element.getBoundingClientRect())
                .map(({ left, right, top, bottom }) => [left, right, top, bottom])"""
        )
        for i, (left, right, top, bottom) in enumerate(boxes):
            assert 0 <= left <= right <= width
            for left2, right2, top2, bottom2 in boxes[:i]:
                assert right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top
    assert len(dividers) == 1
    assert visitor.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [390, 960, 1100, 1280, 1440])
def test_nothing_in_the_list_is_cut(visitors, served, width):
    visitor = visitors(served.url, viewport={"width": width, "height": 800})
    for date in (SAMPLE_DAY, "2024-09-12", "2024-09-20"):
        visitor.open(f"/?date={date}")
        shown = visitor.page.locator("#anomalies th:visible").evaluate_all(
            "headers => headers.map((header) => header.dataset.sort)"
        )
        assert shown == [*(name for name in COLUMNS if width >= HIDDEN_BELOW.get(name, 0)), None]
        assert visitor.evaluate(CUT, "#anomalies td, #anomalies th, #anomalies th a") == []


# Candles and their time.


def test_a_candle_is_a_minute_wide_when_the_day_has_two(visitor, polygon):
    bar = {"o": 10, "h": 11, "l": 9, "c": 10.5, "v": 100, "vw": 10, "n": 2}
    times = [new_york_time("2024-08-19", minutes) for minutes in (9 * 60 + 30, 16 * 60)]
    polygon.bars["AMD", "2024-08-19"] = [{"t": time_, **bar} for time_ in times]
    visitor.open("/chart?date=2024-08-19&ticker=AMD")
    visitor.expect_candles(2)
    area = visitor.page.locator("#day-chart .nsewdrag").first.bounding_box()
    minute = area["width"] / 960
    candles = visitor.page.locator('#day-chart path.box:not([d="M0,0Z"])')
    for candle, minutes in zip(candles.all(), (330, 720)):
        left, width = candle.evaluate("(path) => [path.getBBox().x, path.getBBox().width]")
        assert 0 < width <= minute
        assert left + width / 2 == pytest.approx((minutes + 0.5) * minute, abs=0.01)


AXES = """() => {
    const { xaxis, yaxis } = document.getElementById("day-chart").layout;
    return { time: xaxis.range.map(String), price: yaxis.range };
}"""


def zoom_in(visitor):
    """Zoom into the day by the wheel; returns the axes' ranges then."""
    before = visitor.evaluate(AXES)
    area = visitor.page.locator("#day-chart .nsewdrag").first.bounding_box()
    visitor.page.mouse.move(area["x"] + area["width"] / 3, area["y"] + area["height"] / 2)
    for _ in range(20):
        visitor.page.mouse.wheel(0, -100)
    drawn = []

    def is_at_rest():
        drawn.append(visitor.evaluate(AXES))
        return drawn[-1]["price"] != before["price"] and drawn[-40:-1] == drawn[-1:] * 39

    wait_until(is_at_rest)
    return drawn[-1]


def test_the_price_axis_follows_a_zoom_in_time(visitor, polygon):
    visitor.open().choose("VTAK")
    visitor.expect_candles(len(polygon.bars_of("VTAK", SAMPLE_DAY)))
    axes = zoom_in(visitor)
    candles = visitor.trace("day-chart", name="price")
    visible = [
        i
        for i, x in enumerate(candles["x"])
        if axes["time"][0] < x + ":59" and x <= axes["time"][1]
    ]
    assert 0 < len(visible) < len(candles["x"]) / 2
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
    ground = visitor.evaluate("document.getElementById('day-chart').layout.paper_bgcolor")
    visitor.page.emulate_media(color_scheme="dark")
    wait_until(
        lambda: (
            visitor.evaluate("document.getElementById('day-chart').layout.paper_bgcolor") != ground
        )
    )
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
    visitor.expect('#day-chart path.box:not([d="M0,0Z"])').to_have_count(len(sent))
    polygon.answering.set()
    visitor.expect_candles(len(polygon.bars_of("BA", date)))


def test_early_closes_are_shaded_from_one_o_clock(visitors, tmp_path):
    market = {"2024-11-29": [("TINY", 3, 1.5)]}
    flat_files = write_flat_files(tmp_path / "csv", market)
    table = build_table(flat_files, tmp_path / "table.pkl")
    bar = {"o": 1, "h": 2, "l": 1, "c": 1.5, "v": 300, "vw": 1.4, "n": 3}
    with FakePolygon(flat_files) as polygon:
        polygon.bars["TINY", "2024-11-29"] = [{"t": new_york_time("2024-11-29", 600), **bar}]
        with running_gui(table, polygon.url, POLYGON_API_KEY=KEY) as gui:
            visitor = visitors(gui.url).open("/chart?ticker=TINY&date=2024-11-29")
            visitor.trace("day-chart", name="price")
            shapes = visitor.evaluate(CHART, "day-chart")["shapes"]
            assert [shape["x0"][11:16] for shape in shapes] == ["04:00", "13:00"]
            visitor.context.close()


def test_the_previous_close_is_a_line_on_the_candles(visitor):
    close = read_days(SAMPLE_MARKET)["VTAK", DAY_BEFORE].close
    visitor.open().choose("VTAK")
    visitor.expect_chart("day-chart")
    traces = visitor.evaluate(CHART, "day-chart")["traces"]
    (line,) = (trace for trace in traces if trace["name"].startswith("previous close"))
    assert line["y"] == [close, close]


# Requests that cost.


def bar_requests(polygon):
    return [request.path.split("/")[4] for request in polygon.requests]


def test_rows_that_are_passed_by_cost_no_request(visitors, served, polygon):
    visitor, date = visitors(served.url), "2024-08-21"
    visitor.page.clock.install(time=0)
    visitor.open(f"/?date={date}&threshold=-99")
    visitor.page.clock.pause_at(60_000)
    tickers = visitor.page.locator("#anomalies tr[data-ticker]").evaluate_all(
        "rows => rows.slice(0, 10).map((row) => row.dataset.ticker)"
    )
    for ticker in tickers:
        visitor.press("ArrowDown")
        visitor.expect_detail(ticker)
        visitor.page.clock.run_for(250)
    visitor.page.clock.resume()
    visitor.expect_candles(len(polygon.bars_of(ticker, date)))
    assert bar_requests(polygon) == [tickers[0], tickers[9]]


@pytest.fixture
def limited(visitors, sample_table, polygon):
    """A visitor whom Polygon has just refused a request for two seconds; the list's tickers."""
    polygon.answer = RATE_LIMIT._replace(headers={"Retry-After": "2"})
    with running_gui(sample_table, polygon.url, POLYGON_API_KEY=KEY) as gui:
        visitor = visitors(gui.url).open(f"/?date={SAMPLE_DAY}&ticker=VTAK")
        visitor.bars_message()
        polygon.answer = None
        yield visitor
        visitor.refusals.clear()
        visitor.context.close()


def test_a_reached_limit_counts_down_and_tries_again_by_itself(limited, polygon):
    limited.expect("#day-chart-box .countdown").to_contain_text(re.compile(r"in [12] s\."))
    limited.expect_candles(len(polygon.bars_of("VTAK", SAMPLE_DAY)))
    assert bar_requests(polygon) == ["VTAK", "VTAK"]


def test_after_a_limit_bars_wait_until_a_row_was_chosen_for_a_second(limited, polygon):
    limited.expect_candles(len(polygon.bars_of("VTAK", SAMPLE_DAY)))
    polygon.requests.clear()
    limited.page.clock.install()
    for ticker in ("PEGY", "NFLX", "JDZG"):
        limited.press("ArrowDown")
        limited.expect_detail(ticker)
        limited.page.clock.run_for(500)
    limited.expect_candles(len(polygon.bars_of("JDZG", SAMPLE_DAY)))
    assert bar_requests(polygon) == ["JDZG"]


ARTICLE = {
    "title": "VTAK <b>rises</b>",
    "publisher": {"name": "The Wire"},
    "published_utc": f"{SAMPLE_DAY}T13:05:00Z",
    "article_url": "https://example.com/1",
    "insights": None,
}


def test_headlines_are_asked_for_by_a_click_alone(visitor, polygon):
    odd = {
        "title": "Second",
        "published_utc": f"{SAMPLE_DAY}T14:00:00Z",
        "article_url": "ftp://x",
    }
    polygon.articles = {"VTAK": [ARTICLE, odd]}
    visitor.open().choose("VTAK")
    visitor.expect_chart("day-chart")
    asked = len(polygon.requests)
    button = visitor.page.locator(".headlines-button")
    button.click()
    items = visitor.page.locator(".headlines li")
    expect(items).to_have_text(
        ["10-18 09:05 VTAK <b>rises</b> The Wire", re.compile("10-18 10:00 Second")]
    )
    expect(items.locator("a")).to_have_count(1)
    expect(items.locator("a")).to_have_attribute("href", "https://example.com/1")
    visitor.expect(".headlines").to_contain_text("A headline is not a cause.")
    button.click(force=True)
    assert len(polygon.requests) == asked + 1
    polygon.articles = {}
    visitor.choose("PEGY")
    visitor.expect(".headlines").to_be_hidden()
    visitor.page.locator(".headlines-button").click()
    visitor.expect(".headlines").to_contain_text("No headline on PEGY in Polygon's feed")


# What went wrong is said, and nothing disagrees.


def test_a_day_out_of_the_tables_range_leads_to_the_nearest(visitor):
    visitor.open()
    visitor.page.locator("#date").fill("2031-01-02")
    visitor.expect("#list .message").to_contain_text("2031-01-02")
    visitor.page.locator("#list .message a").click()
    visitor.expect_day(SAMPLE_DAY)
    assert visitor.refusals == [f"{visitor.url}/?date=2031-01-02"]
    visitor.refusals.clear()


def test_a_dead_server_leaves_address_and_detail_in_agreement(visitors, sample_table, polygon):
    with running_gui(sample_table, polygon.url, POLYGON_API_KEY=KEY) as gui:
        visitor = visitors(gui.url).open().choose("VTAK")
        visitor.expect_chart("history-chart").expect_chart("day-chart")
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


COLOR_CONTRASTS = """() => {
    const channels = (color) => color.match(/[\\d.]+/g).slice(0, 3).map(Number);
    const luminance = (color) => channels(color).map((value) => value / 255)
        .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
    const contrast = (a, b) => {
        const [dark, bright] = [luminance(a), luminance(b)].sort((x, y) => x - y);
        return (bright + 0.05) / (dark + 0.05);
    };
    const history = document.getElementById("history-chart");
    const day = document.getElementById("day-chart");
    const ground = history.layout.plot_bgcolor;
    const candles = day.data.find(({ name }) => name === "price");
    const border = getComputedStyle(document.getElementById("filter"));
    return [
        ...history.data[0].marker.color.map((color) => contrast(color, ground)),
        contrast(candles.increasing.line.color, ground),
        contrast(candles.decreasing.line.color, ground),
        contrast(border.borderTopColor, border.backgroundColor),
    ];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_bars_candles_and_borders_stand_out_three_to_one(visitors, served, polygon, scheme):
    visitor = visitors(served.url, color_scheme=scheme).open().choose("VTAK")
    visitor.expect_chart("day-chart").expect_chart("history-chart")
    assert min(visitor.evaluate(COLOR_CONTRASTS)) >= 3


def test_rising_candles_are_hollow_and_falling_ones_filled(visitor):
    visitor.open().choose("VTAK")
    candles = visitor.trace("day-chart", name="price")
    ground = visitor.evaluate("document.getElementById('day-chart').layout.plot_bgcolor")
    assert candles["increasing"]["fillcolor"] == ground
    assert candles["decreasing"]["fillcolor"] == candles["decreasing"]["line"]["color"]


def test_volume_bars_are_hollow_and_filled_like_the_candles_above_them(visitor, polygon):
    visitor.open().choose("VTAK")
    candles = visitor.trace("day-chart", name="price")
    marker = visitor.trace("day-chart", name="volume")["marker"]
    ground = visitor.evaluate("document.getElementById('day-chart').layout.plot_bgcolor")
    up, down = (candles[name]["line"]["color"] for name in ("increasing", "decreasing"))
    fallen = [bar["c"] < bar["o"] for bar in polygon.bars_of("VTAK", SAMPLE_DAY)]
    assert {True, False} == set(fallen)
    assert marker["color"] == [down if falls else ground for falls in fallen]
    assert marker["line"]["color"] == [down if falls else up for falls in fallen]


def test_forced_colours_show_the_chosen_row(visitors, served):
    visitor = visitors(served.url, forced_colors="active").open("/?ticker=VTAK")
    grounds = visitor.page.locator("#anomalies tr[data-ticker]").evaluate_all(
        "rows => rows.slice(0, 2).map((row) => getComputedStyle(row).backgroundColor)"
    )
    assert grounds[0] != grounds[1]


def test_reduced_motion_stops_what_turns(visitors, served, polygon):
    polygon.answering.clear()
    visitor = visitors(served.url, reduced_motion="reduce")
    visitor.open("/?date=2024-08-22&ticker=AAPL")
    visitor.expect("#day-chart-box .loading").to_be_visible()
    assert (
        visitor.evaluate(
            "getComputedStyle(document.querySelector('.loading'), '::before').animationName"
        )
        == "none"
    )


def test_the_days_of_the_history_are_reached_by_keyboard(visitor):
    visitor.open().choose("VTAK")
    visitor.expect_chart("history-chart")
    readout = visitor.readout("history-chart")
    readout.focus()
    visitor.press("ArrowLeft", "ArrowLeft")
    expect(readout).to_have_attribute("aria-valuetext", re.compile("2024-10-16"))
    expect(readout).to_contain_text("z-score")
    visitor.expect_day(SAMPLE_DAY)
    visitor.press("Enter")
    visitor.expect_day("2024-10-16").expect_detail("VTAK")
    cursor = "getComputedStyle(document.querySelector('#history-chart .nsewdrag')).cursor"
    assert visitor.evaluate(cursor) == "pointer"


def test_the_history_is_one_three_or_twelve_months_or_all(visitor):
    visitor.open().choose("VTAK")
    assert visitor.trace("history-chart", type="bar")["x"] == SAMPLE_DAYS
    visitor.page.locator('.history-lengths button[data-sessions="20"]').click()
    wait_until(lambda: visitor.trace("history-chart", type="bar")["x"] == SAMPLE_DAYS[-20:])
    visitor.choose("PEGY")
    assert visitor.trace("history-chart", type="bar")["x"] == SAMPLE_DAYS[-20:]
    visitor.page.locator('.history-lengths button[data-sessions="all"]').click()
    wait_until(lambda: visitor.trace("history-chart", type="bar")["x"] == SAMPLE_DAYS)


def test_the_list_can_be_taken_along_as_csv(visitor, sample_table):
    visitor.open()
    visitor.page.locator("#filter").fill("aa")
    visitor.expect("#csv").to_have_attribute("href", re.compile("filter=aa"))
    with visitor.page.expect_download() as download:
        visitor.page.locator("#csv").click()
    lines = download.value.path().read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == [
        ticker for ticker in found(sample_table) if "AA" in ticker.upper()
    ]


# The facts: record, marks, tide, further filters, what came after.


FILTERS = [
    ("min_price", "2", ["--min-price", "2"]),
    ("min_trades", "5000", ["--min-trades", "5000"]),
    ("skip", "split", ["--skip", "split"]),
    ("skip", "thin", ["--skip", "thin"]),
]


def set_filter(visitor, name, value):
    """Open the panel of further filters and set one there."""
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
    reason = "The open is about a split's ratio, such as 2 or 1/3, times the previous close."
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
def test_the_header_tells_the_tide_of_the_day(visitor, path):
    # 18 of 148 are above 3, whatever the threshold.
    visitor.open(f"{path}date={SAMPLE_DAY}")
    tide = "12.2 % of 148 tickers with a baseline; the usual is 2.8 %"
    visitor.expect("#summary .tide").to_have_text(f"Above 3: {tide}")


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
    for name, value in (("min_price", "2"), ("skip", "split"), ("skip", "thin")):
        set_filter(visitor, name, value)
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
        query = {name: text for name, (text,) in parse_qs(urlsplit(address).query).items()}
        assert {name: query.get(name) for name in state} == state
    visitor.page.locator(".own-page").click()
    visitor.expect("#all-anomalies").to_be_visible()
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


def test_a_number_that_is_none_asks_the_server_nothing(visitor, sample_table):
    visitor.open()
    set_filter(visitor, "min_trades", "-5")
    set_filter(visitor, "min_price", "2")
    visitor.expect_tickers(found(sample_table, SAMPLE_DAY, "--min-price", "2"))
    assert visitor.query() == {"min_price": "2"}


def test_what_came_after_is_told_beside_the_ticker(visitor):
    visitor.open("/?date=2024-09-20").choose("SWN")
    # Closes: 6.86; 6.94 and 7.14 one and five days later; on 2024-09-30, its last day, 7.20.
    visitor.expect("#detail .after").to_have_text(
        "What came after: next day 1.17 %, five days later 4.08 %, twenty days later 4.96 %;"
        " the median ticker -0.29 %."
    )
    visitor.open("/?date=2024-09-30&ticker=SWN&threshold=-99").expect_detail("SWN")
    visitor.expect("#detail .after").to_contain_text("next day no trades")
    visitor.open(f"/chart?date={SAMPLE_DAY}&ticker=VTAK").expect_detail("VTAK")
    visitor.expect("#detail .after").to_have_text(
        "What came after: not known yet: the table ends with this day."
    )


def test_neither_list_nor_charts_wait_for_what_came_after(visitor, polygon):
    held = []
    visitor.page.route("**/api/after?*", lambda route: held.append(route))
    visitor.open("/?date=2024-09-20").choose("SWN")
    visitor.expect_candles(len(polygon.bars_of("SWN", "2024-09-20")))
    visitor.expect_chart("history-chart")
    wait_until(lambda: visitor.evaluate("1") and held)
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
    assert len(visitor.refusals) == 1
    visitor.refusals.clear()


def test_a_ticker_that_is_passed_by_is_not_asked_what_came_after(visitors, served, polygon):
    visitor, asked = visitors(served.url), []
    visitor.page.on(
        "request", lambda request: "/api/after" in request.url and asked.append(request)
    )
    visitor.page.clock.install(time=0)
    visitor.open("/?date=2024-09-20")
    visitor.page.clock.pause_at(60_000)
    for ticker in ("QQQ", "SWN", "VZ"):
        visitor.press("ArrowDown")
        visitor.expect_detail(ticker)
        visitor.page.clock.run_for(100)
    visitor.page.clock.resume()
    visitor.expect("#detail .after").to_contain_text("What came after:")
    assert [parse_qs(urlsplit(request.url).query)["ticker"] for request in asked] == [["VZ"]]


@pytest.mark.parametrize("width", [960, 1280, 1440])
def test_the_charts_stay_where_they_are_from_row_to_row(visitors, served, polygon, width):
    visitor = visitors(served.url, viewport={"width": width, "height": 800})
    places = set()
    for date, tickers in (
        (SAMPLE_DAY, ["VTAK", "BIVI", "AAp"]),
        ("2024-09-20", ["NKLA", "AACIU"]),
    ):
        visitor.open(f"/?date={date}")
        for ticker in tickers:
            visitor.choose(ticker)
            visitor.expect("#detail .after").to_contain_text("What came after:")
            visitor.expect_chart("day-chart").expect_chart("history-chart")
            places.add(str(visitor.evaluate(BOXES)[3:]))
    assert len(places) == 1


def test_the_wheel_zooms_the_candles_and_elsewhere_scrolls(visitors, served, polygon):
    visitor = visitors(served.url, viewport={"width": 1280, "height": 600})
    visitor.open().choose("VTAK").expect_candles(len(polygon.bars_of("VTAK", SAMPLE_DAY)))
    visitor.expect_chart("history-chart")
    visitor.page.evaluate(
        """() => {
            window.scrolled = new Promise((resolve) =>
                document.getElementById("detail").addEventListener("scrollend", resolve));
        }"""
    )
    area = visitor.page.locator("#day-chart .nsewdrag").first.bounding_box()
    visitor.page.mouse.move(area["x"] + area["width"] / 2, area["y"] + 40)
    visitor.page.mouse.wheel(0, -200)
    zoomed = "document.getElementById('day-chart').layout.xaxis.range[0] > '2024-10-18 04:01'"
    wait_until(lambda: visitor.evaluate(zoomed))
    assert visitor.evaluate("document.getElementById('detail').scrollTop") == 0
    words = visitor.page.locator(".words").bounding_box()
    visitor.page.mouse.move(words["x"] + 20, words["y"] + 5)
    visitor.page.mouse.wheel(0, 100)
    visitor.evaluate("window.scrolled.then(() => true)")
    assert visitor.evaluate("document.getElementById('detail').scrollTop") > 0
