from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.miniature import icons
from experiments.miniature.icons import Icon, draw, rasterise, read_theme
from itm.core.errors import DataError

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}"><rect width="{w}" height="{h}" fill="{c}"/></svg>'
)


def theme(root: Path, *folders: tuple[str, str, int], scale: int = 1) -> Path:
    """Write the index of a theme whose folders have these names, contexts and sizes."""
    names = ",".join(name for name, _, _ in folders)
    text = f"[Icon Theme]\nName=Tiny\nName[de]=100%\nDirectories={names},absent\n"
    for name, context, size in folders:
        (root / name).mkdir(parents=True)
        text += f"[{name}]\nSize={size}\nContext={context}\nScale={scale}\n"
    (root / "index.theme").write_text(text, encoding="utf-8")
    return root


def square(file: Path, colour: str, size: int = 32) -> Path:
    Image.new("RGBA", (size, size), colour).save(file)
    return file


def test_the_label_is_the_context_and_the_nearest_size_counts(tmp_path: Path) -> None:
    folders = [("apps/16", "Applications", 16), ("apps/48", "Applications", 48), ("mimes/24", "MimeTypes", 24)]
    root = theme(tmp_path / "tiny", *folders, ("mimes/40", "MimeTypes", 40), ("anim", "Animations", 32))
    square(root / "apps/16/edit.png", "red", 16)
    near = square(root / "apps/48/edit.png", "green", 48)
    only = square(root / "apps/16/view.png", "blue", 16)
    square(root / "mimes/24/text.png", "yellow", 24)
    larger = square(root / "mimes/40/text.png", "pink", 40)
    square(root / "anim/spinner.png", "white")
    (root / "apps/48/readme.txt").write_text("no icon")
    assert read_theme(root) == [Icon(near, "applications"), Icon(only, "applications"), Icon(larger, "mimetypes")]


def test_links_copies_and_symbolic_icons_are_left_out(tmp_path: Path) -> None:
    root = theme(tmp_path / "tiny", ("apps", "Applications", 32), ("places", "Places", 32), ("symbolic", "Places", 32))
    first = square(root / "apps/a.png", "red")
    (root / "apps/b.png").write_bytes(first.read_bytes())
    (root / "apps/c.png").symlink_to(first)
    square(root / "apps/d-symbolic.png", "green")
    square(root / "symbolic/e.png", "green")
    for folder in ("apps", "places"):  # the same bytes under two labels: neither is right
        square(root / folder / "home.png", "blue")
    assert read_theme(root) == [Icon(first, "applications")]


def test_a_folder_that_is_a_link_is_no_category(tmp_path: Path) -> None:
    root = theme(tmp_path / "tiny", ("apps", "Applications", 32), ("categories", "Categories", 32))
    icon = square(root / "apps/a.png", "red")
    (root / "categories").rmdir()
    (root / "categories").symlink_to("apps")
    linked = tmp_path / "linked"
    linked.symlink_to(root)
    assert read_theme(root) == read_theme(linked) == [Icon(icon, "applications")]


def test_icons_for_dense_screens_are_left_out(tmp_path: Path) -> None:
    root = theme(tmp_path / "tiny", ("apps", "Applications", 32), scale=2)
    square(root / "apps/a.png", "red")
    assert read_theme(root) == []


@pytest.mark.parametrize("text", [None, "no index", "[Icon Theme]\nName=x\n", "[Other]\nDirectories=apps\n"])
def test_what_is_no_theme_is_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "index.theme").write_text(text)
    with pytest.raises(DataError, match=rf"{tmp_path.name}: not readable as an icon theme"):
        read_theme(tmp_path)


def test_the_shape_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "wide.png"
    Image.new("RGBA", (64, 32), (10, 200, 30, 255)).save(file)
    rgba = np.asarray(rasterise(file))
    np.testing.assert_array_equal(rgba[8:24], np.broadcast_to((10, 200, 30, 255), (16, 32, 4)))
    assert not rgba[:8, :, 3].any()
    assert not rgba[24:, :, 3].any()


@pytest.mark.miniature
@pytest.mark.parametrize(("width", "height"), [(64, 64), (16, 16), (48, 24), (10, 40)])
def test_svg_is_drawn_at_the_size_wanted(tmp_path: Path, width: int, height: int) -> None:
    file = tmp_path / "box.svg"
    file.write_text(SVG.format(w=width, h=height, c="#ff8000"))
    opacity = np.asarray(rasterise(file))[..., 3] / 255
    assert opacity.shape == (32, 32)
    assert opacity.sum() == pytest.approx(32 * 32 * min(width, height) / max(width, height), rel=0.02)


@pytest.mark.parametrize("name", ["broken.png", pytest.param("broken.svg", marks=pytest.mark.miniature)])
def test_a_damaged_icon_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("neither")
    with pytest.raises(DataError, match=rf"{name}: not readable as an icon"):
        rasterise(tmp_path / name)


def test_backdrops_shine_through_and_no_picture_is_drawn_twice(tmp_path: Path) -> None:
    folder = tmp_path / "tiny/32/apps"
    folder.mkdir(parents=True)
    red = square(folder / "red.png", "red")
    again = folder / "again.png"
    Image.new("RGB", (32, 32), "red").save(again)  # other bytes, the same picture
    half = folder / "half.png"
    picture = Image.new("RGBA", (32, 32))
    picture.paste((0, 0, 255, 255), (0, 0, 16, 32))
    picture.save(half)
    clear = square(folder / "clear.png", "#ff000000")
    listed = [Icon(file, "applications") for file in (red, again, half, clear)]
    first, second, third, fourth = draw(listed)
    assert first is not None
    assert third is not None
    assert second is fourth is None
    assert (first == (255, 0, 0)).all()
    assert (third[:, :16] == (0, 0, 255)).all()
    assert third[:, 16:].std() > 1
    (alone,) = draw(listed[2:3])
    np.testing.assert_array_equal(alone, third)
    (other,) = draw(listed[2:3], seed=1)
    assert (np.asarray(other)[:, 16:] != third[:, 16:]).any()


def test_the_held_out_themes_are_none_of_the_corpus() -> None:
    themes = (*icons.HELD_OUT_THEMES, *icons.CORPUS_THEMES)
    assert len({each.folder for each in themes}) == len({each.package for each in themes}) == len(themes)
