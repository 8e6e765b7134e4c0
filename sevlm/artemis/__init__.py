"""ArtEmis's preprocessing and its files. Needs pandas."""

from ..errors import require

require("pandas", extra="metrics,prepare")
