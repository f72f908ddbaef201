"""404 and 405: a page for people at a browser, problem details for programs."""

import pytest
from flask.testing import FlaskClient

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("DELETE", "/api/health", 405)]
)
def test_a_browser_gets_a_page_and_a_program_problem_details(
    client: FlaskClient, method: str, path: str, status: int
) -> None:
    page = client.open(path, method=method, headers=BROWSER)
    assert (page.status_code, page.mimetype) == (status, "text/html")
    assert "/api/docs" in page.text
    assert "Accept" in page.headers["Vary"]
    assert page.headers["X-Request-ID"] in page.text

    problem = client.open(path, method=method, headers={"Accept": "*/*"})
    assert (problem.status_code, problem.mimetype) == (status, "application/problem+json")
    assert problem.headers.get("Allow") == page.headers.get("Allow")


def test_a_page_repeats_nothing_that_the_caller_wrote(client: FlaskClient) -> None:
    page = client.get("/<script>alert(1)</script>", headers=BROWSER)
    assert "alert" not in page.text
