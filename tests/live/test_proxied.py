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
async def test_a_stream_comes_through_line_by_line(server):
    pieces = []
    url = server.url("proxied.rpy?path=/streamed.rpy%3Fcount=3%26interval=0.1")
    answer = await ask(url, received=pieces.append)
    assert [json.loads(piece)["n"] for piece in pieces] == [1, 2, 3]
    assert answer.header("Content-Type") == "application/x-ndjson"


@pytest.mark.parametrize(("path", "code"), [
    ("/delayed.rpy?delay=0", 200), ("/delayed.rpy?delay=x", 400), ("/nothing.rpy", 404),
    ("/proxied.rpy", 508),
])  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_what_comes_through_is_what_comes_without(server, path, code):
    relayed = await ask(server.url(f"proxied.rpy?path={path}"))
    assert relayed.code == code
    if code != 508:
        direct = await ask(server.url(path[1:]))
        assert (direct.code, direct.body) == (code, relayed.body)
        assert direct.header("Content-Type") == relayed.header("Content-Type")


@pytest_twisted.ensureDeferred
async def test_who_leaves_before_the_head_leaves_both(server):
    async def jobs(which):
        return json.loads((await ask(server.url(f"cancellable.rpy?show={which}&key=r"))).body)

    path = "/cancellable.rpy%3Fduration=600%26key=r"
    leaver = ensureDeferred(ask(server.url(f"proxied.rpy?path={path}")))
    leaver.addErrback(lambda failure: None)
    await until(lambda: jobs("running"))
    leaver.cancel()
    (job,) = await until(lambda: jobs("recent"))
    assert job["outcome"] == "cancelled"
    await leaver


@pytest_twisted.ensureDeferred
async def test_who_leaves_a_stream_leaves_both(server):
    def received(piece):
        raise EnoughError

    path = "/streamed.rpy%3Finterval=60%26key=r"
    with pytest.raises(EnoughError):
        await ask(server.url(f"proxied.rpy?path={path}"), received=received)
    told = "/streamed.rpy?interval=60&key=r': the client left after 1 chunks"
    await until(lambda: told in server.output)
    assert f"/proxied.rpy?path={path}': the client left" in server.output


@pytest.mark.parametrize("command", [[*PLAIN, "--path=."], [*TARRY, "."]])
@pytest_twisted.ensureDeferred
async def test_an_answer_that_breaks_off_does_not_pass_for_a_whole_one(command, tmp_path):
    shutil.copy(RPY / "proxied.rpy", tmp_path)
    (tmp_path / "breaks.rpy").write_text(BREAKS_OFF)
    server = Server(command, folder=tmp_path)
    pieces = []
    try:
        with pytest.raises(ResponseFailed):
            await ask(server.url("proxied.rpy?path=/breaks.rpy"), received=pieces.append)
        await until(lambda: "broke off" in server.output)
    finally:
        server.stop()
    assert pieces == [b"a part"]
    assert "the client left" not in server.output
    assert "Traceback" not in server.output
