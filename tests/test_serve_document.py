"""The OpenAPI document says what the server does: requests made from it, right and wrong ones, in this process.

The long form, against a server that runs: `st run http://127.0.0.1:8000/openapi.json --exclude-checks
positive_data_acceptance`. That check is left out since whether a text fits depends on the model.
"""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import positive_data_acceptance

from nano_llada.config.serving import ServingOptions
from nano_llada.serve.app import make_server
from nano_llada.serve.models import Models
from serving import writers

load_all_checks()
SOME = settings(
    max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
FEW = settings(SOME, max_examples=2)  # where hardly anything can differ


@pytest.fixture(scope="module")
def document():
    options = ServingOptions(max_tokens=8, max_choices=2)
    with Models(writers(("canvas", "ar", "editing")), options) as models:
        yield schemathesis.openapi.from_asgi("/openapi.json", make_server(models, options).application)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
def test_the_server_does_what_its_document_says(document, mode):
    statuses: dict[str, set[int]] = {}
    for found in document.get_all_operations():
        operation = found.ok()
        if mode == GenerationMode.NEGATIVE and operation.method != "post":
            continue  # there is nothing that could be wrong

        @(SOME if operation.method == "post" or list(operation.iter_parameters()) else FEW)
        @given(operation.as_strategy(generation_mode=mode))
        def send(case):
            answer = case.call_and_validate(excluded_checks=[positive_data_acceptance])
            statuses.setdefault(case.operation.label, set()).add(answer.status_code)

        send()
    if mode == GenerationMode.POSITIVE:
        assert len(statuses) == 10
        rare = ("{name}", "/v1/infill")  # a drawn name is hardly ever a model's, a drawn text hardly ever has a gap
        answered = {label: some for label, some in statuses.items() if not any(part in label for part in rare)}
        assert len(answered) == 8
        assert all(200 in some for some in answered.values()), statuses
    else:
        names = ("chat/completions", "completions", "infill", "score", "check")
        assert set(statuses) == {f"POST /v1/{name}" for name in names}
        assert all(some and max(some) < 500 and 200 not in some for some in statuses.values()), statuses
