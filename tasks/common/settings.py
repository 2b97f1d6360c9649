"""All settings, typed, frozen and validated, with the unit or range of each. They live in
`params.yaml`."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tasks.common import files, portable
from tasks.common.errors import SettingsError
from tasks.common.language import Code

Share = Annotated[float, Field(gt=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1)]
GreyLevel = Annotated[int, Field(ge=0, le=255)]
PerChannel = Annotated[tuple[Fraction, ...], Field(min_length=1, max_length=3)]
PerChannelPositive = Annotated[tuple[Positive, ...], Field(min_length=1, max_length=3)]


TRAINED = "artifacts/train"
"""Where the stage `train` leaves its models."""


class Section(BaseModel):
    """A part of `params.yaml`: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


AnySection = TypeVar("AnySection", bound=Section)


class Data(Section):
    """The facts of the data set."""

    classes: int = Field(10, ge=2, description="number of classes; labels are 0 … classes - 1")
    channels: Literal[1, 3] = Field(1, description="1: images are read as grey, 3: as colour (RGB)")
    image_size: int = Field(16, ge=8, le=512, description="side that images are brought to, pixels")
    resize: Literal["stretch", "crop"] = Field(
        "stretch",
        description="how images are brought to a square: stretched, or the shorter side scaled and "
        "the middle cut out",
    )
    shorter_side: int | None = Field(
        None,
        ge=8,
        le=1024,
        description="with `resize: crop`: what the shorter side is scaled to, pixels; null: "
        "`image_size`",
    )
    interpolation: Literal["nearest", "bilinear", "bicubic"] = Field(
        "bilinear", description="filter by which images are scaled, antialiased"
    )
    orientation: Literal["apply", "ignore"] = Field(
        "apply",
        description="whether images are turned as EXIF or XMP says; `ignore` does as "
        "torchvision's own loader",
    )
    background: GreyLevel | Literal["ignore"] = Field(
        0,
        description="grey level that transparent pixels are laid on; 0: black; `ignore` takes the "
        "colours as they are without transparency, as torchvision's own loader",
    )
    white: float | None = Field(
        None,
        gt=0,
        description="value of white in images of more than 8 bits per channel; null: as the file "
        "says, else the largest of its type (floating point: 1)",
    )

    @model_validator(mode="after")
    def _fills_the_square(self) -> Data:
        if self.shorter_side is not None and self.shorter_side < self.image_size:
            raise ValueError("shorter_side is less than image_size, so the square is not filled")
        return self


class Split(Section):
    """How data subjects are divided if the manifest has no `split` column. The rest is for
    training."""

    calibration: Share = Field(
        0.09, description="share of subjects for tuning the unlearning, never judged with"
    )
    control: Share = Field(
        0.20, description="share of subjects whom no model sees, to compare with"
    )
    test: Share = Field(0.07, description="share of subjects for utility")

    @model_validator(mode="after")
    def _leaves_training(self) -> Split:
        if self.calibration + self.control + self.test > 0.8:
            raise ValueError(
                "calibration + control + test leave less than 0.2 of the subjects for training"
            )
        return self


class Model(Section):
    """The architecture."""

    name: str = Field(
        "small_cnn",
        min_length=1,
        description="`small_cnn`, a classifier of torchvision.models, or `package.module:factory`"
        " called as factory(classes=, channels=, image_size=)",
    )
    stem: Literal["plain", "small"] = Field(
        "plain",
        description="first layer of a torchvision classifier: `plain` is torchvision's own, "
        "`small` has stride 1 in the first convolution, for small images that are trained here",
    )
    preset: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_]+_Weights\.[A-Z0-9_]+$",
        description="weights of torchvision whose transforms give mean and std instead, such as "
        "`ResNet18_Weights.IMAGENET1K_V1`; data.image_size has to be their crop",
    )
    mean: Fraction | PerChannel = Field(
        0.5,
        description="subtracted from pixels in 0 … 1, one number or a list, one per channel; "
        "constants, so that they tell nothing",
    )
    std: Positive | PerChannelPositive = Field(
        0.5,
        description="pixels are divided by it after the mean is subtracted; one number or a list",
    )


class Train(Section):
    """The recipe, the same for the original model, the retrain baseline and all references."""

    epochs: int = Field(12, ge=1, le=1000, description="passes over the training records")
    batch_size: int = Field(64, ge=2, le=8192, description="records per step")
    learning_rate: float = Field(
        0.1, gt=0, le=10, description="peak of the one-cycle schedule, SGD"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov momentum")
    weight_decay: float = Field(5e-4, ge=0, lt=1, description="L2 penalty")
    warmup: Share = Field(0.25, description="share of the steps in which the learning rate rises")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of the label spread over all classes"
    )
    shift: int = Field(0, ge=0, le=64, description="augmentation: random shift, pixels at most")
    flip: bool = Field(False, description="augmentation: random horizontal flip")


