"""Large bytes beside the log, named by their content.

In: bytes. Out: their SHA-256, by which they are read back and verified. Left to others: what is in them, and which
event mentions them.

The place is a folder or any address that fsspec knows (`s3://...` with its own package installed). A blob appears whole
or not at all: it is written under another name and renamed.
"""

from __future__ import annotations

import errno
import hashlib
import uuid
from pathlib import Path

import fsspec

from kernelevolve.errors import StoreError, StoreFull


class Blobs:
    """Content-addressed bytes under `root`.

    Args:
        root: a folder (made on the first write) or an fsspec address.
    """

    def __init__(self, root: Path | str) -> None:
        self._files, self._root = fsspec.core.url_to_fs(str(root))

    def put(self, data: bytes) -> str:
        """The SHA-256 of `data`, which is stored now.

        Raises:
            StoreFull: no room; no part of it is left behind.
            StoreError: the place cannot be written.
        """
        digest = hashlib.sha256(data).hexdigest()
        path = self._path(digest)
        if self._files.exists(path):
            return digest
        draft = f"{path}.{uuid.uuid4().hex}.part"
        try:
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            try:
                self._files.pipe_file(draft, data)
                self._files.mv(draft, path)
            except OSError:
                if self._files.exists(draft):
                    self._files.rm_file(draft)
                raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreFull(f"no room for a blob of {len(data)} bytes in {self._root}; free some space") from error
            raise StoreError(f"a blob cannot be written to {self._root}: {error}") from error
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes with this SHA-256.

        Raises:
            StoreError: they are not here, or not what was stored.
        """
        try:
            data: bytes = self._files.cat_file(self._path(digest))
        except OSError as error:
            raise StoreError(f"blob {digest} cannot be read from {self._root}: {error}") from error
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            raise StoreError(f"blob {digest} in {self._root} is damaged (its content has {found}); restore the folder")
        return data

    def _path(self, digest: str) -> str:
        return f"{self._root}/{digest[:2]}/{digest}"
