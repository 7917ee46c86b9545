"""Commands outside of packages, as modules."""

from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

from tests.support.environment import ROOT


def load_command(path: str) -> ModuleType:
    """Return the module of a file such as ``datasets/make_shards.py``.

    It is not imported by name: `datasets` may be another package.
    """
    spec = spec_from_file_location(path.replace("/", "_").removesuffix(".py"), ROOT / path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
