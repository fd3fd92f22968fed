import contextlib
import html
import io
import json
import pathlib
import re
import shutil
import subprocess
import sys

import matplotlib.image
import msgspec
import numpy as np
import pytest
from fake_runs import RESULTS, write_run

from iwae_tf import figures, runs
from iwae_tf.errors import UserError
from iwae_tf.report import command, latex, markdown, pictures, reported_run, text
from iwae_tf.runs.results import Binarizations

TWO_LAYERS = "--latent_dims=100,50"


def write_grid(folder):
    """Runs for all cells of the table except two layers at k = 1, one of them unfinished; and a run in no cell."""
    return [
        write_run(folder / "1l_k1_vae", "--objective=vae", "--k=1", nll=87.0),
        write_run(folder / "1l_k1_iwae", "--k=1", "--seed=1", nll=87.5),
        write_run(folder / "1l_k5_vae", "--objective=vae", "--k=5", nll=86.25),
        write_run(folder / "1l_k5_seed0", "--k=5", nll=85.75, units=[22]),
        write_run(folder / "1l_k5_seed1", "--k=5", "--seed=1", nll=86.0, units=[23]),
        write_run(folder / "1l_k5_seed2", "--k=5", "--seed=2", nll=86.75, units=[23]),
        write_run(folder / "1l_k50_vae", "--objective=vae", nll=86.5),
        write_run(folder / "1l_k50", nll=84.5),
        write_run(folder / "1l_k50_dreg", "--gradient_estimator=dreg", nll=84.25),
        write_run(folder / "2l_k5_vae", TWO_LAYERS, "--objective=vae", "--k=5", nll=85.0, units=[17, 5]),
        write_run(folder / "2l_k5", TWO_LAYERS, "--k=5", nll=84.0, units=[21, 6]),
        write_run(folder / "2l_k50_vae", TWO_LAYERS, "--objective=vae", epochs=3),
        write_run(folder / "2l_k50", TWO_LAYERS, "--nll_samples=100", nll=83.0, units=[25, 6]),
        write_run(folder / "ladder", TWO_LAYERS, "--inference=ladder", "--k=5", nll=83.5),
    ]


def write_report(paths, out, *words):
    """Returns what the command prints, results and notes."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        command.main(["report", *map(str, paths), f"--out={out}", *words])
    return printed.getvalue()


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    return write_grid(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def written(grid, tmp_path_factory):
    """The folder of the report on the grid, and what was printed."""
    out = tmp_path_factory.mktemp("elsewhere") / "deep" / "report"
    return out, write_report(grid, out, "--json")


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves out the pictures, which take a while."""
    monkeypatch.setattr(pictures, "report_pictures", lambda *_: [])


DRAWING = ("save_grids", "save_validation_curves", "save_nll_against_k", "save_active_units")


@pytest.fixture
def sketched(monkeypatch):
    """Creates the files of the pictures without drawing anything."""
    for name in DRAWING:
        monkeypatch.setattr(figures, name, lambda paths, *_: [path.write_bytes(b"") for path in paths])


def table(markdown_text, heading):
    """The first table below a heading as a list of dictionaries."""
    below = markdown_text.split(f"\n## {heading}\n", 1)[1]
    lines = list(_first_lines(below.splitlines()))
    header, _, *rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert all(len(row) == len(header) for row in rows)
    return [dict(zip(header, row, strict=True)) for row in rows]


def _first_lines(lines):
    started = False
    for line in lines:
        if line.startswith("|"):
            started = True
            yield line
        elif started:
            return


def row(rows, **wanted):
    (match,) = [candidate for candidate in rows if wanted.items() <= candidate.items()]
    return match


def test_the_table_compares_each_cell_with_the_published_one(written):
    rows = table((written[0] / "report.md").read_text(), "mnist")
    cells = [(cell["layers"], cell["k"], cell["objective"]) for cell in rows]
    per_layers = [("1", "VAE = IWAE"), ("5", "VAE"), ("5", "IWAE"), ("50", "VAE"), ("50", "IWAE")]
    assert list(dict.fromkeys(cells)) == [(layers, *cell) for layers in "12" for cell in per_layers]
    vae = row(rows, layers="2", k="5", objective="VAE")
    assert (vae["NLL"], vae["published"], vae["difference"]) == ("85.00 +- 0.25", "85.01", "-0.01")
    assert (vae["active units"], vae["published units"]) == ("17+5", "17+5")
    assert (vae["standard error"], vae["epochs"], vae["minutes"]) == ("", "100", "3.3")


def test_seeds_are_averaged(written):
    rows = table((written[0] / "report.md").read_text(), "mnist")
    seeds = row(rows, layers="1", k="5", objective="IWAE")
    # 85.75, 86.00, 86.75: the mean 86.1667, the squared distances 0.1736 + 0.0278 + 0.3403 = 0.5417, over 2.
    assert seeds["NLL"] == "86.17 +- 0.52 (3 seeds)"
    assert seeds["difference"] == "+0.63"  # From 85.54.
    assert (seeds["run no."], seeds["standard error"], seeds["active units"]) == ("4, 5, 6", "0.25", "22.7")


