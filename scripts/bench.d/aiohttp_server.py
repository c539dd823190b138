"""Serve the page and the streams of scripts/bench with aiohttp: aiohttp_server.py PORT BACKLOG"""

import asyncio
import json
import sys

from aiohttp import web

PAGE = b"<html><body>Sorry to keep you waiting.</body></html>\n"


async def delayed(request: web.Request) -> web.Response:
    await asyncio.sleep(float(request.query["delay"]))  # seconds
    return web.Response(body=PAGE, content_type="text/html", charset="utf-8")


async def streamed(request: web.Request) -> web.StreamResponse:
    clock = asyncio.get_running_loop().time
    arrived, interval = clock(), float(request.query["interval"])  # seconds
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    for n in range(int(request.query["count"])):
        due = n * interval
        await asyncio.sleep(max(0, due - (clock() - arrived)))
        line = {"n": n + 1, "due": round(due, 4), "written": round(clock() - arrived, 4)}
        await response.write(json.dumps(line).encode() + b"\n")
    return response


app = web.Application()
app.router.add_get("/delayed.rpy", delayed)
app.router.add_get("/streamed.rpy", streamed)

if __name__ == "__main__":
    port, backlog = map(int, sys.argv[1:])
    web.run_app(app, host="127.0.0.1", port=port, backlog=backlog, access_log=None, print=None)
