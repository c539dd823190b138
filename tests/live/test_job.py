"""job.rpy over real sockets: a client that follows Location, from the start of a job to its end."""

import json
import socket
from urllib.parse import urljoin

import pytest_twisted
from twisted.internet.defer import ensureDeferred

from tests.live.conftest import ask, until
from tests.live.sockets import reset


async def post(server, query):
    """Start a job and return its URL."""
    url = server.url(f"job.rpy{query}")
    accepted = await ask(url, "POST", data=b"ignored")
    assert accepted.code == 202
    assert int(accepted.header("Retry-After")) >= 1
    return urljoin(url, accepted.header("Location"))


@pytest_twisted.ensureDeferred
async def test_a_job_is_followed_from_202_to_410(server):
    job = await post(server, "?duration=0.3")
    progress = []

    async def done():
        answer = await ask(job)
        told = json.loads(answer.body)
        progress.append(told["progress"])
        assert (answer.code, told["key"]) == (200, job.partition("=")[2])
        assert (answer.header("Retry-After") is None) == (told["state"] != "running")
        return told["state"] == "done" and told

    told = await until(done)
    assert (told["left"], told["result"]) == (0, "0.3 seconds of work")
    assert progress == sorted(progress)
    assert progress[-1] == 1

    brief = await post(server, "?duration=0&keep=0")

    async def gone():
        return (await ask(brief)).code == 410

    await until(gone)
    assert (await ask(brief, "DELETE")).code == 410
    assert (await ask(f"{brief}x")).code == 404


@pytest_twisted.ensureDeferred
async def test_a_job_is_cancelled_at_its_location_whatever_its_key_is(server):
    job = await post(server, "?key=a+%26b%3D%2F%C3%BC%25&duration=600")
    assert (await ask(server.url("job.rpy?key=a+%26b%3D/%C3%BC%25"), "POST")).code == 409
    assert json.loads((await ask(job)).body)["state"] == "running"
    assert json.loads((await ask(job, "DELETE")).body)["state"] == "cancelled"
    told = json.loads((await ask(job)).body)
    assert (told["key"], told["state"]) == ("a &b=/ü%", "cancelled")


@pytest_twisted.ensureDeferred
async def test_a_job_outlives_the_connection_on_which_it_was_started(server):
    async def state():
        answer = await ask(server.url("job.rpy?key=left"))
        return answer.code == 200 and json.loads(answer.body)["state"]

    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"POST /job.rpy?key=left&duration=0.5 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(state)
        reset(client)  # without having read a byte
    await until(lambda: ensureDeferred(state()).addCallback("done".__eq__))
