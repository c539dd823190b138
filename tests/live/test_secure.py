"""HTTPS and HTTP/2, with a client that speaks them."""

import asyncio
import os
import re
import shutil
import signal
import socket
import ssl

import h2.connection
import h2.errors
import h2.events
import httpx
import pytest

from tests.live.conftest import HANG, RPY, TARRY, Server, more
from tests.live.test_leaving import worked

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # of asyncio's TLS transports


@pytest.fixture
def secure(tmp_path, request):
    folder = tmp_path / "site"
    shutil.copytree(RPY, folder)
    server = Server([*TARRY, "--https", *getattr(request, "param", []), folder])
    server.folder = folder
    server.authority = re.search(r"--cacert (\S+)", server.output)[1]
    yield server
    server.stop(signal.SIGKILL)
    shutil.rmtree(os.path.dirname(server.authority), ignore_errors=True)


def url(server, path):
    return f"https://localhost:{server.port}/{path}"


def client(server, http2=True):
    trust = ssl.create_default_context(cafile=server.authority)
    return httpx.AsyncClient(verify=trust, http2=http2, timeout=HANG)


def talk(server, conversation, http2=True):
    """Run *conversation*, a coroutine function, with a client of its own."""

    async def run():
        async with client(server, http2) as talking:
            return await conversation(talking)

    return asyncio.run(run())


def entries(server, query=""):
    """Asked on a connection of its own."""

    async def ask(talking):
        return (await talking.get(url(server, f"ledger.rpy?{query}"))).json()

    return talk(server, ask)


@pytest.mark.parametrize(("http2", "version"), [(True, "HTTP/2"), (False, "HTTP/1.1")])
def test_both_versions_keep_each_request_s_time(secure, http2, version):
    order = []

    async def conversation(talking):
        async def one(delay):
            answer = await talking.get(url(secure, f"delayed.rpy?delay={delay}"))
            order.append(delay)
            return answer

        # Not more than two: httpx tells of a third on the same connection when another one ends.
        return await asyncio.gather(*map(one, [1.0, 0.5]))

    answers = talk(secure, conversation, http2)
    assert order == [0.5, 1.0]
    assert {(a.status_code, a.http_version) for a in answers} == {(200, version)}
    assert {e["protocol"] for e in entries(secure, "path=/delayed.rpy")} == {version}


@pytest.mark.parametrize("secure", [["--idle-seconds", "1"]], indirect=True)
def test_a_long_wait_outlives_the_idle_timer(secure):
    async def conversation(talking):
        return await talking.get(url(secure, "delayed.rpy?delay=4"))

    assert talk(secure, conversation).status_code == 200


@pytest.mark.parametrize("secure", [["--idle-seconds", "1"]], indirect=True)
def test_an_idle_connection_is_ended(secure):
    trust = ssl.create_default_context(cafile=secure.authority)
    trust.set_alpn_protocols(["h2"])
    plain = socket.create_connection(("127.0.0.1", secure.port), timeout=HANG)
    with plain, trust.wrap_socket(plain, server_hostname="localhost") as connection:
        settings = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
        while connection.recv(65536):
            continue  # settings, and at last GOAWAY; then the end, which is no reset
    assert secure.process.poll() is None


class Frames:
    """A client that asks for and resets single streams of one connection."""

    def __init__(self, server):
        trust = ssl.create_default_context(cafile=server.authority)
        trust.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("127.0.0.1", server.port), timeout=HANG)
        self.socket = trust.wrap_socket(plain, server_hostname="localhost")
        self.http = h2.connection.H2Connection()
        self.http.initiate_connection()

    def ask(self, path):
        """Send a request, and read until the first byte of its body."""
        stream = self.http.get_next_available_stream_id()
        head = {":method": "GET", ":scheme": "https", ":authority": "localhost", ":path": path}
        self.http.send_headers(stream, list(head.items()), end_stream=True)
        self.socket.sendall(self.http.data_to_send())
        self.got = 0
        while not self.got:
            for event in self.http.receive_data(more(self.socket)):
                if isinstance(event, h2.events.DataReceived) and event.stream_id == stream:
                    self.got += len(event.data)
            self.socket.sendall(self.http.data_to_send())
        return stream

    def take(self, patience=HANG):
        """The size of what comes next of a body; None if nothing comes."""
        self.socket.settimeout(patience)
        try:
            events = self.http.receive_data(more(self.socket))
        except TimeoutError:
            return None
        data = [event.data for event in events if isinstance(event, h2.events.DataReceived)]
        return sum(map(len, data))

    def reset(self, stream):
        self.http.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        self.socket.sendall(self.http.data_to_send())


