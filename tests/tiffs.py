"What a Pillow cannot read of what it writes itself."

import PIL
import pytest

READS_YCBCR = 13  # the first Pillow that reads the uncompressed YCbCr TIFF that it writes


def skip_unreadable(mode: str) -> None:
    "Skips a test that reads such a TIFF with an earlier Pillow."
    if mode == "YCbCr" and int(PIL.__version__.split(".")[0]) < READS_YCBCR:
        pytest.skip("this Pillow cannot read the uncompressed YCbCr TIFF that it writes")
