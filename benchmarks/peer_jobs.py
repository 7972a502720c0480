"""Whole jobs of others, from recordings to features in files on disk, as `peers.py` times them.

    PYTHON benchmarks/peer_jobs.py NAME ROWS.json OUTPUT CORES

ROWS.json is a list of [path, speaker, utterance id]. Prints how many utterances were written, as JSON. Each job is
written from the description of what the project does; none of their code is here.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import recipe_peers

_BATCH = 32


class Row(NamedTuple):
    """An utterance, for all of them."""

    path: str
    speaker: str
    utterance: str


def predecessor(rows: list[Row], output: Path, cores: int) -> int:
    """What this project grew from: one thread, librosa, a window after the other, a record of a whole batch."""
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(output / "features.tfrecord")) as writer:
        for windows, speakers in _batches(rows):
            features = {
                "spectrograms": tf.train.Feature(float_list=tf.train.FloatList(value=windows.ravel())),
                "shape": tf.train.Feature(int64_list=tf.train.Int64List(value=windows.shape)),
                "speakers": tf.train.Feature(bytes_list=tf.train.BytesList(value=[key.encode() for key in speakers])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return len(rows)


def _batches(rows: list[Row]) -> Iterator[tuple[npt.NDArray[np.float32], list[str]]]:
    """Windows `[32, 40, 121]` as they come, and who speaks; the last batch may hold fewer."""
    windows: list[npt.NDArray[np.float32]] = []
    speakers: list[str] = []
    for row in rows:
        found = recipe_peers.librosa_seed(row.path)
        windows += [window.T for window in found]
        speakers += [row.speaker] * len(found)
        while len(windows) >= _BATCH:
            yield np.stack(windows[:_BATCH]), speakers[:_BATCH]
            del windows[:_BATCH], speakers[:_BATCH]
    if windows:
        yield np.stack(windows), speakers


def ddsp(rows: list[Row], output: Path, cores: int) -> int:
    """A Beam graph as DDSP prepares its data: features are elements, shuffled, and written by Beam's own sink.

    The features are ours, so that only the graph differs.
    """
    import apache_beam as beam
    import tensorflow as tf
    from apache_beam.options.pipeline_options import PipelineOptions

    flags = ["--runner=FnApiRunner", "--direct_running_mode=multi_processing", f"--direct_num_workers={cores}"]
    with beam.Pipeline(options=PipelineOptions(flags)) as pipeline:
        _ = (
            pipeline
            | "Rows" >> beam.Create(rows)
            | "Features" >> beam.Map(_row_features)
            | "Shuffle" >> beam.Reshuffle()
            | "Examples" >> beam.Map(_example)
            | "Write"
            >> beam.io.WriteToTFRecord(
                str(output / "features"), num_shards=16, coder=beam.coders.ProtoCoder(tf.train.Example)
            )
        )
    return len(rows)


@functools.cache
def _extractor() -> Any:
    from ge2e_transforms.config import PRESETS
    from ge2e_transforms.extractor import FeatureExtractor

    return FeatureExtractor(PRESETS["ge2e"])


def _row_features(row: Row) -> tuple[Row, npt.NDArray[np.float32]]:
    from ge2e_transforms import audio

    row, extractor = Row(*row), _extractor()
    samples = audio.load(row.path, extractor.recipe.audio)
    segments = extractor.extract(samples, utterance_id=row.utterance).segments
    return row, np.concatenate([segment.values for segment in segments])


def _example(element: tuple[Row, npt.NDArray[np.float32]]) -> Any:
    import tensorflow as tf

    row, values = Row(*element[0]), element[1]
    features = {
        "values": tf.train.Feature(float_list=tf.train.FloatList(value=values.ravel())),
        "shape": tf.train.Feature(int64_list=tf.train.Int64List(value=values.shape)),
        "speaker": tf.train.Feature(bytes_list=tf.train.BytesList(value=[row.speaker.encode()])),
        "utterance": tf.train.Feature(bytes_list=tf.train.BytesList(value=[row.utterance.encode()])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features))


def lhotse(rows: list[Row], output: Path, cores: int) -> int:
    """lhotse's own way: cuts of all recordings, features computed and stored by a pool of processes."""  # noqa: D403
    import torch
    from lhotse import CutSet, Fbank, FbankConfig, MonoCut, Recording, SupervisionSegment

    torch.set_num_threads(1)
    cuts = []
    for row in rows:
        recording = Recording.from_file(row.path, recording_id=f"{row.speaker}-{row.utterance}")
        whole = {"id": recording.id, "start": 0, "duration": recording.duration, "channel": 0}
        told = SupervisionSegment(recording_id=recording.id, speaker=row.speaker, **whole)
        cuts.append(MonoCut(recording=recording, supervisions=[told], **whole))
    stored = CutSet.from_cuts(cuts).compute_and_store_features(
        extractor=Fbank(FbankConfig(num_filters=40)),
        storage_path=output / "features",
        num_jobs=cores,
        storage_type=_lhotse_storage(),
        progress_bar=False,
    )
    stored.to_file(output / "cuts.jsonl.gz")
    return len(stored)


def _lhotse_storage() -> Any:
    """Lilcom in chunks, its default, where that can be imported; else a file of NumPy for each recording."""
    from lhotse import features

    return features.LilcomChunkyWriter if importlib.util.find_spec("lilcom") else features.io.NumpyFilesWriter


def rtvc(rows: list[Row], output: Path, cores: int) -> int:
    """Real-Time-Voice-Cloning's: a pool of processes, a file of NumPy for each utterance in its speaker's folder."""
    for speaker in {row.speaker for row in rows}:
        (output / speaker).mkdir()
    with multiprocessing.get_context("fork").Pool(cores) as pool:
        return sum(pool.imap_unordered(functools.partial(_save_rtvc, output), rows, chunksize=8))


def _save_rtvc(output: Path, row: Row) -> int:
    np.save(output / row.speaker / f"{row.utterance}.npy", recipe_peers.rtvc(row.path))
    return 1


JOBS: dict[str, Callable[[list[Row], Path, int], int]] = {
    "predecessor": predecessor,
    "ddsp": ddsp,
    "lhotse": lhotse,
    "rtvc": rtvc,
}


def main() -> None:
    name, rows, output, cores = sys.argv[1:]
    listed = [Row(*row) for row in json.loads(Path(rows).read_text())]
    print(json.dumps({"utterances": JOBS[name](listed, Path(output), int(cores))}))


if __name__ == "__main__":
    # Under its own name, by which Beam's workers import what they run.
    import peer_jobs

    peer_jobs.main()
