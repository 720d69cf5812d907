"""How download and page ask Polygon: its faults, the way to it, and bars and headlines."""

import ssl
import sys
import threading
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote, unquote

import exchange_calendars
import pytest
import trustme
from fakes.polygon import (
    BAR,
    BROKEN,
    DROP,
    EMPTY,
    RATE_LIMIT,
    REFUSALS,
    FakePolygon,
    FakeProxy,
    answered,
    row,
    with_bars,
)
from helpers.flat_files import flat_text, new_york_time, write_file
from helpers.markets import SAMPLE_DAY, SAMPLE_MARKET
from helpers.scripts import KEY, build_table, builder, call, load_script, wait_until

gui = load_script("gui-lookup-table.py")
FRIDAY = "2024-08-09"
PAGE = {"HTTP_X_LOOKUP_TABLE_PAGE": "1"}
VTAK = f"/api/bars?ticker=VTAK&date={SAMPLE_DAY}"
NEWS = f"/api/headlines?ticker=VTAK&date={SAMPLE_DAY}"
SURROUNDINGS = ["MASSIVE_API_KEY", "SSL_CERT_FILE", "SSL_CERT_DIR"]
SURROUNDINGS += [f"{name}_proxy" for name in ("http", "https", "all", "no")]


@pytest.fixture(autouse=True)
def surroundings(empty_folder, monkeypatch):
    """A key, and neither a proxy nor certificates of the environment."""
    for name in SURROUNDINGS:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("POLYGON_API_KEY", KEY)


@pytest.fixture
def polygon():
    with FakePolygon(SAMPLE_MARKET) as polygon:
        polygon.days[FRIDAY] = [row("AAA", 5, 2)]
        yield polygon


@pytest.fixture
def quick(monkeypatch):
    """The download does not wait before it tries again."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def download(url):
    return call(builder, "--download", FRIDAY, "--until", FRIDAY, "--api-url", url)


@pytest.fixture
def client_of(sample_table):
    """A function: the page's test client, for Polygon's API at a URL."""

    def client_of(url, **options):
        app = gui.create_app(sample_table, gui.Polygon(url, **options))
        client = app.test_client()
        client.environ_base.update(PAGE)
        return client

    return client_of


def assert_both_say(client_of, url, *parts):
    """Download and page say the same sentence about a fault, in which parts occur, but no key."""
    stopped = download(url)
    assert (stopped.returncode, "Traceback" in stopped.stderr) == (1, False)
    # Without another day there is no table: the line before says why the day is missing.
    lines = [line for line in stopped.stderr.splitlines() if FRIDAY in line or "stopped" in line]
    answer = client_of(url).get(VTAK)
    assert answer.status_code in (429, 502, 503, 504)
    assert lines[0].split(": ", 1)[1] == answer.json["error"]
    assert [part for part in parts if part not in answer.json["error"]] == []
    assert "cret" not in answer.json["error"].lower()


# What Polygon answers


FAULTS = {
    "no key": (REFUSALS["no key"], "POLYGON_API_KEY"),
    "unknown key": (REFUSALS["unknown key"], "does not accept your key"),
    "not entitled": (REFUSALS["not entitled"], "plan does not include"),
    "today": (REFUSALS["today"], "before it is over"),
    "moved": (answered(status=301, Location="http://192.0.2.1/"), "--api-url"),
    "gone": (answered(status=410), "--api-url"),
    "limit": (RATE_LIMIT, "limit of requests"),
    "server error": (BROKEN["server error"], "trouble"),
    "maintenance": (answered(status=503), "trouble"),
    "dropped": (DROP, "internet"),
    **{
        name: (answer, "makes no sense")
        for name, answer in BROKEN.items()
        if name != "server error"
    },
}


@pytest.mark.parametrize(("answer", "part"), FAULTS.values(), ids=FAULTS)
def test_download_and_page_say_the_same_of_a_fault(client_of, polygon, quick, answer, part):
    polygon.answer = answer
    assert_both_say(client_of, polygon.url, part)


def test_a_day_that_the_plan_does_not_reach_has_the_same_sentence(client_of, polygon):
    write_file(Path("aggregates_day/2024-08-08.csv"), flat_text([("AAA", 5, 2)], "2024-08-08"))
    polygon.answer = REFUSALS["timeframe"]
    error = client_of(polygon.url).get(VTAK).json["error"]
    assert "two years" in error
    assert error in download(polygon.url).stdout


def test_no_redirect_is_followed(client_of, polygon):
    polygon.answer = answered(status=302, Location=f"{polygon.url}/v2/reference/news")
    assert_both_say(client_of, polygon.url)
    assert len(polygon.requests) == 2


def test_where_nothing_listens_both_say_so(client_of, quick):
    with FakePolygon() as gone:
        pass
    assert_both_say(client_of, gone.url, "internet")


def test_a_server_that_hangs_is_given_up(client_of, polygon):
    polygon.answering.clear()
    answer = client_of(polygon.url, seconds=0.3).get(VTAK)
    assert (answer.status_code, "in time" in answer.json["error"]) == (504, True)


ODD_KEYS = {"": "export POLYGON_API_KEY="}
ODD_KEYS |= dict.fromkeys([f'"{KEY}"', f"{KEY}\r\nX-Other: 1", "sécret"], "quotes")


@pytest.mark.parametrize(("key", "part"), ODD_KEYS.items())
def test_a_key_that_cannot_be_right_is_not_sent(client_of, polygon, monkeypatch, key, part):
    monkeypatch.setenv("POLYGON_API_KEY", key)
    assert_both_say(client_of, polygon.url, part)
    assert polygon.requests == []


def test_the_newer_keys_name_is_known_and_the_older_one_counts_first(
    client_of, polygon, monkeypatch
):
    monkeypatch.setenv("MASSIVE_API_KEY", "newer")
    client_of(polygon.url).get(VTAK)
    monkeypatch.delenv("POLYGON_API_KEY")
    client_of(polygon.url).get(VTAK)
    sent = [request.headers["Authorization"] for request in polygon.requests]
    assert sent == [f"Bearer {KEY}", "Bearer newer"]


# The way to it: proxy, certificates


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def tls_polygon(authority):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "polygon.test").configure_cert(tls)
    with FakePolygon(SAMPLE_MARKET, tls) as polygon:
        polygon.days[FRIDAY] = [row("AAA", 5, 2)]
        yield polygon


@pytest.fixture
def trusted(authority, tmp_path_factory, monkeypatch):
    """SSL_CERT_FILE names a file with the authority's certificate."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))


