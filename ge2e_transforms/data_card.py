"""The data card of a dataset: a README.md with YAML front matter, as model hubs show it. Pure text of metadata.

It names no speaker and no utterance, so erasing has nothing to look for in it. It must not know where the card is
written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ge2e_transforms.augmentation import ADDED
from ge2e_transforms.errors import visible
from ge2e_transforms.facts import facts, rows_of
from ge2e_transforms.feature_kinds import FEATURE_KINDS
from ge2e_transforms.licences import identifier_of, licence_of

# A card with this line is ours, and is written anew with its dataset.
MARKER = "<!-- Written by ge2e-features with the dataset; it is replaced as long as this line stands. -->"
# What a card may have at most, so that a large file of somebody else is not read.
MAX_BYTES = 1 << 20
BIOMETRIC = (
    "Features like these are biometric data: people can be recognised by them, and frames every 10 ms can be turned "
    "back into intelligible speech. Treat them as you treat the recordings: the same consent, the same access, "
    "the same term. Speakers who ask for it are taken out by `ge2e erase`; copies and trained models are beyond its "
    "reach."
)
_NAME, _SOURCES = 80, 20
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_SIZES = {"n<1K": 10**3, "1K<n<10K": 10**4, "10K<n<100K": 10**5, "100K<n<1M": 10**6, "1M<n<10M": 10**7}
_SIZES |= {"10M<n<100M": 10**8, "100M<n<1B": 10**9}


def data_card(metadata: Mapping[str, Any]) -> bytes:
    """The card of a complete dataset, UTF-8; the same for all jobs that make the same dataset."""
    told = facts(metadata)
    parts = [_front_matter(told), MARKER, _head(told), _figures(told), *_augmentation(told), _loading(told)]
    parts += [_recipe(told), _sources(told)]
    parts += [f"## Biometric data\n\n{BIOMETRIC}", _making(told)]
    return ("\n\n".join(parts) + "\n").encode()


def is_ours(content: bytes) -> bool:
    """Whether a README.md was written by this program, and nobody took the line away that says so."""
    return MARKER.encode() in content.splitlines()


def size_category(utterances: int) -> str:
    """The class of size that model hubs sort datasets by."""
    return next((name for name, end in _SIZES.items() if utterances < end), "1B<n<10B")


def _cut(text: str) -> str:
    text = visible(text)
    return text if len(text) <= _NAME else f"{text[:_NAME]}…"


def _plain(text: str) -> str:
    """A name as Markdown shows it, whatever is in it: every sign that may act is escaped."""
    return re.sub(r"[!-/:-@\[-`{-~]", lambda sign: _ENTITIES.get(sign[0], f"\\{sign[0]}"), _cut(text))


def _listed(names: Sequence[str]) -> list[str]:
    more = len(names) - _SOURCES
    return [*names[:_SOURCES], *([f"{more} more"] if more > 0 else [])]


def _front_matter(told: Mapping[str, Any]) -> str:
    """Texts as in JSON, which is YAML too; control characters are escaped before."""

    def quoted(text: str) -> str:
        return json.dumps(text, ensure_ascii=False).replace("<", r"\u003c")

    features, named = FEATURE_KINDS[told["features"]], ", ".join(map(_cut, _listed(told["sources"])))
    kind = features.title
    tags = ("speaker-verification", "speaker-recognition", "speech", "ge2e", "tfrecord", features.tag)
    return "\n".join(
        [
            "---",
            f"pretty_name: {quoted(f'{kind[0].upper()}{kind[1:]} of {named}'[:200])}",
            f"license: {identifier_of(told['sources'])}",
            "task_categories:\n- audio-classification",
            f"size_categories:\n- {size_category(told['totals']['utterances'])}",
            "annotations_creators:\n- no-annotation",
            "tags:",
            *(f"- {tag}" for tag in tags),
            "---",
        ]
    )


def _head(told: Mapping[str, Any]) -> str:
    kind = FEATURE_KINDS[told["features"]].title
    form = {
        "utterance": "whole utterances, each the voiced part of a recording",
        "windows": f"fixed windows of {told['crop_s']:g} s from the voiced parts of recordings",
    }[told["segments"]]
    return (
        f"# {kind[0].upper()}{kind[1:]} for speaker verification\n\n"
        f"A dataset of ge2e-features: {kind} of {form}, sorted by speaker, from which batches of exactly N speakers x "
        "M utterances are read, as the GE2E loss and others need them. `metadata.json` lists every file of it, with "
        "checksums."
    )


def _figures(told: Mapping[str, Any]) -> str:
    lines = ["## Figures\n", "| split | speakers | utterances | records | hours |", "|---|---:|---:|---:|---:|"]
    for name, split in [*told["splits"].items(), ("**all**", told["totals"])]:
        counts = " | ".join(f"{split[key]:,}" for key in ("speakers", "utterances", "records"))
        lines.append(f"| {name} | {counts} | {split['seconds'] / 3600:,.2f} |")
    counts = told["counts"]
    filtered, rejected = (sum(counts[kind].values()) for kind in ("filtered", "rejected"))
    lines.append(
        f"\nOf {rows_of(told)} {counts['written']:,} were written, {filtered:,} left out by policy "
        f"and {rejected:,} rejected; `{told['ledger']['path']}` has the reason of each."
    )
    return "\n".join(lines)


def _augmentation(told: Mapping[str, Any]) -> list[str]:
    """What lies beside clean utterances, and which lists it was drawn from: the names of their files, and no more.

    With pseudonyms not even these: a list of babble is one of people.
    """
    if "augmentation" not in told:
        return []
    made = told["augmentation"]
    lists = {entry["kind"]: entry for entry in made["sounds"]}
    lines = ["## Augmentation\n"]
    if made["copies"]:
        lines += ["| copies | number | how | recordings drawn from |", "|---|---:|---|---|"]
    for kind, number in made["copies"].items():
        config, drawn = made["config"][kind], ""
        if kind in lists:
            names = [config["manifest"].rpartition("/")[2], *config["subset"]] if not told["pseudonyms"] else []
            named = f"{', '.join(map(_plain, names))}: " if names else ""
            drawn = f"{named}{lists[kind]['rows']:,} (sha256 `{lists[kind]['sha256'][:16]}`)"
        lines.append(f"| {kind} | {number:,} | {_how(kind, config)} | {drawn} |")
    splits, total = ", ".join(made["splits"]), sum(made["copies"].values())
    if total:
        lines.append(
            f"\nCopies are no further utterances: {total:,} copies, of split {splits}, have the labels and the numbers "
            "of the utterances that they were made of. They count among the records and hours above, not among the "
            f"utterances. All draws follow from seed {made['seed']} and the ids of the utterances."
        )
    if made["speed"]:
        speeds = " and ".join(f"{factor:g}" for factor in made["speed"])
        lines.append(
            f"\nUtterances of split {splits} stand there at {speeds} times their speed, too. Speech at another speed "
            "sounds like somebody else, so each speed of a speaker counts as a speaker above, and its utterances as "
            "utterances."
        )
    return ["\n".join(lines)]


def _how(kind: str, config: Mapping[str, Any]) -> str:
    if kind in ADDED:
        (low, high), (fewest, most) = config["snr_db"], config["talkers"]
        talkers = f", {fewest} to {most} recordings at once" if most > 1 else ""
        return f"added, {low:g} to {high:g} dB below the speech{talkers}"
    return {"room": "reverberated", "codec": f"coded and back: {' or '.join(config.get('codecs', ()))}"}[kind]


def _loading(told: Mapping[str, Any]) -> str:
    n, m, (bins, frames) = told["speakers_per_batch"], told["utterances_per_speaker"], told["feature_shape"]
    split = next(iter(told["splits"]))
    return f"""## How to load it

