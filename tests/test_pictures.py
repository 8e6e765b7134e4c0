"""Pictures as they come: every mode and state means the same everywhere; damage is found, and its share; what is none
is named; what is large or long is told."""

import contextlib
import io
import json
import logging
import os
import struct
import zlib
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from tiffs import skip_unreadable

import sevlm
from sevlm import images
from sevlm.app.inspect import inspect_path
from sevlm.cli import main
from sevlm.errors import ConfigError, ImageError
from sevlm.images import (
    JPEG_END,
    MAX_PIXELS,
    PADDING,
    check_picture,
    find_damage,
    fit_image,
    image_of_array,
    open_and_check,
    open_image,
    other_files,
    other_files_notice,
    picture_files,
    shape_notice,
    to_8_bits,
)
from sevlm.synthetic.paint import paint, random_scene

CASES = Path(__file__).parent / "cases" / "images"
ORIENTATION = 0x0112
SCAN_HEADER = 14  # bytes of a JPEG, for three components
TURNED = {  # orientation -> how a picture was stored, so that turning by the note gives it back
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.fixture(scope="module")
def explain():
    return sevlm.load(device="cpu")


@pytest.fixture(scope="module")
def picture():
    "A painted scene on a grain as photographs have; 304 x 224 is a whole number of blocks."
    rng = np.random.default_rng(5)
    smooth = np.asarray(paint(random_scene(rng), rng).resize((304, 224)), float)
    return Image.fromarray((smooth + 3 * rng.standard_normal(smooth.shape)).clip(0, 255).astype(np.uint8))


def coded(image, kind="JPEG", **how):
    image.save(buffer := io.BytesIO(), kind, **how)
    return buffer.getvalue()


def pixels_of(image):
    return np.asarray(image, int)


def message_of(source, open_=open_image):
    with pytest.raises(ImageError) as error:
        open_(source)
    return str(error.value)


def same(a, b):
    assert (a.emotion, a.explanation) == (b.emotion, b.explanation)
    assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)


# ---------------------------------------------------------------------------------------- a picture means the same


def lab_of(picture):
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.applyTransform(picture, ImageCms.buildTransform(*profiles, "RGB", "LAB"))


MODES = {  # name -> (ending, picture -> PIL image, largest difference from the picture)
    "RGB": (".png", lambda p: p, 0),
    "1": (".png", lambda p: p.convert("1"), None),
    "L": (".png", lambda p: p.convert("L"), None),
    "LA": (".png", lambda p: p.convert("LA"), None),
    "P": (".png", lambda p: p.quantize(64), None),
    "PA": (".tif", lambda p: p.quantize(64).convert("PA"), None),
    "RGBA": (".png", lambda p: p.convert("RGBA"), 0),
    "CMYK": (".tif", lambda p: p.convert("CMYK"), 0),
    "YCbCr": (".tif", lambda p: p.convert("YCbCr"), 4),
    "LAB": (".tif", lab_of, 12),
    "I;16": (".png", lambda p: grey_of(p, np.uint16, 257), 0),
    "I;16B": (".tif", lambda p: Image.frombytes("I;16B", p.size, grey(p, ">u2", 257).tobytes()), 0),
    "I": (".tif", lambda p: grey_of(p, np.int32, 1), 0),
    "I, 16 bits": (".tif", lambda p: grey_of(p, np.int32, 257), 1),
    "F": (".tif", lambda p: grey_of(p, np.float32, 1), 0),
    "F, 0 to 1": (".tif", lambda p: grey_of(p, np.float32, 1 / 255), 0),
}


def grey(picture, kind, times):
    return (np.asarray(picture.convert("L")).astype(float) * times).astype(kind)


def grey_of(picture, kind, times):
    return Image.fromarray(grey(picture, kind, times))


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_the_same_from_a_file_and_from_pillow(mode, picture, tmp_path):
    ending, convert, tolerance = MODES[mode]
    image = convert(picture)
    assert image.mode == mode.split(",")[0]
    skip_unreadable(mode)
    image.save(tmp_path / f"x{ending}")
    opened = open_image(tmp_path / f"x{ending}")
    assert opened.mode == "RGB" and opened.size == picture.size
    with Image.open(tmp_path / f"x{ending}") as lazy:
        assert open_image(lazy).tobytes() == opened.tobytes()
    assert open_image((tmp_path / f"x{ending}").read_bytes()).tobytes() == opened.tobytes()
    difference = np.abs(pixels_of(open_image(image)) - pixels_of(opened)).max()
    assert difference <= (1 if mode == "PA" else 0)
    if tolerance is not None:
        expected = picture.convert("L").convert("RGB") if mode[0] in "IF" else picture
        assert np.abs(pixels_of(opened) - pixels_of(expected)).max() <= tolerance


