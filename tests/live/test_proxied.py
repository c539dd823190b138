"""proxied.rpy over real connections."""

import json
import shutil

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred
from twisted.web.client import ResponseFailed

from tests.live.conftest import PLAIN, RPY, TARRY, EnoughError, Server, ask, until

BREAKS_OFF = """
from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

class BreaksOff(Resource):
    isLeaf = True

    def render_GET(self, request):
        request.write(b"a part")
        reactor.callLater(0.1, request.transport.abortConnection)
        return NOT_DONE_YET

resource = BreaksOff()
"""


@pytest_twisted.ensureDeferred
async def test_a_stream_comes_through_whole(server):
    answer = await ask(server.url("proxied.rpy?path=/streamed.rpy%3Fcount=3%26interval=0.1"))
    assert [json.loads(line)["n"] for line in answer.body.splitlines()] == [1, 2, 3]
    assert answer.header("Content-Type") == "application/x-ndjson"


@pytest.mark.parametrize(("path", "code"), [
    ("/delayed.rpy?delay=0", 200), ("/delayed.rpy?delay=x", 400), ("/nothing.rpy", 404),
    ("/proxied.rpy", 508),
])  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_the_response_is_the_one_that_comes_without_it(server, path, code):
    proxied = await ask(server.url(f"proxied.rpy?path={path}"))
    assert proxied.code == code
    if code != 508:
        direct = await ask(server.url(path[1:]))
        assert (direct.code, direct.body) == (code, proxied.body)
        assert direct.header("Content-Type") == proxied.header("Content-Type")


@pytest_twisted.ensureDeferred
async def test_a_disconnect_before_the_headers_reaches_both_scripts(server):
    async def jobs(which):
        return json.loads((await ask(server.url(f"cancellable.rpy?show={which}&key=r"))).body)

    path = "/cancellable.rpy%3Fduration=600%26key=r"
    request = ensureDeferred(ask(server.url(f"proxied.rpy?path={path}")))
    request.addErrback(lambda failure: None)
    await until(lambda: jobs("running"))
    request.cancel()
    (job,) = await until(lambda: jobs("recent"))
    assert job["outcome"] == "cancelled"
    await request


@pytest_twisted.ensureDeferred
async def test_a_disconnect_during_a_stream_reaches_both_scripts(server):
    def received(piece):
        raise EnoughError  # the first line has come, a minute before the second

    path = "/streamed.rpy%3Finterval=60%26key=r"
    with pytest.raises(EnoughError):
        await ask(server.url(f"proxied.rpy?path={path}"), received=received)
    for uri in (f"/proxied.rpy?path={path}", "/streamed.rpy?interval=60&key=r"):
        line = f"{uri}': the client disconnected"
        await until(lambda line=line: line in server.output)


@pytest.mark.parametrize("command", [[*PLAIN, "--path=."], [*TARRY, "."]])
@pytest_twisted.ensureDeferred
async def test_a_response_that_breaks_off_does_not_pass_for_a_whole_one(command, tmp_path):
    shutil.copy(RPY / "proxied.rpy", tmp_path)
    (tmp_path / "breaks.rpy").write_text(BREAKS_OFF)
    server = Server(command, folder=tmp_path)
    pieces = []
    try:
        with pytest.raises(ResponseFailed):
            await ask(server.url("proxied.rpy?path=/breaks.rpy"), received=pieces.append)
        await until(lambda: "ConnectionLost" in server.output)
    finally:
        server.stop()
    assert b"".join(pieces) == b"a part"
    assert "the client disconnected" not in server.output
