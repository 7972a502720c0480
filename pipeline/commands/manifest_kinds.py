"""What `ge2e manifest` reads: a parser for each kind of corpus or list, and the function that gives its rows.

It must not know how corpora and lists of others are laid out: their scanners in `ge2e_transforms` do.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from ge2e_transforms import corpora, noise_corpora, tabled_corpora, toolkit_lists
from ge2e_transforms.errors import LedgerRow, ManifestError
from ge2e_transforms.kaldi_lists import kaldi
from ge2e_transforms.lhotse_lists import lhotse
from ge2e_transforms.list_files import ListOptions
from ge2e_transforms.manifest import Utterance, read_rows
from ge2e_transforms.regular_files import open_regular
from ge2e_transforms.utterance import is_url

_log = logging.getLogger(__name__)

_Rows = Callable[[argparse.Namespace], Iterator[Utterance]]
_Parents = list[argparse.ArgumentParser]


def add_kinds(kinds: Any, shared: argparse.ArgumentParser) -> None:
    """The parsers of all kinds; `args.rows(args)` gives the rows of the one that was chosen."""
    tree, listed = _of_trees(), _of_lists()
    _add_libri(kinds, [shared, tree])
    _add_voxceleb(kinds, [shared, tree])
    _add_vctk(kinds, [shared, tree])
    _add_common_voice(kinds, [shared, tree])
    _add_audiofolder(kinds, [shared, tree])
    _add_pattern(kinds, [shared, tree])
    _add_musan(kinds, [shared, tree])
    _add_rirs(kinds, [shared, tree])
    _add_kaldi(kinds, [shared, listed])
    _add_lhotse(kinds, [shared, listed])
    _add_nemo(kinds, [shared, listed])
    _add_wespeaker(kinds, [shared, listed])
    _add_speechbrain(kinds, [shared, listed])
    _add_list(kinds, [shared])


def _of_trees() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("root", metavar="ROOT", help="folder that holds the corpus")
    namespace = "what speaker ids count in; one for all corpora that share their speakers (default: see below)"
    parser.add_argument("--namespace", default="", metavar="NS", help=namespace)
    return parser


def _of_lists() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    root = "where relative paths of the list begin (default: the current folder; for NeMo the list's)"
    parser.add_argument("--root", default="", metavar="FOLDER", help=root)
    # The folders of lists are mostly called 'train' or 'data': equal ids of two corpora would become one speaker.
    parser.add_argument("--source", required=True, metavar="NAME", help="name of the corpus")
    namespace = "what speaker ids count in; one for all corpora that share their speakers (default: the source)"
    parser.add_argument("--namespace", default="", metavar="NS", help=namespace)
    parser.add_argument("--split", default="", metavar="NAME", help="split of all rows (default: drawn later)")
    return parser


def _add(kinds: Any, parents: _Parents, name: str, text: str, rows: _Rows, notes: str) -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser: argparse.ArgumentParser = kinds.add_parser(
        name, parents=parents, help=text, description=text, epilog=notes, formatter_class=formatter
    )
    parser.set_defaults(rows=rows)
    return parser


def _add_no_splits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-splits", action="store_true", help="leave the splits to the pipeline")


def _options(args: argparse.Namespace) -> ListOptions:
    return ListOptions(args.root, args.source, args.namespace, args.split)


def _add_libri(kinds: Any, parents: _Parents) -> None:
    scanners = {"LibriSpeech": corpora.librispeech, "LibriTTS": corpora.libritts}
    for title, scan in scanners.items():
        name = title.lower()
        notes = (
            f"train-*, dev-* and test-* become the splits train, valid and test. Namespace: libri.\n\nexamples:\n"
            f"  ge2e manifest {name} /corpora/{title} -o {name}.csv\n"
            f"  ge2e manifest {name} /corpora/{title}/train-clean-100 --no-splits -o part.csv.gz\n"
            f"  ge2e manifest {name} /corpora/{title} --subset train-clean-100 --limit_speakers 100 -o trial.csv\n"
        )

        def rows(args: argparse.Namespace, scan: Any = scan) -> Iterator[Utterance]:
            found: Iterator[Utterance] = scan(args.root, {} if args.no_splits else None, args.namespace or "libri")
            return found

        _add_no_splits(_add(kinds, parents, name, f"{title} as it is unpacked", rows, notes))


def _add_voxceleb(kinds: Any, parents: _Parents) -> None:
    for version, form in ((1, "wav"), (2, "aac (.m4a, which needs PyAV) or wav")):
        notes = f"""\
