"""ledger.rpy in virtual time; over real connections it is in tests/live/test_ledger_live.py."""

import json
import re

import pytest

from tarry.ledger import FINISHED, LEFT, Entry

SCRIPT = "ledger.rpy"


@pytest.fixture
def ledger(script):
    return script.treq._agent._serverFactory.ledger


def enter(ledger, key="", path=b"/x", outcome=FINISHED):
    entry = Entry(0.0, 0.0)
    entry.key, entry.path = key, path
    ledger.open(entry)
    if outcome:
        ledger.close(entry, outcome, "", 1.0)
    return entry


def test_until_answers_at_once_if_there_is_an_entry(script, ledger):
    enter(ledger, "a", outcome=LEFT)
    asked = script.get("?until=left&key=a")
    assert (asked.code, asked.json()["outcome"]) == (200, "left")
    assert script.idle()


def test_until_answers_with_the_first_entry_that_comes(script, ledger):
    asked = script.get("?until=left&key=a&timeout=5")
    script.advance(4)
    enter(ledger, "b", outcome=LEFT)
    enter(ledger, "a", outcome=FINISHED)
    script.treq.flush()
    assert asked.response is None
    enter(ledger, "a", outcome=LEFT)
    enter(ledger, "a", outcome=LEFT)
    script.treq.flush()
    assert asked.json()["id"] == 3
    assert script.idle()
    assert ledger.watchers == {}


def test_since_leaves_out_earlier_entries(script, ledger):
    enter(ledger, outcome=LEFT)
    asked = script.get("?until=left&since=1&timeout=3600")
    assert asked.response is None
    enter(ledger, outcome=LEFT)
    script.treq.flush()
    assert asked.json()["id"] == 2


def test_until_times_out(script, ledger):
    asked = script.get("?until=aborted&key=a&timeout=2.5")
    script.advance(2.25)
    assert asked.response is None
    script.advance(0.25)
    assert asked.code == 408
    assert asked.json() == {
        "error": "no such entry came", "until": "aborted", "key": "a", "timeout": "2.5",
    }  # fmt: skip
    assert script.idle()
    assert ledger.watchers == {}


@pytest.mark.parametrize("query", ["?until=left", ""])
def test_a_client_that_disconnects_is_forgotten(script, ledger, query):
    asked = script.get(query) if query else follow(script)
    assert len(ledger.watchers) == 1
    asked.leave()
    assert ledger.watchers == {}
    assert script.idle()


def follow(script):
    script.treq.headers = {"Accept": "text/event-stream"}
    request = script.treq.request
    script.treq.request = lambda *a, **k: request(*a, headers=script.treq.headers, **k)
    return script.get()


def test_a_stream_has_a_heartbeat(script, ledger):
    asked = follow(script)
    script.advance(15, 15)
    assert asked.body.count(b": still here\n\n") == 2
    enter(ledger, "a")
    script.treq.flush()
    assert [line for line in asked.body.splitlines() if line.startswith(b"event:")] == [
        b"event: pending",
        b"event: finished",
    ]


def test_a_stream_that_is_not_read_counts_the_events_it_leaves_out(script, ledger):
    _, transport = script.connect(b"", b"Accept: text/event-stream\r\n")
    transport.producer.pauseProducing()  # as when the buffer is full
    for _ in range(3):
        enter(ledger)
    transport.producer.resumeProducing()
    enter(ledger)
    events = re.findall(rb"^event: (.*)$", transport.value(), re.MULTILINE)
    assert events == [b"missed", b"pending", b"finished"]
    assert b"event: missed\ndata: 6\n\n" in transport.value()


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_path_begins_with_a_slash(script, method):
    refused = script.get("?path=delayed.rpy", method)
    assert refused.code == 400
    assert refused.body == b"invalid path 'delayed.rpy': give one like /delayed.rpy\n"


# Large ledgers and many readers


def test_the_list_is_in_the_order_of_arrival(script, ledger):
    first = enter(ledger, outcome=None)
    for key in "abc":
        enter(ledger, key)
    ledger.close(first, LEFT, "", 2.0)
    asked = script.get()
    script.advance(0)
    assert [(entry["id"], entry["key"]) for entry in asked.json()] == [
        (1, ""),
        (2, "a"),
        (3, "b"),
        (4, "c"),
    ]
    assert asked.body == json.dumps(asked.json()).encode() + b"\n"
    assert script.get("?key=none").json() == []