class References(Section):
    """How many models are trained to judge with. A block of them is one stage; adding a block
    trains only that."""

    mode: Literal["batch", "pool", "hybrid"] = Field(
        "batch",
        description="`batch`: references trained for this batch; `pool`: a pool trained once for "
        "many batches, in the folder that `with_from` names (docs/pool.md); `hybrid`: the pool, "
        "and the few retrained models of `without_blocks`, which say where a retrained model of "
        "this batch lies",
    )
    seeds_per_block: int = Field(
        8, ge=1, le=256, description="models per block; block b holds seeds b·n … b·n + n - 1"
    )
    with_blocks: tuple[int, ...] = Field(
        (0, 1), description="blocks of models trained with everybody"
    )
    without_blocks: tuple[int, ...] = Field(
        (0, 1), description="blocks of models trained without the forget set"
    )
    with_from: str = Field(
        TRAINED,
        pattern=r"^[A-Za-z0-9._/-]+$",
        description="folder of the models trained with everybody; a release sets it to those of an "
        "earlier batch, so that none has to be trained; with `mode: pool` or `hybrid` the folder "
        "of the pool",
    )

    @field_validator("with_blocks", "without_blocks")
    @classmethod
    def _starts_at_zero(cls, blocks: tuple[int, ...]) -> tuple[int, ...]:
        if sorted(set(blocks)) != list(range(len(blocks))) or len(set(blocks)) < len(blocks):
            raise ValueError("expected the blocks 0, 1, 2, … each once")
        return blocks


class Pool(Section):
    """The pool of references that `erasure-audit pool` makes for many batches (docs/pool.md)."""

    blocks: tuple[int, ...] = Field(
        (),
        description="blocks of the pool that are made now; none: the stage is not part of an audit",
    )
    folds: int = Field(
        8, ge=3, le=64, description="models of a block, each trained without one fold of the people"
    )
    with_everybody: int = Field(
        1,
        ge=0,
        le=16,
        description="further models of a block, trained with everybody: they say how accuracy "
        "grows with people",
    )
    retrain: Literal["on_demand", "monthly", "always"] = Field(
        "on_demand",
        description="which batches that a pool judges are retrained exactly, too, with one model: "
        "`on_demand` leaves it to `references.without_blocks`; `monthly` the first batch of each "
        "month; `always` every batch. A run sets `references.without_blocks` and "
        "`references.seeds_per_block` by it",
    )

    @field_validator("blocks")
    @classmethod
    def _starts_at_zero(cls, blocks: tuple[int, ...]) -> tuple[int, ...]:
        if list(blocks) != list(range(len(blocks))):
            raise ValueError("expected the blocks 0, 1, 2, … each once")
        return blocks


class Original(Section):
    """Which model has to forget."""

    checkpoint: str = Field(
        "artifacts/train/0/seed-0.safetensors",
        pattern=r"\.safetensors$",
        description="the model in use; the default is the one that `train` makes, else your own "
        "or a released one",
    )
    accuracy: float | None = Field(
        None,
        gt=0,
        le=1,
        description="least accuracy on its own training records, by your own measurement; below it "
        "the run stops before anything else is trained",
    )
    prefix: str | None = Field(
        None,
        description="how the tensors' names begin in the copy that is in use, such as `ema.`, if "
        "the checkpoint holds several copies (weights and their moving average); `''`: the copy "
        "without a prefix",
    )


Method = Literal[
    "fcalb",
    "fcalb_plain",
    "fcalb_reset",
    "retrain",
    "none",
    "fine_tune",
    "neg_grad",
    "random_labels",
    "bad_teacher",
    "unsir",
    "scrub",
    "ssd",
    "salun",
    "delete",
    "amun",
    "msg",
    "ct",
    "lotus",
    "short_retrain",
    "distil",
]
Balance = Literal["uncertainty", "fixed", "gradnorm", "dwa", "imtl_g", "descent"]


