"""steps.rpy in virtual time."""

from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import RPY, Script

SCRIPT = "steps.rpy"


@pytest.fixture
def opened(script, monkeypatch):
    """The script, for those who trust whoever asks."""
    monkeypatch.setitem(script.resource.render_GET.__globals__, "OPEN", True)
    return script


def wire(script, query, *seconds, headers=b""):
    """All that is sent, by the end of *seconds*; and whether, and how, the connection was ended."""
    _, transport = script.connect(query, headers)
    for each in (0, 0, 0, *seconds, 0, 0, 0):
        script.clock.advance(each)
    ended = "reset" if transport.disconnected else "closed" if transport.disconnecting else "open"
    return transport.value().partition(b"\r\n\r\n"), ended


def test_the_steps_are_played_in_order_each_at_its_time(script):
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
    script.advance(0, 0)
    assert asked.failure is not None
    assert script.idle()


def test_waits_are_reckoned_from_the_start(script):
    asked = script.get("?send=a&wait=1&send=b&wait=1&send=c")
    script.advance(1.75)
    assert asked.body == b"ab"
    script.advance(0.25)
    assert (asked.body, asked.done) == (b"abc", True)


def test_without_a_query_it_shows_its_manual(script):
    asked = script.get()
    assert asked.header("Content-Type") == "text/plain; charset=utf-8"
    assert b"\nParameters:\n" in asked.body
    assert asked.done


def test_a_key_alone_is_no_step(script):
    assert script.get("?key=a").body == script.get().body


@pytest.mark.parametrize(("query", "played"), [
    ("send=a&repeat=3:1", "aaa"),
    ("send=a&send=b&repeat=2:2&send=c", "ababc"),
    ("send=a&repeat=1:1", "a"),
    ("send=a&send=b&repeat=2:1&repeat=2:2", "abbabb"),  # a repeat and what it repeats are one step
    ("send=a&repeat=2:1&send=b&repeat=2:2", "aabaab"),
])  # fmt: skip
def test_repeats(script, query, played):
    asked = script.get(f"?{query}")
    assert (asked.body, asked.done) == (played.encode(), True)


def test_repeats_keep_time(script):
    asked = script.get("?send=a&wait=2&repeat=3:2&send=.")
    for body in (b"a", b"aa", b"aaa"):
        assert asked.body == body
        script.advance(2)
    assert (asked.body, asked.done) == (b"aaa.", True)


def test_a_declared_length_is_sent_as_such(script):
    (head, _, body), end = wire(script, b"length=5&send=hello")
    assert b"\r\nContent-Length: 5" in head
    assert (body, end) == (b"hello", "open")


@pytest.mark.parametrize("size", [2, 8])
def test_a_wrong_length_needs_an_end_of_its_own(script, size):
    refused = script.get(f"?length={size}&send=hello")
    told = f"end: length declares {size} bytes, and 5 are sent: give close, reset or hang"
    assert refused.body.startswith(told.encode())
    for name, ended in (("close", "closed"), ("reset", "reset"), ("hang", "open")):
        (_, _, body), end = wire(script, b"length=%d&send=hello&%s" % (size, name.encode()))
        assert (body, end) == (b"hello", ended)


def test_flush_sends_the_head_at_once(script):
    asked = script.get("?status=202&flush&wait=5&send=x")
    script.advance(0, 0)
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
    script.advance(3599)
    assert asked.failure is None
    script.advance(1)
    assert asked.failure is not None
    assert "the client left" not in logged()
    script.get("?send=a&hang").leave()
    assert script.idle()
    assert "the client left" in logged()


def test_a_gate_is_opened_by_post_and_waits_begin_anew(script):
    asked = script.get("?send=a&hold=g&wait=1&send=b")
    script.advance(100)
    assert asked.body == b"a"
    assert script.post("?key=other").json() == {"key": "other", "opened": 0}
    assert script.post("?key=g").json() == {"key": "g", "opened": 1}
    script.advance(0.5)
    assert asked.body == b"a"
    script.advance(0.5)
    assert (asked.body, asked.done) == (b"ab", True)
    assert script.idle()


def test_a_hold_is_left_and_is_reset_after_an_hour_or_without_room(script, logged):
    script.get("?hold=a").leave()
    assert script.idle()
    held = script.get("?hold=a")
    script.resource.gates.most = 1
    assert script.get("?hold=b").failure is not None
    script.advance(3600)
    assert held.failure is not None
    assert logged().count("the client left") == 1
    assert not script.resource.gates.states["a"][0].busy()


