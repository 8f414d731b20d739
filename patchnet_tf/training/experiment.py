"""The old place of what is in `run`, `recorder`, `build`, `train` and in `patchnet_tf.evaluation`."""

from ..evaluation import metrics as metrics
from ..evaluation.evaluate import evaluate as evaluate
from ..evaluation.explain import explain as explain
from ..progress import Progress as Progress
from ..progress import silent as silent
from .build import build as build
from .run import claim as claim
from .run import open_run as open_run
from .run import with_classes as with_classes
from .train import Training as Training
from .train import ended as ended
from .train import finish as finish
from .train import train as train


def some_of_each(examples):
    """Return the first two images of each class."""
    return examples.some_of_each()
