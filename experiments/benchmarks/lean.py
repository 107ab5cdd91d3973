"""Stand-ins for libraries that read data and command lines, where they are not installed.

`mlm_jax.train` and what it imports name them; a training step asks nothing of them.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any

READERS = ("grain", "tensorflow_datasets", "tyro")


class Absent(ModuleType):
    """Has every name; what is done with one fails."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(f"{self.__name__}.{name}")


def there(module: str) -> bool:
    """Whether a module can be imported."""
    if module in sys.modules:
        return not isinstance(sys.modules[module], Absent)
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def stand_in() -> None:
    """Before anything of mlm_jax is imported."""
    for name in READERS:
        if not there(name):
            sys.modules[name] = Absent(name)
