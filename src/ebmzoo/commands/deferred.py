"""Packages that load far more than a command needs: their parts are loaded as they are asked for.

Lightning loads torchmetrics, which loads torchvision's detection operators, which load torch's compiler; torch's
optimizers load that too, to exclude themselves from compilation, and Lightning's summary of a model loads torch's
counter of FLOPs, which loads triton. Together these are more than half of the modules of a `fit`, and none of them is
used. Within `ebmzoo` each package of `DEFERRED` is therefore hollow until one of its own names is asked for: its
modules can be imported without it, and of its names only those listed are there without it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from logging import getLogger
from threading import RLock
from types import ModuleType
from typing import Any

_LOCK = RLock()

OF_IMPORT = ("__path__", "__file__", "__cached__", "__package__", "__loader__", "__spec__", "__wrapped__")
"""What Python asks a module for that it is about to describe, or that no module has."""


class Hollow(ModuleType):
    """A module whose own code runs when a name is asked for that neither its modules nor `ready` give."""

    def __getattr__(self, name: str) -> Any:
        if name in OF_IMPORT:
            raise AttributeError(name)
        found, spec = vars(self), vars(self)["__spec__"]
        if name in (ready := DEFERRED[spec.name]):
            return ready[name](spec.name)
        if spec.submodule_search_locations is not None and spec.name not in WHOLE:
            try:
                return import_module(f"{spec.name}.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"{spec.name}.{name}":
                    raise
        fill(self)
        if name in found:
            return found[name]
        raise AttributeError(f"module {spec.name!r} has no attribute {name!r}")


def fill(module: ModuleType) -> None:
    """Run the code of a hollow module, and of those that it is in."""
    spec = vars(module).get("__spec__")
    with _LOCK:
        if spec is None or not isinstance(spec.loader, HollowLoader) or spec.loader.filled:
            return
        spec.loader.filled = True
        parent = sys.modules.get(spec.name.rpartition(".")[0])
        if isinstance(parent, Hollow):
            fill(parent)
        spec.loader.real.exec_module(module)


class HollowLoader(Loader):
    """Makes the module and leaves its code for later."""

    def __init__(self, real: Any) -> None:
        self.real, self.filled = real, False

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Hollow(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        """Whatever else is asked of a loader, such as a file's source."""
        return getattr(self.real, name)


class DeferringFinder(MetaPathFinder):
    """Finds the packages of `DEFERRED`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package = fullname.rpartition(".")[0]
        if package in WHOLE and isinstance(whole := sys.modules.get(package), Hollow):
            fill(whole)
        if fullname not in DEFERRED or (spec := PathFinder.find_spec(fullname, path, target)) is None:
            return None
        spec.loader = HollowLoader(spec.loader)
        return spec


def install() -> None:
    """Defer, in this process, what is not loaded yet."""
    if not any(isinstance(finder, DeferringFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, DeferringFinder())


def _of(home: str, name: str, *before: str) -> Callable[[str], Any]:
    """A name of the package that one of its modules defines, which imports in a circle with the modules `before`."""
    return lambda _: getattr([import_module(module) for module in (*before, home)][-1], name)


def _anything(_: str) -> Any:
    """A type of annotations."""
    return Any


def _later(name: str) -> Callable[[str], Any]:
    """A function of the package, which loads it when it is called."""

    def ready(package: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            module = sys.modules[package]
            fill(module)
            return vars(module)[name](*args, **kwargs)

        return call

    return ready


def _nothing(name: str) -> Callable[[str], Any]:
    """A function of the package that has nothing to do before the package is loaded."""

    def ready(package: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            real = vars(sys.modules[package]).get(name)
            return None if real is None else real(*args, **kwargs)

        return call

    return ready


def _class(name: str) -> Callable[[str], Any]:
    """A class of which there can be no instance before the package is loaded."""

    def ready(package: str) -> Any:
        def real() -> Any:
            return vars(sys.modules[package]).get(name)

        class Kind(type):
            def __instancecheck__(cls, instance: object) -> bool:
                return real() is not None and isinstance(instance, real())

            def __subclasscheck__(cls, other: type) -> bool:
                return real() is not None and issubclass(other, real())

        return Kind(name, (), {"__module__": package})

    return ready


def _disable(package: str) -> Any:
    """`torch._dynamo.disable`: before the compiler is loaded, there is nothing to exclude a function from."""

    def disable(fn: Any = None, *args: Any, **kwargs: Any) -> Any:
        if not callable(fn):
            fill(sys.modules[package])
            return vars(sys.modules[package])["disable"](fn, *args, **kwargs)
        excluded: list[Any] = []

        @wraps(fn)
        def call(*values: Any, **named: Any) -> Any:
            if not excluded:
                real = vars(sys.modules[package]).get("disable")
                if real is None:
                    return fn(*values, **named)
                excluded.append(real(fn, *args, **kwargs))
            return excluded[0](*values, **named)

        return call

    return disable


DEFERRED: Mapping[str, Mapping[str, Callable[[str], Any]]] = {
    "torch._dynamo": {
        "disable": _disable,
        "graph_break": _nothing("graph_break"),  # of every optimizer's step
        "OptimizedModule": _class("OptimizedModule"),
    },
    "torch.utils.flop_counter": {"FlopCounterMode": _later("FlopCounterMode")},
    "torchmetrics": {
        "Metric": _of("torchmetrics.metric", "Metric", "torchmetrics.utilities"),
        "MetricCollection": _of("torchmetrics.collections", "MetricCollection", "torchmetrics.utilities"),
        "__version__": _of("torchmetrics.__about__", "__version__"),
        "_logger": getLogger,
    },
    "torchmetrics.functional": {},
    "torchmetrics.functional.image": {
        "peak_signal_noise_ratio": _of("torchmetrics.functional.image.psnr", "peak_signal_noise_ratio"),
        "structural_similarity_index_measure": _of(
            "torchmetrics.functional.image.ssim", "structural_similarity_index_measure"
        ),
    },
    "torchmetrics.utilities.plot": {
        "_AX_TYPE": _anything,
        "_PLOT_OUT_TYPE": _anything,
        "plot_single_or_multi_val": _later("plot_single_or_multi_val"),
    },
    "torchvision": {"__version__": _of("torchvision.version", "__version__")},
    "torchvision.models": {},
    "torchvision.ops": {},
    "wandb.sdk.launch": {},
}
"""The packages, with the names of each that are there without it."""

WHOLE = ("torch._dynamo",)
"""Those whose modules cannot be loaded without them."""
