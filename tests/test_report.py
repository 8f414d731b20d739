import base64
import csv
import html
import json
import re
import shutil
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from patchnet_tf.config import load_config
from patchnet_tf.errors import InputError
from patchnet_tf.evaluation import metrics
from patchnet_tf.evaluation.results import Comparison, Image, Method, Model
from patchnet_tf.reporting import gallery, plots
from patchnet_tf.reporting import page as page_module
from patchnet_tf.reporting.report import write_report
from patchnet_tf.training.history import Row

from .browser import visit
from .small import SMALL

EVIL = "<script>alert('a&b')</script>"
HISTORY = (
    "epoch,seconds,loss,accuracy,val_loss,val_accuracy\n1,3.0,0.9,0.5,0.8,0.55\n2,2.0,0.4,0.75,0.5,0.7\n"
)
METHODS = {"patchnet5": "patchnet5", "cam": "cam", "grad_cam": "vgg11"}


def number(value):
    return None if np.isnan(value) else float(value)


def mean(value, low, high, images, skipped=0):
    """A mean as JSON has it."""
    return {"mean": value, "low": low, "high": high, "images": images, "skipped": skipped}


def write(folder, results):
    (folder / "comparison.json").write_text(json.dumps(results, allow_nan=False))


def comparison(folder, *, n=12, size=(6, 8), masked=True, class_names=("cat", EVIL)):
    """Leave what `patchnet compare` leaves: random maps, measured. Returns the content of comparison.json."""
    rng = np.random.default_rng(0)
    (folder / "maps").mkdir(parents=True)
    masks = rng.random((n, *size)) < 0.3
    masks[0] = False  # nothing to find
    np.save(folder / "maps" / "images.npy", rng.integers(0, 256, (n, *size, 3), "uint8"))
    if masked:
        np.save(folder / "maps" / "masks.npy", masks)

    def split(images):
        return {
            "loss": mean(rng.random(), 0.123, 0.987, images),
            "accuracy": mean(rng.random(), 0.11, 0.99, images),
            "auroc": mean(None if images == 7 else rng.random(), None, None, images),
        }

    models, methods, measured = [], [], {}
    for slug, label in (("patchnet5", "PatchNet 5"), ("cam", "CAM"), ("vgg11", "VGG-11 $x_1$ <b>")):
        (folder / slug).mkdir()
        (folder / slug / "history.csv").write_text(HISTORY)
        models.append(
            {
                "slug": slug,
                "label": label,
                "kind": "patchnet" if slug == "patchnet5" else slug,
                "parameters": int(rng.integers(10**6)),
                "epochs": 2,
                "best_epoch": 2,
                "seconds_per_epoch": 2.5,
                "ended": "all 2 epochs are done",
                "validation": split(90),
                "test": split(7) if slug == "cam" else None,
            }
        )
    for slug, model in METHODS.items():
        maps = rng.random((n, *size)).astype("float32")
        np.save(folder / "maps" / f"{slug}.npy", maps)
        measured[slug] = metrics.per_image(maps, masks)
        localization = {
            name: {k: number(v) for k, v in metrics.summarize(values)._asdict().items()}
            for name, values in measured[slug].items()
        }
        areas = mean(rng.random(), 0.25, 0.75, 5)
        curves = {"share": [0, 0.5, 1], "deletion": [1, 0.5, 0], "insertion": [0, 0.5, 1]}
        methods.append(
            {
                "slug": slug,
                "label": slug.upper(),
                "model": model,
                "min_max_normalized": slug != "patchnet5",
                "localization": localization if masked else None,
                "faithfulness": {"deletion": areas, "insertion": areas | {"mean": None}, "curves": curves},
            }
        )
    images = [
        {
            "name": f"image_{k}" if k else EVIL,
            "label": [0, 1, None][k % 3],
            "probability": {model["slug"]: rng.random() for model in models},
            "localization": {
                slug: {name: number(values[k]) for name, values in of.items()}
                for slug, of in measured.items()
            }
            if masked
            else None,
        }
        for k in range(n)
    ]
    results = {
        "date": "2020-02-29",
        "name": "pets",
        "class_names": list(class_names),
        "masks": "ears" if masked else None,
        "models": models,
        "methods": methods,
        "images": images,
        "config": {"name": "pets", "data": {"path": EVIL, "size": None}},
        "versions": {"keras": "3.15.1"},
    }
    write(folder, results)
    return results


