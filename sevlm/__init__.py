__version__ = "0.1.0"

from .utils import wait_passively

wait_passively()  # before PyTorch is loaded: OpenMP reads its settings once
