"""A client that keeps requesting a web server and counts what fails, from any network namespace.

Used as a context manager in a test; run as a script inside the namespace.
"""

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any, Self

TIMEOUT_S = 5.0
PAUSE_S = 0.002


class Tally:
    """What came of the requests so far."""

    def __init__(
        self, good: int, failures: dict[str, int], first_failures: list[list[Any]], last_failure_s: float = 0.0
    ) -> None:
        self.good = good
        #: Seconds since the start.
        self.last_failure_s = last_failure_s
        #: What went wrong -> how often.
        self.failures = failures
        #: (seconds since the start, what) of the first few.
        self.first_failures = first_failures

    @property
    def failed(self) -> int:
        """How many failed."""
        return sum(self.failures.values())

    def __str__(self) -> str:
        failures = f"{self.failures} {self.first_failures}, the last after {self.last_failure_s} s"
        return f"{self.good} good, {self.failed} failed" + (f": {failures}" if self.failed else "")


class Requester:
    """Requests ``http://host:port/`` from the namespace at ``netns``, each on a new connection, until left."""

    def __init__(self, netns: str, host: str, port: int = 80, *, workers: int = 4) -> None:
        self._argv = [
            *("nsenter", f"--net={netns}", sys.executable, __file__, host, str(port), str(workers)),
        ]
        self._process: subprocess.Popen[str] | None = None
        self.tally = Tally(0, {}, [])

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._argv, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "started\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        assert process is not None
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=TIMEOUT_S * 3)
        self.tally = Tally(**json.loads(output.strip().splitlines()[-1]))


def _request(host: str, port: int) -> None:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/")
        reply = connection.getresponse()
        reply.read()
        if reply.status != http.client.OK:
            raise OSError(f"status {reply.status}")
    finally:
        connection.close()


def main(host: str, port: int, workers: int) -> None:
    """Request until SIGTERM, then print the tally."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    began = time.monotonic()
    lock = threading.Lock()
    good = 0
    last_s = 0.0
    failures: Counter[str] = Counter()
    first: list[tuple[float, str]] = []

    def work() -> None:
        nonlocal good, last_s
        while not stop.is_set():
            try:
                _request(host, port)
            except (OSError, http.client.HTTPException) as exc:
                with lock:
                    last_s = round(time.monotonic() - began, 2)
                    failures[f"{type(exc).__name__}: {exc}"] += 1
                    if len(first) < 10:
                        first.append((last_s, str(exc)))
            else:
                with lock:
                    good += 1
            time.sleep(PAUSE_S)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    print("started", flush=True)
    while not stop.wait(0.1):
        pass
    for thread in threads:
        thread.join()
    result = {"good": good, "failures": failures, "first_failures": first, "last_failure_s": last_s}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
