"""What is identical byte for byte: only candidates whose cheap keys agree are hashed, and each of them once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from hashlib import blake2b
from typing import TypeVar

from mmvq_cli.model import ExpertTensor
from mmvq_cli.validate.scan import Run

T = TypeVar("T")


def find_twins(
    candidates: Iterable[T], keys: Iterable[Hashable], hash_of: Callable[[T], bytes]
) -> Iterator[tuple[T, T]]:
    """Yield each candidate that is identical to an earlier one, with the first of those.

    Identical candidates have equal `keys`; `hash_of` decides among those that do.
    """
    alike: dict[Hashable, list[T]] = {}
    for candidate, key in zip(candidates, keys, strict=True):
        alike.setdefault(key, []).append(candidate)
    for group in alike.values():
        first: dict[bytes, T] = {}
        for candidate in group if len(group) > 1 else ():
            twin = first.setdefault(hash_of(candidate), candidate)
            if twin is not candidate:
                yield candidate, twin


def digest(tensor: ExpertTensor, first: int, count: int) -> bytes:
    """A 128-bit hash of all bytes of experts `first` to `first + count`. Raises `OpenError`."""
    total = blake2b(digest_size=16)
    for expert in range(first, first + count):
        for blocks in Run(tensor, expert, 1).pieces():
            total.update(blocks.data)
    return total.digest()
