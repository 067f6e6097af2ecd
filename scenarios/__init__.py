"""The shipped scenarios, one YAML per question."""
