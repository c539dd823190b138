"""gated.rpy in virtual time."""

SCRIPT = "gated.rpy"


def test_a_request_is_held_until_the_gate_is_opened(script):
    asked = script.get("?key=a")
    script.advance(7)
    assert asked.response is None
    assert script.post("?key=a").json() == {"key": "a", "opened": 1, "waiting": 0}
    script.treq.flush()
    assert asked.json() == {"key": "a", "place": 1}
    assert asked.header("Server-Timing") == "wait;dur=7000.000"
    assert script.idle()


def test_the_oldest_go_first_and_the_gate_closes_behind_them(script):
    held = [script.get("?key=a") for _ in range(5)]
    assert script.post("?key=a&next=2").json()["waiting"] == 3
    script.treq.flush()
    assert [asked.done for asked in held] == [True, True, False, False, False]
    assert [asked.json()["place"] for asked in held[:2]] == [1, 2]
    assert script.post("?key=a").json()["opened"] == 3
    assert script.post("?key=a").json() == {"key": "a", "opened": 0, "waiting": 0}
    assert script.get("?key=a").response is None


def test_gates_are_independent(script):
    one, two = script.get("?key=a"), script.get("?key=b")
    script.post("?key=b")
    script.treq.flush()
    assert (one.done, two.done) == (False, True)
    assert script.get("?key=a&show").json() == {"key": "a", "waiting": 1}
    assert script.get("?key=c&show=1").json() == {"key": "c", "waiting": 0}


def test_until_answers_when_enough_are_held(script):
    watching = script.get("?key=a&until=2")
    script.get("?key=a")
    assert watching.response is None
    script.get("?key=a")
    script.treq.flush()
    assert watching.json() == {"key": "a", "waiting": 2}
    assert script.get("?key=a&until=2").json() == {"key": "a", "waiting": 2}
    assert script.get("?key=a&until=3").response is None


def test_the_timeout_answers_408(script):
    held, watching = script.get("?key=a&timeout=5"), script.get("?key=a&until=2&timeout=6")
    script.advance(5)
    assert (held.code, held.json()) == (408, {"key": "a", "waiting": 0})
    script.advance(1)
    assert (watching.code, watching.json()) == (408, {"key": "a", "waiting": 0})
    assert script.post("?key=a").json()["opened"] == 0
    assert script.idle()


def test_a_client_that_disconnects_is_not_counted(script, logged):
    script.get("?key=a").leave()
    script.get("?key=a&until=3").leave()
    assert script.idle()
    assert logged().count("the client disconnected") == 2
    assert script.get("?key=a&show").json()["waiting"] == 0
    assert not script.resource.gates.states["a"][0].busy()


def test_gates_are_bounded_and_those_in_use_stay(script):
    script.resource.gates.limit = 3
    held = script.get("?key=held")
    for key in "abcdef":
        script.get(f"?key={key}&show")
    assert set(script.resource.gates.states) == {"held", "e", "f"}
    script.get("?key=two")
    script.get("?key=three")
    full = script.get("?key=four")
    assert (full.code, full.header("Retry-After")) == (503, "1")
    assert script.post("?key=four").json() == {"key": "four", "opened": 0, "waiting": 0}
    assert script.post("?key=held").json()["opened"] == 1
    script.treq.flush()
    assert held.done
    assert script.get("?key=four").response is None


def test_a_gate_without_use_is_dropped(script):
    script.get("?key=a&show")
    script.advance(1)
    script.get("?key=b&timeout=3600")
    script.advance(3599)
    script.get("?key=c&show")
    assert set(script.resource.gates.states) == {"b", "c"}  # a request waits at b
    script.advance(1)
    script.get("?key=c&show")
    assert set(script.resource.gates.states) == {"c"}


def test_the_requests_held_at_one_gate_are_bounded(script, monkeypatch):
    monkeypatch.setitem(type(script.resource).render_GET.__globals__, "MAX_HELD", 2)
    for _ in range(2):
        assert script.get("?key=a").response is None
    assert script.get("?key=a").code == 503
    assert script.get("?key=b").response is None


def test_the_requests_that_watch_one_gate_are_bounded(script, monkeypatch):
    monkeypatch.setitem(type(script.resource).render_GET.__globals__, "MAX_WATCHING", 2)
    for _ in range(2):
        assert script.get("?key=a&until=1").response is None
    assert script.get("?key=a&until=1").code == 503
    assert script.get("?key=a").response is None


def test_a_crowd_is_let_through_in_pieces(script):
    """So that other requests are answered in between."""
    held = [script.get("?key=a") for _ in range(250)]
    assert script.post("?key=a").json() == {"key": "a", "opened": 250, "waiting": 0}
    script.treq.flush()
    assert sum(asked.done for asked in held) == 100
    script.advance(0)
    assert [asked.json()["place"] for asked in held] == [*range(1, 251)]
    assert script.idle()


def test_a_crowd_may_disconnect_while_it_is_let_through(script, logged):
    held = [script.get("?key=a") for _ in range(250)]
    script.post("?key=a")
    held[0].leave()
    script.advance(0)
    assert sum(asked.done for asked in held) == 100
    assert script.idle()
    assert "Error" not in logged().replace("CancelledError", "")


def test_below_itself_it_has_no_page(script):
    asked = script.get("/setup.bat?key=a&show")
    assert (asked.code, asked.body) == (404, b"no such page: request gated.rpy itself\n")


def test_a_full_gate_still_answers_show_and_until(script, monkeypatch):
    monkeypatch.setitem(type(script.resource).render_GET.__globals__, "MAX_HELD", 2)
    for _ in range(2):
        script.get("?key=a")
    assert script.get("?key=a&until=2").json() == {"key": "a", "waiting": 2}
    assert script.get("?key=a&show").json() == {"key": "a", "waiting": 2}


def test_a_request_that_is_let_through_may_be_repeated_at_once(script, logged):
    """The next request on the same connection is there already when the first answer ends."""
    server, transport = script.connect(b"key=a")
    again = b"GET /?key=a&timeout=5 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    server.dataReceived(again)
    script.get("?key=a&until=2&timeout=5")
    other = script.get("?key=a")
    assert script.post("?key=a").json()["opened"] == 2
    assert transport.value().count(b'"place": 1') == 1
    script.treq.flush()
    assert other.json()["place"] == 2
    assert "KeyError" not in logged()
    assert script.get("?key=a&show").json()["waiting"] == 1
