"""The scripts on a terminal."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from contextlib import suppress


def run_on_terminal(words, columns=80):
    """The command words as a finished process whose stdout and stderr are two terminals."""
    (our_stdout, stdout), (our_stderr, stderr) = pty.openpty(), pty.openpty()
    fcntl.ioctl(stderr, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(words, stdout=stdout, stderr=stderr)
    os.close(stdout)
    os.close(stderr)
    shown_on_stderr, shown_on_stdout = read_terminal(our_stderr), read_terminal(our_stdout)
    return subprocess.CompletedProcess(words, process.wait(), shown_on_stdout, shown_on_stderr)


def read_terminal(descriptor):
    """All that is written to the terminal whose other end is descriptor, until it is closed."""
    shown = b""
    # Linux tells by an OSError that the other end is closed.
    with open(descriptor, "rb", buffering=0) as terminal, suppress(OSError):
        while piece := terminal.read(65536):
            shown += piece
    return shown.decode()
