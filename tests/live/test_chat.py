"""chat.rpy with OpenAI's own client: it understands the answers, and its disconnect is noticed."""

import asyncio
import json

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.live.conftest import ask, until

openai = pytest.importorskip("openai")

MESSAGES = [{"role": "user", "content": "How late is it?"}]
FAST = {"delay": 0, "interval": 0, "count": 5}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")


def options(server, query):
    return {
        "base_url": server.url("chat.rpy/v1"),
        "api_key": "none",
        "max_retries": 0,
        "timeout": 30,
        "default_query": query,
    }


@pytest_twisted.ensureDeferred
async def test_the_text_is_the_same_with_and_without_stream(server):
    def talk():
        with openai.OpenAI(**options(server, FAST)) as client:
            create = client.chat.completions.create
            whole = create(model="any", messages=MESSAGES, seed=3)
            chunks = list(create(
                model="any", messages=MESSAGES, seed=3, stream=True, stream_options={"include_usage": True},
            ))  # fmt: skip
            return whole, chunks, [model.id for model in client.models.list()]

    whole, (*chunks, last), models = await deferToThread(talk)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert len(whole.choices[0].message.content.split()) == 5
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert [delta.role for delta in deltas] == ["assistant", None, None, None, None, None]
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "stop"
    assert (last.choices, last.usage.completion_tokens) == ([], 5)
    assert whole.usage.completion_tokens == 5
    assert last.usage.prompt_tokens > whole.usage.prompt_tokens > 0  # its body is longer
    assert models == ["any"]


@pytest_twisted.ensureDeferred
async def test_each_token_is_read_long_before_the_next_is_written(server):
    """Proved by order: of two streams, the one that began first ends last."""

    async def talk():
        seen = []
        async with openai.AsyncOpenAI(**options(server, {})) as client:

            async def listen(name, **query):
                stream = await client.chat.completions.create(
                    model="any", messages=MESSAGES, stream=True, max_tokens=3, extra_query=query
                )
                async for chunk in stream:
                    seen.extend([name] * bool(chunk.choices[0].delta.content))

            await asyncio.gather(
                listen("late", delay=1.5, interval=0.1), listen("early", delay=0.2, interval=0.1)
            )
        return seen

    assert await deferToThread(asyncio.run, talk()) == ["early"] * 3 + ["late"] * 3


@pytest.mark.parametrize(("query", "words", "wrong", "code"), [
    ({"stream": True, "error_after": 3}, 3, openai.APIError, None),
    ({"stream": True, "reset_after": 5}, 5, openai.APIConnectionError, None),  # all, and no end
    ({"stream": True, "status": 429}, 0, openai.RateLimitError, "rate_limit_exceeded"),
    ({"stream": False, "status": 500}, 0, openai.InternalServerError, None),
    ({"stream": False, "error_after": 3}, 0, openai.InternalServerError, None),
    ({"stream": False, "reset_after": 3}, 0, openai.APIConnectionError, None),
    ({"stream": False, "count": 0}, 0, openai.BadRequestError, None),
])  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_each_error_is_an_exception_of_the_client(server, query, words, wrong, code):
    heard = []

    def talk(stream, **query):
        with openai.OpenAI(**options(server, FAST | query)) as client:
            answer = client.chat.completions.create(model="any", messages=MESSAGES, stream=stream)
            heard.extend(chunk.choices[0].delta.content for chunk in answer)

    with pytest.raises(wrong) as raised:
        await deferToThread(talk, **query)
    assert type(raised.value) is wrong
    assert (len(heard), raised.value.code) == (words, code)


@pytest_twisted.ensureDeferred
async def test_a_stream_that_is_closed_stops_and_the_ledger_says_where(server):
    async def talk():
        async with openai.AsyncOpenAI(**options(server, FAST | {"interval": 0.1})) as client:
            stream = await client.chat.completions.create(
                model="any",
                messages=MESSAGES,
                stream=True,
                extra_query={"key": "a", "count": 10000},
            )
            async with stream:
                for _ in range(5):
                    await anext(stream)

    await deferToThread(asyncio.run, talk())
    await until(lambda: "key=a': the client disconnected" in server.output)
    if not server.plain:  # it has a ledger
        entry = json.loads((await ask(server.url("ledger.rpy?until=left&key=a"))).body)
        said, rest = entry["note"].split(" ", 1)
        assert 5 <= int(said) < 50
        assert rest == "of 10000 tokens"
