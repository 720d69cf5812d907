"""The page without its charts in a real browser: Playwright drives Chromium."""

import json
import os
import re
import shutil
import signal
import time
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from fakes.polygon import read_days
from helpers.browser import DAY, DAY_BEFORE, VIEWPORT, expect
from helpers.flat_files import write_flat_files
from helpers.gui import running_gui
from helpers.lists import is_shown, query_json
from helpers.markets import SAMPLE_DAY, SAMPLE_DAYS, SAMPLE_MARKET
from helpers.scripts import KEY, build_table

SUNDAY = "2024-10-13"
COLUMNS = ["ticker", "trades", "avg_trades", "std_trades"]
COLUMNS += ["z_score", "times_normal", "record", "close_price", "price_diff"]
# Columns that are left out where the window is narrower than so many pixels.
HIDDEN_BELOW = {"avg_trades": 1200, "std_trades": 1200, "record": 1100}

STATE = """() => [...document.querySelectorAll(
        "title, #summary, #detail h2, #anomalies tbody tr, #settings > label > input")]
    .map(({ textContent, value, ariaSelected }) => [textContent, value, ariaSelected])"""
# The texts that are wider than their element, or reach beyond the window.
CUT = """(selector) => [...document.querySelectorAll(selector)]
    .filter((element) => element.scrollWidth > element.clientWidth
        || element.getBoundingClientRect().right > innerWidth)
    .map((element) => element.textContent)"""
# Where the parts of the header are: [left, right, top, bottom].
HEADER = """() => [...document.querySelectorAll(
        "#steps, #summary, #settings > :is(label, details, a, button:not([hidden]))")]
    .map((element) => element.getBoundingClientRect())
    .map(({ left, right, top, bottom }) => [left, right, top, bottom])"""
TOTAL_WIDTH = "document.documentElement.scrollWidth"


@pytest.fixture
def on_day(visitor):
    """A visitor of SAMPLE_DAY's list, in which no row is chosen."""
    return visitor.open(DAY)


def type_into(visitor, field, text):
    """Replace a field's text by typing, and press Enter."""
    visitor.page.locator(field).click(click_count=3)
    visitor.page.keyboard.type(text)
    visitor.press("Enter")


def sort_by(visitor, field, direction="descending"):
    """Click a column's header, which then says in which direction the list is sorted."""
    visitor.page.click(f'th[data-sort="{field}"] a')
    visitor.expect(f'th[data-sort="{field}"]').to_have_attribute("aria-sort", direction)


def shown_columns(visitor):
    """The fields of the columns that are shown, without that of the marks."""
    return visitor.page.locator("#anomalies th:visible").evaluate_all(
        "headers => headers.map((header) => header.dataset.sort)"
    )[:-1]


def set_filter(visitor, name, value):
    """Open the panel of further filters and set one of them."""
    if not visitor.page.locator("#filters .panel").is_visible():
        visitor.page.click("#filters-summary")
    if name == "skip":
        visitor.page.check(f"#skip-{value}")
    elif name == "min_record":
        visitor.page.select_option("#min_record", value)
    else:
        type_into(visitor, f"#{name}", value)


def hold(visitor, pattern):
    """The list of requests for addresses with the pattern; each waits until a test continues it.

    Right after this, Chromium may let a request pass unseen: hold them before a view is opened.
    """
    held = []
    visitor.page.route(re.compile(pattern), lambda route: held.append(route))
    return held


def wait_for_request(visitor, held):
    """The first request in held, once there is one."""
    deadline = time.monotonic() + 15
    while not held and time.monotonic() < deadline:
        visitor.page.wait_for_timeout(10)
    return held[0]


# The list.


def test_the_column_that_the_list_is_sorted_by_is_always_shown(visitor, sample_table):
    visitor.open(f"{DAY}&sort=gap")
    assert shown_columns(visitor) == [*COLUMNS, "gap"]
    gaps = [row["gap"] for row in query_json(sample_table, SAMPLE_DAY, "--sort", "gap")]
    cells = visitor.page.locator("td.gap").all_inner_texts()
    assert all(is_shown("gap", gap, text) for gap, text in zip(gaps, cells, strict=True))


