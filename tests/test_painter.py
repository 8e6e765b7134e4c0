"""The painter: clean interventions, reproducible pixels, sizes, and every value visible at the size of the encoder."""

import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sevlm.errors import DataError
from sevlm.synthetic import paint as painter
from sevlm.synthetic.motifs import BACKDROPS, DRAWERS, Brush
from sevlm.synthetic.paint import (
    BRUSHWORKS,
    SMALLEST_PAINTED,
    SUBJECTS,
    VALUES,
    Scene,
    paint,
    plan,
    random_scene,
    spread_points,
    streams,
)

SEEN = 96  # pixels, side of a picture as the small image encoder sees it
VISIBLE = 3  # smallest mean difference of two values, in levels of 255
BASE = Scene(("house",), "hills", "clear", "day", "bright", "dabs")


def pixels(scene, seed=5, size=SMALLEST_PAINTED):
    return np.asarray(paint(scene, np.random.default_rng(seed), size))


def seen(scene, seed=5):
    image = paint(scene, np.random.default_rng(seed)).resize((SEEN, SEEN), Image.Resampling.LANCZOS)
    return np.asarray(image, float)


def other_values(scene):
    "The scene with one attribute changed, for each kind and value."
    for kind, values in VALUES.items():
        for value in values:
            if value != getattr(scene, kind):
                yield replace(scene, **{kind: value})


@pytest.mark.parametrize("brushwork", BRUSHWORKS)
def test_same_seed_same_pixels(brushwork):
    scene = replace(BASE, brushwork=brushwork, weather="snow")
    assert (pixels(scene) == pixels(scene)).all() and (pixels(scene, 6) != pixels(scene)).mean() > 0.5


def test_sizes():
    assert paint(BASE, np.random.default_rng(0)).size == (256, 256)
    for size in (SMALLEST_PAINTED, 150, 301):
        assert pixels(BASE, size=size).shape == (size, size, 3)
    with pytest.raises(DataError, match=str(SMALLEST_PAINTED)):
        pixels(BASE, size=SMALLEST_PAINTED - 1)


def test_a_larger_canvas_shows_the_same_picture():
    scene = replace(BASE, brushwork="smooth")
    small, large = (Image.fromarray(pixels(scene, size=n)).resize((32, 32), Image.Resampling.BOX) for n in (128, 256))
    assert abs(np.asarray(small, float) - np.asarray(large, float)).mean() < 4


def test_global_random_state_is_left_alone():
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].copy()
    pixels(replace(BASE, weather="storm", brushwork="strokes"))
    assert random.getstate() == before[0] and (np.random.get_state()[1] == before[1]).all()


def test_one_number_is_drawn_whatever_the_scene():
    after = set()
    for scene in (BASE, *other_values(BASE)):
        rng = np.random.default_rng(3)
        paint(scene, rng, SMALLEST_PAINTED)
        after.add(int(rng.integers(2**63)))
    assert len(after) == 1


def test_streams_are_independent_and_named():
    part, again = streams(np.random.default_rng(2)), streams(np.random.default_rng(2))
    first = part("sky").random(8)
    assert (again("sky").random(8) == first).all() and not np.isin(part("setting").random(8), first).any()


def silhouettes(monkeypatch, scene, seed=5):
    "The masks of the subjects while a scene is painted."
    found, paint_subject = [], painter.paint_subject

    def spy(*args):
        found.append(np.asarray(paint_subject(*args)))
        return Image.fromarray(found[-1])

    with monkeypatch.context() as patch:
        patch.setattr(painter, "paint_subject", spy)
        pixels(scene, seed)
    return np.stack(found)


def test_interventions_leave_the_subjects_where_they_are(monkeypatch):
    scene = Scene(("horse", "windmill"), "desert", "cloudy", "dusk", "warm", "dots")
    there = silhouettes(monkeypatch, scene)
    for other in other_values(scene):
        assert (silhouettes(monkeypatch, other) == there).all(), other


