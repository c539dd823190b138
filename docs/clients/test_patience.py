import json
import subprocess
from urllib.request import urlopen

import pytest


@pytest.fixture(scope="session")
def server():
    """The address of a server that runs as long as the tests; its first line says where."""
    command = ["tarry", "serve", "--port=0", "--quiet"]  # nobody reads what it has to say later
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().split()[-1]
        process.terminate()


def test_the_client_gives_up_and_closes_the_connection(server):
    with pytest.raises(TimeoutError):
        urlopen(f"{server}cancellable.rpy?duration=60&key=patience", timeout=0.5)

    ended = []
    while not ended:
        with urlopen(f"{server}cancellable.rpy?show=recent&key=patience") as answer:
            ended = json.load(answer)
    assert ended[0]["outcome"] == "cancelled"
