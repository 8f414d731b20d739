"""Class activation maps."""

from typing import Any

import keras
import numpy as np
from keras import ops

from .class_maps import ClassMaps, uncropped
from .layers import find, recorded


class CAM(ClassMaps):
    """Class activation maps; see `cam`."""

    def __init__(self, model: keras.Model, batch_size: int = 8, class_index: int | None = None) -> None:
        super().__init__(model, batch_size, class_index)
        self.average = find(
            model, keras.layers.GlobalAveragePooling2D, "global average pooling (GlobalAveragePooling2D)"
        )
        self.unit = find(model, keras.layers.Dense, "linear units (Dense)")

    def raw(self, images: Any) -> Any:
        """Weigh the maps that are averaged with the weights of the class's unit."""
        with recorded(self.average) as averaged, recorded(self.unit) as weighed, self.crops() as cropped:
            self.model(images, training=False)
        features, means = averaged[0][0], weighed[0][0]  # (B, h, w, K), (B, K)
        if means.shape != features.shape[::3] or not np.allclose(
            *map(ops.convert_to_numpy, (ops.mean(features, (1, 2)), means)), rtol=1e-2, atol=1e-3
        ):
            raise ValueError(
                "CAM is defined where the linear unit directly follows global average pooling; use Grad-CAM "
                f"here. Received: {self.model.name!r} with other steps between {self.average.name!r} and "
                f"{self.unit.name!r}"
            )
        maps = ops.matmul(features, ops.cast(self.unit.kernel[:, self.column], features.dtype))
        return uncropped(maps, cropped)


def cam(
    model: keras.Model, images: Any, *, class_index: int | None = None, batch_size: int = 8
) -> np.ndarray:
    """Class activation maps (Zhou et al. 2016, arXiv 1512.04150).

    The feature maps that the model averages, weighed with the weights of its linear unit, or of
    the class's: what each of their pixels adds to the score.

    Args:
        model: a functional Keras classifier that ends with global average pooling and one linear unit, or
            one for each class, such as `vgg19_cam`; the pooling may be inside a nested model.
        images: (N, H, W, C), as the model takes them.
        class_index: number of the class, from 0, or of the label, whose map is drawn, where the model has an
            output for each. None means class 1 of two classes, and is refused where there are more.
        batch_size: images at a time.

    Returns:
        (N, H, W), float32 in [0, 1]: up-sampled bilinearly, then each image's lowest value 0, its highest
        1; 0.5 everywhere for a constant map.

    Raises:
        ValueError: the model, the images or the class are not as above, or the model returned NaN.

    Example:
        >>> cam(vgg19_cam((64, 96, 1)), numpy.zeros((2, 64, 96, 1))).shape
        (2, 64, 96)

        >>> cam(vgg19_cam((64, 96, 1), classes=5), images, class_index=3)  # of the fourth class
    """
    return CAM(model, batch_size, class_index)(images)
