"""The helpers draw what they are given, on the axes they are given, and refuse what does not fit."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from sevlm.config import EMOTIONS
from sevlm.errors import ConfigError
from sevlm.plot import (
    EMOTION_COLOURS,
    as_picture,
    bars,
    curve,
    figures_folder,
    heat,
    save_figure,
    show_images,
    token_row,
    va_plane,
)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: bars(range(9), ax),
        lambda ax: curve([3, 2, 1], ax=ax),
        lambda ax: token_row(["a", "b"], [0, 1], ax=ax),
        lambda ax: va_plane(["sea"], [[0.1, 0.2, 0.3]], ax),
        lambda ax: heat(np.eye(3), ax=ax),
    ],
)
def test_axes_in_axes_out(draw):
    fig, ax = plt.subplots()
    assert draw(ax) is ax and (ax.has_data() or ax.patches)
    assert draw(None).figure is not fig


def test_pictures_in_every_form():
    import torch

    a = np.random.default_rng(0).random((6, 7, 3))
    assert np.allclose(as_picture(torch.from_numpy(a).permute(2, 0, 1)), a)
    assert as_picture(Image.new("RGB", (4, 5))).shape == (5, 4, 3)
    assert as_picture(np.array([[-1.0, 2.0]])).tolist() == [[0.0, 1.0]]
    assert len(show_images([a] * 5, ncols=3)) == 5 and len(plt.gcf().axes) == 6
    assert show_images([]) == []


def test_curve_smooths_the_past_only():
    ax = curve([0.0, 0.0, 6.0, 6.0], smooth=2)
    assert ax.lines[-1].get_ydata().tolist() == [0.0, 3.0, 6.0] and ax.lines[-1].get_xdata().tolist() == [2, 3, 4]
    assert curve([], smooth=5).lines[-1].get_ydata().size == 0


def test_bars_by_name_and_by_order():
    assert [p.get_width() for p in bars({"fear": 3, "awe": 1}).patches] == [0, 1, 0, 0, 0, 0, 3, 0, 0]
    with pytest.raises(ConfigError, match="got 8"):
        bars(range(8))
    assert set(EMOTION_COLOURS) == set(EMOTIONS)


def test_token_row_refuses_a_short_list_and_keeps_odd_text():
    with pytest.raises(ConfigError):
        token_row(["a", "b"], [1])
    ax = token_row(["$x", "\\", "", "é", "_{"], [np.nan, 2, -2, 0, 1])
    ax.figure.canvas.draw()
    assert [t.get_text() for t in ax.texts] == ["$x", "\\", "", "é", "_{"]
    assert token_row([]).texts[:] == []


def test_figures_are_reproducible(tmp_path):
    ax = heat(np.arange(6).reshape(2, 3), "abc", "xy", annotate=".0f")
    for ending in ("png", "svg", "pdf", "PNG"):
        a, b = (save_figure(ax, f"{n}.{ending}", tmp_path).read_bytes() for n in "ab")
        assert a == b
    for name, file in (("plain", "plain.png"), ("x.1", "x.1.png"), ("photo.jpg", "photo.jpg")):
        assert save_figure(ax.figure, name, tmp_path).name == file and (tmp_path / file).stat().st_size


def test_figures_go_where_they_are_asked_for_or_to_a_scratch_folder(tmp_path, monkeypatch):
    import tempfile

    ax = curve([3, 2, 1])
    monkeypatch.setenv("SEVLM_FIGURES", str(tmp_path / "asked"))
    assert save_figure(ax, "one") == tmp_path / "asked" / "one.png"
    monkeypatch.delenv("SEVLM_FIGURES")
    monkeypatch.setenv("SEVLM_CACHE", str(tmp_path / "cache"))
    assert (
        save_figure(ax, "one") == figures_folder() / "one.png"
        and (tmp_path / "cache" / "figures" / "one.png").is_file()
    )
    (tmp_path / "file").write_text("nothing can be written below this", encoding="utf-8")
    monkeypatch.setenv("SEVLM_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    path = save_figure(ax, "one")
    assert path.is_file() and path.parent == figures_folder() and tmp_path / "temporary" in path.parents