def test_for_a_client_that_does_not_read_nothing_is_written(script):
    _, transport = script.connect(b"send=a&wait=1&bytes=1000000&send=z")
    transport.producer.pauseProducing()
    script.clock.advance(1)
    assert len(transport.value()) < 1000
    transport.producer.resumeProducing()
    assert len(transport.value()) > 1000000
    assert transport.value().endswith(b"z\r\n0\r\n\r\n")


def test_headers_replace_ours_and_may_come_more_than_once(script):
    query = b"header=Cache-Control:max-age=1&header=cache-control:private&header=X-A:1&send=a"
    (head, _, _), _ = wire(script, query)
    assert b"\r\nCache-Control: max-age=1\r\nCache-Control: private\r\n" in head
    assert b"no-store" not in head
    (head, _, _), _ = wire(script, b"header=Content-Type:application/json&send=1")
    assert b"\r\nContent-Type: application/json\r\n" in head
    assert head.count(b"\r\nContent-Type:") == 1


OVER_THE_LINE = [
    "Set-Cookie:a=b", "Location:/x", "refresh: 0;url=/", "Content-Type:text/html",
    "Content-Type:image/svg+xml", "content-type:application/xhtml+xml", "Content-Type:text/plain,text/html",
    "Content-Type:text/plain;,text/html", "Content-Type:text/javascript", "Content-Type:",
    "Access-Control-Allow-Origin:*", "X-Content-Type-Options:", "Clear-Site-Data:x",
    "WWW-Authenticate:Basic", "X-Accel-Redirect:/etc", "x-sendfile:/etc", "Link:</a>", "Frobnicate:1",
    "X-LiteSpeed-Location:/etc",
]  # fmt: skip


@pytest.mark.parametrize("header", OVER_THE_LINE)
def test_what_might_make_others_act_is_refused_unless_switched_on(script, header, monkeypatch):
    refused = script.get(f"?header={quote(header)}&send=a")
    assert refused.code == 400
    assert b"TIMED_OPEN=1" in refused.body
    monkeypatch.setitem(script.resource.render_GET.__globals__, "OPEN", True)
    assert script.get(f"?header={quote(header)}&send=a").code == 200


def test_raw_bytes_are_sent_as_they_are_and_close_the_connection(opened):
    query = b"raw=HTTP/1.1+299+Odd%0D%0AX:%FF%0D%0A%0D%0A&wait=1&send=body&bytes=3"
    (head, _, body), end = wire(opened, query, 1)
    assert head == b"HTTP/1.1 299 Odd\r\nX:\xff"
    assert (body, end) == (b"body012", "closed")
    (_, _, body), end = wire(opened, b"send=abc&raw=zz%0D%0A")
    assert (body, end) == (b"3\r\nabc\r\nzz\r\n", "closed")


WRONG = {
    "?wait=1&sned=a": "step 2, sned=a: no such step: give wait, status,",
    "?wait=": "step 1, wait: give seconds, from 0 to 3600",
    "?wait=2000&wait=2000": "step 2, wait=2000: waits of more than 3600 seconds in all: give less",
    "?status=103": "step 1, status=103: give a status, from 200 to 599",
    "?send=a&status=200": "step 2, status=200: step 1, send, sends the head: give this before it",
    "?flush&header=X-A:b": "step 2, header=X-A:b: step 1, flush, sends the head: give this before it",
    "?status=200&send=a&repeat=2:2": "step 1, status=200: step 2, send, sends the head:",
    "?status=200&status=201": "step 2, status=201: there is one in step 1: give it once",
    "?length=1&wait=0&length=1": "step 3, length=1: there is one in step 1: give it once",
    "?end&send=a": "step 2, send=a: nothing is played after end: give it last",
    "?reset&repeat=2:1": "step 1, reset: nothing is played after reset: give it last",
    "?header=a": "step 1, header=a: give Name:value",
    "?header=X-A:a%0D%0AX-B:b": "step 1, header=X-A:a\\r\\nX-B:b: give Name:value",
    "?header=Transfer-Encoding:chunked": "give length, close or raw",
    "?send=a&repeat=2": "step 2, repeat=2: give N:K, to play the last K steps N times",
    "?send=a&repeat=0:1": "step 2, repeat=0:1: give N:K",
    "?send=a&repeat=2:2": "step 2, repeat=2:2: 1 stand before it: give no more than that",
    "?send=a&repeat=9999:1&repeat=2:1": "step 3, repeat=2:1: more than 10000 steps are played with it",
    "?bytes=1000000000&send=a": "step 2, send=a: more than 1000000000 bytes in all: give less",
    "?status=204&send=a": "step 2, send=a: the status has no body: give another",
    "?header=X-A:1&repeat=9999:1": "more than 16384 bytes of headers in all: give less",
    "?explain&explain&send=a": "explain: it is given more than once: give it once",
    "?hold=" + "a" * 1001: ": give a name of 1000 bytes at most",
    "?flush=2": "step 1, flush=2: give flush alone",
    "?explain=2": "step 1, explain=2: give explain alone",
    "?raw=a": "step 1, raw=a: a browser might run it: start the server with TIMED_OPEN=1",
}