class Rivals(Section):
    """Keys of `fcalb`, `fcalb_reset` and the rivals of FCALB; null: the method's own, see
    docs/methods.md."""

    epochs: float | None = Field(
        None, ge=0, le=1000, description="passes over the records that the method learns from"
    )
    learning_rate: float | None = Field(
        None, gt=0, le=10, description="peak of the one-cycle schedule"
    )
    retained_share: float | None = Field(
        None, gt=0, le=1, description="share of the retained records that may be used"
    )
    temperature: float | None = Field(
        None, gt=0, le=100, description="softens what teachers say, where there are any"
    )
    training_share: float = Field(
        0.25,
        gt=0,
        le=1,
        description="length of `short_retrain` and `distil`, as a share of `train.epochs`",
    )
    neg_grad_alpha: float = Field(
        0.95,
        gt=0,
        le=1,
        description="`neg_grad`: weight of retained records, the rest is the forgotten ones'",
    )
    unsir_noise_steps: int = Field(
        40, ge=0, le=10_000, description="`unsir`: steps in which noise is learned"
    )
    unsir_repair_rate: float = Field(
        0.01, gt=0, le=10, description="`unsir`: peak learning rate of the repair"
    )
    scrub_alpha: float = Field(
        0.5,
        ge=0,
        le=1000,
        description="`scrub`: weight of staying with the original's answers on retained records",
    )
    scrub_gamma: float = Field(
        1.0, ge=0, le=1000, description="`scrub`: weight of cross-entropy on retained records"
    )
    scrub_max_epochs: int = Field(
        3,
        ge=0,
        le=1000,
        description="`scrub`: epochs that open with a pass away from the original on forgotten "
        "records",
    )
    ssd_alpha: float = Field(
        10.0,
        gt=0,
        le=1e9,
        description="`ssd`: how many times more a weight has to matter for forgotten records to be "
        "dampened; none is where these are 1 / `ssd_alpha` of all or more",
    )
    ssd_lambda: float = Field(
        1.0, ge=0, le=1e9, description="`ssd`: dampening constant, lower dampens more"
    )
    salun_share: float = Field(
        0.5, gt=0, le=1, description="`salun`: share of the weights that may change"
    )
    amun_steps: int = Field(
        50, ge=1, le=10_000, description="`amun`: steps of the attack at each distance"
    )
    msg_share: float = Field(
        0.3, ge=0, le=1, description="`msg`: share of each convolution's weights that is drawn anew"
    )
    lotus_alpha: float = Field(
        8.0,
        ge=0,
        le=100,
        description="`lotus`: how fast the temperature grows with the forgotten records' accuracy",
    )
    lotus_unseen_accuracy: float | None = Field(
        None,
        ge=0,
        le=1,
        description="`lotus`: accuracy on unseen records, at which forgetting ends; null: 0, for a "
        "whole class",
    )


class Unlearn(Section):
    """How the original model is made to forget. The keys below `task` are for `fcalb_plain`, unless
    they name another method."""

    method: Method = Field(
        "fcalb",
        description="`fcalb` does what the `task` asks for (docs/methods.md); `fcalb_plain` does "
        "what the keys below say, by default as the paper's abstract has it; `fcalb_reset` moves "
        "weights and recovers, without a feature constraint; `retrain` trains anew without the "
        "forget set, `none` changes nothing, the rest are rivals",
    )
    task: Literal["auto", "people", "class"] = Field(
        "auto",
        description="what `fcalb` has to forget: records of people, or a whole class; `auto`: a "
        "class where the forget set holds all training records of one",
    )
    epochs: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="length of `fcalb_plain`, in passes over the retained records; of others: "
        "`rivals.epochs`",
    )
    batch_size: int = Field(
        64,
        ge=2,
        le=8192,
        description="records per step, of each of the two sets; `fcalb` and `fcalb_reset` "
        "take their own share of `train.batch_size` (docs/methods.md)",
    )
    learning_rate: float = Field(
        0.05,
        gt=0,
        le=10,
        description="peak of the one-cycle schedule, SGD, of `fcalb_plain`; of others: "
        "`rivals.learning_rate`",
    )
    retained_share: float = Field(
        0.3,
        gt=0,
        le=1,
        description="share of the retained records that `fcalb_plain` may use; others: "
        "`rivals.retained_share`",
    )
    taps: Literal["last", "all"] = Field(
        "last", description="features held to the random teacher: classifier's input, or all stages"
    )
    distance: Literal["mse", "cosine"] = Field("mse", description="distance between features")
    balance: Balance = Field(
        "uncertainty",
        description="how the losses are weighed: learned (Kendall et al. 2018), fixed, by "
        "GradNorm, DWA or IMTL-G, or by the descent of recovery",
    )
    forget_weight: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="weight of the forget loss beside 1 for recovering, where `balance` is fixed; "
        "with `descent` in units of the first recovery loss",
    )
    max_log_weight: float = Field(
        3.0,
        ge=0,
        le=20,
        description="clamp of the learned or adapted log weights, so that no loss takes over",
    )
    descent_end: float = Field(
        0.85,
        ge=0,
        lt=1,
        description="balance `descent`: share of its first value at which the recovery loss ends "
        "the constraint",
    )
    teacher_mode: Literal["train", "eval"] = Field(
        "train", description="batch-norm mode of the random teacher"
    )
    reset: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the way to the random teacher that weights move before the first "
        "step; 0: none, or the method's own with `fcalb` for people and `fcalb_reset`",
    )
    reset_until: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="instead of `reset`: weights move until the loss on retained records is this "
        "share of that of a model that knows nothing; 0: not used, or the method's own with "
        "`fcalb` for people",
    )
    resets: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (),
        max_length=16,
        description="values of `reset` that are all tried; calibration subjects choose between "
        "them. Empty: `reset`",
    )
    phases: Literal["joint", "forget_recover"] = Field(
        "joint",
        description="forget and recover in each step, or forget first and then recover for "
        "`epochs`",
    )
    forget_steps: int = Field(
        40, ge=0, le=100_000, description="steps of the phase that only forgets"
    )
    forget_rate: float = Field(
        0.003, gt=0, le=10, description="peak learning rate of the phase that only forgets, SGD"
    )
    rivals: Rivals = Rivals()

    @model_validator(mode="after")
    def _resets_in_one_way(self) -> Unlearn:
        if self.reset_until and (self.reset or self.resets):
            other_key = "reset" if self.reset else "resets"
            raise ValueError(
                f"got unlearn.{other_key} beside unlearn.reset_until; expected one of them: set "
                "the other to 0 or []"
            )
        return self


