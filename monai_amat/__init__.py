"""Adversarial robustness for medical imaging in MONAI: PGD attacks, adaptive-margin training and robustness curves.

Subpackages are loaded when first used, so ``import monai_amat`` costs nothing and ``monai_amat.data.load_slices`` works
in a bundle's configuration after ``$import monai_amat``.
"""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = [
    "__version__",
    "attacks",
    "data",
    "engines",
    "handlers",
    "losses",
    "margins",
    "metrics",
    "networks",
    "robustness",
    "transforms",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
