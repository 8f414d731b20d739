"""A PatchNet around a frozen network, in two: what never changes in training, and what learns.

The features of an image are computed once; training then runs the head, the decisions and the pooling alone.
"""

import keras

from .patchnet import PatchNet


def split_frozen(model: PatchNet) -> tuple[keras.Model, keras.Model] | None:
    """Split G into the frozen network and the rest, which share its weights.

    Args:
        model: a PatchNet.

    Returns:
        The model from images (B, H, W, C) to the features (B, rows, columns, F) of the patches that
        G looks at, and the model from those to what G returns. None where S has no frozen body, or
        G's stride is not on its grid.

    Example:
        >>> S = local_network("efficientnet_lite0", patch_size=35)
        >>> network, rest = split_frozen(PatchNet((None, None, 3), subnet=S))
        >>> rest(network(images))  # equals model(images)
    """
    S = model.subnet
    body = getattr(S, "body", None)
    if body is None or body.trainable or model.stride % S.stride:
        return None
    image = keras.Input(model.image_shape, name="image")
    x = body(model.covered(image))  # (B, h, w, F), at S's own stride
    step = model.stride // S.stride
    network = keras.Model(image, x[:, ::step, ::step], name="network")

    features = keras.Input((None, None, x.shape[-1]), name="features")
    units = S.output_shape[-1]
    q = S.decision(keras.layers.Reshape((-1, units), name="patches")(S.head(features)))  # (B, P, units)
    return network, keras.Model(features, model.pooling(q), name="rest")
