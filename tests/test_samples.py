"""Reading training data: both forms, shares, broken samples, errors before the first one."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from limelight.guidance.errors import LimelightError
from limelight.training import pictures
from limelight.training.problems import Problems
from limelight.training.samples import check, samples

SIZE = (20, 16)


def picture(number: int, size=SIZE, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, (number, 2 * number, 0) if mode == "RGB" else number)


def encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def write_folder(folder: Path, numbers, parts: int = 1) -> Path:
    """An imagefolder with a metadata file a part, in folders of their own if there are several."""
    for part in range(parts):
        place = folder / f"part{part}" if parts > 1 else folder
        place.mkdir(parents=True)
        rows = []
        for n in list(numbers)[part::parts]:
            picture(n).save(place / f"{n:03}.png")
            picture(n, mode="L").save(place / f"{n:03}.saliency.png")
            rows.append(
                {"file_name": f"{n:03}.png", "text": f"number {n}", "saliency_file_name": f"{n:03}.saliency.png"}
            )
        (place / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_tars(folder: Path, numbers, parts: int = 1) -> Path:
    folder.mkdir(parents=True)
    for part in range(parts):
        with tarfile.open(folder / f"{part:05}.tar", "w") as archive:
            for n in list(numbers)[part::parts]:
                files = {"png": encoded(picture(n)), "saliency.png": encoded(picture(n, mode="L"))}
                for ending, content in (files | {"txt": f"number {n}".encode()}).items():
                    entry = tarfile.TarInfo(f"{n:03}.{ending}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    return folder


WRITERS = {"imagefolder": write_folder, "webdataset": write_tars}


def number(sample) -> int:
    """What was written: all parts of a sample must agree on it."""
    (found,) = {
        sample["image"].getpixel((3, 3))[0],
        sample["saliency"].getpixel((3, 3)),
        int(sample["text"].split()[1]),
    }
    return found


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("parts", (1, 3))
def test_every_form_gives_the_same_samples_always_in_order(tmp_path, form, parts):
    source = WRITERS[form](tmp_path / "data", range(1, 8), parts)
    read = list(samples(source, ["saliency"]))
    assert [number(one) for one in read] == [n for part in range(parts) for n in list(range(1, 8))[part::parts]]
    assert all(one["image"].mode == "RGB" and one["image"].size == one["saliency"].size == SIZE for one in read)
    assert len({one["key"] for one in read}) == 7 and [one["row"] for one in read] == list(range(7))
    again = [(one["key"], number(one)) for one in samples(source, ["saliency"], threads=3)]
    assert again == [(one["key"], number(one)) for one in read]


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize(("parts", "world"), ((1, 3), (3, 2), (3, 5)))
def test_processes_share_the_samples_and_go_on_where_they_stopped(tmp_path, form, parts, world):
    source = WRITERS[form](tmp_path / "data", range(1, 12), parts)
    shares = [list(samples(source, ["saliency"], rank=rank, world=world)) for rank in range(world)]
    assert sorted(number(one) for share in shares for one in share) == list(range(1, 12))
    if parts == 1:
        assert {len(share) for share in shares} == {3, 4}
    rest = list(samples(source, ["saliency"], rank=1, world=world, skip=shares[1][0]["row"] + 1))
    assert [one["key"] for one in rest] == [one["key"] for one in shares[1][1:]]


def test_workers_of_a_loader_share_the_samples_too(tmp_path):
    source = write_folder(tmp_path / "data", range(1, 8))

    class Numbers(torch.utils.data.IterableDataset):
        def __iter__(self):
            return map(number, samples(source, ["saliency"]))

    found = [int(n) for n in torch.utils.data.DataLoader(Numbers(), batch_size=None, num_workers=2)]
    assert sorted(found) == list(range(1, 8))


def test_patterns_and_files_are_sources(tmp_path):
    tars, folder = write_tars(tmp_path / "tars", range(1, 5), 2), write_folder(tmp_path / "folder", range(1, 5), 2)
    for source in (f"{tars}/*.tar", f"file://{tars}/*.tar", f"{folder}/*/metadata.jsonl"):
        assert [number(one) for one in samples(source, ["saliency"])] == [1, 3, 2, 4]
    assert [number(one) for one in samples(tars / "00001.tar", ["saliency"])] == [2, 4]


def test_broken_samples_are_named_counted_and_left_out(tmp_path, capsys):
    source = write_folder(tmp_path / "data", range(1, 9))
    (source / "001.png").unlink()
    (source / "002.png").write_bytes(b"no picture")
    (source / "003.png").write_bytes(encoded(Image.effect_noise((64, 64), 50))[:900])
    (source / "004.saliency.png").unlink()
    picture(5, (20, 20), "L").save(source / "005.saliency.png")
    picture(6, (40, 32), "L").save(source / "006.saliency.png")  # only larger
    text = (source / "metadata.jsonl").read_text().replace("number 7", " ")
    (source / "metadata.jsonl").write_text(text)
    report = Problems()
    kept = list(samples(source, ["saliency"], on_problem=report))
    assert [number(one) for one in kept] == [6, 8] and kept[0]["saliency"].size == SIZE
    assert [name for name, _ in report.told] == [
        "001.png",
        "002.png",
        "003.png",
        "004.png (saliency: 004.saliency.png)",
        "005.png (saliency: 005.saliency.png)",
        "007.png",
    ]
    assert "20x20" in report.told[4][1] and "truncated" in report.told[2][1]
    assert report.summary().startswith("6 left out: ") and "1 empty caption" in report.summary()
    assert "007.png: empty caption" in capsys.readouterr().err
    assert len(list(samples(source, caption=None, on_problem=report))) == 5  # no captions are asked for


def test_a_missing_column_is_said_before_training(tmp_path):
    folder, tars = write_folder(tmp_path / "folder", [1]), write_tars(tmp_path / "tars", [1])
    check(folder, ["saliency"])
    check(tars, ["saliency"])
    with pytest.raises(LimelightError, match="'mask' is missing. Found saliency, text; expected mask_file_name"):
        check(folder, ["mask"])
    with pytest.raises(LimelightError, match=r"'mask' is missing. Found .*saliency.*; expected files KEY.mask.png"):
        check(tars, ["mask"])
    with pytest.raises(LimelightError, match="'prompt' is missing"):
        check(folder, caption="prompt")


def test_sources_that_are_none(tmp_path):
    with pytest.raises(LimelightError, match="no such folder"):
        check(tmp_path / "nowhere")
    with pytest.raises(LimelightError, match="found nothing"):
        check(tmp_path)
    write_tars(tmp_path / "both" / "a", [1]), write_folder(tmp_path / "both" / "b", [1])
    with pytest.raises(LimelightError, match="not both"):
        check(tmp_path / "both")
    folder = write_folder(tmp_path / "unfinished", [1])
    (folder / ".limelight").mkdir()
    with pytest.raises(LimelightError, match="not finished"):
        check(folder)


def test_a_shard_that_is_cut_off_is_named(tmp_path):
    tars = write_tars(tmp_path / "tars", range(1, 9), 2)
    whole = (tars / "00001.tar").read_bytes()
    (tars / "00001.tar").write_bytes(whole[: len(whole) // 4])
    read = []
    with pytest.raises(LimelightError, match="00001.tar: cannot be read"):
        read.extend(samples(tars, ["saliency"]))


def test_pictures_of_any_kind_become_plain_ones():
    deep = Image.fromarray(np.full((4, 4), 257 * 100, np.uint16))
    assert pictures.plain(deep).getpixel((0, 0)) == 100
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert pictures.rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    indexed = Image.new("RGB", (4, 4), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert pictures.plain(indexed).getpixel((0, 0)) == (10, 200, 30)
    assert pictures.plain(Image.new("1", (4, 4), 1)).getextrema() == (255, 255)
    turned = Image.new("RGB", (6, 4))
    turned.getexif()[0x0112] = 6
    stream = io.BytesIO()
    turned.save(stream, "JPEG", exif=turned.getexif())
    assert pictures.read(stream.getvalue()).size == (4, 6)
