"""What clients make of each fault of broken.rpy, which is the table of docs/faults.md.

`python -m tests.live.faults` writes the table again, for the clients installed here.
"""

import asyncio
import importlib.metadata
import re
import shutil
import subprocess
from pathlib import Path

import aiohttp
import httpx
import requests
import treq
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread
from twisted.web.client import HTTPConnectionPool
from twisted.web.script import ResourceScript
from twisted.web.static import Registry

from tests.live.conftest import HANG, RPY, TARRY, Server

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
MARKED = re.compile(r"(?<=<!-- faults:begin -->\n).*(?=<!-- faults:end -->)", re.DOTALL)
WAYS = ResourceScript(str(RPY / "broken.rpy"), Registry()).render_GET.__globals__["WAYS"]
PATIENCE = 0.5  # seconds, with what never ends


def by_curl(url, patience):
    command = ["curl", "--silent", "--compressed", "--noproxy", "*", "--max-time", str(patience)]
    command += ["--write-out", "%{stderr}%{http_code}", url]
    done = subprocess.run(command, capture_output=True, check=True)
    return done.stderr.decode(), done.stdout


def by_requests(url, patience):
    with requests.Session() as session:
        session.trust_env = False  # no proxies
        answer = session.get(url, timeout=patience)
        return answer.status_code, answer.content


def by_httpx(url, patience):
    answer = httpx.get(url, timeout=patience, trust_env=False)
    return answer.status_code, answer.content


def by_aiohttp(url, patience):
    async def ask():
        timeout = aiohttp.ClientTimeout(sock_read=patience)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
            return answer.status, await answer.read()

    return asyncio.run(ask())


class Pool(HTTPConnectionPool):
    """Keeps no connection, and knows the last: what times out within a body leaves it open."""

    connection = None

    async def taken(self, getting):
        self.connection = await getting
        return self.connection

    def getConnection(self, key, endpoint):
        return ensureDeferred(self.taken(super().getConnection(key, endpoint)))


async def by_treq(url, patience):
    pool = Pool(reactor, persistent=False)
    try:
        answer = await treq.get(url, timeout=patience, pool=pool)
        return answer.code, await treq.content(answer).addTimeout(patience, reactor)
    finally:
        pool.connection.abort()


CLIENTS = {  # each with what its behaviour hangs on
    "curl": (by_curl, ()),
    "treq": (by_treq, ("treq", "Twisted")),
    "requests": (by_requests, ("requests", "urllib3")),
    "httpx": (by_httpx, ("httpx", "httpcore", "h11")),
    "aiohttp": (by_aiohttp, ("aiohttp",)),
}


def version(name):
    if name == "curl":
        return subprocess.run(["curl", "-V"], capture_output=True, text=True).stdout.split()[1]
    first, *others = map(importlib.metadata.version, CLIENTS[name][1])
    return first + "".join(f", {n} {v}" for n, v in zip(CLIENTS[name][1][1:], others, strict=True))


async def outcome(client, url, patience):
    """The name of the exception, or curl's exit code; without one, how much was taken for all."""
    try:
        asked = client(url, patience) if client is by_treq else deferToThread(client, url, patience)
        status, body = await asked
    except subprocess.CalledProcessError as wrong:
        return f"`{wrong.returncode}`"
    except Exception as wrong:
        return f"`{type(wrong).__name__}`"
    return f"**{status}, {len(body)} bytes**"


async def column(server, name):
    """The table's column of the client *name*: its version, and an outcome for each fault."""
    cells = {"version": version(name)}
    for how, (_, end) in WAYS.items():
        patience = PATIENCE if end == "silence" else HANG
        url = server.url(f"broken.rpy?how={how}&key=faults")
        cells[f"`{how}`"] = await outcome(CLIENTS[name][0], url, patience)
    return cells


def table(columns):
    """*columns*, by client, as Markdown."""
    rows = [("how", *columns), ["---"] * (1 + len(columns))]
    rows += [(row, *(cells[row] for cells in columns.values())) for row in columns["curl"]]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def shown(text):
    """The columns that a page shows, by client: what `table` was given."""
    (_, *names), _, *rows = (
        line[2:-2].split(" | ") for line in MARKED.search(text)[0].splitlines()
    )
    return {name: {row[0]: row[n] for row in rows} for n, name in enumerate(names, 1)}


async def main(reactor):
    server = Server([*TARRY, RPY])
    try:
        made = table({name: await column(server, name) for name in CLIENTS})
    finally:
        server.stop()
    PAGE.write_text(MARKED.sub(lambda _: made, PAGE.read_text()))
    print(made, end="")


if __name__ == "__main__":
    if not shutil.which("curl"):
        raise SystemExit("curl is not installed, and has a column in the table")
    react(lambda reactor: ensureDeferred(main(reactor)))
