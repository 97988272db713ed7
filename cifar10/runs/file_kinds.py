"""Model files of other kinds, recognised by how they begin."""

import stat
import zipfile
from pathlib import Path

from cifar10.core.errors import UserError

OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
FIRST_BYTES = {
    OLD_TORCH: "a file of torch.save in its format before 1.6",
    b"\x89HDF\r\n": "an HDF5 file, as Keras writes it",
    b"\x08": "an ONNX model",
}
# Members of ZIP archives, below one folder.
MEMBERS = {
    "constants.pkl": "a TorchScript model",
    "archive_format": "a model of torch.export",
    "models/model.json": "a model of torch.export",
}


def require_checkpoint_file(path: Path) -> None:
    """Raise a UserError for a file that is no archive of torch.save, without reading all of it.

    A checkpoint's tensors are not compressed: what it unpacks to is no larger than the file.
    """
    if not stat.S_ISREG((status := path.stat()).st_mode):  # a pipe would block, a device never end
        raise UserError("not a regular file")
    with path.open("rb") as file:
        first = file.read(32)
    if first[8:10] == b'{"' and int.from_bytes(first[:8], "little") < status.st_size:
        raise UserError("a safetensors file")
    if not first.startswith(b"PK"):
        kinds = (kind for begin, kind in FIRST_BYTES.items() if first.startswith(begin))
        raise UserError(next(kinds, "no file of torch.save"))
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    names = {name.partition("/")[2] for name in (member.filename for member in members)}
    if kind := next((kind for name, kind in MEMBERS.items() if name in names), None):
        raise UserError(kind)
    unpacked = sum(member.file_size for member in members)
    if unpacked > status.st_size or any(m.compress_type != zipfile.ZIP_STORED for m in members):
        raise UserError(f"an archive that unpacks to {unpacked:,} bytes, which torch never writes")