def test_with_one_sample_vae_and_iwae_are_the_same(written):
    rows = table((written[0] / "report.md").read_text(), "mnist")
    cell = row(rows, layers="1", k="1")
    # 87.0 and 87.5.
    assert (cell["objective"], cell["NLL"], cell["difference"]) == ("VAE = IWAE", "87.25 +- 0.35 (2 seeds)", "+0.49")


def test_recipes_are_not_averaged(written):
    rows = table((written[0] / "report.md").read_text(), "mnist")
    in_cell = [cell for cell in rows if (cell["layers"], cell["k"], cell["objective"]) == ("1", "50", "IWAE")]
    assert [cell["NLL"] for cell in in_cell] == ["84.50 +- 0.25", "84.25 +- 0.25"]
    assert [cell["recipe"] for cell in in_cell] == [r"gradient\_estimator=standard", r"gradient\_estimator=dreg"]
    assert all(not cell["recipe"] for cell in rows if cell not in in_cell)


def test_a_vae_and_an_iwae_are_compared_on_the_same_images(tmp_path, undrawn):
    """Their differences are 1, 2 and 3 nats: mean 2, standard error 1 / sqrt(3)."""
    names = {"vae": "--objective=vae", "iwae": "--objective=iwae", "other": "--seed=1"}
    runs_of = {name: write_run(tmp_path / name, word, "--k=5", nll=86.0, images=False) for name, word in names.items()}
    log_likelihoods = {"vae": [-80.0, -90.0, -100.0], "iwae": [-79.0, -88.0, -97.0], "other": [0.0, 0.0, 0.0]}
    for name, values in log_likelihoods.items():
        run = runs.RunDirectory(runs_of[name])
        np.savez(run.test_log_likelihoods, log_likelihood=np.array(values))
        content = json.loads(run.results.read_bytes())
        content["nll"]["num_images"] = 3
        run.results.write_text(json.dumps(content))
    printed = write_report(runs_of.values(), tmp_path / "report.md", "--json")
    (pair,) = json.loads((tmp_path / "report.json").read_text())["pairs"]
    assert pair["runs"] == [1, 2]
    assert (pair["vae_nll"], pair["iwae_nll"], pair["difference"]["mean"]) == (90.0, 88.0, -2.0)
    assert pair["difference"]["stderr"] == pytest.approx(1.0 / np.sqrt(3.0))
    (cells,) = table((tmp_path / "report.md").read_text(), "VAE and IWAE on the same images")
    assert (cells["difference"], cells["standard error"]) == ("-2.000", "0.577")
    assert "-2.000" in printed


