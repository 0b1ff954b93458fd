from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, SmartCacheDataset
from monai.data import Dataset as MonaiDataset
from monai.transforms import Compose, EnsureTyped, OneOf, RandGaussianNoised, RandSpatialCropSamplesd
from torch.utils.data import ConcatDataset, IterableDataset, Subset

from monai_amat.data.indexed import IndexedDataset
from monai_amat.data.sampler import SeededSampler
from monai_amat.seeding import fold

DATA = [{"image": np.full((1, 4, 4), i, dtype=np.float32), "case": f"case_{i}"} for i in range(6)]


def noisy(kind: type = MonaiDataset, **settings: Any) -> Any:
    transform = Compose([EnsureTyped("image"), OneOf([Compose([RandGaussianNoised("image", prob=1.0)])])])
    return kind(DATA, transform, **settings)


def images(dataset: Any, indices: list[int], epoch: int = 1) -> torch.Tensor:
    dataset.set_epoch(epoch)
    return torch.stack([torch.as_tensor(dataset[index]["image"]) for index in indices])


def collect(loader: Any, dataset: IndexedDataset, epoch: int) -> dict[int, torch.Tensor]:
    """Every image that a pass yields, by the item's seed."""
    dataset.set_epoch(epoch)
    loader.sampler.set_epoch(epoch)
    return {
        int(seed): image.as_tensor()
        for batch in loader
        for seed, image in zip(batch["sample_seed"], batch["image"], strict=True)
    }


def test_items_carry_id_and_seed() -> None:
    dataset = IndexedDataset(noisy(), seed=3)
    dataset.set_epoch(2)
    assert len(dataset) == dataset.source_length == 6
    item = dataset[4]
    assert (item["sample_id"], item["sample_seed"]) == (4, fold(3, 2, 4, 0))
    assert item["case"] == "case_4"
    assert "sample_id" not in DATA[4]


def test_index_beyond_the_length_is_a_further_visit() -> None:
    dataset = IndexedDataset(noisy(), seed=3)
    item = dataset[4 + 2 * 6]
    assert (item["sample_id"], item["sample_seed"]) == (4, fold(3, 0, 4, 2))
    first, second = images(dataset, [4, 10])
    assert not torch.equal(first, second)


def test_iteration_ends() -> None:
    assert [item["sample_id"] for item in IndexedDataset(noisy())] == list(range(6))


def test_negative_index_is_refused() -> None:
    with pytest.raises(IndexError, match="-1"):
        IndexedDataset(noisy())[-1]


@pytest.mark.parametrize("kind", [MonaiDataset, CacheDataset])
def test_augmentation_is_a_function_of_seed_epoch_and_sample(kind: type) -> None:
    dataset, again = IndexedDataset(noisy(kind), seed=1), IndexedDataset(noisy(kind), seed=1)
    forwards, backwards = images(dataset, [0, 1, 2]), images(again, [2, 1, 0])
    assert torch.equal(forwards, backwards.flip(0))
    assert not torch.equal(forwards, images(dataset, [0, 1, 2], epoch=2))
    assert not torch.equal(forwards, images(IndexedDataset(noisy(kind), seed=2), [0, 1, 2]))
    noise = forwards - torch.arange(3.0).view(3, 1, 1, 1)
    assert not torch.allclose(noise[0], noise[1])


def test_transforms_are_found_behind_subsets_and_concatenations() -> None:
    whole = IndexedDataset(noisy(), seed=1)
    subset = IndexedDataset(Subset(noisy(), [5, 3]), seed=1)
    assert torch.equal(images(whole, [5, 3]), images(subset, [0, 1]))
    both = IndexedDataset(ConcatDataset([noisy(), noisy()]), seed=1)
    assert torch.equal(images(both, [2, 8]), images(both, [2, 8]))


def test_subset_members_keep_their_source_index() -> None:
    nested: Any = Subset(Subset(noisy(), [5, 3, -6]), [2, 0])
    dataset = IndexedDataset(nested)
    assert [item["sample_id"] for item in dataset] == [0, 5]
    assert [item["case"] for item in dataset] == ["case_0", "case_5"]
    assert dataset.source_length == 6


def test_subset_with_a_sample_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="got sample 3 several times"):
        IndexedDataset(Subset(DATA, [1, 3, 3]))  # type: ignore[arg-type]


def test_source_length_may_be_longer_but_not_shorter() -> None:
    assert IndexedDataset(DATA, source_length=100).source_length == 100
    with pytest.raises(ValueError, match="greater than every sample ID, 5 at most"):
        IndexedDataset(DATA, source_length=5)


