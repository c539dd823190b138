"""What a folder serves: scripts by Twisted's contract, files, and never a source."""

import os

import pytest
from treq.testing import StubTreq
from twisted.web.script import ResourceScript
from twisted.web.static import Data

from tarry import script_loader as module
from tarry.script_directory import ScriptDirectory

KINDS = {"kept": "recache()", "cached": "cache()", "run each time": ""}


def script(text, keep="recache()", head=""):
    return f"""{head}
from twisted.web.static import Data
{keep}
registry.loads = getattr(registry, "loads", 0) + 1
resource = Data({text!r}.encode(), "text/plain")
"""


class Served:
    """A folder, and a client that asks for what is in it."""

    def __init__(self, path):
        self.path, self.folder = path, ScriptDirectory(str(path))
        self.folder.processors = {".rpy": ResourceScript}
        self.folder.scripts.reactor = self  # here each request is a reactor's turn of its own
        self.treq = StubTreq(self.folder)

    def callLater(self, delay, function):
        function()

    def write(self, name, text):
        """As an editor does that puts a new file in place of the old."""
        new = self.path / "new"
        new.write_text(text)
        os.replace(new, self.path / name)

    def get(self, name, **options):
        results = []
        answered = self.treq.get(f"http://localhost/{name}", **options)
        answered.addCallback(lambda r: self.treq.content(r).addCallback(lambda b: (r.code, b)))
        answered.addCallback(results.append)
        self.treq.flush()
        return results[0]

    @property
    def loads(self):
        return self.folder.registry.loads


@pytest.fixture
def served(tmp_path):
    return Served(tmp_path)


@pytest.mark.parametrize("keep", list(KINDS.values()), ids=KINDS)
def test_the_first_request_after_an_edit_has_the_new_script(served, keep):
    for n in range(3):
        served.write("x.rpy", script(f"version {n}", keep))
        for _ in range(2):
            assert served.get("x.rpy") == (200, f"version {n}".encode())


@pytest.mark.parametrize(("keep", "loads"), [("recache()", 1), ("cache()", 1), ("", 5)])
def test_how_often_a_script_is_run(served, keep, loads):
    served.write("x.rpy", script("a", keep))
    for _ in range(5):
        served.get("x.rpy")
    assert served.loads == loads


@pytest.mark.parametrize("keep", list(KINDS.values()), ids=KINDS)
def test_a_version_is_compiled_once(served, keep, monkeypatch):
    compiled = []

    def counting(*arguments, **options):
        compiled.append(arguments[1])
        return compile(*arguments, **options)

    monkeypatch.setattr(module, "compile", counting, raising=False)
    for version in ("a", "b"):
        served.write("x.rpy", script(version, keep))
        for _ in range(3):
            served.get("x.rpy")
    assert len(compiled) == 2


def test_an_edit_in_place_of_the_same_size_is_noticed(served):
    path = served.path / "x.rpy"
    path.write_text(script("aaa"))
    assert served.get("x.rpy") == (200, b"aaa")
    path.write_text(script("bbb"))
    before = path.stat().st_mtime_ns
    os.utime(path, ns=(before + 1, before + 1))
    assert served.get("x.rpy") == (200, b"bbb")


def test_a_new_file_with_the_old_time_and_size_is_noticed(served):
    served.write("x.rpy", script("aaa"))
    old = (served.path / "x.rpy").stat()
    assert served.get("x.rpy") == (200, b"aaa")
    (served.path / "y").write_text(script("bbb"))
    os.utime(served.path / "y", ns=(old.st_atime_ns, old.st_mtime_ns))
    os.replace(served.path / "y", served.path / "x.rpy")
    assert served.get("x.rpy") == (200, b"bbb")


