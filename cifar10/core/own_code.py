"""The user's own source files: which they are, their digests, their part of a traceback."""

import ast
import contextlib
import functools
import hashlib
import importlib.util
import site
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cifar10.core.errors import SettingError
from cifar10.core.instantiate import is_user_code
from cifar10.core.settings import PACKAGE

LIBRARIES = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
LIBRARIES.append(Path(site.getusersitepackages()))
INSTALLED = {"site-packages", "dist-packages"}  # folders of installed packages
OURS = (PACKAGE, PACKAGE.with_name("hydra_plugins"), PACKAGE.with_name("train.py"))


def is_own(file: str) -> bool:
    """Whether a file is outside this project, the standard library and installed packages."""
    path = Path(file)
    if not path.is_absolute() or INSTALLED.intersection(path.parts):
        return False
    return not any(map(path.is_relative_to, (*LIBRARIES, *OURS)))


def own_traceback(error: BaseException) -> str:
    """The traceback of an error from the user's own code on, or nothing."""
    frames = list(traceback.walk_tb(error.__traceback__))
    for first, (frame, _) in enumerate(frames):
        if is_own(frame.f_code.co_filename):
            stack = traceback.StackSummary.extract(iter(frames[first:]))
            return "".join(["Traceback (most recent call last):\n", *stack.format()])
    return ""


def details_of(error: BaseException) -> str:
    """What to print before the message of an error: the user's part of its cause's traceback."""
    if not isinstance(error, SettingError) or error.details:
        return str(getattr(error, "details", ""))
    cause, found = error.__cause__, ""
    while cause and not found:
        found = own_traceback(cause)
        cause = cause.__cause__
    return found


def source_digests(settings: Any) -> dict[str, str]:
    """SHA-256 of the user's own modules that nested settings name, and of those they import.

    Ignores comments and formatting. Files are read once per process, like the modules.
    """
    digests: dict[str, str] = {}
    parts = [target.split(".")[:-1] for target in own_targets(settings)]
    waiting = {".".join(each[:count]) for each in parts for count in range(1, len(each) + 1)}
    while waiting:
        name = waiting.pop()
        if name not in digests and (file := source_file(name)):
            digests[name], imported = read_module(file, name)
            waiting |= imported
    return dict(sorted(digests.items()))


def own_targets(settings: Any) -> Iterator[str]:
    """The user's own classes that settings, nested or by dotted key, name."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            if str(key).rpartition(".")[2] == "_target_" and is_user_code(value):
                yield value
        settings = list(settings.values())
    for value in settings if isinstance(settings, list | tuple) else ():
        yield from own_targets(value)


def source_file(name: str) -> Path | None:
    """The file of one of the user's own modules, found without importing it."""
    top, *parts = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # `__main__`
        return None
    if spec is None:
        return None
    files = [Path(spec.origin or "")]
    if parts:
        places = [Path(place, *parts) for place in spec.submodule_search_locations or ()]
        files = [path.with_suffix(".py") for path in places]
        files += [path / "__init__.py" for path in places]
    own = (file for file in files if file.suffix == ".py" and is_own(str(file)) and file.is_file())
    return next(own, None)


@functools.cache
def read_module(file: Path, name: str) -> tuple[str, frozenset[str]]:
    """A module's digest, and candidates for the modules it imports, parent packages included."""
    source = file.read_bytes()
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a half-saved file, or one for another Python
        return hashlib.sha256(source).hexdigest(), frozenset()
    package = name if file.stem == "__init__" else name.rpartition(".")[0]
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            with contextlib.suppress(ImportError):  # relative, in a module without a package
                relative = "." * node.level + (node.module or "")
                base = importlib.util.resolve_name(relative, package)
                names |= {f"{base}.{alias.name}" for alias in node.names}
    parts = [each.split(".") for each in names]
    parents = {".".join(each[:count]) for each in parts for count in range(1, len(each) + 1)}
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest(), frozenset(parents)
