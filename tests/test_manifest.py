import numpy as np
import pytest

from patchnet_tf.config import ManifestData
from patchnet_tf.data import files, list_files
from patchnet_tf.errors import InputError

from .small import save

HEAD = "path,label,split,mask\n"
ROWS = """\
a/0.png,0,train,
a/1.png,1,train,
b/2.png,1,val,masks/2.png
b/3.png,0,val,
b/4.png,1.0,val,
"""


def load(path, **options):
    return files.read(list_files(ManifestData(kind="manifest", path=str(path), **options)))


@pytest.fixture
def images(tmp_path):
    """Six grey images, number k with the pixels 40 k, and a mask of number 2."""
    for k in range(6):
        save(tmp_path / ("a" if k < 2 else "b") / f"{k}.png", np.full((20, 24), 40 * k, "uint8"))
    mask = np.zeros((20, 24), "uint8")
    mask[5:, :7] = 255
    save(tmp_path / "masks" / "2.png", mask)
    return tmp_path


def write(folder, text):
    path = folder / "list.csv"
    path.write_text(text)
    return path


def test_manifest(images):
    data = load(write(images, HEAD + ROWS), classes=("calm", "wild"))
    assert data.class_names == ("calm", "wild")
    assert data.train.images.shape == (2, 20, 24, 1)
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 40]
    assert data.val.images[:, 0, 0, 0].tolist() == [80, 120, 160]
    assert data.val.labels.tolist() == [1, 0, 1]
    assert data.test is None
    assert data.masked.name == "masks"
    assert data.masked.images[:, 0, 0, 0].tolist() == [80]
    assert data.masked.masks.sum() == 15 * 7
    assert data.masked.masks[0, 5:, :7].all()


def test_columns_in_any_order_and_rows_of_any_split(images):
    text = "\ufeffsplit, note, label, path\n"
    rows = [("val", 0, 3), ("test", 1, 5), ("train", 1, 1), ("test", 0, 4), ("train", 0, 0), ("val", 1, 2)]
    text += "".join(f'{split},"x, y",{label},{"a" if k < 2 else "b"}/{k}.png\n\n' for split, label, k in rows)
    data = load(write(images, text))
    assert data.train.images[:, 0, 0, 0].tolist() == [40, 0]
    assert data.val.labels.tolist() == [0, 1]
    assert data.test.images[:, 0, 0, 0].tolist() == [200, 160]
    assert data.masked is None


def test_channels_and_size(images):
    data = load(write(images, HEAD + ROWS), channels=3, size=(10, 12))
    assert data.val.images.shape == (3, 10, 12, 3)
    assert data.masked.masks.shape == (1, 10, 12)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("a/1.png,1", "a/9.png,1", r"list.csv row 3: .*a/9.png: no such file, but it is listed"),
        ("a/1.png,1", "a/1.png,", r"list.csv row 3: expected a label, 0 or 1. Received: ''"),
        ("a/1.png,1", "a/1.png,2", r"list.csv row 3: expected a label, 0 or 1. Received: '2'"),
        ("a/1.png,1", "a/1.png,cat", r"list.csv row 3: expected a label, 0 or 1. Received: 'cat'"),
        ("a/1.png", "", r"list.csv row 3: expected the path of an image"),
        ("0,val", "0,valid", r"row 5: b/3.png: split: expected train, val or test. Received: 'valid'"),
        ("b/4.png", "b/2.png", r"list.csv row 6: .*b/2.png is there already, in .*list.csv row 4"),
        ("masks/2.png", "masks/3.png", r"list.csv row 4: .*masks/3.png: cannot be read"),
        ("masks/2.png", "small.png", r"list.csv row 4: .*small.png: a mask has the size.*Received: \(2, 3\)"),
        ("b/2.png", "broken.png", r"list.csv row 4: .*broken.png: not an image file"),
        ("a/0.png,0", "a/0.png,1", r"list.csv: no image of class 0 \(0\) in the split train"),
        ("b/4.png,1.0,val", "b/4.png,1.0,test", r"list.csv: no image of class 0 \(0\) in the split test"),
        ("path,", "file,", r"list.csv row 1: expected the columns path, label, split; path missing. Rec"),
    ],
)
def test_bad_manifest(images, old, new, message):
    save(images / "small.png", np.zeros((2, 3), "uint8"))
    (images / "broken.png").write_text("hello")
    assert old in HEAD + ROWS
    with pytest.raises(InputError, match=message):
        load(write(images, (HEAD + ROWS).replace(old, new, 1)))


def test_all_complaints_at_once(images):
    text = (HEAD + ROWS).replace("a/0.png,0", "a/7.png,0").replace("0,val", "0,").replace("1.0", "-1")
    with pytest.raises(InputError) as caught:
        load(write(images, text))
    lines = str(caught.value).splitlines()
    assert [line.split("list.csv")[1][:7] for line in lines[:3]] == [" row 2:", " row 5:", " row 6:"]


def test_no_manifest(tmp_path):
    with pytest.raises(InputError, match=r"list.csv: cannot be read \(No such file"):
        load(tmp_path / "list.csv")


CLASSES = ("ant", "bee", "cow")
SEVERAL = """\
path,split,labels,masks,group
a/0.png,train,ant,,1
a/1.png,train,bee,,1
b/2.png,train,cow,,2
b/3.png,val,bee,spots:masks/2.png,3
b/4.png,val,2,,4
b/5.png,val,ant,ant:masks/5.png,5
"""
LABELS = """\
path,split,labels,masks
a/0.png,train,ant;bee,
a/1.png,train,,
b/2.png,train,cow,
b/3.png,val,cow; ant,cow:masks/2.png; ant:masks/5.png
b/4.png,val,,
b/5.png,val,bee,spots:masks/5.png
"""