def test_further_columns_are_chosen_and_show_changes_with_sign_and_colour(visitor):
    visitor.open("/?date=2024-09-20").page.click("#more summary")
    for field in ("gap", "after_1", "after_5", "after_20"):
        visitor.page.check(f"#column-{field}")
        visitor.expect(f"th.{field}").to_be_visible()
    assert visitor.query()["columns"] == "gap,after_1,after_5,after_20"
    days = read_days(SAMPLE_MARKET)
    for field, date in [("after_1", "2024-09-23"), ("after_5", "2024-09-27")]:
        change = (days["SWN", date].close / days["SWN", "2024-09-20"].close - 1) * 100
        cell = visitor.expect(f'tr[data-ticker="SWN"] td.{field}')
        cell.to_have_text(f"{change:+.2f}")
        cell.to_have_class(re.compile(r"\bup$"))


def test_a_wide_window_has_room_for_further_columns(visitors, served):
    visitor = visitors(served.url, viewport={"width": 2560, "height": 1440}).open("/")
    visitor.page.click("#more summary")
    for column in ("long_z", "dollar_volume", "gap"):
        visitor.expect(f"th.{column}").to_be_visible()
        visitor.page.uncheck(f"#column-{column}")
        visitor.expect(f"th.{column}").to_have_count(0)
    visitor.open("/").expect_detail("VTAK")
    assert shown_columns(visitor) == COLUMNS


def test_orange_bars_and_bold_figures_stand_out_in_rows_of_22_pixels(visitor):
    visitor.open(f"{DAY}&threshold=2")
    cells = visitor.page.locator("td.times_normal").evaluate_all(
        """cells => cells.map((cell) => {
            const { backgroundSize, backgroundImage } = getComputedStyle(cell);
            const [z, times] = [cell.previousElementSibling, cell]
                .map(({ textContent }) => Number(textContent.replace(",", "")));
            const height = cell.parentElement.offsetHeight;
            return { times, z, height, bar: parseFloat(backgroundSize), image: backgroundImage };
        })"""
    )
    bars = [bar for _, bar in sorted((cell["times"], cell["bar"]) for cell in cells)]
    assert sorted(bars) == bars and bars[0] < bars[-1] <= 100
    assert {cell["height"] for cell in cells} == {22}
    anomalies, others = ({c["image"] for c in cells if (c["z"] > 3) == side} for side in (1, 0))
    assert len(anomalies) == len(others) == 1 and anomalies != others
    weight = "element => Number(getComputedStyle(element).fontWeight)"
    fields = ("ticker a", "times_normal", "price_diff", "trades")
    row = visitor.page.locator('tr[data-ticker="VTAK"]')
    weights = [row.locator(f"td.{field}").evaluate(weight) for field in fields]
    assert min(weights[:3]) >= 600 > weights[3]


def test_printing_prints_the_whole_list_and_no_button(visitor):
    visitor.open(f"{DAY}&threshold=-99&ticker=VTAK").expect_chart("history-chart")
    visitor.page.emulate_media(media="print")
    last = visitor.page.locator("#anomalies tbody tr").last.bounding_box()
    assert VIEWPORT["height"] < last["y"] + last["height"]
    assert last["y"] < visitor.evaluate("document.documentElement.scrollHeight")
    visitor.expect("#history-chart").to_be_visible()
    visitor.expect("button:visible, #settings:visible").to_have_count(0)


def test_a_mark_tells_its_reason_to_pointer_keyboard_and_screen_reader(on_day, sample_table):
    shown = on_day.page.locator("#anomalies td:last-child").all_inner_texts()
    marks = [row["marks"].split() for row in query_json(sample_table, SAMPLE_DAY)]
    assert [text.split() for text in shown] == marks
    row = on_day.page.locator('tr[data-ticker="BIVI"]')
    reason = row.locator(".mark").get_attribute("title")
    (described,) = row.locator("td.marks").get_attribute("aria-describedby").split()
    on_day.expect(f"#{described}").to_have_text(reason)
    mark = on_day.choose("BIVI").page.locator("#detail .mark")
    expect(mark).to_have_text(f"split? {reason}")
    is_seen = "element => element.querySelector('.reason').getBoundingClientRect().width > 100"
    assert not mark.evaluate(is_seen)
    mark.focus()
    assert mark.evaluate(is_seen)
    on_day.press("Tab")
    assert not mark.evaluate(is_seen)
    mark.hover()
    assert mark.evaluate(is_seen)


# Days, threshold, filters.


def test_arrows_buttons_and_the_date_field_change_the_day(visitor, found):
    visitor.open("/?date=2024-08-30").press("ArrowRight")
    visitor.expect_day("2024-09-03").expect_tickers(found("2024-09-03"))
    visitor.press("ArrowLeft", "ArrowLeft")
    visitor.expect_day("2024-08-29").page.click("#next-day")
    visitor.expect_day("2024-08-30").page.fill("#date", "2024-09-12")
    visitor.expect_day("2024-09-12").expect_tickers(found("2024-09-12"))
    assert visitor.query()["date"] == "2024-09-12"