def test_models_that_are_trained_on_with_the_other_objective(tmp_path, undrawn):
    start = write_run(tmp_path / "vae_seed3", "--objective=vae", "--k=1", nll=86.5, units=[20])
    again = ["--epochs=37", "--learning_rate=1e-4"]
    words = ["--k=50", f"--init_from={start}", *again]
    run_dirs = [start, write_run(tmp_path / "then_iwae", *words, nll=85.0, units=[23])]
    # Runs of the table: another recipe, and one that starts from a model that is not in the report.
    run_dirs += [write_run(tmp_path / "longer", *words, "--epochs=38", nll=84.9)]
    run_dirs += [write_run(tmp_path / "then_vae", "--objective=vae", "--k=1", "--init_from=gone", *again, nll=86.0)]
    write_report(run_dirs, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text().replace("&gt;", ">")
    rows = table(text, "Trained on with the other objective")
    assert rows[0] == {
        "objective": "VAE -> IWAE",
        "run no.": "1, 2",
        "seed": "0",
        "NLL": "86.50 +- 0.25 -> 85.00 +- 0.25",
        "published": "86.76 -> 84.88",
        "active units": "20 -> 23",
        "published units": "19 -> 22",
    }
    assert len(rows) == 1
    assert row(table(text, "mnist"), layers="1", k="50", objective="IWAE")["run no."] == "3"
    assert row(table(text, "mnist"), NLL="86.00 +- 0.25")["k"] == "1"


def test_pairs_need_log_likelihoods_of_all_images(tmp_path, undrawn):
    for name, words in {"vae": ["--objective=vae"], "iwae": []}.items():
        write_run(tmp_path / name, *words, "--k=5", nll=86.0, images=False)
    assert "on the same images" not in write_report([tmp_path / "vae", tmp_path / "iwae"], tmp_path / "report")


def test_a_report_in_a_file_has_its_pictures_in_a_folder_of_that_name(grid, tmp_path, sketched):
    out = tmp_path / "docs" / "results.md"
    assert f"the report is {out}" in write_report(grid, out)
    written = {path.relative_to(out.parent).as_posix() for path in out.parent.rglob("*.*")}
    pictures_in_text = set(re.findall(r"\]\(([^)]*)\)", out.read_text()))
    assert "results/samples.png" in pictures_in_text
    assert written == {"results.md", "results.tex", *pictures_in_text}
    write_report(grid[:1], out)  # Again: it replaces the report, and removes pictures that it lacks.
    assert not (out.parent / "results" / "samples.png").exists()
    other = tmp_path / "thesis.md"
    other.write_text("# My thesis")
    assert "holds something other than a report" in refused(grid[:1], other)
    assert other.read_text() == "# My thesis"


def test_missing_and_unfinished_cells(written):
    rows = table((written[0] / "report.md").read_text(), "mnist")
    missing = row(rows, layers="2", k="1")
    assert (missing["NLL"], missing["run no."], missing["published"], missing["difference"]) == (
        "missing",
        "",
        "85.33",
        "",
    )
    unfinished = row(rows, layers="2", k="50", objective="VAE")
    assert unfinished["NLL"] == "training, 3 of 100 epochs; validation L\\_50 -90.00"
    assert (unfinished["difference"], unfinished["epochs"], unfinished["minutes"]) == ("", "3 of 100", "0.1")


def test_an_nll_with_another_number_of_samples_has_no_difference(written):
    cell = row(table((written[0] / "report.md").read_text(), "mnist"), layers="2", k="50", objective="IWAE")
    assert (cell["NLL"], cell["published"], cell["difference"]) == (r"83.00 +- 0.25 (-L\_100)", "82.90", "")


def test_other_runs(written):
    (other,) = table((written[0] / "report.md").read_text(), "Other runs")
    assert (other["model"], other["data set"], other["NLL"]) == (
        "Ladder IWAE, 2 layers, k = 5",
        "mnist",
        "83.50 +- 0.25",
    )


def test_the_reliability_of_the_nll(written):
    rows = table((written[0] / "report.md").read_text(), "Reliability of the NLL")
    assert len(rows) == 13
    first = rows[0]
    # The bounds of the fake runs are -NLL - 10 / k.
    assert (first["fewer samples"], first["all samples"]) == (r"87.00 (-L\_2,500)", r"87.00 (-L\_5,000)")
    assert (first["corrected"], first["largest weight, 50% / 90%"]) == ("86.97", "0.500 / 0.875")
    assert first["effective samples, 1% / 10% / 50%"] == "1.2 / 2.5 / 7.5"
    few = row(rows, **{"run": "13: IWAE, 2 layers, k = 50"})
    assert (few["fewer samples"], few["all samples"]) == (r"83.20 (-L\_50)", r"83.00 (-L\_100)")


def test_the_console_shows_the_table(written):
    out, printed = written
    lines = printed.splitlines()
    assert lines[0] == "mnist:"
    assert lines[-1] == f"the report is {out / 'report.md'}"
    assert re.search(r"^1 +5 +IWAE +4, 5, 6 +86\.17 \+- 0\.52 \(3 seeds\) +85\.54 +\+0\.63 ", printed, re.MULTILINE)
    assert "other runs:" in lines
    assert all(line == line.rstrip() for line in lines)


def test_report_json_holds_what_the_report_shows(written):
    shown = json.loads((written[0] / "report.json").read_text())
    seeds = row(shown["tables"]["mnist"], num_layers=1, k=5, objective="iwae")
    np.testing.assert_allclose([seeds["nll"], seeds["sd_over_seeds"]], [86.16666667, 0.52041650])
    assert (seeds["runs"], seeds["seeds"], seeds["published_nll"]) == ([4, 5, 6], [0, 1, 2], 85.54)
    report = (written[0] / "report.md").read_text()
    assert text.report_text(shown, [_picture(picture) for picture in shown["pictures"]]) == report
    for run in shown["runs"]:
        assert markdown.escape(run["run_dir"]) in report
        assert f"\n{run['command']}\n" in report
    assert shown["runs"][0]["results"]["nll"]["mean"] == 87.0
    assert shown["runs"][11]["results"] is None


def _picture(plain):
    return pictures.Picture(plain["heading"], plain["caption"], plain["file"] or "")


def test_the_pictures_of_the_report(written):
    out, _ = written
    names = set(re.findall(r"\]\((.*)\)", (out / "report.md").read_text()))
    assert names == {"samples.png", "reconstructions.png", "learning_curves.png", "nll.png", "active_units.png"}
    assert {path.name for path in out.iterdir()} == names | {"report.md", "report.tex", "report.json"}
    for name in names:
        height, width, _ = matplotlib.image.imread(out / name).shape
        assert 400 < height < 1500, name
        assert 800 < width < 2000, name
        assert (out / name).stat().st_size < 1_000_000


def test_the_pair_with_one_layer_and_k_5_is_shown(grid):
    vae, iwae = pictures.best_pair(reported_run.read(grid))
    assert [(run.title, run.options.seed) for run in (vae, iwae)] == [
        ("VAE, 1 layer, k = 5", 0),
        ("IWAE, 1 layer, k = 5", 0),
    ]


def drawn(reported_runs, function, monkeypatch):
    """The arguments of a function of `figures` that draws a picture, and the picture's caption."""
    given = []
    for name in DRAWING:
        keep = given.append if name == function else lambda _: None
        monkeypatch.setattr(figures, name, lambda path, *arguments, keep=keep: keep(arguments))
    for picture in pictures.report_pictures(reported_runs, reported_run.group_seeds(reported_runs)):
        if picture.draw:
            before = len(given)
            picture.draw("unused")
            if len(given) > before:
                return given[-1], picture.caption
    raise AssertionError(f"{function} is not called")


def test_the_points_of_nll_against_k(grid, monkeypatch):
    ((panels,), caption) = drawn(reported_run.read(grid), "save_nll_against_k", monkeypatch)
    vae, iwae, published_vae, published_iwae = panels["1 layer"]
    assert (vae["label"], vae["published"], vae["k"], vae["nll"]) == ("VAE", False, (1, 5, 50), (87.25, 86.25, 86.5))
    assert iwae["k"] == (1, 5, 50)
    np.testing.assert_allclose(iwae["nll"], (87.25, 86.16666667, 84.5))
    np.testing.assert_allclose(iwae["sd"], (0.35355339, 0.52041650, np.nan))
    assert (published_iwae["k"], published_iwae["nll"]) == ((1, 5, 50), (86.76, 85.54, 84.78))
    assert published_vae["nll"] == (86.76, 86.47, 86.35)
    # For two layers at k = 50, the VAE is unfinished, and the NLL of the IWAE is -L_100, which is another quantity.
    assert [(line["k"], line["nll"]) for line in panels["2 layers"][:2]] == [((5,), (85.0,)), ((5,), (84.0,))]
    assert "NLLs with a number of samples other than 5,000 are left out." in caption
    assert caption.endswith("the picture shows runs 1, 2, 3, 4, 5, 6, 7, 8, 10, 11.")


def test_the_bars_of_the_active_units(grid, monkeypatch):
    ((cells,), caption) = drawn(reported_run.read(grid[2:6]), "save_active_units", monkeypatch)
    assert [cell["label"] for cell in cells] == ["VAE\n1 layer\nk = 5", "IWAE\n1 layer\nk = 5"]
    assert [cell["published"] for cell in cells] == [(20,), (22,)]
    np.testing.assert_allclose([cell["ours"] for cell in cells], [[20.0], [68.0 / 3.0]])
    assert "the picture shows" not in caption


def test_the_learning_curves(grid, monkeypatch):
    ((curves,), _) = drawn(reported_run.read(grid[11:13]), "save_validation_curves", monkeypatch)
    assert [curve["label"] for curve in curves] == [
        "1: VAE, 2 layers, k = 50, seed 0",
        "2: IWAE, 2 layers, k = 50, seed 0",
    ]
    assert curves[0]["epochs"] == [1, 2, 3]
    np.testing.assert_allclose(curves[0]["minutes"], [2.0 / 60.0, 4.0 / 60.0, 6.0 / 60.0])
    assert curves[0]["bounds"][-1] == -90.0


def _state(folder):
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in folder.rglob("*")}


