"""Settings of the test process that must stand before torch loads. Its place also puts tests/ on the import path."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