FAULTS = [
    ("def (:\n", "x.rpy:1: invalid syntax"),
    ("a = 1\nb = )\n", "x.rpy:2: unmatched ')'"),
    ("a = 1\n\n1 / 0\n", "x.rpy:3: ZeroDivisionError: division by zero"),
    ("import nowhere_to_be_found\n", "x.rpy:1: ModuleNotFoundError: No module named"),
    ("a = 1\n", "x.rpy:1: no resource: let the script end with 'resource = …'"),
    ("resource = 5\n", "x.rpy:1: resource is a int: it must be a Resource"),
    ("raise ValueError('two\\nlines')\n", "x.rpy:1: ValueError: two"),
    ("\0", "x.rpy:1: "),
]


@pytest.mark.parametrize(("source", "line"), FAULTS)
def test_a_broken_edit_says_where_once_in_the_log_and_heals(served, logged, source, line):
    served.write("x.rpy", script("good"))
    assert served.get("x.rpy") == (200, b"good")
    served.write("x.rpy", source)
    for _ in range(3):
        code, body = served.get("x.rpy")
        assert code == 500
        assert body.decode().startswith(line)
        assert body.count(b"\n") == 1
        assert str(served.path).encode() not in body
    assert logged().count(line) == 1
    served.write("x.rpy", script("healed"))
    assert served.get("x.rpy") == (200, b"healed")


def test_what_fails_only_now_and_then_is_tried_again(served):
    served.write("x.rpy", "import os\n1 / len(os.environ.get('TARRY_TEST', ''))\n" + script("up"))
    assert served.get("x.rpy")[0] == 500
    os.environ["TARRY_TEST"] = "1"
    try:
        assert served.get("x.rpy") == (200, b"up")
    finally:
        del os.environ["TARRY_TEST"]


def test_a_deleted_script_is_not_found_until_it_is_back(served):
    served.write("x.rpy", script("a"))
    assert served.get("x.rpy")[0] == 200
    (served.path / "x.rpy").unlink()
    assert served.get("x.rpy")[0] == 404
    served.write("x.rpy", script("b"))
    assert served.get("x.rpy") == (200, b"b")


def test_a_script_that_breaks_half_way_is_not_kept(served):
    served.write("x.rpy", script("half") + "1 / 0\n")
    assert served.get("x.rpy")[0] == 500
    assert served.folder.registry.getCachedPath(str(served.path / "x.rpy")) is None


def test_scripts_in_folders_and_below_scripts(served):
    (served.path / "sub").mkdir()
    served.write("sub/x.rpy", script("deep"))
    assert served.get("sub/x.rpy") == (200, b"deep")
    served.write("sub/x.rpy", script("edited"))
    assert served.get("sub/x.rpy") == (200, b"edited")
    served.write("leaf.rpy", "from twisted.web.static import Data\nresource = Data(b'', 'a/b')\n"
                             "resource.isLeaf = True\nresource.render_GET = lambda r: r.postpath[0]\n"
                             "resource.render = resource.render_GET\n")  # fmt: skip
    assert served.get("leaf.rpy/more") == (200, b"more")
    assert served.get("sub/x.rpy/more")[0] == 404


def test_an_index_and_no_listing(served):
    (served.path / "sub").mkdir()
    served.write("sub/page.html", "hello")
    assert served.get("")[0] == 404
    assert served.get("sub/")[0] == 404
    served.write("sub/index.rpy", script("index"))
    assert served.get("sub/") == (200, b"index")


def test_a_listing_shows_only_what_is_served(served):
    for name in ("page.html", "x.rpy", "secret.py", ".hidden", "x.rpy~"):
        (served.path / name).write_text("text")
    served.folder.listing = True
    code, body = served.get("")
    assert code == 200
    for name, shown in [("page.html", 1), ("x.rpy", 1), ("secret.py", 0), ("hidden", 0), ("~", 0)]:
        assert (f'href="{name}"' in body.decode() or f">{name}<" in body.decode()) == bool(shown)


NEVER_SHOWN = [
    "x.RPY", "x.Rpy", "x.rpy~", "x.rpy.bak", "x.rpy.orig", ".x.rpy.swp", "#x.rpy#", "x.py", "X.PY", "x.pyc",
    ".hidden", ".htpasswd", "x.epy", "x.cgi", "x.html~", ".git", "x.rpy.tmp.123", "x.rpy,v",
]  # fmt: skip
MARK = "SECRET-SOURCE"


