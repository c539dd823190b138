"""broken.rpy over real sockets, and what real clients make of each way."""

import contextlib
import json
import re
import shutil
import ssl

import httpx
import pytest
import pytest_twisted

from tests.live import faults
from tests.live.conftest import HANG, RPY, TARRY, Server, ask, rest, until
from tests.live.test_leaving import connect
from tests.unit.test_broken import SENT

BYTES = {how: text.replace("\n", "\r\n").encode() for how, (text, _) in SENT.items()}
ENDED = [(how, "", end) for how, (_, end) in SENT.items() if end in ("close", "reset")]
ENDED += [(how, f"&end={end}", end) for how, end in [("truncated", "reset"), ("stalled", "close")]]


async def check(server, key, outcome, note):
    """Check the ledger, where there is one, and that the server still answers."""
    if not server.plain:
        answer = await ask(server.url(f"ledger.rpy?key={key}&until={outcome}"))
        assert json.loads(answer.body)["note"] == note
    assert (await ask(server.url("delayed.rpy?delay=0"))).code == 200


@pytest.mark.parametrize(("how", "asked", "end"), ENDED)
@pytest_twisted.ensureDeferred
async def test_the_bytes_are_followed_by_fin_or_rst(server, how, asked, end):
    key = f"{how}-{end}"
    with connect(server, f"broken.rpy?how={how}{asked}&size=3&key={key}") as client:
        assert rest(client) == (BYTES[how], {"close": "FIN", "reset": "RST"}[end])
    await check(server, key, "aborted", f"{how}: {len(BYTES[how])} bytes, then {end}")


@pytest.mark.parametrize("how", ["overlong", "twostatus"])
@pytest_twisted.ensureDeferred
async def test_after_a_whole_response_the_connection_goes_on(server, how):
    with connect(server, f"broken.rpy?how={how}&size=3&key={how}") as client:
        client.sendall(b"GET /broken.rpy?how=garbage HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert rest(client) == (BYTES[how] + BYTES["garbage"], "FIN")
    await check(server, how, "finished", f"{how}: {len(BYTES[how])} bytes, then finish")


@pytest.mark.parametrize("how", ["silent", "stalled"])
@pytest_twisted.ensureDeferred
async def test_silence_lasts_until_the_client_disconnects(server, how):
    with connect(server, f"broken.rpy?how={how}&size=3&key={how}") as client:
        if BYTES[how]:
            assert client.recv(65536) == BYTES[how]
        assert (await ask(server.url("delayed.rpy?delay=0.2"))).code == 200
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)
    await until(lambda: f"key={how}': the client disconnected" in server.output)
    await check(server, how, "left", f"{how}: {len(BYTES[how])} bytes, then silence")


def test_on_http_2_it_is_refused_and_over_tls_rst_comes_after_the_bytes():
    server = Server([*TARRY, "--https", RPY])
    trust = ssl.create_default_context(cafile=re.search(r"--cacert (\S+)", server.output)[1])
    url = f"https://localhost:{server.port}/broken.rpy?how=truncated&end=reset"
    try:
        with httpx.Client(http2=True, verify=trust, timeout=HANG) as client:
            refused = client.get(url)
        assert (refused.status_code, refused.http_version) == (400, "HTTP/2")
        assert "HTTP/1" in refused.text
        got = []
        with (
            httpx.Client(verify=trust, timeout=HANG) as client,
            client.stream("GET", url) as answer,
            contextlib.suppress(httpx.ReadError, httpx.RemoteProtocolError),
        ):
            got.extend(answer.iter_bytes())
            raise AssertionError("the client took a part for all of it")
        assert got == [b"0123456789"]
    finally:
        server.stop()


@pytest.mark.parametrize("name", faults.CLIENTS)
@pytest_twisted.ensureDeferred
async def test_clients_make_of_each_fault_what_the_page_says(server, name):
    """Exactly, for the version that the page names; in another, errors may have other names."""
    if not shutil.which(name) and name == "curl":
        pytest.skip("curl is not installed")
    shown = faults.shown(faults.PAGE.read_text())[name]
    measured = await faults.column(server, name)
    if shown["version"] != measured["version"]:
        for cells in (shown, measured):
            del cells["version"]
            cells.update({how: "an error" for how, cell in cells.items() if "`" in cell})
    assert measured == shown, "if this is right, write the table again: python -m tests.live.faults"
