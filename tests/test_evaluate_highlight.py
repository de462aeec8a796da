"""The PASCAL-Scribble evaluation on a small VOC2012 folder made from shapeworld, with shapeworld as the model."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from voc_folder import NAMES, TEMPLATE, Photo, write_clip, write_folder, write_segmenter

from limelight.bench.workflow import load_workflow, on_shapeworld
from limelight.guidance.regions import voc
from limelight.guidance.regions.letterbox import Letterbox
from limelight.shapeworld.scenes import BACKGROUNDS
from limelight.tools.console import StepFailed
from limelight.tools.in_process import ROOT
from limelight.tools.in_process_host import InProcessHost
from limelight.training.evaluate_highlight import run
from limelight.training.evaluate_highlight_data import read_items
from limelight.training.evaluate_highlight_images import read_records

SIDE = 128
STEPS = "KSampler.steps=2"


@pytest.fixture(scope="module")
def data(tmp_path_factory, host) -> Path:
    """VOC2012/, segmenter.pt, clip/ and workflow.json (shapeworld's loader in place of the checkpoint's)."""
    from limelight.tools.torchvision_ops import define_missing_operators

    define_missing_operators()
    folder = tmp_path_factory.mktemp("evaluate")
    write_folder(folder / "VOC2012")
    write_segmenter(folder / "segmenter.pt")
    write_clip(folder / "clip", host.path / "comfy" / "sd1_tokenizer")
    workflow = on_shapeworld(load_workflow(ROOT / "workflows" / "highlight_basic.json"))
    (folder / "workflow.json").write_text(json.dumps(workflow), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Photo]:
    return write_folder(tmp_path_factory.mktemp("photos") / "VOC2012")


@pytest.fixture
def command(data, tmp_path):
    """-> function (*further arguments, out="run"): runs the program; -> its folder."""

    def call(*further: str, out: str = "run") -> Path:
        words = ["--voc", data / "VOC2012", "--out", tmp_path / out, "--size", SIDE, SIDE, "--line-width", 6]
        words += ["--workflow", data / "workflow.json", "--packs", ROOT / "shapeworld" / "nodes", "--set", STEPS]
        words += ["--template", TEMPLATE, "--segmenter", data / "segmenter.pt", "--clip", data / "clip"]
        run([str(word) for word in [*words, "--device", "cpu", *further]])
        return tmp_path / out

    return call


def rows_of(out: Path) -> dict[str, dict]:
    table = json.loads((out / "table.json").read_text())
    assert table["name"] == "evaluate-highlight"
    return {row["row"]: row for row in table["rows"]}


def pixels(out: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.asarray(Image.open(path)) for path in sorted((out / "images").glob("*.png"))}


def place(out: Path, photos: list[Photo], stretched: bool = False) -> None:
    """Puts the photos themselves, fitted into the frame, where a run would have left its images."""
    (out / "images").mkdir(parents=True)
    for one in photos:
        height, width = one.labels.shape
        box = Letterbox((width, height), (SIDE, SIDE))
        fitted = np.stack([box.labels(one.pixels[..., c], BACKGROUNDS["gray"][c]) for c in range(3)], -1)
        image = Image.fromarray(one.pixels).resize((SIDE, SIDE)) if stretched else Image.fromarray(fitted)
        image.save(out / "images" / f"{one.name}.png")
        record = {"name": one.name, "prompt": "", "seed": 0, "image": f"images/{one.name}.png"}
        with (out / "items.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")


def test_perfect_images_score_one_whatever_their_shape(command, photos, tmp_path):
    """Label map and scribbles lie in one letterbox: the published evaluation stretched the one and not the other."""
    place(tmp_path / "run", photos)
    row = rows_of(command("--names", *NAMES))["run"]
    assert row["miou"] == 1 and row["scribble_ratio"] == 1
    assert (row["items"], row["failed"]) == (len(photos), 0)
    place(tmp_path / "stretched", photos, stretched=True)
    stretched = rows_of(command("--names", *NAMES, out="stretched"))["stretched"]
    assert stretched["miou"] < 0.85


def test_scribbles_of_what_voc_has_no_class_for(data, capsys):
    items = read_items(data / "VOC2012", (SIDE, SIDE), TEMPLATE, {})
    assert "left out: scribbles of grass, which are no classes of VOC" in capsys.readouterr().out
    assert len(items) == 5 and all(len(item.classes) == 2 for item in items)
    assert len(read_items(data / "VOC2012", (SIDE, SIDE), TEMPLATE, {}, count=2)) == 2


def test_failures_count_as_nothing(command, photos, tmp_path):
    place(tmp_path / "run", photos)
    lost, *others = photos
    with (tmp_path / "run" / "items.jsonl").open("a") as file:
        file.write(json.dumps({"name": lost.name, "error": "out of memory"}) + "\n")
    rows = rows_of(command("--names", *NAMES))
    row = rows["run"]
    assert (row["items"], row["failed"]) == (len(photos), 1)
    assert row["scribble_ratio"] == pytest.approx(len(others) / len(photos))
    cells = {one.name: np.bincount(fitted(one).ravel(), minlength=256)[:21] for one in photos}
    total, hits = sum(cells.values()), sum(cells[one.name] for one in others)
    assert row["miou"] == pytest.approx(np.nanmean(np.where(total > 0, hits / np.maximum(total, 1), np.nan)))
    assert {name: rows[name]["miou"] for name in voc.CLASSES if name in rows} == pytest.approx(
        {name: hits[i] / total[i] for i, name in enumerate(voc.CLASSES) if total[i]}
    )
    singly = [json.loads(line) for line in (tmp_path / "run" / "scores.jsonl").read_text().splitlines()]
    assert singly[0] == {"name": lost.name, "t2i_sim": 0.0, "scribble_ratio": 0.0, "failed": True}
    assert row["t2i_sim"] == pytest.approx(np.mean([one["t2i_sim"] for one in singly]))


def fitted(one: Photo) -> np.ndarray:
    height, width = one.labels.shape
    return Letterbox((width, height), (SIDE, SIDE)).labels(one.labels, voc.VOID)


def test_a_run_that_is_stopped_goes_on(command, monkeypatch):
    """Stopped between images, then a line cut off and an image lost: the same images and scores in the end."""
    whole = command("--names", *NAMES, out="whole")
    made = []
    run_workflow = InProcessHost.run_workflow

    def counted(self, graph):
        made.append(graph)
        if len(made) == 4:
            raise KeyboardInterrupt
        return run_workflow(self, graph)

    monkeypatch.setattr(InProcessHost, "run_workflow", counted)
    with pytest.raises(KeyboardInterrupt):
        command("--names", *NAMES)
    assert len(made) == 4
    out = command("--names", *NAMES)
    assert len(made) == 6, "the three that were there are not made again"
    lines = (out / "items.jsonl").read_text().splitlines()
    assert len(lines) == 5
    (out / "items.jsonl").write_text("\n".join(lines)[:-20])
    (out / "images" / f"{json.loads(lines[0])['name']}.png").unlink()
    command("--names", *NAMES)
    assert len(made) == 8
    command("--names", *NAMES)
    assert len(made) == 8, "nothing is left to do"

    first, second = pixels(whole), pixels(out)
    assert list(first) == list(second) and all(np.array_equal(first[name], second[name]) for name in first)
    assert len({image.tobytes() for image in first.values()}) == len(first), "each item has its own image"
    rows = rows_of(whole), rows_of(out)
    assert rows[0].pop("whole") | {"row": "run"} == rows[1].pop("run") and rows[0] == rows[1]
    assert json.loads((out / "items.jsonl").read_text().splitlines()[0])["prompt"].endswith("on a gray background")

    with pytest.raises(StepFailed, match=r"holds images of other settings \(seed\)"):
        command("--names", *NAMES, "--seed", "1")
    with pytest.raises(StepFailed, match=r"holds images of other settings \(names, unguided\)"):
        command("--unguided")


def test_through_a_running_host(command, server, photos):
    """The same images as in process; what fails on the host is written down and counted; a dead host ends the run."""
    here = command("--names", *NAMES, "--count", "2", "--images-only", out="here")
    there = command("--names", *NAMES, "--count", "2", "--host", server.url, out="there")
    assert list(pixels(here)) == list(pixels(there)) and len(pixels(here)) == 2
    for name, image in pixels(here).items():
        assert image.shape == (SIDE, SIDE, 3) and image.std() > 0
        assert np.abs(image.astype(int) - pixels(there)[name]).mean() < 1, "threads may differ in the last bits"
    row = rows_of(there)["there"]
    assert (row["items"], row["failed"]) == (2, 0) and 0 <= row["miou"] <= 1 and -1 <= row["t2i_sim"] <= 1

    # the first "ball" of the prompt is that of "blue ball": Highlight Prompt refuses two phrases that share a word
    both = [one.name for one in photos if [tag for tag, _ in one.lines[:2]] == ["person", "tvmonitor"]]
    assert both and len(both) < len(photos)
    clash = ["bird=ring", "boat=disc", "person=blue ball", "tvmonitor=ball"]
    out = command("--names", *clash, "--host", server.url, out="clash")
    records = read_records(out)
    failed = [name for name, record in records.items() if "error" in record]
    assert failed == both and "share" in records[failed[0]]["error"]
    assert rows_of(out)["clash"]["failed"] == len(failed)
    assert not read_records(out, retry_failed=True).keys() & set(failed)

    with pytest.raises(StepFailed, match="no ComfyUI answers"):
        command("--host", "http://127.0.0.1:9", out="nobody")


def test_a_wrong_set_up_ends_early(command, data):
    with pytest.raises(StepFailed, match="the host refused the workflow"):
        command("--set", "KSampler.sampler_name=plms", out="corrected")
    made = command("--count", "1", "--images-only", out="corrected")
    assert len(pixels(made)) == 1, "nothing was made, so the settings may change"
    # the first mention of every name is at the beginning, so that no two highlights of an item can be told apart
    alike = [f"{name}={'x ' * i}" for i, name in enumerate(("bird", "boat", "person", "tvmonitor"), 1)]
    with pytest.raises(StepFailed, match=r"the first 5 items all failed(.|\n)*share(.|\n)*--retry-failed"):
        command("--names", *alike, "--template", "x x x x {objects}", out="hopeless")


def broken(data: Path, tmp_path: Path, change) -> Path:
    folder = tmp_path / "VOC2012"
    shutil.copytree(data / "VOC2012", folder)
    change(folder)
    return folder


def one_xml(folder: Path) -> Path:
    return sorted((folder / "Scribbles").iterdir())[0]


BROKEN = {
    "no list": (lambda f: shutil.rmtree(f / "ImageSets"), r"trainval.txt is missing(.|\n)*host.robots.ox.ac.uk"),
    "no masks": (lambda f: shutil.rmtree(f / "SegmentationClass"), "SegmentationClass is missing"),
    "no scribbles": (lambda f: shutil.rmtree(f / "Scribbles"), r"Scribbles is missing(.|\n)*jifengdai.org"),
    "empty": (lambda f: [path.unlink() for path in (f / "Scribbles").iterdir()], r"no picture of (.|\n)*jifengdai.org"),
    "damaged": (lambda f: one_xml(f).write_text("<annotation>"), "2008_000001.xml: xml: not readable as XML"),
    "other classes": (
        lambda f: [
            p.write_text(re.sub("<tag>.*</tag>", "<tag>sky</tag>", p.read_text())) for p in one_xml(f).parent.iterdir()
        ],
        "no picture of ",
    ),
    "colour masks": (
        lambda f: [Image.open(p).convert("RGB").save(p) for p in (f / "SegmentationClass").iterdir()],
        "found an image of the kind RGB; expected VOC's own indexed PNG",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_data(command, data, tmp_path, name):
    change, message = BROKEN[name]
    with pytest.raises(StepFailed, match=message):
        command("--voc", str(broken(data, tmp_path, change)))


def test_wrong_class_ids(command, data, photos, tmp_path):
    place(tmp_path / "run", photos)

    def change(folder: Path) -> None:
        path = folder / "SegmentationClass" / f"{photos[0].name}.png"
        Image.fromarray(np.full(photos[0].labels.shape, 99, np.uint8)).save(path)

    with pytest.raises(StepFailed, match="found the class id 99; expected 0 to 20 or 255"):
        command("--voc", str(broken(data, tmp_path, change)))


def test_bad_options(command, data, tmp_path):
    for words, message in (
        (["--segmenter", str(tmp_path / "none.pt")], r"--segmenter .*no such file(.|\n)*deeplabv3_resnet101"),
        (["--segmenter", str(data / "workflow.json")], r"not a TorchScript file"),
        (["--segmenter", str(data / "clip")], r"transformers cannot load it"),
        (["--clip", str(tmp_path)], r"--clip .*no model folder(.|\n)*clip-vit-large-patch14"),
        (["--names", "unicorn=horse"], "VOC has no class unicorn"),
        (["--names", "dog"], "expected CLASS=WORDS"),
        (["--size", "100", "100"], "expected multiples of 8"),
        (["--workflow", str(tmp_path / "none.json")], r"--workflow .*cannot be read"),
        (["--template", "a photo"], r"template: found 'a photo'"),
        (
            ["--set", "KSampler.stops=2"],
            r"--set KSampler.stops=2: expected NODE.INPUT=VALUE with one of .*KSampler.steps",
        ),
    ):
        with pytest.raises(StepFailed, match=message):
            command(*words)
    with pytest.raises(StepFailed, match=r"--segmenter is missing \(or --images-only(.|\n)*torch.jit"):
        run(["--voc", "x", "--out", "y"])