def assert_both_work(client_of, url):
    assert download(url).returncode == 0
    assert client_of(url).get(VTAK).status_code == 200


def test_the_certificates_of_ssl_cert_file_are_trusted(client_of, tls_polygon, trusted):
    assert_both_work(client_of, tls_polygon.url)


def test_an_unknown_certificate_has_its_own_sentence(client_of, tls_polygon, quick):
    assert_both_say(client_of, tls_polygon.url, "certificate", "SSL_CERT_FILE")
    assert tls_polygon.requests == []


@pytest.mark.parametrize(("login", "start"), [(None, ""), ("me:pa ss", "http://me:pa%20ss@")])
def test_the_environments_proxy_is_used(client_of, tls_polygon, trusted, monkeypatch, login, start):
    url = tls_polygon.url.replace("localhost", "polygon.test")  # a name that only the proxy knows
    with FakeProxy(login) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", start + proxy.url)
        assert_both_work(client_of, url)
        assert set(proxy.targets) == {url.partition("//")[2]}


def test_no_proxy_leads_past_it(client_of, tls_polygon, trusted, monkeypatch):
    with FakeProxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "example.com,localhost")
        assert_both_work(client_of, tls_polygon.url)
        assert proxy.targets == []


@pytest.mark.parametrize("url", ["http://u:secret@127.0.0.1:1", "socks5://u:secret@127.0.0.1", ""])
def test_a_proxy_that_does_not_work_has_its_own_sentence(
    client_of, tls_polygon, trusted, monkeypatch, quick, url
):
    with FakeProxy(login="me:secret") as proxy:  # which refuses who does not send it
        monkeypatch.setenv("HTTPS_PROXY", url or proxy.url)
        assert_both_say(client_of, tls_polygon.url, "proxy")


def test_a_netrc_file_does_not_replace_the_key(client_of, polygon, monkeypatch):
    write_file(Path("netrc"), "default login me password mine")
    monkeypatch.setenv("NETRC", "netrc")
    client_of(polygon.url).get(VTAK)
    assert polygon.requests[0].headers["Authorization"] == f"Bearer {KEY}"


# The client's package


OLDER = "def RESTClient(auth_key, timeout=None): pass"
OTHER = {
    "another file": ("polygon.py", "AREA = 1", "polygon.py"),
    "an older client": ("polygon.py", OLDER, "pip install"),
    "a broken package": ("polygon/__init__.py", "raise ImportError('libssl.so.9')", "so.9"),
    "no requests": ("requests.py", "import requestz", "requestz"),
}


