"""`ge2e report`: a page that shows a dataset, holds in any browser, runs nothing and asks nobody."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import augmented
import jobs
import numpy as np
import pytest
import s3_server
import synth
from PIL import Image

from ge2e_transforms.config import PRESETS, Recipe
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import ConfigError, DatasetError, MissingExtraError
from ge2e_transforms.planning import PlanConfig
from pipeline import __main__ as program
from pipeline import report_page
from pipeline import report_plots as plots
from pipeline.commands import report as command
from pipeline.commands.report import place_of
from pipeline.commit import commit
from pipeline.report_page import number, page, size

pytestmark = pytest.mark.usefixtures("unsynced")

SECTIONS = (
    *("sizes", "crops", "batches", "voice", "durations", "levels", "look", "bins", "suspects", "ledger", "recipe"),
    *("runs", "licences"),
)
HOSTILE = (
    "<script>document.title='x'</script>",
    '"><img src=x onerror="document.title=\'y\'">',
    "javascript:document.title='z'",
    "</style><svg onload=\"document.title='w'\">",
    "rtl\u202egpj.exe",
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac{a}{$",
    "x" * 8000,
    "https://far.example/a",
    "_hidden",
    "日本語",
)


def made(output: Path, manifest: Path, recipe: Recipe | None = None, **fields: Any) -> Dataset:
    config = jobs.job(
        output, manifest, recipe=recipe or Recipe(), plan=PlanConfig(min_shards=2), max_rejected=0.9, **fields
    )
    planned = jobs.write_all(config)
    commit(config, planned.plan, planned.rejected)
    return Dataset.open(output)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve train speakers and two test speakers, and a row without a file."""
    manifest = synth.small_corpus(tmp_path_factory.mktemp("corpus"), 14, 3, 1.3, test_speakers=2)
    with manifest.open("a", newline="") as file:
        file.write("gone.wav,spk00,synth,s0,train\r\n")
    return manifest


@pytest.fixture(scope="module")
def dataset(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return made(tmp_path_factory.mktemp("report") / "voices", corpus)


@pytest.fixture(scope="module")
def shown(dataset: Dataset) -> str:
    return page(dataset, utterances=["spk03/utt01.wav"])


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Names that would act on a page wherever a name can stand."""
    folder = tmp_path_factory.mktemp("hostile")
    synth.write(folder / "a.wav", synth.speechlike(1, 1.4), 16000)
    rows = [("a.wav", name, "ns", f"{name[:7990]}.{part}", name) for name in HOSTILE for part in range(2)]
    rows += [(f"gone{number}.wav", name, "ns", f"{name[:7990]}.gone", name) for number, name in enumerate(HOSTILE)]
    manifest = jobs.write_rows(folder / "m.csv", rows, "audio_path,speaker_id,namespace,utterance_id,source")
    return made(folder / "</title><script>document.title=0<script>".replace("/", "\u2215"), manifest)


class Elements(HTMLParser):
    """Tags with their attributes, and the text outside of styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._styled = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._styled = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._styled = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._styled else data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def section(text: str, name: str) -> str:
    """The text of one section, without tags and runs of spaces."""
    part = text.partition(f'<section id="{name}"')[2].partition("</section>")[0]
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", f"<{part}")))


def check_page(text: str, copies: bool = False) -> Elements:
    """No script, no event, nothing from elsewhere, and every section once with a sentence on what to look for."""
    sections = [*SECTIONS[:7], *(["copies"] * copies), *SECTIONS[7:]]
    found = Elements(text)
    assert not {"script", "iframe", "object", "embed", "form", "link", "base"} & {tag for tag, _ in found.tags}
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href", "action", "data"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/png;base64,")), (tag, value)
    assert "url(http" not in text and "@import" not in text
    (policy,) = [meta["content"] for meta in found.of("meta") if "http-equiv" in meta]
    assert policy is not None and policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
    assert [attributes["id"] for attributes in found.of("section")] == sections
    for name in sections:
        assert " Look " in section(text, name), name
    return found


