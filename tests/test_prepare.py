"""The programs that prepare training data: what is in the result, whatever stops them, whoever reads it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import psutil
import pytest
from PIL import Image, ImageDraw

from limelight.guidance.errors import LimelightError
from limelight.tools.console import StepFailed
from limelight.training import prepare_local_control, prepare_saliency, prepare_salient_object
from limelight.training.samples import check, samples

SIDE = 64


def write_pictures(folder: Path, count: int, side: int = SIDE, captions: bool = True) -> Path:
    """Pictures with a disc each, of several aspects, in two folders; masks of the discs in ``folder``/masks."""
    rng = np.random.default_rng(0)
    for i in range(count):
        width, height = [(side, side), (side * 3 // 2, side), (side, side * 2)][i % 3]
        name = f"{'ab'[i % 2]}/picture.{i}"
        image = Image.fromarray(rng.integers(60, 120, (height, width, 3), dtype=np.uint8))
        mask = Image.new("L", image.size)
        x, y = rng.integers(4, side // 2, 2).tolist()
        disc = (x, y, x + side // 3, y + side // 3)
        ImageDraw.Draw(image).ellipse(disc, fill=(250, 20 * (i % 12), 0))
        ImageDraw.Draw(mask).ellipse(disc, fill=255)
        for place, what in ((folder / "pictures" / f"{name}.png", image), (folder / "masks" / f"{name}.gif", mask)):
            place.parent.mkdir(parents=True, exist_ok=True)
            what.save(place)
        if captions:
            (folder / "pictures" / f"{name}.txt").write_text(f" disc {i}\n")
    return folder


@pytest.fixture
def data(tmp_path) -> Path:
    return write_pictures(tmp_path, 7)


def run(program, data: Path, out: str, *further: object) -> Path:
    """Runs a program in this process; -> its folder."""
    words = ["--images", data / "pictures", "--out", data / out, "--resolution", SIDE, "--device", "cpu", "--shard", 2]
    words += ["--masks", data / "masks"] if program is prepare_salient_object else []
    program.run([str(word) for word in [*words, *further]])
    return data / out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


PROGRAMS = {prepare_saliency: "saliency", prepare_salient_object: "mask", prepare_local_control: "hint"}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.NAME)
@pytest.mark.parametrize("form", ("imagefolder", "webdataset"))
def test_datasets_and_our_reader_read_the_result(data, program, form):
    folder, column = run(program, data, "out", "--form", form), PROGRAMS[program]
    ours = list(samples(folder, [column]))
    place = {"data_dir": str(folder)} if form == "imagefolder" else {"data_files": f"{folder}/*.tar"}
    theirs = datasets.load_dataset(form, split="train", cache_dir=str(data / "cache"), **place)
    streamed = list(datasets.load_dataset(form, split="train", streaming=True, **place))
    assert len(ours) == len(theirs) == len(streamed) >= 7
    names = ("image", column, "text") if form == "imagefolder" else ("jpg", f"{column}.png", "txt")
    for one, same, also in zip(ours, theirs, streamed, strict=True):
        assert one["text"] == same[names[2]] == also[names[2]] and one["text"].startswith("disc ")
        for name, its in zip(("image", column), names, strict=False):
            assert isinstance(same[its], Image.Image)
            values = [np.asarray(picture.convert("RGB")) for picture in (one[name], same[its], also[its])]
            assert np.array_equal(values[0], values[1]) and np.array_equal(values[0], values[2])
        assert one["image"].size == one[column].size == (SIDE, SIDE)


def kill_all(process: subprocess.Popen) -> None:
    """The launcher and its workers, which it has put into sessions of their own: they would go on without it."""
    family = []
    if process.poll() is None:
        launcher = psutil.Process(process.pid)
        family = [launcher, *launcher.children(recursive=True)]
    for member in family:
        member.kill()
    psutil.wait_procs(family, timeout=20)
    process.wait()


def test_a_killed_run_of_two_processes_goes_on_to_the_same_result(tmp_path):
    data = write_pictures(tmp_path, 60)
    whole = run(prepare_local_control, data, "whole")
    options = ["--images", "pictures", "--out", "killed", "--resolution", str(SIDE), "--device", "cpu", "--shard", "2"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [*launch, "-m", "limelight.training.prepare_local_control", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=data, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            records, limit = data / "killed" / ".limelight", time.monotonic() + 120
            while True:
                done = {int(path.stem) for path in records.glob("0*.json")}
                if {0, 1} <= {number % 2 for number in done} or process.poll() is not None:
                    break
                assert time.monotonic() < limit, (tmp_path / "log").read_text()
                time.sleep(0.002)
        finally:
            kill_all(process)
    assert 2 <= len(list(records.glob("0*.json"))) < 30, (tmp_path / "log").read_text()
    with pytest.raises(LimelightError, match="not finished"):
        check(data / "killed", ["hint"])
    kept = {path: path.stat().st_mtime_ns for path in (data / "killed").glob("0*/*")}
    assert contents(run(prepare_local_control, data, "killed")) == contents(whole)
    assert any(path.stat().st_mtime_ns == when for path, when in kept.items())  # it was not all done again


@pytest.mark.parametrize("form", ("imagefolder", "webdataset"))
def test_what_is_deleted_or_cut_off_is_made_again(data, form):
    folder = run(prepare_salient_object, data, "out", "--form", form)
    before = contents(folder)
    first, second = sorted(path for path in folder.iterdir() if path.name.startswith("0000"))[:2]
    if form == "imagefolder":
        shutil.rmtree(first)
        next(second.glob("*.jpg")).unlink()
        (folder / "metadata.jsonl").unlink()
    else:
        first.unlink()
        second.write_bytes(second.read_bytes()[:700])
    (folder / ".limelight" / "00002.json").write_text('{"samp')
    (folder / ".limelight" / "00003.partial").mkdir()
    for name in (".limelight/00001.json.7.partial", ".limelight/finished.json.7.partial", "metadata.jsonl.7.partial"):
        (folder / name).write_text("of a process that was killed")
    run(prepare_salient_object, data, "out", "--form", form)
    assert contents(folder) == before


def test_a_full_disk_stops_the_run_with_the_name_and_nothing_half_written(data):
    """A limit on the size of files stands for the disk: the system refuses to write in the same way."""
    options = "--form", "webdataset", "--crops", "whole"
    whole = contents(run(prepare_local_control, data, "whole", *options))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    least = min(len(content) for name, content in whole.items() if name.endswith(".tar"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (least + 1, before[1]))
    try:
        with pytest.raises(StepFailed, match=r"out/.*0000\d.*: File too large.*same command"):
            run(prepare_local_control, data, "out", *options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    left = contents(data / "out")
    assert all(whole[name] == content for name, content in left.items() if name.endswith(".tar"))
    assert not [name for name in left if "partial" in name or "finished" in name]
    assert contents(run(prepare_local_control, data, "out", *options)) == whole


def test_broken_pictures_are_named_counted_and_left_out(data, capsys):
    places = data / "pictures" / "a", data / "pictures" / "b"
    (places[0] / "picture.0.png").write_bytes(b"no picture")
    (places[0] / "picture.2.png").write_bytes((places[1] / "picture.1.png").read_bytes()[:2000])
    (places[1] / "picture.1.txt").write_text(" \n")
    Image.new("RGB", (SIDE, SIDE)).save(places[1] / "picture.3.png")
    Image.new("RGB", (10, 10), "red").save(places[1] / "picture.5.png")
    folder = run(prepare_saliency, data, "out")
    told = (folder / ".limelight" / "problems.txt").read_text().splitlines()
    assert sorted(line.split(":")[0].split(" (")[0] for line in told) == [
        *(f"a/picture.{n}.png" for n in (0, 2)),
        *(f"b/picture.{n}.png" for n in (1, 1, 3, 5)),
    ]
    assert json.loads((folder / ".limelight" / "finished.json").read_text())["problems"] == {
        "cannot be read": 2,
        "empty caption": 2,
        "nearly black": 1,
        "too small": 1,
    }
    output = capsys.readouterr()
    assert "2 cannot be read" in output.out and "a/picture.0.png: cannot be read" in output.err
    assert {one["text"] for one in samples(folder, ["saliency"])} == {"disc 4", "disc 6"}


def test_wrong_folders_and_settings_are_told_before_anything_is_made(data):
    folder = run(prepare_local_control, data, "out")
    before = contents(folder)
    with pytest.raises(LimelightError, match="begun with other settings.*low was 100.* and is 50"):
        run(prepare_local_control, data, "out", "--low", 50)
    (data / "pictures" / "c.png").write_bytes((data / "pictures" / "a" / "picture.0.png").read_bytes())
    with pytest.raises(LimelightError, match="pictures was 7 and is 8"):
        run(prepare_local_control, data, "out")
    assert contents(folder) == before
    with pytest.raises(LimelightError, match="found other files"):
        run(prepare_local_control, data, "masks")
    with pytest.raises(LimelightError, match="--out .*it is in the folder of --images"):
        run(prepare_local_control, data, "pictures/out")
    with pytest.raises(LimelightError, match="--images .*found no pictures"):
        run(
            prepare_local_control, write_pictures(data / "none", 0), "out", "--images", str(data / "out" / ".limelight")
        )
    with pytest.raises(StepFailed, match="no picture could be used"):
        run(prepare_local_control, write_pictures(data / "mute", 2, captions=False), "out")
    with pytest.raises(LimelightError, match="--captions nowhere.json: cannot be read"):
        run(prepare_local_control, data / "mute", "mended", "--captions", "nowhere.json")
    with pytest.raises(StepFailed, match="no picture could be used"):  # nothing was made: other options may come
        run(prepare_local_control, data / "mute", "mended")
    silent = run(prepare_local_control, data / "mute", "silent", "--no_captions")
    assert [one["text"] for one in samples(silent, ["hint"], caption=None)] == ["", ""]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.NAME)
def test_help_is_there(program, capsys):
    with pytest.raises(SystemExit) as ended:
        program.run(["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and "accelerate launch -m limelight.training." + program.NAME in shown