FIRST, RETRAIN = "first", "retrain"
"""Rungs of the ladder that always exist: the model of the stage `unlearn`, and the exact retrain
that the stage `retrain` trains anyway."""


OF_RUNG_REFERENCES = frozenset({"mode", "with_blocks", "without_blocks"})
"""Keys of `references` that a rung of the ladder may change."""


class Rung(Section):
    """One further try, made if the rung before did not pass: another unlearning of the original
    model, more references to judge it with, or both."""

    after: str = Field(description="the rung before it; the lowest comes after `first`")
    unlearn: dict[str, Any] = Field(
        {},
        description="keys of `unlearn` with other values on this rung; none: those of the rung "
        "before",
    )
    references: dict[str, Any] = Field(
        {},
        description="keys of `references` that have other values on this rung and on those after "
        "it: more blocks, or `mode: hybrid` where a pool judges",
    )

    @model_validator(mode="after")
    def _changes_something(self) -> Rung:
        if not self.unlearn and not self.references:
            raise ValueError("a rung changes nothing; expected keys under unlearn or references")
        if strange := sorted(set(self.references) - OF_RUNG_REFERENCES):
            raise ValueError(
                f"references.{strange[0]} cannot change on a rung; expected one of "
                f"{', '.join(sorted(OF_RUNG_REFERENCES))}"
            )
        return self


class Ladder(Section):
    """What is tried without asking, rung by rung, if the unlearned model does not pass for every
    request of the batch."""

    rungs: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")], Rung] = Field(
        {},
        max_length=8,
        description="further tries by name, `{after, unlearn, references}`: the rung before, "
        "`first` for the lowest, and keys of `unlearn` or `references` with other values. Each "
        "takes a share of `verify.alpha` (docs/verification.md)",
    )
    budget: float = Field(
        1.0,
        ge=0,
        le=100,
        description="what all rungs of `rungs` may cost together, in trainings from scratch; each "
        "further reference counts 1. A rung beyond it, and those after it, are not tried",
    )
    retrain: bool = Field(
        True,
        description="whether the exact retrain, which is trained in any case, is judged as the last"
        " rung",
    )

    @model_validator(mode="after")
    def _is_one_way_up(self) -> Ladder:
        if reserved := sorted({FIRST, RETRAIN} & set(self.rungs)):
            raise ValueError(f"a rung cannot be called {reserved[0]}; choose another name")
        if unreachable := sorted(set(self.rungs) - set(self.order)):
            raise ValueError(
                f"rungs.{unreachable[0]} comes after {self.rungs[unreachable[0]].after!r}; "
                f"expected a chain: one rung after `{FIRST}`, and one after each further rung"
            )
        return self

    @property
    def order(self) -> list[str]:
        """The names of `rungs`, the lowest first, without unreachable ones."""
        above: dict[str, list[str]] = {}
        for name, rung in self.rungs.items():
            above.setdefault(rung.after, []).append(name)
        names_in_order, current = list[str](), FIRST
        while len(names := above.pop(current, [])) == 1:
            current = names[0]
            names_in_order.append(current)
        return names_in_order