def test_a_date_can_be_typed_and_enter_moves_on_to_the_list(on_day, found):
    on_day.page.focus("#date")
    for digit in "0917":
        on_day.press(digit)
        on_day.page.wait_for_load_state("networkidle")
    on_day.expect("#date").to_have_value("2024-09-17")
    on_day.press("Enter").expect_day("2024-09-17").press("ArrowDown")
    on_day.expect_detail(found("2024-09-17")[0]).expect_day("2024-09-17")
    on_day.refusals.clear()  # while it was typed, the date was a Sunday


def test_enter_in_the_threshold_moves_on_to_the_list_or_says_what_to_type(on_day, found):
    type_into(on_day, "#threshold", "5e")
    on_day.expect("#notice").to_contain_text(re.compile("Z-score above.*number such as 3"))
    on_day.expect("#threshold").to_have_attribute("aria-invalid", "true")
    assert on_day.query() == {"date": SAMPLE_DAY}
    type_into(on_day, "#threshold", "30")
    tickers = found(SAMPLE_DAY, "--threshold", "30")
    on_day.expect_tickers(tickers).expect("#notice").to_be_empty()
    on_day.press("ArrowDown").expect_detail(tickers[0])
    on_day.expect("#threshold").to_have_value("30")


def test_a_held_arrow_key_stops_when_it_is_released(visitor):
    held = hold(visitor, rf"/\?date={DAY_BEFORE}")
    visitor.open(DAY)
    for _ in range(10):
        visitor.page.keyboard.down("ArrowLeft")  # from the second time on it is a repeat
    visitor.page.keyboard.up("ArrowLeft")
    wait_for_request(visitor, held).continue_()
    visitor.expect_day(DAY_BEFORE).press("ArrowRight").expect_day(SAMPLE_DAY)


def test_a_day_outside_the_table_is_shown_with_a_link_and_moves_nothing(on_day):
    top = "document.querySelector('#list').getBoundingClientRect().top"
    height = on_day.evaluate(top)
    on_day.page.fill("#date", SUNDAY)
    on_day.expect("#list .message").to_contain_text(SUNDAY)
    assert on_day.evaluate(top) == height
    on_day.page.click("#list .message a")
    on_day.expect_day("2024-10-14")
    assert on_day.evaluate(top) == height
    on_day.assert_refused("/")


def test_the_filter_shortens_the_list_with_each_letter(on_day, found):
    on_day.press("/", "a", "a").expect_tickers(found(containing="AA"))
    on_day.expect("#csv").to_have_attribute("href", re.compile("filter=aa"))
    assert on_day.query()["filter"] == "aa"
    on_day.press("j")  # in the field it is a letter; elsewhere it chooses a row
    on_day.expect_tickers([]).expect("#list .message").to_be_visible()


# A ticker itself; one that is a row; the first row; of the tickers that begin so, and are no rows
# (GOOG with 157,557 trades, GOOGL with 245,628), the one with the most trades.
@pytest.mark.parametrize(
    "typed, ticker", [("aapl", "AAPL"), ("na", "NA"), ("vta", "VTAK"), ("goo", "GOOGL")]
)
def test_enter_shows_the_ticker_that_was_typed_or_begun(on_day, typed, ticker):
    on_day.press("/", *typed, "Enter").expect_detail(ticker)
    assert on_day.query()["ticker"] == ticker


@pytest.mark.parametrize(
    "name, value",
    [("min_price", "2"), ("min_trades", "5000"), ("min_record", "60"), ("skip", "split")],
)
def test_a_further_filter_leaves_out_what_the_querier_does(on_day, found, name, value):
    tickers = found(SAMPLE_DAY, f"--{name.replace('_', '-')}", value)
    set_filter(on_day, name, value)
    on_day.expect_tickers(tickers)
    on_day.expect("#filters-summary").to_have_text("More filters: 1")
    on_day.expect("#summary").to_contain_text(f"{len(tickers)} of 18 anomalies")
    assert on_day.query() == {"date": SAMPLE_DAY, name: value}


