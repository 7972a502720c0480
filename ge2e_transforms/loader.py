"""Batches of exactly N speakers x M utterances from a dataset, as NumPy arrays, and what all readers have in common.

It opens datasets, sorts options out and makes streams; it must not know how a crop is drawn or read.
"""

from __future__ import annotations

import copy
import functools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ge2e_transforms import notes
from ge2e_transforms.augmentation import Augmentation
from ge2e_transforms.checks import check, check_integer
from ge2e_transforms.coverage import coverage
from ge2e_transforms.dataset import Dataset, speaker_id_mapping, speaker_names
from ge2e_transforms.errors import ConfigError
from ge2e_transforms.loader_options import Chosen, LoaderOptions, sort_options
from ge2e_transforms.population import Filters, Population
from ge2e_transforms.sampling import Sampler
from ge2e_transforms.schema import TRAIN_SPLIT
from ge2e_transforms.stream import Batch, Position, Stream
from ge2e_transforms.supply import SamplingOptions
from ge2e_transforms.trials import Trials, read_trials, verification_trials
from ge2e_transforms.whole import WholeUtterance, WholeUtterances

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ge2e_transforms.torch_reader import TorchBatches


class BatchLoader:
    """Reads a dataset as batches of N different speakers x M crops.

    An epoch takes each speaker's quota of crops (`speakers`) in random order; the next epoch goes on with others. No
    crop comes twice in an epoch, and no speaker twice in a batch. `coverage` says what an epoch uses and leaves. The
    batches are the same for every reader, in the same order.

    Args:
        root_dir: folder of a finished dataset, or its `gs://` or `s3://` URL.
        speakers_per_batch: N; default that of the metadata, or all speakers of a split that has fewer (with a warning).
            With `global_batch` of each host.
        utterances_per_speaker: M; default that of the metadata.
        crop_frames: length of a crop in stored rows, or in frames of the `features` that are computed when reading;
            default that of the metadata's `feature_shape`. Or (shortest, longest, step): then each batch has a length
            of its own.
        seed: integer; other seeds give other batches.
        options: distinct='prefer', distinct_sessions=False, speakers='uniform', slots_per_utterance=None,
            short='repeat', under_m='drop', crops='random', batch_sources='mixed', locality=None (`SamplingOptions`);
            only_speakers=None, exclude_speakers=(), sources=None, min_utterances=0, min_sessions=0, speaker_order=None
            (`loader_options.Chosen`); normalize='none', layout='mel_time', check_crc='first', readers=32
            (`ReadingOptions`); features=None, waveform_transform=None (`WaveformOptions`); labels='mapped',
            spec_augment=None, mel_augment=None, workers=0 (`Delivery`); host_index=0, host_count=1, global_batch=False
            (`Hosts`); cache_dir=None, cache_gib=100.0 (`loader_options.CacheOptions`).

    Raises:
        ConfigError: an option has a value that cannot be used, or there is no such option.
        DatasetError: the folder holds no complete dataset.
    """

    def __init__(
        self,
        root_dir: str | Path,
        speakers_per_batch: int | None = None,
        utterances_per_speaker: int | None = None,
        crop_frames: int | tuple[int, int, int] | None = None,
        seed: int = 0,
        **options: Unpack[LoaderOptions],
    ) -> None:
        given = sort_options(options)
        self._dataset = Dataset.open(root_dir, given.cache.cache)
        metadata = self._dataset.metadata
        self._recipe = given.waveforms.delivered(self._dataset.recipe)

        def default(value: Any, stored: int) -> Any:
            return stored if value is None else value

        options_of_crops = SamplingOptions(
            speakers_per_batch=default(speakers_per_batch, metadata["speakers_per_batch"]),
            utterances_per_speaker=default(utterances_per_speaker, metadata["utterances_per_speaker"]),
            crop_frames=default(crop_frames, self._recipe.crop_frames),
            seed=seed,
            **given.sampling,
        )
        self._options = given.waveforms.sampled(options_of_crops, self._recipe)
        self._fewer = speakers_per_batch is None
        self._filters = self._resolve(given.chosen)
        self._speaker_order = given.chosen.speaker_order
        self._reading, self._delivery, self._hosts = given.reading, given.delivery, given.hosts
        self._waveforms = given.waveforms
        self._streams: dict[str, Stream] = {}
        self._whole_utterances: WholeUtterances | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For another process: what holds open files is made anew there."""
        return {**self.__dict__, "_streams": {}, "_whole_utterances": None}

    def get_metadata(self) -> dict[str, Any]:
        """A copy of the dataset's metadata, with `speaker_id_mapping`: label by `namespace/speaker_id`.

        With `features` it speaks of what is delivered: recipe, shape and type are of these features, so that
        `FeatureExtractor.from_metadata` makes them of other speech; statistics of them there are none.
        """
        metadata = copy.deepcopy(self._dataset.metadata)
        if self._waveforms.features is not None:
            recipe = self._recipe
            metadata |= {"recipe": recipe.to_dict(), "feature_shape": recipe.feature_shape, "dtype": recipe.dtype}
            metadata |= {"features": recipe.feature.features, "fingerprint": recipe.fingerprint()}
            metadata["statistics"] |= {"frames": 0, "mean": [], "std": []}
        return {**metadata, "speaker_id_mapping": speaker_id_mapping(self._dataset)}

    # Batches.

    def batches(
        self, split: str = TRAIN_SPLIT, epochs: int | None = 1, start: tuple[int, int] = (0, 0)
    ) -> BatchIterator:
        """Batches of `epochs` epochs (None: without end), from batch `start[1]` of epoch `start[0]` on.

        Each is (examples, labels): float32 `[N*M, bins, rows]` (`[N*M, rows, bins]` with layout='time_mel'), and int64
        `[N*M]` in runs of M (ids as objects with labels='original').

        Raises:
            ConfigError: `epochs` or `start` cannot be used.
            SamplingError: the split has fewer than N speakers with M crops.
            DatasetError: no such split, or its files are not as the metadata says.
            CorruptRecordError: a record is damaged; raised by the batch that it is in.
        """
        stream = self.stream(split)
        check_epochs(epochs)
        return BatchIterator(stream, stream.start(start), epochs)

    def torch_dataset(
        self, split: str = TRAIN_SPLIT, epochs: int | None = 1, start: tuple[int, int] = (0, 0)
    ) -> TorchBatches:
        """The same batches as a `torch.utils.data.IterableDataset`; see `torch_reader.TorchBatches`.

        Raises:
            MissingExtraError: PyTorch is not installed.
            ConfigError: the loader has `workers`; all else as `batches`.
        """
        from ge2e_transforms.torch_reader import TorchBatches

        check_epochs(epochs)
        if self._delivery.workers:
            raise ConfigError(
                f"workers={self._delivery.workers} cannot be used with PyTorch, whose DataLoader has processes of its "
                "own: leave it out, and give `num_workers` there"
            )
        return TorchBatches(functools.partial(self.stream, split), epochs, self.stream(split).start(start))

    @property
    def steps_per_epoch(self) -> int:
        """Batches that this host takes of an epoch of the train split."""
        return self.batches_per_epoch()

    def batches_per_epoch(self, split: str = TRAIN_SPLIT) -> int:
        """Batches that this host takes of an epoch, the same in every epoch and for every host."""
        return self.stream(split).steps_per_epoch

    def coverage(self, split: str = TRAIN_SPLIT, epoch: int = 0) -> dict[str, int | float]:
        """What an epoch (of all hosts) uses and leaves, and what was relaxed; see `coverage.coverage`."""
        return coverage(self.stream(split).sampler, epoch)

    def speaker_ids(self, split: str = TRAIN_SPLIT) -> list[str]:
        """Ids of the speakers that take part, by dense label."""
        return speaker_names(self._dataset, self.stream(split).speakers.tolist())

    def stream(self, split: str) -> Stream:
        """What all readers of a split read from; made once."""
        if split not in self._streams:
            self._streams[split] = self._make_stream(split)
        return self._streams[split]

    # Whole utterances and trials.

    def utterance(self, utterance_id: str, speaker_id: str | None = None) -> WholeUtterance:
        """A whole utterance by its id (and speaker, where several have one of that id); see `WholeUtterances.one`."""
        return self._whole().one(utterance_id, speaker_id)

    def utterances(self, split: str, order: str = "index", pad_to: int | None = None) -> Iterator[WholeUtterance]:
        """All whole utterances of a split with their true lengths; see `WholeUtterances.all`."""
        return self._whole().all(split, order, pad_to)

    def trials(self, path: str | Path) -> Trials:
        """Trials of a list of `label enrol test`; see `trials.read_trials`."""
        return read_trials(path, self._dataset)

    def verification_trials(
        self,
        split: str,
        per_speaker: int = 100,
        seed: int = 0,
        cross_session: bool = True,
        same_gender: Mapping[str, Any] | None = None,
    ) -> Trials:
        """Target and non-target trials drawn from a split; see `trials.verification_trials`."""
        return verification_trials(self._dataset, split, per_speaker, seed, cross_session, same_gender)

    def _whole(self) -> WholeUtterances:
        if self._waveforms.in_use:
            raise ConfigError(
                "features and waveform_transform are of crops: read whole utterances by a loader without them; "
                "`FeatureExtractor.from_metadata(loader.get_metadata())` of this one turns them into its features"
            )
        if self._reading.normalize == "crop":
            raise ConfigError(
                "normalize='crop' says nothing of a whole utterance: use 'utterance', 'dataset' or 'none'"
            )
        if self._whole_utterances is None:  # one for all, as it keeps tables and files
            self._whole_utterances = WholeUtterances(self._dataset, self._reading.layout, self._reading.normalize)
        return self._whole_utterances

    # Making of streams.

    def _make_stream(self, split: str) -> Stream:
        index = self._dataset.index(split)
        population = Population(index, self._options, self._filters, index.first_rows)
        hosts = self._hosts.count if self._hosts.global_batch else 1
        n = self._options.speakers_per_batch * hosts
        if self._fewer and hosts <= population.eligible < n:
            lower = population.eligible // hosts
            notes.warn(
                f"split {split!r} has {population.eligible} speakers with {self._options.utterances_per_speaker} crops "
                f"or more: its batches have N={lower} speakers instead of {n // hosts}"
            )
            n = lower * hosts
        sampler = Sampler(population, n, self._speaker_order)
        notes.tell(split, sampler)
        options = (self._hosts, self._reading, self._waveforms, self._delivery)
        return Stream(self._dataset, split, sampler, self._filters, index, *options)

    def _resolve(self, chosen: Chosen) -> Filters:
        """Names of speakers and sources as the numbers that the index holds.

        Who is excluded is so at every speed: a speaker who was held out must not come back sped up.
        """
        by_id = chosen.only_speakers is not None or chosen.exclude_speakers
        labels = speaker_id_mapping(self._dataset) if by_id else {}
        sources = {name: number for number, name in enumerate(self._dataset.metadata.get("datasets", ()))}

        def numbers(option: str, known: Mapping[str, int]) -> tuple[int, ...] | None:
            names = getattr(chosen, option)
            return None if names is None else self._numbers(option, names, known)

        config = Augmentation.of(self._dataset.metadata) if chosen.exclude_speakers else None
        sped = [name for given in chosen.exclude_speakers for name in config.at_speeds(given)] if config else []
        return Filters(
            only=numbers("only_speakers", labels),
            excluded=(*(numbers("exclude_speakers", labels) or ()), *(labels[name] for name in sped if name in labels)),
            sources=numbers("sources", sources),
            min_utterances=chosen.min_utterances,
            min_sessions=chosen.min_sessions,
        )

    def _numbers(self, option: str, names: Sequence[str], known: Mapping[str, int]) -> tuple[int, ...]:
        check(not isinstance(names, str), option, names, "a list of names")
        unknown = [name for name in names if name not in known]
        if unknown:
            what = "source" if option == "sources" else "speaker"
            raise ConfigError(
                f"{option}: {len(unknown)} of {len(names)} names are no {what} of {self._dataset.root}: "
                f"{', '.join(map(repr, unknown[:10]))}; it has names such as {', '.join(map(repr, list(known)[:3]))}"
            )
        return tuple(sorted({known[name] for name in names}))


class BatchIterator(Iterator[Batch]):
    """Batches one after the other, with a state to go on from.

    `state_dict()` after k batches, given to `load_state_dict()` of an iterator over the same batches, makes that one go
    on with batch k + 1, to the end of its own epochs: also on another number of hosts.
    """

    def __init__(self, stream: Stream, start: Position, epochs: int | None) -> None:
        self._stream, self._place = stream, start
        self._last = None if epochs is None else start.epoch + epochs - 1
        self._begun: deque[tuple[Position, Callable[[], Batch]]] = deque()

    def __next__(self) -> Batch:
        if self._stream.after(self._place, 0) != self._place:  # too little of the epoch is left for all hosts
            self._place = self._stream.after(self._place, 0)
        if self._is_behind(self._place):
            raise StopIteration
        if self._stream.ahead:
            self._begin_ahead()
            batch = self._begun.popleft()[1]()
        else:
            batch = self._stream.batch(self._place, go_on=self._place.epoch != self._last)
        self._place = self._stream.after(self._place, 1)
        return batch

    def _begin_ahead(self) -> None:
        """Has batches begun from this place on. After a jump or an error those that were begun are of other places."""
        if self._begun and self._begun[0][0] != self._place:
            self._begun.clear()
        stream, place = self._stream, self._place
        if self._begun:
            place = stream.after(self._begun[-1][0], 1)
        while len(self._begun) < stream.ahead and not self._is_behind(place):
            # An order of speakers may follow from what was learnt until then: it is not asked for ahead of its epoch.
            if stream.sampler.has_order and place.epoch != self._place.epoch:
                break
            self._begun.append((place, stream.begin(place, go_on=place.epoch != self._last)))
            place = stream.after(place, 1)

    def _is_behind(self, place: Position) -> bool:
        """Whether a place is behind the last epoch."""
        return self._last is not None and place.epoch > self._last

    def state_dict(self) -> dict[str, Any]:
        """Epoch, step and what the batches were planned from: plain numbers and text, small."""
        return self._stream.state(self._place)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state.

        Raises:
            ConfigError: the state is none of such batches.
            SamplingError: it is of another dataset, or of options that give other batches.
        """
        self._place = self._stream.restore(state)


def check_epochs(epochs: int | None) -> None:
    """ConfigError unless it is None or an integer from 1 on."""
    if epochs is not None:
        check_integer("epochs", epochs, 1, 1 << 31)
