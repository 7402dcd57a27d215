"""A hub of this machine: the few answers that `huggingface_hub` and `datasets` ask of one to list and read a data set.

They are like those of the real one as far as the clients read them.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class Hub:
    """One public data set, ``repo``, whose ``files`` may be changed; their older revisions stay.

    ``refuses`` is asked before a file is given.
    """

    def __init__(self, repo: str, files: Mapping[str, bytes]) -> None:
        self.repo = repo
        self.files = dict(files)
        self.refuses: Callable[[], bool] = lambda: False
        self._revisions: dict[str, dict[str, bytes]] = {}

    @property
    def revision(self) -> str:
        """Changes with the files, as a commit does."""
        revision = hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()
        self._revisions[revision] = dict(self.files)
        return revision

    def at(self, revision: str) -> Mapping[str, bytes]:
        """The files of a revision that someone has been told of, or of a branch."""
        return self._revisions.get(revision, self.files)

    def answer(self, path: str, asked: Mapping[str, list[str]]) -> Any:
        """JSON for a path under ``/api/datasets/``; None for what is not there."""
        other, _, rest = path.removeprefix("/api/datasets/").partition(self.repo)
        what, *where = rest.strip("/").split("/")
        if other:
            return None
        if what in ("", "revision"):
            return {"id": self.repo, "sha": self.revision, "siblings": [{"rfilename": name} for name in self.files]}
        if what not in ("tree", "paths-info") or len(where) > 1:  # the second is a folder, and there are none
            return None
        files = self.at(where[0])
        return [_entry(name, files[name]) for name in sorted(files) if name in asked.get("paths", files)]


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve({})

    def do_HEAD(self) -> None:
        self._serve({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        is_json = "json" in self.headers.get("Content-Type", "")
        self._serve(json.loads(body) if is_json else parse_qs(body))

    def _serve(self, asked: Mapping[str, list[str]]) -> None:
        path = unquote(urlsplit(self.path).path)
        prefix = f"/datasets/{self.hub.repo}/resolve/"
        revision, _, name = path.removeprefix(prefix).partition("/")
        if path.startswith("/api/datasets/"):
            answer = self.hub.answer(path, asked)
            self._send(404 if answer is None else 200, json.dumps(answer or {}).encode())
        elif not path.startswith(prefix) or name not in self.hub.at(revision):
            self._send(404)
        elif self.hub.refuses():
            self._send(403)
        else:
            self._send_file(self.hub.at(revision)[name])

    def _send_file(self, content: bytes) -> None:
        span = self.headers.get("Range")
        if span is None:
            self._send(200, content)
            return
        first, _, last = span.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last) + 1 if last else len(content), len(content))
        self._send(206, content[start:stop], {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"})

    def _send(self, status: int, body: bytes = b"{}", extra: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), "ETag": f'"{self.hub.revision}"', **(extra or {})}
        headers["X-Repo-Commit"] = self.hub.revision
        if status == 404:
            headers["X-Error-Code"] = "EntryNotFound" if self.hub.repo in self.path else "RepoNotFound"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Tests read no access log."""


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """The address of a server of ``hub``, for as long as it is wanted."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