ROOT holds dev/{form[:3]}/<speaker>/<video>/<number>, and test likewise; one of these folders will do. The video is the
session. dev becomes the split train, test the split test. Namespace: voxceleb, of both versions.

examples:
  ge2e manifest voxceleb{version} /corpora/VoxCeleb{version} -o vox{version}.csv
  ge2e manifest voxceleb{version} /corpora/VoxCeleb{version} --table vox{version}_meta.csv --headers -o vox{version}.csv
"""

        def rows(args: argparse.Namespace, version: int = version) -> Iterator[Utterance]:
            return corpora.voxceleb(args.root, version, args.table, not args.no_splits, args.namespace or "voxceleb")

        parser = _add(kinds, parents, f"voxceleb{version}", f"VoxCeleb{version}: {form}", rows, notes)
        table = f"identity table that says who is dev and test (default: ROOT/vox{version}_meta.csv, if it is there)"
        parser.add_argument("--table", default="", metavar="FILE", help=table)
        _add_no_splits(parser)


def _add_vctk(kinds: Any, parents: _Parents) -> None:
    notes = """\
Namespace: vctk. The corpus has no splits.

examples:
  ge2e manifest vctk /corpora/VCTK-Corpus-0.92 -o vctk.csv
  ge2e manifest vctk /corpora/VCTK-Corpus-0.92 --mic 2 -o vctk-mic2.csv
"""

    def rows(args: argparse.Namespace) -> Iterator[Utterance]:
        return corpora.vctk(args.root, args.mic, args.namespace or "vctk")

    parser = _add(kinds, parents, "vctk", "VCTK 0.92: wav48_silence_trimmed", rows, notes)
    parser.add_argument("--mic", type=int, choices=(1, 2), default=1, help="which microphone (default: 1)")


def _add_common_voice(kinds: Any, parents: _Parents) -> None:
    notes = """\
train, dev and test become the splits train, valid and test. Namespace: common_voice. A client may be several people.

examples:
  ge2e manifest common_voice /corpora/cv-corpus-17.0-2024-03-15 -o cv.csv
  ge2e manifest common_voice /corpora/cv-corpus-17.0-2024-03-15/it --list validated --min_utterances 10 -o it.csv
"""

    def rows(args: argparse.Namespace) -> Iterator[Utterance]:
        return tabled_corpora.common_voice(args.root, args.list, not args.no_splits, args.namespace or "common_voice")

    parser = _add(kinds, parents, "common_voice", "Common Voice: one language, or all that lie below", rows, notes)
    lists = "table to take, such as validated; may be repeated (default: train, dev and test)"
    parser.add_argument("--list", action="append", default=[], metavar="NAME", help=lists)
    _add_no_splits(parser)


def _add_audiofolder(kinds: Any, parents: _Parents) -> None:
    notes = """\
With metadata.csv or metadata.jsonl a column says who speaks; without, the folder that a file lies in does. Folders
named train, validation and test become splits. Namespace: the source.

examples:
  ge2e manifest audiofolder /corpora/hub -o hub.csv
  ge2e manifest audiofolder /corpora/hub --speaker_column reader --source hub -o hub.csv
"""

    def rows(args: argparse.Namespace) -> Iterator[Utterance]:
        column, splits = args.speaker_column, not args.no_splits
        return tabled_corpora.audiofolder(args.root, column, args.source, args.namespace, splits)

    parser = _add(kinds, parents, "audiofolder", "an audiofolder of the Hugging Face Hub", rows, notes)
    column = "column of speakers (default: speaker_id, speaker, spk_id or client_id)"
    parser.add_argument("--speaker_column", default="", metavar="NAME", help=column)
    parser.add_argument("--source", default="", metavar="NAME", help="name of the corpus (default: ROOT's name)")
    _add_no_splits(parser)


def _add_pattern(kinds: Any, parents: _Parents) -> None:
    notes = """\