def test_the_further_filters_stay_until_they_are_cleared(on_day, found):
    set_filter(on_day, "min_price", "2")
    set_filter(on_day, "skip", "thin")
    on_day.expect("#filters-summary").to_have_text("More filters: 2")
    on_day.press("Escape", "ArrowLeft")
    tickers = found(DAY_BEFORE, "--min-price", "2", "--skip", "thin")
    on_day.expect_day(DAY_BEFORE).expect_tickers(tickers)
    on_day.page.click("#filters-summary")
    on_day.page.click("#clear-filters")
    on_day.expect_tickers(found(DAY_BEFORE)).expect("#min_price").to_have_value("")
    on_day.expect("#skip-thin").not_to_be_checked()
    on_day.page.go_back()
    on_day.expect("#min_price").to_have_value("2")
    on_day.expect("#skip-thin").to_be_checked()


# Choosing a ticker.


def test_the_first_row_opens_by_itself_at_an_address_without_parameters(visitor, found):
    visitor.open("/").expect_detail(found()[0])
    assert visitor.evaluate("history.length") == 2  # about:blank and this view
    visitor.open(DAY).expect("#detail .message").to_be_visible()


def test_arrows_and_the_keys_j_and_k_choose_the_row_below_or_above(on_day, found):
    tickers = found()
    for key, index in [("ArrowDown", 0), ("j", 1), ("k", 0), ("End", -1), ("ArrowUp", -2)]:
        on_day.press(key).expect_detail(tickers[index])
        assert on_day.chosen() == [tickers[index]]
        assert on_day.query()["ticker"] == tickers[index]
    on_day.press("Home").expect_detail(tickers[0])


def test_an_address_shows_the_same_view_elsewhere(visitor, visitors, served, found):
    visitor.open(f"/?date={DAY_BEFORE}").press("ArrowRight")
    visitor.expect_day(SAMPLE_DAY).page.fill("#threshold", "4")
    sort_by(visitor, "price_diff")
    visitor.page.fill("#filter", "e")
    tickers = found(SAMPLE_DAY, "--threshold", "4", "--sort", "price_diff", containing="E")
    visitor.expect_tickers(tickers).choose("EFSH")
    other = visitors(served.url)
    other.page.goto(visitor.page.url)
    assert other.evaluate(STATE) == visitor.evaluate(STATE)


def test_the_back_button_goes_back_through_the_views(on_day, found):
    on_day.choose("VTAK").press("ArrowLeft")
    sort_by(on_day.expect_day(DAY_BEFORE), "ticker", "ascending")
    on_day.page.go_back()
    on_day.expect_tickers(found(DAY_BEFORE))
    on_day.page.go_back()
    on_day.expect_day(SAMPLE_DAY).expect_detail("VTAK")
    assert on_day.chosen() == ["VTAK"]
    on_day.page.go_back()
    on_day.expect("#detail h2").to_have_count(0)
    assert on_day.chosen() == []
    on_day.page.go_forward()
    on_day.expect_day(SAMPLE_DAY).expect_detail("VTAK")


def test_back_leads_to_a_row_that_an_arrow_key_reached(visitor, found):
    first, second, third = found()[:3]
    hold(visitor, rf"/chart\?.*ticker={third}")
    visitor.open(DAY)
    visitor.choose(first)
    visitor.page.wait_for_timeout(1100)  # a row that is only passed is no place to go back to
    visitor.press("ArrowDown").expect_detail(second)
    visitor.press("ArrowDown", "ArrowLeft")  # the detail of the third row has not arrived
    visitor.expect_day(DAY_BEFORE).page.unroute_all()
    for ticker in (third, second, first):
        visitor.page.go_back()
        visitor.expect_day(SAMPLE_DAY).expect_detail(ticker)


def test_the_keys_of_the_list_work_in_a_tickers_own_view(visitor):
    visitor.open(f"/chart?ticker=HEPS&date={SAMPLE_DAY}&sort=z_score&filter=e").press("ArrowDown")
    visitor.expect_detail("EFSH").press("ArrowLeft")
    visitor.expect_day(DAY_BEFORE).expect_detail("EFSH").press("ArrowRight")
    visitor.expect_day(SAMPLE_DAY).press("Escape")
    visitor.expect('tr[data-ticker="EFSH"]').to_have_attribute("aria-selected", "true")
    assert urlsplit(visitor.page.url).path == "/"
    state = {"date": SAMPLE_DAY, "ticker": "EFSH", "sort": "z_score", "filter": "e"}
    assert visitor.query() == state


def test_a_ticker_leads_to_its_previous_and_next_anomaly(visitor):
    visitor.open(f"{DAY}&ticker=VTAK").press("p")
    visitor.expect_day("2024-10-16").expect_detail("VTAK").page.click("#next-anomaly")
    visitor.expect_day(SAMPLE_DAY).expect_detail("VTAK")


