"""The formats of results.json and data.json.

Every number has to be plain and below 1e12: a file that holds anything else was not written by a run. Fields that
older versions did not write are `UNSET` where they are missing.
"""

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from iwae_tf.errors import UserError

Number = Annotated[float, Meta(gt=-1e12, lt=1e12)]
NotNegative = Annotated[float, Meta(ge=0, lt=1e12)]
Count = Annotated[int, Meta(ge=0, lt=10**12)]
Positive = Annotated[int, Meta(gt=0, lt=10**12)]
Side = Annotated[int, Meta(gt=0, le=10_000)]


class Mean(Struct, frozen=True, kw_only=True):
    """A mean over images in nats, and its standard error, which a single image does not have."""

    mean: Number
    stderr: NotNegative | None


class NegativeLogLikelihood(Mean, frozen=True, kw_only=True):
    """-L_k for k = num_samples, in nats."""

    num_samples: Positive
    num_images: Positive
    binarization_seed: Count | UnsetType = UNSET


class Bound(Struct, frozen=True, kw_only=True):
    """L_k of the test images, in nats."""

    k: Count
    mean: Number


class BoundWithStderr(Bound, frozen=True, kw_only=True):
    """A point of the curve of L_k against k."""

    stderr: Number | None


class Quantiles(Struct, frozen=True, kw_only=True):
    """The mean and quantiles of a number that each test image has."""

    mean: Number
    percent_1: Number = msgspec.field(name="1%")
    percent_10: Number = msgspec.field(name="10%")
    percent_50: Number = msgspec.field(name="50%")
    percent_90: Number = msgspec.field(name="90%")


class AuthorsActiveUnits(Struct, frozen=True, kw_only=True):
    """Active units as the code of the paper's authors counts them."""

    per_layer: list[Count]
    num_images: Count
    num_samples: Count
    split: str | UnsetType = UNSET


class ActiveUnits(Struct, frozen=True, kw_only=True):
    """Active units per stochastic layer, bottom layer first."""

    per_layer: list[Count]
    threshold: Number | UnsetType = UNSET
    num_images: Count | UnsetType = UNSET
    num_samples: Count | UnsetType = UNSET
    authors_code: AuthorsActiveUnits | UnsetType = UNSET


class UnitStatistics(Struct, frozen=True, kw_only=True):
    """The statistics of one layer's units, see `evaluation.units.Units`; None where a number is not finite."""

    means: list[Number | None]
    variances: list[Number | None]
    posterior_variances: list[Number | None]
    kls: list[Number | None]


class KHat(Struct, frozen=True, kw_only=True):
    """How many images have weights whose Pareto k-hat is above the threshold."""

    num_images: Count
    threshold: Number
    share_above: Number


class Binarizations(Struct, frozen=True, kw_only=True):
    """The NLL on several binarisations of the test images."""

    seeds: list[Count]
    nll: list[Number]
    mean: Number
    sd: Number | None


class DataDescription(Struct, frozen=True, kw_only=True):
    """The data of a run: numbers per split, (height, width) or columns, missing values, duplicates, check sum."""

    binarization: str | UnsetType = UNSET
    num_images: dict[str, Count] | UnsetType = UNSET
    image_shape: tuple[Side, ...] | UnsetType = UNSET
    columns: list[str] | UnsetType = UNSET
    num_missing: Count | UnsetType = UNSET
    num_duplicates: Count | UnsetType = UNSET
    sha256: str | UnsetType = UNSET

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of an image, or of a row of a table."""
        if self.columns is not UNSET:
            return (len(self.columns),)
        return () if self.image_shape is UNSET else self.image_shape

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of the columns of a table; empty for images."""
        return () if self.columns is UNSET else tuple(self.columns)

    @property
    def is_table(self) -> bool:
        """Whether the data are a table rather than images."""
        return self.columns is not UNSET

    @property
    def noun(self) -> str:
        """What the data are, for messages: rows of a table, or images."""
        return "rows" if self.is_table else "images"


def describe_data(binarization: str, images: Mapping[str, Any]) -> DataDescription:
    """Returns the description of a data set.

    Args:
      binarization: how they are binarised, a name from `datasets.binarization.BINARIZATIONS`, or "none".
      images: as `datasets.Dataset.describe` returns it.
    """
    return msgspec.convert({"binarization": binarization, **images}, DataDescription)


