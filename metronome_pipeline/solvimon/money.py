"""What Solvimon says about money: predicted costs, wallets, entitlements, tax ids.

Here: the shapes of answers, in which the vendor's schema requires nothing. Quantities stay the texts that they are. Not
here: customers, meters and events (``records.py``), prices, invoices.
"""

from msgspec import Struct


class Amount(Struct, frozen=True, kw_only=True):
    """An amount of money: ``quantity`` is a decimal text, ``currency`` a code of ISO 4217."""

    quantity: str | None = None
    currency: str | None = None


class Credits(Struct, frozen=True, kw_only=True):
    """A number of credits, as a decimal text."""

    quantity: str | None = None
    credit_type_id: str | None = None


class CostDetails(Struct, frozen=True, kw_only=True):
    """What an event would add for one customer that pays: more than one may, where usage is forwarded."""

    customer_id: str | None = None
    invoice_id: str | None = None
    amount_excluding_tax: Amount | None = None
    amount_including_tax: Amount | None = None


class CostPrediction(Struct, frozen=True, kw_only=True):
    """What an event would cost. ``response`` is OK, FAILED or NOT_SUPPORTED: only OK comes with details."""

    response: str | None = None
    details: tuple[CostDetails, ...] | None = None


class WalletAmount(Struct, frozen=True, kw_only=True):
    """What is in a wallet: credits or money."""

    credits: Credits | None = None
    amount: Amount | None = None


class WalletBalance(Struct, frozen=True, kw_only=True):
    """The balances of one wallet at a moment."""

    balance: WalletAmount | None = None
    reserved_balance: WalletAmount | None = None
    open_balance: WalletAmount | None = None
    balance_at: str | None = None


class Wallet(Struct, frozen=True, kw_only=True):
    """One wallet of a customer."""

    wallet_id: str | None = None
    wallet_balance: WalletBalance | None = None


class WalletBalances(Struct, frozen=True, kw_only=True):
    """The wallets of a customer."""

    wallet_balances: tuple[Wallet, ...] | None = None
    balance_at: str | None = None


class Entitlement(Struct, frozen=True, kw_only=True):
    """One feature that a customer may use, with its value in the one field that fits its kind."""

    feature_id: str | None = None
    feature_reference: str | None = None
    number: str | None = None
    switch: bool | None = None
    amount: Amount | None = None
    enums: tuple[str, ...] | None = None
    strings: tuple[str, ...] | None = None


class SubscriptionEntitlements(Struct, frozen=True, kw_only=True):
    """What one subscription entitles to."""

    pricing_plan_subscription_id: str | None = None
    entitlements: tuple[Entitlement, ...] | None = None


class Entitlements(Struct, frozen=True, kw_only=True):
    """What a customer may use, altogether and by subscription."""

    entitlements: tuple[Entitlement, ...] | None = None
    pricing_plan_subscription_entitlements: tuple[SubscriptionEntitlements, ...] | None = None


class TaxIdValidation(Struct, frozen=True, kw_only=True):
    """Whether one tax id is valid: VALID, NOT_VALID or UNKNOWN, by whose word."""

    id: str | None = None
    valid: str | None = None
    source: str | None = None
    validation_date: str | None = None
    message: str | None = None


class TaxIdValidations(Struct, frozen=True, kw_only=True):
    """The answer about the tax ids of one customer."""

    data: tuple[TaxIdValidation, ...]
