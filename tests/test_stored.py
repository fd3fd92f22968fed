"""What a run keeps of its options, and how later versions read it."""

import json
import pathlib
import shlex

import pytest

from iwae_tf.errors import UserError
from iwae_tf.experiment import build, flags, parsing, stored

FLAGFILES = sorted((pathlib.Path(__file__).parent.parent / "flags").rglob("*.flags"))


def parse(*words):
    return parsing.parse(["main", *words])


def test_the_flags_of_the_data_that_are_stored():
    words = ["--dataset=tfds:mnist", "--data_dir=here", "--train_split=train[:50%]"]
    run_flags = stored.run_flags(parse(*words))
    assert (run_flags["data_dir"], run_flags["train_split"], run_flags["test_split"]) == ("here", "train[:50%]", "")
    assert "data_dir" not in stored.run_flags(parse())
    assert "data_dir" not in stored.result_flags(parse(*words))


def test_what_a_run_stores_repeats_it(tmp_path):
    options = parse("--k=7", "--hidden_dims=30,20;10", "--latent_dims=9,8", "--learning_rate=0.00123", "--nojit")
    run_flags = stored.run_flags(options)
    (tmp_path / "flags.txt").write_text("".join(f"--{name}={value}\n" for name, value in run_flags.items()))
    assert stored.run_flags(parse(f"--flagfile={tmp_path / 'flags.txt'}")) == run_flags
    assert set(run_flags) <= set(stored.result_flags(options))


def test_one_spelling_of_the_layers_is_stored():
    explicit = stored.run_flags(parse("--latent_dims=100, 50", "--hidden_dims=200, 200;100,100"))
    assert explicit == stored.run_flags(parse("--latent_dims=100,50"))
    assert explicit["hidden_dims"] == "200,200;100,100"


def test_an_infinite_order_can_be_stored():
    options = parse("--objective=vr", "--alpha=-inf")
    assert json.loads(json.dumps(stored.result_flags(options), allow_nan=False))["alpha"] == "-inf"
    assert stored.run_flags(options)["alpha"] == "-inf"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--objective=vae", "--k=5", "--seed=3", "--nll_samples=100"],
        ["--schedule=paper", "--stages=5", "--batch_size=20", "--ema_momentum=0"],
        ["--schedule=paper", "--learning_rate=0.003"],
        ["--inference=ladder", "--latent_dims=64, 32", "--hidden_dims=30,20;10", "--batch_norm"],
        ["--latent_dims=100,50", "--hidden_dims=200,200;100,100"],
        ["--objective=vr", "--alpha=-inf"],
        ["--objective=miwae", "--num_outer=3", "--gradient_estimator=resampled", "--resampled=7"],
        ["--dataset=npz:of mine/it's $HOME;`x`.npz", "--binarization=threshold"],
        ["--dataset=binarized_mnist", "--first_epochs=3", "--first_k=5", "--learning_rate=1e-05"],
        ["--dataset=tfds:mnist", "--train_split=train[:50%]", "--clip_norm=1"],
        ["--init_from=runs/mnist_iwae_1l_k50_seed0", "--run_dir=elsewhere"],
    ],
)
def test_the_command_repeats_the_run(words):
    options = parse(*words)
    program = shlex.split(stored.command(options))
    assert program[:3] == ["python", "-m", "iwae_tf.main"]
    again = parse(*program[3:])
    assert stored.run_flags(again) == stored.run_flags(options)
    assert again.nll_samples == options.nll_samples


def test_the_command_names_nothing_that_is_as_by_default():
    assert stored.command(parse("--k=50", "--learning_rate=0.003", "--hidden_dims=200,200")) == (
        "python -m iwae_tf.main"
    )
    assert stored.command(parse("--k=5", "--hidden_dims=9;8", "--latent_dims=2,1")) == (
        "python -m iwae_tf.main --k=5 --latent_dims=2,1 '--hidden_dims=9;8'"
    )


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: path.stem)
def test_the_command_of_every_flagfile(path):
    options = parse(f"--flagfile={path}")
    assert stored.run_flags(parse(*shlex.split(stored.command(options))[3:])) == stored.run_flags(options)


def test_results_that_hold_more_than_is_asked_are_enough():
    def parse(*words):
        return parsing.parse(["main", *words])

    more = stored.result_flags(parse("--khat_images=5", "--binarization_seeds=3"))
    assert stored.covers(more, parse())
    assert stored.covers(more, parse("--khat_images=5"))
    assert not stored.covers(more, parse("--khat_images=6"))
    assert not stored.covers(more, parse("--nll_samples=10"))
    assert not stored.covers(more, parse("--train_nll_images=5"))
    assert not stored.covers(more, parse("--k=5"))
    older = {name: value for name, value in stored.result_flags(parse()).items() if name != "khat_images"}
    assert stored.covers(older, parse())
    assert not stored.covers(older, parse("--khat_images=5"))


def _add_flag(monkeypatch, **properties):
    """A version of the program that has one more flag in its field `clip_norm`: the default is now 3."""
    (field,) = [field for field in flags.fields() if field.name == "clip_norm"]
    monkeypatch.setattr(field, "default", 3.0)
    monkeypatch.setattr(field, "metadata", {**field.metadata, **properties})


def _old_run(path):
    """A trained run that does not know --clip_norm."""
    run = build.run_directory(path)
    run.claim({name: text for name, text in stored.run_flags(parse()).items() if name != "clip_norm"})
    run.checkpoints.mkdir()
    return run


def test_a_flag_that_a_run_does_not_know_has_its_former_value(tmp_path, monkeypatch):
    run = _old_run(tmp_path)
    _add_flag(monkeypatch, before=0.5)
    assert stored.read_options(run).clip_norm == 0.5
    assert stored.flags_before()["clip_norm"] == "0.5"


def test_a_run_continues_with_the_former_value_of_a_later_flag_only(tmp_path, monkeypatch):
    _old_run(tmp_path).release()
    _add_flag(monkeypatch, before=0.5)
    with build.run_directory(tmp_path) as run:
        with pytest.raises(UserError, match=r"other settings \(clip_norm is 0.5 there and 3.0 here\)"):
            run.check(stored.run_flags(parse("--clip_norm=3")))
        run.claim(stored.run_flags(parse("--clip_norm=0.5")))
        assert run.read_flags()["clip_norm"] == "0.5"


def test_results_that_do_not_know_a_flag_have_its_former_value(monkeypatch):
    known = {name: value for name, value in stored.result_flags(parse()).items() if name != "clip_norm"}
    assert stored.covers(known, parse())
    _add_flag(monkeypatch, before=0.5)
    assert stored.covers(known, parse("--clip_norm=0.5"))
    assert not stored.covers(known, parse("--clip_norm=3"))