def test_the_page_needs_nothing_else_and_runs_nothing(shown: str) -> None:
    found = check_page(shown)
    figures = [attributes for attributes in found.of("div") if attributes.get("class") == "plot"]
    assert len(figures) == len(found.of("svg")) == 7 + 7
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in figures)
    assert shown.count("<figcaption>") == len(figures)
    assert "<title>voices – dataset report</title>" in shown  # noqa: RUF001


def test_key_figures_and_tables(shown: str, dataset: Dataset) -> None:
    tiles = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", shown))
    assert (tiles["speakers"], tiles["utterances"], tiles["sources"], tiles["rows left out"]) == ("14", "42", "1", "1")
    hours = dataset.metadata["splits"]["train"]["seconds"] / 3600
    assert f" train synth 12 36 36 {hours:.2f} " in section(shown, "sizes")
    assert " test synth 2 6 6 " in section(shown, "sizes")
    assert re.search(r"train crops 12 12 (\d+ )*", section(shown, "crops"))
    assert " test utterances 2 2 " in section(shown, "crops")
    assert " rejected decode missing 1 " in section(shown, "ledger")
    assert "gone.wav" in section(shown, "ledger")
    assert " n_mels 40 " in section(shown, "recipe") and "Preset ge2e ." in section(shown, "recipe")
    assert f" run {dataset.metadata['generation']} " in section(shown, "runs")
    assert " synth – unknown " in section(shown, "licences")  # noqa: RUF001
    assert "biometric data" in shown and "intelligible speech" in shown


def test_values_at_the_floor_are_of_the_records_that_were_read(shown: str, dataset: Dataset) -> None:
    values = np.concatenate([record[0].ravel() for record in jobs.stored_records(dataset.root)])
    share = 100 * np.mean(values <= np.log10(2e-6) + 1e-6)
    assert f"{share:.1f} %" in section(shown, "levels")
    assert "of 42 records that were read" in section(shown, "levels")


def test_chosen_records_come_first_and_the_others_follow_from_the_seed(
    shown: str, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = re.findall(r'<strong><bdi class="id">([^<]*)</bdi></strong>', shown)
    assert len(names) == 7
    assert (names[0], shown.count(">chosen<")) == ("spk03/utt01.wav", 1)
    monkeypatch.setattr(report_page, "SHOWN", 2)
    other = page(dataset, seed=1)
    assert ">chosen<" not in other
    found = re.findall(r'<strong><bdi class="id">([^<]*)</bdi></strong>', other)
    assert len(found) == 2 and found != names[1:3]
    with pytest.raises(DatasetError, match="has no utterance 'nobody'"):
        page(dataset, utterances=["nobody"])


def test_names_are_text(hostile: Dataset) -> None:
    text = page(hostile, utterances=[f"{HOSTILE[0]}.0", f"{HOSTILE[7][:7990]}.1"])
    found = check_page(text)
    assert [tag for tag, _ in found.tags].count("image") == len(found.of("img")) + 8
    for name in HOSTILE:
        assert (name if name.isprintable() and len(name) < 80 else name[:3]) in found.text
    assert "\u202e" not in text and r"rtl\u202egpj.exe" in found.text
    assert "49" not in section(text, "licences")
    assert "x" * 201 not in text
    assert all(line.isprintable() or "\u2215" in line for line in text.replace("\t", "").split("\n"))


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        (Recipe().replace(features="mfcc"), "MFCC, "),
        (Recipe().replace(features="raw"), "Raw samples have no spectrum to compare."),
        (Recipe().replace(dtype="float16"), "float16, stored as whole utterances"),
        (PRESETS["seed"].replace(voice="none"), "This recipe has no level stage, so the index holds no levels."),
        (Recipe().replace(log="none", n_mels=2), "Preset <code>ge2e</code>, but for 2 field(s), which are marked."),
    ],
    ids=["mfcc", "raw", "float16", "windows", "power"],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_every_form_of_a_dataset(recipe: Recipe, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_page, "SHOWN", 1)
    manifest = synth.small_corpus(tmp_path / "corpus", 3, 2, 1.3)
    text = page(made(tmp_path / "dataset", manifest, recipe), utterances=["spk01/utt01.wav"])
    check_page(text)
    assert told in re.sub(r"\s+", " ", text)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_one_speaker_who_is_in_no_train_split(tmp_path: Path) -> None:
    synth.write(tmp_path / "a.wav", synth.speechlike(1, 0.6), 16000)
    manifest = jobs.write_rows(tmp_path / "m.csv", [("a.wav", "s", "test")], "audio_path,speaker_id,split")
    text = page(made(tmp_path / "dataset", manifest))
    check_page(text)
    assert "no train frames, so no statistics" in section(text, "bins")
    assert "no batch can be made" in section(text, "batches")
    assert "Of fewer than 10 speakers nobody can be told from the rest." in section(text, "suspects")
    assert "Every row was written." in section(text, "ledger")


