"""`tarry check`: find what is wrong with `.rpy` scripts before a client does.

files.py reads each script and runs the rules of rules.py over its source; loading.py then loads it
in a child process. No request is made.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable
from pathlib import Path

from tarry.checks import files, loading
from tarry.checks.child import Report
from tarry.checks.files import Checked
from tarry.checks.findings import Finding
from tarry.checks.source import own

__all__ = ["LIMIT", "Finding", "check"]

LIMIT = 10.0  # seconds that loading a script may take


def check(paths: Iterable[Path], limit: float = LIMIT) -> tuple[list[Path], list[Finding]]:
    """Return the scripts checked, and what is wrong with them, both sorted.

    A folder stands for all below it, a file for itself. Scripts are loaded, which runs them: check
    only what you would serve. One that takes more than *limit* seconds to load is stopped.
    """
    scripts: set[Path] = set()
    findings: set[Finding] = set()
    for path in paths:
        if not os.path.isdir(path):  # Path.is_dir raises if a folder above may not be entered
            scripts.add(path)
            continue
        found, errors = files.below(path)
        findings.update(files.unreadable(Path(error.filename), error) for error in errors)
        scripts.update(file for file in found if file.suffix == ".rpy")
        if any(file.suffix.lower() == ".rpy" for file in found):
            findings.update(finding for file in found for finding in files.exposed(file))
    checked = {path: Checked(path) for path in sorted(scripts)}
    loadable = [path for path, each in checked.items() if each.tree]
    for path, report in loading.reports(loadable, limit):
        _loaded(checked[path], report, limit)
    findings.update(finding for each in checked.values() for finding in each.findings)
    return sorted(scripts), sorted(findings)


def _loaded(script: Checked, report: Report, limit: float) -> None:
    """Add what loading a script has shown."""
    known = {finding.line for finding in script.findings}
    if "raises" in report and not (report["name_is_missing"] and report["line"] in known):
        text = f"{report['raises']}: {report['message']}".removesuffix(": ")
        remedy = "correct it: each request fails until then"
        script.add("RPY003", report["line"], f"loading it raises {text}", remedy)
    if "overdue" in report:
        problem = f"loading it does not end within {limit:g} s"
        script.add("RPY004", report["overdue"], problem, "no request is answered until it ends")
    if "ended" in report:
        problem = f"loading it ended the process {report['ended']}"
        script.add("RPY004", 1, problem, "remove that: it would end the server")
    if "resource" in report and script.tree:
        names = [node for node in own(script.tree) if isinstance(node, ast.Name)]
        line = max((node.lineno for node in names if node.id == "resource"), default=1)
        what = f"resource is not a resource but {report['resource']}"
        problem = what if report["resource"] else "nothing is assigned to resource"
        script.add(
            "RPY005", line, problem, "end with resource = …, an instance of a Resource class"
        )