def test_the_key_c_copies_the_ticker(visitors, served):
    visitor = visitors(served.url, permissions=["clipboard-read", "clipboard-write"])
    visitor.open(f"{DAY}&ticker=VTAK").press("c")
    visitor.expect("button.copy").to_have_text("Copied")
    assert visitor.evaluate("navigator.clipboard.readText()") == "VTAK"


# Escape, help.


def test_escape_closes_what_was_opened_last(visitor):
    visitor.open(f"{DAY}&filter=a&ticker=AAP").press("h")
    visitor.page.click("#filters-summary")
    visitor.evaluate("document.activeElement.blur()")
    visitor.press("?")
    for closed in ("#help", "#filters .panel", "#detail .headlines", "#detail h2"):
        visitor.expect(closed).to_be_visible()
        visitor.press("Escape").expect(closed).to_be_hidden()
    visitor.expect("#filter").to_have_value("a")
    visitor.press("Escape").expect("#filter").to_have_value("")


def test_headings_and_the_help_explain_the_words_and_keys(visitor):
    visitor.open(f"{DAY}&ticker=VTAK")
    titles = visitor.page.locator("#anomalies th :is(a, span), #detail h3").evaluate_all(
        "elements => elements.map((element) => element.title)"
    )
    assert len(titles) == len(COLUMNS) + 3 and all(titles)
    visitor.press("?")
    words = visitor.page.locator("#help dt").all_inner_texts()
    assert {"Record", "Z-score", "Times normal", "Rows", "stale"} <= {*words}
    assert {*"hcsxze?"} <= {key for text in words for key in text.split()}
    visitor.press("?").expect("#help").to_be_hidden()


# Layout, narrow and wide windows, no JavaScript.


@pytest.mark.parametrize("width", [320, 390, 700])
def test_on_a_narrow_screen_nothing_is_wider_than_the_screen(visitor, width):
    visitor.resize(width)
    visitor.open("/nothing").assert_refused("/nothing")
    assert visitor.evaluate(TOTAL_WIDTH) == width
    visitor.open("/?date=2024-09-12&ticker=ZVZZT").page.locator("#detail .mark").last.focus()
    assert visitor.evaluate(TOTAL_WIDTH) == width
    for menu in ("#filters", "#more"):
        visitor.page.click(f"{menu} summary")
        visitor.expect(f"{menu} .panel").to_be_visible()
        assert visitor.evaluate(TOTAL_WIDTH) == width
        visitor.press("Escape")
    upper, lower = (visitor.page.locator(part).bounding_box() for part in ("#list", "#detail"))
    assert lower["y"] >= upper["y"] + upper["height"]


@pytest.mark.parametrize("width", [390, 860, 960, 1100, 1366, 1440, 2560])
def test_nothing_in_the_header_overlaps_and_nothing_in_the_list_is_cut(visitor, width):
    visitor.resize(width)
    # All tickers, AACT.WS among them; a phone has room for the anomalies only.
    threshold = 3 if width == 390 else -99
    for options in (f"threshold={threshold}", "min_price=1&min_trades=1&skip=thin,test&ticker=AAP"):
        visitor.open(f"{DAY}&{options}")
        shown = [name for name in COLUMNS if width >= HIDDEN_BELOW.get(name, 0)]
        assert shown_columns(visitor) == shown
        assert visitor.evaluate(TOTAL_WIDTH) == width
        assert visitor.evaluate(CUT, "#summary > *, #list, #anomalies :is(td, th, th a)") == []
        boxes = visitor.evaluate(HEADER)
        for i, (left, right, top, bottom) in enumerate(boxes):
            assert 0 <= left <= right <= width
            for left2, right2, top2, bottom2 in boxes[:i]:
                assert right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top


def test_without_javascript_the_page_lists_sorts_and_filters(visitors, served, found):
    visitor = visitors(served.url, java_script_enabled=False).open(DAY)
    sort_by(visitor, "z_score")
    visitor.page.click('tr[data-ticker="VTAK"] a')
    visitor.expect_detail("VTAK").expect("#detail").to_contain_text("460,548 trades")
    visitor.page.fill("#filter", "na")
    set_filter(visitor, "skip", "split")
    visitor.page.click("noscript button")
    tickers = found(SAMPLE_DAY, "--sort", "z_score", "--skip", "split", containing="NA")
    visitor.expect_tickers(tickers)
    visitor.page.click("#help-button")
    visitor.expect("#help").to_be_visible()
    visitor.page.click("#help button")
    visitor.page.click("#previous-day")
    visitor.expect_day(DAY_BEFORE)


