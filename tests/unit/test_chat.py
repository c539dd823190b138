"""chat.rpy in virtual time."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import RPY, Script

SCRIPT = "chat.rpy"
MESSAGES = [{"role": "user", "content": "How late is it?"}]


def ask(script, query="", path="/v1/chat/completions", **body):
    body = {"model": "any", "messages": MESSAGES, **body}
    return script.post(path + query, data=json.dumps(body).encode())


def events(asked):
    """Return the content of each event of a stream; each is one line of data."""
    assert asked.body.endswith(b"\n\n")
    data = [event.removeprefix("data: ") for event in asked.body.decode().split("\n\n")[:-1]]
    return [event if event == "[DONE]" else json.loads(event) for event in data]


def tokens(asked):
    return [
        event["choices"][0]["delta"]["content"]
        for event in events(asked)
        if event != "[DONE]" and event.get("choices") and event["choices"][0]["delta"]
    ]


@pytest.fixture
def requests(script):
    """The POST requests, as the script sees them."""
    requests, post = [], script.resource.render_POST
    script.resource.render_POST = lambda request: requests.append(request) or post(request)
    return requests


def test_each_token_at_its_time(script):
    asked = ask(script, "?delay=1&interval=0.25&count=3&seed=1", stream=True)
    script.advance(0.9999)
    assert asked.response is None
    seen = []
    for step in (0.0001, 0.2499, 0.0001, 0.25):
        script.advance(step)
        seen.append(len(tokens(asked)))
    assert seen == [1, 1, 2, 3]
    assert asked.done
    assert script.idle()
    assert asked.header("Content-Type") == "text/event-stream"
    assert asked.header("Server-Timing") == "wait;dur=1000.000"
    *chunks, done = events(asked)
    assert done == "[DONE]"
    assert [chunk["choices"][0] for chunk in chunks] == [
        {"index": 0, "delta": {"role": "assistant", "content": "waits"}, "finish_reason": None},
        {"index": 0, "delta": {"content": " waits"}, "finish_reason": None},
        {"index": 0, "delta": {"content": " a"}, "finish_reason": None},
        {"index": 0, "delta": {}, "finish_reason": "stop"},
    ]
    heads = [{**chunk, "choices": None, "created": 0} for chunk in chunks]
    assert heads == [heads[0]] * 4
    assert heads[0]["id"] == "chatcmpl-0000000000000001"
    assert heads[0]["object"] == "chat.completion.chunk"


def test_without_stream_the_answer_comes_with_the_last_token(script):
    asked = ask(script, "?delay=1&interval=0.25&count=3&seed=1")
    script.advance(1.4999)
    assert asked.response is None
    script.advance(0.0001)
    answer = asked.json()
    message = {"role": "assistant", "content": "waits waits a"}
    assert answer["choices"] == [{"index": 0, "message": message, "finish_reason": "stop"}]
    assert answer["usage"] == {"prompt_tokens": 19, "completion_tokens": 3, "total_tokens": 22}
    assert (answer["object"], answer["model"]) == ("chat.completion", "any")
    assert asked.header("Server-Timing") == "wait;dur=1500.000"
    assert script.idle()


def test_twenty_tokens_by_default(script):
    asked = ask(script)
    script.advance(0.5 + 19 * 0.05 - 0.0001)
    assert not asked.done
    script.advance(0.0002)
    assert len(asked.json()["choices"][0]["message"]["content"].split()) == 20


def test_lateness_does_not_add_up(script):
    asked = ask(script, "?delay=0&interval=1&count=3", stream=True)
    script.advance(0, 1.7)
    assert len(tokens(asked)) == 2
    script.advance(0.3)
    assert asked.done


def test_a_seed_has_one_text_and_one_set_of_times(script):
    def times(query, **body):
        asked = ask(script, f"?delay=0&interval=0.1&jitter=0.05{query}", stream=True, **body)
        seen = []
        for hundredth in range(40):
            script.advance(0 if hundredth == 0 else 0.01)
            seen += [hundredth] * (asked.body.count(b"content") - len(seen))
        return seen, tokens(asked)

    three = times("&count=3&seed=7")
    assert three[0] == [1, 11, 25]  # none is early, none is more than 0.05 s late
    assert three == times("&count=3", seed=7) == times("&count=3&seed=7", seed=8)
    assert three[1] == times("&count=20&seed=7")[1][:3]  # a shorter text begins a longer one
    assert three[0] != times("&count=3&seed=8")[0]
    assert times("&count=3") == times("&count=3&seed=0") == times("&count=3", seed=None)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(
    ("most", "reason"), [(2, "length"), (3, "stop"), (4, "stop"), (None, "stop")]
)
def test_the_body_may_allow_fewer_tokens(script, name, most, reason):
    asked = ask(script, "?delay=0&interval=0&count=3", **{name: most})
    script.advance(0)
    assert asked.json()["choices"][0]["finish_reason"] == reason
    assert asked.json()["usage"]["completion_tokens"] == min(most or 3, 3)


def test_usage_is_the_last_chunk_if_it_is_included(script):
    for options, last in [({"include_usage": True}, 2), ({}, None), (None, None)]:
        asked = ask(script, "?delay=0&interval=0&count=2", stream=True, stream_options=options)
        script.advance(0)
        usages = [chunk for chunk in events(asked)[:-1] if chunk["choices"] == []]
        assert [chunk["usage"]["completion_tokens"] for chunk in usages] == ([last] if last else [])


@pytest.mark.parametrize("status", [429, 503, 500, 401])
@pytest.mark.parametrize("stream", [True, False])
def test_an_error_instead_of_the_first_token(script, status, stream):
    asked = ask(script, f"?delay=2&status={status}&retry=7", stream=stream)
    script.advance(1.9999)
    assert asked.response is None
    script.advance(0.0001)
    assert (asked.code, asked.header("Retry-After"), asked.done) == (status, "7", True)
    assert asked.header("Content-Type") == "application/json"
    assert set(asked.json()["error"]) == {"message", "type", "param", "code"}
    assert (asked.json()["error"]["code"] == "rate_limit_exceeded") == (status == 429)
    assert script.idle()


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_an_error_after_some_tokens(script, after):
    """It comes when the next token would be due, also where there is no next one."""
    query = f"?delay=1&interval=1&count=3&error_after={after}&status=503"
    stream, whole = ask(script, query, stream=True), ask(script, query)
    script.advance(*[1] * after, 0.9999)
    assert not stream.done
    script.advance(0.0001)
    if after:
        assert len(events(stream)) == after + 1
        assert events(stream)[-1] == whole.json()
    assert whole.json()["error"]["type"] == "server_error"
    assert (stream.code, stream.done) == (200 if after else 503, True)
    assert whole.code == 503
    assert script.idle()


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_reset_after_some_tokens(script, requests, after, logged):
    query = f"?delay=1&interval=1&count=3&reset_after={after}"
    stream, whole = ask(script, query, stream=True), ask(script, query)
    script.advance(*[1] * (after + 1), 0, 0, 0)
    if after:
        assert len(tokens(stream)) == len(events(stream)) == after
    assert stream.failure
    assert not stream.done
    assert whole.response is None
    assert whole.failure
    assert script.idle()
    assert "the client disconnected" not in logged()
    assert [request.note for request in requests] == [f"{after} of 3 tokens"] * 2


def test_there_is_no_error_after_more_tokens_than_there_are(script):
    asked = ask(script, "?delay=0&interval=0&count=3&error_after=4&reset_after=4", stream=True)
    script.advance(0)
    assert events(asked)[-1] == "[DONE]"


@pytest.mark.parametrize("stream", [True, False])
def test_a_disconnect_stops_it_and_the_note_says_when(script, requests, logged, stream):
    asked = ask(script, "?delay=1&interval=1", stream=stream)
    script.advance(1, 1, 1)
    asked.leave()
    assert script.idle()
    assert logged().count("the client disconnected") == 1
    assert requests[0].note == "3 of 20 tokens"


def test_nothing_is_written_while_the_client_does_not_read(script):
    body = json.dumps({"model": "any", "messages": MESSAGES, "stream": True}).encode()
    server, transport = script.connect(b"", b"")
    transport.clear()
    server.dataReceived(
        b"POST /script.rpy/v1/chat/completions?delay=0&interval=1&count=4 HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    script.advance(0)
    transport.producer.pauseProducing()
    script.advance(1, 1)
    assert transport.value().count(b'"content"') == 1
    transport.producer.resumeProducing()
    script.advance(0)
    assert transport.value().count(b'"content"') == 3
    script.advance(1)
    assert transport.value().endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize(("field", "value"), [
    ("model", None), ("model", ""), ("model", "x" * 101), ("model", 1), ("messages", None),
    ("messages", []), ("messages", "Hi"), ("messages", [{}] * 1001), ("messages", {"a": 1}),
    ("stream", 1), ("stream_options", True), ("max_tokens", 0), ("max_tokens", 1.5),
    ("max_completion_tokens", True), ("seed", "1"), ("seed", 2**70), ("n", 2), ("n", 0),
])  # fmt: skip
def test_an_invalid_field_is_named(script, field, value):
    asked = ask(script, **{field: value})
    wrong = asked.json()["error"]
    assert (asked.code, wrong["param"], wrong["type"]) == (400, field, "invalid_request_error")
    assert wrong["message"].startswith(f"invalid {field} ")
    assert "give" in wrong["message"]
    assert len(wrong["message"]) < 200


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"a":' * 9999]
)
def test_a_body_that_is_no_object_is_refused(script, body):
    asked = script.post("/v1/chat/completions", data=body)
    assert asked.code == 400
    assert "give" in asked.json()["error"]["message"]


def test_a_body_has_a_greatest_size(script):
    body = json.dumps({"model": "any", "messages": MESSAGES}).encode()
    refused = script.post("/v1/chat/completions", data=body.ljust(500_001))
    assert refused.code == 400
    assert refused.json()["error"]["message"] == "the body is too long: give at most 500000 bytes"
    asked = script.post("/v1/chat/completions", data=body.ljust(500_000))
    script.advance(2)
    assert asked.code == 200


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
PARTS = VALUES | st.lists(st.fixed_dictionaries({}, optional={"text": VALUES, "type": VALUES}))
BODIES = st.fixed_dictionaries(
    {
        "model": st.just("any"),
        "messages": VALUES | st.lists(st.fixed_dictionaries({"content": PARTS}), min_size=1),
    },
    optional=dict.fromkeys(("stream", "stream_options", "max_tokens", "seed", "n"), VALUES),
)


@given(body=VALUES | BODIES)
@settings(max_examples=200, deadline=None)
def test_any_body_is_answered_or_refused(body):
    script = Script(RPY / SCRIPT)
    asked = script.post("/v1/chat/completions?delay=0&interval=0", data=json.dumps(body).encode())
    script.advance(0)
    assert asked.code in (200, 400)
    assert asked.done
    assert script.idle()


def test_models_and_other_paths(script):
    for path in ("/v1/models?delay=9", ""):
        listed = script.get(path).json()
        assert (listed["object"], [model["id"] for model in listed["data"]]) == ("list", ["any"])
    for asked in (
        script.get("/v2"), script.get("/v1/models/a.bat"), script.get("/v1/chat/completions"),
        ask(script, path="/chat/completions"), ask(script, path=""),
    ):  # fmt: skip
        assert asked.code == 404
        assert "/v1/chat/completions" in asked.json()["error"]["message"]
    assert ask(script, "?count=0").json()["error"]["message"].startswith("invalid count '0'")


def test_a_failure_in_mid_stream_aborts_the_connection(script, monkeypatch, logged):
    asked = ask(script, "?delay=0&interval=1", stream=True)
    script.advance(0)
    monkeypatch.setitem(type(script.resource).render_POST.__globals__, "WORDS", ())
    script.advance(1)
    assert asked.failure
    assert not asked.done
    assert script.idle()
    assert "IndexError" in logged()