class Verify(Section):
    """What counts as forgotten. Fix these before the run."""

    mode: Literal["references", "screening"] = Field(
        "references",
        description="`screening` needs no references and can say *fail* or *nothing found*, but "
        "never *pass*",
    )
    alpha: float = Field(
        0.05,
        gt=0,
        le=0.2,
        description="error rate of each test; a false pass is at most this likely",
    )
    rho0: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="margin of the residual influence: a pass says -rho0 < rho < rho0",
    )
    memorised: float = Field(
        0.7,
        gt=0,
        le=1,
        description="share of the records in the test of those that look most remembered",
    )
    utility_margin: float = Field(
        0.05, gt=0, lt=1, description="accuracy that may be lost against the retrained models' mean"
    )
    min_references: int = Field(
        6, ge=4, description="fewest references of each kind that a verdict may stand on"
    )
    views: tuple[Literal["copies", "tuned", "relearned", "features"], ...] = Field(
        ("copies", "relearned", "features"),
        description="further views of the records, in which a model that passes may remember no "
        "more than retrained models: changed copies, after further training on retained records, "
        "after the other half was learned again, in the features; docs/verification.md has what "
        "each stops and costs. The stage `score` makes them; a pool, which keeps no weights, is "
        "not asked",
    )
    alike: bool = Field(
        True,
        description="whether a pass needs accuracy, confidence and the attacks' figures in the "
        "range of retrained models; a pool, whose models saw fewer people, is not asked",
    )
    unlike: float = Field(
        0.05,
        gt=0,
        le=0.2,
        description="probability that a model that never saw the records lies outside the "
        "retrained models' range in some view or figure, all together",
    )
    alike_resolution: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="an accuracy closer to the retrained models' mean than this is alike, however "
        "little they differ",
    )


class AdviceLimits(Section):
    """When a full retrain is advised. It changes no verdict; docs/methods.md explains the
    limits."""

    unlearnings: int = Field(
        4,
        ge=1,
        description="unlearnings since the last training from scratch, this batch's included",
    )
    forgotten_share: float = Field(
        0.25,
        gt=0,
        le=1,
        description="share of the records of the last training from scratch that are forgotten "
        "since",
    )
    accuracy_loss: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="accuracy lost against the retrained models' mean, beyond what chance explains",
    )


class Recipient(Section):
    """Someone to whom the data were disclosed, who has to be told of an erasure (Art. 19 GDPR)."""

    name: str = Field(min_length=1)
    disclosed: str = Field(min_length=1, description="what was disclosed")


class Processor(Section):
    """Someone who processes the data on behalf of the controller."""

    name: str = Field(min_length=1)
    task: str = Field(min_length=1, description="what it does with the data")


class Backup(Section):
    """A backup that holds the records."""

    name: str = Field(min_length=1)
    days: int = Field(ge=0, description="days after an erasure in which it is overwritten")


class OutOfScopeModel(Section):
    """A model that the audit says nothing about."""

    model: str = Field(min_length=1)
    why: str = Field(min_length=1)


class Retention(Section):
    """How long something that the tool makes of a request is kept."""

    what: str = Field(min_length=1, description="as the report, the scores or the pseudonyms")
    period: str = Field(min_length=1, description="how long, and from when")


class Decider(Section):
    """In which role people decide on requests, and why they can."""

    role: str = Field(min_length=1)
    competence: str = Field(min_length=1, description="what qualifies them")
    independence: str = Field(min_length=1, description="of whom, and how that is kept")


class DerivedModel(Section):
    """A model that was made from the original one, or handed on."""

    model: str = Field(min_length=1)
    to: str = Field(min_length=1, description="whom it went to")
    recall: str = Field(min_length=1, description="what became of its recall")


class Report(Section):
    """What the report says of the organisation, and what only the organisation knows."""

    controller: str = Field(
        "Example controller (set report.controller)",
        min_length=1,
        description="who is responsible for the data",
    )
    system: str = Field(
        "Image classifier",
        min_length=1,
        description="the model's name in the records of processing",
    )
    languages: tuple[Code, ...] = Field(
        ("en",),
        min_length=1,
        description="languages of the reports, the main one first; a request can ask for more",
    )
    holidays: tuple[date, ...] = Field(
        (),
        description="public holidays, ISO dates: a deadline on one moves to the next working day",
    )
    identity_check: str = Field(
        "",
        description="how identities are checked before a request reaches this tool; name no person",
    )
    recipients: tuple[Recipient, ...] = Field(
        (), description="to whom the data were disclosed, a list of `{name, disclosed}`"
    )
    processors: tuple[Processor, ...] = Field(
        (), description="who processes the data for you, `{name, task}`"
    )
    backups: tuple[Backup, ...] = Field(
        (),
        description="backups with the records, `{name, days}`: days after an erasure until it is "
        "overwritten",
    )
    out_of_scope: tuple[OutOfScopeModel, ...] = Field(
        (),
        description="models made from the data, or from the original model, that this audit is not "
        "about, `{model, why}`",
    )
    letters: str = Field(
        "letters",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$",
        description="folder in `reports/templates` with the letters to data subjects; what it lacks"
        " is taken from `letters`",
    )
    contact: str = Field("", description="where data subjects can ask, for their letters")
    authority: str = Field(
        "", description="the supervisory authority in charge, for the letters; name and address"
    )
    processing_record: str = Field(
        "", description="the entry in the records of processing activities (Art. 30 GDPR)"
    )
    deletion_rule: str = Field(
        "", description="the rule by which these data are deleted (ISO/IEC 27555), or its number"
    )
    retention: tuple[Retention, ...] = Field(
        (),
        description="how long reports, scores and pseudonyms themselves are kept, `{what, period}`",
    )
    deciders: tuple[Decider, ...] = Field(
        (), description="who decides on requests, `{role, competence, independence}`"
    )
    derived_models: tuple[DerivedModel, ...] = Field(
        (),
        description="models derived from the original one, or handed on, `{model, to, recall}`",
    )


