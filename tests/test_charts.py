"""The charts in a real browser: what they draw, how they are moved, chosen from and waited for.

The library draws on canvases, so a test reads the points that it was given, the readout, or pixels.
"""

import re
import struct
from datetime import date, datetime, timedelta, timezone
from itertools import accumulate
from statistics import mean, stdev
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import pytest
from fakes.polygon import DROP, FakePolygon, read_days
from helpers.browser import DAY, DAY_BEFORE, expect, parameters
from helpers.flat_files import new_york_time, write_flat_files
from helpers.gui import running_gui
from helpers.lists import query_json
from helpers.markets import SAMPLE_DAY, SAMPLE_DAYS, SAMPLE_MARKET
from helpers.scripts import KEY, build_table, wait_until
from tools.make_screenshot import MOST_BYTES, SIZE, take_screenshot

# The server keeps the bars that it has fetched: a test that watches bars arrive has a ticker and
# day of its own, most of them on this day.
QUIET_DAY = "2024-10-11"
LONG = 1710  # days
EARLY_CLOSE = "2024-11-29"
# Half past nine in New York is half past two in winter, half past one in summer.
HALF_PAST_NINE = {
    "2024-01-12": "2024-01-12T14:30+00:00",
    "2024-07-12": "2024-07-12T13:30+00:00",
    EARLY_CLOSE: "2024-11-29T14:30+00:00",
}

BOXES = """["day-chart", "history-chart"].map((id) => {
    const { y, bottom, height } = document.getElementById(id).getBoundingClientRect();
    return { y, bottom, height };
})"""
# Where the n-th point of a chart's time axis is, in whole pixels of the window.
POINT = """[
    Math.round(element.getBoundingClientRect().x + chart.timeScale().logicalToCoordinate(value)),
    element.getBoundingClientRect().y + chart.panes()[0].getHeight() / 2,
]"""
# The ground of a chart beside the middle of its n-th point: the median colour above all series.
GROUND = """(() => {
    const picture = chart.takeScreenshot(), ratio = picture.width / element.clientWidth;
    const x = Math.round((chart.timeScale().logicalToCoordinate(value) + 2) * ratio);
    const pixels = picture.getContext("2d").getImageData(x, 1, 1, 12 * ratio).data;
    const colors = [...new Uint32Array(pixels.buffer)].sort();
    return colors[Math.floor(colors.length / 2)];
})()"""
# Where a readout ends, and the figures in it that can be seen.
LINE = """(readout) => [readout.offsetTop + readout.offsetHeight, [...readout.children]
    .filter(({ offsetParent, offsetTop, offsetHeight }) =>
        offsetParent && offsetTop + offsetHeight <= readout.clientHeight)
    .map((figure) => figure.innerText)]"""
ANOMALY_COLOR = "rgb(217, 122, 0)"  # as --anomaly in style.css
# Record what is written on canvases from now on, instead of writing it.
RECORD_TEXTS = """() => {
    window.texts = [];
    CanvasRenderingContext2D.prototype.fillText = (text) => texts.push(text);
}"""


@pytest.fixture(scope="module")
def odd_gui(browser, tmp_path_factory):
    """(gui, days): the GUI on a market of LONG days, on each of which OLD has a row.

    On the days of HALF_PAST_NINE, TINY has one bar at that time, far below a cent.
    """
    folder = tmp_path_factory.mktemp("odd")
    every_day = (date(2018, 6, 1) + timedelta(i) for i in range(2 * LONG))
    days = [day.isoformat() for day in every_day if day.weekday() < 5][:LONG]
    market = {day: [("OLD", 1000 + i % 7, 10 + i % 90)] for i, day in enumerate(days)}
    bar = {"o": 0.00008, "h": 0.00009, "l": 0.00008, "c": 0.000086, "v": 300, "vw": 0.00008, "n": 3}
    for day in HALF_PAST_NINE:
        market[day].append(("TINY", bar["n"], bar["c"]))
    flat_files = write_flat_files(folder / "csv", market)
    table = build_table(flat_files, folder / "table.pkl")
    with FakePolygon(flat_files) as polygon:
        for day, time in HALF_PAST_NINE.items():
            time = datetime.fromisoformat(time).timestamp() * 1000
            polygon.bars["TINY", day] = [{"t": time, **bar}]
        with running_gui(table, polygon.url, POLYGON_API_KEY=KEY) as gui:
            yield gui, days


