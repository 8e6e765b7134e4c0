"""Evaluation, comparison, ablation and classifiers. Needs pandas."""

from ..errors import require

require("pandas", extra="metrics")
