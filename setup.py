"""Packaging of fs-fedmllm.

The presets (``configs/``), table files (``tables/``) and prompt templates (``data_templates/``) lie at the top of the
repository, where readers look for them; a wheel carries them inside the package, and an editable install uses them in
place.
"""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SHIPPED_FOLDERS = ("configs", "data_templates", "tables")
SHIPPED_FILES = ("constraints.txt",)  # plan and doctor compare what is installed with it


def version() -> str:
    """``fs_fedmllm.version.VERSION``, read and not imported: an isolated build has none of our dependencies."""
    text = (ROOT / "fs_fedmllm" / "version.py").read_text(encoding="utf-8")
    found = re.search(r'^VERSION = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise SystemExit('fs_fedmllm/version.py has no line VERSION = "..."')
    return found.group(1)


class BuildWithFolders(build_py):
    """Put the shipped folders inside the package, unless it is used in place."""

    def run(self) -> None:
        super().run()
        if getattr(self, "editable_mode", False):
            return
        for name in SHIPPED_FOLDERS:
            if (ROOT / name).is_dir():
                target = Path(self.build_lib) / "fs_fedmllm" / name
                shutil.rmtree(target, ignore_errors=True)  # a file that is gone from the repository
                shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        for name in SHIPPED_FILES:
            if (ROOT / name).is_file():
                shutil.copy2(ROOT / name, Path(self.build_lib) / "fs_fedmllm" / name)


# Lower bounds: the oldest set that the test suite was run with, all at once; constraints.txt: the newest.
# Upper bounds: the next release that may break. bitsandbytes has the bound that transformers states.
# FederatedScope itself is no dependency: it is on no index and its pins exclude every package below.
INSTALL = [
    "torch>=2.6,<2.14",
    "transformers>=5.10,<6",
    "peft>=0.19,<0.22",
    "accelerate>=1.10.1,<2",
    "datasets>=4.7,<6",
    "scikit-learn>=1.5,<2",
    "numpy>=2.0,<3",
    "safetensors>=0.5,<1",
    "pillow>=11,<14",
    "pyyaml>=6.0.1,<7",
    "tqdm>=4.67,<5",
    "tensorboard>=2.17,<3",
    "jinja2>=3.1.6,<4",
    # Most of these come with the packages above; what is imported is named all the same.
    "huggingface_hub>=1.33,<3",
    "pyarrow>=21,<27",
    "scipy>=1.13,<2",
    "packaging>=24",
]
FEDERATEDSCOPE = ["protobuf>=4.22,<8", "grpcio>=1.60,<2", "pympler>=1.0,<2", "scipy>=1.13,<2"]
EXTRAS = {
    "fs": FEDERATEDSCOPE,
    "distributed": [*FEDERATEDSCOPE, "cryptography>=42,<51"],  # the sites of such a run are FederatedScope's processes
    "quant": ["bitsandbytes>=0.46.1"],
    "smolvlm": ["num2words>=0.5.14,<1"],
    "judge": ["openai>=2,<4"],
    "hub": ["huggingface_hub>=1.33,<3"],
    "evaluate": ["evaluate>=0.4.3,<1"],
    "plot": ["matplotlib>=3.9,<4"],
    "privacy": ["dp-accounting>=0.6,<0.7", "cryptography>=42,<51"],
}
EXTRAS["dev"] = [
    "pytest>=8.3",
    "pytest-timeout>=2.3.1",
    "pytest-xdist>=3.6.1",
    "hypothesis>=6.100",
    "ruff>=0.12",
    "mypy>=1.16",
    "types-PyYAML>=6.0.12",
    "build>=1.2",
]

setup(
    name="fs-fedmllm",
    version=version(),
    description="Federated fine-tuning of multimodal large language models, on FederatedScope or on its own",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    # The repository has no public address yet; what it implements and what it runs on have.
    project_urls={
        "Paper": "https://arxiv.org/abs/2411.14717",
        "FederatedScope": "https://github.com/alibaba/FederatedScope",
    },
    keywords=["federated learning", "multimodal", "large language models", "LoRA", "missing modalities"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["fs_fedmllm", "fs_fedmllm.*"]),
    package_data={"fs_fedmllm": ["py.typed", "models/tiny/*", "models/tiny/**/*", "tools/report/*.j2"]},
    cmdclass={"build_py": BuildWithFolders},
    install_requires=INSTALL,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["fs-fedmllm = fs_fedmllm.cli:main"]},
)
