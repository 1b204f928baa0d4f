"""Stands for torch where play_launch reads launch files: it brings Python 3.10 of its own, which nothing else of this project runs on."""

import inspect
import sys
import types


class _Anything(types.ModuleType):
    """Has every attribute, takes every call, and does nothing."""

    def __init__(self, name="anything"):
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name)

    def __call__(self, *given, **named):
        return given[0] if len(given) == 1 and callable(given[0]) else _Anything()

    def __mro_entries__(self, bases):
        return (object,)

    def __or__(self, other):
        return self

    __ror__ = __or__


class Tensor:
    """A type to write down."""


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return _Anything(name)


nn = sys.modules["torch.nn"] = _Anything("torch.nn")
sys.modules["torch.nn.functional"] = _Anything("torch.nn.functional")
_isclass = inspect.isclass
inspect.isclass = lambda found: _isclass(found) and not isinstance(found, types.GenericAlias)  # dict[str, int] is a class for Python 3.10, and none for 3.11