@pytest.fixture
def on_vtak(visitor):
    """A visitor of VTAK's SAMPLE_DAY beside the list, with both charts drawn."""
    visitor.open(f"{DAY}&ticker=VTAK")
    return visitor.expect_chart("day-chart").expect_chart("history-chart")


def clock(seconds, zone=timezone.utc):
    """A time as a clock shows it. The library gets New York's clock as if it were UTC."""
    return datetime.fromtimestamp(seconds, zone).strftime("%Y-%m-%d %H:%M")


def clocks(points):
    return [clock(point["time"]) for point in points]


def new_york_clocks(bars):
    return [clock(bar["t"] / 1000, ZoneInfo("America/New_York")) for bar in bars]


def price(value):
    """A price as the charts write it: two to four digits after the point, below 1 up to four."""
    digits = f"{value:.4f}".rstrip("0").partition(".")[2]
    return f"{value:,.{max(2, len(digits))}f}"


def vwaps_of(bars):
    """For each bar, the average price of the volume up to it."""
    volumes = accumulate(bar["v"] for bar in bars)
    dollars = accumulate(bar["v"] * bar["vw"] for bar in bars)
    return [dollar / volume for dollar, volume in zip(dollars, volumes)]


def candles_of(visitor):
    """The candles that are drawn, without the times that have none."""
    return [point for point in visitor.points("day-chart", "candles") if "open" in point]


def choose(visitor, chart, value):
    """Press the button of a value among a chart's choices."""
    visitor.page.click(f'#{chart}-box [data-value="{value}"]')


def position(visitor, chart, n):
    return visitor.in_chart(chart, POINT, n)


def visible(visitor, chart):
    """The first and the last index on the time axis, as the zoom has it."""
    script = "(({ from, to }) => [from, to])(chart.timeScale().getVisibleLogicalRange())"
    return visitor.in_chart(chart, script)


def zoom_in(visitor, chart, n, notches=3):
    """Turn the wheel over the n-th point of a chart's time axis."""
    visitor.page.mouse.move(*position(visitor, chart, n))
    before = visible(visitor, chart)[0]
    for _ in range(notches):
        visitor.page.mouse.wheel(0, -100)
    wait_until(lambda: visible(visitor, chart)[0] > before + 30)


# The chart of the day.


