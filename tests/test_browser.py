"""The page without its charts in a real browser: Playwright drives Chromium."""

import json
import os
import re
import shutil
import signal
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from fakes.polygon import read_days
from helpers.browser import VIEWPORT, expect
from helpers.flat_files import write_flat_files
from helpers.gui import running_gui
from helpers.lists import is_shown, query_json
from helpers.markets import SAMPLE_DAY, SAMPLE_DAYS, SAMPLE_MARKET
from helpers.scripts import KEY, build_table

DAY_BEFORE = "2024-10-17"
SUNDAY = "2024-10-13"
DAY = f"/?date={SAMPLE_DAY}"  # an address with parameters: the page opens no row by itself
COLUMNS = ["ticker", "trades", "avg_trades", "std_trades"]
COLUMNS += ["z_score", "times_normal", "record", "close_price", "price_diff"]
# Columns that are left out where the window is narrower than so many pixels.
HIDDEN_BELOW = {"avg_trades": 1200, "std_trades": 1200, "record": 1100}

STATE = """() => [document.title, document.querySelector("#detail h2").textContent,
    ...["#summary", "#anomalies"].map((part) => document.querySelector(part).textContent),
    ...[...document.querySelectorAll("#anomalies :is(th, tr)")]
        .map((element) => [element.ariaSort, element.ariaSelected]),
    ...["date", "threshold", "filter"].map((id) => document.getElementById(id).value)]"""
# The texts that are wider than their element, or reach beyond the window.
CUT = """(selector) => [...document.querySelectorAll(selector)]
    .filter((element) => element.scrollWidth > element.clientWidth
        || element.getBoundingClientRect().right > innerWidth)
    .map((element) => element.textContent)"""
TOTAL_WIDTH = "document.documentElement.scrollWidth"


def type_into(visitor, field, text):
    """Replace a field's text by typing, and leave the focus there."""
    visitor.page.locator(field).click(click_count=3)
    visitor.page.keyboard.type(text)


def expect_sorted(visitor, field, direction="descending"):
    visitor.expect(f'th[data-sort="{field}"]').to_have_attribute("aria-sort", direction)


def shown_columns(visitor):
    """The fields of the columns that are shown, without that of the marks."""
    return visitor.page.locator("#anomalies th:visible").evaluate_all(
        "headers => headers.map((header) => header.dataset.sort)"
    )[:-1]


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
    assert shown_columns(visitor) == COLUMNS
    rows = visitor.page.locator("#anomalies tr[data-ticker]").evaluate_all(
        "rows => rows.map((row) => [...row.cells].map((cell) => cell.textContent.trim()))"
    )
    expected = query_json(sample_table, date)
    assert [row[0] for row in rows] == [anomaly["ticker"] for anomaly in expected] != []
    for row, anomaly in zip(rows, expected, strict=True):
        anomaly["times_normal"] = anomaly["trades"] / anomaly["avg_trades"]
        for field, text in zip(COLUMNS[1:], row[1:], strict=False):
            value = anomaly[field]
            if field == "record":
                most_ever = "all " if value == anomaly["earlier_rows"] else ""
                assert text == f"{most_ever}{value:,}"
            else:
                assert is_shown(field, value, text), (row, field)
        assert row[-1].split() == anomaly["marks"].split()


def test_a_click_on_a_header_sorts_and_another_reverses_the_order(visitor, sample_table):
    visitor.open(DAY)
    by_z_score = found(sample_table, SAMPLE_DAY, "--sort", "z_score")
    visitor.page.locator('th[data-sort="z_score"]').click()
    visitor.expect_tickers(by_z_score)
    expect_sorted(visitor, "z_score")
    expect_sorted(visitor, "trades", "none")
    visitor.page.locator('th[data-sort="z_score"]').click()
    visitor.expect_tickers(by_z_score[::-1])
    expect_sorted(visitor, "z_score", "ascending")


def test_the_column_that_the_list_is_sorted_by_is_always_shown(visitor, sample_table):
    visitor.open(f"{DAY}&sort=gap")
    assert shown_columns(visitor) == [*COLUMNS, "gap"]
    gaps = [row["gap"] for row in query_json(sample_table, SAMPLE_DAY, "--sort", "gap")]
    cells = visitor.page.locator("td.gap").all_inner_texts()
    assert all(is_shown("gap", gap, text) for gap, text in zip(gaps, cells, strict=True))


