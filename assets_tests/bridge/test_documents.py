"""The bridge's GraphQL documents are valid for Dagster's schema, and values are variables."""

import warnings

import pytest
from graphql import parse, validate

from tidemill_airflow import graphql as documents

DOCUMENTS = {
    name: text
    for name, text in vars(documents).items()
    if isinstance(text, str) and name.isupper() and "Tidemill" in text
}


@pytest.fixture(scope="module")
def schema() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dagster-graphql's dependencies warn on import
        from dagster_graphql.schema import create_schema

        return create_schema().graphql_schema


def test_there_are_documents() -> None:
    assert len(DOCUMENTS) >= 10


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_document_is_valid_for_dagsters_schema(schema: object, name: str) -> None:
    assert validate(schema, parse(DOCUMENTS[name])) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_value_of_a_document_is_a_variable(name: str) -> None:
    assert "%" not in DOCUMENTS[name]
    assert '"' not in DOCUMENTS[name]
