"""The build cache: by content, whole or not at all, also with several processes and damaged files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kernelevolve.errors import StoreFull
from kernelevolve.evaluate.cache import BuildCache
from kernelevolve.protocol import Case

FACTS = ["source", "problem", "h100", {"BLOCK": 64}, ["fp32-strict"], {"triton": "3.9.0"}]


def test_what_was_put_is_got_by_another_cache_of_the_folder(tmp_path: Path) -> None:
    key = BuildCache.key(*FACTS)
    assert BuildCache(tmp_path).get(key) is None
    BuildCache(tmp_path).put(key, {"registers": 32, "plan": ["ü"]})
    assert BuildCache(tmp_path).get(key) == {"registers": 32, "plan": ["ü"]}
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".")]


def test_the_key_changes_with_each_fact_and_not_with_their_order() -> None:
    key = BuildCache.key(*FACTS)
    others = [[*FACTS[:i], "else", *FACTS[i + 1 :]] for i in range(len(FACTS))]
    keys = {key, *(BuildCache.key(*facts) for facts in others), BuildCache.key(*FACTS[:3], {"BLOCK": 128}, *FACTS[4:])}
    assert len(keys) == len(FACTS) + 2
    assert BuildCache.key({"a": 1, "b": 2}) == BuildCache.key({"b": 2, "a": 1})
    assert BuildCache.key(Case(1)) != BuildCache.key(Case(2))


@pytest.mark.parametrize("damage", [b"", b'{"registers": 3', b"\xff\xfe", b"[1, 2]"])
def test_a_damaged_file_counts_as_none_and_is_replaced(tmp_path: Path, damage: bytes) -> None:
    cache, key = BuildCache(tmp_path), BuildCache.key(*FACTS)
    cache.put(key, {"registers": 32})
    (file,) = (p for p in tmp_path.rglob("*.json"))
    file.write_bytes(damage)
    assert cache.get(key) is None
    cache.put(key, {"registers": 33})
    assert cache.get(key) == {"registers": 33}


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "builds").write_text("a file stands in the way")
    with pytest.raises(StoreFull, match="builds"):
        BuildCache(tmp_path / "builds").put(BuildCache.key(*FACTS), {})


WRITER = """
import sys
from pathlib import Path
from kernelevolve.evaluate.cache import BuildCache
cache, key = BuildCache(Path(sys.argv[1])), sys.argv[2]
for i in range(300):
    cache.put(key, {"value": [i] * 2000})
    found = cache.get(key)
    assert found is not None and len(set(found["value"])) == 1 and len(found["value"]) == 2000, found
"""


def test_two_processes_never_see_half_a_result(tmp_path: Path) -> None:
    key = BuildCache.key(*FACTS)
    both = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, key]) for _ in range(2)]
    assert [p.wait(60) for p in both] == [0, 0]
    assert len(list(tmp_path.rglob("*.*"))) == 1
