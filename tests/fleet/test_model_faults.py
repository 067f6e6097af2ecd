from pathlib import Path

import pydantic
from pydantic import BaseModel, ConfigDict

from roadbits.fleet.model_faults import model_faults, models_in
from roadbits.fleet.yaml_file import read_yaml


class Leaf(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    weight: float


class Tree(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    leaves: list[Leaf] = []
    best: Leaf | None = None


def test_faults_have_the_line_and_the_words_of_their_model(tmp_path: Path) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text("leaves:\n  - {weight: heavy}\n  - weight: 1\n    weigth: 2\n")
    file = read_yaml(path)
    try:
        Tree.model_validate(file.values)
    except pydantic.ValidationError as error:
        faults = sorted(map(str, model_faults(Tree, "tree", file, file.values, error)))
    assert faults == [
        "1: name is missing",
        "2: leaves[0].weight input should be a valid number, got 'heavy'",
        "4: leaves[1].weigth is no key of a tree; did you mean weight?",
    ]


def test_models_are_found_through_unions_and_lists() -> None:
    assert models_in(Leaf | None) == [Leaf]
    assert models_in(dict[str, list[Leaf | Tree]]) == [Leaf, Tree]
    assert models_in(int | None) == []