def test_another_subject_moves_neither_the_setting_nor_the_other_subject(monkeypatch):
    scene = Scene(("horse", "windmill"), "town", "clear", "day", "bright", "smooth")
    other = replace(scene, subjects=("horse", "church"))
    assert (silhouettes(monkeypatch, scene)[0] == silhouettes(monkeypatch, other)[0]).all()
    same = (pixels(scene) == pixels(other)).all(-1)
    assert same[:, : SMALLEST_PAINTED // 4].mean() > 0.95 and same[: SMALLEST_PAINTED // 8].mean() > 0.95
    assert 0.05 < (~same).mean() < 0.5


def test_weather_keeps_the_land_where_it_is():
    "A change of weather changes the light of a smooth picture, not the lines of its land: edges stay."
    scene = replace(BASE, setting="town", brushwork="smooth")
    edges = lambda s: np.hypot(*np.gradient(pixels(s, size=256).astype(float).mean(-1)))[140:210, :90] > 12
    clear, cloudy = edges(scene), edges(replace(scene, weather="cloudy"))
    assert (clear & cloudy).sum() > 0.7 * clear.sum() > 0


def test_a_second_subject_stands_apart():
    for seed in range(50):
        layout = plan(("tree", "fire"), np.random.default_rng(seed))
        left, right = layout.places
        assert right.cx - left.cx > 0.45 and 0 < left.cx < right.cx < 1
        assert all(0.8 < p.foot < 0.95 and p.height < p.foot for p in layout.places)


@pytest.mark.parametrize("scene", [BASE, Scene(("skull", "bird"), "forest", "rain", "night", "muted", "dots")])
def test_every_value_shows_at_the_size_of_the_encoder(scene):
    base = seen(scene)
    assert min(abs(seen(other) - base).mean() for other in other_values(scene)) > VISIBLE
    alone = [name for name in SUBJECTS if name not in scene.subjects]
    changed = [seen(replace(scene, subjects=(name, *scene.subjects[1:]))) for name in alone]
    assert min(abs(picture - base).mean() for picture in changed) > VISIBLE


def test_no_two_weathers_times_or_palettes_look_alike():
    for kind in ("weather", "time", "palette", "brushwork"):
        pictures = [seen(replace(BASE, **{kind: value})) for value in VALUES[kind]]
        gaps = [abs(a - b).mean() for i, a in enumerate(pictures) for b in pictures[:i]]
        assert min(gaps) > VISIBLE, (kind, gaps)


def test_night_is_dark_and_snow_is_pale_in_every_palette():
    for palette in VALUES["palette"]:
        scene = replace(BASE, palette=palette)
        assert seen(replace(scene, time="night")).mean() < 0.7 * seen(scene).mean()
        assert seen(replace(scene, weather="snow"))[60:].mean() > seen(scene)[60:].mean()


def test_points_have_neither_holes_nor_duplicates():
    points = spread_points(400, np.random.default_rng(0))
    cells = (points * 20).astype(int)
    assert len(points) == 400 == len(set(map(tuple, cells.tolist())))
    assert points.min() >= 0 and points.max() < 1


@pytest.mark.parametrize("name", [*BACKDROPS, *DRAWERS])
def test_motifs_draw_something_and_the_same_again(name):
    def drawn():
        image = Image.new("RGB", (64, 64), (1, 2, 3))
        brush = Brush(image, np.random.default_rng(0), box=(0.5, 1, 1) if name in BACKDROPS else (0.5, 0.9, 0.7))
        BACKDROPS[name](brush, 0.5, 0.1) if name in BACKDROPS else DRAWERS[name](brush)
        return np.asarray(image)

    assert (drawn() == drawn()).all() and (drawn() != (1, 2, 3)).any(-1).mean() > 0.1


def test_bare_brush_has_less_snow_and_the_same_chance():
    brush = Brush(Image.new("RGB", (8, 8)), np.random.default_rng(0), white=0.8)
    assert brush.bare().white == 0 and brush.bare(0.9).white == 0.8 and brush.bare().rng is brush.rng
    assert brush.white == 0.8


def test_random_scenes_can_all_be_painted():
    rng = np.random.default_rng(8)
    for _ in range(30):
        scene = random_scene(rng)
        picture = pixels(scene, int(rng.integers(1000)))
        assert picture.std() > 5, scene
