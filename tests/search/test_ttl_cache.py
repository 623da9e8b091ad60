"""A cache is bounded in entries and in bytes."""

from __future__ import annotations

from search.serve.ttl_cache import TtlCache


def test_the_entry_that_was_used_longest_ago_leaves_first() -> None:
    cache: TtlCache[str, int] = TtlCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)


def test_entries_are_given_while_they_live() -> None:
    now = [0.0]
    cache: TtlCache[str, int] = TtlCache(2, 10.0, lambda: now[0], lambda key, value: value, 100)
    cache.put("a", 1)
    now[0] = 10.0
    assert cache.get("a") == 1
    now[0] = 10.1
    assert cache.get("a") is None and len(cache) == 0 == cache.bytes


def test_all_entries_together_have_a_budget_of_bytes() -> None:
    cache: TtlCache[str, bytes] = TtlCache(100, weight=lambda key, value: len(key) + len(value), budget=10)
    for key in "abc":
        cache.put(key, b"123")
    assert (cache.get("a"), cache.get("b"), cache.bytes) == (None, b"123", 8)
    cache.put("b", b"1")  # replaces
    assert cache.bytes == 6
    cache.put("d", b"1" * 10)  # larger than all
    assert cache.get("d") is None and cache.bytes == 6  # and the others stay
    cache.clear()
    assert cache.bytes == 0
