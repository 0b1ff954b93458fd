"""Letterboxes: pixels, boxes, and the way back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from monai.data import Dataset
from monai.transforms import Compose
from torch.utils.data import DataLoader

from monai_amat.data import IndexedDataset
from monai_amat.tasks.detection import BoxTargetsd, Letterboxd, LoadRGBImaged, load_voc
from monai_amat.tasks.detection.transforms.letterbox import GREY, boxes_to_native


def test_whole_numbers_of_pixels_are_a_plain_resize() -> None:
    image = torch.rand(3, 48, 64)
    item = Letterboxd(size=(32, 32))({"image": image})
    assert item["letterbox"].tolist() == [0.5, 0.0, 4.0]
    assert item["native_size"].tolist() == [48, 64]
    expected = F.interpolate(image[None], size=(24, 32), mode="bilinear", antialias=True)[0]
    torch.testing.assert_close(item["image"][:, 4:28], expected, atol=1e-5, rtol=0)
    assert bool((item["image"][:, :4] == GREY).all()) and bool((item["image"][:, 28:] == GREY).all())


def test_an_image_of_the_frames_size_stays_as_it_is() -> None:
    image = torch.rand(3, 32, 32)
    torch.testing.assert_close(Letterboxd(size=(32, 32))({"image": image})["image"], image, atol=1e-6, rtol=0)


@given(st.integers(20, 200), st.integers(20, 200), st.sampled_from([(32, 32), (33, 64), (100, 90)]))
@example(20, 31, (32, 32))  # 20 rows become 20.6, of which 20 are whole
def test_the_image_is_where_the_numbers_say(height: int, width: int, size: tuple[int, int]) -> None:
    # A ramp in x and in y: its value is the place in the image that a pixel comes from.
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    item = Letterboxd(size=size, fill=-1.0)(
        {"image": torch.stack([x, y]), "boxes": torch.tensor([[0, 0, width, height]])}
    )
    gain, left, top = item["letterbox"].tolist()
    exact = min(size[0] / height, size[1] / width)
    assert gain == pytest.approx(exact)
    framed = item["image"]
    assert framed.shape == (2, *size)
    inside = framed[0] >= 0
    assert inside.any(dim=0).sum() == max(int(width * exact + 1e-6), 1)
    assert inside.any(dim=1).sum() == max(int(height * exact + 1e-6), 1)
    rows, columns = inside.nonzero(as_tuple=True)
    # At the edges a filter finds nothing on one side, so look inside; a filter of few pixels is not quite even either.
    margin = 2 + 2 * max(gain, 1)
    place_x, place_y = (columns + 0.5 - left) / gain, (rows + 0.5 - top) / gain
    for channel, place, end in ((0, place_x, width), (1, place_y, height)):
        deep = (place > margin / min(gain, 1)) & (place < end - margin / min(gain, 1))
        torch.testing.assert_close(framed[channel][inside][deep], place[deep], atol=0.1, rtol=0)
    torch.testing.assert_close(
        item["boxes"], torch.tensor([[left, top, left + gain * width, top + gain * height]]), atol=1e-3, rtol=0
    )


@given(st.integers(20, 200), st.integers(20, 200), st.tuples(*[st.floats(0, 1)] * 4))
def test_the_way_back(height: int, width: int, place: tuple[float, float, float, float]) -> None:
    x1, y1 = place[0] * (width - 2), place[1] * (height - 2)
    box = torch.tensor([[x1, y1, x1 + 1 + place[2] * (width - x1 - 1), y1 + 1 + place[3] * (height - y1 - 1)]])
    item = Letterboxd(size=(64, 48))({"image": torch.zeros(1, height, width), "boxes": box})
    found = torch.cat([item["boxes"], torch.tensor([[0.5, 2.0]])], dim=1)
    back = boxes_to_native(found, item["letterbox"], item["native_size"])
    torch.testing.assert_close(back[:, :4], box, atol=2e-3, rtol=0)
    assert back[0, 4:].tolist() == [0.5, 2.0]


def test_the_way_back_is_cut_at_the_edge_on_request() -> None:
    found = torch.tensor([[-9.0, -9.0, 99.0, 99.0]])
    letterbox = torch.tensor([0.5, 0.0, 4.0])
    assert boxes_to_native(found, letterbox).tolist() == [[-18, -26, 198, 190]]
    assert boxes_to_native(found, letterbox, (48, 64)).tolist() == [[0, 0, 64, 48]]
    assert boxes_to_native(torch.zeros(0, 6), letterbox, (48, 64)).shape == (0, 6)
    with pytest.raises(ValueError, match=r"got \(4,\) and \(3,\)"):
        boxes_to_native(torch.zeros(4), letterbox)
    with pytest.raises(ValueError, match=r"got \(1, 4\) and \(1, 3\)"):
        boxes_to_native(found, letterbox[None])


def test_values_stay_in_range_to_the_last_bit() -> None:
    for image in (torch.rand(3, 37, 53).round(), torch.ones(1, 78, 83)):
        for side in (57, 64, 96):
            framed = Letterboxd(size=(side, side))({"image": image})["image"]
            assert float(framed.min()) >= 0 and float(framed.max()) <= 1


def test_settings_and_images_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"frame with pixels, got \(0, 4\)"):
        Letterboxd(size=(0, 4))
    with pytest.raises(ValueError, match=r"got \(4,\)"):
        Letterboxd(size=(4,))
    with pytest.raises(ValueError, match="a frame of 32x32, got 1x900 pixels"):
        Letterboxd(size=(32, 32))({"image": torch.zeros(3, 1, 900)})


@pytest.mark.real_data("BCCD")
@pytest.mark.filterwarnings("ignore:.*dropped for having no area")
def test_real_images_become_batches_and_their_boxes_find_back(data_root: Path) -> None:
    items = load_voc(data_root / "BCCD", "test", limit=6)
    transform = Compose([LoadRGBImaged("image"), Letterboxd(size=(320, 320)), BoxTargetsd(max_boxes=30)])
    batch = next(iter(DataLoader(IndexedDataset(Dataset(items, transform)), batch_size=6)))
    assert set(batch) == {"image", "targets", "letterbox", "native_size", "case", "sample_id", "sample_seed"}
    assert (batch["image"].shape, batch["targets"].shape) == ((6, 3, 320, 320), (6, 30, 5))
    assert batch["letterbox"].tolist() == [[0.5, 0.0, 40.0]] * 6
    for item, targets, letterbox in zip(items, batch["targets"], batch["letterbox"], strict=True):
        real = targets[targets[:, 0] >= 0]
        assert torch.equal(real[:, 0].long(), item["labels"])
        assert bool((real[:, 2] >= 40).all()) and bool((real[:, 4] <= 280).all())
        torch.testing.assert_close(boxes_to_native(real[:, 1:], letterbox), item["boxes"])
