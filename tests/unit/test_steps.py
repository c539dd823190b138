"""steps.rpy in virtual time."""

from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import RPY, Script

SCRIPT = "steps.rpy"


@pytest.fixture
def opened(script, monkeypatch):
    """The script with OPEN switched on."""
    monkeypatch.setitem(script.resource.render_GET.__globals__, "OPEN", True)
    return script


def get(script, query):
    """Send a request and play all that is due at once."""
    asked = script.get(query)
    script.advance(0)
    return asked


def wire(script, query, *seconds, headers=b""):
    """Return what was sent by the end of *seconds*, and how the connection ended."""
    _, transport = script.connect(query, headers)
    for each in (0, *seconds):
        script.clock.advance(each)
    ended = "reset" if transport.disconnected else "closed" if transport.disconnecting else "open"
    return transport.value().partition(b"\r\n\r\n"), ended


def test_steps_are_played_in_order_each_at_its_time(script):
    asked = script.get("?wait=1&status=201&header=X-A:1&send=hello&wait=60&bytes=12&reset")
    script.advance(0.9)
    assert asked.response is None
    script.advance(0.1)
    assert (asked.code, asked.header("X-A"), asked.body) == (201, "1", b"hello")
    assert asked.header("Server-Timing") == "wait;dur=1000.000"
    script.advance(59)
    assert (asked.body, asked.done) == (b"hello", False)
    script.advance(1)
    assert asked.body == b"hello012345678901"
    assert asked.failure is not None
    assert script.idle()


def test_waits_count_from_the_start(script):
    asked = script.get("?send=a&wait=1&send=b&wait=1&send=c")
    script.advance(1.75)
    assert asked.body == b"ab"
    script.advance(0.25)
    assert (asked.body, asked.done) == (b"abc", True)


@pytest.mark.parametrize("query", ["", "?key=a"])
def test_without_steps_the_answer_is_empty(script, query):
    asked = get(script, query)
    assert (asked.code, asked.body, asked.done) == (200, b"", True)


@pytest.mark.parametrize(("query", "played"), [
    ("send=a&repeat=3:1", "aaa"),
    ("send=a&send=b&repeat=2:2&send=c", "ababc"),
    ("send=a&send=b&repeat=2:1&repeat=2:2", "abbabb"),  # a repeat and what it repeats are one step
    ("send=a&repeat=2:1&send=b&repeat=2:2", "aabaab"),
    ("send=a&bytes=70000&repeat=2:1", "a" + 2 * ("0123456789" * 7000)),
])  # fmt: skip
def test_repeats(script, query, played):
    asked = get(script, f"?{query}")
    assert (asked.body, asked.done) == (played.encode(), True)


def test_repeats_are_on_time(script):
    asked = script.get("?send=a&wait=2&repeat=3:2&send=.")
    for body in (b"a", b"aa", b"aaa"):
        script.advance(0)
        assert asked.body == body
        script.advance(2)
    assert (asked.body, asked.done) == (b"aaa.", True)


def test_a_declared_length_is_sent(script):
    (head, _, body), end = wire(script, b"length=5&send=hello")
    assert b"\r\nContent-Length: 5" in head
    assert (body, end) == (b"hello", "open")


@pytest.mark.parametrize("size", [2, 8])
def test_an_untrue_length_closes_the_connection_unless_it_ends_otherwise(script, size):
    for name, ended in (("", "closed"), ("close", "closed"), ("reset", "reset"), ("hang", "open")):
        (_, _, body), end = wire(script, b"length=%d&send=hello&%s" % (size, name.encode()))
        assert (body, end) == (b"hello", ended)


def test_an_empty_text_sends_the_headers(script):
    asked = script.get("?status=202&send=&wait=5&send=x")
    script.advance(0)
    assert (asked.code, asked.body) == (202, b"")
    script.advance(5)
    assert (asked.body, asked.done) == (b"x", True)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_the_connection_ends_without_a_byte_if_nothing_was_sent(script, how):
    sent, end = wire(script, how.encode())
    assert sent == (b"", b"", b"")
    assert end == {"close": "closed"}.get(how, how)


def test_a_hang_ends_with_the_client_or_after_an_hour(script, logged):
    asked = script.get("?send=a&hang")
    script.advance(0, 3599)
    assert asked.failure is None
    script.advance(1)
    assert asked.failure is not None
    assert "the client disconnected" not in logged()
    script.get("?send=a&hang").leave()
    assert script.idle()
    assert "the client disconnected" in logged()


def test_nothing_is_written_while_the_client_does_not_read(script):
    _, transport = script.connect(b"send=a&wait=1&bytes=1000000&send=z")
    script.clock.advance(0)
    transport.producer.pauseProducing()
    script.clock.advance(1)
    assert len(transport.value()) < 1000
    transport.producer.resumeProducing()
    script.clock.advance(0)
    assert len(transport.value()) > 1000000
    assert transport.value().endswith(b"z\r\n0\r\n\r\n")


