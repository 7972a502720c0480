"""Random lives of a dataset: added to, retried, erased from, cleaned, made again; each step held against a model."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jobs
import pytest
from jobs import metadata_of, stamps, unlisted, write_all, write_rows
from synth import speechlike, write

from ge2e_transforms import BatchLoader
from ge2e_transforms.config import Recipe
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import CommitError, DatasetError, PlanError
from ge2e_transforms.planning import PlanConfig
from ge2e_transforms.verify import verify
from pipeline import growth
from pipeline.clean import clean
from pipeline.commit import commit
from pipeline.erase import erase

HEADER = "audio_path,speaker_id,source,split,session_id,utterance_id"
SPEAKERS, UTTERANCES, STEPS = 6, 4, 12
TEST_SPEAKER = "c/s5"
Key = tuple[str, str]


@dataclass
class Life:
    """A dataset, and what should be in it."""

    folder: Path
    rng: random.Random
    seed: int
    written: set[Key] = field(default_factory=set)
    rejected: list[Key] = field(default_factory=list)  # rows of the ledger that another attempt may write
    doubled: list[Key] = field(default_factory=list)
    erased: set[str] = field(default_factory=set)
    labels: dict[str, int] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)

    @property
    def output(self) -> Path:
        return self.folder / "out"

    def audio(self, key: Key) -> Path:
        return self.folder / f"{key[1]}.wav"

    def mend(self, keys: list[Key]) -> None:
        for key in keys:
            if not self.audio(key).exists():
                number = int(key[1].rpartition("-")[2])
                write(self.audio(key), speechlike(self.seed + number, 1.3), 16000)

    def job(self, kind: str, *manifests: Path | str) -> dict[str, Any]:
        plan = PlanConfig(min_shards=self.rng.choice((1, 1, 2, 3)), shard_mib=self.rng.choice((0.02, 128.0)))
        recipe = Recipe().replace(dtype="float16" if self.seed % 2000 else "float32")
        fields = {"kind": kind, "token": str(len(self.steps)), "plan": plan, "recipe": recipe}
        config = jobs.job(self.output, *manifests, max_rejected=1.0, **fields)
        made = write_all(config)
        return commit(config, made.plan, made.rejected)

    def some_rows(self) -> tuple[list[Key], Path]:
        everything = [
            (f"s{speaker}", speaker * UTTERANCES + n) for speaker in range(SPEAKERS) for n in range(UTTERANCES)
        ]
        keys = [(f"c/{name}", f"u-{number}") for name, number in self.rng.sample(everything, self.rng.randint(2, 9))]
        self.mend([key for key in keys if self.rng.random() < 0.8])
        rows = [
            (
                self.audio(key),
                key[0][2:],
                "c",
                "test" if key[0] == TEST_SPEAKER else "train",
                f"session-{key[1][-1]}",
                key[1],
            )
            for key in keys
        ]
        return keys, write_rows(self.folder / f"m{len(self.steps)}.csv", rows, HEADER)

    def begin(self) -> None:
        keys, manifest = self.some_rows()
        self.mend(keys)
        self.job("run", manifest)
        self.written = set(keys)

    def add(self) -> None:
        keys, manifest = self.some_rows()
        new = [key for key in keys if key not in self.written and key[0] not in self.erased]
        found = {key for key in new if self.audio(key).exists()}
        missing = [key for key in new if key not in found]
        if missing and not found:
            with pytest.raises(CommitError, match=r"none of the .* rows could be written"):
                self.job("add", manifest)
            return
        self.job("add", manifest)
        self.written |= found
        if found:
            self.rejected += missing

    def retry(self) -> None:
        self.mend(self.rng.sample(sorted(set(self.rejected)), self.rng.randint(0, len(set(self.rejected)))))
        ledger = growth.retryable(growth.ledger_of(str(self.output), metadata_of(self.output)))
        assert sorted((row.speaker_id, Path(row.audio_path).stem) for row in ledger) == sorted(self.rejected)
        if not self.rejected:
            return
        self.job("retry", *sorted({row.manifest for row in ledger}))
        found = {key for key in self.rejected if self.audio(key).exists() and key not in self.written}
        if found:  # else the dataset is left as it is
            self.written |= found
            again = Counter(key for key in self.rejected if key in found)
            # A row that was added twice is written once; the other is a double, which no attempt would mend.
            self.doubled += [key for key, number in again.items() for _ in range(number - 1)]
            self.rejected = [key for key in self.rejected if not self.audio(key).exists()]

    def erase(self) -> None:
        there = {speaker for speaker, _ in self.written} | {speaker for speaker, _ in self.rejected}
        gone = set(self.rng.sample(sorted(there), min(len(there), self.rng.choice((1, 1, 2)))))
        if there - gone:
            erase(str(self.output), sorted(gone))
            self.erased |= gone
            self.written = {key for key in self.written if key[0] not in gone}
            self.rejected = [key for key in self.rejected if key[0] not in gone]
            self.doubled = [key for key in self.doubled if key[0] not in gone]
            for speaker in gone:
                self.labels.pop(speaker, None)

    def refuse(self) -> None:
        with pytest.raises(DatasetError, match="has no speaker 'c/nobody'"):
            erase(str(self.output), ["c/nobody"])
        if any(speaker == TEST_SPEAKER for speaker, _ in self.written):
            row = (self.audio(("", "u-0")), TEST_SPEAKER[2:], "c", "train", "", "u-x")
            with pytest.raises(PlanError, match="is in split 'test' of the dataset"):
                self.job("add", write_rows(self.folder / f"m{len(self.steps)}.csv", [row], HEADER))

    def clean(self) -> None:
        clean(str(self.output))

    def check(self) -> None:
        metadata = metadata_of(self.output)
        dataset = Dataset.open(self.output)
        verify(dataset)
        assert set(self.recordings()) == self.written
        people = {row["speaker_id"]: row for row in dataset.speakers.to_pylist()}
        assert set(people) == {speaker for speaker, _ in self.written}
        for speaker, row in people.items():
            own = [name for who, name in self.written if who == speaker]
            assert row["utterances"] == len(own)
            assert row["sessions"] == len({name[-1] for name in own})
            assert self.labels.setdefault(speaker, row["label"]) == row["label"]
        assert len(set(self.labels.values())) == len(self.labels)
        counts = metadata["counts"]
        kinds = sum(sum(counts[kind].values()) for kind in ("filtered", "rejected"))
        assert counts["written"] == len(self.written)
        assert counts["rows"] == counts["written"] + kinds
        assert sum(counts["rejected"].values()) == len(self.rejected) + len(self.doubled)

    def recordings(self) -> dict[Key, bytes]:
        made = {}
        for values, fields, _ in jobs.stored_records(self.output):
            key = (str(fields["speaker/original_id"]), str(fields["utterance/id"]))
            assert key not in made
            assert self.labels.get(key[0], fields["speaker/mapped_id"]) == fields["speaker/mapped_id"]
            made[key] = values.tobytes()
        return made


@pytest.mark.parametrize("seed", range(4))
def test_a_random_life(seed: int, tmp_path: Path) -> None:
    life = Life(tmp_path, random.Random(seed), 1000 * seed)
    life.begin()
    life.check()
    values = life.recordings()
    for _ in range(STEPS):
        step = life.rng.choice(("add", "add", "add", "retry", "retry", "erase", "refuse", "clean"))
        life.steps.append(step)
        before = stamps(life.output / name for name in metadata_of(life.output)["files"])
        getattr(life, step)()
        life.check()
        assert not any(name.startswith("-") for name in unlisted(life.output))
        if step != "erase":  # finished shards stay byte for byte
            assert before.items() <= stamps(life.output / name for name in metadata_of(life.output)["files"]).items()
        if step == "clean":  # of what refused jobs wrote
            assert unlisted(life.output) == set()
        # The same for as long as it is there, and if it comes back.
        assert all(values.setdefault(key, data) == data for key, data in life.recordings().items())
    if any(speaker != TEST_SPEAKER for speaker, _ in life.written):
        one = {"speakers_per_batch": 1, "utterances_per_speaker": 2, "distinct": "any", "under_m": "repeat"}
        for examples, labels in BatchLoader(life.output, **one).batches("train"):
            assert examples.shape == (2, 40, 121)
            assert len(set(labels.tolist())) == 1
