"""Statements of a billing period, customer by customer, and usage that Solvimon bills to nobody."""