@pytest.mark.parametrize("ticker, minutes", [("VTAK", 1), ("AAp", 1), ("VTAK", 5)])
def test_candles_hold_what_the_bars_of_their_minutes_hold(visitor, polygon, ticker, minutes):
    visitor.open(f"{DAY}&ticker={ticker}").expect_chart("day-chart")
    choose(visitor, "day-chart", minutes)
    sent = polygon.bars_of(ticker, SAMPLE_DAY)
    bars_at, length = {}, minutes * 60_000
    for bar, vwap in zip(sent, vwaps_of(sent)):
        (time,) = new_york_clocks([{"t": bar["t"] // length * length}])
        bars_at.setdefault(time, []).append({**bar, "vwap": vwap})
    candles, groups = candles_of(visitor), bars_at.values()
    assert clocks(candles) == [*bars_at]
    assert [candle["open"] for candle in candles] == [bars[0]["o"] for bars in groups]
    assert [candle["high"] for candle in candles] == [max(b["h"] for b in bars) for bars in groups]
    assert [candle["low"] for candle in candles] == [min(b["l"] for b in bars) for bars in groups]
    assert [candle["close"] for candle in candles] == [bars[-1]["c"] for bars in groups]
    volumes = [sum(bar["v"] for bar in bars) for bars in groups]
    assert visitor.values("day-chart", "volume") == pytest.approx(volumes)
    counts = [count for count in visitor.values("day-chart", "trades") if count]
    assert counts == [sum(bar["n"] for bar in bars) for bars in groups]
    vwaps = [bars[-1]["vwap"] for bars in groups]
    assert visitor.values("day-chart", "vwap") == pytest.approx(vwaps)


def test_regular_hours_and_minutes_are_remembered(on_vtak, polygon):
    choose(on_vtak, "day-chart", "regular")
    choose(on_vtak, "day-chart", 15)
    times = clocks(on_vtak.open(f"{DAY}&ticker=PEGY").points("day-chart", "trades"))
    assert [len(times), times[0][-5:], times[-1][-5:]] == [26, "09:30", "15:45"]
    choose(on_vtak, "day-chart", 1)
    sent = polygon.bars_of("PEGY", SAMPLE_DAY)
    regular = [bar for bar in sent if "09:30" <= new_york_clocks([bar])[0][-5:] < "16:00"]
    assert on_vtak.values("day-chart", "vwap") == pytest.approx(vwaps_of(regular))


def test_early_and_late_trading_are_shaded(on_vtak, visitors, odd_gui):
    colors = [on_vtak.in_chart("day-chart", GROUND, n) for n in (320, 335, 712, 725)]
    assert colors[0] == colors[3] != colors[1] == colors[2]
    early = visitors(odd_gui[0].url).open(f"/chart?ticker=TINY&date={EARLY_CLOSE}")
    early.expect_chart("day-chart")
    # The market closed at 13:00, 540 minutes after 04:00.
    assert [early.in_chart("day-chart", GROUND, n) for n in (530, 545)] == [colors[1], colors[0]]


def test_one_candle_below_a_cent_stands_at_its_time_in_new_york(visitors, odd_gui):
    visitor = visitors(odd_gui[0].url, timezone_id="Asia/Tokyo", locale="de-DE")
    for day in ("2024-01-12", "2024-07-12"):
        visitor.open(f"/chart?ticker=TINY&date={day}")
        (candle,) = candles_of(visitor)
        assert clock(candle["time"]) == f"{day} 09:30"
        expect(visitor.readout("day-chart").locator("span").first).to_have_text("09:30")
        trades = visitor.values("day-chart", "trades")
        assert (len(trades), [i for i, count in enumerate(trades) if count]) == (960, [330])
        assert visible(visitor, "day-chart") == pytest.approx([0, 959], abs=0.6)
    visitor.open("/chart?ticker=TINY&date=2024-01-12")  # its first row, which has no change
    visitor.expect("#detail .price").to_have_text(re.compile(r"^\s*0\.000086\s+—\s*$"))
    for chart, series in (("day-chart", "candles"), ("history-chart", "close")):
        axis = "series[value].priceFormatter().format(0.000086)"
        assert visitor.expect_chart(chart).in_chart(chart, axis, series) == "0.00008600"


def test_pointer_and_keyboard_show_the_figures_of_a_candle(visitor, polygon):
    sent = polygon.bars_of("PEGY", SAMPLE_DAY)
    times, vwaps = [time[-5:] for time in new_york_clocks(sent)], vwaps_of(sent)
    visitor.resize(2300)  # a minute is more than a pixel wide
    visitor.open(f"{DAY}&ticker=PEGY").expect_chart("day-chart")
    previous_close = read_days(SAMPLE_MARKET)["PEGY", SAMPLE_DAY].previous_close
    readout = visitor.readout("day-chart")

    def expect_figures(index):
        bar = sent[index]
        prices = [f"{name} {price(bar[name[0]])}" for name in ("open", "high", "low", "close")]
        counts = [f"volume {bar['v']:,.0f}", f"trades {bar['n']:,}"]
        change = f"change {(bar['c'] / previous_close - 1) * 100:+,.2f} %"
        figures = [times[index], *prices, change, f"VWAP {vwaps[index]:,.2f}", *counts]
        expect(readout).to_have_attribute("aria-valuetext", ", ".join(figures))
        expect(readout).to_contain_text(times[index])

    expect_figures(-1)
    line = visitor.in_chart("day-chart", "series.candles.priceLines()[0].options()")
    assert (line["price"], line["title"]) == (previous_close, "previous close")
    visitor.page.mouse.move(*position(visitor, "day-chart", 480))
    expect_figures(times.index("12:00"))
    visitor.page.mouse.move(0, 0)
    expect_figures(-1)
    readout.focus()
    visitor.press("Home")
    expect_figures(0)
    visitor.press("End", "ArrowLeft")
    expect_figures(-2)


def test_a_notch_of_the_wheel_zooms_and_leaves_the_minute_under_the_pointer(on_vtak):
    x, y = position(on_vtak, "day-chart", 480)
    on_vtak.page.mouse.move(x, y)
    expect(on_vtak.readout("day-chart")).to_contain_text(re.compile("^(11:5|12:0)"))
    pointed_at = on_vtak.readout("day-chart").inner_text()[:5]
    zoom_in(on_vtak, "day-chart", 480)
    on_vtak.page.mouse.move(x, y + 1)
    expect(on_vtak.readout("day-chart")).to_contain_text(pointed_at)
    assert on_vtak.evaluate("document.getElementById('detail').scrollTop") == 0
    on_vtak.press("z")
    assert visible(on_vtak, "day-chart") == pytest.approx([0, 959], abs=0.6)


def test_a_zoom_lasts_for_the_tickers_of_one_day_and_in_other_colours(on_vtak):
    zoom_in(on_vtak, "day-chart", 400)
    zoomed = visible(on_vtak, "day-chart")
    on_vtak.press("ArrowDown").expect_detail("PEGY").expect_chart("day-chart")
    assert visible(on_vtak, "day-chart") == pytest.approx(zoomed, abs=0.1)
    ground = on_vtak.in_chart("day-chart", GROUND, 400)
    on_vtak.page.emulate_media(color_scheme="dark")
    wait_until(lambda: on_vtak.in_chart("day-chart", GROUND, 400) != ground)
    assert visible(on_vtak, "day-chart") == pytest.approx(zoomed, abs=0.1)
    choose(on_vtak, "day-chart", 5)
    assert visible(on_vtak, "day-chart")[0] == pytest.approx(zoomed[0] / 5, abs=1.5)
    on_vtak.press("ArrowLeft").expect_day(DAY_BEFORE).expect_chart("day-chart")
    assert visible(on_vtak, "day-chart") == pytest.approx([0, 191], abs=0.6)


@pytest.mark.parametrize("chart, suffix", [("day-chart", ""), ("history-chart", "-history")])
def test_a_chart_is_saved_as_a_picture_below_its_ticker_and_date(on_vtak, chart, suffix):
    on_vtak.evaluate(RECORD_TEXTS)
    with on_vtak.page.expect_download() as download:
        on_vtak.page.click(f"#{chart}-box .save")
    assert download.value.suggested_filename == f"VTAK-{SAMPLE_DAY}{suffix}.png"
    assert any(f"VTAK · {SAMPLE_DAY}" in text for text in on_vtak.evaluate("texts"))
    png = download.value.path().read_bytes()
    assert png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    box = on_vtak.page.locator(f"#{chart}").bounding_box()
    assert width == pytest.approx(box["width"], abs=2)
    assert height > box["height"] + 15


# The chart of the history.


def bounds(trades, threshold):
    """For each day, the mean of the five days before plus threshold times their deviation.

    With more trades the day is an anomaly. The first five days have none.
    """
    baselines = [trades[i - 5 : i] for i in range(5, len(trades))]
    return [mean(five) + threshold * stdev(five) for five in baselines]


def test_the_history_shows_trades_average_bound_and_close(on_vtak):
    days = [read_days(SAMPLE_MARKET)["VTAK", day] for day in SAMPLE_DAYS]
    trades = [day.trades for day in days]
    columns = on_vtak.points("history-chart", "trades")
    assert [(column["time"], column["value"]) for column in columns] == [*zip(SAMPLE_DAYS, trades)]
    assert on_vtak.values("history-chart", "average") == pytest.approx(bounds(trades, 0))
    assert on_vtak.values("history-chart", "bound") == pytest.approx(bounds(trades, 3))
    closes = [day.close for day in days]
    assert on_vtak.values("history-chart", "close") == pytest.approx(closes)


# With a threshold below 0 each row is an anomaly: the chart shows those above 3.
@pytest.mark.parametrize("threshold, drawn", [(3, 3), (40, 40), (-99, 3)])
def test_the_days_above_the_threshold_are_orange(visitor, threshold, drawn):
    days = read_days(SAMPLE_MARKET)
    trades = [days["HEPS", day].trades for day in SAMPLE_DAYS]
    visitor.open(f"/chart?ticker=HEPS&date={SAMPLE_DAY}&threshold={threshold}")
    columns = visitor.points("history-chart", "trades")
    limits = bounds(trades, drawn)
    assert visitor.values("history-chart", "bound") == pytest.approx(limits)
    above = [False] * 5 + [count > limit for count, limit in zip(trades[5:], limits)]
    assert [column["color"] == ANOMALY_COLOR for column in columns] == above
    assert any(above)


def test_a_click_on_a_day_of_the_history_goes_there_and_marks_it(on_vtak):
    chosen = len(SAMPLE_DAYS) - 3
    on_vtak.page.mouse.click(*position(on_vtak, "history-chart", chosen))
    on_vtak.expect_day(SAMPLE_DAYS[chosen]).expect_detail("VTAK").expect_chart("history-chart")
    grounds = [on_vtak.in_chart("history-chart", GROUND, chosen + i) for i in (-2, 0, 2)]
    assert grounds[0] == grounds[2] != grounds[1]


def test_enter_in_the_history_goes_to_a_day_and_keeps_the_focus(on_vtak, sample_table):
    readout = on_vtak.readout("history-chart")
    readout.focus()
    on_vtak.press("ArrowLeft", "ArrowLeft")
    # VTAK's trades on the five days before were 851, 803, 577, 820 and 913: their mean is 792.8,
    # their deviation 127.72. (28449 - 792.8) / 127.72 = 216.54 and 792.8 + 3 * 127.72 = 1175.96.
    day = read_days(SAMPLE_MARKET)["VTAK", "2024-10-16"]
    change = (day.close / day.previous_close - 1) * 100
    row = query_json(sample_table, "2024-10-16", "--threshold=200")[0]
    figures = ["2024-10-16", "trades 28,449", "z-score 216.54", f"long z {row['long_z']:.2f}"]
    figures += ["average 793", "average + 3 std dev 1,176", f"close {price(day.close)}"]
    figures += [f"change {change:+,.2f} %", f"dollar volume {row['dollar_volume']:,}"]
    expect(readout).to_have_attribute("aria-valuetext", ", ".join(figures))
    on_vtak.press("Enter").expect_day("2024-10-16").expect_chart("history-chart")
    expect(readout).to_be_focused()
    on_vtak.press("ArrowRight", "Enter").expect_day("2024-10-17")


def test_all_of_1710_days_are_walked_through_and_each_can_be_chosen(visitors, odd_gui):
    gui, days = odd_gui
    visitor = visitors(gui.url).open(f"/?date={days[-1]}&ticker=OLD&threshold=-99")
    choose(visitor.expect_chart("history-chart"), "history-chart", "all")
    wait_until(lambda: len(visitor.points("history-chart", "trades")) == LONG)
    assert visible(visitor, "history-chart") == pytest.approx([0, LONG - 1], abs=2)
    zoom_in(visitor, "history-chart", 900, notches=60)
    zoomed = visible(visitor, "history-chart")
    x, y = position(visitor, "history-chart", 900)
    visitor.page.mouse.down()
    visitor.page.mouse.move(x + 200, y, steps=5)
    visitor.page.mouse.up()
    wait_until(lambda: visible(visitor, "history-chart")[0] < zoomed[0] - 1)
    chosen = round(visible(visitor, "history-chart")[0]) + 2
    visitor.page.mouse.click(*position(visitor, "history-chart", chosen))
    visitor.expect_day(days[chosen]).expect_chart("history-chart")
    visitor.readout("history-chart").focus()
    visitor.press("Home", "Enter").expect_day(days[0]).expect_chart("history-chart")
    assert visible(visitor, "history-chart")[0] < 1


def test_length_and_scale_of_the_history_are_remembered(on_vtak):
    choose(on_vtak, "history-chart", 20)
    choose(on_vtak, "history-chart", "log")
    points = on_vtak.open(f"{DAY}&ticker=PEGY").points("history-chart", "trades")
    assert [point["time"] for point in points] == SAMPLE_DAYS[-20:]
    heights = "[100_000, 10_000].map((trades) => series.trades.priceToCoordinate(trades))"
    log = on_vtak.in_chart("history-chart", heights)
    choose(on_vtak, "history-chart", "linear")
    linear = on_vtak.in_chart("history-chart", heights)
    assert linear[1] - linear[0] < log[1] - log[0]


# Figures and colours.


def test_the_close_has_the_colour_of_the_change(visitor, polygon):
    # SOpC fell by 8.57 % on a day whose last minute rose.
    start = new_york_time(SAMPLE_DAY, 9 * 60 + 30)
    bar = {"o": 15, "h": 16, "l": 14, "c": 15.5078, "v": 100, "vw": 15, "n": 2}
    polygon.bars["SOpC", SAMPLE_DAY] = [{"t": start, **bar}]
    visitor.open(f"{DAY}&ticker=SOpC")
    for chart in ("day-chart", "history-chart"):
        visitor.expect_chart(chart)
        close = visitor.readout(chart).locator("span", has_text=re.compile("^C 15.5078$"))
        expect(close).to_have_class("down")


def test_numbers_are_written_with_as_many_digits_as_they_need(visitor):
    prices = [1234.5678, 12.346, 1, 0.99999, 0.91, 0.5, 0.01275, 0.012347, 0.00003456789, 0]
    texts = ["1,234.5678", "12.346", "1.00", "1.00", "0.91", "0.50", "0.01275", "0.01235"]
    visitor.open()

    def written(name, values):
        script = "async ([name, values]) => values.map((await import('/static/answers.js'))[name])"
        return visitor.evaluate(script, [name, values])

    assert written("formatPrice", prices) == [*texts, "0.00003457", "0.00"]
    assert written("formatAveragePrice", prices[:2]) == ["1,234.57", "12.35"]
    assert written("formatFigure", [6.4, 8.0432, 660.8]) == ["6.4", "8.04", "661"]
    assert written("formatZScore", [-0.001, -3.456]) == ["0.00", "-3.46"]
    changes = [-0.001, 0.001, -9.65, 0, None]
    assert written("formatPercent", changes) == ["0.00 %", "0.00 %", "-9.65 %", "0.00 %", "—"]
    assert written("changeClass", changes[:4]) == ["", "", "down", ""]


# Where the charts stand.


def test_the_first_plot_starts_high_and_both_are_in_sight_on_a_small_laptop(on_vtak):
    on_vtak.resize(1366, 768)
    day, history = on_vtak.evaluate(BOXES)
    assert day["y"] <= 768 / 4
    assert day["height"] > 200 and history["height"] > 120
    assert history["bottom"] <= on_vtak.page.locator("#keys").bounding_box()["y"]


@pytest.mark.parametrize("width", [390, 1280, 1366])
def test_the_figures_of_a_chart_are_one_line_that_covers_no_price_and_no_bar(visitor, width):
    visitor.resize(width)
    visitor.open(f"{DAY}&ticker=VTAK")
    for chart, series, field in [
        ("day-chart", "candles", "high"),
        ("history-chart", "trades", "value"),
    ]:
        top = max(point.get(field, 0) for point in visitor.points(chart, series))
        y = visitor.in_chart(chart, f"series.{series}.priceToCoordinate(value)", top)
        end, figures = visitor.readout(chart).evaluate(LINE)
        assert end <= min(y, 20)
        assert {"C 0.91", "+106.49 %"} < {*figures}


def test_headlines_and_a_banner_make_room_between_the_charts_own_edges(on_vtak, polygon):
    article = {"title": "NFLX rises", "published_utc": f"{SAMPLE_DAY}T13:05:00Z"}
    polygon.articles = {"NFLX": [article] * 9}
    on_vtak.choose("NFLX").expect_chart("history-chart").press("h")
    on_vtak.expect(".headlines li").to_have_count(9)
    on_vtak.evaluate("document.getElementById('new-table').textContent = 'A banner'")
    is_fitted = """() => [...document.querySelectorAll(".chart")].every((chart) => {
        const outer = chart.getBoundingClientRect();
        const inner = chart.firstElementChild.getBoundingClientRect();
        const names = ["x", "y", "width", "height"];
        return names.every((name) => Math.abs(outer[name] - inner[name]) < 2);
    })"""
    wait_until(lambda: on_vtak.evaluate(is_fitted))
    day, history = on_vtak.evaluate(BOXES)
    assert day["bottom"] <= history["y"]


def test_a_swipe_over_a_chart_scrolls_a_phone(visitors, served, polygon):
    size = {"width": 390, "height": 844}
    phone = visitors(served.url, viewport=size, has_touch=True, is_mobile=True)
    phone.open(f"{DAY}&ticker=VTAK").expect_chart("day-chart")
    phone.page.locator("#day-chart").scroll_into_view_if_needed()
    box, before = phone.page.locator("#day-chart").bounding_box(), phone.evaluate("scrollY")
    session = phone.context.new_cdp_session(phone.page)
    x, y = box["x"] + 100, box["y"] + 50
    kinds = ["touchStart", *["touchMove"] * 10, "touchEnd"]
    for i, kind in enumerate(kinds):
        points = [] if kind == "touchEnd" else [{"x": x, "y": y + 15 * i}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        phone.page.wait_for_timeout(16)  # a finger moves once a frame
    wait_until(lambda: phone.evaluate("scrollY") < before - 50)


def test_a_first_view_sends_at_most_900_kb_and_links_to_the_maker_of_its_library(on_vtak):
    for chart in ("day-chart", "history-chart"):
        link = on_vtak.page.locator(f"#{chart} a")
        expect(link).to_have_attribute("href", re.compile(r"^https://www\.tradingview\.com/"))
        expect(link).to_be_visible()
    size = """["navigation", "resource"].flatMap((type) => performance.getEntriesByType(type))
        .reduce((sum, entry) => sum + entry.decodedBodySize, 0)"""
    assert 190_000 < on_vtak.evaluate(size) <= 900_000


# While bars are awaited.


def test_another_tickers_candles_go_away_while_the_next_ones_are_awaited(visitor, polygon):
    given_up = []
    visitor.page.on("requestfailed", lambda request: given_up.append(request.url))
    visitor.open(f"/?date={QUIET_DAY}&threshold=-99").choose("AVGO").expect_chart("day-chart")
    polygon.answering.clear()
    visitor.choose("GOOG")
    wait_until(lambda: any("/GOOG/" in request.path for request in polygon.requests))
    visitor.choose("INTC").expect_chart("history-chart")
    visitor.expect("#day-chart-box .loading").to_be_visible()
    visitor.expect("#day-chart").to_be_hidden(timeout=2000)
    visitor.expect("#day-chart-box .readout").to_be_empty()
    polygon.answering.set()
    visitor.expect_chart("day-chart").expect("#day-chart").to_be_visible()
    closes = [bar["c"] for bar in polygon.bars_of("INTC", QUIET_DAY)]
    assert [candle["close"] for candle in candles_of(visitor)] == closes
    given_up = [url for url in given_up if urlsplit(url).path == "/api/bars"]
    assert [parameters(url)["ticker"] for url in given_up] == ["GOOG"]


def test_of_rows_passed_by_only_the_first_and_last_ask_for_bars(visitors, served, polygon, found):
    tickers = found("2024-09-20")[:4]
    visitor = visitors(served.url)
    visitor.page.clock.install(time=0)
    visitor.open("/?date=2024-09-20").page.clock.pause_at(60_000)
    for ticker in tickers:
        visitor.press("ArrowDown").expect_detail(ticker).page.clock.run_for(240)
    visitor.page.clock.resume()
    visitor.expect_chart("day-chart")
    assert visitor.tickers_asked_for("/api/bars") == [tickers[0], tickers[-1]]


# When there are no bars.


def test_a_fault_is_a_sentence_instead_of_candles_and_all_else_works(visitor, polygon):
    polygon.answer = DROP
    with visitor.page.expect_response("**/api/bars?*") as response:
        visitor.open("/?date=2024-08-26&ticker=AMZN&threshold=0")
    assert visitor.bars_message() == response.value.json()["error"]
    visitor.expect_chart("history-chart")
    button = visitor.page.locator("#day-chart-box button.retry")
    button.focus()
    with visitor.page.expect_response("**/api/bars?*"):
        visitor.press("Enter")
    expect(button).to_have_attribute("aria-disabled", "false")
    expect(button).to_be_focused()
    visitor.assert_refused("/api/bars", "/api/bars")
    polygon.answer = None
    visitor.press("Enter").expect_chart("day-chart").expect("#day-chart").to_be_focused()
    visitor.press("ArrowRight").expect_day("2024-08-27").expect_detail("AMZN")


@pytest.fixture
def refused(visitors, served, polygon):
    """A function: a visitor, with a stopped clock, whose first request for bars was refused."""

    def visitor(status, **answer):
        one = visitors(served.url)
        refusal = {"status": status, "json": {"error": "Wait <b>a moment</b>.", **answer}}
        one.page.route("**/api/bars?*", lambda route: route.fulfill(**refusal), times=1)
        one.page.clock.install(time=0)
        one.page.clock.pause_at(60_000)
        one.open("/?ticker=VTAK")
        one.page.clock.run_for(100)
        assert one.bars_message() == "Wait <b>a moment</b>."
        one.assert_refused("/api/bars")
        return one

    return visitor


# The server that has not answered other requests says so with 503, Polygon's limit is a 429.
@pytest.mark.parametrize("status, answer", [(429, {"retry_after": 2}), (503, {})])
def test_the_chart_counts_down_and_tries_again_by_itself(refused, status, answer):
    visitor = refused(status, **answer)
    countdown = visitor.page.locator("#day-chart-box .countdown")
    expect(countdown).to_have_text(re.compile(r"^Trying again in \d s\.$"))
    seconds = int(re.search(r"\d", countdown.inner_text())[0])
    visitor.page.clock.run_for((seconds - 1) * 1000)
    expect(countdown).to_have_text("Trying again in 1 s.")
    visitor.page.clock.resume()
    visitor.expect_chart("day-chart")
    assert visitor.tickers_asked_for("/api/bars") == ["VTAK", "VTAK"]


def test_after_a_limit_bars_wait_until_a_row_was_chosen_for_a_second(refused):
    visitor = refused(429, retry_after=60)
    for ticker in ("PEGY", "NFLX", "JDZG"):
        visitor.press("ArrowDown").expect_detail(ticker).page.clock.run_for(999)
    assert visitor.tickers_asked_for("/api/bars") == ["VTAK"]
    visitor.page.clock.resume()
    visitor.expect_chart("day-chart")
    assert visitor.tickers_asked_for("/api/bars") == ["VTAK", "JDZG"]


def test_without_a_key_a_line_and_a_link_leave_their_room_to_the_history(
    visitors, sample_table, polygon
):
    with running_gui(sample_table, polygon.url) as gui:
        visitor = visitors(gui.url).open(f"{DAY}&ticker=VTAK")
        assert "POLYGON_API_KEY" in visitor.bars_message()
        visitor.expect_chart("history-chart").expect("#day-chart-box a.get-key").to_be_visible()
        assert visitor.page.locator("#day-chart-box").bounding_box()["height"] < 60
        assert visitor.page.locator("#history-chart").bounding_box()["height"] > 350
        visitor.press("j").expect_detail("PEGY").expect_chart("history-chart")
        assert "POLYGON_API_KEY" in visitor.bars_message()
        visitor.assert_refused("/api/bars")  # the second ticker's bars were not asked for
        visitor.context.close()
    assert polygon.requests == []


@pytest.mark.parametrize("act", ["click", "key"])
def test_a_view_that_another_site_opened_asks_polygon_for_nothing_before_a_click_or_key(
    visitor, polygon, act
):
    view = f"{visitor.url}/?date=2024-09-05&ticker=INTC&threshold=-99"
    visitor.page.set_content(f"<a href='{view}'>It belongs to no site that the server knows</a>")
    visitor.page.click("a")
    visitor.expect_chart("history-chart").bars_message()
    assert polygon.requests == []
    if act == "click":
        visitor.page.locator("#day-chart-box .retry").click()
    else:
        visitor.press("j").expect_detail("GOOGL")
    visitor.expect_chart("day-chart")
    assert len(polygon.requests) == 1


@pytest.mark.parametrize("script", ["window.LightweightCharts = null;", None])
def test_another_build_of_the_library_is_not_served_and_the_page_says_what_to_install(
    visitors, sample_table, polygon, found, tmp_path, script
):
    package = tmp_path / "litecharts"
    (package / "js").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    if script:
        (package / "js" / "lightweight-charts.js").write_text(script)
    with running_gui(sample_table, polygon.url, PYTHONPATH=str(tmp_path)) as gui:
        visitor = visitors(gui.url).open("/?ticker=VTAK")
        for box in ("#day-chart-box", "#history-chart-box"):
            visitor.expect(f"{box} .sentence").to_contain_text("pip install -r requirements.txt")
        visitor.expect_tickers(found())
        assert visitor.page.request.get(f"{gui.url}/lightweight-charts.js").status == 404
        visitor.context.close()


# Headlines and the picture for the README.


def test_headlines_are_fetched_once_counted_and_closed_again(on_vtak, polygon):
    article = {
        "title": "VTAK <b>rises</b>",
        "publisher": {"name": "The Wire"},
        "published_utc": f"{SAMPLE_DAY}T13:05:00Z",
        "article_url": "https://example.com/1",
    }
    odd = {"title": "Second", "published_utc": f"{SAMPLE_DAY}T14:00:00Z", "article_url": "ftp://x"}
    polygon.articles = {"VTAK": [article, odd]}
    button = on_vtak.page.get_by_role("button", name="Headlines", exact=True)
    button.click()
    items = on_vtak.page.locator(".headlines li")
    expect(items).to_have_text(["10-18 09:05 VTAK <b>rises</b> The Wire", "10-18 10:00 Second"])
    expect(items.locator("a")).to_have_count(1)
    expect(items.locator("a")).to_have_attribute("href", "https://example.com/1")
    on_vtak.expect(".headline-count").to_have_text("2")
    on_vtak.expect(".headlines").to_contain_text("A headline is not a cause.")
    button.click()
    on_vtak.expect(".headlines").to_be_hidden()
    expect(button).to_have_attribute("aria-expanded", "false")
    on_vtak.press("h").expect(".headlines").to_be_visible()
    on_vtak.choose("PEGY").expect(".headlines").to_be_hidden()
    assert on_vtak.tickers_asked_for("/api/headlines") == ["VTAK"]
    # Without this header the server takes a request for one of another site.
    asked = [request for request in on_vtak.requests if "/api/" in request.url]
    assert {request.headers["x-lookup-table-page"] for request in asked} == {"1"}


def test_the_readmes_screenshot_can_be_taken(browser, served, polygon, tmp_path):
    take_screenshot(browser, served.url, tmp_path / "screenshot.png")
    picture = (tmp_path / "screenshot.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert struct.unpack(">II", picture[16:24]) == (SIZE["width"], SIZE["height"])
    assert len(picture) <= MOST_BYTES