class Page(HTMLParser):
    """What a page holds: elements with their attributes, and the rows of its tables as texts."""

    VOID = ("meta", "link", "img", "br", "path", "use", "rect")

    def __init__(self, text):
        super().__init__()
        self.elements, self.tables, self.open, self.scripts = [], {}, [], []
        self.feed(text)
        self.close()
        assert self.open == [], "elements are not closed"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.rows = self.tables.setdefault(attributes["aria-labelledby"].removesuffix("-caption"), [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif {"td", "th"} & set(self.open):
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def read(folder):
    path = write_report(folder)
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def shown(mean, low=None, high=None, digits=3):
    """A figure as tables have it."""
    if mean is None:
        return "–"
    return f"{mean:.{digits}f}" + (f" {low:.2f} to {high:.2f}" if low is not None else "")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared") / "pets"
    return folder, comparison(folder), read(folder)


def test_every_figure_of_the_tables(compared):
    _, results, page = compared
    rows = page.tables["classification"][2:]
    for row, model in zip(rows, results["models"], strict=True):
        expected = [model["label"]]
        for split in (model["validation"], model["test"]):
            for name in ("accuracy", "auroc", "loss"):
                m = split[name] if split else mean(None, None, None, 0)
                expected.append(shown(m["mean"], m["low"], m["high"]))
        assert row == [*expected, "2.5", "2", "2", f"{model['parameters']:,}"]

    head, *rows = page.tables["localization"]
    assert head == ["measure", *(method["label"] for method in results["methods"]), "images"]
    for row, (name, title) in zip(rows, metrics.TITLES.items(), strict=True):
        measures = [method["localization"][name] for method in results["methods"]]
        assert row[0].startswith(title)
        assert row[1:-1] == [shown(m["mean"], m["low"], m["high"]) for m in measures]
        assert row[-1] == ("12" if name == "exact_match" else "11 1 skipped")

    _, deletion, insertion = page.tables["faithfulness"]
    areas = [method["faithfulness"]["deletion"]["mean"] for method in results["methods"]]
    assert deletion[1:] == [f"{area:.3f} 0.25 to 0.75 5 images" for area in areas]
    assert insertion[1:] == ["– 5 images"] * 3

    rows = page.tables["images"][2:]
    for row, image in zip(rows, results["images"], strict=True):
        label = image["label"]
        expected = [image["name"], "–" if label is None else results["class_names"][label]]
        for slug, model in METHODS.items():
            p = image["probability"][model]
            wrong = label is not None and (p > 0.5) != (label == 1)
            expected.append(shown(p) + " ✗" * wrong)
            expected += [shown(image["localization"][slug][name]) for name in page_module.PAPER]
        assert row == expected


def test_numbers_of_images_that_differ_stand_beside_each_figure(tmp_path):
    results = comparison(tmp_path / "pets")
    results["methods"][1]["localization"]["auroc"] |= {"images": 9, "skipped": 3}
    write(tmp_path / "pets", results)
    row = read(tmp_path / "pets").tables["localization"][1]
    assert [cell.rpartition(" to ")[2][5:] for cell in row[1:-1]] == ["11 images", "9 images", "11 images"]
    assert row[-1] == "they differ"


def test_grid_has_the_worst_the_best_and_others(compared):
    folder, results, page = compared
    rows = page.tables["maps"][1:]
    areas = {
        image["name"]: image["localization"]["patchnet5"]["auroc"]
        for image in results["images"]
        if image["localization"]["patchnet5"]["auroc"] is not None
    }
    ranked = sorted(areas, key=areas.get)
    names = [re.sub(" (cat|<script.*)$", "", row[0]) for row in rows]
    others = [image["name"] for image in results["images"] if image["name"] in ranked[4:-4]]
    assert [name for name in names if name] == [
        "Lowest AUROC", *ranked[:4], "Highest AUROC", *ranked[:-5:-1], "Others", EVIL, *others
    ]  # fmt: skip
    worst = rows[1]
    assert worst[3].endswith(f"AUROC {areas[ranked[0]]:.2f}")

    # Pictures are the pixels themselves: an image, its mask, and round(255 Q) of each map.
    k = [image["name"] for image in results["images"]].index(ranked[0])
    uris = [attributes["src"] for attributes in page.all("img")][1:]
    drawn = [decoded(uri) for uri in uris[:5]]
    np.testing.assert_array_equal(drawn[0], np.load(folder / "maps" / "images.npy")[k][..., ::-1])
    np.testing.assert_array_equal(drawn[1], 255 * np.load(folder / "maps" / "masks.npy")[k])
    for picture, slug in zip(drawn[2:], METHODS, strict=True):
        np.testing.assert_array_equal(picture, np.rint(255 * np.load(folder / "maps" / f"{slug}.npy")[k]))


def decoded(uri):
    kind, _, data = uri.partition(",")
    assert kind == "data:image/png;base64"
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), "uint8"), cv2.IMREAD_UNCHANGED)


