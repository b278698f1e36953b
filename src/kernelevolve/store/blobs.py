"""Large bytes beside the log, named by their content.

In: bytes. Out: a reference, `sha256:` and the hexadecimal digest, by which they are read back and verified. Left to
others: what is in them (`store.artefacts`), and which event mentions them.

The place is a folder or any address that fsspec knows (`s3://...` with its own package installed). A blob appears whole
or not at all: it is written under another name, flushed to the disk, and renamed. It is there before the event that
names it, so a run that is killed in between has a blob too many and never one too few. A power cut may take the newest
names with it; then `get` says which, and nothing else in the run needs them.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import re
import uuid
from pathlib import Path
from typing import Any

from kernelevolve.errors import StoreError, StoreFull
from kernelevolve.events import Created

FOLDER = "blobs"
_REFERENCE = re.compile(r"sha256:([0-9a-f]{64})")


class Blobs:
    """Content-addressed bytes under `root`.

    Args:
        root: a folder (made on the first write) or an fsspec address.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = str(root)

    def put(self, data: bytes) -> str:
        """The reference of `data`, which is stored now; a damaged blob with the same name is replaced.

        Raises:
            StoreFull: no room; no part of it is left behind.
            StoreError: the place cannot be written.
        """
        digest = hashlib.sha256(data).hexdigest()
        path = self._path(digest)
        try:
            if not (self._files.exists(path) and self._files.cat_file(path) == data):
                self._write(path, data)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreFull(
                    f"no room for a blob of {len(data)} bytes in {self.root} ({error}); "
                    "free some space, then resume the run"
                ) from error
            raise StoreError(f"a blob cannot be written to {self.root}: {error}") from error
        return f"sha256:{digest}"

    def get(self, reference: str) -> bytes:
        """The bytes that `put` gave this reference for.

        Raises:
            StoreError: no reference, or the bytes are not here, or not what was stored.
        """
        named = _REFERENCE.fullmatch(reference)
        if named is None:
            raise StoreError(f"{reference!r:.80} names no blob; a reference is sha256: and 64 hexadecimal digits")
        path = self._path(named[1])
        remedy = f"put it back from a copy of the run's folder ({path})"
        try:
            data: bytes = self._files.cat_file(path)
        except FileNotFoundError as error:
            raise StoreError(f"blob {reference} is missing from {self.root}; {remedy}") from error
        except OSError as error:
            raise StoreError(f"blob {reference} cannot be read: {error}; {remedy}") from error
        found = hashlib.sha256(data).hexdigest()
        if found != named[1]:
            raise StoreError(f"blob {reference} is damaged (its content has sha256:{found}); {remedy}")
        return data

    def sweep(self) -> None:
        """Removes what a killed process had begun to write; only a run's owner may call it.

        Raises:
            StoreError: the place cannot be used.
        """
        try:
            for draft in self._files.glob(f"{self._base}/*/*.part"):
                self._files.rm_file(draft)
        except OSError as error:
            raise StoreError(f"{self.root} cannot be used: {error}") from error

    def _write(self, path: str, data: bytes) -> None:
        draft = f"{path}.{uuid.uuid4().hex}.part"
        self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
        try:
            with self._files.open(draft, "wb") as file:
                file.write(data)
                file.flush()
                if self._local:
                    os.fsync(file.fileno())
            self._files.mv(draft, path)
        except OSError:
            if self._files.exists(draft):
                self._files.rm_file(draft)
            raise

    def _path(self, digest: str) -> str:
        return f"{self._base}/{digest[:2]}/{digest}"

    @functools.cached_property
    def _place(self) -> tuple[Any, str]:
        import fsspec  # a third of the time that the command line takes to start, and most commands read no blob

        try:
            files, base = fsspec.core.url_to_fs(self.root)
        except (ImportError, ValueError) as error:
            raise StoreError(f"{self.root} is no place for blobs: {error}") from error
        return files, base

    @property
    def _files(self) -> Any:
        return self._place[0]

    @property
    def _base(self) -> str:
        return self._place[1]

    @property
    def _local(self) -> bool:
        return "file" in ((p,) if isinstance(p := self._files.protocol, str) else p)


def blobs_of(created: Created, folder: Path) -> Blobs:
    """Where the run in `folder` keeps its blobs: inside that folder, unless it was created with another address."""
    return Blobs(created.blobs or folder / FOLDER)