def test_the_same_command_writes_the_same_and_leaves_the_runs_alone(grid, written, tmp_path):
    before = _state(grid[0].parent)
    write_report(grid, tmp_path / "report", "--json")
    for path in written[0].iterdir():
        assert (tmp_path / "report" / path.name).read_bytes() == path.read_bytes(), path.name
    assert _state(grid[0].parent) == before


def test_copied_read_only_runs_give_the_same_report(grid, written, tmp_path, undrawn):
    copies = [shutil.copytree(path, tmp_path / "moved" / path.name) for path in grid]
    paths = [tmp_path / "moved", *(tmp_path / "moved").rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        printed = write_report(copies, tmp_path / "report")
        write_report(grid, tmp_path / "of originals")
    finally:
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)
    copied = (tmp_path / "report" / "report.md").read_text()
    originals = (tmp_path / "of originals" / "report.md").read_text()
    moved, unmoved = (markdown.escape(paths[0].parent) for paths in (copies, grid))
    assert moved in copied
    assert copied.replace(moved, unmoved) == originals
    assert printed.splitlines()[:-1] == written[1].splitlines()[:-1]


def test_a_new_report_removes_the_pictures_of_the_old_one(grid, tmp_path, sketched):
    out = tmp_path / "report"
    out.mkdir()
    (out / "report.md").write_text("# Report\n\nRuns: 1")
    stale = ["samples.png", "nll_2.png", "active_units.png", "learning_curves_3.png", "report.json", "nll.pdf"]
    own = ["notes.md", "nll_of_mine.png", "samples2.png", "nll.eps"]
    for name in (*stale, *own):
        (out / name).write_text("old")
    write_report(grid[11:12], out)
    assert {path.name for path in out.iterdir()} == {"report.md", "report.tex", "learning_curves.png", *own}
    report = (out / "report.md").read_text()
    assert "There are no samples" in report
    assert "No run is evaluated with 5,000 samples." in report
    assert "Versions" not in report


def test_a_run_before_its_first_epoch_and_one_that_is_trained(tmp_path, sketched):
    started = write_run(tmp_path / "a", "--k=5", epochs=0)
    trained = write_run(tmp_path / "b", "--k=5", "--epochs=2", nll=None)
    write_report([started], tmp_path / "report")
    report = (tmp_path / "report" / "report.md").read_text()
    assert "No epoch is finished." in report
    assert row(table(report, "mnist"), layers="1", k="5", objective="IWAE")["NLL"] == "training, 0 of 100 epochs"
    write_report([trained], tmp_path / "report")
    (_, _, cell, *_) = table((tmp_path / "report" / "report.md").read_text(), "mnist")
    assert cell["NLL"] == r"trained, not evaluated yet; validation L\_5 -90.00"