def test_only_maps_of_other_networks_are_called_normalized(compared):
    text = (compared[0] / "report.html").read_text()
    assert "The maps of CAM and GRAD_CAM are drawn in the same greys, but each is min-max normalized" in text


def test_the_date_of_the_figures(compared):
    assert "Measured on 2020-02-29." in (compared[0] / "report.html").read_text()


@pytest.mark.parametrize("scaled", [False, True])
def test_images_that_are_scaled_each_by_itself_are_told(scaled, tmp_path):
    results = comparison(tmp_path, n=2)
    results["config"]["data"]["per_image"] = scaled
    write(tmp_path, results)
    text = write_report(tmp_path).read_text()
    assert ("a decision depends on the whole image" in text) == scaled


def test_the_scale_is_that_of_the_maps(compared):
    bar = decoded(compared[2].all("img")[0]["src"])
    np.testing.assert_array_equal(bar, np.arange(256)[None])


def test_nothing_is_loaded_and_no_name_is_markup(compared):
    folder, _, page = compared
    text = (folder / "report.html").read_text()
    for tag, attributes in page.elements:
        assert not {"srcset", "action", "background"} & set(attributes), tag
        for key in ("src", "href", "xlink:href"):
            assert re.match("data:|#|$", attributes.get(key) or ""), (tag, attributes)
        assert not [key for key in attributes if key.startswith("on")]
    assert not re.search(r"@import|@font-face|url\((?!#)", text)
    assert "nan" not in str(page.tables).lower()
    assert len(page.all("script")) == 1
    assert len(page.scripts) == 1
    assert "default-src 'none'" in page.all("meta")[1]["content"]
    assert EVIL not in text
    assert text.count(html.escape(EVIL, quote=False).replace("'", "&#39;")) > 10


def test_captions_ids_and_headings(compared):
    page = compared[2]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    own = [
        name for name in ids if not re.fullmatch("[mp][0-9a-f]{10}", name)
    ]  # matplotlib's, of equal things
    assert len(own) == len(set(own))
    for _, attributes in page.elements:
        assert attributes.get("aria-labelledby", own[0]) in own
        if (attributes.get("href") or "").startswith("#"):
            assert attributes["href"][1:] in ids
    sortable = [attributes for attributes in page.all("th") if "data-column" in attributes]
    assert [int(attributes["data-column"]) for attributes in sortable] == list(range(2 + 4 * 3))
    assert all(attributes.get("alt") for attributes in page.all("img"))


