"""The equation of motion of training: the flow that discrete steps follow, and steps that follow the gradient flow."""
