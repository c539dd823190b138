"""The attacks: each is a function that sends something to a target, and says what must come back.

The first line of an attack's docstring says what it sends; `scripts/attack --list` shows it. An attack
raises WrongError if an answer is not as it must be. For every attack, attack.py looks at how late others
became, at memory, at connections that stay, at tracebacks, and at how the server ends.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import subprocess
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from target import BINARIES, RPY, Target
from wire import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HANDSHAKE,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    Connection,
    Response,
    WrongError,
    fields,
    frame,
    literal,
    request,
    text_frame,
)


@dataclass(frozen=True)
class Attack:
    name: str
    run: Callable[[Target], Awaitable[None]]
    options: tuple[str, ...] = ()  # of `tarry serve`; with any, plain twistd is not attacked
    descriptors: int = 4096
    files: Callable[[Path], None] | None = None  # puts more into the folder that is served
    megabytes: int = 64  # of memory that it may take

    @property
    def what(self) -> str:
        return (self.run.__doc__ or self.name).strip().splitlines()[0]


ATTACKS: list[Attack] = []


def attack(name: str, *options: str, **more: object) -> Callable:
    """Put the decorated function into the table."""

    def add(run: Callable) -> Callable:
        ATTACKS.append(Attack(name, run, options, **more))
        return run

    return add


def expect(answer: Response, *codes: int) -> None:
    """Raise WrongError unless the response is whole and has one of *codes*."""
    if answer.status not in codes or answer.end:
        got = answer.status or answer.end
        raise WrongError(f"got {got} {answer.body[:80]!r}, not {' or '.join(map(str, codes))}")


async def crowd(target: Target, count: int, data: bytes, room: int = 0) -> list[Connection]:
    """Open *count* connections, and send *data* on each."""
    clients = []
    for _ in range(count):
        client = await target.connect(room)
        await client.send(data)
        clients.append(client)
    return clients


async def at_once(count: int, one: Callable[[], Awaitable[Response]]) -> list[Response]:
    return await asyncio.gather(*(one() for _ in range(count)))


# Requests that are cut or run into each other


@attack("smuggled head")
async def _(target: Target) -> None:
    """A header's value that looks like a header, in the segment behind a request answered at once."""
    client = await target.connect()
    await client.send(
        request("/job.rpy") + b"POST /delayed.rpy HTTP/1.1\r\nHost: localhost\r\nX-Note: ",
        b"Content-Length: 45\r\n\r\n",
        request("/job.rpy"),
    )
    got = [await client.response() for _ in range(3)]
    client.close()
    if [answer.status for answer in got] != [200, 405, 200]:
        raise WrongError(f"three requests got {[a.status or a.end for a in got]}")


PIPELINED = [  # each request, and the status of its response
    (request("/delayed.rpy?delay=0"), 200),
    (request("/delayed.rpy?delay=x", "X-Note: Content-Length: 45"), 400),
    (request("/delayed.rpy", method="POST", body=b"GET /smuggled HTTP/1.1\r\n\r\n"), 405),
    (
        request("/form.rpy", "Transfer-Encoding: chunked", method="POST")
        + b"5\r\na=1&b\r\n0\r\n\r\n",
        200,
    ),
    (request("/delayed.rpy?delay=0.01"), 200),
    (request("/nowhere"), 404),
]


@attack("cut pipelines")
async def _(target: Target) -> None:
    """Valid pipelines of six requests, cut at random places."""
    draw = random.Random(1)
    for n in range(20 if target.short else 400):
        chosen = [draw.choice(PIPELINED) for _ in range(6)]
        data = b"".join(sent for sent, _ in chosen)
        cuts = sorted(draw.sample(range(1, len(data)), draw.randint(1, 4)))
        client = await target.connect()
        await client.send(*(data[a:b] for a, b in itertools.pairwise([0, *cuts, len(data)])))
        got = [(await client.response()).status for _ in chosen]
        client.close()
        if got != [status for _, status in chosen]:
            raise WrongError(f"pipeline {n}, cut at {cuts}, got {got}: {data!r}")


@attack("pipelined crowd")
async def _(target: Target) -> None:
    """2,000 requests in one segment, on each of ten connections that read."""
    count = 200 if target.short else 2000
    clients = await crowd(target, 10, request("/delayed.rpy?delay=0") * count)
    await asyncio.gather(*(client.discard(2) for client in clients))
    for client in clients:
        client.close()


# Bodies

