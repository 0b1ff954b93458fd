"""Radiographs in DICOM files, where pydicom is installed.

Not part of `make test`: where pydicom is installed, every LoadImage of MONAI warns of a decoder that it misses.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_amat.data.pictures import read_grey, read_headers

INSTALLED = importlib.util.find_spec("pydicom") is not None
pydicom: Any = importlib.import_module("pydicom") if INSTALLED else None

pytestmark = [
    pytest.mark.extras,
    pytest.mark.skipif(not INSTALLED, reason="needs pydicom: pip install 'monai-amat[dicom]'"),
]

VALUES = np.array([[0, 1024], [2048, 4095]], np.uint16)


def write(path: Path, **fields: Any) -> Path:
    content = pydicom.Dataset()
    content.file_meta = pydicom.dataset.FileMetaDataset()
    content.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    content.SOPClassUID = content.file_meta.MediaStorageSOPClassUID = pydicom.uid.ComputedRadiographyImageStorage
    content.SOPInstanceUID = content.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    content.Rows, content.Columns = VALUES.shape
    content.SamplesPerPixel = 1
    content.BitsAllocated, content.BitsStored, content.HighBit, content.PixelRepresentation = 16, 12, 11, 0
    content.PhotometricInterpretation = "MONOCHROME2"
    content.PixelData = VALUES.tobytes()
    for name, value in fields.items():
        setattr(content, name, value)
    pydicom.dcmwrite(path, content, enforce_file_format=True)
    return path


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [[0, 63.8], [127.5, 255]]),
        ({"BitsStored": 16, "HighBit": 15}, [[0, 63.8], [127.5, 255]]),
        ({"PhotometricInterpretation": "MONOCHROME1"}, [[255, 191.2], [127.5, 0]]),
        ({"RescaleSlope": 2, "RescaleIntercept": -100}, [[0, 63.8], [127.5, 255]]),
        ({"WindowCenter": 1024, "WindowWidth": 2}, [[0, 255], [255, 255]]),
    ],
)
def test_values_are_those_of_a_viewer(tmp_path: Path, fields: dict[str, Any], expected: list[list[float]]) -> None:
    assert np.allclose(read_grey(write(tmp_path / "a.dcm", **fields)), expected, atol=0.2)


def test_size_and_spacing_come_from_the_header(tmp_path: Path) -> None:
    header = read_headers([write(tmp_path / "a.dcm", ImagerPixelSpacing=[0.2, 0.1])], where="here")[0]
    assert header.size == (2, 2)
    assert header.spacing == (0.2, 0.1)
    assert read_headers([write(tmp_path / "b.dcm")], where="here")[0].spacing is None


def test_what_is_no_grey_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.dcm: expected a grey picture"):
        read_grey(write(tmp_path / "a.dcm", PhotometricInterpretation="PALETTE COLOR"))
    (tmp_path / "b.dcm").write_bytes(b"no DICOM")
    with pytest.raises(ValueError, match=r"b\.dcm: cannot be read as DICOM"):
        read_grey(tmp_path / "b.dcm")
