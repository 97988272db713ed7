"""Tests. Two workers of pytest-xdist share the cores: one thread each, read when torch starts."""

import os

os.environ["CIFAR10_TRUST"] = "tests"  # for tests.network

if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