def test_further_columns_are_chosen_and_show_changes_with_sign_and_colour(visitor):
    closes = {
        days: read_days(SAMPLE_MARKET)["SWN", date].close
        for days, date in [(0, "2024-09-20"), (1, "2024-09-23"), (5, "2024-09-27")]
    }
    visitor.open("/?date=2024-09-20")
    visitor.page.locator("#more summary").click()
    for field in ("gap", "after_1", "after_5", "after_20"):
        visitor.page.locator(f"#column-{field}").check()
        visitor.expect(f"th.{field}").to_be_visible()
    assert visitor.query()["columns"] == "gap,after_1,after_5,after_20"
    cells = visitor.page.locator('tr[data-ticker="SWN"]')
    for days in (1, 5):
        change = (closes[days] / closes[0] - 1) * 100
        expect(cells.locator(f"td.after_{days}")).to_have_text(f"{change:+.2f}")
        expect(cells.locator(f"td.after_{days}")).to_have_class(re.compile(r"\bup$"))
    visitor.open(f"{DAY}&columns=after_1")  # the table ends with this day
    assert {*visitor.page.locator("td.after_1").all_inner_texts()} == {"—"}
    visitor.open(f"{DAY}&columns=nonsense")
    visitor.expect(".error .message").to_contain_text("after_20")
    visitor.assert_refused("/")


def test_a_wide_window_has_room_for_further_columns(visitors, served):
    visitor = visitors(served.url, viewport={"width": 2560, "height": 1440}).open("/")
    visitor.page.locator("#more summary").click()
    for column in ("long_z", "dollar_volume", "gap"):
        visitor.expect(f"th.{column}").to_be_visible()
        visitor.page.locator(f"#column-{column}").uncheck()
        visitor.expect(f"th.{column}").to_have_count(0)
    visitor.open("/").expect_detail("VTAK")
    assert shown_columns(visitor) == COLUMNS


def test_orange_bars_and_bold_figures_stand_out_in_rows_of_22_pixels(visitor):
    visitor.open(f"{DAY}&threshold=2")
    cells = visitor.page.locator("td.times_normal").evaluate_all(
        """cells => cells.map((cell) => [Number(cell.textContent.replace(",", "")),
            parseFloat(getComputedStyle(cell).backgroundSize),
            getComputedStyle(cell).backgroundImage, cell.parentElement.offsetHeight,
            Number(cell.previousElementSibling.textContent.replace(",", ""))])"""
    )
    by_times = sorted(cells)
    assert [bar for _, bar, *_ in by_times] == sorted(bar for _, bar, *_ in cells)
    assert by_times[0][1] < by_times[-1][1] <= 100
    assert {height for *_, height, _ in cells} == {22}
    anomalies, others = ({c[2] for c in cells if (c[4] > 3) == side} for side in (True, False))
    assert len(anomalies) == len(others) == 1 and anomalies != others
    weight = "element => Number(getComputedStyle(element).fontWeight)"
    fields = ("ticker a", "times_normal", "price_diff", "trades")
    row = visitor.page.locator('tr[data-ticker="VTAK"]')
    weights = [row.locator(f"td.{field}").evaluate(weight) for field in fields]
    assert min(weights[:3]) >= 600 > weights[3]


def test_the_list_can_be_downloaded_as_csv(visitor, sample_table):
    visitor.open(DAY)
    visitor.page.locator("#filter").fill("aa")
    visitor.expect("#csv").to_have_attribute("href", re.compile("filter=aa"))
    with visitor.page.expect_download() as download:
        visitor.page.locator("#csv").click()
    lines = download.value.path().read_text().splitlines()
    tickers = [line.split(",")[0] for line in lines[1:]]
    assert tickers == containing("aa", found(sample_table))


def test_printing_prints_the_whole_list_and_no_button(visitor):
    visitor.open(f"{DAY}&threshold=-99&ticker=VTAK").expect_chart("history-chart")
    visitor.page.emulate_media(media="print")
    last = visitor.page.locator("#anomalies tbody tr").last.bounding_box()
    assert VIEWPORT["height"] < last["y"] + last["height"]
    assert last["y"] < visitor.evaluate("document.documentElement.scrollHeight")
    visitor.expect("#history-chart").to_be_visible()
    visitor.expect("button:visible, #settings:visible").to_have_count(0)


# Days, threshold, filter.


def test_arrows_buttons_and_the_date_field_change_the_day(visitor, sample_table):
    visitor.open("/?date=2024-08-30")
    visitor.press("ArrowRight")
    visitor.expect_day("2024-09-03").expect_tickers(found(sample_table, "2024-09-03"))
    visitor.press("ArrowLeft", "ArrowLeft")
    visitor.expect_day("2024-08-29")
    visitor.page.locator("#next-day").click()
    visitor.expect_day("2024-08-30")
    visitor.page.locator("#date").fill("2024-09-12")
    visitor.expect_day("2024-09-12").expect_tickers(found(sample_table, "2024-09-12"))
    assert visitor.query()["date"] == "2024-09-12"


