"""Repeats a request of 0.2 s, and reports how late its answers were. A process of its own.

`probe.py PORT [tls]`. It prints a line of JSON once all its connections have had an answer, and one for
each line on standard input: the worst lateness in milliseconds, how many answers and how many failures
since the line before. It ends with its input.
"""

import asyncio
import json
import sys
import time

from wire import PATIENCE, connect, request

CONNECTIONS = 16  # requests that overlap, so that a stop of any length is seen
DELAY = 0.2  # seconds
PERIOD = 0.25  # seconds from one request on a connection to the next
REQUEST = request(f"/delayed.rpy?delay={DELAY}&key=probe")


class Probe:
    def __init__(self, port: int, alpn: str) -> None:
        self.port, self.alpn = port, alpn
        self.forget()

    def forget(self) -> None:
        self.began, self.worst, self.answers, self.failures = time.monotonic(), 0.0, 0, 0

    async def repeat(self, start: float) -> None:
        """Send a request each PERIOD, from *start* on; open a new connection if one fails."""
        while True:
            try:
                client = await connect(self.port, self.alpn)
            except OSError:
                self.failures += 1
                await asyncio.sleep(0.2)
                continue
            while True:
                # On schedule, so that requests stay spread over the period whatever delays them.
                await asyncio.sleep((start - time.monotonic()) % PERIOD)
                sent = time.monotonic()
                await client.send(REQUEST)
                answer = await client.response()
                if answer.status != 200:
                    self.failures += 1
                    client.close()
                    await asyncio.sleep(0.2)
                    break
                self.answers += 1
                self.worst = max(self.worst, time.monotonic() - max(sent, self.began) - DELAY)

    def report(self) -> str:
        told = {"late": self.worst * 1000, "answers": self.answers, "failures": self.failures}
        self.forget()
        return json.dumps(told)


async def main() -> None:
    probe = Probe(int(sys.argv[1]), "http/1.1" if "tls" in sys.argv else "")
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    asked = [loop.create_task(probe.repeat(n * PERIOD / CONNECTIONS)) for n in range(CONNECTIONS)]
    give_up = time.monotonic() + PATIENCE
    while probe.answers < 2 * CONNECTIONS and time.monotonic() < give_up:
        await asyncio.sleep(0.01)
    print(probe.report(), flush=True)
    while await commands.readline():
        print(probe.report(), flush=True)
    for each in asked:
        each.cancel()


asyncio.run(main())
