"""The report on runs, without training one."""

import copy
import json
import re
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest

from iwae_tf import files, gallery, markdown, options, published, records, report, runs
from iwae_tf.errors import UserError

SIZES = {1: "--latent_dims=50", 2: "--latent_dims=100,50"}
SIDE = 4


def _quantiles(first):
    return dict(zip(("mean", "1%", "10%", "50%", "90%"), (first + i for i in range(5)), strict=True))


def _results(flags, nll, units, epochs=None):
    return {
        "nll": {"mean": nll, "stderr": 0.25, "num_samples": flags.nll_samples, "num_images": 10000},
        "bounds": [{"k": k, "mean": -nll - 1.0 / k, "stderr": 0.25} for k in (1, 1000, 5000)],
        "corrected_nll": {"mean": nll - 0.0625, "stderr": 0.25},
        "effective_sample_size": _quantiles(100.0),
        "largest_weight": dict.fromkeys(_quantiles(0.0), 0.125),
        "elbo": -nll - 2.0,
        "iwae_bound": {"k": flags.k, "mean": -nll - 1.0},
        "active_units": {"per_layer": list(units)},
        "data": {"binarization": flags.binarization, "image_shape": [SIDE, SIDE]},
        "training": {"epochs": epochs or options.num_epochs(flags), "seconds": 90.0},
        "flags": options.result_flags(flags),
        "versions": {"iwae_tf": "0.1.0", "tensorflow": "2.21.0"},
    }


def _make(path, *words, nll=None, units=(20,), done=None, change=None, arrays=("probabilities", "reconstructions")):
    """Writes a run: finished if there is an NLL, else trained for `done` epochs."""
    flags = options.parse(["main", *words, f"--run_dir={path}"])
    with runs.RunDirectory(path) as run:
        run.claim(options.run_flags(flags), data={"image_shape": [SIDE, SIDE], "binarization": flags.binarization})
        epochs = options.num_epochs(flags) if done is None else done
        run.write_history(
            [
                dict.fromkeys(runs.HISTORY_COLUMNS, -80.0 - 40.0 / i) | {"epoch": i, "seconds": 60.0 * i}
                for i in range(1, epochs + 1)
            ]
        )
        if nll is not None:
            results = _results(flags, nll, units)
            (change or (lambda results: None))(results)
            run.write_results(results)
            images = np.random.default_rng(0).uniform(size=(100, SIDE, SIDE)).astype(np.float32)
            files.write_arrays(run.samples, dict.fromkeys(arrays, images))
    return str(path)


def _command(tmp_path, *words):
    """What the command writes: report.md and report.json."""
    report.main(["report", *words, f"--out={tmp_path / 'out'}", "--json"])
    return (tmp_path / "out" / "report.md").read_text(), json.loads((tmp_path / "out" / "report.json").read_text())


def _report(*paths):
    """The same without drawing, which takes most of the time."""
    of_records = records.read(paths)
    groups = records.groups(of_records)
    content = report.contents(of_records, groups)
    return report.text(content, gallery.pictures(of_records, groups)), json.loads(json.dumps(content, allow_nan=False))


def _rows(text, heading):
    """The cells of the table below a heading, with the header first."""
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in [lines[0], *lines[2:]]]


def _grid_row(text, *cell):
    (row,) = [row for row in _rows(text, "mnist") if row[:3] == list(cell)]
    return dict(zip(_rows(text, "mnist")[0], row, strict=True))


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """All ten cells, each with an NLL a quarter above the published one; one of them with three seeds."""
    folder = tmp_path_factory.mktemp("paper")
    paths = []
    for dims, k, objective in records.GRID:
        beside = published.TABLE["mnist", dims, objective, k]
        words = [f"--objective={objective}", f"--k={k}", SIZES[len(dims)], "--epochs=12"]
        name = folder / f"{objective}_{len(dims)}_{k}"
        paths.append(_make(name, *words, nll=beside.nll + 0.25, units=beside.active_units))
    for seed, shift in ((1, 0.5), (2, 0.75)):
        words = ["--objective=iwae", "--k=5", "--epochs=12", f"--seed={seed}"]
        paths.append(_make(folder / f"seed{seed}", *words, nll=85.54 + shift, units=(23,)))
    return paths


