"""Clients that write without pause, each through one manager, and remember what they were told."""

import base64
import http.client
import threading
import time
from collections import Counter
from typing import Any

from lab import api

REQUEST_LIMIT_S = 15.0
_PAYLOAD = base64.b64encode(b"x" * 200).decode()


class Writer:
    """Creates configs, and counts upwards in the labels of one of its own.

    What was acknowledged must be there for ever; a read must never show less than what this client was told before
    it asked. ``violations`` says what was otherwise.
    """

    def __init__(self, number: int, socket: str, stop: threading.Event) -> None:
        self.name = f"w{number}"
        self.attempted: set[str] = set()
        self.acknowledged: set[str] = set()
        self.acknowledged_at: list[float] = []
        self.answers: Counter[str] = Counter()
        self.violations: list[str] = []
        #: The register's newest count that was tried, and that was acknowledged.
        self.tried = self.counted = 0
        self._socket = socket
        self._stop = stop
        self.thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    @property
    def register(self) -> str:
        """The config whose label counts."""
        return f"{self.name}-register"

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            done = self._create(f"{self.name}-{number}") if number % 4 else self._count()
            if not done:
                self._stop.wait(0.05)

    def _ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        try:
            status, answer = api.request(self._socket, method, path, body, REQUEST_LIMIT_S)
        except (OSError, http.client.HTTPException) as exc:
            status, answer = 0, {"message": type(exc).__name__}
        if status >= http.client.BAD_REQUEST or not status:
            self.answers[str(answer.get("message", answer) if isinstance(answer, dict) else answer)[:90]] += 1
        return status, answer

    def _create(self, name: str) -> bool:
        self.attempted.add(name)
        status, _ = self._ask("POST", "/configs/create", {"Name": name, "Data": _PAYLOAD})
        if status != http.client.CREATED:
            return False
        self.acknowledged.add(name)
        self.acknowledged_at.append(time.monotonic())
        return True

    def _count(self) -> bool:
        if not self.tried:
            self.tried = 1
            self.attempted.add(self.register)
            body = {"Name": self.register, "Data": _PAYLOAD, "Labels": {"count": "1"}}
            status, _ = self._ask("POST", "/configs/create", body)
            if status == http.client.CREATED:
                self.counted = 1
                self.acknowledged.add(self.register)
            return status == http.client.CREATED
        known = self.counted
        status, config = self._ask("GET", f"/configs/{self.register}")
        if status == http.client.NOT_FOUND:
            if known:
                self.violations.append(f"{self.register} was acknowledged and is not there")
            else:
                self.tried = 0
            return False
        if status != http.client.OK:
            return False
        shown = int(config["Spec"]["Labels"]["count"])
        if not known <= shown <= self.tried:
            self.violations.append(f"{self.register} shows {shown}, acknowledged {known}, tried {self.tried}")
        self.tried += 1
        spec = {"Name": self.register, "Data": _PAYLOAD, "Labels": {"count": str(self.tried)}}
        version = config["Version"]["Index"]
        status, _ = self._ask("POST", f"/configs/{config['ID']}/update?version={version}", spec)
        if status != http.client.OK:
            return False
        self.counted = self.tried
        self.acknowledged_at.append(time.monotonic())
        return True

    def check(self, configs: dict[str, int]) -> list[str]:
        """What is wrong in a list of all configs (name: count of the register, 0 for others)."""
        wrong = list(self.violations)
        lost = sorted(self.acknowledged - configs.keys())
        wrong += [f"{len(lost)} acknowledged configs of {self.name} are lost: {lost[:5]}"] if lost else []
        own = {name for name in configs if name.startswith(f"{self.name}-")}
        strange = sorted(own - self.attempted)
        wrong += [f"configs nobody created: {strange[:5]}"] if strange else []
        shown = configs.get(self.register, 0)
        if not self.counted <= shown <= self.tried:
            wrong.append(f"{self.register} holds {shown}, acknowledged {self.counted}, tried {self.tried}")
        return wrong
