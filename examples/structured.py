"""Answers that a program can read: JSON of a schema, a pattern, a template, and words, from any trained model.

python examples/structured.py runs/demo/diffusion-sft
"""

from __future__ import annotations

import json
import sys

import nano_llada
from nano_llada import Constraint

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "colour": {"enum": ["red", "green", "blue", "红", "绿", "蓝"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 20},
    },
    "required": ["name", "colour"],
}


def main(run: str) -> None:
    """Ask the same question in four forms."""
    model = nano_llada.load(run)
    question = "Tom has a red ball. What has Tom?"

    answer = model.generate(question, constraint=Constraint(json_schema=PERSON), max_new_tokens=60)
    print(json.loads(str(answer)))  # always possible: a text is valid when it is finished, within its length

    print(model.generate(question, constraint=Constraint(regex=r"An? [a-z]{3,8}( [a-z]{3,8})?\."), max_new_tokens=24))
    print(model.generate(question, constraint=Constraint(template="Tom has ___(a|the) ___{1,10}."), max_new_tokens=24))
    print(model.generate(question, constraint=Constraint(require="ball", ban=("red", "blue")), max_new_tokens=24))

    try:
        model.generate(question, constraint=Constraint(json_schema=PERSON), max_new_tokens=5)
    except nano_llada.UserError as error:
        print(error)  # names the shortest valid length


if __name__ == "__main__":
    main(sys.argv[1])
