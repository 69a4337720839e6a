"""The stages that a run can have, one class each."""