def test_the_whole_table(paper, tmp_path, capsys):
    text, content = _command(tmp_path, *paper)
    assert len(_rows(text, "mnist")) == 1 + 10
    assert "Other runs" not in text
    row = _grid_row(text, "2", "50", "IWAE")
    assert (row["NLL"], row["published"], row["difference"]) == ("83.15 +- 0.25", "82.90", "+0.25")
    assert (row["active units"], row["published units"]) == ("26+7", "26+7")
    assert (row["epochs"], row["minutes"]) == ("12", "1.5")
    seeds = _grid_row(text, "1", "5", "IWAE")
    assert seeds["NLL"] == "86.04 +- 0.25 (3 seeds)"  # Of 0.25, 0.5 and 0.75 above.
    assert (seeds["difference"], seeds["standard error"], seeds["active units"]) == ("+0.50", "0.25", "22.7")
    assert len(seeds["runs"].split(",")) == 3
    (as_json,) = [row for row in content["tables"]["mnist"] if len(row["runs"]) == 3]
    assert as_json["nll"] == pytest.approx(86.04)
    assert as_json["sd_over_seeds"] == pytest.approx(0.25)
    shown = capsys.readouterr().out
    assert "83.15 +- 0.25" in shown
    assert str(tmp_path / "out" / "report.md") in shown


def test_every_picture_is_drawn_and_named(paper, tmp_path):
    text, content = _command(tmp_path, *paper)
    named = re.findall(r"!\[.*\]\((.*)\)", text)
    assert sorted(named) == [
        "active_units.png",
        "learning_curves.png",
        "nll.png",
        "reconstructions.png",
        "samples.png",
    ]
    for name in named:
        assert matplotlib.image.imread(tmp_path / "out" / name).std() > 0.05
    assert [picture["file"] for picture in content["pictures"]] == named


def test_the_same_runs_give_the_same_report(paper, tmp_path):
    def written(*words):
        report.main(["report", *words, f"--out={tmp_path / 'out'}"])
        return {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    first = written(*paper[:2])
    assert len(first) == 4
    assert written(*paper[:2], paper[0], f"{paper[1]}/.") == first  # Each directory counts once.


def test_what_an_earlier_report_left_is_removed(paper, tmp_path):
    for name in ("report.md", "report.json", "samples.png", "learning_curves_2.png", "nll_mine.png"):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_text("old")
    report.main(["report", paper[0], f"--out={tmp_path / 'out'}"])
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"report.md", "nll_mine.png", "learning_curves.png", "nll.png", "active_units.png"}


def test_the_last_report_is_no_run(paper, tmp_path, monkeypatch):
    """`runs/*` is what people write, and the report's own place is in there."""
    monkeypatch.chdir(tmp_path)
    report.main(["report", paper[0]])
    first = (tmp_path / "runs" / "report" / "report.md").read_text()
    report.main(["report", paper[0], "runs/report"])
    assert (tmp_path / "runs" / "report" / "report.md").read_text() == first
    with pytest.raises(UserError, match="No run directory was given"):
        report.main(["report", "runs/report"])


def test_runs_are_left_as_they_are(paper, tmp_path):
    def state():
        folder = runs.RunDirectory(paper[0]).path.parent
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}

    before = state()
    _command(tmp_path, paper[0])
    assert state() == before


def test_unfinished_and_missing_runs(tmp_path):
    paths = [
        _make(tmp_path / "a", "--k=50", "--epochs=980", done=120),
        _make(tmp_path / "b", "--k=5", "--epochs=3"),
        _make(tmp_path / "c", "--k=5", "--objective=vae", done=0),
    ]
    text, _ = _report(*paths)
    assert _grid_row(text, "1", "50", "IWAE")["NLL"] == r"training, 120 of 980 epochs; validation L\_50 -80.33"
    assert _grid_row(text, "1", "50", "IWAE")["minutes"] == "120.0"
    assert _grid_row(text, "1", "5", "IWAE")["NLL"].startswith("trained, not evaluated yet")
    assert _grid_row(text, "1", "5", "VAE")["NLL"] == "training, 0 of 100 epochs"
    assert _grid_row(text, "2", "5", "VAE")["NLL"] == "missing"
    assert "There are no samples" in text
    assert "No run is evaluated" in text


