__version__ = "1.0.0"

from importlib import import_module
from typing import TYPE_CHECKING

from .utils import wait_passively

if TYPE_CHECKING:
    from .config import EMOTIONS, SEVLMConfig, TrainConfig
    from .lexicon.lexicon import Lexicon
    from .models.explainer import load
    from .models.sevlm import SEVLM

__all__ = ["EMOTIONS", "SEVLM", "Lexicon", "SEVLMConfig", "TrainConfig", "load"]

wait_passively()  # before PyTorch is loaded: OpenMP reads its settings once

_HOMES = {  # public name -> the module it is loaded from when it is first used
    "EMOTIONS": ".config",
    "SEVLM": ".models.sevlm",
    "SEVLMConfig": ".config",
    "TrainConfig": ".config",
    "Lexicon": ".lexicon.lexicon",
    "load": ".models.explainer",
}


def __getattr__(name: str) -> object:
    "The public names of the package, loaded when they are used: `import sevlm` alone stays light."
    if name not in _HOMES:
        raise AttributeError(f"module 'sevlm' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