def test_measurements_that_only_some_runs_have(tmp_path, undrawn):
    flags = ["--khat_images=100", "--binarization_seeds=3", "--train_nll_images=1000", "--nll_samples=200"]
    measured = {
        "k_hat": {"num_images": 100, "threshold": 0.7, "share_above": 0.125},
        "binarizations": {"seeds": [0, 1, 2], "nll": [86.0, 87.0, 88.0], "mean": 87.0, "sd": 1.0},
        "train_nll": {"mean": 80.0, "stderr": 0.5, "num_samples": 200, "num_images": 1000},
        "active_units": {"per_layer": [20], "authors_code": {"per_layer": [21], "num_images": 9, "num_samples": 7}},
    }
    path = write_run(tmp_path / "run", *flags, nll=87.0, **measured)
    write_report([path, write_run(tmp_path / "plain", nll=87.0)], tmp_path / "report", "--json")
    first, second = table((tmp_path / "report" / "report.md").read_text(), "Reliability of the NLL")
    shown = {name: first[name] for name in first if not second[name]}
    assert shown == {
        "Pareto k-hat": "12.5% of 100 images above 0.7",
        "other binarisations": "87.00 +- 1.00 (3)",
        "training images": r"80.00 +- 0.50 (-L\_200, 1,000 images)",
        "units by the authors' code": "21",
    }
    command = json.loads((tmp_path / "report" / "report.json").read_text())["runs"][0]["command"]
    assert command == f"python -m iwae_tf.main {flags[3]} {flags[0]} {flags[1]} {flags[2]}"


def test_runs_of_several_data_sets(tmp_path, sketched):
    paths = [
        write_run(tmp_path / "a", "--k=5", nll=86.0, epochs=1, images=False),
        write_run(tmp_path / "b", "--k=5", "--dataset=omniglot28", nll=105.0, data={"image_shape": [28, 28]}),
        write_run(tmp_path / "c", "--k=5", "--dataset=npz:own.npz", nll=50.0, units=[3]),
        write_run(tmp_path / "d", "--k=5", "--max_images=50", nll=120.0),
    ]
    write_report(paths, tmp_path / "report")
    report = (tmp_path / "report" / "report.md").read_text()
    headings = re.findall("^## (.*)$", report, re.MULTILINE)
    assert headings[:3] == ["mnist", "omniglot28", "Other runs"]
    omniglot = row(table(report, "omniglot28"), layers="1", k="5", objective="IWAE")
    assert (omniglot["published"], omniglot["difference"]) == ("106.12", "-1.12")
    assert [other["data set"] for other in table(report, "Other runs")] == ["npz:own.npz", "mnist"]
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "report.md",
        "report.tex",
        *(f"{name}.png" for name in ("nll", "nll_2", "active_units", "active_units_2", "learning_curves")),
        *(f"learning_curves_{i}.png" for i in (2, 3)),
    }


def test_data_that_stand_in_for_the_papers_are_not_compared_with_them(tmp_path, sketched):
    words = ["--dataset=npz:omniglot28_by_drawing.npz", "--k=5"]
    write_report([write_run(tmp_path / "a", *words, nll=99.0)], tmp_path / "report")
    report = (tmp_path / "report" / "report.md").read_text()
    assert "The\npublished values are for other images" in report
    ours = row(table(report, "npz:omniglot28_by_drawing.npz"), layers="1", k="5", objective="IWAE")
    assert (ours["NLL"], ours["published"]) == ("99.00 +- 0.25", "106.12")
    assert "difference" not in ours


HOSTILE = "a|b\n\n# c <script>alert(1)</script> `` ``` *x* [y](javascript:z) \x1b[2J ![i](http://w) $a$ \\| &lt;"
# Python's text for a byte in a file name that is not UTF-8.
NOT_UTF8 = "\udc80"


def test_hostile_texts_are_shown_as_they_are(tmp_path, undrawn):
    folder = HOSTILE.replace("/", " ") + NOT_UTF8
    paths = [
        write_run(tmp_path / folder, "--dataset=npz:`` ``` |<b>$(rm x);'.npz", nll=50.0, versions={"tf": HOSTILE}),
        write_run(tmp_path / "other", nll=86.0, versions={HOSTILE: "1"}),
    ]
    printed = write_report(paths, tmp_path / "report", "--json")
    report = (tmp_path / "report" / "report.md").read_text()
    plain, fence, code = report.partition("\n````\n")  # Longer than the three backticks within.
    assert fence
    assert code.endswith("\n````\n")
    assert code.count("````") == 1
    assert [line[:5] for line in code.splitlines()] == ["# run", "pytho", "# run", "pytho", "````"]
    assert [line for line in plain.splitlines() if line.startswith("# ")] == ["# Report"]
    assert not re.search(r"(?<!\\)[`*$\[]|[<>\x1b]", plain.replace("`--run_dir`", ""))
    # Each text is in its cell, and Markdown shows it unchanged.
    for heading, name in (("Versions", "versions"), ("Commands", "folder")):
        shown = re.sub(r"\\(.)", r"\1", html.unescape(table(report, heading)[0][name]))
        assert markdown.printable(folder if name == "folder" else HOSTILE) in shown
    assert len(table(report, "Versions")) == len(table(report, "Commands")) == 2
    assert not re.search(r"[\x1b\ud800-\udfff]", printed)
    json.loads((tmp_path / "report" / "report.json").read_text())


