"""Adapting a codec to a new domain: small adapters that leave the source codec as it is."""
