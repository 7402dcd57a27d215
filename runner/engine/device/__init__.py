"""The device behind one small interface: CUDA, or a CPU stand-in that enforces the same rules."""

from runner.engine.device.base import Buffer, Device, Event, Stream
from runner.engine.device.cpu import CpuDevice, RaceError
from runner.engine.device.cuda import CudaDevice

__all__ = ["Buffer", "CpuDevice", "CudaDevice", "Device", "Event", "RaceError", "Stream", "open_device"]


def open_device(name: str) -> Device:
    """``name`` is "cpu" or "cuda"."""
    return {"cpu": CpuDevice, "cuda": CudaDevice}[name]()