def test_a_date_can_be_typed_and_enter_moves_on_to_the_list(visitor):
    visitor.open(DAY)
    visitor.page.locator("#date").focus()
    for digit in "0917":
        visitor.press(digit)
        visitor.page.wait_for_load_state("networkidle")
    visitor.expect("#date").to_have_value("2024-09-17")
    visitor.press("Enter")
    visitor.expect_day("2024-09-17")
    first = visitor.page.locator("#anomalies tbody tr").first.get_attribute("data-ticker")
    visitor.press("ArrowDown")
    visitor.expect_detail(first).expect_day("2024-09-17")
    visitor.refusals.clear()  # while it was typed, the date was a Sunday


def test_enter_in_the_threshold_moves_on_to_the_list(visitor, sample_table):
    visitor.open(DAY)
    type_into(visitor, "#threshold", "30")
    visitor.press("Enter")
    tickers = found(sample_table, SAMPLE_DAY, "--threshold", "30")
    visitor.expect_tickers(tickers)
    visitor.press("ArrowDown")
    visitor.expect_detail(tickers[0])
    visitor.expect("#threshold").to_have_value("30")
    assert visitor.query()["threshold"] == "30"


def test_a_bad_threshold_says_what_to_type(visitor, sample_table):
    visitor.open(DAY)
    type_into(visitor, "#threshold", "5e")
    visitor.press("Enter")
    visitor.expect("#notice").to_contain_text(re.compile("Z-score above.*number such as 3"))
    visitor.expect("#threshold").to_have_attribute("aria-invalid", "true")
    visitor.expect_tickers(found(sample_table))
    assert visitor.query() == {"date": SAMPLE_DAY}
    type_into(visitor, "#threshold", "5")
    visitor.press("Enter")
    visitor.expect("#notice").to_be_empty()
    visitor.expect_tickers(found(sample_table, SAMPLE_DAY, "--threshold", "5"))


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


def test_a_held_arrow_key_stops_when_it_is_released(visitor):
    held = hold(visitor, rf"/\?date={DAY_BEFORE}")
    visitor.open(DAY)
    for _ in range(10):
        visitor.page.keyboard.down("ArrowLeft")  # from the second time on it is a repeat
    visitor.page.keyboard.up("ArrowLeft")
    wait_for_request(visitor, held)
    held[0].continue_()
    visitor.expect_day(DAY_BEFORE)
    visitor.press("ArrowRight")
    visitor.expect_day(SAMPLE_DAY)


def test_a_day_outside_the_table_is_shown_with_a_link_and_moves_nothing(visitor):
    top = "document.querySelector('#list').getBoundingClientRect().top"
    height = visitor.open(DAY).evaluate(top)
    visitor.page.locator("#date").fill(SUNDAY)
    visitor.expect("#list .message").to_contain_text(SUNDAY)
    assert visitor.evaluate(top) == height
    visitor.page.locator("#list .message a").click()
    visitor.expect_day("2024-10-14")
    assert visitor.evaluate(top) == height
    visitor.assert_refused("/")


def test_the_filter_shortens_the_list_with_each_letter(visitor, sample_table):
    visitor.open(DAY)
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


# A ticker itself; one that is a row; the first row; of the tickers that begin so, and are no rows
# (GOOG with 157,557 trades, GOOGL with 245,628), the one with the most trades.
@pytest.mark.parametrize(
    "typed, ticker", [("aapl", "AAPL"), ("na", "NA"), ("vta", "VTAK"), ("goo", "GOOGL")]
)
def test_enter_shows_the_ticker_that_was_typed_or_begun(visitor, typed, ticker):
    visitor.open(DAY)
    visitor.press("/")
    visitor.page.keyboard.type(typed)
    visitor.press("Enter")
    visitor.expect_detail(ticker)
    assert visitor.query()["ticker"] == ticker


# Choosing a ticker.


def test_the_first_row_opens_by_itself_at_an_address_without_parameters(visitor, sample_table):
    visitor.open("/").expect_detail(found(sample_table)[0])
    assert visitor.evaluate("history.length") == 2  # about:blank and this view
    visitor.press("ArrowDown")
    visitor.expect_detail(found(sample_table)[1])
    visitor.open(DAY)
    visitor.expect("#detail .message").to_be_visible()


def test_arrows_and_the_keys_j_and_k_choose_the_row_below_or_above(visitor, sample_table):
    tickers = found(sample_table)
    visitor.open(DAY)
    for key, index in [("ArrowDown", 0), ("j", 1), ("ArrowDown", 2), ("k", 1), ("ArrowUp", 0)]:
        visitor.press(key)
        visitor.expect_detail(tickers[index])
        assert visitor.chosen() == [tickers[index]]
        assert visitor.query()["ticker"] == tickers[index]
    visitor.press("End", "j")
    visitor.expect_detail(tickers[-1])
    visitor.press("Escape")
    visitor.expect("#detail h2").to_have_count(0)
    visitor.expect(f'tr[data-ticker="{tickers[-1]}"] a').to_be_focused()
    visitor.press("k")
    visitor.expect_detail(tickers[-2])
    visitor.press("Home")
    visitor.expect_detail(tickers[0])