def test_at_one_sample_the_vae_is_the_iwae(tmp_path):
    paths = [
        _make(tmp_path / "a", "--k=1", "--objective=vae", nll=87.0),
        _make(tmp_path / "b", "--k=1", "--objective=iwae", "--seed=1", nll=88.0),
    ]
    assert _grid_row(_report(*paths)[0], "1", "1", "VAE = IWAE")["NLL"] == "87.50 +- 0.71 (2 seeds)"


def test_only_seeds_are_averaged(tmp_path):
    """Neither recipes, nor the same seed twice, nor NLLs of different numbers of samples."""
    paths = [
        _make(tmp_path / "a", "--k=5", nll=87.0),
        _make(tmp_path / "b", "--k=5", "--batch_size=20", nll=88.0),
        _make(tmp_path / "c", "--k=5", nll=87.0),
        _make(tmp_path / "d", "--k=5", "--seed=1", "--nll_samples=10", nll=89.0),
        _make(tmp_path / "e", "--k=5", "--seed=1", nll=89.0),
    ]
    rows = [row for row in _rows(_report(*paths)[0], "mnist") if row[:3] == ["1", "5", "IWAE"]]
    assert [row[3] for row in rows] == ["1, 5", "2", "3", "4"]
    assert [row[4] for row in rows] == [
        "88.00 +- 1.41 (2 seeds)",
        "88.00 +- 0.25",
        "87.00 +- 0.25",
        r"89.00 +- 0.25 (-L\_10)",
    ]
    assert [row[6] for row in rows] == ["+2.46", "+2.46", "+1.46", ""]  # L_10 is not the published quantity.
    assert [row[-1] for row in rows][1] == r"batch\_size=20 nll\_samples=5000"


def test_runs_of_another_kind(tmp_path):
    paths = [
        _make(tmp_path / "a", "--k=5", "--inference=ladder", "--latent_dims=9,8,7", nll=87.0, units=(3, 2, 1)),
        _make(tmp_path / "b", "--k=7", nll=90.0),
        _make(tmp_path / "c", "--k=5", "--dataset=omniglot28", nll=106.0),
    ]
    text, _ = _report(*paths)
    assert [row[:4] for row in _rows(text, "Other runs")[1:]] == [
        ["Ladder IWAE, 3 layers, k = 5", "mnist", "1", "87.00 +- 0.25"],
        ["IWAE, 1 layer, k = 7", "mnist", "2", "90.00 +- 0.25"],
    ]
    assert "published" not in _rows(text, "omniglot28")[0]
    assert "## mnist" not in text
    assert "learning_curves_2.png" in text  # One for each data set.


def test_the_pair_of_pictures(paper, tmp_path):
    def pair(*paths):
        found = gallery.best_pair(records.read(paths))
        return found and [record.path for record in found]

    by_name = {runs.RunDirectory(path).path.name: path for path in paper}
    assert pair(*paper) == [by_name["vae_1_5"], by_name["iwae_1_5"]]
    assert pair(*(by_name[name] for name in ("vae_2_50", "iwae_1_5", "iwae_2_50"))) == [
        by_name["vae_2_50"],
        by_name["iwae_2_50"],
    ]
    assert pair(by_name["vae_1_5"], by_name["iwae_1_50"]) is None
    same_batch = _make(tmp_path / "same", "--k=5", "--epochs=13", "--batch_size=20", nll=90.0)
    vae = _make(tmp_path / "vae", "--objective=vae", "--k=5", "--epochs=13", "--batch_size=20", nll=90.0)
    assert pair(by_name["iwae_1_5"], same_batch, vae) == [vae, same_batch]


def test_runs_without_reconstructions(tmp_path):
    paths = [
        _make(tmp_path / name, "--k=5", f"--objective={name}", nll=87.0, arrays=["probabilities"])
        for name in ("vae", "iwae")
    ]
    text, _ = _report(*paths)
    assert "Of runs 1 and 2 there are no reconstructions" in text
    assert "reconstructions.png" not in text
    assert "samples.png" in text


