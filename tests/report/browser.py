"""A real headless Chromium over WebDriver, with nothing but the standard library."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError


def is_installed() -> bool:
    """Without either of them there is nothing to test with; one that does not start fails."""
    return bool(shutil.which("chromedriver") and _chromium())


def _chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")


class Browser:
    """One window. ``errors`` are what the page's console and policies complained about."""

    def __init__(self, width: int, height: int, dark: bool = False) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._process = subprocess.Popen(
            ["chromedriver", f"--port={self._port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._session = ""
        try:
            self._session = self._start(width, height)
            device = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
            self._devtools("Emulation.setDeviceMetricsOverride", device)
            feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            self._devtools("Emulation.setEmulatedMedia", {"features": [feature]})
        except BaseException:
            self.close()
            raise

    def open(self, path: Path) -> None:
        self._ask("POST", "/url", {"url": path.as_uri()})

    def run(self, script: str) -> Any:
        return self._ask("POST", "/execute/sync", {"script": script, "args": []})

    @property
    def errors(self) -> list[str]:
        return [entry["message"] for entry in self._ask("POST", "/se/log", {"type": "browser"})]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def close(self) -> None:
        if self._session:
            self._ask("DELETE", "")
        self._process.terminate()
        self._process.wait(10)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, width: int, height: int) -> str:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options = {"binary": _chromium(), "args": [*flags, f"--window-size={width},{height}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        deadline = time.monotonic() + 30
        while True:
            try:
                return self._send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
            except URLError as error:  # the driver does not listen yet, or has no Chromium yet
                if self._process.poll() is not None or time.monotonic() > deadline:
                    said = error.read().decode() if isinstance(error, HTTPError) else str(error)
                    raise AssertionError(f"Chromium is installed and did not start: {said}") from error
                time.sleep(0.1)

    def _devtools(self, command: str, parameters: dict[str, Any]) -> None:
        self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        return self._send(method, f"/session/{self._session}{path}", body)

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]
