"""A person with a browser on the GUI: Playwright drives Debian's Chromium, against the real server.

The fixtures here are a plugin of pytest, which conftest.py names.
"""

import os
from urllib.parse import parse_qs, urlsplit

import pytest
from fakes.polygon import FakePolygon
from playwright.sync_api import expect, sync_playwright
from tools.make_screenshot import find_chromium, launch_chromium

from helpers.gui import running_gui
from helpers.lists import query_json
from helpers.markets import SAMPLE_DAY, SAMPLE_MARKET
from helpers.scripts import KEY

expect.set_options(timeout=15_000)

VIEWPORT = {"width": 1280, "height": 800}
DAY_BEFORE = "2024-10-17"
DAY = f"/?date={SAMPLE_DAY}"  # an address with parameters: the page opens no row by itself


class Visitor:
    """A person with a browser on the GUI. What returns the visitor can be followed by the next act.

    requests    what the browser asked for
    refusals    the paths that were answered with a status of 400 or more
    complaints  what must not happen: messages on the console, requests to other servers
    """

    def __init__(self, context, url):
        self.url, self.requests, self.refusals, self.complaints = url, [], [], []
        self.context, self.page = context, context.new_page()
        self.page.on("console", self.hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self.see_request)
        self.page.on("response", self.see_response)

    def hear(self, message):
        # The browser also reports each refused request: refusals has it.
        if not message.text.startswith("Failed to load resource: the server responded"):
            self.complaints.append(message.text)

    def see_request(self, request):
        self.requests.append(request)
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
        asked = [request.url for request in self.requests]
        return [parameters(url)["ticker"] for url in asked if urlsplit(url).path == path]

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
        return self

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
        return self

    def query(self):
        return parameters(self.page.url)

    def chosen(self):
        rows = self.page.locator('tr[aria-selected="true"]')
        return rows.evaluate_all("rows => rows.map((row) => row.dataset.ticker)")

    def expect_chart(self, chart_id):
        """Wait until a chart shows the ticker and day of the detail, no longer those before."""
        shown = self.page.locator("#detail[data-ticker]")
        for name in ("data-ticker", "data-date"):
            value = shown.get_attribute(name)
            self.expect(f"#{chart_id}").to_have_attribute(name, value)
        return self

    def readout(self, chart_id):
        return self.page.locator(f"#{chart_id}-box .readout")

    def in_chart(self, chart_id, expression, value=None):
        """What a JavaScript expression of chart, series, element and value is for a chart."""
        script = f"""async ([id, value]) => {{
            const {{ charts }} = await import("/static/charts.js");
            const {{ chart, series, element }} = charts.get(id);
            await new Promise(requestAnimationFrame); // what waits is drawn
            return {expression};
        }}"""
        return self.evaluate(script, [f"{chart_id}-box", value])

    def points(self, chart_id, series):
        """The points of a chart's series, once the chart shows the ticker and day of the detail."""
        expression = "series[value].data().map((point) => ({ ...point }))"
        return self.expect_chart(chart_id).in_chart(chart_id, expression, series)

    def values(self, chart_id, series):
        """The values of the points that have one."""
        return [point["value"] for point in self.points(chart_id, series) if "value" in point]

    def bars_message(self):
        """The sentence that is shown instead of the candles; waits until there is one."""
        self.expect("#day-chart-box button.retry").to_be_visible()
        return self.page.locator("#day-chart-box .sentence").inner_text()


def parameters(address):
    """The parameters in an address's query, by name."""
    return {name: text for name, (text,) in parse_qs(urlsplit(address).query).items()}


@pytest.fixture(scope="module")
def browser():
    if not find_chromium() and not os.environ.get("CI"):
        pytest.skip("Chromium is missing: apt-get install chromium-headless-shell")
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
def found(sample_table):
    """A function: the tickers that the querier finds, in its order, those containing letters."""

    def tickers(date=SAMPLE_DAY, *options, containing=""):
        anomalies = query_json(sample_table, date, *options)
        return [row["ticker"] for row in anomalies if containing in row["ticker"].upper()]

    return tickers


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
        assert (one.complaints, one.refusals) == ([], [])


@pytest.fixture(scope="module")
def shared_tab(browser, served):
    """A tab on the GUI that stays open, so that its scripts are compiled once for all tests."""
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
