# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Mapping between the keys of our state dicts and of the authors'."""

from collections.abc import Iterable, Mapping

__all__ = ["renamed"]


def renamed(keys: Iterable[str], prefixes: Mapping[str, str]) -> dict[str, str]:
    """Map each key of ours to the authors' key of the same tensor.

    Args:
        keys: Keys of our state dict.
        prefixes: The authors' prefix for each of ours; the longest that matches a key is replaced.
    """
    found = {}
    for key in keys:
        mine = max((prefix for prefix in prefixes if key.startswith(f"{prefix}.")), key=len)
        found[key] = prefixes[mine] + key.removeprefix(mine)
    return found
