"""The words of dataset restoration: which restorers, trained how, and what they have to beat.

Not here: the reference frames themselves (`camera_words`), what the words do (`dataset_restoration`).
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from roadbits.fleet.camera_words import FilePath
from roadbits.fleet.parts import Count, Part, Positive, Seed, distinct
from roadbits.fleet.rules import CodecChoice

LearnedKind = Literal["mse", "perceptual", "gan", "task"]
RestorerKind = Literal[LearnedKind, "unsharp", "dcngan"]
Remedy = Literal["augmentation", "references"]


class Restoration(Part):
    """Restoring the uploads before a segmenter trains on them.

    Attributes:
        restorers: `mse` for the least squared error, `perceptual` for what ImageNet's encoder sees of the original,
            `gan` for that and images that critics take for originals, `task` for what a segmenter computes on the
            original, `unsharp` for a filter tuned on the reference frames: all for stills. `dcngan` restores clips, by
            a network that is trained already.
        dcngan: the file of that network, `model.safetensors` of a training of kind `clip-restorer`. It should not have
            learned from frames that the fleet sends or is tested on.
        remedies: what can be done instead: `augmentation` blurs, sharpens and compresses the training frames at
            random, `references` trains on the reference frames too, where those are labelled.
        arms: restored alone, for example `jpeg:quality=10`, an adapted one `cae+federated:lambda=0.0009`; all arms if
            left out.
        trained_on: further codecs and points that the restorers learn beside the arms' own.
        only_trained_on: learn those alone, and none of the arms' own.
        reference_frames: learned from, evenly spaced among those that there are; all if left out.
        condition: what the restorers are told of an upload: the truth, nothing of its codec, or a wrong one, of stills
            the rate and point of another of the points they learned, of clips eight times the rate and the other end of
            the ladder. The last two are for comparison.
        untrained_codec: what to do with an arm whose codec no restorer learned: refuse the scenario, or restore with
            the codec untold and say so.
        channels: of the networks' finest scale.
        blocks: of each of three scales, finest first.
        first_steps: by pixels alone at most, one network for all restorers.
        steps: of each restorer after those at most, by its own loss: a restorer ends earlier once held-out reference
            frames no longer come nearer to their originals.
        batch_size: crops a step.
        crop: side of a crop, in pixels.
        learning_rate: of the restorers.
        seed: of weights, crops and noise.
        threads: of torch, on which the result depends.
    """

    restorers: Annotated[tuple[RestorerKind, ...], AfterValidator(distinct)] = Field(
        ("gan",), strict=False, min_length=1
    )
    dcngan: FilePath | None = None
    remedies: Annotated[tuple[Remedy, ...], AfterValidator(distinct)] = Field((), strict=False)
    arms: Annotated[tuple[str, ...], AfterValidator(distinct)] = Field((), strict=False)
    trained_on: tuple[CodecChoice, ...] = Field((), strict=False)
    only_trained_on: bool = False
    reference_frames: Count | None = None
    condition: Literal["told", "untold", "wrong"] = "told"
    untrained_codec: Literal["refuse", "warn"] = "refuse"
    channels: Annotated[int, Field(ge=4, le=256)] = 32
    blocks: Annotated[tuple[Count, Count, Count], Field(strict=False)] = (1, 2, 4)
    first_steps: Count = 800
    steps: Count = 800
    batch_size: Count = 8
    crop: Annotated[int, Field(ge=32, le=1024, multiple_of=8)] = 128
    learning_rate: Positive = 1e-3
    seed: Seed = 0
    threads: Count = 1

    @property
    def trained_kinds(self) -> tuple[LearnedKind, ...]:
        """The restorers that the run itself trains."""
        return tuple(kind for kind in self.restorers if kind != "unsharp" and kind != "dcngan")

    @property
    def learns(self) -> bool:
        """Whether anything is learned from reference frames."""
        return bool(self.restorers_for(sends_clips=False)) or "references" in self.remedies

    def restorers_for(self, sends_clips: bool) -> tuple[RestorerKind, ...]:
        """Return the restorers for what is sent as clips, or for stills."""
        return tuple(kind for kind in self.restorers if (kind == "dcngan") == sends_clips)
