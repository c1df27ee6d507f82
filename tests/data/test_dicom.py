"""DICOM and HEIC as pictures: shades by hand, files that others made, what is missing named, nobody's name said."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fs_fedmllm import extras
from fs_fedmllm.data import dicom, images
from fs_fedmllm.data.check import inspect
from fs_fedmllm.data.images import image_bytes, look_at_image, open_image
from fs_fedmllm.data.registry import load_dataset
from fs_fedmllm.errors import DataError

pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")

from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless  # noqa: E402

NAME = "Doe^Jane^19610203"


def write(path: Path, values: Any, syntax: str = ExplicitVRLittleEndian, **elements: Any) -> str:
    """A DICOM file with these pixels; further elements by keyword."""
    values = np.asarray(values)
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "1.2.3"
    made.PatientName, made.PatientID = NAME, NAME
    made.SamplesPerPixel = 3 if elements.get("colour") else 1
    made.PhotometricInterpretation = "RGB" if elements.pop("colour", False) else "MONOCHROME2"
    frames = elements.pop("frames", 0)
    shape = values.shape[1:] if frames else values.shape
    made.Rows, made.Columns = shape[:2]
    if frames:
        made.NumberOfFrames = frames
    made.BitsAllocated = 8 * values.dtype.itemsize
    made.BitsStored, made.HighBit = made.BitsAllocated, made.BitsAllocated - 1
    made.PixelRepresentation = int(values.dtype.kind == "i")
    if made.SamplesPerPixel == 3:
        made.PlanarConfiguration = 0
    made.PixelData = values.tobytes() + b"\0" * (values.nbytes % 2)
    made["PixelData"].VR = "OB" if values.dtype.itemsize == 1 else "OW"
    for name, value in elements.items():
        setattr(made, name, value)
    made.save_as(path, enforce_file_format=True)
    return str(path)


def shades(path: str) -> list[int]:
    picture = open_image(path)
    assert picture.mode == "RGB"
    return list(np.asarray(picture)[..., 0].ravel())


def table(first: int, data: list[int], bits: int, kind: str = "US") -> Any:
    item = Dataset()
    item.LUTDescriptor = [len(data), first, bits]
    item.add_new(0x00283006, kind, data if kind == "US" else np.array(data, "<u2").tobytes())
    return pydicom.Sequence([item])


ROW = np.array([[0, 100, 200, 300, 400]], np.uint16)
SIGNED = np.array([[-1000, -100, 0, 100, 900]], np.int16)
WINDOW = {"WindowCenter": 200, "WindowWidth": 201}


@pytest.mark.parametrize(
    ("values", "elements", "expected"),
    [
        (np.array([[0, 1, 128, 255]], np.uint8), {}, [0, 1, 128, 255]),  # 8 bits as they are
        (ROW, {}, [0, 64, 128, 191, 255]),  # no window: from the smallest to the largest
        (ROW, {"BitsStored": 12, "HighBit": 11}, [0, 64, 128, 191, 255]),
        (ROW, {"PhotometricInterpretation": "MONOCHROME1"}, [255, 191, 128, 64, 0]),
        # LINEAR, PS3.3 C.11.2.1.2: ((x - 199.5) / 200 + 0.5) of white
        (ROW, WINDOW, [0, 1, 128, 255, 255]),
        (ROW, WINDOW | {"PhotometricInterpretation": "MONOCHROME1"}, [255, 254, 127, 0, 0]),
        (ROW, {"WindowCenter": 200, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT"}, [0, 64, 128, 191, 255]),
        (ROW, {"WindowCenter": 200, "WindowWidth": 100, "VOILUTFunction": "SIGMOID"}, [0, 5, 128, 250, 255]),
        (ROW, {"WindowCenter": [200, 5], "WindowWidth": [201, 9]}, [0, 1, 128, 255, 255]),  # the first of several
        (ROW, {"WindowCenter": 200, "WindowWidth": 1}, [0, 0, 255, 255, 255]),
        # Hounsfield units: stored x 2 - 1000, then the window on them
        (ROW, WINDOW | {"RescaleSlope": 2, "RescaleIntercept": -200}, [0, 0, 128, 255, 255]),
        (SIGNED, {"WindowCenter": 0, "WindowWidth": 201}, [0, 1, 128, 255, 255]),
        (SIGNED, {"PixelPaddingValue": -1000}, [0, 0, 26, 51, 255]),  # -100 is the picture's smallest
        (SIGNED, {"PixelPaddingValue": -1000, "PixelPaddingRangeLimit": -100}, [0, 0, 0, 28, 255]),
        # A table comes before a window; what is below its first or above its last entry is as those.
        (ROW, WINDOW | {"VOILUTSequence": table(100, [0, 1023], 10)}, [0, 0, 255, 255, 255]),
        (ROW, {"VOILUTSequence": table(0, [*range(255, -1, -1), *[0] * 144, 128], 8)}, [255, 155, 55, 0, 128]),
        (ROW, {"ModalityLUTSequence": table(0, [i // 2 for i in range(401)], 8, "OW")}, [0, 50, 100, 150, 200]),
        (np.array([[0, 70000, 140000]], np.uint32), {}, [0, 128, 255]),
        (np.array([[7, 7, 7]], np.uint16), {}, [0, 0, 0]),
    ],
)
def test_shades_by_hand(tmp_path, values, elements, expected) -> None:
    assert shades(write(tmp_path / "a.dcm", values, **elements)) == expected


def test_values_of_a_frame_come_from_the_first_frames_groups(tmp_path) -> None:
    voi, scale, group, shared = Dataset(), Dataset(), Dataset(), Dataset()
    voi.WindowCenter, voi.WindowWidth = 200, 201
    scale.RescaleSlope, scale.RescaleIntercept = 2, -200
    group.FrameVOILUTSequence = pydicom.Sequence([voi])
    shared.PixelValueTransformationSequence = pydicom.Sequence([scale])
    groups = {
        "PerFrameFunctionalGroupsSequence": pydicom.Sequence([group]),
        "SharedFunctionalGroupsSequence": pydicom.Sequence([shared]),
    }
    path = write(tmp_path / "a.dcm", np.stack([ROW, ROW * 0]), frames=2, **groups)
    assert shades(path) == [0, 0, 128, 255, 255]


def test_several_frames_show_the_first_and_that_is_said_once(tmp_path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(images, "_said", [])
    path = write(tmp_path / "a.dcm", np.stack([ROW, ROW[:, ::-1], ROW]), frames=3)
    assert look_at_image(path).more_frames and look_at_image(path).size == (5, 1)
    assert shades(path) == shades(path) == [0, 64, 128, 191, 255]
    assert caplog.text.count("holds several frames") == 1


def test_colours(tmp_path) -> None:
    values = np.array([[[255, 0, 10], [1, 2, 3]]], np.uint8)
    assert np.array_equal(np.asarray(open_image(write(tmp_path / "a.dcm", values, colour=True))), values)
    path = write(tmp_path / "b.dcm", values.astype(np.uint16) * 257, colour=True)
    assert np.array_equal(np.asarray(open_image(path)), values)
    red = np.array([[[76, 85, 255]]], np.uint8)  # of JPEG's YBR
    path = write(tmp_path / "c.dcm", red, colour=True, PhotometricInterpretation="YBR_FULL")
    assert np.abs(np.asarray(open_image(path)).astype(int) - [254, 0, 0]).max() <= 1
    with pytest.raises(DataError, match=r"cannot be used: its colours are of a kind that is not known here"):
        open_image(write(tmp_path / "d.dcm", ROW, PhotometricInterpretation="HSV"))


@pytest.mark.parametrize("syntax", [RLELossless, DeflatedExplicitVRLittleEndian])
def test_compressed_by_what_the_parser_brings(tmp_path, syntax, monkeypatch) -> None:
    path = write(tmp_path / "a.dcm", np.tile(ROW, (8, 1)), **WINDOW)
    made = pydicom.dcmread(path)
    if syntax == RLELossless:
        made.compress(syntax)
    else:
        made.file_meta.TransferSyntaxUID = syntax
    made.save_as(path)
    assert shades(path)[:5] == [0, 1, 128, 255, 255]
    if syntax == RLELossless:
        with open(path, "ab") as stream:
            stream.truncate(17 << 20)
        with pytest.raises(DataError, match="far more bytes than the pixels that it declares"):
            open_image(path)
    else:
        monkeypatch.setattr(dicom, "MAX_DEFLATED", 100)
        with pytest.raises(DataError, match="it is deflated as a whole, and has more than 100 bytes"):
            open_image(path)


#: Files that come with pydicom, made by other programs; what a viewer shows at two places.
OTHERS = {
    "examples_rgb_color.dcm": None,
    "SC_rgb_dcmtk_+eb+cy+s4.dcm": (255, 0, 0),
    "SC_ybr_full_422_uncompressed.dcm": (255, 0, 0),
    "SC_rgb_jpeg_dcmtk.dcm": (255, 0, 0),
    "SC_rgb_rle_32bit_2frame.dcm": (255, 0, 0),
    "examples_palette.dcm": None,
    "examples_jpeg2k.dcm": None,
    "image_dfl.dcm": None,
    "MR_small_bigendian.dcm": None,
    "MR_small_RLE.dcm": None,
    "MR_small_jp2klossless.dcm": None,
    "liver_1frame.dcm": None,
    "rtdose.dcm": None,
}


@pytest.mark.parametrize("name", OTHERS)
def test_files_of_other_programs(name: str) -> None:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"NOT RUN: pydicom's own {name} is not here")
    picture = open_image(path)
    assert picture.size == look_at_image(path).size and picture.getextrema() != ((0, 0),) * 3
    if (colour := OTHERS[name]) is not None:
        assert np.abs(np.array(picture.getpixel((picture.width // 2, 2))) - colour).max() <= 2
    if name.startswith("MR_small"):  # the same slice in other encodings
        plain = open_image(get_testdata_file("MR_small.dcm", download=False))
        assert picture.tobytes() == plain.tobytes()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "JPEGLSNearLossless_16.dcm",
            r"compressed \(JPEG-LS .*no decoder for that is installed\. Run pip install pylib",
        ),
        ("JPEG-lossy.dcm", r"compressed \(JPEG Extended .*no decoder that is installed can read them"),
        ("MR_truncated.dcm", r"it is a damaged DICOM file \(ValueError\)\. Export or copy it again"),
        ("rtplan.dcm", "a DICOM file without a picture, such as a report or a plan"),
        ("no_meta.dcm", "is called as DICOM files are, and does not begin as they do"),
    ],
)
def test_what_cannot_be_shown_is_one_paragraph(name: str, said: str) -> None:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"NOT RUN: pydicom's own {name} is not here")
    from pydicom.pixels import get_decoder

    if "no decoder for that" in said and get_decoder(pydicom.dcmread(path).file_meta.TransferSyntaxUID).is_available:
        pytest.skip("NOT RUN: a decoder of JPEG-LS is installed here")
    with pytest.raises(DataError, match=said):
        open_image(path)


def test_size_is_bounded_before_pixels_are_decoded(tmp_path) -> None:
    path = write(tmp_path / "a.dcm", ROW, Rows=60000, Columns=60000)
    with pytest.raises(DataError, match=r"declares 60,000 x 60,000 pixels; at most 67,108,864"):
        open_image(path)
    with pytest.raises(DataError, match="damaged DICOM file"):
        open_image(write(tmp_path / "b.dcm", ROW, Rows=3000, Columns=3000))
    for center in ("1e400", "NaN"):
        with pydicom.config.disable_value_validation():
            path = write(tmp_path / "c.dcm", ROW, WindowCenter=center, WindowWidth="5")
        with pytest.raises(DataError, match=r"a number of its window or its scale is none|damaged"):
            open_image(path)


def test_nobodys_name_is_said(tmp_path, caplog, capsys) -> None:
    """Nor in what is written for others: a picture of its own holds pixels only."""
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with pydicom.config.disable_value_validation():
            wrong = write(tmp_path / "a.dcm", ROW, WindowCenter="11111111", WindowWidth="11111111")
            Path(wrong).write_bytes(Path(wrong).read_bytes().replace(b"11111111", b"Jane^Doe"))
            odd = write(tmp_path / "b.dcm", ROW, PhotometricInterpretation=NAME, PatientBirthDate=NAME)
            good = write(tmp_path / "c.dcm", ROW, PatientBirthDate=NAME, StudyDate=NAME, VOILUTFunction=NAME, **WINDOW)
        heard.clear()
        caplog.clear()
        for path in (wrong, odd):
            with pytest.raises(DataError) as error:
                open_image(path)
            assert "Jane" not in str(error.value)
        assert shades(good)[2] == 128
        for logger in ("pydicom", "pydicom.pixels.decoders.base"):  # what the parser would say
            logging.getLogger(logger).error("value %r", NAME)
        assert b"Jane" not in image_bytes(good) and image_bytes(good).startswith(b"\x89PNG")
        (tmp_path / "data.jsonl").write_text(
            "".join(f'{{"image": "{name}.dcm", "label": 0, "split": "train"}}\n' for name in "abc")
        )
        _, findings = inspect("own", tmp_path, {"template": "digits_triage"})
    shown = capsys.readouterr()
    told = " ".join(map(str, [*heard, *findings])) + caplog.text + shown.out + shown.err
    assert "Jane" not in told and sum(found.severity == "error" for found in findings) == 2


@pytest.mark.parametrize(("extra", "module"), [("dicom", "pydicom"), ("heif", "pillow_heif")])
def test_a_missing_extra_is_named_with_the_row(tmp_path, monkeypatch, extra, module) -> None:
    if extra == "dicom":
        write(tmp_path / "a.img", ROW)
    else:
        (tmp_path / "a.img").write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heic" + b"\0" * 200)
    (tmp_path / "data.jsonl").write_text('{"image": "a.img", "label": 0, "split": "train"}\n')
    monkeypatch.setattr(extras, "is_installed", lambda name: name != module)
    monkeypatch.setitem(sys.modules, module, None)
    row = load_dataset("own", tmp_path, {"template": "digits_triage"}).train[0]
    with pytest.raises(DataError, match=rf"data\.jsonl:1: .*not installed\. pip install 'fs-fedmllm\[{extra}\]'"):
        open_image(row.image, row.source)


def test_dicom_in_a_column_of_bytes(tmp_path, monkeypatch) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setenv("FS_FEDMLLM_CACHE", str(tmp_path / "cache"))
    content = Path(write(tmp_path / "a.dcm", ROW)).read_bytes()
    pq.write_table(pa.Table.from_pylist([{"image": content, "label": 0, "split": "train"}]), tmp_path / "data.parquet")
    row = load_dataset("own", tmp_path, {"template": "digits_triage"}).train[0]
    assert shades(row.image) == [0, 64, 128, 191, 255]


def test_heic_is_upright_and_has_the_bounds_of_other_images(tmp_path, monkeypatch) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs the extra heif")
    from PIL import Image

    values = np.zeros((16, 32, 3), np.uint8)
    values[:8, :8] = 255  # the upper left corner
    exif = Image.Exif()
    exif[0x0112] = 6  # turned clockwise to be upright: then it is the upper right one
    stream = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(values)).save(stream, quality=-1, exif=exif.tobytes())
    path = tmp_path / "a.HEIC"
    path.write_bytes(stream.getvalue())
    picture = open_image(str(path))
    assert picture.size == (16, 32) == look_at_image(str(path), decode=False).size
    assert picture.getpixel((14, 1))[0] > 200 and picture.getpixel((1, 1))[0] < 50
    assert image_bytes(str(path)).startswith(b"\x89PNG")
    path.write_bytes(stream.getvalue()[:-40])
    with pytest.raises(DataError, match=r"truncated or damaged|is not an image"):
        open_image(str(path))
    path.write_bytes(stream.getvalue())
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with pytest.raises(DataError, match="declares 16 x 32 pixels"):
        open_image(str(path))