def test_a_dataset_on_a_store(dataset: Dataset, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server.s3_server() as server:
        for _ in s3_server.in_environment(server, monkeypatch):
            for name in jobs.files_in(dataset.root):
                server.put(f"sets/voices/{name}", (dataset.root / name).read_bytes())
            text = page(Dataset.open("s3://corpus/sets/voices"), utterances=["spk03/utt01.wav"])
    assert text == shown


# The command.


def test_the_command_writes_one_file_beside_the_dataset(
    dataset: Dataset, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = jobs.files_in(dataset.root)
    assert program.main(["report", str(dataset.root), "--utterance", "spk03/utt01.wav"]) == 0
    assert capsys.readouterr().out.startswith(f"report   {tmp_path}/voices-report.html (0.")
    assert jobs.files_in(tmp_path) == {"voices-report.html"}
    assert (tmp_path / "voices-report.html").read_text(encoding="utf-8") == shown
    assert jobs.files_in(dataset.root) == before


def test_where_the_page_is_never_written(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(dataset.root)
    for output in (None, "train/r.html", str(dataset.root / "r.html")):
        with pytest.raises(ConfigError, match="inside of the dataset: name another place by --output"):
            place_of(dataset, output)
    (tmp_path / "link").symlink_to(dataset.root)
    with pytest.raises(ConfigError, match="inside of the dataset"):
        place_of(dataset, str(tmp_path / "link" / "r.html"))
    with pytest.raises(ConfigError, match="is a folder: expected a file"):
        place_of(dataset, str(tmp_path))
    with pytest.raises(ConfigError, match="expected a file on this machine"):
        place_of(dataset, "s3://bucket/r.html")
    assert program.main(["report", str(tmp_path / "none")]) == 1
    assert program.main(["report", str(dataset.root), "-o", str(tmp_path / "r.html"), "--seed", "-1"]) == 1
    assert "seed=-1 cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_without_its_packages_it_names_the_extra(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    arguments = ["report", str(dataset.root)]
    assert program.main(arguments) == 1
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'ge2e-features[report]'")):
        raise MissingExtraError("jinja2", "report")


# Parts.


def test_numbers_and_bytes_for_people() -> None:
    assert [number(1234567), number(-1.25, 1), number(0.5, 1, " %"), number(None), number(float("nan"), 2)] == [
        *("1,234,567", "\u22121.2", "0.5 %", "\u2013", "\u2013"),
    ]
    assert [size(999), size(1500), size(48_903_883), size(3e12)] == ["999 bytes", "1.5 kB", "48.9 MB", "3.0 TB"]


def test_a_figure_takes_the_colours_of_the_page() -> None:
    svg = plots.crops({"train": np.array([1, 5, 90]), "test": np.array([3])})
    assert svg.startswith('<svg viewBox="0 0 ')
    assert "currentColor" in svg and "var(--s0)" in svg and "var(--s1)" in svg and "var(--line)" in svg
    assert not re.search(r"(fill|stroke): #(?!none)|<style|font-family|<metadata|<\?xml|xmlns", svg)
    assert not re.findall(r"<g id=", svg)


# In a browser.


def browse(chromium: Path, folder: Path, url: str, *options: str) -> str:
    """Starts the browser with a profile of its own and no name that it could look up; what it prints."""
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --hide-scrollbars --force-device-scale-factor=1"
    own = [f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    arguments = [str(chromium), *flags.split(), *own, *options, url]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, cwd=folder)
    shutil.rmtree(folder / "profile")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def browser(chromium: Path, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    yield chromium, tmp_path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int64)


def frame(text: str, width: int) -> str:
    """A page that shows another one in a frame, and says how wide and high that is; only this one may run a script."""
    inner = html.escape(text)
    told = "document.title = [d.scrollWidth, d.scrollHeight, f.contentDocument.title].join('|')"
    return (
        f'<iframe id="f" style="width:{width}px;height:900px;border:0" srcdoc="{inner}"></iframe>'
        f"<script>f.onload = () => {{ const d = f.contentDocument.documentElement; {told} }}</script>"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_desktop(browser: tuple[Path, Path], shown: str, scheme: str) -> None:
    chromium, folder = browser
    (folder / "r.html").write_text(shown, encoding="utf-8")
    options = ("--window-size=1200,2400", f"--screenshot={folder / 'r.png'}")
    dark = ("--blink-settings=preferredColorScheme=0",) * (scheme == "dark")
    browse(chromium, folder, (folder / "r.html").as_uri(), *options, *dark)
    seen = pixels(folder / "r.png")
    assert seen.shape == (2400, 1200, 3)
    assert len(np.unique(seen[:, :, 0] << 16 | seen[:, :, 1] << 8 | seen[:, :, 2])) > 200
    # The page, and the text and figures upon it.
    assert (seen[0, 0].mean() > 230) == (scheme == "light")
    assert (seen[0, 0].mean() < 40) == (scheme == "dark")
    ink = np.abs(seen - seen[0, 0]).max(axis=2) > 120
    assert 0.01 < ink.mean() < 0.3


def test_on_a_phone_nothing_is_wider_than_the_screen_and_no_name_acts(
    browser: tuple[Path, Path], hostile: Dataset
) -> None:
    """Even without the policy, which forbids scripts in the page that is delivered."""
    chromium, folder = browser
    text, without = re.subn(r"<meta http-equiv=[^>]*>", "", page(hostile))
    assert without == 1
    (folder / "f.html").write_text(frame(text, 390), encoding="utf-8")
    options = ("--window-size=800,900", f"--screenshot={folder / 'f.png'}", "--dump-dom", "--virtual-time-budget=5000")
    text = browse(chromium, folder, (folder / "f.html").as_uri(), *options)
    match = re.search(r"<title>(\d+)\|(\d+)\|(.*)</title>", text)
    assert match is not None, text[:500]
    assert int(match[1]) <= 390
    assert int(match[2]) > 3000
    assert html.unescape(match[3]).startswith("<\u2215title><script>")
    assert html.unescape(match[3]).endswith("dataset report")


def test_printed(browser: tuple[Path, Path], shown: str) -> None:
    chromium, folder = browser
    (folder / "r.html").write_text(shown, encoding="utf-8")
    browse(
        chromium, folder, (folder / "r.html").as_uri(), f"--print-to-pdf={folder / 'r.pdf'}", "--no-pdf-header-footer"
    )
    content = (folder / "r.pdf").read_bytes()
    assert content.startswith(b"%PDF-")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 12


# Copies.


@pytest.fixture(scope="module")
def shown_copies(augmented_dataset: Dataset) -> str:
    return page(augmented_dataset, utterances=["spk03/utt01.wav~music1"])


def captions(text: str) -> list[str]:
    """What is said to have been done, of all pictures of the section on copies."""
    part = text.partition('<section id="copies"')[2].partition("</section>")[0]
    return re.findall(r"<figcaption><strong>([^<]*)</strong>", part)


def test_an_utterance_stands_beside_its_copies(shown_copies: str, augmented_dataset: Dataset) -> None:
    found = check_page(shown_copies, copies=True)
    told = captions(shown_copies)
    assert len(told) == 2 * 8
    pattern = (
        r"Clean\|Noise, \d+\.\d dB below the speech\|Music, \d+\.\d dB below the speech\|Babble, 1\d\.\d dB below the "
        r"speech\|A room\|A codec\|A codec\|At 0\.9 times its speed"
    )
    assert re.fullmatch(pattern, "|".join(told[:8])) and re.fullmatch(pattern, "|".join(told[8:]))
    names = re.findall(r'<h3><bdi class="id">([^<]*)</bdi>', shown_copies)
    assert names[0] == "spk03/utt01.wav" and len(names) == 2 and "~" not in names[1]
    rows = [row for shard in range(2) for row in augmented_dataset.shard_index("train", shard).to_pylist()]
    (music,) = [row["snr_db"] for row in rows if row["utterance_id"] == "spk03/utt01.wav~music1"]
    assert told[2] == f"Music, {music:.1f} dB below the speech"
    assert len([a for a in found.of("div") if a.get("class") == "plot"]) == len(found.of("svg")) == 7 + 7 + 16 + 1


def test_copies_by_kind_ratio_and_speed(shown_copies: str, augmented_dataset: Dataset) -> None:
    text = section(shown_copies, "copies")
    rows = [row for shard in range(2) for row in augmented_dataset.shard_index("train", shard).to_pylist()]
    noise = [row["snr_db"] for row in rows if row["augmentation"].endswith("noise")]
    assert re.search(rf" noise 22 22 0 to 15 \d+\.\d {min(noise):.1f} to {max(noise):.1f} 4 ", text)
    assert " room 22 22 2 " in text and " codec 44 44 Copies have the label" in text
    assert re.search(r" 0\.9 11 22 \d\.\d\d ", text)
    assert "1 recording(s) could not be used" in text and "noise0.wav : not_audio" in text


def test_other_figures_are_of_clean_speech(shown_copies: str, augmented_dataset: Dataset) -> None:
    tiles = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", shown_copies))
    assert (tiles["speakers"], tiles["utterances"], tiles["rows left out"]) == ("12", "24", "0")
    sizes, hours = section(shown_copies, "sizes"), augmented_dataset.metadata["splits"]["train"]["seconds"] / 3600
    assert " train synth 11 22 22 " in sizes and " all 12 24 24 0.01 " in sizes
    assert f" with copies and other speeds 23 46 310 {hours:.2f} " in sizes
    assert "Of 12 speakers." in section(shown_copies, "suspects")
    assert "of 24 records that were read" in section(shown_copies, "levels")
    for name in ("voice", "durations", "levels", "suspects"):
        assert "Of clean speech at its own speed, without copies." in section(shown_copies, name)
    assert "Of 24 manifest rows, and of 22 made of them at other speeds, 46 were written." in section(
        shown_copies, "ledger"
    )
    assert " train crops 22 " in section(shown_copies, "crops")  # as the loader takes them


def test_without_augmentation_no_word_of_it(shown: str) -> None:
    assert "copies" not in re.sub(r"<style>.*?</style>", "", shown, flags=re.DOTALL).replace("copies and trained", "")


@pytest.mark.parametrize(
    ("text", "recipe"),
    [
        ("speed: [1.1]", Recipe()),
        ("noise: {manifest: sounds.csv, subset: noise, snr_db: -3}", Recipe().replace(features="raw")),
        ("codec: {}\nsplits: [valid]", Recipe().replace(features="mfcc")),
        ("room: {manifest: rooms.csv, copies: 3}", PRESETS["seed"].replace(voice="none")),
    ],
    ids=["speed", "raw", "no split", "windows"],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_every_form_of_augmentation(text: str, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_page, "SHOWN", 1)
    dataset = augmented.small(tmp_path, text, speakers=3, recipe=recipe)
    found = page(dataset)
    check_page(found, copies=True)
    expected = {
        "speed": ["Clean", "At 1.1 times its speed"] * 2,
        "noise": ["Clean", "Noise, \u22123.0 dB below the speech"] * 2,
        "codec": [],
        "room": ["Clean", "A room", "A room"] * 2,
    }
    assert captions(found) == expected[text.partition(":")[0]]
    assert ("No utterance of valid is there." in found) == text.startswith("codec")


def test_copies_on_a_phone(browser: tuple[Path, Path], shown_copies: str) -> None:
    chromium, folder = browser
    (folder / "f.html").write_text(frame(shown_copies, 390), encoding="utf-8")
    options = ("--window-size=800,900", f"--screenshot={folder / 'f.png'}", "--dump-dom", "--virtual-time-budget=5000")
    match = re.search(r"<title>(\d+)\|", browse(chromium, folder, (folder / "f.html").as_uri(), *options))
    assert match is not None and int(match[1]) <= 390
