"""The builder in a copy of this process. It starts at once, because pandas is imported already."""

import os
import signal
import subprocess
import sys
import traceback

from helpers.scripts import builder


def default_signals():
    """To be run in a new process: it may have inherited that Ctrl-C and others are ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def fork(work):
    """Start a copy of this process that calls work() and exits with what it returns.

    Returns the copy's process id.
    """
    child = os.fork()
    if child:
        return child
    status = 99
    try:
        default_signals()
        with open(os.devnull, "w") as sys.stdout:
            status = work()
    except SystemExit as end:
        status = end.code
    except Exception:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def ending(child):
    """The status that child ends with, as subprocess gives it."""
    _, status = os.waitpid(child, 0)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)


def start_build(*args, prepare=lambda: None):
    """Start a builder; prepare is called first, in its process. Returns the process id."""

    def work():
        prepare()
        return builder.main([str(arg) for arg in args])

    return fork(work)


def run_build_in_fork(*args, prepare=lambda: None):
    """The builder as a finished process: stderr and returncode, but no stdout."""
    reader, writer = os.pipe()

    def prepare_with_stderr():
        sys.stderr = os.fdopen(writer, "w")
        prepare()

    child = start_build(*args, prepare=prepare_with_stderr)
    os.close(writer)
    with open(reader) as stderr:
        shown = stderr.read()
    return subprocess.CompletedProcess(args, ending(child), "", shown)
