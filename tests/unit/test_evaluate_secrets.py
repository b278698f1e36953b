"""Seeds: fixed by the secret, told apart by label, and not given away by printing."""

from __future__ import annotations

import pytest

from kernelevolve.evaluate.secrets import Seeds


def test_a_secret_fixes_every_seed_and_another_one_changes_them() -> None:
    one, same, other = Seeds(bytes(16)), Seeds(bytes(16)), Seeds(bytes([1] * 16))
    assert one.case("a", "D1") == same.case("a", "D1")
    assert one.stream("x").random() == same.stream("x").random()
    seeds = {s.case(label, d).seed for s in (one, other) for label in "abc" for d in ("declared", "D1")}
    assert len(seeds) == 12 and all(0 <= seed < 2**63 for seed in seeds)
    # HMAC-SHA256 of "a/D1" under sixteen zero bytes, by another implementation (openssl dgst -mac HMAC).
    assert one.case("a", "D1").seed == 0x827D15076E02AE9A >> 1


def test_nobody_gets_the_same_secret_and_none_is_printed() -> None:
    one, other = Seeds(), Seeds()
    assert one.secret != other.secret and len(one.secret) == 16
    assert one.secret.hex() not in repr(one) and repr(one.secret) not in repr(one)


def test_a_secret_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes, got 3"):
        Seeds(b"abc")
