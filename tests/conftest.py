"""How tests are spread over workers: `scripts/test` runs pytest with `-n 4 --dist loadgroup`."""

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keep tests that share a server on one worker. Every other test may run on any worker.

    Those of the documents come first: some take half a minute, and would be alone at the end.
    """
    items.sort(key=lambda item: item.path.stem != "test_documents")
    for item in items:
        definitions = item._fixtureinfo.name2fixturedefs.get("server")
        if definitions and definitions[-1].scope == "module":
            kind = item.callspec.params.get("server", "") if hasattr(item, "callspec") else ""
            item.add_marker(pytest.mark.xdist_group(f"{item.path.stem} {kind}"))
