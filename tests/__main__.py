"""`./run test`: all tests, or those that pytest's arguments choose.

All of them run in two stages at once: virtual machines keep one core busy, where they are emulated, and then some long
tests keep it so; the rest waits for hosts half of the time.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time

FIRST_STAGE = ("tests/e2e/vm", "tests/e2e/test_open_webui.py", "tests/e2e/test_llama_cpp_sources.py")
"""One after the other; chosen so that both stages take about as long."""
PYTEST = [sys.executable, "-m", "pytest"]
BESIDE_EACH_OTHER = ("-n", "2", "--dist", "loadfile", "--durations", "25")
"""Two files of tests at a time (pytest-xdist): hosts boot and wait while others compute. The slowest are listed."""


def main(arguments: list[str]) -> int:
    """Run the tests; return pytest's exit status, of the stage that failed if one did."""
    if arguments:
        os.execv(sys.executable, [*PYTEST, *arguments])
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # an end by TERM cleans up as one by Ctrl-C does
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        first = subprocess.Popen([*PYTEST, "--durations", "10", *FIRST_STAGE], stdout=said, stderr=said)
        rest = subprocess.Popen([*PYTEST, *BESIDE_EACH_OTHER, *(f"--ignore={path}" for path in FIRST_STAGE)])
        try:
            rest.wait()
            print(f"==> The rest is done after {time.monotonic() - began:.0f} s", flush=True)
            first.wait()
        except KeyboardInterrupt:
            for stage in (rest, first):  # a second one does no harm to those that the terminal has told
                stage.send_signal(signal.SIGINT)
        status = rest.wait() or first.wait()
        said.seek(0)
        print(f"==> {' '.join(FIRST_STAGE)}:\n{said.read()}")
    print(f"==> Both stages: {time.monotonic() - began:.0f} s")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