def test_an_address_shows_the_same_view_elsewhere_and_after_a_reload(
    visitor, visitors, served, sample_table
):
    visitor.open(f"/?date={DAY_BEFORE}")
    visitor.press("ArrowRight")
    visitor.expect_day(SAMPLE_DAY)
    visitor.page.locator("#threshold").fill("4")
    visitor.page.locator('th[data-sort="price_diff"]').click()
    expect_sorted(visitor, "price_diff")
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
    visitor.open(DAY).choose("VTAK")
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


def test_back_leads_to_a_row_that_an_arrow_key_reached(visitor, sample_table):
    first, second, third = found(sample_table)[:3]
    visitor.open(DAY).choose(first)
    visitor.page.wait_for_timeout(1100)  # a row that is only passed is no place to go back to
    visitor.press("ArrowDown")
    visitor.expect_detail(second)
    held = []
    visitor.page.route("**/chart?*", lambda route: held.append(route))
    visitor.press("ArrowDown", "ArrowLeft")  # the detail of the third row has not arrived
    visitor.expect_day(DAY_BEFORE)
    visitor.page.unroute("**/chart?*")
    for ticker in (third, second, first):
        visitor.page.go_back()
        visitor.expect_day(SAMPLE_DAY).expect_detail(ticker)


def test_a_ticker_that_is_no_anomaly_is_shown_by_its_link(visitor):
    visitor.open(DAY).choose("VTAK")
    visitor.page.locator("#filter").fill("aapl")
    visitor.page.locator("#list .message a").click()
    visitor.expect_detail("AAPL")
    assert visitor.query() == {"date": SAMPLE_DAY, "filter": "aapl", "ticker": "AAPL"}


def test_the_keys_of_the_list_work_in_a_tickers_own_view(visitor):
    state = {"threshold": "4", "sort": "z_score", "filter": "e"}
    visitor.open(f"/chart?ticker=HEPS&date={SAMPLE_DAY}&threshold=4&sort=z_score&filter=e")
    visitor.press("ArrowDown")
    visitor.expect_detail("EFSH")
    visitor.press("ArrowLeft")
    visitor.expect_day(DAY_BEFORE).expect_detail("EFSH")
    visitor.press("ArrowRight")
    visitor.expect_day(SAMPLE_DAY)
    visitor.press("ArrowUp")
    visitor.expect_detail("HEPS")
    visitor.press("Escape")
    visitor.expect('tr[data-ticker="HEPS"]').to_have_attribute("aria-selected", "true")
    assert urlsplit(visitor.page.url).path == "/"
    assert visitor.query() == {"date": SAMPLE_DAY, "ticker": "HEPS", **state}


def test_a_ticker_leads_to_its_previous_and_next_anomaly(visitor):
    visitor.open(f"{DAY}&ticker=VTAK")
    visitor.press("p")
    visitor.expect_day("2024-10-16").expect_detail("VTAK")
    visitor.page.locator("#next-anomaly").click()
    visitor.expect_day(SAMPLE_DAY).expect_detail("VTAK")
    assert urlsplit(visitor.page.url).path == "/"


def test_the_key_c_copies_the_ticker(visitors, served):
    visitor = visitors(served.url, permissions=["clipboard-read", "clipboard-write"])
    visitor.open(f"{DAY}&ticker=VTAK")
    visitor.press("c")
    visitor.expect("button.copy").to_have_text("Copied")
    assert visitor.evaluate("navigator.clipboard.readText()") == "VTAK"


# Escape, the focus, help.


def test_escape_closes_what_was_opened_last(visitor, sample_table):
    visitor.open(f"{DAY}&filter=a&ticker=AAP")
    visitor.press("h")
    visitor.page.locator("#filters-summary").click()
    visitor.evaluate("document.activeElement.blur()")
    visitor.press("?")
    for closed in ("#help", "#filters .panel", "#detail .headlines", "#detail h2"):
        visitor.expect(closed).to_be_visible()
        visitor.press("Escape")
        visitor.expect(closed).to_be_hidden()
    visitor.expect("#filter").to_have_value("a")
    visitor.press("Escape")
    visitor.expect("#filter").to_have_value("")
    visitor.expect_tickers(found(sample_table))


def test_headings_and_the_help_explain_the_words_and_keys(visitor):
    visitor.open(f"{DAY}&ticker=VTAK")
    titles = visitor.page.locator("#anomalies th :is(a, span), #detail h3").evaluate_all(
        "elements => elements.map((element) => element.title)"
    )
    assert len(titles) == len(COLUMNS) + 3 and all(titles)
    visitor.press("?")
    words = visitor.page.locator("#help dt").all_inner_texts()
    for word in ("Record", "Z-score", "Times normal", "Rows", "stale"):
        assert word in words
    for key in ("h", "c", "s", "x", "z", "e", "?"):
        assert any(key in text.split() for text in words), key
    visitor.press("?")
    visitor.expect("#help").to_be_hidden()


