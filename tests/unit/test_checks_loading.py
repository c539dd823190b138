"""Scripts are loaded in a child process: none hangs `tarry check`, or hides findings of others."""

import os
import time

import pytest

from tarry.checks import check, loading

from .check_cases import HEAD, loaded

GOOD = f"{HEAD}resource = Resource()\n"


DO_NOT_LOAD = [
    ("", 1, "RPY005 nothing is assigned to resource: end with resource = …"),
    ("resources = 1\n", 1, "nothing is assigned to resource"),
    ("resource = None\n", 1, "resource is not a resource but NoneType"),
    (f"{HEAD}resource = Resource\n", 4, "resource is not a resource but class Resource"),
    (
        f"{HEAD}resource = 1\nresource = ''\ndef f():\n    resource = 1\n",
        5,
        "resource is not a resource but str",
    ),
    ("def f():\n    1 / 0\n\nf()\n", 2, "RPY003 loading it raises ZeroDivisionError: division"),
    ("import json\n\njson.loads('')\n", 3, "loading it raises JSONDecodeError: "),
    ("\nimport no_such_module\n", 2, "loading it raises ModuleNotFoundError: "),
    ("raise ValueError\n", 1, "loading it raises ValueError: correct it"),
    ("raise ValueError('two\\nlines')\n", 1, "loading it raises ValueError: two: correct"),
    ("\nraise SystemExit(3)\n", 2, "loading it raises SystemExit: 3"),
    ("\nraise KeyboardInterrupt\n", 2, "loading it raises KeyboardInterrupt: correct it"),
    ("\n\ninput()  # noqa: RPY402\n", 3, "loading it raises EOFError"),
    ("def f():\n    f()\nf()\n", 2, "loading it raises RecursionError"),
    ("class E(Exception):\n    __str__ = None\nraise E\n", 3, "loading it raises E: "),
    (
        "class R:\n    def __conform__(self, _):\n        1 / 0\nresource = R()\n",
        3,
        "loading it raises ZeroDivisionError",
    ),
    ("import os\nos._exit(3)\n", 1, "RPY004 loading it ended the process with exit status 3: "),
    ("import os\nos.kill(os.getpid(), 9)\n", 1, "loading it ended the process by SIGKILL"),
    ("import os\nos.abort()\n", 1, "loading it ended the process by SIGABRT"),
]


def test_scripts_that_do_not_load(tmp_path):
    for number, (source, _, _) in enumerate(DO_NOT_LOAD):
        (tmp_path / f"{number:03}.rpy").write_text(source)
    _, found = check([tmp_path])
    assert [one.path.name for one in found] == [f"{n:03}.rpy" for n in range(len(DO_NOT_LOAD))]
    for one, (_, line, text) in zip(found, DO_NOT_LOAD, strict=True):
        assert one.line == line
        assert text in str(one)


LOAD = [
    "",
    "cache()\nrecache()\nassert registry and __file__",
    "from twisted.application.service import IServiceCollection, Service\n"
    "Service().setServiceParent(registry.getComponent(IServiceCollection))",
    "import warnings\nwarnings.warn('not an error')\nx = '\\d' is ''",
    "# coding: latin-1\nx = '\xff'",
    "\ufeff",
    "import os\nprint('not for the parent')\nos.write(1, b'x' * 100_000)",
    "import os\nos.chdir('/')\nos.close(0); os.close(1); os.close(2)",
    "import os\nif os.fork() == 0: raise ValueError",
    "import threading\nthreading.Thread(target=threading.Event().wait).start()  # noqa",
]


def test_scripts_that_load(tmp_path):
    for number, start in enumerate(LOAD):
        for name, newline in (("unix", "\n"), ("windows", "\r\n")):
            path = tmp_path / f"{number}-{name}.rpy"
            path.write_bytes(f"{start}\n{GOOD}".replace("\n", newline).encode())
    scripts, found = check([tmp_path])
    assert (len(scripts), found) == (2 * len(LOAD), [])


HANGING = [
    ("import threading\nx = 1\nthreading.Event().wait()\n", 3),
    ("from twisted.internet import reactor\n\nreactor.run()  # noqa: RPY402\n", 3),
    ("def f():\n    while True: pass\nf()\n", 2),
    ("import time\ntime.sleep(600)  # noqa: RPY402\n", 2),
    ("try:\n    while True: pass\nfinally: pass\n", 2),
]


