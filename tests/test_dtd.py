import numpy as np
import pytest

from patchnet_tf.config import DtdData
from patchnet_tf.data import files, list_files
from patchnet_tf.errors import InputError

from .small import save


def load(root, **options):
    return files.read(list_files(DtdData(kind="dtd", path=str(root), **options)))


@pytest.fixture(scope="module")
def dtd(tmp_path_factory):
    """Three classes of 120 photographs; photograph k has the pixels 2 k, and sizes differ."""
    root = tmp_path_factory.mktemp("dtd")
    for name in ("cracked", "dotted", "perforated"):
        for k in range(120):
            pixels = np.full((10 + k % 3, 12, 3), 2 * k, "uint8")
            save(root / "dtd" / "images" / name / f"{name}_{k + 1:04}.jpg", pixels)
    (root / "dtd" / "images" / "cracked" / ".directory").touch()
    return root


def test_the_first_80_train_and_the_next_40_validate(dtd):
    for root in (dtd, dtd / "dtd"):
        data = load(root, size=(8, 8))
        assert data.class_names == ("cracked", "perforated")
        assert data.train.labels.tolist() == [0] * 80 + [1] * 80
        assert data.val.labels.tolist() == [0] * 40 + [1] * 40
        assert data.train.images[:, 0, 0, 0].tolist() == [2 * k for k in range(80)] * 2
        assert data.val.images[:, 0, 0, 0].tolist() == [2 * k for k in range(80, 120)] * 2


def test_any_two_classes_and_other_numbers(dtd):
    data = load(dtd, classes=("perforated", "dotted"), train=2, val=1)
    assert data.class_names == ("perforated", "dotted")
    assert data.train.images.shape == (4, 224, 224, 3)
    assert data.val.images[:, 0, 0, 0].tolist() == [4, 4]


def test_missing(dtd, tmp_path):
    with pytest.raises(
        InputError, match=r"images: no such folder; fetch dtd-r1.0.1.tar.gz from https://www.rob"
    ):
        load(tmp_path)
    with pytest.raises(
        InputError, match=r"images/lined: no such class .*Received: cracked, dotted, perforated"
    ):
        load(dtd, classes=("cracked", "lined"))
    with pytest.raises(
        InputError, match=r"cracked: expected at least 100 \+ 40 images.*Received: 120"
    ) as caught:
        load(dtd, train=100)
    assert len(str(caught.value).splitlines()) == 2  # so has perforated


def test_unreadable_photograph(dtd, tmp_path):
    for name in ("a", "b"):
        for k in range(3):
            save(tmp_path / "images" / name / f"{k}.jpg", np.zeros((9, 9, 3), "uint8"))
    (tmp_path / "images" / "b" / "2.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(InputError, match=r"images/b/2.jpg: "):
        load(tmp_path, classes=("a", "b"), train=2, val=1)