@pytest.mark.parametrize(("name", "code", "part"), OTHER.values(), ids=OTHER)
def test_a_client_that_cannot_be_used_is_told_in_its_own_words(
    client_of, polygon, tmp_path, monkeypatch, name, code, part
):
    write_file(tmp_path / "packages" / name, code)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    for module in list(sys.modules):
        if module.partition(".")[0] in ("polygon", "massive", "requests"):
            monkeypatch.delitem(sys.modules, module)
    assert_both_say(client_of, polygon.url, part)
    assert polygon.requests == []


def test_massive_is_taken_if_it_is_installed(client_of, polygon, tmp_path, monkeypatch):
    code = "from polygon import *\nimport polygon\n"
    code += "def RESTClient(key, base): return polygon.RESTClient('by massive', base=base)"
    write_file(tmp_path / "packages/massive/__init__.py", code)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.delitem(sys.modules, "massive", raising=False)
    assert_both_work(client_of, polygon.url)
    keys = {request.headers["Authorization"] for request in polygon.requests}
    assert keys == {"Bearer by massive"}
    sys.modules.pop("massive", None)


# Minute bars and headlines


def test_the_bars_are_those_that_polygon_sent(client_of, polygon):
    sent = polygon.bars_of("VTAK", SAMPLE_DAY)
    bars = client_of(polygon.url).get(VTAK).json["bars"]
    assert [list(bar.values()) for bar in bars] == [
        [bar[name] for name in ("t", "o", "h", "l", "c", "v", "vw", "n")] for bar in sent
    ]
    (request,) = polygon.requests
    assert request.path == f"/v2/aggs/ticker/VTAK/range/1/minute/{SAMPLE_DAY}/{SAMPLE_DAY}"
    assert request.query["adjusted"] == "false"


def test_bars_are_sorted_one_a_minute_and_of_that_day(client_of, polygon):
    start, end = new_york_time(SAMPLE_DAY, 0), new_york_time(SAMPLE_DAY, 24 * 60)
    times = [end, end - 1, BAR["t"], start - 1, start, BAR["t"] + 59_999]
    polygon.bars["VTAK", SAMPLE_DAY] = [{**BAR, "t": at, "n": n} for n, at in enumerate(times)]
    without_n = {name: BAR[name] for name in "ohlcv"}
    polygon.bars["VTAK", SAMPLE_DAY] += [{**without_n, "t": start + 60_000}]
    bars = client_of(polygon.url).get(VTAK).json["bars"]
    assert [bar["transactions"] for bar in bars] == [4, None, 5, 1]


ODD_BARS = [("t", None), ("o", "1"), ("l", [1]), ("c", True), ("v", float("nan")), ("v", 10**400)]
ODD_BARS += [("h", float("inf")), ("vw", "1"), ("n", {})]


@pytest.mark.parametrize(("name", "value"), ODD_BARS)
def test_a_bar_that_is_no_bar_makes_a_bad_answer(client_of, polygon, name, value):
    polygon.answer = with_bars(BAR, {**BAR, name: value})
    answer = client_of(polygon.url).get(VTAK)
    assert (answer.status_code, answer.json["error"]) == (502, builder.BAD_ANSWER)


@pytest.mark.parametrize("answer", EMPTY.values(), ids=EMPTY)
def test_a_day_without_bars_is_said(client_of, polygon, answer):
    polygon.answer = answer
    answer = client_of(polygon.url).get(VTAK)
    assert (answer.status_code, "VTAK" in answer.json["error"]) == (404, True)


def test_after_a_429_the_page_is_told_how_long_to_wait(client_of, polygon):
    for header, seconds in {"7": 7, "86400": 3600, "soon": 60}.items():
        polygon.answer = RATE_LIMIT._replace(headers={"Retry-After": header})
        answer = client_of(polygon.url).get(VTAK)
        assert (answer.status_code, answer.json["retry_after"]) == (429, seconds)


def test_a_past_days_answers_are_fetched_once_but_errors_are_not_kept(client_of, polygon):
    client = client_of(polygon.url)
    polygon.answer = REFUSALS["unknown key"]
    bars, headlines = client.get(VTAK), client.get(NEWS)
    assert (bars.status_code, bars.json) == (headlines.status_code, headlines.json)
    polygon.answer = None
    for address in (VTAK, NEWS):
        assert client.get(address).json == client.get(address).json != bars.json
    assert len(polygon.requests) == 4


