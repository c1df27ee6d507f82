"""What a model sees of an image file is what a person sees of it."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fs_fedmllm.data import images
from fs_fedmllm.data.check import inspect
from fs_fedmllm.data.images import look_at_image, open_image
from fs_fedmllm.errors import DataError


def shades(path: Path) -> np.ndarray:
    picture = np.asarray(open_image(str(path)))
    assert (picture[..., 0] == picture[..., 1]).all() and (picture[..., 0] == picture[..., 2]).all()
    return picture[..., 0]


def ramp(top: int, dtype: str = "uint16") -> np.ndarray:
    return np.linspace(0, top, 4096).astype(dtype).reshape(64, 64)


@pytest.mark.parametrize("top", [255, 1023, 4095, 16383, 65535])
@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_deep_grey_keeps_its_levels(tmp_path, top, ending):
    Image.fromarray(ramp(top)).save(tmp_path / f"x.{ending}")
    seen = shades(tmp_path / f"x.{ending}")
    assert (seen.min(), seen.max()) == (0, 255) and len(np.unique(seen)) == 256
    assert (np.diff(seen.ravel().astype(int)) >= 0).all()


def test_a_depth_is_not_the_largest_value(tmp_path):
    """Two images of one detector are scaled alike, though one is darker."""
    Image.fromarray(np.array([[0, 2048]], dtype="uint16")).save(tmp_path / "dark.png")
    Image.fromarray(np.array([[2048, 4095]], dtype="uint16")).save(tmp_path / "bright.png")
    assert shades(tmp_path / "dark.png")[0, 1] == shades(tmp_path / "bright.png")[0, 0] == 128


def test_a_declared_largest_value_counts(tmp_path):
    grey = np.array([[0, 1000, 2000]], dtype="uint16")
    Image.fromarray(grey).save(tmp_path / "x.tif", tiffinfo={281: 2000})
    assert shades(tmp_path / "x.tif").tolist() == [[0, 128, 255]]
    (tmp_path / "x.pgm").write_bytes(b"P5 3 1 2000\n" + grey.astype(">u2").tobytes())
    assert shades(tmp_path / "x.pgm").tolist() == [[0, 128, 255]]


def test_values_without_a_depth_are_spread(tmp_path):
    Image.fromarray(np.linspace(-1000, 3000, 1024).astype("int32").reshape(32, 32)).save(tmp_path / "ct.tif")
    seen = shades(tmp_path / "ct.tif")
    assert (seen.min(), seen.max()) == (0, 255) and len(np.unique(seen)) == 256
    Image.fromarray(np.array([[-3.0, 1.0]], dtype="float32")).save(tmp_path / "f.tif")
    assert shades(tmp_path / "f.tif").tolist() == [[0, 255]]
    Image.fromarray(np.array([[0.25, 0.5]], dtype="float32")).save(tmp_path / "share.tif")
    assert shades(tmp_path / "share.tif").tolist() == [[64, 128]]
    Image.fromarray(np.full((2, 2), -7, dtype="int32")).save(tmp_path / "flat.tif")
    assert shades(tmp_path / "flat.tif").tolist() == [[0, 0], [0, 0]]
    Image.fromarray(np.array([[np.nan, 0.5]], dtype="float32")).save(tmp_path / "nan.tif")
    with pytest.raises(DataError, match=r"nan\.tif cannot be used: some of its grey values are not finite"):
        open_image(str(tmp_path / "nan.tif"))


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_min_is_white(tmp_path, dtype):
    Image.fromarray(ramp(4095, dtype)).save(tmp_path / "black.tif")
    Image.fromarray(ramp(4095, dtype)).save(tmp_path / "white.tif", tiffinfo={262: 0})
    assert (shades(tmp_path / "white.tif") == 255 - shades(tmp_path / "black.tif")).all()


def ink(mode: str) -> Image.Image:
    """A black square on transparency, which is black underneath."""
    alpha = np.zeros((8, 8, 4), "uint8")
    alpha[2:6, 2:6, 3] = 255
    return Image.fromarray(alpha).convert(mode)


@pytest.mark.parametrize(("mode", "ending"), [("RGBA", "png"), ("LA", "png"), ("RGBA", "webp"), ("RGBA", "tif")])
def test_transparency_is_white(tmp_path, mode, ending):
    ink(mode).save(tmp_path / f"x.{ending}", **({"lossless": True} if ending == "webp" else {}))
    seen = shades(tmp_path / f"x.{ending}")
    assert seen[0, 0] == 255 and seen[4, 4] == 0


@pytest.mark.parametrize(("mode", "clear"), [("P", 0), ("P", b"\x00\xff"), ("L", 0), ("RGB", (0, 0, 0)), ("1", 0)])
def test_a_transparent_colour_is_white(tmp_path, mode, clear):
    image = Image.new(mode, (2, 1), 0)
    if mode == "P":
        image.putpalette([0, 0, 0, 90, 90, 90])
    image.putpixel((1, 0), {"P": 1, "RGB": (90, 90, 90), "1": 255}.get(mode, 90))
    image.save(tmp_path / "x.png", transparency=clear)
    assert shades(tmp_path / "x.png").tolist() == [[255, 255 if mode == "1" else 90]]
    Image.fromarray(np.array([[5, 4095]], dtype="uint16")).save(tmp_path / "deep.png", transparency=5)
    assert shades(tmp_path / "deep.png").tolist() == [[255, 255]]


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_camera_s_orientation_is_applied(tmp_path, ending, orientation):
    from PIL import ImageOps

    half = np.zeros((16, 32), "uint8")
    half[:8, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(half).save(tmp_path / f"x.{ending}", exif=exif)
    Image.fromarray(half).save(tmp_path / "reference.png", exif=exif)
    with Image.open(tmp_path / "reference.png") as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))[..., 0] > 128
    assert (shades(tmp_path / f"x.{ending}") > 128).tolist() == expected.tolist()
    assert expected.shape == ((16, 32) if orientation < 5 else (32, 16))


def test_damaged_exif_turns_nothing(tmp_path):
    Image.new("RGB", (4, 2), "red").save(tmp_path / "x.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert open_image(str(tmp_path / "x.jpg")).size == (4, 2)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK"])
def test_eight_bits_are_what_they_were(tmp_path, mode):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).convert(mode)
    for name in ("x.tif", "x.jpg") if mode == "CMYK" else ("x.png",):
        noise.save(tmp_path / name)
        with Image.open(tmp_path / name) as opened:
            assert open_image(str(tmp_path / name)).tobytes() == opened.convert("RGB").tobytes()


def deep_colour(path: Path, top: int) -> None:
    """A 16-bit colour PNG, which Pillow reads but cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + np.full((4, 3), top, dtype=">u2").tobytes() for _ in range(4))
    head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def test_deep_colours_are_read_or_refused(tmp_path):
    deep_colour(tmp_path / "x.png", 0x8000)
    assert shades(tmp_path / "x.png")[0, 0] == 0x80
    deep_colour(tmp_path / "x.png", 4095)
    with pytest.raises(DataError, match=r"16-bit colours use 14 bits or fewer.* Save it as 16-bit grey"):
        open_image(str(tmp_path / "x.png"))


