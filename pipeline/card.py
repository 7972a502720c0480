"""The data card in the folder of a dataset: written before `metadata.json`, so that no dataset is without.

It must not know what the card says: that is pure text of metadata (`data_card`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ge2e_transforms.data_card import MAX_BYTES, data_card, is_ours
from ge2e_transforms.schema import CARD_FILE
from ge2e_transforms.stores import StoreError
from pipeline import storage

# Of two jobs at once each may find the other's card where it has just put its own. Which of them stands is settled with
# metadata.json, so it is no reason to fail.
_ATTEMPTS = 5


def write_card(output: str, metadata: Mapping[str, Any]) -> None:
    """Writes the card of a dataset, in place of one of ours; a README.md of somebody else is left as it is.

    Raises:
        StorageError, DiskError, StoreError: it cannot be written.
    """
    path = storage.join(output, CARD_FILE)
    if storage.exists(path) and not has_own_card(output):
        logging.getLogger(__name__).warning(
            "%s was not written by this program, so it stays as it is, and the dataset gets no data card", path
        )
        return
    for left in reversed(range(_ATTEMPTS)):
        try:
            storage.write_bytes(path, data_card(metadata))
            return
        except StoreError as error:
            if error.final or not left:
                raise


def has_own_card(output: str) -> bool:
    """Whether a folder holds a data card that this program wrote."""
    path = storage.join(output, CARD_FILE)
    size = storage.size(path)
    return size is not None and size <= MAX_BYTES and is_ours(storage.read_bytes(path))
