"""The browser half in a real browser: Playwright drives Debian's Chromium to the real server."""

import calendar
import os
import re
import shutil
import struct
import time
from statistics import mean, stdev
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from conftest import SAMPLE_MARKET, run
from fake_polygon import (
    BROKEN,
    DROP,
    EMPTY,
    RATE_LIMIT,
    REFUSALS,
    FakePolygon,
    build_table,
    new_york_time,
    read_days,
    running_gui,
    wait_until,
    write_flat_files,
)
from make_screenshot import launch_chromium, take_screenshot

try:
    from playwright.sync_api import expect, sync_playwright
except ImportError:
    sync_playwright = None

KEY = "sEcReT-kEy-0123456789"
LAST_DAY, DAY_BEFORE = "2024-10-18", "2024-10-17"
# The server keeps bars that it has fetched: tests that watch them arrive do so on this day.
QUIET_DAY = "2024-10-11"
SAMPLE_DAYS = sorted(path.stem for path in SAMPLE_MARKET.glob("*.csv"))
COLUMNS = ["ticker", "trades", "avg_trades", "std_trades"]
COLUMNS += ["z_score", "times_normal", "close_price", "price_diff"]

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
            && document.querySelectorAll("#day-chart path.box").length === count;
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
            ...all("h1, h2, h3, td, th a, td a, label, .words, #summary").map((e) => [e, "color"]),
            ...all("#day-chart .xtick text, #history-chart .xtick text").map((e) => [e, "fill"]),
        ].map(([element, property]) => [element.textContent.trim(), contrast(element, property)])
            .filter(([_, value]) => value < 4.5),
    };
}"""


class Visitor:
    """A person with a browser on the GUI; what must not happen there is noted in complaints.

    refusals holds the answers with a status of 400 or more. A test that causes some clears it.
    """

    def __init__(self, browser, url, **options):
        options.setdefault("viewport", {"width": 1280, "height": 800})
        self.url, self.complaints, self.refusals = url, [], []
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.on("console", self.hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.context.on("request", self.see_request)
        self.context.on("response", self.see_response)

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

    def trace(self, chart_id, **wanted):
        """The one trace of a chart that is drawn with these properties."""
        wait_until(lambda: self.evaluate(CHART, chart_id))
        traces = self.evaluate(CHART, chart_id)["traces"]
        (found,) = (t for t in traces if all(t.get(name) == wanted[name] for name in wanted))
        return found

    def expect_candles(self, count):
        self.expect("#day-chart path.box").to_have_count(count)

    def bars_message(self):
        """The sentence in the minute candles' place, when there is one."""
        message = self.page.locator("#day-chart-box .message")
        expect(message).to_be_visible()
        expect(message.locator("button.retry")).to_be_visible()
        return message.inner_text().replace(message.locator("button").inner_text(), "").strip()


def missing():
    if sync_playwright is None:
        return "playwright is missing: pip install -r tests/requirements.txt"
    return None if shutil.which("chromium") else "chromium is missing: apt-get install chromium"


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
        all_of_them.append(Visitor(browser, url, **options))
        return all_of_them[-1]

    yield visitor
    for one in all_of_them:
        one.context.close()
        assert one.complaints == []
        assert one.refusals == []


@pytest.fixture
def visitor(visitors, served, polygon):
    return visitors(served.url)


def ask_querier(table, date, *options):
    """What the querier prints for the date: a list of the words of each row."""
    lines = run("query-lookup-table.py", date, "--table", table, *options).stdout.splitlines()
    return [line.split() for line in lines[5:]]


def found(table, date=LAST_DAY, *options):
    return [row[0] for row in ask_querier(table, date, *options)]


def number(text):
    return float(re.sub("[,+]", "", text).replace("\N{MINUS SIGN}", "-"))


# The list.


