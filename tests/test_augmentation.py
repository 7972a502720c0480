"""What an `augment.yaml` may say: what is refused and how, what it asks for, and what its fingerprint stands for."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from ge2e_transforms.augmentation import Augmentation, Copy, reserved, sped
from ge2e_transforms.errors import ConfigError
from ge2e_transforms.schema import MAX_COPIES

FULL: dict[str, Any] = {
    "noise": {"manifest": "musan.csv", "subset": "noise", "snr_db": [0, 15], "copies": 2},
    "music": {"manifest": "musan.csv", "subset": ["music"]},
    "babble": {"manifest": "musan.csv", "subset": "speech", "talkers": [3, 5]},
    "room": {"manifest": "rooms.csv"},
    "codec": {"codecs": "mp3"},
    "speed": [0.9, 1.1],
    "splits": ["train", "dev"],
    "seed": 3,
}
SUMS = {kind: kind * 8 for kind in ("noise", "music", "babble", "room")}


def config(**changed: Any) -> Augmentation:
    return Augmentation.from_dict({name: value for name, value in {**FULL, **changed}.items() if value is not None})


def test_what_is_asked_for_comes_in_one_order() -> None:
    made = config()
    names = ["noise1", "noise2", "music1", "babble1", "room1", "codec1"]
    assert [copy.name for copy in made.copies] == names
    assert made.copies[1] == Copy("noise", 2)
    assert made.factors("train") == (1.0, 0.9, 1.1) and made.factors("test") == (1.0,)
    assert (made.labels("dev"), made.labels("test")) == (3, 1)
    assert made.growth("train") == pytest.approx((1 + 1 / 0.9 + 1 / 1.1) * 7) and made.growth("test") == 1
    assert list(made.lists) == ["noise", "music", "babble", "room"]


def test_defaults_are_those_of_the_recipes_named() -> None:
    kinds = ("noise", "music", "babble")
    made = Augmentation.from_dict({kind: {"manifest": "m.csv"} for kind in kinds})
    assert [getattr(made, kind).snr_db for kind in kinds] == [(0, 15), (5, 15), (13, 20)]
    assert made.babble is not None and made.babble.talkers == (3, 7)
    assert (made.splits, made.seed, made.speed) == (("train",), 0, ())


def test_one_number_stands_for_both_ends() -> None:
    assert config(noise={"manifest": "m", "snr_db": 5}).noise.snr_db == (5.0, 5.0)  # type: ignore[union-attr]
    assert config(babble={"manifest": "m", "talkers": 4}).babble.talkers == (4, 4)  # type: ignore[union-attr]


def test_metadata_gives_the_config_back() -> None:
    for made in (config(), config(noise=None, speed=[]), Augmentation(speed=(0.9,))):
        assert Augmentation.from_dict(made.to_dict()) == made


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"nois": {}}, r"augment=\['nois'\] cannot be used: expected .*babble"),
        ({"noise": {"manifest": "m", "snr": 3}}, r"augment.noise=\['snr'\] .*snr_db"),
        ({"noise": {}}, "augment.noise=.* expected a manifest"),
        ({"noise": "m.csv"}, "augment.noise='m.csv' .*an object"),
        ({"noise": {"manifest": 3}}, "manifest=3 .*path of a manifest"),
        ({"noise": {"manifest": "m", "snr_db": [15, 0]}}, r"snr_db=\[15, 0\] .*in this order"),
        ({"noise": {"manifest": "m", "snr_db": [0, 5, 10]}}, "snr_db=.*lowest, highest"),
        ({"noise": {"manifest": "m", "snr_db": "5"}}, "snr_db='5'"),
        ({"noise": {"manifest": "m", "snr_db": float("nan")}}, "snr_db=.*nan"),
        ({"noise": {"manifest": "m", "snr_db": [0, 300]}}, r"snr_db=300.0 .*\[-100, 100\]"),
        ({"noise": {"manifest": "m", "copies": -1}}, "copies=-1"),
        ({"noise": {"manifest": "m", "copies": True}}, "copies=True"),
        ({"noise": {"manifest": "m", "subset": [3]}}, r"subset=\[3\]"),
        ({"babble": {"manifest": "m", "talkers": [0, 3]}}, "talkers=0"),
        ({"babble": {"manifest": "m", "talkers": [1.5, 3]}}, "talkers=.*int"),
        ({"codec": {"codecs": ["opus"]}}, "codecs='opus' .*mp3, telephone"),
        ({"codec": {"codecs": []}}, "at least one of mp3"),
        ({"speed": [0.9, 1]}, "speed=1 .*other than 1"),
        ({"speed": [0.1]}, r"speed=0.1 .*\[0.5, 2\]"),
        ({"speed": [0.91234]}, "three decimals"),
        ({"speed": [0.9, 0.9]}, "each once"),
        ({"speed": 0.9}, "speed=0.9 .*a list"),
        ({"speed": ["0.9"]}, "speed='0.9' .*a number"),
        ({"splits": []}, "at least one split"),
        ({"splits": ["../x"]}, r"splits='../x' .*names of splits"),
        ({"seed": -1}, "seed=-1"),
        ({"cache_mib": 0}, "cache_mib=0"),
        ({"noise": {"manifest": "m", "copies": MAX_COPIES}}, f"copies={MAX_COPIES + 4} .*at most {MAX_COPIES}"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**changed)


@pytest.mark.parametrize("values", [None, [], "noise", {}, {"noise": {"manifest": "m", "copies": 0}}])
def test_a_config_that_asks_for_nothing_is_refused(values: object) -> None:
    with pytest.raises(ConfigError, match="augment="):
        Augmentation.from_dict(values)


def test_the_fingerprint_stands_for_all_that_decides_a_copy() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"seed": 4},
        {"speed": [0.9]},
        {"splits": ["train"]},
        {"codec": {"codecs": "telephone"}},
        {"room": None},
        {"noise": {**FULL["noise"], "snr_db": [0, 14]}},
        {"noise": {**FULL["noise"], "copies": 1}},
        {"music": {**FULL["music"], "subset": "noise"}},
        {"babble": {**FULL["babble"], "talkers": 3}},
    ]
    prints = [config(**changed).fingerprint(SUMS) for changed in changes]
    prints.append(config().fingerprint({**SUMS, "room": "other"}))
    assert all(first != second for first, second in itertools.combinations(prints, 2))
    moved = {kind: {**FULL[kind], "manifest": f"/elsewhere/{FULL[kind]['manifest']}"} for kind in SUMS}
    assert config(**moved, cache_mib=7).fingerprint(SUMS) == prints[0]


def test_mp3_needs_a_rate_of_its_own() -> None:
    config().check_rate(16000)
    config(codec={"codecs": "telephone"}).check_rate(10000)
    config(codec={"codecs": "mp3", "copies": 0}).check_rate(10000)
    with pytest.raises(ConfigError, match=r"mp3 cannot hold sample_rate_hz=10000.*codecs: \[telephone\]"):
        config().check_rate(10000)


@pytest.mark.parametrize("name", ["19~speed0.9", "a.flac~noise1", "a~speed1.1~room12", "~codec3", "19~speed2"])
def test_ids_of_copies_are_reserved(name: str) -> None:
    assert reserved(name)


@pytest.mark.parametrize("name", ["19", "a~b", "~", "a~noise", "a~noise1.flac", "noise1", "speed0.9", "a~speed"])
def test_other_ids_are_not(name: str) -> None:
    assert not reserved(name)


def test_ids_at_another_speed() -> None:
    assert (sped("ns/19", 1), sped("ns/19", 0.9), sped("u", 1.125)) == ("ns/19", "ns/19~speed0.9", "u~speed1.125")
    assert reserved(sped("u", 0.955))


def test_what_an_index_may_say_of_a_record() -> None:
    made = config(codec={"copies": 0}, speed=[0.9])
    assert made.treatments == {
        "": (1.0, ""),
        **{kind: (1.0, kind) for kind in ("noise", "music", "babble", "room")},
        "speed0.9": (0.9, ""),
        **{f"speed0.9+{kind}": (0.9, kind) for kind in ("noise", "music", "babble", "room")},
    }
    assert made.at_speeds("ns/19") == ["ns/19~speed0.9"]


def test_the_config_of_a_dataset() -> None:
    assert Augmentation.of({"augmentation": {"config": config().to_dict()}}) == config()
    assert Augmentation.of({"counts": {}}) is None
    with pytest.raises(ConfigError, match="reverb"):
        Augmentation.of({"augmentation": {"config": {"reverb": 1}}})