def test_without_masks(tmp_path):
    comparison(tmp_path / "pets", masked=False)
    page = read(tmp_path / "pets")
    assert set(page.tables) == {"classification", "faithfulness", "maps", "images"}
    assert page.tables["maps"][0] == ["image", "original", "PATCHNET5", "CAM", "GRAD_CAM"]
    assert len(page.tables["maps"]) == 1 + gallery.BETWEEN
    assert page.tables["maps"][1][0].startswith(EVIL)
    assert page.tables["maps"][-1][0].startswith("image_11")


def test_the_page_has_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "ROWS", 20)
    monkeypatch.setattr(gallery, "SIDE", 16)
    comparison(tmp_path / "pets", n=40, size=(30, 26))
    page = read(tmp_path / "pets")
    assert len(page.tables["images"]) == 2 + 20
    assert "The first 20 of 40 images" in (tmp_path / "pets" / "report.html").read_text()
    assert len(page.tables["maps"]) == 1 + 3 + 2 * gallery.EXTREMES + gallery.BETWEEN
    sizes = {decoded(attributes["src"]).shape[:2] for attributes in page.all("img")[1:]}
    assert sizes == {(16, 14)}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder, results: (folder / "comparison.json").write_text("{"), "comparison.json: not JSON"),
        (lambda folder, results: (folder / "comparison.json").write_text("[]"), "comparison.json: content: "),
        (lambda folder, results: write(folder, {"name": "pets"}), "comparison.json: class_names: Field requ"),
        (lambda folder, results: write(folder, edited(results, "models", 0, "slug", "../up")), "0.slug: "),
        (lambda folder, results: write(folder, edited(results, "images", 0, "label", 2)), "images.0.label: "),
        (
            lambda folder, results: write(folder, edited(results, "images", results["images"][1:])),
            "images.npy: expected the shape",
        ),
        (
            lambda folder, results: (folder / "maps" / "cam.npy").unlink(),
            "maps/cam.npy: there is no such file",
        ),
        (
            lambda folder, results: (folder / "maps" / "cam.npy").write_bytes(b"hello"),
            "cam.npy: not an array",
        ),
        (
            lambda folder, results: np.save(folder / "maps" / "cam.npy", np.zeros((12, 6, 9))),
            "Received: (12, 6",
        ),
        (
            lambda folder, results: np.save(folder / "maps" / "cam.npy", np.full((12, 6, 8), 2.0)),
            "is in [0, 1]",
        ),
        (
            lambda folder, results: (folder / "cam" / "history.csv").write_text("a,b\n1,2\n"),
            "history of a run",
        ),
        (
            lambda folder, results: (folder / "cam" / "history.csv").write_text(HISTORY + "3,x"),
            "history of a run",
        ),
        (
            lambda folder, results: (folder / "comparison.json").unlink(),
            "neither a run nor a finished compari",
        ),
    ],
)
def test_damage_is_one_line_and_leaves_the_old_page(tmp_path, damage, message):
    folder = tmp_path / "pets"
    results = comparison(folder)
    (folder / "report.html").write_text("old")
    damage(folder, results)
    with pytest.raises(InputError) as error:
        write_report(folder)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert (folder / "report.html").read_text() == "old"
    assert not list(folder.glob(".part*"))


def edited(results, *path):
    """Return results with another value at the path that the others give."""
    *keys, last, value = path
    place = results
    for key in keys:
        place = place[key]
    place[last] = value
    return results


@pytest.fixture
def run(tmp_path):
    """A run folder, measured, with a strip, two snapshots, and overlays."""
    folder = tmp_path / "run"
    (folder / "heatmaps").mkdir(parents=True)
    (tmp_path / "small.yaml").write_text(SMALL)
    (folder / "config.yaml").write_text(load_config(tmp_path / "small.yaml").to_yaml())
    (folder / "history.csv").write_text(HISTORY)
    measure = mean(0.625, 0.5, 0.75, 2, 1)
    measured = {
        "date": "2020-02-29",
        "validation": {
            "loss": mean(0.5, 0.4, 0.6, 8),
            "accuracy": mean(0.875, 0.75, 1.0, 8),
            "auroc": mean(None, None, None, 0, 8),
        },
        "masks": "collages",
        "localization": {"auroc": measure, "new_measure": measure | {"mean": None}},
        "versions": {"keras": "3.15.1"},
    }
    (folder / "metrics.json").write_text(json.dumps(measured))
    names = ["collages", "epoch_0010", "epoch_0020", "a_overlay", "a_heatmap", "mine", ".part-b_overlay"]
    for k, name in enumerate(names):
        cv2.imwrite(str(folder / "heatmaps" / f"{name}.png"), np.full((30, 40, 3), k, "uint8"))
    return folder