class Operate(Section):
    """The daily operation. Nothing here changes a verdict or makes a stage stale."""

    identities: Literal["here", "before"] = Field(
        "here",
        description="where identities are checked: a person says so with `erasure-audit requests "
        "verify`, or before a"
        " request reaches this tool (then `report.identity_check` has to say how)",
    )
    batch_from: int = Field(
        1, ge=1, description="verified requests that have to wait before a batch is begun"
    )
    batch_days_left: int = Field(
        21,
        ge=0,
        description="days before the nearest deadline at which a batch begins, however few "
        "requests wait",
    )
    largest_batch: int = Field(200, ge=1, le=100_000, description="requests in a batch at most")
    four_eyes: bool = Field(
        False, description="a release needs the approvals of two different people"
    )
    erase_after_release: bool = Field(
        True, description="`finalize` erases the copies right after a release"
    )
    time_stamps: str | None = Field(
        None,
        pattern=r"^https?://\S+$",
        description="address of a time-stamping authority (RFC 3161), asked whenever reports are "
        "signed and the end of the register's chain is kept in git; null: none is asked",
    )
    require_time_stamps: bool = Field(
        False,
        description="a signed report without a time stamp by an authority of `trusted-tsa/` does "
        "not count",
    )
    warn_days: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (7, 2), description="days before a deadline at which somebody is notified"
    )
    stuck_hours: float = Field(
        12, gt=0, description="a run that shows no sign of life for so long is reported"
    )

    @field_validator("warn_days")
    @classmethod
    def _falls(cls, days: tuple[int, ...]) -> tuple[int, ...]:
        if list(days) != sorted(set(days), reverse=True):
            raise ValueError("expected different numbers of days, the largest first")
        return days


class Compute(Section):
    """Where and how the arithmetic is done. Part of the parameters because it decides the last bits
    of a result."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: CUDA where there is one"
    )
    threads: int = Field(
        1, ge=1, le=256, description="CPU threads of a stage; blocks run side by side"
    )
    precision: Literal["auto", "float32", "tf32", "bf16"] = Field(
        "float32",
        description="of products and convolutions in training; tf32: on CUDA only; auto: bf16 "
        "where the hardware multiplies it, so a result depends on the machine",
    )
    portable: bool = Field(
        True,
        description="with float32 on x86-64, fixed instruction sets (AVX2), so that another "
        "processor comes to the same bits; docs/models.md has what was seen and what it costs",
    )
    together: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        "auto",
        description="models of a block trained at once in one process, `auto` or a number; auto: "
        "one, until stacks have been tried on a GPU; models of a pool four, where they are a plain "
        "chain of layers on a processor",
    )

    def environment(self) -> dict[str, str]:
        """The environment variables that make a stage's arithmetic portable."""
        is_wanted = self.portable and self.precision == "float32"
        return portable.VARIABLES if is_wanted and portable.possible() else {}

    def is_portable(self) -> bool:
        """Whether this process was started with `environment`, and it is not empty."""
        return bool(self.environment()) and portable.holds()