def test_unknown_parts_of_results_are_not_shown(tmp_path, undrawn):
    more = {"nll": {"mean": 86.0, "stderr": None, "num_samples": 5000, "num_images": 1, "more": "text"}}
    path = write_run(tmp_path / "run", nll=86.0)
    results = json.loads((path / "results.json").read_text())
    results |= more | {"versions": {"a": 1.0, "b": "2"}, "flags": {"nll_samples": "x", "khat_images": -1}}
    (path / "results.json").write_text(json.dumps(results))
    write_report([path], tmp_path / "report", "--json")
    shown = json.loads((tmp_path / "report" / "report.json").read_text())["runs"][0]
    assert shown["command"] == "python -m iwae_tf.main"
    assert "more" not in shown["results"]["nll"]
    assert shown["results"]["versions"] == {"b": "2"}


@pytest.mark.parametrize(
    ("nll", "num_samples", "units", "bound", "seconds"),
    [(9e11, 5000, 10**11, -9e11, 9e11), (-9e11, 5000, 10**11, 9e11, -9e11), (0.0, 1, 0, 0.0, 0.0)],
)
def test_extreme_numbers_are_shown(nll, num_samples, units, bound, seconds, tmp_path):
    """No run writes them, but they are valid. Two runs, since curves need a length and means a spread."""
    paths = [write_run(tmp_path / str(seed), f"--seed={seed}", nll=nll, units=[units]) for seed in (0, 1)]
    for path in paths:
        run = runs.RunDirectory(path)
        epoch = dict.fromkeys(runs.HISTORY_COLUMNS, bound) | {"seconds": seconds}
        run.write_history([epoch | {"epoch": number} for number in (-1, 0, 0, 7)])
        results = run.read_results()
        measured = msgspec.structs.replace(results.nll, num_samples=num_samples, num_images=1, stderr=None)
        binarizations = Binarizations(seeds=[], nll=[], mean=nll, sd=None)
        run.write_results(msgspec.structs.replace(results, nll=measured, bounds=[], binarizations=binarizations))
    write_report(paths, tmp_path / "report", "--json")
    rows = table((tmp_path / "report" / "report.md").read_text(), "mnist")
    cell = row(rows, layers="1", k="50", objective="IWAE")
    assert cell["NLL"] == f"{nll:.2f} +- 0.00 (2 seeds)" + ("" if num_samples == 5000 else r" (-L\_1)")
    assert ("difference" in cell) == (num_samples == 5000)


def test_the_pictures_in_other_formats(grid, tmp_path, sketched):
    write_report(grid[:1], tmp_path / "report", "--figure_format=pdf,svg")
    pictures = {path.suffix for path in (tmp_path / "report").glob("learning_curves.*")}
    assert pictures == {".png", ".pdf", ".svg"}  # The text shows the PNG file.
    write_report(grid[:1], tmp_path / "report")
    assert {path.suffix for path in (tmp_path / "report").glob("learning_curves.*")} == {".png"}
    assert "'gif' is not a list of png, pdf, svg" in refused(grid[:1], tmp_path / "report", "--figure_format=gif")


def test_the_tables_in_latex(written):
    text = (written[0] / "report.tex").read_text()
    assert re.findall(r"\\label\{(.*)\}", text) == ["tab:mnist", "tab:other-runs", "tab:reliability"]
    assert r"1 & 5 & IWAE & 86.17 $\pm$ 0.52 (3 seeds) & 85.54 & $+$0.63 & 0.25 & 22.7 & 22 &" in text
    assert r"83.00 $\pm$ 0.25 ($-L_{100}$)" in text
    assert r"gradient\_estimator=dreg" in text
    for rows in re.findall(r"\\toprule\n(.*?)\\bottomrule", text, flags=re.DOTALL):
        assert len({line.count(" & ") for line in rows.splitlines() if line.endswith(r"\\")}) == 1


@pytest.mark.parametrize(
    ("plain", "expected"),
    [
        ("a_b & 50%", r"a\_b \& 50\%"),
        (r"\input{x}", r"\textbackslash{}input\{x\}"),
        ("$x^2$ ~#", r"\$x\textasciicircum{}2\$ \textasciitilde{}\#"),
        ("--k=5", "-{}-k=5"),
        ("[1]*", "{[}1]{*}"),
        ("a\x1bb\udc80", "a?b?"),
    ],
)
def test_latex_shows_texts_as_they_are(plain, expected):
    assert latex.escape(plain) == expected