def test_a_day_that_is_not_over_is_fetched_again(client_of, polygon, monkeypatch):
    # 2024-10-19 00:00 in New York is 04:00 UTC.
    now = datetime(2024, 10, 19, 3, 59, tzinfo=timezone.utc)
    monkeypatch.setattr(gui, "time", now.timestamp)
    client = client_of(polygon.url)
    for address in (VTAK, VTAK, NEWS, NEWS):
        assert client.get(address).status_code == 200
    assert len(polygon.requests) == 4


def test_at_most_eight_calls_run_at_once_and_more_are_refused(client_of, polygon):
    polygon.answering.clear()
    client = client_of(polygon.url)
    threads = [threading.Thread(target=client.get, args=[VTAK]) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(polygon.requests) == 8)
    assert client.get(VTAK).status_code == 503
    polygon.answering.set()
    for thread in threads:
        thread.join()
    assert client.get(VTAK).status_code == 200


def test_an_odd_ticker_is_one_part_of_polygons_path(polygon, tmp_path):
    tickers = ["A/../B", "X?y#z", "A%2FB", "A&B=C", "A+B C", "Ünï☃"]
    write_file(tmp_path / "odd/2024-01-12.csv", flat_text([(t, 1, 1) for t in tickers]))
    table = build_table(tmp_path / "odd", tmp_path / "odd.pkl")
    client = gui.create_app(table, gui.Polygon(polygon.url)).test_client()
    for ticker in tickers:
        client.get(f"/api/bars?date=2024-01-12&ticker={quote(ticker)}", environ_base=PAGE)
        assert unquote(polygon.requests[-1].path.split("/")[4]) == ticker
    assert len(polygon.requests) == len(tickers)


ARTICLE = {
    "publisher": {"name": "The Paper"},
    "title": "A headline",
    "published_utc": "2024-10-18T13:05:00Z",
    "article_url": "https://paper.example/a?b=c",
    "insights": None,
}
HEADLINE = {
    "title": "A headline",
    "publisher": "The Paper",
    "published_utc": "2024-10-18T13:05:00Z",
    "url": "https://paper.example/a?b=c",
}


def test_the_headlines_are_the_first_50_from_the_previous_close_on(client_of, polygon):
    # 16:00 in New York in summer is 20:00 UTC, and 20:00 is midnight.
    times = ["2024-10-17T19:59:59Z", "2024-10-17T20:00:00Z", "2024-10-19T00:00:00Z"]
    times += ["2024-10-19T00:00:01Z"] + ["2024-10-18T13:05:00Z"] * 60
    polygon.articles["VTAK"] = [
        {**ARTICLE, "title": str(n), "published_utc": time} for n, time in enumerate(times)
    ]
    answer = client_of(polygon.url).get(NEWS).json
    assert (answer["from"], answer["to"]) == (times[1], times[2])
    titles = [headline["title"] for headline in answer["headlines"]]
    assert titles == ["1", *(str(n) for n in range(4, 53))]
    assert len(polygon.requests) == 1


ODD_ARTICLES = [
    ({"publisher": None}, {"publisher": None}),
    ({"publisher": {"name": 7}}, {"publisher": None}),
    ({"article_url": "javascript:alert(1)"}, {"url": None}),
    ({"article_url": "//paper.example"}, {"url": None}),
    ({"published_utc": 1729256700}, {"published_utc": None}),
    ({"title": "<b>A</b>\n\tB\x00\u202e"}, {"title": "<b>A</b> B"}),
    ({"title": "A" * 501}, {"title": "A" * 500}),
]


@pytest.mark.parametrize(("odd", "shown"), ODD_ARTICLES)
def test_what_is_odd_in_an_article_is_left_out(client_of, polygon, odd, shown):
    no_articles = [None, 7, "text", [], {}, {"title": None}, {"title": " \n"}]
    polygon.answer = answered({"results": [*no_articles, {**ARTICLE, **odd}]})
    headlines = client_of(polygon.url).get(NEWS).json["headlines"]
    assert headlines == [{**HEADLINE, **shown}]


# The exchange's clock


def test_a_sessions_times_are_those_of_the_exchanges_calendar_from_2004_on():
    calendar = exchange_calendars.get_calendar("XNYS", start="2004-01-01", end="2030-12-31")
    for day, opening, closing in calendar.schedule[["open", "close"]].itertuples():
        assert gui.market_hours(day.date().isoformat()) == (opening, closing)
