"""Serve the page and the streams of scripts/bench with Starlette: uvicorn starlette_server:app"""

import asyncio
import json
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

PAGE = b"<html><body>Sorry to keep you waiting.</body></html>\n"


async def delayed(request: Request) -> Response:
    await asyncio.sleep(float(request.query_params["delay"]))  # seconds
    return Response(PAGE, media_type="text/html")


async def streamed(request: Request) -> StreamingResponse:
    clock = asyncio.get_running_loop().time
    arrived, interval = clock(), float(request.query_params["interval"])  # seconds
    count = int(request.query_params["count"])

    async def lines() -> AsyncIterator[bytes]:
        for n in range(count):
            due = n * interval
            await asyncio.sleep(max(0, due - (clock() - arrived)))
            line = {"n": n + 1, "due": round(due, 4), "written": round(clock() - arrived, 4)}
            yield json.dumps(line).encode() + b"\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


app = Starlette(routes=[Route("/delayed.rpy", delayed), Route("/streamed.rpy", streamed)])