URLENCODED = "Content-Type: application/x-www-form-urlencoded"
MULTIPART = "Content-Type: multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n%b\r\n--b--\r\n'


def form(name: str, kind: str, body: Callable[[int], bytes]) -> None:
    """Enter an attack with a form; *body* makes one of about so many bytes."""

    async def run(target: Target) -> None:
        size = 1_000_000 if target.short else 9_900_000
        answer = await target.ask(request("/form.rpy", kind, method="POST", body=body(size)))
        expect(answer, 200, 400, 413)

    run.__doc__ = f"A form of 10 MB for a script that parses it: {name}."
    ATTACKS.append(Attack(f"form, {name}", run))


form("a=1;", URLENCODED, lambda size: b"a=1;" * (size // 4))
form("a=&", URLENCODED, lambda size: b"a=&" * (size // 3))
form("%41&", URLENCODED, lambda size: b"%41&" * (size // 4))
form("bare LF", MULTIPART, lambda size: b"\n--b\n" * (size // 5))
form("a part of CR", MULTIPART, lambda size: PART % (b"\r" * size))
form("its parameters", f"Content-Type: multipart/form-data{'; ' * 7000}", lambda size: b"a=1")


@attack("chunked bodies", descriptors=256)
async def _(target: Target) -> None:
    """130 bodies of unknown length, which take a file each, where there are 256 descriptors."""
    head = request("/delayed.rpy", "Transfer-Encoding: chunked", method="POST")
    body = b"10000\r\n" + b"c" * 0x10000 + b"\r\n"

    async def one() -> str:
        try:
            client = await target.connect()
            await client.send(head, body, body, body)
        except OSError:
            return "RST"
        waiting = asyncio.ensure_future(client.response())
        done, _ = await asyncio.wait([waiting], timeout=3)
        answer = waiting.result() if done else Response(end="accepted")
        waiting.cancel()
        client.close()
        return answer.end or str(answer.status)

    ends = await asyncio.gather(*(one() for _ in range(130)))
    unexpected = set(ends) - {"accepted", "503", "405"}
    if unexpected and not target.plain:
        counts = ", ".join(f"{ends.count(end)} times {end}" for end in sorted(set(ends)))
        raise WrongError(f"a 503 or patience was due: {counts}")


@attack("slow headers", "--header-seconds", "1", "--idle-seconds", "2")
async def _(target: Target) -> None:
    """100 connections that send a byte of a header now and then, and never an end."""
    clients = await crowd(target, 100, b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: ")

    async def trickle(client: Connection) -> None:
        waiting = asyncio.ensure_future(client.must_end(8, "headers that never end"))
        while not waiting.done():
            await client.flood([b"a"])
            await asyncio.wait([waiting], timeout=0.2)
        client.close()
        await waiting

    await asyncio.gather(*map(trickle, clients))


@attack("slow bodies", "--idle-seconds", "1")
async def _(target: Target) -> None:
    """100 bodies that stop in the middle."""
    stopped = request("/delayed.rpy", "Content-Length: 1000", method="POST") + b"some"
    for client in await crowd(target, 100, stopped):
        await client.must_end(8, "a body that never ends")
        client.close()


@attack("connections and resets")
async def _(target: Target) -> None:
    """2,000 requests, each reset at once."""
    for _ in range(200 if target.short else 2000):
        client = await target.connect()
        await client.send(request("/streamed.rpy?interval=0&count=1000"))
        client.reset()


# Scripts, each at the limits of its parameters


async def hammer(target: Target, data: bytes, clients: int, seconds: float = 2) -> None:
    """Send *data* on some connections, and read as fast as it comes."""
    opened = await crowd(target, clients, data)
    await asyncio.gather(*(client.discard(0.5 if target.short else seconds) for client in opened))
    for client in opened:
        client.close()


def at_the_limits(script: dict) -> Iterable[str]:
    """Yield queries with every number at its greatest and every wait at 0, one that is left at a time.

    A wait is a number of seconds, by its name. What can't be combined is tried alone as well.
    """
    waits = (
        "delay",
        "duration",
        "interval",
        "timeout",
        "first",
        "jitter",
        "spread",
        "mean",
        "retry",
    )
    numbers = {
        p["name"]: p["range"].split(" to ")[1] for p in script["parameters"]
        if " to " in p["range"] and p["name"] not in ("status", "until", "code", "since")
    }  # fmt: skip
    zero = {
        p["name"]: "0" for p in script["parameters"] if p["name"] in waits and p["range"][0] == "0"
    }
    yield "&".join(f"{name}={value}" for name, value in zero.items())
    yield "&".join(f"{name}={value}" for name, value in {**numbers, **zero}.items())
    for name, high in numbers.items():
        if name not in zero:
            yield "&".join(f"{n}={v}" for n, v in {**zero, name: high}.items())


def every_script(listed: str) -> None:
    """Enter one attack for each script; *listed* is what `tarry list --json` prints."""
    for script in json.loads(listed):
        name = script["name"]

        async def run(target: Target, script: dict = script, name: str = name) -> None:
            queries = list(dict.fromkeys(at_the_limits(script)))
            if target.short:
                queries = queries[:2]
            head = HANDSHAKE if name == "websocket.rpy" else ()
            for query in queries:
                await hammer(target, request(f"/{name}?{query}&key=attack", *head), 5, 0.7)

        run.__doc__ = (
            f"{name} with each number at its limit and no wait, on five connections that read."
        )
        ATTACKS.append(Attack(f"script {name}", run))


@attack("steps, a long header")
async def _(target: Target) -> None:
    """A header of 15,000 plus signs and a NUL, which a quadratic regular expression is slow for."""
    for _ in range(3):
        answer = await target.ask(request(f"/steps.rpy?header=X-A:{'+' * 15_000}%00"))
        expect(answer, 400)


@attack("dripped, HEAD with gzip")
async def _(target: Target) -> None:
    """50 times HEAD of 10 MB, which need not be compressed."""
    head = request("/dripped.rpy?encoding=gzip&size=10000000&duration=0", method="HEAD")
    for _ in range(5 if target.short else 50):
        expect(await target.ask(head, "HEAD"), 200, 400)


@attack("chat, many messages")
async def _(target: Target) -> None:
    """A chat completion with 320,000 empty messages."""
    for messages in ("{}," * 320_000 + "{}", "[" * 400_000 + "]" * 400_000):
        body = f'{{"model": "m", "messages": [{messages}]}}'.encode()
        asked = request(
            "/chat.rpy/v1/chat/completions",
            "Content-Type: application/json",
            method="POST",
            body=body,
        )
        expect(await target.ask(asked), 200, 400, 413)


@attack("websocket, tiny messages")
async def _(target: Target) -> None:
    """200,000 messages of one byte, as fast as they are taken, from a client that reads the echoes."""
    client = await target.connect()
    await client.send(request("/websocket.rpy", *HANDSHAKE))
    expect(await client.response(), 101)
    count = 20 if target.short else 200
    reading = asyncio.ensure_future(client.discard(10))
    with_limit = client.flood(text_frame(b"a") * 1000 for _ in range(count))
    await asyncio.wait([asyncio.ensure_future(with_limit)], timeout=8)
    client.close()
    await reading


@attack("websocket, a full segment")
async def _(target: Target) -> None:
    """9,000 messages of one byte in one piece with the handshake, from 20 clients at once."""
    await hammer(target, request("/websocket.rpy", *HANDSHAKE) + text_frame(b"a") * 9000, 20, 4)


@attack("websocket, bad handshakes")
async def _(target: Target) -> None:
    """Handshakes without Host, with a short key, two keys, a name that is not ASCII."""
    good = request("/websocket.rpy", *HANDSHAKE)
    key = HANDSHAKE[-1].encode()
    bad = {
        "no Host": good.replace(b"Host: localhost\r\n", b""),
        "HTTP/1.0": good.replace(b"HTTP/1.1", b"HTTP/1.0"),
        "a short key": good.replace(key, b"Sec-WebSocket-Key: a"),
        "two keys": good.replace(key, key + b"\r\n" + key),
        "a subprotocol": good.replace(key, key + b"\r\nSec-WebSocket-Protocol: \xff"),
    }
    for what, data in bad.items():
        answer = await target.ask(data)
        if answer.status not in (400, 426):
            raise WrongError(f"{what}: got {answer.status or answer.end}, not 400")


# Clients that hold something


@attack("pending bodies")
async def _(target: Target) -> None:
    """500 requests that wait 600 s for a body of 100 KB, which need not exist before."""
    before = target.memory()
    clients = await crowd(target, 500, request("/broken.rpy?how=twostatus&size=100000&delay=600"))
    await asyncio.sleep(1)
    each = (target.memory() - before) * 1024 / 500
    for client in clients:
        client.close()
    if each > 40:
        raise WrongError(f"each takes {each:.0f} KB while it waits")


@attack("downloads not read")
async def _(target: Target) -> None:
    """50 downloads of 10 GB that are not read."""
    clients = await crowd(target, 50, request("/throttled.rpy?size=10000000000&rate=0"), room=4096)
    await asyncio.sleep(1 if target.short else 4)
    for client in clients:
        client.close()


@attack("many keys")
async def _(target: Target) -> None:
    """20,000 keys, for each of which a script may keep a state."""
    client = await target.connect()
    for name in ("flaky.rpy?failures=0&key=", "gated.rpy?show&key=", "queued.rpy?show&key="):
        for n in range(0, 1000 if target.short else 7000, 50):
            await client.send(b"".join(request(f"/{name}{n + m}") for m in range(50)))
            for _ in range(50):
                expect(await client.response(), 200, 503)
    client.close()


# The ledger


async def fill(target: Target, count: int, query: str) -> None:
    """Make *count* entries of the ledger, before the attack begins."""
    asked = request(f"/streamed.rpy?{query}")
    for _ in range(0, count, 20):
        clients = await crowd(target, 20, asked)
        for client in clients:
            await client.response()
            client.close()
    target.begin()


@attack("ledger, not read", "--ledger", "10000")
async def _(target: Target) -> None:
    """Ten readers who do not read a ledger of entries with 1,000 writes each."""
    await fill(target, 40 if target.short else 400, "interval=0&count=1000")
    clients = await crowd(target, 10, request("/ledger.rpy"), room=4096)
    await asyncio.sleep(3)
    for client in clients:
        client.close()


@attack("ledger, read", "--ledger", "10000")
async def _(target: Target) -> None:
    """A ledger of entries with 1,000 writes each, read whole."""
    await fill(target, 40 if target.short else 400, "interval=0&count=1000")
    await hammer(target, request("/ledger.rpy"), 1, 8)


@attack("ledger, waited for", "--ledger", "10000")
async def _(target: Target) -> None:
    """20 requests for one entry of 2,000: none needs the others."""
    await fill(target, 200 if target.short else 2000, "count=1&key=full")
    for word in ("until", "await"):  # the second is the parameter's old name
        for _ in range(20):
            answer = await target.ask(request(f"/ledger.rpy?{word}=finished"))
            if answer.status == 400:
                break


@attack("ledger, followed", "--ledger", "10000", "--connections", "3500")
async def _(target: Target) -> None:
    """2,000 followers, and 100 requests that each of them is told of."""
    following = request("/ledger.rpy", "Accept: text/event-stream")
    clients = await crowd(target, 200 if target.short else 2000, following)
    reading = asyncio.gather(*(client.discard(10) for client in clients))
    await asyncio.sleep(1)
    target.begin()
    for _ in range(100):
        await target.ask(request("/delayed.rpy?delay=0"))
    for client in clients:
        client.close()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


# Files and names


@attack("overlapping ranges")
async def _(target: Target) -> None:
    """500 overlapping ranges of a static file."""
    asked = request("/plain.txt", f"Range: bytes={','.join(['0-'] * 500)}")
    answer = await target.ask(asked)
    if not target.plain:
        expect(answer, 200, 400, 416)


def strange_files(folder: Path) -> None:
    os.mkfifo(folder / "fifo.rpy")
    (folder / "folder.rpy").mkdir()


@attack("a FIFO named x.rpy", files=strange_files)
async def _(target: Target) -> None:
    """A FIFO and a folder with the name of a script: every answer must come."""
    for name in ("fifo.rpy", "folder.rpy"):
        answer = await target.ask(request(f"/{name}"))
        if answer.status not in (403, 404):
            raise WrongError(f"{name}: got {answer.status or answer.end}, not 404")


@attack("strange requests")
async def _(target: Target) -> None:
    """Targets, hosts and origins that are not what they look like; each has its answer."""
    if target.plain:
        return
    for target_, head, code in [
        ("plain.txt?u=http://h/echo.rpy", (), 400),
        ("Xecho.rpy", (), 400),
        ("/../../etc/passwd", (), 404),
        ("/%2e%2e/%2e%2e/etc/passwd", (), 404),
        ("/delayed.rpy?delay=0", ("Host: evil.example",), 400),
        ("/delayed.rpy?delay=0", ("Transfer-Encoding: identity, chunked",), 400),
        ("/delayed.rpy?delay=0", (f"Content-Length: {'9' * 5000}",), 400),
        ("/cancellable.rpy/setup.bat?show=recent&key=echo", (), 404),
        ("/steps.rpy/setup.bat?header=Content-Type:application/octet-stream&send=echo", (), 404),
    ]:
        answer = await target.ask(request(target_, *head))
        if answer.status != code:
            raise WrongError(
                f"{target_[:60]} {head}: got {answer.status or answer.end}, not {code}"
            )
    rebound = request("/delayed.rpy?delay=0").replace(b"localhost", b"evil.example")
    expect(await target.ask(rebound), 421)
    foreign = request("/gated.rpy?key=a", "Origin: http://evil.example", method="POST")
    expect(await target.ask(foreign), 403)


# HTTP/2: frames over TLS


def http2(
    name: str, frames: Callable[[], Iterable[bytes]], ends: float = 10, count: int = 20
) -> None:
    """Enter an attack that sends *frames*, after which the connection must end in *ends* seconds."""

    async def run(target: Target) -> None:
        clients = [await target.http2() for _ in range(2 if target.short else count)]
        for client in clients:
            await client.send(PREFACE + frame(SETTINGS))

        async def one(client: Connection) -> None:
            sending = asyncio.ensure_future(client.flood(frames()))
            try:
                await client.must_end(ends, name)
            finally:
                sending.cancel()
                client.close()
                await asyncio.wait([sending])

        await asyncio.gather(*map(one, clients))

    run.__doc__ = f"HTTP/2 with {name}: the connection must end."
    ATTACKS.append(Attack(f"HTTP/2, {name}", run, ("--https", "--idle-seconds", "2")))


def flood_of(first: bytes, *more: bytes) -> Callable[[], Iterable[bytes]]:
    """Frames that begin with *first*, and go on for 20 MB with *more*."""
    block = b"".join(more) * (65536 // len(b"".join(more)) + 1)
    return lambda: itertools.chain([first], itertools.repeat(block, 300))


http2("a PING of three bytes", lambda: [frame(PING, b"abc")])
http2("data after an error", flood_of(frame(PING, b"abc"), frame(DATA, bytes(16000), 0, 1)))
http2(
    "a body that never ends",
    lambda: [frame(HEADERS, fields("/form.rpy", "POST"), END_HEADERS, 1)],
    ends=25,  # seconds: 408 for the stream, then the connection is idle, each with time to read why
)
http2("headers that never end", flood_of(
    frame(HEADERS, fields("/"), 0, 1), frame(CONTINUATION, b"\x10\x01a\x01b" * 100, 0, 1)))  # fmt: skip
http2("no preface", lambda: [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + bytes(100)])
http2("CONNECT without a path", lambda: [
    frame(HEADERS, literal(":method", "CONNECT"), END_HEADERS | END_STREAM, 1)])  # fmt: skip


@attack("HTTP/2, rapid resets", "--https")
async def _(target: Target) -> None:
    """20,000 streams, each reset in the same segment (CVE-2023-44487)."""
    client = await target.http2()
    await client.send(PREFACE + frame(SETTINGS))
    block, count = fields("/delayed.rpy?delay=60"), 1000 if target.short else 20_000
    pairs = (
        frame(HEADERS, block, END_HEADERS | END_STREAM, n)
        + frame(RST_STREAM, bytes([0, 0, 0, 8]), 0, n)
        for n in range(1, 2 * count, 2)
    )
    reading = asyncio.ensure_future(client.discard(10))
    await client.flood(pairs)
    client.close()
    await reading


@attack("HTTP/2, floods", "--https")
async def _(target: Target) -> None:
    """100,000 PINGs, SETTINGS and empty DATA frames, which each ask for an answer."""
    count = 10 if target.short else 100
    for block in (frame(PING, bytes(8)) * 1000, frame(SETTINGS) * 1000):
        client = await target.http2()
        await client.send(PREFACE + frame(SETTINGS))
        reading = asyncio.ensure_future(client.discard(10))
        await client.flood(itertools.repeat(block, count))
        client.close()
        await reading


def everything() -> list[Attack]:
    """Return all attacks. Those on scripts are made from the scripts' manuals."""
    listed = subprocess.run(
        [BINARIES / "tarry", "list", "--json", RPY], capture_output=True, text=True, check=True
    )
    every_script(listed.stdout)
    return ATTACKS
