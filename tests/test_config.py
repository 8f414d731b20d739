import re
from pathlib import Path

import pytest

from patchnet_tf.config import Config, Section, Training, load_config
from patchnet_tf.errors import InputError

from .small import SMALL

CONFIGS = Path(__file__).parents[1] / "configs"
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
    subnet = config.model.subnet
    assert (subnet.kind, subnet.filters, subnet.depth, subnet.padding) == ("paper", 64, 7, "same")
    assert (config.model.pooling, config.model.border) == ("mean", "zero")
    assert config.model.stride is None
    training = config.training
    assert (training.learning_rate, training.batch_size, training.patience) == (1e-4, 4, 1000)


def test_what_is_written_is_read_back(write):
    for text in (GOOD, SMALL):
        config = load_config(write(text), ["model.crop=[20, 24]", "training.learning_rate=3e-5"])
        assert load_config(write(config.to_yaml())) == config


def test_kinds_of_models(write):
    assert load_config(write(GOOD)).model.kind == "patchnet"  # as before there were others
    assert load_config(write(GOOD), ["model.kind=patchnet"]) == load_config(write(GOOD))
    vgg11 = load_config(write(GOOD), ["model={kind: vgg11}"])
    assert (vgg11.model.resize, vgg11.model.width) == ((224, 224), 1)
    assert load_config(write(vgg11.to_yaml())) == vgg11
    assert load_config(write(GOOD), ["model={kind: vgg11, resize: null}"]).model.resize is None
    cam = load_config(write(GOOD), ["model={kind: vgg19_cam, width: 0.25, crop: [64, 64]}"])
    assert (cam.model.width, cam.model.crop) == (0.25, (64, 64))
    assert load_config(write(cam.to_yaml())) == cam


def test_preprocessing(write):
    steps = "model.preprocessing=[{kind: shades_of_gray, norm: 4}, {kind: gamma}]"
    config = load_config(write(GOOD), [steps])
    assert [step.kind for step in config.model.preprocessing] == ["shades_of_gray", "gamma"]
    assert (config.model.preprocessing[0].norm, config.model.preprocessing[1].gamma) == (4, 2.2)
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
    assert load_config(path, ["data={kind: folder, path: mine}"]).data.path == str(tmp_path / "here" / "mine")
    monkeypatch.setenv("WHERE", "near")  # from the current folder, not from the file's
    path = write(GOOD.replace("images", "$WHERE/images"))
    assert load_config(path).data.path == str(tmp_path / "here" / "near" / "images")


def test_variables_must_be_set(write, monkeypatch):
    monkeypatch.delenv("NOWHERE", raising=False)
    path = write(GOOD.replace("images", "'${NOWHERE}/images'"))
    with pytest.raises(InputError) as caught:
        load_config(path)
    message = (
        "data.path: the environment variable NOWHERE is not set, or empty. Received: '${NOWHERE}/images'"
    )
    assert str(caught.value) == f"{path}: {message}"
    with pytest.raises(InputError, match="the environment variable NOWHERE is not set"):
        load_config(path, ["data.path=$NOWHERE"])
    assert load_config(path, ["data.path=/there"]).data.path == "/there"
    monkeypatch.setenv("NOWHERE", "/here")
    assert load_config(path).data.path == "/here/images"


