"""The folder that is served: scripts edited while they are requested, static files, listings."""

import os

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults

from tests.live.conftest import ask, entries, page


@pytest_twisted.ensureDeferred
async def test_a_file_edited_under_load_fails_no_request(site):
    async def asking():
        versions = []
        for _ in range(100):
            answer = await ask(site.url("x.rpy"))
            assert answer.code == 200
            versions.append(int(answer.body))
        return versions

    def version(n):
        (site.folder / "x.new").write_text(page(f"return b'{n}'"))
        os.replace(site.folder / "x.new", site.folder / "x.rpy")

    version(0)
    asked = [ensureDeferred(asking()) for _ in range(5)]
    for n in range(1, 30):
        version(n)
        assert (await ask(site.url("x.rpy"))).body == b"%d" % n
    for versions in await gatherResults(asked):
        assert versions == sorted(versions)


@pytest_twisted.ensureDeferred
async def test_static_files_with_ranges(site):
    (site.folder / "page.txt").write_bytes(bytes(range(65, 91)) * 10_000)
    answer = await ask(site.url("page.txt"))
    assert (answer.code, len(answer.body)) == (200, 260_000)
    part = await ask(site.url("page.txt"), headers={"Range": "bytes=26-28"})
    assert (part.code, part.body) == (206, b"ABC")
    head = await ask(site.url("page.txt"), method="HEAD")
    same = {"If-Modified-Since": answer.header("Last-Modified")}
    unchanged = await ask(site.url("page.txt"), headers=same)
    assert (head.code, unchanged.code) == (200, 304)
    assert [e["bytes"] for e in await entries(site, path="/page.txt")] == [260_000, 3, 0, 0]


@pytest.mark.parametrize("site", [["--listing"]], indirect=True)
@pytest_twisted.ensureDeferred
async def test_a_listing_only_if_asked_for(site):
    (site.folder / "secret.py").write_text("x")
    shown = await ask(site.url())
    assert (shown.code, b"delayed.rpy" in shown.body, b"secret" in shown.body) == (200, True, False)
