"""Pictures as a viewer shows them: bit depth, orientation, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_amat.data.pictures import check_pictures, read_colour, read_grey, read_headers

UPRIGHT = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4) * 8


def turned(orientation: int) -> np.ndarray:
    """What a camera stores, so that a viewer shows `UPRIGHT`."""
    steps: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.T,
        6: np.rot90,
        7: lambda a: np.rot90(a, 2).T,
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(steps[orientation](UPRIGHT))


def save(path: Path, values: np.ndarray, orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(values).save(path, exif=exif)
    return path


@pytest.mark.filterwarnings("ignore:.*EXIF orientation")
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_every_orientation_comes_upright(tmp_path: Path, orientation: int, ending: str) -> None:
    path = save(tmp_path / f"a{ending}", turned(orientation), orientation)
    assert np.array_equal(read_grey(path), UPRIGHT)
    assert np.array_equal(read_colour(path)[..., 1], UPRIGHT)
    header = read_headers([path], where="here")[0]
    assert header.size == UPRIGHT.shape
    assert header.orientation == orientation


def test_a_jpeg_too_is_turned_and_counted(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{i}.jpg", np.full((8, 16, 3), 9 * i, np.uint8), 6) for i in range(5)]
    paths.append(save(tmp_path / "upright.jpg", np.zeros((16, 8, 3), np.uint8)))
    with pytest.warns(UserWarning, match=r"here: 5 of 6 images have an EXIF .*\(0\.jpg, 1\.jpg, 2\.jpg and 2 more\)"):
        assert {header.size for header in read_headers(paths, where="here")} == {(16, 8)}
    assert read_colour(paths[1]).shape == (16, 8, 3)


@pytest.mark.parametrize(
    ("highest", "white"),
    [(255, 255), (1023, 255), (4095, 255), (16383, 255), (65535, 255), (2048, 127.5), (40000, 155.6)],
)
def test_the_values_of_16_bits_fill_the_range_of_their_own_depth(tmp_path: Path, highest: int, white: float) -> None:
    values = np.zeros((4, 5), np.uint16)
    values[1, 2] = highest
    for path in (tmp_path / "a.png", tmp_path / "a.tif"):
        Image.fromarray(values).save(path)
        grey = read_grey(path)
        assert grey.dtype == np.float32
        assert grey.max() == pytest.approx(white, abs=0.1) == grey[1, 2]


def test_pictures_that_fill_fewer_bits_are_counted(tmp_path: Path) -> None:
    for i, highest in enumerate((4095, 1000, 65535, 0)):
        Image.fromarray(np.full((4, 5), highest, np.uint16)).save(tmp_path / f"{i}.png")
    with pytest.warns(
        UserWarning, match=r"2 of 4 images hold fewer bits than the 16 .*\(0\.png 12 bits, 1\.png 10 bits\)"
    ):
        read_headers(sorted(tmp_path.iterdir()), where="here")


def test_colours_of_16_bits_that_would_be_black_are_refused(tmp_path: Path) -> None:
    import struct
    import zlib

    def colours(value: int) -> Path:
        def chunk(name: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

        rows = (b"\0" + struct.pack(">6H", *[value] * 6)) * 2
        path = tmp_path / f"{value}.png"
        header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        )
        return path

    assert read_colour(colours(65535)).max() == 255
    for read in (read_colour, read_grey):
        with pytest.raises(ValueError, match=r"4095\.png: expected values over the whole range of 16 bits"):
            read(colours(4095))


def test_several_pages_are_refused(tmp_path: Path) -> None:
    pages = [Image.new("L", (4, 4)) for _ in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=r"a\.tif: expected one picture, got 3 pages"):
        read_grey(tmp_path / "a.tif")


def test_dicom_without_pydicom_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM")
    for read in (read_grey, lambda path: read_headers([path], where="here")):
        with pytest.raises(ImportError, match=r"a\.dcm: DICOM files need pydicom: pip install pydicom"):
            read(tmp_path / "a.dcm")


def test_all_pictures_are_looked_at_and_counted(tmp_path: Path) -> None:
    for i in range(6):
        Image.new("L", (40, 40), i).save(tmp_path / f"{i}.png")
        if i:
            (tmp_path / f"{i}.png").write_bytes((tmp_path / f"{i}.png").read_bytes()[:-30])
    for colour in (False, True):
        with pytest.raises(ValueError, match=r"5 of 6 images cannot be used: .*1\.png: cannot be read .*; and 2 more$"):
            check_pictures(sorted(tmp_path.iterdir()), colour=colour)