@pytest.fixture
def framed(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for ending, more in (("gif", {}), ("tif", {}), ("png", {}), ("webp", {"lossless": True}), ("mpo", {})):
        frames[0].save(tmp_path / f"x.{ending}", save_all=True, append_images=frames[1:], **more)
    return tmp_path


@pytest.mark.parametrize("ending", ["gif", "tif", "png", "webp", "mpo"])
def test_the_first_frame_is_used_and_said(framed, ending, caplog, monkeypatch):
    monkeypatch.setattr(images, "_said", [])
    path = str(framed / f"x.{ending}")
    for _ in range(2):
        red, _, blue = open_image(path).getpixel((0, 0))
        assert red > 200 and blue < 50
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} holds several frames; the first is used, and so for every such file (data check counts them)."
    ]
    assert look_at_image(path).more_frames


def test_data_check_counts_frames_and_decodes_whole_files(framed, jsonl):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    (framed / "half.jpg").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    rows = [{"image": name, "question": "Is it?", "answer": "yes"} for name in ("x.gif", "x.tif", "x.gif", "half.jpg")]
    jsonl(framed / "train.jsonl", rows)
    jsonl(framed / "test.jsonl", rows[:1])
    errors, warnings = [], []
    for finding in inspect("own", framed, {"template": "medical"})[1]:
        {"error": errors, "warning": warnings}[finding.severity].append(finding)
    assert [(f.row, "truncated" in f.problem) for f in errors] == [("4", True)]
    assert any("2 image files hold several frames" in f.problem for f in warnings)


def test_an_image_that_is_too_long_for_the_family_is_named(tmp_path, picture, jsonl):
    from fs_fedmllm.data.shapes import check_shapes

    picture(tmp_path / "long.png", size=(1, 201))
    picture(tmp_path / "good.png", size=(200, 1))
    rows = [{"image": f"{name}.png", "question": "Is it?", "answer": "yes"} for name in ("good", "long")]
    jsonl(tmp_path / "train.jsonl", rows)
    jsonl(tmp_path / "test.jsonl", rows[:1])
    dataset, findings = inspect("own", tmp_path, {"template": "medical"}, widest=200.0, family="qwen_vl")
    assert [f.row for f in findings if f.severity == "error"] == ["2"]
    assert dataset is not None
    check_shapes(dataset.train, 0.0, "llava")
    with pytest.raises(DataError, match=r"train\.jsonl:2: .*long\.png is 1 x 201 pixels.*at most 200 times"):
        check_shapes(dataset.train, 200.0, "qwen_vl")
