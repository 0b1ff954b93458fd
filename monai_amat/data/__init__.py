"""Data sets that know their samples, Decathlon folders as slices, and the phantom."""

from monai_amat.data.decathlon import Case, Decathlon, Split, check_case, split
from monai_amat.data.fit import check_fit
from monai_amat.data.indexed import IndexedDataset
from monai_amat.data.phantom import write_phantom
from monai_amat.data.sampler import SeededSampler
from monai_amat.data.sampling_weights import oversampled_weights
from monai_amat.data.selection import balanced_subset, list_volumes
from monai_amat.data.slices import load_slices
from monai_amat.data.volume import check_volume

__all__ = [
    "Case",
    "Decathlon",
    "IndexedDataset",
    "SeededSampler",
    "Split",
    "balanced_subset",
    "check_case",
    "check_fit",
    "check_volume",
    "list_volumes",
    "load_slices",
    "oversampled_weights",
    "split",
    "write_phantom",
]
