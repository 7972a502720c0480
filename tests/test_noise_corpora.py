"""MUSAN and RIRS_NOISES, on trees of small files with their published layouts and names."""

from __future__ import annotations

from pathlib import Path

import pytest

from ge2e_transforms.errors import ManifestError
from ge2e_transforms.manifest import Utterance
from ge2e_transforms.noise_corpora import musan, rirs


def make(root: Path, *paths: str) -> Path:
    """Files of 0, 1, 2 ... bytes."""
    for size, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x" * size)
    return root


MUSAN = (
    "musan/music/fma-western-art/music-fma-wa-0000.wav",
    "musan/music/rfm/music-rfm-0001.wav",
    "musan/noise/free-sound/noise-free-sound-0000.wav",
    "musan/noise/sound-bible/noise-sound-bible-0003.wav",
    "musan/speech/us-gov/speech-us-gov-0100.wav",
    "musan/music/rfm/ANNOTATIONS",
    "musan/noise/free-sound/LICENSE",
    "musan/README",
)


def test_musan_rows_are_pinned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make(tmp_path, *MUSAN) / "musan"
    rows = list(musan(tmp_path))
    assert rows == [
        Utterance(
            f"{root}/{subset}/{collection}/{name}.wav", name, "musan", name, "musan", subset, session_id=collection,
            bytes=size,
        )
        for size, (subset, collection, name) in enumerate([
            ("music", "fma-western-art", "music-fma-wa-0000"),
            ("music", "rfm", "music-rfm-0001"),
            ("noise", "free-sound", "noise-free-sound-0000"),
            ("noise", "sound-bible", "noise-sound-bible-0003"),
            ("speech", "us-gov", "speech-us-gov-0100"),
        ])
    ]  # fmt: skip
    assert list(musan(str(root))) == rows
    assert {row.speaker_key for row in musan(root, "noises")} == {f"noises/{row.speaker_id}" for row in rows}
    assert caplog.text == ""


def test_musan_leaves_out_what_lies_elsewhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "noise/free-sound/a.wav", "noise/loose.wav", "babble/x/b.wav", "speech/x/c.flac")
    assert [row.utterance_id for row in musan(tmp_path)] == ["a"]
    assert "3 audio files do not fit {subset}/{session}/{speaker}.wav and are left out, first 'babble/x/b.wav'" in (
        caplog.text
    )


@pytest.mark.parametrize(("scan", "found"), [(musan, "needs paths such as SUBSET/SESSION"), (rirs, "simulated_rirs/")])
def test_trees_in_which_nothing_fits(scan, found: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="there is no audio at all below it") as caught:
        list(scan(tmp_path))
    assert found in str(caught.value)
    with pytest.raises(ManifestError, match=r"Found 1 audio files: 'a/b\.wav'"):
        list(scan(make(tmp_path, "a/b.wav")))
    with pytest.raises(ManifestError, match="is not there: expected the folder that holds the corpus"):
        list(scan(tmp_path / "no"))


REAL = "RIRS_NOISES/real_rirs_isotropic_noises"
NEAR, AULA, OFFICE = (
    "RVB2014_type1_rir_largeroom1_near_angla",
    "air_type1_air_binaural_aula_carolina_1_1",
    "RWCP_type5_noise_cirline_ofc_ambient1",
)
RIRS = (
    "RIRS_NOISES/pointsource_noises/noise-free-sound-0000.wav",
    *(f"{REAL}/{name}.wav" for name in (NEAR, OFFICE, AULA)),
    "RIRS_NOISES/simulated_rirs/largeroom/Room001/Room001-00001.wav",
    "RIRS_NOISES/simulated_rirs/smallroom/Room001/Room001-00001.wav",
    "RIRS_NOISES/simulated_rirs/smallroom/Room001/Room001-00002.wav",
    "RIRS_NOISES/simulated_rirs/smallroom/Room200/Room200-00100.wav",
    "RIRS_NOISES/simulated_rirs/smallroom/rir_list",
    "RIRS_NOISES/simulated_rirs/smallroom/room_info",
    "RIRS_NOISES/README",
)
RIR_LIST = (
    f"--rir-id 00001 --room-id RVB2014_largeroom1 {REAL}/{NEAR}.wav\n\n"
    f"--rir-id 00218 --room-id air_binaural_aula_carolina_1 --drr -4.885  {REAL}/{AULA}.wav \r\n"
)
NOISE_LIST = f"--noise-id 00093 --noise-type isotropic --room-linkage RWCP_cirline_ofc {REAL}/{OFFICE}.wav"


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    """`RIRS_NOISES` with a few recordings of each part, and the lists of real rooms."""
    make(tmp_path, *RIRS)
    (tmp_path / REAL / "rir_list").write_text(RIR_LIST)
    (tmp_path / REAL / "noise_list").write_text(NOISE_LIST)
    return tmp_path / "RIRS_NOISES"


