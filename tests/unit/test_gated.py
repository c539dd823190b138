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


def test_those_that_came_first_go_first_and_the_gate_shuts_behind_them(script):
    held = [script.get("?key=a") for _ in range(5)]
    assert script.post("?key=a&next=2").json()["waiting"] == 3
    script.treq.flush()
    assert [asked.done for asked in held] == [True, True, False, False, False]
    assert [asked.json()["place"] for asked in held[:2]] == [1, 2]
    assert script.post("?key=a").json()["opened"] == 3
    assert script.post("?key=a").json() == {"key": "a", "opened": 0, "waiting": 0}
    assert script.get("?key=a").response is None


def test_gates_do_not_know_of_each_other(script):
    one, two = script.get("?key=a"), script.get("?key=b")
    script.post("?key=b")
    script.treq.flush()
    assert (one.done, two.done) == (False, True)
    assert script.get("?key=a&count").json() == {"key": "a", "waiting": 1}
    assert script.get("?key=c&count=1").json() == {"key": "c", "waiting": 0}


def test_it_tells_when_enough_wait(script):
    watching = script.get("?key=a&await=2")
    script.get("?key=a")
    assert watching.response is None
    script.get("?key=a")
    script.treq.flush()
    assert watching.json() == {"key": "a", "waiting": 2}
    assert script.get("?key=a&await=2").json() == {"key": "a", "waiting": 2}
    assert script.get("?key=a&await=3").response is None


def test_it_waits_no_longer_than_it_is_told(script):
    held, watching = script.get("?key=a&timeout=5"), script.get("?key=a&await=2&timeout=6")
    script.advance(5)
    assert (held.code, held.json()) == (408, {"key": "a", "waiting": 0})
    script.advance(1)
    assert (watching.code, watching.json()) == (408, {"key": "a", "waiting": 0})
    assert script.post("?key=a").json()["opened"] == 0
    assert script.idle()


def test_a_client_that_leaves_does_not_count(script, logged):
    script.get("?key=a").leave()
    script.get("?key=a&await=3").leave()
    assert script.idle()
    assert logged().count("the client left") == 2
    assert script.get("?key=a&count").json()["waiting"] == 0
    assert not script.resource.gates.states["a"][0].busy()


def test_gates_are_bounded_and_those_in_use_stay(script):
    script.resource.gates.most = 3
    held = script.get("?key=held")
    for key in "abcdef":
        script.get(f"?key={key}&count")
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


def test_a_gate_that_nobody_uses_is_forgotten(script):
    script.get("?key=a&count")
    script.advance(1)
    script.get("?key=b&timeout=3600")
    script.advance(3599)
    script.get("?key=c&count")
    assert set(script.resource.gates.states) == {"b", "c"}  # at b somebody waits
    script.advance(1)
    script.get("?key=c&count")
    assert set(script.resource.gates.states) == {"c"}


def test_no_more_wait_at_one_gate_than_may(script, monkeypatch):
    monkeypatch.setitem(type(script.resource).render_GET.__globals__, "MOST", 2)
    for _ in range(2):
        assert script.get("?key=a").response is None
    assert script.get("?key=a").code == 503
    assert script.get("?key=b").response is None


def test_a_full_gate_still_tells_how_many_wait(script, monkeypatch):
    monkeypatch.setitem(type(script.resource).render_GET.__globals__, "MOST", 2)
    for _ in range(2):
        script.get("?key=a")
    assert script.get("?key=a&await=2").json() == {"key": "a", "waiting": 2}
    assert script.get("?key=a&count").json() == {"key": "a", "waiting": 2}


def test_one_that_is_let_go_may_ask_again_at_once(script, logged):
    """Its next request is there already, on the same connection, when its answer ends."""
    server, transport = script.connect(b"key=a")
    again = b"GET /?key=a&timeout=5 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    server.dataReceived(again)
    script.get("?key=a&await=2&timeout=5")
    other = script.get("?key=a")
    assert script.post("?key=a").json()["opened"] == 2
    assert transport.value().count(b'"place": 1') == 1
    script.treq.flush()
    assert other.json()["place"] == 2
    assert "KeyError" not in logged()
    assert script.get("?key=a&count").json()["waiting"] == 1
