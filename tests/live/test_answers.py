"""What clients get for bad input and for other methods, from servers that go on serving."""

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults

from tests.live.conftest import RPY, ask
from tests.unit.test_promises import every_bad_query, methods

SCRIPTS = sorted(path.name for path in RPY.glob("*.rpy") if path.name != "ledger.rpy")


@pytest_twisted.ensureDeferred
async def test_all_bad_input_is_refused_and_the_server_goes_on(server):
    cases = [case for case in every_bad_query() if case[0] != "ledger.rpy" or not server.plain]
    asked = [ensureDeferred(ask(server.url(f"{name}{query}"))) for name, query, _ in cases]
    answers = await gatherResults(asked)
    for (name, query, word), answer in zip(cases, answers, strict=True):
        assert answer.code == 400, (name, query)
        assert answer.header("Content-Type") == "text/plain; charset=utf-8"
        line = answer.body.decode()
        assert line.count("\n") == 1
        assert word in line
        assert "give" in line
    assert (await ask(server.url("delayed.rpy?delay=0"))).code == 200


# By which parameter it waits; others answer HEAD at once.
WAITS = {
    "awaited.rpy": "together&duration", "cancellable.rpy": "duration", "delayed.rpy": "delay",
    "dripped.rpy": "delay", "deadline.rpy": "duration", "flaky.rpy": "failures=0&delay",
    "earlyhints.rpy": "delay", "jittered.rpy": "spread=0&mean", "streamed.rpy": "delay",
    "threaded.rpy": "duration", "steps.rpy": "wait",
}  # fmt: skip
NO_HEAD = {"broken.rpy", "websocket.rpy", "gated.rpy"}  # is broken, is no page, waits for POST


@pytest.mark.parametrize("name", sorted({*SCRIPTS} - NO_HEAD))
@pytest_twisted.ensureDeferred
async def test_head_has_the_headers_and_no_body(server, name):
    query = f"{WAITS[name]}=0.2" if name in WAITS else ""
    if name == "longpoll.rpy":
        query = "timeout=0"
    answer = await ask(server.url(f"{name}?{query}"), method="HEAD")
    assert (answer.code, answer.body) == (200, b"")
    assert name not in WAITS or answer.measured >= 0.2
    assert answer.header("Cache-Control") == "no-store"


@pytest.mark.parametrize("name", SCRIPTS)
@pytest_twisted.ensureDeferred
async def test_other_methods_are_refused(server, name):
    for method, code in (("POST", 405), ("DELETE", 501), ("PUT", 501), ("BREW", 501)):
        if method not in methods(name):
            answer = await ask(server.url(name), method=method)
            assert answer.code == code
            if code == 405:
                assert set(answer.header("Allow").split(", ")) == methods(name)


@pytest_twisted.ensureDeferred
async def test_only_the_launcher_keeps_a_ledger(server):
    answer = await ask(server.url("ledger.rpy"))
    if server.plain:
        assert answer.code == 503
        assert answer.body == b"no ledger: serve this folder with 'tarry serve DIR' to have one\n"
    else:
        assert answer.code == 200
        assert answer.header("Content-Type") == "application/json"
