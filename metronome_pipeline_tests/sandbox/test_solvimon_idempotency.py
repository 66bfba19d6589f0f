"""Idempotency keys of creates: replayed, forgotten, refused. Events take no part in them."""

import pytest

from metronome_pipeline_tests.sandbox.solvimon_account import Account, refusal

VALUE = {"reference": "calls", "name": "Calls", "type": "NUMBER"}


def test_a_create_is_replayed_under_its_key(account: Account) -> None:
    headers = {"Idempotency-Key": "key-1"}
    first = account.http.post("/v1/meter-values", json=VALUE, headers=headers)
    account.http.delete("/v1/meter-values/calls")
    second = account.http.post("/v1/meter-values", json=VALUE, headers=headers)
    assert (second.status_code, second.json()) == (201, first.json())
    assert second.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert account.get("/v1/meter-values")["data"] == []


def test_a_key_is_of_one_request(account: Account) -> None:
    headers = {"Idempotency-Key": "key-1"}
    account.http.post("/v1/meter-values", json=VALUE, headers=headers)
    other = account.http.post("/v1/meter-values", json={**VALUE, "reference": "b"}, headers=headers)
    refusal(other, 409, "IDEMPOTENCY_CHECK_FAILED")
    elsewhere = account.http.post("/v1/meter-properties", json=VALUE, headers=headers)
    refusal(elsewhere, 409, "IDEMPOTENCY_CHECK_FAILED")
    long = account.http.post("/v1/meter-values", json=VALUE, headers={"Idempotency-Key": "k" * 256})
    refusal(long, 400, "INVALID_FIELD", "Idempotency-Key")


def test_a_key_may_be_used_again_after_a_refusal(account: Account) -> None:
    headers = {"Idempotency-Key": "key-1"}
    assert account.http.post("/v1/meter-values", json={**VALUE, "type": "X"}, headers=headers).status_code == 400
    assert account.http.post("/v1/meter-values", json=VALUE, headers=headers).status_code == 201


def test_a_key_is_forgotten_after_48_hours(account: Account) -> None:
    headers = {"Idempotency-Key": "key-1"}
    account.http.post("/v1/meter-values", json=VALUE, headers=headers)
    account.set(now="2026-11-24T06:10:02Z")
    assert account.http.post("/v1/meter-values", json=VALUE, headers=headers).status_code == 201
    account.set(now="2026-11-24T06:10:03Z")
    again = account.http.post("/v1/meter-values", json=VALUE, headers=headers)
    refusal(again, 409, "RESOURCE_ALREADY_EXISTS", "reference")


def test_a_create_whose_answer_was_lost_is_replayed(account: Account) -> None:
    headers = {"Idempotency-Key": "key-1"}
    account.faults({"path": "/v1/meter-values", "kind": "html_200", "times": 1})
    assert "html" in account.http.post("/v1/meter-values", json=VALUE, headers=headers).text
    again = account.http.post("/v1/meter-values", json=VALUE, headers=headers)
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (201, "true")


@pytest.mark.parametrize("retryable", [True, False, None])
def test_a_500_says_whether_its_key_may_be_used_again(account: Account, retryable: bool | None) -> None:
    account.set(idempotency_retryable=retryable)
    account.faults({"path": "/v1/*", "kind": "status_500"})
    keyed = account.http.post("/v1/meter-values", json=VALUE, headers={"Idempotency-Key": "key-1"})
    assert keyed.headers.get("Idempotency-Retryable") == (None if retryable is None else str(retryable).lower())
    assert "Idempotency-Retryable" not in account.http.post("/v1/meter-values", json=VALUE).headers
