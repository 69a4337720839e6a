"""A run before it is begun: what it computes, needs and costs, counted on tensors that hold nothing."""
