"""Builds the compiled engine with the package, where there is a C compiler; all else is in pyproject.toml.

The library is loaded by cffi and knows nothing of Python: one wheel serves every version of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))

from tunnel.engine import build  # noqa: E402  it lies beside this file, and is not installed yet

FOLDER = Path("tunnel", "engine")


class BuildEngine(build_ext):
    """Compiles by ``tunnel.engine.build``; a failure is reported, and then mtunnel runs without."""

    def get_ext_filename(self, fullname: str) -> str:
        """Name the library by its sources, not by the Python that is running."""
        name = build.file_name()
        return str(FOLDER / name) if "." in fullname else name

    def build_extension(self, ext: Extension) -> None:
        """Compile; what an earlier build left is removed, in the source tree what is of other sources."""
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        others = (path for path in (ROOT / FOLDER).glob("engine-*.so.1") if path.name != build.file_name())
        for old in {*target.parent.glob("engine-*.so.1"), *others}:
            old.unlink()
        try:
            build.build(target)
        except build.BuildError as error:
            self.warn(
                f"mtunnel is installed without its compiled engine, and will need more CPU time: {error}"
            )

    def copy_extensions_to_source(self) -> None:
        """Put the library into the source tree of an editable installation, if there is one."""
        if any(Path(self.build_lib, FOLDER).glob("engine-*.so.1")):
            super().copy_extensions_to_source()


class EngineWheel(bdist_wheel):
    """A wheel for this platform and any Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tag in its file name."""
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("tunnel.engine.records", [str(path.relative_to(ROOT)) for path in build.SOURCES])],
    cmdclass={"build_ext": BuildEngine, "bdist_wheel": EngineWheel},
)
