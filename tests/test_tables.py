"""Tables: reading, columns, splits, and the commands from a csv file to scores and imputations."""

import csv
import gzip
import json

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

import iwae_tf
from iwae_tf import datasets, impute, main, runs, score, supports
from iwae_tf.datasets import tables
from iwae_tf.errors import UserError

RNG = np.random.default_rng(0)


def _file(folder, text, name="table.csv"):
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["Temperature (C)", "value, in nats", "mass [kg | lb]"])
def test_a_single_column_may_have_a_delimiter_in_its_name(tmp_path, name):
    values, columns = tables.read_csv(_file(tmp_path, f"{name}\n20.5\n21\n"))
    assert columns == (name,)
    np.testing.assert_array_equal(values, [[20.5], [21.0]])


@pytest.mark.parametrize(
    "text",
    ["  a   b\n1.5  2\n 10 -3\n", "\n\na,b\n1.5,2\n10,-3\n", 'a,b,t\n1.5,2, "x, y"\n10,-3, "z, w, q"\n'],
    ids=["aligned", "blank lines", "delimiters in quotes"],
)
def test_spaces_blank_lines_and_quotation_marks(tmp_path, text):
    values, _ = tables.read_csv(_file(tmp_path, text), keep=("a", "b"))
    np.testing.assert_array_equal(values, [[1.5, 2.0], [10.0, -3.0]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2,3\n4,5,6\n", r"3 values in line 2 \('1,2,3'\), but 2 in its first one"),
        ("a,b\n1,2,\n3,4,\n", "3 values in line 2"),
        ("a,b,c\n1,2,3\n4,5\n", "2 values in line 3"),
        ("a,b\n" + "1,2\n" * 30 + "1,2,3\n", "3 values in line 32"),
        ("a;b;c\n1;2;3\n4;5;6;7\n8;9;0\n", "4 values in line 3"),
    ],
)
def test_rows_of_another_length_are_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        tables.read_csv(_file(tmp_path, text))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_file_is_read_with_its_header(tmp_path, delimiter):
    text = "a,b c,id\n1,2.5,x\n,-3e2,y\nNaN,0,z\n".replace(",", delimiter)
    values, columns = tables.read_csv(_file(tmp_path, text), drop_columns=("id",))
    assert columns == ("a", "b c")
    np.testing.assert_array_equal(values, np.float32([[1, 2.5], [np.nan, -300], [np.nan, 0]]))


def test_a_file_without_a_header_a_compressed_one_and_a_mark_at_its_begin(tmp_path):
    values, columns = tables.read_csv(_file(tmp_path, "1,2\n3,4\n"))
    assert columns == ("column_1", "column_2")
    np.testing.assert_array_equal(values, [[1, 2], [3, 4]])
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress("\ufeffa,b\n1,2\n3,4\n".encode()))
    assert tables.read_csv(path)[1] == ("a", "b")
    assert tables.read_csv(path, keep=("b",))[0].tolist() == [[2], [4]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,b\n", "has no rows"),
        ("a,b\n1,red\n2,blue\n", "Column 'b' .* has text, such as 'red'; leave it out with drop_columns=b"),
        ("a,a\n1,2\n", "more than one column 'a'"),
        ("a,b\n1,inf\n", "Column 'b' .* infinite"),
        ("t,b\n1700000000,1\n1700000003,2\n1700000007,3\n", "Column 't' .* single precision cannot hold"),
    ],
)
def test_files_that_are_no_tables_of_numbers_are_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        tables.read_csv(_file(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("0,1,2\n5,6,7\n8,9,1\n", ("0", "1", "2")),
        (",0,1\n0,5,6\n1,8,9\n", ("0", "1")),
        (",a,b\n0,5,6\n1,8,9\n", ("a", "b")),
        ("a,b,\n5,6,\n8,9,\n", ("a", "b")),
        (",a\n7,5\n9,8\n", ("column_1", "a")),
        ("a;b\n5;6\n8;9\n\n", ("a", "b")),
    ],
)
def test_what_pandas_and_spreadsheets_write_around_a_table(tmp_path, text, columns):
    values, found = tables.read_csv(_file(tmp_path, text))
    assert found == columns
    assert values.shape == (2, len(columns))
    assert values[:, -1].tolist() == [values[0, -1], values[1, -1]]
    assert not np.isnan(values).any()