def test_scripts_that_never_end_cost_no_finding_of_others(tmp_path):
    names = []
    for number, (source, _) in enumerate(HANGING):
        (tmp_path / f"{number}.rpy").write_text(source)
        names.append(f"{number}.rpy")
    (tmp_path / "a.rpy").write_text("1 / 0\n")
    (tmp_path / "z.rpy").write_text("1 / 0\n")
    scripts, found = check([tmp_path], limit=0.5)
    assert [path.name for path in scripts] == [*names, "a.rpy", "z.rpy"]
    assert [(one.path.name, one.line, one.code) for one in found] == [
        *((name, line, "RPY004") for name, (_, line) in zip(names, HANGING, strict=True)),
        ("a.rpy", 1, "RPY003"),
        ("z.rpy", 1, "RPY003"),
    ]
    assert found[0].problem == "loading it does not end within 0.5 s"


def test_a_script_that_ends_the_process_costs_no_finding_of_others(tmp_path):
    (tmp_path / "b.rpy").write_text("import os\nos._exit(0)\n")
    (tmp_path / "d.rpy").write_text("raise KeyboardInterrupt\n")
    for name in ("a", "c", "e"):
        (tmp_path / f"{name}.rpy").write_text("1 / 0\n")
    _, found = check([tmp_path])
    assert [one.path.name[0] for one in found] == ["a", "b", "c", "d", "e"]


def test_what_holds_python_s_lock_is_stopped_by_the_parent(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "GRACE", 0.2)
    source = "import re\nre.match('(a*)*b', 'a' * 60)\n"  # no other thread runs meanwhile
    [(line, text)] = loaded(tmp_path, source, limit=0.3)
    assert (line, "does not end within 0.3 s" in text) == (1, True)


def test_a_pool_of_threads_does_not_hold_the_check(tmp_path):
    source = f"from twisted.python.threadpool import ThreadPool\nThreadPool().start()\n{GOOD}"
    [(line, text)] = loaded(tmp_path, source)
    assert (line, text.partition(" ")[0]) == (2, "RPY601")


def test_what_a_script_has_started_ends_with_the_check(tmp_path):
    pid = tmp_path / "pid"
    source = (
        "import subprocess\n"
        "process = subprocess.Popen(['sleep', '600'])  # noqa\n"
        f"open({str(pid)!r}, 'w').write(str(process.pid))\n"
    )
    assert loaded(tmp_path, source + GOOD) == []
    end = time.monotonic() + 30
    while running(int(pid.read_text())) and time.monotonic() < end:
        time.sleep(0.01)
    assert not running(int(pid.read_text()))


def running(pid):
    """Whether a process runs: one that has ended may still wait to be reaped."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_modules_beside_the_current_folder_are_not_found(tmp_path, monkeypatch):
    (tmp_path / "neighbour.py").write_text("")
    monkeypatch.chdir(tmp_path)
    [(line, text)] = loaded(tmp_path, f"import neighbour\n{GOOD}")
    assert (line, "ModuleNotFoundError" in text) == (1, True)


def test_what_does_not_parse_is_not_run(tmp_path):
    assert loaded(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'w')\nx = = 1\n")
    assert not (tmp_path / "ran").exists()


def test_a_child_that_does_not_start_is_no_finding(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(RuntimeError, match="/bin/false ended at once"):
        loaded(tmp_path, GOOD)


def test_control_c_ends_the_check_and_the_child(tmp_path, monkeypatch):
    started = []

    def start(*arguments):
        started.append(start_really(*arguments))
        return started[0]

    def interrupted(*_):
        raise KeyboardInterrupt

    start_really = loading._start
    monkeypatch.setattr(loading, "_start", start)
    monkeypatch.setattr(loading, "_next", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loaded(tmp_path, GOOD)
    assert started[0].returncode is not None


def test_a_name_that_is_missing_is_told_once_though_loading_fails_because_of_it(tmp_path):
    for source in (
        "from twisted.web.client import getPage",
        "from twisted.web import client\nclient.getPage(b'')",
        "import twisted.web.woven.page",
        "from twisted.web.resource import Resource\nResource().putChild('x', Resource())",
        "import time\ntime.clock()",
    ):
        [(line, text)] = loaded(tmp_path, source)
        assert line == source.count("\n") + 1
        assert "loading it raises" not in text
    found = loaded(tmp_path, "from twisted.web.resource import NoResource; 1 / 0")
    assert ["loading it raises" in text for _, text in found] == [True, False]


def test_no_child_for_no_script(monkeypatch):
    monkeypatch.setattr(loading, "_start", None)
    assert check([]) == ([], [])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.rpy")
    _, [found] = check([tmp_path])
    assert found.problem == "cannot be read, it is not a file"
