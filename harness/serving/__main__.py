"""`python -m harness.serving FILE FD`: serve the options.Service in FILE, tell FD when ready.

FD gets one JSON object, options.Ready or options.NotReady, and is closed.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import msgspec

from harness.errors import ArmbenchError, Exit
from harness.parent import die_with_parent
from harness.serving.options import NotReady, Ready, Service


def main(arguments: list[str]) -> int:
    """Serve until told to end; the exit code."""
    service = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=Service)
    answer = int(arguments[1])
    if service.tied:
        die_with_parent()

    def tell(what: Ready | NotReady) -> None:
        os.write(answer, msgspec.json.encode(what))
        os.close(answer)

    from harness.serving.server import run

    try:
        return run(service, tell, lambda _: None)
    except ArmbenchError as error:
        tell(NotReady(error=error.message, hint=error.hint, mendable=error.exit_code is Exit.USER))
        return error.exit_code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
