import pytest

from patchnet_tf.config import InputError, load_config

from .small import SMALL

GOOD = "name: a\ndata: {kind: folder, path: images}\nmodel: {patch_size: 17}\n"


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "my.yaml"
        path.write_text(text)
        return path

    return write


def test_defaults_are_the_papers(write):
    config = load_config(write(GOOD))
    assert (config.model.filters, config.model.depth, config.model.padding) == (64, 7, "same")
    assert config.model.stride is None
    training = config.training
    assert (training.learning_rate, training.batch_size, training.patience) == (1e-4, 4, 1000)


def test_what_is_written_is_read_back(write):
    for text in (GOOD, SMALL):
        config = load_config(write(text), ["model.crop=[20, 24]", "training.learning_rate=3e-5"])
        assert load_config(write(config.to_yaml())) == config


def test_overrides_are_yaml(write):
    overrides = ["training.learning_rate=1e-3", "training.flips=true", "data.size=[3, 4]", "training.seed=7"]
    config = load_config(write(GOOD), overrides)
    assert config.training.learning_rate == 0.001
    assert config.training.flips is True
    assert config.data.size == (3, 4)
    assert config.training.seed == 7


def test_data_path(write, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("WHERE", "/far")
    path = write(GOOD)
    assert load_config(path).data.path == str(tmp_path / "images")
    assert load_config(path, ["data.path=mine"]).data.path == str(tmp_path / "here" / "mine")
    assert load_config(path, ["data.path=~/mine"]).data.path == "/home/me/mine"
    assert load_config(path, ["data.path=$WHERE/mine"]).data.path == "/far/mine"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.patch_size=seventeen",
            "model.patch_size: expected a whole number of at least 1. Received: 'seventeen'",
        ),
        ("model.patch_size=0", "model.patch_size: expected a whole number of at least 1. Received: 0"),
        ("model.patch_size=17.0", "model.patch_size: expected a whole number of at least 1. Received: 17.0"),
        ("model.patch_size=true", "model.patch_size: expected a whole number of at least 1. Received: True"),
        (
            "model.crop=5",
            "model.crop: expected [height, width], two whole numbers of at least 1. Received: 5",
        ),
        (
            "data.size=[3, x]",
            "data.size: expected [height, width], two whole numbers from 1 to 8192. Received: [3, 'x']",
        ),
        (
            "data.size=[3, 8193]",
            "data.size: expected [height, width], two whole numbers from 1 to 8192. Received: [3, 8193]",
        ),
        ("model.depth=65", "model.depth: expected a whole number from 1 to 64. Received: 65"),
        (
            "training.seed=4294967296",
            "training.seed: expected a whole number from 0 to 4294967295. Received: 4294967296",
        ),
        ("training.seed=-1", "training.seed: expected a whole number from 0 to 4294967295. Received: -1"),
        (
            "data.classes=[a, a]",
            "data.classes: expected the names of two different class folders. Received: ['a', 'a']",
        ),
        (
            "data={kind: textures, classes: [brick, brick]}",
            "data.classes: expected two of brick, grass and gravel, class 0 first. "
            "Received: ['brick', 'brick']",
        ),
        ("model.padding=full", 'model.padding: expected "same" or "valid". Received: \'full\''),
        (
            "training.learning_rate=.nan",
            "training.learning_rate: expected a number greater than 0. Received: nan",
        ),
        ("training.learning_rate=0", "training.learning_rate: expected a number greater than 0. Received: 0"),
        ("training.flips=1", "training.flips: expected true or false. Received: 1"),
        ("data.channels=2", "data.channels: expected 1 (grey) or 3 (RGB). Received: 2"),
        (
            "data.classes=[a]",
            "data.classes: expected the names of two different class folders. Received: ['a']",
        ),
        ("name=a/b", "name: expected a name of letters, digits, '_', '-' and '.'. Received: 'a/b'"),
        ("model.pach_size=3", "model.pach_size: unknown key; did you mean model.patch_size?"),
        ("epochs=3", "epochs: unknown key; did you mean training.epochs?"),
        ("data.collages=3", "data.collages: unknown key"),
        ("model.zzz=3", "model.zzz: unknown key"),
        ("data.kind=folders", "data.kind: expected folder or textures. Received: 'folders'"),
        ("model=3", "model: expected a section with keys of its own. Received: 3"),
    ],
)
def test_wrong_value(write, override, message):
    path = write(GOOD)
    with pytest.raises(InputError) as caught:
        load_config(path, [override])
    assert str(caught.value) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (
            "name: a\ndata: {path: x}\n",
            ["data.kind: this key is missing; expected folder or textures", "model: this key is missing"],
        ),
        (
            "name: a\ndata: {kind: folder}\nmodel: {}\n",
            ["data.path: this key is missing", "model.patch_size: this key is missing"],
        ),
        ("- 3\n", ["expected keys and values (name: ..., data: ..., model: ...)"]),
        ("", ["expected keys and values (name: ..., data: ..., model: ...)"]),
    ],
)
def test_missing_keys(write, text, messages):
    path = write(text)
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert str(caught.value).splitlines() == [f"{path}: {message}" for message in messages]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: b: c", ":1"),
        ("name: a\nname: b", ":1"),
        ("x: [1,\n", ":2"),
        ("!!python/object:os.system x", ":1"),
        ("\0", ""),
        ("name: a\ndata: 2024-13-45", ":2"),
        ("name: 0b_", ":1"),
        ("name: !!bool x", ":1"),
        ("[" * 5000, ""),
    ],
)
def test_not_yaml(write, text, line):
    path = write(text)
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}{line}: not valid YAML (")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("name=2024-02-30", "'2024-02-30' is no timestamp"),
        ("training.seed=0b_", "'0b_' is no int"),
        ("name=" + "[" * 5000, "nested too deeply"),
    ],
)
def test_override_not_yaml(write, override, reason):
    with pytest.raises(InputError) as caught:
        load_config(write(GOOD), [override])
    assert str(caught.value).startswith(f"--set {override}")
    assert str(caught.value).endswith(f": not valid YAML ({reason})")


def test_the_largest_values(write):
    config = load_config(
        write(GOOD),
        ["data.size=[8192, 1]", "model.depth=64", "training.seed=4294967295", "data.classes=[b, a]"],
    )
    assert config.data.size == (8192, 1)
    assert config.data.classes == ("b", "a")


def test_unreadable(tmp_path):
    with pytest.raises(InputError, match=r"none.yaml: cannot be read \(No such file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match=r"a.yaml: not a text file"):
        load_config(tmp_path / "a.yaml")


def test_override_without_a_value(write):
    with pytest.raises(InputError, match=r"--set: expected section.key=value. Received: 'x'"):
        load_config(write(GOOD), ["x"])
