"""Attack a server of the collection on loopback, and print how late others became."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
import time

from attacks import Attack, everything
from target import Probe, Target, answers, pin
from wire import WrongError

HELP = """\
Each attack gets a server of its own, on a free port of 127.0.0.1. Beside it a probe repeats a request
that takes 0.2 s, sixteen at a time: "late" is the worst of what its answers took beyond that, "memory"
what the server took at its peak, in MB.

exit codes: 0 if all is well. 1 if something is wrong: an answer other than expected, a connection that
stays, a traceback, a server that dies or does not stop, too much memory; or an attack that made others
late by more than {bound} ms beyond the baseline, in the best of three runs (not with --short).
"""
BOUND = 50.0  # milliseconds beyond the baseline
LIMIT = {True: 30.0, False: 120.0}  # seconds for one attack, short or not
TRIES = 3
STAYS = 10.0  # seconds after which a connection that is still open stays


def attacked(attack: Attack, target: Target) -> str:
    """Run the attack, in a thread of low priority; return what was wrong."""
    wrong: list[str] = []

    async def limited() -> None:
        await asyncio.wait_for(attack.run(target), LIMIT[target.short])

    def run() -> None:
        pin(-1)
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)  # the probe goes first
        try:
            asyncio.run(limited())
        except WrongError as error:
            wrong.append(str(error))
        except asyncio.TimeoutError:
            wrong.append(f"not over after {LIMIT[target.short]:g} s")
        except Exception as error:
            wrong.append(f"the attack failed: {error!r}")

    thread = threading.Thread(target=run, daemon=True)  # Ctrl-C does not wait for it
    thread.start()
    thread.join()
    return "; ".join(wrong)


def what_stays(target: Target, before: int) -> str:
    """Wait for descriptors to be closed; return what stays open."""
    give_up = time.monotonic() + STAYS
    while target.descriptors() > before + 3 and time.monotonic() < give_up:
        time.sleep(0.1)
    stays = target.descriptors() - before
    return f"{stays} descriptors stay open" if stays > 3 else ""


def once(attack: Attack, plain: bool, short: bool) -> tuple[float, float, list[str]]:
    """Start a server and attack it; return lateness in ms, memory in MB, and what was wrong."""
    late = memory = 0.0
    wrong = []
    try:
        target = Target(plain, short, list(attack.options), attack.descriptors, attack.files)
    except WrongError as error:
        return late, memory, [str(error)]
    try:
        target.probe = Probe(target)
        before = target.descriptors()
        target.begin()
        wrong.append(attacked(attack, target))
        time.sleep(0.5)
        if not target.alive():
            return late, memory, [*wrong, f"the server died: {target.output[-300:]}"]
        told = target.probe.report()
        late, memory = told["late"], target.memory("VmHWM") - target.size
        wrong.append("" if told["answers"] else "the probe got no answer")
        wrong.append(what_stays(target, before))
        wrong.append(answers(target))
        if memory > attack.megabytes:
            wrong.append(f"it took {memory:.0f} MB")
    except WrongError as error:
        wrong.append(str(error))
    finally:
        if target.probe:
            target.probe.stop()
        wrong.append(target.stop())
    if "Traceback" in target.output or "Unhandled" in target.output:
        wrong.append(f"{target.output.count('Traceback')} tracebacks in the log")
    return late, memory, wrong


async def nothing(target: Target) -> None:
    """Nothing, for a while: the baseline."""
    await asyncio.sleep(0.5 if target.short else 2)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/attack", description=__doc__, epilog=HELP.format(bound=f"{BOUND:g}"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="only attacks whose name has this in it"
    )
    parser.add_argument("--plain", action="store_true", help="attack plain `twistd web` instead")
    parser.add_argument(
        "--short", action="store_true", help="small attacks, for CI; lateness is not judged"
    )
    parser.add_argument("--list", action="store_true", help="say what each attack sends, and end")
    asked = parser.parse_args()
    attacks = [a for a in everything() if not asked.names or any(n in a.name for n in asked.names)]
    if asked.plain:
        attacks = [a for a in attacks if not a.options]
    if not attacks:
        parser.error(f"no attack has {' or '.join(asked.names)} in its name: see --list")
    wide = max(len(attack.name) for attack in attacks)
    if asked.list:
        for attack in attacks:
            print(f"{attack.name:{wide}}  {attack.what}")
        return 0

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and stop the server on the way out
    print(f"{'attack':{wide}}  {'late, ms':>8}  {'memory':>6}")
    baseline, _, wrong = once(Attack("nothing", nothing), asked.plain, asked.short)
    print(
        f"{'nothing':{wide}}  {baseline:8.1f}  {'':6}  {' '.join(filter(None, wrong))}", flush=True
    )
    bad = 0
    for attack in attacks:
        late = float("inf")
        for _ in range(1 if asked.short else TRIES):
            found, memory, wrong = once(attack, asked.plain, asked.short)
            late = min(late, found)
            if any(wrong) or late <= baseline + BOUND:
                break
        else:
            if not asked.short:
                wrong.append(f"late by more than {BOUND:g} ms")
        problems = "; ".join(filter(None, wrong))
        bad += bool(problems)
        print(f"{attack.name:{wide}}  {late:8.1f}  {memory:6.0f}  {problems}", flush=True)
    print(f"{len(attacks) - bad} of {len(attacks)} attacks withstood")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
