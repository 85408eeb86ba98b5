"""`vggnet serve` against hostile bodies and against requests made from its own description."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import given as for_all
from schemathesis import GenerationMode, checks

from encoding import encoded
from hostile import corpus
from photos import photo
from serving import Serving, serving
from vggnet.serve.service import Limits

LIMITS = Limits(body=2_000_000, pixels=4_000_000, work=400_000, seconds=3, pictures=8)
PICTURE = encoded(photo(np.random.default_rng(0), 75, 100), "JPEG", quality=90)
CASES = int(os.environ.get("VGGNET_CASES", "150"))
"""Of requests made from the description; `make soak` takes 2,000."""
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
    checks.negative_data_rejection,
]
"""Not that all that fits the description is taken: a string of bytes need not be a picture."""


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(limits=LIMITS, patience=3) as running:
        yield running


def resident() -> float:
    """Megabytes of this process, in which the server is a thread."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1000


def test_hostile_bodies(server: Serving) -> None:
    whole = list(corpus())
    assert len(whole) >= 200
    wrong = {}
    memory = []
    for _ in range(2):
        for name, request, statuses in whole:
            response = server.raw(request)
            status = None if response is None else response.status
            if status not in statuses:
                wrong[name] = (status, None if response is None else response.body[:200])
        assert not wrong
        assert server.post("/v1/predict", PICTURE).status == 200
        assert server.batcher.taken == 0
        if Path("/proc/self/status").exists():
            memory.append(resident())
    if memory:  # what the first time took, for buffers, serves the second time too
        assert memory[1] - memory[0] < 30


@pytest.mark.soak
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_requests_made_from_the_description(
    server: Serving, mode: GenerationMode, record_property: Callable[[str, object], None]
) -> None:
    """Half of the cases keep to the description, the others break it in some place."""
    made: list[int] = []
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations: list[Any] = [one.ok() for one in schema.get_all_operations()]  # type: ignore[union-attr]
    # What has neither parameters nor a body cannot be asked for in two ways, and a name can be any.
    broken = mode is GenerationMode.NEGATIVE
    several = [
        one for one in operations if one.body or one.query or (one.path_parameters and not broken)
    ]
    each = -(-CASES // (2 * len(several)))
    for operation in several:

        @for_all(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=each,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def run(case: schemathesis.Case[Any]) -> None:
            response = case.call()
            made.append(response.status_code)
            assert response.status_code < 500 or response.status_code == 503
            case.validate_response(response, checks=CHECKS)

        run()
    assert len(made) >= CASES // 2 * 0.9
    record_property("requests", len(made))
    assert server.post("/v1/predict", PICTURE).status == 200