def test_unknown_columns_and_files_are_refused(tmp_path):
    path = _file(tmp_path, "a,b\n1,2\n")
    with pytest.raises(UserError, match="no column 'c'; its columns are a, b"):
        tables.read_csv(path, drop_columns=("c",))
    with pytest.raises(UserError, match="no column 'c'; its columns are a, b"):
        tables.read_csv(path, keep=("c",))
    with pytest.raises(UserError, match="There is no file"):
        tables.read_csv(tmp_path / "other.csv")


def test_the_split_is_drawn_by_its_seed_and_keeps_all_rows():
    rows = np.arange(50)[:, np.newaxis]
    parts = tables.split(rows, (0.2, 0.3), 0, "file")
    assert [len(part) for part in parts] == [25, 10, 15]
    assert sorted(np.concatenate(parts).ravel()) == list(range(50))
    again, other = tables.split(rows, (0.2, 0.3), 0, "file"), tables.split(rows, (0.2, 0.3), 1, "file")
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    assert not np.array_equal(parts[2], other[2])
    for fractions in ((0.5, 0.5), (0.001, 0.1), (0.0, 0.001)):
        with pytest.raises(UserError, match="leave no rows for one of the parts"):
            tables.split(rows, fractions, 0, "file")


def _load(folder, text, support, **kwargs):
    return datasets.load(f"csv:{_file(folder, text)}", support=support, test_fraction=0.25, **kwargs)


def test_values_without_a_density_are_refused_by_column(tmp_path):
    counts = "n,m\n" + "\n".join(f"{i},{i % 3 - (i == 5)}" for i in range(12))
    with pytest.raises(UserError, match="Column 'm' .* has the value 0.5 .* whole numbers from 0"):
        _load(tmp_path, counts.replace("\n3,0", "\n3,0.5"), supports.COUNTS)
    with pytest.raises(UserError, match="Column 'n' .* Bernoulli, which has only 0 and 1"):
        _load(tmp_path, counts, supports.BINARY)
    assert _load(tmp_path, counts, supports.COUNTS).columns == ("n", "m")
    constant = "n,m\n" + "\n".join(f"{i},7" for i in range(12))
    with pytest.raises(UserError, match="Column 'm' .* same value, 7, .* leave it out with drop_columns=m"):
        _load(tmp_path, constant, supports.REAL)
    empty = "n,m\n" + "\n".join(f"{i}," for i in range(12))
    with pytest.raises(UserError, match="Column 'm' .* no values"):
        _load(tmp_path, empty, supports.COUNTS)


def test_tables_and_images_of_numpy_files(tmp_path):
    np.savez(tmp_path / "a.npz", train=RNG.normal(size=[20, 9]), test=RNG.normal(size=[5, 9]))
    table = datasets.load(f"npz:{tmp_path / 'a.npz'}", support=supports.REAL)
    assert table.is_table
    assert table.columns[:2] == ("column_1", "column_2")
    assert table.train.dtype == np.float32
    np.save(tmp_path / "b.npy", RNG.integers(0, 256, [20, 8, 8, 3]).astype(np.uint8))
    arguments = {"validation_fraction": 0.2, "test_fraction": 0.2}
    colours = datasets.load(f"npy:{tmp_path / 'b.npy'}", support=supports.levels(256), **arguments)
    assert colours.event_shape == (8, 8, 3)
    assert datasets.load(f"npy:{tmp_path / 'b.npy'}", **arguments).event_shape == (8, 8)  # Luminance.
    with pytest.raises(UserError, match="Pixel .* whole numbers from 0 to 16"):
        datasets.load(f"npy:{tmp_path / 'b.npy'}", support=supports.levels(17), **arguments)


def test_parts_of_a_file_are_kept(tmp_path):
    parts = {"train": RNG.normal(size=[20, 3]), "validation": RNG.normal(size=[7, 3])}
    np.savez(tmp_path / "a.npz", **parts)
    loaded = datasets.load(f"npz:{tmp_path / 'a.npz'}", support=supports.REAL, test_fraction=0.2)
    assert [len(part) for part in (loaded.train, loaded.validation, loaded.test)] == [16, 7, 4]
    np.savez(tmp_path / "b.npz", test=parts["train"], **parts)
    with pytest.raises(UserError, match="has a validation part, so a validation_fraction has no effect"):
        datasets.load(f"npz:{tmp_path / 'b.npz'}", support=supports.REAL, validation_fraction=0.2)


