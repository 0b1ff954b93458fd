"""Data sets that know their samples, Decathlon folders as slices, cephalograms, blood smears, phantoms of each."""

from monai_amat.data.cells_phantom import write_cells_phantom
from monai_amat.data.cephalogram_phantom import write_cephalogram_phantom
from monai_amat.data.cephalograms import load_cephalograms
from monai_amat.data.decathlon import Case, Decathlon, Split, check_case, split
from monai_amat.data.duplicates import identical_files
from monai_amat.data.fit import check_fit
from monai_amat.data.images import list_images, list_volumes
from monai_amat.data.indexed import IndexedDataset
from monai_amat.data.landmark_files import LANDMARK_NAMES
from monai_amat.data.phantom import write_phantom
from monai_amat.data.radiographs import list_radiographs
from monai_amat.data.sampler import SeededSampler
from monai_amat.data.sampling_weights import oversampled_weights
from monai_amat.data.selection import balanced_subset
from monai_amat.data.slices import load_slices
from monai_amat.data.voc import BCCD_CLASSES, load_voc, paper_split
from monai_amat.data.volume import check_header, check_volume

__all__ = [
    "BCCD_CLASSES",
    "LANDMARK_NAMES",
    "Case",
    "Decathlon",
    "IndexedDataset",
    "SeededSampler",
    "Split",
    "balanced_subset",
    "check_case",
    "check_fit",
    "check_header",
    "check_volume",
    "identical_files",
    "list_images",
    "list_radiographs",
    "list_volumes",
    "load_cephalograms",
    "load_slices",
    "load_voc",
    "oversampled_weights",
    "paper_split",
    "split",
    "write_cells_phantom",
    "write_cephalogram_phantom",
    "write_phantom",
]