def test_rirs_rows_are_pinned(rooms: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = list(rirs(rooms))
    points, real, simulated = (f"{rooms}/{part}" for part in ("pointsource_noises", REAL[12:], "simulated_rirs"))
    assert rows == [
        Utterance(
            f"{path}.wav", speaker, "rirs_noises", path.rpartition("/")[2], "rirs_noises", subset, session_id=session,
            channel=channel, bytes=size,
        )
        for size, (path, speaker, subset, session, channel) in enumerate([
            (f"{points}/noise-free-sound-0000", "noise-free-sound-0000", "pointsource", "", None),
            (f"{real}/{NEAR}", "RVB2014_largeroom1", "real", "", 0),
            (f"{real}/{OFFICE}", OFFICE, "isotropic", "RWCP_cirline_ofc", 0),
            (f"{real}/{AULA}", "air_binaural_aula_carolina_1", "real", "", 0),
            (f"{simulated}/largeroom/Room001/Room001-00001", "largeroom-Room001", "largeroom", "", None),
            (f"{simulated}/smallroom/Room001/Room001-00001", "smallroom-Room001", "smallroom", "", None),
            (f"{simulated}/smallroom/Room001/Room001-00002", "smallroom-Room001", "smallroom", "", None),
            (f"{simulated}/smallroom/Room200/Room200-00100", "smallroom-Room200", "smallroom", "", None),
        ])
    ]  # fmt: skip
    assert list(rirs(str(rooms.parent))) == rows
    assert {row.namespace for row in rirs(rooms, "n")} == {"n"}
    assert caplog.text == ""


def subsets(root: Path) -> dict[str, tuple[str, str, str]]:
    """Subset, speaker and session of each recording of a real room."""
    found = (row for row in rirs(root) if f"/{REAL}/" in row.audio_path)
    return {row.utterance_id: (row.subset, row.speaker_id, row.session_id) for row in found}


def test_lists_decide_not_names_and_not_where_they_say_files_are(rooms: Path, caplog: pytest.LogCaptureFixture) -> None:
    (rooms.parent / REAL / "rir_list").write_text(
        f"--rir-id 1 --room-id hall /elsewhere/{OFFICE}.wav\n--rir-id 2 --room-id aula {AULA}.wav\n"
    )
    (rooms.parent / REAL / "noise_list").write_text(f"--noise-id 1 --noise-type isotropic ../{NEAR}.wav\n")
    assert subsets(rooms) == {
        NEAR: ("isotropic", NEAR, ""),
        OFFICE: ("real", "hall", ""),
        AULA: ("real", "aula", ""),
    }
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("missing", "by_name"),
    [
        (["rir_list"], [NEAR, AULA]),
        (["noise_list"], [OFFICE]),
        (["rir_list", "noise_list"], [NEAR, OFFICE, AULA]),
    ],
)
def test_without_a_list_published_names_decide(
    rooms: Path, missing: list[str], by_name: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    expected = {
        NEAR: ("real", "RVB2014_largeroom1", ""),
        OFFICE: ("isotropic", OFFICE, "RWCP_cirline_ofc"),
        AULA: ("real", "air_binaural_aula_carolina_1", ""),
    }
    for name in missing:
        (rooms.parent / REAL / name).unlink()
    found = subsets(rooms)
    assert found == expected | {name: (expected[name][0], name, "") for name in by_name}
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{rooms.parent / REAL}: {len(by_name)} recordings are in no list ({' and '.join(missing)} not there) and are "
        "taken by their names, each response as a room of its own, first "
        + ", ".join(repr(f"{name}.wav") for name in by_name)
    )


