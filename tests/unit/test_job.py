"""job.rpy in virtual time."""

import re
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import fail

from .conftest import RPY, Script

SCRIPT = "job.rpy"


def of(asked):
    told = asked.json()
    return told["state"], told["progress"], told["left"], asked.header("Retry-After")


def test_a_job_from_its_beginning_to_its_end(script):
    posted = script.post("?key=a&duration=10&keep=5")
    assert (posted.code, posted.header("Location")) == (202, "/script.rpy?key=a")
    assert of(posted) == ("running", 0, 10, "10")
    script.advance(2.5)
    asked = script.get("?key=a")
    assert asked.code == 200
    assert asked.json() == {
        "key": "a",
        "state": "running",
        "progress": 0.25,
        "left": 7.5,
        "result": None,
    }
    assert asked.header("Retry-After") == "8"
    script.advance(7.4)
    assert of(script.get("?key=a")) == ("running", 0.99, 0.1, "1")
    script.advance(0.1)
    assert of(script.get("?key=a")) == ("done", 1, 0, None)
    assert script.get("?key=a").json()["result"] == "10 seconds of work"
    assert script.idle()
    script.advance(4.9)
    assert script.get("?key=a", "HEAD").code == 200
    script.advance(0.1)
    gone = script.get("?key=a")
    assert (gone.code, gone.body) == (410, b"'a' ended 5 or more seconds ago\n")
    assert script.get("?key=b").code == 404


def test_a_job_goes_on_when_the_client_leaves(script):
    script.post("?key=a").leave()
    script.advance(10)
    assert of(script.get("?key=a")) == ("done", 1, 0, None)


def test_a_job_can_be_cancelled_while_it_is_running(script):
    script.post("?key=a&duration=10")
    script.advance(4)
    for _ in range(2):  # a client that got no answer asks again
        cancelled = script.get("?key=a", "DELETE")
        assert (cancelled.code, of(cancelled)) == (200, ("cancelled", 0.4, 6, None))
        script.advance(1)
    assert script.idle()
    assert script.get("?key=a").json()["state"] == "cancelled"
    script.advance(58)
    assert script.get("?key=a", "DELETE").code == 410
    assert script.get("?key=b", "DELETE").code == script.get("", "DELETE").code == 404


def test_what_is_done_cannot_be_cancelled(script):
    script.post("?key=a&duration=0")
    script.advance(0)
    assert script.get("?key=a", "DELETE").code == 409
    assert of(script.get("?key=a")) == ("done", 1, 0, None)


def test_what_is_done_is_done_also_by_a_clock_that_is_late(script):
    script.resource.now = lambda: script.clock.seconds() * 0.99
    script.post("?key=a&duration=1")
    script.advance(1)
    assert of(script.get("?key=a")) == ("done", 1, 0, None)


def test_work_that_fails_is_told_and_logged(script, logged):
    script.resource.work = lambda job: fail(RuntimeError("as it happens"))
    script.post("?key=a")
    assert script.get("?key=a").json()["state"] == "failed"
    assert "as it happens" in logged()
    assert script.get("?key=a", "DELETE").code == 409
    assert script.get().json() == {"running": 0, "ended": 1}


def test_a_name_is_made_up_or_taken_once(script):
    names = {script.post().json()["key"] for _ in range(9)}
    assert len(names) == 9
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in names)
    assert script.post("?key=a&duration=1").code == 202
    taken = script.post("?key=a")
    assert (taken.code, taken.header("Location")) == (409, None)
    script.advance(1)
    assert of(script.post("?key=a&duration=2")) == ("running", 0, 2, "2")
    assert script.get().json() == {"running": 10, "ended": 0}


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30))
@settings(deadline=None)
def test_whatever_its_name_is_its_location_leads_to_it(name):
    script = Script(RPY / SCRIPT)
    location = script.post(f"?key={quote(name)}&duration=0").header("Location")
    assert re.fullmatch(r"/script\.rpy\?key=[A-Za-z0-9_.~%-]+", location)
    assert script.get(location.removeprefix("/script.rpy")).json()["key"] == name


@pytest.mark.parametrize(
    ("path", "location"),
    [
        (b"/a%20b/%C3%BC.rpy", b"/a%20b/%C3%BC.rpy?key=k"),
        (b"//elsewhere.example/x.rpy", b"/elsewhere.example/x.rpy?key=k"),
        (b"http://elsewhere.example/x.rpy", b"/http://elsewhere.example/x.rpy?key=k"),
    ],
)
def test_the_location_is_the_path_that_was_asked_for_and_never_another_host(script, path, location):
    server, transport = script.connect(b"")
    transport.clear()
    server.dataReceived(
        b"POST %s?key=k HTTP/1.1\r\nHost: elsewhere.example\r\nContent-Length: 0\r\n"
        b"X-Forwarded-Host: elsewhere.example\r\nX-Forwarded-Prefix: /x\r\n\r\n" % path
    )
    script.advance(0)
    assert b"\r\nLocation: %s\r\n" % location in transport.value()


def test_jobs_are_bounded(script, monkeypatch):
    for name in ("RUNNING", "ENDED"):
        monkeypatch.setitem(type(script.resource).render_GET.__globals__, name, 3)
    for key, duration in [("a", 20), ("b", 9.5), ("c", 0)]:
        script.post(f"?key={key}&duration={duration}")
    full = script.post("?key=d")
    assert (full.code, full.header("Retry-After")) == (503, "1")
    script.advance(0.2)
    script.post("?key=d&duration=15")
    assert script.post("?key=e").header("Retry-After") == "10"
    script.advance(20)
    for key in "ef":
        script.post(f"?key={key}&duration=0")
    script.advance(0)
    codes = {key: script.get(f"?key={key}").code for key in "abcdef"}
    assert codes == {"a": 200, "b": 404, "c": 404, "d": 404, "e": 200, "f": 200}
    assert script.get().json() == {"running": 0, "ended": 3}