def test_premultiplied_alpha_and_transparent_palettes_lie_on_white():
    half = Image.new("RGBA", (4, 4), (200, 0, 0, 128))
    assert open_image(half).getpixel((0, 0)) == (227, 127, 127)
    assert np.abs(pixels_of(open_image(half.convert("RGBa"))) - pixels_of(open_image(half))).max() <= 1
    grey = Image.new("LA", (4, 4), (0, 0))
    for image in (grey, grey.convert("La"), Image.new("RGBA", (4, 4), (0, 0, 0, 0))):
        assert open_image(image).getpixel((1, 1)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert open_image(coded(palette, "PNG")).getpixel((0, 0)) == (40, 50, 60)
    for transparency in (1, b"\xff\x00"):  # one colour; one number per colour
        assert open_image(coded(palette, "PNG", transparency=transparency)).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(coded(Image.new("RGB", (4, 4), "red"), "PNG", transparency=(255, 0, 0))).getpixel((0, 0)) == (
        (255,) * 3
    )


def test_more_bits_are_never_black(tmp_path):
    ramp = np.linspace(0, 1, 64)[None].repeat(8, 0)
    full = open_image(Image.fromarray((ramp * 255).astype(np.uint8)))
    for values in (  # whatever the numbers: the picture is visible from one end to the other
        *(ramp * white for white in (0.7, 1, 2, 200, 255, 4095, 60_000, 65_535, 1e6)),
        ramp * 60 - 30,
        np.where(ramp > 0.9, np.nan, ramp),
        np.where(ramp > 0.9, np.inf, ramp * 5),
    ):
        Image.fromarray(values.astype(np.float32)).save(tmp_path / "float.tif")
        opened = pixels_of(open_image(tmp_path / "float.tif"))
        assert opened.max() >= 128 and opened.min() <= 1
        if np.isfinite(values).all() and values.max() > 1:
            Image.fromarray(values.astype(np.int32)).save(tmp_path / "int.tif")
            whole = pixels_of(open_image(tmp_path / "int.tif"))
            assert whole.max() >= 128 and whole.min() <= 1
    for white, kind in ((1, np.float32), (255, np.float32), (65_535, np.float32), (255, np.int32), (65_535, np.int32)):
        opened = open_image(Image.fromarray((ramp * white).astype(kind)))
        assert np.abs(pixels_of(opened) - pixels_of(full)).max() <= 1
    # a mask of 0 and 1; a dark picture whose file says 16 bits, or 8, stays dark
    assert open_image(Image.fromarray(np.eye(4, dtype=np.int32))).getextrema() == ((0, 255),) * 3
    assert open_image(Image.fromarray(np.full((4, 4), 255, np.uint16))).getextrema() == ((0, 0),) * 3
    assert open_image(Image.fromarray(np.full((4, 4), 3, np.uint8))).getextrema() == ((3, 3),) * 3
    with pytest.raises(ImageError, match="no finite numbers"):
        open_image(Image.fromarray(np.full((4, 4), np.nan, np.float32)))


def test_sixteen_bits_become_eight_as_before():
    values = np.arange(65_536).reshape(256, 256)
    assert (to_8_bits(values.astype(np.uint16), 65_535) == (values / 257).astype(np.uint8)).all()
    assert (pixels_of(open_image(Image.fromarray(values.astype(np.uint16))))[..., 0] == values // 257).all()
    assert (np.asarray(image_of_array(values.astype(np.uint16))) == values // 257).all()


def test_unsigned_integers_of_32_bits(tmp_path):
    "Pillow reads them as signed: half of them are negative."
    values = np.linspace(0, 2**32 - 1, 64).astype("<u4")[None].repeat(4, 0)
    entries = [(256, 3, 64), (257, 3, 4), (258, 3, 32), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    entries += [(278, 3, 4), (279, 4, values.nbytes), (339, 3, 1)]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHLL", t, k, 1, v) for t, k, v in entries)
    head = b"II*\0" + struct.pack("<L", 8 + values.nbytes)
    (tmp_path / "x.tif").write_bytes(head + values.tobytes() + directory + bytes(4))
    opened = pixels_of(open_image(tmp_path / "x.tif"))[0, :, 0]
    assert opened[0] == 0 and opened[-1] == 255 and (np.diff(opened) > 0).all()


def test_arrays():
    colour = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3) * 4
    for array in (colour, colour / 255, (colour / 255).astype(np.float32), colour.astype(np.uint16) * 257):
        assert open_image(array).tobytes() == colour.tobytes()
    mask = np.eye(4, dtype=bool)
    assert pixels_of(open_image(mask)).tolist() == pixels_of(open_image(mask.astype(np.uint8) * 255)).tolist()
    for array in (colour.astype(np.int32), colour.astype(float), colour[..., :2], np.zeros((0, 4)), colour * 1j):
        assert "Expected [height, width]" in message_of(array)


def test_the_first_frame_is_taken(picture, tmp_path):
    second = Image.new("RGB", picture.size, "black")
    for kind, ending in (("GIF", "gif"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif"), ("MPO", "mpo")):
        how = {"lossless": True} if kind == "WEBP" else {}
        picture.save(tmp_path / f"x.{ending}", kind, save_all=True, append_images=[second], **how)
        opened = open_image(tmp_path / f"x.{ending}")
        assert np.abs(pixels_of(opened) - pixels_of(picture)).mean() < 8
        with Image.open(tmp_path / f"x.{ending}") as lazy:
            assert lazy.n_frames == 2 and open_image(lazy).tobytes() == opened.tobytes()
        assert find_damage(tmp_path / f"x.{ending}") is None


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_all_eight_orientations(kind, tmp_path):
    rng = np.random.default_rng(0)
    upright = Image.fromarray(rng.integers(0, 256, (2, 3, 3), np.uint8)).resize((48, 32), Image.Resampling.NEAREST)
    how = {"JPEG": dict(quality=100, subsampling=0), "WEBP": dict(lossless=True), "AVIF": dict(quality=100)}.get(
        kind, {}
    )
    for orientation, turn in TURNED.items():
        (exif := Image.Exif())[ORIENTATION] = orientation
        stored = upright if turn is None else upright.transpose(turn)
        stored.save(tmp_path / "x", kind, exif=exif, **how)
        opened = open_image(tmp_path / "x")
        assert opened.size == upright.size
        assert np.abs(pixels_of(opened) - pixels_of(upright)).mean() <= (8 if how else 0), orientation
        with Image.open(tmp_path / "x") as lazy:
            assert open_image(lazy).tobytes() == opened.tobytes()


def exif_block(entries, order="<"):
    "EXIF as written by hand: (tag, type, count, value or offset) each."
    parts = b"".join(struct.pack(order + "HHLL", *entry) for entry in entries)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return b"Exif\0\0" + mark + struct.pack(order + "LH", 8, len(entries)) + parts + bytes(4)


SHORT, LONG, RATIONAL, ASCII = 3, 4, 5, 2
UPRIGHT_OF = {6: Image.Transpose.ROTATE_270}
EXIFS = {  # name -> (EXIF, whether its orientation 6 can be read)
    "good": (exif_block([(ORIENTATION, SHORT, 1, 6)]), True),
    "rational outside the file": (exif_block([(ORIENTATION, SHORT, 1, 6), (282, RATIONAL, 1, 9999)]), True),
    "as a long": (exif_block([(ORIENTATION, LONG, 1, 6)]), True),
    "as a text": (exif_block([(ORIENTATION, ASCII, 2, ord("6"))]), False),
    "as a rational": (exif_block([(ORIENTATION, RATIONAL, 1, 8)]), False),
    "out of range": (exif_block([(ORIENTATION, SHORT, 1, 99)]), False),
    "two of them": (exif_block([(ORIENTATION, SHORT, 2, 6)]), True),
    "of an unknown type": (exif_block([(ORIENTATION, 77, 1, 6)]), False),
    "a huge count": (exif_block([(ORIENTATION, SHORT, 2**31, 6)]), False),
    "cut off": (exif_block([(ORIENTATION, SHORT, 1, 6)])[:19], False),
    "only its name": (b"Exif\0\0", False),
    "no byte order": (b"Exif\0\0XX*\0" + bytes(20), False),
    "a directory that points to itself": (exif_block([(34665, LONG, 1, 8), (34853, LONG, 1, 8)]), False),
}


@pytest.mark.parametrize("name", EXIFS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_broken_exif_never_refuses_an_intact_picture(name, picture):
    exif, readable = EXIFS[name]
    for kind in ("JPEG", "PNG", "WEBP"):
        plain = open_image(coded(picture, kind))
        expected = plain.transpose(UPRIGHT_OF[6]) if readable else plain
        data = coded(picture, kind, exif=exif)
        assert open_image(data).tobytes() == expected.tobytes(), kind
        assert open_image(Image.open(io.BytesIO(data))).tobytes() == expected.tobytes()
        assert find_damage(data) is None


def png_chunk(name, body, right=True):
    checksum = zlib.crc32(name + body) ^ (not right)
    return struct.pack(">L", len(body)) + name + body + struct.pack(">L", checksum)


def test_a_broken_description_never_refuses_an_intact_picture(picture, tmp_path):
    "Texts with wrong checksums, notes cut short: the pixels are read without them."
    png = coded(picture, "PNG")
    after_header = 8 + 25
    for chunk in (
        png_chunk(b"tEXt", b"Title\0by whom?", right=False),
        png_chunk(b"zTXt", b"Title\0\0" + zlib.compress(bytes(20_000_000))),
        png_chunk(b"iCCP", b"profile\0\0no zlib"),
        png_chunk(b"pHYs", b"1"),
        png_chunk(b"gAMA", b""),
        png_chunk(b"eXIf", b"II"),
    ):
        data = png[:after_header] + chunk + png[after_header:]
        assert open_image(data).tobytes() == picture.tobytes(), chunk[:20]
    data = png[:after_header] + png_chunk(b"tEXt", b"Title\0x", right=False) + png[after_header:-400]
    assert "PNG" in message_of(data)  # cut off, too
    jpeg = coded(picture, exif=exif_block([(ORIENTATION, SHORT, 1, 6)]))
    plain = open_image(coded(picture))
    for marker in (0xE0, 0xE1, 0xE2, 0xED, 0xEE):
        for body in (
            b"",
            b"JFIF",
            b"Exif\0\0",
            b"MPF\0II*\0" + bytes(3),
            b"ICC_PROFILE\0\1",
            b"Photoshop 3.0\0",
            b"Adobe",
        ):
            note = bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body
            data = coded(picture)[:2] + note + coded(picture)[2:]
            assert open_image(data).tobytes() == plain.tobytes(), (marker, body)
            assert find_damage(data) is None
    assert open_image(jpeg).size == (224, 304)


@pytest.mark.filterwarnings("ignore")
def test_random_exif(picture):
    rng = np.random.default_rng(0)
    small = picture.resize((40, 24))
    plain = {kind: open_image(coded(small, kind)) for kind in ("JPEG", "PNG", "WEBP")}
    good = Image.Exif()
    for tag, value in ((ORIENTATION, 3), (282, 72.0), (271, "maker"), (306, "2026:11:29 10:00:00")):
        good[tag] = value
    for n in range(120):
        exif = bytearray(good.tobytes())
        for _ in range(rng.integers(1, 6)):
            exif[rng.integers(6, len(exif))] = rng.integers(256)
        kind = ("JPEG", "PNG", "WEBP")[n % 3]
        opened = open_image(coded(small, kind, exif=bytes(exif[: rng.integers(8, len(exif) + 1)])))
        turns = [plain[kind], *(plain[kind].transpose(t) for t in Image.Transpose)]
        assert opened.tobytes() in [t.tobytes() for t in turns]


# ---------------------------------------------------------------------------------------- large and long


def test_a_large_jpeg_is_decoded_small_and_upright(picture, tmp_path, monkeypatch):
    of_pillow = Image.MAX_IMAGE_PIXELS
    (exif := Image.Exif())[ORIENTATION] = 6
    for progressive in (False, True):
        picture.save(tmp_path / "x.jpg", exif=exif, progressive=progressive, quality=95)
        whole = open_image(tmp_path / "x.jpg")
        for limit, size in ((304 * 224, (224, 304)), (304 * 224 - 1, (112, 152)), (5000, (56, 76)), (1100, (28, 38))):
            monkeypatch.setattr(images, "MAX_PIXELS", limit)
            opened = open_image(tmp_path / "x.jpg")
            assert opened.size == size
            assert np.abs(pixels_of(whole.resize(size, Image.Resampling.BOX)) - pixels_of(opened)).mean() < 3
        monkeypatch.undo()
    monkeypatch.setattr(images, "MAX_JPEG_PIXELS", 60_000)
    assert "is too large: 0 million pixels; a JPEG may have" in message_of(coded(picture))
    assert Image.MAX_IMAGE_PIXELS == of_pillow  # lifted while a picture is opened, if at all


def test_a_jpeg_of_more_than_a_hundred_million_pixels(tmp_path):
    side = 12_000
    stripes = Image.new("L", (side, side - 3_000), 60)
    stripes.paste(200, (0, 0, side // 2, side))
    stripes.save(tmp_path / "x.jpg", quality=50)
    assert stripes.width * stripes.height > MAX_PIXELS
    opened = open_image(tmp_path / "x.jpg")
    assert opened.size == (side // 2, 4_500)
    assert abs(opened.getpixel((10, 10))[0] - 200) < 3 and abs(opened.getpixel((5_000, 4_000))[0] - 60) < 3
    assert find_damage(tmp_path / "x.jpg") is None


def header_bombs():
    yield "png", (CASES / "bomb_20000.png").read_bytes(), "400 million"
    yield (
        "bmp",
        b"BM" + struct.pack("<LHHL", 60, 0, 0, 54) + struct.pack("<LllHHL", 40, 30_000, 30_000, 1, 24, 0) + (bytes(20)),
        "900 million",
    )
    yield (
        "gif",
        b"GIF89a"
        + struct.pack("<HH", 65_000, 65_000)
        + b"\xf0\0\0"
        + bytes(6)
        + b","
        + struct.pack("<HHHHB", 0, 0, 65_000, 65_000, 0)
        + b"\x02\x02L\x01\0;",
        "4,225 million",
    )
    yield "ppm", b"P6 50000 50000 255\n" + bytes(100), "2,500 million"
    canvas = (16_383 - 1).to_bytes(3, "little") * 2
    frame = coded(Image.new("RGB", (8, 8)), "WEBP", lossless=True)[12:]
    body = b"WEBPVP8X" + struct.pack("<L", 10) + bytes(4) + canvas + frame
    yield "webp", b"RIFF" + struct.pack("<L", len(body)) + body, None
    entries = [(256, 4, 40_000), (257, 4, 40_000), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHLL", t, k, 1, v) for t, k, v in entries)
    yield "tif", b"II*\0" + struct.pack("<L", 8) + directory + bytes(4), "1,600 million"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_other_kinds_are_refused_by_their_header_with_advice_that_fits(tmp_path):
    for ending, data, size in header_bombs():
        (tmp_path / f"bomb.{ending}").write_bytes(data)
        said = message_of(tmp_path / f"bomb.{ending}")
        assert said.startswith(str(tmp_path / f"bomb.{ending}")), said
        if size:
            assert "again" not in said, said
            assert f"is too large: {size} pixels" in said and "100 million" in said and "-resize" in said


def test_a_progressive_jpeg_that_needs_all_memory_is_refused(picture, monkeypatch):
    data = coded(picture, progressive=True)
    frame = data.index(b"\xff\xc2")
    huge = data[: frame + 5] + struct.pack(">HH", 60_000, 60_000) + data[frame + 9 :]
    assert "too large: 3,600 million pixels; a progressive JPEG may have 250" in message_of(huge)
    assert find_damage(huge) is None  # and is not decoded to see


def test_a_very_long_picture_is_told_and_padded_on_request(explain, caplog, tmp_path):
    scroll = CASES / "scroll_4000x60.png"
    with caplog.at_level(logging.INFO, "sevlm"):
        squashed = explain(scroll)
    (said,) = [r.getMessage() for r in caplog.records]
    assert said.startswith(str(scroll)) and "67 times as long as wide (4000 x 60)" in said and "fit='pad'" in said
    caplog.clear()
    padded = explain(scroll, fit="pad")
    assert not caplog.records
    opened = open_image(scroll)
    square = fit_image(opened, "pad")
    assert square.size == (4000, 4000) and square.getpixel((0, 0)) == PADDING
    assert square.crop((0, 1970, 4000, 2030)).tobytes() == opened.tobytes()
    same(explain(square), padded)
    same(explain(opened), squashed)
    assert squashed.probabilities != padded.probabilities
    assert "".join(explain.stream(scroll, fit="pad")) == str(padded)
    with pytest.raises(ConfigError, match="fit = 'tiles'"):
        explain(scroll, fit="tiles")
    for width, height, long in ((400, 100, False), (401, 100, True), (1, 4, False), (1, 5, True)):
        assert bool(shape_notice(Image.new("L", (width, height)))) is long


# ---------------------------------------------------------------------------------------- damage


def scan_of(data):
    "Where the data of the first scan start."
    at = data.index(b"\xff\xda")
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


JPEGS = {
    "baseline": {},
    "fine": dict(quality=95),
    "coarse": dict(quality=15),
    "4:4:4": dict(subsampling=0),
    "4:2:2": dict(subsampling=1),
    "optimised": dict(optimize=True),
    "restart marks": dict(restart_marker_rows=1),
    "many restart marks": dict(restart_marker_blocks=5),
    "progressive": dict(progressive=True),
    "grey": dict(mode="L"),
    "CMYK": dict(mode="CMYK"),
}


def jpeg(picture, kind):
    how = dict(JPEGS[kind])
    return coded(picture.convert(how.pop("mode", "RGB")), **how)


def share_wrong(data, right):
    "From the first row of 8 pixels that is not as it should be to the end."
    wrong = np.abs(pixels_of(open_image(data).convert("L")) - right) > 3
    rows = wrong.any(1).reshape(-1, 8).any(1)
    return 1 - rows.argmax() / len(rows)


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_that_was_cut_is_found_with_and_without_an_end_mark(kind, picture):
    data = jpeg(picture, kind)
    start, right = scan_of(data), pixels_of(open_image(data).convert("L"))
    for part in (0.1, 0.3, 0.5, 0.7, 0.9):
        cut = data[: start + round(part * (len(data) - start))]
        if b"\xff\xda" in cut[-SCAN_HEADER:]:  # of a progressive one: cut in the scan, not in its header
            cut = data[: len(cut) + SCAN_HEADER]
        damage, open_ended = find_damage(cut + JPEG_END), find_damage(cut)
        assert damage and open_ended and abs(damage.share - open_ended.share) < 0.02
        if kind == "progressive":
            assert damage.bound and damage.share == 1 and "up to all of the picture" in str(damage)
        else:  # a row of blocks is 7 % of the picture
            assert not damage.bound and abs(damage.share - share_wrong(cut + JPEG_END, right)) < 0.1, part
            assert f"about {damage.share:.0%}".replace("%", " %") in str(damage)
        assert "cut off" in message_of(cut)


@pytest.mark.parametrize("kind", JPEGS)
def test_altered_bytes_are_found_nearly_always_and_their_share_nearly(kind, picture):
    data = jpeg(picture, kind)
    start, right = scan_of(data), pixels_of(open_image(data).convert("L"))
    rng = np.random.default_rng(1)
    found, near, opened = 0, 0, 0
    n = min(200, len(data) // 40)
    for at in rng.integers(start, len(data) - n - 10, 20):
        altered = data[:at] + rng.integers(0, 255, n, np.uint8).tobytes() + data[at + n :]
        with contextlib.suppress(ImageError):
            wrong = share_wrong(altered, right)
            opened += 1
            if damage := find_damage(altered):
                found += 1
                near += damage.bound or "restart" in kind or abs(damage.share - wrong) < 0.15
    assert opened >= 10 and found >= 0.75 * opened and near >= 0.6 * found


def test_restart_marks_keep_damage_small(picture):
    data = jpeg(picture, "restart marks")
    start, right = scan_of(data), pixels_of(open_image(data).convert("L"))
    found = []
    for part in (0.2, 0.3, 0.4, 0.5, 0.6):
        at = start + round(part * (len(data) - start))
        altered = data[:at] + bytes(range(40)) + data[at + 40 :]
        assert share_wrong(altered, right) > 0.3  # from there to the end
        if damage := find_damage(altered):
            found.append(damage.share)
    assert len(found) >= 3 and 0.05 < min(found) and max(found) < 0.25


def intact_jpegs(picture):
    "More than sixty intact files of many kinds."
    rng = np.random.default_rng(0)
    for n in range(24):
        scene = np.random.default_rng(n)
        box = (0, 0, int(rng.integers(17, 128)), int(rng.integers(17, 128)))
        image = paint(random_scene(scene), scene).crop(box)
        yield f"scene {n}", coded(image, quality=int(rng.integers(5, 100)), subsampling=n % 3, optimize=n % 2 == 0)
    for kind in JPEGS:
        for size in ((304, 224), (33, 50), (8, 8), (1, 1), (301, 7)):
            yield f"{kind} {size}", jpeg(picture.resize(size), kind)
    plain = coded(picture)
    noise = rng.integers(0, 256, (90, 120, 3), np.uint8)
    yield "noise", coded(Image.fromarray(noise))
    yield "white", coded(Image.new("RGB", (200, 100), "white"))
    yield "letterbox", coded(Image.fromarray(np.pad(noise, ((32, 32), (0, 0), (0, 0)))))
    yield "panels", coded(Image.fromarray(np.kron(noise[:4, :5], np.ones((32, 32, 1), np.uint8))))
    yield "EXIF", coded(picture, exif=exif_block([(ORIENTATION, SHORT, 1, 6)]))
    yield "ICC", coded(picture, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    yield "comment", coded(picture, comment=b"\xff\xd9 \xff\xda")
    for name, more in (("zeros", bytes(5000)), ("text", b"more text"), ("a JPEG", plain), ("marks", b"\xff\xd9" * 9)):
        yield f"{name} after the end", plain + more
        yield f"{name} after a progressive end", jpeg(picture, "progressive") + more
    for padding in (b"\0", bytes(17), bytes(4000), b"\xff" * 12):
        yield f"{len(padding)} bytes before the end mark", plain[:-2] + padding + JPEG_END
        yield f"{len(padding)} bytes, progressive", jpeg(picture, "progressive")[:-2] + padding + JPEG_END
    yield "unknown JFIF version", plain.replace(b"JFIF\0\x01", b"JFIF\0\x07")
    yield "no JFIF", plain[:2] + plain[2 + 2 + int.from_bytes(plain[4:6], "big") :]


def test_intact_files_are_not_named(picture, tmp_path):
    files = list(intact_jpegs(picture))
    assert len(files) >= 60
    for name, data in files:
        assert find_damage(data) is None, name
        (tmp_path / "x.jpg").write_bytes(data)
        check_picture(tmp_path / "x.jpg", "full")


def test_zeros_for_the_rest_are_damage(picture):
    "A download that had its space reserved: the right length, the right end."
    data = jpeg(picture, "baseline")
    half = scan_of(data) + (len(data) - scan_of(data)) // 2
    for zeroed in (data[:half] + bytes(len(data) - half - 2) + JPEG_END, data[:half] + bytes(len(data) - half)):
        assert find_damage(zeroed).share > 0.1


def test_other_kinds_of_damage(picture, tmp_path):
    "Every cut or altered file is refused, or named, where its kind holds checksums."
    rng = np.random.default_rng(0)
    named = 0
    for kind, how in (
        ("PNG", {}),
        ("PNG", dict(compress_level=0)),
        ("GIF", {}),
        ("TIFF", dict(compression="tiff_lzw")),
        ("TIFF", dict(compression="tiff_adobe_deflate")),
        ("TIFF", dict(compression="jpeg")),
    ):
        data = coded(picture, kind, **how)
        assert find_damage(data) is None
        for _ in range(6):
            at = int(rng.integers(1000, len(data) - 1500))
            altered = data[:at] + rng.integers(0, 256, 200, np.uint8).tobytes() + data[at + 200 :]
            try:
                open_image(altered)
            except ImageError:
                continue
            assert (damage := find_damage(altered)) or how.get("compression") == "jpeg", (kind, how, at)
            if damage:
                named += 1
                assert damage.bound and 0 < damage.share <= 1
    assert named
    for kind in ("PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM"):
        data = coded(picture, kind)
        for part in (0.3, 0.7, 0.95):
            (tmp_path / "x").write_bytes(data[: round(part * len(data))])
            assert "cannot be opened" in message_of(tmp_path / "x")
            for how in ("quick", "full"):
                with pytest.raises(ImageError):
                    check_picture(tmp_path / "x", how)


def test_kinds_that_only_pillow_decodes_are_left_to_pillow(picture, monkeypatch):
    def refuse(*args, **how):
        raise ValueError("Unsupported JPEG process")

    monkeypatch.setattr(images.simplejpeg, "decode_jpeg", refuse)
    assert find_damage(coded(picture)) is None


@pytest.mark.parametrize("name", ["whole_house_in_town.jpg", "whole_rectangles.jpg", "whole_house_and_ruin.jpg"])
def test_edges_that_lie_on_blocks_are_no_damage(name):
    "Three synthetic paintings; by chance an edge of theirs changes from one row of blocks to the next."
    assert find_damage(CASES / name) is None
    check_picture(CASES / name, "full")


@pytest.mark.parametrize(
    "name, share", [("cut_at_half_then_end_mark.jpg", (0.4, 0.55)), ("middle_garbled.jpg", (0.35, 0.55))]
)
def test_the_damaged_cases(name, share, explain, caplog, capsys):
    file = CASES / name
    damage = find_damage(file)
    assert share[0] < damage.share < share[1] and not damage.bound
    for how in ("names", "quick"):
        check_picture(file, how)
    with pytest.raises(ImageError, match=rf"{name} is damaged: about \d\d % of the picture is lost"):
        check_picture(file, "full")
    with caplog.at_level(logging.WARNING, "sevlm"):
        answers = [explain(file), explain(Image.open(file)), *explain([str(file)])]
    assert [r.getMessage() for r in caplog.records] == [f"{file} {damage}"] * 3
    assert len({str(a) for a in answers}) == 1
    assert main(["explain", str(file), "--json"]) == 0
    said = capsys.readouterr()
    (told,) = json.loads(said.out)
    assert told["explanation"] == answers[0].explanation
    assert f"{file} {damage}" in said.err and "1 of 1 damaged" in said.err
    found = inspect_path(file)
    assert found["readable"] == found["damaged"] == 1 and found["problems"] == [f"{file} {damage}"]
    assert main(["inspect", str(file)]) == 1 and f"about {damage.share:.0%}"[:-1] in capsys.readouterr().out


# ---------------------------------------------------------------------------------------- the other cases


def test_the_good_cases_are_the_same_everywhere(explain, capsys):
    names = ("exif_bad_rational.jpg", "grey16.png", "palette.png", "alpha.png", "cmyk.jpg")
    files = [str(CASES / name) for name in names]
    from_files, from_pillow = explain(files), explain([Image.open(file) for file in files])
    from_arrays = explain([np.asarray(open_image(file)) for file in files])
    for others in (from_pillow, from_arrays):
        for a, b in zip(from_files, others, strict=True):
            same(a, b)
    assert main(["explain", *files, "--json"]) == 0
    said = capsys.readouterr()
    for told, answer in zip(json.loads(said.out), from_files, strict=True):
        assert (told["emotion"], told["explanation"]) == (answer.emotion, answer.explanation)
    assert "damaged" not in said.err and "opened" not in said.err
    assert all(find_damage(file) is None for file in files)


def test_the_picture_with_a_bad_rational_is_turned():
    file = CASES / "exif_bad_rational.jpg"
    with Image.open(file) as image:
        stored = image.convert("RGB")
        assert image.getexif()[ORIENTATION] == 6
    assert open_image(file).tobytes() == stored.transpose(Image.Transpose.ROTATE_270).tobytes()


# ---------------------------------------------------------------------------------------- what is no picture

WRONG = {  # content -> what is said of it
    b"": "is empty (0 bytes)",
    b"<!DOCTYPE html><html><body>403": "is a web page (HTML), not the picture",
    b"\xef\xbb\xbf\n <HTML><title>Not found": "is a web page (HTML)",
    b'<?xml version="1.0"?><Error><Code>AccessDenied': "is a web page",
    b'<svg xmlns="http://www.w3.org/2000/svg">': "is an SVG drawing",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n": "git lfs pull",
    b"PK\x03\x04" + bytes(40): "is a zip archive",
    b"\x1f\x8b\x08" + bytes(40): "is a gzip archive",
    b"%PDF-1.7": "is a PDF",
    b'{"error": "quota exceeded"}': 'is not a picture: it starts with b\'{"error"',
    b"not a picture": "is not a picture",
    bytes(1000): "is not a picture",
    b"\x89PNG\r\n\x1a\n" + bytes(50): "the PNG is damaged or cut off",
    b"II*\0" + bytes(50): "the TIFF is damaged or cut off",
    b"\xff\xd8\xff\xe0": "the JPEG is",
}


def test_messages_say_what_a_file_is(tmp_path, capsys):
    file = tmp_path / "x.jpg"
    for content, words in WRONG.items():
        file.write_bytes(content)
        said = message_of(file)
        assert said.startswith(f"{file} ") and words in said and "0x" not in said, said
        assert message_of(content).startswith("the given file ") and words in message_of(content)
        with pytest.raises(ImageError):
            check_picture(file, "quick")
        assert find_damage(file) is None
    assert "no such file" in message_of(tmp_path / "nowhere.jpg")
    (tmp_path / "folder.jpg").mkdir()
    assert "is a folder" in message_of(tmp_path / "folder.jpg")
    assert main(["explain", str(file)]) == 2 and str(file) in capsys.readouterr().err


def test_what_may_not_be_read_and_what_would_wait_for_ever(tmp_path, monkeypatch):
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")
        assert "no ordinary file" in message_of(tmp_path / "pipe.jpg")
        assert find_damage(tmp_path / "pipe.jpg") is None and other_files(tmp_path) == {}
    (tmp_path / "x.jpg").touch()

    def refuse(*args, **how):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    said = message_of(tmp_path / "x.jpg")
    monkeypatch.undo()
    assert "you may not read it" in said and "chmod" in said


def test_links_to_folders_are_followed_and_broken_ones_told(picture, tmp_path, capsys):
    "Each folder once, so that links in a circle end."
    folder, real = tmp_path / "holiday", tmp_path / "real"
    for place in (folder / "deep", real):
        place.mkdir(parents=True)
        picture.save(place / "x.jpg")
    (folder / "linked").symlink_to(real)
    (real / "back").symlink_to(folder)
    (folder / "again").symlink_to(folder / "deep")
    (folder / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert picture_files(folder) == [folder / "deep" / "x.jpg", folder / "linked" / "x.jpg"]
    assert other_files(folder) == {"links to nothing": 1}
    assert main(["explain", str(folder), "--json"]) == 0
    said = capsys.readouterr()
    assert len(json.loads(said.out)) == 2 and "links to nothing (1)" in said.err


def test_a_folder_of_everything(picture, tmp_path, capsys):
    for kind in ("WEBP", "AVIF", "TIFF", "JPEG"):
        picture.save(tmp_path / f"good.{kind.lower()}", kind)
    picture.save(tmp_path / "good.TIF", "TIFF")
    (tmp_path / "text.png").write_text("not a picture", encoding="utf-8")
    (tmp_path / "cut.jpg").write_bytes(coded(picture)[:3000])
    (tmp_path / "half.jpg").write_bytes(coded(picture)[:6000] + JPEG_END)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "more.txt").touch()
    (tmp_path / "README").touch()
    (tmp_path / "._good.jpg").write_bytes(b"a Mac's notes")
    assert len(picture_files(tmp_path)) == 8
    assert other_files(tmp_path) == {".txt": 2, "no ending": 1, ".jpg": 1}
    assert other_files_notice(tmp_path).startswith(f"{tmp_path} holds 4 files that are no pictures: .txt (2), ")
    assert main(["explain", str(tmp_path), "--json"]) == 1
    said = capsys.readouterr()
    assert len(json.loads(said.out)) == 6
    for words in (
        "4 files that are no pictures",
        "2 of 8 could not be opened",
        "1 of 8 damaged",
        "half.jpg is damaged",
    ):
        assert words in said.err
    found = inspect_path(tmp_path)
    assert (found["files"], found["readable"], found["damaged"]) == (8, 6, 1) and len(found["problems"]) == 3
    assert found["other files"] == {".txt": 2, "no ending": 1, ".jpg": 1}
    unusable = 0
    for file in picture_files(tmp_path):  # as `sevlm prepare --pictures full` counts
        try:
            check_picture(file, "full")
        except ImageError:
            unusable += 1
    assert unusable == 3
    assert main(["explain", str(tmp_path / "half.jpg"), "--stream"]) == 0
    assert "1 of 1 damaged" in capsys.readouterr().err


def test_a_picture_under_another_name_is_inspected(picture, tmp_path):
    picture.save(tmp_path / "scan.tga", "TGA")
    picture.save(tmp_path / "painting", "PNG")
    assert inspect_path(tmp_path / "scan.tga")["kind"] == inspect_path(tmp_path / "painting")["kind"] == "pictures"


def test_heic_with_and_without_its_reader(picture, tmp_path, monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(picture).save(tmp_path / "x.heic", quality=95)
    formats = dict(Image.OPEN)
    opened = open_image(tmp_path / "x.heic")
    assert np.abs(pixels_of(opened) - pixels_of(picture)).mean() < 6
    assert Image.OPEN == formats  # nothing was registered
    assert picture_files(tmp_path) == [tmp_path / "x.heic"]
    assert inspect_path(tmp_path / "x.heic")["readable"] == 1 == inspect_path(tmp_path)["readable"]
    monkeypatch.setattr(images, "find_spec", lambda name: None)
    assert "pip install 'sevlm[heif]'" in message_of(tmp_path / "x.heic")


# ---------------------------------------------------------------------------------------- the Python interface


def test_python_says_what_the_command_line_says(explain, picture, tmp_path, capsys):
    frames = [picture.quantize(), Image.new("RGB", picture.size).quantize()]
    frames[0].save(tmp_path / "anim.gif", save_all=True, append_images=frames[1:])
    assert main(["explain", str(tmp_path / "anim.gif"), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    array = np.asarray(open_image(tmp_path / "anim.gif"))
    for given in ([Image.open(tmp_path / "anim.gif")], [array], [tmp_path / "anim.gif"], tmp_path, array[None]):
        (answer,) = explain(given)
        assert (answer.emotion, answer.explanation) == (told["emotion"], told["explanation"])
    for given in (Image.open(tmp_path / "anim.gif"), array, str(tmp_path / "anim.gif")):
        assert explain(given).explanation == told["explanation"]
    for nothing in ([], (), iter([])):
        with pytest.raises(ImageError, match="empty list of pictures"):
            explain(nothing)
    with pytest.raises(ImageError, match="no picture to encode"):
        explain.encode_images([])
    closed = Image.open(tmp_path / "anim.gif")
    closed.close()
    with pytest.raises(ImageError, match="the given PIL image cannot be opened"):
        explain(closed)


def test_fit_on_the_command_line(capsys):
    scroll = str(CASES / "scroll_4000x60.png")
    told = {}
    for fit in ("squash", "pad"):
        assert main(["explain", scroll, "--json", "--fit", fit]) == 0
        said = capsys.readouterr()
        assert said.err.count("squashed to a square") == (fit == "squash")
        told[fit] = json.loads(said.out)[0]["probabilities"]
    assert told["squash"] != told["pad"]
    assert main(["explain", scroll, "--fit", "tiles"]) == 2
    assert "squash" in capsys.readouterr().err


def test_pictures_are_decoded_one_at_a_time(explain, picture):
    "Of several large pictures never two are in memory at full size."
    alive = 0
    encoder, preprocess = explain.model.encoder, explain.model.encoder.preprocess

    def pictures():
        nonlocal alive
        for _ in range(3):
            assert alive == 0
            alive += 1
            yield picture

    def count(image):
        nonlocal alive
        alive -= 1
        return preprocess(image)

    object.__setattr__(encoder, "preprocess", count)
    try:
        assert len(explain.encode_images(pictures())) == 3
    finally:
        object.__setattr__(encoder, "preprocess", preprocess)


def test_open_and_check_names_the_source(picture, tmp_path):
    file = CASES / "middle_garbled.jpg"
    for source, name in ((file, file), (Image.open(file), file), (file.read_bytes(), "a picture")):
        opened = open_and_check(source)
        assert opened.damage and opened.notices == (f"{name} {opened.damage}",)
    assert open_and_check(picture).notices == () == open_and_check(np.asarray(picture)).notices


# ---------------------------------------------------------------------------------------- the explorer


@pytest.fixture(scope="module")
def page(explain):
    pytest.importorskip("ipywidgets")
    from sevlm.app.explorer import Explorer

    return Explorer(explain, n=1, at_once=True)


def upload(page, content, name="x"):
    page.controls["upload"].value = (
        {
            "name": name,
            "type": "image/png",
            "size": len(content),
            "content": memoryview(content),
            "last_modified": datetime(2026, 1, 1),
        },
    )


def test_uploads_are_answered_on_the_page(page, picture):
    from sevlm.app.explorer import UPLOADED

    upload(page, coded(picture, "PNG"))
    assert page.controls["picture"].value == UPLOADED and page.message.value == ""
    page.clear.click()
    assert "the upload was cleared" in page.message.value
    for content, words in (
        (b"", "is empty (0 bytes)"),
        (b"hello", "is not a picture"),
        (b"<html>", "is a web page (HTML)"),
        ((CASES / "bomb_20000.png").read_bytes(), "is too large: 400 million pixels"),
    ):
        upload(page, content)
        assert words in page.message.value and f"the upload ({len(content)} bytes)" in page.message.value
    page.controls["picture"].index = 0
    page.clear.click()  # removed while a painting is shown: nothing to say
    assert page.message.value == ""


def test_damaged_and_long_uploads_are_read_and_told(page, picture):
    upload(page, (CASES / "cut_at_half_then_end_mark.jpg").read_bytes())
    assert "is damaged: about" in page.message.value and page.reading.image.size == (256, 256)
    upload(page, (CASES / "scroll_4000x60.png").read_bytes())
    assert "67 times as long as wide" in page.message.value and page.reading.image.size == (4000, 60)
    page.controls["picture"].index = 0
    assert page.message.value == ""


def test_a_large_upload_is_read_small(page, picture, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 304 * 224 - 1)
    upload(page, coded(picture))
    assert page.message.value == "" and page.reading.image.size == (152, 112)
    upload(page, coded(picture, "PNG"))
    assert "is too large" in page.message.value and "-resize" in page.message.value
    page.controls["picture"].index = 0