def test_sections_of_published_data_have_their_defaults(write):
    def data(section):
        return load_config(write(GOOD.replace("{kind: folder, path: images}", section))).data

    isic = data("{kind: isic2017, path: a}")
    assert (isic.size, isic.classes, isic.mask) == ((192, 256), ("benign", "melanoma"), None)
    dtd = data("{kind: dtd, path: a}")
    assert (dtd.size, dtd.classes, dtd.train, dtd.val) == ((224, 224), ("cracked", "perforated"), 80, 40)
    with pytest.raises(
        InputError, match=r'data.mask: expected "lesion", "features" or null. Received: \'x\''
    ):
        data("{kind: isic2017, path: a, mask: x}")
    with pytest.raises(InputError, match=r"data.classes: expected \[benign, melanoma\]"):
        data("{kind: isic2017, path: a, classes: [melanoma, benign]}")


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
        ("model.subnet.depth=65", "model.subnet.depth: expected a whole number from 1 to 64. Received: 65"),
        (
            "training.seed=4294967296",
            "training.seed: expected a whole number from 0 to 4294967295. Received: 4294967296",
        ),
        ("training.seed=-1", "training.seed: expected a whole number from 0 to 4294967295. Received: -1"),
        (
            "data.classes=[a, a]",
            "data.classes: expected the names of 2 to 1000 class folders, each once. Received: ['a', 'a']",
        ),
        (
            "data={kind: textures, classes: [brick, brick]}",
            "data.classes: expected two of brick, grass and gravel, class 0 first. "
            "Received: ['brick', 'brick']",
        ),
        (
            "data={kind: manifest, path: a, classes: [b, c, b]}",
            "data.classes: expected from 2 to 1000 names, each once. Received: ['b', 'c', 'b']",
        ),
        (
            "data={kind: manifest, path: a, multilabel: 1}",
            "data.multilabel: expected true or false. Received: 1",
        ),
        (
            "model.share=0.3",
            "model.share: expected 0.1, as model.pooling is mean: only topk uses it. Received: 0.3",
        ),
        (
            "model={kind: patchnet, patch_size: 8, sharpness: 2.0, pooling: topk}",
            "model.sharpness: expected 4, as model.pooling is topk: only lse uses it. Received: 2.0",
        ),
        ("model.subnet.padding=full", 'model.subnet.padding: expected "same" or "valid". Received: \'full\''),
        (
            "training.learning_rate=.nan",
            "training.learning_rate: expected a number greater than 0. Received: nan",
        ),
        ("training.learning_rate=0", "training.learning_rate: expected a number greater than 0. Received: 0"),
        ("training.flips=1", "training.flips: expected true or false. Received: 1"),
        ("training.zoom=0.9", "training.zoom: expected a number from 1 to 10. Received: 0.9"),
        ("training.zoom=true", "training.zoom: expected a number from 1 to 10. Received: True"),
        ("training.balanced=yes please", "training.balanced: expected true or false. Received: 'yes please'"),
        (
            "data.channels=2",
            "data.channels: expected 1 (grey), 3 (RGB), or a list of up to 16 channels by name or number "
            "from 0. Received: 2",
        ),
        (
            "data.classes=[a]",
            "data.classes: expected the names of 2 to 1000 class folders, each once. Received: ['a']",
        ),
        ("name=a/b", "name: expected a name of letters, digits, '_', '-' and '.'. Received: 'a/b'"),
        ("model.pach_size=3", "model.pach_size: unknown key; did you mean model.patch_size?"),
        ("epochs=3", "epochs: unknown key; did you mean training.epochs?"),
        ("data.collages=3", "data.collages: unknown key"),
        ("model.zzz=3", "model.zzz: unknown key"),
        (
            "data.kind=folders",
            "data.kind: expected dtd, folder, isic2017, manifest, squares or textures. Received: 'folders'",
        ),
        ("model.preprocessing=gamma", "model.preprocessing: expected a list of sections. Received: 'gamma'"),
        (
            "model.preprocessing=[{kind: gamma}, {kind: shades}]",
            "model.preprocessing.1.kind: expected gamma or shades_of_gray. Received: 'shades'",
        ),
        (
            "model.preprocessing=[{gamma: 2}]",
            "model.preprocessing.0.kind: this key is missing; expected gamma or shades_of_gray",
        ),
        (
            "model.preprocessing=[{kind: gamma, gamma: 0}]",
            "model.preprocessing.0.gamma: expected a number of at least 0.01. Received: 0",
        ),
        (
            "model.preprocessing=[{kind: shades_of_gray, norm: 0.5}]",
            "model.preprocessing.0.norm: expected a number of at least 1. Received: 0.5",
        ),
        (
            "model.preprocessing=[{kind: shades_of_gray, nrom: 6}]",
            "model.preprocessing.0.nrom: unknown key; did you mean model.preprocessing.norm?",
        ),
        ("model.preprocessing=[{kind: gamma, norm: 6}]", "model.preprocessing.0.norm: unknown key"),
        (
            "model.preprocessing=[3]",
            "model.preprocessing.0: expected a section with keys of its own. Received: 3",
        ),
        ("model.kind=vgg", "model.kind: expected patchnet, pretrained, vgg11 or vgg19_cam. Received: 'vgg'"),
        ("model={kind: vgg11, patch_size: 17}", "model.patch_size: unknown key"),
        ("model={kind: vgg11, widht: 0.5}", "model.widht: unknown key; did you mean model.width?"),
        (
            "model={kind: vgg19_cam, width: 0}",
            "model.width: expected a number above 0, at most 1. Received: 0",
        ),
        (
            "model={kind: vgg11, resize: 224}",
            "model.resize: expected [height, width], two whole numbers from 1 to 8192. Received: 224",
        ),
        (
            "model={kind: vgg11, preprocessing: [{kind: gamma, gamma: 0}]}",
            "model.preprocessing.0.gamma: expected a number of at least 0.01. Received: 0",
        ),
        (
            "model={kind: pretrained, hidden: 8}",
            "model.hidden: unknown key; did you mean model.subnet.hidden?",
        ),
        (
            "model={kind: pretrained, dropout: 1}",
            "model.dropout: expected a number from 0 to below 1. Received: 1",
        ),
        *(
            (
                f"comparison.baselines.networks={networks}",
                "comparison.baselines.networks: expected a list of pretrained, vgg19_cam and vgg11, "
                f"each once. Received: {networks}",
            )
            for networks in ("[]", "['vgg11', 'vgg11']", "['vgg16']")
        ),
        (
            "comparison.patch_sizes=[8, 8]",
            "comparison.patch_sizes: expected a list of whole numbers of at least 1, each once. "
            "Received: [8, 8]",
        ),
        (
            "comparison.patch_sizes=17",
            "comparison.patch_sizes: expected a list of whole numbers of at least 1, each once. Received: 17",
        ),
        (
            "comparison.baselines.width=2",
            "comparison.baselines.width: expected a number above 0, at most 1. Received: 2",
        ),
        (
            "comparison.baselines.epoch=2",
            "comparison.baselines.epoch: unknown key; did you mean comparison.baselines.epochs?",
        ),
        ("model=3", "model: expected a section with keys of its own. Received: 3"),
    ],
)
def test_wrong_value(write, override, message):
    path = write(GOOD)
    with pytest.raises(InputError) as caught:
        load_config(path, [override])
    assert str(caught.value) == f"--set {message}"


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (
            "name: a\ndata: {path: x}\n",
            [
                "data.kind: this key is missing; "
                "expected dtd, folder, isic2017, manifest, squares or textures",
                "model: this key is missing",
            ],
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
        ("a: &a [1, 1]\nname: *a", ":2"),
        ("a: &a [*a]", ":1"),
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
    assert str(caught.value).startswith(f"--set {override[:100]}")
    assert len(str(caught.value)) < 300
    assert str(caught.value).endswith(f": not valid YAML ({reason})")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a=1", "--set a: unknown key"),
        ("a.b.c=1", "--set a: unknown key"),
        ("data.a.b=1", "--set data.a: unknown key"),
        ("model.subnet.kind=odd", "--set model.subnet.kind: expected paper or pretrained. Received: 'odd'"),
    ],
)
def test_an_override_is_blamed_for_what_it_made(write, override, message):
    with pytest.raises(InputError) as caught:
        load_config(write(GOOD), [override])
    assert str(caught.value) == message