def test_each_step_has_a_turn_of_its_own(script):
    """So a long list of them never holds up other requests."""
    turns, later = [], script.clock.callLater
    script.clock.callLater = lambda delay, *call: turns.append(delay) or later(delay, *call)
    asked = get(script, "?send=a&repeat=1000:1&bytes=1000000")
    assert (len(asked.body), asked.done) == (1_001_000, True)
    assert turns == [0] * (1000 + 16)


def test_a_pending_request_holds_no_body(script):
    import tracemalloc

    query = b"wait=600&send=a&wait=0.001&repeat=999:2&bytes=63999"
    script.connect(query)  # what is made once is there
    tracemalloc.start()
    try:
        kept = [script.connect(query) for _ in range(5)]
        assert tracemalloc.get_traced_memory()[0] < len(kept) * 50_000
    finally:
        tracemalloc.stop()


def test_headers_replace_the_default_ones_and_may_come_more_than_once(script):
    query = b"header=Cache-Control:max-age=1&header=cache-control:private&header=X-A:1&send=a"
    (head, _, _), _ = wire(script, query)
    assert b"\r\nCache-Control: max-age=1\r\nCache-Control: private\r\n" in head
    assert b"no-store" not in head
    (head, _, _), _ = wire(script, b"header=Content-Type:application/json&send=1")
    assert b"\r\nContent-Type: application/json\r\n" in head
    assert head.count(b"\r\nContent-Type:") == 1


def test_a_server_timing_of_the_steps_replaces_the_measured_one(script):
    asked = script.get("?header=Server-Timing:db;dur=5&wait=1&send=a")
    script.advance(1)
    assert asked.header("Server-Timing") == "db;dur=5"


HARMLESS = [
    "Content-Type:text/plain", "content-type:Application/JSON; charset=UTF-8", "ETag:\"1\"", "X-A:",
    "RateLimit-Remaining:0", "X-RateLimit-Reset:9", "Retry-After: 5", "X-Request-Id:a%FF",
]  # fmt: skip


@pytest.mark.parametrize("header", HARMLESS)
def test_headers_that_anybody_may_set(script, header):
    assert get(script, f"?header={quote(header, safe='%')}&send=a").code == 200


OVER_THE_LINE = [
    "Set-Cookie:a=b", "Location:/x", "refresh: 0;url=/", "Content-Type:text/html",
    "Content-Type:image/svg+xml", "content-type:application/xhtml+xml", "Content-Type:text/plain,text/html",
    "Content-Type:text/plain;,text/html", "Content-Type:text/javascript", "Content-Type:",
    "Access-Control-Allow-Origin:*", "X-Content-Type-Options:", "Clear-Site-Data:x",
    "WWW-Authenticate:Basic", "X-Accel-Redirect:/etc", "x-sendfile:/etc", "Link:</a>", "Frobnicate:1",
    "X-LiteSpeed-Location:/etc", "Content-Disposition:attachment",
]  # fmt: skip


@pytest.mark.parametrize("header", OVER_THE_LINE)
def test_headers_that_others_may_act_on_are_refused_unless_switched_on(script, header, monkeypatch):
    refused = script.get(f"?header={quote(header)}&send=a")
    assert refused.code == 400
    assert b"STEPS_OPEN=1" in refused.body
    monkeypatch.setitem(script.resource.render_GET.__globals__, "OPEN", True)
    assert get(script, f"?header={quote(header)}&send=a").code == 200


def test_raw_bytes_are_sent_as_they_are_and_the_connection_is_closed(opened):
    query = b"raw=HTTP/1.1+299+Odd%0D%0AX:%FF%0D%0A%0D%0A&wait=1&send=body&bytes=3"
    (head, _, body), end = wire(opened, query, 1)
    assert head == b"HTTP/1.1 299 Odd\r\nX:\xff"
    assert (body, end) == (b"body012", "closed")
    (_, _, body), end = wire(opened, b"send=abc&raw=zz%0D%0A")
    assert (body, end) == (b"3\r\nabc\r\nzz\r\n", "closed")


