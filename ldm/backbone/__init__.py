"""Networks (x_t, t, Condition) -> prediction."""