def test_what_stands_behind_an_nll(tmp_path):
    def further(results):
        results["k_hat"] = {"num_images": 1000, "threshold": 0.7, "share_above": 0.125}
        results["binarizations"] = {"seeds": [1, 2], "nll": [86.0, 87.0], "mean": 86.5, "sd": 0.75}
        results["train_nll"] = {"mean": 80.0, "stderr": 0.5, "num_samples": 5000, "num_images": 400}
        results["active_units"]["authors_code"] = {"per_layer": [21], "num_images": 500, "num_samples": 1}

    def older(results):
        for name in ("bounds", "corrected_nll", "effective_sample_size", "largest_weight"):
            del results[name]

    def other(results):
        results["versions"] = {"iwae_tf": "0.2.0"}

    paths = [
        _make(tmp_path / "a", "--k=5", nll=87.0, change=further),
        _make(tmp_path / "b", "--k=50", nll=87.0, change=older),
    ]
    text, content = _report(*paths)
    header, first, second = _rows(text, "What stands behind each NLL")
    row = dict(zip(header, first, strict=True))
    assert row["fewer samples"] == r"87.00 (-L\_1,000)"
    assert row["corrected"] == "86.94"
    assert row["effective samples, 1 % / 10 % / 50 %"] == "101.0 / 102.0 / 103.0"
    assert row["Pareto k-hat"] == "12.5% of 1,000 images above 0.7"
    assert row["other binarisations"] == "86.50 +- 0.75 (2)"
    assert row["training images"] == r"80.00 +- 0.50 (-L\_5,000, 400 images)"
    assert row["units by the authors' code"] == "21"
    assert second == ["2: IWAE, 1 layer, k = 50", "", r"87.00 (-L\_5,000)", *[""] * (len(header) - 3)]
    assert "All runs: iwae\\_tf 0.1.0, tensorflow 2.21.0." in text
    assert content["runs"][0]["results"]["k_hat"]["share_above"] == 0.125
    third = _make(tmp_path / "c", "--k=5", "--seed=1", nll=87.0, change=other)
    assert len(_rows(_report(*paths, third)[0], "Versions")) == 1 + 3


def test_the_commands(tmp_path):
    path = _make(tmp_path / "a", "--k=5", "--latent_dims=9,8", "--hidden_dims=7;6", "--seed=3", nll=87.0, units=(3, 2))
    text, _ = _report(path)
    command = "python -m iwae_tf.main --k=5 --latent_dims=9,8 '--hidden_dims=7;6' --seed=3"
    assert f"```\n# run 1, seed 3\n{command}\n```" in text


def test_a_run_that_began_where_a_new_one_would_lie(tmp_path):
    """Read from elsewhere, its flags name no run directory."""
    path = _make(tmp_path / "a", "--k=5", "--init_from=runs/mnist_iwae_1l_k5_seed0", done=1)
    assert "--run_dir=runs/mnist_iwae_1l_k5_seed0_continued" in _report(path)[0]


def test_which_recipe_stands_in_the_pictures(tmp_path):
    """The one that more cells have, however good the others' NLLs are."""
    paths = [
        _make(tmp_path / "a", "--k=5", "--epochs=300", done=3, nll=80.0),
        _make(tmp_path / "b", "--k=5", "--epochs=12", nll=87.0),
        _make(tmp_path / "c", "--k=50", "--epochs=12", nll=86.0),
    ]
    groups = records.groups(records.read(paths))
    chosen = gallery.representatives("mnist", groups)
    assert {cell[1]: group[0].number for cell, group in chosen.items()} == {5: 2, 50: 3}


HOSTILE = "x|y`z` <script>alert(1)</script> ![a](b) **c** $d$"