def busy(ledger, count, writes=1000):
    """Enter *count* requests whose responses had many writes."""
    for _ in range(count):
        entry = enter(ledger, outcome=None)
        for n in range(writes):
            entry.wrote(10_000_000, n + 0.125)
        ledger.close(entry, FINISHED, "", 1.0)


@pytest.fixture
def rendered(monkeypatch):
    """The ids of the entries of which JSON was made."""
    ids, as_json = [], Entry.as_json
    monkeypatch.setattr(Entry, "as_json", lambda self: ids.append(self.id) or as_json(self))
    return ids


def test_a_large_list_is_sent_in_pieces_as_the_client_reads(script, ledger, rendered):
    busy(ledger, 20)
    turns, later = [], script.clock.callLater
    script.clock.callLater = lambda delay, *call: turns.append(delay) or later(delay, *call)
    _, transport = script.connect(b"")
    assert rendered == [1]  # a turn of the reactor makes no more than a piece
    transport.producer.pauseProducing()
    script.advance(0)
    assert rendered == [1]
    transport.producer.resumeProducing()
    assert rendered == [1, 2]
    script.advance(0)
    assert rendered == [*range(1, 21)]
    assert len(turns) >= 20
    assert transport.value().endswith(b"]\n\r\n0\r\n\r\n")


def test_an_unread_list_keeps_no_entry_from_being_forgotten(script, ledger):
    busy(ledger, 5)
    _, transport = script.connect(b"")
    transport.producer.pauseProducing()
    script.advance(0)
    script.get("", "DELETE")
    busy(ledger, 1)
    transport.producer.resumeProducing()
    script.advance(0)
    body = transport.value().partition(b"\r\n\r\n")[2]
    assert re.findall(rb'"id": (\d+)', body) == [b"1"]
    assert body.endswith(b"]\n\r\n0\r\n\r\n")


def test_until_makes_the_json_of_one_entry_only(script, ledger, rendered):
    busy(ledger, 20)
    assert script.get("?until=finished").json()["id"] == 1
    assert rendered == [1]


def test_an_entry_is_rendered_once_for_all_followers(script, ledger, rendered):
    followers = [script.connect(b"", b"Accept: text/event-stream\r\n")[1] for _ in range(20)]
    enter(ledger)
    assert rendered == [1, 1]  # when it began, and when it ended
    events = [re.findall(rb"^event: (.*)$", each.value(), re.MULTILINE) for each in followers]
    assert events == [[b"pending", b"finished"]] * 20


def test_followers_and_waiting_requests_are_bounded(script, ledger):
    for _ in range(100):
        script.connect(b"", b"Accept: text/event-stream\r\n")
    _, refused = script.connect(b"", b"Accept: text/event-stream\r\n")
    assert refused.value().startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 1\r\n" in refused.value()
    for _ in range(1000):
        script.connect(b"until=left")
    _, refused = script.connect(b"until=left")
    assert refused.value().startswith(b"HTTP/1.1 503 ")
    assert len(ledger.watchers) == 1100


@pytest.mark.parametrize("query", ["", "?until=finished&since=1"])
def test_a_failure_of_a_reader_is_not_one_of_the_request_it_is_about(
    script, ledger, monkeypatch, query
):
    enter(ledger)
    follow(script) if not query else script.get(query)
    monkeypatch.setattr(Entry, "as_dict", lambda self: 1 / 0)
    assert enter(ledger).outcome == FINISHED


def test_the_outcomes_are_those_of_the_ledger(script, ledger):
    manual = script.resource.render_GET.__globals__["__doc__"]
    for outcome in ledger.OUTCOMES:
        assert script.get(f"?outcome={outcome}").code == 200
        assert outcome in manual
    refused = script.get("?outcome=pending", "DELETE")
    assert refused.code == 400
    assert b"finished or left or aborted or failed" in refused.body


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_below_itself_it_has_no_page(script, ledger, method):
    """Entries have text that clients sent: a browser would save it as the client's a.bat."""
    enter(ledger, "echo")
    asked = script.get("/a.bat?key=echo", method)
    assert (asked.code, asked.body) == (404, b"no such page: request ledger.rpy itself\n")
