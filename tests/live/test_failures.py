"""What the client gets when a script fails, before the first byte and after it."""

import pytest
import pytest_twisted

from tests.live.conftest import ask, entries, put, serves_on, until
from tests.live.sockets import all_of, request

# The listing of the article, whose str was right in Python 2.
ARTICLE = """
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from twisted.internet import reactor

class DelayedResource(Resource):
    def _delayedRender(self, request):
        request.write("<html><body>Sorry to keep you waiting.</body></html>")
        request.finish()

    def render_GET(self, request):
        reactor.callLater(0.1, self._delayedRender, request)
        return NOT_DONE_YET

resource = DelayedResource()
"""


@pytest_twisted.ensureDeferred
async def test_str_written_is_a_500_at_once_and_the_log_says_what_to_do(site):
    path = site.folder / "seed.rpy"
    path.write_text(ARTICLE)
    answer = await ask(site.url("seed.rpy"))
    assert answer.code == 500
    assert answer.header("Content-Type").startswith("text/plain")
    assert answer.body.count(b"\n") == 1
    await until(lambda: f"{path}:8: request.write was given " in site.output)
    assert "write bytes: b'…' or .encode()" in site.output
    assert "Traceback" not in site.output
    (entry,) = await entries(site, outcome="failed")
    assert (entry["status"], entry["detail"]) == (500, f"str written at {path}:8")


AFTER_THE_FIRST_BYTE = [
    "request.write(b'part'); request.write('text'); request.finish(); return NOT_DONE_YET",
    "request.write(b'part'); raise RuntimeError('late')",
    "request.write(b'part'); 1 / 0",
    "request.write(b'part'); return 'text'",
    "request.write(b'part'); return None",
]


@pytest_twisted.ensureDeferred
async def test_a_failure_after_the_first_byte_is_never_a_whole_response(site):
    for n, body in enumerate(AFTER_THE_FIRST_BYTE):
        put(site, f"{n}.rpy", body)
        got = all_of(site, request(f"/{n}.rpy"))
        assert b"\r\n0\r\n\r\n" not in got, body  # the last chunk
        assert b"<html" not in got, body
        (entry,) = await entries(site, path=f"/{n}.rpy")
        assert entry["outcome"] == "failed", body
    await serves_on(site)


BEFORE_THE_FIRST_BYTE = ["raise RuntimeError('early')", "return 'text'", "return None", "1 / 0"]


@pytest_twisted.ensureDeferred
async def test_a_failure_before_the_first_byte_is_a_plain_500(site):
    for n, body in enumerate(BEFORE_THE_FIRST_BYTE):
        put(site, f"{n}.rpy", body)
        answer = await ask(site.url(f"{n}.rpy"))
        assert (answer.code, answer.body.count(b"\n")) == (500, 1), body
        assert b"<" not in answer.body, body
        assert b"Traceback" not in answer.body, body
        (entry,) = await entries(site, path=f"/{n}.rpy")
        assert entry["outcome"] == "failed", body
    (entry,) = await entries(site, path="/0.rpy")
    assert entry["detail"] == f"RuntimeError at {site.folder}/0.rpy:8"


@pytest.mark.parametrize("site", [["--display-tracebacks"]], indirect=True)
@pytest_twisted.ensureDeferred
async def test_tracebacks_are_shown_if_asked_for(site):
    put(site, "x.rpy", "raise RuntimeError('early')")
    answer = await ask(site.url("x.rpy"))
    assert answer.code == 500
    assert b"early" in answer.body
    (site.folder / "y.rpy").write_text("1 / 0")
    assert b"ZeroDivisionError" in (await ask(site.url("y.rpy"))).body