def test_forced_colours_show_the_chosen_row(visitor):
    visitor.page.emulate_media(forced_colors="active")
    visitor.open(f"{DAY}&ticker=VTAK")
    grounds = visitor.page.locator("#anomalies tr[data-ticker]").evaluate_all(
        "rows => rows.map((row) => getComputedStyle(row).backgroundColor)"
    )
    assert grounds[0] != grounds[1]


# Keyboard and screen reader.


@pytest.mark.parametrize("width", [390, 1366, 1440, 2560])
def test_the_keyboard_alone_reaches_everything(on_day, found, width):
    on_day.resize(width)
    reached = {}
    for _ in range(32):
        on_day.press("Tab")
        name, is_outlined = on_day.evaluate(
            """() => {
                const element = document.activeElement;
                const part = element.closest("[data-sort], tr[data-ticker], [id]");
                return [part?.dataset.sort ?? part?.dataset.ticker ?? part?.id,
                    getComputedStyle(element).outlineStyle !== "none"];
            }"""
        )
        reached[name] = is_outlined
    wanted = {"previous-day", "date", "threshold", "filter", "filters-summary", "more", "csv"}
    wanted |= {"help-button", "VTAK", *shown_columns(on_day)}
    # The date field marks the part of it that has the focus.
    assert [name for name in wanted if not (reached.get(name) or name == "date")] == []
    on_day.page.focus('th[data-sort="z_score"] a')
    on_day.press("Enter").expect_tickers(found(SAMPLE_DAY, "--sort", "z_score"))
    on_day.expect('th[data-sort="z_score"] a').to_be_focused()
    on_day.press("ArrowDown", "ArrowDown")
    on_day.expect_detail("HEPS").expect('tr[data-ticker="HEPS"] a').to_be_focused()


def test_the_further_filters_are_reached_and_left_by_keyboard(on_day, found):
    on_day.page.focus("#filters-summary")
    on_day.press("Enter", "Tab", "2", "Tab")
    on_day.expect_tickers(found(SAMPLE_DAY, "--min-price", "2"))
    on_day.press("Tab", "Tab", "Tab", "ArrowDown")  # an arrow is the field's own in the panel
    on_day.expect("#min_record").to_have_value("60")
    on_day.press("Escape").expect("#filters .panel").to_be_hidden()
    on_day.expect("#filters-summary").to_be_focused()


def test_the_keys_still_work_when_the_focused_row_is_gone(on_day, found):
    on_day.press("ArrowDown").expect_detail("VTAK")
    assert "VTAK" not in found(DAY_BEFORE)
    on_day.press("ArrowLeft").expect_day(DAY_BEFORE).expect("#list").to_be_focused()


def violations(page):
    """What axe finds: {"rule, light or dark": elements' HTML}. Dark is a matter of colours only."""
    faults = {}
    for scheme, options in {"light": None, "dark": {"runOnly": ["color-contrast"]}}.items():
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        for each in Axe().run(page, options=options).response["violations"]:
            faults[f"{each['id']}, {scheme}"] = [node["html"][:200] for node in each["nodes"]]
    return faults


STATES = {
    "a day": lambda v: v.open(DAY),
    "a ticker": lambda v: v.open(f"{DAY}&ticker=BIVI"),
    "all of the history": lambda v: v.open(f"{DAY}&ticker=VTAK").page.click("[data-value=all]"),
    "headlines": lambda v: v.open(f"{DAY}&ticker=VTAK").press("h"),
    "an empty filter": lambda v: v.open(f"{DAY}&filter=zzz"),
    "an error": lambda v: v.open(f"{DAY}&threshold=much"),
    "help": lambda v: v.open(DAY).press("?"),
    "a panel": lambda v: v.open(DAY).page.click("#filters-summary"),
    "a note, a star and a hidden ticker": lambda v: write_in_notebook(v.open(DAY)),
}


def test_axe_finds_no_fault_in_any_state(visitor, visitors, sample_table, polygon, tmp_path):
    faults = {}
    for state, show in STATES.items():
        show(visitor)
        visitor.page.wait_for_load_state("networkidle")
        faults[state] = violations(visitor.page)
    visitor.assert_refused("/")
    # Axe is a script itself. So this view has JavaScript, but none of the page's.
    visitor.page.route("**/*.js*", lambda route: route.fulfill(content_type="text/javascript"))
    faults["no JavaScript"] = violations(visitor.open(f"{DAY}&ticker=VTAK").page)
    table = shutil.copy(sample_table, tmp_path / "table.pkl")
    with running_gui(table, polygon.url) as gui:
        keyless = visitors(gui.url).open(f"{DAY}&ticker=VTAK")
        keyless.expect("#day-chart-box").to_contain_text("POLYGON_API_KEY")
        faults["no key"] = violations(keyless.page)
        os.remove(table)
        faults["no table"] = violations(keyless.open(DAY).page)
        keyless.assert_refused("/api/bars", "/")
        keyless.context.close()
    assert {state: found for state, found in faults.items() if found} == {}