def test_a_run(run):
    page = read(run)
    assert page.tables["classification"][2] == [
        "small", "0.875 0.75 to 1.00", "–", "0.500 0.40 to 0.60", "2.5", "2", "2"
    ]  # fmt: skip
    assert page.tables["localization"] == [
        ["measure", "small", "images"],
        [f"AUROC {page_module.MEANINGS['auroc']}", "0.625 0.50 to 0.75", "2 1 skipped"],
        ["new_measure", "–", "2 1 skipped"],
    ]
    drawn = [decoded(attributes["src"])[0, 0, 0] for attributes in page.all("img")[1:]]
    assert drawn == [0, 2, 3]  # the strip, the last snapshot, the overlay
    text = (run / "report.html").read_text()
    assert "brick" in text
    assert "patch_size: 8" in text
    assert "3.15.1" in text
    assert "Measured on 2020-02-29." in text
    assert "on images that training did not use: 8 validation images" in text


def test_a_run_that_is_not_measured(run):
    shutil.rmtree(run / "heatmaps")
    (run / "metrics.json").unlink()
    page = read(run)
    assert not page.tables
    assert len(page.all("svg")) == 1
    assert "patchnet evaluate" in (run / "report.html").read_text()


def test_more_pictures_than_fit(run):
    for k in range(10):
        shutil.copy(run / "heatmaps" / "a_overlay.png", run / "heatmaps" / f"b{k}_overlay.png")
    page = read(run)
    assert len(page.all("img")) == 1 + gallery.PICTURES
    assert "5 more in the folder heatmaps." in (run / "report.html").read_text()


