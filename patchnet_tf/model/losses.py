"""What a PatchNet is trained with: the loss of its kind of classes, and the accuracy that `fit` logs.

two classes         binary cross-entropy of the probability of class 1, targets (N, 1)
three or more       categorical cross-entropy of their probabilities, one-hot targets (N, K)
labels              binary cross-entropy of each label's, averaged over the labels, targets (N, K) of 0 and 1
"""

from typing import Any

import keras

from .checks import check_classes
from .patchnet import PatchNet


def loss_and_metrics(model: PatchNet) -> dict[str, Any]:
    """Return `loss` and `metrics` for `model.compile`.

    The metric is called "accuracy": the share of images called right, or of all labels of all images.

    Example:
        >>> model = PatchNet((128, 128, 3), patch_size=17, classes=5)
        >>> model.compile("adam", **loss_and_metrics(model))
        >>> model.fit(images, keras.utils.to_categorical(labels, 5))
    """
    return loss_of(model.classes, model.multilabel)


def loss_of(classes: int, multilabel: bool = False) -> dict[str, Any]:
    """Return what `loss_and_metrics` returns, for so many classes or labels.

    Example:
        >>> loss_of(5)["loss"]
        'categorical_crossentropy'
    """
    if multilabel:
        return {"loss": "binary_crossentropy", "metrics": [keras.metrics.BinaryAccuracy(name="accuracy")]}
    if check_classes(classes, multilabel) == 1:
        return {"loss": "binary_crossentropy", "metrics": ["accuracy"]}
    return {
        "loss": "categorical_crossentropy",
        "metrics": [keras.metrics.CategoricalAccuracy(name="accuracy")],
    }