def test_what_comes_from_runs_does_no_harm(tmp_path):
    def change(results):
        results["versions"] = {HOSTILE: f"{HOSTILE}\n# e \ud800\x1b[2J\u202e"}

    folder = tmp_path / "a|b\n# `c` <i>d\x1b[2J"
    path = _make(folder, f"--dataset=npz:{HOSTILE.replace('/', '')}```.npz", "--k=5", nll=87.0, change=change)
    text, _ = _report(path)
    lines = text.splitlines()
    assert text.count("\n# ") == text.count("\n# run 1")  # No heading of theirs, but a comment within the commands.
    outside = text.split("\n````\n")[0]
    for wrong in ("<", "![a]", "**c", "\x1b", "\u202e", "\ud800"):
        assert wrong not in outside
    assert lines[-1] == "````"  # Longer than the longest of theirs.
    assert len(_rows(text, "Commands")[1]) == 5
    assert len(_rows(text, "Other runs")[1]) == len(_rows(text, "Other runs")[0])


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("nll", {"mean": 10**400, "stderr": 0.1, "num_samples": 5000, "num_images": 1}),
        ("bounds", {"k": 5}),
        ("bounds", [{"k": "5", "mean": 1.0, "stderr": None}]),
        ("corrected_nll", {"mean": "x"}),
        ("effective_sample_size", {"1%": 3.0}),
        ("active_units", {"per_layer": ["a"]}),
        ("active_units", {"per_layer": [1, 2]}),
        ("active_units", {"per_layer": [1], "authors_code": [3]}),
        ("k_hat", True),
        ("binarizations", {"seeds": [1], "nll": [None], "mean": 1.0, "sd": None}),
        ("train_nll", []),
    ],
)
def test_damaged_results_are_named(tmp_path, name, place):
    path = _make(tmp_path / "a", "--k=5", nll=87.0)
    results = runs.RunDirectory(path).read_results()
    (tmp_path / "a" / "results.json").write_text(json.dumps(copy.deepcopy(results) | {name: place}))
    with pytest.raises(UserError, match=r"a/results.json is damaged"):
        _report(path)


@pytest.mark.parametrize("value", ["nan", "inf", "1e300"])
def test_damaged_histories_are_named(tmp_path, value):
    path = _make(tmp_path / "a", "--k=5", done=2)
    history = tmp_path / "a" / "history.csv"
    history.write_text(history.read_text().replace("-100", value))
    with pytest.raises(UserError, match=r"Cannot read .*a/history.csv"):
        _report(path)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((3, 4)),
        np.zeros((0, 4, 4)),
        np.full((100, 4, 4), np.nan),
        np.full((100, 4, 4), 7.0),
        np.zeros((1, 1000, 1000)),
        np.zeros((100, 4, 4), "U3"),
    ],
)
def test_arrays_that_are_no_pictures_are_left_out(tmp_path, images):
    paths = [_make(tmp_path / name, "--k=5", f"--objective={name}", nll=87.0) for name in ("vae", "iwae")]
    files.write_arrays(tmp_path / "vae" / "samples.npz", {"probabilities": images})
    assert "There are no samples" in _report(*paths)[0]
    (tmp_path / "vae" / "samples.npz").write_bytes(b"PK\x03\x04")
    assert "There are no samples" in _report(*paths)[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "No run directory was given"),
        (["nowhere"], "nowhere is not a run directory"),
        (["other"], "holds something else than a run"),
        (["run", "--outt=x"], "outt"),
        (["run", "--out="], "names no folder"),
        (["run", "--out=other"], "holds something else than a report"),
        (["run", "--out=file"], "no folder to write to"),
        (["run", "--out=file/report"], "no folder to write to"),
        (["run", "--out=run"], "lies in the run directory run"),
        (["run", "--out=run/figures/report"], "lies in the run directory run"),
        (["run", "--out=link/report"], "lies in the run directory run"),
        (["link", "--out=run/report"], "lies in the run directory link"),
    ],
)
def test_bad_input_is_refused(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _make("run", "--k=5", done=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("important")
    (tmp_path / "file").write_text("important")
    (tmp_path / "link").symlink_to("run")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message):
        report.main(["report", *words])
    assert sorted(tmp_path.rglob("*")) == before


def test_help_and_errors_come_without_tensorflow_or_matplotlib():
    code = (
        "import sys\nfrom iwae_tf import report\ntry:\n  report.main(['report', '--help'])\nexcept SystemExit as e:\n"
    )
    code += "  print(e.code, 'tensorflow' in sys.modules, 'matplotlib' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--out" in output
    assert output.endswith("0 False False\n")


def test_a_report_is_made_without_tensorflow(paper, tmp_path):
    code = f"import sys\nfrom iwae_tf import report\nreport.main(['report', {paper[0]!r}, '--out={tmp_path}/out'])\n"
    code += "print('tensorflow' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.endswith("\nFalse\n")


def test_markdown_tables_put_numbers_to_the_right():
    assert markdown.table(["a", "b"], [["1.5", "x"], ["-3", "4"]]) == [
        "| a | b |",
        "| --: | --- |",
        "| 1.5 | x |",
        "| -3 | 4 |",
    ]
