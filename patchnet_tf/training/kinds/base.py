"""What is to know about a kind of model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np

from ...config import ModelSection


class Draw(Protocol):
    """Draws the map of an image, or the maps of its classes."""

    def __call__(
        self, image: np.ndarray, progress: Callable[[float], None], classes: Sequence[int] | None = None
    ) -> np.ndarray:
        """Return the map (H, W) in [0, 1] of two exclusive classes, or (H, W, K) of more and of labels.

        Args:
            image: (H, W, C).
            progress: told the share that is done.
            classes: numbers of those to draw, (H, W, len(classes)), where there are several; None means all.
        """


class Names(NamedTuple):
    """A model and the method that draws its maps, as files and as tables call them.

    Attributes:
        slug: of the model, in names of files.
        label: of the model, in tables.
        method: slug of the method.
        method_label: of the method.
    """

    slug: str
    label: str
    method: str
    method_label: str


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        section: its section in a configuration, `model`.
        network: what builds it: an image shape (H, W, C) and, by name, the section's keys but `kind`, and
            how many `classes` there are and whether they are `multilabel`, to a Keras model.
        drawing: takes a model, and returns what draws the map of an image.
        smallest: takes a section, and returns the (height, width) that the model must see at least.
        names: takes a section, and returns how files and tables call the model and its method.
        others: further methods that a comparison draws with: `names`, of the same model, and `drawing`.
        split: takes a model, and returns the network in it that is frozen, from images to features, and the
            rest, from those to the probability; None where features cannot be computed once for all epochs.
        fixed_size: takes a section, and returns whether all images must have the size of those of training.
        patches: whether it decides about patches, whose size the section says: `patch_size`.
        snapshots: whether its heatmaps can be drawn in training.
        exportable: whether it can be exported, its map with it.
    """

    section: type[ModelSection]
    network: Callable[..., keras.Model]
    drawing: Callable[[keras.Model], Draw]
    smallest: Callable[[Any], tuple[int, int]]
    names: Callable[[Any], Names]
    others: tuple[tuple[Callable[[Any], Names], Callable[[keras.Model], Draw]], ...] = ()
    split: Callable[[Any], tuple[keras.Model, keras.Model] | None] = lambda model: None
    fixed_size: Callable[[Any], bool] = lambda section: False
    patches: bool = False
    snapshots: bool = False
    exportable: bool = False

    @property
    def min_max_normalized(self) -> bool:
        """Whether each map is scaled from its own lowest to its own highest value; see its section."""
        return self.section.min_max_normalized

    def methods(self, section: ModelSection) -> list[tuple[Names, Callable[[keras.Model], Draw]]]:
        """Return (names, drawing) of each method that draws its maps, its own first."""
        return [(names(section), drawing) for names, drawing in ((self.names, self.drawing), *self.others)]

    def smallest_image(self, section: ModelSection) -> tuple[int, int]:
        """Return the (height, width) that an image must have at least."""
        return section.crop or self.smallest(section)


def drawn_by(method: Callable[..., np.ndarray]) -> Callable[[keras.Model], Draw]:
    """Return the `drawing` of a method of `patchnet_tf.baselines`, which takes (N, H, W, C)."""

    def drawing(model: keras.Model) -> Draw:
        outputs = model.output_shape[-1]

        def draw(
            image: np.ndarray, progress: Callable[[float], None], classes: Sequence[int] | None = None
        ) -> np.ndarray:
            if outputs == 1:
                heatmap = method(model, image[None])[0]  # (H, W)
                progress(1)
                return heatmap
            wanted = range(outputs) if classes is None else classes
            maps = []
            for done, k in enumerate(wanted, 1):
                maps.append(method(model, image[None], class_index=k)[0])
                progress(done / len(wanted))
            return np.stack(maps, axis=-1)  # (H, W, K)

        return draw

    return drawing
