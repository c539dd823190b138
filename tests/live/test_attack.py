"""scripts/attack, on scripts that do what it looks for: a tool that finds nothing proves nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.conftest import page
from tests.live.sockets import HANG

ROOT = Path(__file__).parents[2]
COMMAND = [ROOT / "scripts" / "attack.d" / "attack.py", "--short"]


@pytest.fixture
def modules(monkeypatch):
    """The program's modules, imported as it imports them."""
    monkeypatch.syspath_prepend(ROOT / "scripts" / "attack.d")
    import attack
    import attacks

    yield attack, attacks
    for name in ("attack", "attacks", "target", "wire"):
        del sys.modules[name]


def scripts(**bodies):
    """Return a function that puts scripts into a folder; each has the body of a render_GET."""

    def put(folder):
        for name, body in bodies.items():
            (folder / f"{name}.rpy").write_text(f"import os, sys, time\n{page(body)}")

    return put


def found(modules, files, target_path, megabytes=64):
    """Return lateness, memory and problems of an attack that requests *target_path*."""
    attack, attacks = modules

    async def run(target):
        client = await target.connect()
        await client.send(attacks.request(target_path))
        await client.response()
        client.close()

    entry = attacks.Attack("one request", run, files=files, megabytes=megabytes)
    late, memory, wrong = attack.once(entry, plain=False, short=True)
    return late, memory, "; ".join(filter(None, wrong))


def test_a_script_that_blocks_is_seen(modules):
    late, _, wrong = found(modules, scripts(slow="time.sleep(0.5); return b''"), "/slow.rpy")
    assert late > 300
    assert wrong == ""


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("1 / 0", "1 tracebacks in the log"),
        ("sys.kept = bytearray(os.urandom(10)) * 10_000_000; return b''", "it took "),
        ("sys.kept = [open('/dev/null') for _ in range(9)]; return b''",
         "9 descriptors stay open"),
        ("os._exit(1)", "the server died: "),
    ],
)  # fmt: skip
def test_what_a_server_does_wrong_is_said(modules, monkeypatch, body, problem):
    monkeypatch.setattr(modules[0], "STAYS", 1)
    assert problem in found(modules, scripts(wrong=body), "/wrong.rpy")[2]


def test_it_exits_with_0_if_all_is_well():
    command = [sys.executable, *map(str, COMMAND), "smuggled"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG * 4)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "1 of 1 attacks withstood"


def test_each_script_is_attacked():
    command = [sys.executable, *map(str, COMMAND), "--list"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=HANG).stdout
    for script in (ROOT / "rpy").glob("*.rpy"):
        assert f"script {script.name} " in listed