def test_the_keys_still_work_when_the_focused_row_is_gone(visitor, sample_table):
    visitor.open(DAY)
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
    visitor.open(DAY)
    visitor.press("End")
    visitor.expect_detail("AAp")
    scroll = "document.getElementById('list').scrollTop"
    assert visitor.evaluate(scroll) > 0
    visitor.expect('th[data-sort="ticker"]').to_be_in_viewport()
    visitor.page.locator('th[data-sort="close_price"] a').click()
    expect_sorted(visitor, "close_price")
    assert visitor.evaluate(scroll) == 0


# Layout, narrow and wide windows, no JavaScript.


@pytest.mark.parametrize("width", [320, 390, 700])
def test_on_a_narrow_screen_nothing_is_wider_than_the_screen(visitor, width):
    visitor.resize(width)
    visitor.open("/nothing")
    visitor.assert_refused("/nothing")
    assert visitor.evaluate(TOTAL_WIDTH) == width
    visitor.open("/?date=2024-09-12&ticker=ZVZZT").expect_detail("ZVZZT")
    visitor.page.locator("#detail .mark").last.focus()
    assert visitor.evaluate(TOTAL_WIDTH) == width
    for menu in ("#filters", "#more"):
        visitor.page.locator(f"{menu} summary").click()
        visitor.expect(f"{menu} .panel").to_be_visible()
        assert visitor.evaluate(TOTAL_WIDTH) == width
        visitor.press("Escape")
    upper, lower = (visitor.page.locator(part).bounding_box() for part in ("#list", "#detail"))
    assert lower["y"] >= upper["y"] + upper["height"]