@pytest.mark.parametrize("query", WRONG)
def test_a_wrong_score_is_refused_naming_the_step(script, query):
    for asked in (script.get(query), script.get(f"{query}&explain")):
        assert asked.code == 400
        assert WRONG[query] in asked.body.decode()
        assert asked.body.count(b"\n") == 1
        assert len(asked.body) < 200
    assert script.idle()


def test_explain_shows_the_times_instead_of_playing(script):
    asked = script.get(
        "?wait=1.5&send=%C3%A9&wait=60&repeat=3:2&hold=g&wait=1&bytes=9&reset&explain"
    )
    assert asked.done
    assert asked.body.decode().splitlines() == [
        "     0.000  wait=1.5",
        "     1.500  send=\\xe9",
        "     1.500  wait=60",
        "   181.500  repeat=3:2",
        "   181.500  hold=g",
        "     0.000 after hold=g  wait=1",
        "     1.000 after hold=g  bytes=9",
        "     1.000 after hold=g  reset",
    ]
    assert script.idle()
    assert script.get("?explain&send=a").body == b"     0.000  send=a\n     0.000  end\n"


def test_a_failure_on_the_way_breaks_off(script, monkeypatch, logged):
    asked = script.get("?send=a&wait=1&bytes=1")
    monkeypatch.setitem(script.resource.render_GET.__globals__, "FILL", None)
    script.advance(1)
    script.advance(0)
    assert asked.failure is not None
    assert "TypeError" in logged()
    assert script.idle()


SECONDS = st.decimals(0, 900, places=3).map(lambda d: f"wait={d:f}")
STEP = st.one_of(
    SECONDS,
    st.sampled_from(["flush", "end", "close", "reset", "hang", "key=a", "hold=a", "status=204"]),
    st.sampled_from(["length=3", "header=X-A:1", "header=", "bytes=3", "send=abc", "send=", "raw=x"]),
    st.integers(199, 600).map("status={}".format),
    st.tuples(st.integers(0, 5), st.integers(0, 5)).map(lambda pair: "repeat={}:{}".format(*pair)),
    st.tuples(st.sampled_from(["send", "header", "wait", "bytes", "x"]), st.text(max_size=9)).map(
        lambda pair: f"{pair[0]}={quote(pair[1])}"
    ),
)  # fmt: skip


@given(score=st.lists(STEP, max_size=12).map("&".join))
@settings(max_examples=400, deadline=None)
def test_any_score_is_played_as_explained_or_refused_before_anything_is_sent(score):
    script = Script(RPY / SCRIPT)
    told = script.get(f"?{score}&explain")
    asked = script.get(f"?{score}", allow_redirects=False)
    if told.code == 400:
        assert (asked.code, asked.body) == (400, told.body)
        assert asked.body.startswith((b"step ", b"end: ", b"key=a: it is given more than once"))
        assert script.idle()
        return
    lines = told.body.decode().splitlines()
    last = lines[-1].split()[-1].partition("=")[0]
    while not (asked.done or asked.failure) and (calls := script.clock.getDelayedCalls()):
        if not script.post("?key=a").json()["opened"]:
            if last == "hang" and calls[0].getTime() - script.clock.seconds() == 3600:
                asked.leave()
                break
            script.advance(max(0, calls[0].getTime() - script.clock.seconds()))
        script.advance(0)
    assert script.idle()
    assert last in ("end", "close", "reset", "hang")
    if last == "end":
        assert asked.done
    elif last != "close":
        assert asked.failure
    if "hold" not in score:
        assert script.clock.seconds() == pytest.approx(float(lines[-1].split()[0]), abs=0.001)


def test_a_score_is_played_to_post_as_well(script):
    assert script.post("?status=201&send=made", data=b"x").body == b"made"
    assert script.post("?sned=a").code == 400


def test_a_score_s_own_server_timing_is_not_ours(script):
    asked = script.get("?header=Server-Timing:db;dur=5&wait=1&send=a")
    script.advance(1)
    assert asked.header("Server-Timing") == "db;dur=5"
