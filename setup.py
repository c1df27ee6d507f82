"""What the metadata in pyproject.toml cannot say: a wheel carries the folders that lie beside the package.

The presets (``configs/``), table files (``tables/``) and prompt templates (``data_templates/``) lie at the top of the
repository, where readers look for them; a wheel carries them inside the package, and an editable install uses them in
place.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SHIPPED_FOLDERS = ("configs", "data_templates", "tables")
SHIPPED_FILES = ("constraints.txt",)  # plan and doctor compare what is installed with it


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


setup(cmdclass={"build_py": BuildWithFolders})
