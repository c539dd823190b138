import json
import subprocess
from urllib.request import urlopen

import pytest


@pytest.fixture(scope="session")
def server():
    """Yield the URL of a server that runs as long as the tests. Its first line has it."""
    command = ["tarry", "serve", "--port=0", "--quiet"]  # quiet, as nothing reads what it prints
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().split()[-1]
        process.terminate()


def test_the_client_times_out_and_closes_the_connection(server):
    with pytest.raises(TimeoutError):
        urlopen(f"{server}cancellable.rpy?duration=60&key=patience", timeout=0.5)

    ended = []
    while not ended:
        with urlopen(f"{server}cancellable.rpy?show=recent&key=patience") as answer:
            ended = json.load(answer)
    assert ended[0]["outcome"] == "cancelled"