def test_damage_in_a_run_is_one_line(run):
    (run / "heatmaps" / "a_overlay.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match=r"a_overlay\.png: damaged"):
        write_report(run)
    (run / "metrics.json").write_text("[1]")
    with pytest.raises(InputError, match=r"metrics.json: .*; expected what `patchnet evaluate` writes$"):
        write_report(run)


def test_charts_draw_every_epoch():
    rows = [Row(*map(float, row)) for row in csv.reader(HISTORY.splitlines()[1:])]
    svg = plots.training(rows, 2)
    assert svg.startswith("<svg")
    assert re.findall(r">(training|validation|epoch 2, kept|loss|accuracy|epoch)<", svg) == [
        "loss", "epoch", "accuracy", "training", "validation", "epoch 2, kept"
    ]  # fmt: skip
    # Two axes with two lines each, of two points: the lower the loss, the lower the point.
    lines = re.findall(
        r'<path d="M ([\d.]+) ([\d.]+) \nL ([\d.]+) ([\d.]+) \n" clip-path[^>]*--(?:blue|red)', svg
    )
    (_, up, _, down), (_, val_up, _, val_down), (_, low, _, high), _ = [map(float, line) for line in lines]
    assert up < val_up < val_down < down
    assert (val_down - down) / (down - up) == pytest.approx(-0.1 / 0.5, abs=1e-3)
    assert low > high
    assert not re.search(r'id="[a-z]+_\d', svg)
    assert plots.training(rows, 2) == svg


def test_names_in_charts_are_text():
    svg = plots.shares({"a <b> $x_1$": ([0, 1], [0, 1])}, xlabel="x", ylabel="y")
    assert ">a &lt;b&gt; $x_1$<" in svg


def several(folder, classes=6, *, multilabel=False, n=6, size=(6, 8)):
    """Leave a comparison of one network of several classes; returns it, and the maps (N, H, W, K)."""
    rng = np.random.default_rng(classes)
    (folder / "maps").mkdir(parents=True)
    (folder / "net").mkdir()
    (folder / "net" / "history.csv").write_text(HISTORY)
    names = (EVIL, *(f"class with number {k}" for k in range(1, classes)))
    q, truth = rng.dirichlet(np.ones(classes), 60), rng.integers(0, classes, 60)
    limits = None
    if multilabel:
        q, truth = rng.random((60, classes)), rng.integers(0, 2, (60, classes))
        limits = list(metrics.choose_thresholds(q, truth))
    whole, by_class = metrics.classification_of_classes(q, truth, limits)
    maps = rng.dirichlet(np.ones(classes), (n, *size)).astype("float32")
    masks, owners = rng.random((n, *size)) < 0.4, np.arange(n) % classes
    own = maps[np.arange(n), ..., owners]
    np.save(folder / "maps" / "images.npy", rng.integers(0, 256, (n, *size, 3), "uint8"))
    np.save(folder / "maps" / "masks.npy", masks)
    np.save(folder / "maps" / "map.npy", maps)
    model = Model(
        slug="net",
        label="Net",
        kind="patchnet",
        parameters=1234,
        validation=whole,
        classes=names,
        multilabel=multilabel,
        per_class=dict(zip(names, by_class, strict=True)),
        confusion=None if multilabel else metrics.confusion_matrix(q, truth).tolist(),
        thresholds=limits,
        thresholds_by="youden" if multilabel else None,
        calibration=metrics.calibration(q, truth),
    )
    located = metrics.localization_by_class(own, masks, owners, classes)
    method = Method(
        slug="map",
        label="Map",
        model="net",
        min_max_normalized=False,
        localization=metrics.localization(own, masks),
        localization_per_class=dict(zip(names, located, strict=True)),
    )
    images = [
        Image(
            name=f"image_{k}",
            label=[int(owners[k])] if multilabel else int(owners[k]),
            probability={"net": maps[k].mean((0, 1)).tolist()},
            localization={"map": {"auroc": metrics.auroc(own[k], masks[k])}},
        )
        for k in range(n)
    ]
    results = Comparison(
        name="config",
        class_names=names,
        multilabel=multilabel,
        masks="ears",
        models=[model],
        methods=[method],
        images=images,
    )
    results.write(folder / "comparison.json")
    return results, maps


@pytest.mark.parametrize(("classes", "multilabel"), [(3, False), (31, False), (4, True)])
def test_figures_of_each_class(tmp_path, classes, multilabel):
    results, _ = several(tmp_path / "cells", classes, multilabel=multilabel)
    page = read(tmp_path / "cells")
    model, text = results.models[0], (tmp_path / "cells" / "report.html").read_text()
    assert "<title>cells: " in text
    assert "Configuration: config." in text
    assert EVIL not in text

    head, *rows = page.tables["classes-1"]
    assert head[1:6] == ["images", "recall", "precision", "AUROC", "average precision"]
    for k, (row, (name, of)) in enumerate(zip(rows, model.per_class.items(), strict=True)):
        figures = [shown(*map(number, of[measure][:3])) for measure in page_module.BY_CLASS]
        limit = [shown(model.thresholds[k])] if multilabel else []
        assert row == [name, str(of["recall"].images), *figures, *limit]

    if multilabel:
        assert "confusion-1" not in page.tables
        assert "chosen on validation images by Youden’s index" in text
    elif classes <= page_module.CONFUSED:
        assert [row[1:] for row in page.tables["confusion-1"][1:]] == [
            list(map(str, row)) for row in model.confusion
        ]
    else:
        _, *rows = page.tables["confusion-1"]
        assert len(rows) == page_module.CONFUSED
        wrong = np.array(model.confusion) * (1 - np.eye(classes, dtype=int))
        assert [int(row[2]) for row in rows] == np.sort(wrong.ravel())[::-1][: len(rows)].tolist()
        for truth, predicted, count, _ in rows:
            place = results.class_names.index(truth), results.class_names.index(predicted)
            assert int(count) == wrong[place]
    assert f"ECE {model.calibration.error:.3f}, temperature {model.calibration.temperature:.2f}" in text

    _, *rows = page.tables["located-1"]
    for row, of in zip(rows, results.methods[0].localization_per_class.values(), strict=True):
        assert row[1] == shown(*map(number, of["auroc"][:3]))
        assert row[-1] == str(of["auroc"].images)


def test_maps_of_an_image_begin_with_the_predicted_and_the_true_class(tmp_path):
    results, maps = several(tmp_path / "cells")
    page = read(tmp_path / "cells")
    order = [attributes["alt"] for attributes in page.all("img")[1:]]
    for k, image in enumerate(results.images):
        start = order.index(image.name)
        q = image.probability["net"]
        expected = list(dict.fromkeys([int(np.argmax(q)), image.label, *np.argsort(q)[::-1].tolist()]))
        assert order[start + 2 : start + 2 + 6] == [f"map, Map, {results.class_names[c]}" for c in expected]
        for j, c in enumerate(expected):
            picture = decoded(page.all("img")[1:][start + 2 + j]["src"])
            np.testing.assert_array_equal(picture, np.rint(255 * maps[k, ..., c]))
    own = [attributes["data-class"] for attributes in page.all("div") if "data-own" in attributes]
    assert len(own) == sum(len({int(np.argmax(i.probability["net"])), i.label}) for i in results.images)


def test_decisions_in_the_table_of_images(tmp_path):
    results, _ = several(tmp_path / "cells")
    for image, row in zip(results.images, read(tmp_path / "cells").tables["images"][2:], strict=True):
        q = image.probability["net"]
        predicted = int(np.argmax(q))
        wrong = " ✗" if predicted != image.label else ""
        assert row[1] == results.class_names[image.label]
        assert row[2] == f"{q[predicted]:.3f}{wrong} {results.class_names[predicted]}"
    results, _ = several(tmp_path / "leaves", 4, multilabel=True)
    for image, row in zip(results.images, read(tmp_path / "leaves").tables["images"][2:], strict=True):
        q, limits = np.array(image.probability["net"]), np.array(results.models[0].thresholds)
        given = np.flatnonzero(q > limits).tolist()
        names = ", ".join(results.class_names[k] for k in given) or "none"
        assert row[2] == f"{q.max():.3f}{'' if given == image.label else ' ✗'} {names}"


def test_one_map_of_an_image_of_several_classes(tmp_path):
    _, maps = several(tmp_path / "cells", 3)
    np.save(tmp_path / "cells" / "maps" / "map.npy", maps[..., 1])
    with pytest.raises(InputError, match=r"class of each map in classes\.npy"):
        write_report(tmp_path / "cells")
    np.save(tmp_path / "cells" / "maps" / "classes.npy", np.ones(6, int))
    page = read(tmp_path / "cells")
    assert len(page.all("img")) == 1 + 3 * 6
    assert {attributes["data-class"] for attributes in page.all("div") if "data-class" in attributes} == {"1"}
    assert not page.all("select")
    np.save(tmp_path / "cells" / "maps" / "map.npy", maps[..., :2])
    with pytest.raises(InputError, match="expected maps of 3 classes"):
        write_report(tmp_path / "cells")


def test_a_run_of_several_classes_without_masks(run):
    results, _ = several(run.parent / "cells", 3)
    model = results.models[0].model_dump(mode="json")
    kept = {name: model[name] for name in ("validation", "classes", "per_class", "confusion", "calibration")}
    (run / "metrics.json").write_text(json.dumps(kept))
    (run / "heatmaps" / "collages.png").rename(run / "heatmaps" / "validation.png")
    page = read(run)
    assert {"classification", "classes-1", "confusion-1"} == set(page.tables)
    assert "Heatmaps: validation" in [attributes["alt"] for attributes in page.all("img")]
    assert "tells 3 classes apart" in (run / "report.html").read_text()


# Opens the report on a phone and on a screen.
PAGE = """<!doctype html><iframe id="page" style="width: 390px; height: 800px"></iframe><script>
const frame = document.getElementById("page");
const openAtEachWidth = async (overflow) => {
  for (const width of [390, 1280]) {
    await new Promise((done) => {
      frame.style.width = width + "px";
      frame.onload = done;
      frame.src = "report.html?" + width;
    });
    const root = frame.contentDocument.documentElement;
    overflow[width] = root.scrollWidth - root.clientWidth;
  }
};
"""

# Chooses a class on a phone and on a screen, and sends what it saw.
CHOOSER = (
    PAGE
    + """const seen = { overflow: {}, shown: {} };
addEventListener("load", async () => {
  await openAtEachWidth(seen.overflow);
  const page = frame.contentDocument;
  const select = page.querySelector(".chooser select");
  for (const option of select.options) {
    select.value = option.value;
    select.dispatchEvent(new Event("change"));
    const maps = [...page.querySelectorAll(".map")].filter((map) => map.getBoundingClientRect().height > 0);
    seen.shown[option.value] = maps.map((map) => [map.dataset.class, "own" in map.dataset]);
  }
  await fetch("done", { method: "POST", body: JSON.stringify(seen) });
});
</script>"""
)


def test_a_class_to_choose_in_a_browser(tmp_path):
    browser = shutil.which("chromium")
    if not browser:
        pytest.skip("needs chromium")
    several(tmp_path / "cells")
    write_report(tmp_path / "cells")
    seen, console = visit(browser, tmp_path / "cells", CHOOSER)
    assert console == []
    assert seen["overflow"] == {"390": 0, "1280": 0}
    assert len(seen["shown"]["all"]) == 6 * 6
    assert seen["shown"]["own"] == [place for place in seen["shown"]["all"] if place[1]]
    for k in range(6):
        assert [number for number, _ in seen["shown"][str(k)]] == [str(k)] * 6


# Opens the report on a phone and on a screen, sorts by each heading twice, and sends what it saw.
DRIVER = (
    PAGE
    + """const seen = { errors: [], overflow: {}, sorted: [] };
const column = (table, k) => [...table.tBodies[0].rows].map((row) => row.cells[k].textContent.trim());
addEventListener("load", async () => {
  await openAtEachWidth(seen.overflow);
  const page = frame.contentDocument;
  seen.pictures = [...page.images].every((image) => image.complete && image.naturalWidth > 0);
  seen.hint = page.querySelector(".sorting").getBoundingClientRect().height;
  const table = page.querySelector("table.sortable");
  seen.unsorted = column(table, 0);
  for (const button of table.querySelectorAll("th button")) {
    const heading = button.closest("th");
    for (let k = 0; k < 2; k++) {
      button.click();
      seen.sorted.push({
        column: Number(heading.dataset.column),
        direction: heading.getAttribute("aria-sort"),
        marked: table.querySelectorAll("[aria-sort]").length,
        cells: column(table, Number(heading.dataset.column)),
        names: column(table, 0),
      });
    }
  }
  await fetch("done", { method: "POST", body: JSON.stringify(seen) });
});
</script>"""
)


def test_in_a_browser(compared):
    folder, results, _ = compared
    browser = shutil.which("chromium")
    if not browser:
        pytest.skip("needs chromium")
    seen, console = visit(browser, folder, DRIVER)
    assert console == []
    assert seen["overflow"] == {"390": 0, "1280": 0}
    assert seen["pictures"]
    assert seen["hint"] > 0
    names = [image["name"] for image in results["images"]]
    assert seen["unsorted"] == names
    assert len(seen["sorted"]) == 2 * (2 + 4 * 3)
    for k, after in enumerate(seen["sorted"]):
        assert after["column"] == k // 2
        assert after["direction"] == ("ascending", "descending")[k % 2]
        assert after["marked"] == 1
        assert sorted(after["names"]) == sorted(names)
        if after["column"] < 2:
            continue
        values = [float(cell.split()[0]) for cell in after["cells"] if cell != "–"]
        assert values == sorted(values, reverse=k % 2 == 1)
        assert after["cells"][len(values) :] == ["–"] * (len(names) - len(values))
