"""The arms of a study, written as `std`, `sat:5`, `amat` …: which config files of a bundle, with which values."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from monai.bundle import ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver

__all__ = ["Arm", "Bundle"]

_NUMBER = r"(\d+\.?\d*|\.\d+)(e[+-]?\d+)?"


@dataclass(frozen=True)
class Bundle:
    """A bundle's folder.

    Raises:
        FileNotFoundError: when it has no `configs/train.json`.
    """

    root: Path

    def __post_init__(self) -> None:
        if not self.config("train").is_file():
            raise FileNotFoundError(
                f"{self.root} is not a bundle: configs/train.json is missing; give the folder of a bundle"
            )

    def config(self, name: str) -> Path:
        """Path of a config file by name."""
        return self.root / "configs" / f"{name}.json"

    def overlays(self, name: str) -> tuple[str, ...]:
        """The config files that an overlay consists of: those it lies on, by its `overlay_of`, and itself.

        Raises:
            ValueError: when there is no such file.
        """
        file = self.config(name)
        if not file.is_file():
            known = sorted(path.stem for path in file.parent.glob("*.json"))
            raise ValueError(f"{self.root} has no configs/{name}.json; there are {', '.join(known)}")
        below = json.loads(file.read_text(encoding="utf-8")).get("overlay_of")
        return (*(self.overlays(below) if below else ()), name)

    def takes(self, key: str, names: Sequence[str]) -> bool:
        """Whether these config files, merged, have the ID `key`, or the part that it would be added to.

        MONAI takes any value at the top level, so that one with a typing error would change nothing.
        """
        parser = ConfigParser(ConfigParser.load_config_files([str(self.config(name)) for name in names]))
        part = re.split("#|::", key)[:-1]
        return key in parser or (bool(part) and "#".join(part) in parser)

    def nearest(self, key: str, names: Iterable[str]) -> str:
        """The top-level id of these config files that is spelt most like `key`."""
        known = {name for file in names for name in json.loads(self.config(file).read_text(encoding="utf-8"))}
        return difflib.get_close_matches(key, sorted(known), 1, 0.0)[0]

    def concerns(self, key: str, names: Sequence[str], overlays: Sequence[str]) -> bool:
        """Whether a value at `key` is meant for a run of the config files `names` with `overlays` over them.

        An overlay such as `small` lies over every run and has values for all of them. Those that a run itself does
        not take, but other config files of the bundle do, are not meant for it: steps of the attack are nothing to
        training. What the overlay alone has is meant for every run that it lies over.
        """
        if not self.takes(key, (*names, *overlays)):
            return False
        return self.takes(key, names) or not any(
            self._takes_over_training(key, file.stem)
            for file in sorted(self.config("train").parent.glob("*.json"))
            if file.stem not in (*overlays, "metadata")
        )

    def _takes_over_training(self, key: str, name: str) -> bool:
        try:
            return self.takes(key, ("train", *self.overlays(name)))
        except (KeyError, ValueError):  # it does not lie on training alone, so that nothing is known of it
            return False

    def shapes_network(self, key: str) -> bool:
        """Whether the architecture depends on the ID `key`: a part of `network_def`, or referred to from there."""
        parser = ConfigParser(ConfigParser.load_config_file(str(self.config("train"))))
        reached, todo = set(), ["network_def"]
        while todo:
            name = todo.pop()
            if name not in reached and name in parser:
                reached.add(name)
                todo += ReferenceResolver.find_refs_in_config(parser[name], name)
        return re.split("#|::", key)[0] in reached


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Args:
        spec: as written on the command line.
        overlays: config files laid over `train.json`, in order.
        values: values set in them.
    """

    spec: str
    overlays: tuple[str, ...]
    values: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, spec: str, bundle: Bundle) -> Arm:
        """Read `overlay[+overlay…][:ε]` or `overlay[+overlay…][:key=value,key=value…]`.

        `std` is the clean training without an overlay; `std+bce` is the clean training with an overlay that changes
        something else. A bare number sets `epsilon`. `initial_weights=std` lets training start from the
        clean network of the same seed.

        Raises:
            ValueError: for an overlay that the bundle does not have, or values that cannot be parsed or
                that no configuration has.

        Example:
            >>> import tempfile
            >>> root = Path(tempfile.mkdtemp())
            >>> (root / "configs").mkdir()
            >>> for name, text in (
            ...     ("train", "{}"), ("sat", '{"epsilon": 1}'), ("amat", "{}"), ("wild", '{"overlay_of": "amat"}')
            ... ):
            ...     _ = (root / "configs" / f"{name}.json").write_text(text)
            >>> Arm.parse("sat:5", Bundle(root)).values, Arm.parse("wild", Bundle(root)).overlays
            ((('epsilon', '5'),), ('amat', 'wild'))
        """
        names, _, tail = spec.partition(":")
        overlays: list[str] = []
        first, *further = names.split("+")
        for name in further if first == "std" else [first, *further]:
            overlays += [part for part in bundle.overlays(name) if part not in overlays]
        values = []
        for part in filter(None, tail.split(",")):
            key, equals, value = part.partition("=")
            if not equals and re.fullmatch(_NUMBER, part):
                key, value = "epsilon", part
            elif not key or not equals:
                raise ValueError(f"arm {spec!r}: {part!r} is neither a number (ε) nor key=value")
            if not bundle.takes(key, ("train", *overlays)):
                raise ValueError(f"arm {spec!r} sets {key}, which none of its configuration files has")
            values.append((key, value))
        return cls(spec, tuple(overlays), tuple(values))

    @property
    def label(self) -> str:
        """What tables and legends call it.

        Example:
            >>> Arm("sat:5", ("sat",), ()).label, Arm("amat_boundary", ("amat", "amat_boundary"), ()).label
            ('SAT 5', 'AMAT boundary')
            >>> Arm("amat_path+amat_shuffled:delta=1", ("amat", "amat_path", "amat_shuffled"), ()).label
            'AMAT path + shuffled (delta=1)'
        """
        names, _, tail = self.spec.partition(":")
        first, *further = (name.split("_") for name in names.split("+"))
        family = first[0]
        parts = [" ".join([family.upper(), *first[1:]])]
        parts += [" ".join(words[1:] if len(words) > 1 and words[0] == family else words) for words in further]
        text = f" ({tail.replace(',', ', ')})" if "=" in tail else f" {tail}" if tail else ""
        return " + ".join(parts) + text

    @property
    def folder(self) -> str:
        """Its folder's name."""
        return re.sub(r"[^A-Za-z0-9.+=-]+", "_", self.spec)

    @property
    def starts_from_std(self) -> bool:
        """Whether training starts from the weights of the clean network of the same seed, `initial_weights=std`."""
        return dict(self.values).get("initial_weights") == "std"

    def needs_thresholds(self, bundle: Bundle) -> bool:
        """Whether training reads a thresholds file."""
        merged: dict[str, object] = {}
        for name in self.overlays:
            merged.update(json.loads(bundle.config(name).read_text(encoding="utf-8")))
        return "@thresholds_file" in json.dumps(merged)
