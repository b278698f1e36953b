"""Build results by content, so that no candidate is built twice for the same target.

In: everything that a build depends on. Out: the builder's earlier answer. Left to others: building. Only the host
writes here: a builder could otherwise leave a wrong result under another candidate's key.
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
    """JSON results in a folder, one file each; safe for several processes, since a file appears whole or not at all."""

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
        path = self._path(key)
        fresh = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(codec.dumps(result), encoding="utf-8")
            fresh.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise StoreFull(f"cannot write the build cache {self.folder}: {error.strerror}; make room") from error

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}.json"
