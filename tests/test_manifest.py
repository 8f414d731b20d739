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