class Settings(Section):
    """The whole of `params.yaml`."""

    batch: str = Field(
        "demo",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="the batch at hand: requests/<batch>.json",
    )
    seed: int = Field(0, ge=0, description="root of every random stream")
    data: Data = Data()
    split: Split = Split()
    model: Model = Model()
    train: Train = Train()
    references: References = References()
    pool: Pool = Pool()
    original: Original = Original()
    unlearn: Unlearn = Unlearn()
    ladder: Ladder = Ladder()
    verify: Verify = Verify()
    advice: AdviceLimits = AdviceLimits()
    report: Report = Report()
    operate: Operate = Operate()
    compute: Compute = Compute()

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Settings:
        for key in ("mean", "std"):
            values = getattr(self.model, key)
            if isinstance(values, tuple) and len(values) != self.data.channels:
                raise ValueError(
                    f"model.{key} has {len(values)} values, expected one number or one per "
                    f"channel, and data.channels is {self.data.channels}"
                )
        _require_references(self)
        if self.operate.identities == "before" and not self.report.identity_check:
            raise ValueError(
                "operate.identities is before, so report.identity_check has to say how they are "
                "checked"
            )
        tried = [(self.unlearn, self.references)]
        for name in self.ladder.order:
            on_rung = self.on_rung(name)
            if self.ladder.rungs[name].references:
                _require_more(on_rung, name, tried[-1][1])
            tried.append((on_rung.unlearn, on_rung.references))
            if tried[-1] in tried[:-1]:
                raise ValueError(f"ladder.rungs.{name} is the same as a rung below it")
        return self

    def on_rung(self, name: str) -> Settings:
        """The settings on a rung of the ladder.

        A rung that changes nothing of `unlearn` takes that of the rung below it. References stay:
        what one rung adds, those above it judge with as well.

        Args:
            name: of the rung; on `first` and `retrain` nothing is changed.

        Raises:
            ValueError: the rung changes a key that does not exist, or a value is out of range;
                names the key.
        """
        if name not in self.ladder.order:
            return self
        rung = self.ladder.rungs[name]
        below = self.on_rung(rung.after)
        unlearn, references = below.unlearn, below.references
        if rung.unlearn:
            unlearn = _changed(self.unlearn, rung.unlearn, f"ladder.rungs.{name}.unlearn")
        if rung.references:
            where = f"ladder.rungs.{name}.references"
            references = _changed(references, rung.references, where)
        return self.model_copy(update={"unlearn": unlearn, "references": references})


def _require_references(settings: Settings) -> None:
    """See that the models to judge with can be made and suffice."""
    references = settings.references
    exemption = "verify.mode=screening needs no references"
    needs = settings.verify.mode != "screening" and references.mode == "batch"
    if not references.without_blocks and needs:
        raise ValueError(f"references.without_blocks is empty; only {exemption}")
    if not references.with_blocks and (
        references.with_from == TRAINED or references.mode != "batch"
    ):
        if needs:
            raise ValueError(f"references.with_blocks is empty; only {exemption}")
        if settings.original.checkpoint.startswith(TRAINED):
            raise ValueError(
                "references.with_blocks is empty, so no stage makes original.checkpoint"
            )
    if references.mode != "batch" and references.with_from == TRAINED:
        raise ValueError(
            f"references.mode is {references.mode}, so references.with_from has to name the "
            "pool's folder, such as references/pool; `erasure-audit pool` makes it"
        )
    retrained = len(references.without_blocks) * references.seeds_per_block
    if references.mode == "hybrid" and retrained < 2:
        raise ValueError(
            f"references.mode is hybrid, and references.without_blocks makes {retrained} retrained "
            "models; expected at least 2, such as without_blocks [0] with seeds_per_block 4"
        )
    if references.mode == "batch" and references.with_blocks and references.with_from != TRAINED:
        raise ValueError(
            f"references.with_from is not {TRAINED}, so references.with_blocks has to be []"
        )


