"""What the data of every task needs: data sets with sample IDs, seeded orders, duplicates, folders."""

from monai_amat.data.duplicates import identical_files
from monai_amat.data.indexed import IndexedDataset
from monai_amat.data.pictures import check_pictures
from monai_amat.data.sampler import SeededSampler

__all__ = [
    "IndexedDataset",
    "SeededSampler",
    "check_pictures",
    "identical_files",
]
