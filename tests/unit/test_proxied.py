"""proxied.rpy with an agent that responds when the test says so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost, ConnectionRefusedError
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed, ResponseNeverReceived
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from .conftest import RPY, Script

SCRIPT = "proxied.rpy"


class Agent:
    """Takes one request. It is also the response, and the transport of its body."""

    def __init__(self):
        self.asked, self.cancelled, self.done = None, 0, []

    def request(self, method, url, headers):
        self.asked = (method, url, dict(headers.getAllRawHeaders()))

        def cancel(response):  # Twisted's fails like this, not with CancelledError
            self.cancelled += 1
            response.errback(ResponseNeverReceived([]))

        self.response = Deferred(cancel)
        return self.response

    def answer(self, code=200, **headers):
        self.code, self.phrase = code, b"Teapot"
        names = {name.replace("_", "-"): [value] for name, value in headers.items()}
        self.headers = Headers(names)
        self.response.callback(self)

    def deliverBody(self, body):
        self.body = body
        body.makeConnection(self)

    def __getattr__(self, name):
        return lambda: self.done.append(name)

    def end(self, reason):
        self.body.connectionLost(Failure(reason))


@pytest.fixture
def agent(script):
    script.resource.agent = Agent()
    return script.resource.agent


def test_status_type_and_body_are_passed_on_as_they_come(script, agent):
    asked = script.get("?path=/a/b.rpy?x=1%26y=2", headers={"Cookie": "secret"})
    method, url, headers = agent.asked
    assert (method, url) == (b"GET", b"http://127.0.0.1:80/a/b.rpy?x=1&y=2")
    assert headers == {b"Via": [b"1.1 proxied.rpy"]}
    script.advance(3)
    agent.answer(418, Content_Type="text/x-tea", Set_Cookie="a=b", Location="/")
    script.treq.flush()
    assert (asked.code, asked.response.phrase, asked.done) == (418, b"Teapot", False)
    assert asked.header("Content-Type") == "text/x-tea"
    assert asked.header("Set-Cookie") is asked.header("Location") is None
    assert asked.header("Server-Timing") == "headers;dur=3000.000"
    for n in (1, 2):
        agent.body.dataReceived(b"tea")
        script.treq.flush()
        assert asked.body == b"tea" * n
    agent.end(ResponseDone())
    script.treq.flush()
    assert (asked.done, asked.failure) == (True, None)
    assert script.idle()


@pytest.mark.parametrize("error", [ConnectionRefusedError(), ResponseFailed([])])
def test_no_response_is_a_502(script, agent, logged, error):
    asked = script.get()
    agent.response.errback(error)
    script.treq.flush()
    assert (asked.code, asked.body.count(b"\n")) == (502, 1)
    assert "streamed.rpy" in logged()
    assert script.idle()


def test_no_headers_in_time_is_a_504(script, agent):
    asked = script.get("?timeout=4")
    script.advance(3)
    assert asked.response is None
    script.advance(1)
    assert (asked.code, agent.cancelled) == (504, 1)
    assert script.idle()


def test_a_response_that_breaks_off_breaks_this_one_off(script, agent, logged):
    asked = script.get()
    agent.answer()
    agent.body.dataReceived(b"a part")
    script.treq.flush()
    agent.end(ResponseFailed([Failure(ConnectionLost())]))
    script.treq.flush()
    assert asked.body == b"a part"
    assert asked.failure
    assert not asked.done
    assert "ConnectionLost" in logged()
    assert "the client disconnected" not in logged()
    assert agent.done[-1] == "loseConnection"
    assert script.idle()


def test_a_response_without_a_length_ends_with_its_connection(script, agent):
    asked = script.get()
    agent.answer()
    agent.end(PotentialDataLoss())
    script.treq.flush()
    assert (asked.done, asked.failure) == (True, None)
    assert asked.header("Content-Type") == "application/octet-stream"


def test_a_disconnect_closes_the_other_connection(script, agent, logged):
    script.get().leave()
    assert agent.cancelled == 1  # before the headers
    assert script.idle()
    asked = script.get()
    agent.answer()
    script.treq.flush()
    asked.leave()
    assert (agent.done[-1], agent.cancelled) == ("loseConnection", 1)  # after them
    agent.end(ResponseFailed([]))  # the agent's reaction
    assert logged().count("the client disconnected") == 2
    assert "Unhandled" not in logged()
    assert "failed" not in logged()


def test_a_client_that_stops_reading_pauses_the_other_connection(script, agent):
    _, transport = script.connect(b"")
    agent.answer()
    transport.producer.pauseProducing()
    assert agent.done == ["pauseProducing"]
    transport.producer.resumeProducing()
    assert agent.done[-1] == "resumeProducing"


def test_head_is_passed_on_as_head(script, agent):
    asked = script.get(method="HEAD")
    assert agent.asked[0] == b"HEAD"
    agent.answer(Content_Type="text/x-tea")
    agent.end(ResponseDone())
    script.treq.flush()
    assert (asked.code, asked.header("Content-Type"), asked.body) == (200, "text/x-tea", b"")


def test_its_own_request_is_refused(script, agent):
    assert script.get(headers={"Via": "1.1 proxied.rpy"}).code == 508
    assert agent.asked is None


def test_a_path_below_it_is_a_404(script, agent):
    asked = []
    script.treq.get("http://127.0.0.1/script.rpy/a.bat?path=/a.rpy").addCallback(asked.append)
    script.treq.flush()
    assert (asked[0].code, agent.asked) == (404, None)


def test_over_tls_it_is_a_501(script, agent):
    url = "https://127.0.0.1/script.rpy"
    answers = []
    script.treq.get(url).addCallback(answers.append)
    script.treq.flush()
    assert answers[0].code == 501


@pytest.mark.parametrize("path", [
    "", "streamed.rpy", "//example.com/a.rpy", "http://example.com/a.rpy", "/\\example.com/a.rpy",
    "/a.rpy/../b", "/../a.rpy", "/./a.rpy", "/a%2e.rpy", "/admin", "/a.rpy#b", "/a.rpy?b\r\nX: y",
    "/a.rpy?b c", "/a.rpy?\xe9", "/@example.com:1/a.rpy", "/a.rpyx", "/.rpy", "/a.rpy?\x7f",
])  # fmt: skip
def test_only_scripts_of_this_server_are_requested(script, agent, path):
    asked = script.get("?path=" + "".join(f"%{byte:02x}" for byte in path.encode()))
    assert (asked.code, agent.asked) == (400, None)
    assert b"path" in asked.body


@given(path=st.text(st.sampled_from("/a.rpy?&=%@:#\\[] \r\n\0\u00e9"), max_size=20))
def test_whatever_the_path_only_this_server_is_requested(path):
    script = Script(RPY / SCRIPT)
    script.resource.agent = agent = Agent()
    asked = script.get("?path=" + "".join(f"%{byte:02x}" for byte in path.encode()))
    if asked.response is None:
        assert agent.asked[1] == b"http://127.0.0.1:80" + path.encode()
        assert path.partition("?")[0].endswith(".rpy")
        assert not set(path) & set("# \r\n\0\u00e9")
    else:
        assert asked.code == 400