@pytest.mark.parametrize("date", [LAST_DAY, "2024-09-12", "2024-08-20"])
def test_the_rows_equal_what_the_querier_prints(visitor, sample_table, date):
    visitor.open(f"/?date={date}")
    rows = visitor.page.locator("#anomalies tr[data-ticker]").evaluate_all(
        "rows => rows.map((row) => [...row.cells].map((cell) => cell.textContent.trim()))"
    )
    headers = visitor.page.locator("#anomalies th").evaluate_all(
        "headers => headers.map((header) => header.dataset.sort)"
    )
    assert headers == COLUMNS
    printed = ask_querier(sample_table, date)
    assert len(printed) > 0
    assert [row[0] for row in rows] == [row[0] for row in printed]
    for row, (_, *numbers) in zip(rows, printed):
        del row[COLUMNS.index("times_normal")]
        assert [number(text) for text in row[1:]] == [float(text) for text in numbers]


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
    (*_, (_, _, risen)), (*_, (_, _, fallen)) = styles
    assert risen != fallen
    for row in styles:
        assert {tuple(style[:2]) for style in row[1:]} == {("right", "tabular-nums")}


def test_a_click_on_a_header_sorts_and_another_turns_the_order(visitor, sample_table):
    visitor.open()
    header = visitor.page.locator('th[data-sort="z_score"]')
    header.click()
    visitor.expect_tickers(found(sample_table, LAST_DAY, "--sort", "z_score"))
    expect(header).to_have_attribute("aria-sort", "descending")
    visitor.expect('th[data-sort="trades"]').not_to_have_attribute("aria-sort", "descending")
    header.click()
    visitor.expect_tickers(found(sample_table, LAST_DAY, "--sort", "z_score")[::-1])
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
    visitor.expect_tickers(found(sample_table, LAST_DAY, "--threshold", "30"))
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
    for date, key in ((SAMPLE_DAYS[0], "ArrowLeft"), (LAST_DAY, "ArrowRight")):
        visitor.open(f"/?date={date}")
        visitor.press(key)
        time.sleep(0.1)
        visitor.expect_day(date)


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
    visitor.expect_day(LAST_DAY)
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
    visitor.expect_day(LAST_DAY).expect_detail("VTAK")
    assert visitor.chosen() == ["VTAK"]
    visitor.page.go_back()
    visitor.expect("#detail h2").to_have_count(0)
    assert visitor.chosen() == []
    visitor.page.go_forward()
    visitor.expect_day(LAST_DAY).expect_detail("VTAK")


def test_the_page_of_its_own_leads_from_anomaly_to_anomaly(visitor):
    visitor.open(f"/chart?ticker=PEGY&date={LAST_DAY}").expect_detail("PEGY")
    visitor.page.locator("#next-anomaly").click()
    visitor.expect_detail("NFLX")
    visitor.page.locator("#previous-anomaly").click()
    visitor.expect_detail("PEGY")
    visitor.trace("day-chart", type="candlestick")
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
    sent = polygon.bars_of(ticker, LAST_DAY)
    visitor.open().choose(ticker)
    visitor.expect_candles(len(sent))
    candles = visitor.trace("day-chart", type="candlestick")
    candles["x"] = [text[:16].replace("T", " ") for text in candles["x"]]
    expected = expected_candles(sent, LAST_DAY)
    assert {name: candles[name] for name in expected} == expected
    assert visitor.trace("day-chart", type="bar")["y"] == [bar["v"] for bar in sent]


def test_the_vwap_is_a_line_that_ends_at_the_days(visitor, polygon):
    sent = polygon.bars_of("VTAK", LAST_DAY)
    visitor.open().choose("VTAK")
    line = visitor.trace("day-chart", name="VWAP")
    volume = sum(bar["v"] for bar in sent)
    assert line["y"][0] == pytest.approx(sent[0]["vw"])
    assert line["y"][-1] == pytest.approx(sum(bar["v"] * bar["vw"] for bar in sent) / volume)


