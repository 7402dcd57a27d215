"""The engine in a process of its own, as the run sees it.

Its own process, because work in the parent (rendering, tokenising, writing) would delay the step loop through the
interpreter lock, and because a crashed or hung accelerator context can be ended only with its process.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

from runner.engine.wire import PARENT_SIGNALS, Abort, Close, CloseInput, DropWaiting, Failed, Progress, Ready, Submit
from runner.errors import ConfigError, EngineError, ExitCode
from runner.types import EngineRequest, EngineStats, Sample, SampleKey, TokenChunk

_SOCKET_BYTES = 4 << 20  # a submit should not have to wait for the end of a step
_CLOSE_SECONDS = 5.0


class EngineProcess:
    """An `EngineClient` over a child process.

    The child starts at once and loads its model while the caller goes on; the first `submit` waits for it.
    ``settings`` is what `runner.engine.serve` builds the engine from; it is pickled. Every method raises
    EngineError once the child has died, sent nothing for ``watchdog_seconds``, or failed; ConfigError when it
    refused the model or the settings. Loading may take any time; a step may not. The child ends with this process,
    however that ends, but not with the thread that made it.
    """

    def __init__(self, settings: object, watchdog_seconds: float = 600.0) -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        # Passive waiting: a spinning OpenMP thread of the engine slows the parent's work many times over.
        environment = cuda_defaults() | os.environ
        environment |= {"PYTHONPATH": path, "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-m", "runner.engine.serve", str(theirs.fileno()), str(os.getpid())]
        self._process = _start(command, pass_fds=[theirs.fileno()], env=environment)
        theirs.close()
        self._connection = Connection(ours.detach())
        self._readable = select.poll()
        self._readable.register(self._connection.fileno(), select.POLLIN)
        self._watchdog_seconds = watchdog_seconds
        self._heard = time.monotonic()
        self._ready = False
        self._stats = EngineStats()
        self._early: list[Sample | TokenChunk] = []
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._postman = threading.Thread(target=self._post, name="engine-postman", daemon=True)
        self._postman.start()
        self._send(settings)

    @property
    def pid(self) -> int:
        return self._process.pid

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        while not self._ready:
            self._early += self._receive(1.0)
        if requests:
            self._send(Submit.pack(requests))

    def poll(self, timeout: float) -> list[Sample | TokenChunk]:
        """What has come of the requests; waits up to ``timeout`` seconds for the first."""
        early, self._early = self._early, []
        return early or self._receive(timeout)

    def abort(self, samples: Sequence[SampleKey]) -> None:
        self._send(Abort(list(samples)))

    def drop_waiting(self) -> None:
        self._send(DropWaiting())

    def close_input(self) -> None:
        self._send(CloseInput())

    def stats(self) -> EngineStats:
        """The latest counters that the engine has sent."""
        return self._stats

    def kill(self) -> None:
        """Ends the child at once, whatever it is doing."""
        self._process.kill()

    def close(self) -> None:
        """Ends the child; safe to call again and after a failure."""
        if self._process.poll() is None:
            self._outbox.put(bytes(ForkingPickler.dumps(Close())))
            try:
                self._process.wait(_CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._outbox.put(None)
        self._postman.join()
        self._connection.close()

    def _send(self, message: object) -> None:
        """Leaves the message to a thread: an engine that hangs reads nothing, and the watchdog must still look."""
        if self._process.poll() is not None:
            raise self._death()
        self._outbox.put(bytes(ForkingPickler.dumps(message)))

    def _post(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                self._connection.send_bytes(message)
            except OSError:
                return  # the child has died, as whoever reads from it next will hear

    def _receive(self, timeout: float) -> list[Sample | TokenChunk]:
        outputs: list[Sample | TokenChunk] = []
        wait = int(timeout * 1000)
        while self._readable.poll(wait):
            outputs += self._take_one()
            wait = 0
        if not outputs and time.monotonic() - self._heard > self._watchdog_seconds:
            self._process.kill()
            raise EngineError(f"the engine gave no sign of life for {self._watchdog_seconds:.0f} s and was ended")
        return outputs

    def _take_one(self) -> list[Sample | TokenChunk]:
        try:
            message = self._connection.recv()
        except (EOFError, OSError):
            raise self._death() from None
        self._heard = time.monotonic()
        match message:
            case Progress():
                self._stats = message.stats
                return message.unpack()
            case Ready():
                self._ready = True
                return []
            case Failed(text, ExitCode.REFUSED):
                raise ConfigError(text)
            case Failed(text):
                raise EngineError(text)
        raise AssertionError(f"unknown message {message!r}")

    def _death(self) -> EngineError:
        code = self._process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
        return EngineError(f"the engine process {how}")


def cuda_defaults() -> dict[str, str]:
    """What an engine's environment says of CUDA unless the user does. To be set before torch is loaded."""
    home = os.environ.get("TRITON_HOME") or os.path.expanduser("~")  # noqa: PTH111 - Path.home fails for want of one
    if not os.access(home, os.W_OK):
        home = tempfile.gettempdir()
    return {
        # Prompts of any length come and go: fixed segments would fragment what the KV cache leaves.
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        # Triton's own default, said aloud: else torch's compiler sets another once it has compiled, not before, and
        # the second start of an engine would not find the kernels of the first.
        "TRITON_CACHE_DIR": str(Path(home) / ".triton" / "cache"),
    }


def _start(command: Sequence[str], **how: Any) -> subprocess.Popen[bytes]:
    """Starts the child from a thread that lives as long as the child.

    The kernel ends an engine with the thread that started it (see `runner.engine.serve`), and the caller's may be one
    of a pool that ends while the engine is still wanted. This one ends early only with the whole process.
    """
    started: Future[subprocess.Popen[bytes]] = Future()

    def keep() -> None:
        # The child inherits the mask: a Ctrl-C while it still imports would end it with a traceback.
        signal.pthread_sigmask(signal.SIG_BLOCK, PARENT_SIGNALS)
        try:
            process = subprocess.Popen(command, **how)
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            started.set_exception(error)
            return
        started.set_result(process)
        with contextlib.suppress(ChildProcessError):  # it has ended, and the caller has collected its exit code
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    threading.Thread(target=keep, name="engine-keeper", daemon=True).start()
    return started.result()
