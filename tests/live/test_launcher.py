"""`tarry` as a person starts it: in its own process, from any folder, however installed."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
import venv
from pathlib import Path

import pytest

from tarry import collection
from tests.live.conftest import BIN, HANG, RPY, TARRY, Server

ROOT = Path(__file__).parents[2]


def get(url):
    with urllib.request.urlopen(url, timeout=HANG) as answer:
        return answer.read()


def run(*command, **options):
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=HANG * 4, **options
    )


def test_it_says_where_it_is_what_there_is_and_how_to_stop_it(tmp_path):
    server = Server(TARRY, folder=tmp_path)
    try:
        assert b"Sorry" in get(server.url("delayed.rpy?delay=0"))
    finally:
        code = server.stop(signal.SIGINT)
    assert code == 0
    lines = server.output.splitlines()
    assert lines[0].endswith(f" on http://127.0.0.1:{server.port}/")
    for script in RPY.glob("*.rpy"):
        assert sum(line.strip().startswith(f"/{script.name} ") for line in lines) == 1
    (plain,) = (line for line in lines if line.startswith("In plain Twisted: "))
    assert "twistd -n web --listen=tcp:0:interface=127.0.0.1 --path=" in plain
    assert "Stop it with Ctrl-C." in lines
    assert "Traceback" not in server.output
    assert "SIGINT" not in server.output
    assert lines[-1].endswith('"GET /delayed.rpy?delay=0 HTTP/1.1" 200 137 "-" "Python-urllib/3.'
                              f'{sys.version_info.minor}"')  # fmt: skip
    assert os.listdir(tmp_path) == []  # no pidfile, no log


def test_the_plain_command_that_it_names_does_the_same(tmp_path):
    shutil.copy(RPY / "delayed.rpy", tmp_path)
    server = Server([*TARRY, "."], folder=tmp_path)
    server.stop()
    (line,) = (x for x in server.output.splitlines() if x.startswith("In plain Twisted: "))
    command = line.removeprefix("In plain Twisted: ").split()
    assert command[-1] == "--path=."
    plain = Server([BIN / command[0], *command[1:]], folder=tmp_path)
    try:
        assert b"Sorry" in get(plain.url("delayed.rpy?delay=0"))
    finally:
        plain.stop()


def test_the_command_that_it_prints_does_the_same(tmp_path):
    shutil.copy(RPY / "delayed.rpy", tmp_path)
    printed = run(*TARRY, "--print-command", tmp_path).stdout.split()
    server = Server([BIN / printed[0], *printed[1:]], folder=tmp_path)
    try:
        assert b"Sorry" in get(server.url("delayed.rpy?delay=0"))
    finally:
        server.stop()
    assert os.listdir(tmp_path) == ["delayed.rpy"]


def test_options_of_twistd_web_work(tmp_path):
    (tmp_path / "start.html").write_text("begin here")
    options = ["--add-header", "X-Mine: yes", "--index", "start.html", "--processor",
               ".none=twisted.web.script.ResourceScript"]  # fmt: skip
    server = Server([*TARRY, *options, tmp_path])
    try:
        with urllib.request.urlopen(server.url(), timeout=HANG) as answer:
            assert (answer.read(), answer.headers["X-Mine"]) == (b"begin here", "yes")
    finally:
        server.stop()


def test_only_this_machine_can_reach_it_unless_told(tmp_path):
    server = Server([BIN / "twistd", "-n", "--pidfile=", "tarry", "--port=0"], folder=tmp_path)
    try:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.2", server.port), timeout=HANG)
    finally:
        server.stop()


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(BIN / "tarry", "serve", "--port", port)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"Error: cannot listen on 127.0.0.1:{port} (Address already in use): "
        "give another with --port; 0 takes a free one\n"
    )


@pytest.mark.parametrize("interface", ["256.1.1.1", "203.0.113.1"])
def test_an_interface_that_is_not_here(interface):
    done = run(BIN / "tarry", "serve", "--port", 0, "--interface", interface)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert interface in done.stderr


def test_fetch_shows_that_requests_do_not_wait_for_each_other():
    server = Server([*TARRY])
    try:
        urls = [server.url(f"delayed.rpy?delay={d}") for d in ("1.0", "0.5")]
        done = run(BIN / "tarry", "fetch", "-n", 2, *urls, env={**os.environ, "COLUMNS": "120"})
    finally:
        server.stop()
    assert done.returncode == 0
    rows = done.stdout.splitlines()[1:]
    assert [row.split()[0] for row in rows] == [urls[1]] * 2 + [urls[0]] * 2
    assert all(row.split()[1] == "200" and "█" in row for row in rows)


def test_fetch_says_in_words_how_there_was_no_answer():
    words = {"empty": "closed", "reset": "reset", "truncated": "cut short", "silent": "timed out"}
    server = Server([*TARRY])
    try:
        urls = [f"broken.rpy?how={how}" for how in words]
        base = f"127.0.0.1:{server.port}"
        done = run(BIN / "tarry", "fetch", "--base", base, "--timeout", "0.5", *urls)
    finally:
        server.stop()
    assert done.returncode == 1
    rows = [row.split(maxsplit=1) for row in done.stdout.splitlines()[1:]]
    assert {row[0].partition("=")[2]: row[1].strip() for row in rows} == words


def test_fetch_where_nothing_listens():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    done = run(BIN / "tarry", "fetch", url)
    assert done.returncode == 1
    assert "no server" in done.stdout
    assert done.stderr == "Error: nothing listens there: start it with 'tarry serve'\n"


def built(kind, folder):
    """Ask the build backend for *kind*, offline, and return the file that it made."""
    call = f"import hatchling.build as b; print(b.build_{kind}({str(folder)!r}))"
    done = run(sys.executable, "-c", call, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """The project's own files in another place, so that building leaves no trace in this one."""
    there = tmp_path / "checkout"
    there.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "launcher", "rpy"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, there / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, there)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", there)
    return there


@pytest.mark.parametrize("kind", ["wheel", "sdist", "editable"])
def test_every_kind_of_install_carries_the_scripts(kind, tmp_path, checkout):
    """In an environment of its own, which borrows only the dependencies from this one."""
    file = built(kind, tmp_path)
    home = tmp_path / "env"
    venv.create(home, with_pip=False)
    (borrowed,) = home.glob("lib/python3*/site-packages")
    python = home / "bin" / "python"
    install = run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "-q",
                  "--ignore-installed",  # as one stands in the borrowed environment
                  "--no-index", "--no-build-isolation", "--disable-pip-version-check", file,
                  env={**os.environ, "PYTHONPATH": ":".join(p for p in sys.path if "site-" in p)},
                  )  # fmt: skip
    assert install.returncode == 0, install.stderr
    paths = "\n".join(p for p in sys.path if p.endswith("site-packages"))
    (borrowed / "zz-borrowed.pth").write_text(f"{paths}\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    alone = {"PYTHONPATH": ""}  # else a checkout that it names would come first
    show = "import tarry; print(tarry.collection())"
    where = run(python, "-c", show, cwd=elsewhere, env={**os.environ, **alone}).stdout
    assert where.strip() == str(checkout / "rpy" if kind == "editable" else borrowed / "tarry/rpy")
    for command in ([home / "bin" / "tarry", "serve"], [python, "-m", "twisted", "tarry"]):
        server = Server([*command, "--port=0"], elsewhere, alone)
        try:
            assert b"Sorry" in get(server.url("delayed.rpy?delay=0"))
        finally:
            server.stop()
    names = {path.name for path in collection().glob("*.rpy")}
    assert {path.name for path in Path(where.strip()).iterdir()} == names