@pytest.fixture
def pack(images):
    """A second mask, where the first is black."""
    save(images / "masks" / "5.png", np.pad(np.full((5, 24), 255, "uint8"), ((0, 15), (0, 0))))
    return images


def test_several_classes(pack):
    data = load(write(pack, SEVERAL), classes=CLASSES)
    assert (data.classes.names, data.classes.exclusive) == (CLASSES, True)
    assert data.train.labels.tolist() == [0, 1, 2]
    assert data.val.labels.tolist() == [1, 2, 0]
    assert data.masked.images[:, 0, 0, 0].tolist() == [120, 200]
    assert data.masked.labels.tolist() == [1, 0]
    assert data.masked.masks.sum(axis=(1, 2)).tolist() == [15 * 7, 5 * 24]


def test_one_label_column_of_names_or_numbers(pack):
    text = SEVERAL.replace("labels", "label").replace("ant:masks/5.png", "")
    data = load(write(pack, text), classes=CLASSES)
    assert data.val.labels.tolist() == [1, 2, 0]
    two = load(write(pack, HEAD + ROWS.replace("1.0", "wild")), classes=("calm", "wild"))
    assert two.val.labels.tolist() == [1, 0, 1]


def test_names_that_are_digits_are_names(pack):
    text = "path,label,split\n" + "".join(
        f"{'a' if k < 2 else 'b'}/{k}.png,{name},{split}\n"
        for k, (name, split) in enumerate((name, split) for split in ("train", "val") for name in (3, 1, 2))
    )
    assert load(write(pack, text), classes=("3", "1", "2")).val.labels.tolist() == [0, 1, 2]


def test_several_labels(pack):
    """An image with two masks is there twice, each time with the class of the mask."""
    data = load(write(pack, LABELS), classes=CLASSES, multilabel=True)
    assert (data.classes.names, data.classes.exclusive) == (CLASSES, False)
    assert data.train.labels.dtype == np.uint8
    assert data.train.labels.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert data.val.labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert data.masked.images[:, 0, 0, 0].tolist() == [120, 120, 200]
    assert data.masked.labels.tolist() == [0, 2, 1]
    assert data.masked.names == ("3", "3", "5")
    assert data.masked.masks.sum(axis=(1, 2)).tolist() == [5 * 24, 15 * 7, 5 * 24]


def test_masks_that_do_not_say_whose_they_are_are_told(pack):
    text = LABELS.replace("cow:masks/2.png; ant:masks/5.png", "spots:masks/2.png")
    listing = list_files(
        ManifestData(kind="manifest", path=str(write(pack, text)), classes=CLASSES, multilabel=True)
    )
    assert listing.complaints == []
    assert ["list.csv row 5: its mask does not say which" in line for line in listing.remarks] == [True]
    assert files.read(listing).masked.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("text", "old", "new", "message"),
    [
        (SEVERAL, "val,bee", "val,wasp", r"row 5: .*a label, ant, bee, cow \(data.classes\), or 0 to 2. Rec"),
        (SEVERAL, "val,2,", "val,3,", r"row 6: expected a label.*or 0 to 2. Received: '3'"),
        (SEVERAL, "val,bee", "val,", r"row 5: expected a label.*Received: ''"),
        (SEVERAL, "val,bee", "val,bee;ant", r"row 5: expected one label \(data.multilabel.*'bee;ant'"),
        (SEVERAL, "val,2", "val,bee", r"list.csv: no image of class 2 \(cow\) in the split val$"),
        (SEVERAL, "val,2,", "test,2,", r"no image of class 0 \(ant\), 1 \(bee\) in the split test"),
        (SEVERAL, "spots:masks/2", "cow:masks/2", r"row 5: b/3.png: a mask of 'cow', which is not"),
        (SEVERAL, "ant:masks/5", "ant:masks/2.png;spots:masks/5", r"row 7: b/5.png: two masks of 'ant'"),
        (SEVERAL, "spots:masks/2.png", "masks/2.png", r"row 5: masks: expected <name>:<path>. Rec"),
        (SEVERAL, "labels", "tags", r"row 1: expected the columns path, label, split; label missing"),
        (LABELS, "labels", "label", r"row 1: expected the columns path, labels, split; labels missing"),
        (LABELS, "ant;bee", "ant;wasp", r"row 2: expected a label, ant, .* 0 to 2. Received: 'wasp'"),
        (LABELS, "ant;bee", "ant;ant", r"row 2: expected each label once. Received: 'ant;ant'"),
        (LABELS, "ant;bee", "ant;", r"row 2: expected a label, .*Received: ''"),
        (LABELS, "val,bee", "val,cow", r"no image of class 1 \(bee\) in the split val"),
        (
            LABELS,
            "train,,\nb/2.png,train,",
            "train,bee,\nb/2.png,train,bee;",
            r"no image without class 1 \(bee\) in the",
        ),
        (LABELS, "ant:masks", "bee:masks", r"row 5: b/3.png: a mask of 'bee', which is not among the labels"),
    ],
)
def test_bad_manifest_of_several(pack, text, old, new, message):
    assert old in text
    path = write(pack, text.replace(old, new, 1))
    options = {"classes": CLASSES, "multilabel": text == LABELS}
    with pytest.raises(InputError, match=message):
        load(path, **options)