def test_unknown_keys_of_the_file_are_not_blamed_on_an_override(write):
    path = write(GOOD + "a: {b: 1}\n")
    with pytest.raises(InputError, match=f"^{path}: a: unknown key$"):
        load_config(path, ["a.c=1"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("9" * 6000, r"--set training.epochs=9{100,}:1: not valid YAML \('9{100,}\.\.\. is no int\)"),
        ("-0x" + "f" * 6000, r"--set training.epochs: .* Received: a number of too many digits"),
        ("-" + "9" * 4000, r"--set training.epochs: expected .* Received: -9{100,}\.\.\."),
        ("x" * 6000, r"--set training.epochs: expected .* Received: 'x{100,}\.\.\."),
    ],
)
def test_long_values_are_shortened(write, value, message):
    with pytest.raises(InputError) as caught:
        load_config(write(GOOD), [f"training.epochs={value}"])
    assert re.fullmatch(message, str(caught.value))
    assert len(str(caught.value)) < 600


def test_the_largest_values(write):
    config = load_config(
        write(GOOD),
        ["data.size=[8192, 1]", "model.subnet.depth=64", "training.seed=4294967295", "data.classes=[b, a]"],
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


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_configurations_of_this_project(path, monkeypatch):
    monkeypatch.setenv("PATCHNET_DATA", "/data")
    config = load_config(path)
    assert config.name == path.stem
    head = path.read_text().partition("\n\n")[0]
    assert f"configs/{path.name}" in head
    if "_patchnet" in path.stem:
        one_size = path.stem.endswith(f"_patchnet{config.model.patch_size}")
        assert one_size or "--patch-sizes 11,17,31" in head  # the paper's of the nuclei
        assert (config.training.learning_rate, config.training.batch_size) == (1e-4, 4)


@pytest.mark.parametrize(
    "data", ["isic2017_patchnet21", "dtd_patchnet31", "bj_nih3t3_patchnet", "bj_mcf10a_patchnet"]
)
@pytest.mark.parametrize(("end", "kind"), [("cam", "vgg19_cam"), ("vgg11", "vgg11")])
def test_baselines_of_this_project(data, end, kind, monkeypatch):
    """They differ from PatchNet's configuration in the model and the batch size."""
    monkeypatch.setenv("PATCHNET_DATA", "/data")
    patchnet = load_config(CONFIGS / f"{data}.yaml")
    baseline = load_config(CONFIGS / f"{data.rpartition('_')[0]}_{end}.yaml")
    assert baseline.data == patchnet.data
    assert baseline.training == patchnet.training.model_copy(update={"batch_size": 64})
    same = {"crop": patchnet.model.crop, "preprocessing": patchnet.model.preprocessing}
    assert baseline.model == type(baseline.model)(kind=kind, **same)


def test_identity_is_all_but_what_may_change():
    """A run goes on with more epochs, other masks and another comparison, and with nothing else changed."""
    may_change = (
        "training.epochs",
        "training.feature_memory",
        "data.mask",
        "data.memory",
        "data.cache",
        "data.mask_channel",
        "data.mask_threshold",
        "evaluation",
        "comparison",
    )

    def keys(section, place=()):
        for name in type(section).model_fields:
            value, key = getattr(section, name), ".".join((*place, name))
            if key in may_change:
                continue
            yield from keys(value, (*place, name)) if isinstance(value, Section) else [(key, value)]

    for data in (
        {"kind": "folder", "path": "x", "mask": "spot"},
        {"kind": "isic2017", "path": "x", "mask": "lesion"},
        {"kind": "textures"},
    ):
        for model in ({"patch_size": 9}, {"kind": "vgg11"}):
            config = Config.model_validate({"name": "a", "data": data, "model": model})
            assert config.identity() == dict(keys(config))
    other = config.model_copy(update={"training": Training(epochs=3)})
    assert other.identity() == config.identity()
    other = config.model_copy(update={"training": Training(seed=3)})
    assert other.identity() != config.identity()


def test_documented_data_sections(tmp_path):
    text = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    kinds = []
    for block in blocks:
        (tmp_path / "a.yaml").write_text(block)
        kinds.append(load_config(tmp_path / "a.yaml").data.kind)
    assert kinds == ["folder", "manifest"]
