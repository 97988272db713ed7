"""The user's own source files: which they are, and their digests."""

import ast
import hashlib
import importlib.util
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cifar10.core.instantiate import is_user_code
from cifar10.core.settings import PACKAGE

LIBRARIES = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
LIBRARIES.append(Path(site.getusersitepackages()))
INSTALLED = {"site-packages", "dist-packages"}  # folders of installed packages
OURS = (PACKAGE, PACKAGE.with_name("hydra_plugins"), PACKAGE.with_name("train.py"))


def is_own(file: str) -> bool:
    """Whether a file is neither this project's nor that of an installed package."""
    path = Path(file)
    if not path.is_absolute() or INSTALLED.intersection(path.parts):
        return False
    return not any(map(path.is_relative_to, (*LIBRARIES, *OURS)))


def source_digests(settings: Any) -> dict[str, str]:
    """SHA-256 of the user's own modules that nested settings name, and of those they import.

    Comments and layout do not count, modules that are not imported yet neither.
    """
    digests: dict[str, str] = {}
    waiting = [target.rpartition(".")[0] for target in own_targets(settings)]
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None) or ""
        if name not in digests and file.endswith(".py") and is_own(file):
            tree = ast.parse(Path(file).read_bytes())
            digests[name] = hashlib.sha256(ast.unparse(tree).encode()).hexdigest()
            waiting += imported_modules(tree, getattr(module, "__package__", None) or "")
    return digests


def own_targets(settings: Any) -> Iterator[str]:
    """The user's own classes that nested settings name."""
    if isinstance(settings, dict):
        target = settings.get("_target_")
        if isinstance(target, str) and is_user_code(target):
            yield target
        settings = list(settings.values())
    for value in settings if isinstance(settings, list | tuple) else ():
        yield from own_targets(value)


def imported_modules(tree: ast.AST, package: str) -> Iterable[str]:
    """The names that may be modules in the imports of a module in `package`, parents included."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(base, package)
            names |= {f"{base}.{alias.name}" for alias in node.names}
    parts = (name.split(".") for name in names)
    return {".".join(each[:count]) for each in parts for count in range(1, len(each) + 1)}
