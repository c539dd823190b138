"""`tarry serve`: start the service, print its URL and its scripts, run until stopped."""

from __future__ import annotations

import ipaddress
import os
import shlex
import sys
from pathlib import Path

import click
from rich.console import Console
from twisted.application.app import startApplication
from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogBeginner, textFileLogObserver
from twisted.python.usage import UsageError
from zope.interface import implementer

from tarry import __version__, listing, script_docs
from tarry.options import Options
from tarry.service import Web, makeService
from tarry.shutdown import handle_signals
from tarry.terminal import printable
from tarry.workers import Supervisor, WorkerConfig


def serve(arguments: list[str]) -> None:
    """Serve until the process is told to stop. *arguments* are those of the command line."""
    options = Options()
    try:
        options.parseOptions(arguments)
        service = makeService(options)
    except UsageError as error:
        raise click.ClickException(f"{error} (all options: tarry serve --help)") from None
    terminal = Terminal()
    application = Application("tarry")
    service.setServiceParent(application)
    try:
        startApplication(application, save=False)
    except CannotListenError as taken:
        reason = getattr(taken.socketError, "strerror", None) or taken.socketError
        raise click.ClickException(
            f"cannot listen on {taken.interface or '*'}:{taken.port} ({reason}): "
            "give another with --port; 0 takes a free one"
        ) from None
    except OSError as error:
        where = os.fsdecode(error.filename2 or error.filename or "the port")
        raise click.ClickException(f"cannot write or listen on {where}: {error.strerror}") from None
    if WorkerConfig.given() is None:
        _announce(options, service)
    terminal.open = True
    reactor.callWhenRunning(handle_signals, reactor, service.reopen)
    reactor.run()


def command(arguments: list[str]) -> str:
    """Return the twistd command that serves the same. Wrong arguments are refused as by `serve`."""
    options = Options()
    try:
        options.parseOptions(arguments)
    except UsageError as error:
        raise click.ClickException(f"{error} (all options: tarry serve --help)") from None
    return shlex.join(["twistd", "-n", "--pidfile=", "tarry", *arguments])


def _announce(options: Options, service: Web | Supervisor) -> None:
    console = Console(highlight=False, soft_wrap=True)
    scheme = "https" if options["certificate"] else "http"
    where = ", ".join(_url(scheme, port) for port in service.ports())
    folder = options.folder()
    console.print(f"tarry {__version__} on [bold]{where}[/bold]\n")
    if folder is not None:
        listing.print_summaries(script_docs.groups(Path(folder)), "/")
    if folder is not None and not options["certificate"]:
        console.print(
            f"\nIn plain Twisted: {printable(shlex.join(options.twistd_command()))}", markup=False
        )
    if options["certificate"]:
        console.print(f"\nTrust it: curl --cacert {options['certificate'].authority} {where}")
    if isinstance(service, Supervisor):
        console.print(f"{len(service.workers)} processes serve, each with its own ledger.")
    for each in service.ports():
        if not _loopback(each):
            console.print(
                "[yellow]Other machines can reach it[/yellow]: --interface 127.0.0.1 if not."
            )
            break
    console.print("Stop it with Ctrl-C.")
    sys.stdout.flush()


def _loopback(port: IListeningPort) -> bool:
    address = port.getHost()
    if not isinstance(address, IPv4Address | IPv6Address):
        return True
    return ipaddress.ip_address(address.host.partition("%")[0]).is_loopback


def _url(scheme: str, port: IListeningPort) -> str:
    address = port.getHost()
    if isinstance(address, IPv4Address | IPv6Address):
        host = f"[{address.host}]" if ":" in address.host else address.host
        return f"{scheme}://{host}:{address.port}/"
    if isinstance(address, UNIXAddress):
        return f"unix:{os.fsdecode(address.name or '')}"
    return str(address)


@implementer(ILogObserver)
class Terminal:
    """Logs to standard error, without Twisted's lines about what starts and stops."""

    def __init__(self) -> None:
        self.write: ILogObserver = textFileLogObserver(sys.stderr)
        self.open = False
        globalLogBeginner.beginLoggingTo([self], discardBuffer=True, redirectStandardIO=False)
        reactor.addSystemEventTrigger("before", "shutdown", self.close)

    def close(self) -> None:
        self.open = False

    def __call__(self, event: LogEvent) -> None:
        ours = not self.open or event.get("log_namespace") == "twisted.internet.base"
        if not ours or event.get("log_level", LogLevel.info) >= LogLevel.warn:
            self.write(event)
