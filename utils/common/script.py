"""The frame of every script around its main function: readable errors and exit codes. Does not import torch."""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from utils.common.errors import UserError
from utils.common.printable import printable
from utils.common.processes import refuse_bad_environment, torchrun_holds_the_store, world_size
from utils.common.signals import Stopped

# Messages of libraries that run out of memory without raising a specific exception. cuDNN and cuBLAS need memory of
# the GPU too, and report a lack of it as one of a dozen states.
OUT_OF_MEMORY = ("out of memory", "CUDNN_STATUS_", "CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator")
OUT_OF_MEMORY += ("Insufficient memory",)  # OpenCV
# Messages about other resources of data-loading workers, and the advice for each.
RESOURCES = (
    (
        ("Too many open files", "ancdata"),
        "too many open files for the limit of this system: raise it (ulimit -n 4096), or pass --workers 0",
    ),
    (
        ("shared memory", "Bus error", "unable to mmap", "unable to write to file </torch", "/dev/shm"),
        "the shared memory of data-loading workers (/dev/shm) is too small: pass --workers 0, or make it larger "
        "(docker run --shm-size 2g)",
    ),
)
SIGPIPE = 13  # the signal of writing to a closed pipe, e.g. to head
OPEN_FILES = 4096  # wanted limit, if the system allows it
LESS_MEMORY = {
    "batch_size": "a lower --batch_size",
    "accumulate": "--accumulate N (each step's images in N parts)",
    "crop": "--crop N (train on NxN crops)",
    "tile": "--tile N (large images in NxN tiles)",
}


def run_script(main: Callable[[Any], object], parse: Callable[[], Any]) -> None:
    """Runs main(parse()). A UserError is printed without traceback and exits with 2, a signal with 128 + its number.

    A lack of memory or of another resource is printed like a UserError, with advice. `main` may call sys.exit().
    """
    threading.excepthook = _leave_to_main_thread
    _print_anything()
    _open_more_files()
    try:
        refuse_bad_environment()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    code: int | str | None = 0
    args = None
    quiet = signal.getsignal(signal.SIGINT) is signal.SIG_DFL  # see _this_folder.py
    try:
        if quiet:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        args = parse()
        main(args)
    except UserError as error:
        code = _fail(f"error: {error}", 2)
    except Stopped as stopped:
        code = _fail(str(stopped), 128 + stopped.number)
    except KeyboardInterrupt:
        code = _fail("interrupted", 128 + signal.SIGINT)
    except SystemExit as request:
        code = request.code
    except BrokenPipeError:
        if not _reader_has_gone():
            raise
        code = 128 + SIGPIPE
    except (RuntimeError, MemoryError, OSError) as error:
        advice = out_of_resources(error)
        if advice is None:
            cause = out_of_memory(error)
            if cause is None:
                raise
            advice = memory_advice(cause, args)
        code = _fail(f"error: {advice}", 2)
    if quiet:  # what remains is the interpreter's own end
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    code = _flush(code)
    if world_size() > 1:
        # Python's normal exit is skipped: threads of gloo that still run could abort the finished process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))
    sys.exit(code)


def out_of_memory(error: BaseException) -> str | None:
    """The line of the error message that reports a lack of memory; None for another error."""
    lines = str(error).splitlines() or [type(error).__name__]
    # torch's exception is recognised by its name, without importing torch.
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return lines[0]
    return next((line for line in lines if any(sign in line for sign in OUT_OF_MEMORY)), None)


def out_of_resources(error: BaseException) -> str | None:
    """One line of advice, if the error is a lack of a resource other than memory; None for another error."""
    return next((advice for signs, advice in RESOURCES if any(sign in str(error) for sign in signs)), None)


def memory_advice(cause: str, args: argparse.Namespace | None) -> str:
    """One line with the error and the flags of this script that reduce the memory."""
    flags = [advice for name, advice in LESS_MEMORY.items() if name in vars(args or argparse.Namespace())]
    kind = "the GPU's memory is probably full" if "CUDNN_STATUS_" in cause else "out of memory"
    return f"{kind} ({cause.strip()[:300]})" + (f". To use less: {', '.join(flags)}" if flags else "")


def _leave_to_main_thread(error: threading.ExceptHookArgs) -> None:
    """Hides write errors of TensorBoard's thread, which are raised again in the main thread at the next flush."""
    if not isinstance(error.exc_value, OSError | UserError):
        sys.__excepthook__(error.exc_type, error.exc_value, error.exc_traceback)


def _fail(message: str, code: int) -> int:
    if _says_first(message):
        print(printable(message), file=sys.stderr, flush=True)
    return code


def _print_anything() -> None:
    """Lets terminals and files that are not UTF-8 (cp1252, LC_ALL=C) show other characters as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _open_more_files() -> None:
    """Raises the limit of open files: each data-loading worker and each of its batches takes a descriptor."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _flush(code: int | str | None) -> int | str | None:
    """Flushes the output; returns the exit code, which changes if the reader has closed the pipe."""
    try:
        if sys.stdout is not None:  # it was closed (>&-)
            sys.stdout.flush()
    except BrokenPipeError:
        return 128 + SIGPIPE if _reader_has_gone() else code
    except OSError:  # a full disk: Python reports it at its exit
        return code
    return code


def _reader_has_gone() -> bool:
    """Whether the reader of the output has closed the pipe (`| head`); further output is then discarded."""
    try:
        number = sys.stdout.fileno()
        poll = select.poll()
    except (AttributeError, OSError):  # closed (>&-), or not a file; no poll on Windows
        return False
    poll.register(number, 0)
    if not any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return True


def _says_first(message: str) -> bool:
    """Whether this process is the first of the job to report this message, so that it is printed once."""
    if world_size() == 1 or not torchrun_holds_the_store():
        return True
    from utils.common.distributed import says_first

    return says_first(message)