@pytest.mark.parametrize(
    ("plain", "expected"),
    [
        ("-0.25", "$-$0.25"),
        ("85.00 +- 0.25", r"85.00 $\pm$ 0.25"),
        ("-L_5,000 of k-hat", r"$-L_{5{,}000}$ of k-hat"),
        ("a-1", "a-1"),
        ("run_L_5", r"run\_L\_5"),
    ],
)
def test_numbers_in_latex(plain, expected):
    assert latex.cell(plain) == expected


def test_a_latex_file_of_ones_own_is_refused(grid, tmp_path, sketched):
    write_report(grid[:1], tmp_path / "report.md")
    (tmp_path / "report.tex").write_text("my paper")
    assert "report.tex is something other than the tables" in refused(grid[:1], tmp_path / "report.md")
    assert (tmp_path / "report.tex").read_text() == "my paper"


def refused(paths, out, *words):
    with pytest.raises(UserError) as caught:
        write_report(paths, out, *words)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_folder_that_is_not_a_report_is_refused_and_left_alone(grid, tmp_path):
    inside = grid[0] / "report"
    assert "lies in the run directory" in refused(grid, inside)
    assert "lies in the run directory" in refused(grid, grid[0])
    assert not inside.exists()
    (tmp_path / "link").symlink_to(grid[0])
    assert "lies in the run directory" in refused(grid, tmp_path / "link" / "report")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("important")
    assert "holds something other than a report" in refused(grid[:1], foreign)
    (foreign / "report.md").write_text("# My own report\n")
    assert "holds something other than a report" in refused(grid[:1], foreign)
    assert (foreign / "report.md").read_text() == "# My own report\n"
    assert "is a file" in refused(grid[:1], foreign / "thesis.tex")
    assert "cannot be written" in refused(grid[:1], foreign / "thesis.tex" / "report")
    assert "cannot be written" in refused(grid[:1], tmp_path / ("x" * 300))
    assert "--out= is empty" in refused(grid[:1], "")
    assert {path.name for path in foreign.iterdir()} == {"thesis.tex", "report.md"}


def test_a_folder_with_the_name_of_a_picture_is_refused(grid, tmp_path):
    (tmp_path / "report.md").write_text("# Report\n\nRuns: 1")
    (tmp_path / "samples.png").mkdir()
    assert "is a folder, but the report has a file of this name" in refused(grid[:1], tmp_path)


