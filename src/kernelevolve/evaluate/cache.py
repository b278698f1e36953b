"""Build results by content, so that no candidate is built twice for the same target.

In: everything that a build depends on. Out: the builder's earlier answer, and binaries by their digest. Left to others:
building. Only the host writes here: a builder could otherwise leave a wrong result under another candidate's key.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kernelevolve import codec
from kernelevolve.errors import StoreFull


class BuildCache:
    """Results and binaries in a folder, one file each; safe for several processes: files appear whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def key(*facts: Any) -> str:
        """SHA-256 over the facts."""
        return hashlib.sha256(codec.dumps(list(facts)).encode()).hexdigest()

    def get(self, key: str) -> Mapping[str, Any] | None:
        """The result under `key`, or None; a damaged file counts as none and is removed."""
        path = self._path(key)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            path.unlink(missing_ok=True)
            return None
        return data if isinstance(data, dict) else None

    def put(self, key: str, result: Mapping[str, Any]) -> None:
        """Keeps `result`.

        Raises:
            StoreFull: there is no room for it.
        """
        self._write(self._path(key), codec.dumps(result).encode())

    def get_bytes(self, digest: str) -> bytes | None:
        """The bytes whose SHA-256 is `digest`, or None; damaged ones count as none and are removed."""
        path = self._path(digest, "bin")
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        if hashlib.sha256(data).hexdigest() != digest:
            path.unlink(missing_ok=True)
            return None
        return data

    def put_bytes(self, data: bytes) -> str:
        """Keeps `data` by content; its SHA-256.

        Raises:
            StoreFull: there is no room for it.
        """
        digest = hashlib.sha256(data).hexdigest()
        self._write(self._path(digest, "bin"), data)
        return digest

    def _write(self, path: Path, data: bytes) -> None:
        fresh = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(data)
            fresh.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise StoreFull(f"cannot write the build cache {self.folder}: {error.strerror}; make room") from error

    def _path(self, key: str, kind: str = "json") -> Path:
        return self.folder / key[:2] / f"{key[2:]}.{kind}"
