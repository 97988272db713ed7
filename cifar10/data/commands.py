"""The commands of `cifar10 data`."""

from pathlib import Path

import typer

from cifar10.core.errors import UserError
from cifar10.core.secrets import print_safe
from cifar10.core.settings import default_folder, expand_user

data = typer.Typer(help="Download, verify or locate the CIFAR-10 data set.", no_args_is_help=True)


@data.command()
def fetch() -> None:
    """Download CIFAR-10 (170 MB) if needed and prepare it."""
    from cifar10.data.module import CIFAR10DataModule

    CIFAR10DataModule().setup()
    print_safe(str(prepared_file()))


@data.command()
def verify() -> None:
    """Verify the SHA-256 of the prepared data."""
    from cifar10.data.checksums import CIFAR10
    from cifar10.data.prepare import read_prepared

    if read_prepared(path := prepared_file(), CIFAR10) is None:
        fault = "corrupted" if path.exists() else "not found"
        raise UserError(f"{path}: {fault}; prepare the data with `cifar10 data fetch`")
    print_safe(f"{path}: all six batches have their published SHA-256")


@data.command()
def where() -> None:
    """Print the path of the prepared data."""
    print_safe(str(prepared_file()))


def prepared_file() -> Path:
    from cifar10.data.prepare import PREPARED_FILE

    if not (folder := default_folder()):
        raise UserError("CIFAR10_DATA_DIR is empty; set it to a folder or unset it")
    return expand_user(folder).absolute() / PREPARED_FILE
