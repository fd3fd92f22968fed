import pathlib
import subprocess
import sys

import keras
import pytest

from iwae_tf import bounds, estimators, networks, paper
from iwae_tf.datasets import binarization
from iwae_tf.errors import UserError
from iwae_tf.experiment import flags, parsing, stored
from iwae_tf.training import plan

FLAGFILES = sorted((pathlib.Path(__file__).parent.parent / "flags").rglob("*.flags"))


def parse(*words):
    return parsing.parse(["main", *words])


def test_defaults():
    options = parse()
    assert (options.objective, options.k, options.dataset) == ("iwae", 50, "mnist")
    assert options.run_dir == "runs/mnist_iwae_1l_k50_seed0"
    assert options.num_epochs == options.epochs


@pytest.mark.parametrize("word", ["--init_from=a\0b", "--dataset=npz:x\n.npz", "--run_dir=a\rb"])
def test_characters_that_no_file_of_flags_can_hold_are_refused(word):
    with pytest.raises(UserError, match="has a line break or a NUL character; leave it out") as error:
        parse(word)
    assert "\n" not in str(error.value)


def test_folders_may_begin_with_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    options = parse("--run_dir=~/vae/run1", "--init_from=~/base", "--dataset=omniglot28", "--data_dir=~/data")
    folders = (options.run_dir, options.init_from, options.data_dir)
    assert folders == ("/home/ada/vae/run1", "/home/ada/base", "/home/ada/data")


@pytest.mark.parametrize("flag", ["run_dir", "init_from"])
def test_addresses_are_refused(flag):
    with pytest.raises(UserError, match=rf"--{flag}: 'gs://bucket/x' is an address, but must be a local folder"):
        parse(f"--{flag}=gs://bucket/x")


def test_numbers_that_are_zero_in_single_precision_are_refused():
    for flag in ("adam_epsilon", "learning_rate"):
        with pytest.raises(UserError, match="must be a positive number"):
            parse(f"--{flag}=1e-45")


def test_batch_normalisation_needs_more_than_one_image():
    with pytest.raises(UserError, match="--batch_size=1 has only one; give at least 2"):
        parse("--batch_norm", "--batch_size=1")


def test_the_run_directory_is_named_after_the_run():
    options = parse("--objective=vae", "--k=5", "--latent_dims=100,50", "--seed=3")
    assert options.run_dir == "runs/mnist_vae_2l_k5_seed3"
    assert parse("--run_dir=elsewhere").run_dir == "elsewhere"


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("npz:../of mine/digits.npz", "digits"),
        ("tfds:emnist/letters:3.1.0", "tfds_emnist_letters_3.1.0"),
        ("omniglot28", "omniglot28"),
    ],
)
def test_the_run_directory_of_other_data(dataset, name):
    assert parse(f"--dataset={dataset}").run_dir == f"runs/{name}_iwae_1l_k50_seed0"


def test_the_data_sets_own_binarization_is_the_default():
    assert parse().binarization == "stochastic"
    assert parse("--dataset=binarized_mnist").binarization == "fixed"
    assert parse("--binarization=threshold").binarization == "threshold"


def test_the_first_epochs():
    options = parse("--k=50", "--gradient_estimator=resampled", "--resampled=10", "--first_epochs=20", "--first_k=1")
    assert stored.run_flags(options)["first_epochs"] == "20"
    for words, message in (
        (["--first_k=2"], "has no effect without --first_epochs"),
        (["--first_epochs=3", "--epochs=2"], "more than --epochs=2"),
        (["--first_epochs=3", "--schedule=paper"], "no effect with --schedule=paper"),
        (["--first_epochs=3", "--objective=jackknife"], "--first_k=1 is not compatible with the other flags"),
    ):
        with pytest.raises(UserError, match=message):
            parse(*words)


def test_nothing_is_left_over_from_an_earlier_command_line():
    parse("--k=7", "--learning_rate=0.5", "--notrain")
    options = parse()
    assert (options.k, options.train) == (50, True)
    assert options.learning_rate < 0.1


def _choices(name):
    (field,) = [field for field in flags.fields() if field.name == name]
    return tuple(field.metadata["choices"])