def _require_more(settings: Settings, name: str, below: References) -> None:
    """See that a rung judges with the references of the rung below it and with more."""
    where, references = f"ladder.rungs.{name}.references", settings.references
    if settings.verify.mode == "screening":
        raise ValueError(f"{where}: verify.mode=screening needs no references")
    if not below.without_blocks:
        raise ValueError(
            f"{where}: references.without_blocks is empty, expected at least block 0: it holds "
            "the exact retrain, which the test checks itself with"
        )
    for key in ("with_blocks", "without_blocks"):
        if len(getattr(references, key)) < len(getattr(below, key)):
            raise ValueError(f"{where}.{key} has fewer blocks than the rung below")
    if references.mode != below.mode and (below.mode, references.mode) != ("pool", "hybrid"):
        raise ValueError(
            f"{where}.mode: got {references.mode} after {below.mode}; only a pool can become hybrid"
        )
    if references.mode != "batch" and references.with_blocks != below.with_blocks:
        raise ValueError(
            f"{where}.with_blocks: a pool has its own models with the records; expected "
            "without_blocks"
        )
    try:
        _require_references(settings)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _changed(section: AnySection, changes: dict[str, Any], where: str) -> AnySection:
    """A section with some keys changed. Raises `ValueError` that names the key at fault."""
    try:
        return type(section).model_validate(_merged(section.model_dump(), changes))
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join((where, *map(str, fault["loc"])))
        raise ValueError(f"{key}: got {fault['input']!r}; {fault['msg']}") from None


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries with some keys changed."""
    merged = dict(values)
    for key, value in changes.items():
        inner = merged.get(key)
        nested = isinstance(inner, dict) and isinstance(value, dict)
        merged[key] = _merged(inner, value) if nested and inner is not None else value
    return merged


def load(path: Path) -> Settings:
    """Read and validate `params.yaml`.

    Raises:
        SettingsError: the file is missing, is no YAML, or a key is unknown, missing or out of
            range; names the key.
    """
    return parse(_read(path), where=str(path))


def parse(values: dict[str, Any], where: str = "settings") -> Settings:
    """Validate settings given as nested dictionaries. Raises `SettingsError` that names the first
    keys at fault."""
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        faults = []
        for fault in error.errors():
            key = ".".join(str(part) for part in fault["loc"]) or "(top)"
            if fault["type"] == "extra_forbidden":
                faults.append(f"{key}: unknown key{_suggestion(key)}")
            else:
                faults.append(f"{key}: got {fault['input']!r}; {fault['msg']}")
        raise SettingsError(
            f"{where}: " + "; ".join(faults) + ". docs/settings.md lists every key"
        ) from None


def flat(section: Section, prefix: str = "") -> dict[str, Any]:
    """The settings by dotted name."""
    values: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            values |= flat(value, f"{prefix}{name}.")
        else:
            values[prefix + name] = value
    return values


def _suggestion(key: str) -> str:
    """Suggest keys that an unknown one resembles: the same name in another section, or a similar
    one."""
    from difflib import get_close_matches

    all_keys = list(flat(Settings()))
    sections = {name.rpartition(".")[0] for name in all_keys} - {""}
    leaf = key.rpartition(".")[2]
    candidates = [name for name in all_keys if name.rpartition(".")[2] == leaf]
    candidates = candidates or get_close_matches(key, [*all_keys, *sections], n=1, cutoff=0.75)
    if not candidates:
        leaves = {name.rpartition(".")[2]: name for name in all_keys}
        candidates = [leaves[name] for name in get_close_matches(leaf, leaves, n=1, cutoff=0.75)]
    return f" (did you mean {' or '.join(candidates[:3])}?)" if candidates else ""


def assign(path: Path, assignments: list[str]) -> Settings:
    """Change keys of `params.yaml` in place, comments kept, and only if the result is valid.

    Args:
        path: the file.
        assignments: `section.key=value`, the value in YAML.

    Returns:
        The settings after the change.

    Raises:
        SettingsError: an assignment has no `=`, or names an unknown key or a value out of range;
            nothing is written.
    """
    from io import StringIO

    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.representer import RoundTripRepresenter

    class NullStaysNull(RoundTripRepresenter):
        """Writes `null`, where ruamel leaves the value out."""

    NullStaysNull.add_representer(
        type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.Representer = NullStaysNull
    document: Any = yaml.load(path.read_text(encoding="utf-8")) if path.exists() else {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise SettingsError(
                f"got {assignment!r}, expected key=value, as in unlearn.method=retrain"
            )
        *sections, leaf = key.split(".")
        section_values = document
        for section in sections:
            section_values = section_values.setdefault(section, {})
            if not isinstance(section_values, dict):
                raise SettingsError(
                    f"{key}: unknown key{_suggestion(key)}. docs/settings.md lists every key"
                )
        try:
            section_values[leaf] = YAML(typ="safe").load(text)
        except YAMLError as error:
            raise SettingsError(f"{key}: got {text!r}, expected a YAML value") from error
    settings = parse(document, where="--set")
    out = StringIO()
    yaml.dump(document, out)
    files.write_text(path, out.getvalue())
    return settings


def non_defaults(settings: Settings) -> dict[str, Any]:
    """The settings of an audit that differ from their defaults, by dotted key, without `batch` and
    `operate`."""
    defaults = flat(Settings())
    return {
        key: value
        for key, value in flat(settings).items()
        if value != defaults[key] and key != "batch" and not key.startswith("operate.")
    }


def defaults_yaml() -> str:
    """The text of a `params.yaml` with every default and its description as a comment."""
    lines = [
        "# The parameters of the batch at hand. docs/settings.md explains them; DVC versions them "
        "with every audit.",
        *_yaml_lines(Settings, ""),
    ]
    return "\n".join(lines) + "\n"


def _yaml_lines(section: type[Section], indent: str) -> list[str]:
    """The keys of a section; the sections of the first level are set apart by an empty line."""
    import json

    lines = []
    for key, field in section.model_fields.items():
        if isinstance(field.default, Section):
            title = " ".join((type(field.default).__doc__ or "").partition("\n\n")[0].split())
            lines += [*([] if indent else [""]), f"{indent}{key}:  # {title}"]
            lines += _yaml_lines(type(field.default), indent + "  ")
        else:
            lines.append(f"{indent}{key}: {json.dumps(field.default)}  # {field.description}")
    return lines


def _read(path: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        values = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(f"{path}: no such file; `erasure-audit init` makes one") from error
    except (UnicodeDecodeError, YAMLError) as error:
        raise SettingsError(f"{path}: expected YAML in UTF-8 ({error})") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: got {type(values).__name__}, expected keys and values")
    return values