@pytest.mark.parametrize("leave", ["stream", "connection"])
def test_a_client_that_leaves_is_seen_and_nothing_spins(secure, leave):
    (secure.folder / "big.bin").write_bytes(bytes(20_000_000))
    frames = Frames(secure)
    paths = ["/streamed.rpy?interval=0.05&count=100000&key=h2", "/big.bin?key=h2"]
    streams = [frames.ask(path) for path in paths]
    if leave == "stream":
        for stream in streams:
            frames.reset(stream)
    else:
        frames.socket.close()

    async def conversation(talking):
        for path in ("/streamed.rpy", "/big.bin"):
            await talking.get(url(secure, f"ledger.rpy?until=left&key=h2&path={path}"))
        ticks = worked(secure.process)
        await talking.get(url(secure, "delayed.rpy?delay=1"))
        return worked(secure.process) - ticks

    assert talk(secure, conversation) < 50  # hundredths of the second that it waited
    left = entries(secure, "outcome=left&key=h2")
    assert [e["path"] for e in left] == ["/streamed.rpy", "/big.bin"]
    assert entries(secure, "outcome=pending") == []
    if leave == "stream":
        frames.ask("/delayed.rpy?delay=0")  # the connection goes on
        frames.socket.close()


@pytest.mark.parametrize("path", ["throttled.rpy?rate=0&size=1000000", "steps.rpy?bytes=1000000"])
def test_a_client_that_does_not_read_costs_nothing_and_gets_all_in_the_end(secure, path):
    frames = Frames(secure)
    stream, got = frames.ask(f"/{path}"), frames.got
    while (size := frames.take(patience=1)) is not None:
        got += size
    assert got == 65535  # the window, which nothing opens again
    ticks = worked(secure.process)

    async def conversation(talking):
        await talking.get(url(secure, "delayed.rpy?delay=1"))

    talk(secure, conversation)
    assert worked(secure.process) - ticks < 50  # hundredths of the second that it waited
    while got < 1000000:
        for each in (0, stream):
            frames.http.increment_flow_control_window(50000, each or None)
        frames.socket.sendall(frames.http.data_to_send())
        size = frames.take()
        got += size
    frames.socket.close()


@pytest.mark.parametrize("end", ["reset", "close"])
def test_a_part_does_not_pass_for_the_whole(secure, end):
    """Twisted ends such a stream without an error, upon which curl and others say that all is well."""

    async def conversation(talking):
        with pytest.raises(
            httpx.RemoteProtocolError, match=r"error_code:(2|ErrorCodes.INTERNAL_ERROR)"
        ):
            await talking.get(url(secure, f"steps.rpy?send=a&wait=0.1&{end}"))

    talk(secure, conversation)
    (entry,) = entries(secure, "path=/steps.rpy")
    assert entry["outcome"] == "aborted"


def test_what_a_script_breaks_off_is_broken_off(secure):
    (secure.folder / "x.rpy").write_text("""
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
class Page(Resource):
    def render_GET(self, request):
        request.write(b"part")
        request.channel.abortConnection()
        return NOT_DONE_YET
resource = Page()
""")

    async def conversation(talking):
        with pytest.raises(httpx.RemoteProtocolError):
            await talking.get(url(secure, "x.rpy"))
        return await talking.get(url(secure, "delayed.rpy?delay=0"))  # on the same connection

    assert talk(secure, conversation).status_code == 200
    (entry,) = entries(secure, "path=/x.rpy")
    assert entry["outcome"] == "aborted"


def test_str_gets_a_500_and_after_the_first_byte_a_reset(secure):
    for name, first in (("early", b""), ("late", b"request.write(b'part')")):
        (secure.folder / f"{name}.rpy").write_text(f"""
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
class Page(Resource):
    def render_GET(self, request):
        {first.decode()}
        request.write("text")
        request.finish()
        return NOT_DONE_YET
resource = Page()
""")

    async def conversation(talking):
        with pytest.raises(httpx.RemoteProtocolError):
            await talking.get(url(secure, "late.rpy"))
        return await talking.get(url(secure, "early.rpy"))

    assert talk(secure, conversation).status_code == 500
    assert [e["outcome"] for e in entries(secure, "outcome=failed")] == ["failed", "failed"]


@pytest.mark.parametrize("secure", [["--body-bytes", "1000"]], indirect=True)
@pytest.mark.parametrize("http2", [True, False])
def test_a_body_that_is_too_big(secure, http2):
    async def conversation(talking):
        big = await talking.post(url(secure, "delayed.rpy"), content=bytes(100_000))
        good = await talking.get(url(secure, "delayed.rpy?delay=0"))
        return big.status_code, good.status_code

    assert talk(secure, conversation, http2) == (413, 200)


def test_what_is_in_flight_may_end(secure):
    async def conversation(talking):
        asked = asyncio.ensure_future(talking.get(url(secure, "delayed.rpy?delay=1.5&key=last")))
        while not (await talking.get(url(secure, "ledger.rpy?key=last"))).json():
            continue
        secure.process.send_signal(signal.SIGTERM)
        return await asked

    assert talk(secure, conversation).status_code == 200
    assert secure.end() == 0
    assert not os.path.exists(secure.authority)