def test_nothing_in_the_header_overlaps_and_the_divider_stays(visitor):
    widths = [860, 1099, 1100, 1200, 1280, 1366, 1440, 2560]
    dividers = {width: set() for width in widths}
    filters = "min_price=1&min_trades=1&min_record=1&skip=thin,test,stale"
    paths = [DAY, f"{DAY}&{filters}", "/?date=2024-09-12", f"{DAY}&filter=zzz", "/?date=2024-08-01"]
    for path in paths:
        visitor.open(path)
        for width in widths:
            visitor.resize(width)
            assert visitor.evaluate(CUT, "#summary > *") == [], width
            assert visitor.evaluate(TOTAL_WIDTH) == width
            *boxes, (_, divider, _, _) = visitor.evaluate(
                """() => [...document.querySelectorAll(
                        "#steps, #summary, #settings > :is(label, details, a, button), #list")]
                    .filter((element) => !element.hidden)
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
    for width in (390, 960, 1100, 1280, 1440):
        visitor.resize(width)
        # All tickers, AACT.WS among them; a phone has room for the anomalies only.
        visitor.open(f"/?date={date}&threshold={3 if width == 390 else -99}")
        shown = [name for name in COLUMNS if width >= HIDDEN_BELOW.get(name, 0)]
        assert shown_columns(visitor) == shown
        assert visitor.evaluate(CUT, "#list, #anomalies :is(td, th, th a)") == [], width


def test_without_javascript_the_page_lists_sorts_and_filters(visitors, served, sample_table):
    visitor = visitors(served.url, java_script_enabled=False).open(DAY)
    visitor.page.locator('th[data-sort="z_score"] a').click()
    by_z_score = found(sample_table, SAMPLE_DAY, "--sort", "z_score")
    visitor.expect_tickers(by_z_score)
    visitor.page.locator('tr[data-ticker="VTAK"] a').click()
    visitor.expect_detail("VTAK")
    visitor.expect("#detail").to_contain_text("460,548 trades")
    visitor.page.locator("#filter").fill("na")
    visitor.page.locator("#more summary").click()
    visitor.page.locator("#column-gap").check()
    visitor.page.locator("#filters-summary").click()
    visitor.page.locator("#skip-split").check()
    visitor.page.locator("noscript button").click()
    visitor.expect_tickers(containing("na", by_z_score))
    visitor.expect("th.gap").to_be_visible()
    visitor.expect("#filters-summary").to_have_text("More filters: 1")
    visitor.page.locator("#help-button").click()
    visitor.expect("#help").to_be_visible()
    visitor.page.locator("#help button").click()
    visitor.page.locator("#previous-day").click()
    visitor.expect_day(DAY_BEFORE)


def test_forced_colours_show_the_chosen_row(visitor):
    visitor.page.emulate_media(forced_colors="active")
    visitor.open(f"{DAY}&ticker=VTAK")
    grounds = visitor.page.locator("#anomalies tr[data-ticker]").evaluate_all(
        "rows => rows.slice(0, 2).map((row) => getComputedStyle(row).backgroundColor)"
    )
    assert grounds[0] != grounds[1]


# Keyboard and screen reader.


@pytest.mark.parametrize("width", [390, 1366, 1440, 2560])
def test_the_keyboard_alone_reaches_everything(visitor, sample_table, width):
    visitor.resize(width)
    visitor.open(DAY)
    reached = {}
    for _ in range(32):
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
    wanted = {"previous-day", "date", "threshold", "filter", "filters-summary", "more", "csv"}
    wanted |= {"help-button", "VTAK", *shown_columns(visitor)}
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
    visitor.press("Enter")
    assert visitor.chosen() == ["HEPS"]


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


def test_sort_threshold_filters_and_columns_are_remembered(visitor, sample_table):
    visitor.open(DAY)
    visitor.page.locator('th[data-sort="z_score"]').click()
    expect_sorted(visitor, "z_score")
    type_into(visitor, "#threshold", "5")
    visitor.press("Enter")
    set_filter(visitor, "skip", "thin")
    visitor.expect("#filters-summary").to_have_text("More filters: 1")
    options = ["--sort", "z_score", "--threshold", "5", "--skip", "thin"]
    tickers = found(sample_table, SAMPLE_DAY, *options)
    visitor.open("/").expect_detail(tickers[0])
    visitor.expect_tickers(tickers)
    assert visitor.query().items() >= {"sort": "z_score", "threshold": "5", "skip": "thin"}.items()
    # What an address says is all that counts for it.
    visitor.open(f"{DAY}&threshold=10")
    visitor.expect_tickers(found(sample_table, SAMPLE_DAY, "--threshold", "10"))
    visitor.open("/").expect_tickers(tickers)
    type_into(visitor, "#threshold", "3")
    visitor.press("Enter")
    visitor.expect("#threshold").to_have_value("3")
    options = ["--sort", "z_score", "--skip", "thin"]
    visitor.expect_tickers(found(sample_table, SAMPLE_DAY, "--skip", "thin", "--sort", "z_score"))
    visitor.open("/").expect_tickers(found(sample_table, SAMPLE_DAY, *options))


BROKEN = ["{", '{"stars": 7, "hidden": {"a": 1}, "notes": [null], "settings": {"sort": "luck"}}']


@pytest.mark.parametrize("stored", BROKEN)
def test_a_broken_storage_does_not_break_the_page(visitor, sample_table, stored):
    visitor.open(DAY)
    visitor.evaluate("text => localStorage.setItem('lookup-table', text)", stored)
    visitor.open("/").expect_detail("VTAK")
    visitor.expect_tickers(found(sample_table))
    visitor.press("s")
    visitor.expect("tr.starred").to_have_count(1)
    visitor.refusals.clear()  # the server refused the last one, which is forgotten
    visitor.open("/").expect_detail("VTAK")


def write_in_notebook(visitor):
    """Star NFLX, hide PEGY, and write a note on VTAK."""
    visitor.choose("NFLX").press("s")
    visitor.choose("PEGY").press("x")
    visitor.choose("VTAK").press("e")
    visitor.page.keyboard.type("watch <b>it</b>")
    visitor.press("Enter")


def expect_notebook(visitor, tickers):
    """Expect what write_in_notebook wrote. tickers are the day's anomalies."""
    others = [ticker for ticker in tickers if ticker not in ("NFLX", "PEGY")]
    shown = visitor.expect("#anomalies tbody tr:visible td:first-child > a")
    shown.to_have_text(["NFLX", *others])
    visitor.expect("#show-hidden").to_have_text("1 hidden")
    visitor.expect('tr[data-ticker="VTAK"] .note').to_have_text("watch <b>it</b>")


def test_stars_come_first_hidden_tickers_are_counted_and_notes_are_shown(visitor, sample_table):
    tickers = found(sample_table)
    write_in_notebook(visitor.open(DAY))
    expect_notebook(visitor, tickers)
    visitor.page.reload()
    expect_notebook(visitor, tickers)
    visitor.expect("#detail input.note").to_have_value("watch <b>it</b>")
    visitor.page.locator("#show-hidden").click()
    visitor.choose("PEGY").press("x")
    visitor.expect("#show-hidden").to_be_hidden()
    visitor.choose("NFLX").press("s")
    visitor.choose("VTAK").press("e")
    visitor.page.locator("#detail input.note").fill("")
    visitor.press("Enter")
    visitor.expect_tickers(tickers)


def test_the_arrow_keys_go_on_from_where_a_starred_or_hidden_row_was(visitor, sample_table):
    first, second, third, fourth, *_ = found(sample_table)
    visitor.open(DAY).choose(second).press("s", "ArrowDown")
    visitor.expect_detail(third)
    visitor.press("x")
    visitor.expect_detail(fourth)
    visitor.expect(f'tr[data-ticker="{fourth}"] a').to_be_focused()
    visitor.press("ArrowUp")
    visitor.expect_detail(first)


def test_the_notebook_goes_to_another_browser_as_a_file(visitor, visitors, served, sample_table):
    write_in_notebook(visitor.open(DAY))
    visitor.page.locator("#more summary").click()
    with visitor.page.expect_download() as download:
        visitor.page.locator("#export-notebook").click()
    saved = json.loads(download.value.path().read_text())
    note = {"VTAK": "watch <b>it</b>"}
    assert saved == {"stars": ["NFLX"], "hidden": ["PEGY"], "notes": note}
    other = visitors(served.url).open(DAY)
    other.page.locator("#more summary").click()
    nothing = {"name": "x.json", "mimeType": "application/json", "buffer": b"[1]"}
    other.page.locator("#import-notebook").set_input_files(nothing)
    other.expect("#notice").to_contain_text("x.json")
    other.page.locator("#import-notebook").set_input_files(download.value.path())
    expect_notebook(other, found(sample_table))
    other.expect("#notice").to_be_empty()


def test_a_full_storage_is_told_and_the_star_lasts_as_long_as_the_page(visitor):
    visitor.open(DAY).choose("NFLX")
    visitor.evaluate("Storage.prototype.setItem = () => { throw new DOMException('full'); }; 0")
    visitor.press("s")
    visitor.expect("#notice").to_contain_text("storage")
    visitor.expect('tr[data-ticker="NFLX"]').to_have_class("starred")
    visitor.press("ArrowLeft")
    visitor.expect_day(DAY_BEFORE)
    visitor.press("ArrowRight")
    visitor.expect('tr[data-ticker="NFLX"]').to_have_class("starred")


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


@pytest.mark.parametrize("by", ["the right arrow", "its announcement"])
def test_a_newly_built_day_is_reached(growing, by):
    visitor, build = growing
    visitor.page.clock.install()
    visitor.open("/").expect_day(DAY_BEFORE)
    build()
    if by == "the right arrow":
        visitor.press("ArrowRight")
    else:
        visitor.page.clock.fast_forward(31_000)
        visitor.expect("#new-table").to_contain_text(f"up to {SAMPLE_DAY}")
        visitor.expect_day(DAY_BEFORE)
        visitor.page.locator("#new-table a").click()
    visitor.expect_day(SAMPLE_DAY)
    visitor.expect("#date").to_have_attribute("max", SAMPLE_DAY)


def test_the_page_of_a_missing_table_shows_it_as_soon_as_it_is_there(
    visitors, sample_table, polygon, tmp_path
):
    table = shutil.copy(sample_table, tmp_path / "table.pkl")
    with running_gui(table, polygon.url, POLYGON_API_KEY=KEY) as gui:
        os.remove(table)
        visitor = visitors(gui.url)
        visitor.page.clock.install()
        visitor.open(DAY).expect(".error .message").to_contain_text("build-lookup-table.py")
        visitor.assert_refused("/")
        shutil.copy(sample_table, table)
        visitor.page.clock.fast_forward(31_000)
        visitor.expect_tickers(found(sample_table))
        visitor.press("ArrowDown")
        visitor.expect_detail("VTAK")
        visitor.context.close()


# Marks, the share of anomalies, further filters.


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
    row = visitor.open(DAY).page.locator('tr[data-ticker="BIVI"]')
    reason = row.locator(".mark").get_attribute("title")
    (described,) = row.locator("td.marks").get_attribute("aria-describedby").split()
    visitor.expect(f"#{described}").to_have_text(reason)
    visitor.choose("BIVI")
    mark = visitor.page.locator("#detail .mark")
    expect(mark).to_have_text(f"split? {reason}")
    seen = "element => element.getBoundingClientRect().width > 100"
    assert not mark.locator(".reason").evaluate(seen)
    mark.focus()
    assert mark.locator(".reason").evaluate(seen)
    visitor.press("Tab")
    assert not mark.locator(".reason").evaluate(seen)
    mark.hover()
    assert mark.locator(".reason").evaluate(seen)


@pytest.mark.parametrize(
    "name, value", [("min_price", "2"), ("min_trades", "5000"), ("skip", "split")]
)
def test_a_further_filter_leaves_out_what_the_querier_does(visitor, sample_table, name, value):
    tickers = found(sample_table, SAMPLE_DAY, f"--{name.replace('_', '-')}", value)
    assert 0 < len(tickers) < 18
    visitor.open(DAY)
    set_filter(visitor, name, value)
    visitor.expect_tickers(tickers)
    visitor.expect("#filters-summary").to_have_text("More filters: 1")
    visitor.expect("#summary").to_contain_text(f"{len(tickers)} of 18 anomalies")
    assert visitor.query() == {"date": SAMPLE_DAY, name: value}


def test_the_record_is_filtered_by_choice_or_by_any_number_in_the_address(visitor, sample_table):
    records = visitor.open(f"{DAY}&min_record=30").page.locator("#min_record option")
    visitor.expect_tickers(found(sample_table, SAMPLE_DAY, "--min-record", "30"))
    expect(records).to_have_text(["any", "30", "60", "250"])
    set_filter(visitor, "min_record", "")
    visitor.expect_tickers(found(sample_table))
    expect(records).to_have_text(["any", "60", "250"])


def test_the_further_filters_stay_until_they_are_cleared(visitor, sample_table):
    visitor.open(DAY)
    wanted = [("min_price", "2"), ("skip", "split"), ("skip", "thin")]
    for count, (name, value) in enumerate(wanted, 1):
        set_filter(visitor, name, value)
        visitor.expect("#filters-summary").to_have_text(f"More filters: {count}")
    visitor.press("Escape", "ArrowLeft")
    tickers = found(sample_table, DAY_BEFORE, "--min-price", "2", "--skip", "split,thin")
    visitor.expect_day(DAY_BEFORE).expect_tickers(tickers)
    visitor.choose(tickers[0])
    state = {"min_price": "2", "skip": "split,thin", "date": DAY_BEFORE}
    assert visitor.query() == {**state, "ticker": tickers[0]}
    visitor.page.locator(".own-page").click()
    visitor.expect("#back-to-list").to_be_visible()
    visitor.press("Escape")
    visitor.expect("#skip-thin").to_be_checked()
    visitor.page.locator("#filters-summary").click()
    visitor.page.locator("#clear-filters").click()
    visitor.expect_tickers(found(sample_table, DAY_BEFORE))
    visitor.expect("#min_price").to_have_value("")
    visitor.expect("#skip-thin").not_to_be_checked()
    visitor.page.go_back()
    visitor.expect("#min_price").to_have_value("2")
    visitor.expect("#skip-thin").to_be_checked()


def test_the_further_filters_are_reached_and_left_by_keyboard(visitor, sample_table):
    visitor.open(DAY)
    visitor.page.locator("#filters-summary").focus()
    visitor.press("Enter", "Tab")
    visitor.expect("#min_price").to_be_focused()
    visitor.press("2", "Tab")
    visitor.expect_tickers(found(sample_table, SAMPLE_DAY, "--min-price", "2"))
    # Arrows and letters are the fields' own while the panel is open.
    visitor.press("Tab", "Tab", "Tab", "ArrowDown")
    visitor.expect("#min_record").to_have_value("60")
    visitor.expect_tickers([])
    visitor.press("Escape")
    visitor.expect("#filters .panel").to_be_hidden()
    visitor.expect("#filters-summary").to_be_focused()


# What happens while a view loads, and faults.


def hold(visitor, pattern):
    """The list of requests for addresses with the pattern; each waits until a test continues it."""
    held = []
    visitor.page.route(re.compile(pattern), lambda route: held.append(route))
    return held


def wait_for_request(visitor, held):
    """Wait until held has a request."""
    while not held:
        visitor.page.wait_for_timeout(10)


def test_a_row_clicked_while_another_day_loads_does_not_mix_two_days(visitor):
    views, details = hold(visitor, rf"/\?date={DAY_BEFORE}"), hold(visitor, r"/chart\?")
    visitor.open(DAY)
    visitor.press("ArrowLeft")
    wait_for_request(visitor, views)
    visitor.page.locator('tr[data-ticker="VTAK"] td').nth(1).click()
    wait_for_request(visitor, details)
    is_dropped = visitor.page.expect_event("requestfailed", lambda asked: "/chart?" in asked.url)
    with is_dropped:
        views[0].continue_()
    visitor.expect_day(DAY_BEFORE)
    assert visitor.query() == {"date": DAY_BEFORE}
    visitor.expect("#detail h2").to_have_count(0)


@pytest.mark.parametrize("name, value", [("skip", "split"), ("min_record", "60")])
def test_a_filter_set_while_a_view_loads_is_not_lost(visitor, name, value):
    held = hold(visitor, "skip=thin$")
    visitor.open(DAY)
    set_filter(visitor, "skip", "thin")
    wait_for_request(visitor, held)
    set_filter(visitor, name, value)
    held[0].continue_()
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
        assert all("ERR_CONNECTION_REFUSED" in text for text in visitor.complaints)
        visitor.complaints.clear()
        visitor.context.close()


def test_an_answer_that_is_no_view_is_told_and_changes_nothing(visitor):
    visitor.page.route(
        f"**/?date={DAY_BEFORE}", lambda route: route.fulfill(status=400, body="Bad Request")
    )
    visitor.open(DAY)
    visitor.press("ArrowLeft")
    visitor.expect("#notice").to_contain_text("makes no sense")
    visitor.expect_day(SAMPLE_DAY)
    assert visitor.query() == {"date": SAMPLE_DAY}
    visitor.assert_refused("/")
