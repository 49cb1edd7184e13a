"""Builds the compiled module through CMakeLists.txt; everything else about the package is in pyproject.toml."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """One build folder for each Python and torch, so that a second build only does what changed."""

    def build_extension(self, ext: Extension) -> None:
        import torch

        output = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = ROOT / "build" / f"{sys.implementation.cache_tag}-torch-{torch.__version__}"
        settings = [f"-DECGTWIN_PYTHON={sys.executable}", f"-DECGTWIN_OUTPUT={output}"]
        # CMake remembers the ninja of its first run, which may have been in an environment that is gone.
        ninja = shutil.which("ninja", path=self._path())
        settings += [f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
        self._run("cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(build), *settings)
        self._run("cmake", "--build", str(build))

    def copy_extensions_to_source(self) -> None:
        super().copy_extensions_to_source()
        facts = Path(self.build_lib).resolve() / "ecgtwin_fast" / "_build.json"
        self.copy_file(str(facts), str(ROOT / "ecgtwin_fast" / "_build.json"))

    @staticmethod
    def _path() -> str:
        """The environment's own cmake and ninja come first, whether or not the environment is activated."""
        return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

    @staticmethod
    def _run(*command: str) -> None:
        try:
            subprocess.run(command, check=True, env={**os.environ, "PATH": CMakeBuild._path()})
        except FileNotFoundError:
            raise SystemExit(
                "cmake was not found; pip install 'cmake>=3.25' ninja 'setuptools>=77'"
            ) from None
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"{' '.join(command)} failed with status {error.returncode}") from None


setup(ext_modules=[Extension("ecgtwin_fast._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