# What the browser remembers.


def test_sort_threshold_filters_and_columns_are_remembered(on_day, found):
    sort_by(on_day, "z_score")
    type_into(on_day, "#threshold", "5")
    set_filter(on_day, "skip", "thin")
    on_day.page.click("#more summary")
    on_day.page.check("#column-gap")
    on_day.expect("th.gap").to_be_visible()
    tickers = found(SAMPLE_DAY, "--sort", "z_score", "--threshold", "5", "--skip", "thin")
    on_day.open("/").expect_detail(tickers[0]).expect_tickers(tickers)
    on_day.expect("th.gap").to_be_visible()
    # What an address says is all that counts for it.
    on_day.open(f"{DAY}&threshold=10").expect_tickers(found(SAMPLE_DAY, "--threshold", "10"))
    on_day.open("/").expect_tickers(tickers)
    type_into(on_day, "#threshold", "3")
    tickers = found(SAMPLE_DAY, "--sort", "z_score", "--skip", "thin")
    on_day.expect_tickers(tickers)
    on_day.open("/").expect_tickers(tickers)


@pytest.mark.parametrize("stored", ["{", '{"settings": {"sort": "luck"}}'])
def test_a_broken_storage_does_not_break_the_page(on_day, found, stored):
    on_day.evaluate("text => localStorage.setItem('lookup-table', text)", stored)
    on_day.open("/").expect_detail("VTAK").expect_tickers(found())
    on_day.refusals.clear()  # the server refused the second one, which is forgotten
    on_day.open("/").expect_detail("VTAK")


def write_in_notebook(visitor):
    """Star NFLX, hide PEGY, and write a note on VTAK."""
    visitor.choose("NFLX").press("s")
    visitor.choose("PEGY").press("x")
    visitor.choose("VTAK").press("e", *"a <b>note</b>", "Enter")


def expect_notebook(visitor, tickers):
    """Expect what write_in_notebook wrote. tickers are the day's anomalies."""
    others = [ticker for ticker in tickers if ticker not in ("NFLX", "PEGY")]
    shown = visitor.expect("#anomalies tbody tr:visible td:first-child > a")
    shown.to_have_text(["NFLX", *others])
    visitor.expect("#show-hidden").to_have_text("1 hidden")
    visitor.expect('tr[data-ticker="VTAK"] .note').to_have_text("a <b>note</b>")


def test_stars_come_first_hidden_tickers_are_counted_and_notes_are_shown(on_day, found):
    write_in_notebook(on_day)
    expect_notebook(on_day, found())
    on_day.page.reload()
    expect_notebook(on_day, found())
    on_day.expect("#detail input.note").to_have_value("a <b>note</b>")
    on_day.page.click("#show-hidden")
    on_day.choose("PEGY").press("x").expect("#show-hidden").to_be_hidden()
    on_day.choose("NFLX").press("s")
    on_day.choose("VTAK").page.fill("#detail input.note", "")
    on_day.press("Enter").expect_tickers(found())


def test_the_arrow_keys_go_on_from_where_a_starred_or_hidden_row_was(on_day, found):
    first, second, third, fourth, *_ = found()
    on_day.choose(second).press("s", "ArrowDown").expect_detail(third).press("x")
    on_day.expect_detail(fourth).expect(f'tr[data-ticker="{fourth}"] a').to_be_focused()
    on_day.press("ArrowUp").expect_detail(first)


def test_the_notebook_goes_to_another_browser_as_a_file(on_day, visitors, served, found):
    write_in_notebook(on_day)
    on_day.page.click("#more summary")
    with on_day.page.expect_download() as download:
        on_day.page.click("#export-notebook")
    saved = download.value.path()
    note = {"VTAK": "a <b>note</b>"}
    assert json.loads(saved.read_text()) == {"stars": ["NFLX"], "hidden": ["PEGY"], "notes": note}
    other = visitors(served.url).open(DAY)
    other.page.click("#more summary")
    nothing = {"name": "x.json", "mimeType": "application/json", "buffer": b"[1]"}
    other.page.set_input_files("#import-notebook", nothing)
    other.expect("#notice").to_contain_text("x.json")
    other.page.set_input_files("#import-notebook", saved)
    expect_notebook(other, found())
    other.expect("#notice").to_be_empty()


