"""The ledger's own rules: what it keeps, what it counts, what it never holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tarry.ledger import (
    ENTRY_BYTES,
    FINISHED,
    LEFT,
    MAX_WRITES,
    PENDING,
    REFUSED,
    Entry,
    Filter,
    Ledger,
    without_credentials,
)


def entry(key="", path=b"/x", began=100.0):
    made = Entry(began, 1_700_000_000.0)
    made.key, made.path = key, path
    return made


def ended(ledger, outcome=FINISHED, **options):
    made = entry(**options)
    ledger.open(made)
    ledger.close(made, outcome, "", 101.0)
    return made


def test_an_entry_as_it_is_shown():
    ledger = Ledger()
    made = entry(key="a")
    made.method, made.protocol, made.query, made.peer = b"GET", b"HTTP/1.1", "q=1", "1.2.3.4:5"
    ledger.open(made)
    assert made.as_dict()["outcome"] == PENDING
    made.wrote(10, 100.5)
    made.wrote(20, 101.25)
    made.status = 200
    ledger.close(made, FINISHED, "", 101.5)
    assert made.as_dict() == {
        "id": 1, "key": "a", "method": "GET", "path": "/x", "query": "q=1", "protocol": "HTTP/1.1",
        "peer": "1.2.3.4:5", "arrived": 1_700_000_000.0, "first_byte": 500.0, "last_byte": 1250.0,
        "end": 1500.0, "received": 0, "in_body": False, "messages": None, "status": 200, "bytes": 30, "writes": [[500.0, 10], [1250.0, 20]],
        "writes_not_kept": 0, "outcome": "finished", "detail": "", "note": "", "not_reading": False,
    }  # fmt: skip


def test_writes_beyond_the_first_thousand_are_counted():
    made = entry()
    for n in range(MAX_WRITES + 7):
        made.wrote(1, 100.0 + n)
    shown = made.as_dict()
    assert (len(shown["writes"]), shown["writes_not_kept"]) == (MAX_WRITES, 7)
    assert shown["bytes"] == MAX_WRITES + 7
    assert shown["last_byte"] == (MAX_WRITES + 6) * 1000


def test_the_last_that_ended_are_kept_and_all_that_are_pending():
    ledger = Ledger(most=3)
    waiting = [entry() for _ in range(5)]
    for each in waiting:
        ledger.open(each)
    for _ in range(10):
        ended(ledger)
    assert [e.id for e in ledger.in_order()] == [1, 2, 3, 4, 5, 13, 14, 15]
    assert ledger.summary()["kept"] == 3
    assert ledger.summary()["pending"] == 5
    assert ledger.summary()["peak_pending"] == 6
    assert ledger.summary()["requests"] == 15


def test_it_is_bounded_in_bytes_too():
    ledger = Ledger(most=1000, most_bytes=10 * (ENTRY_BYTES + 1000))
    for _ in range(100):
        ended(ledger, path=b"/" * 1000)
    assert len(ledger.ended) == 10
    assert ledger.size <= ledger.most_bytes


def test_none_is_kept_if_none_is_asked_for():
    ledger = Ledger(most=0)
    ended(ledger)
    assert [*ledger.entries()] == []
    assert ledger.summary()["outcomes"]["finished"] == 1


def test_what_has_ended_does_not_end_again():
    ledger = Ledger()
    made = ended(ledger, LEFT)
    ledger.close(made, FINISHED, "late", 200.0)
    assert (made.outcome, made.detail, made.ended) == (LEFT, "", 101.0)
    assert ledger.summary()["outcomes"] == {
        "finished": 0,
        "left": 1,
        "aborted": 0,
        "failed": 0,
        "refused": 0,
    }


def test_forgetting_is_by_what_is_given_and_only_of_what_has_ended():
    ledger = Ledger()
    for key in "aab":
        ended(ledger, key=key)
    waiting = entry(key="a")
    ledger.open(waiting)
    assert ledger.forget(Filter(key="a")) == 2
    assert [e.key for e in ledger.in_order()] == ["b", "a"]
    assert ledger.size == ledger.ended[0].size
    assert ledger.forget(Filter(path=b"/other")) == 0
    assert ledger.forget(Filter()) == 1
    assert [*ledger.entries()] == [waiting]
    assert ledger.size == 0


def test_watchers_are_called_for_each_change_until_they_stop():
    ledger, seen = Ledger(), []
    stop = ledger.watch("any", 1, lambda e, as_json: seen.append((e.id, e.outcome)))
    ended(ledger)
    stop()
    stop()
    ended(ledger)
    assert seen == [(1, PENDING), (1, FINISHED)]


def test_watchers_of_a_kind_are_bounded():
    ledger = Ledger()
    first = ledger.watch("a", 1, lambda e, as_json: None)
    assert ledger.watch("a", 1, lambda e, as_json: None) is None
    assert ledger.watch("b", 1, lambda e, as_json: None)
    first()
    assert ledger.watch("a", 1, lambda e, as_json: None)


def test_a_watcher_that_fails_is_logged_and_the_others_are_called(logged):
    ledger, seen = Ledger(), []
    ledger.watch("a", 2, lambda e, as_json: 1 / 0)
    ledger.watch("a", 2, lambda e, as_json: seen.append(e.outcome))
    assert ended(ledger).outcome == FINISHED
    assert seen == [PENDING, FINISHED]
    assert "ZeroDivisionError" in logged()


def test_what_is_read_in_order_may_be_forgotten_meanwhile():
    ledger = Ledger(most=3)
    for key in "aba":
        ended(ledger, key=key)
    reading = ledger.in_order()
    assert next(reading).id == 1
    ledger.forget(Filter(key="b"))
    ended(ledger)
    assert [e.id for e in reading] == [3]
    assert [e.id for e in ledger.in_order()] == [1, 3, 4]
    ended(ledger)
    assert [e.id for e in ledger.in_order()] == [3, 4, 5]


@pytest.mark.parametrize(("about", "ids"), [
    ({}, [1, 2, 3]), ({"key": "a"}, [1, 2]), ({"path": b"/y"}, [2]), ({"outcome": LEFT}, [3]),
    ({"since": 1}, [2, 3]), ({"other_than": b"/y"}, [1, 3]), ({"key": "a", "outcome": LEFT}, []),
])  # fmt: skip
def test_filters(about, ids):
    ledger = Ledger()
    ended(ledger, key="a")
    ended(ledger, key="a", path=b"/y")
    ended(ledger, LEFT)
    assert [e.id for e in ledger.in_order(Filter(**about))] == ids


def test_what_has_no_path_is_not_left_out():
    """Such as a request that was refused before its first line was complete."""
    ledger = Ledger()
    ended(ledger, REFUSED, path=b"")
    assert [e.id for e in ledger.in_order()] == [1]


@pytest.mark.parametrize(("query", "kept"), [
    (b"delay=1&key=a", "delay=1&key=a"),
    (b"token=abc", "token=-"),
    (b"a=1&access_token=abc&b=2", "a=1&access_token=-&b=2"),
    (b"password=x&PASSWD=y;apikey=z", "password=-&PASSWD=-;apikey=-"),
    (b"X-Amz-Signature=ff&x=1", "X-Amz-Signature=-&x=1"),
    (b"client_secret=a%20b", "client_secret=-"),
    (b"%74oken=abc&a=token", "%74oken=-&a=token"),
    (b"\xff\x00", "\ufffd\x00"),
])  # fmt: skip
def test_values_named_like_credentials_are_left_out(query, kept):
    assert without_credentials(query) == kept


@given(st.binary(max_size=200), st.sampled_from([b"token", b"password", b"api_key", b"My-Secret"]))
def test_no_query_lets_a_credential_through(rest, name):
    shown = without_credentials(rest + b"&" + name + b"=hunter2hunter2&z=1")
    assert "hunter2" not in shown.replace(rest.decode("ascii", "replace"), "")