fields: {speaker} (needed), {session}, {utterance}, {subset}, {split}, {source}, and {any} for what does not
matter; * stands for any characters within a name. A field takes as few characters as will do. Namespace: the source.

examples:
  ge2e manifest pattern /corpora/mine --pattern '{speaker}/{session}/{utterance}.wav' -o mine.csv
  ge2e manifest pattern /corpora/calls --source calls --pattern '*/{speaker}/{utterance}_left.flac' -o calls.csv
"""

    def rows(args: argparse.Namespace) -> Iterator[Utterance]:
        return corpora.pattern(args.root, args.pattern, args.source, args.namespace)

    parser = _add(kinds, parents, "pattern", "any tree of files, by a pattern of their paths", rows, notes)
    parser.add_argument("--pattern", required=True, help="paths below ROOT, such as '{speaker}/{utterance}.wav'")
    parser.add_argument("--source", default="", metavar="NAME", help="name of the corpus (default: ROOT's name)")


def _add_musan(kinds: Any, parents: _Parents) -> None:
    notes = """\
Subsets: noise, music, and speech, of which babble is made. The session is the collection; each recording is
a speaker of its own. Namespace: musan.

examples:
  ge2e manifest musan /corpora/musan --headers -o musan.csv
  ge2e manifest musan /corpora/musan --subset noise --subset music -o musan.csv
"""

    def rows(args: argparse.Namespace) -> Iterator[Utterance]:
        return noise_corpora.musan(args.root, args.namespace or "musan")

    _add(kinds, parents, "musan", "MUSAN (OpenSLR 17): noise, music and speech for augmentation", rows, notes)


def _add_rirs(kinds: Any, parents: _Parents) -> None:
    notes = """\
Subsets: smallroom, mediumroom and largeroom (simulated rooms), real (responses of real rooms, channel 0), isotropic
(noises of real rooms, channel 0) and pointsource (noises). For the speaker stands the room, for noises the recording.
Namespace: rirs_noises.

examples:
  ge2e manifest rirs /corpora/RIRS_NOISES -o rirs.csv
  ge2e manifest rirs /corpora/RIRS_NOISES --subset smallroom --subset mediumroom --max_utterances 10 -o rooms.csv
"""

    def rows(args: argparse.Namespace) -> Iterator[Utterance]:
        return noise_corpora.rirs(args.root, args.namespace or "rirs_noises")

    _add(kinds, parents, "rirs", "RIRS_NOISES (OpenSLR 28): rooms and noises for augmentation", rows, notes)


def _add_kaldi(kinds: Any, parents: _Parents) -> None:
    notes = """\
Commands and places in arks are refused, with the line that holds the first; nothing is run.

examples:
  ge2e manifest kaldi data/train --source callhome --split train -o callhome.csv
  ge2e manifest kaldi /egs/sre16/v2/data/train --root /egs/sre16/v2 --source sre --headers -o sre.csv
"""

    def rows(args: argparse.Namespace) -> Iterator[Utterance]:
        return kaldi(args.folder, _options(args))

    parser = _add(kinds, parents, "kaldi", "a Kaldi data directory", rows, notes)
    parser.add_argument("folder", metavar="FOLDER", help="with wav.scp, utt2spk or spk2utt, and perhaps segments")


def _add_lhotse(kinds: Any, parents: _Parents) -> None:
    notes = """\
examples:
  ge2e manifest lhotse yesno_recordings_train.jsonl.gz yesno_supervisions_train.jsonl.gz --source yesno -o y.csv
  ge2e manifest lhotse cuts.jsonl.gz --source yesno -o yesno.csv
