"""What is kept in memory under what it was made from: the latest of it, up to a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np


class Kept:
    """Arrays, and tuples, lists and dicts that hold them, by key. most: bytes that are kept; the newest always is.

    Nothing is kept under a key that holds a bare object(), for no other key equals it.
    """

    def __init__(self, most: int):
        self._most, self._bytes = most, 0
        self._found: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._found

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What was made under this key before, or is made now."""
        if key in self._found:
            self._found.move_to_end(key)
            return self._found[key][0]
        value = make()
        if not _is_private(key):
            size = _size(value)
            self._found[key] = (value, size)
            self._bytes += size
            while self._bytes > self._most and len(self._found) > 1:
                self._bytes -= self._found.popitem(last=False)[1][1]
        return value

    def drop(self, key: Hashable) -> None:
        """Forget what was made under this key."""
        self._bytes -= self._found.pop(key, (None, 0))[1]

    def clear(self) -> None:
        """Forget all."""
        self._found.clear()
        self._bytes = 0


def _is_private(key: Any) -> bool:
    return type(key) is object or (isinstance(key, tuple) and any(_is_private(part) for part in key))


def _size(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, dict):
        return sum(_size(one) for one in value.values())
    return sum(_size(one) for one in value) if isinstance(value, (tuple, list)) else 64