NumPy:

```python
from ge2e_transforms import BatchLoader

loader = BatchLoader("path/to/this/folder", utterances_per_speaker={m}, seed=0)
for examples, labels in loader.batches({split!r}):  # [N*{m}, {bins}, {frames}] float32, [N*{m}] int64
    ...
```

TensorFlow:

```python
from ge2e_transforms import GE2EDatasetLoader

loader = GE2EDatasetLoader(root_dir="path/to/this/folder")
train = loader.get_train_dataset()  # a tf.data.Dataset of {n} speakers x {m} crops a batch
```

The shards are TFRecords of `tf.train.Example`, and open without this package, too."""


def _recipe(told: Mapping[str, Any]) -> str:
    own = ", ".join(f"`{name} = {value}`" for name, value in told["changed"].items())
    text = f"Preset `{told['preset']}`" + (f", but for {own}" if own else "")
    fields = ["| field | value |", "|---|---|"]
    for stage, values in told["recipe"].items():
        fields += [f"| {stage}.{name} | `{value}` |" for name, value in values.items()]
    return f"## Recipe\n\n{text}. Fingerprint `{told['fingerprint']}`.\n\n" + "\n".join(fields)


def _sources(told: Mapping[str, Any]) -> str:
    lines = ["## Sources and licences\n", "| source | licence as published | |", "|---|---|---|"]
    for source in told["sources"][:_SOURCES]:
        licence = licence_of(source)
        lines.append(f"| {_plain(source)} | {licence.name} | {licence.note} |")
    if len(told["sources"]) > _SOURCES:
        lines.append(f"| and {len(told['sources']) - _SOURCES} more | see `metadata.json` | |")
    lines.append(
        "\nA corpus is known by the name that its manifest gave as `source`, and by nothing else; whether the licence "
        "allows what you do is for you to find out."
    )
    return "\n".join(lines)


def _making(told: Mapping[str, Any]) -> str:
    steps = "\n".join(
        f"{number}. `ge2e {step['kind']}` (generation `{step['generation']}`)"
        for number, step in enumerate(told["history"], start=1)
    )
    ids = "keyed pseudonyms instead of ids, and no paths" if told["pseudonyms"] else "ids as in the manifests"
    return (
        f"## How it was made\n\nThis card is of generation `{told['generation']}`.\n\n{steps}\n\nThe dataset holds "
        f"{ids}. `ge2e verify` compares all of it with its checksums, `ge2e report` makes a page about it."
    )