"""

    def rows(args: argparse.Namespace) -> Iterator[Utterance]:
        return lhotse(args.files, _options(args))

    parser = _add(kinds, parents, "lhotse", "recordings with supervisions, or cuts, of Lhotse", rows, notes)
    parser.add_argument("files", nargs="+", metavar="FILE", help=".jsonl or .jsonl.gz, in any order")


def _add_nemo(kinds: Any, parents: _Parents) -> None:
    notes = """\
examples:
  ge2e manifest nemo train.json --source voxceleb2 --namespace voxceleb --split train -o vox2.csv
"""

    def rows(args: argparse.Namespace) -> Iterator[Utterance]:
        return toolkit_lists.nemo(args.file, _options(args))

    parser = _add(kinds, parents, "nemo", "a manifest of NVIDIA NeMo: JSON Lines", rows, notes)
    parser.add_argument("file", metavar="FILE", help="audio_filepath, and label or speaker, in each line")


def _add_wespeaker(kinds: Any, parents: _Parents) -> None:
    notes = """\
examples:
  ge2e manifest wespeaker data/vox2_dev/raw.list --source voxceleb2 --namespace voxceleb -o vox2.csv
  ge2e manifest wespeaker data/vox2_dev/shard.list --source voxceleb2 --namespace voxceleb -o vox2.csv
"""

    def rows(args: argparse.Namespace) -> Iterator[Utterance]:
        return toolkit_lists.wespeaker(args.file, _options(args))

    parser = _add(kinds, parents, "wespeaker", "a raw.list, shard.list or folder of wespeaker", rows, notes)
    parser.add_argument("file", metavar="FILE", help="the list, or the folder with wav.scp and utt2spk")


def _add_speechbrain(kinds: Any, parents: _Parents) -> None:
    notes = """\
examples:
  ge2e manifest speechbrain results/save/train.csv --data_root /corpora/VoxCeleb1 --source voxceleb1 -o vox1.csv
"""

    def rows(args: argparse.Namespace) -> Iterator[Utterance]:
        return toolkit_lists.speechbrain(args.file, _options(args), args.data_root, args.rate_hz)

    parser = _add(kinds, parents, "speechbrain", "a CSV of SpeechBrain: ID, wav, spk_id, start, stop", rows, notes)
    parser.add_argument("file", metavar="FILE", help="the list")
    parser.add_argument("--data_root", default="", metavar="FOLDER", help="what stands for $data_root in paths")
    rate = "samples a second that start and stop count in (default: %(default)s, as in the recipe for VoxCeleb)"
    parser.add_argument("--rate_hz", type=int, default=toolkit_lists.SPEECHBRAIN_RATE_HZ, metavar="HZ", help=rate)


def _add_list(kinds: Any, parents: _Parents) -> None:
    notes = """\
examples:
  ge2e manifest list vox1.csv vox2.csv --min_utterances 10 -o both.csv
  ge2e manifest list all.jsonl.gz --limit_speakers 100 --max_utterances 20 --headers -o trial.csv
"""
    parser = _add(
        kinds, parents, "list", "manifests that are there already: a part of them, or with durations", _listed, notes
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="CSV or JSON Lines, also .gz, or Parquet")


def _listed(args: argparse.Namespace) -> Iterator[Utterance]:
    for path in args.files:
        faults: list[LedgerRow] = []
        usable = 0
        with _open_manifest(path) as stream:
            for row in read_rows(stream, path):
                if isinstance(row, LedgerRow):
                    faults.append(row)
                    continue
                usable += 1
                yield row
        if faults:
            unit = "row" if path.lower().endswith(".parquet") else "byte"
            first = f"first at {unit} {faults[0].position}: {faults[0].detail}"
            _log.warning(
                "%s: %d of %d rows cannot be used and are left out, %s", path, len(faults), usable + len(faults), first
            )


def _open_manifest(path: str) -> Any:
    if is_url(path):
        from pipeline.read import open_manifest  # it imports Beam

        return open_manifest(path)
    try:
        stream: BinaryIO = open_regular(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ManifestError(f"{path} cannot be read ({reason}): expected a manifest that this user may read") from error
    return stream
