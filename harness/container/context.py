"""Context: the files of an image build, packed as the daemon wants them."""

from __future__ import annotations

import io
import stat
import tarfile
from collections.abc import Mapping


def pack(files: Mapping[str, str]) -> io.BytesIO:
    """Pack ``files`` (name -> text), readable and executable by their owner only."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, text in files.items():
            data = text.encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.mode = stat.S_IRUSR | stat.S_IXUSR
            tar.addfile(member, io.BytesIO(data))
    packed.seek(0)
    return packed
