"""Tables of accuracies on source tasks: open_clip's own and this package's, from a file or an address."""

import http.server
import threading

import pandas as pd
import pytest

from itm.cli.pipeline import networks
from itm.core.errors import DataError, SettingError
from itm.groundtruth.open_clip_results import load_accuracies

HEAD = "name,pretrained,params (M),FLOPs (B),Average perf. on 35 datasets,ImageNet 1k,CIFAR-10,MNIST"
ROWS = ["ViT-B-32,openai,151.28,14.78,0.5265,0.6332,0.8983,0.4839", "RN50,cc12m,102.01,18.18,0.3180,0.3591,0.5241,"]


@pytest.fixture
def results(tmp_path):
    file = tmp_path / "results.csv"
    file.write_text("\n".join([HEAD, *ROWS]) + "\n")
    return file


def test_fractions_become_per_cent_under_the_names_of_this_package(results):
    table = load_accuracies(str(results))
    assert list(table.columns) == ["ImageNet 1k", "cifar10", "MNIST"]
    assert table.loc["ViT-B-32/openai"].tolist() == pytest.approx([63.32, 89.83, 48.39])
    assert pd.isna(table.loc["RN50/cc12m", "MNIST"])


def test_rows_go_by_the_names_of_the_zoo(results):
    zoo = {
        "mine": {"library": "open_clip", "model": "ViT-B-32/openai"},
        "same": {"model": "open_clip:ViT-B-32/openai"},
        "unlisted": {"model": "resnet10t"},
    }
    table = load_accuracies(str(results), networks(zoo))
    assert list(table.index) == ["mine", "same"]
    assert table.loc["mine", "cifar10"] == pytest.approx(89.83)


def test_a_table_of_this_package_is_read_as_it_is(tmp_path):
    file = tmp_path / "own.csv"
    file.write_text("model,a\nx,50\n")
    assert load_accuracies(str(file)).loc["x", "a"] == 50


def test_an_address_is_fetched(results):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(results.parent))

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        found = load_accuracies(f"{address}/results.csv")
        with pytest.raises(DataError, match=r"cannot be fetched .*404.*download the file") as raised:
            load_accuracies(f"{address}/nothing.csv")
        server.shutdown()
    pd.testing.assert_frame_equal(found, load_accuracies(str(results)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "rows",
    [
        [HEAD, "ViT-B-32,openai,151,14,0.5,63.32,0.9,0.4"],
        [HEAD, "ViT-B-32,openai,151,14,0.5,x,0.9,0.4"],
        [HEAD, ROWS[0], ROWS[0]],
        ["name,pretrained,params (M)", "ViT-B-32,openai,1"],
    ],
)
def test_other_content_is_one_line(tmp_path, rows):
    file = tmp_path / "results.csv"
    file.write_text("\n".join(rows))
    with pytest.raises(DataError, match="not open_clip's table of results") as raised:
        load_accuracies(str(file))
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_one_line():
    with pytest.raises(SettingError, match=r"source_table=/nowhere.csv: no such file"):
        load_accuracies("/nowhere.csv")
