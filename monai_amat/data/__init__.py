"""Data sets that know their samples, Decathlon folders as slices, cephalograms, blood smears, phantoms of each."""

from monai_amat.data.duplicates import identical_files
from monai_amat.data.images import list_images, list_volumes
from monai_amat.data.indexed import IndexedDataset
from monai_amat.data.sampler import SeededSampler

__all__ = [
    "IndexedDataset",
    "SeededSampler",
    "identical_files",
    "list_images",
    "list_volumes",
]
