"""The batches of one split as one stream over epochs: which batch comes at which step, on which host, and its arrays.

Batch i of epoch e follows from (dataset, options, e, i) alone: there is no shuffle buffer and no hidden state. All
readers (NumPy, tf.data, PyTorch) are thin layers over `Stream.batch`. It must not know of TensorFlow or PyTorch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ge2e_transforms.augment import SpecAugment
from ge2e_transforms.checks import check, check_integer, check_one_of
from ge2e_transforms.config import canonical_json
from ge2e_transforms.crop_features import WaveformOptions
from ge2e_transforms.dataset import Dataset, speaker_names
from ge2e_transforms.errors import ConfigError, SamplingError
from ge2e_transforms.examples import Crops, Examples, Source
from ge2e_transforms.mel_augment import MelAugment
from ge2e_transforms.plans import Plans
from ge2e_transforms.population import Filters
from ge2e_transforms.reading import ReadingOptions
from ge2e_transforms.runs import Ints
from ge2e_transforms.sampling import Sampler
from ge2e_transforms.split_index import SplitIndex

if TYPE_CHECKING:
    from ge2e_transforms.batch_workers import BatchWorkers

Batch: TypeAlias = tuple[npt.NDArray[np.float32], npt.NDArray[Any]]

LABELS = ("mapped", "dense", "original")
# Raised when the same options give other plans; a state of an older version is then refused.
PLAN_VERSION = 1
# Batches that each worker process has begun or made before they are asked for.
_AHEAD = 2


class Position(NamedTuple):
    """A place in the stream: `step` batches of `epoch` are done, counted over all hosts together."""

    epoch: int = 0
    step: int = 0


@dataclass(frozen=True)
class Hosts:
    """Which of the batches this host takes.

    Attributes:
        index, count: host `index` of `count` takes batches i with i mod count = index, of as many batches as are a
            multiple of `count`: so all hosts take equally many, and together the batches that one host alone takes.
        global_batch: a batch is planned for N x count speakers, and each host takes the rows of N of them: for those
            who gather the embeddings of all hosts before the loss.
    """

    index: int = 0
    count: int = 1
    global_batch: bool = False

    def __post_init__(self) -> None:
        check_integer("host_count", self.count, 1, 1 << 20)
        check_integer("host_index", self.index, 0, self.count)
        check(isinstance(self.global_batch, bool), "global_batch", self.global_batch, "True or False")

    @property
    def shares(self) -> int:
        """Batches that all hosts take at one step."""
        return 1 if self.global_batch else self.count


@dataclass(frozen=True)
class Delivery:
    """How the arrays of a batch are made of its crops and speakers.

    Attributes:
        labels: 'mapped' as in the dataset (stable, may have gaps), 'dense' from 0 over the speakers that take part,
            'original' the speakers' ids as text.
        spec_augment: masks, drawn by (seed, epoch, batch, place in it).
        mel_augment: noise and changes of level, drawn alike; done before values are normalised.
        workers: processes that make batches ahead of time, for NumPy and tf.data; 0 makes each here when it is asked
            for. They are started by 'spawn', so a script that reads batches needs `if __name__ == "__main__":`.
    """

    labels: str = "mapped"
    spec_augment: SpecAugment | None = None
    mel_augment: MelAugment | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        check_integer("workers", self.workers, 0, 1 << 10)
        check_one_of("labels", self.labels, LABELS)
        known = self.spec_augment is None or isinstance(self.spec_augment, SpecAugment)
        check(known, "spec_augment", self.spec_augment, "a SpecAugment, or None")
        known = self.mel_augment is None or isinstance(self.mel_augment, MelAugment)
        check(known, "mel_augment", self.mel_augment, "a MelAugment, or None")


class Stream:
    """All batches of one split. Safe to call from several threads at once.

    Args:
        dataset: an open dataset.
        split: its name.
        sampler: plans the batches; for all hosts together with `global_batch`.
        filters: what the sampler's population was made with.
        index: of the split.
        hosts, reading, waveforms, delivery: see there.
        plan_folder: of a stream of another process of this host, to share its plans.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        sampler: Sampler,
        filters: Filters,
        index: SplitIndex,
        hosts: Hosts,
        reading: ReadingOptions,
        waveforms: WaveformOptions,
        delivery: Delivery,
        plan_folder: Path | None = None,
    ) -> None:
        self.dataset, self.split, self.sampler, self.index, self.hosts = dataset, split, sampler, index, hosts
        self._filters, self._delivery = filters, delivery
        if not self.steps_per_epoch:
            raise SamplingError(
                f"an epoch of split {split!r} has {sampler.batches_per_epoch} batches, fewer than host_count="
                f"{hosts.count}: use fewer hosts, speakers_per_batch or utterances_per_speaker"
            )
        self._source = Source(
            dataset, split, sampler.options, reading, waveforms, delivery.mel_augment, delivery.spec_augment
        )
        self._examples = Examples(self._source, index)
        self.plan_facts: dict[str, Any] = json.loads(canonical_json(self._facts()))
        self.digest = hashlib.sha256(canonical_json(self.plan_facts).encode()).hexdigest()
        self.plans = Plans(sampler, self.digest[:16], plan_folder)
        self._names = self._label_names()
        self._workers = self._batch_workers()

    def in_other_process(self, plan_folder: Path) -> Stream:
        """The same stream for another process of this host: opens files of its own and shares the plans of a folder."""
        return Stream(
            self.dataset,
            self.split,
            self.sampler,
            self._filters,
            self.index,
            self.hosts,
            self._source.reading,
            self._source.waveforms,
            replace(self._delivery, workers=0),
            plan_folder,
        )

    def _batch_workers(self) -> BatchWorkers | None:
        if not self._delivery.workers:
            return None
        from ge2e_transforms.batch_workers import BatchWorkers

        values = self._size * self._examples.rows(self.sampler.options.longest) * self._examples.recipe.n_bins
        return BatchWorkers(self._source, self._delivery.workers, values)

    # Steps.

    @property
    def steps_per_epoch(self) -> int:
        """Batches that this host takes in a whole epoch; the same for all hosts."""
        return self.sampler.batches_per_epoch // self.hosts.shares

    @property
    def shape(self) -> tuple[int, int | None, int | None]:
        """Shape of the examples of a batch; None where lengths differ from batch to batch."""
        source = self._source
        longest = self._examples.rows(source.sampling.longest)
        rows = longest if len(source.sampling.lengths) == 1 else None
        bins = self._examples.recipe.n_bins
        return (self._size, bins, rows) if source.reading.layout == "mel_time" else (self._size, rows, bins)

    @property
    def _size(self) -> int:
        """Crops of a batch of this host."""
        shares = self.hosts.count if self.hosts.global_batch else 1
        return self.sampler.speakers_per_batch // shares * self.sampler.options.utterances_per_speaker

    def start(self, start: tuple[int, int]) -> Position:
        """Checks a place to start from.

        Raises:
            ConfigError: no such place.
        """
        pair = isinstance(start, (tuple, list)) and len(start) == 2
        check(pair, "start", start, "(epoch, step)")
        check_integer("epoch of start", start[0], 0, 1 << 62)
        check_integer("step of start", start[1], 0, self.sampler.batches_per_epoch + 1)
        return Position(int(start[0]), int(start[1]))

    def steps(self, start: Position, epochs: int) -> int:
        """Steps of this host from a place to the end of `epochs` epochs, that of the place counted whole."""
        return self._first_steps(start) + (epochs - 1) * self.steps_per_epoch

    def after(self, start: Position, steps: int) -> Position:
        """The place after some steps: the same on every host."""
        first = self._first_steps(start)
        if steps < first:
            return Position(start.epoch, start.step + steps * self.hosts.shares)
        epochs, rest = divmod(steps - first, self.steps_per_epoch)
        return Position(start.epoch + 1 + epochs, rest * self.hosts.shares)

    def _first_steps(self, start: Position) -> int:
        return (self.sampler.batches_per_epoch - start.step) // self.hosts.shares

    # Batches.

    def batch(self, place: Position, go_on: bool = False) -> Batch:
        """Examples float32 and labels of this host's batch at a place. `go_on`: the next epoch will be asked for."""
        return self.begin(place, go_on)()

    @property
    def ahead(self) -> int:
        """Batches to begin before one is taken, so that all worker processes have something to do."""
        return _AHEAD * self._delivery.workers

    def begin(self, place: Position, go_on: bool = False) -> Callable[[], Batch]:
        """Begins a batch, where there are worker processes; the function that is returned gives it, or waits for it."""
        crops, labels = self._crops(place, go_on)
        if self._workers is None:
            return lambda: (self._examples.make(crops), labels)
        coming = self._workers.submit(crops)
        return lambda: (coming.result(), labels)

    def _crops(self, place: Position, go_on: bool) -> tuple[Crops, npt.NDArray[Any]]:
        """Which crops and labels make this host's batch."""
        number = place.step + (0 if self.hosts.global_batch else self.hosts.index)
        part, row = self.sampler.locate(place.epoch, number)
        # An order of speakers may follow from what was learnt until then, so it is not asked for ahead of its epoch.
        plan = self.plans.get(place.epoch, part, go_on and not self.sampler.has_order)
        m = self.sampler.options.utterances_per_speaker
        mine = self._mine()
        columns = slice(mine.start * m, mine.stop * m)
        records, starts = plan.records[row, columns], plan.starts[row, columns]
        window = self._window(place.epoch, part)
        crops = Crops(records, starts, int(plan.frames[row]), place.epoch, number, columns.start, window)
        return crops, self._labels(np.repeat(plan.labels[row, mine].astype(np.int64), m))

    def batch_after(self, start: Position, steps: int, epochs: int | None) -> Batch:
        """The batch that comes some steps after a place, in a stream of `epochs` epochs from there (None: endless)."""
        place = self.after(start, steps)
        return self.batch(place, go_on=epochs is None or place.epoch < start.epoch + epochs - 1)

    def _mine(self) -> slice:
        """Seats of a planned batch that this host takes."""
        if not self.hosts.global_batch:
            return slice(0, self.sampler.speakers_per_batch)
        n = self.sampler.speakers_per_batch // self.hosts.count
        return slice(self.hosts.index * n, (self.hosts.index + 1) * n)

    def _window(self, epoch: int, part: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        if not self.sampler.options.locality:
            return None
        following = (epoch, part + 1) if part + 1 < self.sampler.parts else (epoch + 1, 0)
        return tuple(self.sampler.shards(epoch, part)), tuple(self.sampler.shards(*following))

    # Labels.

    @property
    def speakers(self) -> Ints:
        """Labels of the speakers that take part, rising: the dense label is the place here."""
        population = self.sampler.population
        return np.unique(population.label[population.held > 0])

    @property
    def labels_are_text(self) -> bool:
        """Whether labels are ids, in an array of objects, and not int64."""
        return self._delivery.labels == "original"

    def _label_names(self) -> tuple[Ints, Any] | None:
        if self._delivery.labels == "mapped":
            return None
        labels = self.speakers
        if self._delivery.labels == "dense":
            return labels, np.arange(len(labels))
        return labels, np.array(speaker_names(self.dataset, labels.tolist()), dtype=np.object_)

    def _labels(self, labels: Ints) -> npt.NDArray[Any]:
        if self._names is None:
            return labels
        known, names = self._names
        found: npt.NDArray[Any] = names[np.searchsorted(known, labels)]
        return found

    # State.

    def _facts(self) -> dict[str, Any]:
        """All that decides which crops make batch i of epoch e; hosts, layout and labels do not."""
        metadata = self.dataset.metadata
        return {
            "plan_version": PLAN_VERSION,
            "dataset": metadata["splits"][self.split]["index"]["sha256"],
            "recipe": hashlib.sha256(canonical_json(metadata["recipe"]).encode()).hexdigest(),
            "split": self.split,
            **asdict(self.sampler.options),
            "speakers_per_batch": self.sampler.speakers_per_batch,
            "batches_per_epoch": self.sampler.batches_per_epoch,
            "parts": self.sampler.parts,
            "speaker_order": self.sampler.has_order,
            "filters": asdict(self._filters),
        }

    def state(self, place: Position) -> dict[str, Any]:
        """What `restore` needs to go on from a place; plain numbers and text."""
        return {"epoch": place.epoch, "step": place.step, "digest": self.digest, "plan": dict(self.plan_facts)}

    def restore(self, state: Mapping[str, Any]) -> Position:
        """The place that a state names.

        Raises:
            ConfigError: the state is none of these.
            SamplingError: it is of another dataset or of other options; the message names them.
        """
        if not isinstance(state, Mapping) or not {"epoch", "step", "digest", "plan"} <= state.keys():
            raise ConfigError(f"state={state!r} cannot be used: expected what state_dict() of these batches gave")
        if state["digest"] != self.digest:
            theirs = state["plan"]
            names = [name for name, value in self.plan_facts.items() if theirs.get(name) != value]
            told = ", ".join(f"{name} (then {theirs.get(name)!r}, now {self.plan_facts[name]!r})" for name in names)
            raise SamplingError(
                f"the state belongs to other batches than these, so they cannot go on from it: {told or 'digest'} "
                "differ. Open the dataset that it was saved for with the options of that time, or start without it"
            )
        return self.start((state["epoch"], state["step"]))
