"""The table on cells so small that they are trained in seconds."""

import pathlib

import pytest

from iwae_tf import main, runs, table
from iwae_tf.errors import UserError
from iwae_tf.experiment import parsing, stored, summary

COMMON = ["--max_images=40", "--batch_size=20", "--hidden_dims=5", "--latent_dims=3", "--nll_samples=10", "--nojit"]
CELLS = {"mnist_a": ["--k=3", "--epochs=2", "--first_epochs=1"], "mnist_b": ["--k=1", "--epochs=2"]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to run in, with flagfiles of its own."""
    (tmp_path / "cells").mkdir()
    for name, words in {**CELLS, "omniglot28_a": ["--k=2"]}.items():
        (tmp_path / "cells" / f"{name}.flags").write_text("\n".join([*COMMON, "--noexport", *words]))
    monkeypatch.setattr(table, "_FLAGFILES", tmp_path / "cells")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_cells_are_trained_shortest_first_and_finished_ones_are_skipped(folder, capsys):
    table.run_table(["table"])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "cells: mnist_b, mnist_a"
    titles = [line for line in lines if line.startswith("cell ")]
    assert titles == ["cell 1 of 2, mnist_b", "cell 2 of 2, mnist_a"]
    assert lines[-1] == f"the report is {pathlib.Path('runs/table/report/report.md')}"
    first = {name: runs.RunDirectory(f"runs/table/{name}_seed0").results for name in CELLS}
    written = {name: path.stat().st_mtime_ns for name, path in first.items()}
    first["mnist_a"].unlink()
    table.run_table(["table"])
    again = capsys.readouterr().err.splitlines()
    assert again[1] == "cell 1 of 2, mnist_b, is finished"
    assert not any(line.startswith("training") for line in again)
    assert first["mnist_b"].stat().st_mtime_ns == written["mnist_b"]
    assert first["mnist_a"].stat().st_mtime_ns > written["mnist_a"]
    table.run_table(["table", "mnist_b"])
    report = pathlib.Path("runs/table/report/report.md").read_text()
    assert "k = 1" in report
    assert "k = 3" in report


def test_a_cell_that_fails_does_not_stop_the_others(folder, capsys, monkeypatch):
    called = []

    def fail_at_first(argv):
        called.append(argv[-1])
        if len(called) == 1:
            raise UserError("broke")

    monkeypatch.setattr(main, "main", fail_at_first)
    with pytest.raises(UserError, match="mnist_b failed, see above"):
        table.run_table(["table"])
    assert "iwae_tf: mnist_b: broke" in capsys.readouterr().err
    assert called == ["--run_dir=runs/table/mnist_b_seed0", "--run_dir=runs/table/mnist_a_seed0"]


def test_some_cells_with_further_flags_make_a_set_of_their_own(folder, monkeypatch):
    called = []
    monkeypatch.setattr(main, "main", called.append)
    table.run_table(["table", "--seed=2", "--epochs=1", "--", "mnist_b"])
    flagfile = f"--flagfile={folder / 'cells' / 'mnist_b.flags'}"
    assert called == [["main", flagfile, "--seed=2", "--epochs=1", "--run_dir=runs/table/mnist_b_seed2"]]


@pytest.fixture
def chain(folder):
    """Of mnist_d, which starts from mnist_c, which starts from mnist_b; mnist_a is not needed for it."""
    for name, words in {
        "mnist_c": ["--k=2", "--init_from=mnist_b"],
        "mnist_d": ["--k=1", "--init_from=mnist_c"],
    }.items():
        (folder / "cells" / f"{name}.flags").write_text("\n".join([*COMMON, "--noexport", "--epochs=1", *words]))


def test_a_cell_brings_those_that_it_starts_from(chain, monkeypatch):
    called = []
    monkeypatch.setattr(main, "main", called.append)
    table.run_table(["table", "mnist_d", "--seed=3"])
    assert [argv[-1] for argv in called] == [
        "--run_dir=runs/table/mnist_b_seed3",
        "--init_from=runs/table/mnist_b_seed3",
        "--init_from=runs/table/mnist_c_seed3",
    ]
    assert [argv[-2] for argv in called[1:]] == [f"--run_dir=runs/table/mnist_{name}_seed3" for name in "cd"]


def test_another_origin_may_be_given(chain, monkeypatch):
    called = []
    monkeypatch.setattr(main, "main", called.append)
    table.run_table(["table", "mnist_d", "--init_from=elsewhere"])
    assert called[-1][-2:] == ["--init_from=elsewhere", "--run_dir=runs/table/mnist_d_seed0"]


def test_no_cell_starts_from_one_that_failed(chain, monkeypatch, capsys):
    called = []

    def fail_at_second(argv):
        called.append(argv)
        if len(called) == 2:
            raise UserError("broke")

    monkeypatch.setattr(main, "main", fail_at_second)
    with pytest.raises(UserError, match="mnist_c, mnist_d failed"):
        table.run_table(["table", "mnist_d"])
    assert len(called) == 2
    assert "mnist_d: it starts from mnist_c, which failed" in capsys.readouterr().err


@pytest.mark.slow
def test_the_cells_of_a_chain_are_trained(chain, capsys):
    table.run_table(["table", "mnist_c"])
    options = stored.read_options(runs.RunDirectory("runs/table/mnist_c_seed0"))
    assert options.init_from == "runs/table/mnist_b_seed0"
    capsys.readouterr()
    table.run_table(["table", "mnist_c"])
    assert capsys.readouterr().err.count("is finished") == 2


def test_a_damaged_cell_does_not_stop_the_others(folder, capsys, monkeypatch):
    called = []
    monkeypatch.setattr(main, "main", called.append)
    options = table._cells(["table"])[0].options
    with runs.RunDirectory(options.run_dir) as run:
        run.claim(stored.run_flags(options), data=runs.DataDescription(image_shape=(28, 28)))
        run.results.write_text("{")
        run.history.write_text("{")
    with pytest.raises(UserError, match="mnist_b failed"):
        table.run_table(["table"])
    assert "iwae_tf: mnist_b: Cannot read" in capsys.readouterr().err
    assert [argv[-1] for argv in called] == ["--run_dir=runs/table/mnist_a_seed0"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--strategy=multi_worker"], "is for single runs"),
        (["mnist_c"], "'mnist_c' is not a cell; give some of mnist_a, mnist_b, omniglot28_a"),
        (["--seed", "2"], "'2' is not a cell"),
        (["--epochs=none"], "epochs"),
        (["--run_dir=here"], "--run_dir=here cannot be used for a whole table"),
        (["--overwrite"], "--overwrite cannot be used"),
    ],
)
def test_bad_words_are_refused_before_anything_is_trained(folder, words, message):
    with pytest.raises(UserError, match=message):
        table.run_table(["table", *words])
    assert not pathlib.Path("runs").exists()


def test_a_flagfile_of_ones_own_cannot_overwrite_either(folder):
    (folder / "own.flags").write_text("--overwrite")
    with pytest.raises(UserError, match="--overwrite cannot be used"):
        table.run_table(["table", f"--flagfile={folder / 'own.flags'}"])


def test_run_directories_of_something_else_are_refused_at_once(folder):
    path = pathlib.Path("runs/table/mnist_a_seed0")
    path.mkdir(parents=True)
    (path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="holds something other"):
        table.run_table(["table"])
    assert not pathlib.Path("runs/table/mnist_b_seed0").exists()


def test_the_samples_of_a_cell_are_those_of_its_epochs():
    def num_samples(*words):
        argv = ["main", *words]
        return table.Cell("cell", argv, parsing.parse(argv)).num_samples

    assert num_samples("--k=5", "--epochs=4") == 20
    assert num_samples("--k=5", "--epochs=4", "--first_epochs=2") == 12
    assert num_samples("--k=5", "--epochs=4", "--latent_dims=100,50") == 40


def test_the_tables_flagfiles_are_the_cells_of_the_paper():
    """The same networks as in flags/paper, and a recipe without contradictions."""
    flags = pathlib.Path(table.__file__).parent.parent / "flags"
    names = sorted(path.name for path in (flags / "table").glob("*.flags"))
    assert names == sorted(path.name for path in (flags / "paper").glob("*.flags"))
    for name in names:
        ours, papers = (parsing.parse(["main", f"--flagfile={flags / kind / name}"]) for kind in ("table", "paper"))
        assert summary.cell(ours, ours.binarization) == summary.cell(papers, papers.binarization) is not None
        origins = table._origins(name.removesuffix(".flags"))
        assert len(origins) == {1: 0, 5: 1, 50: 2}[ours.k]
