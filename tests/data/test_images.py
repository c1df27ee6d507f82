from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fs_fedmllm.data.images import (
    MAX_PIXELS,
    ImageFolder,
    check_image,
    image_sha256,
    open_image,
)
from fs_fedmllm.errors import DataError

WHERE = "rows.jsonl:7"


def bomb(path: Path, width: int, height: int) -> Path:
    """A PNG of a few bytes whose header declares a huge picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def test_a_relative_path_resolves_inside_the_root(tmp_path, picture):
    path = picture(tmp_path / "img" / "a.png")
    assert ImageFolder(tmp_path).resolve("img/a.png", WHERE) == str(path)
    assert ImageFolder(tmp_path).resolve("img/../img/./a.png", WHERE) == str(path)
    assert ImageFolder(tmp_path).resolve(str(path), WHERE) == str(path), "an absolute path inside the root is fine"


@pytest.mark.parametrize("given", ["../secret.png", "img/../../secret.png", "/etc/passwd", "", "  ", "a\0b", None, 3])
def test_paths_that_leave_the_root_are_refused(tmp_path, picture, given):
    picture(tmp_path / "secret.png")
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(DataError, match=r"^rows\.jsonl:7: the image path"):
        ImageFolder(root).resolve(given, WHERE)


def test_a_folder_whose_name_begins_like_the_root_is_outside(tmp_path, picture):
    picture(tmp_path / "root-2" / "a.png")
    (tmp_path / "root").mkdir()
    with pytest.raises(DataError, match="leaves the data folder"):
        ImageFolder(tmp_path / "root").resolve("../root-2/a.png", WHERE)


def test_links_out_of_the_root_are_refused_and_links_inside_are_not(tmp_path, picture):
    outside = picture(tmp_path / "outside" / "a.png")
    root = tmp_path / "root"
    inside = picture(root / "real" / "b.png")
    os.symlink(outside, root / "out.png")
    os.symlink(outside.parent, root / "folder")
    os.symlink(inside, root / "in.png")
    os.symlink(root / "gone.png", root / "dangling.png")
    with pytest.raises(DataError, match=r"out\.png is a symbolic link out of the data folder"):
        ImageFolder(root).resolve("out.png", WHERE)
    with pytest.raises(DataError, match=r"folder is a symbolic link out of the data folder"):
        ImageFolder(root).resolve("folder/a.png", WHERE)
    with pytest.raises(DataError, match="link to no file"):
        ImageFolder(root).resolve("dangling.png", WHERE)
    assert ImageFolder(root).resolve("in.png", WHERE) == str(root / "in.png")


def test_the_root_itself_may_be_a_link(tmp_path, picture):
    path = picture(tmp_path / "real" / "a.png")
    os.symlink(tmp_path / "real", tmp_path / "root")
    assert ImageFolder(tmp_path / "root").resolve("a.png", WHERE) == str(tmp_path / "root" / "a.png")
    assert ImageFolder(tmp_path / "root").resolve(str(path), WHERE) == str(tmp_path / "root" / "a.png")


def test_a_missing_image_names_path_row_and_the_near_miss(tmp_path, picture):
    picture(tmp_path / "img" / "A.JPG")
    with pytest.raises(DataError, match=rf"{WHERE}: the image .*img/a\.jpg does not exist\. There is 'A\.JPG'"):
        ImageFolder(tmp_path).resolve("img/a.jpg", WHERE)
    assert ImageFolder(tmp_path, required=False).resolve("nowhere/x.png", WHERE).endswith("nowhere/x.png")
    with pytest.raises(DataError, match="leaves"):
        ImageFolder(tmp_path, required=False).resolve("../x.png", WHERE)


def test_a_folder_is_listed_once_for_many_rows(tmp_path, picture, monkeypatch):
    for i in range(20):
        picture(tmp_path / "img" / f"{i}.png")
    calls = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: calls.append(path) or scandir(path))
    folder = ImageFolder(tmp_path)
    assert len({folder.resolve(f"img/{i}.png", WHERE) for i in range(20)}) == 20
    assert len(calls) == 1


def test_a_folder_that_was_seen_opens_no_way_out(tmp_path, picture):
    picture(tmp_path / "root" / "a.png")
    picture(tmp_path / "a.png")
    os.symlink(tmp_path / "a.png", tmp_path / "root" / "link.png")
    folder = ImageFolder(tmp_path / "root")
    assert folder.resolve("a.png", WHERE) == folder.resolve("./a.png", WHERE) == str(tmp_path / "root" / "a.png")
    for given in ("/a.png", "../a.png", "link.png", "./../a.png", "..", ".", "./", "a.png/../../a.png"):
        with pytest.raises(DataError):
            folder.resolve(given, WHERE)


def test_not_a_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="not a regular file"):
        ImageFolder(tmp_path).resolve("pipe.png", WHERE)
    with pytest.raises(DataError, match="not a regular file"):
        open_image(str(tmp_path / "pipe.png"), WHERE)


def test_images_open_as_rgb(tmp_path):
    for mode, colour in (
        ("RGB", (9, 9, 9)),
        ("RGBA", (9, 9, 9, 128)),
        ("L", 9),
        ("P", 1),
        ("1", 1),
        ("CMYK", (1,) * 4),
    ):
        path = tmp_path / f"{mode}.{'tiff' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (5, 4), colour).save(path)
        image = open_image(str(path), WHERE)
        assert (image.mode, image.size) == ("RGB", (5, 4))
        assert check_image(str(path)) == (5, 4)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert open_image(str(tmp_path / "a.gif")).getpixel((0, 0)) == (255, 0, 0)


def test_sixteen_bit_grey_keeps_its_shades(tmp_path):
    grey = np.array([[0, 0x4000], [0x8000, 0xFFFF]], dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "x.png")
    Image.fromarray(grey.astype(np.int32)).save(tmp_path / "x.tiff")
    for name in ("x.png", "x.tiff"):
        assert np.asarray(open_image(str(tmp_path / name)))[..., 0].tolist() == [[0, 0x40], [0x80, 0xFF]]


def test_a_git_lfs_pointer_is_named_as_such(tmp_path):
    path = tmp_path / "source.jpg"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12345\n")
    for look in (open_image, check_image):
        with pytest.raises(DataError, match=rf"{WHERE}: .*source\.jpg is a Git LFS pointer.*git lfs pull"):
            look(str(path), WHERE)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"<html>404</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_a_file_that_is_no_image_is_refused(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for look in (open_image, check_image):
        with pytest.raises(DataError, match=rf"{WHERE}: .*a\.png is not an image"):
            look(str(path), WHERE)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.webp"])
def test_a_truncated_image_is_refused(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"^{WHERE}: .*(truncated or damaged|not an image)"):
        open_image(str(tmp_path / name), WHERE)


@pytest.mark.parametrize("size", [(8193, 8192), (12_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, size):
    assert size[0] * size[1] > MAX_PIXELS
    path = bomb(tmp_path / "bomb.png", *size)
    assert path.stat().st_size < 200
    for look in (open_image, check_image):
        with pytest.raises(DataError, match=rf"{WHERE}: .*decompression bomb"):
            look(str(path), WHERE)


def test_a_vanished_image_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        open_image(str(tmp_path / "a.png"), WHERE)


def test_sha256_is_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert image_sha256(str(tmp_path / "a")).startswith("ba7816bf8f01cfea414140de5dae2223")


def test_a_name_that_is_written_otherwise_is_told(tmp_path, picture):
    for name in ("a b.png", "u\u0308ber.png"):
        picture(tmp_path / name)
    for given, said in (
        ("a%20b.png", r"There is 'a b\.png' beside it: give"),
        (" a b.png", r"There is 'a b\.png' beside it: give"),
        ("\u00fcber.png", r"its accents are written otherwise: Unicode NFC and NFD"),
    ):
        with pytest.raises(DataError, match=said):
            ImageFolder(tmp_path).resolve(given, WHERE)
    with pytest.raises(DataError, match=r"from there, with slashes \(scans/a\.png\)"):
        ImageFolder(tmp_path).resolve("C:\\scans\\a.png", WHERE)
    with pytest.raises(DataError, match="looks like base64"):
        ImageFolder(tmp_path).resolve(
            "iVBORw0KGgo" + "AAAANSUhEUgAAACAAAAAgCAAAAABWESUoAAAAEklE" + "QVR4nGNg==", WHERE
        )
