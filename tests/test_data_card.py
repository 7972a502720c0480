"""The data card: front matter that YAML reads, names that cannot act, and what each command does to a README.md."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import augmented
import jobs
import pytest
import yaml
from jobs import files_in, metadata_of, unlisted
from memory_store import MemoryStore
from synth import small_corpus
from test_command_inspect import mixed

from ge2e_transforms.data_card import MARKER, MAX_BYTES, data_card, is_ours, size_category
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.digest import digest
from ge2e_transforms.errors import CommitError
from ge2e_transforms.licences import identifier_of, licence_of
from ge2e_transforms.planning import PlanConfig
from ge2e_transforms.stores import StoreError
from ge2e_transforms.verify import verify
from pipeline import assembly, card
from pipeline.card import write_card
from pipeline.clean import clean
from pipeline.commit import commit
from pipeline.erase import erase

pytestmark = pytest.mark.usefixtures("unsynced")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    return make(folder / "dataset", small_corpus(folder / "corpus", 4, 2, 1.4, test_speakers=1))


@pytest.fixture
def dataset(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "dataset"))


def make(output: Path, manifest: Path, **fields: Any) -> Path:
    config = jobs.job(output, manifest, plan=PlanConfig(min_shards=2), **fields)
    planned = jobs.write_all(config)
    commit(config, planned.plan, planned.rejected)
    return output


def parts(card: bytes) -> tuple[dict[str, Any], str]:
    """Front matter and text."""
    empty, front, text = card.decode().split("---\n", 2)
    assert empty == ""
    found = yaml.safe_load(front)
    assert isinstance(found, dict)
    return found, text


def test_front_matter_as_model_hubs_read_it(made: Path) -> None:
    front, text = parts((made / "README.md").read_bytes())
    assert front == {
        "pretty_name": "Log-mel spectrograms of synth",
        "license": "unknown",
        "task_categories": ["audio-classification"],
        "size_categories": ["n<1K"],
        "annotations_creators": ["no-annotation"],
        "tags": ["speaker-verification", "speaker-recognition", "speech", "ge2e", "tfrecord", "log-mel"],
    }
    assert text.strip().split("\n")[0] == MARKER


def test_the_text_tells_figures_recipe_licences_and_what_it_is(made: Path) -> None:
    _, text = parts((made / "README.md").read_bytes())
    metadata = metadata_of(made)
    train = metadata["splits"]["train"]
    assert f"| train | 3 | 6 | 6 | {train['seconds'] / 3600:,.2f} |" in text
    assert "| **all** | 4 | 8 | 8 |" in text
    assert "| feature.n_mels | `40` |" in text
    assert "| synth | unknown |" in text
    assert "biometric" in text and "intelligible speech" in text
    assert f"This card is of generation `{metadata['generation']}`." in text


def test_the_python_in_it_is_python(made: Path) -> None:
    blocks = (made / "README.md").read_text().split("```python\n")[1:]
    assert len(blocks) == 2
    for block in blocks:
        code = block.partition("```")[0].replace("path/to/this/folder", str(made))
        compile(code, "README.md", "exec")
    numpy_code = blocks[0].partition("```")[0].replace("path/to/this/folder", str(made)).replace("seed=0", "3, seed=0")
    assert "utterances_per_speaker=4" in numpy_code


def test_it_names_no_speaker_no_utterance_and_no_path(made: Path) -> None:
    text = (made / "README.md").read_text()
    assert "spk0" not in text and "utt0" not in text and str(made.parent) not in text


def test_names_of_sources_cannot_act(tmp_path: Path) -> None:
    evil = ["---\n", '"]\nlicense: mit', "<script>x</script>|[a](javascript:b)`", "x" * 8000, "rtl\u202e", "\U0001f600"]
    metadata = mixed(tmp_path, ["plain"]).metadata | {"datasets": [name.replace("\n", "\u2028") for name in evil]}
    front, text = parts(data_card(metadata))
    assert front["license"] == "unknown"
    assert len(front["pretty_name"]) <= 200
    assert b"<script" not in data_card(metadata) and "](" not in text
    assert "| &lt;script&gt;x&lt;\\/script&gt;\\|\\[a\\]\\(javascript\\:b\\)\\` | unknown |" in text
    assert "x" * 81 not in text
    assert all(line.isprintable() for line in text.split("\n"))
    assert sum("| unknown |" in line for line in text.split("\n")) == len(evil)
    many = parts(data_card(metadata | {"datasets": [f"s{number}" for number in range(10_000)]}))
    assert "and 9980 more" in many[1] and len(many[1]) < 8000


@pytest.mark.parametrize(
    ("source", "name", "identifier"),
    [
        ("librispeech", "CC BY 4.0", "cc-by-4.0"),
        ("LibriSpeech", "CC BY 4.0", "cc-by-4.0"),
        ("VCTK", "CC BY 4.0", "cc-by-4.0"),
        ("Common_Voice", "CC0 1.0", "cc0-1.0"),
        ("voxceleb-2", "CC BY 4.0 (metadata)", "other"),
        ("my librispeech", "unknown", "unknown"),
        ("", "unknown", "unknown"),
        ("common_voice_it", "CC0 1.0", "cc0-1.0"),  # as `ge2e manifest` names the sources of Common Voice
        ("libritts", "CC BY 4.0", "cc-by-4.0"),
        ("musan", "CC BY 4.0", "cc-by-4.0"),
        ("rirs_noises", "Apache 2.0", "apache-2.0"),
    ],
)
def test_licences_by_the_name_of_the_source(source: str, name: str, identifier: str) -> None:
    assert (licence_of(source).name, licence_of(source).identifier) == (name, identifier)


@pytest.mark.parametrize(
    ("sources", "identifier"),
    [
        (["librispeech", "vctk"], "cc-by-4.0"),
        (["librispeech", "commonvoice"], "other"),
        (["librispeech", "mine"], "unknown"),
        ([], "unknown"),
    ],
)
def test_the_licence_of_all_sources_together(sources: list[str], identifier: str) -> None:
    assert identifier_of(sources) == identifier


@pytest.mark.parametrize(
    ("count", "name"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**9, "1B<n<10B")]
)
def test_classes_of_size(count: int, name: str) -> None:
    assert size_category(count) == name


# In the folder of a dataset.


def test_erasing_writes_it_anew(dataset: Path) -> None:
    erase(str(dataset), ["synth/spk00"])
    assert unlisted(dataset) == set()
    text = (dataset / "README.md").read_text()
    assert text.encode() == data_card(metadata_of(dataset))
    assert "| train | 2 | 4 | 4 |" in text
    assert "2. `ge2e erase`" in text


def test_a_readme_of_somebody_else_stays_and_is_told(dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    card = dataset / "README.md"
    for content in (b"mine\n", card.read_bytes().replace(MARKER.encode(), b""), MARKER.encode() + b"\n" * MAX_BYTES):
        caplog.clear()
        card.write_bytes(content)
        with caplog.at_level(logging.WARNING):
            write_card(str(dataset), metadata_of(dataset))
        assert card.read_bytes() == content
        assert [record.getMessage() for record in caplog.records] == [
            f"{card} was not written by this program, so it stays as it is, and the dataset gets no data card"
        ]
    erase(str(dataset), ["synth/spk00"])
    assert card.stat().st_size > MAX_BYTES
    card.unlink()
    card.mkdir()
    erase(str(dataset), ["synth/spk01"])
    assert card.is_dir()


def test_verify_digest_and_clean_do_not_mind_it(dataset: Path, made: Path) -> None:
    (dataset / "README.md").write_text("mine")
    verify(Dataset.open(dataset))
    assert digest(Dataset.open(dataset)) == digest(Dataset.open(made))
    before = files_in(dataset)
    assert clean(str(dataset)).names == []
    assert files_in(dataset) == before


def test_clean_of_an_unfinished_folder_takes_our_card_only(dataset: Path) -> None:
    (dataset / "metadata.json").unlink()
    assert "README.md" in clean(str(dataset), dry_run=True, unfinished=True).names
    (dataset / "README.md").write_text("mine")
    clean(str(dataset), unfinished=True)
    assert files_in(dataset) == {"README.md"}


def test_of_two_jobs_the_card_is_that_of_the_dataset_that_stands(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = (dataset / "README.md").read_bytes()

    def late(output: str, metadata: dict[str, Any], version: str | None) -> None:
        assert (dataset / "README.md").read_bytes() == data_card(metadata) != card
        raise CommitError("another job has published")

    with monkeypatch.context() as patch, pytest.raises(CommitError):
        patch.setattr(assembly.publishing, "write", late)
        erase(str(dataset), ["synth/spk00"])
    assert (dataset / "README.md").read_bytes() == card


def test_on_a_store(made: Path) -> None:
    MemoryStore.clear()
    card = "memory://bucket/dataset/README.md"
    write_card("memory://bucket/dataset", metadata_of(made))
    assert MemoryStore.objects == {card: (made / "README.md").read_bytes()}
    assert is_ours(MemoryStore.objects[card])
    MemoryStore.objects[card] = b"mine"
    write_card("memory://bucket/dataset", metadata_of(made))
    assert MemoryStore.objects == {card: b"mine"}


# Copies.


def test_what_was_added_from_which_lists(augmented_dataset: Dataset) -> None:
    _, text = parts((augmented_dataset.root / "README.md").read_bytes())
    sums = {entry["kind"]: entry["sha256"][:16] for entry in augmented_dataset.metadata["augmentation"]["sounds"]}
    for line in (
        f"| noise | 44 | added, 0 to 15 dB below the speech | sounds\\.csv, noise: 4 (sha256 `{sums['noise']}`) |",
        "| babble | 44 | added, 13 to 20 dB below the speech, 2 to 3 recordings at once | sounds\\.csv, speech: 4 "
        f"(sha256 `{sums['babble']}`) |",
        f"| room | 44 | reverberated | rooms\\.csv: 2 (sha256 `{sums['room']}`) |",
        "| codec | 88 | coded and back: mp3 or telephone |  |",
    ):
        assert f"{line}\n" in text
    assert "Copies are no further utterances: 264 copies, of split train, have the labels" in text
    assert "Utterances of split train stand there at 0.9 times their speed, too." in text
    assert "\nOf 24 manifest rows, and of 22 made of them at other speeds, 46 were written, " in text
    assert "spk0" not in text and str(augmented_dataset.root.parent) not in text


def test_without_copies_nothing_is_said_of_them(made: Path) -> None:
    text = (made / "README.md").read_text()
    assert "opies are" not in text and "## Augmentation" not in text and "\nOf 8 manifest rows 8 were written" in text


def test_pseudonyms_name_no_list_and_no_sound(tmp_path: Path) -> None:
    """A list of babble is one of people, and its recordings are named after them."""
    (tmp_path / "key").write_bytes(b"k" * 32)
    dataset = augmented.small(tmp_path, broken=1, speakers=5, pseudonym_key=str(tmp_path / "key"))
    assert dataset.metadata["augmentation"]["unusable"] == {"noise 1": "not_audio"}
    _, text = parts((dataset.root / "README.md").read_bytes())
    assert "| room | 16 | reverberated | 2 (sha256 `" in text and "csv" not in text and "babble | 16 | added" in text
    for path in dataset.root.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"noise0.wav" not in content and b"spk0" not in content and b"utt0" not in content, path


def test_a_card_that_another_job_wrote_over_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Path
) -> None:
    """A job failed whose card another one replaced before its size was compared."""
    metadata, tries = metadata_of(made), []

    def replaced(path: str, content: bytes) -> None:
        tries.append(path)
        if len(tries) < 3:
            raise StoreError(f"{path} was not written: 3726 bytes sent, 3762 there", final=False)

    monkeypatch.setattr(card.storage, "write_bytes", replaced)
    write_card(str(tmp_path), metadata)
    assert tries == [str(tmp_path / "README.md")] * 3
    tries.clear()
    monkeypatch.setattr(card, "_ATTEMPTS", 2)
    with pytest.raises(StoreError, match="3762 there"):
        write_card(str(tmp_path), metadata)
    assert len(tries) == 2
