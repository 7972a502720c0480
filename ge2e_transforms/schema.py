"""The contract of writer and loader: record keys, index columns, file names, format version. Nothing else.

It must not know how any of these files is written or read.

Layout of a dataset folder O (gen = first 8 hex digits of the fingerprint of recipe, plan and manifests):

    O/metadata.json                                       by which the folder is a dataset; replaced as a whole, last
    O/README.md                                           the data card, for people; written before it
    O/<split>/features-<gen>-00007-of-00032.tfrecord      records, speakers and utterances in sorted order
    O/<split>/features-<gen>-00007-of-00032.index.parquet one row a record
    O/<split>/features-<gen>-00007-of-00032.done.json     what the shard holds; written last of the three
    O/<split>/features-<gen>-00007-of-00032.started.json  while the shard is written, or if its process died over it
    O/<split>/index-<gen>.arrow                           integers of all records of the split, for the sampler
    O/speakers-<gen>.parquet                              one row a speaker
    O/ledger-<gen>.parquet                                one row a manifest row that was not written
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ge2e_transforms.errors import LedgerRow

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = "ge2e-features"
FORMAT_VERSION = 3
METADATA_FILE = "metadata.json"
CARD_FILE = "README.md"
# How much a running job has to do; gone when it has published.
PROGRESS_FILE = "ge2e-progress.json"

# Keys of the tf.train.Example of one record.
KEY_DTYPE = "spectrogram/dtype"
KEY_VALUES = "spectrogram/values"
KEY_ENCODED = "spectrogram/encoded"
KEY_HEIGHT = "spectrogram/height"
KEY_WIDTH = "spectrogram/width"
KEY_SPEAKER = "speaker/original_id"
KEY_LABEL = "speaker/mapped_id"
KEY_SOURCE = "data/source"
KEY_SUBSET = "data/subset"
KEY_UTTERANCE = "utterance/id"
KEY_SESSION = "utterance/session"
KEY_START = "utterance/start"
KEY_LENGTH = "utterance/length"
KEY_AUGMENTATION = "utterance/augmentation"
KEY_PARENT = "utterance/parent"
# Columns of a shard's index that repeat a field of the record.
REPEATED = {
    "label": KEY_LABEL,
    "speaker_id": KEY_SPEAKER,
    "utterance_id": KEY_UTTERANCE,
    "session_id": KEY_SESSION,
    "source": KEY_SOURCE,
    "subset": KEY_SUBSET,
    "start": KEY_START,
    "samples": KEY_LENGTH,
}
# And those that only a dataset with augmentation has.
REPEATED_OF_COPIES = {"augmentation": KEY_AUGMENTATION, "parent_id": KEY_PARENT}

PCM16_SCALE = 32768.0  # steps of a 16-bit sample from 0 to 1

# Bits of the index column `flags`.
FLAG_SHORT = 1  # less than one crop of voice; only kept because its split drops nothing, or by the recipe
FLAG_UNVOICED = 2  # no voice was found: kept whole, unspliced
FLAG_PART = 4  # one of several records that an utterance over `max_part_s` was cut into

# Above these bits stands the number of a copy: 0 for the utterance itself, which its copies share their number with.
COPY_SHIFT = 3
MAX_COPIES = 31  # as `flags` has eight bits in the index of a split

# Names that a writer gives to the files of a dataset; nothing else is ever removed from its folder.
_GENERATED = r"-[0-9a-f]{8}"
OWN_FILE = re.compile(
    rf"(speakers|ledger){_GENERATED}\.parquet"
    rf"|[A-Za-z0-9][A-Za-z0-9_-]{{0,63}}/(index{_GENERATED}\.(arrow|parquet)"
    rf"|features{_GENERATED}-\d{{5,}}-of-\d{{5,}}\.(tfrecord|index\.parquet|(done|started)\.json))"
)

_SHARD_FILE = re.compile(rf"features{_GENERATED}-(\d+)-of-(\d+)\.")
_TABLES = {"speakers": "table of speakers", "ledger": "ledger"}

# Splits come first in this order, others after them by name.
SPLIT_ORDER = ("train", "valid", "test")
TRAIN_SPLIT = "train"
# A split's name becomes a folder; nothing else of a manifest ever becomes a path.
SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

# Integer columns of a shard's index.
SAMPLER_COLUMNS = (
    "offset",  # of the framed record in its file, bytes
    "length",  # of the framed record, bytes
    "payload_offset",  # of the first value, in the file, bytes
    "frames",  # rows stored
    "label",  # of the speaker
    "utterance_index",  # dense from 0 within the speaker
    "session_index",  # dense from 0 within the speaker
    "source_index",  # into metadata "datasets"
    "flags",
)
_WIDE = ("offset", "length", "payload_offset", "start", "samples")
# Those of a split's index. The shard of a row follows from the records of each shard in metadata.json, the length of
# a record from the offset of the next, and where its values begin from their number, as they are its last field.
SPLIT_COLUMNS = ("offset", "frames", "label", "utterance_index", "session_index", "source_index", "flags")


def split_key(split: str) -> tuple[int, str]:
    """Sort key of splits: train, valid, test, then the others by name."""
    return (SPLIT_ORDER.index(split) if split in SPLIT_ORDER else len(SPLIT_ORDER), split)


def role(path: str) -> str:
    """What a file of a dataset is, in words, by its path or URL: 'index of split train'; '' for other files."""
    folder, _, name = path.rpartition("/")
    split = folder.rpartition("/")[2]
    if shard := _SHARD_FILE.match(name):
        return f"shard {int(shard[1])} of {int(shard[2])} of split {split}"
    if name.startswith("index-"):
        return f"index of split {split}"
    single = {METADATA_FILE: "metadata", CARD_FILE: "data card"}
    return single.get(name) or _TABLES.get(name.partition("-")[0], "")


def shard_base(split: str, generation: str, shard: int, shards: int) -> str:
    """Path of a shard, counted from 0, within its dataset, without ending.

    >>> shard_base("train", "89abcdef", 7, 32)
    'train/features-89abcdef-00007-of-00032'
    """
    return f"{split}/features-{generation}-{shard:05d}-of-{shards:05d}"


def shard_files(base: str) -> tuple[str, str, str]:
    """The three files of a shard: records, index, done."""
    return f"{base}.tfrecord", f"{base}.index.parquet", f"{base}.done.json"


def start_mark(base: str) -> str:
    """The file that stands while a shard is written; left behind, its process died before the done file stood."""
    return f"{base}.started.json"


def split_index_file(split: str, generation: str) -> str:
    return f"{split}/index-{generation}.arrow"


def speakers_file(generation: str) -> str:
    return f"speakers-{generation}.parquet"


def ledger_file(generation: str) -> str:
    return f"ledger-{generation}.parquet"


def index_schema(n_bins: int, augmented: bool = False) -> pa.Schema:
    """Columns of a shard's index: integers for the sampler, then text and figures for people.

    `augmented`: with the columns of a dataset that may hold copies of utterances.
    """
    import pyarrow as pa

    integers = [(name, pa.int64() if name in _WIDE else pa.int32()) for name in SAMPLER_COLUMNS]
    text = [
        (name, pa.string()) for name in ("speaker_id", "utterance_id", "session_id", "source", "subset", "audio_path")
    ]
    figures = [
        ("start", pa.int64()),  # first sample within the recording, at the recipe's rate
        ("samples", pa.int64()),  # from there to the last sample of the record
        ("voiced_fraction", pa.float32()),  # of the utterance that the record comes from
        ("gain_db", pa.float32()),  # applied by the level stage
        ("audio_hash", pa.int64()),  # of the utterance's decoded samples, see `audio.content_hash`
        ("mean", pa.list_(pa.float32(), n_bins)),  # per bin over the record's frames
        ("deviation", pa.list_(pa.float32(), n_bins)),
    ]
    copies = [
        ("augmentation", pa.string()),  # what was done: 'noise', 'speed0.9', 'speed0.9+room'; '' for nothing
        ("parent_id", pa.string()),  # utterance id of the manifest's row; the record's own where nothing was done
    ]
    columns = integers + text + figures + (copies if augmented else [])
    fields = [pa.field(name, kind, nullable=False) for name, kind in columns]
    if augmented:
        fields.append(pa.field("snr_db", pa.float32()))  # of added sound; null where there is none
    return pa.schema(fields)


def split_index_schema() -> pa.Schema:
    """Columns of a split's index: what the sampler and the reader need of every record, 29 bytes."""
    import pyarrow as pa

    kinds = {"offset": pa.int64(), "flags": pa.uint8()}
    return pa.schema([pa.field(name, kinds.get(name, pa.int32()), nullable=False) for name in SPLIT_COLUMNS])


def speakers_schema() -> pa.Schema:
    """Columns of the speakers table."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("speaker_id", pa.string(), nullable=False),
            pa.field("label", pa.int32(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("utterances", pa.int64(), nullable=False),
            pa.field("sessions", pa.int64(), nullable=False),
            pa.field("frames", pa.int64(), nullable=False),
            pa.field("seconds", pa.float64(), nullable=False),
        ]
    )


def ledger_schema() -> pa.Schema:
    """Columns of the ledger: the fields of `errors.LedgerRow`."""
    import pyarrow as pa

    kinds = {"position": pa.int64()}
    return pa.schema([pa.field(name, kinds.get(name, pa.string()), nullable=False) for name in LedgerRow._fields])