def test_extended_hours_are_shaded(visitor):
    visitor.open().choose("VTAK")
    visitor.trace("day-chart", type="candlestick")
    shapes = visitor.evaluate(CHART, "day-chart")["shapes"]
    assert {(shape["x0"][11:16], shape["x1"][11:16]) for shape in shapes} == {
        ("04:00", "09:30"),
        ("16:00", "20:00"),
    }


def test_a_candle_tells_its_figures_when_pointed_at(visitor, polygon):
    sent = polygon.bars_of("AAp", LAST_DAY)
    visitor.open().choose("AAp")
    visitor.expect_candles(len(sent))
    box = visitor.page.locator("#day-chart path.box").last.bounding_box()
    visitor.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    label = visitor.page.locator("#day-chart .hoverlayer")
    for name in ("open", "high", "low", "close"):
        expect(label).to_contain_text(f"{name} {sent[-1][name[0]]}")
    expect(label).to_contain_text(f"volume {sent[-1]['v']:,}")


def test_a_chart_can_be_zoomed_and_saved(visitor):
    visitor.open().choose("VTAK")
    visitor.trace("day-chart", type="candlestick")
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
    market = {date: {"TINY": (3, 1.5)} for date in HALF_PAST_NINE}
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
                (x,) = visitor.trace("day-chart", type="candlestick")["x"]
                assert x[:16].replace("T", " ") == f"{date} 09:30"
            visitor.context.close()


def test_the_history_shows_trades_baseline_bound_and_close(visitor):
    days = read_days(SAMPLE_MARKET)
    trades = [days["VTAK", date].trades for date in SAMPLE_DAYS]
    visitor.open().choose("VTAK")
    assert visitor.trace("history-chart", type="bar")["x"] == SAMPLE_DAYS[-40:]
    assert visitor.trace("history-chart", type="bar")["y"] == trades[-40:]
    before = [trades[i - 5 : i] for i in range(len(trades) - 40, len(trades))]
    lines = [trace["y"] for trace in visitor.evaluate(CHART, "history-chart")["traces"]]
    for expected in (
        [mean(five) for five in before],
        [mean(five) + 3 * stdev(five) for five in before],
        [days["VTAK", date].close for date in SAMPLE_DAYS[-40:]],
        # What lies above the bound is marked.
        [n for n, five in zip(trades[-40:], before) if n > mean(five) + 3 * stdev(five)],
    ):
        assert [line for line in lines if line == pytest.approx(expected)], expected


def test_a_click_on_a_day_of_the_history_goes_to_that_day(visitor):
    visitor.open().choose("VTAK")
    visitor.trace("history-chart", type="bar")
    bar = visitor.page.locator("#history-chart .point path").nth(37).bounding_box()
    visitor.page.mouse.move(bar["x"] + bar["width"] / 2, bar["y"] + 2)
    visitor.page.mouse.down()
    visitor.page.mouse.up()
    visitor.expect_day(SAMPLE_DAYS[-40:][37]).expect_detail("VTAK")
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
    polygon.answering.clear()
    visitor.open(f"/?date={QUIET_DAY}&threshold=-99").choose("GOOG")
    wait_until(lambda: polygon.requests)
    visitor.choose("INTC")
    visitor.trace("history-chart", type="bar")
    polygon.answering.set()
    sent = polygon.bars_of("INTC", QUIET_DAY)
    visitor.expect_candles(len(sent))
    time.sleep(0.3)
    candles = visitor.trace("day-chart", type="candlestick")
    assert candles["close"] == [bar["c"] for bar in sent]


