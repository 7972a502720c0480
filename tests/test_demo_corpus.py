"""The demo corpus: who says what, the files, the same bytes again, and nothing done twice."""

from __future__ import annotations

import array
import hashlib
import sys
import wave
from pathlib import Path

import pytest

from ge2e_transforms.errors import ConfigError
from ge2e_transforms.manifest import Utterance, read_rows

sys.path.append(str(Path(__file__).parent.parent / "examples"))  # a folder of programs, not a package
import demo_corpus

VOICES, SENTENCES = 3, 2


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "with a space" / "corpus"
    assert demo_corpus.make_corpus(out, VOICES, SENTENCES) is True
    return out


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_plan_gives_every_voice_its_own_sentences_and_settings() -> None:
    plan = demo_corpus.plan_corpus()
    assert len(plan) == 24 * 8
    assert len({line.text for line in plan}) == 24 * 8
    assert len({line.audio_path for line in plan}) == 24 * 8
    settings = {line.speaker: (line.voice, line.speed, line.pitch, line.pitch_range) for line in plan}
    assert len(settings) == 24
    for values in zip(*settings.values(), strict=True):
        assert len(set(values)) == 24


def test_plan_is_pinned() -> None:
    first, *_, last = demo_corpus.plan_corpus()
    assert (first.speaker, first.utterance, first.voice) == ("f2-01", "s01", "en-us+f2")
    assert (first.speed, first.pitch, first.pitch_range) == (155, 28, 35)
    assert first.text == (
        "This morning, my youngest cousin picked a basket of apples behind the station because the train was late."
    )
    assert (last.speaker, last.utterance, last.voice) == ("diogo-24", "s08", "en+Diogo")
    assert last.text == (
        "Without a word, the quiet librarian sold a pair of green boots in the back garden and told us all about it."
    )


def test_plan_grows_without_changing_what_was_there() -> None:
    whole = {line.audio_path: line for line in demo_corpus.plan_corpus(192, 61)}
    for line in demo_corpus.plan_corpus(24, 8):
        assert whole[line.audio_path] == line
    assert len({line.voice for line in whole.values()}) == 192
    assert len({line.text for line in whole.values()}) == 192 * 61


@pytest.mark.parametrize(("voices", "sentences"), [(0, 8), (193, 8), (24, 0), (24, 62)])
def test_numbers_that_cannot_be_made_are_refused(voices: int, sentences: int) -> None:
    with pytest.raises(ConfigError, match=r"expected 1 to 192 voices and 1 to 61 sentences"):
        demo_corpus.plan_corpus(voices, sentences)


def test_files_are_speech_of_several_crops(corpus: Path) -> None:
    files = sorted(corpus.rglob("*.wav"))
    assert [str(file.relative_to(corpus)) for file in files] == [
        *("annie-03/s01.wav", "annie-03/s02.wav", "f2-01/s01.wav", "f2-01/s02.wav", "m3-02/s01.wav", "m3-02/s02.wav")
    ]
    for file in files:
        with wave.open(str(file)) as audio:
            assert (audio.getnchannels(), audio.getsampwidth(), audio.getframerate()) == (1, 2, 22050)
            samples = array.array("h", audio.readframes(audio.getnframes()))
        assert 4 * 22050 <= len(samples) <= 7 * 22050
        assert max(samples) > 3000
        assert sum(abs(sample) > 300 for sample in samples) > len(samples) / 4


def test_manifest_states_every_file(corpus: Path) -> None:
    with (corpus / "manifest.csv").open("rb") as stream:
        rows = list(read_rows(stream, str(corpus / "manifest.csv")))
    assert all(isinstance(row, Utterance) for row in rows)
    first = rows[0]
    assert isinstance(first, Utterance)
    assert (first.audio_path, first.speaker_key, first.source) == ("f2-01/s01.wav", "demo/f2-01", "demo")
    assert first.utterance_id == "f2-01-s01"
    assert [(Path(row.location).stat().st_size, row.speaker_key) for row in rows if isinstance(row, Utterance)] == [
        (row.bytes, f"demo/{Path(row.audio_path).parent}") for row in rows if isinstance(row, Utterance)
    ]
    assert len({row.utterance_id for row in rows}) == VOICES * SENTENCES


def test_made_again_it_has_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    demo_corpus.make_corpus(tmp_path, VOICES, SENTENCES)
    assert digests(tmp_path) == digests(corpus)
    assert len(digests(tmp_path)) == VOICES * SENTENCES + 2


def test_complete_corpus_is_left_and_damaged_one_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(tmp_path), "--voices", "1", "--sentences", "1"]
    assert demo_corpus.main(arguments) == 0
    assert "(made)" in capsys.readouterr().out
    before, written = digests(tmp_path), (tmp_path / "manifest.csv").stat().st_mtime_ns
    assert demo_corpus.main(arguments) == 0
    assert "(complete already)" in capsys.readouterr().out
    assert (tmp_path / "manifest.csv").stat().st_mtime_ns == written

    with (tmp_path / "f2-01" / "s01.wav").open("ab") as file:
        file.write(b"more")
    assert demo_corpus.main(arguments) == 0
    assert "(made)" in capsys.readouterr().out
    assert digests(tmp_path) == before


def test_other_sentences_make_another_corpus(corpus: Path) -> None:
    assert demo_corpus.is_complete(corpus, demo_corpus.plan_corpus(VOICES, SENTENCES))
    assert not demo_corpus.is_complete(corpus, demo_corpus.plan_corpus(VOICES, SENTENCES - 1))
    assert not demo_corpus.is_complete(corpus / "nowhere", demo_corpus.plan_corpus(VOICES, SENTENCES))


def test_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    assert demo_corpus.main([str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert message.startswith("demo_corpus: the demo corpus is spoken by espeak-ng")
    assert "-m pip install espeakng-loader" in message
    assert not (tmp_path / "out").exists()
