"""Run a function in two connected processes, as Lightning connects them, without loading the libraries again."""

import logging
import os
import signal
import socket
import sys
import tempfile
import traceback


def on_two_ranks(work):
    """Call `work(rank)` in two forks of this process; return the exit code and the output of each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        if (child := os.fork()) == 0:
            _become(rank, port, work, output.fileno())
        children.append((child, output))
    results = []
    for child, output in children:
        _, status = os.waitpid(child, 0)
        output.seek(0)
        results.append((os.waitstatus_to_exitcode(status), output.read()))
        output.close()
    return results


def _become(rank, port, work, output):
    """Run `work` in a fork as one rank, with its output in a file, and end the process."""
    code = 1
    logging.raiseExceptions = False  # handlers of libraries may hold the output of an earlier test, which is closed
    try:
        signal.alarm(120)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        place = {"LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in place.items()})
        work(rank)
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)