@pytest.mark.parametrize("name", NEVER_SHOWN)
def test_sources_and_leftovers_are_never_shown(served, name):
    (served.path / name).write_text(MARK)
    quoted = name.replace("#", "%23")
    for asked in (quoted, f"{quoted}/", f"./{quoted}", quoted.replace(".", "%2E")):
        code, body = served.get(asked)
        assert code == 404
        assert MARK.encode() not in body


def test_links(served, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "file.txt").write_text(MARK)
    (outside / "x.rpy").write_text(script(MARK))
    served.write("in.rpy", script("inside"))
    served.write("in.py", MARK)
    links = {
        "out.txt": outside / "file.txt",
        "out.rpy": outside / "x.rpy",
        "folder": outside,
        "noextension": served.path / "in.rpy",
        "page.html": served.path / "in.rpy",
        "plain.txt": served.path / "in.py",
        "text.rpy": outside / "file.txt",
        "up": served.path.parent,
        "loop.rpy": served.path / "loop.rpy",
    }
    for name, target in links.items():
        (served.path / name).symlink_to(target)
    for asked in [*links, "folder/file.txt", "folder/x.rpy", f"up/{served.path.name}/in.py"]:
        code, body = served.get(asked)
        assert code in (302, 404), asked
        assert MARK.encode() not in body
        assert code != 302 or served.get(f"{asked}/")[0] == 404
    (served.path / "same.rpy").symlink_to("in.rpy")
    assert served.get("same.rpy") == (200, b"inside")


@pytest.mark.parametrize("path", ["%00", "x.rpy%00", "..%2f..%2fetc%2fpasswd", "%2e%2e/x", "%ff",
                                  "a" * 5000, "x.rpy%0a", "~", "%2f", "con", "sub%2fx.rpy"])  # fmt: skip
def test_strange_names_are_not_found(served, path):
    served.write("x.rpy", script("a"))
    assert served.get(path)[0] == 404


def test_a_processor_that_is_asked_for_is_used(served):
    served.folder.processors = {".cgi": lambda path, registry: Data(b"processed", "text/plain")}
    served.write("x.cgi", "")
    assert served.get("x.cgi") == (200, b"processed")


def test_names_found_by_ignoring_extensions_are_checked_too(served):
    served.folder.ignoreExt(".py")
    served.folder.ignoreExt(".rpy")
    served.write("x.py", MARK)
    assert served.get("x")[0] == 404
    (served.path / "x.py").unlink()
    served.write("x.rpy", script("found"))
    assert served.get("x") == (200, b"found")


def test_a_script_that_vanishes_between_two_looks(served, monkeypatch):
    served.write("x.rpy", script("a"))
    monkeypatch.setattr("builtins.open", lambda *_, **__: os.stat("/nowhere"))
    code, _ = served.get("x.rpy")
    monkeypatch.undo()
    assert code == 404
    assert served.get("x.rpy") == (200, b"a")


@pytest.mark.parametrize("name", ["pipe.rpy", "pipe.txt", "index.rpy"])
def test_a_fifo_is_not_opened(served, name):
    os.mkfifo(served.path / name)
    assert served.get(name)[0] == 404
    assert served.get("")[0] == 404


def test_a_folder_with_the_name_of_a_script_is_not_found(served):
    (served.path / "d.rpy").mkdir()
    (served.path / "d.rpy" / "x.txt").write_text("inside")
    assert served.get("d.rpy")[0] == 404
    assert served.get("d.rpy/x.txt")[0] == 404


def test_only_so_many_ranges_of_a_file_are_sent(served):
    served.write("x.txt", "0123456789")
    code, body = served.get("x.txt", headers={"Range": "bytes=" + ",".join(["0-9"] * 500)})
    assert (code, body) == (416, b"over 16 ranges: ask for fewer\n")