def test_a_star_that_the_browsers_storage_does_not_take_is_told(on_day):
    on_day.evaluate("Storage.prototype.setItem = () => { throw new DOMException('full'); }; 0")
    on_day.choose("NFLX").press("s").expect("#notice").to_contain_text("storage")


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
        visitor.page.clock.install()
        yield visitor.open("/").expect_day(DAY_BEFORE), lambda: whole.replace(table)
        visitor.context.close()


def test_the_right_arrow_reaches_a_newly_built_day(growing):
    visitor, build = growing
    with visitor.page.expect_response(f"**/?date={DAY_BEFORE}*"):
        visitor.press("ArrowRight")  # there is no such day yet
    build()
    visitor.press("ArrowRight")
    visitor.expect_day(SAMPLE_DAY).expect("#date").to_have_attribute("max", SAMPLE_DAY)


def test_a_newly_built_day_is_announced_with_a_link(growing):
    visitor, build = growing
    build()
    visitor.page.clock.fast_forward(31_000)
    visitor.expect("#new-table").to_contain_text(f"up to {SAMPLE_DAY}")
    visitor.expect_day(DAY_BEFORE).page.click("#new-table a")
    visitor.expect_day(SAMPLE_DAY)


def test_the_page_of_a_missing_table_shows_it_as_soon_as_it_is_there(
    visitors, sample_table, polygon, found, tmp_path
):
    table = tmp_path / "table.pkl"
    with running_gui(shutil.copy(sample_table, table), polygon.url, POLYGON_API_KEY=KEY) as gui:
        os.remove(table)
        visitor = visitors(gui.url)
        visitor.page.clock.install()
        visitor.open(DAY).expect(".error .message").to_contain_text("build-lookup-table.py")
        visitor.assert_refused("/")
        shutil.copy(sample_table, table)
        visitor.page.clock.fast_forward(31_000)
        visitor.expect_tickers(found())
        visitor.press("ArrowDown").expect_detail("VTAK")
        visitor.context.close()


# What happens while a view loads, and faults.


def test_a_row_clicked_while_another_day_loads_does_not_mix_two_days(visitor):
    views, details = hold(visitor, rf"/\?date={DAY_BEFORE}"), hold(visitor, r"/chart\?")
    visitor.open(DAY)
    visitor.press("ArrowLeft")
    view = wait_for_request(visitor, views)
    visitor.page.click('tr[data-ticker="VTAK"] td:nth-child(2)')
    wait_for_request(visitor, details)
    with visitor.page.expect_event("requestfailed", lambda asked: "/chart?" in asked.url):
        view.continue_()
    visitor.expect_day(DAY_BEFORE).expect("#detail h2").to_have_count(0)
    assert visitor.query() == {"date": DAY_BEFORE}


@pytest.mark.parametrize("name, value", [("skip", "split"), ("min_record", "60")])
def test_a_filter_set_while_a_view_loads_is_not_lost(visitor, name, value):
    held = hold(visitor, "skip=thin$")
    visitor.open(DAY)
    set_filter(visitor, "skip", "thin")
    first = wait_for_request(visitor, held)
    set_filter(visitor, name, value)
    first.continue_()
    visitor.expect("#filters-summary").to_have_text("More filters: 2")
    expected = {"skip": "split,thin"} if name == "skip" else {"skip": "thin", name: value}
    assert visitor.query() == {"date": SAMPLE_DAY, **expected}


def test_when_the_server_is_gone_address_and_detail_stay_as_they_are(
    visitors, sample_table, polygon
):
    with running_gui(sample_table, polygon.url, POLYGON_API_KEY=KEY) as gui:
        visitor = visitors(gui.url).open(DAY).choose("VTAK")
        visitor.page.wait_for_load_state("networkidle")
        gui.expected_status = -signal.SIGKILL
        gui.process.kill()
        gui.process.wait()
        address = visitor.page.url
        for act in (lambda: visitor.press("ArrowDown"), visitor.page.go_back):
            visitor.evaluate("document.getElementById('notice').textContent = ''")
            act()
            visitor.expect("#notice").to_contain_text("does not answer")
            assert visitor.page.url == address
            assert visitor.chosen() == ["VTAK"]
            visitor.expect_detail("VTAK")
        assert all("ERR_CONNECTION_REFUSED" in text for text in visitor.complaints)
        visitor.complaints.clear()
        visitor.context.close()