class Training(Struct, frozen=True, kw_only=True):
    """What a training run did: steps, epochs, seconds, and whether it was resumed."""

    steps: Count | UnsetType = UNSET
    epochs: Count
    seconds: NotNegative
    examples_per_second: Number | UnsetType = UNSET
    resumed: bool | UnsetType = UNSET


class Results(Struct, frozen=True, kw_only=True):
    """What results.json holds."""

    nll: NegativeLogLikelihood
    bounds: list[BoundWithStderr] | UnsetType = UNSET
    corrected_nll: Mean | UnsetType = UNSET
    effective_sample_size: Quantiles | UnsetType = UNSET
    largest_weight: Quantiles | UnsetType = UNSET
    elbo: Number
    iwae_bound: Bound
    active_units: ActiveUnits
    units: list[UnitStatistics] | UnsetType = UNSET
    k_hat: KHat | UnsetType = UNSET
    binarizations: Binarizations | UnsetType = UNSET
    train_nll: NegativeLogLikelihood | UnsetType = UNSET
    bits_per_dimension: Number | UnsetType = UNSET
    data: DataDescription
    training: Training
    flags: dict[str, Any]
    versions: dict[str, Any]
    machine: str | UnsetType = UNSET

    @property
    def package_versions(self) -> dict[str, str]:
        """The versions that are texts, name -> version."""
        return {name: version for name, version in self.versions.items() if isinstance(version, str)}


class AnnealedImages(Struct, frozen=True, kw_only=True):
    """log p(x) of some images by annealed importance sampling, beside L_k; means over the images in nats.

    Attributes:
      num_images: the number of images.
      log_likelihood: by annealing; a lower bound in expectation.
      stderr_of_chains: the standard error of its mean that is due to the chains.
      importance_sampling: L_k for the same images.
      difference: log_likelihood minus L_k.
      effective_sample_size: of the chains of each image.
      acceptance: the share of accepted transitions of each image.
      upper: an upper bound in expectation, for images that were drawn from the model.
      gap: upper minus log_likelihood.
    """

    num_images: Count
    log_likelihood: Mean
    stderr_of_chains: Number
    importance_sampling: Mean
    difference: Mean
    effective_sample_size: Quantiles
    acceptance: Quantiles
    upper: Mean | UnsetType = UNSET
    gap: Mean | UnsetType = UNSET


class Annealing(Struct, frozen=True, kw_only=True):
    """What ais.json holds.

    Attributes:
      steps: the training steps of the model.
      num_samples: k of L_k.
      num_chains: chains of each image.
      flags: the flags of the command.
      test: the test images.
      simulated: images that were drawn from the model.
    """

    steps: Count
    num_samples: Count
    num_chains: Count
    flags: dict[str, Any]
    test: AnnealedImages
    simulated: AnnealedImages | UnsetType = UNSET


def to_json(struct: Struct) -> bytes:
    """Returns a struct as indented JSON.

    Raises:
      ValueError: a number is not finite.
    """
    return (json.dumps(msgspec.to_builtins(struct), indent=2, allow_nan=False) + "\n").encode()


def from_json(path, kind, remedy):
    """Reads a struct from a JSON file.

    Args:
      path: the file.
      kind: the struct's class.
      remedy: what a user can do about a damaged file.

    Returns:
      The struct.

    Raises:
      UserError: the file cannot be read, or does not hold such a struct.
    """
    try:
        return msgspec.convert(_read_json(path), kind)
    except msgspec.ValidationError as error:
        raise UserError(f"{path} is damaged ({error}); {remedy}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"Cannot read {path} ({error}); {remedy}.") from error


def _read_json(path):
    """The content of a JSON file; unlike msgspec's reader, this one accepts names of files that are not UTF-8."""
    content = json.loads(path.read_bytes(), parse_constant=_finite, parse_float=_finite)
    # Other surrogates than those of such names are damage.
    json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogateescape")
    return content


def _finite(text):
    if not math.isfinite(float(text)):
        raise ValueError(f"it has the number {text}")
    return float(text)
