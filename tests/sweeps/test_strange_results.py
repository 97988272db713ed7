"""Results of strangers, each with one odd field: refused in a line or shown, never a traceback."""

import copy
import itertools
import json

import pytest

from cifar10.core.errors import UserError
from cifar10.runs.result import read_result
from cifar10.sweeps import table
from cifar10.sweeps.compare import compare

ODD = (None, True, 0, -1, 5, 1.5, float("nan"), float("inf"), 10**400, "", "x", "\x1b[31m")
ODD += ([], [1], ["a"], {}, {"a": 1}, {"_target_": "os.system"}, [{"x": []}])


def fields(value, path=()):
    """The path of each nested field, the groups' own too."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, dict | list):
            yield from fields(item, (*path, key))
        else:
            yield (*path, key)


def changed(result, path, odd):
    """A copy of a result with another value at a path, or without it if `odd` is `...`."""
    result = copy.deepcopy(result)
    *groups, last = path
    parent = result
    for key in groups:
        parent = parent[key]
    if odd is ...:
        del parent[last]
    else:
        parent[last] = odd
    return result


def test_no_field_of_a_result_ends_in_a_traceback(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(table, "draw_figures", lambda *_: [])
    result = json.loads((trained / "result.json").read_text())
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(result))
    odd_values = itertools.cycle((..., *ODD))
    refused = []
    for path in fields(result):
        for odd in (..., *itertools.islice(odd_values, 1)):
            text = json.dumps(changed(result, path, odd))
            (tmp_path / "b" / "result.json").write_text(text)
            try:
                read_result(tmp_path / "b" / "result.json")
                table.summarise([tmp_path], partial=True, per_run=True)
                compare([tmp_path / "a", tmp_path / "b"])
            except UserError as error:
                assert "\n" not in str(error)
                refused.append(path)
    required = ("device", "precision", "seed", "seconds", "settings", "test", "versions")
    assert {(name,) for name in required} <= set(refused)


@pytest.mark.parametrize(
    ("path", "odd", "reason"),
    [
        (("data", "validated"), 10**400, "data.validated: Input should be less than"),
        (("test", "loss"), 1e200, "test.loss: Input should be less than"),
        (("test", "top1"), 5, "test: top1 is 5.0, not between 0 and 1"),
        (("val", "loss"), float("nan"), "val.loss: Input should be a finite number"),
        (("data", "test"), 0, "data.test: Input should be greater than 0"),
        (("versions", "torch"), ..., "versions.torch: Field required"),
        (("precision", "value"), ..., "precision.value: Field required"),
    ],
)
def test_figures_that_cannot_be_are_refused_by_name(path, odd, reason, trained, tmp_path):
    result = json.loads((trained / "result.json").read_text())
    (tmp_path / "result.json").write_text(json.dumps(changed(result, path, odd)))
    with pytest.raises(UserError, match=reason):
        read_result(tmp_path / "result.json")
