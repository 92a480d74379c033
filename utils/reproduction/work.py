"""Executes the runs of an experiment, in one process or in several that share the folder.

Nothing is remembered but on the disk: what is done is read off the files, and who does what off the claims beside them.
A process takes the first run that is to do and that nobody has claimed; when nothing else is left, it waits for others.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from utils.common.errors import UserError
from utils.common.locks import hold
from utils.common.processes import say
from utils.common.signals import SIGNALS, Stopped
from utils.reproduction import claims
from utils.reproduction.claims import Claim
from utils.reproduction.plan import Run
from utils.reproduction.protocol_steps import Step, TrainingStep, command, shown
from utils.reproduction.run_scripts import CommandRunner

LOOK = 5.0  # seconds between two looks at what others do
LEAVE = 60.0  # seconds of a budget that are left for saving, or a tenth of it


class _Busy(Exception):
    """Another process does this work; the message names it."""


@dataclass
class Work:
    """The runs to execute, and how.

    Attributes:
        runs: in the order of their execution.
        claims: the folder of the runs' claims.
        steps: of a run.
        is_finished: whether nothing is to be done for a run.
        finish: called when all steps of a run are done, with the seconds that this process has taken for each that it
            has run, by title.
        processes: for each script.
        keep_going: a run that fails does not keep the others from being run; the failures are raised at the end.
    """

    runs: Sequence[Run]
    claims: Path
    steps: Callable[[Run], list[Step]]
    is_finished: Callable[[Run], bool]
    finish: Callable[[Run, list[Step], Mapping[str, float]], None]
    processes: int = 1
    keep_going: bool = False
    failed: dict[object, str] = field(default_factory=dict)  # by the run's key, or the folder of its phase 1


def runner_for(budget: float | None) -> CommandRunner:
    """A runner that stops before `budget` minutes are over, early enough for a script to save."""
    seconds = None if budget is None else 60 * budget
    return CommandRunner(None if seconds is None else seconds - min(LEAVE, seconds / 10))


def work_through(work: Work, runner: CommandRunner) -> int:
    """Executes runs until all are finished; returns how many this process has finished.

    Raises:
        Stopped: at a signal or when the runner's time is out; the running script was told and has saved.
        UserError: if a script has failed.
    """
    waited_for, done = None, 0
    while True:
        busy: list[tuple[Run, str]] = []
        for run in work.runs:
            if run.key in work.failed or work.is_finished(run):
                continue
            if runner.stopped():
                raise _stopped(work, runner, f"before {run.title}")
            try:
                done += _claim_and_do(work, runner, run)
            except _Busy as holder:
                busy.append((run, str(holder)))
                continue
            waited_for = None
            break  # what has become free meanwhile comes first again
        else:
            if not busy:
                break
            run, holder = busy[0]
            if waited_for != holder:
                say(f"waiting for {holder}: nothing else is left to do ({len(busy)} runs are unfinished)")
                waited_for = holder
            _sleep(work, runner, f"while waiting for {run.title}")
    if work.failed:
        raise UserError("; ".join(dict.fromkeys(work.failed.values())))
    return done


def _sleep(work: Work, runner: CommandRunner, where: str) -> None:
    until = time.monotonic() + LOOK
    while time.monotonic() < until:
        if runner.stopped():
            raise _stopped(work, runner, where)
        time.sleep(min(0.2, LOOK))


def _claim_and_do(work: Work, runner: CommandRunner, run: Run) -> bool:
    """Claims a run and executes its remaining steps; returns whether this process has finished it.

    Raises:
        _Busy: if another process has it, or its phase 1.
    """
    with _claimed(work.claims, run.name, run.title) as claim:
        if work.is_finished(run):  # by the process that has just let go of it
            return False
        steps = work.steps(run)
        is_shared = [run.encoder != run.folder and _is_phase_1(step) for step in steps]
        for step, shared in zip(steps, is_shared, strict=True):
            if shared and not _do_shared(work, runner, run, step):
                work.failed[run.key] = work.failed[run.encoder]
                return False
        seconds: dict[str, float] = {}
        with hold(run.folder) as held:
            for step, shared in zip(steps, is_shared, strict=True):
                where = f"{run.title}, {step.title}"
                if not shared and not _do(work, runner, run.key, step, where, claim, held, seconds):
                    return False
            work.finish(run, steps, seconds)
    return True


def _is_phase_1(step: Step) -> bool:
    return isinstance(step, TrainingStep) and step.phase == "recon"


def _do_shared(work: Work, runner: CommandRunner, run: Run, step: Step) -> bool:
    """A phase 1 that other runs may need as well: one process trains it, the others take other runs meanwhile.

    Raises:
        _Busy: if another process trains it.
    """
    if run.encoder in work.failed:
        return False
    if step.progress().done:
        return True
    with (
        _claimed(run.encoder.parent, f"{run.encoder.name}.claim", f"phase 1 of {run.title}") as own,
        hold(run.encoder) as held,
    ):
        return _do(work, runner, run.encoder, step, f"{run.title}, {step.title}", own, held, {})


def _claimed(folder: Path, name: str, title: str) -> Claim:
    claim = claims.take(folder, name)
    if claim is None:
        raise _Busy(f"{title} ({claims.holder(folder, name) or 'just given up'})")
    return claim


def _do(
    work: Work,
    runner: CommandRunner,
    key: object,
    step: Step,
    where: str,
    claim: Claim,
    held: int | None,
    seconds: dict[str, float],
) -> bool:
    """Runs a step in a separate process (or several) if it is not done; returns whether it is done afterwards.

    Raises:
        Stopped: see `work_through`.
        UserError: if the script fails, unless `work.keep_going`: then `work.failed` says so.
        _Busy: if another host has taken over the claim, since this process was silent for too long.
    """
    state = step.progress()
    say(f"{where}: {state.text}")
    if state.done:
        return True
    say(shown(step, work.processes))
    runner.unwanted = lambda: not claim.held()
    started = time.monotonic()
    code = runner.run(command(step, work.processes), held)
    seconds[step.title] = time.monotonic() - started
    if not claim.held():
        raise _Busy(f"{where} (this process was silent for too long, and another has taken over)")
    number = runner.number or code - 128
    if number in SIGNALS or runner.number:
        raise _stopped(work, runner, f"in {where}", number)
    if code:
        cause = f"it was killed by signal {number} (out of memory?)" if number > 0 else "see its message above"
        problem = f"{where} failed: {cause}. After a fix, run the same command again to continue"
    elif not (state := step.progress()).done:
        problem = f"{where} ended without an error, but is not finished: {state.text}"
    else:
        return True
    if not work.keep_going:
        raise UserError(problem)
    say(f"error: {problem}; the other runs are next")
    work.failed[key] = problem
    return False


def _stopped(work: Work, runner: CommandRunner, where: str, number: int = 0) -> Stopped:
    left = sum(not work.is_finished(run) for run in work.runs)
    cause = "--budget is used up: " if runner.time_is_out else ""
    number = number or runner.number or signal.SIGTERM
    return Stopped(
        number, f"{cause}stopped {where}; run the same command again to continue ({left} runs are unfinished)"
    )
