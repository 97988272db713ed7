"""The short and the long form of the fault suite, and the record of the long one."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import harness
from tests.faults.table import RECORD

tried: dict[str, list[int]] = {}


@pytest.fixture(scope="session")
def long(request, worker_id) -> bool:
    """Whether the long form was asked for, whose record is written by a single process."""
    chosen = request.config.getoption("--faults") == "long"
    if chosen and worker_id != "master":
        pytest.exit("--faults=long also needs -n 0", returncode=pytest.ExitCode.USAGE_ERROR)
    return chosen


@pytest.fixture(scope="session")
def seed(request) -> int:
    return request.config.getoption("--fault-seed")


@pytest.fixture
def chance(request, seed) -> random.Random:
    """Random numbers of each test, so that each can be repeated alone."""
    return random.Random(f"{seed} {request.node.name}")


@pytest.fixture(scope="session")
def survived() -> Callable[[str], None]:
    """Counts trials and successes, for the table in RESULTS.md."""

    def count(what: str, good: bool) -> None:
        counts = tried.setdefault(what, [0, 0])
        counts[0] += 1
        counts[1] += good

    return count


@pytest.fixture(scope="session")
def reference(tmp_path_factory) -> tuple[dict, float]:
    """The results of the undisturbed small run, and the seconds that it takes."""
    folder = tmp_path_factory.mktemp("reference")
    harness.reference(folder / "first")  # starts the server, which takes longer
    return harness.reference(folder / "run")


def pytest_sessionfinish(session, exitstatus) -> None:
    if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return  # interrupted
    ran = {item.path for item in session.items}
    whole = ran.issuperset(Path(__file__).parent.glob("test_*.py"))
    if whole and tried and session.config.getoption("--faults") == "long":
        from cifar10.runs.environment import environment

        record = {"seed": session.config.getoption("--fault-seed"), "tried": tried}
        rows = json.loads(RECORD.read_text()) if RECORD.exists() else []
        RECORD.write_text(json.dumps([*rows, record | environment()], indent=1) + "\n")