def test_choices_are_those_of_the_code():
    assert _choices("objective") == tuple(bounds.OBJECTIVES)
    assert _choices("gradient_estimator") == tuple(estimators.GRADIENT_ESTIMATORS)
    assert _choices("inference") == tuple(networks.INFERENCE)
    assert all(callable(keras.activations.get(name)) for name in _choices("activation"))
    assert _choices("schedule") == plan.SCHEDULES
    assert _choices("binarization") == tuple(binarization.BINARIZATIONS)


@pytest.mark.parametrize(
    ("latent_dims", "hidden_dims", "expected"),
    [
        ("50", "", ((50,), ((200, 200),))),
        ("100,50", "", ((100, 50), ((200, 200), (100, 100)))),
        ("40, 30,20", "", ((40, 30, 20), ((200, 200), (100, 100), (100, 100)))),
        ("9", "300", ((9,), ((300,),))),
        ("9,8", "30,20;10", ((9, 8), ((30, 20), (10,)))),
    ],
)
def test_layer_dims(latent_dims, hidden_dims, expected):
    options = parse(f"--latent_dims={latent_dims}", f"--hidden_dims={hidden_dims}")
    assert (options.latent_dims, options.hidden_dims) == expected


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: path.stem)
def test_every_flagfile_parses(path):
    options = parse(f"--flagfile={path}")
    if path.parent.name == "paper":
        latent_dims = options.latent_dims
        assert path.stem == f"{options.dataset}_{options.objective}_{len(latent_dims)}l_k{options.k}"
        assert (options.dataset, latent_dims, options.objective, options.k) in paper.TABLE
        assert options.binarization == ("fixed" if options.dataset == "binarized_mnist" else "stochastic")
        assert options.hidden_dims == ((200, 200), (100, 100))[: len(latent_dims)]
        assert options.num_epochs == paper.EPOCHS
        assert (options.batch_size, options.learning_rate, options.adam_epsilon) == (20, 1e-3, 1e-4)
        assert options.ema_momentum == 0.0


@pytest.mark.parametrize("dataset", ["mnist", "omniglot28", "binarized_mnist"])
def test_there_is_a_flagfile_for_each_published_cell(dataset):
    cells = {path.stem for path in FLAGFILES if path.parent.name == "paper" and path.stem.startswith(f"{dataset}_")}
    assert len(cells) == 10
    for _, latent_dims, objective, k in paper.TABLE:
        objective = "iwae" if k == 1 else objective
        assert f"{dataset}_{objective}_{len(latent_dims)}l_k{k}" in cells


