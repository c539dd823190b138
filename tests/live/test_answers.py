"""The promises of all scripts, over real connections: a sample of what test_promises.py tries."""

import random

import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults

from tests.live.conftest import RPY, ask
from tests.unit.test_promises import bad_queries, methods, wrong_with_error

SAMPLE = 4  # bad queries for each script
# The ledger has a test of its own, since plain Twisted has none.
SCRIPTS = sorted(path.name for path in RPY.glob("*.rpy") if path.name != "ledger.rpy")


@pytest_twisted.ensureDeferred
async def test_bad_input_is_refused_and_the_server_goes_on(server):
    draw = random.Random(1)
    cases = [(name, *row) for name in SCRIPTS for row in draw.sample([*bad_queries(name)], SAMPLE)]
    asked = [ensureDeferred(ask(server.url(f"{name}{query}"))) for name, query, _ in cases]
    answers = await gatherResults(asked)
    problems = [
        f"{name}{query[:80]}: {problem}: {answer.code} {answer.body[:200]}"
        for (name, query, word), answer in zip(cases, answers, strict=True)
        if (problem := wrong_with_error(word, answer.code, answer.header("Content-Type"), answer.body))
    ]  # fmt: skip
    assert not problems, "\n".join(problems)
    assert (await ask(server.url("delayed.rpy?delay=0"))).code == 200


# The parameter by which each script waits. The others answer HEAD at once.
WAITS = {
    "awaited.rpy": "together&duration", "cancellable.rpy": "duration", "delayed.rpy": "delay",
    "dripped.rpy": "delay", "deadline.rpy": "duration", "flaky.rpy": "failures=0&delay",
    "earlyhints.rpy": "delay", "jittered.rpy": "spread=0&mean", "streamed.rpy": "delay",
    "threaded.rpy": "duration", "steps.rpy": "wait",
}  # fmt: skip
NO_HEAD = {"broken.rpy", "websocket.rpy", "gated.rpy"}  # is broken, is no page, waits for POST


@pytest_twisted.ensureDeferred
async def test_head_has_the_headers_and_no_body(server):
    names = sorted({*SCRIPTS} - NO_HEAD)
    queries = {"longpoll.rpy": "timeout=0"} | {name: f"{p}=0.2" for name, p in WAITS.items()}
    urls = [server.url(f"{name}?{queries.get(name, '')}") for name in names]
    answers = await gatherResults([ensureDeferred(ask(url, method="HEAD")) for url in urls])
    for name, answer in zip(names, answers, strict=True):
        assert (answer.code, answer.body) == (200, b""), name
        assert name not in WAITS or answer.measured >= 0.2, name
        assert answer.header("Cache-Control") == "no-store", name


@pytest_twisted.ensureDeferred
async def test_other_methods_are_refused(server):
    for name in SCRIPTS:
        for method, code in {"POST": 405, "DELETE": 501, "PUT": 501, "BREW": 501}.items():
            if method not in methods(name):
                answer = await ask(server.url(name), method=method)
                assert answer.code == code, (name, method)
                if code == 405:
                    assert set(answer.header("Allow").split(", ")) == methods(name), name


@pytest_twisted.ensureDeferred
async def test_only_the_launcher_has_a_ledger(server):
    answer = await ask(server.url("ledger.rpy"))
    if server.plain:
        assert (answer.code, answer.body.count(b"\n")) == (503, 1)
        assert b"tarry serve" in answer.body
    else:
        assert answer.code == 200
        assert answer.header("Content-Type") == "application/json"
