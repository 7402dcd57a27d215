"""The engine process: reads requests from a socket, steps, sends what finished. Started by `EngineProcess`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from runner.config import Device
from runner.engine.settings import EngineSettings
from runner.engine.wire import PARENT_SIGNALS, Abort, Close, CloseInput, DropWaiting, Failed, Progress, Ready, Submit
from runner.errors import RunnerError
from runner.types import EngineStats, Sample, TokenChunk

if TYPE_CHECKING:
    from runner.engine.core import EngineCore

_HEARTBEAT_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1


class _Sender(threading.Thread):
    """Sends in the background, so that a parent that is slow to read never stops the step loop.

    Until the first message it gives the signs of life itself: loading may take any time. From then on they are the
    step loop's, so that a step that hangs is missed.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__(name="sender", daemon=True)
        self._connection = connection
        self._queue: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.start()

    def put(self, message: object) -> None:
        self._queue.put(message)

    def beat(self, message: object) -> None:
        """Sends a sign of life, unless one still waits: a library's caller may read none for days."""
        if self._queue.empty():
            self.put(message)

    def finish(self) -> None:
        self._queue.put(None)
        self.join()

    def run(self) -> None:
        message = self._first()
        while message is not None:
            self._send(message)
            message = self._queue.get()

    def _first(self) -> object:
        while True:
            try:
                return self._queue.get(timeout=_HEARTBEAT_SECONDS)
            except queue.Empty:
                self._send(Progress.pack([], EngineStats()))

    def _send(self, message: object) -> None:
        try:
            self._connection.send(message)
        except OSError:
            os._exit(1)  # the parent is gone: there is nobody left to work for


class Server:
    """The loop of the engine process."""

    def __init__(self, core: EngineCore, connection: Connection, sender: _Sender) -> None:
        self._core = core
        self._connection = connection
        self._sender = sender
        self._readable = select.poll()
        self._readable.register(connection.fileno(), select.POLLIN)
        self._sent = 0.0

    def run(self) -> None:
        """Serves until `Close` or the end of the connection."""
        while True:
            idle_ms = 0 if self._core.has_work else int(_HEARTBEAT_SECONDS * 1000)
            while self._readable.poll(idle_ms):
                message = self._connection.recv()
                if isinstance(message, Close):
                    return
                self._handle(message)
                idle_ms = 0
            if self._core.has_work:
                samples = self._core.step()
                self._report([*samples, *self._core.take_chunks()])
            else:
                self._report([])

    def _handle(self, message: object) -> None:
        match message:
            case Submit():
                self._report(self._core.add(message.unpack()))
            case Abort(samples):
                self._report(self._core.abort(set(samples)))
            case DropWaiting():
                self._report(self._core.drop_waiting())
            case CloseInput():
                self._core.close_input()
            case _:
                raise AssertionError(f"unknown message {message!r}")

    def _report(self, outputs: Sequence[Sample | TokenChunk]) -> None:
        now = time.monotonic()
        if outputs or now - self._sent >= _HEARTBEAT_SECONDS:
            send = self._sender.put if outputs else self._sender.beat
            send(Progress.pack(outputs, self._core.stats()))
            self._sent = now


def _die_with(parent: int) -> None:
    """Asks the kernel to kill this process when its parent ends, however it ends and whatever this process does then.

    To the kernel the parent is the thread that started us; `EngineProcess` keeps that one alive.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)  # it ended before we asked


def _wake_cuda() -> None:
    """Creates the CUDA context and loads cuBLAS while the main thread still imports."""
    # Whatever is wrong with torch or the device, the main thread meets it too, and reports it.
    with contextlib.suppress(Exception):
        import torch

        if torch.cuda.is_available():
            square = torch.zeros(64, 64, dtype=torch.bfloat16, device="cuda")
            torch.mm(square, square)
            torch.cuda.synchronize()


def main(descriptor: int, parent: int) -> None:
    for number in PARENT_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # a terminal signals the whole group; the parent decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PARENT_SIGNALS)  # compilers started from here must be stoppable
    _die_with(parent)
    connection = Connection(descriptor)
    sender = _Sender(connection)
    try:
        settings = connection.recv()
        assert isinstance(settings, EngineSettings)
        if settings.model.device is not Device.cpu:
            threading.Thread(target=_wake_cuda, name="wake-cuda", daemon=True).start()
        from runner.engine.build import build_core  # torch: loading it may take minutes, under all of the above

        core = build_core(settings)
        sender.put(Ready())
        Server(core, connection, sender).run()
    except EOFError:
        return
    except RunnerError as error:
        sender.put(Failed(str(error), int(error.exit_code)))
    except Exception:  # noqa: BLE001 - whatever it was, the parent has to hear of it
        sender.put(Failed(f"the engine failed: {traceback.format_exc()}"))
    sender.finish()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