def test_choices_may_be_written_in_any_case():
    assert parse("--objective=IWAE", "--gradient_estimator=DReG").gradient_estimator == "dreg"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--k=0"], "--k=0 is not in the range from 1 to 10,000,000."),
        (["--k=five"], "--k=five is not an integer."),
        (["--flagfile=nothing.flags"], "Cannot read --flagfile=nothing.flags (No such file or directory)."),
        (["k=5"], "did you mean --k=5"),
        (["train"], "'train' is not a flag"),
        (["--samples=5"], "Unknown command line flag 'samples'"),
        (["--dataset=mnits"], "no data set 'mnits'; choose one of mnist, "),
        (["--dataset=npz:"], "no data set 'npz:'"),
        (["--data_dir=here"], "--data_dir has no effect with --dataset=mnist"),
        (["--dataset=npz:own.npz", "--train_split=train"], "--train_split has no effect with --dataset=npz:own.npz"),
        (["--dataset=omniglot28", "--test_split=test"], "--test_split has no effect"),
        (["--dataset=binarized_mnist", "--binarization=stochastic"], "which is binary"),
        (["--binarization=grey"], "should be one of <stochastic|fixed|threshold>"),
        (["--objective=elbo"], "should be one of <iwae|vae|"),
        (["--batch_size=-1"], "--batch_size=-1"),
        (["--learning_rate=-1"], "must be a positive number"),
        (["--learning_rate=nan"], "must be a positive number"),
        (["--learning_rate=inf"], "must be a positive number"),
        (["--adam_epsilon=0"], "must be a positive number"),
        (["--ema_momentum=1"], "less than 1"),
        (["--batch_norm", "--ema_momentum=0.9"], "statistics of --batch_norm"),
        (["--stages=9"], "--stages=9"),
        (["--seed=-1"], "--seed=-1"),
        (["--latent_dims=50,"], "is not a list of positive integers"),
        (["--latent_dims="], "is not a list of positive integers"),
        (["--latent_dims=0"], "is not a list of positive integers"),
        (
            ["--latent_dims=50", "--hidden_dims=200;100"],
            "--latent_dims has 1 stochastic layer, but --hidden_dims has 2 groups",
        ),
        (["--flagfile=missing.flags"], "missing.flags"),
        (["--flagfile=" + sys.executable], "decode"),
        (["--schedule=paper", "--epochs=5"], "--epochs has no effect with --schedule=paper"),
        (["--stages=5"], "--stages has no effect with --schedule=cosine"),
        (["--resampled=5"], "has no effect with --gradient_estimator=standard"),
        (["--gradient_estimator=resampled", "--k=3"], "--resampled=5 is more than the 3 samples"),
        (["--overwrite", "--notrain"], "give only one of them"),
        (["--alpha=0.3"], "--alpha has no effect with --objective=iwae"),
        (["--objective=vr", "--alpha=nan"], "is not an order of a Renyi bound"),
        (["--objective=ciwae", "--ciwae_beta=1.5"], "--ciwae_beta"),
        (["--objective=jackknife", "--k=1"], "at least 2 samples"),
        (["--objective=piwae", "--inference=ladder", "--latent_dims=100,50"], "share weights"),
        (["--gradient_estimator=rws", "--objective=vae"], "does not support the objective vae"),
        (["--gradient_estimator=rws", "--beta_warmup_epochs=3"], "beta warm-up"),
        (["--gradient_estimator=rws", "--k=1"], "rws needs at least 2 samples"),
        (["--objective=ciwae", "--ciwae_beta=nan"], "must be a number from 0 to 1"),
        (["--objective=vr", "--alpha=-1e38"], "is not an order of a Renyi bound"),
        (["--epochs=99999999999999999999"], "--epochs=99999999999999999999"),
        (["--beta_warmup_epochs=101"], "is more than --epochs=100"),
        (["--gradient_estimator=resampled", "--objective=jackknife"], "can be negative"),
        (["--gradient_estimator=dreg", "--objective=vr", "--alpha=-inf"], "jump"),
        (["--gradient_estimator=dreg", "--batch_norm"], "couples"),
        (["--nll_samples=3000000000"], "--nll_samples=3000000000"),
    ],
)
def test_bad_input_is_refused_in_one_line(words, message):
    with pytest.raises(UserError) as error:
        parse(*words)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_flagfile_with_an_unknown_flag_is_refused(tmp_path):
    (tmp_path / "bad.flags").write_text("--k=5\n--colour=red\n")
    with pytest.raises(UserError, match="'colour'"):
        parse(f"--flagfile={tmp_path / 'bad.flags'}")


def test_help_is_grouped_exits_with_0_and_does_not_import_tensorflow():
    code = "import sys; sys.argv = ['main', '--help']\nimport iwae_tf.main as main\n"
    code += "try:\n  main.run()\nexcept SystemExit as e:\n  print(e.code, 'tensorflow' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.rstrip().endswith("\n0 False")
    for group in ("Data:", "Model and objective:", "Training:", "Evaluation:", "Run:"):
        assert group in output
    for name in ("k", "dataset", "run_dir", "[no]train"):
        assert f"--{name}" in output


def test_importing_the_package_adds_no_flags():
    code = "from absl import flags; import iwae_tf.main; print('k' in flags.FLAGS, 'run_dir' in flags.FLAGS)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "False False\n"


def test_samples_in_all_and_the_objectives_parameters():
    options = parse("--objective=miwae", "--num_outer=3", "--k=4")
    assert (options.total_samples, options.objective_parameters) == (12, (3,))
    assert "num_outer" in stored.run_flags(options)
    assert parse("--k=4").total_samples == 4
    assert "num_outer" not in stored.run_flags(parse("--k=4"))


def test_a_ladder_of_one_layer_shares_no_weights():
    assert parse("--objective=piwae", "--inference=ladder").objective == "piwae"