def test_folders_that_are_not_runs_are_refused(grid, tmp_path):
    out = tmp_path / "report"
    assert "No run directory was given" in refused([], out)
    assert "is not a run directory" in refused([tmp_path / "nothing"], out)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    for path in (tmp_path / "file", tmp_path / "folder"):
        assert "is not a run directory: it has no flags.txt" in refused([path], out)
    assert "ame too long" in refused(["x" * 300], out)
    assert "'nonsense'" in refused(grid, out, "--nonsense")
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("results.json", "{"),
        ("results.json", '{"nll": {"mean": NaN}}'),
        ("history.csv", "epoch\nx\n"),
        ("flags.txt", "--flagfile=/etc/passwd\n"),
        ("flags.txt", "--k=many\n"),
        ("data.json", "[]"),
        ("data.json", "{}"),
    ],
)
def test_damaged_runs_are_refused(name, content, tmp_path):
    path = write_run(tmp_path / "run", epochs=2)
    (path / name).write_text(content)
    assert name in refused([path], tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_active_units_for_another_number_of_layers_are_refused(tmp_path):
    path = write_run(tmp_path / "run", nll=86.0, units=[20, 5])
    message = refused([path], tmp_path / "report")
    assert "it has 2 counts of active units, but the model has 1 layer;" in message
    authors = {"per_layer": [20], "authors_code": {"per_layer": [1, 2, 3], "num_images": 9, "num_samples": 7}}
    path = write_run(tmp_path / "other", nll=86.0, active_units=authors)
    assert "it has 3 counts of active units" in refused([path], tmp_path / "report")


@pytest.mark.parametrize(
    "changes",
    [
        {"active_units": {"per_layer": [-1]}},
        {"training": {"epochs": -1, "seconds": 1.0}},
        {"training": {"epochs": 1, "seconds": -1.0}},
        {"nll": {"mean": 86.0, "stderr": -1.0, "num_samples": 5000, "num_images": 10}},
        {"nll": {"mean": 86.0, "stderr": 1.0, "num_samples": 0, "num_images": 10}},
        {"elbo": float("nan")},
        {"elbo": 1e12},
        {"versions": {"a": "\ud800"}},
    ],
)
def test_impossible_results_are_refused(changes, tmp_path):
    path = write_run(tmp_path / "run", nll=86.0)
    results = json.loads((path / "results.json").read_text())
    (path / "results.json").write_text(json.dumps(results | changes))
    assert "results.json" in refused([path], tmp_path / "report")


def test_runs_of_older_versions_are_reported(tmp_path, undrawn):
    """They have no bounds, quantiles or counts by the authors' code, and do not describe their images."""
    path = write_run(tmp_path / "run", "--k=5")
    results = RESULTS | {"data": {}, "training": {"epochs": 100, "seconds": 60.0}}
    (path / "results.json").write_text(json.dumps(results))
    write_report([path], tmp_path / "report", "--json")
    report = (tmp_path / "report" / "report.md").read_text()
    assert row(table(report, "mnist"), layers="1", k="5", objective="IWAE")["NLL"] == "90.50"
    assert table(report, "Reliability of the NLL") == [
        {"run": "1: IWAE, 1 layer, k = 5", "all samples": r"90.50 (-L\_5,000)"}
    ]
    shown = json.loads((tmp_path / "report" / "report.json").read_text())["runs"][0]["results"]
    assert shown == {name: value for name, value in results.items() if name != "flags"}


@pytest.mark.parametrize(
    "damaged",
    [
        b"no arrays",
        {"probabilities": np.full((4, 5, 5), np.nan)},
        {"probabilities": np.zeros((0, 5, 5))},
        {"probabilities": np.array([["text"]])},
    ],
)
def test_damaged_samples_are_left_out(damaged, grid, tmp_path):
    vae = shutil.copytree(grid[2], tmp_path / "vae")
    if isinstance(damaged, bytes):
        (vae / "samples.npz").write_bytes(damaged)
    else:
        np.savez(vae / "samples.npz", **damaged)
    assert pictures.best_pair(reported_run.read([vae, grid[3]])) is None


def test_older_runs_have_no_reconstructions(grid, tmp_path):
    vae = shutil.copytree(grid[2], tmp_path / "vae")
    np.savez(vae / "samples.npz", probabilities=np.zeros((4, 28, 28), np.float32))
    reported_runs = reported_run.read([vae, grid[3]])
    first, second, *_ = pictures.report_pictures(reported_runs, reported_run.group_seeds(reported_runs))
    assert first.name == "samples.png"
    assert not second.name
    assert second.caption.startswith("Run 1 has no reconstructions")


def test_a_run_that_is_given_twice_is_read_once(grid):
    twice = reported_run.read([grid[0], grid[1], grid[0] / ".." / grid[0].name])
    assert [run.number for run in twice] == [1, 2]


@pytest.mark.parametrize(
    ("words", "arguments", "together"),
    [
        (["--seed=1"], {}, True),
        (["--seed=1", "--khat_images=10"], {}, True),  # It only measures more.
        (["--seed=1", "--nll_samples=10"], {}, False),
        (["--seed=1", "--epochs=99"], {}, False),
        (["--seed=1"], {"data": {"sha256": "02"}}, False),
        (["--seed=1"], {"epochs": 7}, False),
        (["--seed=1"], {"nll": None}, False),
        ([], {}, False),  # The same seed again says nothing about the spread over seeds.
    ],
)
def test_only_seeds_of_the_same_recipe_are_grouped(words, arguments, together, tmp_path):
    paths = [
        write_run(tmp_path / "first", nll=86.0, images=False),
        write_run(tmp_path / "second", *words, **{"nll": 87.0, "images": False} | arguments),
    ]
    groups = reported_run.group_seeds(reported_run.read(paths))
    assert [len(group) for group in groups] == ([2] if together else [1, 1])


def test_the_command_starts_without_tensorflow(grid, tmp_path):
    code = (
        "import sys; from iwae_tf.report.command import main; main(sys.argv); "
        "print(sorted({'tensorflow', 'keras', 'tensorflow_probability'} & set(sys.modules)))"
    )
    run = [sys.executable, "-c", code, str(grid[11]), f"--out={tmp_path / 'report'}"]
    done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=pathlib.Path(__file__).parent.parent)
    assert done.stdout.splitlines()[-1] == "[]"


def test_errors_of_the_command_are_one_line(tmp_path):
    run = [sys.executable, "-m", "iwae_tf.report", str(tmp_path / "nothing")]
    done = subprocess.run(run, capture_output=True, text=True, cwd=pathlib.Path(__file__).parent.parent)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"iwae_tf: {tmp_path / 'nothing'} is not a run directory: there is no such folder.\n"


def test_the_last_report_is_not_read_as_a_run(tmp_path):
    """runs/* may match it."""
    path = write_run(tmp_path / "run", epochs=2)
    out = tmp_path / "report"
    write_report([path], out)
    before = (out / "report.md").read_bytes()
    write_report([path, out], out)
    assert (out / "report.md").read_bytes() == before


def test_a_pair_with_the_same_seed_and_a_group_with_more_seeds_are_preferred(tmp_path):
    def run(name, *words, **results):
        return write_run(tmp_path / name, "--k=5", "--epochs=2", *words, **{"nll": 86.0, **results})

    other_seed, same_seed = run("v1", "--objective=vae", "--seed=1"), run("v0", "--objective=vae")
    vae, iwae = pictures.best_pair(reported_run.read([other_seed, same_seed, run("i0")]))
    assert (vae.options.seed, iwae.options.seed) == (0, 0)
    single = run("a", "--learning_rate=0.001")
    groups = reported_run.group_seeds(reported_run.read([single, run("b"), run("c", "--seed=1")]))
    (chosen,) = pictures.representatives("mnist", groups).values()
    assert len(chosen) == 2