def test_moments_leave_missing_values_out():
    train = np.float32([[1, np.nan], [3, 4], [np.nan, 8]])
    table = datasets.Dataset(train, train, train, (2,), ("a", "b"))
    mean, variance = table.moments(supports.REAL)
    np.testing.assert_allclose(mean, [2, 6])
    np.testing.assert_allclose(variance, [1, 4])
    np.testing.assert_allclose(table.moments(supports.COUNTS, np.log1p)[0][0], np.log1p([1, 3]).mean())
    assert table.num_missing == 6


def test_equal_columns_are_found():
    values = np.float32([[1, 2, 1, 3], [4, 5, 4, 6]])
    assert tables.equal_columns(values, "abcd") == [("a", "c")]


NUM_ROWS, FLAGS = 60, ["--k=3", "--latent_dims=2", "--hidden_dims=6", "--epochs=2", "--batch_size=12", "--nojit"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table of real numbers with missing values and a column of text, and the run of a model of it."""
    folder = tmp_path_factory.mktemp("tables")
    z = RNG.normal(size=NUM_ROWS)
    columns = {
        "length": 100 + 5 * z,
        "width": -3 + z + RNG.normal(size=NUM_ROWS),
        "size": 1e4 * RNG.normal(size=NUM_ROWS),
    }
    lines = ["name," + ",".join(columns)]
    for i in range(NUM_ROWS):
        words = [f"{values[i]:.4f}" for values in columns.values()]
        words[i % 3] = "" if i % 2 else words[i % 3]
        lines.append(",".join([f"row {i}", *words]))
    _file(folder, "\n".join(lines) + "\n", "things.csv")
    data = [f"--dataset=csv:{folder / 'things.csv'}", "--drop_columns=name", "--likelihood=gaussian", "--mask_input"]
    main.main(["main", *data, *FLAGS, "--nll_samples=50", f"--run_dir={folder / 'run'}"])
    return folder


def test_a_run_on_a_table(folder):
    run = runs.RunDirectory(folder / "run")
    results = run.read_results()
    assert results.data.columns == ["length", "width", "size"]
    assert results.data.num_images == {"train": 48, "validation": 6, "test": 6}
    assert results.data.num_missing == 30
    figures = {path.name for path in run.figures.glob("*.png")}
    names = ("bounds", "marginals", "pairs", "samples_needed", "units", "embedding")
    assert figures == {f"{name}.png" for name in names}
    model = iwae_tf.load(run.path)
    table = datasets.load(f"csv:{folder / 'things.csv'}", support=supports.REAL, test_fraction=0.1,
                          validation_fraction=0.1, drop_columns=("name",))  # fmt: skip
    shift = model.inference.stochastic_layers[0].input_layer.shift
    np.testing.assert_allclose(shift, np.nanmean(table.train, axis=0), rtol=1e-4)
    assert model.draw(4).shape == (4, 3)


def test_scores(folder, capsys):
    output = folder / "scores.csv"
    words = [f"--run_dir={folder / 'run'}", f"--data={folder / 'things.csv'}", "--num_samples=40"]
    score.main(["score", *words, f"--output={output}"])
    assert "30 rows have missing values" in capsys.readouterr().out
    assert output.with_suffix(".png").exists()
    rows = list(csv.DictReader(output.open()))
    assert [row["row"] for row in rows] == [str(i + 1) for i in range(NUM_ROWS)]
    model = iwae_tf.load(folder / "run")
    x, _ = tables.read_csv(folder / "things.csv", drop_columns=("name",))
    expected = model.log_likelihood(x, 40)
    np.testing.assert_allclose([float(row["log_likelihood"]) for row in rows], expected.values, rtol=1e-6)
    assert all(0.0 <= float(row["test_share"]) <= 1.0 for row in rows)
    saved = tf.saved_model.load(str(folder / "run" / "saved_model")).signatures["log_likelihood"]
    values = saved(x=tf.constant(x), num_samples=tf.constant(40), seed=tf.constant([0, 1]))
    assert np.isfinite(values["log_likelihood"]).all()
    assert np.all(values["effective_sample_size"] <= 40.1)
    score.main(["score", *words, f"--output={folder / 'scores.npz'}"])
    assert set(np.load(folder / "scores.npz")) == set(rows[0]) - {"row"}


def test_rows_without_any_value_are_counted(folder, capsys):
    header, first, *_ = (folder / "things.csv").read_text().splitlines()
    nothing = "," * first.count(",")
    (folder / "gaps.csv").write_text("\n".join([header, first, nothing, nothing]) + "\n")
    score.main(["score", f"--run_dir={folder / 'run'}", f"--data={folder / 'gaps.csv'}", "--num_samples=10"])
    assert "2 rows have no values at all" in capsys.readouterr().out
    values = [float(row["log_likelihood"]) for row in csv.DictReader((folder / "run" / "scores_gaps.csv").open())]
    np.testing.assert_allclose(values[1:], 0.0, atol=0.2)  # The weights of 10 samples.


def test_the_log_ratio_of_a_gaussian_table(folder):
    """log p_0 is that of independent Gaussians with the moments of the model."""
    words = [f"--run_dir={folder / 'run'}", f"--data={folder / 'things.csv'}", "--num_samples=40"]
    score.main(["score", *words, f"--output={folder / 'ratio.npz'}"])
    arrays = np.load(folder / "ratio.npz")
    x, _ = tables.read_csv(folder / "things.csv", drop_columns=("name",))
    drawn = np.float64(iwae_tf.load(folder / "run").draw(5000))
    terms = scipy.stats.norm.logpdf(x, drawn.mean(axis=0), drawn.std(axis=0))
    # Scales are at least a thousandth of the standard deviation larger.
    expected = np.nansum(terms, axis=1)
    np.testing.assert_allclose(arrays["log_likelihood"] - arrays["log_ratio"], expected, rtol=1e-4, atol=0.02)


def test_imputations(folder, capsys):
    words = [f"--run_dir={folder / 'run'}", f"--data={folder / 'things.csv'}", "--num_samples=40"]
    impute.main(["impute", *words])
    assert "30 of 60 rows" in capsys.readouterr().err
    rows = list(csv.DictReader((folder / "run" / "imputed_things.csv").open()))
    x, columns = tables.read_csv(folder / "things.csv", drop_columns=("name",))
    single = np.array([[float(row[name]) for name in columns] for row in rows])
    observed = ~np.isnan(x)
    np.testing.assert_allclose(single[observed], x[observed], rtol=1e-6)
    assert np.isfinite(single).all()
    assert sum(row["effective_sample_size"] == "" for row in rows) == 30
    impute.main(["impute", *words, "--num_imputations=3", f"--output={folder / 'draws.npz'}"])
    arrays = np.load(folder / "draws.npz")
    assert arrays["draws"].shape == (3, NUM_ROWS, 3)
    assert np.all((arrays["draws"] == x) | ~observed)
    assert np.all((arrays["draws"][0] != arrays["draws"][1]) | observed)
    saved = tf.saved_model.load(str(folder / "run" / "saved_model")).signatures["impute"]
    filled = saved(x=tf.constant(x), num_samples=tf.constant(40), seed=tf.constant([0, 1]))["x"].numpy()
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[observed], x[observed])


def test_rows_far_from_the_data_are_the_least_likely_and_keep_their_gaps(folder, capsys):
    path = _file(
        folder, "effective_sample_size,length,width,size\n1,100,-3,0\n2,1e30,,5.25\n3,100.123456789,,0\n", "far.csv"
    )
    words = [f"--run_dir={folder / 'run'}", f"--data={path}", "--num_samples=20"]
    score.main(["score", *words])
    assert "1 rows have no finite log p(x)" in capsys.readouterr().out
    rows = list(csv.DictReader((folder / "run" / "scores_far.csv").open()))
    assert [row["log_likelihood"] == "-inf" for row in rows] == [False, True, False]
    assert rows[1]["log_ratio"] == "-inf"
    impute.main(["impute", *words])
    assert "1 rows keep their gaps" in capsys.readouterr().out
    rows = list(csv.DictReader((folder / "run" / "imputed_far.csv").open()))
    assert [row["effective_sample_size"] for row in rows] == ["1", "2", "3"]  # The file's own column.
    assert (rows[1]["length"], rows[1]["width"], rows[1]["size"]) == ("1e30", "", "5.25")
    assert rows[2]["length"] == "100.123456789"
    assert np.isfinite(float(rows[2]["width"]))
    assert rows[1]["effective_sample_size_"] == "0"


def test_a_model_starts_only_from_one_of_the_same_columns_and_likelihood(folder, tmp_path):
    _file(tmp_path, "a,b,c\n" + "\n".join(f"{i},{i % 7},{i % 5}" for i in range(40)), "other.csv")
    flags = [
        f"--dataset=csv:{tmp_path / 'other.csv'}",
        *FLAGS,
        f"--init_from={folder / 'run'}",
        f"--run_dir={tmp_path / 'r'}",
    ]
    with pytest.raises(UserError, match="has --likelihood=gaussian; use the same"):
        main.main(["main", "--likelihood=student_t", "--mask_input", *flags])
    with pytest.raises(UserError, match="has other columns"):
        main.main(["main", "--likelihood=gaussian", "--mask_input", *flags])


def test_a_table_with_gaps_needs_a_likelihood_that_has_them(tmp_path):
    train = np.float32([[1, np.nan], [3, 4], [2, 8]])
    model = iwae_tf.ImportanceWeightedAutoencoder(*iwae_tf.paper_networks(2, (1,), [(2,)], likelihood="gaussian"))
    table = datasets.Dataset(train, train, train, (2,), ("a", "b"))
    with pytest.raises(UserError, match="3 missing values; build the likelihood with missing_values=True"):
        iwae_tf.train(model, table, iwae_tf.Plan(epochs=1, batch_size=2), tmp_path / "run")


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        (score, ["--data={folder}/things.csv"], "--run_dir is missing"),
        (score, ["--run_dir={folder}/run"], "--data is missing"),
        (score, ["--run_dir={folder}/run", "--data={folder}/other.csv"], "no file"),
        (score, ["--run_dir={folder}/run", "--data={folder}/things.csv", "--output=a.txt"], "must end with"),
        (
            score,
            ["--run_dir={folder}/run", "--data={folder}/things.csv", "--output=/proc/self/a.csv"],
            "Cannot write to the folder /proc/self|does not exist",
        ),
        (score, ["--run_dir={folder}/run", "--data={folder}/wrong.csv"], "no column 'length'"),
        (score, ["--run_dir={folder}/run", "--data={folder}/wrong.npy"], "rows of 2 values, but .* trained on 3"),
        (impute, ["--run_dir={folder}/run", "--data={folder}/full.csv"], "no missing values"),
    ],
)
def test_bad_input_of_the_commands(folder, command, words, message):
    _file(folder, "a,b\n1,2\n", "wrong.csv")
    _file(folder, "length,width,size\n1,2,3\n2,3,4\n", "full.csv")
    np.save(folder / "wrong.npy", np.zeros([4, 2]))
    with pytest.raises(UserError, match=message):
        command.main(["command", *(word.format(folder=folder) for word in words)])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset=mnist", "--test_fraction=0.2"], "--test_fraction has no effect"),
        (["--likelihood=poisson", "--standardize"], "--standardize has no effect with --likelihood=poisson"),
        (["--likelihood=gaussian", "--binarization=fixed"], "--binarization has no effect"),
        (["--num_levels=4"], "--num_levels has no effect"),
        (["--channels=4"], "--channels has no effect with --network=mlp"),
        (["--network=conv", "--hidden_dims=linear"], "needs a hidden layer"),
        (["--dataset=csv:x.csv", "--test_fraction=1.5"], "must be at least 0 and less than 1"),
    ],
)
def test_flags_without_effect_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        main.main(["main", *words])


@pytest.mark.slow
def test_counts_and_binary_tables_train(tmp_path):
    values = RNG.poisson(3.0, [40, 3]).astype(float)
    values[::5, 1] = np.nan
    for likelihood, table in (("negative_binomial", values), ("bernoulli", np.minimum(values, 1))):
        np.savetxt(tmp_path / "t.csv", table, delimiter=",", fmt="%.0f")
        run_dir = tmp_path / likelihood
        data = [f"--dataset=csv:{tmp_path / 't.csv'}", f"--likelihood={likelihood}"]
        main.main(["main", *data, *FLAGS, "--nll_samples=20", "--noexport", f"--run_dir={run_dir}"])
        results = json.loads((run_dir / "results.json").read_text())
        assert 0.0 < results["nll"]["mean"] < 20.0
        assert results["data"]["num_missing"] == 8
