"""Reading a 2-D plan from the `nnUNetPlans.json` of nnU-Net version 2."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_amat.tasks.segmentation.planning.plan import Plan2D

__all__ = ["read_plans"]

_CONFIGURATION = "2d"


def read_plans(path: str | Path) -> Plan2D:
    """Read the configuration `2d` of a plans file.

    Both forms of version 2 are supported: the network under `architecture` (from 2.4) or next to `patch_size`. The
    network must be the plain U-Net with two 3x3 convolutions per resolution, which `nnunet_2d` builds.

    Args:
        path: the JSON file.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: naming the file and the key, for pickles of version 1, for files that are not plans, and for
            networks that this package does not build.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "nnUNetPlans.json"
        >>> network = {"UNet_base_num_features": 32, "unet_max_num_features": 512, "pool_op_kernel_sizes":
        ...     [[1, 1], [2, 2], [2, 2], [2, 2]], "patch_size": [56, 40], "batch_size": 366, "spacing": [1.0, 1.0]}
        >>> _ = file.write_text(json.dumps({"configurations": {"2d": network}}))
        >>> read_plans(file)
        Plan2D(patch_size=(56, 40), poolings=(3, 3), features=(32, 64, 128, 256), batch_size=366, spacing=(1.0, 1.0))
    """
    file = Path(path)
    if file.suffix == ".pkl":
        raise ValueError(
            f"{file}: expected nnUNetPlans.json of nnU-Net version 2, got a pickle of version 1, which would run "
            "code when read; give a JSON file, or no plans, so that the data set is planned here"
        )
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such plans file; expected nnUNetPlans.json of nnU-Net")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise ValueError(f"{file}: not valid JSON: {error}") from error
    return _Reader(file, content).plan()


class _Reader:
    """Reads the configuration; errors name the file and the key."""

    def __init__(self, file: Path, content: Any) -> None:
        self.file = file
        configurations = content.get("configurations") if isinstance(content, dict) else None
        if not isinstance(configurations, dict) or not isinstance(configurations.get(_CONFIGURATION), dict):
            raise self.error(f"configurations#{_CONFIGURATION}", "an object, as nnU-Net version 2 writes it", None)
        self.values: Mapping[str, Any] = configurations[_CONFIGURATION]

    def error(self, key: str, expected: str, found: Any) -> ValueError:
        what = "nothing" if found is None else repr(found)
        return ValueError(f"{self.file}: {key} must be {expected}, got {what}")

    def plan(self) -> Plan2D:
        place = f"configurations#{_CONFIGURATION}"
        patch = self._pair(f"{place}#patch_size", self.values.get("patch_size"), whole=True)
        spacing = self._pair(f"{place}#spacing", self.values.get("spacing"), whole=False)
        batch = self.values.get("batch_size")
        if not isinstance(batch, int) or batch < 1:
            raise self.error(f"{place}#batch_size", "a whole number of at least 1", batch)
        schemes = self.values.get("normalization_schemes", [])
        if any(scheme != "ZScoreNormalization" for scheme in schemes):
            warnings.warn(
                f"{self.file}: {place}#normalization_schemes is {schemes}; this package z-scores every channel over "
                "its volume instead",
                stacklevel=3,
            )
        strides, features = self._network(place)
        poolings = (sum(h == 2 for h, _ in strides), sum(w == 2 for _, w in strides))
        # As in nnunet_2d: an axis with fewer poolings has them first.
        if strides != [(2 if i < poolings[0] else 1, 2 if i < poolings[1] else 1) for i in range(len(strides))]:
            raise self.error(
                f"{place}: strides",
                "[1, 1], then poolings by 2, where an axis with fewer poolings has them first",
                [list(pair) for pair in strides],
            )
        for axis in (0, 1):
            if patch[axis] % 2 ** poolings[axis]:
                raise self.error(f"{place}#patch_size", f"divisible by {2 ** poolings[axis]}", list(patch))
        return Plan2D((int(patch[0]), int(patch[1])), poolings, features, batch, spacing)

    def _network(self, place: str) -> tuple[list[tuple[int, int]], tuple[int, ...]]:
        """Strides below full resolution and channels of each resolution."""
        newer = self.values.get("architecture")
        if isinstance(newer, dict):
            name, found = newer.get("network_class_name", ""), newer.get("arch_kwargs", {})
            place, keys = f"{place}#architecture#arch_kwargs", ("strides", "features_per_stage")
        else:
            name, found = self.values.get("UNet_class_name", "PlainConvUNet"), dict(self.values)
            keys = ("pool_op_kernel_sizes", "features_per_stage")
        if str(name).rpartition(".")[2] != "PlainConvUNet":
            raise self.error(f"{place}: network class", "PlainConvUNet; no other is built here", name)
        strides = found.get(keys[0])
        pairs = [pair for pair in strides or [] if isinstance(pair, list) and len(pair) == 2 and set(pair) <= {1, 2}]
        if not isinstance(strides, list) or len(pairs) != len(strides) or len(pairs) < 3 or pairs[0] != [1, 1]:
            raise self.error(f"{place}#{keys[0]}", "[1, 1] and two or more pairs of 1 and 2", strides)
        base, most = found.get("UNet_base_num_features"), found.get("unet_max_num_features")
        if keys[1] not in found and isinstance(base, int) and isinstance(most, int):
            found = {**found, keys[1]: [min(base * 2**i, most) for i in range(len(strides))]}
        features = found.get(keys[1])
        if (
            not isinstance(features, list)
            or len(features) != len(strides)
            or not all(isinstance(width, int) and width > 0 for width in features)
        ):
            raise self.error(f"{place}#{keys[1]}", f"{len(strides)} numbers of channels", features)
        for key, expected in (
            ("kernel_sizes", 3),
            ("conv_kernel_sizes", 3),
            ("n_conv_per_stage", 2),
            ("n_conv_per_stage_encoder", 2),
            ("n_conv_per_stage_decoder", 2),
        ):
            if key in found and not _all_are(found[key], expected):
                raise self.error(f"{place}#{key}", f"{expected} throughout", found[key])
        return [(pair[0], pair[1]) for pair in pairs[1:]], tuple(features)

    def _pair(self, key: str, value: Any, *, whole: bool) -> tuple[Any, Any]:
        kinds = (int,) if whole else (int, float)
        good = (
            isinstance(value, list) and len(value) == 2 and all(isinstance(part, kinds) and part > 0 for part in value)
        )
        if not good:
            raise self.error(key, f"two positive {'whole ' if whole else ''}numbers (H, W)", value)
        return value[0], value[1]


def _all_are(value: Any, number: int) -> bool:
    return all(_all_are(part, number) for part in value) if isinstance(value, list) else bool(value == number)