WRONG = {
    "?wait=1&sned=a": "step 2: unknown step 'sned': give wait, status,",
    "?wait=": "step 1: invalid wait '': give a number from 0 to 3600",
    "?wait=2000&wait=2000": "step 2, wait, is too much: give at most 3600 in all",
    "?status=103": "step 1: invalid status '103': give a whole number from 200 to 599",
    "?send=a&status=200": "step 2, status, is too late: give it before step 1, send",
    "?send=&header=X-A:b": "step 2, header, is too late: give it before step 1, send",
    "?status=200&send=a&repeat=2:2": "step 1, status, is too late: give it before step 2, send",
    "?close&send=a": "step 2, send, is never played: give it before step 1, close",
    "?reset&repeat=2:1": "step 1, reset, is never played: give it before step 1, reset",
    "?header=a": "step 1: invalid header 'a': give Name:value",
    "?header=:a": "step 1: invalid header ':a': give Name:value",
    "?header=X-A:a%0D%0AX-B:b": "invalid header 'X-A:a\\r\\nX-B:b': give Name:value",
    "?header=Transfer-Encoding:chunked": "which is framing: give length, close or raw",
    "?send=a&repeat=2": "step 2: invalid repeat '2': give N:K, to play K steps N times",
    "?send=a&repeat=1:1": "step 2: invalid repeat '1:1': give N:K",
    "?send=a&repeat=2:0": "step 2: invalid repeat '2:0': give a K from 1 to 1",
    "?send=a&repeat=2:2": "step 2: invalid repeat '2:2': give a K from 1 to 1",
    "?send=a&repeat=1999:1&repeat=2:1": "step 3: invalid repeat '2:1': give at most 2000 steps in all",
    "?send=a&repeat=9999999:1": "step 2: invalid repeat '9999999:1': give at most 2000 steps in all",
    "?" + "send&" * 2001: "step 2001: too many steps: give at most 2000, with all repeats",
    "?bytes=100000000&send=a": "step 2, send, is too much: give at most 100000000 in all",
    "?header=X-A:" + "a" * 100 + "&repeat=160:1": "is too much: give at most 16384 in all",
    "?key=" + "a" * 1001: "step 1: unknown step 'key': give",
    "?reset=2": "step 1: invalid reset '2': give reset alone",
    "?raw=a": "step 1, raw, needs HTTP/1.1: also give the server STEPS_OPEN=1",
}  # fmt: skip


@pytest.mark.parametrize("query", WRONG)
def test_a_wrong_step_is_named_before_anything_is_sent(script, query):
    asked = script.get(query)
    assert asked.code == 400
    assert WRONG[query] in asked.body.decode()
    assert asked.body.count(b"\n") == 1
    assert len(asked.body) < 200
    assert script.idle()


def test_a_failure_on_the_way_aborts_the_connection(script, monkeypatch, logged):
    asked = script.get("?send=a&wait=1&bytes=1")
    script.advance(0)
    monkeypatch.setitem(script.resource.render_GET.__globals__, "DIGITS", None)
    script.advance(1)
    assert asked.failure is not None
    assert "TypeError" in logged()
    assert script.idle()


SECONDS = st.decimals(0, 900, places=3).map(lambda d: f"wait={d:f}")
STEP = st.one_of(
    SECONDS,
    st.sampled_from(["close", "reset", "hang", "key=a", "status=204", "length=3", "header=X-A:1"]),
    st.sampled_from(["header=", "bytes=3", "bytes=0", "send=abc", "send=", "raw=x"]),
    st.integers(199, 600).map("status={}".format),
    st.tuples(st.integers(0, 5), st.integers(0, 5)).map(lambda pair: "repeat={}:{}".format(*pair)),
    st.tuples(st.sampled_from(["send", "header", "wait", "bytes", "x"]), st.text(max_size=9)).map(
        lambda pair: f"{pair[0]}={quote(pair[1])}"
    ),
)


@given(query=st.lists(STEP, max_size=12).map("&".join))
@settings(max_examples=400, deadline=None)
def test_any_steps_are_played_to_their_end_or_refused_before_anything_is_sent(query):
    script = Script(RPY / SCRIPT)
    asked = script.get(f"?{query}", allow_redirects=False)
    if script.idle() and asked.response and asked.code == 400:
        assert asked.body.startswith(b"step ")
        return
    while calls := script.clock.getDelayedCalls():
        script.advance(max(0, calls[0].getTime() - script.clock.seconds()))
    if asked.response and asked.code in (204, 304):
        return  # to the client they are over with their headers: it disconnects
    waits = [float(step[5:]) for step in query.split("&") if step.startswith("wait=")]
    last = query.replace("&key=a", "").rpartition("&")[2].partition("=")[0]
    assert script.clock.seconds() >= sum(waits) + 3600 * (last == "hang")
    if last in ("reset", "hang"):
        assert asked.failure
    assert asked.done or asked.failure or "length" in query or last == "close"


def test_post_plays_steps_too(script):
    asked = script.post("?status=201&send=made", data=b"x")
    script.advance(0)
    assert asked.body == b"made"
    assert script.post("?sned=a").code == 400


def test_below_itself_it_has_no_page(script):
    """A browser would save this under the name setup.bat, from the site's own domain."""
    asked = script.get("/setup.bat?header=Content-Type:application/octet-stream&send=calc")
    assert (asked.code, asked.body) == (404, b"no such page: request steps.rpy itself\n")