def test_960_bars_are_drawn_within_400_ms_of_their_arrival(visitor, polygon):
    start = new_york_time(QUIET_DAY, 4 * 60)
    bar = {"h": 10.5, "l": 9.5, "v": 1000, "vw": 10, "n": 10}
    bars = [
        {"t": start + i * 60_000, "o": 9.8 + i % 3 / 10, "c": 9.8 + i % 5 / 10, **bar}
        for i in range(960)
    ]
    tickers = ["BA", "BABA", "BAC", "COIN", "CSCO", "DIS"]
    polygon.bars.update({(ticker, QUIET_DAY): bars for ticker in tickers})
    visitor.open(f"/?date={QUIET_DAY}&threshold=-99").choose("AVGO")
    visitor.trace("day-chart", type="candlestick")
    times = []
    for ticker in tickers:
        visitor.evaluate(WATCH_CANDLES, [ticker, 960])
        visitor.choose(ticker)
        times.append(visitor.evaluate(DRAWING_TIME, ticker))
        if times[-1] <= 400:
            break
    # Once in six times at least: the machine may have had other things to do.
    assert 0 < times[-1] <= 400, times


# When there are no bars.


FAULTS = {**REFUSALS, "rate limit": RATE_LIMIT, "drop": DROP, "nothing": EMPTY["no results"]}
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
        visitor.press("ArrowRight")
        visitor.expect_day(next_date)
        visitor.expect_candles(len(polygon.bars_of("AMZN", next_date)))
        assert visitor.refusals == [response.value.url]
        visitor.refusals.clear()


def test_whatever_the_server_says_about_bars_is_shown(visitor):
    said = {}
    visitor.page.route(
        "**/api/bars?**", lambda route: route.fulfill(**said) if said else route.continue_()
    )
    for status in (429, 502, 503, 504):
        sentence = f"For one reason or another <b>{status}</b>."
        said.update(status=status, json={"error": sentence})
        visitor.open(f"/chart?ticker=AMD&date={LAST_DAY}")
        assert visitor.bars_message() == sentence
        said.clear()
        visitor.page.locator("#day-chart-box button.retry").click()
        visitor.trace("day-chart", type="candlestick")
    visitor.refusals.clear()


def test_the_readmes_screenshot_can_be_taken(browser, served, polygon, tmp_path):
    candles = len(polygon.bars_of("VTAK", LAST_DAY))
    take_screenshot(browser, served.url, candles, tmp_path / "screenshot.png")
    picture = (tmp_path / "screenshot.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert struct.unpack(">II", picture[16:24]) == (1280, 800)
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
        {date: {ticker: (trades, 1), "</script>": (9, 1)} for date, trades in days},
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
    visitor.trace("day-chart", type="candlestick")
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
    visitor.trace("day-chart", type="candlestick")
    visitor.trace("history-chart", type="bar")
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
    visitor.expect_tickers(found(sample_table, LAST_DAY, "--sort", "z_score"))
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
    assert sorted(sort or "none" for sort in sorts) == ["descending"] + ["none"] * 7
    selected = visitor.page.locator("#anomalies tr[data-ticker]").evaluate_all(
        "rows => rows.map((row) => row.getAttribute('aria-selected'))"
    )
    assert sorted(selected) == ["false"] * 17 + ["true"]
    assert visitor.evaluate("document.documentElement.lang") == "en"
    for field in ("date", "threshold", "filter"):
        assert visitor.evaluate("(id) => document.getElementById(id).labels.length", field) == 1
    for link in ("previous-day", "next-day"):
        visitor.expect(f"#{link}").to_have_attribute("aria-label", re.compile("day"))
    visitor.trace("day-chart", type="candlestick")
    for chart in ("day-chart", "history-chart"):
        visitor.expect(f"#{chart}").to_have_attribute("aria-label", re.compile("NFLX"))


def test_a_replaced_table_shows_on_the_next_key(visitors, sample_table, polygon, tmp_path):
    market = {date: {"ONLY": (10, 1)} for date in SAMPLE_DAYS[:-1]}
    other = build_table(write_flat_files(tmp_path / "csv", market), tmp_path / "other.pkl")
    table = tmp_path / "table.pkl"
    shutil.copy(sample_table, table)
    with running_gui(table, polygon.url, POLYGON_API_KEY=KEY) as gui:
        visitor = visitors(gui.url).open()
        other.replace(table)
        visitor.press("ArrowLeft")
        visitor.expect("#summary").to_contain_text("among 1 ticker")
        visitor.context.close()
