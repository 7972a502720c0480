"""The batches as a `torch.utils.data.IterableDataset`. PyTorch is imported when one is asked for, and not before.

It must not know how a batch is planned or read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ge2e_transforms.errors import MissingExtraError
from ge2e_transforms.stream import Position, Stream

try:
    import torch
    from torch.utils.data import IterableDataset, get_worker_info
except ModuleNotFoundError as missing:
    raise MissingExtraError("PyTorch, which a torch.utils.data.IterableDataset needs,", "torch") from missing


class TorchBatches(IterableDataset[tuple[torch.Tensor, Any]]):
    """Whole batches: (examples float32 `[N*M, bins, rows]`, labels int64 `[N*M]`; a list of ids for text labels).

    For `DataLoader(batches, batch_size=None, num_workers=W)`: worker w of W makes the batches w, w + W, ..., and the
    DataLoader hands them out in turn, so they come in the same order whatever W is. Workers share one plan per epoch.

    Args:
        open_stream: the stream of the split; called again in each worker process (by 'spawn' and 'forkserver' it is
            sent there, by 'fork' it finds what this process has made).
        epochs, start: see `BatchLoader.batches`.
    """

    def __init__(self, open_stream: Callable[[], Stream], epochs: int | None, start: Position) -> None:
        super().__init__()
        self._open_stream, self._epochs, self._start = open_stream, epochs, start
        stream = open_stream()
        self._steps = None if epochs is None else stream.steps(start, epochs)
        self._plan_folder = stream.plans.folder

    def __len__(self) -> int:
        """Batches in all of this dataset's epochs; a TypeError for one without end."""
        if self._steps is None:
            raise TypeError("batches without end have no length")
        return self._steps

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Any]]:
        stream, worker = self._open_stream(), get_worker_info()
        step, apart = 0, 1
        if worker is not None:
            stream = stream.in_other_process(self._plan_folder)
            step, apart = worker.id, worker.num_workers
        while self._steps is None or step < self._steps:
            examples, labels = stream.batch_after(self._start, step, self._epochs)
            yield (
                torch.from_numpy(examples),
                labels.tolist() if labels.dtype == np.object_ else torch.from_numpy(labels),
            )
            step += apart