def test_what_neither_list_nor_name_tells_is_left_out_and_told(rooms: Path, caplog: pytest.LogCaptureFixture) -> None:
    odd = ["cafe_noise_1", "hall_rir_2", "office_air_conditioner", "x_type1_noise", "new_type1_rir_hall"]
    make(rooms.parent, *(f"{REAL}/{name}.wav" for name in odd))
    found = subsets(rooms)
    assert set(found) == {NEAR, OFFICE, AULA, "new_type1_rir_hall"}
    assert found["new_type1_rir_hall"] == ("real", "new_type1_rir_hall", "")
    taken, left_out = (record.getMessage() for record in caplog.records)
    assert "1 recordings are in no list and are taken by their names" in taken
    assert taken.endswith("first 'new_type1_rir_hall.wav'")
    assert "4 recordings are in no list and are left out, as their names do not tell responses from noises" in left_out
    assert left_out.endswith("first 'cafe_noise_1.wav', 'hall_rir_2.wav', 'office_air_conditioner.wav'")


def test_nothing_tells_what_anything_is(tmp_path: Path) -> None:
    make(tmp_path, f"{REAL}/a.wav", f"{REAL}/b.wav")
    with pytest.raises(ManifestError, match=r"responses from noises among its 2 recordings, first 'a\.wav', 'b\.wav'"):
        list(rirs(tmp_path))


def test_recordings_of_a_list_that_are_not_there_are_told(rooms: Path, caplog: pytest.LogCaptureFixture) -> None:
    (rooms.parent / REAL / f"{AULA}.wav").unlink()
    assert set(subsets(rooms)) == {NEAR, OFFICE}
    assert f"1 listed recordings are not there, first '{AULA}.wav'" in caplog.text


def test_files_of_other_forms_are_left_out(rooms: Path, caplog: pytest.LogCaptureFixture) -> None:
    count = len(list(rirs(rooms)))
    make(rooms, "simulated_rirs/smallroom/Room002/Room001-00001.wav", "simulated_rirs/hall/Room001/Room001-00001.wav")
    assert len(list(rirs(rooms))) == count
    assert "2 audio files do not fit" in caplog.text


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("rir_list", f"--rir-id 1 --room-id {REAL}/{NEAR}.wav"),
        ("rir_list", f"--rir-id 1 --room-id r {REAL}/{NEAR}"),
        ("rir_list", f"--rir-id 1 {REAL}/{NEAR}.wav"),
        ("rir_list", f"{REAL}/{NEAR}.wav"),
        ("rir_list", f"--rir-id --room-id 1 r {REAL}/{NEAR}.wav"),
        ("rir_list", f"--rir-id 1 room-id r {REAL}/{NEAR}.wav"),
        ("rir_list", f"--rir-id 1 --room-id r\x1b[1m {REAL}/{NEAR}.wav"),
        ("rir_list", f'--rir-id 1 --room-id r "sox {REAL}/{NEAR}.wav -r 8000 -t wav - |"'),
        ("noise_list", f"--noise-id 1--noise-type isotropic {REAL}/{OFFICE}.wav"),
        ("noise_list", f"--noise-id 1 --room-linkage {REAL}/{OFFICE}.wav"),
    ],
)
def test_lines_that_cannot_be_used(rooms: Path, name: str, line: str) -> None:
    path = rooms.parent / REAL / name
    path.write_text(f"{path.read_text()}\n{line}\n")
    number = path.read_text().count("\n")
    with pytest.raises(ManifestError, match="expected options with their values, such as --room-") as caught:
        list(rirs(rooms))
    assert str(caught.value).startswith(f"{path}, line {number}: ")
    assert "\x1b" not in str(caught.value)


def test_lists_that_contradict_each_other(rooms: Path) -> None:
    path = rooms.parent / REAL / "noise_list"
    path.write_text(f"--noise-id 1 --room-linkage r {REAL}/{NEAR}.wav\n")
    with pytest.raises(ManifestError) as caught:
        list(rirs(rooms))
    assert str(caught.value) == (
        f"{path}, line 1: '{NEAR}.wav' is isotropic, of the room 'r', and in {path.with_name('rir_list')}, line 1 "
        "real, of 'RVB2014_largeroom1': expected one of them"
    )
    path.write_text(f"{NOISE_LIST}\n{NOISE_LIST}\n")  # twice the same says nothing else
    assert subsets(rooms)[OFFICE] == ("isotropic", OFFICE, "RWCP_cirline_ofc")
    path.write_bytes(b"caf\xe9\n")
    with pytest.raises(ManifestError, match=r"noise_list, line 1: .*expected text in UTF-8"):
        list(rirs(rooms))