def test_crops_share_the_id_and_differ_in_seed() -> None:
    crop = RandSpatialCropSamplesd("image", roi_size=(2, 2), num_samples=3, random_size=False)
    data = [{"image": np.arange(100, dtype=np.float32).reshape(1, 10, 10)}] * 4
    dataset = IndexedDataset(MonaiDataset(data, Compose([crop])), seed=9)
    crops = dataset[2]
    assert [item["sample_id"] for item in crops] == [2, 2, 2]
    assert [item["sample_seed"] for item in crops] == [fold(9, 0, 2, 0, number) for number in range(3)]
    batch = next(iter(DataLoader(dataset, batch_size=2)))
    assert batch["sample_id"].tolist() == [0, 0, 0, 1, 1, 1]
    assert batch["sample_id"].dtype == batch["sample_seed"].dtype == torch.int64
    assert batch["sample_seed"][3] == fold(9, 0, 1, 0, 0)


@pytest.mark.parametrize("kind", [MonaiDataset, CacheDataset])
def test_loader_workers_change_nothing(kind: type) -> None:
    def epoch(workers: int) -> dict[int, torch.Tensor]:
        dataset = IndexedDataset(noisy(kind), seed=4)
        sampler = SeededSampler(6, num_samples=9, seed=4)
        return collect(DataLoader(dataset, sampler=sampler, batch_size=2, num_workers=workers), dataset, epoch=1)

    alone, together = epoch(0), epoch(2)
    assert len(alone) == 9
    assert alone.keys() == together.keys()
    assert all(torch.equal(image, together[seed]) for seed, image in alone.items())


def test_persistent_workers_see_new_epochs() -> None:
    dataset = IndexedDataset(noisy(), seed=4)
    loader = DataLoader(dataset, sampler=SeededSampler(6, seed=4), batch_size=2, num_workers=2, persistent_workers=True)
    reference = IndexedDataset(noisy(), seed=4)
    for epoch in (1, 2):
        seen = collect(loader, dataset, epoch)
        assert set(seen) == {fold(4, epoch, sample, 0) for sample in range(6)}
        expected = images(reference, list(range(6)), epoch)
        assert all(torch.equal(seen[fold(4, epoch, i, 0)], expected[i]) for i in range(6))


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[dict]:
        return iter(DATA)


@pytest.mark.parametrize("wrap", [lambda dataset: dataset, lambda dataset: Subset(dataset, [0])])
def test_data_sets_without_lasting_indices_are_refused(wrap: Any) -> None:
    smart = SmartCacheDataset(DATA, Compose([]), replace_rate=0.5, cache_num=4, progress=False)
    with pytest.raises(TypeError, match="SmartCacheDataset"):
        IndexedDataset(wrap(smart))
    with pytest.raises(TypeError, match="got Stream, which is iterable"):
        IndexedDataset(wrap(Stream()))


def test_what_is_no_data_set_is_refused() -> None:
    with pytest.raises(TypeError, match=r"expected a map-style data set .*got int"):
        IndexedDataset(3)


def test_items_that_cannot_be_named_are_refused() -> None:
    with pytest.raises(TypeError, match=r"item 1 of list must be a mapping.*got tuple"):
        IndexedDataset([(1, 2), (3, 4)])[1]
    with pytest.raises(TypeError, match="item 0 of IndexedDataset already has the key 'sample_id'"):
        IndexedDataset(IndexedDataset(DATA))[0]
    assert IndexedDataset(IndexedDataset(DATA), id_key="outer", seed_key="outer_seed")[2]["outer"] == 2


def records(folder: str, count: int = 3) -> list[dict[str, Any]]:
    return [{"image": Path(folder) / f"{i}.nii", "parts": [f"{folder}/{i}_0.nii"], "slice": i} for i in range(count)]


def test_fingerprint_follows_the_source_list_and_not_its_folder() -> None:
    def of(dataset: Any) -> str:
        return IndexedDataset(dataset).fingerprint

    reference = of(MonaiDataset(records("/a")))
    assert len(reference) == 16
    assert int(reference, 16) >= 0
    assert reference == of(MonaiDataset(records("/b/c"))) == of(Subset(MonaiDataset(records("/a")), [1]))
    assert reference != of(MonaiDataset(records("/a", count=4)))
    parts = [IndexedDataset(Subset(MonaiDataset(records("/a")), indices)) for indices in ([0, 1], [0, 2], [1, 0])]
    assert len({reference, *(part.samples_fingerprint for part in parts)}) == 4
    assert IndexedDataset(MonaiDataset(records("/a"))).samples_fingerprint == reference
    assert reference != of(MonaiDataset(records("/a")[::-1]))
    for key, value in {"image": "other.nii", "parts": ["other.nii"], "slice": 7}.items():
        changed = records("/a")
        changed[1][key] = value
        assert of(MonaiDataset(changed)) != reference


def test_fingerprint_leaves_arrays_and_transforms_alone() -> None:
    class Fails(MonaiDataset):
        def __getitem__(self, index: Any) -> Any:
            raise AssertionError("an item was loaded")

    assert IndexedDataset(Fails(DATA)).fingerprint == IndexedDataset(MonaiDataset(DATA)).fingerprint
    assert IndexedDataset([np.zeros(1)] * 2).fingerprint != IndexedDataset([np.zeros(1)] * 3).fingerprint
